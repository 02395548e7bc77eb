"""Checks find what is wrong and only that: known laws, other packages' numbers, closed forms, simulated levels."""

# the stubs of pandas call a cell of a table a str, a date or a number: arithmetic with it is none of their types
# mypy: disable-error-code="operator, index, arg-type, attr-defined"

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.exceptions import NotFittedError

from effects.diagnostics import (
    Check,
    benefit_calibration,
    c_for_benefit,
    check_calibration,
    coverage_by,
    crps_decomposition,
    pit_values,
    rate,
)
from effects.diagnostics.benefit import concordance
from effects.diagnostics.evidence import quantile_groups
from effects.diagnostics.laws import histogram_band, logistic_calibration, uniformity
from effects.diagnostics.ranking import targeting_curve
from effects.inference import aipw_scores
from effects.inference.checks import effective_size
from effects.metrics import crps
from effects.nuisance import CrossFitted
from effects.outcomes import PotentialOutcomes
from effects.schema import Schema

Array = NDArray[np.float64]
NODES = stats.norm.ppf((np.arange(100) + 0.5) / 100)


@dataclass
class Given:
    """A fitted estimator as far as the checks see it, with predictions that a test chose."""

    schema_: Schema
    values: CrossFitted

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def cross_fitted(self, X: Any, y: Any, *, treatment: Any, sample_weight: ArrayLike | None = None, **_: Any) -> Any:
        return self.values


@dataclass
class Study:
    """A simulated study whose laws are known; what is predicted can be made wrong."""

    X: Array
    y: Array
    arm: NDArray[np.int64]
    mu: Array
    e: Array
    draws: Array
    kind: str = "continuous"
    labels: tuple[Hashable, ...] = (0, 1)

    @property
    def treatment(self) -> NDArray[Any]:
        return np.array(self.labels, dtype=object)[self.arm] if isinstance(self.labels[0], str) else self.arm

    def est(self) -> Given:
        schema = Schema.learn(self.X, self.y, self.treatment, outcome=self.kind, control=self.labels[0])
        outcomes = PotentialOutcomes(self.draws.astype(np.float32), self.labels, self.kind)
        return Given(schema, CrossFitted(outcomes.mean(), self.e, outcomes))

    def ask(self, function: Any, **options: Any) -> Check:
        return function(self.est(), self.X, self.y, treatment=self.treatment, **options)

    def take(self, rows: NDArray[Any]) -> Study:
        return replace(
            self,
            X=self.X[rows],
            y=self.y[rows],
            arm=self.arm[rows],
            mu=self.mu[rows],
            e=self.e[rows],
            draws=self.draws[:, :, rows],
        )


