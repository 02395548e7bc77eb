"""The marginal sensitivity model: closed forms, linear programs, invariances, and coverage of a confounder's truth."""

# the stubs of pandas call a cell of a table a str, a date or a number: arithmetic with it is none of their types
# mypy: disable-error-code="operator, index, arg-type, attr-defined, comparison-overlap"

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import expit

from effects.inference import estimate_atc, estimate_ate, estimate_att
from effects.nuisance import CrossFitted
from effects.outcomes import PotentialOutcomes
from effects.schema import Schema
from effects.sensitivity import cate_bounds, marginal_sensitivity
from effects.sensitivity.marginal import _Tails

Array = NDArray[np.float64]
NODES = stats.norm.ppf((np.arange(200) + 0.5) / 200)


@dataclass
class Given:
    """A fitted estimator as far as sensitivity sees it, with predictions that a test chose."""

    schema_: Schema
    values: CrossFitted

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def cross_fitted(self, *_: Any, **__: Any) -> CrossFitted:
        return self.values

    def predict_outcomes(self, _: Any) -> PotentialOutcomes:
        assert self.values.outcomes is not None
        return self.values.outcomes


@dataclass
class Study:
    """A study with known laws; outcomes normal with standard deviation `spread`, unless they are 0/1."""

    X: Array
    y: Array
    arm: NDArray[np.int64]
    mu: Array
    e: Array
    spread: float = 1.0
    kind: str = "continuous"
    told: float = 1.0  # what the laws say of the spread, in spreads

    def est(self) -> Given:
        arms = tuple(range(self.mu.shape[1]))
        nodes = np.zeros(1) if self.kind == "binary" else self.told * self.spread * NODES
        draws = self.mu[None, None] + nodes[None, :, None, None]
        outcomes = PotentialOutcomes(draws, arms, self.kind, means=self.mu[None])
        schema = Schema.learn(self.X, self.y, self.arm, outcome=self.kind)
        return Given(schema, CrossFitted(self.mu, self.e, outcomes))

    def ask(self, function: Any = marginal_sensitivity, **options: Any) -> Any:
        return function(self.est(), self.X, self.y, treatment=self.arm, **options)


def study(n: int = 800, n_arms: int = 2, seed: int = 0, effect: float = 0.5, kind: str = "continuous") -> Study:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    score = np.outer(0.7 * X[:, 0], np.arange(n_arms))
    e = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    arm = (rng.random(n)[:, None] > e.cumsum(axis=1)).sum(axis=1)
    mu = X.sum(axis=1)[:, None] + effect * np.arange(n_arms)
    if kind == "binary":
        mu = expit(mu - 1)
        return Study(X, (rng.random(n) < mu[np.arange(n), arm]).astype(float), arm, mu, e, kind=kind)
    return Study(X, mu[np.arange(n), arm] + rng.normal(size=n), arm, mu, e)


def shift(gamma: float) -> float:
    """By how much the worst tilt moves a standard normal's mean."""
    return float(stats.norm.pdf(stats.norm.ppf(gamma / (1 + gamma))) * (gamma - 1 / gamma))


# ------------------------------------------------------------------------------------------------- the tilted laws


def test_tilted_means_solve_the_linear_program() -> None:
    rng = np.random.default_rng(0)
    values = np.sort(rng.normal(size=(13, 4)), axis=0)
    tails = _Tails(values.mean(axis=0), values)
    for gamma in (1.0, 1.3, 2.0, 7.0):
        for sign in (-1, 1):
            _, rho = tails.extreme(gamma, sign)
            for unit in range(4):
                best = optimize.linprog(
                    -sign * values[:, unit] / 13,
                    A_eq=np.full((1, 13), 1 / 13),
                    b_eq=[1.0],
                    bounds=[(1 / gamma, gamma)] * 13,
                )
                assert rho[unit] == pytest.approx(-sign * best.fun)


