"""Effects estimated again, with models fitted anew to rows that were changed on purpose."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold

from effects.diagnostics.comparison import ESTIMANDS
from effects.diagnostics.evidence import FloatArray, IntArray
from effects.effect import Estimate, contrast
from effects.inference.averages import check_rows
from effects.inference.checks import check_choice, check_weights
from effects.inference.sample import CrossFitting, Sample, fitted_arms
from effects.inference.scores import Population, averages, sandwich
from effects.nuisance import Nuisance, _boosting, _fit_model
from effects.rows import check_propensities
from effects.schema import Schema

REFITS = ("quick", "nuisance", "estimator")
_QUICK = {"max_iter": 50, "learning_rate": 0.1, "max_leaf_nodes": 4, "max_features": 0.5}
_COPY = 1 - 1e-6  # a column that correlates with an outcome as closely as this is that outcome


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of positive weight, and how an effect is estimated from them.

    Attributes
    ----------
    est : fitted estimator
    X : DataFrame or ndarray
        As the user has it, for clones of the estimator.
    E : ndarray of shape (n, n_encoded)
    y, weight : ndarray of shape (n,)
    a : ndarray of int, shape (n,)
    kind : {"continuous", "binary", "count"}
    pair : tuple of int
        Treated and control arm.
    estimand, refit : str
    known : ndarray of shape (n, n_arms), or None
        Propensities that need no model.
    e : ndarray of shape (n, n_arms), or None
        Held-out propensities of the treatment as it was.
    """

    est: Any
    X: Any
    E: NDArray[np.float32]
    y: FloatArray
    a: IntArray
    weight: FloatArray
    kind: str
    pair: tuple[int, int]
    estimand: str
    refit: str
    known: FloatArray | None
    e: FloatArray | None = None

    @classmethod
    def read(
        cls,
        est: CrossFitting,
        X: Any,
        y: Any,
        treatment: Any,
        arms: tuple[Hashable, Hashable],
        sample_weight: ArrayLike | None,
        propensity: ArrayLike | None,
        estimand: str,
        refit: str,
    ) -> Rows:
        """The study's own rows. Propensities that are given, or the same for all rows as in a trial, are known."""
        check_choice("estimand", estimand, ESTIMANDS)
        check_choice("refit", refit, REFITS)
        sample = Sample.read(est, X, y, treatment=treatment, sample_weight=sample_weight, propensity=propensity)
        used, e = sample.used, sample.propensity
        trial = propensity is not None or bool(np.ptp(e[used], axis=0).max() <= 1e-9)
        rows = cls(
            est, X, est.schema_.encode(X), sample.y, sample.arm, sample.weight, sample.kind,
            contrast(sample.arms, *arms), estimand, refit, e if trial else None, e,
        )  # fmt: skip
        return rows.take(np.flatnonzero(used))

    @classmethod
    def of_placebo(
        cls,
        est: CrossFitting,
        X: Any,
        outcome: Any,
        name: str | None,
        treatment: Any,
        arms: tuple[Hashable, Hashable],
        sample_weight: ArrayLike | None,
        propensity: ArrayLike | None,
        estimand: str,
        refit: str,
    ) -> tuple[Rows, str, str]:
        """Rows with another outcome, its name, and what is to be said of columns left out for it."""
        check_choice("estimand", estimand, ESTIMANDS)
        check_choice("refit", refit, REFITS)
        a, E, drop = fitted_codes(est, treatment), est.schema_.encode(X), set()
        if _is_name(outcome):
            column, outcome = _column(X, outcome)
            drop.add(column)
            name = column if name is None else name
        name = str(getattr(outcome, "name", None) or "the placebo outcome") if name is None else name
        y, kind = _read_outcome(est, outcome, a, name)
        if not len(E) == len(y) == len(a):
            raise ValueError(
                f"X, outcome and treatment have {len(E)}, {len(y)} and {len(a)} rows: give the same rows, in the same "
                "order."
            )
        weight = check_weights(sample_weight, len(a))
        owner = np.array([spec.name for spec in est.schema_.columns for _ in spec.feature_names], dtype=object)
        drop |= set(owner[_copies(E, y, weight > 0)])
        kept = ~np.isin(owner, sorted(drop))
        if not kept.any():
            raise ValueError(f"no covariate is left beside {name}: there is nothing to adjust for.")
        known = _known(est, propensity, len(a))
        note = ""
        if drop:
            said = ", ".join(sorted(drop))
            note = f" Left out of the covariates, being this outcome: {said}."
            X = _without(X, [spec.name for spec in est.schema_.columns], drop)
            known = known if known is not None and np.ptp(known, axis=0).max() <= 1e-9 else None
        pair = contrast(tuple(est.arms_), *arms)
        rows = cls(est, X, E[:, kept], y, a, weight, kind, pair, estimand, refit, known)
        return rows.take(np.flatnonzero(weight > 0)), name, note

    def take(self, rows: IntArray) -> Rows:
        """Some of the rows."""
        X = self.X.iloc[rows] if isinstance(self.X, pd.DataFrame) else np.asarray(self.X)[rows]
        known, e = (None if values is None else values[rows] for values in (self.known, self.e))
        part = {name: getattr(self, name)[rows] for name in ("E", "y", "a", "weight")}
        return replace(self, X=X, known=known, e=e, **part)

    @property
    def how(self) -> str:
        """A sentence on what was fitted anew."""
        if self.refit == "estimator":
            return "The estimator was fitted anew."
        nuisance = _nuisance_of(self.est)
        own = nuisance.outcome_model is not None or nuisance.propensity_model is not None
        folds = min(2 if self.refit == "quick" else nuisance.n_folds, int(np.bincount(self.a).min()))
        what = "outcome means" if self.known is not None else "outcome means and propensities"
        trees = "the estimator's own nuisance models" if own else "boosted trees"
        few = " of 50 each" if self.refit == "quick" and not own else ""
        return f"Fitted anew: {what}, by {trees}{few} in {folds} folds."

    def estimate(self, seed: int) -> Estimate:
        """The effect by AIPW with models that are fitted anew."""
        sample = self._refitted(seed)
        t, c = self.pair
        population = Population.tilted(sample, self.estimand, t, c)
        check_rows(sample, population.member, self.pair)
        values, influence = averages(sample, population, "aipw")
        covariance, df = sandwich(sample, (influence[:, 0] - influence[:, 1])[:, None], population.member[:, None])
        return Estimate(
            float(values[0] - values[1]), float(np.sqrt(covariance[0, 0])), method="AIPW, cross-fitted anew",
            n=int(population.member.sum()), estimand=self.estimand, treated=sample.arms[t], control=sample.arms[c],
            unit="risk difference" if self.kind == "binary" else "", df=df[0],
        )  # fmt: skip

    def _refitted(self, seed: int) -> Sample:
        arms = tuple(self.est.arms_)
        if self.refit != "estimator":
            mu, e = self._cross_fit(seed, len(arms))
            return Sample(arms, self.kind, self.y, self.a, mu, e, None, self.weight, None)
        fresh = clone(self.est)
        wanted = {"outcome": self.kind, "control": arms[0], "random_state": seed}
        fresh.set_params(**{key: value for key, value in wanted.items() if key in fresh.get_params(deep=False)})
        labels = self.est.schema_.decode_treatment(self.a)
        options: dict[str, Any] = {"treatment": labels}
        options |= {} if np.ptp(self.weight) == 0 else {"sample_weight": self.weight}
        options |= {} if self.known is None else {"propensity": self.known}
        fresh.fit(self.X, self.y, **options)
        return Sample.read(fresh, self.X, self.y, **options)

    def _cross_fit(self, seed: int, n_arms: int) -> tuple[FloatArray, FloatArray]:
        """Held-out means per arm and propensities: the first stage of `Nuisance`, without what averages do not need."""
        nuisance, quick = _nuisance_of(self.est), self.refit == "quick"
        n_folds = min(2 if quick else nuisance.n_folds, int(np.bincount(self.a, minlength=n_arms).min()))
        if n_folds < 2:
            raise ValueError("cross-fitting needs at least two rows in every arm.")
        E = self.E.astype(np.float64)
        # to a mean of one: a penalised model would take heavier weights for more rows
        w = None if np.ptp(self.weight) == 0 else self.weight / self.weight.mean()
        mu, e = np.empty((len(E), n_arms)), self.known
        found = np.empty_like(mu)
        for train, test in StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(E, self.a):
            settings = [_QUICK, _QUICK] if quick else [_boosting(role, len(train)) for role in ("arm", "propensity")]
            for k in range(n_arms):
                own = train[self.a[train] == k]
                own_w = None if w is None else w[own]
                model = _fit_model(nuisance.outcome_model, E[own], self.y[own], own_w, self.kind, seed, settings[0])
                mu[test, k] = model(E[test])[:, -1]
            if e is None:
                own_w = None if w is None else w[train]
                model = _fit_model(nuisance.propensity_model, E[train], self.a[train], own_w, "arm", seed, settings[1])
                found[test] = model(E[test])
        return mu, found if e is None else e

    # ---- what is changed on purpose

    def redrawn(self, rng: np.random.Generator) -> Rows:
        """The two arms' labels drawn by their (held-out or known) propensities."""
        assert self.e is not None
        (t, c), a = self.pair, self.a.copy()
        both = np.flatnonzero((a == t) | (a == c))
        e_t, e_c = self.e[both, t], self.e[both, c]
        a[both] = np.where(rng.random(len(both)) * (e_t + e_c) < e_t, t, c)
        return replace(self, a=a)

    def shuffled(self, rng: np.random.Generator) -> Rows:
        """The two arms' labels dealt out over all their rows; known propensities become those of a trial."""
        (t, c), a, known = self.pair, self.a.copy(), None if self.known is None else self.known.copy()
        both = np.flatnonzero((a == t) | (a == c))
        share = float(np.mean(a[both] == t))
        a[both] = rng.permutation(a[both])
        if known is not None:
            either = known[:, t] + known[:, c]
            known[:, t], known[:, c] = either * share, either * (1 - share)
        return replace(self, a=a, known=known)

    def with_noise(self, column: FloatArray) -> Rows:
        """The rows with one covariate more."""
        X = self.X
        if self.refit == "estimator":
            name = "noise"
            while isinstance(X, pd.DataFrame) and name in X.columns:
                name += "_"
            X = X.assign(**{name: column}) if isinstance(X, pd.DataFrame) else np.column_stack([X, column])
        return replace(self, X=X, E=np.column_stack([self.E, column.astype(np.float32)]))

    def part(self, fraction: float, rng: np.random.Generator) -> Rows:
        """A share of every arm's rows, at random."""
        chosen = []
        for k in range(len(self.est.arms_)):
            own = np.flatnonzero(self.a == k)
            n = round(fraction * len(own))
            if n < 4:
                raise ValueError(
                    f"arm {self.est.arms_[k]!r} has {len(own)} rows, of which a share of {fraction:g} leaves {n}: at "
                    "least four are needed. Use a larger fraction."
                )
            chosen.append(rng.choice(own, n, replace=False))
        return self.take(np.sort(np.concatenate(chosen)))


