"""Balance, Table 1, missing values and held-out means against other libraries, plain loops and tables made by hand."""

# mypy: disable-error-code="operator, index, arg-type, attr-defined"

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from effects.diagnostics import Check, baseline_table, check_balance, check_missingness, check_outcome_model, trim
from effects.diagnostics.balance import holm
from effects.nuisance import CrossFitted
from effects.plots import plot_balance, plot_trimming
from effects.schema import Schema

Array = NDArray[np.float64]


@dataclass
class Given:
    """A fitted estimator as far as these checks see it."""

    schema_: Schema
    mu: Array
    e: Array

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def cross_fitted(
        self, X: Any, y: Any, *, treatment: Any, sample_weight: ArrayLike | None = None, propensity: Any = None
    ) -> CrossFitted:
        return CrossFitted(self.mu, self.e if propensity is None else propensity)


@dataclass
class Study:
    X: Any
    y: Array
    arm: NDArray[np.int64]
    e: Array
    mu: Array

    def ask(self, function: Any, **options: Any) -> Any:
        est = Given(Schema.learn(self.X, self.y, self.arm), self.mu, self.e)
        return function(est, self.X, self.y, treatment=self.arm, **options)


def clinic(n: int = 600, seed: int = 0, n_arms: int = 2) -> Study:
    """Older patients and those of the north get treated; ages go missing, sites are a category with a rare level."""
    rng = np.random.default_rng(seed)
    age, dose = rng.normal(60, 10, n), rng.lognormal(0, 1, n)
    site = rng.choice(["north", "south", "west", "far"], n, p=[0.4, 0.3, 0.298, 0.002])
    male = rng.random(n) < 0.4
    score = np.outer((age - 60) / 12 + 0.7 * (site == "north"), np.arange(n_arms) / (n_arms - 1))
    e = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    arm = (rng.random((n, 1)) > e.cumsum(axis=1)[:, :-1]).sum(axis=1)
    X = pd.DataFrame({"age": np.where(rng.random(n) < 0.1, np.nan, age), "dose": dose, "site": site, "male": male})
    mu = np.column_stack([0.1 * age + k for k in range(n_arms)])
    return Study(X, mu[np.arange(n), arm] + rng.normal(size=n), arm, e, mu)


def weights(study: Study, estimand: str) -> Array:
    e = study.e[:, 1]
    h = {"ATE": np.ones(len(e)), "ATT": e, "ATC": 1 - e, "ATO": e * (1 - e)}[estimand]
    return h / np.where(study.arm == 1, e, 1 - e)


# ---- balance


@pytest.mark.parametrize("estimand", ["ATE", "ATT", "ATC", "ATO"])
def test_standardised_differences_are_those_of_statsmodels(estimand: str) -> None:
    study = clinic()
    table = study.ask(check_balance, estimand=estimand).table
    w = weights(study, estimand)
    columns = {"age": study.X["age"], "dose": study.X["dose"], "male": study.X["male"].astype(float)}
    columns |= {f"site: {name}": (study.X["site"] == name).astype(float) for name in ("north", "south", "west")}
    columns["age: <missing>"] = study.X["age"].isna().astype(float)
    for name, values in columns.items():
        seen = values.notna().to_numpy()
        plain, weighted = (
            [DescrStatsW(values[seen & (study.arm == k)], given[seen & (study.arm == k)]) for k in (1, 0)]
            for given in (np.ones(len(w)), w)
        )
        binary = name not in ("age", "dose")
        sd = np.sqrt(sum(d.var if binary else d.var_ddof(1) for d in plain) / 2)
        for when, (t, c) in (("before", plain), ("after", weighted)):
            assert table.loc[name, f"smd_{when}"] == pytest.approx((t.mean - c.mean) / sd), name
    assert set(table.index) == {*columns, "site: <other>"}