def study(
    n: int = 800,
    seed: int = 0,
    *,
    confounded: float = 1.0,
    tau: float = 1.0,
    shift: Any = 0.0,
    spread: float = 1.0,
    noise: float = 1.0,
) -> Study:
    """Normal outcomes, effect 1 + tau x_0; predicted with `shift` in the mean (a number or a function of x) and with
    `spread` times the true spread."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    p = 1 / (1 + np.exp(-confounded * X[:, 0]))
    arm = (rng.random(n) < p).astype(np.int64)
    mu = np.column_stack([X[:, 1], X[:, 1] + 1 + tau * X[:, 0]])
    y = mu[np.arange(n), arm] + noise * rng.normal(size=n)
    moved = mu + (shift(X)[:, None] if callable(shift) else shift)
    draws = moved[None, None] + spread * noise * NODES[None, :, None, None]
    return Study(X, y, arm, mu, np.column_stack([1 - p, p]), draws)


def binary(n: int = 3000, seed: int = 0, stretch: float = 1.0, shift: float = 0.0) -> Study:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    p = 1 / (1 + np.exp(-X[:, 0]))
    arm = (rng.random(n) < p).astype(np.int64)
    logit = np.column_stack([X[:, 1] - 0.5, 0.5 * X[:, 1] + 0.3 * X[:, 0]])
    risk = 1 / (1 + np.exp(-logit))
    y = (rng.random(n) < risk[np.arange(n), arm]).astype(float)
    predicted = 1 / (1 + np.exp(-(stretch * logit + shift)))
    return Study(X, y, arm, risk, np.column_stack([1 - p, p]), predicted[None, None], "binary")


def counts(n: int = 1500, seed: int = 0, factor: float = 1.0) -> Study:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    arm = rng.integers(2, size=n)
    mu = np.exp(np.column_stack([0.3 * X[:, 0], 0.5 + 0.3 * X[:, 0]]))
    y = rng.poisson(mu[np.arange(n), arm]).astype(float)
    draws = rng.poisson(factor * mu, size=(1, 300, n, 2)).astype(float)
    return Study(X, y, arm, mu, np.full((n, 2), 0.5), draws, "count")


# ---- calibration


@pytest.mark.parametrize("make", [study, counts, binary])
def test_calibrated_laws_pass(make: Any) -> None:
    check = make().ask(check_calibration)
    assert check.passed is True and check.value >= check.threshold == pytest.approx(0.05)
    assert list(check.table.index) == [0, 1]


@pytest.mark.parametrize(
    ("options", "finding"),
    [
        ({"shift": -0.4}, "predicted too low"),
        ({"shift": 0.4}, "predicted too high"),
        ({"spread": 1.6}, "predicted too wide"),
        ({"spread": 0.6}, "predicted too narrow"),
    ],
)
def test_wrong_laws_fail_and_are_named(options: dict[str, float], finding: str) -> None:
    check = study(**options).ask(check_calibration)
    assert check.passed is False and set(check.table["finding"]) == {finding}
    assert finding in check.text and check.value < 0.01


def test_wrong_counts_and_risks_fail() -> None:
    assert counts(factor=1.3).ask(check_calibration).passed is False
    stretched = binary(stretch=2.0).ask(check_calibration)
    assert stretched.passed is False and stretched.table["slope"].to_numpy() == pytest.approx([0.5, 0.5], abs=0.15)
    shifted = binary(shift=0.5).ask(check_calibration)
    assert shifted.passed is False and shifted.table["intercept"].to_numpy() == pytest.approx([-0.5, -0.5], abs=0.2)


def test_weighting_finds_what_the_treated_alone_would_hide() -> None:
    """Laws of Y(1) that are right on average over the treated, but wrong on average over everyone."""
    n = 6000
    base = study(n, 1, confounded=1.0)
    treated = base.arm == 1
    error = np.where(base.X[:, 0] > 0, -0.5, 0.5 * np.sum(treated & (base.X[:, 0] > 0)) / np.sum(
        treated & (base.X[:, 0] <= 0)))  # fmt: skip
    wrong = replace(base, draws=base.draws + error[None, None, :, None] * [0, 1])
    blind = replace(wrong, e=np.full((n, 2), 0.5)).ask(check_calibration)
    seeing = wrong.ask(check_calibration)
    assert abs(blind.table.loc[1, "mean_pit"] - 0.5) < 0.01
    assert seeing.table.loc[1, "mean_pit"] < 0.46 and seeing.table.loc[1, "p_value"] < 1e-3
    assert seeing.table.loc[0, "p_value"] > 0.05


def test_uniformity_is_cramer_von_mises_without_weights() -> None:
    for seed, power in ((0, 1.0), (1, 1.1), (2, 1.25)):
        u = np.random.default_rng(seed).uniform(size=400) ** power
        statistic, p, gap = uniformity(u, np.ones(400))
        exact = stats.cramervonmises(u, "uniform")
        assert statistic == pytest.approx(exact.statistic, abs=0.02)
        assert p == pytest.approx(exact.pvalue, abs=0.03)
        assert gap == pytest.approx(stats.kstest(u, "uniform").statistic, abs=1e-12)


def test_uniformity_agrees_with_a_bootstrap_by_multipliers() -> None:
    rng = np.random.default_rng(3)
    w = rng.exponential(size=300)
    u = np.clip(rng.uniform(size=300) + 0.05 * (w - 1), 0, 1)
    statistic, p, _ = uniformity(u, w)
    grid = (np.arange(100) + 0.5) / 100
    below = (u[:, None] <= grid) * 1.0
    F = w @ below / w.sum()
    boot = rng.normal(size=(4000, 300)) @ (w[:, None] * (below - F)) / w.sum()
    simulated = effective_size(w) * np.mean(boot**2, axis=1)
    assert statistic == pytest.approx(effective_size(w) * np.mean((F - grid) ** 2))
    assert p == pytest.approx(np.mean(simulated >= statistic), abs=0.02)


def test_logistic_calibration_is_statsmodels() -> None:
    import statsmodels.api as sm

    s = binary(500, 4)
    p, y = s.draws[0, 0, :, 0].astype(float), s.y
    beta, covariance = logistic_calibration(p, y, np.ones(500))
    ours = sm.Logit(y, sm.add_constant(np.log(p / (1 - p)))).fit(disp=0, cov_type="HC0")
    assert beta == pytest.approx(ours.params, rel=1e-5)
    assert np.sqrt(np.diag(covariance)) == pytest.approx(ours.bse, rel=1e-4)
    twice, half = logistic_calibration(np.tile(p, 2), np.tile(y, 2), np.ones(1000)), np.repeat([2.0, 0.0], 500)
    doubled = logistic_calibration(np.tile(p, 2), np.tile(y, 2), half)
    assert doubled[0] == pytest.approx(twice[0], rel=1e-6) and doubled[1] == pytest.approx(2 * twice[1], rel=1e-5)


def test_risks_that_say_too_little_for_a_test_are_undecided() -> None:
    s = binary(300)
    flat = replace(s, draws=np.full_like(s.draws, 0.4))
    check = flat.ask(check_calibration)
    assert check.passed is None and np.isnan(check.value)


def test_histogram_is_the_weighted_one() -> None:
    s = study(500)
    check = s.ask(check_calibration, n_bins=5)
    pit = pit_values(PotentialOutcomes(s.draws.astype(np.float32)), s.y, s.arm)
    own = s.arm == 1
    w = 1 / s.e[own, 1]
    share = np.histogram(pit[own], bins=5, range=(0, 1), weights=w)[0] / w.sum()
    found = check.details[check.details["arm"] == 1]
    assert found["frequency"].to_numpy() == pytest.approx(5 * share, abs=0.08)  # the randomised part differs
    assert (found["lower"].iloc[0], found["upper"].iloc[0]) == pytest.approx(histogram_band(w, 5, 2))
    assert check.table.loc[1, "n_effective"] == pytest.approx(w.sum() ** 2 / (w**2).sum())


@pytest.mark.slow
@pytest.mark.parametrize("make", ["study", "confounded", "counts", "binary"])
def test_level_of_the_calibration_check(make: str) -> None:
    """Calibrated laws fail in about 5 of 100 studies (Bonferroni: at most)."""
    simulate = {
        "study": lambda s: study(300, s, confounded=0.0),
        "confounded": lambda s: study(400, s, confounded=1.0),
        "counts": lambda s: counts(300, s),
        "binary": lambda s: binary(600, s),
    }[make]
    failed = sum(simulate(2000 + s).ask(check_calibration).passed is False for s in range(300))
    assert failed <= stats.binom.ppf(0.999, 300, 0.05) and failed >= stats.binom.ppf(0.001, 300, 0.025)


def test_the_band_of_equal_weights_is_binomial_and_of_many_rows_normal() -> None:
    lower, upper = histogram_band(np.ones(200), 10)
    count = stats.binom.ppf([0.005, 0.995], 200, 0.1)
    assert [20 * lower, 20 * upper] == pytest.approx(count, abs=1.01)
    w = np.random.default_rng(5).uniform(0.5, 2, size=20_001)
    assert histogram_band(w, 10, 2) == pytest.approx(histogram_band(w[:-1], 10, 2), abs=0.03)


@pytest.mark.slow
def test_the_histogram_s_band_and_the_risks_intervals_hold() -> None:
    inside, risks = 0, []
    for seed in range(250):
        details = study(400, 7000 + seed).ask(check_calibration).details
        inside += bool(details["frequency"].between(details["lower"], details["upper"]).all())
        s = binary(600, 7000 + seed)
        details = s.ask(check_calibration, n_bins=4).details
        own = details[details["arm"] == 1]
        rows = s.arm == 1
        p, w = PotentialOutcomes(s.draws.astype(np.float32), kind="binary").mean()[rows, 1], 1 / s.e[rows, 1]
        group = quantile_groups(p, w, 4)
        truth = np.array([np.average(s.mu[rows, 1][group == g], weights=w[group == g]) for g in range(4)])
        risks.append(((own["lower"] <= truth) & (truth <= own["upper"])).to_numpy())
    assert inside >= stats.binom.ppf(0.001, 250, 0.9)
    assert np.mean(risks) >= stats.binom.ppf(0.001, 250, 0.95) / 250


# ---- coverage


def test_coverage_is_the_share_inside_with_wilsons_interval() -> None:
    from statsmodels.stats.proportion import proportion_confint

    s = study(600)
    check = s.ask(coverage_by, nominal=0.8, n_groups=3, level=0.9)
    lower, upper = PotentialOutcomes(s.draws.astype(np.float32)).interval(0.8)
    rows = np.arange(600)
    inside = (lower[rows, s.arm] <= s.y) & (s.y <= upper[rows, s.arm])
    width = (upper - lower)[rows, s.arm]
    for by, values in (("cate", s.mu[:, 1] - s.mu[:, 0]), ("propensity", s.e[:, 1])):
        groups = np.array_split(np.argsort(values), 3)
        table = check.table[check.table["by"] == by]
        assert table["coverage"].to_numpy() == pytest.approx([inside[g].mean() for g in groups])
        assert table["width"].to_numpy() == pytest.approx([width[g].mean() for g in groups])
        wilson = [proportion_confint(inside[g].sum(), len(g), alpha=0.1, method="wilson") for g in groups]
        assert table[["lower", "upper"]].to_numpy() == pytest.approx(np.array(wilson))
    assert check.passed is True and check.threshold == 0.8


def test_coverage_finds_the_group_that_is_off() -> None:
    s = study(4000, tau=1.0)
    large = s.X[:, 0] > 1
    wrong = replace(s, draws=np.where(large[None, None, :, None], s.draws + 1.5, s.draws))
    check = wrong.ask(coverage_by)
    cate = check.table[check.table["by"] == "cate"]
    assert check.passed is False and cate["coverage"].idxmin() == cate.index[-1]
    assert check.value == pytest.approx(check.table["coverage"].min())
    assert study(2000, spread=1.6).ask(coverage_by).passed is False  # too often is wrong too
    both = wrong.ask(coverage_by, per_arm=True)
    assert set(both.table["arm"]) == {0, 1} and both.table.groupby("by")["n"].sum().tolist() == [4000, 4000]


def test_coverage_of_counts_may_exceed_its_level_and_of_risks_is_refused() -> None:
    check = counts().ask(coverage_by, nominal=0.9)
    assert check.passed is True and check.table["coverage"].mean() > 0.9
    assert counts(factor=2.0).ask(coverage_by).passed is False
    with pytest.raises(ValueError, match="use check_calibration for its risk"):
        binary(200).ask(coverage_by)


@pytest.mark.slow
def test_wilson_intervals_hold_the_true_coverage() -> None:
    """Laws 0.8 times too narrow: each group's interval holds the true coverage of 0.812 in 95 of 100 studies."""
    truth = 2 * stats.norm.cdf(0.8 * stats.norm.ppf(0.95)) - 1
    hits = []
    for seed in range(250):
        table = study(400, 3000 + seed, spread=0.8).ask(coverage_by, n_groups=4).table
        hits.append(((table["lower"] <= truth) & (truth <= table["upper"])).to_numpy())
    share = np.mean(hits, axis=0)
    assert share.min() >= stats.binom.ppf(0.0005, 250, 0.95) / 250
    assert 0.93 <= share.mean() <= 0.975


