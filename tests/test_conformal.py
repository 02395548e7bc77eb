"""Conformal intervals: quantiles against brute force, sets against their scores, coverage against simulated truth."""

from __future__ import annotations

import math
import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from conftest import QUICK, quick
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from effects import ConformalOutcomes, EffectEstimator, GComputation, Nuisance, PotentialOutcomes
from effects.conformal import conformal_bounds, conformal_quantile, effective_sample_size
from effects.conformal.laws import (
    SCORES,
    Laws,
    Recalibration,
    conformity_scores,
    law_bounds,
    randomised_position,
    recalibrated,
)
from effects.datasets import make_heteroscedastic, make_three_arms
from effects.nuisance import NuisanceValues


class Logistic(Nuisance):
    """Propensities by logistic regression and no outcome regressions: what conformal inference needs, at once."""

    def fit(self, E: Any, y: Any, a: Any, **given: Any) -> Logistic:
        self.n_arms_, self.kind_, self.known_propensity_ = given["n_arms"], given["kind"], given.get("propensity")
        self.model_ = LogisticRegression(C=100.0).fit(E, a, sample_weight=given.get("sample_weight"))
        self.out_of_fold_ = self.predict(E, self.known_propensity_)
        return self

    def predict(self, E: Any, propensity: Any = None) -> NuisanceValues:
        e = self.model_.predict_proba(E) if propensity is None else propensity
        return NuisanceValues(np.zeros(e.shape), np.zeros(e.shape), e, np.zeros((len(e), 2, e.shape[1] - 1)))


def linear(**options: Any) -> GComputation:
    """A linear model with a normal law: wrong about mean and spread of everything below, and quick."""
    return GComputation(**{"n_members": 4, "n_draws": 33, "nuisance": Logistic(), "random_state": 0, **options})


class Confounded:
    """Propensities from .03 to .97; a curved mean and a spread that grows where an arm is hardly ever received."""

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.X = rng.uniform(-1, 1, (n, 3))
        treated = 1 / (1 + np.exp(-3.5 * self.X[:, 0]))
        self.e = np.column_stack([1 - treated, treated])
        self.a = (rng.random(n) < treated).astype(int)
        x0, x1 = self.X[:, 0], self.X[:, 1]
        mean = np.column_stack([x0 + x1**2, 1 + x1 + np.sin(3 * x0)])
        spread = 0.4 * np.exp(1.5 * np.column_stack([x0, -x0]))
        self.Y = mean + spread * rng.standard_normal((n, 2))
        self.y = self.Y[np.arange(n), self.a]
        self.effect = self.Y[:, 1] - self.Y[:, 0]


@pytest.fixture(scope="module")
def data() -> Confounded:
    return Confounded(400, 0)


@pytest.fixture(scope="module")
def fitted(data: Confounded) -> ConformalOutcomes:
    est = ConformalOutcomes(linear(), calibration_size=0.5, random_state=1)
    return est.fit(data.X, data.y, treatment=data.a, propensity=data.e)


