"""Average effects in subgroups: by a column, by any labels, or sorted by the effect that was predicted."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from effects.effect import Estimate, Estimates, contrast
from effects.inference.averages import (
    check_options,
    check_rows,
    compare,
    link_of,
    method_name,
    unit_of,
    unlinked,
)
from effects.inference.checks import check_labels
from effects.inference.sample import CrossFitting, Sample, fitted_arms
from effects.inference.scores import Population, averages, sandwich

#: A column of numbers with more different values than this is cut into quantile groups.
MOST_VALUES = 10
MISSING = "missing"


def estimate_gate(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    by: Any = None,
    n_groups: int | None = None,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    scale: str = "difference",
    method: str = "aipw",
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
) -> Estimates:
    r"""Group average treatment effects (GATE), :math:`E[Y(t) - Y(c) \mid G = g]`, with their joint covariance.

    Each is the mean of the group's AIPW scores, so that it does not rest on the estimator's own effects being right.

    Parameters
    ----------
    est, X, y, treatment, treated, control, scale, method, sample_weight, groups, propensity, level
        As in `estimate_ate`. `groups` are clusters (whose rows depend on each other), not the subgroups.
    by : column of X, or array_like of shape (n_samples,), optional
        The subgroups. The name of a column (a position where X is an array): categories as they are, numbers and dates
        with more than 10 different values cut into `n_groups` quantile groups. An array: its labels as they are, cut
        only if `n_groups` is given. Left out, the groups are quantiles of the effect that held-out models predict
        (sorted group average effects, Chernozhukov et al. 2018). Rows without a value form a group "missing".
    n_groups : int, optional
        Quantile groups, where numbers are cut; 4 by default. Groups with equal limits are merged.

    Returns
    -------
    Estimates
        One for each group, in the order of the values. ``.heterogeneity()`` tests that all are equal,
        ``.interval(simultaneous=True)`` holds for all groups at once.

    Raises
    ------
    ValueError
        As `estimate_ate`; if `by` is no column or has another length; if a group holds fewer than two rows of an arm;
        if `by` is left out and the estimator has no held-out laws of these rows.
    TypeError
        If `n_groups` is given for values that cannot be cut.

    Notes
    -----
    Degrees of freedom are each group's own (Welch's and Satterthwaite's, or its clusters less one). Groups sorted by
    predicted effects are formed on the sample itself by models that had not seen their rows; their limits count as
    given.

    References
    ----------
    Chernozhukov, Demirer, Duflo & Fernandez-Val (2018), Generic machine learning inference on heterogeneous treatment
    effects in randomized experiments, NBER working paper 24678. Semenova & Chernozhukov (2021), Debiased machine
    learning of conditional average treatment effects, The Econometrics Journal 24.

    Examples
    --------
    >>> by_age = estimate_gate(est, X, y, treatment=arm, by="age", n_groups=3)  # doctest: +SKIP
    >>> print(by_age.summary(simultaneous=True))  # doctest: +SKIP
    >>> estimate_gate(est, X, y, treatment=arm).heterogeneity()  # by predicted effect  # doctest: +SKIP
    """
    check_options(scale, method, level)
    _check_n_groups(n_groups)
    arms = fitted_arms(est)
    t, c = contrast(arms, treated, control)
    sample = Sample.read(
        est, X, y, treatment=treatment, sample_weight=sample_weight, groups=groups, propensity=propensity
    )
    values, name, cut = _values(sample, X, by, n_groups, (t, c))
    code, labels = _grouped(values, sample.used, 4 if n_groups is None else n_groups, cut, name)
    everyone = Population.everyone(sample, (t, c))
    masks = [code == k for k in range(len(labels))]
    for label, mask in zip(labels, masks, strict=True):
        check_rows(sample, sample.used & mask, (t, c), f" where {name} is {label}")
    sample.warn_overlap((t, c))
    found = []
    for mask in masks:
        means, influence = averages(sample, everyone.within(mask), method)
        found.append(compare(sample, means, influence, scale, (t, c)))
    members = np.column_stack([sample.used & mask for mask in masks])
    covariance, df = sandwich(sample, np.column_stack([error for _, error in found]), members)
    each = []
    for k, label in enumerate(labels):
        value, se = unlinked(found[k][0], float(np.sqrt(covariance[k, k])), scale)
        each.append(
            Estimate(
                value=value,
                se=se,
                method=method_name(method, sample),
                n=int(members[:, k].sum()),
                estimand=f"GATE, {name} {label}",
                treated=arms[t],
                control=arms[c],
                unit=unit_of(scale, sample.kind),
                level=level,
                df=df[k],
                link=link_of(scale),
            )
        )
    return Estimates(each, covariance, labels, by=name, n=int(sample.used.sum()))


def _check_n_groups(n_groups: int | None) -> None:
    if n_groups is None:
        return
    if isinstance(n_groups, bool) or not isinstance(n_groups, int | np.integer) or n_groups < 2:
        raise ValueError(f"n_groups must be an int of 2 or more, got {n_groups!r}.")


def _values(
    sample: Sample, X: Any, by: Any, n_groups: int | None, codes: tuple[int, int]
) -> tuple[pd.Series, str, bool]:
    """What the groups are made from, its name, and whether it is cut."""
    n = len(sample.arm)
    if by is None:
        if sample.outcomes is None:
            raise ValueError(
                "by= was left out, which sorts rows by the effect that held-out models predict, but this estimator "
                "keeps no held-out laws for these rows: name a column or give labels."
            )
        means = sample.outcomes.mean()
        return pd.Series(means[:, codes[0]] - means[:, codes[1]]), "predicted effect", True
    column = _column(X, by)
    if column is None:
        values = check_labels("by", by, n)
        return values, str(getattr(by, "name", None) or "group"), n_groups is not None
    values = check_labels("by", column, n)
    ordered = pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values)
    plain = pd.api.types.is_bool_dtype(values) or not ordered
    name = str(by) if isinstance(X, pd.DataFrame) else f"column {by}"
    return values, name, n_groups is not None or (not plain and values.nunique() > MOST_VALUES)


def _column(X: Any, by: Any) -> Any:
    """The column of X that `by` names, by position where X is an array; None for an array of labels."""
    if np.ndim(by) > 0 and not isinstance(by, tuple):
        return None
    if isinstance(X, pd.DataFrame):
        if by in X.columns:
            return X[by].array
        raise ValueError(f"by={by!r} is no column of X: name one of {', '.join(map(repr, X.columns))}, or give labels.")
    table = np.asarray(X)
    if isinstance(by, int | np.integer) and 0 <= by < table.shape[1]:
        return table[:, by]
    raise ValueError(f"by={by!r} is no column of X, an array: give a position 0 to {table.shape[1] - 1}, or labels.")


def _range_names(ranges: pd.Index, lowest: Any) -> list[str]:
    """Names such as "[21.7, 54.9]" and "(54.9, 62]"; the first range begins with the smallest value itself."""

    def name(limit: Any) -> str:
        return f"{limit:%Y-%m-%d}" if isinstance(limit, pd.Timestamp) else f"{limit:.6g}"

    names = [f"({name(one.left)}, {name(one.right)}]" for one in ranges]
    names[0] = f"[{name(lowest)}, {name(ranges[0].right)}]"
    # limits that six digits cannot tell apart keep all of theirs
    return names if len(set(names)) == len(names) else [str(one) for one in ranges]


def _grouped(
    values: pd.Series, used: NDArray[np.bool_], n_groups: int, cut: bool, name: str
) -> tuple[NDArray[np.int64], list[Hashable]]:
    """Group codes (-1 for rows that do not count) and labels in the order of the values, "missing" last."""
    values = values[used]
    if cut:
        ordered = pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values)
        if not ordered or pd.api.types.is_bool_dtype(values):
            raise TypeError(f"n_groups cuts numbers into quantile groups, {name} holds {values.dtype}: leave it out.")
        lowest, values = values.min(), pd.qcut(values, n_groups, duplicates="drop")
        values = values.cat.rename_categories(_range_names(values.cat.categories, lowest))
    grouped = values.groupby(values, sort=True, observed=True, dropna=True)
    code = np.full(len(used), -1, dtype=np.int64)
    code[used] = grouped.ngroup().to_numpy(dtype=np.int64, na_value=-1)
    labels = list(grouped.size().index)
    missing = used & (code < 0)
    if missing.any():
        code[missing] = len(labels)
        labels.append(MISSING if MISSING not in labels else f"({MISSING})")
    return code, labels
