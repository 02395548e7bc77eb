"""AIPW against closed forms, other packages and simulations whose truth is known."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression

from effects.effect import Estimate, Estimates
from effects.estimator import EffectEstimator
from effects.inference import (
    aipw_scores,
    estimate_atc,
    estimate_ate,
    estimate_ato,
    estimate_att,
    estimate_gate,
    estimate_qte,
    mean_and_se,
    outcome_means,
)
from effects.nuisance import CrossFitted, Nuisance
from effects.outcomes import PotentialOutcomes
from effects.rows import TrainingData
from effects.schema import Schema

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass
class Given:
    """A fitted estimator as far as inference sees it: an encoding, arms, and nuisances that a test chose."""

    schema_: Schema
    values: CrossFitted

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def cross_fitted(
        self,
        X: Any,
        y: Any,
        *,
        treatment: Any,
        sample_weight: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> CrossFitted:
        return self.values if propensity is None else replace(self.values, propensity=np.asarray(propensity))


@dataclass
class Study:
    """Rows, the nuisances given for them, and the two calls that all tests make."""

    y: Any
    treatment: Any
    mu: Array
    propensity: Array
    control: Any = None
    outcomes: PotentialOutcomes | None = None
    X: Any = None

    def est(self) -> Given:
        X = np.arange(2.0 * len(self.y)).reshape(-1, 2)
        schema = Schema.learn(X, self.y, self.treatment, control=self.control)
        return Given(schema, CrossFitted(self.mu, self.propensity, self.outcomes))

    def ask(self, question: Callable[..., Any], **options: Any) -> Any:
        X = np.zeros((len(self.y), 2)) if self.X is None else self.X
        return question(self.est(), X, self.y, treatment=self.treatment, **options)

    def ate(self, **options: Any) -> Estimate:
        return self.ask(estimate_ate, **options)

    def gate(self, **options: Any) -> Estimates:
        return self.ask(estimate_gate, **options)

    def qte(self, **options: Any) -> Estimates:
        return self.ask(estimate_qte, **options)

    def means(self, **options: Any) -> dict[Hashable, Estimate]:
        return self.ask(outcome_means, **options)

    def take(self, rows: NDArray[Any]) -> Study:
        outcomes = None if self.outcomes is None else self.outcomes.take(rows)
        return Study(self.y[rows], self.treatment[rows], self.mu[rows], self.propensity[rows], self.control, outcomes)


def trial(y: Array, arm: Codes, **options: Any) -> Study:
    """A trial without covariates: what each arm shows is all that is known."""
    share = np.bincount(arm) / len(arm)
    means = [float(np.mean(y[arm == k])) for k in range(len(share))]
    return Study(y, arm, np.tile(means, (len(y), 1)), np.tile(share, (len(y), 1)), **options)


ATE = 1.0


def simulate(n: int, rng: np.random.Generator) -> tuple[Array, Codes, Array, Array, Array]:
    """x, arm, y, and the true mu and propensity of a confounded study with an average effect of 1."""
    x = rng.normal(size=(n, 2))
    treated = 1 / (1 + np.exp(-(0.3 + 0.6 * x[:, 0] - 0.4 * x[:, 1])))
    arm = (rng.random(n) < treated).astype(np.int64)
    base = 2 * x[:, 0] + x[:, 1]
    mu = np.column_stack([base, base + ATE + 0.5 * x[:, 0]])
    return x, arm, mu[np.arange(n), arm] + rng.normal(size=n), mu, np.column_stack([1 - treated, treated])


def parametric(x: Array, arm: Codes, y: Array) -> tuple[Array, Array]:
    """Least squares per arm and a logistic regression by Newton's method: mu and propensity."""
    design = np.column_stack([np.ones(len(x)), x])
    mu = [design @ np.linalg.lstsq(design[arm == k], y[arm == k], rcond=None)[0] for k in (0, 1)]
    beta = np.zeros(design.shape[1])
    for _ in range(8):
        p = 1 / (1 + np.exp(-design @ beta))
        beta += np.linalg.solve(design.T @ (design * (p * (1 - p))[:, None]), design.T @ (arm - p))
    p = 1 / (1 + np.exp(-design @ beta))
    return np.column_stack(mu), np.column_stack([1 - p, p])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture
def study(rng: np.random.Generator) -> Study:
    _, arm, y, mu, propensity = simulate(300, rng)
    return Study(y, arm, mu + 0.3, propensity)


@pytest.fixture
def three_arms(rng: np.random.Generator) -> Study:
    share = rng.dirichlet([8.0, 8.0, 8.0], size=400)
    arm = np.array([rng.choice(3, p=p) for p in share])
    mu = rng.normal([0.0, 1.0, 3.0], 1.0, size=(400, 3))
    y = mu[np.arange(400), arm] + rng.normal(size=400)
    return Study(y, np.array(["placebo", "low", "high"])[arm], mu[:, [2, 1, 0]], share[:, [2, 1, 0]], control="high")


# -------------------------------------------------------------------------------------------------------- closed forms


def test_scores_by_hand() -> None:
    scores = aipw_scores([5.0, 1.0], [1, 0], [[1.0, 2.0], [3.0, 4.0]], [[0.8, 0.2], [0.5, 0.5]])
    np.testing.assert_allclose(scores, [[1.0, 2.0 + 3.0 / 0.2], [3.0 - 2.0 / 0.5, 4.0]])


@pytest.mark.parametrize("weighted", [False, True])
def test_saturated_design_gives_the_stratified_estimator(weighted: bool, rng: np.random.Generator) -> None:
    n, cells = 600, 4
    cell = rng.integers(0, cells, n)
    arm = (rng.random(n) < 0.2 + 0.15 * cell).astype(np.int64)
    y = cell * arm + rng.normal(size=n)
    weight = rng.random(n) if weighted else np.ones(n)
    mu, propensity = np.zeros((n, 2)), np.zeros((n, 2))
    stratified = 0.0
    for c in range(cells):
        here = cell == c
        means = [np.average(y[here & (arm == k)], weights=weight[here & (arm == k)]) for k in (0, 1)]
        share = np.average(arm[here], weights=weight[here])
        mu[here], propensity[here] = means, [1 - share, share]
        stratified += weight[here].sum() / weight.sum() * (means[1] - means[0])
    assert Study(y, arm, mu, propensity).ate(sample_weight=weight).value == pytest.approx(stratified)


def test_a_trial_without_covariates_is_welchs_t_test(rng: np.random.Generator) -> None:
    arm = np.repeat([0, 1], [24, 9])
    y = rng.normal(arm * 2.0, 1.0 + arm)
    estimate = trial(y, arm).ate()
    welch = stats.ttest_ind(y[arm == 1], y[arm == 0], equal_var=False)
    assert estimate.value == pytest.approx(y[arm == 1].mean() - y[arm == 0].mean())
    assert estimate.se == pytest.approx(np.sqrt(y[arm == 0].var(ddof=1) / 24 + y[arm == 1].var(ddof=1) / 9))
    assert (estimate.df, estimate.statistic, estimate.p_value) == pytest.approx(
        (welch.df, welch.statistic, welch.pvalue)
    )
    assert estimate.interval(0.9) == pytest.approx(tuple(welch.confidence_interval(0.9)))
    one = trial(y, arm).means()[1]
    assert one.interval() == pytest.approx(stats.t.interval(0.95, 8, y[arm == 1].mean(), stats.sem(y[arm == 1])))


def test_a_binary_outcome_with_labels_gives_a_risk_difference() -> None:
    y = np.array(["dead", "alive"] * 20 + ["alive"] * 20)
    arm = np.repeat([0, 1], [40, 20])
    event = y == Study(y, arm, np.zeros((60, 2)), np.zeros((60, 2))).est().schema_.outcome.levels[1]  # type: ignore[index]
    risk = [event[arm == 0].mean(), event[arm == 1].mean()]
    study = Study(y, arm, np.tile(risk, (60, 1)), np.tile([2 / 3, 1 / 3], (60, 1)))
    assert study.ate().value == pytest.approx(risk[1] - risk[0])
    assert study.ate().unit == "risk difference"
    assert [m.value for m in study.means().values()] == pytest.approx(risk)


