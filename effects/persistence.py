"""Fitted estimators as files: tensors and JSON, from which nothing is run when they are read."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from effects.calibration import EffectSpread
from effects.files import write_whole
from effects.nuisance import Nuisance, NuisanceValues
from effects.outcomes import PotentialOutcomes
from effects.schema import Schema
from effects.support import SupportModel

_FORMAT = "effects-model-1"
_LAWS = ("draws", "means", "effects")  # arrays of the held-out PotentialOutcomes
_VALUES = ("per_arm", "single", "propensity", "contrast")  # of the out-of-fold NuisanceValues


class Persistent(BaseEstimator):
    """What an `EffectEstimator` needs to be written to a file and read back."""

    nuisance: Nuisance | None
    nuisance_: Nuisance
    schema_: Schema
    arms_: tuple[Hashable, ...]
    seed_: int
    df_: int
    rows_: NDArray[np.uint64]
    history_: list[dict[str, Any]]
    n_features_in_: int
    effect_spread_: EffectSpread | None
    support_model_: SupportModel

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments before "
                "using this estimator."
            )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "schema_")

    @abstractmethod
    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON values that hold everything `_fit` returned."""

    @abstractmethod
    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        """The inverse: fitted attributes from arrays and JSON values."""

    def save(self, path: str | os.PathLike[str], *, held_out: bool = False) -> Path:
        """Write the fitted estimator as safetensors with JSON metadata: reading it back runs no code.

        Parameters
        ----------
        path : str or path
        held_out : bool
            Whether to write, too, what was held out of each row of the fit, so that averages and checks of those rows
            are as they were before saving. Without it the file holds predictions of nobody, and such averages rest on
            nuisances that are cross-fitted anew.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If a parameter or a nuisance model of your own cannot be written without pickle.
        """
        self._check_fitted()
        arrays, state = self._get_state()
        nuisance_arrays, nuisance_state = self.nuisance_.to_arrays()
        arrays |= named("nuisance", nuisance_arrays) | {"rows": self.rows_.view(np.int64)}
        if self.effect_spread_ is not None:
            arrays |= {
                f"spread.{name}": getattr(self.effect_spread_, name) for name in ("alternatives", "scale", "fresh")
            }
        params = self._params_state()
        given = None if self.nuisance is None else self.nuisance.get_params(deep=False)
        names = [str(name) for name in getattr(self, "feature_names_in_", [])]
        if held_out:
            arrays |= self._held_out_arrays()
        support, support_meta = self.support_model_.to_arrays()
        arrays |= named("support", support)
        fitted: dict[str, Any] = {"seed": self.seed_, "names": names, "history": self.history_, "df": self.df_}
        fitted["support"] = support_meta
        header: dict[str, Any] = {"params": params, "schema": self.schema_.to_dict()}
        header |= {"nuisance": nuisance_state, "state": state, "fitted": fitted}
        header |= {"nuisance_params": given, "nuisance_fit": self.nuisance_.get_params(deep=False)}
        return write_model(path, type(self).__name__, header, arrays)

    def _held_out_arrays(self) -> dict[str, NDArray[Any]]:
        """What averages over the rows of the fit rest on."""
        values, laws = getattr(self.nuisance_, "out_of_fold_", None), getattr(self, "held_out_", None)
        if values is None:
            raise ValueError(
                "this estimator was read from a file without what was held out of its rows: save it without held_out, "
                "or fit it anew."
            )
        found = {f"fold.{name}": getattr(values, name) for name in _VALUES}
        found |= {} if laws is None else {f"held.{name}": getattr(laws, name) for name in _LAWS}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
        ValueError
            If the file is not a model of this class, or is damaged.
        """
        return read_as(path, cls.__name__, cls._restore)

    def _params_state(self) -> dict[str, Any]:
        """Constructor parameters but the nuisance, as JSON can hold them."""
        return {name: value for name, value in self.get_params(deep=False).items() if name != "nuisance"}

    @classmethod
    def _params_from(cls, state: dict[str, Any]) -> dict[str, Any]:
        """Constructor parameters from what `_params_state` gave."""
        return {name: tuple(value) if isinstance(value, list) else value for name, value in state.items()}

    @classmethod
    def _restore(cls, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """Rebuild a fitted estimator from a header and arrays that may be a stranger's."""
        params = cls._params_from(header["params"])
        given = header["nuisance_params"]
        params["nuisance"] = None if given is None else Nuisance(**given)
        self = cls(**params)
        schema, fitted = Schema.from_dict(header["schema"]), header["fitted"]
        nuisance = Nuisance.from_arrays(part(arrays, "nuisance"), header["nuisance"])
        self.nuisance_ = nuisance.set_params(**header["nuisance_fit"])
        self.arms_, self.seed_, self.rows_ = schema.arms, int(fitted["seed"]), arrays.pop("rows").view(np.uint64)
        self.df_, self.effect_spread_ = int(fitted["df"]), None
        if "spread.scale" in arrays:
            self.effect_spread_ = EffectSpread(
                arrays.pop("spread.alternatives"), arrays.pop("spread.scale"), arrays.pop("spread.fresh")
            )
        self.history_, self.n_features_in_ = fitted["history"], len(schema.columns)
        if fitted["names"]:
            self.feature_names_in_ = np.asarray(fitted["names"], dtype=object)
        self.support_model_ = SupportModel.from_arrays(part(arrays, "support"), fitted["support"])
        others = ("nuisance.", "support.", "fold.", "held.")
        own = {k: v for k, v in arrays.items() if not k.startswith(others)}
        self.__dict__.update(self._set_state(own, header["state"], schema))
        if "fold.propensity" in arrays:
            first, second, e = (arrays[f"fold.{name}"] for name in _VALUES[:3])
            self.nuisance_.out_of_fold_ = NuisanceValues(first, second, e, arrays.get("fold.contrast"))
        if "held.draws" in arrays:
            draws, means, effects = (arrays.get(f"held.{name}") for name in _LAWS)
            assert draws is not None
            laws = PotentialOutcomes(draws, self.arms_, schema.outcome.kind, means, effects=effects)
            self.__dict__["held_out_"] = laws
        self.schema_ = schema
        return self


