"""Omitted-variable bias of AIPW estimates, in shares of variance, next to the observed covariates."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold

from effects.effect import Estimate, contrast
from effects.individual import check_level
from effects.inference.averages import check_rows, method_name, unit_of
from effects.inference.checks import FloatArray, check_choice
from effects.inference.sample import CrossFitting, Sample, fitted_arms
from effects.inference.scores import Population, averages, sandwich
from effects.nuisance import BoostedTrees, Nuisance
from effects.schema.columns import ColumnSpec
from effects.sensitivity.regression import Benchmark, named_groups, robustness

ESTIMANDS = ("ATE", "ATT", "ATC")
#: Small enough to be fitted once for each covariate that is left out; a linear model beside it steadies the weights.
_LIGHT = {"max_iter": 100, "learning_rate": 0.05, "max_leaf_nodes": 6, "max_features": 0.5, "max_bins": 32}
_LIGHT_FOLDS = 3
_RIDGE = 1e-3
_LOWEST = 1e-3  # held-out propensities below it, zeros of a forest among them, do not say by how much


class Bounds(NamedTuple):
    """Of an effect under hidden confounding of a named strength: of its estimate, and with sampling error."""

    lower: float
    upper: float
    ci_lower: float
    ci_upper: float


@dataclass(frozen=True, eq=False)
class OmittedVariableBias:
    r"""How far hidden confounding of a given strength can move an AIPW estimate (Chernozhukov et al. 2022).

    Attributes
    ----------
    theta, se : float
        The AIPW estimate and its standard error, as `estimate_ate` and its kin give them.
    sigma2 : float
        Mean squared residual of the outcome, of the arms that are compared.
    nu2 : float
        Second moment of the Riesz representer, the weights by which residuals enter the estimate.
    covariance : ndarray of shape (3, 3)
        Of theta, sigma2 and nu2.
    rv : float
        The strength cf_y = cf_d at which the estimate may come to `null`.
    rv_significant : float
        The strength at which the interval may come to contain it; 0 where it does so already.
    benchmarks : DataFrame
        One row for each observed covariate (or group) that was left out: ``cf_y, cf_d, rho, delta, lower, upper,
        ci_lower, ci_upper``, the strongest first.
    """

    theta: float
    se: float
    sigma2: float
    nu2: float
    covariance: NDArray[np.float64] = field(repr=False)
    rv: float
    rv_significant: float
    benchmarks: pd.DataFrame = field(repr=False)
    n: int
    df: float | None = None
    estimand: str = "ATE"
    treated: Hashable = None
    control: Hashable = None
    unit: str = ""
    level: float = 0.95
    null: float = 0.0
    method: str = "AIPW, cross-fitted"
    note: str = ""

    @property
    def estimate(self) -> Estimate:
        """The estimate without hidden confounding."""
        names: dict[str, Any] = {"estimand": self.estimand, "treated": self.treated, "control": self.control}
        return Estimate(self.theta, self.se, self.method, self.n, **names, unit=self.unit, level=self.level, df=self.df)

    def bounds(self, cf_y: float, cf_d: float, rho: float = 1.0, level: float | None = None) -> Bounds:
        """Bounds of the effect under confounding of a given strength, and confidence limits that hold them both.

        Parameters
        ----------
        cf_y : float
            Share of the outcome's residual variance that the hidden variables explain, 0 to 1.
        cf_d : float
            Share of the treatment's variation that they add to what the covariates explain, 0 to below 1.
        rho : float
            Correlation of the two errors, 1 at worst.
        level : float, optional
            Of the confidence limits; without confounding these are the interval of the estimate.

        Returns
        -------
        Bounds
            ``lower, upper, ci_lower, ci_upper``.

        Raises
        ------
        ValueError
            If a strength is out of range.
        """
        if not (0 <= cf_y <= 1 and 0 <= cf_d < 1 and -1 <= rho <= 1):
            raise ValueError(f"cf_y={cf_y!r}, cf_d={cf_d!r}, rho={rho!r}: they lie in [0, 1], [0, 1) and [-1, 1].")
        level = check_level(self.level if level is None else level)
        factor = abs(rho) * np.sqrt(cf_y * cf_d / (1 - cf_d))
        return _bounds((self.theta, self.sigma2, self.nu2), self.covariance, float(factor), level, self.df)

    @property
    def text(self) -> str:
        """The finding in plain words, beside the strongest observed covariate."""
        to = "to zero" if self.null == 0 else f"to {self.null:g}"
        words = [
            f"{self.estimate}. Hidden confounders that explain {self.rv:.1%} of what the covariates leave of the "
            f"outcome, and as much of the treatment, could bring the estimate {to}; "
        ]
        if self.rv_significant > 0:
            words.append(f"{self.rv_significant:.1%} of both would be enough for the {self.level:.0%} interval.")
        else:
            words.append(f"the {self.level:.0%} interval contains {self.null:g} without any.")
        if len(self.benchmarks):
            first = self.benchmarks.iloc[0]
            words.append(
                f" Of {len(self.benchmarks)} covariates left out in turn, {self.benchmarks.index[0]} mattered most, "
                f"with {first['cf_y']:.1%} and {first['cf_d']:.1%}: a hidden confounder like it would leave an effect "
                f"of {first['lower']:.3g} to {first['upper']:.3g} "
                f"({self.level:.0%} limits {first['ci_lower']:.3g} to {first['ci_upper']:.3g})."
            )
        return "".join(words) + self.note

    def to_frame(self) -> pd.DataFrame:
        """One row: ``coef, std err, sigma2, nu2, rv, rv_significant``."""
        row = {"coef": self.theta, "std err": self.se, "sigma2": self.sigma2, "nu2": self.nu2}
        row |= {"rv": self.rv, "rv_significant": self.rv_significant}
        return pd.DataFrame(row, index=[self.estimate.name])

    def __str__(self) -> str:
        return self.text


def _bounds(
    values: tuple[float, float, float], covariance: FloatArray, factor: float, level: float, df: float | None
) -> Bounds:
    """theta -+ factor sqrt(sigma2 nu2), with limits by the delta method."""
    theta, sigma2, nu2 = values
    if not np.isfinite(factor):
        return Bounds(-np.inf, np.inf, -np.inf, np.inf)
    half = factor * np.sqrt(sigma2 * nu2)
    times = stats.norm.ppf(0.5 + level / 2) if df is None else stats.t.ppf(0.5 + level / 2, df)
    limits = []
    for sign in (-1, 1):
        slope = np.array([1.0, sign * half / (2 * sigma2) if sigma2 > 0 else 0.0, sign * half / (2 * nu2)])
        limits.append(theta + sign * (half + times * np.sqrt(max(slope @ covariance @ slope, 0.0))))
    return Bounds(float(theta - half), float(theta + half), float(limits[0]), float(limits[1]))


def omitted_variable_bias(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    estimand: str = "ATE",
    benchmark: Benchmark = None,
    n_benchmarks: int = 8,
    nuisance: Nuisance | None = None,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    null: float = 0.0,
    level: float = 0.95,
    random_state: int = 0,
) -> OmittedVariableBias:
    r"""How strong hidden confounders must be to change an AIPW estimate, next to the observed covariates.

    Without the confounders the estimate misses the truth by at most

    .. math:: |\rho| \sqrt{\sigma^2 \nu^2}\; C_Y C_D, \qquad C_Y^2 = cf_y, \quad C_D^2 = \frac{cf_d}{1 - cf_d},

    where :math:`\sigma^2` is the outcome's residual variance, :math:`\nu^2 = E[\alpha^2]` of the Riesz representer (for
    the ATE :math:`\alpha = 1[A = t] / e_t - 1[A = c] / e_c`), cf_y the confounders' share of :math:`\sigma^2`, and cf_d
    the share of :math:`E[\alpha^2]`, with the confounders known, that is due to them.

    Parameters
    ----------
    est, X, y, treatment, treated, control, sample_weight, groups, propensity
        As in `estimate_ate`.
    estimand : {"ATE", "ATT", "ATC"}
    benchmark : list of columns, or mapping of label to columns, optional
        Covariates to leave out in turn, to see how strong observed ones are. By default the `n_benchmarks` that a quick
        screen (partial :math:`R^2` of linear regressions) finds strongest; an empty list for none.
    n_benchmarks : int
    nuisance : Nuisance, optional
        Fitted with and without each benchmark. By default the estimator's own nuisance where it was given models of its
        own, else a small boosting mixed with a linear model, on three folds.
    null : float
        The effect that confounding would have to bring the estimate to.
    level : float
    random_state : int
        Of the benchmarks' folds.

    Returns
    -------
    OmittedVariableBias

    Raises
    ------
    ValueError
        As `estimate_ate`; if the estimand or a benchmark is unknown, or a propensity is 0 where it is divided by.

    Notes
    -----
    :math:`\nu^2` is estimated in the debiased form :math:`2 E[m(W, \alpha)] - E[\alpha^2]`, or, where weak overlap
    makes that negative, as :math:`E[\alpha^2]`, and the text says so. Confidence limits follow from the joint
    influence function of theta, :math:`\sigma^2` and :math:`\nu^2` (for the ATT with the estimated share of treated);
    they are two-sided, so that without confounding they are the estimate's interval. Of three or more arms, residuals
    of the two that are compared count.

    Benchmarks compare two fits of the same kind on the same folds: :math:`cf_y = (\sigma^2_s - \sigma^2) / \sigma^2`
    and :math:`cf_d = (\nu^2 - \nu^2_s) / \nu^2_s` with s for the fit that lacks the covariate. Here :math:`\nu^2` is
    what the held-out propensities say, for the ATE :math:`E[1 / e_t + 1 / e_c]`, after a logistic regression of the
    arms on their logits has calibrated them: the debiased form hangs on the few rows that got an arm they had hardly
    any chance of, of which there are the more, the stronger the confounder and the rougher the model. ``rho`` is the
    correlation that the covariate's removal showed, ``delta`` how far it moved the estimate. The bounds beside them
    take rho = 1. Models that learn the propensity slowly understate cf_d: boosted trees found half to all of it in
    simulations of 1,000 rows.
    They are themselves estimates: of a covariate that hardly matters, noise. Removing one of several covariates that
    say the same shows little: name them as a group.

    References
    ----------
    Chernozhukov, Cinelli, Newey, Sharma & Syrgkanis (2022), Long story short: omitted variable bias in causal machine
    learning, NBER working paper 30302, theorems 2 and 4, section 4.

    Examples
    --------
    >>> found = omitted_variable_bias(est, X, y, treatment=arm)  # doctest: +SKIP
    >>> found.rv, found.bounds(cf_y=0.05, cf_d=0.03)  # doctest: +SKIP
    """
    check_choice("estimand", estimand, ESTIMANDS)
    check_level(level)
    t, c = contrast(fitted_arms(est), treated, control)
    rows = {"sample_weight": sample_weight, "groups": groups, "propensity": propensity}
    sample = Sample.read(est, X, y, treatment=treatment, **rows)
    check_rows(sample, sample.used & np.isin(sample.arm, (t, c)), (t, c))
    sample.warn_overlap({"ATE": (t, c), "ATT": (c,), "ATC": (t,)}[estimand])
    moments, covariance, df, note = _moments(sample, estimand, t, c)
    theta, _, nu2 = moments
    rv, significant = _robustness(moments, covariance, null, level, df)
    found = OmittedVariableBias(
        theta, float(np.sqrt(covariance[0, 0])), moments[1], nu2, covariance, rv, significant, pd.DataFrame(),
        int(Population.tilted(sample, estimand, t, c).member.sum()), df, estimand, sample.arms[t], sample.arms[c],
        unit_of("difference", sample.kind), level, float(null), method_name("aipw", sample), note,
    )  # fmt: skip
    E = np.asarray(est.schema_.encode(X))
    blocks = _blocks(est.schema_.columns)
    chosen = _screen(E, sample, blocks, t, c, n_benchmarks) if benchmark is None else named_groups(benchmark)
    unknown = [name for names in chosen.values() for name in names if name not in blocks]
    if unknown:
        raise ValueError(f"benchmark: {unknown[0]!r} is no column of X that varies; there are {', '.join(blocks)}.")
    if not chosen:
        return replace(found, benchmarks=_table([]))
    nuisance = _own_models(est) if nuisance is None else nuisance
    refit = _Refit(E, sample, estimand, t, c, nuisance, random_state)
    return replace(found, benchmarks=_benchmarks(found, refit, chosen, blocks))


def _moments(
    sample: Sample, estimand: str, t: int, c: int
) -> tuple[tuple[float, float, float], FloatArray, float | None, str]:
    """theta, sigma2 and nu2, their covariance, theta's degrees of freedom, and a remark on nu2."""
    population = Population.tilted(sample, estimand, t, c)
    values, influence = averages(sample, population, "aipw")
    used, weight = sample.used, sample.weight / sample.weight.sum()
    at = np.arange(len(sample.arm))
    compared = np.isin(sample.arm, (t, c))
    square = np.where(compared, (sample.y - sample.mu[at, sample.arm]) ** 2, 0.0)
    sigma2 = float(weight @ square)
    H = population.H
    share = float(weight @ H)
    alpha = (population.g[:, 0] - population.g[:, 1]) / share
    m = _representer_sum(sample, estimand, t, c, used & (H > 0)) * H / share**2
    note, element = "", 2 * m - alpha**2
    if not weight @ element > 0:
        element = alpha**2
        note = " Overlap is so weak that the debiased second moment of the weights is negative: the plain one is used."
    nu2 = float(weight @ element)
    spread = weight * (element - nu2 - 2 * nu2 * (H - share) / share)
    errors = np.column_stack([influence[:, 0] - influence[:, 1], weight * (square - sigma2), spread])
    covariance, df = sandwich(sample, errors, np.column_stack([population.member, used, used]))
    return (float(values[0] - values[1]), sigma2, nu2), covariance, df[0], note


