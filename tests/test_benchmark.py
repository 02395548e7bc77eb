"""The benchmark: right figures, no run lost or doubled after a kill, failures kept, peers or the way to get them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from effects import benchmark as bench
from effects.benchmark import machine, results, runner
from effects.benchmark.methods import Method, Prediction
from effects.benchmark.peers import PEERS, weights_file
from effects.benchmark.scores import averages, scores
from effects.benchmark.suites import SUITES, population, simulate
from effects.cli import main
from effects.cli.benchmark import joined
from effects.datasets import CausalDataset
from effects.outcomes import PotentialOutcomes

#: What may differ between two runs of the same thing.
PASSING = ("seconds", "_mb", "started", "peak_of")


def lasting(table: pd.DataFrame) -> pd.DataFrame:
    """The table without times and memory."""
    kept = [name for name in table.columns if not name.endswith(PASSING)]
    return table[sorted(kept)].sort_values("key").reset_index(drop=True)


def few(n: int, *estimators: str) -> list[bench.Job]:
    """Runs of a fraction of a second each: one simulator, `n` seeds of it."""
    peers = [f"{name}(n_estimators=4)" for name in estimators or ("econml_t",)]
    jobs, _ = bench.plan(["distributions"], replications=n, estimators=[], peers=peers)
    return [job for job in jobs if job.data == "heteroscedastic"]


class Oracle(Method):
    """Knows the truth of the simulator `data`, and errs by `shift`."""

    def __init__(self, data: CausalDataset, shift: float = 0.0) -> None:
        self.data, self.shift = data, shift

    def load(self) -> None:
        pass

    def fit(self, data: CausalDataset) -> Oracle:
        return self

    def predict(self, X: pd.DataFrame, level: float) -> Prediction:
        truth, cate = self.data.truth, np.asarray(self.data.cate)
        assert truth is not None
        draws = truth.quantile((np.arange(400) + 0.5) / 400)[None] + np.array([0.0, self.shift])
        outcomes = PotentialOutcomes(draws, arms=self.data.arms, kind=self.data.kind)
        return Prediction(cate + self.shift, (cate - 1.0, cate + 1.0), outcomes)


# ------------------------------------------------------------------------------------------------------------- scores


def test_the_truth_scores_as_it_should() -> None:
    data = simulate("heteroscedastic", 800, 3)
    row = scores(Oracle(data).predict(data.X, 0.9), data, 0.9)
    assert row["sqrt_pehe"] == row["ate_error"] == 0 and row["cate_coverage"] == 1 and row["cate_width"] == 2
    assert row["cate_interval_score"] == pytest.approx(2)
    assert row["wasserstein"] < 0.05  # of 400 draws; the outcome's spread is 4 to 20
    for k in (0, 1):
        assert row[f"outcome_coverage_{k}"] == pytest.approx(0.9, abs=0.003)


def test_an_error_that_is_known_is_measured() -> None:
    data = simulate("heteroscedastic", 800, 3)
    found = Oracle(data, shift=3.0).predict(data.X, 0.9)
    row, best = scores(found, data, 0.9), scores(Oracle(data).predict(data.X, 0.9), data, 0.9)
    assert row["sqrt_pehe"] == pytest.approx(3) and row["ate_error"] == pytest.approx(3)
    assert row["wasserstein_1"] == pytest.approx(3, abs=0.05) and row["wasserstein_0"] < 0.05
    assert row["wasserstein"] == pytest.approx(1.5, abs=0.05)
    assert row["crps_1"] > best["crps_1"] and row["crps_0"] == best["crps_0"]


def test_atoms_count_for_coverage() -> None:
    """Half of the costs are 0: an interval that begins at 0 holds them."""
    data = simulate("zero_inflated", 500, 0)
    row = scores(Oracle(data).predict(data.X, 0.9), data, 0.9)
    assert row["outcome_coverage_0"] > 0.89


def test_averages_are_held_against_the_population() -> None:
    truth = population("heteroscedastic")
    big = simulate("heteroscedastic", 50_000, 7)
    assert truth["ate"] == pytest.approx(float(big.ate), abs=0.1) and truth["att"] != truth["ate"]
    nan = float("nan")
    row = averages({"ate": (truth["ate"] + 1, 0.5, truth["ate"] - 1, truth["ate"] + 3), "att": (0, nan, nan, nan)},
                   "heteroscedastic")  # fmt: skip
    assert row["ate_error"] == pytest.approx(1) and row["ate_covered"] == 1 and row["ate_width"] == pytest.approx(4)
    assert "att_covered" not in row and row["att_error"] == pytest.approx(abs(truth["att"]))


def test_predicted_effects_that_are_no_numbers_are_an_error() -> None:
    data = simulate("heteroscedastic", 50, 0)
    with pytest.raises(ValueError, match="1 of 50 predicted effects"):
        scores(Prediction(np.where(np.arange(50) == 3, np.nan, 1.0)), data, 0.9)


def test_jobs_are_scored_by_the_trial_inside_them() -> None:
    trial = np.repeat(["randomised", "observational"], [4, 4])
    data = CausalDataset(
        X=pd.DataFrame({"x": np.arange(8.0)}), y=pd.Series([1, 0, 0, 0, 1, 1, 0, 0]), kind="binary", arms=(0, 1),
        treatment=pd.Series([1, 1, 0, 0, 1, 0, 1, 0]), name="jobs", groups=trial,
    )  # fmt: skip
    row = scores(Prediction(np.full(8, 0.2)), data, 0.9)
    assert row["att_error"] == pytest.approx(0.3)  # 1/2 - 0 in the trial, 0.2 predicted
    assert row["policy_risk"] == pytest.approx(0.5)  # all are treated, and half of those have work


# --------------------------------------------------------------------------------------------------------------- plan


def test_plan_tells_what_it_leaves_out() -> None:
    jobs, left_out = bench.plan(["distributions"], replications=1, estimators=["GComputation"], peers=["econml_t"])
    assert len(jobs) == 13 and left_out == ["econml_t does not take the outcomes or the arms of three_arms"]
    assert len({job.key for job in jobs}) == 13


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"suites": ["idhp"]}, "no suite 'idhp'; did you mean 'ihdp'"),
        ({"estimators": ["DifPO"]}, "no estimator 'DifPO'; did you mean 'DiffPO'"),
        ({"peers": ["econml"]}, "no peer 'econml'"),
        ({"estimators": ["TARNet(epochs)"]}, "no estimator: write NAME"),
        ({"peers": ["econml_forest(trees=3)"]}, "no setting 'trees': it has n_estimators"),
        ({"estimators": ["TARNet(epoch=3)"]}, "TARNet has no setting 'epoch': it has"),
        ({"estimators": ["TARNet(random_state=3)"]}, "the seed is no setting of a run"),
        ({"replications": [5000]}, "no replication 5000: they are numbered 0 to 999"),
        ({"suites": ["ihdp"], "replications": [51]}, "no replication 51: they are numbered 1 to 50 and 101 to 300"),
        ({"level": 1.5}, "level must lie between 0 and 1"),
        ({"estimators": []}, "nothing to run"),
    ],
)
def test_plan_refuses_what_it_does_not_know(call: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        bench.plan(**{"suites": ["distributions"], "estimators": ["DiffPO"], **call})


def test_missing_files_are_told_with_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EFFECTS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="EFFECTS_DATA"):
        bench.plan(["jobs"], estimators=["DiffPO"])


def test_a_peer_that_is_missing_is_an_error_by_name_and_a_line_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PEERS["ngboost_per_arm"], "package", "not_installed_here")
    with pytest.raises(ImportError, match='pip install "ngboost"'):
        bench.plan(["distributions"], estimators=[], peers=["ngboost_per_arm"])
    monkeypatch.delenv("EFFECTS_WEIGHTS", raising=False)
    monkeypatch.setattr(PEERS["tabpfn"], "package", "json")
    with pytest.raises(FileNotFoundError, match=r"needs its weights .*EFFECTS_WEIGHTS is not set"):
        bench.plan(["distributions"], estimators=[], peers=["tabpfn"])
    jobs, left_out = bench.plan(["distributions"], replications=1, estimators=[], peers=["all"])
    assert any(line.startswith("ngboost_per_arm is left out: NGBoost per arm needs") for line in left_out)
    assert {"econml_t", "econml_forest"} <= {job.estimator for job in jobs}
    assert "ngboost_per_arm" not in {job.estimator for job in jobs}


def test_of_several_weights_the_newest_default_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EFFECTS_WEIGHTS", str(tmp_path))
    regression, classification = PEERS["tabpfn"].weights
    assert weights_file(regression) is None
    (tmp_path / "tabpfn-v3.5-20260909.safetensors").touch()
    assert weights_file(regression) == weights_file(classification) == tmp_path / "tabpfn-v3.5-20260909.safetensors"
    for name in ("v2-regressor", "v2.5-regressor-v2.5_variant", "v2.5-regressor-v2.5_default", "v2.10-regressor"):
        (tmp_path / f"tabpfn-{name}.ckpt").touch()
    assert weights_file(regression) == tmp_path / "tabpfn-v2.10-regressor.ckpt"
    (tmp_path / "tabpfn-v2.10-regressor.ckpt").unlink()
    assert weights_file(regression) == tmp_path / "tabpfn-v2.5-regressor-v2.5_default.ckpt"


def test_every_suite_gives_cases() -> None:
    for name, suite in SUITES.items():
        cases = suite.cases(name, suite.numbers[:2])
        assert len(cases) == 2 * len(suite.data) and suite.default <= len(suite.numbers)
        for case in cases:
            job = bench.Job(name, case.data, case.replication, "DiffPO")
            assert job.case() == case
    data, test = SUITES["distributions"].cases("distributions", [0])[0].load()
    assert test is not None and (len(data.X), len(test.X)) == (2000, 500)


# -------------------------------------------------------------------------------------------------------------- peers


@pytest.mark.parametrize("name", ["econml_t", "econml_x", "econml_forest", "gaussian_ensemble"])
def test_adapters_give_sensible_effects(name: str) -> None:
    data = simulate("heteroscedastic", 600, 1)
    params = {"n_estimators": 40} if name == "econml_forest" else {}
    method = PEERS[name](params, 0).fit(data)
    found = method.predict(data.X, 0.9)
    error = scores(found, data, 0.9)["sqrt_pehe"]
    cate = np.asarray(data.cate)
    assert error < np.sqrt(np.mean(cate**2))  # better than no effect at all
    assert (found.interval is not None) == (name == "econml_forest")
    assert (found.outcomes is not None) == (name == "gaussian_ensemble")
    if name == "econml_forest":
        known = method.averages(data, 0.9)
        assert set(known) == {"ate", "att"} and known["ate"][2] < known["ate"][0] < known["ate"][3]


@pytest.mark.parametrize("name", ["econml_t", "ngboost_per_arm", "gaussian_ensemble"])
def test_adapters_do_not_hang_on_what_ran_before(name: str) -> None:
    if PEERS[name].missing():
        pytest.skip(PEERS[name].missing())
    data, found = simulate("heteroscedastic", 300, 1), []
    table = data.X.round(1)  # ties, between which NGBoost's trees choose at random
    data = replace(data, X=pd.concat([table, table.add_suffix("_again")], axis=1))
    for state in (1, 2):
        np.random.seed(state)
        found.append(PEERS[name]({}, 0).fit(data).predict(data.X, 0.9).cate)
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("kind", ["heteroscedastic", "binary"])
@pytest.mark.parametrize("name", ["stochtree_bart", "stochtree_bcf"])
def test_tree_adapters_agree_with_the_truth(name: str, kind: str) -> None:
    pytest.importorskip("stochtree")
    data = simulate(kind, 400, 1)
    found = PEERS[name]({"num_mcmc": 60}, 0).fit(data).predict(data.X, 0.9)
    row = scores(found, data, 0.9)
    assert row["sqrt_pehe"] < np.sqrt(np.mean(np.asarray(data.cate) ** 2)) and row["cate_coverage"] > 0.4
    assert found.outcomes is not None and found.outcomes.kind == data.kind
    assert np.abs(found.outcomes.effect(data.arms[1]).mean - found.cate).mean() < 0.2 * np.std(data.y)
    if kind == "heteroscedastic":
        assert row["outcome_coverage_0"] == pytest.approx(0.9, abs=0.08)


# --------------------------------------------------------------------------------------------------------------- runs


def test_a_run_says_all_about_itself(tmp_path: Path) -> None:
    table = bench.run(few(1, "econml_t"), tmp_path)
    [row] = table.to_dict("records")
    assert row["status"] == "ok" and row["peer"] and row["n_train"] == 2000 and row["n_test"] == 500
    told = json.loads(row["versions"])
    assert {"effects", "python", "numpy", "torch", "econml"} <= set(told)
    assert row["cores"] >= 1 and row["memory_gb"] > 0 and row["processor"]
    assert row["fit_cpu_seconds"] > 0 and row["peak_mb"] > 50 and row["threads"] == 1
    assert row["in_sqrt_pehe"] > 0 and 0 < row["out_sqrt_pehe"] < 20
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), bench.read(tmp_path))


SCRIPT = """
import sys
from test_benchmark import few
from effects import benchmark
benchmark.run(few(12), sys.argv[1])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
def test_a_killed_benchmark_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9 half-way, then the same again: the table of an uninterrupted run, nothing run twice."""
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], cwd=Path(__file__).parent)
    deadline = time.monotonic() + 120
    while len(list((folder / "runs").glob("*.parquet"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "runs").glob("*.parquet")}
    assert 2 <= len(kept) < 12, "not half-way: the test has shown nothing"
    ran: list[str] = []
    table = bench.run(few(12), folder, progress=lambda row, *_: ran.append(row["key"]))
    assert len(ran) == 12 - len(kept)
    now = {path.name: path.stat().st_mtime_ns for path in (folder / "runs").glob("*.parquet")}
    assert len(now) == 12 and {name: now[name] for name in kept} == kept
    whole = bench.run(few(12), tmp_path / "whole")
    pd.testing.assert_frame_equal(lasting(table), lasting(whole))
    pd.testing.assert_frame_equal(lasting(bench.read(folder)), lasting(whole))


def test_damaged_and_older_runs_are_made_again(tmp_path: Path) -> None:
    jobs = few(2)
    bench.run(jobs, tmp_path)
    first, second = (tmp_path / "runs" / f"{job.name}.parquet" for job in jobs)
    first.write_bytes(b"PAR1 broken")
    frame = pd.read_parquet(second)
    frame["versions"] = json.dumps({"effects": "0.0.0"})
    frame.to_parquet(second)
    ran: list[str] = []
    bench.run(jobs, tmp_path, progress=lambda row, *_: ran.append(row["key"]))
    assert ran == [job.key for job in jobs] and len(bench.read(tmp_path)) == 2
    bench.run(jobs, tmp_path, progress=lambda row, *_: ran.append(row["key"]))
    assert len(ran) == 2
    bench.run(jobs[:1], tmp_path, fresh=True, progress=lambda row, *_: ran.append(row["key"]))
    assert len(ran) == 3 and len(bench.read(tmp_path)) == 2


def test_a_failing_run_is_kept_and_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, E: Any, level: float) -> Prediction:
        raise RuntimeError("no\nluck")

    jobs = few(2, "econml_t", "econml_x")
    monkeypatch.setattr(PEERS["econml_x"], "_predict", broken)
    table = bench.run(jobs, tmp_path)
    failed, good = table[table["estimator"] == "econml_x"], table[table["estimator"] == "econml_t"]
    assert list(failed["status"]) == ["failed"] * 2 and list(good["status"]) == ["ok"] * 2
    assert list(failed["error"]) == ["RuntimeError: no luck"] * 2
    assert "in broken" in failed["traceback"].iloc[0]
    monkeypatch.undo()
    assert list(bench.run(jobs, tmp_path)["status"]).count("failed") == 2  # failures are results too
    assert list(bench.run(jobs, tmp_path, retry_failed=True)["status"]) == ["ok"] * 4


@pytest.mark.slow
def test_a_run_that_kills_its_worker_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = few(2, "econml_t", "econml_x")
    monkeypatch.setattr(runner, "_in_worker", _deadly)
    cloudpickle = pytest.importorskip("cloudpickle")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    table = bench.run(jobs, tmp_path, n_jobs=2)
    failed, good = table[table["estimator"] == "econml_x"], table[table["estimator"] == "econml_t"]
    assert list(failed["status"]) == ["failed"] * 2 and list(good["status"]) == ["ok"] * 2
    assert failed["error"].str.contains("its process died").all()
    assert len(list((tmp_path / "runs").glob("*.parquet"))) == 4


def _deadly(job: bench.Job, _: int) -> dict[str, Any]:
    if job.estimator == "econml_x":
        os.kill(os.getpid(), signal.SIGKILL)
    return bench.execute(job)


@pytest.mark.slow
def test_two_processes_give_the_same_table(tmp_path: Path) -> None:
    jobs = few(3)
    one, two = bench.run(jobs, tmp_path / "one"), bench.run(jobs, tmp_path / "two", n_jobs=2)
    pd.testing.assert_frame_equal(lasting(one), lasting(two))
    assert list(two["replication"]) == [0, 1, 2]


def test_memory_is_that_of_the_run() -> None:
    machine.Memory()
    block = np.ones(40_000_000)  # 320 MB
    del block
    before = machine.Memory()
    if not before.own:
        pytest.skip("the high-water mark cannot be set back here")
    assert before.read()["growth_mb"] < 50
    block = np.ones(20_000_000)
    assert before.read()["growth_mb"] == pytest.approx(160, abs=40)
    del block


# ------------------------------------------------------------------------------------------------------------- report


def made_up(n: int = 8) -> pd.DataFrame:
    """A table of four estimators, of which `good` is best everywhere and `bad` worst."""
    rng = np.random.default_rng(0)
    errors = {"good": 0.3, "fair": 0.5, "PeerA": 0.52, "bad": 2.0}
    rows = []
    for r in range(1, n + 1):
        for label, error in errors.items():
            job = bench.Job("ihdp", "ihdp", r, label)
            rows.append(
                {"key": job.key, "suite": "ihdp", "data": "ihdp", "replication": r, "estimator": label, "seed": 0,
                 "level": 0.9, "label": label, "peer": label.startswith("Peer"), "status": "ok", "error": "",
                 "versions": machine.versions(), "revision": "abc", "out_sqrt_pehe": error * (1 + 0.1 * rng.random()),
                 "in_sqrt_pehe": error, "out_cate_coverage": 0.9, "out_cate_width": 2 * error,
                 "fit_cpu_seconds": 1.0 + error, "predict_cpu_seconds": 0.1, "growth_mb": 20.0, "peak_of": "the run",
                 **machine.hardware()}
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_ranks_follow_demsar() -> None:
    found = bench.ranks(made_up(), "ihdp")
    assert set(found.index) == {"good", "fair", "PeerA", "bad"}
    assert found.loc["good", "rank"] == 1 and found.loc["bad", "rank"] == 4
    # Demšar 2006, table 5: q of 0.05 for four is 2.569; his example of 14 data sets has a difference of 1.25
    assert found.attrs["difference"] == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 8)), abs=0.002)
    assert bench.ranks(made_up(14), "ihdp").attrs["difference"] == pytest.approx(1.25, abs=0.01)
    assert found.attrs["p_value"] < 1e-3
    holes = made_up()
    holes.loc[holes.index[1], "status"] = "failed"
    assert bench.ranks(holes, "ihdp").attrs["left_out"] == ["fair"]
    with pytest.raises(ValueError, match="two data sets"):
        bench.ranks(made_up(1), "ihdp")


def test_the_markdown_table_is_sorted_and_says_what_is_whose() -> None:
    lines = bench.markdown(made_up(), "ihdp").splitlines()
    assert lines[0].startswith("| estimator | √PEHE, mean / median | in sample |")
    assert [line.split("|")[1].strip() for line in lines[2:]][::3] == ["`good`", "`bad`"]
    assert "| PeerA |" in "\n".join(lines) and "0.90" in lines[2]
    with pytest.raises(ValueError, match="no run of the suite 'jobs'"):
        bench.markdown(made_up(), "jobs")


def test_who_failed_every_time_has_a_row() -> None:
    table = made_up(2)
    table.loc[table["label"] == "bad", "status"] = "failed"
    last = bench.markdown(table, "ihdp").splitlines()[-1].split("|")
    assert last[1].strip() == "`bad`" and last[-2].strip() == "2" and "nan" not in last


def test_points_alone_are_no_laws_and_no_crash() -> None:
    table = made_up(2).assign(suite="distributions", data="skewed")
    assert bench.markdown(table, "distributions").count("–") == 4
    assert "no Wasserstein-1 distance" in bench.report(table).lead[0]


def test_levels_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = pd.concat([made_up(2), made_up(2).assign(level=0.5, out_cate_coverage=0.5)])
    with pytest.raises(ValueError, match=r"several levels \(0.5, 0.9\)"):
        bench.markdown(both, "ihdp")
    both.to_parquet(tmp_path / "both.parquet")
    assert main(["benchmark", "--table", str(tmp_path / "both.parquet"), "--level", "0.5"]) == 0
    assert bench.markdown(both[both["level"] == 0.5], "ihdp") in capsys.readouterr().out


def test_the_page_does_not_call_ours_smallest_where_a_peer_is() -> None:
    table = made_up(2)
    table["peer"] = table["label"] == "good"
    lead = bench.report(table).lead[0]
    assert lead.index("of this package fair") < lead.index("of the peers good")


def test_the_page_is_whole(tmp_path: Path) -> None:
    table = made_up()
    table.loc[table.index[-1], ["status", "error"]] = ["failed", "ValueError: <b>"]
    page = bench.report(table, command="effects benchmark --suite ihdp")
    html = page.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count("<figure") == 4 and "could not be drawn" not in html
    assert "ValueError: &lt;b&gt;" in html and "effects benchmark --suite ihdp" in html.replace("</span> <span>", " ")
    assert "so without a rank: bad" in html
    assert "good 0.3" in page.lead[0] and "PeerA 0.5" in page.lead[0]
    with pytest.raises(ValueError, match=r"none of the 32 runs went well, .*: ValueError"):
        bench.report(table.assign(status="failed", error="ValueError: all"))


def test_one_estimator_and_one_data_set_make_a_page_too() -> None:
    table = made_up(1)
    html = bench.report(table[table["label"] == "good"]).html()
    assert "No ranks" in html and "could not be drawn" not in html


def test_labels_do_not_lie_on_each_other() -> None:
    from effects.plots.benchmark import _spread

    at = _spread(np.array([0.1, 0.1, 0.1, 0.8, 0.99, 1.0]), 0.0, 1.0)
    assert (np.diff(at) > 1 / 25).all() and at.min() >= 0 and at.max() <= 1
    assert at[3] == pytest.approx(0.8, abs=0.05)
    assert np.allclose(np.diff(_spread(np.full(40, 0.5), 0.0, 1.0)), 1 / 40)


# -------------------------------------------------------------------------------------------------------------- shell


def test_lists_are_written_with_blanks() -> None:
    assert joined(["benchmark", "--peers", "a", "b", "--jobs", "2", "x"]) == [
        "benchmark", "--peers", "a", "--peers", "b", "--jobs", "2", "x"]  # fmt: skip


def test_the_command_prints_kept_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up().to_parquet(tmp_path / "kept.parquet")
    assert main(["benchmark", "--table", str(tmp_path / "kept.parquet")]) == 0
    assert bench.markdown(made_up(), "ihdp") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "idhp"], "did you mean 'ihdp'"),
        (["--replications", "x"], "neither a number nor a range"),
        (["--replications", "5-3"], "'5-3' ends before it begins"),
        (["--seeds", "-1"], "--seeds"),
        (["--table", __file__], "cannot be read as a table"),
        (["--jobs", "0"], "--jobs must be 1 or more"),
        (["--report", "page.doc"], "must end in .html"),
        (["--suite", "memory", "ihdp"], "measured alone"),
        (["--table", "nowhere"], "there are no runs in 'nowhere'"),
    ],
)
def test_the_command_says_what_to_mend(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["benchmark", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_one_command_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "benchmark",
        "--suite",
        "ate",
        "--replications",
        "2",
        "--estimators",
        "GComputation",
        "--peers",
        "econml_t",
    ]
    assert main([*words, "econml_x", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "| heteroscedastic |" in out and "[24/24]" in err and (tmp_path / "report.html").is_file()
    table = results.read(tmp_path)
    assert len(table) == 24 and (table["status"] == "ok").all()
    assert table["ate_covered"].notna().sum() == 8  # T- and X-learner have no intervals
    assert main([*words, "econml_x", "--out", str(tmp_path), "--quiet"]) == 0
    assert "[1/24]" not in capsys.readouterr().err
