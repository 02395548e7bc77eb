"""EconML's estimators in the contract: their numbers come back unchanged, and what completes them is coherent."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import quick
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression

import effects.models.econml as module
from effects import EconML, Nuisance
from effects.models.econml import coherent_means

Array = np.ndarray
DUMMY = Nuisance(DummyRegressor(), DummyClassifier(strategy="prior"), n_folds=2)


def trial(n: int = 200, n_arms: int = 2, seed: int = 0) -> tuple[pd.DataFrame, Array, Array, Array]:
    """Effects k (1 + u) of arm k, at random."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.standard_normal((n, 2)), columns=["u", "v"])
    a = rng.integers(0, n_arms, n)
    cate = np.column_stack([k * (1 + X["u"]) for k in range(1, n_arms)])
    effect = np.column_stack([np.zeros(n), cate])[np.arange(n), a]
    return X, X["v"].to_numpy() + effect + 0.5 * rng.standard_normal(n), a, cate


def linear(**options: Any) -> Any:
    from econml.dml import LinearDML

    settings = {"model_y": LinearRegression(), "model_t": LogisticRegression(), "discrete_treatment": True}
    return LinearDML(**{**settings, **options})


def t_learner() -> Any:
    from econml.metalearners import TLearner

    return TLearner(models=LinearRegression())


@pytest.fixture(scope="module")
def fitted() -> tuple[EconML, pd.DataFrame]:
    X, y, a, _ = trial()
    est = EconML(estimator=linear(), nuisance=DUMMY, random_state=0).fit(X, y, treatment=a)
    return est, X


# ---- EconML's numbers ------------------------------------------------------------------------------------------------


def test_effects_and_intervals_are_econmls(fitted: Any) -> None:
    est, X = fitted
    E = est.schema_.encode(X).astype(float)
    own = est.estimator_.effect_inference(E, T0=0, T1=1)
    effect = est.predict_effect(X)
    assert_allclose(effect.mean, own.point_estimate, rtol=1e-4, atol=1e-5)
    assert_allclose(effect.std, own.stderr, rtol=1e-4)
    assert_allclose(effect.interval(0.9), own.conf_int(alpha=0.1), rtol=1e-4, atol=1e-5)
    assert_allclose(est.predict(X), own.point_estimate, rtol=1e-4, atol=1e-5)
    assert est.history_ == [{"estimator": "LinearDML", "standard_errors": True}]


def test_a_linear_truth_is_found_with_calibrated_intervals() -> None:
    covered, error = [], []
    for seed in range(5):
        X, y, a, cate = trial(150, seed=seed)
        est = EconML(estimator=linear(), nuisance=DUMMY, random_state=seed).fit(X, y, treatment=a)
        lower, upper = est.predict_effect(X).interval(0.9)
        covered.append(((lower <= cate[:, 0]) & (cate[:, 0] <= upper)).mean())
        error.append(np.sqrt(np.mean((est.predict(X) - cate[:, 0]) ** 2)))
    assert np.mean(error) < 0.3 and 0.7 < np.mean(covered) <= 1


def test_three_arms_have_their_own_effects_and_errors() -> None:
    X, y, a, cate = trial(300, n_arms=3)
    est = EconML(estimator=linear(), nuisance=DUMMY, n_members=24, random_state=0).fit(X, y, treatment=a)
    E = est.schema_.encode(X).astype(float)
    first, second = (est.estimator_.effect_inference(E, T0=0, T1=k) for k in (1, 2))
    assert_allclose(
        est.predict(X), np.column_stack([first.point_estimate, second.point_estimate]), rtol=1e-3, atol=1e-4
    )
    assert np.sqrt(np.mean((est.predict(X) - cate) ** 2)) < 0.4
    assert_allclose(est.predict_effect(X, treated=2).std, second.stderr, rtol=1e-3)
    # between two treated arms: correlation 1/2, what two contrasts with one control arm of equal precision have
    between = est.predict_effect(X, treated=2, control=1)
    expected = np.sqrt(first.stderr**2 + second.stderr**2 - first.stderr * second.stderr)
    assert_allclose(between.std, expected, rtol=1e-3)
    assert_allclose(between.mean, second.point_estimate - first.point_estimate, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("n_members", "n_contrasts"), [(4, 1), (32, 1), (32, 2), (32, 5)])
def test_scores_have_exact_moments(n_members: int, n_contrasts: int) -> None:
    z = module._scores(n_members, n_contrasts)
    assert z.shape == (n_members, n_contrasts)
    assert_allclose(z.mean(axis=0), 0, atol=1e-12)
    expected = 0.5 + 0.5 * np.eye(n_contrasts)
    assert_allclose(z.T @ z / n_members, expected, atol=1e-12)


