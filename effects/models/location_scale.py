"""What DiffPO, the TARNet family and the flows share: Y(a) = g^-1(m_a(x) + s_a(x) R), with a posterior over m."""

from __future__ import annotations

from abc import ABC
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import Tensor

from effects.estimator import EffectEstimator
from effects.nn.means import ConditionalMeans, MeansConfig, OutOfSample, fit_means, means_from_state, means_state
from effects.nn.scale import (
    OutcomeScale,
    ResidualLaw,
    may_be_log,
    normal_nodes,
    nuisance_columns,
    own_share,
    prefers_log,
)
from effects.nn.training import Settings, resolve_device
from effects.nuisance import Nuisance, NuisanceValues
from effects.outcomes import PotentialOutcomes
from effects.persistence import named, part
from effects.rows import TrainingData, chunks
from effects.schema import Schema
from effects.schema.checks import check_rates, check_sizes

Array = NDArray[np.float64]
_STEPS = 1200
_ROWS = 8192  # whose laws are in double precision at a time


class LocationScaleEstimator(EffectEstimator, ABC):
    r"""Base of the estimators whose outcome is a conditional mean, a conditional scale, and a residual.

    .. math:: Y(a) = g^{-1}\big(m_a(x) + s_a(x)\, Q_a(U)\big)

    with :math:`g` the outcome's scale, :math:`m_a` (posterior members) and :math:`s_a` from a batched ensemble with
    a Bayesian last layer, and :math:`Q_a` the pooled law of residuals that the ensemble's members had held out. Here
    :math:`U` is standard normal, so the residual law is the pooled one; a subclass may give U a law that depends on
    x: `_fit_scores`, `_scores` and their state.

    A binary outcome is one probability per member, unit and arm, from a Bayesian logistic last layer.
    """

    # constructor parameters of every subclass
    n_networks: int | None
    hidden: int
    n_draws: int
    epochs: int | None
    lr: float
    weight_decay: float
    device: str
    verbose: int
    amp: bool = False

    _sizes: ClassVar[tuple[str, ...]] = ("n_networks", "hidden", "n_draws", "epochs")
    _rates: ClassVar[tuple[str, ...]] = ("lr", "weight_decay")

    # ------------------------------------------------------------------ what a subclass may write

    def _fit_weight(self, data: TrainingData) -> Array:
        """Weights (n,) of the rows in the means' losses."""
        return data.weight

    def _fit_ensemble(
        self, data: TrainingData, inputs: Tensor, extra: Tensor, z: Tensor, weight: Tensor, settings: Settings
    ) -> tuple[ConditionalMeans, list[dict[str, float]]]:
        """The ensemble with its Bayesian last layer."""
        config = MeansConfig(self._n_networks(len(z)), self.hidden, self.lr, self.weight_decay)
        binary = data.schema.outcome.kind == "binary"
        arm = torch.from_numpy(data.a)
        plan = (settings.epochs, settings.batch_size, settings.patience, settings.seed, settings.amp)
        key = ("means", config, plan, str(settings.device), weight.numpy().tobytes())
        if key not in data.shared:
            rows = (inputs, extra, arm, z, weight)
            data.shared[key] = fit_means(*rows, data.schema.n_arms, binary, config, settings)
        return data.shared[key]

    def _fit_scores(self, data: TrainingData, context: Tensor, scores: Tensor) -> tuple[dict[str, Any], NDArray[Any]]:
        """Fitted attributes (with ``history_``) of a law of the normal scores of residuals given `context`.

        Returns
        -------
        fitted : dict
        nodes : ndarray of shape (n_draws, n, n_arms)
            Quantiles of every training row's score, from models that had held the row out.
        """
        nodes = normal_nodes(self.n_draws)[:, None, None]
        return {"history_": []}, np.broadcast_to(nodes, (self.n_draws, len(context), data.schema.n_arms))

    def _scores(self, context: Tensor, n_draws: int, rng: np.random.Generator) -> Array:
        """Normal scores of residuals, (n_models, n_draws, n, n_arms), all equally likely."""
        nodes = normal_nodes(n_draws)[None, :, None, None]
        return np.broadcast_to(nodes, (1, n_draws, len(context), len(self.arms_)))

    def _scores_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values of what `_fit_scores` fitted."""
        return {}, {}

    def _set_scores_state(
        self, tensors: dict[str, Tensor], state: dict[str, Any], context: int, n_arms: int
    ) -> dict[str, Any]:
        """The inverse of `_scores_state`; `context` is the number of columns of the context."""
        return {}

    # ------------------------------------------------------------------ fit

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        kind, n_arms = data.schema.outcome.kind, data.schema.n_arms
        if "scale" not in data.shared:
            data.shared["scale"] = _learn_scale(data, kind)
        scale, log_nuisance = data.shared["scale"]
        values = (log_nuisance or data.nuisance).out_of_fold_
        columns = nuisance_columns(values, scale, kind, log_nuisance is not None)
        inputs = torch.from_numpy(np.concatenate([data.E, columns], axis=1, dtype=np.float32))
        extra = torch.from_numpy(columns.astype(np.float32))
        rng = np.random.default_rng(data.seed)
        z = data.y if kind == "binary" else scale.encode(data.y + 0.5 * scale.whole)
        weight = torch.from_numpy(self._fit_weight(data).astype(np.float32))
        target = torch.from_numpy(z.astype(np.float32))
        means, history = self._fit_ensemble(data, inputs, extra, target, weight, self._settings(data, "means"))
        fitted: dict[str, Any] = {
            "scale_": scale,
            "log_nuisance_": log_nuisance,
            "means_": replace(means, out_of_sample=None),
        }
        fitted |= {"history_": [{"stage": "means", **entry} for entry in history]}
        fitted |= {"residuals_": None, "held_out_": None, "shrink_": np.ones(n_arms)}
        held = means.out_of_sample
        assert held is not None
        if kind == "binary":
            probability = torch.sigmoid(held.mean).float().numpy()
            fitted["held_out_"] = PotentialOutcomes(probability[None, None], data.schema.arms, kind)
            return fitted
        jittered = scale.encode(data.y + rng.random(len(z)) * scale.whole)
        context = torch.cat([extra, held.mean.float(), held.log_sd.float()], dim=1)
        variance = [means.variance(*rows) for rows in zip(inputs.split(4096), extra.split(4096), strict=True)]
        more = self._fit_residuals(data, scale, jittered, held, torch.cat(variance).numpy(), context)
        history = fitted["history_"] + more.pop("history_")
        return fitted | more | {"history_": history}

    def _fit_residuals(
        self, data: TrainingData, scale: OutcomeScale, z: Array, held: OutOfSample, variance: Array, context: Tensor
    ) -> dict[str, Any]:
        """The pooled residual law, the law of its scores, and what it all says of the rows it held out."""
        n_arms, rows = data.schema.n_arms, np.arange(len(z))
        spread = held.log_sd.double().exp().numpy()
        residual = (z - held.mean.numpy()[rows, data.a]) / spread[rows, data.a]
        residuals = ResidualLaw.learn(residual, data.a, data.weight, n_arms)
        scores = torch.from_numpy(residuals.score(residual, data.a).astype(np.float32))
        fitted, nodes = self._fit_scores(data, context, scores)
        # held-out residuals hold the networks' own error too, which the members will add again: take its share out
        shrink = np.ones(n_arms)
        for k in range(n_arms):
            own = data.a == k
            carried = variance[own, k] / spread[own, k] ** 2
            shrink[k] = own_share(residual[own], carried, data.weight[own])

        def honest(some: slice) -> Array:
            """Laws (n_draws, rows, n_arms) of some rows on the modelling scale."""
            noise = residuals.residual(nodes[:, some])
            return held.mean[some].numpy() + spread[some] * (noise - noise.mean(axis=0))

        blocks = list(chunks(len(z), _ROWS))
        if scale.lowest is not None:
            own = np.concatenate([honest(b)[:, np.arange(len(data.a[b])), data.a[b]] for b in blocks], axis=1)
            scale = scale.with_atom(own, np.average(data.y == scale.lowest, weights=data.weight))
        draws = np.empty((1, *nodes.shape), dtype=np.float32)
        for some in blocks:
            draws[0, :, some] = scale.decode(honest(some))
        result = PotentialOutcomes(draws, data.schema.arms, data.schema.outcome.kind)
        return fitted | {"residuals_": residuals, "shrink_": shrink, "scale_": scale, "held_out_": result}

    def _settings(self, data: TrainingData, label: str, ema: float = 0.0) -> Settings:
        n = len(data.y)
        # larger batches for more rows, so that from 10,000 rows on the passes over them do not grow in number
        batch_size = 128 * 2 ** int(np.clip(np.log2(n / 10_000), 0, 3))
        # a budget of gradient steps, whatever the number of rows; early stopping usually ends sooner
        epochs = self.epochs if self.epochs is not None else int(np.clip(_STEPS * batch_size / n, 10, 300))
        return Settings(
            epochs=epochs,
            batch_size=batch_size,
            patience=max(3, epochs // 6),
            ema=ema,
            amp=self.amp,
            seed=data.seed,
            verbose=bool(self.verbose),
            label=label,
            device=resolve_device(self.device),
        )

    def _n_networks(self, n: int) -> int:
        """More networks where rows are few: there they are cheap and disagree most."""
        if self.n_networks is not None:
            return self.n_networks
        return 16 if n < 4000 else 8

    def _check_params(self) -> None:
        super()._check_params()
        check_sizes(self, self._sizes, optional=("n_networks", "epochs"))
        check_rates(self, self._rates)
        resolve_device(self.device)

    # ------------------------------------------------------------------ predict

    def _inputs(self, E: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encoded covariates and nuisance columns."""
        return self._inputs_given(E, None)

    def _inputs_given(self, E: NDArray[np.float32], values: NuisanceValues | None) -> NDArray[np.float32]:
        if self.log_nuisance_ is not None:
            values = self.log_nuisance_.predict(E)
        elif values is None:
            values = self.nuisance_.predict(E)
        columns = nuisance_columns(values, self.scale_, self.schema_.outcome.kind, self.log_nuisance_ is not None)
        return np.concatenate([E, columns], axis=1, dtype=np.float32)

    def _tensors(self, inputs: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Inputs, and their nuisance columns alone."""
        tensor = torch.from_numpy(inputs)
        return tensor, tensor[:, len(self.schema_.feature_names) :]

    def _members(self, inputs: NDArray[np.float32]) -> Array:
        """Members' means on the modelling scale (log odds of a binary outcome), (n_members, n, n_arms)."""
        return self.means_.members(*self._tensors(inputs))[0].numpy()

    def _center(self, inputs: NDArray[np.float32]) -> Array:
        """Their mean over members, (n, n_arms)."""
        return self.means_.mean(*self._tensors(inputs)).numpy()

    def _means(self, inputs: NDArray[np.float32]) -> Array:
        if not self._exact_means():
            return super()._means(inputs)
        members = self._members(inputs)
        if self.schema_.outcome.kind == "binary":
            return 1.0 / (1.0 + np.exp(-members))
        return members * self.scale_.spread + self.scale_.center

    def _mean(self, inputs: NDArray[np.float32]) -> Array:
        if not self._exact_means() or self.schema_.outcome.kind == "binary":
            return super()._mean(inputs)
        return self._center(inputs) * self.scale_.spread + self.scale_.center

    def _exact_means(self) -> bool:
        """Whether the outcome is modelled on its own scale, so that member means need no sampling."""
        return not self.scale_.log and self.scale_.lowest is None

    def _sample(
        self, inputs: NDArray[np.float32], n_draws: int | None, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], Array | None]:
        location, residual = self._standard(inputs, n_draws or self.n_draws, rng)
        if residual is None:
            return (1.0 / (1.0 + np.exp(-location)))[:, None].astype(np.float32), None
        which = np.arange(len(location)) % len(residual)
        z = location[:, None].astype(np.float32) + residual.astype(np.float32)[which]
        draws = self.scale_.decode(z).astype(np.float32)
        return draws, (location * self.scale_.spread + self.scale_.center) if self._exact_means() else None

    def _standard(
        self, inputs: NDArray[np.float32], n_draws: int, rng: np.random.Generator
    ) -> tuple[Array, Array | None]:
        """Members' means on the modelling scale (n_members, n, n_arms), and residuals (n_models, n_draws, n, n_arms),
        which members take in turn; a binary outcome has none."""
        tensor, extra = self._tensors(inputs)
        members, log_sd = self.means_.members(tensor, extra)
        location = members.numpy()
        if self.schema_.outcome.kind == "binary":
            return location, None
        residual = self.residuals_.residual(self._scores(self._context(extra, location, log_sd), n_draws, rng))
        residual -= residual.mean(axis=1, keepdims=True)
        residual *= self.shrink_ * np.exp(log_sd.double().numpy())
        return location, residual

    def _context(self, extra: Tensor, location: Array, log_sd: Tensor) -> Tensor:
        """What the law of the scores may depend on: nuisances, mean and log sd of every arm; (n, n_columns)."""
        return torch.cat([extra, torch.from_numpy(location.mean(0)).float(), log_sd.float()], dim=1)

    # ------------------------------------------------------------------ save / load

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors = named("means", means_state(self.means_))
        network = self.means_.network
        state: dict[str, Any] = {"scale": self.scale_.to_dict()}
        state["n_networks"], state["n_inputs"], state["hidden"] = network.trunk[0].weight.shape
        arrays: dict[str, NDArray[Any]] = {"shrink": self.shrink_}
        if self.residuals_ is not None:
            arrays |= {"residuals.scores": self.residuals_.scores, "residuals.values": self.residuals_.values}
            more, state["scores"] = self._scores_state()
            tensors |= named("scores", more)
        if self.log_nuisance_ is not None:
            nuisance, state["log_nuisance"] = self.log_nuisance_.to_arrays()
            arrays |= named("log_nuisance", nuisance)
        return arrays | {name: value.numpy() for name, value in tensors.items()}, state

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        n_arms = schema.n_arms
        shape = {"n_networks": state["n_networks"], "n_inputs": state["n_inputs"], "n_arms": n_arms}
        shape["hidden"] = state["hidden"]
        fitted: dict[str, Any] = {
            "means_": means_from_state({k: torch.from_numpy(v) for k, v in part(arrays, "means").items()}, shape),
            "scale_": OutcomeScale(**state["scale"]),
            "shrink_": arrays["shrink"],
        }
        fitted |= {"residuals_": None, "log_nuisance_": None, "held_out_": None}
        if "scores" in state:
            tensors = {k: torch.from_numpy(v) for k, v in part(arrays, "scores").items()}
            context = int(state["n_inputs"]) - len(schema.feature_names) + 2 * n_arms
            fitted |= self._set_scores_state(tensors, state["scores"], context, n_arms)
            fitted["residuals_"] = ResidualLaw(arrays["residuals.scores"], arrays["residuals.values"])
        if "log_nuisance" in state:
            fitted["log_nuisance_"] = Nuisance.from_arrays(part(arrays, "log_nuisance"), state["log_nuisance"])
        return fitted


def _learn_scale(data: TrainingData, kind: str) -> tuple[OutcomeScale, Nuisance | None]:
    """The outcome's scale; where it is a logarithm of a continuous outcome, also nuisances on that scale."""
    plain = OutcomeScale.learn(data.y, kind, log=False)
    if not may_be_log(data.y, kind):
        return plain, None
    logged = OutcomeScale.learn(data.y, kind, log=True)
    z = logged.encode(data.y)
    nuisance = clone(data.nuisance)
    known = data.nuisance.known_propensity_
    nuisance.fit(data.E, z, data.a, n_arms=data.schema.n_arms, sample_weight=data.weight, propensity=known)
    own = np.arange(len(z)), data.a
    error = data.y - data.nuisance.out_of_fold_.mu[own]
    log_error = (z - nuisance.out_of_fold_.mu[own]) * logged.spread
    if prefers_log(data.y, error, logged.offset, log_error):
        return logged, nuisance
    return plain, None
