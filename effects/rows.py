"""Rows of a table as estimators take them: checked weights and propensities, parts, how a row is known again."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from effects.nuisance import Nuisance
from effects.schema import Schema, check_sample_weight

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingData:
    """What a subclass's `_fit` gets: checked, encoded, complete.

    Attributes
    ----------
    E : ndarray of float32, shape (n_samples, n_encoded)
    a : ndarray of int64, shape (n_samples,)
        Arms, control 0.
    y : ndarray of float64, shape (n_samples,)
        Outcome in its own unit (0 and 1 for a binary one).
    weight : ndarray of float64, shape (n_samples,)
        Sample weights, mean one.
    nuisance : Nuisance
        Cross-fitted on these rows.
    schema : Schema
    seed : int
    shared : dict
        What estimators that are fitted on the same data have in common, and need not learn twice.
    """

    E: NDArray[np.float32]
    a: NDArray[np.int64]
    y: Array
    weight: Array
    nuisance: Nuisance
    schema: Schema
    seed: int
    shared: dict[Hashable, Any] = field(default_factory=dict)


def check_weights(sample_weight: ArrayLike | None, a: NDArray[np.int64], arms: tuple[Hashable, ...]) -> Array:
    if sample_weight is None:
        return np.ones(len(a))
    weight = check_sample_weight(sample_weight, len(a))
    for k, arm in enumerate(arms):
        if np.count_nonzero(weight[a == k]) < 2:
            raise ValueError(f"fewer than two rows of arm {arm!r} have a positive sample_weight: leave the arm out.")
    return weight / weight.mean()


def check_propensities(propensity: ArrayLike, n: int, arms: tuple[Hashable, ...]) -> Array:
    try:
        values = np.asarray(propensity, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError("propensity must hold numbers, the known probability of each arm.") from None
    given = values.shape
    if values.ndim == 1 and len(arms) == 2:
        values = np.column_stack([1.0 - values, values])
    if values.shape != (n, len(arms)):
        raise ValueError(
            f"propensity has shape {given}, expected ({n}, {len(arms)}): a row per row of X, a column per arm, in the "
            f"order {arms}; for two arms also ({n},), of the treated arm."
        )
    bad = ~((values > 0) & (values < 1)).all(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"propensity must lie strictly between 0 and 1, got {values[row].tolist()} in row {row}: leave out rows "
            "that could get one arm only, they cannot be compared."
        )
    total = values.sum(axis=1)
    bad = np.abs(total - 1.0) > 1e-6
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"propensity must sum to 1 over the arms, but sums to {total[row]:g} in row {row}.")
    return values


def seed_of(random_state: Any) -> int:
    """A seed from what users pass: equal for equal ints, the next number of a generator, fresh for None."""
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    return int(check_random_state(random_state).randint(2**31 - 1))


def row_keys(E: NDArray[np.float32], a: NDArray[np.int64], y: Array) -> NDArray[np.uint64]:
    """One 64-bit key per row of covariates, arm and outcome: equal rows have equal keys, others practically never."""
    keys = _mixed(np.ascontiguousarray(y, dtype=np.float64).view(np.uint64), 1) + _mixed(a.astype(np.uint64), 2)
    for column in range(E.shape[1]):
        keys += _mixed(np.ascontiguousarray(E[:, column]).view(np.uint32).astype(np.uint64), column + 3)
    return keys


def _mixed(values: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """Vigna's splitmix64 of every value, salted by its column."""
    z = values + np.uint64(salt * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def positions(keys: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where each key stands in `known` (the same order is kept where rows repeat), -1 where it does not."""
    if np.array_equal(keys, known):
        return np.arange(len(keys))
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], keys), len(known) - 1)
    return np.where(known[order][at] == keys, order[at], -1)


def chunks(n: int, size: int) -> Iterator[slice]:
    """Consecutive rows, at most `size` at a time."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def index_of(X: Any) -> pd.Index | None:
    """The labels of the rows, where they have any."""
    return X.index if isinstance(X, pd.DataFrame) else None
