"""BART and BCF: sums of trees with a posterior, sampled by stochtree and kept as plain arrays."""

from __future__ import annotations

import sys
import time
import warnings
from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtr, ndtri

from effects.estimator import EffectEstimator
from effects.inference.checks import effective_size
from effects.models.residuals import pack_trees, unpack_trees
from effects.nn.scale import OutcomeScale, normal_nodes
from effects.nuisance import BoostedTrees, Nuisance, _node_dtype, _with_arm
from effects.rows import TrainingData
from effects.schema import Schema
from effects.schema.checks import check_whole

Array = NDArray[np.float64]
LEARNERS = ("t", "s")
_NOISE_DF = 3.0  # of the noise's prior, as in the paper, whose quantile 0.9 is at the regression's error
_NOISE_SHARE = float(stats.chi2.ppf(1 - 0.9, _NOISE_DF) / _NOISE_DF)
_FEW = 10  # rows that stochtree does not split


class _TreePosterior(EffectEstimator):
    """What BART and BCF share: one sampler, normal (or probit) outcomes, draws of the posterior as members."""

    # constructor parameters of every subclass
    n_gfr: int
    n_mcmc: int
    n_members: int
    n_draws: int
    verbose: int

    _sizes: ClassVar[tuple[str, ...]] = ("n_gfr", "n_mcmc", "n_members", "n_draws")

    # ------------------------------------------------------------------ what a subclass writes

    @abstractmethod
    def _fit_forests(self, data: TrainingData, z: Array, sampler: _Sampler) -> tuple[list[BoostedTrees], Array]:
        """Forests on the modelling scale, and the noise's sd (n_members, n_arms)."""

    @abstractmethod
    def _locations(self, inputs: NDArray[np.float32]) -> Array:
        """Every member's regression on the modelling scale, (n_members, n, n_arms)."""

    @abstractmethod
    def _widths(self, n_columns: int, n_arms: int) -> list[int]:
        """How many columns each forest is asked about, given those of the encoded table."""

    # ------------------------------------------------------------------ fit

    def _check_params(self) -> None:
        super()._check_params()
        for name in self._sizes:
            check_whole(name, getattr(self, name), 0 if name == "n_gfr" else 1)
        if self.n_members > self.n_mcmc:
            raise ValueError(
                f"n_members={self.n_members} draws cannot be taken from n_mcmc={self.n_mcmc} iterations: raise n_mcmc."
            )
        try:
            import stochtree  # noqa: F401
        except ImportError:
            raise ImportError(
                f'{type(self).__name__} needs stochtree: pip install "potential-outcomes[bart]".'
            ) from None

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        kind = data.schema.outcome.kind
        # the law is normal: no atom at the smallest value of a continuous outcome
        scale = OutcomeScale.learn(data.y, kind, log=False)
        scale = scale if kind == "count" else replace(scale, lowest=None, gap=0.0)
        rng = np.random.default_rng(data.seed)
        z = data.y if kind == "binary" else scale.encode(data.y + rng.random(len(data.y)) * scale.whole)
        mu = data.nuisance.out_of_fold_.per_arm[np.arange(len(z)), data.a]
        error = data.y - mu if kind == "binary" else z - scale.encode(np.maximum(mu, 0) + 0.5 if scale.whole else mu)
        sampler = _Sampler(self, kind == "binary", error, rng)
        forests, noise = self._fit_forests(data, z, sampler)
        return {"scale_": scale, "forests_": forests, "noise_": noise, "history_": sampler.history}

    # ------------------------------------------------------------------ predict

    def _sample(
        self, inputs: NDArray[np.float32], n_draws: int | None, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], Array | None]:
        location = self._locations(inputs)
        if self.schema_.outcome.kind == "binary":
            probability = ndtr(location)
            return probability[:, None].astype(np.float32), probability
        nodes = normal_nodes(n_draws or self.n_draws)  # the same in every arm
        z = location[:, None] + self.noise_[:, None, None] * nodes[:, None, None]
        draws = self.scale_.decode(z).astype(np.float32)
        return draws, None if self.scale_.log else location * self.scale_.spread + self.scale_.center

    def _means(self, inputs: NDArray[np.float32]) -> Array:
        if self.scale_.log:
            return super()._means(inputs)
        location = self._locations(inputs)
        if self.schema_.outcome.kind == "binary":
            return ndtr(location)
        return location * self.scale_.spread + self.scale_.center

    # ------------------------------------------------------------------ save / load

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays, forests = pack_trees(self.forests_)
        return arrays | {"noise": self.noise_}, {"scale": self.scale_.to_dict(), "forests": forests}

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        n_arms = schema.n_arms
        forests = unpack_trees(arrays, state["forests"], self._widths(len(schema.feature_names), n_arms))
        noise = arrays["noise"]
        if any(forest.baseline.shape != (len(noise),) for forest in forests) or noise.shape[1:] != (n_arms,):
            raise ValueError("the forests and the noise do not have the same draws.")
        values = np.concatenate([noise.ravel(), *(forest.baseline for forest in forests)])
        if not np.isfinite(values).all() or (noise < 0).any():
            raise ValueError("the noise is no standard deviation, or a forest's level is not a number.")
        return {"scale_": OutcomeScale(**state["scale"]), "forests_": forests, "noise_": noise}


