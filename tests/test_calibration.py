"""The scale of the effects' posterior: what held-out residuals say of it, in closed form and by simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from effects.calibration import EffectSpread, alternative_effects, alternative_weights, learn_spread, simplex_weights
from effects.nuisance import NuisanceValues


def simulated(
    rng: np.random.Generator, n: int, factor: float, noise: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows whose estimated effects are wrong with variance `factor` times the stated one, m with 0.1."""
    stated = rng.gamma(1.0, 0.5, n)
    e = rng.uniform(0.2, 0.8, n)
    a = (rng.uniform(size=n) < e).astype(np.int64)
    wrong_effect, wrong_mean = (rng.normal(size=n) * np.sqrt(v) for v in (factor * stated, 0.1 * np.ones(n)))
    mu = np.zeros((n, 2)) + wrong_mean[:, None] + (np.arange(2) - e[:, None]) * wrong_effect[:, None]
    y = noise * rng.normal(size=n) * (1 + a)
    return y, a, mu, np.column_stack([1 - e, e]), stated[:, None], np.full(n, 0.2) * rng.uniform(0.5, 1.5, n)


@pytest.mark.parametrize("factor", [0.2, 1.0, 4.0])
def test_the_factor_is_found_in_many_rows(factor: float) -> None:
    rng = np.random.default_rng(0)
    y, a, mu, e, of_effect, of_mean = simulated(rng, 40_000, factor)
    spread = learn_spread(
        y, a, np.ones(len(y)), mu, e, (of_effect, of_mean), alternatives=np.zeros((0, 1)), expected=0.6
    )
    assert np.log(spread.scale[0] / factor) == pytest.approx(0, abs=0.35)
    noise = np.mean((1.0 + a) ** 2)
    assert spread.fresh[0] == pytest.approx(noise / np.mean((y - mu[np.arange(len(y)), a]) ** 2), abs=0.04)


def test_few_rows_leave_the_factor_near_what_is_usual() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(40):
        y, a, mu, e, of_effect, of_mean = simulated(rng, 60, 0.6)
        fitted = learn_spread(
            y, a, np.ones(60), mu, e, (of_effect, of_mean), alternatives=np.zeros((0, 1)), expected=0.6
        )
        found.append(np.log(fitted.scale[0] / 0.6))
    assert abs(np.mean(found)) < 0.3 and np.std(found) < 0.7


def test_the_unit_of_the_outcome_does_not_matter() -> None:
    y, a, mu, e, of_effect, of_mean = simulated(np.random.default_rng(2), 2000, 2.0)
    none, one = np.zeros((0, 1)), np.ones(len(y))
    plain = learn_spread(y, a, one, mu, e, (of_effect, of_mean), alternatives=none, expected=0.6)
    scaled = learn_spread(
        1e4 * y, a, one, 1e4 * mu, e, (1e8 * of_effect, 1e8 * of_mean), alternatives=none, expected=0.6
    )
    assert_allclose(plain.scale, scaled.scale, rtol=1e-3)


def test_noise_of_known_shape_is_not_taken_for_error() -> None:
    """Where noise is loud the estimator is unsure: without the noise's shape that looks like error."""
    rng = np.random.default_rng(3)
    n = 20_000
    stated = rng.gamma(1.0, 0.2, n)
    a = rng.integers(2, size=n)
    loud = 1 + 10 * stated
    y = rng.normal(size=n) * np.sqrt(loud)
    mu, e = np.zeros((n, 2)), np.full((n, 2), 0.5)
    common: dict[str, Any] = {"alternatives": np.zeros((0, 1)), "expected": 0.6}
    blind = learn_spread(y, a, np.ones(n), mu, e, (stated[:, None], np.full(n, 0.01)), **common)
    knowing = learn_spread(y, a, np.ones(n), mu, e, (stated[:, None], np.full(n, 0.01)), noise=loud, **common)
    assert knowing.scale[0] < 1.0 < 10 < blind.scale[0]


def test_heavy_tails_say_less() -> None:
    """A few huge residuals where the estimator is unsure: by a normal likelihood they would be its errors."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(30):
        n = 1500
        stated = rng.gamma(1.0, 0.05, n)
        a, mu, e = rng.integers(2, size=n), np.zeros((n, 2)), np.full((n, 2), 0.5)
        y = rng.normal(size=n) * np.where(rng.uniform(size=n) < 0.01, 12.0, 1.0)
        fitted = learn_spread(
            y, a, np.ones(n), mu, e, (stated[:, None], stated / 4), alternatives=np.zeros((0, 1)), expected=0.7
        )
        found.append(fitted.scale[0])
    assert np.min(found) > 0.35 and np.max(found) < 1.4


def test_members_are_stretched_to_the_calibrated_variance() -> None:
    rng = np.random.default_rng(4)
    members = rng.normal(size=(16, 50, 2))
    per_arm, single = rng.normal(size=(2, 50, 3))
    values = NuisanceValues(per_arm, single, np.full((50, 3), 1 / 3))
    spread = EffectSpread(np.array([[0.3, 0.0], [0.1, 0.5]]), np.array([0.5, 2.0]), np.ones(2))
    wide = spread.widen(members, values)
    center, views = members.mean(axis=0), alternative_effects(values)
    assert_allclose(wide.mean(axis=0), center, atol=1e-12)
    wanted = members.var(axis=0) + np.einsum("jnb,jb->nb", (views - center) ** 2, spread.alternatives)
    assert_allclose(wide.var(axis=0), wanted * spread.scale)
    same = np.ones((4, 3, 1))  # nothing to stretch
    assert_allclose(
        EffectSpread(np.zeros((0, 1)), np.ones(1), np.ones(1)).widen(same, None), same
    )  # nothing to stretch


def test_alternatives_that_predict_worse_get_no_weight() -> None:
    rng = np.random.default_rng(5)
    n = 4000
    x, a = rng.normal(size=n), rng.integers(2, size=n)
    mu = np.column_stack([x, 2 * x])
    y = mu[np.arange(n), a] + 0.5 * rng.normal(size=n)
    noise = 2 * rng.normal(size=(n, 2))
    second = (x + 3 * rng.normal(size=n))[:, None, None]
    values = NuisanceValues(mu + noise, mu + 2 * rng.normal(size=(n, 2)), np.full((n, 2), 0.5), second)
    assert alternative_weights(y, a, np.ones(n), mu, values).sum() < 0.1
    own = mu + noise
    right = NuisanceValues(mu, own, np.full((n, 2), 0.5), None)
    assert alternative_weights(y, a, np.ones(n), own, right)[0, 0] > 0.9


def test_weights_on_the_simplex_solve_the_least_squares() -> None:
    rng = np.random.default_rng(6)
    z = rng.normal(size=(3000, 3))
    assert_allclose(simplex_weights(z, z @ [0.2, 0.8, 0.0], np.ones(3000)), [0.2, 0.8, 0.0], atol=0.01)
    assert simplex_weights(z[:, :1], z[:, 0], np.ones(3000)).tolist() == [1.0]
