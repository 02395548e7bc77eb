"""The page of a study: every section told or explained, every item answered or open, whatever the names and words."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import quick
from sklearn.linear_model import LogisticRegression, Ridge
from test_report import Page

from effects import diagnostics, heterogeneity, inference, sensitivity
from effects.diagnostics import Check
from effects.effect import Estimate
from effects.nuisance import Nuisance
from effects.policy import decision_curve, policy_value
from effects.report import KEYS, Picture, Report, Table, latex
from effects.report.blocks import OPEN, Facts, Heading, Prose, field_of, p_value
from effects.report.results import command_of, interval, told
from effects.report.study import TITLES, without_paths
from effects.report.target import ITEMS, PRINTED
from effects.study import Findings, Plan

EVIL = "<script>alert('x')</script> & 50%_#1 \\input{x} $y$ | *z* [q]"
FIELDS = ("quantiles", "baseline", "baseline_weighted", "trimming", "subgroups", "tree", "importance", "projection",
          "policy", "curve", "evalue", "omitted", "marginal")  # fmt: skip


def rows(kind: str, n_arms: int, n: int = 240) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """A small table with categories, dates and missing values, and names that mean harm."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=n)
    X = pd.DataFrame(
        {"age": 60 + 10 * z, EVIL: rng.choice(["north", "<b>south</b>"], n), "smoker": rng.random(n) < 0.3}
    )
    X["visit"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 700, n), "D")
    weight = np.exp(-0.4 * z[:, None] * np.arange(n_arms))
    arm = np.array([rng.choice(n_arms, p=w / w.sum()) for w in weight])
    mean = 2 + z + arm * (1 + 0.7 * z)
    X.loc[:20, "age"] = np.nan
    y: Any = mean + rng.normal(size=n)
    if kind == "binary":
        y = np.where(y > 2.5, "yes", "no")
    names = np.array(["usual care", "pill & <i>co</i>", "low dose"])
    return X, pd.Series(y, name="score"), pd.Series(names[arm], name="drug")


