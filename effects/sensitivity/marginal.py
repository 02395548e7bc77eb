r"""Tan's marginal sensitivity model: hidden confounders change nobody's odds of treatment by more than a factor.

For arm k the model says, of the propensity e_k(x) and the one that the hidden u would give,

.. math:: \Lambda^{-1} \le \frac{e_k(x, u) / (1 - e_k(x, u))}{e_k(x) / (1 - e_k(x))} \le \Lambda .

Then the law of Y(k) in the units that did not receive k differs from the one in those that did by a density ratio
within [1/Lambda, Lambda], and its largest mean puts Lambda on the outcomes above their tau-quantile q, tau = Lambda /
(1 + Lambda), and 1/Lambda below (Dorn & Guo 2023):

.. math:: \rho_k(x) = \Lambda^{-1} m_k(x) + (1 - \Lambda^{-1})\, CVaR_\tau(Y \mid x, A = k)
          = E[H_k \mid x, A = k], \qquad
          H_k = \Lambda^{-1} y + (1 - \Lambda^{-1}) \left(q + (1 + \Lambda)(y - q)_+\right) .

The smallest mean is that of -Y, negated.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from effects.effect import Estimate, contrast
from effects.individual import check_level
from effects.inference.averages import check_rows, method_name, unit_of
from effects.inference.checks import FloatArray, check_choice
from effects.inference.sample import CrossFitting, Sample, fitted_arms
from effects.inference.scores import Population, sandwich
from effects.outcomes import PotentialOutcomes
from effects.rows import check_propensities

ESTIMANDS = ("ATE", "ATT", "ATC")
GAMMAS = (1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0)
_POINTS = 200  # of a law that only residuals are known of
_MAX_VALUES = 60_000_000  # of an arm's draws that are held sorted at once


@dataclass(frozen=True, eq=False)
class MarginalSensitivity:
    """Bounds of an effect under hidden confounding, for growing factors on the odds of treatment.

    Attributes
    ----------
    table : DataFrame
        ``gamma, lower, upper, ci_lower, ci_upper``: bounds of the effect, and limits that hold both bounds with
        probability `level`. At gamma = 1 they are the AIPW estimate and its interval.
    tipping : float or None
        The smallest gamma whose interval contains `null`: 1 if the estimate's own does, None if none up to the largest.
    tipping_bounds : float or None
        The same of the bounds themselves, without sampling error.
    estimate : Estimate
        Without hidden confounding.

    Examples
    --------
    >>> found = marginal_sensitivity(est, X, y, treatment=arm)  # doctest: +SKIP
    >>> found.tipping, found.text  # doctest: +SKIP
    """

    table: pd.DataFrame = field(repr=False)
    tipping: float | None
    tipping_bounds: float | None
    estimate: Estimate
    null: float = 0.0
    note: str = ""

    @property
    def level(self) -> float:
        """Probability of the interval."""
        return self.estimate.level

    @property
    def text(self) -> str:
        """The finding in plain words."""
        top, at, level = float(self.table["gamma"].max()), self.null, self.level
        words = [f"{self.estimate}. "]
        if self.tipping == 1:
            words.append(f"The {level:.0%} interval contains {at:g} without any hidden confounding.")
        elif self.tipping is None:
            words.append(
                f"Even hidden confounders that multiply or divide the odds of treatment by {top:g} leave a {level:.0%} "
                f"interval without {at:g}; larger factors were not looked at."
            )
        else:
            words.append(
                f"The {level:.0%} interval would contain {at:g} if hidden confounders multiplied or divided the odds "
                f"of treatment by {self.tipping:.2f}, beyond what the covariates explain; with less it does not."
            )
        if self.tipping_bounds is not None and self.tipping_bounds > 1:
            words.append(f" The estimate itself could be {at:g} from a factor of {self.tipping_bounds:.2f} on.")
        elif self.tipping is not None and self.tipping_bounds is None:
            words.append(f" The estimate itself keeps its side of {at:g} up to a factor of {top:g}.")
        return "".join(words) + self.note

    def to_frame(self) -> pd.DataFrame:
        """The table, one row a gamma."""
        return self.table.copy()

    def __str__(self) -> str:
        return self.text


def marginal_sensitivity(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    estimand: str = "ATE",
    gammas: Sequence[float] | None = None,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    null: float = 0.0,
    level: float = 0.95,
) -> MarginalSensitivity:
    r"""Sharp bounds of an average effect if hidden confounders change the odds of treatment by at most gamma.

    For the ATE the bound of each arm's mean is that of the scores (Dorn, Guo & Kallus 2024)

    .. math:: \phi_k = 1[A = k]\, y + 1[A \ne k]\, \rho_k(x) + 1[A = k] \frac{1 - e_k(x)}{e_k(x)} (H_k - \rho_k(x))

    with :math:`\rho_k, H_k` as in the module's text, upper for one arm and lower for the other. Conditional quantiles
    and tail means are those of the estimator's held-out laws, moved to their held-out means.

    Parameters
    ----------
    est, X, y, treatment, treated, control, sample_weight, groups, propensity
        As in `estimate_ate`.
    estimand : {"ATE", "ATT", "ATC"}
        For the ATT only the treated units' outcome under control is unknown, so its bounds are tighter.
    gammas : sequence of float, optional
        Factors on the odds, 1 or more; 1 is always added. By default eleven from 1 to 5.
    null : float
        The effect that the tipping point is about.
    level : float

    Returns
    -------
    MarginalSensitivity

    Raises
    ------
    ValueError
        As `estimate_ate`; if the estimand is unknown or a gamma is below 1 or not finite.

    Notes
    -----
    The scores are orthogonal to errors of propensities, quantiles and tail means, and the bounds are *doubly valid*: if
    a quantile is wrong they are too wide, not too narrow, as long as propensities or tail means are right. At gamma = 1
    score, estimate, standard error and interval are those of AIPW, exactly. For a 0/1 outcome with risk p,
    :math:`\rho = \min(\Lambda p,\, 1 - (1 - p) / \Lambda)`, no quantile is needed.

    The confidence limits hold the whole interval between the bounds; each end's error is that of its influence
    function. With more than two arms each arm's odds are those against all the others (for ATT and ATC: against the
    one other arm), and the bounds are valid for that. Where the estimator keeps no held-out laws, the residuals of each
    arm stand in for them, equal at every x; the text says so, and the bounds may then be wider than need be.

    References
    ----------
    Tan (2006), A distributional approach for causal inference using propensity scores, JASA 101. Dorn & Guo (2023),
    Sharp sensitivity analysis for inverse propensity weighting via quantile balancing, JASA 118. Dorn, Guo & Kallus
    (2024), Doubly-valid/doubly-sharp sensitivity analysis for causal inference with unmeasured confounding, JASA.

    Examples
    --------
    >>> found = marginal_sensitivity(est, X, y, treatment=arm, gammas=[1, 1.5, 2])  # doctest: +SKIP
    >>> found.table  # doctest: +SKIP
    """
    check_choice("estimand", estimand, ESTIMANDS)
    check_level(level)
    grid = _checked(GAMMAS if gammas is None else gammas)
    t, c = contrast(fitted_arms(est), treated, control)
    rows = {"sample_weight": sample_weight, "groups": groups, "propensity": propensity}
    sample = Sample.read(est, X, y, treatment=treatment, **rows)
    population = Population.tilted(sample, estimand, t, c)
    check_rows(sample, population.member, (t, c))
    sample.warn_overlap({"ATE": (t, c), "ATT": (c,), "ATC": (t,)}[estimand])
    model = _Model.of(sample, population, estimand)
    z = 0.5 + level / 2
    table = pd.DataFrame([model.row(gamma, z) for gamma in grid], columns=list(_COLUMNS))
    value, se, df = model.side(1.0, 1)
    estimate = Estimate(
        value, se, method_name("aipw", sample), int(population.member.sum()), estimand, sample.arms[t], sample.arms[c],
        unit_of("difference", sample.kind), level, df,
    )  # fmt: skip
    tipping = _tipping(model, table, null, z, "ci_lower", "ci_upper")
    of_bounds = _tipping(model, table, null, z, "lower", "upper")
    return MarginalSensitivity(table, tipping, of_bounds, estimate, float(null), model.note)


_COLUMNS = ("gamma", "lower", "upper", "ci_lower", "ci_upper")


def _checked(gammas: Sequence[float]) -> list[float]:
    values = np.asarray(gammas, dtype=np.float64).ravel()
    if not len(values) or not (np.isfinite(values) & (values >= 1)).all():
        raise ValueError(f"gammas must be finite numbers of 1 or more, got {gammas!r}: 1 is no hidden confounding.")
    return sorted({1.0, *values.tolist()})


@dataclass(frozen=True, eq=False)
class _Tails:
    """The law of an arm's outcome given x, as far as bounds of its mean need it.

    Attributes
    ----------
    mean : ndarray of shape (n,)
    values : ndarray of shape (n_points, n), or None for a 0/1 outcome
        Equally likely outcomes, sorted, with that mean.
    """

    mean: FloatArray
    values: NDArray[np.floating] | None

    def extreme(self, gamma: float, sign: int) -> tuple[FloatArray, FloatArray]:
        """The quantile q, and rho: the largest mean of the others (`sign` 1), or the smallest (-1)."""
        if gamma == 1:  # no quantile matters, and the mean is that of AIPW to the last digit
            return self.mean, self.mean
        if self.values is None:
            p = self.mean if sign > 0 else 1 - self.mean
            rho = np.minimum(gamma * p, 1 - (1 - p) / gamma)
            q = (p > 1 / (1 + gamma)).astype(np.float64)
            return (q, rho) if sign > 0 else (1 - q, 1 - rho)
        n = len(self.values)
        k = min(int(np.ceil(n * gamma / (1 + gamma) - 1e-9)), n)
        if sign > 0:
            q, tail = self.values[k - 1], self.values[k:]
        else:
            q, tail = self.values[n - k], self.values[: n - k]
        q = q.astype(np.float64)
        beyond = tail.sum(axis=0, dtype=np.float64) - len(tail) * q
        cvar = q + (1 + gamma) * beyond / n
        return q, self.mean / gamma + (1 - 1 / gamma) * cvar

    @classmethod
    def of(cls, outcomes: PotentialOutcomes, arm: int, mean: FloatArray) -> _Tails:
        """From held-out draws, moved to a mean."""
        if outcomes.kind == "binary":
            return cls(mean, None)
        size = outcomes.n_members * outcomes.n_draws
        if size * outcomes.n_samples > _MAX_VALUES:
            values = outcomes.laws(arm, arm)[0].values.astype(np.float32)
        else:
            values = np.sort(outcomes.draws[..., arm].reshape(size, -1), axis=0)
        return cls(mean, values + (mean - values.mean(axis=0, dtype=np.float64)).astype(np.float32))


@dataclass(frozen=True, eq=False)
class _Model:
    """The rows, and the two arms' laws: all that a bound at any gamma needs."""

    sample: Sample
    population: Population
    estimand: str
    tails: tuple[_Tails | None, _Tails | None]
    note: str

    @classmethod
    def of(cls, sample: Sample, population: Population, estimand: str) -> _Model:
        needed = (estimand != "ATT", estimand != "ATC")
        note, laws = "", sample.outcomes
        if laws is None and sample.kind != "binary":
            note = " (The estimator keeps no held-out laws of these rows: residuals of each arm stand in for them.)"
        tails = [_law(sample, laws, k) if wanted else None for k, wanted in zip(population.codes, needed, strict=True)]
        return cls(sample, population, estimand, (tails[0], tails[1]), note)

    def side(self, gamma: float, sign: int) -> tuple[float, float, float | None]:
        """A bound of the effect, upper (`sign` 1) or lower (-1), its standard error and degrees of freedom."""
        weight, H = self.sample.weight, self.population.H
        scores = self._score(0, gamma, sign) - self._score(1, gamma, -sign)
        total = weight @ H
        value = float(weight @ scores / total)
        influence = weight * (scores - H * value) / total
        covariance, df = sandwich(self.sample, influence[:, None], self.population.member[:, None])
        return value, float(np.sqrt(covariance[0, 0])), df[0]

    def _score(self, j: int, gamma: float, sign: int) -> FloatArray:
        """Of one arm's mean; rows of the population that received the arm count with their own outcome."""
        k, tails, sample = self.population.codes[j], self.tails[j], self.sample
        own, H, g = sample.arm == k, self.population.H, self.population.g[:, j]
        if tails is None:
            return H * np.where(own, sample.y, 0.0)
        q, rho = tails.extreme(gamma, sign)
        beyond = np.maximum(sign * (sample.y - q), 0.0)
        carried = sample.y / gamma + (1 - 1 / gamma) * (q + sign * (1 + gamma) * beyond)
        if self.estimand == "ATE":  # g is 1 / e for the arm's own rows: 1 for themselves, the rest for the others
            # at gamma = 1 this is rho + g (y - rho), term by term that of AIPW
            return np.where(own, sample.y - rho, 0.0) + rho + (g - own) * (carried - rho)
        return H * rho + g * (carried - rho)

    def row(self, gamma: float, p: float) -> tuple[float, ...]:
        """One line of the table; limits are p-quantiles of each end."""
        ends = []
        for sign in (-1, 1):
            value, se, df = self.side(gamma, sign)
            times = stats.norm.ppf(p) if df is None else stats.t.ppf(p, df)
            ends.append((value, float(value + sign * times * se)))
        return gamma, ends[0][0], ends[1][0], ends[0][1], ends[1][1]


