"""Effects and estimates against closed forms, linear programmes over couplings, scipy and statsmodels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import linprog

from effects.effect import Effect, Estimate
from effects.individual import Law
from effects.outcomes import PotentialOutcomes

Array = NDArray[np.float64]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def of_laws(treated: Array, control: Array) -> Effect:
    """An effect whose laws are given as equally likely values, (n_points,) or (n_points, n_samples)."""
    t, c = (np.sort(np.asarray(v, dtype=float).reshape(len(v), -1), axis=0) for v in (treated, control))
    return Effect(np.zeros((1, t.shape[1])), laws=lambda: (Law(t), Law(c)))


def bounds(treated: Any, control: Any, threshold: float = 0.0) -> tuple[float, float]:
    lower, upper = of_laws(treated, control).prob_benefit(threshold)
    return float(lower[0]), float(upper[0])


# ------------------------------------------------------------------------------------------------------------ posterior


def test_moments_and_interval_are_those_of_a_normal_posterior(rng: np.random.Generator) -> None:
    members = np.array([1.0, -2.0]) + np.array([0.5, 3.0]) * rng.normal(size=(30, 2))
    effect = Effect(members, df=1e12)
    np.testing.assert_allclose(effect.mean, members.mean(axis=0))
    np.testing.assert_allclose(effect.std, members.std(axis=0))
    for level in (0.5, 0.9, 0.99):
        for ours, scipys in zip(
            effect.interval(level), stats.norm.interval(level, effect.mean, effect.std), strict=True
        ):
            np.testing.assert_allclose(ours, scipys, rtol=1e-6)
    for threshold in (-1.0, 0.0, 2.5):
        np.testing.assert_allclose(
            effect.prob_above(threshold), stats.norm.sf(threshold, loc=effect.mean, scale=effect.std), rtol=1e-6
        )


def test_few_members_make_a_wider_interval(rng: np.random.Generator) -> None:
    """Of a sample: Student's t about its mean, as scipy computes it; with given degrees of freedom, about `std`."""
    members = rng.normal(size=(5, 3))
    n = len(members)
    unbiased = members.std(axis=0, ddof=1)
    expected = stats.t.interval(0.9, n - 1, members.mean(axis=0), unbiased)
    np.testing.assert_allclose(Effect(members).interval(0.9), expected)
    np.testing.assert_allclose(Effect(members).prob_above(0.3), stats.t.sf(0.3, n - 1, members.mean(axis=0), unbiased))
    given = Effect(members, df=7.0)
    np.testing.assert_allclose(given.interval(0.9), stats.t.interval(0.9, 7, given.mean, given.std))
    # the interval of a sample of the posterior holds the next draw from it as often as it says, up to 1 / n_members
    draws = rng.normal(size=(20, 40_000))
    lower, upper = Effect(draws).interval(0.9)
    assert np.mean((lower <= 0) & (upper >= 0)) > 0.9
    with pytest.raises(ValueError, match="degrees of freedom"):
        Effect(members, df=0)


def test_unsupported_units_are_flagged_or_hidden(rng: np.random.Generator) -> None:
    members, supported = rng.normal(size=(6, 3)), np.array([True, False, True])
    flagged = Effect(members, supported=supported)
    assert flagged.to_frame()["supported"].tolist() == supported.tolist() and np.isfinite(flagged.mean).all()
    hidden = Effect(members, supported=supported, hidden=True)
    values = (hidden.mean, hidden.std, *hidden.interval(), hidden.prob_above())
    for value, shown in zip(
        values, (flagged.mean, flagged.std, *flagged.interval(), flagged.prob_above()), strict=True
    ):
        assert np.isnan(value).tolist() == [False, True, False]
        np.testing.assert_array_equal(value[supported], shown[supported])
    with pytest.raises(ValueError, match="supported has shape"):
        Effect(members, supported=supported[:2])


