"""The sections of a whole study, in the order of a paper: question, data, balance, estimates, checks, sensitivity.

`effects.report.results` has those that tell findings; this file what was asked, of whom, and what it rests on. A
finding that is None never leaves a section empty: the page prints why it is not there.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from effects import plots
from effects.effect import Estimate
from effects.plots import number
from effects.report import target
from effects.report.blocks import Block, Facts, Heading, Picture, Prose, Section, Table, percent, words
from effects.report.sections import Study, _extremes, _take
from effects.report.sections import _draw_overlap as draw_overlap
from effects.report.sections import _supported as supported

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES: dict[str, str] = {
    "top": "Summary",
    "question": "Question and estimand",
    "protocol": "The target trial and its emulation",
    "assumptions": "What this rests on",
    "flow": "Flow of units",
    "data": "The data",
    "baseline": "Characteristics by arm (Table 1)",
    "balance": "Balance",
    "overlap": "Overlap",
    "estimates": "The effect",
    "units": "Some units, one by one",
    "heterogeneity": "For whom the effect differs",
    "decisions": "Decisions",
    "checks": "Checks",
    "sensitivity": "Sensitivity to what was not measured",
    "limitations": "Interpretation and limitations",
    "computation": "How it was computed",
    "other": "Other information",
    "checklist": "Checklist",
}
VERDICTS = {True: "passed", False: "failed", None: "undecided"}
MOST_COLUMNS = 7  # of a table of characteristics, weighted beside unweighted; more stand below


@dataclass(frozen=True, eq=False)
class Told:
    """What all sections are written from: the findings, and the same numbers as `Report.from_fit` reads them."""

    f: Any

    @cached_property
    def s(self) -> Study:
        """The fitted estimator's predictions, for the sections that a report on one fit has too."""
        f, plan = self.f, self.f.plan
        est, unit = f.est, plan.outcome_unit
        effects = [replace(est.predict_effect(f.X, treated=t), laws=None, unit=unit) for t in est.arms_[1:]]
        nuisance = est.cross_fitted(f.X, f.y, treatment=f.treatment)
        roles = _extremes(effects[0].mean)
        rows = np.array(list(roles))
        shown = replace(est.predict_outcomes(_take(f.X, rows)), unit=unit, index=f.X.index[rows])
        return Study(
            est=est, y=est.schema_.encode_outcome(f.y), a=est.schema_.encode_treatment(f.treatment), level=plan.level,
            outcome=plan.outcome, treatment=plan.treatment, unit=unit, nuisance=nuisance, seen=nuisance.source,
            averages=list(self.primary), means=dict(f.means), cautions=list(f.cautions), effects=effects, shown=shown,
            roles=roles, checked=shown, checked_rows=rows, support=est.support(f.X),
        )  # fmt: skip

    trial = property(lambda self: self.f.plan.design == "trial", doc="A trial, not an emulation of one.")
    arms = property(lambda self: tuple(self.f.est.arms_), doc="Labels, control first.")
    binary = property(lambda self: self.s.kind == "binary", doc="Whether the outcome is an event.")

    @property
    def titles(self) -> dict[str, str]:
        """Name of each section to its title."""
        return {**TITLES, "protocol": "The trial"} if self.trial else TITLES

    @cached_property
    def counts(self) -> dict[Hashable, int]:
        sizes = np.bincount(self.s.a, minlength=len(self.arms))
        return {arm: int(n) for arm, n in zip(self.arms, sizes, strict=True)}

    @cached_property
    def primary(self) -> list[Estimate]:
        """The primary estimand as a difference, one for each treated arm: the first of its kind that was computed."""
        found: dict[Hashable, Estimate] = {}
        for e in self.f.averages:
            if population(e) == self.f.plan.estimands[0] and e.link == "identity":
                found.setdefault(e.treated, e)
        return list(found.values())

    def why(self, *steps: str) -> str:
        """Why a finding is not there."""
        for step in steps:
            if step in self.f.skipped:
                return f"Not computed: {sentence(without_paths(self.f.skipped[step]))}"
        return "Not computed: it was not asked for."

    def section(self, name: str, *blocks: Block | None, brief: bool = False) -> Section:
        each = (replace(block, optional=True) if isinstance(block, Picture) else block for block in blocks)
        return Section(name, self.titles[name], tuple(block for block in each if block is not None), brief)


def population(e: Estimate) -> str:
    """``"ATE, ratio" -> "ATE"``."""
    return e.estimand.partition(",")[0]


def sentence(text: object) -> str:
    """A text as a sentence."""
    plain = " ".join(str(text).split())
    return plain if plain.endswith((".", "!", "?")) or not plain else f"{plain}."


