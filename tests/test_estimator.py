"""The base of all estimators: its template with a model that fits on a page, and its place in scikit-learn."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from conftest import small
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.base import clone
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import _num_samples, check_is_fitted

from effects import DiffPO, EffectEstimator, Nuisance
from effects.datasets import make_heteroscedastic
from effects.rows import TrainingData, positions, row_keys
from effects.schema import Schema

QUICK = Nuisance(DummyRegressor(), DummyClassifier(strategy="prior"), n_folds=2)
"""Means and shares as nuisances, for tests where these do not matter."""


class ArmNormal(EffectEstimator):
    """Y(a) ~ N(mean of the arm, sd of all): one member, draws at normal quantiles."""

    def __init__(
        self, *, outcome: str = "auto", control: Any = None, nuisance: Any = QUICK, random_state: Any = None, fail=False
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.nuisance = nuisance
        self.random_state = random_state
        self.fail = fail

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        if self.fail:
            raise FloatingPointError("the model failed")
        self.seen = data
        arms = range(data.schema.n_arms)
        mean = [np.average(data.y[data.a == k], weights=data.weight[data.a == k]) for k in arms]
        return {"mean_": np.array(mean), "sd_": data.schema.outcome.sd, "history_": [{"epoch": 0}]}

    def _sample(self, E: np.ndarray, n_draws: int | None, rng: np.random.Generator) -> tuple[np.ndarray, None]:
        n = n_draws or 16
        z = stats.norm.ppf((np.arange(n) + 0.5) / n)
        if self.schema_.outcome.kind == "binary":
            return np.broadcast_to(self.mean_, (1, 1, len(E), len(self.mean_))).astype(np.float32), None
        draws = self.mean_ + self.sd_ * z[:, None, None] * np.ones((1, len(E), 1))
        return draws[None].astype(np.float32), None

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"mean": self.mean_}, {"sd": self.sd_}

    def _set_state(self, arrays: dict[str, Any], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        return {"mean_": arrays["mean"], "sd_": state["sd"]}


@pytest.fixture(scope="module")
def table() -> tuple[pd.DataFrame, pd.Series, np.ndarray]:
    rng = np.random.default_rng(0)
    n = 60
    X = pd.DataFrame({"age": rng.normal(60, 10, n), "dose": rng.random(n), "sex": rng.choice(["f", "m"], n)})
    X.loc[3, "age"] = np.nan
    a = rng.permutation(np.arange(n) % 2)
    return X, pd.Series(2.0 * a + rng.standard_normal(n), name="bp"), np.where(a == 1, "drug", "placebo")


@pytest.fixture
def fitted(table: tuple[Any, Any, Any]) -> ArmNormal:
    X, y, t = table
    return ArmNormal(random_state=0).fit(X, y, treatment=t)


# ---- the template ----------------------------------------------------------------------------------------------------


def test_a_subclass_gets_complete_arrays(table: tuple[Any, Any, Any]) -> None:
    X, y, t = table
    weight = np.linspace(1, 3, len(y))
    est = ArmNormal(random_state=0).fit(X, y, treatment=t, sample_weight=weight)
    data = est.seen
    assert data.E.dtype == np.float32 and data.E.shape == (60, len(est.schema_.feature_names))
    assert np.isfinite(data.E).all()
    assert_array_equal(data.a, (t == "drug").astype(np.int64))
    assert_array_equal(data.y, y)
    assert_allclose(data.weight, weight / weight.mean())
    assert data.nuisance.out_of_fold_.mu.shape == (60, 2)
    assert_allclose(est.mean_, [np.average(y[t == arm], weights=weight[t == arm]) for arm in ("placebo", "drug")])


def test_predictions_come_from_the_samples_of_a_subclass(fitted: ArmNormal, table: tuple[Any, Any, Any]) -> None:
    X, y, t = table
    difference = y[t == "drug"].mean() - y[t == "placebo"].mean()
    assert_allclose(fitted.predict(X), np.full(60, difference), rtol=1e-6)
    effect = fitted.predict_effect(X)
    assert_allclose(effect.mean, np.full(60, difference), rtol=1e-6)
    assert_array_equal(effect.std, np.zeros(60))
    assert fitted.predict_outcomes(X, n_draws=3).draws.shape == (1, 3, 60, 2)


def test_a_failed_fit_leaves_what_was_before(fitted: ArmNormal, table: tuple[Any, Any, Any]) -> None:
    X, y, t = table
    new = ArmNormal(fail=True)
    with pytest.raises(FloatingPointError):
        new.fit(X, y, treatment=t)
    with pytest.raises(NotFittedError):
        new.predict(X)
    before = fitted.predict(X)
    with pytest.raises(FloatingPointError):
        fitted.set_params(fail=True).fit(X[["age"]], 10 * y, treatment=t)
    assert_array_equal(fitted.predict(X), before)
    assert fitted.n_features_in_ == 3


@pytest.mark.parametrize("ask", ["predict", "predict_outcomes", "predict_effect", "score", "cross_fitted", "save"])
def test_nothing_is_predicted_before_fit(ask: str, table: tuple[Any, Any, Any], tmp_path: Path) -> None:
    X, y, t = table
    est = ArmNormal()
    with pytest.raises(NotFittedError, match=r"ArmNormal instance is not fitted yet. Call 'fit'"):
        if ask == "save":
            est.save(tmp_path / "model")
        elif ask in ("score", "cross_fitted"):
            getattr(est, ask)(X, y, treatment=t)
        else:
            getattr(est, ask)(X)
    assert not list(tmp_path.iterdir())


def test_is_fitted_in_the_eyes_of_scikit_learn(fitted: ArmNormal) -> None:
    check_is_fitted(fitted)
    with pytest.raises(NotFittedError):
        check_is_fitted(clone(fitted))


@pytest.mark.parametrize("method", ["fit", "score", "cross_fitted"])
def test_treatment_and_weights_are_named(method: str) -> None:
    """Positional arrays in the wrong order would train silently."""
    parameters = inspect.signature(getattr(EffectEstimator, method)).parameters
    assert parameters["treatment"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["treatment"].default is inspect.Parameter.empty
    assert parameters["sample_weight"].kind is inspect.Parameter.KEYWORD_ONLY


def test_refitting_on_an_array_forgets_the_names(fitted: ArmNormal, table: tuple[Any, Any, Any]) -> None:
    _, y, t = table
    assert list(fitted.feature_names_in_) == ["age", "dose", "sex"]
    fitted.fit(np.random.default_rng(0).random((60, 2)), y, treatment=t)
    assert not hasattr(fitted, "feature_names_in_") and fitted.n_features_in_ == 2


def test_score_is_minus_the_mean_crps_under_the_own_arm(fitted: ArmNormal, table: tuple[Any, Any, Any]) -> None:
    """E|Y - y| - E|Y - Y'| / 2 over the draws (Gneiting & Raftery 2007, eq. 21), by hand."""
    X, y, t = table
    draws = fitted.predict_outcomes(X, n_draws=16).draws[0].astype(float)
    own = draws[:, np.arange(60), (t == "drug").astype(int)]
    error = np.abs(own - y.to_numpy()).mean(0)
    spread = np.abs(own[:, None] - own[None, :]).mean((0, 1))
    crps = error - spread / 2
    assert fitted.score(X, y, treatment=t) == pytest.approx(-crps.mean(), rel=1e-5)
    weight = np.random.default_rng(1).random(60)
    expected = -np.average(crps, weights=weight)
    assert fitted.score(X, y, treatment=t, sample_weight=weight) == pytest.approx(expected, rel=1e-5)
    assert fitted.score(X, y, treatment=t, sample_weight=7 * weight) == pytest.approx(expected, rel=1e-5)


