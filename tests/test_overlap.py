"""Overlap is counted as the formulas say, and trimming keeps the rows that its rules, computed otherwise, keep."""

# mypy: disable-error-code="operator, index, arg-type, attr-defined"

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from sklearn.exceptions import NotFittedError

from effects.diagnostics import Check, Trimming, check_overlap, trim
from effects.nuisance import CrossFitted
from effects.schema import Schema

Array = NDArray[np.float64]


@dataclass
class Given:
    """A fitted estimator as far as these checks see it: its schema, and propensities that a test chose."""

    schema_: Schema
    e: Array

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def cross_fitted(
        self, X: Any, y: Any, *, treatment: Any, sample_weight: ArrayLike | None = None, propensity: Any = None
    ) -> CrossFitted:
        return CrossFitted(np.zeros_like(self.e), self.e if propensity is None else propensity)


def ask(function: Any, e: Array, arm: NDArray[np.int64], X: Any = None, **options: Any) -> Any:
    e = np.column_stack([1 - e, e]) if e.ndim == 1 else e
    X = np.random.default_rng(0).normal(size=(len(arm), 2)) if X is None else X
    y = np.arange(len(arm), dtype=float) % 7
    return function(Given(Schema.learn(X, y, arm, outcome="continuous"), e), X, y, treatment=arm, **options)


def overlap(e: Array, arm: NDArray[np.int64], **options: Any) -> Check:
    return ask(check_overlap, e, arm, **options)


def trimmed(e: Array, arm: NDArray[np.int64], X: Any = None, **options: Any) -> Trimming:
    return ask(trim, e, arm, X, **options)


def draw(e: Array, seed: int = 0) -> NDArray[np.int64]:
    """Arms by their propensities, (n,) of the second or (n, n_arms)."""
    e = np.column_stack([1 - e, e]) if e.ndim == 1 else e
    return (np.random.default_rng(seed).random((len(e), 1)) > e.cumsum(axis=1)[:, :-1]).sum(axis=1)


def beta(n: int, seed: int = 0, a: float = 0.8) -> Array:
    return np.random.default_rng(seed).beta(a, a, n).clip(1e-4, 1 - 1e-4)


# ---- overlap


@pytest.mark.parametrize("share", [0.5, 0.02])
@pytest.mark.parametrize("estimand", ["ATE", "ATT", "ATC", "ATO"])
def test_a_trial_of_any_allocation_loses_nothing(share: float, estimand: str) -> None:
    arm = (np.arange(1000) < 1000 * share).astype(np.int64)
    check = overlap(np.full(1000, share), arm, estimand=estimand)
    assert check.passed is True and check.value == pytest.approx(1)
    assert check.table["n_effective"].to_numpy() == pytest.approx([1000 * (1 - share), 1000 * share])
    assert check.table["n_expected"].to_numpy() == pytest.approx([1000 * (1 - share), 1000 * share])


@pytest.mark.parametrize("estimand", ["ATE", "ATT", "ATC", "ATO"])
def test_effective_rows_by_plain_loops(estimand: str) -> None:
    e, rng = beta(300), np.random.default_rng(1)
    arm, w = draw(e), rng.uniform(0.2, 3, 300)
    table = overlap(e, arm, estimand=estimand, sample_weight=w).table
    h = {"ATE": lambda p: 1.0, "ATT": lambda p: p, "ATC": lambda p: 1 - p, "ATO": lambda p: p * (1 - p)}[estimand]
    for k in (0, 1):
        first = second = top = bottom = 0.0
        for i in range(300):
            got = e[i] if k else 1 - e[i]
            weight = w[i] * h(e[i]) / got
            if arm[i] == k:
                first, second = first + weight, second + weight**2
            top, bottom = top + w[i] * h(e[i]), bottom + (w[i] * h(e[i])) ** 2 / got
        assert table.loc[k, "n_effective"] == pytest.approx(first**2 / second)
        assert table.loc[k, "n_expected"] == pytest.approx(top**2 / bottom)
        own = w[arm == k].sum() ** 2 / (w[arm == k] ** 2).sum()
        assert table.loc[k, "share"] == pytest.approx(min(first**2 / second, top**2 / bottom) / own)


def test_expected_rows_are_the_mean_of_effective_rows() -> None:
    e = np.random.default_rng(2).uniform(0.1, 0.9, 20_000)
    table = overlap(e, draw(e)).table
    assert table["n_effective"].to_numpy() == pytest.approx(table["n_expected"].to_numpy(), rel=0.02)


def test_units_that_never_get_an_arm_are_seen_though_no_row_is_heavy() -> None:
    """Kish's number alone passes a table in which a third of the rows could not have been treated."""
    e = np.where(np.arange(900) < 300, 1e-5, 0.5)
    arm = np.where(np.arange(900) < 300, 0, np.arange(900) % 2)
    check = overlap(e, arm)
    assert check.table.loc[1, "n_effective"] / check.table.loc[1, "n"] == pytest.approx(1)
    assert check.passed is False and check.value < 0.01
    assert check.table.loc[1, "below_01"] == check.table.loc[1, "below_05"] == pytest.approx(1 / 3)
    assert "33.3% of all rows" in check.text
    assert overlap(e, arm, estimand="ATT").passed is True  # the treated can all be compared