def test_tilted_normals_and_events_have_closed_forms() -> None:
    normal = _Tails(np.array([3.0]), 3.0 + 2.0 * stats.norm.ppf((np.arange(20000) + 0.5) / 20000)[:, None])
    p = np.array([0.02, 0.3, 0.5, 0.9])
    event = _Tails(p, None)
    sample = _Tails(p, (np.arange(100)[:, None] >= 100 - 100 * p).astype(float))
    for gamma in (1.2, 2.0, 5.0):
        for sign in (-1, 1):
            q, rho = normal.extreme(gamma, sign)
            assert rho[0] == pytest.approx(3 + sign * 2 * shift(gamma), abs=2e-3)
            assert q[0] == pytest.approx(3 + sign * 2 * stats.norm.ppf(gamma / (1 + gamma)), abs=2e-3)
            np.testing.assert_allclose(event.extreme(gamma, sign)[1], sample.extreme(gamma, sign)[1], rtol=1e-9)
    upper = event.extreme(2.0, 1)[1]
    np.testing.assert_allclose(upper, [0.04, 0.6, 0.75, 0.95])


# ----------------------------------------------------------------------------------------------------- the estimate


@pytest.mark.parametrize("kind", ["continuous", "binary"])
@pytest.mark.parametrize(("estimand", "ask"), [("ATE", estimate_ate), ("ATT", estimate_att), ("ATC", estimate_atc)])
def test_without_confounding_it_is_aipw(estimand: str, ask: Any, kind: str) -> None:
    one = study(kind=kind)
    weight = np.random.default_rng(1).uniform(0.5, 2, size=len(one.y))
    options: dict[str, Any] = {"sample_weight": weight, "level": 0.9}
    found, plain = one.ask(estimand=estimand, gammas=[2], **options), one.ask(ask, **options)
    first = found.table.iloc[0]
    assert (first["gamma"], first["lower"], first["upper"]) == (1.0, pytest.approx(plain.value), first["lower"])
    assert tuple(first[["ci_lower", "ci_upper"]]) == pytest.approx(plain.interval())
    assert (found.estimate.se, found.estimate.df) == (pytest.approx(plain.se), pytest.approx(plain.df))
    assert (found.estimate.n, found.estimate.unit, found.level) == (plain.n, plain.unit, 0.9)


@pytest.mark.parametrize("estimand", ["ATE", "ATT", "ATC"])
def test_normal_bounds_are_the_closed_form(estimand: str) -> None:
    """With outcomes N(m, 1), an arm's unseen mean moves by `shift`: in the share that did not get it."""
    one = study(6000)
    found = one.ask(estimand=estimand, gammas=[1, 1.5, 3]).table
    e, width = one.e[:, 1], []
    for gamma in found["gamma"]:
        of_treated, of_control = shift(gamma) * np.mean(1 - e), shift(gamma) * np.mean(e)
        width.append({"ATE": of_treated + of_control, "ATT": shift(gamma), "ATC": shift(gamma)}[estimand])
    error = 4 * (found["ci_upper"] - found["upper"]) / 1.96
    assert (abs(found["upper"] - 0.5 - width) < error).all() and (abs(found["lower"] - 0.5 + width) < error).all()


def test_bounds_of_events_are_the_closed_form() -> None:
    one = study(6000, kind="binary")
    found = one.ask(gammas=[2]).table.iloc[1]
    e, p = one.e[:, 1], one.mu

    def rho(risk: Array, sign: int) -> Array:
        high = np.minimum(2 * risk, 1 - (1 - risk) / 2)
        low = np.maximum(risk / 2, 1 - 2 * (1 - risk))
        return high if sign > 0 else low

    truth = [
        np.mean(e * p[:, 1] + (1 - e) * rho(p[:, 1], s) - (1 - e) * p[:, 0] - e * rho(p[:, 0], -s)) for s in (-1, 1)
    ]
    error = 4 * (found["ci_upper"] - found["upper"]) / 1.96
    assert abs(found["lower"] - truth[0]) < error and abs(found["upper"] - truth[1]) < error


