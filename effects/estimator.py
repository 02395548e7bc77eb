"""The contract every estimator keeps: validate once, fit, and return distributions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import pandas as pd
from joblib import Parallel, cpu_count, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils.metaestimators import available_if

from effects.calibration import EffectSpread, alternative_weights, learn_spread
from effects.effect import Effect, contrast
from effects.individual import Law
from effects.nn.training import one_thread
from effects.nuisance import CrossFitted, Nuisance, NuisanceValues
from effects.outcomes import KINDS, PotentialOutcomes, between, merged, shared_noise
from effects.persistence import Persistent
from effects.rows import TrainingData, check_propensities, check_weights, chunks, index_of, positions, row_keys, seed_of
from effects.schema import Schema, check_sample_weight
from effects.support import Support, SupportModel

Array = NDArray[np.float64]
Result = TypeVar("Result")
Sampled = tuple[NDArray[np.float32], Array | None, Array | None]  # draws, member means, calibrated member effects
_CHUNK_ROWS = 8192
_BLOCK_ROWS = 16_384
_SCORE_ROWS = 1024  # rows whose draws are held at once
_SPREAD_ROWS = 20_000  # enough to learn how sure of effects to be


class EffectEstimator(Persistent):
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
    effect_spread_ : EffectSpread or None
        How the posterior of effects was scaled by held-out rows; None for an estimator that keeps none.
    support_model_ : SupportModel
        Averages of the training rows, from which `support` tells.
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
        weight = check_weights(sample_weight, a, schema.arms)
        known = None if propensity is None else check_propensities(propensity, len(E), schema.arms)
        used = weight > 0
        if not used.all():  # rows without weight take no part: not in the folds, not in the outcome's scale
            E, a, Y, weight = E[used], a[used], Y[used], weight[used] / weight[used].mean()
            known = None if known is None else known[used]
        seed = seed_of(self.random_state)
        nuisance = clone(self.nuisance) if self.nuisance is not None else Nuisance()
        if nuisance.random_state is None:
            nuisance.set_params(random_state=seed)
        nuisance.fit(E, Y, a, n_arms=schema.n_arms, kind=schema.outcome.kind, sample_weight=weight, propensity=known)
        self.__dict__.pop("feature_names_in_", None)
        if isinstance(X, pd.DataFrame) and all(isinstance(name, str) for name in X.columns):
            self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        return self._fit_checked(TrainingData(E, a, Y, weight, nuisance, schema, seed))

    def _fit_checked(self, data: TrainingData, *, inside: bool = False) -> Self:
        """Fit on data that are checked, encoded and cross-fitted, perhaps `inside` an estimator that holds this one."""
        with one_thread():
            fitted = self._fit(data)
        self.__dict__.update(fitted)
        self.nuisance_, self.arms_, self.seed_ = data.nuisance, data.schema.arms, data.seed
        self.rows_ = row_keys(data.E, data.a, data.y)
        self.df_ = int(np.bincount(data.a).min()) - 1
        self.n_features_in_ = len(data.schema.columns)
        self.schema_ = data.schema  # last: this is what makes the estimator fitted
        try:
            with one_thread():
                self.effect_spread_ = None if inside else self._learn_spread(data)
                if not inside:
                    e, n_arms = data.nuisance.out_of_fold_.propensity, data.schema.n_arms
                    self.support_model_ = SupportModel.fit(data.E, data.a, data.weight, e, n_arms, data.seed)
        except BaseException:
            del self.schema_
            raise
        return self

    def predict(self, X: ArrayLike | pd.DataFrame, return_std: bool = False) -> Any:
        """CATE against the control arm.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        return_std : bool
            Whether to return the posterior standard deviations of the CATE too, as scikit-learn's Gaussian processes
            do.

        Returns
        -------
        cate : ndarray of shape (n_samples,) for two arms, else (n_samples, n_arms - 1)
            In the outcome's unit (risk differences for a binary outcome).
        std : ndarray of that shape
            Only with `return_std`.
        """
        E = self._encode(X)
        if return_std:
            parts = self._map(self._effect_members, E)
            cate = np.concatenate([part.mean(axis=0) for part in parts])
            std = np.concatenate([part.std(axis=0) for part in parts])
            return (cate[:, 0], std[:, 0]) if cate.shape[1] == 1 else (cate, std)
        mean = np.concatenate(self._map(lambda inputs, *_: self._mean(inputs), E))
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
        rng = np.random.default_rng(self.seed_ if random_state is None else seed_of(random_state))
        return self._outcomes(E, n_draws, rng, index_of(X))

    def predict_effect(
        self,
        X: ArrayLike | pd.DataFrame,
        *,
        treated: Hashable = None,
        control: Hashable = None,
        unsupported: str = "keep",
    ) -> Effect:
        """CATE of `treated` against `control` with its uncertainty.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        treated : label, optional
            May be left out where there are two arms.
        control : label, optional
            By default the control arm of the fit.
        unsupported : {"keep", "flag", "nan"}
            What becomes of units of which the training data say too little (see `support`): no question is asked;
            they are marked (``Effect.supported``, a column of its frame); or they get NaN, too.

        Returns
        -------
        Effect
        """
        if unsupported not in ("keep", "flag", "nan"):
            raise ValueError(f"unsupported must be 'keep', 'flag' or 'nan', got {unsupported!r}.")
        E = self._encode(X)
        t, c = contrast(self.arms_, treated, control)
        parts = self._map(lambda *block: between(self._effect_members(*block), t, c).astype(np.float32), E)
        laws = partial(self._laws, E, t, c)
        members = np.concatenate(parts, axis=1)
        arms, df, fresh = (self.arms_[t], self.arms_[c]), self._df(), shared_noise(self._fresh(), t, c)
        if unsupported == "keep":
            return Effect(members, *arms, laws, index=index_of(X), df=df, fresh=fresh)
        found = self._support(E)
        enough = np.asarray(~(found.unlike | found.rare)[:, [t, c]].any(axis=1))  # of the two arms that are compared
        hidden = unsupported == "nan"
        return Effect(members, *arms, laws, index=index_of(X), df=df, supported=enough, hidden=hidden, fresh=fresh)

    def support(self, X: ArrayLike | pd.DataFrame, *, level_flag: float = 0.01) -> Support:
        """How much the training data say about each unit: whether it is like the rows that got each arm, and whether
        units like it got each arm at all.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        level_flag : float
            Share of units of the training population that may be flagged by mistake as unlike its rows.

        Returns
        -------
        Support
            With ``supported`` and the ``reason`` of every flag; see `effects.support.SupportModel` for the method.
        """
        return self._support(self._encode(X), level_flag, index_of(X))

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
        E, a, Y = self._observed(X, y, treatment)
        weight = np.ones(len(E)) if sample_weight is None else check_sample_weight(sample_weight, len(E))

        def loss(inputs: NDArray[np.float32], rows: slice, _: Any) -> float:
            rng = np.random.default_rng([self.seed_, rows.start])
            outcomes = self._pack([(*self._sample(inputs, self._score_draws, rng), None)], None)
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
        E, a, Y = self._observed(X, y, treatment)
        return np.concatenate(self._map(lambda inputs, rows, _: self._log_prob(inputs, Y[rows], a[rows]), E))

    def cross_fitted(
        self,
        X: ArrayLike | pd.DataFrame,
        y: ArrayLike,
        *,
        treatment: ArrayLike,
        sample_weight: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> CrossFitted:
        """What models that had not seen a row say of it: means, propensities and, where there are any, outcome laws.

        Rows of the fit get what was held out there: the estimator's own laws where it keeps them (``held_out_``), else
        the means of the cross-fitted nuisances. Rows that the fit never saw get the estimator's own predictions, and
        propensities that are cross-fitted on them (if there are only such rows; else the nuisances' predictions). A
        model read from a file keeps none of its rows but recognises them: with any of them among the rows, nuisances
        are cross-fitted anew.

        Parameters
        ----------
        X, y, treatment, sample_weight
            As in `fit`.
        propensity : array-like of shape (n_samples,) or (n_samples, n_arms), optional
            Known propensities, used instead of estimates.

        Returns
        -------
        CrossFitted
        """
        E, a, Y = self._observed(X, y, treatment)
        known = None if propensity is None else check_propensities(propensity, len(E), self.arms_)
        trial = self.nuisance_.trial_propensity
        if known is None and trial is not None:  # nothing is to be estimated
            known = np.tile(trial, (len(E), 1))
        weight = None if sample_weight is None else check_weights(sample_weight, a, self.arms_)
        at = positions(row_keys(E, a, Y), self.rows_)
        if weight is not None:
            at[weight == 0] = -1  # they count for nothing, whatever is said of them
        seen = at >= 0
        counted = np.ones(len(E), dtype=bool) if weight is None else weight > 0
        if seen.any():
            out_of_fold = getattr(self.nuisance_, "out_of_fold_", None)
            if out_of_fold is None:
                values = self._fresh_nuisance(E, a, Y, weight, known).out_of_fold_
                return CrossFitted(values.mu, values.propensity, None, "unknown")
            held = getattr(self, "held_out_", None)
            own = out_of_fold.mu if held is None else held.mean()
            source = "own" if held is None else "held_out"
            if seen.all():
                e = out_of_fold.propensity[at] if known is None else known
                return CrossFitted(own[at], e, None if held is None else held.take(at), source)
            new = self._outcomes(E[~seen], None, np.random.default_rng(self.seed_), None)
            mu, e = np.empty((len(E), own.shape[1])), known
            mu[seen], mu[~seen] = own[at[seen]], new.mean()
            if e is None:
                e = self.nuisance_.predict(E).propensity
                e[seen] = out_of_fold.propensity[at[seen]]
            outcomes = None if held is None else merged(held.take(at[seen]), new, seen)
            return CrossFitted(mu, e, outcomes, source if seen[counted].all() else "mixed")
        outcomes = self._outcomes(E, None, np.random.default_rng(self.seed_), index_of(X))
        e = known if known is not None else self._fresh_nuisance(E, a, Y, weight, None).out_of_fold_.propensity
        return CrossFitted(outcomes.mean(), e, outcomes, "other")

    def _fresh_nuisance(
        self, E: NDArray[np.float32], a: NDArray[np.int64], y: Array, weight: Array | None, propensity: Array | None
    ) -> Nuisance:
        """The fit's nuisances, cross-fitted on these rows; known propensities stay what they are."""
        fresh = clone(self.nuisance_)
        kind = self.schema_.outcome.kind
        return fresh.fit(E, y, a, n_arms=len(self.arms_), kind=kind, sample_weight=weight, propensity=propensity)

    # ------------------------------------------------------------------ what a subclass writes

    _score_draws: ClassVar[int] = 16
    _expected: ClassVar[float] = 0.7  # the usual factor between an estimator's idea of its errors and these

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

        def sample(inputs: NDArray[np.float32], rows: slice, values: NuisanceValues | None) -> Sampled:
            draws, means = self._sample(inputs, n_draws, np.random.default_rng([seed, rows.start]))
            if self.effect_spread_ is None:
                return draws, means, None
            center = draws.mean(axis=1, dtype=np.float64) if means is None else means
            return draws, means, self._widened(center, values, inputs)

        return self._pack(self._map(sample, E), index)

    def _pack(self, parts: list[Sampled], index: pd.Index | None) -> PotentialOutcomes:
        """Samples of consecutive rows as one value."""
        draws = np.concatenate([part[0] for part in parts], axis=2)
        means = None if parts[0][1] is None else np.concatenate([m for _, m, _ in parts if m is not None], axis=1)
        effects = None if parts[0][2] is None else np.concatenate([e for *_, e in parts if e is not None], axis=1)
        kind = self.schema_.outcome.kind
        return PotentialOutcomes(
            draws, self.arms_, kind, means, index=index, effects=effects, df=self._df(), fresh=self._fresh()
        )

    # ------------------------------------------------------------------ how sure of the effects

    def _effect_members(self, inputs: NDArray[np.float32], _: slice, values: NuisanceValues | None) -> Array:
        """Member effects (n_members, n, n_arms - 1) against the first arm, their spread calibrated."""
        means = self._means(inputs)
        if self.effect_spread_ is None:
            return means[:, :, 1:] - means[:, :, :1]
        return self._widened(means, values, inputs)

    def _widened(self, means: Array, values: NuisanceValues | None, inputs: NDArray[np.float32]) -> Array:
        """Member effects of calibrated spread, from member means, nuisances (see `_nuisances`) and inputs."""
        assert self.effect_spread_ is not None
        return self.effect_spread_.widen(means[:, :, 1:] - means[:, :, :1], values)

    def _support(self, E: NDArray[np.float32], level_flag: float = 0.01, index: pd.Index | None = None) -> Support:
        e = self._propensities(E)
        return self.support_model_.score(E, e, level_flag=level_flag, arms=self.arms_, index=index)

    def _propensities(self, E: NDArray[np.float32]) -> Array:
        """P(A = a | x) of new rows, (n, n_arms)."""
        return self.nuisance_.predict(E).propensity

    def _nuisances(self, E: NDArray[np.float32]) -> NuisanceValues | None:
        """The nuisances of new rows, where the scale of the effects' posterior needs them."""
        compares = self.effect_spread_ is not None and len(self.effect_spread_.alternatives) > 0
        return self.nuisance_.predict(E) if compares else None

    def _df(self) -> float | None:
        """Degrees of freedom of a calibrated posterior: one less than the rows of the smallest arm."""
        return None if self.effect_spread_ is None or self.df_ < 1 else float(self.df_)

    def _fresh(self) -> tuple[float, ...] | None:
        """Share of fresh noise in the laws of each arm but the first, where it was learned."""
        return None if self.effect_spread_ is None else tuple(map(float, self.effect_spread_.fresh))

    def _learn_spread(self, data: TrainingData) -> EffectSpread | None:
        """The scale of the posterior of effects, from the rows that were held out."""
        held = getattr(self, "held_out_", None)
        if held is None:
            return None
        rows = np.arange(len(data.y))
        if len(rows) > _SPREAD_ROWS:
            rows = np.sort(np.random.default_rng(data.seed).permutation(len(rows))[:_SPREAD_ROWS])
        y, a, weight, law = data.y[rows], data.a[rows], data.weight[rows], held.take(rows)
        mu, e, weight = law.mean(), data.nuisance.out_of_fold_.propensity[rows], weight / weight.mean()
        of_effect, of_mean, alternatives = self._held_out_spread(data, rows, mu)
        noise = law.std()[np.arange(len(rows)), a] ** 2
        return learn_spread(
            y, a, weight, mu, e, (of_effect, of_mean), alternatives=alternatives, expected=self._expected, noise=noise
        )

    def _held_out_spread(self, data: TrainingData, rows: NDArray[np.int64], mu: Array) -> tuple[Array, Array, Array]:
        """What the estimator itself thinks of its squared errors on rows of the fit, before that is scaled.

        Returns
        -------
        of_effect : ndarray of shape (n, n_arms - 1)
        of_mean : ndarray of shape (n,)
            Of the mean over arms, by propensity.
        alternatives : ndarray of shape (n_alternatives, n_arms - 1)
            Weights of the nuisances' effects, which are part of both.
        """
        values = data.nuisance.out_of_fold_.take(rows)
        e = values.propensity
        alternatives = alternative_weights(data.y[rows], data.a[rows], data.weight[rows], mu, values)
        own, of_mean = np.empty((len(rows), mu.shape[1] - 1)), np.empty(len(rows))
        for part in chunks(len(rows), _CHUNK_ROWS):
            means = self._means(self._inputs_given(data.E[rows[part]], values.take(np.arange(len(rows))[part])))
            own[part] = (means[:, :, 1:] - means[:, :, :1]).var(axis=0)
            of_mean[part] = np.einsum("mna,na->mn", means, e[part]).var(axis=0)
        views = np.stack([np.einsum("na,na->n", view - mu, e) ** 2 for view in (values.per_arm, values.single)])
        of_mean += alternatives[:2].mean(axis=1) @ views
        unscaled = EffectSpread(alternatives, np.ones(own.shape[1]), np.ones(own.shape[1]))
        return unscaled.variance(own, mu[:, 1:] - mu[:, :1], values), of_mean, alternatives

    def _laws(self, E: NDArray[np.float32], t: int, c: int) -> tuple[Law, Law]:

        def laws(inputs: NDArray[np.float32], rows: slice, _: Any) -> tuple[Law, Law]:
            rng = np.random.default_rng([self.seed_, rows.start])
            return self._pack([(*self._sample(inputs, None, rng), None)], None).laws(t, c)

        parts = self._map(laws, E, _SCORE_ROWS)
        treated, control = (np.concatenate([part[k].values for part in parts], axis=1) for k in (0, 1))
        return Law(treated), Law(control)

    def _map(
        self,
        function: Callable[[NDArray[np.float32], slice, NuisanceValues | None], Result],
        E: NDArray[np.float32],
        size: int = _CHUNK_ROWS,
    ) -> list[Result]:
        """``function(inputs, rows, nuisances)`` on consecutive rows, at most `size` at a time, so that memory stays
        bounded.

        Blocks of a large table run side by side, each on one thread. The nuisances are there only where the scale of
        the effects' posterior needs them.
        """

        def block(start: int) -> list[Result]:
            some = E[start : start + _BLOCK_ROWS]
            values = self._nuisances(some)
            inputs = self._inputs_given(some, values)
            results = []
            for r in chunks(len(inputs), size):
                own = None if values is None else values.take(np.arange(r.start, r.stop))
                results.append(function(inputs[r], slice(start + r.start, start + r.stop), own))
            return results

        starts = range(0, len(E), _BLOCK_ROWS)
        n_threads = 1 if len(starts) == 1 else min(len(starts), cpu_count())
        with one_thread():  # the blocks share this estimator and E: they stay here, whatever cluster is at hand
            parts = Parallel(n_jobs=n_threads, require="sharedmem")(delayed(block)(start) for start in starts)
        return [result for part in parts for result in part]

    def _encode(self, X: ArrayLike | pd.DataFrame) -> NDArray[np.float32]:
        self._check_fitted()
        if not isinstance(X, pd.DataFrame) and np.ndim(X) == 2 and np.shape(X)[1] != self.n_features_in_:
            raise ValueError(
                f"X has {np.shape(X)[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        return self.schema_.encode(X)

    def _observed(
        self, X: ArrayLike | pd.DataFrame, y: ArrayLike, treatment: ArrayLike
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], Array]:
        """Encoded covariates, arms and outcomes of observed units."""
        E = self._encode(X)
        a, Y = self.schema_.encode_treatment(treatment), self.schema_.encode_outcome(y)
        if not len(a) == len(Y) == len(E):
            raise ValueError(f"X, y and treatment have {len(E)}, {len(Y)} and {len(a)} rows: they must agree.")
        return E, a, Y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags
