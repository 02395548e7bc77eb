"""Support is calibrated: rows of the same law are seldom flagged, rows of another law are, and the reason is right."""

from __future__ import annotations

import time
import tracemalloc
import warnings

import numpy as np
import pytest
from scipy import stats

from effects.support import Support, SupportModel, crump_limit


def trial(n: int, d: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlated covariates, arms by a coin, its propensity."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(d, d))
    return (rng.normal(size=(n, d)) @ mix).astype(np.float32), rng.integers(2, size=n), np.full((n, 2), 0.5)


def fit(n: int = 600, d: int = 4, seed: int = 0, **options) -> SupportModel:
    E, a, e = trial(n, d, seed)
    return SupportModel.fit(E, a, np.ones(n), e, 2, 0, **options)


def mixed(n: int, seed: int) -> np.ndarray:
    """Skewed numbers, a category of 30 unequal levels, and a missing indicator."""
    rng = np.random.default_rng(seed)
    share = np.random.default_rng(7).dirichlet(np.full(30, 0.4))
    numbers = rng.exponential(size=(n, 4))
    missing = (rng.random(n) < 0.05).astype(float)
    numbers[:, 0] = np.where(missing > 0, 0.7, numbers[:, 0])
    return np.column_stack([numbers, missing, np.eye(30)[rng.choice(30, size=n, p=share)]]).astype(np.float32)


# ---- distance


def test_far_units_are_flagged_as_unlike_every_arm() -> None:
    E = np.zeros((3, 4), dtype=np.float32)
    E[1], E[2, 0] = 20, 60
    support = fit().score(E, np.full((3, 2), 0.5), arms=("placebo", "drug"))
    assert support.supported.tolist() == [True, False, False]
    assert support.reason.tolist() == ["", "unlike:placebo; unlike:drug", "unlike:placebo; unlike:drug"]
    assert (support.p_value[1:] < 1e-3).all() and (support.distance[1:] > 3).all()


def test_a_unit_that_breaks_the_correlation_is_far_though_no_column_is() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=1000)
    E = np.column_stack([x, x + 0.1 * rng.normal(size=1000)]).astype(np.float32)
    model = SupportModel.fit(E, np.arange(1000) % 2, np.ones(1000), np.full((1000, 2), 0.5), 2, 0)
    new = np.array([[1.5, 1.5], [1.5, -1.5]], dtype=np.float32)
    assert model.score(new, np.full((2, 2), 0.5)).supported.tolist() == [True, False]


def test_a_hole_between_clusters_is_far_though_it_is_the_mean() -> None:
    rng = np.random.default_rng(2)
    side = np.where(rng.random(1000) < 0.5, -6.0, 6.0)
    E = (rng.normal(size=(1000, 2)) + side[:, None] * [1, 0]).astype(np.float32)
    model = SupportModel.fit(E, np.arange(1000) % 2, np.ones(1000), np.full((1000, 2), 0.5), 2, 0)
    new = np.array([[0, 0], [6, 0]], dtype=np.float32)
    assert model.score(new, np.full((2, 2), 0.5)).supported.tolist() == [False, True]


def test_an_arm_never_seen_in_a_region_is_named() -> None:
    rng = np.random.default_rng(3)
    E = rng.uniform(-5, 5, size=(2000, 2)).astype(np.float32)
    p = np.where(E[:, 0] > 1, 1e-3, 0.5)  # nobody beyond 1 gets the drug
    a = (rng.random(2000) < np.where(E[:, 0] > 1, 0.0, 0.5)).astype(int)
    model = SupportModel.fit(E, a, np.ones(2000), np.column_stack([1 - p, p]), 2, 0)
    new = np.array([[4.5, 0], [-3, 0]], dtype=np.float32)
    e = np.array([[0.999, 0.001], [0.5, 0.5]])
    support = model.score(new, e, arms=("placebo", "drug"))
    assert support.reason.tolist() == ["unlike:drug; rare:drug", ""]
    assert support.p_value[0, 0] > 0.02  # the other arm's rows are there


