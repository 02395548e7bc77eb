"""E-values, robustness values, omitted-variable bias: published examples, other packages' numbers, exact identities."""

# the stubs of pandas call a cell of a table a str, a date or a number: arithmetic with it is none of their types
# mypy: disable-error-code="operator, index, arg-type, attr-defined, comparison-overlap"

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

from effects.effect import Estimate
from effects.inference import estimate_atc, estimate_ate, estimate_att
from effects.nuisance import CrossFitted, Nuisance
from effects.schema import Schema
from effects.sensitivity import (
    OmittedVariableBias,
    RobustnessValue,
    e_value,
    omitted_variable_bias,
    robustness_value,
)
from effects.sensitivity.regression import _regression_benchmarks

Array = NDArray[np.float64]

# --------------------------------------------------------------------------------------------------------- E-values


def formula(ratio: float) -> float:
    return ratio + np.sqrt(ratio * (ratio - 1))


@pytest.mark.parametrize(
    ("ratio", "interval", "point", "limit"),
    [
        (3.9, (1.8, 8.7), 7.26, 3.00),  # VanderWeele & Ding 2017: formula feeding and deaths by infection
        (0.80, (0.71, 0.91), 1.81, 1.43),  # the same: breastfeeding and leukaemia
        (10.73, (8.02, 14.36), 20.95, 15.52),  # R package EValue, vignette: smoking and lung cancer
        (2.4, None, 4.23, None),
    ],
)
def test_published_e_values(ratio: float, interval: Any, point: float, limit: float | None) -> None:
    found = e_value(ratio, scale="ratio", interval=interval)
    assert found.point == pytest.approx(point, abs=0.005)
    assert found.limit is None if limit is None else found.limit == pytest.approx(limit, abs=0.005)
    inverse = None if interval is None else (1 / interval[1], 1 / interval[0])
    mirrored = e_value(1 / ratio, scale="ratio", interval=inverse)
    assert (mirrored.point, mirrored.limit) == (pytest.approx(found.point), found.limit and pytest.approx(found.limit))


@pytest.mark.parametrize(
    ("ratio", "interval", "null", "point", "limit"),
    [  # where the hypothesis stands to estimate and interval: the cases of the R package's own tests
        (1.3, (1.1, 1.4), 1.05, 1.3 / 1.05, 1.1 / 1.05),
        (1.3, (1.1, 1.4), 1.1, 1.3 / 1.1, 1.0),
        (1.3, (1.1, 1.4), 1.2, 1.3 / 1.2, 1.0),
        (1.3, (1.1, 1.4), 1.35, 1.35 / 1.3, 1.0),
        (1.3, (1.1, 1.4), 1.5, 1.5 / 1.3, 1.5 / 1.4),
        (0.6, (0.5, 0.7), 0.4, 0.6 / 0.4, 0.5 / 0.4),
        (0.6, (0.5, 0.7), 0.65, 0.65 / 0.6, 1.0),
        (0.6, (0.5, 0.7), 0.75, 0.75 / 0.6, 0.75 / 0.7),
        (1.1, (0.9, 1.3), 1.0, 1.1, 1.0),
        (0.9, None, 0.9, 1.0, None),
    ],
)
def test_other_hypotheses(ratio: float, interval: Any, null: float, point: float, limit: float | None) -> None:
    found = e_value(ratio, scale="ratio", interval=interval, null=null)
    assert found.point == pytest.approx(formula(point))
    assert found.limit is None if limit is None else found.limit == pytest.approx(formula(limit))