# ------------------------------------------------------------------------------------------------------- other packages


def test_agrees_with_statsmodels(rng: np.random.Generator) -> None:
    from statsmodels.api import OLS, Probit
    from statsmodels.treatment.treatment_effects import TreatmentEffect

    x, arm, y, _, _ = simulate(500, rng)
    design = np.column_stack([np.ones(500), x])
    selection = Probit(arm, design).fit(disp=0)
    ate, mean0, mean1 = TreatmentEffect(OLS(y, design), arm, results_select=selection).aipw(return_results=False)
    mu = np.column_stack([OLS(y[arm == k], design[arm == k]).fit().predict(design) for k in (0, 1)])
    p = selection.predict()
    ours = Study(y, arm, mu, np.column_stack([1 - p, p]))
    assert ours.ate().value == pytest.approx(ate)
    assert [m.value for m in ours.means().values()] == pytest.approx([mean0, mean1])


def test_agrees_with_econml_on_the_same_folds(rng: np.random.Generator) -> None:
    from econml.dr import LinearDRLearner
    from sklearn.model_selection import KFold

    x, arm, y, _, _ = simulate(400, rng)
    folds = list(KFold(4).split(x))
    theirs = LinearDRLearner(
        model_propensity=LogisticRegression(C=1e6), model_regression=LinearRegression(), cv=folds, random_state=0
    )
    theirs.fit(y, arm, X=None, W=x)
    mu, propensity = np.zeros((400, 2)), np.zeros((400, 2))
    for train, test in folds:
        propensity[test] = LogisticRegression(C=1e6).fit(x[train], arm[train]).predict_proba(x[test])
        outcome = LinearRegression().fit(np.column_stack([x, arm])[train], y[train])
        for k in (0, 1):
            mu[test, k] = outcome.predict(np.column_stack([x[test], np.full(len(test), k)]))
    ours = Study(y, arm, mu, propensity).ate()
    assert ours.value == pytest.approx(float(theirs.ate()))
    assert ours.se == pytest.approx(float(theirs.ate_inference().stderr_mean), rel=0.01)


# ---------------------------------------------------------------------------------------------------------- simulations