@pytest.mark.parametrize("law", ["normal", "wide", "mixed", "heavy"])
@pytest.mark.parametrize("n", [200, 1000])
def test_about_one_in_a_hundred_of_the_same_law_is_flagged(law: str, n: int) -> None:
    flagged, p_values = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        if law == "mixed":
            both = mixed(n + 2000, seed)
        elif law == "heavy":
            both = rng.standard_t(3, size=(n + 2000, 5)).astype(np.float32)
        else:
            both = trial(n + 2000, 60 if law == "wide" else 4, seed)[0]
        model = SupportModel.fit(both[:n], rng.integers(2, size=n), np.ones(n), np.full((n, 2), 0.5), 2, seed)
        support = model.score(both[n:], np.full((2000, 2), 0.5))
        flagged.append(1 - support.supported.mean())
        p_values.append((support.p_value <= 0.1).mean())
    assert 0.0005 < np.mean(flagged) < 0.013
    assert 0.06 < np.mean(p_values) < 0.12


@pytest.mark.slow
def test_flags_and_p_values_hold_their_level_over_many_fits() -> None:
    """Conformal validity: over 300 fits, the p-value of one new row is uniform (super-uniform, by cross-fitting)."""
    n_sets, n = 300, 400
    p, flags = [], 0
    for seed in range(n_sets):
        E, a, e = trial(n + 1, 6, 1000 + seed)
        model = SupportModel.fit(E[:n], a[:n], np.ones(n), e[:n], 2, seed)
        support = model.score(E[n:], e[n:])
        p.append(support.p_value[0, 0])
        flags += int(not support.supported[0])
    for level in (0.05, 0.1, 0.25, 0.5):
        low, high = stats.binom.ppf([0.001, 0.999], n_sets, level) / n_sets
        assert low <= np.mean(np.array(p) <= level) <= high
    assert flags <= stats.binom.ppf(0.999, n_sets, 0.01)


def test_small_arms_can_flag_too() -> None:
    rng = np.random.default_rng(4)
    E, a = rng.normal(size=(60, 3)).astype(np.float32), np.arange(60) % 2
    model = SupportModel.fit(E, a, np.ones(60), np.full((60, 2), 0.5), 2, 0)
    new = np.array([[0, 0, 0], [12, 0, 0]], dtype=np.float32)
    support = model.score(new, np.full((2, 2), 0.5))
    assert support.supported.tolist() == [True, False]
    assert support.p_value[1].max() < 1 / 31  # beyond what ranks alone could say


def test_p_value_falls_with_distance_and_a_typical_row_has_distance_one() -> None:
    model = fit(1000)
    E = np.outer(np.linspace(0, 40, 200), [1, 1, 1, 1]).astype(np.float32)
    support = model.score(E, np.full((200, 2), 0.5))
    order = np.argsort(support.distance[:, 0])
    assert (np.diff(support.p_value[order, 0]) <= 1e-12).all()
    new, _, e = trial(4000, 4, 5)
    assert np.median(model.score(new, e).distance[:, 0]) == pytest.approx(1, abs=0.06)


def test_a_category_or_missing_value_never_seen_is_farther_than_a_common_one() -> None:
    E = mixed(1500, 8)
    common = int(E[:, 5:].sum(axis=0).argmax())
    E = E[E[:, 5 + (common + 1) % 30] == 0]  # this level never occurs
    n = len(E)
    model = SupportModel.fit(E, np.arange(n) % 2, np.ones(n), np.full((n, 2), 0.5), 2, 0)
    usual = np.array([0.7, 0.7, 0.7, 0.7, 0, *np.eye(30)[common]])
    unseen = np.array([0.7, 0.7, 0.7, 0.7, 0, *np.eye(30)[(common + 1) % 30]])
    support = model.score(np.array([usual, unseen], dtype=np.float32), np.full((2, 2), 0.5))
    assert support.distance[1].min() > 1.3 * support.distance[0].max()
    assert support.supported[0]