# ---- decomposition


@pytest.mark.parametrize("make", [study, counts, binary])
def test_terms_add_up_exactly_to_the_score(make: Any) -> None:
    s = make(700)
    w = np.random.default_rng(5).uniform(0.5, 2, size=700)
    table = s.ask(crps_decomposition, sample_weight=w).table
    total = table["miscalibration"] - table["discrimination"] + table["uncertainty"]
    assert total.to_numpy() == pytest.approx(table["crps"].to_numpy(), rel=1e-12)
    outcomes = PotentialOutcomes(s.draws.astype(np.float32), kind=s.kind)
    assert table.loc["all", "crps"] == pytest.approx(np.average(outcomes.crps(s.y, s.arm), weights=w))
    assert (table["miscalibration"] >= 0).all() and (table["discrimination"] > 0).all()


@pytest.mark.parametrize("make", [study, counts, binary])
def test_uncertainty_is_the_score_of_the_overall_law(make: Any) -> None:
    s = make(900)
    table = s.ask(crps_decomposition).table
    for k in (0, 1):
        own = s.y[s.arm == k]
        overall = own.mean() * (1 - own.mean()) if s.kind == "binary" else crps(np.tile(own[:, None], len(own)), own)
        assert table.loc[k, "uncertainty"] == pytest.approx(np.mean(overall), rel=2e-3)


