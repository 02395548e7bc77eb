"""Are the arms alike: balance before and after weighting, Table 1, and missing values by arm."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from effects.diagnostics.comparison import (
    MISSING,
    Covariate,
    covariates_of,
    kolmogorov_smirnov,
    moments,
    pairs_of,
    pooled_sd,
    population_of,
    standardised,
)
from effects.diagnostics.evidence import Check, Fitted, FloatArray, p_text, percent
from effects.individual import check_level
from effects.inference import check_weights
from effects.inference.checks import effective_size
from effects.inference.sample import CrossFitting, Sample
from effects.inference.scores import Population

Pair = tuple[FloatArray, FloatArray]  # weights of the treated and of the control group, zero elsewhere
_MEASURES = ("smd", "variance_ratio", "ks")
_SIMULATED = 2000


def check_balance(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    estimand: str = "ATE",
    threshold: float = 0.1,
    treated: Hashable = None,
    control: Hashable = None,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
) -> Check:
    r"""Does weighting by the propensities make the arms alike in every covariate?

    For each covariate, before (sample weights alone) and after the inverse-propensity weights of the estimand:

    - the standardised mean difference :math:`(\bar x_t - \bar x_c) / \sqrt{(s_t^2 + s_c^2) / 2}`, where the variances
      are those *before* weighting in both, so that before and after can be compared (Stuart 2010);
    - the variance ratio :math:`s_t^2 / s_c^2` of numbers, each side with its own weights;
    - the Kolmogorov-Smirnov distance of the two distribution functions.

    Covariates are numbers, dates and bools, each level of a category, and for each column with missing values an
    indicator ``"age: <missing>"``; all else is of the rows where the column is observed.

    **Rule.** The check passes if no absolute standardised difference after weighting exceeds `threshold`. It is about
    the propensities alone: AIPW also adjusts by its outcome model for what the weights leave.

    Parameters
    ----------
    est, X, y, treatment, sample_weight, propensity
        As in `check_overlap`. Outcomes serve to find the rows of the fit, nothing else.
    estimand : {"ATE", "ATT", "ATC", "ATO"}
        Whose weights (see `effects.inference.scores`). The sd is the pooled one for all of them.
    threshold : float, default 0.1
        Austin (2009); a convention.
    treated, control : arm labels, optional
        The pair to compare. By default, for the ATE of more than two arms, every measure is the worst pair's.

    Returns
    -------
    Check
        ``value``: the largest absolute standardised difference after weighting. ``table``: one row a covariate
        (``"sex"`` or ``"sex: f"``), with ``smd_before, smd_after, variance_ratio_before, variance_ratio_after,
        ks_before, ks_after``; variance ratios of 0/1 are left out (NaN), since their means say all. ``details``: for
        the same rows ``column, level, kind, n`` (rows observed).

    Raises
    ------
    ValueError
        As `check_overlap`.

    Notes
    -----
    In small samples differences arise by chance even in a trial: the text says how large those of one covariate may be
    (95%, from the effective numbers of rows). A difference is infinite where a covariate is constant in both arms at
    different values; it is NaN, and not judged, where an arm has no value.

    References
    ----------
    Austin (2009), Balance diagnostics for comparing the distribution of baseline covariates between treatment groups in
    propensity-score matched samples, Statistics in Medicine 28. Austin & Stuart (2015), Moving towards best practice
    when using inverse probability of treatment weighting, Statistics in Medicine 34. Stuart (2010), Matching methods
    for causal inference, Statistical Science 25. Several arms: McCaffrey et al. (2013), Statistics in Medicine 32.

    Examples
    --------
    >>> check_balance(est, X, y, treatment=arm).table  # doctest: +SKIP
    """
    if not threshold > 0:
        raise ValueError(f"threshold is a standardised difference above 0, got {threshold!r}.")
    sample = Sample.read(est, X, y, treatment=treatment, sample_weight=sample_weight, propensity=propensity)
    population = population_of(sample, estimand, treated, control)
    before, after = _pairs(sample, population)
    member = population.member & np.isin(sample.arm, population.codes)
    covariates = covariates_of(est.schema_, X, member)
    if not covariates:
        raise ValueError("no column of X varies among these rows: there is nothing to compare.")
    table = pd.DataFrame([_measures(one, before, after) for one in covariates])
    table.index = pd.Index([one.name for one in covariates], name="covariate")
    columns = ("column", "level", "kind")
    details = pd.DataFrame({name: [getattr(one, name) for one in covariates] for name in columns}, index=table.index)
    details["n"] = [int(np.sum(member & ~np.isnan(one.values))) for one in covariates]
    gap = table["smd_after"].abs()
    value = float(gap.max())
    text = _balance_text(table, estimand, threshold, after)
    passed = None if np.isnan(value) else value <= threshold
    return Check("balance", passed, value, threshold, table, text, (), details)


def _pairs(sample: Sample, population: Population) -> tuple[list[Pair], list[Pair]]:
    """For every pair of arms the row weights of both sides, without and with those of the estimand."""
    before, after = [], []
    for j, i in pairs_of(population):
        sides = [sample.used & (sample.arm == population.codes[k]) for k in (j, i)]
        before.append((sample.weight * sides[0], sample.weight * sides[1]))
        after.append((sample.weight * population.g[:, j], sample.weight * population.g[:, i]))
    return before, after


def _measures(one: Covariate, before: list[Pair], after: list[Pair]) -> dict[str, float]:
    """The worst pair's value of every measure, one column each."""
    found: dict[str, list[float]] = {f"{name}_{when}": [] for name in _MEASURES for when in ("before", "after")}
    for plain, weighted in zip(before, after, strict=True):
        scale = pooled_sd(one.values, one.binary, plain)
        for when, weights in (("before", plain), ("after", weighted)):
            found[f"smd_{when}"].append(standardised(one.values, one.binary, weights, scale))
            ratio = float("nan") if one.binary else _variance_ratio(one.values, weights)
            found[f"variance_ratio_{when}"].append(ratio)
            found[f"ks_{when}"].append(kolmogorov_smirnov(one.values, weights))
    return {name: _worst(values, name.startswith("variance")) for name, values in found.items()}


