"""A real cluster of two processes, one of which is killed at work: what comes out is complete and as it is here."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from conftest import quick, small

pytest.importorskip("distributed", reason="the extra `cluster`")

import dask
import dask.dataframe as dd
from distributed import Client, LocalCluster

import effects
from effects import EffectEstimator, TLearner, cluster, stream
from effects.datasets import make_heteroscedastic, make_three_arms
from effects.nuisance import Nuisance
from effects.parallel import side_by_side

N = 600


@pytest.fixture(scope="module")
def data() -> Any:
    return make_heteroscedastic(N, random_state=0)


@pytest.fixture(scope="module")
def est(data: Any) -> EffectEstimator:
    return small().fit(data.X, data.y, treatment=data.treatment)


@pytest.fixture(scope="module")
def workers() -> Iterator[Client]:
    settings = {"distributed.worker.daemon": True, "distributed.comm.timeouts.connect": "10s"}
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as local,
        Client(local, set_as_default=False) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        yield client


def address(client: Client) -> str:
    return str(client.scheduler_info()["address"])


def kill_one(client: Client, seconds: float) -> threading.Thread:
    """Kill a worker's process once the workers have been busy for so long."""

    def kill() -> None:
        while not any(client.processing().values()):
            time.sleep(0.01)
        time.sleep(seconds)
        busy = [address for address, tasks in client.processing().items() if tasks]
        os.kill(client.run(os.getpid, workers=busy[:1])[busy[0]], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_calls_of_a_killed_worker_are_done_again(workers: Client) -> None:
    """Large arguments too: joblib's own way leaves them with one worker, and they die with it."""

    def slow_square(base: np.ndarray, x: np.ndarray) -> tuple[int, float]:
        time.sleep(0.2)
        return os.getpid(), float(base.sum() + (x**2).sum())

    base, calls = np.ones(10_000), [(np.full(10_000, float(k)),) for k in range(12)]
    with cluster.connect(address(workers)):
        killer = kill_one(workers, 0.4)
        found = list(side_by_side(slow_square, calls, shared=(base,)))
        killer.join()
    assert [value for _, value in found] == [10_000.0 * (1 + k**2) for k in range(12)]
    pids = {pid for pid, _ in found}
    assert os.getpid() not in pids
    assert len(pids) >= 2


@pytest.mark.slow
def test_partitions_of_a_killed_worker_are_predicted_again(workers: Client, est: EffectEstimator, data: Any) -> None:
    lazy = cluster.predict_effect_summary(est, dd.from_pandas(data.X, npartitions=12))
    killer = kill_one(workers, 0.2)
    with workers.as_current():
        found = lazy.compute(scheduler=workers)
    killer.join()
    expected = est.predict_effect(data.X).to_frame()
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_cross_fitting_on_the_cluster_is_that_of_this_process(workers: Client, data: Any) -> None:
    E, y = data.X.to_numpy(dtype=np.float32), data.y.to_numpy(dtype=float)
    rows: dict[str, Any] = {"E": E, "y": y, "a": data.treatment.cat.codes.to_numpy(dtype=np.int64), "n_arms": 2}
    here = Nuisance(n_folds=3, random_state=0).fit(**rows)
    with joblib.parallel_config("dask", client=workers):  # as joblib's own users would
        there = Nuisance(n_folds=3, random_state=0).fit(**rows)
    np.testing.assert_array_equal(there.out_of_fold_.mu, here.out_of_fold_.mu)
    np.testing.assert_array_equal(there.out_of_fold_.propensity, here.out_of_fold_.propensity)


@pytest.mark.slow
def test_an_estimator_and_its_average_on_the_cluster(workers: Client, data: Any) -> None:
    """Bootstrap members and folds are fitted there, networks and predictions here; nothing differs."""
    rows: dict[str, Any] = {"X": data.X, "y": data.y, "treatment": data.treatment}

    def estimate() -> tuple[float, float]:
        est = TLearner(n_members=2, nuisance=Nuisance(n_folds=2), random_state=0).fit(**rows)
        found = effects.estimate_ate(est, **rows)
        return found.value, found.se

    here = estimate()
    with cluster.connect(address(workers)):
        assert estimate() == here


@pytest.mark.slow
def test_tables_are_predicted_on_the_cluster(workers: Client, est: EffectEstimator, data: Any, tmp_path: Path) -> None:
    data.X.to_parquet(tmp_path / "in.parquet")
    stream.predict_table(est, tmp_path / "in.parquet", tmp_path / "here.parquet", batch_rows=50)
    with cluster.connect(address(workers)):
        killer = kill_one(workers, 0.2)
        stream.predict_table(est, tmp_path / "in.parquet", tmp_path / "there.parquet", batch_rows=50)
        killer.join()
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "there.parquet"), pd.read_parquet(tmp_path / "here.parquet")
    )


