"""Tables larger than memory: what is streamed is what is computed at once, and memory does not grow with the rows."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, quick
from scipy import stats

import effects
from effects import EffectEstimator, stream
from effects.datasets import make_heteroscedastic, make_three_arms, read_table
from effects.datasets.batches import _drawn, count_rows, is_parquet, read_batches, sample_rows
from effects.files import whole
from effects.parallel import side_by_side

# ---- rows in batches -------------------------------------------------------------------------------------------------


def trial(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """A table with numbers, text that looks like numbers in places, a flag, categories and missing values."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"patient": [f"{k:04d}" for k in range(n)], "age": rng.normal(60, 8, n).round(1)})
    frame["stage"] = np.where(np.arange(n) < n // 2, rng.choice(["1", "2"], n), rng.choice(["1", "2", "3b"], n))
    frame["smokes"] = rng.random(n) < 0.4
    frame["site"] = pd.Categorical(rng.choice(["Bern", "Chur"], n))
    frame.loc[rng.random(n) < 0.1, "age"] = np.nan
    frame["arm"] = pd.Categorical(rng.choice(["placebo", "drug"], n), categories=["placebo", "drug"])
    frame["bp"] = 120 + 0.2 * frame["age"].fillna(60) - 5 * (frame["arm"] == "drug") + rng.normal(0, 3, n)
    return frame


def fitted(frame: pd.DataFrame, **options: Any) -> EffectEstimator:
    est = quick("GComputation", **options)
    return est.fit(frame[["age", "stage", "smokes", "site"]], frame["bp"], treatment=frame["arm"])


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.csv.zip", "t.parquet", "t.feather"])
def test_batches_are_the_table(name: str, tmp_path: Path) -> None:
    frame, path = trial(100).drop(columns="site"), tmp_path / name
    frame["arm"] = frame["arm"].astype(str)
    if name.endswith((".parquet", ".feather")):
        getattr(frame, "to_" + name.rsplit(".", maxsplit=1)[-1])(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    parts = list(read_batches(path, 30, text=["stage", "patient"]))
    assert [len(part) for part in parts] == [30, 30, 30, 10]
    together = pd.concat(parts, ignore_index=True)
    expected = read_table(path)
    if "csv" in name or "tsv" in name:  # read whole, "0001" is a number there
        expected["patient"] = frame["patient"].astype(together["patient"].dtype)
    pd.testing.assert_frame_equal(together, expected)
    some = pd.concat(read_batches(path, 30, columns=["arm", "age"], text=["stage"]), ignore_index=True)
    pd.testing.assert_frame_equal(some, expected[["arm", "age"]])


def test_decimal_commas_are_seen_in_batches(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;b\n1,5;x\n2,5;y\n3,5;z\n", encoding="utf-8")
    assert [part["a"].tolist() for part in read_batches(tmp_path / "t.csv", 2)] == [[1.5, 2.5], [3.5]]


def test_a_file_of_a_folder_without_a_column_is_an_error(tmp_path: Path) -> None:
    frame = trial(60)
    frame.iloc[:30].to_parquet(tmp_path / "a.parquet")
    frame.iloc[30:].drop(columns="age").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet has no column 'age', which other files"):
        next(read_batches(tmp_path, 10))
    assert len(pd.concat(read_batches(tmp_path, 10, columns=["site"]))) == 60


@pytest.mark.parametrize("n_rows", [10**6, 4 * 10**9])
def test_a_sample_of_any_number_of_rows_is_drawn_evenly(n_rows: int) -> None:
    rng, wanted, left, found = np.random.default_rng(0), 100_000, n_rows, []
    for _ in range(20):
        found.append(_drawn(rng, wanted, left, n_rows // 20))
        wanted, left = wanted - found[-1], left - n_rows // 20
    assert sum(found) == 100_000
    assert stats.chisquare(found).pvalue > 1e-3


def test_jobs_are_threads_that_share_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes would be sent it with every batch: a million rows took seven times as long as in turn."""
    frame = trial(90)
    frame.to_parquet(tmp_path / "in.parquet")
    est, told = fitted(frame), stream.unit_frame
    here: list[int] = []

    def seen(*arguments: Any) -> pd.DataFrame:
        here.append(os.getpid())
        return told(*arguments)

    monkeypatch.setattr(stream, "unit_frame", seen)
    for n_jobs in (1, 2):
        stream.predict_table(est, tmp_path / "in.parquet", tmp_path / f"{n_jobs}.parquet", batch_rows=30, n_jobs=n_jobs)
    assert here == 6 * [os.getpid()]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "1.parquet"), pd.read_parquet(tmp_path / "2.parquet"))


def test_a_row_group_is_not_cut_into_single_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To read the names of the columns alone took three times as long as to predict."""
    frame, sizes = trial(60), []
    frame.to_parquet(tmp_path / "in.parquet")

    def sized(path: Path, n_rows: int, **keywords: Any) -> Any:
        sizes.append(n_rows)
        return read_batches(path, n_rows, **keywords)

    monkeypatch.setattr(stream, "read_batches", sized)
    stream.predict_table(fitted(frame), tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert min(sizes) == stream.BATCH_ROWS


def test_the_table_itself_is_not_written_over(tmp_path: Path) -> None:
    frame, path = trial(60), tmp_path / "in.parquet"
    frame.to_parquet(path)
    with pytest.raises(ValueError, match="is the table itself"):
        stream.predict_table(fitted(frame), path, path)
    pd.testing.assert_frame_equal(pd.read_parquet(path), frame)


def test_a_folder_of_parquet_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    folder.mkdir()
    frame = trial(90)
    for k in range(3):
        frame.iloc[30 * k : 30 * (k + 1)].to_parquet(folder / f"part{k}.parquet")
    assert is_parquet(folder) and count_rows(folder) == 90
    assert pd.concat(read_batches(folder, 20))["patient"].tolist() == frame["patient"].tolist()


def test_files_that_cannot_be_read_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*x\.parquet"):
        next(read_batches(tmp_path / "x.parquet", 5))
    with pytest.raises(FileNotFoundError, match=r"no file .*x\.csv"):
        next(read_batches(tmp_path / "x.csv", 5))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"bad\.parquet cannot be read"):
        next(read_batches(tmp_path / "bad.parquet", 5))
    trial(5).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="no column 'nothing'"):
        next(read_batches(tmp_path / "t.csv", 5, columns=["nothing"]))
    trial(5).iloc[:0].to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match=r"empty\.parquet is empty"):
        next(read_batches(tmp_path / "empty.parquet", 5))
    trial(5).to_csv(tmp_path / "twice.csv", index=False, header=["a", "a", *"bcdef"[:5]])
    with pytest.raises(ValueError, match="stands twice"):
        next(read_batches(tmp_path / "twice.csv", 5))


def test_a_sample_keeps_the_shares_and_is_drawn_evenly(tmp_path: Path) -> None:
    n = 100_000
    arm = pd.Categorical(np.where(np.arange(n) % 10 == 0, "drug", "placebo"), categories=["placebo", "drug"])
    table = pd.DataFrame({"arm": arm, "row": np.arange(n), "y": 1.0})
    table.to_parquet(tmp_path / "t.parquet", row_group_size=7_000)
    frame, total = sample_rows(tmp_path / "t.parquet", 10_000, by="arm", columns=["row", "arm"], random_state=1)
    assert total == n and list(frame.columns) == ["row", "arm"]
    assert frame["arm"].value_counts().to_dict() == {"placebo": 9_000, "drug": 1_000}
    assert list(frame["arm"].cat.categories) == ["placebo", "drug"]
    assert frame["row"].is_unique and frame["row"].is_monotonic_increasing
    # every tenth of the table gives a tenth of the sample; sd 30 of a hypergeometric count
    tenths = np.bincount(frame["row"].to_numpy() // 10_000, minlength=10)
    assert np.abs(tenths - 1_000).max() < 150
    everyone, _ = sample_rows(tmp_path / "t.parquet", n, by="arm")
    pd.testing.assert_frame_equal(everyone, table)
    with pytest.raises(ValueError, match="Parquet"):
        sample_rows(tmp_path / "t.csv", 10, by="arm")


# ---- from table to table ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
@pytest.mark.parametrize("out", ["out.csv", "out.parquet"])
def test_a_streamed_table_is_the_table_at_once(source: str, out: str, tmp_path: Path) -> None:
    frame = trial()
    est = fitted(frame)
    if source.endswith("csv"):
        frame.to_csv(tmp_path / source, index=False)
    else:
        frame.to_parquet(tmp_path / source)
    seen: list[tuple[int, int | None]] = []
    n = stream.predict_table(
        est,
        tmp_path / source,
        tmp_path / out,
        id_column="patient",
        batch_rows=40,
        progress=lambda *now: seen.append(now),
    )
    assert n == len(frame) and seen[-1] == (300, None if source.endswith("csv") else 300) and len(seen) == 8
    found = read_table(tmp_path / out)
    expected = stream.unit_frame(est, frame).assign(reason="")
    if out.endswith("parquet"):
        assert found["patient"].tolist() == frame["patient"].tolist()
    for name in ("mean_drug", "upper_placebo", "cate", "cate_lower", "prob_positive", "supported"):
        np.testing.assert_allclose(found[name].astype(float), expected[name].astype(float), rtol=1e-5, atol=1e-6)
    assert list(found.columns) == ["patient", *expected.columns]


def test_rows_are_numbered_on_and_only_needed_columns_are_read(tmp_path: Path) -> None:
    frame = trial(100)
    est = fitted(frame)
    frame.assign(broken=[object.__name__] * 100).to_parquet(tmp_path / "in.parquet")
    stream.predict_table(est, tmp_path / "in.parquet", tmp_path / "out.parquet", batch_rows=30)
    assert read_table(tmp_path / "out.parquet")["row"].tolist() == list(range(100))
    assert stream._columns(est, tmp_path / "in.parquet", None) == ["age", "stage", "smokes", "site"]


def test_three_arms_and_a_binary_buffer(tmp_path: Path) -> None:
    data = make_three_arms(200, random_state=0)
    est = quick("TLearner").fit(data.X, data.y, treatment=data.treatment)
    data.X.to_csv(tmp_path / "in.csv", index=False)
    buffer = BytesIO()
    stream.predict_table(est, tmp_path / "in.csv", buffer, batch_rows=64)
    buffer.seek(0)
    found = pd.read_csv(buffer)
    assert len(found) == 200
    assert {f"cate_{arm}" for arm in est.arms_[1:]} <= set(found.columns)


def test_nothing_is_written_where_a_late_row_is_wrong(tmp_path: Path) -> None:
    frame = trial()
    est = fitted(frame)
    frame["age"] = frame["age"].astype(object)
    frame.loc[290, "age"] = "old"
    frame.to_csv(tmp_path / "in.csv", index=False)
    (tmp_path / "out.csv").write_text("the old one")
    with pytest.raises(TypeError, match="'age'"):
        stream.predict_table(est, tmp_path / "in.csv", tmp_path / "out.csv", batch_rows=50)
    assert (tmp_path / "out.csv").read_text() == "the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet"):
        stream.predict_table(est, tmp_path / "in.csv", tmp_path / "out.xlsx")


@pytest.mark.parametrize("wrong", ["0002", None])
def test_ids_must_tell_units_apart_before_anything_is_predicted(wrong: str | None, tmp_path: Path) -> None:
    frame = trial()
    est = fitted(frame)
    frame.loc[250, "patient"] = wrong
    frame.to_parquet(tmp_path / "in.parquet")
    with pytest.raises(ValueError, match="does not tell the units apart"):
        stream.predict_table(est, tmp_path / "in.parquet", tmp_path / "out.csv", id_column="patient", batch_rows=50)


def test_a_thing_to_know_is_said_once(tmp_path: Path) -> None:
    frame = trial()
    est = fitted(frame)
    frame["site"] = frame["site"].astype(str)
    frame.loc[::3, "site"] = "Basel"
    frame.to_csv(tmp_path / "in.csv", index=False)
    with pytest.warns(UserWarning) as told:
        stream.predict_table(est, tmp_path / "in.csv", tmp_path / "out.csv", batch_rows=50)
    assert len([one for one in told if "never seen in fit" in str(one.message)]) == 1


def test_batches_side_by_side_are_the_same_in_order(tmp_path: Path) -> None:
    frame = trial()
    est = fitted(frame)
    parts = [frame.iloc[k : k + 30] for k in range(0, 300, 30)]
    here = pd.concat(stream.predict_batches(est, parts))
    with joblib.parallel_config("threading", n_jobs=3):
        there = pd.concat(stream.predict_batches(est, parts))
    pd.testing.assert_frame_equal(there, here)
    assert there.index.equals(frame.index)


_MEMORY = """
import resource, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from conftest import quick
from effects import stream
rng = np.random.default_rng(0)
n, folder = int(sys.argv[1]), sys.argv[2]
X, a = rng.normal(size=(400, 6)).astype("float32"), rng.integers(2, size=400)
est = quick("GComputation", n_draws=48).fit(X, X[:, 0] + a + rng.normal(size=400), treatment=a)
writer = None
for start in range(0, n, 20_000):
    part = pa.table({f"x{k}": rng.normal(size=20_000).astype("float32") for k in range(6)})
    writer = writer or pq.ParquetWriter(f"{folder}/in.parquet", part.schema)
    writer.write_table(part)
writer.close()
stream.predict_table(est, f"{folder}/in.parquet", f"{folder}/out.parquet")
assert pq.ParquetFile(f"{folder}/out.parquet").metadata.num_rows == n
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(n: int) -> float:
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(effects.__file__).parents[1])])
        settings = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        call = [sys.executable, "-c", _MEMORY, str(n), str(tmp_path)]
        done = subprocess.run(call, capture_output=True, text=True, check=True, env=settings)
        return float(done.stdout.split()[-1])

    # the draws of 180,000 rows more would be 550 MB; what is collected for a row group of the output is some 30
    assert peak(200_000) < peak(20_000) + 100


# ---- fit -------------------------------------------------------------------------------------------------------------


def test_a_fit_from_parquet_is_the_fit_from_the_table(tmp_path: Path) -> None:
    frame = trial()
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=70)
    roles: dict[str, Any] = {"outcome": "bp", "treatment": "arm", "exclude": ["patient"]}
    est = stream.fit_parquet(quick("GComputation"), tmp_path / "t.parquet", **roles)
    X = frame.drop(columns=["bp", "arm", "patient"])
    expected = quick("GComputation").fit(X, frame["bp"], treatment=frame["arm"])
    assert est.schema_ == expected.schema_
    np.testing.assert_array_equal(est.predict(X), expected.predict(X))


def test_a_fit_on_a_sample_says_so(tmp_path: Path) -> None:
    data = make_heteroscedastic(4_000, random_state=0)
    data.to_frame().to_parquet(tmp_path / "t.parquet")
    roles: dict[str, Any] = {"outcome": data.y.name, "treatment": data.treatment.name}
    with pytest.warns(UserWarning, match="random sample of 1,000 of 4,000|4,000 rows.*sample of 1,000"):
        est = stream.fit_parquet(quick("GComputation"), tmp_path / "t.parquet", max_rows=1_000, **roles)
    assert len(est.rows_) == 1_000
    with pytest.raises(ValueError, match="no column 'dose'"):
        stream.fit_parquet(quick("GComputation"), tmp_path / "t.parquet", outcome="dose", treatment="arm")


# ---- sending ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(QUICK) - {"EconML"}))
def test_what_is_sent_predicts_the_same_and_does_not_grow(name: str) -> None:
    def sent(n: int) -> tuple[EffectEstimator, EffectEstimator, int]:
        data = make_heteroscedastic(n, random_state=0)
        est = quick(name).fit(data.X, data.y, treatment=data.treatment)
        slim = stream.for_prediction(est)
        return est, slim, len(pickle.dumps(slim))

    est, slim, size = sent(200)
    X = make_heteroscedastic(50, random_state=1).X
    pd.testing.assert_frame_equal(stream.unit_frame(slim, X), stream.unit_frame(est, X))
    assert size < len(pickle.dumps(est))
    assert len(est.rows_) == 200  # the original has kept what it had
    assert est.nuisance_.out_of_fold_ is not None


# ---- side by side ----------------------------------------------------------------------------------------------------


def test_calls_go_where_joblib_is_told() -> None:
    def where(_: int) -> int:
        return threading.get_ident()

    calls = [(k,) for k in range(20)]
    assert set(side_by_side(where, calls)) == {threading.get_ident()}
    with joblib.parallel_config("threading", n_jobs=3):
        assert threading.get_ident() not in set(side_by_side(where, calls))
        assert set(side_by_side(where, calls, n_jobs=1)) == {threading.get_ident()}


def test_calls_are_made_as_they_are_needed() -> None:
    made = 0

    def calls() -> Any:
        nonlocal made
        for k in range(100):
            made += 1
            yield (k,)

    found = side_by_side(pow, calls(), shared=(2,))
    assert [next(found), next(found)] == [1, 2]
    assert made < 10


def test_a_file_written_bit_by_bit_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    with whole(path) as file:
        file.write(b"one ")
        assert not path.exists()
        file.write(b"two")
    assert path.read_text() == "one two"
    with pytest.raises(RuntimeError), whole(path) as file:
        file.write(b"three")
        raise RuntimeError
    assert path.read_text() == "one two" and len(list(tmp_path.iterdir())) == 1
