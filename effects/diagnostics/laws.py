"""Checks of predicted distributions: calibration (PIT), coverage by groups, decomposition of the CRPS."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from effects.diagnostics.evidence import (
    Check,
    Evidence,
    Fitted,
    FloatArray,
    IntArray,
    gather,
    p_text,
    percent,
    quantile_groups,
)
from effects.effect import contrast
from effects.individual import check_level
from effects.inference.checks import effective_size
from effects.outcomes import PotentialOutcomes

_GRID = 100  # points at which the law of the PIT values is compared with the even one
_SIMULATED = 20_000
_LEADING = 24
BAND = 0.9  # probability of a histogram's band
_THRESHOLDS = 128
_LOGIT = math.log(1e6)


def arm_codes(treatment: ArrayLike, arms: Sequence[Hashable]) -> IntArray:
    """Position of each treatment in `arms`; an unknown label is an error that names it."""
    labels = np.asarray(treatment)
    code = np.full(labels.shape, -1, dtype=np.int64)
    for position, arm in enumerate(arms):
        code[labels == arm] = position
    if (code < 0).any():
        raise ValueError(f"treatment {labels[code < 0].flat[0]!r} is not one of the arms {list(arms)}.")
    return code


def pit_values(outcomes: PotentialOutcomes, y: ArrayLike, treatment: ArrayLike, random_state: int = 0) -> FloatArray:
    """Probability integral transform of every unit's outcome under its own arm, (n_samples,): uniform if calibrated.

    u_i = F_i(y_i-) + V (F_i(y_i) - F_i(y_i-)), V uniform, F_i being the predicted law of Y(a_i) given x_i (the
    randomised form, for counts and binary outcomes too: Czado, Gneiting and Held 2009, Biometrics 65, section 2.1); y
    takes its rank among the draws. Raises ValueError if lengths differ or a treatment is not an arm.
    """
    observed, arm = np.asarray(y, dtype=np.float64), arm_codes(treatment, outcomes.arms)
    if not observed.shape == arm.shape == (outcomes.n_samples,):
        raise ValueError(f"y and treatment must have one value for each of the {outcomes.n_samples} units of outcomes.")
    return _pit(outcomes, observed, arm, random_state)


def _pit(outcomes: PotentialOutcomes, observed: FloatArray, arm: IntArray, random_state: int = 0) -> FloatArray:
    share = np.random.default_rng(random_state).uniform(size=observed.size)
    step = 0.0 if outcomes.kind == "binary" else 1 / (outcomes.n_members * outcomes.n_draws)
    pit = np.empty(observed.size)
    for rows in np.array_split(np.arange(observed.size), 1 + observed.size // 10_000):  # cdf makes a copy of the draws
        block, at, own = outcomes.take(rows), observed[rows, None], (np.arange(rows.size), arm[rows])
        up_to = block.cdf(at)[own]
        below = block.cdf(np.nextafter(at.astype(np.float32), np.float32(-np.inf)))[own]
        pit[rows] = (below + share[rows] * (up_to - below + step)) / (1 + step)
    return pit


def misfit(pit: FloatArray, weight: FloatArray | None = None) -> str:
    """How PIT values leave uniformity, by the larger z of their mean (1/2) and of their mean square about it (1/12)."""
    w = np.ones(pit.size) if weight is None else weight
    n = effective_size(w)
    shift = (np.average(pit, weights=w) - 0.5) * math.sqrt(12 * n)
    spread = (np.average((pit - 0.5) ** 2, weights=w) - 1 / 12) * math.sqrt(180 * n)
    if max(abs(shift), abs(spread)) < 2:
        return "unevenly predicted"
    if abs(shift) >= abs(spread):
        return "predicted too low" if shift > 0 else "predicted too high"
    return "predicted too narrow" if spread > 0 else "predicted too wide"


# ---------------------------------------------------------------------------------------------------------- calibration


def check_calibration(
    est: Fitted,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
    n_bins: int = 10,
) -> Check:
    r"""Are the predicted distributions of every Y(a) right for the whole population?

    An arm's outcomes are seen only in those who got it. Weighted by :math:`w_i = 1 / e_a(x_i)` its rows stand for
    everyone, so that a law which is right for the treated and wrong for those who might have been is found out.

    **Continuous and count outcomes.** If the laws are right, the (randomised) probability integral transforms
    :math:`u_i` of an arm are uniform, and so is their weighted law :math:`F_w(u) = \sum_i w_i 1\{u_i \le u\} / \sum_i
    w_i`. The statistic is the weighted Cramer-von Mises distance

    .. math:: T = n_w \int_0^1 (F_w(u) - u)^2 du, \qquad n_w = (\sum_i w_i)^2 / \sum_i w_i^2,

    compared with its law under a Gaussian multiplier bootstrap (in the limit of infinitely many multipliers:
    :math:`\sum_k \lambda_k Z_k^2`, the eigenvalues being those of the weighted process' covariance on 100 points). It
    stays right where the PIT values depend on the weights.

    **Binary outcomes.** Weighted logistic regression of the outcome on the logit of its predicted probability (held
    within :math:`\pm\ln 10^6`) in each arm: intercept 0 and slope 1 if calibrated, jointly tested by a robust Wald test
    (Cox 1958, Biometrika 45; Van Calster et al. 2016, J Clin Epidemiol 74).

    Parameters
    ----------
    est : fitted estimator
    X, y, treatment, sample_weight
        As in `estimate_ate`. Rows of the fit are judged by what was held out there.
    propensity : array_like, optional
        Known propensities, used instead of estimates.
    level : float, default 0.95
        The check passes with this probability if all arms are calibrated.
    n_bins : int, default 10
        Of the histogram (or groups of predicted risk) in ``details``: per arm and bar the weighted frequency (even = 1)
        and the band in which all bars of all arms stay with probability 0.9 if the laws are right; or predicted and
        observed risk with its 95% Wilson interval.

    Returns
    -------
    Check
        ``value``: the smallest p-value, times the number of arms (Bonferroni); ``threshold``: 1 - level. ``table``: per
        arm rows, effective rows, the test and the size of the misfit (for continuous outcomes ``largest_gap``, the
        largest distance of :math:`F_w` from u; for binary ones intercept and slope). With many rows a p-value finds
        misfits too small to matter: read their size beside it.

    Raises
    ------
    ValueError
        If lengths, levels or propensities are unusable, or no held-out predictions of these rows exist.

    Notes
    -----
    Propensities are taken as known. Weak overlap leaves few effective rows: see ``n_effective``.

    References
    ----------
    Gneiting, Balabdaoui & Raftery (2007), Probabilistic forecasts, calibration and sharpness, JRSS B 69. Kosorok
    (2008), Introduction to Empirical Processes, theorem 10.4 (multiplier central limit theorem).

    Examples
    --------
    >>> check_calibration(est, X, y, treatment=arm).table  # doctest: +SKIP
    """
    size = 1 - check_level(level)
    seen = gather(est, X, y, treatment, sample_weight, propensity)
    judge = _regress if seen.kind == "binary" else _uniform
    records, details = [], []
    for k, arm in enumerate(seen.arms):
        rows, w = seen.inverse(k)
        if len(rows) < 2:
            continue
        record, fine = judge(seen, k, rows, w, n_bins)
        records.append({"arm": arm, "n": len(rows), "n_effective": effective_size(w)} | record)
        fine.insert(0, "arm", pd.Series([arm] * len(fine), dtype=object))
        details.append(fine)
    if not records:
        raise ValueError("no arm has two rows here: give more rows.")
    table = pd.DataFrame(records).set_index("arm")
    p = table["p_value"].to_numpy()
    value = float(min(1.0, len(p) * np.nanmin(p))) if np.isfinite(p).any() else float("nan")
    passed = None if math.isnan(value) or (np.isnan(p).any() and value >= size) else value >= size
    return Check(
        "calibration", passed, value, size, table, _calibration_text(table, value, size), (), pd.concat(details)
    )


def _calibration_text(table: pd.DataFrame, value: float, size: float) -> str:
    parts = []
    for arm, row in table.iterrows():
        if "slope" in table:
            parts.append(
                f"{arm}: predicted {percent(row['predicted'])}, observed {percent(row['observed'])}, "
                f"slope {row['slope']:.2f}"
            )
        else:
            bad = row["p_value"] * len(table) < size
            found = row["finding"] if bad else "no misfit found"
            parts.append(f"{arm}: {found} (largest gap {percent(row['largest_gap'])})")
    return f"{'; '.join(parts)}; adjusted {p_text(value)}."


def _uniform(
    seen: Evidence, arm: int, rows: IntArray, w: FloatArray, n_bins: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Weighted uniformity of an arm's PIT values."""
    pit = _pit(seen.outcomes.take(rows), seen.y[rows], seen.a[rows])
    statistic, p_value, gap = uniformity(pit, w)
    edges = np.linspace(0, 1, n_bins + 1)
    share = np.histogram(pit, bins=edges, weights=w / w.sum())[0]
    lower, upper = histogram_band(w, n_bins, len(seen.arms))
    fine = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "frequency": share * n_bins})
    fine["lower"], fine["upper"] = lower, upper
    record = {"statistic": statistic, "p_value": p_value, "largest_gap": gap, "mean_pit": np.average(pit, weights=w)}
    return record | {"finding": misfit(pit, w)}, fine