def test_conversions_to_risk_ratios() -> None:
    common = e_value(3.0, scale="odds ratio")
    assert (common.ratio, common.point) == (pytest.approx(1.732051), pytest.approx(2.858, abs=5e-4))  # R's manual
    assert e_value(5.0, scale="odds ratio", rare=True).point == pytest.approx(formula(5.0))
    assert e_value(5.0, scale="odds ratio", lower=3.0, null=2.0).limit == pytest.approx(formula(np.sqrt(1.5)))

    def hazard(hr: float) -> float:
        return (1 - 0.5 ** np.sqrt(hr)) / (1 - 0.5 ** np.sqrt(1 / hr))

    found = e_value(1.3, scale="hazard ratio", interval=(1.2, 1.4), null=1.1)
    assert found.point == pytest.approx(formula(hazard(1.3) / hazard(1.1)))
    assert found.limit == pytest.approx(formula(hazard(1.2) / hazard(1.1)))
    assert e_value(0.3, scale="hazard ratio", rare=True, null=0.4).point == pytest.approx(formula(0.4 / 0.3))
    # standardised mean differences, with the limits of the paper
    found = e_value(0.5, scale="difference", se=0.2, sd=1, null=0.1)
    assert found.point == pytest.approx(formula(np.exp(0.91 * 0.4)))
    assert found.limit == pytest.approx(formula(np.exp(0.91 * 0.4 - 1.78 * 0.2)))
    assert e_value(-0.5, scale="difference", se=0.4, sd=1, null=-0.1).limit == 1.0
    found = e_value(-10, scale="difference", se=1.5, sd=12)
    assert found.point == pytest.approx(formula(np.exp(0.91 * 10 / 12)))
    assert found.limit == pytest.approx(formula(np.exp((0.91 * 10 - 1.78 * 1.5) / 12)))
    # the last paragraph of Ding & VanderWeele: against no effect, a risk difference is its risk ratio
    found = e_value(100 / 300 - 50 / 250, scale="risk difference", baseline=50 / 250)
    assert found.point == pytest.approx(formula((100 / 300) / (50 / 250)))
    assert "0.2 without treatment" in found.text


def test_estimates_bring_their_scale() -> None:
    plain: dict[str, Any] = {"method": "AIPW", "n": 100}
    ratio = Estimate(2.0, 0.3, **plain, link="log", unit="risk ratio")
    found = e_value(ratio)
    assert found.interval == pytest.approx(ratio.interval())
    assert (found.point, found.scale) == (pytest.approx(formula(2.0)), "ratio")
    assert e_value(ratio, level=0.5).limit > found.limit
    odds = Estimate(4.0, 0.5, **plain, link="log", unit="odds ratio")
    assert e_value(odds).point == pytest.approx(formula(2.0))
    assert e_value(odds, rare=True).point == pytest.approx(formula(4.0))
    risk = Estimate(-0.1, 0.02, **plain, unit="risk difference")
    of_risk = e_value(risk, baseline=0.3)
    assert of_risk.point == pytest.approx(formula(0.3 / 0.2))
    nnt = Estimate(-10.0, 2.0, **plain, link="reciprocal", unit="number needed to treat")
    assert e_value(nnt, baseline=0.3).interval == pytest.approx(of_risk.interval)
    mean = Estimate(3.0, 1.0, **plain)
    assert e_value(mean, sd=8.0).point == pytest.approx(formula(np.exp(0.91 * 3 / 8)))
    assert e_value(mean, sd=8.0).limit == pytest.approx(formula(np.exp(0.91 * mean.interval()[0] / 8)))


def test_what_an_e_value_says() -> None:
    found = e_value(3.9, scale="ratio", interval=(1.8, 8.7))
    assert "at least 7.26 each" in found.text and "would come to contain 1 at 3.00" in str(found)
    frame = found.to_frame()
    assert frame.loc["limit nearest the null", "risk_ratio"] == 1.8
    assert frame["e_value"].to_list() == [found.point, found.limit]
    crossing = e_value(1.2, scale="ratio", interval=(0.9, 1.6))
    assert "contains 1 without any confounding" in crossing.text
    assert "nothing to explain" in e_value(1.0, scale="ratio").text
    assert "a true risk ratio of 1.2" in e_value(1.5, scale="ratio", null=1.2).text


