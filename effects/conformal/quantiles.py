"""Weighted conformal quantiles: pure functions from conformity scores to bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from effects.individual import check_level
from effects.inference import check_array
from effects.inference.checks import effective_size

Array = NDArray[np.float64]
#: ``bounds(rows, scores)``: lower and upper ends of the prediction sets of some new rows at scores (n_rows, n_scores).
Bounds = Callable[[slice, Array], tuple[Array, Array]]

_ROUNDING = 1e-12  # 0.9 * 10 calibration weights must not become the eleventh by the last bit
_CHUNK_VALUES = 4_000_000  # endpoints sorted at once in cross-conformal intervals


def conformal_quantile(
    scores: ArrayLike, level: float, *, weights: ArrayLike | None = None, test_weights: ArrayLike = 1.0
) -> Array:
    r"""Quantile of conformity scores with the mass of the new row at infinity.

    .. math:: \inf\Big\{s : \sum_{i:\,V_i \le s} p_i(x) \ge \text{level}\Big\}, \qquad
              p_i(x) = \frac{w_i}{\sum_j w_j + w(x)}, \quad p_\infty(x) = \frac{w(x)}{\sum_j w_j + w(x)} .

    A new score lies below it with probability `level` or more, when the weights are the ratio of the new row's
    covariate density to that of the calibration rows, up to a factor (Tibshirani et al. 2019, Corollary 1). With equal
    weights it is the usual split conformal quantile, the ceil(level * (n + 1))-th smallest score.

    Parameters
    ----------
    scores : array-like of shape (n_calibration,)
        May be infinite. No scores at all leave only the mass at infinity.
    level : float
    weights : array-like of shape (n_calibration,), optional
        Zero or more; ones by default.
    test_weights : array-like of shape (n_samples,) or float
        Of the new rows, on the scale of `weights`. Infinite for a row that the calibration rows say nothing of.

    Returns
    -------
    ndarray of the shape of `test_weights`
        Infinite where the calibration rows hold less than `level` of the mass: the guarantee is empty there.

    Raises
    ------
    ValueError
        If a score or weight is NaN, a weight is negative, or `level` is no probability.

    References
    ----------
    Tibshirani, Foygel Barber, Candès & Ramdas (2019), Conformal prediction under covariate shift, NeurIPS 32, eq. 7.

    Examples
    --------
    >>> from effects.conformal import conformal_quantile
    >>> float(conformal_quantile(range(1, 10), 0.9))
    9.0
    >>> conformal_quantile([1.0, 2.0, 3.0], 0.5, weights=[1.0, 1.0, 4.0], test_weights=[1.0, 2.0, 9.0])
    array([ 3.,  3., inf])
    """
    check_level(level)
    found = np.asarray(scores, dtype=np.float64)
    values = check_array("scores", found, ndim=1, infinite=True) if found.size else found.reshape(0)
    mass = _check_weights("weights", np.ones(len(values)) if weights is None else weights)
    if mass.shape != values.shape:
        raise ValueError(f"weights has shape {mass.shape}, expected {values.shape}: one per score.")
    new = _check_weights("test_weights", test_weights, infinite=True)
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(mass[order])
    total = cumulative[-1] if len(cumulative) else 0.0
    if total == 0:
        return np.full(new.shape, np.inf)
    position = np.searchsorted(cumulative, level * (total + new) * (1 - _ROUNDING), side="left")
    return np.append(values[order], np.inf)[position]


def effective_sample_size(weights: ArrayLike) -> float:
    r"""Kish's :math:`(\sum w)^2 / \sum w^2`: how many equally weighted rows tell as much; 0 without any weight.

    Examples
    --------
    >>> from effects.conformal import effective_sample_size
    >>> effective_sample_size([1.0, 1.0, 1.0, 1.0]), effective_sample_size([9.0, 1.0])
    (4.0, 1.2195121951219512)
    """
    return effective_size(_check_weights("weights", weights))


def conformal_bounds(
    bounds: Sequence[Bounds],
    scores: Array,
    fold: NDArray[np.int64],
    level: float,
    weights: Array,
    test_weights: Array,
) -> tuple[Array, Array]:
    """Split conformal bounds of new rows from one model, CV+ bounds from the models of several folds.

    With one model, the prediction set at the weighted quantile of the scores. With several, every calibration row
    gives a set: that of the model which did not see it, at its own score. The lower bound is the weighted quantile of
    the lower ends with the new row's mass at minus infinity, and alike above (Foygel Barber et al. 2021; with
    weights, Prinster et al. 2022).

    Parameters
    ----------
    bounds : sequence of callables, one per model
        See `Bounds`.
    scores, fold, weights : ndarray of shape (n_calibration,)
        Conformity scores, which model's row it is, and weights.
    level : float
    test_weights : ndarray of shape (n_samples,)

    Returns
    -------
    lower, upper : ndarray of shape (n_samples,)

    References
    ----------
    Foygel Barber, Candès, Ramdas & Tibshirani (2021), Predictive inference with the jackknife+, Annals of Statistics
    49. Prinster, Liu & Saria (2022), JAWS: auditing predictive uncertainty under covariate shift, NeurIPS 35.
    """
    n = len(test_weights)
    if len(bounds) == 1:
        threshold = conformal_quantile(scores, level, weights=weights, test_weights=test_weights)
        lower, upper = bounds[0](slice(0, n), threshold[:, None])
        return lower[:, 0], upper[:, 0]
    order = np.argsort(fold, kind="stable")
    weights = weights[order]
    own = [scores[fold == f] for f in range(len(bounds))]
    lower, upper = np.empty(n), np.empty(n)
    size = max(1, _CHUNK_VALUES // max(len(scores), 1))
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        shape = rows.stop - rows.start
        ends = [bound(rows, np.broadcast_to(s, (shape, len(s)))) for bound, s in zip(bounds, own, strict=True)]
        low, high = (np.concatenate([end[k] for end in ends], axis=1) for k in (0, 1))
        lower[rows] = -_row_quantile(-low, level, weights, test_weights[rows])
        upper[rows] = _row_quantile(high, level, weights, test_weights[rows])
    return lower, upper


def _row_quantile(values: Array, level: float, weights: Array, test_weights: Array) -> Array:
    """`conformal_quantile` of every row of `values` (n_samples, n_calibration), each with a test weight of its own."""
    order = np.argsort(values, axis=1)
    cumulative = np.cumsum(weights[order], axis=1)
    total = weights.sum()
    if total == 0:
        return np.full(len(values), np.inf)
    target = level * (total + test_weights) * (1 - _ROUNDING)
    position = (cumulative < target[:, None]).sum(axis=1)
    ordered = np.concatenate([np.take_along_axis(values, order, axis=1), np.full((len(values), 1), np.inf)], axis=1)
    return ordered[np.arange(len(values)), position]


def _check_weights(name: str, weights: ArrayLike, infinite: bool = False) -> Array:
    array = np.asarray(weights, dtype=np.float64)
    bad = np.isnan(array) | (array < 0) | (False if infinite else np.isinf(array))
    if bad.any():
        raise ValueError(f"{name} holds {array[bad].ravel()[0]:g}: weights must be numbers of zero or more.")
    return array