def test_differences_variances_and_distributions_by_plain_loops() -> None:
    study = clinic(120, 3)
    w = np.random.default_rng(0).uniform(0.2, 2, 120)
    table = study.ask(check_balance, sample_weight=w).table
    both = weights(study, "ATE") * w

    def of(arm: int, given: Array) -> tuple[float, float]:
        rows = [i for i in range(120) if study.arm[i] == arm and not np.isnan(study.X["age"].iloc[i])]
        total = sum(given[i] for i in rows)
        mean = sum(given[i] * study.X["age"].iloc[i] for i in rows) / total
        square = sum(given[i] * (study.X["age"].iloc[i] - mean) ** 2 for i in rows)
        return mean, square * total / (total**2 - sum(given[i] ** 2 for i in rows))

    (m1, v1), (m0, v0), (n1, u1), (n0, u0) = (of(k, given) for given in (w, both) for k in (1, 0))
    row, scale = table.loc["age"], np.sqrt((v1 + v0) / 2)
    assert row["smd_before"] == pytest.approx((m1 - m0) / scale)
    assert row["smd_after"] == pytest.approx((n1 - n0) / scale)  # the sd before, in both
    assert row["variance_ratio_before"] == pytest.approx(v1 / v0)
    assert row["variance_ratio_after"] == pytest.approx(u1 / u0)
    for when, given in (("before", w), ("after", both)):
        far = 0.0
        for at in study.X["dose"]:
            below = [
                sum(given[(study.arm == k) & (study.X["dose"] <= at)]) / sum(given[study.arm == k]) for k in (0, 1)
            ]
            far = max(far, abs(below[1] - below[0]))
        assert table.loc["dose", f"ks_{when}"] == pytest.approx(far)
    assert np.isnan(table.loc["male", "variance_ratio_before"])
    assert table.loc["male", "ks_before"] == pytest.approx(abs(table.loc["male", "smd_before"]) * np.sqrt(sum(
        p * (1 - p) for p in (np.average(study.X["male"][study.arm == k], weights=w[study.arm == k]) for k in (0, 1))
    ) / 2))  # fmt: skip


def test_distances_without_weights_are_scipys() -> None:
    study = clinic(300, 4)
    study.X["dose"] = study.X["dose"].round(1)  # ties
    table = study.ask(check_balance).table
    t, c = (study.X["dose"][study.arm == k] for k in (1, 0))
    assert table.loc["dose", "ks_before"] == pytest.approx(stats.ks_2samp(t, c).statistic)
    assert table.loc["dose", "variance_ratio_before"] == pytest.approx(t.var() / c.var())


def test_true_propensities_balance_and_wrong_ones_do_not() -> None:
    study = clinic(20_000, 1)
    right = study.ask(check_balance)
    assert right.passed is True and right.value < 0.05
    assert abs(right.table.loc["age", "smd_before"]) > 0.5
    assert abs(right.table.loc["age", "ks_after"]) < 0.05 < right.table.loc["age", "ks_before"]
    study.e = np.full_like(study.e, 0.5)
    wrong = study.ask(check_balance)
    assert wrong.passed is False and wrong.value == pytest.approx(wrong.table["smd_before"].abs().max())
    n_above = (wrong.table["smd_before"].abs() > 0.1).sum()
    assert f"{n_above} of 8 covariates before weighting for the ATE, {n_above} after" in wrong.text and n_above > 0


def test_chance_is_told_of_in_a_small_trial() -> None:
    rng = np.random.default_rng(0)
    arm = np.arange(40) % 2
    study = Study(rng.normal(size=(40, 20)), rng.normal(size=40), arm, np.full((40, 2), 0.5), np.zeros((40, 2)))
    check = study.ask(check_balance)
    assert check.passed is False and "Chance alone makes one as large as 0.62" in check.text
    assert study.ask(check_balance, threshold=2.0).passed is True


