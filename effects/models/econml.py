"""EconML's estimators of conditional effects, with the outcome's distribution around them."""

from __future__ import annotations

import inspect
import sys
import time
import warnings
from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from threadpoolctl import threadpool_limits

from effects.estimator import EffectEstimator
from effects.models.residuals import ResidualDistribution
from effects.nn.scale import normal_nodes
from effects.nuisance import Nuisance
from effects.rows import TrainingData
from effects.schema import Schema
from effects.schema.checks import check_whole

Array = NDArray[np.float64]
_DATA = {"Y", "T", "X"}
_MANY_ROWS = 50_000


class EconML(EffectEstimator):
    r"""Any CATE estimator of EconML for discrete treatments, given baselines and outcome distributions.

    EconML estimates :math:`\tau_a(x) = E[Y(a) - Y(0) \mid x]` and its standard error :math:`s_a(x)`. The means of the
    outcomes are completed from the cross-fitted nuisances :math:`\hat m_a, \hat e_a` (`effects.Nuisance`), so that
    they average to the regression of the observed outcome and differ by EconML's effects:

    .. math:: \mu_0(x) = \sum_a \hat e_a(x)\, \hat m_a(x) - \sum_{a > 0} \hat e_a(x)\, \tau_a(x), \qquad
              \mu_a(x) = \mu_0(x) + \tau_a(x) .

    The law around them is that of out-of-fold residuals (`effects.models.residuals.ResidualDistribution`); a binary
    outcome is its probability.

    Parameters
    ----------
    outcome : {"auto", "continuous", "binary", "count"}
        Kind of outcome.
    control : label, optional
        The control arm; EconML sees it as arm 0, and the others as 1, 2, ...
    estimator : EconML estimator, optional
        Anything with ``fit(Y, T, X=...)`` and ``effect(X, T0=, T1=)`` for discrete treatments: ``LinearDML`` and
        ``CausalForestDML`` (with ``discrete_treatment=True``), ``DRLearner``, ``ForestDRLearner``, ``XLearner``. It is
        copied, never changed; what it leaves unseeded gets this estimator's seed. By default a
        ``CausalForestDML`` on histogram gradient boosting, cross-fitted in as many folds as the nuisances: better than
        on EconML's own choice of nuisances on all data sets that we tried, and twice as fast.
    inference : str or EconML inference object, optional
        Passed to its ``fit``, such as ``"bootstrap"``; by default what the estimator itself prefers. Meta-learners
        (``XLearner``, ``TLearner``) have none unless asked for the bootstrap.
    nuisance : Nuisance, optional
        Your own cross-fitting set-up of the baseline. EconML fits nuisances of its own besides.
    n_trees : int
        Trees of the default forest, a multiple of 4.
    n_members : int
        Members that carry the standard error.
    n_draws : int
        Outcome draws per member.
    random_state : int, RandomState or None
    verbose : int
        1 says on standard error what was fitted and how long it took.

    Attributes
    ----------
    schema_, arms_, nuisance_, n_features_in_, feature_names_in_
        As in `EffectEstimator`.
    estimator_ : EconML estimator
        Fitted on ``schema_.encode(X)`` and arm codes: ask it for whatever else EconML offers.
    law_ : ResidualDistribution or None
        None for a binary outcome.
    history_ : list of dict
        The estimator's name, and whether it gave standard errors.

    Raises
    ------
    TypeError
        If `estimator` is no fitted-able CATE estimator, or needs an instrument.
    ValueError
        If it takes the arms for doses, cannot take the weights that were given, or its standard errors are no numbers.

    Notes
    -----
    **Members carry marginal standard errors, and nothing more.** Member j is :math:`\tau_a(x) + s_a(x) z_{aj}` with
    the same normal scores z (of mean 0 and variance 1 exactly) in every row. So `Effect.mean`, `std`, `interval` and
    `prob_above` are EconML's normal ones for every unit, but the members of different units move as one: group
    averages (`Effect.by`) get intervals that are too wide. Use `effects.estimate_ate` for averages. Scores of two
    arms correlate by 1/2, as estimates do that share a control arm of equal precision.

    Without inference there is one member, the point estimate, and intervals of effects have no width.

    Risks must lie in [0, 1] and counts must not be negative. Where the sum above leaves that range, the baseline
    gives way, by the least shift that brings all arms inside, and EconML's effects stay as they are. Only effects that
    no risks could have (arms more than 1 apart) are shrunk, to 1, in any member: so near 1 the mean of the members may
    fall a little short of EconML's estimate. A warning counts the training rows whose estimate itself is beyond 1.

    The estimated effects of training rows are in sample. Known propensities (``fit(..., propensity=...)``) enter the
    baseline alone; EconML estimates its own. Forests' intervals are too narrow: on IHDP and ACIC 2016 the default's
    90% intervals hold 0.5 to 0.6 of the effects. A fitted model holds EconML's objects: pickle it; `save` refuses.

    References
    ----------
    Battocchi et al. (2019), EconML: a Python package for ML-based heterogeneous treatment effect estimation. Athey,
    Tibshirani & Wager (2019), Generalized random forests, Annals of Statistics 47, sections 3 and 6.

    Examples
    --------
    >>> from econml.metalearners import TLearner
    >>> from sklearn.linear_model import LinearRegression
    >>> from effects import EconML
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=100, random_state=0)
    >>> est = EconML(estimator=TLearner(models=LinearRegression()), random_state=0)
    >>> est.fit(data.X, data.y, treatment=data.treatment).predict_outcomes(data.X).n_members
    1
    """

    _paper = "Battocchi et al., EconML 2019; Athey, Tibshirani & Wager, Annals of Statistics 2019, arXiv 1610.01271"

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        estimator: Any = None,
        inference: Any = None,
        nuisance: Nuisance | None = None,
        n_trees: int = 200,
        n_members: int = 32,
        n_draws: int = 32,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.estimator = estimator
        self.inference = inference
        self.nuisance = nuisance
        self.n_trees = n_trees
        self.n_members = n_members
        self.n_draws = n_draws
        self.random_state = random_state
        self.verbose = verbose

    def _df(self) -> float | None:
        """Normal, as EconML's own intervals are: the members' variance is exactly EconML's."""
        return float("inf")

    def _check_params(self) -> None:
        super()._check_params()
        for name, least in (("n_trees", 4), ("n_members", 4), ("n_draws", 1)):
            check_whole(name, getattr(self, name), least)
        if self.n_trees % 4:
            raise ValueError(f"n_trees must be a multiple of 4 (EconML's forests grow in groups), got {self.n_trees}.")
        if self.estimator is not None:
            _check_estimator(self.estimator)

    # ------------------------------------------------------------------ fit

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        kind, n_arms, start = data.schema.outcome.kind, data.schema.n_arms, time.perf_counter()
        estimator = self._make(data)
        keywords: dict[str, Any] = {} if self.inference is None else {"inference": self.inference}
        if np.ptp(data.weight) > 0:
            if "sample_weight" not in inspect.signature(estimator.fit).parameters:
                raise ValueError(
                    f"{type(estimator).__name__} takes no sample_weight: use one that does, such as LinearDML, "
                    "CausalForestDML or DRLearner."
                )
            keywords["sample_weight"] = data.weight
        X = data.E.astype(np.float64)
        # boosting on tables of this size is fastest on one thread: more wait for each other
        with _quiet(), threadpool_limits(1 if len(X) < _MANY_ROWS else None, user_api="openmp"):
            estimator.fit(data.y, data.a, X=X, **keywords)
        tau, error = _effects(estimator, X, n_arms)
        name = type(estimator).__name__
        fitted: dict[str, Any] = {"estimator_": estimator, "law_": None}
        fitted["history_"] = [{"estimator": name, "standard_errors": error is not None}]
        fitted["scores_"] = np.zeros((1, n_arms - 1)) if error is None else _scores(self.n_members, n_arms - 1)
        values = data.nuisance.out_of_fold_
        baseline = (values.propensity * values.mu).sum(axis=1)
        spread = np.zeros_like(tau) if error is None else error
        effects = tau + spread * fitted["scores_"][:, None]
        if kind == "binary":
            _warn_impossible(tau, name)
        else:
            means = coherent_means(baseline, values.propensity, effects, *_range(kind))
            own = means[:, np.arange(len(X)), data.a]
            fitted["law_"] = ResidualDistribution.learn(
                data.y - own.mean(axis=0),
                data.E,
                data.a,
                data.weight,
                n_arms,
                y=data.y,
                kind=kind,
                member_variance=own.var(axis=0),
                seed=data.seed,
            )
        if self.verbose:
            print(f"EconML: {name} fitted in {time.perf_counter() - start:.1f} s", file=sys.stderr)
        return fitted

    def _make(self, data: TrainingData) -> Any:
        """A copy of the user's estimator, or the default, with every seed set."""
        if self.estimator is not None:
            return _seeded(clone(self.estimator, safe=False), data.seed)
        from econml.dml import CausalForestDML
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        seed, binary = data.seed % 2**32, data.schema.outcome.kind == "binary"
        settings = {"learning_rate": 0.05, "max_leaf_nodes": 6, "max_features": 0.5, "random_state": seed}
        outcome = HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor
        return CausalForestDML(
            model_y=outcome(min_samples_leaf=10, **settings),
            model_t=HistGradientBoostingClassifier(**settings),
            discrete_outcome=binary,
            discrete_treatment=True,
            n_estimators=self.n_trees,
            cv=min(data.nuisance.n_folds, int(np.bincount(data.a).min())),
            n_jobs=1,
            random_state=seed,
        )

    # ------------------------------------------------------------------ predict

    def _inputs(self, E: NDArray[np.float32]) -> NDArray[np.float32]:
        """Baseline, propensities, effects and their standard errors, then the encoded covariates."""
        values, n_arms = self.nuisance_.predict(E), len(self.arms_)
        tau, error = _effects(self.estimator_, E.astype(np.float64), n_arms, len(self.scores_) > 1)
        baseline = (values.propensity * values.mu).sum(axis=1)
        spread = np.zeros_like(tau) if error is None else error
        columns = [baseline[:, None], values.propensity, tau, spread, E]
        return np.concatenate(columns, axis=1, dtype=np.float32)

    def _means(self, inputs: NDArray[np.float32]) -> Array:
        k = len(self.arms_)
        columns = inputs.astype(np.float64)
        baseline, propensity = columns[:, 0], columns[:, 1 : k + 1]
        tau, error = columns[:, k + 1 : 2 * k], columns[:, 2 * k : 3 * k - 1]
        lowest, highest = _range(self.schema_.outcome.kind)
        if self.law_ is not None:  # an outcome with a point mass at its smallest value has no mean below it
            lowest = max(lowest, self.law_.floor)
        return coherent_means(baseline, propensity, tau + error * self.scores_[:, None], lowest, highest)

    def _sample(
        self, inputs: NDArray[np.float32], n_draws: int | None, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], Array | None]:
        means = self._means(inputs)
        if self.law_ is None:
            return means[:, None].astype(np.float32), means
        E = inputs[:, 3 * len(self.arms_) - 1 :]
        return self.law_.draws(means, E, n_draws or self.n_draws), means

    # ------------------------------------------------------------------ save / load

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        raise TypeError(
            "EconML holds a fitted EconML model, which cannot be saved without pickle: pickle the estimator and trust "
            "whoever unpickles it, or use DiffPO, which can be saved."
        )

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        raise TypeError("a fitted EconML model cannot be read from a model file: unpickle it.")


