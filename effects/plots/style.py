"""What all pictures share: colours and marks, how numbers are written, where titles and remarks go."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES: Final[tuple[Any, ...]] = ("solid", (0, (5, 1.6)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS: Final = ("o", "s", "^", "D", "v")
HATCHES: Final = ("", "////", "....", "xxxx", "\\\\\\\\")
INK: Final = "#222222"
FAINT: Final = "#636363"
DASHED: Final[Any] = (0, (4, 2))
DOTTED: Final[Any] = (0, (1, 1.5))
MAX_UNITS_DRAWN: Final = 400  # a sorted curve of more units looks the same and makes a picture of megabytes


def number(value: float, scale: float | None = None, digits: int = 3) -> str:
    """Write a number with the decimals that `digits` significant digits of `scale` (by default itself) need.

    >>> number(-3.14159), number(12345.6), number(0.012345), number(1.23456, scale=0.02, digits=2)
    ('−3.14', '12,346', '0.0123', '1.235')
    """
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else "−∞" if value < 0 else "∞"
    size = abs(scale if scale and math.isfinite(scale) else value)
    decimals = max(0, digits - 1 - math.floor(math.log10(size))) if size else 0
    text = f"{value:,.{decimals}f}" if decimals <= 8 else f"{value:.{digits - 1}e}"
    if not text.strip("-0.,"):  # no minus before a rounded zero
        text = text.lstrip("-")
    return text.replace("-", "−")


def tick(value: float) -> str:
    return f"{round(value, 10):,.10g}".replace("-", "−")


def percent(share: float, decimals: int | None = None) -> str:
    return f"{100 * share:.10g}%" if decimals is None else f"{100 * share:.{decimals}f}%"


def share_of(count: int, n: int) -> str:
    return f"{count:,} of {n:,} ({percent(count / n, 0)})" if count else f"none of {n:,}"


def short(label: Any, length: int = 22) -> str:
    text = str(label).replace("$", r"\$")  # matplotlib would read mathematics between two dollars
    return text if len(text) <= length else text[: length - 1] + "…"


def with_unit(name: str, unit: str) -> str:
    return (f"{name} ({unit})" if unit and unit != name else name).replace("$", r"\$")


def tint(colour: str) -> tuple[float, float, float]:
    """The colour as a third of itself on white: opaque, so that what lies behind does not show."""
    red, green, blue = (1 - 0.36 * (1 - int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return red, green, blue


def arm_style(arm: int) -> tuple[str, Any, str, str]:
    """Colour, line style, marker and hatch of an arm."""
    return COLOURS[arm % 7], LINES[arm % 5], MARKERS[arm % 5], HATCHES[arm % 5]


def axes_or_new(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(5.6, 3.5), layout="constrained")[1]


def name_rows(ax: Axes, places: FloatArray, names: list[str]) -> None:
    ax.set_yticks(places, names)
    ax.tick_params(axis="y", length=0)
    for arm, label in enumerate(ax.get_yticklabels()):
        label.set(color=COLOURS[arm % 7], fontweight="bold")


def set_title(ax: Axes, text: str) -> None:
    """Set a left-aligned title, broken to the axes' width and, should it still be too long, at the figure's edge."""
    ax.title.set_fontsize("medium")
    width = ax.bbox.width / ax.figure.dpi * 72
    letters = int(width / (0.56 * float(ax.title.get_fontsize())))  # a letter is a good half as wide as high
    lines = len(textwrap.wrap(text, max(24, letters)))
    if lines > 1:  # about equally long, so that no word stands alone on the last
        text = "\n".join(textwrap.wrap(text, max(24, min(letters, len(text) // lines + 10))))
    ax.set_title(text, loc="left", fontsize="medium", color=INK, pad=17, wrap=True)


def add_note(ax: Axes, text: str, at: Any = (1, 1), system: Any = "axes fraction", ha: str = "right") -> None:
    """A small remark; by default a key in the upper right corner, where a legend would need a box."""
    style: dict[str, Any] = {"ha": ha, "va": "bottom", "fontsize": "small", "color": FAINT}
    ax.annotate(text, at, xycoords=system, xytext=(0, 3), textcoords="offset points", **style)


def finish(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    return ax