def test_the_interval_holds_the_effect_that_prob_above_calls_likely(rng: np.random.Generator) -> None:
    effect = Effect(rng.normal(size=(20, 5)))
    lower, upper = effect.interval(0.9)
    for unit in range(5):
        assert effect.prob_above(lower[unit])[unit] == pytest.approx(0.95)
        assert effect.prob_above(upper[unit])[unit] == pytest.approx(0.05)


def test_a_single_member_is_certain() -> None:
    effect = Effect(np.array([[-1.0, 0.0, 2.0]]))
    np.testing.assert_array_equal(effect.std, 0.0)
    np.testing.assert_array_equal(effect.prob_above(), [0.0, 0.0, 1.0])
    for limit in effect.interval():
        np.testing.assert_array_equal(limit, effect.mean)


def test_members_in_single_precision_keep_it_and_average_in_double() -> None:
    members = np.full((1000, 1), 0.1, dtype=np.float32)
    effect = Effect(members)
    assert effect.members.dtype == np.float32 and effect.mean.dtype == np.float64
    assert effect.mean[0] == pytest.approx(float(np.float32(0.1)), rel=1e-12)
    assert Effect(np.array([[1, 2]])).members.dtype == np.float64


# ----------------------------------------------------------------------------------------------------- Makarov's bounds


def test_identical_laws_may_benefit_nobody_or_nearly_everybody() -> None:
    for n in (1, 4, 50):
        lower, upper = bounds(np.arange(n), np.arange(n))
        assert lower == 0.0
        assert upper == pytest.approx(1 - 1 / n)  # shift everybody by one: only the last has nowhere to go


def test_a_shift_larger_than_the_spread_benefits_everybody() -> None:
    control = np.linspace(0, 1, 20)
    assert bounds(control + 1.01, control) == (1.0, 1.0)
    assert bounds(control - 1.01, control) == (0.0, 0.0)
    assert bounds(control + 3.0, control, threshold=1.9) == (1.0, 1.0)
    assert bounds(control + 1.0, control + 0.0, threshold=2.1) == (0.0, 0.0)


def test_the_inequality_is_strict() -> None:
    assert bounds([1.0, 1.0], [1.0, 1.0]) == (0.0, 0.0)
    assert bounds([3.0], [1.0], threshold=2.0) == (0.0, 0.0)
    assert bounds([3.0], [1.0], threshold=1.99) == (1.0, 1.0)


@pytest.mark.parametrize("shift", [-1.5, -0.2, 0.0, 0.7, 2.0])
def test_two_normal_laws_of_equal_spread_have_fan_and_parks_closed_form(shift: float) -> None:
    nodes = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    lower, upper = bounds(shift + 1.3 * nodes, 1.3 * nodes)
    reach = 2 * stats.norm.cdf(abs(shift) / 2.6) - 1
    assert lower == pytest.approx(reach if shift > 0 else 0.0, abs=2e-3)
    assert upper == pytest.approx(1.0 if shift > 0 else 1 - reach, abs=2e-3)


@pytest.mark.parametrize(("p0", "p1"), [(0.0, 0.0), (0.2, 0.5), (0.5, 0.2), (0.6, 0.9), (1.0, 1.0), (0.3, 0.3)])
def test_binary_bounds_are_frechets(p0: float, p1: float) -> None:
    outcomes = PotentialOutcomes(np.array([p0, p1]).reshape(1, 1, 1, 2), kind="binary")
    lower, upper = outcomes.effect().prob_benefit()
    assert lower[0] == pytest.approx(max(0.0, p1 - p0), abs=1e-6)
    assert upper[0] == pytest.approx(min(p1, 1 - p0), abs=1e-6)
    # gains of more than minus one: everybody but those whom treatment takes the event from
    lower, upper = outcomes.effect().prob_benefit(threshold=-1.0)
    assert lower[0] == pytest.approx(1 - min(p0, 1 - p1), abs=1e-6)
    assert upper[0] == pytest.approx(1 - max(0.0, p0 - p1), abs=1e-6)