def test_score_prefers_the_truth(fitted: ArmNormal, table: tuple[Any, Any, Any]) -> None:
    X, y, t = table
    swapped = np.where(t == "drug", "placebo", "drug")
    assert fitted.score(X, y, treatment=t) > fitted.score(X, y, treatment=swapped) + 0.3
    assert fitted.score(X, y, treatment=t) > fitted.score(X, y + 1, treatment=t)


def test_score_of_a_binary_outcome_is_minus_the_brier_score(table: tuple[Any, Any, Any]) -> None:
    X, y, t = table
    event = np.where(y > 1, "dead", "alive")
    est = ArmNormal().fit(X, event, treatment=t)
    p = est.predict_outcomes(X).mean()[np.arange(60), (t == "drug").astype(int)]
    assert est.score(X, event, treatment=t) == pytest.approx(-np.mean((p - (event == "dead")) ** 2))


def test_score_of_a_long_table_is_the_mean_of_its_parts(fitted: ArmNormal, table: tuple[Any, Any, Any]) -> None:
    X, y, t = table
    rows = np.resize(np.arange(60), 2500)
    counts = np.bincount(rows, minlength=60)
    long = fitted.score(X.iloc[rows], y.iloc[rows], treatment=t[rows])
    assert long == pytest.approx(fitted.score(X, y, treatment=t, sample_weight=counts), rel=1e-6)