def test_brier_terms_are_those_of_corp() -> None:
    """Second implementation: pool adjacent violators by scipy."""
    from scipy.optimize import isotonic_regression

    s = binary(800, 6, stretch=1.7)
    table = s.ask(crps_decomposition).table
    own = s.arm == 1
    p, y = s.draws.astype(np.float32).astype(float)[0, 0, own, 1], s.y[own]
    order = np.argsort(p)
    better = isotonic_regression(y[order]).x
    recalibrated = np.mean((better - y[order]) ** 2)
    assert table.loc[1, "miscalibration"] == pytest.approx(np.mean((p - y) ** 2) - recalibrated, abs=1e-9)
    assert table.loc[1, "discrimination"] == pytest.approx(y.mean() * (1 - y.mean()) - recalibrated, abs=1e-9)


def test_each_term_answers_to_its_own_fault() -> None:
    good, shifted = study(3000).ask(crps_decomposition).table, study(3000, shift=1.0).ask(crps_decomposition).table
    assert good.loc["all", "miscalibration"] < 0.05 * good.loc["all", "crps"]
    # a shift is undone by recalibration: all that it costs is miscalibration
    assert shifted.loc["all", "discrimination"] == pytest.approx(good.loc["all", "discrimination"], rel=0.02)
    cost = shifted.loc["all", "crps"] - good.loc["all", "crps"]
    assert shifted.loc["all", "miscalibration"] - good.loc["all", "miscalibration"] == pytest.approx(cost, rel=0.03)
    s = study(3000)
    flat = replace(s, draws=np.broadcast_to(s.draws.mean(axis=2, keepdims=True), s.draws.shape))
    assert flat.ask(crps_decomposition).table.loc["all", "discrimination"] == pytest.approx(0, abs=1e-12)


# ---- calibration of effects


def test_true_effects_have_slope_one() -> None:
    check = study(4000, 7).ask(benefit_calibration)
    intercept, slope = check.estimates
    assert check.passed is True
    assert abs(intercept.value) < 3 * intercept.se and abs(slope.value - 1) < 3 * slope.se
    assert (intercept.estimand, slope.estimand) == ("calibration intercept", "calibration slope")
    table = check.table
    assert (np.abs(table["effect"] - table["predicted"]) < 4 * table["se"]).all()


@pytest.mark.parametrize(("stretch", "slope"), [(2.0, 0.5), (0.5, 2.0)])
def test_exaggerated_effects_have_the_inverse_slope(stretch: float, slope: float) -> None:
    s = study(4000, 8, confounded=0.3)
    cate = s.mu[:, 1] - s.mu[:, 0]
    predicted = s.mu[:, 0] + 1 + stretch * (cate - 1)
    moved = np.column_stack([s.mu[:, 0], predicted])
    check = replace(s, draws=moved[None, None] + NODES[None, :, None, None]).ask(benefit_calibration)
    assert check.passed is False and check.estimates[1].value == pytest.approx(slope, abs=0.12)


def test_slope_is_statsmodels_and_groups_are_averages_of_scores() -> None:
    import statsmodels.api as sm

    s = study(600, 9)
    w = np.random.default_rng(9).uniform(0.5, 2, size=600)
    check = s.ask(benefit_calibration, sample_weight=w, n_groups=4)
    mu = PotentialOutcomes(s.draws.astype(np.float32)).mean()
    scores = aipw_scores(s.y, s.arm, mu, s.e)
    gamma, cate = scores[:, 1] - scores[:, 0], mu[:, 1] - mu[:, 0]
    fit = sm.WLS(gamma, sm.add_constant(cate), weights=w).fit(cov_type="HC1")
    assert [e.value for e in check.estimates] == pytest.approx(fit.params)
    assert [e.se for e in check.estimates] == pytest.approx(fit.bse)
    group = quantile_groups(cate, w, 4)
    assert check.table["effect"].to_numpy() == pytest.approx(
        [np.average(gamma[group == g], weights=w[group == g]) for g in range(4)]
    )
    assert w @ (group == 0) / w.sum() == pytest.approx(0.25, abs=0.01)


def test_equal_predictions_are_tested_by_their_average() -> None:
    s = study(1500, 10, tau=0.0)
    check = s.ask(benefit_calibration)
    assert len(check.estimates) == 1 and len(check.table) == 1 and check.passed is True
    off = replace(s, draws=s.draws + np.array([0.0, 0.5]))
    assert off.ask(benefit_calibration).passed is False