def quiet(function: Any, *args: Any, **options: Any) -> Any:
    """Without the warning of infinite intervals, which some tests are not about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*infinite interval.*")
        return function(*args, **options)


# ---------------------------------------------------------------------------------------------------------- quantiles


def brute_quantile(scores: np.ndarray, level: float, weights: np.ndarray, new: float) -> float:
    """The definition: the least score, or infinity, with `level` of the mass at or below it."""
    total = weights.sum() + new
    for s in np.sort(scores):
        if weights[scores <= s].sum() / total >= level - 1e-12:
            return float(s)
    return math.inf


def test_weighted_quantile_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(1, 30))
        scores = rng.integers(0, 12, n).astype(float)  # with ties
        weights, new = rng.exponential(size=n), rng.exponential(size=3) * n / 5
        level = float(rng.uniform(0.05, 0.98))
        found = conformal_quantile(scores, level, weights=weights, test_weights=new)
        assert found.tolist() == [brute_quantile(scores, level, weights, w) for w in new]


@pytest.mark.parametrize("n", [8, 9, 19, 20, 99, 100, 137])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_equal_weights_give_the_split_conformal_quantile(n: int, level: float) -> None:
    scores = np.random.default_rng(n).normal(size=n)
    k = math.ceil(round(level * (n + 1), 9))  # the usual formula
    wanted = np.sort(scores)[k - 1] if k <= n else math.inf
    assert conformal_quantile(scores, level) == wanted
    assert conformal_quantile(scores, level, weights=np.full(n, 7.3), test_weights=7.3) == wanted


def test_quantile_at_the_edges() -> None:
    assert conformal_quantile([], 0.5) == math.inf
    assert conformal_quantile([1.0], 0.5, weights=[0.0]) == math.inf
    assert conformal_quantile([1.0, 2.0], 0.5, test_weights=math.inf) == math.inf
    assert conformal_quantile([1.0, math.inf], 0.9, test_weights=0.0) == math.inf
    with pytest.raises(ValueError, match="scores is nan"):
        conformal_quantile([1.0, math.nan], 0.9)
    with pytest.raises(ValueError, match="weights holds -1"):
        conformal_quantile([1.0], 0.9, weights=[-1.0])
    with pytest.raises(ValueError, match="one per score"):
        conformal_quantile([1.0], 0.9, weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="level"):
        conformal_quantile([1.0], 1.0)


def test_effective_sample_size_is_kishs() -> None:
    assert effective_sample_size(np.full(50, 3.0)) == pytest.approx(50)
    assert effective_sample_size([1.0, 2.0, 3.0]) == pytest.approx(36 / 14)
    assert effective_sample_size([]) == 0 and effective_sample_size([0.0]) == 0


def test_coverage_under_shift_is_exact_and_weights_are_what_makes_it_so() -> None:
    """Tibshirani et al., Corollary 1, with known weights: scores that grow with x, which is shifted upwards."""
    rng, n, level, n_sets = np.random.default_rng(0), 40, 0.8, 4000
    weighted, plain = np.zeros(n_sets, dtype=bool), np.zeros(n_sets, dtype=bool)
    for k in range(n_sets):
        x, new = rng.random(n), np.sqrt(rng.random())  # density 1 before, 2x after: the weight is x
        scores, score = np.abs(rng.normal(size=n)) * x, abs(rng.normal()) * new
        weighted[k] = score <= conformal_quantile(scores, level, weights=x, test_weights=new)
        plain[k] = score <= conformal_quantile(scores, level)
    error = 3 * math.sqrt(level * (1 - level) / n_sets)
    assert level - error <= weighted.mean() <= level + 2 / n + error  # at most the new row's share of the mass above
    assert plain.mean() < level - error


def test_cross_bounds_are_the_jackknifes_and_one_model_gives_the_split() -> None:
    rng = np.random.default_rng(1)
    n_cal, n_new, n_folds, level = 23, 7, 4, 0.8
    fold, scores, weights = rng.integers(n_folds, size=n_cal), rng.exponential(size=n_cal), rng.exponential(size=n_cal)
    centre, new = rng.normal(size=(n_folds, n_new)), rng.exponential(size=n_new)

    def around(k: int) -> Any:
        return lambda rows, s: (centre[k][rows, None] - s, centre[k][rows, None] + s)

    lower, upper = conformal_bounds([around(k) for k in range(n_folds)], scores, fold, level, weights, new)
    for i in range(n_new):
        high = centre[fold, i] + scores
        low = centre[fold, i] - scores
        assert upper[i] == brute_quantile(high, level, weights, new[i])
        assert lower[i] == -brute_quantile(-low, level, weights, new[i])
    same = [around(0)] * n_folds
    split = conformal_bounds([around(0)], scores, fold, level, weights, new)
    cross = conformal_bounds(same, scores, fold, level, weights, new)
    np.testing.assert_allclose(split, cross)


# --------------------------------------------------------------------------------------------------------------- laws


def laws_of(draws: np.ndarray, kind: str = "continuous") -> Laws:
    """The laws of one arm from draws (n_draws, n_samples)."""
    twice = np.repeat(draws[None, :, :, None], 2, axis=3)
    return Laws.of_arms(PotentialOutcomes(twice, kind=kind), sd=float(np.std(draws)))[0]


def counts(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.poisson(1.5, size=shape).astype(float)


def test_nodes_hold_the_law_and_go_on_beyond_it() -> None:
    z = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    laws = laws_of(np.column_stack([z, 5 + 2 * z]))
    wanted = np.array([[-2.0, 0.3, 2.0, 6.0]])
    found = laws.quantile(np.repeat(wanted, 2, axis=0))
    np.testing.assert_allclose(found[0], wanted[0], atol=0.02)
    np.testing.assert_allclose(found[1], 5 + 2 * wanted[0], atol=0.04)
    assert np.isinf(laws.quantile(np.full((2, 1), np.inf))).all()
    least, greatest = laws.position(found[:, 1])
    np.testing.assert_allclose(least, 0.3, atol=1e-4)
    np.testing.assert_allclose(greatest, least, atol=1e-9)


def test_laws_of_unequal_draws_join_on_common_nodes() -> None:
    few, many = (laws_of(stats.norm.ppf((np.arange(n) + 0.5) / n)[:, None]) for n in (20, 2000))
    assert few.nodes[-1] < many.nodes[-1]
    joined = Laws.joined([few, many])
    z = np.array([[-1.5, 0.0, 1.5]])
    np.testing.assert_allclose(joined.quantile(np.repeat(z, 2, axis=0)), np.repeat(z, 2, axis=0), atol=0.05)


def test_position_at_an_atom_is_an_interval() -> None:
    draws = np.repeat([0.0, 1.0, 1.0, 3.0], 250)[:, None]
    least, greatest = laws_of(draws, "count").position(np.array([1.0]))
    assert stats.norm.cdf(least)[0] == pytest.approx(0.25, abs=0.03)
    assert stats.norm.cdf(greatest)[0] == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("kind", ["continuous", "count"])
@pytest.mark.parametrize("score", SCORES)
def test_a_set_holds_the_outcomes_whose_score_it_reaches(score: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    n = 300
    draws = counts(rng, (200, n)) if kind == "count" else rng.gamma(2.0, size=(200, n))
    laws, y = laws_of(draws, kind), (counts(rng, (n,)) if kind == "count" else 1.5 * rng.gamma(2.0, size=n))
    found = conformity_scores(score, laws, y, 0.8)
    for s in (0.1, 0.5, 1.0, 2.0):
        lower, upper = (end[:, 0] for end in law_bounds(score, laws, 0.8)(slice(None), np.full((n, 1), s)))
        clear = np.abs(found - s) > 1e-6
        assert ((lower - 1e-9 <= y) & (y <= upper + 1e-9) == (found <= s))[clear].all()
    if score == "cqr":
        assert (found < 0).any() and (found > 0).any()


def test_recalibration_makes_wrong_laws_right() -> None:
    """Laws N(x, 1) of outcomes N(x + 1, 2^2)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=3000)
    z = stats.norm.ppf((np.arange(33) + 0.5) / 33)
    draws = (x + z[:, None])[None]
    laws = laws_of(draws[0])
    rho = Recalibration.learn(
        randomised_position(laws, x + 1 + 2 * rng.normal(size=3000), rng), rng.uniform(0.5, 1, 3000)
    )
    levels = np.linspace(-4, 4, 50)
    assert (np.diff(rho(levels)) > 0).all()
    np.testing.assert_allclose(rho(np.array([-1.0, 0.0, 1.0])), [-1.0, 1.0, 3.0], atol=0.15)
    moved = recalibrated(laws, draws.astype(np.float32), rho, whole=False)
    np.testing.assert_allclose((moved[0] - x).mean(axis=1), 1 + 2 * z, atol=0.3)
    order = np.argsort(draws[0], axis=0)
    assert (np.diff(np.take_along_axis(moved[0], order, axis=0), axis=0) >= 0).all()
    np.testing.assert_array_equal(Recalibration.learn(np.zeros(0), np.zeros(0))(levels), levels)