def test_the_worst_pair_of_three_arms_is_told() -> None:
    study = clinic(900, 2, n_arms=3)
    table = study.ask(check_balance).table
    pairs = {}
    for t, c in ((1, 0), (2, 0), (2, 1)):
        est = Given(Schema.learn(study.X, study.y, study.arm), study.mu, study.e)
        options = {"treatment": study.arm, "treated": t, "control": c}
        pairs[t, c] = check_balance(est, study.X, study.y, **options).table
    for column in ("smd_before", "smd_after", "ks_before", "ks_after"):
        assert table[column].abs().to_numpy() == pytest.approx(
            np.max([pair.loc[table.index, column].abs() for pair in pairs.values()], axis=0), nan_ok=True
        )
    ratio = np.array([np.log(pair.loc["age", "variance_ratio_after"]) for pair in pairs.values()])
    assert np.log(table.loc["age", "variance_ratio_after"]) == pytest.approx(ratio[np.abs(ratio).argmax()])


def test_arms_that_share_no_value_differ_without_bound_and_unknown_values_are_not_judged() -> None:
    arm = np.arange(60) % 2
    X = pd.DataFrame({"here": arm.astype(float), "some": np.where(arm == 1, np.nan, np.arange(60.0))})
    study = Study(X, np.arange(60.0), arm, np.full((60, 2), 0.5), np.zeros((60, 2)))
    check = study.ask(check_balance)
    assert check.passed is False and check.table.loc["here", "smd_after"] == np.inf
    assert np.isnan(check.table.loc["some", "smd_after"]) and check.table.loc["some: <missing>", "smd_after"] == np.inf
    assert "1 could not be judged" in check.text


def test_rows_of_weight_zero_and_the_scale_of_weights_do_not_matter() -> None:
    study = clinic(300, 5)
    w = np.random.default_rng(0).uniform(0.5, 2, 300) * (np.arange(300) > 20)
    first = study.ask(check_balance, sample_weight=w).table
    rest = Study(study.X.iloc[21:], study.y[21:], study.arm[21:], study.e[21:], study.mu[21:])
    second = rest.ask(check_balance, sample_weight=7 * w[21:]).table
    pd.testing.assert_frame_equal(first.loc[second.index], second)


def test_dates_arrays_and_objects_are_compared_too() -> None:
    rng = np.random.default_rng(0)
    arm = np.arange(100) % 2
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 500, 100), unit="D")
    X = pd.DataFrame({"day": day, "grade": pd.Categorical(rng.choice(["a", "b"], 100), ["b", "a", "c"])})
    X["mixed"] = pd.Series(rng.choice([1.5, 2.5, None], 100), dtype=object)
    study = Study(X, rng.normal(size=100), arm, np.full((100, 2), 0.5), np.zeros((100, 2)))
    days = (day - pd.Timestamp("1970-01-01")).days.to_numpy(dtype=float)
    t, c = days[arm == 1], days[arm == 0]
    check = study.ask(check_balance)
    assert list(check.table.index) == ["day", "grade: b", "grade: a", "mixed", "mixed: <missing>"]
    assert check.table.loc["day", "smd_before"] == pytest.approx(
        (t.mean() - c.mean()) / np.sqrt((t.var(ddof=1) + c.var(ddof=1)) / 2)
    )
    array = Study(X[["mixed"]].to_numpy(dtype=float), study.y, arm, study.e, study.mu).ask(check_balance)
    assert list(array.table.index) == ["x0", "x0: <missing>"]
    assert array.details is not None and array.details.loc["x0", "n"] == X["mixed"].notna().sum()


# ---- table 1


def hand() -> Study:
    X = pd.DataFrame(
        {
            "age": [50.0, 60, 70, 80, 40, 60, 80, np.nan],
            "cost": [1.0, 1, 2, 300, 1, 2, 2, 3],
            "sex": ["f", "m", "f", "f", "m", "m", None, "f"],
            "smoker": [True, False, False, True, True, True, True, False],
        }
    )
    arm = np.repeat([0, 1], 4)
    e = np.array([0.5, 0.5, 0.25, 0.5, 0.5, 0.25, 0.5, 0.5])
    return Study(X, np.arange(8.0), arm, np.column_stack([1 - e, e]), np.zeros((8, 2)))