def coherent_means(baseline: Array, propensity: Array, effects: Array, lowest: float, highest: float) -> Array:
    r"""Means of all arms that average to a baseline and differ by given effects, within the outcome's range.

    :math:`\mu_a = \mu_0 + \tau_a` with :math:`\mu_0 = m - \sum_a e_a \tau_a`, moved by the least that brings every arm
    into [lowest, highest]; effects that span more than the range are shrunk to it.

    Parameters
    ----------
    baseline : ndarray of shape (n,)
        :math:`m(x) = E[Y \mid x]`.
    propensity : ndarray of shape (n, n_arms)
    effects : ndarray of shape (n_members, n, n_arms - 1)
        Against the control, which is the first arm.
    lowest, highest : float
        Infinite where there is no bound.

    Returns
    -------
    ndarray of shape (n_members, n, n_arms)

    Examples
    --------
    >>> import numpy as np
    >>> from effects.models.econml import coherent_means
    >>> m, e = np.array([0.5, 0.1]), np.full((2, 2), 0.5)
    >>> coherent_means(m, e, np.array([[[0.4], [0.4]]]), 0.0, 1.0).round(2)
    array([[[0.3, 0.7],
            [0. , 0.4]]])
    """
    relative = np.concatenate([np.zeros((*effects.shape[:2], 1)), effects], axis=2)
    if np.isfinite(highest - lowest):
        width = np.ptp(relative, axis=2, keepdims=True)
        relative /= np.maximum(width / (highest - lowest), 1.0)
    control = baseline - (propensity * relative).sum(axis=2)
    control = np.maximum(control, lowest - relative.min(axis=2))
    control = np.minimum(control, highest - relative.max(axis=2))
    return np.clip(control[:, :, None] + relative, lowest, highest)  # of rounding alone