def without_paths(text: object) -> str:
    """A text without the folders of the machine that it was written on.

    >>> without_paths("cannot read /home/me/data/trial.csv (5 mg/kg/day)")
    'cannot read trial.csv (5 mg/kg/day)'
    """
    return re.sub(r"(?<![\w/.~])(?:~|[A-Za-z]:)?[\\/](?:[\w.@+ -]+[\\/])+(?=[\w.@+-])", "", str(text))


def title_of(f: Any) -> str:
    return f.plan.title or f"Effect of {f.plan.treatment} on {f.plan.outcome}"


def byline_of(f: Any) -> str:
    """What kind of study it is, of how many units, from which table."""
    kind = words("study")["trial" if f.plan.design == "trial" else "emulation"]
    return " · ".join((kind, f"{len(f.y):,} units", f"{len(f.est.arms_)} arms", Path(str(f.source["file"])).name))


# ---- what was asked --------------------------------------------------------------------------------------------------


def question(t: Told) -> Section:
    plan, s, say = t.f.plan, t.s, words("study")
    control = s.arm(t.arms[0])
    treated = " or ".join(s.arm(arm) for arm in t.arms[1:])
    asked = plan.question or f"What is the effect of {treated} instead of {control} on {s.subject}?"
    listed = [f"{s.arm(arm)} (n = {n:,})" for arm, n in t.counts.items()]
    seen = (
        f"seen in {percent(float(s.y.mean()))} of units"
        if t.binary
        else f"mean {number(s.y.mean(), s.y.std())}, from {number(s.y.min())} to {number(s.y.max())}"
    )
    wanted = {True: "; higher is better", False: "; lower is better", None: ""}[plan.higher_is_better]
    pairs = [
        ("Question", " ".join(asked.split())),
        ("Arms", f"{listed[0]} as control; {', '.join(listed[1:])} (column {plan.treatment})"),
        ("Outcome", f"{s.event}{s.in_unit}, {s.kind}; {seen}{wanted}"),
    ]
    several = len(t.arms) > 2
    for place, name in enumerate(plan.estimands):
        whom = words("populations")[name].format(
            treated="that arm" if several else treated, control=control, n=f"{s.n:,}"
        )
        one = "any one of the other arms" if several else treated
        what = say["estimand"].format(subject=s.subject, treated=one, control=control, whom=whom)
        pairs.append((f"{'Primary estimand' if not place else 'Also'}: {name}", what))
    pairs.append(("Intervals", f"{s.at} confidence intervals, unless another level is named"))
    known = [("Background", "background")] + ([] if t.trial else [("Why emulate a trial", "rationale")])
    return t.section("question", Facts((*pairs, *target.facts(plan.words, *known).pairs)), brief=True)


def protocol(t: Told) -> Section:
    """The target trial beside its emulation; of a trial, the trial itself."""
    plan, s, say = t.f.plan, t.s, words("study")
    measures = list(dict.fromkeys(measure(e, t.binary) for e in t.f.averages))
    known = {
        "emulated_strategies": say["strategies"].format(
            column=plan.treatment, arms=", ".join(f"{s.arm(a)} (n = {n:,})" for a, n in t.counts.items())
        ),
        "emulated_assignment": say["assignment"].format(n=len(s.est.schema_.columns)),
        "emulated_outcomes": f"Column {plan.outcome}{s.in_unit}, {s.kind}.",
        "emulated_contrasts": f"{', '.join(plan.estimands)}, as {', '.join(measures)}." if measures else "",
        "emulated_assumptions": say["see_assumptions"],
        "emulated_analysis": say["analysis"].format(estimator=t.f.estimator, level=s.at),
    }
    if t.trial:
        return t.section("protocol", target.trial_protocol(plan.words, known))
    return t.section("protocol", target.protocol(plan.words, known), Prose(say["protocol"]))


def measure(e: Estimate, binary: bool) -> str:
    """``risk difference``, ``risk ratio``, ``odds ratio``, ``number needed to treat``."""
    if e.link == "identity":
        return "risk difference" if binary else "difference in means"
    scale = e.unit or e.estimand.partition(",")[2].strip() or "ratio"
    return "number needed to treat" if e.link == "reciprocal" or scale == "nnt" else scale


