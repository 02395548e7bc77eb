"""What a user passes, checked: tables and vectors as they come, the kind of their values, and their labels."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types as ptypes

Label = Any  # bool | int | float | str | pd.Timestamp: what a level or an arm may be called

EVENT_NAMES = ("yes", "y", "true", "event", "case", "positive", "dead", "died")
OBJECT_KINDS = {"boolean": "bool", "integer": "number", "floating": "number", "mixed-integer-float": "number"}
OBJECT_KINDS |= {"decimal": "number", "string": "category", "empty": "empty"}
OBJECT_KINDS |= {"datetime64": "date", "datetime": "date", "date": "date"}


def as_frame(X: Any, minimum: int) -> tuple[pd.DataFrame, bool]:
    """X as a DataFrame with unique string names (no copy of the values), and whether the names are the user's."""
    if not isinstance(X, pd.DataFrame | pd.Series | np.ndarray) and hasattr(X, "to_pandas"):
        X = X.to_pandas()  # polars, pyarrow
    named = isinstance(X, pd.DataFrame)
    if named:
        if X.columns.nlevels > 1:
            raise ValueError("The columns of X are a MultiIndex: join its levels to one name per column.")
        frame = X.copy(deep=False)
        frame.columns = pd.Index([str(name) for name in X.columns], dtype=object)
        if frame.columns.has_duplicates:
            twice = sorted(set(frame.columns[frame.columns.duplicated()]))
            raise ValueError(f"X has duplicated column names: {some(twice)}. Rename or drop the copies.")
    else:
        array = _as_array(X, "X")
        if array.ndim < 2:
            raise ValueError(
                f"Expected 2D array, got {'1D' if array.ndim else 'scalar'} array instead, of shape {array.shape}.\n"
                "Reshape your data either using array.reshape(-1, 1) if your data has a single feature or "
                "array.reshape(1, -1) if it contains a single sample."
            )
        if array.ndim > 2:
            raise ValueError(
                f"Found array with dim {array.ndim}, while dim <= 2 is required; X has shape {array.shape}."
            )
        frame = pd.DataFrame(array, columns=[f"x{k}" for k in range(array.shape[1])], copy=False)
    for n, what, least in ((len(frame), "sample", minimum), (frame.shape[1], "feature", 1)):
        if n < least:
            found = f"{n} {what}(s) (shape={frame.shape})"
            raise ValueError(f"Found array with {found} while a minimum of {least} is required.")
    return frame, named


def _as_array(values: Any, name: str) -> np.ndarray:
    """Any array-like as an ndarray; what numpy would mangle silently is an error."""
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        raise TypeError(f"Sparse data was passed for {name}, but dense data is required: pass {name}.toarray().")
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost: pass {name}.filled(np.nan).")
    if isinstance(values, Mapping) or getattr(getattr(values, "dtype", None), "names", None):
        raise TypeError(f"{name} is a {type(values).__name__} with named columns: pass pd.DataFrame({name}).")
    if isinstance(values, np.ndarray):
        return values
    try:
        array = np.asarray(values)
        # [[1, "a"]] would become text throughout
        return np.array(values, dtype=object) if array.dtype.kind in "US" and isinstance(values, Sequence) else array
    except ValueError:
        raise ValueError(f"{name} has rows of different lengths: every row needs one value per column.") from None


def as_series(values: Any, name: str) -> pd.Series:
    """A vector of shape (n_samples,) as a Series."""
    if values is None and name == "y":
        raise ValueError("EffectEstimator requires y to be passed, but the target y is None.")
    if values is None or isinstance(values, str):
        column = "..." if values is None else repr(values)
        raise TypeError(f"{name} must hold one value per row, got {values!r}: pass the column itself, data[{column}].")
    if not isinstance(values, pd.DataFrame | pd.Series | np.ndarray) and hasattr(values, "to_pandas"):
        values = values.to_pandas()  # polars, pyarrow
    if isinstance(values, pd.Index | pd.api.extensions.ExtensionArray):
        values = pd.Series(values)
    if isinstance(values, pd.Series):
        return values
    table: Any = values if isinstance(values, pd.DataFrame) else _as_array(values, name)
    if table.ndim == 2 and table.shape[1] == 1:
        from sklearn.exceptions import DataConversionWarning

        text = f"A column-vector {name} was passed when a 1d array was expected: use {name}.ravel()."
        warnings.warn(text, DataConversionWarning, stacklevel=4)
        table = table.iloc[:, 0] if isinstance(table, pd.DataFrame) else table[:, 0]
    if table.ndim != 1:
        raise ValueError(f"{name} should be a 1d array, got an array of shape {table.shape} instead.")
    return pd.Series(table, copy=False)


