"""The stack: its weights are the minimisers they claim to be, and it is no worse than what it is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUICK, quick
from numpy.testing import assert_allclose, assert_array_equal

import effects
from effects import CausalStack, DiffPO, Nuisance, Report
from effects.calibration import simplex_weights
from effects.datasets import make_heteroscedastic, make_skewed
from effects.models import combination, library
from effects.models.combination import Logs, Weights, allocation
from effects.nuisance import NuisanceValues


def small(**options: Any) -> CausalStack:
    est = quick("CausalStack", **options)
    assert isinstance(est, CausalStack)
    return est


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_convex_weights_are_found(rng: np.random.Generator) -> None:
    z = rng.normal(size=(20_000, 3))
    assert_allclose(simplex_weights(z, z @ [0.2, 0.5, 0.3], np.ones(20_000)), [0.2, 0.5, 0.3], atol=2e-3)


def test_weights_never_leave_the_simplex(rng: np.random.Generator) -> None:
    """Least squares would take 2 and -1."""
    z = rng.normal(size=(5000, 2))
    w = simplex_weights(z, z @ [2.0, -1.0], np.ones(5000))
    assert_allclose(w, [1.0, 0.0], atol=1e-6)


def test_few_rows_leave_equal_weights(rng: np.random.Generator) -> None:
    z = rng.normal(size=(3, 2))
    few = simplex_weights(z, z[:, 0] + rng.normal(size=3), np.ones(3))
    assert np.abs(few - 0.5).max() < 0.25


def test_a_row_of_weight_two_is_two_rows(rng: np.random.Generator) -> None:
    z, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    weight = rng.integers(1, 4, 50)
    twice = np.repeat(np.arange(50), weight)
    repeated = simplex_weights(z[twice], y[twice], np.ones(len(twice)))
    assert_allclose(simplex_weights(z, y, weight.astype(float)), repeated, atol=1e-6)


def test_the_law_that_is_true_gets_the_weight(rng: np.random.Generator) -> None:
    """Outcomes from the first law; the second is as sharp but elsewhere, the third too wide."""
    data = training(rng, 1500)
    levels = (np.arange(40) + 0.5) / 40
    from scipy.stats import norm

    nodes = norm.ppf(levels)[:, None, None] * np.ones((1, 1500, 2))
    laws = {"true": nodes, "moved": nodes + 1.5, "wide": 4 * nodes}
    laws = {name: law.astype(np.float32) for name, law in laws.items()}
    w = combination.law_weights(data, laws, ("true", "moved", "wide", "no law"))
    assert w[0] > 0.93 and w[3] == 0
    assert_allclose(w.sum(), 1.0)


def test_the_mixture_of_laws_minimises_the_crps(rng: np.random.Generator) -> None:
    """Against a grid of weights, with the CRPS of the pooled draws."""
    from effects.metrics import crps

    data = training(rng, 300)
    rows = np.arange(300)
    draws = [rng.normal(shift, 0.7, size=(32, 300, 2)).astype(np.float32) for shift in (-0.8, 0.9)]
    w = combination.law_weights(data, {"a": draws[0], "b": draws[1]}, ("a", "b"))

    def score(share: float) -> float:
        n = round(20 * share)
        pooled = np.concatenate([*[draws[0]] * n, *[draws[1]] * (20 - n)])
        return float(crps(pooled[:, rows, data.a], data.y).mean())

    grid = np.arange(0, 1.01, 0.05)
    best = grid[np.argmin([score(share) for share in grid])]
    assert abs(w[0] - best) < 0.08


def training(rng: np.random.Generator, n: int) -> Any:
    from effects.rows import TrainingData
    from effects.schema import Schema

    X = rng.normal(size=(n, 2))
    a, y = rng.permutation(np.arange(n) % 2), rng.normal(size=n)
    schema = Schema.learn(X, y, a)
    return TrainingData(schema.encode(X), a, y, np.ones(n), Nuisance(), schema, 0)


def test_places_are_shared_by_largest_remainders() -> None:
    counts = np.bincount(allocation(np.array([0.5, 0.0, 0.3, 0.2]), 32), minlength=4)
    assert_array_equal(counts, [16, 0, 10, 6])
    assert len(allocation(np.array([1.0]), 7)) == 7


def test_effects_move_the_arms_and_leave_their_average() -> None:
    """mu_1 - mu_0 is the stacked effect; e_0 mu_0 + e_1 mu_1 stays."""
    rng = np.random.default_rng(1)
    means, e = rng.normal(size=(2, 50, 2)), rng.uniform(0.1, 0.9, 50)
    values = NuisanceValues(means[0], means[0], np.column_stack([1 - e, e]), rng.normal(size=(50, 2, 1)))
    weights = Weights(("a", "b"), np.array([[0.25, 1.0], [0.75, 0.0]]), np.array([[0.5], [0.3], [0.2]]), np.ones(2) / 2)
    mu, _, effect = weights.combine(means, values)
    plain = np.column_stack([0.25 * means[0, :, 0] + 0.75 * means[1, :, 0], means[0, :, 1]])
    assert values.contrast is not None
    wanted = 0.5 * (plain[:, 1] - plain[:, 0]) + values.contrast[:, :, 0] @ [0.3, 0.2]
    assert_allclose(mu[:, 1] - mu[:, 0], wanted)
    assert_allclose(effect[:, 0], wanted)
    assert_allclose((values.propensity * mu).sum(1), (values.propensity * plain).sum(1))


def test_logarithms_are_moved_to_their_mean(rng: np.random.Generator) -> None:
    draws = rng.lognormal(size=(2, 30, 5, 2)).astype(np.float32)
    logs = Logs(offset=0.5)
    moved = logs.shift(draws, np.full((5, 2), 0.3))
    assert_allclose(logs.mean(moved), 0.3, atol=1e-5)
    assert_array_equal(moved.argsort(axis=1), draws.argsort(axis=1))


# ---- the library -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(library.LIBRARY))
def test_the_library_predicts_rows_from_folds_that_had_not_seen_them(name: str) -> None:
    """A covariate of noise must not explain noise."""
    rng = np.random.default_rng(2)
    E, a, y = rng.normal(size=(200, 3)).astype(np.float32), rng.permutation(np.arange(200) % 2), rng.normal(size=200)
    _, means = library.LIBRARY[name].fit(E, a, y, np.ones(200), 2, "continuous", 0)
    own = means[np.arange(200), a]
    assert np.corrcoef(own, y)[0, 1] < 0.15


def surface(E: Any) -> tuple[Any, Any]:
    """A step, a product, a square; the effect is a product."""
    control = 2.0 * (E[:, 0] > 0.2) + 1.5 * E[:, 1] * E[:, 2] + E[:, 3] ** 2
    return control, control + 1 + E[:, 0] * E[:, 1]


def test_products_and_steps_are_found() -> None:
    rng = np.random.default_rng(3)
    E = rng.normal(size=(2400, 6)).astype(np.float32)
    a = rng.permutation(np.arange(2400) % 2)
    mu = np.column_stack(surface(E))
    y = mu[np.arange(2400), a] + 0.5 * rng.normal(size=2400)
    new = rng.normal(size=(400, 6)).astype(np.float32)
    truth = np.column_stack(surface(new))
    errors = {}
    for name, regression in library.LIBRARY.items():
        found = regression.fit(E, a, y, np.ones(2400), 2, "continuous", 0)[0].predict(new).mean(axis=0)
        errors[name] = float(np.sqrt(np.mean((found[:, 1] - found[:, 0] - (truth[:, 1] - truth[:, 0])) ** 2)))
    assert errors["sparse additive model"] < 0.45 * errors["penalised linear model"]
    assert errors["sparse additive model of all arms"] < 0.45 * errors["penalised linear model"]


def test_arms_that_are_alike_are_learned_together() -> None:
    rng = np.random.default_rng(6)
    E = rng.normal(size=(300, 6)).astype(np.float32)
    a = rng.permutation(np.arange(300) % 2)
    y = surface(E)[0] + a + rng.normal(size=300)
    errors = {}
    for regression in (library.SparseAdditive, library.JointSparseAdditive):
        found = regression.fit(E, a, y, np.ones(300), 2, "continuous", 0)[0].predict(E).mean(axis=0)
        errors[regression] = float(np.sqrt(np.mean((found[:, 1] - found[:, 0] - 1) ** 2)))
    assert errors[library.JointSparseAdditive] < errors[library.SparseAdditive]


@pytest.mark.parametrize("name", list(library.LIBRARY))
@pytest.mark.parametrize("kind", ["continuous", "binary", "count"])
def test_the_library_goes_to_arrays_and_back(name: str, kind: str) -> None:
    rng = np.random.default_rng(4)
    E, a = rng.normal(size=(150, 4)).astype(np.float32), rng.permutation(np.arange(150) % 3)
    y = {
        "continuous": E[:, 0] + rng.normal(size=150),
        "binary": (rng.random(150) < 1 / (1 + np.exp(-E[:, 0]))).astype(float),
        "count": rng.poisson(np.exp(0.3 * E[:, 0])).astype(float),
    }[kind]
    regression = library.LIBRARY[name]
    model, means = regression.fit(E, a, y, np.ones(150), 3, kind, 0)
    again = regression.from_arrays(model.to_arrays(), kind)
    assert means.shape == (150, 3) and np.isfinite(means).all()
    assert_array_equal(again.predict(E), model.predict(E))
    if kind == "binary":
        assert means.min() >= 0 and means.max() <= 1 and 0.2 < means.mean() < 0.8
    if kind == "count":
        assert means.min() > 0


def test_nothing_is_extrapolated_but_lines() -> None:
    """Beyond the observed range the additive model stays where it was at its end."""
    rng = np.random.default_rng(5)
    E = rng.uniform(-1, 1, size=(300, 1)).astype(np.float32)
    a = rng.permutation(np.arange(300) % 2)
    model, _ = library.SparseAdditive.fit(E, a, 3 * E[:, 0].astype(float), np.ones(300), 2, "continuous", 0)
    end, beyond = model.predict(np.array([[E.max()], [50.0]], dtype=np.float32)).mean(axis=0)
    assert_allclose(beyond, end)


# ---- the stack -------------------------------------------------------------------------------------------------------


def test_the_best_component_is_found() -> None:
    """An estimator of the truth beside one that hardly learned: the weights say which is which, on new rows too."""
    both = make_heteroscedastic(1600, random_state=0)
    data, new = both.take(np.arange(600)), both.take(np.arange(600, 1600))
    good = DiffPO(n_networks=7, hidden=32, epochs=60, n_denoisers=2)
    bad = DiffPO(n_networks=7, hidden=4, epochs=1, n_denoisers=2, lr=1e-5)
    est = CausalStack(estimators=[("bad", bad), ("good", good)], random_state=0)
    est.fit(data.X, data.y, treatment=data.treatment)
    weights = est.weights_.filter(like="mean of").sum(axis=1)
    assert weights["good"] > 3 * weights["bad"]
    error = {name: _error(one, new) for name, one in {**est.estimators_, "stack": est}.items()}
    assert error["stack"] < min(error["good"], error["bad"])


def _error(est: Any, data: Any) -> float:
    """Root mean squared error of the arms' means."""
    mean = est._mean(est._inputs(est.schema_.encode(data.X)))
    return float(np.sqrt(np.mean((mean - data.mu) ** 2)))