def test_table_1_by_hand() -> None:
    table = hand().ask(baseline_table)
    assert list(table.columns) == ["Overall", "0", "1", "SMD"]
    assert table.loc["n"].tolist() == ["8", "4", "4", ""]
    assert table.loc["age, mean (SD)"].tolist()[:3] == ["62.9 (15.0)", "65.0 (12.9)", "60.0 (20.0)"]
    assert table.loc["age, mean (SD)", "SMD"] == f"{5 / np.sqrt((500 / 3 + 400) / 2):.2f}"
    assert table.loc["age: <missing>, n (%)"].tolist()[:3] == ["1 (12.5)", "0 (0.0)", "1 (25.0)"]
    assert table.loc["cost, median [IQR]"].tolist()[1:3] == ["1.5 [1.0, 76.5]", "2.00 [1.75, 2.25]"]
    assert table.loc["sex: f, n (%)"].tolist()[:3] == ["4 (57.1)", "3 (75.0)", "1 (33.3)"]  # of those known
    assert table.loc["smoker, n (%)"].tolist()[:3] == ["5 (62.5)", "2 (50.0)", "3 (75.0)"]
    assert all(isinstance(cell, str) for cell in table.to_numpy().ravel())


def test_weighted_table_1_by_hand() -> None:
    table = hand().ask(baseline_table, weighted=True)
    assert list(table.columns) == ["Target population", "0", "1", "SMD"]
    w = np.array([2, 2, 4 / 3, 2, 2, 4, 2, 2])
    assert table.loc["smoker, %"].tolist()[:3] == [
        "62.5", f"{100 * 4 / (22 / 3):.1f}", f"{100 * 8 / 10:.1f}"
    ]  # fmt: skip
    size = [w[:4].sum() ** 2 / (w[:4] ** 2).sum(), w[4:].sum() ** 2 / (w[4:] ** 2).sum()]
    assert table.loc["n, effective"].tolist() == ["8", *(f"{n:.0f}" for n in size), ""]
    assert table.loc["age, mean (SD)", "1"].startswith(f"{(2 * 40 + 4 * 60 + 2 * 80) / 8:.1f} (")
    treated = hand().ask(baseline_table, weighted=True, estimand="ATT")
    assert treated.loc["smoker, %", "Target population"] == treated.loc["smoker, %", "1"] == "75.0"


def test_table_1_has_the_differences_of_the_check_and_the_names_of_the_arms() -> None:
    study = clinic(400, 6, n_arms=3)
    plain, weighted = study.ask(baseline_table), study.ask(baseline_table, weighted=True)
    table = study.ask(check_balance).table
    assert list(plain.columns) == ["Overall", "0", "1", "2", "SMD"]
    for name, row in table.iterrows():
        (label,) = [one for one in plain.index if one.startswith(f"{name},")]
        (label_w,) = [one for one in weighted.index if one.startswith(f"{name},")]
        assert plain.loc[label, "SMD"] == f"{abs(row['smd_before']):.2f}"
        assert weighted.loc[label_w, "SMD"] == f"{abs(row['smd_after']):.2f}"
    assert "dose, median [IQR]" in plain.index and "dose, mean (SD)" in study.ask(baseline_table, skewed=99).index
    two = study.ask(baseline_table, treated=2)
    assert list(two.columns) == ["Overall", "0", "2", "SMD"] and two.loc["n", "Overall"] == str((study.arm != 1).sum())


def test_no_minus_stands_before_a_zero_and_dates_are_dates() -> None:
    arm = np.arange(4) % 2
    X = pd.DataFrame({"z": [-1.0, -1.0, 1.0, 0.99], "day": pd.to_datetime(["2020-01-01"] * 2 + ["2020-03-01"] * 2)})
    table = Study(X, np.arange(4.0), arm, np.full((4, 2), 0.5), np.zeros((4, 2))).ask(baseline_table)
    assert "-0.00" not in table.to_string()
    assert table.loc["day, median [IQR]", "0"] == "2020-01-31 [2020-01-16, 2020-02-15]"


# ---- missing values