@pytest.mark.parametrize(
    ("estimate", "options", "message"),
    [
        (2.0, {}, "scale= is needed"),
        (2.0, {"scale": "slope"}, "must be one of"),
        (-2.0, {"scale": "ratio"}, "must be positive"),
        (1.2, {"scale": "ratio", "interval": (1.3, 1.4)}, "outside of its interval"),
        (1.2, {"scale": "difference"}, "give it as sd="),
        (0.1, {"scale": "risk difference"}, "baseline="),
        (-0.3, {"scale": "risk difference", "baseline": 0.2}, "must be positive"),
        (2.0, {"scale": "ratio", "se": 0.1}, "se= is for differences"),
        (2.0, {"scale": "ratio", "interval": (1, 3), "lower": 1.0}, "one of interval"),
        (np.nan, {"scale": "ratio"}, "must be numbers"),
        (Estimate(2.0, 1.0, method="AIPW", n=9), {"scale": "ratio"}, "its own scale"),
        (Estimate(2.0, 1.0, method="AIPW", n=9), {}, "give it as sd="),
    ],
)
def test_e_values_refuse(estimate: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        e_value(estimate, **options)


# ------------------------------------------------------------------------------------------------------- regressions

# Cinelli & Hazlett 2020, section 5, to the digits of their package's tests: harm by violence in Darfur and peace
DARFUR: dict[str, Any] = {"df": 783, "se": 0.02325654}
DARFUR_T = 0.09731582 / 0.02325654
BY_FEMALE = pd.DataFrame(
    {
        "r2_d": [0.00916428667504862, 0.0183285733500972, 0.0274928600251459],
        "r2_y": [0.12464092303637, 0.249324064199975, 0.374050471038094],
        "estimate": [0.0752202712144491, 0.0529151723844518, 0.0303960234641548],
        "se": [0.0218733277437572, 0.0203500620779637, 0.0186700648170924],
        "t": [3.43890386024675, 2.60024623913809, 1.62806202131271],
        "lower": [0.032282966, 0.012968035, -0.006253282],
        "upper": [0.11815758, 0.09286231, 0.06704533],
    }
)


def test_darfur() -> None:
    found = robustness_value(DARFUR_T, **DARFUR)
    assert found.rv == pytest.approx(0.1387764, rel=1e-5)
    assert found.rv_significant == pytest.approx(0.07625797, rel=1e-5)
    assert found.partial_r2 == pytest.approx(0.02187309, rel=1e-5)
    for _, row in BY_FEMALE.iterrows():
        left = found.adjusted(row["r2_d"], row["r2_y"])
        np.testing.assert_allclose(left, row[["estimate", "se", "t", "lower", "upper"]], rtol=2e-6, atol=2e-7)
    mirrored = robustness_value(-DARFUR_T, **DARFUR)
    assert mirrored.rv == found.rv
    np.testing.assert_allclose(mirrored.adjusted(0.01, 0.1)[["estimate", "lower", "upper"]],
                               -found.adjusted(0.01, 0.1)[["estimate", "upper", "lower"]].to_numpy())  # fmt: skip
    assert "13.9% of what is left" in found.text and "7.6% would do" in str(found)
    assert found.to_frame().loc["treatment", "rv"] == found.rv


def test_darfurs_benchmarks() -> None:
    """A covariate's partial R^2, found from the published row of once `female`, gives those of two and three times."""
    r2_d = BY_FEMALE["r2_d"][0] / (1 + BY_FEMALE["r2_d"][0])
    shared = r2_d**2 / (1 - r2_d) ** 2
    r2_y = BY_FEMALE["r2_y"][0] / ((1 + np.sqrt(shared)) / np.sqrt(1 - shared)) ** 2
    r2_y /= 1 + r2_y

    @dataclass
    class Design:
        value: float

        def partial_r2(self, _: Any) -> float:
            return self.value

        def treatment(self, _: str) -> Design:
            return Design(r2_d)

        def check(self, name: str, _: str) -> str:
            return name

    found = robustness_value(DARFUR_T, **DARFUR)
    design: Any = Design(r2_y)
    table = _regression_benchmarks(found, design, {"female": ["female"]}, (1, 2, 3))
    np.testing.assert_allclose(table, BY_FEMALE, rtol=2e-6, atol=2e-7)
    assert table.index.to_list() == [("female", 1), ("female", 2), ("female", 3)]


def regression(n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, n))
    d = 0.5 * x + 0.4 * z + rng.normal(size=n)
    return pd.DataFrame({"const": 1.0, "d": d, "x": x, "z": z, "y": d + 2 * x - 0.7 * z + rng.normal(size=n)})