def test_a_rare_level_does_not_drown_the_numbers() -> None:
    E = np.column_stack([np.random.default_rng(9).normal(size=(1000, 2)), np.zeros(1000)]).astype(np.float32)
    E[:10, 2] = 1  # one row in a hundred
    model = SupportModel.fit(E, np.arange(1000) % 2, np.ones(1000), np.full((1000, 2), 0.5), 2, 0)
    support = model.score(np.array([[0, 0, 1], [9, 9, 0]], dtype=np.float32), np.full((2, 2), 0.5))
    assert support.distance[0].max() < support.distance[1].min()


# ---- overlap


def test_no_unit_of_a_trial_is_rare_even_by_an_estimated_propensity() -> None:
    rng = np.random.default_rng(10)
    E, a, _ = trial(400)
    p = np.clip(0.5 + 0.05 * rng.normal(size=400), 0.3, 0.7)
    for overlap in ("rows", "crump"):
        model = SupportModel.fit(E, a, np.ones(400), np.column_stack([1 - p, p]), 2, 0, overlap=overlap)
        assert not model.score(E, np.column_stack([1 - p, p])).rare.any()


def test_a_trial_that_treats_one_in_forty_by_design_keeps_its_units() -> None:
    E, _, _ = trial(400)
    a = (np.arange(400) % 40 == 0).astype(int)
    e = np.tile([0.975, 0.025], (400, 1))
    model = SupportModel.fit(E, a, np.ones(400), e, 2, 0)
    assert 0.025 < 5 / 400**0.8 and not model.score(E, e * (1 - 1e-9)).rare.any()
    # the same propensity, where the rows that got the arm all had a larger one
    high = np.where(a[:, None] == 1, [0.5, 0.5], e)
    assert SupportModel.fit(E, a, np.ones(400), high, 2, 0).score(E[:1], e[:1]).rare.tolist() == [[False, True]]


def test_more_rows_support_lower_propensities() -> None:
    limits = [fit(n).limit.max() for n in (200, 2000)]
    assert limits[0] == pytest.approx(5 / 200**0.8) and limits[1] == pytest.approx(5 / 2000**0.8)
    assert fit(200, min_rows=10).limit.max() == pytest.approx(10 / 200**0.8)


@pytest.mark.parametrize("ability", [0.3, 2.0, 4.0])
def test_crump_rule_solves_its_equation(ability: float) -> None:
    x = np.random.default_rng(11).normal(size=5000)
    p = 1 / (1 + np.exp(-ability * x))
    g = 1 / (p * (1 - p))
    limit = crump_limit(np.column_stack([1 - p, p]))
    if g.max() <= 2 * g.mean():
        assert limit == np.inf
    else:  # Crump et al. 2009, corollary 1: lambda = 2 E[g | g <= lambda]
        assert limit == pytest.approx(2 * g[g <= limit].mean(), rel=1e-9)
        assert 4 < limit < g.max()


def test_crump_limit_is_the_published_rule_of_thumb_for_uniform_propensities() -> None:
    """Where propensities are uniform the optimal cut lies near 0.1 (Crump et al. 2009, section 4)."""
    p = (np.arange(20_000) + 0.5) / 20_000
    limit = crump_limit(np.column_stack([1 - p, p]))
    cut = 0.5 - np.sqrt(0.25 - 1 / limit)
    assert 0.07 < cut < 0.12