def test_the_threshold_decides() -> None:
    e = beta(2000)
    check = overlap(e, draw(e))
    assert overlap(e, draw(e), threshold=check.value).passed is True
    assert overlap(e, draw(e), threshold=check.value + 0.01).passed is False
    assert check.value == check.table["share"].min()


def test_quantiles_and_details() -> None:
    e = np.linspace(0.02, 0.98, 97)
    arm = np.arange(97) % 2
    w = np.where(np.arange(97) < 7, 0.0, 1.0)
    check = overlap(e, arm, sample_weight=w)
    assert list(check.table.index) == [0, 1] and check.table.loc[1, "n"] == arm[7:].sum()
    assert check.table.loc[1, ["min", "50%", "max"]].to_numpy(dtype=float) == pytest.approx([e[7], e[51], 0.98])
    details = check.details
    assert details is not None and list(details.index) == list(range(7, 97))
    assert list(details.columns) == ["arm", "weight", "propensity_0", "propensity_1"]
    assert details["weight"].to_numpy() == pytest.approx(1 / np.where(arm, e, 1 - e)[7:])


def test_three_arms_all_at_once_or_two_of_them() -> None:
    e = np.random.default_rng(0).dirichlet([4, 2, 2], 600)
    arm = draw(e)
    assert list(overlap(e, arm).table.index) == [0, 1, 2]
    assert list(overlap(e, arm, treated=2).table.index) == [0, 2]
    with pytest.raises(ValueError, match="ambiguous with 3 arms"):
        overlap(e, arm, estimand="ATT")


@pytest.mark.parametrize(("options", "says"), [({"threshold": 0}, "share"), ({"estimand": "LATE"}, "estimand")])
def test_what_makes_no_sense_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        overlap(np.full(10, 0.5), np.arange(10) % 2, **options)


def test_an_unfitted_estimator_is_told_so() -> None:
    for function in (check_overlap, trim):
        with pytest.raises(NotFittedError):
            function(object(), np.zeros((2, 1)), [0, 1], treatment=[0, 1])


# ---- Crump's rule


def test_crumps_cut_off_of_even_propensities_is_that_of_the_integral() -> None:
    """1/(a(1-a)) = 2 E[1/(e(1-e)) | a < e < 1-a], of which the integral over even propensities is closed."""

    def gap(a: float) -> float:
        return 1 / (a * (1 - a)) - 4 * np.log((1 - a) / a) / (1 - 2 * a)

    exact = optimize.brentq(gap, 0.01, 0.4)
    e = (np.arange(200_000) + 0.5) / 200_000
    found = trimmed(e, draw(e))
    assert found.threshold == pytest.approx(exact, abs=1e-4)
    assert found.n_kept / found.n == pytest.approx(1 - 2 * exact, abs=1e-3)


@pytest.mark.parametrize("n_arms", [2, 3])
def test_crumps_set_has_the_smallest_variance_of_all_cuts(n_arms: int) -> None:
    """Brute force over every set {g <= c}: the variance of the average effect on it is E[g; set] / P(set)^2."""
    rng = np.random.default_rng(3)
    e = rng.dirichlet([1.0] * n_arms, 500)
    w = rng.uniform(0.5, 2, 500)
    g = (1 / e).sum(axis=1)
    variance = [(w * g)[g <= c].sum() / w[g <= c].sum() ** 2 for c in g]
    best = g <= g[np.argmin(variance)]
    found = trimmed(e, draw(e), sample_weight=w)
    assert np.sum(found.keep != best) <= 3 and not found.keep.all()  # rows at the margin move next to nothing
    assert (w * g)[found.keep].sum() / w[found.keep].sum() ** 2 == pytest.approx(min(variance), rel=1e-4)
    assert len(found.limits) == (2 if n_arms == 2 else 0)


def test_nobody_is_lost_where_propensities_are_mild() -> None:
    found = trimmed(np.linspace(0.3, 0.7, 200), np.arange(200) % 2)
    assert found.keep.all() and found.threshold == 0 and "nobody is lost" in found.text
    assert trimmed(np.full(200, 0.01), (np.arange(200) < 5).astype(int)).keep.all()  # a trial


# ---- the other rules


def test_fixed_percentile_and_common_range_by_their_definitions() -> None:
    e = beta(500, 4)
    arm = draw(e)
    assert (trimmed(e, arm, rule="fixed").keep == ((e >= 0.1) & (e <= 0.9))).all()
    assert (trimmed(e, arm, rule="fixed", threshold=0.3).keep == ((e >= 0.3) & (e <= 0.7))).all()
    low = np.quantile(e[arm == 1], 0.05, method="inverted_cdf")
    high = 1 - np.quantile(1 - e[arm == 0], 0.05, method="inverted_cdf")
    percentile = trimmed(e, arm, rule="percentile")
    assert (percentile.keep == ((e >= low) & (e <= high))).all() and not percentile.keep.all()
    assert percentile.limits.loc[1].to_numpy() == pytest.approx([low, high])
    assert percentile.limits.loc[0].to_numpy() == pytest.approx([1 - high, 1 - low])
    low, high = max(e[arm == k].min() for k in (0, 1)), min(e[arm == k].max() for k in (0, 1))
    common = trimmed(e, arm, rule="common_range")
    assert (common.keep == ((e >= low) & (e <= high))).all() and not common.keep.all()
    assert common.limits.loc[1].to_numpy() == pytest.approx([low, high])


