"""What every average rests on: checked rows of a table, with what held-out models say of them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from effects.inference.checks import (
    FloatArray,
    IntArray,
    check_array,
    check_clusters,
    check_probabilities,
    check_received,
    check_weights,
    effective_size,
)

if TYPE_CHECKING:
    from effects.outcomes import PotentialOutcomes
    from effects.schema import Schema

#: Below this propensity a single row weighs as much as a hundred: the average is reported, with a warning.
LOW_PROPENSITY = 0.01
#: An arm whose rows weigh as less than this share of their number carries the average on too few.
THIN_SHARE = 0.05


class HeldOut(Protocol):
    """Held-out predictions of rows, as `effects.nuisance.CrossFitted` has them."""

    @property
    def mu(self) -> FloatArray: ...

    @property
    def propensity(self) -> FloatArray: ...

    @property
    def outcomes(self) -> PotentialOutcomes | None: ...


class CrossFitting(Protocol):
    """What inference needs of a fitted estimator: its encoding, its arms and held-out predictions."""

    @property
    def schema_(self) -> Schema: ...

    @property
    def arms_(self) -> tuple[Hashable, ...]: ...

    def cross_fitted(
        self,
        X: Any,
        y: Any,
        *,
        treatment: Any,
        sample_weight: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> HeldOut: ...


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows with their outcomes, arms and held-out predictions, all checked.

    Attributes
    ----------
    arms : tuple of labels
        Control first.
    kind : {"continuous", "binary", "count"}
    y : ndarray of shape (n_samples,)
    arm : ndarray of int, shape (n_samples,)
    mu, propensity : ndarray of shape (n_samples, n_arms)
    outcomes : PotentialOutcomes or None
        Held-out laws of Y(a) given x.
    weight : ndarray of shape (n_samples,)
    cluster : ndarray of int, shape (n_samples,), or None
    """

    arms: tuple[Hashable, ...]
    kind: str
    y: FloatArray
    arm: IntArray
    mu: FloatArray
    propensity: FloatArray
    outcomes: PotentialOutcomes | None
    weight: FloatArray
    cluster: IntArray | None

    @classmethod
    def read(
        cls,
        est: CrossFitting,
        X: Any,
        y: Any,
        *,
        treatment: Any,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> Sample:
        """Check and encode rows, and ask the estimator for its held-out predictions of them."""
        arms = fitted_arms(est)
        arm, outcome = est.schema_.encode_treatment(treatment), est.schema_.encode_outcome(y)
        n = len(outcome)
        if not len(X) == n == len(arm):
            raise ValueError(
                f"X, y and treatment have {len(X)}, {n} and {len(arm)} rows: give the same rows, in the same order."
            )
        weight, cluster = check_weights(sample_weight, n), check_clusters(groups, n)
        known = {} if propensity is None else {"propensity": propensity}
        held = est.cross_fitted(X, y, treatment=treatment, sample_weight=sample_weight, **known)
        mu = check_array("mu", held.mu, shape=(n, len(arms)))
        e = check_probabilities("propensity", held.propensity, (n, len(arms)))
        check_received(e, arm)
        kind, outcomes = est.schema_.outcome.kind, getattr(held, "outcomes", None)
        return cls(arms, kind, outcome, arm, mu, e, outcomes, weight, cluster)

    @property
    def used(self) -> NDArray[np.bool_]:
        """Rows that count."""
        return self.weight > 0

    @property
    def clustering(self) -> str:
        """What to add to the name of a method."""
        return "" if self.cluster is None else f"; {len(np.unique(self.cluster[self.used]))} clusters"

    def warn_overlap(self, codes: Sequence[int], carried: Mapping[int, FloatArray] | None = None) -> None:
        """One warning for all arms whose inverse propensities are used, with rows that hardly ever receive them.

        `carried` are the rows' weights in each of these arms where they are others than inverse propensities, as those
        that make the controls look like the treated.
        """
        lines = [line for k in codes for line in self._low(k, None if carried is None else carried[k])]
        if lines:
            warnings.warn(
                f"Weak overlap: {'; '.join(lines)}. Nothing was clipped. If that is too few, trim the rows without "
                "overlap (the estimate is then for the rows that stay), or ask estimate_ato for the overlap-weighted "
                "effect, which divides by no propensity.",
                UserWarning,
                stacklevel=_outside(),
            )

    def _low(self, k: int, carried: FloatArray | None) -> list[str]:
        used, e = self.used, self.propensity[:, k]
        low = used & (e < LOW_PROPENSITY)
        received = used & (self.arm == k)
        weight = self.weight[received]
        effective = effective_size(weight / e[received] if carried is None else weight * carried[received])
        if not low.any():
            if effective >= THIN_SHARE * received.sum():
                return []
            return [f"the {int(received.sum())} rows of arm {self.arms[k]!r} weigh as {effective:.1f}"]
        return [
            f"{int(low.sum())} of {int(used.sum())} rows have a propensity below {LOW_PROPENSITY} for arm "
            f"{self.arms[k]!r} (smallest {e[low].min():.2g}); its {int(received.sum())} rows have an effective sample "
            f"size of {effective:.1f}"
        ]


def fitted_arms(est: CrossFitting) -> tuple[Hashable, ...]:
    """The estimator's arms, control first."""
    if not hasattr(est, "schema_"):
        from sklearn.exceptions import NotFittedError

        raise NotFittedError(f"This {type(est).__name__} is not fitted yet: call fit(X, y, treatment=...) first.")
    return tuple(est.arms_)


def _outside() -> int:
    """How far up the stack, from whoever calls this, the user's own line stands."""
    level, frame = 1, sys._getframe(1)
    above: FrameType | None = frame
    while above is not None and str(above.f_globals.get("__name__", "")).startswith("effects."):
        above, level = above.f_back, level + 1
    return level