@pytest.mark.parametrize(("wrong_mu", "wrong_propensity"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.filterwarnings("ignore:Weak overlap")
def test_double_robustness(wrong_mu: bool, wrong_propensity: bool, rng: np.random.Generator) -> None:
    n = 100_000
    _, arm, y, mu, propensity = simulate(n, rng)
    if wrong_mu:
        mu = np.tile([1.0, -1.0], (n, 1))
    if wrong_propensity:
        propensity = np.full((n, 2), 0.5)
    estimate = Study(y, arm, mu, propensity).ate()
    distance = abs(estimate.value - ATE) / estimate.se
    assert distance > 20 if wrong_mu and wrong_propensity else distance < 4


@pytest.mark.filterwarnings("ignore:Weak overlap")
def test_standard_errors_and_intervals_hold_over_replications(rng: np.random.Generator) -> None:
    replications = 400
    estimates: list[Estimate] = []
    for _ in range(replications):
        x, arm, y, _, _ = simulate(500, rng)
        estimates.append(Study(y, arm, *parametric(x, arm, y)).ate(level=0.9))
    values = np.array([e.value for e in estimates])
    assert values.mean() == pytest.approx(ATE, abs=4 * values.std() / np.sqrt(replications))
    # The spread of 400 replications is itself known to 1 / sqrt(800) = 3.5%.
    assert np.mean([e.se for e in estimates]) / values.std() == pytest.approx(1.0, abs=0.14)
    covered = sum(lower <= ATE <= upper for lower, upper in (e.interval() for e in estimates))
    assert stats.binomtest(covered, replications, 0.9).pvalue > 1e-3


@pytest.mark.filterwarnings("ignore:Weak overlap")
def test_weighted_standard_errors_hold_over_replications(rng: np.random.Generator) -> None:
    values, errors = [], []
    for _ in range(400):
        _, arm, y, mu, propensity = simulate(300, rng)
        estimate = Study(y, arm, mu, propensity).ate(sample_weight=rng.exponential(size=300))
        values.append(estimate.value)
        errors.append(estimate.se)
    assert np.mean(errors) / np.std(values) == pytest.approx(1.0, abs=0.14)


# ---------------------------------------------------------------------------------------------------------- invariances


def test_order_of_rows_is_irrelevant(study: Study, rng: np.random.Generator) -> None:
    rows, weight = rng.permutation(300), rng.random(300)
    before, after = study.ate(sample_weight=weight), study.take(rows).ate(sample_weight=weight[rows])
    assert (after.value, after.se) == pytest.approx((before.value, before.se))


def test_swapping_arms_flips_the_sign(study: Study) -> None:
    forward = study.ate()
    named = study.ate(treated=0, control=1)
    swapped = Study(study.y, 1 - study.treatment, study.mu[:, ::-1], study.propensity[:, ::-1]).ate()
    for backward in (named, swapped, study.ate(control=1)):
        assert (backward.value, backward.se) == pytest.approx((-forward.value, forward.se))
    assert (named.treated, named.control) == (0, 1)


def test_labels_of_arms_are_irrelevant(study: Study) -> None:
    words = Study(study.y, np.array(["A", "B"])[study.treatment], study.mu, study.propensity, control="A")
    assert words.ate().value == pytest.approx(study.ate().value)
    assert words.ate().name == "ATE [B vs A]"


def test_the_estimate_moves_and_scales_with_the_outcome(study: Study) -> None:
    before = study.ate()
    after = Study(5 - 2 * study.y, study.treatment, 5 - 2 * study.mu, study.propensity).ate()
    assert (after.value, after.se) == pytest.approx((-2 * before.value, 2 * before.se))


def test_integer_weights_repeat_rows(study: Study, rng: np.random.Generator) -> None:
    weight = rng.integers(0, 4, 300)
    weighted, repeated = study.ate(sample_weight=weight), study.take(np.repeat(np.arange(300), weight)).ate()
    assert weighted.value == pytest.approx(repeated.value)
    assert weighted.se > repeated.se  # a weight is not a second patient
    assert weighted.n == np.count_nonzero(weight)


def test_the_scale_of_weights_is_irrelevant_and_equal_weights_are_none(study: Study, rng: np.random.Generator) -> None:
    weight = rng.random(300)
    once, tenfold = study.ate(sample_weight=weight), study.ate(sample_weight=10 * weight)
    assert (tenfold.value, tenfold.se) == pytest.approx((once.value, once.se))
    plain, equal = study.ate(), study.ate(sample_weight=np.full(300, 3.0))
    assert (equal.value, equal.se) == pytest.approx((plain.value, plain.se))
    assert plain.value != pytest.approx(once.value)


def test_the_standard_error_is_that_of_the_scores(study: Study) -> None:
    scores = aipw_scores(study.y, study.treatment, study.mu, study.propensity)
    phi = scores[:, 1] - scores[:, 0]
    assert mean_and_se(phi) == pytest.approx((phi.mean(), phi.std() / np.sqrt(300)))
    parts, rows = np.zeros(2), np.bincount(study.treatment)
    for k in (0, 1):
        parts[k] = np.sum((phi[study.treatment == k] - phi.mean()) ** 2) / 300**2 * rows[k] / (rows[k] - 1)
    estimate = study.ate(level=0.8)
    assert (estimate.value, estimate.se) == pytest.approx((phi.mean(), np.sqrt(parts.sum())))
    assert estimate.se == pytest.approx(mean_and_se(phi)[1], rel=0.01)
    assert estimate.df == pytest.approx(parts.sum() ** 2 / (parts**2 / (rows - 1)).sum())
    assert estimate.interval() == pytest.approx(stats.t.interval(0.8, estimate.df, estimate.value, estimate.se))


# ----------------------------------------------------------------------------------------------------------- three arms


def test_three_arms_need_a_named_contrast(three_arms: Study) -> None:
    assert three_arms.est().arms_ == ("high", "low", "placebo")
    with pytest.raises(ValueError, match=r"ambiguous with 3 arms.*'high', 'low', 'placebo'"):
        three_arms.ate()
    estimate = three_arms.ate(treated="low")
    assert estimate.name == "ATE [low vs high]"
    assert estimate.value == pytest.approx(-2.0, abs=4 * estimate.se)


def test_contrasts_of_three_arms_agree_with_each_other_and_with_the_means(three_arms: Study) -> None:
    low, placebo = three_arms.ate(treated="low"), three_arms.ate(treated="placebo")
    between = three_arms.ate(treated="low", control="placebo")
    assert between.value == pytest.approx(low.value - placebo.value)
    means = three_arms.means()
    assert list(means) == ["high", "low", "placebo"]
    assert low.value == pytest.approx(means["low"].value - means["high"].value)
    for label, truth in (("placebo", 0.0), ("low", 1.0), ("high", 3.0)):
        assert means[label].value == pytest.approx(truth, abs=4 * means[label].se)
        assert means[label].name == f"mean outcome [{label}]"


# -------------------------------------------------------------------------------------------------------------- overlap


def test_extreme_propensities_warn_once_and_are_not_clipped(rng: np.random.Generator) -> None:
    n = 200
    p = np.where(np.arange(n) < 20, 0.004, 0.5)
    arm = np.tile([0, 1], n // 2)
    arm[:20] = 0
    arm[3] = 1
    y = rng.normal(size=n)
    study = Study(y, arm, np.zeros((n, 2)), np.column_stack([1 - p, p]))
    inverse = 1 / p[arm == 1]
    effective = inverse.sum() ** 2 / (inverse**2).sum()
    with pytest.warns(UserWarning, match="20 of 200 rows have a propensity below 0.01 for arm 1") as caught:
        value = study.ate().value
    message = str(caught[0].message)
    assert len(caught) == 1
    assert f"its 91 rows have an effective sample size of {effective:.1f}" in message
    assert "smallest 0.004" in message and "trim" in message and "estimate_ato" in message
    assert caught[0].filename == __file__
    assert value == pytest.approx(np.mean(np.where(arm == 1, y / p, -y / (1 - p))))
    options: dict[Any, dict[str, Any]] = {estimate_gate: {"by": arm >= 0}}
    thin = np.where(np.arange(200) < 2, 0.98, 0.02)  # two controls are nearly all that the treated can be compared with
    received = np.where(np.arange(200) < 190, 0, 1)
    alike = Study(y, received, np.zeros((200, 2)), np.column_stack([1 - thin, thin]))
    with pytest.warns(UserWarning, match="the 190 rows of arm 0 weigh as 2.2") as caught:
        alike.ask(estimate_att)
    assert len(caught) == 1 and caught[0].filename == __file__
    for question in (estimate_atc, estimate_gate, outcome_means):
        with pytest.warns(UserWarning, match="Weak overlap") as caught:
            study.ask(question, **options.get(question, {}))
        assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(UserWarning, match="Weak overlap"), pytest.raises(ValueError, match="the law rests on one row"):
        study.qte()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # neither divides by the small propensity of the treated arm
        study.ask(estimate_att)
        study.ask(estimate_ato)


def test_only_arms_and_rows_of_the_estimand_are_warned_about(three_arms: Study) -> None:
    study = Study(three_arms.y, three_arms.treatment, three_arms.mu, three_arms.propensity.copy(), "high")
    row = int(np.flatnonzero(study.treatment != "placebo")[0])
    study.propensity[row] = [0.5, 0.495, 0.005]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study.ate(treated="low")
        study.ate(treated="placebo", sample_weight=np.where(np.arange(400) == row, 0.0, 1.0))
    with pytest.warns(UserWarning, match="1 of 400 rows .* for arm 'placebo'"):
        study.ate(treated="placebo")


# ------------------------------------------------------------------------------------------------- other populations

ASK: dict[str, Callable[..., Estimate]] = {
    "ATE": estimate_ate,
    "ATT": estimate_att,
    "ATC": estimate_atc,
    "ATO": estimate_ato,
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("method", ["aipw", "tmle"])
@pytest.mark.parametrize("estimand", ASK)
def test_saturated_designs_give_stratified_estimators(
    estimand: str, method: str, weighted: bool, rng: np.random.Generator
) -> None:
    n, cells = 600, 4
    cell = rng.integers(0, cells, n)
    arm = (rng.random(n) < 0.2 + 0.15 * cell).astype(np.int64)
    y = cell * arm + rng.normal(size=n)
    weight = rng.random(n) if weighted else np.ones(n)
    mu, propensity, effects, sizes = np.zeros((n, 2)), np.zeros((n, 2)), [], []
    for c in range(cells):
        here = cell == c
        means = [np.average(y[here & (arm == k)], weights=weight[here & (arm == k)]) for k in (0, 1)]
        share = np.average(arm[here], weights=weight[here])
        mu[here], propensity[here] = means, [1 - share, share]
        effects.append(means[1] - means[0])
        tilt = {"ATE": 1.0, "ATT": share, "ATC": 1 - share, "ATO": share * (1 - share)}[estimand]
        sizes.append(weight[here].sum() * tilt)
    estimate = Study(y, arm, mu, propensity).ask(ASK[estimand], sample_weight=weight, method=method)
    assert estimate.value == pytest.approx(np.average(effects, weights=sizes))
    assert estimate.estimand == estimand and method.upper() in estimate.method


def test_the_effect_on_the_treated_agrees_with_statsmodels(rng: np.random.Generator) -> None:
    from statsmodels.api import OLS
    from statsmodels.treatment.treatment_effects import TreatmentEffect

    n = 500
    x = rng.random(n)
    odds = 0.4 + 1.5 * x  # linear in x, so that least squares' residuals add nothing in the controls
    arm = (rng.random(n) < odds / (1 + odds)).astype(np.int64)
    y = x + arm * (1 + x) + rng.normal(size=n)
    design = np.column_stack([np.ones(n), x])
    theirs = TreatmentEffect(OLS(y, design), arm, results_select=_Selection(odds / (1 + odds)))
    mu = np.column_stack([OLS(y[arm == k], design[arm == k]).fit().predict(design) for k in (0, 1)])
    ours = Study(y, arm, mu, np.column_stack([1 / (1 + odds), odds / (1 + odds)])).ask(estimate_att)
    assert ours.value == pytest.approx(float(theirs.ra(return_results=False, effect_group=1)[0]))


@dataclass
class _Selection:
    """What statsmodels asks of a fitted model of the propensity."""

    probability: Array

    def predict(self) -> Array:
        return self.probability

    @property
    def model(self) -> Any:
        from statsmodels.api import Logit

        return Logit((self.probability > 0.5).astype(float), np.ones(len(self.probability)))


def test_the_overlap_effect_is_robinsons_regression_of_residuals(rng: np.random.Generator) -> None:
    from statsmodels.api import OLS

    x, arm, y, _, _ = simulate(500, rng)
    mu, propensity = parametric(x, arm, y)
    residuals = arm - propensity[:, 1], y - (mu * propensity).sum(axis=1)
    estimate = Study(y, arm, mu, propensity).ask(estimate_ato)
    robinson = OLS(residuals[1], residuals[0]).fit(cov_type="HC1")
    assert estimate.value == pytest.approx(robinson.params[0])
    assert estimate.se == pytest.approx(robinson.bse[0], rel=0.01)
    clusters = rng.integers(0, 30, 500)
    own = Study(y, arm, mu, propensity).ask(estimate_ato, groups=clusters)
    theirs = OLS(residuals[1], residuals[0]).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    assert (own.se, own.statistic, own.p_value) == pytest.approx((theirs.bse[0], theirs.tvalues[0], theirs.pvalues[0]))
    assert own.interval() == pytest.approx(tuple(theirs.conf_int()[0]))
    assert own.df == 29 and "30 clusters" in own.method


def test_the_overlap_effect_agrees_with_econml(rng: np.random.Generator) -> None:
    from econml.dml import LinearDML
    from sklearn.model_selection import KFold

    x, arm, y, _, _ = simulate(400, rng)
    folds = list(KFold(4).split(x))
    theirs = LinearDML(
        model_y=LinearRegression(),
        model_t=LogisticRegression(C=1e6),
        discrete_treatment=True,
        cv=folds,
        random_state=0,
    )
    theirs.fit(y, arm, X=None, W=x)
    mean, share = np.zeros(400), np.zeros(400)
    for train, test in folds:
        mean[test] = LinearRegression().fit(x[train], y[train]).predict(x[test])
        share[test] = LogisticRegression(C=1e6).fit(x[train], arm[train]).predict_proba(x[test])[:, 1]
    # any two means that average to m(x) with e(x) will do: the score knows only their average and difference
    ours = Study(y, arm, np.column_stack([mean, mean]), np.column_stack([1 - share, share])).ask(estimate_ato)
    assert ours.value == pytest.approx(float(theirs.ate()))
    assert ours.se == pytest.approx(float(theirs.ate_inference().stderr_mean), rel=0.02)


@pytest.mark.parametrize("estimand", ["ATT", "ATC", "ATO"])
@pytest.mark.parametrize("wrong", ["mu", "propensity", "neither"])
def test_other_populations_are_doubly_robust(estimand: str, wrong: str, rng: np.random.Generator) -> None:
    n = 100_000
    _, arm, y, mu, propensity = simulate(n, rng)
    effect, e = mu[:, 1] - mu[:, 0], propensity[:, 1]
    tilt = {"ATT": e, "ATC": 1 - e, "ATO": e * (1 - e)}[estimand]
    truth = np.average(effect, weights=tilt)
    if wrong == "mu":
        mu = np.tile([1.0, -1.0], (n, 1))
    if wrong == "propensity" and estimand != "ATO":  # the overlap population is defined by e itself
        propensity = np.full((n, 2), 0.5)
    estimate = Study(y, arm, mu, propensity).ask(ASK[estimand])
    assert estimate.value == pytest.approx(truth, abs=4 * estimate.se)


def test_the_average_of_att_and_atc_is_the_ate(study: Study) -> None:
    share = study.treatment.mean()
    parts = share * study.ask(estimate_att).value + (1 - share) * study.ask(estimate_atc).value
    # the scores of both, weighted by the arms' shares, add up to those of the ATE
    assert parts == pytest.approx(study.ate().value)


def test_of_three_arms_two_take_part(three_arms: Study) -> None:
    both = np.isin(three_arms.treatment, ["placebo", "low"])
    pair = {"treated": "low", "control": "placebo"}
    for question in (estimate_att, estimate_atc, estimate_ato):
        full = three_arms.ask(question, **pair)
        part = three_arms.take(both)
        columns = [three_arms.est().arms_.index(label) for label in ("placebo", "low")]
        e = part.propensity[:, columns]
        two = Study(part.y, part.treatment, part.mu[:, columns], e / e.sum(axis=1, keepdims=True), control="placebo")
        alone = two.ask(question, **pair)
        assert (full.value, full.se, full.df) == pytest.approx((alone.value, alone.se, alone.df))
        assert full.n == alone.n == both.sum()


# ------------------------------------------------------------------------------------------------------------- scales


@pytest.fixture
def events(rng: np.random.Generator) -> Study:
    arm = np.repeat([0, 1], [220, 180])
    return trial((rng.random(400) < np.where(arm == 1, 0.2, 0.35)).astype(float), arm)


def test_ratios_of_a_trial_agree_with_statsmodels(events: Study) -> None:
    from statsmodels.stats.contingency_tables import Table2x2

    arm, y = events.treatment, events.y
    table = Table2x2([[np.sum((arm == k) & (y == v)) for v in (1, 0)] for k in (1, 0)])
    risk, odds = events.ate(scale="ratio"), events.ate(scale="odds ratio")
    assert (risk.value, odds.value) == pytest.approx((table.riskratio, table.oddsratio))
    assert risk.se / risk.value == pytest.approx(table.log_riskratio_se, rel=0.005)
    assert odds.se / odds.value == pytest.approx(table.log_oddsratio_se, rel=0.005)
    assert risk.interval() == pytest.approx(table.riskratio_confint(), rel=0.01)
    assert odds.interval() == pytest.approx(table.oddsratio_confint(), rel=0.01)
    assert odds.statistic == pytest.approx(table.log_oddsratio / table.log_oddsratio_se, rel=0.005)
    assert (risk.unit, odds.unit) == ("risk ratio", "odds ratio")
    p = [y[arm == k].mean() for k in (0, 1)]
    exact = sum((1 - p[k]) / (p[k] * (np.sum(arm == k) - 1)) for k in (0, 1))
    assert risk.se == pytest.approx(risk.value * np.sqrt(exact))


@pytest.mark.parametrize("scale", ["ratio", "odds ratio"])
@pytest.mark.parametrize("question", ASK.values(), ids=ASK)
def test_swapping_arms_inverts_a_ratio(question: Callable[..., Estimate], scale: str, rng: np.random.Generator) -> None:
    _, arm, y, _, propensity = simulate(400, rng)
    y, mu = (y > 0).astype(float), np.full((400, 2), [0.4, 0.6])
    study = Study(y, arm, mu, propensity)
    other = {estimate_att: estimate_atc, estimate_atc: estimate_att}.get(question, question)
    forward, backward = study.ask(question, scale=scale), study.ask(other, scale=scale, treated=0, control=1)
    assert backward.value == pytest.approx(1 / forward.value)
    assert backward.interval()[::-1] == pytest.approx([1 / limit for limit in forward.interval()])
    assert backward.statistic == pytest.approx(-forward.statistic)
    assert backward.p_value == pytest.approx(forward.p_value)
    lower, upper = forward.interval()
    assert lower * upper == pytest.approx(forward.value**2)  # symmetric around it, on the log scale


def test_a_rate_ratio_does_not_know_the_unit(rng: np.random.Generator) -> None:
    _, arm, _, _, propensity = simulate(400, rng)
    y, mu = rng.poisson(2.0 + arm, 400), np.full((400, 2), [2.2, 2.9])
    counts = Study(y, arm, mu, propensity).ate(scale="ratio")
    per_year = Study(y / 7.3 + 0.0, arm, mu / 7.3, propensity).ate(scale="ratio")
    assert (counts.unit, per_year.unit) == ("rate ratio", "ratio of means")
    assert (counts.value, counts.se, counts.p_value) == pytest.approx((per_year.value, per_year.se, per_year.p_value))
    means = Study(y, arm, mu, propensity).means()
    assert counts.value == pytest.approx(means[1].value / means[0].value)


def test_the_number_needed_to_treat_is_one_over_the_risk_difference(events: Study) -> None:
    difference, number = events.ate(), events.ate(scale="nnt")
    assert number.value == pytest.approx(1 / difference.value)
    assert number.interval(0.9)[::-1] == pytest.approx([1 / limit for limit in difference.interval(0.9)])
    assert (number.statistic, number.p_value) == pytest.approx((difference.statistic, difference.p_value))
    assert number.unit == "number needed to treat"


def test_without_a_clear_effect_the_number_needed_runs_through_infinity(events: Study) -> None:
    difference, number = events.ate(), events.ate(scale="nnt")
    level = 0.99995
    below, above = difference.interval(level)
    assert below < 0 < above
    lower, upper = number.interval(level)
    assert (lower, upper) == pytest.approx((1 / below, 1 / above)) and lower < 0 < upper
    assert not lower < number.value < upper  # the interval is what lies outside of the two
    assert f"{upper:.4g} to infinity to {lower:.4g}" in str(replace(number, level=level))
    assert "infinity" not in str(number)


BAD_SCALES: list[tuple[str, dict[str, Any], str]] = [
    ("unknown", {"scale": "log"}, "scale must be one of 'difference', 'ratio', 'odds ratio', 'nnt', got 'log'"),
    ("method", {"method": "ipw"}, "method must be one of 'aipw', 'tmle', got 'ipw'"),
    ("odds", {"scale": "odds ratio"}, "is for binary outcomes, y is continuous: use scale='difference' or 'ratio'"),
    ("negative", {"scale": "ratio"}, "never negative, y goes down to -"),
    ("clusters", {"groups": ["a"] * 299}, "groups has 299 labels for 300 rows"),
    ("no label", {"groups": [None] + ["a"] * 299}, r"groups has no label in row 0 \(1 such\)"),
    ("one cluster", {"groups": ["a"] * 300}, "one cluster of groups"),
]


@pytest.mark.parametrize(("options", "message"), [row[1:] for row in BAD_SCALES], ids=[row[0] for row in BAD_SCALES])
def test_scales_and_clusters_that_do_not_fit_are_refused(options: dict[str, Any], message: str, study: Study) -> None:
    for question in ASK.values():
        with pytest.raises(ValueError, match=message):
            study.ask(question, **options)


def test_a_mean_outside_the_outcomes_range_has_no_ratio_but_tmle_stays_inside() -> None:
    arm = np.tile([0, 1], 30)
    y = np.where(arm == 1, np.arange(60) % 4 == 1, 0).astype(float)
    y[0] = 1.0
    steep = Study(y, arm, np.tile([0.9, 0.5], (60, 1)), np.tile([0.2, 0.8], (60, 1)))
    assert steep.means()[0].value < 0
    for scale in ("ratio", "odds ratio"):
        with pytest.raises(ValueError, match=r"mean outcome of arm 0 is estimated as -.*use method='tmle'"):
            steep.ate(scale=scale)
        assert steep.ate(scale=scale, method="tmle").value > 0
    same = Study(np.tile([0.0, 0.0, 1.0, 1.0], 15), arm, np.full((60, 2), 0.5), np.full((60, 2), 0.5))
    with pytest.raises(ValueError, match="exactly 0, so that no number is needed"):
        same.ate(scale="nnt")


# ---------------------------------------------------------------------------------------------------- targeted learning


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_targeting_is_a_logistic_regression_with_offset(kind: str, rng: np.random.Generator) -> None:
    import statsmodels.api as sm
    from scipy.special import expit, logit

    _, arm, y, mu, propensity = simulate(300, rng)
    y = (y > 0).astype(float) if kind == "binary" else y
    mu = expit(mu + 0.5) if kind == "binary" else mu + 0.5
    low, high = (0.0, 1.0) if kind == "binary" else (min(y.min(), mu.min()), max(y.max(), mu.max()))
    means = []
    for k in (0, 1):
        here = arm == k
        offset = logit(np.clip((mu[:, k] - low) / (high - low), 1e-6, 1 - 1e-6))
        family = sm.families.Binomial()
        model = sm.GLM(
            (y[here] - low) / (high - low),
            np.ones(here.sum()),
            family=family,
            offset=offset[here],
            var_weights=1 / propensity[here, k],
        )
        moved = low + (high - low) * expit(offset + model.fit().params[0])
        # nothing is left to correct: the plug-in mean is the AIPW mean
        assert np.sum((y[here] - moved[here]) / propensity[here, k]) == pytest.approx(0.0, abs=1e-6)
        means.append(moved.mean())
    study = Study(y, arm, mu, propensity)
    assert [m.value for m in study.means(method="tmle").values()] == pytest.approx(means, abs=1e-8)
    assert study.ate(method="tmle").value == pytest.approx(means[1] - means[0], abs=1e-8)
    assert study.ate().value != pytest.approx(means[1] - means[0], abs=1e-4)


def test_targeting_stays_in_the_outcomes_range_and_is_doubly_robust(rng: np.random.Generator) -> None:
    n = 50_000
    _, arm, y, mu, propensity = simulate(n, rng)
    event = (y > 1).astype(float)
    truth = stats.norm.sf(1 - mu)
    for wrong in (np.full((n, 2), 0.5), truth):
        means = Study(event, arm, wrong, propensity).means(method="tmle")
        for k in (0, 1):
            assert means[k].value == pytest.approx(truth[:, k].mean(), abs=4 * means[k].se)
    arm = np.repeat([0, 1], 20)
    sure = Study(
        np.where(arm == 1, 1.0, np.arange(40) % 2), arm, np.tile([0.5, 0.9], (40, 1)), np.full((40, 2), 0.5)
    ).means(method="tmle")
    assert sure[1].value == 1.0 and sure[1].se == pytest.approx(0.0, abs=1e-12)


# -------------------------------------------------------------------------------------------------- clusters and trials


def test_cluster_errors_are_those_of_statsmodels(study: Study, rng: np.random.Generator) -> None:
    from statsmodels.api import OLS

    scores = aipw_scores(study.y, study.treatment, study.mu, study.propensity)
    clusters = np.array(["ward " + str(k) for k in rng.integers(0, 25, 300)])
    phi, ones = scores[:, 1] - scores[:, 0], np.ones(300)
    options: dict[str, Any] = {"cov_type": "cluster", "cov_kwds": {"groups": pd.factorize(clusters)[0]}, "use_t": True}
    theirs, ours = OLS(phi, ones).fit(**options), study.ate(groups=clusters)
    assert (ours.value, ours.se, ours.p_value) == pytest.approx((theirs.params[0], theirs.bse[0], theirs.pvalues[0]))
    assert ours.interval() == pytest.approx(tuple(theirs.conf_int()[0]))


def test_a_patient_entered_twice_is_one_patient(study: Study) -> None:
    twice = study.take(np.repeat(np.arange(300), 2))
    plain, clustered = twice.ate(), twice.ate(groups=np.repeat(np.arange(300), 2))
    assert clustered.value == pytest.approx(study.ate().value)
    assert clustered.se == pytest.approx(study.ate().se, rel=0.01)
    assert plain.se == pytest.approx(study.ate().se / np.sqrt(2), rel=0.01)


def test_known_propensities_take_the_place_of_estimates(study: Study) -> None:
    known = np.column_stack([np.full(300, 0.4), np.full(300, 0.6)])
    for question in ASK.values():
        expected = Study(study.y, study.treatment, study.mu, known).ask(question)
        assert study.ask(question, propensity=known) == expected != study.ask(question)
    assert study.means(propensity=known)[1] == Study(study.y, study.treatment, study.mu, known).means()[1]
    assert study.gate(by=np.arange(300) % 2, propensity=known)[0].value != study.gate(by=np.arange(300) % 2)[0].value


# ----------------------------------------------------------------------------------------------------------- subgroups


@pytest.mark.parametrize("method", ["aipw", "tmle"])
@pytest.mark.parametrize("scale", ["difference", "ratio"])
def test_a_subgroups_effect_is_that_of_its_rows_alone(scale: str, method: str, rng: np.random.Generator) -> None:
    _, arm, y, mu, propensity = simulate(300, rng)
    study = Study(np.exp(y / 4), arm, np.exp(mu / 4), propensity)
    region, weight = rng.choice(["north", "south", "west"], 300), rng.random(300)
    found = study.gate(by=region, sample_weight=weight, scale=scale, method=method)
    assert found.labels == ("north", "south", "west") and found.by == "group" and found.n == 300
    for label, estimate in zip(found.labels, found, strict=True):
        here = region == label
        alone = study.take(here).ate(sample_weight=weight[here], scale=scale, method=method)
        assert (estimate.value, estimate.se, estimate.df, estimate.n) == pytest.approx(
            (alone.value, alone.se, alone.df, here.sum())
        )
        assert estimate.interval() == pytest.approx(alone.interval())
    assert np.abs(found.covariance - np.diag(np.diag(found.covariance))).max() < 1e-16


def test_subgroups_average_to_the_whole(study: Study, rng: np.random.Generator) -> None:
    weight, label = rng.random(300), rng.integers(0, 5, 300)
    found = study.gate(by=label, sample_weight=weight)
    share = np.bincount(label, weight) / weight.sum()
    assert share @ found.value == pytest.approx(study.ate(sample_weight=weight).value)
    assert study.gate(by=np.zeros(300))[0].interval() == pytest.approx(study.ate().interval())


def test_columns_make_groups_as_a_reader_expects(study: Study, rng: np.random.Generator) -> None:
    age = rng.permutation(300).astype(float)
    stage = pd.Categorical(rng.choice(["late", "early"], 300), categories=["early", "late", "never"], ordered=True)
    study.X = pd.DataFrame(
        {"age": age, "stage": stage, "female": rng.random(300) < 0.5, "visits": rng.integers(0, 4, 300), "cate": stage}
    )
    assert study.gate(by="stage").labels == ("early", "late")  # the order of the categories, without empty ones
    assert study.gate(by="cate").labels == ("early", "late")  # a column of that name is a column
    assert study.gate(by="female").labels == (False, True)
    assert study.gate(by="visits").labels == (0, 1, 2, 3)
    quarters = study.gate(by="age")
    assert [e.n for e in quarters] == [75] * 4 and quarters.by == "age"
    limits = pd.qcut(age, 4).categories
    named = [f"({one.left:.6g}, {one.right:.6g}]" for one in limits]
    assert list(quarters.labels) == [f"[{age.min():.6g}, {limits[0].right:.6g}]", *named[1:]]
    here = (age > limits[1].left) & (age <= limits[1].right)
    assert quarters[1].value == pytest.approx(study.take(here).ate().value)
    assert len(study.gate(by="age", n_groups=3)) == 3
    assert quarters[1].name.startswith("GATE, age (")
    study.X["entry"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(age, unit="D")
    assert [e.n for e in study.gate(by="entry", n_groups=2)] == [150, 150]
    study.X["count"] = pd.array([k if k % 10 else None for k in range(300)], dtype="Int64")
    assert [e.n for e in study.gate(by="count", n_groups=2)] == [135, 135, 30]
    series = pd.Series(age, name="age at entry", index=np.arange(300) + 5)
    assert study.gate(by=series, n_groups=2).by == "age at entry"
    study.X = np.column_stack([age, age % 2])
    assert study.gate(by=1).labels == (0.0, 1.0) and study.gate(by=1).by == "column 1"


def test_rows_without_a_label_are_a_group_of_their_own(study: Study) -> None:
    label = np.array(["a", None, "b"] * 100, dtype=object)
    found = study.gate(by=label)
    assert found.labels == ("a", "b", "missing") and [e.n for e in found] == [100] * 3
    assert found[2].value == pytest.approx(study.take(np.arange(1, 300, 3)).ate().value)
    weight = np.where(label == None, 0.0, 1.0)  # noqa: E711 - elementwise
    assert study.gate(by=label, sample_weight=weight).labels == ("a", "b")
    number = np.where(np.arange(300) % 3 == 1, np.nan, np.arange(300))
    assert study.gate(by=number, n_groups=2).labels[-1] == "missing"


def test_left_out_groups_are_sorted_by_the_predicted_effect(study: Study, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="keeps no held-out laws for these rows: name a column"):
        study.gate()
    effect = rng.permutation(300)
    draws = np.zeros((1, 2, 300, 2))
    draws[..., 1] = effect
    study.outcomes = PotentialOutcomes(draws)
    found = study.gate(n_groups=3)
    assert found.by == "predicted effect" and [e.n for e in found] == [100] * 3
    assert found[2].value == pytest.approx(study.take(effect >= 200).ate().value)


BAD_GROUPS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("column", {"by": "sex"}, ValueError, "by='sex' is no column of X: name one of 'age', 'arm', or give labels"),
    ("length", {"by": [1, 2]}, ValueError, "by has 2 labels for 300 rows"),
    ("words", {"by": ["a", "b"] * 150, "n_groups": 2}, TypeError, "n_groups cuts numbers into quantile groups"),
    ("n_groups", {"by": "age", "n_groups": 1}, ValueError, "n_groups must be an int of 2 or more, got 1"),
    ("one arm", {"by": "arm"}, ValueError, r"arm 1 has 0 row\(s\) of positive weight where arm is 0"),
    ("nothing", {"by": [None] * 300, "sample_weight": np.zeros(300)}, ValueError, "zero everywhere"),
]


@pytest.mark.parametrize(
    ("options", "error", "message"), [row[1:] for row in BAD_GROUPS], ids=[row[0] for row in BAD_GROUPS]
)
def test_bad_groups_say_what_is_wrong(
    options: dict[str, Any], error: type[Exception], message: str, study: Study
) -> None:
    study.X = pd.DataFrame({"age": np.arange(300.0), "arm": study.treatment})
    with pytest.raises(error, match=message):
        study.gate(**options)


def test_joint_covariance_of_subgroups_is_that_of_statsmodels(study: Study, rng: np.random.Generator) -> None:
    from statsmodels.api import OLS

    label, clusters = np.arange(300) % 3, rng.integers(0, 20, 300)
    found = study.gate(by=label, groups=clusters)
    scores = aipw_scores(study.y, study.treatment, study.mu, study.propensity)
    dummies = (label[:, None] == np.arange(3)).astype(float)
    theirs = OLS(scores[:, 1] - scores[:, 0], dummies).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    factor = 299 / (300 - 3)  # statsmodels' own, beside G / (G - 1)
    np.testing.assert_allclose(found.covariance, theirs.cov_params() / factor, rtol=1e-9)
    assert np.abs(found.covariance[0, 1]) > 0
    test, wald = found.heterogeneity(), theirs.wald_test(np.array([[-1, 1, 0], [-1, 0, 1]]), use_f=False, scalar=True)
    assert (test.statistic, test.df) == pytest.approx((wald.statistic * factor, 2))
    assert test.p_value == pytest.approx(stats.chi2.sf(test.statistic, 2))
    assert "GATE is the same at every group: chi2(2)" in str(test)


# ------------------------------------------------------------------------------------------- several estimates at once


def several(covariance: Array, **options: Any) -> Estimates:
    each = [Estimate(float(k), float(np.sqrt(v)), "m", 9, **options) for k, v in enumerate(np.diag(covariance))]
    return Estimates(each, covariance, range(len(each)))


def test_critical_values_of_one_and_of_independent_estimates() -> None:
    assert several(np.eye(1)).critical_values(0.9) == pytest.approx(stats.norm.ppf(0.95))
    assert several(np.eye(1), df=7.0).critical_values(0.9) == pytest.approx(stats.t.ppf(0.95, 7))
    sidak = 0.5 + 0.9 ** (1 / 4) / 2
    assert several(np.eye(4)).critical_values(0.9) == pytest.approx(stats.norm.ppf(sidak))
    assert several(4 * np.eye(4), df=7.0).critical_values(0.9) == pytest.approx(stats.t.ppf(sidak, 7))


def test_critical_values_lie_between_those_of_one_and_of_independent_estimates() -> None:
    same = several(np.ones((3, 3))).critical_values(0.95)
    assert same == pytest.approx(stats.norm.ppf(0.975), abs=0.01)
    half = several(0.5 + 0.5 * np.eye(3)).critical_values(0.95)
    joint = stats.multivariate_normal(np.zeros(3), 0.5 + 0.5 * np.eye(3))
    assert joint.cdf(half, lower_limit=-half) == pytest.approx(0.95, abs=2e-3)
    assert several(0.5 + 0.5 * np.eye(3)).critical_values(0.95) == pytest.approx(half, abs=0)  # no luck in it
    # a sign is no matter
    flipped = np.array([[1, -0.5, 0.5], [-0.5, 1, -0.5], [0.5, -0.5, 1]])
    assert several(flipped).critical_values(0.95) == pytest.approx(half, abs=0.01)


def test_bands_widen_the_intervals_and_ratios_stay_positive() -> None:
    pair = several(np.diag([1.0, 4.0]), df=10.0)
    lower, upper = pair.interval(0.9, simultaneous=True)
    assert (upper - lower) / 2 == pytest.approx(pair.critical_values(0.9) * [1, 2])
    assert pair.interval(0.9)[0] == pytest.approx([e.interval(0.9)[0] for e in pair])
    ratios = Estimates([Estimate(2.0, 1.0, "m", 9, link="log")] * 2, np.eye(2) / 4, "ab")
    lower, upper = ratios.interval(simultaneous=True)
    assert (lower > 0).all() and lower * upper == pytest.approx([4.0, 4.0])
    assert ratios.heterogeneity().statistic == pytest.approx(0.0)


def test_estimates_are_a_sequence_and_print_as_statsmodels_does() -> None:
    import statsmodels.api as sm

    pair = several(np.diag([1.0, 4.0]), df=10.0, treated="drug", control="placebo", estimand="GATE")
    assert len(pair) == 2 and [e.value for e in pair] == [0.0, 1.0] and pair[1].value == pair.value[1] == 1.0
    assert pair.se.tolist() == [1.0, 2.0]
    frame = pair.to_frame()
    assert list(frame.columns) == ["coef", "std err", "t", "P>|t|", "[0.025", "0.975]"]
    assert frame.index.tolist() == [0, 1] and frame.index.name == "group"
    wide = pair.to_frame(simultaneous=True)
    assert (wide["0.975]"] > frame["0.975]"]).all()
    text = pair.summary(simultaneous=True)
    rng = np.random.default_rng(0)
    theirs = sm.OLS(rng.normal(size=24), np.eye(24)[:, :2]).fit().summary().tables[1].as_text().splitlines()
    ours = text.splitlines()
    header = ours.index(theirs[1])
    assert ours[header - 1] == theirs[0] and ours[header + 1] == theirs[2]
    limits = [f"{limit:.3f}" for limit in wide.iloc[1, 4:]]
    assert ours[header + 3].split() == ["1", "1.0000", "2.000", "0.500", "0.628", *limits]
    assert "simultaneous" in text and "the same at every group: chi2(1)" in text and "drug vs placebo" in text
    assert str(pair) == f"{pair[0]}\n{pair[1]}"


def test_estimates_that_do_not_belong_together_are_refused() -> None:
    one = Estimate(1.0, 1.0, "m", 9)
    with pytest.raises(ValueError, match=r"2 estimates were given with 1 labels and a covariance of shape \(2, 2\)"):
        Estimates([one, one], np.eye(2), "a")
    with pytest.raises(ValueError, match="one level and one link"):
        Estimates([one, replace(one, link="log")], np.eye(2), "ab")
    with pytest.raises(ValueError, match="not the squared standard errors"):
        Estimates([one, one], 2 * np.eye(2), "ab")
    with pytest.raises(ValueError, match="nothing to differ from"):
        Estimates([one], np.eye(1), "a").heterogeneity()
    with pytest.raises(ValueError, match="singular"):
        Estimates([one, one], np.ones((2, 2)), "ab").heterogeneity()
    for options, message in (({"df": 0.0}, "degrees of freedom"), ({"link": "logit"}, "link must be one of")):
        with pytest.raises(ValueError, match=message):
            replace(one, **options)
    with pytest.raises(ValueError, match="has no log"):
        Estimate(-1.0, 1.0, "m", 9, link="log")


def test_students_t_is_that_of_statsmodels(rng: np.random.Generator) -> None:
    import statsmodels.api as sm

    model = sm.OLS(rng.normal(0.5, 1, 24), np.ones(24)).fit()
    ours = Estimate(float(model.params[0]), float(model.bse[0]), method="mean", n=24, df=23)
    assert ours.p_value == pytest.approx(float(model.pvalues[0]))
    assert ours.interval(0.9) == pytest.approx(tuple(model.conf_int(0.1)[0]))
    row = next(line for line in model.summary().tables[1].as_text().splitlines() if "const" in line).split()
    assert ours.summary().splitlines()[-2].split()[1:] == row[1:]
    assert "Df:" in ours.summary() and "24" in ours.summary()


# ----------------------------------------------------------------------------------------------------------- quantiles


def test_quantile_effects_of_a_trial_are_those_of_the_samples(rng: np.random.Generator) -> None:
    arm = np.repeat([0, 1], [151, 99])
    y = rng.gamma(2.0, 1.0 + arm)
    q = [0.1, 0.37, 0.5, 0.8]
    found = trial(y, arm).qte(q=q)
    expected = [np.quantile(y[arm == k], q, method="inverted_cdf") for k in (0, 1)]
    with_laws = trial(y, arm, outcomes=PotentialOutcomes(rng.normal(size=(2, 5, 1, 2)).repeat(250, axis=2))).qte(q=q)
    np.testing.assert_allclose(with_laws.value, expected[1] - expected[0], rtol=1e-6)
    np.testing.assert_allclose(found.value, expected[1] - expected[0])
    assert found.labels == tuple(q) and found.by == "quantile"
    assert found[1].name == "QTE, quantile 0.37 [1 vs 0]"


def test_errors_of_quantiles_are_those_of_a_normal_sample(rng: np.random.Generator) -> None:
    arm = np.repeat([0, 1], 20_000)
    found = trial(rng.normal(size=40_000) * (1 + arm), arm).qte(q=[0.1, 0.5, 0.75])
    for estimate, q in zip(found, (0.1, 0.5, 0.75), strict=True):
        density = stats.norm.pdf(stats.norm.ppf(q))
        assert estimate.se == pytest.approx(np.sqrt(q * (1 - q) * (1 + 4) / 20_000) / density, rel=0.06)
        assert estimate.value == pytest.approx(stats.norm.ppf(q), abs=4 * estimate.se)
    joint = found.covariance[1, 2] / np.prod(found.se[1:])
    assert joint == pytest.approx(np.sqrt(0.5 * 0.25 / (0.75 * 0.5)), abs=0.02)  # of two order statistics


def confounded(n: int, rng: np.random.Generator) -> tuple[Study, Array]:
    """A study with its true laws as 50 quantile nodes, and the true quartile effects."""
    _, arm, y, mu, propensity = simulate(n, rng)
    nodes = stats.norm.ppf((np.arange(50) + 0.5) / 50)
    outcomes = PotentialOutcomes((mu + nodes[:, None, None])[None])
    wide = np.sqrt([5 + 1, 2.5**2 + 1 + 1])  # of 2 x0 + x1 + noise, and of 1 + 2.5 x0 + x1 + noise
    truth = ATE + stats.norm.ppf([0.25, 0.5, 0.75]) * (wide[1] - wide[0])
    return Study(y, arm, mu, propensity, outcomes=outcomes), truth


@pytest.mark.parametrize("wrong", ["laws", "propensity", "no laws"])
def test_quantile_effects_are_doubly_robust(wrong: str, rng: np.random.Generator) -> None:
    study, truth = confounded(20_000, rng)
    assert study.outcomes is not None
    if wrong == "laws":
        study.outcomes = PotentialOutcomes(np.broadcast_to([-1.0, 1.0], (1, 2, 20_000, 2)))
    if wrong == "propensity":
        study.propensity = np.full((20_000, 2), 0.5)
    if wrong == "no laws":
        study.outcomes = None
    found = study.qte()
    assert np.abs((found.value - truth) / found.se).max() < 4
    naive = [np.quantile(study.y[study.treatment == k], [0.25, 0.5, 0.75]) for k in (0, 1)]
    assert np.abs((naive[1] - naive[0] - truth) / found.se).max() > 10


def test_good_laws_make_quantile_effects_more_precise(rng: np.random.Generator) -> None:
    study, _ = confounded(2000, rng)
    blind = replace(study, outcomes=PotentialOutcomes(np.zeros((1, 2, 2000, 2))))
    assert (study.qte().se < 0.9 * blind.qte().se).all()


def test_quantile_effects_move_with_the_outcome_and_swap_sign(rng: np.random.Generator) -> None:
    study, _ = confounded(400, rng)
    assert study.outcomes is not None
    before, swapped = study.qte(), study.qte(treated=0, control=1)
    np.testing.assert_allclose(swapped.value, -before.value)
    np.testing.assert_allclose(swapped.covariance, before.covariance)
    moved = Study(5 + 2 * study.y, study.treatment, study.mu, study.propensity)
    moved.outcomes = PotentialOutcomes(5 + 2 * study.outcomes.draws.astype(float))
    np.testing.assert_allclose(moved.qte().value, 2 * before.value, rtol=1e-4)
    np.testing.assert_allclose(moved.qte().se, 2 * before.se, rtol=1e-3)
    rows = rng.permutation(400)
    np.testing.assert_allclose(study.take(rows).qte().value, before.value)
    weight = rng.integers(1, 4, 400)
    weighted, repeated = study.qte(sample_weight=weight), study.take(np.repeat(np.arange(400), weight)).qte()
    np.testing.assert_allclose(weighted.value, repeated.value)
    doubled = study.take(np.repeat(np.arange(400), 2)).qte(groups=np.repeat(np.arange(400), 2))
    np.testing.assert_allclose(doubled.value, before.value)


def test_a_distribution_that_dips_is_rearranged() -> None:
    from effects.inference.quantiles import _Marginal

    points = np.sort(np.random.default_rng(0).random(400))
    cumulative = np.linspace(0, 1, 400) + 0.2 * np.sin(np.linspace(0, 20, 400))
    law = _Marginal(points, cumulative)
    q = np.linspace(0.05, 0.95, 19)
    found = law.quantile(q)
    assert (np.diff(found) >= 0).all()
    fine = np.linspace(points[0], points[-1], 200_001)
    steps = np.sort(cumulative[np.searchsorted(points, fine, side="right") - 1])
    np.testing.assert_allclose(found, fine[np.searchsorted(steps, q)], atol=1e-4)


def test_thinned_laws_change_next_to_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    from effects.inference import quantiles

    study, _ = confounded(1000, rng)
    assert study.outcomes is not None
    members = study.outcomes.draws + rng.normal(scale=0.1, size=(8, 1, 1000, 2))
    study.outcomes = PotentialOutcomes(members)
    full = study.qte()
    for points in (100_000, 20_000):
        monkeypatch.setattr(quantiles, "MOST_POINTS", points)
        thin = study.qte()
        assert np.abs((thin.value - full.value) / full.se).max() < 0.35
        np.testing.assert_allclose(thin.se, full.se, rtol=0.15)


def test_quantiles_that_have_no_error_are_refused(study: Study, events: Study) -> None:
    with pytest.raises(ValueError, match="y is binary: its quantiles jump"):
        events.qte()
    for q in (0.0, [0.5, 1.0], [0.5, 0.5], [[0.5]]):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            study.qte(q=q)
    zeros = replace(study, y=np.where(np.arange(300) % 5 < 2, 0.0, np.abs(study.y) + 1))
    with pytest.raises(ValueError, match=r"% of the outcomes of arm . are equal to 0, near the quantile q=0.25"):
        zeros.qte(q=[0.25])
    assert zeros.qte(q=[0.9]).se[0] > 0


# ----------------------------------------------------------------------------------------------------- a real estimator


class Averages(EffectEstimator):
    """The base class with nothing learned but the nuisances."""

    def __init__(
        self, outcome: str = "auto", control: Any = None, nuisance: Nuisance | None = None, random_state: Any = None
    ) -> None:
        self.outcome, self.control, self.nuisance, self.random_state = outcome, control, nuisance, random_state

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        return {"history_": [], "predict_": data.nuisance.predict}

    def _sample(self, inputs: Any, n_draws: int | None, rng: np.random.Generator) -> Any:
        means = self.predict_(inputs).mu[None]
        return means[None].astype(np.float32), means


def linear_nuisance() -> Nuisance:
    return Nuisance(LinearRegression(), LogisticRegression(C=1e6), n_folds=3, random_state=0)


def test_an_estimator_lends_its_out_of_fold_nuisances(rng: np.random.Generator) -> None:
    x, arm, y, _, _ = simulate(400, rng)
    X = pd.DataFrame(x, columns=["age", "dose"])
    est = Averages(nuisance=linear_nuisance(), random_state=0).fit(X, y, treatment=arm)
    held = est.nuisance_.out_of_fold_
    estimate = estimate_ate(est, X, y, treatment=arm)
    assert estimate.value == Study(y, arm, held.mu, held.propensity).ate().value
    assert estimate.value == pytest.approx(ATE, abs=4 * estimate.se)
    assert estimate.n == 400 and "AIPW" in estimate.method
    x, arm, y, _, _ = simulate(300, rng)
    elsewhere = estimate_ate(est, pd.DataFrame(x, columns=["age", "dose"]), y, treatment=arm)
    assert elsewhere.n == 300 and elsewhere.value == pytest.approx(ATE, abs=4 * elsewhere.se)


@pytest.mark.slow
def test_cross_fitted_boosting_covers_the_truth(rng: np.random.Generator) -> None:
    replications, covered, values = 30, 0, []
    for seed in range(replications):
        x, arm, y, _, _ = simulate(600, rng)
        estimate = estimate_ate(Averages(random_state=seed).fit(x, y, treatment=arm), x, y, treatment=arm)
        lower, upper = estimate.interval(0.9)
        covered += lower <= ATE <= upper
        values.append(estimate.value)
    assert stats.binomtest(covered, replications, 0.9, alternative="less").pvalue > 1e-3
    assert np.mean(values) == pytest.approx(ATE, abs=4 * np.std(values) / np.sqrt(replications))


# ------------------------------------------------------------------------------------------------------------ bad input

MU, HALF = np.zeros((3, 2)), np.full((3, 2), 0.5)
BAD_SCORES: list[tuple[str, Callable[[], object], str]] = [
    ("rows", lambda: aipw_scores([1.0, 2.0], [0, 1], MU, HALF), r"y has shape \(2,\), expected shape \(3,\)"),
    ("flat mu", lambda: aipw_scores([1.0] * 3, [0, 1, 1], np.zeros(3), HALF), r"mu has shape \(3,\)"),
    ("one propensity", lambda: aipw_scores([1.0] * 3, [0, 1, 1], MU, HALF[:, 0]), r"propensity has shape \(3,\)"),
    ("NaN outcome", lambda: aipw_scores([1.0, np.nan, 0.0], [0, 1, 1], MU, HALF), r"y is nan at \(1,\)"),
    ("infinite mu", lambda: aipw_scores([1.0] * 3, [0, 1, 1], MU + np.inf, HALF), r"mu is inf at \(0, 0\)"),
    ("third arm", lambda: aipw_scores([1.0] * 3, [0, 1, 2], MU, HALF), r"a holds arms from 0 to 2, expected 0..1"),
    ("labels", lambda: aipw_scores([1.0] * 3, ["a", "b", "b"], MU, HALF), "a must hold integer arms"),
    ("percent", lambda: aipw_scores([1.0] * 3, [0, 1, 1], MU, 100 * HALF), "probabilities lie in"),
    ("sum", lambda: aipw_scores([1.0] * 3, [0, 1, 1], MU, HALF + 0.1), "propensity sums to 1.2 over the arms in row 0"),
    (
        "zero",
        lambda: aipw_scores([1.0] * 3, [0, 1, 1], MU, [[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]),
        r"propensity is 0 for the arm that 1 row\(s\) received \(first: row 2, arm 1\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), [row[1:] for row in BAD_SCORES], ids=[row[0] for row in BAD_SCORES])
def test_bad_scores_say_what_is_wrong(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"treated": 2}, "treated=2 is no arm of this estimator: name one of 0, 1"),
        ({"control": "placebo"}, "control='placebo' is no arm"),
        ({"treated": 0}, "treated and control are both 0"),
        ({"level": 95}, "level must lie strictly between 0 and 1"),
        ({"sample_weight": np.ones(5)}, r"sample_weight has shape \(5,\), expected shape \(300,\)"),
        ({"sample_weight": -np.ones(300)}, "sample_weight is -1 in row 0"),
        ({"sample_weight": np.zeros(300)}, "zero everywhere"),
        ({"sample_weight": np.full(300, np.nan)}, "sample_weight is nan"),
    ],
)
def test_bad_options_say_what_is_wrong(options: dict[str, Any], message: str, study: Study) -> None:
    with pytest.raises(ValueError, match=message):
        study.ate(**options)


def test_rows_must_agree(study: Study) -> None:
    with pytest.raises(ValueError, match="X, y and treatment have 299, 300 and 300 rows"):
        estimate_ate(study.est(), np.zeros((299, 2)), study.y, treatment=study.treatment)


def test_an_unknown_arm_in_the_table_is_named(study: Study) -> None:
    with pytest.raises(ValueError, match="7"):
        estimate_ate(study.est(), np.zeros((300, 2)), study.y, treatment=np.where(study.treatment == 1, 7, 0))


def test_an_unfitted_estimator_is_refused() -> None:
    with pytest.raises(NotFittedError, match="call fit"):
        estimate_ate(Averages(), np.zeros((3, 1)), [1.0, 2.0, 3.0], treatment=[0, 1, 1])
