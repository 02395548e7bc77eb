r"""Mechanisms: a node given its parents, :math:`X_j = F_j^{-1}(\Phi(W_j) \mid pa_j)` with standard normal scores W.

Every mechanism is increasing in its one score, so that an observed value says which scores could have made it (its
band): a point where X is continuous, an interval where it is a level or a count. Abduction draws from the band, action
and prediction push the same score through the law at other parents. Unordered categories have no order to be monotone
in: their counterfactuals rest on the Gumbel-max coupling instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_predict
from torch import Tensor

from effects.nn.scale import OutcomeScale, ResidualLaw, may_be_log, normal_nodes, own_share, prefers_log
from effects.persistence import named, part
from effects.schema.table import TableColumn
from effects.structural.regression import HeldOut, Plan, Regression, fit_regression

Array = NDArray[np.float64]
_LADDER = 10  # numbers with at most so many distinct whole values are levels
_ROOT_KNOTS = 129
_FAR = 8.0  # no score lies beyond


class Generator(Protocol):
    """A learned increasing map of standard normal scores, given the parents; None is the identity."""

    def push(self, w: Array, context: Tensor) -> Array: ...
    def pull(self, u: Array, context: Tensor) -> Array: ...
    def log_slope(self, w: Array, context: Tensor) -> Array: ...


class Mechanism(Protocol):
    """A node given its encoded parents: (n, d), or (n_members, n, d) for every posterior draw at its own rows."""

    def value(self, score: Array, parents: Tensor) -> Array:
        """The node's values at normal scores, of the shape of `score`."""

    def band(self, x: Array, parents: Tensor) -> tuple[Array, Array]:
        """Scores between which values `x` lie; both the same where the node is continuous."""

    def mean(self, parents: Tensor) -> Array:
        """Expected value (of codes 0 and 1: the probability), of the shape of the leading axes of `parents`."""

    def log_prob(self, x: Array, parents: Tensor) -> Array:
        """Log density or log probability of values."""

    def abduct(self, x: Array, parents: Tensor, rng: np.random.Generator) -> Array:
        """Noise that makes `x`, for `respond`."""

    def respond(self, noise: Array, parents: Tensor) -> Array:
        """Values that the noise makes at these parents."""


@dataclass(frozen=True)
class Continuous:
    r""":math:`X = g^{-1}(m(pa) + s(pa)\, Q(G(W; pa)))`.

    Attributes
    ----------
    scale : OutcomeScale
        g, the identity or a logarithm; a point mass at the smallest value and counts are part of it.
    regression : Regression or None
        m and s; None for a root.
    law : ResidualLaw
        Q, the pooled law of residuals.
    generator : Generator or None
        G, a law of the residuals that depends on the parents.
    """

    scale: OutcomeScale
    regression: Regression | None
    law: ResidualLaw
    generator: Generator | None = None

    def _location(self, parents: Tensor) -> tuple[Any, Any]:
        if self.regression is None:
            return 0.0, 0.0
        return self.regression.mean(parents) if parents.ndim == 2 else self.regression.members(parents)

    def context(self, parents: Tensor, mean: Any, log_sd: Any) -> Tensor:
        """What a generator sees, (n, d + 2): the parents, the mean and log sd."""
        flat = parents.reshape(-1, parents.shape[-1])
        own = [np.broadcast_to(v, parents.shape[:-1]).reshape(-1, 1).astype(np.float32) for v in (mean, log_sd)]
        return torch.cat([flat, *map(torch.from_numpy, own)], dim=1)

    def _given(self, parents: Tensor) -> tuple[Any, Any, Any]:
        """Mean, log sd, and what the generator sees if there is one: all that is asked of the parents."""
        mean, log_sd = self._location(parents)
        return mean, log_sd, None if self.generator is None else self.context(parents, mean, log_sd)

    def value(self, score: Array, parents: Tensor) -> Array:
        mean, log_sd, context = self._given(parents)
        if self.generator is not None:
            score = self.generator.push(score.reshape(-1), context).reshape(score.shape)
        residual = self.law.residual(score[..., None])[..., 0]
        return self.scale.decode(mean + np.exp(log_sd) * residual)

    def band(self, x: Array, parents: Tensor) -> tuple[Array, Array]:
        return self._band(x, *self._given(parents))

    def _band(self, x: Array, mean: Any, log_sd: Any, context: Any) -> tuple[Array, Array]:
        def score(values: Array) -> Array:
            residual = (self.scale.encode(values) - mean) * np.exp(-log_sd)
            u = self.law.score(residual, np.zeros(len(x), dtype=np.int64))
            return u if self.generator is None else self.generator.pull(u, context)

        if self.scale.whole:
            low, high = score(np.maximum(x, 0.0)), score(np.maximum(x, 0.0) + 1.0)
            return np.where(x <= 0, -np.inf, low), high
        if self.scale.lowest is None:
            found = score(x)
            return found, found
        atom = x <= self.scale.lowest + self.scale.gap
        edge = score(np.where(atom, self.scale.lowest + self.scale.gap, x))
        return np.where(atom, -np.inf, edge), edge

    def mean(self, parents: Tensor) -> Array:
        nodes = normal_nodes(64)
        plain = not self.scale.log and self.scale.lowest is None
        mean, log_sd, context = self._given(parents)
        shape = parents.shape[:-1]
        if plain and self.generator is None:
            center = float(self.law.residual(nodes[:, None]).mean())
            return np.broadcast_to((mean + np.exp(log_sd) * center) * self.scale.spread + self.scale.center, shape)
        scores = np.repeat(nodes[:, None], int(np.prod(shape)), axis=1)
        if self.generator is not None:
            scores = np.stack([self.generator.push(row, context) for row in scores])
        residual = self.law.residual(scores[..., None])[..., 0].reshape(-1, *shape)
        return self.scale.decode(mean + np.exp(log_sd) * residual).mean(axis=0)

    def log_prob(self, x: Array, parents: Tensor) -> Array:
        mean, log_sd, context = self._given(parents)
        low, high = self._band(x, mean, log_sd, context)
        score: Array = high
        bent: Any = 0.0
        if self.generator is not None:
            score, bent = self.generator.push(high, context), self.generator.log_slope(high, context)
        slope = -np.log(self.law.slope(score)) - log_sd + self.scale.log_slope(x) - bent
        density = -0.5 * high**2 - 0.5 * np.log(2 * np.pi) + slope
        return np.where(low < high, _log_mass(low, high), density)

    def abduct(self, x: Array, parents: Tensor, rng: np.random.Generator) -> Array:
        return between(*self.band(x, parents), rng.random(len(x)))

    def respond(self, noise: Array, parents: Tensor) -> Array:
        return self.value(noise, parents)