def _representer_sum(sample: Sample, estimand: str, t: int, c: int, rows: NDArray[np.bool_]) -> FloatArray:
    """h / e_t + h / e_c in some rows, zero elsewhere."""
    e_t, e_c = sample.propensity[rows, t], sample.propensity[rows, c]
    below = {"ATE": np.minimum(e_t, e_c), "ATT": e_c, "ATC": e_t}[estimand]
    if (below <= 0).any():
        raise ValueError(
            f"propensity is 0 for an arm that {int((below <= 0).sum())} row(s) are compared in: no hidden confounding "
            "can be bounded without overlap. Leave those rows out, and say so."
        )
    h = {"ATE": np.ones_like(e_t), "ATT": e_t, "ATC": e_c}[estimand]
    found = np.zeros(len(rows))
    with np.errstate(divide="ignore", invalid="ignore"):
        found[rows] = {"ATE": h / e_t + h / e_c, "ATT": 1 + h / e_c, "ATC": 1 + h / e_t}[estimand]
    return found


def _robustness(
    values: tuple[float, float, float], covariance: FloatArray, null: float, level: float, df: float | None
) -> tuple[float, float]:
    """Strength r = cf_y = cf_d at which the estimate, and at which its interval, reaches the null."""
    theta, sigma2, nu2 = values
    scale = np.sqrt(sigma2 * nu2)
    rv = robustness(abs(theta - null) / scale) if scale > 0 else float(theta != null)

    def beyond(r: float) -> float:
        found = _bounds(values, covariance, r / np.sqrt(1 - r), level, df)
        return found.ci_lower - null if theta > null else null - found.ci_upper

    if beyond(0.0) <= 0:
        return rv, 0.0
    return rv, float(optimize.brentq(beyond, 0.0, rv, xtol=1e-10)) if rv < 1 else 1.0