def test_a_failure_says_what_is_wrong_with_the_differences_between_units() -> None:
    s = study(1500, 10)
    tau = (s.draws[..., 1] - s.draws[..., 0]).mean(axis=(0, 1))
    rng = np.random.default_rng(5)
    for wrong, said in (
        (2 * (tau - tau.mean()) + tau.mean() - tau, "are exaggerated"),
        (rng.permutation(3 * tau) - tau, "are not found in these data"),
        (-0.7 * (tau - tau.mean()), "are too small"),
        (np.full_like(tau, 0.5), "by their level above all"),
    ):
        half = wrong[:, None] * np.array([-0.5, 0.5])
        check = replace(s, draws=s.draws + half).ask(benefit_calibration)
        assert check.passed is False and said in check.text


def test_few_rows_leave_the_slope_undecided() -> None:
    s = study(60, 2, confounded=0.3, tau=0.3, noise=5.0)
    check = s.ask(benefit_calibration)
    lower, upper = check.estimates[1].interval()
    assert lower < 0 < upper and lower < 1 < upper and check.passed is None
    assert "say nothing of who benefits more" in check.text and str(check).startswith("benefit calibration: undecided")


def test_weak_overlap_is_said() -> None:
    s = study(2000, 12, confounded=4.0)
    low = int((s.e.min(axis=1) < 0.01).sum())
    for function in (benefit_calibration, rate):
        assert f"Weak overlap: {low} of 2000 rows" in s.ask(function).text
        assert "Weak overlap" not in study(500, 12, confounded=0.5).ask(function).text


@pytest.mark.slow
def test_slope_and_group_intervals_cover() -> None:
    slopes, groups, rejected = [], [], 0
    for seed in range(300):
        s = study(500, 4000 + seed, confounded=0.7)
        check = s.ask(benefit_calibration, n_groups=4)
        lower, upper = check.estimates[1].interval()
        slopes.append(lower <= 1 <= upper)
        cate = s.mu[:, 1] - s.mu[:, 0]
        code = quantile_groups(PotentialOutcomes(s.draws.astype(np.float32)).mean() @ [-1.0, 1.0], np.ones(500), 4)
        truth = np.array([cate[code == g].mean() for g in range(4)])
        groups.append((check.table["lower"] <= truth) & (truth <= check.table["upper"]))
        rejected += check.passed is False
    low, high = stats.binom.ppf([0.001, 0.999], 300, 0.95) / 300
    assert low <= np.mean(slopes) <= high
    assert np.mean(groups) >= low  # of the units' own average: the interval also allows for the draw of units
    assert rejected <= stats.binom.ppf(0.999, 300, 0.06)


# ---- concordance


def test_concordance_is_somers_d() -> None:
    rng = np.random.default_rng(11)
    p, o = rng.integers(8, size=200).astype(float), rng.integers(-1, 2, size=200).astype(float)
    value, _ = concordance(p, o)
    assert value == pytest.approx((stats.somersd(o, p).statistic + 1) / 2)  # of pairs that differ in o
    assert concordance(np.arange(9.0), np.arange(9.0))[0] == 1
    assert concordance(np.zeros(9), np.arange(9.0))[0] == 0.5


def test_concordance_error_is_that_of_a_bootstrap() -> None:
    rng = np.random.default_rng(12)
    p = rng.normal(size=150)
    o = np.sign(0.7 * p + rng.normal(size=150))
    w = rng.uniform(0.5, 2, size=150)
    _, se = concordance(p, o)
    again = []
    for _ in range(600):
        rows = rng.integers(150, size=150)
        again.append(concordance(p[rows], o[rows])[0])
    assert se == pytest.approx(np.std(again), rel=0.12)
    assert concordance(p, o, w)[0] == pytest.approx(concordance(p, o, 3 * w)[0])
    doubled = np.repeat(np.arange(150), 1 + (np.arange(150) < 50))
    assert concordance(p, o, 1.0 + (np.arange(150) < 50))[0] == pytest.approx(concordance(p[doubled], o[doubled])[0])


def c_truth(tau: float, noise: float, n: int = 4000) -> float:
    """C of pairs matched perfectly on x: benefit tau x + 1 + noise sqrt(2), predicted without error (simulated)."""
    rng = np.random.default_rng(0)
    benefit = tau * rng.normal(size=n)
    return concordance(benefit, benefit + noise * np.sqrt(2) * rng.normal(size=n))[0]


def test_c_for_benefit_of_a_known_law() -> None:
    # P(concordant) for normal benefit and noise: 1/2 + arcsin(r) / pi, r their correlation
    tau, noise = 1.0, 1.0
    r = tau / np.sqrt(tau**2 + 2 * noise**2)
    exact = 0.5 + np.arcsin(r) / np.pi
    assert c_truth(tau, noise) == pytest.approx(exact, abs=0.01)
    base = study(6000, 13, confounded=0.0, tau=tau, noise=noise)
    s = replace(base, y=base.y - base.X[:, 1], draws=base.draws - base.X[None, None, :, 1:2])
    check = s.ask(c_for_benefit)
    assert check.value == pytest.approx(exact, abs=4 * check.estimates[0].se) and check.passed is True
    assert check.estimates[0].se < 0.01
    assert check.table["predicted"][0] == pytest.approx(1, abs=0.1)


def test_no_heterogeneity_gives_one_half() -> None:
    s = study(1500, 14, confounded=0.0, tau=0.0)
    assert s.ask(c_for_benefit).value == 0.5  # the rounding of equal predictions ranks nobody
    rng = np.random.default_rng(14)  # predictions of differences that are not there
    moved = s.mu + np.column_stack([np.zeros(1500), rng.normal(size=1500)])
    wrong = replace(s, draws=moved[None, None] + NODES[None, :, None, None])
    for match in ("benefit", "covariates"):
        check = wrong.ask(c_for_benefit, match=match)
        assert check.passed is None and abs(check.value - 0.5) < 3 * check.estimates[0].se


