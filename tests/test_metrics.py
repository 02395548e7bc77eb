"""Scores against closed forms, scipy, scikit-learn and simulations whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import mean_pinball_loss

from effects import metrics
from effects.outcomes import PotentialOutcomes

Array = NDArray[np.float64]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def normal_nodes(n: int, mean: float = 0.0, std: float = 1.0) -> Array:
    """Midpoint quantiles of a normal law: `n` equally likely values that stand for it."""
    return np.asarray(stats.norm.ppf((np.arange(n) + 0.5) / n, mean, std))


class NormalLaw:
    """A law per unit that knows its quantiles, as the simulators' truth does."""

    def __init__(self, mean: Array, std: Array) -> None:
        self.mean, self.std = mean, std

    def quantile(self, q: Any) -> Array:
        levels = np.asarray(q).reshape(-1, *[1] * self.mean.ndim)
        return np.asarray(stats.norm.ppf(levels, self.mean, self.std))


# ------------------------------------------------------------------------------------------------------------- effects


def test_pehe_is_the_root() -> None:
    assert metrics.pehe([0.0, 0.0, 0.0], [1.0, 2.0, 2.0]) == pytest.approx(np.sqrt(3.0))
    assert metrics.pehe(np.zeros((2, 2)), [[1.0, 1.0], [2.0, 2.0]]) == pytest.approx(np.sqrt(2.5))


def test_pehe_of_a_constant_error_is_its_size_and_bounds_the_ate_error(rng: np.random.Generator) -> None:
    true = rng.normal(size=100)
    assert metrics.pehe(true, true - 0.7) == pytest.approx(0.7)
    assert metrics.ate_error(true, true - 0.7) == pytest.approx(0.7)
    pred = rng.normal(size=100)
    assert metrics.ate_error(true, pred) < metrics.pehe(true, pred)


def test_ate_errors_of_contrasts_do_not_cancel() -> None:
    assert metrics.ate_error(np.zeros((3, 2)), np.tile([1.0, -1.0], (3, 1))) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [metrics.pehe, metrics.ate_error])
def test_integer_weights_repeat_rows(metric: Callable[..., float], rng: np.random.Generator) -> None:
    true, pred, weight = rng.normal(size=(20, 2)), rng.normal(size=(20, 2)), rng.integers(0, 4, size=20)
    repeated = np.repeat(true, weight, axis=0), np.repeat(pred, weight, axis=0)
    assert metric(true, pred, sample_weight=weight) == pytest.approx(metric(*repeated))


# ----------------------------------------------------------------------------------------------------------- intervals


def test_coverage_counts_the_closed_interval_and_infinite_bounds() -> None:
    assert metrics.coverage([0.0, 1.0, 1.1], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]) == pytest.approx(2 / 3)
    assert metrics.coverage([1e9], [-np.inf], [np.inf]) == 1.0
    assert metrics.coverage([0.0, 2.0], [0.0, 0.0], [1.0, 1.0], sample_weight=[1.0, 3.0]) == pytest.approx(0.25)


def test_coverage_of_true_quantiles_is_their_level(rng: np.random.Generator) -> None:
    y = rng.normal(size=(20_000, 2))
    bound = stats.norm.ppf(0.95)
    expected = metrics.coverage(y, np.full_like(y, -bound), np.full_like(y, bound))
    assert expected == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / y.size))


def test_interval_score_charges_a_miss_two_over_alpha() -> None:
    score = metrics.interval_score([0.0, -2.0, 3.0], [-1.0] * 3, [1.0] * 3, level=0.9)
    np.testing.assert_allclose(score, [2.0, 2.0 + 20.0, 2.0 + 40.0])


def test_interval_score_is_the_sum_of_two_pinball_losses(rng: np.random.Generator) -> None:
    # Gneiting & Raftery 2007, section 6.2: 2 / alpha times the pinball losses of both bounds.
    y, centre, half = rng.normal(size=50), rng.normal(size=50), rng.exponential(size=50)
    lower, upper = centre - half, centre + half
    pinballs = metrics.pinball(y, lower, 0.1) + metrics.pinball(y, upper, 0.9)
    np.testing.assert_allclose(metrics.interval_score(y, lower, upper, level=0.8), pinballs * 2 / 0.2)