@pytest.mark.parametrize("rule", ["crump", "fixed", "percentile", "common_range"])
def test_rules_do_not_depend_on_which_arm_is_called_the_treated(rule: str) -> None:
    e = beta(400, 5)
    arm = draw(e)
    assert (trimmed(e, arm, rule=rule).keep == trimmed(1 - e, 1 - arm, rule=rule).keep).all()


@pytest.mark.parametrize("rule", ["crump", "fixed", "percentile", "common_range"])
def test_a_weight_of_two_is_a_row_twice_and_of_zero_is_none(rule: str) -> None:
    e = beta(300, 6)
    arm, w = draw(e), np.random.default_rng(0).integers(0, 3, 300)
    weighted = trimmed(e, arm, rule=rule, sample_weight=w.astype(float))
    again = np.repeat(np.arange(300), w)
    repeated = trimmed(e[again], arm[again], rule=rule)
    assert (weighted.keep[again] == repeated.keep).all()
    assert weighted.threshold == pytest.approx(repeated.threshold)
    assert weighted.n == (w > 0).sum() and weighted.n_kept == (weighted.keep & (w > 0)).sum()


def test_two_of_three_arms_are_trimmed_for_their_comparison() -> None:
    e = np.random.default_rng(0).dirichlet([1, 1, 1], 900)
    arm = draw(e)
    found = trimmed(e, arm, rule="fixed", threshold=0.2, treated=2)
    assert (found.keep == ((arm != 1) & (e[:, 0] >= 0.2) & (e[:, 2] >= 0.2))).all()
    assert list(found.by_arm.index) == [0, 2] and found.n == (arm != 1).sum()
    every = trimmed(e, arm, rule="fixed", threshold=0.2)
    assert (every.keep == (e >= 0.2).all(axis=1)).all()


# ---- who is lost


def test_those_lost_are_described_and_the_mask_fits_the_table() -> None:
    rng = np.random.default_rng(7)
    age = rng.normal(60, 10, 800)
    e = 1 / (1 + np.exp(-(age - 60) / 6))
    arm = draw(e)
    site = np.where(rng.random(800) < 0.5, "north", "south")
    index = rng.permutation(800)  # labels in another order than the rows
    X = pd.DataFrame({"age": np.where(rng.random(800) < 0.1, np.nan, age), "site": site}, index=index)
    found = trimmed(e, arm, X, rule="fixed")
    kept, lost = X[found.keep]["age"], X[~found.keep]["age"]
    row = found.table.loc["age"]
    assert [row["kept"], row["lost"]] == pytest.approx([kept.mean(), lost.mean()])
    assert row["smd"] == pytest.approx((lost.mean() - kept.mean()) / np.sqrt((lost.var() + kept.var()) / 2))
    assert list(found.table.index) == sorted(found.table.index, key=lambda name: -abs(found.table.loc[name, "smd"]))
    assert {"age", "age: <missing>", "site: north", "site: south"} == set(found.table.index)
    assert found.table.loc["site: north", "kept"] == pytest.approx((site[found.keep] == "north").mean())
    assert found.by_arm["n_lost"].tolist() == [np.sum(~found.keep & (arm == k)) for k in (0, 1)]
    assert found.n_kept == found.keep.sum() == len(X[found.keep]) and "0.1 to 0.9" in str(found)


def test_outcomes_play_no_part() -> None:
    e = beta(200, 8)
    arm, X = draw(e), np.random.default_rng(0).normal(size=(200, 2))
    est = Given(Schema.learn(X, np.arange(200.0), arm), np.column_stack([1 - e, e]))
    first, second = (trim(est, X, y, treatment=arm) for y in (np.arange(200.0), np.zeros(200) + (np.arange(200) == 3)))
    assert (first.keep == second.keep).all() and first.table.equals(second.table) and first.text == second.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": "guess"}, "rule must be one of"),
        ({"rule": "crump", "threshold": 0.1}, "finds its own limits"),
        ({"rule": "fixed", "threshold": 0.5}, r"must lie in \[0, 0.5\)"),
        ({"rule": "percentile", "threshold": 0.7}, r"must lie in \[0, 0.5\)"),
        ({"rule": "fixed", "threshold": 0.4}, "keeps no row of arm"),
    ],
)
def test_rules_that_cannot_be(options: dict[str, Any], says: str) -> None:
    arm = np.arange(100) % 2
    with pytest.raises(ValueError, match=says):
        trimmed(np.where(arm == 1, 0.95, 0.5), arm, **options)