class BART(_TreePosterior):
    r"""Bayesian additive regression trees, one per arm (Chipman, George & McCulloch 2010; Hill 2011).

    .. math:: Y(a) = f_a(x) + \sigma_a \varepsilon, \qquad \varepsilon \sim N(0, 1), \qquad
              f_a(x) = \sum_{j=1}^{T} g(x; \mathcal T_{aj}, \mathcal M_{aj})

    with the priors of the paper on trees, leaves and noise. Draws of the posterior of :math:`(f, \sigma)` are the
    members, so the CATE's intervals are the posterior's. Sampled by stochtree: grow-from-root trees (He & Hahn 2023)
    start one MCMC chain.

    Parameters
    ----------
    outcome : {"auto", "continuous", "binary", "count"}
        Kind of outcome. A binary one is modelled by probit BART, :math:`P(Y(a) = 1 \mid x) = \Phi(f_a(x))`. Counts
        are spread over [y, y + 1), modelled as logarithms and rounded down.
    control : label, optional
        The control arm.
    nuisance : Nuisance, optional
        Your own cross-fitting set-up, for average effects. BART itself takes from it only the scale of the noise's
        prior.
    learner : {"t", "s"}
        ``"t"`` fits the arms apart; ``"s"`` fits one function of the covariates and the arms' indicators (Hill 2011),
        which shrinks the effect towards none.
    n_trees : int
        Trees of each sum.
    n_gfr : int
        Grow-from-root iterations that start the chain.
    n_mcmc : int
        Iterations of the chain.
    n_members : int
        Draws that are kept, evenly spaced in the chain.
    n_draws : int
        Outcome draws per member (equally likely normal quantiles).
    random_state : int, RandomState or None
    verbose : int
        1 says on standard error what was sampled and how long it took.

    Attributes
    ----------
    schema_, arms_, nuisance_, n_features_in_, feature_names_in_
        As in `EffectEstimator`.
    forests_ : list of BoostedTrees
        One per arm (one in all for ``learner="s"``) on the modelling scale, whose outputs are the members.
    noise_ : ndarray of shape (n_members, n_arms)
        :math:`\sigma_a` on the modelling scale (1 for a binary outcome, where it means nothing).
    history_ : list of dict
        The noise's sd of every kept draw: a trace that should not drift.

    Raises
    ------
    ImportError
        If stochtree is not installed.

    Notes
    -----
    The outcome's law is normal around the trees, with one spread per arm: skewed outcomes, point masses and spreads
    that vary with x are not described (DiffPO does). For an average effect use `effects.estimate_ate`; nothing here
    removes confounding by what was not measured.

    Deviations from the paper: the noise's prior, :math:`\nu = 3,\ q = 0.9`, is scaled by cross-fitted boosting errors
    instead of a linear regression's, which do not exist with more columns than rows. Arms of at most ten rows, or
    whose outcomes are all alike, have nothing to split: their level has its conjugate posterior (for the probability
    of an event Jeffreys' Beta). Sample weights divide the noise's variance; for a binary outcome, whose probit has no
    weighted likelihood, rows are drawn by weight (systematically, as many as there are) before the fit.

    The sampled trees are kept as arrays and run by scikit-learn's compiled predictor: a fitted model can be pickled,
    saved without pickle, checked when read, and used where stochtree is not installed.

    References
    ----------
    Chipman, George & McCulloch (2010), BART: Bayesian additive regression trees, Annals of Applied Statistics 4, eq.
    2-8 and section 2.2.3. Hill (2011), Bayesian nonparametric modeling for causal inference, JCGS 20. He & Hahn
    (2023), Stochastic tree ensembles for regularized nonlinear regression, JASA 118. Hahn & Herren, stochtree.

    Examples
    --------
    >>> from effects import BART
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> est = BART(n_trees=20, n_mcmc=40, n_members=10, random_state=0)  # doctest: +SKIP
    >>> est.fit(data.X, data.y, treatment=data.treatment).predict_effect(data.X).interval(0.9)  # doctest: +SKIP
    """

    _paper = "Chipman, George & McCulloch, Annals of Applied Statistics 2010; Hill, JCGS 2011"
    _sizes = ("n_trees", *_TreePosterior._sizes)

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        nuisance: Nuisance | None = None,
        learner: str = "t",
        n_trees: int = 200,
        n_gfr: int = 10,
        n_mcmc: int = 1000,
        n_members: int = 64,
        n_draws: int = 32,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.nuisance = nuisance
        self.learner = learner
        self.n_trees = n_trees
        self.n_gfr = n_gfr
        self.n_mcmc = n_mcmc
        self.n_members = n_members
        self.n_draws = n_draws
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self) -> None:
        if self.learner not in LEARNERS:
            raise ValueError(f"learner must be one of {LEARNERS}, got {self.learner!r}.")
        super()._check_params()

    def _fit_forests(self, data: TrainingData, z: Array, sampler: _Sampler) -> tuple[list[BoostedTrees], Array]:
        X, rows, n_arms = data.E.astype(np.float64), np.arange(len(z)), data.schema.n_arms
        if self.learner == "s":
            forest, noise = sampler.bart(_with_arm(X, data.a, n_arms), z, data.weight, rows, self.n_trees, "all arms")
            return [forest], np.tile(noise[:, None], n_arms)
        found = [
            sampler.bart(X, z, data.weight, rows[data.a == k], self.n_trees, f"arm {arm}")
            for k, arm in enumerate(data.schema.arms)
        ]
        return [forest for forest, _ in found], np.stack([noise for _, noise in found], axis=1)

    def _locations(self, inputs: NDArray[np.float32]) -> Array:
        X, n_arms = inputs.astype(np.float64), len(self.arms_)
        if self.learner == "s":
            arms = [self.forests_[0](_with_arm(X, np.full(len(X), k), n_arms)) for k in range(n_arms)]
        else:
            arms = [forest(X) for forest in self.forests_]
        return np.stack(arms, axis=2).transpose(1, 0, 2)

    def _widths(self, n_columns: int, n_arms: int) -> list[int]:
        return [n_columns] * n_arms if self.learner == "t" else [n_columns + n_arms - 1]


