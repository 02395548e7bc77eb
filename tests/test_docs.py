"""The site tells every public name once, and what its builder calls a fault is one; the build itself is slow."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

import effects
from effects import plots

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module", autouse=True)
def docs_on_the_path() -> Iterator[None]:
    """The builder's files are no package: they are found as they are when the builder runs."""
    sys.path.insert(0, str(DOCS))
    yield
    sys.path.remove(str(DOCS))


def told() -> list[str]:
    """Full names that have a page of their own."""
    return [name for section in import_module("reference").sections() for name in section.entries]


def test_every_public_name_is_documented_once() -> None:
    reference = import_module("reference")
    modules = {section.module for section in reference.sections()}
    names = {name: getattr(effects, name) for name in effects.__all__}
    assert not [n for n, v in names.items() if isinstance(v, ModuleType) and f"effects.{n}" not in modules]
    expected = [f"effects.{name}" for name, value in names.items() if not isinstance(value, ModuleType)]
    assert not set(expected) - set(told()), "not in the reference"
    assert not [name for name, n in Counter(told()).items() if n > 1], "more than once"
    objects = Counter(id(reference.look_up(name)) for name in told() if callable(reference.look_up(name)))
    assert set(objects.values()) == {1}


def test_every_module_of_the_path_tells_all_that_it_offers() -> None:
    reference = import_module("reference")
    for section in (one for one in reference.sections() if one.module not in reference.INSIDE):
        module = import_module(section.module)
        here = {id(reference.look_up(name)) for name in (*section.entries, *section.elsewhere)}
        assert not [name for name in getattr(module, "__all__", []) if id(getattr(module, name)) not in here]


def test_sections_are_in_path_order() -> None:
    homes = [effects._HOME.get(name, "") for name in effects.__all__]
    order = list(dict.fromkeys(".".join(home.split(".")[:2]) for home in homes if home))
    reference = import_module("reference")
    assert [one.module for one in reference.sections() if one.module not in reference.INSIDE] == order


def test_what_has_a_page_has_a_text() -> None:
    look_up = import_module("reference").look_up
    assert not [name for name in told() if callable(look_up(name)) and not inspect.getdoc(look_up(name))]


def test_a_method_is_told_where_it_is_written_and_linked_elsewhere() -> None:
    reference = import_module("reference")
    documented = {effects.EffectEstimator: "effects.EffectEstimator", effects.DiffPO: "effects.DiffPO"}
    assert {"fit", "predict", "save"} <= set(reference.own_members(effects.EffectEstimator, documented))
    assert not {"fit", "save", "get_params", "set_fit_request"} & set(reference.own_members(effects.DiffPO, documented))
    assert {"fit", "save"} <= set(reference.inherited(effects.DiffPO, documented)["effects.EffectEstimator"])


def test_the_gallery_shows_every_plot_with_a_text() -> None:
    gallery = import_module("gallery")
    pictures = [one for group in gallery.PICTURES.values() for one in group]
    assert sorted(one.function for one in pictures) == sorted(
        name for name in plots.__all__ if name.startswith("plot_")
    )
    assert all(len(one.alt) > 40 and "\n" not in one.alt for one in pictures)


def test_captions_become_the_texts_of_pictures() -> None:
    picture: dict[str, Any] = {"outputs": [{"data": {"image/png": "..."}}], "metadata": {}, "source": []}
    other: dict[str, Any] = {"outputs": [], "metadata": {}, "source": []}
    caption: dict[str, Any] = {
        "metadata": {},
        "source": ["*Figure 2. Effects of `est`,\n", "sorted.*\n", "More."],
    }
    notebook: dict[str, Any] = {"cells": [picture, caption, other, caption]}
    import_module("make_site").describe(notebook)
    assert picture["metadata"] == {"mystnb": {"image": {"alt": "Effects of est, sorted."}}} and other["metadata"] == {}


def test_every_picture_of_a_tutorial_has_a_caption() -> None:
    build = import_module("make_site")
    for path in sorted((ROOT / "tutorials").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        build.describe(notebook)
        texts = [cell.metadata["mystnb"]["image"]["alt"] for cell in notebook.cells if "mystnb" in cell.metadata]
        assert texts and all("Picture drawn" not in text for text in texts), path.name


def test_the_readmes_links_lead_to_pages_of_the_site() -> None:
    """In the repository they lead into docs/, which the site is made of."""
    links = re.findall(r"\]\(([^)#]+)\)", import_module("make_site").benchmarks())
    assert links and all((DOCS / link).is_file() for link in links)


def test_faults_of_a_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">x</a><a href="#here">x</a><p id="here"><a href="https://example.org">x</a>'
        '<a href="b.html#gone">x</a><a href="c.html">x</a><img src="p.png">'
        '<img src="https://example.org/p.png" alt="p">'
        '<script src="https://cdn.example.org/x.js"></script>',
        encoding="utf-8",
    )
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1><img alt="p" src="p.png">', encoding="utf-8")
    (tmp_path / "p.png").write_bytes(b"")
    assert import_module("make_site").problems(tmp_path) == [
        "a.html: picture 'p.png' has no text",
        "a.html: 'b.html#gone' names no place of its page",
        "a.html: 'c.html' leads nowhere",
        "a.html: loads 'https://example.org/p.png' from the network",
        "a.html: loads 'https://cdn.example.org/x.js' from the network",
    ]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sphinx") is None, reason="sphinx is in the extra docs, which `make docs` installs")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = subprocess.run([sys.executable, str(DOCS / "make_site.py"), str(site)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (site / "_static" / "mathjax" / "tex-svg-full.js").stat().st_size > 1_000_000
    for name in told():
        assert f'id="{name}"' in (site / "api" / f"{name}.html").read_text(encoding="utf-8"), name
    page = (site / "api" / "effects.DiffPO.html").read_text(encoding="utf-8")
    assert r"\(Y(a) \mid x\)" in page and 'href="effects.Nuisance.html#effects.Nuisance"' in page
    assert "effects.EffectEstimator.fit" in page  # inherited methods are linked
