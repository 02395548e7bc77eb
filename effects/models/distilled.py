"""Distillation: the whole of a fitted model taught to one network, for tables of millions of rows."""

from __future__ import annotations

import copy
import warnings
from abc import ABC
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from effects.models.location_scale import LocationScaleEstimator
from effects.nn.scale import normal_nodes
from effects.nn.student import Lesson, Student, StudentNetwork, average, fit_student, probability
from effects.nn.training import Settings, one_thread, resolve_device
from effects.nuisance import NuisanceValues
from effects.persistence import part
from effects.rows import seed_of
from effects.schema import Schema
from effects.schema.checks import check_whole

Array = NDArray[np.float64]
_FEWEST = 20
_CROSSED = 0.3  # share of columns that an invented row has from another one
_ACCEPTED = 0.02
_MEMBERS = 32


class DistillableEstimator(LocationScaleEstimator, ABC):
    """A `LocationScaleEstimator` that can be taught to a student; see `distill`."""

    student_: Student | None = None

    def distill(
        self,
        X: ArrayLike | pd.DataFrame,
        *,
        n_rows: int = 20_000,
        n_knots: int = 64,
        hidden: int = 256,
        epochs: int = 40,
        random_state: Any = None,
    ) -> Self:
        r"""A copy whose predictions come from one small network: hundreds of times faster, and almost the same.

        The student learns from what this model says of rows, not from outcomes: a monotone network of the quantiles of
        every predictive law :math:`Y(a) \mid x` (squared Wasserstein-2 distance), the calibrated spread of the
        effects, and the propensities. Neither trees, nor the ensemble, nor the sampler are run again.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Rows like those that will be predicted: of the fit, or better of the table to predict, whose outcomes nobody
            needs to know.
        n_rows : int
            Rows to learn from. Of a larger X that many are drawn; for a smaller one rows are invented whose columns
            come from two rows of X.
        n_knots : int
            Quantiles of every law that are learned; others are interpolated between them.
        hidden : int
            Width of the student's three layers.
        epochs : int
            At most so many passes; early stopping may end sooner.
        random_state : int, RandomState or None
            None repeats the fit's seed.

        Returns
        -------
        A fitted copy. ``student_.loss`` says what its laws cost on rows it did not learn from: the rise of the CRPS as
        a share, were this model's laws the truth. `fit` makes it an ordinary model again, and this one stays as it is.

        Raises
        ------
        ValueError
            For fewer than 20 rows, or sizes that make no sense.

        Warns
        -----
        UserWarning
            If the student's laws cost more than 2%: give it more rows, or a greater width.

        Notes
        -----
        The copy's outcomes have one member for all (of a binary outcome 32), whose draws are those of the predictive
        law: what the models do not know is in them, but no longer apart from the outcome's own spread. Effects have 32
        members with the mean and the calibrated standard deviation of each; effects of two arms other than the first
        one are given a correlation of one half, as if every arm's mean were known equally well. What was held out of
        the rows of the fit, and so averages over them, are the original's. Propensities are learned too, so units near
        the limit of what counts as supported may fall on the other side of it.

        Examples
        --------
        >>> from effects import DiffPO
        >>> from effects.datasets import make_heteroscedastic
        >>> data = make_heteroscedastic(n_samples=200, random_state=0)
        >>> est = DiffPO(epochs=5, n_networks=4, random_state=0).fit(data.X, data.y, treatment=data.treatment)
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # two epochs teach little
        ...     fast = est.distill(data.X, n_rows=300, epochs=2)
        >>> fast.predict_outcomes(data.X).quantile(0.9).shape
        (200, 2)
        """
        self._check_fitted()
        limits = (("n_rows", n_rows, _FEWEST), ("n_knots", n_knots, 2), ("hidden", hidden, 1), ("epochs", epochs, 1))
        for name, value, least in limits:
            check_whole(name, value, least)
        if self.effect_spread_ is None:
            raise ValueError(f"this {type(self).__name__} is a part of another estimator: distill one of its own.")
        seed = self.seed_ if random_state is None else seed_of(random_state)
        E, n_held = self._curriculum(X, n_rows, np.random.default_rng(seed))
        teacher = copy.copy(self)
        teacher.student_, teacher.n_draws = None, n_knots
        means = probability if self.schema_.outcome.kind == "binary" else average if self._exact_means() else None
        settings = Settings(
            epochs=int(epochs),
            batch_size=256,
            patience=max(3, int(epochs) // 4),
            ema=0.99,
            seed=seed,
            verbose=bool(self.verbose),
            label="distillation",
            device=resolve_device(self.device),
        )
        with one_thread():
            student, history = fit_student(teacher._lesson(E), n_held, hidden, means, settings)
        fast = copy.copy(self)
        fast.student_ = student
        fitted = [entry for entry in self.history_ if entry.get("stage") != "distillation"]
        fast.history_ = [*fitted, *({"stage": "distillation", **entry} for entry in history)]
        if student.loss > _ACCEPTED:
            warnings.warn(
                f"the student's laws cost {student.loss:.1%} of the CRPS: distill on more rows (n_rows), or with a "
                "greater width (hidden).",
                UserWarning,
                stacklevel=2,
            )
        return fast

    # ------------------------------------------------------------------ what is taught

    def _curriculum(
        self, X: ArrayLike | pd.DataFrame, n_rows: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], int]:
        """Encoded rows to learn from; the last are real ones, held out, and how many those are."""
        table = X if isinstance(X, pd.DataFrame) else np.asarray(X)
        E = self._encode(table)
        if len(E) < _FEWEST:
            raise ValueError(f"X has {len(E)} rows: a student needs at least {_FEWEST}; give it rows of the fit.")
        order = rng.permutation(len(E))[:n_rows]
        n_held = max(2, len(order) // 10)
        own, held = order[:-n_held], order[-n_held:]
        parts = [E[own], E[held]]
        if len(order) < n_rows:
            parts.insert(1, self._encode(_crossed(table, own, n_rows - len(order), rng)))
        return np.concatenate(parts), n_held

    def _lesson(self, E: NDArray[np.float32]) -> Lesson:
        """What this model says of encoded rows."""
        n_arms, binary = self.schema_.n_arms, self.schema_.outcome.kind == "binary"
        unit = self.scale_.spread if self._exact_means() and not binary else 1.0

        def lesson(inputs: NDArray[np.float32], rows: slice, values: NuisanceValues | None) -> tuple[Array, ...]:
            rng = np.random.default_rng([self.seed_, rows.start])
            location, residual = self._standard(inputs, self.n_draws, rng)
            # blocks of order statistics: their averages are nodes of the same mean
            if residual is None:
                pool, size = np.sort(location, axis=0), 1
            else:
                which = np.arange(len(location)) % len(residual)
                z = location[:, None].astype(np.float32) + residual.astype(np.float32)[which]
                pool, size = np.sort(z.reshape(-1, *z.shape[2:]), axis=0), len(location)
            nodes = pool.reshape(-1, size, *pool.shape[1:]).mean(axis=1).transpose(1, 2, 0)
            sd = self._effect_members(inputs, rows, values).std(axis=0) / unit
            e = (self.nuisance_.predict(E[rows]) if values is None else values).propensity
            log_e = np.log(np.maximum(e, 1e-6))
            return nodes, sd, log_e[:, 1:] - log_e[:, :1]

        parts = self._map(lesson, E, 1024)
        columns = [torch.from_numpy(np.concatenate(part).astype(np.float32)) for part in zip(*parts, strict=True)]
        assert columns[0].shape[1] == n_arms
        return Lesson(torch.from_numpy(E), *columns)

    # ------------------------------------------------------------------ predict

    def _fit(self, data: Any) -> dict[str, Any]:
        return {**super()._fit(data), "student_": None}

    def _nuisances(self, E: NDArray[np.float32]) -> NuisanceValues | None:
        return super()._nuisances(E) if self.student_ is None else None

    def _propensities(self, E: NDArray[np.float32]) -> Array:
        if self.student_ is None:
            return super()._propensities(E)
        odds = self.student_.read(self.student_.say(E)).odds.double()
        return torch.softmax(torch.nn.functional.pad(odds, (1, 0)), dim=1).numpy()

    def _inputs_given(self, E: NDArray[np.float32], values: NuisanceValues | None) -> NDArray[np.float32]:
        return super()._inputs_given(E, values) if self.student_ is None else self.student_.say(E)

    def _members(self, inputs: NDArray[np.float32]) -> Array:
        if self.student_ is None:
            return super()._members(inputs)
        answer = self.student_.read(inputs)
        if self.schema_.outcome.kind == "binary":
            return answer.nodes.double().permute(2, 0, 1).numpy()
        return answer.mean[None].double().numpy()

    def _center(self, inputs: NDArray[np.float32]) -> Array:
        return super()._center(inputs) if self.student_ is None else self._members(inputs).mean(axis=0)

    def _standard(
        self, inputs: NDArray[np.float32], n_draws: int, rng: np.random.Generator
    ) -> tuple[Array, Array | None]:
        if self.student_ is None:
            return super()._standard(inputs, n_draws, rng)
        location = self._members(inputs)
        if self.schema_.outcome.kind == "binary":
            return location, None
        answer = self.student_.read(inputs)
        residual: NDArray[Any] = (answer.nodes - answer.mean[..., None]).permute(2, 0, 1).numpy()
        if n_draws != len(residual):
            residual = _between_knots(residual, n_draws)
            residual -= residual.mean(axis=0)
        return location, residual[None]

    def _widened(self, means: Array, values: NuisanceValues | None, inputs: NDArray[np.float32]) -> Array:
        if self.student_ is None:
            return super()._widened(means, values, inputs)
        effects = (means[:, :, 1:] - means[:, :, :1]).mean(axis=0)
        exact = self._exact_means() and self.schema_.outcome.kind != "binary"
        sd = self.student_.read(inputs).log_effect.double().exp().numpy() * (self.scale_.spread if exact else 1.0)
        return effects + sd * _directions(effects.shape[1])[:, None]

    # ------------------------------------------------------------------ save / load

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays, state = super()._get_state()
        if self.student_ is not None:
            network = self.student_.network.state_dict()
            arrays |= {f"student.{name}": value.numpy() for name, value in network.items()}
            state["student"] = {name: getattr(self.student_, name) for name in ("hidden", "n_knots", "loss")}
        return arrays, state

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        fitted = super()._set_state(arrays, state, schema)
        if "student" not in state:
            return fitted | {"student_": None}
        hidden, n_knots = int(state["student"]["hidden"]), int(state["student"]["n_knots"])
        network = StudentNetwork(len(schema.feature_names), schema.n_arms, n_knots, hidden, torch.Generator())
        tensors = {k: torch.from_numpy(v) for k, v in part(arrays, "student").items()}
        network.load_state_dict(tensors)
        student = Student(network.requires_grad_(False), hidden, n_knots, float(state["student"]["loss"]))
        return fitted | {"student_": student}


def _crossed(table: Any, rows: NDArray[np.int64], n: int, rng: np.random.Generator) -> Any:
    """Invented rows: every column of each is that of one of two rows, with its own kind of values."""
    first, second = rng.choice(rows, n), rng.choice(rows, n)
    other = rng.random((n, table.shape[1])) < _CROSSED
    source = np.where(other, second[:, None], first[:, None])
    if not isinstance(table, pd.DataFrame):
        return np.take_along_axis(table, source, axis=0)
    columns = [table.iloc[source[:, j], j].reset_index(drop=True) for j in range(table.shape[1])]
    return pd.concat(columns, axis=1).set_axis(table.columns, axis=1)


def _between_knots(values: NDArray[Any], n_draws: int) -> NDArray[Any]:
    """Quantiles (n_draws, ...) from those at knots (n_knots, ...): linear in the normal score, between and beyond."""
    knots, wanted = normal_nodes(len(values)), normal_nodes(n_draws)
    right = np.clip(np.searchsorted(knots, wanted), 1, len(knots) - 1)
    part = (wanted - knots[right - 1]) / (knots[right] - knots[right - 1])
    share = part.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    return values[right - 1] * (1 - share) + values[right] * share


def _directions(n_effects: int) -> Array:
    """Members (n_members, n_effects) of mean zero and variance one; those of two effects are correlated by one half."""
    half = max(_MEMBERS // 2, 2 * n_effects)
    drawn = np.random.default_rng(0).normal(size=(half, n_effects + 1))
    whole = np.linalg.qr(drawn)[0] * np.sqrt(half)
    one = (whole[:, :1] + whole[:, 1:]) / np.sqrt(2)
    return np.concatenate([one, -one])
