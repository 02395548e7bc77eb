"""The conditional mean of a node given its parents: linear where that suffices, else a batched ensemble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effects.nn.last_layer import ArmPosterior, fit_linear, fit_logistic
from effects.nn.losses import bernoulli_nll, gaussian_nll
from effects.nn.means import MeansConfig, fit_means
from effects.nn.networks import ArmNetwork
from effects.nn.training import Settings, held_out
from effects.persistence import named, part

Array = NDArray[np.float64]
_FOLDS = 5
_FEWEST = 60  # rows below which a network is not tried
_CHUNK = 8192
_REPEATED = 4096
_BENT, _CURVED = 1.0, 2.5  # standard errors of a held-out gain
_MOST_COLUMNS = 20  # of whose products a regression is tried
_FLAT = 20
_SHARES = tuple(k / 10 for k in range(1, 11))


@dataclass(frozen=True)
class Plan:
    """Size and training of the regressions of one model.

    Attributes
    ----------
    n_networks, hidden : int
    n_members : int
        Posterior draws of every regression; a multiple of ``2 * n_networks``.
    lr, weight_decay : float
    settings : Settings
    """

    n_networks: int
    hidden: int
    n_members: int
    lr: float
    weight_decay: float
    settings: Settings

    @property
    def pairs(self) -> int:
        """Weight draws of each network; each is used with both signs."""
        return self.n_members // (2 * self.n_networks)


@dataclass(frozen=True)
class HeldOut:
    """Predictions of the rows of the fit by models that had not seen them, each (n,)."""

    mean: Array
    log_sd: Array
    variance: Array


@dataclass(frozen=True)
class Part:
    """A Bayesian last layer on a constant, the parents, and the features of a network if there is one.

    Attributes
    ----------
    posterior : ArmPosterior
    normals : Tensor of shape (n_networks, n_weights, n_pairs)
        Weight draws that turn the posterior into member functions; each is used with both signs.
    rotation : Tensor of shape (n_networks, hidden, n_components), or None where there are no features
    products : Tensor of int64, shape (2, n_products), or None
        Pairs of the parents' columns whose products are part of the basis too.
    """

    posterior: ArmPosterior
    normals: Tensor
    rotation: Tensor | None = None
    products: Tensor | None = None

    def mean(self, parents: Tensor, hidden: Tensor | None) -> Tensor:
        """Posterior mean (n,), averaged over networks, at parents (n, d) and hidden layers (n_networks, n, hidden)."""
        return (self._basis(parents, hidden) @ self.posterior.mean[:, 0, :, None]).squeeze(-1).mean(0)

    def member(self, pair: int, parents: Tensor, hidden: Tensor | None) -> Tensor:
        """One signed draw of each network, (n_networks, n), at each network's own rows (n_networks, n, d)."""
        half = self.normals.shape[2]
        moved = (self.posterior.factor[:, 0] @ self.normals[..., [pair % half]])[..., 0]
        weight = self.posterior.mean[:, 0] + (moved if pair < half else -moved)
        return (self._basis(parents, hidden) @ weight[..., None]).squeeze(-1)

    def _basis(self, parents: Tensor, hidden: Tensor | None) -> Tensor:
        n_networks, n = len(self.normals), parents.shape[-2]
        plain = torch.cat([torch.ones(n_networks, n, 1), parents.expand(n_networks, -1, -1)], dim=-1)
        if self.products is not None:
            left, right = self.products
            second = parents[..., left] * parents[..., right]
            plain = torch.cat([plain, second.expand(n_networks, -1, -1)], dim=-1)
        if self.rotation is None:
            return plain.double()
        assert hidden is not None
        return torch.cat([hidden @ self.rotation, plain], dim=-1).double()


