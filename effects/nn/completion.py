"""Completing rows adversarially: the outcomes of all arms for rows with an observed one (block 1 of GANITE)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from effects.nn.losses import bernoulli_nll, cross_entropy
from effects.nn.networks import BatchedLinear, batched_mlp
from effects.nn.training import Objective, Settings, train

_GENERATORS = 4  # trained side by side
_HIDDEN = 32
_NOISE = 2
_COMPLETIONS = 8  # of a row by each generator


def straight_through(logit: Tensor, uniform: Tensor) -> Tensor:
    """A 0/1 draw with the gradient of its probability (Bengio, Leonard & Courville 2013)."""
    p = torch.sigmoid(logit)
    return (uniform < p).to(p.dtype) + (p - p.detach())


@dataclass(frozen=True)
class Rows:
    """The training rows as the completing networks take them.

    Attributes
    ----------
    inputs : Tensor of shape (n, n_inputs)
        Covariates and nuisances.
    base : Tensor of shape (n, n_arms)
        Cross-fitted regressions (log odds for a binary outcome).
    arm, y : Tensor of shape (n,)
        Arms and observed outcomes on the modelling scale.
    sd : Tensor of shape (n_arms,)
        Standard deviation of the observed outcomes around the regressions; 1 for a binary outcome.
    binary : bool
    """

    inputs: Tensor
    base: Tensor
    arm: Tensor
    y: Tensor
    sd: Tensor
    binary: bool

    @classmethod
    def make(cls, inputs: Tensor, base: Tensor, arm: Tensor, y: Tensor, weight: Tensor, binary: bool = False) -> Rows:
        """Rows of weight `weight` (n,), with the spread that their residuals show."""
        n_arms = base.shape[1]
        if binary:
            return cls(inputs, base, arm, y, torch.ones(n_arms), binary)
        square = (y - base.gather(1, arm[:, None]).squeeze(1)) ** 2 * weight
        own = torch.nn.functional.one_hot(arm, n_arms).to(square.dtype)
        # five rows of the pooled value, so that two rows alone do not set an arm's spread
        pooled = square.sum() / weight.sum()
        variance = (square @ own + 5 * pooled) / (weight @ own + 5)
        return cls(inputs, base, arm, y, variance.sqrt().clamp_min(1e-3), binary)

    def to(self, device: torch.device) -> Rows:
        inputs, base, arm, y, sd = (t.to(device) for t in (self.inputs, self.base, self.arm, self.y, self.sd))
        return Rows(inputs, base, arm, y, sd, self.binary)

    def is_own(self, rows: Tensor) -> Tensor:
        """One for the observed arm, (len(rows), n_arms)."""
        return torch.nn.functional.one_hot(self.arm[rows], self.base.shape[1]).to(self.y.dtype)

    def residual(self, rows: Tensor) -> Tensor:
        """Observed outcomes less what was expected, (len(rows),)."""
        base = self.base[rows].gather(1, self.arm[rows, None]).squeeze(1)
        return self.y[rows] - torch.sigmoid(base) if self.binary else (self.y[rows] - base) / self.sd[self.arm[rows]]

    def standardised(self, ybar: Tensor, rows: Tensor) -> Tensor:
        """Outcomes of all arms (..., len(rows), n_arms) as a discriminator sees them."""
        return ybar if self.binary else (ybar - self.base[rows]) / self.sd


class CounterfactualGenerator(nn.Module):
    """G(x, t, y, z) of block 1, for all members: every arm's outcome of rows with an observed one.

    Untrained it draws the other arms' outcomes from normal laws around their regressions, and expects that of the
    observed arm.
    """

    def __init__(self, n_members: int, n_inputs: int, n_arms: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n_members = n_members
        size = n_inputs + n_arms + 1 + _NOISE
        self.body = batched_mlp(n_members, [size, _HIDDEN, _HIDDEN], generator)
        self.out = BatchedLinear(n_members, _HIDDEN, n_arms, generator, zero=True)
        self.linear = BatchedLinear(n_members, size, n_arms, generator, zero=True)

    def forward(self, table: Rows, rows: Tensor, rng: torch.Generator) -> Tensor:
        """Outcomes (log odds for a binary outcome) of all arms, (n_members, len(rows), n_arms)."""
        own, residual = table.is_own(rows), table.residual(rows)
        shape = (self.n_members, len(rows), _NOISE)
        z = torch.randn(shape, generator=rng, device=rows.device)
        given = torch.cat([table.inputs[rows], own, residual[:, None]], 1).expand(self.n_members, -1, -1)
        h = torch.cat([given, z], -1)
        found = self.out(self.body(h)) + self.linear(h)
        if not table.binary:
            found = found + z[..., :1] * (1 - own)
        return table.base[rows] + table.sd * found

    def complete(self, table: Rows, rows: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Generated outcomes, and the same (0/1 draws for a binary outcome) with the observed one in its place."""
        found = self(table, rows, rng)
        drawn = found
        if table.binary:
            drawn = straight_through(found, torch.rand(found.shape, generator=rng, device=found.device))
        own = table.is_own(rows)
        return found, own * table.y[rows, None] + (1 - own) * drawn