def test_interval_score_is_proper(rng: np.random.Generator) -> None:
    y = rng.normal(size=40_000)

    def expected(scale: float, shift: float = 0.0) -> float:
        bound = stats.norm.ppf(0.95) * scale
        score = metrics.interval_score(y, np.full_like(y, shift - bound), np.full_like(y, shift + bound), 0.9)
        return float(score.mean())

    best = expected(1.0)
    assert best == pytest.approx(2 * stats.norm.pdf(stats.norm.ppf(0.95)) / 0.05, rel=0.01)
    assert all(best < expected(scale) for scale in (0.7, 0.85, 1.2, 1.5))
    assert all(best < expected(1.0, shift) for shift in (-0.3, 0.3))


# ---------------------------------------------------------------------------------------------------------------- crps


def test_crps_equals_its_double_sum(rng: np.random.Generator) -> None:
    draws, y = rng.normal(size=(11, 4, 3)), rng.normal(size=(4, 3))
    spread = np.abs(draws[:, None] - draws[None]).sum(axis=(0, 1))
    error = np.abs(draws - y).mean(axis=0)
    np.testing.assert_allclose(metrics.crps(draws, y), error - spread / (2 * 11**2))
    np.testing.assert_allclose(metrics.crps(draws, y, fair=True), error - spread / (2 * 11 * 10))


def test_crps_equals_its_integral(rng: np.random.Generator) -> None:
    draws, y = rng.normal(size=9), 0.4
    edges = np.sort(np.append(draws, y))
    middle = (edges[1:] + edges[:-1]) / 2
    cdf = (draws <= middle[:, None]).mean(axis=1)
    integral = np.sum((cdf - (middle >= y)) ** 2 * np.diff(edges))
    assert float(metrics.crps(draws, y)) == pytest.approx(integral)


def test_crps_of_normal_nodes_is_the_closed_form() -> None:
    y = np.array([-2.0, 0.0, 0.5, 3.0])
    nodes = normal_nodes(4001, mean=1.0, std=2.0)
    draws = np.tile(nodes[:, None], (1, len(y)))
    np.testing.assert_allclose(metrics.crps(draws, y), metrics.crps_gaussian(y, 1.0, 2.0), atol=2e-3)


def test_gaussian_crps_equals_its_integral_and_published_value() -> None:
    grid = np.linspace(-12, 12, 240_001)
    integral = np.trapezoid((stats.norm.cdf(grid, 0.3, 1.4) - (grid >= 1.1)) ** 2, grid)
    assert float(metrics.crps_gaussian(1.1, 0.3, 1.4)) == pytest.approx(integral, abs=1e-4)
    # (sqrt(2) - 1) / sqrt(pi) at the mean of a standard normal law.
    assert float(metrics.crps_gaussian(0.0, 0.0, 1.0)) == pytest.approx((np.sqrt(2) - 1) / np.sqrt(np.pi))


def test_crps_of_a_point_mass_is_the_absolute_error(rng: np.random.Generator) -> None:
    y, centre = rng.normal(size=30), rng.normal(size=30)
    np.testing.assert_allclose(metrics.crps(np.tile(centre, (5, 1)), y), np.abs(y - centre))
    np.testing.assert_allclose(metrics.crps(centre[None], y), np.abs(y - centre))


def test_fair_crps_is_unbiased_for_few_draws_where_the_plain_one_is_not(rng: np.random.Generator) -> None:
    n = 40_000
    draws, y = rng.normal(size=(3, n)), np.full(n, 0.5)
    truth = float(metrics.crps_gaussian(0.5, 0.0, 1.0))
    fair = metrics.crps(draws, y, fair=True)
    error = fair.std() / np.sqrt(n)
    assert fair.mean() == pytest.approx(truth, abs=4 * error)
    assert metrics.crps(draws, y).mean() - truth > 20 * error


def test_crps_of_draws_of_zero_and_one_is_the_brier_score() -> None:
    draws = np.repeat([[0.0], [1.0]], [3, 7], axis=0)
    assert metrics.crps(draws, [1.0])[0] == pytest.approx(0.3**2)
    assert metrics.crps(draws, [0.0])[0] == pytest.approx(0.7**2)


