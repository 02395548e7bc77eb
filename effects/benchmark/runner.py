"""Jobs, in parallel and resumable: each run is a Parquet file of one row, written whole, named by what was asked.

A run is known by its suite, data set, replication, estimator, settings, seed and level. It is done where its file
exists and was written by this version of the package; the git revision is noted in the row, but does not make a run
anew (an edited line of documentation would cost hours): ``fresh=True`` does. So however often a benchmark is killed and
started again, no run is lost but those under way, and none is there twice.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import pandas as pd
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool
from threadpoolctl import threadpool_limits

from effects.benchmark.machine import Clock, Memory, hardware, revision, versions
from effects.benchmark.methods import Method, Ours, estimator_class
from effects.benchmark.peers import PEERS
from effects.benchmark.results import Store
from effects.benchmark.scores import averages, scores
from effects.benchmark.suites import SUITES, Case
from effects.models import _ESTIMATORS, SHORT_NAMES

_NEEDS = {"BART": "stochtree", "BCF": "stochtree"}  # of our own, those behind an extra

Progress = Callable[[dict[str, Any], int, int, float], None]


@dataclass(frozen=True)
class Job:
    """One run: a case, an estimator with its settings (as JSON), a seed, and the level of all intervals."""

    suite: str
    data: str
    replication: int
    estimator: str
    params: str = "{}"
    seed: int = 0
    level: float = 0.9

    @property
    def key(self) -> str:
        """What tells this run from every other, as twelve letters."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.suite}-{self.data}-{self.replication}-{self.estimator}-{self.seed}-{self.key}"

    @property
    def label(self) -> str:
        """The estimator as a reader knows it, with the settings that are not its defaults."""
        known = PEERS[self.estimator].label if self.estimator in PEERS else self.estimator
        settings = ", ".join(f"{key}={value}" for key, value in json.loads(self.params).items())
        return f"{known}, {settings}" if settings else known

    def case(self) -> Case:
        return SUITES[self.suite].cases(self.suite, [self.replication])[SUITES[self.suite].data.index(self.data)]

    def make(self) -> Method:
        """The estimator, unfitted."""
        params = json.loads(self.params)
        if self.estimator in PEERS:
            return PEERS[self.estimator](params, self.seed)
        return Ours(self.estimator, params, self.seed)


# ---------------------------------------------------------------------------------------------------------- planning


def plan(
    suites: Sequence[str],
    *,
    replications: int | Sequence[int] | None = None,
    estimators: Sequence[str] = ("all",),
    peers: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    level: float = 0.9,
) -> tuple[list[Job], list[str]]:
    """Every run of some suites, replication by replication, so that a part of them is a fair part.

    Parameters
    ----------
    suites : sequence of str
        Names in `SUITES`.
    replications : int or sequence of int, optional
        The first so many of each suite, or these numbers; by default as many as the suite itself says.
    estimators : sequence of str
        Names of `effects.all_estimators`, with settings as in ``"TARNet(epochs=20)"``; "all" is all of them.
    peers : sequence of str
        Names in `PEERS`, likewise; "all" is all that are at hand.
    seeds : sequence of int
        ``random_state`` of the estimators; the data do not depend on it.
    level : float
        Of all intervals.

    Returns
    -------
    list of Job
    list of str
        What was left out, and why: one line each.

    Raises
    ------
    ValueError
        If a name, a setting or a replication is unknown.
    ImportError, FileNotFoundError
        If what was asked for by name is not installed, or the files of a suite are not at hand.

    Examples
    --------
    >>> jobs, left_out = plan(["distributions"], replications=1, estimators=["TARNet(epochs=20)"])
    >>> jobs[0].label
    'TARNet, epochs=20'
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}.")
    wanted, left_out = _methods(estimators, peers)
    if not wanted:
        raise ValueError("there is nothing to run: name estimators or peers.")
    jobs = []
    for name in dict.fromkeys(suites):
        suite = SUITES[_known(name, SUITES, "suite")]
        suite.check_files()
        cases = suite.cases(name, _numbers(name, replications))
        for method, _ in wanted:
            refused = sorted({case.data for case in cases if not _takes(method, case)})
            if refused:
                left_out.append(f"{method} does not take the outcomes or the arms of {', '.join(refused)}")
        jobs += [
            Job(name, case.data, case.replication, method, params, int(seed), level)
            for case in cases
            for method, params in wanted
            if _takes(method, case)
            for seed in seeds
        ]
    return list(dict.fromkeys(jobs)), left_out


def parse_spec(text: str) -> tuple[str, str]:
    """``"TARNet(epochs=20)"`` as name and settings in JSON; values are numbers, texts, lists, True, False or None.

    >>> parse_spec("TARNet(epochs=20)"), parse_spec("DiffPO")
    (('TARNet', '{"epochs": 20}'), ('DiffPO', '{}'))
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, "{}"
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args
        params = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords if one.arg}
        return node.func.id, json.dumps(params, sort_keys=True)
    except (SyntaxError, AssertionError, ValueError, TypeError):
        raise ValueError(f"{text!r} is no estimator: write NAME or NAME(setting=value, ...).") from None


