"""Overlap: could every unit have got every arm, what do the weights cost where not, and who is lost by trimming."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from effects.diagnostics.comparison import covariates_of, moments, population_of, standardised
from effects.diagnostics.evidence import Check, FloatArray, IntArray, percent
from effects.effect import contrast
from effects.inference.checks import check_choice, effective_size
from effects.inference.sample import CrossFitting, Sample
from effects.inference.scores import Population
from effects.support import crump_limit

RULES = ("crump", "fixed", "percentile", "common_range")
_QUANTILES = {"min": 0.0, "5%": 0.05, "25%": 0.25, "50%": 0.5, "75%": 0.75, "95%": 0.95, "max": 1.0}
_DEFAULTS = {"fixed": 0.1, "percentile": 0.05}


def check_overlap(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    treated: Hashable = None,
    control: Hashable = None,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    estimand: str = "ATE",
    threshold: float = 0.25,
) -> Check:
    r"""Could units like these have got every arm, and what does it cost where they hardly could?

    Inverse-propensity weights :math:`g_k = h / e_k` carry the rows of arm k to the population that an estimand averages
    over (h = 1 for the ATE, :math:`e_t` for the ATT, ...: see `effects.inference.scores`). Few rows with large weights
    tell as much as the effective number of rows, counted in two ways:

    .. math:: n_k^{\text{eff}} = \frac{(\sum_{A_i = k} w_i g_k)^2}{\sum_{A_i = k} (w_i g_k)^2}, \qquad
              n_k^{\text{exp}} = \frac{(\sum_i w_i h_i)^2}{\sum_i w_i^2 h_i^2 / e_k(x_i)} .

    The first (Kish) is of the rows that got the arm. It is blind where nobody did: units without any chance of an arm
    leave no row with a large weight. The second is its expectation over all rows, which sees them. Both are the number
    of rows of the arm where propensities are constant, as in a trial of any allocation.

    **Rule.** The check passes if in every arm both are at least `threshold` of the arm's rows. One quarter means that
    weighting at most doubles the standard error of an arm's mean. The number is a convention; see the table.

    Parameters
    ----------
    est : fitted estimator
    X, y, treatment, sample_weight
        As in `estimate_ate`.
    treated, control : arm labels, optional
        The arms compared; by default all of them for the ATE, else the control arm and the other of two.
    propensity : array_like, optional
        Known propensities, used instead of estimates.
    estimand : {"ATE", "ATT", "ATC", "ATO"}
    threshold : float, default 0.25

    Returns
    -------
    Check
        ``value``: the smallest share of effective rows. ``table``: one row an arm: ``n, n_effective, n_expected,
        share`` (the smaller of both, of the rows), quantiles of its propensity among all rows (``min, 5%, ..., max``),
        and the shares of all rows ``below_01, below_05``. ``details``: one row a unit of positive weight (index: its
        place in X), with ``arm``, ``weight`` (sample weight times g) and ``propensity_<arm>``.

    Raises
    ------
    ValueError
        If arms, the estimand or the threshold make no sense, or as in `estimate_ate`.

    Notes
    -----
    With sample weights the arm's rows are themselves counted by Kish's rule, so that the share is what the propensities
    cost. Nothing is clipped.

    References
    ----------
    Kish (1965), Survey Sampling. Petersen, Porter, Gruber, Wang & van der Laan (2012), Diagnosing and responding to
    violations in the positivity assumption, Statistical Methods in Medical Research 21. Li, Morgan & Zaslavsky (2018),
    JASA 113, theorem 1 (the variance that n_expected stands for).

    Examples
    --------
    >>> check_overlap(est, X, y, treatment=arm).table  # doctest: +SKIP
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is a share of an arm's rows, in (0, 1], got {threshold!r}.")
    sample = Sample.read(est, X, y, treatment=treatment, sample_weight=sample_weight, propensity=propensity)
    population = population_of(sample, estimand, treated, control)
    used, w = sample.used, sample.weight
    h = _tilt(sample, estimand, population)
    records = []
    for j, k in sorted(enumerate(population.codes), key=lambda column: column[1]):  # control first
        own, e = used & (sample.arm == k), sample.propensity[:, k]
        with np.errstate(divide="ignore", invalid="ignore"):
            cost = np.where(h > 0, h**2 / e, 0.0)
        square = float(np.sum(w**2 * cost))
        expected = float(w @ h) ** 2 / square
        kish = effective_size(w[own] * population.g[own, j])
        rows = effective_size(w[own])
        share = min(kish, expected) / rows if rows > 0 else 0.0
        record = {"arm": sample.arms[k], "n": int(own.sum()), "n_effective": kish, "n_expected": expected}
        record |= {"share": share} | {name: _quantile(e[used], q, w[used]) for name, q in _QUANTILES.items()}
        records.append(record | {f"below_{p:02d}": float(np.average(e < p / 100, weights=w)) for p in (1, 5)})
    table = pd.DataFrame(records).set_index("arm")
    value = float(table["share"].min())
    details = _units(sample, population)
    return Check("overlap", value >= threshold, value, threshold, table, _overlap_text(table), (), details)


