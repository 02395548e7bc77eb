"""Effects: of a treatment on each unit (`Effect`) and on a population (`Estimate`). Values, never plots."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from effects.individual import Coupling, IndividualEffect, Law, check_df, check_level, independent_share

LINKS = ("identity", "log", "reciprocal")
_BAND_DRAWS = 200_000


def contrast(arms: Sequence[Hashable], treated: Hashable = None, control: Hashable = None) -> tuple[int, int]:
    """Positions of the treated and the control arm of a comparison; the control is the first arm by default.

    Raises
    ------
    ValueError
        If an arm is unknown, both are the same, or `treated` is needed and missing.
    """
    listed = ", ".join(repr(arm) for arm in arms)
    for role, arm in (("treated", treated), ("control", control)):
        if arm is not None and arm not in arms:
            raise ValueError(f"{role}={arm!r} is no arm of this estimator: name one of {listed}.")
    c = 0 if control is None else list(arms).index(control)
    others = [k for k in range(len(arms)) if k != c]
    if treated is None and len(others) != 1:
        raise ValueError(f"treated= is ambiguous with {len(arms)} arms: name one of {listed} (control is {arms[c]!r}).")
    t = others[0] if treated is None else list(arms).index(treated)
    if t == c:
        raise ValueError(f"treated and control are both {arms[c]!r}: name two different arms of {listed}.")
    return t, c


@dataclass(frozen=True, eq=False)
class Effect:
    r"""The conditional average treatment effect of every unit, with its (epistemic) uncertainty.

    :math:`\tau(x) = E[Y(t) - Y(c) \mid x]`. The members are draws from the posterior of the function
    :math:`\tau`; the same member stands for the same function at every unit, so averages over units
    (`by`) carry the right covariance.

    Parameters
    ----------
    members : ndarray of shape (n_members, n_samples)
        Posterior draws of the CATE, in the outcome's unit (risk differences for a binary outcome).
    treated, control : label
        The arms that are compared.
    laws : callable, optional
        Gives the laws of the outcome under `treated` and `control`, for `prob_benefit`; called only there,
        because predicting a million units' effects must not hold a million laws.
    unit : str
        The outcome's unit, for labels.
    index : pandas.Index, optional
        Row labels of the units.
    df : float, optional
        Degrees of freedom of Student's t in intervals and probabilities, where the members' variance is itself right
        and the data's size is what limits it. By default the members are taken as a sample of the posterior: their
        variance is estimated, with one degree of freedom less than members.
    supported : ndarray of bool, shape (n_samples,), optional
        Whether the training data say enough of the unit.
    hidden : bool
        Whether nothing but NaN is told of units that are not supported.
    fresh : float, optional
        Share of fresh noise in the variances of the outcomes' laws; the rest is error of their means, which both have
        in common. By default all of it. See `individual`.

    Examples
    --------
    >>> import numpy as np
    >>> from effects.effect import Effect
    >>> effect = Effect(np.array([[0.0, 2.0], [2.0, 4.0]]), treated=1, control=0)
    >>> effect
    Effect(1 vs 0, n_samples=2, n_members=2, mean=2)
    >>> effect.mean
    array([1., 3.])
    """

    members: NDArray[np.floating]
    treated: Hashable = 1
    control: Hashable = 0
    laws: Callable[[], tuple[Law, Law]] | None = None
    unit: str = ""
    index: pd.Index | None = None
    df: float | None = None
    supported: NDArray[np.bool_] | None = None
    hidden: bool = False
    fresh: float | None = None

    def __post_init__(self) -> None:
        members = np.asarray(self.members)
        members = members if members.dtype == np.float32 else members.astype(np.float64)
        if members.ndim != 2 or not members.size:
            raise ValueError(f"members must have shape (n_members, n_samples), got {members.shape}.")
        if not np.isfinite(members).all():
            raise ValueError("members hold NaN or infinite values: an effect must be a number for every unit.")
        object.__setattr__(self, "members", members)
        check_df(self.df)
        if self.supported is not None and np.shape(self.supported) != (len(self),):
            raise ValueError(f"supported has shape {np.shape(self.supported)} for {len(self)} units.")

    def __repr__(self) -> str:
        shown = self.mean
        shown = shown[~np.isnan(shown)]
        mean = f"{shown.mean():.4g}{self.unit and ' ' + self.unit}" if len(shown) else "unsupported"
        size = f"n_samples={len(self)}, n_members={len(self.members)}"
        return f"Effect({self.treated!r} vs {self.control!r}, {size}, mean={mean})"

    def __len__(self) -> int:
        return int(self.members.shape[1])

    @property
    def mean(self) -> NDArray[np.float64]:
        """The CATE: the posterior mean, shape (n_samples,), in the outcome's unit."""
        return self._shown(self.members.mean(axis=0, dtype=np.float64))

    @property
    def std(self) -> NDArray[np.float64]:
        """Posterior standard deviation of the CATE, shape (n_samples,). Zero for a single member."""
        return self._shown(self.members.std(axis=0, dtype=np.float64))

    def interval(self, level: float = 0.9) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        r"""Credible interval of the CATE: mean :math:`\pm t_{(1 + level)/2}` posterior standard deviations.

        Student's t is used because a few dozen members estimate two moments well and tail quantiles badly; its degrees
        of freedom are `df`, or one less than there are members.

        Returns
        -------
        lower, upper : ndarray of shape (n_samples,)
        """
        df, inflation = self._student()
        half = stats.t.ppf(0.5 + check_level(level) / 2, df) * inflation * self.std
        return self.mean - half, self.mean + half

    def prob_above(self, threshold: float = 0.0) -> NDArray[np.float64]:
        """Posterior probability that the unit's CATE (an average, not the individual effect) exceeds `threshold`."""
        df, inflation = self._student()
        gap, std = self.mean - threshold, inflation * self.std
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._shown(np.where(std > 0, stats.t.cdf(gap / std, df), (gap > 0).astype(np.float64)))

    def individual(self, coupling: Coupling = "bounds") -> IndividualEffect:
        r"""The law of the individual effect :math:`Y(t) - Y(c)`, under an assumption on how both go together.

        The CATE is its mean and is identified; its spread is not, because no unit is seen under both arms. See
        `IndividualEffect` for what each coupling assumes.

        Parameters
        ----------
        coupling : {"bounds", "independent", "comonotone"}
            ``"bounds"`` assumes nothing and answers with pairs (lower, upper).

        Returns
        -------
        IndividualEffect

        Raises
        ------
        ValueError
            If the coupling is unknown, or the effect was made without the outcomes' laws.

        Examples
        --------
        >>> effect = est.predict_effect(X)  # doctest: +SKIP
        >>> lower, upper = effect.individual("independent").interval(0.9)  # doctest: +SKIP
        """
        if self.laws is None:
            raise ValueError(
                "the individual effect needs the outcomes' laws: get the effect from predict_effect or "
                "outcomes.effect()."
            )
        treated, control = self.laws()
        return IndividualEffect(
            treated, control, coupling, independent_share(treated, control, self.fresh, self.members)
        )

    def prob_benefit(self, threshold: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        r"""Bounds on :math:`P(Y(t) - Y(c) > \text{threshold} \mid x)`, the share of such units that benefit.

        The two outcomes are never seen together, so their joint law is not identified. Whatever it is,
        the probability lies between Makarov's bounds, which are sharp given the two marginal laws
        (Makarov 1981; Fan & Park 2010, Lemma 2.1):

        .. math:: \sup_y [F_c(y - \delta) - F_t(y)]_+ \le P(Y(t) - Y(c) > \delta)
                  \le 1 - \sup_y [F_t(y) - F_c((y - \delta)^-)]_+ .

        Returns
        -------
        lower, upper : ndarray of shape (n_samples,)

        Raises
        ------
        ValueError
            If the effect was made without the outcomes' laws.
        """
        lower, upper = self.individual("bounds").prob_above(threshold)
        return self._shown(lower), self._shown(upper)

    def by(self, groups: ArrayLike, level: float = 0.9) -> pd.DataFrame:
        """Average CATE within groups of the units, with the posterior's uncertainty.

        These are model-based summaries; for a reported subgroup effect prefer the doubly robust
        estimates of `effects.inference`.

        Parameters
        ----------
        groups : array-like of shape (n_samples,)
            Group labels; missing labels form a group of their own.
        level : float
            Probability of the interval.

        Returns
        -------
        DataFrame
            Indexed by group, with columns ``n, mean, std, lower, upper``.
        """
        labels = pd.Series(groups).reset_index(drop=True)  # units go by position, not by the labels' own index
        if len(labels) != len(self):
            raise ValueError(f"groups has {len(labels)} labels for {len(self)} units.")
        df, inflation = self._student()
        z = stats.t.ppf(0.5 + check_level(level) / 2, df) * inflation
        grouped = labels.groupby(labels, dropna=False, sort=True, observed=True)
        size, code = grouped.size(), grouped.ngroup().to_numpy()
        average = [self.members[:, code == k].mean(axis=1, dtype=np.float64) for k in range(len(size))]
        mean, std = np.mean(average, axis=1), np.std(average, axis=1)
        columns = {"n": size.to_numpy(), "mean": mean, "std": std, "lower": mean - z * std, "upper": mean + z * std}
        return pd.DataFrame(columns, index=size.index.rename("group"))

    def to_frame(self, level: float = 0.9) -> pd.DataFrame:
        """One row a unit: ``cate, cate_std, cate_lower, cate_upper, prob_positive``, and ``supported`` where known."""
        lower, upper = self.interval(level)
        columns: dict[str, Any] = {
            "cate": self.mean,
            "cate_std": self.std,
            "cate_lower": lower,
            "cate_upper": upper,
            "prob_positive": self.prob_above(0.0),
        }
        if self.supported is not None:
            columns["supported"] = self.supported
        return pd.DataFrame(columns, index=self.index)

    def _shown(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.supported is None or not self.hidden:
            return values
        return np.where(self.supported, values, np.nan)

    def _student(self) -> tuple[float, float]:
        """Degrees of freedom, and what turns the members' standard deviation into an unbiased one."""
        if self.df is not None:
            return self.df, 1.0
        n = self.members.shape[0]
        return max(n - 1, 1), float(np.sqrt(n / max(n - 1, 1)))


@dataclass(frozen=True)
class Estimate:
    r"""An average over a population, with its standard error.

    Attributes
    ----------
    value, se : float
        The estimate and its standard error, in the outcome's unit (a risk difference for a binary outcome). Of a ratio
        or a number needed to treat, `se` is the delta method's: the intervals do not come from it alone, see `link`.
    method : str
        How it was estimated, for the paper's method section.
    n : int
        Rows it rests on.
    estimand : str
        What was estimated, such as ``"ATE"``.
    treated, control : label
        The arms compared (None where one arm alone is described).
    level : float
        Probability of the interval.
    df : float, optional
        Degrees of freedom of Student's t for the interval and the p-value; without it they are normal.
    link : {"identity", "log", "reciprocal"}
        The scale on which the Wald interval is symmetric. "log" is for ratios: the interval is :math:`\exp(\log
        \text{value} \pm t\, \text{se} / \text{value})`, and no effect is 1. "reciprocal" is for numbers needed to
        treat: limits are those of ``1 / value``, the risk difference, and no effect is infinite.

    Examples
    --------
    >>> from effects.effect import Estimate
    >>> Estimate(2.0, 1.0, method="AIPW", n=100).interval(0.95)[0].__round__(2)
    0.04
    >>> [round(limit, 2) for limit in Estimate(2.0, 0.5, method="AIPW", n=100, link="log").interval()]
    [1.23, 3.26]
    """

    value: float
    se: float
    method: str
    n: int
    estimand: str = "ATE"
    treated: Hashable = None
    control: Hashable = None
    unit: str = ""
    level: float = 0.95
    df: float | None = None
    link: str = "identity"

    def __post_init__(self) -> None:
        check_level(self.level)
        if not self.se >= 0:
            raise ValueError(f"a standard error cannot be {self.se!r}.")
        check_df(self.df)
        if self.link not in LINKS:
            raise ValueError(f"link must be one of {LINKS}, got {self.link!r}.")
        if (self.link == "log" and not self.value > 0) or (self.link == "reciprocal" and self.value == 0):
            raise ValueError(f"value={self.value!r} has no {self.link}: report it with link='identity'.")

    def interval(self, level: float | None = None) -> tuple[float, float]:
        """Wald interval ``value ± t·se`` (``z·se`` without `df`) at `level`, by default the estimate's own.

        It is symmetric on the scale of `link`. If the interval of a risk difference contains 0, that of the number
        needed to treat runs through infinity (Altman 1998): then ``lower < 0 < upper``, and the interval is
        everything *outside* of them, from `upper` over infinity to `lower`.
        """
        return self._limits(self._quantile(0.5 + check_level(self.level if level is None else level) / 2))

    def _quantile(self, p: float) -> float:
        return float(stats.norm.ppf(p) if self.df is None else stats.t.ppf(p, self.df))

    def _limits(self, times: float) -> tuple[float, float]:
        """Limits that are `times` standard errors away, on the link's scale."""
        value, se = self._linked()
        lower, upper = value - times * se, value + times * se
        if self.link == "log":
            return float(np.exp(lower)), float(np.exp(upper))
        if self.link == "reciprocal":
            with np.errstate(divide="ignore"):
                limits = 1 / np.float64(lower), 1 / np.float64(upper)
            return float(min(limits)), float(max(limits))
        return lower, upper

    def _linked(self) -> tuple[float, float]:
        """Value and standard error on the scale where the interval is symmetric."""
        if self.link == "log":
            return float(np.log(self.value)), self.se / self.value
        if self.link == "reciprocal":
            return 1 / self.value, self.se / self.value**2
        return self.value, self.se

    @property
    def statistic(self) -> float:
        """``value / se``, or ``log(value) / se(log(value))`` of a ratio; t or normal under no effect.

        With a zero standard error infinite, or NaN for 0 / 0.
        """
        value, se = self._linked()
        if se > 0:
            return value / se
        return float("nan") if value == 0 else float(np.copysign(np.inf, value))

    @property
    def p_value(self) -> float:
        """Two-sided p-value of no effect."""
        gap = abs(self.statistic)
        return float(2 * (stats.norm.sf(gap) if self.df is None else stats.t.sf(gap, self.df)))

    @property
    def name(self) -> str:
        """The estimand with its contrast, such as ``ATE [drug vs placebo]``."""
        if self.control is None:
            return self.estimand if self.treated is None else f"{self.estimand} [{self.treated}]"
        return f"{self.estimand} [{self.treated} vs {self.control}]"

    def to_frame(self) -> pd.DataFrame:
        """One row in the words of statsmodels: ``coef, std err, z, P>|z|, [0.025, 0.975]``, limits by the level.

        With `df` the letter is ``t``. As after Stata's ``eform``, a ratio's standard error is its own, its test that of
        the logarithm.
        """
        return _frame([self], [self.interval()], [self.name])

    def summary(self) -> str:
        """The table as statsmodels prints it, with the method and the number of rows above."""
        facts = [("Estimand:", self.name), ("Method:", self.method), ("No. Observations:", str(self.n))]
        facts += [("Unit:", self.unit)] if self.unit else []
        facts += [] if self.df is None else [("Df:", f"{self.df:.1f}")]
        return _summary(f"{self.estimand} Results", facts, self.to_frame().set_axis([self.estimand]))

    def __str__(self) -> str:
        lower, upper = self.interval()
        unit = f" {self.unit}" if self.unit else ""
        limits = f"{lower:.4g} to {upper:.4g}"
        if self.link == "reciprocal" and lower < 0 < upper:
            limits = f"{upper:.4g} to infinity to {lower:.4g}"
        return f"{self.name}: {self.value:.4g}{unit} ({100 * self.level:.6g}% interval {limits})"


@dataclass(frozen=True)
class WaldTest:
    """A chi-squared test of `df` restrictions at once; `hypothesis` says which."""

    statistic: float
    df: int
    p_value: float
    hypothesis: str

    def __str__(self) -> str:
        return f"{self.hypothesis}: chi2({self.df}) = {self.statistic:.3f}, P>chi2 = {self.p_value:.4f}"


@dataclass(frozen=True, eq=False)
class Estimates(Sequence[Estimate]):
    """Averages that belong together, such as the effects in subgroups, with their joint covariance.

    Attributes
    ----------
    estimates : tuple of Estimate
        All of one kind: level and link agree.
    covariance : ndarray of shape (n_estimates, n_estimates)
        Of the estimates, on the scale where their intervals are symmetric (of logarithms for ratios).
    labels : tuple
        What tells them apart: the groups, or the quantiles.
    by : str
        What the labels are values of.
    n : int, optional
        Rows that all rest on together.

    Raises
    ------
    ValueError
        If lengths disagree, or the covariance contradicts the standard errors.

    Examples
    --------
    >>> import numpy as np
    >>> from effects.effect import Estimate, Estimates
    >>> pair = [Estimate(value, 1.0, method="AIPW", n=100) for value in (1.0, 3.0)]
    >>> both = Estimates(pair, np.eye(2), labels=("young", "old"), by="age")
    >>> both.critical_values(0.95)[0].round(3).item()  # Sidak's, for two that are independent
    2.236
    >>> both.heterogeneity().statistic
    2.0
    """

    estimates: Sequence[Estimate]
    covariance: NDArray[np.float64] = field(repr=False)
    labels: Sequence[Hashable]
    by: str = "group"
    n: int | None = None

    def __post_init__(self) -> None:
        each, labels = tuple(self.estimates), tuple(self.labels)
        covariance = np.asarray(self.covariance, dtype=np.float64)
        if not each or len(labels) != len(each) or covariance.shape != (len(each), len(each)):
            raise ValueError(
                f"{len(each)} estimates were given with {len(labels)} labels and a covariance of shape "
                f"{covariance.shape}: give one label and one row and column for each, at least one."
            )
        if len({(e.link, e.level) for e in each}) > 1:
            raise ValueError("estimates that belong together have one level and one link.")
        if not np.allclose(np.sqrt(np.diag(covariance)), [e._linked()[1] for e in each], rtol=1e-6, atol=0):
            raise ValueError("the diagonal of the covariance is not the squared standard errors.")
        for name, value in (("estimates", each), ("labels", labels), ("covariance", covariance)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.estimates)

    def __getitem__(self, position: Any) -> Any:
        """The estimate at a position; several for a slice."""
        return self.estimates[position]

    @property
    def value(self) -> NDArray[np.float64]:
        """Estimates, shape (n_estimates,)."""
        return np.array([e.value for e in self])

    @property
    def se(self) -> NDArray[np.float64]:
        """Standard errors, shape (n_estimates,)."""
        return np.array([e.se for e in self])

    def critical_values(self, level: float | None = None) -> NDArray[np.float64]:
        r"""Multiples of the standard errors that bound all estimates at once with probability `level`.

        The largest of the absolute t statistics (max-t; Montiel Olea & Plagborg-Moller 2019): a joint normal law with
        the estimates' correlation, each carried to the t law of its own degrees of freedom. For a single estimate it is
        the t quantile, for independent ones Sidak's; otherwise from 200,000 draws of a fixed seed.

        Returns
        -------
        ndarray of shape (n_estimates,)
        """
        level = check_level(self.estimates[0].level if level is None else level)
        scale = np.sqrt(np.diag(self.covariance))
        known = scale > 0
        correlation = self.covariance[np.ix_(known, known)] / np.outer(scale[known], scale[known])
        if np.abs(correlation - np.eye(len(correlation))).max(initial=0.0) < 1e-12:
            each = level ** (1 / max(len(correlation), 1))
        else:
            values, vectors = np.linalg.eigh(correlation)
            root = vectors * np.sqrt(np.maximum(values, 0.0))
            draws = np.random.default_rng(0).standard_normal((_BAND_DRAWS, len(root))) @ root.T
            each = 1 - 2 * stats.norm.sf(np.quantile(np.abs(draws).max(axis=1), level))
        return np.array([e._quantile(0.5 + each / 2) for e in self])

    def interval(
        self, level: float | None = None, *, simultaneous: bool = False
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Intervals of all estimates: each holds its truth with probability `level`, or all of them at once do.

        Returns
        -------
        lower, upper : ndarray of shape (n_estimates,)
        """
        if simultaneous:
            limits = [e._limits(times) for e, times in zip(self, self.critical_values(level), strict=True)]
        else:
            limits = [e.interval(level) for e in self]
        lower, upper = np.array(limits).T
        return lower, upper

    def heterogeneity(self) -> WaldTest:
        """Wald test that all estimates have the same truth, on the scale of their link.

        Raises
        ------
        ValueError
            If there is but one, or the differences have no error (their covariance is singular).
        """
        if len(self) < 2:
            raise ValueError("one estimate alone has nothing to differ from: ask for two or more.")
        value = np.array([e._linked()[0] for e in self])
        gap = value[1:] - value[0]
        against = np.column_stack([-np.ones(len(gap)), np.eye(len(gap))])
        covariance = against @ self.covariance @ against.T
        if np.linalg.matrix_rank(covariance, hermitian=True) < len(gap):
            raise ValueError("the covariance of the differences is singular: leave out estimates that repeat others.")
        statistic = float(gap @ np.linalg.solve(covariance, gap))
        equal = f"{self[0].estimand.partition(',')[0]} is the same at every {self.by}"
        return WaldTest(statistic, len(gap), float(stats.chi2.sf(statistic, len(gap))), equal)

    def to_frame(self, simultaneous: bool = False) -> pd.DataFrame:
        """One row for each in the words of statsmodels; with `simultaneous` limits that hold for all at once."""
        limits = list(zip(*(side.tolist() for side in self.interval(simultaneous=simultaneous)), strict=True))
        return _frame(self.estimates, limits, pd.Index(self.labels, name=self.by, tupleize_cols=False))

    def summary(self, simultaneous: bool = False) -> str:
        """The table as statsmodels prints it, with the test of heterogeneity beneath."""
        first = self.estimates[0]
        contrast = "" if first.control is None else f" [{first.treated} vs {first.control}]"
        name = f"{first.estimand.partition(',')[0]}{contrast}"
        facts = [("Estimand:", name), ("Method:", first.method), ("By:", self.by)]
        facts += [("No. Observations:", str(self.n or max(e.n for e in self)))]
        facts += [("Unit:", first.unit)] if first.unit else []
        facts += [("Intervals:", "simultaneous" if simultaneous else "pointwise")]
        test = [str(self.heterogeneity())] if len(self) > 1 else []
        return _summary(f"{name} Results", facts, self.to_frame(simultaneous).set_axis([*map(str, self.labels)]), *test)

    def __str__(self) -> str:
        return "\n".join(map(str, self))


def _frame(each: Sequence[Estimate], limits: Sequence[tuple[float, float]], index: Any) -> pd.DataFrame:
    """One row an estimate, in the words of statsmodels."""
    letter = "z" if all(e.df is None for e in each) else "t"
    tail = (1 - each[0].level) / 2
    columns = {
        "coef": [e.value for e in each],
        "std err": [e.se for e in each],
        letter: [e.statistic for e in each],
        f"P>|{letter}|": [e.p_value for e in each],
        f"[{tail:.4g}": [lower for lower, _ in limits],
        f"{1 - tail:.4g}]": [upper for _, upper in limits],
    }
    return pd.DataFrame(columns, index=index)


def _summary(title: str, facts: list[tuple[str, str]], frame: pd.DataFrame, *notes: str) -> str:
    """Facts and a table of estimates as statsmodels prints them."""
    from statsmodels.iolib.summary import Summary, summary_params
    from statsmodels.iolib.table import SimpleTable
    from statsmodels.iolib.tableformatting import fmt_2cols

    given = (None, *(frame.iloc[:, k].to_numpy() for k in range(4)), frame.iloc[:, 4:].to_numpy())
    names = [str(name) for name in frame.index]
    table = summary_params(given, yname="y", xname=names, use_t=frame.columns[2] == "t")
    table[0][1:] = [type(table[0][1])(name, datatype="header", row=table[0]) for name in frame.columns]
    width = len(str(table).split("\n")[0])
    key = max(len(word) for word, _ in facts) + 2
    formats = dict(fmt_2cols, stub_fmt=f"%-{key}s", data_fmts=["%s"], data_aligns="r", colwidths=[key, width - key - 1])
    top = SimpleTable([[text] for _, text in facts], stubs=[word for word, _ in facts], title=title, txt_fmt=formats)
    page = Summary()
    page.tables = [top, table]
    if notes:
        page.add_extra_txt(list(notes))
    return page.as_text()
