"""Refutations: sound procedures pass as often as they say, broken ones and hidden confounding are found."""

# mypy: disable-error-code="operator, index, arg-type, attr-defined"

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold
from sklearn.tree import DecisionTreeRegressor

from effects.datasets import CausalDataset
from effects.diagnostics import (
    Check,
    Checks,
    placebo_outcome,
    placebo_treatment,
    random_common_cause,
    run_checks,
    subset_stability,
)
from effects.diagnostics.refit import Rows
from effects.effect import Estimate
from effects.nuisance import CrossFitted, Nuisance
from effects.outcomes import PotentialOutcomes
from effects.schema import Schema

Array = NDArray[np.float64]
NODES = stats.norm.ppf((np.arange(50) + 0.5) / 50)
LINEAR = Nuisance(LinearRegression(), LogisticRegression())
BLIND = Nuisance(DummyRegressor(), DummyClassifier())


@dataclass
class Given:
    """A fitted estimator as far as these checks see it, with predictions and nuisance models that a test chose."""

    schema_: Schema
    values: CrossFitted
    nuisance: Nuisance | None = None
    asked: list[Any] = field(default_factory=list)

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def cross_fitted(
        self, X: Any, y: Any, *, treatment: Any, sample_weight: ArrayLike | None = None, propensity: Any = None
    ) -> CrossFitted:
        self.asked.append(sample_weight)
        return self.values if propensity is None else replace(self.values, propensity=propensity)


@dataclass
class Study:
    X: Any
    y: Array
    arm: NDArray[np.int64]
    mu: Array
    e: Array
    hidden: Array
    nuisance: Nuisance | None = field(default_factory=lambda: LINEAR)

    def est(self) -> Given:
        schema = Schema.learn(self.X, self.y, self.arm)
        draws = self.mu[None, None] + NODES[None, :, None, None]
        if schema.outcome.kind == "binary":
            draws = self.mu[None, None]
        outcomes = PotentialOutcomes(draws.astype(np.float32), schema.arms, schema.outcome.kind)
        return Given(schema, CrossFitted(self.mu, self.e, outcomes), self.nuisance)

    def ask(self, function: Any, outcome: Any = None, **options: Any) -> Any:
        return function(self.est(), self.X, self.y if outcome is None else outcome, treatment=self.arm, **options)


def study(
    n: int = 400, seed: int = 0, *, confounded: float = 1.0, unseen: float = 0.0, n_arms: int = 2, tau: float = 1.0
) -> Study:
    """Linear in three covariates; a hidden one drives treatment and outcome by `unseen`."""
    rng = np.random.default_rng(seed)
    X, hidden = rng.normal(size=(n, 3)), rng.normal(size=n)
    known = np.outer(confounded * X[:, 0], np.arange(n_arms))
    score = np.exp(known + np.outer(unseen * hidden, np.arange(n_arms)))
    arm = (rng.random((n, 1)) > (score / score.sum(axis=1, keepdims=True)).cumsum(axis=1)[:, :-1]).sum(axis=1)
    e = np.exp(known) / np.exp(known).sum(axis=1, keepdims=True)
    mu = (X[:, 0] + X[:, 1])[:, None] + tau * np.arange(n_arms)
    y = mu[np.arange(n), arm] + unseen * hidden + rng.normal(size=n)
    return Study(X, y, arm, mu, e, hidden)


# ---- refitting


def test_an_estimate_is_cross_fitted_aipw_by_hand() -> None:
    base = study(200)
    w = np.random.default_rng(0).uniform(0.5, 2, 200)
    rows = Rows.read(base.est(), base.X, base.y, base.arm, (None, None), w, None, "ATE", "quick")
    w /= w.mean()  # as the models are given them, whose penalties heed their scale
    X, score = base.X.astype(np.float32).astype(float), np.empty(200)
    E = base.est().schema_.encode(X).astype(float)
    for train, test in StratifiedKFold(2, shuffle=True, random_state=5).split(X, base.arm):
        e = LogisticRegression().fit(E[train], base.arm[train], sample_weight=w[train]).predict_proba(E[test])[:, 1]
        m = []
        for k in (0, 1):
            own = train[base.arm[train] == k]
            m.append(LinearRegression().fit(E[own], base.y[own], sample_weight=w[own]).predict(E[test]))
        a, y = base.arm[test], base.y[test]
        score[test] = m[1] - m[0] + a * (y - m[1]) / e - (1 - a) * (y - m[0]) / (1 - e)
    found = rows.estimate(5)
    assert found.value == pytest.approx(np.average(score, weights=w))
    assert found.se == pytest.approx(np.sqrt(np.sum((w * (score - found.value)) ** 2)) / w.sum(), rel=0.01)
    assert rows.estimate(5) == found and rows.estimate(6) != found