def histogram_band(w: FloatArray, n_bins: int, n_groups: int = 1) -> tuple[float, float]:
    """Frequencies (even = 1) between which all bars of uniform values with these weights stay, and those of `n_groups`
    - 1 more like them, with probability 0.9 or more (Bonferroni).

    A few heavy weights make the bars' law skew: up to 20,000 rows it is simulated, beyond it is normal.
    """
    tail = (1 - BAND) / (2 * n_bins * n_groups)
    v, n = w / w.sum(), len(w)
    if n > 20_000:
        half = float(stats.norm.isf(tail)) * math.sqrt((n_bins - 1) * float(np.sum(v**2)))
        return max(1 - half, 0.0), 1 + half
    rng, frequency = np.random.default_rng(0), []
    for _ in range(int(np.clip(4_000_000 // n, 200, 2000))):
        bar = (rng.random(n) * n_bins).astype(np.int64)
        frequency.append(np.bincount(bar, weights=v, minlength=n_bins) * n_bins)
    lower, upper = np.quantile(frequency, [tail, 1 - tail])
    return float(lower), float(upper)


def uniformity(u: FloatArray, weight: FloatArray) -> tuple[float, float, float]:
    """Weighted Cramer-von Mises statistic of values in [0, 1], its p-value, and the largest gap (see
    `check_calibration`)."""
    grid = (np.arange(_GRID) + 0.5) / _GRID
    cell = np.searchsorted(grid, u)  # the first grid point at or above the value
    w = weight / weight.sum()
    F = np.cumsum(np.bincount(cell, weights=w, minlength=_GRID + 1))[:-1]
    H = np.cumsum(np.bincount(cell, weights=w**2, minlength=_GRID + 1))
    total, H = float(H[-1]), H[:-1]
    low = np.minimum.outer(np.arange(_GRID), np.arange(_GRID))
    covariance = H[low] - np.outer(F, H) - np.outer(H, F) + total * np.outer(F, F)
    eigenvalues = np.maximum(np.linalg.eigvalsh(covariance), 0.0)[::-1] / _GRID / total
    statistic = float(np.mean((F - grid) ** 2) / total)
    rng = np.random.default_rng(0)
    # the small ones add up to next to a constant: their mean
    normal = rng.standard_normal((_SIMULATED, _LEADING))
    simulated = normal**2 @ eigenvalues[:_LEADING] + eigenvalues[_LEADING:].sum()
    p_value = (1 + int(np.sum(simulated >= statistic))) / (1 + _SIMULATED)
    order = np.argsort(u, kind="stable")
    above = np.cumsum(w[order])
    gap = max(float(np.max(above - u[order])), float(np.max(u[order] - above + w[order])))
    return statistic, p_value, gap


def _regress(
    seen: Evidence, arm: int, rows: IntArray, w: FloatArray, n_bins: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Weighted calibration intercept and slope of an arm's predicted risks."""
    p, y = seen.mu[rows, arm], seen.y[rows]
    beta, covariance = logistic_calibration(p, y, w)
    gap = beta - np.array([0.0, 1.0])
    p_value = float("nan")
    if np.isfinite(covariance).all():
        p_value = float(stats.chi2.sf(gap @ np.linalg.solve(covariance, gap), 2))
    se = np.sqrt(np.diag(covariance))
    group = quantile_groups(p, w, n_bins)
    records = []
    for g in range(group.max() + 1):
        own = group == g
        n, rate = effective_size(w[own]), float(np.average(y[own], weights=w[own]))
        low, high = wilson(rate, n, 0.95)
        records.append((float(np.average(p[own], weights=w[own])), rate, low, high, int(own.sum())))
    fine = pd.DataFrame(records, columns=["predicted", "observed", "lower", "upper", "n"])
    record = {"predicted": np.average(p, weights=w), "observed": np.average(y, weights=w)}
    record |= {"intercept": beta[0], "intercept_se": se[0], "slope": beta[1], "slope_se": se[1], "p_value": p_value}
    return record, fine


def logistic_calibration(p: FloatArray, y: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Intercept and slope of y on logit(p) and their robust covariance; NaN where the data do not determine them."""
    import statsmodels.api as sm
    from statsmodels.tools.sm_exceptions import PerfectSeparationError

    nothing = np.full(2, np.nan), np.full((2, 2), np.nan)
    with np.errstate(divide="ignore"):
        logit = np.clip(np.log(p) - np.log1p(-p), -_LOGIT, _LOGIT)
    if np.ptp(y) == 0 or np.ptp(logit) < 1e-9:
        return nothing
    design = np.column_stack([np.ones(len(p)), logit])
    try:
        fit = sm.GLM(y, design, family=sm.families.Binomial(), var_weights=w / w.mean()).fit()
    except (PerfectSeparationError, np.linalg.LinAlgError):
        return nothing
    mean = fit.fittedvalues
    v = w / w.mean()
    bread = np.linalg.pinv((design * (v * mean * (1 - mean))[:, None]).T @ design)
    score = design * (v * (y - mean))[:, None]
    covariance = bread @ (score.T @ score) @ bread
    return np.asarray(fit.params), covariance if np.diag(covariance).min() > 0 else nothing[1]


# ------------------------------------------------------------------------------------------------------------- coverage


def wilson(share: float, n: float, level: float) -> tuple[float, float]:
    """Wilson interval of a share of `n` (effective) rows, by statsmodels."""
    from statsmodels.stats.proportion import proportion_confint

    lower, upper = proportion_confint(share * n, n, alpha=1 - level, method="wilson")
    return float(lower), float(upper)


def coverage_by(
    est: Fitted,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    treated: Hashable = None,
    control: Hashable = None,
    nominal: float = 0.9,
    level: float = 0.95,
    n_groups: int = 10,
    per_arm: bool = False,
) -> Check:
    """Do the prediction intervals of the outcome hold as often as they say, for whom ever one looks at?

    Rows of the two arms are grouped by their predicted CATE and by their propensity of `treated`; in each group the
    share of outcomes inside the interval of their own arm is compared with `nominal`. Coverage that falls where effects
    are large, or where one arm is rare, is hidden by an average.

    Parameters
    ----------
    est, X, y, treatment, sample_weight, propensity
        As in `check_calibration`.
    treated, control : arm labels, optional
        `control` is the estimator's control arm by default, `treated` the other of two.
    nominal : float, default 0.9
        Probability of the prediction intervals.
    level : float, default 0.95
        Probability of the Wilson intervals around each coverage.
    n_groups : int, default 10
        Groups of equal weight; equal values share one.
    per_arm : bool, default False
        Group the rows of each arm apart.

    Returns
    -------
    Check
        ``value``: the coverage farthest from `nominal` in standard errors, with ``threshold`` `nominal`; passed if
        no group's Wilson interval, at a level that Bonferroni raised for all groups together, leaves `nominal` out.
        ``table``: ``by, arm, group, low, high, n, coverage, lower, upper, width``; the width is the intervals' mean, in
        the outcome's unit.

    Raises
    ------
    ValueError
        If the outcome is binary (an interval of 0 or 1 says nothing: `check_calibration` asks about its risk), or as in
        `check_calibration`.

    Notes
    -----
    Intervals by statsmodels (Wilson 1927, JASA 22); weighted rows enter with Kish's effective number. A discrete
    outcome's intervals hold at least their nominal share, often more: for counts only groups that cover less fail.

    Examples
    --------
    >>> coverage_by(est, X, y, treatment=arm).table  # doctest: +SKIP
    """
    check_level(level)
    seen = gather(est, X, y, treatment, sample_weight, propensity)
    if seen.kind == "binary":
        raise ValueError("a binary outcome has no intervals worth covering: use check_calibration for its risk.")
    t, c = contrast(seen.arms, treated, control)
    lower, upper = seen.outcomes.interval(check_level(nominal))
    at = (np.arange(len(seen.y)), seen.a)
    inside = (lower[at] <= seen.y) & (seen.y <= upper[at])
    width = upper[at] - lower[at]
    cate = seen.cate(t, c)
    records = []
    for name, values in (("cate", cate), ("propensity", seen.propensity[:, t])):
        for label, codes in [(seen.arms[k], [k]) for k in (c, t)] if per_arm else [("both", [c, t])]:
            rows = np.flatnonzero(np.isin(seen.a, codes))
            if not len(rows):
                continue
            group = quantile_groups(values[rows], seen.weight[rows], n_groups)
            for g in range(group.max() + 1):
                own = rows[group == g]
                w = seen.weight[own]
                share = float(np.average(inside[own], weights=w))
                record = (name, label, g + 1, values[own].min(), values[own].max(), len(own), effective_size(w), share)
                records.append((*record, *wilson(share, effective_size(w), level), np.average(width[own], weights=w)))
    names = ["by", "arm", "group", "low", "high", "n", "n_effective", "coverage", "lower", "upper", "width"]
    table = pd.DataFrame(records, columns=names)
    return _coverage_verdict(table, nominal, level, seen.kind)


def _coverage_verdict(table: pd.DataFrame, nominal: float, level: float, kind: str) -> Check:
    together = 1 - (1 - level) / len(table)
    bounds = [wilson(s, n, together) for s, n in zip(table["coverage"], table["n_effective"], strict=True)]
    low, high = (np.array(side) for side in zip(*bounds, strict=True))
    misses = (high < nominal) | ((low > nominal) & (kind != "count"))
    z = (table["coverage"] - nominal) * np.sqrt(table["n_effective"] / (nominal * (1 - nominal)))
    worst = table.loc[z.abs().idxmax() if kind != "count" else z.idxmin()]
    whole = table[table["by"] == "cate"]
    overall = float(np.average(whole["coverage"], weights=whole["n_effective"]))
    text = (
        f"{nominal:.0%} intervals hold {percent(overall)} of the outcomes, between {percent(table['coverage'].min())} "
        f"and {percent(table['coverage'].max())} by group; {int(misses.sum())} of {len(table)} groups differ from "
        f"{nominal:.0%} by more than chance."
    )
    return Check("coverage by group", not misses.any(), float(worst["coverage"]), nominal, table, text)


# -------------------------------------------------------------------------------------------------------- decomposition


def crps_decomposition(
    est: Fitted,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
) -> Check:
    r"""What of the mean CRPS is miscalibration, and what is gained by telling units apart?

    .. math:: \overline{\mathrm{CRPS}} = \mathrm{MCB} - \mathrm{DSC} + \mathrm{UNC}

    exactly. UNC is the score of the arm's own overall law for everyone, DSC (discrimination) what the predictions would
    gain over it once recalibrated, MCB (miscalibration) what they lose for want of recalibration. The CRPS is the
    integral over thresholds z of the Brier score of :math:`F_i(z)` for :math:`1\{y_i \le z\}`; at each threshold the
    probabilities are recalibrated by isotonic regression (the CORP decomposition: Dimitriadis et al. 2021, eqs. 4-5;
    over thresholds: Arnold et al. 2023, section 3). For a binary outcome this is the Brier score's CORP decomposition.

    Parameters
    ----------
    est, X, y, treatment, sample_weight, propensity
        As in `check_calibration`. The score is that of the rows as observed: propensities do not enter.

    Returns
    -------
    Check
        ``value``: the miscalibration, in the outcome's unit; no threshold. ``table``: per arm and for ``all`` (arms
        by their weight) ``n, crps, miscalibration, discrimination, uncertainty, skill``, the last being 1 - crps /
        uncertainty.

    Notes
    -----
    Thresholds are 128 quantiles of the outcomes and draws (every integer for counts, if they are fewer): the two gains
    are integrals over them, and UNC is what makes the sum exact, so that the rule's small error ends up there. Isotonic
    regression fits noise too, by about a :math:`n^{-2/3}` of the score: calibrated laws have a small positive MCB. The
    recalibration is done threshold by threshold, so recalibrated probabilities may cross.

    References
    ----------
    Dimitriadis, Gneiting & Jordan (2021), Stable reliability diagrams for probabilistic classifiers, PNAS 118. Arnold,
    Walz, Ziegel & Gneiting (2023), Decompositions of the mean continuous ranked probability score, arXiv:2311.14122.

    Examples
    --------
    >>> crps_decomposition(est, X, y, treatment=arm).table  # doctest: +SKIP
    """
    seen = gather(est, X, y, treatment, sample_weight, propensity)
    score = seen.outcomes.crps(seen.y, seen.a)
    records, shares = [], []
    for k, arm in enumerate(seen.arms):
        rows = np.flatnonzero(seen.a == k)
        if len(rows) < 2:
            continue
        w = seen.weight[rows] / seen.weight[rows].sum()
        total = float(w @ score[rows])
        lost, gained = _gains(seen, k, rows, w)
        records.append((arm, len(rows), total, lost, gained, total - lost + gained))
        shares.append(seen.weight[rows].sum())
    if not records:
        raise ValueError("no arm has two rows here: give more rows.")
    terms = np.average([record[2:] for record in records], axis=0, weights=shares)
    records.append(("all", sum(record[1] for record in records), *terms))
    table = pd.DataFrame(records, columns=["arm", "n", "crps", "miscalibration", "discrimination", "uncertainty"])
    table["skill"] = 1 - table["crps"] / table["uncertainty"].where(table["uncertainty"] > 0)
    total, lost, gained, unknown = (float(v) for v in terms)
    text = (
        f"Mean CRPS {total:.4g} = {lost:.4g} miscalibration - {gained:.4g} discrimination + {unknown:.4g} uncertainty: "
        f"recalibration would take off {percent(lost / total) if total > 0 else '0%'}."
    )
    return Check("CRPS decomposition", None, lost, None, table.set_index("arm"), text)


def _gains(seen: Evidence, arm: int, rows: IntArray, w: FloatArray) -> tuple[float, float]:
    """Miscalibration and discrimination of one arm's rows: integrals over thresholds."""
    from sklearn.isotonic import IsotonicRegression

    y = seen.y[rows]
    if seen.kind == "binary":
        grid, length, F = np.zeros(1), np.ones(1), 1.0 - seen.mu[rows, arm][:, None]
    else:
        own = seen.outcomes.draws[:, :, rows, arm].reshape(-1, len(rows))
        grid, length = _thresholds(own, y, seen.kind)
        F = _cdf_on(own, grid)
    lost = gained = 0.0
    isotonic = IsotonicRegression(y_min=0.0, y_max=1.0)
    for z, step, p in zip(grid, length, F.T, strict=True):
        event = (y <= z).astype(np.float64)
        better = isotonic.fit_transform(p, event, sample_weight=w)
        recalibrated = float(w @ (better - event) ** 2)
        overall = float(w @ event)
        lost += step * (float(w @ (p - event) ** 2) - recalibrated)
        gained += step * (overall * (1 - overall) - recalibrated)
    return lost, gained


def _thresholds(draws: Any, y: FloatArray, kind: str) -> tuple[FloatArray, FloatArray]:
    """Thresholds and the lengths they stand for."""
    low, high = min(float(draws.min()), float(y.min())), max(float(draws.max()), float(y.max()))
    if kind == "count" and high - low <= 2 * _THRESHOLDS and not np.mod(y, 1).any():
        grid = np.arange(math.floor(low), math.ceil(high))
        return grid.astype(np.float64), np.ones(len(grid))
    if high <= low:
        return np.array([low]), np.zeros(1)
    sample = np.concatenate([y, np.asarray(draws, dtype=np.float64).ravel()[:: max(1, draws.size // 20_000)]])
    edges = np.unique(np.concatenate([[low], np.quantile(sample, np.linspace(0, 1, _THRESHOLDS + 1)), [high]]))
    return (edges[:-1] + edges[1:]) / 2, np.diff(edges)


def _cdf_on(draws: Any, grid: FloatArray) -> FloatArray:
    """Every unit's predictive distribution function at the thresholds, (n, n_thresholds)."""
    n_draws, n = draws.shape
    F = np.empty((n, len(grid)))
    for start in range(0, n, 2048):
        block = draws[:, start : start + 2048]
        # the first threshold at or above each draw; what lies beyond the last is never counted
        cell = np.searchsorted(grid, block) + np.arange(block.shape[1]) * (len(grid) + 1)
        counts = np.bincount(cell.ravel(), minlength=block.shape[1] * (len(grid) + 1))
        F[start : start + 2048] = np.cumsum(counts.reshape(-1, len(grid) + 1), axis=1)[:, :-1] / n_draws
    return F