def assumptions(t: Told) -> Section:
    """What has to hold, in plain words; of a trial, what randomisation gives and what it does not."""
    s = t.s
    values = {
        "n_covariates": len(s.est.schema_.columns),
        "lowest": number(float(s.nuisance.propensity.min()), digits=2),
        "percent": s.at,
        "z": number(Estimate(0, 1, "", 0).interval(s.level)[1]),
    }
    assumed = words("assumptions_trial") if t.trial else {**words("assumptions"), **words("assumptions_more")}
    last = "What the data cannot tell"
    pairs = [(term, text) for term, text in assumed.items() if term not in ("Trial", last)]
    pairs.append((last, assumed[last]))
    of_kind = "Outcome" if t.binary else "Probability"
    pairs += [(f"Interval: {term}", text) for term, text in words("intervals").items() if term != of_kind]
    return t.section("assumptions", Facts(tuple((term, text.format(**values)) for term, text in pairs)))


# ---- of whom ---------------------------------------------------------------------------------------------------------


def flow(t: Told) -> Section:
    steps = tuple((str(step), int(n)) for step, n in t.f.flow)
    frame = pd.DataFrame(steps, columns=["step", "rows"])
    texts = {"rows": [f"−{-n:,}" if n < 0 else f"{n:,}" for _, n in steps]}
    arms = tuple((t.s.arm(arm), n) for arm, n in t.counts.items())
    split = ", ".join(f"{name}: {n:,}" for name, n in arms)
    left = sum(-n for _, n in steps if n < 0)
    alt = f"Flow of units: {'; '.join(f'{step}: {abs(n):,}' for step, n in steps)}; by arm {split}."
    size = (5.0, 0.55 + 0.62 * (len(steps) + 1))
    picture = Picture("flow", alt, words("study")["flow"], partial(_draw_flow, steps, arms), size)
    told = f"Of the rows of the table {left:,} were left out." if left else "No row of the table was left out."
    fields = (("Before this table", "selection"), ("Length of follow-up", "follow_up_length"))
    return t.section(
        "flow", picture, Table("flow", "Rows of the table, step by step", frame, texts=texts), Prose(told),
        target.facts(t.f.plan.words, *fields),
    )  # fmt: skip


def _draw_flow(steps: tuple[tuple[str, int], ...], arms: tuple[tuple[str, int], ...], ax: Axes) -> Axes:
    return plots.plot_flow(steps, arms, ax=ax)


def data(t: Told) -> Section:
    """The table and its columns, as used and as left out."""
    f, plan = t.f, t.f.plan
    source = [
        ("Table", f"{Path(str(f.source['file'])).name}: {f.source['rows']:,} rows, {f.source['columns']:,} columns"),
        *[
            (term, target.said(plan.words, key))
            for term, key in (("Source", "data_source"), ("Missing", "missing_data"))
        ],
        ("How missing values enter", words("study")["missing"]),
    ]
    named = (("id", "identifier"), ("weights", "sampling weights"), ("clusters", "clusters"))
    roles = [f"{getattr(plan, name)} ({what})" for name, what in named if getattr(plan, name)]
    roles += [f"{column} (negative control)" for column in plan.negative_controls]
    roles += [f"{plan.baseline_outcome} (outcome before treatment)"] if plan.baseline_outcome else []
    source += [("Columns of other roles", ", ".join(roles))] if roles else []
    source += [("Sampling weights", words("study")["weights"].format(column=plan.weights))] if plan.weights else []
    n = len(f.X) if f.trimming is None else len(f.trimming.keep)  # the columns are those of the fit, before trimming
    covariates = Table("data", f"The {len(f.columns)} covariates as used", covariates_of(f.columns, n))
    left = pd.DataFrame(list(plan.excluded.items()), columns=["column", "reason"])
    excluded = Table("excluded", "Columns that were left out, and why", left) if len(left) else None
    none = None if len(left) else Prose("No column was excluded by the plan.")
    return t.section("data", Facts(tuple(source)), covariates, excluded, none)


def covariates_of(columns: pd.DataFrame, n: int) -> pd.DataFrame:
    """Each covariate's name, kind, missing values (number and share) and what it holds."""
    rows = []
    for row in columns.to_dict("records"):
        if row["kind"] == "date":
            holds = f"about {day(row['mean'])}, sd {row['sd']:,.0f} days"
        elif row["kind"] == "bool":
            holds = f"{percent(row['mean'])} true"
        elif row["kind"] == "number":
            holds = f"mean {number(row['mean'], row['sd'])}, sd {number(row['sd'])}"
        else:
            holds = str(row["levels"] or "left out: says nothing")
        lost = int(row["missing"])
        rows.append((row["column"], row["kind"], f"{lost:,} ({percent(lost / n)})" if lost else "none", holds))
    return pd.DataFrame(rows, columns=["column", "kind", "missing", "holds"])


