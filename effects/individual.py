"""The individual effect Y(t) - Y(c) of a unit: what two laws say of their difference, and what they cannot say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Coupling = Literal["independent", "comonotone", "bounds"]
COUPLINGS = ("independent", "comonotone", "bounds")
_NODES = 128  # of each law, whose pairs make up the independent coupling
_CHUNK = 64  # units whose pairs are held at once


def check_level(level: float) -> float:
    """Return `level` if it is a probability strictly between 0 and 1, else say what it should be."""
    if not 0.0 < float(level) < 1.0:
        raise ValueError(f"level must lie strictly between 0 and 1 (0.9 means a 90% interval), got {level!r}.")
    return float(level)


def check_df(df: float | None) -> None:
    """Refuse degrees of freedom that are no positive number."""
    if df is not None and not df > 0:
        raise ValueError(f"degrees of freedom cannot be {df!r}: give a positive number, or None.")


@dataclass(frozen=True, eq=False)
class Law:
    """The outcome's law under one arm, unit by unit, as equally likely sorted values.

    Attributes
    ----------
    values : ndarray of shape (n_points, n_samples)
        Sorted along axis 0.
    """

    values: Array

    @classmethod
    def bernoulli(cls, probability: Array, n_points: int = 2000) -> Law:
        """A 0/1 law on `n_points` equally likely points (the probability is rounded to 1 / `n_points`)."""
        points = (np.arange(n_points) + 0.5)[:, None] / n_points
        return cls((points > 1.0 - probability[None, :]).astype(np.float64))


@dataclass(frozen=True, eq=False)
class IndividualEffect:
    r"""The law of the individual effect :math:`D = Y(t) - Y(c)` given x, unit by unit.

    **Identified** are the two marginal laws, and so the mean of `D`. **Not identified**, by any data, is how the two
    outcomes of one unit go together: nobody is seen under both arms. `coupling` says what is assumed of that:

    ``"independent"``
        Given x the two outcomes are independent: what is left of their spread is fresh noise for each (a measurement
        error, a day's luck). The law of `D` is then wide. What a model does not know of the two means is no fresh
        noise: mostly one error for both outcomes, it cancels from their difference (`independent_share`).
    ``"comonotone"``
        Given x a unit keeps its rank: the patient who would do better than 80% of those like him under one arm would
        do so under the other (rank invariance). `D` then has the smallest variance that the marginal laws allow.
    ``"bounds"``
        Nothing is assumed. Probabilities and quantiles lie between bounds that no data can tighten (Makarov 1981).

    Parameters
    ----------
    treated, control : Law
    coupling : {"independent", "comonotone", "bounds"}
    independent_share : ndarray of shape (n_samples,), optional
        Share of the two laws' variances that is independent between them; all of it by default. With ``"independent"``
        the laws are drawn toward their means by its square root before they are subtracted.

    References
    ----------
    Makarov (1981), Theory of Probability and its Applications 26. Williamson & Downs (1990), International Journal of
    Approximate Reasoning 4, theorem 2. Fan & Park (2010), Econometric Theory 26, lemmas 2.1 and 2.3.

    Examples
    --------
    >>> import numpy as np
    >>> from effects.individual import IndividualEffect, Law
    >>> normal = np.linspace(-2, 2, 201)[:, None]
    >>> same_rank = IndividualEffect(Law(normal + 1), Law(normal), "comonotone")
    >>> same_rank.quantile([0.1, 0.9]).ravel()
    array([1., 1.])
    >>> [bound.round(2).item() for bound in IndividualEffect(Law(normal + 1), Law(normal), "bounds").prob_above(0.0)]
    [0.25, 1.0]
    """

    treated: Law
    control: Law
    coupling: Coupling = "bounds"
    independent_share: Array | None = None

    def __post_init__(self) -> None:
        if self.coupling not in COUPLINGS:
            raise ValueError(f"coupling must be one of {', '.join(map(repr, COUPLINGS))}, got {self.coupling!r}.")
        n = [law.values.shape[1] for law in (self.treated, self.control)]
        if n[0] != n[1]:
            raise ValueError(f"the two laws are of {n[0]} and {n[1]} units: both must be of the same ones.")

    def __len__(self) -> int:
        return int(self.treated.values.shape[1])

    def prob_above(self, threshold: float = 0.0) -> Any:
        """P(D > threshold | x).

        Returns
        -------
        ndarray of shape (n_samples,)
            Or, with ``"bounds"``, a pair (lower, upper) of them.
        """
        t, c = self._independent_values() if self.coupling == "independent" else self._values()
        if self.coupling == "bounds":
            found = np.array([_makarov(t[:, i], c[:, i], float(threshold)) for i in range(len(self))])
            return found[:, 0], found[:, 1]
        if self.coupling == "comonotone":
            t, c = self._matched()
            return (t - c > threshold).mean(axis=0)
        # P(C < T - threshold), averaged over the treated outcomes
        below = [np.searchsorted(c[:, i], t[:, i] - threshold, side="left").mean() / len(c) for i in range(len(self))]
        return np.array(below)

    def quantile(self, q: float | ArrayLike) -> Any:
        r"""Quantiles of D given x.

        With ``"bounds"``, for quantile functions :math:`Q_t, Q_c` (Fan & Park 2010, lemma 2.3),

        .. math:: \sup_{u \in [0, q]} \big(Q_t(u) - Q_c(1 + u - q)\big) \le Q_D(q)
                  \le \inf_{u \in [q, 1]} \big(Q_t(u) - Q_c(u - q)\big).

        Parameters
        ----------
        q : float or array-like of shape (n_quantiles,)
            Probabilities strictly between 0 and 1.

        Returns
        -------
        ndarray of shape (n_samples,), with a leading axis ``n_quantiles`` for a list
            Or, with ``"bounds"``, a pair (lower, upper) of them.
        """
        levels = np.atleast_1d(np.asarray(q, dtype=np.float64))
        if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"q must hold probabilities strictly between 0 and 1, got {q!r}.")
        if self.coupling == "bounds":
            found = np.stack([self._quantile_bounds(level) for level in levels], axis=1)
            lower, upper = found if np.ndim(q) else found[:, 0]
            return lower, upper
        if self.coupling == "comonotone":
            t, c = self._matched()
            values = np.quantile(t - c, levels, axis=0, method="hazen")
        else:
            values = np.concatenate(
                [self._independent(slice(k, k + _CHUNK), levels) for k in range(0, len(self), _CHUNK)], axis=1
            )
        return values if np.ndim(q) else values[0]

    def interval(self, level: float = 0.9) -> tuple[Array, Array]:
        """Where D lies with probability `level`: ``(lower, upper)``, each of shape (n_samples,).

        With ``"bounds"`` the interval holds D with at least that probability under every coupling.
        """
        tail = (1 - check_level(level)) / 2
        if self.coupling == "bounds":
            return self.quantile(tail)[0], self.quantile(1 - tail)[1]
        lower, upper = self.quantile([tail, 1 - tail])
        return lower, upper

    def _matched(self) -> tuple[Array, Array]:
        """Both laws by equally many points."""
        t, c = self.treated.values, self.control.values
        n = max(len(t), len(c))
        return _resized(t, n), _resized(c, n)

    def _values(self) -> tuple[Array, Array]:
        return self.treated.values, self.control.values

    def _independent_values(self, units: slice = slice(None)) -> tuple[Array, Array]:
        """Both laws without what they have in common."""
        t, c = (values[:, units] for values in self._values())
        if self.independent_share is None:
            return t, c
        root = np.sqrt(self.independent_share[units])
        mean_t, mean_c = t.mean(axis=0), c.mean(axis=0)
        return mean_t + root * (t - mean_t), mean_c + root * (c - mean_c)

    def _independent(self, units: slice, levels: Array) -> Array:
        t, c = (_resized(values, min(_NODES, len(values))) for values in self._independent_values(units))
        pairs = (t[:, None] - c[None]).reshape(-1, t.shape[1])
        return np.quantile(pairs, levels, axis=0)

    def _quantile_bounds(self, q: float) -> Array:
        """(2, n): the bounds above, with u running over the laws' own points."""
        t, c = self._matched()
        n = len(t)
        # a share of k / n of the values lies up to the k-th: the lower end is rounded down, the upper one up
        k = max(int(np.floor(q * n + 1e-9)), 1)
        lower = (t[:k] - c[n - k :]).max(axis=0)
        k = min(int(np.floor(q * n + 1e-9)), n - 1)
        upper = (t[k:] - c[: n - k]).min(axis=0)
        return np.stack([np.minimum(lower, upper), upper])


def independent_share(treated: Law, control: Law, fresh: float | None, members: NDArray[Any]) -> Array | None:
    """Share of two laws' variances that is the outcomes' own, shape (n_samples,), for `IndividualEffect`.

    That is `fresh` noise, and what is not known of their mean difference, of which `members` (n_members, n_samples) are
    draws. None, for all of it, where `fresh` is None or the laws are two-valued.
    """
    two_valued = all(np.isin(law.values, (0.0, 1.0)).all() for law in (treated, control))
    if fresh is None or two_valued:
        return None
    total = treated.values.var(axis=0) + control.values.var(axis=0)
    unknown = members.var(axis=0, dtype=np.float64)
    return np.minimum(fresh + np.divide(unknown, total, out=np.zeros(len(total)), where=total > 0), 1.0)


def _resized(values: Array, n: int) -> Array:
    """The values at the middle of `n` equally likely parts."""
    return values if len(values) == n else values[np.floor((np.arange(n) + 0.5) * len(values) / n).astype(int)]


def _makarov(treated: Array, control: Array, delta: float) -> tuple[float, float]:
    """Makarov's bounds for two sorted, equally weighted empirical laws; `y` runs over every jump."""
    y = np.concatenate([treated, control + delta])
    f_treated = np.searchsorted(treated, y, side="right") / len(treated)
    shifted = np.concatenate([treated - delta, control])
    f_control = np.searchsorted(control, shifted, side="right") / len(control)
    f_control_left = np.searchsorted(control, shifted, side="left") / len(control)
    return max(float((f_control - f_treated).max()), 0.0), 1.0 - max(float((f_treated - f_control_left).max()), 0.0)