def test_adjusting_by_the_truth_is_the_longer_regression() -> None:
    data = regression()
    short = sm.OLS(data["y"], data[["const", "d", "x"]]).fit()
    long = sm.OLS(data["y"], data[["const", "d", "x", "z"]]).fit()
    of_d = sm.OLS(data["d"], data[["const", "x", "z"]]).fit()
    r2_y = long.tvalues["z"] ** 2 / (long.tvalues["z"] ** 2 + long.df_resid)
    r2_d = of_d.tvalues["z"] ** 2 / (of_d.tvalues["z"] ** 2 + of_d.df_resid)
    found = robustness_value(short, "d", level=0.9)
    gap = abs(found.estimate - found.adjusted(r2_d, r2_y)["estimate"])
    assert gap == pytest.approx(abs(short.params["d"] - long.params["d"]))
    assert found.adjusted(r2_d, r2_y)["se"] == pytest.approx(long.bse["d"])
    again = robustness_value(long, "d", benchmark=["z"], multiples=[1]).benchmarks
    assert again.loc[("z", 1), "r2_d"] == pytest.approx(r2_d / (1 - r2_d))


def test_robustness_values_are_where_they_say() -> None:
    for t, df, q in ((4.0, 200, 1.0), (-2.5, 60, 0.5), (60.0, 200, 1.0), (9.0, 4, 1.0)):
        found = robustness_value(t, df=df, q=q)
        left = found.adjusted(found.rv, found.rv)["estimate"]
        assert left == pytest.approx((1 - q) * t)
        shares = np.linspace(0, 1, 20001)[:-1]
        for r in (found.rv_significant - 1e-3, found.rv_significant + 1e-3):
            if not 0 < r < 1 or q != 1:
                continue
            within = shares[shares <= r]  # the smallest t that variables of at most this strength can reach
            lowest = (abs(t) - np.sqrt(df * within * r / (1 - r))) / np.sqrt((1 - within) / (1 - r) * df / (df - 1))
            significant = lowest.min() > stats.t.ppf(0.975, df - 1)
            assert significant == (r < found.rv_significant)
    found = robustness_value(4.0, df=200)
    assert found.adjusted(found.partial_r2, 1.0)["estimate"] == pytest.approx(0.0)
    assert found.extreme((1.0,))["r2_d"].iloc[0] == pytest.approx(found.partial_r2)
    weak = robustness_value(1.0, df=200)
    assert weak.rv_significant == 0 and "does not exclude that" in weak.text


def test_regressions_as_statsmodels_has_them() -> None:
    data = regression()
    fit = sm.OLS(data["y"], data[["const", "d", "x", "z"]])
    plain, robust = (robustness_value(fit.fit(cov_type=kind), "d", benchmark={"both": ["x", "z"]})
                     for kind in ("nonrobust", "HC1"))  # fmt: skip
    assert (plain.rv, plain.se) == (robust.rv, robust.se)
    assert (plain.column, plain.df) == ("d", 296)
    assert plain.benchmarks.index.to_list()[0] == ("both", 1)
    one, same = (robustness_value(fit.fit(), "d", benchmark=name).benchmarks for name in ("x", {"x": "x"}))
    pd.testing.assert_frame_equal(one, same)
    assert not robustness_value(fit.fit(), "d", benchmark=["x"], multiples=[50]).benchmarks.size  # beyond what can be
    weighted = sm.WLS(data["y"], data[["const", "d", "x"]], weights=np.arange(1, 301)).fit()
    assert robustness_value(weighted, "d").t == pytest.approx(weighted.tvalues["d"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda fit: robustness_value(2.0), ValueError, "degrees of freedom"),
        (lambda fit: robustness_value(2.0, df=50, q=0), ValueError, "q must be positive"),
        (lambda fit: robustness_value(2.0, df=50, benchmark=["x"]), ValueError, "needs the regression"),
        (lambda fit: robustness_value(fit, "e"), ValueError, "'e' is no regressor"),
        (lambda fit: robustness_value(fit), ValueError, "no regressor"),
        (lambda fit: robustness_value(fit, "d", benchmark=["w"]), ValueError, "benchmark='w' is no regressor"),
        (lambda fit: robustness_value(fit, "d", benchmark=["d"]), ValueError, "the treatment 'd' itself"),
        (lambda fit: robustness_value(fit, "d", multiples=[0]), ValueError, "multiples"),
        (lambda fit: robustness_value("fit", "d"), TypeError, "OLS or WLS is needed, got str"),
        (lambda fit: robustness_value(fit, "d").adjusted(1.0, 0.5), ValueError, "must be shares"),
    ],
)
def test_robustness_values_refuse(call: Any, error: type[Exception], message: str) -> None:
    data = regression(50)
    fit = sm.OLS(data["y"], data[["const", "d", "x"]]).fit()
    with pytest.raises(error, match=message):
        call(fit)


