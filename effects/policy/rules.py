"""Whom to treat, by what is predicted for each unit: a `Policy` is a frozen list of arms and the sentence behind it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from effects.effect import contrast
from effects.inference.checks import check_choice
from effects.inference.sample import CrossFitting, HeldOut, fitted_arms
from effects.outcomes import PotentialOutcomes

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
RULES = ("mean", "probability", "quantile", "individual")


class Deciding(CrossFitting, Protocol):
    """What a policy asks of a fitted estimator."""

    def predict_outcomes(self, X: Any) -> PotentialOutcomes: ...


@dataclass(frozen=True, eq=False)
class Policy:
    """An arm for every unit, and why.

    Attributes
    ----------
    codes : ndarray of int, shape (n_samples,)
        Positions in `arms`.
    arms : tuple of labels
        Control first.
    rule : str
        What it follows, in words.
    held_out : bool or None
        Whether each unit's arm was chosen by models that had not seen its outcome; None where that is not known.
    costs : ndarray of shape (n_arms,)
        Of each arm, in the rule's unit.
    higher_is_better : bool
    gain : ndarray of shape (n_samples,), optional
        What the best other arm promises over the control, in the rule's unit and net of cost (and of what is asked for
        at least); the policy treats where it is positive.
    undecided : ndarray of bool, shape (n_samples,), optional
        Units for whom the rule's answer depends on what no data identify (rule "individual").
    index : pandas.Index, optional
        Row labels of the units.

    Examples
    --------
    >>> import numpy as np
    >>> policy = Policy(np.array([0, 1, 1, 1]), ("placebo", "drug"), "age above 60")
    >>> policy.share["drug"].item(), policy.labels.tolist()
    (0.75, ['placebo', 'drug', 'drug', 'drug'])
    """

    codes: IntArray
    arms: tuple[Hashable, ...]
    rule: str
    held_out: bool | None = None
    costs: FloatArray | None = None
    higher_is_better: bool = True
    gain: FloatArray | None = field(default=None, repr=False)
    undecided: NDArray[np.bool_] | None = field(default=None, repr=False)
    index: pd.Index | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes)
        if codes.ndim != 1 or not len(codes) or codes.dtype.kind not in "iu":
            raise ValueError(f"codes must hold one arm's position for each unit, got {codes.dtype} {codes.shape}.")
        if codes.min() < 0 or codes.max() >= len(self.arms):
            raise ValueError(f"codes run from {codes.min()} to {codes.max()}, there are {len(self.arms)} arms.")
        costs = np.zeros(len(self.arms)) if self.costs is None else np.asarray(self.costs, dtype=np.float64)
        object.__setattr__(self, "codes", codes.astype(np.int64))
        object.__setattr__(self, "costs", costs)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def labels(self) -> NDArray[Any]:
        """The arm of each unit, shape (n_samples,)."""
        return decoded(self.arms, self.codes)

    @property
    def share(self) -> pd.Series:
        """Share of the units that get each arm."""
        count = np.bincount(self.codes, minlength=len(self.arms))
        return pd.Series(count / len(self.codes), index=pd.Index(self.arms, name="arm", tupleize_cols=False))

    @property
    def text(self) -> str:
        """The rule, how many get what, and whose predictions it rests on, in sentences."""
        parts = ", ".join(f"{100 * share:.0f}% {arm}" for arm, share in self.share.items())
        said = f"{self.rule[:1].upper()}{self.rule[1:]}: {parts} of {len(self):,} units."
        if self.undecided is not None and self.undecided.any():
            said += f" For {int(self.undecided.sum()):,} units the data do not decide."
        if self.held_out is True:
            said += " Each unit's arm was chosen by models that had not seen its outcome."
        return said

    def to_frame(self) -> pd.DataFrame:
        """One row a unit: ``arm``, and where known ``gain`` and ``undecided``."""
        columns: dict[str, Any] = {"arm": self.labels}
        columns |= {} if self.gain is None else {"gain": self.gain}
        columns |= {} if self.undecided is None else {"undecided": self.undecided}
        return pd.DataFrame(columns, index=self.index)

    def __str__(self) -> str:
        return self.text


def treat_if(
    est: Deciding,
    X: Any,
    y: Any = None,
    *,
    treatment: Any = None,
    rule: str = "mean",
    threshold: float = 0.0,
    cost: float | Mapping[Hashable, float] = 0.0,
    quantile: float = 0.1,
    share: float = 0.5,
    higher_is_better: bool = True,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
) -> Policy:
    r"""Treat each unit with the arm that promises most, if that is worth its cost.

    With :math:`s = 1` if higher outcomes are better, else -1, the control is given unless another arm's promise
    :math:`U_a(x) - \text{cost}_a` is greater than the control's; of several the greatest wins.

    ============== ================================================ ==================================================
    rule           promise U_a(x)                                   identified
    ============== ================================================ ==================================================
    "mean"         s E[Y(a) | x]; must win by `threshold`           yes
    "probability"  chance of Y(a) > `threshold` if higher is        yes: each arm's own law
                   better, of Y(a) <= `threshold` if lower is
    "quantile"     the `quantile` of s Y(a): how bad a bad course   yes; it is not the quantile of the effect
                   is (risk-averse for small ones)
    "individual"   treat if at least the share `share` of such      no: treated only where it holds whatever the joint
                   units gains more than `threshold`                law of both outcomes (Makarov's lower bound)
    ============== ================================================ ==================================================

    Parameters
    ----------
    est : fitted estimator
    X : DataFrame or ndarray, shape (n_samples, n_features)
    y, treatment : optional
        What the units had, if they took part in the fit or the policy is to be valued on them: then each unit's arm is
        chosen by models that had not seen its outcome (``est.cross_fitted``). Without, by ``est.predict_outcomes``.
    rule : {"mean", "probability", "quantile", "individual"}
    threshold : float, default 0.0
        In the outcome's unit: see the table.
    cost : float, or mapping of arm to float
        Of every arm but the control, or of each arm (0 if not named), in the unit of the promise: of the outcome for
        "mean" and "quantile", a probability for "probability". Not for "individual", whose `threshold` serves.
    quantile : float, default 0.1
    share : float, default 0.5
    higher_is_better : bool, default True
        False for outcomes such as deaths or pain.
    treated, control : arm labels, optional
        With `treated`, this arm or the control; without, all arms compete.
    sample_weight, propensity : array_like, optional
        Handed to ``est.cross_fitted``.

    Returns
    -------
    Policy

    Raises
    ------
    ValueError
        If a word, an arm or a number makes no sense, only one of `y` and `treatment` is given, or the rule needs laws
        of the outcomes that models had held out, and there are none.

    References
    ----------
    Manski (2004), Statistical treatment rules for heterogeneous populations, Econometrica 72. Leqi & Kennedy (2021),
    Median optimal treatment regimes, arXiv:2103.01802. Fan & Park (2010), Econometric Theory 26.

    Examples
    --------
    >>> policy = treat_if(est, X_new, rule="mean", cost=1.5)  # doctest: +SKIP
    >>> print(treat_if(est, X, y, treatment=arm, rule="quantile", quantile=0.1).text)  # doctest: +SKIP
    """
    check_choice("rule", rule, RULES)
    for name, value in (("quantile", quantile), ("share", share)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie strictly between 0 and 1, got {value!r}.")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number, got {threshold!r}.")
    arms = fitted_arms(est)
    among = competitors(arms, treated, control)
    if rule == "individual" and len(among) > 2:
        raise ValueError(f"rule='individual' compares two arms: name treated=, one of {', '.join(map(repr, arms))}.")
    held: HeldOut | None = None
    if (y is None) != (treatment is None):
        raise ValueError("y and treatment belong together: pass both, for held-out predictions, or none.")
    if y is not None:
        known: dict[str, Any] = {} if propensity is None else {"propensity": propensity}
        held = est.cross_fitted(X, y, treatment=treatment, sample_weight=sample_weight, **known)
    asked = Asked(rule, float(threshold), float(quantile), float(share), bool(higher_is_better))
    costs = read_costs(cost, arms, among[0])
    if rule == "individual" and costs.any():
        raise ValueError("rule='individual' takes no cost: say by threshold= what gain is worth the treatment.")
    outcomes: PotentialOutcomes | None
    if held is None:
        outcomes = est.predict_outcomes(X)
        mu = outcomes.mean()
    else:
        outcomes, mu = held.outcomes, np.asarray(held.mu, dtype=np.float64)
    if outcomes is None and rule != "mean":
        raise ValueError(
            f"rule={rule!r} needs the laws of the outcomes, but this {type(est).__name__} keeps none that had not seen "
            "these rows: use rule='mean', or rows that it was not fitted on."
        )
    if est.schema_.outcome.kind == "binary":
        if rule == "quantile":
            raise ValueError("quantiles of a binary outcome are 0 or 1 and rank nobody: use rule='mean'.")
        if rule == "probability" and not 0 <= threshold < 1:
            raise ValueError(f"a binary outcome is never between 1 and {threshold:g}: leave threshold at 0.")
    index = X.index if isinstance(X, pd.DataFrame) else None
    return asked.decide(outcomes, mu, arms, among, costs, held is not None, index)


def competitors(arms: Sequence[Hashable], treated: Hashable | None, control: Hashable | None) -> list[int]:
    """Positions of the arms that compete, the control first."""
    if treated is not None or len(arms) == 2:
        t, c = contrast(arms, treated, control)
        return [c, t]
    other = next(arm for arm in arms if arm != control)
    c = 0 if control is None else contrast(arms, other, control)[1]
    return [c, *(k for k in range(len(arms)) if k != c)]


def read_costs(cost: float | Mapping[Hashable, float], arms: Sequence[Hashable], control: int) -> FloatArray:
    """The cost of each arm, (n_arms,): of all but the control, or as named."""
    if isinstance(cost, Mapping):
        unknown = [arm for arm in cost if arm not in arms]
        if unknown:
            raise ValueError(f"cost names {unknown[0]!r}, which is no arm: the arms are {', '.join(map(repr, arms))}.")
        costs = np.array([float(cost.get(arm, 0.0)) for arm in arms])
    else:
        costs = np.full(len(arms), float(cost))
        costs[control] = 0.0
    if not np.isfinite(costs).all():
        raise ValueError(f"cost must be finite numbers, got {cost!r}.")
    return costs


def decoded(arms: Sequence[Hashable], codes: IntArray) -> NDArray[Any]:
    """Labels of arms, numbers and bools in their own dtype."""
    same = len({type(arm) for arm in arms}) == 1 and isinstance(arms[0], bool | int | float)
    return np.array(arms, dtype=None if same else object)[codes]


@dataclass(frozen=True)
class Asked:
    """A rule with its numbers."""

    rule: str
    threshold: float
    quantile: float
    share: float
    higher_is_better: bool

    def decide(
        self,
        outcomes: PotentialOutcomes | None,
        mu: FloatArray,
        arms: tuple[Hashable, ...],
        among: list[int],
        costs: FloatArray,
        held_out: bool,
        index: pd.Index | None,
    ) -> Policy:
        """The policy, from predictions of every unit."""
        undecided = None
        if self.rule == "individual":
            assert outcomes is not None
            lower, upper = self._chance_of_gain(outcomes, arms, among)
            gain = np.column_stack([np.zeros(len(lower)), lower - self.share])
            undecided = (lower < self.share) & (upper >= self.share)
            better = gain[:, 1] >= 0
        else:
            promise = self._promise(outcomes, mu)[:, among] - costs[among]
            if self.rule == "mean":
                promise[:, 1:] -= self.threshold
            gain = promise - promise[:, :1]
            better = gain[:, 1:].max(axis=1) > 0
        codes = np.where(better, np.array(among)[1 + gain[:, 1:].argmax(axis=1)], among[0]).astype(np.int64)
        best = gain[:, 1:].max(axis=1)
        sentence = self.sentence(arms, among, costs)
        return Policy(codes, arms, sentence, held_out, costs, self.higher_is_better, best, undecided, index)

    def _promise(self, outcomes: PotentialOutcomes | None, mu: FloatArray) -> FloatArray:
        sign = 1.0 if self.higher_is_better else -1.0
        if self.rule == "mean":
            return sign * mu
        assert outcomes is not None
        if self.rule == "probability":
            below = outcomes.cdf(self.threshold)
            return 1 - below if self.higher_is_better else below
        q = self.quantile if self.higher_is_better else 1 - self.quantile
        return sign * np.asarray(outcomes.quantile(q), dtype=np.float64)

    def _chance_of_gain(
        self, outcomes: PotentialOutcomes, arms: tuple[Hashable, ...], among: list[int]
    ) -> tuple[FloatArray, FloatArray]:
        """Bounds on the share that gains more than the threshold by the treated arm."""
        t, c = (arms[k] for k in (among[1], among[0]))
        pair = (t, c) if self.higher_is_better else (c, t)
        return outcomes.effect(treated=pair[0], control=pair[1]).prob_benefit(self.threshold)

    def sentence(self, arms: tuple[Hashable, ...], among: list[int], costs: FloatArray) -> str:
        """The rule in words."""
        control = arms[among[0]]
        what = f"{arms[among[1]]}" if len(among) == 2 else "the best arm"
        side = "higher" if self.higher_is_better else "lower"
        price = ""
        if costs[among].any():
            same = costs[among[0]] == 0 and np.ptp(costs[among[1:]]) == 0
            each = [f"{costs[k]:g} for {arms[k]}" for k in among if costs[k]]
            price = f" by more than its cost ({f'{costs[among[1]]:g}' if same else ', '.join(each)})"
        if self.rule == "mean":
            least = f" by more than {self.threshold:g}" if self.threshold and not price else price
            least += f" and {self.threshold:g} more" if self.threshold and price else ""
            return f"{what} where the expected outcome is {side} than under {control}{least}"
        if self.rule == "probability":
            event = f"above {self.threshold:g}" if self.higher_is_better else f"of at most {self.threshold:g}"
            return f"{what} where an outcome {event} is likelier than under {control}{price}"
        if self.rule == "quantile":
            q = self.quantile if self.higher_is_better else 1 - self.quantile
            return f"{what} where the {100 * q:g}% quantile of the outcome is {side} than under {control}{price}"
        return (
            f"{what} where at least {100 * self.share:g}% of such units gain more than {self.threshold:g} over "
            f"{control}, however the two outcomes go together"
        )