def _law(sample: Sample, outcomes: PotentialOutcomes | None, k: int) -> _Tails:
    """An arm's law by held-out draws, or by residuals of its rows where there are none."""
    mean = sample.mu[:, k]
    if sample.kind == "binary":
        return _Tails(mean, None)
    if outcomes is not None:
        return _Tails.of(outcomes, k, mean)
    rows = sample.used & (sample.arm == k)
    residual, weight = sample.y[rows] - mean[rows], sample.weight[rows]
    order = np.argsort(residual)
    middle = np.cumsum(weight[order]) - weight[order] / 2
    values = np.interp((np.arange(_POINTS) + 0.5) / _POINTS, middle / weight.sum(), residual[order])
    return _Tails(mean, (mean[None, :] + (values - values.mean())[:, None]))


def _tipping(model: _Model, table: pd.DataFrame, null: float, p: float, low: str, high: str) -> float | None:
    """The smallest gamma whose interval holds the null, found between two of the table and then by bisection."""
    inside = ((table[low] <= null) & (null <= table[high])).to_numpy()
    if not inside.any():
        return None
    first = int(np.argmax(inside))
    grid = table["gamma"].to_numpy()
    if first == 0:
        return 1.0
    column = low if table[low].iloc[0] > null else high
    at = _COLUMNS.index(column)
    return float(optimize.brentq(lambda gamma: model.row(gamma, p)[at] - null, grid[first - 1], grid[first], xtol=1e-4))


