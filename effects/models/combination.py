"""How a stack combines its components: convex weights of means, effects and laws, found on held-out rows."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from effects.calibration import RIDGE, minimise, simplex_weights
from effects.nuisance import NuisanceValues
from effects.outcomes import PotentialOutcomes
from effects.rows import TrainingData

Array = NDArray[np.float64]
Draws = NDArray[np.float32]
LEARNERS = ("X-learner on boosting per arm", "X-learner on both")  # effects that the nuisances know
_NODES = 32  # quantiles of a law in its score


@dataclass(frozen=True, eq=False)
class Weights:
    """Convex weights of the components.

    Attributes
    ----------
    names : tuple of str
        Components: the estimators first.
    mean : ndarray of shape (n_components, n_arms)
        Columns sum to one (all zero where means are not moved), of outcomes or of their logarithms.
    effect : ndarray of shape (1 + n_learners, n_arms - 1)
        Of the stacked difference, then of the X-learners; columns sum to one. No rows where effects are not stacked.
    law : ndarray of shape (n_components,)
        Of the residual laws, or of the pooled laws.
    """

    names: tuple[str, ...]
    mean: Array
    effect: Array
    law: Array

    def combine(self, means: Array, values: NuisanceValues) -> tuple[Array, Array, Array]:
        """Stacked means (n, n_arms), the candidate effects (1 + n_learners, n, n_arms - 1), the stacked effect."""
        mu = np.einsum("kna,ka->na", means, self.mean)
        assert values.contrast is not None
        effects = np.concatenate([(mu[:, 1:] - mu[:, :1])[None], values.contrast.transpose(1, 0, 2)])
        effect = np.einsum("cnb,cb->nb", effects, self.effect)
        e = values.propensity
        control = (e * mu).sum(axis=1, keepdims=True) - (e[:, 1:] * effect).sum(axis=1, keepdims=True)
        return np.concatenate([control, control + effect], axis=1), effects, effect

    def table(self, arms: tuple[Hashable, ...]) -> pd.DataFrame:
        """One row a component, NaN where it takes no part."""
        columns: dict[str, list[float]] = {}
        learners = len(LEARNERS) if len(self.effect) else 0
        blank = [np.nan] * learners
        if self.mean.any():
            columns |= {f"mean of {arm}": [*self.mean[:, k], *blank] for k, arm in enumerate(arms)}
        if learners:
            for k, arm in enumerate(arms[1:]):
                stacked = self.effect[0, k] * self.mean[:, k + 1]
                columns[f"effect of {arm}"] = [*stacked, *self.effect[1:, k]]
        columns["law"] = [*self.law, *blank]
        index = [*self.names, *(LEARNERS if learners else ())]
        return pd.DataFrame(columns, index=pd.Index(index, name="component"))


def stack_means(
    data: TrainingData, means: dict[str, Array], values: NuisanceValues, effect_loss: str
) -> tuple[Weights, Array]:
    """Weights of means and effects, and the stacked means (n, n_arms) of the held-out rows."""
    n_arms, names = data.schema.n_arms, tuple(means)
    stacked = np.stack(list(means.values()))
    mean = np.empty((len(names), n_arms))
    for k in range(n_arms):
        own = data.a == k
        mean[:, k] = simplex_weights(stacked[:, own, k].T, data.y[own], data.weight[own])
    start = Weights(names, mean, np.eye(1 + len(LEARNERS), 1) * np.ones(n_arms - 1), np.zeros(len(names)))
    mu, effects, _ = start.combine(stacked, values)
    effect = np.empty((1 + len(LEARNERS), n_arms - 1))
    for k in range(1, n_arms):
        pair = (data.a == k) | (data.a == 0)
        both = values.propensity[pair][:, [0, k]]
        e = np.clip(both[:, 1] / both.sum(axis=1), 0.02, 0.98)
        t, y, own = (data.a[pair] == k).astype(float), data.y[pair], mu[pair][:, [0, k]]
        candidates = effects[:, pair, k - 1].T
        if effect_loss == "r":
            m, lean = (1 - e) * own[:, 0] + e * own[:, 1], t - e
            effect[:, k - 1] = simplex_weights(candidates * lean[:, None], y - m, data.weight[pair], 1.0)
        else:
            error = y - np.where(t == 1, own[:, 1], own[:, 0])
            target = own[:, 1] - own[:, 0] + (t / e - (1 - t) / (1 - e)) * error
            effect[:, k - 1] = simplex_weights(candidates, target, data.weight[pair], 1.0)
    weights = replace(start, effect=effect)
    return weights, weights.combine(stacked, values)[0]


def unmoved(names: tuple[str, ...], n_arms: int) -> Weights:
    """Weights of a pool, where neither means nor effects are moved."""
    return Weights(names, np.zeros((len(names), n_arms)), np.zeros((0, n_arms - 1)), np.zeros(len(names)))


@dataclass(frozen=True)
class Logs:
    """How skewed non-negative outcomes are moved: by a factor, once `offset` is added."""

    offset: float

    def mean(self, draws: Draws) -> Array:
        """Mean logarithm (n, n_arms) of draws (n_members, n_draws, n, n_arms)."""
        least = np.finfo(np.float32).tiny  # a draw at the end of the scale has a logarithm too
        return np.log(np.maximum(draws.astype(np.float64) + self.offset, least)).mean(axis=(0, 1))

    def shift(self, draws: Draws, means: Array) -> Draws:
        """Draws whose mean logarithm is `means`."""
        return ((draws + self.offset) * np.exp(means - self.mean(draws)) - self.offset).astype(np.float32)


def stack_logs(data: TrainingData, means: dict[str, Array], logs: Logs) -> tuple[Weights, Array]:
    """Weights of mean logarithms, by the squared error of the held-out outcomes' logarithms, and their mean."""
    n_arms, names = data.schema.n_arms, tuple(means)
    stacked = np.stack(list(means.values()))
    z = np.log(data.y + logs.offset)
    mean = np.empty((len(names), n_arms))
    for k in range(n_arms):
        own = data.a == k
        mean[:, k] = simplex_weights(stacked[:, own, k].T, z[own], data.weight[own])
    weights = Weights(names, mean, np.zeros((0, n_arms - 1)), np.zeros(len(names)))
    return weights, np.einsum("kna,ka->na", stacked, mean)


