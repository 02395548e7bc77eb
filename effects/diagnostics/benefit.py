"""Checks of predicted effects: their calibration, and their concordance with observed benefit."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from effects.diagnostics.evidence import Check, Evidence, Fitted, FloatArray, IntArray, gather, p_text, quantile_groups
from effects.effect import Estimate, contrast
from effects.individual import check_level
from effects.inference import mean_and_se

_BLOCK = 512


def benefit_calibration(
    est: Fitted,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    treated: Hashable = None,
    control: Hashable = None,
    n_groups: int = 5,
    level: float = 0.95,
) -> Check:
    r"""Do units with a large predicted effect have a large effect, and as large as predicted?

    The doubly robust scores :math:`\Gamma_i` (`aipw_scores` of `treated` minus `control`) have the true effect as their
    mean given x. They are averaged within quantile groups of the predicted CATE, and regressed on it,

    .. math:: \Gamma_i = \alpha + \beta \hat\tau(x_i) + \varepsilon_i ,

    the best linear predictor of the effect (Chernozhukov et al. 2018, section 2.2): :math:`\alpha = 0, \beta = 1` for
    calibrated effects; :math:`\beta < 1` where differences between units are exaggerated, :math:`\beta = 0` where they
    are noise.

    Parameters
    ----------
    est, X, y, treatment, sample_weight, propensity
        As in `check_calibration`.
    treated, control : arm labels, optional
        `control` is the estimator's control arm by default, `treated` the other of two.
    n_groups : int, default 5
        Groups of equal weight; equal predictions share one.
    level : float, default 0.95
        Probability of the intervals; the check passes with it if the effects are calibrated.

    Returns
    -------
    Check
        ``value``: p-value of the joint Wald test of intercept 0 and slope 1; ``threshold``: 1 - level. Undecided where
        the test passes but the slope's interval holds 0 too: then the data tell little either way. ``table``: per
        group ``n, predicted, effect, se, lower, upper`` in the outcome's unit. ``estimates``: "calibration intercept"
        and "calibration slope", heteroscedasticity-robust (HC1, statsmodels). Where all predictions are equal there is
        no slope: the intercept is that of the difference, and alone is tested.

    Raises
    ------
    ValueError
        As in `check_calibration`; if the arms are ambiguous; if a row's own arm has propensity 0.

    Notes
    -----
    A failure is one of the individual predictions, not of the average effect, whose estimate does not rest on them.
    Where units do not differ in their effect, any predictions that differ are exaggerated, and the check is meant to
    say so: with means by least squares on 5 covariates in a simulated trial of 300, it failed in 72% of the samples
    without effect modification, and in 10% with an effect that varied by half the outcome's residual sd; with the true
    effects as predictions in 4% (level 0.95).

    The scores' nuisances are these same held-out means, so the slope is as good as the propensities are: where both
    are wrong it leans towards 1. Held-out predictions of different folds come from different models; they are treated
    as one prediction rule. A fold's predictions were learnt from the other folds, whose chance deviations are the
    opposite of its own: where predictions are mostly noise, the slope leans below 0, not to it.

    References
    ----------
    Chernozhukov, Demirer, Duflo & Fernandez-Val (2018), Generic machine learning inference on heterogeneous treatment
    effects in randomized experiments, arXiv:1712.04802.

    Examples
    --------
    >>> benefit_calibration(est, X, y, treatment=arm).estimates  # doctest: +SKIP
    """
    size = 1 - check_level(level)
    seen = gather(est, X, y, treatment, sample_weight, propensity)
    t, c = contrast(seen.arms, treated, control)
    cate, score = seen.cate(t, c), seen.scores(t, c)
    group = quantile_groups(cate, seen.weight, n_groups)
    z = float(stats.norm.ppf(0.5 + level / 2))
    records = []
    for g in range(group.max() + 1):
        own = group == g
        effect, se = mean_and_se(score[own], seen.weight[own])
        predicted = float(np.average(cate[own], weights=seen.weight[own]))
        records.append((g + 1, int(own.sum()), predicted, effect, se, effect - z * se, effect + z * se))
    table = pd.DataFrame(records, columns=["group", "n", "predicted", "effect", "se", "lower", "upper"])
    line, p_value = _calibration_line(cate, score, seen.weight)
    common: dict[str, Any] = {"n": len(cate), "treated": seen.arms[t], "control": seen.arms[c], "level": level}
    method = "regression of AIPW scores on predicted effects, HC1"
    unit = seen.outcomes.unit
    estimates = [Estimate(*line[0], method=method, estimand="calibration intercept", unit=unit, **common)]
    passed: bool | None = p_value >= size
    word = "in keeping with calibrated effects" if passed else "the predicted effects are not calibrated"
    text = f"{word} ({p_text(p_value)})."
    text = text[0].upper() + text[1:] if len(line) == 1 else text
    if len(line) == 2:
        estimates.append(Estimate(*line[1], method=method, estimand="calibration slope", **common))
        lower, upper = estimates[1].interval()
        text = f"Calibration slope {line[1][0]:.2f} ({level:.0%} interval {lower:.2f} to {upper:.2f}): {text}"
        if passed and lower <= 0 <= upper:
            passed = None
            text = f"{text[:-1]}, and with predictions that say nothing of who benefits more."
        elif not passed:
            text = f"{text[:-1]}{_misfit(lower, upper)}."
    table, text = table.set_index("group"), text + seen.caution(t, c)
    return Check("benefit calibration", passed, p_value, size, table, text, tuple(estimates))


def _misfit(lower: float, upper: float) -> str:
    """What a failure says of the differences between units, by the slope's interval."""
    if upper < 1:
        return f", and their differences between units are {'exaggerated' if lower > 0 else 'not found in these data'}"
    return ", and their differences between units are too small" if lower > 1 else ", by their level above all"