# ---- lazily, without a cluster ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("summary", [cluster.predict_outcomes_summary, cluster.predict_effect_summary])
def test_meta_is_what_comes_out(summary: Callable[..., Any], est: EffectEstimator, data: Any) -> None:
    X = data.X.head(40).set_axis([f"p{k:03d}" for k in range(40)], axis="index")
    lazy = summary(est, dd.from_pandas(X, npartitions=3), level=0.8)
    found = lazy.compute(scheduler="sync")
    assert list(lazy.columns) == list(found.columns)
    assert lazy.dtypes.equals(found.dtypes)
    assert found.index.tolist() == X.index.tolist()  # Dask keeps text as Arrow's
    X = X.set_axis(found.index, axis="index")
    local = est.predict_outcomes(X)
    expected = local.effect().to_frame(0.8) if "cate" in found else local.to_frame(0.8)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-5)


def test_empty_partitions_and_other_columns(est: EffectEstimator, data: Any) -> None:
    X = data.X.head(30).assign(name="x")
    lazy = dd.from_pandas(X, npartitions=3)
    lazy = lazy[lazy[X.columns[0]] > X[X.columns[0]].iloc[:20].max()]  # leaves some partitions without rows
    found = cluster.predict_effect_summary(est, lazy, unsupported="flag").compute(scheduler="sync")
    kept = X[X[X.columns[0]] > X[X.columns[0]].iloc[:20].max()]
    assert found.index.equals(kept.index)
    assert found["supported"].dtype == bool


def test_arms_are_chosen_as_in_an_estimator() -> None:
    data = make_three_arms(200, random_state=0)
    est = quick("GComputation").fit(data.X, data.y, treatment=data.treatment)
    control, low, high = est.arms_
    lazy = dd.from_pandas(data.X.head(20), npartitions=2)
    found = cluster.predict_effect_summary(est, lazy, treated=high, control=low).compute(scheduler="sync")
    expected = est.predict_effect(data.X.head(20), treated=high, control=low)
    np.testing.assert_allclose(found["cate"], expected.mean, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="treated"):
        cluster.predict_effect_summary(est, lazy)
    assert control not in (low, high)


def test_errors_come_before_any_work(est: EffectEstimator, data: Any) -> None:
    lazy = dd.from_pandas(data.X.head(20), npartitions=2)
    with pytest.raises(ValueError, match=str(data.X.columns[0])):
        cluster.predict_outcomes_summary(est, lazy.drop(columns=data.X.columns[0]))
    with pytest.raises(ValueError, match="level"):
        cluster.predict_outcomes_summary(est, lazy, level=90)
    with pytest.raises(ValueError, match="unsupported"):
        cluster.predict_effect_summary(est, lazy, unsupported="drop")
    with pytest.raises(TypeError, match="Dask DataFrame"):
        cluster.predict_effect_summary(est, data.X)
    with pytest.raises(Exception, match="not fitted"):
        cluster.predict_effect_summary(small(), lazy)


def test_no_address_changes_nothing_and_a_wrong_one_is_told() -> None:
    with cluster.connect(None) as client:
        assert client is None
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}),
        pytest.raises(OSError, match="no Dask scheduler"),
        cluster.connect("tcp://127.0.0.1:9"),
    ):
        pass
    start = time.monotonic()
    with pytest.raises(OSError, match=r"answers at 'scheduler'.*port"), cluster.connect("scheduler"):
        pass
    gc.collect()
    assert time.monotonic() - start < 10  # a client that was not made does not hold up the end