@cache
def findings(kind: str = "continuous", n_arms: int = 2, design: str = "observational") -> Findings:
    """Real findings of a small study, without what refits models."""
    X, y, treatment = rows(kind, n_arms)
    outcome = LogisticRegression(max_iter=500) if kind == "binary" else Ridge()
    nuisance = Nuisance(outcome, LogisticRegression(max_iter=500), n_folds=2)
    est = quick("DiffPO", control="usual care", nuisance=nuisance, epochs=6, n_denoisers=1).fit(
        X, y, treatment=treatment
    )
    treated = est.arms_[1]
    ask: Any = {"treatment": treatment, "treated": treated, "control": est.arms_[0]}
    plan = Plan(
        table="/home/someone/secret/trial.csv", treatment="drug", outcome="score",
        outcome_unit="" if kind == "binary" else "points",
        higher_is_better=True, subgroups=("smoker",), design=design, path="/home/someone/secret/STUDY.toml",
        words={"ethics": EVIL, "limitations": f"One centre.\n\n{EVIL}"}, excluded={"death date": "known later"},
    )  # fmt: skip
    scales = ("difference", "ratio", "odds ratio", "nnt") if kind == "binary" else ("difference",)
    averages = [
        inference.estimate_ate(est, X, y, treatment=treatment, treated=arm, scale=scale)
        for arm in est.arms_[1:]
        for scale in scales
    ]
    averages.append(inference.estimate_att(est, X, y, **ask))
    naive = {arm: replace(averages[0], value=0.5, se=0.2, treated=arm, method="unadjusted") for arm in est.arms_[1:]}
    checks = [
        check(est, X, y, treatment=treatment)
        for check in (diagnostics.check_overlap, diagnostics.check_balance, diagnostics.check_calibration)
    ]
    checks.append(diagnostics.benefit_calibration(est, X, y, **ask))
    checks.append(Check("placebo treatment", False, 0.01, 0.05, pd.DataFrame({"effect": [1.0]}), f"Found. {EVIL}"))
    checks.append(Check("placebo outcome", None, math.nan, None, pd.DataFrame(), "Not done: no such column."))
    hidden = design != "trial"
    columns = est.schema_.describe()
    columns["missing"] = [int(X[name].isna().sum()) for name in X]
    return Findings(
        plan=plan,
        source={"file": plan.table, "sha256": "ab" * 32, "rows": 250, "columns": 8},
        flow=(("rows in the table", 250), ("left out: without the outcome", -10), ("analysed", 240)),
        columns=columns, X=X, y=y, treatment=treatment, est=est, estimator="DiffPO", naive=naive,
        means=inference.outcome_means(est, X, y, treatment=treatment), averages=tuple(averages),
        quantiles=None if kind == "binary" else inference.estimate_qte(est, X, y, q=(0.25, 0.5), **ask),
        baseline=diagnostics.baseline_table(est, X, y, treatment=treatment),
        baseline_weighted=diagnostics.baseline_table(est, X, y, treatment=treatment, weighted=True),
        checks=tuple(checks), trimming=diagnostics.trim(est, X, y, rule="crump", **ask),
        subgroups=heterogeneity.subgroup_effects(est, X, y, by=["smoker", EVIL], **ask),
        importance=heterogeneity.modifier_importance(est, X, treated=treated, n_rows=20, n_repeats=1),
        projection=heterogeneity.best_linear_projection(est, X, y, on=["smoker"], **ask),
        policy=policy_value(est, X, y, treatment=treatment, higher_is_better=True) if n_arms == 2 else None,
        curve=decision_curve(est, X, y, higher_is_better=True, **ask),
        evalue=sensitivity.e_value(averages[0], sd=1.7, baseline=0.4) if hidden and kind != "binary" else None,
        marginal=sensitivity.marginal_sensitivity(est, X, y, gammas=(1, 1.5, 3), **ask) if hidden else None,
        cautions=(f"Weak overlap in /home/someone/secret/trial.csv {EVIL}",),
        skipped={"tree": "too few rows in /home/someone/secret/trial.csv", "omitted": "it was not asked for here"},
        seconds={"fit": 1.2, "checks": 12.34}, versions={"effects": "0.1", "python": "3.11"}, command=plan.command,
    )  # fmt: skip


CASES = [("continuous", 2, "observational"), ("binary", 2, "trial"), ("continuous", 3, "observational")]


@cache
def study(kind: str = "continuous", n_arms: int = 2, design: str = "observational") -> Report:
    return Report.from_study(findings(kind, n_arms, design))


@cache
def page(kind: str = "continuous", n_arms: int = 2, design: str = "observational") -> str:
    """The page; only that of the first case is drawn, the others' pictures are drawn by a slow test."""
    if (kind, n_arms, design) == CASES[0]:
        return study(kind, n_arms, design).html()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Picture, "svg", lambda self: b"<svg/>")
        return study(kind, n_arms, design).html()


def bare() -> Findings:
    """A study of which nearly every step failed."""
    nothing: dict[str, Any] = dict.fromkeys(FIELDS)
    skipped = {name: f"reason {k}" for k, name in enumerate([*FIELDS, "checks"])}
    return replace(findings(), **nothing, checks=(), skipped=skipped, cautions=())


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Picture, "svg", lambda self: b"<svg/>")


# ---- what is there


@pytest.mark.parametrize("case", CASES)
def test_page_has_every_section_in_order_and_none_is_empty(case: tuple[str, int, str]) -> None:
    names = [section.name for section in study(*case).sections]
    assert names == [name for name in TITLES if name != "top"]
    for section in study(*case).sections:
        assert any(isinstance(block, Prose | Facts | Table) for block in section.blocks), section.name
    found = study(*case).sections
    headed = [
        (a, b) for section in found for a, b in zip(section.blocks, [*section.blocks[1:], None], strict=True)
        if isinstance(a, Heading)
    ]  # fmt: skip
    assert headed and all(after is not None and not isinstance(after, Heading) for _, after in headed)
    assert "could not be drawn" not in page(*case)


