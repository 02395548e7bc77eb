"""Tables larger than memory: rows of a file in batches, and a random sample of them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from effects.datasets.tables import _SEPARATORS, _check_names, _format, _missing, read_table, separator_of

_PARQUET = (".parquet", ".pq")
_READ_ROWS = 65_536  # where only few columns are read


def count_rows(path: str | os.PathLike[str]) -> int | None:
    """Rows of a Parquet file or folder, from its metadata alone; None for other files, which do not tell."""
    return int(_dataset(Path(path)).count_rows()) if is_parquet(path) else None


def is_parquet(path: str | os.PathLike[str]) -> bool:
    """Whether it is a Parquet file, or a folder of them."""
    path = Path(path)
    return path.suffix.lower() in _PARQUET or (path.is_dir() and any(path.rglob("*.parquet")))


def read_batches(
    path: str | os.PathLike[str],
    n_rows: int,
    *,
    columns: Sequence[str] | None = None,
    text: Collection[str] = (),
) -> Iterator[pd.DataFrame]:
    """Consecutive rows of a table, at most `n_rows` at a time, so that memory does not grow with the file.

    Parquet (a file, or a folder of files with the same columns) and delimited text are read piece by piece; the other
    formats of `read_table` are read whole and handed on in pieces.

    Parameters
    ----------
    path : str or path
    n_rows : int
    columns : sequence of str, optional
        Only these.
    text : collection of str
        Columns of delimited text that hold text, though some batch may hold digits alone. The kind of every other
        column is guessed batch by batch; the decimal mark is guessed from the first.

    Yields
    ------
    DataFrame
        With column names as text. Only an index that the file itself holds is kept.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As `read_table`.

    Examples
    --------
    >>> import pandas as pd, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "trial.parquet")
    >>> pd.DataFrame({"bp": [141, 128, 135]}).to_parquet(path)
    >>> [part["bp"].tolist() for part in read_batches(path, 2)]
    [[141, 128], [135]]
    """
    path = Path(path)
    parts: Iterator[pd.DataFrame]
    if is_parquet(path):
        parts = (part.to_pandas() for part in _parquet(path, n_rows, columns))
    elif path.is_file() and _format(path) in _SEPARATORS:
        parts = _text(path, n_rows, columns, text)
    else:
        frame = read_table(path)
        parts = (frame.iloc[start : start + n_rows] for start in range(0, len(frame), n_rows))
    empty = True
    for part in parts:
        part = part.set_axis([str(name) for name in part.columns], axis="columns")
        if columns is not None:
            part = part[list(columns)]
        if len(part):
            empty = False
            yield part
    if empty:
        raise ValueError(f"{path.name} is empty: it has no rows.")


def sample_rows(
    path: str | os.PathLike[str],
    max_rows: int,
    *,
    by: str,
    columns: Sequence[str] | None = None,
    random_state: int = 0,
) -> tuple[pd.DataFrame, int]:
    """A random sample of the rows of a Parquet table, stratified by a column; all of them where they are few enough.

    Two passes: one over `by` alone, one over `columns`. Each value of `by` keeps its share of the rows, so that the
    sample needs no weights. Memory: the sample and a batch.

    Parameters
    ----------
    path : str or path
        A Parquet file, or a folder of them.
    max_rows : int
    by : str
        Such as the treatment.
    columns : sequence of str, optional
        Those to read, all by default.
    random_state : int

    Returns
    -------
    frame : DataFrame
        In the order of the file.
    n_rows : int
        Of the whole table.
    """
    import pyarrow as pa

    path, rng = Path(path), np.random.default_rng(random_state)
    if not is_parquet(path):
        raise ValueError(f"{path.name}: a sample is drawn from Parquet only: convert the table (pandas: to_parquet).")
    if max_rows < 4:
        raise ValueError(f"max_rows must be at least 4, got {max_rows}.")
    left: dict[Any, int] = {}
    for part in read_batches(path, _READ_ROWS, columns=[by]):
        for value, count in part[by].value_counts(dropna=False, sort=False).items():
            key = _key(value)
            left[key] = left.get(key, 0) + int(count)
    n_rows = sum(left.values())
    share = min(max_rows / n_rows, 1.0)
    wanted = {key: max(round(share * count), min(2, count)) for key, count in left.items()}
    read = None if columns is None else list(dict.fromkeys([*columns, by]))
    kept = []
    for part in _parquet(path, _READ_ROWS, read):
        keys, values = pd.factorize(part.column(by).to_pandas(), use_na_sentinel=False)
        chosen = np.zeros(len(part), dtype=bool)
        for code, value in enumerate(values):
            rows, key = np.flatnonzero(keys == code), _key(value)
            # of the rows still to come, `wanted` are to be drawn: how many of them are here
            n = _drawn(rng, wanted[key], left[key], len(rows))
            chosen[rng.choice(rows, n, replace=False)] = True
            wanted[key], left[key] = wanted[key] - n, left[key] - len(rows)
        kept.append(part.filter(pa.array(chosen)))
    # joined as Arrow's: pandas would forget categories that differ from batch to batch
    frame = pa.concat_tables(kept).unify_dictionaries().to_pandas()
    frame = frame.set_axis([str(name) for name in frame.columns], axis="columns")
    return frame if columns is None else frame[list(columns)], n_rows


def _drawn(rng: np.random.Generator, wanted: int, left: int, here: int) -> int:
    """How many of `wanted` rows, drawn from the `left` that are still to come, are among the next `here`."""
    if left < 1_000_000_000:
        return int(rng.hypergeometric(wanted, left - wanted, here))
    # NumPy's law ends there; of so many rows it hardly matters whether one is put back
    return int(np.clip(rng.binomial(here, wanted / left), max(0, wanted - (left - here)), min(wanted, here)))


def _key(value: Any) -> Any:
    """One key for every kind of missing value."""
    return None if pd.isna(value) else value


def _dataset(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.dataset as ds

    if not path.exists():
        raise FileNotFoundError(_missing(path))
    try:
        return ds.dataset(path, format=_format_options(), partitioning="hive" if path.is_dir() else None)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{path.name} cannot be read as parquet: {error}") from error


def _format_options() -> Any:
    import pyarrow.dataset as ds

    # piece by piece: by default whole row groups are fetched, several at once
    options = ds.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True, buffer_size=1 << 20)
    return ds.ParquetFileFormat(default_fragment_scan_options=options)


def _parquet(path: Path, n_rows: int, columns: Sequence[str] | None) -> Iterator[Any]:
    """Arrow tables."""
    import pyarrow as pa

    dataset = _dataset(path)
    names = [str(name) for name in dataset.schema.names]
    for name in columns or ():
        if name not in names:
            raise ValueError(f"{path.name} has no column {name!r}; it has {', '.join(names[:12])}.")
    wanted = None if columns is None else list(columns)
    ahead: dict[str, Any] = {"batch_readahead": 1, "fragment_readahead": 1, "use_threads": False}
    fragments = list(dataset.get_fragments())
    for fragment in fragments:  # all of them first: Arrow would fill a column that a later file lacks with nulls
        _check_file(fragment, names if columns is None else columns)
    for fragment in fragments:
        # the dataset's schema: a file of the folder may hold a column in another width
        for batch in fragment.to_batches(schema=dataset.schema, columns=wanted, batch_size=n_rows, **ahead):
            yield pa.Table.from_batches([batch])


def _check_file(fragment: Any, columns: Sequence[str]) -> None:
    """Refuse a folder whose files do not have the same columns."""
    from pyarrow.dataset import get_partition_keys

    have = {*map(str, fragment.physical_schema.names), *get_partition_keys(fragment.partition_expression)}
    absent = [name for name in columns if name not in have]
    if absent:
        raise ValueError(
            f"{Path(fragment.path).name} has no column {absent[0]!r}, which other files of the folder have: write it "
            "there too, as missing values where nothing is known."
        )


def _text(path: Path, n_rows: int, columns: Sequence[str] | None, text: Collection[str]) -> Iterator[pd.DataFrame]:
    """Delimited text as `read_table` reads it, but in one pass."""
    with _opened(path) as file:
        sep = separator_of(file, _SEPARATORS[_format(path)])
    common: dict[str, Any] = {"sep": sep, "encoding": "utf-8-sig"}
    with _opened(path) as file:
        header = pd.read_csv(file, header=None, nrows=1, dtype=str, **common).iloc[0]
    _check_names(path, header)
    kinds: Any = dict.fromkeys([name for name in text if name in set(header)], str)
    wanted = None if columns is None else list(columns)
    for name in wanted or ():
        if name not in set(header):
            raise ValueError(f"{path.name} has no column {name!r}; it has {', '.join(map(str, header[:12]))}.")

    def chunks(decimal: str, nrows: int | None = None) -> Iterator[pd.DataFrame]:
        more: Any = {**common, "decimal": decimal, "dtype": kinds, "usecols": wanted, "nrows": nrows}
        with _opened(path) as file, pd.read_csv(file, chunksize=n_rows, low_memory=False, **more) as reader:
            yield from reader

    marks = ".," if sep == ";" else "."
    if len(marks) > 1:
        firsts = {mark: next(chunks(mark, n_rows)).select_dtypes("number").shape[1] for mark in marks}
        marks = max(firsts, key=firsts.__getitem__)
    try:
        yield from chunks(marks)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not utf-8 text: save it as utf-8 and read it again.") from error
    except pd.errors.ParserError as error:
        raise ValueError(f"{path.name} cannot be read as text: {error}") from error


def _opened(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked as they are read."""
    packed: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zip": _unzipped}
    return packed.get(path.suffix.lower(), lambda one: one.open("rb"))(path)


def _unzipped(path: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
    if len(names) != 1:
        raise ValueError(f"{path.name} holds {len(names)} files, one is needed: unpack it.")
    return archive.open(names[0])
