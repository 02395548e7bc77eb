"""CausalGAN: generators of the nodes along a causal graph, and of the columns that hang on them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effects.nn.training import Objective
from effects.persistence import named, part
from effects.structural.controller import Draw, Extra, Game, MonotoneGenerator, fit_generators
from effects.structural.decoder import DecoderMeans, fit_factors
from effects.structural.encoder import LabelEncoder
from effects.structural.ensemble import EncodedColumns, SkipNetwork, budget
from effects.structural.factors import FactorModel
from effects.structural.mechanisms import (
    Continuous,
    Mechanism,
    held_out_residual,
    mechanism_from_state,
    mechanism_state,
)

if TYPE_CHECKING:
    from effects.schema.table import TableColumn, TableSchema
    from effects.structural.regression import Plan

Array = NDArray[np.float64]
_ANTI_LR = 1e-2  # it has to keep pace with the generator
_FULLY_LABELLED = 200  # rows from which the generator leaves out rows with inferred labels


class CausalGAN(FactorModel):
    r"""CausalGAN: adversarial generators along a causal graph (Kocaoglu, Snyder, Dimakis & Vishwanath, ICLR 2018).

    **The causal controller** has a generator for every node with its parents as inputs, trained against a
    discriminator and then frozen. Here a number is :math:`X_j = g^{-1}(m(pa) + s(pa)\, Q(U_j))` with means, spreads
    and the pooled residual law Q as in `StructuralModel`, and the adversarial generator models what these leave,

    .. math:: U_j = G_j(W_j; pa), \qquad W_j \sim N(0, 1),

    increasing in :math:`W_j` and the identity at the start (`effects.structural.controller`). It is kept where the CRPS
    of held-out rows is better for it by more than a standard error, and in the share that does best there; else the
    pooled law stays. Events and categories are thresholds of a uniform number: their generator is the probability.

    **The conditional generator** makes the columns x that hang on the nodes (the labels z):
    :math:`x = D(z) + s(z)\, r(U)` with D and s from ensembles and r a Gaussian copula of residuals
    (`effects.structural.decoder`), and :math:`U_k = G_k(W_k; z, W_1, \dots, W_{k-1})` adversarial, where the
    discriminator sees z and U, a labeler reads z from real rows, an anti-labeler from generated ones, and

    .. math:: L_G = L_{\text{adversary}} + L_{\text{energy}}
              + \alpha \big(\ell_{\text{labeler}} - \ell_{\text{anti-labeler}}\big).

    W and U determine each other given z, so a row's noise is known, and counterfactuals replay it at other nodes.

    Parameters
    ----------
    graph : CausalGraph, networkx.DiGraph, list of edges, DOT or dagitty text, or a file of these
        The nodes are columns of the table, or keys of `factors`.
    factors : mapping, optional
        ``{"severity": ["apache", "sofa"]}``: nodes that are groups of columns.
    columns : sequence of str, optional
        Columns that hang on the nodes; by default all that are no node. An empty list: none.
    alpha : float
        Weight of labeler and anti-labeler.
    energy : float
        Weight of the energy score beside the adversary, in both parts.
    n_networks : int, optional
        Networks of every ensemble; by default 8 for a node, and 16 below 4,000 rows, else 8, for labeler and means.
    hidden : int
        Width of their hidden layers.
    n_draws : int
        Noise draws of each row, where the row does not determine its noise.
    epochs : int, optional
        At most so many passes in each training; by default a budget of steps.
    lr, weight_decay : float
        AdamW, for the ensembles; the adversaries have their own.
    device : str
        ``"auto"`` trains on a GPU where there is one. Sampling is on the CPU.
    random_state : int, RandomState or None
    verbose : int
        1 shows progress bars on standard error.

    Attributes
    ----------
    graph_, schema_, scm_, history_
        As in `StructuralModel`. ``scm_.mechanisms[i].generator`` is None where the pooled law was as good.
    layout_ : TableSchema or None
        Of the columns beyond the graph.
    encoder_ : LabelEncoder
        The labeler: labels given the other columns.
    means_ : DecoderMeans
    generator_ : MonotoneGenerator or None
        Of the columns beyond the graph; None where the copula of residuals was as good. ``generator_.kept[0]`` is the
        share of every column's generator that held-out rows asked for.

    Notes
    -----
    On 1,500 rows of a node b = a + h + 0.3 e with h = 1 or -1, P(h = 1) hanging on a (two studies), the mean log
    density of fresh rows was -2.30 against -2.57 of `StructuralModel`, and the Wasserstein-1 distance of b under
    do(a = 0) to its true law 0.20 against 0.34; on normal noise the pooled law was kept. The energy score does most of
    it: in one study each, of 600 and 800 rows, a node's CRPS was 0.528 with and without the adversary (0.564 pooled,
    0.551 by an adversary alone), while of two columns whose correlation of 0.8 turns with a label the generator found
    0.60 with and 0.34 without it.

    Deviations from the paper. Its controller generates labels from noise alone, as a Wasserstein GAN, and both
    generators are networks that nothing can invert: there is no abduction, hence no counterfactual of a row. Here
    every generator is increasing in a noise of its own, and adversaries model what regressions leave: they never touch
    a mean that is known better. The game is the relativistic one with gradient penalties (Huang et al. 2024), and the
    energy score, which is least at the true law, plays beside it. Labels of numbers and categories have normal and
    categorical likelihoods; the paper's are binary. The labeler is fitted before the game and frozen; the anti-labeler
    starts as its copy. Held-out rows decide what is kept, column by column.

    The noises of the columns beyond the graph are theirs in the order of the table: another order is another coupling
    of the same law, which no data can tell apart (Nasr-Esfahany, Alizadeh & Shah 2023, arXiv 2306.09308, section 5).
    Nodes with a point mass at their smallest value keep the pooled law.

    References
    ----------
    Kocaoglu, Snyder, Dimakis & Vishwanath (2018), CausalGAN, ICLR, arXiv 1709.02023, sections 4 and 5. Huang, Gokaslan,
    Kuleshov & Tompkin (2024), The GAN is dead; long live the GAN, NeurIPS, arXiv 2501.05441, section 2. Gneiting &
    Raftery (2007), Strictly proper scoring rules, eq. 22.

    Examples
    --------
    >>> from effects import CausalGAN
    >>> from effects.datasets import make_factors
    >>> data = make_factors(n_samples=200, n_columns=4, random_state=0)
    >>> model = CausalGAN(data.graph, epochs=2, n_networks=2, random_state=0).fit(data.table)
    >>> model.sample(3, do={"c": 0.0}, random_state=0).shape
    (3, 8)
    >>> model.counterfactual(data.table.head(2), do={"c": 0.0}).shape
    (2, 8)
    """

    _paper = "Kocaoglu et al. 2018"

    def __init__(
        self,
        graph: Any,
        *,
        factors: Mapping[str, Sequence[str]] | None = None,
        columns: Sequence[str] | None = None,
        alpha: float = 0.1,
        energy: float = 1.0,
        n_networks: int | None = None,
        hidden: int = 64,
        n_draws: int = 100,
        epochs: int | None = None,
        lr: float = 3e-3,
        weight_decay: float = 0.1,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            graph,
            n_networks=n_networks,
            hidden=hidden,
            n_draws=n_draws,
            epochs=epochs,
            lr=lr,
            weight_decay=weight_decay,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.factors = factors
        self.columns = columns
        self.alpha = alpha
        self.energy = energy

    def _check_params(self) -> None:
        super()._check_params()
        for name in ("alpha", "energy"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < np.inf:
                raise ValueError(f"{name} must be a number of 0 or more, got {value!r}.")

    # ------------------------------------------------------------------ the controller

    def _mechanism(
        self, column: TableColumn, x: Array, parents: Tensor, weight: Array, plan: Plan
    ) -> tuple[Mechanism, list[dict[str, float]]]:
        mechanism, history = super()._mechanism(column, x, parents, weight, plan)
        if not isinstance(mechanism, Continuous) or mechanism.regression is None:
            return mechanism, history
        if mechanism.scale.lowest is not None and not mechanism.scale.whole:
            return mechanism, history  # the noise of a point mass is an interval
        context, scores = held_out_scores(mechanism, x, parents, weight, plan.settings.seed)
        settings = replace(plan.settings, label=f"controller {column.name}")
        game = Game(energy=self.energy)
        made, more = fit_generators(context, scores, torch.from_numpy(weight), settings, game=game)
        return replace(mechanism, generator=made), [*history, *more]

    def _mechanism_state(self, mechanism: Mechanism) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, meta = mechanism_state(mechanism)
        if isinstance(mechanism, Continuous) and isinstance(mechanism.generator, MonotoneGenerator):
            own, meta["generator"] = mechanism.generator.to_state()
            tensors = tensors | named("generator", own)
        return tensors, meta

    def _mechanism_from_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Mechanism:
        sizes = meta.get("generator")
        generator = MonotoneGenerator.from_state(part(tensors, "generator"), sizes) if sizes else None
        return mechanism_from_state(tensors, meta, generator)

    # ------------------------------------------------------------------ the columns beyond the graph

    def _fit_rest(
        self, x: Tensor, z: Tensor, seen: Tensor, weight: Tensor, layout: TableSchema, labels: TableSchema, seed: int
    ) -> dict[str, Any]:
        plan: dict[str, Any] = {"seed": seed, "epochs": self.epochs, "device": self.device, "verbose": self.verbose}
        sizes: dict[str, Any] = {
            "n_networks": self.n_networks,
            "hidden": self.hidden,
            "weight_decay": self.weight_decay,
        }
        encoder, means, z = fit_factors(x, z, seen, weight, layout, labels, lr=self.lr, **plan, **sizes)
        assert means.held_out is not None
        known = seen.all(1)
        if int(known.sum()) >= _FULLY_LABELLED:
            weight = weight * known
        settings = budget(len(x), "conditional generator", **plan)

        def company(n_members: int, draw: Draw) -> tuple[Extra, Sequence[Objective]]:
            return Labelers.of(encoder, means, x, z, n_members, settings.device).objectives(draw, self.alpha)

        game = Game(energy=self.energy)
        players = company if self.alpha and z.shape[1] else None
        generator, played = fit_generators(z, means.held_out, weight, settings, game=game, company=players)
        history = [*encoder.history, *means.history, *({"stage": settings.label, **entry} for entry in played)]
        fitted = {"encoder_": encoder, "means_": means, "generator_": generator, "history_": history}
        return fitted | {"drawn_": (z, encoder.trust(x))}

    def _infer(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        return self.encoder_.mean(x) if rng is None else self.encoder_.draw(x, rng)

    def _decode(self, z: Tensor, rng: torch.Generator) -> Tensor:
        w = torch.randn((len(z), len(self.means_.columns.numbers)), generator=rng)
        return self.means_.decode(w if self.generator_ is None else self.generator_.push(w, z), z, rng)

    def _transport(self, x: Tensor, z: Tensor, z_new: Tensor, rng: torch.Generator) -> Tensor:
        u = u_new = self.means_.encode(x, z)
        if self.generator_ is not None:
            u_new = self.generator_.push(self.generator_.pull(u, z), z_new)
        return self.means_.transport(x, z, z_new, u, u_new, rng)

    def _rest_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        state: dict[str, Any] = {"generator": None}
        for name, (own, described) in (("encoder", self.encoder_.state()), ("means", self.means_.state())):
            tensors |= named(name, own)
            state[name] = described
        if self.generator_ is not None:
            own, state["generator"] = self.generator_.to_state()
            tensors |= named("generator", own)
        return tensors, state

    def _set_rest_state(
        self, tensors: dict[str, Tensor], state: dict[str, Any], layout: TableSchema, labels: TableSchema
    ) -> dict[str, Any]:
        sizes = state["generator"]
        return {
            "encoder_": LabelEncoder.from_state(part(tensors, "encoder"), state["encoder"], labels),
            "means_": DecoderMeans.from_state(part(tensors, "means"), state["means"], layout),
            "generator_": MonotoneGenerator.from_state(part(tensors, "generator"), sizes) if sizes else None,
        }


def held_out_scores(
    mechanism: Continuous, x: Array, parents: Tensor, weight: Array, seed: int
) -> tuple[Tensor, Tensor]:
    """Contexts (n, c) and scores (n, 1) of a node's rows, by regressions that had held them out."""
    assert mechanism.regression is not None and mechanism.regression.held_out is not None
    held = mechanism.regression.held_out
    residual = held_out_residual(mechanism.scale, held, x, weight, seed)
    scores = mechanism.law.score(residual, np.zeros(len(x), dtype=np.int64))
    context = mechanism.context(parents, held.mean, held.log_sd)
    return context, torch.from_numpy(scores.astype(np.float32))[:, None]


