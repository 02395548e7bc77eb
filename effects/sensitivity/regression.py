"""Robustness values of linear regressions: omitted variables in partial R^2 (Cinelli & Hazlett)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from effects.individual import check_level
from effects.inference.checks import FloatArray

Benchmark = Sequence[str] | Mapping[str, Sequence[str]] | None


@dataclass(frozen=True, eq=False)
class RobustnessValue:
    r"""How strong omitted variables must be to change a regression's coefficient (Cinelli & Hazlett 2020).

    Strength is two partial :math:`R^2`: the shares that the omitted variables explain of what the regression leaves of
    the outcome's variance (``r2_y``) and of the treatment's (``r2_d``).

    Attributes
    ----------
    rv : float
        Both shares that bring the estimate to (1 - q) of itself.
    rv_significant : float
        Both shares at which it is no longer distinguishable from that, at `level`; 0 where it never was.
    partial_r2 : float
        Share of the outcome's residual variance that the treatment explains; also the r2_d that an omitted variable
        needs if it explains all the rest of the outcome.
    t, df, se : float
        Of the coefficient; where no `se` was given, it is 1 and the estimate is in standard errors.
    q, level : float
    column : str
    benchmarks : DataFrame
        Index (covariate, times): ``r2_d, r2_y, estimate, se, t, lower, upper`` if an omitted variable were that many
        times as strong as the covariate.

    Examples
    --------
    >>> found = robustness_value(4.18445, df=783)
    >>> round(found.rv, 3), round(found.rv_significant, 3), round(found.partial_r2, 3)
    (0.139, 0.076, 0.022)
    """

    rv: float
    rv_significant: float
    partial_r2: float
    t: float
    df: float
    se: float = 1.0
    q: float = 1.0
    level: float = 0.95
    column: str = "treatment"
    benchmarks: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)

    @property
    def estimate(self) -> float:
        """The coefficient."""
        return self.t * self.se

    def adjusted(self, r2_d: float, r2_y: float) -> pd.Series:
        r"""What an omitted variable of given strength would leave of the estimate, where it works against it.

        .. math:: |\text{bias}| = se \sqrt{df}\, \sqrt{\frac{R^2_Y R^2_D}{1 - R^2_D}}, \qquad
                  se' = se \sqrt{\frac{1 - R^2_Y}{1 - R^2_D} \cdot \frac{df}{df - 1}} .

        Returns
        -------
        Series
            ``estimate, se, t, lower, upper``.

        Raises
        ------
        ValueError
            If a share lies outside of [0, 1], or r2_d is 1.
        """
        if not (0 <= r2_d < 1 and 0 <= r2_y <= 1):
            raise ValueError(f"r2_d={r2_d!r} and r2_y={r2_y!r} must be shares: [0, 1) and [0, 1].")
        bias = self.se * np.sqrt(self.df * r2_y * r2_d / (1 - r2_d))
        estimate = np.sign(self.t) * (abs(self.estimate) - bias)
        se = self.se * np.sqrt((1 - r2_y) / (1 - r2_d) * self.df / (self.df - 1))
        half = stats.t.ppf(0.5 + self.level / 2, self.df - 1) * se
        with np.errstate(divide="ignore", invalid="ignore"):
            t = estimate / se
        return pd.Series({"estimate": estimate, "se": se, "t": t, "lower": estimate - half, "upper": estimate + half})

    def extreme(self, r2_y: Sequence[float] = (1.0, 0.75, 0.5)) -> pd.DataFrame:
        """The r2_d that is enough to bring the estimate to (1 - q) of itself, if r2_y were as large as given."""
        f2 = self.q**2 * self.t**2 / self.df
        shares = np.asarray(r2_y, dtype=np.float64)
        return pd.DataFrame({"r2_d": f2 / (f2 + shares)}, index=pd.Index(shares, name="r2_y"))

    @property
    def text(self) -> str:
        """The finding in plain words."""
        goal = "to zero" if self.q == 1 else f"down by {self.q:.0%}"
        words = (
            f"Omitted variables would have to explain {self.rv:.1%} of what is left of the variance of both "
            f"{self.column} and the outcome to bring the estimate {goal}; "
        )
        words += (
            f"{self.rv_significant:.1%} would do for the {self.level:.0%} interval. "
            if self.rv_significant > 0
            else f"the {self.level:.0%} interval does not exclude that even without any. "
        )
        return words + (
            f"If they explained all the rest of the outcome, {float(self.extreme((1.0,))['r2_d'].iloc[0]):.1%} of "
            f"{self.column} would be enough."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row: ``estimate, se, t, df, partial_r2, rv, rv_significant``."""
        row = {"estimate": self.estimate, "se": self.se, "t": self.t, "df": self.df, "partial_r2": self.partial_r2}
        return pd.DataFrame({**row, "rv": self.rv, "rv_significant": self.rv_significant}, index=[self.column])

    def __str__(self) -> str:
        return self.text


