"""Policies and their values: against closed forms, second implementations and simulated truths."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LinearRegression, LogisticRegression

from effects import metrics
from effects.heterogeneity import split_in_halves
from effects.inference import aipw_scores, estimate_ate
from effects.nuisance import CrossFitted, Nuisance
from effects.outcomes import PotentialOutcomes
from effects.plots import plot_decision_curve, plot_policy_value, plot_subgroup_tree
from effects.policy import Policy, decision_curve, policy_tree, policy_value, treat_if
from effects.schema import Schema

Array = NDArray[np.float64]
ARMS = ("placebo", "drug")


def linear_nuisance() -> Nuisance:
    return Nuisance(LinearRegression(), LogisticRegression(C=10.0), n_folds=2, random_state=0)


@dataclass
class Given:
    """A fitted estimator as far as policies see it; new rows are predicted as the held-out ones are."""

    schema_: Schema
    values: CrossFitted
    nuisance: Nuisance = field(default_factory=linear_nuisance)

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def cross_fitted(self, *_: Any, **__: Any) -> CrossFitted:
        return self.values

    def predict_outcomes(self, X: Any) -> PotentialOutcomes:
        assert self.values.outcomes is not None
        return self.values.outcomes


@dataclass
class Study:
    """A simulated table whose effect is x0 - 0.3; by held-out models that see it with some noise."""

    X: Array
    y: Array
    arm: NDArray[Any]
    mu: Array
    e: Array
    seen: Array

    @property
    def est(self) -> Given:
        return Given(Schema.learn(self.X, self.y, self.arm), CrossFitted(self.seen, self.e))

    @property
    def rows(self) -> dict[str, Any]:
        return {"X": self.X, "y": self.y, "treatment": self.arm}

    def take(self, rows: Any) -> Study:
        return Study(*(getattr(self, name)[rows] for name in ("X", "y", "arm", "mu", "e", "seen")))

    @property
    def code(self) -> NDArray[np.int64]:
        return (self.arm == "drug").astype(np.int64)


def simulate(n: int = 500, seed: int = 0, noise: float = 0.5) -> Study:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    e = 1 / (1 + np.exp(-0.6 * X[:, 1]))
    a = (rng.random(n) < e).astype(int)
    mu = np.column_stack([X[:, 1], X[:, 1] + X[:, 0] - 0.3])
    y = mu[np.arange(n), a] + rng.normal(size=n)
    # an error that is a function of x, as a model's is
    seen = mu + noise * np.column_stack([np.zeros(n), np.sin(3 * X[:, 2])])
    return Study(X, y, np.array(ARMS)[a], mu, np.column_stack([1 - e, e]), seen)


@pytest.fixture(scope="module")
def study() -> Study:
    return simulate()


# ---------------------------------------------------------------------------------------------------------------- rules


def laws(mean: Any, sd: Any, arms: tuple[Hashable, ...] = ARMS) -> Given:
    """An estimator that predicts normal laws, (n_units, n_arms) means and standard deviations."""
    mean, sd = np.broadcast_arrays(np.asarray(mean, dtype=float), np.asarray(sd, dtype=float))
    nodes = stats.norm.ppf((np.arange(400) + 0.5) / 400)
    outcomes = PotentialOutcomes((mean + sd * nodes[:, None, None])[None], arms)
    n = 2 * len(arms) + len(mean)
    treatment = np.array([*arms, *arms, *np.resize(np.array(arms, dtype=object), len(mean))], dtype=object)
    schema = Schema.learn(np.random.default_rng(0).normal(size=(n, 2)), np.linspace(0, 1.7, n), treatment)
    even = np.full(mean.shape, 1 / len(arms))
    return Given(schema, CrossFitted(mean, even, outcomes))


def gain_of(policy: Policy) -> Array:
    assert policy.gain is not None
    return policy.gain


def test_the_mean_rule_treats_where_the_benefit_is_worth_its_cost() -> None:
    est = laws([[0, 0.5], [0, 1.5], [0, -1.0], [2, 2.0]], 1.0)
    X = np.zeros((4, 2))
    assert treat_if(est, X).codes.tolist() == [1, 1, 0, 0]  # a tie goes to the control
    assert treat_if(est, X, cost=1.0).codes.tolist() == [0, 1, 0, 0]
    assert treat_if(est, X, threshold=1.0).codes.tolist() == [0, 1, 0, 0]
    assert treat_if(est, X, cost={"placebo": 2.0}).codes.tolist() == [1, 1, 1, 1]
    lower = treat_if(est, X, higher_is_better=False)
    assert lower.codes.tolist() == [0, 0, 1, 0]
    found = treat_if(est, X, cost=1.0)
    np.testing.assert_allclose(gain_of(found), [-0.5, 0.5, -2.0, -1.0], atol=1e-6)
    assert found.labels.tolist() == ["placebo", "drug", "placebo", "placebo"]
    assert found.share.to_dict() == {"placebo": 0.75, "drug": 0.25}
    assert found.text.startswith("Drug where the expected outcome is higher than under placebo by more than its cost")
    assert found.to_frame()["arm"].tolist() == found.labels.tolist()


def test_of_several_arms_the_best_net_of_cost_wins() -> None:
    arms = ("none", "a", "b")
    est = laws([[0, 1, 2.0], [0, 3, 2.0], [0, -1, -2.0], [0, 0.2, 0.1]], 1.0, arms)
    X = np.zeros((4, 2))
    assert treat_if(est, X).labels.tolist() == ["b", "a", "none", "a"]
    assert treat_if(est, X, cost={"b": 1.7, "a": 0.5}).labels.tolist() == ["a", "a", "none", "none"]
    assert treat_if(est, X, treated="b").labels.tolist() == ["b", "b", "none", "b"]
    assert treat_if(est, X, control="b", higher_is_better=False).labels.tolist() == ["none", "none", "b", "none"]
    assert treat_if(est, X, treated="b", control="a").labels.tolist() == ["b", "a", "a", "a"]
    with pytest.raises(ValueError, match="rule='individual' compares two arms"):
        treat_if(est, X, rule="individual")
    with pytest.raises(ValueError, match="cost names 'c', which is no arm"):
        treat_if(est, X, cost={"c": 1.0})


def test_rules_of_probability_and_quantile_follow_the_normal_law() -> None:
    mean, sd = np.array([[0, 0.5], [0, 1.0], [1, 0.5]]), np.array([[1, 3.0], [1, 1.1], [1, 0.2]])
    est, X = laws(mean, sd), np.zeros((3, 2))
    above = stats.norm.sf((0.5 - mean) / sd)
    found = treat_if(est, X, rule="probability", threshold=0.5)
    np.testing.assert_allclose(gain_of(found), above[:, 1] - above[:, 0], atol=0.004)
    assert found.codes.tolist() == (above[:, 1] > above[:, 0]).astype(int).tolist()
    below = treat_if(est, X, rule="probability", threshold=0.5, higher_is_better=False)
    np.testing.assert_allclose(gain_of(below), -gain_of(found), atol=1e-6)
    low = stats.norm.ppf(0.1, mean, sd)
    cautious = treat_if(est, X, rule="quantile", quantile=0.1)
    np.testing.assert_allclose(gain_of(cautious), low[:, 1] - low[:, 0], atol=0.03)
    assert cautious.codes.tolist() == [0, 1, 1]
    assert treat_if(est, X).codes.tolist() == [1, 1, 0]  # means alone would choose otherwise
    high = stats.norm.ppf(0.9, mean, sd)
    worst = treat_if(est, X, rule="quantile", quantile=0.1, higher_is_better=False)
    np.testing.assert_allclose(gain_of(worst), high[:, 0] - high[:, 1], atol=0.03)
    assert "90% quantile of the outcome is lower" in worst.rule


def test_individual_benefit_is_asked_of_the_bounds_that_are_identified() -> None:
    est, X = laws([[0, 3.0], [0, 0.5], [0, -3.0]], 1.0), np.zeros((3, 2))
    found = treat_if(est, X, rule="individual", threshold=0.0, share=0.5)
    assert est.values.outcomes is not None
    lower, upper = est.values.outcomes.effect().prob_benefit(0.0)
    # Makarov's lower bound of two normal laws of one spread, in closed form
    np.testing.assert_allclose(lower[0], 2 * stats.norm.cdf(1.5) - 1, atol=0.01)
    np.testing.assert_allclose(gain_of(found), lower - 0.5)
    assert found.codes.tolist() == [1, 0, 0]
    assert found.undecided is not None
    assert found.undecided.tolist() == [False, True, False]
    assert upper[1] > 0.5 > lower[1]
    assert "the data do not decide" in found.text
    turned = treat_if(est, X, rule="individual", higher_is_better=False)
    assert turned.codes.tolist() == [0, 0, 1]


def test_flipped_outcomes_and_renamed_arms_give_the_same_policy() -> None:
    rng = np.random.default_rng(1)
    mean, sd = rng.normal(size=(50, 2)), rng.uniform(0.5, 2, (50, 2))
    X = np.zeros((50, 2))
    for options in ({}, {"rule": "quantile", "quantile": 0.2}, {"rule": "individual", "share": 0.3}):
        first = treat_if(laws(mean, sd), X, **options)  # type: ignore[arg-type]
        flipped = treat_if(laws(-mean, sd), X, **options, higher_is_better=False)  # type: ignore[arg-type]
        np.testing.assert_array_equal(first.codes, flipped.codes)
        named = treat_if(laws(mean, sd, (0, 1)), X, **options)  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.array(ARMS)[named.labels.astype(int)], first.labels)


def test_what_makes_no_policy_is_said(study: Study) -> None:
    est, X = laws([[0, 1.0]], 1.0), np.zeros((1, 2))
    for options, message in (
        ({"rule": "luck"}, "rule must be one of"),
        ({"quantile": 1.0}, "quantile must lie strictly between"),
        ({"threshold": np.inf}, "threshold must be a finite number"),
        ({"y": [1.0]}, "y and treatment belong together"),
        ({"treated": "pill"}, "'pill' is no arm"),
        ({"cost": np.nan}, "cost must be finite"),
        ({"rule": "individual", "cost": 1.0}, "takes no cost"),
    ):
        with pytest.raises(ValueError, match=message):
            treat_if(est, X, **options)
    with pytest.raises(ValueError, match="keeps none that had not seen these rows"):
        treat_if(study.est, study.X, study.y, treatment=study.arm, rule="quantile")
    died = study.y > 0
    p = PotentialOutcomes(np.full((1, 1, 500, 2), 0.3), ARMS, "binary")
    binary = Given(Schema.learn(study.X, died, study.arm), CrossFitted(p.mean(), study.e, p))
    with pytest.raises(ValueError, match="quantiles of a binary outcome"):
        treat_if(binary, study.X, rule="quantile")
    with pytest.raises(ValueError, match="never between 1 and 5"):
        treat_if(binary, study.X, rule="probability", threshold=5)
    with pytest.raises(ValueError, match="codes run from 0 to 2"):
        Policy(np.array([0, 2]), ARMS, "a guess")


# --------------------------------------------------------------------------------------------------------------- values


def test_values_and_gains_are_those_of_the_scores(study: Study) -> None:
    found = policy_value(study.est, **study.rows)
    chosen = (study.seen[:, 1] > study.seen[:, 0]).astype(np.int64)
    np.testing.assert_array_equal(found.policy.codes, chosen)
    assert found.policy.held_out
    assert "models that had not seen its outcome" in found.text
    assert found.values.labels == ("policy", "placebo for all", "drug for all")
    other = metrics.policy_value(study.y, study.code, chosen, study.e, study.seen)
    assert found.values[0].value == pytest.approx(other.value, rel=1e-12)
    assert found.values[0].se == pytest.approx(other.se, rel=0.01)
    ate = estimate_ate(study.est, **study.rows)
    assert found.values[2].value - found.values[1].value == pytest.approx(ate.value)
    # without cost the gains and their errors follow from the values' joint covariance
    against = np.array([[1, -1, 0], [1, 0, -1]])
    np.testing.assert_allclose(found.gains.value, against @ found.values.value)
    np.testing.assert_allclose(found.gains.covariance, against @ found.values.covariance @ against.T, rtol=1e-9)
    c = found.values.covariance
    assert np.sqrt(c[1, 1] + c[2, 2] - 2 * c[1, 2]) == pytest.approx(ate.se)
    table: Any = found.to_frame()
    assert table.loc["drug for all", "gain"] == found.gains[1].value
    assert np.isnan(table.loc["policy", "gain"])


def test_the_true_value_lies_within_the_error() -> None:
    table = simulate(4000, seed=3)
    found = policy_value(table.est, **table.rows)
    truth = table.mu[np.arange(4000), found.policy.codes].mean()
    assert abs(found.values[0].value - truth) < 4 * found.values[0].se
    for k, gain in enumerate(found.gains):
        assert abs(gain.value - (truth - table.mu[:, k].mean())) < 4 * gain.se
    assert found.gains[0].interval()[0] > 0


def test_costs_and_lower_outcomes_turn_gains_round(study: Study) -> None:
    found = policy_value(study.est, **study.rows, cost=0.4)
    chosen = study.seen[:, 1] - study.seen[:, 0] > 0.4
    np.testing.assert_array_equal(found.policy.codes, chosen)
    scores = aipw_scores(study.y, study.code, study.seen, study.e)
    own = np.where(chosen, scores[:, 1] - 0.4, scores[:, 0])
    np.testing.assert_allclose(found.gains.value, [(own - scores[:, 0]).mean(), (own - scores[:, 1] + 0.4).mean()])
    assert found.costs["policy"] == pytest.approx(0.4 * chosen.mean())
    assert "net of cost" in found.text
    flipped = replace(study, y=-study.y, mu=-study.mu, seen=-study.seen)
    again = policy_value(flipped.est, **flipped.rows, cost=0.4, higher_is_better=False)
    np.testing.assert_array_equal(again.policy.codes, found.policy.codes)
    np.testing.assert_allclose(again.gains.value, found.gains.value)
    np.testing.assert_allclose(again.values.value, -found.values.value)


def test_a_policy_that_treats_all_gains_nothing_over_treating_all_without_error(study: Study) -> None:
    found = policy_value(study.est, **study.rows, policy=np.full(500, "drug"), cost=0.2)
    assert found.gains[1].value == 0
    assert found.gains[1].se == 0
    assert found.gains[0].value == pytest.approx(estimate_ate(study.est, **study.rows).value - 0.2)
    assert found.caution.startswith("Whether the policy had seen these outcomes is not known")


def test_order_weights_clusters_and_arms_named_otherwise(study: Study) -> None:
    rng = np.random.default_rng(4)
    weight = rng.integers(0, 3, 500).astype(float)
    first = policy_value(study.est, **study.rows, sample_weight=weight)
    order = rng.permutation(500)
    shuffled = study.take(order)
    again = policy_value(shuffled.est, **shuffled.rows, sample_weight=5 * weight[order])
    np.testing.assert_allclose(first.gains.value, again.gains.value)
    np.testing.assert_allclose(first.gains.covariance, again.gains.covariance)
    rest = study.take(weight > 0)
    left = policy_value(rest.est, **rest.rows, sample_weight=weight[weight > 0])
    np.testing.assert_allclose(first.values.value, left.values.value)
    np.testing.assert_allclose(first.values.se, left.values.se)
    # the arms' roles exchanged: the same decisions, in another order
    named = np.where(study.arm == "drug", "control", "rival")
    swapped = Given(Schema.learn(study.X, study.y, named), CrossFitted(study.seen[:, ::-1], study.e[:, ::-1]))
    turned = policy_value(swapped, study.X, study.y, treatment=named, sample_weight=weight)
    np.testing.assert_allclose(turned.gains.value[::-1], first.gains.value)
    ward = np.arange(500) % 25
    clustered = policy_value(study.est, **study.rows, groups=ward)
    assert {e.df for e in clustered.gains} == {24}
    assert "25 clusters" in clustered.values[0].method


def test_a_policy_that_saw_the_outcomes_is_warned_of(study: Study) -> None:
    est = replace(study.est, values=replace(study.est.values, outcomes=PotentialOutcomes(study.seen[None, None], ARMS)))
    seen = treat_if(est, study.X)
    assert seen.held_out is False
    with pytest.warns(UserWarning, match="it looks better than it is"):
        policy_value(est, **study.rows, policy=seen)
    held = treat_if(est, study.X, study.y, treatment=study.arm, cost=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = policy_value(est, **study.rows, policy=held)
    assert found.costs["drug for all"] == 0.1  # the policy's own cost
    with pytest.raises(ValueError, match="for 500 units, X has 10 rows"):
        few = study.take(np.arange(10))
        policy_value(Given(est.schema_, CrossFitted(few.seen, few.e)), **few.rows, policy=held)
    with pytest.raises(ValueError, match="the estimator's arms are"):
        policy_value(est, **study.rows, policy=replace(held, arms=("a", "b")))


def test_three_arms_are_valued_beside_each_other() -> None:
    rng = np.random.default_rng(5)
    n, arms = 900, ("none", "a", "b")
    X = rng.normal(size=(n, 2))
    a = rng.integers(3, size=n)
    mu = np.column_stack([np.zeros(n), X[:, 0], X[:, 1]])
    y = mu[np.arange(n), a] + rng.normal(size=n)
    arm = np.array(arms)[a]
    est = Given(Schema.learn(X, y, arm), CrossFitted(mu, np.full((n, 3), 1 / 3)))
    found = policy_value(est, X, y, treatment=arm)
    np.testing.assert_array_equal(found.policy.codes, mu.argmax(axis=1))
    truth = mu.max(axis=1).mean()
    assert abs(found.values[0].value - truth) < 4 * found.values[0].se
    assert len(found.gains) == 3
    with pytest.raises(ValueError, match="treated= is ambiguous"):
        decision_curve(est, X, y, treatment=arm)


@pytest.mark.slow
def test_intervals_of_values_and_gains_cover() -> None:
    """Policies learnt on other folds: the truth is the value of the policies that were learnt."""
    hits: dict[str, list[bool]] = {"value": [], "gain over none": [], "gain over all": []}
    new = simulate(20_000, seed=1)  # the population
    none, everyone = new.mu.mean(axis=0)
    for replication in range(300):
        table = simulate(400, seed=1000 + replication)
        mu, e, truths = np.zeros((400, 2)), np.zeros((400, 2)), []
        for fold in (0, 1):
            held = np.arange(400) % 2 == fold  # rows come in no order
            e[held] = LogisticRegression(C=10.0).fit(table.X[~held], table.code[~held]).predict_proba(table.X[held])
            lines = [LinearRegression().fit(table.X[rows], table.y[rows]) for rows in
                     (~held & (table.code == k) for k in (0, 1))]  # fmt: skip
            mu[held] = np.column_stack([line.predict(table.X[held]) for line in lines])
            treat = lines[1].predict(new.X) > lines[0].predict(new.X)
            truths.append(np.where(treat, new.mu[:, 1], new.mu[:, 0]).mean())
        value = float(np.mean(truths))
        est = Given(Schema.learn(table.X, table.y, table.arm), CrossFitted(mu, e))
        found = policy_value(est, **table.rows)
        for name, estimate, truth in (
            ("value", found.values[0], value),
            ("gain over none", found.gains[0], value - none),
            ("gain over all", found.gains[1], value - everyone),
        ):
            lower, upper = estimate.interval()
            hits[name].append(bool(lower <= truth <= upper))
    for name, inside in hits.items():
        assert stats.binomtest(sum(inside), len(inside), 0.95).pvalue > 1e-3, f"{name}: {np.mean(inside):.3f}"


# ------------------------------------------------------------------------------------------------------- decision curve


def test_net_benefit_is_the_gain_over_treating_none_at_that_cost(study: Study) -> None:
    curve = decision_curve(study.est, **study.rows, thresholds=[0.5, 0.0, 10.0])
    table: Any = curve.table.set_index("threshold")
    assert table.index.tolist() == [0.0, 0.5, 10.0]
    for delta in (0.0, 0.5):
        found = policy_value(study.est, **study.rows, cost=delta)
        assert table.loc[delta, "model"] == pytest.approx(found.gains[0].value)
        lower, upper = found.gains[0].interval()
        assert table.loc[delta, ["model_lower", "model_upper"]].tolist() == pytest.approx([lower, upper])
        over_all = found.gains[1]
        if table.loc[delta, "treat_all"] > 0:
            assert table.loc[delta, "gain"] == pytest.approx(over_all.value)
            assert table.loc[delta, "gain_lower"] == pytest.approx(over_all.interval()[0])
        else:
            assert table.loc[delta, "gain"] == pytest.approx(table.loc[delta, "model"])
    ate = estimate_ate(study.est, **study.rows).value
    np.testing.assert_allclose(table["treat_all"], ate - table.index)
    assert table.loc[10.0, ["share", "model", "model_lower"]].tolist() == [0, 0, 0]
    assert (table["treat_none"] == 0).all()


def test_in_a_trial_it_is_the_net_benefit_of_vickers_kattan_and_sargent() -> None:
    """Reduction of the event rate less treatment rate times threshold, events weighted by the randomisation."""
    rng = np.random.default_rng(6)
    n = 400
    X, a = rng.normal(size=(n, 2)), rng.permutation(np.arange(n) % 2)
    y = (rng.random(n) < np.where((a == 1) & (X[:, 0] > 0), 0.2, 0.5)).astype(int)
    predicted = np.column_stack([np.full(n, 0.5), np.where(X[:, 0] > 0, 0.2, 0.45)])
    est = Given(Schema.learn(X, y, a), CrossFitted(predicted, np.full((n, 2), 0.5)))
    delta = 0.1
    curve = decision_curve(est, X, y, treatment=a, thresholds=[delta], higher_is_better=False)
    treat = X[:, 0] > 0
    # in those that the model treats: risk of the controls less that of the treated, mean-corrected by the predictions
    inverse = 2 * (y - predicted[np.arange(n), a])
    risk = [predicted[:, k] + inverse * (a == k) for k in (0, 1)]
    expected = np.mean(treat * (risk[0] - risk[1])) - delta * treat.mean()
    assert curve.table.loc[0, "model"] == pytest.approx(expected)
    assert curve.table.loc[0, "share"] == treat.mean()


def test_the_curve_says_where_the_model_pays() -> None:
    table = simulate(2000, seed=7, noise=0.0)
    curve = decision_curve(table.est, **table.rows)
    assert len(curve.table) == 31
    assert curve.table["threshold"].iloc[0] == 0
    assert curve.text.startswith("At ")
    best = curve.table.loc[curve.table["gain"].to_numpy().argmax()]
    # E max(tau - delta, 0) of the normal effect with mean -0.3
    z = -(best["threshold"] + 0.3)
    truth = stats.norm.pdf(z) + z * stats.norm.cdf(z)
    assert best["model_lower"] < truth < best["model_upper"]
    useless = replace(table, seen=table.seen[:, ::-1])
    est = Given(table.est.schema_, CrossFitted(useless.seen, table.e))
    assert decision_curve(est, **table.rows).text.startswith("At no threshold")


# ----------------------------------------------------------------------------------------------------------------- tree


def stepped(n: int = 800, seed: int = 0) -> tuple[pd.DataFrame, Array, NDArray[Any], Given]:
    """Treatment helps above the age of 60, and harms below."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"age": rng.uniform(30, 80, n).round(1), "sex": rng.choice(["f", "m"], n)})
    a = rng.integers(2, size=n)
    tau = np.where(X["age"] > 60, 2.0, -1.0)
    y = a * tau + rng.normal(size=n)
    mu = np.column_stack([np.zeros(n), tau])
    arm = np.array(ARMS)[a]
    est = Given(Schema.learn(X, y, arm), CrossFitted(mu, np.full((n, 2), 0.5)))
    return X, y, arm, est


