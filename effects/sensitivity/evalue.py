"""E-values: how strong, as risk ratios, a hidden confounder must be to explain an association away."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from effects.effect import Estimate
from effects.individual import check_level
from effects.inference.checks import check_choice

SCALES = ("ratio", "odds ratio", "hazard ratio", "difference", "risk difference")
_DIFFERENCES = ("difference", "risk difference")
#: exp(0.91 d) of a standardised mean difference d, with limits exp(0.91 d -+ 1.78 se) at 95% (VanderWeele & Ding 2017).
_PER_SD, _PER_SE = 0.91, 1.78


@dataclass(frozen=True)
class EValue:
    """What hidden confounding would have to be, on the scale of risk ratios.

    Attributes
    ----------
    point : float
        E-value of the estimate: 1 or more, 1 where nothing needs explaining.
    limit : float or None
        E-value of the interval's limit nearest to `null`; 1 where the interval contains it, None without interval.
    ratio : float
        The estimate as a (converted) risk ratio.
    interval : (float, float) or None
        Its interval as risk ratios.
    null : float
        The risk ratio of the hypothesis: 1, no effect, unless another was asked for.
    scale : str
        What was given: "ratio", "odds ratio", "hazard ratio", "difference" or "risk difference".
    level : float
        Probability of the interval.
    note : str
        How the ratio was converted; empty where nothing was.

    Examples
    --------
    >>> found = e_value(3.9, scale="ratio", interval=(1.8, 8.7))
    >>> round(found.point, 2), round(found.limit, 2)
    (7.26, 3.0)
    """

    point: float
    limit: float | None
    ratio: float
    interval: tuple[float, float] | None
    null: float = 1.0
    scale: str = "ratio"
    level: float = 0.95
    note: str = ""

    @property
    def text(self) -> str:
        """The finding in plain words, with the conversion where there was one."""
        goal = "explain it away" if self.null == 1 else f"make it out of a true risk ratio of {self.null:.3g}"
        words = [f"{self.note} " if self.note else "", f"The estimate is a risk ratio of {self.ratio:.3g}. "]
        words.append(
            f"A confounder that nobody measured could {goal} only if it went with both treatment and outcome by risk "
            f"ratios of at least {self.point:.2f} each (or one weaker and the other stronger), over and above the "
            "measured covariates; weaker confounding could not."
            if self.point > 1
            else f"It is what is asked about, a risk ratio of {self.null:.3g}: there is nothing to explain away."
        )
        if self.interval is not None and self.limit is not None:
            limits = f"The {self.level:.0%} interval, {self.interval[0]:.3g} to {self.interval[1]:.3g},"
            words.append(
                f" {limits} contains {self.null:.3g} without any confounding."
                if self.limit == 1
                else f" {limits} would come to contain {self.null:.3g} at {self.limit:.2f}."
            )
        return "".join(words)

    def to_frame(self) -> pd.DataFrame:
        """Two rows, the estimate and the limit nearest to the null: ``risk_ratio, e_value``."""
        rows: dict[str, tuple[float, float]] = {"estimate": (self.ratio, self.point)}
        if self.interval is not None and self.limit is not None:
            rows["limit nearest the null"] = (_nearest(self.ratio, self.interval, self.null), self.limit)
        return pd.DataFrame.from_dict(rows, orient="index", columns=["risk_ratio", "e_value"])

    def __str__(self) -> str:
        return self.text


def e_value(
    estimate: Estimate | float,
    *,
    scale: str | None = None,
    interval: tuple[float, float] | None = None,
    lower: float | None = None,
    upper: float | None = None,
    se: float | None = None,
    sd: float | None = None,
    baseline: float | None = None,
    rare: bool = False,
    null: float | None = None,
    level: float | None = None,
) -> EValue:
    r"""E-value: the weakest confounding, as risk ratios with treatment and with outcome, that explains an effect away.

    For a risk ratio RR > 1 (or the inverse of one below 1)

    .. math:: E = RR + \sqrt{RR\,(RR - 1)},

    the same for the limit of the interval that is nearer to 1; for another hypothesis :math:`RR_0` with :math:`RR /
    RR_0` in the place of RR.

    Parameters
    ----------
    estimate : Estimate or float
        An `Estimate` of this package tells its scale and its interval itself.
    scale : {"ratio", "odds ratio", "hazard ratio", "difference", "risk difference"}, optional
        What a number is; needed for numbers. "ratio" stands for risk ratios, rate ratios and ratios of means of
        outcomes that are never negative; "difference" for mean differences in the outcome's unit.
    interval : (float, float), optional
        Limits of its confidence interval, or give `lower` and `upper` (one of them is enough).
    se : float, optional
        Standard error of a difference, in the place of limits: the limits are then those of the paper, :math:`\exp
        (0.91 d \pm 1.78\, se_d)`.
    sd : float, optional
        Standard deviation of the outcome (better: within arms, given the covariates), for "difference"; 1 for a
        difference that is standardised already. It is taken as known.
    baseline : float, optional
        Risk without treatment, for "risk difference"; taken as known.
    rare : bool, default False
        Whether the outcome is so rare (below some 15% at the end of follow-up) that an odds or hazard ratio is as good
        as a risk ratio. By default it is not, and the ratio is converted.
    null : float, optional
        The hypothesis to shift the estimate to, on the scale of the estimate: no effect by default.
    level : float, optional
        Probability of the interval: that of the estimate by default, 0.95 for numbers.

    Returns
    -------
    EValue
        ``point``, ``limit``, ``ratio``, ``interval``, and ``text`` for the paper.

    Raises
    ------
    ValueError
        If the scale is missing or unknown, `sd` or `baseline` is needed and missing, a ratio is not positive, or the
        estimate lies outside of its interval.

    Notes
    -----
    Conversions to risk ratios (VanderWeele & Ding 2017, table 2; VanderWeele 2020): an odds ratio of a common outcome
    by its square root; a hazard ratio of a common outcome by :math:`(1 - 0.5^{\sqrt{HR}}) / (1 - 0.5^{\sqrt{1/HR}})`; a
    standardised mean difference d by :math:`\exp(0.91 d)`, its limits alike; a risk difference by (baseline + RD) /
    baseline. All but the last are approximations; where the outcome is 0/1, ``estimate_ate(..., scale="ratio")`` needs
    none.

    An E-value says how strong confounding must be, not whether there is such: compare it with what measured covariates
    show (`omitted_variable_bias` does), and with what is known of the matter.

    References
    ----------
    VanderWeele & Ding (2017), Sensitivity analysis in observational research: introducing the E-value, Annals of
    Internal Medicine 167. Ding & VanderWeele (2016), Sensitivity analysis without assumptions, Epidemiology 27.
    VanderWeele (2020), Optimal approximate conversions of odds ratios and hazard ratios to risk ratios, Biometrics 76.

    Examples
    --------
    >>> print(e_value(0.80, scale="ratio", interval=(0.71, 0.91)).to_frame().round(2))
                            risk_ratio  e_value
    estimate                      0.80     1.81
    limit nearest the null        0.91     1.43
    >>> from effects.effect import Estimate
    >>> round(e_value(Estimate(2.0, 0.5, method="AIPW", n=100, link="log", unit="risk ratio")).point, 2)
    3.41
    """
    if isinstance(estimate, Estimate):
        value, ends, scale, level = _of_estimate(estimate, scale, level, (interval, lower, upper, se))
        limits: tuple[float, float] | None = ends
        if estimate.link == "reciprocal" and null is not None:
            raise ValueError("null= of a number needed to treat is ambiguous: give the risk difference and its null.")
    else:
        value, level = float(estimate), check_level(0.95 if level is None else level)
        if scale is None:
            raise ValueError(f"scale= is needed to read {value:g}: one of {', '.join(map(repr, SCALES))}.")
        check_choice("scale", scale, SCALES)
        limits = _limits(value, scale, interval, lower, upper, se, level)
    _check_needed(scale, sd, baseline)
    at = (0.0 if scale in _DIFFERENCES else 1.0) if null is None else float(null)
    given = [one for one in (value, at, *(limits or ())) if one is not None]
    if not all(math.isfinite(one) for one in (value, at)) or any(math.isnan(one) for one in given):
        raise ValueError(f"the estimate {value:g}, its limits and null must be numbers.")
    if limits is not None and not limits[0] <= value <= limits[1]:
        raise ValueError(f"the estimate {value:g} lies outside of its interval, {limits[0]:g} to {limits[1]:g}.")
    options: dict[str, Any] = {"sd": sd, "baseline": baseline, "rare": rare}
    ratio, truth = _ratio(value, scale, **options), _ratio(at, scale, **options)
    for role, one in (("estimate", ratio), ("null", truth)):
        if not one > 0:
            raise ValueError(f"the {role} as a risk ratio is {one:g}, which must be positive: check value and scale.")
    converted = None if limits is None else tuple(max(_ratio(one, scale, **options), 0.0) for one in limits)
    nearest = None
    if converted is not None:
        inside = converted[0] <= truth <= converted[1]
        nearest = 1.0 if inside else _bound(_nearest(ratio, (converted[0], converted[1]), truth), truth)
    pair = None if converted is None else (converted[0], converted[1])
    note = _note(value, ratio, scale, rare, sd, baseline)
    return EValue(_bound(ratio, truth), nearest, ratio, pair, truth, scale, level, note)


def _bound(ratio: float, null: float) -> float:
    """The E-value of a risk ratio against another."""
    gap = max(ratio / null, null / ratio)
    return gap + math.sqrt(gap * (gap - 1))


def _nearest(ratio: float, interval: tuple[float, float], null: float) -> float:
    """The limit between the estimate and the hypothesis, or beyond it where the interval contains it."""
    return interval[0] if ratio > null else interval[1]


def _of_estimate(
    estimate: Estimate, scale: str | None, level: float | None, given: tuple[Any, ...]
) -> tuple[float, tuple[float, float], str, float]:
    """Value, limits, scale and level of an `Estimate`."""
    if scale is not None or any(one is not None for one in given):
        raise ValueError("an Estimate has its own scale and interval: leave scale, interval, lower, upper and se out.")
    level = estimate.level if level is None else check_level(level)
    value, (low, high) = estimate.value, estimate.interval(level)
    if estimate.link == "log":
        return value, (low, high), "odds ratio" if estimate.unit == "odds ratio" else "ratio", level
    if estimate.link == "reciprocal":  # a number needed to treat: its limits are those of the risk difference, inverted
        ends = sorted(1 / one if one else math.inf for one in (low, high))
        return 1 / value, (ends[0], ends[1]), "risk difference", level
    return value, (low, high), "risk difference" if estimate.unit == "risk difference" else "difference", level


def _limits(
    value: float,
    scale: str,
    interval: tuple[float, float] | None,
    lower: float | None,
    upper: float | None,
    se: float | None,
    level: float,
) -> tuple[float, float] | None:
    """Limits as given, or from a standard error; an unknown side lies at its end of the scale."""
    if sum((interval is not None, lower is not None or upper is not None, se is not None)) > 1:
        raise ValueError("give one of interval=, lower=/upper= and se=.")
    if se is not None:
        if scale not in _DIFFERENCES or not se >= 0 or level != 0.95:
            raise ValueError("se= is for differences at level 0.95, zero or more: give interval= otherwise.")
        half = _PER_SE / _PER_SD * se
        return value - half, value + half
    if interval is not None:
        low, high = interval
        return float(low), float(high)
    if lower is None and upper is None:
        return None
    ends = (-math.inf if scale in _DIFFERENCES else 0.0, math.inf)
    return (ends[0] if lower is None else float(lower), ends[1] if upper is None else float(upper))


def _check_needed(scale: str, sd: float | None, baseline: float | None) -> None:
    if scale == "difference" and (sd is None or not sd > 0):
        raise ValueError(
            f"sd={sd!r}: a difference of means is compared with the outcome's standard deviation, give it as sd= "
            "(1 for a standardised difference)."
        )
    if scale == "risk difference" and (baseline is None or not 0 < baseline < 1):
        raise ValueError(
            f"baseline={baseline!r}: a risk difference becomes a risk ratio by the risk without treatment, give it as "
            "baseline= (between 0 and 1), or take estimate_ate(..., scale='ratio')."
        )


def _ratio(value: float, scale: str, *, sd: float | None, baseline: float | None, rare: bool) -> float:
    """As a risk ratio; infinities stay where they belong, what is no ratio becomes zero or less."""
    if scale == "difference":
        assert sd is not None
        return math.exp(min(_PER_SD * value / sd, 700.0))
    if scale == "risk difference":
        assert baseline is not None
        return (baseline + value) / baseline
    if scale == "ratio" or rare or not 0 < value < math.inf:
        return value
    if scale == "odds ratio":
        return math.sqrt(value)
    return (1 - 0.5 ** math.sqrt(value)) / (1 - 0.5 ** math.sqrt(1 / value))


def _note(value: float, ratio: float, scale: str, rare: bool, sd: float | None, baseline: float | None) -> str:
    """How the estimate became a risk ratio."""
    if scale == "ratio":
        return ""
    how = {
        "odds ratio": "its square root, for a common outcome",
        "hazard ratio": "an approximation for a common outcome",
        "difference": f"exp(0.91 times the difference in standard deviations of {sd:.3g})" if sd else "",
        "risk difference": f"a risk of {baseline:.3g} without treatment" if baseline else "",
    }[scale]
    how = "the outcome is rare" if rare and scale in ("odds ratio", "hazard ratio") else how
    return f"The {scale} {value:.3g} counts as a risk ratio of {ratio:.3g} ({how})."
