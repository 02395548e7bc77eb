"""Meta-learners and the residuals' law against closed forms, repeated rows and known distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.dummy import DummyRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.linear_model import BayesianRidge, LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import effects
from effects import DRLearner, Nuisance, ProbabilisticLearner, SLearner, TLearner, XLearner
from effects.models.probabilistic import LinearLaw, ProbabilisticRegressor, find_law
from effects.models.residuals import ResidualDistribution, whole_draws

QUICK_NUISANCE = Nuisance(LinearRegression(), LogisticRegression(), n_folds=2)


def linear(n: int = 400, n_arms: int = 2, seed: int = 0, noise: float = 1.0) -> tuple[Any, Any, Any, Any]:
    """Covariates, arms, outcomes, and the true effects 1 + x_1 (times the arm) of a linear model with interactions."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3))
    a = (rng.random((n, 1)) > np.arange(1, n_arms) / n_arms).sum(axis=1)
    tau = np.arange(n_arms) * (1 + X[:, [1]])
    y = X[:, 0] + tau[np.arange(n), a] + noise * rng.standard_normal(n)
    return X, a, y, tau[:, 1:]


def least_squares(X: np.ndarray, y: np.ndarray, at: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    root = np.ones(len(y)) if weight is None else np.sqrt(weight)
    design, new = np.column_stack([np.ones(len(X)), X]), np.column_stack([np.ones(len(at)), at])
    return new @ np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]


# ---- closed forms ----------------------------------------------------------------------------------------------------


def test_t_learner_is_least_squares_per_arm() -> None:
    X, a, y, _ = linear(n_arms=3)
    est = TLearner(model=LinearRegression(), n_members=1, nuisance=QUICK_NUISANCE, random_state=0)
    mean = est.fit(X, y, treatment=a).predict_outcomes(X).mean()
    for k in range(3):
        assert_allclose(mean[:, k], least_squares(X[a == k], y[a == k], X), atol=1e-5)


def test_s_learner_is_one_least_squares_without_interactions() -> None:
    X, a, y, _ = linear()
    est = SLearner(model=LinearRegression(), n_members=1, nuisance=QUICK_NUISANCE, random_state=0)
    cate = est.fit(X, y, treatment=a).predict(X)
    design = np.column_stack([np.ones(len(X)), X, a])
    assert_allclose(cate, np.linalg.lstsq(design, y, rcond=None)[0][-1], atol=1e-5)


def test_x_learner_follows_its_formula() -> None:
    """Linear in both stages: the imputed effects regressed per arm, averaged by the known propensity."""
    X, a, y, _ = linear(1500)
    e = 1 / (1 + np.exp(-X[:, 0]))
    est = XLearner(model=LinearRegression(), n_members=1, nuisance=QUICK_NUISANCE, random_state=0)
    est.fit(X, y, treatment=a, propensity=e)
    inputs = est._inputs(est._encode(X))
    tau0, tau1 = (model(est._encode(X).astype(float))[:, 0] for model in est.members_[0])
    share = inputs[:, -1] / (inputs[:, -1] + inputs[:, -2])
    assert_allclose(est.predict(X), share * tau0 + (1 - share) * tau1, atol=1e-6)
    assert np.abs(est.predict(X) - tau0).max() > 1e-3
    # with linear stages either imputed effect is the difference of two lines, up to cross-fitting
    slopes = least_squares(X[a == 1], y[a == 1], X) - least_squares(X[a == 0], y[a == 0], X)
    assert np.sqrt(np.mean((est.predict(X) - slopes) ** 2)) < 0.15