def test_the_policy_tree_finds_the_age_and_is_valued_on_other_rows() -> None:
    X, y, arm, est = stepped()
    found = policy_tree(est, X, y, treatment=arm, max_depth=1)
    assert list(found.table["arm"]) == ["placebo", "drug"]
    cut = float(found.table.index[0].removeprefix("age ≤ "))
    assert 57 < cut < 63
    assert found.export_text().split("\n") == [
        f"if age ≤ {cut:g}:",
        "    give placebo",
        f"if age > {cut:g}:",
        "    give drug",
    ]
    np.testing.assert_array_equal(found.apply(X), np.where(X["age"] <= cut, "placebo", "drug"))
    np.testing.assert_array_equal(found.policy.labels, found.apply(X))
    halves = split_in_halves(est, X, y, treatment=arm)
    rows, code = halves.value, (arm == "drug").astype(int)
    other = metrics.policy_value(y[rows], code[rows], found.policy.codes[rows], est.values.propensity[rows],
                                 est.values.mu[rows])  # fmt: skip
    assert found.value.values[0].value == pytest.approx(other.value)
    assert found.n_valued == rows.sum() == found.table["n"].sum()
    assert min(gain.interval()[0] for gain in found.value.gains) > 0
    assert "valued on the 400 others" in found.text