def _nuisance_of(est: Any) -> Any:
    """The nuisances as the estimator was given them, unfitted; the usual ones for an estimator that has none."""
    for own in (getattr(est, "nuisance", None), getattr(est, "nuisance_", None)):
        if isinstance(own, Nuisance):
            return own
    return Nuisance()


def _known(est: Any, propensity: ArrayLike | None, n: int) -> FloatArray | None:
    """Propensities that were given, or with which a trial was fitted."""
    if propensity is not None:
        return check_propensities(propensity, n, tuple(est.arms_))
    trial = getattr(getattr(est, "nuisance_", None), "trial_propensity", None)
    return None if trial is None else np.tile(np.asarray(trial, dtype=np.float64), (n, 1))


def _is_name(outcome: Any) -> bool:
    return isinstance(outcome, str | int | np.integer) and not isinstance(outcome, bool)


def _column(X: Any, name: Any) -> tuple[str, Any]:
    """Name and values of the column of X that is the outcome; a position where X is an array."""
    if isinstance(X, pd.DataFrame):
        if name in X.columns:
            return str(name), X[name]
        raise ValueError(f"outcome={name!r} is no column of X: name one, or give the values.")
    table = np.asarray(X)
    if not isinstance(name, str) and 0 <= name < table.shape[1]:
        return f"x{name}", table[:, name]
    raise ValueError(f"outcome={name!r} is no column of X: give a position 0 to {table.shape[1] - 1}, or the values.")


