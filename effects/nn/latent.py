"""Networks with latent variables behind a mixed table, its arms and its outcome; all members at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from effects.nn.losses import bernoulli_nll, gaussian_nll
from effects.nn.networks import ArmNetwork, BatchedLinear, batched_mlp
from effects.nn.scale import normal_nodes
from effects.schema import Schema

LATENTS = 32  # latent draws a row and network
CHUNK = 256  # rows whose latent draws are decoded at once


@dataclass(frozen=True)
class ColumnLaws:
    """Which law p(x | z) gives each encoded column, and the columns as that law sees them.

    Attributes
    ----------
    normal, event : Tensor of int64
        Columns with a normal law and a learned sd; two-valued columns (bools, indicators of missing values, numbers
        with two values), with a Bernoulli law.
    groups : tuple of Tensor of int64
        Columns of one category each, with a categorical law.
    x : Tensor of shape (n, n_columns)
        Columns of `event` as 0 and 1, all others as they are encoded.
    observed : Tensor of shape (n, n_columns)
        Zero where a number was missing: what was filled in has no likelihood.
    """

    normal: Tensor
    event: Tensor
    groups: tuple[Tensor, ...]
    x: Tensor
    observed: Tensor

    @classmethod
    def learn(cls, schema: Schema, E: NDArray[np.float32]) -> ColumnLaws:
        """Read the columns' kinds from the schema; which numbers have two values, from the training rows."""
        x, observed = E.copy(), np.ones_like(E)
        normal: list[int] = []
        event: list[int] = []
        groups: list[Tensor] = []
        start = 0
        for spec in schema.columns:
            columns = list(range(start, start + len(spec.feature_names)))
            start += len(columns)
            if spec.kind == "category" and len(columns) > 1:
                groups.append(torch.tensor(columns))
                continue
            for j in columns:
                if len(np.unique(E[:, j])) > 2:
                    normal.append(j)
                else:
                    event.append(j)
                    x[:, j] = E[:, j] == E[:, j].max()
                if spec.missing and j < columns[-1]:
                    observed[:, j] = 1.0 - E[:, columns[-1]]
        at_normal, at_event = (torch.tensor(columns, dtype=torch.int64) for columns in (normal, event))
        return cls(at_normal, at_event, tuple(groups), torch.from_numpy(x), torch.from_numpy(observed))

    def to(self, device: torch.device) -> ColumnLaws:
        """The same on another device."""
        normal, event, x, observed = (t.to(device) for t in (self.normal, self.event, self.x, self.observed))
        return ColumnLaws(normal, event, tuple(g.to(device) for g in self.groups), x, observed)

    def nll(self, location: Tensor, log_sd: Tensor, rows: Tensor) -> Tensor:
        r""":math:`-\log p(x \mid z)` of training rows, (n_members, n rows), without the normal's constant.

        Parameters
        ----------
        location : Tensor of shape (n_members, n rows, n_columns)
            Means of normal columns, logits of events, unnormalised log probabilities of categories.
        log_sd : Tensor of shape (n_members, 1, n_columns)
            Held above log 0.1: columns that determine each other would drive it to minus infinity.
        """
        x, seen = self.x[rows], self.observed[rows]
        at, sd = self.normal, log_sd[..., self.normal].clamp_min(-2.3)
        value = (gaussian_nll(location[..., at], sd, x[:, at]) * seen[:, at]).sum(-1)
        value = value + (bernoulli_nll(location[..., self.event], x[:, self.event]) * seen[:, self.event]).sum(-1)
        for group in self.groups:
            value = value - (x[:, group] * location[..., group].log_softmax(-1)).sum(-1)
        return value