# -------------------------------------------------------------------------------------------------------------- AIPW


@dataclass
class Given:
    """A fitted estimator as far as sensitivity sees it, with predictions that a test chose."""

    schema_: Schema
    values: CrossFitted
    nuisance: Nuisance | None = None

    @property
    def arms_(self) -> tuple[Hashable, ...]:
        return self.schema_.arms

    def cross_fitted(self, *_: Any, **known: Any) -> CrossFitted:
        e = known.get("propensity")
        return self.values if e is None else replace(self.values, propensity=np.column_stack([1 - e, e]))


@dataclass
class Study:
    X: pd.DataFrame
    y: Array
    arm: NDArray[np.int64]
    mu: Array
    e: Array

    def est(self, **options: Any) -> Given:
        return Given(Schema.learn(self.X, self.y, self.arm), CrossFitted(self.mu, self.e), **options)

    def ask(self, function: Any = omitted_variable_bias, est: Given | None = None, **options: Any) -> Any:
        return function(est or self.est(), self.X, self.y, treatment=self.arm, **options)


def study(n: int = 600, n_arms: int = 2, effect: float = 1.0, seed: int = 0) -> Study:
    """Confounded by `strong`, hardly by `weak`; `noise` does nothing."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 3)), columns=["weak", "strong", "noise"])
    score = np.outer(0.8 * X["strong"] + 0.2 * X["weak"], np.arange(n_arms))
    e = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    arm = (rng.random(n)[:, None] > e.cumsum(axis=1)).sum(axis=1)
    base = X["strong"].to_numpy() + 0.2 * X["weak"].to_numpy()
    mu = base[:, None] + effect * np.arange(n_arms)
    return Study(X, mu[np.arange(n), arm] + rng.normal(size=n), arm, mu, e)


@pytest.mark.filterwarnings("ignore:Weak overlap")
def test_moments_and_intervals_are_econmls() -> None:
    from econml.validate.sensitivity_analysis import RV, dr_sensitivity_values, sensitivity_interval

    one = study(n_arms=3)
    at = np.arange(len(one.y))
    inverse = np.zeros_like(one.e)
    inverse[at, one.arm] = 1 / one.e[at, one.arm]
    corrected = one.mu + inverse * (one.y[:, None] - one.mu)  # EconML undoes the doubly robust correction
    T = (one.arm[:, None] == [1, 2]).astype(float)
    theirs = dr_sensitivity_values(one.y[:, None], T, corrected, one.e)
    for k in (1, 2):
        found: OmittedVariableBias = one.ask(treated=k, benchmark=[])
        assert (found.theta, found.sigma2, found.nu2) == (
            pytest.approx(theirs.theta[k - 1]), pytest.approx(theirs.sigma[k - 1]), pytest.approx(theirs.nu[k - 1])
        )  # fmt: skip
        np.testing.assert_allclose(found.covariance, theirs.cov[k - 1], rtol=0.02, atol=1e-4 * found.se**2)
        normal = replace(found, df=None)
        moments: Any = (found.theta, found.sigma2, found.nu2, found.covariance)
        for cf_y, cf_d, rho in ((0.1, 0.05, 1.0), (0.5, 0.3, -0.4)):
            bounds = normal.bounds(cf_y, cf_d, rho, level=0.9)
            for interval, ours in (("theta", bounds[:2]), ("ci", bounds[2:])):
                np.testing.assert_allclose(
                    ours, sensitivity_interval(*moments, 0.1, cf_y, cf_d, rho, interval_type=interval), rtol=1e-6
                )
        assert found.rv == pytest.approx(RV(*moments, 0.05, interval_type="theta"), abs=1e-5)
        assert normal.bounds(found.rv, found.rv).lower == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("estimand", "ask"), [("ATE", estimate_ate), ("ATT", estimate_att), ("ATC", estimate_atc)])
def test_without_confounding_it_is_the_estimate(estimand: str, ask: Any) -> None:
    one = study()
    found, plain = one.ask(estimand=estimand, benchmark=[], level=0.9), one.ask(ask, level=0.9)
    assert (found.theta, found.se, found.n) == (pytest.approx(plain.value), pytest.approx(plain.se), plain.n)
    assert found.bounds(0, 0)[2:] == pytest.approx(plain.interval())
    assert found.estimate.interval() == pytest.approx(plain.interval())
    lower = found.bounds(found.rv_significant, found.rv_significant).ci_lower
    assert lower == pytest.approx(0.0, abs=1e-6) and 0 < found.rv_significant < found.rv
    # the whole of the representer's moment as DoubleML's manual has it, for weights w
    e, p = one.e[:, 1], one.arm.mean()
    w, bar = {"ATE": (1.0, 1.0), "ATT": (one.arm / p, e / p), "ATC": ((1 - one.arm) / (1 - p), (1 - e) / (1 - p))}[
        estimand
    ]
    alpha = bar * (one.arm / e - (1 - one.arm) / (1 - e))
    assert found.nu2 == pytest.approx(np.mean(2 * w * bar * (1 / e + 1 / (1 - e)) - alpha**2))


@pytest.mark.parametrize("estimand", ["ATE", "ATT", "ATC"])
def test_the_bias_of_a_known_confounder_is_the_bound(estimand: str) -> None:
    """Counts in cells of x, u and arm, so that every mean is exact: with u's true strength and correlation the bound is
    the estimate that knows u."""
    share = np.array([[[6, 2], [3, 5]], [[4, 4], [1, 7]]])  # x, u, arm
    cells = np.array([(x, u, a) for x in (0, 1) for u in (0, 1) for a in (0, 1) for _ in range(share[x, u, a])])
    cells = np.repeat(cells, 2, axis=0)
    x, u, a = cells.T
    y = x + 2.0 * u + a * (1 + 0.5 * u) + np.tile([-1.0, 1.0], len(x) // 2)

    def fitted(*by: NDArray[Any]) -> Study:
        key = pd.Series(sum(10**k * one for k, one in enumerate(by)))
        e = pd.Series(a).groupby(key).transform("mean").to_numpy()
        table = pd.Series(y).groupby([key, a]).mean()
        mu = np.array([[table[k, arm] for arm in (0, 1)] for k in key])
        return Study(pd.DataFrame({"x": x}), y, a, mu, np.column_stack([1 - e, e]))

    short, long = fitted(x), fitted(x, u)
    hidden, known = (one.ask(estimand=estimand, benchmark=[]) for one in (short, long))
    cf_y, cf_d = 1 - known.sigma2 / hidden.sigma2, 1 - hidden.nu2 / known.nu2
    p = {"ATE": 1.0, "ATT": a.mean(), "ATC": 1 - a.mean()}[estimand]

    def alpha(e: Array) -> Array:
        h = {"ATE": 1.0, "ATT": e, "ATC": 1 - e}[estimand]
        return h / p * (a / e - (1 - a) / (1 - e))

    at = np.arange(len(y))
    gap = long.mu[at, a] - short.mu[at, a], alpha(long.e[:, 1]) - alpha(short.e[:, 1])
    rho = np.mean(gap[0] * gap[1]) / np.sqrt(np.mean(gap[0] ** 2) * np.mean(gap[1] ** 2))
    bounds = hidden.bounds(cf_y, cf_d, rho)
    assert bounds.lower == pytest.approx(known.theta)  # u makes the treatment look better than it is
    worst = hidden.bounds(cf_y, cf_d)
    assert worst.lower < known.theta < worst.upper


def test_integer_weights_are_repeated_rows_and_arms_can_be_swapped() -> None:
    one, rng = study(), np.random.default_rng(1)
    times = rng.integers(0, 3, size=len(one.y))
    rows = np.repeat(np.arange(len(one.y)), times)
    many = Study(one.X.iloc[rows], one.y[rows], one.arm[rows], one.mu[rows], one.e[rows])
    for estimand in ("ATE", "ATT"):
        weighted = one.ask(sample_weight=times, benchmark=[], estimand=estimand)
        repeated = many.ask(benchmark=[], estimand=estimand)
        for name in ("theta", "sigma2", "nu2", "rv"):
            assert getattr(weighted, name) == pytest.approx(getattr(repeated, name))
    plain, swapped = one.ask(benchmark=[]), one.ask(treated=0, control=1, benchmark=[])
    assert swapped.theta == pytest.approx(-plain.theta)
    assert (swapped.rv, swapped.rv_significant) == (pytest.approx(plain.rv), pytest.approx(plain.rv_significant))
    clustered = one.ask(benchmark=[], groups=np.arange(len(one.y)) // 2)
    assert clustered.theta == plain.theta and clustered.se != plain.se


def test_benchmarks_find_the_confounder() -> None:
    one = study(800)
    found = one.ask()
    table = found.benchmarks
    assert table.index[0] == "strong" and set(table.index) == {"weak", "strong", "noise"}
    first = table.loc["strong"]
    # `strong` is half of the variance that the rest leaves: 1 of 1 + 1; leaving it out flatters the treatment
    assert first["cf_y"] == pytest.approx(1.0, abs=0.2) and first["cf_d"] > 0.05
    assert first["delta"] > 0.2 and first["rho"] > 0.5
    assert table.loc["noise", ["cf_y", "cf_d"]].max() < 0.02
    inside = found.bounds(table.loc["weak", "cf_y"], table.loc["weak", "cf_d"])
    np.testing.assert_allclose(table.loc["weak", ["lower", "upper", "ci_lower", "ci_upper"]], inside)
    assert "strong mattered most" in found.text
    pd.testing.assert_frame_equal(one.ask(n_benchmarks=1).benchmarks, table.iloc[:1])  # the screen; the same draws


@pytest.mark.parametrize(
    ("model", "seed"),
    [
        (HistGradientBoostingClassifier(max_iter=60), 2),
        (RandomForestClassifier(60, min_samples_leaf=3, random_state=0), 3),
    ],
)
def test_a_strong_confounder_is_strong_whatever_the_propensity_model(model: Any, seed: int) -> None:
    """Overconfident models, with propensities of a thousandth and of zero: the debiased moment made 100% of it by the
    first and 0% by the second."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(1000, 4)), columns=list("abcd"))
    base = X["a"].to_numpy() + 0.5 * X["b"].to_numpy()
    e = expit(base)
    arm = (rng.random(1000) < e).astype(int)
    mu = np.column_stack([base, base + 1])
    one = Study(X, mu[np.arange(1000), arm] + rng.normal(size=1000), arm, mu, np.column_stack([1 - e, e]))
    linear, rough = (
        one.ask(nuisance=Nuisance(LinearRegression(), use, n_folds=2), benchmark=["a"]).benchmarks.loc["a"]
        for use in (LogisticRegression(), model)
    )
    # the gain of 1 / (e (1 - e)), whose mean is 2 + 2 exp(variance of the logit / 2), by quadrature: 0.373
    z, w = np.polynomial.hermite_e.hermegauss(80)
    short = np.array([w @ expit(z + b) / w.sum() for b in 0.5 * z])
    truth = (2 + 2 * np.exp(1.25 / 2)) / (w @ (1 / (short * (1 - short))) / w.sum()) - 1
    assert truth == pytest.approx(0.373, abs=0.001)
    assert linear["cf_d"] == pytest.approx(truth, abs=0.2)
    assert 0.25 * truth < rough["cf_d"] < 1.5 * truth
    assert np.isfinite(rough[["lower", "upper", "ci_lower", "ci_upper"]]).all()