def _read_outcome(est: Any, outcome: Any, a: IntArray, name: str) -> tuple[FloatArray, str]:
    """Another outcome as numbers, and its kind."""
    column = np.arange(len(a), dtype=np.float64)[:, None]  # a schema takes a table; its covariates are not used
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            schema = Schema.learn(column, outcome, a)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{name}: {error}") from None
        return schema.encode_outcome(outcome), schema.outcome.kind


def _copies(E: NDArray[np.float32], y: FloatArray, used: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Encoded columns that are the outcome, up to shift, scale and sign."""
    Z, v = E[used].astype(np.float64), y[used] - y[used].mean()
    Z -= Z.mean(axis=0)
    norm = np.sqrt((Z**2).sum(axis=0)) * np.sqrt(v @ v)
    return np.abs(Z.T @ v) >= np.where(norm > 0, _COPY * norm, np.inf)


def _without(X: Any, names: list[str], drop: set[str]) -> Any:
    if isinstance(X, pd.DataFrame):
        return X.drop(columns=[name for name in X.columns if str(name) in drop])
    return np.delete(np.asarray(X), [names.index(name) for name in drop], axis=1)


def fitted_codes(est: CrossFitting, treatment: Any) -> IntArray:
    """Arm codes, by an estimator that is fitted."""
    fitted_arms(est)
    return est.schema_.encode_treatment(treatment)