def test_weights_are_convex_and_reported() -> None:
    data = make_heteroscedastic(120, random_state=0)
    est = small().fit(data.X, data.y, treatment=data.treatment)
    table = est.weights_
    for column in table:
        assert_allclose(table[column].sum(), 1.0, atol=1e-6)
        assert (table[column].dropna() >= 0).all()
    assert {"DiffPO", "TARNet", *library.LIBRARY} <= set(table.index)
    report = Report.from_fit(est, data.X, data.y, treatment=data.treatment)
    assert "sparse additive model" in report.text(full=True, width=100)
    assert "sparse additive model" in report.html()


def test_an_estimator_without_held_out_predictions_is_refitted_on_folds() -> None:
    class Silent(DiffPO):
        def _fit(self, data: Any) -> dict[str, Any]:
            fits.append(len(data.y))
            return {**super()._fit(data), "held_out_": None}

    fits: list[int] = []
    data = make_heteroscedastic(100, random_state=0)
    silent = Silent(**QUICK["DiffPO"])
    est = CausalStack(estimators=[("silent", silent)], n_folds=4, nuisance=Nuisance(n_folds=2), random_state=0)
    est.fit(data.X, data.y, treatment=data.treatment)
    assert sorted(fits) == [75, 75, 75, 75, 100]