class LatentNetwork(nn.Module):
    r"""Inference and generative networks of all members of a CEVAE (Louizos et al. 2017, figures 2 and 3).

    Inference: :math:`q(t \mid x),\ q(y \mid x, t),\ q(z \mid x, t, y)`; generation: :math:`p(x \mid z),\
    p(t \mid z),\ p(y \mid t, z[, x])`. Whatever depends on t has a hidden layer and heads per arm.

    Parameters
    ----------
    n_members, n_inputs, n_columns, n_arms, hidden, latent_dim : int
        `n_inputs` counts what inference sees, `n_columns` the encoded covariates.
    conditioned : bool
        Whether the outcome's decoder sees the inputs too.
    seen : Tensor of shape (n_members, n_inputs), optional
        As in `ArmNetwork`.
    """

    def __init__(
        self,
        n_members: int,
        n_inputs: int,
        n_columns: int,
        n_arms: int,
        hidden: int,
        latent_dim: int,
        conditioned: bool,
        binary: bool,
        generator: torch.Generator,
        seen: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.n_members, self.n_arms, self.conditioned, self.binary = n_members, n_arms, conditioned, binary
        seen = torch.ones(n_members, n_inputs) if seen is None else seen
        one, latents = torch.ones(n_members, 1), torch.ones(n_members, latent_dim)
        self.guess = ArmNetwork(n_members, n_inputs, n_arms, 2, hidden, generator, seen)
        self.guess_arm = BatchedLinear(n_members, hidden, n_arms, generator)
        with_y = torch.cat([seen, one], 1)
        self.encoder = ArmNetwork(n_members, n_inputs + 1, n_arms, 2 * latent_dim, hidden, generator, with_y)
        with_z = torch.cat([seen, latents], 1) if conditioned else latents
        self.decoder = ArmNetwork(n_members, with_z.shape[1], n_arms, 2, hidden, generator, with_z)
        last = BatchedLinear(n_members, hidden, n_columns, generator)
        self.columns = nn.Sequential(batched_mlp(n_members, [latent_dim, hidden, hidden], generator), last)
        self.columns_log_sd = nn.Parameter(torch.zeros(n_members, 1, n_columns))
        last = BatchedLinear(n_members, hidden, n_arms, generator)
        self.arm = nn.Sequential(batched_mlp(n_members, [latent_dim, hidden], generator), last)
        # the noise of prediction is fixed, and the same for all rows and arms: common random numbers
        nodes, spread = torch.from_numpy(normal_nodes(LATENTS)).float(), (torch.arange(LATENTS) + 0.5) / LATENTS
        for name, values in (("noise_y", nodes), ("noise_t", spread), ("noise_draw", nodes)):
            order = torch.rand((n_members, LATENTS), generator=generator).argsort(1)
            self.register_buffer(name, values[order])
        self.register_buffer("noise_z", torch.randn((n_members, LATENTS, latent_dim), generator=generator))
        self.noise_y: Tensor
        self.noise_t: Tensor
        self.noise_draw: Tensor
        self.noise_z: Tensor

    # what `nn.means` asks of a network: the input layers, features per arm, and heads that end in the log sd

    @property
    def trunk(self) -> nn.Module:
        """The first layers of q(y | x, t), whose shape is that of the inputs."""
        return self.guess.trunk

    @property
    def heads(self) -> list[nn.Module]:
        """The last of an arm's `features` is its log sd."""
        return [nn.Identity()] * self.n_arms

    def features(self, inputs: Tensor) -> list[Tensor]:
        r"""Expected last hidden layer of p(y | t, z, x) in each arm, and the log sd of y; (n_members, n, hidden + 1).

        The decoder's mean is linear in its last hidden layer, so :math:`E[Y(a) \mid x]` is linear in these.
        """
        parts: list[list[Tensor]] = [[] for _ in range(self.n_arms)]
        for rows in inputs.split(CHUNK):
            hidden, mean, log_sd = self.generate(rows, self.draw_latents(rows))
            variance = mean.var(2, unbiased=False) + (2 * log_sd).exp().mean(2)
            for k, part in enumerate(parts):
                part.append(torch.cat([hidden[k].mean(2), 0.5 * variance[..., [k]].log()], dim=-1))
        return [torch.cat(part, dim=1) for part in parts]

    def infer(self, inputs: Tensor, y: Tensor, arm: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log sd of q(z | x, t, y), (n_members, n, n_draws, latent_dim), for y and arm (.., n, n_draws)."""
        h = _represent(self.encoder, inputs, y.expand(self.n_members, -1, -1)[..., None])
        shape, heads = y.shape[-2:], self.encoder.outcomes(h.flatten(1, 2))
        mean, log_sd = _of_arm(heads, arm.flatten(-2)[..., None]).squeeze(2).chunk(2, -1)
        return mean.unflatten(1, shape), log_sd.clamp(-5.0, 2.0).unflatten(1, shape)

    def draw_latents(self, inputs: Tensor) -> Tensor:
        """Latents of rows whose outcome nobody saw, (n_members, n, n_draws, latent_dim): t, y, then z from q."""
        shared = self.guess.represent(inputs)
        share = self.guess_arm(shared).softmax(-1).cumsum(-1)[..., :-1]
        arm = (self.noise_t[:, None, :, None] > share[:, :, None]).sum(-1)
        mean, log_sd = _of_arm(self.guess.outcomes(shared), arm).unbind(-1)
        noise = self.noise_y[:, None]
        if self.binary:
            y = (noise < torch.special.ndtri(torch.sigmoid(mean))).float()
        else:
            y = mean + log_sd.clamp(-5.0, 3.0).exp() * noise
        z, log_sd = self.infer(inputs, y, arm)
        return z + log_sd.exp() * self.noise_z[:, None]

    def generate(self, inputs: Tensor, z: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Hidden layers of each arm (n_members, n, n_draws, hidden); means and log sds (.., n, n_draws, n_arms)."""
        shape = z.shape[1:3]
        h = _represent(self.decoder, inputs if self.conditioned else inputs[:, :0], z).flatten(1, 2)
        hidden = [layer(h) for layer in self.decoder.hidden]
        heads = torch.stack([head(h) for head, h in zip(self.decoder.heads, hidden, strict=True)], 2)
        mean, log_sd = heads.unflatten(1, shape).unbind(-1)
        return [h.unflatten(1, shape) for h in hidden], mean, log_sd.clamp(-5.0, 3.0)

    @torch.no_grad()
    def laws(self, inputs: Tensor, member: Tensor | None = None) -> Tensor:
        """Draws of y minus their mean, sorted: (n_members, n_draws, n, n_arms), or (n_draws, n, n_arms) of `member`."""
        parts = []
        members = [None] * len(inputs) if member is None else member.split(CHUNK)
        for rows, own in zip(inputs.split(CHUNK), members, strict=False):
            _, mean, log_sd = self.generate(rows, self.draw_latents(rows))
            y = mean + log_sd.exp() * self.noise_draw[:, None, :, None]
            y = (y - y.mean(2, keepdim=True)).sort(dim=2).values.transpose(1, 2)
            parts.append(y if own is None else y[own, :, torch.arange(len(rows))].transpose(0, 1))
        return torch.cat(parts, dim=-2)

    def loss(
        self,
        inputs: Tensor,
        y: Tensor,
        arm: Tensor,
        columns: ColumnLaws,
        rows: Tensor,
        weight: float,
        generator: torch.Generator,
    ) -> Tensor:
        """Minus the objective of eq. 9, with one latent draw, (n_members, n rows); `weight` is that of log p(x | z)."""
        x, t, outcome = inputs[rows], arm[rows][None, :, None], y[rows]
        shared = self.guess.represent(x)
        value = self.outcome_nll(_of_arm(self.guess.outcomes(shared), t).squeeze(2), outcome)
        value = value + _arm_nll(self.guess_arm(shared), t)
        mean, log_sd = (part.squeeze(2) for part in self.infer(x, outcome[None, :, None], t))
        z = mean + log_sd.exp() * torch.randn(mean.shape, generator=generator, device=mean.device)
        value = value + normal_kl(mean, log_sd, torch.zeros_like(mean), torch.zeros_like(mean))
        value = value + weight * columns.nll(self.columns(z), self.columns_log_sd, rows) + _arm_nll(self.arm(z), t)
        h = _represent(self.decoder, x if self.conditioned else x[:, :0], z[:, :, None]).flatten(1, 2)
        return value + self.outcome_nll(_of_arm(self.decoder.outcomes(h), t).squeeze(2), outcome)

    def outcome_nll(self, heads: Tensor, y: Tensor) -> Tensor:
        """Minus the log likelihood of outcomes, without the normal's constant; heads (.., 2) are mean and log sd."""
        return bernoulli_nll(heads[..., 0], y) if self.binary else gaussian_nll(heads[..., 0], heads[..., 1], y)


def normal_kl(mean: Tensor, log_sd: Tensor, other_mean: Tensor, other_log_sd: Tensor) -> Tensor:
    r""":math:`KL(N(\mu, \sigma^2) \,\|\, N(\mu', \sigma'^2))`, summed over the last axis."""
    ratio = 2 * (log_sd - other_log_sd)
    apart = ((mean - other_mean) * torch.exp(-other_log_sd)) ** 2
    return 0.5 * (ratio.exp() + apart - 1.0 - ratio).sum(-1)


def _arm_nll(logits: Tensor, arm: Tensor) -> Tensor:
    """Minus the log probability of arms (1, n, 1) under logits (n_members, n, n_arms)."""
    return -_of_arm(logits.log_softmax(-1)[..., None], arm).flatten(1)


def _of_arm(values: Tensor, arm: Tensor) -> Tensor:
    """Entries (n_members, n, n_draws, k) of values (n_members, n, n_arms, k) at arms (n_members or 1, n, n_draws)."""
    return values.gather(2, arm.expand(len(values), -1, -1)[..., None].expand(-1, -1, -1, values.shape[-1]))


def _represent(network: ArmNetwork, fixed: Tensor, varying: Tensor) -> Tensor:
    """Trunk of inputs [fixed, varying], (n_members, n, n_draws, hidden): the first map's fixed part is made once a row.

    Parameters
    ----------
    fixed : Tensor of shape (n, n_fixed)
    varying : Tensor of shape (n_members, n, n_draws, n_varying)
    """
    first = network.trunk[0]
    assert isinstance(first, BatchedLinear)
    weight = first.weight * network.seen.mT
    k = fixed.shape[1]
    shape = varying.shape[1:3]
    h = (first.bias + fixed @ weight[:, :k])[:, :, None] + (varying.flatten(1, 2) @ weight[:, k:]).unflatten(1, shape)
    return network.trunk[1:](h.flatten(1, 2)).unflatten(1, shape)
