"""``effects study STUDY.toml``: a whole study from one declarative file; ``--init TABLE`` writes the file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effects.cli.tables import InputError, near, say, stop_if_asked

if TYPE_CHECKING:
    from effects.study import Findings


def study(
    plan: Annotated[
        Path | None, typer.Argument(metavar="[STUDY.toml]", help="What is asked; with --init where to write it.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="TABLE", help="Write a commented plan for TABLE, to fill in.")
    ] = None,
    treatment: Annotated[str | None, typer.Option("--treatment", "-t", help="With --init: its column.")] = None,
    outcome: Annotated[str | None, typer.Option("--outcome", "-y", help="With --init: its column.")] = None,
    control: Annotated[str | None, typer.Option(help="With --init: label of the control arm.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page, tables and partial results; the plan's name otherwise.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute anew what an earlier run has kept.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks (warnings stay).")] = False,
) -> None:
    """Do a whole study: fit, balance, overlap, effects, subgroups, checks, sensitivity; write one page to hand on.

    What was computed is kept in the folder: after Ctrl-C, or with other words in the plan, the same call goes on from
    there.
    """
    if init is not None:
        _write_plan(init, plan, treatment, outcome, control, quiet)
        return
    if plan is None:
        raise InputError("name the plan: effects study STUDY.toml (effects study --init TABLE writes one)")
    if treatment or outcome or control:
        raise InputError("--treatment, --outcome and --control go with --init: a plan says them itself")
    _run(plan, out, fresh, quiet)


def _write_plan(
    table: Path, plan: Path | None, treatment: str | None, outcome: str | None, control: str | None, quiet: bool
) -> None:
    """A plan beside the table, never over another."""
    from effects.datasets import read_table
    from effects.files import write_whole
    from effects.report.target import KEYS
    from effects.study import draft

    target = table.parent / "STUDY.toml" if plan is None else plan
    if target.suffix.lower() != ".toml":
        raise InputError(f"{str(target)!r} must end in .toml")
    if target.exists():
        raise InputError(f"{str(target)!r} is there already: name another, as in effects study OTHER.toml --init TABLE")
    frame = read_table(table)
    file = os.path.relpath(table.resolve(), target.parent.resolve())
    words = draft(
        frame, file, treatment=treatment, outcome=outcome, control=control, name=target.name, words=KEYS
    )  # fmt: skip
    write_whole(target, words)
    say(quiet, f"plan: {target}\nRead it, fill it in, then:  effects study {target}")


def _run(path: Path, out: Path | None, fresh: bool, quiet: bool) -> None:
    from effects.report import Report
    from effects.report.target import KEYS
    from effects.study import Plan, run
    from effects.study.findings import N_STEPS

    plan = Plan.read(path)
    for key in plan.words:
        if key not in KEYS:
            raise InputError(f"[words] has no key {key!r}{near(key, KEYS)}")
    folder = path.with_name(f"{path.stem}_files") if out is None else out
    _check_folder(folder)
    if fresh:
        _forget(folder)
    start, pages = time.perf_counter(), []
    with _bar(quiet) as progress:
        findings = run(plan, folder=folder, progress=progress)
        if progress is not None:
            progress("page", N_STEPS, N_STEPS)
        report = Report.from_study(findings)
        for suffix in dict.fromkeys(plan.formats):
            stop_if_asked()
            pages.append(f"{suffix}: {report.save(folder / f'report.{suffix}')}")
        _write_tables(findings, folder)
    stop_if_asked()
    typer.echo(report.text(), nl=False)
    for caution in findings.cautions:
        say(quiet, f"note: {' '.join(caution.split())}")
    for page in pages:
        say(quiet, page)
    say(quiet, f"done in {time.perf_counter() - start:.0f} s; the tables and what was computed are in {folder}")


def _check_folder(folder: Path) -> None:
    """Before any work: the folder is one, or can be made, and can be written to."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not there.is_dir():
        raise InputError(f"--out: {str(there)!r} is a file: name a folder")
    if not os.access(there, os.W_OK):
        raise InputError(f"--out: the folder {str(there)!r} cannot be written to: name another with --out")


def _forget(folder: Path) -> None:
    """Remove what earlier runs have kept, and nothing else."""
    import shutil

    for old in folder.glob("steps-*") if folder.is_dir() else ():
        shutil.rmtree(old)
    for old in folder.glob("fit-*") if folder.is_dir() else ():
        old.unlink()


def _write_tables(findings: Findings, folder: Path) -> None:
    """The numbers behind the page as csv: averages and checks."""
    import pandas as pd

    from effects.files import write_whole
    from effects.report.study import measure

    averages = pd.concat([one.to_frame() for one in findings.averages]).rename_axis("estimand")
    binary = findings.est.schema_.outcome.kind == "binary"
    averages.insert(0, "measure", [measure(one, binary) for one in findings.averages])
    averages.insert(1, "method", [one.method for one in findings.averages])
    write_whole(folder / "averages.csv", averages.to_csv())
    records = [(one.name, one.passed, one.value, one.threshold, one.text) for one in findings.checks]
    checks = pd.DataFrame(records, columns=["check", "passed", "value", "threshold", "finding"])
    write_whole(folder / "checks.csv", checks.to_csv(index=False))


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on a terminal's standard error, a line a step elsewhere; nothing where quiet."""
    if quiet:
        yield None
        return
    if not sys.stderr.isatty():
        said: list[str] = []

        def line(step: str, position: int, n_steps: int) -> None:
            stop_if_asked()
            if not said or said[-1] != step:
                typer.echo(f"[{position + 1}/{n_steps + 1}] {step}", err=True)  # the page comes last
            said.append(step)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def move(step: str, position: int, n_steps: int) -> None:
            stop_if_asked()
            bar.update(task, description=step, completed=position, total=n_steps + 1)

        yield move
