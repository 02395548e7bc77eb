"""The scale on which an outcome is modelled, and the pooled law of its residuals: invertible, fitted, plain numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from effects.inference.checks import effective_size
from effects.nuisance import NuisanceValues

Array = NDArray[np.float64]
_SKEWED = 1.0


@dataclass(frozen=True)
class OutcomeScale:
    r"""An increasing map :math:`z = (g(y) - center) / spread` with :math:`g` the identity or :math:`\log(y + offset)`.

    Beyond the largest outcome of the fit the logarithm goes on as its tangent: a network that extrapolates a little too
    far on the logarithmic scale must not promise earnings of billions.

    Attributes
    ----------
    log : bool
    offset, center, spread : float
    lowest : float or None
        Smallest possible outcome, where draws below it mean the outcome itself (an atom, such as zero cost).
    gap : float
        Draws nearer to `lowest` than this become `lowest`.
    whole : bool
        Decode to whole numbers (counts, which are spread over ``[y, y + 1)`` before encoding).
    top : float or None
        Largest ``y + offset`` of the fit, from where the logarithm is continued by its tangent.
    """

    log: bool = False
    offset: float = 0.0
    center: float = 0.0
    spread: float = 1.0
    lowest: float | None = None
    gap: float = 0.0
    whole: bool = False
    top: float | None = None

    @classmethod
    def learn(cls, y: Array, kind: str, log: bool) -> OutcomeScale:
        """Constants of the scale for outcomes `y`; `log` as found by `prefers_log` (always for counts)."""
        if kind == "binary":
            return cls()
        if kind == "count":
            values = np.log(y + 1.0)
            # y + u with u in [0, 1) is encoded, so decoding floors: offset one keeps zero finite
            center, spread = float(values.mean()), float(values.std()) or 1.0
            return cls(True, 1.0, center, spread, 0.0, 0.0, True, float(y.max()) + 2.0)
        lowest, gap = None, 0.0
        atom = float(y.min())
        above = y[y > atom]
        if np.mean(y == atom) >= 0.05 and len(above):
            lowest, gap = atom, float(above.min() - atom) / 2
        offset = 0.0
        if log and y.min() <= 0:
            offset = float(np.quantile(y[y > 0], 0.05))
        values = np.log(y + offset) if log else y
        top = float(y.max()) + offset if log else None
        return cls(log, offset, float(values.mean()), float(values.std()) or 1.0, lowest, gap, top=top)

    def encode(self, y: Array) -> Array:
        """Outcomes to the modelling scale."""
        values = y
        if self.log:
            values = np.log(self._within(y))
            if self.top is not None:
                values = values + np.maximum(y + self.offset - self.top, 0.0) / self.top
        return (values - self.center) / self.spread

    def log_slope(self, y: Array) -> Array:
        """Logarithm of the derivative of `encode`."""
        slope = -np.log(self._within(y)) if self.log else np.zeros(len(y))
        return slope - np.log(self.spread)

    def _within(self, y: Array) -> Array:
        """``y + offset``, at most `top`."""
        return y + self.offset if self.top is None else np.minimum(y + self.offset, self.top)

    def decode(self, z: NDArray[Any]) -> NDArray[Any]:
        """Modelling scale to outcomes."""
        y = z * self.spread + self.center
        if self.log:
            last = (700.0 if y.dtype == np.float64 else 80.0) if self.top is None else float(np.log(self.top))
            beyond = 0.0 if self.top is None else self.top * np.maximum(y - y.dtype.type(last), 0.0)
            y = np.exp(np.minimum(y, last)) + beyond - self.offset
        if self.whole:
            # a whole number comes back from the logarithm up to rounding: just below it is still that number
            return np.floor(np.maximum(y * (1 + 1e-12) + 1e-12, 0.0))
        if self.lowest is not None:
            return np.where(y < self.lowest + self.gap, np.asarray(self.lowest, y.dtype), y)
        return y

    def with_atom(self, z: Array, share: float) -> OutcomeScale:
        """The scale whose `gap` gives draws `z` (of the modelling scale, all equally likely) the atom's observed share.

        No outcome lies between the atom and its neighbours, but a smooth model puts draws there: those below the
        threshold are the atom's, those above belong to the rest.
        """
        y = replace(self, lowest=None).decode(z)
        assert self.lowest is not None
        return replace(self, gap=max(float(np.quantile(y, share)) - self.lowest, self.gap))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def may_be_log(y: Array, kind: str) -> bool:
    """Whether the logarithm is worth trying: no negative outcomes, some positive, a long right tail."""
    if kind != "continuous" or y.min() < 0 or not (y > 0).any() or np.ptp(y) == 0:
        return False
    return bool(stats.skew(y) > _SKEWED)


def prefers_log(y: Array, error: Array, offset: float, log_error: Array) -> bool:
    r"""Whether :math:`\log(y + c)` has the more normal errors, by the profile likelihood of Box & Cox (1964, eq. 8).

    Parameters
    ----------
    error, log_error : ndarray of shape (n,)
        Out-of-fold errors of regressions on both scales.
    """
    positive = y > 0
    plain = -0.5 * np.log(np.mean(error[positive] ** 2))
    logged = -0.5 * np.log(np.mean(log_error[positive] ** 2)) - np.mean(np.log(y[positive] + offset))
    return bool(logged > plain)


@dataclass(frozen=True)
class ResidualLaw:
    """The pooled law of standardised residuals, as an increasing map from standard normal scores, one per arm.

    Attributes
    ----------
    scores : ndarray of shape (n_knots,)
    values : ndarray of shape (n_arms, n_knots)
        Residual quantiles at the scores; linear between and beyond the knots.
    """

    scores: Array
    values: Array

    @classmethod
    def learn(
        cls, residual: Array, arm: NDArray[np.int64], weight: Array, n_arms: int, n_knots: int = 49
    ) -> ResidualLaw:
        """Smoothed weighted quantiles: each is the average of a window of order statistics (an L-estimator)."""
        scores = np.linspace(-2.6, 2.6, n_knots)
        values = np.empty((n_arms, n_knots))
        for k in range(n_arms):
            own = (arm == k) & (weight > 0)
            values[k] = _smooth_quantiles(residual[own], weight[own], scores)
        return cls(scores, values)

    def residual(self, score: NDArray[Any]) -> NDArray[Any]:
        """Residuals of normal scores (..., n_arms): linear interpolation, linear tails."""
        columns = [_interpolate(score[..., k], self.scores, self.values[k]) for k in range(len(self.values))]
        return np.stack(columns, axis=-1)

    def score(self, residual: Array, arm: NDArray[np.int64]) -> Array:
        """Normal scores of residuals (n,) of the given arms."""
        out = np.empty(len(residual))
        for k in range(len(self.values)):
            out[arm == k] = _interpolate(residual[arm == k], self.values[k], self.scores)
        return out

    def score_and_slope(self, residual: Array, arm: int) -> tuple[Array, Array]:
        """Normal scores of residuals (...) of one arm, and the log derivative of that map."""
        slopes = _slopes(self.values[arm], self.scores)
        score = _interpolate(residual, self.values[arm], self.scores)
        return score, np.log(slopes[np.searchsorted(self.values[arm], residual)])

    def slope(self, score: Array) -> Array:
        """Derivative of the first arm's `residual` at scores: piecewise constant."""
        return _slopes(self.scores, self.values[0])[np.searchsorted(self.scores, score, side="right")]