@pytest.mark.parametrize("weighting", ["overlap", "none"])
def test_dr_learner_is_unbiased_with_known_propensities(weighting: str) -> None:
    """Confounding that a constant outcome model misses altogether; the propensity alone removes it."""
    found, naive = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((600, 2))
        e = np.clip(1 / (1 + np.exp(-1.2 * X[:, 0])), 0.15, 0.85)
        a = (rng.random(600) < e).astype(int)
        y = 2 * X[:, 0] + a * (1 + X[:, 1]) + 0.5 * rng.standard_normal(600)
        est = DRLearner(
            model=DummyRegressor(),
            effect_model=LinearRegression(),
            weighting=weighting,
            n_members=1,
            nuisance=QUICK_NUISANCE,
            random_state=0,
        )
        est.fit(X, y, treatment=a, propensity=e)
        found.append(est.predict(np.array([[0.0, 0.0], [0.0, 1.0]])))
        naive.append(y[a == 1].mean() - y[a == 0].mean())
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - [1.0, 2.0]) < 3 * error + 0.02).all()
    assert np.mean(naive) > 2.0


def test_dr_scores_are_those_of_aipw() -> None:
    """A constant second stage averages the scores: the AIPW estimate of the average effect."""
    X, a, y, _ = linear()
    est = DRLearner(
        effect_model=DummyRegressor(), weighting="none", n_members=1, nuisance=QUICK_NUISANCE, random_state=0
    )
    est.fit(X, y, treatment=a, propensity=np.full(len(X), 0.4))
    aipw = effects.estimate_ate(est, X, y, treatment=a).value
    assert_allclose(est.predict(X), aipw, rtol=1e-8)


@pytest.mark.parametrize("learner", [XLearner, DRLearner])
def test_second_stage_finds_linear_effects_of_three_arms(learner: Any) -> None:
    X, a, y, tau = linear(900, n_arms=3, noise=0.5)
    est = learner(model=LinearRegression(), nuisance=QUICK_NUISANCE, n_members=4, random_state=0)
    assert np.sqrt(np.mean((est.fit(X, y, treatment=a).predict(X) - tau) ** 2)) < 0.2


def test_means_of_two_stages_agree_with_the_effects() -> None:
    """mu_a - mu_0 = tau_a, and sum_a e_a mu_a is the first stage's mean of the outcome."""
    X, a, y, _ = linear()
    e = 1 / (1 + np.exp(-X[:, 0]))
    est = DRLearner(nuisance=QUICK_NUISANCE, n_members=2, random_state=0).fit(X, y, treatment=a, propensity=e)
    inputs = est._inputs(est._encode(X))
    mu, propensity = inputs[:, -4:-2], inputs[:, -2:]
    mean = est.predict_outcomes(X).mean()
    assert_allclose((propensity * mean).sum(axis=1), (propensity * mu).sum(axis=1), atol=1e-6)


@pytest.mark.parametrize("learner", [XLearner, DRLearner])
def test_effects_on_probabilities_keep_the_range(learner: Any) -> None:
    """Rare events and large effects: the baseline gives way, the effect stays."""
    X, a, _, _ = linear(600)
    y = (np.random.default_rng(1).random(600) < np.where(a == 1, 1 / (1 + np.exp(-3 * X[:, 0])), 0.01)).astype(int)
    est = learner(n_members=2, nuisance=Nuisance(n_folds=2), random_state=0).fit(X, y, treatment=a)
    mean, inputs = est._means(est._inputs(est._encode(X))), est._inputs(est._encode(X))
    assert mean.min() >= 0 and mean.max() <= 1
    raw = np.clip(est._effects(est.members_[0], inputs[:, :3], inputs[:, -2:])[:, 0], -1, 1)
    assert_allclose(mean[0, :, 1] - mean[0, :, 0], raw, atol=1e-9)


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", [SLearner, TLearner])
def test_weights_are_repeated_rows(learner: Any) -> None:
    X, a, y, _ = linear(200)
    times = np.random.default_rng(0).integers(1, 4, 200)
    make = {"model": LinearRegression(), "n_members": 1, "nuisance": QUICK_NUISANCE, "random_state": 0}
    weighted = learner(**make).fit(X, y, treatment=a, sample_weight=times).predict(X)
    rows = np.repeat(np.arange(200), times)
    repeated = learner(**make).fit(X[rows], y[rows], treatment=a[rows]).predict(X)
    assert_allclose(weighted, repeated, atol=1e-5)
    assert np.abs(weighted - learner(**make).fit(X, y, treatment=a).predict(X)).max() > 1e-3


