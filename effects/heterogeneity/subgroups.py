"""Effects in subgroups that were named beforehand: a doubly robust estimate a level, an interaction test a factor."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from effects.effect import Estimate, Estimates, WaldTest, contrast
from effects.inference import check_weights, estimate_ate, estimate_gate
from effects.inference.checks import check_labels
from effects.inference.sample import CrossFitting, HeldOut, fitted_arms
from effects.inference.subgroups import MISSING, MOST_VALUES
from effects.schema import Schema

FloatArray = NDArray[np.float64]
SCALES = ("difference", "ratio")
OVERALL = "Overall"


@dataclass(frozen=True, eq=False)
class Remembered:
    """A fitted estimator that has answered once, so that many questions on the same rows cost one answer."""

    schema_: Schema
    arms_: tuple[Hashable, ...]
    values: HeldOut

    @classmethod
    def ask(
        cls,
        est: CrossFitting,
        X: Any,
        y: Any,
        treatment: Any,
        sample_weight: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> Remembered:
        """Ask the estimator for its held-out predictions of rows."""
        arms = fitted_arms(est)
        n = {"X": len(X), "y": len(y), "treatment": len(treatment)}
        if len(set(n.values())) > 1:
            said = " and ".join(f"{name} has {rows}" for name, rows in n.items())
            raise ValueError(f"{said} rows: give the same rows, in the same order.")
        known: dict[str, Any] = {} if propensity is None else {"propensity": propensity}
        held = est.cross_fitted(X, y, treatment=treatment, sample_weight=sample_weight, **known)
        return cls(est.schema_, arms, held)

    def cross_fitted(self, *_: Any, **__: Any) -> HeldOut:
        return self.values


@dataclass(frozen=True, eq=False)
class Subgroups:
    """Effects in pre-specified subgroups.

    Attributes
    ----------
    factors : dict of str to Estimates
        The levels of each factor that could be estimated, with their joint covariance.
    overall : Estimate
        In everyone.
    counts : DataFrame
        One row a level of each factor, and one for everyone: ``subgroup, level, n`` and, for every arm, ``n [arm]`` and
        (binary outcomes) ``events [arm]``: rows as they are, not weighted.
    tests : DataFrame
        One row a factor: ``chi2, df, p, p_holm``, the Wald test that all its levels have one effect and that p-value
        after Holm's correction for the number of factors; NaN where fewer than two levels could be estimated.
    notes : tuple of str
        What could not be estimated, and why.
    """

    factors: dict[str, Estimates]
    overall: Estimate
    counts: pd.DataFrame = field(repr=False)
    tests: pd.DataFrame = field(repr=False)
    notes: tuple[str, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        """One row a level, everyone last: the counts, ``coef, std err, lower, upper, p, p_holm``.

        ``p`` is the factor's interaction p-value, repeated in each of its rows; the estimates are NaN in levels that
        are too small.
        """
        table = self.counts.copy()
        found = {(name, label): one for name, each in self.factors.items() for label, one in _pairs(each)}
        found[(OVERALL, "")] = self.overall
        keys = list(zip(table["subgroup"], table["level"], strict=True))
        nothing = (np.nan, np.nan, np.nan, np.nan)
        rows = [(e.value, e.se, *e.interval()) if (e := found.get(key)) is not None else nothing for key in keys]
        table[["coef", "std err", "lower", "upper"]] = np.array(rows)
        for name in ("p", "p_holm"):
            table[name] = [float(self.tests[name].get(factor, np.nan)) for factor in table["subgroup"]]
        return table

    @property
    def text(self) -> str:
        """The overall effect, the interaction tests and the notes, in sentences."""
        lines = [f"{self.overall}."]
        for name, row in self.tests.iterrows():
            if np.isfinite(row["p"]):
                lines.append(
                    f"By {name}: interaction chi2({row['df']:.0f}) = {row['chi2']:.2f}, {_p(row['p'])} "
                    f"({_p(row['p_holm'])} after Holm's correction for {int(self.tests['p'].notna().sum())} factors)."
                )
        return " ".join([*lines, *self.notes])

    def __str__(self) -> str:
        return self.text


def subgroup_effects(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    by: Any,
    cuts: Mapping[Hashable, Sequence[Any]] | None = None,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    scale: str = "difference",
    method: str = "aipw",
    min_rows: int = 10,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
) -> Subgroups:
    r"""Effects in subgroups that were named beforehand, with an interaction test for each factor.

    Each level's estimate is the average of its rows' cross-fitted AIPW scores (`effects.inference.estimate_gate`), so
    that it does not rest on the estimator's own effects. The interaction p-value is that of the Wald test that all
    levels of the factor have the same effect: it, not whether single intervals hold zero, tells whether the effect
    differs (Wang et al. 2007). Holm's correction, for as many tests as there are factors, stands beside it.

    Parameters
    ----------
    est, X, y, treatment, treated, control, method, sample_weight, groups, propensity, level
        As in `effects.inference.estimate_ate`; `groups` are clusters, not the subgroups.
    by : str, sequence of columns, or mapping of name to labels
        The factors: columns of X (positions where X is an array), or labels of your own, one for each row. Categories
        as they are; numbers with more than 10 different values are cut at their median. Rows without a value form a
        level "missing".
    cuts : mapping of name to cut points, optional
        Where numbers (or dates) are cut instead: ``{"age": [50, 65]}`` gives "< 50", "50 to < 65" and "≥ 65".
    scale : {"difference", "ratio"}
        Differences of means (risks), or their ratios, whose interaction is tested on the logarithms.
    min_rows : int, default 10
        A level with fewer rows of one of the two arms is counted, but not estimated: too few to judge an error by.

    Returns
    -------
    Subgroups

    Raises
    ------
    ValueError
        As `estimate_ate`; if a factor is no column, cut points are not increasing numbers inside the column's range,
        or a ratio does not exist in some level.
    TypeError
        If cut points are given for a factor that holds no numbers or dates.

    Notes
    -----
    Subgroups that were chosen after looking at the data are not pre-specified, whatever their p-value: see
    `subgroup_tree` for a search that stays honest.

    References
    ----------
    Wang, Lagakos, Ware, Hunter & Drazen (2007), Statistics in medicine: reporting of subgroup analyses in clinical
    trials, New England Journal of Medicine 357. Holm (1979), A simple sequentially rejective multiple test procedure,
    Scandinavian Journal of Statistics 6. Semenova & Chernozhukov (2021), The Econometrics Journal 24.

    Examples
    --------
    >>> found = subgroup_effects(est, X, y, treatment=arm, by=["sex", "age"], cuts={"age": [65]})  # doctest: +SKIP
    >>> found.to_frame()  # doctest: +SKIP
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))}, got {scale!r}.")
    if isinstance(min_rows, bool) or not isinstance(min_rows, int | np.integer) or min_rows < 2:
        raise ValueError(f"min_rows must be an int of 2 or more, got {min_rows!r}.")
    known = Remembered.ask(est, X, y, treatment, sample_weight, propensity)
    rows: dict[str, Any] = {"treatment": treatment, "treated": treated, "control": control, "scale": scale}
    rows |= {"method": method, "groups": groups, "propensity": propensity, "level": level}
    overall = estimate_ate(known, X, y, sample_weight=sample_weight, **rows)
    weight = check_weights(sample_weight, len(X))
    arm, outcome = known.schema_.encode_treatment(treatment), known.schema_.encode_outcome(y)
    codes = contrast(known.arms_, treated, control)
    count = _Counter(arm, outcome if known.schema_.outcome.kind == "binary" else None, known.arms_)
    factors, tests, counts, notes = {}, {}, [], []
    for name, labels in _factors(X, by, cuts or {}, weight > 0).items():
        small = []
        for one in labels.cat.categories:
            here = (labels == one).to_numpy() & (weight > 0)
            counts.append(count(name, one, here))
            if min(np.count_nonzero(here & (arm == k)) for k in codes) < min_rows:
                small.append(one)
        if small:
            listed = ", ".join(map(str, small))
            notes.append(f"{name} {listed}: not estimated, fewer than {min_rows} rows of an arm.")
        tests[name], each = _factor(known, X, y, name, labels, small, weight, rows)
        if each is not None:
            factors[name] = each
            if tests[name] is None and len(each) > 1:
                notes.append(f"{name}: no interaction test, the levels' covariance is singular.")
    counts.append(count(OVERALL, "", weight > 0))
    return Subgroups(factors, overall, pd.DataFrame(counts), _holm(tests), tuple(notes))


