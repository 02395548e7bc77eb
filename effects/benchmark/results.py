"""The table of runs: kept as files, read back, summed up, and written as the README shows it."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import effects
from effects.benchmark.suites import SUITES
from effects.files import write_whole

_STALE_SECONDS = 3600.0


class Store:
    """A folder of runs, one Parquet file of one row each."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.runs = self.folder / "runs"
        self.runs.mkdir(parents=True, exist_ok=True)
        for left in self.runs.glob(".*.parquet.*"):  # what a kill in the midst of writing has left behind
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                left.unlink(missing_ok=True)

    def done(self, name: str, retry_failed: bool = False) -> dict[str, Any] | None:
        """The row of that name, if this version of the package wrote it and it need not be run again."""
        path = self.runs / f"{name}.parquet"
        row = _read_row(path) if path.is_file() else None
        if row is None or json.loads(row["versions"])["effects"] != effects.__version__:
            return None
        return None if retry_failed and row["status"] != "ok" else row

    def write(self, row: dict[str, Any]) -> Path:
        """One row, whole or not at all."""
        name = "-".join(str(row[key]) for key in ("suite", "data", "replication", "estimator", "seed", "key"))
        return write_whole(self.runs / f"{name}.parquet", _as_parquet(pd.DataFrame([row])))

    def write_table(self) -> Path:
        return write_whole(self.folder / "table.parquet", _as_parquet(read(self.folder)))


def _as_parquet(frame: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.to_parquet(file, index=False)
    return file.getvalue()


def _read_row(path: Path) -> dict[str, Any] | None:
    """A run's row; None if the file is damaged, and the run is made again."""
    import pyarrow
    import pyarrow.parquet

    try:
        [row] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError, pyarrow.ArrowInvalid):
        return None
    return row if {"key", "status", "versions"} <= set(row) else None


def read(path: str | os.PathLike[str]) -> pd.DataFrame:
    """The table of a benchmark: one row a run, failed ones included.

    Parameters
    ----------
    path : path
        The folder of a benchmark, whole or still under way, or a table (.parquet or .csv) that was kept of one.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no run in the folder.

    Examples
    --------
    >>> read("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: there are no runs in 'nowhere': name the folder of a benchmark, or its table.
    """
    path = Path(path)
    if path.is_file():
        return _kept_table(path)
    rows = [row for one in sorted((path / "runs").glob("*.parquet")) if (row := _read_row(one)) is not None]
    if not rows:
        raise FileNotFoundError(f"there are no runs in {str(path)!r}: name the folder of a benchmark, or its table.")
    order = {name: place for place, name in enumerate(SUITES)}
    place = [(order[row["suite"]], row["replication"], row["data"], row["peer"], row["label"]) for row in rows]
    return pd.DataFrame([rows[k] for k in sorted(range(len(rows)), key=place.__getitem__)])


def _kept_table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a table: {' '.join(str(error).split())}") from error
    if absent := [name for name in ("suite", "data", "label", "peer", "status", "level") if name not in table]:
        raise ValueError(f"{str(path)!r} is no table of a benchmark: it has no column {absent[0]!r}.")
    return table