def own_share(residual: Array, carried: Array, weight: Array) -> float:
    """What is left of held-out residuals' spread without the share that the regression's own error has in it.

    Parameters
    ----------
    residual, carried : ndarray of shape (n,)
        Standardised residuals, and the variance of the regression in the same unit.
    weight : ndarray of shape (n,)
    """
    total, error = (np.average(square, weights=weight) for square in (residual**2, carried))
    return float(np.sqrt(max(1.0 - error / max(total, 1e-12), 0.25)))


def _smooth_quantiles(values: Array, weight: Array, scores: Array) -> Array:
    """Quantiles at normal scores, each averaged over the normal-kernel window that the sample size asks for."""
    order = np.argsort(values, kind="stable")
    values, weight = values[order], weight[order]
    n = effective_size(weight)
    middle = (np.cumsum(weight) - weight / 2) / weight.sum()
    position = stats.norm.ppf(middle)
    width = 0.5 * n ** (-1 / 3) + 0.02
    kernel = weight * np.exp(-0.5 * ((scores[:, None] - position) / width) ** 2) + 1e-300
    kernel /= kernel.sum(axis=1, keepdims=True)
    level, at = kernel @ values, kernel @ position
    # near the ends the window is one-sided: the local mean belongs to the local mean score
    inside = np.concatenate([[True], np.diff(at) > 1e-3])
    found = _interpolate(scores, at[inside], level[inside]) if inside.sum() > 1 else np.full(len(scores), level[0])
    found = _toward_normal(found, scores, float(n))
    # strictly increasing, or the map could not be inverted
    return np.maximum.accumulate(found) + 1e-6 * np.arange(len(scores))


