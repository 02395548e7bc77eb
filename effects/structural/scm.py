"""A structural causal model on arrays: its mechanisms in causal order, sampled, intervened on and replayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from effects.nn.scale import OutcomeScale, may_be_log, normal_nodes
from effects.schema.table import TableSchema
from effects.structural.mechanisms import Continuous, Levels, Mechanism, between

if TYPE_CHECKING:
    from effects.structural.graph import CausalGraph

Array = NDArray[np.float64]
_CANDIDATES = 4  # effective forward samples for each row that is wanted under a condition
_PILOT = 1000
_MOST_CANDIDATES = 500_000
Action = Array | Callable[[Array], Array]  # values of every row, or a function of the natural values


@dataclass(frozen=True)
class Condition:
    """Values that a node must have: some of them (`values`), or all within [low, high]."""

    values: tuple[float, ...] | None = None
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class SCM:
    """Mechanisms of all nodes, on values ``(n, n_nodes)``: numbers in their unit, codes of levels.

    Attributes
    ----------
    schema : TableSchema
        A column a node.
    order : tuple of int
        Nodes so that parents come first.
    parents : tuple of tuple of int
    mechanisms : tuple of Mechanism
    logs : tuple of OutcomeScale or None
        Logarithmic scales of skewed columns: as parents they are seen on both scales.
    """

    schema: TableSchema
    order: tuple[int, ...]
    parents: tuple[tuple[int, ...], ...]
    mechanisms: tuple[Mechanism, ...]
    logs: tuple[OutcomeScale | None, ...] = ()

    @cached_property
    def _encoders(self) -> list[TableSchema | None]:
        names = self.schema.names
        return [self.schema.take([names[i] for i in own]) if own else None for own in self.parents]

    def encode_parents(self, node: int, values: Array) -> Tensor:
        """Encoded parents of a node, (..., d), of values (..., n_nodes)."""
        encoder = self._encoders[node]
        shape = values.shape[:-1]
        if encoder is None:
            return torch.zeros(*shape, 0)
        own = values[..., list(self.parents[node])].reshape(-1, len(self.parents[node]))
        encoded = [encoder.encode(own)]
        for k, i in enumerate(self.parents[node]):
            if self.logs and (scale := self.logs[i]) is not None:
                # a do() may leave the values of the fit; below all of them the logarithm has nothing to say
                encoded.append(scale.encode(np.maximum(own[:, [k]], self.schema.columns[i].low)).astype(np.float32))
        joined = np.concatenate(encoded, axis=1) if len(encoded) > 1 else encoded[0]
        return torch.from_numpy(joined).reshape(*shape, joined.shape[1])

    def descendants(self, nodes: Sequence[int]) -> list[int]:
        """Proper descendants of nodes, in causal order."""
        found: list[int] = []
        for j in self.order:
            if j not in nodes and any(i in nodes or i in found for i in self.parents[j]):
                found.append(j)
        return found

    def simulate(
        self, n: int, do: Mapping[int, Action], given: Mapping[int, Condition], rng: np.random.Generator
    ) -> tuple[Array, Array]:
        r"""Forward sampling: values (n, n_nodes), and log weights (n,) of what was conditioned on.

        Scores are stratified, one in each n-th part of the normal law and shuffled node by node (a Latin hypercube):
        every root and every additive noise has its law up to 1/n, not up to :math:`1/\sqrt n`. A node in `given` is
        drawn from its law cut to the values wanted, and its row weighted by their probability (likelihood weighting,
        Fung & Chang 1990).
        """
        values = np.zeros((n, len(self.order)))
        log_weight = np.zeros(n)
        for j in self.order:
            mechanism, P = self.mechanisms[j], self.encode_parents(j, values)
            level = (rng.permutation(n) + rng.random(n)) / n
            action = do.get(j)
            if action is not None and not callable(action):
                values[:, j] = action
                continue
            if j in given:
                values[:, j], more = self._within(j, given[j], P, level)
                log_weight += more
            else:
                values[:, j] = mechanism.value(special.ndtri(np.clip(level, 1e-15, 1 - 1e-15)), P)
            if callable(action):
                values[:, j] = action(values[:, j])
        return values, log_weight

    def conditional(
        self, n: int, do: Mapping[int, Action], given: Mapping[int, Condition], rng: np.random.Generator
    ) -> tuple[Array, float]:
        """Rows (n, n_nodes) that fit a condition, by importance resampling, and how many different ones they are worth.

        Raises
        ------
        ValueError
            If the condition has no probability, or `do` has one value a row.
        """
        fixed = {j: action for j, action in do.items() if not callable(action)}
        if any(np.ptp(action) > 0 for action in fixed.values()):
            raise ValueError("do with one value a row cannot be joined with given: the rows would not stay in place.")

        def simulate(size: int) -> tuple[Array, Array]:
            own = dict(do) | {j: np.full(size, action[0]) for j, action in fixed.items()}
            values, log_weight = self.simulate(size, own, given, rng)
            if log_weight.max() < -600:
                raise ValueError("the model gives what was given no probability: condition on values that occur.")
            return values, np.exp(log_weight - log_weight.max())

        size = max(n, _PILOT)
        values, weight = simulate(size)
        if weight.min() > 0.999:  # nothing but roots, or causes of nothing that is left, was given
            return values[rng.permutation(size)[:n]], float(size)
        share = weight.sum() ** 2 / (weight**2).sum() / size
        size = int(np.clip(_CANDIDATES * n / share, 4000, max(_MOST_CANDIDATES, n)))
        values, weight = simulate(size)
        edges = np.cumsum(weight) / weight.sum()
        rows = np.minimum(np.searchsorted(edges, (np.arange(n) + rng.random()) / n), size - 1)
        return values[rng.permutation(rows)], float(weight.sum() ** 2 / (weight**2).sum())

    def _within(self, node: int, wanted: Condition, P: Tensor, level: Array) -> tuple[Array, Array]:
        """Values of a node among those wanted, and the log probability (density, of one value) of these."""
        mechanism, n = self.mechanisms[node], len(level)
        if isinstance(mechanism, Levels):
            levels = mechanism.levels
            inside = (levels >= wanted.low) & (levels <= wanted.high)
            chosen = inside if wanted.values is None else np.isin(levels, wanted.values)
            p = mechanism.probabilities(P) * chosen
            total = np.maximum(p.sum(axis=1), 1e-300)
            below = np.cumsum(p, axis=1) / total[:, None]
            code = np.minimum((level[:, None] > below).sum(axis=1), int(np.flatnonzero(chosen).max(initial=0)))
            return levels[code], np.log(total)
        assert isinstance(mechanism, Continuous)
        if wanted.values is not None:
            value = np.full(n, wanted.values[0])
            return value, mechanism.log_prob(value, P)
        ends = [np.full(n, edge) for edge in (wanted.low, wanted.high)]
        low = mechanism.band(ends[0], P)[0] if np.isfinite(wanted.low) else ends[0]
        high = mechanism.band(ends[1], P)[1] if np.isfinite(wanted.high) else ends[1]
        mass = np.maximum(special.ndtr(high) - special.ndtr(low), 1e-300)
        return mechanism.value(between(low, high, level), P), np.log(mass)

    def complete(self, values: Array, rng: np.random.Generator) -> Array:
        """Missing values drawn from their mechanisms, given the row's parents."""
        values = values.copy()
        for j in self.order:
            rows = np.isnan(values[:, j])
            if rows.any():
                score = rng.standard_normal(int(rows.sum()))
                values[rows, j] = self.mechanisms[j].value(score, self.encode_parents(j, values[rows]))
        return values

    def counterfactual(self, values: Array, do: Mapping[int, Action], rng: np.random.Generator) -> Array:
        """Abduction, action, prediction (Pearl 2009, theorem 7.1.7) of complete rows."""
        new = values.copy()
        for j, action in do.items():
            new[:, j] = action(values[:, j]) if callable(action) else action
        for j in self.descendants(list(do)):
            before, after = self.encode_parents(j, values), self.encode_parents(j, new)
            rows = (before != after).any(dim=1).numpy()  # where no cause changed, nothing happens
            if rows.any():
                noise = self.mechanisms[j].abduct(values[rows, j], before[rows], rng)
                new[rows, j] = self.mechanisms[j].respond(noise, after[rows])
        return new

    def responses(
        self, values: Array, cause: int, arms: Array, outcome: int, n_members: int, n_draws: int, seed: int
    ) -> tuple[Array, Array]:
        r"""Posterior draws of the outcome's law under :math:`do(cause = a)` given all that the cause does not touch.

        Parameters
        ----------
        values : ndarray of shape (n, n_nodes)
            Complete rows; what descends from the cause is drawn anew.
        arms : ndarray of shape (n_arms,)

        Returns
        -------
        draws : ndarray of shape (n_members, n_draws, n, n_arms)
        means : ndarray of shape (n_members, n, n_arms)
            With the outcome's own noise integrated out.
        """
        n, rng = len(values), np.random.default_rng(seed)
        changed = [j for j in self.descendants([cause]) if j == outcome or outcome in self.descendants([j])]
        touched = changed if outcome in changed else [*changed, outcome]
        # common random numbers: the same scores in all arms and members, stratified over the draws of each row
        nodes = np.broadcast_to(normal_nodes(n_draws)[:, None], (n_draws, n))
        scores = {j: rng.permuted(nodes, axis=0) for j in touched}
        draws = np.empty((n_members, n_draws, n, len(arms)))
        means = np.empty((n_members, n, len(arms)))
        for k, arm in enumerate(arms):
            world = np.broadcast_to(values, (n_members, n_draws, n, values.shape[1])).copy()
            world[..., cause] = arm
            for j in touched:
                P = self.encode_parents(j, world).flatten(1, 2)
                score = np.broadcast_to(scores[j], (n_members, n_draws, n)).reshape(n_members, -1)
                world[..., j] = self.mechanisms[j].value(score, P).reshape(n_members, n_draws, n)
                if j == outcome:
                    means[..., k] = self.mechanisms[j].mean(P).reshape(n_members, n_draws, n).mean(axis=1)
            draws[..., k] = world[..., outcome]
        return draws, means

    def log_prob(self, values: Array) -> Array:
        """Log density of complete rows: the sum over nodes, given their parents."""
        total = np.zeros(len(values))
        for j in self.order:
            total += self.mechanisms[j].log_prob(values[:, j], self.encode_parents(j, values))
        return total


def wiring(graph: CausalGraph, names: Sequence[str]) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Positions of a graph's nodes among columns, parents first, and of every column's parents."""
    at = {name: j for j, name in enumerate(names)}
    parents = tuple(tuple(at[one] for one in graph.parents(name) if one in at) for name in names)
    return tuple(at[node] for node in graph.nodes if node in at), parents


def learn_logs(schema: TableSchema, values: Array) -> tuple[OutcomeScale | None, ...]:
    """A logarithmic scale for every column of numbers that is positive and has a long right tail."""
    found: list[OutcomeScale | None] = []
    for column, x in zip(schema.columns, values.T, strict=True):
        x = x[~np.isnan(x)]
        skewed = column.kind == "number" and not column.is_date and len(x) > 2 and may_be_log(x, "continuous")
        found.append(OutcomeScale.learn(x, "continuous", log=True) if skewed else None)
    return tuple(found)
