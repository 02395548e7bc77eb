"""The rows of a study: its table with the roles that the plan gives the columns, and an account of who is left out."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from effects.datasets import read_table
from effects.schema import Schema
from effects.study.plan import Plan, near

Step = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Rows:
    """What is analysed.

    Attributes
    ----------
    X : DataFrame
    y, treatment : Series
    arms : tuple of labels
        Control first.
    weight : ndarray of shape (n_samples,), optional
    groups : ndarray of shape (n_samples,), optional
        Clusters.
    propensity : ndarray of shape (n_samples, n_arms), optional
        Known from the design.
    controls : DataFrame
        Negative-control outcomes.
    baseline : Series, optional
        The outcome before the treatment. It is no covariate of its own null test, but of everything else.
    flow : tuple of (text, int)
        Rows in the table, rows left out (negative) with the reason, rows analysed.
    source : mapping
        file, sha256, rows, columns.
    notes : tuple of str
        What became of columns.
    """

    X: pd.DataFrame
    y: pd.Series
    treatment: pd.Series
    arms: tuple[Hashable, ...]
    weight: NDArray[np.float64] | None
    groups: NDArray[Any] | None
    propensity: NDArray[np.float64] | None
    controls: pd.DataFrame
    baseline: pd.Series | None
    flow: tuple[Step, ...]
    source: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, plan: Plan, frame: pd.DataFrame | None = None) -> Rows:
        """Read and check the table of a plan.

        Raises
        ------
        FileNotFoundError
        ValueError
            Naming the key of the plan, the column and the cure.
        """
        source: dict[str, Any] = {"file": Path(plan.table).name}
        if frame is None:
            path = plan.folder / plan.table
            frame = read_table(path)
            source["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            source["sha256"] = hashlib.sha256(frame.to_csv().encode()).hexdigest()
        frame = frame.set_axis([str(name) for name in frame.columns], axis="columns")
        source |= {"rows": len(frame), "columns": frame.shape[1]}
        _check_roles(plan, frame)
        flow = [("rows in the table", len(frame))]
        if plan.id is not None:
            ids = frame[plan.id]
            if ids.isna().any() or ids.duplicated().any():
                raise ValueError(
                    f"[table] id: column {plan.id!r} does not tell the units apart (a value is missing or repeated)."
                )
            frame = frame.set_axis(pd.Index(ids, name=plan.id), axis="index")
        frame = _complete(plan, frame, flow)
        flow.append(("analysed", len(frame)))
        X, notes = _covariates(plan, frame)
        y, treatment = frame[plan.outcome], frame[plan.treatment]
        control = None if plan.control is None else match_label(plan.control, treatment, "[question] control")
        schema = Schema.learn(X, y, treatment, outcome=plan.outcome_kind, control=control)
        if plan.design == "trial" and not plan.probabilities:
            notes.append(
                "the arms' shares of the units stand for their chances: give [question] probabilities if the design "
                "gave others"
            )
        return cls(
            X, y, treatment, schema.arms,
            weight=None if plan.weights is None else frame[plan.weights].to_numpy(dtype=np.float64),
            groups=None if plan.clusters is None else frame[plan.clusters].to_numpy(),
            propensity=_known(plan, schema, treatment),
            controls=frame[list(plan.negative_controls)],
            baseline=None if plan.baseline_outcome is None else frame[plan.baseline_outcome],
            flow=tuple(flow), source=source, notes=tuple(notes),
        )  # fmt: skip

    def take(self, keep: NDArray[np.bool_], reason: str) -> Rows:
        """The rows of a mask, the others counted under a reason."""

        def some(values: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if values is None else values[keep]

        left = (reason, int(keep.sum()) - len(keep))
        return replace(
            self, X=self.X[keep], y=self.y[keep], treatment=self.treatment[keep], weight=some(self.weight),
            groups=some(self.groups), propensity=some(self.propensity), controls=self.controls[keep],
            baseline=None if self.baseline is None else self.baseline[keep],
            flow=(*self.flow[:-1], left, ("analysed", int(keep.sum()))),
        )  # fmt: skip


def match_label(label: Any, values: pd.Series, place: str) -> Any:
    """The arm that a label from a file or a shell means: 0, 0.0 and False have the same name there."""
    found = list(values.dropna().unique())
    for same in (_same_text, _same_number):
        for value in found:
            if same(label, value):
                return value.item() if hasattr(value, "item") else value
    raise ValueError(f"{place}: column {str(values.name)!r} has no arm {label!r}{near(str(label), found)}")


def _same_text(label: Any, value: object) -> bool:
    return str(label).strip().casefold() == str(value).strip().casefold()


def _same_number(label: Any, value: Any) -> bool:
    try:
        return float(label) == float(value)
    except (TypeError, ValueError):
        return False


def roles(plan: Plan) -> dict[str, str]:
    """Columns that are no covariates, each with its place in the plan."""
    named: dict[str | None, str] = {
        plan.treatment: "[question] treatment", plan.outcome: "[question] outcome", plan.id: "[table] id",
        plan.weights: "[table] weights", plan.clusters: "[table] clusters",
        **dict.fromkeys(plan.negative_controls, "[checks] negative_controls"),
    }  # fmt: skip
    return {column: place for column, place in named.items() if column is not None}


def _check_roles(plan: Plan, frame: pd.DataFrame) -> None:
    """Every column that the plan names is there, and has one role."""
    places = {**roles(plan), **dict.fromkeys(plan.excluded, "[covariates] exclude")}
    places |= dict.fromkeys(plan.covariates, "[covariates] use") | dict.fromkeys(plan.subgroups, "[subgroups] by")
    places |= {} if plan.baseline_outcome is None else {plan.baseline_outcome: "[checks] baseline_outcome"}
    for column, place in places.items():
        if column not in frame.columns:
            raise ValueError(f"{place}: the table has no column {column!r}{near(column, frame.columns)}")
    if plan.treatment == plan.outcome:
        raise ValueError(f"[question] treatment and outcome are both {plan.outcome!r}: name two columns.")
    for column in plan.covariates:
        if column in roles(plan):
            raise ValueError(f"[covariates] use names {column!r}, which is the {roles(plan)[column]}: leave it out.")


def _complete(plan: Plan, frame: pd.DataFrame, flow: list[Step]) -> pd.DataFrame:
    """The rows that have an outcome, an arm, a weight and a cluster."""
    needed: dict[str, str | None] = {
        "the treatment": plan.treatment, "the outcome": plan.outcome, "a weight": plan.weights,
        "a cluster": plan.clusters,
    }  # fmt: skip
    for what, column in needed.items():
        if column is None:
            continue
        lost = frame[column].isna()
        if lost.any() and not plan.drop_missing:
            raise ValueError(
                f"{int(lost.sum())} of {len(frame)} rows lack {what} (column {column!r}): fill them, or leave them out "
                "with [question] drop_missing = true."
            )
        if lost.any():
            flow.append((f"left out: without {what} ({column})", -int(lost.sum())))
            frame = frame[~lost]
    return frame


def _covariates(plan: Plan, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Covariates as they are used, and what became of columns."""
    apart = {*roles(plan), *plan.excluded}
    names = [name for name in (plan.covariates or frame.columns) if name not in apart]
    notes = []
    empty = [name for name in names if frame[name].isna().all()]
    if empty:
        notes.append(f"columns without any value were left out: {', '.join(empty)}")
    X = frame[[name for name in names if name not in empty]].copy()
    if not X.shape[1]:
        raise ValueError("no covariates are left: name some in [covariates] use, or exclude fewer.")
    for name in X.columns:
        dates = as_dates(X[name])
        if dates is not None:
            X[name] = dates
            notes.append(f"column {name} was read as dates")
    return X, notes