def test_costs_stay_positive_and_their_logarithms_are_stacked() -> None:
    data = make_skewed(150, random_state=0)
    est = small().fit(data.X, data.y, treatment=data.treatment)
    assert est.logs_ is not None and not est.moves_
    assert est.predict_outcomes(data.X).draws.min() >= 0
    assert_allclose(est.weights_.filter(like="mean of").sum(), 1.0, atol=1e-6)


def test_disagreement_widens_the_interval() -> None:
    """Members carry the components' spread: where these disagree, the effect is less certain."""
    data = make_heteroscedastic(150, random_state=1)
    est = small(n_members=64).fit(data.X, data.y, treatment=data.treatment)
    E, values, own = est._split(est._inputs(est.schema_.encode(data.X)))
    members = [one._means(part) for one, part in zip(est.estimators_.values(), own, strict=True)]
    centers = np.stack(
        [m.mean(0) for m in members]
        + [values.per_arm, values.single]
        + [r.predict(E).mean(0) for r in est.library_.values()]
    )
    spread = np.einsum("kna,ka->na", centers**2, est.combination_.mean)
    spread -= np.einsum("kna,ka->na", centers, est.combination_.mean) ** 2
    variance = est._combine(E, values, members).var(axis=0)
    assert np.corrcoef(spread[:, 0], variance[:, 0])[0, 1] > 0.5
    assert variance.mean() > 0.8 * spread.mean()