@pytest.mark.parametrize("estimand", ["ATE", "ATT", "ATC"])
def test_bounds_widen_and_follow_the_outcomes_unit(estimand: str) -> None:
    one = study()
    found = one.ask(estimand=estimand).table
    assert (np.diff(found[["upper", "ci_upper"]], axis=0) > 0).all()
    assert (np.diff(found[["lower", "ci_lower"]], axis=0) < 0).all()
    assert (found["ci_lower"] < found["lower"]).all() and (found["upper"] < found["ci_upper"]).all()
    numbers = ["lower", "upper", "ci_lower", "ci_upper"]
    scaled = replace(one, y=10 - 3 * one.y, mu=10 - 3 * one.mu, spread=3.0).ask(estimand=estimand).table
    np.testing.assert_allclose(scaled[numbers], -3 * found[["upper", "lower", "ci_upper", "ci_lower"]], atol=1e-5)
    other = {"ATE": "ATE", "ATT": "ATC", "ATC": "ATT"}[estimand]
    swapped = one.ask(treated=0, control=1, estimand=other).table
    np.testing.assert_allclose(swapped[numbers], -found[["upper", "lower", "ci_upper", "ci_lower"]], atol=1e-9)


def test_integer_weights_are_repeated_rows() -> None:
    one, times = study(), np.random.default_rng(1).integers(0, 3, size=800)
    rows = np.repeat(np.arange(800), times)
    many = Study(one.X[rows], one.y[rows], one.arm[rows], one.mu[rows], one.e[rows])
    weighted, repeated = one.ask(sample_weight=times).table, many.ask().table
    np.testing.assert_allclose(weighted[["lower", "upper"]], repeated[["lower", "upper"]], atol=1e-9)


@pytest.mark.parametrize("told", [0.3, 2.0])
def test_wrong_quantiles_widen_the_bounds(told: float) -> None:
    """Doubly valid: with right propensities and quantiles that are far off, bounds are wide, not wrong."""
    one = study(6000)
    right, wrong = one.ask(gammas=[3]).table.iloc[1], replace(one, told=told).ask(gammas=[3]).table.iloc[1]
    slack = 2 * (right["ci_upper"] - right["upper"]) / 1.96
    assert wrong["upper"] > right["upper"] - slack and wrong["lower"] < right["lower"] + slack
    assert wrong["upper"] - wrong["lower"] > right["upper"] - right["lower"]


@pytest.mark.filterwarnings("ignore:Weak overlap")
def test_arms_beyond_two() -> None:
    one = study(4000, n_arms=3)
    found = one.ask(treated=2, gammas=[1.5]).table
    e = one.e
    width = shift(1.5) * (np.mean(1 - e[:, 2]) + np.mean(1 - e[:, 0]))
    error = 4 * (found["ci_upper"] - found["upper"])[1] / 1.96
    assert abs(found["upper"][1] - found["upper"][0] - width) < error
    with pytest.raises(ValueError, match="ambiguous with 3 arms"):
        one.ask()


def test_without_laws_residuals_stand_in() -> None:
    one = study(4000)
    est = one.est()
    blind = replace(est, values=replace(est.values, outcomes=None))
    found = marginal_sensitivity(blind, one.X, one.y, treatment=one.arm, gammas=[2])
    assert "residuals of each arm stand in" in found.text
    np.testing.assert_allclose(found.table, one.ask(gammas=[2]).table, atol=0.02)  # normal of one spread, as they are


# ----------------------------------------------------------------------------------------------------- tipping points


