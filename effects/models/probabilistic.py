"""Any probabilistic regressor or classifier, one per arm, by a protocol of three methods."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Hashable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.base import clone
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.utils.validation import has_fit_parameter

from effects.estimator import EffectEstimator
from effects.models.regression import classifies, unsaveable
from effects.models.residuals import whole_draws
from effects.nuisance import Nuisance
from effects.parallel import side_by_side
from effects.rows import TrainingData
from effects.schema import Schema
from effects.schema.checks import check_sizes

Array = NDArray[np.float64]


@runtime_checkable
class ProbabilisticRegressor(Protocol):
    """What a regressor of your own needs to plug into `ProbabilisticLearner`: these three methods.

    Examples
    --------
    >>> import numpy as np
    >>> from effects.models.probabilistic import ProbabilisticRegressor
    >>> class Empirical:
    ...     def fit(self, X, y):
    ...         self.y = np.sort(y)
    ...         return self
    ...     def predict(self, X):
    ...         return np.full(len(X), self.y.mean())
    ...     def quantile(self, X, levels):
    ...         return np.repeat(np.quantile(self.y, levels)[:, None], len(X), axis=1)
    >>> isinstance(Empirical(), ProbabilisticRegressor)
    True
    """

    def fit(self, X: Array, y: Array) -> Any:
        """Learn from rows (n, n_features) and outcomes (n,). May take `sample_weight` too."""

    def predict(self, X: Array) -> ArrayLike:
        """Conditional means, (n,)."""

    def quantile(self, X: Array, levels: Array) -> ArrayLike:
        """Conditional quantiles, (n_levels, n), rising with the levels."""


class ProbabilisticLearner(EffectEstimator):
    r"""A probabilistic regression of the outcome per arm (a T-learner of distributions).

    The laws are the model's own. Recognised without further ado, in this order:

    - `ProbabilisticRegressor`: your own ``fit``, ``predict``, ``quantile(X, levels)``;
    - ``pred_dist(X)`` as in NGBoost: an object with ``ppf``;
    - your own ``sample(X, n_draws, random_state)`` -> (n_draws, n) in place of ``quantile``: 200 draws, sorted;
    - ``predict_quantiles(X, alpha=[...])`` as in skpro;
    - ``predict(X, output_type="quantiles", quantiles=[...])`` as in TabPFN;
    - ``predict(X, return_std=True)`` as in scikit-learn's Gaussian processes and `BayesianRidge`: a normal law.

    For a binary outcome any classifier with ``predict_proba``.

    Parameters
    ----------
    outcome : {"auto", "continuous", "binary", "count"}
        A count's quantiles are rounded to whole numbers that keep its mean.
    control : label, optional
    model : object, optional
        By default `BayesianRidge`, or `LogisticRegression` for a binary outcome: quick, linear, and saved as plain
        arrays. It is copied, never fitted itself. It sees encoded covariates with mean zero and standard deviation one,
        and, but for classes, an outcome with mean zero and standard deviation one.
    nuisance : Nuisance, optional
        Your own cross-fitting set-up; used by average effects, not by this model.
    n_members : int
        Bootstrap fits: Bayesian-bootstrap weights where the model's ``fit`` takes ``sample_weight``, else rows redrawn
        (with probabilities as the sample weights). 1 is a single fit on all rows, with no uncertainty of the CATE.
    n_draws : int
        Quantiles per member.
    random_state : int, RandomState or None
    verbose : int
        1 shows a progress bar on standard error.

    Attributes
    ----------
    members_ : list of list
        Fitted models of every member, one per arm.
    schema_, arms_, nuisance_, history_, n_features_in_, feature_names_in_
        As in `EffectEstimator`.

    Notes
    -----
    Members are the sampling error of the fit. A Bayesian model's predictive law holds its parameters' uncertainty
    already, so that uncertainty is there twice in the outcomes' law; next to the outcome's own spread it is small
    unless rows are few. Laws that only the model knows are not made to keep inside the range of a non-negative outcome.

    Examples
    --------
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> from sklearn.gaussian_process.kernels import RBF, WhiteKernel
    >>> from effects import ProbabilisticLearner
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=100, random_state=0)
    >>> process = GaussianProcessRegressor(RBF(2.0) + WhiteKernel())
    >>> est = ProbabilisticLearner(model=process, n_members=1, random_state=0)
    >>> est.fit(data.X, data.y, treatment=data.treatment).predict_outcomes(data.X.head(3)).std().shape
    (3, 2)
    """

    _paper: ClassVar[str] = "Künzel et al., PNAS 2019 (T-learner of distributions)"

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        model: Any = None,
        nuisance: Nuisance | None = None,
        n_members: int = 10,
        n_draws: int = 64,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.model = model
        self.nuisance = nuisance
        self.n_members = n_members
        self.n_draws = n_draws
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------ fit

    def _check_params(self) -> None:
        super()._check_params()
        check_sizes(self, ("n_members", "n_draws"))

    def _check_possible(self, schema: Schema) -> None:
        super()._check_possible(schema)
        if self.model is None:
            return
        if schema.outcome.kind == "binary":
            if not hasattr(self.model, "predict_proba"):
                raise TypeError(
                    f"model={self.model!r} has no predict_proba, which a binary y needs: pass a classifier."
                )
        elif classifies(self.model):
            raise TypeError(f"model={self.model!r} is a classifier, but y is {schema.outcome.kind}: pass a regressor.")
        else:
            find_law(self.model)

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        E, kind = data.E.astype(np.float64), data.schema.outcome.kind
        center = np.average(E, axis=0, weights=data.weight)
        spread = np.sqrt(np.average((E - center) ** 2, axis=0, weights=data.weight))
        spread = np.where(spread > 1e-6 * (1 + np.abs(center)), spread, 1.0)
        level, unit = 0.0, 1.0
        if kind != "binary":
            level = float(np.average(data.y, weights=data.weight))
            unit = float(np.sqrt(np.average((data.y - level) ** 2, weights=data.weight))) or 1.0
        Z, z = (E - center) / spread, (data.y - level) / unit
        rng = np.random.default_rng(data.seed)
        draws = (
            (rng.standard_exponential(len(z)) if self.n_members > 1 else None, int(rng.integers(2**31 - 1)))
            for _ in range(self.n_members)
        )
        rows = (Z, z, data.a, data.weight, data.schema.n_arms, kind)
        found = side_by_side(self._fit_member, draws, shared=rows)
        members = [arms for _, arms in zip(self._progress(self.n_members), found, strict=True)]
        constants = {"level_": level, "unit_": unit, "center_": center, "spread_": spread}
        history = [{"member": j, "models": [type(model).__name__ for model in m]} for j, m in enumerate(members, 1)]
        return constants | {"members_": members, "history_": history}

    def _fit_member(
        self,
        Z: Array,
        z: Array,
        a: NDArray[np.int64],
        weight: Array,
        n_arms: int,
        kind: str,
        noise: Array | None,
        seed: int,
    ) -> list[Any]:
        """One member: a model an arm."""
        rows = [np.flatnonzero(a == k) for k in range(n_arms)]
        mine = [None if noise is None else noise[own] for own in rows]
        return [self._fit_arm(Z[own], z[own], weight[own], mine[k], kind, [seed, k]) for k, own in enumerate(rows)]

    def _fit_arm(self, Z: Array, z: Array, weight: Array, noise: Array | None, kind: str, seed: list[int]) -> Any:
        """One arm's model on its rows; a constant where there is nothing to learn from."""
        rng = np.random.default_rng(seed)
        model = self.model
        if model is None:
            model = LogisticRegression() if kind == "binary" else BayesianRidge()
        if not has_fit_parameter(model, "sample_weight") and noise is not None:
            rows = rng.choice(len(z), len(z), p=weight / weight.sum())
            Z, z, weight, noise = Z[rows], z[rows], np.ones(len(z)), None
        elif noise is not None:
            weight = weight * noise
        if len(z) < 4 or np.ptp(z) == 0:
            mean = float(np.average(z, weights=weight))
            sd = float(np.sqrt(np.average((z - mean) ** 2, weights=weight)))
            return LinearLaw(np.zeros(Z.shape[1]), mean, np.zeros((Z.shape[1],) * 2), np.zeros(Z.shape[1]), sd)
        model = clone(model) if hasattr(model, "get_params") else deepcopy(model)
        if hasattr(model, "get_params") and "random_state" in model.get_params():
            model.set_params(random_state=int(rng.integers(2**31 - 1)))
        if has_fit_parameter(model, "sample_weight"):
            model.fit(Z, z, sample_weight=weight / weight.mean())
        else:
            if np.ptp(weight) > 0:
                warnings.warn(
                    f"{type(model).__name__} takes no sample_weight, and a single fit ignores them: use n_members > 1, "
                    "whose rows are redrawn with these weights, or another model.",
                    UserWarning,
                    stacklevel=2,
                )
            model.fit(Z, z)
        return LinearLaw.of(model) if self.model is None else model

    def _progress(self, n: int) -> Any:
        if not self.verbose:
            return range(n)
        from rich.console import Console
        from rich.progress import track

        return track(range(n), description=type(self).__name__, console=Console(stderr=True), transient=True)

    # ------------------------------------------------------------------ predict

    def _inputs(self, E: NDArray[np.float32]) -> NDArray[Any]:
        return (E.astype(np.float64) - self.center_) / self.spread_

    def _means(self, inputs: NDArray[Any]) -> Array:
        kind = self.schema_.outcome.kind
        means = np.stack([np.column_stack([_mean(m, inputs, kind) for m in arms]) for arms in self.members_])
        if kind == "binary":
            return np.clip(means, 0.0, 1.0)
        means = means * self.unit_ + self.level_
        return np.maximum(means, 0.0) if kind == "count" else means

    def _sample(
        self, inputs: NDArray[Any], n_draws: int | None, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], Array | None]:
        means = self._means(inputs)
        if self.schema_.outcome.kind == "binary":
            return means[:, None].astype(np.float32), means
        n = n_draws or self.n_draws
        levels = (np.arange(n) + 0.5) / n
        draws: NDArray[Any] = np.empty((len(means), n, *means.shape[1:]), dtype=np.float32)
        for j, arms in enumerate(self.members_):
            for k, model in enumerate(arms):
                law = np.asarray(find_law(model)(inputs, levels), dtype=np.float64)
                if law.shape != (n, len(inputs)):
                    raise ValueError(
                        f"the quantiles of {type(model).__name__} have shape {law.shape}, expected {(n, len(inputs))}."
                    )
                draws[j, :, :, k] = np.sort(law, axis=0) * self.unit_ + self.level_
        if self.schema_.outcome.kind == "count":
            return whole_draws(draws + np.float32(0.5), means), means
        return draws, means

    # ------------------------------------------------------------------ save / load

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        if self.model is not None:
            raise unsaveable(type(self).__name__, self.model)
        flat = [model for arms in self.members_ for model in arms]
        arrays: dict[str, NDArray[Any]] = {
            name: np.stack([np.asarray(getattr(model, name), dtype=np.float64) for model in flat])
            for name in LinearLaw.__dataclass_fields__
        }
        arrays |= {"scale.center": self.center_, "scale.spread": self.spread_}
        return arrays, {"n_members": len(self.members_), "level": self.level_, "unit": self.unit_}

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        n_members, n_arms, width = int(state["n_members"]), schema.n_arms, len(schema.feature_names)
        if arrays["coef"].shape != (n_members * n_arms, width):
            raise ValueError("the coefficients do not fit the columns.")
        names = list(LinearLaw.__dataclass_fields__)
        flat = [LinearLaw(*(arrays[name][i] for name in names)) for i in range(n_members * n_arms)]
        members = [flat[j * n_arms : (j + 1) * n_arms] for j in range(n_members)]
        constants = {"level_": float(state["level"]), "unit_": float(state["unit"])}
        return constants | {"members_": members, "center_": arrays["scale.center"], "spread_": arrays["scale.spread"]}