@pytest.mark.parametrize("loss", ["r", "dr"])
def test_both_effect_losses_find_the_learner_that_is_right(loss: str, rng: np.random.Generator) -> None:
    """The means know nothing of an effect of 2 x; the second X-learner does."""
    data = training(rng, 2000)
    x = data.E[:, 0].astype(float)
    flat = np.zeros((2000, 2))
    half = np.full((2000, 2), 0.5)
    contrast = np.stack([-x, 2 * x], axis=1)[:, :, None]
    data = replace(data, y=2 * x * (data.a - 0.5) + rng.normal(size=2000))
    weights, mu = combination.stack_means(data, {"flat": flat}, NuisanceValues(flat, flat, half, contrast), loss)
    assert weights.effect[2, 0] > 0.9
    assert_allclose(mu[:, 1] - mu[:, 0], 2 * x, atol=0.2 * np.abs(x).max())


def test_loading_keeps_estimators_weights_and_answers(tmp_path: Path) -> None:
    data = make_skewed(100, random_state=0)
    est = small().fit(data.X, data.y, treatment=data.treatment)
    again = effects.load(est.save(tmp_path / "stack"))
    assert isinstance(again, CausalStack)
    assert [name for name, _ in again.estimators or ()] == ["DiffPO", "TARNet"]
    assert_array_equal(again.weights_, est.weights_)
    assert_array_equal(again.predict(data.X), est.predict(data.X))


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"estimators": []}, ValueError, "different names"),
    ({"estimators": [("a", DiffPO()), ("a", DiffPO())]}, ValueError, "different names"),
    ({"estimators": [("forest", object())]}, TypeError, "'forest' is no EffectEstimator"),
    ({"estimators": [("a", DiffPO(hidden=0))]}, ValueError, "hidden must be"),
    ({"effect_loss": "t"}, ValueError, "effect_loss must be 'r' or 'dr', got 't'"),
    ({"n_folds": 1}, ValueError, "n_folds must be a whole number from 2 on, got 1"),
    ({"n_members": 0}, ValueError, "n_members"),
]


@pytest.mark.parametrize(("options", "error", "says"), BAD)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception], says: str) -> None:
    data = make_heteroscedastic(40, random_state=0)
    with pytest.raises(error, match=says):
        CausalStack(**options).fit(data.X, data.y, treatment=data.treatment)