def test_what_was_not_computed_says_why(no_pictures: None) -> None:
    made = Report.from_study(bare())
    text = made.text(full=True, plain=True, width=200)
    for name, reason in bare().skipped.items():
        if name != "evalue" or not made.lead:
            assert reason in text, name
    told_of = {section.name: section for section in made.sections}
    for name in ("baseline", "balance", "decisions", "checks"):
        assert any("Not computed: reason" in block.text for block in told_of[name].blocks if isinstance(block, Prose))
    skipped = made.tables["skipped"]
    assert len(skipped) == len(bare().skipped)
    where = made.tables["checklist"].set_index("item")["where"]
    assert TITLES["balance"] not in where["9"] and TITLES["checks"] not in where["14"]


def test_numbers_are_those_of_the_findings() -> None:
    f, made = findings(), study()
    effects: Any = made.tables["effects"]
    first = f.averages[0]
    assert made.estimates == (first,)
    assert effects.loc[0, ["estimate", "lower", "upper", "p"]].tolist() == pytest.approx(
        [first.value, *first.interval(), first.p_value]
    )
    assert effects["estimand"].tolist() == ["ATE", "ATT", "naive"]
    shown = next(block for block in made._blocks() if isinstance(block, Table) and block.name == "effects").shown
    assert shown["95% interval"][0] == interval(first) and interval(first) in made.lead[0]
    assert told(first) in Page(page()).cells
    means: Any = made.tables["means"]
    assert means["if all had it"].tolist() == [f.means[arm].value for arm in f.est.arms_]
    y = f.y.to_numpy()
    assert means["observed"].tolist() == pytest.approx([y[f.treatment.to_numpy() == arm].mean() for arm in f.est.arms_])
    assert "0.50 points" in made.lead[1]


def test_ratios_and_numbers_needed_to_treat_have_their_own_names() -> None:
    effects = study("binary", 2, "trial").tables["effects"]
    assert effects["measure"].tolist()[:4] == ["risk difference", "risk ratio", "odds ratio", "number needed to treat"]


def test_interval_through_infinity() -> None:
    nnt = Estimate(20.0, 30.0, "AIPW", 100, link="reciprocal")
    low, high = nnt.interval()
    assert low < 0 < high and "∞" in interval(nnt)
    assert interval(nnt).startswith(told(replace(nnt, value=high)))
    assert interval(Estimate(1.234, 0.1, "AIPW", 100)) == "1.04 to 1.43"


def test_verdicts_count_what_has_one() -> None:
    table = study().tables["checks"].set_index("check")["verdict"]
    assert table["placebo treatment"] == "failed" and table["placebo outcome"] == "not done"
    judged = [check for check in findings().checks if check.threshold is not None]
    assert any(f"Of {len(judged)} checks" in said and "placebo treatment" in said for said in study().lead)
    failed = next(section for section in study().sections if section.name == "checks").blocks
    assert any(isinstance(block, Heading) and block.text == "Failed: placebo treatment" for block in failed)


def test_p_values_as_journals_print_them() -> None:
    assert [p_value(p) for p in (0.0004, 0.001, 0.0466, 0.0951, 0.5, 1.0)] == [
        "<0.001", "0.001", "0.047", "0.10", "0.50", "1.00"
    ]  # fmt: skip


# ---- TARGET


def test_items_are_the_21_of_the_statement() -> None:
    numbers = [item.number for item in ITEMS]
    assert len(set(numbers)) == len(numbers)
    assert sorted({int(re.sub(r"\D", "", number)) for number in numbers}) == list(range(1, 22))
    assert [n[1:] for n in numbers if n[0] == "6" and n != "6"] == [n[1:] for n in numbers if n[0] == "7" and n != "7"]
    assert {key for item in ITEMS for key in item.keys} == set(KEYS)
    assert all(place in TITLES for item in ITEMS for place in item.places)
    assert set(PRINTED.values()) <= set(TITLES)