def baseline(t: Told) -> Section:
    """Table 1: characteristics by arm, as they came and weighted."""
    f, say = t.f, words("study")
    before = None if f.baseline is None else printed(f.baseline)
    if before is None:
        return t.section("baseline", Prose(t.why("baseline", "baseline_table")))
    after = None if f.baseline_weighted is None else printed(f.baseline_weighted)
    weighted = say["table1_weighted"] + (", after trimming" if f.trimming is not None else "")
    if t.f.plan.estimands[0] != "ATE":
        weighted += f", for the {t.f.plan.estimands[0]}"
    total = [name for name in ("Overall", "Target population") if len(t.arms) == 2]  # two arms add up to it by eye
    before = before.drop(columns=total, errors="ignore")
    after = None if after is None else after.drop(columns=total, errors="ignore")
    if after is None:
        blocks: list[Block] = [Table("baseline", say["table1"], before)]
        blocks.append(Prose(t.why("baseline_weighted", "baseline")))
    elif _alike(before, after) and 2 * before.shape[1] - 1 <= MOST_COLUMNS:
        beside = after.iloc[:, 1:].add_suffix(", weighted")
        both = pd.concat([before, beside.set_axis(before.index)], axis=1)
        blocks = [Table("baseline", f"{say['table1']}, and {weighted}", both)]
    else:
        blocks = [
            Table("baseline", say["table1"], before),
            Table("baseline weighted", f"Characteristics by arm, {weighted}", after),
        ]
    return t.section("baseline", *blocks, Prose(say["baseline"]))


def _alike(before: pd.DataFrame, after: pd.DataFrame) -> bool:
    """Whether both have the same rows, but for what is said of the cells (``n (%)`` or ``%``)."""
    stems = [[str(label).rpartition(", ")[0] or str(label) for label in frame.iloc[:, 0]] for frame in (before, after)]
    return before.shape == after.shape and stems[0][1:] == stems[1][1:]