def test_crps_moves_and_scales_with_the_data(rng: np.random.Generator) -> None:
    draws, y = rng.normal(size=(16, 40)), rng.normal(size=40)
    score = metrics.crps(draws, y)
    np.testing.assert_allclose(metrics.crps(draws + 1e6, y + 1e6), score, atol=1e-8)
    np.testing.assert_allclose(metrics.crps(-3 * draws, -3 * y), 3 * score)
    np.testing.assert_allclose(metrics.crps(rng.permutation(draws), y), score)


def test_potential_outcomes_score_their_factual_draws_alike(rng: np.random.Generator) -> None:
    draws = rng.normal(size=(2, 5, 6, 2)).astype(np.float32)
    y, arm = rng.normal(size=6), np.array([0, 1, 1, 0, 1, 0])
    everything = metrics.crps(draws.reshape(10, 6, 2), np.column_stack([y, y]))
    np.testing.assert_allclose(PotentialOutcomes(draws).crps(y, arm), everything[np.arange(6), arm])


# ------------------------------------------------------------------------------------------------------------- pinball


def test_pinball_equals_scikit_learn(rng: np.random.Generator) -> None:
    y, pred, weight = rng.normal(size=30), rng.normal(size=30), rng.random(30)
    ours = np.average(metrics.pinball(y, pred, 0.3), weights=weight)
    assert ours == pytest.approx(mean_pinball_loss(y, pred, alpha=0.3, sample_weight=weight))


def test_twice_the_integral_of_pinball_is_the_crps(rng: np.random.Generator) -> None:
    n = 8
    draws, y = np.sort(rng.normal(size=(n, 5)), axis=0), rng.normal(size=5)
    fine = 50
    q = (np.arange(n * fine) + 0.5) / (n * fine)  # the midpoint rule is exact: the loss is linear in q on each step
    losses = metrics.pinball(y, np.repeat(draws, fine, axis=0), q)
    assert losses.shape == (n * fine, 5)
    np.testing.assert_allclose(2 * losses.mean(axis=0), metrics.crps(draws, y))


def test_pinball_is_least_at_the_quantile(rng: np.random.Generator) -> None:
    y = rng.exponential(size=20_000)
    loss = [metrics.pinball(y, np.full_like(y, guess), 0.8).mean() for guess in (1.2, -np.log(0.2), 2.1)]
    assert loss[1] < min(loss[0], loss[2])


# --------------------------------------------------------------------------------------------------------- wasserstein


def test_wasserstein_of_a_shift_is_the_shift(rng: np.random.Generator) -> None:
    draws, shift = rng.normal(size=(50, 4, 2)), np.array([0.0, -1.5])
    np.testing.assert_allclose(metrics.wasserstein(draws, draws + shift), np.tile(np.abs(shift), (4, 1)), atol=1e-12)


@pytest.mark.parametrize(("n_a", "n_b"), [(7, 7), (7, 3), (12, 18), (1, 5), (64, 100)])
def test_wasserstein_equals_scipy_for_any_numbers_of_draws(n_a: int, n_b: int, rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(n_a, 6)), rng.exponential(size=(n_b, 6))
    expected = [stats.wasserstein_distance(a[:, i], b[:, i]) for i in range(6)]
    np.testing.assert_allclose(metrics.wasserstein(a, b), expected)
    np.testing.assert_allclose(metrics.wasserstein(b, a), expected)


def test_wasserstein_between_laws_is_the_closed_form() -> None:
    mean, std = np.array([[0.0, 1.0], [2.0, -1.0]]), np.array([[1.0, 2.0], [0.5, 3.0]])
    law = NormalLaw(mean, std)
    np.testing.assert_allclose(metrics.wasserstein(law, NormalLaw(mean + 0.4, std)), np.full((2, 2), 0.4))
    # Same mean, another scale: |s - s'| E|Z|.
    wider = metrics.wasserstein(law, NormalLaw(mean, 2 * std), n_levels=20_000)
    np.testing.assert_allclose(wider, std * np.sqrt(2 / np.pi), rtol=1e-3)


