"""G-computation against statsmodels itself, known laws and their densities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose
from scipy import integrate, stats
from sklearn.linear_model import LinearRegression, LogisticRegression
from statsmodels.treatment.treatment_effects import TreatmentEffect

import effects
from effects import GComputation, Nuisance
from effects.models.glm import _count_quantiles, _independent
from effects.models.treatment_effect import METHODS, treatment_effect

FAST = Nuisance(LinearRegression(), LogisticRegression(), n_folds=2)


def table(kind: str = "continuous", n: int = 500, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2)) * [1.0, 3.0] + [0.0, 5.0]
    a = (rng.random(n) < 1 / (1 + np.exp(-X[:, 0]))).astype(int)
    eta = 0.3 * X[:, 0] - 0.1 * (X[:, 1] - 5) + a * (0.5 + 0.3 * X[:, 0])
    made = {
        "continuous": lambda: eta + np.exp(0.5 * X[:, 0]) * rng.standard_normal(n),
        "binary": lambda: (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int),
        "count": lambda: rng.poisson(np.exp(eta)),
        "overdispersed": lambda: rng.negative_binomial(2, 2 / (2 + np.exp(eta))),
        "positive": lambda: rng.gamma(2.0, np.exp(eta) / 2),
    }
    return X, a, made[kind]()


def design(X: Any, a: Any) -> np.ndarray:
    return np.column_stack([np.ones(len(X)), X, a, X * np.reshape(a, (-1, 1))])


def make(**options: Any) -> GComputation:
    return GComputation(**{"nuisance": FAST, "random_state": 0, **options})


# ---- against statsmodels ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "family"),
    [("continuous", "gaussian"), ("binary", "binomial"), ("count", "poisson"), ("positive", "gamma")],
)
def test_means_and_standard_errors_are_those_of_statsmodels(kind: str, family: str) -> None:
    """Of the CATE, by the delta method on White's covariance."""
    X, a, y = table(kind)
    outcome = "continuous" if kind == "positive" else kind
    est = make(family=family if kind == "positive" else "auto", n_members=2000, outcome=outcome)
    est.fit(X, y, treatment=a)
    assert est.family_ == family
    families = {
        "gaussian": sm.families.Gaussian(),
        "binomial": sm.families.Binomial(),
        "poisson": sm.families.Poisson(),
        "gamma": sm.families.Gamma(sm.families.links.Log()),
    }
    result = sm.GLM(y, design(X, a), family=families[family]).fit(cov_type="HC0")
    new, link = X[:30], families[family].link
    D1, D0 = design(new, np.ones(30)), design(new, np.zeros(30))
    mu1, mu0 = result.predict(D1), result.predict(D0)
    point = make(family=est.family_, n_members=1, outcome=outcome).fit(X, y, treatment=a)
    assert_allclose(point.predict(new), mu1 - mu0, rtol=1e-4, atol=1e-4)
    slope = [link.inverse_deriv(D @ result.params)[:, None] * D for D in (D1, D0)]
    gradient = slope[0] - slope[1]
    exact = np.sqrt(np.einsum("ij,jk,ik->i", gradient, result.cov_params(), gradient) * len(X) / (len(X) - 6))
    assert_allclose(est.predict_effect(new).std, exact, rtol=0.12)


def test_bootstrap_and_sandwich_agree() -> None:
    X, a, y = table()
    std = [
        make(errors=e, n_members=200).fit(X, y, treatment=a).predict_effect(X[:30]).std
        for e in ("sandwich", "bootstrap")
    ]
    assert 0.9 < np.median(std[0] / std[1]) < 1.15


def test_weights_are_repeated_rows_for_the_estimate() -> None:
    X, a, y = table("count", 200)
    times = np.random.default_rng(0).integers(1, 4, 200)
    rows = np.repeat(np.arange(200), times)
    options: dict[str, Any] = {"n_members": 1, "family": "poisson", "outcome": "count"}
    weighted = make(**options).fit(X, y, treatment=a, sample_weight=times).predict(X)
    assert_allclose(weighted, make(**options).fit(X[rows], y[rows], treatment=a[rows]).predict(X), atol=1e-4)
    assert np.abs(weighted - make(**options).fit(X, y, treatment=a).predict(X)).max() > 1e-2


def test_the_sandwich_covers_and_the_seed_does_not_move_a_linear_effect() -> None:
    """90% intervals of the CATE under heteroscedastic errors, over 30 samples."""
    new, inside = np.array([[0.5, 5.0], [-1.0, 2.0]]), []
    for seed in range(30):
        X, a, y = table(n=300, seed=seed)
        lower, upper = make().fit(X, y, treatment=a).predict_effect(new).interval(0.9)
        truth = 0.5 + 0.3 * new[:, 0]
        inside.append((lower <= truth) & (truth <= upper))
    assert 0.78 < np.mean(inside) < 0.99
    one, other = (make(random_state=s).fit(X, y, treatment=a).predict(new) for s in (1, 2))
    assert_allclose(one, other, atol=1e-9)


