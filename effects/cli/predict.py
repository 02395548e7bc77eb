"""``effects predict``: a saved model, a table of any size; out comes a table, with memory for some batches of rows."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from effects.cli.tables import (
    TABLE_SUFFIXES,
    InputError,
    check_level,
    check_outputs,
    load_model,
    say,
    stop_if_asked,
)

Progress = Callable[[int, int | None], None]
_MOST_JOBS = 8  # unless asked: each takes some hundred megabytes
_SECONDS = 20.0  # between two lines of progress where there is no terminal


def predict(
    model: Annotated[Path, typer.Argument(help="What `effects estimate --save` wrote.")],
    table: Annotated[
        Path, typer.Argument(help="csv, tsv, parquet, feather, Stata or SPSS; a folder of parquet: one row a unit.")
    ],
    out: Annotated[Path | None, typer.Option(help="Table of predictions, one row a unit: .csv or .parquet.")] = None,
    id_column: Annotated[
        str | None, typer.Option("--id", help="Column that names the units; the row number otherwise.")
    ] = None,
    level: Annotated[float, typer.Option(help="Probability of the intervals, such as 0.9.")] = 0.9,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Batches at once; as many as cores, at most 8, otherwise.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Predict on this Dask cluster (extra `cluster`) instead.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks (warnings stay).")] = False,
) -> None:
    """Predict outcomes and effects of the units in TABLE with a saved MODEL (csv on standard output without --out).

    Parquet and csv of any size are read, predicted and written batch by batch.
    """
    check_level(level)
    check_outputs({"--out": (out, TABLE_SUFFIXES)}, table)
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be 1 or more, got {jobs}")
    est = load_model(model)
    from joblib import cpu_count

    from effects.cluster import connect
    from effects.stream import predict_table

    n_jobs = None if scheduler else jobs or min(cpu_count(), _MOST_JOBS)
    with ExitStack() as stack:
        stack.enter_context(connect(scheduler))
        progress = stack.enter_context(_bar(quiet))
        file = None if out is not None else stack.enter_context(tempfile.TemporaryFile())
        predict_table(
            est,
            table,
            out or file,  # type: ignore[arg-type]
            level=level,
            id_column=id_column,
            n_jobs=n_jobs,
            progress=progress,
        )
        stop_if_asked()
        if file is not None:  # nothing is printed of a table that could not be predicted to its end
            file.seek(0)
            shutil.copyfileobj(TextIOWrapper(file, encoding="utf-8", newline=""), sys.stdout)
    if out is not None:
        say(quiet, f"units: {out}")


@contextmanager
def _bar(quiet: bool) -> Iterator[Progress]:
    """A bar with the time left on a terminal, a line now and then elsewhere; Ctrl-C is seen after every batch."""
    start = last = time.monotonic()

    def line(done: int, total: int | None) -> None:
        nonlocal last
        stop_if_asked()
        now = time.monotonic()
        if not quiet and now - last > _SECONDS:
            last, rate = now, done / (now - start)
            left = "" if total is None else f" of {total:,}; about {(total - done) / rate:,.0f} s left"
            typer.echo(f"{done:,} rows{left}; {rate:,.0f} a second", err=True)

    if quiet or not sys.stderr.isatty():
        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = ("rows", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rows", total=None)

        def move(done: int, total: int | None) -> None:
            stop_if_asked()
            bar.update(task, completed=done, total=total)

        yield move