def _factor(
    known: Remembered,
    X: Any,
    y: Any,
    name: str,
    labels: pd.Series,
    small: list[Any],
    weight: FloatArray,
    rows: dict[str, Any],
) -> tuple[WaldTest | None, Estimates | None]:
    """The levels of one factor that are large enough, and the test that their effects are equal."""
    if len(small) == len(labels.cat.categories):
        return None, None
    kept = np.where(labels.isin(small).to_numpy(), 0.0, weight)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Weak overlap")  # said once, of everyone
        try:
            each = estimate_gate(known, X, y, by=labels.rename(name), sample_weight=kept, **rows)
        except ValueError as error:
            raise ValueError(f"subgroups by {name}: {error}") from error
    try:
        return (each.heterogeneity() if len(each) > 1 else None), each
    except ValueError:  # as few clusters as levels, or levels without any error
        return None, each


@dataclass(frozen=True, eq=False)
class _Counter:
    """Rows, and events of a binary outcome, by arm."""

    arm: NDArray[np.int64]
    event: FloatArray | None
    arms: tuple[Hashable, ...]

    def __call__(self, name: str, label: Any, here: NDArray[np.bool_]) -> dict[str, Any]:
        row: dict[str, Any] = {"subgroup": name, "level": label, "n": int(here.sum())}
        for k, one in enumerate(self.arms):
            own = here & (self.arm == k)
            row[f"n [{one}]"] = int(own.sum())
            if self.event is not None:
                row[f"events [{one}]"] = int(self.event[own].sum())
        return row


