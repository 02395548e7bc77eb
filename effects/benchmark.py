"""Accuracy, calibration, speed and memory on data with a known truth: ``python -m effects.benchmark SUITE``.

Each suite fits on 90% of a data set (on 2,000 simulated rows) and scores the rest; one tidy row a data set.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from effects import datasets, metrics
from effects.datasets import CausalDataset
from effects.models import all_estimators
from effects.models.diffusion import DiffPO
from effects.nn.means import MeansConfig, fit_means
from effects.nn.training import Settings

SIMULATORS = ("heteroscedastic", "skewed", "bimodal", "zero_inflated", "binary", "three_arms", "weak_overlap")
_LEVELS = (np.arange(200) + 0.5) / 200


def ihdp(replications: Iterable[int]) -> Iterable[tuple[str, CausalDataset, CausalDataset]]:
    """IHDP NPCI, setting A: 90/10 split with ``random_state=replication``."""
    for r in replications:
        yield (f"ihdp {r}", *datasets.load_ihdp_npci(replication=r).split(random_state=r))


def acic2016(instances: Iterable[int]) -> Iterable[tuple[str, CausalDataset, CausalDataset]]:
    """The ten ACIC 2016 instances of causallib: 90/10 split with ``random_state=instance``."""
    for k in instances:
        yield (f"acic2016 {k}", *datasets.load_acic2016(instance=k).split(random_state=k))


def distributions(seeds: Iterable[int]) -> Iterable[tuple[str, CausalDataset, CausalDataset]]:
    """Simulators with known laws: 2,000 rows to fit, 500 to score."""
    for name in SIMULATORS:
        for seed in seeds:
            data = getattr(datasets, f"make_{name}")(2500, random_state=seed)
            yield f"{name} {seed}", data.take(np.arange(2000)), data.take(np.arange(2000, 2500))


SUITES: dict[str, Callable[[Iterable[int]], Iterable[tuple[str, CausalDataset, CausalDataset]]]] = {
    "ihdp": ihdp,
    "acic2016": acic2016,
    "distributions": distributions,
}


def evaluate(
    make: Callable[[], Any], train: CausalDataset, test: CausalDataset, level: float = 0.9, peers: Iterable[str] = ()
) -> dict[str, Any]:
    """Fit on `train`, score on `test` whatever its truth allows.

    Returns
    -------
    dict
        ``sqrt_pehe``, coverage and mean width of CATE intervals with their interval score, coverage of the outcome
        intervals per arm, mean Wasserstein-1 distance to the true laws, seconds. Only what is defined.
    """
    start = time.perf_counter()
    est = make().fit(train.X, train.y, treatment=train.treatment)
    fitted = time.perf_counter()
    outcomes = est.predict_outcomes(test.X)
    done = time.perf_counter()
    row: dict[str, Any] = {"fit_seconds": fitted - start, "predict_seconds": done - fitted}
    if test.cate is not None and outcomes.n_arms == 2:
        cate, effect = np.asarray(test.cate, dtype=float).reshape(len(test.X)), outcomes.effect()
        lower, upper = effect.interval(level)
        row["sqrt_pehe"] = metrics.pehe(cate, effect.mean)
        row["cate_coverage"] = metrics.coverage(cate, lower, upper)
        row["cate_width"] = float(np.mean(upper - lower))
        row["cate_interval_score"] = float(np.mean(metrics.interval_score(cate, lower, upper, level)))
    if test.y0 is not None and test.y1 is not None and outcomes.kind != "binary":
        lower, upper = outcomes.interval(level)
        for k, y in enumerate((test.y0, test.y1)):
            row[f"outcome_coverage_{k}"] = metrics.coverage(y, lower[:, k], upper[:, k])
    if test.truth is not None:
        for name in peers:
            found = PEERS[name](est, train, test.X, _LEVELS)
            row[f"wasserstein_{name}"] = float(np.abs(test.truth.quantile(_LEVELS) - found).mean())
        truth, predicted = test.truth.quantile(_LEVELS), outcomes.quantile(_LEVELS)
        if outcomes.kind == "binary":  # W1 between Bernoulli laws is the distance of their probabilities
            row["wasserstein"] = float(np.abs(outcomes.mean() - test.truth.mean()).mean())
        else:
            row["wasserstein"] = float(np.abs(truth - predicted).mean())
    return row


def gaussian_ensemble(est: DiffPO, train: CausalDataset, X: pd.DataFrame, levels: np.ndarray) -> np.ndarray:
    """Quantiles (n_levels, n, n_arms) of a deep ensemble of normal laws (Lakshminarayanan et al. 2017).

    Sixteen two-headed networks, trained as `DiffPO` trains its own but on the covariates alone; their mixture by its
    two moments. `est` lends its schema.
    """
    schema = est.schema_
    y = schema.encode_outcome(train.y)
    centre, spread = y.mean(), y.std()
    E, a = torch.from_numpy(schema.encode(train.X)), torch.from_numpy(schema.encode_treatment(train.treatment))
    target = torch.from_numpy(((y - centre) / spread).astype(np.float32))
    blank = torch.zeros(len(E), 1)  # in place of nuisances
    means, _ = fit_means(
        torch.cat([E, blank], 1),
        blank,
        a,
        target,
        torch.ones(len(E)),
        schema.n_arms,
        False,
        MeansConfig(16),
        Settings(80, 128, 13),
    )
    with torch.no_grad():
        new = torch.from_numpy(schema.encode(X))
        mean, log_sd = means.network(torch.cat([new, new[:, :1] * 0], 1)).double().unbind(-1)
    mixture = mean.mean(0), (log_sd.clamp(-5, 3).mul(2).exp().mean(0) + mean.var(0, unbiased=False)).sqrt()
    location, scale = (part.numpy() * spread for part in mixture)
    return centre + location + scale * stats.norm.ppf(levels)[:, None, None]


def ngboost_per_arm(est: DiffPO, train: CausalDataset, X: pd.DataFrame, levels: np.ndarray) -> np.ndarray:
    """Quantiles (n_levels, n, n_arms) of NGBoost's normal laws, one model an arm, with its defaults."""
    from ngboost import NGBRegressor

    schema = est.schema_
    E, new = schema.encode(train.X).astype(float), schema.encode(X).astype(float)
    a, y = schema.encode_treatment(train.treatment), schema.encode_outcome(train.y)
    laws = [
        NGBRegressor(verbose=False, random_state=0).fit(E[a == k], y[a == k]).pred_dist(new)
        for k in range(schema.n_arms)
    ]
    return np.stack([stats.norm.ppf(levels)[:, None] * law.params["scale"] + law.params["loc"] for law in laws], -1)