@pytest.mark.parametrize("model", [KNeighborsRegressor(15), make_pipeline(StandardScaler(), Ridge())])
def test_models_that_take_no_weights_get_redrawn_rows(model: Any) -> None:
    X, a, y, _ = linear(300)
    heavy = np.where(y > np.median(y), 5.0, 1.0)
    make = {"model": model, "n_members": 10, "nuisance": QUICK_NUISANCE, "random_state": 0}
    shift = (
        TLearner(**make).fit(X, y, treatment=a, sample_weight=heavy).predict_outcomes(X).mean()
        - TLearner(**make).fit(X, y, treatment=a).predict_outcomes(X).mean()
    )
    assert (shift.mean(axis=0) > 0.2).all()
    with pytest.warns(UserWarning, match="takes no sample_weight"):
        TLearner(**{**make, "n_members": 1}).fit(X, y, treatment=a, sample_weight=heavy)


def test_members_spread_as_the_sampling_error() -> None:
    """Least squares: the bootstrap's spread of the CATE is the textbook standard error."""
    X, a, y, _ = linear(800)
    est = TLearner(model=LinearRegression(), n_members=60, n_folds=20, nuisance=QUICK_NUISANCE, random_state=0)
    std = est.fit(X, y, treatment=a).predict_effect(X[:50]).std
    variance = np.zeros(50)
    for k in (0, 1):
        D, new = (np.column_stack([np.ones(len(Z)), Z]) for Z in (X[a == k], X[:50]))
        variance += np.einsum("ij,jk,ik->i", new, np.linalg.inv(D.T @ D), new)
    assert 0.85 < np.median(std / np.sqrt(variance)) < 1.2


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_what_makes_no_sense_is_refused(tmp_path: Any) -> None:
    X, a, y, _ = linear(80)
    with pytest.raises(TypeError, match="is a classifier, but y is continuous"):
        TLearner(model=LogisticRegression()).fit(X, y, treatment=a)
    with pytest.raises(TypeError, match="effect_model regresses imputed effects"):
        XLearner(effect_model=LogisticRegression()).fit(X, y, treatment=a)
    with pytest.raises(TypeError, match="model must be a scikit-learn regressor"):
        SLearner(model=Ridge).fit(X, y, treatment=a)
    with pytest.raises(ValueError, match="n_folds must be a whole number of at least 2, got 1"):
        SLearner(n_folds=1).fit(X, y, treatment=a)
    with pytest.raises(ValueError, match="weighting must be one of"):
        DRLearner(weighting="ipw").fit(X, y, treatment=a)
    with pytest.raises(TypeError, match="gives no distribution"):
        ProbabilisticLearner(model=Ridge()).fit(X, y, treatment=a)
    with pytest.raises(TypeError, match="has no predict_proba"):
        ProbabilisticLearner(model=BayesianRidge()).fit(X, y > 0, treatment=a)
    est = TLearner(model=Ridge(), n_members=2, nuisance=Nuisance(n_folds=2)).fit(X, y, treatment=a)
    with pytest.raises(TypeError, match=r"models of your own choice \(Ridge\).*DiffPO"):
        est.save(tmp_path / "model")


def test_small_propensities_are_raised_aloud() -> None:
    X, a, y, _ = linear(200)
    e = np.where(np.arange(200) < 5, 0.001, 0.5)
    received = int((np.where(a == 1, e, 1 - e) < 0.01).sum())
    with pytest.warns(UserWarning, match=f"{received} rows received an arm of propensity below min_propensity=0.01"):
        DRLearner(weighting="none", n_members=2, nuisance=QUICK_NUISANCE).fit(X, y, treatment=a, propensity=e)


