"""Checks of arrays that inference, metrics and outcomes share: each returns what it checked, or says what is wrong."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


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


def check_received(propensity: FloatArray, arm: IntArray) -> FloatArray:
    """Propensity of the arm that each row received, shape (n_samples,); zero contradicts the data."""
    received = propensity[np.arange(len(arm)), arm]
    zero = np.flatnonzero(received == 0.0)
    if len(zero):
        raise ValueError(
            f"propensity is 0 for the arm that {len(zero)} row(s) received (first: row {zero[0]}, arm {arm[zero[0]]}): "
            "what happened cannot have probability 0. Correct the propensities, or leave those rows out and say so."
        )
    return received


def check_clusters(groups: ArrayLike | None, n_samples: int) -> IntArray | None:
    """Cluster labels as codes 0, 1, ..., one per row; None stays None."""
    if groups is None:
        return None
    labels = check_labels("groups", groups, n_samples)
    codes = pd.factorize(labels)[0].astype(np.int64)
    if codes.min() < 0:
        row = int(codes.argmin())
        raise ValueError(
            f"groups has no label in row {row} ({int((codes < 0).sum())} such): name the cluster of every row, or "
            "leave those rows out."
        )
    return codes


def check_labels(name: str, labels: Any, n_samples: int) -> pd.Series:
    """One label per row, by position."""
    series = pd.Series(labels).reset_index(drop=True)
    if len(series) != n_samples:
        raise ValueError(f"{name} has {len(series)} labels for {n_samples} rows: give one label per row.")
    return series


def check_choice(name: str, value: Hashable, choices: tuple[str, ...]) -> None:
    """One of a few words."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def effective_size(weight: FloatArray) -> float:
    r"""Kish's :math:`(\sum w)^2 / \sum w^2`: how many equally weighted rows tell as much; 0 without any weight."""
    square = float(np.sum(weight**2))
    return float(weight.sum()) ** 2 / square if square > 0 else 0.0
