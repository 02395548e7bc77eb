"""Potential-outcome laws against closed forms: normal nodes, draws counted by hand, Bernoulli and Poisson."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from effects import outcomes as module
from effects.effect import contrast
from effects.metrics import crps_gaussian
from effects.outcomes import PotentialOutcomes

Array = NDArray[np.float64]
LEVELS = np.array([0.0, 0.01, 0.05, 0.3, 0.5, 0.77, 0.95, 0.999, 1.0])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def nodes(law: Any, n: int) -> Array:
    """Mid-quantiles of a law: `n` equally likely values that stand for it."""
    return np.asarray(law.ppf((np.arange(n) + 0.5) / n))


# member, unit, arm
MEANS = np.array([[[0.0, 1.0], [5.0, -2.0]], [[0.4, 3.0], [5.0, -2.5]], [[-0.4, 2.0], [5.0, -1.5]]])
SD = np.array([[1.0, 2.0], [0.5, 3.0]])


def gaussian(n: int = 1000, **keywords: Any) -> PotentialOutcomes:
    """Three members that differ in their means; each is a normal law on `n` nodes."""
    draws = MEANS[:, None] + SD * nodes(stats.norm, n)[None, :, None, None]
    return PotentialOutcomes(draws, **keywords)


def binary(probability: Any, **keywords: Any) -> PotentialOutcomes:
    """Probabilities (n_members, n_samples, n_arms)."""
    return PotentialOutcomes(np.asarray(probability, dtype=float)[:, None], kind="binary", **keywords)


def counts(rng: np.random.Generator) -> PotentialOutcomes:
    return PotentialOutcomes(rng.poisson(3.0, size=(3, 7, 4, 2)), kind="count")


# ------------------------------------------------------------------------------------------------------ normal mixtures


def test_moments_of_a_normal_mixture_follow_the_law_of_total_variance() -> None:
    outcomes = gaussian()
    np.testing.assert_allclose(outcomes.mean(), MEANS.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(outcomes.std(), np.sqrt(SD**2 + MEANS.var(axis=0)), rtol=2e-3)
    np.testing.assert_allclose(outcomes.member_means(), MEANS, atol=1e-6)


def test_cdf_of_a_normal_mixture_is_the_members_average() -> None:
    outcomes = gaussian()
    for y in (-1.0, 0.3, 4.0):
        np.testing.assert_allclose(outcomes.cdf(y), stats.norm.cdf(y, MEANS, SD).mean(axis=0), atol=2e-3)
    per_unit = np.array([[0.1], [5.2]])
    np.testing.assert_allclose(outcomes.cdf(per_unit), stats.norm.cdf(per_unit, MEANS, SD).mean(axis=0), atol=2e-3)


def test_quantiles_of_a_normal_mixture_invert_its_cdf() -> None:
    levels = LEVELS[2:-2]
    y = gaussian().quantile(levels)
    assert y.shape == (len(levels), 2, 2)
    attained = stats.norm.cdf(y[:, None], MEANS, SD).mean(axis=1)
    np.testing.assert_allclose(attained, np.broadcast_to(levels[:, None, None], y.shape), atol=2e-3)


def test_few_mid_quantile_nodes_give_back_their_own_law() -> None:
    law = PotentialOutcomes(np.tile(nodes(stats.norm, 33)[None, :, None, None], (1, 1, 1, 2)))
    lower, upper = law.interval(0.9)
    held = stats.norm.cdf(upper) - stats.norm.cdf(lower)
    np.testing.assert_allclose(held, 0.9, atol=3e-3)  # numpy's default quantile would hold 0.876


def test_analytic_means_replace_the_draws_mean_and_leave_the_law_alone() -> None:
    shifted = gaussian(means=MEANS + 0.25)
    np.testing.assert_allclose(shifted.mean(), MEANS.mean(axis=0) + 0.25)
    np.testing.assert_allclose(shifted.effect().members, MEANS[:, :, 1] - MEANS[:, :, 0])
    np.testing.assert_array_equal(shifted.quantile(0.3), gaussian().quantile(0.3))


# ------------------------------------------------------------------------------------------------ draws counted by hand


def by_hand() -> PotentialOutcomes:
    draws = np.empty((2, 2, 1, 2))
    draws[:, :, 0, 0] = [[1.0, 2.0], [2.0, 7.0]]
    draws[:, :, 0, 1] = [[0.1, 0.1], [0.1, 0.1]]
    return PotentialOutcomes(draws)


def test_reductions_of_four_draws_counted_by_hand() -> None:
    outcomes = by_hand()
    np.testing.assert_allclose(outcomes.mean(), [[3.0, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(outcomes.std(), [[np.sqrt(5.5), 0.0]], atol=1e-7)
    np.testing.assert_array_equal([outcomes.cdf(y)[0, 0] for y in (0.9, 1, 2, 6.9, 7)], [0, 0.25, 0.75, 0.75, 1])
    np.testing.assert_allclose(outcomes.quantile([0.0, 0.125, 0.25, 0.5, 1.0])[:, 0, 0], [1, 1, 1.5, 2, 7])
    np.testing.assert_allclose(outcomes.crps([2.0], [0]), [np.mean([1, 0, 0, 5]) - 2 * (1 + 1 + 6 + 5 + 5) / 32])


def test_an_atom_meets_itself_although_draws_are_single_precision() -> None:
    assert by_hand().cdf(0.1)[0, 1] == 1.0
    assert by_hand().cdf(np.nextafter(np.float32(0.1), np.float32(0)))[0, 1] == 0.0


def test_cdf_at_the_ends_of_the_line() -> None:
    for far in (np.inf, 1e300):  # 1e300 does not exist in single precision
        np.testing.assert_array_equal(by_hand().cdf(far), 1.0)
        np.testing.assert_array_equal(by_hand().cdf(-far), 0.0)


@pytest.mark.parametrize("kind", ["continuous", "count"])
def test_order_of_draws_and_members_carries_no_information(kind: str, rng: np.random.Generator) -> None:
    draws = rng.poisson(4, size=(3, 8, 5, 2)).astype(float)
    shuffled = draws.copy()
    for unit in range(5):  # another coupling of the arms in every unit: nothing may depend on it
        shuffled[:, :, unit, 1] = rng.permutation(draws[:, :, unit, 1].ravel()).reshape(3, 8)
    one, two = PotentialOutcomes(draws, kind=kind), PotentialOutcomes(shuffled, kind=kind)
    np.testing.assert_allclose(one.mean(), two.mean())
    np.testing.assert_array_equal(one.quantile(LEVELS), two.quantile(LEVELS))
    np.testing.assert_array_equal(one.cdf(3), two.cdf(3))
    np.testing.assert_array_equal(one.effect().prob_benefit(), two.effect().prob_benefit())


# ----------------------------------------------------------------------------------------------------- quantile and cdf


def test_quantiles_never_cross(rng: np.random.Generator) -> None:
    levels = np.sort(np.concatenate([LEVELS, rng.random(40)]))
    for law in (PotentialOutcomes(rng.normal(size=(2, 9, 6, 2))), counts(rng), binary(rng.random((4, 6, 2)))):
        assert (np.diff(law.quantile(levels), axis=0) >= 0).all()


def test_the_quantile_is_the_smallest_outcome_that_reaches_its_level(rng: np.random.Generator) -> None:
    for law, step in ((counts(rng), 1.0), (binary(rng.random((4, 6, 2))), 1.0)):
        for q in np.concatenate([LEVELS[1:-1], rng.random(30)]):
            y = law.quantile(q)
            assert (law.cdf(y) >= q).all()
            assert (law.cdf(y - step) < q).all()


def test_interpolated_quantiles_are_within_half_a_draw_of_their_level(rng: np.random.Generator) -> None:
    law = PotentialOutcomes(rng.normal(size=(1, 20, 30, 2)))
    for q in rng.random(30):
        y = law.quantile(q)
        assert (law.cdf(y) >= q - 0.5 / 20 - 1e-9).all()
        assert (law.cdf(y - 1e-3 * np.abs(y)) <= q + 0.5 / 20 + 1e-9).all()


def test_quantiles_of_counts_are_whole_and_those_of_the_poisson_law() -> None:
    rate = np.array([[0.3, 2.0], [7.0, 30.0]])
    law = PotentialOutcomes(stats.poisson.ppf((np.arange(999)[:, None, None] + 0.5) / 999, rate)[None], kind="count")
    found = law.quantile(LEVELS[1:-2])
    np.testing.assert_array_equal(found, np.floor(found))
    np.testing.assert_array_equal(found, stats.poisson.ppf(LEVELS[1:-2, None, None], rate))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.98])
def test_the_interval_covers_its_own_draws_at_its_level(level: float, rng: np.random.Generator) -> None:
    draws = rng.gamma(2.0, size=(4, 50, 6, 2))
    lower, upper = PotentialOutcomes(draws).interval(level)
    inside = ((draws >= lower) & (draws <= upper)).mean(axis=(0, 1))
    np.testing.assert_allclose(inside, level, atol=1 / 200 + 1e-9)


def test_the_interval_is_two_quantiles(rng: np.random.Generator) -> None:
    law = counts(rng)
    lower, upper = law.interval(0.8)
    np.testing.assert_array_equal(lower, law.quantile(0.1))
    np.testing.assert_array_equal(upper, law.quantile(0.9))


def test_a_scalar_level_drops_the_leading_axis() -> None:
    law = gaussian(9)
    assert law.quantile(0.5).shape == (2, 2)
    assert law.quantile([0.5]).shape == (1, 2, 2)


@pytest.mark.parametrize("kind", ["continuous", "count"])
def test_working_in_chunks_changes_nothing(
    kind: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    law = PotentialOutcomes(rng.poisson(5, size=(2, 5, 13, 3)), kind=kind, arms=("a", "b", "c"))
    whole = law.quantile(LEVELS), law.interval(0.8), law.effect("b").prob_benefit()
    for size in (1, 70, 10**9):  # one row at a time, a few with a rest, everything at once
        monkeypatch.setattr(module, "_CHUNK_VALUES", size)
        parts = law.quantile(LEVELS), law.interval(0.8), law.effect("b").prob_benefit()
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_array_equal(one, other)


# --------------------------------------------------------------------------------------------------------------- binary


def test_a_binary_outcome_is_the_bernoulli_law_of_the_average_probability() -> None:
    law = binary([[[0.2, 0.9]], [[0.4, 0.5]]])
    p = np.array([[0.3, 0.7]])
    np.testing.assert_allclose(law.mean(), p, rtol=1e-6)
    np.testing.assert_allclose(law.std(), np.sqrt(p * (1 - p)), rtol=1e-6)  # model uncertainty adds nothing to it
    for y, expected in ((-0.5, 0 * p), (0.0, 1 - p), (0.5, 1 - p), (1.0, p / p), (np.inf, p / p)):
        np.testing.assert_allclose(law.cdf(y), expected, rtol=1e-6)
    np.testing.assert_array_equal(law.quantile([0.0, 0.29, 0.31, 0.69, 0.71, 1.0])[:, 0, 0], [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(law.quantile([0.0, 0.29, 0.31, 0.69, 0.71, 1.0])[:, 0, 1], [0, 0, 1, 1, 1, 1])
    for q in (0.1, 0.5, 0.9):
        np.testing.assert_array_equal(law.quantile(q), stats.bernoulli.ppf(q, p))
    even = binary([[[0.5, 0.5]]])  # the boundary belongs to zero
    assert even.quantile([0.5, 0.5 + 1e-9])[:, 0, 0].tolist() == [0.0, 1.0]


def test_the_crps_of_a_binary_outcome_is_the_brier_score() -> None:
    law = binary([[[0.2, 0.9], [0.0, 1.0]], [[0.4, 0.5], [0.0, 1.0]]])
    np.testing.assert_allclose(law.crps([1, 1], [0, 1]), [0.7**2, 0.0], atol=1e-7)
    np.testing.assert_allclose(law.crps([0, 1], [1, 0]), [0.7**2, 1.0], rtol=1e-6)


def test_binary_intervals_in_the_table_are_of_the_probability() -> None:
    p = np.linspace(0.2, 0.6, 101)
    table = binary(np.tile(p[:, None, None], (1, 1, 2))).to_frame(level=0.8)
    np.testing.assert_allclose(table[["lower_0", "upper_0"]].to_numpy(), [[0.24, 0.56]], atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- sampling


def test_samples_have_the_law_of_the_draws() -> None:
    law = gaussian(200)
    drawn = law.sample(4000, random_state=0)
    assert drawn.shape == (4000, 2, 2)
    for unit in range(2):
        for arm in range(2):
            pool = law.draws[:, :, unit, arm].ravel()
            assert np.isin(drawn[:, unit, arm], pool).all()
            assert stats.ks_2samp(drawn[:, unit, arm], pool).pvalue > 1e-3


def test_sampled_arms_are_independent_even_where_the_draws_are_paired() -> None:
    law = gaussian(100)  # both arms' draws are the same increasing nodes
    drawn = law.sample(4000, random_state=1)
    assert abs(np.corrcoef(drawn[:, 0, 0], drawn[:, 0, 1])[0, 1]) < 4 / np.sqrt(4000)


def test_samples_of_a_binary_outcome_are_events_with_its_probability() -> None:
    law = binary([[[0.2, 0.9]], [[0.4, 0.5]]])
    drawn = law.sample(5000, random_state=0)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.mean(axis=0), [[0.3, 0.7]], atol=4 * np.sqrt(0.21 / 5000))


def test_samples_repeat_with_their_seed() -> None:
    law = gaussian(50)
    np.testing.assert_array_equal(law.sample(7, random_state=3), law.sample(7, np.random.default_rng(3)))
    assert not np.array_equal(law.sample(7, random_state=3), law.sample(7, random_state=4))


# --------------------------------------------------------------------------------------------------------------- scores


def test_crps_of_normal_nodes_is_the_closed_form_in_the_own_arm() -> None:
    nodes_of = nodes(stats.norm, 2001)[None, :, None, None]
    law = PotentialOutcomes(MEANS[:1, None] + SD * nodes_of)
    for arm in ([0, 1], [1, 0]):
        y, own = np.array([0.7, 4.0]), (np.arange(2), np.array(arm))
        np.testing.assert_allclose(law.crps(y, arm), crps_gaussian(y, MEANS[0][own], SD[own]), atol=2e-3)


# -------------------------------------------------------------------------------------------------------------- effects


def three_arms(rng: np.random.Generator) -> PotentialOutcomes:
    return PotentialOutcomes(rng.normal(size=(4, 5, 6, 3)), arms=("placebo", "low", "high"), unit="mmHg")


def test_an_effect_is_the_difference_of_member_means(rng: np.random.Generator) -> None:
    law = three_arms(rng)
    means = law.draws.mean(axis=1, dtype=float)
    effect = law.effect("high")
    np.testing.assert_allclose(effect.members, means[:, :, 2] - means[:, :, 0])
    assert (effect.treated, effect.control, effect.unit) == ("high", "placebo", "mmHg")
    np.testing.assert_allclose(law.effect("low", control="high").members, means[:, :, 1] - means[:, :, 2])
    np.testing.assert_allclose(law.effect("placebo", control="high").mean, -effect.mean)


def test_two_arms_need_no_name_and_three_do(rng: np.random.Generator) -> None:
    assert gaussian(5, arms=(False, True)).effect().treated is True
    assert gaussian(5, arms=("a", "b")).effect(control="b").treated == "a"
    with pytest.raises(ValueError, match=r"treated= .* 3 arms: .*'low', 'high'"):
        three_arms(rng).effect()


def test_impossible_contrasts_say_which_arms_there_are() -> None:
    arms = ("a", "b", "c")
    assert contrast(arms, "a", "c") == (0, 2)
    with pytest.raises(ValueError, match=r"treated='d' .*'a', 'b', 'c'"):
        contrast(arms, "d")
    with pytest.raises(ValueError, match="control='d'"):
        contrast(arms, "a", "d")
    with pytest.raises(ValueError, match="both 'b'"):
        contrast(arms, "b", "b")


# ------------------------------------------------------------------------------------------------- rows, tables, values


def test_taking_rows_commutes_with_every_reduction() -> None:
    index = pd.Index(["p7", "p9"], name="patient")
    law = gaussian(50, means=MEANS + 1.0, index=index)
    for rows in (np.array([1]), np.array([False, True]), np.array([1, 0, 1])):
        part = law.take(rows)
        assert len(part) == part.n_samples == len(index[rows])
        np.testing.assert_array_equal(part.mean(), law.mean()[rows])
        np.testing.assert_array_equal(part.quantile(0.2), law.quantile(0.2)[rows])
        np.testing.assert_array_equal(part.effect().members, law.effect().members[:, rows])
        pd.testing.assert_frame_equal(part.to_frame(), law.to_frame().iloc[np.arange(2)[rows]])


def test_the_table_has_one_row_a_unit_with_its_label() -> None:
    index = pd.Index(["p7", "p9"], name="patient")
    law = gaussian(50, arms=("placebo", "drug"), index=index)
    table = law.to_frame(level=0.5)
    assert list(table.columns) == [f"{s}_{a}" for a in ("placebo", "drug") for s in ("mean", "std", "lower", "upper")]
    pd.testing.assert_index_equal(table.index, index)
    pd.testing.assert_index_equal(law.effect().to_frame().index, index)
    np.testing.assert_array_equal(table["upper_drug"], law.quantile(0.75)[:, 1])
    np.testing.assert_array_equal(table["std_placebo"], law.std()[:, 0])


def test_outcomes_are_frozen_and_survive_pickling() -> None:
    law = gaussian(20, arms=("a", "b"), index=pd.Index([3, 4]), unit="kg")
    with pytest.raises(FrozenInstanceError):
        law.unit = "g"  # type: ignore[misc]
    twin = pickle.loads(pickle.dumps(law))
    pd.testing.assert_frame_equal(twin.to_frame(), law.to_frame())
    assert (twin.arms, twin.kind, twin.unit) == (law.arms, law.kind, law.unit)
    effect = pickle.loads(pickle.dumps(law.effect()))  # with the laws that its bounds need
    np.testing.assert_array_equal(effect.prob_benefit(), law.effect().prob_benefit())
    assert law == law and law != twin and law in {law}  # values of arrays have no single truth: identity, no error


def test_sizes_are_read_from_the_draws() -> None:
    law = PotentialOutcomes(np.zeros((2, 3, 5, 4)), arms=tuple("abcd"))
    assert (law.n_members, law.n_draws, law.n_samples, law.n_arms, len(law)) == (2, 3, 5, 4, 5)
    assert "n_samples=5" in repr(law) and "0." not in repr(law)
    assert law.draws.dtype == np.float32


# --------------------------------------------------------------------------------------------------------------- errors

GOOD = np.zeros((1, 3, 2, 2))


@pytest.mark.parametrize(
    ("draws", "keywords", "message"),
    [
        (np.zeros((3, 2, 2)), {}, r"shape \(n_members, n_draws, n_samples, n_arms\), got \(3, 2, 2\)"),
        (np.zeros((1, 3, 0, 2)), {}, r"got \(1, 3, 0, 2\)"),
        (GOOD, {"arms": ("a", "b", "c")}, "3 arm labels were given for 2 arms"),
        (GOOD, {"kind": "ordinal"}, "got 'ordinal'"),
        (np.full_like(GOOD, np.nan), {}, "NaN"),
        (np.full_like(GOOD, np.inf), {}, "infinite"),
        (GOOD, {"kind": "binary"}, "one probability"),
        (np.full((1, 1, 2, 2), 1.1), {"kind": "binary"}, r"probability in \[0, 1\]"),
        (np.full((1, 1, 2, 2), -0.1), {"kind": "binary"}, r"probability in \[0, 1\]"),
        (GOOD, {"means": np.zeros((2, 2))}, r"means must have shape .* got \(2, 2\)"),
        (GOOD, {"means": np.full((1, 2, 2), np.nan)}, "means hold NaN"),
        (GOOD, {"index": pd.RangeIndex(3)}, "3 labels for 2 units"),
    ],
)
def test_impossible_laws_are_refused(draws: Array, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PotentialOutcomes(draws, **keywords)


@pytest.mark.parametrize("q", [-0.1, 1.1, np.nan, [0.5, 2.0], [[0.5]]])
def test_levels_of_quantiles_are_probabilities(q: Any) -> None:
    for law in (gaussian(5), binary([[[0.2, 0.9]]])):
        with pytest.raises(ValueError, match="probabilities between 0 and 1"):
            law.quantile(q)


@pytest.mark.parametrize("level", [0.0, 1.0, 90, np.nan])
def test_levels_of_intervals_are_open_probabilities(level: float) -> None:
    for call in (gaussian(5).interval, binary([[[0.2, 0.9]]]).to_frame):
        with pytest.raises(ValueError, match="level must lie strictly between 0 and 1"):
            call(level)


def test_the_cdf_refuses_what_does_not_fit_the_units() -> None:
    law = PotentialOutcomes(np.zeros((1, 3, 4, 2)))
    with pytest.raises(ValueError, match=r"broadcast to \(4, 2\), got shape \(3, 4, 2\)"):
        law.cdf(np.zeros((3, 4, 2)))  # would broadcast against the draws
    with pytest.raises(ValueError, match="NaN"):
        law.cdf(np.nan)


@pytest.mark.parametrize(
    ("y", "arm", "message"),
    [
        ([1.0], [0, 1], "y has shape"),
        ([1.0, 0.0], [0], "arm has shape"),
        ([[1.0], [0.0]], [0, 1], "y has shape"),
        ([1.0, np.nan], [0, 1], "y is nan"),
        ([1.0, 0.0], [0, 2], "arms from 0 to 2"),
        ([1.0, 0.0], [-1, 0], "arms from -1 to 0"),
        ([1.0, 0.0], [0.0, 1.0], "integer arms"),
    ],
)
def test_scores_refuse_what_does_not_fit_the_units(y: Any, arm: Any, message: str) -> None:
    for law in (gaussian(5), binary(np.full((1, 2, 2), 0.5))):
        with pytest.raises(ValueError, match=message):
            law.crps(y, arm)


def test_scores_of_a_binary_outcome_refuse_other_values() -> None:
    with pytest.raises(ValueError, match="0 or 1"):
        binary(np.full((1, 2, 2), 0.5)).crps([1.0, 2.0], [0, 1])
