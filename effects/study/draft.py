"""A plan to fill in: what a table lets one guess, written with comments that say what to decide."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import pandas as pd

from effects.study.plan import near
from effects.study.suspects import suspects
from effects.study.table import as_dates

_ID: Final = re.compile(
    r"(^|_)(?P<whole>id|ident|identifier|patient|subject|person|case|record|key|seqn|ptid)(_?(no|nr|num|number|id))?$"
    r"|id$",
    re.I,
)
_TREATMENT: Final = re.compile(r"(treat|trt|intervention|assign)\w*|arms?|expos(ure|ed)|group", re.I)
_OUTCOME: Final = re.compile(r"outcome|y|response|endpoint|death|died|dth\d*|mortality|event", re.I)
_WORSE: Final = re.compile(r"death|dead|died|dth|mort|event|relapse|infect|pain|bleed|stroke|readm|complic|toxic", re.I)
_SUBGROUP: Final = re.compile(r"age|sex|gender|female|male|race|ethnicity", re.I)

_PAGE: Final = """\
# A study, as asked for before the data were looked at. Run it with:   effects study {name}
title = {title}

[table]
file = {file}  # as seen from this file; csv, parquet, Stata, SPSS ...
id = {id}  # column that names the units; "" for the row number
weights = ""  # column of sampling weights
clusters = {clusters}  # column of wards, villages, pairs: whose rows are not independent{clusters_help}

[question]
text = ""  # the causal question in a sentence
design = "observational"  # or "trial"
treatment = {treatment}{treatment_help}
control = {control}  # the arm to compare with{arms}
treated = ""  # with more than two arms: the one that subgroups and sensitivity are about
outcome = {outcome}{outcome_help}
outcome_kind = "auto"  # auto, continuous, binary, count
outcome_unit = ""
higher_is_better = {better}  # true, false; "" leaves decisions out
estimands = ["ATE", "ATT"]  # the first is the study's own; also ATC, ATO (overlap)
drop_missing = true  # leave out rows without treatment or outcome, and count them

[question.probabilities]  # of a trial: each arm's chance by design, as   drug = 0.5; empty: the arms' shares

[covariates]
use = []  # empty: every column that has no other role
[covariates.exclude]  # column = "why": all that came after the treatment, or stands for the outcome
{exclude}
[estimator]
name = "auto"  # the stack; or diffpo, cevae, tarnet, bart ...
random_state = 0
[estimator.settings]

[subgroups]
by = {subgroups}  # named before the analysis

[checks]
trim = "none"  # crump, fixed, percentile, common_range: leave out units without overlap
negative_controls = []  # outcomes that the treatment cannot have changed
baseline_outcome = ""  # the outcome as it was before the treatment
skip = []

[report]
level = 0.95
formats = ["html", "md", "tex"]

