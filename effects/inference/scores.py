r"""Scores whose means estimate averages of potential outcomes, and the covariance that their spread gives.

Every estimand here averages over some population, given by how it tilts the sample: a non-negative function h of the
propensities (Li, Morgan & Zaslavsky 2018, section 2; with more than two arms Li & Li 2019). For arm k,

.. math:: \theta_k = E[h(x) m_k(x)] / E[h(x)],

and one efficient score covers them all (Hahn 1998; Crump, Hotz, Imbens & Mitnik 2006):

.. math:: \theta_k = \frac{\sum_i w_i \{H_i m_k(x_i) + 1[A_i = k]\, g_k(x_i) (y_i - m_k(x_i))\}}{\sum_i w_i H_i},
          \qquad g_k = h / e_k,\quad H_i = \partial h / \partial e_{A_i} .

H_i, not h(x_i), because the propensities are estimated: E[H | x] = h(x), and errors of e enter only times errors of m
(doubly robust, Neyman-orthogonal). The tilts, for a treated arm t and a control arm c::

    population     h                    H                                          g_t           g_c
    all (ATE)      1                    1                                          1 / e_t       1 / e_c
    treated (ATT)  e_t                  1[A = t]                                   1             e_t / e_c
    control (ATC)  e_c                  1[A = c]                                   e_c / e_t     1
    overlap (ATO)  e_t e_c/(e_t + e_c)  1[A = t] (1 - s)^2 + 1[A = c] s^2          1 - s         s

with s = e_t / (e_t + e_c). With two arms the last is e (1 - e).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from effects.inference.checks import (
    FloatArray,
    IntArray,
    check_array,
    check_codes,
    check_probabilities,
    check_received,
    check_weights,
)
from effects.inference.sample import Sample

METHODS = ("aipw", "tmle")
#: A mean this close to an outcome's bounds has no logit worth the name: the targeting step holds it that far away.
EDGE = 1e-6


def aipw_scores(y: ArrayLike, a: ArrayLike, mu: ArrayLike, propensity: ArrayLike) -> FloatArray:
    """Augmented inverse-propensity scores, one per unit and arm; their mean over units estimates E[Y(arm)].

    The score of unit i for arm k is::

        phi_k(i) = m_k(x_i) + 1[A_i = k] (y_i - m_k(x_i)) / e_k(x_i)

    Its mean is consistent when either m or e is right (double robustness). It is root-n normal even with slowly
    converging nuisances, if these were fitted on other rows than they are evaluated on (cross-fitting) and the product
    of their errors is o(n^-1/2). ``phi_k(i) - mean(phi_k)`` is the influence function.

    Parameters
    ----------
    y : array_like, shape (n_samples,)
        Outcomes, in their own unit (binary outcomes as 0 and 1).
    a : array_like of int, shape (n_samples,)
        Received arm, encoded 0..n_arms-1.
    mu : array_like, shape (n_samples, n_arms)
        m_k(x) = E[Y | x, A = k], in the unit of `y`.
    propensity : array_like, shape (n_samples, n_arms)
        e_k(x) = P(A = k | x); rows sum to one. Nothing is clipped.

    Returns
    -------
    ndarray, shape (n_samples, n_arms)

    Raises
    ------
    ValueError
        If shapes differ, a value is not finite, an arm is out of range, or a propensity is no probability or is zero
        for the arm that a row received.

    References
    ----------
    Robins, Rotnitzky & Zhao (1994), Estimation of regression coefficients when some regressors are not always observed,
    JASA 89. Chernozhukov et al. (2018), Double/debiased machine learning for treatment and structural parameters, The
    Econometrics Journal 21, section 5.1.

    Examples
    --------
    >>> from effects.inference import aipw_scores
    >>> scores = aipw_scores([1.0, 3.0], [0, 1], [[1.0, 2.0], [1.0, 2.0]], [[0.5, 0.5], [0.5, 0.5]])
    >>> scores.mean(axis=0).tolist()
    [1.0, 3.0]
    """
    means = check_array("mu", mu, ndim=2)
    n_samples, n_arms = means.shape
    outcome = check_array("y", y, shape=(n_samples,))
    prob = check_probabilities("propensity", propensity, (n_samples, n_arms))
    arm = check_codes("a", a, n_samples, n_arms)
    rows = np.arange(n_samples)
    received = check_received(prob, arm)
    scores = means.copy()
    scores[rows, arm] += (outcome - means[rows, arm]) / received
    return scores


def mean_and_se(scores: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, float]:
    r"""(Weighted) mean of influence-function scores, and its standard error.

    :math:`\psi = \sum w \phi / \sum w` and :math:`\sqrt{\sum w^2 (\phi - \psi)^2} / \sum w`, which without weights is
    :math:`sd(\phi) / \sqrt n`. Weights are sampling weights: their scale does not matter, and to double one is not to
    observe its unit twice (the mean agrees, the standard error does not).

    Parameters
    ----------
    scores : array_like, shape (n_samples,)
    sample_weight : array_like, shape (n_samples,), optional

    Returns
    -------
    value, se : float

    Raises
    ------
    ValueError
        If a score is not finite, or a weight is negative, not finite, or all are zero.

    Examples
    --------
    >>> from effects.inference import mean_and_se
    >>> mean_and_se([0.0, 2.0, 4.0, 6.0])
    (3.0, 1.118033988749895)
    """
    phi = check_array("scores", scores, ndim=1)
    weight = check_weights(sample_weight, len(phi))
    total = weight.sum()
    value = float(weight @ phi / total)
    return value, float(np.sqrt(np.sum((weight * (phi - value)) ** 2)) / total)


@dataclass(frozen=True, eq=False)
class Population:
    """Whom an average is over, and how residuals are carried there.

    Attributes
    ----------
    H : ndarray of shape (n_samples,)
        Weight of each row.
    g : ndarray of shape (n_samples, len(codes))
        Weight of its residual under every arm asked for, zero where it received another.
    member : ndarray of bool, shape (n_samples,)
        Rows that take part; H and g are zero elsewhere.
    codes : tuple of int
        The arms asked for.
    """

    H: FloatArray
    g: FloatArray
    member: NDArray[np.bool_]
    codes: tuple[int, ...]

    @classmethod
    def everyone(cls, sample: Sample, codes: Sequence[int]) -> Population:
        """All rows, as they are."""
        g = np.column_stack([_where(sample.arm == k, 1.0, sample.propensity[:, k]) for k in codes])
        return cls(np.ones(len(sample.arm)), g, sample.used, tuple(codes))

    @classmethod
    def tilted(cls, sample: Sample, estimand: str, t: int, c: int) -> Population:
        """The population of an estimand that compares arms `t` and `c`."""
        if estimand == "ATE":
            return cls.everyone(sample, (t, c))
        in_t, in_c = sample.arm == t, sample.arm == c
        e_t, e_c = sample.propensity[:, t], sample.propensity[:, c]
        if estimand == "ATT":
            H, g_t, g_c = in_t, in_t, _where(in_c, e_t, e_c)
        elif estimand == "ATC":
            H, g_t, g_c = in_c, _where(in_t, e_c, e_t), in_c
        else:
            s = _where(in_t | in_c, e_t, e_t + e_c)
            g_t, g_c = in_t * (1 - s), in_c * s
            H = g_t**2 + g_c**2
        g = np.column_stack([g_t, g_c]).astype(np.float64)
        return cls(H.astype(np.float64), g, sample.used & (in_t | in_c), (t, c))

    def within(self, rows: NDArray[np.bool_]) -> Population:
        """The part of the population that stands in some rows (a mask)."""
        return Population(self.H * rows, self.g * rows[:, None], self.member & rows, self.codes)


def averages(sample: Sample, population: Population, method: str) -> tuple[FloatArray, FloatArray]:
    """Mean potential outcomes of a population, and what each row adds to their error.

    Returns
    -------
    values : ndarray of shape (n_codes,)
    influence : ndarray of shape (n_samples, n_codes)
        Sums to zero; the sum of its squares estimates the values' variances.
    """
    codes = list(population.codes)
    mu = sample.mu[:, codes]
    weight = sample.weight
    if method == "tmle":
        mu = targeted(sample, population)
    score = population.H[:, None] * mu + population.g * (sample.y[:, None] - mu)
    total = weight @ population.H
    values = weight @ score / total
    return values, weight[:, None] * (score - population.H[:, None] * values) / total


def targeted(sample: Sample, population: Population) -> FloatArray:
    r"""Means moved so that the residuals' correction vanishes: the targeting step of TMLE.

    Per arm one step along a logistic path, :math:`\operatorname{logit} m^* = \operatorname{logit} m + \epsilon`, with
    :math:`\epsilon` of the score equation :math:`\sum w g_k (y - m^*_k) = 0`. The clever covariate g enters as weight,
    which solves the same equation as g in place of the constant and stays put where g is large. Outcomes that are not
    0/1 are taken to [0, 1] by the range of outcomes and means together, so that none is cut off; means within a
    millionth of the ends are held there.

    Returns
    -------
    ndarray of shape (n_samples, n_codes)
    """
    member, y = population.member, sample.y
    mu = sample.mu[:, list(population.codes)]
    seen = np.concatenate([y[member], mu[member].ravel()])
    low, high = (0.0, 1.0) if sample.kind == "binary" else (float(seen.min()), float(seen.max()))
    if high == low:
        return mu
    logit = special.logit(np.clip((mu - low) / (high - low), EDGE, 1 - EDGE))
    moved = mu.copy()
    for j in range(mu.shape[1]):
        weight = sample.weight * population.g[:, j]
        rows = member & (weight > 0)
        outcome = (y[rows] - low) / (high - low)
        step = _fluctuation(outcome, logit[rows, j], weight[rows])
        moved[member, j] = low + (high - low) * special.expit(logit[member, j] + step)
    return moved


def _fluctuation(y: FloatArray, offset: FloatArray, weight: FloatArray) -> float:
    """The intercept of a weighted logistic regression with offset; infinite if all outcomes lie at one end."""
    mean = weight @ y / weight.sum()
    if mean in (0.0, 1.0):
        return float(np.inf if mean == 1.0 else -np.inf)

    def score(step: float) -> float:
        return float(weight @ (y - special.expit(offset + step)) / weight.sum())

    # beyond these ends every row's mean lies below, and above, the outcomes' mean
    ends = special.logit(mean) - offset.max() - 1.0, special.logit(mean) - offset.min() + 1.0
    return float(optimize.brentq(score, *ends, xtol=1e-13))


def sandwich(
    sample: Sample, influence: FloatArray, members: NDArray[np.bool_]
) -> tuple[FloatArray, list[float | None]]:
    r"""Covariance of estimates by the spread of their influence values, and degrees of freedom for Student's t.

    Without clusters :math:`\sum_i \frac{n_{A_i}}{n_{A_i} - 1} d_i d_i^\top`, with :math:`n_a` the rows in arm a: each
    arm's part is an unbiased variance, and in a trial without covariates the sum is Welch's. The degrees of freedom are
    Welch's and Satterthwaite's of the arms' parts. With clusters, the sums over each of G clusters take the rows'
    place, with the factor :math:`G / (G - 1)` and :math:`G - 1` degrees of freedom.

    Parameters
    ----------
    sample : Sample
    influence : ndarray of shape (n_samples, n_estimates)
        d; sums to zero down each column.
    members : ndarray of bool, shape (n_samples, n_estimates)
        Rows that take part in each estimate.

    Returns
    -------
    covariance : ndarray of shape (n_estimates, n_estimates)
    df : list of float, or None where the estimate has no error

    Raises
    ------
    ValueError
        If an estimate rests on a single cluster.

    References
    ----------
    Welch (1947), Biometrika 34. Liang & Zeger (1986), Biometrika 73.
    """
    if sample.cluster is not None:
        return _clustered(influence, members, sample.cluster)
    parts = np.zeros((len(sample.arms), influence.shape[1]))
    rows = np.zeros_like(parts)
    scaled = influence.copy()
    for k in range(len(sample.arms)):
        here = sample.arm == k
        rows[k] = members[here].sum(axis=0)
        scaled[here] *= np.sqrt(rows[k] / np.maximum(rows[k] - 1, 1))
        parts[k] = np.sum(scaled[here] ** 2, axis=0)
    total = parts.sum(axis=0)
    spread = np.sum(parts**2 / np.maximum(rows - 1, 1), axis=0)
    df = [float(v**2 / s) if v > 0 and s > 0 else None for v, s in zip(total, spread, strict=True)]
    return scaled.T @ scaled, df


def _clustered(
    influence: FloatArray, members: NDArray[np.bool_], cluster: IntArray
) -> tuple[FloatArray, list[float | None]]:
    sums: FloatArray = np.column_stack([np.bincount(cluster, column) for column in influence.T]).astype(np.float64)
    for j, member in enumerate(members.T):
        n_clusters = len(np.unique(cluster[member]))
        if n_clusters < 2:
            raise ValueError(
                "all rows of an estimate lie in one cluster of groups: its error cannot be known from one cluster."
            )
        sums[:, j] *= np.sqrt(n_clusters / (n_clusters - 1))
    df: list[float | None] = [float(len(np.unique(cluster[member])) - 1) for member in members.T]
    return sums.T @ sums, df


def _where(rows: NDArray[np.bool_], top: FloatArray | float, bottom: FloatArray) -> FloatArray:
    """``top / bottom`` in some rows, zero elsewhere: nobody's propensity is divided by where it is not needed."""
    found = np.zeros(len(rows))
    np.divide(top, bottom, out=found, where=rows)
    return found
