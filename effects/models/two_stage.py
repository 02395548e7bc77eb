"""X- and DR-learner: effects are imputed from a first stage and regressed by any scikit-learn regressor."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from effects.models.regression import MetaLearner, RowDraw, classifies, fit_per_arm, held, unsaveable
from effects.nuisance import Nuisance, Predictor, _event
from effects.rows import TrainingData
from effects.schema import Schema

Array = NDArray[np.float64]
WEIGHTINGS = ("overlap", "none")
_LEAST_PROPENSITY = 1e-3  # of overlap weights, which take small propensities back themselves


class TwoStageLearner(MetaLearner):
    r"""What X- and DR-learner share: a first stage, a regression of effects, and means that agree with the effects.

    The second stage gives effects :math:`\tau_a(x)` and no outcomes. Of all means with these effects, the ones nearest
    to the first stage's, in squares weighted by the propensities, are returned:

    .. math:: \mu_0(x) = \sum_a e_a(x)\,[m_a(x) - \tau_a(x)], \qquad \mu_a(x) = \mu_0(x) + \tau_a(x),

    with :math:`\tau_0 = 0`. For two arms :math:`\mu_0 = m - e\tau` with :math:`m = E[Y \mid x]`, Robinson's (1988)
    decomposition. Where that leaves the outcome's range (probabilities, counts), :math:`\mu_0` is moved just as far as
    needed; effects beyond [-1, 1] of a binary outcome are cut to it.
    """

    effect_model: BaseEstimator | None

    @abstractmethod
    def _effects(self, models: list[Predictor], X: Array, propensity: Array) -> Array:
        """Effects against control, (n, n_arms - 1), of one member."""

    @abstractmethod
    def _imputed(self, data: TrainingData, mu: Array, propensity: Array) -> Any:
        """What the second stage regresses."""

    def _target(self, data: TrainingData) -> _Stage:
        values = data.nuisance.out_of_fold_
        mu, first = values.mu, None
        if self.model is not None:
            mu, first = self._fit_first(data)
        return _Stage(mu, values.propensity, first, self._imputed(data, mu, values.propensity))

    def _fit_first(self, data: TrainingData) -> tuple[Array, list[list[Predictor]]]:
        """The first stage by a model of the user's choice, cross-fitted: out-of-fold means and each fold's models."""
        rng = np.random.default_rng([data.seed, 1])
        fold, n_folds = self._folds(data, rng)
        mu, first = np.empty((len(data.y), data.schema.n_arms)), []
        for k in range(n_folds):
            draw = RowDraw(data.weight * (fold != k), None, k, True, int(rng.integers(2**31 - 1)))
            first.append(fit_per_arm(self.model, data, draw))
            mu[fold == k] = _predict_first([first[-1]], data.E[fold == k].astype(np.float64), data.schema.outcome.kind)
        return mu, first

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        stage = self._target(data)
        fitted = self._fit_members(data, stage)
        return fitted | {"first_": stage.first}

    def _second_model(self) -> BaseEstimator | None:
        """The regression of effects: the one given, else the outcomes' if that is a regressor, else boosting."""
        return self.model if self.effect_model is None and not classifies(self.model) else self.effect_model

    def _training_inputs(self, data: TrainingData, target: _Stage) -> Array:
        return np.column_stack([data.E.astype(np.float64), target.mu, target.propensity])

    def _inputs(self, E: NDArray[np.float32]) -> NDArray[Any]:
        """Encoded covariates, first-stage means and propensities, (n, n_encoded + 2 n_arms)."""
        values, kind = self.nuisance_.predict(E), self.schema_.outcome.kind
        X = E.astype(np.float64)
        mu = values.mu if self.first_ is None else _predict_first(self.first_, X, kind)
        return np.column_stack([X, mu, values.propensity])

    def _member_means(self, models: list[Predictor], inputs: Array, n_arms: int, kind: str) -> Array:
        X, mu, propensity = np.split(inputs, [inputs.shape[1] - 2 * n_arms, inputs.shape[1] - n_arms], axis=1)
        tau = np.column_stack([np.zeros(len(X)), self._effects(models, X, propensity)])
        if kind == "binary":
            tau = np.clip(tau, -1.0, 1.0)
        base = np.sum(propensity * (mu - tau), axis=1)
        if kind != "continuous":
            base = np.maximum(base, -tau.min(axis=1))
        if kind == "binary":
            base = np.minimum(base, 1.0 - tau.max(axis=1))
        return held(base[:, None] + tau, kind)

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        for model in (self.model, self.effect_model):
            if model is not None:
                raise unsaveable(type(self).__name__, model)
        return super()._get_state()

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        return super()._set_state(arrays, state, schema) | {"first_": None}


