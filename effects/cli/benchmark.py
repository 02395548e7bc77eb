"""``effects benchmark``: estimators and other libraries on data with a known truth; one folder, one page."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effects.cli.study import _check_folder
from effects.cli.tables import InputError, Stopped, check_level, check_outputs, say, stop_if_asked

if TYPE_CHECKING:
    import pandas as pd

    from effects.benchmark.runner import Progress

_LISTS = ("--suite", "--estimators", "--peers", "--seeds", "--replications")
_PAGES = (".html", ".htm", ".md", ".tex", ".txt")


def benchmark(
    context: typer.Context,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="ihdp, acic2016, acic2017, jobs, twins, distributions, ate, memory: some, or several."),
    ] = None,
    replications: Annotated[
        list[str] | None,
        typer.Option(help="How many (10), or which (3-7, or 1,4,9); the suite's own number otherwise."),
    ] = None,
    estimators: Annotated[
        list[str] | None, typer.Option(help="all (unless said), none, or names such as DiffPO or 'TARNet(epochs=20)'.")
    ] = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(help="all that are installed (unless said), none, or names such as econml_forest."),
    ] = None,
    seeds: Annotated[list[str] | None, typer.Option(help="Seeds of the estimators: 0,1,2.")] = None,
    level: Annotated[float, typer.Option(help="Probability of the intervals, such as 0.9.")] = 0.9,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes, one run in each; -1 for all cores.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on this Dask cluster (extra `cluster`) instead.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs; what is done there is not done again.")] = Path(
        "effects-benchmark"
    ),
    report: Annotated[
        Path | None, typer.Option(help="The page: .html, .md, .tex or .txt; report.html in the folder otherwise.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what is done.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run again what failed.")] = False,
    table: Annotated[
        Path | None, typer.Option(help="Run nothing: print the tables of this folder or table file as Markdown.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks (warnings stay).")] = False,
) -> None:
    """Compare estimators of this package and of others on data with a known truth; write a table and a page.

    Each run is kept as it is finished: after Ctrl-C or a kill the same line goes on.
    """
    suites = _split(suite or ["ihdp"])
    if table is not None:
        _print_tables(table, _split(suite or []), level, quiet)
        return
    if "memory" in suites:
        _memory(suites)
        return
    page = out / "report.html" if report is None else report
    check_level(level)
    _check_folder(out)
    if report is not None:
        check_outputs({"--report": (report, _PAGES)})
    if jobs == 0 or jobs < -1:
        raise InputError(f"--jobs must be 1 or more, or -1 for all cores, got {jobs}")
    from effects import benchmark as bench
    from effects.cluster import connect

    wanted, left_out = bench.plan(
        suites,
        replications=_replications(_split(replications or [])),
        estimators=_names(estimators),
        peers=_names(peers),
        seeds=_seeds(_split(seeds or ["0"])),
        level=level,
    )
    for line in left_out:
        say(quiet, f"note: {line}")
    with ExitStack() as stack:
        stack.enter_context(connect(scheduler))
        progress = stack.enter_context(_bar(quiet, len(wanted)))
        stack.enter_context(_kept(out, quiet))
        n_jobs = None if scheduler else jobs
        found = bench.run(wanted, out, n_jobs=n_jobs, fresh=fresh, retry_failed=retry_failed, progress=progress)
    stop_if_asked()
    _deliver(found, suites, page, out, context.obj or "", quiet)


def joined(arguments: Sequence[str]) -> list[str]:
    """``--peers A B`` as ``--peers A --peers B``: lists may be written as a shell user expects, with blanks."""
    found: list[str] = []
    option, first = "", False
    for word in arguments:
        if word.startswith("-"):
            option, first = word if word in _LISTS else "", True
        else:
            found += [option] if option and not first else []
            first = False
        found.append(word)
    return found


def _deliver(found: pd.DataFrame, suites: Sequence[str], page: Path, out: Path, command: str, quiet: bool) -> None:
    """The tables on standard output, the page, and what failed."""
    from effects import benchmark as bench

    failed = found[found["status"] != "ok"]
    for (label, error), part in failed.groupby(["label", "error"], sort=False):
        typer.echo(f"warning: {label} failed in {len(part)} of its runs: {error}", err=True)
    revisions = [str(one) for one in found["revision"].dropna().unique()]
    if len(revisions) > 1:
        say(quiet, f"note: the runs are of several revisions ({', '.join(revisions)}); --fresh runs all of them again")
    written = bench.report(found, command=command).save(page)
    for name in dict.fromkeys(suites):
        if (found.loc[found["suite"] == name, "status"] == "ok").any():
            typer.echo(f"{name}\n\n{bench.markdown(found, name)}\n")
    say(quiet, f"table: {out / 'table.parquet'}\npage: {written}")


def _print_tables(path: Path, suites: Sequence[str], level: float, quiet: bool) -> None:
    from effects import benchmark as bench

    found = bench.read(path)
    if found["level"].nunique() > 1:  # of a folder that served twice
        found = found[found["level"] == level]
        say(quiet, f"note: the runs are of several levels; shown are those of --level {level:g}")
    for name in suites or list(dict.fromkeys(found["suite"])):
        typer.echo(f"{name}\n\n{bench.markdown(found, name)}\n")


def _memory(suites: Sequence[str]) -> None:
    if len(suites) > 1:
        raise InputError("--suite memory is measured alone: its peaks would be those of the others")
    from effects import benchmark as bench

    typer.echo(bench.memory().round(3).to_string(index=False))


@contextmanager
def _kept(out: Path, quiet: bool) -> Iterator[None]:
    """After Ctrl-C, say what is not lost."""
    try:
        yield
    except Stopped:
        count = len(list((out / "runs").glob("*.parquet")))
        say(quiet, f"{count:,} runs are kept in {out}: the same line goes on from there")
        raise


def _split(values: Sequence[str]) -> list[str]:
    """``a,b(x=1,y=2)`` as two: commas within brackets belong to the name."""
    return [part.strip() for value in values for part in re.split(r",(?![^(]*\))", value) if part.strip()]


def _names(values: list[str] | None) -> list[str]:
    names = _split(["all"] if values is None else values)
    return [] if names == ["none"] else names


def _replications(values: list[str]) -> int | list[int] | None:
    if not values:
        return None
    if len(values) == 1 and values[0].isdigit():
        return int(values[0])
    numbers: list[int] = []
    for value in values:
        first, dash, last = value.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InputError(f"--replications: {value!r} is neither a number nor a range such as 3-7")
        if int(last or first) < int(first):
            raise InputError(f"--replications: {value!r} ends before it begins")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _seeds(values: list[str]) -> list[int]:
    for value in values:
        if not value.isdigit():
            raise InputError(f"--seeds: {value!r} is no whole number of zero or more")
    return [int(value) for value in values]


@contextmanager
def _bar(quiet: bool, total: int) -> Iterator[Progress | None]:
    """A bar with the time left on a terminal, a line a run elsewhere; nothing where quiet."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():

        def line(row: dict[str, Any], done: int, of: int, left: float) -> None:
            typer.echo(f"[{done}/{of}] {_told(row)}; about {_duration(left)} left", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=total)

        def move(row: dict[str, Any], done: int, of: int, left: float) -> None:
            bar.update(task, description=f"about {_duration(left)} left; {_told(row)}", completed=done, total=of)

        yield move


def _told(row: dict[str, Any]) -> str:
    failed = "" if row["status"] == "ok" else " FAILED"
    return f"{row['data']} {row['replication']} {row['label']}{failed} {row['seconds']:.1f} s"


def _duration(seconds: float) -> str:
    """Seconds as a reader says them.

    >>> _duration(40), _duration(600), _duration(9000)
    ('40 s', '10 min', '2.5 h')
    """
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