def test_classifiers_serve_binary_outcomes() -> None:
    X, a, _, _ = linear(400)
    p = 1 / (1 + np.exp(-(X[:, 0] + a)))
    y = np.random.default_rng(0).random(400) < p
    est = TLearner(model=LogisticRegression(C=1e6), n_members=1, nuisance=QUICK_NUISANCE).fit(X, y, treatment=a)
    own = LogisticRegression(C=1e6).fit(X[a == 1], y[a == 1]).predict_proba(X)[:, 1]
    assert_allclose(est.predict_outcomes(X).mean()[:, 1], own, atol=3e-3)


# ---- the law of the residuals ----------------------------------------------------------------------------------------


def test_residual_law_covers_where_the_spread_varies() -> None:
    """0.90 of new outcomes, in every quarter of the covariate that drives the spread, and in both arms."""
    rng = np.random.default_rng(0)
    E, a = rng.standard_normal((1500, 3)).astype(np.float32), rng.integers(2, size=1500)
    spread = np.exp(0.7 * E[:, 0]) * (1 + a)
    law = ResidualDistribution.learn(spread * rng.standard_normal(1500), E, a, np.ones(1500), 2)
    assert law.trees
    new = rng.standard_normal((4000, 3)).astype(np.float32)
    draws = law.draws(np.zeros((1, 4000, 2)), new, 64)[0]
    lower, upper = np.quantile(draws, [0.05, 0.95], axis=0, method="hazen")
    for k in (0, 1):
        y = np.exp(0.7 * new[:, 0]) * (1 + k) * rng.standard_normal(4000)
        inside = (y >= lower[:, k]) & (y <= upper[:, k])
        quarters = [inside[rows].mean() for rows in np.array_split(np.argsort(new[:, 0]), 4)]
        assert 0.88 < inside.mean() < 0.92 and min(quarters) > 0.85 and max(quarters) < 0.95


def test_a_constant_spread_is_left_constant_and_the_shape_is_learned() -> None:
    rng = np.random.default_rng(0)
    E, a = rng.standard_normal((3000, 2)).astype(np.float32), rng.integers(2, size=3000)
    residual = rng.exponential(size=3000) - 1
    law = ResidualDistribution.learn(residual, E, a, np.ones(3000), 2)
    draws = np.sort(law.draws(np.zeros((1, 1, 2)), E[:1], 200)[0, :, 0, 0])
    assert np.ptp(np.quantile(law.spreads(np.zeros((3000, 2)), E), [0.05, 0.95])) < 0.2
    exact = stats.expon.ppf((np.arange(200) + 0.5) / 200) - 1
    assert np.abs(draws - exact).mean() < 0.08  # Wasserstein-1; a normal law is 0.3 off


def test_draws_have_the_means_they_are_given() -> None:
    """Additive, multiplicative and with a point mass: to rounding. Counts: to half a draw."""
    rng = np.random.default_rng(0)
    n = 800
    mu = np.exp(0.8 * rng.standard_normal(n))
    E, a, ones = np.log(mu)[:, None].astype(np.float32), rng.integers(2, size=n), np.ones(n)
    given = np.stack([mu, 1.5 * mu], axis=1)[None] * np.array([0.9, 1.1])[:, None, None]
    skewed = rng.gamma(2.0, mu / 2)
    zero = np.where(rng.random(n) < 0.3, 0.0, skewed)
    laws = {
        "additive": ResidualDistribution.learn(rng.standard_normal(n), E, a, ones, 2),
        "multiplicative": ResidualDistribution.learn(skewed - mu, E, a, ones, 2, y=skewed),
        "atom": ResidualDistribution.learn(zero - 0.7 * mu, E, a, ones, 2, y=zero),
    }
    assert laws["multiplicative"].scale.log and laws["atom"].scale.lowest == 0.0
    for law in laws.values():
        assert_allclose(law.draws(given, E, 33).mean(axis=1, dtype=float), law.means(given), rtol=2e-5, atol=1e-5)
    assert (laws["multiplicative"].draws(given, E, 33) > 0).all()
    assert abs((laws["atom"].draws(0.7 * given, E, 33) == 0).mean() - 0.3) < 0.06
    counts = rng.poisson(mu).astype(float)
    law = ResidualDistribution.learn(counts - mu, E, a, ones, 2, y=counts, kind="count")
    draws = law.draws(given, E, 50)
    assert draws.min() >= 0 and (draws == np.round(draws)).all()
    assert np.abs(draws.mean(axis=1) - given).max() <= 0.5 / 50 + 1e-4