@pytest.mark.parametrize("estimand", ["ATE", "ATT", "ATC", "ATO"])
def test_estimands_and_rows_of_weight_zero(estimand: str) -> None:
    base = study(300, 1)
    w = (np.arange(300) >= 50).astype(float)
    rows = Rows.read(base.est(), base.X, base.y, base.arm, (None, None), w, None, estimand, "quick")
    assert len(rows.a) == 250 and rows.estimate(0).value == pytest.approx(1, abs=0.4)
    rest = replace(base, X=base.X[50:], y=base.y[50:], arm=base.arm[50:], mu=base.mu[50:], e=base.e[50:])
    est = replace(rest.est(), schema_=base.est().schema_)
    same = Rows.read(est, rest.X, rest.y, rest.arm, (None, None), None, None, estimand, "quick")
    assert same.estimate(0).value == pytest.approx(rows.estimate(0).value)


# ---- placebo treatment


def test_the_scale_of_weights_does_not_matter_to_penalised_models() -> None:
    base, w = study(200, n_arms=3), np.random.default_rng(0).uniform(0.5, 2, 200)
    nuisance = Nuisance(Ridge(alpha=5.0), LogisticRegression(C=0.1))
    few = {"n_repeats": 2, "treated": 2}
    for function in (placebo_treatment, random_common_cause, subset_stability):
        tables = [
            replace(base, nuisance=nuisance).ask(function, sample_weight=scale * w, **few).table for scale in (1, 100)
        ]
        pd.testing.assert_frame_equal(*tables)


def test_a_sound_procedure_finds_no_effect_of_a_placebo() -> None:
    check = study(seed=1).ask(placebo_treatment)
    assert check.passed is True and len(check.table) == 20 and list(check.table) == ["estimate", "se", "z"]
    z = check.table["z"].to_numpy()
    law, far = stats.norm(0.25 * np.sqrt(20)), abs(z.sum()) / np.sqrt(20)
    p = 2 * min(law.sf(far) + law.cdf(-far), stats.chi2.sf(19 * z.var(ddof=1), 19))
    strict = study(seed=1).ask(placebo_treatment, tolerance=0.0)
    assert strict.value <= check.value and strict.table.equals(check.table)
    assert check.value == pytest.approx(min(1, p)) and check.threshold == pytest.approx(0.05)


def test_a_procedure_blind_to_the_covariates_is_found_biased() -> None:
    """The placebo goes to those who got the treatment by their covariates: means that ignore these are off."""
    base = study()
    base.nuisance = BLIND
    check = base.ask(placebo_treatment)
    assert check.passed is False and "biased" in check.text and check.table["estimate"].mean() > 0.5
    assert (
        base.ask(placebo_treatment, placebo="shuffle").passed is True
    )  # dealt out over all rows, nothing can be wrong
    mild = study(confounded=0.0)
    mild.nuisance = BLIND
    assert mild.ask(placebo_treatment).passed is True


def test_standard_errors_too_small_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Rows.estimate
    monkeypatch.setattr(Rows, "estimate", lambda self, seed: replace(whole(self, seed), se=whole(self, seed).se / 2))
    check = study().ask(placebo_treatment)
    assert check.passed is False and "spread too widely" in check.text


def test_placebos_are_drawn_by_the_propensities_among_two_arms() -> None:
    base = study(20_000, n_arms=3)
    rows = Rows.read(base.est(), base.X, base.y, base.arm, (2, 0), None, base.e, "ATE", "quick")
    new = rows.redrawn(np.random.default_rng(0))
    assert ((new.a == 1) == (rows.a == 1)).all() and new.known is rows.known
    pair, share = rows.a != 1, base.e[:, 2] / (base.e[:, 0] + base.e[:, 2])
    for low in (0.0, 0.25, 0.5, 0.75):
        own = pair & (share >= low) & (share < low + 0.25)
        assert np.mean(new.a[own] == 2) == pytest.approx(share[own].mean(), abs=0.025)
    again = rows.shuffled(np.random.default_rng(0))
    assert (np.bincount(again.a) == np.bincount(rows.a)).all() and (again.a != rows.a).any()
    assert again.known is not None
    part = np.sum(rows.a == 2) / np.sum(pair)
    assert again.known[:, 2] / (again.known[:, 0] + again.known[:, 2]) == pytest.approx(part)
    assert again.known[:, 1] == pytest.approx(base.e[:, 1]) and again.known.sum(axis=1) == pytest.approx(1)


