"""Columns of a table given numbers: a batched ensemble with a linear part, and evidence for whatever goes beyond it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from effects.nn.losses import bernoulli_nll, cross_entropy, gaussian_nll
from effects.nn.networks import BatchedLinear, batched_mlp
from effects.nn.training import Objective, Settings, held_out, resolve_device, train
from effects.persistence import named, part

if TYPE_CHECKING:
    from effects.schema.table import TableSchema

STEPS = 2000
FOLDS = 7  # a seventh of the rows is held out for each network's early stopping
_SHRINKS = (0.25, 0.5, 0.75, 1.0)
_WORTH = 2.0  # units of log likelihood that a spread which moves must gain on rows held out


def budget(
    n: int,
    label: str,
    *,
    seed: int = 0,
    epochs: int | None = None,
    steps: int = STEPS,
    ema: float = 0.0,
    device: str = "auto",
    verbose: int = 0,
) -> Settings:
    """Settings of about `steps` gradient steps, whatever the number of rows; early stopping usually ends sooner."""
    batch_size = 128 if n < 20_000 else 1024
    many = epochs if epochs is not None else int(np.clip(steps * batch_size / max(n, 1), 10, 300))
    return Settings(
        epochs=many,
        batch_size=batch_size,
        patience=max(3, many // 6),
        ema=ema,
        seed=seed,
        verbose=bool(verbose),
        label=label,
        device=resolve_device(device),
    )


@dataclass(frozen=True)
class EncodedColumns:
    """Which encoded columns of a table are numbers, which events, and which together are one category.

    Attributes
    ----------
    numbers, events : Tensor of int64
        Positions; an event is 0 or 1.
    groups : tuple of Tensor of int64
        Positions of the 0/1 columns of one category each.
    width : int
    """

    numbers: Tensor
    events: Tensor
    groups: tuple[Tensor, ...]
    width: int

    @classmethod
    def of(cls, schema: TableSchema) -> EncodedColumns:
        """Read from a table's schema; a constant has no column."""
        at: dict[str, list[int]] = {"number": [], "event": []}
        groups = []
        for column in schema.columns:
            own = range(schema.n_encoded)[schema.slices[column.name]] if column.kind != "constant" else range(0)
            if column.kind == "category":
                groups.append(torch.tensor(list(own), dtype=torch.int64))
            elif column.kind != "constant":
                at[column.kind] += list(own)
        numbers, events = (torch.tensor(at[kind], dtype=torch.int64) for kind in ("number", "event"))
        return cls(numbers, events, tuple(groups), schema.n_encoded)

    @property
    def discrete(self) -> Tensor:
        """Positions of all that are no numbers: events, then the categories' columns."""
        return torch.cat([self.events, *self.groups])

    def only(self, kind: str) -> EncodedColumns:
        """The same table where nothing but the ``"numbers"``, or the ``"discrete"`` columns, is looked at."""
        none = torch.zeros(0, dtype=torch.int64)
        if kind == "numbers":
            return EncodedColumns(self.numbers, none, (), self.width)
        return EncodedColumns(none, self.events, self.groups, self.width)

    def to(self, device: torch.device) -> EncodedColumns:
        """The same on another device."""
        groups = tuple(group.to(device) for group in self.groups)
        return EncodedColumns(self.numbers.to(device), self.events.to(device), groups, self.width)

    def nll(self, location: Tensor, log_sd: Tensor, y: Tensor, seen: Tensor) -> Tensor:
        """Minus the log likelihood (..., n) of rows `y` (n, width), without the normal's constant.

        Parameters
        ----------
        location, log_sd : Tensor of shape (..., n, width)
            Means and log sds of numbers; logits of events; unnormalised log probabilities of categories.
        seen : Tensor of shape (n, width)
            Entries of 0 have no likelihood.
        """
        at = self.numbers
        value = (gaussian_nll(location[..., at], log_sd[..., at], y[..., at]) * seen[..., at]).sum(-1)
        at = self.events
        value = value + (bernoulli_nll(location[..., at], y[..., at]) * seen[..., at]).sum(-1)
        for at in self.groups:
            value = value + cross_entropy(location[..., at], y[..., at].argmax(-1)) * seen[..., at[0]]
        return value

    def expected(self, location: Tensor) -> Tensor:
        """Means (..., n, width): of numbers themselves, else probabilities."""
        mean = location.clone()
        mean[..., self.events] = torch.sigmoid(location[..., self.events])
        for at in self.groups:
            mean[..., at] = location[..., at].softmax(-1)
        return mean

    def draw(self, probability: Tensor, rng: torch.Generator) -> Tensor:
        """One draw of events and categories from `probability` (n, width); numbers stay as they are."""
        out = probability.clone()
        if len(self.events):
            at = self.events
            out[:, at] = (torch.rand((len(out), len(at)), generator=rng) < probability[:, at]).to(out.dtype)
        for at in self.groups:
            level = torch.multinomial(probability[:, at].clamp_min(1e-12), 1, generator=rng).squeeze(1)
            out[:, at] = nn.functional.one_hot(level, len(at)).to(out.dtype)
        return out