def check_sample_weight(sample_weight: Any, n_samples: int | None = None) -> np.ndarray:
    """Weights as float64 of shape (n_samples,): finite, not negative, not all 0; anything else is a ValueError."""
    series = as_series(sample_weight, "sample_weight")
    if n_samples is not None and len(series) != n_samples:
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: "
            f"sample_weight has {len(series)} rows, X has {n_samples}."
        )
    if kind_of(series, "sample_weight") not in ("number", "bool"):
        raise TypeError(f"sample_weight must hold numbers, got dtype {series.dtype}.")
    weights = to_numbers(series)
    bad = ~np.isfinite(weights) | (weights < 0)
    if bad.any():
        raise ValueError(f"sample_weight must be finite and not negative, got {first_of(series, bad)}.")
    if not weights.sum() > 0:
        raise ValueError("sample_weight is zero in every row: no row would take part.")
    return weights


def warn_if_shuffled(index: pd.Index, **vectors: pd.Series) -> None:
    """Rows are paired by position; the labels of X in another order are most often a forgotten alignment."""
    for name, vector in vectors.items():
        own = vector.index
        if isinstance(own, pd.RangeIndex) or own.equals(index) or not own.is_unique or not own.isin(index).all():
            continue
        warnings.warn(
            f"The index of {name} holds the labels of X in another order. Rows are paired by position; if they belong "
            f"together by label, pass {name}.loc[X.index].",
            stacklevel=4,
        )


# ---- kinds and values ------------------------------------------------------------------------------------------------


def kind_of(column: pd.Series, name: str) -> str:
    """'number', 'bool', 'date', 'category' or 'empty' (nothing but missing values); TypeError for anything else."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    found = ptypes.infer_dtype(column, skipna=True) if ptypes.is_object_dtype(dtype) else ""
    if found in OBJECT_KINDS:
        return OBJECT_KINDS[found]
    if found == "complex" or ptypes.is_complex_dtype(dtype):
        raise ValueError(f"Complex data not supported: {name} holds complex numbers; pass their real parts.")
    if not found:
        tests = {"bool": ptypes.is_bool_dtype, "number": ptypes.is_numeric_dtype}
        tests |= {"date": ptypes.is_datetime64_any_dtype, "category": ptypes.is_string_dtype}
        for kind, test in tests.items():
            if test(dtype):
                return kind
        cure = "to numbers, dates or text, such as by .dt.total_seconds(), .dt.to_timestamp() or .astype(str)"
        raise TypeError(f"{name} has dtype {dtype}, which has no encoding here: convert it {cure}.")
    observed = column[column.notna()]
    for row, value in observed.items():
        if not ptypes.is_scalar(value):
            raise TypeError(
                f"{name} holds a {type(value).__name__} in row {to_label(row)!r}: every argument must be a string, a "
                "number, a bool or a date. Spread nested values over columns of their own."
            )
    kinds = observed.map(lambda value: type(value).__name__)
    examples = [f"{kind} {observed[kinds == kind].iloc[0]!r}" for kind in sorted(set(kinds))[:4]]
    what = "mixes types" if len(examples) > 1 else "holds values that have no encoding"
    raise TypeError(f"{name} {what} ({', '.join(examples)}): convert it to one type, such as by .astype(str).")


def to_numbers(column: pd.Series) -> np.ndarray:
    """Numbers and bools as float64, NaN where missing."""
    if ptypes.is_object_dtype(column.dtype):
        values = column.to_numpy(dtype=object, copy=True)
        values[column.isna().to_numpy()] = np.nan
        return values.astype(np.float64)
    if ptypes.is_extension_array_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):  # a longdouble out of range turns infinite, and is told of as such
        return column.to_numpy(dtype=np.float64)


def to_days(column: pd.Series, name: str) -> tuple[np.ndarray, str | None]:
    """Dates as float64 days since 1970-01-01 UTC, NaN where missing, and their time zone."""
    try:
        stamps = pd.DatetimeIndex(pd.to_datetime(column))
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} holds dates that pandas cannot read: {error}. Use pd.to_datetime.") from None
    zone = None if stamps.tz is None else str(stamps.tz)
    if stamps.tz is not None:
        stamps = stamps.tz_convert("UTC").tz_localize(None)
    return (stamps.to_numpy() - np.datetime64("1970-01-01")) / np.timedelta64(1, "D"), zone


def to_values(column: pd.Series, kind: str, name: str, where: str = "X") -> tuple[np.ndarray, str | None]:
    """A column of numbers, bools or dates as finite float64, NaN where missing, and the time zone of dates."""
    values, zone = to_days(column, f"column {name!r}") if kind == "date" else (to_numbers(column), None)
    infinite = np.isinf(values)
    if infinite.any():
        raise ValueError(
            f"Column {name!r} of {where} holds an infinite value: {first_of(column, infinite)}, {infinite.sum()} in "
            "all. Replace it by a number, or by NaN for missing."
        )
    return values, zone


def factorize(column: pd.Series, name: str) -> tuple[np.ndarray, list[Label], bool]:
    """Codes (-1 where missing), the labels they stand for, and whether these stand in a chosen order."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes = column.cat.codes.to_numpy()
        seen = np.bincount(codes[codes >= 0], minlength=len(column.cat.categories)) > 0
        renumbered = np.append(np.cumsum(seen) - 1, -1)
        return renumbered[codes], [to_label(value) for value in column.cat.categories[seen]], True
    try:
        codes, uniques = pd.factorize(column)
    except TypeError:  # unhashable values, which _kind explains
        raise TypeError(f"{name} holds {kind_of(column, name)}") from None
    return codes, [to_label(value) for value in uniques], False