def test_tests_of_missing_values_are_scipys_with_holms_correction() -> None:
    rng = np.random.default_rng(0)
    arm = (np.arange(400) % 3 == 0).astype(int)
    often, seldom, even = rng.random(400) < 0.1 + 0.15 * arm, np.zeros(400, dtype=bool), rng.random(400) < 0.2
    seldom[np.flatnonzero(arm)[:4]] = True
    X = pd.DataFrame({"often": np.where(often, np.nan, 1.0 + arm), "full": rng.normal(size=400)})
    X["seldom"] = pd.Series(rng.choice(["a", "b"], 400), dtype=object).mask(seldom)
    X["even"] = np.where(even, np.nan, rng.normal(size=400))
    check = Study(X, rng.normal(size=400), arm, np.full((400, 2), 0.5), np.zeros((400, 2))).ask(check_missingness)
    p = {}
    for name, missing in (("often", often), ("even", even)):
        p[name] = stats.chi2_contingency(pd.crosstab(arm, missing), correction=False).pvalue
    p["seldom"] = stats.fisher_exact(pd.crosstab(arm, seldom)).pvalue
    assert check.table["p_value"].to_dict() == pytest.approx(p)
    assert check.table.loc["seldom", "test"] == "Fisher" and check.table.loc["even", "test"] == "chi2"
    low, middle, high = sorted(p.values())
    adjusted = [3 * low, max(3 * low, 2 * middle), max(3 * low, 2 * middle, high)]
    assert check.table["p_adjusted"].tolist() == pytest.approx(np.minimum(adjusted, 1))
    assert check.value == check.table["p_adjusted"].iloc[0] and check.passed is (check.value >= 0.05) is False
    assert check.table.loc["often", ["0", "1"]].tolist() == pytest.approx([often[arm == k].mean() for k in (0, 1)])
    assert "3 of 4 columns" in check.text


def test_nothing_missing_passes_and_weight_zero_rows_are_not_counted() -> None:
    study = clinic(200)
    study.X["age"] = study.X["age"].fillna(1.0)
    check = study.ask(check_missingness)
    assert check.passed is True and check.value == 1 and "No value is missing in 4 columns" in check.text
    study.X.loc[study.arm == 1, "age"] = np.where(np.arange((study.arm == 1).sum()) < 30, np.nan, 1.0)
    assert study.ask(check_missingness).passed is False
    assert study.ask(check_missingness, sample_weight=study.X["age"].notna().astype(float)).passed is True


def test_missing_at_random_passes_as_often_as_it_says() -> None:
    """Level: with 6 columns, in 60 tables; 0.95 or more, as the exact tests are conservative."""
    rng, failed = np.random.default_rng(1), 0
    for _ in range(60):
        arm = rng.permutation(np.arange(90) % 3)
        X = np.where(rng.random((90, 6)) < [0.02, 0.05, 0.1, 0.2, 0.4, 0.5], np.nan, rng.normal(size=(90, 6)))
        study = Study(X, rng.normal(size=90), arm, np.full((90, 3), 1 / 3), np.zeros((90, 3)))
        failed += study.ask(check_missingness).passed is False
    assert failed <= stats.binom.isf(0.001, 60, 0.05)


def test_holms_adjustment_is_that_of_statsmodels() -> None:
    p = np.random.default_rng(0).random(50) ** 4
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


# ---- held-out means


def test_the_outcome_model_is_regressed_as_statsmodels_does() -> None:
    study = clinic(500, 7)
    w = 1 / study.e[np.arange(500), study.arm]
    check = study.ask(check_outcome_model)
    for k in (0, 1):
        own = study.arm == k
        fit = sm.WLS(study.y[own], sm.add_constant(study.mu[own, k]), weights=w[own]).fit(cov_type="HC3")
        row = check.table.loc[k]
        assert row[["intercept", "slope"]].to_numpy(dtype=float) == pytest.approx(fit.params)
        assert row[["intercept_se", "slope_se"]].to_numpy(dtype=float) == pytest.approx(fit.bse)
        gap = fit.params - [0, 1]
        assert row["p_value"] == pytest.approx(stats.chi2.sf(gap @ np.linalg.solve(fit.cov_params(), gap), 2))
        residual = np.average((study.y - study.mu[:, k])[own] ** 2, weights=w[own])
        centred = study.y[own] - np.average(study.y[own], weights=w[own])
        assert row["skill"] == pytest.approx(1 - residual / np.average(centred**2, weights=w[own]))
    assert check.passed is True and check.value == pytest.approx(min(1, 2 * check.table["p_value"].min()))


