"""The tables of a report as LaTeX: escaped, in booktabs, as one document that compiles alone and can be cut up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from effects.report.blocks import Table, template

if TYPE_CHECKING:
    from effects.report import Report

LONG: Final = 38  # rows from which a table may break across pages
WIDE: Final = 34  # letters from which a column of words is set as paragraphs, and what a line may hold of it
MOST: Final = 62
LINE: Final = 105  # letters of a line

_SPECIAL: Final = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after the end of a row, a bracket or a star would be read as its option
    "]": "{]}",
    "*": "{*}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"\textperiodcentered{}",
    "∞": r"$\infty$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "→": r"$\to$",
    "…": r"\ldots{}",
    "–": "--",
    "—": "---",
    "\u00a0": "~",
    "τ": r"$\tau$",
    "Λ": r"$\Lambda$",
    "Γ": r"$\Gamma$",
    "η": r"$\eta$",
    "χ": r"$\chi$",
    "²": r"$^2$",
    "√": r"$\surd$",
}
_PATTERN: Final = re.compile("|".join([*map(re.escape, _SPECIAL), "-(?=-)"]))


def escape(text: object) -> str:
    r"""A text that LaTeX sets as it is; whatever it holds, it can neither end a table nor run a command.

    >>> escape("50% of A_1 & <b>"), escape(r"\input{x}")
    ('50\\% of A\\_1 \\& \\textless{}b\\textgreater{}', '\\textbackslash{}input\\{x\\}')
    """
    plain = "".join(c if c.isprintable() else " " for c in str(text))
    # of two hyphens the first is parted from the second, or they would be a dash
    return _PATTERN.sub(lambda found: _SPECIAL.get(found[0], "-{}"), " ".join(plain.split()))


def layout(table: Table) -> str:
    """The columns as LaTeX wants them: words left, long ones as paragraphs, numbers right."""
    shown, marks = table.shown, []
    names = [str(name) for name in shown]
    letters = {name: max([len(name), *map(len, shown[name])]) for name in names}
    share = {
        name: min(letters[name], MOST) / LINE for name in names if table.align(name) == "w" and letters[name] > WIDE
    }
    squeeze = min(1.0, 0.8 / sum(share.values())) if share else 1.0
    for name in names:
        if name in share:
            marks.append(rf">{{\raggedright\arraybackslash}}p{{{squeeze * share[name]:.2f}\linewidth}}")
        else:
            marks.append("l" if table.align(name) == "w" else "r")
    return "".join(marks)


def write(report: Report) -> str:
    """The document."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        block_start_string="<%", block_end_string="%>", variable_start_string="<<", variable_end_string=">>",
        comment_start_string="<#", comment_end_string="#>", trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined, autoescape=False,
    )  # fmt: skip
    environment.filters.update(tex=escape, layout=layout)
    tables = [block for section in report.sections for block in section.blocks if isinstance(block, Table)]
    return environment.from_string(template("report.tex")).render(report=report, tables=tables, long=LONG)