Saved = TypeVar("Saved")
Value = TypeVar("Value")


def read_as(
    path: str | os.PathLike[str], name: str, restore: Callable[[dict[str, Any], dict[str, NDArray[Any]]], Saved]
) -> Saved:
    """A model of class `name`, restored from the header and arrays of its file.

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file is no model of this class, or is damaged.
    """
    header, arrays = read_model(path)
    if header["class"] != name:
        raise ValueError(f"{str(path)!r} holds a {header['class']}, not a {name}: use effects.load.")
    try:
        return restore(header, arrays)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the model in {str(path)!r} is damaged ({type(error).__name__}: {error}).") from error


def part(entries: Mapping[str, Value], name: str) -> dict[str, Value]:
    """The entries ``name.*``, without that prefix.

    >>> part({"net.a": 1, "net.b.c": 2, "other": 3}, "net")
    {'a': 1, 'b.c': 2}
    """
    return {key.removeprefix(f"{name}."): value for key, value in entries.items() if key.startswith(f"{name}.")}


def named(name: str, entries: Mapping[str, Value]) -> dict[str, Value]:
    """The inverse of `part`."""
    return {f"{name}.{key}": value for key, value in entries.items()}


def write_model(
    path: str | os.PathLike[str], name: str, header: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> Path:
    """Write the arrays and JSON values of a model of class `name`.

    Raises
    ------
    TypeError
        If a value cannot be written without pickle.
    """
    from safetensors.numpy import save

    try:
        text = json.dumps({"class": name, **header}, default=_plain)
    except TypeError as error:
        raise TypeError(f"{error}: use plain values for the parameters, or pickle the estimator.") from None
    # one entry, named by the format: safetensors writes several in an order of its own, different each time
    return write_whole(path, save({name: np.ascontiguousarray(v) for name, v in arrays.items()}, {_FORMAT: text}))


def read_model(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays of a saved model.

    Raises
    ------
    FileNotFoundError
    ValueError
        If the file is no model of this package.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no model file at {str(path)!r}.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is not a model file ({error}).") from None
    if _FORMAT not in metadata:
        raise ValueError(f"{str(path)!r} is not a model that this version of effects can read.")
    try:
        header = json.loads(metadata[_FORMAT])
        named = isinstance(header["class"], str)
    except (KeyError, TypeError, ValueError):
        named = False
    if not named:
        raise ValueError(f"the model in {str(path)!r} is damaged: its header cannot be read.")
    return header, arrays


def _plain(value: Any) -> Any:
    """JSON form of numpy scalars and arrays."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be saved without pickle")