def _variance_ratio(values: FloatArray, weights: Pair) -> float:
    v1, v0 = (moments(values, w, False)[1] for w in weights)
    if v0 > 0:
        return v1 / v0
    return float("inf") if v1 > 0 else float("nan")


def _worst(values: list[float], ratio: bool) -> float:
    """The value farthest from no difference: from 1 for a ratio (in logarithms), else from 0."""
    known = np.array([value for value in values if not np.isnan(value)])
    if not known.size:
        return float("nan")
    with np.errstate(divide="ignore"):
        far = np.abs(np.log(known)) if ratio else np.abs(known)
    return float(known[far.argmax()])


def _balance_text(table: pd.DataFrame, estimand: str, threshold: float, after: list[Pair]) -> str:
    gap, was = table["smd_after"].abs(), table["smd_before"].abs()
    sizes = [(effective_size(w1), effective_size(w0)) for w1, w0 in after]
    chance = max(1.96 * float(np.sqrt(1 / n1 + 1 / n0)) if n1 > 0 and n0 > 0 else np.inf for n1, n0 in sizes)
    text = (
        f"Standardised differences above {threshold:g}: {int((was > threshold).sum())} of {len(table)} covariates "
        f"before weighting for the {estimand}, {int((gap > threshold).sum())} after"
    )
    if gap.notna().any():
        text += f"; the largest are {was.max():.2f} ({was.idxmax()}) and {gap.max():.2f} ({gap.idxmax()})"
    text += f". Chance alone makes one as large as {chance:.2f}."
    unknown = int(gap.isna().sum())
    return text + (f" {unknown} could not be judged: an arm has no value." if unknown else "")


# -------------------------------------------------------------------------------------------------------------- table 1

# `tableone` (0.9.6) fits our pandas range, but knows no weights of rows, guesses the kinds of columns anew, and brings
# openpyxl and tabulate along; so the table is made here, from the very numbers that `check_balance` compares.


