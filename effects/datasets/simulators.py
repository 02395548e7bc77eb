"""Simulated data sets whose outcome distributions are known exactly, and the small example tables of ``data/``.

A simulated data set carries ``truth``: the law of Y(a) | x for each unit and arm, with exact quantiles, distribution
function and mean. So a predicted distribution can be compared with the true one, not only with one draw from it.

===============  ==================================================================================================
law              of Y(a) | x, every parameter an array of shape (n_samples, n_arms)
===============  ==================================================================================================
`Normal`         N(loc, scale^2)
`LogNormal`      0 with probability ``zero``, else exp(N(log_loc, log_scale^2))
`NormalMixture`  N(loc, scale^2); with probability ``share`` N(share_loc, share_scale^2)
`Bernoulli`      1 with probability ``prob``, else 0
===============  ==================================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, ndtr, ndtri

from effects.datasets.tables import Array, CausalDataset, RandomState, TrueOutcomes, as_generator
from effects.files import write_whole


@dataclass(frozen=True, eq=False)
class Normal(TrueOutcomes):
    """Y(a) | x ~ N(loc, scale^2)."""

    loc: Array
    scale: Array

    def cdf(self, y: Any) -> Array:
        return ndtr((y - self.loc) / self.scale)

    def mean(self) -> Array:
        return self.loc

    def std(self) -> Array:
        return self.scale

    def _inverse(self, u: Array) -> Array:
        return self.loc + self.scale * ndtri(u)


@dataclass(frozen=True, eq=False)
class LogNormal(TrueOutcomes):
    """Y(a) | x = 0 with probability `zero` (which may be 0), else exp(N(log_loc, log_scale^2))."""

    log_loc: Array
    log_scale: Array
    zero: Array

    def cdf(self, y: Any) -> Array:
        with np.errstate(divide="ignore"):  # log 0 = -inf is right: no mass of the positive part at or below 0
            positive = ndtr((np.log(np.maximum(y, 0.0)) - self.log_loc) / self.log_scale)
        return np.where(np.asarray(y) < 0, 0.0, self.zero + (1 - self.zero) * positive)

    def mean(self) -> Array:
        return (1 - self.zero) * np.exp(self.log_loc + self.log_scale**2 / 2)

    def std(self) -> Array:
        square = (1 - self.zero) * np.exp(2 * self.log_loc + 2 * self.log_scale**2)
        return np.sqrt(square - self.mean() ** 2)

    def _inverse(self, u: Array) -> Array:
        level = np.maximum(u - self.zero, 0.0) / (1 - self.zero)
        return np.where(u <= self.zero, 0.0, np.exp(self.log_loc + self.log_scale * ndtri(level)))


@dataclass(frozen=True, eq=False)
class NormalMixture(TrueOutcomes):
    """Y(a) | x ~ (1 - share) N(loc, scale^2) + share N(share_loc, share_scale^2)."""

    loc: Array
    scale: Array
    share: Array
    share_loc: Array
    share_scale: Array

    def cdf(self, y: Any) -> Array:
        rest = ndtr((y - self.loc) / self.scale)
        return (1 - self.share) * rest + self.share * ndtr((y - self.share_loc) / self.share_scale)

    def mean(self) -> Array:
        return (1 - self.share) * self.loc + self.share * self.share_loc

    def std(self) -> Array:
        within = (1 - self.share) * self.scale**2 + self.share * self.share_scale**2
        return np.sqrt(within + self.share * (1 - self.share) * (self.loc - self.share_loc) ** 2)

    def _inverse(self, u: Array) -> Array:
        # A mixture's quantile lies between those of its components: 60 halvings of that bracket reach the last bit.
        z = ndtri(u)
        first, second = self.loc + self.scale * z, self.share_loc + self.share_scale * z
        low, high = np.minimum(first, second), np.maximum(first, second)
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = self.cdf(middle) < u
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return 0.5 * (low + high)

    def sample(self, n_draws: int, random_state: RandomState = None) -> Array:
        """Independent draws of every Y(a) | x, (n_draws, n_samples, n_arms): first the component, then its normal."""
        rng, shape = as_generator(random_state), (n_draws, self.n_samples, self.n_arms)
        belongs = rng.random(shape) < self.share
        z = rng.standard_normal(shape)
        return np.where(belongs, self.share_loc + self.share_scale * z, self.loc + self.scale * z)


@dataclass(frozen=True, eq=False)
class Bernoulli(TrueOutcomes):
    """Y(a) | x = 1 with probability `prob`, else 0."""

    prob: Array

    def cdf(self, y: Any) -> Array:
        return np.where(np.asarray(y) < 0, 0.0, np.where(np.asarray(y) < 1, 1 - self.prob, 1.0))

    def mean(self) -> Array:
        return self.prob

    def std(self) -> Array:
        return np.sqrt(self.prob * (1 - self.prob))

    def _inverse(self, u: Array) -> Array:
        return (u > 1 - self.prob).astype(float)


def _patients(n_samples: int, n_features: int, rng: np.random.Generator) -> tuple[pd.DataFrame, SimpleNamespace]:
    """Correlated patients, and their scores: age, severity, bmi, crp as about N(0, 1); female, smoker as 0/1.

    The scores are computed back from the rounded columns, so that the truth is exact given X.
    """
    if n_samples < 10 or n_features < 6:
        raise ValueError(f"n_samples must be at least 10 and n_features at least 6, got {n_samples} and {n_features}.")
    z = rng.standard_normal((n_samples, n_features))
    severity, crp = 0.4 * z[:, 0] + 0.9 * z[:, 1], 0.5 * z[:, 1] + 0.3 * z[:, 2] + 0.8 * z[:, 3]
    X = pd.DataFrame(
        {
            "age": (62 + 11 * z[:, 0]).round(1),
            "severity": (10 * ndtr(severity)).round(1),
            "bmi": (27 * np.exp(0.17 * z[:, 2])).round(1),
            "crp": np.maximum(np.exp(1 + 0.8 * crp), 0.1).round(2),
            "female": z[:, 4] > 0.1,
            "smoker": z[:, 5] - 0.3 * z[:, 0] > 0.7,
        }
    )
    # Columns that tell nothing, though they look as if: half of each is severity.
    for k in range(6, n_features):
        X[f"lab_{k - 5}"] = (0.5 * severity + z[:, k]).round(2)
    scores = SimpleNamespace(
        age=(X["age"].to_numpy() - 62) / 11,
        severity=(X["severity"].to_numpy() - 5) / 2.9,
        bmi=np.log(X["bmi"].to_numpy() / 27) / 0.17,
        crp=(np.log(X["crp"].to_numpy()) - 1) / 0.8,
        female=X["female"].to_numpy().astype(float),
        smoker=X["smoker"].to_numpy().astype(float),
    )
    return X, scores


def _observe(
    name: str,
    X: pd.DataFrame,
    truth: TrueOutcomes,
    propensity: Array,
    rng: np.random.Generator,
    arms: Sequence[str] = ("usual care", "drug"),
    kind: str = "continuous",
    outcome: str = "y",
    unit: str = "",
) -> CausalDataset:
    """Draw a treatment and both outcomes of every unit, and keep the outcome under its treatment."""
    if propensity.ndim == 1:
        propensity = np.stack([1 - propensity, propensity], axis=1)
    n = len(X)
    code = (rng.random((n, 1)) > propensity.cumsum(axis=1)[:, :-1]).sum(axis=1)
    potential = truth.sample(1, rng)[0]
    y = potential[np.arange(n), code]
    return CausalDataset(
        X=X,
        y=pd.Series(y if kind == "continuous" else y.astype(np.int64), name=outcome),
        treatment=pd.Series(pd.Categorical.from_codes(code, pd.Index(arms)), name="treatment"),
        name=name,
        kind=kind,
        arms=tuple(arms),
        mu=truth.mean(),
        y0=potential[:, 0] if len(arms) == 2 else None,
        y1=potential[:, 1] if len(arms) == 2 else None,
        propensity=propensity,
        unit=unit,
        source=f"effects.datasets.make_{name}",
        notes=("simulated: no real patients; the arms' outcomes are independent given x",),
        truth=truth,
    )


def _columns(*arms: Any) -> Array:
    """One column per arm; numbers are repeated."""
    return np.stack(np.broadcast_arrays(*arms), axis=1).astype(float)


def make_heteroscedastic(
    n_samples: int = 2000, *, n_features: int = 8, random_state: RandomState = None
) -> CausalDataset:
    """Systolic blood pressure (mmHg): Gaussian, with a spread that depends on age, severity and arm.

    The sicker are treated more often and have the higher pressure, so that the naive difference of the arms hides
    the effect. The standard deviation runs from about 4 to 20 mmHg and differs between the arms of one patient.

    Parameters
    ----------
    n_samples : int, default 2000
    n_features : int, default 8
        At least 6: age, severity, bmi, crp, female, smoker; any more are noise that is correlated with severity.
    random_state : int, Generator, RandomState or None

    Returns
    -------
    CausalDataset
        With `mu`, `y0`, `y1`, `propensity` and `truth` (a `TrueOutcomes`).

    Examples
    --------
    >>> data = make_heteroscedastic(n_samples=300, random_state=0)
    >>> data.truth.quantile([0.1, 0.9]).shape
    (2, 300, 2)
    """
    rng = as_generator(random_state)
    X, s = _patients(n_samples, n_features, rng)
    untreated = 146 + 5 * s.age + 4 * s.bmi + 5 * s.severity + 3 * s.smoker
    effect = -9 - 3 * s.severity + 2 * s.age - 2 * s.female + 2 * np.sin(2 * s.bmi)
    spread = _columns(
        np.exp(np.log(8) + 0.30 * s.age), np.exp(np.log(9) + 0.35 * np.tanh(s.severity) - 0.25 * s.female)
    )
    truth = Normal(_columns(untreated, untreated + effect), spread)
    propensity = expit(-0.2 + 0.9 * s.severity + 0.4 * s.bmi - 0.3 * s.age)
    return _observe("heteroscedastic", X, truth, propensity, rng, outcome="sbp", unit="mmHg")


def make_skewed(n_samples: int = 2000, *, n_features: int = 8, random_state: RandomState = None) -> CausalDataset:
    """Costs of care (EUR per year): log-normal, more skewed for the ill and without case management.

    Parameters and result are those of `make_heteroscedastic`.

    Examples
    --------
    >>> data = make_skewed(n_samples=300, random_state=0)
    >>> bool((data.truth.mean() > data.truth.quantile(0.5)).all())  # skewed to the right
    True
    """
    rng = as_generator(random_state)
    X, s = _patients(n_samples, n_features, rng)
    median = 8.1 + 0.45 * s.severity + 0.15 * s.age + 0.10 * s.smoker + 0.10 * np.maximum(s.bmi, 0)
    change = -0.10 - 0.20 * s.severity + 0.15 * s.female
    skew = _columns(0.45 + 0.50 * expit(1.2 * s.severity + 0.6 * s.crp), 0.35 + 0.25 * expit(1.0 * s.age))
    truth = LogNormal(_columns(median, median + change), skew, np.zeros((len(X), 2)))
    propensity = expit(-0.3 + 0.8 * s.severity + 0.4 * s.age - 0.4 * s.female)
    arms = ("usual care", "case management")
    return _observe("skewed", X, truth, propensity, rng, arms, outcome="cost", unit="EUR per year")


def make_bimodal(n_samples: int = 2000, *, n_features: int = 8, random_state: RandomState = None) -> CausalDataset:
    """Depression after eight weeks (points of a rating scale): responders and others, two separate peaks.

    The drug hardly moves either peak: it changes the share of responders, by x. A model of mean and variance alone
    gets the mean right and each patient's outlook wrong.

    Parameters and result are those of `make_heteroscedastic`; ``truth`` is a `NormalMixture`, ``truth.share`` the
    share of responders.

    Examples
    --------
    >>> data = make_bimodal(n_samples=300, random_state=0)
    >>> data.truth.share.mean(axis=0).round(1).tolist()
    [0.3, 0.6]
    """
    rng = as_generator(random_state)
    X, s = _patients(n_samples, n_features, rng)
    ill = 20 + 1.8 * s.severity + 0.5 * s.smoker
    well = 7 + 0.8 * s.severity + 0.5 * s.age
    responders = _columns(
        expit(-0.9 - 0.5 * s.severity + 0.3 * s.female), expit(0.6 + 0.9 * s.crp - 0.7 * s.severity - 0.3 * s.age)
    )
    truth = NormalMixture(
        loc=_columns(ill, ill - 1.0),
        scale=_columns(np.exp(0.75 + 0.15 * s.age), np.exp(0.75 + 0.15 * s.age)),
        share=responders,
        share_loc=_columns(well, well - 0.5),
        share_scale=_columns(1.8, np.exp(0.4 + 0.2 * s.bmi)),
    )
    propensity = expit(-0.1 + 0.9 * s.severity - 0.4 * s.age + 0.3 * s.smoker)
    return _observe("bimodal", X, truth, propensity, rng, outcome="depression", unit="points")


def make_zero_inflated(
    n_samples: int = 2000, *, n_features: int = 8, random_state: RandomState = None
) -> CausalDataset:
    """Hospital costs (EUR per year): none for those who stay out of hospital, else log-normal.

    Parameters and result are those of `make_heteroscedastic`; ``truth`` is a `LogNormal`, ``truth.zero`` the
    probability of no costs.

    Examples
    --------
    >>> data = make_zero_inflated(n_samples=300, random_state=0)
    >>> bool(0.5 < (data.y == 0).mean() < 0.7)
    True
    """
    rng = as_generator(random_state)
    X, s = _patients(n_samples, n_features, rng)
    none = _columns(
        expit(0.2 - 0.9 * s.severity - 0.4 * s.age), expit(0.9 - 0.6 * s.severity - 0.4 * s.age + 0.5 * s.crp)
    )
    stay = 8.3 + 0.25 * s.severity + 0.15 * s.bmi + 0.1 * s.smoker
    log_scale = _columns(0.6 + 0.2 * np.tanh(s.crp), 0.45 + 0.15 * np.tanh(s.age))
    truth = LogNormal(_columns(stay, stay - 0.15 + 0.10 * s.age), log_scale, none)
    propensity = expit(-0.2 + 0.8 * s.severity + 0.4 * s.crp - 0.3 * s.female)
    arms = ("usual care", "telemonitoring")
    return _observe("zero_inflated", X, truth, propensity, rng, arms, outcome="hospital_cost", unit="EUR per year")


def make_binary(n_samples: int = 2000, *, n_features: int = 8, random_state: RandomState = None) -> CausalDataset:
    """Readmission within a year (1 = yes): logistic, with an effect that grows with crp and turns in the young.

    Parameters and result are those of `make_heteroscedastic`; ``truth`` is a `Bernoulli`, ``truth.prob`` the
    probability of the event.

    Examples
    --------
    >>> data = make_binary(n_samples=300, random_state=0)
    >>> data.kind, sorted(data.y.unique().tolist())
    ('binary', [0, 1])
    """
    rng = as_generator(random_state)
    X, s = _patients(n_samples, n_features, rng)
    logit = -0.9 + 0.9 * s.severity + 0.5 * s.age + 0.4 * s.smoker + 0.3 * s.bmi**2 / (1 + s.bmi**2)
    truth = Bernoulli(expit(_columns(logit, logit - 0.6 - 0.5 * s.crp - 0.5 * s.age)))
    propensity = expit(-0.1 + 0.9 * s.severity + 0.3 * s.age - 0.4 * s.female)
    return _observe("binary", X, truth, propensity, rng, kind="binary", outcome="readmitted")


def make_three_arms(n_samples: int = 2000, *, n_features: int = 8, random_state: RandomState = None) -> CausalDataset:
    """HbA1c (percent) under placebo, low and high dose: the high dose works best, but not in those who stop it.

    Placebo is Gaussian, the active arms are mixtures: a share, larger for the high dose and the frail, stops the
    drug and stays near the placebo value. The dose is chosen by severity and age (multinomial logit).

    Parameters and result are those of `make_heteroscedastic`, with arrays for three arms; `y0` and `y1` are None.

    Examples
    --------
    >>> data = make_three_arms(n_samples=300, random_state=0)
    >>> data.arms, data.cate.shape
    (('placebo', 'low dose', 'high dose'), (300, 2))
    """
    rng = as_generator(random_state)
    X, s = _patients(n_samples, n_features, rng)
    base = 8.2 + 0.35 * s.severity + 0.20 * s.bmi - 0.10 * s.female
    low, high = -0.6 - 0.10 * s.severity, -1.3 - 0.30 * s.severity + 0.15 * s.age
    spread = 0.45 * np.exp(0.20 * s.bmi)
    truth = NormalMixture(
        loc=_columns(base, base + low, base + high),
        scale=_columns(spread, 0.9 * spread, 0.7 * spread),
        share=_columns(0.0, expit(-2.5 + 0.4 * s.age), expit(-1.3 + 0.9 * s.age + 0.3 * s.crp)),
        share_loc=_columns(base, base - 0.1, base + 0.1),
        share_scale=_columns(spread, spread, spread),
    )
    logits = _columns(0.2 - 0.5 * s.severity, 0.2 + 0.3 * s.age, -0.1 + 0.7 * s.severity - 0.4 * s.age)
    weights = np.exp(logits)
    propensity = weights / weights.sum(axis=1, keepdims=True)
    arms = ("placebo", "low dose", "high dose")
    return _observe("three_arms", X, truth, propensity, rng, arms, outcome="hba1c", unit="percent")


def make_weak_overlap(n_samples: int = 2000, *, n_features: int = 8, random_state: RandomState = None) -> CausalDataset:
    """Kidney function (eGFR): doctors treat almost by rule, so that many patients have nearly one choice only.

    The propensity runs from below 0.001 to above 0.999; about half of the patients lie outside 0.1 to 0.9.
    What reweights must blow up here, and what extrapolates should widen its intervals.

    Parameters and result are those of `make_heteroscedastic`.

    Examples
    --------
    >>> data = make_weak_overlap(n_samples=1000, random_state=0)
    >>> bool(data.propensity.min() < 0.01)
    True
    """
    rng = as_generator(random_state)
    X, s = _patients(n_samples, n_features, rng)
    untreated = 62 - 9 * s.age - 5 * s.severity - 2 * s.crp + 2 * s.female
    effect = 4 + 2 * s.severity - 1.5 * np.maximum(s.age, 0) ** 2
    truth = Normal(
        _columns(untreated, untreated + effect),
        _columns(np.exp(2.0 + 0.15 * s.age), np.exp(1.8 + 0.25 * np.tanh(s.severity))),
    )
    propensity = expit(0.3 + 2.2 * s.severity + 0.9 * s.crp + 0.6 * s.age)
    return _observe("weak_overlap", X, truth, propensity, rng, outcome="egfr", unit="mL/min/1.73 m2")


# The small tables of data/ -------------------------------------------------------------------------------------------


def _trial_two_arms(rng: np.random.Generator) -> CausalDataset:
    """A randomised trial: blood pressure after twelve weeks, four sites, missing values."""
    X, s = _patients(400, 6, rng)
    site = rng.choice(["Basel", "Graz", "Lille", "Porto"], size=400, p=[0.4, 0.3, 0.2, 0.1])
    baseline = (148 + 6 * s.age + 5 * s.bmi + 6 * rng.standard_normal(400)).round()
    effect = -7 - 4 * s.bmi + 3 * s.smoker
    mean = 0.6 * baseline + 55 + 4 * s.severity + 3 * (site == "Porto")
    truth = Normal(_columns(mean, mean + effect), np.full((400, 2), 8.0))
    table = X[["age", "bmi", "crp", "female"]].assign(
        smoking=np.where(s.smoker == 1, "current", rng.choice(["never", "former"], 400)),
        site=site,
        sbp_baseline=baseline,
    )
    for column, share in {"bmi": 0.10, "crp": 0.15, "smoking": 0.08}.items():
        table[column] = table[column].mask(rng.random(400) < share)
    arms = ("control", "active")
    return _observe("trial_two_arms", table, truth, np.full(400, 0.5), rng, arms, outcome="sbp_week12", unit="mmHg")


def _trial_three_arms(rng: np.random.Generator) -> CausalDataset:
    """A randomised trial of two doses against placebo: remission, yes or no."""
    X, s = _patients(600, 6, rng)
    education = pd.Categorical.from_codes(rng.integers(0, 3, 600), pd.Index(["primary", "secondary", "tertiary"]))
    logit = -0.9 - 0.7 * s.severity + 0.3 * (education.codes == 2)
    truth = Bernoulli(expit(_columns(logit, logit + 0.5 + 0.3 * s.crp, logit + 1.1 + 0.6 * s.crp - 0.4 * s.age)))
    table = X[["age", "severity", "crp", "female"]].assign(education=education)
    arms = ("placebo", "low dose", "high dose")
    return _observe(
        "trial_three_arms", table, truth, np.full((600, 3), 1 / 3), rng, arms, kind="binary", outcome="remission"
    )


def _cohort_visits(rng: np.random.Generator) -> CausalDataset:
    """An observational cohort: visits to the doctor in a year, with and without a self-care course (confounded)."""
    X, s = _patients(800, 6, rng)
    log_mean = 1.1 + 0.35 * s.severity + 0.15 * s.age + 0.15 * s.female
    mean = np.exp(_columns(log_mean, log_mean - 0.30 - 0.20 * s.severity))
    propensity = expit(-0.3 + 0.8 * s.severity + 0.5 * s.female - 0.3 * s.age)
    code = (rng.random(800) < propensity).astype(int)
    # Gamma-mixed Poisson: variance mean + mean^2 / 2, as counts of visits are never Poisson.
    visits = rng.poisson(mean * rng.gamma(2.0, 1 / 2.0, mean.shape))
    return CausalDataset(
        X=X,
        y=pd.Series(visits[np.arange(800), code], name="visits"),
        treatment=pd.Series(pd.Categorical.from_codes(code, pd.Index(["no", "yes"])), name="course"),
        name="cohort_visits",
        kind="count",
        arms=("no", "yes"),
        mu=mean,
        y0=visits[:, 0],
        y1=visits[:, 1],
        propensity=_columns(1 - propensity, propensity),
        unit="visits per year",
        notes=("simulated: no real patients",),
    )


def example_datasets(random_state: RandomState = 2026) -> dict[str, CausalDataset]:
    """The data sets behind the tables in the folder ``data/`` of the repository, with their truth.

    The truth holds given the complete covariates; `trial_two_arms` shows them with some values missing (at random),
    and without severity, which no treatment depends on.

    Examples
    --------
    >>> {name: round(float(np.max(data.ate)), 2) for name, data in example_datasets().items()}
    {'trial_two_arms': -6.5, 'trial_three_arms': 0.23, 'cohort_visits': -1.07}
    """
    rng = as_generator(random_state)
    made = (_trial_two_arms(rng), _trial_three_arms(rng), _cohort_visits(rng))
    return {data.name: replace(data, source="effects.datasets.example_datasets") for data in made}


def write_examples(folder: str | os.PathLike[str], random_state: RandomState = 2026) -> list[Path]:
    """Write each of `example_datasets` as ``<name>.csv``, as a user would bring it; the default is what stands there.

    Numbers have one decimal, a missing value is an empty cell, remission reads yes or no.
    """
    paths = []
    for name, data in example_datasets(random_state).items():
        frame = data.to_frame()
        if data.kind == "binary":
            frame[data.y.name] = frame[data.y.name].map({0: "no", 1: "yes"})
        paths.append(write_whole(Path(folder, f"{name}.csv"), frame.round(1).to_csv(index=False)))
    return paths
