"""Build the site: gather the pages, let Sphinx write them with warnings as errors, and check what came out.

``python docs/make_site.py [FOLDER]`` writes into ``build/site`` unless told otherwise. No step asks the network or a
data file for anything, and the notebooks are shown as they are committed: nothing is executed but the gallery's
pictures.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT)]

#: Pages that are left out, with the lines that name them, while what they tell of is not there.
NEEDS = {"structural": "effects.structural"}
CAPTION = re.compile(r"^\*Figure \d+\. (?P<text>.+?)\*$", re.MULTILINE | re.DOTALL)


# ---- gathering


def gather(folder: Path, pictures: bool = True) -> None:
    """Put every page's source into the empty `folder`."""
    import gallery
    import reference

    shutil.copytree(DOCS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "make_site.py"))
    # With names that Sphinx does not read by itself: pages include parts of them.
    for name in ("README", "CHANGELOG"):
        shutil.copy(ROOT / f"{name}.md", folder / f"_{name.lower()}.md")
    tutorials(folder / "tutorials")
    if not (folder / "benchmarks.md").exists():
        (folder / "benchmarks.md").write_text(benchmarks(), encoding="utf-8")
    reference.write(folder / "api")
    (folder / "gallery.md").write_text(gallery.page(), encoding="utf-8")
    if pictures:
        gallery.draw(folder / "pictures")
    leave_out(folder)


def tutorials(folder: Path) -> None:
    """The notebooks as they are, each with a way to download it and texts for its pictures; and their list."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for path in sorted((ROOT / "tutorials").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        describe(notebook)
        cell = notebook["cells"][0]
        cell["source"] = "".join(cell["source"]) + f"\n\n{{download}}`Download this notebook <files/{path.name}>`\n"
        (folder / path.name).write_text(json.dumps(notebook), encoding="utf-8")
        (folder / "files").mkdir(exist_ok=True)
        shutil.copy(path, folder / "files" / path.name)
        names.append(path.stem)
    lines = ["# Tutorials", "", "Notebooks on real and simulated patients. The tests execute them.", ""]
    lines += ["```{toctree}", ":maxdepth: 1", "", *names, "```", ""]
    (folder / "index.md").write_text("\n".join(lines), encoding="utf-8")


def describe(notebook: dict[str, Any]) -> None:
    """Give each cell with a picture its caption, which follows it, as the text for those who cannot see it."""
    cells = notebook["cells"]
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if not any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            continue
        found = CAPTION.search("".join(following["source"])) if following else None
        text = found["text"].replace("\n", " ").replace("`", "") if found else "Picture drawn by the code above."
        cell["metadata"].setdefault("mystnb", {})["image"] = {"alt": text}


def benchmarks() -> str:
    """The README's figures as a page of their own, where no fuller one is written."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("\n## How good it is\n")
    kept = rest.partition("\n## ")[0].partition("\n[`tutorials/")[0]
    kept = re.sub(r"\[docs/(\w+\.md)\]\(docs/", r"[\1](", kept)  # pages of this site
    return "# Benchmarks\n" + re.sub(r"\[(`data/[^\]]*`)\]\([^)]*\)", r"\1", kept)


def leave_out(folder: Path) -> None:
    """Remove pages of what is not there, and drop from lists of pages those that do not exist."""
    for page, module in NEEDS.items():
        if find_spec(module) is None:
            (folder / f"{page}.md").unlink(missing_ok=True)
    guide = folder / "guide.md"
    lines = guide.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not re.fullmatch(r"[a-z_]+", line) or (folder / f"{line}.md").exists()]
    guide.write_text("\n".join(kept) + "\n", encoding="utf-8")


# ---- checking


class Page(HTMLParser):
    """What a page refers to, what can be referred to in it, and its pictures without a text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.targets: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.untold: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors.update(filter(None, (found.get("id"), found.get("name"))))
        if tag == "a" and "href" in found:
            self.targets.append(found["href"])
        if tag in {"img", "script", "iframe", "source"} and "src" in found:
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in {"stylesheet", "icon", "preload"}:
            self.loads.append(found.get("href", ""))
        if tag == "img" and not found.get("alt", "").strip():
            self.untold.append(found.get("src", "")[:60])


def written(site: Path) -> list[Path]:
    """The pages; the theme's own templates lie among what belongs to them."""
    return [path for path in sorted(site.rglob("*.html")) if "_static" not in path.relative_to(site).parts]


def problems(site: Path) -> list[str]:
    """What is wrong with a built site: broken links inside, what is loaded from elsewhere, pictures without a text."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in written(site)}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: picture {one!r} has no text" for one in page.untold]
        for target in (*page.targets, *page.loads):
            parts = urlsplit(target)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                if target in page.loads:
                    found.append(f"{name}: loads {target!r} from the network")
                continue
            goal = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            if goal.is_dir():
                goal = goal / "index.html"
            if not goal.exists():
                found.append(f"{name}: {target!r} leads nowhere")
            elif goal in pages and target in page.targets and unquote(parts.fragment) not in pages[goal].anchors:
                found.append(f"{name}: {target!r} names no place of its page")
    return found


# ---- all of it


def build(site: Path, work: Path) -> int:
    """Write the site into `site`, using the folder `work`, both emptied first; 0 if all went well."""
    from sphinx.cmd.build import build_main

    for folder in (site, work):
        shutil.rmtree(folder, ignore_errors=True)
    gather(work / "source")
    flags = ["-b", "html", "-q", "-W", "--keep-going", "-E", "-d", str(work / "doctrees")]
    status = build_main([*flags, str(work / "source"), str(site)])
    if status:
        print("error: Sphinx warned of what stands above; warnings are errors.", file=sys.stderr)
        return status
    for line in (wrong := problems(site)):
        print(f"error: {line}", file=sys.stderr)
    if not wrong:
        print(f"{len(written(site))} pages: {site / 'index.html'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "site").resolve()
    sys.exit(build(target, target.parent / f"{target.name}-work"))