def test_a_trials_propensities_need_no_model() -> None:
    base = study(200, confounded=0.0)
    check = base.ask(placebo_treatment, n_repeats=2)
    assert "outcome means, by" in check.text


@pytest.mark.slow
@pytest.mark.parametrize("n_arms", [2, 3])
def test_placebo_treatments_pass_as_often_as_they_say(n_arms: int) -> None:
    failed = 0
    for seed in range(150):
        options = {"treated": 1} if n_arms == 3 else {}
        failed += study(300, seed, n_arms=n_arms, confounded=0.7).ask(
            placebo_treatment, n_repeats=8, level=0.9, random_state=seed, **options
        ).passed is False  # fmt: skip
    assert failed <= stats.binom.isf(0.001, 150, 0.1)


# ---- random common cause


def test_noise_moves_a_sound_estimate_little() -> None:
    check = study().ask(random_common_cause)
    (base,) = check.estimates
    assert check.passed is True and check.value < 0.2
    assert check.table["shift"].to_numpy() == pytest.approx(check.table["estimate"] - base.value)
    assert check.value == pytest.approx(np.sqrt(np.mean(check.table["shift"] ** 2)) / base.se)


def test_noise_moves_models_that_choose_by_chance() -> None:
    """Single deep trees on columns drawn at random: one column more, and every tree is another."""
    base = study(120, 1)
    base.nuisance = Nuisance(DecisionTreeRegressor(max_features=1), DummyClassifier())
    check = base.ask(random_common_cause)
    assert check.passed is False and check.value > 0.5
    assert base.ask(random_common_cause, threshold=1e6).passed is True


# ---- subsets


def test_parts_spread_as_chance_says() -> None:
    check = study(600, 1).ask(subset_stability, n_repeats=15)
    assert check.passed is True and check.value == pytest.approx(1, abs=0.4)
    assert check.threshold == pytest.approx(1.25 * np.sqrt(stats.chi2.ppf(0.95, 15) / 15))
    (base,) = check.estimates
    within = np.mean(check.table["split"] ** 2) / 2
    expected = np.sqrt(base.se**2 * 0.25 + 0.75 * within)
    assert check.table["z"].to_numpy() == pytest.approx((check.table["estimate"] - base.value) / expected, rel=0.01)