@pytest.mark.parametrize(("stretch", "shift", "slope"), [(2.0, 0.0, 0.5), (0.5, 0.0, 2.0), (1.0, 0.6, 1.0)])
def test_means_too_far_apart_too_close_or_too_high_fail(stretch: float, shift: float, slope: float) -> None:
    study = clinic(1500, 8)
    centre = study.mu.mean(axis=0)
    study.mu = centre + stretch * (study.mu - centre) + shift
    check = study.ask(check_outcome_model)
    assert check.passed is False and check.table["slope"].to_numpy() == pytest.approx([slope, slope], rel=0.2)
    if shift:
        assert (check.table["predicted"] - check.table["observed"]).to_numpy() == pytest.approx([0.6, 0.6], abs=0.2)


def test_weighting_finds_means_that_are_wrong_for_those_who_got_another_arm() -> None:
    """Right for the treated on average, wrong for everyone: the error changes sign with the propensity."""
    study = clinic(8000, 9)
    treated, old = study.arm == 1, study.X["age"].fillna(60).to_numpy() > 60
    error = np.where(old, 0.4, -0.4 * np.sum(treated & old) / np.sum(treated & ~old))
    study.mu = study.mu + np.column_stack([np.zeros(8000), error])
    seeing, blind = (study.ask(check_outcome_model, weighted=w).table.loc[1] for w in (True, False))
    assert abs(blind["predicted"] - blind["observed"]) < 0.08 < abs(seeing["predicted"] - seeing["observed"])
    assert "of the rows of each arm" in study.ask(check_outcome_model, weighted=False).text


def test_risks_are_judged_by_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=4000)
    y = (rng.random(4000) < 1 / (1 + np.exp(-logit))).astype(float)
    arm, e = np.arange(4000) % 2, np.full((4000, 2), 0.5)
    risk = 1 / (1 + np.exp(-2 * logit))  # too sure of itself
    study = Study(logit[:, None], y, arm, e, np.column_stack([risk, 1 / (1 + np.exp(-logit))]))
    check = study.ask(check_outcome_model)
    fit = sm.Logit(y[arm == 0], sm.add_constant(2 * logit[arm == 0])).fit(disp=False)
    assert check.table.loc[0, ["intercept", "slope"]].to_numpy(dtype=float) == pytest.approx(fit.params, abs=1e-4)
    assert check.passed is False and check.table.loc[1, "p_value"] > 0.01
    assert check.table.loc[0, "slope"] == pytest.approx(0.5, abs=0.1)


def test_equal_means_have_no_slope_and_exact_ones_no_error() -> None:
    rng, arm = np.random.default_rng(0), np.arange(200) % 2
    y = rng.normal(5, 1, 200)
    study = Study(rng.normal(size=(200, 2)), y, arm, np.full((200, 2), 0.5), np.full((200, 2), 5.0))
    check = study.ask(check_outcome_model)
    assert check.passed is True and check.table["slope"].isna().all()
    study.mu = study.mu + 1
    assert study.ask(check_outcome_model).passed is False
    study.mu = np.column_stack([y, y])
    assert study.ask(check_outcome_model).passed is True


# ---- pictures


def axes() -> Axes:
    return Figure(figsize=(5, 4)).subplots()


