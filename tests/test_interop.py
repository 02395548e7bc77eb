"""The real tools of EconML and DoWhy, run on fitted estimators whose effects are known."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression

from effects import EffectEstimator, as_econml, estimate_ate
from effects.interop import EconMLAdapter


def step_table(n: int = 400, seed: int = 0) -> tuple[pd.DataFrame, pd.Series, pd.Series, np.ndarray]:
    """A randomised trial: the drug gains 2 above the age of 60 and loses 1 below."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"age": rng.uniform(40, 80, n), "bmi": rng.normal(25, 4, n)})
    cate = np.where(X["age"] > 60, 2.0, -1.0)
    a = rng.integers(0, 2, n)
    y = 0.05 * X["age"] + a * cate + 0.3 * rng.standard_normal(n)
    return X, y, pd.Series(a), cate


@pytest.fixture(scope="module")
def step() -> tuple[pd.DataFrame, pd.Series, pd.Series, np.ndarray]:
    return step_table()


@pytest.fixture(scope="module")
def fitted(step: Any) -> EffectEstimator:
    X, y, a, _ = step
    return quick("DiffPO", epochs=60).fit(X, y, treatment=a)


@pytest.fixture(scope="module")
def adapter(fitted: EffectEstimator) -> EconMLAdapter:
    return as_econml(fitted)


@pytest.fixture(scope="module")
def arms() -> tuple[EffectEstimator, pd.DataFrame, np.ndarray]:
    """Three named arms, the control first, and the codes of the arms received."""
    rng = np.random.default_rng(1)
    X = pd.DataFrame(rng.standard_normal((150, 2)), columns=["u", "v"])
    code = rng.integers(0, 3, 150)
    y = X["u"] + np.array([0.0, 1.0, 3.0])[code] + 0.3 * rng.standard_normal(150)
    names = pd.Series(np.array(["placebo", "high", "low"])[code])
    return quick("DiffPO").fit(X, y, treatment=names), X, code


class Wrong:
    """Another model in the same slot: the opposite of the effects, or none."""

    def __init__(self, adapter: EconMLAdapter, factor: float) -> None:
        self.adapter, self.factor = adapter, factor

    def const_marginal_effect(self, X: Any) -> np.ndarray:
        return self.factor * self.adapter.const_marginal_effect(X)


# ---- the numbers are the estimator's ---------------------------------------------------------------------------------


def test_effects_are_the_estimators(adapter: EconMLAdapter, fitted: EffectEstimator, step: Any) -> None:
    X = step[0].head(7)
    effect = fitted.predict_effect(X)
    assert_allclose(adapter.effect(X, T0=0, T1=1), effect.mean, rtol=1e-5)
    assert_allclose(adapter.effect(X, T0=1, T1=0), -effect.mean, rtol=1e-5)
    assert adapter.const_marginal_effect(X).shape == (7, 1)
    assert_allclose(adapter.const_marginal_effect(X)[:, 0], effect.mean, rtol=1e-5)
    assert_allclose(adapter.effect_interval(X, alpha=0.1), effect.interval(0.9), rtol=1e-4, atol=1e-5)
    lower, upper = adapter.const_marginal_effect_interval(X, alpha=0.1)
    assert_allclose((lower[:, 0], upper[:, 0]), effect.interval(0.9), rtol=1e-4, atol=1e-5)
    assert_allclose(adapter.effect_inference(X).stderr, effect.std, rtol=1e-4)
    low, high = adapter.effect_inference(X).conf_int(alpha=0.1)
    normal = stats.norm.interval(0.9, effect.mean, effect.std)  # EconML's results object knows no Student's t
    assert_allclose((low, high), normal, rtol=1e-4, atol=1e-5)
    assert adapter.ate(X) == pytest.approx(effect.mean.mean(), rel=1e-5)
    assert adapter.marginal_ate(0, X) == pytest.approx(effect.mean.mean(), rel=1e-5)


