"""LaLonde's question: what survey men in the place of a trial's controls say of job training, against the trial.

Dehejia & Wahba (1999), table 3: the trial's difference is 1,794 dollars, that of the trained men and the PSID's men
-15,205, of the trained and the CPS' men -8,498.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

import effects
from effects.datasets import CausalDataset, load_lalonde
from effects.diagnostics import Check, Trimming, check_overlap, placebo_outcome, trim
from effects.nuisance import CrossFitted, Nuisance
from effects.schema import Schema

FOLDER = os.environ.get("EFFECTS_DATA", "")
FILE = "lalonde_all_samples.csv.gz"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not FOLDER or not (Path(FOLDER) / FILE).is_file(), reason=f"EFFECTS_DATA names no folder with {FILE}"
    ),
]
TRIAL = 1794.0
NAIVE = {"psid": -15205.0, "cps": -8498.0}
ESTIMATORS = ("TARNet", "EconML", "DragonNet")


class Given:
    """The design stage: cross-fitted nuisances of all rows, no model of the outcome beyond them."""

    def __init__(self, data: CausalDataset) -> None:
        self.schema_ = Schema.learn(data.X, data.y, data.treatment)
        self.arms_ = self.schema_.arms
        E, a = self.schema_.encode(data.X), self.schema_.encode_treatment(data.treatment)
        nuisance = Nuisance(random_state=0).fit(E, self.schema_.encode_outcome(data.y), a, n_arms=2)
        self.values = CrossFitted(nuisance.out_of_fold_.mu, nuisance.out_of_fold_.propensity)

    def cross_fitted(self, X: Any, y: Any, **_: Any) -> CrossFitted:
        return self.values


class Design(NamedTuple):
    name: str
    data: CausalDataset
    est: Given
    trimming: Trimming
    kept: CausalDataset


@pytest.fixture(scope="module", params=["psid", "cps"])
def design(request: pytest.FixtureRequest) -> Design:
    data = load_lalonde("nsw_dw", request.param)
    est = Given(data)
    trimming = trim(est, **rows(data), rule="crump")
    return Design(request.param, data, est, trimming, data.take(np.flatnonzero(trimming.keep)))


def rows(data: CausalDataset) -> dict[str, Any]:
    return {"X": data.X, "y": data.y, "treatment": data.treatment}


def difference(data: CausalDataset) -> tuple[float, float, float]:
    """Difference of means with Welch's interval."""
    trained = np.asarray(data.treatment == "training")
    y = np.asarray(data.y, dtype=float)
    test = stats.ttest_ind(y[trained], y[~trained], equal_var=False)
    interval = test.confidence_interval(0.95)
    return float(y[trained].mean() - y[~trained].mean()), float(interval.low), float(interval.high)


def test_naive_differences_are_the_published_ones_and_far_from_the_trial(design: Design) -> None:
    value, _, high = difference(design.data)
    assert value == pytest.approx(NAIVE[design.name], abs=1)
    assert difference(load_lalonde())[0] == pytest.approx(TRIAL, abs=1)
    assert high < TRIAL - 8000


def test_trimming_keeps_those_who_can_be_compared(design: Design) -> None:
    lost = dict(zip(design.trimming.by_arm.index, design.trimming.by_arm["share_lost"].tolist(), strict=True))
    assert lost["control"] > 0.9 and lost["training"] < 0.3
    assert abs(difference(design.kept)[0] - TRIAL) < abs(difference(design.data)[0] - TRIAL) / 3


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_trial_is_inside_the_trimmed_intervals(design: Design, name: str) -> None:
    est = getattr(effects, name)(random_state=0).fit(**rows(design.kept))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Weak overlap")
        att = effects.estimate_att(est, **rows(design.kept))
    low, high = att.interval()
    assert low < TRIAL < high
    assert high - low < 6000  # not by saying nothing


def test_checks_flag_the_whole_comparison_groups(design: Design) -> None:
    def before(data: CausalDataset) -> Check:
        est: Any = Given(data)
        return placebo_outcome(est, data.X, "re75", treatment=data.treatment, estimand="ATT")

    assert check_overlap(design.est, **rows(design.data), estimand="ATT").passed is False
    assert before(design.data).passed is False  # an "effect" on earnings before training
    assert before(design.kept).passed is True
    assert before(load_lalonde()).passed is True