def _calibration_line(
    cate: FloatArray, score: FloatArray, weight: FloatArray
) -> tuple[list[tuple[float, float]], float]:
    """(value, se) of intercept and slope, and the p-value of (0, 1); the difference alone for equal predictions."""
    import statsmodels.api as sm

    if np.ptp(cate) == 0:
        value, se = mean_and_se(score - cate, weight)
        return [(value, se)], float(2 * stats.norm.sf(abs(value) / se)) if se > 0 else float(value == 0)
    fit = sm.WLS(score, np.column_stack([np.ones(len(cate)), cate]), weights=weight).fit(cov_type="HC1")
    test = fit.wald_test((np.eye(2), np.array([0.0, 1.0])), use_f=False, scalar=True)
    pairs = [(float(value), float(se)) for value, se in zip(fit.params, fit.bse, strict=True)]
    return pairs, float(test.pvalue)


# ---------------------------------------------------------------------------------------------------------- concordance


def c_for_benefit(
    est: Fitted,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    treated: Hashable = None,
    control: Hashable = None,
    match: str = "benefit",
    level: float = 0.95,
) -> Check:
    r"""Concordance statistic for benefit: of two matched pairs with different observed benefit, how often has the one
    with the greater benefit the greater predicted benefit?

    Every row of the smaller of the two arms is matched with one of the larger. A pair's observed benefit is
    :math:`o = Y_t - Y_c`, its predicted benefit p the mean of both rows' predicted CATEs. Over pairs of pairs with
    :math:`o_i \ne o_j`

    .. math:: C = P(p_i > p_j \mid o_i > o_j) + \tfrac12 P(p_i = p_j \mid o_i > o_j).

    One half: the predictions do not tell who benefits more. "Benefit" is a larger outcome: where larger is worse, read
    harm. **Read it with care.** One pair's observed benefit is mostly noise, so C stays near one half even for true
    effects: values of 0.55 to 0.6 are usual, and only models on the same rows can be compared. It is not a proper
    score: wrong predictions can do better than the true effects. It says nothing of calibration. And matching by
    benefit compares like with like in a randomised trial only; for observational data take ``match="covariates"``, or
    the doubly robust counterpart of C: the Qini coefficient of `rate`, which is a covariance of rank and effect.

    Parameters
    ----------
    est, X, y, treatment, propensity, treated, control
        As in `benefit_calibration`; the propensities are not used.
    sample_weight : array_like, optional
        A pair weighs the mean of its rows' weights.
    match : {"benefit", "covariates"}
        Match rows of equal rank by predicted benefit (van Klaveren et al.; from the larger arm evenly spaced ranks are
        taken, where the paper draws them at random), or each with its nearest neighbour by the Mahalanobis distance of
        the encoded covariates. Neighbours may be used again: the standard error takes the pairs that share one
        together. Either way C describes the population of the smaller arm.
    level : float, default 0.95

    Returns
    -------
    Check
        ``value``: C, ``threshold`` 0.5; passed if the interval lies above one half, failed if below, else undecided.
        ``table``: ``c, se, lower, upper, n_pairs``, and means of the predicted and the observed benefit. ``estimates``:
        C with the standard error of a U-statistic, which a bootstrap of pairs (the paper's) gives too, with noise.

    Raises
    ------
    ValueError
        If `match` is unknown, an arm has no row, fewer than two pairs exist, or as in `check_calibration`.

    Notes
    -----
    All pairs of pairs are compared: time grows with the square of their number (10,000 pairs take a few seconds).

    References
    ----------
    van Klaveren, Steyerberg, Serruys & Kent (2018), The proposed 'concordance-statistic for benefit' provided a useful
    metric when modeling heterogeneous treatment effects, Journal of Clinical Epidemiology 94. Caveats: Xia, Gustafson &
    Sadatsafavi (2023), Methodological concerns about "concordance-statistic for benefit" as a measure of discrimination
    in predicting treatment benefit, Diagnostic and Prognostic Research 7. Standard error: Hoeffding (1948), Annals of
    Mathematical Statistics 19, section 9 (ratios of U-statistics by the delta method).

    Examples
    --------
    >>> c_for_benefit(est, X, y, treatment=arm).value  # doctest: +SKIP
    """
    check_level(level)
    if match not in ("benefit", "covariates"):
        raise ValueError(f"match must be 'benefit' or 'covariates', got {match!r}.")
    seen = gather(est, X, y, treatment, sample_weight, propensity)
    t, c = contrast(seen.arms, treated, control)
    cate = seen.cate(t, c)
    sides = [np.flatnonzero(seen.a == k) for k in (t, c)]
    if min(len(side) for side in sides) < 2:
        raise ValueError("each of the two arms needs two rows or more to form pairs.")
    E = None if match == "benefit" else np.asarray(est.schema_.encode(X), dtype=np.float64)[seen.rows]
    got, not_got = _pairs(seen, cate, sides, E)
    observed, predicted = seen.y[got] - seen.y[not_got], (cate[got] + cate[not_got]) / 2
    weight = (seen.weight[got] + seen.weight[not_got]) / 2
    larger = not_got if len(sides[0]) <= len(sides[1]) else got
    value, se = concordance(predicted, observed, weight, larger)
    estimate = Estimate(
        value,
        se,
        method=f"pairs matched by {match}, U-statistic",
        n=len(got),
        estimand="C-for-benefit",
        treated=seen.arms[t],
        control=seen.arms[c],
        level=level,
    )
    lower, upper = estimate.interval()
    record = {"c": value, "se": se, "lower": lower, "upper": upper, "n_pairs": len(got)}
    record |= {"predicted": np.average(predicted, weights=weight), "observed": np.average(observed, weights=weight)}
    passed = True if lower > 0.5 else False if upper < 0.5 else None
    text = f"C-for-benefit {value:.3f} ({level:.0%} interval {lower:.3f} to {upper:.3f}) from {len(got):,} pairs."
    return Check("C-for-benefit", passed, value, 0.5, pd.DataFrame([record]), text, (estimate,))