def test_crump_flags_the_arm_with_the_lowest_propensity() -> None:
    rng = np.random.default_rng(12)
    x = rng.normal(size=(2000, 1)).astype(np.float32)
    p = 1 / (1 + np.exp(-3 * x[:, 0].astype(float)))
    e = np.column_stack([1 - p, p])
    model = SupportModel.fit(x, (rng.random(2000) < p).astype(int), np.ones(2000), e, 2, 0, overlap="crump")
    rare = model.score(x[:2] * 0, np.array([[0.001, 0.999], [0.5, 0.5]])).rare
    assert rare.tolist() == [[True, False], [False, False]]


def test_three_arms() -> None:
    rng = np.random.default_rng(13)
    E, a = rng.normal(size=(600, 3)).astype(np.float32), np.arange(600) % 3
    model = SupportModel.fit(E, a, np.ones(600), np.full((600, 3), 1 / 3), 3, 0)
    support = model.score(E[:5], np.array([[1 / 3, 1 / 3, 1 / 3]] * 4 + [[0.6, 0.4, 0.0]]), arms=("a", "b", "c"))
    assert support.p_value.shape == (5, 3) and support.reason[4].endswith("rare:c")
    assert SupportModel.fit(E, a, np.ones(600), np.full((600, 3), 1 / 3), 3, 0, overlap="crump").crump == np.inf


# ---- manners


def test_the_order_of_the_rows_changes_nothing() -> None:
    E, weight = mixed(500, 14), np.random.default_rng(14).uniform(0.5, 2, size=500)
    a, p = np.arange(500) % 2, np.random.default_rng(15).uniform(0.2, 0.8, size=500)
    e, shuffled = np.column_stack([1 - p, p]), np.random.default_rng(16).permutation(500)
    one = SupportModel.fit(E, a, weight, e, 2, 3).score(E, e)
    two = SupportModel.fit(E[shuffled], a[shuffled], weight[shuffled], e[shuffled], 2, 3).score(E, e)
    assert one.p_value == pytest.approx(two.p_value, abs=1e-5)
    assert one.distance == pytest.approx(two.distance, rel=1e-4)
    again = SupportModel.fit(E, a, weight, e, 2, 3).score(E, e)
    assert (one.p_value == again.p_value).all()


def test_rows_of_weight_zero_do_not_count_and_weights_do() -> None:
    E, a, e = trial(400)
    far = E.copy()
    far[::4] += 50
    weight = np.ones(400)
    weight[::4] = 0
    model = SupportModel.fit(far, a, weight, e, 2, 0)
    kept = SupportModel.fit(E[weight > 0], a[weight > 0], np.ones(300), e[:300], 2, 0)
    assert model.centres == pytest.approx(kept.centres)
    assert not model.score(far[:1], e[:1]).supported[0]
    heavy = np.where(E[:, 0] > np.quantile(E[:, 0], 0.8), 20.0, 1.0)
    tilted = SupportModel.fit(E, a, heavy, e, 2, 0)
    right = E[E[:, 0] > np.quantile(E[:, 0], 0.95)]
    half = np.full((len(right), 2), 0.5)
    plain = SupportModel.fit(E, a, np.ones(400), e, 2, 0)
    assert tilted.score(right, half).p_value.mean() > plain.score(right, half).p_value.mean() + 0.1


def test_saving_keeps_every_answer_and_no_row() -> None:
    E, a, e = trial(300, 5)
    for overlap in ("rows", "crump"):
        model = SupportModel.fit(E, a, np.ones(300), e, 2, 0, overlap=overlap)
        arrays, meta = model.to_arrays()
        back = SupportModel.from_arrays({k: v.copy() for k, v in arrays.items()}, meta)
        one, two = model.score(E, e), back.score(E, e)
        assert (one.p_value == two.p_value).all() and (one.reason == two.reason).all()
    Z = (E - arrays["shift"]) / arrays["scale"] @ arrays["whiten"]
    gap = np.abs(Z[:, None] - arrays["centres"][None]).max(axis=2).min(axis=0)
    assert gap.min() > 1e-3  # no centre is a row
    assert sum(value.nbytes for value in arrays.values()) < 40_000


