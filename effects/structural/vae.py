"""CausalVAE: nodes of a graph as latent factors, and the noise that the columns hanging on them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from effects.nn.scale import ResidualLaw
from effects.nn.training import Settings
from effects.persistence import named, part
from effects.schema.checks import check_sizes
from effects.structural.dear import fit_linear_mechanism, linear_mechanism_from_state, linear_mechanism_state
from effects.structural.encoder import LabelEncoder
from effects.structural.ensemble import ColumnEnsemble, EncodedColumns, budget
from effects.structural.factors import FactorModel
from effects.structural.mechanisms import Mechanism
from effects.structural.noise import ColumnScores, Factors, RestLaw, SharedNoise, fit_shared_noise
from effects.structural.posterior import LabelPosterior
from effects.structural.regression import Plan
from effects.structural.scm import Action, wiring

if TYPE_CHECKING:
    from effects.schema.table import TableColumn, TableSchema

Array = NDArray[np.float64]
PRIORS = ("nonlinear", "dear")
_CHUNK = 8192  # rows worked on at once


class CausalVAE(FactorModel):
    r"""CausalVAE for tables: labels on a causal graph, and columns that hang on them through shared latent noise.

    The labels z (the nodes) follow the graph's mechanisms, the rest of the columns x a variational autoencoder:

    .. math:: z_j = F_j^{-1}(\Phi(W_j) \mid pa_j), \qquad u \sim N(0, I), \qquad
              x_j = D_j(z) + s_j(z)\, Q_j(t_j), \quad t = W u + g(u, z) + \sigma \varepsilon

    with D and s an ensemble (linear plus networks), Q the pooled law of column j's residuals, and t, the normal scores
    of the residuals, from the autoencoder. It starts as a linear factor model and departs from it where held-out rows
    speak for that. An event is :math:`t_j > -\Phi^{-1}(p_j(z))`, a category's log probabilities are moved by the
    autoencoder. Training maximises

    .. math:: E_{q(u \mid x, z)}[\log p(x \mid z, u)] - KL(q(u \mid x, z) \| N(0, I))
              + \log q(z_{seen} \mid x) + \log p(z),

    in stages: the supervised term :math:`\log q(z \mid x)` on labelled rows (Yang et al.'s :math:`l_u`; DEAR's), D and
    s with labels that were not seen drawn from the posterior, the autoencoder, and the mechanisms.

    **Counterfactuals.** Nodes by abduction on the graph; u drawn from :math:`q(u \mid x, z)`, each column's own noise
    solved for; both are replayed at the new z. Where nothing changes, x comes back exactly. Events replay the uniform
    variable behind them, categories Gumbel noises (Oberst & Sontag 2019): couplings that no data can tell from others.

    Parameters
    ----------
    graph : CausalGraph, networkx.DiGraph, list of edges, DOT or dagitty text, or a file of these
        Its nodes are labels: columns, or names in `factors`.
    factors : mapping of str to list of str, optional
        Nodes that stand for a group of columns.
    columns : list of str, optional
        The columns that hang on the nodes, by default all others.
    prior : {"nonlinear", "dear"}
        Mechanisms of the nodes. "dear" is :math:`z = f((I - A^\top)^{-1} h(\varepsilon))` with increasing f (Shen et
        al. 2022, eq. 4): linear among the normal scores of the nodes.
    latent_dim : int
        Largest length of u: it has one latent for each axis that the residuals' correlations ask for, and one more.
    n_networks, hidden, n_draws, epochs, lr, weight_decay, device, random_state, verbose
        As in `StructuralModel`; `n_networks` is also the size of the ensembles D and :math:`q(z \mid x)` (default 8;
        half as many autoencoders), and `n_draws` is 32.

    Attributes
    ----------
    graph_, schema_, scm_, history_
        As in `StructuralModel`.
    posterior_ : LabelPosterior
        Labels given the rest.
    decoder_ : ColumnEnsemble
        D and s.
    rest_law_ : RestLaw
        What is left of the rest, given the labels.

    Notes
    -----
    Deviations. Yang et al. learn the graph from data with the labels' help; here it is given, as in DEAR. Labels that
    were seen are the factors themselves, not noisy marks of them. DEAR's adversarial training is replaced by the
    likelihood, which a table's columns have. D takes the mean out of the autoencoder's way, as posterior collapse would
    otherwise take the nodes' effect with it. Labels not seen are drawn from the geometric mean of the encoder's and the
    generative model's posterior (`LabelPosterior`); rows without any label also teach the mechanisms, where x tells
    their labels well (`LabelEncoder.trust` is their weight).

    References
    ----------
    Yang, Liu, Chen, Shen, Hao & Wang (CVPR 2021), arXiv 2004.08697. Shen, Liu, Dong, Lian, Chen & Zhang (JMLR 2022),
    arXiv 2010.02637. Kingma et al. (NeurIPS 2014), arXiv 1406.5298 (partly labelled rows). Oberst & Sontag (ICML 2019).

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from effects.structural.vae import CausalVAE
    >>> rng = np.random.default_rng(0)
    >>> age = rng.normal(60, 10, 300)
    >>> severity = 0.1 * age + rng.normal(size=300)
    >>> shared = rng.normal(size=300)
    >>> labs = {f"lab{j}": severity + 0.02 * j * age + shared + rng.normal(size=300) for j in range(4)}
    >>> table = pd.DataFrame({"age": age, "severity": severity, **labs})
    >>> model = CausalVAE([("age", "severity")], epochs=3, n_networks=4, random_state=0).fit(table)
    >>> changed = model.counterfactual(table.head(3), do={"severity": 8.0}, n_draws=2)
    >>> list(changed.columns)
    ['age', 'severity', 'lab0', 'lab1', 'lab2', 'lab3']
    """

    _paper = "Yang et al., CVPR 2021, arXiv 2004.08697; Shen et al., JMLR 2022, arXiv 2010.02637"

    posterior_: LabelPosterior
    decoder_: ColumnEnsemble
    rest_law_: RestLaw

    def __init__(
        self,
        graph: Any,
        *,
        factors: Any = None,
        columns: Any = None,
        prior: str = "nonlinear",
        latent_dim: int = 8,
        n_networks: int | None = None,
        hidden: int = 64,
        n_draws: int = 32,
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
        self.prior = prior
        self.latent_dim = latent_dim

    def _check_params(self) -> None:
        super()._check_params()
        if self.prior not in PRIORS:
            raise ValueError(f"prior must be one of {PRIORS}, got {self.prior!r}.")
        check_sizes(self, ("latent_dim",))

    # ------------------------------------------------------------------ the nodes

    def _mechanism(
        self, column: TableColumn, x: Array, parents: Tensor, weight: Array, plan: Plan
    ) -> tuple[Mechanism, list[dict[str, float]]]:
        if self.prior == "dear":
            return fit_linear_mechanism(column, x, parents, weight, plan)
        return super()._mechanism(column, x, parents, weight, plan)

    def _mechanism_state(self, mechanism: Mechanism) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return linear_mechanism_state(mechanism)

    def _mechanism_from_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Mechanism:
        return linear_mechanism_from_state(tensors, meta)

    def _label_parents(self, labels: TableSchema) -> list[list[int]]:
        """Parents of every label, by their nodes' names; those of its own group come last."""
        home = {column: node for node, own in self._groups().items() for column in own}
        node = [home.get(name, name) for name in labels.names]
        _, parents = wiring(self._column_graph(), labels.names)
        return [sorted(own, key=lambda i: (node[i] == node[j], node[i])) for j, own in enumerate(parents)]

    def _is_open(self, frame: pd.DataFrame, values: Array, actions: Mapping[int, Action]) -> bool:
        """What u was is never quite known."""
        return self.layout_ is not None or super()._is_open(frame, values, actions)

    # ------------------------------------------------------------------ the columns that hang on them

    def _fit_rest(
        self,
        x: Tensor,
        z: Tensor,
        seen: Tensor,
        weight: Tensor,
        layout: TableSchema,
        labels: TableSchema,
        seed: int,
    ) -> dict[str, Any]:
        """Encoder, decoder, their joint posterior of labels not seen, the decoder again, and the shared noise.

        Parameters
        ----------
        x : Tensor of shape (n, d)
        z, seen : Tensor of shape (n, k)
        weight : Tensor of shape (n,)
        layout, labels : TableSchema
            Of the rest, of the labels.
        """
        n, members, rng = len(x), self.n_networks or 8, torch.Generator().manual_seed(seed)
        columns, every = EncodedColumns.of(layout), torch.ones(x.shape, dtype=torch.bool)
        for group in columns.groups:  # a category without any level is missing
            every[:, group] = x[:, group].any(1, keepdim=True)
        rates: dict[str, Any] = {"hidden": self.hidden, "lr": self.lr, "weight_decay": self.weight_decay}

        def plan(label: str) -> Settings:
            return budget(n, label, seed=seed, epochs=self.epochs, device=self.device, verbose=self.verbose)

        def decode(nodes: Tensor, label: str) -> ColumnEnsemble:
            return ColumnEnsemble.fit(nodes, x, every, weight, columns, plan(label), n_networks=len(nodes), **rates)

        encoder = LabelEncoder.fit(x, z, seen, weight, labels, plan("label encoder"), n_networks=members, **rates)
        complete = bool(seen.all())
        # where it only weighs candidates for labels not seen, half as many networks do
        first = members if complete else max(members // 2, 1)
        nodes = torch.stack([encoder.complete(x, z, seen, rng) for _ in range(first)])
        decoder = decode(nodes, "decoder")
        history = [*encoder.history, *decoder.history]
        parents, small = self._label_parents(labels), self._plan(n, seed)
        posterior = LabelPosterior.learn(encoder, decoder, x, z, seen, weight, labels, parents, small)
        if not complete:
            nodes = torch.stack([posterior.complete(x, z, seen, rng) for _ in range(members)])
            decoder = decode(nodes, "decoder of completed labels")
            history += decoder.history
            posterior = LabelPosterior.learn(encoder, decoder, x, z, seen, weight, labels, parents, small)
        held, log_sd = decoder.held_out_location, decoder.held_out_log_sd
        assert held is not None and log_sd is not None
        scores = ColumnScores.learn(columns, x, held, log_sd, weight)
        network, more = fit_shared_noise(
            scores.surroundings(x, held, log_sd),
            nodes[0],
            weight,
            columns,
            plan("shared noise"),
            n_networks=max(members // 2, 1),
            latent_dim=min(self.latent_dim, columns.width),
            **rates,
        )
        history += [{"stage": "shared noise", **entry} for entry in more]
        law = RestLaw(scores, network)
        fitted = {"posterior_": posterior, "decoder_": decoder, "rest_law_": law, "history_": history}
        return fitted if complete else fitted | {"drawn_": (posterior.complete(x, z, seen, rng), encoder.trust(x))}

    def _infer(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """Labels of rows x (n, d): the posterior mean, or a draw."""
        return self.posterior_.mean(x) if rng is None else self.posterior_.draw(x, rng)

    def _given(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What the labels alone say of the rest: locations and log sds (n, d)."""
        location, log_sd, _ = self.decoder_.predict(z)
        return location, log_sd

    def _decode(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """A draw of the rest at labels z (n, k)."""
        parts = [self.rest_law_.draw(*self._given(rows), rows, rng) for rows in z.split(_CHUNK)]
        return torch.cat(parts)

    def _transport(self, x: Tensor, z: Tensor, z_new: Tensor, rng: torch.Generator) -> Tensor:
        """Rows observed as (x, z), had their labels been z_new."""
        parts = []
        for rows, old, new in zip(x.split(_CHUNK), z.split(_CHUNK), z_new.split(_CHUNK), strict=True):
            seen = self.rest_law_.residuals.surroundings(rows, *self._given(old))
            parts.append(self.rest_law_.transport(seen, old, *self._given(new), new, rng))
        return torch.cat(parts)

    def _rest_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, state = self.posterior_.state()
        tensors, state = named("posterior", tensors), {"posterior": state}
        own, state["decoder"] = self.decoder_.state()
        law, network = self.rest_law_.residuals.law, self.rest_law_.network
        tensors |= named("decoder", own) | named("noise", dict(network.state_dict()))
        tensors |= {"law.scores": torch.from_numpy(law.scores), "law.values": torch.from_numpy(law.values)}
        return tensors, state | {"noise": network.sizes}

    def _set_rest_state(
        self, tensors: dict[str, Tensor], state: dict[str, Any], layout: TableSchema, labels: TableSchema
    ) -> dict[str, Any]:
        columns = EncodedColumns.of(layout)
        decoder = ColumnEnsemble.from_state(part(tensors, "decoder"), state["decoder"], columns)
        posterior = LabelPosterior.from_state(part(tensors, "posterior"), state["posterior"], decoder, labels)
        sizes, own = state["noise"], part(tensors, "noise")
        start = Factors.zero(columns.width, int(sizes["n_latents"]))
        members, nodes, hidden = (int(sizes[name]) for name in ("n_networks", "n_nodes", "hidden"))
        network = SharedNoise(members, nodes, hidden, columns, start, torch.Generator())
        network.load_state_dict(own)
        law = ResidualLaw(tensors["law.scores"].numpy(), tensors["law.values"].numpy())
        rest = RestLaw(ColumnScores(columns, law), network.requires_grad_(False))
        return {"posterior_": posterior, "decoder_": decoder, "rest_law_": rest}
