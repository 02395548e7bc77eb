"""CEVAE: latent variables behind covariates, treatment and outcome."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from effects.models.location_scale import LocationScaleEstimator
from effects.nn.last_layer import ArmPosterior
from effects.nn.latent import CHUNK, ColumnLaws, LatentNetwork, normal_kl
from effects.nn.means import ConditionalMeans, OutOfSample, _last_layer
from effects.nn.networks import ArmNetwork
from effects.nn.scale import OutcomeScale, ResidualLaw, normal_nodes, own_share
from effects.nn.training import Objective, Settings, held_out, train
from effects.nuisance import Nuisance
from effects.outcomes import PotentialOutcomes
from effects.persistence import part
from effects.rows import TrainingData
from effects.schema import Schema

Array = NDArray[np.float64]
_FOLDS = 7  # a seventh of the rows is held out for each network's early stopping
_ACTIVE = 0.01  # variance over rows above which a latent is in use (Burda, Grosse & Salakhutdinov 2016, section 5.2)


@dataclass(frozen=True)
class _HeldOut(OutOfSample):
    """Also the law of the outcome around that mean, as sorted draws (n_draws, n, n_arms)."""

    law: Tensor


@dataclass(frozen=True)
class LatentCheck:
    """What a CEVAE's latent variables do, as `CEVAE.latent_check` finds it.

    Attributes
    ----------
    used : bool
        Whether outcomes are more likely with latents inferred from x than with latents from the prior, by more than
        two standard errors. Where they are not, the effect rests on x alone, as in any regression, and the model says
        nothing of a hidden confounder.
    n_active : float
        Latents whose posterior mean varies over rows (variance above 0.01), averaged over networks.
    gain, gain_se : float
        Mean gain in log likelihood of the observed outcomes by inferring the latents, in nats a row.
    effect_shift : float
        Root mean square change of the decoder's CATE when the latents are drawn from the prior; in standard deviations
        of the outcome (on the modelling scale), or as a risk difference.
    table : DataFrame
        By rank of a latent within its network: ``kl`` (of q(z | x, t, y) from the prior, in nats a row) and ``active``
        (share of networks in which it is in use), averaged over networks.
    """

    used: bool
    n_active: float
    gain: float
    gain_se: float
    effect_shift: float
    table: pd.DataFrame

    def __str__(self) -> str:
        verb = "are" if self.used else "are not"
        return (
            f"The latents {verb} used by the outcome: inferring them changes the log likelihood by {self.gain:.3f} "
            f"(standard error {self.gain_se:.3f}) nats a row and the CATE by {self.effect_shift:.3f} outcome sd; "
            f"{self.n_active:.1f} of {len(self.table)} vary over rows."
        )


class CEVAE(LocationScaleEstimator):
    r"""Causal effect variational autoencoder (Louizos, Shalit, Mooij, Sontag, Zemel & Welling, NeurIPS 2017).

    A latent z stands behind covariates, treatment and outcome, of which x are noisy proxies:

    .. math:: \log p \ge E_q\big[\log p(x \mid z) + \log p(t \mid z) + \log p(y \mid t, z)
              + \log p(z) - \log q(z \mid x, t, y)\big], \qquad p(z) = N(0, I),

    plus :math:`\log q(t \mid x) + \log q(y \mid x, t)` (eqs. 8-9), for an ensemble trained at once. For a unit,
    t and y are drawn from :math:`q(t \mid x)\, q(y \mid x, t)`, z from :math:`q(z \mid x, t, y)`, and y(a) from
    :math:`p(y \mid a, z)`: the same z and noise in all arms. Numbers have normal laws with a learned sd, two-valued
    columns Bernoulli laws and categories categorical ones; missing numbers have no likelihood.

    **Hidden confounding.** The model can adjust for a confounder that was not measured only if x holds enough proxies
    of it *and* the latent model is right. Neither can be seen in the data, and where the latent model is wrong the
    estimate does not become right with more rows (Rissanen & Marttinen 2021). `latent_check` says whether the latents
    do anything at all; it cannot say that they are the confounder.

    Parameters
    ----------
    outcome : {"auto", "continuous", "binary", "count"}
        Continuous outcomes are modelled as they are, or as their logarithm where that is closer to normal; counts
        spread over [y, y + 1) as logarithms, and rounded down; binary ones by their probability.
    control : label, optional
        The control arm; by default one with a name like "control", "placebo" or 0, else the first in order.
    condition_on_covariates : bool
        Whether the outcome's decoder is :math:`p(y \mid t, z, x)`. False is the paper's model, in which all that y
        has of x must pass through z. Measured on IHDP 1, 4, 9: sqrt PEHE 0.47 against 1.50, the worst 0.85 against 3.5.
    covariate_weight : float
        Weight of :math:`\log p(x \mid z)`; 1 is the paper's. With p columns to explain and one outcome, early
        stopping looks at x alone; on IHDP 0.2 lowers sqrt PEHE from 0.53 to 0.46 and halves the time.
    nuisance : Nuisance, optional
        Your own cross-fitting set-up.
    n_networks : int, optional
        Two or more; by default 16 below 2,000 rows, else 8.
    hidden, latent_dim : int
        Width of the hidden layers (two or three in each network; the paper's are three of 200), and length of z.
    n_draws : int
        Outcome draws per member.
    epochs : int, optional
        At most so many passes; by default a budget of 1,200 steps of 128 rows, ended early by held-out rows.
    lr, weight_decay : float
        AdamW.
    device : str
        ``"auto"`` trains on a GPU where there is one. Prediction is on the CPU.
    random_state : int, RandomState or None
    verbose : int
        1 shows a progress bar on standard error.

    Attributes
    ----------
    schema_, arms_, nuisance_, history_, n_features_in_, feature_names_in_
        As in `EffectEstimator`.
    held_out_ : PotentialOutcomes or None
        The training rows' outcomes from networks that had held them out; None in a loaded model.

    Notes
    -----
    Deviations from the paper beyond the two parameters above. The decoder's mean is linear in its last hidden layer,
    so :math:`E[Y(a) \mid x]` is linear in that layer's average over z: after training its weights are replaced by
    their posterior (`effects.nn.last_layer`), whose draws are the members. The cross-fitted nuisances are basis
    functions of that regression, and proxies (inputs of the networks) in a quarter of the ensemble. The sd of y is
    heteroscedastic and learned (the paper's is 1). The law around the mean is the decoder's mixture over z, with
    levels recalibrated on rows that the networks had held out. SiLU for ELU; narrower networks are as accurate.

    References
    ----------
    Louizos et al. (2017), arXiv 1705.08821, eqs. 5-9. Rissanen & Marttinen (2021), arXiv 2102.06648. Burda, Grosse
    & Salakhutdinov (2016), arXiv 1509.00519. Kuleshov, Fenner & Ermon (2018), arXiv 1807.00263 (recalibration).

    Examples
    --------
    >>> from effects import CEVAE
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> est = CEVAE(epochs=3, n_networks=4, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> est.predict(data.X).shape
    (200,)
    >>> check = est.latent_check(data.X, data.y, treatment=data.treatment)
    >>> len(check.table)
    20
    """

    _paper = "Louizos et al., NeurIPS 2017, arXiv 1705.08821"
    _sizes = (*LocationScaleEstimator._sizes, "latent_dim")
    _rates = (*LocationScaleEstimator._rates, "covariate_weight")

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        condition_on_covariates: bool = True,
        covariate_weight: float = 0.2,
        nuisance: Nuisance | None = None,
        n_networks: int | None = None,
        hidden: int = 32,
        latent_dim: int = 20,
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
        self.condition_on_covariates = condition_on_covariates
        self.covariate_weight = covariate_weight
        self.nuisance = nuisance
        self.n_networks = n_networks
        self.hidden = hidden
        self.latent_dim = latent_dim
        self.n_draws = n_draws
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------ fit

    def _fit_ensemble(
        self, data: TrainingData, inputs: Tensor, extra: Tensor, z: Tensor, weight: Tensor, settings: Settings
    ) -> tuple[ConditionalMeans, list[dict[str, float]]]:
        generator = torch.Generator().manual_seed(settings.seed)
        n_members, n_inputs, binary = self._n_networks(len(z)), inputs.shape[1], data.schema.outcome.kind == "binary"
        seen = torch.ones(n_members, n_inputs)
        seen[max(1, n_members // 4) :, n_inputs - extra.shape[1] :] = 0.0
        shape = (n_members, n_inputs, data.E.shape[1], data.schema.n_arms, self.hidden, self.latent_dim)
        network = LatentNetwork(*shape, self.condition_on_covariates, binary, generator, seen).to(settings.device)
        arm = torch.from_numpy(data.a)
        columns = ColumnLaws.learn(data.schema, data.E).to(settings.device)
        x, y, t = (v.to(settings.device) for v in (inputs, z, arm))

        def loss(rows: Tensor, rng: torch.Generator) -> Tensor:
            return network.loss(x, y, t, columns, rows, self.covariate_weight, rng)

        validation = held_out(n_members, arm, min(_FOLDS, n_members), generator)
        objective = Objective(network, loss, self.lr, self.weight_decay)
        history = train([objective], weight.expand(n_members, -1), validation, settings)
        network = network.to("cpu").requires_grad_(False)
        # the last layer asks for a network's features and heads alone
        means = _last_layer(cast(ArmNetwork, network), inputs, extra, arm, z, weight, validation, binary, generator)
        held = means.out_of_sample
        assert held is not None
        law = network.laws(inputs, validation.int().argmax(0))
        return replace(means, out_of_sample=_HeldOut(held.mean, held.log_sd, law)), history

    def _fit_residuals(
        self, data: TrainingData, scale: OutcomeScale, z: Array, held: OutOfSample, variance: Array, context: Tensor
    ) -> dict[str, Any]:
        """Calibrate the decoder's mixture, by the scores of held-out outcomes in it."""
        assert isinstance(held, _HeldOut)
        n_arms, rows = data.schema.n_arms, np.arange(len(z))
        spread = held.log_sd.double().exp().numpy()
        residual = z - held.mean.numpy()[rows, data.a]
        law = held.law.double().numpy()
        residuals = ResidualLaw.learn(_scores_in(law[:, rows, data.a], residual), data.a, data.weight, n_arms)
        # held-out residuals hold the networks' own error too, which the members will add again: take its share out
        shrink, standard = np.ones(n_arms), residual / spread[rows, data.a]
        for k in range(n_arms):
            own = data.a == k
            carried = variance[own, k] / spread[own, k] ** 2
            shrink[k] = own_share(standard[own], carried, data.weight[own])
        honest = held.mean.numpy() + _calibrated(law[None], residuals, self.n_draws)[0]
        if scale.lowest is not None:
            scale = scale.with_atom(honest[:, rows, data.a], np.average(data.y == scale.lowest, weights=data.weight))
        draws = scale.decode(honest)[None].astype(np.float32)
        result = PotentialOutcomes(draws, data.schema.arms, data.schema.outcome.kind)
        fitted = {"residuals_": residuals, "shrink_": shrink, "scale_": scale, "held_out_": result, "history_": []}
        return fitted

    def _n_networks(self, n: int) -> int:
        if self.n_networks is not None:
            return self.n_networks
        return 16 if n < 2000 else 8

    def _check_params(self) -> None:
        super()._check_params()
        if self.n_networks is not None and self.n_networks < 2:
            raise ValueError("n_networks must be at least 2: each row is judged by networks that did not train on it.")
        if not isinstance(self.condition_on_covariates, bool | np.bool_):
            raise ValueError(f"condition_on_covariates must be True or False, got {self.condition_on_covariates!r}.")

    # ------------------------------------------------------------------ predict

    def _sample(
        self, inputs: NDArray[np.float32], n_draws: int | None, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], Array | None]:
        tensor, extra = self._tensors(inputs)
        location = self.means_.members(tensor, extra)[0].numpy()
        if self.schema_.outcome.kind == "binary":
            return (1.0 / (1.0 + np.exp(-location)))[:, None].astype(np.float32), None
        law = self._network.laws(tensor).numpy()
        residual = self.shrink_ * _calibrated(law, self.residuals_, n_draws or self.n_draws)
        which = np.repeat(np.arange(len(law)), len(location) // len(law))  # members of a network follow each other
        draws = self.scale_.decode((location[:, None] + residual[which]).astype(np.float32)).astype(np.float32)
        return draws, (location * self.scale_.spread + self.scale_.center) if self._exact_means() else None

    @property
    def _network(self) -> LatentNetwork:
        return cast(LatentNetwork, self.means_.network)

    def latent_check(self, X: ArrayLike | pd.DataFrame, y: ArrayLike, *, treatment: ArrayLike) -> LatentCheck:
        """Whether the latent variables are used at all: by the data, by the outcome's likelihood, by the effect.

        A variational autoencoder may leave its latents unused (posterior collapse), above all where the decoder sees
        x. Best asked of rows that were not used to fit.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        treatment : array-like of shape (n_samples,)

        Returns
        -------
        LatentCheck
            ``print`` it for a sentence.
        """
        E, a, outcome = self._observed(X, y, treatment)
        network = self._network
        z = outcome if network.binary else self.scale_.encode(outcome + 0.5 * self.scale_.whole)

        @torch.no_grad()
        def inspect(inputs: NDArray[np.float32], rows: slice, _: Any) -> tuple[Tensor, ...]:
            tensor, arm, own = torch.from_numpy(inputs), torch.from_numpy(a[rows]), torch.from_numpy(z[rows]).float()
            mean, log_sd = (v.squeeze(2) for v in network.infer(tensor, own[None, :, None], arm[None, :, None]))
            zero = torch.zeros_like(mean)[..., None]
            found = [mean, normal_kl(mean[..., None], log_sd[..., None], zero, zero)]
            prior = network.noise_z[:, None].expand(-1, len(tensor), -1, -1)
            for latents in (network.draw_latents(tensor), prior):
                heads = torch.stack(network.generate(tensor, latents)[1:], -1)
                factual = heads[:, torch.arange(len(arm)), :, arm]  # n, n_members, n_draws, 2
                likelihood = -network.outcome_nll(factual, own[:, None, None]).flatten(1)
                found.append(torch.logsumexp(likelihood, 1) - np.log(likelihood.shape[1]))
                value = torch.sigmoid(heads[..., 0]) if network.binary else heads[..., 0]
                found.append((value[..., 1:] - value[..., :1]).mean((0, 2)))
            return tuple(found)

        parts = self._map(inspect, E, CHUNK)
        mean, kl = (torch.cat([part[k] for part in parts], 1).double() for k in (0, 1))
        inferred, effect, prior, other = (torch.cat([part[k] for part in parts]).double() for k in (2, 3, 4, 5))
        gain, n = inferred - prior, max(len(E), 2)
        order = kl.mean(1).argsort(1, descending=True)
        active = (mean.var(1, unbiased=False) > _ACTIVE).double()
        table = {"kl": kl.mean(1).gather(1, order).mean(0).numpy(), "active": active.gather(1, order).mean(0).numpy()}
        index = pd.RangeIndex(1, kl.shape[2] + 1, name="latent")
        average, error = float(gain.mean()), float(gain.std(unbiased=False)) / float(np.sqrt(n - 1))
        shift = float((effect - other).square().mean().sqrt())
        n_active = float(active.sum(1).mean())
        return LatentCheck(average > 2 * error, n_active, average, error, shift, pd.DataFrame(table, index=index))

    # ------------------------------------------------------------------ save / load

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays, state = super()._get_state()
        return arrays, state | {"latent_dim": self._network.noise_z.shape[2], "conditioned": self._network.conditioned}

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        tensors = {k: torch.from_numpy(v) for k, v in part(arrays, "means").items()}
        names = ("n_networks", "n_inputs", "hidden", "latent_dim")
        n_members, n_inputs, hidden, latent_dim = (int(state[name]) for name in names)
        shape = (n_members, n_inputs, len(schema.feature_names), schema.n_arms, hidden, latent_dim)
        binary = schema.outcome.kind == "binary"
        network = LatentNetwork(*shape, bool(state["conditioned"]), binary, torch.Generator()).requires_grad_(False)
        network.load_state_dict(part(tensors, "network"))
        posterior = ArmPosterior(*(tensors[name] for name in ("mean", "factor", "noise_sd", "alpha")))
        means = ConditionalMeans(cast(ArmNetwork, network), tensors["rotation"], posterior, tensors["normals"])
        fitted: dict[str, Any] = {
            "means_": means,
            "scale_": OutcomeScale(**state["scale"]),
            "shrink_": arrays["shrink"],
        }
        fitted |= {"residuals_": None, "log_nuisance_": None, "held_out_": None}
        if "scores" in state:
            fitted["residuals_"] = ResidualLaw(arrays["residuals.scores"], arrays["residuals.values"])
        if "log_nuisance" in state:
            fitted["log_nuisance_"] = Nuisance.from_arrays(part(arrays, "log_nuisance"), state["log_nuisance"])
        return fitted


def _scores_in(law: Array, value: Array) -> Array:
    """Normal scores (n,) of values in laws given as sorted draws (n_draws, n); linear between and beyond the draws."""
    n_draws, rows = len(law), np.arange(len(value))
    nodes, reach = normal_nodes(n_draws), min(4, n_draws - 1)
    low = np.clip((law < value).sum(0) - 1, 0, n_draws - 2)
    high = low + 1
    below, above = value < law[0], value > law[-1]
    low, high = np.where(above, n_draws - 1 - reach, low), np.where(below, reach, high)
    gap = np.maximum(law[high, rows] - law[low, rows], 1e-9)
    return nodes[low] + (nodes[high] - nodes[low]) * (value - law[low, rows]) / gap


def _calibrated(law: NDArray[Any], residuals: ResidualLaw, n_draws: int) -> Array:
    """Centred draws (n_models, n_draws, n, n_arms) of laws (n_models, n_sorted, n, n_arms) at calibrated levels.

    Both steps are linear in the sorted draws, and the same for all rows of an arm: one matrix an arm.
    """
    n_sorted, n_arms = law.shape[1], law.shape[3]
    nodes, reach = normal_nodes(n_sorted), min(4, n_sorted - 1)
    at = residuals.residual(np.repeat(normal_nodes(n_draws)[:, None], n_arms, axis=1))
    low = np.clip(np.searchsorted(nodes, at) - 1, 0, n_sorted - 2)
    high = np.where(at < nodes[0], reach, low + 1)
    low = np.where(at > nodes[-1], n_sorted - 1 - reach, low)
    share = (at - nodes[low]) / (nodes[high] - nodes[low])
    matrix = np.zeros((n_draws, n_arms, n_sorted))
    draw, arm = np.indices(at.shape)
    matrix[draw, arm, low] += 1.0 - share
    matrix[draw, arm, high] += share
    matrix -= matrix.mean(axis=0)
    return np.einsum("das,ksna->kdna", matrix, law, optimize=True)