def baseline_table(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    weighted: bool = False,
    estimand: str = "ATE",
    treated: Hashable = None,
    control: Hashable = None,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    skewed: float = 1.0,
) -> pd.DataFrame:
    """Table 1: who is in the study, by arm, as strings ready to print.

    Numbers are shown by mean (SD), or by median [IQR] where their skewness exceeds `skewed`; dates by median [IQR];
    bools and each level of a category by n (%) of the rows where the column is observed. Columns with missing values
    have a row ``"age: <missing>, n (%)"``.

    Parameters
    ----------
    est, X, y, treatment, sample_weight, propensity
        As in `check_balance`.
    weighted : bool, default False
        Whether to show the arms as the inverse-propensity weights of `estimand` make them: percentages and effective
        numbers of rows in place of counts, and beside them the target population.
    estimand, treated, control
        As in `check_balance`.
    skewed : float, default 1.0
        Absolute skewness of all arms' values together, from which a number is shown by its median.

    Returns
    -------
    DataFrame
        Index: ``"n"``, then ``"age, mean (SD)"``, ``"sex: f, n (%)"`` and so on. Columns: ``"Overall"`` (weighted:
        ``"Target population"``), one for each arm compared under its own name, control first, and ``"SMD"``, the
        absolute standardised difference as in `check_balance` (the worst pair's for more than two arms). All strings.

    Raises
    ------
    ValueError
        As `check_balance`.

    Notes
    -----
    Sample weights enter means, medians and percentages of both variants; counts stay counts of rows.

    Examples
    --------
    >>> print(baseline_table(est, X, y, treatment=arm).to_string())  # doctest: +SKIP
    """
    sample = Sample.read(est, X, y, treatment=treatment, sample_weight=sample_weight, propensity=propensity)
    population = population_of(sample, estimand, treated, control)
    before, after = _pairs(sample, population)
    member = population.member & np.isin(sample.arm, population.codes)
    if weighted:
        first = "Target population", sample.weight * population.H * member
        by_arm = [sample.weight * population.g[:, j] for j in range(len(population.codes))]
    else:
        first = "Overall", sample.weight * member
        by_arm = [first[1] * (sample.arm == k) for k in population.codes]
    order = np.argsort(population.codes)
    groups = [first[1], *(by_arm[j] for j in order)]
    names = [first[0], *(str(sample.arms[population.codes[j]]) for j in order), "SMD"]
    size = "n, effective" if weighted else "n"
    rows = [[*(f"{effective_size(w):,.0f}" if weighted else f"{int((w > 0).sum()):,}" for w in groups), ""]]
    labels = [size]
    for one in covariates_of(est.schema_, X, member):
        how = _how(one, first[1], skewed, weighted)
        gaps = [
            standardised(one.values, one.binary, pair, pooled_sd(one.values, one.binary, plain))
            for pair, plain in zip(after if weighted else before, before, strict=True)
        ]
        labels.append(f"{one.name}, {how}")
        rows.append([*(_cell(one.values, w, how, one.kind) for w in groups), _number(abs(_worst(gaps, False)))])
    return pd.DataFrame(rows, index=pd.Index(labels, name="covariate"), columns=names, dtype=object)


def _how(one: Covariate, weight: FloatArray, skewed: float, weighted: bool) -> str:
    if one.binary:
        return "%" if weighted else "n (%)"
    if one.kind == "date":
        return "median [IQR]"
    values = one.values[(weight > 0) & ~np.isnan(one.values)]
    spread = values.std()
    skewness = float(np.mean(((values - values.mean()) / spread) ** 3)) if spread > 0 else 0.0
    return "median [IQR]" if abs(skewness) > skewed else "mean (SD)"


def _cell(values: FloatArray, weight: FloatArray, how: str, kind: str) -> str:
    rows = (weight > 0) & ~np.isnan(values)
    if not rows.any():
        return "–"
    mean, variance = moments(values, weight, kind == "binary")
    if kind == "binary":
        share = f"{100 * mean:.1f}"
        return share if how == "%" else f"{int(values[rows].sum()):,} ({share})"
    if how == "mean (SD)":
        sd = float(np.sqrt(variance))
        digits = _decimals(sd if sd > 0 else mean)
        return f"{mean:z,.{digits}f} ({sd:,.{digits}f})"
    w = weight[rows]
    if np.ptp(w) == 0:
        low, middle, high = np.quantile(values[rows], [0.25, 0.5, 0.75])
    else:
        low, middle, high = np.quantile(values[rows], [0.25, 0.5, 0.75], weights=w, method="inverted_cdf")
    if kind == "date":
        day = [f"{pd.Timestamp(value, unit='D'):%Y-%m-%d}" for value in (middle, low, high)]
        return f"{day[0]} [{day[1]}, {day[2]}]"
    digits = _decimals(high - low if high > low else middle)
    return f"{middle:z,.{digits}f} [{low:z,.{digits}f}, {high:z,.{digits}f}]"


def _decimals(scale: float) -> int:
    """Decimals that show two or three digits of the scale: 63.1 (15.2), 1.24 (0.31), 12,345 (2,310)."""
    if not abs(scale) > 0:
        return 0
    order = int(np.floor(np.log10(abs(scale))))
    return min(max((2 if order >= 0 else 1) - order, 0), 6)


def _number(smd: float) -> str:
    return "–" if np.isnan(smd) else "∞" if np.isinf(smd) else f"{smd:.2f}"


# -------------------------------------------------------------------------------------------------------------- missing