def test_tipping_points_are_where_the_interval_arrives() -> None:
    one = study()
    found = one.ask()
    assert 1 < found.tipping < found.tipping_bounds < 5
    assert one.ask(gammas=[found.tipping]).table["ci_lower"].iloc[1] == pytest.approx(0, abs=1e-3)
    assert one.ask(gammas=[found.tipping_bounds]).table["lower"].iloc[1] == pytest.approx(0, abs=1e-3)
    assert f"by {found.tipping:.2f}" in str(found) and f"factor of {found.tipping_bounds:.2f}" in found.text
    mirrored = replace(one, y=-one.y, mu=-one.mu).ask()
    assert mirrored.tipping == pytest.approx(found.tipping, abs=1e-3)
    far = one.ask(gammas=[1.05])
    assert (far.tipping, far.tipping_bounds) == (None, None)
    assert "multiply or divide the odds of treatment by 1.05" in far.text
    null = one.ask(null=found.estimate.value)
    assert (null.tipping, null.tipping_bounds) == (1.0, 1.0) and "without any hidden confounding" in null.text
    between = one.ask(gammas=[(found.tipping + found.tipping_bounds) / 2])
    assert between.tipping_bounds is None and "keeps its side of 0" in between.text
    pd.testing.assert_frame_equal(found.to_frame(), found.table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimand": "ATO"}, "estimand must be one of"),
        ({"gammas": [0.5]}, "1 or more"),
        ({"gammas": [np.inf]}, "finite"),
        ({"gammas": []}, "1 or more"),
        ({"level": 0.0}, "level must lie"),
    ],
)
def test_marginal_sensitivity_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(50).ask(**options)


# --------------------------------------------------------------------------------------------------- of single units


def test_bounds_of_units() -> None:
    one = study(50)
    frame = pd.DataFrame(one.X, index=[f"p{k}" for k in range(50)])
    est, e = one.est(), one.e[:, 1]
    found = cate_bounds(est, frame, gamma=2.0, propensity=e)
    assert list(found.index) == list(frame.index)
    # either arm's unseen part moves by the shift: e of it for control, 1 - e for the treated, whatever e is
    np.testing.assert_allclose(found["cate"], 0.5, atol=1e-5)
    np.testing.assert_allclose(found["upper"] - found["cate"], shift(2.0), atol=0.01)
    np.testing.assert_allclose(found["cate"] - found["lower"], shift(2.0), atol=0.01)
    none = cate_bounds(est, frame, gamma=1, propensity=e)
    np.testing.assert_allclose(none[["lower", "upper"]], none[["cate", "cate"]], atol=1e-12)
    flipped = cate_bounds(est, frame, gamma=2.0, propensity=e, treated=0, control=1)
    np.testing.assert_allclose(flipped[["lower", "upper"]], -found[["upper", "lower"]])
    laws = est.predict_outcomes(frame)
    pd.testing.assert_frame_equal(cate_bounds(est, frame, gamma=2.0, propensity=e, outcomes=laws), found)


def test_bounds_of_units_by_a_fitted_estimator() -> None:
    from conftest import quick

    one = study(120, kind="binary")
    est = quick("GComputation").fit(one.X, one.y, treatment=one.arm)
    found = cate_bounds(est, one.X[:20], gamma=1.5)
    np.testing.assert_allclose(found["cate"], est.predict(one.X[:20]), atol=1e-5)
    e = est.nuisance_.predict(est.schema_.encode(one.X[:20])).propensity
    pd.testing.assert_frame_equal(found, cate_bounds(est, one.X[:20], gamma=1.5, propensity=e))
    assert (found["lower"] < found["cate"]).all() and found.abs().to_numpy().max() <= 1
    average = marginal_sensitivity(est, one.X, one.y, treatment=one.arm, gammas=[1.5])
    assert average.table.loc[1, "lower"] < average.table.loc[0, "lower"]


def test_bounds_of_units_refuse() -> None:
    one = study(20)
    with pytest.raises(ValueError, match="1 or more"):
        cate_bounds(one.est(), one.X, gamma=0.9)
    with pytest.raises(ValueError, match="give propensity="):
        cate_bounds(one.est(), one.X, gamma=1.5)
    with pytest.raises(ValueError, match="outcomes are of 20 units"):
        cate_bounds(one.est(), one.X[:10], gamma=1.5, propensity=one.e[:10, 1])


# ------------------------------------------------------------------------------------------------------------ pictures


