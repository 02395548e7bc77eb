"""VCI: counterfactual outcomes of units whose own outcome is known."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

from effects.models.location_scale import LocationScaleEstimator
from effects.nn.latent import normal_kl
from effects.nn.networks import BatchedLinear, batched_mlp
from effects.nn.scale import normal_nodes
from effects.nn.training import Objective, held_out, train
from effects.nuisance import Nuisance
from effects.outcomes import PotentialOutcomes
from effects.rows import TrainingData

Array = NDArray[np.float64]
_MODELS = 5  # each trained without a fifth of the rows
_HIDDEN = 32
_ROWS = 256  # rows whose draws are replayed at once
_LOG_SD = -2.3  # of q at the start
_STEP = 0.05  # of the difference quotient in the score


class AbductionNetwork(nn.Module):
    r"""The encoder q(z | y, x, t) and the decoder p(y | z, t) of VCI, with the outcome as a normal score.

    Both start at the identity: the first latent is the score, and is decoded to itself in every arm. What training
    adds are corrections that start from zero.
    """

    def __init__(
        self, n_members: int, n_context: int, n_arms: int, hidden: int, latent_dim: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.n_members, self.n_arms = n_members, n_arms
        self.encoder = nn.Sequential(
            batched_mlp(n_members, [n_context + 1 + n_arms, hidden, hidden], generator),
            BatchedLinear(n_members, hidden, 2 * latent_dim, generator, zero=True),
        )
        self.decoder = nn.Sequential(
            batched_mlp(n_members, [latent_dim + n_arms, hidden], generator),
            BatchedLinear(n_members, hidden, 1, generator, zero=True),
        )
        self.latent_dim = latent_dim

    def abduct(self, score: Tensor, context: Tensor, arm: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log sd of q(z | y, x, t), (n_members, n, latent_dim).

        Parameters
        ----------
        score : Tensor of shape (n_members, n)
        context : Tensor of shape (n, n_context)
        arm : Tensor of int64, shape (n,)
        """
        shared = torch.cat([context, self._code(arm)], -1).expand(self.n_members, -1, -1)
        mean, log_sd = self.encoder(torch.cat([shared, score[..., None]], -1)).chunk(2, -1)
        first = nn.functional.pad(score[..., None], (0, self.latent_dim - 1))
        return first + mean, (log_sd + _LOG_SD).clamp(-5.0, 1.0)

    def decode(self, z: Tensor, arm: Tensor) -> Tensor:
        """Mean of p(y | z, t) as a score, (n_members, n)."""
        code = self._code(arm).expand(self.n_members, -1, -1)
        return z[..., 0] + self.decoder(torch.cat([z, code], -1)).squeeze(-1)

    def _code(self, arm: Tensor) -> Tensor:
        return nn.functional.one_hot(arm, self.n_arms).float()

    def loss(self, score: Tensor, context: Tensor, arm: Tensor, weights: Weights, generator: torch.Generator) -> Tensor:
        """The three terms of VCI for rows observed under `arm`, against one other arm each; (n_members, n)."""
        score = score.expand(self.n_members, -1)
        shift = torch.randint(1, self.n_arms, arm.shape, generator=generator, device=arm.device)
        other = (arm + shift) % self.n_arms
        mean, log_sd = self.abduct(score, context, arm)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        z = mean + log_sd.exp() * noise
        value = 0.5 * ((score - self.decode(z, arm)) / weights.noise) ** 2
        moved, moved_log_sd = self.abduct(score + _STEP, context, arm)
        decoded = self.decode(z, other)
        slope = (self.decode(moved + moved_log_sd.exp() * noise, other) - decoded) / _STEP
        drawn = decoded + weights.noise * torch.randn(decoded.shape, generator=generator, device=decoded.device)
        value = value + weights.density * (0.5 * drawn**2 - slope.abs().clamp_min(1e-6).log())
        other_mean, other_log_sd = self.abduct(drawn, context, other)
        return value + weights.consistency * normal_kl(mean, log_sd, other_mean, other_log_sd)

    @torch.no_grad()
    def transport(self, score: Tensor, context: Tensor, arm: Tensor, noise: Tensor, sd: float) -> Tensor:
        """Scores under every arm, (n_members, n, n_draws, n_arms), of units whose score under `arm` is known.

        Parameters
        ----------
        score : Tensor of shape (n_members, n, n_draws)
        noise : Tensor of shape (n_members, n_draws, latent_dim + 1)
            Standard normal: of the latents, and of p(y | z, t), whose sd is `sd`. The same for all rows.
        """
        n, n_draws = score.shape[1:]
        rows = torch.arange(n).repeat_interleave(n_draws)
        mean, log_sd = self.abduct(score.flatten(1), context[rows], arm[rows])
        eps = noise[:, None].expand(-1, n, -1, -1).flatten(1, 2)
        z = mean + log_sd.exp() * eps[..., :-1]
        arms = [self.decode(z, torch.full_like(rows, k)) + sd * eps[..., -1] for k in range(self.n_arms)]
        return torch.stack(arms, -1).unflatten(1, (n, n_draws))