# ------------------------------------------------------------------------------------------- the estimator, by hand


def test_unweighted_residual_split_is_the_textbooks(data: Confounded) -> None:
    est = ConformalOutcomes(linear(), conformity="residual", weighted=False, random_state=0)
    est.fit(data.X, data.y, treatment=data.a)
    lower, upper = est.predict_interval(data.X, level=0.8)
    calibration, mean = est.calibration_, est.estimators_[0].predict_outcomes(data.X).mean()
    assert len(calibration.y) == round(0.25 * (data.a == 0).sum()) + round(0.25 * (data.a == 1).sum())
    for k in (0, 1):
        mine = calibration.a == k
        residuals = np.sort(np.abs(calibration.y - calibration.laws[k].mean)[mine])
        threshold = residuals[math.ceil(0.8 * (len(residuals) + 1)) - 1]
        np.testing.assert_allclose(lower[:, k], mean[:, k] - threshold)
        np.testing.assert_allclose(upper[:, k], mean[:, k] + threshold)


def test_calibration_rows_were_not_trained_on(data: Confounded) -> None:
    for method in ("split", "cross"):
        est = ConformalOutcomes(linear(), method=method, random_state=0).fit(data.X, data.y, treatment=data.a)
        own = [set(data.y[np.isin(data.y, est.calibration_.y[est.calibration_.fold == k])]) for k in range(5)]
        for model, held in zip(est.estimators_, own, strict=False):
            assert model.rows_.size + len(held) == len(data.y)
        assert len(est.estimators_) == (1 if method == "split" else 5)
        assert set().union(*own) == set(data.y) or method == "split"


@pytest.mark.parametrize("target", ["all", "control", "treated", 1])
def test_weights_move_each_arm_to_the_target(data: Confounded, target: Any) -> None:
    est = ConformalOutcomes(linear(), conformity="residual", calibration_size=0.5, target=target, random_state=0)
    est.fit(data.X, data.y, treatment=data.a, propensity=data.e[:, 1])
    new = Confounded(50, 3)
    lower, upper = quiet(est.predict_interval, new.X, 0.8, propensity=new.e)
    calibration, mean = est.calibration_, est.estimators_[0].predict_outcomes(new.X).mean()
    goal = {"all": None, "control": 0, "treated": 1, 1: 1}[target]
    for k in (0, 1):
        mine = calibration.a == k
        e = calibration.propensity[mine]
        weights = 1 / e[:, k] if goal is None else e[:, goal] / e[:, k]
        tests = 1 / new.e[:, k] if goal is None else new.e[:, goal] / new.e[:, k]
        residuals = np.abs(calibration.y - calibration.laws[k].mean)[mine]
        for i in range(50):
            threshold = brute_quantile(residuals, 0.8, weights, tests[i])
            assert upper[i, k] == pytest.approx(mean[i, k] + threshold)
            assert lower[i, k] == pytest.approx(mean[i, k] - threshold)


def test_a_trials_constant_propensity_needs_no_weights(data: Confounded) -> None:
    options: dict[str, Any] = {"conformity": "pit", "random_state": 0}
    trial = ConformalOutcomes(linear(), **options).fit(
        data.X, data.y, treatment=data.a, propensity=np.full(len(data.a), 0.3)
    )
    plain = ConformalOutcomes(linear(), weighted=False, **options).fit(data.X, data.y, treatment=data.a)
    known = np.full(len(data.a), 0.3)
    one, other = trial.predict_interval(data.X, 0.8, propensity=known), plain.predict_interval(data.X, 0.8)
    np.testing.assert_allclose(one, other)


def test_bonferroni_subtracts_the_arms_intervals(data: Confounded, fitted: ConformalOutcomes) -> None:
    lower, upper = quiet(fitted.predict_interval, data.X, 0.9, propensity=data.e)
    low, high = quiet(fitted.predict_effect_interval, data.X, 0.8, method="bonferroni", propensity=data.e)
    np.testing.assert_allclose(low, lower[:, 1] - upper[:, 0])
    np.testing.assert_allclose(high, upper[:, 1] - lower[:, 0])
    turned = quiet(
        fitted.predict_effect_interval, data.X, 0.8, method="bonferroni", treated=0, control=1, propensity=data.e
    )
    np.testing.assert_allclose(turned, (-high, -low))


