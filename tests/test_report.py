"""The report's numbers are the values they come from; its page is safe, whole and needs nothing else."""

from __future__ import annotations

import base64
import re
import warnings
import xml.etree.ElementTree as ElementTree
from copy import copy
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge

from effects import DiffPO, estimate_ate, plots
from effects.estimator import EffectEstimator
from effects.inference import outcome_means
from effects.nuisance import Nuisance
from effects.outcomes import PotentialOutcomes
from effects.plots import number
from effects.report import Picture, Report, Table, sections
from effects.rows import TrainingData

CASES = [("continuous", 2), ("binary", 3), ("count", 2)]
EVIL = "<script>alert('x')</script>"


class LinearMembers(EffectEstimator):
    """Small stand-in for a real model: ridge regressions on bootstrap samples, one outcome law per kind."""

    def __init__(
        self, outcome: str = "auto", control: Any = "usual care", nuisance: Any = None, random_state: Any = 0
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.nuisance = nuisance
        self.random_state = random_state

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        rng, members = np.random.default_rng(data.seed), []
        for _ in range(12):
            per_arm = []
            for k in range(data.schema.n_arms):
                rows = rng.choice(np.flatnonzero(data.a == k), np.sum(data.a == k))
                model = Ridge().fit(data.E[rows], data.y[rows])
                per_arm.append((model.intercept_, *model.coef_))
            members.append(per_arm)
        history = [{"stage": "means", "epoch": k, "validation_loss": 1 / (k + 1)} for k in range(4)]
        return {"coef_": np.array(members), "kind_": data.schema.outcome.kind, "history_": history}

    def _sample(
        self, E: NDArray[np.float32], n_draws: int | None, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
        means = np.einsum("nf,maf->mna", np.column_stack([np.ones(len(E)), E]), self.coef_)
        if self.kind_ == "binary":
            means = np.clip(means, 0.01, 0.99)
            return means[:, None].astype(np.float32), means
        shape = (means.shape[0], n_draws or 40, *means.shape[1:])
        if self.kind_ == "count":
            means = np.clip(means, 0.05, None)
            return rng.poisson(np.broadcast_to(means[:, None], shape)).astype(np.float32), means
        return (means[:, None] + rng.normal(size=shape)).astype(np.float32), means

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        raise NotImplementedError

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Any) -> dict[str, Any]:
        raise NotImplementedError


def table(kind: str, n_arms: int, n: int = 240, seed: int = 0) -> tuple[pd.DataFrame, pd.Series, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(
        {
            "age": rng.normal(60, 10, n),
            EVIL: rng.choice(["north", "<b>south</b>"], n),
            "smoker": rng.random(n) < 0.3,
            "visit": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 700, n), "D"),
        },
        index=[f"p{k}" for k in range(n)],
    )
    z = (X["age"].to_numpy() - 60) / 10
    weight = np.exp(-0.4 * z[:, None] * np.arange(n_arms))
    arm = np.array([rng.choice(n_arms, p=w / w.sum()) for w in weight])
    mean = 2 + z + arm * (1 + 0.7 * z)
    X.loc[X.index[:24], "age"] = np.nan
    y: Any = mean + rng.normal(size=n)
    if kind == "binary":
        y = np.where(y > 2.5, "yes", "no")
    elif kind == "count":
        y = rng.poisson(np.clip(mean, 0.1, None))
    return X, pd.Series(y, index=X.index, name="y"), np.array(["usual care", "low dose", "pill & <i>co</i>"])[arm]


def nuisance() -> Nuisance:
    return Nuisance(Ridge(), LogisticRegression(max_iter=1000))


def fitted(kind: str = "continuous", n_arms: int = 2) -> tuple[LinearMembers, pd.DataFrame, pd.Series, NDArray[Any]]:
    return _fitted(kind, n_arms)