class SkipNetwork(nn.Module):
    """Locations and log sds of columns: a linear map and a perceptron with two hidden layers, for all members.

    The log sds start at zero, the linear map too.

    Parameters
    ----------
    n_members, n_inputs, n_outputs, hidden : int
    """

    def __init__(self, n_members: int, n_inputs: int, n_outputs: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n_members = n_members
        self.trunk = batched_mlp(n_members, [n_inputs, hidden, hidden], generator)
        self.skip = BatchedLinear(n_members, n_inputs, n_outputs, generator, zero=True)
        self.location = BatchedLinear(n_members, hidden, n_outputs, generator)
        self.log_sd = BatchedLinear(n_members, hidden, n_outputs, generator, zero=True)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features, locations and log sds ``(n_members, n, .)`` of inputs ``(n_members, n, n_inputs)``."""
        features = self.trunk(inputs)
        return features, self.location(features) + self.skip(inputs), self.log_sd(features)


class ColumnEnsemble:
    r"""The law of every column of a table given some numbers.

    Numbers: :math:`y_j \mid v \sim N(\mu_j(v), s_j(v)^2)`; events and categories: logits. The networks (a linear map
    plus a perceptron; one batched ensemble) are trained together by the likelihood, each stopped early on rows of its
    own. Then the weights of every number's mean are replaced by the posterior mean of a linear regression on
    :math:`(1, v)` (flat prior) and the network's features (their prior precision maximises the evidence; MacKay 1992):
    what the data do not speak for is linear. Each network's regression sees only the rows that the network saw, so
    that a row's prediction by the networks which held it out is honest.

    A spread that moves with v is kept, in the share (0, 1/4, ..., 1) that has the largest likelihood on rows held out,
    if it gains two units of log likelihood there; else :math:`s_j` is constant.

    Attributes
    ----------
    columns : EncodedColumns
    network : SkipNetwork
    coefficients : Tensor of shape (n_members, 1 + n_inputs + hidden, n_numbers)
    log_sd, share : Tensor of shape (n_numbers,)
        :math:`\log s_j(v) = \text{log\_sd}_j + \text{share}_j\, h_j(v)`, with h the networks' mean log sd.
    held_out_location, held_out_log_sd : Tensor of shape (n, width) or None
        Of the training rows, by the networks that held them out; None once loaded.
    history : list of dict
    """

    def __init__(
        self, columns: EncodedColumns, network: SkipNetwork, coefficients: Tensor, log_sd: Tensor, share: Tensor
    ) -> None:
        self.columns, self.network, self.coefficients = columns, network, coefficients
        self.log_sd, self.share = log_sd, share
        self.held_out_location: Tensor | None = None
        self.held_out_log_sd: Tensor | None = None
        self.history: list[dict[str, Any]] = []

    @classmethod
    def fit(
        cls,
        inputs: Tensor,
        y: Tensor,
        seen: Tensor,
        weight: Tensor,
        columns: EncodedColumns,
        settings: Settings,
        *,
        n_networks: int | None = None,
        hidden: int = 64,
        lr: float = 6e-3,
        weight_decay: float = 0.1,
    ) -> ColumnEnsemble:
        """Fit on rows of which something is seen.

        Parameters
        ----------
        inputs : Tensor of shape (n, n_inputs) or (n_members, n, n_inputs)
            Members may see inputs of their own, such as draws of what is missing.
        y : Tensor of shape (n, width)
        seen : Tensor of bool, shape (n, width)
            Where False, `y` is not looked at.
        weight : Tensor of shape (n,)
        settings : Settings
            Of `budget`.
        """
        n, members = len(y), n_networks or count_networks(len(y))
        generator = torch.Generator().manual_seed(settings.seed)
        own = inputs.expand(members, -1, -1) if inputs.dim() == 2 else inputs
        network = SkipNetwork(members, own.shape[2], columns.width, hidden, generator).to(settings.device)
        folds = held_out(members, torch.zeros(n, dtype=torch.int64), min(FOLDS, max(members, 2)), generator)
        at, known, mask = columns.to(settings.device), y.to(settings.device), seen.float().to(settings.device)
        given = own.to(settings.device)

        def loss(rows: Tensor, rng: torch.Generator) -> Tensor:
            _, location, log_sd = network(given[:, rows])
            return at.nll(location, log_sd, known[rows], mask[rows])

        rows_weight = (weight * seen.any(1)).expand(members, -1)
        history = train([Objective(network, loss, lr, weight_decay)], rows_weight, folds, settings)
        network.to("cpu").requires_grad_(False)
        n_numbers = len(columns.numbers)
        empty = torch.zeros(members, 1 + own.shape[2] + hidden, n_numbers)
        ensemble = cls(columns, network, empty, torch.zeros(n_numbers), torch.zeros(n_numbers))
        ensemble.history = [{"stage": settings.label, **entry} for entry in history]
        ensemble._regress(own, y, seen, weight * ~folds)
        ensemble._settle(own, y, seen, weight, folds)
        return ensemble

    @torch.no_grad()
    def _regress(self, inputs: Tensor, y: Tensor, seen: Tensor, weight: Tensor) -> None:
        """Replace the weights of the numbers' means by their posterior, per network and on the rows it saw."""
        numbers = self.columns.numbers
        design = torch.cat([torch.ones_like(inputs[..., :1]), inputs], 2)
        features = torch.cat([self.network.trunk(part) for part in inputs.split(4096, dim=1)], 1)
        for j, at in _equal_columns(seen[:, numbers]):
            usable = weight * seen[:, numbers[at]]
            self.coefficients[:, :, j] = evidence_ridge(design, features, y[:, numbers[j]], usable).float()

    @torch.no_grad()
    def _settle(self, inputs: Tensor, y: Tensor, seen: Tensor, weight: Tensor, folds: Tensor) -> None:
        """Predictions of rows by networks that held them out, and from them the spreads of the numbers."""
        location, raw = self._by_member(inputs)
        share = folds.float() + (~folds.any(0)).float()  # with one network alone, some rows were never held out
        share = (share / share.sum(0))[..., None]
        logits, at = (self.columns.expected(location) * share).sum(0), self.columns.numbers
        held, raw = _to_location(self.columns, logits), (raw * share).sum(0)
        for j, column in enumerate(at.tolist()):
            own = weight.double() * seen[:, column]
            error, spread = (y[:, column] - held[:, column]).double(), raw[:, column].double()
            self.share[j], self.log_sd[j] = _spread(error, spread, own / own.sum().clamp_min(1e-12), _effective(own))
        self.held_out_location = held
        self.held_out_log_sd = torch.zeros_like(raw)
        self.held_out_log_sd[:, at] = self.log_sd + self.share * raw[:, at]

    def _by_member(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Locations and raw log sds (n_members, n, width) of every network."""
        at, locations, spreads = self.columns.numbers, [], []
        for rows in inputs.split(4096, dim=1):
            features, location, log_sd = self.network(rows)
            basis = torch.cat([torch.ones_like(rows[..., :1]), rows, features], 2)
            location[..., at] = basis @ self.coefficients
            locations.append(location)
            spreads.append(log_sd.clamp(-5.0, 3.0))
        return torch.cat(locations, 1), torch.cat(spreads, 1)

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the ensemble says of rows with `inputs` (n, n_inputs).

        Returns
        -------
        location : Tensor of shape (n, width)
            Means of numbers; logits of the networks' mean probability of events; log mean probabilities of categories.
        log_sd : Tensor of shape (n, width)
            Of numbers around their mean; 0 elsewhere.
        variance : Tensor of shape (n, width)
            Between the networks, of numbers' means and of probabilities.
        """
        members, raw = self._by_member(inputs.expand(self.network.n_members, -1, -1))
        expected, at = self.columns.expected(members), self.columns.numbers
        log_sd = torch.zeros_like(raw[0])
        log_sd[:, at] = self.log_sd + self.share * raw.mean(0)[:, at]
        return _to_location(self.columns, expected.mean(0)), log_sd, expected.var(0, unbiased=False)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values, for `from_state`."""
        tensors = named("network", self.network.state_dict())
        tensors |= {"coefficients": self.coefficients, "log_sd": self.log_sd, "share": self.share}
        first = self.network.trunk[0]
        assert isinstance(first, BatchedLinear)
        members, n_inputs, hidden = first.weight.shape
        return tensors, {"n_networks": members, "n_inputs": n_inputs, "hidden": hidden}

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], state: dict[str, Any], columns: EncodedColumns) -> ColumnEnsemble:
        """The inverse of `state`."""
        members, n_inputs, hidden = (int(state[name]) for name in ("n_networks", "n_inputs", "hidden"))
        network = SkipNetwork(members, n_inputs, columns.width, hidden, torch.Generator())
        network.load_state_dict(part(tensors, "network"))
        network.requires_grad_(False)
        return cls(columns, network, tensors["coefficients"], tensors["log_sd"], tensors["share"])


def count_networks(n: int) -> int:
    """More networks where rows are few: there they are cheap and disagree most."""
    return 16 if n < 1000 else 8


def evidence_ridge(design: Tensor, features: Tensor, y: Tensor, weight: Tensor, n_steps: int = 60) -> Tensor:
    r"""Posterior mean of a regression on `design` (flat prior) and `features` (prior precision of most evidence).

    .. math:: y = A b + F w + e,\quad e_i \sim N(0, 1 / (\beta v_i)),\quad w \sim N(0, 1 / \alpha)

    The flat part is projected out first, after which one eigendecomposition serves all columns of y; then MacKay's
    fixed point (1992, eqs. 4.8-4.9) per member and column. Where rows are fewer than 20 times the design's columns, all
    of these but the constant join the features under their prior.

    Parameters
    ----------
    design : Tensor of shape (n_members, n, p), its first column ones
    features : Tensor of shape (n_members, n, h)
    y : Tensor of shape (n, d)
    weight : Tensor of shape (n_members, n)

    Returns
    -------
    Tensor of float64, shape (n_members, p + h, d)
    """
    n_flat = design.shape[2] if float(_effective(weight[0])) >= 20 * design.shape[2] else 1
    flat, rest = design[..., :n_flat].double(), torch.cat([design[..., n_flat:], features], 2).double()
    v = weight.double()
    v = v / v.sum(1, keepdim=True).clamp_min(1e-12) * (v > 0).sum(1, keepdim=True)
    n, target = (v > 0).sum(1).double()[:, None], y.double().expand(len(v), -1, -1)
    left = flat.mT * v[:, None]
    gram = left @ flat
    gram = gram + 1e-8 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(n_flat).double()
    on_flat = torch.linalg.solve(gram, left @ torch.cat([rest, target], 2))
    q = rest.shape[2]
    rest, target = rest - flat @ on_flat[..., :q], target - flat @ on_flat[..., q:]
    weighted = rest.mT * v[:, None]
    values, vectors = torch.linalg.eigh(weighted @ rest)
    values = values.clamp_min(0.0)[..., None]
    moment = vectors.mT @ (weighted @ target)
    total = (v[..., None] * target**2).sum(1)
    alpha, beta = torch.ones_like(total), (n - n_flat).clamp_min(1.0) / total.clamp_min(1e-12)
    for _ in range(n_steps):
        ridge = (alpha / beta)[:, None]
        w = moment / (values + ridge)
        gamma = (values / (values + ridge)).sum(1)
        error = (total - 2 * (w * moment).sum(1) + (w * w * values).sum(1)).clamp_min(1e-12)
        alpha = (gamma / (w * w).sum(1).clamp_min(1e-12)).clamp(1e-6, 1e8)
        beta = ((n - n_flat - gamma).clamp_min(1.0) / error).clamp(1e-8, 1e12)
    w = vectors @ (moment / (values + (alpha / beta)[:, None]))
    return torch.cat([on_flat[..., q:] - on_flat[..., :q] @ w, w], 1)


def _spread(error: Tensor, raw: Tensor, weight: Tensor, n: Tensor) -> tuple[float, float]:
    """Share of the raw log sd that counts, and the constant beside it, by the likelihood of rows held out."""
    centre = (weight * raw).sum()

    def constant(share: float) -> float:
        return float(0.5 * (weight * error**2 * torch.exp(-2 * share * (raw - centre))).sum().clamp_min(1e-10).log())

    found = min(_SHRINKS, key=constant)
    if float(n) * (constant(0.0) - constant(found)) < _WORTH:
        found = 0.0
    return found, constant(found) - found * float(centre)


def _effective(weight: Tensor) -> Tensor:
    """Kish's number of rows that weights are worth."""
    return weight.sum() ** 2 / (weight**2).sum().clamp_min(1e-12)


def _to_location(columns: EncodedColumns, expected: Tensor) -> Tensor:
    """Means back to what `EncodedColumns.expected` reads."""
    location = expected.clone()
    location[..., columns.events] = torch.logit(expected[..., columns.events], eps=1e-6)
    for at in columns.groups:
        location[..., at] = expected[..., at].clamp_min(1e-6).log()
    return location


def _equal_columns(seen: Tensor) -> list[tuple[Tensor, int]]:
    """Positions of columns with equal entries, and one of each: what is seen of them can share its arithmetic."""
    if seen.shape[1] == 0:
        return []
    _, kind = torch.unique(seen, dim=1, return_inverse=True)
    places = [torch.nonzero(kind == k).squeeze(1) for k in range(int(kind.max()) + 1)]
    return [(place, int(place[0])) for place in places]
