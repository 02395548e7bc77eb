"""Pictures of whether the arms are alike, and of who is lost by trimming."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from effects.diagnostics import Check, Trimming
from effects.diagnostics.comparison import MISSING
from effects.plots.calibration import _mirror
from effects.plots.style import (
    COLOURS,
    DASHED,
    DOTTED,
    FAINT,
    INK,
    add_note,
    axes_or_new,
    finish,
    number,
    set_title,
    share_of,
    short,
    tick,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_COVARIATES = 30  # rows that can be read on one page


def plot_balance(check: Check, *, max_rows: int = MAX_COVARIATES, ax: Axes | None = None) -> Axes:
    """Draw a `check_balance` as a love plot: standardised differences before (hollow) and after weighting (filled).

    The covariates that differ most are drawn, those above the threshold after weighting first among them; the title
    counts all. Of a category with two levels, whose differences mirror each other, the second is drawn. Infinite
    differences stand at the right edge as triangles.

    Parameters
    ----------
    check : Check
        Of `effects.diagnostics.check_balance`.
    max_rows : int, default 30
    ax : matplotlib Axes, optional
        Where to draw and what is returned; a new figure's if None, as high as it has rows.

    Raises
    ------
    ValueError
        If the check is another one, or `max_rows` is not positive.

    Examples
    --------
    >>> plot_balance(check_balance(est, X, y, treatment=arm))  # doctest: +SKIP
    """
    if check.name != "balance":
        raise ValueError(f"this picture is of a check_balance(...), the check given is {check.name!r}.")
    if max_rows < 1:
        raise ValueError(f"max_rows must be positive, got {max_rows!r}.")
    limit = check.threshold or 0.1
    gaps = check.table[["smd_before", "smd_after"]].abs().set_axis(["before", "after"], axis=1)
    shown, n_drawable = _worst(gaps, check.details, limit, max_rows)
    if ax is None:
        from matplotlib import pyplot

        figure = pyplot.subplots(figsize=(5.6, 1.5 + 0.19 * max(len(shown), 6)), layout="constrained")
        ax = figure[1]
    finite = shown.to_numpy()[np.isfinite(shown.to_numpy())]
    right = 1.08 * max(float(finite.max(initial=0.0)), 1.5 * limit)
    rows = np.arange(len(shown))[::-1]
    ends = shown.fillna(0.0).clip(upper=right)
    ax.hlines(rows, ends.min(axis=1), ends.max(axis=1), color=FAINT, linewidth=0.8, zorder=1)
    for when, face, edge in (("before", "white", COLOURS[1]), ("after", COLOURS[0], COLOURS[0])):
        values = shown[when].to_numpy()
        beyond = np.isinf(values)
        style: dict[str, Any] = {"linestyle": "none", "ms": 5.5, "mfc": face, "mec": edge, "mew": 1.3, "zorder": 3}
        ax.plot(values[~beyond], rows[~beyond], "o", label=f"{when} weighting", **style)
        if beyond.any():  # an unclipped line without points would take up room at the figure's corner
            ax.plot(np.full(beyond.sum(), right), rows[beyond], ">", clip_on=False, **style)
    ax.axvline(limit, color=INK, linewidth=1, linestyle=DASHED, zorder=2)
    ax.axvline(0, color=FAINT, linewidth=0.8)
    ax.set(xlim=(-0.02 * right, right), ylim=(-0.7, len(shown) - 0.3))
    ax.set_yticks(rows, [short(name, 34) for name in shown.index])
    ax.tick_params(axis="y", length=0, labelsize="small")
    ax.xaxis.set_major_formatter(lambda value, _: tick(value))
    ax.set_xlabel("Absolute standardised mean difference", color=INK)
    ax.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize="small", loc="lower right")
    note = f"dashed: {number(limit, digits=1)}"
    add_note(ax, f"the {len(shown)} largest of {n_drawable}; {note}" if len(shown) < n_drawable else note)
    above = [int((gaps[when] > limit).sum()) for when in ("before", "after")]
    title = f"{above[0]} of {len(gaps)} covariates differ by more than {number(limit, digits=1)} before weighting, "
    set_title(ax, f"{title}{above[1] or 'none'} after")
    return finish(ax)


def _worst(gaps: pd.DataFrame, details: pd.DataFrame | None, limit: float, max_rows: int) -> tuple[pd.DataFrame, int]:
    """The covariates to draw, the largest difference before weighting first, and how many there were to choose from."""
    drawn = np.ones(len(gaps), dtype=bool)
    if details is not None:
        own = details["level"].notna() & (details["level"] != MISSING)
        size = own.groupby(details["column"]).transform("sum")
        first = own & ~details["column"].where(own).duplicated()
        drawn = ~(first & (size == 2)).to_numpy()
    known = gaps[drawn & gaps.notna().any(axis=1).to_numpy()]
    rank = known.max(axis=1) + np.where(known["after"] > limit, 1e6, 0.0)
    chosen = known.loc[rank.sort_values(ascending=False, kind="stable").index[:max_rows]]
    return chosen.sort_values("before", ascending=False, kind="stable"), len(known)


def plot_trimming(trimming: Trimming, *, show: str = "auto", ax: Axes | None = None) -> Axes:
    """Draw a `trim`: where the propensities are cut, or who is lost.

    Parameters
    ----------
    trimming : Trimming
        Of `effects.diagnostics.trim`.
    show : {"auto", "propensity", "covariates"}
        "propensity" (for two arms): the propensity of those who got the second arm (up) and of the others (down), with
        the parts that are cut shaded. "covariates": the standardised differences between those lost and those kept, of
        the covariates that differ most. "auto": the first where there are two arms.
    ax : matplotlib Axes, optional
        Where to draw and what is returned; a new figure's if None.

    Raises
    ------
    ValueError
        If `show` is unknown, or asks for the propensity of more than two arms, or for those lost where nobody is.

    Examples
    --------
    >>> plot_trimming(trim(est, X, y, treatment=arm))  # doctest: +SKIP
    """
    if show not in ("auto", "propensity", "covariates"):
        raise ValueError(f"show must be 'auto', 'propensity' or 'covariates', got {show!r}.")
    two = len(trimming.arms) == 2
    if show == "propensity" and not two:
        raise ValueError(f"one axis shows the propensity of two arms, there are {len(trimming.arms)}: show covariates.")
    lost = trimming.n - trimming.n_kept
    if show == "covariates" or not two:
        if not lost:
            raise ValueError("nobody is lost by this trimming: there is nobody to describe.")
        return _who_is_lost(trimming, lost, axes_or_new(ax))
    ax = axes_or_new(ax)
    arms = trimming.arms
    ticks = _mirror(ax, trimming.propensity[:, 1], trimming.arm == 1, 1, (arms[1], arms[0]), 0.0)
    ax.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
    lower, upper = (float(trimming.limits[side].iloc[1]) for side in ("lower", "upper"))
    for low, high in ((0.0, lower), (upper, 1.0)):
        if high > low:
            ax.axvspan(low, high, facecolor="#e4e4e4", edgecolor="#bdbdbd", hatch="\\\\\\", linewidth=0, zorder=0)
    for limit in (lower, upper):
        ax.axvline(limit, color=INK, linewidth=1, linestyle=DASHED)
    ax.set(xlim=(0, 1), ylim=(-1.12, 1.12))
    ax.set_xlabel(f"Propensity: probability of {short(arms[1])} given the covariates", color=INK)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    add_note(ax, f"shaded: outside {number(lower, digits=2)} to {number(upper, digits=2)}")
    set_title(ax, f"Trimming loses {share_of(lost, trimming.n)} rows: {_by_arm(trimming)}")
    return finish(ax)


def _by_arm(trimming: Trimming) -> str:
    return ", ".join(f"{row['n_lost']:,.0f} under {short(arm)}" for arm, row in trimming.by_arm.iterrows())


def _who_is_lost(trimming: Trimming, lost: int, ax: Axes) -> Axes:
    """Bars of the largest differences, lost against kept."""
    table = trimming.table.dropna(subset="smd").head(12)
    values = table["smd"].to_numpy(dtype=np.float64)
    finite = np.abs(values[np.isfinite(values)])
    edge = 1.1 * max(float(finite.max(initial=0.0)), 0.2)
    rows = np.arange(len(table))[::-1]
    for side, colour, hatch in ((values >= 0, COLOURS[1], "////"), (values < 0, COLOURS[0], "")):
        length = np.clip(values[side], -edge, edge)
        ax.barh(rows[side], length, height=0.62, facecolor=tint(colour), edgecolor=colour, hatch=hatch)
    for limit in (-0.1, 0.1):
        ax.axvline(limit, color=FAINT, linewidth=0.9, linestyle=DOTTED)
    ax.axvline(0, color=INK, linewidth=1)
    ax.set(xlim=(-edge, edge), ylim=(-0.7, len(table) - 0.3))
    ax.set_yticks(rows, [short(name, 30) for name in table.index])
    ax.tick_params(axis="y", length=0, labelsize="small")
    ax.xaxis.set_major_formatter(lambda value, _: tick(value))
    ax.set_xlabel("Lost less kept, in standard deviations", color=INK)
    add_note(ax, "dotted: 0.1")
    set_title(ax, f"Trimming loses {share_of(lost, trimming.n)} rows: {_by_arm(trimming)}")
    return finish(ax)