@cache
def _fitted(kind: str, n_arms: int) -> tuple[LinearMembers, pd.DataFrame, pd.Series, NDArray[Any]]:
    X, y, treatment = table(kind, n_arms)
    models = Nuisance(LogisticRegression(), LogisticRegression()) if kind == "binary" else nuisance()
    return LinearMembers(nuisance=models).fit(X, y, treatment=treatment), X, y, treatment


def report(kind: str = "continuous", n_arms: int = 2) -> Report:
    return _report(kind, n_arms)


@cache
def _report(kind: str, n_arms: int) -> Report:
    est, X, y, treatment = fitted(kind, n_arms)
    return Report.from_fit(
        est, X, y, treatment=treatment, outcome_name="score", outcome_unit="points", treatment_name="drug",
        command="effects estimate t.csv --html r.html", source="t.csv",
    )  # fmt: skip


def page(kind: str = "continuous", n_arms: int = 2) -> str:
    return _page(kind, n_arms)


@cache
def _page(kind: str, n_arms: int) -> str:
    return report(kind, n_arms).html()


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the pictures do not matter, the test need not wait for them."""
    monkeypatch.setattr(Picture, "svg", lambda self: b"<svg/>")


# ---- the numbers


@pytest.mark.parametrize(("kind", "n_arms"), CASES)
def test_average_effects_are_those_of_inference(kind: str, n_arms: int) -> None:
    est, X, y, treatment = fitted(kind, n_arms)
    effects, means = report(kind, n_arms).tables["effects"], report(kind, n_arms).tables["means"]
    numbers = est.schema_.encode_outcome(y)
    for arm, given in zip(est.arms_[1:], report(kind, n_arms).estimates, strict=True):
        expected = estimate_ate(est, X, y, treatment=treatment, treated=arm, level=0.9)
        assert given == expected
        both: Any = effects[effects["contrast"] == f"{arm} − usual care"].set_index("method")
        assert both.loc["adjusted (AIPW)", ["estimate", "lower", "upper", "se"]].tolist() == pytest.approx(
            [expected.value, *expected.interval(0.9), expected.se]
        )
        t, c = numbers[treatment == arm], numbers[treatment == "usual care"]
        assert both.loc["naive difference", ["estimate", "se"]].tolist() == pytest.approx(
            [t.mean() - c.mean(), np.sqrt(t.var(ddof=1) / len(t) + c.var(ddof=1) / len(c))]
        )
    for arm, expected in outcome_means(est, X, y, treatment=treatment, level=0.9).items():
        row: Any = means.set_index("arm").loc[str(arm)]
        assert row["n"] == np.sum(treatment == arm)
        assert row["observed"] == pytest.approx(numbers[treatment == arm].mean())
        assert row[["if all had it", "lower", "upper", "se"]].tolist() == pytest.approx(
            [expected.value, *expected.interval(), expected.se]
        )


def test_spread_is_that_of_the_predictions() -> None:
    est, X, _, _ = fitted()
    effect = est.predict_effect(X)
    row: Any = report().tables["spread"].iloc[0]
    assert row[["lowest", "5%", "median", "highest", "mean"]].tolist() == pytest.approx(
        [*np.quantile(effect.mean, [0, 0.05, 0.5, 1]), effect.mean.mean()]
    )
    shares: Any = report().tables["direction"].iloc[0]
    assert shares["above zero"] == np.mean(effect.prob_above() > 0.95)
    assert shares["below zero"] == np.mean(effect.prob_above() < 0.05)
    assert shares[["above zero", "undecided", "below zero"]].sum() == pytest.approx(1)


def test_units_are_the_lowest_median_and_highest() -> None:
    est, X, _, _ = fitted()
    cate = est.predict(X)
    order = np.argsort(cate)
    rows = order[[0, len(order) // 2, -1]]
    units, effects = report().tables["units"], report().tables["unit effects"]
    assert effects["unit"].tolist() == X.index[rows].tolist()
    assert effects["CATE"].tolist() == pytest.approx(cate[rows])
    frame = est.predict_effect(X).to_frame(0.9).iloc[rows]
    assert effects["lower"].tolist() == pytest.approx(frame["cate_lower"], rel=1e-4)
    assert effects["P(CATE > 0)"].tolist() == pytest.approx(frame["prob_positive"], abs=1e-4)
    outcomes = est.predict_outcomes(X.iloc[rows])
    assert units["mean outcome"].tolist() == pytest.approx(outcomes.mean().ravel())
    assert units["upper"].tolist() == pytest.approx(outcomes.interval(0.9)[1].ravel())
    low, high = outcomes.effect().prob_benefit()
    assert effects[["at least", "at most"]].to_numpy() == pytest.approx(np.column_stack([low, high]))


def test_units_of_choice() -> None:
    est, X, y, treatment = fitted()
    chosen = Report.from_fit(est, X, y, treatment=treatment, units=[7, -1])
    assert chosen.tables["unit effects"]["unit"].tolist() == ["p7", "p239"]
    assert set(chosen.tables["units"]["shown as"]) == {"chosen"}
    assert "luckiest" in report().text(full=True, plain=True) and "luckiest" not in chosen.text(full=True, plain=True)


def test_binary_units_show_the_uncertainty_of_the_probability() -> None:
    est, X, _, _ = fitted("binary", 2)
    units = report("binary", 2).tables["units"]
    p = est.predict_outcomes(X.loc[[units["unit"].iloc[0]]]).draws[:, 0, 0, 0]
    assert units[["lower", "upper"]].iloc[0].tolist() == pytest.approx(np.quantile(p, [0.05, 0.95]), rel=1e-5)
    assert units["sd"].iloc[0] == pytest.approx(p.std(), abs=1e-6)


def test_calibration_counts_what_intervals_cover() -> None:
    est, X, y, treatment = fitted()
    outcomes = est.predict_outcomes(X)
    lower, upper = outcomes.interval(0.9)
    found: Any = report().tables["calibration"].set_index("arm")
    for k, arm in enumerate(est.arms_):
        own = treatment == arm
        inside = (lower[own, k] <= y[own]) & (y[own] <= upper[own, k])
        assert found.loc[str(arm), "90% intervals cover"] == inside.mean()
        assert found.loc[str(arm), "CRPS"] == pytest.approx(outcomes.crps(y, np.full(len(y), k))[own].mean())


def test_calibration_of_a_binary_outcome() -> None:
    est, X, y, treatment = fitted("binary", 2)
    p, event = est.predict_outcomes(X).mean(), (y == "yes").to_numpy()
    found: Any = report("binary", 2).tables["calibration"].set_index("arm")
    own = treatment == "low dose"
    assert found.loc["low dose", ["predicted", "observed", "Brier score"]].tolist() == pytest.approx(
        [p[own, 1].mean(), event[own].mean(), np.mean((p[own, 1] - event[own]) ** 2)]
    )


def test_calibration_of_training_rows_is_by_what_had_held_them_out() -> None:
    fit, X, y, treatment = fitted()
    est, arm = copy(fit), fit.schema_.encode_treatment(treatment)
    rng, inside = np.random.default_rng(0), np.arange(len(y)) % 4 > 0  # a law that holds three outcomes of four
    center = y.to_numpy() + np.where(inside, 0.0, 100.0)
    draws = center[:, None] + rng.normal(size=(1, 50, len(y), 2))
    est.held_out_ = PotentialOutcomes(draws, est.arms_)
    judged = Report.from_fit(est, X, y, treatment=treatment)
    found: Any = judged.tables["calibration"].set_index("arm")
    for k, label in enumerate(est.arms_):
        own = arm == k
        assert found.loc[str(label), "90% intervals cover"] == inside[own].mean()
        assert found.loc[str(label), "CRPS"] == pytest.approx(est.held_out_.crps(y, arm)[own].mean())
    assert "networks that had not seen it" in " ".join(judged.text(full=True, plain=True).split())


def test_calibration_by_held_out_rows_keeps_the_order_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "CALIBRATION_ROWS", 60)
    fit, X, y, treatment = fitted()
    est = copy(fit)
    est.held_out_ = PotentialOutcomes(y.to_numpy()[None, None, :, None].repeat(2, axis=3), est.arms_)
    judged = Report.from_fit(est, X, y, treatment=treatment)
    found = judged.tables["calibration"]
    assert found["n"].sum() == 60 and found["CRPS"].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert "A random 60 of the 240 rows" in judged.text(full=True, plain=True)


def test_calibration_says_which_rows_it_saw(tmp_path: Path) -> None:
    def says(est: Any, rows: slice = slice(None), more: float = 0.0) -> str:
        found = Report.from_fit(est, X.iloc[rows], y.iloc[rows] + more, treatment=treatment[rows])
        return " ".join(found.text(full=True, plain=True).split())

    est, X, y, treatment = fitted()
    assert "These are the rows the model was fitted on" in says(est)
    assert "These are the rows the model was fitted on" in says(est, slice(0, 200))
    assert "These are not the rows the model was fitted on" in says(est, more=0.125)
    mixed = Report.from_fit(est, X, y.where(np.arange(len(y)) > 9, y + 0.125), treatment=treatment)
    assert "Some of these rows" in " ".join(mixed.text(full=True, plain=True).split())
    model = DiffPO(n_networks=2, n_denoisers=2, epochs=2, nuisance=Nuisance(n_folds=2), random_state=0)
    model.fit(X, y, treatment=treatment)
    assert "networks that had not seen it" in says(model)
    path = model.save(tmp_path / "m.effects")
    assert "read from a file" in says(DiffPO.load(path))


def test_units_that_the_data_know_too_little_of_are_counted_and_marked() -> None:
    est, X, y, treatment = fitted()
    far = X.copy()
    far.loc[far.index[:30], "age"] = 5000.0
    with pytest.warns(UserWarning, match="Weak overlap"):
        page = Report.from_fit(est, far, y, treatment=treatment, units=[0, 100])
    text = " ".join(page.text(full=True, plain=True).split())
    flagged = int((~est.support(far).supported).sum())
    assert 30 <= flagged < 40
    assert f"Of {flagged} of 240 units" in text and "unlike the units that got" in text
    assert page.tables["unit effects"]["supported"].tolist() == ["no", "yes"]


def test_overlap_counts() -> None:
    est, _, _, treatment = fitted()
    e = est.nuisance_.out_of_fold_.propensity
    found: Any = report().tables["overlap"].set_index("arm")
    for k, arm in enumerate(est.arms_):
        w = 1 / e[treatment == arm, k]
        assert found.loc[str(arm), "effective n"] == pytest.approx(w.sum() ** 2 / (w**2).sum())
        assert found.loc[str(arm), "lowest propensity"] == e[:, k].min()
        assert found.loc[str(arm), "below 0.05"] == np.mean(e[:, k] < 0.05)


def test_data_table_says_what_is_missing() -> None:
    data: Any = report().tables["data"].set_index("column")
    assert data.loc["age", ["kind", "missing"]].tolist() == ["number", 0.1]
    assert data.loc["smoker", "kind"] == "bool" and "2020-" in data.loc["visit", "holds"]


def test_weak_overlap_is_said_once_and_on_the_page(no_pictures: None) -> None:
    X, y, treatment = table("continuous", 2)
    e = np.full(len(X), 0.5)
    e[:5] = 0.004
    treatment[:5] = "usual care"
    est = LinearMembers(nuisance=nuisance()).fit(X, y, treatment=treatment, propensity=e)
    with pytest.warns(UserWarning, match="Weak overlap") as caught:
        weak = Report.from_fit(est, X, y, treatment=treatment)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert "Nothing was clipped" in weak.html() and "Overlap is weak" in weak.lead[-1]
    assert "given as known" in weak.text(full=True, plain=True)
    assert "given as known" not in report().text(full=True, plain=True)


def test_computation_can_be_repeated_from_the_page() -> None:
    text = report().text(full=True, plain=True, width=200)
    for wanted in (
        "LinearMembers(",
        "random_state=0",
        "means: 4 epochs, validation loss 0.250",
        "numpy " + np.__version__,
    ):
        assert wanted in text
    assert "effects estimate t.csv --html r.html" in text
    assert "`effects estimate t.csv --html r.html`" in report().markdown()


# ---- the page


class Page(HTMLParser):
    """Collects what a browser would load, and checks that every tag is closed."""

    VOID = ("meta", "img", "br", "hr", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.mark.parametrize(("kind", "n_arms"), CASES)
def test_page_is_well_formed_and_self_contained(kind: str, n_arms: int) -> None:
    text = page(kind, n_arms)
    seen = Page(text)
    names = {tag for tag, _ in seen.tags}
    assert names.isdisjoint({"script", "link", "iframe", "object", "embed", "b", "i"})
    for tag, attributes in seen.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or (tag == "img" and str(value).startswith("data:image/svg+xml;base64,"))
        assert not any(name.startswith("on") for name in attributes)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    ids = [a["id"] for _, a in seen.tags if "id" in a]
    assert len(ids) == len(set(ids)) and [tag for tag, _ in seen.tags].count("h1") == 1


@pytest.mark.parametrize(("kind", "n_arms"), CASES)
def test_every_picture_has_an_alternative_and_is_a_picture(kind: str, n_arms: int) -> None:
    images = [attributes for tag, attributes in Page(page(kind, n_arms)).tags if tag == "img"]
    assert len(images) == len(report(kind, n_arms).pictures) == 3 + 2 + (n_arms - 1)
    for image in images:
        assert image["alt"] and len(image["alt"]) > 40
        svg = base64.b64decode(str(image["src"]).partition(",")[2])
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        assert not re.search(rb"""(?:href|src)=["'](?!#|data:)""", svg)