def couplings(n: int, rng: np.random.Generator) -> Iterator[Any]:
    """Orders of the control group's values beside the sorted treated ones."""
    yield np.arange(n)
    yield np.arange(n)[::-1]
    for shift in range(1, n, max(1, n // 10)):
        yield np.roll(np.arange(n), shift)
    for _ in range(20):
        yield rng.permutation(n)


def test_every_coupling_lies_within_the_bounds(rng: np.random.Generator) -> None:
    for _ in range(20):
        n = 40
        treated = np.sort(rng.choice([rng.normal(0.3, 2, n), rng.poisson(2.0, n), rng.exponential(size=n)]))
        control = np.sort(rng.choice([rng.normal(size=n), rng.poisson(1.5, n)]))
        for threshold in (-1.0, 0.0, 0.5):
            lower, upper = bounds(treated, control, threshold)
            assert 0 <= lower <= upper <= 1
            for order in couplings(n, rng):
                share = np.mean(treated - control[order] > threshold)
                assert lower - 1e-12 <= share <= upper + 1e-12


def test_a_linear_programme_over_all_couplings_attains_the_bounds(rng: np.random.Generator) -> None:
    for n_treated, n_control in [(5, 5), (6, 4), (3, 7), (8, 8)] * 4:
        treated, control = rng.integers(0, 5, n_treated).astype(float), rng.integers(0, 4, n_control).astype(float)
        threshold = float(rng.integers(-1, 3))
        benefit = (treated[:, None] - control[None, :] > threshold).astype(float).ravel()
        margins = np.vstack([np.kron(np.eye(n_treated), np.ones(n_control)), np.tile(np.eye(n_control), n_treated)])
        totals = np.concatenate([np.full(n_treated, 1 / n_treated), np.full(n_control, 1 / n_control)])
        least = linprog(benefit, A_eq=margins, b_eq=totals).fun
        most = -linprog(-benefit, A_eq=margins, b_eq=totals).fun
        assert bounds(treated, control, threshold) == pytest.approx((least, most), abs=1e-8)


def test_bounds_fall_with_the_threshold_and_mirror_the_opposite_effect(rng: np.random.Generator) -> None:
    treated, control = rng.normal(0.4, 1, (30, 4)), rng.normal(size=(25, 4))
    last = (np.ones(4), np.ones(4))
    for threshold in np.linspace(-4, 4, 17):
        now = of_laws(treated, control).prob_benefit(threshold)
        assert (now[0] <= last[0]).all() and (now[1] <= last[1]).all()
        # without ties, not to gain more than delta is to lose more than minus delta
        lower, upper = of_laws(control, treated).prob_benefit(-threshold)
        np.testing.assert_allclose(now[0], 1 - upper)
        np.testing.assert_allclose(now[1], 1 - lower)
        last = now


def test_laws_are_asked_for_only_by_the_bounds() -> None:
    asked: list[int] = []

    def laws() -> tuple[Law, Law]:
        asked.append(1)
        return Law(np.array([[2.0]])), Law(np.array([[1.0]]))

    effect = Effect(np.ones((2, 1)), laws=laws)
    _ = effect.mean, effect.interval(), effect.prob_above(), effect.to_frame(), effect.by(["a"]), repr(effect)
    assert not asked
    lower, upper = effect.prob_benefit()
    assert (lower.item(), upper.item(), asked) == (1.0, 1.0, [1])
    with pytest.raises(ValueError, match="needs the outcomes' laws"):
        Effect(np.ones((2, 1))).prob_benefit()


# --------------------------------------------------------------------------------------------------------------- groups


def test_units_that_move_together_do_not_average_their_error_away(rng: np.random.Generator) -> None:
    common = rng.normal(size=(50, 1))
    together = Effect(np.repeat(common, 30, axis=1)).by(np.zeros(30))
    assert together["std"].item() == pytest.approx(common.std())
    opposite = Effect(np.column_stack([common, -common])).by([0, 0])
    assert opposite["std"].item() == pytest.approx(0.0, abs=1e-12)


def test_groups_are_averages_of_the_members(rng: np.random.Generator) -> None:
    members, labels = rng.normal(size=(40, 9)), np.array(list("bababacca"))
    table = Effect(members).by(labels, level=0.8)
    assert table.index.tolist() == ["a", "b", "c"] and table.index.name == "group"
    assert table["n"].tolist() == [4, 3, 2]
    for label in "abc":
        average = members[:, labels == label].mean(axis=1)
        row = table.loc[label]
        assert row["mean"] == pytest.approx(average.mean()) and row["std"] == pytest.approx(average.std())
        assert (row["lower"], row["upper"]) == pytest.approx(
            stats.t.interval(0.8, 39, average.mean(), average.std(ddof=1))
        )
    assert np.average(table["mean"], weights=table["n"]) == pytest.approx(members.mean())


@pytest.mark.parametrize(
    "labels",
    [
        ["x", None, "x", None],
        [1.0, np.nan, 1.0, np.nan],
        [1, None, 1, pd.NA],
        pd.Series(["x", pd.NA, "x", None], dtype="string", index=[9, 8, 7, 6]),
        pd.Categorical(["x", None, "x", None], categories=["z", "x"]),
        pd.DatetimeIndex(["2020-01-01", pd.NaT, "2020-01-01", pd.NaT]),
    ],
)
def test_missing_labels_form_a_group_and_come_last(labels: Any) -> None:
    table = Effect(np.array([[1.0, 10.0, 3.0, 20.0]])).by(labels)
    assert table["n"].tolist() == [2, 2]
    assert table["mean"].tolist() == [2.0, 15.0]
    assert table.index.isna().tolist() == [False, True]


def test_ordered_categories_keep_their_order_and_labels_go_by_position() -> None:
    ages = pd.Categorical(["old", "young", "middle"], categories=["young", "middle", "old"], ordered=True)
    effect = Effect(np.array([[3.0, 1.0, 2.0]]))
    assert effect.by(ages)["mean"].tolist() == [1.0, 2.0, 3.0]
    assert effect.by(pd.Series(["c", "a", "b"], index=[2, 0, 1]))["mean"].tolist() == [1.0, 2.0, 3.0]


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 labels for 3 units"):
        Effect(np.zeros((2, 3))).by(["a", "b"])


# --------------------------------------------------------------------------------------------------------------- values


def test_the_table_repeats_the_methods(rng: np.random.Generator) -> None:
    index = pd.Index(["p1", "p2", "p3"], name="patient")
    effect = Effect(rng.normal(size=(10, 3)), index=index)
    table = effect.to_frame(level=0.8)
    assert list(table.columns) == ["cate", "cate_std", "cate_lower", "cate_upper", "prob_positive"]
    pd.testing.assert_index_equal(table.index, index)
    expected = [effect.mean, effect.std, *effect.interval(0.8), effect.prob_above(0.0)]
    np.testing.assert_array_equal(table.to_numpy(), np.column_stack(expected))


@pytest.mark.parametrize("members", [np.zeros(3), np.zeros((1, 0)), np.zeros((0, 3)), np.zeros((1, 2, 3))])
def test_members_of_the_wrong_shape_are_refused(members: Array) -> None:
    with pytest.raises(ValueError, match=r"shape \(n_members, n_samples\)"):
        Effect(members)


def test_effects_are_finite_and_frozen() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        Effect(np.array([[1.0, np.nan]]))
    effect = Effect(np.ones((2, 3)))
    assert len(effect) == 3 and effect == effect and effect != Effect(np.ones((2, 3)))
    with pytest.raises(FrozenInstanceError):
        effect.unit = "kg"  # type: ignore[misc]


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, -0.1, np.nan])
def test_levels_are_open_probabilities(level: float) -> None:
    effect = Effect(np.ones((2, 3)))
    calls = [lambda: effect.interval(level), lambda: effect.to_frame(level), lambda: effect.by([0, 0, 0], level)]
    calls += [lambda: Estimate(0.0, 1.0, "m", 1, level=level), lambda: Estimate(0.0, 1.0, "m", 1).interval(level)]
    for call in calls:
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            call()


