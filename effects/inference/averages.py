"""Average effects over a population: ATE, ATT, ATC and ATO, as differences, ratios, odds ratios or NNT."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from effects.effect import Estimate, contrast
from effects.individual import check_level
from effects.inference.checks import FloatArray, check_choice
from effects.inference.sample import CrossFitting, Sample, fitted_arms
from effects.inference.scores import METHODS, Population, averages, sandwich

SCALES = ("difference", "ratio", "odds ratio", "nnt")
_LINKS = {"difference": "identity", "ratio": "log", "odds ratio": "log", "nnt": "reciprocal"}
_UNITS = {
    ("difference", "binary"): "risk difference",
    ("ratio", "binary"): "risk ratio",
    ("ratio", "count"): "rate ratio",
    ("ratio", "continuous"): "ratio of means",
    ("odds ratio", "binary"): "odds ratio",
    ("nnt", "binary"): "number needed to treat",
}


def estimate_ate(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    scale: str = "difference",
    method: str = "aipw",
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
) -> Estimate:
    r"""Average treatment effect, E[Y(treated)] against E[Y(control)], by cross-fitted AIPW or TMLE.

    By default the mean of ``phi_treated - phi_control`` (see `aipw_scores`) with held-out nuisances; the standard error
    is that of the influence function. For a binary outcome the value is a risk difference.

    Parameters
    ----------
    est : fitted estimator
        Gives the arms, the encoding, and by ``est.cross_fitted(...)`` means and propensities of the rows by models that
        had not seen them.
    X : DataFrame or ndarray, shape (n_samples, n_features)
        The population that is averaged over.
    y : array_like, shape (n_samples,)
    treatment : array_like, shape (n_samples,)
        Arm labels.
    treated, control : arm labels, optional
        `control` defaults to the estimator's control arm, `treated` to the other arm of two; with more arms name it.
    scale : {"difference", "ratio", "odds ratio", "nnt"}
        How the two mean outcomes are compared. "ratio" is the risk ratio of a binary outcome, the rate ratio of counts,
        the ratio of means of an outcome that is never negative; "odds ratio" (marginal, not of one patient) and "nnt"
        are for binary outcomes. Ratios have intervals by the delta method on the log scale. "nnt" is one over the
        risk difference: positive, how many are treated for one event more; negative, for one event fewer. Which of them
        Altman calls benefit (NNTB) and harm (NNTH) depends on whether the event is wanted; see `Estimate.interval` for
        intervals that run through infinity.
    method : {"aipw", "tmle"}
        "tmle" first moves the held-out means along a logistic path until the residuals' correction vanishes, so that
        estimated means stay in the outcome's range (risks in [0, 1]); see the notes.
    sample_weight : array_like, shape (n_samples,), optional
        Sampling weights, zero or more.
    groups : array_like, shape (n_samples,), optional
        Cluster labels: rows of a cluster may depend on each other. The nuisances' folds ignore clusters.
    propensity : array_like, shape (n_samples,) or (n_samples, n_arms), optional
        Known propensities, as in a trial: of the second of two arms, or of all arms in the order of ``est.arms_``.
    level : float, default 0.95
        Level of the interval that the Estimate shows by default.

    Returns
    -------
    Estimate
        In the unit of `y`, or on the scale asked for.

    Raises
    ------
    ValueError
        If the arms are ambiguous or unknown, the scale does not fit the outcome, or weights, clusters, propensities,
        outcomes or treatments are not usable.
    sklearn.exceptions.NotFittedError
        If `est` is not fitted.

    Warns
    -----
    UserWarning
        Once, when a propensity is below 0.01: how many rows, and which effective sample size is left. Nothing is
        clipped.

    Notes
    -----
    Errors are Student's t. Without clusters each arm's rows give a part of the variance, with its own n - 1, and the
    degrees of freedom are Welch's and Satterthwaite's: in a trial without covariates this is Welch's t test, exactly.
    With G clusters they are G - 1 (Liang & Zeger's sandwich, times G / (G - 1)).

    "tmle" follows van der Laan & Rubin (2006), one logistic step per arm; an outcome that is not 0/1 is taken to [0, 1]
    by its range (Gruber & van der Laan 2010). Two deviations: the clever covariate 1 / e is the step's weight, not its
    direction (steadier where overlap is weak), and the range is that of outcomes and predicted means together, so that
    no mean has to be cut off. Nothing needs iterating. The standard error is that of the influence function.

    References
    ----------
    Robins, Rotnitzky & Zhao (1994), JASA 89; Chernozhukov et al. (2018), The Econometrics Journal 21, section 5.1.
    Altman (1998), Confidence intervals for the number needed to treat, BMJ 317. Van der Laan & Rubin (2006), Targeted
    maximum likelihood learning, Int. J. Biostatistics 2. Gruber & van der Laan (2010), A targeted maximum likelihood
    estimator of a causal effect on a bounded continuous outcome, Int. J. Biostatistics 6.

    Examples
    --------
    >>> from effects import DiffPO, estimate_ate
    >>> from effects.datasets import load_ihdp
    >>> data = load_ihdp(replication=1)  # doctest: +SKIP
    >>> est = DiffPO(random_state=0).fit(data.X, data.y, treatment=data.treatment)  # doctest: +SKIP
    >>> estimate_ate(est, data.X, data.y, treatment=data.treatment).interval()  # doctest: +SKIP
    """
    asked = _Asked("ATE", treated, control, scale, method, level)
    return _estimate(est, X, y, treatment, asked, sample_weight=sample_weight, groups=groups, propensity=propensity)


def estimate_att(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    scale: str = "difference",
    method: str = "aipw",
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
) -> Estimate:
    r"""Average effect of `treated` against `control` in the units that received `treated`.

    Their own outcomes are averaged as they are; what they would have had under `control` comes from the efficient score
    (Hahn 1998), doubly robust:

    .. math:: \theta_c = \frac{\sum_i w_i \{1[A_i = t]\, m_c(x_i) + 1[A_i = c] \frac{e_t(x_i)}{e_c(x_i)}
              (y_i - m_c(x_i))\}}{\sum_i w_i 1[A_i = t]} .

    With more than two arms the population is still that of the units that received `treated`; those of third arms take
    no part.

    Parameters
    ----------
    est, X, y, treatment, treated, control, scale, method, sample_weight, groups, propensity, level
        As in `estimate_ate`. With known propensities the score is valid, but no longer the most efficient.

    Returns
    -------
    Estimate
        `n` counts the rows of the two arms.

    Raises
    ------
    ValueError, sklearn.exceptions.NotFittedError
        As `estimate_ate`.

    Warns
    -----
    UserWarning
        As `estimate_ate`, of the control arm alone.

    References
    ----------
    Hahn (1998), On the role of the propensity score in efficient semiparametric estimation of average treatment
    effects, Econometrica 66, theorem 1.

    Examples
    --------
    >>> estimate_att(est, X, y, treatment=arm, treated="drug").interval()  # doctest: +SKIP
    """
    asked = _Asked("ATT", treated, control, scale, method, level)
    return _estimate(est, X, y, treatment, asked, sample_weight=sample_weight, groups=groups, propensity=propensity)


def estimate_atc(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    scale: str = "difference",
    method: str = "aipw",
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
) -> Estimate:
    """Average effect of `treated` against `control` in the units that received `control`.

    `estimate_att` with the arms' roles exchanged, and so its sign.

    Parameters
    ----------
    est, X, y, treatment, treated, control, scale, method, sample_weight, groups, propensity, level
        As in `estimate_ate`.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError, sklearn.exceptions.NotFittedError
        As `estimate_ate`.

    Examples
    --------
    >>> estimate_atc(est, X, y, treatment=arm, treated="drug").interval()  # doctest: +SKIP
    """
    asked = _Asked("ATC", treated, control, scale, method, level)
    return _estimate(est, X, y, treatment, asked, sample_weight=sample_weight, groups=groups, propensity=propensity)


def estimate_ato(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    scale: str = "difference",
    method: str = "aipw",
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
) -> Estimate:
    r"""Average effect in the overlap population: the units that might well have received either arm.

    Each unit counts by e (1 - e), its chance of being where the arms can be compared. No propensity is divided by, so
    that weak overlap does no harm: the estimand gives way, not the estimate. Report whom it describes.

    With more than two arms the weight is the harmonic mean of the two arms' propensities, :math:`e_t e_c / (e_t +
    e_c)`: that is the overlap population among the units that received one of the two.

    Parameters
    ----------
    est, X, y, treatment, treated, control, scale, method, sample_weight, groups, propensity, level
        As in `estimate_ate`.

    Returns
    -------
    Estimate
        `n` counts the rows of the two arms.

    Raises
    ------
    ValueError, sklearn.exceptions.NotFittedError
        As `estimate_ate`.

    Notes
    -----
    The score is the efficient one for estimated propensities. For a difference of two arms it solves Robinson's (1988)
    equation, :math:`\sum (A - e) \{y - m - \theta (A - e)\} = 0` with :math:`m = e m_1 + (1 - e) m_0`: the overlap
    population is what a partially linear model averages over.

    References
    ----------
    Li, Morgan & Zaslavsky (2018), Balancing covariates via propensity score weighting, JASA 113. Crump, Hotz, Imbens &
    Mitnik (2006), Moving the goalposts, NBER technical working paper 330. Li & Li (2019), Propensity score weighting
    for causal inference with multiple treatments, Ann. Appl. Stat. 13.

    Examples
    --------
    >>> estimate_ato(est, X, y, treatment=arm, treated="drug").interval()  # doctest: +SKIP
    """
    asked = _Asked("ATO", treated, control, scale, method, level)
    return _estimate(est, X, y, treatment, asked, sample_weight=sample_weight, groups=groups, propensity=propensity)


def outcome_means(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    method: str = "aipw",
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
) -> dict[Hashable, Estimate]:
    """Mean potential outcome E[Y(arm)] of every arm by cross-fitted AIPW.

    The differences of these values are those of `estimate_ate`; their standard errors do not add, because the arms
    share their rows: ask `estimate_ate` for a difference.

    Parameters
    ----------
    est, X, y, treatment, method, sample_weight, groups, propensity, level
        As in `estimate_ate`.

    Returns
    -------
    dict of arm label to Estimate
        In the order of the arms, control first; for a binary outcome the values are risks.

    Raises
    ------
    ValueError, sklearn.exceptions.NotFittedError
        As in `estimate_ate`.

    Examples
    --------
    >>> means = outcome_means(est, X, y, treatment=arm)  # doctest: +SKIP
    >>> means["placebo"].value  # doctest: +SKIP
    """
    check_level(level)
    check_choice("method", method, METHODS)
    sample = Sample.read(
        est, X, y, treatment=treatment, sample_weight=sample_weight, groups=groups, propensity=propensity
    )
    codes = range(len(sample.arms))
    check_rows(sample, sample.used, codes)
    sample.warn_overlap(codes)
    values, influence = averages(sample, Population.everyone(sample, codes), method)
    covariance, df = sandwich(sample, influence, np.tile(sample.used[:, None], len(codes)))
    unit, used = "risk" if sample.kind == "binary" else "", int(sample.used.sum())
    return {
        label: Estimate(
            value=float(values[k]),
            se=float(np.sqrt(covariance[k, k])),
            method=method_name(method, sample),
            n=used,
            estimand="mean outcome",
            treated=label,
            unit=unit,
            level=level,
            df=df[k],
        )
        for k, label in enumerate(sample.arms)
    }


@dataclass(frozen=True)
class _Asked:
    """What a user wants to know, whoever answers."""

    estimand: str
    treated: Hashable | None
    control: Hashable | None
    scale: str
    method: str
    level: float


def _estimate(est: CrossFitting, X: Any, y: Any, treatment: Any, asked: _Asked, **rows: Any) -> Estimate:
    check_options(asked.scale, asked.method, asked.level)
    t, c = contrast(fitted_arms(est), asked.treated, asked.control)
    sample = Sample.read(est, X, y, treatment=treatment, **rows)
    population = Population.tilted(sample, asked.estimand, t, c)
    check_rows(sample, population.member, (t, c))
    codes = {"ATE": (t, c), "ATT": (c,), "ATC": (t,), "ATO": ()}[asked.estimand]
    sample.warn_overlap(codes, {t: population.g[:, 0], c: population.g[:, 1]})
    values, influence = averages(sample, population, asked.method)
    linked, error = compare(sample, values, influence, asked.scale, (t, c))
    covariance, df = sandwich(sample, error[:, None], population.member[:, None])
    value, se = unlinked(linked, float(np.sqrt(covariance[0, 0])), asked.scale)
    return Estimate(
        value=value,
        se=se,
        method=method_name(asked.method, sample),
        n=int(population.member.sum()),
        estimand=asked.estimand,
        treated=sample.arms[t],
        control=sample.arms[c],
        unit=unit_of(asked.scale, sample.kind),
        level=asked.level,
        df=df[0],
        link=_LINKS[asked.scale],
    )


# ---------------------------------------------------------------------------------------------- shared with subgroups


def check_options(scale: str, method: str, level: float) -> None:
    """The words of a call that need no data to be checked."""
    check_level(level)
    check_choice("scale", scale, SCALES)
    check_choice("method", method, METHODS)


def check_rows(sample: Sample, member: NDArray[np.bool_], codes: Sequence[int], where: str = "") -> None:
    """Two rows or more of every arm that is compared: one has no spread to judge the error by."""
    for k in codes:
        n = int(np.count_nonzero(member & (sample.arm == k)))
        if n < 2:
            raise ValueError(
                f"arm {sample.arms[k]!r} has {n} row(s) of positive weight{where}: an average and its error need at "
                "least two. Merge groups, or leave them out."
            )


def compare(
    sample: Sample, values: FloatArray, influence: FloatArray, scale: str, codes: tuple[int, int]
) -> tuple[float, FloatArray]:
    """Two means on a scale's link, and the influence values of that (delta method)."""
    if (scale, sample.kind) not in _UNITS and scale != "difference":
        raise ValueError(
            f"scale={scale!r} is for binary outcomes, y is {sample.kind}: use scale='difference' or 'ratio'."
        )
    if scale == "ratio" and sample.y[sample.used].min() < 0:
        raise ValueError(
            f"scale='ratio' is for outcomes that are never negative, y goes down to {sample.y[sample.used].min():g}: "
            "use scale='difference'."
        )
    if scale in ("difference", "nnt"):
        if scale == "nnt" and values[0] == values[1]:
            raise ValueError("the risk difference is exactly 0, so that no number is needed to treat: report it.")
        return float(values[0] - values[1]), influence[:, 0] - influence[:, 1]
    high = 1.0 if scale == "odds ratio" else np.inf
    for value, k in zip(values, codes, strict=True):
        if not 0 < value < high:
            raise ValueError(
                f"the mean outcome of arm {sample.arms[k]!r} is estimated as {value:.4g}, which has no {scale}: use "
                "method='tmle', which stays in the outcome's range, or scale='difference'."
            )
    if scale == "ratio":
        slope = 1 / values
        return float(np.log(values[0] / values[1])), influence @ (slope * [1, -1])
    slope = 1 / (values * (1 - values))
    logit = np.log(values / (1 - values))
    return float(logit[0] - logit[1]), influence @ (slope * [1, -1])


def unlinked(linked: float, se: float, scale: str) -> tuple[float, float]:
    """Value and standard error as they are reported, from those on the link's scale."""
    link = _LINKS[scale]
    if link == "log":
        return float(np.exp(linked)), float(np.exp(linked) * se)
    if link == "reciprocal":
        return 1 / linked, se / linked**2
    return linked, se


def link_of(scale: str) -> str:
    """The scale on which the Wald interval is symmetric."""
    return _LINKS[scale]


def unit_of(scale: str, kind: str) -> str:
    """What the value is called; "" for a difference in the outcome's own unit."""
    return _UNITS.get((scale, kind), "")


def method_name(method: str, sample: Sample) -> str:
    """For the paper's method section."""
    return f"{method.upper()}, cross-fitted{sample.clustering}"