def test_the_policy_tree_is_econmls_on_the_scores_of_its_half() -> None:
    from econml.policy import PolicyTree as Theirs

    X, y, arm, est = stepped(seed=1)
    halves = split_in_halves(est, X, y, treatment=arm, random_state=3)
    found = policy_tree(est, X, y, treatment=arm, max_depth=2, min_leaf=40, random_state=3, halves=halves)
    settings: dict[str, Any] = {"max_depth": 2, "min_samples_leaf": 40, "min_samples_split": 80, "honest": False}
    theirs = Theirs(random_state=3, min_balancedness_tol=0.5, **settings)
    theirs.fit(halves.E[halves.grow].astype(float), halves.scores())
    np.testing.assert_array_equal(theirs.predict(halves.E.astype(float)), found.policy.codes)


def test_costs_sides_and_missing_benefit_shape_the_policy_tree() -> None:
    X, y, arm, est = stepped()
    halves = split_in_halves(est, X, y, treatment=arm)
    ask: dict[str, Any] = {"treatment": arm, "halves": halves}
    dear = policy_tree(est, X, y, **ask, cost=5.0)
    assert dear.export_text() == "give placebo"
    assert dear.value.gains[0].se == 0
    turned = policy_tree(est, X, y, **ask, max_depth=1, higher_is_better=False)
    assert list(turned.table["arm"]) == ["drug", "placebo"]
    by_sex = policy_tree(est, X, y, **ask, columns=["sex"])
    assert "age" not in by_sex.export_text()
    with pytest.raises(ValueError, match="min_leaf must be an int of 2 or more"):
        policy_tree(est, X, y, **ask, min_leaf=1)


# ---------------------------------------------------------------------------------------------------------------- plots


def test_pictures_of_decisions(study: Study) -> None:
    curve = decision_curve(study.est, **study.rows)
    ax = plot_decision_curve(curve, outcome_name="walking distance", unit="m")
    assert ax.get_xlabel() == "Threshold: gain in walking distance that is worth a treatment (m)"
    lines = {str(line.get_label()): line for line in ax.lines}
    np.testing.assert_allclose(np.asarray(lines["by the model"].get_ydata()), curve.table["model"])
    assert {"drug for all", "placebo for all"} <= set(lines)
    found = policy_value(study.est, **study.rows, cost=0.2)
    ax = plot_policy_value(found)
    said = " ".join(text.get_text() for text in ax.texts)
    assert said.count("policy gains") == 2
    assert "net of cost" in said
    assert "best single choice" in ax.get_title(loc="left").replace("\n", " ")
    X, y, arm, est = stepped()
    tree = policy_tree(est, X, y, treatment=arm, max_depth=1)
    said = " ".join(text.get_text() for text in plot_subgroup_tree(tree).texts).replace("\n", " ")
    assert "give drug" in said
    assert tree.table.index[1] in said
