"""BART and BCF against what is known: stochtree's own predictions, simulated laws, and what a posterior must do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import ndtr
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression
from test_contract import rewrite

import effects.models.bart as bart
from effects import Nuisance, load

stochtree = pytest.importorskip("stochtree", reason="the extra bart is not installed")

Array = np.ndarray
CHEAP = Nuisance(LinearRegression(), DummyClassifier(strategy="prior"), n_folds=2)  # little of it enters the trees


def small(name: str, **options: Any) -> Any:
    return quick(name, **{"nuisance": CHEAP, **options})


def trial(n: int = 200, n_arms: int = 2, noise: float = 0.5, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Effects that grow with the first covariate, confounded by the second."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3))
    p = 1 / (1 + np.exp(-X[:, 1]))
    a = np.where(rng.random(n) < p, rng.integers(1, n_arms, n), 0)
    cate = np.column_stack([k * (1 + X[:, 0]) for k in range(1, n_arms)])
    effect = np.column_stack([np.zeros(n), cate])[np.arange(n), a]
    return X, X[:, 1] + effect + noise * rng.standard_normal(n), a, cate


# ---- the trees, against stochtree itself -----------------------------------------------------------------------------


def test_bart_trees_predict_what_stochtree_predicts() -> None:
    X, y, *_ = trial(150)
    model = stochtree.BARTModel()
    settings = {"keep_every": 5, "random_seed": 1}
    model.sample(X, y, num_gfr=5, num_mcmc=7, general_params=settings, mean_forest_params={"num_trees": 30})
    [forest] = bart._trees(model.forest_container_mean, float(model.y_std), np.full((7, 1), float(model.y_bar)))
    new = np.random.default_rng(1).standard_normal((40, 3))
    new[:5] = X[:5]  # on the thresholds themselves
    assert_allclose(forest(new), model.predict(new, terms="y_hat"), rtol=1e-10, atol=1e-10)
    assert all((tree["is_leaf"] == (tree["left"] == 0)).all() for tree in forest.trees)


@pytest.mark.parametrize("n_arms", [2, 4])
def test_bcf_trees_predict_what_stochtree_predicts(n_arms: int) -> None:
    X, y, a, _ = trial(150, n_arms)
    Z = (a[:, None] == np.arange(1, n_arms)).astype(float)
    e = np.random.default_rng(0).uniform(0.2, 0.8, (150, n_arms - 1))
    model = stochtree.BCFModel()
    model.sample(X, Z, y, e, num_gfr=5, num_mcmc=6, general_params={"random_seed": 1})
    both = np.column_stack([X, e])
    scale, level = float(model.y_std), np.full((6, 1), float(model.y_bar))
    [prognosis] = bart._trees(model.forest_container_mu, scale, level)
    effects = bart._trees(model.forest_container_tau, scale, model.tau_0_samples.reshape(n_arms - 1, 6).T)
    assert_allclose(prognosis(both), model.mu_hat_train, atol=1e-10)
    expected = model.tau_hat_train.reshape(150, 6, n_arms - 1)
    assert_allclose(np.stack([effect(both) for effect in effects], axis=2), expected, atol=1e-10)


# ---- the posterior, against simulated truth --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [("BART", {}, 0.5), ("BART", {"learner": "s"}, 0.6), ("BCF", {}, 0.5)],
    ids=["BART", "BART s", "BCF"],
)
def test_effects_and_noise_are_found(name: str, options: dict[str, Any], error: float) -> None:
    X, y, a, cate = trial(400)
    est = small(name, n_trees=40, n_mcmc=100, n_members=25, **options).fit(X, y, treatment=a)
    effect = est.predict_effect(X)
    assert np.sqrt(np.mean((effect.mean - cate[:, 0]) ** 2)) < error  # 1 for a constant effect
    lower, upper = effect.interval(0.9)
    assert ((lower <= cate[:, 0]) & (cate[:, 0] <= upper)).mean() > 0.6
    assert_allclose(est.noise_.mean(axis=0) * est.scale_.spread, 0.5, rtol=0.25)
    outcomes = est.predict_outcomes(X)
    below, above = outcomes.interval(0.9)
    rows = np.arange(400)
    assert 0.84 < ((below[rows, a] <= y) & (y <= above[rows, a])).mean() < 0.97
    assert outcomes.n_members == 25


def test_outcomes_are_normal_around_every_member() -> None:
    X, y, a, _ = trial(100)
    est = small("BART", n_draws=201).fit(X, y, treatment=a)
    outcomes = est.predict_outcomes(X[:5])
    centre, sd = outcomes.member_means(), est.noise_ * est.scale_.spread
    z = (outcomes.draws - centre[:, None]) / sd[:, None, None]
    expected = stats.norm.ppf((np.arange(201) + 0.5) / 201)
    assert_allclose(z, np.broadcast_to(expected[None, :, None, None], z.shape), atol=2e-3)


@pytest.mark.parametrize("name", ["BART", "BCF"])
def test_many_arms(name: str) -> None:
    X, y, a, cate = trial(300, n_arms=3)
    found = small(name).fit(X, y, treatment=a).predict(X)
    assert found.shape == (300, 2)
    assert np.sqrt(np.mean((found - cate) ** 2, axis=0)).max() < 0.8  # 1 and 2 for constant effects
    assert np.corrcoef(found[:, 1], cate[:, 1])[0, 1] > 0.9


@pytest.mark.parametrize("name", ["BART", "BCF"])
def test_a_binary_outcome_is_a_probit(name: str) -> None:
    rng = np.random.default_rng(0)
    X, a = rng.standard_normal((300, 2)), rng.integers(0, 2, 300)
    p = ndtr(0.8 * X[:, :1] + np.array([-0.5, 0.5]))
    est = small(name).fit(X, rng.random(300) < p[np.arange(300), a], treatment=a)
    assert np.abs(est.predict_outcomes(X).mean() - p).mean() < 0.1  # 0.29 for a half everywhere
    inputs = est._inputs(est.schema_.encode(X))
    assert_allclose(est._means(inputs), ndtr(est._locations(inputs)))


def test_counts_are_on_the_logarithm() -> None:
    rng = np.random.default_rng(0)
    X, a = rng.standard_normal((300, 2)), rng.integers(0, 2, 300)
    mean = np.exp(1 + 0.5 * X[:, :1] + np.array([0.0, 0.7]))
    est = small("BART").fit(X, rng.poisson(mean[np.arange(300), a]), treatment=a)
    assert np.median(np.abs(est.predict_outcomes(X).mean() / mean - 1)) < 0.25


@pytest.mark.parametrize("name", ["BART", "BCF"])
def test_another_unit_gives_the_same_model(name: str) -> None:
    X, y, a, _ = trial(120)
    one, other = (small(name).fit(X, 100 * v + b, treatment=a) for v, b in ((y / 100, 0.0), (y, 1000.0)))
    assert_allclose(other.predict(X), 100 * one.predict(X), rtol=1e-3, atol=1e-2)


# ---- weights, tiny arms, priors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["BART", "BCF"])
@pytest.mark.parametrize("kind", ["continuous", "binary"])
def test_heavy_rows_weigh_more(name: str, kind: str) -> None:
    """Two groups with the same covariates: the mean is near that of the heavy one, on both sides of the noise."""
    rng = np.random.default_rng(0)
    X, a, heavy = rng.standard_normal((300, 2)), np.arange(300) % 2, np.arange(300) % 3 == 0
    y = np.where(heavy, 1.0, 0.0) if kind == "binary" else heavy + 0.1 * rng.standard_normal(300)
    weight = np.where(heavy, 8.0, 1.0)
    est = small(name, outcome=kind).fit(X, y, treatment=a, sample_weight=weight)
    found = est.predict_outcomes(X)
    assert_allclose(found.mean().mean(), np.average(y, weights=weight), atol=0.08)  # 0.8; 0.33 without weights
    if kind == "continuous":  # the spread is that of the weighted population too: 0.41 and not 0.66
        variance = np.average((y - np.average(y, weights=weight)) ** 2, weights=weight)
        assert_allclose(est.noise_.mean() * est.scale_.spread, np.sqrt(variance), rtol=0.15)


def test_the_direction_of_stochtrees_weights_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.array([0.5, 1.5])
    monkeypatch.setattr(bart, "_larger_weighs_more", lambda: True)
    assert bart._as_variances(weight) is weight and bart._as_variances(np.ones(3)) is None
    monkeypatch.setattr(bart, "_larger_weighs_more", lambda: False)
    assert_allclose(bart._as_variances(weight), 1 / weight)  # type: ignore[arg-type]


def test_an_arm_of_two_rows_borrows_its_noise_from_the_prior() -> None:
    """Without a prior the variance of two rows has no mean, and draws are anywhere."""
    X, y, _, _ = trial(80)
    a = np.isin(np.arange(80), (3, 40)).astype(int)
    y[[3, 40]] = 2.0, 2.0  # alike: nothing is learnt of the noise from them
    outcomes = small("BART", n_mcmc=40, n_members=40).fit(X, y, treatment=a).predict_outcomes(X)
    assert_allclose(outcomes.mean()[:, 1], 2.0, atol=0.2)
    assert (outcomes.std()[:, 1] > 0.1).all() and (outcomes.std()[:, 1] < 3 * y.std()).all()
    assert outcomes.member_means()[:, 0, 1].std() > 0.05


def test_an_arm_without_events_has_a_jeffreys_posterior() -> None:
    X, _, _, _ = trial(60)
    a = np.arange(60) % 2
    events = (a == 0) & (X[:, 0] > 0)
    est = small("BART", n_members=40).fit(X, events, treatment=a)
    treated = est.predict_outcomes(X).draws[:, 0, 0, 1]
    quantiles = stats.beta.ppf((np.arange(40) + 0.5) / 40, 0.5, 30.5)
    assert_allclose(np.sort(treated), quantiles, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["BART", "BCF"])
def test_a_constant_outcome_is_a_constant(name: str) -> None:
    X, _, a, _ = trial(60)
    outcomes = small(name).fit(X, np.full(60, 3.0), treatment=a).predict_outcomes(X)
    assert_allclose(outcomes.draws, 3.0)


def test_bcf_reads_the_propensity() -> None:
    """The prognosis depends on the propensity alone: the propensities of new rows enter the prediction."""
    X, y, a, _ = trial(200)
    share = np.random.default_rng(1).uniform(0.1, 0.9, 200)
    y = 8 * share + 0.1 * np.random.default_rng(2).standard_normal(200)
    est = small("BCF", nuisance=CHEAP).fit(X, y, treatment=a, propensity=share)
    inputs = est._inputs(est.schema_.encode(X))
    inputs[:, -1] = share
    assert np.corrcoef(est._means(inputs).mean(axis=0)[:, 0], 8 * share)[0, 1] > 0.95


# ---- parameters, files, the missing extra ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learner": "x"}, r"learner must be one of \('t', 's'\), got 'x'"),
        ({"n_trees": 0}, "n_trees must be a whole number of at least 1, got 0"),
        ({"n_gfr": -1}, "n_gfr must be a whole number of at least 0, got -1"),
        ({"n_members": 2.5}, "n_members must be a whole number"),
        ({"n_members": 50}, "n_members=50 draws cannot be taken from n_mcmc=40"),
    ],
)
def test_bad_parameters_are_named(options: dict[str, Any], message: str) -> None:
    X, y, a, _ = trial(60)
    with pytest.raises(ValueError, match=message):
        small("BART", **options).fit(X, y, treatment=a)


@pytest.mark.parametrize("name", ["BART", "BCF"])
def test_without_stochtree_the_error_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, a, _ = trial(60)
    monkeypatch.setitem(sys.modules, "stochtree", None)
    with pytest.raises(ImportError, match=rf"{name} needs stochtree: pip install \"potential-outcomes\[bart\]\""):
        small(name).fit(X, y, treatment=a)


@pytest.mark.parametrize("name", ["BART", "BCF"])
def test_a_saved_model_needs_no_stochtree(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, a, _ = trial(80)
    est = quick(name).fit(X, y, treatment=a)
    path = est.save(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "stochtree", None)
    assert_array_equal(load(path).predict_outcomes(X).draws, est.predict_outcomes(X).draws)


def node(field: str, value: int) -> Callable[[dict[str, Any], dict[str, Array]], None]:
    def change(_: dict[str, Any], arrays: dict[str, Array]) -> None:
        inner = int(np.flatnonzero(arrays["nodes.is_leaf"] == 0)[0])
        arrays[f"nodes.{field}"][inner] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        node("left", 0),
        node("right", 10**6),
        node("feature_idx", 3),
        lambda _, arrays: arrays["baseline"].fill(np.nan),
        lambda _, arrays: arrays["noise"].fill(-1.0),
        lambda _, arrays: arrays.update(noise=arrays["noise"][:-1]),
        lambda header, _: header["state"]["forests"]["models"].pop(),
        lambda header, _: header["params"].update(learner="s"),
    ],
    ids=[
        "circle",
        "beyond",
        "no column",
        "no level",
        "negative noise",
        "a draw less",
        "an arm less",
        "another learner",
    ],
)
def test_trees_that_are_none_are_refused(change: Any, tmp_path: Path) -> None:
    X, y, a, _ = trial(60)
    path = rewrite(quick("BART").fit(X, y, treatment=a).save(tmp_path / "model"), change)
    with pytest.raises(ValueError, match="damaged"):
        load(path)


def test_the_history_is_the_noises_trace() -> None:
    X, y, a, _ = trial(80)
    est = small("BART").fit(X, y, treatment=a)
    trace = [entry["noise_sd"] for entry in est.history_]
    assert_allclose(np.reshape(trace, (2, 10)).T, est.noise_)
    assert [entry["stage"] for entry in est.history_[::10]] == ["arm 0", "arm 1"]