def test_whole_draws_keep_the_mean() -> None:
    y = np.array([0.2, 0.7, 1.4, 2.9], dtype=np.float32).reshape(1, 4, 1, 1)
    for mean in (0.0, 0.5, 1.0, 1.25, 3.0, 7.75):
        whole = whole_draws(y, np.full((1, 1, 1), mean))
        assert whole.mean() == mean and (whole == np.round(whole)).all() and whole.min() >= 0
    assert_array_equal(whole_draws(y, np.full((1, 1, 1), 1.0)).ravel(), [0, 0, 1, 3])  # the largest remainders


def test_members_variance_is_not_counted_twice() -> None:
    rng = np.random.default_rng(0)
    E, a, residual = np.zeros((2000, 1), np.float32), np.zeros(2000, int), 2 * rng.standard_normal(2000)
    whole = ResidualDistribution.learn(residual, E, a, np.ones(2000), 1)
    less = ResidualDistribution.learn(residual, E, a, np.ones(2000), 1, member_variance=np.ones(2000))
    variances = [law.draws(np.zeros((1, 1, 1)), E[:1], 400).var() for law in (whole, less)]
    assert variances[0] - variances[1] == pytest.approx(1.0, abs=0.1)


def test_residual_law_in_another_unit() -> None:
    rng = np.random.default_rng(0)
    E, a = rng.standard_normal((400, 2)).astype(np.float32), rng.integers(2, size=400)
    r, mean = np.exp(E[:, 0]) * rng.standard_normal(400), np.zeros((1, 400, 2))
    one, other = (ResidualDistribution.learn(c * r, E, a, np.ones(400), 2).draws(mean, E, 9) for c in (1.0, 100.0))
    assert_allclose(other, 100 * one, rtol=1e-4, atol=1e-3)


def test_a_tiny_arm_borrows_its_spread() -> None:
    rng = np.random.default_rng(0)
    a = np.repeat([0, 1], [200, 2])
    residual = np.where(a == 1, 0.0, rng.standard_normal(202))
    law = ResidualDistribution.learn(residual, np.zeros((202, 1), np.float32), a, np.ones(202), 2)
    assert 0.5 < law.spread[1] / law.spread[0] < 1.0


# ---- probabilistic models --------------------------------------------------------------------------------------------


class Exact:
    """The three methods, for the law N(x_0, 2^2) that it does not have to learn."""

    def fit(self, X: Any, y: Any) -> Exact:
        self.sd = 2.0
        return self

    def predict(self, X: Any) -> Any:
        return X[:, 0]

    def quantile(self, X: Any, levels: Any) -> Any:
        return X[:, 0] + self.sd * stats.norm.ppf(levels)[:, None]


class Sampling:
    """Draws instead of quantiles."""

    def fit(self, X: Any, y: Any) -> Sampling:
        return self

    def predict(self, X: Any) -> Any:
        return X[:, 0]

    def sample(self, X: Any, n_draws: int, random_state: Any) -> Any:
        return X[:, 0] + 2 * np.random.default_rng(random_state).standard_normal((n_draws, len(X)))


def test_your_own_three_methods_are_enough() -> None:
    X, a, y, _ = linear(300)
    y = (y - y.mean()) / y.std()  # the learner's scale is then the outcome's
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    assert isinstance(Exact(), ProbabilisticRegressor) and not isinstance(Ridge(), ProbabilisticRegressor)
    est = ProbabilisticLearner(model=Exact(), n_members=2, nuisance=QUICK_NUISANCE, random_state=0)
    outcomes = est.fit(X, y, treatment=a).predict_outcomes(X[:20])
    exact = X[:20, :1] + 2 * stats.norm.ppf(0.9)
    assert_allclose(outcomes.quantile(0.9), np.repeat(exact, 2, axis=1), atol=0.05)
    assert_allclose(outcomes.mean(), np.repeat(X[:20, :1], 2, axis=1), atol=1e-5)


