"""Published numbers that anybody can look up: the package's estimates on the same data stand beside them.

The files come from ``EFFECTS_DATA``; the tests of a study whose file is not there are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from numpy.typing import ArrayLike, NDArray

import effects
from effects.datasets import CausalDataset, load_nhefs
from effects.diagnostics import baseline_table, check_balance
from effects.nuisance import CrossFitted
from effects.schema import Schema

Array = NDArray[np.float64]
FOLDER = os.environ.get("EFFECTS_DATA", "")
needs_nhefs = pytest.mark.skipif(
    not (FOLDER and (Path(FOLDER) / "nhefs.csv.gz").is_file()), reason="nhefs.csv.gz is not in EFFECTS_DATA"
)

# ---- NHEFS: Hernan & Robins (2020), Causal Inference: What If, chapters 12 and 13

PUBLISHED = (2.4, 4.5)  # 95% interval of the effect of quitting smoking on weight, kg (sections 12.2 and 12.3)
NUMBERS = ["age", "smokeintensity", "smokeyrs", "wt71"]
CATEGORIES = ["sex", "race", "education", "exercise", "active"]
NINE = " + ".join([*CATEGORIES, *NUMBERS, *(f"I({name}**2)" for name in NUMBERS)])


@dataclass
class Given:
    """A fitted estimator as checks and averages see it."""

    schema_: Schema
    mu: Array
    e: Array

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def cross_fitted(
        self, X: Any, y: Any, *, treatment: Any, sample_weight: ArrayLike | None = None, propensity: Any = None
    ) -> CrossFitted:
        return CrossFitted(self.mu, self.e)


@pytest.fixture(scope="module")
def nhefs() -> CausalDataset:
    return load_nhefs()


@pytest.fixture(scope="module")
def textbook(nhefs: CausalDataset) -> Given:
    """The textbook's own models: a logistic one of quitting (12.2), a linear one of the weight gained (13.2)."""
    table = nhefs.X.assign(gain=nhefs.y, quit=(nhefs.treatment == "quit").to_numpy().astype(int))
    p = smf.logit(f"quit ~ {NINE}", table).fit(disp=0).predict(table).to_numpy()
    outcome = smf.ols(f"gain ~ quit + quit:smokeintensity + {NINE}", table).fit()
    mu = np.column_stack([outcome.predict(table.assign(quit=k)) for k in (0, 1)])
    schema = Schema.learn(nhefs.X, nhefs.y, nhefs.treatment)
    assert schema.arms == ("kept smoking", "quit")
    return Given(schema, mu, np.column_stack([1 - p, p]))


@needs_nhefs
def test_table_1_of_nhefs_is_the_published_one(nhefs: CausalDataset, textbook: Given) -> None:
    found = baseline_table(textbook, nhefs.X, nhefs.y, treatment=nhefs.treatment)
    published = {  # table 12.1: who quit, who kept smoking
        "age": ("46.2", "42.8"), "sex: male": ("54.6", "46.6"), "race: white": ("91.1", "85.4"),
        "education: college": ("15.4", "9.9"), "wt71": ("72.4", "70.3"), "smokeintensity": ("18.6", "21.2"),
        "smokeyrs": ("26.0", "24.1"), "exercise: little or none": ("40.7", "37.9"), "active: inactive": ("11.2", "8.9"),
    }  # fmt: skip
    for name, values in published.items():
        row = found.loc[next(label for label in found.index if str(label).startswith(f"{name},"))]
        for arm, value in zip(("quit", "kept smoking"), values, strict=True):
            shown = row[arm].partition(" (")
            assert (shown[2].rstrip(")%") if ": " in name else shown[0]) == value, (name, arm)
    assert list(found.loc["n", ["quit", "kept smoking"]]) == ["403", "1,163"]


