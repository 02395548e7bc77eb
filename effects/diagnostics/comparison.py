"""How arms are compared: the weights that carry each arm to one population, and distances between covariates.

Every comparison of covariates in this package (balance, Table 1, who is lost by trimming) rests on these few functions.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from effects.diagnostics.evidence import FloatArray
from effects.effect import contrast
from effects.inference.checks import check_choice
from effects.inference.sample import Sample
from effects.inference.scores import Population
from effects.schema import ColumnSpec, Schema
from effects.schema.checks import as_frame, factorize, to_days, to_numbers

ESTIMANDS = ("ATE", "ATT", "ATC", "ATO")
MISSING, OTHER = "<missing>", "<other>"


def population_of(sample: Sample, estimand: str, treated: Hashable = None, control: Hashable = None) -> Population:
    """The population of an estimand; all arms at once for an ATE of which no arm is named, else two of them.

    Raises
    ------
    ValueError
        If the estimand is unknown, or the arms are ambiguous.
    """
    check_choice("estimand", estimand, ESTIMANDS)
    if estimand == "ATE" and treated is None and control is None:
        return Population.everyone(sample, range(len(sample.arms)))
    return Population.tilted(sample, estimand, *contrast(sample.arms, treated, control))


def pairs_of(population: Population) -> list[tuple[int, int]]:
    """Columns of ``population.g`` to compare, the treated arm first: the pair that was named, or every pair."""
    codes = population.codes
    if len(codes) == 2 and codes[0] > codes[1]:
        return [(0, 1)]
    return [(j, i) for j in range(len(codes)) for i in range(j)]


# ----------------------------------------------------------------------------------------------------------- covariates


@dataclass(frozen=True, eq=False)
class Covariate:
    """A number, or one level of a category as 0/1.

    Attributes
    ----------
    name : str
        ``"age"``, ``"sex: f"``, ``"age: <missing>"``.
    column : str
    level : str or None
        None for the numbers, dates and bools of a column themselves.
    kind : {"number", "date", "binary"}
    values : ndarray of shape (n_samples,)
        In the column's unit (days since 1970-01-01 for dates), NaN where missing.
    """

    name: str
    column: str
    level: str | None
    kind: str
    values: FloatArray

    @property
    def binary(self) -> bool:
        return self.kind == "binary"


def covariates_of(schema: Schema, X: Any, used: NDArray[np.bool_]) -> list[Covariate]:
    """The columns of X as they are compared: numbers, bools, every level of a category, missing or not.

    What does not vary among the rows that are `used` has nothing to compare, and is left out. Rare levels share
    ``<other>``, as they do in the fit. A level the fit never saw counts as missing, as it does there.
    """
    frame, named = as_frame(X, minimum=1)
    found: list[Covariate] = []
    for spec, position in zip(schema.columns, schema._positions(frame, named), strict=True):
        if spec.kind == "constant":
            continue
        own = _of_column(spec, frame.iloc[:, position])
        missing = np.isnan(own[0].values).astype(np.float64)
        own.append(Covariate(f"{spec.name}: {MISSING}", spec.name, MISSING, "binary", missing))
        found += [one for one in own if _varies(one.values[used])]
    return found


def _of_column(spec: ColumnSpec, column: pd.Series) -> list[Covariate]:
    if spec.kind == "category":
        codes, labels, _ = factorize(column, f"column {spec.name!r}")
        level = np.array([spec.codes.get(label, -1) for label in labels] + [-1], dtype=np.int64)[codes]
        missing = level < 0
        names = [str(label) for label in spec.levels] + [OTHER] * bool(spec.pooled)
        return [
            Covariate(f"{spec.name}: {name}", spec.name, name, "binary", np.where(missing, np.nan, level == k))
            for k, name in enumerate(names)
        ]
    if spec.kind == "date":
        days, _ = to_days(column, f"column {spec.name!r}")
        return [Covariate(spec.name, spec.name, None, "date", days)]
    values = to_numbers(column)
    observed = values[~np.isnan(values)]
    binary = spec.kind == "bool" or bool(((observed == 0) | (observed == 1)).all())
    return [Covariate(spec.name, spec.name, None, "binary" if binary else "number", values)]


def _varies(values: FloatArray) -> bool:
    observed = values[~np.isnan(values)]
    return len(observed) > 0 and bool(observed.min() < observed.max())


# ------------------------------------------------------------------------------------------------------------ distances


def moments(values: FloatArray, weight: FloatArray, binary: bool) -> tuple[float, float]:
    r"""Weighted mean and variance of the observed values of rows with weight; NaN where there are none.

    The variance of 0/1 is :math:`p (1 - p)` (Austin 2009); of numbers :math:`\sum w (x - m)^2 \sum w / ((\sum w)^2 -
    \sum w^2)`, unbiased for weights that say how reliable a row is, and the usual one (n - 1) for equal weights.
    """
    rows = (weight > 0) & ~np.isnan(values)
    if not rows.any():
        return float("nan"), float("nan")
    x, w = values[rows], weight[rows] / weight[rows].sum()
    if x.min() == x.max():  # exactly, whatever the rounding of the weights
        return float(x[0]), 0.0
    mean = float(w @ x)
    if binary:
        return mean, mean * (1 - mean)
    free = 1 - float(w @ w)
    return mean, float(w @ (x - mean) ** 2) / free if free > 1e-12 else 0.0


def standardised(
    values: FloatArray, binary: bool, weights: tuple[FloatArray, FloatArray], scale: float | None = None
) -> float:
    """Difference of the weighted means of two groups over `scale`, by default the pooled sd of these same weights.

    Infinite where groups without any spread differ.
    """
    (m1, v1), (m0, v0) = (moments(values, w, binary) for w in weights)
    sd = np.sqrt((v1 + v0) / 2) if scale is None else scale
    gap = m1 - m0
    if np.isnan(gap) or sd > 0:
        return float(gap / sd) if sd > 0 else float("nan")
    return 0.0 if abs(gap) <= 1e-12 * max(1.0, abs(m0)) else float(np.copysign(np.inf, gap))


def pooled_sd(values: FloatArray, binary: bool, weights: tuple[FloatArray, FloatArray]) -> float:
    """Root of the mean of two groups' variances."""
    return float(np.sqrt((moments(values, weights[0], binary)[1] + moments(values, weights[1], binary)[1]) / 2))


def kolmogorov_smirnov(values: FloatArray, weights: tuple[FloatArray, FloatArray]) -> float:
    """Largest distance of the weighted distribution functions of two groups; NaN where one has no values."""
    observed = ~np.isnan(values)
    order = np.argsort(values[observed], kind="stable")
    x = values[observed][order]
    steps = []
    for weight in weights:
        w = weight[observed][order]
        if not w.sum() > 0:
            return float("nan")
        steps.append(np.cumsum(w) / w.sum())
    last = np.append(x[1:] != x[:-1], True)  # a tie is one step
    return float(np.abs(steps[0] - steps[1])[last].max())