def test_pictures_of_tipping_points() -> None:
    from matplotlib import pyplot

    from effects.plots import plot_tipping

    found = study().ask()
    ax = plot_tipping(found, outcome_name="score")
    title = ax.get_title(loc="left").replace("\n", " ")
    assert title == f"The 95% interval reaches 0 if hidden confounding changes the odds {found.tipping:.2f}-fold"
    assert ax.get_ylabel() == "ATE on score"
    marks = {
        line.get_marker(): list(np.asarray(line.get_xydata())[0])
        for line in ax.lines
        if line.get_marker() in ("o", "s")
    }
    assert marks == {"o": [found.tipping, 0.0], "s": [found.tipping_bounds, 0.0]}
    canvas = pyplot.subplots()[1]
    assert plot_tipping(study().ask(gammas=[1.05]), ax=canvas) is canvas
    assert "No factor up to 1.05" in canvas.get_title(loc="left").replace("\n", " ")
    assert "without any" in plot_tipping(study(effect=0.0).ask()).get_title(loc="left").replace("\n", " ")
    with pytest.raises(TypeError, match="got int"):
        plot_tipping(3)
    pyplot.close("all")


# ------------------------------------------------------------------------------------------------------------ coverage

REPLICATIONS = 300


def confounded(n: int, gamma: float, rng: np.random.Generator) -> tuple[Study, float]:
    """A confounder that the model allows, at its worst for the ATE, with least-squares and logistic nuisances.

    Given x, the arm that a unit did not get has its outcome from the tilted law: density ratio gamma above the quantile
    gamma / (1 + gamma) of the observed law for the treated arm, below the opposite one for control. Bayes turns that
    into odds of treatment, given x and that outcome, which differ from those given x by gamma or 1 / gamma.
    """
    from sklearn.linear_model import LogisticRegression

    X = rng.normal(size=(n, 2))
    e = expit(0.6 * X[:, 0])
    arm = (rng.random(n) < e).astype(np.int64)
    mu = X.sum(axis=1)[:, None] + np.array([0.0, 0.5])
    tau = gamma / (1 + gamma)
    high = rng.random(n) < (1 - tau) * gamma  # the tilt's weight above the quantile
    u = rng.random(n)
    tilted = stats.norm.ppf(np.where(high, tau + (1 - tau) * u, tau * u))
    seen = rng.normal(size=n)
    y1 = mu[:, 1] + np.where(arm == 1, seen, tilted)
    y0 = mu[:, 0] + np.where(arm == 0, seen, -tilted)
    y = np.where(arm == 1, y1, y0)
    truth = 0.5 + shift(gamma)  # E[(1 - e) shift + e shift]
    design = np.column_stack([np.ones(n), X])
    means, p = np.zeros((n, 2)), np.zeros((n, 2))
    for fold in (0, 1):
        held = np.arange(n) % 2 == fold
        p[held] = LogisticRegression(C=1e4).fit(X[~held], arm[~held]).predict_proba(X[held])
        for k in (0, 1):
            rows = ~held & (arm == k)
            means[held, k] = design[held] @ np.linalg.lstsq(design[rows], y[rows], rcond=None)[0]
    assert abs(np.mean(y1 - y0) - truth) < 6 * np.std(y1 - y0) / np.sqrt(n)
    return Study(X, y, arm, means, p), truth


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [1.5, 3.0])
def test_intervals_hold_the_truth_of_the_worst_confounder(gamma: float) -> None:
    naive, held, above = [], [], []
    for replication in range(REPLICATIONS):
        one, truth = confounded(1000, gamma, np.random.default_rng([7, replication]))
        table = one.ask(gammas=[gamma]).table
        first, last = table.iloc[0], table.iloc[1]
        naive.append(first["ci_lower"] <= truth <= first["ci_upper"])
        held.append(last["ci_lower"] <= truth <= last["ci_upper"])
        above.append(last["upper"] > truth)
    assert np.mean(naive) < 0.5  # what ignores the confounder misses it
    # one end of a two-sided interval is at stake: 97.5%, and the bound itself lies on either side
    assert stats.binomtest(sum(held), REPLICATIONS, 0.975).pvalue > 1e-3, np.mean(held)
    assert stats.binomtest(sum(above), REPLICATIONS, 0.5).pvalue > 1e-3, np.mean(above)
