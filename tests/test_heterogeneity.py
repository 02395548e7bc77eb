"""Effect modification: against second implementations, closed forms and simulated truths."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from conftest import quick
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LinearRegression, LogisticRegression

from effects.effect import Effect, Estimates
from effects.heterogeneity import (
    best_linear_projection,
    modifier_importance,
    partial_dependence,
    subgroup_effects,
    subgroup_tree,
)
from effects.heterogeneity.tree import split_in_halves
from effects.inference import aipw_scores, estimate_ate, estimate_gate
from effects.nuisance import CrossFitted, Nuisance
from effects.plots import plot_forest, plot_importance, plot_partial_dependence, plot_subgroup_tree
from effects.schema import Schema

Array = NDArray[np.float64]
ARMS = ("placebo", "drug")


def linear_nuisance() -> Nuisance:
    """Quick, and as wrong as a line is."""
    return Nuisance(LinearRegression(), LogisticRegression(C=10.0), n_folds=2, random_state=0)


@dataclass
class Given:
    """A fitted estimator as far as these questions see it."""

    schema_: Schema
    values: CrossFitted
    nuisance: Nuisance = field(default_factory=linear_nuisance)
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def cross_fitted(self, *_: Any, **options: Any) -> CrossFitted:
        self.asked.append(options)
        return self.values


@dataclass
class Study:
    """A simulated table: the effect is 3 above the age of 60 and 0.5 more in women."""

    X: pd.DataFrame
    y: Array
    arm: NDArray[Any]
    mu: Array
    e: Array

    @property
    def est(self) -> Given:
        return Given(Schema.learn(self.X, self.y, self.arm), CrossFitted(self.mu, self.e))

    @property
    def rows(self) -> dict[str, Any]:
        return {"X": self.X, "y": self.y, "treatment": self.arm}

    def take(self, rows: Any) -> Study:
        return Study(self.X.iloc[rows], self.y[rows], self.arm[rows], self.mu[rows], self.e[rows])


def simulate(n: int = 600, seed: int = 0, *, step: float = 3.0, by_sex: float = 0.5, missing: bool = True) -> Study:
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"age": rng.uniform(30, 80, n).round(1), "sex": rng.choice(["f", "m"], n)})
    X["site"] = pd.Categorical(rng.choice(list("cab"), n, p=[0.2, 0.5, 0.3]), categories=["c", "b", "a"])
    X["bmi"] = rng.normal(27, 4, n)
    if missing:
        X.loc[rng.random(n) < 0.1, "bmi"] = np.nan
    X["smoker"] = rng.random(n) < 0.4
    tau = step * (X["age"] > 60) + by_sex * (X["sex"] == "f")
    e = 1 / (1 + np.exp(-(X["age"] - 55) / 25)).to_numpy()
    a = (rng.random(n) < e).astype(int)
    base = (10 + 0.1 * (X["age"] - 55)).to_numpy()
    y = base + a * tau.to_numpy() + rng.normal(size=n)
    return Study(X, y, np.array(ARMS)[a], np.column_stack([base, base + tau]), np.column_stack([1 - e, e]))


@pytest.fixture(scope="module")
def study() -> Study:
    return simulate()


# ------------------------------------------------------------------------------------------------------------ subgroups


def test_each_level_is_the_gate_of_its_rows_and_the_last_row_is_everyone(study: Study) -> None:
    found = subgroup_effects(study.est, **study.rows, by=["sex", "site"])
    for name in ("sex", "site"):
        gate = estimate_gate(study.est, **study.rows, by=name)
        own = found.factors[name]
        assert own.labels == gate.labels
        np.testing.assert_allclose(own.value, gate.value, rtol=1e-12)
        np.testing.assert_allclose(own.covariance, gate.covariance, rtol=1e-9, atol=1e-12)
        assert found.tests.loc[name, "p"] == pytest.approx(gate.heterogeneity().p_value)
    table, ate = found.to_frame(), estimate_ate(study.est, **study.rows)
    assert table["subgroup"].tolist() == ["sex"] * 2 + ["site"] * 3 + ["Overall"]
    assert table["level"].tolist() == ["f", "m", "c", "b", "a", ""]  # the order of the categories
    assert table["coef"].iloc[-1] == pytest.approx(ate.value)
    assert table[["lower", "upper"]].iloc[-1].tolist() == pytest.approx(list(ate.interval()))
    assert table["n"].iloc[-1] == len(study.y)


def test_the_interaction_test_is_that_of_a_saturated_regression() -> None:
    rng = np.random.default_rng(1)
    n = 300
    sex, a = rng.choice(["f", "m"], n), rng.integers(2, size=n)
    y = rng.normal(size=n) + a * (sex == "f") + (sex == "m")
    cell = pd.DataFrame({"y": y, "a": a, "sex": sex}).groupby("sex")
    share = cell["a"].transform("mean").to_numpy()
    mean = pd.DataFrame({"y": y, "a": a, "sex": sex}).groupby(["sex", "a"])["y"].mean()
    mu = np.column_stack([[mean[s, k] for s in sex] for k in (0, 1)])
    X = pd.DataFrame({"sex": sex, "z": rng.normal(size=n)})
    est = Given(Schema.learn(X, y, a), CrossFitted(mu, np.column_stack([1 - share, share])))
    found = subgroup_effects(est, X, y, treatment=a, by="sex")
    design = np.column_stack([np.ones(n), a, sex == "m", a * (sex == "m")]).astype(float)
    ols = sm.OLS(y, design).fit(cov_type="HC2")
    assert found.tests.loc["sex", "chi2"] == pytest.approx((ols.params[3] / ols.bse[3]) ** 2, rel=1e-9)
    welch = stats.ttest_ind(y[(sex == "f") & (a == 1)], y[(sex == "f") & (a == 0)], equal_var=False)
    first = found.factors["sex"][0]
    assert first.p_value == pytest.approx(welch.pvalue, rel=1e-9)


def test_holm_multiplies_the_smallest_by_the_number_of_factors(study: Study) -> None:
    tests = subgroup_effects(study.est, **study.rows, by=["smoker", "site", "bmi"]).tests.sort_values("p")
    p = tests["p"].to_numpy()
    stepped = np.minimum(np.maximum.accumulate(p * [3, 2, 1]), 1)
    np.testing.assert_allclose(tests["p_holm"], stepped)


def test_numbers_are_cut_at_the_median_or_where_told_and_what_is_missing_is_a_level(study: Study) -> None:
    age, bmi = study.X["age"], study.X["bmi"]
    found = subgroup_effects(study.est, **study.rows, by=["age", "bmi"], cuts={"age": [50, 65]}).to_frame()
    own = found[found["subgroup"] == "age"]
    assert own["level"].tolist() == ["< 50", "50 to < 65", "≥ 65"]
    assert own["n"].tolist() == [(age < 50).sum(), ((age >= 50) & (age < 65)).sum(), (age >= 65).sum()]
    own = found[found["subgroup"] == "bmi"]
    cut = float(own["level"].iloc[0].removeprefix("≤ "))
    assert own["level"].tolist() == [f"≤ {cut:g}", f"> {cut:g}", "missing"]
    assert own["n"].tolist() == [(bmi <= cut).sum(), (bmi > cut).sum(), bmi.isna().sum()]
    assert (bmi <= cut).sum() == (bmi <= bmi.median()).sum()
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(len(age)), unit="D")
    dated = subgroup_effects(study.est, **study.rows, by={"start": day}, cuts={"start": ["2020-06-01"]}).to_frame()
    assert dated["level"].tolist() == ["< 2020-06-01", "≥ 2020-06-01", ""]
    assert dated["n"].iloc[0] == 152
    nullable = subgroup_effects(study.est, **study.rows, by={"age": age.round().astype("Int64").mask(age > 75)})
    assert nullable.to_frame()["level"].iloc[2] == "missing"


def test_events_are_counted_by_arm_and_ratios_are_tested_on_the_logarithm() -> None:
    rng = np.random.default_rng(2)
    n = 800
    X = pd.DataFrame({"sex": rng.choice(["f", "m"], n), "z": rng.normal(size=n)})
    a = rng.integers(2, size=n)
    p = np.where(X["sex"] == "f", 0.2, 0.4) * np.where(a == 1, 1.5, 1.0)
    died = np.where(rng.random(n) < p, "dead", "alive")
    mu = np.column_stack([np.where(X["sex"] == "f", 0.2, 0.4) * f for f in (1.0, 1.5)])
    est = Given(Schema.learn(X, died, a), CrossFitted(mu, np.full((n, 2), 0.5)))
    found = subgroup_effects(est, X, died, treatment=a, by="sex", scale="ratio")
    table = found.to_frame()
    cross = pd.crosstab([X["sex"], a], died)["dead"]
    assert table["events [1]"].tolist()[:2] == [cross["f", 1], cross["m", 1]]
    assert table["events [0]"].iloc[-1] == cross[:, 0].sum()
    assert found.overall.unit == "risk ratio"
    pair = found.factors["sex"]
    z = np.diff(np.log(pair.value)).item() / np.sqrt(pair.covariance[0, 0] + pair.covariance[1, 1])
    assert found.tests.loc["sex", "p"] == pytest.approx(2 * stats.norm.sf(abs(z)))


def test_levels_too_small_are_counted_but_not_estimated(study: Study) -> None:
    label = np.where(np.arange(len(study.y)) < 12, "few", study.X["sex"])
    found = subgroup_effects(study.est, **study.rows, by={"who": label, "one": np.full(len(label), "same")})
    table: Any = found.to_frame().set_index(["subgroup", "level"])
    tests: Any = found.tests
    assert table.loc[("who", "few"), "n"] == 12
    assert np.isnan(table.loc[("who", "few"), "coef"])
    assert found.factors["who"].labels == ("f", "m")
    assert found.notes == ("who few: not estimated, fewer than 10 rows of an arm.",)
    assert found.notes[0] in found.text
    assert np.isnan(tests.loc["one", "p"])  # one level has nothing to differ from
    assert tests.loc["who", "p_holm"] == tests.loc["who", "p"]  # one test in all


def test_subgroups_do_not_depend_on_order_scale_of_weights_or_names_of_arms(study: Study) -> None:
    rng = np.random.default_rng(3)
    weight = rng.integers(0, 4, len(study.y)).astype(float)
    ask: dict[str, Any] = {"by": ["sex", "age"], "cuts": {"age": [60]}}
    first = subgroup_effects(study.est, **study.rows, **ask, sample_weight=weight)
    order = rng.permutation(len(study.y))
    shuffled = study.take(order)
    again = subgroup_effects(shuffled.est, **shuffled.rows, **ask, sample_weight=7 * weight[order])
    numbers = ["coef", "std err", "p", "p_holm"]
    pd.testing.assert_frame_equal(first.to_frame()[numbers], again.to_frame()[numbers])
    assert first.overall.n == (weight > 0).sum()
    turned = subgroup_effects(study.est, **study.rows, **ask, treated="placebo", control="drug", sample_weight=weight)
    np.testing.assert_allclose(turned.to_frame()["coef"], -first.to_frame()["coef"])
    np.testing.assert_allclose(turned.tests["p"], first.tests["p"])


def test_clusters_and_known_propensities_are_passed_on_and_the_estimator_is_asked_once(study: Study) -> None:
    est = study.est
    ward = np.arange(len(study.y)) % 20
    found = subgroup_effects(est, **study.rows, by=["sex", "site"], groups=ward, propensity=study.e[:, 1])
    assert len(est.asked) == 1
    np.testing.assert_array_equal(est.asked[0]["propensity"], study.e[:, 1])
    assert found.overall.df == 19
    assert {e.df for e in found.factors["site"]} == {19}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": ["height"]}, "'height' is no column of X"),
        ({"by": []}, "by names no subgroups"),
        ({"by": ["sex"], "cuts": {"age": [50]}}, "cuts names 'age'"),
        ({"by": ["age"], "cuts": {"age": [65, 50]}}, "must be increasing"),
        ({"by": ["age"], "cuts": {"age": [500]}}, "no row of age is ≥ 500"),
        ({"by": ["age"], "scale": "nnt"}, "scale must be one of"),
        ({"by": ["age"], "min_rows": 1}, "min_rows must be"),
        ({"by": {"g": [1, 2]}}, "2 labels for 600 rows"),
    ],
)
def test_what_makes_no_subgroups_is_said(study: Study, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subgroup_effects(study.est, **study.rows, **options)


def test_labels_cannot_be_cut(study: Study) -> None:
    with pytest.raises(TypeError, match="cuts cut numbers or dates, sex holds"):
        subgroup_effects(study.est, **study.rows, by="sex", cuts={"sex": [1]})


def test_columns_of_an_array_are_named_by_position() -> None:
    rng = np.random.default_rng(4)
    X, a = rng.normal(size=(200, 2)), np.arange(200) % 2
    y = X[:, 0] + a
    est = Given(Schema.learn(X, y, a), CrossFitted(np.column_stack([X[:, 0], X[:, 0] + 1]), np.full((200, 2), 0.5)))
    table = subgroup_effects(est, X, y, treatment=a, by=[1]).to_frame()
    assert table["subgroup"].tolist() == ["column 1", "column 1", "Overall"]
    with pytest.raises(ValueError, match="give a position 0 to 1"):
        subgroup_effects(est, X, y, treatment=a, by=[2])


# ----------------------------------------------------------------------------------------------------------- projection


def scores_of(study: Study) -> Array:
    a = (study.arm == "drug").astype(int)
    phi = aipw_scores(study.y, a, study.mu, study.e)
    return phi[:, 1] - phi[:, 0]


def test_the_projection_is_least_squares_of_the_scores_with_hc3(study: Study) -> None:
    fit = best_linear_projection(study.est, **study.rows, on=["age", "sex"])
    Z = np.column_stack([np.ones(600), study.X["age"], study.X["sex"] == "m"]).astype(float)
    gamma, inverse = scores_of(study), np.linalg.inv(Z.T @ Z)
    beta = inverse @ Z.T @ gamma
    r = gamma - Z @ beta
    h = np.einsum("ij,jk,ik->i", Z, inverse, Z)
    hc3 = inverse @ (Z.T * (r / (1 - h)) ** 2) @ Z @ inverse
    assert fit.params.index.tolist() == ["const", "age", "sex=m"]
    # numbers are decoded from single precision
    np.testing.assert_allclose(fit.params, beta, rtol=1e-4)
    np.testing.assert_allclose(fit.bse, np.sqrt(np.diag(hc3)), rtol=1e-4)
    assert fit.use_t


def test_the_projection_agrees_with_econmls_final_stage(study: Study) -> None:
    from econml.sklearn_extensions.linear_model import StatsModelsLinearRegression

    fit = best_linear_projection(study.est, **study.rows, on=["age", "bmi", "smoker"], standardise=True)
    Z = np.asarray(fit.model.exog)[:, 1:]
    theirs = StatsModelsLinearRegression(fit_intercept=True).fit(Z, scores_of(study))
    np.testing.assert_allclose(fit.params.iloc[1:], theirs.coef_, rtol=1e-6)
    np.testing.assert_allclose(fit.params.iloc[0], theirs.intercept_, rtol=1e-6)


def test_weights_clusters_and_standard_deviations_of_the_projection(study: Study) -> None:
    rng = np.random.default_rng(5)
    weight = rng.uniform(0.5, 2, 600)
    fit = best_linear_projection(study.est, **study.rows, on="age", sample_weight=weight)
    slope = np.polyfit(study.X["age"], scores_of(study), 1, w=np.sqrt(weight))
    np.testing.assert_allclose(fit.params[["age", "const"]], slope, rtol=1e-3)
    scaled = best_linear_projection(study.est, **study.rows, on="age", sample_weight=weight, standardise=True)
    assert scaled.params["age"] == pytest.approx(fit.params["age"] * study.X["age"].std(ddof=0), rel=1e-4)
    ward = np.repeat(np.arange(30), 20)
    clustered = best_linear_projection(study.est, **study.rows, on="age", groups=ward)
    gamma, Z = pd.Series(scores_of(study)), sm.add_constant(study.X[["age"]])
    other = sm.OLS(gamma, Z).fit(cov_type="cluster", cov_kwds={"groups": ward})
    np.testing.assert_allclose(clustered.bse, other.bse, rtol=1e-3)


def test_the_projection_takes_missing_values_own_tables_and_says_what_it_leaves_out(study: Study) -> None:
    fit = best_linear_projection(study.est, **study.rows)
    assert "bmi=<missing>" in fit.params
    assert "site=c" not in fit.params  # the first level is what others are compared with
    assert {"site=b", "site=a"} <= set(fit.params.index)
    own = pd.DataFrame({"older": study.X["age"] > 60, "twice": np.where(study.X["age"] > 60, 2.0, 0.0)})
    with pytest.warns(UserWarning, match="earlier columns say the same in these rows: 'twice'"):
        fit = best_linear_projection(study.est, **study.rows, on=own)
    assert fit.params.index.tolist() == ["const", "older"]
    assert abs(fit.params["older"] - 3.0) < 4 * fit.bse["older"]  # the truth


def test_the_projection_refuses_what_has_no_error(study: Study) -> None:
    with pytest.raises(ValueError, match="'height' is no column of X"):
        best_linear_projection(study.est, **study.rows, on=["height"])
    alone = pd.DataFrame({"odd": np.arange(600) == 3})
    with pytest.raises(ValueError, match=r"row 3 fixes a coefficient by itself \('odd' holds in it alone\)"):
        best_linear_projection(study.est, **study.rows, on=alone)
    few = study.take(np.arange(6))
    est = Given(study.est.schema_, CrossFitted(few.mu, few.e))
    with pytest.raises(ValueError, match="coefficients cannot be told from 6 rows"):
        best_linear_projection(est, **few.rows)


# ----------------------------------------------------------------------------------------------------------- importance


class Surface:
    """A fitted estimator whose CATE is a known function; remembers how many rows it was asked."""

    def __init__(self, X: Any, function: Any, spread: float = 0.3) -> None:
        a = np.arange(len(X)) % 2
        self.schema_, self.function, self.spread = Schema.learn(X, np.arange(len(X)) / 7, a), function, spread
        self.asked: list[int] = []

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def predict(self, X: Any) -> Array:
        self.asked.append(len(X))
        return np.asarray(self.function(X), dtype=np.float64)

    def predict_effect(self, X: Any, *, treated: Hashable = None, control: Hashable = None) -> Effect:
        shift = np.linspace(-1, 1, 25)[:, None] * self.spread
        return Effect(self.predict(X)[None] + shift)


def test_importance_is_the_share_of_variance_in_closed_form() -> None:
    rng = np.random.default_rng(6)
    X = pd.DataFrame(rng.normal(size=(4000, 3)), columns=["a", "b", "c"])
    linear = modifier_importance(Surface(X, lambda Z: 2 * Z["a"] + Z["b"]), X, n_rows=4000)
    table = linear.table.set_index("column")
    assert table.index.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(table["importance"], [0.8, 0.2, 0.0], atol=0.03)
    assert ((table["lower"] <= [0.8, 0.2, 0]) & (table["upper"] >= [0.8, 0.2, 0])).all()
    np.testing.assert_allclose(table["shift"], [2 * np.sqrt(2), np.sqrt(2), 0], atol=0.1)
    product = modifier_importance(Surface(X, lambda Z: Z["a"] * Z["b"]), X, n_rows=4000)
    np.testing.assert_allclose(product.table.set_index("column").loc[["a", "b"], "importance"], 1.0, atol=0.12)
    assert product.std == pytest.approx(1.0, abs=0.1)


def test_columns_move_as_they_stand_and_the_estimator_is_asked_once(study: Study) -> None:
    def effect(Z: pd.DataFrame) -> pd.Series:
        assert Z["site"].dtype == study.X["site"].dtype
        assert Z["smoker"].dtype == bool
        return Z["bmi"].isna() * 1.0 + (Z["site"] == "a") + (Z["sex"] == "f") * 0.0

    est = Surface(study.X, effect)
    found = modifier_importance(est, study.X, n_rows=150, random_state=1)
    assert est.asked == [150 * (1 + 5)]
    table = found.table.set_index("column")
    assert set(table.index[:2]) == {"bmi", "site"}
    assert (table["importance"].iloc[2:] == 0).all()
    again = modifier_importance(est, study.X, n_rows=150, random_state=1)
    pd.testing.assert_frame_equal(found.table, again.table)


def test_columns_that_say_the_same_can_move_together() -> None:
    rng = np.random.default_rng(7)
    X = pd.DataFrame({"a": rng.normal(size=500), "z": rng.normal(size=500)}).assign(b=lambda Z: Z["a"])
    est = Surface(X, lambda Z: (Z["a"] + Z["b"]) / 2)
    alone = modifier_importance(est, X, columns=["a", "b"], n_rows=500).table["importance"]
    both = modifier_importance(est, X, columns={"ab": ["a", "b"]}, n_rows=500).table["importance"]
    np.testing.assert_allclose(alone, 0.25, atol=0.04)
    np.testing.assert_allclose(both, 1.0, atol=0.1)


def test_weights_choose_whose_effects_matter_and_a_constant_effect_has_no_modifier() -> None:
    rng = np.random.default_rng(8)
    X = np.column_stack([np.arange(400) % 2, rng.normal(size=(400, 2))]).astype(float)
    est = Surface(X, lambda Z: np.where(Z[:, 0] > 0, Z[:, 1], Z[:, 2]))
    found: Any = modifier_importance(est, X, sample_weight=X[:, 0], n_rows=200).table.set_index("column")
    assert found.loc["x2", "importance"] == 0
    assert found.loc["x1", "importance"] > 0.8
    constant = modifier_importance(Surface(X, lambda Z: np.full(len(Z), 2.0)), X)
    assert (constant.table["importance"] == 0).all()
    assert "same for everyone" in constant.text
    with pytest.raises(ValueError, match="n_rows must be an int of 2 or more"):
        modifier_importance(est, X, n_rows=1)
    with pytest.raises(ValueError, match="'x7' is no column"):
        modifier_importance(est, X, columns=["x7"])


def test_partial_dependence_is_the_average_over_units_within_each_member() -> None:
    rng = np.random.default_rng(9)
    X = pd.DataFrame({"a": rng.normal(size=300), "b": rng.normal(size=300)})
    est = Surface(X, lambda Z: 2 * Z["a"] + Z["a"] * Z["b"])
    found = partial_dependence(est, X, "a", grid=[-1.0, 0.0, 2.0], n_rows=300, level=0.9)
    mean = X["b"].mean()
    np.testing.assert_allclose(found.table["mean"], [-2 - mean, 0, 4 + 2 * mean], atol=1e-6)
    # every member is shifted by the same everywhere, so that averaging over units leaves its spread
    members = np.linspace(-1, 1, 25) * 0.3
    half = stats.t.ppf(0.95, 24) * members.std(ddof=1)
    np.testing.assert_allclose(found.table["upper"] - found.table["mean"], half, rtol=1e-6)
    low, high = np.quantile(4 + 2 * X["b"], [0.1, 0.9])
    np.testing.assert_allclose(found.table[["q10", "q90"]].iloc[2], [low, high], atol=1e-6)
    np.testing.assert_allclose(found.table[["q10", "q90"]].iloc[1], 0, atol=1e-12)
    assert "at -1" in found.text


def test_partial_dependence_of_categories_dates_and_arrays(study: Study) -> None:
    X = study.X.assign(day=pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(600) % 3, unit="D"))
    X["site"] = X["site"].where(X.index % 9 > 0)
    X["count"] = np.arange(600) % 4
    est = Surface(X, lambda Z: (Z["site"] == "b") * 1.0 + Z["site"].isna() * 2.0 + Z["day"].dt.day + Z["count"])
    site = partial_dependence(est, X, "site")
    assert site.table["value"].tolist()[:3] == ["c", "b", "a"]
    assert site.table["value"].isna().tolist() == [False, False, False, True]
    np.testing.assert_allclose(np.diff(site.table["mean"]), [1, -1, 2], atol=1e-6)
    assert site.observed.sum() == pytest.approx(1.0)
    assert partial_dependence(est, X, "day").table["mean"].diff().iloc[1:].tolist() == pytest.approx([1.0, 1.0])
    assert partial_dependence(est, X, "count").table["value"].tolist() == [0, 1, 2, 3]
    assert "2020-01-03" in partial_dependence(est, X, "day").text
    array = np.random.default_rng(0).normal(size=(200, 2))
    curve = partial_dependence(Surface(array, lambda Z: Z[:, 1]), array, 1, n_grid=5)
    np.testing.assert_allclose(curve.table["mean"], curve.table["value"], atol=1e-6)
    with pytest.raises(ValueError, match="'height' is no column"):
        partial_dependence(est, X, "height")


# ----------------------------------------------------------------------------------------------------------------- tree


def test_the_tree_finds_the_step_and_says_it_in_the_users_words(study: Study) -> None:
    est = replace(study.est, values=replace(study.est.values, source="other"))  # its CATE is the true one
    found = subgroup_tree(est, **study.rows, max_depth=1)
    age = study.X["age"]
    rule = found.estimates.labels[0]
    cut = float(str(rule).removeprefix("age ≤ "))
    assert age[age <= 60].max() < cut < age[age > 60].min()
    assert found.estimates.labels[1] == f"age > {cut:g}"
    assert (found.apply(study.X) == np.where(age <= cut, *map(str, found.estimates.labels))).all()
    low, high = found.estimates
    assert abs(high.value - low.value - 3.0) < 4 * np.hypot(low.se, high.se)
    assert found.estimates.heterogeneity().p_value < 1e-6


def test_the_tree_is_that_of_econmls_interpreter(study: Study) -> None:
    from econml.cate_interpreter import SingleTreeCateInterpreter

    est = replace(study.est, values=replace(study.est.values, source="other"))
    found = subgroup_tree(est, **study.rows, max_depth=2, min_leaf=30)
    halves = split_in_halves(est, **study.rows)

    class Known:
        def const_marginal_effect(self, X: Any) -> Array:
            return (halves.mu[:, 1] - halves.mu[:, 0])[:, None]

    theirs = SingleTreeCateInterpreter(max_depth=2, min_samples_leaf=30, random_state=0)
    theirs.interpret(Known(), halves.E[halves.grow])
    ours = [node.feature for node in found.tree.nodes]
    assert [f for f in theirs.tree_model_.tree_.feature if f >= 0] == [f for f in ours if f >= 0]
    at = theirs.tree_model_.apply(halves.E)
    assert pd.crosstab(at, found.tree.apply(halves.E)).gt(0).sum(axis=1).eq(1).all()


def test_leaves_are_estimated_on_the_other_half_alone(study: Study) -> None:
    est = study.est
    halves = split_in_halves(est, **study.rows)
    found = subgroup_tree(est, **study.rows, halves=halves)
    assert found.tree.nodes == subgroup_tree(est, **study.rows).tree.nodes
    assert not (halves.grow & halves.value).any()
    assert (halves.grow | halves.value).all()
    rules = found.apply(study.X)
    gate = estimate_gate(est, **study.rows, by=rules, sample_weight=halves.value.astype(float))
    by_rule = dict(zip(gate.labels, gate.value, strict=True))
    np.testing.assert_allclose(found.estimates.value, [by_rule[rule] for rule in found.estimates.labels])
    assert sum(e.n for e in found.estimates) == found.n_valued == halves.value.sum() == found.overall.n
    for k in ARMS:  # each arm is halved
        assert abs((halves.grow & (study.arm == k)).sum() - (halves.value & (study.arm == k)).sum()) <= 1
    assert found.to_frame()["n"].iloc[-1] == found.n_valued


def test_outcomes_of_the_estimating_half_have_no_part_in_the_tree(study: Study) -> None:
    first = subgroup_tree(study.est, **study.rows, max_depth=2)
    halves = split_in_halves(study.est, **study.rows)
    y = study.y.copy()
    y[halves.value] += (
        5 * np.random.default_rng(0).normal(size=halves.value.sum()) * (study.X["bmi"] > 27)[halves.value]
    )
    changed = replace(study, y=y, mu=study.mu + (study.X["sex"] == "f").to_numpy()[:, None] * [0.0, 9.0])
    again = subgroup_tree(changed.est, **changed.rows, max_depth=2)
    assert again.tree.nodes == first.tree.nodes
    assert not np.allclose(again.estimates.value, first.estimates.value)
    moved = study.y + 9 * (halves.grow & (study.arm == "drug") & (study.X["bmi"] > 27))
    assert subgroup_tree(study.est, study.X, moved, treatment=study.arm).tree.nodes != first.tree.nodes


def test_the_tree_does_not_depend_on_the_order_of_rows_and_keeps_clusters_whole(study: Study) -> None:
    first = subgroup_tree(study.est, **study.rows)
    order = np.random.default_rng(1).permutation(600)
    halves = [split_in_halves(s.est, **s.rows, random_state=5) for s in (study, study.take(order))]
    np.testing.assert_array_equal(halves[0].grow[order], halves[1].grow)
    assert first.n_grown == 300
    ward = np.arange(600) % 24
    whole = split_in_halves(study.est, **study.rows, random_state=5, groups=ward)
    assert pd.Series(whole.grow).groupby(ward).nunique().eq(1).all()
    assert pd.Series(whole.grow).groupby(ward).first().sum() == 12
    again = split_in_halves(study.est, **study.rows, random_state=6)
    assert (again.grow != halves[0].grow).any()


def test_rules_tell_missing_values_levels_and_weights(study: Study) -> None:
    def grown(effect: Any, **options: Any) -> Any:
        mu = np.column_stack([study.mu[:, 0], study.mu[:, 0] + np.asarray(effect, dtype=float)])
        est = Given(study.est.schema_, CrossFitted(mu, study.e, source="other"))
        return subgroup_tree(est, **study.rows, max_depth=1, **options).estimates.labels

    X = study.X
    assert grown(X["bmi"].isna()) == ("bmi is known", "bmi is missing")
    assert grown(X["sex"] == "f") in (("sex is m", "sex is f"), ("sex is f", "sex is m"))
    assert grown(X["site"] == "b") == ("site is not b", "site is b")
    assert grown(X["smoker"]) == ("smoker is False", "smoker is True")
    low, high = grown((X["bmi"] > 30).astype(float))
    below, above = (float(str(rule).split()[2]) for rule in (low, high))
    assert below == above
    assert X["bmi"][X["bmi"] <= 30].max() < below < X["bmi"][X["bmi"] > 30].min()
    assert low == f"bmi ≤ {below:g} (or missing)"  # the median stands below
    assert grown(X["sex"] == "f", columns=["age"])[0].startswith(("age", "everyone"))
    both = (X["sex"] == "f") * 1.0 + (X["site"] == "b") * 1.2
    heavy = np.where((X["site"] != "b") | (X["age"] > 75), 1.0, 1e-3)
    assert "sex" in grown(both, sample_weight=heavy)[0]


def test_a_constant_effect_has_no_subgroups_and_leaves_need_rows_of_both_arms(study: Study) -> None:
    flat = replace(study, mu=np.column_stack([study.mu[:, 0], study.mu[:, 0] + 1]))
    est = Given(flat.est.schema_, CrossFitted(flat.mu, flat.e, source="other"))
    found = subgroup_tree(est, **flat.rows)
    assert found.estimates.labels == ("everyone",)
    assert "No split was found" in found.text
    # hardly anyone above 70 was treated: that split has to be taken back
    rare = simulate(600, 3)
    arm = np.where((rare.X["age"] > 70) & (np.arange(600) % 30 > 0), "placebo", rare.arm)
    step = np.column_stack([rare.mu[:, 0], rare.mu[:, 0] + 5.0 * (rare.X["age"] > 70)])
    est = Given(Schema.learn(rare.X, rare.y, arm), CrossFitted(step, rare.e, source="other"))
    found = subgroup_tree(est, rare.X, rare.y, treatment=arm, max_depth=1)
    assert found.estimates.labels == ("everyone",)
    # so has it where the other side is split again, with what stands below it
    effect = 9.0 * (rare.X["age"] > 70) + 3.0 * (rare.X["age"] < 50)
    est = Given(
        est.schema_, CrossFitted(np.column_stack([rare.mu[:, 0], rare.mu[:, 0] + effect]), rare.e, None, "other")
    )
    assert subgroup_tree(est, rare.X, rare.y, treatment=arm, max_depth=2).estimates.labels == ("everyone",)
    kept = subgroup_tree(est, rare.X, rare.y, treatment=rare.arm, max_depth=2).estimates.labels
    assert len(kept) == 3
    with pytest.raises(ValueError, match="max_depth must be an int from 1 to 6"):
        subgroup_tree(est, **flat.rows, max_depth=9)
    with pytest.raises(ValueError, match="'height' is no column that the fit used"):
        subgroup_tree(study.est, **study.rows, columns=["height"])
    with pytest.raises(ValueError, match="halves are of 600 rows and X has 9"):
        subgroup_tree(est, **study.take(np.arange(9)).rows, halves=split_in_halves(est, **flat.rows))
    with pytest.raises(ValueError, match="grow_by must be one of"):
        subgroup_tree(study.est, **study.rows, grow_by="luck")


def test_a_fitted_estimator_answers_every_question() -> None:
    table = simulate(160, 12)
    est = quick("GComputation", nuisance=linear_nuisance()).fit(table.X, table.y, treatment=table.arm)
    found = subgroup_effects(est, **table.rows, by=["sex", "bmi"], min_rows=5)
    assert found.overall.value == estimate_ate(est, **table.rows).value
    best_linear_projection(est, **table.rows, on=["age", "sex"])
    assert len(modifier_importance(est, table.X, n_rows=40).table) == 5
    curve = partial_dependence(est, table.X, "site", n_rows=40)
    by_hand = est.predict_effect(table.X.assign(site=pd.Categorical(["b"] * 160, categories=["c", "b", "a"])))
    whole = partial_dependence(est, table.X, "site", grid=["b"], n_rows=160)
    assert whole.table["mean"].iloc[0] == pytest.approx(by_hand.mean.mean(), abs=1e-5)
    assert curve.table["value"].tolist() == ["c", "b", "a"]
    assert "nuisances cross-fitted on these rows alone" in subgroup_tree(est, **table.rows).text
    anew = subgroup_tree(est, **table.rows, grow_by="estimator", max_depth=1)
    assert anew.source == "a GComputation fitted on these rows"
    other = simulate(120, 13)
    assert subgroup_tree(est, **other.rows).source == "the estimator, which was fitted on other rows"


@pytest.mark.slow
def test_intervals_of_found_subgroups_hold_where_there_are_none() -> None:
    """Every leaf's truth is 1; the tree is grown on noise, and its intervals hold because others give them."""
    hits: list[bool] = []
    same_rows: list[bool] = []
    rejected: list[bool] = []
    for replication in range(300):
        rng = np.random.default_rng([11, replication])
        n = 400
        X = rng.normal(size=(n, 5))
        e = 1 / (1 + np.exp(-0.7 * X[:, 0]))
        a = (rng.random(n) < e).astype(int)
        y = X[:, 0] + X[:, 1] + a + rng.normal(size=n)
        mu = np.zeros((n, 2))
        for fold in (0, 1):
            held = np.arange(n) % 2 == fold
            for k in (0, 1):
                rows = ~held & (a == k)
                mu[held, k] = LinearRegression().fit(X[rows], y[rows]).predict(X[held])
        est = Given(Schema.learn(X, y, a), CrossFitted(mu, np.column_stack([1 - e, e])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            halves = split_in_halves(est, X, y, treatment=a)
            found = subgroup_tree(est, X, y, treatment=a, halves=halves)
        lower, upper = found.estimates.interval(simultaneous=True)
        hits.append(bool(((lower <= 1) & (upper >= 1)).all()))
        rejected.append(len(found.estimates) > 1 and found.estimates.heterogeneity().p_value < 0.05)
        again = estimate_gate(
            est, X, y, treatment=a, by=found.apply(X), sample_weight=halves.grow.astype(float)
        )  # the rows that grew it
        assert isinstance(again, Estimates)
        lower, upper = again.interval(simultaneous=True)
        same_rows.append(bool(((lower <= 1) & (upper >= 1)).all()))
    assert stats.binomtest(sum(hits), len(hits), 0.95, alternative="less").pvalue > 1e-3
    assert stats.binomtest(sum(rejected), len(rejected), 0.05, alternative="greater").pvalue > 1e-3
    assert np.mean(same_rows) < np.mean(hits)


# ---------------------------------------------------------------------------------------------------------------- plots


def words(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_the_forest_shows_every_row_and_its_numbers(study: Study) -> None:
    label = np.where(np.arange(len(study.y)) < 12, "few", study.X["sex"])
    found = subgroup_effects(study.est, **study.rows, by={"who": label, "age": study.X["age"]})
    ax = plot_forest(found, outcome_name="pain")
    said = words(ax)
    for word in ("who", "few", "f", "m", "age", "Overall", "too few rows", "Effect (95% interval)", "600"):
        assert word in said
    assert sum(line.get_marker() == "s" for line in ax.lines) == 4
    assert len(ax.patches) == 1  # the diamond of everyone
    assert ax.get_xlabel() == "Effect on pain: drug vs placebo"
    assert ax.get_title(loc="left").replace("\n", " ").startswith("The effect differs by who and age")
    low, high = ax.get_xlim()
    assert low < found.overall.value < high
    gate = estimate_gate(study.est, **study.rows, by="site")
    assert words(plot_forest(gate)).count("site") == 1


def test_a_forest_of_ratios_has_a_logarithmic_axis_and_events() -> None:
    rng = np.random.default_rng(2)
    X = pd.DataFrame({"sex": rng.choice(["f", "m"], 400), "z": rng.normal(size=400)})
    a, y = rng.integers(2, size=400), rng.integers(2, size=400)
    est = Given(Schema.learn(X, y, a), CrossFitted(np.full((400, 2), 0.5), np.full((400, 2), 0.5)))
    found = subgroup_effects(est, X, y, treatment=a, by="sex", scale="ratio")
    ax = plot_forest(found)
    assert ax.get_xscale() == "log"
    assert f"{y[a == 1].sum()}/{(a == 1).sum()}" in words(ax)
    with pytest.raises(ValueError, match="numbers needed to treat have no common axis"):
        plot_forest(estimate_gate(est, X, y, treatment=a, by="sex", scale="nnt"))


def test_pictures_of_modifiers_and_trees(study: Study) -> None:
    est = Surface(study.X, lambda Z: Z["age"] / 10 + (Z["sex"] == "f"))
    found = modifier_importance(est, study.X)
    ax = plot_importance(found, n_columns=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == found.table["column"].tolist()[:3]
    assert "2 more columns" in " ".join(words(ax))
    assert "most with age" in ax.get_title(loc="left")
    ax = plot_partial_dependence(partial_dependence(est, study.X, "age"), outcome_name="pain", unit="mm")
    assert "pain" in ax.get_ylabel()
    assert "(mm)" in ax.get_ylabel()
    ax = plot_partial_dependence(partial_dependence(est, study.X, "sex"))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["f", "m"]
    tree = subgroup_tree(study.est, **study.rows, max_depth=1)
    said = " ".join(words(plot_subgroup_tree(tree))).replace("\n", " ")
    for rule, e in zip(tree.estimates.labels, tree.estimates, strict=True):
        assert str(rule) in said
        assert f"n = {e.n}" in said