def robustness_value(
    result: Any,
    column: str | None = None,
    *,
    df: float | None = None,
    se: float | None = None,
    q: float = 1.0,
    level: float = 0.95,
    benchmark: Benchmark = None,
    multiples: Sequence[float] = (1, 2, 3),
) -> RobustnessValue:
    r"""How strong omitted variables must be to explain a linear regression's coefficient away.

    With :math:`f = q |t| / \sqrt{df}`, less :math:`t^*_{df - 1} / \sqrt{df - 1}` for significance,

    .. math:: RV = \tfrac12 \left(\sqrt{f^4 + 4 f^2} - f^2\right).

    Parameters
    ----------
    result : statsmodels OLS or WLS results, or float
        The fitted regression, or the t statistic of its coefficient (then give `df`).
    column : str, optional
        Name of the treatment among the regressors; needed for a regression.
    df : float, optional
        Residual degrees of freedom, for a number.
    se : float, optional
        Standard error, for a number.
    q : float, default 1
        The share of the estimate to explain away; 1 is all of it.
    level : float, default 0.95
    benchmark : list of regressors, or mapping of label to regressors, optional
        Observed covariates to compare with: what an omitted variable as strong as this one (or this group) would do.
        With statsmodels results only.
    multiples : sequence of float
        So many times as strong; multiples that no variable can reach are left out.

    Returns
    -------
    RobustnessValue

    Raises
    ------
    TypeError
        If the result is neither a number nor a linear regression.
    ValueError
        If a name is unknown, or `df`, `column`, `q` or `multiples` are missing or make no sense.

    Notes
    -----
    Partial :math:`R^2` are properties of least squares: t is the classical one even if the results carry robust
    errors, as in the authors' own software. With :math:`f^* = t^*_{df - 1} / \sqrt{df - 1}` and f so large that
    :math:`f f^* \ge 1`, omitted variables reach insignificance soonest by explaining less of the outcome than of the
    treatment: then the value for significance is :math:`(f^2 - f^{*2}) / (1 + f^2)`, the largest of both shares.

    References
    ----------
    Cinelli & Hazlett (2020), Making sense of sensitivity: extending omitted variable bias, JRSS B 82, equations 18, 19
    and section 4.4.

    Examples
    --------
    >>> found = robustness_value(4.18445, df=783, se=0.02325654)
    >>> found.adjusted(r2_d=0.0092, r2_y=0.1246)["estimate"].round(3).item()
    0.075
    >>> print(found.extreme().round(3))
           r2_d
    r2_y
    1.00  0.022
    0.75  0.029
    0.50  0.043
    """
    if not q > 0:
        raise ValueError(f"q must be positive, got {q!r}: 1 is the whole estimate.")
    if any(not times > 0 for times in multiples):
        raise ValueError(f"multiples must be positive, got {tuple(multiples)}.")
    check_level(level)
    design = None
    if isinstance(result, int | float | np.number):
        if df is None or not df > 1:
            raise ValueError(f"df={df!r}: with a t statistic give the residual degrees of freedom, more than 1.")
        if benchmark is not None:
            raise ValueError("benchmark= needs the regression itself: give statsmodels results and column=.")
        t, se, name = float(result), 1.0 if se is None else float(se), column or "treatment"
    else:
        design = _Design.of(result)
        name = design.check(column, "column")
        t, se, df = *design.coefficient(name), design.df
    f, critical = q * abs(t) / np.sqrt(df), float(stats.t.ppf(0.5 + level / 2, df - 1) / np.sqrt(df - 1))
    significant = robustness(f - critical)
    if f > critical and f * critical >= 1:
        significant = (f**2 - critical**2) / (1 + f**2)
    found = RobustnessValue(robustness(f), significant, t**2 / (t**2 + df), t, df, se, q, level, name)
    if design is None or benchmark is None:
        return found
    return replace(found, benchmarks=_regression_benchmarks(found, design, named_groups(benchmark), multiples))


