"""Intervals of the CATE hold the truth about as often as they say: by simulation of many confounded studies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed

import effects
from effects import metrics

SETTINGS: dict[str, dict[str, Any]] = {
    "DiffPO": {"n_networks": 8, "hidden": 32, "n_denoisers": 2, "epochs": 40},
    "TARNet": {"n_networks": 8, "hidden": 32, "epochs": 40},
    "CEVAE": {"n_networks": 8, "hidden": 32, "epochs": 40},
    "GANITE": {"n_networks": 8, "hidden": 32, "epochs": 30},
}
N_SETS, N = 200, 400


def study(seed: int, n: int = N) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A random study: smooth main effects, a treatment effect of two of six covariates, confounding by three."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + 100, 6))
    slope, bend, effect = rng.normal(size=6), rng.normal(size=6), rng.normal(size=2)
    e = 1 / (1 + np.exp(-(0.8 * X[:, 0] + 0.5 * X[:, 1] - 0.5 * X[:, 2])))
    a = (rng.uniform(size=len(X)) < e).astype(int)
    mu0 = X @ slope + np.sin(2 * X) @ bend
    mu1 = mu0 + 1 + effect[0] * X[:, 0] + effect[1] * np.tanh(X[:, 3])
    y = np.where(a == 1, mu1, mu0) + rng.normal(size=len(X))
    return X, y, a, mu1 - mu0


def covered(name: str, seed: int) -> tuple[float, float]:
    X, y, a, cate = study(seed)
    est = getattr(effects, name)(random_state=seed, **SETTINGS[name]).fit(X[:N], y[:N], treatment=a[:N])
    effect, truth = est.predict_effect(X[N:]), cate[N:]
    above = float(np.mean(effect.prob_above(1.0)[truth <= 1.0])) if (truth <= 1.0).any() else 0.0
    return metrics.coverage(truth, *effect.interval(0.9)), above


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SETTINGS))
def test_cate_intervals_cover_across_studies(name: str) -> None:
    """Mean over 200 studies of the share of units covered. Units of one study are covered or missed together, so the
    bound is that of the studies' means."""
    found = np.array(Parallel(n_jobs=2)(delayed(covered)(name, seed) for seed in range(N_SETS)))
    coverage, error = found[:, 0].mean(), found[:, 0].std(ddof=1) / np.sqrt(N_SETS)
    print(f"{name}: {coverage:.3f} ({error:.3f}) of nominal 0.9")
    assert 0.90 - 3 * error <= coverage <= 0.97
    assert found[:, 1].mean() < 0.4  # effects at most 1 are not called larger than 1
