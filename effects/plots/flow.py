"""The flow of units: from the rows of a table to those analysed, arm by arm."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from effects.plots.style import COLOURS, FAINT, INK, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STEP = 1.0  # height of a line of boxes


def plot_flow(
    steps: Sequence[tuple[str, int]], arms: Sequence[tuple[str, int]] = (), *, ax: Axes | None = None
) -> Axes:
    """Draw how many rows there were, how many were left out at each step, and how many each arm has.

    Parameters
    ----------
    steps : sequence of (text, count)
        From the table's rows to those analysed; rows that are left out have a negative count and stand aside.
    arms : sequence of (name, count)
        How those analysed are divided, control first.
    ax : matplotlib Axes, optional
        Where to draw and what is returned; a new figure's if None.

    Raises
    ------
    ValueError
        If there is no step, or the first one leaves rows out.

    Examples
    --------
    >>> plot_flow([("rows", 90), ("no outcome", -5), ("analysed", 85)], [("placebo", 40), ("drug", 45)]).axison
    False
    """
    if not steps or steps[0][1] < 0:
        raise ValueError("the first step must be a number of rows: rows can only be left out of some that there were.")
    ax = axes_or_new(ax)
    ax.set_axis_off()
    side = any(n < 0 for _, n in steps)
    trunk, aside, y = (0.29 if side else 0.5), 0.79, 0.0
    last = 0.0
    for k, (text, n) in enumerate(steps):
        if n < 0:
            ax.annotate("", (aside - 0.2, y), (trunk, y), arrowprops={"arrowstyle": "-|>", "color": FAINT, "lw": 1})
            _box(ax, aside, y, f"{text}\nn = {-n:,}", 30, FAINT, "dashed")
        else:
            if k:
                _arrow(ax, (trunk, last), (trunk, y), INK)
            _box(ax, trunk, y, f"{text}\nn = {n:,}", 34, INK, "solid")
            last = y
        y -= _STEP
    if arms:
        gap = min(0.32, 1 / len(arms))
        start = max(gap / 2, min(trunk - gap * (len(arms) - 1) / 2, 1 - gap * (len(arms) - 0.5)))
        places = [start + gap * k for k in range(len(arms))]
        for k, ((name, n), x) in enumerate(zip(arms, places, strict=True)):
            _arrow(ax, (trunk, last), (x, y), INK)
            _box(ax, x, y, f"{name}\nn = {n:,}", max(11, int(60 * gap)), COLOURS[k % 7], "solid")
        y -= _STEP
    ax.set(xlim=(0, 1), ylim=(y + 0.5 * _STEP, 0.5 * _STEP))
    return ax


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """From the lower edge of a box to the upper edge of another."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1}
    ax.annotate("", (end[0], end[1] + 0.3), (start[0], start[1] - 0.3), arrowprops=style)


def _box(ax: Axes, x: float, y: float, text: str, letters: int, colour: str, line: str) -> None:
    lines = [part for piece in text.split("\n") for part in textwrap.wrap(piece, letters)[:3]]
    style = {
        "boxstyle": "round,pad=0.45",
        "facecolor": "white",
        "edgecolor": colour,
        "linestyle": line,
        "linewidth": 1.2,
    }
    words = "\n".join(lines).replace("$", r"\$")
    ax.text(x, y, words, ha="center", va="center", fontsize="small", color=INK, bbox=style, zorder=3)