class Discriminator(nn.Module):
    """A batched multilayer perceptron on covariates and the outcomes of all arms; `sizes` from inputs to logits."""

    def __init__(self, n_members: int, sizes: list[int], generator: torch.Generator) -> None:
        super().__init__()
        self.body = batched_mlp(n_members, sizes[:-1], generator)
        self.out = BatchedLinear(n_members, sizes[-2], sizes[-1], generator)

    def forward(self, x: Tensor, outcomes: Tensor) -> Tensor:
        """Logits (n_members, n, sizes[-1]) from `x` (n, n_inputs) and `outcomes` (n_members, n, n_arms)."""
        return self.out(self.body(torch.cat([x.expand(len(outcomes), -1, -1), outcomes], -1)))


def fit_counterfactuals(
    table: Rows, weight: Tensor, alpha: float, generator: torch.Generator, settings: Settings
) -> tuple[CounterfactualGenerator, Discriminator, list[dict[str, float]]]:
    """Train block 1 (Yoon et al. 2018, section 4.1): two steps of D for each of G, whose moving average is kept.

    No row is held out: neither loss says how good the completions are.
    """
    n_arms, n_inputs = table.base.shape[1], table.inputs.shape[1]
    completer = CounterfactualGenerator(_GENERATORS, n_inputs, n_arms, generator).to(settings.device)
    sizes = [n_inputs + n_arms, _HIDDEN, _HIDDEN, n_arms]
    discriminator = Discriminator(_GENERATORS, sizes, generator).to(settings.device)

    def guess(ybar: Tensor, rows: Tensor) -> Tensor:
        return cross_entropy(discriminator(table.inputs[rows], table.standardised(ybar, rows)), table.arm[rows])

    def fool(rows: Tensor, rng: torch.Generator) -> Tensor:
        found, ybar = completer.complete(table, rows, rng)
        own = found.gather(2, table.arm[rows].view(1, -1, 1).expand(len(found), -1, 1)).squeeze(2)
        y = table.y[rows]
        factual = bernoulli_nll(own, y) if table.binary else ((own - y) / table.sd[table.arm[rows]]) ** 2
        return factual - alpha * guess(ybar, rows)

    def tell(rows: Tensor, rng: torch.Generator) -> Tensor:
        with torch.no_grad():
            _, ybar = completer.complete(table, rows, rng)
        return guess(ybar, rows)

    nothing = torch.zeros(_GENERATORS, len(table.y), dtype=torch.bool)
    objectives = [Objective(completer, fool, 2e-3, 1e-3), Objective(discriminator, tell, 2e-3, 1e-3, n_steps=2)]
    history = train(objectives, weight.expand(_GENERATORS, -1), nothing, replace(settings, ema=0.98))
    return completer.requires_grad_(False), discriminator.requires_grad_(False), history


@torch.no_grad()
def completions(completer: CounterfactualGenerator, table: Rows, seed: int) -> Tensor:
    """Completed rows, (n_generators, n_completions, n, n_arms)."""
    rng = torch.Generator(device=table.y.device).manual_seed(seed)
    everyone = torch.arange(len(table.y), device=table.y.device)
    parts = [
        torch.stack([completer.complete(table, rows, rng)[1] for _ in range(_COMPLETIONS)], 1)
        for rows in everyone.split(8192)
    ]
    return torch.cat(parts, 2)