@pytest.mark.filterwarnings("ignore:Weak overlap")
def test_benchmarks_in_three_arms_for_the_treated_and_with_weights_of_any_scale() -> None:
    one = study(500, n_arms=3)
    linear = Nuisance(LinearRegression(), LogisticRegression(), n_folds=2)
    weight = np.random.default_rng(3).uniform(0.5, 2.0, size=500)
    ask: dict[str, Any] = {"treated": 2, "estimand": "ATT", "benchmark": ["strong"], "nuisance": linear}
    first, second = (one.ask(sample_weight=scale * weight, **ask).benchmarks for scale in (1, 2))
    pd.testing.assert_frame_equal(first, second)
    assert 0.1 < first.loc["strong", "cf_d"] <= 1


def test_benchmarks_by_a_linear_nuisance_and_in_groups() -> None:
    one = study(400)
    linear = Nuisance(LinearRegression(), LogisticRegression(), n_folds=2)
    own = one.ask(est=one.est(nuisance=linear), benchmark={"both": ["weak", "strong"]})
    given = one.ask(nuisance=linear, benchmark={"both": ["weak", "strong"]})
    pd.testing.assert_frame_equal(own.benchmarks, given.benchmarks)
    assert own.benchmarks.loc["both", "cf_y"] > 0.7
    trial = one.ask(propensity=np.full(400, 0.4), benchmark=["strong"], nuisance=linear)
    assert trial.benchmarks.loc["strong", "cf_d"] == 0  # in a trial no covariate explains the treatment
    assert trial.benchmarks.loc["strong", "lower"] == trial.theta