@pytest.mark.parametrize("method", ["dr", "ipw"])
def test_meta_learners_use_pseudo_outcomes(data: Confounded, fitted: ConformalOutcomes, method: str) -> None:
    calibration = fitted.calibration_
    y, a, e1 = calibration.y, calibration.a, calibration.propensity[:, 1]
    mu0, mu1 = (law.mean for law in calibration.laws)
    if method == "dr":
        pseudo = mu1 - mu0 + a * (y - mu1) / e1 - (1 - a) * (y - mu0) / (1 - e1)
    else:
        pseudo = a * y / e1 - (1 - a) * y / (1 - e1)
    threshold = brute_quantile(np.abs(pseudo - (mu1 - mu0)), 0.8, np.ones(len(y)), 1.0)
    lower, upper = fitted.predict_effect_interval(data.X, 0.8, method=method, propensity=data.e)
    np.testing.assert_allclose(lower, fitted.predict(data.X) - threshold, atol=1e-5)
    np.testing.assert_allclose(upper, fitted.predict(data.X) + threshold, atol=1e-5)


@pytest.mark.parametrize("target", ["all", "treated"])
def test_nested_rests_on_the_counterfactual_intervals_of_spare_rows(data: Confounded, target: str) -> None:
    """A second implementation of the exact method, for residual scores, row by row."""
    est = ConformalOutcomes(linear(), conformity="residual", calibration_size=0.5, target=target, random_state=1)
    est.fit(data.X, data.y, treatment=data.a, propensity=data.e)
    new = Confounded(20, 5)
    lower, upper = quiet(est.predict_effect_interval, new.X, 0.6, propensity=new.e)
    cal, mean = est.calibration_, est.estimators_[0].predict_outcomes(new.X).mean()
    # medians of the quantile nodes: of a normal law the mean, to the precision of its draws
    centre = np.array([law.quantile(np.zeros((len(law), 1)))[:, 0] for law in cal.laws]).T
    centre_new = np.median(est.estimators_[0].predict_outcomes(new.X).draws.reshape(-1, 20, 2), axis=0)
    mu = np.array([law.mean for law in cal.laws]).T
    spare = cal.spare & ((cal.a == 1) | (target == "all"))
    second = float(np.clip(2 / (spare.sum() + 1), 0.1, 0.2))

    def radius(own: int, e: np.ndarray) -> float:
        pool = ~cal.spare & (cal.a == 1 - own)
        odds = (cal.propensity[:, own] / cal.propensity[:, 1 - own])[pool]
        residuals = np.abs(cal.y - mu[:, 1 - own])[pool]
        return brute_quantile(residuals, 0.6 + second, odds, e[own] / e[1 - own])

    def base(e: np.ndarray, med: np.ndarray, m: np.ndarray) -> tuple[float, float]:
        share = e if target == "all" else np.array([0.0, 1.0])
        ends = np.zeros(2)
        if any(share[j] > 0 and math.isinf(radius(j, e)) for j in (0, 1)):
            return -math.inf, math.inf
        for own, sign in ((1, 1.0), (0, -1.0)):
            if share[own] > 0:
                middle = sign * (med[own] - m[1 - own])
                ends += share[own] * np.array([middle - radius(own, e), middle + radius(own, e)])
        return ends[0], ends[1]

    scores = []
    for i in np.flatnonzero(spare):
        own, e = int(cal.a[i]), cal.propensity[i]
        sign = 1.0 if own == 1 else -1.0
        middle = sign * (cal.y[i] - mu[i, 1 - own])
        low, high = base(e, centre[i], mu[i])
        scores.append(
            -math.inf if math.isinf(low) else max(low - middle + radius(own, e), middle + radius(own, e) - high)
        )
    threshold = brute_quantile(np.array(scores), 1 - second, np.ones(len(scores)), 1.0)
    for j in range(20):
        low, high = base(new.e[j], centre_new[j], mean[j])
        assert lower[j] == pytest.approx(low - threshold, abs=0.02)
        assert upper[j] == pytest.approx(high + threshold, abs=0.02)
    assert np.isfinite(lower).any()


# ------------------------------------------------------------------------------------- when the guarantee is empty


def test_infinite_intervals_are_counted_in_one_warning(data: Confounded) -> None:
    est = ConformalOutcomes(linear(), calibration_size=0.1, random_state=0)
    est.fit(data.X, data.y, treatment=data.a)
    with pytest.warns(UserWarning, match="infinite interval at level 0.95") as caught:
        lower, upper = est.predict_interval(data.X, 0.95)
    assert len(caught) == 1
    message = str(caught[0].message)
    infinite = np.isinf(lower)
    np.testing.assert_array_equal(infinite, np.isinf(upper))
    assert 0 < infinite.mean() < 1
    report = est.report(data.X, 0.95)
    for k, arm in enumerate(est.arms_):
        assert f"{infinite[:, k].sum()} for arm {arm!r}" in message
        assert report.loc[arm, "infinite"] == pytest.approx(infinite[:, k].mean())
        assert report.loc[arm, "effective_n"] < report.loc[arm, "n"] == (est.calibration_.a == k).sum()
    finite = ~infinite
    wanted = [(upper - lower)[finite[:, k], k].mean() for k in (0, 1)]
    np.testing.assert_allclose(report["width"], wanted)
    with pytest.warns(UserWarning, match="method='cross'") as caught:
        est.predict_effect_interval(data.X, 0.95, method="bonferroni")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        est.predict_interval(data.X, 0.3)


