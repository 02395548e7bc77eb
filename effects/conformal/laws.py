"""Predictive laws on fixed nodes, and the conformity scores that measure an outcome against its law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from effects.conformal.quantiles import Array, Bounds
from effects.outcomes import PotentialOutcomes

SCORES = ("cqr", "pit", "residual")
_NODES = 81
_BLOCK_ROWS = 8192  # rows whose draws are sorted at once
_EDGE = 3.0  # normal quantile of the outermost node, where there are draws enough for it
_FLATTEST = 0.05  # of the outcome's sd: the least rise of a tail per unit of its normal quantile


@dataclass(frozen=True, eq=False)
class Laws:
    r"""The outcome's predictive law under one arm, row by row: its quantile function on nodes that all rows share.

    :math:`\tilde Q(z)` interpolates the law's quantile at level :math:`\Phi(z)` linearly in z. Beyond the outermost
    node it goes on with the law's mean slope, so that an outcome beyond all draws still has a place of its own, and a
    score that is large rather than infinite. Any such function of (x, y) is a valid conformity score: the nodes cost
    sharpness at most, never coverage.

    Attributes
    ----------
    nodes : ndarray of shape (n_nodes,)
        Equally spaced normal quantiles, symmetric around zero.
    values : ndarray of shape (n_samples, n_nodes)
        Sorted along axis 1.
    mean, slope : ndarray of shape (n_samples,)
        The law's mean; its rise per unit of z in the tails, positive.
    """

    nodes: Array
    values: NDArray[np.float32]
    mean: Array
    slope: Array

    @classmethod
    def of_arms(cls, outcomes: PotentialOutcomes, sd: float) -> tuple[Laws, ...]:
        """One per arm of `outcomes`; `sd` is the outcome's spread, in its unit."""
        # k-th of N draws stands at (k - 1/2) / N: nodes beyond the outermost draws would know nothing more
        edge = float(np.clip(ndtri(1 - 0.5 / (outcomes.n_members * outcomes.n_draws)), 0.5, _EDGE))
        nodes = np.linspace(-edge, edge, _NODES)
        values = np.moveaxis(outcomes.quantile(ndtr(nodes)), 0, -1)  # (n_samples, n_arms, n_nodes)
        slope = np.maximum((values[..., -1] - values[..., 0]) / (2 * edge), _FLATTEST * sd)
        mean = outcomes.mean()
        return tuple(
            cls(nodes, values[:, k].astype(np.float32), mean[:, k], slope[:, k]) for k in range(outcomes.n_arms)
        )

    @classmethod
    def joined(cls, parts: Sequence[Laws]) -> Laws:
        """The laws of several models' rows, on the nodes of the first."""
        z = parts[0].nodes
        if any(p.nodes[-1] != z[-1] for p in parts):  # models that give unequal numbers of draws
            each = [p.quantile(np.tile(z, (len(p), 1))).astype(np.float32) for p in parts]
            parts = [replace(p, nodes=z, values=values) for p, values in zip(parts, each, strict=True)]
        values, mean, slope = (
            np.concatenate([getattr(p, name) for p in parts]) for name in ("values", "mean", "slope")
        )
        return cls(parts[0].nodes, values, mean, slope)

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Any) -> Laws:
        """The laws of some rows."""
        return replace(self, values=self.values[rows], mean=self.mean[rows], slope=self.slope[rows])

    def quantile(self, z: Array) -> Array:
        """Q(z) of every row, shape (n_samples, m) for `z` of that shape; infinite for an infinite z."""
        edge, step = self.nodes[-1], self.nodes[1] - self.nodes[0]
        within = np.clip(z, -edge, edge)
        place = (within + edge) / step
        left = np.minimum(place.astype(np.int64), len(self.nodes) - 2)
        low = np.take_along_axis(self.values, left, axis=1).astype(np.float64)
        high = np.take_along_axis(self.values, left + 1, axis=1).astype(np.float64)
        return low + (place - left) * (high - low) + self.slope[:, None] * (z - within)

    def position(self, y: Array) -> tuple[Array, Array]:
        """The least and the greatest z with Q(z) = y (an atom has an interval of them), each of shape (n_samples,)."""
        mirrored = replace(self, values=-self.values[:, ::-1])
        return _left_inverse(self, y), -_left_inverse(mirrored, -y)


def _left_inverse(laws: Laws, y: Array) -> Array:
    """inf{z : Q(z) >= y}."""
    nodes, values = laws.nodes, laws.values.astype(np.float64)
    above = (values < y[:, None]).sum(axis=1)  # first node whose value reaches y
    k = np.clip(above, 1, len(nodes) - 1)
    rows = np.arange(len(y))
    low, high = values[rows, k - 1], values[rows, k]
    rise = np.where(high > low, high - low, 1.0)
    inside = nodes[k - 1] + (y - low) / rise * (nodes[k] - nodes[k - 1])
    below = nodes[0] + (y - values[:, 0]) / laws.slope
    beyond = nodes[-1] + (y - values[:, -1]) / laws.slope
    return np.where(above == 0, below, np.where(above == len(nodes), beyond, inside))