def test_averages_carry_the_covariance_of_the_members(adapter: EconMLAdapter, step: Any) -> None:
    """The error of a mean over rows is the spread of the members' means, not the mean of the rows' errors."""
    members = adapter.est.predict_effect(step[0]).members.mean(axis=1, dtype=float)
    summary = adapter.const_marginal_ate_inference(step[0])
    assert_allclose(summary.mean_point, members.mean(), rtol=1e-5)
    assert_allclose(summary.stderr_mean, members.std(), rtol=1e-4)
    lower, upper = adapter.ate_interval(step[0], alpha=0.1)
    assert_allclose((lower + upper) / 2, members.mean(), rtol=1e-5)
    df = adapter.est._df()
    assert df is not None
    assert_allclose((upper - lower) / 2, stats.t.ppf(0.95, df) * members.std(), rtol=1e-4)
    normal = stats.norm.interval(0.9, members.mean(), members.std())
    assert_allclose(np.ravel(summary.conf_int_mean(alpha=0.1)), normal, rtol=1e-4)


def test_the_average_effect_to_report_is_the_doubly_robust_one(fitted: EffectEstimator, step: Any) -> None:
    X, y, a, cate = step
    found = estimate_ate(fitted, X, y, treatment=a)
    cate_model = as_econml(fitted, X=X, y=y, treatment=a)
    assert cate_model.ate() == found.value
    assert cate_model.ate_interval(alpha=0.1) == found.interval(0.9)
    assert abs(found.value - cate.mean()) < 4 * found.se
    with pytest.raises(ValueError, match="pass X, or give as_econml the rows"):
        as_econml(fitted).ate()
    with pytest.raises(ValueError, match="belong together"):
        as_econml(fitted, X=X)
    with pytest.raises(NotFittedError):
        as_econml(quick("DiffPO"))


def test_arms_by_label_and_by_position(arms: Any) -> None:
    est, X, _ = arms
    cate = as_econml(est)
    assert est.arms_ == ("placebo", "high", "low")
    by_name = est.predict_effect(X, treated="low", control="high").mean
    assert_allclose(cate.effect(X, T0="high", T1="low"), by_name, rtol=1e-5)
    assert_allclose(cate.effect(X, T0=1, T1=2), by_name, rtol=1e-5)
    assert_allclose(cate.const_marginal_effect(X), est.predict(X), rtol=1e-4, atol=1e-5)
    # a contrast of its own for every row
    ends = np.where(np.arange(len(X)) % 2, "low", "high")
    expected = np.where(np.arange(len(X)) % 2, est.predict(X)[:, 1], est.predict(X)[:, 0])
    assert_allclose(cate.effect(X, T0="placebo", T1=ends), expected, rtol=1e-4, atol=1e-5)
    assert_allclose(cate.effect(X, T0="low", T1="low"), 0, atol=1e-12)
    assert cate.cate_treatment_names() == ["high", "low"]
    with pytest.raises(ValueError, match="'medium' is no arm"):
        cate.effect(X, T0="placebo", T1="medium")


def test_numbers_as_arms_are_labels_never_positions() -> None:
    X, y, a, _ = step_table(80)
    est = quick("DiffPO", control=1).fit(X, y, treatment=a + 1)
    cate = as_econml(est)
    assert_allclose(cate.effect(X, T0=1, T1=2), est.predict(X), rtol=1e-5)
    with pytest.raises(ValueError, match="0 is no arm of this estimator: name one of 1, 2"):
        cate.effect(X)


# ---- tables and arrays -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def messy() -> tuple[EffectEstimator, pd.DataFrame]:
    """Categories, numbers as categories, bools, dates in a time zone, and missing values."""
    rng = np.random.default_rng(0)
    n = 120
    X = pd.DataFrame({"age": rng.normal(60, 9, n), "city": rng.choice(["Bern", "Chur", "Genf"], n)})
    X["grade"] = pd.Categorical(rng.choice([1, 2, 5], n))
    X["smoker"] = rng.random(n) < 0.4
    days = pd.to_timedelta(rng.integers(0, 500, n), unit="D")
    X["visit"] = (pd.Timestamp("2024-03-01 12:00") + days).tz_localize("Europe/Zurich")
    for name in ("age", "city", "visit"):
        X.loc[rng.random(n) < 0.15, name] = None
    a = rng.integers(0, 2, n)
    y = (X["city"] == "Chur") * a + rng.standard_normal(n)
    return quick("DiffPO").fit(X, y, treatment=a), X


