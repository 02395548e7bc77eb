"""The sections of a study that tell what was found: effects, for whom, decisions, checks, sensitivity, computation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from effects.effect import Estimate
from effects.plots import number
from effects.report import target
from effects.report.blocks import Block, Facts, Heading, Picture, Prose, Section, Table, p_value, words
from effects.report.sections import _spread as spread_of
from effects.report.sections import _training as training_of
from effects.report.sections import _units as units_of
from effects.report.sections import _weights as weights_of
from effects.report.sections import lead as lead_of
from effects.report.study import (
    Told,
    assumptions,
    balance,
    baseline,
    check_with,
    data,
    draw,
    flow,
    measure,
    overlap,
    plain_table,
    population,
    protocol,
    question,
    sentence,
    verdict,
    without_paths,
)

#: Pictures of checks by the check's name: function of `effects.plots`, size, whether it names the outcome.
PICTURES = {
    "calibration": ("plot_pit", (5.0, 3.3), False),
    "coverage by group": ("plot_coverage_by", (5.0, 3.3), False),
    "benefit calibration": ("plot_benefit_calibration", (5.0, 3.5), True),
    "targeting": ("plot_toc", (5.0, 3.3), True),
}
LONG_FOREST = 40
CURVE_ROWS = 11


def study_sections(t: Told) -> tuple[Section, ...]:
    """All sections of the page, in the order they are read in."""
    asked = (question(t), protocol(t), assumptions(t), flow(t), data(t), baseline(t), balance(t), overlap(t))
    found = (estimates(t), units(t), heterogeneity(t), decisions(t), checks(t), sensitivity(t))
    ending = (limitations(t), computation(t), other(t))
    return (*asked, *found, *ending, checklist(t))


# ---- the findings in a few sentences ---------------------------------------------------------------------------------


def study_lead(t: Told) -> Iterator[str]:
    """Effect, naive difference, spread, checks, sensitivity: one sentence each."""
    for k, said in enumerate(lead_of(t.s)):
        if k < len(t.primary):
            e = t.primary[k]
            whom = words("populations_short")[population(e)].format(
                treated=t.s.arm(e.treated), control=t.s.arm(e.control)
            )
            yield said.replace("On average,", f"On average {whom},", 1).removesuffix(").") + f", {p_text(e)})."
            if k == len(t.primary) - 1:
                yield from naive_sentences(t)
        elif k < len(t.primary) + len(t.s.effects):
            yield said
    names = {word: [c.name for c in t.f.checks if verdict(c) == word] for word in ("passed", "failed", "undecided")}
    n = sum(map(len, names.values()))
    if n:
        parts = [f"{len(names['passed']) or 'none'} passed"]
        parts += [f"{len(own)} {word} ({', '.join(own)})" for word, own in names.items() if own and word != "passed"]
        yield f"Of {n} check{'s' if n > 1 else ''} with a verdict {', '.join(parts)}."
    if t.f.evalue is not None and t.f.evalue.point > 1 and not t.trial:
        say, e = words("study"), t.f.evalue
        ending = "" if e.limit is None else say["evalue_null" if e.limit == 1 else "evalue_limit"]
        yield say["evalue_lead"].format(point=f"{e.point:.2f}") + ending.format(
            limit=f"{e.limit or 1:.2f}", level=t.s.at
        )


def naive_sentences(t: Told) -> Iterator[str]:
    for e in t.primary:
        naive = t.f.naive.get(e.treated) if t.f.naive else None
        if naive is not None:
            unit = f" {t.s.unit}" if t.s.unit else ""
            whose = f"{t.s.arm(e.treated)} and {t.s.arm(e.control)}" if len(t.arms) > 2 else "the arms"
            yield f"Unadjusted, {whose} differ by {told(naive)}{unit} ({t.s.at} interval {interval(naive)})."


def p_text(e: Estimate) -> str:
    p = p_value(e.p_value)
    return f"p\u00a0{p[0]}\u00a0{p[1:]}" if p.startswith("<") else f"p\u00a0=\u00a0{p}"


def told(e: Estimate) -> str:
    """An estimate with the decimals that its error deserves."""
    return number(e.value, _scale(e), 2)


def _scale(e: Estimate) -> float | None:
    if e.link == "reciprocal":  # the error of a number needed to treat may be enormous
        return None
    return e.se if e.se > 0 else None


def interval(e: Estimate) -> str:
    """``1.2 to 3.4``; through infinity for a number needed to treat whose risk difference may be zero."""
    low, high = (number(limit, _scale(e), 2) for limit in e.interval())
    if e.link == "reciprocal" and e.interval()[0] < 0 < e.interval()[1]:
        return f"{high} to ∞ to {low}"
    return f"{low} to {high}"


# ---- the effect ------------------------------------------------------------------------------------------------------


def estimates(t: Told) -> Section:
    s, say, f = t.s, words("study"), t.f
    naive = [(e, "naive") for e in (f.naive or {}).values()]
    blocks: list[Block] = []
    if f.averages:
        blocks.append(estimates_table(t, "effects", [*[(e, population(e)) for e in f.averages], *naive]))
        if t.binary:
            blocks.append(Prose(say["nnt"]))
    else:
        blocks.append(Prose(t.why("averages")))
    blocks.append(Prose(words("average")["naive"] if not t.trial else say["naive_trial"]))
    if f.means:
        rows = [
            (str(arm), t.counts[arm], float(s.y[s.a == k].mean()), e.value, *e.interval(), e.se)
            for k, arm in enumerate(t.arms)
            if (e := f.means.get(arm)) is not None
        ]
        means = pd.DataFrame(rows, columns=["arm", "n", "observed", "if all had it", "lower", "upper", "se"])
        caption = f"{s.subject[0].upper()}{s.subject[1:]} by arm, observed and adjusted{s.in_unit}"
        blocks.append(Table("means", caption, means, means["se"], (), s.pairs))
    else:
        blocks.append(Prose(t.why("means")))
    blocks += [Heading("Effects on the quantiles"), *quantiles(t)]
    return t.section("estimates", *blocks, brief=True)


def estimates_table(t: Told, name: str, each: list[tuple[Estimate, str]]) -> Table:
    """Estimates on several scales, each written with its own decimals."""
    rows = [
        (f"{e.treated} − {e.control}", whom, measure(e, t.binary), e.method, e.value, *e.interval(), e.p_value, e.se)
        for e, whom in each
    ]
    columns = ["contrast", "estimand", "measure", "method", "estimate", "lower", "upper", "p", "se"]
    frame = pd.DataFrame(rows, columns=columns)
    ends = f"{t.s.at} interval"
    texts = {
        "estimate": [told(e) for e, _ in each],
        ends: [interval(e) for e, _ in each],
        "method": [_method(e.method) for e, _ in each],
    }
    hidden = ("se", *t.s.hidden)
    caption = f"Effects on {t.s.subject}{t.s.whose}"
    return Table(name, caption, frame, None, (), {ends: ("lower", "upper")}, hidden, p=("p",), texts=texts)


def _method(method: str) -> str:
    return method.removesuffix(", cross-fitted")


def quantiles(t: Told) -> Iterator[Block]:
    found = t.f.quantiles
    if found is None:
        yield Prose(t.why("quantiles", "qte", "estimate_qte"))
        return
    rows = [(f"{label:g}" if isinstance(label, float) else str(label), e.value, *e.interval(), e.p_value)
            for label, e in zip(found.labels, found, strict=True)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["quantile", "effect", "lower", "upper", "p"])
    caption = f"Difference between the quantiles of both arms' outcomes{t.s.whose}"
    yield Table("quantiles", caption, frame, pd.Series(found.se), (), t.s.pairs, p=("p",))
    yield Prose(words("study")["quantiles"])


def units(t: Told) -> Section:
    """Outcome laws of the patients with the lowest, median and highest CATE."""
    return t.section("units", Prose(words("study")["units"]), *units_of(t.s).blocks)


# ---- for whom --------------------------------------------------------------------------------------------------------


def heterogeneity(t: Told) -> Section:
    """Spread of the CATE, subgroups named beforehand, what it goes with, and what a tree finds."""
    f, say = t.f, words("study")
    blocks: list[Block] = [Heading("Spread of the predicted effects"), *spread_of(t.s).blocks]
    blocks += [Heading("Subgroups named beforehand"), *about(t), *subgroups(t)]
    blocks.append(Heading("What the effect goes with"))
    if f.importance is None:
        blocks.append(Prose(t.why("importance", "modifier_importance")))
    else:
        caption = say["importance"]
        alt = f"Importance of the columns for the predicted effect. {_text(f.importance)}"
        size = (5.2, max(2.4, 1.1 + 0.26 * min(len(f.importance.table), 20)))
        blocks.append(Picture("importance", alt, caption, partial(draw, "plot_importance", f.importance), size))
        shares = ("importance", "lower", "upper")
        names = {"importance": "share of variance"}
        table = plain_table("importance", "Importance for the predicted effect", f.importance.table, names=names,
                            percent=shares, level=f.importance.level)  # fmt: skip
        blocks.append(table)
    blocks += dependence(t)
    if f.projection is None:
        blocks.append(Prose(t.why("projection", "best_linear_projection")))
    else:
        frame = coefficients(f.projection, t.f.plan.level)
        blocks.append(plain_table("projection", say["projection"], frame, level=t.f.plan.level))
    blocks.append(Heading("Subgroups found by a tree"))
    if f.tree is None:
        blocks.append(Prose(t.why("tree", "subgroup_tree")))
    else:
        alt = f"Subgroups that a tree finds. {_text(f.tree)}"
        blocks.append(Prose(say["tree"]))
        blocks.append(
            Picture("tree", alt, say["tree_caption"], partial(draw, "plot_subgroup_tree", f.tree), (6.0, 3.4))
        )
        blocks.append(plain_table("tree", "Effects in the leaves", f.tree.to_frame(), level=t.f.plan.level))
    return t.section("heterogeneity", *blocks)


def about(t: Told) -> Iterator[Prose]:
    """Of several arms, the one that all further sections are about."""
    if len(t.arms) > 2 and t.f.averages:
        e = t.f.averages[0]
        yield Prose(words("study")["about"].format(treated=t.s.arm(e.treated), control=t.s.arm(e.control)))


def coefficients(found: Any, level: float) -> pd.DataFrame:
    """A linear description of the effect: a table, estimates, or results of statsmodels."""
    if isinstance(found, pd.DataFrame):
        return found
    if hasattr(found, "conf_int"):
        lower, upper = np.asarray(found.conf_int(1 - level)).T
        columns = {"coef": found.params, "std err": found.bse, "lower": lower, "upper": upper, "p": found.pvalues}
        return pd.DataFrame(columns).rename_axis("term")
    frame: pd.DataFrame = found.to_frame()
    return frame


def subgroups(t: Told) -> Iterator[Block]:
    found = t.f.subgroups
    if found is None:
        yield Prose(t.why("subgroups", "subgroup_effects"))
        return
    frame = found.to_frame()
    height = 1.4 + 0.27 * min(len(frame) + frame["subgroup"].nunique(), LONG_FOREST)
    alt = f"The effect by subgroup. {found.text}"
    outcome: dict[str, Any] = {"outcome_name": t.s.event}
    yield Picture(
        "subgroups", alt, words("study")["forest"], partial(draw, "plot_forest", found, **outcome), (6.2, height)
    )
    yield subgroup_table(t, found, frame)
    yield from (Prose(sentence(note)) for note in getattr(found, "notes", ()))


def subgroup_table(t: Told, found: Any, frame: pd.DataFrame) -> Table:
    """Counts by arm (with events, of binary outcomes), effect and interaction test, once a factor."""
    names = {"p": "p (interaction)", "p_holm": "p (Holm)", "coef": "effect"}
    texts: dict[str, list[str]] = {}
    hidden = ["std err"]
    for arm in t.arms:
        n, events = f"n [{arm}]", f"events [{arm}]"
        if arm not in (found.overall.treated, found.overall.control):
            hidden += [n, events]
        elif events in frame:
            names[n] = f"{arm}: events / n"
            texts[names[n]] = [f"{k:,.0f} / {m:,.0f}" for k, m in zip(frame[events], frame[n], strict=True)]
            hidden.append(events)
        elif n in frame:
            names[n] = f"{arm}: n"
    hidden += ["n"] if len(t.arms) == 2 and len(names) > 3 else []
    whose = f": {found.overall.treated} − {found.overall.control}{t.s.in_unit}"
    caption, scale = f"Effects in subgroups{whose}", frame["std err"]
    table = plain_table(
        "subgroups", caption, frame, names=names, hidden=tuple(hidden), scale=scale, level=t.f.plan.level
    )
    shown, again = table.shown, frame["subgroup"].duplicated().to_numpy()
    for column in ("p (interaction)", "p (Holm)"):
        if column in shown:
            texts[column] = ["" if old or p == "n/a" else p for old, p in zip(again, shown[column], strict=True)]
    return replace(table, texts=texts)


def first_blank(table: Table, *columns: str) -> Table:
    """The table with blanks for what its first row cannot have."""
    shown = table.shown
    texts = {name: ["", *shown[name][1:]] for name in columns if name in shown}
    return replace(table, texts={**table.texts, **texts})


def dependence(t: Told) -> Iterator[Block]:
    """Curves of the effect along single columns, where the findings have any."""
    found = getattr(t.f, "dependence", None) or ()
    named: dict[str, Any] = {"outcome_name": t.s.event, "unit": t.s.unit}
    for k, curve in enumerate(found.values() if hasattr(found, "values") else found, 1):
        name = str(getattr(curve, "column", k))
        alt = f"Partial dependence of the predicted effect on {name}. {_text(curve)}"
        caption = words("study")["dependence"].format(column=name)
        yield Picture(f"dependence-{k}", alt, caption, partial(draw, "plot_partial_dependence", curve, **named))


def _text(finding: Any) -> str:
    """What a finding says of itself, on one line."""
    return " ".join(str(getattr(finding, "text", "")).split())


# ---- decisions, checks, sensitivity ----------------------------------------------------------------------------------


def decisions(t: Told) -> Section:
    f, say = t.f, words("study")
    named: dict[str, Any] = {"outcome_name": t.s.event, "unit": t.s.unit}
    blocks: list[Block] = []
    if f.policy is None:
        blocks.append(Prose(t.why("policy", "policy_value")))
    else:
        alt = f"Value of the policy beside treating all and treating none. {_text(f.policy)}"
        blocks.append(Prose(_text(f.policy)))
        blocks.append(Picture("policy", alt, say["policy"], partial(draw, "plot_policy_value", f.policy, **named)))
        frame = f.policy.to_frame()
        ranges = {"lower": f"{t.s.at} interval", "gain_lower": "gain, interval"}
        names = {"value": "mean outcome", "gain_p": "p"}
        caption = f"Mean outcome under the policy and under each arm for all, and what the policy gains{t.s.in_unit}"
        unpaid = () if frame["cost"].any() else ("cost",)
        table = plain_table("policy", caption, frame, names=names, ranges=ranges, hidden=unpaid)
        blocks.append(first_blank(table, "gain, interval", "gain", "p"))
    if f.curve is None:
        blocks.append(Prose(t.why("curve", "decision_curve")))
    else:
        alt = f"Net benefit by threshold. {_text(f.curve)}"
        blocks.append(Prose(_text(f.curve)))
        blocks.append(Picture("curve", alt, say["curve"], partial(draw, "plot_decision_curve", f.curve, **named)))
        shown = f.curve.table
        step = max(1, -(-len(shown) // CURVE_ROWS))
        every = "" if step == 1 else ", at some of them"
        ranges = {f"{name}_lower": f"{name.replace('_', ' ')}, interval" for name in ("model", "treat_all", "gain")}
        caption = f"Net benefit by threshold{every}; {100 * f.curve.level:.10g}% intervals"
        rows, hidden = shown.iloc[::step].reset_index(drop=True), ("treat_none", "treat all, interval")
        blocks.append(plain_table("curve", caption, rows, percent=("share",), ranges=ranges, hidden=hidden))
    return t.section("decisions", *blocks, Prose(say["decisions"]))


def checks(t: Told) -> Section:
    """Every check with its verdict; a paragraph and the numbers of those that failed; their pictures."""
    f = t.f
    if not f.checks:
        return t.section("checks", Prose(t.why("checks", "run_checks")))
    rows = [(c.name, verdict(c), c.text, c.value, np.nan if c.threshold is None else c.threshold) for c in f.checks]
    frame = pd.DataFrame(rows, columns=["check", "verdict", "finding", "value", "against"])
    texts = {column: [compact(value) for value in frame[column]] for column in ("value", "against")}
    table = Table("checks", "Checks and their verdicts", frame, texts=texts)
    blocks: list[Block] = [table]
    failed = [c for c in f.checks if c.passed is False]
    for check in failed:
        blocks += [Heading(f"Failed: {check.name}"), Prose(sentence(check.text), warning=True)]
        meaning = words("checks")
        blocks.append(Prose(meaning.get(check.name.partition(":")[0], meaning["other"])))
        if check.name not in ("balance", "overlap") and 0 < len(check.table) <= 30:
            blocks.append(plain_table(f"check {check.name}", f"Numbers behind: {check.name}", check.table))
    for check in f.checks:
        if check.name in PICTURES:
            plot, size, names = PICTURES[check.name]
            alt = f"{check.name}, {verdict(check)}: {check.text}"
            caption = words("check_pictures")[check.name]
            named: dict[str, Any] = {"outcome_name": t.s.event} if names else {}
            pen = partial(draw, plot, check, **named)
            blocks.append(Picture(f"check-{check.name.replace(' ', '-')}", alt, caption, pen, size))
    missed = {step: why for step, why in f.skipped.items() if step.startswith(("check", "placebo")) or "check" in step}
    if missed:
        blocks.append(Facts(tuple((f"Not done: {step}", sentence(without_paths(why))) for step, why in missed.items())))
    return t.section("checks", *blocks, Prose(words("study")["checks"]), brief=True)


def compact(value: float) -> str:
    """Three digits at most: a check's value may be a p-value, a score or a count."""
    return "" if np.isnan(value) else f"{value:.3g}".replace("-", "−")