@pytest.mark.parametrize("damage", ["shift", "table_distance", "arm_of", "centres"])
def test_a_damaged_file_is_refused(damage: str) -> None:
    arrays, meta = fit(100).to_arrays()
    arrays[damage] = arrays[damage][1:]
    with pytest.raises(ValueError, match="damaged"):
        SupportModel.from_arrays(arrays, meta)
    arrays, meta = fit(100).to_arrays()
    arrays["scale"] = np.zeros_like(arrays["scale"])
    with pytest.raises(ValueError, match="damaged"):
        SupportModel.from_arrays(arrays, meta)


def test_frame() -> None:
    E, _, e = trial(100)
    frame = fit(100).score(E[:2], e[:2], arms=("placebo", "drug")).to_frame()
    wanted = ["supported", "reason", "propensity_placebo", "distance_placebo", "p_value_placebo"]
    assert list(frame)[:5] == wanted and len(frame) == 2
    assert isinstance(fit(100).score(E[:2], e[:2]), Support)


def test_degenerate_tables_are_no_error() -> None:
    same = np.zeros((40, 3), dtype=np.float32)
    one_hot = np.eye(3, dtype=np.float32)[np.arange(400) % 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = SupportModel.fit(same, np.arange(40) % 2, np.ones(40), np.full((40, 2), 0.5), 2, 0)
        support = model.score(np.array([[0, 0, 0], [3, 0, 0]], dtype=np.float32), np.full((2, 2), 0.5))
        assert support.supported.tolist() == [True, False]
        model = SupportModel.fit(one_hot, np.arange(400) % 2, np.ones(400), np.full((400, 2), 0.5), 2, 0)
        assert model.score(one_hot, np.full((400, 2), 0.5)).supported.all()
        tiny = SupportModel.fit(same[:4], np.array([0, 0, 1, 1]), np.ones(4), np.full((4, 2), 0.5), 2, 0)
        assert np.isfinite(tiny.score(same, np.full((40, 2), 0.5)).p_value).all()


def test_many_columns() -> None:
    rng = np.random.default_rng(17)
    E = rng.normal(size=(300, 400)).astype(np.float32)
    model = SupportModel.fit(E, np.arange(300) % 2, np.ones(300), np.full((300, 2), 0.5), 2, 0)
    assert model.whiten.shape == (400,)
    new = rng.normal(size=(500, 400)).astype(np.float32)
    assert model.score(new, np.full((500, 2), 0.5)).supported.mean() > 0.97
    assert not model.score(new * 1.5, np.full((500, 2), 0.5)).supported.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(50, overlap="all"), "overlap must be 'rows' or 'crump', got 'all'"),
        (lambda: fit(50).score(np.zeros((2, 3), dtype=np.float32), np.full((2, 2), 0.5)), r"expected \(n, 4\)"),
        (lambda: fit(50).score(np.zeros((2, 4), dtype=np.float32), np.full((2, 3), 0.3)), r"and \(n, 2\)"),
        (lambda: fit(50).score(np.zeros((2, 4), np.float32), np.full((2, 2), 0.5), level_flag=1), "level_flag"),
        (
            lambda: SupportModel.fit(
                np.zeros((3, 1), np.float32), np.array([0, 0, 1]), np.ones(3), np.ones((3, 2)), 2, 0
            ),
            r"arm 1 has 1 row\(s\)",
        ),
    ],
)
def test_bad_calls(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_cheap_in_time_and_memory() -> None:
    E, a, e = trial(5000, 80)
    start = time.process_time()
    model = SupportModel.fit(E, a, np.ones(5000), e, 2, 0)
    assert time.process_time() - start < 1.5  # a fifth of this on an idle core
    many, half = np.tile(E, (12, 1)), np.full((60_000, 2), 0.5)
    tracemalloc.start()
    model.score(many, half)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
