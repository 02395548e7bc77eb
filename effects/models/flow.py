r"""Conditional normalising flows of potential outcomes: NOFLITE, and what INF shares with it.

The monotone map is zuko's rational-quadratic spline (`zuko.transforms.MonotonicRQSTransform`; Durkan et al. 2019):
one class that takes its parameters with any leading axes, so members, rows and arms are batched, with derivative and
inverse in closed form, identity tails, and bounded slopes. NOFLITE's own sigmoidal flow must be inverted by bisection.
zuko's ready-made flows (``zuko.flows``) hold one network each and are not used: the network here is a
`effects.nn.networks.BatchedLinear` stack, as everywhere in this package.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp
from torch import Tensor, nn
from zuko.transforms import MonotonicRQSTransform

from effects.models.location_scale import LocationScaleEstimator
from effects.models.representation import imbalance
from effects.nn.losses import mmd
from effects.nn.means import Batch, ConditionalMeans, MeansConfig, fit_means
from effects.nn.networks import ArmNetwork, BatchedLinear, batched_mlp
from effects.nn.scale import OutcomeScale, ResidualLaw, normal_nodes
from effects.nn.training import Objective, Settings, held_out, train
from effects.nuisance import Nuisance
from effects.rows import TrainingData

Array = NDArray[np.float64]
_BOUND = 4.0  # normal scores beyond keep the identity: one in 16,000 of a normal law
# smallest slope, given because zuko's default has changed between releases: a saved model must stay the same map
_SLOPE = 1e-3
_ROWS = 1024  # whose members' densities are held at once
_HALF_LOG_2PI = 0.5 * np.log(2 * np.pi)


class ConditionalSpline(nn.Module):
    r"""Parameters of one monotone spline per member, row and arm, :math:`\varepsilon = T_a(u; x)`.

    Starts at the identity (zero parameters), where u is exactly standard normal.

    Parameters
    ----------
    n_members, n_inputs, n_arms, hidden : int
    n_bins : int
        Pieces of the spline; it has ``3 n_bins - 1`` parameters.
    """

    def __init__(
        self, n_members: int, n_inputs: int, n_arms: int, hidden: int, n_bins: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.n_members, self.n_arms = n_members, n_arms
        self.trunk = batched_mlp(n_members, [n_inputs, hidden, hidden], generator)
        self.arms = BatchedLinear(n_members, hidden, n_arms * (3 * n_bins - 1), generator, zero=True)

    def forward(self, context: Tensor) -> Tensor:
        """``(n, n_inputs) -> (n_members, n, n_arms, 3 n_bins - 1)``."""
        return self.arms(self.trunk(context.expand(self.n_members, -1, -1))).unflatten(-1, (self.n_arms, -1))


def spline(parameters: Tensor) -> MonotonicRQSTransform:
    """The increasing maps of parameters (..., 3 n_bins - 1), from scores to standard normal noise."""
    n_bins = (parameters.shape[-1] + 1) // 3
    widths, heights, slopes = parameters.split([n_bins, n_bins, n_bins - 1], dim=-1)
    return MonotonicRQSTransform(widths, heights, slopes, bound=_BOUND, slope=_SLOPE)


def spline_nll(parameters: Tensor, u: Tensor) -> Tensor:
    r"""Negative log density of scores without its constant, :math:`T(u)^2 / 2 - \log T'(u)`, one value a score."""
    noise, log_slope = spline(parameters).call_and_ladj(u)
    return 0.5 * noise**2 - log_slope


@dataclass(frozen=True)
class _Conditional:
    """The predictive law of some rows under one arm each: a mixture over members, on the modelling scale.

    Attributes
    ----------
    location : ndarray of shape (n_members, n)
    width : ndarray of shape (n,)
    center : ndarray of shape (n_members, n)
        Mean of each member's residual law before it is subtracted.
    parameters : Tensor of shape (n_members, n, n_parameters)
    residuals : ResidualLaw
    arm : ndarray of shape (n,)
    """

    location: Array
    width: Array
    center: Array
    parameters: Tensor
    residuals: ResidualLaw
    arm: NDArray[np.int64]

    def noise(self, z: Array) -> tuple[Array, Array]:
        """Standard normal noise of values z (n,), and the log derivative of the map, each (n_members, n)."""
        residual = (z - self.location) / self.width + self.center
        score, log_slope = np.empty_like(residual), np.empty_like(residual)
        for k in np.unique(self.arm):
            own = self.arm == k
            score[:, own], log_slope[:, own] = self.residuals.score_and_slope(residual[:, own], k)
        noise, more = spline(self.parameters).call_and_ladj(torch.from_numpy(score))
        return noise.numpy(), log_slope + more.numpy() - np.log(self.width)


def log_law(y: Array, scale: OutcomeScale, noise: Any) -> Array:
    """Log density or mass (n_members, n) of outcomes in their own unit.

    Parameters
    ----------
    y : ndarray of shape (n,)
    scale : OutcomeScale
    noise : callable
        From values (n,) of the modelling scale to standard normal noise and log derivative, (n_members, n) each.
    """
    if scale.whole:  # the mass of [y, y + 1), where the count was spread
        inside = (y >= 0) & (y == np.floor(y))
        whole = np.where(inside, y, 0.0)
        upper = noise(scale.encode(whole + 1.0))[0]
        lower = np.where(whole > 0, noise(scale.encode(whole))[0], -np.inf)
        return np.where(inside, _log_between(lower, upper), -np.inf)
    edge = -np.inf if scale.lowest is None else scale.lowest + scale.gap
    inside = (y >= edge) & (not scale.log or y + scale.offset > 0)
    middle = np.exp(scale.center) - scale.offset if scale.log else scale.center
    safe = np.where(inside, y, middle)
    values, log_slope = noise(scale.encode(safe))
    log_slope = log_slope + scale.log_slope(safe)
    found = np.where(inside, log_slope - 0.5 * values**2 - _HALF_LOG_2PI, -np.inf)
    if scale.lowest is None:
        return found
    mass = log_ndtr(noise(scale.encode(np.full(len(y), edge)))[0])
    return np.where(y == scale.lowest, mass, found)


def _log_between(lower: Array, upper: Array) -> Array:
    """log(Phi(upper) - Phi(lower)), exact in both tails."""
    flip = lower > 0
    low, high = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    big, small = log_ndtr(high), log_ndtr(low)
    return big + np.log1p(-np.exp(np.minimum(small - big, -1e-15)))


class FlowEstimator(LocationScaleEstimator, ABC):
    """What NOFLITE and INF share: a spline flow of the residuals' normal scores, and exact densities."""

    n_flows: int
    n_bins: int

    _exact_density = True
    _sizes = (*LocationScaleEstimator._sizes, "n_flows", "n_bins")

    def _check_params(self) -> None:
        super()._check_params()
        if self.n_flows < 2:
            raise ValueError(
                f"n_flows must be at least 2, got {self.n_flows}: each stops early on rows of its own, which only "
                "the others can learn from."
            )

    def _fit_scores(self, data: TrainingData, context: Tensor, scores: Tensor) -> tuple[dict[str, Any], NDArray[Any]]:
        settings = self._settings(data, "flow", ema=0.98)
        generator = torch.Generator().manual_seed(settings.seed)
        members, n_arms = self.n_flows, data.schema.n_arms
        arm = torch.from_numpy(data.a)
        folds = held_out(members, arm, members, generator)
        flow = ConditionalSpline(members, context.shape[1], n_arms, self.hidden, self.n_bins, generator)
        flow = flow.to(settings.device)
        x, u, a = (t.to(settings.device) for t in (context, scores, arm))

        def loss(rows: Tensor, _: torch.Generator) -> Tensor:
            parameters = flow(x[rows])
            own = a[rows].view(1, -1, 1, 1).expand(members, -1, 1, parameters.shape[-1])
            return spline_nll(parameters.gather(2, own).squeeze(2), u[rows].expand(members, -1))

        weight = torch.from_numpy(data.weight.astype(np.float32)).expand(members, -1)
        history = train([Objective(flow, loss, lr=4e-3, weight_decay=1e-3)], weight, folds, settings)
        flow = flow.to("cpu").requires_grad_(False)
        nodes = _nodes(flow(context)[folds.int().argmax(0), torch.arange(len(context))], self.n_draws)
        return {"flow_": flow, "history_": [{"stage": "flow", **entry} for entry in history]}, nodes

    def _scores(self, context: Tensor, n_draws: int, rng: np.random.Generator) -> Array:
        """Normal scores of residuals, (n_flows, n_draws, n, n_arms): the spline's inverse at normal quantiles."""
        return _nodes(self.flow_(context), n_draws).swapaxes(0, 1)

    def _log_prob(self, inputs: NDArray[np.float32], y: Array, a: NDArray[np.int64]) -> Array:
        """Log density of the mixture over members; see `log_prob`."""
        parts = []
        for start in range(0, len(y), _ROWS):
            rows = slice(start, start + _ROWS)
            if self.schema_.outcome.kind == "binary":
                odds = self.means_.members(*self._tensors(inputs[rows]))[0].numpy()[:, np.arange(len(y[rows])), a[rows]]
                found = -np.logaddexp(0.0, np.where(y[rows] > 0, -odds, odds))
            else:
                found = log_law(y[rows], self.scale_, self._conditional(inputs[rows], a[rows]).noise)
            parts.append(logsumexp(found, axis=0) - np.log(len(found)))
        return np.concatenate(parts)

    def _conditional(self, inputs: NDArray[np.float32], a: NDArray[np.int64]) -> _Conditional:
        """The law that `_sample` draws from, under one arm for each row."""
        tensor, extra = self._tensors(inputs)
        members, log_sd = self.means_.members(tensor, extra)
        location, rows = members.numpy(), np.arange(len(a))
        parameters = self.flow_(self._context(extra, location, log_sd))[:, rows, a]
        scores = _nodes(parameters, self.n_draws)  # n_draws, n_flows, n
        center = np.empty(scores.shape[1:])
        for k in np.unique(a):
            law, own = ResidualLaw(self.residuals_.scores, self.residuals_.values[[k]]), a == k
            center[:, own] = law.residual(scores[:, :, own, None])[..., 0].mean(axis=0)
        which = np.arange(len(location)) % len(parameters)
        width = (self.shrink_ * np.exp(log_sd.double().numpy()))[rows, a]
        return _Conditional(location[:, rows, a], width, center[which], parameters[which].double(), self.residuals_, a)

    # ------------------------------------------------------------------ save / load

    def _scores_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        n_flows, _, hidden = self.flow_.trunk[0].weight.shape
        n_bins = (self.flow_.arms.weight.shape[2] // self.flow_.n_arms + 1) // 3
        return dict(self.flow_.state_dict()), {"n_flows": n_flows, "hidden": hidden, "n_bins": n_bins}

    def _set_scores_state(
        self, tensors: dict[str, Tensor], state: dict[str, Any], context: int, n_arms: int
    ) -> dict[str, Any]:
        n_flows, hidden, n_bins = (int(state[name]) for name in ("n_flows", "hidden", "n_bins"))
        flow = ConditionalSpline(n_flows, context, n_arms, hidden, n_bins, torch.Generator())
        flow.load_state_dict(tensors)
        return {"flow_": flow.requires_grad_(False)}


@torch.no_grad()
def _nodes(parameters: Tensor, n_draws: int) -> Array:
    """Quantiles of the scores' law, (n_draws, ...), where `parameters` are (..., n_parameters).

    In double precision: the density must be that of the draws to the last digit.
    """
    noise = torch.from_numpy(normal_nodes(n_draws)).view(-1, *[1] * (parameters.dim() - 1))
    inverse = spline(parameters.double()).inv
    # all nodes at once would hold the spline's tables for each of them
    return torch.stack([inverse(level.expand(parameters.shape[:-1])) for level in noise]).numpy()


class NOFLITE(FlowEstimator):
    r"""Normalising flow of each arm's outcomes given x (Vanderschueren et al., TMLR 2023), with exact densities.

    For every unit and arm the whole law of :math:`Y(a) \mid x` as a chain of increasing maps of normal noise,

    .. math:: Y(a) = g^{-1}\big(m_a(x) + s_a(x)\, (Q_a(U) - c_a(x))\big), \qquad U = T_a^{-1}(\varepsilon; x),
              \quad \varepsilon \sim N(0, 1),

    so that :math:`\log p(y \mid x, a)` is a sum of log derivatives (`log_prob`), exactly that of the draws.

    1. **Balanced encoder.** Networks with a trunk shared by the arms and two heads an arm (mean and log sd), trained
       on :math:`-\log p(y \mid x, a) + \lambda\, \mathrm{MMD}^2`, the discrepancy between the arms in the trunk's
       representation (`effects.models.representation.imbalance`). Nuisances are inputs of some.
    2. **Conditional Gaussian.** :math:`m_a(x)`, the posterior of a Bayesian last layer on them (draws from it are the
       members), and :math:`s_a(x)`.
    3. **Flow.** :math:`Q_a` maps normal scores to the pooled residuals that the networks had held out, and
       :math:`T_a(\cdot; x)` is a rational-quadratic spline whose parameters a batched hyper-network finds from the
       means, spreads and nuisances of a row, by maximum likelihood: :math:`T(u)^2 / 2 - \log T'(u)`. It starts at the
       identity: what the data do not speak against stays a pooled residual law. :math:`c_a(x)` takes the mean out.

    Parameters
    ----------
    outcome : {"auto", "continuous", "binary", "count"}
        Kind of outcome; scales as in `DiffPO`. A binary outcome is one probability a unit and arm, without a flow.
    control : label, optional
        The control arm; by default one with a name like "control", "placebo" or 0, else the first in order.
    balance : float
        :math:`\lambda`, weight of the discrepancy; 0 leaves the encoder as it is.
    nuisance : Nuisance, optional
        Your own cross-fitting set-up.
    n_networks : int, optional
        Networks of the ensemble; by default 16 below 4,000 rows, else 8.
    hidden : int
        Width of the hidden layers.
    n_flows : int
        Flows, at least 2, trained together on different held-out rows.
    n_bins : int
        Pieces of each spline.
    n_draws : int
        Outcome draws per member: equally likely normal quantiles, pushed through the flow.
    epochs : int, optional
        At most so many passes in either training; by default a budget of 1,200 steps of 128 rows.
    lr, weight_decay : float
        AdamW, for the ensemble.
    device : str
        ``"auto"`` trains on a GPU where there is one. Prediction is on the CPU.
    random_state : int, RandomState or None
    verbose : int
        1 shows progress bars on standard error.

    Attributes
    ----------
    schema_, arms_, nuisance_, history_, n_features_in_, feature_names_in_
        As in `EffectEstimator`.
    held_out_ : PotentialOutcomes or None
        The training rows' outcomes from networks and flows that had held them out; None in a loaded model.

    Notes
    -----
    `log_prob` is of the mixture over members, in the outcome's own unit. Of a count it is the log probability, the
    mass between two values of the flow's distribution function. An outcome with a point mass at its smallest value
    (no costs) has a mixed law: the log of the mass there, the log density above, and -inf between the mass and the
    threshold below which draws become it. Sums of the two make sense only between models of the same outcome. The law
    is that of the draws with the constructor's `n_draws`, by which :math:`c_a` is found.

    Deviations from the paper, each for a reason: the location and spread are a Bayesian ensemble instead of one
    network, which is where the uncertainty comes from; the flow acts on the standardised residual, depends on x, and
    is a spline instead of a sigmoidal flow, which has no inverse in closed form; and it is trained after the encoder,
    on residuals of rows that the encoder had held out, as those of its own rows are too small.

    The flow sees of a row what the means know of it, not its covariates, as `DiffPO` does. Balancing is a bias for
    less variance, and nothing here removes confounding by what was not measured.

    References
    ----------
    Vanderschueren, Berrevoets & Verbeke (2023), NOFLITE: learning to predict individual treatment effect
    distributions, TMLR. Durkan, Bekasov, Murray & Papamakarios (2019), Neural spline flows, arXiv 1906.04032, section
    3.1. Gretton et al. (2012), A kernel two-sample test, JMLR, eq. 5. Shalit, Johansson & Sontag (2017), arXiv
    1606.03976, eq. 3.

    Examples
    --------
    >>> from effects import NOFLITE
    >>> from effects.datasets import make_bimodal
    >>> data = make_bimodal(n_samples=200, random_state=0)
    >>> est = NOFLITE(epochs=5, n_networks=4, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> est.predict(data.X).shape
    (200,)
    >>> est.log_prob(data.X, data.y, treatment=data.treatment).shape
    (200,)
    """

    _paper = "Vanderschueren et al., TMLR 2023"
    _rates = (*FlowEstimator._rates, "balance")

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        balance: float = 0.1,
        nuisance: Nuisance | None = None,
        n_networks: int | None = None,
        hidden: int = 64,
        n_flows: int = 5,
        n_bins: int = 8,
        n_draws: int = 64,
        epochs: int | None = None,
        lr: float = 3e-3,
        weight_decay: float = 0.1,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.balance = balance
        self.nuisance = nuisance
        self.n_networks = n_networks
        self.hidden = hidden
        self.n_flows = n_flows
        self.n_bins = n_bins
        self.n_draws = n_draws
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _fit_ensemble(
        self, data: TrainingData, inputs: Tensor, extra: Tensor, z: Tensor, weight: Tensor, settings: Settings
    ) -> tuple[ConditionalMeans, list[dict[str, float]]]:
        if self.balance == 0:
            return super()._fit_ensemble(data, inputs, extra, z, weight, settings)
        config = MeansConfig(self._n_networks(len(z)), self.hidden, self.lr, self.weight_decay)
        n_arms, binary = data.schema.n_arms, data.schema.outcome.kind == "binary"

        def penalty(_: ArmNetwork, batch: Batch) -> Tensor:
            return self.balance * imbalance(batch.shared, batch.arm, batch.weight, n_arms, mmd)[:, None]

        arm = torch.from_numpy(data.a)
        return fit_means(inputs, extra, arm, z, weight, n_arms, binary, config, settings, penalty)