def _range(kind: str) -> tuple[float, float]:
    """Smallest and largest possible mean."""
    return {"binary": (0.0, 1.0), "count": (0.0, np.inf)}.get(kind, (-np.inf, np.inf))


def _scores(n_members: int, n_contrasts: int) -> Array:
    """Normal scores (n_members, n_contrasts) of mean 0 and variance 1, any two columns correlated by 1/2 exactly."""
    nodes = normal_nodes(n_members)
    if n_contrasts == 1:
        return (nodes / nodes.std())[:, None]
    rng = np.random.default_rng(0)  # one set of scores for all: no fit depends on it
    mixed = np.column_stack([rng.permutation(nodes) for _ in range(min(n_contrasts, n_members - 2) + 1)])
    independent = np.linalg.qr(mixed - mixed.mean(axis=0))[0] * np.sqrt(n_members)
    own = independent[:, 1 + np.arange(n_contrasts) % (independent.shape[1] - 1)]
    return (independent[:, :1] + own) / np.sqrt(2)


def _effects(estimator: Any, X: Array, n_arms: int, inference: bool = True) -> tuple[Array, Array | None]:
    """Effects (n, n_arms - 1) against arm 0, and their standard errors where the estimator has them."""
    if inference and getattr(estimator, "_inference", None) is not None:
        with _quiet():
            found = [estimator.effect_inference(X, T0=0, T1=k) for k in range(1, n_arms)]
        tau = np.column_stack([np.ravel(one.point_estimate) for one in found])
        error = np.column_stack([np.ravel(one.stderr) for one in found])
        if not np.isfinite(error).all():
            rows = int((~np.isfinite(error)).any(axis=1).sum())
            raise ValueError(
                f"{type(estimator).__name__} has no finite standard error in {rows} of {len(X)} rows: its final model "
                f"is not determined with {X.shape[1]} encoded columns. Use fewer, or a forest or a sparse model."
            )
    else:
        tau = np.column_stack([np.ravel(estimator.effect(X, T0=0, T1=k)) for k in range(1, n_arms)])
        error = None
    if not np.isfinite(tau).all():
        raise ValueError(f"{type(estimator).__name__} estimates effects that are no finite numbers: use another model.")
    return tau, error