[words]  # what no table can tell; what stays empty is printed as open
{words}"""


def draft(
    frame: pd.DataFrame,
    file: str,
    *,
    treatment: str | None = None,
    outcome: str | None = None,
    control: str | None = None,
    name: str = "STUDY.toml",
    words: Mapping[str, str] | None = None,
) -> str:
    """The text of a STUDY.toml for a table.

    Parameters
    ----------
    frame : DataFrame
    file : str
        Its name, as the plan shall give it.
    treatment, outcome, control : str, optional
        Known already; else guessed from the columns' names, or left to fill in.
    name : str
        Of the plan's own file.
    words : mapping of key to help, optional
        Keys of the section ``[words]``.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the table has no such column.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"patient": ["a", "b", "c"], "arm": ["drug", "placebo", "drug"], "bp": [1.0, 2.5, 3.0]})
    >>> print(draft(frame, "trial.csv", outcome="bp").split("[question]")[1].split("estimands")[0])
    <BLANKLINE>
    text = ""  # the causal question in a sentence
    design = "observational"  # or "trial"
    treatment = "arm"  # guessed from its name
    control = ""  # the arm to compare with; there are: 'drug', 'placebo'
    treated = ""  # with more than two arms: the one that subgroups and sensitivity are about
    outcome = "bp"
    ...
    """
    frame = frame.set_axis([str(column) for column in frame.columns], axis="columns")
    for place, column in (("treatment", treatment), ("outcome", outcome)):
        if column is not None and column not in frame.columns:
            raise ValueError(f"{place}: the table has no column {column!r}{near(column, frame.columns)}")
    said = {"treatment": treatment is not None, "outcome": outcome is not None}
    treatment = treatment or _guess(frame, _TREATMENT, 20, {outcome})
    outcome = outcome or _guess(frame, _OUTCOME, None, {treatment})
    numbered, names = _units(frame, {treatment, outcome})
    repeated = _repeated(frame, {treatment, outcome, names, *numbered})
    lines = [f"{_key(column)} = {_text('numbers the rows')}" for column in numbered]
    if outcome:
        lines += _suspected(frame, treatment, outcome, {*numbered, names, repeated})
    by = [column for column in frame.columns if _SUBGROUP.fullmatch(column) and column not in {treatment, outcome}]
    arms = "" if treatment is None else f"; there are: {', '.join(map(repr, _values(frame[treatment])))}"
    better = "false" if outcome and _WORSE.search(outcome) else '""'
    two = [column for column in frame.columns if frame[column].nunique() == 2]
    return _PAGE.format(
        name=name,
        title=_text(""),
        file=_text(file),
        id=_text(names or ""),
        clusters=_text(repeated or ""),
        clusters_help="" if repeated is None else "; guessed from its name and its repeated values",
        treatment=_text(treatment or ""),
        treatment_help=_help(treatment, said["treatment"], two),
        control=_text("" if control is None else str(control)),
        arms=arms,
        outcome=_text(outcome or ""),
        outcome_help=_help(outcome, said["outcome"], list(frame.columns)),
        better=better,
        exclude="".join(f"{line}\n" for line in lines),
        subgroups=json.dumps(by, ensure_ascii=False),
        words="".join(f'{key} = ""  # {help}\n' for key, help in (words or {}).items()),
    )


def _help(column: str | None, said: bool, candidates: list[str]) -> str:
    if said:
        return ""
    if column is not None:
        return "  # guessed from its name"
    shown = ", ".join(candidates[:12]) + (" ..." if len(candidates) > 12 else "")
    return f"  # a column must be named, such as {' '.join(shown.split())}"


def _guess(frame: pd.DataFrame, pattern: re.Pattern[str], most: int | None, taken: Iterable[str | None]) -> str | None:
    found = [
        column
        for column in frame.columns
        if pattern.fullmatch(column) and column not in taken and (most is None or 2 <= frame[column].nunique() <= most)
    ]
    return found[0] if found else None


def _units(frame: pd.DataFrame, taken: Iterable[str | None]) -> tuple[list[str], str | None]:
    """Columns that number the rows, and the one that names the units."""
    numbered, names = [], None
    for column in frame.columns:
        values = frame[column]
        if column in taken or values.isna().any() or values.duplicated().any() or pd.api.types.is_float_dtype(values):
            continue
        if as_dates(values) is not None or pd.api.types.is_datetime64_any_dtype(values):
            continue
        step = values.diff().dropna() if pd.api.types.is_integer_dtype(values) else None
        if step is not None and (step == 1).all() and not _ID.search(column):
            numbered.append(column)
        elif names is None and (_ID.search(column) or step is None):
            names = column
        elif _ID.search(column) or step is None:
            numbered.append(column)
    return numbered, names


def _repeated(frame: pd.DataFrame, taken: Iterable[str | None]) -> str | None:
    """A column that names units as an id does, but each of them in several rows: no covariate."""
    for column in frame.columns:
        values = frame[column]
        if column in taken or pd.api.types.is_float_dtype(values):
            continue
        found = _ID.search(column)
        if found is not None and found["whole"] and len(values) / 2 >= values.nunique() > 20:
            return column
    return None


def _suspected(frame: pd.DataFrame, treatment: str | None, outcome: str, taken: Iterable[str | None]) -> list[str]:
    """Columns that look as if they came after the treatment, with the reason; where only a vague name says so they stay
    in, as a comment."""
    complete = frame.dropna(subset=[column for column in (treatment, outcome) if column])
    X = complete.drop(columns=[column for column in {treatment, outcome, *taken} if column])
    X = X[[column for column in X.columns if X[column].notna().any()]]
    for column in X.columns:
        dates = as_dates(X[column])
        if dates is not None:
            X = X.assign(**{column: dates})
    found = suspects(X, complete[outcome], complete[treatment] if treatment else None)
    return [
        f"{'' if row.sure else '# '}{_key(str(row.Index))} = {_text(f'look: {row.reason}')}"
        for row in found.itertuples()
    ]


def _values(column: pd.Series, most: int = 8) -> list[Any]:
    values = [value.item() if hasattr(value, "item") else value for value in sorted(column.dropna().unique(), key=str)]
    return values[:most]


def _text(value: str) -> str:
    """A text as TOML writes it."""
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)