def as_dates(column: pd.Series) -> pd.Series | None:
    """The column as dates where all its texts are dates as 2026-11-22, else None."""
    if pd.api.types.is_numeric_dtype(column) or isinstance(column.dtype, pd.CategoricalDtype):
        return None
    known = column.dropna()
    if not len(known) or not known.map(lambda value: isinstance(value, str)).all():
        return None
    if not known.astype(str).str.fullmatch(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2})?)?").all():
        return None
    dates = pd.to_datetime(column, errors="coerce", format="ISO8601")
    return dates if dates.notna().sum() == len(known) else None


def _known(plan: Plan, schema: Schema, treatment: pd.Series) -> NDArray[np.float64] | None:
    """Probabilities of the arms that a design gave, for every row; of a trial that does not say them, the shares."""
    arms, n = schema.arms, len(treatment)
    if not plan.probabilities:
        if plan.design != "trial":
            return None
        return np.tile(np.bincount(schema.encode_treatment(treatment), minlength=len(arms)) / n, (n, 1))
    place = "[question] probabilities"
    labels = pd.Series(list(arms), dtype=object, name=plan.treatment)
    found = {match_label(name, labels, place): share for name, share in plan.probabilities.items()}
    for arm in arms:
        if not found.get(arm):
            raise ValueError(f"{place} gives arm {arm!r} no chance: name every arm with a probability above 0.")
    return np.tile([found[arm] for arm in arms], (n, 1))