def test_names_from_the_table_are_harmless(no_pictures: None) -> None:
    text, seen = report().html(), Page(report().html())
    assert "<script" not in text and "<b>" not in text
    assert EVIL in seen.cells  # shown as it is called
    evil = Report.from_fit(
        *_args(fitted()), treatment=fitted()[3], title=EVIL, outcome_name=EVIL, command=EVIL, source=EVIL
    )
    assert "<script" not in evil.html()
    assert "<script" not in evil.markdown()


def _args(case: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    return case[0], case[1], case[2]


def test_page_shows_the_numbers() -> None:
    (estimate,) = report().estimates
    shown = number(estimate.value, estimate.se, 2)
    assert shown in report().lead[0] and shown in Page(page()).cells
    assert "points" in report().lead[0]


def test_page_is_the_same_every_time() -> None:
    assert report().html() == page()


def test_pictures_wait_and_leave_pyplot_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("drawn")

    pyplot.close("all")
    with monkeypatch.context() as patch:
        patch.setattr(plots, "plot_effect", fail)
        est, X, y, treatment = fitted()
        made = Report.from_fit(est, X, y, treatment=treatment)  # draws nothing
        with pytest.raises(RuntimeError, match="drawn"):
            made.html()
    made.pictures["effects-1"].svg()
    assert pyplot.get_fignums() == []


def test_pictures_do_not_follow_the_users_style() -> None:
    picture = report().pictures["overlap"]
    assert isinstance(picture, Picture)
    plain = picture.svg()
    with pyplot.style.context("dark_background"):
        assert picture.svg() == plain


# ---- text and Markdown


@pytest.mark.parametrize(("kind", "n_arms"), CASES)
def test_plain_text_is_plain(kind: str, n_arms: int) -> None:
    text = report(kind, n_arms).text(plain=True, width=90)
    assert text.isascii() and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 90
    assert (
        number(report(kind, n_arms).estimates[0].value, report(kind, n_arms).estimates[0].se, 2).replace("−", "-")
        in text
    )
    assert "Consistency" not in text and "Consistency" in report(kind, n_arms).text(plain=True, full=True)


def test_terminal_text_has_colour_but_names_are_no_markup() -> None:
    est, X, y, treatment = fitted()
    marked = Report.from_fit(est, X, y, treatment=treatment, outcome_name="[red]score[/red]")
    assert "[red]score[/red]" in marked.text(plain=False, width=200)
    assert "\x1b[1m" in marked.text(plain=False)


def test_text_is_plain_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\x1b" not in report().text()


@pytest.mark.parametrize(("kind", "n_arms"), CASES)
def test_markdown_tables_are_whole(kind: str, n_arms: int) -> None:
    text = report(kind, n_arms).markdown()
    tables = [one for section in report(kind, n_arms).sections for one in section.blocks if isinstance(one, Table)]
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.M)
    assert len(blocks) == len(tables)
    for block, one in zip(blocks, tables, strict=True):
        lines = block.splitlines()
        assert len(lines) == len(one.frame) + 2
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {one.shown.shape[1] + 1}


