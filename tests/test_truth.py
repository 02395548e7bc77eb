"""Across modules: where a simulator knows the law of every outcome, each number we report can be checked against it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from effects.datasets import (
    CausalDataset,
    TrueOutcomes,
    make_bimodal,
    make_binary,
    make_heteroscedastic,
    make_skewed,
    make_three_arms,
    make_weak_overlap,
    make_zero_inflated,
)
from effects.effect import Estimate
from effects.inference import aipw_scores, mean_and_se
from effects.metrics import coverage, wasserstein
from effects.nn.scale import OutcomeScale, ResidualLaw
from effects.outcomes import PotentialOutcomes

Array = NDArray[np.float64]
CONTINUOUS = [
    make_heteroscedastic,
    make_skewed,
    make_bimodal,
    make_zero_inflated,
    make_three_arms,
    make_weak_overlap,
]
Maker = Callable[..., CausalDataset]


@cache
def study(make: Maker, n_samples: int = 100) -> CausalDataset:
    return make(n_samples=n_samples, random_state=3)


def law_of(data: CausalDataset) -> TrueOutcomes:
    assert data.truth is not None
    return data.truth


@cache
def perfect(data: CausalDataset, n_draws: int = 100) -> PotentialOutcomes:
    """What a perfect estimator would say: one member, the true law on its mid-quantiles."""
    truth = law_of(data)
    if data.kind == "binary":
        return PotentialOutcomes(truth.mean()[None, None], arms=data.arms, kind="binary")
    draws = truth.quantile((np.arange(n_draws) + 0.5) / n_draws)
    return PotentialOutcomes(draws[None], arms=data.arms, means=truth.mean()[None])


def moved(outcomes: PotentialOutcomes, shift: Array, stretch: float = 1.0) -> PotentialOutcomes:
    center = outcomes.quantile(0.5)
    return PotentialOutcomes(center + stretch * (outcomes.draws - center) + shift, arms=outcomes.arms)


def codes(data: CausalDataset) -> NDArray[np.int64]:
    return np.asarray(data.codes, dtype=np.int64)


# -------------------------------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize("make", CONTINUOUS)
def test_the_distance_of_the_truth_to_itself_is_nothing_and_of_a_shift_is_the_shift(make: Maker) -> None:
    data = study(make)
    truth, outcomes = law_of(data), perfect(data)
    spread = truth.std()
    distance = wasserstein(outcomes, truth, n_levels=400) / spread
    assert distance.max() < 0.06 and np.median(distance) < 0.02
    np.testing.assert_allclose(wasserstein(moved(outcomes, 2 * spread), outcomes), 2 * spread, rtol=1e-3)


@pytest.mark.parametrize("make", CONTINUOUS)
def test_moments_quantiles_and_probabilities_are_the_laws_own(make: Maker) -> None:
    data = study(make)
    truth, outcomes = law_of(data), perfect(data)
    spread = truth.std()
    np.testing.assert_allclose(outcomes.mean(), truth.mean())
    assert (np.abs(outcomes.draws.mean(axis=(0, 1)) - truth.mean()) < 0.04 * spread).all()
    assert (np.abs(outcomes.std() / spread - 1) < 0.3).all()  # 100 nodes miss some of a log-normal tail
    for y in np.quantile(data.y, [0.2, 0.6]):
        np.testing.assert_allclose(outcomes.cdf(y), truth.cdf(y), atol=0.5 / 100 + 1e-6)
    for level in (0.05, 0.5, 0.95):
        found = outcomes.quantile(level)
        attained = truth.cdf(found)
        assert (np.abs(attained - level)[found != 0] < 1.001 / 100).all()
        assert (attained[found == 0] > level - 1.001 / 100).all()  # an atom at zero holds more than one level


@pytest.mark.parametrize("make", CONTINUOUS)
def test_observed_outcomes_are_uniform_under_their_own_law(make: Maker) -> None:
    data = study(make, 1000)
    outcomes, rows, arm = perfect(data), np.arange(1000), codes(data)
    y = np.asarray(data.y, dtype=float)
    at = outcomes.cdf(y[:, None])[rows, arm]
    before = outcomes.cdf(np.nextafter(y.astype(np.float32), np.float32(-np.inf))[:, None])[rows, arm]
    level = (
        before / 1.01 + np.random.default_rng(0).random(1000) * (at - before + 1 / 100) / 1.01
    )  # an atom takes its share
    assert stats.kstest(level, "uniform").pvalue > 1e-3
    lower, upper = outcomes.interval(0.9)
    covered = coverage(y, lower[rows, arm], upper[rows, arm])
    # an atom at the lower end of the interval belongs to it entirely
    assert covered >= 0.9 - 4 * np.sqrt(0.09 / 1000)
    if make is not make_zero_inflated:
        assert covered <= 0.9 + 4 * np.sqrt(0.09 / 1000)


@pytest.mark.parametrize("make", CONTINUOUS)
def test_no_other_law_scores_better_than_the_true_one(make: Maker) -> None:
    data = study(make, 1000)
    outcomes, arm = perfect(data), codes(data)
    spread = law_of(data).std()
    best = outcomes.crps(data.y, arm)
    for other in (
        moved(outcomes, 0.3 * spread),
        moved(outcomes, -0.3 * spread),
        moved(outcomes, 0 * spread, stretch=0.5),
        moved(outcomes, 0 * spread, stretch=2.0),
        PotentialOutcomes(outcomes.draws[:, :, :, ::-1], arms=data.arms),  # the arms confused
    ):
        loss = other.crps(data.y, arm) - best
        assert loss.mean() > 2 * loss.std() / np.sqrt(len(loss))


def test_the_true_probability_of_an_event_is_its_best_prediction() -> None:
    data = study(make_binary, 1000)
    truth, outcomes, arm = law_of(data), perfect(data), codes(data)
    np.testing.assert_allclose(wasserstein(outcomes, truth), 0.0, atol=1e-3)
    np.testing.assert_allclose(outcomes.std(), truth.std(), atol=1e-6)
    np.testing.assert_allclose(outcomes.cdf(0.0), truth.cdf(0.0), atol=1e-6)
    best = outcomes.crps(data.y, arm)
    expected = (truth.mean() * (1 - truth.mean()))[np.arange(1000), arm]  # of the Brier score
    assert best.mean() == pytest.approx(expected.mean(), abs=4 * best.std() / np.sqrt(1000))
    flat = PotentialOutcomes(np.full((1, 1, 1000, 2), np.mean(data.y)), kind="binary", arms=data.arms)
    assert flat.crps(data.y, arm).mean() > best.mean()


# -------------------------------------------------------------------------------------------------------------- effects


@pytest.mark.parametrize("make", [*CONTINUOUS, make_binary])
def test_the_effect_is_the_truths_and_its_average_too(make: Maker) -> None:
    data = study(make)
    assert data.mu is not None and data.cate is not None
    truth = np.asarray(data.cate).reshape(100, -1)
    for k, treated in enumerate(data.arms[1:]):
        effect = perfect(data).effect(treated)
        np.testing.assert_allclose(effect.mean, truth[:, k], atol=1e-5)
        np.testing.assert_array_equal(effect.std, 0.0)  # a perfect estimator has no doubt
        group = np.asarray(data.X.iloc[:, 0]) > np.median(np.asarray(data.X.iloc[:, 0]))
        means = effect.by(group)["mean"].to_list()
        assert means == pytest.approx([truth[~group, k].mean(), truth[group, k].mean()], abs=1e-5)
        np.testing.assert_array_equal(effect.prob_above(0.1), (truth[:, k] > 0.1).astype(float))


@pytest.mark.parametrize("make", [*CONTINUOUS, make_binary])
def test_the_share_that_benefits_lies_within_its_bounds(make: Maker) -> None:
    data = study(make, 60)
    outcomes = perfect(data, 400)
    drawn = law_of(data).sample(4000, random_state=1)  # in a simulator the arms are independent given x
    for k, treated in enumerate(data.arms[1:], start=1):
        for threshold in (0.0, 0.5):
            share = (drawn[:, :, k] - drawn[:, :, 0] > threshold).mean(axis=0)
            lower, upper = outcomes.effect(treated).prob_benefit(threshold)
            slack = 1 / 400 + 4 * np.sqrt(0.25 / 4000)
            assert (lower - slack <= share).all() and (share <= upper + slack).all()
            assert (upper - lower).mean() > 0.05  # the data cannot say which share it is


@pytest.mark.parametrize("make", [*CONTINUOUS, make_binary])
def test_the_average_effect_is_found_from_true_nuisances(make: Maker) -> None:
    data = study(make, 1000)
    assert data.mu is not None and data.propensity is not None
    shifts = {
        "both right": (data.mu, data.propensity),
        "wrong outcome regressions": (data.mu + 0.3 * data.mu.std(), data.propensity),
        "wrong propensities": (data.mu, np.full_like(data.propensity, 1 / data.propensity.shape[1])),
    }
    truth = (data.mu[:, 1:] - data.mu[:, :1]).mean(axis=0)
    for mu, propensity in shifts.values():
        scores = aipw_scores(data.y, codes(data), mu, propensity)
        for k in range(1, scores.shape[1]):
            value, se = mean_and_se(scores[:, k] - scores[:, 0])
            error = Estimate(value - truth[k - 1], se, method="AIPW", n=1000)
            assert abs(error.statistic) < 4


# -------------------------------------------------------------------------------------------------- scale and residuals


@pytest.mark.parametrize("kind", ["normal", "log-normal", "with zeros", "counts"])
def test_scale_and_residual_law_together_bring_back_a_marginal_law(kind: str) -> None:
    rng = np.random.default_rng(6)
    y = {
        "normal": rng.normal(50, 8, size=3000),
        "log-normal": rng.lognormal(1, 0.8, size=3000),
        "with zeros": np.where(rng.random(3000) < 0.25, 0.0, rng.lognormal(1, 0.8, size=3000)),
        "counts": rng.poisson(4, size=3000).astype(float),
    }[kind]
    scale = OutcomeScale.learn(y, "count" if kind == "counts" else "continuous", log=kind != "normal")
    z = scale.encode(y + rng.random(3000) * scale.whole)
    residuals = ResidualLaw.learn(z, np.zeros(3000, dtype=np.int64), np.ones(3000), n_arms=1)
    nodes = stats.norm.ppf((np.arange(3000) + 0.5) / 3000)
    again = scale.decode(residuals.residual(nodes[:, None])[:, 0])
    assert float(wasserstein(again, y)) < 0.04 * y.std()
    if kind in ("with zeros", "counts"):
        assert np.mean(again == 0) == pytest.approx(np.mean(y == 0), abs=0.03)  # the law is smoothed at its atom