def check_missingness(
    est: Fitted,
    X: Any,
    y: Any = None,
    *,
    treatment: Any,
    sample_weight: ArrayLike | None = None,
    level: float = 0.95,
) -> Check:
    """Are values missing as often in every arm?

    Values that are missing more often in one arm hint at arms that were measured or recruited differently. Each column
    with missing values is tested by Pearson's chi-squared test of arms by missing or not (no continuity correction), or
    where an expected count is below 5 by Fisher's exact test (more than two arms: the chi-squared statistic with both
    margins fixed, by simulation). P-values are adjusted for the number of columns by Holm.

    Parameters
    ----------
    est : fitted estimator
        Its columns and arms; it is asked for no predictions.
    X, treatment
        As in `estimate_ate`.
    y : ignored
        So that all checks are called alike.
    sample_weight : array_like, optional
        Rows of weight zero are left out. All others count once: this is a question about the table, not about the
        population it stands for.
    level : float, default 0.95
        The check passes with this probability if nothing is missing more often in one arm.

    Returns
    -------
    Check
        ``value``: the smallest adjusted p-value; ``threshold``: 1 - level. ``table``: one row a column with missing
        values, the most different first: ``n_missing``, the share missing ``overall`` and under each arm (columns named
        after them), ``difference`` (largest less smallest share), ``test``, ``p_value``, ``p_adjusted``.

    Raises
    ------
    ValueError
        If lengths differ, or the level is no probability.

    References
    ----------
    Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6.

    Examples
    --------
    >>> check_missingness(est, X, treatment=arm).table  # doctest: +SKIP
    """
    size = 1 - check_level(level)
    a = est.schema_.encode_treatment(treatment)
    if len(X) != len(a):
        raise ValueError(f"X and treatment have {len(X)} and {len(a)} rows: give the same rows, in the same order.")
    used = check_weights(sample_weight, len(a)) > 0
    arms, records, names = tuple(est.arms_), [], []
    n_columns = sum(spec.kind != "constant" for spec in est.schema_.columns)
    for one in covariates_of(est.schema_, X, np.ones(len(a), dtype=bool)):
        missing = one.values[used] == 1
        if one.level != MISSING or not missing.any():
            continue
        counts = np.array(
            [[np.sum(missing & (a[used] == k)), np.sum(~missing & (a[used] == k))] for k in range(len(arms))]
        )
        shares = counts[:, 0] / np.maximum(counts.sum(axis=1), 1)
        test, p = _independence(counts[counts.sum(axis=1) > 0])
        record = {"n_missing": int(missing.sum()), "overall": float(missing.mean())}
        record |= dict(zip(map(str, arms), shares.tolist(), strict=True))
        records.append(record | {"difference": float(np.ptp(shares)), "test": test, "p_value": p})
        names.append(one.column)
    if not records:
        return Check("missingness", True, 1.0, size, pd.DataFrame(), f"No value is missing in {n_columns} columns.")
    table = pd.DataFrame(records, index=pd.Index(names, name="column"))
    table["p_adjusted"] = holm(table["p_value"].to_numpy())
    table = table.sort_values(["p_adjusted", "p_value"], kind="stable")
    value = float(table["p_adjusted"].iloc[0])
    text = f"Values are missing in {len(table)} of {n_columns} columns"
    found = table[table["p_adjusted"] < size]
    if len(found):
        said = ", ".join(
            f"{name} ({', '.join(f'{percent(float(row[str(arm)]))} under {arm}' for arm in arms)})"
            for name, row in found.head(3).iterrows()
        )
        text += f", more often in one arm in {len(found)} of them: {said}{' and others' if len(found) > 3 else ''}"
    else:
        text += ", in none of them more often in one arm than chance would have it"
    return Check("missingness", value >= size, value, size, table, f"{text} (smallest adjusted {p_text(value)}).")


def _independence(counts: NDArray[np.int64]) -> tuple[str, float]:
    """Name and p-value of the test of arms by missing or not."""
    if len(counts) < 2 or (counts.sum(axis=0) == 0).any():
        return "none", 1.0  # all missing, or one arm: nothing to compare
    found = stats.chi2_contingency(counts, correction=False)
    if found.expected_freq.min() >= 5:
        return "chi2", float(found.pvalue)
    if len(counts) == 2:
        return "Fisher", float(stats.fisher_exact(counts).pvalue)
    # who is missing, given how many are: a draw without replacement from the arms
    drawn = np.random.default_rng(0).multivariate_hypergeometric(
        counts.sum(axis=1), int(counts[:, 0].sum()), size=_SIMULATED, method="marginals"
    )
    gap = (drawn - found.expected_freq[:, 0]) ** 2
    simulated = (gap / found.expected_freq[:, 0] + gap / found.expected_freq[:, 1]).sum(axis=1)
    return "chi2, simulated", float((1 + np.sum(simulated >= found.statistic * (1 - 1e-9))) / (1 + _SIMULATED))


def holm(p_values: ArrayLike) -> FloatArray:
    """P-values adjusted by Holm's step-down procedure (own lines: statsmodels' `multipletests` collects garbage first,
    which takes a third of a second where torch is loaded).

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    return np.minimum(adjusted, 1.0)
