"""A report on one fit: what was asked, what came out, what it rests on; for the terminal, a file or the browser.

`Report.from_fit` computes every number once and keeps it in `Report.tables` and `Report.estimates`; the text, the page
and the Markdown are three ways to write the same sections. Pictures are drawn when a page is written, not before.
"""

from __future__ import annotations

import base64
import html
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from effects import __version__
from effects.effect import Estimate
from effects.files import write_whole
from effects.report import latex as tex
from effects.report.blocks import Block, Facts, Heading, Picture, Prose, Section, Table, is_open, split_open, template
from effects.report.results import study_lead, study_sections
from effects.report.sections import Study, lead, sections_of
from effects.report.study import Told, byline_of, title_of
from effects.report.target import KEYS

if TYPE_CHECKING:
    from effects.estimator import EffectEstimator
    from effects.study import Findings

__all__ = ["KEYS", "Facts", "Heading", "Picture", "Prose", "Report", "Section", "Table"]

ASCII: Final = str.maketrans(
    {
        "−": "-",
        "·": "|",
        "±": "+/-",
        "…": "...",
        "∞": "inf",
        "≤": "<=",
        "≥": ">=",
        "\u00a0": " ",
        "–": "-",
        "’": "'",
        "á": "a",
    }
)


@dataclass(frozen=True)
class Report:
    """A fit, told to a reader: the average effect, how it varies, and what both rest on.

    Attributes
    ----------
    title, byline : str
    lead : tuple of str
        The findings, one sentence each.
    sections : tuple of Section
        What follows them, in order.
    estimates : tuple of Estimate
        Average effect of every arm against control, by cross-fitted AIPW.
    level : float
        Probability of all intervals.
    date, version : str
        When, and by which version of this package.
    contents : bool
        Whether the page has a table of contents.

    Examples
    --------
    >>> report = Report.from_fit(est, data.X, data.y, treatment=data.treatment)  # doctest: +SKIP
    >>> print(report.text())  # doctest: +SKIP
    >>> report.save("report.html")  # doctest: +SKIP
    """

    title: str
    byline: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...] = field(repr=False)
    estimates: tuple[Estimate, ...]
    level: float
    date: str = ""
    version: str = __version__
    contents: bool = False

    @classmethod
    def from_fit(
        cls,
        est: EffectEstimator,
        X: Any,
        y: Any,
        *,
        treatment: Any,
        level: float = 0.9,
        units: Sequence[int] | None = None,
        title: str | None = None,
        outcome_name: str | None = None,
        treatment_name: str | None = None,
        outcome_unit: str = "",
        command: str | None = None,
        source: str | None = None,
    ) -> Report:
        """Compute the report of a fitted estimator on some rows.

        Parameters
        ----------
        est : fitted EffectEstimator
        X : DataFrame or array-like of shape (n_samples, n_features)
            The units that are averaged over: the training rows, whose calibration is then checked by networks that had
            held each of them out where the estimator kept that (``held_out_``), or others, for which nuisances are
            cross-fitted anew.
        y, treatment : array-like of shape (n_samples,)
        level : float, default 0.9
            Probability of all intervals.
        units : sequence of int, optional
            Positions of the rows that are shown one by one; by default those of the lowest, median and highest CATE
            (of the first treated arm).
        title, outcome_name, treatment_name, outcome_unit : str, optional
            Words for the reader.
        command : str, optional
            What to type to get this report again.
        source : str, optional
            Where the table comes from.

        Raises
        ------
        ValueError
            If lengths differ, ``level`` is no probability, or a unit is no row of X.
        sklearn.exceptions.NotFittedError
            If `est` is not fitted.

        Warns
        -----
        UserWarning
            As `estimate_ate`, on weak overlap; the page says so too.
        """
        s = Study.of(est, X, y, treatment, level, units, (outcome_name, treatment_name, outcome_unit))
        facts = [f"{s.n:,} units", f"{len(s.arms)} arms", type(est).__name__, source]
        return cls(
            title=title or f"Effect of {s.treatment} on {s.outcome}",
            byline=" · ".join(fact for fact in facts if fact),
            lead=tuple(lead(s)),
            sections=sections_of(s, source, command),
            estimates=tuple(s.averages),
            level=level,
            date=date.today().isoformat(),
        )

    @classmethod
    def from_study(cls, findings: Findings) -> Report:
        """The report of a whole study, in the order of the TARGET statement as far as a table can follow it.

        Parameters
        ----------
        findings : Findings
            Of `effects.study.run`: everything that was computed, and why the rest was not. Nothing is estimated here.

        Returns
        -------
        Report
            Its ``contents`` are listed beside the page. What only the authors can tell stands as a field that names its
            key in the section [words] of STUDY.toml (see `effects.report.KEYS`); a finding that is missing stands as
            the reason why; the last section says of each item where it is answered.

        References
        ----------
        Cashin, Hansford, Hernán et al. (2025), Transparent Reporting of Observational Studies Emulating a Target Trial:
        the TARGET statement, JAMA, doi:10.1001/jama.2025.13350.

        Examples
        --------
        >>> findings = effects.study.run(plan)  # doctest: +SKIP
        >>> Report.from_study(findings).save("study.html")  # doctest: +SKIP
        """
        told = Told(findings)
        return cls(
            title=title_of(findings),
            byline=byline_of(findings),
            lead=tuple(study_lead(told)),
            sections=study_sections(told),
            estimates=tuple(told.primary),
            level=findings.plan.level,
            date=date.today().isoformat(),
            contents=True,
        )

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Every table with its numbers, by name."""
        return {block.name: block.frame for block in self._blocks() if isinstance(block, Table)}

    @property
    def table(self) -> pd.DataFrame:
        """The average effects: contrast, method, estimate, se, lower, upper."""
        return self.tables["effects"]

    @property
    def pictures(self) -> Mapping[str, Picture]:
        """Every picture, by name."""
        return {block.name: block for block in self._blocks() if isinstance(block, Picture)}

    def text(self, *, full: bool = False, width: int | None = None, plain: bool | None = None) -> str:
        """The report for a terminal.

        Parameters
        ----------
        full : bool
            With the data, the assumptions and the computation.
        width : int, optional
            Columns; by default those of the terminal, 100 where there is none.
        plain : bool, optional
            Without colours and rules beyond ASCII; by default where standard output is not a terminal.
        """
        width = shutil.get_terminal_size((100, 24)).columns if width is None else width
        return _as_text(self, full, width, not sys.stdout.isatty() if plain is None else plain)

    def markdown(self) -> str:
        """The report as Markdown, without its pictures."""
        return _render(self, "report.md", autoescape=False)

    def latex(self) -> str:
        """The tables of the report as LaTeX in booktabs, with captions: a document that compiles, and can be cut up."""
        return tex.write(self)

    def html(self) -> str:
        """The report as one page that needs nothing else: style and pictures are in it."""
        return _render(self, "report.html", autoescape=True)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report, whole or not at all; the suffix says how: .html, .md, .tex or .txt.

        Raises
        ------
        ValueError
            If the suffix is another.
        FileNotFoundError
            If the folder does not exist.
        """
        writers = {".html": self.html, ".htm": self.html, ".md": self.markdown, ".tex": self.latex}
        writers[".txt"] = partial(self.text, full=True, width=100, plain=True)
        write = writers.get(Path(path).suffix.lower())
        if write is None:
            raise ValueError(f"cannot write a report to {str(path)!r}: its name must end in .html, .md, .tex or .txt.")
        return write_whole(path, write())

    def _blocks(self) -> Iterator[Block]:
        return (block for section in self.sections for block in section.blocks)