@dataclass(frozen=True)
class Levels:
    r"""A node with levels in order: :math:`P(X = k \mid X \ge k, pa)` is a logistic regression for each k.

    Attributes
    ----------
    levels : ndarray of shape (n_levels,)
        Increasing values: codes, or the numbers themselves.
    steps : tuple of Regression
        One for each level but the last.
    """

    levels: Array
    steps: tuple[Regression, ...]

    def probabilities(self, parents: Tensor) -> Array:
        """Of every level, (..., n_levels)."""
        left = np.ones(parents.shape[:-1])
        found = []
        for step in self.steps:
            odds = step.mean(parents)[0] if parents.ndim == 2 else step.members(parents)[0]
            share = special.expit(odds)
            found.append(left * share)
            left = left * (1 - share)
        return np.stack([*found, left], axis=-1)

    def value(self, score: Array, parents: Tensor) -> Array:
        below = np.cumsum(self.probabilities(parents), axis=-1)[..., :-1]
        return self.levels[(special.ndtr(score)[..., None] > below).sum(-1)]

    def band(self, x: Array, parents: Tensor) -> tuple[Array, Array]:
        edges = np.cumsum(self.probabilities(parents), axis=-1)
        edges = np.concatenate([np.zeros((len(x), 1)), edges[:, :-1], np.ones((len(x), 1))], axis=1)
        code, rows = self._code(x), np.arange(len(x))
        return special.ndtri(edges[rows, code]), special.ndtri(edges[rows, code + 1])

    def mean(self, parents: Tensor) -> Array:
        return self.probabilities(parents) @ self.levels

    def log_prob(self, x: Array, parents: Tensor) -> Array:
        p = self.probabilities(parents)[np.arange(len(x)), self._code(x)]
        return np.log(np.maximum(p, 1e-300))

    def abduct(self, x: Array, parents: Tensor, rng: np.random.Generator) -> Array:
        return between(*self.band(x, parents), rng.random(len(x)))

    def respond(self, noise: Array, parents: Tensor) -> Array:
        return self.value(noise, parents)

    def _code(self, x: Array) -> NDArray[np.int64]:
        """Nearest level: a number that the fit never saw belongs to its neighbour."""
        return np.abs(x[:, None] - self.levels).argmin(axis=1)


