"""One interface for everything that is compared: fit on a data set, predict for a table, estimate averages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from effects.datasets import CausalDataset
from effects.estimator import EffectEstimator
from effects.inference import estimate_atc, estimate_ate, estimate_ato, estimate_att
from effects.models import _ESTIMATORS
from effects.outcomes import PotentialOutcomes

Array = NDArray[np.float64]
#: What our estimators import only when they are fitted.
_LATE = {"EconML": ("econml.dml",), "BART": ("stochtree",), "BCF": ("stochtree",)}

#: value, standard error, lower and upper limit of an average effect; NaN where a method has none.
Average = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a method says of some units; None where it says nothing.

    Attributes
    ----------
    cate : ndarray of shape (n_samples,), or (n_samples, n_arms - 1) with more than two arms
        Effects against the control arm.
    interval : tuple of two ndarrays of the shape of `cate`, optional
        Of the CATE, at the level that was asked for.
    outcomes : PotentialOutcomes, optional
        The laws of the outcomes.
    """

    cate: Array
    interval: tuple[Array, Array] | None = None
    outcomes: PotentialOutcomes | None = None


class Method(ABC):
    """What is compared. Adapters are thin: they translate, and add nothing to what they wrap."""

    @abstractmethod
    def load(self) -> None:
        """Import what fitting needs, so that the clock does not measure it."""

    @abstractmethod
    def fit(self, data: CausalDataset) -> Method:
        """Fit on the table, its treatment and its observed outcome; the truth is not looked at."""

    @abstractmethod
    def predict(self, X: pd.DataFrame, level: float) -> Prediction:
        """Effects, their intervals and the outcomes' laws of the units of a table."""

    def averages(self, data: CausalDataset, level: float) -> dict[str, Average]:
        """Average effects on the rows that were fitted, by estimand: "ate", and whichever else the method knows."""
        nan = float("nan")
        return {"ate": (float(np.mean(self.predict(data.X, level).cate)), nan, nan, nan)}


def estimator_class(name: str) -> type[EffectEstimator]:
    """An estimator of this package by its name."""
    found: type[EffectEstimator] = getattr(import_module(_ESTIMATORS[name]), name)
    return found


class Ours(Method):
    """An estimator of this package; average effects come from cross-fitted AIPW.

    Examples
    --------
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(300, random_state=0)
    >>> Ours("GComputation", {}, seed=0).fit(data).predict(data.X, 0.9).cate.shape
    (300,)
    """

    def __init__(self, name: str, params: Mapping[str, Any], seed: int) -> None:
        self.name = name
        made = estimator_class(name)
        if "random_state" in params:
            raise ValueError(f"{name}: the seed is no setting of a run; give it as seed (--seeds).")
        chosen_params(dict.fromkeys(made._get_param_names()), params, name)
        self.estimator: EffectEstimator = made(**params, random_state=seed)

    def load(self) -> None:
        for module in _LATE.get(self.name, ()):
            import_module(module)

    def fit(self, data: CausalDataset) -> Ours:
        est = self.estimator.set_params(outcome=data.kind, control=data.arms[0])
        est.fit(data.X, data.y, treatment=data.treatment)
        return self

    def predict(self, X: pd.DataFrame, level: float) -> Prediction:
        outcomes = self.estimator.predict_outcomes(X)
        effects = [outcomes.effect(arm) for arm in outcomes.arms[1:]]
        limits = [effect.interval(level) for effect in effects]
        cate = np.stack([effect.mean for effect in effects], axis=1)
        lower, upper = (np.stack([one[side] for one in limits], axis=1) for side in (0, 1))
        if len(effects) == 1:
            cate, lower, upper = cate[:, 0], lower[:, 0], upper[:, 0]
        # an estimator without standard errors has one member, and intervals of no width: it gives none
        point = outcomes.member_means().shape[0] == 1 and not (upper > lower).any()
        return Prediction(cate, None if point else (lower, upper), outcomes)

    def averages(self, data: CausalDataset, level: float) -> dict[str, Average]:
        asked = {"ate": estimate_ate, "att": estimate_att, "atc": estimate_atc, "ato": estimate_ato}
        found = {}
        for name, estimate in asked.items():
            one = estimate(self.estimator, data.X, data.y, treatment=data.treatment, level=level)
            lower, upper = one.interval()
            found[name] = (float(one.value), float(one.se), float(lower), float(upper))
        return found


def chosen_params(known: Mapping[str, Any], given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Settings of an adapter, with those that were given in place of its own; an unknown one is an error."""
    unknown = [key for key in given if key not in known]
    if unknown:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise ValueError(f"{name} has no setting {unknown[0]!r}: {has}.")
    return {**known, **given}