def test_report_shows_the_unweighted_widths_beside(data: Confounded) -> None:
    given = {"treatment": data.a, "propensity": data.e}
    weighted = ConformalOutcomes(linear(), random_state=0).fit(data.X, data.y, **given)
    plain = ConformalOutcomes(linear(), weighted=False, random_state=0).fit(data.X, data.y, **given)
    lower, upper = plain.predict_interval(data.X, 0.8)
    report = weighted.report(data.X, 0.8, propensity=data.e)
    np.testing.assert_allclose(report["unweighted_width"], (upper - lower).mean(axis=0))
    nothing = quiet(weighted.report, data.X, 0.999, propensity=data.e)
    assert (nothing["infinite"] == 1).all() and nothing["width"].isna().all()


# ------------------------------------------------------------------------------------------------ kinds of outcome


def test_counts_get_whole_numbers_of_zero_or_more() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2))
    a = rng.integers(2, size=600)
    Y = rng.poisson(np.exp(0.2 + 0.4 * X[:, [0]] + np.array([0.0, 0.5])))
    y = Y[np.arange(600), a]
    for conformity in SCORES:
        est = ConformalOutcomes(linear(), conformity=conformity, random_state=0).fit(
            X[:400], y[:400], treatment=a[:400]
        )
        assert est.schema_.outcome.kind == "count"
        lower, upper = est.predict_interval(X[400:], 0.8)
        assert (lower >= 0).all() and (lower <= upper).all()
        assert (lower == np.rint(lower)).all() and (upper == np.rint(upper)).all()
        assert ((lower <= Y[400:]) & (Y[400:] <= upper)).mean() > 0.75
        low, high = est.predict_effect_interval(X[400:], 0.8, method="dr")
        assert (low == np.rint(low)).all() and (low < 0).any() and (high == np.rint(high)).all()
    outcomes = est.predict_outcomes(X[400:])
    assert outcomes.kind == "count" and (outcomes.draws == np.rint(outcomes.draws)).all() and outcomes.draws.min() >= 0


def test_binary_outcomes_are_refused_with_the_reason(data: Confounded) -> None:
    with pytest.raises(ValueError, match=r"binary outcome .* say nothing"):
        ConformalOutcomes(linear()).fit(data.X, (data.y > 0).astype(int), treatment=data.a)


def test_empty_prediction_sets_become_points() -> None:
    """Laws much too wide, and nothing to be seen but the mean: CQR shrinks the interval to less than nothing."""
    rng = np.random.default_rng(0)
    X, a = rng.normal(size=(300, 1)), rng.integers(2, size=300)
    y = np.where(rng.random(300) < 0.04, 30.0 * rng.normal(size=300), 0.01 * rng.normal(size=300))
    est = ConformalOutcomes(linear(), random_state=0).fit(X, y, treatment=a)
    lower, upper = est.predict_interval(X, 0.5)
    assert (lower <= upper).all()


# ------------------------------------------------------------------------------------------- scikit-learn's manners


def test_params_clone_and_pickle(data: Confounded, fitted: ConformalOutcomes) -> None:
    est = ConformalOutcomes(linear(n_draws=11), conformity="pit")
    assert est.get_params()["estimator__n_draws"] == 11 and est.get_params(deep=False)["conformity"] == "pit"
    copy = clone(est).set_params(estimator__n_draws=13)
    assert est.estimator.n_draws == 11 and copy.estimator.n_draws == 13
    assert "ConformalOutcomes(" in repr(est)
    again = pickle.loads(pickle.dumps(fitted))
    for method in ("predict_interval", "predict_effect_interval"):
        one, other = (quiet(getattr(e, method), data.X, 0.8, propensity=data.e) for e in (fitted, again))
        np.testing.assert_array_equal(one, other)
    assert fitted.n_features_in_ == 3 and not hasattr(fitted, "feature_names_in_")
    assert not hasattr(fitted.estimator, "schema_"), "the estimator given is left as it was"


def test_before_fit(data: Confounded) -> None:
    est = ConformalOutcomes(linear())
    for name in (
        "predict",
        "predict_interval",
        "predict_effect_interval",
        "predict_outcomes",
        "predict_effect",
        "report",
    ):
        with pytest.raises(NotFittedError, match="ConformalOutcomes"):
            getattr(est, name)(data.X)
    with pytest.raises(NotFittedError):
        est.score(data.X, data.y, treatment=data.a)


def test_random_state_settles_the_split(data: Confounded) -> None:
    def bounds(seed: int, **options: Any) -> Any:
        est = ConformalOutcomes(linear(), random_state=seed, **options).fit(data.X, data.y, treatment=data.a)
        return quiet(est.predict_interval, data.X[:20], 0.8)

    for method in ("split", "cross"):
        np.testing.assert_array_equal(bounds(0, method=method), bounds(0, method=method))
    assert not np.allclose(bounds(0), bounds(1))