def test_cross_fitted_knows_its_training_rows(fitted: ArmNormal, table: tuple[Any, Any, Any]) -> None:
    X, y, t = table
    all_rows = fitted.cross_fitted(X, y, treatment=t)
    assert_array_equal(all_rows.mu, fitted.nuisance_.out_of_fold_.mu)  # it keeps no laws of its own
    assert all_rows.source == "own" and all_rows.outcomes is None
    some = np.array([7, 3, 41])
    assert_array_equal(fitted.cross_fitted(X.iloc[some], y.iloc[some], treatment=t[some]).mu, all_rows.mu[some])
    changed = y.copy()
    changed.iloc[0] += 1  # a row that the fit never saw
    mixed = fitted.cross_fitted(X, changed, treatment=t)
    assert mixed.source == "mixed"
    assert_array_equal(mixed.mu[1:], all_rows.mu[1:])
    assert_array_equal(mixed.propensity[1:], all_rows.propensity[1:])
    assert_allclose(mixed.mu[0], fitted.predict_outcomes(X.iloc[:1]).mean()[0])
    weight = np.ones(60)
    weight[0] = 0
    assert fitted.cross_fitted(X, changed, treatment=t, sample_weight=weight).source == "own"
    known = np.full(60, 0.3)
    assert_allclose(fitted.cross_fitted(X, y, treatment=t, propensity=known).propensity[:, 1], 0.3)


def test_rows_are_known_again_by_all_that_they_hold() -> None:
    rng = np.random.default_rng(0)
    E = rng.integers(0, 3, size=(5000, 6)).astype(np.float32)  # few values: many rows differ in one cell only
    a, y = rng.integers(0, 2, size=5000), rng.integers(0, 4, size=5000).astype(float)
    keys = row_keys(E, a, y)
    whole = pd.DataFrame(np.column_stack([E, a, y]))
    assert len(np.unique(keys)) == len(whole.drop_duplicates())
    swapped = E[:, [1, 0, 2, 3, 4, 5]]
    assert_array_equal(row_keys(swapped, a, y) == keys, E[:, 0] == E[:, 1])
    order = rng.permutation(5000)[:700]
    assert_array_equal(keys[positions(keys[order], keys)], keys[order])
    assert_array_equal(positions(keys, keys), np.arange(5000))
    assert (positions(row_keys(E + 1, a, y), keys) < 0).mean() > 0.9