@dataclass(frozen=True, eq=False)
class LinearLaw:
    """What a fitted `BayesianRidge` or `LogisticRegression` knows, as plain arrays.

    Attributes
    ----------
    coef : ndarray of shape (n_features,)
    intercept : float
    covariance : ndarray of shape (n_features, n_features)
        Of the coefficients (zero for a classifier).
    offset : ndarray of shape (n_features,)
        Where the covariance's part of the variance is zero.
    sd : float
        Of the noise; NaN for a classifier.
    """

    coef: Array
    intercept: float
    covariance: Array
    offset: Array
    sd: float

    @classmethod
    def of(cls, model: BayesianRidge | LogisticRegression) -> Self:
        """The same predictions without the object."""
        if isinstance(model, LogisticRegression):
            coef = model.coef_[0]
            return cls(coef, float(model.intercept_[0]), np.zeros((len(coef),) * 2), np.zeros(len(coef)), np.nan)
        sd = float(model.alpha_) ** -0.5
        return cls(model.coef_, float(model.intercept_), model.sigma_, np.asarray(model.X_offset_), sd)

    def fit(self, X: Array, y: Array) -> Self:
        return self

    def predict(self, X: Array) -> Array:
        """Means; logits of a classifier."""
        return X @ self.coef + self.intercept

    def predict_proba(self, X: Array) -> Array:
        event = self.predict(X)
        event = event if not np.isnan(self.sd) else 1.0 / (1.0 + np.exp(-event))
        return np.column_stack([1.0 - event, event])

    def quantile(self, X: Array, levels: Array) -> Array:
        C = X - self.offset
        sd = np.sqrt(np.maximum(np.sum((C @ self.covariance) * C, axis=1), 0.0) + self.sd**2)
        return self.predict(X) + stats.norm.ppf(levels)[:, None] * sd