def _tilt(sample: Sample, estimand: str, population: Population) -> FloatArray:
    """h(x) of the estimand's population."""
    e_t, e_c = (sample.propensity[:, k] for k in population.codes[:2])
    if estimand == "ATT":
        return e_t
    if estimand == "ATC":
        return e_c
    if estimand == "ATO":
        return np.divide(e_t * e_c, e_t + e_c, out=np.zeros(len(e_t)), where=e_t + e_c > 0)
    return np.ones(len(e_t))


def _units(sample: Sample, population: Population) -> pd.DataFrame:
    rows = np.flatnonzero(sample.used)
    columns: dict[str, Any] = {
        "arm": pd.Series([sample.arms[k] for k in sample.arm[rows]], dtype=object, index=rows),
        "weight": sample.weight[rows] * population.g[rows].sum(axis=1),  # g is zero under other arms
    }
    for k, arm in enumerate(sample.arms):
        columns[f"propensity_{arm}"] = sample.propensity[rows, k]
    return pd.DataFrame(columns, index=rows)


def _overlap_text(table: pd.DataFrame) -> str:
    parts = []
    for arm, row in table.iterrows():
        low = f", {percent(row['below_05'])} of all rows with a propensity below 0.05" if row["below_05"] else ""
        low += f" and {percent(row['below_01'])} below 0.01" if row["below_01"] else ""
        least = min(row["n_effective"], row["n_expected"])
        parts.append(f"{arm}: {int(row['n'])} rows weigh as {least:.0f} (share {row['share']:.2f}){low}")
    return f"{'; '.join(parts)}."


def _quantile(values: FloatArray, q: float, weight: FloatArray) -> float:
    """Weighted quantile: the smallest value up to which the share q of the weight lies."""
    return float(np.quantile(values, q, weights=weight, method="inverted_cdf"))


# ------------------------------------------------------------------------------------------------------------- trimming


@dataclass(frozen=True, eq=False)
class Trimming:
    """Which rows a trimming rule keeps, and who is lost by it.

    Attributes
    ----------
    keep : ndarray of bool, shape (n_samples,)
        In the order of the rows of X: ``X[trimming.keep]``.
    rule : str
    threshold : float
        The cut-off that was used or found: of the propensity, of the percentiles, or (rule "crump" with more than two
        arms) of the sum of inverse propensities; 0 for "common_range".
    n, n_kept : int
        Rows of positive weight, before and after.
    table : DataFrame
        One row a covariate, the most different first: its mean among those ``kept`` and ``lost`` (shares for levels),
        and ``smd``, their difference (lost minus kept) over the pooled sd. Outcomes are not looked at.
    by_arm : DataFrame
        One row an arm: ``n, n_kept, n_lost, share_lost``.
    limits : DataFrame
        One row an arm compared: the ``lower`` and ``upper`` limit of its propensity; empty where the rule is on the sum
        of inverse propensities of more than two arms.
    text : str
    arms : tuple of labels
    arm : ndarray of int, shape (n_samples,)
    propensity : ndarray of shape (n_samples, n_arms)

    Examples
    --------
    >>> kept = trim(est, X, y, treatment=arm).keep  # doctest: +SKIP
    >>> est.fit(X[kept], y[kept], treatment=arm[kept])  # doctest: +SKIP
    """

    keep: NDArray[np.bool_] = field(repr=False)
    rule: str
    threshold: float
    n: int
    n_kept: int
    table: pd.DataFrame = field(repr=False)
    by_arm: pd.DataFrame = field(repr=False)
    limits: pd.DataFrame = field(repr=False)
    text: str
    arms: tuple[Hashable, ...]
    arm: IntArray = field(repr=False)
    propensity: FloatArray = field(repr=False)

    def __str__(self) -> str:
        return self.text