def test_every_open_field_is_listed_and_every_word_is_printed(no_pictures: None) -> None:
    empty = Report.from_study(replace(findings(), plan=replace(findings().plan, words={})))
    text, where = empty.text(full=True, plain=True, width=400), empty.tables["checklist"]["where"]
    for key in KEYS:
        assert field_of(key) in text, key
        assert where.str.contains(rf"open: words\.{key}(?:;|$)").any(), key
    words = {key: f"the authors on {key.replace('_', ' ')} here" for key in KEYS}
    full = Report.from_study(replace(findings(), plan=replace(findings().plan, words=words)))
    text, where = full.text(full=True, plain=True, width=400), full.tables["checklist"]["where"]
    assert OPEN not in text and not where.str.contains("open").any() and (where != "").all()
    assert all(said in text for said in words.values())


def test_an_emulation_and_a_trial_are_told_apart() -> None:
    emulated = study().text(full=True, plain=True, width=200)
    trial = study("binary", 2, "trial").text(full=True, plain=True, width=200)
    assert "emulating a target trial" in study().byline and "Exchangeability" in emulated
    assert "Randomised trial" in study("binary", 2, "trial").byline and "Exchangeability" not in trial
    assert "drawn at random" in trial and "CONSORT" in trial and "words.rationale" not in trial
    assert "TARGET statement" in emulated and "10.1001/jama.2025.13350" in emulated


# ---- the page