def test_a_table_in_numbers_means_the_same(messy: Any) -> None:
    """Names, levels, dates and gaps survive the way through a plain array of numbers."""
    est, X = messy
    cate = as_econml(est)
    numbers = cate.numbers(X, missing="keep")
    assert list(numbers.columns) == list(X.columns) and (numbers.dtypes == np.float64).all()
    assert_allclose(cate.effect(numbers.to_numpy()), est.predict(X), rtol=1e-4, atol=1e-5)
    assert_array_equal(est.schema_.encode(cate._table(numbers.to_numpy())), est.schema_.encode(X))
    assert_array_equal(cate.numbers(cate._table(numbers.to_numpy()), missing="keep"), numbers)
    assert np.nanmedian(numbers["age"]) == np.nanmedian(X["age"])  # in its own unit
    assert set(numbers["grade"]) == {1.0, 2.0, 5.0}  # numbers are their own code


def test_gaps_are_an_error_that_names_them_or_filled_on_demand(messy: Any) -> None:
    est, X = messy
    cate = as_econml(est)
    assert np.isfinite(cate.effect(X)).all()  # gaps are no problem for the estimator itself
    with pytest.raises(ValueError, match="missing values: 'age', 'city', 'visit'"):
        cate.numbers(X)
    with pytest.raises(ValueError, match="missing must be one of"):
        cate.numbers(X, missing="drop")
    full = cate.numbers(X, missing="median")
    assert not full.isna().any().any()
    assert_allclose(full.loc[X["age"].isna(), "age"], X["age"].median())
    assert (full.loc[X["city"].isna(), "city"] == -1).all()
    table = cate._table(full.to_numpy())
    assert table["city"].isna().equals(X["city"].isna())  # a gap among levels stays one for the estimator


def test_the_estimators_own_columns_in_their_order(adapter: EconMLAdapter, step: Any) -> None:
    X = step[0]
    assert_allclose(adapter.effect(X.to_numpy()), adapter.effect(X[["bmi", "age"]]), rtol=1e-6)
    with pytest.raises(ValueError, match="expected 2 columns: age, bmi"):
        adapter.effect(X.to_numpy()[:, :1])
    with pytest.raises(ValueError, match="X is needed"):
        adapter.effect()


# ---- EconML's tools --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer() -> Any:
    from econml.score import RScorer

    X, y, a, _ = step_table(300, seed=5)
    scorer = RScorer(
        model_y=LinearRegression(),
        model_t=DummyClassifier(strategy="prior"),
        discrete_treatment=True,
        cv=2,
        random_state=0,
    )
    return scorer.fit(y.to_numpy(), a.to_numpy(), X=X.to_numpy())


def test_rscorer_prefers_the_better_effects(scorer: Any, adapter: EconMLAdapter) -> None:
    nothing, opposite = Wrong(adapter, 0.0), Wrong(adapter, -1.0)
    best, score, scores = scorer.best_model([opposite, adapter, nothing], return_scores=True)
    assert best is adapter and score == scores[1] > 0.3
    assert scores[1] > scores[2] > scores[0] and abs(scores[2]) < 0.2


def test_rscorers_ensemble_takes_us(scorer: Any, adapter: EconMLAdapter, step: Any) -> None:
    ensemble, score = scorer.ensemble([adapter, adapter])
    X = step[0].to_numpy()[:9]
    assert score == pytest.approx(scorer.score(adapter))
    assert_allclose(ensemble.effect(X), adapter.effect(X))
    assert ensemble.const_marginal_effect(X).shape == (9, 1)


def test_rscorer_with_three_arms(arms: Any) -> None:
    from econml.score import RScorer

    est, X, code = arms
    y = (X["u"] + np.array([0.0, 1.0, 3.0])[code]).to_numpy() + np.random.default_rng(2).standard_normal(len(X))
    scorer = RScorer(
        model_y=LinearRegression(), model_t=LogisticRegression(), discrete_treatment=True, random_state=0
    ).fit(y, code, X=X.to_numpy())
    adapter = as_econml(est)
    assert scorer.score(adapter) > -0.1  # against the best constants of these rows
    assert scorer.score(adapter) > 0.3 + scorer.score(Wrong(adapter, 0.0))