def _pairs(seen: Evidence, cate: FloatArray, sides: list[IntArray], E: FloatArray | None) -> tuple[IntArray, IntArray]:
    """Rows of the treated and of the control arm that form pairs, a row of the smaller arm in each."""
    # by predicted benefit, and by outcome where that is equal: the order of the table must not matter
    ranked = [side[np.lexsort((seen.weight[side], seen.y[side], cate[side]))] for side in sides]
    n_pairs = min(len(side) for side in sides)
    if E is None:
        got, not_got = (side[_spaced(len(side), n_pairs, cate[side])] for side in ranked)
        return got, not_got
    from sklearn.neighbors import NearestNeighbors

    z = _whiten(E)
    small, large = (0, 1) if len(sides[0]) <= len(sides[1]) else (1, 0)
    # a hair's breadth of noise spreads ties: of equal rows, as categories have, the search would always take the first
    rng = np.random.default_rng(0)
    few, many = (z[ranked[k]] + 1e-6 * rng.standard_normal((len(ranked[k]), z.shape[1])) for k in (small, large))
    nearest = NearestNeighbors(n_neighbors=1).fit(many).kneighbors(few, return_distance=False)[:, 0]
    pair = [ranked[small], ranked[large][nearest]]
    return pair[small], pair[large]


