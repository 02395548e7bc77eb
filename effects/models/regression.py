"""S- and T-learner: any scikit-learn regressor or classifier under the contract of the package."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import has_fit_parameter

from effects.estimator import EffectEstimator
from effects.models.residuals import ResidualDistribution, pack_trees, unpack_trees
from effects.nuisance import Nuisance, Predictor, _boosting, _event, _fit_model, _with_arm
from effects.parallel import side_by_side
from effects.persistence import named, part
from effects.rows import TrainingData
from effects.schema import Schema
from effects.schema.checks import check_whole

Array = NDArray[np.float64]
Member = TypeVar("Member")


class MetaLearner(EffectEstimator):
    """What the four learners share: members, out-of-fold residuals, and saving.

    Members. Member j leaves out fold ``j mod n_folds`` and weights the other rows by standard exponential variables
    (the Bayesian bootstrap of Rubin 1981) times the sample weights; a model that takes no ``sample_weight`` is given
    rows redrawn with those probabilities. So every row has members that did not see it, which gives honest residuals
    at no further cost. With ``n_members=1`` there is one fit on all rows, unperturbed, and the folds serve the
    residuals alone.
    """

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        model: BaseEstimator | None = None,
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
        self.nuisance = nuisance
        self.n_members = n_members
        self.n_folds = n_folds
        self.n_draws = n_draws
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------ what a subclass writes

    @abstractmethod
    def _target(self, data: TrainingData) -> Any:
        """What all members share, such as imputed effects of the training rows."""

    @abstractmethod
    def _fit_member(self, data: TrainingData, target: Any, draw: RowDraw) -> list[Predictor]:
        """The models of one member."""

    @abstractmethod
    def _member_means(self, models: list[Predictor], inputs: Array, n_arms: int, kind: str) -> Array:
        """Means (n, n_arms) of one member."""

    def _training_inputs(self, data: TrainingData, target: Any) -> Array:
        """The training rows as `_inputs` gives new ones, but out of fold."""
        return data.E.astype(np.float64)

    @abstractmethod
    def _widths(self, schema: Schema) -> list[int]:
        """Columns that each model of a member is asked about, to check files."""

    # ------------------------------------------------------------------ fit

    def _check_params(self) -> None:
        super()._check_params()
        for name, least in (("n_members", 1), ("n_folds", 2), ("n_draws", 1)):
            check_whole(name, getattr(self, name), least)
        for name in ("model", "effect_model"):
            given = getattr(self, name, None)
            if given is not None and (isinstance(given, type) or not hasattr(given, "fit")):
                raise TypeError(
                    f"{name} must be a scikit-learn regressor or classifier, such as Ridge(), got {given!r}."
                )
        if classifies(getattr(self, "effect_model", None)):
            raise TypeError("effect_model regresses imputed effects, which are numbers: pass a regressor.")

    def _check_possible(self, schema: Schema) -> None:
        super()._check_possible(schema)
        kind = schema.outcome.kind
        if classifies(self.model) and kind != "binary":
            raise TypeError(f"model={self.model!r} is a classifier, but y is {kind}: pass a regressor.")

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        return self._fit_members(data, self._target(data))

    def _fit_members(self, data: TrainingData, target: Any) -> dict[str, Any]:
        kind, n = data.schema.outcome.kind, len(data.y)
        rng = np.random.default_rng(data.seed)
        fold, n_folds = self._folds(data, rng)
        inputs, own = self._training_inputs(data, target), (np.arange(n), data.a)
        members, history = [], []
        total, count, spread = np.zeros(n), np.zeros(n), np.zeros((2, n))
        draws = self._draws_of_rows(data, fold, n_folds, rng)
        found = side_by_side(self._fit_and_predict, ((draw,) for draw in draws), shared=(data, target, inputs))
        for draw, (models, mean) in self._progress(zip(draws, found, strict=True), len(draws)):
            mean = mean[own]
            out = fold == draw.fold
            if draw.kept:
                members.append(models)
                spread += mean, mean**2
            if not out.any():
                continue
            total[out] += mean[out]
            count[out] += 1
            loss = float(np.average((data.y - mean)[out] ** 2, weights=data.weight[out]))
            history.append({"member": len(members), "fold": int(draw.fold), "held_out_squared_error": loss})
        fitted: dict[str, Any] = {"members_": members, "residuals_": None, "history_": history}
        if kind != "binary":
            variance = np.maximum(spread[1] / len(members) - (spread[0] / len(members)) ** 2, 0.0)
            fitted["residuals_"] = ResidualDistribution.learn(
                data.y - total / count,
                data.E,
                data.a,
                data.weight,
                data.schema.n_arms,
                y=data.y,
                kind=kind,
                member_variance=variance,
                seed=data.seed,
            )
        return fitted

    def _fit_and_predict(
        self, data: TrainingData, target: Any, inputs: Array, draw: RowDraw
    ) -> tuple[list[Predictor], Array]:
        """One member, and its means of all rows and arms."""
        models = self._fit_member(data, target, draw)
        return models, self._member_means(models, inputs, data.schema.n_arms, data.schema.outcome.kind)

    def _folds(self, data: TrainingData, rng: np.random.Generator) -> tuple[NDArray[np.int64], int]:
        """Fold of every row, balanced over the arms; an arm of two rows is in two folds, so never left out whole."""
        n_folds = self.n_folds if self.n_members == 1 else min(self.n_folds, self.n_members)
        order = rng.permutation(len(data.a))
        order = order[np.argsort(data.a[order], kind="stable")]
        fold = np.empty(len(order), dtype=np.int64)
        fold[order] = np.arange(len(order)) % n_folds
        return fold, n_folds

    def _draws_of_rows(
        self, data: TrainingData, fold: NDArray[np.int64], n_folds: int, rng: np.random.Generator
    ) -> list[RowDraw]:
        seeds = [int(seed) for seed in rng.integers(2**31 - 1, size=self.n_members + n_folds)]
        if self.n_members == 1:
            parts = [RowDraw(data.weight * (fold != k), None, k, False, seeds[k]) for k in range(n_folds)]
            return [RowDraw(data.weight, None, -1, True, seeds[-1]), *parts]
        return [
            RowDraw(
                data.weight * (fold != j % n_folds), rng.standard_exponential(len(fold)), j % n_folds, True, seeds[j]
            )
            for j in range(self.n_members)
        ]

    def _progress(self, members: Iterable[Member], n: int) -> Iterable[Member]:
        """The `n` members, with a progress bar on standard error where it is asked for."""
        if not self.verbose:
            return members
        return _shown(members, n, type(self).__name__)

    # ------------------------------------------------------------------ predict

    def _means(self, inputs: NDArray[Any]) -> Array:
        X, kind, n_arms = inputs.astype(np.float64), self.schema_.outcome.kind, self.schema_.n_arms
        means = np.stack([self._member_means(models, X, n_arms, kind) for models in self.members_])
        return means if self.residuals_ is None else self.residuals_.means(means)

    def _sample(
        self, inputs: NDArray[np.float32], n_draws: int | None, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], Array | None]:
        means = self._means(inputs)
        if self.residuals_ is None:
            return means[:, None].astype(np.float32), means
        E = inputs[:, : len(self.schema_.feature_names)].astype(np.float32)
        return self.residuals_.draws(means, E, n_draws or self.n_draws), means

    # ------------------------------------------------------------------ save / load

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        if self.model is not None:
            raise unsaveable(type(self).__name__, self.model)
        arrays, state = pack_trees([model for models in self.members_ for model in models])
        arrays = named("members", arrays)
        state["n_members"] = len(self.members_)
        if self.residuals_ is not None:
            more, state["residuals"] = self.residuals_.to_arrays()
            arrays |= named("residuals", more)
        return arrays, state

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        widths, n_members = self._widths(schema), int(state["n_members"])
        flat = unpack_trees(part(arrays, "members"), state, widths * n_members)
        step = len(widths)
        fitted: dict[str, Any] = {"members_": [flat[j * step : (j + 1) * step] for j in range(n_members)]}
        fitted["residuals_"] = None
        if "residuals" in state:
            fitted["residuals_"] = ResidualDistribution.from_arrays(part(arrays, "residuals"), state["residuals"])
        return fitted


class SLearner(MetaLearner):
    r"""One regression of the outcome on the covariates and the arm: :math:`\hat\tau(x) = \hat m(x, a) - \hat m(x, 0)`.

    The arm enters as indicators beside the covariates, so a linear model without interactions finds the same effect
    for everyone, and a regularised one shrinks effects toward zero.

    Parameters
    ----------
    outcome : {"auto", "continuous", "binary", "count"}
    control : label, optional
    model : scikit-learn regressor or classifier, optional
        Any with `fit` and `predict`; for a binary outcome one with `predict_proba` (a regressor's predictions are held
        to [0, 1]). By default the package's histogram gradient boosting (squared error; log loss for a binary outcome,
        Poisson deviance for a count). It sees encoded numbers without missing values: to scale them, pass a Pipeline.
    nuisance : Nuisance, optional
        Your own cross-fitting set-up. This learner takes nothing from it, but average effects do.
    n_members : int
        Fits on bootstrapped rows. 1 is a single fit on all rows, as the model alone would be fitted.
    n_folds : int
        Folds whose left-out rows give the residuals.
    n_draws : int
        Outcome draws per member (equally likely quantiles).
    random_state : int, RandomState or None
    verbose : int
        1 shows a progress bar on standard error.

    Attributes
    ----------
    members_ : list of list
        The models of every member.
    residuals_ : ResidualDistribution or None
        The law around the means (None for a binary outcome).
    schema_, arms_, nuisance_, history_, n_features_in_, feature_names_in_
        As in `EffectEstimator`.

    Notes
    -----
    The outcome's law is :math:`Y(a) = m_a(x) + s_a(x) R_a` with the out-of-fold residuals' law, see
    `effects.models.residuals.ResidualDistribution`.

    The spread of the members is the sampling error of the regression as far as the bootstrap sees it. It holds
    nothing of the model's bias (a boosting's shrinkage, a line through a curve), so an interval for the CATE made of
    it covers less than it says where bias matters, mostly for S-learners, and at few rows.

    References
    ----------
    Künzel, Sekhon, Bickel & Yu (2019), Metalearners for estimating heterogeneous treatment effects, PNAS 116, eq. 5.
    Rubin (1981), The Bayesian bootstrap.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> from effects import SLearner
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> est = SLearner(model=LinearRegression(), random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> bool(est.predict(data.X).std() < 1e-6)  # no interactions: the same effect for all
    True
    """

    _paper: ClassVar[str] = "Künzel et al., PNAS 2019, arXiv 1706.03461"

    def _target(self, data: TrainingData) -> str:
        return "single"

    def _fit_member(self, data: TrainingData, target: str, draw: RowDraw) -> list[Predictor]:
        design = _with_arm(data.E.astype(np.float64), data.a, data.schema.n_arms)
        return [draw.fit(self.model, design, data.y, data.schema.outcome.kind, target)]

    def _member_means(self, models: list[Predictor], inputs: Array, n_arms: int, kind: str) -> Array:
        [model] = models
        arms = [_event(model(_with_arm(inputs, np.full(len(inputs), k), n_arms))) for k in range(n_arms)]
        return held(np.column_stack(arms), kind)

    def _widths(self, schema: Schema) -> list[int]:
        return [len(schema.feature_names) + schema.n_arms - 1]


class TLearner(MetaLearner):
    r"""One regression of the outcome per arm: :math:`\hat\tau_a(x) = \hat m_a(x) - \hat m_0(x)`.

    With ``model=LinearRegression()`` and ``n_members=1`` these are ordinary least squares with all treatment by
    covariate interactions.

    Parameters
    ----------
    outcome, control, model, nuisance, n_members, n_folds, n_draws, random_state, verbose
        As in `SLearner`.

    Attributes
    ----------
    members_, residuals_, schema_, arms_, nuisance_, history_, n_features_in_, feature_names_in_
        As in `SLearner`.

    Notes
    -----
    What members and draws mean, and what they do not, is said in `SLearner`. Each arm is regularised on its own, so
    where one arm is small its smoothness shows up as an effect.

    References
    ----------
    Künzel, Sekhon, Bickel & Yu (2019), Metalearners for estimating heterogeneous treatment effects, PNAS 116, eq. 3-4.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from effects import TLearner
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> est = TLearner(model=Ridge(), random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> est.predict_outcomes(data.X.head(3)).draws.shape
    (10, 64, 3, 2)
    """

    _paper: ClassVar[str] = "Künzel et al., PNAS 2019, arXiv 1706.03461"

    def _target(self, data: TrainingData) -> str:
        return "arm"

    def _fit_member(self, data: TrainingData, target: str, draw: RowDraw) -> list[Predictor]:
        return fit_per_arm(self.model, data, draw)

    def _member_means(self, models: list[Predictor], inputs: Array, n_arms: int, kind: str) -> Array:
        return held(np.column_stack([_event(model(inputs)) for model in models]), kind)

    def _widths(self, schema: Schema) -> list[int]:
        return [len(schema.feature_names)] * schema.n_arms


@dataclass(frozen=True)
class RowDraw:
    """One member's rows: `weight` is 0 for those left out, `noise` the bootstrap's (None: every row as it is)."""

    weight: Array
    noise: Array | None
    fold: int
    kept: bool
    seed: int

    def fit(
        self,
        model: BaseEstimator | None,
        X: Array,
        y: Array,
        kind: str,
        role: str,
        rows: NDArray[np.bool_] | None = None,
        factor: Array | None = None,
    ) -> Predictor:
        """Fit a clone of `model` (boosting if None) on the member's rows, or those among them that `rows` picks.

        `factor` multiplies the weights. Rows are redrawn where the model takes no weights.
        """
        settings = _boosting("contrast" if role == "score" else role, int(np.count_nonzero(self.weight)))
        used = np.flatnonzero((self.weight > 0) & (True if rows is None else rows))
        # few rows: leaves of 20 smooth effects away, imputed ones first (measured on IHDP's 139 treated)
        share = {"arm": 1, "single": 5, "score": 5, "contrast": 25}[role]
        settings["min_samples_leaf"] = min(settings["min_samples_leaf"], max(3, len(used) // share))
        weight = self.weight[used]
        if model is None or has_fit_parameter(model, "sample_weight"):
            weight = weight * (1.0 if factor is None else factor[used])
            weight = weight * (1.0 if self.noise is None else self.noise[used])
            return _fit_model(model, X[used], y[used], weight / weight.mean(), kind, self.seed, settings)
        if self.noise is None:
            return _fit_model(model, X[used], y[used], weight, kind, self.seed, settings)
        weight = weight * (1.0 if factor is None else factor[used])
        used = np.random.default_rng([self.seed, 1]).choice(used, len(used), p=weight / weight.sum())
        return _fit_model(model, X[used], y[used], None, kind, self.seed, settings)


def fit_per_arm(model: BaseEstimator | None, data: TrainingData, draw: RowDraw) -> list[Predictor]:
    X, kind = data.E.astype(np.float64), data.schema.outcome.kind
    return [draw.fit(model, X, data.y, kind, "arm", data.a == k) for k in range(data.schema.n_arms)]


def classifies(model: Any) -> bool:
    """Whether a model predicts classes."""
    return hasattr(model, "predict_proba") or hasattr(model, "decision_function")


def held(mean: Array, kind: str) -> Array:
    """Means within the outcome's range: probabilities in [0, 1], counts from 0."""
    if kind == "continuous":
        return mean
    return np.clip(mean, 0.0, 1.0 if kind == "binary" else None)


def unsaveable(name: str, model: Any) -> TypeError:
    return TypeError(
        f"{name} holds models of your own choice ({type(model).__name__}), which cannot be saved without pickle: save "
        f"{name} with its default model, or DiffPO, or pickle the estimator and trust whoever unpickles it."
    )


def _shown(members: Iterable[Member], n: int, label: str) -> Iterator[Member]:
    """The members behind a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import track

    yield from track(members, description=label, total=n, console=Console(stderr=True), transient=True)