def test_drtester_finds_the_heterogeneity(adapter: EconMLAdapter, step: Any) -> None:
    from econml.validate import DRTester

    X, y, a, _ = step
    new = step_table(400, seed=9)
    tester = DRTester(model_regression=LinearRegression(), model_propensity=LogisticRegression(), cate=adapter, cv=2)
    tester.fit_nuisance(
        new[0].to_numpy(), new[2].to_numpy(), new[1].to_numpy(), X.to_numpy(), a.to_numpy(), y.to_numpy()
    )
    result = tester.evaluate_blp(new[0].to_numpy(), X.to_numpy())
    assert result.summary()["blp_pval"].iloc[0] < 0.01
    slope = result.params[0]
    assert 0.7 < slope < 1.4  # effects of the right size: the best linear predictor leaves them as they are


def test_drtester_with_named_arms(arms: Any) -> None:
    """It counts arms from 0: the positions of the estimator's arms."""
    from econml.validate import DRTester

    est, X, code = arms
    y = (X["u"] + np.array([0.0, 1.0, 3.0])[code]).to_numpy()
    tester = DRTester(
        model_regression=LinearRegression(), model_propensity=LogisticRegression(), cate=as_econml(est), cv=2
    ).fit_nuisance(X.to_numpy(), code, y)
    tester.get_cate_preds(X.to_numpy())
    assert_allclose(tester.cate_preds_val_, est.predict(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("uncertainty", [False, True])
def test_the_tree_interpreter_finds_the_step(adapter: EconMLAdapter, step: Any, uncertainty: bool) -> None:
    from econml.cate_interpreter import SingleTreeCateInterpreter

    X = adapter.numbers(step[0])
    tree = SingleTreeCateInterpreter(include_model_uncertainty=uncertainty, max_depth=1, random_state=0)
    tree.interpret(adapter, X.to_numpy())
    found = tree.tree_model_.tree_
    assert X.columns[found.feature[0]] == "age" and abs(found.threshold[0] - 60) < 2
    younger, older = (tree.node_dict_[k] for k in (1, 2))
    assert younger["mean"][0] < -0.5 and older["mean"][0] > 1.3
    if uncertainty:
        lower, upper = older["ci"]
        assert lower < older["mean"] < upper
    assert "age" in tree.export_graphviz(feature_names=list(X.columns)) if hasattr(tree, "graphviz") else True


def test_the_tree_interpreter_takes_gaps(messy: Any) -> None:
    """scikit-learn's trees know missing values: nothing need be filled."""
    from econml.cate_interpreter import SingleTreeCateInterpreter

    est, X = messy
    cate = as_econml(est)
    numbers = cate.numbers(X, missing="keep").to_numpy()
    tree = SingleTreeCateInterpreter(max_depth=2, random_state=0).interpret(cate, numbers)
    assert np.isfinite(tree.tree_model_.predict(numbers)).all()


@pytest.mark.parametrize("risk_level", [None, 0.1])
def test_the_policy_interpreter_treats_those_who_gain(adapter: EconMLAdapter, step: Any, risk_level: Any) -> None:
    from econml.cate_interpreter import SingleTreePolicyInterpreter

    X, *_, cate = step
    policy = SingleTreePolicyInterpreter(risk_level=risk_level, max_depth=1, random_state=0)
    policy.interpret(adapter, X.to_numpy())
    assert (policy.treat(X.to_numpy()) == (cate > 0)).mean() > 0.95
    before = adapter.const_marginal_effect(X.to_numpy())
    dear = SingleTreePolicyInterpreter(max_depth=1, random_state=0)
    dear.interpret(adapter, X.to_numpy(), sample_treatment_costs=5.0)
    assert (dear.treat(X.to_numpy()) == 0).all()
    assert_array_equal(adapter.const_marginal_effect(X.to_numpy()), before)  # the costs were not taken from ours


def test_the_policy_interpreter_chooses_among_arms(arms: Any) -> None:
    from econml.cate_interpreter import SingleTreePolicyInterpreter

    est, X, _ = arms
    policy = SingleTreePolicyInterpreter(max_depth=1, random_state=0).interpret(as_econml(est), X.to_numpy())
    assert (policy.treat(X.to_numpy()) == 2).mean() > 0.9


def test_policy_tree_takes_our_means_as_they_are(fitted: EffectEstimator, step: Any) -> None:
    from econml.policy import PolicyTree

    X, *_, cate = step
    tree = PolicyTree(max_depth=1, random_state=0).fit(X.to_numpy(), fitted.predict_outcomes(X).mean())
    assert (tree.predict(X.to_numpy()) == (cate > 0)).mean() > 0.95


# ---- DoWhy -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dowhy_model() -> Any:
    dowhy = pytest.importorskip("dowhy", reason="DoWhy is not installed")
    X, y, a, cate = step_table(200)
    table = X.assign(drug=a, y=y)
    table.loc[::9, "bmi"] = np.nan
    model = dowhy.CausalModel(table, "drug", "y", common_causes=["age", "bmi"])
    return model, model.identify_effect(), cate, table


METHOD = "backdoor.effects.interop.DoWhyEstimator"


@pytest.mark.filterwarnings("ignore")  # DoWhy's own
def test_dowhys_slot(dowhy_model: Any) -> None:
    model, estimand, cate, table = dowhy_model
    params = {"estimator": quick("DiffPO")}
    found = model.estimate_effect(
        estimand, method_name=METHOD, method_params=dict(params), confidence_intervals=True, test_significance=True
    )
    est = found.estimator.effects_estimator
    expected = estimate_ate(est, table[["age", "bmi"]], table["y"], treatment=table["drug"])
    assert found.value == expected.value and abs(found.value - cate.mean()) < 4 * expected.se
    assert tuple(found.get_confidence_intervals()) == expected.interval(0.95)
    assert found.get_standard_error() == expected.se
    assert found.test_stat_significance()["p_value"] == expected.p_value < 0.01
    assert found.cate_estimates.shape == (200,) and found.effect_intervals.shape == (200, 2)
    assert not hasattr(params["estimator"], "schema_")  # a copy was fitted
    treated = model.estimate_effect(estimand, method_name=METHOD, target_units="att", method_params=dict(params))
    rows = table[table["drug"] == 1]
    again = treated.estimator.effects_estimator
    assert treated.value == pytest.approx(again.predict(rows[["age", "bmi"]]).mean(), rel=1e-4)
    older = model.estimate_effect(
        estimand, method_name=METHOD, target_units=lambda row: row["age"] > 60, method_params=dict(params)
    )
    assert older.value > 1 and len(older.cate_estimates) == (table["age"] > 60).sum()


@pytest.mark.filterwarnings("ignore")
def test_dowhys_refuter_fits_us_again(dowhy_model: Any) -> None:
    model, estimand, *_ = dowhy_model
    found = model.estimate_effect(estimand, method_name=METHOD, method_params={"estimator": quick("DiffPO")})
    placebo = model.refute_estimate(
        estimand, found, method_name="placebo_treatment_refuter", placebo_type="permute", num_simulations=2
    )
    assert abs(placebo.new_effect) < 0.5 * abs(found.value)
    assert copy.deepcopy(found.estimator).effects_estimator is not found.estimator.effects_estimator


@pytest.mark.filterwarnings("ignore")
def test_dowhys_slot_says_what_it_needs(dowhy_model: Any) -> None:
    model, estimand, *_ = dowhy_model
    with pytest.raises(TypeError, match="estimator must be one of effects"):
        model.estimate_effect(estimand, method_name=METHOD, method_params={"estimator": LinearRegression()})
    with pytest.raises(ValueError, match="target_units must be"):
        model.estimate_effect(
            estimand, method_name=METHOD, target_units="all", method_params={"estimator": quick("DiffPO")}
        )


def test_without_dowhy_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import effects.interop as interop

    monkeypatch.setitem(__import__("sys").modules, "dowhy.causal_estimator", None)
    with pytest.raises(ImportError, match="pip install dowhy"):
        interop._dowhy_estimator()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        interop.nothing  # noqa: B018