def _toward_normal(found: Array, scores: Array, n: float) -> Array:
    """Shrink quantiles toward those of a normal law as far as chance explains the difference (James & Stein).

    The share of the deviation that is kept is ``1 - noise / deviation``, both summed over the knots within two
    standard deviations; the noise of a quantile is that of the normal law, p(1 - p) / (n f^2).
    """
    density = stats.norm.pdf(scores)
    slope, level = np.polyfit(scores, found, 1, w=np.sqrt(density))
    deviation = found - (level + slope * scores)
    inner = np.abs(scores) <= 2
    p = stats.norm.cdf(scores[inner])
    noise = slope**2 * np.sum(p * (1 - p) / (n * density[inner] ** 2))
    kept = max(0.0, 1.0 - noise / max(float(np.sum(deviation[inner] ** 2)), 1e-300))
    return found - (1 - kept) * deviation


def _interpolate(x: NDArray[Any], knots: Array, values: Array) -> NDArray[Any]:
    """Piecewise linear, with the average slope of the outer knots continued beyond them."""
    x = np.asarray(x)
    inner = np.interp(x, knots, values)
    low, high = _outer_slopes(knots, values)
    return inner + low * np.minimum(x - knots[0], 0.0) + high * np.maximum(x - knots[-1], 0.0)


def _outer_slopes(knots: Array, values: Array) -> tuple[float, float]:
    """Average slopes of the first and of the last knots."""
    reach = min(4, len(knots) - 1)
    low = (values[reach] - values[0]) / (knots[reach] - knots[0])
    return low, (values[-1] - values[-1 - reach]) / (knots[-1] - knots[-1 - reach])


def _slopes(knots: Array, values: Array) -> Array:
    """Slopes of `_interpolate` before, between and after the knots, (n_knots + 1,)."""
    low, high = _outer_slopes(knots, values)
    return np.concatenate([[low], np.diff(values) / np.diff(knots), [high]])


def normal_nodes(n: int) -> Array:
    """Mid-quantile nodes of the standard normal, (n,): equally likely points."""
    return stats.norm.ppf((np.arange(n) + 0.5) / n)


def nuisance_columns(values: NuisanceValues, scale: OutcomeScale, kind: str, on_scale: bool) -> Array:
    """Nuisances as network inputs, (n, 4 n_arms - 2 + n_arms - 1): regressions, contrasts, propensities."""

    def standard(mu: Array) -> Array:
        if kind == "binary":
            p = np.clip(mu, 1e-3, 1 - 1e-3)
            return np.log(p / (1 - p))
        return mu if on_scale else scale.encode(np.maximum(mu, -0.5) + 0.5) if scale.whole else scale.encode(mu)

    per_arm, single = standard(values.per_arm), standard(values.single)
    contrasts = [m[:, 1:] - m[:, :1] for m in (per_arm, single)]
    if kind == "continuous" and values.contrast is not None:
        contrasts += [values.contrast[:, j] / (1.0 if on_scale else scale.spread) for j in (0, 1)]
    return np.concatenate([per_arm, single, *contrasts, 2 * values.propensity[:, 1:] - 1], axis=1)