# ------------------------------------------------------------------------------------------------------------ estimates


def test_an_estimate_speaks_and_counts_as_statsmodels(rng: np.random.Generator) -> None:
    y = rng.normal(0.3, 1.0, size=40)
    model = sm.GLM(y, np.ones((40, 1))).fit()  # its tests are normal, as ours
    ours = Estimate(float(model.params[0]), float(model.bse[0]), method="mean", n=40)
    assert ours.statistic == pytest.approx(float(model.tvalues[0]))
    assert ours.p_value == pytest.approx(float(model.pvalues[0]))
    for level in (0.95, 0.9):
        assert ours.interval(level) == pytest.approx(tuple(model.conf_int(1 - level)[0]))
    header = [cell.strip() for cell in model.summary().tables[1].data[0]][1:]
    table = ours.to_frame()
    assert list(table.columns) == header == ["coef", "std err", "z", "P>|z|", "[0.025", "0.975]"]
    np.testing.assert_allclose(
        table.iloc[0].to_numpy(), [ours.value, ours.se, ours.statistic, ours.p_value, *ours.interval()]
    )


def test_published_normal_numbers() -> None:
    estimate = Estimate(1.959963984540054, 1.0, method="m", n=1)
    assert estimate.p_value == pytest.approx(0.05)
    assert estimate.interval() == pytest.approx((0.0, 3.919927969080108))
    assert Estimate(-3.0, 1.5, "m", 1).p_value == pytest.approx(0.04550026389635842)


