"""Columns that may have been known only after the treatment: adjusting for them hides or invents effects."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: What such columns tend to be called. A name proves nothing: the author decides.
_DEAD: Final = re.compile(r"death|dead|died|dth", re.IGNORECASE)
_AFTER: Final = re.compile(
    r"(^|[_.\s])(surv|follow|fu\d*($|_)|discharge|dsch|last|lst|post|outcome|censor|event|readmi|los($|_))",
    re.IGNORECASE,
)
_DATE: Final = re.compile(r"(date|dte|_dt|datum)$", re.IGNORECASE)
#: How well a single column may foretell an outcome before it looks like the outcome itself.
STRONG_AUC: Final = 0.9
STRONG_R2: Final = 0.8
_MOST_ROWS: Final = 20_000


def suspects(X: pd.DataFrame, y: pd.Series, treatment: pd.Series | None = None) -> pd.DataFrame:
    """Covariates that look as if they came after the treatment.

    Four signs are looked for: a column (or the pattern of its missing values) that alone foretells the outcome, or the
    treatment, almost perfectly (cross-validated AUC above 0.9, or R squared above 0.8, of a tree of depth 3); values of
    a column that settle the outcome in a twentieth of the rows or more, as a survival time below 30 days settles death;
    a date that always follows another date of the table; a name such as ``death_date`` or ``follow_up``.

    Parameters
    ----------
    X : DataFrame
    y, treatment : Series
        Without missing values. Without a treatment only the outcome is asked about.

    Returns
    -------
    DataFrame
        Index the column; ``strength`` (AUC or R squared for the outcome), ``sure`` (False where only a vague name
        speaks against it), ``reason``. Only columns with a reason.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> y = pd.Series(rng.integers(0, 2, 200), name="died")
    >>> X = pd.DataFrame({"age": rng.normal(60, 9, 200), "days_alive": np.where(y == 1, rng.uniform(0, 30, 200), 30.0)})
    >>> suspects(X, y, pd.Series(rng.integers(0, 2, 200)))["reason"].tolist()
    ['it alone foretells the outcome (AUC 1.00)']
    """
    if len(X) > _MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).permutation(len(X))[:_MOST_ROWS])
        X, y, treatment = X.iloc[rows], y.iloc[rows], None if treatment is None else treatment.iloc[rows]
    late = _later_dates(X)
    records: dict[str, dict[str, object]] = {}
    goals = {"outcome": _codes(y)} | ({} if treatment is None else {"treatment": _codes(treatment)})
    for name in X.columns:
        design = _design(X[name])
        found = {goal: _strength(design, values) for goal, values in goals.items()}
        reasons = [
            f"it alone foretells the {goal} ({word} {value:.2f})"
            for goal, (word, value) in found.items()
            if value > (STRONG_AUC if word == "AUC" else STRONG_R2)
        ]
        share = _settled(design, goals["outcome"])
        if share and not reasons:
            reasons.append(f"in {share:.0%} of the rows it settles the outcome")
        if name in late:
            reasons.append(f"it is a date that never precedes {late[name]}")
        sure = bool(reasons) or _DEAD.search(str(name)) is not None
        if _AFTER.search(str(name)) or _DEAD.search(str(name)):
            reasons.append("its name suggests that it was known only afterwards")
        if reasons:
            records[str(name)] = {"strength": found["outcome"][1], "sure": sure, "reason": "; ".join(reasons)}
    return pd.DataFrame.from_dict(records, orient="index", columns=["strength", "sure", "reason"]).rename_axis("column")


def _codes(values: pd.Series) -> tuple[bool, NDArray[np.float64]]:
    """Whether the values are classes, and as numbers."""
    numeric = pd.api.types.is_numeric_dtype(values) and values.nunique() > 10
    if numeric:
        return False, values.to_numpy(dtype=np.float64)
    return True, pd.factorize(values, sort=False)[0].astype(np.float64)


def _design(column: pd.Series) -> NDArray[np.float64]:
    """A column as a tree can use it: its values (categories by code) and whether it is missing."""
    missing = column.isna().to_numpy()
    if pd.api.types.is_datetime64_any_dtype(column):
        values = column.dt.tz_localize(None).astype("datetime64[s]").astype("int64").to_numpy(dtype=np.float64)
    elif pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        values = column.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        values = pd.factorize(column)[0].astype(np.float64)
    seen = values[~missing & np.isfinite(values)]
    fill = float(np.median(seen)) if len(seen) else 0.0
    return np.column_stack([np.where(missing | ~np.isfinite(values), fill, values), missing])


def _strength(design: NDArray[np.float64], goal: tuple[bool, NDArray[np.float64]]) -> tuple[str, float]:
    """How well a column alone foretells something, on rows that were held out."""
    from sklearn.metrics import roc_auc_score
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    classes, target = goal
    half = np.random.default_rng(1).permutation(len(target)) % 2 == 0
    values = []
    for train, test in ((half, ~half), (~half, half)):
        if classes:
            levels = np.unique(target[train])
            if len(levels) < 2 or len(np.unique(target[test])) < 2:
                return "AUC", 0.5
            tree = DecisionTreeClassifier(max_depth=3, min_samples_leaf=5).fit(design[train], target[train])
            p = tree.predict_proba(design[test])
            each = [
                roc_auc_score(target[test] == level, p[:, k])
                for k, level in enumerate(tree.classes_)
                if 0 < (target[test] == level).mean() < 1
            ]
            values.append(float(np.mean(each)) if each else 0.5)
        else:
            tree = DecisionTreeRegressor(max_depth=3, min_samples_leaf=5).fit(design[train], target[train])
            spread = float(np.var(target[test]))
            lost = float(np.mean((tree.predict(design[test]) - target[test]) ** 2))
            values.append(1 - lost / spread if spread > 0 else 0.0)
    return ("AUC" if classes else "R squared"), float(np.mean(values))


def _settled(design: NDArray[np.float64], goal: tuple[bool, NDArray[np.float64]]) -> float:
    """Share of held-out rows in leaves of a tree where all have one class, though no more than 80% of everyone have."""
    from sklearn.tree import DecisionTreeClassifier

    classes, target = goal
    if not classes:
        return 0.0
    least = max(30, len(target) // 20)
    half = np.random.default_rng(2).permutation(len(target)) % 2 == 0
    found = DecisionTreeClassifier(max_depth=3, min_samples_leaf=max(15, least // 2)).fit(design[half], target[half])
    leaf, share = found.apply(design[~half]), 0.0
    for one in np.unique(leaf):
        inside = target[~half][leaf == one]
        level, count = max(zip(*np.unique(inside, return_counts=True), strict=True), key=lambda pair: pair[1])
        if count >= 0.995 * len(inside) and len(inside) >= least // 2 and np.mean(target == level) <= 0.8:
            share += len(inside) / len(leaf)
    return share


def _later_dates(X: pd.DataFrame) -> dict[str, str]:
    """Date columns (by kind, or whole numbers by name) that never precede the earliest of them."""
    dates = {}
    for name in X.columns:
        column = X[name]
        if pd.api.types.is_datetime64_any_dtype(column):
            dates[str(name)] = column.dt.tz_localize(None).astype("datetime64[s]").astype("int64").where(column.notna())
        elif pd.api.types.is_numeric_dtype(column) and _DATE.search(str(name)) and column.nunique() > 30:
            dates[str(name)] = column.astype("Float64").astype("float64")
    if len(dates) < 2:
        return {}
    first = min(dates, key=lambda name: float(np.nanmedian(dates[name].to_numpy(dtype=np.float64))))
    late = {}
    for name, values in dates.items():
        gap = (values - dates[first]).dropna()
        if name != first and len(gap) and (gap >= 0).mean() > 0.99:
            late[name] = first
    return late