class XLearner(TwoStageLearner):
    r"""Imputed effects of either arm, regressed and averaged by the propensity (Künzel et al. 2019).

    Against every arm's own comparison with control:

    .. math:: D_i = Y_i - \hat m_0(x_i)\ (A_i = a), \quad D_i = \hat m_a(x_i) - Y_i\ (A_i = 0), \qquad
              \hat\tau_a(x) = g(x)\,\hat\tau_a^{(0)}(x) + (1 - g(x))\,\hat\tau_a^{(1)}(x),

    where :math:`\hat\tau_a^{(1)}` regresses D on x in the treated, :math:`\hat\tau_a^{(0)}` in the controls, and
    :math:`g = e_a / (e_a + e_0)`, so that the regression resting on the larger arm's outcome model counts most.

    Parameters
    ----------
    outcome, control, nuisance, n_members, n_folds, n_draws, random_state, verbose
        As in `SLearner`; here the propensities are the nuisances'.
    model : scikit-learn regressor or classifier, optional
        The first stage, per arm, cross-fitted. By default the nuisances' outcome regressions (the mean of one
        per arm and one for all), which are there already.
    effect_model : scikit-learn regressor, optional
        The second stage. By default `model` if that is a regressor, else histogram gradient boosting.

    Attributes
    ----------
    members_ : list of list
        Second-stage models of every member: per arm beyond control those of the controls, then of the treated.
    first_ : list of list or None
        First-stage models of every fold, where `model` was given.
    residuals_, schema_, arms_, nuisance_, history_, n_features_in_, feature_names_in_
        As in `SLearner`.

    Notes
    -----
    Outcome means that agree with the effects: see `TwoStageLearner`. First-stage means are cross-fitted, which the
    paper does not ask for. The members share the first stage: their spread holds the second stage's sampling error
    and neither the first stage's nor any bias, so intervals of the CATE made of it are too short.

    References
    ----------
    Künzel, Sekhon, Bickel & Yu (2019), Metalearners for estimating heterogeneous treatment effects, PNAS 116, eq. 6-9.

    Examples
    --------
    >>> from effects import XLearner
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> est = XLearner(n_members=4, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> est.predict(data.X).shape
    (200,)
    """

    _paper: ClassVar[str] = "Künzel et al., PNAS 2019, arXiv 1706.03461"

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        model: BaseEstimator | None = None,
        effect_model: BaseEstimator | None = None,
        nuisance: Nuisance | None = None,
        n_members: int = 10,
        n_folds: int = 5,
        n_draws: int = 64,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.model = model
        self.effect_model = effect_model
        self.nuisance = nuisance
        self.n_members = n_members
        self.n_folds = n_folds
        self.n_draws = n_draws
        self.random_state = random_state
        self.verbose = verbose

    def _imputed(self, data: TrainingData, mu: Array, propensity: Array) -> Array:
        """D of every row against each arm beyond control, (n, n_arms - 1); rows of third arms are not used."""
        y, a = data.y[:, None], data.a[:, None]
        return np.where(a == 0, mu[:, 1:] - y, y - mu[:, :1])

    def _fit_member(self, data: TrainingData, target: _Stage, draw: RowDraw) -> list[Predictor]:
        X, models = data.E.astype(np.float64), []
        for k in range(1, data.schema.n_arms):
            for arm in (0, k):
                imputed = target.imputed[:, k - 1]
                models.append(draw.fit(self._second_model(), X, imputed, "continuous", "contrast", data.a == arm))
        return models

    def _effects(self, models: list[Predictor], X: Array, propensity: Array) -> Array:
        tau = np.column_stack([_event(model(X)) for model in models]).reshape(len(X), -1, 2)
        g = propensity[:, 1:] / (propensity[:, 1:] + propensity[:, :1])
        return g * tau[:, :, 0] + (1 - g) * tau[:, :, 1]

    def _widths(self, schema: Schema) -> list[int]:
        return [len(schema.feature_names)] * (2 * (schema.n_arms - 1))