def test_the_columns_are_named_by_the_level() -> None:
    assert list(Estimate(0.0, 1.0, "m", 1, level=0.9).to_frame().columns)[-2:] == ["[0.05", "0.95]"]
    assert list(Estimate(0.0, 1.0, "m", 1, level=0.99).to_frame().columns)[-2:] == ["[0.005", "0.995]"]


def test_without_error_an_effect_is_certain_and_no_effect_is_not_significant() -> None:
    for value in (2.0, -2.0):
        certain = Estimate(value, 0.0, method="m", n=3)
        assert certain.interval() == (value, value)
        assert certain.statistic == np.sign(value) * np.inf and certain.p_value == 0.0
    nothing = Estimate(0.0, 0.0, method="m", n=3)
    assert np.isnan(nothing.statistic) and np.isnan(nothing.p_value)
    assert nothing.interval() == (0.0, 0.0)
    assert "nan" in nothing.summary().lower()


@pytest.mark.parametrize("se", [-1.0, np.nan])
def test_a_standard_error_is_zero_or_more(se: float) -> None:
    with pytest.raises(ValueError, match="standard error cannot be"):
        Estimate(0.0, se, method="m", n=1)


def test_names_and_text_say_what_was_estimated() -> None:
    estimate = Estimate(-4.25, 1.0, "AIPW, 5 folds", n=321, treated="drug", control="placebo", unit="mmHg")
    assert estimate.name == "ATE [drug vs placebo]"
    assert str(estimate) == "ATE [drug vs placebo]: -4.25 mmHg (95% interval -6.21 to -2.29)"
    assert "AIPW, 5 folds" in estimate.summary() and "321" in estimate.summary()
    assert estimate.to_frame().index.tolist() == [estimate.name]
    assert Estimate(1.0, 1.0, "m", 1, estimand="mean", treated="drug").name == "mean [drug]"
    assert Estimate(1.0, 1.0, "m", 1, estimand="policy value").name == "policy value"
    assert "(99.9% interval" in str(Estimate(1.0, 1.0, "m", 1, level=0.999))
    with pytest.raises(FrozenInstanceError):
        estimate.value = 0.0  # type: ignore[misc]
