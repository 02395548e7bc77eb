"""Labels of a row given the rest of its columns: what the encoder says, weighed by what decoder and graph say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from effects.persistence import named, part
from effects.structural.dear import fit_linear_mechanism, linear_mechanism_from_state, linear_mechanism_state
from effects.structural.encoder import LabelEncoder
from effects.structural.ensemble import ColumnEnsemble
from effects.structural.regression import Plan
from effects.structural.scm import SCM

if TYPE_CHECKING:
    from effects.schema.table import TableSchema

Parents = Sequence[Sequence[int]]
_SHARE = 0.5  # of the decoder and the prior, against the encoder
_CANDIDATES = 64  # of a posterior mean
_FEWER = 16  # of a draw
_ROWS = 4096
_OWN = 0.05  # share of the identity in the residuals' correlations


class LabelPosterior:
    r"""The posterior of labels z given x, from two sides.

    The encoder learns :math:`q(z \mid x)` from labelled rows. The generative model says the same by Bayes' rule,
    :math:`p(z) p(x \mid z)`, with the graph's linear mechanisms (`effects.structural.dear`) as prior and, for the
    decoder, all rows behind it. Both err, and not alike: candidates drawn from q are weighed by

    .. math:: w \propto \Big(\frac{p(z)\, p(x \mid z)}{q(z \mid x)}\Big)^{1/2},

    which makes them draws of the geometric mean of the two posteriors. With exponent 1 these would be the weights
    of an importance-weighted autoencoder (Burda, Grosse & Salakhutdinov 2016); on simulated factors 1/2 has the
    smaller error, and never a larger one than q alone.

    Attributes
    ----------
    encoder : LabelEncoder
    decoder : ColumnEnsemble
        Of the rest given the labels.
    prior : SCM
    whitening : Tensor of shape (n_numbers, n_numbers)
        Makes standardised residuals of the rest's numbers uncorrelated.
    labels : TableSchema
    """

    def __init__(
        self, encoder: LabelEncoder, decoder: ColumnEnsemble, prior: SCM, whitening: Tensor, labels: TableSchema
    ) -> None:
        self.encoder, self.decoder, self.prior, self.whitening = encoder, decoder, prior, whitening
        self.labels = labels

    @classmethod
    def learn(
        cls,
        encoder: LabelEncoder,
        decoder: ColumnEnsemble,
        x: Tensor,
        z: Tensor,
        seen: Tensor,
        weight: Tensor,
        labels: TableSchema,
        parents: Parents,
        plan: Plan,
    ) -> LabelPosterior:
        """Learn the prior from labelled rows, and from the decoder's training rows x how their residuals correlate."""
        held, log_sd = decoder.held_out_location, decoder.held_out_log_sd
        assert held is not None and log_sd is not None
        at = decoder.columns.numbers
        r = ((x - held) * torch.exp(-log_sd))[:, at].double()
        covariance = (r * (weight / weight.sum()).double()[:, None]).mT @ r
        scale = torch.diagonal(covariance).clamp_min(1e-12).sqrt()
        eye = torch.eye(len(at), dtype=torch.float64)
        correlation = (1 - _OWN) * covariance / scale / scale[:, None] + _OWN * eye
        whitening = torch.linalg.inv(torch.linalg.cholesky(correlation)).float() if len(at) else eye.float()
        return cls(encoder, decoder, linear_prior(z, seen, weight, labels, parents, plan), whitening, labels)

    @torch.no_grad()
    def mean(self, x: Tensor) -> Tensor:
        """Posterior mean (n, k) of rows x (n, d); a row's does not depend on the others."""
        rng = torch.Generator().manual_seed(0)
        parts = []
        for rows in x.split(max(1, _ROWS // _CANDIDATES)):
            z, log_weight = self._candidates(rows, _CANDIDATES, rng.manual_seed(0), shared=True)
            parts.append((log_weight.softmax(0)[..., None] * z).sum(0))
        out, at = torch.cat(parts), self.encoder.ensemble.columns.discrete
        out[:, at] = out[:, at].clamp(0.0, 1.0)  # weights sum to one up to rounding
        return out

    @torch.no_grad()
    def draw(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """One draw (n, k) of every row's labels."""
        parts = []
        for rows in x.split(max(1, _ROWS // _FEWER)):
            z, log_weight = self._candidates(rows, _FEWER, rng)
            chosen = torch.multinomial(log_weight.softmax(0).mT, 1, generator=rng).squeeze(1)
            parts.append(z[chosen, torch.arange(len(rows))])
        return torch.cat(parts)

    def complete(self, x: Tensor, z: Tensor, seen: Tensor, rng: torch.Generator) -> Tensor:
        """Labels `z` (n, k) with what is not `seen` taken from one draw."""
        out, rows = torch.where(seen, z, torch.zeros_like(z)), ~seen.all(1)
        if bool(rows.any()):
            out[rows] = torch.where(seen[rows], z[rows], self.draw(x[rows], rng))
        return out

    def _candidates(self, x: Tensor, n: int, rng: torch.Generator, shared: bool = False) -> tuple[Tensor, Tensor]:
        """Candidates (n, n_rows, k) of every row and their log weights (n, n_rows); `shared`: of the same noise."""
        ensemble, wide = self.encoder.ensemble, 1 if shared else len(x)
        columns = ensemble.columns
        location, log_sd, _ = ensemble.predict(x)
        z = torch.zeros(n, len(x), columns.width)
        at = columns.numbers
        normal = torch.randn((n, wide, len(at)), generator=rng)
        z[..., at] = location[:, at] + log_sd[:, at].exp() * (normal @ self.encoder.factor.T)
        log_q = -0.5 * (normal**2).sum(-1).expand(n, len(x))
        at = columns.events
        z[..., at] = (torch.rand((n, wide, len(at)), generator=rng) < torch.sigmoid(location[:, at])).float()
        for at in columns.groups:
            gumbel = -torch.rand((n, wide, len(at)), generator=rng).clamp(1e-12, 1 - 1e-7).log().neg().log()
            z[..., at] = nn.functional.one_hot((location[:, at] + gumbel).argmax(-1), len(at)).float()
        flat, discrete = z.flatten(0, 1), columns.only("discrete")
        every = torch.ones_like(flat)
        log_q = log_q - discrete.nll(location.repeat(n, 1), torch.zeros_like(flat), flat, every).unflatten(0, (n, -1))
        log_p = self._log_likelihood(x.repeat(n, 1), flat) + self._log_prior(flat)
        return z, _SHARE * (log_p.unflatten(0, (n, -1)) - log_q)

    def _log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z) (n,) up to a constant, with the pooled correlations of the numbers' residuals."""
        location, log_sd, _ = self.decoder.predict(z)
        columns, at = self.decoder.columns, self.decoder.columns.numbers
        r = ((x - location) * torch.exp(-log_sd))[:, at] @ self.whitening.T
        seen = torch.ones_like(x)
        for group in columns.groups:  # a category without any level is missing
            seen[:, group] = x[:, group].sum(1, keepdim=True)
        discrete = columns.only("discrete").nll(location, log_sd, x, seen)
        return -0.5 * (r**2).sum(1) - log_sd[:, at].sum(1) - discrete

    def _log_prior(self, z: Tensor) -> Tensor:
        return torch.from_numpy(self.prior.log_prob(self.labels.decode(z.numpy()))).float()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values of all but the decoder, which others share."""
        tensors, encoder = self.encoder.state()
        tensors = named("encoder", tensors) | {"whitening": self.whitening}
        nodes = []
        for j, mechanism in enumerate(self.prior.mechanisms):
            own, meta = linear_mechanism_state(mechanism)
            tensors |= named(f"node{j}", own)
            nodes.append(meta)
        parents = [list(one) for one in self.prior.parents]
        return tensors, {"encoder": encoder, "nodes": nodes, "parents": parents, "order": list(self.prior.order)}

    @classmethod
    def from_state(
        cls, tensors: dict[str, Tensor], state: dict[str, Any], decoder: ColumnEnsemble, labels: TableSchema
    ) -> LabelPosterior:
        """The inverse of `state`."""
        encoder = LabelEncoder.from_state(part(tensors, "encoder"), state["encoder"], labels)
        mechanisms = [linear_mechanism_from_state(part(tensors, f"node{j}"), m) for j, m in enumerate(state["nodes"])]
        parents = tuple(tuple(int(i) for i in one) for one in state["parents"])
        prior = SCM(labels, tuple(int(j) for j in state["order"]), parents, tuple(mechanisms))
        return cls(encoder, decoder, prior, tensors["whitening"], labels)


def linear_prior(z: Tensor, seen: Tensor, weight: Tensor, labels: TableSchema, parents: Parents, plan: Plan) -> SCM:
    """The graph's linear mechanisms, each from the rows in which the node and its parents are seen."""
    known, values, w = _values_seen(labels, seen), labels.decode(z.numpy()), weight.double().numpy()
    order: list[int] = []
    while len(order) < len(parents):
        order += [j for j, own in enumerate(parents) if j not in order and all(i in order for i in own)]
    draft = SCM(labels, tuple(order), tuple(tuple(one) for one in parents), ())
    mechanisms = []
    for j, column in enumerate(labels.columns):
        rows = known[:, [j, *parents[j]]].all(1) & (w > 0)
        if rows.sum() < 2:
            raise ValueError(
                f"Node {column.name!r} and its parents are known together in {int(rows.sum())} rows: its mechanism "
                "cannot be learnt. Fill in missing values, or leave the column out of the graph."
            )
        inputs = draft.encode_parents(j, values[rows])
        mechanisms.append(fit_linear_mechanism(column, values[rows, j], inputs, w[rows], plan)[0])
    return SCM(draft.schema, draft.order, draft.parents, tuple(mechanisms))


def _values_seen(labels: TableSchema, seen: Tensor) -> np.ndarray:
    """Which values (n, n_labels) are seen; a constant always is."""
    slices = [labels.slices[name] for name in labels.names]
    return np.stack([seen[:, one].all(1).numpy() for one in slices], axis=1)