def test_matching_on_covariates_removes_confounding_that_matching_on_benefit_keeps() -> None:
    rng = np.random.default_rng(15)
    n = 3000
    X = rng.normal(size=(n, 2))
    p = 1 / (1 + np.exp(-2 * X[:, 0]))
    arm = (rng.random(n) < p).astype(np.int64)
    y = 3 * X[:, 0] + rng.normal(size=n)  # no effect at all, strong confounding
    mu = np.column_stack([3 * X[:, 0], 3 * X[:, 0] + X[:, 1]])
    s = Study(X, y, arm, mu, np.column_stack([1 - p, p]), mu[None, None] + NODES[None, :, None, None])
    naive, adjusted = s.ask(c_for_benefit), s.ask(c_for_benefit, match="covariates")
    assert naive.table["observed"][0] > 3 and abs(adjusted.table["observed"][0]) < 0.5 * naive.table["observed"][0]
    assert abs(adjusted.value - 0.5) < 4 * adjusted.estimates[0].se


def test_pairs_are_ranks_or_nearest_neighbours() -> None:
    from scipy.spatial.distance import cdist

    from effects.diagnostics import benefit

    s = study(500, 16)
    seen = benefit.gather(s.est(), s.X, s.y, s.treatment, None, None)
    sides = [np.flatnonzero(seen.a == k) for k in (1, 0)]
    cate = seen.mu[:, 1] - seen.mu[:, 0]
    got, not_got = benefit._pairs(seen, cate, sides, None)
    n_pairs = min(map(len, sides))
    assert len(set(got)) == len(set(not_got)) == n_pairs  # nobody twice
    assert (seen.a[got] == 1).all() and (seen.a[not_got] == 0).all()
    assert (np.diff(cate[got]) >= 0).all() and (np.diff(cate[not_got]) >= 0).all()
    got, not_got = benefit._pairs(seen, cate, sides, s.X)
    small, large, own = (got, not_got, sides[1]) if len(sides[0]) <= len(sides[1]) else (not_got, got, sides[0])
    distance = cdist(s.X[small], s.X[own], "mahalanobis", VI=np.linalg.inv(np.cov(s.X.T, ddof=0)))
    assert (own[distance.argmin(axis=1)] == large).all() and len(set(small)) == n_pairs


def test_equal_covariates_spread_over_their_rows() -> None:
    from effects.diagnostics import benefit

    base = study(600, 18, confounded=0.0)
    s = replace(base, X=np.round(np.clip(base.X[:, :1], 0, 1)))  # two kinds of units
    seen = benefit.gather(s.est(), s.X, s.y, s.treatment, None, None)
    sides = [np.flatnonzero(seen.a == k) for k in (1, 0)]
    got, not_got = benefit._pairs(seen, seen.cate(1, 0), sides, s.X)
    larger = max((got, not_got), key=lambda rows: len(sides[0 if rows is got else 1]))
    assert len(set(larger)) > 0.5 * len(larger) and (s.X[got] == s.X[not_got]).all()
    assert np.mean(s.y[got] - s.y[not_got]) == pytest.approx(1, abs=4 * np.sqrt(6 / len(got)))


def test_pairs_that_share_a_row_are_not_counted_as_independent() -> None:
    rng = np.random.default_rng(17)
    p, o = rng.normal(size=100), rng.normal(size=100)
    once = concordance(p, o)[1]
    assert concordance(p, o, None, np.arange(100))[1] == pytest.approx(once)
    four = np.tile(np.arange(100), 4)
    assert concordance(p[four], o[four], None, four)[1] == pytest.approx(once)  # a copy is no news


@pytest.mark.slow
def test_c_for_benefit_interval_covers() -> None:
    exact = 0.5 + np.arcsin(1 / np.sqrt(3)) / np.pi
    hits = []
    for seed in range(250):
        base = study(400, 5000 + seed, confounded=0.0)
        s = replace(base, y=base.y - base.X[:, 1], draws=base.draws - base.X[None, None, :, 1:2])
        lower, upper = s.ask(c_for_benefit).estimates[0].interval()
        hits.append(lower <= exact <= upper)
    assert stats.binom.ppf(0.001, 250, 0.95) <= np.sum(hits)


# ---- ranking


def test_curve_of_a_hand_made_ranking() -> None:
    curve = targeting_curve(np.array([4.0, 3, 2, 1]), np.array([4.0, 2, 2, 0]), n_points=4)
    assert curve.toc == pytest.approx([2, 1, 2 / 3, 0])
    # G(q): 4q up to 1/4, then 1 + 2 (q - 1/4) up to 3/4, then 2
    area = 1 + (1 - 0.5) * np.log(3) + 2 * 0.5 + 2 * np.log(4 / 3) - 2
    assert curve.autoc[0] == pytest.approx(area)
    assert curve.qini[0] == pytest.approx(0.125 + (1 + 2) / 2 * 0.5 + 2 * 0.25 - 1)


def test_areas_are_the_integrals_of_the_curve() -> None:
    rng = np.random.default_rng(17)
    s, gamma, w = rng.normal(size=500).round(1), rng.normal(size=500), rng.uniform(0, 2, size=500)
    curve = targeting_curve(s, gamma, w, n_points=20_000, n_bootstrap=2)
    assert curve.autoc[0] == pytest.approx(curve.toc.mean(), abs=2e-3)
    assert curve.qini[0] == pytest.approx((curve.fraction * curve.toc).mean(), abs=1e-3)