def test_without_interactions_effects_are_equal() -> None:
    X, a, y = table()
    est = make(interactions=False).fit(X, y, treatment=a)
    coefficient = sm.OLS(y, design(X, a)[:, :4]).fit().params[3]
    assert_allclose(est.predict(X), coefficient, atol=1e-4)


def test_counts_choose_their_family() -> None:
    X, a, y = table("overdispersed", 1500)
    est = make().fit(X, y, treatment=a)
    assert est.family_ == "negative_binomial" and est.dispersion_ == pytest.approx(0.5, abs=0.2)
    X, a, y = table("count", 1500)
    assert make().fit(X, y, treatment=a).family_ == "poisson"


@pytest.mark.parametrize("method", METHODS)
def test_average_effects_are_those_of_statsmodels(method: str) -> None:
    """With six columns, for which its weighted regressions' errors are right, too (it takes the last six)."""
    rng = np.random.default_rng(0)
    D = sm.add_constant(rng.standard_normal((400, 5)))
    a = (rng.random(400) < 1 / (1 + np.exp(-D[:, 1]))).astype(int)
    y = D[:, 1] + a * (1 + D[:, 2]) + rng.standard_normal(400)
    result = getattr(TreatmentEffect(sm.OLS(y, D), a, results_select=sm.Logit(a, D).fit(disp=0)), method)()
    assert_allclose(treatment_effect(D, y, a, method), (result.effect[0], result.sd[0]), rtol=1e-5)
    est = make(n_members=2).fit(D[:, 1:], y, treatment=np.where(a == 1, "drug", "placebo"))
    estimate = est.estimate_ate(D[:, 1:], y, treatment=np.where(a == 1, "drug", "placebo"), method=method)
    assert_allclose((estimate.value, estimate.se), (result.effect[0], result.sd[0]), rtol=1e-3)
    assert estimate.name == "ATE [drug vs placebo]" and estimate.n == 400


def test_average_effects_cover_for_any_number_of_columns() -> None:
    inside = []
    for seed in range(40):
        X, a, y = table(seed=seed, n=300)
        D = sm.add_constant(X)
        for method in ("aipw_wls", "ipw_ra"):
            value, se = treatment_effect(D, y, a, method)
            inside.append(abs(value - (0.5 + 0.3 * X[:, 0].mean())) < 1.96 * se)
    assert 0.85 < np.mean(inside) <= 1.0


# ---- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "family"), [("continuous", "gaussian"), ("positive", "gamma")])
def test_densities_integrate_to_one_and_are_the_draws(kind: str, family: str) -> None:
    X, a, y = table(kind)
    est = make(family=family, outcome="continuous", n_draws=200).fit(X, y, treatment=a)
    row, outcomes = X[:1], est.predict_outcomes(X[:1])
    grid = np.linspace(1e-6 if family == "gamma" else -15, 15, 4001)
    for arm in (0, 1):
        rows = np.repeat(row, len(grid), axis=0)
        density = np.exp(est.log_prob(rows, grid, treatment=np.full(len(grid), arm)))
        assert integrate.trapezoid(density, grid) == pytest.approx(1.0, abs=2e-3)
        median = grid[np.searchsorted(integrate.cumulative_trapezoid(density, grid), 0.5)]
        assert outcomes.quantile(0.5)[0, arm] == pytest.approx(median, abs=0.03)


@pytest.mark.parametrize("kind", ["count", "overdispersed", "binary"])
def test_masses_sum_to_one_and_are_the_draws(kind: str) -> None:
    X, a, y = table(kind)
    est = make(n_draws=100, outcome="binary" if kind == "binary" else "count").fit(X, y, treatment=a)
    values = np.arange(2 if kind == "binary" else 400)
    row, outcomes = np.repeat(X[:1], len(values), axis=0), est.predict_outcomes(X[:1])
    mass = np.exp(est.log_prob(row, values, treatment=np.ones(len(values), int)))
    assert mass.sum() == pytest.approx(1.0, abs=1e-6)
    assert outcomes.mean()[0, 1] == pytest.approx(mass @ values, rel=1e-4)
    for value in values[:4]:
        assert outcomes.cdf(float(value))[0, 1] == pytest.approx(mass[: value + 1].sum(), abs=0.02)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_quantiles_of_counts_are_scipys(alpha: float) -> None:
    mu = np.array([0.01, 0.5, 3.2, 47.0, 1200.0]).reshape(1, -1, 1)
    u = np.array([0.01, 0.3, 0.5, 0.95, 0.999])
    law = stats.poisson(mu) if alpha == 0 else stats.nbinom(1 / alpha, 1 / (1 + alpha * mu))
    exact = np.stack([law.ppf(level) for level in u], axis=1)
    assert_allclose(np.floor(_count_quantiles(mu, u, alpha)), exact)