def figures(table: pd.DataFrame) -> list[str]:
    """The columns that measure something."""
    starts = ("in_", "out_", "ate_", "att_", "atc_", "ato_", "fit_", "predict_")
    return [name for name in table.columns if name.startswith(starts) or name in ("peak_mb", "growth_mb", "seconds")]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and median of every figure over replications and seeds, a data set and an estimator a row.

    Returns
    -------
    DataFrame
        ``suite, data, label, peer, statistic, runs, failed`` and the figures.
    """
    by = ["suite", "data", "label", "peer"]
    groups = table.groupby(by, sort=False)
    counts = groups["status"].agg(runs="size", failed=lambda status: int((status != "ok").sum()))
    values = table[by + figures(table)].groupby(by, sort=False)
    parts = [
        counts.join(values.mean()).assign(statistic="mean"),
        counts.join(values.median()).assign(statistic="median"),
    ]
    return pd.concat(parts).reset_index()


def wide(table: pd.DataFrame, suite: str, figure: str | None = None) -> pd.DataFrame:
    """One figure of a suite, a data set and replication a row, an estimator a column; seeds are averaged."""
    rows = table[(table["suite"] == suite) & (table["status"] == "ok")]
    name = SUITES[suite].figure if figure is None else figure
    if name not in rows:
        return pd.DataFrame()
    values = rows.pivot_table(index=["data", "replication"], columns="label", values=name, sort=False)
    return values.dropna(axis=1, how="all")


def ranks(table: pd.DataFrame, suite: str, level: float = 0.05) -> pd.DataFrame:
    """Mean ranks of a suite's figure, and the difference from which two of them can be told apart.

    Friedman's test of all being alike, then Nemenyi's of every pair: mean ranks over N data sets of k estimators differ
    at `level` where they are more than :math:`q \\sqrt{k (k + 1) / (6 N)}` apart, q a quantile of the studentised range
    over :math:`\\sqrt 2`.

    Returns
    -------
    DataFrame, indexed by label
        ``rank``; ``attrs``: ``difference``, ``level``, ``n``, ``p_value`` and ``left_out``, who has no value on every
        data set and so no rank.

    Raises
    ------
    ValueError
        With fewer than two data sets or three estimators, which cannot be tested.

    References
    ----------
    Demšar (2006), Statistical comparisons of classifiers over multiple data sets, JMLR 7, section 3.2.
    """
    from scipy import stats

    values = wide(table, suite)
    whole = values.dropna(axis=1)
    n, k = whole.shape
    if n < 2 or k < 3:
        raise ValueError(f"ranks need two data sets and three estimators; {suite} has {n} and {k} without gaps.")
    places = whole.rank(axis=1)
    alike = bool((places.nunique(axis=1) == 1).all())
    p_value = 1.0 if alike else float(stats.friedmanchisquare(*whole.to_numpy().T).pvalue)
    quantile = float(stats.studentized_range.ppf(1 - level, k, np.inf)) / np.sqrt(2)
    found = places.mean().rename("rank").to_frame().sort_values("rank", kind="stable")
    found.attrs = {"difference": quantile * float(np.sqrt(k * (k + 1) / (6 * n))), "level": level, "n": n}
    found.attrs |= {"p_value": p_value, "left_out": [name for name in values.columns if name not in whole.columns]}
    return found


# ------------------------------------------------------------------------------------------------ the table in words


#: What the README leaves out of the columns.
_FULL_ONLY = ("in sample", "their width", "CRPS of Y(0), Y(1)", "memory added, MB")


def markdown(table: pd.DataFrame, suite: str, *, brief: bool = False) -> str:
    """The table of a suite: estimators in the order of the median of its figure, best first.

    Parameters
    ----------
    table : DataFrame
        Of `read` or `run`.
    suite : str
        Name in `SUITES`.
    brief : bool
        With the columns that the README has.

    Raises
    ------
    ValueError
        If the table has no run of that suite.
    """
    frame = shown(table, suite)
    frame = frame.drop(columns=list(_FULL_ONLY), errors="ignore") if brief else frame
    lines = [f"| {' | '.join(frame.columns)} |", f"| {' | '.join(['---'] * frame.shape[1])} |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in frame.itertuples(index=False, name=None))])


def shown(table: pd.DataFrame, suite: str) -> pd.DataFrame:
    """The table of a suite as text, one estimator a row; this package's own names as code."""
    rows = table[(table["suite"] == suite) & (table["status"] == "ok")]
    if rows["level"].nunique() > 1:
        levels = ", ".join(f"{one:g}" for one in sorted(rows["level"].unique()))
        raise ValueError(f"the runs of {suite} have intervals of several levels ({levels}): keep those of one.")
    if rows.empty:
        known = ", ".join(dict.fromkeys(table["suite"]))
        raise ValueError(f"the table has no run of the suite {suite!r} that went well; it has {known}.")
    figure = SUITES[suite].figure
    cells = _by_data(rows, suite) if suite in ("distributions", "ate") else _by_figure(rows, suite)
    order = rows.groupby("label")[figure].median() if figure in rows else pd.Series(0.0, index=cells.index)
    if suite in ("distributions", "ate"):  # units differ between data sets: mean rank instead
        order = wide(table, suite).rank(axis=1).mean() if figure in rows else order
    cells = cells.loc[order.reindex(cells.index).sort_values(kind="stable").index]
    tried = table[table["suite"] == suite]
    cells = cells.reindex(
        [*cells.index, *(label for label in dict.fromkeys(tried["label"]) if label not in cells.index)]
    )
    cells = cells.fillna("–")  # whoever failed every time has a row too
    ours = dict(zip(tried["label"], ~tried["peer"].astype(bool), strict=True))
    cells.insert(0, "estimator", [f"`{label}`" if ours[label] else label for label in cells.index])
    failed = tried[tried["status"] != "ok"]["label"].value_counts()
    if len(failed):
        cells["failed"] = [str(failed.get(label, 0) or "") for label in cells.index]
    return cells


