"""Tables that are larger than memory: estimators fitted on them, and their predictions from table to table.

``effects predict model in.parquet --out out.parquet`` at a shell, or here. Memory holds some batches of rows, however
many rows there are; only `fit_parquet` holds all that it fits on.
"""

from __future__ import annotations

import copy
import os
import re
import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pandas as pd
from joblib import parallel_config

from effects.datasets.batches import count_rows, read_batches, sample_rows
from effects.estimator import EffectEstimator
from effects.files import whole
from effects.nn.training import one_thread
from effects.nuisance import Nuisance
from effects.parallel import side_by_side

__all__ = ["fit_parquet", "for_prediction", "predict_batches", "predict_table", "unit_frame"]

Estimator = TypeVar("Estimator", bound=EffectEstimator)
BATCH_ROWS = 2048  # whose laws (32 members of 64 draws, two arms) take 34 MB, and some times that on the way
MAX_ROWS = 1_000_000
_WRITE_ROWS = 65_536  # of a row group
_HELD = ("held_out_", "spread_parts_")  # what only averages over the rows of the fit need


# ---- from one estimator ----------------------------------------------------------------------------------------------


def unit_frame(est: EffectEstimator, X: pd.DataFrame, level: float = 0.9) -> pd.DataFrame:
    """What a fitted estimator says of every unit, as one table.

    Parameters
    ----------
    est : EffectEstimator
        Fitted.
    X : DataFrame
        Its columns are found by name; others may stand beside them.
    level : float

    Returns
    -------
    DataFrame
        With the index of X. Per arm ``mean_<arm>, std_<arm>, lower_<arm>, upper_<arm>`` of the outcome; ``cate,
        cate_std, cate_lower, cate_upper, prob_positive`` of the effect against control (with more than two arms once
        for each, named ``cate_<arm>`` and so on); ``supported`` and ``reason``: whether the training data say enough of
        the unit, and why not.
    """
    outcomes = est.predict_outcomes(X)
    frames = [outcomes.to_frame(level)]
    for arm in outcomes.arms[1:]:
        effect = outcomes.effect(arm).to_frame(level)
        frames.append(effect if len(outcomes.arms) == 2 else effect.add_suffix(f"_{arm}"))
    frames.append(est.support(X).to_frame()[["supported", "reason"]])
    return pd.concat([frame.reset_index(drop=True) for frame in frames], axis=1).set_axis(X.index, axis="index")


def for_prediction(est: Estimator) -> Estimator:
    """A copy of a fitted estimator that predicts the same and holds nothing of the rows it was fitted on.

    What grows with those rows (what was held out of each, by which averages over them are estimated) stays behind, so
    that the copy is small to send. It is for predictions alone: `estimate_ate` and its kin need the original.
    """
    return _without_rows(est, {})


def _without_rows(value: Any, done: dict[int, Any]) -> Any:
    """Estimators and nuisances, wherever they stand in `value`, without their rows; all else as it is."""
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, dict):
        return {key: _without_rows(one, done) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_without_rows(one, done) for one in value)
    if not isinstance(value, EffectEstimator | Nuisance):
        return value
    slim = done[id(value)] = copy.copy(value)
    if isinstance(value, Nuisance) and hasattr(value, "known_propensity_"):
        trial = value.trial_propensity
        slim.known_propensity_ = None if trial is None else trial[None]
    for name, held in vars(value).items():
        if name == "out_of_fold_":
            del slim.out_of_fold_
        elif name in _HELD:
            setattr(slim, name, None)
        elif name == "rows_":
            slim.rows_ = held[:0]
        elif name.endswith("_") and name != "known_propensity_":
            setattr(slim, name, _without_rows(held, done))
    return slim


# ---- prediction from batch to batch ----------------------------------------------------------------------------------


def predict_batches(
    est: EffectEstimator, tables: Iterable[pd.DataFrame], *, level: float = 0.9, n_jobs: int | None = None
) -> Iterator[pd.DataFrame]:
    """`unit_frame` of table after table, in order; memory holds only those at work.

    Parameters
    ----------
    est : EffectEstimator
        Fitted.
    tables : iterable of DataFrame
        Some thousand rows each; `effects.datasets.batches.read_batches` makes them of a file.
    level : float
    n_jobs : int, optional
        Threads of this process, one batch in each; -1 is one a core. None is 1, or what ``joblib.parallel_config``
        says, such as a cluster (`effects.cluster.connect`).

    Yields
    ------
    DataFrame

    Examples
    --------
    >>> from effects import TLearner, stream
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> est = TLearner(n_members=2, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> parts = stream.predict_batches(est, [data.X.head(3), data.X.tail(2)])
    >>> [len(part) for part in parts]
    [3, 2]
    """
    # threads: the arithmetic leaves Python free, and processes would be sent the model with every batch
    with nullcontext() if n_jobs is None else parallel_config("threading"):
        found = side_by_side(_units, ((X,) for X in tables), shared=(for_prediction(est), level), n_jobs=n_jobs)
    yield from found