def test_without_inference_there_is_one_member() -> None:
    X, y, a, _ = trial(100)
    est = EconML(estimator=t_learner(), nuisance=DUMMY).fit(X, y, treatment=a)
    assert est.predict_outcomes(X).n_members == 1 and (est.predict_effect(X).std == 0).all()
    assert est.history_ == [{"estimator": "TLearner", "standard_errors": False}]
    E = est.schema_.encode(X).astype(float)
    assert_allclose(est.predict(X), est.estimator_.effect(E), rtol=1e-4, atol=1e-5)


def test_the_bootstrap_gives_a_meta_learner_standard_errors() -> None:
    from econml.inference import BootstrapInference

    X, y, a, _ = trial(100)
    inference = BootstrapInference(n_bootstrap_samples=15, n_jobs=1)
    est = EconML(estimator=t_learner(), inference=inference, nuisance=DUMMY).fit(X, y, treatment=a)
    E = est.schema_.encode(X).astype(float)
    assert_allclose(est.predict_effect(X).std, est.estimator_.effect_inference(E).stderr, rtol=1e-3)


def test_doubly_robust_and_forest_estimators_fit_too() -> None:
    from econml.dr import LinearDRLearner

    X, y, a, cate = trial(200, n_arms=3)
    models = {"model_regression": LinearRegression(), "model_propensity": LogisticRegression()}
    est = EconML(estimator=LinearDRLearner(**models), nuisance=DUMMY, random_state=0).fit(X, y, treatment=a)
    assert np.sqrt(np.mean((est.predict(X) - cate) ** 2)) < 0.8  # 1.6 for constant effects
    forest = quick("EconML", nuisance=DUMMY).fit(X, y, treatment=a)
    assert type(forest.estimator_).__name__ == "CausalForestDML"
    assert np.sqrt(np.mean((forest.predict(X) - cate) ** 2)) < 1.0  # 1.6 for constant effects
    assert (forest.predict_effect(X, treated=1).std > 0).all()


# ---- the means that complete them ------------------------------------------------------------------------------------


def test_means_average_to_the_regression_and_differ_by_the_effects() -> None:
    rng = np.random.default_rng(0)
    e = rng.dirichlet(np.ones(3), 50)
    m, tau = rng.standard_normal(50), rng.standard_normal((4, 50, 2))
    mu = coherent_means(m, e, tau, -np.inf, np.inf)
    assert_allclose((e * mu).sum(axis=2), np.broadcast_to(m, (4, 50)))
    assert_allclose(mu[:, :, 1:] - mu[:, :, :1], tau)


def test_risks_keep_the_effects_and_move_the_baseline_least() -> None:
    rng = np.random.default_rng(0)
    e, m = rng.dirichlet(np.ones(3), 300), rng.random(300)
    tau = rng.uniform(-1.2, 1.2, (5, 300, 2))
    mu = coherent_means(m, e, tau, 0.0, 1.0)
    assert mu.min() >= 0 and mu.max() <= 1
    free = coherent_means(m, e, tau, -np.inf, np.inf)
    inside = (free.min(axis=2) >= 0) & (free.max(axis=2) <= 1)
    assert 0.05 < inside.mean() < 0.95
    assert_allclose(mu[inside], free[inside])
    against = np.concatenate([np.zeros((5, 300, 1)), tau], axis=2)
    possible = np.ptp(against, axis=2) <= 1
    assert_allclose((mu[:, :, 1:] - mu[:, :, :1])[possible], tau[possible], atol=1e-12)
    moved = possible & ~inside
    assert (np.isclose(mu.min(axis=2), 0, atol=1e-12) | np.isclose(mu.max(axis=2), 1))[moved].all()  # at the edge
    # what no risks could have spans the whole range, in the same proportions
    assert_allclose(np.ptp(mu, axis=2)[~possible], 1)
    ratio = (mu[:, :, 1] - mu[:, :, 0]) * tau[:, :, 1] - (mu[:, :, 2] - mu[:, :, 0]) * tau[:, :, 0]
    assert_allclose(ratio, 0, atol=1e-9)


def test_counts_stay_above_zero_with_their_effects() -> None:
    mu = coherent_means(np.array([0.5]), np.array([[0.5, 0.5]]), np.array([[[3.0]]]), 0.0, np.inf)
    assert_allclose(mu, [[[0.0, 3.0]]])


@pytest.mark.parametrize("kind", ["binary", "count"])
def test_effects_of_risks_and_counts_are_econmls(kind: str) -> None:
    rng = np.random.default_rng(0)
    X, a = pd.DataFrame(rng.standard_normal((300, 2)), columns=["u", "v"]), rng.integers(0, 2, 300)
    level = 0.2 + 0.5 * a
    y = (rng.random(300) < level).astype(int) if kind == "binary" else rng.poisson(level)
    est = EconML(estimator=linear(), nuisance=DUMMY, outcome=kind, random_state=0).fit(X, y, treatment=a)
    own = est.estimator_.effect(est.schema_.encode(X).astype(float))
    assert_allclose(est.predict(X), own, atol=0.01)  # near 1 a member may be beyond it
    assert np.median(np.abs(est.predict(X) - own)) < 1e-5
    outcomes = est.predict_outcomes(X)
    assert_allclose(outcomes.mean().mean(axis=0), [y[a == 0].mean(), y[a == 1].mean()], atol=0.1)


