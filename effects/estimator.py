"""The contract every estimator keeps: validate once, fit, and return distributions."""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import pandas as pd
from joblib import Parallel, delayed, effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if

from effects.effect import Effect, Law, contrast
from effects.files import write_whole
from effects.nn.training import one_thread
from effects.nuisance import Nuisance, NuisanceValues
from effects.outcomes import KINDS, PotentialOutcomes
from effects.schema import Schema, check_sample_weight

Array = NDArray[np.float64]
Result = TypeVar("Result")
_CHUNK_ROWS = 8192
_BLOCK_ROWS = 16_384
_SCORE_ROWS = 1024  # rows whose draws are held at once
_FORMAT = "effects-model-1"


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


class EffectEstimator(BaseEstimator):
    """Base of all estimators of potential-outcome distributions and treatment effects.

    A subclass writes `_fit` (returns its fitted attributes) and `_sample`; `_means` and `_mean` may be given where
    they are cheaper than sampling; `_get_state` and `_set_state` take it to plain arrays and back.

    Attributes
    ----------
    schema_ : Schema
        How the table was read: columns, arms, outcome.
    arms_ : tuple of labels
        Control first.
    nuisance_ : Nuisance
        Cross-fitted outcome regressions and propensities.
    history_ : list of dict
        What training did, epoch by epoch.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X was a DataFrame with string columns.
    """

    __metadata_request__fit: ClassVar[dict[str, bool]] = {"treatment": True}
    __metadata_request__score: ClassVar[dict[str, bool]] = {"treatment": True}

    # what `all_estimators` says of a subclass, and `fit` holds it to
    _paper: ClassVar[str] = ""
    _kinds: ClassVar[tuple[str, ...]] = KINDS
    _max_arms: ClassVar[int | None] = None
    _exact_density: ClassVar[bool] = False
    _instead: ClassVar[str] = "DiffPO"  # an estimator that takes what this one does not

    # every subclass has these constructor parameters
    outcome: str
    control: Hashable
    nuisance: Nuisance | None
    random_state: Any

    def fit(
        self,
        X: ArrayLike | pd.DataFrame,
        y: ArrayLike,
        *,
        treatment: ArrayLike,
        sample_weight: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> Self:
        """Fit on one table.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Pre-treatment covariates: numbers, bools, categories, strings, dates; missing values allowed.
        y : array-like of shape (n_samples,)
            Outcome; missing values are an error.
        treatment : array-like of shape (n_samples,)
            Arm of each row: two or more labels. Keyword only, so that it cannot be swapped with `y`.
        sample_weight : array-like of shape (n_samples,), optional
            Non-negative. Rows of weight 0 are left out.
        propensity : array-like of shape (n_samples,) or (n_samples, n_arms), optional
            Known P(A = a | x), as in a trial: of the treated arm, or of all arms in the order of `arms_`.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Naming the column, the value and the cure.
        """
        self._check_params()
        schema = Schema.learn(X, y, treatment, outcome=self.outcome, control=self.control, sample_weight=sample_weight)
        self._check_possible(schema)
        E, a, Y = schema.encode(X), schema.encode_treatment(treatment), schema.encode_outcome(y)
        weight = _weights(sample_weight, a, schema.arms)
        known = None if propensity is None else _propensities(propensity, len(E), schema.arms)
        used = weight > 0
        if not used.all():  # rows without weight take no part: not in the folds, not in the outcome's scale
            E, a, Y, weight = E[used], a[used], Y[used], weight[used] / weight[used].mean()
            known = None if known is None else known[used]
        seed = _seed(self.random_state)
        nuisance = clone(self.nuisance) if self.nuisance is not None else Nuisance()
        if nuisance.random_state is None:
            nuisance.set_params(random_state=seed)
        nuisance.fit(E, Y, a, n_arms=schema.n_arms, kind=schema.outcome.kind, sample_weight=weight, propensity=known)
        self.__dict__.pop("feature_names_in_", None)
        if isinstance(X, pd.DataFrame) and all(isinstance(name, str) for name in X.columns):
            self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        return self._fit_checked(TrainingData(E, a, Y, weight, nuisance, schema, seed))

    def _fit_checked(self, data: TrainingData) -> Self:
        """Fit on data that are checked, encoded and cross-fitted, perhaps by an estimator that holds this one."""
        with one_thread():
            fitted = self._fit(data)
        self.__dict__.update(fitted)
        self.nuisance_, self.arms_, self.seed_ = data.nuisance, data.schema.arms, data.seed
        self.fingerprint_ = _fingerprint(data.E, data.a, data.y)
        self.n_features_in_ = len(data.schema.columns)
        self.schema_ = data.schema  # last: this is what makes the estimator fitted
        return self

    def predict(self, X: ArrayLike | pd.DataFrame) -> Array:
        """CATE against the control arm.

        Returns
        -------
        ndarray of shape (n_samples,) for two arms, else (n_samples, n_arms - 1)
            In the outcome's unit (risk differences for a binary outcome).
        """
        E = self._encode(X)
        mean = np.concatenate(self._map(lambda inputs, _: self._mean(inputs), E))
        cate = mean[:, 1:] - mean[:, :1]
        return cate[:, 0] if cate.shape[1] == 1 else cate

    def predict_outcomes(
        self, X: ArrayLike | pd.DataFrame, *, n_draws: int | None = None, random_state: Any = None
    ) -> PotentialOutcomes:
        """The whole distribution of every potential outcome.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        n_draws : int, optional
            Outcome draws per member; by default what the estimator finds enough.
        random_state : int, Generator, RandomState or None
            None repeats the fit's seed, so that calling twice gives the same answer.

        Returns
        -------
        PotentialOutcomes
            Memory: 4 bytes times members, draws, rows and arms. Call it in parts for large tables.
        """
        if n_draws is not None and (not isinstance(n_draws, int | np.integer) or n_draws is True or n_draws < 1):
            raise ValueError(f"n_draws must be a positive int, got {n_draws!r}.")
        E = self._encode(X)
        rng = np.random.default_rng(self.seed_ if random_state is None else _seed(random_state))
        return self._outcomes(E, n_draws, rng, _index(X))

    def predict_effect(
        self, X: ArrayLike | pd.DataFrame, *, treated: Hashable = None, control: Hashable = None
    ) -> Effect:
        """CATE of `treated` against `control` with its uncertainty.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        treated : label, optional
            May be left out where there are two arms.
        control : label, optional
            By default the control arm of the fit.

        Returns
        -------
        Effect
        """
        E = self._encode(X)
        t, c = contrast(self.arms_, treated, control)

        def difference(inputs: NDArray[np.float32], _: slice) -> NDArray[np.float32]:
            means = self._means(inputs)
            return (means[:, :, t] - means[:, :, c]).astype(np.float32)

        parts = self._map(difference, E)
        laws = partial(self._laws, E, t, c)
        return Effect(np.concatenate(parts, axis=1), self.arms_[t], self.arms_[c], laws, index=_index(X))

    def score(
        self,
        X: ArrayLike | pd.DataFrame,
        y: ArrayLike,
        *,
        treatment: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Minus the mean CRPS of the observed outcomes under their own arm: larger is better.

        For a binary outcome this is minus the Brier score.
        """
        E = self._encode(X)
        a, Y = self.schema_.encode_treatment(treatment), self.schema_.encode_outcome(y)
        if not len(a) == len(Y) == len(E):
            raise ValueError(f"X, y and treatment have {len(E)}, {len(Y)} and {len(a)} rows: they must agree.")
        weight = np.ones(len(E)) if sample_weight is None else check_sample_weight(sample_weight, len(E))

        def loss(inputs: NDArray[np.float32], rows: slice) -> float:
            rng = np.random.default_rng([self.seed_, rows.start])
            outcomes = self._pack([self._sample(inputs, self._score_draws, rng)], None)
            return float(weight[rows] @ outcomes.crps(Y[rows], a[rows]))

        return -sum(self._map(loss, E, _SCORE_ROWS)) / float(weight.sum())

    @available_if(lambda self: self._exact_density)
    def log_prob(self, X: ArrayLike | pd.DataFrame, y: ArrayLike, *, treatment: ArrayLike) -> Array:
        r"""Exact log density of outcomes under given arms, :math:`\log p(Y(a) = y \mid x)`.

        Only estimators with an exact density have this method.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            Any outcomes, seen or not.
        treatment : array-like of shape (n_samples,)
            The arm under which each is asked for; it need not be the one that was received.

        Returns
        -------
        ndarray of shape (n_samples,)
            Natural logarithm, per unit of the outcome; of the probability for a binary outcome or a count.
        """
        E = self._encode(X)
        a, Y = self.schema_.encode_treatment(treatment), self.schema_.encode_outcome(y)
        if not len(a) == len(Y) == len(E):
            raise ValueError(f"X, y and treatment have {len(E)}, {len(Y)} and {len(a)} rows: they must agree.")
        return np.concatenate(self._map(lambda inputs, rows: self._log_prob(inputs, Y[rows], a[rows]), E))

    def cross_fitted(
        self,
        X: ArrayLike | pd.DataFrame,
        y: ArrayLike,
        *,
        treatment: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> NuisanceValues:
        """Out-of-fold nuisances of these rows: the fit's own for its training rows, a fresh cross-fit for others."""
        E = self._encode(X)
        a, Y = self.schema_.encode_treatment(treatment), self.schema_.encode_outcome(y)
        if _fingerprint(E, a, Y) == self.fingerprint_ and hasattr(self.nuisance_, "out_of_fold_"):
            return self.nuisance_.out_of_fold_
        weight = None if sample_weight is None else _weights(sample_weight, a, self.arms_)
        fresh = clone(self.nuisance_)
        trial = self.nuisance_.trial_propensity
        propensity = None if trial is None else np.broadcast_to(trial, (len(E), len(self.arms_)))
        kind = self.schema_.outcome.kind
        fresh.fit(E, Y, a, n_arms=len(self.arms_), kind=kind, sample_weight=weight, propensity=propensity)
        return fresh.out_of_fold_

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fitted estimator as safetensors with JSON metadata: reading it back runs no code.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If a parameter or a nuisance model of your own cannot be written without pickle.
        """
        from safetensors.numpy import save

        self._check_fitted()
        arrays, state = self._get_state()
        nuisance_arrays, nuisance_state = self.nuisance_.to_arrays()
        arrays |= {f"nuisance.{name}": value for name, value in nuisance_arrays.items()}
        params = self._params_state()
        given = None if self.nuisance is None else self.nuisance.get_params(deep=False)
        names = [str(name) for name in getattr(self, "feature_names_in_", [])]
        fitted = {"seed": self.seed_, "fingerprint": self.fingerprint_, "names": names, "history": self.history_}
        header: dict[str, Any] = {"class": type(self).__name__, "params": params, "schema": self.schema_.to_dict()}
        header |= {"nuisance": nuisance_state, "state": state, "fitted": fitted}
        header |= {"nuisance_params": given, "nuisance_fit": self.nuisance_.get_params(deep=False)}
        try:
            text = json.dumps(header, default=_plain)
        except TypeError as error:
            raise TypeError(f"{error}: use plain values for the parameters, or pickle the estimator.") from None
        # one entry, named by the format: safetensors writes several in an order of its own, different each time
        return write_whole(path, save({name: np.ascontiguousarray(v) for name, v in arrays.items()}, {_FORMAT: text}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
        ValueError
            If the file is not a model of this class, or is damaged.
        """
        header, arrays = read_model(path)
        if header["class"] != cls.__name__:
            raise ValueError(f"{str(path)!r} holds a {header['class']}, not a {cls.__name__}: use effects.load.")
        try:
            return cls._restore(header, arrays)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"the model in {str(path)!r} is damaged ({type(error).__name__}: {error}).") from error

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
        nuisance = {k.removeprefix("nuisance."): v for k, v in arrays.items() if k.startswith("nuisance.")}
        schema, fitted = Schema.from_dict(header["schema"]), header["fitted"]
        self.nuisance_ = Nuisance.from_arrays(nuisance, header["nuisance"]).set_params(**header["nuisance_fit"])
        self.arms_, self.seed_, self.fingerprint_ = schema.arms, int(fitted["seed"]), str(fitted["fingerprint"])
        self.history_, self.n_features_in_ = fitted["history"], len(schema.columns)
        if fitted["names"]:
            self.feature_names_in_ = np.asarray(fitted["names"], dtype=object)
        own = {k: v for k, v in arrays.items() if not k.startswith("nuisance.")}
        self.__dict__.update(self._set_state(own, header["state"], schema))
        self.schema_ = schema
        return self

    # ------------------------------------------------------------------ what a subclass writes

    _score_draws: ClassVar[int] = 16

    def _check_params(self) -> None:
        """Refuse parameters that make no sense, before anything costly is done; a subclass adds its own."""
        if self.nuisance is not None and not isinstance(self.nuisance, Nuisance):
            raise TypeError(
                f"nuisance must be an effects.Nuisance, such as Nuisance(outcome_model=...), got {self.nuisance!r}."
            )

    @abstractmethod
    def _fit(self, data: TrainingData) -> dict[str, Any]:
        """Train; return the fitted attributes (names ending in an underscore, with ``history_``)."""

    def _inputs(self, E: NDArray[np.float32]) -> NDArray[np.float32]:
        """What `_sample` and the means take, (n, n_inputs): the encoded columns, and what is costly to derive once."""
        return E

    def _inputs_given(self, E: NDArray[np.float32], values: NuisanceValues | None) -> NDArray[np.float32]:
        """`_inputs` where the nuisances of the rows are known already."""
        return self._inputs(E)

    @abstractmethod
    def _sample(
        self, inputs: NDArray[np.float32], n_draws: int | None, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], Array | None]:
        """Draws (n_members, n_draws, n, n_arms) in the outcome's unit, and member means (n_members, n, n_arms)."""

    def _means(self, inputs: NDArray[np.float32]) -> Array:
        """Member means (n_members, n, n_arms)."""
        draws, means = self._sample(inputs, None, np.random.default_rng(self.seed_))
        return draws.mean(axis=1, dtype=np.float64) if means is None else means

    def _mean(self, inputs: NDArray[np.float32]) -> Array:
        """Mean over members, (n, n_arms)."""
        return self._means(inputs).mean(axis=0)

    def _log_prob(self, inputs: NDArray[np.float32], y: Array, a: NDArray[np.int64]) -> Array:
        """Log density (n,) of outcomes `y` under arms `a`, where `_exact_density` is set."""
        raise AttributeError(f"{type(self).__name__} has no exact density.")

    @abstractmethod
    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON values that hold everything `_fit` returned."""

    @abstractmethod
    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        """The inverse: fitted attributes from arrays and JSON values."""

    # ------------------------------------------------------------------ shared

    def _check_possible(self, schema: Schema) -> None:
        """Refuse outcomes and numbers of arms that the method has no place for, naming one that has."""
        name, kind = type(self).__name__, schema.outcome.kind
        if kind not in self._kinds:
            raise ValueError(f"{name} takes {' and '.join(self._kinds)} outcomes, y is {kind}: use {self._instead}.")
        if self._max_arms is not None and schema.n_arms > self._max_arms:
            raise ValueError(
                f"{name} compares {self._max_arms} arms, treatment has {schema.n_arms} ({schema.arms}): leave arms "
                f"out, or use {self._instead}."
            )

    def _outcomes(
        self, E: NDArray[np.float32], n_draws: int | None, rng: np.random.Generator, index: pd.Index | None
    ) -> PotentialOutcomes:
        seed = int(rng.integers(2**31 - 1))

        def sample(inputs: NDArray[np.float32], rows: slice) -> tuple[NDArray[np.float32], Array | None]:
            return self._sample(inputs, n_draws, np.random.default_rng([seed, rows.start]))

        return self._pack(self._map(sample, E), index)

    def _pack(self, parts: list[tuple[NDArray[np.float32], Array | None]], index: pd.Index | None) -> PotentialOutcomes:
        """Samples of consecutive rows as one value."""
        draws = np.concatenate([part[0] for part in parts], axis=2)
        means = None if parts[0][1] is None else np.concatenate([m for _, m in parts if m is not None], axis=1)
        return PotentialOutcomes(draws, self.arms_, self.schema_.outcome.kind, means, index=index)

    def _laws(self, E: NDArray[np.float32], t: int, c: int) -> tuple[Law, Law]:

        def laws(inputs: NDArray[np.float32], rows: slice) -> tuple[Law, Law]:
            rng = np.random.default_rng([self.seed_, rows.start])
            return self._pack([self._sample(inputs, None, rng)], None).laws(t, c)

        parts = self._map(laws, E, _SCORE_ROWS)
        treated, control = (np.concatenate([part[k].values for part in parts], axis=1) for k in (0, 1))
        return Law(treated), Law(control)

    def _map(
        self, function: Callable[[NDArray[np.float32], slice], Result], E: NDArray[np.float32], size: int = _CHUNK_ROWS
    ) -> list[Result]:
        """``function(inputs, rows)`` on consecutive rows, at most `size` at a time, so that memory stays bounded.

        Blocks of a large table run side by side, each on one thread.
        """

        def block(start: int) -> list[Result]:
            inputs = self._inputs(E[start : start + _BLOCK_ROWS])
            return [function(inputs[r], slice(start + r.start, start + r.stop)) for r in _chunks(len(inputs), size)]

        starts = range(0, len(E), _BLOCK_ROWS)
        n_threads = 1 if len(starts) == 1 else min(len(starts), effective_n_jobs(-1))
        with one_thread():
            parts = Parallel(n_jobs=n_threads, prefer="threads")(delayed(block)(start) for start in starts)
        return [result for part in parts for result in part]

    def _encode(self, X: ArrayLike | pd.DataFrame) -> NDArray[np.float32]:
        self._check_fitted()
        if not isinstance(X, pd.DataFrame) and np.ndim(X) == 2 and np.shape(X)[1] != self.n_features_in_:
            raise ValueError(
                f"X has {np.shape(X)[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        return self.schema_.encode(X)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments before "
                "using this estimator."
            )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "schema_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags


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


def _weights(sample_weight: ArrayLike | None, a: NDArray[np.int64], arms: tuple[Hashable, ...]) -> Array:
    if sample_weight is None:
        return np.ones(len(a))
    weight = check_sample_weight(sample_weight, len(a))
    for k, arm in enumerate(arms):
        if np.count_nonzero(weight[a == k]) < 2:
            raise ValueError(f"fewer than two rows of arm {arm!r} have a positive sample_weight: leave the arm out.")
    return weight / weight.mean()


def _propensities(propensity: ArrayLike, n: int, arms: tuple[Hashable, ...]) -> Array:
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


def _seed(random_state: Any) -> int:
    """A seed from what users pass: equal for equal ints, the next number of a generator, fresh for None."""
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31 - 1))
    return int(check_random_state(random_state).randint(2**31 - 1))


def _fingerprint(E: NDArray[np.float32], a: NDArray[np.int64], y: Array) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (E, a, y):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _chunks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _index(X: Any) -> pd.Index | None:
    return X.index if isinstance(X, pd.DataFrame) else None


def _plain(value: Any) -> Any:
    """JSON form of numpy scalars and arrays."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be saved without pickle")
