"""What a policy is worth: its mean outcome and its gains over treating all and treating none, doubly robust."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from effects.effect import Estimate, Estimates, contrast
from effects.heterogeneity.subgroups import Remembered
from effects.individual import check_level
from effects.inference import aipw_scores, check_array
from effects.inference.sample import CrossFitting, Sample
from effects.inference.scores import sandwich
from effects.policy.rules import Asked, Policy, read_costs

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
POLICY = "policy"


@dataclass(frozen=True, eq=False)
class PolicyValue:
    """What a policy is worth beside giving everyone the same arm.

    Attributes
    ----------
    values : Estimates
        Mean outcomes in the outcome's unit, costs left aside: under the policy, and under each arm for everyone (of the
        control: treat none).
    gains : Estimates
        What the policy gains over each of these, positive where it is better: outcomes in the direction that is better,
        less what it costs more. The errors are those of the differences.
    costs : Series
        Mean cost a unit, of the policy and of each arm for everyone.
    policy : Policy
        What was valued.
    caution : str
        What to keep in mind of it; "" if nothing.
    """

    values: Estimates
    gains: Estimates
    costs: pd.Series
    policy: Policy
    caution: str = ""

    @property
    def share(self) -> pd.Series:
        """Share of the units that the policy gives each arm."""
        return self.policy.share

    def to_frame(self) -> pd.DataFrame:
        """One row a strategy: its mean outcome (``value, lower, upper``), mean ``cost``, and what the policy gains over
        it (``gain, gain_lower, gain_upper, gain_p``)."""
        lower, upper = self.values.interval()
        index = pd.Index(list(map(str, self.values.labels)), name="strategy")
        table = pd.DataFrame({"value": self.values.value, "lower": lower, "upper": upper}, index=index)
        table["cost"] = self.costs.to_numpy()
        lower, upper = self.gains.interval()
        p = np.array([e.p_value for e in self.gains])
        columns = ("gain", self.gains.value), ("gain_lower", lower), ("gain_upper", upper), ("gain_p", p)
        for name, column in columns:
            table[name] = [np.nan, *column]
        return table

    @property
    def text(self) -> str:
        """The policy, its value and its gains, in sentences."""
        first = self.values[0]
        lower, upper = first.interval()
        lines = [self.policy.text]
        lines.append(f"Mean outcome {first.value:.4g} ({first.level:.0%} interval {lower:.4g} to {upper:.4g}).")
        net = ", net of cost" if self.costs.any() else ""
        for label, gain in zip(self.gains.labels, self.gains, strict=True):
            lower, upper = gain.interval()
            lines.append(f"Gain over {label}{net}: {gain.value:.4g} ({lower:.4g} to {upper:.4g}).")
        return " ".join([*lines, self.caution]).strip()

    def __str__(self) -> str:
        return self.text


def policy_value(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    policy: Any = None,
    cost: float | Mapping[Hashable, float] | None = None,
    higher_is_better: bool | None = None,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
) -> PolicyValue:
    r"""Mean outcome if everyone were treated by a policy, and its gains over treating all alike.

    The average of :math:`\phi_{\pi(x_i)}(i)`, the AIPW score of the arm that the policy gives (`aipw_scores`), and for
    each arm k of

    .. math:: s \{\phi_{\pi(x_i)}(i) - \phi_k(i)\} - \{\text{cost}_{\pi(x_i)} - \text{cost}_k\},

    with :math:`s = -1` where lower outcomes are better. All come from the same scores, so that their joint covariance
    is known.

    Parameters
    ----------
    est, X, y, treatment, sample_weight, groups, propensity, level
        As in `effects.inference.estimate_ate`.
    policy : Policy, or array_like of arm labels, shape (n_samples,), optional
        Left out, each unit gets the arm whose held-out expected outcome, net of cost, is best (``treat_if(est, X, y,
        treatment=treatment)``). A policy must not have seen the outcomes that value it: one that was made from these
        rows' own predictions looks better than it is, and that is warned of.
    cost : float, or mapping of arm to float, optional
        Of every arm but the control, or of each, in the outcome's unit; by default the policy's own where its rule was
        about means, else 0.
    higher_is_better : bool, optional
        By default as the policy has it, else True.

    Returns
    -------
    PolicyValue

    Raises
    ------
    ValueError
        As `estimate_ate`; if the policy has another number of units or gives unknown arms.

    Warns
    -----
    UserWarning
        Where overlap is weak; if the policy was made from predictions by models that had seen these rows' outcomes.

    Notes
    -----
    With held-out predictions the policy differs a little from fold to fold: what is estimated is the average of their
    values, in models trained on all folds but one (van der Laan & Luedtke 2015). `effects.metrics.policy_value` is the
    same average for arrays. Where hardly any unit's effect differs from its cost, folds decide by each other's noise,
    and the gain's interval is too short, mostly on the cautious side: in simulated trials (300 and 1,000 rows) without
    any effect 95% intervals held the gain of zero in 90% of the samples, and lay above it in 3 to 5% (nominally 2.5%);
    with the same effect in everyone they held the policy's gain over treating all, a loss, in 88 to 93%, and claimed a
    gain in 0.3% at most.

    References
    ----------
    Dudik, Langford & Li (2011), Doubly robust policy evaluation and learning, ICML. Athey & Wager (2021), Policy
    learning with observational data, Econometrica 89. Van der Laan & Luedtke (2015), Targeted learning of the mean
    outcome under an optimal dynamic treatment rule, Journal of Causal Inference 3.

    Examples
    --------
    >>> print(policy_value(est, X, y, treatment=arm, cost=0.5).text)  # doctest: +SKIP
    """
    check_level(level)
    known = Remembered.ask(est, X, y, treatment, sample_weight, propensity)
    sample = Sample.read(
        known, X, y, treatment=treatment, sample_weight=sample_weight, groups=groups, propensity=propensity
    )
    index = X.index if isinstance(X, pd.DataFrame) else None
    chosen = _chosen(known, policy, len(sample.arm), cost, higher_is_better, index)
    if getattr(policy, "held_out", None) is False and getattr(known.values, "source", "") != "other":
        warnings.warn(
            "The policy was made from predictions of units whose outcomes had part in the fit, and is valued on these "
            "outcomes: it looks better than it is. Make it by treat_if(est, X, y, treatment=...).",
            stacklevel=2,
        )
    return valued(sample, chosen, sample.used, level)


def _chosen(
    known: Remembered,
    policy: Any,
    n: int,
    cost: float | Mapping[Hashable, float] | None,
    higher_is_better: bool | None,
    index: pd.Index | None,
) -> Policy:
    """The policy that is valued, with the costs and the direction of this question."""
    arms = known.arms_
    if policy is None:
        asked = Asked("mean", 0.0, 0.1, 0.5, True if higher_is_better is None else higher_is_better)
        costs = read_costs(0.0 if cost is None else cost, arms, 0)
        mu = np.asarray(known.values.mu, dtype=np.float64)
        return asked.decide(None, mu, arms, list(range(len(arms))), costs, True, index)
    if not isinstance(policy, Policy):
        codes = known.schema_.encode_treatment(policy)
        better = True if higher_is_better is None else higher_is_better
        policy = Policy(codes, arms, "the policy given", None, read_costs(cost or 0.0, arms, 0), better, index=index)
    elif tuple(policy.arms) != tuple(arms):
        raise ValueError(f"the policy chooses among {policy.arms}, the estimator's arms are {arms}.")
    if len(policy) != n:
        raise ValueError(f"the policy is for {len(policy)} units, X has {n} rows: give it for the same rows.")
    costs = policy.costs if cost is None else read_costs(cost, arms, 0)
    better = policy.higher_is_better if higher_is_better is None else higher_is_better
    return Policy(
        policy.codes, arms, policy.rule, policy.held_out, costs, better, policy.gain, policy.undecided, policy.index
    )


def valued(sample: Sample, policy: Policy, rows: NDArray[np.bool_], level: float) -> PolicyValue:
    """The value of a policy on some of the sample's rows (a mask)."""
    arms = sample.arms
    sample.warn_overlap(range(len(arms)))
    scores = aipw_scores(sample.y, sample.arm, sample.mu, sample.propensity)
    own = scores[np.arange(len(scores)), policy.codes]
    assert policy.costs is not None
    paid, sign = policy.costs[policy.codes], 1.0 if policy.higher_is_better else -1.0
    outcome = np.column_stack([own, scores])
    gain = sign * (own[:, None] - scores) - (paid[:, None] - policy.costs)
    weight = np.where(rows, sample.weight, 0.0)
    labels = [POLICY, *(f"{arm} for all" for arm in arms)]
    common: dict[str, Any] = {"method": f"AIPW, cross-fitted{sample.clustering}", "n": int(rows.sum()), "level": level}
    values = averaged(sample, outcome, weight, labels, {**common, "estimand": "policy value"})
    gains = averaged(sample, gain, weight, labels[1:], {**common, "estimand": "gain of the policy"})
    costs = pd.Series([float(weight @ paid / weight.sum()), *policy.costs], index=labels, name="cost")
    caution = {
        True: "",
        False: "",
        None: "Whether the policy had seen these outcomes is not known: if it had, it looks better than it is.",
    }[policy.held_out]
    return PolicyValue(values, gains, costs, policy, caution)


