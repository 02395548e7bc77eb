r"""How sure an estimator may be of its effects: the scale of a posterior, learned from held-out outcomes.

No effect is ever observed, but errors of effects leave a trace in the residuals of observed outcomes. With
:math:`m(x) = \sum_a e_a(x)\mu_a(x)`, the residual of a row that was held out is (Robinson 1988; Nie & Wager 2021,
eq. 1)

.. math:: Y_i - \hat\mu_{A_i}(x_i) = \varepsilon_i + \big(m - \hat m\big)(x_i)
          + \big(1[A_i = b] - e_b(x_i)\big)\big(\tau_b - \hat\tau_b\big)(x_i),

so, if the estimator's own idea :math:`V_\tau(x)` of its squared error is right up to a factor :math:`c`,

.. math:: E[r_i^2] = \sigma^2_{A_i} + c_m V_m(x_i) + c\,\big(1[A_i = b] - e_b(x_i)\big)^2 V_\tau(x_i):

where the estimator calls itself unsure, residuals must be larger, and :math:`c` says by how much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from effects.nuisance import NuisanceValues

Array = NDArray[np.float64]
RIDGE = 10.0  # rows' worth of faith in equal weights
_SURE = 0.7  # standard deviation of log c before any row is seen
_CLIP = 1e-3


@dataclass(frozen=True, eq=False)
class EffectSpread:
    r"""Posterior variance of the effects of every arm against the first one.

    :math:`c_b \big(V_b(x) + \sum_j w_{jb} (\tau_{jb}(x) - \hat\tau_b(x))^2\big)` with the variance :math:`V_b` over the
    estimator's own members and its disagreement with other views of the same data, the effects :math:`\tau_j` of the
    cross-fitted nuisances (`alternative_effects`).

    Attributes
    ----------
    alternatives : ndarray of shape (n_alternatives, n_arms - 1)
        Weights :math:`w_{jb}`; no rows where the members hold all there is to know.
    scale : ndarray of shape (n_arms - 1,)
        Factors :math:`c_b`.
    fresh : ndarray of shape (n_arms - 1,)
        Share of fresh noise :math:`\sigma^2` in the squared residuals of the pair; the rest is error of means, which
        both of a unit's outcomes have in common.
    """

    alternatives: Array
    scale: Array
    fresh: Array

    def variance(self, own: Array, effects: Array, values: NuisanceValues | None) -> Array:
        """Variance (n, n_arms - 1) from that over members (`own`), the effects' means and the rows' nuisances."""
        total = own
        if len(self.alternatives) and values is not None:
            apart = (alternative_effects(values) - effects) ** 2
            total = own + np.einsum("jnb,jb->nb", apart, self.alternatives)
        return total * self.scale

    def widen(self, members: Array, values: NuisanceValues | None) -> Array:
        """Member effects (n_members, n, n_arms - 1) about their mean, so that their variance is the calibrated one."""
        center = members.mean(axis=0)
        deviation = members - center
        own = (deviation**2).mean(axis=0)
        wanted = self.variance(own, center, values)
        # identical members have no shape to stretch: there is nothing to calibrate
        factor = np.sqrt(np.divide(wanted, own, out=np.zeros_like(own), where=own > 0))
        return center + deviation * factor


def alternative_effects(values: NuisanceValues) -> Array:
    """Effects (n_alternatives, n, n_arms - 1) by the nuisances: T-learner, S-learner and the second stage's."""
    found = [values.per_arm[:, 1:] - values.per_arm[:, :1], values.single[:, 1:] - values.single[:, :1]]
    if values.contrast is not None:
        found += list(values.contrast.transpose(1, 0, 2))
    return np.stack(found)


def alternative_weights(y: Array, a: NDArray[np.int64], weight: Array, mu: Array, values: NuisanceValues) -> Array:
    """Convex weights of the nuisances' effects beside the estimator's own, by the R-loss on held-out rows.

    Returns
    -------
    ndarray of shape (n_alternatives, n_arms - 1)
        What is missing to one is the weight of the estimator itself.
    """
    own = mu[:, 1:] - mu[:, :1]
    candidates = np.concatenate([own[None], alternative_effects(values)])
    columns = []
    for b in range(1, mu.shape[1]):
        pair, e, arm = _pair(a, values.propensity, b)
        m = (1 - e) * mu[pair, 0] + e * mu[pair, b]
        design = candidates[:, pair, b - 1].T * (arm - e)[:, None]
        columns.append(simplex_weights(design, y[pair] - m, weight[pair])[1:])
    return np.stack(columns, axis=1)


def learn_spread(
    y: Array,
    a: NDArray[np.int64],
    weight: Array,
    mu: Array,
    propensity: Array,
    spread: tuple[Array, Array],
    *,
    alternatives: Array,
    expected: float,
    noise: Array | None = None,
) -> EffectSpread:
    r"""The factors :math:`c_b`, by penalised Gaussian quasi-likelihood of held-out residuals.

    Parameters
    ----------
    y, a, weight : ndarray of shape (n,)
        Outcomes, arms 0.., sample weights (mean one).
    mu : ndarray of shape (n, n_arms)
        Held-out means.
    propensity : ndarray of shape (n, n_arms)
    spread : (ndarray of shape (n, n_arms - 1), ndarray of shape (n,))
        :math:`V_\tau` of the rows' effects and :math:`V_m`, as the estimator sees them, alternatives included.
    alternatives : ndarray of shape (n_alternatives, n_arms - 1)
        Weights that went into the spread, kept in the result.
    expected : float
        Median of the factors before any row is seen; their logarithms have a standard deviation of 0.7. A few hundred
        rows say little of a factor, a few thousand much.
    noise : ndarray of shape (n,), optional
        Shape of the outcome's own variance; constant per arm by default.
    """
    residual = (y - mu[np.arange(len(y)), a]) ** 2
    shape = np.ones(len(y)) if noise is None else noise / max(float(np.mean(noise)), 1e-300)
    of_effect, of_mean = spread
    scale, fresh = np.full(of_effect.shape[1], expected), np.ones(of_effect.shape[1])
    for b in range(1, mu.shape[1]):
        pair, e, arm = _pair(a, propensity, b)
        parts = np.column_stack([of_mean[pair], (arm - e) ** 2 * of_effect[pair, b - 1]])
        factors, fresh[b - 1] = _factors(residual[pair], weight[pair], parts, arm, shape[pair], expected)
        scale[b - 1] = factors[1]
    return EffectSpread(alternatives, scale, fresh)


