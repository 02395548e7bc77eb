"""Intervals of population averages hold their truth as often as they say, over simulated studies.

All of it is slow: every case is `REPLICATIONS` data sets of a fixed seed, and one fit a data set serves all estimands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from conftest import quick
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from effects.effect import Estimate, Estimates
from effects.inference import (
    estimate_atc,
    estimate_ate,
    estimate_ato,
    estimate_att,
    estimate_gate,
    estimate_qte,
)
from effects.nuisance import CrossFitted, Nuisance
from effects.outcomes import PotentialOutcomes
from effects.schema import Schema

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Weak overlap")]

REPLICATIONS = 200
LEVEL = 0.95
QUANTILES = (0.25, 0.5, 0.75)
BY_X0 = np.array([-0.6745, 0.0, 0.6745])  # quarters of a standard normal


@dataclass(frozen=True)
class Table:
    """A simulated study, with what no study shows."""

    x: Array
    arm: Codes
    y: Array
    mu: Array
    e: Array
    both: Array  # outcomes under either arm

    @property
    def group(self) -> Codes:
        return np.digitize(self.x[:, 0], BY_X0)

    @property
    def rows(self) -> dict[str, Any]:
        """What a user has."""
        return {"X": self.x, "y": self.y, "treatment": self.arm}


def simulate(n: int, rng: np.random.Generator) -> Table:
    """Confounded by x0 and x1; the outcome bends in x0, the effect and the noise depend on x and arm."""
    x = rng.normal(size=(n, 4))
    e = expit(0.2 + 0.8 * x[:, 0] - 0.6 * x[:, 1])
    arm = (rng.random(n) < e).astype(np.int64)
    base = 2 * np.sin(x[:, 0]) + x[:, 1]
    mu = np.column_stack([base, base + 1 + 0.8 * x[:, 0]])
    spread = (1 + 0.5 * (x[:, 1] > 0))[:, None] * [1.0, 1.3]
    both = mu + spread * rng.normal(size=(n, 2))
    return Table(x, arm, both[np.arange(n), arm], mu, np.column_stack([1 - e, e]), both)


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    """Of the population, from a million rows: each known to about a hundredth of a standard error at n = 500."""
    table = simulate(1_000_000, np.random.default_rng(0))
    effect, e = table.mu[:, 1] - table.mu[:, 0], table.e[:, 1]
    tilts = {"ATE": np.ones_like(e), "ATT": e, "ATC": 1 - e, "ATO": e * (1 - e)}
    found: dict[str, Any] = {name: np.average(effect, weights=tilt) for name, tilt in tilts.items()}
    found["GATE"] = np.array([effect[table.group == k].mean() for k in range(4)])
    found["QTE"] = np.diff(np.quantile(table.both, QUANTILES, axis=0), axis=1)[:, 0]
    return found


@dataclass
class Tally:
    """How often intervals held the truth, and how far off the estimates were in standard errors."""

    hits: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    gaps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, estimate: Estimate, truth: float) -> None:
        lower, upper = estimate.interval(LEVEL)
        inside = lower <= truth <= upper
        if estimate.link == "reciprocal" and lower < 0 < upper:
            inside = truth <= lower or truth >= upper  # through infinity
        self.hits[name].append(bool(inside))
        self.gaps[name].append((estimate.value - truth) / estimate.se)

    def add_all(self, name: str, estimates: Estimates, truth: Array) -> None:
        for label, estimate, value in zip(estimates.labels, estimates, truth, strict=True):
            self.add(f"{name} {label}", estimate, float(value))
        lower, upper = estimates.interval(LEVEL, simultaneous=True)
        self.hits[f"{name} all"].append(bool(((lower <= truth) & (truth <= upper)).all()))

    def failures(self, alternative: str = "two-sided") -> list[str]:
        """Names whose coverage is not what it should be, beyond a binomial bound that chance breaks once in 1,000.

        What holds for several at once may hold more often.
        """
        found = []
        for name, hits in self.hits.items():
            side = "less" if name.endswith(" all") else alternative
            if stats.binomtest(sum(hits), len(hits), LEVEL, alternative=side).pvalue < 1e-3:
                gaps = self.gaps.get(name, [0.0])
                found.append(
                    f"{name}: {np.mean(hits):.3f}, mean gap {np.mean(gaps):+.2f}, sd {np.std(gaps):.2f} errors"
                )
        return found


# ------------------------------------------------------------------------------------- the estimands, cheap nuisances


@dataclass
class Given:
    """A fitted estimator as far as inference sees it."""

    schema_: Schema
    values: CrossFitted

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def cross_fitted(self, *_: Any, **__: Any) -> CrossFitted:
        return self.values


def given(table: Table, mu: Array, e: Array, outcomes: PotentialOutcomes | None = None) -> Given:
    return Given(Schema.learn(table.x, table.y, table.arm), CrossFitted(mu, e, outcomes))


def cross_fit(table: Table, n_folds: int = 4) -> Given:
    """Least squares on a few functions of x, a logistic regression, residuals as laws; all held out."""
    n, x = len(table.y), table.x
    design = np.column_stack([np.ones(n), x, np.sin(x[:, 0]), x[:, 0] ** 2, x[:, 1] > 0])
    levels = (np.arange(50) + 0.5) / 50
    mu, e, draws = np.zeros((n, 2)), np.zeros((n, 2)), np.zeros((1, 50, n, 2))
    for fold in range(n_folds):
        held = np.arange(n) % n_folds == fold  # rows come in no order
        e[held] = LogisticRegression(C=1e4).fit(x[~held], table.arm[~held]).predict_proba(x[held])
        for k in (0, 1):
            rows = ~held & (table.arm == k)
            beta = np.linalg.lstsq(design[rows], table.y[rows], rcond=None)[0]
            mu[held, k] = design[held] @ beta
            draws[0][:, held, k] = mu[held, k] + np.quantile(table.y[rows] - design[rows] @ beta, levels)[:, None]
    return given(table, mu, e, PotentialOutcomes(draws))


ASK: dict[str, Callable[..., Estimate]] = {
    "ATE": estimate_ate,
    "ATT": estimate_att,
    "ATC": estimate_atc,
    "ATO": estimate_ato,
}


def studies(n: int, seed: int) -> Iterator[tuple[Table, np.random.Generator]]:
    for replication in range(REPLICATIONS):
        rng = np.random.default_rng([seed, n, replication])
        yield simulate(n, rng), rng


@pytest.mark.parametrize("n", [500, 2000])
def test_every_estimand_covers_with_parametric_nuisances(n: int, truth: dict[str, Any]) -> None:
    tally = Tally()
    for table, _ in studies(n, 1):
        est, rows = cross_fit(table), table.rows
        for name, question in ASK.items():
            for method in ("aipw", "tmle"):
                tally.add(f"{name} {method}", question(est, **rows, method=method), truth[name])
        for method in ("aipw", "tmle"):
            tally.add_all(f"GATE {method}", estimate_gate(est, **rows, by=table.group, method=method), truth["GATE"])
        tally.add_all("QTE", estimate_qte(est, **rows, q=QUANTILES), truth["QTE"])
        blind = given(table, est.values.mu, est.values.propensity)
        tally.add_all("QTE without laws", estimate_qte(blind, **rows, q=QUANTILES), truth["QTE"])
    quantiles = [line for line in tally.failures() if line.startswith("QTE")]
    assert tally.failures("less") == []
    # an estimated density makes the errors of quantiles a little too large in the tails, never too small
    assert [line for line in tally.failures() if line not in quantiles] == []


@pytest.mark.parametrize("n", [500, 2000])
@pytest.mark.parametrize("method", ["aipw", "tmle"])
def test_scales_of_risks_and_rates_cover(method: str, n: int) -> None:
    tally = Tally()
    big = simulate(1_000_000, np.random.default_rng(0))
    for table, rng in studies(n, 2):
        for kind in ("binary", "count"):
            mean = (lambda mu: expit(0.6 * mu - 0.5)) if kind == "binary" else (lambda mu: np.exp(0.3 * mu))
            mu, true = mean(table.mu), mean(big.mu).mean(axis=0)
            own = mu[np.arange(n), table.arm]
            y = (rng.random(n) < own).astype(float) if kind == "binary" else rng.poisson(own)
            study = Table(table.x, table.arm, y, mu, table.e, table.both)
            rough = np.clip(mu * rng.uniform(0.8, 1.2), 0.01, 0.99 if kind == "binary" else np.inf)
            est, rows = given(study, rough, table.e), study.rows | {"method": method}
            odds = true / (1 - true)
            truths = {"difference": true[1] - true[0], "ratio": true[1] / true[0]}
            if kind == "binary":
                truths |= {"odds ratio": odds[1] / odds[0], "nnt": 1 / (true[1] - true[0])}
            for scale, value in truths.items():
                tally.add(f"{kind} {scale}", estimate_ate(est, **rows, scale=scale), value)
    assert tally.failures() == []


@pytest.mark.parametrize("n_clusters", [12, 60])
def test_clustered_errors_cover_where_wards_are_randomised(n_clusters: int) -> None:
    tally, naive = Tally(), Tally()
    for replication in range(2 * REPLICATIONS):
        rng = np.random.default_rng([3, n_clusters, replication])
        ward = np.repeat(np.arange(n_clusters), rng.integers(8, 25, n_clusters))
        arm = rng.permutation(np.arange(n_clusters) % 2)[ward]
        x, n = rng.normal(size=(len(ward), 1)), len(ward)
        y = x[:, 0] + arm + rng.normal(size=n_clusters)[ward] + rng.normal(size=n)
        est = Given(Schema.learn(x, y, arm), CrossFitted(np.column_stack([x, x + 1]), np.full((n, 2), 0.5)))
        tally.add("ATE", estimate_ate(est, x, y, treatment=arm, groups=ward), 1.0)
        tally.add_all("GATE", estimate_gate(est, x, y, treatment=arm, by=x[:, 0] > 0, groups=ward), np.ones(2))
        naive.add("ATE", estimate_ate(est, x, y, treatment=arm), 1.0)
    assert tally.failures("less") == []
    assert np.mean(naive.hits["ATE"]) < 0.8


@pytest.mark.parametrize("n", [500, 2000])
def test_sampling_weights_cover_the_population_they_stand_for(n: int, truth: dict[str, Any]) -> None:
    tally = Tally()
    for replication in range(REPLICATIONS):
        rng = np.random.default_rng([4, n, replication])
        pool = simulate(4 * n, rng)
        chance = expit(-1 + pool.x[:, 0])  # who is sampled depends on what moves the effect
        rows = np.flatnonzero(rng.random(4 * n) < chance)
        weight = 1 / chance[rows]
        table = Table(*(getattr(pool, name)[rows] for name in ("x", "arm", "y", "mu", "e", "both")))
        est = given(table, table.mu + rng.normal(), table.e)
        for name, question in ASK.items():
            found = question(est, table.x, table.y, treatment=table.arm, sample_weight=weight)
            tally.add(name, found, truth[name])
    assert tally.failures() == []


def test_two_small_groups_of_a_trial_are_as_uncertain_as_they_say() -> None:
    tally = Tally()
    for replication in range(5 * REPLICATIONS):
        rng = np.random.default_rng([5, replication])
        arm, label = np.tile([0, 0, 1], 16), np.repeat(["a", "b"], 24)
        y = rng.normal(arm, 1.0 + 2 * arm)
        x = np.arange(48.0)[:, None]
        known = CrossFitted(np.tile([0.0, 1.0], (48, 1)), np.tile([2 / 3, 1 / 3], (48, 1)))
        est = Given(Schema.learn(x, y, arm), known)
        tally.add_all("GATE", estimate_gate(est, x, y, treatment=arm, by=label), np.ones(2))
    assert tally.failures("less") == []


def test_the_test_of_heterogeneity_rejects_as_often_as_it_says(truth: dict[str, Any]) -> None:
    rejected: list[bool] = []
    noticed: list[bool] = []
    for table, _ in studies(500, 6):
        equal = table.y - (table.mu[:, 1] - table.mu[:, 0] - 1) * table.arm
        mu = np.column_stack([table.mu[:, 0], table.mu[:, 0] + 1])
        for y, means, found in ((equal, mu, rejected), (table.y, table.mu, noticed)):
            est = Given(Schema.learn(table.x, y, table.arm), CrossFitted(means, table.e))
            gates = estimate_gate(est, table.x, y, treatment=table.arm, by=table.group)
            found.append(gates.heterogeneity().p_value < 0.05)
    assert stats.binomtest(sum(rejected), len(rejected), 0.05).pvalue > 1e-3
    assert np.mean(noticed) > 0.9


# ------------------------------------------------------------------------------------------------- the estimators' own


#: Propensities by logistic regression keep a fit to about a second; the default's boosting is one case of its own.
QUICK_NUISANCE = Nuisance(propensity_model=LogisticRegression(C=1e4), n_folds=2)
FITS = [
    *(
        (name, n, QUICK_NUISANCE)
        for n in (500, 2000)
        for name in ("DiffPO", "CEVAE", "GANITE", "TARNet", "CausalStack")
    ),
    ("TARNet", 500, Nuisance()),
]


@pytest.fixture(scope="module", params=FITS, ids=lambda fit: f"{fit[0]}-{fit[1]}-{fit[2].n_folds} folds")
def fitted(request: pytest.FixtureRequest, truth: dict[str, Any]) -> Tally:
    name, n, nuisance = request.param
    return tally_of(name, n, nuisance, truth)


def tally_of(name: str, n: int, nuisance: Nuisance, truth: dict[str, Any]) -> Tally:
    """All estimands on every data set, from one fit with little training: scores rest on its held-out means."""
    tally = Tally()
    for replication, (table, _) in enumerate(studies(n, 7)):
        est = quick(name, random_state=replication, nuisance=nuisance)
        est.fit(table.x, table.y, treatment=table.arm)
        rows = table.rows
        for estimand, question in ASK.items():
            tally.add(estimand, question(est, **rows), truth[estimand])
        tally.add("ATE tmle", estimate_ate(est, **rows, method="tmle"), truth["ATE"])
        tally.add_all("GATE", estimate_gate(est, **rows, by=table.group), truth["GATE"])
        tally.add_all("QTE", estimate_qte(est, **rows, q=QUANTILES), truth["QTE"])
    return tally


@pytest.mark.parametrize("estimand", ["ATE", "ATT", "ATC", "ATO", "ATE tmle", "GATE", "QTE"])
def test_an_estimators_intervals_cover(estimand: str, fitted: Tally) -> None:
    of_it = Tally()
    for name in fitted.hits:
        if name == estimand or (estimand in ("GATE", "QTE") and name.startswith(estimand)):
            of_it.hits[name] = fitted.hits[name]
            if name in fitted.gaps:
                of_it.gaps[name] = fitted.gaps[name]
    assert of_it.hits and of_it.failures("less") == []