def robustness(f: float) -> float:
    """The share r of :math:`r / \\sqrt{1 - r} = f`."""
    return float((np.sqrt(f**4 + 4 * f**2) - f**2) / 2) if f > 0 else 0.0


@dataclass(frozen=True, eq=False)
class _Design:
    """A least-squares fit as arrays, with classical errors."""

    names: list[str]
    X: FloatArray
    params: FloatArray
    covariance: FloatArray
    df: float

    @classmethod
    def of(cls, result: Any) -> _Design:
        from statsmodels.regression.linear_model import WLS  # OLS is one, too

        model = getattr(result, "model", None)
        if not isinstance(model, WLS):
            raise TypeError(
                f"a t statistic, or the results of a statsmodels OLS or WLS is needed, got {type(result).__name__}: "
                "for other models and for AIPW use omitted_variable_bias or e_value."
            )
        covariance = np.asarray(result.scale * result.normalized_cov_params)
        names = [str(name) for name in model.exog_names]
        return cls(names, np.asarray(model.wexog), np.asarray(result.params), covariance, float(result.df_resid))

    def check(self, name: str | None, role: str) -> str:
        if name is None or name not in self.names:
            raise ValueError(f"{role}={name!r} is no regressor: name one of {', '.join(map(repr, self.names))}.")
        return name

    def coefficient(self, name: str) -> tuple[float, float]:
        """t and standard error."""
        k = self.names.index(name)
        se = float(np.sqrt(self.covariance[k, k]))
        return float(self.params[k]) / se, se

    def partial_r2(self, names: Sequence[str]) -> float:
        """Share of the residual variance that some regressors explain together."""
        at = [self.names.index(name) for name in names]
        b = self.params[at]
        explained = float(b @ np.linalg.pinv(self.covariance[np.ix_(at, at)]) @ b)
        return explained / (explained + self.df)

    def treatment(self, name: str) -> _Design:
        """The regression of one regressor on all others."""
        import statsmodels.api as sm

        k = self.names.index(name)
        names, X = self.names[:k] + self.names[k + 1 :], np.delete(self.X, k, axis=1)
        fit = sm.OLS(self.X[:, k], X).fit()
        return _Design(names, X, fit.params, fit.scale * fit.normalized_cov_params, float(fit.df_resid))


def _regression_benchmarks(
    found: RobustnessValue, design: _Design, groups: Mapping[str, Sequence[str]], multiples: Sequence[float]
) -> pd.DataFrame:
    treatment = design.treatment(found.column)
    rows, index = [], []
    for label, names in groups.items():
        for name in names:
            design.check(name, "benchmark")
        if found.column in names:
            raise ValueError(f"benchmark={label!r} holds the treatment {found.column!r} itself: name covariates.")
        r2_d, r2_y = treatment.partial_r2(names), design.partial_r2(names)
        for times in multiples:
            if times * r2_d >= 1 - r2_d:
                continue
            shared = times * r2_d**2 / ((1 - times * r2_d) * (1 - r2_d))
            if shared >= 1:
                continue
            by_d = times * r2_d / (1 - r2_d)
            by_y = ((np.sqrt(times) + np.sqrt(shared)) / np.sqrt(1 - shared)) ** 2 * r2_y / (1 - r2_y)
            by_y = min(float(by_y), 1.0)
            rows.append({"r2_d": by_d, "r2_y": by_y, **found.adjusted(by_d, by_y)})
            index.append((label, times))
    at = pd.MultiIndex.from_tuples(index, names=["covariate", "times"])
    return pd.DataFrame(rows, index=at, columns=["r2_d", "r2_y", "estimate", "se", "t", "lower", "upper"])


def named_groups(benchmark: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Label to names, whichever way they were given."""
    if isinstance(benchmark, str):
        benchmark = [benchmark]
    if isinstance(benchmark, Mapping):
        listed = ((label, [names] if isinstance(names, str) else names) for label, names in benchmark.items())
        return {str(label): [str(name) for name in names] for label, names in listed}
    return {str(name): [str(name)] for name in benchmark}