def trim(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    rule: str = "crump",
    threshold: float | None = None,
    treated: Hashable = None,
    control: Hashable = None,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
) -> Trimming:
    r"""Find the rows for which the arms can be compared, and describe those who are lost.

    An estimate on the kept rows answers for them alone: say who they are. Fit anew on them, propensities included.

    Parameters
    ----------
    est, X, y, treatment, sample_weight, propensity
        As in `estimate_ate`. Outcomes serve to find the rows of the fit; no rule looks at them.
    rule : {"crump", "fixed", "percentile", "common_range"}
        - "crump": the set on which an average effect has the smallest variance (equal noise everywhere):
          :math:`\alpha \le e \le 1 - \alpha` with the optimal :math:`\alpha` computed (Crump et al. 2009, corollary 1);
          with more than two arms :math:`\sum_k 1 / e_k \le \lambda` (Yang et al. 2016).
        - "fixed": every :math:`e_k \ge` `threshold`, 0.1 by default (Crump et al.'s rule of thumb for two arms).
        - "percentile": :math:`e_k` is at least its `threshold` quantile (0.05 by default) among the rows that got arm
          k, for every arm. With two arms: from that quantile of the treated up to the 1 - `threshold` quantile of the
          controls (Sturmer et al. 2010; for several arms Yoshida et al. 2019).
        - "common_range": :math:`e_k` lies within the range that the rows of every arm reach, for every arm (Dehejia &
          Wahba 1999).
    threshold : float, optional
        For "fixed" and "percentile".
    treated, control : arm labels, optional
        With more than two arms: trim for the comparison of these two only. By default all arms.

    Returns
    -------
    Trimming

    Raises
    ------
    ValueError
        If the rule is unknown or takes no threshold, the threshold is out of range, or no row of an arm is left.

    Notes
    -----
    Limits count themselves as inside. With sample weights the quantiles and means are weighted. Rows of weight zero are
    kept or not by the same limits, and not counted.

    The rules are symmetric in the arms, for the ATE. An ATT weights controls by e / (1 - e), and suffers only where the
    propensity of the treated arm is close to one: there is no need to lose the rows below the lower limit for its sake
    (most are controls that hardly count), and those above the upper one are treated units of whom it then says nothing.
    Trim for it by ``trimming.propensity`` and the upper limit alone; for an ATC by the lower limit alone.

    References
    ----------
    Crump, Hotz, Imbens & Mitnik (2009), Dealing with limited overlap in estimation of average treatment effects,
    Biometrika 96. Yang, Imbens, Cui, Faries & Kadziola (2016), Propensity score matching and subclassification in
    observational studies with multi-level treatments, Biometrics 72. Sturmer, Rothman, Avorn & Glynn (2010), Treatment
    effects in the presence of unmeasured confounding: dealing with observations in the tails of the propensity score
    distribution, American Journal of Epidemiology 172. Yoshida et al. (2019), Multinomial extension of propensity score
    trimming methods, American Journal of Epidemiology 188. Dehejia & Wahba (1999), JASA 94.

    Examples
    --------
    >>> print(trim(est, X, y, treatment=arm))  # doctest: +SKIP
    """
    check_choice("rule", rule, RULES)
    sample = Sample.read(est, X, y, treatment=treatment, sample_weight=sample_weight, propensity=propensity)
    codes = list(range(len(sample.arms)))
    if treated is not None or control is not None:
        codes = sorted(contrast(sample.arms, treated, control))
    cut = _checked_threshold(rule, threshold, len(codes))
    keep, cut, limits = _kept(sample, codes, rule, cut)
    used = sample.used
    for k in codes:
        if not (keep & used & (sample.arm == k)).any():
            raise ValueError(
                f"rule {rule!r} keeps no row of arm {sample.arms[k]!r}: the arms cannot be compared on these rows. Use "
                "a milder rule, or a comparison group that is more alike."
            )
    counts = np.array([[np.sum(used & (sample.arm == k) & side) for side in (keep, ~keep)] for k in codes])
    by_arm = pd.DataFrame({"n": counts.sum(axis=1), "n_kept": counts[:, 0], "n_lost": counts[:, 1]})
    by_arm["share_lost"] = by_arm["n_lost"] / by_arm["n"]
    by_arm.index = pd.Index([sample.arms[k] for k in codes], name="arm", tupleize_cols=False)
    member = used & np.isin(sample.arm, codes)
    table = _lost(est, X, sample, member, keep)
    text = _trim_text(rule, cut, limits, by_arm, table)
    n, n_kept = int(by_arm["n"].sum()), int(by_arm["n_kept"].sum())
    return Trimming(keep, rule, cut, n, n_kept, table, by_arm, limits, text, sample.arms, sample.arm, sample.propensity)