@dataclass(frozen=True)
class Weights:
    """Of the terms of VCI's loss: omega, lambda, and the sd of p(y | z, t)."""

    density: float
    consistency: float
    noise: float


class VCI(LocationScaleEstimator):
    r"""Variational causal inference (Wu, McConnell & Iriondo, ICLR 2025): counterfactuals of *observed* units.

    What would have been this patient's outcome under the other arm, given the outcome that was seen? An encoder
    :math:`q(z \mid y, x, t)` abducts what made the outcome what it was, a decoder :math:`p(y \mid z, t')` replays it
    under another arm, :math:`y'`. They minimise

    .. math:: -E_q \log p(y \mid z, t) - \omega\, E_q \log \hat p(y' \mid x, t')
              + \lambda\, KL\big(q(z \mid y, x, t) \,\|\, q(z \mid y', x, t')\big),

    with :math:`\hat p` a density model of the outcomes: here :math:`Y(a) = g^{-1}(m_a(x) + s_a(x) Q_a(V))`, V standard
    normal, from a batched ensemble with a Bayesian last layer and the pooled law of held-out residuals. Encoder and
    decoder see outcomes as scores V. `predict_outcomes` gives the law of units whose outcome is not known yet,
    `counterfactual` that of units whose outcome is.

    **What is assumed.** No data identify individual counterfactuals: the joint law of Y(0) and Y(1) is never seen.
    Here the same latent stands behind the outcome in all arms (the noise is shared but for `noise`), and, as the
    correction starts at the identity and the loss forbids it to turn back, a unit that did well for its covariates
    under one arm does as well for its covariates under another (comonotone, rank-preserving). Where arms have noise
    of their own, the counterfactual's spread is too small. Averages over units (`predict`) need none of this, only
    that all confounders are measured.

    Parameters
    ----------
    outcome : {"auto", "continuous", "binary", "count"}
        As in `DiffPO`. A count has a score only up to the part of a unit that it was rounded by, which is drawn. For a
        binary outcome the assumption leaves nothing to learn: the latent is a threshold variable, and P(y' = 1) is
        min(1, p' / p) after an event and max(0, (p' - p) / (1 - p)) after none.
    control : label, optional
        The control arm; by default one with a name like "control", "placebo" or 0, else the first in order.
    density_weight, consistency_weight : float
        The paper's :math:`\omega` and :math:`\lambda`.
    noise : float
        Sd of p(y | z, t) in units of the outcome's conditional sd: what an outcome does not share with its
        counterfactual. It cannot be learned; to raise it is to assume less.
    latent_dim : int
        Length of z.
    nuisance : Nuisance, optional
        Your own cross-fitting set-up.
    n_networks : int, optional
        Networks of the density model; by default 16 below 4,000 rows, else 8.
    hidden : int
        Width of their hidden layers.
    n_draws : int
        Outcome draws per member.
    epochs : int, optional
        At most so many passes in either training; by default a budget of 1,200 steps of 128 rows.
    lr, weight_decay : float
        AdamW, for the density model.
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
        The training rows' outcomes from models that had held them out; None in a loaded model.

    Notes
    -----
    Deviations from the paper. Alone, :math:`-\log \hat p(y')` is least where every y' is the mode of its density,
    so counterfactuals lose their spread. We add :math:`-\log |\partial y' / \partial y|` (a difference quotient with
    the same latent noise): by the change of variables the term is then the divergence of the law of y' from
    :math:`\hat p`. The paper's density is a kernel estimate or an adversary; its encoder sees x, ours the
    means, spreads and nuisances of x, on whose scale the outcome is a score.

    References
    ----------
    Wu, McConnell & Iriondo (2025), Counterfactual generative modeling with variational causal inference, arXiv
    2410.12730. Pearl (2009), Causality, 7.1 (abduction, action, prediction).

    Examples
    --------
    >>> from effects import VCI
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> est = VCI(epochs=5, n_networks=4, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> seen = est.counterfactual(data.X, data.y, treatment=data.treatment)
    >>> seen.n_samples, seen.arms == est.arms_
    (200, True)
    >>> other = est.counterfactual(data.X, data.y, treatment=data.treatment, arm=est.arms_[1])
    >>> other.interval(0.9)[0].shape
    (200, 1)
    """

    _paper = "Wu et al., ICLR 2025, arXiv 2410.12730"
    _sizes = (*LocationScaleEstimator._sizes, "latent_dim")
    _rates = (*LocationScaleEstimator._rates, "density_weight", "consistency_weight", "noise")

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        density_weight: float = 1.0,
        consistency_weight: float = 1.0,
        noise: float = 0.1,
        latent_dim: int = 4,
        nuisance: Nuisance | None = None,
        n_networks: int | None = None,
        hidden: int = 64,
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
        self.density_weight = density_weight
        self.consistency_weight = consistency_weight
        self.noise = noise
        self.latent_dim = latent_dim
        self.nuisance = nuisance
        self.n_networks = n_networks
        self.hidden = hidden
        self.n_draws = n_draws
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self) -> None:
        super()._check_params()
        if self.noise == 0:
            raise ValueError("noise must be positive: p(y | z, t) needs a density. 0.01 is as good as none.")

    # ------------------------------------------------------------------ fit

    def _fit_scores(self, data: TrainingData, context: Tensor, scores: Tensor) -> tuple[dict[str, Any], NDArray[Any]]:
        settings = self._settings(data, "latent", ema=0.98)
        generator, arm = torch.Generator().manual_seed(settings.seed), torch.from_numpy(data.a)
        shape = (_MODELS, context.shape[1], data.schema.n_arms, _HIDDEN, self.latent_dim)
        network = AbductionNetwork(*shape, generator).to(settings.device)
        folds = held_out(_MODELS, arm, _MODELS, generator)
        weights = Weights(self.density_weight, self.consistency_weight, self.noise)
        v, c, t = (tensor.to(settings.device) for tensor in (scores, context, arm))

        def loss(rows: Tensor, rng: torch.Generator) -> Tensor:
            return network.loss(v[rows], c[rows], t[rows], weights, rng)

        weight = torch.from_numpy(data.weight.astype(np.float32)).expand(_MODELS, -1)
        history = train([Objective(network, loss, lr=1e-3, weight_decay=1e-3)], weight, folds, settings)
        network = network.to("cpu").requires_grad_(False)
        fitted = {"abduction_": network, "history_": [{"stage": "latent", **entry} for entry in history]}
        nodes = self._transported(network, context, self.n_draws, folds.int().argmax(0))
        return fitted, nodes[0].astype(np.float64)

    # ------------------------------------------------------------------ predict

    def _scores(self, context: Tensor, n_draws: int, rng: np.random.Generator) -> Array:
        return self._transported(self.abduction_, context, n_draws).astype(np.float64)

    def _transported(
        self, network: AbductionNetwork, context: Tensor, n_draws: int, member: Tensor | None = None
    ) -> NDArray[np.float32]:
        """Quantiles of scores in every arm, (n_members, n_draws, n, n_arms); of one `member` a row, or of all.

        Normal scores under each arm are taken to all arms; the quantiles are averaged over where they came from.
        """
        nodes = torch.from_numpy(normal_nodes(n_draws)).float()
        noise, parts = _noise(network, n_draws), []
        for rows in torch.arange(len(context)).split(_ROWS):
            score = nodes.expand(network.n_members, len(rows), -1)
            total: Tensor | float = 0.0
            for k in range(network.n_arms):
                found = network.transport(score, context[rows], torch.full_like(rows, k), noise, self.noise)
                total = total + found.sort(dim=2).values / network.n_arms
            assert isinstance(total, Tensor)
            parts.append(total if member is None else total[member[rows], torch.arange(len(rows))][None])
        return torch.cat(parts, 1).transpose(1, 2).numpy()

    def counterfactual(
        self,
        X: ArrayLike | pd.DataFrame,
        y: ArrayLike,
        *,
        treatment: ArrayLike,
        arm: Hashable = None,
        n_draws: int | None = None,
    ) -> PotentialOutcomes:
        """Outcomes that observed units would have had, given the outcome they did have.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            The observed outcomes: not those of training, unless they are asked about.
        treatment : array-like of shape (n_samples,)
            The arm under which each was observed.
        arm : label, optional
            The arm of the counterfactual; by default all arms, so that ``.effect()`` is each unit's own effect.
        n_draws : int, optional
            Draws per member, by default 16; a binary outcome has one probability.

        Returns
        -------
        PotentialOutcomes
            With ``arms == (arm,)`` or `arms_`. A unit's outcome under the arm it was observed in is `y` itself.

        Raises
        ------
        ValueError
            If `arm` is no arm of the estimator, lengths differ, or y or treatment is not what `fit` has seen.
        """
        self._check_fitted()
        if arm is not None and arm not in self.arms_:
            raise ValueError(
                f"arm={arm!r} is no arm of this estimator: name one of {', '.join(map(repr, self.arms_))}."
            )
        if n_draws is not None and (not isinstance(n_draws, int | np.integer) or n_draws is True or n_draws < 1):
            raise ValueError(f"n_draws must be a positive int, got {n_draws!r}.")
        E, a, outcome = self._observed(X, y, treatment)
        kept = list(range(len(self.arms_))) if arm is None else [self.arms_.index(arm)]
        binary = self.schema_.outcome.kind == "binary"

        def infer(inputs: NDArray[np.float32], rows: slice, _: Any) -> Array:
            own, seen = a[rows], outcome[rows]
            draws = self._after_event(inputs, seen, own) if binary else self._replayed(inputs, seen, own, n_draws or 16)
            draws[:, :, np.arange(len(own)), own] = seen  # consistency
            return draws[..., kept]

        draws = np.concatenate(self._map(infer, E, _ROWS), axis=2)
        index = X.index if isinstance(X, pd.DataFrame) else None
        arms = tuple(self.arms_[k] for k in kept)
        kind = self.schema_.outcome.kind
        return PotentialOutcomes(draws.astype(np.float32), arms, kind, draws.mean(axis=1), index=index)

    def _after_event(self, inputs: NDArray[np.float32], y: Array, a: NDArray[np.int64]) -> Array:
        """P(y' = 1 | y, x, t) of a binary outcome with one threshold variable, (n_members, 1, n, n_arms)."""
        p = self._means(inputs)
        own = np.clip(p[:, np.arange(len(a)), a], 1e-9, 1 - 1e-9)[..., None]
        after = np.where(y[:, None] == 1, np.minimum(p / own, 1.0), np.maximum(1.0 - (1.0 - p) / (1.0 - own), 0.0))
        return after[:, None]

    def _replayed(self, inputs: NDArray[np.float32], y: Array, a: NDArray[np.int64], n_draws: int) -> Array:
        """Abduction, action, prediction: counterfactual outcomes (n_members, n_draws, n, n_arms)."""
        network, scale, rows = self.abduction_, self.scale_, np.arange(len(y))
        tensor, extra = self._tensors(inputs)
        members, log_sd = self.means_.members(tensor, extra)
        location, spread = members.numpy(), self.shrink_ * np.exp(log_sd.double().numpy())
        context = self._context(extra, location, log_sd)
        nodes = np.repeat(normal_nodes(self.n_draws)[:, None], len(self.arms_), axis=1)
        center = self.residuals_.residual(nodes).mean(axis=0)
        # one number a draw and the same for all rows, as everywhere: where an outcome lies within its rounding
        rng = np.random.default_rng(self.seed_)
        within = rng.permutation((np.arange(n_draws) + 0.5) / n_draws)[:, None]

        def score(z: Array) -> Array:
            residual = (z - location[:, None, rows, a]) / spread[rows, a] + center[a]
            return self.residuals_.score(residual.ravel(), np.broadcast_to(a, residual.shape).ravel()).reshape(
                residual.shape
            )

        v = score(scale.encode(y + within * scale.whole))
        v = np.broadcast_to(v, (len(location), n_draws, len(y))).copy()
        if scale.lowest is not None and not scale.whole and (atom := y == scale.lowest).any():
            # all that is known of an outcome at its smallest value is that its score lies below the threshold
            below = ndtr(score(np.broadcast_to(scale.encode(y + scale.gap), (1, len(y)))))
            v[..., atom] = ndtri(np.maximum(below * within, 1e-12))[..., atom]
        moved = self._moved(network, v, context, torch.from_numpy(a), _noise(network, n_draws))
        residual = self.residuals_.residual(moved) - center
        return scale.decode(location[:, None] + spread * residual)

    def _moved(self, network: AbductionNetwork, v: Array, context: Tensor, arm: Tensor, noise: Tensor) -> Array:
        """Scores (n_members, n_draws, n, n_arms) from observed ones; members take the networks in turn, as draws do."""
        n_members, k = len(v), network.n_members
        rounds = -(-n_members // k)
        padded = torch.from_numpy(v[np.arange(rounds * k) % n_members]).float().unflatten(0, (rounds, k))
        found = [network.transport(part.transpose(1, 2), context, arm, noise, self.noise) for part in padded]
        return torch.cat(found)[:n_members].transpose(1, 2).double().numpy()

    # ------------------------------------------------------------------ save / load

    def _scores_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = dict(self.abduction_.state_dict())
        return tensors, {"latent_dim": self.abduction_.latent_dim, "hidden": _HIDDEN, "n_models": _MODELS}

    def _set_scores_state(
        self, tensors: dict[str, Tensor], state: dict[str, Any], context: int, n_arms: int
    ) -> dict[str, Any]:
        n_models, hidden, latent_dim = (int(state[name]) for name in ("n_models", "hidden", "latent_dim"))
        network = AbductionNetwork(n_models, context, n_arms, hidden, latent_dim, torch.Generator())
        network.load_state_dict(tensors)
        return {"abduction_": network.requires_grad_(False)}


def _noise(network: AbductionNetwork, n_draws: int) -> Tensor:
    """Standard normals (n_members, n_draws, latent_dim + 1), always the same."""
    shape = (network.n_members, n_draws, network.latent_dim + 1)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
