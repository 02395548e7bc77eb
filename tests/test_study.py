"""A study from one file: what is asked is checked, everything asked is done, and an interruption loses nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import effects
from effects.cli import main
from effects.effect import Estimate, Estimates
from effects.report.study import trimming
from effects.study import Findings, Plan, draft, run, store, suspects
from effects.study import findings as steps
from effects.study.table import Rows, match_label

N = 360
PLAN = """
title = "A <b>bold</b> study"
[table]
file = "ward.csv"
id = "patient"
[question]
treatment = "arm"
outcome = "died"
control = "usual care"
higher_is_better = false
[covariates.exclude]
days_alive = "after the treatment"
[estimator]
name = "tarnet"
[estimator.settings]
n_networks = 4
hidden = 16
epochs = 10
[subgroups]
by = ["sex"]
[report]
formats = ["html", "md"]
[words]
funding = "none & nobody"
"""


def ward() -> pd.DataFrame:
    """A table as a clinic has it: an id, categories, missing values, dates, and a column from afterwards."""
    rng = np.random.default_rng(3)
    x, sex = rng.normal(size=N), rng.choice(["female", "male"], N)
    arm = np.where(rng.random(N) < 1 / (1 + np.exp(-0.7 * x)), "new drug", "usual care")
    risk = 1 / (1 + np.exp(-(-0.6 + 0.8 * x - 0.7 * (arm == "new drug"))))
    died = np.where(rng.random(N) < risk, "yes", "no")
    frame = pd.DataFrame({"patient": [f"p{k:03}" for k in range(N)], "severity": x.round(3), "sex": sex})
    frame["stage"] = rng.choice(["I", "II", "III"], N)
    frame.loc[::9, "stage"] = np.nan
    frame["admitted"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, N), unit="D")
    frame["admitted"] = frame["admitted"].dt.strftime("%Y-%m-%d")
    frame["days_alive"] = np.where(died == "yes", rng.integers(1, 29, N), 30)
    frame["arm"], frame["died"] = arm, died
    frame.loc[:2, "died"] = np.nan
    return frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study")
    ward().to_csv(path / "ward.csv", index=False)
    (path / "STUDY.toml").write_text(PLAN)
    return path


@pytest.fixture(scope="module")
def findings(folder: Path) -> Findings:
    return run(Plan.read(folder / "STUDY.toml"), folder=folder / "kept")


# ---------------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('treatment = "arm"', 'treatmnt = "arm"', r"\[question\] has no key 'treatmnt'; did you mean 'treatment'\?"),
        ("[subgroups]", "[subgrups]", r"\[subgrups\] is no section of a plan; did you mean 'subgroups'\?"),
        ('treatment = "arm"', "", r"\[question\] treatment is missing"),
        ('treatment = "arm"', 'treatment = "army"', r"\[question\] treatment: .* no column 'army'; did you mean 'arm'"),
        ('by = ["sex"]', 'by = "sex"', r"\[subgroups\] by must be a list of texts"),
        ('by = ["sex"]', 'by = ["sax"]', r"\[subgroups\] by: the table has no column 'sax'; did you mean 'sex'"),
        ('name = "tarnet"', 'name = "tarnett"', r"\[estimator\] name: 'tarnett' is not known; did you mean 'tarnet'"),
        ("hidden = 16", "hiden = 16", r"\[estimator.settings\] 'hiden' is no setting of TARNet; did you mean 'hidden'"),
        ('"usual care"', '"usual cre"', r"\[question\] control: column 'arm' has no arm 'usual cre'; did you mean"),
        ("higher_is_better = false", 'higher_is_better = "no"', r"higher_is_better must be true or false"),
        ('id = "patient"', 'id = "stage"', r"column 'stage' does not tell the units apart .* \[table\] clusters"),
        ("[report]", "[report]\nlevel = 95", r"\[report\] level must lie between 0 and 1 .* got 95"),
        ("[report]", '[question.probabilities]\n"new drug" = 0.5\n[report]', r"probabilities add up to 0.5"),
        ('[estimator]\n', '[estimator]\nrandom_state = "x"\n', r"random_state must be a whole number, got 'x'"),
        ('["html", "md"]', '["pdf"]', r"formats: 'pdf' is not known"),
        ('file = "ward.csv"', 'file = "wrd.csv"', r"did you mean ward.csv"),
        ("[subgroups]", '[checks]\nskip = ["balanc"]\n[subgroups]', r"\[checks\] skip: there is no check 'balanc'"),
        ('id = "patient"', 'clusters = "arm"', r"'arm' is both \[question\] treatment and \[table\] clusters"),
        ('id = "patient"', 'weights = "sex"', r"'sex', which stands under \[table\] weights: subgroups"),
        ('id = "patient"', 'weights = "stage"', r"\[table\] weights: column 'stage' holds 'I+', which is no number"),
        ('id = "patient"', 'weights = "severity"', r"\[table\] weights: column 'severity' holds -.* is negative"),
        ('by = ["sex"]', 'by = ["days_alive"]', r"'days_alive', which stands under \[covariates\] exclude: subgroups"),
        ('outcome = "died"', 'outcome = "stage"', r"outcome is column 'stage' \(y\), .*: y has 3 distinct values"),
        ('["html", "md"]', "[]", r"\[report\] formats is empty"),
        ("[report]", '[question.probabilities]\n"new drug" = 0.5\n"usual care" = 0.5\n[report]', 'set design = "tri'),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_says_what_to_mend(
    folder: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    ward().to_csv(tmp_path / "ward.csv", index=False)
    text = PLAN.replace(old, new, 1)
    assert text != PLAN
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(Plan.read(tmp_path / "bad.toml"))


def test_missing_outcomes_are_an_error_where_they_must_not_be_dropped() -> None:
    plan = Plan(table="ward.csv", treatment="arm", outcome="died", drop_missing=False)
    with pytest.raises(ValueError, match=r"3 of 360 rows lack the outcome \(column 'died'\)"):
        Rows.of(plan, ward())


def test_outcomes_that_cannot_be_meant_are_refused() -> None:
    frame, plan = ward().dropna(subset="died"), Plan(table="ward.csv", treatment="arm", outcome="died")
    with pytest.raises(ValueError, match=r"has two values, 1 and 2: say outcome_kind = "):
        Rows.of(plan, frame.assign(died=np.where(frame["died"] == "yes", 2, 1)))
    with pytest.raises(ValueError, match=r"column 'died' is always 'no'|y has 1 distinct value"):
        Rows.of(plan, frame.assign(died="no"))
    with pytest.raises(ValueError, match=r"column 'died' is always 3\.5"):
        Rows.of(plan, frame.assign(died=3.5))
    with pytest.raises(ValueError, match=r"no row is left: all that were there lack the treatment \(column 'arm'\)"):
        Rows.of(plan, frame.assign(arm=np.nan))
    with pytest.raises(ValueError, match=r"two columns named 'sex'"):
        Rows.of(plan, frame.rename(columns={"stage": "sex"}))


def test_what_the_table_says_against_the_plan_is_noted() -> None:
    frame = ward().dropna(subset="died")
    frame.loc[frame["arm"] == "new drug", "died"] = "no"
    chances = {"new drug": 0.8, "usual care": 0.2}
    plan = Plan(table="w.csv", treatment="arm", outcome="died", design="trial", probabilities=chances)
    notes = " ".join(Rows.of(plan, frame).notes)
    assert "the plan names no control ([question] control): arm 'usual care' was taken" in notes
    assert "every outcome of arm 'new drug' is 'no'" in notes
    assert "the arms' sizes do not fit [question] probabilities ('usual care' has" in notes
    share = float((frame["arm"] == "new drug").mean())
    fair = Plan(**{**vars(plan), "probabilities": {"new drug": share, "usual care": 1 - share}})
    assert "do not fit" not in " ".join(Rows.of(fair, frame).notes)


def test_labels_of_a_file_find_their_values() -> None:
    assert match_label("0", pd.Series([1.0, 0.0]), "x") == 0.0
    assert match_label(1, pd.Series([True, False]), "x") is True
    assert match_label(" Drug", pd.Series(["drug", "none"]), "x") == "drug"


def test_roles_keep_columns_out_of_the_covariates() -> None:
    plan = Plan(
        table="ward.csv", treatment="arm", outcome="died", id="patient", excluded={"days_alive": "after"},
        negative_controls=("stage",), clusters="sex", design="trial",
        probabilities={"new drug": 0.25, "usual care": 0.75},
    )  # fmt: skip
    rows = Rows.of(plan, ward().assign(empty=np.nan))
    assert list(rows.X.columns) == ["severity", "admitted"] and pd.api.types.is_datetime64_any_dtype(rows.X["admitted"])
    assert rows.arms == ("usual care", "new drug") and rows.propensity is not None
    assert rows.propensity[0].tolist() == [0.75, 0.25]
    assert list(rows.controls) == ["stage"] and rows.groups is not None and rows.X.index[0] == "p003"
    assert rows.flow == (("rows in the table", 360), ("left out: without the outcome (died)", -3), ("analysed", 357))
    assert any("empty" in note for note in rows.notes)
    trial = Rows.of(Plan(table="ward.csv", treatment="arm", outcome="died", design="trial"), ward())
    assert trial.propensity is not None and trial.propensity[5, 1] == (trial.treatment == "new drug").mean()
    assert any("shares of the units stand for their chances" in note for note in trial.notes)
    fewer = rows.take(np.arange(357) < 300, "left out: trimmed")
    assert fewer.flow[-2:] == (("left out: trimmed", -57), ("analysed", 300)) and len(fewer.X) == len(fewer.y) == 300


# ------------------------------------------------------------------------------------------------------- a plan drafted


def test_a_draft_is_a_plan_and_keeps_out_what_came_afterwards(tmp_path: Path) -> None:
    frame = ward().assign(row=np.arange(N), survival_score=np.random.default_rng(0).normal(size=N))
    text = draft(frame, "ward.csv", treatment="arm", outcome="died", words={"funding": "who paid"})
    (tmp_path / "STUDY.toml").write_text(text)
    plan = Plan.read(tmp_path / "STUDY.toml")
    assert (plan.id, plan.treatment, plan.outcome, plan.subgroups) == ("patient", "arm", "died", ("sex",))
    assert set(plan.excluded) == {"row", "days_alive"} and "foretells the outcome" in plan.excluded["days_alive"]
    assert "# survival_score = " in text  # a vague name alone excludes nothing
    assert plan.higher_is_better is False and plan.words == {"funding": ""}
    unknown = draft(frame.rename(columns={"arm": "swan"}), "ward.csv", outcome="died")
    assert 'treatment = ""  # a column must be named' in unknown and "days_alive = " in unknown
    with pytest.raises(ValueError, match="no column 'diet'; did you mean 'died'"):
        draft(frame, "ward.csv", outcome="diet")


def test_a_draft_takes_a_repeated_id_for_clusters() -> None:
    frame = ward().assign(patient=np.arange(N) // 3, uric_acid=np.arange(N) // 4)
    text = draft(frame, "ward.csv", treatment="arm", outcome="died")
    assert 'clusters = "patient"  #' in text and 'id = ""' in text
    assert 'clusters = ""' in draft(frame.drop(columns="patient"), "ward.csv", treatment="arm", outcome="died")


def test_columns_that_give_the_treatment_away_are_suspected() -> None:
    frame = ward().dropna()
    X = frame[["severity", "sex"]].assign(dose=np.where(frame["arm"] == "new drug", 5.0, 0.0))
    found = suspects(X, frame["died"], frame["arm"])
    assert list(found.index) == ["dose"] and "foretells the treatment (AUC 1.00)" in str(found.loc["dose", "reason"])


def test_a_column_that_settles_the_outcome_of_some_is_suspected() -> None:
    rng = np.random.default_rng(1)
    early, late = rng.random(1500) < 0.3, rng.random(1500) < 0.4
    dead = pd.Series(np.where(early | late, "yes", "no"))
    X = pd.DataFrame({"age": 60 + 9 * rng.normal(size=1500) + 6 * (dead == "yes")})
    X["days"] = np.where(early, rng.integers(1, 30, 1500), 30)
    found = suspects(X, dead)
    assert list(found.index) == ["days"] and found["sure"].all() and "settles the outcome" in str(found.iloc[0, 2])
    assert suspects(X, pd.Series((rng.random(1500) < 0.05).astype(int))).empty  # hardly anybody has the event anywhere


def test_a_date_after_another_is_suspected() -> None:
    frame = ward().dropna()
    first = pd.to_datetime(frame["admitted"])
    X = pd.DataFrame({"admitted": first, "seen": first + pd.to_timedelta(frame["days_alive"] % 7, unit="D")})
    found = suspects(X, frame["died"], frame["arm"])
    assert list(found.index) == ["seen"] and "never precedes admitted" in str(found.loc["seen", "reason"])


# ---------------------------------------------------------------------------------------------------- what it finds


def test_a_study_answers_everything_or_says_why_not(findings: Findings) -> None:
    assert findings.averages[0].estimand == "ATE" and findings.averages[0].treated == "new drug"
    scales = [one.estimand for one in findings.averages if one.treated == "new drug"]
    assert {"ATE", "ATT"} <= {name.partition(",")[0] for name in scales} and len(scales) >= 6
    failed = {step: why for step, why in findings.skipped.items() if "failed" in why}
    assert not failed
    assert "binary" in findings.skipped["quantiles"] and "no rule" in findings.skipped["trimming"]
    for name in ("baseline", "subgroups", "tree", "importance", "policy", "curve", "evalue", "omitted", "marginal"):
        assert getattr(findings, name) is not None, name
    assert findings.checks and findings.source["rows"] == N and findings.source["sha256"]


def test_its_average_is_that_of_the_estimator_and_its_naive_difference_that_of_the_arms(findings: Findings) -> None:
    again = effects.estimate_ate(findings.est, findings.X, findings.y, treatment=findings.treatment)
    assert (again.value, again.se) == (findings.averages[0].value, findings.averages[0].se)
    event = (findings.y == "yes").to_numpy(dtype=float)
    treated = (findings.treatment == "new drug").to_numpy()
    naive = findings.naive["new drug"]
    assert naive.value == pytest.approx(event[treated].mean() - event[~treated].mean())
    welch = np.sqrt(sum(event[rows].var(ddof=1) / rows.sum() for rows in (treated, ~treated)))
    assert naive.se == pytest.approx(welch, rel=1e-6)


def test_a_second_run_reads_what_the_first_has_kept(folder: Path, findings: Findings, monkeypatch: Any) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(effects.TARNet, "fit", never)
    monkeypatch.setattr(steps._Run, "averages", never)
    monkeypatch.setattr(steps._Run, "checks", never)
    again = run(Plan.read(folder / "STUDY.toml"), folder=folder / "kept")
    assert [str(one) for one in again.averages] == [str(one) for one in findings.averages]
    assert [str(one) for one in again.checks] == [str(one) for one in findings.checks]
    assert again.baseline is not None and findings.baseline is not None
    pd.testing.assert_frame_equal(again.baseline, findings.baseline)
    assert again.cautions == findings.cautions and again.skipped == findings.skipped
    assert again.seconds["fit"] == findings.seconds["fit"] and again.tree is not None and findings.tree is not None
    assert list((folder / "kept").glob("steps-*/tree.json")) and again.tree.text == findings.tree.text


def test_an_interruption_loses_only_the_step_at_hand(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    plan = Plan.read(folder / "STUDY.toml")
    monkeypatch.setattr(steps._Run, "checks", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(plan, folder=tmp_path / "kept")
    kept = {path.stem for path in (tmp_path / "kept").glob("steps-*/*.json")}
    assert {"averages", "baseline"} <= kept and "checks" not in kept
    assert len(list((tmp_path / "kept").glob("fit-*.effects"))) == 1


def test_what_the_plan_changes_is_computed_anew_and_what_it_does_not_is_kept(folder: Path) -> None:
    plan = Plan.read(folder / "STUDY.toml")
    same = Plan(**{**vars(plan), "words": {"funding": "other"}, "title": "other"})
    assert same.key() == plan.key() and same.key(fit_only=True) == plan.key(fit_only=True)
    level = Plan(**{**vars(plan), "level": 0.9})
    assert level.key() != plan.key() and level.key(fit_only=True) == plan.key(fit_only=True)
    trial = Plan(**{**vars(plan), "design": "trial"})  # its shares are known propensities of the fit
    assert trial.key(fit_only=True) != plan.key(fit_only=True)
    apart = Plan(**{**vars(plan), "negative_controls": ("stage",)})
    assert apart.key(fit_only=True) != plan.key(fit_only=True)


def asking(monkeypatch: Any, kind: str = "binary", **asked: Any) -> tuple[steps._Run, dict[str, Any]]:
    """A study without a fit, and the options with which its steps ask, by the name of what they ask."""
    plan = Plan(**{"table": "ward.csv", "treatment": "arm", "outcome": "died", **asked})
    study, options = steps._Run(plan, Rows.of(plan, ward()), None, None), {}

    def ask(_: Any, function: Any, **given: Any) -> tuple[()]:
        options[function.__name__] = given
        return ()

    monkeypatch.setattr(steps._Run, "ask", ask)
    est: Any = SimpleNamespace(schema_=SimpleNamespace(outcome=SimpleNamespace(kind=kind)))
    study.est = est
    return study, options


def test_level_clusters_and_estimand_reach_every_step(monkeypatch: Any) -> None:
    study, asked = asking(
        monkeypatch, clusters="severity", level=0.9, estimands=("ATT",), higher_is_better=False, subgroups=("sex",)
    )
    for step in (study.subgroups, study.tree, study.policy, study.curve, study.omitted, study.marginal):
        step()
    assert len(asked) == 6
    for name, given in asked.items():
        assert given["level"] == 0.9 and given["groups"] is study.rows.groups, name
    study.checks()
    study.baseline(True)
    assert asked["run_checks"]["estimand"] == "ATT" and asked["baseline_table"]["estimand"] == "ATT"


def test_the_difference_comes_first_whatever_the_scales(monkeypatch: Any) -> None:
    study, _ = asking(monkeypatch, scales=("ratio",), outcome_unit="points")
    monkeypatch.setattr(steps._Run, "unadjusted", lambda *_: None)
    monkeypatch.setattr(steps._Run, "average", lambda *_, **given: given)
    found: Any = study.averages()[2]
    assert found[:3] == ({"scale": "difference"}, {"scale": "ratio"}, {"method": "tmle"})


def test_quantiles_are_of_continuous_outcomes(monkeypatch: Any) -> None:
    study, _ = asking(monkeypatch, kind="count")
    assert study.step("quantiles", study.quantiles) is None and "count outcome" in study.skipped["quantiles"]


def test_a_population_that_cannot_be_had_ends_the_study(monkeypatch: Any) -> None:
    study, _ = asking(monkeypatch, trim="fixed")
    monkeypatch.setattr(steps._Run, "fitted", lambda _: None)
    monkeypatch.setattr(steps._Run, "trimming", lambda _: (_ for _ in ()).throw(ValueError("keeps no row of arm 'x'")))
    with pytest.raises(ValueError, match=r'\[checks\] trim = "fixed": keeps no row of arm'):
        study.findings()


def test_where_trimming_loses_nobody_there_is_no_table_of_the_lost() -> None:
    kept: Any = SimpleNamespace(f=SimpleNamespace(trimming=SimpleNamespace(text="nobody", keep=np.ones(3, dtype=bool))))
    assert [block.form for block in trimming(kept)] == ["heading", "prose"]


def test_weak_overlap_is_told_once() -> None:
    said = ["Weak overlap: 4 rows", "other", "Weak overlap: 3 rows"]
    assert steps._each_once(dict.fromkeys(said)) == ("Weak overlap: 4 rows", "other")


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    path.write_text('{"class": "Estimate"')
    assert steps._read(path) is None and not path.exists()


# -------------------------------------------------------------------------------------------------------------- store


def test_results_come_back_as_they_were() -> None:
    pair = tuple(Estimate(float(k), 1.0, method="AIPW", n=10, df=3.5) for k in range(2))
    table = pd.DataFrame({"n": [1, 2], "x": [0.5, np.nan], "who": ["a", None]}, index=pd.Index(["u", 3], name="unit"))
    value = {"all": Estimates(pair, np.eye(2), labels=("young", "old")), ("a", 1): [table, np.arange(3), None, "ä"]}
    back = store.decode(json.loads(json.dumps(store.encode(value))))
    assert str(back["all"]) == str(value["all"]) and back["all"][1].df == 3.5
    frame, array, none, text = back["a", 1]
    pd.testing.assert_frame_equal(frame, table)
    assert array.dtype == np.arange(3).dtype and array.tolist() == [0, 1, 2] and (none, text) == (None, "ä")


def test_a_file_of_results_makes_nothing_but_results() -> None:
    with pytest.raises(KeyError):
        store.decode({"class": "Popen", "fields": {}})
    with pytest.raises(ValueError, match="not read"):
        store.decode({"array": "", "dtype": "|O8", "shape": [0]})
    with pytest.raises(TypeError, match="no place"):
        store.encode({"x": object()})


# -------------------------------------------------------------------------------------------------------- at the shell


def test_the_shell_writes_a_page_and_tables(folder: Path, findings: Findings, capsys: Any) -> None:
    assert main(["study", str(folder / "STUDY.toml"), "--out", str(folder / "kept")]) == 0
    said = capsys.readouterr()
    assert "ATE" in said.out and "html:" in said.err and "[17/17] page" in said.err
    assert "note: column admitted was read as dates" in said.err
    page = (folder / "kept" / "report.html").read_text()
    assert "A &lt;b&gt;bold&lt;/b&gt; study" in page and "none &amp; nobody" in page
    assert (folder / "kept" / "report.md").is_file() and not (folder / "kept" / "report.tex").exists()
    averages = pd.read_csv(folder / "kept" / "averages.csv")
    assert averages["coef"].iloc[0] == pytest.approx(findings.averages[0].value)
    assert list(averages["measure"][:2]) == ["risk difference", "risk ratio"]
    assert len(pd.read_csv(folder / "kept" / "checks.csv")) == len(findings.checks)


def test_the_shell_says_before_any_work_where_it_cannot_write(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    (tmp_path / "file").write_text("x")
    call = ["study", str(folder / "STUDY.toml"), "--out"]
    assert main([*call, str(tmp_path / "file")]) == 2 and "is a file: name a folder" in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    assert main([*call, str(tmp_path / "new")]) == 2 and "cannot be written to" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_shell_drafts_a_plan_and_never_over_another(tmp_path: Path, capsys: Any) -> None:
    ward().to_csv(tmp_path / "ward.csv", index=False)
    call = ["study", "--init", str(tmp_path / "ward.csv"), "--treatment", "arm", "--outcome", "died"]
    assert main(call) == 0 and Plan.read(tmp_path / "STUDY.toml").treatment == "arm"
    (tmp_path / "plans").mkdir()
    assert main(["study", str(tmp_path / "plans" / "a.toml"), *call[1:]]) == 0
    there = Plan.read(tmp_path / "plans" / "a.toml")
    assert (there.folder / there.table).resolve() == tmp_path / "ward.csv" and not Path(there.table).is_absolute()
    assert main(call) == 2 and "is there already" in capsys.readouterr().err
    assert main(["study"]) == 2 and "name the plan" in capsys.readouterr().err
    (tmp_path / "STUDY.toml").write_text(PLAN.replace("funding", "fundin"))
    assert main(["study", str(tmp_path / "STUDY.toml")]) == 2 and "did you mean 'funding'" in capsys.readouterr().err
