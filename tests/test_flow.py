"""NOFLITE and INF: densities that are densities, those of the draws; and a population's law that confounding spares."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import quick
from numpy.testing import assert_allclose
from scipy import stats

import effects
from effects import INF, NOFLITE
from effects.datasets import (
    make_bimodal,
    make_binary,
    make_heteroscedastic,
    make_skewed,
    make_three_arms,
    make_zero_inflated,
)
from effects.models.flow import ConditionalSpline, _log_between, spline, spline_nll
from effects.models.interventional import InterventionalLaw, _distribution, _fit_law, _signed_weights
from effects.models.representation import imbalance
from effects.nn.losses import mmd
from effects.nn.scale import OutcomeScale, ResidualLaw
from effects.nn.training import Settings

MAKE: dict[str, Any] = {
    "continuous": make_bimodal,
    "log": make_skewed,
    "atom": make_zero_inflated,
    "binary": make_binary,
    "three_arms": make_three_arms,
}


@cache
def fitted(name: str, kind: str = "INF") -> Any:
    """A quick model with many draws; INF is NOFLITE without balancing, and more."""
    data = MAKE[name](150, random_state=0)
    est: Any = quick(kind, n_draws=128)
    return est.fit(data.X, data.y, treatment=data.treatment), data


@cache
def fitted_counts() -> Any:
    rng = np.random.default_rng(0)
    X, a = rng.normal(size=(150, 2)), rng.integers(2, size=150)
    y = rng.poisson(np.exp(0.5 + 0.5 * X[:, 0] + 0.4 * a))
    return quick("INF", n_draws=128).fit(X, y, treatment=a), X


def density(est: Any, X: Any, row: int, arm: Any, y: np.ndarray) -> np.ndarray:
    """Density or mass of one unit's Y(arm) at many outcomes: `log_prob` on copies of its row, encoded once."""
    inputs = est._inputs(est.schema_.encode(X[row : row + 1]))
    return np.exp(est._log_prob(inputs.repeat(len(y), axis=0), y, np.full(len(y), est.arms_.index(arm))))


# ---- the maps --------------------------------------------------------------------------------------------------------