def test_wasserstein_of_draws_to_their_law_shrinks_with_their_number() -> None:
    law = NormalLaw(np.zeros(1), np.ones(1))
    few, many = (metrics.wasserstein(normal_nodes(n)[:, None], law)[0] for n in (20, 500))
    assert many < 0.01 < few < 0.1
    # A point mass at the mean is E|Z| away.
    assert metrics.wasserstein(np.zeros((1, 1)), law, n_levels=20_000)[0] == pytest.approx(np.sqrt(2 / np.pi), rel=1e-3)


def test_wasserstein_of_draws_to_a_law_respects_every_step() -> None:
    class Uniform:
        def quantile(self, q: Any) -> Array:
            return np.asarray(q, dtype=float)[:, None]

    # On each third of [0, 1] the difference is linear, so that the midpoint rule is exact there: 1 + u, 1 + u, 5 - u.
    exact = 2 / 3 + 2 / 9 + 5 / 3 - 5 / 18
    assert metrics.wasserstein([[-1.0], [-1.0], [5.0]], Uniform())[0] == pytest.approx(exact, rel=1e-12)


def test_wasserstein_in_chunks_is_the_same(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    a, law = rng.normal(size=(20, 3, 2)), NormalLaw(np.zeros((3, 2)), np.ones((3, 2)))
    whole = metrics.wasserstein(a, law)
    monkeypatch.setattr(metrics, "_CHUNK_VALUES", 25)
    np.testing.assert_allclose(metrics.wasserstein(a, law), whole)


def test_wasserstein_reads_potential_outcomes(rng: np.random.Generator) -> None:
    draws = rng.normal(size=(2, 500, 3, 2))
    law = NormalLaw(np.full((3, 2), 2.0), np.ones((3, 2)))
    distance = metrics.wasserstein(PotentialOutcomes(draws.astype(np.float32)), law)
    assert distance.shape == (3, 2)
    np.testing.assert_allclose(distance, metrics.wasserstein(draws.reshape(1000, 3, 2), law), atol=0.01)
    binary = PotentialOutcomes(np.full((1, 1, 3, 2), 0.3), kind="binary")
    zeros_and_ones = np.repeat([0.0, 1.0], 500)[:, None, None] * np.ones((3, 2))
    np.testing.assert_allclose(metrics.wasserstein(binary, zeros_and_ones), np.full((3, 2), 0.2), atol=1e-3)


def test_wasserstein_takes_a_table_of_draws_for_draws(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(9, 2)), rng.normal(size=(4, 2))
    np.testing.assert_allclose(metrics.wasserstein(pd.DataFrame(a), b), metrics.wasserstein(a, b))


def test_wasserstein_scales_and_obeys_the_triangle(rng: np.random.Generator) -> None:
    a, b, c = rng.normal(size=(9, 50)), rng.normal(1, 2, size=(14, 50)), rng.exponential(size=(5, 50))
    direct = metrics.wasserstein(a, c)
    assert np.all(direct <= metrics.wasserstein(a, b) + metrics.wasserstein(b, c) + 1e-12)
    np.testing.assert_allclose(metrics.wasserstein(5 - 2 * a, 5 - 2 * c), 2 * direct)
    np.testing.assert_allclose(metrics.wasserstein(a, rng.permutation(a)), np.zeros(50), atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ policies


def confounded(n: int, rng: np.random.Generator) -> tuple[Array, NDArray[np.int64], Array, Array, NDArray[np.int64]]:
    """y, treatment, propensity, mu and a policy of known value: x ~ U(-1, 1), Y(a) = x + a x + noise, treat x > 0."""
    x = rng.uniform(-1, 1, n)
    treated = 1 / (1 + np.exp(-0.5 - 2 * x))
    arm = (rng.random(n) < treated).astype(np.int64)
    mu = np.column_stack([x, 2 * x])
    y = mu[np.arange(n), arm] + rng.normal(0, 0.5, n)
    return y, arm, np.column_stack([1 - treated, treated]), mu, (x > 0).astype(np.int64)


POLICY_TRUTH = 0.25  # E[x + max(x, 0)]


@pytest.mark.parametrize("wrong", ["nothing", "mu", "propensity", "ipw"])
def test_policy_value_finds_the_truth_with_its_standard_error(wrong: str, rng: np.random.Generator) -> None:
    values, errors = [], []
    for _ in range(300):
        y, arm, propensity, mu, policy = confounded(400, rng)
        if wrong == "mu":
            mu = np.zeros_like(mu)
        if wrong == "propensity":
            propensity = np.full_like(propensity, 0.5)
        estimate = metrics.policy_value(y, arm, policy, propensity, None if wrong == "ipw" else mu)
        values.append(estimate.value)
        errors.append(estimate.se)
    assert np.mean(values) == pytest.approx(POLICY_TRUTH, abs=4 * np.std(values) / np.sqrt(300))
    assert np.mean(errors) / np.std(values) == pytest.approx(1.0, abs=0.17)


def test_policy_value_needs_one_of_its_nuisances_right(rng: np.random.Generator) -> None:
    y, arm, propensity, mu, policy = confounded(100_000, rng)
    estimate = metrics.policy_value(y, arm, policy, np.full_like(propensity, 0.5), np.zeros_like(mu))
    assert abs(estimate.value - POLICY_TRUTH) > 20 * estimate.se


def test_policy_value_of_the_received_arms_is_the_weighted_mean(rng: np.random.Generator) -> None:
    y, arm, propensity, mu, _ = confounded(200, rng)
    certain = np.eye(2)[arm]
    weight = rng.random(200)
    for regression in (None, mu):
        value = metrics.policy_value(y, arm, arm, certain, regression, sample_weight=weight)
        assert value.value == pytest.approx(np.average(y, weights=weight))
    one_arm = metrics.policy_value(y, arm, np.ones(200, dtype=int), propensity[:, 1])
    weight = arm / propensity[:, 1]
    assert one_arm.value == pytest.approx(np.average(y, weights=weight))


def test_policy_value_is_linear_in_the_policy_and_moves_with_the_outcome(rng: np.random.Generator) -> None:
    y, arm, propensity, mu, policy = confounded(200, rng)
    first, second = np.eye(2)[policy], np.full((200, 2), 0.5)
    values = [metrics.policy_value(y, arm, p, propensity, mu).value for p in (first, second, (first + second) / 2)]
    assert values[2] == pytest.approx((values[0] + values[1]) / 2)
    plain = metrics.policy_value(y, arm, policy, propensity)
    moved = metrics.policy_value(10 - 2 * y, arm, policy, propensity)
    assert moved.value == pytest.approx(10 - 2 * plain.value)
    assert moved.se == pytest.approx(2 * plain.se)


def test_policy_risk_by_hand() -> None:
    # Policy treats rows 0-3; of these rows 0, 1 were treated (benefit 1, 0); of rows 4, 5 row 4 was not (benefit 1).
    y = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    treatment, policy = [1, 1, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0, 1]
    trial = [True] * 6 + [False]
    assert metrics.policy_risk(y, treatment, policy, randomized=trial) == pytest.approx(1 - (4 / 6 * 0.5 + 2 / 6 * 1.0))
    words = np.array(["no", "yes"])
    assert metrics.policy_risk(y, words[treatment], words[policy], randomized=trial) == pytest.approx(1 / 3)


def test_policy_risk_is_one_minus_the_value_in_a_trial(rng: np.random.Generator) -> None:
    n = 50_000
    x, arm = rng.random(n), rng.integers(0, 2, n)
    y = (rng.random(n) < np.where(arm == 1, x, 0.5)).astype(float)
    policy = (x > 0.5).astype(int)
    truth = 0.5 * 0.5 + 0.5 * 0.75
    assert metrics.policy_risk(y, arm, policy) == pytest.approx(1 - truth, abs=0.012)
    assert metrics.policy_value(y, arm, policy, np.full(n, 0.5)).value == pytest.approx(truth, abs=0.012)


# ----------------------------------------------------------------------------------------------------------- bad input

HALF = np.full((3, 2), 0.5)
BAD: list[tuple[str, Callable[[], object], type[Exception], str]] = [
    ("column against row", lambda: metrics.pehe(np.zeros(3), np.zeros((3, 1))), ValueError, r"\(3,\).*\(3, 1\)"),
    ("lengths", lambda: metrics.ate_error(np.zeros(3), np.zeros(2)), ValueError, r"cate_pred \(2,\)"),
    ("NaN", lambda: metrics.pehe([0.0, 1.0], [0.0, np.nan]), ValueError, r"cate_pred is nan at \(1,\)"),
    ("words", lambda: metrics.pehe(["a"], ["b"]), TypeError, "cate_true must hold numbers"),
    ("empty", lambda: metrics.pehe([], []), ValueError, "cate_true is empty"),
    ("weights", lambda: metrics.pehe([0.0], [0.0], [1.0, 1.0]), ValueError, r"sample_weight has shape \(2,\)"),
    ("negative", lambda: metrics.pehe([0.0] * 2, [0.0] * 2, [1.0, -1.0]), ValueError, "-1 in row 1"),
    ("all zero", lambda: metrics.coverage([0.0], [0.0], [1.0], [0.0]), ValueError, "zero everywhere"),
    ("crossed", lambda: metrics.coverage([0.0], [1.0], [-1.0]), ValueError, r"lower exceeds upper at \(0,\): 1 > -1"),
    ("bounds", lambda: metrics.interval_score([0.0], [0.0], [[1.0]]), ValueError, "upper has shape"),
    ("level", lambda: metrics.interval_score([0.0], [0.0], [1.0], level=90), ValueError, "strictly between 0 and 1"),
    ("draws last", lambda: metrics.crps(np.zeros((4, 9)), np.zeros(4)), ValueError, r"\(n_draws, \*y.shape\)"),
    ("no draws axis", lambda: metrics.crps(np.zeros(4), np.zeros(4)), ValueError, r"\(n_draws, \*y.shape\)"),
    ("fair alone", lambda: metrics.crps([[1.0]], [1.0], fair=True), ValueError, "two draws or more"),
    ("flat law", lambda: metrics.crps_gaussian([1.0], 0.0, 0.0), ValueError, "std must be positive"),
    ("means", lambda: metrics.crps_gaussian([1.0], [0.0, 1.0], 1.0), ValueError, "mean has shape"),
    ("percent", lambda: metrics.pinball([1.0], [1.0], 90), ValueError, "q must be one probability"),
    ("levels", lambda: metrics.pinball([1.0], [1.0], [0.5]), ValueError, r"expected \(1, 1\)"),
    ("units", lambda: metrics.wasserstein(np.zeros((5, 2)), np.zeros((5, 3))), ValueError, "same units and arms"),
    ("single number", lambda: metrics.wasserstein(1.0, 2.0), ValueError, "draws along axis 0"),
    ("no levels", lambda: metrics.wasserstein([1.0], [2.0], n_levels=0), ValueError, "n_levels"),
    ("arm", lambda: metrics.policy_value([1.0] * 3, [0, 1, 2], [0, 1, 1], HALF), ValueError, "treatment holds arms"),
    ("label", lambda: metrics.policy_value([1.0] * 3, list("aab"), [0, 1, 1], HALF), ValueError, "integer arms"),
    ("sums", lambda: metrics.policy_value([1.0] * 3, [0, 1, 1], [0, 1, 1], HALF / 2), ValueError, "sums to 0.5"),
    (
        "range",
        lambda: metrics.policy_value([1.0] * 3, [0, 1, 1], [0, 1, 1], [0.5, 1.5, 0]),
        ValueError,
        "in \\[0, 1\\]",
    ),
    (
        "impossible",
        lambda: metrics.policy_value([1.0] * 3, [0, 1, 1], [0, 1, 1], [0.5, 0.0, 0.5]),
        ValueError,
        "first: row 1, arm 1",
    ),
    ("never", lambda: metrics.policy_value([1.0] * 2, [0, 0], [1, 1], [0.5, 0.5]), ValueError, "without mu"),
    ("no benefit", lambda: metrics.policy_risk([2.0], [0], [0]), ValueError, "use policy_value"),
    ("no such arm", lambda: metrics.policy_risk([1.0, 0.0], [0, 0], [0, 1]), ValueError, "arm 1 to 1 randomised rows"),
    ("mask", lambda: metrics.policy_risk([1.0], [0], [0], randomized=[False]), ValueError, "marks at least one"),
    ("short policy", lambda: metrics.policy_risk([1.0, 0.0], [0, 1], [0]), ValueError, "policy has shape"),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_says_what_is_wrong(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