def test_impossible_risk_differences_are_counted() -> None:
    """A line that leaves the range of risks far away from the data's middle."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal(200)
    u[:3] = 30.0
    a = rng.integers(0, 2, 200)
    y = rng.random(200) < np.clip(0.5 + 0.3 * a * u, 0, 1)
    with pytest.warns(UserWarning, match="LinearDML estimates risk differences beyond 1 in [0-9]+ of 200 rows"):
        est = EconML(estimator=linear(), nuisance=DUMMY, random_state=0).fit(u[:, None], y, treatment=a)
    assert np.abs(est.predict(u[:, None])).max() <= 1


# ---- seeds, weights, errors ------------------------------------------------------------------------------------------


def test_open_seeds_are_set_and_the_users_estimator_is_left_alone() -> None:
    from econml.dml import CausalForestDML
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    X, y, a, _ = trial(120)
    mine = CausalForestDML(
        model_y=RandomForestRegressor(5),
        model_t=RandomForestClassifier(5, random_state=7),
        discrete_treatment=True,
        n_estimators=40,
    )
    one, other, third = (
        EconML(estimator=mine, nuisance=DUMMY, random_state=seed).fit(X, y, treatment=a) for seed in (0, 0, 1)
    )
    assert_array_equal(one.predict(X), other.predict(X))
    assert np.abs(one.predict(X) - third.predict(X)).max() > 1e-3
    assert mine.random_state is None and mine.model_y.random_state is None
    assert one.estimator_.model_t.random_state == 7 and not hasattr(mine, "models_y")


def test_weights_reach_econml() -> None:
    """Two kinds of rows with opposite effects: the heavy kind's effect is found."""
    rng = np.random.default_rng(0)
    X, a, kind = rng.standard_normal((400, 2)), rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    y = np.where(kind == 1, 2.0, -2.0) * a + 0.1 * rng.standard_normal(400)
    weight = np.where(kind == 1, 19.0, 1.0)
    est = EconML(estimator=linear(), nuisance=DUMMY, random_state=0)
    assert abs(est.fit(X, y, treatment=a).predict(X).mean()) < 0.5
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Dummy")
        heavy = est.fit(X, y, treatment=a, sample_weight=weight).predict(X).mean()
        assert_allclose(heavy, 2 * 0.9, atol=0.4)
        with pytest.raises(ValueError, match="TLearner takes no sample_weight: use one that does, such as LinearDML"):
            EconML(estimator=t_learner(), nuisance=DUMMY).fit(X, y, treatment=a, sample_weight=weight)


def test_what_is_no_estimator_of_discrete_effects_is_refused() -> None:
    from econml.dml import LinearDML
    from econml.iv.dml import OrthoIV

    X, y, a, _ = trial(40)

    def fit(estimator: Any, **options: Any) -> None:
        EconML(estimator=estimator, nuisance=DUMMY, **options).fit(X, y, treatment=a)

    with pytest.raises(TypeError, match=r"estimator is the class LinearDML: pass an instance, LinearDML\(\.\.\.\)"):
        fit(LinearDML)
    with pytest.raises(TypeError, match="must be a CATE estimator of EconML with fit and effect, got LinearRegression"):
        fit(LinearRegression())
    with pytest.raises(
        TypeError, match=r"OrthoIV.fit needs .*'Z'.*: EconML takes estimators that need Y, T and X alone"
    ):
        fit(OrthoIV())
    with pytest.raises(
        ValueError, match=r"LinearDML takes the arms for doses: pass LinearDML\(discrete_treatment=True"
    ):
        fit(LinearDML())
    with pytest.raises(ValueError, match="n_trees must be a multiple of 4"):
        fit(None, n_trees=10)
    with pytest.raises(ValueError, match="n_members must be a whole number of at least 4, got 2"):
        fit(None, n_members=2)


def test_econmls_own_announcements_are_not_the_users_concern() -> None:
    """Its default logistic regressions raise scikit-learn's FutureWarnings; others come through."""
    from econml.dml import LinearDML

    X, y, a, _ = trial(60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EconML(estimator=LinearDML(discrete_treatment=True), nuisance=DUMMY, random_state=0).fit(X, y, treatment=a)
    with pytest.warns(FutureWarning, match="mine"), module._quiet():
        warnings.warn("mine", FutureWarning, stacklevel=1)


def test_an_undetermined_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        point_estimate, stderr = np.zeros(3), np.array([1.0, np.nan, np.inf])

    class Estimator:
        _inference = True

        def effect_inference(self, *_: Any, **__: Any) -> Found:
            return Found()

    with pytest.raises(ValueError, match=r"no finite standard error in 2 of 3 rows: .* with 4 encoded columns"):
        module._effects(Estimator(), np.zeros((3, 4)), 2)
