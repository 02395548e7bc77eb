"""The page of a benchmark: ranks, errors, intervals, times, the table, and how to get it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from functools import partial
from typing import Any

import pandas as pd

from effects.benchmark.results import ranks, shown, wide
from effects.benchmark.suites import SUITES
from effects.plots.benchmark import plot_cost, plot_coverage_width, plot_errors, plot_ranks
from effects.report import Facts, Picture, Prose, Report, Section, Table
from effects.report.blocks import Block

_WORDS = {
    "out_sqrt_pehe": "√PEHE, out of sample",
    "out_policy_risk": "policy risk, out of sample",
    "out_ate_error": "error of the ATE, out of sample",
    "out_wasserstein": "Wasserstein-1 distance, out of sample",
    "ate_error": "error of the ATE",
}
_TITLES = {
    "ihdp": "IHDP: real children, simulated outcomes",
    "acic2016": "ACIC 2016: 4,802 pregnancies, simulated outcomes",
    "acic2017": "ACIC 2017: strong confounding, small effects",
    "jobs": "Jobs: a trial inside an observational study",
    "twins": "Twins: both outcomes known",
    "distributions": "Simulated laws: how near are the predicted ones",
    "ate": "Average effects: do intervals hold the truth",
}
_READ = {
    "ihdp": "√PEHE is the root mean squared error of the predicted effects. The interval score adds to the width of an "
    "interval what its misses cost; smaller is better. Medians are the safer to read: a few hard replications rule "
    "every mean.",
    "jobs": "Policy risk is the share without work if everyone were treated by the sign of the predicted effect, among "
    "the randomised; its noise between splits is larger than most differences between estimators.",
    "twins": "No noiseless effects are published: the error is that of the average effect.",
    "distributions": "Mean Wasserstein-1 distance of the predicted law of every Y(a) given x to the true one, in the "
    "outcome's unit; for a binary outcome the distance of the probabilities. Who predicts effects alone has a dash.",
    "ate": "Mean absolute error; how often the interval holds the average effect of the population, its mean width. "
    "Ours are cross-fitted AIPW; the causal forest, BART and BCF give averages of their own; of the other peers it is "
    "the mean of their CATE, without an interval.",
}


def report(table: pd.DataFrame, *, command: str = "") -> Report:
    """The page of a table of runs.

    Parameters
    ----------
    table : DataFrame
        Of `effects.benchmark.run` or `effects.benchmark.read`.
    command : str, optional
        What to type to get it again.

    Returns
    -------
    Report
        ``save("page.html")`` writes one file that needs nothing else; .md, .tex and .txt work too.

    Raises
    ------
    ValueError
        If no run went well.

    Examples
    --------
    >>> from effects import benchmark
    >>> benchmark.report(benchmark.read("runs")).save("page.html")  # doctest: +SKIP
    """
    good = table[table["status"] == "ok"]
    if good.empty:
        why = f": {table['error'].iloc[0]}" if len(table) else ""
        raise ValueError(f"none of the {len(table)} runs went well, so there is nothing to report{why}.")
    suites = [name for name in SUITES if name in set(good["suite"])]
    sections = [_section(table, name) for name in suites]
    failed = table[table["status"] != "ok"]
    if len(failed):
        sections.append(_failures(failed))
    sections.append(_again(table, command))
    n_methods, n_peers = good["label"].nunique(), good.loc[good["peer"].astype(bool), "label"].nunique()
    facts = [f"{len(table):,} runs", f"{n_methods - n_peers} estimators of this package", f"{n_peers} of others"]
    return Report(
        title=f"Benchmark: {', '.join(suites)}",
        byline=" · ".join(facts),
        lead=tuple(_finding(table, name) for name in suites),
        sections=tuple(sections),
        estimates=(),
        level=float(good["level"].iloc[0]),
        date=date.today().isoformat(),
    )


def _finding(table: pd.DataFrame, suite: str) -> str:
    """One sentence: who is best, and how the best of the others fares."""
    values = wide(table, suite)
    n, figure = len(values), _WORDS[SUITES[suite].figure]
    if values.empty:
        return f"{suite}: no {figure} could be computed."
    ours = [label for label in _ours(table) if label in values]
    others = [label for label in values.columns if label not in ours]
    mixed = suite in ("distributions", "ate")  # units differ between data sets: ranks, not values
    score = values.rank(axis=1).mean() if mixed else values.median()
    word = "mean rank" if mixed else "median"
    groups = (("of this package", score[ours].dropna()), ("of the peers", score[others].dropna()))
    best = [f"{who} {group.idxmin()} {group.min():.3g}" for who, group in groups if len(group)]
    return f"{suite}, {n} data set{'s' * (n != 1)}, {figure}, smallest {word}: {', '.join(best)}."


def _ours(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table.loc[~table["peer"].astype(bool), "label"]))


def _section(table: pd.DataFrame, suite: str) -> Section:
    """The table of a suite and its pictures."""
    rows = table[(table["suite"] == suite) & (table["status"] == "ok")]
    blocks: list[Block] = [Prose(_READ.get(suite, _READ["ihdp"])), _table(table, suite)]
    blocks += _pictures(table, rows, suite)
    return Section(suite, _TITLES[suite], tuple(blocks))


def _table(table: pd.DataFrame, suite: str) -> Table:
    text = shown(table, suite)
    text["estimator"] = text["estimator"].str.strip("`")
    names = [name for name in text.columns if name != "estimator"]
    # the printed texts stand for numbers: columns of numbers are set flush right
    numbers = text[names].apply(lambda column: pd.to_numeric(column.str.extract(r"([\d.,]+)")[0].str.replace(",", "")))
    frame = pd.concat([text[["estimator"]], numbers], axis=1).reset_index(drop=True)
    replications = table.loc[table["suite"] == suite, "replication"].nunique()
    caption = f"{suite}: {replications} replication{'s' * (replications != 1)}, best first"
    return Table(f"{suite}_table", caption, frame, texts={name: list(text[name]) for name in names})


def _pictures(table: pd.DataFrame, rows: pd.DataFrame, suite: str) -> list[Block]:
    figure, ours = SUITES[suite].figure, _ours(table)
    what, values = _WORDS[figure], wide(table, suite)
    if values.empty:
        return []
    tall = (5.4, max(2.4, 1.45 + 0.17 * values.shape[1]))
    blocks: list[Block] = []
    try:
        found = ranks(table, suite)
    except ValueError as error:
        blocks.append(Prose(f"No ranks: {error}"))
    else:
        draw = partial(_draw, plot_ranks, found, what=what, ours=ours)
        caption = "Estimators whose bars do not overlap differ at the 5% level (Nemenyi's test after Friedman's)."
        if found.attrs["left_out"]:
            caption += f" Without a value on every data set, so without a rank: {', '.join(found.attrs['left_out'])}."
        blocks.append(Picture(f"{suite}_ranks", f"Mean ranks on {suite}", caption, draw, tall, optional=True))
    if suite not in ("distributions", "ate"):
        draw = partial(_draw, plot_errors, values, what=what, ours=ours)
        caption = "A point is a data set; boxes hold the middle half of them, the line in a box is the median."
        blocks.append(Picture(f"{suite}_errors", f"{what} on {suite}", caption, draw, tall, optional=True))
    return blocks + _scatters(table, rows, suite, ours)


def _scatters(table: pd.DataFrame, rows: pd.DataFrame, suite: str, ours: Sequence[str]) -> list[Block]:
    """Coverage against width, time against error."""
    blocks: list[Block] = []
    level = float(rows["level"].iloc[0])
    names = ("ate_covered", "ate_width") if suite == "ate" else ("out_cate_coverage", "out_cate_width")
    covered, width = (wide(table, suite, name) for name in names)
    mixed = suite in ("distributions", "ate")
    if not covered.empty:
        if mixed:  # widths in the unit of each data set: against the narrowest there
            width = width.div(width.min(axis=1), axis=0)
        means = pd.DataFrame({"coverage": covered.mean(), "width": width.mean()}).dropna()
        draw = partial(_draw, plot_coverage_width, means, level=level, ours=ours)
        caption = "Means over the data sets. Left and at the dashed line or above is best."
        caption += " Widths are relative to the narrowest on each data set." if mixed else ""
        size = (5.4, max(3.1, 0.9 + 0.155 * len(means)))
        blocks.append(
            Picture(f"{suite}_coverage", f"Coverage and width on {suite}", caption, draw, size, optional=True)
        )
    errors = wide(table, suite)
    if mixed:
        errors = errors.div(errors.min(axis=1).clip(lower=1e-12), axis=0)
    seconds = rows.assign(cpu=rows["fit_cpu_seconds"] + rows["predict_cpu_seconds"]).groupby("label")["cpu"].median()
    means = pd.DataFrame({"seconds": seconds.clip(lower=1e-3), "error": errors.median()}).dropna()
    what = _WORDS[SUITES[suite].figure] + (", relative to the best" if mixed else "")
    draw = partial(_draw, plot_cost, means, what=what, ours=ours)
    caption = "One thread; seconds of fitting and of predicting the held-out rows."
    size = (5.4, max(3.1, 0.9 + 0.155 * len(means)))
    blocks.append(Picture(f"{suite}_cost", f"Time and error on {suite}", caption, draw, size, optional=True))
    return blocks


def _draw(plot: Any, values: Any, ax: Any, **words: Any) -> Any:
    return plot(values, ax=ax, **words)


def _failures(failed: pd.DataFrame) -> Section:
    groups = failed.groupby(["label", "suite", "data", "error"], sort=False)
    frame = groups.size().rename("runs").reset_index()
    frame = frame.rename(columns={"label": "estimator", "data": "data set"})
    text = Prose(f"{len(failed)} runs failed; the figures above are of the others.", warning=True)
    return Section("failures", "What failed", (text, Table("failures", "Failed runs", frame)))


def _again(table: pd.DataFrame, command: str) -> Section:
    """What it was made with, and how to make it again."""
    rows = table[table["status"] == "ok"]
    found: dict[str, list[str]] = {}
    for text in dict.fromkeys(rows["versions"]):
        for name, version in json.loads(text).items():
            if version not in found.setdefault(name, []):
                found[name].append(version)
    pairs = [
        ("Command", command or "effects benchmark --suite " + ",".join(dict.fromkeys(rows["suite"]))),
        ("Revision", _listed(rows["revision"]) or "not of a checkout"),
        ("Versions", "; ".join(f"{name} {' and '.join(each)}" for name, each in found.items())),
        ("Processor", _listed(rows["processor"])),
        ("Cores, memory", "; ".join(f"{c} cores, {m:g} GB" for c, m in _pairs(rows, "cores", "memory_gb"))),
        ("System", _listed(rows["system"])),
        ("Threads", "one a run; CPU seconds are of all threads, without imports"),
        ("Memory added", f"peak of {_listed(rows['peak_of'])}, beyond what that held before it"),
        ("Seeds", _listed(rows["seed"].astype(str))),
        ("Intervals", _listed(rows["level"].map("{:g}".format))),
        ("CPU seconds in all", f"{rows[['fit_cpu_seconds', 'predict_cpu_seconds']].sum().sum():,.0f}"),
    ]
    words = Prose(
        "Data files that are not ours to ship are looked for in the folder that the variable EFFECTS_DATA names; an "
        "error says where each is published. Settings are defaults unless the estimator's name says otherwise. A run "
        "that was killed goes on from where it was, by the same command."
    )
    return Section("again", "How to get this page again", (words, Facts(tuple(pairs), code=("Command",))), brief=False)


def _listed(column: pd.Series) -> str:
    return ", ".join(str(one) for one in dict.fromkeys(column.dropna()) if str(one))


def _pairs(rows: pd.DataFrame, *names: str) -> list[tuple[Any, ...]]:
    return list(dict.fromkeys(rows[list(names)].itertuples(index=False, name=None)))