def conformity_scores(score: str, laws: Laws, y: Array, level: float) -> Array:
    r"""Conformity scores of observed outcomes, shape (n_samples,): the larger, the stranger.

    Each is the least s at which `law_bounds` holds the outcome (nested sets, Gupta, Kuchibhotla & Ramdas 2022):

    - ``"cqr"``: :math:`\max(q_{lo}(x) - y,\ y - q_{hi}(x))` with the law's central interval at `level` (Romano,
      Patterson & Candès 2019, Algorithm 1), in the outcome's unit;
    - ``"pit"``: :math:`|\Phi^{-1}(F(y \mid x))|`, which orders outcomes as :math:`|F(y \mid x) - 1/2|` does
      (Chernozhukov, Wüthrich & Zhu 2021), in normal quantiles. At an atom of the law (a count), the smallest
      value that its probabilities allow: conservative;
    - ``"residual"``: :math:`|y - m(x)|`.
    """
    if score == "residual":
        return np.abs(y - laws.mean)
    if score == "cqr":
        low, high = _central(laws, level)
        return np.maximum(low - y, y - high)
    least, greatest = laws.position(y)
    return np.maximum(np.maximum(least, -greatest), 0.0)


def law_bounds(score: str, laws: Laws, level: float) -> Bounds:
    """The prediction sets of the laws' rows at given scores; see `conformity_scores`."""

    def bounds(rows: slice, s: Array) -> tuple[Array, Array]:
        part = laws.take(rows)
        if score == "pit":
            return part.quantile(-s), part.quantile(s)
        low, high = (part.mean, part.mean) if score == "residual" else _central(part, level)
        return low[:, None] - s, high[:, None] + s

    return bounds


def _central(laws: Laws, level: float) -> tuple[Array, Array]:
    """The law's central interval at `level`."""
    z = np.full((len(laws), 1), ndtri(0.5 + level / 2))
    return laws.quantile(-z)[:, 0], laws.quantile(z)[:, 0]


@dataclass(frozen=True, eq=False)
class Recalibration:
    r"""A monotone map of quantile levels that makes PITs uniform over the target population.

    On the normal scale, piecewise linear through the points :math:`(\Phi^{-1}(\hat G_i), z_{(i)})`, where
    :math:`\hat G_i` is the weighted share of calibration rows below the i-th (half of its own mass included), and
    parallel to the identity beyond them: the recalibrated quantile at level u is :math:`\tilde Q(\rho(\Phi^{-1}(u)))`.

    Attributes
    ----------
    wanted, found : ndarray of shape (n_points,)
        Normal quantiles of the levels that should hold, and of those of the law that do.
    """

    wanted: Array
    found: Array

    @classmethod
    def learn(cls, z: Array, weights: Array) -> Recalibration:
        """From the normal quantiles of the calibration rows' PITs and their weights; the identity without any."""
        keep = weights > 0
        order = np.argsort(z[keep], kind="stable")
        mass = weights[keep][order]
        if not len(mass):
            return cls(np.zeros(1), np.zeros(1))
        return cls(ndtri((np.cumsum(mass) - mass / 2) / mass.sum()), z[keep][order])

    def __call__(self, z: Array) -> Array:
        within = np.clip(z, self.wanted[0], self.wanted[-1])
        return np.interp(within, self.wanted, self.found) + (z - within)


def randomised_position(laws: Laws, y: Array, rng: np.random.Generator) -> Array:
    """Normal quantile of the randomised PIT (Czado, Gneiting & Held 2009): exact where the law has no atom at y."""
    least, greatest = laws.position(y)
    low, high = ndtr(least), ndtr(greatest)
    atom = (greatest > least) & (high > low)
    return np.where(atom, ndtri(low + rng.random(len(y)) * (high - low)), (least + greatest) / 2)


def recalibrated(laws: Laws, draws: NDArray[np.float32], rho: Recalibration, whole: bool) -> NDArray[np.float32]:
    """Every draw (n_members, n_draws, n_samples) moved to where `rho` says its rank among all draws belongs.

    Ranks are those within the pool of all members, so members stay apart from each other as they were.
    """
    size, n = draws.shape[0] * draws.shape[1], draws.shape[2]
    pool = draws.reshape(size, n)
    if whole:  # ties of counts are broken at random: in the members' order, some members would be the larger ones
        pool = pool + np.random.default_rng(0).random(pool.shape, dtype=np.float32) * np.float32(0.5)
    rank = np.argsort(np.argsort(pool, axis=0, kind="stable"), axis=0, kind="stable")
    z = rho(ndtri((np.arange(size) + 0.5) / size))
    moved = laws.quantile(z[rank].T).T
    if whole:
        moved = np.maximum(np.rint(moved), 0.0)
    return moved.reshape(draws.shape).astype(np.float32)


def recalibrated_outcomes(outcomes: PotentialOutcomes, maps: Sequence[Recalibration], sd: float) -> PotentialOutcomes:
    """The outcomes with the draws of every arm moved by its own map; `sd` is the outcome's spread."""
    draws = np.array(outcomes.draws)
    for start in range(0, outcomes.n_samples, _BLOCK_ROWS):
        rows = np.arange(start, min(start + _BLOCK_ROWS, outcomes.n_samples))
        laws = Laws.of_arms(outcomes.take(rows), sd)
        for k, rho in enumerate(maps):
            draws[:, :, rows, k] = recalibrated(laws[k], draws[:, :, rows, k], rho, outcomes.kind == "count")
    return replace(outcomes, draws=draws, means=None)