def _render(report: Report, name: str, autoescape: bool) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=autoescape, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["md"] = _markdown
    environment.filters["code"] = lambda text: (
        _markdown(text) if set(text) & set("`<>&") else f"`{' '.join(text.split())}`"
    )
    environment.filters["row"] = _markdown_row
    environment.filters["split_open"] = split_open
    environment.tests["open"] = is_open
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    return environment.from_string(template(name)).render(report=report)


def _markdown(text: object) -> str:
    """A text that Markdown shows as it is."""
    escaped = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", html.escape(str(text), quote=False))
    return " ".join(escaped.split())


def _markdown_row(row: tuple[str, ...], links: Sequence[tuple[str, str]]) -> str:
    """A row of a table; its last cell as links to sections, where it has any, and what is still open."""
    cells = [_markdown(cell) for cell in row]
    if links:
        places = [f"[{_markdown(title)}](#{_slug(title)})" for _, title in links]
        waiting = [_markdown(part) for part in row[-1].split("; ") if part.startswith("open: ")]
        cells[-1] = "; ".join([*places, *waiting])
    return f"| {' | '.join(cells)} |"


def _slug(title: str) -> str:
    """What readers of Markdown make of a heading, for links to it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def _as_text(report: Report, full: bool, width: int, plain: bool) -> str:
    """The report by rich; `plain` is free of colour and, but for the user's own words, ASCII."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid

    file = io.StringIO()
    colour: Any = {"color_system": None} if plain else {"force_terminal": True}
    console = Console(file=file, width=width, markup=False, highlight=False, emoji=False, **colour)
    rule = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True) if plain else box.SIMPLE_HEAD
    console.print(report.title, style="bold")
    console.print(report.byline, style="dim")
    for sentence in report.lead:
        console.print(f"\n{sentence}")
    for section in report.sections:
        if not (full or section.brief):
            continue
        console.print(f"\n{section.title.upper() if plain else section.title}", style="bold")
        for block in section.blocks:
            if isinstance(block, Table):
                console.print(f"\n{block.caption}", style="dim")
                grid = Grid(box=rule, pad_edge=False, header_style="bold")
                for name in block.shown.columns:
                    grid.add_column(name, justify="left" if block.align(name) == "w" else "right")
                for row in block.shown.itertuples(index=False, name=None):
                    grid.add_row(*row)
                console.print(grid)
            elif isinstance(block, Facts):
                facts = Grid.grid(padding=(0, 2))
                for term, text in block.pairs:
                    facts.add_row(term, text)
                console.print(facts)
            elif isinstance(block, Heading) and full:
                console.print(f"\n{block.text}", style="bold")
            elif isinstance(block, Prose) and (full or block.warning):
                console.print(block.text)
    text = re.sub(r"[ \t]+\n", "\n", file.getvalue())
    text = re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"
    return text.translate(ASCII) if plain else text
