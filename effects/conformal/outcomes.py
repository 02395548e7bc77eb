"""ConformalOutcomes: weighted split and cross conformal inference around an estimator of potential outcomes."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.exceptions import NotFittedError

from effects.conformal.intervals import (
    EFFECT_METHODS,
    EVERYBODY,
    Calibration,
    EffectIntervals,
    Rows,
    arm_weights,
    assign_rows,
    outcome_bounds,
)
from effects.conformal.laws import SCORES, Laws, Recalibration, randomised_position, recalibrated_outcomes
from effects.conformal.quantiles import Array, effective_sample_size
from effects.effect import Effect, contrast
from effects.estimator import EffectEstimator
from effects.individual import Law, check_level
from effects.outcomes import PotentialOutcomes
from effects.rows import check_propensities, check_weights, seed_of
from effects.schema import Schema, check_sample_weight

METHODS = ("split", "cross")
_BLOCK_ROWS = 8192  # new rows whose draws are held at once
_ROUNDING = 1e-6  # how far from a whole number an end of an interval may be and count as one


class ConformalOutcomes(MetaEstimatorMixin, BaseEstimator):
    r"""Weighted conformal inference for potential outcomes and individual effects (Lei & Candès 2021).

    The estimator is trained on one part of the rows; on the other, its predictive law of Y(a) | x is held against the
    outcomes of those who received arm a. Their conformity scores get the weights :math:`w(x) = 1 / e_a(x)`, which move
    the covariates of arm a to those of everybody. The interval for a new row holds all outcomes whose score is at most
    the weighted quantile of the calibration scores, with the new row's own weight at infinity (`conformal_quantile`).

    Parameters
    ----------
    estimator : EffectEstimator
        Any estimator of this package; it is cloned. Binary outcomes are refused.
    method : {"split", "cross"}
        ``"split"``: one part trains, the other calibrates. ``"cross"``: CV+ over folds (Foygel Barber et al. 2021),
        every row calibrates a model that did not see it; trains `n_folds` models, and predicting an interval takes time
        in proportion to the calibration rows.
    conformity : {"cqr", "pit", "residual"}
        What makes an outcome strange, see `effects.conformal.laws.conformity_scores`. ``"cqr"`` widens or narrows the
        law's central interval by a constant in the outcome's unit; ``"pit"`` by a constant in the law's own normal
        quantiles, so wide laws are widened more (it suits skewed outcomes and counts); ``"residual"`` makes
        every interval equally wide.
    calibration_size : float
        Share of every arm's rows that calibrate a split.
    n_folds : int
        Folds of ``method="cross"``.
    weighted : bool
        False leaves the weights out: then intervals cover only if treatment was assigned independently of x.
    target : "all", "treated", "control" or an arm's label
        The population over which coverage holds: everybody, or those who received one arm (``"treated"`` where there
        are two); weights are then :math:`e_k(x) / e_a(x)`.
    random_state : int, RandomState or None
        Of the split into parts. The estimator keeps its own.

    Attributes
    ----------
    estimators_ : list of EffectEstimator
        One for a split, one a fold otherwise.
    calibration_ : Calibration
        Laws, propensities, outcomes and arms of the calibration rows.
    schema_, arms_, n_features_in_, feature_names_in_
        As in `EffectEstimator`, learned from all rows.

    Notes
    -----
    **What is guaranteed.** Coverage on average over the target population (marginal), not given x: an interval with
    90% coverage may hold 80% of the outcomes of some patients. Assumed are independent rows, no unobserved confounding,
    and overlap. With *known* propensities (a trial's or a design's: pass ``propensity=`` to `fit` and when predicting)

    - split conformal intervals cover with probability `level` or more in finite samples, however bad the estimator
      (Lei & Candès 2021, Proposition 1; Tibshirani et al. 2019, Corollary 1);
    - CV+ intervals cover with 1 - 2 (1 - level) or more in theory, up to a term in n_folds / n, and about `level` in
      practice (Foygel Barber et al. 2021, Theorem 4; with weights, Prinster, Liu & Saria 2022, Theorem 1).

    With *estimated* propensities coverage is approximate: split conformal loses at most half the mean absolute error of
    the (normalised) weights, and CQR is doubly robust: asymptotically it covers if either the propensities or the
    outcome's conditional quantiles are estimated consistently (Lei & Candès 2021, Theorem 1).

    Propensities come from the estimator's own nuisances, fitted on the training part. Nothing is clipped: where a new
    row's weight is so large that the calibration rows hold less than `level` of the mass, the interval is infinite,
    which is the honest answer, and a warning counts such rows. `report` says how much the weights leave.

    **Sample weights** enter the training and multiply the calibration weights; a new row counts with the mean weight.

    An empty prediction set (lower end above the upper, which CQR can give) is returned as its middle, a single point;
    for counts, interval ends are moved inwards to whole numbers of zero or more. Both leave coverage as it is.

    References
    ----------
    Lei & Candès (2021), Conformal inference of counterfactuals and individual treatment effects, JRSS B 83. Tibshirani,
    Foygel Barber, Candès & Ramdas (2019), Conformal prediction under covariate shift, NeurIPS 32. Romano, Patterson &
    Candès (2019), Conformalized quantile regression, NeurIPS 32. Chernozhukov, Wüthrich & Zhu (2021), Distributional
    conformal prediction, PNAS 118. Foygel Barber, Candès, Ramdas & Tibshirani (2021), Predictive inference with the
    jackknife+, Annals of Statistics 49. Prinster, Liu & Saria (2022), JAWS: auditing predictive uncertainty under
    covariate shift, NeurIPS 35. Alaa, Ahmad & van der Laan (2023), Conformal meta-learners for predictive inference of
    individual treatment effects, NeurIPS 36. Gupta, Kuchibhotla & Ramdas (2022), Nested conformal prediction and
    quantile out-of-bag ensemble methods, Pattern Recognition 127.

    Examples
    --------
    >>> from effects import ConformalOutcomes, GComputation, Nuisance
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> inner = GComputation(nuisance=Nuisance(n_folds=2), random_state=0)
    >>> est = ConformalOutcomes(inner, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> lower, upper = est.predict_interval(data.X, level=0.5)
    >>> lower.shape
    (200, 2)
    >>> est.report(data.X, level=0.5).columns.tolist()
    ['n', 'effective_n', 'infinite', 'width', 'unweighted_width']
    """

    __metadata_request__fit: ClassVar[dict[str, bool]] = {"treatment": True}
    __metadata_request__score: ClassVar[dict[str, bool]] = {"treatment": True}

    def __init__(
        self,
        estimator: EffectEstimator,
        *,
        method: str = "split",
        conformity: str = "cqr",
        calibration_size: float = 0.25,
        n_folds: int = 5,
        weighted: bool = True,
        target: Hashable = "all",
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.method = method
        self.conformity = conformity
        self.calibration_size = calibration_size
        self.n_folds = n_folds
        self.weighted = weighted
        self.target = target
        self.random_state = random_state

    # ------------------------------------------------------------------ fit

    def fit(
        self,
        X: ArrayLike | pd.DataFrame,
        y: ArrayLike,
        *,
        treatment: ArrayLike,
        sample_weight: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> Self:
        """Train on one part of the rows, calibrate on the other.

        Parameters
        ----------
        X, y, treatment, sample_weight, propensity
            As in `EffectEstimator.fit`. With `propensity` given the calibration weights are exact.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            As the estimator's `fit`; if the outcome is binary, an arm is too small to be split, or a row received an
            arm to which its estimated propensity is zero.
        """
        self._check_params()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the estimators' own fits say the same of the same table
            schema = Schema.learn(
                X,
                y,
                treatment,
                outcome=self.estimator.outcome,
                control=self.estimator.control,
                sample_weight=sample_weight,
            )
        if schema.outcome.kind == "binary":
            raise ValueError(
                "conformal prediction sets of a binary outcome are one of {}, {0}, {1} and {0, 1}: they say nothing "
                "that the event's probability does not. Use predict_outcomes(X).mean() of the estimator itself, and "
                "check its calibration; for a score of two values, pass outcome='continuous' to the estimator."
            )
        a, Y = schema.encode_treatment(treatment), schema.encode_outcome(y)
        target = self._target_arm(schema.arms)
        weight = check_weights(sample_weight, a, schema.arms)
        known = None if propensity is None else check_propensities(propensity, len(a), schema.arms)
        weight = weight / weight[weight > 0].mean()  # a new row counts with the mean weight, one
        share = self.calibration_size if self.method == "split" else None
        fold, spare = assign_rows(a, weight > 0, schema.arms, share, self.n_folds, seed_of(self.random_state))
        parts, estimators = [], []
        for k in range(fold.max() + 1):
            train, held = np.flatnonzero((fold != k) & (weight > 0)), np.flatnonzero(fold == k)
            # kind and control of the whole table: a part may happen to look different
            est = clone(self.estimator).set_params(outcome=schema.outcome.kind, control=schema.arms[0])
            est.fit(
                _take(X, train),
                _take(y, train),
                treatment=_take(treatment, train),
                sample_weight=None if sample_weight is None else _take(sample_weight, train),
                propensity=None if known is None else known[train],
            )
            with warnings.catch_warnings():  # a rare level that one part has to itself is no news to the table's owner
                warnings.filterwarnings("ignore", message="Levels never seen")
                rows = self._predicted(est, _take(X, held), None if known is None else known[held], schema.outcome.sd)
            fields = {"y": Y[held], "weight": weight[held], "a": a[held], "fold": fold[held], "spare": spare[held]}
            parts.append(Calibration(rows.laws, rows.propensity, rows.balance, **fields))
            estimators.append(est)
        calibration = Calibration.joined(parts)
        calibration.check_possible(schema.arms)
        self.__dict__.pop("feature_names_in_", None)
        if isinstance(X, pd.DataFrame) and all(isinstance(name, str) for name in X.columns):
            self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        self.n_features_in_, self.arms_ = len(schema.columns), schema.arms
        self.estimators_, self.calibration_, self.target_ = estimators, calibration, target
        self.schema_ = schema  # last: this is what makes the estimator fitted
        return self

    def _check_params(self) -> None:
        if not isinstance(self.estimator, EffectEstimator):
            raise TypeError(f"estimator must be an estimator of effects, such as DiffPO(), got {self.estimator!r}.")
        for name, known in (("method", METHODS), ("conformity", SCORES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}.")
        if not 0.0 < float(self.calibration_size) < 1.0:
            raise ValueError(f"calibration_size must lie strictly between 0 and 1, got {self.calibration_size!r}.")
        if not isinstance(self.n_folds, int | np.integer) or self.n_folds < 2:
            raise ValueError(f"n_folds must be a whole number of 2 or more, got {self.n_folds!r}.")
        if not isinstance(self.weighted, bool | np.bool_):
            raise ValueError(f"weighted must be True or False, got {self.weighted!r}.")

    def _target_arm(self, arms: tuple[Hashable, ...]) -> int:
        if self.target in arms:
            return arms.index(self.target)
        if self.target == "all":
            return EVERYBODY
        if self.target == "control":
            return 0
        if self.target == "treated" and len(arms) == 2:
            return 1
        raise ValueError(
            f"target={self.target!r} is no population of {len(arms)} arms: use 'all', 'control'"
            f"{', ' + repr('treated') if len(arms) == 2 else ''} or one of {arms}."
        )

    def _predicted(self, est: EffectEstimator, X: Any, known: Array | None, sd: float) -> Rows:
        """Laws and propensities of rows that `est` never saw."""
        laws = Laws.of_arms(est.predict_outcomes(X), sd)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of levels never seen: said a line ago
            E = est.schema_.encode(X)
        e = known if known is not None else est.nuisance_.predict(E).propensity
        rows = Rows(laws, e, e)
        return rows if self.weighted else rows.unweighted()

    # ------------------------------------------------------------------ intervals

    def predict_interval(
        self, X: ArrayLike | pd.DataFrame, level: float = 0.9, *, propensity: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """Conformal prediction intervals of every Y(a).

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        level : float
            Probability with which the interval of an arm holds that arm's outcome, on average over the target.
        propensity : array-like of shape (n_samples,) or (n_samples, n_arms), optional
            Known propensities of these rows, which their weights need. Without them, a trial's constant ones that
            `fit` was given, else the estimator's.

        Returns
        -------
        lower, upper : ndarray of shape (n_samples, n_arms)
            In the outcome's unit; infinite where the calibration rows cannot give the guarantee.

        Warns
        -----
        UserWarning
            Once, if intervals are infinite: how many rows, of which arm, the effective sample size, and the cure.
        """
        check_level(level)
        blocks = [self._outcome_intervals(tests, level) for tests in self._blocks(X, propensity)]
        lower, upper = (np.concatenate([block[k] for block in blocks]) for k in (0, 1))
        self._warn_infinite(np.isinf(lower) | np.isinf(upper), level)
        return lower, upper

    def predict_effect_interval(
        self,
        X: ArrayLike | pd.DataFrame,
        level: float = 0.9,
        *,
        method: str = "nested",
        treated: Hashable = None,
        control: Hashable = None,
        propensity: ArrayLike | None = None,
    ) -> tuple[Array, Array]:
        r"""Conformal intervals of the individual effect Y(treated) - Y(control).

        Nobody shows both outcomes, and their joint law is not identified: ``"nested"`` and ``"bonferroni"`` cover
        whatever it is, which is why they are wide. For the average effect given x use `predict_effect`.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        level : float
        method : {"nested", "nested_inexact", "bonferroni", "dr", "ipw"}
            ``"nested"``: Lei & Candès 2021, section 4, exact. Two thirds of the calibration rows give each row of the
            last third an interval of its effect (the outcome it showed, against the conformal interval of the one it
            did not); conformal inference on those intervals carries them to new rows. Guaranteed at `level` like the
            outcomes' intervals, for the two steps' probabilities to miss add up to 1 - level. Deviation: ends of
            intervals are not regressed on x, but expected by the estimator's laws, which saves another split.

            ``"nested_inexact"``: as there, inexact. The 40% and 60% quantiles of these ends, from all calibration rows,
            with the same deviation. No guarantee: shorter, and too short where the two outcomes vary independently
            (83% for 90%, in a simulated trial with normal outcomes).

            ``"bonferroni"``: both arms' intervals at (1 + level) / 2, subtracted. Guaranteed at `level`.

            ``"dr"``, ``"ipw"``: conformal meta-learners (Alaa, Ahmad & van der Laan 2023). Split conformal around the
            CATE with the scores of doubly robust or inverse-propensity pseudo-outcomes, with no weights for
            ``target="all"``. Valid if those scores stochastically dominate the scores of the true effects; for these
            two that holds in the convex order, hence for levels high enough, how high depending on the data. Where
            an arm is rare most scores hold the noise of the other arm only: in our simulation, with propensities from
            .03 to .97, 90% intervals of ``"dr"`` covered 82 to 85%, those of ``"ipw"`` 96%.
        treated, control : label, optional
            As in `predict_effect`.
        propensity : array-like, optional
            As in `predict_interval`.

        Returns
        -------
        lower, upper : ndarray of shape (n_samples,)

        Raises
        ------
        ValueError
            If the method or an arm is unknown, or `treated` is needed and missing.

        Warns
        -----
        UserWarning
            Once, if intervals are infinite.

        Notes
        -----
        Guarantees are those of split conformal with known propensities. With ``method="cross"`` the calibration scores
        of all folds are pooled: the Bonferroni intervals are made of CV+ ones; for nested ones no theorem is known.
        """
        check_level(level)
        if method not in EFFECT_METHODS:
            raise ValueError(f"method must be one of {EFFECT_METHODS}, got {method!r}.")
        self._check_fitted()
        t, c = contrast(self.arms_, treated, control)
        blocks = []
        for tests in self._blocks(X, propensity):
            effects = EffectIntervals(self.calibration_, tests, t, c, self.conformity, self.target_)
            blocks.append(self._tidy(*effects.interval(method, level), difference=True))
        lower, upper = (np.concatenate([block[k] for block in blocks]) for k in (0, 1))
        infinite = np.isinf(lower) | np.isinf(upper)
        if infinite.any():
            warnings.warn(
                f"{infinite.sum()} of {len(lower)} rows get an infinite interval of the effect of {self.arms_[t]!r} "
                f"against {self.arms_[c]!r} at level {level:g}: the guarantee is empty there. Effective sample sizes "
                f"of the calibration rows: {self._sizes((t, c))}. {_CURE}",
                UserWarning,
                stacklevel=2,
            )
        return lower, upper

    def report(
        self, X: ArrayLike | pd.DataFrame, level: float = 0.9, *, propensity: ArrayLike | None = None
    ) -> pd.DataFrame:
        """What the weights leave of the calibration rows, and what they cost in width.

        Parameters
        ----------
        X, level, propensity
            As in `predict_interval`.

        Returns
        -------
        DataFrame
            One row an arm: ``n`` calibration rows, ``effective_n`` (Kish) under their weights, ``infinite`` share of
            the rows of X with an infinite interval, mean ``width`` of the finite ones, and ``unweighted_width``,
            that of unweighted conformal intervals (which do not cover under confounding), in the outcome's unit.
        """
        check_level(level)
        widths, plain = [], []
        for tests in self._blocks(X, propensity):
            lower, upper = self._outcome_intervals(tests, level)
            widths.append(upper - lower)
            lower, upper = self._outcome_intervals(
                [rows.unweighted() for rows in tests], level, self.calibration_.unweighted()
            )
            plain.append(upper - lower)
        sizes = [self._arm_size(k) for k in range(len(self.arms_))]
        width = np.concatenate(widths)
        columns = {
            "n": [n for n, _ in sizes],
            "effective_n": [effective for _, effective in sizes],
            "infinite": np.isinf(width).mean(axis=0),
            "width": _finite_mean(width),
            "unweighted_width": _finite_mean(np.concatenate(plain)),
        }
        return pd.DataFrame(columns, index=pd.Index(self.arms_, name="arm"))

    def _blocks(self, X: Any, propensity: ArrayLike | None) -> Iterator[list[Rows]]:
        """The new rows as every model sees them, a block at a time."""
        self._check_fitted()
        n = len(X)
        known = None if propensity is None else check_propensities(propensity, n, self.arms_)
        for start in range(0, max(n, 1), _BLOCK_ROWS):
            rows = np.arange(start, min(start + _BLOCK_ROWS, n))
            part, e = _take(X, rows), None if known is None else known[rows]
            yield [self._predicted(est, part, e, self.schema_.outcome.sd) for est in self.estimators_]

    def _outcome_intervals(
        self, tests: list[Rows], level: float, calibration: Calibration | None = None
    ) -> tuple[Array, Array]:
        calibration = self.calibration_ if calibration is None else calibration
        ends = [
            outcome_bounds(calibration, tests, k, level, self.conformity, self.target_) for k in range(len(self.arms_))
        ]
        lower, upper = (np.column_stack([end[k] for end in ends]) for k in (0, 1))
        return self._tidy(lower, upper)

    def _tidy(self, lower: Array, upper: Array, difference: bool = False) -> tuple[Array, Array]:
        """Ends at whole numbers for counts, and a point for an empty set; neither takes an outcome away."""
        empty = lower > upper
        middle = np.where(empty, lower, 0.0) / 2 + np.where(empty, upper, 0.0) / 2
        if self.schema_.outcome.kind == "count":
            lower, upper = np.ceil(lower - _ROUNDING), np.floor(upper + _ROUNDING)
            if not difference:
                lower = np.maximum(lower, 0.0)
            between = (lower > upper) & ~empty  # an interval between two whole numbers
            middle, empty = np.rint(np.where(between, lower - 0.5, middle)), empty | between
            if not difference:
                middle = np.maximum(middle, 0.0)
        return np.where(empty, middle, lower), np.where(empty, middle, upper)

    # ------------------------------------------------------------------ laws, means, effects

    def predict_outcomes(
        self, X: ArrayLike | pd.DataFrame, *, n_draws: int | None = None, random_state: Any = None
    ) -> PotentialOutcomes:
        r"""The estimator's laws of every Y(a) | x, with their quantile levels recalibrated arm by arm.

        The draws are moved by the monotone map that makes the weighted PITs of the calibration rows uniform (a
        conformal predictive distribution without the new row's mass). Quantiles are so calibrated on average over the
        target, to the accuracy of the effective sample size; the finite-sample guarantee is `predict_interval`'s. Means
        are those of the moved draws. Members keep their order; with ``method="cross"`` the folds' members are pooled.

        Parameters
        ----------
        X, n_draws, random_state
            As in `EffectEstimator.predict_outcomes`.

        Returns
        -------
        PotentialOutcomes
        """
        self._check_fitted()
        found = [est.predict_outcomes(X, n_draws=n_draws, random_state=random_state) for est in self.estimators_]
        outcomes = replace(found[0], draws=np.concatenate([one.draws for one in found]), means=None)
        maps = [self._recalibration(k) for k in range(outcomes.n_arms)]
        return recalibrated_outcomes(outcomes, maps, self.schema_.outcome.sd)

    def _recalibration(self, k: int) -> Recalibration:
        part = self.calibration_.take(self.calibration_.a == k)
        z = randomised_position(part.laws[k], part.y, np.random.default_rng(k))
        return Recalibration.learn(z, part.weight * arm_weights(part.balance, k, self.target_))

    def predict(self, X: ArrayLike | pd.DataFrame) -> Array:
        """The estimator's CATE against the control arm (averaged over folds): conformal inference leaves it as it is.

        Returns
        -------
        ndarray of shape (n_samples,) for two arms, else (n_samples, n_arms - 1)
        """
        self._check_fitted()
        return np.mean([est.predict(X) for est in self.estimators_], axis=0)

    def predict_effect(
        self, X: ArrayLike | pd.DataFrame, *, treated: Hashable = None, control: Hashable = None
    ) -> Effect:
        """The estimator's CATE with its own uncertainty, members of all folds together; not a conformal statement.

        Parameters
        ----------
        X, treated, control
            As in `EffectEstimator.predict_effect`.
        """
        self._check_fitted()
        found = [est.predict_effect(X, treated=treated, control=control) for est in self.estimators_]
        members = np.concatenate([effect.members for effect in found])
        return replace(found[0], members=members, laws=partial(_pooled_laws, found))

    def score(
        self,
        X: ArrayLike | pd.DataFrame,
        y: ArrayLike,
        *,
        treatment: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        """Minus the mean CRPS of the observed outcomes under their arm's recalibrated law: larger is better."""
        self._check_fitted()
        a, Y = self.schema_.encode_treatment(treatment), self.schema_.encode_outcome(y)
        outcomes = self.predict_outcomes(X)
        if not len(a) == len(Y) == len(outcomes):
            raise ValueError(f"X, y and treatment have {len(outcomes)}, {len(Y)} and {len(a)} rows: they must agree.")
        weight = None if sample_weight is None else check_sample_weight(sample_weight, len(outcomes))
        return -float(np.average(outcomes.crps(Y, a), weights=weight))

    # ------------------------------------------------------------------ what is left to say

    def _arm_size(self, k: int) -> tuple[int, float]:
        """Calibration rows of an arm, and their effective number."""
        part = self.calibration_.take(self.calibration_.a == k)
        return len(part.y), effective_sample_size(part.weight * arm_weights(part.balance, k, self.target_))

    def _sizes(self, codes: Any) -> str:
        sizes = [(self.arms_[k], *self._arm_size(k)) for k in codes]
        return ", ".join(f"{effective:.1f} of {n} for arm {arm!r}" for arm, n, effective in sizes)

    def _warn_infinite(self, infinite: NDArray[np.bool_], level: float) -> None:
        """One warning for all arms whose guarantee is empty for some rows."""
        codes = np.flatnonzero(infinite.any(axis=0))
        if not len(codes):
            return
        rows = ", ".join(f"{infinite[:, k].sum()} for arm {self.arms_[k]!r}" for k in codes)
        warnings.warn(
            f"Of {len(infinite)} rows some get an infinite interval at level {level:g}, because their weights are too "
            f"large for the calibration rows ({rows}): the guarantee is empty there. Effective sample size of these "
            f"arms' calibration rows: {self._sizes(codes)}. {_CURE}",
            UserWarning,
            stacklevel=3,
        )

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                "This ConformalOutcomes instance is not fitted yet. Call 'fit' with appropriate arguments before using "
                "this estimator."
            )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "schema_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags


_CURE = (
    "Nothing was clipped. Take more calibration rows (method='cross' uses all), a lower level, a target population "
    "with overlap (target=), or leave out the rows that hardly ever receive the arm."
)


def _take(values: Any, rows: NDArray[np.int64]) -> Any:
    """Some rows of a table or a vector, in its own type."""
    if hasattr(values, "iloc"):
        return values.iloc[rows]
    return values[rows] if isinstance(values, pd.Categorical | pd.Index) else np.asarray(values)[rows]


def _finite_mean(width: Array) -> Array:
    """Mean over the finite rows of every column; NaN where there is none."""
    finite = np.isfinite(width)
    return np.where(finite, width, 0.0).sum(axis=0) / np.where(finite.any(axis=0), finite.sum(axis=0), np.nan)


def _pooled_laws(effects: list[Effect]) -> tuple[Law, Law]:
    """The equal mixture of the effects' laws."""
    pairs = [effect.laws() for effect in effects if effect.laws is not None]
    treated, control = (np.sort(np.concatenate([pair[k].values for pair in pairs]), axis=0) for k in (0, 1))
    return Law(treated), Law(control)
