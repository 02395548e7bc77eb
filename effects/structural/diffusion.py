"""CausalDiffAE: a diffusion autoencoder whose code is the nodes of a causal graph."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from effects.nn.losses import denoising_error
from effects.nn.networks import BatchedLinear, batched_mlp
from effects.nn.training import Objective, Settings, held_out, train
from effects.persistence import named, part
from effects.schema.checks import check_whole
from effects.structural.decoder import DecoderMeans, drawn_weight, fit_factors
from effects.structural.encoder import LabelEncoder
from effects.structural.ensemble import budget
from effects.structural.factors import FactorModel

if TYPE_CHECKING:
    from effects.schema.table import TableSchema

Array = NDArray[np.float64]
_RIGHT_ANGLE = np.pi / 2
_LEVELS = 4  # noise angles a row and batch
_FREQUENCIES = 3
_STEPS = 1500
_CHUNK = 4096
_SIGNIFICANT = 2.0  # standard errors by which a dimension's velocity must help on rows held out
_ROUNDS = 30  # of the fixed point that inverts a Heun step
_EXACT = 1e-6


class CausalDiffAE(FactorModel):
    r"""Causal diffusion autoencoder for tables (Komanduri, Zhao, Chen & Wu 2024).

    The nodes z of the graph are columns (labels, causal factors); all other columns x hang on them. Four parts:

    1. **Mechanisms.** :math:`z_j = m_j(pa_j) + s_j(pa_j)\, Q_j(W_j)` along the graph, as in `StructuralModel`.
    2. **Encoder** :math:`q(z \mid x)`: an ensemble, fitted on the rows whose labels are seen. Labels that are missing
       are drawn from it, for questions and for training: such rows weigh 0.3 in parts 3 and 4, and in part 1 as far
       as the encoder is to be trusted (`LabelEncoder.trust`).
    3. **Means.** :math:`x = D(z) + s(z)\, r`, with D and s an ensemble (linear plus networks) and scores
       :math:`u = L^{-1} \Phi^{-1}(F(r))` of the residuals, which a Gaussian copula would make standard normal.
    4. **Diffusion** of u given z: noised to :math:`w = \cos\theta\, u + \sin\theta\, \varepsilon`, a network learns
       the velocity,

       .. math:: \min_F E \big\| F(w, \theta; z) - (\sin\theta\, u - \cos\theta\, \varepsilon) \big\|^2 ,

       from zero, where u is exactly standard normal; and each dimension of it counts only as far as it helps on rows
       held out. So what the data do not speak against stays a Gaussian copula of residuals that is the same at all z.

    A counterfactual encodes the row to its noise by running the probability flow backwards at z (DDIM inversion), and
    forwards at :math:`z'`. With :math:`z' = z` the row comes back.

    Parameters
    ----------
    graph : CausalGraph, networkx.DiGraph, list of edges, DOT or dagitty text, or a file of these
        Its nodes are labels: columns, or names in `factors`.
    factors : mapping of str to list of str, optional
        Nodes that stand for a group of columns.
    columns : list of str, optional
        The columns that hang on the nodes, by default all others.
    n_denoisers : int
        Networks of the diffusion; the flow follows their mean velocity.
    n_steps : int
        Heun steps of the flow, either way.
    n_networks, hidden, n_draws, epochs, lr, weight_decay, device, random_state, verbose
        As in `StructuralModel`; `n_networks` is also the size of the ensembles of parts 2 and 3 (16 below 1,000 rows,
        else 8), which learn at twice the rate `lr`.

    Attributes
    ----------
    graph_, schema_, scm_, history_
        As in `StructuralModel`.
    layout_ : TableSchema or None
        Of the columns that hang on the nodes; None where there are none.
    encoder_ : LabelEncoder
    means_ : DecoderMeans
    diffusion_ : ResidualDiffusion or None
        None where x holds no numbers. ``diffusion_.gain`` is zero where the Gaussian copula suffices.

    Notes
    -----
    Deviations from the paper. Its code is learned and tied to the labels by a KL term; here the labels, where seen, are
    the code, and the encoder is what the KL would make of it, fitted by its likelihood. The diffusion decodes residuals
    of a mean instead of x itself: on a table of some thousand rows a mean is learned far better by regression, and a
    replayed residual is exact where noise is additive. Velocity prediction and few Heun steps, as in `DiffPO`, instead
    of noise prediction and a thousand. There is no classifier-free guidance: `strength` moves the factors themselves on
    the straight line from factual to counterfactual, where guidance would sharpen the law of x beyond that of the data.

    Events and categories among x have logits given z and u. Their counterfactuals replay a latent utility drawn given
    the observed level (logistic for events, Gumbel for categories); that coupling, like the flow's own (in several
    dimensions data determine the law of x', not the map from x), is an assumption.

    References
    ----------
    Komanduri, Zhao, Chen & Wu (ECAI 2024), arXiv 2404.17735, sections 3-4. Song et al. (2021), arXiv 2010.02502 (DDIM),
    eq. 14. Karras et al. (2022), arXiv 2206.00364. Oberst & Sontag (ICML 2019), arXiv 1905.05824.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from effects import CausalDiffAE
    >>> rng = np.random.default_rng(0)
    >>> age = rng.normal(60, 10, 300)
    >>> severity = 0.1 * age + rng.normal(size=300)
    >>> labs = {f"lab{j}": severity + 0.02 * j * age + rng.normal(size=300) for j in range(4)}
    >>> table = pd.DataFrame({"age": age, "severity": severity, **labs})
    >>> table.loc[100:, "severity"] = np.nan  # partly labelled
    >>> model = CausalDiffAE([("age", "severity")], epochs=3, n_networks=4, random_state=0).fit(table)
    >>> changed = model.counterfactual(table.head(3), do={"severity": 8.0}, n_draws=2)
    >>> list(changed.columns)
    ['age', 'severity', 'lab0', 'lab1', 'lab2', 'lab3']
    >>> model.encode(table.head(3)).columns.tolist()
    ['age', 'severity']
    """

    _paper = "Komanduri et al., ECAI 2024, arXiv 2404.17735"

    encoder_: LabelEncoder
    means_: DecoderMeans
    diffusion_: ResidualDiffusion | None

    def __init__(
        self,
        graph: Any,
        *,
        factors: Any = None,
        columns: Any = None,
        n_denoisers: int = 5,
        n_steps: int = 8,
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
        self.n_denoisers = n_denoisers
        self.n_steps = n_steps

    def _check_params(self) -> None:
        super()._check_params()
        for name, least in (("n_denoisers", 2), ("n_steps", 1)):
            check_whole(name, getattr(self, name), least)

    # ------------------------------------------------------------------ fit

    def _fit_rest(
        self, x: Tensor, z: Tensor, seen: Tensor, weight: Tensor, layout: TableSchema, labels: TableSchema, seed: int
    ) -> dict[str, Any]:
        plan: dict[str, Any] = {
            "seed": seed,
            "epochs": self.epochs,
            "device": self.device,
            "verbose": self.verbose,
        }
        encoder, means, completed = fit_factors(
            x,
            z,
            seen,
            weight,
            layout,
            labels,
            n_networks=self.n_networks,
            hidden=self.hidden,
            lr=2 * self.lr,
            weight_decay=self.weight_decay,
            **plan,
        )
        u = means.held_out
        assert u is not None
        diffusion, history = None, [*encoder.history, *means.history]
        if u.shape[1]:
            settings = budget(len(x), "diffusion", steps=_STEPS, ema=0.98, **plan)
            sizes = {"n_members": self.n_denoisers, "hidden": self.hidden, "n_steps": self.n_steps}
            diffusion = ResidualDiffusion.fit(u, completed, drawn_weight(weight, seen), settings, **sizes)
            history += diffusion.history
        means.held_out = None
        fitted = {"encoder_": encoder, "means_": means, "diffusion_": diffusion, "history_": history}
        return fitted | {"drawn_": (completed, encoder.trust(x))}

    # ------------------------------------------------------------------ questions

    def _infer(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        return self.encoder_.mean(x) if rng is None else self.encoder_.draw(x, rng)

    def _decode(self, z: Tensor, rng: torch.Generator) -> Tensor:
        noise = torch.randn((len(z), len(self.means_.columns.numbers)), generator=rng)
        return self.means_.decode(self._generate(noise, z), z, rng)

    def _transport(self, x: Tensor, z: Tensor, z_new: Tensor, rng: torch.Generator) -> Tensor:
        u = self.means_.encode(x, z)
        u_new = u if self.diffusion_ is None else self.diffusion_.generate(self.diffusion_.abduct(u, z), z_new)
        return self.means_.transport(x, z, z_new, u, u_new, rng)

    def _generate(self, noise: Tensor, z: Tensor) -> Tensor:
        return noise if self.diffusion_ is None else self.diffusion_.generate(noise, z)

    # ------------------------------------------------------------------ save / load

    def _rest_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        state: dict[str, Any] = {}
        for name, own in (("encoder", self.encoder_), ("means", self.means_), ("diffusion", self.diffusion_)):
            found, state[name] = own.state() if own is not None else ({}, None)
            tensors |= named(name, found)
        return tensors, state

    def _set_rest_state(
        self, tensors: dict[str, Tensor], state: dict[str, Any], layout: TableSchema, labels: TableSchema
    ) -> dict[str, Any]:
        diffusion = None
        if state["diffusion"] is not None:
            diffusion = ResidualDiffusion.from_state(part(tensors, "diffusion"), state["diffusion"])
        return {
            "encoder_": LabelEncoder.from_state(part(tensors, "encoder"), state["encoder"], labels),
            "means_": DecoderMeans.from_state(part(tensors, "means"), state["means"], layout),
            "diffusion_": diffusion,
        }


class VelocityNetwork(nn.Module):
    r"""The network :math:`F_\theta(w, \theta; z)` of a diffusion of vectors, for all members at once.

    Its last map starts at zero: untrained, the flow is the identity and its law standard normal.

    Parameters
    ----------
    n_members, n_columns, n_labels, hidden : int
    """

    def __init__(self, n_members: int, n_columns: int, n_labels: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.n_members = n_members
        self.first = BatchedLinear(n_members, n_columns + n_labels + 2 * _FREQUENCIES, hidden, generator)
        self.hidden = batched_mlp(n_members, [hidden, hidden], generator)
        self.out = BatchedLinear(n_members, hidden, n_columns, generator, zero=True)

    def forward(self, w: Tensor, angle: Tensor, z: Tensor) -> Tensor:
        """`w` (n_members, n, d), `angle` (n,) or (n_members, n), `z` (n, k) -> (n_members, n, d)."""
        harmonics = angle[..., None] * torch.arange(1, _FREQUENCIES + 1, device=w.device, dtype=w.dtype)
        rest = torch.cat([harmonics.sin(), harmonics.cos()], -1).expand(*w.shape[:2], -1)
        h = self.first(torch.cat([w, z.expand(len(w), -1, -1), rest], -1))
        return self.out(self.hidden(nn.functional.silu(h)))


class ResidualDiffusion:
    r"""A diffusion model of vectors u given labels z, whose sampler runs both ways.

    In the angle :math:`\theta = \arctan\sigma` the noised vector is :math:`w = \cos\theta\, u + \sin\theta\,
    \varepsilon`, the network's target the velocity :math:`v = \sin\theta\, u - \cos\theta\, \varepsilon`, and the
    probability flow (Song et al. 2021, eq. 13)

    .. math:: \frac{dw}{d\theta} = -\lambda \odot \bar F(w, \theta; z)

    from :math:`\theta = \pi / 2` (noise) to 0, by Heun steps. :math:`\bar F` is the members' mean. For standard normal
    u independent of z the best F is zero: then the flow is the identity. So :math:`\lambda_j \in [0, 1]` is the
    coefficient of the regression of :math:`v_j` on :math:`F_j` over rows that the members had held out, and zero where
    the gain there is below two standard errors: noise in F must not move counterfactuals.

    Attributes
    ----------
    network : VelocityNetwork
    gain : Tensor of shape (d,)
        :math:`\lambda`.
    n_steps : int
    history : list of dict
    """

    def __init__(self, network: VelocityNetwork, gain: Tensor, n_steps: int) -> None:
        self.network, self.gain, self.n_steps = network, gain, n_steps
        self.history: list[dict[str, Any]] = []

    @classmethod
    def fit(
        cls,
        u: Tensor,
        z: Tensor,
        weight: Tensor,
        settings: Settings,
        *,
        n_members: int = 5,
        hidden: int = 64,
        n_steps: int = 8,
        lr: float = 4e-3,
        weight_decay: float = 1e-3,
    ) -> ResidualDiffusion:
        """Fit to rows u (n, d) with labels z (n, k) and weights (n,)."""
        generator = torch.Generator().manual_seed(settings.seed)
        network = VelocityNetwork(n_members, u.shape[1], z.shape[1], hidden, generator).to(settings.device)
        folds = held_out(n_members, torch.zeros(len(u), dtype=torch.int64), max(n_members, 2), generator)
        rows_u, rows_z = u.to(settings.device), z.to(settings.device)

        def loss(rows: Tensor, rng: torch.Generator) -> Tensor:
            value = _errors(network, rows_u[rows], rows_z[rows], rng)[0].mean(-1)
            return value.unflatten(1, (-1, _LEVELS)).mean(2)

        held = folds.to(settings.device)

        def score(rows: Tensor, rng: torch.Generator) -> Tensor:
            # one dimension in thirty may have something to learn, while the others can only lose: each counts from
            # where its gain on rows held out is beyond chance
            error, _, target = _errors(network, rows_u[rows], rows_z[rows], rng)
            gain = (target**2 - error).unflatten(1, (-1, _LEVELS)).mean(2)
            share = held[:, rows, None].float()
            share = share / share.sum(1, keepdim=True).clamp_min(1.0)
            mean = (share * gain).sum(1, keepdim=True)
            chance = (share**2 * (gain - mean) ** 2).sum(1).sqrt()
            sure = (mean[:, 0] - _SIGNIFICANT * chance).clamp_min(0.0).sum(-1, keepdim=True)
            return (-sure - 1e-4 * mean.mean(-1)).expand(-1, len(rows))

        objective = Objective(network, loss, lr, weight_decay, score=score)
        history = train([objective], weight.expand(n_members, -1), folds, settings)
        model = cls(network.to("cpu").requires_grad_(False), torch.ones(u.shape[1]), n_steps)
        model.history = [{"stage": settings.label, **entry} for entry in history]
        model._settle(u, z, weight, folds, settings.seed)
        return model

    @torch.no_grad()
    def _settle(self, u: Tensor, z: Tensor, weight: Tensor, folds: Tensor, seed: int) -> None:
        """How far to trust the velocities: their regression on rows held out."""
        rng = torch.Generator().manual_seed(seed + 2)
        products, squares = [], []
        for rows in torch.arange(len(u)).split(_CHUNK):
            error, velocity, target = _errors(self.network, u[rows], z[rows], rng)
            share = folds[:, rows].float() / folds[:, rows].sum(0).clamp_min(1)
            own = (velocity * share.repeat_interleave(_LEVELS, 1)[..., None]).sum(0)
            products.append((own * target).unflatten(0, (-1, _LEVELS)).mean(1))
            squares.append((own**2).unflatten(0, (-1, _LEVELS)).mean(1))
        w = (weight * folds.any(0)).double()
        w = w / w.sum().clamp_min(1e-12)
        product, square = torch.cat(products).double(), torch.cat(squares).double()
        gain = ((w @ product) / (w @ square).clamp_min(1e-12)).clamp(0.0, 1.0)
        better = 2 * gain * product - gain**2 * square  # less squared error, row by row
        mean = w @ better
        error = ((w[:, None] * (better - mean)) ** 2).sum(0).sqrt()
        self.gain = torch.where(mean > _SIGNIFICANT * error, gain, torch.zeros_like(gain)).float()

    @torch.no_grad()
    def generate(self, noise: Tensor, z: Tensor) -> Tensor:
        """Vectors u (n, d) of standard normal `noise` (n, d) at labels z (n, k): the deterministic sampler."""
        return self._flow(noise, z, backwards=False)

    @torch.no_grad()
    def abduct(self, u: Tensor, z: Tensor) -> Tensor:
        """The noise (n, d) of which `generate` makes u: its steps, each inverted by a fixed point."""
        return self._flow(u, z, backwards=True)

    def _flow(self, start: Tensor, z: Tensor, backwards: bool) -> Tensor:
        if not bool(self.gain.any()):
            return start
        angles = np.linspace(_RIGHT_ANGLE, 0.0, self.n_steps + 1)
        out = []
        for w, labels in zip(start.split(_CHUNK), z.split(_CHUNK), strict=True):
            for now, then in reversed([*pairwise(angles)]) if backwards else pairwise(angles):
                w = self._unstep(w, now, then, labels) if backwards else self._step(w, now, then, labels)
            out.append(w)
        return torch.cat(out)

    def _slope(self, w: Tensor, angle: float, z: Tensor) -> Tensor:
        velocity = self.network(w.expand(self.network.n_members, -1, -1), torch.full((1,), angle), z)
        return -self.gain * velocity.mean(0)

    def _step(self, w: Tensor, now: float, then: float, z: Tensor) -> Tensor:
        """One Heun step."""
        slope = self._slope(w, now, z)
        ahead = self._slope(w + (then - now) * slope, then, z)
        return w + (then - now) * (slope + ahead) / 2

    def _unstep(self, w: Tensor, now: float, then: float, z: Tensor) -> Tensor:
        """The vector that `_step` takes to `w`: a Heun step back, then what is missing, until nothing is."""
        found = self._step(w, then, now, z)
        for _ in range(_ROUNDS):
            missing = w - self._step(found, now, then, z)
            if not len(w) or float(missing.abs().max()) < _EXACT:
                break
            found = found + missing
        return found

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values, for `from_state`."""
        members, inputs, hidden = self.network.first.weight.shape
        sizes = {"n_members": members, "n_inputs": inputs, "hidden": hidden, "n_steps": self.n_steps}
        return named("network", self.network.state_dict()) | {"gain": self.gain}, sizes

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], state: dict[str, Any]) -> ResidualDiffusion:
        """The inverse of `state`."""
        d = len(tensors["gain"])
        labels = int(state["n_inputs"]) - d - 2 * _FREQUENCIES
        network = VelocityNetwork(int(state["n_members"]), d, labels, int(state["hidden"]), torch.Generator())
        network.load_state_dict(part(tensors, "network"))
        return cls(network.requires_grad_(False), tensors["gain"], int(state["n_steps"]))


def _errors(network: VelocityNetwork, u: Tensor, z: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Errors and velocities (n_members, n * _LEVELS, d) and their target (n * _LEVELS, d), at stratified angles."""
    u, z = u.repeat_interleave(_LEVELS, 0), z.repeat_interleave(_LEVELS, 0)
    noise = torch.randn(u.shape, generator=rng, device=u.device)
    level = torch.arange(len(u), device=u.device) % _LEVELS
    angle = (level + torch.rand(len(u), generator=rng, device=u.device)) / _LEVELS * _RIGHT_ANGLE
    cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    velocity = network((cos * u + sin * noise).expand(network.n_members, -1, -1), angle, z)
    return denoising_error(velocity, u, noise, angle[:, None]), velocity, sin * u - cos * noise