def sensitivity(t: Told) -> Section:
    """How strong a hidden cause would have to be: E-value, robustness values, marginal sensitivity."""
    f, say = t.f, words("study")
    blocks: list[Block] = [Prose(say["sensitivity_trial" if t.trial else "sensitivity"])]
    blocks += [Heading("E-value"), Prose(t.why("evalue", "e_value") if f.evalue is None else sentence(f.evalue.text))]
    if f.evalue is not None:
        blocks.append(Prose(say["evalue"]))
    bounds = {"lower": "bounds", "ci_lower": f"{t.s.at} limits"}
    blocks.append(Heading("Robustness value"))
    if f.omitted is None:
        blocks.append(Prose(t.why("omitted", "omitted_variable_bias")))
    else:
        alt = f"Contours of the estimate by the strength of a hidden cause. {_text(f.omitted)}"
        blocks.append(Prose(_text(f.omitted)))
        blocks.append(Picture("omitted", alt, say["omitted"], partial(draw, "plot_sensitivity", f.omitted), (5.2, 3.9)))
        benchmarks = getattr(f.omitted, "benchmarks", None)
        if benchmarks is not None and len(benchmarks):
            names = {"cf_y": "share of outcome", "cf_d": "share of treatment", "delta": "change if left out"}
            table = plain_table("benchmarks", say["benchmarks"], benchmarks, names=names, ranges=bounds,
                                percent=("cf_y", "cf_d"), hidden=("rho",))  # fmt: skip
            blocks += [table, Prose(say["benchmarks_reading"])]
    blocks.append(Heading("Marginal sensitivity model"))
    if f.marginal is None:
        blocks.append(Prose(t.why("marginal", "marginal_sensitivity")))
    else:
        alt = f"Bounds of the effect as hidden confounding grows. {_text(f.marginal)}"
        blocks.append(Prose(_text(f.marginal)))
        blocks.append(
            Picture("marginal", alt, say["marginal"], partial(draw, "plot_tipping", f.marginal, outcome_name=t.s.event))
        )
        blocks.append(plain_table("marginal", say["marginal_table"], f.marginal.table, ranges=bounds))
    return t.section("sensitivity", *blocks, brief=True)


