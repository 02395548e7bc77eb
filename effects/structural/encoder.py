"""The label encoder q(z | x): the causal factors of a row, inferred from the columns that hang on them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from effects.nn.training import Settings
from effects.persistence import named, part
from effects.structural.ensemble import ColumnEnsemble, EncodedColumns

if TYPE_CHECKING:
    from effects.schema.table import TableSchema

_MOST_EPOCHS = 300


class LabelEncoder:
    r"""An ensemble's law of the labels z of a row given the rest of its columns x.

    Numbers are jointly normal, :math:`z \mid x \sim N(\mu(x), S(x) R S(x))` with :math:`\mu` and the diagonal S from a
    `ColumnEnsemble` and R the correlations of its held-out errors; an event is Bernoulli, a category categorical,
    independent of the rest given x. A label counts in the likelihood of the rows where it is seen, and rows without any
    label are not looked at. Spreads are those of errors on rows that the networks had held out, so they hold what the
    networks themselves do not know.

    The graph between the labels is not an input: given enough labelled rows, :math:`q(z \mid x)` knows their joint law
    from them.

    Attributes
    ----------
    ensemble : ColumnEnsemble
    factor : Tensor of shape (n_numbers, n_numbers)
        Cholesky factor of R.
    history : list of dict
        Of the training, with the stage "label encoder" or what the settings' label says.

    Examples
    --------
    >>> import numpy as np, pandas as pd, torch
    >>> from effects.schema.table import TableSchema
    >>> from effects.structural.encoder import LabelEncoder
    >>> from effects.structural.ensemble import budget
    >>> labels = TableSchema.learn(pd.DataFrame({"z": np.random.default_rng(0).normal(size=100)}))
    >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> z = x[:, :1]
    >>> seen, weight = torch.ones(100, 1, dtype=torch.bool), torch.ones(100)
    >>> encoder = LabelEncoder.fit(x, z, seen, weight, labels, budget(100, "label encoder", epochs=5), n_networks=4)
    >>> bool((encoder.mean(x) - z).abs().max() < 0.1)
    True
    """

    def __init__(self, ensemble: ColumnEnsemble, factor: Tensor) -> None:
        self.ensemble, self.factor = ensemble, factor

    @property
    def history(self) -> list[dict[str, Any]]:
        """Of the training; empty once loaded."""
        return self.ensemble.history

    @classmethod
    def fit(
        cls,
        x: Tensor,
        z: Tensor,
        seen: Tensor,
        weight: Tensor,
        labels: TableSchema,
        settings: Settings,
        *,
        n_networks: int | None = None,
        hidden: int = 64,
        lr: float = 6e-3,
        weight_decay: float = 0.1,
    ) -> LabelEncoder:
        """Fit on the rows of which a label is seen.

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Encoded rest of the columns.
        z : Tensor of shape (n, k)
            Encoded labels; where `seen` is False (bool, (n, k)), their values are not looked at.
        weight : Tensor of shape (n,)
        labels : TableSchema
        settings : Settings
            Such as `effects.structural.ensemble.budget` makes for all n rows. With fewer labelled rows there are more
            epochs, so that the gradient steps stay as many.
        """
        columns = EncodedColumns.of(labels)
        rows = seen.any(1) & (weight > 0)
        if int(rows.sum()) < 2:
            raise ValueError("labels are known in fewer than two rows: they cannot be learnt from the other columns.")
        # a number that nobody saw is NaN or anything else: it must not poison what is multiplied by zero
        y = torch.where(seen, z, torch.zeros_like(z))[rows]
        epochs = max(settings.epochs, min(_MOST_EPOCHS, round(settings.epochs * len(x) / int(rows.sum()))))
        settings = replace(settings, epochs=epochs, patience=max(3, epochs // 6))
        sizes: dict[str, Any] = {"n_networks": n_networks, "hidden": hidden, "lr": lr, "weight_decay": weight_decay}
        ensemble = ColumnEnsemble.fit(x[rows], y, seen[rows], weight[rows], columns, settings, **sizes)
        return cls(ensemble, _error_factor(ensemble, y, seen[rows], weight[rows]))

    @torch.no_grad()
    def mean(self, x: Tensor) -> Tensor:
        """Posterior mean (n, k) of the encoded labels of rows `x` (n, d): probabilities of events and of levels."""
        return self.ensemble.columns.expected(self.ensemble.predict(x)[0])

    @torch.no_grad()
    def draw(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """One draw (n, k) of the encoded labels of rows `x` (n, d): events 0 or 1, categories one-hot."""
        location, log_sd, _ = self.ensemble.predict(x)
        columns = self.ensemble.columns
        out, at = columns.draw(columns.expected(location), rng), columns.numbers
        if len(at):
            normal = torch.randn((len(x), len(at)), generator=rng) @ self.factor.T
            out[:, at] += log_sd[:, at].exp() * normal
        return out

    def complete(self, x: Tensor, z: Tensor, seen: Tensor, rng: torch.Generator) -> Tensor:
        """Labels `z` (n, k) with what is not `seen` taken from one draw."""
        return z if bool(seen.all()) else torch.where(seen, z, self.draw(x, rng))

    @torch.no_grad()
    def trust(self, x: Tensor) -> float:
        """How far labels drawn for rows x may stand for seen ones where a node is regressed on others: 0 to 1.

        One less ten times the share of variance that x leaves open in the worst label. A drawn cause that is a tenth
        wrong flattens a mechanism more than its rows sharpen it: with 30% of the labels of
        `effects.datasets.structural.make_factors`, rows at weight 0.3 took the error of d given do(c) from 0.036 to
        0.025 sd at a noise of 0.1 (1% open), but to 0.079 at 0.5 (15% open).
        """
        location, log_sd, _ = self.ensemble.predict(x)
        mean, at = self.ensemble.columns.expected(location), self.ensemble.columns.numbers
        left = (mean * (1 - mean)).mean(0)
        left[at] = (2 * log_sd[:, at]).exp().mean(0)
        total = left + mean.var(0, unbiased=False)
        return float((1 - 10 * left / total.clamp_min(1e-12)).clamp_min(0.0).min())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values, for `from_state`."""
        tensors, state = self.ensemble.state()
        return named("ensemble", tensors) | {"factor": self.factor}, state

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], state: dict[str, Any], labels: TableSchema) -> LabelEncoder:
        """The inverse of `state`."""
        ensemble = ColumnEnsemble.from_state(part(tensors, "ensemble"), state, EncodedColumns.of(labels))
        return cls(ensemble, tensors["factor"])


def _error_factor(ensemble: ColumnEnsemble, y: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
    """Cholesky factor of the correlations of held-out errors of numbers, over rows where all numbers are seen."""
    at = ensemble.columns.numbers
    identity = torch.eye(len(at))
    held, log_sd = ensemble.held_out_location, ensemble.held_out_log_sd
    assert held is not None and log_sd is not None
    rows = seen[:, at].all(1)
    if len(at) < 2 or int(rows.sum()) < 10 * len(at):
        return identity
    error = ((y - held) * torch.exp(-log_sd))[rows][:, at].double()
    cov = (error.T * weight[rows]) @ error
    scale = cov.diagonal().clamp_min(1e-12).sqrt()
    # a part of the identity: errors that determine each other must leave a factor
    correlation = 0.99 * cov / scale / scale[:, None] + 0.01 * identity.double()
    return torch.linalg.cholesky(correlation).float()