PEERS = {"gaussian_ensemble": gaussian_ensemble, "ngboost_per_arm": ngboost_per_arm}


def run(
    suite: str, numbers: Iterable[int], estimators: Sequence[str] = ("DiffPO",), peers: Iterable[str] = ()
) -> pd.DataFrame:
    """All data sets of a suite under every estimator, one row each, in the order they were run.

    `estimators` are names of `effects.all_estimators`, fitted with their defaults and ``random_state=0``; one that
    refuses a data set (too many arms) has no row of it. `peers` are fitted beside `DiffPO` on outcomes that are not
    binary, where the true laws are known (names in `PEERS`).
    """
    peers, classes = tuple(peers), all_estimators()["class"]
    rows: list[dict[str, Any]] = []
    for name, train, test in SUITES[suite](numbers):
        for estimator in estimators:
            beside = peers if train.kind != "binary" and estimator == "DiffPO" else ()
            make = partial(classes[estimator], random_state=0)
            try:
                row = evaluate(make, train, test, peers=beside)
            except ValueError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            rows.append({"data": name, "estimator": estimator, **row})
            shown = pd.DataFrame(rows[-1:]).round(3)
            print(shown.to_string(index=False, header=len(rows) == 1), file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and median of every figure, an estimator a row; of simulators one mean each."""
    table = table.assign(group=table["data"].str.rsplit(n=1).str[0])
    figures = table.drop(columns="data").groupby(["group", "estimator"], sort=False)
    parts = [figures.mean().assign(statistic="mean"), figures.median().assign(statistic="median")]
    return pd.concat(parts).reset_index().rename(columns={"group": "data"})


def memory(n_rows: int = 1_000_000, n_columns: int = 20) -> pd.DataFrame:
    """Peak memory beyond the table, and rows per second, of `predict` and `score` on a large table."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, n_columns)).astype(np.float32)
    a = rng.integers(2, size=n_rows)
    y = X[:, 0] + a * (1 + X[:, 1]) + rng.normal(size=n_rows)
    est = DiffPO(random_state=0).fit(X[:2000], y[:2000], treatment=a[:2000])
    rows = []
    for name in ("predict", "score"):
        before, start = _peak_gigabytes(), time.perf_counter()
        est.predict(X) if name == "predict" else est.score(X, y, treatment=a)
        seconds = time.perf_counter() - start
        rows.append({"call": name, "rows_per_second": n_rows / seconds, "peak_growth_gb": _peak_gigabytes() - before})
    return pd.DataFrame(rows)


def _peak_gigabytes() -> float:
    """Peak resident size of the process; kilobytes on Linux, bytes on macOS."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def main() -> None:
    """Command line: ``python -m effects.benchmark ihdp --from 1 --to 10``."""
    parser = argparse.ArgumentParser(prog="python -m effects.benchmark", description=__doc__)
    parser.add_argument("suite", choices=[*SUITES, "memory"])
    parser.add_argument(
        "--from", dest="first", type=int, help="first replication, instance or seed (default 1; seeds 0)"
    )
    parser.add_argument("--to", dest="last", type=int, help="last one (default 10; seeds 2)")
    parser.add_argument("--peers", nargs="*", default=[], choices=list(PEERS), help="also fit these, for known laws")
    parser.add_argument(
        "--estimators", nargs="*", default=["DiffPO"], metavar="NAME", help="names of all_estimators(), or all"
    )
    parser.add_argument("--out", help="also write the table as CSV")
    options = parser.parse_args()
    if options.suite == "memory":
        table = memory()
        print(table.round(3).to_string(index=False))
    else:
        seeds = options.suite == "distributions"
        first = options.first if options.first is not None else (0 if seeds else 1)
        last = options.last if options.last is not None else (2 if seeds else 10)
        known = list(all_estimators().index)
        chosen = known if options.estimators == ["all"] else options.estimators
        if unknown := set(chosen) - set(known):
            parser.error(f"--estimators: {', '.join(sorted(unknown))} not known; there are {', '.join(known)}")
        table = run(options.suite, range(first, last + 1), chosen, options.peers)
        print(summary(table).round(3).to_string(index=False))
    if options.out:
        from effects.files import write_whole

        write_whole(options.out, table.to_csv(index=False))


if __name__ == "__main__":
    main()