def test_models_that_turn_with_the_rows_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between parts an estimate jumps, between splits of one part it does not."""
    base = study(400, 1)
    assert base.ask(subset_stability).passed is True
    whole = Rows.estimate

    def jumpy(self: Rows, seed: int) -> Estimate:
        found = whole(self, seed)
        return replace(found, value=found.value + found.se * np.sign(np.sin(1e4 * self.y.sum())) * (len(self.a) < 400))

    monkeypatch.setattr(Rows, "estimate", jumpy)
    check = base.ask(subset_stability)
    assert check.passed is False and check.value > 1.8


@pytest.mark.slow
def test_subsets_pass_as_often_as_they_say() -> None:
    failed = sum(
        study(300, seed, confounded=0.7).ask(subset_stability, level=0.9, random_state=seed).passed is False
        for seed in range(150)
    )
    assert failed <= stats.binom.isf(0.001, 150, 0.1)


# ---- placebo outcomes


@pytest.mark.parametrize("kind", ["continuous", "binary", "count"])
def test_a_negative_control_finds_hidden_confounding_and_a_clean_one_passes(kind: str) -> None:
    """Both controls are driven by a covariate that confounds; one by the hidden cause too."""
    base = study(2000, 1, unseen=0.8)
    rng = np.random.default_rng(0)

    def make(driver: Array) -> Array:
        if kind == "continuous":
            return driver + rng.normal(size=2000)
        if kind == "binary":
            return (rng.random(2000) < 1 / (1 + np.exp(-driver))).astype(float)
        return rng.poisson(np.exp(0.5 * driver)).astype(float)

    tainted = base.ask(placebo_outcome, make(base.X[:, 0] + base.hidden), name="tainted")
    clean = base.ask(placebo_outcome, make(base.X[:, 0]), name="clean")
    assert tainted.passed is False and tainted.value < 1e-3 and "Effect on tainted" in tainted.text
    assert clean.passed is True
    assert clean.estimates[0].name == "ATE on clean [1 vs 0]"
    assert clean.value == pytest.approx(clean.estimates[0].p_value)


def test_an_unadjusted_difference_would_have_failed() -> None:
    base = study(2000, 2)
    control = base.X[:, 0] + np.random.default_rng(0).normal(size=2000)
    assert stats.ttest_ind(control[base.arm == 1], control[base.arm == 0]).pvalue < 1e-10
    assert base.ask(placebo_outcome, control).passed is True


def test_the_outcome_itself_is_left_out_of_the_covariates_however_it_is_given() -> None:
    base = study(1500, 3)
    before = base.X[:, 1] + 0.5 * np.random.default_rng(0).normal(size=1500)
    X = pd.DataFrame({"a": base.X[:, 0], "b": base.X[:, 1], "before": before, "low": before < 0})
    base.X = X
    named, given = base.ask(placebo_outcome, "before"), base.ask(placebo_outcome, 3 - 2 * before, name="turned")
    for check in (named, given):
        assert "Left out of the covariates, being this outcome: before." in check.text
        assert check.estimates[0].se > 0.005  # with itself among the covariates there would be nothing left to miss
    assert named.passed is True and "Effect on before" in named.text
    assert "low" in base.ask(placebo_outcome, np.where(before < 0, "yes", "no")).text.split("being this outcome:")[1]
    array = replace(base, X=X[["a", "b", "before"]].to_numpy())
    assert array.ask(placebo_outcome, 2).value == pytest.approx(
        replace(base, X=X[["a", "b", "before"]]).ask(placebo_outcome, "before").value
    )
    with pytest.raises(ValueError, match="no covariate is left"):
        replace(base, X=X[["before"]]).ask(placebo_outcome, "before")


def test_known_propensities_are_used_unless_they_hold_the_outcome() -> None:
    base = study(300, 4)
    control = np.random.default_rng(0).normal(size=300)
    base.nuisance = Nuisance(LinearRegression(), DummyClassifier())
    known = base.ask(placebo_outcome, control, propensity=base.e)
    fitted = base.ask(placebo_outcome, control)
    assert known.value != fitted.value and "outcome means, by" in known.text
    assert "outcome means and propensities" in base.ask(placebo_outcome, 0, propensity=base.e).text
    assert "outcome means, by" in base.ask(placebo_outcome, 0, propensity=np.full(300, 0.5)).text


@pytest.mark.slow
def test_levels_of_placebo_outcomes() -> None:
    failed = sum(
        study(200, seed, confounded=0.7)
        .ask(placebo_outcome, np.random.default_rng(seed).normal(size=200), level=0.9, refit="quick", random_state=seed)
        .passed is False
        for seed in range(200)
    )  # fmt: skip
    low, high = stats.binom.ppf([0.001, 0.999], 200, 0.1)
    assert low <= failed <= high


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        ("nothing", "is no column of X"),
        (7, "is no column of X"),
        (np.full(100, np.nan), "sham: "),
        (np.zeros(99), "inconsistent numbers of samples"),
    ],
)
def test_outcomes_that_cannot_be_read(outcome: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        study(100).ask(placebo_outcome, outcome, name="sham")


# ---- what all share


@pytest.mark.parametrize("function", [placebo_treatment, random_common_cause, subset_stability])
def test_the_same_seed_gives_the_same_answer(function: Any) -> None:
    base = study(120)
    first, second = base.ask(function, n_repeats=2), base.ask(function, n_repeats=2)
    assert first.table.equals(second.table) and first.value == second.value
    assert not base.ask(function, n_repeats=2, random_state=1).table.equals(first.table)


@pytest.mark.parametrize(
    ("function", "options", "says"),
    [
        (placebo_treatment, {"refit": "all"}, "refit must be one of"),
        (placebo_treatment, {"n_repeats": 1}, "n_repeats must be an int of 2"),
        (placebo_treatment, {"placebo": "sugar"}, "placebo must be one of"),
        (placebo_treatment, {"tolerance": -1}, "tolerance"),
        (random_common_cause, {"threshold": 0.0}, "threshold"),
        (random_common_cause, {"estimand": "LATE"}, "estimand"),
        (subset_stability, {"fraction": 1.0}, "fraction must lie"),
        (subset_stability, {"fraction": 0.01}, "at least four are needed"),
    ],
)
def test_options_that_make_no_sense(function: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        study(60).ask(function, **options)


class Plain(BaseEstimator):
    """An estimator of its own kind: least squares per arm with the arms' shares as propensities."""

    fits = 0

    def __init__(self, outcome: str = "auto", random_state: Any = None) -> None:
        self.outcome = outcome
        self.random_state = random_state

    def fit(self, X: Any, y: Any, *, treatment: Any, sample_weight: Any = None, propensity: Any = None) -> Plain:
        type(self).fits += 1
        self.schema_ = Schema.learn(X, y, treatment, outcome=self.outcome)
        self.arms_ = self.schema_.arms
        a, E = self.schema_.encode_treatment(treatment), self.schema_.encode(X)
        self.models_ = [LinearRegression().fit(E[a == k], np.asarray(y)[a == k]) for k in range(len(self.arms_))]
        self.e_ = np.tile(np.bincount(a) / len(a), (len(a), 1))
        return self

    def cross_fitted(self, X: Any, y: Any, *, treatment: Any, sample_weight: Any = None, propensity: Any = None) -> Any:
        mu = np.column_stack([model.predict(self.schema_.encode(X)) for model in self.models_])
        e = self.e_ if propensity is None else propensity
        return CrossFitted(mu, e if np.ndim(e) == 2 else np.column_stack([1 - e, e]))