@pytest.mark.filterwarnings("ignore:Weak overlap")
def test_binary_outcomes_three_arms_and_few_rows() -> None:
    one = study(300, n_arms=3)
    mu = expit(one.mu)
    event = (np.random.default_rng(2).random(300) < mu[np.arange(300), one.arm]).astype(float)
    risk = replace(one, y=event, mu=mu)
    found = risk.ask(treated=2, n_benchmarks=1)
    assert (found.unit, found.n) == ("risk difference", 300)
    assert found.sigma2 < 0.25 and 0 <= found.rv < 1
    assert e_value(found.estimate, baseline=0.3).scale == "risk difference"


def test_what_it_says() -> None:
    found = study().ask(benchmark=[])
    assert f"explain {found.rv:.1%} of what" in str(found) and f"{found.rv_significant:.1%} of both" in found.text
    assert found.to_frame().loc["ATE [1 vs 0]", "rv"] == found.rv
    none = study(effect=0.0).ask(benchmark=[])
    assert none.rv_significant == 0 and "contains 0 without any" in none.text
    towards = study().ask(benchmark=[], null=0.5)
    assert towards.rv < found.rv and "bring the estimate to 0.5" in towards.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimand": "ATO"}, "estimand must be one of"),
        ({"level": 1.0}, "level must lie"),
        ({"benchmark": ["age"]}, "'age' is no column of X that varies"),
        ({"treated": 2}, "treated=2 is no arm"),
    ],
)
def test_omitted_variable_bias_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(100).ask(**options)
    with pytest.raises(ValueError, match="they lie in"):
        study(100).ask(benchmark=[]).bounds(0.1, 1.0)