# ----------------------------------------------------------------------------------------------------------- benchmarks


def _blocks(columns: Sequence[ColumnSpec]) -> dict[str, list[int]]:
    """Where each informative column of the table stands among the encoded ones."""
    found, start = {}, 0
    for spec in columns:
        stop = start + len(spec.feature_names)
        if stop > start:
            found[spec.name] = list(range(start, stop))
        start = stop
    return found


def _screen(
    E: FloatArray, sample: Sample, blocks: Mapping[str, list[int]], t: int, c: int, most: int
) -> dict[str, list[str]]:
    """The covariates whose removal from linear regressions would bias them most."""
    rows = sample.used & np.isin(sample.arm, (t, c))
    w = sample.weight[rows] / sample.weight[rows].sum()
    table = np.column_stack([E[rows], sample.arm[rows] == t, sample.y[rows]]).astype(np.float64)
    table -= w @ table
    scale = np.sqrt(w @ table**2)
    table /= np.where(scale > 0, scale, 1.0)
    gram = table.T @ (w[:, None] * table) + _RIDGE * np.eye(table.shape[1])
    p = E.shape[1]
    by_y, by_d = _explained(gram, p + 1, blocks), _explained(gram[:-1, :-1], p, blocks)
    strength = {name: by_y[name] * by_d[name] / (1 - by_d[name]) for name in blocks}
    return {name: [name] for name in sorted(blocks, key=lambda name: -strength[name])[:most]}


