"""Fitted estimators in the tools of others: EconML's scorers, testers and interpreters, and DoWhy's estimator slot."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from effects.effect import Effect, Estimate, contrast
from effects.estimator import EffectEstimator
from effects.individual import check_level
from effects.inference import estimate_ate
from effects.schema.columns import ColumnSpec

Array = NDArray[np.float64]
MISSING = ("error", "median", "keep")


def as_econml(
    est: EffectEstimator,
    *,
    X: ArrayLike | pd.DataFrame | None = None,
    y: ArrayLike | None = None,
    treatment: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> EconMLAdapter:
    """Wrap a fitted estimator so that EconML's tools take it for one of EconML's own.

    Works in ``RScorer`` (score, best_model, ensemble), ``DRTester``, ``SingleTreeCateInterpreter`` and
    ``SingleTreePolicyInterpreter``. ``PolicyTree`` needs no wrapper: ``PolicyTree().fit(X, rewards)`` takes
    ``est.predict_outcomes(X).mean()`` as it is.

    Parameters
    ----------
    est : EffectEstimator
        Fitted.
    X, y, treatment : optional
        The rows over which the average effect is estimated by cross-fitted AIPW (`effects.estimate_ate`): the training
        rows, whose nuisances are there, or others. Without them averages are those of the estimated effects.
    sample_weight : array-like, optional
        Weights of these rows.

    Returns
    -------
    EconMLAdapter

    Raises
    ------
    NotFittedError
        If `est` is not fitted.
    ValueError
        If only some of `X`, `y` and `treatment` are given.

    Examples
    --------
    >>> from effects import DiffPO
    >>> from effects.datasets import make_heteroscedastic
    >>> from effects.interop import as_econml
    >>> data = make_heteroscedastic(n_samples=100, random_state=0)
    >>> est = DiffPO(epochs=3, n_networks=4, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> cate = as_econml(est)
    >>> cate.const_marginal_effect(data.X).shape
    (100, 1)
    >>> from econml.cate_interpreter import SingleTreeCateInterpreter
    >>> tree = SingleTreeCateInterpreter(max_depth=1).interpret(cate, cate.numbers(data.X).to_numpy())
    """
    from econml._cate_estimator import BaseCateEstimator

    est._check_fitted()
    given = [one is not None for one in (X, y, treatment)]
    if any(given) != all(given):
        raise ValueError("X, y and treatment belong together: pass all three, for the average effect, or none.")
    BaseCateEstimator.register(EconMLAdapter)  # what RScorer.ensemble asks for
    return EconMLAdapter(est, (X, y, treatment, sample_weight) if all(given) else None)


class EconMLAdapter:
    """A fitted estimator with the methods of EconML's estimators; made by `as_econml`.

    Effects are of the estimator's arms. ``T0`` and ``T1`` are its labels, one for all rows or one a row; where its
    arms are no numbers, also their positions in ``est.arms_`` (the control is 0), which EconML's tools count by.

    Tables are given as to the estimator itself. Numbers without names, which is what EconML's tools hand on, are read
    as the columns of the fit in their order: levels of categories by their position, dates as days since 1970 (what
    `numbers` makes of a table). Missing values are allowed here as everywhere in effects, but not in all of EconML's
    tools: see `numbers`.

    Intervals are those of the estimator's members (`Effect.interval`). Methods ending in ``interval`` return lower and
    upper bounds, and take ``alpha``: 0.1 means a 90% interval.

    Attributes
    ----------
    est : EffectEstimator
    """

    _d_y: tuple[int, ...] = ()  # one outcome, read by the policy interpreter

    def __init__(self, est: EffectEstimator, population: tuple[Any, Any, Any, Any] | None = None) -> None:
        self.est = est
        self._population = population

    def __repr__(self) -> str:
        return f"as_econml({self.est!r})"

    # ------------------------------------------------------------------ tables

    def numbers(self, X: ArrayLike | pd.DataFrame, *, missing: str = "error") -> pd.DataFrame:
        """The table in numbers, in the columns' own units, for tools that take nothing else.

        What the tools hand back is read again: a split at ``age <= 61.5`` means years, one at ``city <= 0.5`` the
        first level against the others.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        missing : {"error", "median", "keep"}
            Missing values are an error that names the columns; or numbers take the median of the fit, and categories
            a level of their own, -1; or they stay (the trees of ``SingleTreeCateInterpreter`` take them).

        Returns
        -------
        DataFrame of float64, shape (n_samples, n_features)

        Raises
        ------
        ValueError
        """
        if missing not in MISSING:
            raise ValueError(f"missing must be one of {MISSING}, got {missing!r}.")
        frame = self._named(X)
        specs = self.est.schema_.columns
        out = pd.DataFrame({spec.name: _to_numbers(frame[spec.name], spec) for spec in specs}, index=frame.index)
        holes = [name for name in out.columns if out[name].isna().any()]
        if holes and missing == "error":
            raise ValueError(
                f"Columns with missing values: {', '.join(map(repr, holes))}. Most of EconML's tools take none: say "
                "missing='median' to fill them (a level of its own for a category), or missing='keep'."
            )
        if missing == "median":
            out = out.fillna({spec.name: -1.0 if spec.kind == "category" else spec.fill or 0.0 for spec in specs})
        return out

    def _named(self, X: Any) -> pd.DataFrame:
        """The table with the names of the fit."""
        names = [spec.name for spec in self.est.schema_.columns]
        if isinstance(X, pd.DataFrame):
            return X
        array = np.asarray(X)
        if array.ndim != 2 or array.shape[1] != len(names):
            raise ValueError(f"X has shape {array.shape}, expected {len(names)} columns: {', '.join(names)}.")
        return pd.DataFrame(array, columns=names)

    def _table(self, X: Any) -> Any:
        """What the estimator is asked about: the user's table, or `numbers` read back."""
        if X is None:
            raise ValueError("X is needed: the effects of effects' estimators depend on covariates.")
        if isinstance(X, pd.DataFrame) or np.asarray(X).dtype.kind not in "biuf":
            return X
        frame, schema = self._named(X), self.est.schema_
        if all(spec.kind in ("number", "constant") for spec in schema.columns):
            return frame if schema.named else np.asarray(X)
        return pd.DataFrame({spec.name: _from_numbers(frame[spec.name], spec) for spec in schema.columns})

    # ------------------------------------------------------------------ effects

    def effect(self, X: Any = None, *, T0: Any = 0, T1: Any = 1) -> Array:
        """CATE of `T1` against `T0`, shape (n_samples,)."""
        return self._members(X, T0, T1).mean(axis=0)

    def const_marginal_effect(self, X: Any = None) -> Array:
        """CATE of every arm against the control, shape (n_samples, n_arms - 1)."""
        return self._all_members(X).mean(axis=0)

    def marginal_effect(self, T: Any, X: Any = None) -> Array:
        """The same as `const_marginal_effect`: arms are no doses."""
        return self.const_marginal_effect(X)

    def effect_interval(self, X: Any = None, *, T0: Any = 0, T1: Any = 1, alpha: float = 0.05) -> tuple[Array, Array]:
        """Intervals of `effect`, two arrays of shape (n_samples,)."""
        return self._interval(self._members(X, T0, T1), alpha)

    def const_marginal_effect_interval(self, X: Any = None, *, alpha: float = 0.05) -> tuple[Array, Array]:
        """Intervals of `const_marginal_effect`, two arrays of shape (n_samples, n_arms - 1)."""
        return self._interval(self._all_members(X), alpha)

    def marginal_effect_interval(self, T: Any, X: Any = None, *, alpha: float = 0.05) -> tuple[Array, Array]:
        """The same as `const_marginal_effect_interval`."""
        return self.const_marginal_effect_interval(X, alpha=alpha)

    def effect_inference(self, X: Any = None, *, T0: Any = 0, T1: Any = 1) -> Any:
        """EconML's ``NormalInferenceResults`` of `effect`, with the members' standard deviations as errors."""
        return _inference(self._members(X, T0, T1), None, [f"{T1}_{T0}"])

    def const_marginal_effect_inference(self, X: Any = None) -> Any:
        """EconML's ``NormalInferenceResults`` of `const_marginal_effect`."""
        members = self._all_members(X)
        return _inference(members, members.shape[2], self.cate_treatment_names())

    # ------------------------------------------------------------------ averages

    def ate(self, X: Any = None, *, T0: Any = 0, T1: Any = 1) -> float:
        """Average effect: of the estimates in `X`; without it by AIPW on the rows given to `as_econml`."""
        if X is None:
            return self._aipw(T0, T1).value
        return float(self.effect(X, T0=T0, T1=T1).mean())

    def ate_interval(self, X: Any = None, *, T0: Any = 0, T1: Any = 1, alpha: float = 0.05) -> tuple[float, float]:
        """Interval of `ate`: the members' for the rows `X`; without them that of AIPW, the one to report."""
        if X is None:
            return self._aipw(T0, T1).interval(1 - alpha)
        lower, upper = self._interval(self._members(X, T0, T1).mean(axis=1), alpha)
        return float(lower), float(upper)

    def ate_inference(self, X: Any = None, *, T0: Any = 0, T1: Any = 1) -> Any:
        """EconML's summary of the average effect in the rows `X`."""
        return self.effect_inference(X, T0=T0, T1=T1).population_summary()

    def marginal_ate(self, T: Any, X: Any = None) -> Array:
        """The same as `const_marginal_ate`."""
        return self.const_marginal_ate(X)

    def const_marginal_ate(self, X: Any = None) -> Array:
        """Averages of `const_marginal_effect`, shape (n_arms - 1,)."""
        return self.const_marginal_effect(X).mean(axis=0)

    def const_marginal_ate_interval(self, X: Any = None, *, alpha: float = 0.05) -> tuple[Array, Array]:
        """The members' intervals of `const_marginal_ate`, two arrays of shape (n_arms - 1,)."""
        return self._interval(self._all_members(X).mean(axis=1), alpha)

    def const_marginal_ate_inference(self, X: Any = None) -> Any:
        """EconML's ``PopulationSummaryResults``: what the interpreters show of a leaf."""
        return self.const_marginal_effect_inference(X).population_summary()

    # ------------------------------------------------------------------ names

    def cate_feature_names(self, feature_names: list[str] | None = None) -> list[str]:
        """The columns of X."""
        return feature_names or [spec.name for spec in self.est.schema_.columns]

    def cate_treatment_names(self, treatment_names: list[str] | None = None) -> list[str]:
        """The arms beyond the control."""
        return treatment_names or [str(arm) for arm in self.est.arms_[1:]]

    def cate_output_names(self, output_names: list[str] | None = None) -> list[str]:
        """The outcome."""
        return output_names or ["Y0"]

    # ------------------------------------------------------------------ shared

    def _arm(self, label: Any) -> int:
        """Position of an arm that is given by its label, or by its position where no label is a number."""
        arms = self.est.arms_
        label = label.item() if isinstance(label, np.generic) else label
        if isinstance(label, Hashable) and label in arms:
            return arms.index(label)
        numbers = any(isinstance(arm, int | float | np.number) for arm in arms)
        if not numbers and isinstance(label, int) and 0 <= label < len(arms):
            return label
        raise ValueError(f"{label!r} is no arm of this estimator: name one of {', '.join(map(repr, arms))}.")

    def _members(self, X: Any, T0: Any, T1: Any) -> Array:
        """Members (n_members, n) of the effect of T1 against T0."""
        table, arms = self._table(X), self.est.arms_
        if np.ndim(T0) == 0 and np.ndim(T1) == 0 and self._arm(T0) != self._arm(T1):
            effect = self.est.predict_effect(table, treated=arms[self._arm(T1)], control=arms[self._arm(T0)])
            return effect.members.astype(np.float64)
        # a contrast of its own for every row: differences of effects against the control
        n = len(table)
        start, end = (
            np.array([self._arm(label) for label in np.broadcast_to(np.asarray(T, dtype=object).ravel(), (n,))])
            for T in (T0, T1)
        )
        against = self._against_control(table)
        rows = np.arange(n)
        return against[:, rows, end] - against[:, rows, start]

    def _all_members(self, X: Any) -> Array:
        """Members (n_members, n, n_arms - 1) of the effects against the control."""
        return self._against_control(self._table(X))[:, :, 1:]

    def _against_control(self, table: Any) -> Array:
        effects = [self.est.predict_effect(table, treated=arm).members for arm in self.est.arms_[1:]]
        return np.stack([np.zeros_like(effects[0]), *effects], axis=2).astype(np.float64)

    def _interval(self, members: Array, alpha: float) -> tuple[Any, Any]:
        """Intervals as the estimator's `Effect` has them, of members (n_members, ...)."""
        level = check_level(1 - alpha)
        lower, upper = Effect(members.reshape(len(members), -1), df=self.est._df()).interval(level)
        return lower.reshape(members.shape[1:]), upper.reshape(members.shape[1:])

    def _aipw(self, T0: Any, T1: Any) -> Estimate:
        if self._population is None:
            raise ValueError("pass X, or give as_econml the rows to average over: as_econml(est, X=, y=, treatment=).")
        X, y, treatment, weight = self._population
        arms = self.est.arms_
        treated, control = arms[self._arm(T1)], arms[self._arm(T0)]
        return estimate_ate(self.est, X, y, treatment=treatment, treated=treated, control=control, sample_weight=weight)


def _inference(members: Array, d_t: int | None, names: list[str]) -> Any:
    """EconML's results object, whose intervals are normal; the error of an average is that of the members' averages."""
    from econml.inference import NormalInferenceResults

    error_of_mean = members.mean(axis=1).std(axis=0)
    return NormalInferenceResults(
        d_t, 1, members.mean(axis=0), members.std(axis=0), error_of_mean, "effect", None, None, ["Y0"], names
    )


# ---------------------------------------------------------------------- columns to numbers and back


def _to_numbers(column: pd.Series, spec: ColumnSpec) -> pd.Series:
    """A column of the user's table as float64, NaN where missing."""
    if spec.kind == "category":
        levels = _levels(spec)
        if levels is not None and column.dtype.kind not in "iuf":
            found = column.astype(object).map({level: float(k) for k, level in enumerate(levels)})
            return found.astype(np.float64)
    if spec.kind == "date" and column.dtype.kind not in "iuf":
        stamps = pd.to_datetime(column)
        stamps = stamps.dt.tz_convert("UTC").dt.tz_localize(None) if stamps.dt.tz is not None else stamps
        return (stamps - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)
    return pd.to_numeric(column.astype(object), errors="coerce").astype(np.float64)


def _from_numbers(column: pd.Series, spec: ColumnSpec) -> pd.Series:
    """The inverse, for numbers that a tool hands on."""
    levels = _levels(spec)
    if levels is not None:
        return column.map({float(k): level for k, level in enumerate(levels)}).astype(object)
    if spec.kind == "date":
        stamps = pd.Timestamp("1970-01-01") + pd.to_timedelta(column, unit="D")
        return stamps if spec.zone is None else stamps.dt.tz_localize("UTC").dt.tz_convert(spec.zone)
    return column


def _levels(spec: ColumnSpec) -> list[Any] | None:
    """Levels of a category by position; None where they are numbers themselves, or there are none."""
    levels = [*spec.levels, *spec.pooled]
    numbers = all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels)
    return None if numbers else levels