@dataclass(frozen=True)
class Category(Levels):
    r"""A node with levels without order; `levels` are codes by falling frequency.

    Counterfactuals use the Gumbel-max coupling, :math:`X = \arg\max_k \log p_k(pa) + G_k` (Oberst & Sontag 2019,
    arXiv 1905.05824): of two levels, the one whose odds fell is never moved to. The data cannot tell it from other
    couplings with the same laws.
    """

    def abduct(self, x: Array, parents: Tensor, rng: np.random.Generator) -> Array:
        """Posterior Gumbels (n, n_levels): the winner's first, the others cut off below it (Maddison et al. 2014)."""
        log_p = np.log(np.maximum(self.probabilities(parents), 1e-300))
        top = -np.log(-np.log(rng.uniform(1e-12, 1, len(x))))[:, None]
        free = log_p - np.log(-np.log(rng.uniform(1e-12, 1, log_p.shape)))
        held = -np.logaddexp(-free, -np.broadcast_to(top, log_p.shape))
        won = self._code(x)[:, None] == np.arange(len(self.levels))
        return np.where(won, top, held) - log_p

    def respond(self, noise: Array, parents: Tensor) -> Array:
        log_p = np.log(np.maximum(self.probabilities(parents), 1e-300))
        return self.levels[(log_p + noise).argmax(axis=-1)]

    def _code(self, x: Array) -> NDArray[np.int64]:
        return (x[:, None] == self.levels).argmax(axis=1)


def between(low: Array, high: Array, u: Array) -> Array:
    """Standard normal scores within [low, high] at levels `u` of the truncated law."""
    if np.array_equal(low, high):
        return low
    flip = low > 0  # in the upper tail the mirrored probabilities keep their digits
    a, b = special.ndtr(np.where(flip, -high, low)), special.ndtr(np.where(flip, -low, high))
    found = special.ndtri(a + np.where(flip, 1 - u, u) * (b - a))
    found = np.clip(np.where(flip, -found, found), -_FAR, _FAR)
    return np.where(low < high, np.clip(found, low, high), low)


def _log_mass(low: Array, high: Array) -> Array:
    """Log normal probability of [low, high]."""
    flip = low > 0
    a, b = np.where(flip, -high, low), np.where(flip, -low, high)
    return np.log(np.maximum(special.ndtr(b) - special.ndtr(a), 1e-300))


# ---- fitting ---------------------------------------------------------------------------------------------------------


def fit_mechanism(
    column: TableColumn, x: Array, parents: Tensor, weight: Array, plan: Plan
) -> tuple[Mechanism, list[dict[str, float]]]:
    """The mechanism that a column's kind asks for.

    Parameters
    ----------
    x : ndarray of shape (n,)
        Values or codes, none missing.
    parents : Tensor of shape (n, d)
    weight : ndarray of shape (n,)
    """
    if column.kind == "constant":
        return Levels(np.unique(x), ()), []
    if has_levels(column, x, weight):
        return fit_levels(column, x, parents, weight, lambda P, event, w: fit_regression(P, event, w, True, plan))
    return fit_continuous(column, x, parents, weight, plan)


def has_levels(column: TableColumn, x: Array, weight: Array) -> bool:
    """Whether a column is a matter of levels: events, categories, and numbers with a few whole values."""
    return column.kind in ("event", "category") or (column.whole and len(np.unique(x[weight > 0])) <= _LADDER)


def is_count(column: TableColumn, x: Array, weight: Array) -> bool:
    """Whether a column of numbers counts: whole from 0 or 1 on, with few values beside so many rows."""
    values = x[weight > 0]
    return column.whole and values.min() in (0.0, 1.0) and len(np.unique(values)) <= max(30, np.sqrt(len(values)))


def fit_levels(
    column: TableColumn,
    x: Array,
    parents: Tensor,
    weight: Array,
    regress: Callable[[Tensor, Array, Array], tuple[Regression, list[dict[str, float]]]],
) -> tuple[Levels, list[dict[str, float]]]:
    """P(level k | level k or later, parents) for every level but the last.

    Parameters
    ----------
    regress : callable
        A logistic regression, with its history, from parents, events (0 or 1) and weights of some rows.
    """
    levels, unordered = np.unique(x[weight > 0]), column.kind == "category" and not column.ordered
    if unordered:  # the commonest first
        levels = levels[np.argsort([-weight[x == level].sum() for level in levels], kind="stable")]
    rank = (x[:, None] == levels).argmax(axis=1)
    steps, history = [], []
    for k in range(len(levels) - 1):
        own = (rank >= k) & (weight > 0)
        step, more = regress(parents[torch.from_numpy(own)], (rank[own] == k).astype(np.float64), weight[own])
        steps.append(step)
        history += more
    return (Category if unordered else Levels)(levels, tuple(steps)), history