@pytest.mark.parametrize("frame", [True, False])
def test_the_estimator_itself_is_fitted_anew_if_asked(frame: bool) -> None:
    base = study(200)
    X = pd.DataFrame(base.X, columns=["a", "b", "noise"], index=np.arange(200)[::-1]) if frame else base.X
    labels = np.array(["drug", "placebo"], dtype=object)[1 - base.arm]
    est = Plain().fit(X, base.y, treatment=labels)
    for function, options, fits in (
        (placebo_treatment, {"n_repeats": 2}, 2),
        (random_common_cause, {"n_repeats": 2}, 6),
        (subset_stability, {"n_repeats": 2}, 8),
    ):
        Plain.fits = 0
        check = function(est, X, base.y, treatment=labels, refit="estimator", **options)
        assert Plain.fits == fits and "The estimator was fitted anew." in check.text
    outcome = base.X[:, 0] + np.random.default_rng(0).normal(size=200)
    check = placebo_outcome(est, X, outcome, treatment=labels, refit="estimator")
    assert abs(check.estimates[0].value) < 0.4 and check.estimates[0].control == "placebo"


# ---- the suite


def test_all_checks_are_run_in_order_with_predictions_asked_once() -> None:
    base = study(200)
    names: list[str] = []
    est = base.est()
    controls = {"noise": np.random.default_rng(0).normal(size=200)}
    checks = run_checks(
        est, base.X, base.y, treatment=base.arm, negative_controls=controls, baseline_outcome=1, progress=names.append
    )
    assert [check.name for check in checks] == names == [
        "missingness", "overlap", "balance", "outcome model", "calibration", "coverage by group",
        "benefit calibration", "C-for-benefit", "targeting", "placebo treatment", "random common cause",
        "subset stability", "placebo outcome: noise", "placebo outcome: outcome before treatment",
    ]  # fmt: skip
    assert len(est.asked) == 1
    frame = checks.to_frame()
    assert list(frame.columns) == ["name", "verdict", "value", "threshold", "finding"]
    assert set(frame["verdict"]) <= {"passed", "failed", "undecided"} and len(frame) == len(checks) == 14
    assert isinstance(checks, Checks) and checks["overlap"] is checks[1] and len(checks[2:5]) == 3
    assert str(checks) == checks.text and checks.text.count("\n") == 13
    with pytest.raises(KeyError, match="no check 'luck'"):
        checks["luck"]


def test_a_check_that_stumbles_says_why_and_the_rest_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    base = study(150, n_arms=3)
    skip = ["placebo_treatment", "random common cause", "Subset stability"]
    checks = run_checks(base.est(), base.X, base.y, treatment=base.arm, skip=skip)
    verdict = checks.to_frame().set_index("name")["verdict"]
    assert verdict["targeting"] == "not done" and checks["targeting"].passed is None
    assert "treated= is ambiguous" in checks["targeting"].text
    assert verdict["balance"] in ("passed", "failed") and "placebo treatment" not in verdict
    named = run_checks(base.est(), base.X, base.y, treatment=base.arm, skip=skip, treated=2)
    assert "not done" not in set(named.to_frame()["verdict"])


