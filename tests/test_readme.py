"""The README's table of estimators is `effects.all_estimators()`: ``python tests/test_readme.py`` writes it again."""

from __future__ import annotations

import re
from pathlib import Path

import effects
from effects.files import write_whole

README = Path(__file__).resolve().parent.parent / "README.md"
TABLE = re.compile(r"(?<=<!-- estimators -->\n\n).*?(?=\n\n<!-- end -->)", re.DOTALL)
KINDS = ("continuous", "binary", "count")


def table() -> str:
    """The estimators in markdown."""
    lines = ["| estimator | what it is | outcomes | arms | exact density |", "| --- | --- | --- | --- | --- |"]
    for name, row in effects.all_estimators().iterrows():
        kinds = "all" if row["outcomes"] == KINDS else ", ".join(row["outcomes"])
        density = "yes" if row["exact_density"] else ""
        lines.append(f"| `{name}` | {row['paper']} | {kinds} | {row['arms']} | {density} |")
    return "\n".join(lines)


def test_the_readme_lists_the_estimators() -> None:
    found = TABLE.search(README.read_text(encoding="utf-8"))
    assert found and found.group() == table(), "python tests/test_readme.py"


def test_every_estimator_is_told_of() -> None:
    known = effects.all_estimators()
    assert (known["paper"].str.len() > 5).all()
    assert set(known.index) <= set(dir(effects))
    for name, cls in known["class"].items():
        assert cls.__name__ == name and cls.__doc__ and "Parameters" in cls.__doc__ and "Examples" in cls.__doc__
        signature = cls().get_params()
        assert {"outcome", "control", "nuisance", "random_state", "verbose"} <= set(signature)


if __name__ == "__main__":
    write_whole(README, TABLE.sub(lambda _: table(), README.read_text(encoding="utf-8")).encode())