@dataclass(frozen=True)
class Regression:
    r"""Posterior of :math:`m(pa)`, the mean (or the log odds) of a node given its parents, and :math:`\log s(pa)`.

    :math:`m = (1 - \lambda)\, m_{linear} + \lambda\, m_{network}`: a Bayesian linear regression on the encoded parents
    (and their products), and the Bayesian last layer of a batched ensemble (`effects.nn.means`), as held-out rows ask.

    Attributes
    ----------
    line : Part
    curve : Part or None
    network : ArmNetwork or None
    share : float
        :math:`\lambda`, in [0, 1].
    scaled : bool
        Whether :math:`s` is the network's; otherwise it is one.
    held_out : HeldOut or None
        Of the rows of the fit; not kept in a file.
    """

    line: Part
    curve: Part | None = None
    network: ArmNetwork | None = None
    share: float = 0.0
    scaled: bool = False
    held_out: HeldOut | None = field(default=None, repr=False)

    @property
    def linear(self) -> bool:
        """Whether the mean is linear in the encoded parents."""
        return self.share == 0.0 and self.line.products is None

    def mean(self, parents: Tensor) -> tuple[Array, Array]:
        """Posterior mean and log sd, each (n,), at encoded parents (n, d)."""
        if self.network is not None and len(parents) > _REPEATED and parents.shape[1]:
            # draws of the same rows mostly differ in a level or not at all: ask the networks once
            rows = np.ascontiguousarray(parents.numpy())
            whole = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))[:, 0]
            _, first, at = np.unique(whole, return_index=True, return_inverse=True)
            if 2 * len(first) < len(rows):
                mean, log_sd = self._means(parents[torch.from_numpy(first)])
                return mean[at], log_sd[at]
        return self._means(parents)

    def _means(self, parents: Tensor) -> tuple[Array, Array]:
        parts = [self._mean(rows) for rows in parents.split(_CHUNK)]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    @torch.no_grad()
    def _mean(self, parents: Tensor) -> tuple[Array, Array]:
        hidden, log_sd = self._hidden(parents)
        mean = self.line.mean(parents, None)
        if self.curve is not None:
            mean = (1 - self.share) * mean + self.share * self.curve.mean(parents, hidden)
        return mean.numpy(), log_sd.mean(0).double().numpy()

    @torch.no_grad()
    def members(self, parents: Tensor) -> tuple[Array, Array]:
        """Posterior draws and log sd, each (n_members, n), at parents (n_members, n, d): each draw at its own rows."""
        shape = parents.shape[:2]
        n_networks = 1 if self.network is None else self.network.n_members
        rows = parents.reshape(n_networks, shape[0] // n_networks, *parents.shape[1:])
        means, log_sds = [], []
        for pair in range(rows.shape[1]):
            own = rows[:, pair]
            hidden, log_sd = self._hidden(own)
            line = [self.line.member(k * rows.shape[1] + pair, own[k], None)[0] for k in range(n_networks)]
            mean = torch.stack(line)
            if self.curve is not None:
                mean = (1 - self.share) * mean + self.share * self.curve.member(pair, own, hidden)
            means.append(mean)
            log_sds.append(log_sd.double().expand(n_networks, -1))
        mean, spread = torch.stack(means, 1), torch.stack(log_sds, 1)
        return mean.reshape(shape).numpy(), spread.reshape(shape).numpy()

    def _hidden(self, parents: Tensor) -> tuple[Tensor | None, Tensor]:
        """Hidden layers (n_networks, n, hidden) and log sds (n_networks or 1, n) at (n_networks or no axis, n, d)."""
        if self.network is None:
            return None, torch.zeros(1, parents.shape[-2])
        each = parents.expand(self.network.n_members, -1, -1)
        hidden = self.network.features(torch.cat([each, each], dim=-1))[0]
        if not self.scaled:
            return hidden, torch.zeros(1, parents.shape[-2])
        return hidden, self.network.heads[0](hidden)[..., -1].clamp(-5.0, 3.0)

    # ------------------------------------------------------------------ as arrays

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values that `from_state` takes."""
        tensors: dict[str, Tensor] = {}
        for name, layer in (("line", self.line), ("curve", self.curve)):
            if layer is not None:
                own = dict(zip(("mean", "factor", "noise_sd", "alpha"), _parts(layer.posterior), strict=True))
                more = {"rotation": layer.rotation, "products": layer.products}
                own |= {"normals": layer.normals} | {key: value for key, value in more.items() if value is not None}
                tensors |= named(name, own)
        meta: dict[str, Any] = {"scaled": self.scaled, "share": self.share, "network": None}
        if self.network is not None:
            meta["network"] = list(self.network.trunk[0].weight.shape)  # type: ignore[arg-type]
            tensors |= named("network", self.network.state_dict())
        return tensors, meta

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Regression:
        """Inverse of `state`."""

        def layer(name: str) -> Part:
            own = part(tensors, name)
            posterior = ArmPosterior(*(own[key] for key in ("mean", "factor", "noise_sd", "alpha")))
            return Part(posterior, own["normals"], own.get("rotation"), own.get("products"))

        network = None
        if meta["network"] is not None:
            n_networks, n_inputs, hidden = (int(size) for size in meta["network"])
            network = ArmNetwork(n_networks, n_inputs, 1, 2, hidden, torch.Generator())
            network.load_state_dict(part(tensors, "network"))
            network.requires_grad_(False)
        curve = layer("curve") if "curve.mean" in tensors else None
        return cls(layer("line"), curve, network, float(meta["share"]), bool(meta["scaled"]))


def fit_regression(
    parents: Tensor, y: Array, weight: Array, binary: bool, plan: Plan
) -> tuple[Regression, list[dict[str, float]]]:
    """Fit the linear and the network regression, and mix them as held-out rows ask for.

    The network's spread is taken if it gains 2.5 standard errors there; the mean is then judged by weighted squares.
    Products of parents, under a prior of their own, enter the linear regression if they gain a standard error. The
    share of the network is the one, of 0, 0.1, ..., 1, whose gain over that regression, less a standard error of it,
    is the largest, and zero where the gain is below 2.5 standard errors: where the truth is linear a network only
    adds noise, and it would be let in by chance, for it bends in many ways.

    Parameters
    ----------
    parents : Tensor of shape (n, d)
        Encoded; d may be zero.
    y : ndarray of shape (n,)
        Standardised, or 0 and 1.
    weight : ndarray of shape (n,)
        Non-negative.

    Returns
    -------
    regression : Regression
        With its `held_out` predictions.
    history : list of dict
    """
    target, w = torch.from_numpy(y.astype(np.float32)), torch.from_numpy(weight.astype(np.float32))
    line, held = _fit_linear(parents, target, w, binary, plan)
    rows = int((weight > 0).sum())
    fewest = min(y[weight > 0].sum(), rows - y[weight > 0].sum()) if binary else rows
    if parents.shape[1] == 0 or rows < _FEWEST or fewest < _FEWEST // 4:
        return Regression(line, held_out=held), []

    curve, network, other, history = _fit_network(parents, target, w, binary, plan)
    flat, scaled = np.zeros(len(y)), False
    if not binary:
        near = min((held.mean, other.mean), key=lambda mean: np.average((y - mean) ** 2, weights=weight))
        scaled = _clearly(_nll(y, near, other.log_sd, weight), _nll(y, near, flat, weight), weight, _CURVED)
    if scaled:  # rows with little noise say more of the mean: weighted least squares
        weight = weight * np.exp(-2 * (other.log_sd - other.log_sd.min()))
        weight = weight / weight.mean()
        w = torch.from_numpy(weight.astype(np.float32))
        line, held = _fit_linear(parents, target, w, binary, plan)

    def loss_of(mean: Array) -> Array:
        return bernoulli_nll(torch.from_numpy(mean), target).numpy() if binary else (y - mean) ** 2

    products = _products(parents)
    if products is not None:
        bent, bent_held = _fit_linear(parents, target, w, binary, plan, products)
        if _clearly(loss_of(bent_held.mean), loss_of(held.mean), weight, _BENT):
            line, held = bent, bent_held
    share = _best_share(lambda share: loss_of(held.mean + share * (other.mean - held.mean)), weight)
    if share == 0.0 and not scaled:
        return Regression(line, held_out=held), history
    mean = held.mean + share * (other.mean - held.mean)
    variance = held.variance + share * (other.variance - held.variance)
    mixed = HeldOut(mean, other.log_sd if scaled else flat, variance)
    return Regression(line, curve if share else None, network, share, scaled, mixed), history


def fit_line(
    parents: Tensor, y: Array, weight: Array, binary: bool, plan: Plan
) -> tuple[Regression, list[dict[str, float]]]:
    """The linear (or logistic) regression alone, as `fit_regression`; its history is empty, for nothing is trained."""
    target, w = (torch.from_numpy(v.astype(np.float32)) for v in (y, weight))
    line, held = _fit_linear(parents, target, w, binary, plan)
    return Regression(line, held_out=held), []


def _best_share(loss: Callable[[float], Array], weight: Array) -> float:
    """The network's share with the largest gain, less a standard error of it."""
    plain = loss(0.0)
    gains = {0.0: 0.0}
    for share in _SHARES:
        mean, error = _gain(loss(share), plain, weight)
        gains[share] = mean - error
    best = max(gains, key=lambda share: gains[share])
    mean, error = _gain(loss(best), plain, weight)
    return best if mean > _CURVED * error else 0.0


def _clearly(loss: Array, other: Array, weight: Array, errors: float) -> bool:
    """Whether the weighted mean of `loss` is lower than the other's by more than so many standard errors."""
    mean, error = _gain(loss, other, weight)
    return mean > errors * error


def _gain(loss: Array, other: Array, weight: Array) -> tuple[float, float]:
    """Mean paired difference ``other - loss`` and its standard error."""
    gain = other - loss
    mean = float(np.average(gain, weights=weight))
    return mean, float(np.sqrt(np.sum((weight * (gain - mean)) ** 2)) / weight.sum())


def _nll(y: Array, mean: Array, log_sd: Array, weight: Array) -> Array:
    """Normal loss at the best constant multiple of the spread."""
    z2 = (y - mean) ** 2 * np.exp(-2 * log_sd)
    level = 0.5 * np.log(max(np.average(z2, weights=weight), 1e-12))
    loss = gaussian_nll(torch.from_numpy(mean), torch.from_numpy(log_sd + level), torch.from_numpy(y))
    return loss.numpy()


@torch.no_grad()
def _fit_linear(
    parents: Tensor, y: Tensor, weight: Tensor, binary: bool, plan: Plan, products: Tensor | None = None
) -> tuple[Part, HeldOut]:
    """Bayesian linear or logistic regression on a constant, the parents and products of them."""
    fit = fit_logistic if binary else fit_linear
    n = len(y)
    second = torch.zeros(n, 0) if products is None else parents[:, products[0]] * parents[:, products[1]]
    basis = torch.cat([torch.ones(n, 1), parents, second], dim=1)[None]
    # with many rows a coefficient the prior is flat, and this is least squares; a logistic regression needs a prior,
    # for levels may be separable; products have one of their own, whose precision the evidence tells
    few = binary or int((weight > 0).sum()) < _FLAT * parents.shape[1]
    groups = torch.full((basis.shape[2],), int(few), dtype=torch.int64)
    groups[0] = 0
    if products is not None:  # what an event changes, and how numbers bend, are different questions
        events = torch.tensor([len(torch.unique(column)) <= 2 for column in parents.T])
        groups[parents.shape[1] + 1 :] = 2 + events[products].any(0).long()
    if not groups.any():  # the last layer wants a group beside the constant's: an empty column
        basis, groups = (
            torch.cat([basis, torch.zeros(1, n, 1)], 2),
            torch.cat([groups, torch.ones(1, dtype=torch.int64)]),
        )
    arm = torch.zeros(n, dtype=torch.int64)
    posterior = fit(basis, y, arm, groups, 1, weight)
    generator = torch.Generator().manual_seed(plan.settings.seed)
    folds = held_out(_FOLDS, (y > 0).long() if binary else arm, _FOLDS, generator)
    start = ArmPosterior(*(t.expand(_FOLDS, *t.shape[1:]) for t in _parts(posterior)))
    honest = fit(basis.expand(_FOLDS, -1, -1), y, arm, groups, 1, weight * ~folds, start=start)
    mean = (honest.predict(basis.expand(_FOLDS, -1, -1))[..., 0] * folds).sum(0)
    variance = ((basis.double() @ posterior.factor[:, 0]) ** 2).sum(-1)[0]
    kept = parents.shape[1] + 1 + second.shape[1]
    posterior = ArmPosterior(posterior.mean[:, :, :kept], posterior.factor[:, :, :kept], *_parts(posterior)[2:])
    normals = torch.randn((1, posterior.factor.shape[3], plan.n_members // 2), generator=generator, dtype=torch.float64)
    return Part(posterior, normals, products=products), HeldOut(mean.numpy(), np.zeros(n), variance.numpy())


def _products(parents: Tensor) -> Tensor | None:
    """Pairs of columns with a product that says something new, (2, n_products); None where there are too many."""
    d = parents.shape[1]
    if not 0 < d <= _MOST_COLUMNS:
        return None
    pairs = torch.combinations(torch.arange(d), with_replacement=True).T
    second = parents[:, pairs[0]] * parents[:, pairs[1]]
    # the square of an event is the event, the product of two levels of a category zero
    two_valued = torch.tensor([len(torch.unique(column)) <= 2 for column in parents.T])
    new = (second.std(0) > 1e-6) & ~((pairs[0] == pairs[1]) & two_valued[pairs[0]])
    return pairs[:, new] if bool(new.any()) else None


def _parts(posterior: ArmPosterior) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return posterior.mean, posterior.factor, posterior.noise_sd, posterior.alpha


def _fit_network(
    parents: Tensor, y: Tensor, weight: Tensor, binary: bool, plan: Plan
) -> tuple[Part, ArmNetwork, HeldOut, list[dict[str, float]]]:
    """The batched ensemble with its last layer, whose basis has the parents themselves too."""
    inputs = torch.cat([parents, parents], dim=1)  # `fit_means` takes the extra basis as inputs' last columns
    config = MeansConfig(plan.n_networks, plan.hidden, plan.lr, plan.weight_decay)
    arm = torch.zeros(len(y), dtype=torch.int64)
    means, history = fit_means(inputs, parents, arm, y, weight, 1, binary, config, plan.settings)
    held = means.out_of_sample
    assert held is not None
    variance = torch.cat(
        [means.variance(*part)[:, 0] for part in zip(inputs.split(4096), parents.split(4096), strict=True)]
    )
    generator = torch.Generator().manual_seed(plan.settings.seed)
    shape = (plan.n_networks, means.posterior.factor.shape[3], plan.pairs)
    normals = torch.randn(shape, generator=generator, dtype=torch.float64)
    out = HeldOut(held.mean[:, 0].double().numpy(), held.log_sd[:, 0].double().numpy(), variance.double().numpy())
    return Part(means.posterior, normals, means.rotation), means.network, out, history
