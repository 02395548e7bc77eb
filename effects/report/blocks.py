"""What a report is made of: paragraphs, facts, tables and pictures, in sections."""

from __future__ import annotations

import io
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pandas as pd

from effects.plots import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


OPEN: Final = "To be filled in by the authors"


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str
    warning: bool = False
    form: ClassVar[str] = "prose"


@dataclass(frozen=True)
class Facts:
    """Terms with what they stand for; `code` names the terms whose text is code, a text that is_open is a field."""

    pairs: tuple[tuple[str, str], ...]
    code: tuple[str, ...] = ()
    form: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str
    form: ClassVar[str] = "heading"


@dataclass(frozen=True, eq=False)
class Table:
    """Numbers in `frame`, and in `shown` the same as they are printed.

    Numbers get the decimals that two digits of the median `scale` need (without one, each three digits of its own);
    `percent` names columns of shares, `p` columns of p-values, `pairs` two columns that are printed as one range,
    `hidden` columns not printed. `texts` holds printed columns that are written already, because their rows are of
    different units. `links` has for each row the sections (name, title) that the last column points to.
    """

    name: str
    caption: str
    frame: pd.DataFrame
    scale: pd.Series | None = None
    percent: tuple[str, ...] = ()
    pairs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    p: tuple[str, ...] = ()
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    links: tuple[tuple[tuple[str, str], ...], ...] = ()
    form: ClassVar[str] = "table"

    @property
    def shown(self) -> pd.DataFrame:
        """The table as strings."""
        scale = None if self.scale is None or not (self.scale > 0).any() else float(self.scale[self.scale > 0].median())
        cells: dict[str, list[str]] = {}
        for name, column in self.frame.items():
            if pd.api.types.is_integer_dtype(column):
                write: Callable[[Any], str] = _count
            elif not pd.api.types.is_float_dtype(column):
                write = _word
            elif name in self.p:
                write = p_value
            else:
                write = percent if name in self.percent else partial(number, scale=scale, digits=2 if scale else 3)
            cells[str(name)] = [write(value) for value in column]
        for name, (lower, upper) in self.pairs.items():
            ends = zip(cells.pop(lower), cells[upper], strict=True)
            both = [f"{low} to {high}" for low, high in ends]
            cells = {name if key == upper else key: both if key == upper else cells[key] for key in cells}
        cells = {key: list(self.texts.get(key, column)) for key, column in cells.items() if key not in self.hidden}
        return pd.DataFrame(cells, dtype=object)

    def align(self, column: str) -> str:
        """CSS class of a printed column: "n" for numbers, "w" for words."""
        return "w" if column in self.frame and not _is_number(self.frame[column]) else "n"


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that is drawn when asked for: ``draw(ax)``, or as SVG.

    Of the many of a study, one that cannot be drawn must not cost the others: the page then says why (`optional`).
    """

    name: str
    alt: str
    caption: str
    draw: Callable[[Axes], Axes]
    size: tuple[float, float] = (5.0, 3.1)
    optional: bool = False
    form: ClassVar[str] = "picture"

    width = property(lambda self: round(96 * self.size[0]), doc="Width on the page, in CSS pixels.")
    height = property(lambda self: round(96 * self.size[1]), doc="Height on the page, in CSS pixels.")

    def svg(self) -> bytes:
        """The picture as SVG: the same bytes every time, no pyplot, the user's own style left aside."""
        from matplotlib import style
        from matplotlib.figure import Figure

        look = {"svg.hashsalt": self.name, "svg.fonttype": "path", "font.size": 9.5, "hatch.linewidth": 0.7}
        file = io.BytesIO()
        with style.context(["default", look]):
            figure = Figure(figsize=self.size, layout="constrained")
            self.draw(figure.subplots())
            figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()

    def drawn(self) -> tuple[bytes, str]:
        """The picture as SVG and "", or nothing and why it could not be drawn."""
        if not self.optional:
            return self.svg(), ""
        try:
            return self.svg(), ""
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            return b"", " ".join(str(error).split()) or type(error).__name__


Block = Prose | Facts | Heading | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading with its blocks; `brief` sections also appear in the terminal."""

    name: str
    title: str
    blocks: tuple[Block, ...]
    brief: bool = True


def percent(share: float) -> str:
    """A share in percent; 0% and 100% are said only where they are exact."""
    if not 0 < share < 1:
        return "n/a" if math.isnan(share) else f"{100 * share:.0f}%"
    for decimals in (0, 1):
        text = f"{100 * share:.{decimals}f}"
        if 0 < float(text) < 100:
            return f"{text}%"
    return "<0.1%" if share < 0.5 else ">99.9%"


def p_value(p: float) -> str:
    """A p-value as journals print it.

    >>> p_value(0.04321), p_value(0.3), p_value(1e-9), p_value(float("nan"))
    ('0.043', '0.30', '<0.001', 'n/a')
    """
    if math.isnan(p):
        return "n/a"
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.095 else f"{p:.2f}"


def field_of(key: str) -> str:
    """What stands where the authors have yet to say something."""
    return f"{OPEN}: words.{key}"


def is_open(text: object) -> bool:
    return str(text).startswith(OPEN)


def split_open(text: str) -> tuple[str, str]:
    """What is told, and the field that follows it: ``"Column y. (To be filled in ...)"`` in two."""
    told, mark, rest = text.partition(f"({OPEN}")
    return (told, mark + rest) if mark else (text, "")


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _count(value: Any) -> str:
    return "n/a" if pd.isna(value) else f"{value:,}"


def _word(value: Any) -> str:
    return "" if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) else str(value)


def words(section: str) -> dict[str, str]:
    return tomllib.loads(template("words.toml"))[section]


def template(name: str) -> str:
    return resources.files("effects").joinpath("templates", name).read_text(encoding="utf-8")
