"""The rest of the columns given the causal factors: means, spreads, and scores of what is left, replayed elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from effects.nn.training import Settings
from effects.persistence import named, part
from effects.structural.encoder import LabelEncoder
from effects.structural.ensemble import ColumnEnsemble, EncodedColumns, budget, count_networks

if TYPE_CHECKING:
    from effects.schema.table import TableSchema

_KNOTS = 33
_DRAWN = 0.3  # weight of a row whose labels are not all seen
_STEEP = 1e-3  # of a residual's sd per unit of score, at least: a law with an atom must stay invertible


class ResidualScores:
    r"""A Gaussian copula of residuals: :math:`u = L^{-1} \Phi^{-1}(F(r))`, invertible to rounding.

    Each residual goes through its pooled law to a normal score (linear between 33 weighted quantiles, and beyond
    them), and the scores' pooled correlations :math:`C = L L^\top` are taken out. If residuals are pooled and of a
    Gaussian copula, u is standard normal; a generative model of u has only the difference to learn. C is shrunk
    towards the identity by the share of Schäfer & Strimmer (2005, Stat. Appl. Genet. Mol. Biol. 4, section 2.4).

    Attributes
    ----------
    values : Tensor of float64, shape (d, 33)
        Quantiles of the residuals.
    factor : Tensor of float64, shape (d, d)
        L.
    """

    def __init__(self, values: Tensor, factor: Tensor) -> None:
        self.values, self.factor = values, factor
        self.nodes = torch.special.ndtri((torch.arange(_KNOTS, dtype=torch.float64) + 0.5) / _KNOTS)

    @classmethod
    def learn(cls, r: Tensor, weight: Tensor) -> ResidualScores:
        """From residuals (n, d) of rows with weights (n,)."""
        d, w = r.shape[1], weight.double() / weight.double().sum()
        scores = cls(torch.zeros(d, _KNOTS, dtype=torch.float64), torch.eye(d, dtype=torch.float64))
        level = torch.special.ndtr(scores.nodes)
        for j in range(d):
            ordered, order = r[:, j].double().sort()
            middle = w[order].cumsum(0) - 0.5 * w[order]
            value = _interpolate(level, middle, ordered)
            spread = float((w * r[:, j].double() ** 2).sum().sqrt()) + 1e-12
            steps = value.diff().clamp_min(_STEEP * spread * float(scores.nodes.diff().min()))
            scores.values[j] = value[0] + torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])
        if d > 1:
            normal = scores._marginal(r.double())
            normal = normal - w @ normal
            normal = normal / (w @ normal**2).clamp_min(1e-12).sqrt()
            correlation = (normal.T * w) @ normal
            scores.factor = torch.linalg.cholesky(_shrink(correlation, float(1 / (w**2).sum())))
        return scores

    def encode(self, r: Tensor) -> Tensor:
        """Scores u (n, d) of residuals r (n, d)."""
        scores = self._marginal(r.double())
        return torch.linalg.solve_triangular(self.factor, scores.T, upper=False).T.to(r.dtype)

    def decode(self, u: Tensor) -> Tensor:
        """Residuals of scores: the inverse of `encode`."""
        scores = u.double() @ self.factor.T
        columns = [_interpolate(scores[:, j], self.nodes, value) for j, value in enumerate(self.values)]
        return torch.stack(columns, 1).to(u.dtype) if columns else u

    def _marginal(self, r: Tensor) -> Tensor:
        columns = [_interpolate(r[:, j], value, self.nodes) for j, value in enumerate(self.values)]
        return torch.stack(columns, 1) if columns else r


class DecoderMeans:
    r"""What the causal factors z say of the rest of the columns x, and what is left of a row when that is taken out.

    Numbers: :math:`x_j = D_j(z) + s_j(z)\, r_j` with D and s from a `ColumnEnsemble`, and the residuals r through
    `ResidualScores` to scores u, which are standard normal unless the law of r depends on z or is no Gaussian copula:
    what is left to a generative model. Events and categories: logits given z and u, from a second ensemble, so that
    they may hang together with the numbers.

    Counterfactuals of events and categories replay a latent utility: an event's logistic noise, a category's Gumbel
    noises (Oberst & Sontag, ICML 2019, section 3.2) drawn from their law given the observed level. The observed data
    do not determine this coupling: it is an assumption, and the one under which raising a level's probability never
    makes the level unhappen. Two events of a row are independent given z and u.

    Attributes
    ----------
    numbers, discrete : ColumnEnsemble or None
        None where the table has no such columns.
    scores : ResidualScores
    columns : EncodedColumns
    held_out : Tensor of shape (n, n_numbers) or None
        Scores u of the training rows, by networks that had held them out; None once loaded.
    history : list of dict

    Examples
    --------
    >>> import numpy as np, pandas as pd, torch
    >>> from effects.schema.table import TableSchema
    >>> from effects.structural.decoder import DecoderMeans
    >>> from effects.structural.ensemble import budget
    >>> z = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    >>> frame = pd.DataFrame({"a": z[:, 0].numpy(), "b": np.random.default_rng(0).normal(size=200)})
    >>> layout = TableSchema.learn(frame)
    >>> x = torch.as_tensor(layout.encode(layout.values(frame)))
    >>> means = DecoderMeans.fit(z, x, torch.ones(200), layout, budget(200, "means", epochs=5), n_networks=4)
    >>> u = means.encode(x, z)
    >>> again = means.transport(x, z, z, u, u, torch.Generator().manual_seed(0))
    >>> bool((again - x).abs().max() < 1e-3)
    True
    """

    def __init__(
        self,
        columns: EncodedColumns,
        numbers: ColumnEnsemble | None,
        scores: ResidualScores,
        discrete: ColumnEnsemble | None,
    ) -> None:
        self.columns, self.numbers, self.scores, self.discrete = columns, numbers, scores, discrete
        self.held_out: Tensor | None = None
        self.history: list[dict[str, Any]] = []

    @classmethod
    def fit(
        cls,
        z: Tensor,
        x: Tensor,
        weight: Tensor,
        layout: TableSchema,
        settings: Settings,
        *,
        n_networks: int | None = None,
        hidden: int = 64,
        lr: float = 6e-3,
        weight_decay: float = 0.1,
    ) -> DecoderMeans:
        """Fit on all rows.

        Parameters
        ----------
        z : Tensor of shape (n, k) or (n_networks, n, k)
            Encoded labels. Networks may see draws of their own of what is missing (multiple imputation); the scores
            are then taken at the first.
        x : Tensor of shape (n, d)
            Encoded rest of the columns.
        weight : Tensor of shape (n,)
        layout : TableSchema
            Of x.
        settings : Settings
            Such as `effects.structural.ensemble.budget` makes.
        """
        columns = EncodedColumns.of(layout)
        at, n = columns.numbers, len(x)
        sizes: dict[str, Any] = {"n_networks": n_networks, "hidden": hidden, "lr": lr, "weight_decay": weight_decay}
        numbers, history, u = None, [], x[:, at]
        scores = ResidualScores.learn(u, weight)
        seen = _known(columns, x)
        if len(at):
            numbers = ColumnEnsemble.fit(z, x, seen, weight, columns.only("numbers"), settings, **sizes)
            held, log_sd = numbers.held_out_location, numbers.held_out_log_sd
            assert held is not None and log_sd is not None
            r = ((x - held) * torch.exp(-log_sd))[:, at]
            scores = ResidualScores.learn(r, weight)
            u, history = scores.encode(r), numbers.history
        discrete = None
        if len(columns.discrete):
            inputs = torch.cat([z, u.expand(*z.shape[:-2], n, -1)], -1)
            discrete = ColumnEnsemble.fit(inputs, x, seen, weight, columns.only("discrete"), settings, **sizes)
            history = history + discrete.history
        means = cls(columns, numbers, scores, discrete)
        means.held_out, means.history = u, history
        return means

    @torch.no_grad()
    def mean(self, z: Tensor) -> Tensor:
        """D(z) (n, d): means of numbers; probabilities of events and levels at the median residuals (u = 0)."""
        out = torch.zeros(len(z), self.columns.width)
        out[:, self.columns.numbers] = self._numbers(z)[0]
        if self.discrete is not None:
            at = self.columns.discrete
            u = torch.zeros(len(z), len(self.columns.numbers))
            out[:, at] = self.discrete.columns.expected(self._logits(z, u))[:, at]
        return out

    @torch.no_grad()
    def encode(self, x: Tensor, z: Tensor) -> Tensor:
        """Scores u (n, n_numbers) of rows `x` (n, d) with labels `z` (n, k)."""
        location, sd = self._numbers(z)
        return self.scores.encode((x[:, self.columns.numbers] - location) / sd)

    @torch.no_grad()
    def decode(self, u: Tensor, z: Tensor, rng: torch.Generator) -> Tensor:
        """Rows x (n, d) of scores u and labels z; events and categories are drawn."""
        out = self._place(u, z)
        if self.discrete is not None:
            at = self.columns.discrete
            columns = self.discrete.columns
            out[:, at] = columns.draw(columns.expected(self._logits(z, u)), rng)[:, at]
        return out

    @torch.no_grad()
    def transport(self, x: Tensor, z: Tensor, z_new: Tensor, u: Tensor, u_new: Tensor, rng: torch.Generator) -> Tensor:
        """Counterfactual rows (n, d): scores `u_new` at `z_new`, and the latent utilities of (x, z, u) replayed."""
        out = self._place(u_new, z_new)
        if self.discrete is None:
            return out
        before, after, at = self._logits(z, u).double(), self._logits(z_new, u_new).double(), self.columns.events
        if len(at):
            out[:, at] = _replay_events(x[:, at], before[:, at], after[:, at], rng)
        for group in self.columns.groups:
            out[:, group] = _replay_levels(x[:, group], before[:, group], after[:, group], rng)
        return out

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values, for `from_state`."""
        tensors = {"scores.values": self.scores.values, "scores.factor": self.scores.factor}
        state: dict[str, Any] = {"numbers": None, "discrete": None}
        for name, ensemble in (("numbers", self.numbers), ("discrete", self.discrete)):
            if ensemble is not None:
                own, state[name] = ensemble.state()
                tensors |= named(name, own)
        return tensors, state

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], state: dict[str, Any], layout: TableSchema) -> DecoderMeans:
        """The inverse of `state`."""
        columns = EncodedColumns.of(layout)
        ensembles = [
            ColumnEnsemble.from_state(part(tensors, name), state[name], columns.only(name)) if state[name] else None
            for name in ("numbers", "discrete")
        ]
        scores = ResidualScores(tensors["scores.values"].double(), tensors["scores.factor"].double())
        return cls(columns, ensembles[0], scores, ensembles[1])

    def _numbers(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """D(z) and s(z) of the numbers, (n, n_numbers) each."""
        if self.numbers is None:
            return torch.zeros(len(z), 0), torch.ones(len(z), 0)
        location, log_sd, _ = self.numbers.predict(z)
        return location[:, self.columns.numbers], log_sd[:, self.columns.numbers].exp()

    def _logits(self, z: Tensor, u: Tensor) -> Tensor:
        assert self.discrete is not None
        return self.discrete.predict(torch.cat([z, u], 1))[0]

    def _place(self, u: Tensor, z: Tensor) -> Tensor:
        """Rows whose numbers are those of scores u at labels z, all else zero."""
        location, sd = self._numbers(z)
        out = torch.zeros(len(z), self.columns.width)
        out[:, self.columns.numbers] = location + sd * self.scores.decode(u)
        return out


def drawn_weight(weight: Tensor, seen: Tensor) -> Tensor:
    """Weights (n,) of rows whose labels are drawn where they are not `seen` (n, k): three tenths of what they were.

    A label drawn tells less than one seen. On `effects.datasets.structural.make_factors` with 30% of the labels, the
    error of counterfactuals was then 10% smaller than at full weight, for noise of 0.1 and of 0.5.
    """
    return torch.where(seen.all(1), weight, _DRAWN * weight)


def fit_factors(
    x: Tensor,
    z: Tensor,
    seen: Tensor,
    weight: Tensor,
    layout: TableSchema,
    labels: TableSchema,
    *,
    seed: int = 0,
    epochs: int | None = None,
    n_networks: int | None = None,
    hidden: int = 64,
    lr: float = 6e-3,
    weight_decay: float = 0.1,
    device: str = "auto",
    verbose: int = 0,
) -> tuple[LabelEncoder, DecoderMeans, Tensor]:
    """Both directions between labels z and the rest x: the encoder on labelled rows, the decoder's means on all rows.

    Rows without all labels enter the decoder by draws from the encoder, another for each network, with the weight of
    `drawn_weight`.

    Returns
    -------
    encoder : LabelEncoder
    means : DecoderMeans
    z : Tensor of shape (n, k)
        The labels, completed by one draw: those at which ``means.held_out`` was taken.
    """
    sizes: dict[str, Any] = {"hidden": hidden, "lr": lr, "weight_decay": weight_decay}
    plan: dict[str, Any] = {"seed": seed, "epochs": epochs, "device": device, "verbose": verbose}
    settings = budget(len(x), "label encoder", **plan)
    encoder = LabelEncoder.fit(x, z, seen, weight, labels, settings, n_networks=n_networks, **sizes)
    members, rng = n_networks or count_networks(len(x)), torch.Generator().manual_seed(seed)
    drawn = torch.stack([encoder.complete(x, z, seen, rng) for _ in range(1 if bool(seen.all()) else members)])
    weight = drawn_weight(weight, seen)
    given = drawn[0] if len(drawn) == 1 else drawn
    settings = budget(len(x), "decoder means", **plan)
    return encoder, DecoderMeans.fit(given, x, weight, layout, settings, n_networks=members, **sizes), drawn[0]


def _known(columns: EncodedColumns, x: Tensor) -> Tensor:
    """Which entries (n, d) are seen: a missing category has no level, a missing event its share."""
    known = torch.ones(x.shape, dtype=torch.bool)
    known[:, columns.events] = (x[:, columns.events] == 0) | (x[:, columns.events] == 1)
    for group in columns.groups:
        known[:, group] = x[:, group].any(1, keepdim=True)
    return known


def _replay_events(x: Tensor, before: Tensor, after: Tensor, rng: torch.Generator) -> Tensor:
    """Events under new logits, with logistic noise drawn from its law given the event observed under the old ones."""
    uniform = torch.rand(before.shape, generator=rng, dtype=before.dtype).clamp(1e-9, 1 - 1e-9)
    none = torch.sigmoid(-before)  # the noise's level below which the event stays away
    level = torch.where(x >= 0.5, none + (1 - none) * uniform, none * uniform)
    return (level > torch.sigmoid(-after)).to(x.dtype)


def _replay_levels(x: Tensor, before: Tensor, after: Tensor, rng: torch.Generator) -> Tensor:
    """Levels (one-hot) under new logits, with Gumbel noises drawn from their law given the observed level.

    The largest utility is Gumbel whatever the level (Maddison, Tarlow & Minka 2014, section 3); the others are Gumbel
    truncated below it.
    """
    log_p = before.log_softmax(1)
    uniform = torch.rand(before.shape, generator=rng, dtype=before.dtype).clamp(1e-12, 1 - 1e-12)
    gumbel = -(-uniform.log()).log()
    own = x.argmax(1, keepdim=True)
    largest = gumbel.gather(1, own)
    utility = -torch.logaddexp(-largest.expand_as(gumbel), -(gumbel + log_p))
    utility = utility.scatter(1, own, largest)
    level = (utility - log_p + after.log_softmax(1)).argmax(1)
    return torch.nn.functional.one_hot(level, x.shape[1]).to(x.dtype)


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear map of x through increasing (knots, values), continued by the slope of its outer quarter."""
    at = torch.searchsorted(knots.contiguous(), x.contiguous()).clamp(1, len(knots) - 1)
    share = (x - knots[at - 1]) / (knots[at] - knots[at - 1]).clamp_min(1e-300)
    inside = values[at - 1] + share * (values[at] - values[at - 1])
    wide = max(len(knots) // 8, 1)
    low = (values[wide] - values[0]) / (knots[wide] - knots[0]).clamp_min(1e-300)
    high = (values[-1] - values[-1 - wide]) / (knots[-1] - knots[-1 - wide]).clamp_min(1e-300)
    out = torch.where(x < knots[0], values[0] + low * (x - knots[0]), inside)
    return torch.where(x > knots[-1], values[-1] + high * (x - knots[-1]), out)


def _shrink(correlation: Tensor, n: float) -> Tensor:
    """Correlations towards the identity, by the share of least expected squared error; at least by a thousandth."""
    eye = torch.eye(len(correlation), dtype=correlation.dtype)
    apart = correlation - eye
    noise = ((1 - correlation**2) ** 2 * (1 - eye)).sum() / n
    share = float((noise / (apart**2).sum().clamp_min(1e-12)).clamp(1e-3, 1.0))
    return eye + (1 - share) * apart
