"""Population averages with honest standard errors: cross-fitted AIPW.

The error of an average effect comes from the influence function of its estimator, never from outcome draws: draws
describe single patients, and their spread says nothing about how well a mean is known.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from effects.effect import Estimate, check_level, contrast

if TYPE_CHECKING:
    from effects.nuisance import NuisanceValues
    from effects.schema import Schema

__all__ = ["aipw_scores", "estimate_ate", "mean_and_se", "outcome_means"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Below this propensity a single row weighs as much as a hundred: the average is reported, with a warning.
LOW_PROPENSITY = 0.01


class CrossFitting(Protocol):
    """What this module needs of a fitted estimator: its encoding, its arms and its cross-fitted nuisances."""

    @property
    def schema_(self) -> Schema: ...

    @property
    def arms_(self) -> tuple[Hashable, ...]: ...

    def cross_fitted(
        self, X: Any, y: Any, *, treatment: Any, sample_weight: ArrayLike | None = None
    ) -> NuisanceValues: ...


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
    received = _received(prob, arm)
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


def estimate_ate(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    sample_weight: ArrayLike | None = None,
    level: float = 0.95,
) -> Estimate:
    """Average treatment effect E[Y(treated) - Y(control)] by cross-fitted AIPW.

    The mean of ``phi_treated - phi_control`` (see `aipw_scores`) with nuisances fitted on other folds; the standard
    error is that of the influence function. For a binary outcome the value is a risk difference.

    Parameters
    ----------
    est : fitted estimator
        Gives the arms, the encoding, and by ``est.cross_fitted(...)`` the nuisances: the stored out-of-fold values for
        the rows it was fitted on, fresh cross-fits for other rows.
    X : DataFrame or ndarray, shape (n_samples, n_features)
        The population that is averaged over.
    y : array_like, shape (n_samples,)
    treatment : array_like, shape (n_samples,)
        Arm labels.
    treated, control : arm labels, optional
        `control` defaults to the estimator's control arm, `treated` to the other arm of two; with more arms name it.
    sample_weight : array_like, shape (n_samples,), optional
        Sampling weights, zero or more.
    level : float, default 0.95
        Level of the interval that the Estimate shows by default.

    Returns
    -------
    Estimate
        In the unit of `y`.

    Raises
    ------
    ValueError
        If the arms are ambiguous or unknown, or weights, outcomes or treatments are not usable.
    sklearn.exceptions.NotFittedError
        If `est` is not fitted.

    Warns
    -----
    UserWarning
        Once, when a propensity is below 0.01: how many rows, and which effective sample size is left. Nothing is
        clipped.

    References
    ----------
    Robins, Rotnitzky & Zhao (1994), JASA 89; Chernozhukov et al. (2018), The Econometrics Journal 21, section 5.1.

    Examples
    --------
    >>> from effects import DiffPO, estimate_ate
    >>> from effects.datasets import load_ihdp
    >>> data = load_ihdp(replication=1)  # doctest: +SKIP
    >>> est = DiffPO(random_state=0).fit(data.X, data.y, treatment=data.treatment)  # doctest: +SKIP
    >>> estimate_ate(est, data.X, data.y, treatment=data.treatment).interval()  # doctest: +SKIP
    """
    check_level(level)
    arms = _fitted_arms(est)
    t, c = contrast(arms, treated, control)
    scores, values, arm, weight = _scores(est, X, y, treatment, sample_weight)
    _warn_overlap(values.propensity, arm, weight, arms, (t, c))
    value, se = mean_and_se(scores[:, t] - scores[:, c], weight)
    return Estimate(
        value=value,
        se=se,
        method="AIPW, cross-fitted",
        n=int(np.count_nonzero(weight)),
        estimand="ATE",
        treated=arms[t],
        control=arms[c],
        unit=_unit(est, "risk difference"),
        level=level,
    )


def outcome_means(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    sample_weight: ArrayLike | None = None,
    level: float = 0.95,
) -> dict[Hashable, Estimate]:
    """Mean potential outcome E[Y(arm)] of every arm by cross-fitted AIPW.

    The differences of these values are those of `estimate_ate`; their standard errors do not add, because the arms
    share their rows: ask `estimate_ate` for a difference.

    Parameters
    ----------
    est, X, y, treatment, sample_weight, level
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
    arms = _fitted_arms(est)
    scores, values, arm, weight = _scores(est, X, y, treatment, sample_weight)
    _warn_overlap(values.propensity, arm, weight, arms, range(len(arms)))
    estimates: dict[Hashable, Estimate] = {}
    for k, label in enumerate(arms):
        value, se = mean_and_se(scores[:, k], weight)
        estimates[label] = Estimate(
            value=value,
            se=se,
            method="AIPW, cross-fitted",
            n=int(np.count_nonzero(weight)),
            estimand="mean outcome",
            treated=label,
            unit=_unit(est, "risk"),
            level=level,
        )
    return estimates


def _scores(
    est: CrossFitting, X: Any, y: Any, treatment: Any, sample_weight: ArrayLike | None
) -> tuple[FloatArray, NuisanceValues, IntArray, FloatArray]:
    """Scores (n_samples, n_arms) with the nuisances, codes and weights they come from."""
    arm = est.schema_.encode_treatment(treatment)
    outcome = est.schema_.encode_outcome(y)
    if not len(X) == len(outcome) == len(arm):
        raise ValueError(
            f"X, y and treatment have {len(X)}, {len(outcome)} and {len(arm)} rows: "
            "give the same rows, in the same order."
        )
    weight = check_weights(sample_weight, len(outcome))
    values = est.cross_fitted(X, y, treatment=treatment, sample_weight=sample_weight)
    return aipw_scores(outcome, arm, values.mu, values.propensity), values, arm, weight


