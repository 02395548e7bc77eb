"""Quantile treatment effects: how a treatment moves the quantiles of the outcome's marginal law."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from effects.effect import Estimate, Estimates, contrast
from effects.individual import check_level
from effects.inference.averages import check_rows
from effects.inference.checks import FloatArray, effective_size
from effects.inference.sample import CrossFitting, Sample, fitted_arms
from effects.inference.scores import Population, sandwich

#: Points that an arm's law is made of; beyond them each unit's draws are thinned.
MOST_POINTS = 1_500_000
#: A value that holds this share of an arm has no density.
ATOM = 0.1
RESIDUALS = 100


def estimate_qte(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    q: float | ArrayLike = (0.25, 0.5, 0.75),
    treated: Hashable | None = None,
    control: Hashable | None = None,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
) -> Estimates:
    r"""Quantile treatment effects: differences of the q-quantiles of Y(treated) and Y(control) in the population.

    They compare two marginal laws, not two outcomes of one unit: the median effect is not the effect at the median
    patient, unless ranks are preserved. The distribution function of each arm is the AIPW estimate

    .. math:: \hat F_k(y) = \frac1n \sum_i \Bigl\{F_k(y \mid x_i)
              + \frac{1[A_i = k]}{e_k(x_i)} \bigl(1[Y_i \le y] - F_k(y \mid x_i)\bigr)\Bigr\}

    with the held-out laws that the estimator predicts, :math:`F_k(y \mid x)`; where there are none, the held-out means
    with the arm's own residuals around them (the same law for all x). It is made monotone by rearrangement
    (Chernozhukov, Fernandez-Val & Galichon 2010) and inverted.

    Parameters
    ----------
    est, X, y, treatment, treated, control, sample_weight, groups, propensity, level
        As in `estimate_ate`.
    q : float or array_like of shape (n_quantiles,), default (0.25, 0.5, 0.75)
        Strictly between 0 and 1, each once.

    Returns
    -------
    Estimates
        One for each quantile, in the unit of `y`; ``.heterogeneity()`` tests that the effect is the same at all.

    Raises
    ------
    ValueError
        As `estimate_ate`; if `q` is not within (0, 1); for binary outcomes and counts, whose quantiles jump; and where
        one value holds more than a tenth of an arm next to a quantile asked for: such a quantile is not normal.

    Warns
    -----
    UserWarning
        As `estimate_ate`.

    Notes
    -----
    Standard errors: the influence function of a quantile is :math:`-(\phi_i - q) / f_k(Q_k(q))`, with :math:`\phi_i`
    the summand above at :math:`y = Q_k(q)` (Firpo 2007). The density is Siddiqui's difference quotient of the estimated
    quantile function, with the bandwidth of Hall & Sheather (1988) at the arm's effective sample size, as in quantile
    regression. On large tables units' laws are thinned to fewer draws each; that costs a little of the working model's
    precision and no validity.

    References
    ----------
    Firpo (2007), Efficient semiparametric estimation of quantile treatment effects, Econometrica 75. Belloni,
    Chernozhukov, Fernandez-Val & Hansen (2017), Program evaluation and causal inference with high-dimensional data,
    Econometrica 85. Hall & Sheather (1988), On the distribution of a studentized quantile, JRSS B 50.

    Examples
    --------
    >>> estimate_qte(est, X, y, treatment=arm, q=[0.1, 0.5, 0.9]).to_frame()  # doctest: +SKIP
    """
    check_level(level)
    quantiles = _check_quantiles(q)
    arms = fitted_arms(est)
    t, c = contrast(arms, treated, control)
    sample = Sample.read(
        est, X, y, treatment=treatment, sample_weight=sample_weight, groups=groups, propensity=propensity
    )
    if sample.kind != "continuous":
        raise ValueError(
            f"y is {sample.kind}: its quantiles jump from one value to the next and have no standard error. Use "
            "estimate_ate, with scale='ratio' for risks and rates."
        )
    check_rows(sample, sample.used, (t, c))
    sample.warn_overlap((t, c))
    population = Population.everyone(sample, (t, c))
    (at_t, error_t), (at_c, error_c) = (_arm_quantiles(sample, population, j, quantiles) for j in (0, 1))
    influence = error_t - error_c
    covariance, df = sandwich(sample, influence, np.tile(sample.used[:, None], len(quantiles)))
    each = [
        Estimate(
            value=float(at_t[j] - at_c[j]),
            se=float(np.sqrt(covariance[j, j])),
            method=f"AIPW of the distribution, cross-fitted{sample.clustering}",
            n=int(sample.used.sum()),
            estimand=f"QTE, quantile {quantile:g}",
            treated=arms[t],
            control=arms[c],
            level=level,
            df=df[j],
        )
        for j, quantile in enumerate(quantiles)
    ]
    return Estimates(each, covariance, quantiles.tolist(), by="quantile", n=int(sample.used.sum()))


def _check_quantiles(q: float | ArrayLike) -> FloatArray:
    quantiles = np.atleast_1d(np.asarray(q, dtype=np.float64))
    inside = quantiles.ndim == 1 and len(quantiles) > 0 and bool(((quantiles > 0) & (quantiles < 1)).all())
    if not inside or len(np.unique(quantiles)) < len(quantiles):
        raise ValueError(f"q must hold different probabilities strictly between 0 and 1, got {q!r}.")
    return quantiles


def _arm_quantiles(
    sample: Sample, population: Population, j: int, quantiles: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Quantiles of one arm's marginal law, and each row's influence on them, (n_samples, n_quantiles)."""
    k, used = population.codes[j], sample.used
    nodes = _laws(sample, k)
    weight, g, y = sample.weight[used] / sample.weight[used].sum(), population.g[used, j], sample.y[used]
    received = sample.arm[used] == k
    own = weight[received] * g[received]
    law = _Marginal.of(nodes, weight * (1 - g), y[received], own)
    effective = effective_size(own)
    at = law.quantile(quantiles)
    influence = np.zeros((len(sample.y), len(quantiles)))
    for i, (quantile, value) in enumerate(zip(quantiles, at, strict=True)):
        width = min(_bandwidth(effective, quantile), 0.9 * quantile, 0.9 * (1 - quantile))
        low, high = law.quantile(np.array([quantile - width, quantile + width]))
        _check_atom(sample, k, (low, high), quantile)
        score = (nodes <= value).mean(axis=0) * (1 - g) + g * (y <= value)
        centred = weight * (score - weight @ score)
        influence[used, i] = -centred * (high - low) / (2 * width)
    return at, influence


