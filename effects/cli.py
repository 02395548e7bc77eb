"""The same from a shell: ``effects estimate | predict | datasets | demo``.

Results go to standard output; progress, remarks, warnings and errors to standard error, so that piping works.

==========  ============================================================================================
exit code   meaning
==========  ============================================================================================
0           done
2           the call or its input must be mended; one line ``error: ...`` says how
1           the program failed; ``--debug`` shows where
130         stopped by Ctrl-C
==========  ============================================================================================

Whatever takes long to import is imported in the command that needs it: ``effects --help`` does not wait for torch.
"""

from __future__ import annotations

import difflib
import linecache
import os
import shlex
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effects import __version__
from effects.models import _ESTIMATORS

if TYPE_CHECKING:
    import pandas as pd

    from effects.datasets import CausalDataset
    from effects.estimator import EffectEstimator

#: Estimators by their name in the shell: module and class.
ESTIMATORS = {"auto": "CausalStack", **{name.lower(): name for name in _ESTIMATORS}}
TABLE_SUFFIXES = (".csv", ".parquet")
PAGE_SUFFIXES = (".html", ".htm")
#: IHDP's replications differ wildly; the spread of this one's effects is the median of the first thirty.
DEMO_REPLICATION = 15
_CHUNK_ROWS = 20_000  # units predicted at once: the draws of a million would fill the memory

