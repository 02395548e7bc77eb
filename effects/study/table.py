"""The rows of a study: its table with the roles that the plan gives the columns, and an account of who is left out."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from effects.datasets import read_table
from effects.schema import Schema
from effects.study.plan import Plan, near

Step = tuple[str, int]

_MISMATCH: Final = 0.001  # p-value below which sizes of arms speak against their probabilities
_BASELINE: Final = "[checks] baseline_outcome"  # a covariate all the same, but of its own null test


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
        if not frame.columns.is_unique:
            twice = frame.columns[frame.columns.duplicated()][0]
            raise ValueError(f"the table has two columns named {twice!r}: rename one of them.")
        source |= {"rows": len(frame), "columns": frame.shape[1]}
        _check_roles(plan, frame)
        flow = [("rows in the table", len(frame))]
        if plan.id is not None:
            ids = frame[plan.id]
            _check_id(ids)
            frame = frame.set_axis(pd.Index(ids, name=plan.id), axis="index")
        frame = _complete(plan, frame, flow)
        flow.append(("analysed", len(frame)))
        X, notes = _covariates(plan, frame)
        y, treatment = frame[plan.outcome], frame[plan.treatment]
        control = None if plan.control is None else match_label(plan.control, treatment, "[question] control")
        weight = None if plan.weights is None else _weights(frame[plan.weights])
        schema = _schema(plan, X, y, treatment, weight, control)
        if control is None:
            notes.append(f"the plan names no control ([question] control): arm {schema.arms[0]!r} was taken for it")
        if plan.design == "trial" and not plan.probabilities:
            notes.append(
                "the arms' shares of the units stand for their chances: give [question] probabilities if the design "
                "gave others"
            )
        notes += _same_outcomes(y, treatment)
        propensity = _known(plan, schema, treatment)
        notes += [] if propensity is None else _unlike(schema, treatment, propensity[0])
        return cls(
            X, y, treatment, schema.arms,
            weight=weight,
            groups=None if plan.clusters is None else frame[plan.clusters].to_numpy(),
            propensity=propensity,
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
                return _plain(value)
    raise ValueError(f"{place}: column {str(values.name)!r} has no arm {label!r}{near(str(label), found)}")


def _plain(value: Any) -> Any:
    """A value as Python has it, and prints it."""
    return value.item() if hasattr(value, "item") else value


def _same_text(label: Any, value: object) -> bool:
    return str(label).strip().casefold() == str(value).strip().casefold()


def _same_number(label: Any, value: Any) -> bool:
    try:
        return float(label) == float(value)
    except (TypeError, ValueError):
        return False


def roles(plan: Plan) -> dict[str, str]:
    """Columns that are no covariates, each with its place in the plan."""
    return {column: place for column, place in _each_role(plan) if place != _BASELINE}


def _check_roles(plan: Plan, frame: pd.DataFrame) -> None:
    """Every column that the plan names is there, and has one role."""
    places = {**roles(plan), **dict.fromkeys(plan.excluded, "[covariates] exclude")}
    places |= dict.fromkeys(plan.covariates, "[covariates] use") | dict.fromkeys(plan.subgroups, "[subgroups] by")
    places |= {} if plan.baseline_outcome is None else {plan.baseline_outcome: "[checks] baseline_outcome"}
    for column, place in places.items():
        if column not in frame.columns:
            raise ValueError(f"{place}: the table has no column {column!r}{near(column, frame.columns)}")
    taken: dict[str, str] = {}
    for column, place in _each_role(plan):
        if column in taken:
            raise ValueError(f"column {column!r} is both {taken[column]} and {place}: name another for one of them.")
        taken[column] = place
    apart = {**dict.fromkeys(plan.excluded, "[covariates] exclude"), **roles(plan)}
    for column in plan.covariates:
        if column in apart:
            raise ValueError(f"[covariates] use names {column!r}, which stands under {apart[column]}: leave it out.")
    for column in plan.subgroups:
        if column in apart or (plan.covariates and column not in plan.covariates):
            what = f"stands under {apart[column]}" if column in apart else "is not among [covariates] use"
            raise ValueError(f"[subgroups] by names {column!r}, which {what}: subgroups are made by covariates.")


def _each_role(plan: Plan) -> list[tuple[str, str]]:
    """Columns with their places in the plan, one that has two places twice."""
    each = [
        (plan.treatment, "[question] treatment"), (plan.outcome, "[question] outcome"), (plan.id, "[table] id"),
        (plan.weights, "[table] weights"), (plan.clusters, "[table] clusters"),
        *((column, "[checks] negative_controls") for column in dict.fromkeys(plan.negative_controls)),
        (plan.baseline_outcome, _BASELINE),
    ]  # fmt: skip
    return [(column, place) for column, place in each if column is not None]


def _check_id(ids: pd.Series) -> None:
    """Each unit has one name."""
    twice = ids[ids.isna() | ids.duplicated()]
    if len(twice):
        found = "a value is missing" if pd.isna(twice.iloc[0]) else f"{_plain(twice.iloc[0])!r} is repeated"
        raise ValueError(
            f"[table] id: column {ids.name!r} does not tell the units apart ({found}): leave id empty; where several "
            "rows are of one unit, name the column under [table] clusters."
        )


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
        if not len(frame):
            raise ValueError(f"no row is left: all that were there lack {what} (column {column!r}).")
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


def _schema(
    plan: Plan, X: pd.DataFrame, y: pd.Series, treatment: pd.Series, weight: NDArray[np.float64] | None, control: Any
) -> Schema:
    """What the models will take the columns for; whatever they would refuse is refused here."""
    try:
        with warnings.catch_warnings():  # the fit says the same, and its warnings are kept
            warnings.simplefilter("ignore", UserWarning)
            schema = Schema.learn(
                X, y, treatment, outcome=plan.outcome_kind, control=control, sample_weight=weight
            )  # fmt: skip
    except (TypeError, ValueError) as error:  # in the library's words: y, treatment
        columns = f"[question] outcome is column {plan.outcome!r} (y), treatment column {plan.treatment!r}"
        raise ValueError(f"{columns}: {error}") from error
    place = f"[question] outcome: column {plan.outcome!r}"
    if y.nunique() < 2:
        raise ValueError(f"{place} is always {_plain(y.iloc[0])!r}: nothing differs.")
    if plan.outcome_kind == "auto" and schema.outcome.kind == "continuous" and y.nunique() == 2:
        low, high = sorted(y.unique().tolist())
        raise ValueError(
            f'{place} has two values, {low:g} and {high:g}: say outcome_kind = "binary" ({high:g} is then the event) '
            'or "continuous".'
        )
    return schema


def _same_outcomes(y: pd.Series, treatment: pd.Series) -> list[str]:
    """A note of each arm in which nothing varies."""
    by_arm = y.groupby(treatment.astype(object).to_numpy())
    return [
        f"every outcome of arm {_plain(arm)!r} is {_plain(values.iloc[0])!r}: its uncertainty is understated"
        for arm, values in by_arm
        if values.nunique() < 2
    ]


def _weights(column: pd.Series) -> NDArray[np.float64]:
    """Sampling weights as numbers."""
    place = f"[table] weights: column {str(column.name)!r}"
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    for bad, what in ((numbers.isna(), "no number"), (~np.isfinite(numbers), "not finite"), (numbers < 0, "negative")):
        if bad.any():
            raise ValueError(f"{place} holds {_plain(column[bad].iloc[0])!r}, which is {what}: correct the weight.")
    if not (numbers > 0).any():
        raise ValueError(f"{place} is zero in every row: no row would take part.")
    return np.asarray(numbers, dtype=np.float64)


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


def _unlike(schema: Schema, treatment: pd.Series, probabilities: NDArray[np.float64]) -> list[str]:
    """A note where the arms' sizes can hardly come from their probabilities by design (chi-squared test)."""
    from scipy.stats import chisquare

    seen = np.bincount(schema.encode_treatment(treatment), minlength=len(schema.arms))
    expected = len(treatment) * probabilities
    if chisquare(seen, expected * seen.sum() / expected.sum()).pvalue >= _MISMATCH:
        return []
    each = ", ".join(
        f"{arm!r} has {n:,} of {m:,.0f} expected" for arm, n, m in zip(schema.arms, seen, expected, strict=True)
    )
    return [
        f"the arms' sizes do not fit [question] probabilities ({each}): mend these, or find out which rows are missing"
    ]