def test_cross_fitted_predicts_rows_it_never_saw(table: tuple[Any, Any, Any]) -> None:
    """Own laws; propensities that are learned on the new rows, where assignment may be another one."""
    data = make_heteroscedastic(300, random_state=3)
    est = small().fit(data.X[:150], data.y[:150], treatment=data.treatment[:150])
    new = est.cross_fitted(data.X[150:], data.y[150:], treatment=data.treatment[150:])
    assert new.source == "other" and new.outcomes is not None
    assert_allclose(new.mu, est.predict_outcomes(data.X[150:]).mean())
    assert np.abs(new.propensity - est.nuisance_.predict(est.schema_.encode(data.X[150:])).propensity).max() > 1e-6
    own = est.cross_fitted(data.X[:150], data.y[:150], treatment=data.treatment[:150])
    assert own.source == "held_out" and own.outcomes is not None
    assert_array_equal(own.outcomes.draws, est.held_out_.draws)
    both = est.cross_fitted(data.X, data.y, treatment=data.treatment)
    assert both.source == "mixed" and both.outcomes is not None
    assert_allclose(both.mu[:150], own.mu)
    assert_allclose(both.outcomes.quantile(0.5)[:150], own.outcomes.quantile(0.5), atol=1e-5)
    assert_allclose(both.mu[150:], new.mu, rtol=1e-5)


def test_a_trials_propensities_hold_for_new_rows_too(table: tuple[Any, Any, Any]) -> None:
    X, y, t = table
    est = ArmNormal().fit(X, y, treatment=t, propensity=np.full(60, 0.3))
    changed = y.copy()
    changed.iloc[0] += 1  # one row that the fit never saw, then none that it saw
    for outcome, source in ((changed, "mixed"), (y + 1, "other")):
        found = est.cross_fitted(X, outcome, treatment=t)
        assert found.source == source
        assert_allclose(found.propensity, np.tile([0.7, 0.3], (60, 1)))


def test_a_subclass_of_a_user_is_saved_and_read_by_its_own_name(table: tuple[Any, Any, Any], tmp_path: Path) -> None:
    X, y, t = table
    est = ArmNormal(nuisance=None, random_state=np.int64(4), control="drug").fit(X, y, treatment=t)
    loaded = ArmNormal.load(est.save(tmp_path / "model"))
    assert_array_equal(loaded.predict(X), est.predict(X))
    assert loaded.get_params(deep=False) == est.get_params(deep=False)
    assert loaded.arms_ == ("drug", "placebo") and list(loaded.feature_names_in_) == list(X.columns)


def test_weights_of_a_rows_fold_follow_the_row(table: tuple[Any, Any, Any]) -> None:
    """A weight is a repetition in the arm means, and zero is absence."""
    X, y, t = table
    X, weight = X[["dose", "sex"]], np.random.default_rng(0).integers(0, 3, 60)
    rows = np.repeat(np.arange(60), weight)
    weighted = ArmNormal().fit(X, y, treatment=t, sample_weight=weight)
    repeated = ArmNormal().fit(X.iloc[rows], y.iloc[rows], treatment=t[rows])
    assert_allclose(weighted.mean_, repeated.mean_)
    assert_allclose(weighted.sd_, repeated.sd_)
    assert len(weighted.seen.y) == np.count_nonzero(weight)
    assert weighted.seen.weight.mean() == pytest.approx(1.0)


# ---- scikit-learn ----------------------------------------------------------------------------------------------------