def test_the_love_plot_shows_the_table_and_marks_which_is_which() -> None:
    check = clinic().ask(check_balance)
    ax = plot_balance(check, ax=axes())
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert "male" in names and "site: <other>" in names
    marks = {line.get_label(): line for line in ax.get_lines() if "weighting" in str(line.get_label())}
    for when in ("before", "after"):
        mark = marks[f"{when} weighting"]
        places = dict(zip(names, ax.get_yticks(), strict=True))
        for x, at in zip(mark.get_xdata(), mark.get_ydata(), strict=True):
            (name,) = [one for one, place in places.items() if place == at]
            assert x == pytest.approx(abs(check.table.loc[name, f"smd_{when}"]))
    assert marks["before weighting"].get_markerfacecolor() == "white" != marks["after weighting"].get_markerfacecolor()
    before, after = ((check.table[f"smd_{when}"].abs() > 0.1).sum() for when in ("before", "after"))
    title = ax.get_title(loc="left").replace("\n", " ")
    assert title == f"{before} of 8 covariates differ by more than 0.1 before weighting, {after or 'none'} after"
    # an unclipped line without points would take up room at the corner of the figure
    assert all(len(np.atleast_1d(line.get_xdata())) for line in ax.get_lines())


def test_the_love_plot_keeps_what_is_above_the_limit_after_and_draws_mirrored_levels_once() -> None:
    rng = np.random.default_rng(0)
    arm = np.arange(400) % 2
    X = pd.DataFrame(rng.normal(size=(400, 40)) + np.outer(arm, np.linspace(0.3, 1, 40))).add_prefix("v")
    X["sex"] = np.where(rng.random(400) < 0.5, "f", "m")
    check = Study(X, rng.normal(size=400), arm, np.full((400, 2), 0.5), np.zeros((400, 2))).ask(check_balance)
    table = check.table.copy()
    table["smd_after"] = 0.0
    table.loc["v0", ["smd_before", "smd_after"]] = [0.0, 0.2]
    table.loc["v1", "smd_before"] = np.inf
    fixed = Check("balance", False, 0.2, 0.1, table, "", (), check.details)
    ax = plot_balance(fixed, ax=axes(), max_rows=10)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert len(names) == 10 and "v0" in names and names[0] == "v1"
    assert any("the 10 largest of 41" in text.get_text() for text in ax.texts)
    assert [line.get_marker() for line in ax.get_lines() if line.get_marker() == ">" and len(line.get_xdata())] == [">"]
    everyone = plot_balance(fixed, ax=axes(), max_rows=50)
    assert [name.get_text() for name in everyone.get_yticklabels() if "sex" in name.get_text()] == ["sex: m"]


def test_the_picture_of_trimming_has_its_limits_or_those_lost() -> None:
    study = clinic(500, 10)
    found = study.ask(trim, rule="fixed", threshold=0.3)
    ax = plot_trimming(found, ax=axes())
    lines = [np.asarray(line.get_xdata())[0] for line in ax.get_lines() if line.get_linestyle() == "--"]
    assert np.sort(lines) == pytest.approx([0.3, 0.7])
    assert f"{found.n - found.n_kept} of 500" in ax.get_title(loc="left").replace("\n", " ")
    ax = plot_trimming(found, show="covariates", ax=axes())
    widths = np.array([bar.get_width() for bar in ax.patches if isinstance(bar, Rectangle)])
    assert np.sort(widths) == pytest.approx(np.sort(found.table["smd"].head(12)))
    three = clinic(900, 11, n_arms=3).ask(trim, rule="fixed", threshold=0.2)
    assert plot_trimming(three, ax=axes()).get_xlabel().startswith("Lost less kept")


def test_pictures_of_something_else_are_refused() -> None:
    study = clinic(100)
    with pytest.raises(ValueError, match="check_balance"):
        plot_balance(study.ask(check_missingness), ax=axes())
    with pytest.raises(ValueError, match="max_rows"):
        plot_balance(study.ask(check_balance), max_rows=0, ax=axes())
    with pytest.raises(ValueError, match="show must be"):
        plot_trimming(study.ask(trim), show="all", ax=axes())
    with pytest.raises(ValueError, match="nobody is lost"):
        plot_trimming(study.ask(trim, rule="fixed", threshold=0.0), show="covariates", ax=axes())
    with pytest.raises(ValueError, match="propensity of two arms"):
        plot_trimming(clinic(300, 1, n_arms=3).ask(trim), show="propensity", ax=axes())