# ---- the end ---------------------------------------------------------------------------------------------------------


def limitations(t: Told) -> Section:
    """The authors' words, and what the computation itself has to say against its findings."""
    plan, f = t.f.plan, t.f
    known = [("Check that failed", f"{c.name}: {sentence(c.text)}") for c in f.checks if c.passed is False]
    known += [("Said while it ran", sentence(without_paths(caution))) for caution in f.cautions]
    known.append(("What the data cannot tell", words("assumptions")["What the data cannot tell"]))
    return t.section(
        "limitations",
        Heading("Interpretation"), *target.paragraphs(plan.words, "interpretation"),
        Heading("Limitations"), *target.paragraphs(plan.words, "limitations"),
        Heading("From the computation"), Facts(tuple(known)),
    )  # fmt: skip


def computation(t: Told) -> Section:
    f, plan = t.f, t.f.plan
    params = f.est.get_params(deep=False) if hasattr(f.est, "get_params") else plan.settings
    made = f"{f.estimator}({', '.join(f'{key}={value!r}' for key, value in params.items())})"
    total = sum(f.seconds.values())
    versions = ", ".join(f"{name} {version}" for name, version in f.versions.items())
    pairs = [
        ("Estimator", made),
        ("Training", training_of(getattr(f.est, "history_", ()))),
        ("Adjustment", words("study")["adjustment"]),
        ("Seed", str(plan.random_state)),
        ("Table", f"{Path(str(f.source['file'])).name}, sha256 {f.source['sha256']}"),
        ("Versions", versions),
        ("Time", f"{number(total, 1.0 if total >= 10 else None, 1 if total >= 10 else 2)} seconds in all"),
        ("Command", command_of(f.command)),
    ]
    facts = Facts(tuple((term, text) for term, text in pairs if text), code=("Estimator", "Command"))
    steps = pd.DataFrame(list(f.seconds.items()), columns=["step", "seconds"])
    texts = {"seconds": [f"{value:.1f}" for value in steps["seconds"]]}
    skipped = pd.DataFrame(
        [(step.replace("_", " "), sentence(without_paths(why))) for step, why in f.skipped.items()],
        columns=["step", "why"],
    )
    blocks: list[Block] = [facts, *weights_of(t.s)]
    if len(steps):
        blocks.append(Table("seconds", "Seconds by step", steps, texts=texts))
    if len(skipped):
        blocks.append(Table("skipped", "What was not computed, and why", skipped))
    else:
        blocks.append(Prose("Every step of the study was computed."))
    return t.section("computation", *blocks)


