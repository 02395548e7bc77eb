"""What a user asks of a structural model, tables, do(), given and comparisons, as codes and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from effects.schema import CONTROL_NAMES
from effects.schema.checks import bare_text
from effects.schema.table import TableSchema
from effects.structural.scm import Action, Condition

Array = NDArray[np.float64]


def as_table(table: Any) -> pd.DataFrame:
    """A table that can be asked about."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"table must be a DataFrame with a column for each node of the graph, got {type(table).__name__}."
        )
    if not len(table):
        raise ValueError("table has no rows.")
    return table


def levels_of(schema: TableSchema, treatment: str) -> tuple[Any, ...]:
    """Levels of a treatment, the one with a name like "control" first."""
    levels = schema.column(treatment).levels
    return tuple(sorted(levels, key=lambda level: bare_text(level) not in CONTROL_NAMES))


def pair(schema: TableSchema, treatment: str, treated: Any, control: Any) -> list[Any]:
    """Control and treated values of a comparison, of which one may be None where there are two levels."""
    if treated is None or control is None:
        levels = levels_of(schema, treatment)
        if len(levels) != 2:
            raise ValueError(f"name both treated= and control=: {treatment!r} has {len(levels) or 'no'} levels.")
        other = control if treated is None else treated
        rest = [v for v in levels if v != other]
        treated, control = (rest[-1], other) if treated is None else (treated, rest[0])
    return [control, treated]


def actions_on(schema: TableSchema, do: Mapping[str, Any], n: int) -> dict[int, Action]:
    """Interventions by node: one value for all rows, one a row, or a function of the natural values.

    Raises
    ------
    ValueError
        If a level is unknown, or the number of values is not that of the rows.
    """
    found: dict[int, Action] = {}
    for name, wanted in do.items():
        j = schema.index(name)
        if callable(wanted):
            found[j] = _checked(name, wanted)
        elif isinstance(wanted, pd.Series | np.ndarray | list):
            if len(wanted) != n:
                raise ValueError(f"do[{name!r}] has {len(wanted)} values for {n} rows: give one, or one a row.")
            found[j] = np.array([schema.value(name, v) for v in wanted], dtype=np.float64)
        else:
            found[j] = np.full(n, schema.value(name, wanted))
    return found


def conditions(schema: TableSchema, given: Mapping[str, Any]) -> dict[int, Condition]:
    """Conditions by node: a value, a list of levels, or a pair (low, high) of numbers.

    Raises
    ------
    ValueError
        If a level is unknown, or a pair or list does not suit the column.
    """
    return {schema.index(name): _condition(schema, name, wanted) for name, wanted in given.items()}


def _condition(schema: TableSchema, name: str, wanted: Any) -> Condition:
    column = schema.columns[schema.index(name)]
    if isinstance(wanted, tuple):
        if len(wanted) != 2 or column.kind != "number":
            raise ValueError(
                f"given[{name!r}] must be a pair (low, high) of a column of numbers; levels stand in brackets: "
                f"{list(wanted)!r}."
            )
        ends = (-np.inf, np.inf)
        low, high = (edge if v is None else schema.value(name, v) for v, edge in zip(wanted, ends, strict=True))
        if low > high:
            raise ValueError(f"given[{name!r}]=({wanted[0]!r}, {wanted[1]!r}) holds no value: low exceeds high.")
        return Condition(low=float(low), high=float(high))
    several = list(wanted) if isinstance(wanted, list | set | frozenset) else [wanted]
    codes = tuple(schema.value(name, v) for v in several)
    if len(codes) != 1 and column.kind == "number" and not column.whole:
        raise ValueError(f"given[{name!r}] lists {len(codes)} numbers: give one, or a pair (low, high).")
    return Condition(codes)


def _checked(name: str, function: Any) -> Any:
    """A function of natural values that must give finite numbers."""

    def act(values: Array) -> Array:
        found = np.asarray(function(values), dtype=np.float64)
        if found.shape != values.shape or not np.isfinite(found).all():
            raise ValueError(f"do[{name!r}] must map {len(values)} numbers to as many finite numbers.")
        return found

    return act


def point(drawn: Array, schema: TableSchema) -> Array:
    """One row a unit from draws (n_draws, n, n_columns): the mean of numbers, the commonest level."""
    out = drawn.mean(axis=0)
    for j, column in enumerate(schema.columns):
        if column.kind in ("event", "category"):
            codes = np.arange(len(column.levels))
            out[:, j] = (drawn[:, :, j, None] == codes).sum(axis=0).argmax(axis=1)
        elif np.ptp(drawn[:, :, j], axis=0).max(initial=0.0) == 0:
            out[:, j] = drawn[0, :, j]  # the mean of equal numbers may differ in the last digit
    return out