app = typer.Typer(
    name="effects",
    help="Each unit's distribution of the outcome under every treatment, from a table.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


class OutcomeKind(Enum):
    """What `--outcome-kind` may be."""

    auto = "auto"
    continuous = "continuous"
    binary = "binary"
    count = "count"


class InputError(ValueError):
    """Something the user can mend: one line on standard error, exit code 2."""


# --- the commands --------------------------------------------------------------------------------------------------

Table = Annotated[Path, typer.Argument(help="csv, tsv, parquet, feather, Stata or SPSS: one row a unit.")]
Id = Annotated[str | None, typer.Option("--id", help="Column that names the units; the row number otherwise.")]
Level = Annotated[float, typer.Option(help="Probability of the intervals, such as 0.9.")]
Out = Annotated[Path | None, typer.Option(help="Table of predictions, one row a unit: .csv or .parquet.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks (warnings stay).")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a failure (anywhere in the line).")
    ] = False,
) -> None:
    if version:
        typer.echo(f"effects {__version__}")
    elif context.invoked_subcommand is None:
        with redirect_stdout(sys.stderr):  # with rich, typer prints the help itself
            typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def estimate(
    context: typer.Context,
    table: Table,
    treatment: Annotated[str, typer.Option("--treatment", "-t", help="Column of the received arm.")],
    outcome: Annotated[str, typer.Option("--outcome", "-y", help="Column of the outcome.")],
    covariates: Annotated[
        list[str] | None, typer.Option("--covariates", "-x", help="Columns: a,b,c or repeated. All others otherwise.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Columns that are no covariates: a,b,c or repeated.")
    ] = None,
    id_column: Id = None,
    control: Annotated[str | None, typer.Option(help="Label of the control arm.")] = None,
    outcome_kind: Annotated[OutcomeKind, typer.Option(help="What the outcome is.")] = OutcomeKind.auto,
    estimator: Annotated[
        str, typer.Option(help=f"auto combines several, about a minute. One of: {', '.join(ESTIMATORS)}.")
    ] = "auto",
    level: Level = 0.9,
    drop_missing: Annotated[
        bool, typer.Option("--drop-missing", help="Leave out rows without outcome or arm.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Report as one self-contained page.")] = None,
    out: Out = None,
    save: Annotated[Path | None, typer.Option(help="Fitted model, for `effects predict`.")] = None,
    seed: Annotated[int, typer.Option(help="Seed: equal seeds give equal results.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Estimate effects from TABLE: fit a model, print the average effect, write a page, a table, the model."""
    _check_level(level)
    _check_outputs({"--html": (html, PAGE_SUFFIXES), "--out": (out, TABLE_SUFFIXES), "--save": (save, ())}, table)
    make = _estimator(estimator)
    columns = _Columns(treatment, outcome, covariates or [], exclude or [], id_column)
    study = _study(_read(table), columns, drop_missing, quiet)
    arm = None if control is None else _arm(control, study.treatment, treatment)
    _say(quiet, f"{len(study.y):,} rows, {study.X.shape[1]} covariates: {_listed(study.X.columns)}")
    est = _fit(make, study, quiet, outcome=outcome_kind.value, control=arm, random_state=seed)
    words = {"treatment_name": treatment, "source": table.name, "command": context.obj}
    _deliver(est, study, level, html, out, quiet, **words)
    if save is not None:
        est.save(save)
        _say(quiet, f"model: {save}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="What `effects estimate --save` wrote.")],
    table: Table,
    out: Out = None,
    id_column: Id = None,
    level: Level = 0.9,
    quiet: Quiet = False,
) -> None:
    """Predict outcomes and effects of the units in TABLE with a saved MODEL (csv on standard output without --out)."""
    _check_level(level)
    _check_outputs({"--out": (out, TABLE_SUFFIXES)}, table)
    est = _load(model)
    frame = _read(table)
    units = _units(est, frame, _ids(frame, id_column), level)
    if out is None:
        typer.echo(units.to_csv(), nl=False)
    else:
        _write(units, out)
        _say(quiet, f"units: {out}")


@app.command("datasets")
def list_or_load(
    name: Annotated[str | None, typer.Argument(help="One of them, as the list names it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write its table: .csv or .parquet.")] = None,
) -> None:
    """List the known data sets, or show one; with --out write it as a table."""
    from effects import datasets
    from effects.datasets.tables import registry

    if name is None:
        if out is not None:
            raise InputError("--out needs the NAME of a data set: effects datasets NAME --out table.csv")
        _print_list(datasets.list_datasets())
        return
    if name not in registry():
        raise InputError(f"there is no data set {name!r}{_near(name, registry())}")
    entry = registry()[name]
    if out is None:
        _print_facts(entry)
        return
    _check_outputs({"--out": (out, TABLE_SUFFIXES)})
    namesakes = [one["name"] for one in registry().values() if one["loader"] == entry["loader"]]
    if name != namesakes[0] or not entry["outcome"]:
        raise InputError(f"{name} needs its loader's arguments: use effects.datasets.{entry['loader']} in Python")
    data: CausalDataset = getattr(datasets, entry["loader"])()
    _write(data.to_frame(), out, index=False)
    for note in data.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"table: {out} (--treatment {data.treatment.name} --outcome {data.y.name})", err=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for what it writes; made if need be.")] = Path("effects-demo"),
    quiet: Quiet = False,
) -> None:
    """Show the main job on IHDP: real infants' covariates, simulated outcomes whose truth is known."""
    from effects.datasets import load_ihdp
    from effects.metrics import coverage, pehe

    data = load_ihdp(replication=DEMO_REPLICATION)
    arms = data.treatment.map({0: "usual care", 1: "programme"})
    study = _Study(data.X, data.y, arms)
    out.mkdir(parents=True, exist_ok=True)
    page, units, table = (out.resolve() / name for name in ("ihdp.html", "ihdp_units.csv", "ihdp.csv"))
    _write(data.to_frame().assign(**{str(arms.name): arms}), table, index=False)
    _say(quiet, f"{data!r}\nfitting DiffPO: some seconds ...")
    est = _fit(_estimator("diffpo"), study, quiet, control="usual care", random_state=0)
    words = {"title": "Effect of the Infant Health and Development Program", "outcome_unit": "points"}
    words["source"] = "covariates of the trial (from EconML), outcomes simulated after Hill 2011"
    _deliver(est, study, 0.9, page, units, quiet=True, **words)
    effect, cate = est.predict_effect(data.X), data.cate
    assert cate is not None, "load_ihdp knows its truth"
    typer.echo(
        f"\nHere the truth is known: the average effect is {data.ate:.2f}; predicted effects are off by "
        f"{pehe(cate, effect.mean):.2f} (root mean square; they vary with a standard deviation of {cate.std():.2f}), "
        f"and their 90% intervals hold the truth for {coverage(cate, *effect.interval(0.9)):.0%} of the infants."
    )
    typer.echo(f"\npage:   {page}\nunits:  {units}\ntable:  {table}")
    roles = ["--treatment", str(arms.name), "--outcome", str(data.y.name), "--control", "usual care"]
    call = shlex.join(["effects", "estimate", str(table), *roles, "--html", "report.html"])
    _say(quiet, f"The same with a table of your own, or first with this one:\n  {call}")


# --- reading what the user brings ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Columns:
    """The columns as the user named them."""

    treatment: str
    outcome: str
    covariates: list[str]
    exclude: list[str]
    id_column: str | None


@dataclass(frozen=True)
class _Study:
    """What a fit takes, each with the units' ids as index."""

    X: pd.DataFrame
    y: pd.Series
    treatment: pd.Series


def _read(path: Path) -> pd.DataFrame:
    """The table; a shell knows columns by their names as text."""
    from effects.datasets import read_table

    frame = read_table(path)
    return frame.set_axis([str(name) for name in frame.columns], axis="columns")


def _study(frame: pd.DataFrame, columns: _Columns, drop_missing: bool, quiet: bool) -> _Study:
    """Outcome, treatment and covariates; rows without one of the first two only go on the user's word."""
    treatment = _column(frame, columns.treatment, "--treatment")
    outcome = _column(frame, columns.outcome, "--outcome")
    if treatment == outcome:
        raise InputError(f"--treatment and --outcome are both {treatment!r}: name two columns")
    frame = frame.set_axis(_ids(frame, columns.id_column), axis="index")
    named = _several(frame, columns.covariates, "--covariates") or list(frame.columns)
    taken = {treatment, outcome, columns.id_column}
    for name in taken.intersection(named) if columns.covariates else ():
        raise InputError(f"--covariates names {name!r}, which is the treatment, the outcome or the id: leave it out")
    taken.update(_several(frame, columns.exclude, "--exclude"))
    covariates = [name for name in named if name not in taken]
    if not covariates:
        raise InputError("no covariates are left: name some with --covariates, or exclude fewer")
    missing = frame[[treatment, outcome]].isna()
    lost = missing.any(axis=1)
    if lost.any():
        counts = (
            f"{int(missing[outcome].sum())} without {outcome!r}, {int(missing[treatment].sum())} without {treatment!r}"
        )
        found = f"{int(lost.sum())} of {len(frame)} rows lack the outcome or the treatment ({counts})"
        if not drop_missing:
            raise InputError(f"{found}: fill them, or leave those rows out with --drop-missing")
        _say(quiet, f"left out: {found}")
        frame = frame[~lost]
    return _Study(frame[covariates], frame[outcome], frame[treatment])


def _ids(frame: pd.DataFrame, id_column: str | None) -> pd.Index:
    """The units' names: a column, which must tell them apart, or the row number from 0."""
    import pandas as pd

    if id_column is None:
        return pd.RangeIndex(len(frame), name="row")
    ids = pd.Index(frame[_column(frame, id_column, "--id")], name=id_column)
    if ids.hasnans or ids.has_duplicates:
        twice = ids[ids.duplicated() | ids.isna()][0]
        raise InputError(f"--id: column {id_column!r} does not tell the units apart ({twice!r} is missing or repeated)")
    return ids


def _column(frame: pd.DataFrame, name: str, option: str) -> str:
    if name not in frame.columns:
        raise InputError(f"{option}: the table has no column {name!r}{_near(name, frame.columns)}")
    return name


def _several(frame: pd.DataFrame, values: Iterable[str], option: str) -> list[str]:
    """Columns from ``a,b,c`` or repeated options; a column whose own name holds a comma is itself."""
    names = [part for value in values for part in ([value] if value in frame.columns else value.split(","))]
    return [_column(frame, name.strip(), option) for name in dict.fromkeys(names) if name.strip()]


def _arm(label: str, treatment: pd.Series, column: str) -> Any:
    """The arm that a label from the shell means: 0 and 0.0 and False have the same name there."""
    arms = list(treatment.unique())
    for same in (_same_text, _same_number):
        for arm in arms:
            if same(label, arm):
                return arm.item() if hasattr(arm, "item") else arm
    near = _near(label, [str(arm) for arm in arms])
    raise InputError(f"--control: column {column!r} has no arm {label!r}{near}")


def _same_text(label: str, arm: object) -> bool:
    return label.strip().casefold() == str(arm).strip().casefold()


def _same_number(label: str, arm: Any) -> bool:
    try:
        return float(label) == float(arm)
    except (TypeError, ValueError):
        return False


def _estimator(name: str) -> Callable[..., EffectEstimator]:
    known = ESTIMATORS.get(name.lower())
    if known is None:
        raise InputError(f"--estimator: {name!r} is not known{_near(name, ESTIMATORS)}")
    return getattr(import_module(_ESTIMATORS[known]), known)


def _load(path: Path) -> EffectEstimator:
    if not path.exists():
        folder = path.parent if path.parent.is_dir() else Path()
        raise InputError(
            f"there is no model {str(path)!r}{_near(path.name, [entry.name for entry in folder.iterdir()])}"
        )
    from effects import load

    try:
        return load(path)
    except (ValueError, LookupError, OSError) as error:
        raise InputError(f"{str(path)!r} is not a model that `effects estimate --save` wrote: {error}") from error


def _near(name: str, known: Iterable[object]) -> str:
    """The end of a message: the name that was probably meant, or the names there are."""
    names = [str(one) for one in known]
    folded = {one.casefold(): one for one in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    if close:
        return f"; did you mean {folded[close[0]]!r}?"
    return f"; there are: {_listed(names)}" if names else ""


def _listed(names: Iterable[object], most: int = 12) -> str:
    shown = [str(one) for one in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"--level must lie between 0 and 1 (0.9 means 90%), got {level}")


def _check_outputs(outputs: dict[str, tuple[Path | None, tuple[str, ...]]], table: Path | None = None) -> None:
    """Before any work: every output can be written, and none is the table itself."""
    for option, (path, suffixes) in outputs.items():
        if path is None:
            continue
        if suffixes and path.suffix.lower() not in suffixes:
            raise InputError(f"{option}: {str(path)!r} must end in {' or '.join(suffixes)}")
        if not path.parent.is_dir():
            raise InputError(f"{option}: there is no folder {str(path.parent)!r}: make it first (mkdir -p)")
        if not os.access(path.parent, os.W_OK):
            raise InputError(f"{option}: the folder {str(path.parent)!r} cannot be written to")
        if path.is_dir() and suffixes:
            raise InputError(f"{option}: {str(path)!r} is a folder: name a file in it")
        if table is not None and path.exists() and table.exists() and path.samefile(table):
            raise InputError(f"{option}: {str(path)!r} is the table itself: name another file")
    given = [path.resolve() for path, _ in outputs.values() if path is not None]
    if len(set(given)) < len(given):
        raise InputError(f"{' and '.join(outputs)}: two of them name the same file")


# --- giving what was asked for -------------------------------------------------------------------------------------


def _units(est: EffectEstimator, X: pd.DataFrame, ids: pd.Index, level: float) -> pd.DataFrame:
    """One row a unit: per arm mean, sd and interval of the outcome; per other arm the CATE against control; whether the
    training data say enough of the unit, and why not."""
    import pandas as pd

    parts = []
    for start in range(0, len(X), _CHUNK_ROWS):
        rows = X.iloc[start : start + _CHUNK_ROWS]
        outcomes = est.predict_outcomes(rows)
        frames = [outcomes.to_frame(level)]
        for arm in outcomes.arms[1:]:
            effect = outcomes.effect(arm).to_frame(level)
            frames.append(effect if len(outcomes.arms) == 2 else effect.add_suffix(f"_{arm}"))
        frames.append(est.support(rows).to_frame()[["supported", "reason"]])
        parts.append(pd.concat([frame.reset_index(drop=True) for frame in frames], axis=1))
    return pd.concat(parts, ignore_index=True).set_axis(ids, axis="index")


def _fit(make: Callable[..., EffectEstimator], study: _Study, quiet: bool, **params: Any) -> EffectEstimator:
    start = time.perf_counter()
    est = make(**params, verbose=int(not quiet and sys.stderr.isatty()))
    try:
        est.fit(study.X, study.y, treatment=study.treatment)
    except (ValueError, TypeError) as error:
        roles = {"y": study.y.name, "treatment": study.treatment.name}  # the library's words, not the table's
        column = roles.get(str(error).partition(" ")[0])
        if column is None or not _raised_here(error):
            raise
        raise InputError(f"column {str(column)!r}: {error}") from error
    _stop_if_asked()
    _say(quiet, f"{type(est).__name__} fitted in {time.perf_counter() - start:.1f} s")
    return est


def _deliver(
    est: EffectEstimator,
    study: _Study,
    level: float,
    html: Path | None,
    out: Path | None,
    quiet: bool,
    **words: Any,
) -> None:
    """The report on standard output, the page and the units' table where they were asked for."""
    from effects.report import Report

    report = Report.from_fit(est, study.X, study.y, treatment=study.treatment, level=level, **words)
    _stop_if_asked()
    typer.echo(report.text(), nl=False)
    if html is not None:
        report.save(html)
        _say(quiet, f"page: {html}")
    if out is not None:
        _write(_units(est, study.X, study.X.index, level), out)
        _say(quiet, f"units: {out}")


def _write(frame: pd.DataFrame, path: Path, index: bool = True) -> None:
    """A table, its index as first column, whole or not at all."""
    from effects.files import write_whole

    _stop_if_asked()
    frame = frame.reset_index() if index else frame
    csv = path.suffix.lower() == ".csv"
    write_whole(path, frame.to_csv(index=False) if csv else frame.to_parquet(index=False))


def _print_list(known: pd.DataFrame) -> None:
    """The data sets as a table; in a pipe without colours, and as wide as it needs to be."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid

    terminal = sys.stdout.isatty()
    grid = Grid(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)
    for heading in ("name", "rows", "columns", "treatment -> outcome", "kind", "truth", "at hand", "licence"):
        right = heading in ("rows", "columns")
        grid.add_column(heading, justify="right" if right else "left", no_wrap=right or heading == "name")
    for row in known.to_dict("records"):
        sizes = (str(row["name"]), f"{row['rows']:,}", str(row["columns"]))
        grid.add_row(
            *sizes,
            f"{row['treatment']} -> {row['outcome']}",
            *(str(row[k]) for k in ("kind", "truth", "at hand", "licence")),
        )
    Console(markup=False, highlight=False, width=None if terminal else 240).print(grid)


def _print_facts(entry: dict[str, Any]) -> None:
    """What the registry says of one data set."""
    facts = {
        "title": entry["title"],
        "size": f"{entry['rows']:,} rows, {entry['columns']} covariates",
        "treatment": entry["treatment"],
        "outcome": f"{entry['outcome']} ({', '.join(one for one in (entry['kind'], entry['unit']) if one)})",
        "truth": entry["truth"],
        "in Python": f"effects.datasets.{entry['loader']}",
        **{key: str(entry.get(key, "")) for key in ("paper", "source", "licence", "url", "file", "sha256")},
    }
    for term, fact in facts.items():
        if fact:
            typer.echo(f"{term + ':':<11} {fact}")


def _say(quiet: bool, remark: str) -> None:
    if not quiet:
        typer.echo(remark, err=True)


# --- the frame around every command --------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process by default.

    Examples
    --------
    >>> from effects.cli import main
    >>> main(["--version"])
    effects 0.1.0
    0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [one for one in arguments if one != "--debug"]
    _STOP.clear()
    try:
        with _ctrl_c_ends(), _warnings_as_lines(debug):
            command = shlex.join(["effects", *arguments])
            code = app(arguments, prog_name="effects", standalone_mode=False, obj=command)
    except (Exception, _Stopped) as error:
        if _STOP.is_set():  # compiled code may have turned the interruption into an error of its own
            typer.echo("stopped: nothing more was written", err=True)
            return 130
        assert isinstance(error, Exception)
        if debug:
            traceback.print_exc()
        message, code = _explain(error)
        typer.echo(f"error: {' '.join(message.split())}", err=True)
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> tuple[str, int]:
    """The message and the exit code of a failure."""
    usage = getattr(error, "format_message", None)  # typer's own, of whichever version
    if usage is not None:
        context = getattr(error, "ctx", None)
        return f"{usage()} See: {context.command_path if context else 'effects'} --help", 2
    if isinstance(error, InputError) or (
        isinstance(error, (ValueError, TypeError, OSError, ImportError)) and _raised_here(error)
    ):
        return str(error), 2
    if isinstance(error, OSError):
        return str(error), 1 if error.filename is None else 2
    return f"{type(error).__name__}: {error} (run it again with --debug to see where)", 1


def _raised_here(error: BaseException) -> bool:
    """Whether a ``raise`` of the package itself made it: then its message says what to mend, and how."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    ours = str(frame.f_globals.get("__name__", "")).split(".")[0] == "effects"
    return ours and linecache.getline(frame.f_code.co_filename, line).strip().startswith("raise ")


class _Stopped(BaseException):
    """Ctrl-C. Not KeyboardInterrupt: training catches that one and goes on with what it has."""


#: Whether Ctrl-C was pressed: where Python only reports an exception (in a callback), the next step must still stop.
_STOP = threading.Event()


def _stop_if_asked() -> None:
    if _STOP.is_set():
        raise _Stopped


@contextmanager
def _ctrl_c_ends() -> Iterator[None]:
    def stop(*_: object) -> None:
        _STOP.set()
        raise _Stopped

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _warnings_as_lines(debug: bool) -> Iterator[None]:
    """Warnings as one line each on standard error; a library's notices to programmers only under --debug."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        typer.echo(f"warning: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())