def _methods(estimators: Sequence[str], peers: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Names and settings of all that was asked for; of "all", what is not at hand is left out and told."""
    wanted: dict[tuple[str, str], None] = {}
    left_out: list[str] = []
    for given, known, what in ((estimators, list(_ESTIMATORS), "estimator"), (peers, list(PEERS), "peer")):
        for text in given:
            if text == "all":
                absent = {name: missing(name) for name in known}
                wanted |= dict.fromkeys((name, "{}") for name in known if not absent[name])
                left_out += [f"{name} is left out: {why}" for name, why in absent.items() if why]
                continue
            name, params = parse_spec(text)
            name = SHORT_NAMES.get(name.lower(), name) if what == "estimator" else name
            name = _known(name, known, what)
            if why := missing(name):
                raise (ImportError if "pip install" in why else FileNotFoundError)(why)
            Job("", "", 0, name, params).make()  # unknown settings are told now, not by every run
            wanted[name, params] = None
    return list(wanted), left_out


def missing(name: str) -> str:
    """What an estimator or a peer needs and is not at hand, with the cure; "" if nothing."""
    if name in PEERS:
        return PEERS[name].missing()
    package = _NEEDS.get(name)
    return "" if package is None or find_spec(package) else f'{name} needs {package}: pip install "{package}"'


def _known(name: str, known: Iterable[str], what: str) -> str:
    names = list(known)
    if name in names:
        return name
    folded = {one.casefold(): one for one in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    hint = f"did you mean {folded[near[0]]!r}?" if near else f"there are: {', '.join(names)}."
    raise ValueError(f"there is no {what} {name!r}; {hint}")


def _numbers(name: str, replications: int | Sequence[int] | None) -> list[int]:
    suite = SUITES[name]
    if replications is None or isinstance(replications, int):
        count = suite.default if replications is None else replications
        if not 1 <= count <= len(suite.numbers):
            raise ValueError(f"suite {name} has {len(suite.numbers)} replications, {count} were asked for.")
        return list(suite.numbers[:count])
    unknown = [r for r in replications if r not in suite.numbers]
    if unknown:
        raise ValueError(f"suite {name} has no replication {unknown[0]}: they are numbered {_ranges(suite.numbers)}.")
    return list(dict.fromkeys(replications))


def _ranges(numbers: Sequence[int]) -> str:
    """Rising numbers as a reader says them.

    >>> _ranges([1, 2, 3, 101, 102])
    '1 to 3 and 101 to 102'
    """
    ends = [k for k in range(1, len(numbers)) if numbers[k] != numbers[k - 1] + 1]
    parts = zip([0, *ends], [*ends, len(numbers)], strict=True)
    return " and ".join(f"{numbers[start]} to {numbers[end - 1]}" for start, end in parts)


def _takes(method: str, case: Case) -> bool:
    if method in PEERS:
        peer = PEERS[method]
        return case.kind in peer.kinds and (peer.max_arms is None or case.n_arms <= peer.max_arms)
    ours = estimator_class(method)
    return case.kind in ours._kinds and (ours._max_arms is None or case.n_arms <= ours._max_arms)


# ----------------------------------------------------------------------------------------------------------- one run


def execute(job: Job) -> dict[str, Any]:
    """One run as a row; what goes wrong in it is in the row too, and never raised.

    Everything is done on one thread, so that CPU seconds compare and parallel runs do not fight for the cores.

    Examples
    --------
    >>> row = execute(Job("distributions", "heteroscedastic", 0, "econml_t"))
    >>> row["status"], row["out_sqrt_pehe"] < 10
    ('ok', True)
    """
    from effects.nn.training import one_thread

    package = PEERS[job.estimator].pip if job.estimator in PEERS else _NEEDS.get(job.estimator, "")
    row: dict[str, Any] = {
        "key": job.key,
        **asdict(job),
        "label": job.label,
        "peer": job.estimator in PEERS,
        "status": "ok",
        "error": "",
        "traceback": "",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "versions": versions(*filter(None, [package, "econml" if job.estimator == "EconML" else ""])),
        "threads": 1,
        **hardware(),
    }
    start = time.perf_counter()
    try:
        with threadpool_limits(1), one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of hundreds of fits; what goes wrong is in the row
            row |= _measure(job)
    except Exception as error:  # whatever a library does, the other runs go on
        row |= {"status": "failed", "error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]}
        row["traceback"] = traceback.format_exc()[-4000:]
    row["seconds"] = time.perf_counter() - start
    return row


def _measure(job: Job) -> dict[str, Any]:
    """Fit, predict and score."""
    train, test = job.case().load()
    row: dict[str, Any] = {"n_train": len(train.X), "n_test": 0 if test is None else len(test.X)}
    row |= {"n_features": train.X.shape[1], "n_arms": len(train.arms), "kind": train.kind}
    method = job.make()
    method.load()
    memory, clock = Memory(), Clock()
    method.fit(train)
    row |= clock.read("fit")
    if test is None:
        found = method.averages(train, job.level)
        row |= clock.read("predict") | memory.read()
        return row | averages(found, job.data)
    outside = method.predict(test.X, job.level)
    row |= clock.read("predict") | memory.read()
    inside = method.predict(train.X, job.level)
    for where, prediction, data in (("out", outside, test), ("in", inside, train)):
        row |= {f"{where}_{name}": value for name, value in scores(prediction, data, job.level).items()}
    return row


# ---------------------------------------------------------------------------------------------------------- all runs


def run_jobs(jobs: Iterable[Job], n_jobs: int | None = 1) -> Iterator[dict[str, Any]]:
    """The rows of some jobs, as they are finished, by joblib: under whichever backend is set around the call.

    Workers only compute; what they return is kept by whoever asks, so they need no disk in common. CPU seconds and
    memory are those of the worker's process: start Dask workers with one thread each (``dask worker --nthreads 1``).
    """
    with warnings.catch_warnings():
        # loky renews workers whose memory has grown, which is as it should be
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)
        pool = Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)
        yield from pool(delayed(_in_worker)(job, os.getpid()) for job in jobs)


def _in_worker(job: Job, runner: int) -> dict[str, Any]:
    if os.getpid() != runner and threading.current_thread() is threading.main_thread():
        # Ctrl-C reaches every process of a terminal, and training would end early and go on with what it has: it is the
        # runner that stops its workers
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    # on a cluster joblib would hand the folds inside to other workers, and their seconds would not be seen here
    with parallel_config("sequential"):
        return execute(job)


def run(
    jobs: Sequence[Job],
    folder: str | os.PathLike[str],
    *,
    n_jobs: int | None = 1,
    fresh: bool = False,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Run what is not done yet, keep each run as a file in `folder`, and give back the table of all of `jobs`.

    Parameters
    ----------
    jobs : sequence of Job
        Of `plan`.
    folder : path
        Made if need be; the runs lie in its folder ``runs``, the whole table in ``table.parquet``.
    n_jobs : int, optional
        Processes, as in joblib; with 1 everything happens in this one. None takes what the joblib backend in force
        says (``joblib.parallel_config(backend="dask")``).
    fresh : bool
        Run again what is done.
    retry_failed : bool
        Run again what failed.
    progress : callable, optional
        Called with each new row, the number of runs done, their total, and the seconds that are probably left.

    Returns
    -------
    DataFrame
        One row a run, in the order of `jobs`.

    Examples
    --------
    >>> jobs, _ = plan(["ihdp"], replications=10, peers=["all"])  # doctest: +SKIP
    >>> run(jobs, "runs", n_jobs=2)  # doctest: +SKIP
    """
    store = Store(folder)
    done = {} if fresh else {job.key: row for job in jobs if (row := store.done(job.name, retry_failed)) is not None}
    left = _TimeLeft(jobs, done.values(), n_jobs)
    with _stoppable():
        for row in _surviving([job for job in jobs if job.key not in done], n_jobs):
            store.write(row)
            done[row["key"]] = row
            if progress is not None:
                progress(row, len(done), len(jobs), left.after(row))
    store.write_table()
    return pd.DataFrame([done[job.key] for job in jobs])


def _surviving(jobs: Sequence[Job], n_jobs: int | None) -> Iterator[dict[str, Any]]:
    """The rows of all jobs, also of those that kill their worker (by a crash, or for want of memory)."""
    waiting = {job.key: job for job in jobs}
    while waiting:
        try:
            for row in run_jobs(list(waiting.values()), n_jobs):
                del waiting[row["key"]]
                yield row
        except BrokenProcessPool:
            # jobs start in order, so it was among the first that are not back: each of them alone tells which
            for job in list(waiting.values())[: max(1, n_jobs if n_jobs and n_jobs > 0 else os.cpu_count() or 1)]:
                yield _alone(job)
                del waiting[job.key]


def _alone(job: Job) -> dict[str, Any]:
    """A job in a process of its own; a row that says so if the process dies."""
    try:
        [row] = Parallel(n_jobs=2, backend="loky")([delayed(_in_worker)(job, os.getpid())])
        return row
    except BrokenProcessPool as error:
        why = "its process died, of a crash or for want of memory: " + " ".join(str(error).split())
        row = {"key": job.key, **asdict(job), "label": job.label, "peer": job.estimator in PEERS, "status": "failed"}
        more = {"error": why[:500], "traceback": "", "revision": revision(), "versions": versions(), **hardware()}
        return row | more | {"started": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": float("nan")}


class _Interrupted(BaseException):
    """Ctrl-C. Not KeyboardInterrupt: training catches that one and goes on with what it has."""


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C ends the run under way too, in this process; a handler that is not Python's own is left in force."""
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )

    def stop(*_: object) -> None:
        raise _Interrupted

    if ours:
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    except _Interrupted:
        raise KeyboardInterrupt from None
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class _TimeLeft:
    """Seconds until the end, from those that the same estimator took on the same data, else from all that was run."""

    def __init__(self, jobs: Sequence[Job], done: Iterable[dict[str, Any]], n_jobs: int | None) -> None:
        self.waiting = {job.key: (job.suite, job.data, job.estimator) for job in jobs}
        self.taken: dict[tuple[str, str, str], list[float]] = {}
        self.n_jobs = n_jobs if n_jobs and n_jobs > 0 else os.cpu_count() or 1
        for row in done:
            self.after(row)

    def after(self, row: dict[str, Any]) -> float:
        self.waiting.pop(row["key"], None)
        self.taken.setdefault((row["suite"], row["data"], row["estimator"]), []).append(row["seconds"])
        means = {kind: sum(all_) / len(all_) for kind, all_ in self.taken.items()}
        typical = sum(means.values()) / len(means)
        return sum(means.get(kind, typical) for kind in self.waiting.values()) / self.n_jobs
