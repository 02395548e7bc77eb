"""Pictures of a benchmark: ranks that can be told apart, errors, coverage against width, time against error.

The functions take plain tables, so that they draw anybody's benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from effects.plots.style import (
    COLOURS,
    DASHED,
    FAINT,
    INK,
    add_note,
    axes_or_new,
    finish,
    number,
    percent,
    set_title,
    short,
    tick,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LETTERS = 30
_ALONG = 36  # letters that fit beside the lowest picture
_PALE = "#E6F0F7"  # behind the bars that cannot be told from the best


def plot_ranks(ranks: pd.DataFrame, *, what: str = "error", ours: Sequence[str] = (), ax: Axes | None = None) -> Axes:
    """Draw mean ranks with their critical difference: two whose bars do not overlap can be told apart.

    Bars reach half the critical difference of Nemenyi's test to either side, so that two bars are apart exactly where
    the two mean ranks differ by more than it (Demšar 2006, drawn so that thirty names can be read).

    Parameters
    ----------
    ranks : DataFrame, indexed by name
        ``rank`` (mean over the data sets, 1 is best); ``attrs``: ``difference`` (critical), ``level``, ``n`` (data
        sets), ``p_value`` (of Friedman's test that all are alike).
    what : str
        What was ranked.
    ours : sequence of str
        Names that are drawn in the first colour, with a dot; the others are squares.
    ax : matplotlib Axes, optional
        Where to draw and what is returned; a new figure's if None.

    References
    ----------
    Demšar (2006), Statistical comparisons of classifiers over multiple data sets, JMLR 7, section 3.2.

    Examples
    --------
    >>> plot_ranks(effects.benchmark.ranks(table, "ihdp"))  # doctest: +SKIP
    """
    ax = axes_or_new(ax)
    ranks = ranks.sort_values("rank")
    half = float(ranks.attrs["difference"]) / 2
    best = float(ranks["rank"].iloc[0])
    same = ranks["rank"] <= best + 2 * half
    ax.axvspan(best - half, best + half, color=_PALE, linewidth=0, zorder=0)
    _rows(ax, ranks["rank"].to_numpy(), half, list(ranks.index), ours)
    ax.set_xlim(min(0.5, best - half), float(ranks["rank"].max()) + 1.05 * half)
    ax.set_xticks([1, *range(5, len(ranks) + 1, 5)] if len(ranks) > 6 else range(1, len(ranks) + 1))
    ax.set_xlabel(f"Mean rank of {what},\n{ranks.attrs['n']} data sets, 1 is best", color=INK)
    p = float(ranks.attrs["p_value"])
    alike = "Friedman p < 0.001" if p < 0.001 else f"Friedman p = {p:.2g}"
    add_note(ax, f"critical difference {number(2 * half, digits=2)}; {alike}")
    others = int(same.sum()) - 1
    verdict = "better than all others" if not others else f"{others} of {len(ranks) - 1} others not told apart from it"
    set_title(ax, f"{short(ranks.index[0], _LETTERS)}: {verdict}")
    return finish(ax)


def _rows(ax: Axes, values: Any, half: float, names: list[str], ours: Sequence[str]) -> None:
    """One name a row, from the top, with a bar of equal length around each value."""
    at = np.arange(len(names))
    for k, (value, name) in enumerate(zip(values, names, strict=True)):
        colour, marker = _look(name in ours)
        ax.plot([value - half, value + half], [k, k], color=colour, linewidth=1.4, alpha=0.75, solid_capstyle="butt")
        ax.plot(value, k, marker, color=colour, markersize=4.5, zorder=3)
    _names(ax, at, names, ours)


def _names(ax: Axes, at: Any, names: list[str], ours: Sequence[str]) -> None:
    ax.set_yticks(at, [short(name, _LETTERS) for name in names], fontsize="small")
    ax.tick_params(axis="y", length=0)
    for label, name in zip(ax.get_yticklabels(), names, strict=True):
        label.set(color=_look(name in ours)[0], fontweight="bold" if name in ours else "normal")
    ax.set_ylim(len(names) - 0.4, -0.6)


def _look(ours: bool) -> tuple[str, str]:
    """Colour and marker of this package's estimators, and of all others."""
    return (COLOURS[0], "o") if ours else (COLOURS[1], "s")


def plot_errors(values: pd.DataFrame, *, what: str = "error", ours: Sequence[str] = (), ax: Axes | None = None) -> Axes:
    """Draw boxes of an error, best median first; every data set is a point.

    Parameters
    ----------
    values : DataFrame
        One row a data set, one column a name; positive.
    what : str
        On the axis.
    ours, ax
        As in `plot_ranks`.

    Examples
    --------
    >>> plot_errors(pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 3.0]}), ours=["a"])  # doctest: +SKIP
    """
    ax = axes_or_new(ax)
    order = list(values.median().sort_values(kind="stable").index)
    for k, name in enumerate(order):
        colour, marker = _look(name in ours)
        column = values[name].dropna().to_numpy(dtype=np.float64)
        line: dict[str, Any] = {"color": colour, "linewidth": 1.1}
        ax.boxplot(
            column, positions=[k], orientation="horizontal", widths=0.62, showfliers=False, manage_ticks=False,
            patch_artist=True, boxprops={**line, "facecolor": tint(colour)}, whiskerprops=line, capprops=line,
            medianprops={"color": INK, "linewidth": 1.6},
        )  # fmt: skip
        ax.plot(column, np.full(len(column), k), marker, color=colour, markersize=2.2, alpha=0.8, zorder=4)
    _names(ax, np.arange(len(order)), order, ours)
    array = values.to_numpy(dtype=np.float64)
    if np.nanmin(array) > 0 and np.nanmax(array) > 5 * np.nanmin(array):
        _logarithmic(ax, "x")
    ax.set_xlabel(f"{what[:1].upper()}{what[1:]}", color=INK)
    medians = values.median().sort_values()
    first, second = short(order[0], _LETTERS), number(float(medians.iloc[0]), digits=2)
    set_title(ax, f"{first} has the smallest median, {second}")
    return finish(ax)


def plot_coverage_width(
    means: pd.DataFrame, *, level: float = 0.9, ours: Sequence[str] = (), ax: Axes | None = None
) -> Axes:
    """Draw how often intervals hold the truth against how wide they are; up to the line and left is best.

    Parameters
    ----------
    means : DataFrame, indexed by name
        ``coverage`` and ``width``, means over the data sets.
    level : float
        What the intervals promise.
    ours, ax
        As in `plot_ranks`.

    Examples
    --------
    >>> means = pd.DataFrame({"coverage": [0.9, 0.6], "width": [2.0, 1.0]}, index=["a", "b"])
    >>> plot_coverage_width(means, level=0.9)  # doctest: +SKIP
    """
    ax = axes_or_new(ax)
    means = means.dropna()
    ax.axhline(level, color=FAINT, linewidth=1.1, linestyle=DASHED, zorder=1)
    low = min(float(means["coverage"].min()), level) - 0.05
    ax.set_ylim(max(low, -0.02), 1.03)
    _logarithmic(ax, "x")
    ax.set_xlabel("Mean width of the intervals of the effect", color=INK)
    ax.set_ylabel("Share that holds the truth", color=INK)
    ax.yaxis.set_major_formatter(lambda value, _: percent(round(value, 6), 0))
    _points(ax, means["width"].to_numpy(), means["coverage"].to_numpy(), list(means.index), ours)
    add_note(ax, f"dashed: the {percent(level)} that is promised")
    kept = int((means["coverage"] >= level - 0.03).sum())
    set_title(ax, f"Intervals of {kept} of {len(means)} hold at least {percent(round(level - 0.03, 6), 0)}")
    return finish(ax)


def plot_cost(means: pd.DataFrame, *, what: str = "error", ours: Sequence[str] = (), ax: Axes | None = None) -> Axes:
    """Draw an error against the CPU seconds it took; the line joins those that nobody beats on both.

    Parameters
    ----------
    means : DataFrame, indexed by name
        ``seconds`` and ``error``.
    what : str
        On the axis.
    ours, ax
        As in `plot_ranks`.

    Examples
    --------
    >>> means = pd.DataFrame({"seconds": [2.0, 1.0], "error": [0.5, 0.8]}, index=["a", "b"])
    >>> plot_cost(means, what="error")  # doctest: +SKIP
    """
    ax = axes_or_new(ax)
    means = means.dropna().sort_values("seconds")
    front = means[means["error"] < means["error"].cummin().shift(fill_value=np.inf)]
    ax.plot(front["seconds"], front["error"], color=FAINT, linewidth=1.1, linestyle=DASHED, zorder=1)
    _logarithmic(ax, "x")
    if 0 < 3 * means["error"].min() < means["error"].max():  # else the axis would have one tick
        _logarithmic(ax, "y")
    ax.set_xlabel("CPU seconds to fit and predict, median", color=INK)
    ax.set_ylabel(fill(f"{what[:1].upper()}{what[1:]}, median", _ALONG), color=INK)
    _points(ax, means["seconds"].to_numpy(), means["error"].to_numpy(), list(means.index), ours)
    add_note(ax, "dashed: none is both faster and better")
    set_title(ax, f"Nobody is faster and better than {len(front)} of {len(means)}")
    return finish(ax)


def _points(ax: Axes, x: Any, y: Any, names: list[str], ours: Sequence[str]) -> None:
    """Points with their names in a column at the right edge, in the points' order, a thin line to each."""
    for one, two, name in zip(x, y, names, strict=True):
        colour, marker = _look(name in ours)
        ax.plot(one, two, marker, color=colour, markersize=5, zorder=4)
    ax.autoscale_view()  # or the places below were those of other limits
    transform = ax.transData + ax.transAxes.inverted()
    places = transform.transform(np.column_stack([x, y]).astype(float))[:, 1]
    order = np.argsort(places, kind="stable")
    at = _spread(places[order], 0.0, 1.0)
    for place, k in zip(at, order, strict=True):
        colour = _look(names[k] in ours)[0]
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 1, "shrinkB": 2}
        line |= {"relpos": (0.0, 0.5)}  # or it would run through the text
        ax.annotate(
            short(names[k], _LETTERS), (x[k], y[k]), xytext=(1.03, place), textcoords="axes fraction", va="center",
            fontsize="small", color=colour, fontweight="bold" if names[k] in ours else "normal", arrowprops=line,
        )  # fmt: skip


def _spread(places: Any, low: float, high: float) -> Any:
    """Sorted places, moved apart so that no two are nearer than their share of the room, and moved as little as that
    allows (pools of neighbours, as in isotonic regression)."""
    gap = (high - low) / max(len(places), 24)
    pools: list[list[float]] = []  # mean of where its members would begin, and how many they are
    for k, place in enumerate(places):
        pools.append([float(place) - k * gap, 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, count = pools.pop()
            before, members = pools[-1]
            pools[-1] = [(before * members + mean * count) / (members + count), members + count]
    starts = np.concatenate([np.full(int(count), mean) for mean, count in pools])
    return np.clip(starts, low, high - gap * (len(places) - 1)) + gap * np.arange(len(places))


def _logarithmic(ax: Axes, axis: str) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    (ax.set_xscale if axis == "x" else ax.set_yscale)("log")
    one = ax.xaxis if axis == "x" else ax.yaxis
    one.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=9))
    one.set_major_formatter(lambda value, _: tick(value))
    one.set_minor_formatter(NullFormatter())