# ------------------------------------------------------------------------------------------------------------ pictures


def test_pictures_of_strength() -> None:
    from matplotlib import pyplot

    from effects.plots import plot_sensitivity

    table = pd.DataFrame({"cf_y": [0.3, 0.1], "cf_d": [0.1, 0.02]}, index=["strong", "weak"])
    found = replace(study().ask(benchmark=[]), benchmarks=table)
    ax = plot_sensitivity(found)
    title = ax.get_title(loc="left").replace("\n", " ")
    assert f"explain {found.rv:.1%} of both" in title and f"the estimate, {found.theta:.3g}, to 0" in title
    assert {"strong", "weak"} <= {text.get_text() for text in ax.texts}
    points = next(line for line in ax.lines if line.get_marker() == "o").get_xydata()
    np.testing.assert_allclose(points, found.benchmarks[["cf_d", "cf_y"]])
    data = regression()
    fit = sm.OLS(data["y"], data[["const", "d", "x", "z"]]).fit()
    canvas = pyplot.subplots()[1]
    assert plot_sensitivity(robustness_value(fit, "d", benchmark=["z"]), ax=canvas) is canvas
    assert "1× z" in [text.get_text() for text in canvas.texts]
    plot_sensitivity(study(effect=0.0).ask(benchmark=[]))
    plot_sensitivity(RobustnessValue(0.0, 0.0, 0.0, 0.0, 50))
    with pytest.raises(TypeError, match="got dict"):
        plot_sensitivity({})
    pyplot.close("all")
