"""Results as files and back: JSON of the package's own frozen values, from which no code is run when it is read."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from effects.files import write_whole

#: The values that a file may hold, and where each lives; anything else is refused.
_CLASSES: Final[dict[str, str]] = {
    "Estimate": "effects.effect",
    "Estimates": "effects.effect",
    "Check": "effects.diagnostics",
    "Trimming": "effects.diagnostics",
    "Subgroups": "effects.heterogeneity",
    "Importance": "effects.heterogeneity",
    "PartialDependence": "effects.heterogeneity",
    "SubgroupTree": "effects.heterogeneity",
    "Tree": "effects.heterogeneity.tree",
    "Node": "effects.heterogeneity.tree",
    "Schema": "effects.schema",
    "ColumnSpec": "effects.schema.columns",
    "OutcomeSpec": "effects.schema",
    "EValue": "effects.sensitivity",
    "OmittedVariableBias": "effects.sensitivity",
    "MarginalSensitivity": "effects.sensitivity",
    "Policy": "effects.policy",
    "PolicyValue": "effects.policy",
    "DecisionCurve": "effects.policy",
}


def write(path: Path, value: Any) -> bool:
    """Write a value; False, and no file, if it holds something that has no place in one."""
    try:
        text = json.dumps(encode(value))
    except TypeError:
        return False
    write_whole(path, text)
    return True


def read(path: Path) -> Any:
    """What `write` wrote.

    Raises
    ------
    ValueError
        If the file is damaged, or holds what this version does not know.
    """
    try:
        return decode(json.loads(path.read_text(encoding="utf-8")))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is damaged ({type(error).__name__}: {error}).") from error


def encode(value: Any) -> Any:
    """JSON form of numbers, texts, arrays, tables, tuples, mappings and the package's frozen values."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64 | np.void):
        return encode(value.item())
    if isinstance(value, tuple):
        return {"tuple": [encode(one) for one in value]}
    if isinstance(value, list):
        return [encode(one) for one in value]
    if isinstance(value, Mapping):
        return {"map": [[encode(key), encode(one)] for key, one in value.items()]}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            return {"objects": [encode(one) for one in value.tolist()]}
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {"array": data, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, pd.DataFrame):
        columns = [_column(value.iloc[:, k]) for k in range(value.shape[1])]
        return {"frame": columns, "names": _index(value.columns), "index": _index(value.index)}
    if isinstance(value, pd.Series):
        return {"series": _column(value), "name": encode(value.name), "index": _index(value.index)}
    if isinstance(value, pd.Index):
        return {"labels": _index(value)}
    name = type(value).__name__
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith(_CLASSES.get(name, "?")):
        held = {one.name: encode(getattr(value, one.name)) for one in dataclasses.fields(value) if one.init}
        return {"class": name, "fields": held}
    raise TypeError(f"a {name} has no place in a file")


def decode(found: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(found, list):
        return [decode(one) for one in found]
    if not isinstance(found, dict):
        return found
    if "tuple" in found:
        return tuple(decode(one) for one in found["tuple"])
    if "map" in found:
        return {decode(key): decode(one) for key, one in found["map"]}
    if "array" in found:
        kind = np.dtype(found["dtype"])
        if kind.kind not in "biuf":
            raise ValueError(f"arrays of {kind} are not read")
        return np.frombuffer(base64.b64decode(found["array"]), kind).reshape(found["shape"]).copy()
    if "objects" in found:
        values = [decode(one) for one in found["objects"]]
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array
    if "frame" in found:
        index = _labels(found["index"])
        columns = {k: _values(column, index) for k, column in enumerate(found["frame"])}
        frame = pd.DataFrame(columns, index=index)
        return frame.set_axis(_labels(found["names"]), axis="columns")
    if "series" in found:
        return _values(found["series"], _labels(found["index"])).rename(decode(found["name"]))
    if "labels" in found:
        return _labels(found["labels"])
    cls = getattr(import_module(_CLASSES[found["class"]]), found["class"])
    return cls(**{name: decode(value) for name, value in found["fields"].items()})


def _column(values: pd.Series) -> dict[str, Any]:
    kind = "category" if isinstance(values.dtype, pd.CategoricalDtype) else str(values.dtype)
    if values.dtype.kind in "Mm":
        raise TypeError("dates have no place in a file of results")
    return {"dtype": kind, "values": [None if one is None else encode(one) for one in values.tolist()]}


def _values(column: Mapping[str, Any], index: pd.Index) -> pd.Series:
    values = pd.Series([decode(one) for one in column["values"]], index=index, dtype=object)
    return values if column["dtype"] == "object" else values.astype(column["dtype"])


def _index(index: pd.Index) -> dict[str, Any]:
    return {"names": encode(list(index.names)), "values": [encode(one) for one in index.tolist()],
            "nested": isinstance(index, pd.MultiIndex), "dtype": str(index.dtype)}  # fmt: skip


def _labels(found: Mapping[str, Any]) -> pd.Index:
    values, names = [decode(one) for one in found["values"]], decode(found["names"])
    if found["nested"]:
        return pd.MultiIndex.from_tuples(values, names=names)
    index = pd.Index(values, name=names[0], tupleize_cols=False, dtype=object)
    return index if found["dtype"] in ("object", "interval", "category") else index.astype(found["dtype"])