def test_the_residual_law_follows_the_spread() -> None:
    """Errors whose sd is exp(x / 2): the gaussian's one variance is wrong everywhere, the learned one is not."""
    X, a, y = table(n=2000)
    new, a_new, y_new = table(n=2000, seed=1)
    covered = {}
    for distribution in ("family", "residual"):
        outcomes = make(distribution=distribution).fit(X, y, treatment=a).predict_outcomes(new)
        lower, upper = (bound[np.arange(2000), a_new] for bound in outcomes.interval(0.9))
        inside = (y_new >= lower) & (y_new <= upper)
        covered[distribution] = [inside[rows].mean() for rows in np.array_split(np.argsort(new[:, 0]), 4)]
    assert max(np.abs(np.subtract(covered["residual"], 0.9))) < 0.05
    assert max(np.abs(np.subtract(covered["family"], 0.9))) > 0.08


# ---- what cannot be estimated ----------------------------------------------------------------------------------------


def test_redundant_columns_are_left_out_and_named() -> None:
    X, a, y = table()
    frame = pd.DataFrame(X, columns=["x", "z"]).assign(twice=2 * X[:, 0] + 1, one=1.0)
    frame["clinic"] = pd.Categorical(np.random.default_rng(0).choice(["A", "B", "C"], len(X)))
    est = make().fit(frame, y, treatment=a)
    assert {"twice", "arm=1:twice"} <= set(est.dropped_) and not {"x", "z"} & set(est.dropped_)
    assert len(est.column_names_) == len(est.params_) == 10  # 1, x, z, two clinics; again in the arm
    plain = make().fit(frame.drop(columns=["twice", "one"]), y, treatment=a)
    assert_allclose(est.predict(frame), plain.predict(frame.drop(columns=["twice", "one"])), atol=1e-5)


def test_independent_columns_are_found() -> None:
    rng = np.random.default_rng(0)
    D = rng.standard_normal((20, 4))
    D = np.column_stack([D[:, :2], D[:, 0] - 3 * D[:, 1], D[:, 2:], np.zeros(20), 1e5 * D[:, 3]])
    assert _independent(D).tolist() == [True, True, False, True, True, False, False]


def test_separation_is_said_and_cured() -> None:
    X, a, _ = table()
    y = ((X[:, 0] > 0) & (a == 1)).astype(int)
    with pytest.warns(UserWarning, match="separate the outcomes"):
        est = make().fit(X, y, treatment=a)
    assert est.prior_rows_ == len(est.params_)
    assert np.abs(est.params_).max() < 20 and np.isfinite(est.predict(X)).all()
    quiet = make().fit(*table("binary")[::2], treatment=table("binary")[1])
    assert quiet.prior_rows_ == 0.0


def test_tiny_arms_are_said() -> None:
    X, a, y = table()
    rows = np.r_[np.flatnonzero(a == 0), np.flatnonzero(a == 1)[:2]]
    with pytest.warns(UserWarning, match="too few or too alike"):
        make().fit(X[rows], y[rows], treatment=a[rows])


def test_what_makes_no_sense_is_refused() -> None:
    X, a, y = table(n=60)
    with pytest.raises(ValueError, match="family='poisson' is for count outcomes, y is continuous"):
        make(family="poisson").fit(X, y, treatment=a)
    with pytest.raises(ValueError, match="errors must be one of"):
        make(errors="jackknife").fit(X, y, treatment=a)
    with pytest.raises(ValueError, match="family='gamma' needs positive outcomes"):
        make(family="gamma").fit(X, y, treatment=a)
    with pytest.raises(ValueError, match="coefficients for 60 rows: use interactions=False"):
        make().fit(np.random.default_rng(0).standard_normal((60, 40)), y, treatment=a)
    est = make(distribution="residual").fit(X, y, treatment=a)
    with pytest.raises(ValueError, match="distribution='family'"):
        est.log_prob(X, y, treatment=a)
    with pytest.raises(ValueError, match="method must be one of"):
        est.estimate_ate(X, y, treatment=a, method="tmle")
    with pytest.raises(ValueError, match="the covariates separate the arms"):
        est.estimate_ate(np.column_stack([a, X[:, 1]]), y, treatment=a)
    three = make().fit(X, y, treatment=np.arange(60) % 3)
    with pytest.raises(ValueError, match=r"use effects.estimate_ate"):
        three.estimate_ate(X, y, treatment=np.arange(60) % 3)


@pytest.mark.parametrize("kind", ["positive", "continuous", "overdispersed"])
def test_sandwich_models_are_saved(kind: str, tmp_path: Path) -> None:
    X, a, y = table(kind, 200)
    options = {"positive": {"family": "gamma"}, "continuous": {"distribution": "residual"}, "overdispersed": {}}[kind]
    est = make(nuisance=Nuisance(n_folds=2), outcome="count" if kind == "overdispersed" else "continuous", **options)
    loaded = effects.load(est.fit(X, y, treatment=a).save(tmp_path / "model"))
    assert_allclose(loaded.predict_outcomes(X).draws, est.predict_outcomes(X).draws)
    assert set(vars(loaded)) == set(vars(est))