def averaged(
    sample: Sample, scores: FloatArray, weight: FloatArray, labels: Sequence[Hashable], common: dict[str, Any]
) -> Estimates:
    """Weighted means of several scores of the same rows, with their joint covariance."""
    total = weight.sum()
    value = weight @ scores / total
    influence = weight[:, None] * (scores - value) / total
    members = np.tile((weight > 0)[:, None], scores.shape[1])
    covariance, df = sandwich(sample, influence, members)
    # a strategy that equals the policy differs from it by nothing, without error
    same = np.ptp(scores[weight > 0], axis=0) == 0
    covariance[same], covariance[:, same] = 0.0, 0.0
    each = [
        Estimate(float(value[k]), float(np.sqrt(covariance[k, k])), df=None if same[k] else df[k], **common)
        for k in range(len(value))
    ]
    return Estimates(each, covariance, labels, by="strategy", n=common["n"])


# ------------------------------------------------------------------------------------------------------- decision curve


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit of treating by the model, at every benefit that would be worth a treatment.

    Attributes
    ----------
    table : DataFrame
        One row a threshold: ``threshold, share`` (treated by the model), ``model, model_lower, model_upper``,
        ``treat_all, treat_all_lower, treat_all_upper, treat_none`` (0), and ``gain, gain_lower, gain_upper``: the model
        over the better of treating all and none (as estimated at that threshold).
    treated, control : label
    higher_is_better : bool
    level : float
        Of each interval by itself.
    n : int
    unit : str
        Of the outcome.
    """

    table: pd.DataFrame = field(repr=False)
    treated: Hashable
    control: Hashable
    higher_is_better: bool
    level: float
    n: int
    unit: str = ""

    def to_frame(self) -> pd.DataFrame:
        """The table."""
        return self.table.copy()

    @property
    def text(self) -> str:
        """At which thresholds the model is better than both simple strategies, in a sentence."""
        better = self.table["gain_lower"] > 0
        what = f"treating by the model ({self.treated} or {self.control})"
        if not better.any():
            return (
                f"At no threshold is {what} shown to be better than treating all or none "
                f"({self.level:.0%} intervals, {self.n} rows)."
            )
        at = self.table.loc[better, "threshold"]
        best = self.table.iloc[int(self.table["gain"].to_numpy().argmax())]
        return (
            f"At {int(better.sum())} of {len(better)} thresholds, between {at.min():.3g} and {at.max():.3g}, {what} is "
            f"better than treating all or none; most at {best['threshold']:.3g}, by {best['gain']:.3g} "
            f"({self.level:.0%} interval {best['gain_lower']:.3g} to {best['gain_upper']:.3g}) a unit."
        )

    def __str__(self) -> str:
        return self.text


def decision_curve(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    thresholds: Sequence[float] | None = None,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    higher_is_better: bool = True,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
) -> DecisionCurve:
    r"""Is it worth deciding by the model: net benefit against the benefit that a treatment must be worth.

    Whoever would take the treatment for a benefit of :math:`\delta` or more (its cost, its side effects, 1 / NNT at
    which it is worth while) treats units with :math:`s \hat\tau(x) > \delta`. The net benefit of doing so, against
    treating nobody, is

    .. math:: \mathrm{NB}(\delta) = E[\{s (\phi_t - \phi_c) - \delta\} \, 1\{s \hat\tau(x) > \delta\}],

    estimated with held-out :math:`\hat\tau` and doubly robust scores; s is -1 where lower outcomes are better. Treating
    everyone has :math:`E[s(\phi_t - \phi_c)] - \delta`, treating none 0.

    Parameters
    ----------
    est, X, y, treatment, treated, control, sample_weight, groups, propensity
        As in `effects.inference.estimate_ate`.
    thresholds : sequence of float, optional
        :math:`\delta`, in the outcome's unit; by default 31 from 0 to the 99th per cent of predicted benefits.
    higher_is_better : bool, default True
    level : float, default 0.95
        Of each interval by itself, not of the whole curve.

    Returns
    -------
    DecisionCurve

    Raises
    ------
    ValueError
        As `estimate_ate`; if thresholds are no finite numbers.

    References
    ----------
    Vickers & Elkin (2006), Decision curve analysis, Medical Decision Making 26. Vickers, Kattan & Sargent (2007),
    Method for evaluating prediction models that apply the results of randomized trials to individual patients, Trials
    8: its net benefit in a trial, here doubly robust.

    Examples
    --------
    >>> print(decision_curve(est, X, y, treatment=arm, thresholds=[0.0, 0.02, 0.05]).text)  # doctest: +SKIP
    """
    check_level(level)
    known = Remembered.ask(est, X, y, treatment, sample_weight, propensity)
    sample = Sample.read(
        known, X, y, treatment=treatment, sample_weight=sample_weight, groups=groups, propensity=propensity
    )
    t, c = contrast(sample.arms, treated, control)
    sample.warn_overlap((t, c))
    sign = 1.0 if higher_is_better else -1.0
    scores = aipw_scores(sample.y, sample.arm, sample.mu, sample.propensity)
    benefit, predicted = sign * (scores[:, t] - scores[:, c]), sign * (sample.mu[:, t] - sample.mu[:, c])
    used = sample.used
    if thresholds is None:
        top = float(np.quantile(predicted[used], 0.99))
        ends = (0.0, top) if top > 0 else (0.0, float(np.abs(predicted[used]).max()) or 1.0)
        delta = np.linspace(*ends, 31)
    else:
        delta = np.sort(check_array("thresholds", thresholds, ndim=1))
    weight = np.where(used, sample.weight, 0.0)
    rows = []
    for d in delta:
        treat = predicted > d
        model, everyone = treat * (benefit - d), benefit - d
        best = everyone if float(weight @ everyone) > 0 else np.zeros(len(treat))
        common: dict[str, Any] = {"method": "AIPW", "n": int(used.sum()), "level": level}
        found = averaged(sample, np.column_stack([model, everyone, model - best]), weight, range(3), common)
        lower, upper = found.interval()
        v = found.value
        share = float(weight @ treat / weight.sum())
        rows.append((d, share, v[0], lower[0], upper[0], v[1], lower[1], upper[1], 0.0, v[2], lower[2], upper[2]))
    names = ["threshold", "share", "model", "model_lower", "model_upper", "treat_all", "treat_all_lower"]
    names += ["treat_all_upper", "treat_none", "gain", "gain_lower", "gain_upper"]
    table = pd.DataFrame(rows, columns=names)
    return DecisionCurve(table, sample.arms[t], sample.arms[c], higher_is_better, level, int(used.sum()))
