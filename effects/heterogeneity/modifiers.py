"""What modifies the effect: the best linear projection, columns by importance, and the effect along one column."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from effects.effect import Effect, contrast
from effects.heterogeneity.subgroups import Remembered, column_of
from effects.individual import check_level
from effects.inference import aipw_scores, check_array, check_weights
from effects.inference.sample import CrossFitting, Sample, fitted_arms
from effects.schema import Schema

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BANDS = (0.1, 0.5, 0.9)  # quantiles over units of their own curves
_ONE_ROW = 1e-8  # of leverage below 1: such a row's own value fixes a coefficient


class Predicting(Protocol):
    """What is asked of a fitted estimator where the surface of its effects is the subject."""

    @property
    def schema_(self) -> Schema: ...

    @property
    def arms_(self) -> tuple[Hashable, ...]: ...

    def predict(self, X: Any) -> Any: ...

    def predict_effect(self, X: Any, *, treated: Hashable = None, control: Hashable = None) -> Effect: ...


# ---------------------------------------------------------------------------------------------- best linear projection


def best_linear_projection(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    on: Any = None,
    standardise: bool = False,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
) -> Any:
    r"""The linear function of chosen covariates that is closest to the CATE.

    Ordinary least squares of the doubly robust scores :math:`\Gamma_i = \phi_t(i) - \phi_c(i)` (`aipw_scores`) on
    covariates z: consistent for :math:`\arg\min_\beta E[(\tau(x) - \beta^\top z)^2]`, linear or not as the CATE may be.
    A coefficient tells by how much the effect differs between units that differ in this covariate, the others in the
    projection held fixed; it does not tell what changing the covariate would do.

    Parameters
    ----------
    est, X, y, treatment, treated, control, sample_weight, propensity
        As in `effects.inference.estimate_ate`.
    on : column, sequence of columns, or DataFrame, optional
        Columns of X (positions where X is an array), all by default; or a table of your own with the same rows. Numbers
        as they are, missing ones as the median with an indicator; of every category all levels but its first.
    standardise : bool
        Numbers in standard deviations from their mean, so that coefficients compare and the constant is the effect in a
        unit with average numbers and first levels.
    groups : array_like, shape (n_samples,), optional
        Clusters: the errors are then cluster-robust, else HC3.

    Returns
    -------
    statsmodels.regression.linear_model.RegressionResultsWrapper
        ``.summary()``, ``.params``, ``.conf_int()``, ``.wald_test_terms()``; in the outcome's unit per unit of the
        covariate.

    Raises
    ------
    ValueError
        As `estimate_ate`; if `on` names no column, there are as many coefficients as rows, or a single row alone has a
        level (its value would fix a coefficient without error).

    Warns
    -----
    UserWarning
        If encoded columns that are linear combinations of earlier ones are left out (say, two columns that are missing
        together), and where overlap is weak.

    References
    ----------
    Semenova & Chernozhukov (2021), Debiased machine learning of conditional average treatment effects and other causal
    functions, The Econometrics Journal 24, section 2. MacKinnon & White (1985), Journal of Econometrics 29 (HC3).

    Examples
    --------
    >>> found = best_linear_projection(est, X, y, treatment=arm, on=["age", "sex"])  # doctest: +SKIP
    >>> found.summary()  # doctest: +SKIP
    """
    from statsmodels.regression.linear_model import WLS

    known = Remembered.ask(est, X, y, treatment, sample_weight, propensity)
    sample = Sample.read(known, X, y, treatment=treatment, sample_weight=sample_weight, groups=groups)
    t, c = contrast(sample.arms, treated, control)
    sample.warn_overlap((t, c))
    scores = aipw_scores(sample.y, sample.arm, sample.mu, sample.propensity)
    used = sample.used
    design = _independent(_design(known.schema_, X, y, treatment, on, standardise)[used])
    if len(design) <= design.shape[1]:
        raise ValueError(
            f"{design.shape[1]} coefficients cannot be told from {len(design)} rows: name fewer columns by on=."
        )
    gap = pd.Series((scores[:, t] - scores[:, c])[used], index=design.index, name="effect score")
    model = WLS(gap, design, weights=sample.weight[used] / sample.weight[used].mean())
    if sample.cluster is not None:
        cluster = {"groups": sample.cluster[used], "use_correction": True}
        return model.fit(cov_type="cluster", cov_kwds=cluster, use_t=True)
    _check_leverage(model.wexog, design)
    return model.fit(cov_type="HC3", use_t=True)


def _design(schema: Schema, X: Any, y: Any, treatment: Any, on: Any, standardise: bool) -> pd.DataFrame:
    """Constant and covariates, each in its own unit or in standard deviations."""
    chosen: list[str] | None
    if isinstance(on, pd.DataFrame):
        if len(on) != len(X):
            raise ValueError(f"on has {len(on)} rows and X {len(X)}: give the same rows, in the same order.")
        schema, X, chosen = Schema.learn(on.reset_index(drop=True), np.asarray(y), np.asarray(treatment)), on, None
    elif on is None:
        chosen = None
    else:
        names = [on] if isinstance(on, str | int | np.integer) else list(on)
        chosen = [str(name) if isinstance(X, pd.DataFrame) else f"x{name}" for name in names]
        for name in names:
            column_of(X, name)  # an error that lists the columns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # levels never seen were said when the rows were predicted
        E = schema.encode(X).astype(np.float64)
    columns: dict[str, FloatArray] = {"const": np.ones(len(E))}
    start = 0
    for spec in schema.columns:
        for k, name in enumerate(spec.feature_names):
            number = name == spec.name and spec.kind != "category"
            reference = spec.kind == "category" and k == 0 and len(spec.feature_names) > 1
            if (chosen is None or spec.name in chosen) and not reference:
                value = E[:, start + k]
                if number and spec.kind != "bool" and not standardise:
                    value = value * float(spec.sd or 1) + float(spec.mean or 0)
                columns[name] = value
        start += len(spec.feature_names)
    if len(columns) == 1:
        raise ValueError("none of the columns in on= carries information: they were constant in the fit.")
    return pd.DataFrame(columns)


def _independent(design: pd.DataFrame) -> pd.DataFrame:
    """The columns that are no linear combination of those before them; what is left out is said."""
    values = design.to_numpy()
    size = np.sqrt((values**2).sum(axis=0))
    scaled = values / np.where(size > 0, size, 1.0)
    # without pivoting the diagonal is what each column adds to those before it
    added = np.abs(np.diag(np.linalg.qr(scaled, mode="r"))) if len(values) >= values.shape[1] else size
    keep = (added > 1e-6) & (size > 0)
    if not keep.all():
        left = ", ".join(repr(name) for name in design.columns[~keep])
        warnings.warn(
            f"Left out of the projection, because earlier columns say the same in these rows: {left}.", stacklevel=3
        )
    return design.loc[:, keep]


def _check_leverage(weighted: FloatArray, design: pd.DataFrame) -> None:
    q = np.linalg.qr(weighted)[0]
    leverage = (q**2).sum(axis=1)
    alone = np.flatnonzero(leverage > 1 - _ONE_ROW)
    if len(alone):
        row = design.iloc[alone[0]]
        rare = (design.to_numpy() != 0).sum(axis=0) == 1
        names = [name for name, one in zip(design.columns, rare, strict=True) if one and row[name] != 0]
        which = f"{', '.join(map(repr, names))} holds in it alone" if names else "nothing else is like it"
        raise ValueError(
            f"row {design.index[alone[0]]} fixes a coefficient by itself ({which}), so that its error cannot be known: "
            "leave that column out by on=, or that row out of all."
        )


# ----------------------------------------------------------------------------------------------------------- importance


@dataclass(frozen=True, eq=False)
class Importance:
    """Which columns the predicted effects depend on.

    Attributes
    ----------
    table : DataFrame
        One row a column, most important first: ``column, importance, lower, upper, shift``. `importance` is the share
        of the variance of the predicted CATE in which the column has a part (the shares of columns that interact add up
        to more than 1); `shift` the root mean squared change of a unit's CATE when it gets another unit's value, in the
        outcome's unit.
    std : float
        Standard deviation of the predicted CATE over the rows asked, in the outcome's unit.
    n : int
        Rows that were asked.
    level : float
    treated, control : label
    """

    table: pd.DataFrame = field(repr=False)
    std: float
    n: int
    level: float
    treated: Hashable
    control: Hashable

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    @property
    def text(self) -> str:
        """The first few columns, in a sentence."""
        if self.std == 0:
            return "The predicted effect is the same for everyone: no column modifies it."
        first = self.table.head(3)
        parts = zip(first["column"], 100 * first["importance"], strict=True)
        said = ", ".join(f"{column} ({part:.0f}%)" for column, part in parts)
        return (
            f"The predicted effect of {self.treated} against {self.control} varies with a standard deviation of "
            f"{self.std:.3g} over {self.n} rows; columns with the largest part in that variance: {said}. This "
            "describes the model, not the size or the certainty of any difference."
        )

    def __str__(self) -> str:
        return self.text


def modifier_importance(
    est: Predicting,
    X: Any,
    *,
    columns: Sequence[Hashable] | Mapping[str, Sequence[Hashable]] | None = None,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    sample_weight: ArrayLike | None = None,
    n_rows: int = 200,
    n_repeats: int = 1,
    level: float = 0.95,
    random_state: int = 0,
) -> Importance:
    r"""Which columns the predicted CATE depends on: total sensitivity indices by permutation.

    Of a column j, with :math:`x^{(j)}` a unit whose value in that column is another unit's,

    .. math:: S_j = \frac{\tfrac12 E[(\hat\tau(x) - \hat\tau(x^{(j)}))^2]}{\operatorname{Var} \hat\tau(x)}

    (Jansen 1999, eq. 13): where columns are independent, the share of the variance of :math:`\hat\tau` that would be
    left if all other columns were known. Categories and missing values are moved as they stand in the user's table,
    so that a column counts as a whole.

    Parameters
    ----------
    est : fitted estimator
        Its ``predict`` is asked once, for ``n_rows * (1 + n_repeats * n_columns)`` rows.
    X : DataFrame or ndarray, shape (n_samples, n_features)
    columns : sequence of columns, or mapping of name to columns, optional
        By default every column that the fit used. Columns of one name in a mapping move together, which is right for
        those that say the same: alone, each would look unimportant.
    treated, control : arm labels, optional
    sample_weight : array_like, shape (n_samples,), optional
        The rows asked are drawn with these probabilities.
    n_rows : int, default 200
        Rows asked, drawn without replacement (all if there are fewer).
    n_repeats : int, default 1
        Permutations of each column.
    level : float, default 0.95
        Of the interval for the chance in which rows and permutations were drawn. It says nothing of how well the CATE
        itself is known.
    random_state : int, default 0

    Returns
    -------
    Importance

    Raises
    ------
    ValueError
        If a column is unknown, the arms are ambiguous, or a count is not positive.

    Notes
    -----
    Not Shapley values, which take some hundred predictions a row, against one for each column and permutation; both
    count main effect and interaction together, and ask about units that may not exist where columns go together.

    References
    ----------
    Jansen (1999), Analysis of variance designs for model output, Computer Physics Communications 117. Saltelli et al.
    (2010), Variance based sensitivity analysis of model output, Computer Physics Communications 181.

    Examples
    --------
    >>> modifier_importance(est, X).table.head()  # doctest: +SKIP
    """
    check_level(level)
    for name, value, least in (("n_rows", n_rows, 2), ("n_repeats", n_repeats, 1)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} must be an int of {least} or more, got {value!r}.")
    t, c = contrast(fitted_arms(est), treated, control)  # type: ignore[arg-type]
    sets = _column_sets(est.schema_, X, columns)
    rng = np.random.default_rng(random_state)
    rows = _drawn(len(X), n_rows, sample_weight, rng)
    base = _rows_of(X, rows)
    n = len(rows)
    moved = [base]
    for group in sets.values():
        for _ in range(n_repeats):
            # a cyclic shift of a random order: nobody keeps the own value
            order = rng.permutation(n)
            source = np.empty(n, dtype=np.int64)
            source[order] = np.roll(order, 1)
            moved.append(_replaced(base, group, source))
    cate = _surface(est, moved, t, c).reshape(len(moved), n)
    gap = (cate[1:] - cate[0]).reshape(len(sets), n_repeats, n)
    square = (gap**2).mean(axis=1)  # of each unit, (n_sets, n)
    variance = float(cate[0].var(ddof=1))
    if variance <= (1e-6 * float(np.abs(cate).max())) ** 2:
        variance = 0.0  # predictions of single precision
    index, se = _ratio(square / 2, cate[0], variance)
    z = float(stats.norm.ppf(0.5 + level / 2))
    table = pd.DataFrame({"column": list(sets), "importance": index})
    table["lower"], table["upper"] = np.maximum(index - z * se, 0.0), index + z * se
    table["shift"] = np.sqrt(square.mean(axis=1))
    table = table.sort_values("importance", ascending=False, kind="stable").reset_index(drop=True)
    return Importance(table, float(np.sqrt(variance)), n, level, est.arms_[t], est.arms_[c])


def _ratio(half: FloatArray, cate: FloatArray, variance: float) -> tuple[FloatArray, FloatArray]:
    """Means of `half` over the variance of the CATE, and their standard errors (delta method)."""
    if variance == 0:
        return np.zeros(len(half)), np.zeros(len(half))
    index = half.mean(axis=1) / variance
    spread = (cate - cate.mean()) ** 2
    influence = (half - index[:, None] * spread) / variance
    return index, influence.std(axis=1, ddof=1) / np.sqrt(len(cate))


def _column_sets(schema: Schema, X: Any, columns: Any) -> dict[str, list[Any]]:
    if columns is None:
        used = [(k, spec) for k, spec in enumerate(schema.columns) if spec.feature_names]
        if isinstance(X, pd.DataFrame):
            return {spec.name: [spec.name if schema.named else X.columns[k]] for k, spec in used}
        return {spec.name: [k] for k, spec in used}
    if isinstance(columns, Mapping):
        sets = {str(name): list(group) for name, group in columns.items()}
    else:
        sets = {str(one): [one] for one in ([columns] if isinstance(columns, str | int) else columns)}
    if not sets or not all(sets.values()):
        raise ValueError("columns names nothing: give columns of X, or leave it out for all.")
    for one in (one for group in sets.values() for one in group):
        column_of(X, one)
    return sets


def _drawn(n: int, n_rows: int, sample_weight: ArrayLike | None, rng: np.random.Generator) -> IntArray:
    """Rows to ask, without replacement, in their order."""
    weight = check_weights(sample_weight, n)
    size = min(n_rows, int(np.count_nonzero(weight)))
    if size < 2:
        raise ValueError(f"{size} row(s) of positive weight cannot show what varies: give at least two.")
    chance = None if sample_weight is None else weight / weight.sum()
    return np.sort(rng.choice(n, size, replace=False, p=chance)).astype(np.int64)


def _rows_of(X: Any, rows: IntArray) -> Any:
    return X.iloc[rows].reset_index(drop=True) if isinstance(X, pd.DataFrame) else np.asarray(X)[rows]


def _replaced(base: Any, group: list[Any], source: IntArray) -> Any:
    """The rows with some columns taken from other rows."""
    if isinstance(base, pd.DataFrame):
        return _assign(base, {one: base[one].array.take(source) for one in group})
    moved = base.copy()
    moved[:, group] = base[np.ix_(source, group)]
    return moved


def _assign(frame: pd.DataFrame, values: dict[Any, Any]) -> pd.DataFrame:
    out = frame.copy()
    for name, column in values.items():
        out[name] = column
    return out


def _together(tables: list[Any]) -> Any:
    if isinstance(tables[0], pd.DataFrame):
        return pd.concat(tables, ignore_index=True)
    return np.concatenate(tables)


def _surface(est: Predicting, tables: list[Any], t: int, c: int) -> FloatArray:
    """Predicted CATE of all rows of the tables."""
    cate = np.asarray(est.predict(_together(tables)), dtype=np.float64)
    against = np.column_stack([np.zeros(len(cate)), cate])  # of each arm against the first
    return check_array("the predicted effect", against[:, t] - against[:, c], ndim=1)


# --------------------------------------------------------------------------------------------------- partial dependence


@dataclass(frozen=True, eq=False)
class PartialDependence:
    """The average predicted effect, were everyone's value in one column the same.

    Attributes
    ----------
    column : label
    kind : {"number", "category"}
        Whether the values have an order and distances.
    table : DataFrame
        One row a value: ``value, mean, lower, upper`` (the average CATE with its posterior interval) and ``q10, q50,
        q90`` (quantiles over units of their own CATE), in the outcome's unit.
    observed : ndarray
        Deciles of the column where it holds numbers (shares of each value otherwise): where the data are.
    n : int
        Units that were averaged over.
    level : float
    treated, control : label
    """

    column: Hashable
    kind: str
    table: pd.DataFrame = field(repr=False)
    observed: NDArray[Any] = field(repr=False)
    n: int
    level: float
    treated: Hashable
    control: Hashable

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    @property
    def text(self) -> str:
        """Where the average effect is smallest and largest, in a sentence."""
        low, high = (self.table.loc[getattr(self.table["mean"], f"idx{end}")()] for end in ("min", "max"))
        name = {"low": value_name(low["value"]), "high": value_name(high["value"])}
        return (
            f"Predicted effect by {self.column}: from {low['mean']:.3g} ({self.level:.0%} interval {low['lower']:.3g} "
            f"to {low['upper']:.3g}) at {name['low']} to {high['mean']:.3g} ({high['lower']:.3g} to "
            f"{high['upper']:.3g}) at {name['high']}."
        )

    def __str__(self) -> str:
        return self.text


def partial_dependence(
    est: Predicting,
    X: Any,
    column: Hashable,
    *,
    grid: Sequence[Any] | None = None,
    n_grid: int = 15,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    sample_weight: ArrayLike | None = None,
    n_rows: int = 200,
    level: float = 0.95,
    random_state: int = 0,
) -> PartialDependence:
    r"""The effect along one column: average CATE over units that all get the same value there.

    :math:`\bar\tau(v) = \frac1n \sum_i \hat\tau(x_i \text{ with } x_{ij} = v)` (Friedman 2001, eq. 53), member by
    member of the effect's posterior, so that its interval carries how sure the model is of the whole curve; and the
    quantiles over units of their own curves (ICE, Goldstein et al. 2015), which lie apart where columns interact.

    Parameters
    ----------
    est : fitted estimator
        Its ``predict_effect`` is asked once, for `n_rows` rows at each value.
    X : DataFrame or ndarray, shape (n_samples, n_features)
    column : label
        Of X; its position where X is an array.
    grid : sequence, optional
        Values; by default, of numbers and dates, `n_grid` quantiles from the 2nd to the 98th per cent (all values if
        there are fewer), and all levels of a category, missing included.
    treated, control : arm labels, optional
    sample_weight : array_like, shape (n_samples,), optional
        The rows asked are drawn with these probabilities.
    n_rows : int, default 200
    level : float, default 0.95
        Of the posterior interval of the average.
    random_state : int, default 0

    Returns
    -------
    PartialDependence

    Raises
    ------
    ValueError
        If the column or an arm is unknown, or the grid is empty.

    Notes
    -----
    It is a description of the model: units are moved to values that they may never have, and a column that moves the
    effect need not cause it to move. For an estimate that does not rest on the model, see `subgroup_effects`.

    References
    ----------
    Friedman (2001), Greedy function approximation, Annals of Statistics 29. Goldstein, Kapelner, Bleich & Pitkin
    (2015), Peeking inside the black box, JCGS 24.

    Examples
    --------
    >>> partial_dependence(est, X, "age", grid=[40, 50, 60, 70]).table  # doctest: +SKIP
    """
    check_level(level)
    t, c = contrast(fitted_arms(est), treated, control)  # type: ignore[arg-type]
    values = pd.Series(column_of(X, column)).reset_index(drop=True)
    kind, chosen, observed = _grid(values, grid, n_grid, column)
    rows = _drawn(len(X), n_rows, sample_weight, np.random.default_rng(random_state))
    base = _rows_of(X, rows)
    tables = [_with_value(base, column, value, values) for value in chosen]
    effect = est.predict_effect(_together(tables), treated=est.arms_[t], control=est.arms_[c])
    at = np.repeat(np.arange(len(chosen)), len(rows))
    average = effect.by(at, level)
    curves = np.quantile(effect.mean.reshape(len(chosen), len(rows)), BANDS, axis=1)
    table = pd.DataFrame({"value": pd.Series(chosen, dtype=None if kind == "number" else object)})
    for name in ("mean", "lower", "upper"):
        table[name] = average[name].to_numpy()
    for q, curve in zip(BANDS, curves, strict=True):
        table[f"q{100 * q:.0f}"] = curve
    return PartialDependence(column, kind, table, observed, len(rows), level, est.arms_[t], est.arms_[c])


def _grid(values: pd.Series, grid: Sequence[Any] | None, n_grid: int, column: Any) -> tuple[str, list[Any], Any]:
    """Kind of the column, the values to ask at, and where the data are."""
    seen = values.dropna()
    dates = pd.api.types.is_datetime64_any_dtype(values)
    ordered = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if not len(seen):
        raise ValueError(f"column {column!r} holds no values.")
    if ordered or dates:
        observed = seen.quantile(np.linspace(0.1, 0.9, 9)).to_numpy()
        if grid is None:
            found = sorted(seen.unique())
            ends = np.linspace(0.02, 0.98, max(int(n_grid), 2))
            grid = found if len(found) <= n_grid else sorted(seen.quantile(ends, interpolation="nearest").unique())
        kind = "number" if ordered else "category"
    else:
        share = values.value_counts(normalize=True, dropna=False, sort=False)
        order = seen.cat.categories if isinstance(values.dtype, pd.CategoricalDtype) else sorted(seen.unique())
        present = set(seen)
        levels = [one for one in order if one in present]
        levels += [None] if values.isna().any() else []
        if grid is None:
            grid = levels
        observed = np.array([_share(share, values, one) for one in grid])
        kind = "category"
    if not len(grid):
        raise ValueError("grid is empty: give at least one value.")
    return kind, list(grid), observed


def _share(share: pd.Series, values: pd.Series, one: Any) -> float:
    return float(values.isna().mean()) if pd.isna(one) else float(share.get(one, 0.0))


def _with_value(base: Any, column: Hashable, value: Any, values: pd.Series) -> Any:
    """The rows with one value in one column, of the column's own type where it can hold it."""
    if not isinstance(base, pd.DataFrame):
        moved = base.copy() if base.dtype.kind in "fO" else base.astype(np.float64)
        moved[:, column] = np.nan if value is None else value
        return moved
    one = pd.Series([value] * len(base))
    if pd.isna(value) or not pd.api.types.is_integer_dtype(values) or float(value).is_integer():
        one = pd.Series([value] * len(base), dtype=values.dtype)
    return _assign(base, {column: one.array})


def value_name(value: Any) -> str:
    """A value of a column as it is written in sentences.

    >>> value_name(61.23456), value_name(None), value_name("f")
    ('61.23', 'missing', 'f')
    """
    if pd.isna(value):
        return "missing"
    if isinstance(value, pd.Timestamp | np.datetime64):
        return f"{pd.Timestamp(value):%Y-%m-%d}"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