def _laws(sample: Sample, k: int) -> NDArray[np.floating]:
    """Equally likely outcomes of every row that counts under one arm, shape (n_nodes, n_used)."""
    rows = np.flatnonzero(sample.used)
    most = max(MOST_POINTS // len(rows), 2)
    if sample.outcomes is None:
        own = sample.used & (sample.arm == k)
        levels = (np.arange(min(RESIDUALS, most)) + 0.5) / min(RESIDUALS, most)
        residuals = np.quantile(
            sample.y[own] - sample.mu[own, k], levels, weights=sample.weight[own], method="inverted_cdf"
        )
        return sample.mu[rows, k] + residuals[:, None]
    draws = sample.outcomes.draws[:, :, :, k]
    members, per_member = draws.shape[:2]
    if members * per_member <= most:
        return draws[:, :, rows].reshape(-1, len(rows))
    # all draws of a few members, or evenly spaced draws of one, whichever fits: any thinning is a valid working model
    kept = np.linspace(0, members - 1, max(1, most // per_member)).round().astype(int)
    picked = np.unique(np.linspace(0, per_member - 1, min(per_member, most)).round().astype(int))
    return draws[np.ix_(kept, picked, rows)].reshape(-1, len(rows))


@dataclass(frozen=True, eq=False)
class _Marginal:
    """A distribution function on sorted points: `cumulative` holds from each point to the next; it may dip."""

    points: FloatArray
    cumulative: FloatArray

    @classmethod
    def of(cls, nodes: NDArray[np.floating], mass: FloatArray, y: FloatArray, own: FloatArray) -> _Marginal:
        """Units' nodes share their mass, which may be negative; observed outcomes carry their own."""
        points = np.concatenate([nodes.ravel(), y]).astype(np.float64)
        share = np.concatenate([np.broadcast_to(mass / len(nodes), nodes.shape).ravel(), own])
        order = np.argsort(points)
        return cls(points[order], np.cumsum(share[order]))

    def quantile(self, q: FloatArray) -> FloatArray:
        """Quantiles after monotone rearrangement: how far up the axis the function stays below q."""
        gaps = np.diff(self.points)
        below = [self.cumulative[:-1] < level - 1e-12 for level in q]
        return self.points[0] + np.array([gaps @ low for low in below])


def _bandwidth(n: float, quantile: float) -> float:
    """Hall and Sheather's half width, on the scale of probabilities."""
    from statsmodels.regression.quantile_regression import hall_sheather

    return float(hall_sheather(n, quantile))


def _check_atom(sample: Sample, k: int, window: tuple[float, float], quantile: float) -> None:
    received = sample.used & (sample.arm == k)
    values, code = np.unique(sample.y[received], return_inverse=True)
    share = np.bincount(code, sample.weight[received]) / sample.weight[received].sum()
    near = (values >= window[0]) & (values <= window[1]) & (share > ATOM) & (np.bincount(code) > 1)
    if near.any():
        raise ValueError(
            f"{share[near].max():.0%} of the outcomes of arm {sample.arms[k]!r} are equal to "
            f"{values[near][share[near].argmax()]:g}, near the quantile q={quantile:g}: it has no standard error "
            "there. Leave that q out, or compare means with estimate_ate."
        )
    if window[0] >= window[1]:
        raise ValueError(
            f"around the quantile q={quantile:g} of arm {sample.arms[k]!r} the law rests on one row, whose propensity "
            "is too small: trim the rows without overlap, and say so."
        )