def _units(est: EffectEstimator, level: float, X: pd.DataFrame) -> pd.DataFrame:
    with one_thread():
        return unit_frame(est, X, level)


def predict_table(
    est: EffectEstimator,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | BinaryIO,
    *,
    level: float = 0.9,
    id_column: str | None = None,
    batch_rows: int = BATCH_ROWS,
    n_jobs: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> int:
    """Predict every row of one table into another, some batches at a time; the file is there whole or not at all.

    Parameters
    ----------
    est : EffectEstimator
        Fitted.
    source : path
        A table as `effects.datasets.read_table` reads it, or a folder of Parquet files. Parquet and delimited text are
        streamed; other formats are read whole.
    out : path ending in .csv or .parquet, or a binary file, which gets CSV
    level : float
    id_column : str, optional
        Column that names the units; it must tell them apart, which takes 8 bytes of memory a row to know. By default
        the units get the row's number.
    batch_rows : int
    n_jobs : int, optional
        As in `predict_batches`.
    progress : callable, optional
        ``progress(rows done, rows in all)`` after every batch; None where the file does not tell how many rows it has.

    Returns
    -------
    int
        The number of rows.

    Warns
    -----
    UserWarning
        Once for each thing to know, with the first batch in which it was found.
    """
    if isinstance(out, str | os.PathLike) and Path(out).exists() and Path(out).samefile(source):
        raise ValueError(f"{str(out)!r} is the table itself: name another file.")
    text = [spec.name for spec in est.schema_.columns if any(isinstance(v, str) for v in spec.levels + spec.pooled)]
    if id_column is not None and _check_ids(Path(source), id_column):
        text.append(id_column)
    columns = _columns(est, source, id_column)
    named: list[pd.Index] = []  # of the batches at work

    def tables() -> Iterator[pd.DataFrame]:
        start = 0
        for part in read_batches(source, batch_rows, columns=columns, text=text):
            rows = pd.RangeIndex(start, start + len(part), name="row")
            named.append(rows if id_column is None else pd.Index(part[id_column], name=id_column))
            start += len(part)
            yield part

    total, done = count_rows(source), 0
    with _said_once(), one_thread(), _writer(out) as write:
        for units in predict_batches(est, tables(), level=level, n_jobs=n_jobs):
            write(units.set_axis(named.pop(0), axis="index").reset_index())
            done += len(units)
            if progress is not None:
                progress(done, total)
    return done


def _columns(est: EffectEstimator, source: str | os.PathLike[str], id_column: str | None) -> list[str] | None:
    """The columns to read; None for all, where they are found by position."""
    if not est.schema_.named:
        return None
    have = next(read_batches(source, BATCH_ROWS)).columns  # of one row each, a row group would be cut into as many
    found = est.schema_._positions(pd.DataFrame(columns=have), named=True)  # raises where a column is missing
    wanted = [have[k] for k in found if k >= 0]
    return list(dict.fromkeys(wanted if id_column is None else [*wanted, id_column]))


def _check_ids(path: Path, name: str) -> bool:
    """Refuse names of units that do not tell them apart, before anything is predicted; whether they are text."""
    seen: list[np.ndarray] = []
    numbers = True
    for ids in _ids(path, name):
        if ids.isna().any():
            raise ValueError(f"column {name!r} does not tell the units apart: it has missing values.")
        seen.append(_hashed(ids))
        numbers = numbers and bool(ids.astype(str).str.fullmatch(r"-?(0|[1-9]\d{0,17})").all())
    keys = np.sort(np.concatenate(seen))
    twice = keys[:-1][keys[1:] == keys[:-1]]
    for ids in _ids(path, name) if len(twice) else ():
        if (found := _hashed(ids) == twice[0]).any():
            value = str(ids.iloc[int(np.argmax(found))])
            raise ValueError(f"column {name!r} does not tell the units apart: {value!r} stands in it twice.")
    return not numbers


def _ids(path: Path, name: str) -> Iterator[pd.Series]:
    return (part[name] for part in read_batches(path, _WRITE_ROWS, columns=[name], text=[name]))


def _hashed(ids: pd.Series) -> np.ndarray:
    return pd.util.hash_array(ids.astype(str).to_numpy(dtype=object))


@contextmanager
def _writer(out: str | os.PathLike[str] | BinaryIO) -> Iterator[Callable[[pd.DataFrame], None]]:
    """What appends a table to a file that is written whole or not at all."""
    if not isinstance(out, str | os.PathLike):
        yield _csv_writer(out)
        return
    suffix = Path(out).suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ValueError(f"{str(out)!r} must end in .csv or .parquet.")
    with whole(out) as file:
        if suffix == ".csv":
            yield _csv_writer(file)
            return
        target = _ParquetTarget(file)
        yield target.write
        target.close()


class _ParquetTarget:
    """A Parquet file that grows by row groups."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.writer: Any = None
        self.waiting: list[pd.DataFrame] = []

    def write(self, frame: pd.DataFrame) -> None:
        self.waiting.append(frame)
        if sum(map(len, self.waiting)) >= _WRITE_ROWS:
            self._flush()

    def close(self) -> None:
        if self.waiting:
            self._flush()
        if self.writer is not None:
            self.writer.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = None if self.writer is None else self.writer.schema
        table = pa.Table.from_pandas(pd.concat(self.waiting, ignore_index=True), schema=schema, preserve_index=False)
        self.writer = self.writer or pq.ParquetWriter(self.file, table.schema)
        self.writer.write_table(table)
        self.waiting = []


def _csv_writer(file: BinaryIO) -> Callable[[pd.DataFrame], None]:
    first = [True]

    def write(frame: pd.DataFrame) -> None:
        file.write(frame.to_csv(index=False, header=first.pop() if first else False).encode("utf-8"))

    return write


@contextmanager
def _said_once() -> Iterator[None]:
    """A warning that differs from an earlier one in its numbers alone is not said again: there are many batches."""
    said: set[str] = set()
    lock = threading.Lock()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def once(message: Any, category: Any, *where: Any, **more: Any) -> None:
            with lock:
                key = re.sub(r"\d+", "#", str(message))
                new = key not in said
                said.add(key)
            if new:
                told = f"{message} (In one batch of rows; of others this is not said again.)"
                show(UserWarning(told) if category is UserWarning else message, category, *where, **more)

        warnings.showwarning = once
        yield


# ---- fit -------------------------------------------------------------------------------------------------------------


def fit_parquet(
    est: Estimator,
    path: str | os.PathLike[str],
    *,
    outcome: str,
    treatment: str,
    covariates: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    sample_weight: str | None = None,
    max_rows: int = MAX_ROWS,
    random_state: int = 0,
) -> Estimator:
    """Fit on a Parquet table of any size: on all rows of up to `max_rows`, on a random sample of more.

    A fit needs all its rows at once (a boosted tree looks at every row for every split, a Bayesian last layer solves
    one regression), some kilobytes for each; and these models have a fixed size, so that beyond a million rows they
    learn next to nothing. So the table is read in row groups, and of a larger one a simple random sample is kept,
    stratified by the arm: every arm keeps its share, so the sample needs no weights.

    Parameters
    ----------
    est : EffectEstimator
    path : path
        A Parquet file, or a folder of them.
    outcome, treatment : str
        Columns; rows without either are an error, as in `EffectEstimator.fit` (of a sample, the rows in it).
    covariates : sequence of str, optional
        By default all other columns.
    exclude : sequence of str
        Columns that are no covariates.
    sample_weight : str, optional
        Column of weights.
    max_rows : int
        See ``docs/scale.md`` for the memory that a row takes.
    random_state : int
        Of the sample.

    Returns
    -------
    The fitted estimator.

    Raises
    ------
    ValueError, TypeError
        As `EffectEstimator.fit`, or for a column that is not there.

    Warns
    -----
    UserWarning
        Where it was a sample.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from effects import TLearner, stream
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> path = pathlib.Path(tempfile.mkdtemp(), "study.parquet")
    >>> data.to_frame().to_parquet(path)
    >>> roles = {"outcome": data.y.name, "treatment": data.treatment.name}
    >>> est = stream.fit_parquet(TLearner(n_members=2, random_state=0), path, **roles)
    >>> est.predict(data.X).shape
    (200,)
    """
    first = next(iter(read_batches(path, 16)))
    roles: list[Hashable] = [outcome, treatment, *([] if sample_weight is None else [sample_weight])]
    for name in (*roles, *(covariates or ()), *exclude):
        if name not in first.columns:
            raise ValueError(f"{Path(path).name} has no column {name!r}; it has {', '.join(first.columns[:12])}.")
    X = [name for name in (covariates or first.columns) if name not in {*roles, *exclude}]
    wanted = [str(name) for name in (*X, *roles)]
    frame, n_rows = sample_rows(path, max_rows, by=treatment, columns=wanted, random_state=random_state)
    if len(frame) < n_rows:
        warnings.warn(
            f"{Path(path).name} has {n_rows:,} rows: {type(est).__name__} is fitted on a random sample of "
            f"{len(frame):,} of them, stratified by the arm; averages over the rows of the fit are averages over the "
            "sample. Give max_rows more where there is memory for it.",
            UserWarning,
            stacklevel=2,
        )
    weight = None if sample_weight is None else frame[sample_weight]
    return est.fit(frame[X], frame[outcome], treatment=frame[treatment], sample_weight=weight)
