"""AIPW against closed forms, other packages and simulations whose truth is known."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression

from effects.effect import Estimate
from effects.estimator import EffectEstimator, TrainingData
from effects.inference import aipw_scores, estimate_ate, mean_and_se, outcome_means
from effects.nuisance import Nuisance, NuisanceValues
from effects.schema import Schema

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass
class Given:
    """A fitted estimator as far as inference sees it: an encoding, arms, and nuisances that a test chose."""

    schema_: Schema
    values: NuisanceValues

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def cross_fitted(self, X: Any, y: Any, *, treatment: Any, sample_weight: ArrayLike | None = None) -> NuisanceValues:
        return self.values


@dataclass
class Study:
    """Rows, the nuisances given for them, and the two calls that all tests make."""

    y: Any
    treatment: Any
    mu: Array
    propensity: Array
    control: Any = None

    def est(self) -> Given:
        X = np.arange(2.0 * len(self.y)).reshape(-1, 2)
        schema = Schema.learn(X, self.y, self.treatment, control=self.control)
        return Given(schema, NuisanceValues(self.mu, self.mu, self.propensity))

    def ate(self, **options: Any) -> Estimate:
        return estimate_ate(self.est(), np.zeros((len(self.y), 2)), self.y, treatment=self.treatment, **options)

    def means(self, **options: Any) -> dict[Hashable, Estimate]:
        return outcome_means(self.est(), np.zeros((len(self.y), 2)), self.y, treatment=self.treatment, **options)

    def take(self, rows: NDArray[Any]) -> Study:
        return Study(self.y[rows], self.treatment[rows], self.mu[rows], self.propensity[rows], self.control)


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


def test_a_trial_without_covariates_is_the_difference_of_means_with_welch_error(rng: np.random.Generator) -> None:
    arm = np.repeat([0, 1], [120, 60])
    y = rng.normal(arm * 2.0, 1.0 + arm)
    mu = np.tile([y[arm == 0].mean(), y[arm == 1].mean()], (180, 1))
    estimate = Study(y, arm, mu, np.tile([2 / 3, 1 / 3], (180, 1))).ate()
    assert estimate.value == pytest.approx(y[arm == 1].mean() - y[arm == 0].mean())
    assert estimate.se == pytest.approx(np.sqrt(y[arm == 0].var() / 120 + y[arm == 1].var() / 60))


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


def test_the_standard_error_is_the_scores_sd_over_root_n(study: Study) -> None:
    scores = aipw_scores(study.y, study.treatment, study.mu, study.propensity)
    phi = scores[:, 1] - scores[:, 0]
    assert mean_and_se(phi) == pytest.approx((phi.mean(), phi.std() / np.sqrt(300)))
    assert study.ate(level=0.8).interval() == pytest.approx(
        (phi.mean() - 1.2815515655446004 * study.ate().se, phi.mean() + 1.2815515655446004 * study.ate().se)
    )


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
    assert "smallest 0.004" in message and "trim" in message and "overlap-weighted" in message
    assert caught[0].filename == __file__
    assert value == pytest.approx(np.mean(np.where(arm == 1, y / p, -y / (1 - p))))
    with pytest.warns(UserWarning, match="Weak overlap"):
        study.means()


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


# ----------------------------------------------------------------------------------------------------- a real estimator


class Averages(EffectEstimator):
    """The base class with nothing learned but the nuisances."""

    def __init__(
        self, outcome: str = "auto", control: Any = None, nuisance: Nuisance | None = None, random_state: Any = None
    ) -> None:
        self.outcome, self.control, self.nuisance, self.random_state = outcome, control, nuisance, random_state

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        return {"history_": []}


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