def test_pipeline_and_grid_search(data: Confounded) -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        pipe = make_pipeline(StandardScaler(), ConformalOutcomes(linear(), random_state=0))
        pipe.fit(data.X, data.y, treatment=data.a)
        assert pipe.predict(data.X).shape == (400,)
        search = GridSearchCV(
            ConformalOutcomes(linear(), random_state=0),
            {"estimator__interactions": [False, True], "conformity": ["cqr"]},
            cv=2,
            error_score="raise",
        )
        search.fit(data.X, data.y, treatment=data.a)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_tables_with_categories_missing_values_and_labels() -> None:
    rng = np.random.default_rng(0)
    n = 300
    X = pd.DataFrame(
        {
            "age": np.where(rng.random(n) < 0.1, np.nan, rng.normal(60, 10, n)),
            "city": rng.choice(["a", "b", "c"], n).astype(object),
            "smoker": rng.random(n) < 0.3,
        },
        index=np.arange(n) + 1000,
    )
    X.loc[1000, "city"] = "nowhere"  # in one part only
    arm = pd.Series(rng.choice(["drug", "placebo"], n), index=X.index)
    y = pd.Series(rng.normal(size=n) + (arm == "drug"), index=X.index)
    for method in ("split", "cross"):
        est = ConformalOutcomes(linear(interactions=False), method=method, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is said of how the rows were split
            est.fit(X, y, treatment=arm)
        assert est.arms_ == ("placebo", "drug") and est.feature_names_in_.tolist() == list(X.columns)
        assert all(model.arms_ == est.arms_ for model in est.estimators_)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Levels never seen|Of 300 rows")
            lower, _ = est.predict_interval(X)
            assert lower.shape == (n, 2) and np.isfinite(lower).mean() > 0.98
            outcomes = est.predict_outcomes(X)
        assert outcomes.index is not None and outcomes.index.equals(X.index) and outcomes.arms == ("placebo", "drug")
        assert outcomes.n_members == (4 if method == "split" else 20)


def test_every_part_knows_the_arms_in_the_tables_order(data: Confounded) -> None:
    arm = pd.Categorical(np.array(["z", "a"])[data.a], categories=["z", "a"])
    est = ConformalOutcomes(linear(), method="cross", n_folds=2, random_state=0)
    est.fit(data.X.tolist(), list(data.y), treatment=arm)
    assert est.arms_ == ("z", "a") and all(model.arms_ == ("z", "a") for model in est.estimators_)
    assert est.predict(data.X).mean() == pytest.approx(np.mean(data.effect), abs=0.5)


def test_three_arms() -> None:
    data = make_three_arms(n_samples=500, random_state=0)
    est = ConformalOutcomes(linear(), random_state=0).fit(data.X, data.y, treatment=data.treatment)
    lower, _ = quiet(est.predict_interval, data.X, 0.8)
    assert lower.shape == (500, 3) and est.predict(data.X).shape == (500, 2)
    assert est.report(data.X, 0.5).index.tolist() == list(est.arms_)
    for method in ("nested", "nested_inexact", "bonferroni", "dr", "ipw"):
        with pytest.raises(ValueError, match="treated= is ambiguous"):
            est.predict_effect_interval(data.X, method=method)
        low, high = quiet(est.predict_effect_interval, data.X, 0.5, method=method, treated=est.arms_[2])
        assert (low <= high).all() and np.isfinite(low).any()
    for target in ("treated", "nobody"):
        with pytest.raises(ValueError, match="no population of 3 arms"):
            ConformalOutcomes(linear(), target=target).fit(data.X, data.y, treatment=data.treatment)
    third = ConformalOutcomes(linear(), target=est.arms_[2], random_state=0)
    third.fit(data.X, data.y, treatment=data.treatment)
    low, high = quiet(third.predict_effect_interval, data.X, 0.5, treated=est.arms_[1])
    assert (low <= high).all() and np.isfinite(low).any()


def test_sample_weights_count(data: Confounded) -> None:
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.5, 2, len(data.y))
    weight[:50] = 0

    def bounds(y: Any, w: Any) -> Any:
        est = ConformalOutcomes(linear(), random_state=0)
        est.fit(data.X, y, treatment=data.a, sample_weight=w)
        return quiet(est.predict_interval, data.X, 0.8)

    first = bounds(data.y, weight)
    np.testing.assert_allclose(bounds(data.y, 10 * weight), first)
    changed = data.y.copy()
    changed[:50] = 3 * changed[:50][::-1]
    np.testing.assert_allclose(bounds(changed, weight), first)
    assert not np.allclose(bounds(data.y, (weight > 0).astype(float)), first)


