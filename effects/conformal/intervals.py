"""Conformal intervals from calibration rows: of an outcome under an arm, and of the individual effect."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effects.conformal.laws import Laws, conformity_scores, law_bounds
from effects.conformal.quantiles import Array, Bounds, conformal_bounds, conformal_quantile

EFFECT_METHODS = ("nested", "nested_inexact", "bonferroni", "dr", "ipw")
EVERYBODY = -1  # the target population that is no single arm's


@dataclass(frozen=True, eq=False)
class Rows:
    """What conformal inference knows of some rows, by one model.

    Attributes
    ----------
    laws : tuple of Laws, one per arm
    propensity : ndarray of shape (n_samples, n_arms)
    balance : ndarray of shape (n_samples, n_arms)
        The propensities that weights are made of: `propensity`, or constants for unweighted conformal inference.
    """

    laws: tuple[Laws, ...]
    propensity: Array
    balance: Array

    def take(self, rows: Any) -> Any:
        """The values of some rows."""
        return replace(
            self,
            laws=tuple(one.take(rows) for one in self.laws),
            propensity=self.propensity[rows],
            balance=self.balance[rows],
        )

    def unweighted(self) -> Any:
        """The same rows with equal weights to come."""
        return replace(self, balance=np.full(self.balance.shape, 1 / self.balance.shape[1]))


@dataclass(frozen=True, eq=False)
class Calibration(Rows):
    """Rows with outcomes that the model beside them never saw.

    Attributes
    ----------
    y, weight : ndarray of shape (n_samples,)
        Outcomes; sample weights, mean one.
    a, fold : ndarray of int, shape (n_samples,)
        Arms; which model is theirs.
    spare : ndarray of bool, shape (n_samples,)
        The third that nested intervals calibrate their second step on.
    """

    y: Array
    weight: Array
    a: NDArray[np.int64]
    fold: NDArray[np.int64]
    spare: NDArray[np.bool_]

    def take(self, rows: Any) -> Calibration:
        part = super().take(rows)
        names = ("y", "weight", "a", "fold", "spare")
        return replace(part, **{name: getattr(self, name)[rows] for name in names})

    @classmethod
    def joined(cls, parts: Sequence[Calibration]) -> Calibration:
        """The calibration rows of several models."""

        def joined(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts])

        laws = tuple(Laws.joined(arm) for arm in zip(*[part.laws for part in parts], strict=True))
        return cls(laws, *(joined(name) for name in ("propensity", "balance", "y", "weight", "a", "fold", "spare")))

    def check_possible(self, arms: tuple[Hashable, ...]) -> None:
        """What happened cannot have had probability zero."""
        received = self.propensity[np.arange(len(self.a)), self.a]
        zero = np.flatnonzero(received <= 0)
        if len(zero):
            raise ValueError(
                f"{len(zero)} calibration rows received an arm to which their estimated propensity is 0 (first: arm "
                f"{arms[self.a[zero[0]]]!r}), so they have no weight: use a propensity model that does not predict 0, "
                "such as the default of Nuisance, or pass the known propensities."
            )

    def scores(self, score: str, arm: int, level: float) -> Array:
        """Conformity scores under `arm`, which all these rows received."""
        return conformity_scores(score, self.laws[arm], self.y, level)


def assign_rows(
    a: NDArray[np.int64],
    used: NDArray[np.bool_],
    arms: tuple[Hashable, ...],
    share: float | None,
    n_folds: int,
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which model's calibration row each is (-1: none's), and the spare third of these, arm by arm.

    A `share` of the rows calibrates one model; without it, every row the model of its fold.
    """
    rng = np.random.default_rng(seed)
    fold, spare = np.full(len(a), -1), np.zeros(len(a), dtype=bool)
    for k, arm in enumerate(arms):
        rows = rng.permutation(np.flatnonzero((a == k) & used))
        n, order = len(rows), np.arange(len(rows))
        held = -(-n // n_folds) if share is None else max(1, round(share * n))
        if n - held < 2 or (share is None and n < n_folds):
            cure = f"use fewer than {n_folds} folds" if share is None else "lower calibration_size"
            raise ValueError(
                f"arm {arm!r} has {n} rows, too few to train on one part and calibrate on the other: {cure}, or leave "
                "the arm out."
            )
        fold[rows] = order % n_folds if share is None else np.where(order < held, 0, -1)
        spare[rows] = (order // n_folds if share is None else order) % 3 == 2
    return fold, spare & (fold >= 0)


def target_mass(balance: Array, target: int) -> Array:
    """Density of the target's covariates relative to everybody's, up to a factor, shape (n_samples,)."""
    return np.ones(len(balance)) if target == EVERYBODY else balance[:, target]


def arm_weights(balance: Array, arm: int, target: int) -> Array:
    """Density ratio of the target population's covariates to those of `arm`, up to a factor, shape (n_samples,).

    ``1 / e_arm(x)`` for everybody, ``e_k(x) / e_arm(x)`` for those who received arm k. Infinite at propensity zero.
    """
    with np.errstate(divide="ignore"):
        return np.where(arm == target, 1.0, target_mass(balance, target) / balance[:, arm])


def outcome_bounds(
    calibration: Calibration, tests: list[Rows], arm: int, level: float, score: str, target: int
) -> tuple[Array, Array]:
    """Conformal bounds of Y(arm) for new rows, each of shape (n_samples,)."""
    part = calibration.take(calibration.a == arm)
    weights = part.weight * arm_weights(part.balance, arm, target)
    new = arm_weights(mean_balance(tests), arm, target)
    bounds = [law_bounds(score, rows.laws[arm], level) for rows in tests]
    return conformal_bounds(bounds, part.scores(score, arm, level), part.fold, level, weights, new)


def mean_balance(tests: list[Rows]) -> Array:
    """Propensities of new rows for their weights, averaged over the folds' models."""
    return np.mean([rows.balance for rows in tests], axis=0)


@dataclass(frozen=True, eq=False)
class EffectIntervals:
    """Intervals of Y(treated) - Y(control) of new rows; every method gives ``(lower, upper)``, shape (n_samples,).

    Attributes
    ----------
    calibration : Calibration
    tests : list of Rows
        The new rows, once by every model.
    t, c : int
        Positions of the treated and the control arm.
    score : str
    target : int
        An arm's position, or `EVERYBODY`.
    """

    calibration: Calibration
    tests: list[Rows]
    t: int
    c: int
    score: str
    target: int

    def interval(self, method: str, level: float) -> tuple[Array, Array]:
        """By one of `EFFECT_METHODS`."""
        if method in ("dr", "ipw"):
            return self._pseudo_outcomes(level, method)
        return {"nested": self._nested, "nested_inexact": self._nested_inexact, "bonferroni": self._bonferroni}[method](
            level
        )

    def _bonferroni(self, level: float) -> tuple[Array, Array]:
        """The difference of both arms' intervals, each missing with half of the probability that is allowed."""
        each = 0.5 + level / 2
        ends = [
            outcome_bounds(self.calibration, self.tests, k, each, self.score, self.target) for k in (self.t, self.c)
        ]
        (low_t, high_t), (low_c, high_c) = ends
        return low_t - high_c, high_t - low_c

    # ------------------------------------------------------------------ nested: Lei & Candès 2021, section 4

    def _shares(self, balance: Array) -> Array:
        """With which density rows of the treated and of the control arm stand for the target, (n_samples, 2).

        Rows of both arms stand for everybody; for the population of one of the two, its own rows do.
        """
        pair = balance[:, [self.t, self.c]]
        if self.target in (self.t, self.c):
            return pair * (np.array([self.t, self.c]) == self.target)
        return pair / pair.sum(axis=1, keepdims=True) * target_mass(balance, self.target)[:, None]

    def _thresholds(self, pool: Calibration, balance: Array, side: int, level: float) -> Array:
        """Scores within which the outcome that rows of arm (t, c)[side] did not show lies, shape (n_samples,)."""
        other = (self.c, self.t)[side]
        part = pool.take(pool.a == other)
        with np.errstate(divide="ignore"):
            weights = part.weight * self._shares(part.balance)[:, side] / part.balance[:, other]
            new = self._shares(balance)[:, side] / balance[:, other]
        return conformal_quantile(part.scores(self.score, other, level), level, weights=weights, test_weights=new)

    def _counterfactual(self, pool: Calibration, rows: Calibration, level: float) -> tuple[Array, Array]:
        """Intervals of the effects of `rows`: what they showed, against the conformal interval of what they did not."""
        lower, upper = np.empty(len(rows.y)), np.empty(len(rows.y))
        for side, (own, other) in enumerate(((self.t, self.c), (self.c, self.t))):
            mine = rows.a == own
            part = rows.take(mine)
            s = self._thresholds(pool, part.balance, side, level)[:, None]
            low, high = (end[:, 0] for end in law_bounds(self.score, part.laws[other], level)(slice(None), s))
            lower[mine], upper[mine] = (part.y - high, part.y - low) if own == self.t else (low - part.y, high - part.y)
        return lower, upper

    def _base(self, pool: Calibration, rows: Rows, balance: Array, level: float) -> tuple[Array, Array]:
        """Where the ends of such intervals are expected at x: the model's medians against the pool's thresholds.

        A function of x that uses no row of the second step, so that step is conformal whatever it is. Everything (both
        ends infinite) where a row could have shown an outcome whose counterpart has no finite interval: so rows without
        overlap cannot make the intervals of all others infinite.
        """
        shares = self._shares(balance)
        expected = np.zeros((2, len(balance)))
        known = np.ones(len(balance), dtype=bool)
        for side, (own, other) in enumerate(((self.t, self.c), (self.c, self.t))):
            s = self._thresholds(pool, balance, side, level)
            finite = np.isfinite(s)
            known &= finite | (shares[:, side] == 0)
            s = np.where(finite, s, 0.0)[:, None]
            low, high = (end[:, 0] for end in law_bounds(self.score, rows.laws[other], level)(slice(None), s))
            median = rows.laws[own].quantile(np.zeros((len(balance), 1)))[:, 0]
            ends = np.stack([median - high, median - low] if own == self.t else [low - median, high - median])
            expected += shares[:, side] / shares.sum(axis=1) * ends
        return np.where(known, expected[0], -np.inf), np.where(known, expected[1], np.inf)

    def _second_step(self, rows: Calibration) -> tuple[Calibration, Array]:
        """The rows that stand for the target, and their weights."""
        arms = (self.target,) if self.target in (self.t, self.c) else (self.t, self.c)
        part = rows.take(np.isin(rows.a, arms))
        return part, part.weight * self._pair_weights(part.balance)

    def _pair_weights(self, balance: Array) -> Array:
        """Density ratio of the target to the rows of `_second_step`: one for a pair that is everybody, or the target's
        own arm; with a third arm, rows of which show neither outcome, ``1 / (e_t + e_c)``."""
        if self.target in (self.t, self.c):
            return np.ones(len(balance))
        return target_mass(balance, self.target) / balance[:, [self.t, self.c]].sum(axis=1)

    def _nested(self, level: float) -> tuple[Array, Array]:
        """Exact: counterfactual intervals for spare rows, then a conformal interval of these intervals."""
        pool = self.calibration.take(~self.calibration.spare)
        rows, weights = self._second_step(self.calibration.take(self.calibration.spare))
        # The steps share the probability of a miss. The first, whose weights are large, gets three quarters, unless the
        # second has too few rows for a quarter; that rests on their number only, so the guarantee stands.
        second = float(np.clip(2 / (len(rows.y) + 1), (1 - level) / 4, (1 - level) / 2))
        first = level + second
        lower, upper = self._counterfactual(pool, rows, first)
        low, high = self._base(pool, rows, rows.balance, first)
        scores = np.full(len(low), -np.inf)  # nothing is stranger than everything
        known = np.isfinite(low)
        scores[known] = np.maximum(low[known] - lower[known], upper[known] - high[known])
        balance = mean_balance(self.tests)
        bounds = [_around(*self._base(pool, test, balance, first)) for test in self.tests]
        return conformal_bounds(bounds, scores, rows.fold, 1 - second, weights, self._pair_weights(balance))

    def _nested_inexact(self, level: float) -> tuple[Array, Array]:
        """Inexact: counterfactual intervals for all rows, then the 40% and 60% quantiles of their ends."""
        rows, weights = self._second_step(self.calibration)
        base = self._base(self.calibration, rows, rows.balance, level)
        known = np.isfinite(base[0])
        rows, weights, base = rows.take(known), weights[known], (base[0][known], base[1][known])
        ends = self._counterfactual(self.calibration, rows, level)
        balance = mean_balance(self.tests)
        expected = np.mean([self._base(self.calibration, test, balance, level) for test in self.tests], axis=0)
        shift = [
            conformal_quantile(end - guess, q, weights=weights, test_weights=0.0)
            for end, guess, q in zip(ends, base, (0.4, 0.6), strict=True)
        ]
        return expected[0] + shift[0], expected[1] + shift[1]

    # ------------------------------------------------------------------ meta-learners: Alaa, Ahmad & van der Laan 2023

    def _pseudo_outcomes(self, level: float, kind: str) -> tuple[Array, Array]:
        """Split conformal around the CATE, with pseudo-outcomes in the place of the effects that nobody sees."""
        cal = self.calibration
        mu_t, mu_c = cal.laws[self.t].mean, cal.laws[self.c].mean
        from_t, from_c = (0.0, 0.0) if kind == "ipw" else (mu_t, mu_c)
        pseudo = np.zeros(len(cal.y)) + from_t - from_c
        for arm, mean, sign in ((self.t, from_t, 1.0), (self.c, from_c, -1.0)):
            pseudo += np.where(cal.a == arm, sign * (cal.y - mean) / cal.propensity[:, arm], 0.0)
        scores = np.abs(pseudo - (mu_t - mu_c))
        weights = cal.weight * target_mass(cal.balance, self.target)
        new = target_mass(mean_balance(self.tests), self.target)
        cates = [rows.laws[self.t].mean - rows.laws[self.c].mean for rows in self.tests]
        return conformal_bounds([_around(cate, cate) for cate in cates], scores, cal.fold, level, weights, new)


def _around(low: Array, high: Array) -> Bounds:
    """An interval of every row, widened by the scores; one that holds everything stays so."""

    def bounds(rows: slice, s: Array) -> tuple[Array, Array]:
        finite = np.isfinite(low[rows, None])
        with np.errstate(invalid="ignore"):
            return np.where(finite, low[rows, None] - s, -np.inf), np.where(finite, high[rows, None] + s, np.inf)

    return bounds