def test_models_are_recognised_by_what_they_offer() -> None:
    levels, X = np.array([0.1, 0.5, 0.9]), np.array([[0.0], [1.0]])
    exact = np.array([0.0, 1.0]) + 2 * stats.norm.ppf(levels)[:, None]
    offers: dict[str, dict[str, Any]] = {
        "NGBoost": {"pred_dist": lambda _, X: stats.norm(X[:, 0], 2.0), "sample": None},
        "skpro": {"predict_quantiles": lambda _, X, alpha: (X[:, 0] + 2 * stats.norm.ppf(alpha)[:, None]).T},
        "TabPFN": {"predict": lambda _, X, output_type="mean", quantiles=None: list(exact)},
        "scikit-learn": {"predict": lambda _, X, return_std=False: (X[:, 0], np.full(len(X), 2.0))},
    }
    for name, methods in offers.items():
        model = type(name, (), {"predict": lambda _, X: X[:, 0], "fit": lambda self, X, y: self} | methods)()
        assert not isinstance(model, ProbabilisticRegressor)
        assert_allclose(np.asarray(find_law(model)(X, levels)), exact, atol=1e-9)
    assert_allclose(np.asarray(find_law(Sampling().fit(X, X))(X, levels)), exact, atol=0.5)


def test_gaussian_process_and_bayesian_ridge_give_their_own_law() -> None:
    X, a, y, _ = linear(120)
    for model in (GaussianProcessRegressor(RBF(2.0) + WhiteKernel(0.5), optimizer=None), BayesianRidge()):
        est = ProbabilisticLearner(model=model, n_members=1, nuisance=QUICK_NUISANCE, random_state=0)
        est.fit(X, y, treatment=a)
        Z = est._inputs(est._encode(X[:5]))
        mean, sd = est.members_[0][1].predict(Z, return_std=True)
        outcomes = est.predict_outcomes(X[:5])
        assert_allclose(outcomes.mean()[:, 1], mean * est.unit_ + est.level_, rtol=1e-6)
        assert_allclose(outcomes.std()[:, 1], sd * est.unit_, rtol=0.02)


def test_the_default_is_bayesian_ridge_as_arrays() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3)) + 1
    y = X @ [1.0, 2.0, 0.0] + rng.standard_normal(60)
    model = BayesianRidge().fit(X, y)
    law, new = LinearLaw.of(model), rng.standard_normal((5, 3))
    mean, sd = model.predict(new, return_std=True)
    assert_allclose(law.quantile(new, np.array([0.5, 0.9])), [mean, mean + stats.norm.ppf(0.9) * sd], rtol=1e-9)
    classifier = LogisticRegression().fit(X, y > 3)
    assert_allclose(LinearLaw.of(classifier).predict_proba(new), classifier.predict_proba(new), rtol=1e-9)


def test_ngboost_plugs_in() -> None:
    ngboost = pytest.importorskip("ngboost")
    X, a, y, tau = linear(200, noise=0.3)
    model = ngboost.NGBRegressor(n_estimators=40, learning_rate=0.1, verbose=False)
    est = ProbabilisticLearner(model=model, n_members=1, n_draws=16, nuisance=QUICK_NUISANCE, random_state=0)
    outcomes = est.fit(X, y, treatment=a).predict_outcomes(X)
    assert np.corrcoef(outcomes.effect().mean, tau[:, 0])[0, 1] > 0.8
    lower, upper = outcomes.interval(0.8)
    own = np.arange(len(y)), a
    assert 0.6 < np.mean((y >= lower[own]) & (y <= upper[own])) < 1.0