def _spaced(n: int, n_pairs: int, cate: FloatArray) -> IntArray:
    """`n_pairs` of `n` ranks, evenly spaced; all of them if there are no more. Ties are broken by a fixed shuffle."""
    # within a tie the rows are sorted by outcome: shuffled, or ranks of tied units would match like with like
    rng = np.random.default_rng(0)
    order = np.lexsort((rng.random(n), cate))
    picked = np.floor((np.arange(n_pairs) + 0.5) * n / n_pairs).astype(np.int64)
    return order[picked].astype(np.int64)


def _whiten(E: FloatArray) -> FloatArray:
    """Rows in units in which the Euclidean distance is Mahalanobis' (columns that say nothing are left out)."""
    centred = E - E.mean(axis=0)
    value, vector = np.linalg.eigh(centred.T @ centred / len(E))
    keep = value > 1e-8 * max(float(value.max()), 1e-300)
    return centred @ (vector[:, keep] / np.sqrt(value[keep]))


def concordance(
    predicted: FloatArray, observed: FloatArray, weight: FloatArray | None = None, cluster: IntArray | None = None
) -> tuple[float, float]:
    """Share of pairs with different `observed` values whose `predicted` ones are in the same order (ties count half),
    and its standard error; values of one cluster may depend on each other.

    Examples
    --------
    >>> import numpy as np
    >>> concordance(np.array([1.0, 2.0, 3.0]), np.array([0.0, 5.0, 1.0]))[0].__round__(3)
    0.667
    """
    n = len(predicted)
    w = np.ones(n) if weight is None else weight
    agree, differ = np.empty(n), np.empty(n)
    for start in range(0, n, _BLOCK):
        rows = slice(start, start + _BLOCK)
        order = np.sign(observed[rows, None] - observed[None, :])
        guess = np.sign(predicted[rows, None] - predicted[None, :])
        different = (order != 0).astype(np.float64)
        differ[rows] = different @ w
        agree[rows] = (0.5 * (1.0 + order * guess) * different) @ w
    total = float(w @ differ)
    if total == 0:
        raise ValueError("all pairs have the same observed benefit: no two can be compared.")
    value = float(w @ agree) / total
    # the kernel's projection: each pair's own concordance, twice because it stands in both places
    influence = 2 * (agree - value * differ) * float(w.sum()) / total
    if cluster is None:
        return value, mean_and_se(influence, w)[1]
    shared = np.bincount(np.unique(cluster, return_inverse=True)[1], weights=w * influence)
    return value, float(np.sqrt(np.sum(shared**2)) / w.sum())
