"""INF: interventional normalizing flows, the density of Y(a) over a whole population."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

from effects.models.flow import FlowEstimator, log_law, spline, spline_nll
from effects.nn.losses import orthogonal_weights
from effects.nn.scale import OutcomeScale
from effects.nn.training import Objective, Settings, train
from effects.nuisance import Nuisance
from effects.rows import TrainingData
from effects.schema import Schema

Array = NDArray[np.float64]
TARGETS = {"one-step": "gdr", "plugin": "average", "ipw": "ipw"}
_BINS = 16
_NODES = 512  # quantiles of the corrected law that the target flow is fitted to
_EPOCHS = 100  # of the target flow, after which nothing is gained


class _Splines(nn.Module):
    """One spline an arm, without covariates; the arms are the members of the training."""

    def __init__(self, n_arms: int) -> None:
        super().__init__()
        self.parameters_ = nn.Parameter(torch.zeros(n_arms, 3 * _BINS - 1))


@dataclass(frozen=True, eq=False)
class InterventionalLaw:
    r"""The law of Y(a) of every arm: a point mass (often none) and a flow, on an outcome's scale.

    .. math:: Y(a) = \begin{cases} y_{min} & \text{with probability } \mathtt{atom}_a \
              g^{-1}(\mathtt{center}_a + \mathtt{spread}_a\, T_a^{-1}(\varepsilon)) & \text{else} \end{cases}

    Attributes
    ----------
    scale : OutcomeScale
        :math:`g`.
    atom : ndarray of shape (n_arms,)
        For a binary outcome: the probability of no event, and nothing else is used.
    center, spread : ndarray of shape (n_arms,)
    parameters : ndarray of shape (n_arms, n_parameters)
        Of the splines :math:`T_a`.
    binary : bool
    """

    scale: OutcomeScale
    atom: Array
    center: Array
    spread: Array
    parameters: Array
    binary: bool = False

    def log_prob(self, y: Array, arm: int) -> Array:
        """Log density (mass of a count, an event, or the point mass) of outcomes (n,)."""
        with np.errstate(divide="ignore"):  # the log of no mass is -inf
            none, rest = np.log(self.atom[arm]), np.log1p(-self.atom[arm])
        if self.binary:
            return np.where(y == 0, none, np.where(y == 1, rest, -np.inf))
        found = rest + log_law(y, self.scale, lambda z: self._noise(z, arm))[0]
        if self.scale.lowest is None or self.scale.whole:
            return found
        return np.where(y == self.scale.lowest, np.logaddexp(none, found), found)

    def cdf(self, y: Array, arm: int) -> Array:
        """P(Y(a) <= y), (n,)."""
        if self.binary:
            return np.where(y < 0, 0.0, np.where(y < 1, self.atom[arm], 1.0))
        scale = self.scale
        top = np.floor(y) + 1.0 if scale.whole else y
        inside = top + scale.offset > 0 if scale.log else np.ones(len(y), dtype=bool)
        z = scale.encode(np.where(inside, top, 1.0))
        below = np.where(inside, ndtr(self._noise(z, arm)[0][0]), 0.0)
        found = self.atom[arm] + (1 - self.atom[arm]) * below
        lowest = 0.0 if scale.whole else scale.lowest
        return found if lowest is None else np.where(y < lowest, 0.0, found)

    def quantile(self, q: Array, arm: int) -> Array:
        """Quantiles (n,) at probabilities (n,); infinite at 0 and 1 where the law is."""
        if self.binary:
            return (q > self.atom[arm]).astype(np.float64)
        share = self.atom[arm]
        with np.errstate(over="ignore"):
            noise = ndtri(np.maximum(q - share, 0.0) / (1 - share) if share < 1 else q)
            x = spline(torch.from_numpy(self.parameters[arm])).inv(torch.from_numpy(noise)).numpy()
            y = self.scale.decode(self.center[arm] + self.spread[arm] * x)
        return y if self.scale.lowest is None else np.where(q <= share, self.scale.lowest, y)

    def _noise(self, z: Array, arm: int) -> tuple[Array, Array]:
        """Noise and log derivative, (1, n) each."""
        x = torch.from_numpy((z - self.center[arm]) / self.spread[arm])
        noise, log_slope = spline(torch.from_numpy(self.parameters[arm])).call_and_ladj(x)
        return noise.numpy()[None], log_slope.numpy()[None] - np.log(self.spread[arm])


class INF(FlowEstimator):
    r"""Interventional normalizing flows (Melnychuk, Frauen & Feuerriegel, ICML 2023): the density of Y(a) over all.

    What the outcomes of the whole population would be, had everyone arm a:

    .. math:: p(Y(a) = y) = E\big[p(y \mid X, a)\big], \qquad \hat p_a = q_{\beta_a},

    a proper density in closed form (`interventional_log_prob`, `interventional_cdf`, `interventional_quantile`,
    `interventional_sample`), and beside it, as every estimator gives, the law of each unit's :math:`Y(a) \mid x`.

    1. **Nuisance flow.** :math:`\hat p(y \mid x, a)`, the flow of `NOFLITE` without its balancing, and the
       cross-fitted propensities :math:`\hat\pi_a(x)`. What it says of a training row comes from networks and flows
       that had held the row out.
    2. **One-step correction** (A-IPTW). The target flow minimises the cross-entropy
       :math:`-\int \log q_\beta \, d\hat F_a` of

       .. math:: \hat F_a(y) = \frac1n\sum_i \hat F(y \mid x_i, a)
                 + \frac{1[A_i = a]}{\hat\pi_a(x_i)}\big(1[Y_i \le y] - \hat F(y \mid x_i, a)\big),

       which is the paper's bias-corrected objective written as an integral: consistent if either the nuisance flow or
       the propensities are.
    3. **Target flow.** :math:`q_\beta`: an affine map and a rational-quadratic spline of normal noise, one for each
       arm.

    Parameters
    ----------
    outcome : {"auto", "continuous", "binary", "count"}
        Kind of outcome; scales as in `DiffPO`. A binary outcome needs no flow: its law is one probability.
    control : label, optional
        The control arm; by default one with a name like "control", "placebo" or 0, else the first in order.
    target : {"one-step", "plugin", "ipw"}
        What the target flow is fitted to: :math:`\hat F_a`; its first term alone (covariate-averaged nuisance flow);
        or the weighted observed outcomes alone.
    min_propensity : float
        Propensities below are raised to it, with a warning that counts them.
    nuisance, n_networks, hidden, n_flows, n_bins, n_draws, epochs, lr, weight_decay, device, random_state, verbose
        As in `NOFLITE`.

    Attributes
    ----------
    schema_, arms_, nuisance_, history_, n_features_in_, feature_names_in_, held_out_
        As in `NOFLITE`.
    target_ : InterventionalLaw
        Of every arm.

    Notes
    -----
    Deviations from the paper, each for a reason: the nuisance flow is `NOFLITE`'s; nuisances are cross-fitted, which
    the correction asks for; weights are normalised to average one (Hajek); and the signed measure :math:`\hat F_a`
    is projected onto distribution functions by isotonic regression before the target flow is fitted. Where it
    increases, that is the paper's objective; where it does not, the paper's has no minimum in a flexible family. A
    point mass at the smallest outcome keeps its estimated share, and the flow is of the rest.

    The law is a point estimate; for an average effect with its standard error see `estimate_ate`. It describes a
    population like the fit's (weighted by `sample_weight`). The two arms' laws say nothing of how Y(0) and Y(1) of one
    unit go together. Nothing here removes confounding by what was not measured.

    References
    ----------
    Melnychuk, Frauen & Feuerriegel (2023), Normalizing flows for interventional density estimation, ICML, arXiv
    2209.06203. Kennedy, Balakrishnan & Wasserman (2023), Semiparametric counterfactual density estimation,
    Biometrika. Chernozhukov, Fernandez-Val & Galichon (2010), Quantile and probability curves without crossing,
    Econometrica (why a projection onto monotone functions only gains). Durkan et al. (2019), arXiv 1906.04032.

    Examples
    --------
    >>> from effects import INF
    >>> from effects.datasets import make_bimodal
    >>> data = make_bimodal(n_samples=200, random_state=0)
    >>> est = INF(epochs=5, n_networks=4, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> est.interventional_quantile([0.1, 0.5, 0.9], arm="drug").shape
    (3,)
    >>> est.interventional_log_prob([5.0, 10.0], arm="drug").shape
    (2,)
    """

    _paper = "Melnychuk et al., ICML 2023, arXiv 2209.06203"

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        target: str = "one-step",
        nuisance: Nuisance | None = None,
        n_networks: int | None = None,
        hidden: int = 64,
        n_flows: int = 5,
        n_bins: int = 8,
        n_draws: int = 64,
        epochs: int | None = None,
        lr: float = 3e-3,
        weight_decay: float = 0.1,
        min_propensity: float = 0.01,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.target = target
        self.nuisance = nuisance
        self.n_networks = n_networks
        self.hidden = hidden
        self.n_flows = n_flows
        self.n_bins = n_bins
        self.n_draws = n_draws
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.min_propensity = min_propensity
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------ fit

    def _check_params(self) -> None:
        super()._check_params()
        if self.target not in TARGETS:
            raise ValueError(f"target must be one of {tuple(TARGETS)}, got {self.target!r}.")
        if not isinstance(self.min_propensity, int | float) or not 0 < self.min_propensity < 0.5:
            raise ValueError(f"min_propensity must lie between 0 and 0.5, got {self.min_propensity!r}.")

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        propensity = data.nuisance.out_of_fold_.propensity
        low = np.any(propensity < self.min_propensity, axis=1)
        if self.target != "plugin" and low.any():
            warnings.warn(
                f"{int(low.sum())} of {len(low)} rows have an arm with estimated propensity below "
                f"{self.min_propensity}; their weights are held at {1 / self.min_propensity:.0f}. Overlap is weak "
                "there: consider restricting the population, or target='plugin'.",
                UserWarning,
                stacklevel=4,
            )
        fitted = super()._fit(data)
        observed, generated = _signed_weights(self.target, data, np.maximum(propensity, self.min_propensity))
        draws = fitted["held_out_"].draws[0].astype(np.float64)  # n_draws, n, n_arms
        settings = self._settings(data, "target")
        law, history = _fit_law(data, fitted["scale_"], draws, observed, generated, settings)
        fitted["history_"] += [{"stage": "target", **entry} for entry in history]
        return fitted | {"target_": law}

    # ------------------------------------------------------------------ the population's law

    def interventional_log_prob(self, y: ArrayLike, *, arm: Hashable) -> Array:
        r"""Log density of the outcomes that all would have under one arm, :math:`\log q_a(y)`.

        Parameters
        ----------
        y : array-like of shape (n,)
        arm : label
            One of `arms_`.

        Returns
        -------
        ndarray of shape (n,)
            Natural logarithm, per unit of the outcome; of the probability for a binary outcome, a count, or the point
            mass at the smallest value.

        Raises
        ------
        ValueError
            If the arm is unknown or y is no outcome.
        """
        position = self._arm(arm)
        return self.target_.log_prob(self.schema_.encode_outcome(y), position)

    def interventional_cdf(self, y: ArrayLike, *, arm: Hashable) -> Array:
        """P(Y(a) <= y) over the population, (n,), for outcomes (n,)."""
        position = self._arm(arm)
        return self.target_.cdf(self.schema_.encode_outcome(y), position)

    def interventional_quantile(self, q: float | ArrayLike, *, arm: Hashable) -> Any:
        """Quantiles of Y(a) over the population.

        Parameters
        ----------
        q : float or array-like of shape (n_quantiles,)
            Probabilities in [0, 1].
        arm : label
            One of `arms_`.

        Returns
        -------
        float, or ndarray of shape (n_quantiles,) for a list
            In the outcome's unit.
        """
        position = self._arm(arm)
        levels = np.atleast_1d(np.asarray(q, dtype=np.float64))
        if levels.ndim != 1 or not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(f"q must hold probabilities between 0 and 1, got {q!r}.")
        found = self.target_.quantile(levels, position)
        return float(found[0]) if np.ndim(q) == 0 else found

    def interventional_sample(self, n: int, *, arm: Hashable, random_state: Any = None) -> Array:
        """Draw `n` outcomes of Y(a) from the population's law, (n,)."""
        uniform = np.random.default_rng(random_state).random(n)
        return self.target_.quantile(uniform, self._arm(arm))

    def _arm(self, arm: Hashable) -> int:
        self._check_fitted()
        if arm not in self.arms_:
            raise ValueError(f"arm {arm!r} is unknown: the arms are {self.arms_}.")
        return self.arms_.index(arm)

    # ------------------------------------------------------------------ save / load

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays, state = super()._get_state()
        law = self.target_
        arrays |= {f"target.{name}": getattr(law, name) for name in ("atom", "center", "spread", "parameters")}
        return arrays, state | {"target": {"scale": law.scale.to_dict(), "binary": law.binary}}

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        fitted = super()._set_state(arrays, state, schema)
        numbers = {name: arrays[f"target.{name}"] for name in ("atom", "center", "spread", "parameters")}
        scale, binary = OutcomeScale(**state["target"]["scale"]), bool(state["target"]["binary"])
        return fitted | {"target_": InterventionalLaw(scale, **numbers, binary=binary)}


def _signed_weights(target: str, data: TrainingData, propensity: Array) -> tuple[Array, Array]:
    """Weights of a row's observed and of its generated outcomes in the law of every arm, (n, n_arms) each.

    Those of `effects.nn.losses.orthogonal_weights`, with the inverse propensities scaled to average one in each arm
    (Hajek): together they sum to one.
    """
    weight = data.weight[:, None] / data.weight.sum()
    if target == "plugin":
        return np.zeros_like(propensity), np.broadcast_to(weight, propensity.shape)
    inverse, _ = orthogonal_weights("ipw", torch.from_numpy(data.a), torch.from_numpy(propensity))
    share = inverse.numpy() / (weight * inverse.numpy()).sum(axis=0)
    return weight * share, weight * (1.0 - share) if target == "one-step" else np.zeros_like(propensity)


def _fit_law(
    data: TrainingData, scale: OutcomeScale, draws: Array, observed: Array, generated: Array, settings: Settings
) -> tuple[InterventionalLaw, list[dict[str, float]]]:
    """Project the signed law of every arm onto a distribution function, and fit the target flows to it."""
    n_arms = observed.shape[1]
    if data.schema.outcome.kind == "binary":
        event = (observed * data.y[:, None] + generated * draws[0]).sum(axis=0)
        none = 1.0 - np.clip(event, 0.0, 1.0)  # the projection of a corrected share
        return InterventionalLaw(scale, none, none * 0, none * 0 + 1, np.zeros((n_arms, 2)), binary=True), []
    rng = np.random.default_rng([data.seed, 1])
    y, spread_out = data.y, draws
    if scale.whole:
        y, spread_out = y + rng.random(len(y)), draws + rng.random(draws.shape)
    atom, nodes = np.zeros(n_arms), np.empty((n_arms, _NODES))
    for k in range(n_arms):
        values = np.concatenate([y, spread_out[:, :, k].ravel()])
        signed = np.concatenate([observed[:, k], np.tile(generated[:, k] / len(draws), len(draws))])
        values, level = _distribution(values[signed != 0], signed[signed != 0])
        if scale.lowest is not None and not scale.whole:
            atom[k] = level[np.searchsorted(values, scale.lowest, side="right") - 1] if values[0] <= scale.lowest else 0
        at = atom[k] + (1 - atom[k]) * (np.arange(_NODES) + 0.5) / _NODES
        nodes[k] = values[np.minimum(np.searchsorted(level, at), len(values) - 1)]
    # the mass below the smallest value that draws may take is the estimated share, not the flow's
    scale = replace(scale, gap=0.0)
    z = scale.encode(nodes)
    center, spread = z.mean(axis=1), z.std(axis=1)
    spread = np.where(spread > 0, spread, 1.0)
    x = torch.from_numpy(((z - center[:, None]) / spread[:, None]).astype(np.float32))
    splines = _Splines(n_arms)

    def loss(rows: Tensor, _: torch.Generator) -> Tensor:
        return spline_nll(splines.parameters_[:, None], x[:, rows])

    epochs = min(settings.epochs, _EPOCHS)
    settings = replace(settings, epochs=epochs, batch_size=_NODES // 4, device=torch.device("cpu"))
    none_held = torch.zeros(x.shape, dtype=torch.bool)
    history = train([Objective(splines, loss, 3e-2, 0.0)], torch.ones(x.shape), none_held, settings)
    parameters = splines.parameters_.detach().double().numpy()
    return InterventionalLaw(scale, atom, center, spread, parameters), history


def _distribution(values: Array, signed: Array) -> tuple[Array, Array]:
    """The distribution function nearest to a signed measure of total mass one: sorted values, levels.

    Nearest in squares over the measure's absolute value (isotonic regression), so that a row of weight two counts as
    two rows.
    """
    values, where = np.unique(values, return_inverse=True)
    size = np.bincount(where.ravel(), weights=np.abs(signed))
    level = isotonic_regression(np.cumsum(np.bincount(where.ravel(), weights=signed)), weights=size).x
    level = np.clip(level, 0.0, 1.0)
    level[-1] = 1.0
    return values, level