@pytest.mark.parametrize(("kind", "n_arms"), CASES)
def test_words_fit_the_kind_of_outcome(kind: str, n_arms: int) -> None:
    lead = report(kind, n_arms).lead
    assert sum("On average" in sentence for sentence in lead) == n_arms - 1
    assert ("the probability of score = yes" in lead[0]) == (kind == "binary")


# ---- files and errors


@pytest.mark.parametrize("suffix", [".html", ".md", ".TXT"])
def test_save_writes_what_the_suffix_says(tmp_path: Path, suffix: str) -> None:
    path = report().save(tmp_path / f"r{suffix}")
    expected = {".html": page(), ".md": report().markdown()}.get(
        suffix.lower(), report().text(full=True, plain=True, width=100)
    )
    assert path.read_text(encoding="utf-8") == expected
    assert [p.name for p in tmp_path.iterdir()] == [f"r{suffix}"]


@pytest.mark.parametrize("breaks", ["os.replace", "effects.report.blocks.Picture.svg"])
def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None, breaks: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    path = tmp_path / "r.html"
    path.write_text("old")
    monkeypatch.setattr(breaks, fail)
    with pytest.raises(OSError, match="disk full"):
        report().save(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_save_refuses_other_names(tmp_path: Path, no_pictures: None) -> None:
    with pytest.raises(ValueError, match=r"must end in \.html, \.md, \.tex or \.txt"):
        report().save(tmp_path / "report.docx")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        report().save(tmp_path / "nowhere" / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 90}, "level must lie strictly between 0 and 1"),
        ({"units": [999]}, "there is no row 999; X has 240 rows"),
        ({"units": ["p1"]}, "must be positions of rows"),
        ({"units": []}, "must be positions of rows"),
    ],
)
def test_bad_calls_say_what_is_wrong(change: dict[str, Any], message: str) -> None:
    est, X, y, treatment = fitted()
    with pytest.raises(ValueError, match=message):
        Report.from_fit(est, X, y, treatment=treatment, **change)


def test_lengths_must_agree_and_a_fit_is_needed() -> None:
    est, X, y, treatment = fitted()
    with pytest.raises(ValueError, match="240, 239 and 240 rows"):
        Report.from_fit(est, X, y.iloc[1:], treatment=treatment)
    with pytest.raises(NotFittedError, match="LinearMembers is not fitted yet"):
        Report.from_fit(LinearMembers(), X, y, treatment=treatment)


def test_arrays_without_names_work() -> None:
    rng = np.random.default_rng(3)
    X, treatment = rng.normal(size=(120, 2)), np.arange(120) % 2
    y = X[:, 0] + treatment + rng.normal(size=120)
    est = LinearMembers(control=0, nuisance=nuisance()).fit(X, y, treatment=treatment)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = Report.from_fit(est, X, y, treatment=treatment, treatment_name="arm")
        made.pictures["unit-1"].svg()
    assert "arm = 1 instead of arm = 0" in made.lead[0]
    assert made.tables["unit effects"]["unit"].iloc[0] == str(int(np.argmin(est.predict(X))))