# ---------------------------------------------------------------------- labeler and anti-labeler


@dataclass(frozen=True)
class Labelers:
    r"""The labeler and the anti-labeler, which read the labels z from real and from generated rows x.

    The generator's loss has (Kocaoglu et al. 2018, section 5.2, their losses (6) and (7))

    .. math:: \alpha \big(\ell_{\text{labeler}}(z, \tilde x) - \ell_{\text{anti}}(z, \tilde x)\big), \qquad
              \tilde x = D(z) + s(z)\, r(U),

    with :math:`\ell` the negative log likelihood of the labels: generated rows should say of their labels what real
    rows do, and not more. The labeler alone would reward rows that show their labels more plainly than real ones. It
    is frozen, a part of the fitted `LabelEncoder`; the anti-labeler starts as its copy and learns from generated rows
    alone, so at the start, and wherever generated rows are as real ones, the two cancel.

    Attributes
    ----------
    labeler, anti : SkipNetwork
    labels, rest : EncodedColumns
    z, x, mean, sd : Tensor of shape (n, ...)
        The labels and columns of the rows, and what the labels say of their numbers.
    values, factor, nodes : Tensor
        Of `ResidualScores`.
    """

    labeler: SkipNetwork
    anti: SkipNetwork
    labels: EncodedColumns
    rest: EncodedColumns
    z: Tensor
    x: Tensor
    mean: Tensor
    sd: Tensor
    values: Tensor
    factor: Tensor
    nodes: Tensor

    @classmethod
    def of(
        cls, encoder: LabelEncoder, means: DecoderMeans, x: Tensor, z: Tensor, n_members: int, device: torch.device
    ) -> Labelers:
        """Copies of the encoder's first networks, as many as there are generators."""
        state = encoder.ensemble.network.state_dict()
        members = [k % encoder.ensemble.network.n_members for k in range(n_members)]
        hidden, n_out = state["location.weight"].shape[1:]
        labeler = SkipNetwork(n_members, x.shape[1], n_out, hidden, torch.Generator())
        labeler.load_state_dict({name: value[members] for name, value in state.items()})
        mean, sd = means._numbers(z)
        own = (z, x, mean, sd, *(v.float() for v in (means.scores.values, means.scores.factor, means.scores.nodes)))
        anti = copy.deepcopy(labeler).requires_grad_(True)
        return cls(
            labeler.requires_grad_(False).to(device),
            anti.to(device),
            encoder.ensemble.columns.to(device),
            means.columns.to(device),
            *(v.to(device) for v in own),
        )

    def rows(self, u: Tensor, rows: Tensor) -> Tensor:
        """Generated rows (n_members, len(rows), d) of scores u; events and categories stay as observed."""
        score = u @ self.factor.T
        at = torch.searchsorted(self.nodes, score.detach()).clamp(1, len(self.nodes) - 1)
        low, high = (self.values.expand(*score.shape, -1).gather(-1, k[..., None])[..., 0] for k in (at - 1, at))
        share = (score - self.nodes[at - 1]) / (self.nodes[at] - self.nodes[at - 1])
        made = self.x[rows].expand(len(u), -1, -1).clone()
        made[..., self.rest.numbers] = self.mean[rows] + self.sd[rows] * (low + share * (high - low))
        return made

    def loss(self, network: SkipNetwork, x: Tensor, rows: Tensor) -> Tensor:
        """Minus the log likelihood (n_members, len(rows)) of the rows' labels, per label, given generated rows x."""
        _, location, log_sd = network(x)
        z = self.z[rows]
        return self.labels.nll(location, log_sd.clamp_min(-3.0), z, torch.ones_like(z)) / z.shape[1]

    def objectives(self, draw: Draw, alpha: float) -> tuple[Extra, Sequence[Objective]]:
        """The generator's additional loss, and the anti-labeler's own."""

        def extra(u: Tensor, rows: Tensor, rng: torch.Generator) -> Tensor:
            x = self.rows(u, rows)
            return alpha * (self.loss(self.labeler, x, rows) - self.loss(self.anti, x, rows))

        def read(rows: Tensor, rng: torch.Generator) -> Tensor:
            with torch.no_grad():
                x = self.rows(draw(rows, rng), rows)
            return self.loss(self.anti, x, rows)

        return extra, [Objective(self.anti, read, _ANTI_LR, 1e-3)]