# ---------------------------------------------------------------------- DoWhy


def __getattr__(name: str) -> Any:
    """`DoWhyEstimator` is made when it is first asked for: DoWhy is nobody's dependency."""
    if name != "DoWhyEstimator":
        raise AttributeError(f"module 'effects.interop' has no attribute {name!r}")
    globals()[name] = made = _dowhy_estimator()
    return made


def _dowhy_estimator() -> type:
    try:
        from dowhy.causal_estimator import CausalEstimator
    except ImportError:
        raise ImportError("effects.interop.DoWhyEstimator needs DoWhy: pip install dowhy.") from None
    names = {"__module__": __name__, "__doc__": _DoWhyMethods.__doc__}
    return type("DoWhyEstimator", (_DoWhyMethods, CausalEstimator), names)


class _DoWhyMethods:
    """An estimator of effects in DoWhy's slot for backdoor adjustment.

    >>> model.estimate_effect(
    ...     estimand,
    ...     method_name="backdoor.effects.interop.DoWhyEstimator",
    ...     method_params={"estimator": DiffPO(random_state=0)},
    ... )  # doctest: +SKIP

    The covariates are the adjustment set and the effect modifiers, as they are in the table: missing values and
    categories are welcome. The value for ``target_units="ate"`` is the cross-fitted AIPW estimate
    (`effects.estimate_ate`), with its standard error, interval and p-value; for ``"att"``, ``"atc"``, a function or
    a table of units it is the average of their estimated effects, without an interval. ``cate_estimates`` of the
    result holds these effects. DoWhy's refuters fit copies of `estimator` again.
    """

    # what DoWhy's CausalEstimator brings
    _target_estimand: Any
    _treatment_value: Any
    _control_value: Any
    _target_units: Any
    confidence_level: float
    update_input: Any

    def __init__(self, identified_estimand: Any, estimator: EffectEstimator, **options: Any) -> None:
        super().__init__(identified_estimand=identified_estimand, **options)  # type: ignore[call-arg]
        if not isinstance(estimator, EffectEstimator):
            raise TypeError(
                f"estimator must be one of effects, such as DiffPO(), got {estimator!r}: pass it by "
                'method_params={"estimator": DiffPO()}.'
            )
        self.effects_estimator = estimator

    def fit(self, data: pd.DataFrame, effect_modifier_names: list[str] | None = None, **fit_params: Any) -> Any:
        estimand = self._target_estimand
        if len(estimand.treatment_variable) != 1 or len(estimand.outcome_variable) != 1:
            raise ValueError(
                f"DoWhyEstimator takes one treatment and one outcome, got {estimand.treatment_variable} and "
                f"{estimand.outcome_variable}."
            )
        if estimand.identifier_method not in ("backdoor", "general_adjustment"):
            raise ValueError(f"DoWhyEstimator adjusts for covariates, not by {estimand.identifier_method!r}.")
        modifiers = [name for name in effect_modifier_names or [] if name in data.columns]
        self._effect_modifier_names, self._effect_modifiers = modifiers, data[modifiers] if modifiers else None
        self._covariates = [*dict.fromkeys([*estimand.get_adjustment_set(), *modifiers])]
        if not self._covariates:
            raise ValueError("the estimand has no covariates to adjust for: a difference in means is all there is.")
        self.effects_estimator = clone(self.effects_estimator)
        self.effects_estimator.fit(
            data[self._covariates],
            data[estimand.outcome_variable[0]],
            treatment=data[estimand.treatment_variable[0]],
            **fit_params,
        )
        self.symbolic_estimator = self.construct_symbolic_estimator(estimand)
        return self

    def estimate_effect(
        self,
        data: pd.DataFrame,
        treatment_value: Any = 1,
        control_value: Any = 0,
        target_units: Any = "ate",
        **_: Any,
    ) -> Any:
        from dowhy.causal_estimator import CausalEstimate

        estimand, est = self._target_estimand, self.effects_estimator
        self.update_input(treatment_value, control_value, target_units)
        t, c = contrast(est.arms_, treatment_value, control_value)
        units = self._units(data)
        cate = est.predict_effect(units[self._covariates], treated=est.arms_[t], control=est.arms_[c])
        self._average: Estimate | None = None
        if isinstance(target_units, str) and target_units == "ate":
            self._average = estimate_ate(
                est,
                data[self._covariates],
                data[estimand.outcome_variable[0]],
                treatment=data[estimand.treatment_variable[0]],
                treated=est.arms_[t],
                control=est.arms_[c],
                level=self.confidence_level,
            )
        found = CausalEstimate(
            data=data,
            treatment_name=estimand.treatment_variable,
            outcome_name=estimand.outcome_variable,
            estimate=float(cate.mean.mean()) if self._average is None else self._average.value,
            target_estimand=estimand,
            realized_estimand_expr=self.symbolic_estimator,
            control_value=control_value,
            treatment_value=treatment_value,
            cate_estimates=cate.mean,
            effect_intervals=np.stack(cate.interval(self.confidence_level), axis=1),
            _estimator_object=est,
        )
        found.add_estimator(self)
        return found

    def _units(self, data: pd.DataFrame) -> pd.DataFrame:
        """The rows that are averaged over."""
        target, a = self._target_units, data[self._target_estimand.treatment_variable[0]]
        if isinstance(target, pd.DataFrame):
            return target
        if callable(target):
            return data[np.asarray(data.apply(target, axis=1), dtype=bool)]
        if target not in (None, "ate", "att", "atc"):
            raise ValueError(f"target_units must be 'ate', 'att', 'atc', a function or a table, got {target!r}.")
        received = {"att": self._treatment_value, "atc": self._control_value}.get(target)
        return data if received is None else data[a == received]

    def _estimate_confidence_intervals(self, confidence_level: Any = None, method: Any = None, **_: Any) -> Any:
        return self._ate().interval(confidence_level or self.confidence_level)

    def _estimate_std_error(self, method: Any = None, **_: Any) -> float:
        return self._ate().se

    def _test_significance(self, estimate_value: Any, method: Any = None, **_: Any) -> dict[str, float]:
        return {"p_value": self._ate().p_value}

    def _ate(self) -> Estimate:
        if self._average is None:
            raise NotImplementedError("only target_units='ate' has a standard error here.")
        return self._average

    def construct_symbolic_estimator(self, estimand: Any) -> str:
        right = "+".join([*estimand.treatment_variable, *self._covariates])
        return f"b: {','.join(estimand.outcome_variable)}~{right}"