class DRLearner(TwoStageLearner):
    r"""Doubly robust scores, regressed on the covariates (Kennedy 2023).

    .. math:: \varphi_a = \hat m_a(x) - \hat m_0(x) + \frac{1[A = a]}{\hat e_a(x)} (Y - \hat m_a(x))
              - \frac{1[A = 0]}{\hat e_0(x)} (Y - \hat m_0(x)), \qquad \hat\tau_a(x) = \hat E[\varphi_a \mid x],

    with cross-fitted nuisances. :math:`E[\varphi_a \mid x] = \tau_a(x)` if either nuisance is right: with the known
    propensities of a trial, whatever the outcome model.

    Parameters
    ----------
    outcome, control, nuisance, n_members, n_folds, n_draws, random_state, verbose
        As in `SLearner`; here the propensities are the nuisances', or those given to `fit`.
    model, effect_model
        First and second stage, as in `XLearner`.
    weighting : {"overlap", "none"}
        How scores count in the second stage. Their variance is about :math:`1/e_a + 1/e_0` times the outcome's;
        ``"overlap"`` weights by its inverse, :math:`e_a e_0 / (e_a + e_0)`, under which no propensity is too small.
        ``"none"`` is the paper's.
    min_propensity : float
        With ``weighting="none"``: propensities below are raised to it, with a warning that counts them.

    Attributes
    ----------
    members_ : list of list
        Second-stage models of every member, one per arm beyond control.
    first_, residuals_, schema_, arms_, nuisance_, history_, n_features_in_, feature_names_in_
        As in `XLearner`.

    Notes
    -----
    Weighting is a deviation from the paper: the target is the same function where the second stage can express it,
    else its best approximation where both arms are seen. Without it one row of small propensity rules the fit. A
    second stage that takes no ``sample_weight`` gets rows redrawn with these probabilities; with ``n_members=1`` it
    goes without.

    The members share the nuisances: their spread holds the second stage's sampling error alone.

    References
    ----------
    Kennedy (2023), Towards optimal doubly robust estimation of heterogeneous causal effects, Electronic Journal of
    Statistics 17, algorithm 1. Morzywolek, Decruyenaere & Vansteelandt (2023), arXiv 2303.12687, on the weights.

    Examples
    --------
    >>> from effects import DRLearner
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> est = DRLearner(n_members=4, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> est.predict(data.X).shape
    (200,)
    """

    _paper: ClassVar[str] = "Kennedy, EJS 2023, arXiv 2004.14497"

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        model: BaseEstimator | None = None,
        effect_model: BaseEstimator | None = None,
        weighting: str = "overlap",
        min_propensity: float = 0.01,
        nuisance: Nuisance | None = None,
        n_members: int = 10,
        n_folds: int = 5,
        n_draws: int = 64,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.model = model
        self.effect_model = effect_model
        self.weighting = weighting
        self.min_propensity = min_propensity
        self.nuisance = nuisance
        self.n_members = n_members
        self.n_folds = n_folds
        self.n_draws = n_draws
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self) -> None:
        super()._check_params()
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {self.weighting!r}.")
        if not isinstance(self.min_propensity, int | float) or not 0 < self.min_propensity < 0.5:
            raise ValueError(f"min_propensity must lie between 0 and 0.5, got {self.min_propensity!r}.")

    def _imputed(self, data: TrainingData, mu: Array, propensity: Array) -> tuple[Array, Array]:
        """Scores (n, n_arms - 1) and the weights they get."""
        least = _LEAST_PROPENSITY if self.weighting == "overlap" else self.min_propensity
        low = propensity[np.arange(len(mu)), data.a] < least
        if low.any() and self.weighting == "none":
            warnings.warn(
                f"{low.sum()} rows received an arm of propensity below min_propensity={least}: it was raised to that. "
                'weighting="overlap" needs no such bound.',
                UserWarning,
                stacklevel=2,
            )
        e = np.maximum(propensity, least)
        received = data.a[:, None] == np.arange(mu.shape[1])
        score = mu + received * (data.y[:, None] - mu) / e
        overlap = e[:, 1:] * e[:, :1] / (e[:, 1:] + e[:, :1])
        return score[:, 1:] - score[:, :1], overlap if self.weighting == "overlap" else np.ones_like(overlap)

    def _fit_member(self, data: TrainingData, target: _Stage, draw: RowDraw) -> list[Predictor]:
        X, (score, factor), model = data.E.astype(np.float64), target.imputed, self._second_model()
        return [
            draw.fit(model, X, score[:, k], "continuous", "score", factor=factor[:, k]) for k in range(score.shape[1])
        ]

    def _effects(self, models: list[Predictor], X: Array, propensity: Array) -> Array:
        return np.column_stack([_event(model(X)) for model in models])

    def _widths(self, schema: Schema) -> list[int]:
        return [len(schema.feature_names)] * (schema.n_arms - 1)


@dataclass(frozen=True)
class _Stage:
    """What the second stages rest on: out-of-fold means and propensities, the first stage's own models, the effects."""

    mu: Array
    propensity: Array
    first: list[list[Predictor]] | None
    imputed: Any


def _predict_first(first: list[list[Predictor]], X: Array, kind: str) -> Array:
    """First-stage means (n, n_arms), averaged over the folds' models."""
    folds = [np.column_stack([_event(model(X)) for model in models]) for models in first]
    return held(np.mean(folds, axis=0), kind)