def _explained(gram: FloatArray, target: int, blocks: Mapping[str, list[int]]) -> dict[str, float]:
    """Partial R^2 of each block with the last column of a Gram matrix, given all others."""
    inverse = np.linalg.inv(gram[:target, :target])
    b = inverse @ gram[:target, target]
    rest = max(float(gram[target, target] - gram[:target, target] @ b), 1e-12)
    found = {}
    for name, at in blocks.items():
        gain = float(b[at] @ np.linalg.solve(inverse[np.ix_(at, at)], b[at]))
        found[name] = gain / (gain + rest)
    return found


def _own_models(est: Any) -> Nuisance | None:
    """The estimator's nuisance, if it was given models of its own."""
    own = getattr(est, "nuisance", None)
    return own if own is not None and (own.outcome_model is not None or own.propensity_model is not None) else None


@dataclass(frozen=True, eq=False)
class _Refit:
    """Nuisances fitted anew, with all covariates or without some; the same folds and draws each time."""

    E: FloatArray
    sample: Sample
    estimand: str
    t: int
    c: int
    nuisance: Nuisance | None
    seed: int

    def without(self, columns: Sequence[int]) -> tuple[float, float, float]:
        """theta, sigma2 and nu2."""
        E = self.E.copy()
        E[:, list(columns)] = 0.0  # a constant is never split, and leaves the draws of other columns as they were
        sample, used = self.sample, self.sample.used
        weight = sample.weight[used] / sample.weight[used].mean()
        # scikit-learn bins columns by weighted quantiles, many times slower: not for weights that are all the same
        given = weight if np.ptp(weight) > 0 else None
        fit = self._light if self.nuisance is None else self._full
        mu, e = np.zeros_like(sample.mu), np.full_like(sample.propensity, 1 / len(sample.arms))
        mu[used], e[used] = fit(E[used], sample.y[used], sample.arm[used], given)
        if np.ptp(sample.propensity[used], axis=0).max() < 1e-9:  # a trial's, which no covariate explains
            e = sample.propensity
        else:
            e[used] = _recalibrated(e[used], sample.arm[used], given)
        refitted = replace(sample, mu=mu, propensity=e, outcomes=None)
        theta, sigma2, _ = _moments(refitted, self.estimand, self.t, self.c)[0]
        return theta, sigma2, _second_moment(refitted, self.estimand, self.t, self.c)

    def _full(
        self, E: FloatArray, y: FloatArray, a: NDArray[np.int64], weight: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        fresh = clone(self.nuisance)
        fresh.set_params(random_state=self.seed)
        fresh.fit(E, y, a, n_arms=len(self.sample.arms), kind=self.sample.kind, sample_weight=weight)
        return fresh.out_of_fold_.mu, fresh.out_of_fold_.propensity

    def _light(
        self, E: FloatArray, y: FloatArray, a: NDArray[np.int64], weight: FloatArray | None
    ) -> tuple[FloatArray, FloatArray]:
        """Boosted trees and linear models, mixed so that the rows left out are predicted best."""
        n_arms, kind, n = len(self.sample.arms), self.sample.kind, len(y)
        mu, e = np.zeros((2, n, n_arms)), np.zeros((2, n, n_arms))
        folds = min(_LIGHT_FOLDS, int(np.bincount(a, minlength=n_arms).min()))
        X = E.astype(np.float64)

        def fit(rows: NDArray[np.int64], test: NDArray[np.int64], target: NDArray[Any], what: str) -> FloatArray:
            w = None if weight is None else weight[rows]
            leaf = int(np.clip(len(rows) // 20, 2, 20))
            trees = BoostedTrees.fit(X[rows], target[rows], w, what, self.seed, _LIGHT | {"min_samples_leaf": leaf})
            return np.stack([trees(X[test]), _linear(X[rows], target[rows], w, what, X[test])])

        for train, test in StratifiedKFold(folds, shuffle=True, random_state=self.seed).split(X, a):
            for k in range(n_arms):
                own = train[a[train] == k]
                if len(own) < 4 or np.ptp(y[own]) == 0:
                    mu[:, test, k] = np.average(y[own], weights=None if weight is None else weight[own])
                else:
                    mu[:, test, k] = fit(own, test, y, kind)[..., -1]
            e[:, test] = fit(train, test, a, "arm")
        at, w = np.arange(n), np.ones(n) if weight is None else weight
        share = np.linspace(0.0, 1.0, 21)[:, None]
        miss = (y - share * mu[0, at, a] - (1 - share) * mu[1, at, a]) ** 2 @ w
        surprise = -np.log(np.maximum(share * e[0, at, a] + (1 - share) * e[1, at, a], 1e-300)) @ w
        by = (float(share[np.argmin(loss), 0]) for loss in (miss, surprise))
        first, second = (part * pair[0] + (1 - part) * pair[1] for part, pair in zip(by, (mu, e), strict=True))
        return first, second


def _recalibrated(e: FloatArray, a: NDArray[np.int64], weight: FloatArray | None) -> FloatArray:
    """Held-out propensities moved by a logistic regression of the arms on their logits."""
    logs = np.log(np.maximum(e, _LOWEST))
    logits = logs[:, 1:] - logs[:, :1]
    return LogisticRegression(C=100.0, max_iter=1000).fit(logits, a, weight).predict_proba(logits)


def _second_moment(sample: Sample, estimand: str, t: int, c: int) -> float:
    r"""nu2 as the propensities have it, :math:`E[h^2 (1 / e_t + 1 / e_c)] / E[h]^2`: right if they are."""
    h = {"ATE": np.ones(len(sample.arm)), "ATT": sample.propensity[:, t], "ATC": sample.propensity[:, c]}[estimand]
    square = h * _representer_sum(sample, estimand, t, c, sample.used & (h > 0))
    weight = sample.weight / sample.weight.sum()
    return float(weight @ square) / float(weight @ h) ** 2


def _linear(X: FloatArray, y: NDArray[Any], weight: FloatArray | None, kind: str, new: FloatArray) -> FloatArray:
    """Predictions (n, n_outputs) of a logistic regression for classes, of a ridge regression for numbers."""
    if kind in ("arm", "binary"):
        return LogisticRegression(max_iter=1000).fit(X, y, sample_weight=weight).predict_proba(new)
    mean = Ridge().fit(X, y, sample_weight=weight).predict(new)
    return np.maximum(mean, 0.0)[:, None] if kind == "count" else mean[:, None]


def _benchmarks(
    found: OmittedVariableBias, refit: _Refit, chosen: Mapping[str, Sequence[str]], blocks: Mapping[str, list[int]]
) -> pd.DataFrame:
    """What leaving out each covariate does, and what a hidden confounder as strong would do."""
    theta, sigma2, nu2 = refit.without([])
    values, records = (found.theta, found.sigma2, found.nu2), []
    for label, names in chosen.items():
        less, residual, moment = refit.without([k for name in names for k in blocks[name]])
        cf_y = float(np.clip((residual - sigma2) / sigma2, 0.0, 1.0)) if sigma2 > 0 else 0.0
        cf_d = float(np.clip((nu2 - moment) / moment, 0.0, 1.0))
        room = np.sqrt(max(residual - sigma2, 0.0) * max(nu2 - moment, 0.0))
        rho = float(np.clip((less - theta) / room, -1.0, 1.0)) if room > 0 else np.nan
        factor = 0.0 if cf_y == 0 else np.inf if cf_d == 1 else np.sqrt(cf_y * cf_d / (1 - cf_d))
        limits = _bounds(values, found.covariance, factor, found.level, found.df)
        records.append((label, {"cf_y": cf_y, "cf_d": cf_d, "rho": rho, "delta": less - theta, **limits._asdict()}))
    return _table(sorted(records, key=lambda one: one[1]["lower"] - one[1]["upper"]))


def _table(records: list[tuple[str, dict[str, float]]]) -> pd.DataFrame:
    columns = ["cf_y", "cf_d", "rho", "delta", "lower", "upper", "ci_lower", "ci_upper"]
    index = pd.Index([label for label, _ in records], name="covariate", dtype=object)
    return pd.DataFrame([one for _, one in records], index=index, columns=columns).astype(np.float64)