def test_bad_input_names_the_cure(data: Confounded) -> None:
    def fit(est: ConformalOutcomes, **options: Any) -> None:
        est.fit(data.X, data.y, **{"treatment": data.a, **options})

    with pytest.raises(TypeError, match="must be an estimator of effects"):
        fit(ConformalOutcomes(LogisticRegression()))
    for options, message in (
        ({"method": "full"}, "method must be one of"),
        ({"conformity": "aps"}, "conformity must be one of"),
        ({"calibration_size": 1.0}, "calibration_size"),
        ({"n_folds": 1}, "n_folds"),
        ({"weighted": 1}, "weighted"),
        ({"target": "some"}, "no population of 2 arms"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(ConformalOutcomes(linear(), **options))
    few = np.zeros(400, dtype=int)
    few[:3] = 1
    with pytest.raises(ValueError, match=r"arm 1 has 3 rows.*lower calibration_size"):
        fit(ConformalOutcomes(linear(), calibration_size=0.5), treatment=few)
    with pytest.raises(ValueError, match=r"arm 1 has 3 rows.*fewer than 5 folds"):
        fit(ConformalOutcomes(linear(), method="cross"), treatment=few)
    est = ConformalOutcomes(linear(), random_state=0).fit(data.X, data.y, treatment=data.a)
    with pytest.raises(ValueError, match="method must be one of"):
        est.predict_effect_interval(data.X, method="magic")
    with pytest.raises(ValueError, match="level"):
        est.predict_interval(data.X, 90)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        est.predict_interval(data.X, propensity=np.zeros(400))


def test_estimated_propensity_zero_is_refused_in_calibration_and_infinite_for_new_rows(data: Confounded) -> None:
    class Hard(Logistic):
        def predict(self, E: Any, propensity: Any = None) -> NuisanceValues:
            values = super().predict(E, propensity)
            e1 = np.where(E[:, 0] > self.cut, 1.0, values.propensity[:, 1])
            return NuisanceValues(values.per_arm, values.single, np.column_stack([1 - e1, e1]), values.contrast)

    Hard.cut = 0.0
    with pytest.raises(ValueError, match="received an arm to which their estimated propensity is 0"):
        ConformalOutcomes(linear(nuisance=Hard()), random_state=0).fit(data.X, data.y, treatment=data.a)
    Hard.cut = 5.0
    est = ConformalOutcomes(linear(nuisance=Hard()), random_state=0).fit(data.X, data.y, treatment=data.a)
    far = np.array([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    lower, upper = quiet(est.predict_interval, far, 0.5)
    assert np.isinf(lower[0, 0]) and np.isinf(upper[0, 0]) and np.isfinite([lower[0, 1], lower[1, 0]]).all()


# -------------------------------------------------------------------------------------- what stays the estimator's


def test_means_and_effects_are_the_estimators(data: Confounded, fitted: ConformalOutcomes) -> None:
    (inner,) = fitted.estimators_
    np.testing.assert_array_equal(fitted.predict(data.X), inner.predict(data.X))
    np.testing.assert_array_equal(fitted.predict_effect(data.X).members, inner.predict_effect(data.X).members)
    cross = ConformalOutcomes(linear(), method="cross", n_folds=3, random_state=0)
    cross.fit(data.X, data.y, treatment=data.a)
    effect = cross.predict_effect(data.X[:10])
    assert effect.members.shape == (12, 10)
    np.testing.assert_allclose(effect.mean, cross.predict(data.X[:10]), atol=1e-5)
    lower, upper = effect.prob_benefit()
    assert ((lower >= 0) & (lower <= upper) & (upper <= 1)).all()


def test_recalibrated_laws_score_better_than_wrong_ones() -> None:
    """The outcomes' spread has tails that a normal law does not know; treatment is random, so nothing else is wrong."""
    rng = np.random.default_rng(0)
    X, a = rng.normal(size=(3000, 2)), rng.integers(2, size=3000)
    y = X[:, 0] + a + np.exp(rng.normal(size=3000))
    est = ConformalOutcomes(linear(), conformity="pit", calibration_size=0.5, random_state=0)
    est.fit(X[:1500], y[:1500], treatment=a[:1500])
    plain = est.estimators_[0]
    outcomes = est.predict_outcomes(X[1500:])
    new, arms = y[1500:], a[1500:]
    assert est.score(X[1500:], new, treatment=arms) > plain.score(X[1500:], new, treatment=arms) + 0.01
    for q in (0.05, 0.25, 0.75, 0.95):
        below = new <= outcomes.quantile(q)[np.arange(1500), arms]
        assert below.mean() == pytest.approx(q, abs=4 * math.sqrt(q * (1 - q) / 750))
    assert outcomes.n_members == 4 and (outcomes.member_means().std(axis=0) > 0).all()


def test_recalibrated_laws_are_of_everybody_not_of_those_who_received_the_arm() -> None:
    train, new = Confounded(6000, 0), Confounded(6000, 1)

    def below(weighted: bool) -> np.ndarray:
        est = ConformalOutcomes(linear(), calibration_size=0.5, weighted=weighted, random_state=0)
        est.fit(train.X, train.y, treatment=train.a, propensity=train.e)
        quantiles = est.predict_outcomes(new.X).quantile([0.05, 0.5, 0.95])
        return (quantiles >= new.Y).mean(axis=1)

    wanted = np.array([[0.05], [0.5], [0.95]])
    error = 3 * np.sqrt(wanted * (1 - wanted) / 500)  # about 500 is the effective size of an arm's 1500 rows
    assert (np.abs(below(True) - wanted) < error).all()
    assert (np.abs(below(False) - wanted) > error).any()


AROUND = ["DiffPO", "TARNet", "CausalStack", "BART", "TLearner", "GComputation"]


@pytest.mark.parametrize("name", [name for name in AROUND if name in QUICK])
def test_around_the_packages_estimators(name: str) -> None:
    data = make_heteroscedastic(n_samples=160, random_state=0)
    inner = quick(name, nuisance=Logistic())
    assert isinstance(inner, EffectEstimator)
    est = ConformalOutcomes(inner, conformity="pit", random_state=0).fit(data.X, data.y, treatment=data.treatment)
    lower, upper = quiet(est.predict_interval, data.X[:30], 0.5)
    assert lower.shape == (30, 2) and (lower <= upper).all() and np.isfinite(lower).any()
    low, high = quiet(est.predict_effect_interval, data.X[:30], 0.5, method="bonferroni")
    assert (low <= high).all()
    assert est.predict_outcomes(data.X[:30]).mean().shape == (30, 2)


# --------------------------------------------------------------------------------------------- coverage, by simulation

EFFECTS = ("nested", "nested_inexact", "bonferroni", "dr", "ipw")


def simulate(
    estimator: EffectEstimator,
    n_sets: int = 200,
    n: int = 1000,
    known: bool = True,
    level: float = 0.9,
    effects: tuple[str, ...] = EFFECTS,
    table: Any = Confounded,
    **options: Any,
) -> Any:
    """A table of coverage and widths on `n_sets` strongly confounded tables, 200 new rows each.

    Rows: Y(0) and Y(1), their unweighted counterparts, and the individual effect by every method. Columns: mean
    coverage and its standard error over sets, share of infinite intervals, and mean of the sets' mean finite widths.
    """
    records: list[dict[str, Any]] = []

    def record(seed: int, name: str, truth: Any, bounds: Any) -> None:
        lower, upper = bounds
        width = upper - lower
        finite = np.isfinite(width)
        entry = {"coverage": ((lower <= truth) & (truth <= upper)).mean(), "infinite": (~finite).mean()}
        records.append(
            {"set": seed, "interval": name, **entry, "width": width[finite].mean() if finite.any() else np.nan}
        )

    for seed in range(n_sets):
        train, new = table(n, 2 * seed), table(200, 2 * seed + 1)
        est = ConformalOutcomes(clone(estimator), random_state=seed, **options)
        est.fit(train.X, train.y, treatment=train.a, propensity=train.e if known else None)
        e = new.e if known else None
        lower, upper = quiet(est.predict_interval, new.X, level, propensity=e)
        plain = [est.calibration_, est.calibration_.unweighted()]
        for k in (0, 1):
            record(seed, f"Y({k})", new.Y[:, k], (lower[:, k], upper[:, k]))
        est.calibration_, est.weighted = plain[1], False
        lower, upper = quiet(est.predict_interval, new.X, level)
        est.calibration_, est.weighted = plain[0], True
        for k in (0, 1):
            record(seed, f"Y({k}) unweighted", new.Y[:, k], (lower[:, k], upper[:, k]))
        for method in effects:
            bounds = quiet(est.predict_effect_interval, new.X, level, method=method, propensity=e)
            record(seed, f"effect, {method}", new.effect, bounds)
    table = pd.DataFrame(records)
    found = table.groupby("interval", sort=False)[["coverage", "infinite", "width"]].mean()
    found.insert(1, "se", table.groupby("interval", sort=False)["coverage"].sem())
    return found


def least(level: float, n_sets: int) -> float:
    """The lower 1% point of the share of `n_sets` independent intervals that cover with probability `level`."""
    return float(stats.binom.ppf(0.01, n_sets, level)) / n_sets


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False], ids=["known", "estimated"])
@pytest.mark.parametrize("conformity", SCORES)
def test_split_intervals_cover_under_strong_confounding(conformity: str, known: bool) -> None:
    found = simulate(linear(), known=known, conformity=conformity, calibration_size=0.5)
    print(f"\nlinear, {conformity}, known propensities: {known}\n{found.round(3).to_string()}")
    for name in ("Y(0)", "Y(1)", "effect, nested", "effect, bonferroni"):
        # the guarantee itself, within the error of the simulation; and the bound
        assert found.loc[name, "coverage"] >= (0.9 - 3 * found.loc[name, "se"] if known else least(0.9, 200)), name
        assert found.loc[name, "infinite"] < 0.6
    # No theorem stands behind these two here. Doubly robust pseudo-outcomes do fail (0.85): where one arm is rare, most
    # rows' scores hold the other arm's noise alone, so their 90% quantile is too small. They are recorded only.
    for method in ("ipw", "nested_inexact"):
        assert found.loc[f"effect, {method}", "coverage"] >= least(0.9, 200), method
    for k in (0, 1):  # the weights are what does it
        assert found.loc[f"Y({k}) unweighted", "coverage"] < least(0.9, 200)
        assert found.loc[f"Y({k}) unweighted", "width"] < found.loc[f"Y({k})", "width"]


class Trial(Confounded):
    """The same patients with a treatment by lot, and linear means with an even spread."""

    def __init__(self, n: int, seed: int) -> None:
        super().__init__(n, seed)
        rng = np.random.default_rng(seed)
        self.e, self.a = np.full((n, 2), 0.5), rng.integers(2, size=n)
        self.Y = self.X[:, [0]] * np.array([1.0, 2.0]) + rng.standard_normal((n, 2))
        self.y, self.effect = self.Y[np.arange(n), self.a], self.Y[:, 1] - self.Y[:, 0]


@pytest.mark.slow
def test_meta_learners_cover_in_a_trial() -> None:
    """Where a pseudo-outcome's noise is twice that of an outcome, its scores dominate those of the effects."""
    found = simulate(linear(), n_sets=100, effects=("dr", "ipw", "nested_inexact"), table=Trial)
    print(f"\nlinear, trial\n{found.round(3).to_string()}")
    for name in ("effect, dr", "effect, ipw"):
        assert found.loc[name, "coverage"] >= 0.9 - 3 * found.loc[name, "se"], name
    for k in (0, 1):  # without confounding the weights change nothing
        np.testing.assert_allclose(found.loc[f"Y({k})"], found.loc[f"Y({k}) unweighted"])
    # what its docstring warns of: outcomes that vary independently
    assert found.loc["effect, nested_inexact", "coverage"] < 0.9


@pytest.mark.slow
def test_cross_intervals_cover_under_strong_confounding() -> None:
    found = simulate(linear(), method="cross", conformity="pit")
    print(f"\nlinear, cross, pit, known propensities\n{found.round(3).to_string()}")
    for name in ("Y(0)", "Y(1)", "effect, nested", "effect, bonferroni"):
        assert found.loc[name, "coverage"] >= least(0.9, 200), name


@pytest.mark.slow
def test_intervals_around_diffpo_cover_under_strong_confounding() -> None:
    found = simulate(quick("DiffPO", nuisance=Logistic()), known=False, conformity="pit", calibration_size=0.5)
    print(f"\nDiffPO, split, pit, estimated propensities\n{found.round(3).to_string()}")
    for name in ("Y(0)", "Y(1)", *(f"effect, {method}" for method in EFFECTS if method != "dr")):
        assert found.loc[name, "coverage"] >= least(0.9, 200), name
    for k in (0, 1):
        assert found.loc[f"Y({k}) unweighted", "coverage"] < found.loc[f"Y({k})", "coverage"]