def _holm(tests: dict[str, WaldTest | None]) -> pd.DataFrame:
    from statsmodels.stats.multitest import multipletests

    missing = (np.nan, np.nan, np.nan)
    rows = [missing if t is None else (t.statistic, float(t.df), t.p_value) for t in tests.values()]
    index = pd.Index(list(tests), name="subgroup")
    table = pd.DataFrame(np.array(rows).reshape(-1, 3), columns=["chi2", "df", "p"], index=index)
    table["p_holm"] = np.nan
    known = table["p"].notna()
    if known.any():
        table.loc[known, "p_holm"] = multipletests(table.loc[known, "p"], method="holm")[1]
    return table


# ------------------------------------------------------------------------------------------------------------- factors


def _factors(X: Any, by: Any, cuts: Mapping[Hashable, Sequence[Any]], used: NDArray[np.bool_]) -> dict[str, pd.Series]:
    """Each factor's levels as an ordered categorical, "missing" last."""
    if isinstance(by, Mapping):
        given = {str(name): check_labels(f"by[{name!r}]", labels, len(X)) for name, labels in by.items()}
        keys = {str(name): name for name in by}
    else:
        alone = isinstance(by, str | tuple) or np.ndim(by) == 0
        names = [by] if alone else list(by)
        given = {_name(X, name): pd.Series(column_of(X, name)).reset_index(drop=True) for name in names}
        keys = {_name(X, name): name for name in names}
    if not given:
        raise ValueError("by names no subgroups: give columns of X, or a mapping of names to labels.")
    unknown = [name for name in cuts if name not in keys.values()]
    if unknown:
        listed = ", ".join(map(repr, keys.values()))
        raise ValueError(f"cuts names {unknown[0]!r}, which is not among the subgroups {listed}.")
    return {name: _levels(column, name, cuts.get(keys[name]), used) for name, column in given.items()}


def _name(X: Any, by: Any) -> str:
    return str(by) if isinstance(X, pd.DataFrame) else f"column {by}"


def column_of(X: Any, by: Any) -> Any:
    """The column of X that is named, by its position where X is an array."""
    if isinstance(X, pd.DataFrame):
        if isinstance(by, Hashable) and by in X.columns:
            return X[by].array
        raise ValueError(f"{by!r} is no column of X: name one of {', '.join(map(repr, X.columns))}.")
    table = np.asarray(X)
    if isinstance(by, int | np.integer) and not isinstance(by, bool) and 0 <= by < table.shape[1]:
        return table[:, by]
    raise ValueError(f"{by!r} is no column of X, an array: give a position 0 to {table.shape[1] - 1}.")