def _factors(
    r2: Array, weight: Array, parts: Array, arm: NDArray[np.int64], shape: Array, expected: float
) -> tuple[Array, float]:
    """Factors of the columns of `parts` that make ``noise of the arm + parts @ factors`` the variance of residuals, and
    the noise's share of it."""
    plain = weight
    unit = max(float(np.average(r2, weights=weight)), 1e-300)
    r2, parts, center = r2 / unit, parts / unit, np.log(expected)
    weight = weight / _dispersion(r2, weight, arm, shape)

    def loss(theta: Array) -> tuple[float, Array]:
        noise, factors = np.exp(theta[:2]), np.exp(theta[2:])
        variance = noise[arm] * shape + parts @ factors + 1e-12
        slope = 0.5 * weight * (1.0 - r2 / variance) / variance
        gradient = np.concatenate([np.bincount(arm, slope * shape, 2) * noise, (slope @ parts) * factors])
        away = (theta[2:] - center) / _SURE
        gradient[2:] += away / _SURE
        return 0.5 * float(weight @ (np.log(variance) + r2 / variance)) + 0.5 * float(away @ away), gradient

    start = np.concatenate([np.log([0.8, 0.8]), np.full(parts.shape[1], center)])
    bounds = [(-12.0, 6.0), (-12.0, 6.0)] + [(center - 6 * _SURE, center + 6 * _SURE)] * parts.shape[1]
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    noise, factors = np.exp(found.x[:2])[arm] * shape, np.exp(found.x[2:])
    return factors, float(plain @ noise / (plain @ (noise + parts @ factors)))


def _dispersion(r2: Array, weight: Array, arm: NDArray[np.int64], shape: Array) -> float:
    r"""How much less than a normal residual's a square says of the variance: :math:`1 + \kappa / 2`.

    A square of kurtosis :math:`3 + \kappa` scatters as :math:`2 + \kappa`; the likelihood is tempered by the larger one
    of the two arms (quasi-likelihood: Wedderburn 1974, Biometrika 61). Costs with a few huge bills say little of
    any error, and leave the factor where it usually is.
    """
    largest = 0.0
    for k in range(2):
        own = arm == k
        u2 = r2[own] / np.maximum(shape[own], 1e-12)
        mean = float(np.average(u2, weights=weight[own]))
        if mean > 0:
            largest = max(largest, float(np.average(u2**2, weights=weight[own])) / mean**2 - 3.0)
    return 1.0 + largest / 2.0


def _pair(a: NDArray[np.int64], propensity: Array, b: int) -> tuple[NDArray[np.bool_], Array, NDArray[np.int64]]:
    """Rows of arm b and of the first arm, their propensity among the two, which of both they got (0 or 1)."""
    pair = (a == 0) | (a == b)
    both = propensity[pair][:, [0, b]]
    share = np.clip(both[:, 1] / np.maximum(both.sum(axis=1), 1e-300), _CLIP, 1 - _CLIP)
    return pair, share, (a[pair] == b).astype(np.int64)


def simplex_weights(candidates: Array, target: Array, weight: Array, ridge: float = RIDGE) -> Array:
    r"""Convex weights that minimise the squared error, shrunk toward equal ones.

    .. math:: \min_{w \ge 0,\ \sum w = 1}\ \sum_i \omega_i (y_i - z_i^\top w)^2 + \rho\, s^2 \lVert w - 1/K \rVert^2

    with :math:`s^2` the smallest mean squared error of one candidate: `ridge` (:math:`\rho`) rows' worth of noise.

    Parameters
    ----------
    candidates : ndarray of shape (n, K)
    target, weight : ndarray of shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from effects.calibration import simplex_weights
    >>> z = np.random.default_rng(0).normal(size=(5000, 2))
    >>> simplex_weights(z, z @ [0.3, 0.7], np.ones(5000)).round(2)
    array([0.3, 0.7])
    """
    K = candidates.shape[1]
    if K == 1:
        return np.ones(1)
    error = np.average((target[:, None] - candidates) ** 2, axis=0, weights=weight)
    noise = max(float(error.min()), 1e-300)
    scaled = candidates / np.sqrt(noise)
    gram = (scaled * weight[:, None]).T @ scaled + ridge * np.eye(K)
    linear = (scaled * weight[:, None]).T @ (target / np.sqrt(noise)) + ridge / K
    return minimise(gram, linear)


def minimise(gram: Array, linear: Array) -> Array:
    """Minimum of w'Gw / 2 - b'w over the simplex."""
    K = len(linear)
    scale = max(float(np.trace(gram)) / K, 1e-300)
    gram, linear = gram / scale, linear / scale
    found = optimize.minimize(
        lambda w: 0.5 * w @ gram @ w - linear @ w,
        np.full(K, 1.0 / K),
        jac=lambda w: gram @ w - linear,
        bounds=[(0.0, 1.0)] * K,
        constraints=[{"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": lambda w: np.ones(K)}],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    w = np.where(found.x > 1e-6, found.x, 0.0)
    return w / w.sum()