def _fitted_arms(est: CrossFitting) -> tuple[Hashable, ...]:
    if not hasattr(est, "schema_"):
        from sklearn.exceptions import NotFittedError

        raise NotFittedError(f"This {type(est).__name__} is not fitted yet: call fit(X, y, treatment=...) first.")
    return tuple(est.arms_)


def _unit(est: CrossFitting, binary: str) -> str:
    return binary if est.schema_.outcome.kind == "binary" else ""


def _warn_overlap(
    propensity: FloatArray, arm: IntArray, weight: FloatArray, arms: tuple[Hashable, ...], codes: Sequence[int]
) -> None:
    """One warning for all arms of the estimand with rows that hardly ever receive them."""
    used = weight > 0
    lines = []
    for k in codes:
        low = used & (propensity[:, k] < LOW_PROPENSITY)
        if not low.any():
            continue
        received = used & (arm == k)
        inverse = weight[received] / propensity[received, k]
        # Kish's effective sample size: the number of equally weighted rows whose mean is known as well.
        effective = inverse.sum() ** 2 / np.sum(inverse**2) if received.any() else 0.0
        lines.append(
            f"{int(low.sum())} of {int(used.sum())} rows have a propensity below {LOW_PROPENSITY} for arm {arms[k]!r} "
            f"(smallest {propensity[low, k].min():.2g}); its {int(received.sum())} rows have an effective sample size "
            f"of {effective:.1f}"
        )
    if lines:
        warnings.warn(
            f"Weak overlap: {'; '.join(lines)}. Nothing was clipped. If that is too few, trim the rows without "
            "overlap (the estimate is then for the rows that stay), or choose an overlap-weighted estimand.",
            UserWarning,
            stacklevel=3,
        )


# ------------------------------------------------------------------------------------------ checks, shared with metrics


def check_array(
    name: str,
    values: ArrayLike,
    *,
    ndim: int | None = None,
    shape: tuple[int, ...] | None = None,
    infinite: bool = False,
) -> FloatArray:
    """`values` as floats of the right shape without NaN (nor infinities unless allowed), or an error that names it."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold numbers in a rectangular array: {error}") from error
    if (ndim is not None and array.ndim != ndim) or (shape is not None and array.shape != shape):
        wanted = f"shape {shape}" if shape is not None else f"{ndim} dimension(s)"
        raise ValueError(f"{name} has shape {array.shape}, expected {wanted}.")
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}): give at least one value.")
    bad = np.isnan(array) if infinite else ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} is {array[where]} at {where} ({int(bad.sum())} such): leave those rows out or repair them."
        )
    return array


def check_weights(sample_weight: ArrayLike | None, n_samples: int) -> FloatArray:
    """One weight of zero or more per row, not all zero; ones by default."""
    if sample_weight is None:
        return np.ones(n_samples)
    weight = check_array("sample_weight", sample_weight, shape=(n_samples,))
    if weight.min() < 0:
        row = int(weight.argmin())
        raise ValueError(f"sample_weight is {weight[row]:g} in row {row}: weights must be zero or more.")
    if weight.max() == 0:
        raise ValueError("sample_weight is zero everywhere: at least one row must count.")
    return weight


def check_codes(name: str, codes: ArrayLike, n_samples: int, n_arms: int) -> IntArray:
    """Integer arm codes 0..n_arms-1, one per row."""
    array = np.asarray(codes)
    if array.shape != (n_samples,):
        raise ValueError(f"{name} has shape {array.shape}, expected ({n_samples},): one arm per row.")
    if array.dtype.kind not in "iub":
        raise ValueError(f"{name} must hold integer arms 0..{n_arms - 1}, not {array.dtype}.")
    array = array.astype(np.int64)
    if array.min() < 0 or array.max() >= n_arms:
        raise ValueError(f"{name} holds arms from {array.min()} to {array.max()}, expected 0..{n_arms - 1}.")
    return array


def check_probabilities(name: str, values: ArrayLike, shape: tuple[int, int]) -> FloatArray:
    """Probabilities whose rows sum to one."""
    prob = check_array(name, values, shape=shape)
    if prob.min() < 0 or prob.max() > 1:
        raise ValueError(f"{name} ranges from {prob.min():g} to {prob.max():g}: probabilities lie in [0, 1].")
    total = prob.sum(axis=1)
    # Loose enough for float32 probabilities; a mistaken column is off by far more.
    if not np.allclose(total, 1.0, atol=1e-4):
        worst = int(np.argmax(np.abs(total - 1.0)))
        raise ValueError(f"{name} sums to {total[worst]:.4g} over the arms in row {worst}, not to 1.")
    return prob


def _received(propensity: FloatArray, arm: IntArray) -> FloatArray:
    """Propensity of the arm that each row received, shape (n_samples,); zero contradicts the data."""
    received = propensity[np.arange(len(arm)), arm]
    zero = np.flatnonzero(received == 0.0)
    if len(zero):
        raise ValueError(
            f"propensity is 0 for the arm that {len(zero)} row(s) received (first: row {zero[0]}, arm {arm[zero[0]]}): "
            "what happened cannot have probability 0. Correct the propensities, or leave those rows out and say so."
        )
    return received