def _by_figure(rows: pd.DataFrame, suite: str) -> pd.DataFrame:
    """One column a figure: most as means, errors as mean / median, times as medians."""
    level = f"{100 * float(rows['level'].iloc[0]):g}%"
    columns: list[tuple[str, list[str], Callable[[pd.DataFrame], str]]] = [
        ("√PEHE, mean / median", ["out_sqrt_pehe"], _both),
        ("in sample", ["in_sqrt_pehe"], _both),
        ("policy risk, mean", ["out_policy_risk"], _mean),
        ("error of the ATT, mean", ["out_att_error"], _mean),
        ("error of the ATE, median", ["out_ate_error"], _median),
        (f"{level} CATE intervals cover", ["out_cate_coverage"], _mean),
        ("their width", ["out_cate_width"], _mean),
        ("interval score", ["out_cate_interval_score"], _mean),
        (f"{level} intervals of Y(0), Y(1) cover", ["out_outcome_coverage_0", "out_outcome_coverage_1"], _mean),
        ("CRPS of Y(0), Y(1)", ["out_crps_0", "out_crps_1"], _mean),
        ("CRPS of the observed", ["out_factual_crps"], _mean),
        ("CPU seconds, median", ["cpu_seconds"], _median),
        ("memory added, MB", ["growth_mb"], _whole),
    ]
    rows = rows.assign(cpu_seconds=rows["fit_cpu_seconds"] + rows["predict_cpu_seconds"])
    cells = {
        title: {label: write(part[names]) for label, part in rows.groupby("label", sort=False)}
        for title, names, write in columns
        if all(name in rows and rows[name].notna().any() for name in names)
    }
    return pd.DataFrame(cells)


def _by_data(rows: pd.DataFrame, suite: str) -> pd.DataFrame:
    """One column a data set: mean Wasserstein-1 distance, or how often intervals of the ATE hold the truth."""
    cells: dict[str, dict[str, str]] = {}
    for data, part in rows.groupby("data", sort=False):
        for label, one in part.groupby("label", sort=False):
            if suite == "ate":
                covered, width = (
                    (one[name].mean() if name in one else np.nan) for name in ("ate_covered", "ate_width")
                )
                text = f"{_text(one['ate_error'].mean())}; {_text(covered, 2)}, {_text(width)}"
            else:
                text = _text(one["out_wasserstein"].mean() if "out_wasserstein" in one else np.nan)
            cells.setdefault(str(data).replace("_", " "), {})[str(label)] = text
    return pd.DataFrame(cells).fillna("–")


def _text(value: float, decimals: int | None = None) -> str:
    if not np.isfinite(value):
        return "–"
    if decimals is None:
        decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 else 3
    return f"{value:,.{decimals}f}"


def _each(part: pd.DataFrame, value: pd.Series, decimals: int | None = None) -> str:
    texts = [_text(float(one), decimals) for one in value]
    return "–" if set(texts) == {"–"} else ", ".join(texts)


def _mean(part: pd.DataFrame) -> str:
    return _each(part, part.mean())


def _median(part: pd.DataFrame) -> str:
    return _each(part, part.median())


def _whole(part: pd.DataFrame) -> str:
    return _each(part, part.median(), 0)


def _both(part: pd.DataFrame) -> str:
    return f"{_mean(part)} / {_median(part)}" if part.notna().to_numpy().any() else "–"