class BCF(_TreePosterior):
    r"""Bayesian causal forest (Hahn, Murray & Carvalho 2020).

    .. math:: Y(a) = \mu\big(x, \hat e(x)\big) + \tau_a(x) + \sigma \varepsilon, \qquad \tau_0 = 0, \qquad
              \varepsilon \sim N(0, 1)

    Two sums of trees with priors of their own: a strong one keeps the effect simple, and the estimated propensity
    among the inputs of :math:`\mu` keeps that regularisation from confounding it. Draws of the posterior are the
    members. With more than two arms :math:`\tau` is a vector in the leaves of one sum of trees.

    Parameters
    ----------
    outcome : {"auto", "continuous", "binary", "count"}
        Kind of outcome. For a binary one the sum of the forests is a probit, so the risk difference varies with x
        even where :math:`\tau` does not. Counts are spread over [y, y + 1), modelled as logarithms and rounded down.
    control : label, optional
        The control arm.
    nuisance : Nuisance, optional
        Your own cross-fitting set-up: BCF takes its propensities, and the scale of the noise's prior.
    n_trees : int
        Trees of the prognostic sum :math:`\mu`.
    n_effect_trees : int
        Trees of the effect's sum :math:`\tau`.
    n_gfr, n_mcmc, n_members, n_draws
        As in `BART`.
    random_state : int, RandomState or None
    verbose : int
        1 says on standard error what was sampled and how long it took.

    Attributes
    ----------
    schema_, arms_, nuisance_, n_features_in_, feature_names_in_
        As in `EffectEstimator`.
    forests_ : list of BoostedTrees
        :math:`\mu`, and :math:`\tau` of every treated arm, on the modelling scale; their outputs are the members.
    noise_ : ndarray of shape (n_members, n_arms)
        :math:`\sigma` on the modelling scale, the same in every arm.
    history_ : list of dict
        The noise's sd of every kept draw.

    Raises
    ------
    ImportError
        If stochtree is not installed.

    Notes
    -----
    The effect is shrunk hard: where effects vary strongly with x, as in half of IHDP, its intervals are too narrow
    (90% intervals hold 0.76 of the effects there, and 0.89 for `BART`). The outcome's law is normal with one spread.

    Deviations from the paper: propensities are cross-fitted (out of fold for the training rows, averaged over folds
    for new ones); several arms have a propensity column each; the coding of the arms is 0 and 1 with an intercept of
    the effect, not learned; the noise's prior and the weights are as in `BART`.

    The sampled trees are kept as arrays, as in `BART`.

    References
    ----------
    Hahn, Murray & Carvalho (2020), Bayesian regression tree models for causal inference, Bayesian Analysis 15, eq.
    2 and sections 5-6. Krantsevich, He & Hahn (2023), Stochastic tree ensembles for estimating heterogeneous effects.

    Examples
    --------
    >>> from effects import BCF
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> est = BCF(n_trees=20, n_mcmc=40, n_members=10, random_state=0)  # doctest: +SKIP
    >>> est.fit(data.X, data.y, treatment=data.treatment).predict_effect(data.X).interval(0.9)  # doctest: +SKIP
    """

    _paper = "Hahn, Murray & Carvalho, Bayesian Analysis 2020, arXiv 1706.09523"
    _sizes = ("n_trees", "n_effect_trees", *_TreePosterior._sizes)

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        nuisance: Nuisance | None = None,
        n_trees: int = 250,
        n_effect_trees: int = 100,
        n_gfr: int = 10,
        n_mcmc: int = 1000,
        n_members: int = 64,
        n_draws: int = 32,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.nuisance = nuisance
        self.n_trees = n_trees
        self.n_effect_trees = n_effect_trees
        self.n_gfr = n_gfr
        self.n_mcmc = n_mcmc
        self.n_members = n_members
        self.n_draws = n_draws
        self.random_state = random_state
        self.verbose = verbose

    def _fit_forests(self, data: TrainingData, z: Array, sampler: _Sampler) -> tuple[list[BoostedTrees], Array]:
        # in single precision, as those of new rows
        propensity = data.nuisance.out_of_fold_.propensity[:, 1:].astype(np.float32).astype(np.float64)
        X, n_trees = data.E.astype(np.float64), (self.n_trees, self.n_effect_trees)
        forests, noise = sampler.bcf(X, z, data.a, data.weight, propensity, n_trees)
        return forests, np.tile(noise[:, None], data.schema.n_arms)

    def _inputs(self, E: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encoded covariates and propensities."""
        return np.concatenate([E, self.nuisance_.predict(E).propensity[:, 1:]], axis=1, dtype=np.float32)

    def _locations(self, inputs: NDArray[np.float32]) -> Array:
        X = inputs.astype(np.float64)
        prognosis, *effects = (forest(X) for forest in self.forests_)
        return np.stack([prognosis, *(prognosis + effect for effect in effects)], axis=2).transpose(1, 0, 2)

    def _widths(self, n_columns: int, n_arms: int) -> list[int]:
        return [n_columns + n_arms - 1] * n_arms


# ---------------------------------------------------------------------- sampling


class _Sampler:
    """stochtree with the settings of one estimator: tables in, forests out."""

    def __init__(self, est: Any, binary: bool, error: Array, rng: np.random.Generator) -> None:
        self.est, self.binary, self.error, self.rng = est, binary, error, rng
        self.history: list[dict[str, Any]] = []

    def bart(
        self, X: Array, z: Array, weight: Array, rows: NDArray[np.int64], n_trees: int, label: str
    ) -> tuple[BoostedTrees, Array]:
        """One sum of trees on some rows: its forest, and the noise's sd (n_members,)."""
        import stochtree

        start = time.perf_counter()
        rows, w = self._drawn(rows, weight)
        z, error = z[rows], self.error[rows]
        if len(z) <= _FEW or np.ptp(z) == 0:
            forest, noise = self._no_trees(z, w, self.error if len(z) <= _FEW else error)
            return forest, self._noted(label, noise, start)
        model = stochtree.BARTModel()
        with _quiet():
            model.sample(
                X_train=X[rows],
                y_train=z,
                observation_weights=_as_variances(w),
                mean_forest_params={"num_trees": n_trees},
                **self._settings(z, error, w),
            )
        offset = np.full((self.est.n_members, 1), float(model.y_bar))
        [forest] = _trees(model.forest_container_mean, float(model.y_std), offset)
        return forest, self._noted(label, self._noise(model, z, w), start)

    def bcf(
        self, X: Array, z: Array, a: NDArray[np.int64], weight: Array, propensity: Array, n_trees: tuple[int, int]
    ) -> tuple[list[BoostedTrees], Array]:
        """The forests of the prognosis and of every treated arm's effect, and the noise's sd (n_members,)."""
        import stochtree

        start, n_members, n_treated = time.perf_counter(), self.est.n_members, propensity.shape[1]
        rows, w = self._drawn(np.arange(len(z)), weight)
        z, error = z[rows], self.error[rows]
        if np.ptp(z) == 0:
            forest, noise = self._no_trees(z, w, error)
            none = BoostedTrees([], np.zeros(n_members), "identity")
            return [forest, *[none] * n_treated], self._noted("all arms", noise, start)
        model = stochtree.BCFModel()
        with _quiet():
            model.sample(
                X_train=X[rows],
                Z_train=(a[rows, None] == np.arange(1, n_treated + 1)).astype(np.float64),
                y_train=z,
                propensity_train=propensity[rows],
                observation_weights=_as_variances(w),
                prognostic_forest_params={"num_trees": n_trees[0]},
                treatment_effect_forest_params={"num_trees": n_trees[1]},
                **self._settings(z, error, w),
            )
        scale, level = float(model.y_std), np.full((n_members, 1), float(model.y_bar))
        prognosis = _trees(model.forest_container_mu, scale, level)
        effects = _trees(model.forest_container_tau, scale, model.tau_0_samples.reshape(n_treated, n_members).T)
        return [*prognosis, *effects], self._noted("all arms", self._noise(model, z, w), start)

    def _drawn(self, rows: NDArray[np.int64], weight: Array) -> tuple[NDArray[np.int64], Array]:
        """Rows and their weights; for a probit, which has no weighted likelihood, rows drawn by weight instead.

        Systematic draws, as many as there are rows: each comes as often as its weight says, up to one.
        """
        w = weight[rows]
        if not self.binary or np.ptp(w) == 0:
            return rows, w
        order = self.rng.permutation(len(rows))  # weights may follow a rhythm
        steps = (np.arange(len(rows)) + self.rng.random()) / len(rows) * w.sum()
        drawn = rows[order[np.minimum(np.searchsorted(np.cumsum(w[order]), steps), len(rows) - 1)]]
        return drawn, np.ones(len(rows))

    def _settings(self, z: Array, error: Array, weight: Array) -> dict[str, Any]:
        r"""Chain, seed and priors; :math:`\sigma^2 \sim \nu\lambda / \chi^2_\nu` with :math:`P(\sigma < s) = q`."""
        from stochtree import OutcomeModel

        est = self.est
        general: dict[str, Any] = {"random_seed": int(self.rng.integers(2**31 - 1))}
        general["keep_every"] = max(est.n_mcmc // est.n_members, 1)
        if self.binary:
            general |= {"outcome_model": OutcomeModel(outcome="binary", link="probit"), "sample_sigma2_global": False}
        else:
            spread = np.average(error**2, weights=weight) / np.var(z)
            general |= {"sigma2_global_shape": _NOISE_DF / 2}
            general |= {"sigma2_global_scale": _NOISE_DF * _NOISE_SHARE * spread / 2}
        return {"num_gfr": est.n_gfr, "num_mcmc": est.n_members, "general_params": general}

    def _no_trees(self, z: Array, weight: Array, error: Array) -> tuple[BoostedTrees, Array]:
        """Where there is nothing to split: draws from the conjugate posterior of one level, and its noise's sd."""
        n_members = self.est.n_members
        mean, n = np.average(z, weights=weight), effective_size(weight)
        level = self.rng.permutation(normal_nodes(n_members))
        if self.binary:
            probability = stats.beta.ppf(ndtr(level), n * mean + 0.5, n * (1 - mean) + 0.5)
            return BoostedTrees([], ndtri(np.clip(probability, 1e-12, 1 - 1e-12)), "identity"), np.ones(n_members)
        square = _NOISE_DF * np.mean(error**2) * _NOISE_SHARE + n * np.average((z - mean) ** 2, weights=weight)
        noise = np.sqrt(square / self.rng.chisquare(_NOISE_DF + n - 1, n_members))
        return BoostedTrees([], mean + noise / np.sqrt(n) * level, "identity"), noise

    def _noise(self, model: Any, z: Array, weight: Array) -> Array:
        """The noise's sd of every kept draw, (n_members,)."""
        if self.binary:
            return np.ones(self.est.n_members)
        # sampled from the plain sum of squares: of the population that the weights describe it is the weighted one
        square = (z - model.y_hat_train.mean(axis=1)) ** 2
        share = np.average(square, weights=weight) / max(square.mean(), 1e-300)
        return np.sqrt(np.asarray(model.global_var_samples, dtype=np.float64) * share)

    def _noted(self, label: str, noise: Array, start: float) -> Array:
        """The noise, noted in the history."""
        self.history += [{"stage": label, "draw": k, "noise_sd": float(value)} for k, value in enumerate(noise)]
        if self.est.verbose:
            seconds = time.perf_counter() - start
            print(f"{type(self.est).__name__}: {label} sampled in {seconds:.1f} s", file=sys.stderr)
        return noise


def _as_variances(weight: Array) -> Array | None:
    """Weights as stochtree takes them; None where all are equal."""
    if np.ptp(weight) == 0:
        return None
    return weight if _larger_weighs_more() else 1.0 / weight


@cache
def _larger_weighs_more() -> bool:
    """Whether stochtree's observation weights weigh, as it documents, or multiply the variance, as 0.4.5 has it.

    Asked of the installed version: one tree, half of the rows 0, the others 1 and a hundred times as heavy.
    """
    import stochtree

    y, settings = np.repeat([0.0, 1.0], 20), {"num_gfr": 0, "num_mcmc": 20, "mean_forest_params": {"num_trees": 1}}
    model, weight = stochtree.BARTModel(), np.where(y > 0, 10.0, 0.1)
    X = np.arange(40.0)[:, None] % 2
    with _quiet():
        model.sample(X, y, observation_weights=weight, general_params={"random_seed": 0}, **settings)
    return bool(model.y_hat_train.mean() > 0.5)


class _quiet(warnings.catch_warnings):
    """Without stochtree's advice on columns of few values: it asks for MCMC iterations, of which there are enough."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="Covariate", category=UserWarning, module="stochtree")


# ---------------------------------------------------------------------- trees as arrays


def _trees(container: Any, scale: float, offset: Array) -> list[BoostedTrees]:
    """A container of sampled forests as ``scale * sum + offset``, one model an output of the leaves.

    Tree t of every draw comes before tree t + 1 of any: in that order a boosting adds to its outputs in turn, so the
    draws are the outputs of one boosting.

    Parameters
    ----------
    container : stochtree.ForestContainer
    scale : float
    offset : ndarray of shape (n_members, n_outputs)
    """
    n_members, n_outputs = offset.shape
    sizes: list[int] = []
    rows: list[tuple[int, float, int, int]] = []
    values: list[Array] = []
    for tree in range(container.num_trees):
        for draw in range(n_members):
            sizes.append(_add_tree(container, draw, tree, rows, values))
    nodes = np.zeros(len(rows), dtype=_node_dtype())
    for name, column in zip(("feature_idx", "num_threshold", "left", "right"), zip(*rows, strict=True), strict=True):
        nodes[name] = column
    nodes["is_leaf"] = nodes["left"] == 0  # the root is nobody's child
    leaves, ends = scale * np.array(values).reshape(len(rows), n_outputs), np.cumsum(sizes)[:-1]
    models = []
    for k in range(n_outputs):
        own = nodes.copy()
        own["value"] = leaves[:, k]
        models.append(BoostedTrees(np.split(own, ends), np.ascontiguousarray(offset[:, k]), "identity"))
    return models


def _add_tree(
    container: Any, draw: int, tree: int, rows: list[tuple[int, float, int, int]], values: list[Array]
) -> int:
    """Append a tree's nodes, parents first, without those that pruning left behind; return their number.

    A row goes left where its column is at most the threshold, in stochtree as in scikit-learn.
    """
    order, n_outputs = [0], container.output_dimension
    for node in order:  # grows while it is read
        inner = not container.is_leaf_node(draw, tree, node)
        if inner:
            children = len(order), len(order) + 1
            order += [container.left_child_node(draw, tree, node), container.right_child_node(draw, tree, node)]
            split = container.node_split_index(draw, tree, node), container.node_split_threshold(draw, tree, node)
            rows.append((*split, *children))
            values.append(np.zeros(n_outputs))
        else:
            rows.append((0, 0.0, 0, 0))
            values.append(np.atleast_1d(container.node_leaf_values(draw, tree, node)))
    return len(order)