def fit_continuous(
    column: TableColumn, x: Array, parents: Tensor, weight: Array, plan: Plan
) -> tuple[Continuous, list[dict[str, float]]]:
    """Scale, mean, spread and pooled residuals of a continuous column or a count."""
    scale = _fit_scale(column, x, parents, weight)
    none = np.zeros(len(x), dtype=np.int64)
    if parents.shape[1] == 0:
        z = scale.encode(jittered(scale, x, plan.settings.seed))
        law = ResidualLaw.learn(z, none, weight, 1, _ROOT_KNOTS if not scale.whole else 49)
        scale = (
            scale if scale.lowest is None or scale.whole else _with_atom(scale, x, law, weight, np.zeros(len(x)), 1.0)
        )
        return Continuous(scale, None, law), []
    z = scale.encode(x + 0.5 * scale.whole)
    regression, history = fit_regression(parents, z, weight, False, plan)
    held = regression.held_out
    assert held is not None
    residual = held_out_residual(scale, held, x, weight, plan.settings.seed)
    law = ResidualLaw.learn(residual, none, weight, 1)
    if scale.lowest is not None and not scale.whole:
        scale = _with_atom(scale, x, law, weight, held.mean, np.exp(held.log_sd))
    return Continuous(scale, regression, law), history


def held_out_residual(scale: OutcomeScale, held: HeldOut, x: Array, weight: Array, seed: int) -> Array:
    """Standardised residuals (n,) of rows held out, without the share of the regression's own error in them."""
    spread = np.exp(held.log_sd)
    residual = (scale.encode(jittered(scale, x, seed)) - held.mean) / spread
    return residual * own_share(residual, held.variance / spread**2, weight)


def jittered(scale: OutcomeScale, x: Array, seed: int) -> Array:
    """Values, counts spread over [x, x + 1)."""
    return x + np.random.default_rng(seed).random(len(x)) if scale.whole else x


def _with_atom(
    scale: OutcomeScale, x: Array, law: ResidualLaw, weight: Array, mean: Array, spread: Any
) -> OutcomeScale:
    """The scale whose point mass has its observed share."""
    draws = mean[None] + np.asarray(spread) * law.residual(normal_nodes(64)[:, None]).reshape(-1, 1)
    return scale.with_atom(draws, float(np.average(x == scale.lowest, weights=weight)))


def _fit_scale(column: TableColumn, x: Array, parents: Tensor, weight: Array) -> OutcomeScale:
    """Counts and what has the more normal errors as logarithms go on a logarithmic scale."""
    used = weight > 0
    values = x[used]
    if is_count(column, x, weight):
        return OutcomeScale.learn(values, "count", log=True)
    plain = OutcomeScale.learn(values, "continuous", log=False)
    if parents.shape[1] == 0 or len(values) < 20 or not may_be_log(values, "continuous"):
        return plain
    logged = OutcomeScale.learn(values, "continuous", log=True)
    model = HistGradientBoostingRegressor(max_iter=60, max_leaf_nodes=8, learning_rate=0.1, random_state=0)
    folds = KFold(3, shuffle=True, random_state=0)
    P = parents[torch.from_numpy(used)].numpy()
    errors = [y - cross_val_predict(model, P, y, cv=folds) for y in (values, np.log(values + logged.offset))]
    return logged if prefers_log(values, errors[0], logged.offset, errors[1]) else plain


# ---- as arrays -------------------------------------------------------------------------------------------------------

_CLASSES: dict[str, type[Levels]] = {"levels": Levels, "category": Category}


def mechanism_state(mechanism: Mechanism) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON values of a mechanism; a generator is its owner's to keep."""
    tensors: dict[str, Tensor] = {}
    meta: dict[str, Any] = {}

    def add(name: str, regression: Regression) -> dict[str, Any]:
        own, described = regression.state()
        tensors.update(named(name, own))
        return described

    if isinstance(mechanism, Continuous):
        meta = {"kind": "continuous", "scale": mechanism.scale.to_dict(), "regression": None}
        tensors |= {"scores": torch.from_numpy(mechanism.law.scores), "values": torch.from_numpy(mechanism.law.values)}
        if mechanism.regression is not None:
            meta["regression"] = add("regression", mechanism.regression)
        return tensors, meta
    assert isinstance(mechanism, Levels)
    tensors["levels"] = torch.from_numpy(np.ascontiguousarray(mechanism.levels))
    kind = "category" if isinstance(mechanism, Category) else "levels"
    return tensors, {"kind": kind, "steps": [add(f"step{k}", step) for k, step in enumerate(mechanism.steps)]}


def mechanism_from_state(
    tensors: dict[str, Tensor], meta: dict[str, Any], generator: Generator | None = None
) -> Mechanism:
    """Inverse of `mechanism_state`."""
    if meta["kind"] == "continuous":
        law = ResidualLaw(tensors["scores"].numpy(), tensors["values"].numpy())
        found = meta["regression"]
        regression = None if found is None else Regression.from_state(part(tensors, "regression"), found)
        return Continuous(OutcomeScale(**meta["scale"]), regression, law, generator)
    steps = tuple(Regression.from_state(part(tensors, f"step{k}"), own) for k, own in enumerate(meta["steps"]))
    return _CLASSES[meta["kind"]](tensors["levels"].numpy(), steps)