def to_label(value: Any) -> Label:
    """A label as a plain Python bool, int, float or str, or a Timestamp; intervals and the like by their text."""
    if isinstance(value, date | np.datetime64):
        return pd.Timestamp(value)
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, bool | int | float | str) else str(value)


def bare_text(label: Label) -> str:
    """A label's text without case, outer blanks, underscores and hyphens, to compare with known names."""
    return str(label).strip().lower().replace("_", " ").replace("-", " ")


def event_last(labels: Sequence[Label], ordered: bool) -> tuple[Label, Label]:
    """Two labels in sort or chosen order as (no event, event): the only one among `EVENT_NAMES`, else the last."""
    first, last = labels
    if not ordered and bare_text(first) in EVENT_NAMES and bare_text(last) not in EVENT_NAMES:
        first, last = last, first
    return first, last


def family(label: Label) -> str:
    return "text" if isinstance(label, str) else "dates" if isinstance(label, pd.Timestamp) else "numbers"


def is_label(value: Any) -> bool:
    return isinstance(value, bool | int | str | pd.Timestamp) or is_finite(value)


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def check_whole(name: str, value: Any, least: int | None = None) -> None:
    """Refuse a parameter that is no whole number of at least `least`; by default it must be positive."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < (1 if least is None else least):
        what = "positive whole number" if least is None else f"whole number of at least {least}"
        raise ValueError(f"{name} must be a {what}, got {value!r}.")


def check_sizes(owner: Any, names: Iterable[str], optional: Sequence[str] = ()) -> None:
    """Refuse parameters of an estimator that are no positive whole numbers; None will do for those in `optional`."""
    for name in names:
        if name not in optional or getattr(owner, name) is not None:
            check_whole(name, getattr(owner, name))


def check_rates(owner: Any, names: Iterable[str]) -> None:
    """Refuse parameters of an estimator that are no finite numbers from zero on; ``lr`` must be positive."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, int | float) or not 0 <= value < np.inf or (name == "lr" and value == 0):
            raise ValueError(f"{name} must be {'' if name == 'lr' else 'zero or '}a positive number, got {value!r}.")


def some(values: Sequence[Any], most: int = 5) -> str:
    return ", ".join(map(repr, values[:most])) + (f" and {len(values) - most} more" if len(values) > most else "")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """ " (did you mean 'age'?)" for the name most like `name`, "" if none is."""
    folded = {other.casefold(): other for other in names}
    near = difflib.get_close_matches(name.casefold(), folded, 1)
    return f" (did you mean {folded[near[0]]!r}?)" if near else ""


def first_of(column: pd.Series, mask: np.ndarray) -> str:
    """'inf in row 3' for the first True of `mask`, with the row's index label where that says more."""
    row = int(np.argmax(mask))
    label = "" if isinstance(column.index, pd.RangeIndex) else f" (index {to_label(column.index[row])!r})"
    return f"{column.iloc[row]} in row {row}{label}"


# ---- JSON ------------------------------------------------------------------------------------------------------------


def label_to_json(label: Label) -> Any:
    """A label as plain JSON: a date becomes ``{"date": "2020-02-01T00:00:00"}``, all else stays what it is."""
    return {"date": label.isoformat()} if isinstance(label, pd.Timestamp) else label


def labels_from_json(labels: Any, where: str) -> tuple[Label, ...]:
    """A list that `label_to_json` wrote, label by label."""
    require(isinstance(labels, Sequence) and not isinstance(labels, str), f"{where} must be a list of labels")
    found = []
    for label in labels:
        if isinstance(label, Mapping):
            try:
                label = pd.Timestamp(label["date"])
            except (KeyError, ValueError, TypeError):
                raise ValueError(f"{where}: {label!r} is no label") from None
        found.append(label)
    return tuple(found)


def take_fields(
    d: Any, cls: type, where: str, extra: Sequence[str] = (), labels: Sequence[str] = ("levels", "pooled")
) -> dict[str, Any]:
    """The fields of dataclass `cls` in `d`, no more (but `extra`) and no less; the lists of `labels` decoded."""
    require(isinstance(d, Mapping), f"{where}: an object is expected, got {type(d).__name__}")
    keys = {field.name for field in fields(cls)}
    if missing := sorted(keys - set(d)):
        raise ValueError(f"{where}: {', '.join(missing)} missing")
    if unknown := sorted(set(map(str, d)) - keys - set(extra)):
        raise ValueError(f"{where}: unknown entry {', '.join(unknown)}")
    body = {key: d[key] for key in keys}
    for key in labels:
        if body.get(key) is not None:
            body[key] = labels_from_json(body[key], f"{where}: {key}")
    return body