def _seeded(estimator: Any, seed: int) -> Any:
    """Set every seed that was left open, of the estimator and of the models it holds."""
    seed %= 2**32
    if getattr(estimator, "random_state", 0) is None:
        estimator.random_state = seed
    for value in vars(estimator).values():
        for model in value if isinstance(value, list | tuple) else [value]:
            if hasattr(model, "get_params") and not isinstance(model, type):
                given = model.get_params(deep=True)
                model.set_params(**{k: seed for k, v in given.items() if k.endswith("random_state") and v is None})
    return estimator


def _check_estimator(estimator: Any) -> None:
    """Refuse what has not EconML's interface for discrete treatments, by name and with a cure."""
    name = estimator.__name__ if isinstance(estimator, type) else type(estimator).__name__
    if isinstance(estimator, type):
        raise TypeError(f"estimator is the class {name}: pass an instance, {name}(...).")
    if not (callable(getattr(estimator, "fit", None)) and callable(getattr(estimator, "effect", None))):
        raise TypeError(
            f"estimator must be a CATE estimator of EconML with fit and effect, got {estimator!r}: for scikit-learn "
            "models use EconML's TLearner or XLearner around them."
        )
    parameters = inspect.signature(estimator.fit).parameters
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = {k for k, p in parameters.items() if p.default is p.empty and p.kind not in several}
    if required - _DATA or "X" not in parameters:
        raise TypeError(f"{name}.fit needs {sorted(required)}: EconML takes estimators that need Y, T and X alone.")
    if getattr(estimator, "discrete_treatment", True) is False:
        raise ValueError(f"{name} takes the arms for doses: pass {name}(discrete_treatment=True, ...).")


def _warn_impossible(tau: Array, name: str) -> None:
    """Count the rows whose estimated risk differences no risks could have."""
    spread = np.maximum(tau.max(axis=1), 0) - np.minimum(tau.min(axis=1), 0)
    if (spread > 1).any():
        warnings.warn(
            f"{name} estimates risk differences beyond 1 in {int((spread > 1).sum())} of {len(tau)} rows; they are "
            "shrunk to 1. Give it a classifier for the outcome (discrete_outcome=True) or a more regular final model.",
            UserWarning,
            stacklevel=4,
        )


class _quiet(warnings.catch_warnings):
    """Without scikit-learn's announcements about the logistic regressions that EconML makes by default."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"sklearn\.linear_model\._logistic")