def about(outcomes: PotentialOutcomes, means: Array) -> Draws:
    """Held-out draws (n_draws, n, n_arms), moved to other means."""
    draws = outcomes.draws[0]
    return (draws - draws.mean(axis=0) + means).astype(np.float32)


def law_weights(data: TrainingData, laws: dict[str, Draws], names: tuple[str, ...]) -> Array:
    r"""Weights of held-out laws (n_draws, n, n_arms) that minimise the mixture's CRPS of the observed outcomes.

    :math:`CRPS(w) = \sum_k w_k E|X_k - y| - \frac12 \sum_{kl} w_k w_l E|X_k - X_l|` (Gneiting & Raftery 2007,
    eq. 21); for a binary outcome its Brier score.
    """
    rows = np.arange(len(data.y))
    factual = [law[:, rows, data.a].astype(np.float64) for law in laws.values()]
    if data.schema.outcome.kind == "binary":
        found = simplex_weights(np.column_stack([law[0] for law in factual]), data.y, data.weight)
    elif len(factual) == 1:
        found = np.ones(1)
    else:
        nodes = [np.quantile(law, (np.arange(_NODES) + 0.5) / _NODES, axis=0) for law in factual]
        share = data.weight / data.weight.sum()
        apart = [np.abs(law - data.y).mean(axis=0) @ share for law in nodes]
        K = len(nodes)
        between = np.array([[_distance(nodes[k], nodes[j]) @ share for j in range(K)] for k in range(K)])
        unit = max(float(np.diag(between).mean()), 1e-300)
        # -between is positive definite on the simplex only: a multiple of 1 1' changes nothing there
        gram = (between.max() - between) / unit + RIDGE / len(rows) * np.eye(K)
        found = minimise(gram, -np.array(apart) / unit + RIDGE / len(rows) / K)
    weights = dict(zip(laws, found, strict=True))
    return np.array([weights.get(name, 0.0) for name in names])


def _distance(one: Array, other: Array) -> Array:
    """E|X - X'| row by row, (n,), of two laws given as equally likely values (n_nodes, n)."""
    total = np.zeros(one.shape[1])
    for row in one:
        total += np.abs(row - other).mean(axis=0)
    return total / len(one)


def pool_nodes(laws: list[Draws | None], weight: Array, n_draws: int) -> Draws:
    """Equally likely values (n_draws, n, n_arms) of the mixture: every law lends as many quantiles as its weight."""
    lent = np.bincount(allocation(weight, n_draws), minlength=len(weight))
    parts = []
    for law, n in zip(laws, lent, strict=True):
        if n and law is not None:
            ordered = np.sort(law, axis=0)
            parts.append(ordered[np.floor((np.arange(n) + 0.5) * len(ordered) / n).astype(int)])
    return np.concatenate(parts)


def allocation(weight: Array, n: int) -> NDArray[np.int64]:
    """Which component each of `n` places goes to: largest remainders, spread evenly."""
    exact = weight / weight.sum() * n
    counts = np.floor(exact).astype(int)
    for k in np.argsort(counts - exact, kind="stable")[: n - counts.sum()]:
        counts[k] += 1
    places = np.concatenate([(np.arange(c) + 0.5) / c for c in counts if c])
    owners = np.repeat(np.arange(len(weight)), counts)
    return owners[np.argsort(places, kind="stable")]


def directions(n_members: int, n: int, rng: np.random.Generator) -> Array:
    """Numbers (n_members, n) with mean zero, variance one and no correlation over members, as far as they go."""
    g = rng.standard_normal((n_members, n))
    g -= g.mean(axis=0)
    if n < n_members:
        g = np.linalg.qr(g)[0] * np.sqrt(n_members)
    return g