def test_without_held_out_laws_what_needs_them_says_so_of_the_users_estimator() -> None:
    base = study(150)
    est = base.est()
    est.values = replace(est.values, outcomes=None)
    skip = ["placebo_treatment", "random common cause", "subset stability"]
    checks = run_checks(est, base.X, base.y, treatment=base.arm, skip=skip)
    lacking = checks.to_frame().set_index("name")["verdict"] == "not done"
    assert set(lacking.index[lacking]) == {
        "calibration", "coverage by group", "benefit calibration", "C-for-benefit", "targeting"
    }  # fmt: skip
    assert "This Given was fitted" in checks["targeting"].text


def test_risks_are_judged_by_calibration_alone() -> None:
    base = study(300)
    base.y = (base.y > 0).astype(float)
    base.mu = 1 / (1 + np.exp(-base.mu))
    skip = ["placebo_treatment", "random common cause", "subset stability"]
    names = [check.name for check in run_checks(base.est(), base.X, base.y, treatment=base.arm, skip=skip)]
    assert "calibration" in names and "coverage by group" not in names


def test_an_interrupt_is_not_swallowed() -> None:
    def stop(name: str) -> None:
        if name == "balance":
            raise KeyboardInterrupt

    base = study(60)
    with pytest.raises(KeyboardInterrupt):
        run_checks(base.est(), base.X, base.y, treatment=base.arm, progress=stop)

    class Stopped(Given):
        def cross_fitted(self, *_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_checks(Stopped(base.est().schema_, base.est().values), base.X, base.y, treatment=base.arm)


def test_a_data_set_brings_its_own_outcome_and_treatment() -> None:
    base = study(120)
    arms = np.array(["off", "on"], dtype=object)[base.arm]
    X = pd.DataFrame(base.X, columns=["a", "b", "c"])
    data = CausalDataset(X, pd.Series(base.y), pd.Series(arms), "made", "continuous", ("off", "on"))
    est = replace(base, X=X).est()
    est = replace(est, schema_=Schema.learn(X, base.y, arms))
    assert est.values.outcomes is not None
    est.values = replace(est.values, outcomes=PotentialOutcomes(est.values.outcomes.draws, ("off", "on")))
    only = ["overlap", "balance"]
    every = ["missingness", "outcome_model", "calibration", "coverage_by_group", "benefit_calibration", "targeting"]
    every += ["c-for-benefit", "placebo_treatment", "random_common_cause", "subset_stability"]
    assert [check.name for check in run_checks(est, data, skip=every)] == only
    with pytest.raises(ValueError, match="leave y and treatment out"):
        run_checks(est, data, base.y)


def test_names_to_skip_and_controls_by_name() -> None:
    base = study(120)
    base.X = pd.DataFrame(base.X, columns=["a", "b", "c"])
    skip = ["missingness", "placebo_outcome", "benefit_calibration", "c-for-benefit", "targeting", "calibration"]
    skip += ["placebo treatment", "random common cause", "subset stability", "coverage_by_group"]
    names = [
        check.name
        for check in run_checks(base.est(), base.X, base.y, treatment=base.arm, negative_controls=["c"], skip=skip)
    ]
    assert names == ["overlap", "balance", "outcome model"]
    one = run_checks(base.est(), base.X, base.y, treatment=base.arm, negative_controls="c", skip=[*skip[:1], *skip[2:]])
    assert one[-1].name == "placebo outcome: c" and "Left out of the covariates" in one[-1].text
    with pytest.raises(ValueError, match="no check 'luck' to skip"):
        run_checks(base.est(), base.X, base.y, treatment=base.arm, skip=["luck"])
    with pytest.raises(NotFittedError):
        run_checks(object(), base.X, base.y, treatment=base.arm)


def test_verdicts_in_words() -> None:
    table = pd.DataFrame()
    checks = Checks(
        (
            Check("a", True, 1.0, 0.5, table, "Fine."),
            Check("b", False, 0.1, 0.5, table, "Not fine.", (Estimate(1.0, 1.0, method="m", n=2),)),
            Check("c", None, 0.1, 0.5, table, "Who knows."),
            Check("d", None, float("nan"), None, table, "Not done: no data."),
        )
    )
    assert checks.to_frame()["verdict"].tolist() == ["passed", "failed", "undecided", "not done"]
    assert str(checks).splitlines()[-1] == "d: Not done: no data."
    assert checks.to_frame()["threshold"].isna().tolist() == [False, False, False, True]