class RowTreated(DiffPO):
    """For scikit-learn's own checks, which know no treatment: every other row is treated."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> RowTreated:  # type: ignore[override]
        return super().fit(X, y, treatment=np.arange(_num_samples(X)) % 2, sample_weight=sample_weight)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # type: ignore[override]
        return super().score(X, y, treatment=np.arange(_num_samples(X)) % 2, sample_weight=sample_weight)


TINY = RowTreated(n_networks=2, hidden=8, n_denoisers=2, epochs=2, nuisance=QUICK, random_state=0)
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "every row draws a fold and a batch: a row twice is not one row "
    "of weight two, and leaving rows out changes which rows this class treats",
}


@parametrize_with_checks([TINY], expected_failed_checks=lambda _: EXPECTED_FAILURES)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_finds_an_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def trial() -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    X = pd.DataFrame(rng.standard_normal((60, 2)), columns=["a", "b"])
    X.loc[::9, "b"] = np.nan
    t = np.arange(60) % 2
    return X, X["a"].to_numpy() + t + rng.standard_normal(60), t


def test_pipeline_passes_the_treatment_on(trial: tuple[Any, Any, Any]) -> None:
    X, y, t = trial
    steps = make_pipeline(SimpleImputer(), StandardScaler(), small(nuisance=QUICK))
    with sklearn.config_context(enable_metadata_routing=True):
        steps.fit(X, y, treatment=t)
        score = steps.score(X, y, treatment=t)
    Z = StandardScaler().fit_transform(SimpleImputer().fit_transform(X))
    alone = small(nuisance=QUICK).fit(Z, y, treatment=t)
    assert_array_equal(steps.predict(X), alone.predict(Z))
    assert score == alone.score(Z, y, treatment=t)
    without_routing = clone(steps).fit(X, y, diffpo__treatment=t)
    assert_array_equal(without_routing.predict(X), alone.predict(Z))


def test_grid_search_over_a_pipeline(trial: tuple[Any, Any, Any]) -> None:
    X, y, t = trial
    grid = {"diffpo__hidden": [4, 16], "simpleimputer__strategy": ["mean"]}
    folds = KFold(2, shuffle=True, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        steps = make_pipeline(SimpleImputer(), small(nuisance=QUICK))
        search = GridSearchCV(steps, grid, cv=folds, error_score="raise").fit(X, y, treatment=t)
        own = search.score(X, y, treatment=t)
    assert search.best_params_["diffpo__hidden"] in (4, 16)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all() and search.best_score_ < 0
    assert own == search.best_estimator_[-1].score(search.best_estimator_[0].transform(X), y, treatment=t)
    assert search.predict(X).shape == (60,)


def test_cross_validate_scores_by_minus_crps_with_weights(trial: tuple[Any, Any, Any]) -> None:
    X, y, t = trial
    weight = np.random.default_rng(2).random(60)
    folds = KFold(2, shuffle=True, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        est = small(nuisance=QUICK).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        params = {"treatment": t, "sample_weight": weight}
        done = cross_validate(est, X, y, cv=folds, params=params, error_score="raise")
        plain = cross_validate(small(nuisance=QUICK), X, y, cv=folds, params={"treatment": t}, error_score="raise")
    for scores, w in ((done["test_score"], weight), (plain["test_score"], None)):
        for score, (train, test) in zip(scores, folds.split(X), strict=True):
            by_hand = small(nuisance=QUICK).fit(
                X.iloc[train], y[train], treatment=t[train], sample_weight=None if w is None else w[train]
            )
            test_weight = None if w is None else w[test]
            expected = by_hand.score(X.iloc[test], y[test], treatment=t[test], sample_weight=test_weight)
            assert score == pytest.approx(expected, rel=1e-6)
    assert np.abs(done["test_score"] - plain["test_score"]).min() > 1e-4


def test_unrequested_metadata_is_refused_not_dropped(trial: tuple[Any, Any, Any]) -> None:
    """A propensity that nobody asked for must not vanish on its way through a pipeline."""
    X, y, t = trial
    with sklearn.config_context(enable_metadata_routing=True):
        steps = make_pipeline(StandardScaler(), small(nuisance=QUICK))
        with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="propensity"):
            steps.fit(X, y, treatment=t, propensity=np.full(60, 0.5))


def test_tags_say_what_X_may_hold() -> None:
    tags = sklearn.utils.get_tags(ArmNormal())
    assert tags.input_tags.allow_nan and tags.input_tags.categorical and tags.input_tags.string
    assert tags.target_tags.required