def _checked_threshold(rule: str, threshold: float | None, n_arms: int) -> float:
    if rule not in _DEFAULTS:
        if threshold is not None:
            raise ValueError(f"rule {rule!r} finds its own limits: leave threshold out, or use rule='fixed'.")
        return 0.0
    cut = _DEFAULTS[rule] if threshold is None else float(threshold)
    most = 1 / n_arms if rule == "fixed" else 0.5
    if not 0 <= cut < most:
        raise ValueError(f"threshold of rule {rule!r} must lie in [0, {most:.3g}), got {threshold!r}.")
    return cut


def _kept(sample: Sample, codes: list[int], rule: str, cut: float) -> tuple[NDArray[np.bool_], float, pd.DataFrame]:
    """Rows inside the limits, rows of other arms left out; the cut-off; limits of each arm's propensity."""
    used, w, e = sample.used, sample.weight, sample.propensity[:, codes]
    inside = np.isin(sample.arm, codes)
    lower, upper = np.zeros(len(codes)), np.ones(len(codes))
    arms = pd.Index([sample.arms[k] for k in codes], name="arm", tupleize_cols=False)
    if rule == "crump":
        population = used & inside
        largest = crump_limit(e[population], w[population])
        with np.errstate(divide="ignore"):
            # a hair's breadth: known propensities that are equal on paper may differ by rounding
            inside &= (1 / e).sum(axis=1) <= largest * (1 + 1e-9)
        if len(sample.arms) > 2:
            return inside, largest, pd.DataFrame(columns=["lower", "upper"], dtype=np.float64)
        cut = 0.5 - float(np.sqrt(max(0.25 - 1 / largest, 0.0)))
        lower[:], upper[:] = cut, 1 - cut
        return inside, cut, pd.DataFrame({"lower": lower, "upper": upper}, index=arms)
    for j, k in enumerate(codes):
        own = used & (sample.arm == k)
        if rule == "fixed":
            lower[j] = cut
        elif rule == "percentile":
            lower[j] = _quantile(e[own, j], cut, w[own])
        else:
            reach = [e[used & (sample.arm == other), j] for other in codes]
            lower[j], upper[j] = max(one.min() for one in reach), min(one.max() for one in reach)
    inside &= ((e >= lower) & (e <= upper)).all(axis=1)
    if len(sample.arms) == 2:  # one minus the other's: both limits of either
        lower, upper = np.maximum(lower, 1 - upper[::-1]), np.minimum(upper, 1 - lower[::-1])
    return inside, cut, pd.DataFrame({"lower": lower, "upper": upper}, index=arms)


def _lost(
    est: CrossFitting, X: Any, sample: Sample, member: NDArray[np.bool_], keep: NDArray[np.bool_]
) -> pd.DataFrame:
    """Covariates of those kept and those lost, the most different first."""
    sides = sample.weight * (member & ~keep), sample.weight * (member & keep)
    records = [
        (one.name, moments(one.values, sides[1], one.binary)[0], moments(one.values, sides[0], one.binary)[0],
         standardised(one.values, one.binary, sides))
        for one in covariates_of(est.schema_, X, member)
    ]  # fmt: skip
    table = pd.DataFrame(records, columns=["covariate", "kept", "lost", "smd"]).set_index("covariate")
    return table.sort_values("smd", key=lambda column: -column.abs(), kind="stable")


def _trim_text(rule: str, cut: float, limits: pd.DataFrame, by_arm: pd.DataFrame, table: pd.DataFrame) -> str:
    words = {"crump": "Crump's optimal rule", "fixed": "The fixed limit", "percentile": "The percentile rule"}
    where = f"sum of inverse propensities up to {cut:.3g}"
    if len(limits) == 2:
        where = f"propensity of {limits.index[1]} from {limits['lower'].iloc[1]:.3g} to {limits['upper'].iloc[1]:.3g}"
    elif len(limits):
        where = ", ".join(f"{arm} at least {low:.3g}" for arm, low in limits["lower"].items())
    n, lost = int(by_arm["n"].sum()), int(by_arm["n_lost"].sum())
    text = f"{words.get(rule, 'The common range')} ({where}) keeps {n - lost:,} of {n:,} rows"
    if not lost:
        return f"{text}: nobody is lost."
    arms = ", ".join(f"{row['n_lost']:.0f} of {row['n']:.0f} under {arm}" for arm, row in by_arm.iterrows())
    text += f"; lost are {arms}"
    far = table[table["smd"].abs() > 0.1]
    if far.empty:
        return f"{text}, who differ from those kept in no covariate by more than 0.1 sd."
    most = ", ".join(f"{name} ({smd:+.2f} sd)" for name, smd in far["smd"].head(3).items())
    return f"{text}, who differ from those kept most in {most}. Estimates on the kept rows are for them alone."
