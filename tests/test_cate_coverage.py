"""Intervals for single units hold the truth about as often as they say: by simulation of many confounded studies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed

import effects
from effects import metrics

SETTINGS: dict[str, dict[str, Any]] = {
    "DiffPO": {"n_networks": 8, "hidden": 32, "n_denoisers": 1, "epochs": 20},
    "TARNet": {"n_networks": 8, "hidden": 32, "epochs": 20},
    "CEVAE": {"n_networks": 8, "hidden": 32, "epochs": 20},
    "GANITE": {"n_networks": 8, "hidden": 32, "epochs": 15},
}
N_SETS, N, N_NEW = 60, 400, 60


def study(seed: int) -> dict[str, np.ndarray]:
    """A random study: smooth main effects, an effect of two of six covariates, confounding by three, noise that is
    independent between the arms."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N + N_NEW, 6))
    slope, bend, effect = rng.normal(size=6), rng.normal(size=6), rng.normal(size=2)
    e = 1 / (1 + np.exp(-(0.8 * X[:, 0] + 0.5 * X[:, 1] - 0.5 * X[:, 2])))
    a = (rng.uniform(size=len(X)) < e).astype(int)
    mu0 = X @ slope + np.sin(2 * X) @ bend
    cate = 1 + effect[0] * X[:, 0] + effect[1] * np.tanh(X[:, 3])
    both = np.column_stack([mu0, mu0 + cate]) + rng.normal(size=(len(X), 2))
    return {"X": X, "a": a, "y": both[np.arange(len(X)), a], "both": both, "cate": cate}


def covered(name: str, seed: int) -> dict[str, float]:
    """Share of new units whose 90% intervals hold what they are of."""
    data = study(seed)
    X, y, a = (data[key][:N] for key in ("X", "y", "a"))
    est = getattr(effects, name)(random_state=seed, **SETTINGS[name]).fit(X, y, treatment=a)
    outcomes = est.predict_outcomes(data["X"][N:])
    effect, cate, both = est.predict_effect(data["X"][N:]), data["cate"][N:], data["both"][N:]
    lower, upper = outcomes.interval(0.9)
    found = {f"Y({k})": metrics.coverage(both[:, k], lower[:, k], upper[:, k]) for k in range(2)}
    found["CATE"] = metrics.coverage(cate, *effect.interval(0.9))
    halves = data["X"][N:, 0] > 0
    by = effect.by(halves, level=0.9)
    means = np.array([cate[halves == group].mean() for group in by.index])
    found["by"] = metrics.coverage(means, by["lower"].to_numpy(), by["upper"].to_numpy())
    own = both[:, 1] - both[:, 0]
    found["independent"] = metrics.coverage(own, *effect.individual("independent").interval(0.9))
    found["bounds"] = metrics.coverage(own, *effect.individual("bounds").interval(0.9))
    return found


@pytest.fixture(scope="module", params=list(SETTINGS))
def coverages(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    found = Parallel(n_jobs=2)(delayed(covered)(request.param, seed) for seed in range(N_SETS))
    shares = {key: np.array([one[key] for one in found]) for key in found[0]}
    print(request.param, {key: round(float(share.mean()), 3) for key, share in shares.items()})
    return shares


@pytest.mark.slow
@pytest.mark.parametrize("what", ["CATE", "by", "Y(0)", "Y(1)", "independent"])
def test_intervals_cover_across_studies(coverages: dict[str, np.ndarray], what: str) -> None:
    """Units of one study are covered or missed together, so the bound is that of the studies' means."""
    share = coverages[what]
    error = share.std(ddof=1) / np.sqrt(N_SETS)
    assert 0.90 - 3 * error <= share.mean() <= 0.97


@pytest.mark.slow
def test_bounds_hold_the_individual_effect(coverages: dict[str, np.ndarray]) -> None:
    assert coverages["bounds"].mean() >= 0.95