def cate_bounds(
    est: Any,
    X: Any,
    *,
    gamma: float,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    propensity: ArrayLike | None = None,
    outcomes: PotentialOutcomes | None = None,
) -> pd.DataFrame:
    r"""Sharp bounds of every unit's CATE if hidden confounders change the odds of treatment by at most gamma.

    With :math:`\rho_k^\pm` of the predicted laws (see the module's text),

    .. math:: E[Y(k) \mid x] \in \left[e_k m_k + (1 - e_k) \rho_k^-,\; e_k m_k + (1 - e_k) \rho_k^+\right],

    and the bounds of the effect are the differences of opposite ends.

    Parameters
    ----------
    est : fitted estimator
    X : DataFrame or ndarray, shape (n_samples, n_features)
    gamma : float
        The largest factor on the odds, 1 or more.
    treated, control : arm labels, optional
        As in `estimate_ate`.
    propensity : array_like, shape (n_samples,) or (n_samples, n_arms), optional
        Of the rows of X; by default what the estimator's nuisances predict.
    outcomes : PotentialOutcomes, optional
        Predicted laws of the rows, if they are at hand; by default ``est.predict_outcomes(X)``.

    Returns
    -------
    DataFrame
        One row a unit, indexed like X: ``cate, lower, upper``, in the outcome's unit. ``cate`` is the difference of the
        laws' means.

    Raises
    ------
    ValueError
        If gamma is below 1, or no propensities are known.

    Notes
    -----
    The bounds are of the model's predictions: they say what hidden confounding could do, not how well the laws are
    known. `Effect.interval` tells the latter.

    References
    ----------
    Kallus, Mao & Zhou (2019), Interval estimation of individual-level causal effects under unobserved confounding,
    AISTATS. Dorn & Guo (2023), JASA 118. Tan (2006), JASA 101.

    Examples
    --------
    >>> cate_bounds(est, X, gamma=1.5)[["lower", "upper"]]  # doctest: +SKIP
    """
    gamma = float(gamma)
    if not (np.isfinite(gamma) and gamma >= 1):
        raise ValueError(f"gamma must be a finite number of 1 or more, got {gamma!r}: 1 is no hidden confounding.")
    arms = fitted_arms(est)
    t, c = contrast(arms, treated, control)
    laws = est.predict_outcomes(X) if outcomes is None else outcomes
    if laws.n_samples != len(X) or tuple(laws.arms) != arms:
        raise ValueError(f"outcomes are of {laws.n_samples} units and arms {laws.arms}, X has {len(X)} rows.")
    if propensity is not None:
        e = check_propensities(propensity, len(X), arms)
    elif getattr(est, "nuisance_", None) is not None:
        e = est.nuisance_.predict(est.schema_.encode(X)).propensity
    else:
        raise ValueError(f"this {type(est).__name__} predicts no propensities: give propensity= of the rows of X.")
    mean = laws.mean()
    ends = {}
    for k in (t, c):
        tails = _Tails.of(laws, k, mean[:, k])
        for sign in (-1, 1):
            ends[k, sign] = e[:, k] * mean[:, k] + (1 - e[:, k]) * tails.extreme(gamma, sign)[1]
    columns = {"cate": mean[:, t] - mean[:, c], "lower": ends[t, -1] - ends[c, 1], "upper": ends[t, 1] - ends[c, -1]}
    return pd.DataFrame(columns, index=X.index if isinstance(X, pd.DataFrame) else None)