def _levels(column: pd.Series, name: str, cuts: Sequence[Any] | None, used: NDArray[np.bool_]) -> pd.Series:
    """The levels of a factor in their order, as an ordered categorical without missing values."""
    dates = pd.api.types.is_datetime64_any_dtype(column)
    ordered = (pd.api.types.is_numeric_dtype(column) or dates) and not pd.api.types.is_bool_dtype(column)
    missing = column.isna()
    if cuts is not None:
        if not ordered:
            raise TypeError(f"cuts cut numbers or dates, {name} holds {column.dtype}: leave its cut points out.")
        labels, order = _cut(column, name, list(cuts), used)
    elif ordered and column[used].nunique() > MOST_VALUES:
        middle = column[used].median()
        if not (column[used] > middle).any():  # more than half of all rows hold the largest value
            middle = column[used & (column < middle).to_numpy(dtype=bool, na_value=False)].max()
        if not dates:
            above = column[used & (column > middle).to_numpy(dtype=bool, na_value=False)].min()
            below = column[used & (column <= middle).to_numpy(dtype=bool, na_value=False)].max()
            middle = float(short_between(float(below), float(above)))  # the same groups, in fewer digits
        order = [f"≤ {_value(middle)}", f"> {_value(middle)}"]
        above = (column > middle).to_numpy(dtype=bool, na_value=False)
        labels = pd.Series(np.where(above, order[1], order[0]), dtype=object)
    else:
        values = column[~missing]
        kinds = values.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else sorted(values.unique())
        present = set(column[used].dropna())
        order = [str(one) for one in kinds if one in present]
        labels = column.astype(object).map(lambda one: one if pd.isna(one) else str(one))
    word = MISSING if MISSING not in order else f"({MISSING})"
    labels = labels.astype(object).where(~missing.to_numpy(dtype=bool), word)
    order = [*order, word] if (missing.to_numpy(dtype=bool) & used).any() else order
    return pd.Series(pd.Categorical(labels, categories=order, ordered=True))


def _cut(column: pd.Series, name: str, cuts: list[Any], used: NDArray[np.bool_]) -> tuple[pd.Series, list[str]]:
    """Levels between cut points; each point belongs to the level above it, as in "≥ 65"."""
    dates = pd.api.types.is_datetime64_any_dtype(column)
    cuts = [pd.Timestamp(cut) for cut in cuts] if dates else cuts
    points = pd.Series(cuts, dtype=None if dates else np.float64)
    if not len(points) or points.isna().any() or not points.is_monotonic_increasing or not points.is_unique:
        raise ValueError(f"the cut points of {name} must be increasing numbers, at least one, got {cuts!r}.")
    names = [_value(point) for point in cuts]
    order = [f"< {names[0]}", *(f"{a} to < {b}" for a, b in pairwise(names)), f"≥ {names[-1]}"]
    code = np.zeros(len(column), dtype=np.int64)
    for point in cuts:
        code += (column >= point).to_numpy(dtype=bool, na_value=False)
    empty = [order[k] for k in range(len(order)) if not (used & (code == k) & column.notna().to_numpy()).any()]
    if empty:
        raise ValueError(f"no row of {name} is {empty[0]}: choose cut points inside the column's range.")
    return pd.Series(np.array(order, dtype=object)[code]), order


def _value(value: Any) -> str:
    return f"{pd.Timestamp(value):%Y-%m-%d}" if isinstance(value, pd.Timestamp | np.datetime64) else f"{value:.15g}"


def _pairs(each: Estimates) -> list[tuple[Hashable, Estimate]]:
    return list(zip(each.labels, each.estimates, strict=True))


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def short_between(low: float, high: float) -> str:
    """The shortest number between two, well away from both: what is read in single precision has fuzzy ends.

    >>> short_between(54.0, 55.0), short_between(0.1234, 0.1235), short_between(-3.0, 8.0)
    ('54.5', '0.12345', '2')
    """
    middle, width = (low + high) / 2, high - low
    for digits in range(1, 17):
        text = f"{middle:.{digits}g}"
        if low + 0.2 * width <= float(text) <= high - 0.2 * width:
            return f"{float(text):.15g}"
    return repr(middle)