def find_law(model: Any) -> Callable[[Array, Array], ArrayLike]:
    """The quantile function ``law(X, levels)`` -> (n_levels, n) of a model, by whichever way it offers.

    Raises
    ------
    TypeError
        If it offers none.
    """
    if isinstance(model, ProbabilisticRegressor):
        return model.quantile
    if hasattr(model, "pred_dist"):

        def distribution(X: Array, levels: Array) -> Array:
            law = model.pred_dist(X)
            return np.stack([law.ppf(level) for level in levels])

        return distribution
    if hasattr(model, "sample") and hasattr(model, "predict"):
        return lambda X, levels: np.quantile(model.sample(X, 200, 0), levels, axis=0, method="hazen")
    if hasattr(model, "predict_quantiles"):
        return lambda X, levels: np.asarray(model.predict_quantiles(X, alpha=list(levels))).T
    given = inspect.signature(model.predict).parameters if hasattr(model, "predict") else {}
    if "quantiles" in given or ("output_type" in given):
        return lambda X, levels: np.stack(model.predict(X, output_type="quantiles", quantiles=list(levels)))
    if "return_std" in given:

        def normal(X: Array, levels: Array) -> Array:
            mean, sd = model.predict(X, return_std=True)
            return mean + stats.norm.ppf(levels)[:, None] * sd

        return normal
    raise TypeError(
        f"{type(model).__name__} gives no distribution: it needs fit, predict and quantile(X, levels), see "
        "effects.models.probabilistic.ProbabilisticRegressor. For a regressor of means there is TLearner."
    )


def _mean(model: Any, X: Array, kind: str) -> Array:
    values = model.predict_proba(X)[:, -1] if kind == "binary" else model.predict(X)
    return np.asarray(values, dtype=np.float64).reshape(len(X))
