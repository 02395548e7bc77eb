"""What every check gives, and what it rests on: held-out predictions beside what was observed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from effects.effect import Estimate
from effects.inference import aipw_scores, check_weights
from effects.inference.checks import effective_size
from effects.inference.sample import LOW_PROPENSITY
from effects.outcomes import PotentialOutcomes
from effects.schema import Schema

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Check:
    """The answer to one question about a fit.

    Attributes
    ----------
    name : str
    passed : bool or None
        None where the data do not decide, or the question has no yes or no.
    value : float
        What was compared with `threshold`: a p-value, a coverage, a score.
    threshold : float or None
    table : DataFrame
        The numbers behind it.
    text : str
        The finding in a sentence or two.
    estimates : tuple of Estimate
        Numbers with a standard error, such as a calibration slope.
    details : DataFrame, optional
        Finer than the table, for pictures.

    Examples
    --------
    >>> import pandas as pd
    >>> print(Check("coverage", True, 0.91, 0.9, pd.DataFrame(), "90% intervals hold 91% of the outcomes."))
    coverage: passed. 90% intervals hold 91% of the outcomes.
    """

    name: str
    passed: bool | None
    value: float
    threshold: float | None
    table: pd.DataFrame = field(repr=False)
    text: str
    estimates: tuple[Estimate, ...] = ()
    details: pd.DataFrame | None = field(default=None, repr=False)

    def __str__(self) -> str:
        if self.threshold is None:  # no question of yes or no
            return f"{self.name}: {self.text}"
        word = "undecided" if self.passed is None else "passed" if self.passed else "failed"
        return f"{self.name}: {word}. {self.text}"


class Fitted(Protocol):
    """What the checks need of an estimator."""

    @property
    def schema_(self) -> Schema: ...

    @property
    def arms_(self) -> tuple[Hashable, ...]: ...

    def cross_fitted(self, X: Any, y: Any, *, treatment: Any, sample_weight: ArrayLike | None = None) -> Any: ...


@dataclass(frozen=True, eq=False)
class Evidence:
    """Rows that count, with predictions by models that had not seen them.

    Attributes
    ----------
    rows : ndarray of int
        Their places in the table.
    y, weight : ndarray of shape (n_samples,)
    a : ndarray of int, shape (n_samples,)
        Arm codes.
    mu, propensity : ndarray of shape (n_samples, n_arms)
    outcomes : PotentialOutcomes
    """

    rows: IntArray
    y: FloatArray
    a: IntArray
    weight: FloatArray
    mu: FloatArray
    propensity: FloatArray
    outcomes: PotentialOutcomes

    @property
    def arms(self) -> tuple[Hashable, ...]:
        return self.outcomes.arms

    @property
    def kind(self) -> str:
        return self.outcomes.kind

    def inverse(self, arm: int) -> tuple[IntArray, FloatArray]:
        """Rows of one arm, and the weights by which they stand for the whole population."""
        rows = np.flatnonzero(self.a == arm)
        e = self.propensity[rows, arm]
        if (e <= 0).any():
            raise ValueError(
                f"propensity is 0 for {int((e <= 0).sum())} row(s) that got arm {self.arms[arm]!r}: what happened "
                "cannot have probability 0. Correct the propensities, or leave those rows out and say so."
            )
        return rows, self.weight[rows] / e

    def cate(self, t: int, c: int) -> FloatArray:
        """Predicted CATE of arm `t` against arm `c`, (n_samples,).

        Predictions are stored in single precision: what differs by less than that can hold is equal, or the rounding
        of a constant effect would rank the units.
        """
        cate = self.mu[:, t] - self.mu[:, c]
        if np.ptp(cate) <= 1e-5 * float(np.abs(self.mu).max()):
            return np.full(len(cate), cate.mean())
        return cate

    def scores(self, t: int, c: int) -> FloatArray:
        """Doubly robust score of arm `t` against arm `c`, (n_samples,)."""
        scores = aipw_scores(self.y, self.a, self.mu, self.propensity)
        return scores[:, t] - scores[:, c]

    def caution(self, t: int, c: int) -> str:
        """A sentence on rows with next to no chance of one of two arms; "" where there is none."""
        low = int((self.propensity[:, [t, c]] < LOW_PROPENSITY).any(axis=1).sum())
        if not low:
            return ""
        sizes = " and ".join(f"{effective_size(self.inverse(k)[1]):.0f}" for k in (t, c))
        return (
            f" Weak overlap: {low} of {len(self.y)} rows have a propensity below {LOW_PROPENSITY:g}; the effective "
            f"numbers of rows are {sizes}."
        )


def gather(
    est: Fitted,
    X: Any,
    y: Any,
    treatment: Any,
    sample_weight: ArrayLike | None,
    propensity: ArrayLike | None,
) -> Evidence:
    """Held-out predictions of the rows that count, or an error that says why there are none."""
    if not hasattr(est, "schema_"):
        from sklearn.exceptions import NotFittedError

        raise NotFittedError(f"This {type(est).__name__} is not fitted yet: call fit(X, y, treatment=...) first.")
    a, Y = est.schema_.encode_treatment(treatment), est.schema_.encode_outcome(y)
    if not len(X) == len(Y) == len(a):
        raise ValueError(
            f"X, y and treatment have {len(X)}, {len(Y)} and {len(a)} rows: give the same rows, in the same order."
        )
    weight = check_weights(sample_weight, len(Y))
    known: dict[str, Any] = {} if propensity is None else {"propensity": propensity}
    values = est.cross_fitted(X, y, treatment=treatment, sample_weight=sample_weight, **known)
    if values.outcomes is None:
        raise ValueError(
            f"This {type(est).__name__} was fitted on some of these rows and has no predictions of them by models that "
            "had not seen them: give rows that it was not fitted on, or fit it anew on these rows instead of loading "
            "it from a file."
        )
    rows = np.flatnonzero(weight > 0)
    # no copy of all draws where every row counts
    outcomes = values.outcomes if len(rows) == len(Y) else values.outcomes.take(rows)
    return Evidence(
        rows, Y[rows], a[rows], weight[rows], outcomes.mean(), np.asarray(values.propensity)[rows], outcomes
    )


def quantile_groups(values: FloatArray, weight: FloatArray, n_groups: int) -> IntArray:
    """Group 0 to at most `n_groups` - 1 of each value, of about equal weight; equal values share a group."""
    if n_groups < 1:
        raise ValueError(f"n_groups must be at least 1, got {n_groups}.")
    order = np.argsort(values, kind="stable")
    v = values[order]
    total = np.cumsum(weight[order])
    middle = (total - weight[order] / 2) / total[-1]
    _, first, of = np.unique(v, return_index=True, return_inverse=True)
    # a tie goes where the middle of its weight lies
    last = np.append(first[1:], len(v)) - 1
    share = (middle[first] + middle[last]) / 2
    group = np.minimum((share[of] * n_groups).astype(np.int64), n_groups - 1)
    out = np.empty(len(v), dtype=np.int64)
    out[order] = np.unique(group, return_inverse=True)[1]
    return out


def p_text(p: float) -> str:
    """``0.034 -> "p = 0.034"``, ``1e-9 -> "p < 0.001"``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def percent(share: float) -> str:
    """``0.0512 -> "5.1%"``."""
    return f"{100 * share:.1f}%"