@pytest.mark.parametrize("case", CASES)
def test_page_is_well_formed_self_contained_and_its_links_lead_somewhere(case: tuple[str, int, str]) -> None:
    seen = Page(page(*case))
    assert {tag for tag, _ in seen.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "b", "i"})
    ids = [a["id"] for _, a in seen.tags if "id" in a]
    assert len(ids) == len(set(ids)) and [tag for tag, _ in seen.tags].count("h1") == 1
    links = [str(a["href"]) for tag, a in seen.tags if tag == "a"]
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    assert all(str(a["src"]).startswith("data:image/svg+xml;base64,") for tag, a in seen.tags if tag == "img")
    style = page(*case)[page(*case).index("<style>") : page(*case).index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_every_picture_says_what_it_shows() -> None:
    images = [attributes for tag, attributes in Page(page()).tags if tag == "img"]
    assert len(images) == len(study().pictures) >= 14
    for image in images:
        alt = str(image["alt"])
        assert len(alt) > 40 and not alt.lower().startswith(("plot", "figure", "image", "picture"))
    assert findings().checks[1].text in study().pictures["balance"].alt


def test_untrusted_text_is_harmless_everywhere(no_pictures: None) -> None:
    f = findings()
    evil = replace(f, plan=replace(f.plan, title=EVIL, question=EVIL, words=dict.fromkeys(KEYS, EVIL)), command=EVIL)
    made = Report.from_study(evil)
    html, markdown, tex = made.html(), made.markdown(), made.latex()
    assert "<script" not in html and "<script" not in markdown and "<b>" not in html and "<b>" not in markdown
    assert EVIL in Page(html).cells  # shown as it was written
    body = tex[tex.index(r"\begin{document}") :]
    assert r"\input" not in body.replace(r"\textbackslash{}input", "") and "$y$" not in body
    for mark in "&%#_":
        assert not re.search(rf"(?<!\\){mark}1|(?<!\\){mark}_", body.replace(" & ", " ")), mark
    blocks = re.findall(r"(?:^\|.*\|\n)+", markdown, flags=re.M)
    assert len(blocks) == sum(isinstance(block, Table) for block in made._blocks())
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_no_folder_of_the_machine_is_on_the_page() -> None:
    for text in (page(), study().markdown(), study().latex(), study().text(full=True, plain=True)):
        assert "/home" not in text and "secret" not in text and "trial.csv" in text
    assert "effects study STUDY.toml" in study().markdown()
    assert command_of("effects study 'my plan.toml' --force") == "effects study 'my plan.toml' --force"
    assert without_paths(r"no C:\Users\me\x.csv, 5 mg/kg/day or and/or") == "no x.csv, 5 mg/kg/day or and/or"


def test_a_picture_that_fails_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from effects import plots

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no <finite> values")

    monkeypatch.setattr(Picture, "svg", lambda self: self.draw(None) and b"")
    for name in plots.__all__:
        if name.startswith("plot_"):
            monkeypatch.setattr(plots, name, fail)
    html = study().html()
    assert html.count("could not be drawn: no &lt;finite&gt; values") >= 10


# ---- Markdown and LaTeX


@pytest.mark.parametrize("case", CASES)
def test_markdown_links_point_to_headings(case: tuple[str, int, str]) -> None:
    text = study(*case).markdown()
    slugs = {re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
             for line in text.splitlines() if line.startswith("## ")}  # fmt: skip
    targets = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert targets and targets <= slugs


def test_latex_escapes_what_it_must() -> None:
    assert latex.escape(r"a\b{c}&%$#_^~") == (r"a\textbackslash{}b\{c\}\&\%\$\#\_\textasciicircum{}\textasciitilde{}")
    assert latex.escape("[x] --- −1\n\x00 …") == r"{[}x{]} -{}-{}- $-$1 \ldots{}"


@pytest.mark.parametrize("case", CASES)
def test_latex_tables_are_whole(case: tuple[str, int, str]) -> None:
    text, made = study(*case).latex(), study(*case)
    tables = [block for block in made._blocks() if isinstance(block, Table)]
    assert text.count(r"\toprule") == len(tables) + text.count(r"\endhead")
    assert text.count(r"\caption{") == len(tables) and text.count(r"\bottomrule") == len(tables)
    plain = re.sub(r"\\[{}\\&%$#_]", "", re.sub(r"(?m)(?<!\\)%.*$", "", text))
    assert plain.count("{") == plain.count("}")
    bodies = re.findall(r"(?:\\midrule\n(?!\\endfirsthead|\\endhead)|\\endhead\n)(.*?)\\bottomrule", text, flags=re.S)
    for body, table in zip(bodies, tables, strict=True):
        lines = [line for line in body.splitlines() if line.strip()]
        assert len(lines) == len(table.shown)
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {table.shown.shape[1] - 1}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path: Path) -> None:
    study().save(tmp_path / "study.tex")
    call = ["pdflatex", "-no-shell-escape", "-halt-on-error", "-interaction=nonstopmode", "study.tex"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-800:]
    assert (tmp_path / "study.pdf").stat().st_size > 1000


def test_save_writes_what_the_suffix_says(tmp_path: Path) -> None:
    assert study().save(tmp_path / "s.tex").read_text(encoding="utf-8") == study().latex()
    assert study().save(tmp_path / "s.md").read_text(encoding="utf-8") == study().markdown()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES[1:])
def test_every_picture_can_be_drawn(case: tuple[str, int, str]) -> None:
    assert [(name, picture.drawn()[1]) for name, picture in study(*case).pictures.items() if picture.drawn()[1]] == []


@pytest.mark.slow
def test_a_real_run_has_no_hole(tmp_path: Path) -> None:
    from effects.study import run

    X, y, treatment = rows("continuous", 2)
    table = X.assign(drug=treatment, score=y)
    settings = {"n_networks": 4, "hidden": 16, "n_denoisers": 2, "epochs": 15}
    plan = Plan(table="t.csv", treatment="drug", outcome="score", estimator="DiffPO", settings=settings, trim="crump",
                higher_is_better=True, subgroups=("smoker",))  # fmt: skip
    found = run(plan, table=table)
    assert found.skipped == {}
    html = Report.from_study(found).html()
    assert "could not be drawn" not in html and "Not computed" not in html