def test_ties_share_their_effect() -> None:
    gamma = np.array([5.0, 1, 0, 0])
    one = targeting_curve(np.array([1.0, 1, 0, 0]), gamma, n_points=4)
    other = targeting_curve(np.array([1.0, 1, 0, 0]), gamma[[1, 0, 3, 2]], n_points=4)
    assert one.toc == pytest.approx([1.5, 1.5, 0.5, 0]) and other.toc == pytest.approx(one.toc)
    assert targeting_curve(np.zeros(4), gamma).autoc[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("metric", ["toc", "qini"])
def test_curve_and_area_are_econmls(metric: str) -> None:
    from econml.validate.utils import calc_uplift

    rng = np.random.default_rng(18)
    cate = rng.normal(size=3000)
    gamma = cate + 3 * rng.normal(size=3000)
    percentiles = np.linspace(5, 95, 50)
    state = np.random.get_state()
    coefficient, error, theirs = calc_uplift(cate, cate, gamma, percentiles, metric, n_bootstrap=2)
    np.random.set_state(state)
    fine = targeting_curve(cate, gamma, n_points=2000, n_bootstrap=400)
    q = 1 - percentiles / 100
    toc, se = np.interp(q, fine.fraction, fine.toc), np.interp(q, fine.fraction, fine.toc_se)
    factor = q if metric == "qini" else 1.0
    assert theirs["value"].to_numpy() == pytest.approx(factor * toc, abs=0.02)
    # theirs takes the cut as given; to know it from the same rows changes the error a little
    assert theirs["err"].to_numpy()[5:-5] == pytest.approx((factor * se)[5:-5], rel=0.15)
    assert coefficient == pytest.approx(np.sum((factor * toc)[:-1] * np.diff(percentiles) / 100), abs=0.01)
    whole = fine.qini if metric == "qini" else fine.autoc
    if metric == "qini":  # nothing of it lies beyond their ends
        assert coefficient == pytest.approx(whole[0], rel=0.06) and error == pytest.approx(whole[1], rel=0.2)


def test_rank_error_is_that_of_fresh_samples() -> None:
    rng = np.random.default_rng(19)
    values, errors = [], []
    for _ in range(150):
        cate = rng.normal(size=300)
        curve = targeting_curve(cate, cate + 2 * rng.normal(size=300), n_bootstrap=100)
        values.append([curve.autoc[0], curve.qini[0], curve.toc[4]])
        errors.append([curve.autoc[1], curve.qini[1], curve.toc_se[4]])
    assert np.mean(errors, axis=0) == pytest.approx(np.std(values, axis=0), rel=0.2)


def test_rate_of_true_effects_and_of_a_random_ranking() -> None:
    s = study(3000, 20, confounded=0.5)
    check = s.ask(rate)
    # S normal, effect 1 + S: AUTOC is E over q of phi(z_q) / q, about 0.8 (numerical integral), Qini 1 / (2 sqrt(pi))
    q = (np.arange(200_000) + 0.5) / 200_000
    autoc = np.mean(stats.norm.pdf(stats.norm.isf(q)) / q)
    assert check.passed is True and check.value == pytest.approx(autoc, abs=4 * check.estimates[0].se)
    assert check.estimates[1].value == pytest.approx(0.5 / np.sqrt(np.pi), abs=4 * check.estimates[1].se)
    random = s.ask(rate, priority=np.random.default_rng(21).normal(size=3000))
    assert random.passed is None and abs(random.value) < 3 * random.estimates[0].se
    against = s.ask(rate, priority=-s.X[:, 0])
    assert against.passed is False
    assert check.table.index.name == "fraction" and check.table["toc"].iloc[-1] == pytest.approx(0, abs=1e-9)


def test_where_less_is_better_the_effects_downward_are_ranked() -> None:
    s = study(1500)
    down = replace(s, y=-s.y, draws=-s.draws, mu=-s.mu)
    upward, found = s.ask(rate), down.ask(rate, higher_is_better=False)
    assert found.value == pytest.approx(upward.value, rel=1e-6) and found.passed is upward.passed is True
    own = {"priority": s.X[:, 0]}  # larger is treated first, whatever is better
    assert down.ask(rate, higher_is_better=False, **own).value == pytest.approx(s.ask(rate, **own).value, rel=1e-6)
    assert down.ask(rate, **own).value == pytest.approx(-s.ask(rate, **own).value, rel=1e-6)


@pytest.mark.slow
def test_rate_intervals_cover() -> None:
    q = (np.arange(200_000) + 0.5) / 200_000
    truth = [np.mean(stats.norm.pdf(stats.norm.isf(q)) / q), 0.5 / np.sqrt(np.pi)]
    hits = []
    for seed in range(250):
        check = study(500, 6000 + seed, confounded=0.5).ask(rate, n_bootstrap=200, n_points=4)
        row = [e.interval()[0] <= v <= e.interval()[1] for e, v in zip(check.estimates, truth, strict=True)]
        toc = stats.norm.pdf(stats.norm.isf(0.25)) / 0.25
        hits.append([*row, check.table.loc[0.25, "lower"] <= toc <= check.table.loc[0.25, "upper"]])
    assert np.sum(hits, axis=0).min() >= stats.binom.ppf(0.0005, 250, 0.95)


# ---- all of them

ALL = [check_calibration, coverage_by, crps_decomposition, benefit_calibration, c_for_benefit, rate]


@pytest.mark.parametrize("function", ALL)
def test_row_order_and_rows_of_weight_zero_change_nothing(function: Any) -> None:
    s = study(300, 22)
    order = np.random.default_rng(22).permutation(300)
    one, two = s.ask(function), s.take(order).ask(function)
    # the randomised PIT of 100 nodes moves by half a step
    loose = 0.03 if function is check_calibration else 1e-6
    assert two.value == pytest.approx(one.value, abs=loose)
    far = replace(s, X=np.vstack([s.X, s.X[:20]]), y=np.append(s.y, s.y[:20] + 100), arm=np.append(s.arm, s.arm[:20]))
    rows = np.append(np.arange(300), np.arange(20))
    far = replace(far, mu=s.mu[rows], e=s.e[rows], draws=s.draws[:, :, rows])
    weighted = far.ask(function, sample_weight=np.repeat([1.0, 0.0], [300, 20]))
    assert weighted.value == pytest.approx(one.value, abs=1e-9)


@pytest.mark.parametrize("function", ALL)
def test_three_arms_by_name(function: Any) -> None:
    rng = np.random.default_rng(31)
    n = 900
    X, arm = rng.normal(size=(n, 2)), rng.integers(3, size=n)
    mu = np.column_stack([X[:, 0], X[:, 0] + 1, X[:, 0] + 2 * X[:, 1]])
    y = mu[np.arange(n), arm] + rng.normal(size=n)
    draws = mu[None, None] + NODES[None, :, None, None]
    s = Study(X, y, arm, mu, np.full((n, 3), 1 / 3), draws, labels=("a", "b", "c"))
    if function in (check_calibration, crps_decomposition):
        check = s.ask(function)
        assert list(check.table.index)[:3] == ["a", "b", "c"]
        return
    with pytest.raises(ValueError, match="treated= is ambiguous"):
        s.ask(function)
    check = s.ask(function, treated="c", control="b")
    assert check.passed is True
    # the pair (c, b) as a study of its own
    two = s.take(arm > 0)
    two = replace(
        two, arm=two.arm - 1, draws=two.draws[..., 1:], e=np.full((len(two.y), 2), 0.5), labels=("low", "high")
    )
    if function in (c_for_benefit, coverage_by):  # these use the rows of both arms alone
        assert two.ask(function).value == pytest.approx(check.value, abs=1e-9)


@pytest.mark.parametrize("function", ALL)
def test_bad_calls_say_what_is_wrong(function: Any) -> None:
    s = study(60)
    est = s.est()
    with pytest.raises(ValueError, match="60, 59 and 60 rows"):
        function(est, s.X, s.y[:-1], treatment=s.treatment)
    with pytest.raises(ValueError, match="sample_weight"):
        s.ask(function, sample_weight=-np.ones(60))
    est.values = CrossFitted(s.mu, s.e, None, "own")
    with pytest.raises(ValueError, match="give rows that it was not fitted on"):
        function(est, s.X, s.y, treatment=s.treatment)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        function(object(), s.X, s.y, treatment=s.treatment)
    if function is not crps_decomposition:
        with pytest.raises(ValueError, match="level must lie strictly between 0 and 1"):
            s.ask(function, level=95)


def test_impossible_propensities_are_named() -> None:
    s = study(60)
    e = np.where(np.eye(2)[s.arm] > 0, 0.0, 1.0)
    for function in (check_calibration, benefit_calibration, rate):
        with pytest.raises(ValueError, match="propensity is 0 for"):
            replace(s, e=e).ask(function)


def test_other_bad_options() -> None:
    s = study(60)
    with pytest.raises(ValueError, match="match must be"):
        s.ask(c_for_benefit, match="age")
    with pytest.raises(ValueError, match="n_groups must be at least 1"):
        s.ask(benefit_calibration, n_groups=0)
    with pytest.raises(ValueError, match="n_bootstrap 2 or more"):
        s.ask(rate, n_bootstrap=1)
    with pytest.raises(ValueError, match=r"priority has shape \(3,\)"):
        s.ask(rate, priority=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="same observed benefit"):
        concordance(np.arange(3.0), np.zeros(3))


def test_groups_have_equal_weight_and_keep_ties_together() -> None:
    rng = np.random.default_rng(24)
    v, w = rng.normal(size=1000), rng.uniform(0.2, 3, size=1000)
    group = quantile_groups(v, w, 8)
    assert np.bincount(group, weights=w) / w.sum() == pytest.approx(np.full(8, 1 / 8), abs=0.004)
    assert (np.diff(group[np.argsort(v)]) >= 0).all()
    tied = quantile_groups(np.repeat([0.0, 1.0, 2.0], [50, 1, 49]), np.ones(100), 4)
    assert [len(set(tied[a:b])) for a, b in ((0, 50), (50, 51), (51, 100))] == [1, 1, 1]
    assert set(tied) == set(range(tied.max() + 1))


def test_on_a_real_fit_training_rows_are_judged_by_what_was_held_out() -> None:
    from conftest import quick

    from effects.datasets import make_heteroscedastic

    data = make_heteroscedastic(220, random_state=0)
    X = pd.DataFrame(np.asarray(data.X, dtype=float))
    est = quick("GComputation").fit(X[:150], data.y[:150], treatment=data.treatment[:150])
    for rows, functions in ((slice(0, 150), ALL), (slice(150, 220), [check_calibration])):
        part = {"X": X[rows], "y": data.y[rows], "treatment": data.treatment[rows]}
        for function in functions:
            try:
                check = function(est, **part)
            except ValueError as error:  # an estimator that keeps no held-out laws says so
                assert rows.start == 0 and getattr(est, "held_out_", None) is None, error
                continue
            assert np.isfinite(check.value) and str(check).startswith(check.name)
