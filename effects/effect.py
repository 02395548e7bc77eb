"""Effects: of a treatment on each unit (`Effect`) and on a population (`Estimate`). Values, never plots."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def check_level(level: float) -> float:
    """Return `level` if it is a probability strictly between 0 and 1, else say what it should be."""
    if not 0.0 < float(level) < 1.0:
        raise ValueError(f"level must lie strictly between 0 and 1 (0.9 means a 90% interval), got {level!r}.")
    return float(level)


def contrast(arms: Sequence[Hashable], treated: Hashable = None, control: Hashable = None) -> tuple[int, int]:
    """Positions of the treated and the control arm of a comparison; the control is the first arm by default.

    Raises
    ------
    ValueError
        If an arm is unknown, both are the same, or `treated` is needed and missing.
    """
    listed = ", ".join(repr(arm) for arm in arms)
    for role, arm in (("treated", treated), ("control", control)):
        if arm is not None and arm not in arms:
            raise ValueError(f"{role}={arm!r} is no arm of this estimator: name one of {listed}.")
    c = 0 if control is None else list(arms).index(control)
    others = [k for k in range(len(arms)) if k != c]
    if treated is None and len(others) != 1:
        raise ValueError(f"treated= is ambiguous with {len(arms)} arms: name one of {listed} (control is {arms[c]!r}).")
    t = others[0] if treated is None else list(arms).index(treated)
    if t == c:
        raise ValueError(f"treated and control are both {arms[c]!r}: name two different arms of {listed}.")
    return t, c


@dataclass(frozen=True, eq=False)
class Law:
    """The outcome's law under one arm, unit by unit, as what Makarov's bounds need: equally likely sorted values.

    Attributes
    ----------
    values : ndarray of shape (n_points, n_samples)
        Sorted along axis 0.
    """

    values: NDArray[np.float64]

    @classmethod
    def bernoulli(cls, probability: NDArray[np.float64], n_points: int = 2000) -> Law:
        """A 0/1 law on `n_points` equally likely points (the probability is rounded to 1 / `n_points`)."""
        points = (np.arange(n_points) + 0.5)[:, None] / n_points
        return cls((points > 1.0 - probability[None, :]).astype(np.float64))


@dataclass(frozen=True, eq=False)
class Effect:
    r"""The conditional average treatment effect of every unit, with its (epistemic) uncertainty.

    :math:`\tau(x) = E[Y(t) - Y(c) \mid x]`. The members are draws from the posterior of the function
    :math:`\tau`; the same member stands for the same function at every unit, so averages over units
    (`by`) carry the right covariance.

    Parameters
    ----------
    members : ndarray of shape (n_members, n_samples)
        Posterior draws of the CATE, in the outcome's unit (risk differences for a binary outcome).
    treated, control : label
        The arms that are compared.
    laws : callable, optional
        Gives the laws of the outcome under `treated` and `control`, for `prob_benefit`; called only there,
        because predicting a million units' effects must not hold a million laws.
    unit : str
        The outcome's unit, for labels.
    index : pandas.Index, optional
        Row labels of the units.

    Examples
    --------
    >>> import numpy as np
    >>> from effects.effect import Effect
    >>> effect = Effect(np.array([[0.0, 2.0], [2.0, 4.0]]), treated=1, control=0)
    >>> effect.mean
    array([1., 3.])
    """

    members: NDArray[np.floating]
    treated: Hashable = 1
    control: Hashable = 0
    laws: Callable[[], tuple[Law, Law]] | None = field(default=None, repr=False)
    unit: str = ""
    index: pd.Index | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        members = np.asarray(self.members)
        members = members if members.dtype == np.float32 else members.astype(np.float64)
        if members.ndim != 2 or not members.size:
            raise ValueError(f"members must have shape (n_members, n_samples), got {members.shape}.")
        if not np.isfinite(members).all():
            raise ValueError("members hold NaN or infinite values: an effect must be a number for every unit.")
        object.__setattr__(self, "members", members)

    def __len__(self) -> int:
        return int(self.members.shape[1])

    @property
    def mean(self) -> NDArray[np.float64]:
        """The CATE: the posterior mean, shape (n_samples,), in the outcome's unit."""
        return self.members.mean(axis=0, dtype=np.float64)

    @property
    def std(self) -> NDArray[np.float64]:
        """Posterior standard deviation of the CATE, shape (n_samples,). Zero for a single member."""
        return self.members.std(axis=0, dtype=np.float64)

    def interval(self, level: float = 0.9) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        r"""Credible interval of the CATE: mean :math:`\pm z_{(1 + level)/2}` posterior standard deviations.

        The normal form is used because a few dozen members estimate two moments well and tail quantiles badly.

        Returns
        -------
        lower, upper : ndarray of shape (n_samples,)
        """
        half = stats.norm.ppf(0.5 + check_level(level) / 2) * self.std
        return self.mean - half, self.mean + half

    def prob_above(self, threshold: float = 0.0) -> NDArray[np.float64]:
        """Posterior probability that the unit's CATE (an average, not the individual effect) exceeds `threshold`."""
        gap, std = self.mean - threshold, self.std
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(std > 0, stats.norm.cdf(gap / std), (gap > 0).astype(np.float64))

    def prob_benefit(self, threshold: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        r"""Bounds on :math:`P(Y(t) - Y(c) > \text{threshold} \mid x)`, the share of such units that benefit.

        The two outcomes are never seen together, so their joint law is not identified. Whatever it is,
        the probability lies between Makarov's bounds, which are sharp given the two marginal laws
        (Makarov 1981; Fan & Park 2010, Lemma 2.1):

        .. math:: \sup_y [F_c(y - \delta) - F_t(y)]_+ \le P(Y(t) - Y(c) > \delta)
                  \le 1 - \sup_y [F_t(y) - F_c((y - \delta)^-)]_+ .

        Returns
        -------
        lower, upper : ndarray of shape (n_samples,)

        Raises
        ------
        ValueError
            If the effect was made without the outcomes' laws.
        """
        if self.laws is None:
            raise ValueError(
                "prob_benefit needs the outcomes' laws: get the effect from predict_effect or outcomes.effect()."
            )
        treated, control = (law.values for law in self.laws())
        lower, upper = np.empty(len(self)), np.empty(len(self))
        for i in range(len(self)):
            lower[i], upper[i] = _makarov(treated[:, i], control[:, i], float(threshold))
        return lower, upper

    def by(self, groups: ArrayLike, level: float = 0.9) -> pd.DataFrame:
        """Average CATE within groups of the units, with the posterior's uncertainty.

        These are model-based summaries; for a reported subgroup effect prefer the doubly robust
        estimates of `effects.inference`.

        Parameters
        ----------
        groups : array-like of shape (n_samples,)
            Group labels; missing labels form a group of their own.
        level : float
            Probability of the interval.

        Returns
        -------
        DataFrame
            Indexed by group, with columns ``n, mean, std, lower, upper``.
        """
        labels = pd.Series(groups).reset_index(drop=True)  # units go by position, not by the labels' own index
        if len(labels) != len(self):
            raise ValueError(f"groups has {len(labels)} labels for {len(self)} units.")
        z = stats.norm.ppf(0.5 + check_level(level) / 2)
        grouped = labels.groupby(labels, dropna=False, sort=True, observed=True)
        size, code = grouped.size(), grouped.ngroup().to_numpy()
        average = [self.members[:, code == k].mean(axis=1, dtype=np.float64) for k in range(len(size))]
        mean, std = np.mean(average, axis=1), np.std(average, axis=1)
        columns = {"n": size.to_numpy(), "mean": mean, "std": std, "lower": mean - z * std, "upper": mean + z * std}
        return pd.DataFrame(columns, index=size.index.rename("group"))

    def to_frame(self, level: float = 0.9) -> pd.DataFrame:
        """One row a unit: ``cate, cate_std, cate_lower, cate_upper, prob_positive``."""
        lower, upper = self.interval(level)
        columns = {
            "cate": self.mean,
            "cate_std": self.std,
            "cate_lower": lower,
            "cate_upper": upper,
            "prob_positive": self.prob_above(0.0),
        }
        return pd.DataFrame(columns, index=self.index)


def _makarov(treated: NDArray[np.float64], control: NDArray[np.float64], delta: float) -> tuple[float, float]:
    """Makarov's bounds for two sorted, equally weighted empirical laws; `y` runs over every jump."""
    y = np.concatenate([treated, control + delta])
    f_treated = np.searchsorted(treated, y, side="right") / len(treated)
    shifted = np.concatenate([treated - delta, control])
    f_control = np.searchsorted(control, shifted, side="right") / len(control)
    f_control_left = np.searchsorted(control, shifted, side="left") / len(control)
    return max(float((f_control - f_treated).max()), 0.0), 1.0 - max(float((f_treated - f_control_left).max()), 0.0)


@dataclass(frozen=True)
class Estimate:
    """An average over a population, with its standard error.

    Attributes
    ----------
    value, se : float
        The estimate and its standard error, in the outcome's unit (a risk difference for a binary outcome).
    method : str
        How it was estimated, for the paper's method section.
    n : int
        Rows it rests on.
    estimand : str
        What was estimated, such as ``"ATE"``.
    treated, control : label
        The arms compared (None where one arm alone is described).
    level : float
        Probability of the interval.

    Examples
    --------
    >>> from effects.effect import Estimate
    >>> Estimate(2.0, 1.0, method="AIPW", n=100).interval(0.95)[0].__round__(2)
    0.04
    """

    value: float
    se: float
    method: str
    n: int
    estimand: str = "ATE"
    treated: Hashable = None
    control: Hashable = None
    unit: str = ""
    level: float = 0.95

    def __post_init__(self) -> None:
        check_level(self.level)
        if not self.se >= 0:
            raise ValueError(f"a standard error cannot be {self.se!r}.")

    def interval(self, level: float | None = None) -> tuple[float, float]:
        """Wald interval ``value ± z·se`` at `level` (by default the estimate's own)."""
        z = float(stats.norm.ppf(0.5 + check_level(self.level if level is None else level) / 2))
        return self.value - z * self.se, self.value + z * self.se

    @property
    def statistic(self) -> float:
        """``value / se``, standard normal under no effect; with a zero standard error infinite, or NaN for 0 / 0."""
        if self.se > 0:
            return self.value / self.se
        return float("nan") if self.value == 0 else float(np.copysign(np.inf, self.value))

    @property
    def p_value(self) -> float:
        """Two-sided p-value of no effect."""
        return float(2 * stats.norm.sf(abs(self.statistic)))

    @property
    def name(self) -> str:
        """The estimand with its contrast, such as ``ATE [drug vs placebo]``."""
        if self.control is None:
            return self.estimand if self.treated is None else f"{self.estimand} [{self.treated}]"
        return f"{self.estimand} [{self.treated} vs {self.control}]"

    def to_frame(self) -> pd.DataFrame:
        """One row in the words of statsmodels: ``coef, std err, z, P>|z|, [0.025, 0.975]``, limits by the level."""
        lower, upper = self.interval()
        tail = (1 - self.level) / 2
        row: dict[str, Any] = {
            "coef": self.value,
            "std err": self.se,
            "z": self.statistic,
            "P>|z|": self.p_value,
            f"[{tail:.4g}": lower,
            f"{1 - tail:.4g}]": upper,
        }
        return pd.DataFrame(row, index=[self.name])

    def summary(self) -> str:
        """The frame as text, with the method and the number of rows beneath."""
        return f"{self.to_frame().round(4).to_string()}\nmethod: {self.method}; n = {self.n}"

    def __str__(self) -> str:
        lower, upper = self.interval()
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name}: {self.value:.4g}{unit} ({100 * self.level:.6g}% interval {lower:.4g} to {upper:.4g})"