def printed(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of strings with its index as the first columns."""
    names: Any = [name or " " for name in frame.index.names]
    named = frame.rename_axis(index=names).reset_index()
    return named.rename(columns=str).astype(object).where(lambda table: table.notna(), "")


def plain_table(
    name: str,
    caption: str,
    frame: pd.DataFrame,
    *,
    percent: tuple[str, ...] = (),
    hidden: tuple[str, ...] = (),
    names: Mapping[str, str] | None = None,
    ranges: Mapping[str, str] | None = None,
    scale: pd.Series | None = None,
    level: float = 0.95,
) -> Table:
    """A table of a finding: index first, limits as one range, words for names, p-values as p-values.

    `ranges` gives the printed name of a range by that of its lower limit, `names` that of other columns.
    """
    index = [label for label in frame.index.names if label is not None]
    counted = not index and list(frame.index) == list(range(len(frame)))
    frame = frame.reset_index(drop=counted).rename(columns=str).rename(columns={} if index else {"index": " "})
    pairs: dict[str, tuple[str, str]] = {}
    columns = list(frame.columns)
    for low, high in _ranges(columns):
        stem = low.replace("lower", "").replace("_", " ").strip()
        at = f"{100 * level:.10g}% interval"
        known = (ranges or {}).get(low)
        pairs[known or (at if not stem or stem.startswith("[") else f"{stem}, {at}")] = (low, high)
    ends = {column for pair in pairs.values() for column in pair}
    told = {column: column if column in ends else column.replace("_", " ") for column in columns}
    told |= {column: "p" for column in columns if column in ("p_value", "P>|z|", "P>|t|")}
    told |= {column: "estimate" for column in columns if column == "coef"}
    told |= {column: "se" for column in columns if column in ("std err", "std_err")}
    told |= dict(names or {})
    p = tuple(
        told[c]
        for c in columns
        if c in ("p_value", "p", "P>|z|", "P>|t|") or c.startswith(("p_", "p ")) or c.endswith("_p")
    )
    frame = frame.rename(columns=told)
    frame = frame.loc[:, ~frame.columns.duplicated()]
    gone = tuple(told.get(column, column) for column in (*hidden, "z", "t"))
    shares = tuple(told.get(column, column) for column in percent)
    return Table(name, caption, frame, scale, shares, pairs, gone, p=p)


def _ranges(columns: list[str]) -> Iterator[tuple[str, str]]:
    for k, column in enumerate(columns):
        if "lower" in column and column.replace("lower", "upper") in columns:
            yield column, column.replace("lower", "upper")
        elif column.startswith("[") and k + 1 < len(columns) and columns[k + 1].endswith("]"):
            yield column, columns[k + 1]


# ---- comparable? -----------------------------------------------------------------------------------------------------


def check_with(t: Told, *names: str, column: str | None = None) -> Any | None:
    """The check of one of these names, or the one whose table has a column."""
    for check in t.f.checks:
        if check.name in names or (column is not None and column in check.table.columns):
            return check
    return None


def verdict(check: Any) -> str:
    if check.passed is None and np.isnan(check.value) and not len(check.table):
        return "not done"
    return "no verdict" if check.threshold is None and check.passed is None else VERDICTS[check.passed]


def balance(t: Told) -> Section:
    check = check_with(t, "balance", "covariate balance", column="smd_before")
    if check is None:
        return t.section("balance", Prose(t.why("check_balance", "balance", "checks")))
    size = (5.4, max(2.6, 1.3 + 0.21 * min(len(check.table), 40)))
    alt = f"Standardised mean differences before and after weighting. {check.text}"
    picture = Picture("balance", alt, words("study")["balance"], partial(draw, "plot_balance", check), size)
    caption = (
        "Balance before and after weighting: standardised mean difference (SMD), ratio of variances (VR), KS distance"
    )
    short = {"smd": "SMD", "variance_ratio": "VR", "ks": "KS"}
    names = {f"{key}_{when}": f"{name} {when}" for key, name in short.items() for when in ("before", "after")}
    table = plain_table("balance", caption, check.table, names=names)
    texts = {c: [two_decimals(v) for v in table.frame[c]] for c in names.values() if c in table.frame}
    table = replace(table, texts=texts)
    return t.section("balance", Prose(check.text, warning=check.passed is False), picture, table)


def two_decimals(value: float) -> str:
    return "" if np.isnan(value) else number(value, 0.1, 2)


def draw(plot: str, finding: Any, ax: Axes, **options: Any) -> Axes:
    """Draw a finding by the function of `effects.plots` of that name."""
    drawn: Axes = getattr(plots, plot)(finding, ax=ax, **options)
    return drawn


def overlap(t: Told) -> Section:
    """Who had a chance of every arm, what that leaves of the sample, and who is lost where rows are trimmed."""
    s, check = t.s, check_with(t, "overlap")
    e, names = s.nuisance.propensity, tuple(map(str, s.arms))
    labels = np.array([str(s.arms[k]) for k in s.a])
    low = "; ".join(f"{name}: lowest {number(e[:, k].min(), digits=2)}" for k, name in enumerate(names))
    alt = f"Propensities by arm, mirrored: those who had the arm above the line, the others below. {low}."
    size = (5.0, 3.1 if len(names) == 2 else 1.6 + 1.1 * len(names))
    caption = "How probable each arm was for the units that had it and for the others."
    blocks: list[Block] = [Picture("overlap", alt, caption, partial(draw_overlap, e, labels, names), size)]
    if check is None:
        blocks.append(Prose(t.why("check_overlap", "overlap", "checks")))
    else:
        blocks.insert(0, Prose(check.text, warning=check.passed is False))
        shares = tuple(c for c in map(str, check.table.columns) if "below" in c or "share" in c)
        hidden = ("n expected", "5%", "25%", "75%", "95%")
        caption = "Propensity and effective size by arm"
        blocks.append(plain_table("overlap", caption, check.table, percent=shares, hidden=hidden))
    blocks += [Prose(words("overlap")["effective"]), supported(s), *trimming(t)]
    return t.section("overlap", *blocks)


def trimming(t: Told) -> Iterator[Block]:
    found = t.f.trimming
    yield Heading("Trimming")
    if found is None:
        yield Prose(t.why("trimming", "trim"))
        return
    yield Prose(found.text)
    if np.all(found.keep):  # a table of nobody
        return
    alt = f"Propensities with the limits of trimming. {found.text}"
    yield Picture("trimming", alt, words("study")["trimming"], partial(draw, "plot_trimming", found))
    table = plain_table("trimming", "Who is lost: means of those kept and of those trimmed", found.table)
    dates = {spec.name for spec in t.f.est.schema_.columns if spec.kind == "date"}
    names, shown = table.frame.iloc[:, 0], table.shown
    days = {
        column: [
            day(v) if n in dates else text for n, v, text in zip(names, table.frame[column], shown[column], strict=True)
        ]
        for column in ("kept", "lost")
        if column in shown
    }
    yield replace(table, texts=days)


def day(days: float) -> str:
    """Days since 1970 as a date."""
    return "" if np.isnan(days) else f"{pd.Timestamp(0) + pd.Timedelta(days=round(days)):%Y-%m-%d}"