def command_of(command: str) -> str:
    """The command without the folders of the machine that it ran on."""
    try:
        parts = shlex.split(command)
    except ValueError:
        return command
    return shlex.join(Path(part).name if _is_absolute(part) else part for part in parts)


def _is_absolute(part: str) -> bool:
    return part.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", part) is not None


def other(t: Told) -> Section:
    terms = (
        ("Ethics", "ethics"),
        ("Registration and protocol", "registration"),
        ("Data and code", "data_sharing"),
        ("Funding", "funding"),
        ("Conflicts of interest", "interests"),
    )
    return t.section("other", target.facts(t.f.plan.words, *terms))


def checklist(t: Told) -> Section:
    """Where each item of the TARGET statement is answered, or who has to answer it."""
    f = t.f
    closed = [
        name
        for name, nothing in (
            ("estimates", not f.averages),
            ("baseline", f.baseline is None),
            ("balance", check_with(t, "balance", "covariate balance", column="smd_before") is None),
            ("checks", not f.checks),
            ("sensitivity", f.evalue is None and f.omitted is None and f.marginal is None),
            ("heterogeneity", f.subgroups is None and f.tree is None and f.importance is None),
        )
        if nothing
    ]
    table = target.checklist(f.plan.words, t.titles, closed, t.trial)
    say = words("study")
    waiting = sum("open: words." in where for where in table.frame["where"])
    told = say["all_filled"] if not waiting else say["waiting"].format(n=waiting)
    about = say["consort"] if t.trial else f"{say['target']} {target.CITATION}"
    return t.section("checklist", Prose(about), Prose(told), table)