def some_parameters(n_bins: int = 8) -> torch.Tensor:
    return torch.randn(3 * n_bins - 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_new_flow_is_the_identity() -> None:
    flow = ConditionalSpline(2, 3, 2, 8, 6, torch.Generator().manual_seed(0))
    parameters = flow(torch.randn(5, 3))
    assert parameters.shape == (2, 5, 2, 17)
    u = torch.linspace(-6, 6, 5)[None, :, None].expand(2, -1, 2)
    assert_allclose(spline(parameters)(u).detach(), u, atol=1e-6)
    assert_allclose(spline_nll(parameters, u).detach(), u**2 / 2, atol=1e-5)


def test_the_loss_is_the_log_density_of_the_inverse_of_normal_noise() -> None:
    """exp(-nll) / sqrt(2 pi) is the derivative of Phi(T(u)), here by finite differences, tails included."""
    u = torch.linspace(-5, 5, 401, dtype=torch.float64)
    parameters = some_parameters()
    behind, ahead = (torch.special.ndtr(spline(parameters)(u + step)) for step in (-1e-6, 1e-6))
    expected = (ahead - behind).numpy() / 2e-6
    assert np.abs(expected - stats.norm.pdf(u)).max() > 0.05  # no normal law any more
    assert_allclose(np.exp(-spline_nll(parameters, u).numpy()) / np.sqrt(2 * np.pi), expected, atol=1e-4)


def test_saved_parameters_mean_the_same_map_for_ever() -> None:
    """Knots and slopes written out: another release of zuko with other bounds would change saved models."""
    parameters = some_parameters().numpy()
    widths, heights, slopes = np.split(parameters, [8, 16])
    bounded = [v / (1 + np.abs(2 * v / np.log(1e-3))) for v in (widths, heights)]
    x, y = (4 * (2 * np.cumsum(np.exp(v) / np.exp(v).sum()) - 1) for v in bounded)
    noise, log_slope = spline(torch.from_numpy(parameters)).call_and_ladj(torch.from_numpy(x[:-1]))
    assert_allclose(noise, y[:-1], atol=1e-12)
    assert_allclose(log_slope, slopes / (1 + np.abs(slopes / np.log(1e-3))), atol=1e-9)


def test_scores_and_their_slope_invert_the_residual_law() -> None:
    rng = np.random.default_rng(0)
    law = ResidualLaw.learn(rng.gamma(2.0, size=300), np.arange(300) % 2, np.ones(300), 2)
    score = np.linspace(-4, 4, 37)[:, None].repeat(2, 1)
    for arm in (0, 1):
        residual = law.residual(score)[:, arm]
        found, _ = law.score_and_slope(residual, arm)
        assert_allclose(found, score[:, arm], atol=1e-9)
        assert_allclose(found, law.score(residual, np.full(37, arm)), atol=1e-12)
        between = residual + 1e-4 * np.ptp(residual)
        step = 1e-7 * np.ptp(residual)
        slope = (law.score(between + step, np.full(37, arm)) - law.score(between, np.full(37, arm))) / step
        assert_allclose(np.exp(law.score_and_slope(between, arm)[1]), slope, rtol=1e-5)


def test_masses_are_exact_in_both_tails() -> None:
    lower, upper = np.array([[-9.0, 8.0, -1.0, -np.inf]]), np.array([[-8.0, 9.0, 2.0, 0.0]])
    expected = [stats.norm.cdf(-8) - stats.norm.cdf(-9)] * 2 + [stats.norm.cdf(2) - stats.norm.cdf(-1), 0.5]
    assert_allclose(np.exp(_log_between(lower, upper))[0], expected, rtol=1e-10)


# ---- each unit's density ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("continuous", "NOFLITE"), ("three_arms", "INF")])
def test_a_density_integrates_to_one_and_is_that_of_the_draws(name: str, kind: str) -> None:
    est, data = fitted(name, kind)
    outcomes = est.predict_outcomes(data.X)
    reach = 8 * data.y.std()
    grid = np.linspace(data.y.mean() - reach, data.y.mean() + reach, 4001)
    for row in (0, 7):
        for k, arm in enumerate(est.arms_):
            p = density(est, data.X, row, arm, grid)
            below = np.concatenate([[0.0], np.cumsum((p[1:] + p[:-1]) / 2)]) * (grid[1] - grid[0])
            assert below[-1] == pytest.approx(1.0, abs=2e-3)
            drawn = np.sort(outcomes.draws[:, :, row, k].ravel())
            level = (np.arange(len(drawn)) + 0.5) / len(drawn)
            assert np.abs(np.interp(drawn, grid, below) - level).max() < 4e-3


def test_the_density_on_a_log_scale_has_its_jacobian() -> None:
    est, data = fitted("log")
    assert est.scale_.log
    grid = np.exp(np.linspace(np.log(data.y.min()) - 8, np.log(data.y.max()) + 8, 3001))
    outcomes = est.predict_outcomes(data.X)
    for arm, k in ((est.arms_[0], 0), (est.arms_[1], 1)):
        p = density(est, data.X, 3, arm, grid)
        mass = (p[1:] + p[:-1]) / 2 * np.diff(grid)
        assert mass.sum() == pytest.approx(1.0, abs=2e-3)
        middle = np.median(outcomes.draws[:, :, 3, k])
        assert mass[grid[1:] <= middle].sum() == pytest.approx(0.5, abs=5e-3)
    found = est.log_prob(data.X[3:6], [middle, -1.0, -1e9], treatment=[est.arms_[1]] * 3)
    assert found[0] == pytest.approx(np.log(density(est, data.X, 3, est.arms_[1], np.array([middle])).item()), abs=1e-3)
    assert found[1:].tolist() == [-np.inf, -np.inf]


def test_a_point_mass_has_its_share_and_the_rest_is_density() -> None:
    est, data = fitted("atom")
    assert est.scale_.lowest == 0
    outcomes = est.predict_outcomes(data.X)
    edge = est.scale_.gap
    grid = np.exp(np.linspace(np.log(edge), np.log(data.y.max()) + 12, 3001))
    for row in (1, 4):
        for k, arm in enumerate(est.arms_):
            none = density(est, data.X, row, arm, np.zeros(1))[0]
            assert none == pytest.approx((outcomes.draws[:, :, row, k] == 0).mean(), abs=3e-3)
            p = density(est, data.X, row, arm, grid)
            assert none + ((p[1:] + p[:-1]) / 2 * np.diff(grid)).sum() == pytest.approx(1.0, abs=2e-3)
            assert density(est, data.X, row, arm, np.array([edge / 2])).item() == 0.0


def test_masses_of_counts_are_those_of_the_draws() -> None:
    est, X = fitted_counts()
    outcomes = est.predict_outcomes(X)
    counts = np.arange(200.0)
    for row in (0, 11):
        for arm in (0, 1):
            mass = density(est, X, row, arm, counts)
            assert mass.sum() == pytest.approx(1.0, abs=1e-3)
            drawn = outcomes.draws[:, :, row, arm].ravel()
            for k in range(4):
                assert mass[k] == pytest.approx((drawn == k).mean(), abs=4e-3)


def test_a_binary_outcome_has_its_probability() -> None:
    est, data = fitted("binary")
    p = est.predict_outcomes(data.X).mean()
    events = {level: np.full(len(data.X), level) for level in sorted(set(data.y))}
    for k, arm in enumerate(est.arms_):
        none, event = (est.log_prob(data.X, y, treatment=[arm] * len(data.X)) for y in events.values())
        assert_allclose(np.exp(event), p[:, k], rtol=1e-5)
        assert_allclose(np.exp(none) + np.exp(event), 1.0, rtol=1e-9)


def test_the_density_is_per_unit_of_the_outcome() -> None:
    """y -> 100 y + 1000: effects a hundredfold, log densities less log 100."""
    data = make_heteroscedastic(150, random_state=1)
    y = np.asarray(data.y, dtype=float)
    one, other = (quick("NOFLITE").fit(data.X, v, treatment=data.treatment) for v in (y, 100 * y + 1000))
    assert_allclose(other.predict(data.X), 100 * one.predict(data.X), atol=2.0 * y.std())
    left = one.log_prob(data.X, y, treatment=data.treatment)
    right = other.log_prob(data.X, 100 * y + 1000, treatment=data.treatment)
    assert_allclose(right.mean() + np.log(100), left.mean(), atol=0.02)


def test_the_flow_learns_shapes_that_vary_with_x() -> None:
    """Log score of new rows: against normal laws of the same means and spreads, and against the pooled shape alone."""
    data = make_bimodal(1200, random_state=0)
    train, test = data.take(np.arange(800)), data.take(np.arange(800, 1200))
    est = NOFLITE(n_networks=4, epochs=40, random_state=0).fit(train.X, train.y, treatment=train.treatment)
    outcomes, rows = est.predict_outcomes(test.X), np.arange(400)
    normal = stats.norm.logpdf(np.asarray(test.y), outcomes.mean()[rows, test.codes], outcomes.std()[rows, test.codes])
    score = est.log_prob(test.X, test.y, treatment=test.treatment).mean()
    for parameter in est.flow_.arms.parameters():
        parameter.zero_()  # the identity
    pooled = est.log_prob(test.X, test.y, treatment=test.treatment).mean()
    assert score > normal.mean() + 0.1
    assert score > pooled + 0.02


def test_balancing_brings_the_arms_representations_together() -> None:
    data = make_heteroscedastic(200, random_state=0)
    found = {}
    for balance in (0.0, 30.0):
        est: Any = quick("NOFLITE", balance=balance, epochs=60).fit(data.X, data.y, treatment=data.treatment)
        inputs = torch.from_numpy(est._inputs(est.schema_.encode(data.X)))
        with torch.no_grad():
            shared = est.means_.network.represent(inputs)
        weight = torch.ones(shared.shape[:2])
        found[balance] = float(imbalance(shared, torch.from_numpy(data.codes), weight, 2, mmd).mean())
    assert found[30.0] < 0.7 * found[0.0]


# ---- the population's law: parts -------------------------------------------------------------------------------------


def confounded(n: int = 2500) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """One confounder x; Y(a) | x ~ N(2 x + a, 1), so Y(a) ~ N(a, 5). Data, true propensities, true draws, x."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    treated = 1 / (1 + np.exp(-1.2 * x))
    a = (rng.random(n) < treated).astype(np.int64)
    y = 2 * x + a + rng.normal(size=n)
    nodes = stats.norm.ppf((np.arange(20) + 0.5) / 20)
    draws = (2 * x[:, None] + np.arange(2))[None] + nodes[:, None, None]
    schema = SimpleNamespace(outcome=SimpleNamespace(kind="continuous"))
    data = SimpleNamespace(a=a, y=y, weight=np.ones(n), schema=schema, seed=0)
    return data, np.column_stack([1 - treated, treated]), draws, x


def law_of(target: str, data: Any, propensity: np.ndarray, draws: np.ndarray) -> InterventionalLaw:
    scale = OutcomeScale.learn(data.y, data.schema.outcome.kind, log=False)
    weights = _signed_weights(target, data, propensity)
    return _fit_law(data, scale, draws, *weights, Settings(epochs=60))[0]


def distance(law: InterventionalLaw, arm: int) -> float:
    """Wasserstein-1 distance to N(arm, 5)."""
    levels = (np.arange(200) + 0.5) / 200
    return float(np.abs(law.quantile(levels, arm) - stats.norm.ppf(levels, arm, np.sqrt(5))).mean())


def test_the_correction_is_right_if_either_part_is() -> None:
    data, propensity, draws, _ = confounded()
    naive = [abs(data.y[data.a == k].mean() - k) for k in (0, 1)]
    constant = np.full_like(propensity, 0.5)
    shifted = draws + 2.0
    for k in (0, 1):
        assert naive[k] > 0.6
        assert distance(law_of("one-step", data, propensity, draws), k) < 0.15
        assert distance(law_of("one-step", data, propensity, shifted), k) < 0.25
        assert distance(law_of("one-step", data, constant, draws), k) < 0.15
        assert distance(law_of("ipw", data, propensity, shifted), k) < 0.3
        # and each part alone is wrong where it is
        assert distance(law_of("plugin", data, propensity, shifted), k) > 1.5
        assert distance(law_of("ipw", data, constant, draws), k) > 0.5


def test_weights_sum_to_one_and_are_repetitions() -> None:
    data, propensity, draws, _ = confounded(400)
    for target in ("one-step", "plugin", "ipw"):
        observed, generated = _signed_weights(target, data, propensity)
        assert_allclose((observed + generated).sum(axis=0), 1.0, rtol=1e-12)
    times = np.where(data.a == 1, 3, 1)
    again = np.repeat(np.arange(400), times)
    weighted = SimpleNamespace(**{**vars(data), "weight": times / times.mean()})
    repeated_ = SimpleNamespace(**{**vars(data), "a": data.a[again], "y": data.y[again], "weight": np.ones(len(again))})
    one = law_of("one-step", weighted, propensity, draws)
    other = law_of("one-step", repeated_, propensity[again], draws[:, again])
    plain = law_of("one-step", data, propensity, draws)
    levels = np.linspace(0.02, 0.98, 25)
    for k in (0, 1):
        assert_allclose(one.quantile(levels, k), other.quantile(levels, k), atol=0.02)
        assert np.abs(one.quantile(levels, k) - plain.quantile(levels, k)).max() > 0.2


def test_a_signed_measure_becomes_the_nearest_distribution_function() -> None:
    values, level = _distribution(np.array([3.0, 1.0, 2.0]), np.array([0.6, 0.6, -0.2]))
    assert values.tolist() == [1, 2, 3]
    assert_allclose(level, [0.55, 0.55, 1.0])  # of 0.6, 0.4, 1.0 with weights 0.6, 0.2, 0.6
    same, own = _distribution(np.array([1.0, 2.0, 2.0]), np.array([0.2, 0.3, 0.5]))
    assert same.tolist() == [1, 2]
    assert_allclose(own, [0.2, 1.0])


# ---- the population's law: of a fitted model -------------------------------------------------------------------------


def test_a_populations_density_integrates_to_one_and_inverts() -> None:
    levels = np.linspace(0.01, 0.99, 33)
    for name in ("continuous", "log", "three_arms"):
        est, _ = fitted(name)
        for arm in est.arms_:
            quantiles = est.interventional_quantile(levels, arm=arm)
            assert (np.diff(quantiles) > 0).all()
            assert_allclose(est.interventional_cdf(quantiles, arm=arm), levels, atol=1e-6)
            low, high = est.interventional_quantile([1e-8, 1 - 1e-8], arm=arm)
            grid = (
                np.exp(np.linspace(np.log(low), np.log(high), 9001)) if name == "log" else np.linspace(low, high, 9001)
            )
            p = np.exp(est.interventional_log_prob(grid, arm=arm))
            assert ((p[1:] + p[:-1]) / 2 * np.diff(grid)).sum() == pytest.approx(1.0, abs=1e-4)
            drawn = est.interventional_sample(4000, arm=arm, random_state=0)
            assert stats.kstest(est.interventional_cdf(drawn, arm=arm), "uniform").pvalue > 1e-3
    assert isinstance(est.interventional_quantile(0.5, arm=arm), float)


def test_a_populations_counts_events_and_point_masses() -> None:
    est, _ = fitted_counts()
    counts = np.arange(2000)
    mass = np.exp(est.interventional_log_prob(counts, arm=1))
    assert mass.sum() == pytest.approx(1.0, abs=1e-3)
    assert_allclose(est.interventional_cdf(counts, arm=1), np.cumsum(mass), atol=1e-8)
    drawn = est.interventional_sample(500, arm=1, random_state=0)
    assert drawn.min() >= 0 and (drawn == np.round(drawn)).all()

    est, data = fitted("binary")
    p = [est.interventional_log_prob(sorted(set(data.y)), arm=arm) for arm in est.arms_]
    assert_allclose(np.exp(p).sum(axis=1), 1.0)
    n_events = est.interventional_sample(8000, arm=est.arms_[1], random_state=0).mean()
    assert n_events == pytest.approx(np.exp(p[1][1]), abs=0.02)

    est, data = fitted("atom")
    share = np.exp(est.interventional_log_prob([0.0], arm=est.arms_[0]))[0]
    assert share == pytest.approx((data.truth.zero[:, 0]).mean(), abs=0.12)
    assert est.interventional_cdf([0.0], arm=est.arms_[0])[0] == pytest.approx(share)
    assert (est.interventional_sample(8000, arm=est.arms_[0], random_state=1) == 0).mean() == pytest.approx(
        share, abs=0.02
    )
    grid = np.exp(np.linspace(-12, 20, 9001))
    p = np.exp(est.interventional_log_prob(grid, arm=est.arms_[0]))
    assert share + ((p[1:] + p[:-1]) / 2 * np.diff(grid)).sum() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.slow
def test_confounding_misleads_the_arms_and_not_the_flow() -> None:
    """The sicker are treated more often: the arms' own quantiles are off by several mmHg."""
    data = make_heteroscedastic(1000, random_state=0)
    est = INF(n_networks=4, epochs=40, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    levels = (np.arange(100) + 0.5) / 100
    assert data.truth is not None
    everyone = data.truth.quantile(levels)
    for k, arm in enumerate(est.arms_):
        truth = np.quantile(everyone[:, :, k], levels)
        naive = np.abs(np.quantile(np.asarray(data.y)[data.codes == k], levels) - truth).mean()
        assert np.abs(est.interventional_quantile(levels, arm=arm) - truth).mean() < 0.5 * naive


def test_a_saved_population_is_the_same(tmp_path: Path) -> None:
    for name in ("atom", "binary"):
        est, data = fitted(name)
        loaded: Any = effects.load(est.save(tmp_path / name))
        y = sorted(set(data.y))[:5]
        for arm in est.arms_:
            assert_allclose(loaded.interventional_log_prob(y, arm=arm), est.interventional_log_prob(y, arm=arm))
        again, before = (e.log_prob(data.X, data.y, treatment=data.treatment) for e in (loaded, est))
        assert_allclose(again, before, rtol=1e-4, atol=1e-5)


# ---- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("NOFLITE", {"n_flows": 1}, "n_flows must be at least 2"),
        ("NOFLITE", {"n_bins": 0}, "n_bins must be a positive whole number"),
        ("NOFLITE", {"balance": -1.0}, "balance must be"),
        ("INF", {"target": "two-step"}, "target must be one of"),
        ("INF", {"min_propensity": 0.7}, "min_propensity must lie"),
    ],
)
def test_parameters_that_make_no_sense(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(name, **options).fit(np.zeros((10, 1)), np.zeros(10), treatment=np.arange(10) % 2)


def test_questions_that_have_no_answer() -> None:
    est, _ = fitted("continuous")
    with pytest.raises(ValueError, match="arm 'surgery' is unknown: the arms are"):
        est.interventional_cdf([1.0], arm="surgery")
    with pytest.raises(ValueError, match="between 0 and 1"):
        est.interventional_quantile([0.5, 1.5], arm=est.arms_[0])


def test_weak_overlap_is_told() -> None:
    data = make_bimodal(80, random_state=0)
    known = np.where(np.arange(80) < 3, 0.001, 0.5)
    with pytest.warns(UserWarning, match="3 of 80 rows have an arm with estimated propensity below 0.01"):
        quick("INF", epochs=2).fit(data.X, data.y, treatment=data.treatment, propensity=known)