@needs_nhefs
@pytest.mark.parametrize("estimand", ["ATE", "ATT"])
def test_standardised_differences_of_nhefs_by_a_second_implementation(
    nhefs: CausalDataset, textbook: Given, estimand: str
) -> None:
    """Austin (2009), Stat. Med. 28: differences of (weighted) means over the pooled sd before weighting, by pandas."""
    found = check_balance(textbook, nhefs.X, nhefs.y, treatment=nhefs.treatment, estimand=estimand).table
    quit, e = (nhefs.treatment == "quit").to_numpy(), textbook.e[:, 1]
    weight = pd.Series(np.where(quit, 1 / e, 1 / (1 - e)) * (e if estimand == "ATT" else 1.0), nhefs.X.index)
    wide = pd.get_dummies(nhefs.X, columns=CATEGORIES, prefix_sep=": ", dtype=float)
    of_quit, of_rest = wide[quit], wide[~quit]
    variance = (of_quit.var() + of_rest.var()) / 2
    for name in {str(one) for one in wide} - set(NUMBERS):
        p, q = of_quit[name].mean(), of_rest[name].mean()
        variance[name] = (p * (1 - p) + q * (1 - q)) / 2
    before = (of_quit.mean() - of_rest.mean()) / np.sqrt(variance)
    means = [part.mul(weight[part.index], axis=0).sum() / weight[part.index].sum() for part in (of_quit, of_rest)]
    after = (means[0] - means[1]) / np.sqrt(variance)
    assert set(found.index) == set(wide)
    pd.testing.assert_series_equal(found["smd_before"], before[found.index], check_names=False, rtol=1e-9)
    pd.testing.assert_series_equal(found["smd_after"], after[found.index], check_names=False, rtol=1e-9, atol=1e-12)
    assert found["smd_before"].abs().max() > 0.2 > 0.1 > found["smd_after"].abs().max()


@needs_nhefs
def test_textbook_models_give_the_textbook_effect(nhefs: CausalDataset, textbook: Given) -> None:
    rows: dict[str, Any] = {"treatment": nhefs.treatment}
    found = effects.estimate_ate(textbook, nhefs.X, nhefs.y, **rows)
    assert 3.35 < found.value < 3.55  # 3.4 by weighting, 3.5 by standardisation
    assert found.interval() == pytest.approx(PUBLISHED, abs=0.1)
    # section 12.1: the plain difference 2.5 (1.7, 3.4), from the same scores with nothing known of the covariates
    quit = (nhefs.treatment == "quit").to_numpy()
    mean, share = [nhefs.y[~quit].mean(), nhefs.y[quit].mean()], [1 - quit.mean(), quit.mean()]
    blind = Given(textbook.schema_, np.tile(mean, (len(quit), 1)), np.tile(share, (len(quit), 1)))
    naive = effects.estimate_ate(blind, nhefs.X, nhefs.y, **rows)
    assert naive.value == pytest.approx(2.54, abs=0.005) and naive.interval() == pytest.approx((1.7, 3.4), abs=0.15)


@needs_nhefs
@pytest.mark.slow
def test_three_estimators_find_the_published_effect(nhefs: CausalDataset) -> None:
    rows: dict[str, Any] = {"X": nhefs.X, "y": nhefs.y, "treatment": nhefs.treatment}
    found = []
    for cls in (effects.DiffPO, effects.DragonNet, effects.CEVAE):
        est = cls(random_state=0).fit(**rows)
        ate, att = effects.estimate_ate(est, **rows), effects.estimate_att(est, **rows)
        assert 3.1 < ate.value < 3.8 and 3.1 < att.value < 3.9, (cls, ate, att)
        lower, upper = ate.interval()
        assert lower < PUBLISHED[1] and upper > PUBLISHED[0]
        shared = min(upper, PUBLISHED[1]) - max(lower, PUBLISHED[0])
        assert shared > 0.8 * (PUBLISHED[1] - PUBLISHED[0]) and 1.6 < upper - lower < 2.5, (cls, ate)
        found.append(ate.value)
    assert len(set(np.round(found, 6))) == 3  # three outcome models, not one under three names
