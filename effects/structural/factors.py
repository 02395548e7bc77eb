"""Structural models of causal factors and of the columns that hang on them: labels, rest, and what goes between."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from effects.nn.training import one_thread
from effects.schema.table import TableSchema
from effects.structural.graph import CausalGraph
from effects.structural.model import StructuralModel
from effects.structural.questions import as_table
from effects.structural.scm import Action

Array = NDArray[np.float64]


class FactorModel(StructuralModel, ABC):
    """Base of CausalDiffAE, CausalGAN and CausalVAE: the graph's nodes z, and columns x whose law hangs on them.

    A node is a column (its label), or a named group of columns. Labels may be missing in some rows; they are inferred
    from x. A subclass writes `_fit_rest`, `_infer`, `_decode` and `_transport` on encoded tensors, and their state.
    """

    factors: Mapping[str, Sequence[str]] | None
    columns: Sequence[str] | None

    layout_: TableSchema | None
    names_: list[str]

    # ------------------------------------------------------------------ what a subclass writes

    @abstractmethod
    def _fit_rest(
        self, x: Tensor, z: Tensor, seen: Tensor, weight: Tensor, layout: TableSchema, labels: TableSchema, seed: int
    ) -> dict[str, Any]:
        """Fitted attributes (with ``history_``) of the law of encoded columns x (n, d) given labels z (n, k).

        And, as ``drawn_``, labels z without gaps, and how far they may stand for seen ones (0 to 1) in the mechanisms.
        """

    @abstractmethod
    def _infer(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """Labels (n, k) of rows x: their mean (probabilities), or one draw."""

    @abstractmethod
    def _decode(self, z: Tensor, rng: torch.Generator) -> Tensor:
        """A draw of x (n, d) given labels."""

    @abstractmethod
    def _transport(self, x: Tensor, z: Tensor, z_new: Tensor, rng: torch.Generator) -> Tensor:
        """What x would have been under labels `z_new`; x itself where these are `z`."""

    @abstractmethod
    def _rest_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values of what `_fit_rest` fitted."""

    @abstractmethod
    def _set_rest_state(
        self, tensors: dict[str, Tensor], state: dict[str, Any], layout: TableSchema, labels: TableSchema
    ) -> dict[str, Any]:
        """The inverse of `_rest_state`."""

    # ------------------------------------------------------------------ fit

    def _groups(self) -> dict[str, list[str]]:
        return {name: list(own) for name, own in (self.factors or {}).items()}

    def _column_graph(self) -> CausalGraph:
        """The graph over columns: groups are spelled out, each column a parent of those after it in its group."""
        graph = super()._column_graph()
        groups = self._groups()
        for name, own in groups.items():
            if name not in graph.nodes:
                raise ValueError(f"factors names {name!r}, which is no node; nodes are {', '.join(graph.nodes)}.")
            if not own:
                raise ValueError(f"factors[{name!r}] lists no column.")
        if groups:
            spelled = {node: groups.get(node, [node]) for node in graph.nodes}
            columns = [column for own in spelled.values() for column in own]
            if len(set(columns)) < len(columns):
                twice = next(c for c in columns if columns.count(c) > 1)
                raise ValueError(f"column {twice!r} belongs to two factors: a column is one factor's.")

            def pairs(given: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
                return [(a, b) for s, t in given for a in spelled[s] for b in spelled[t]]

            within = [(own[i], own[j]) for own in spelled.values() for j in range(len(own)) for i in range(j)]
            roles = {
                role: [column for node in sorted(getattr(graph, role)) for column in spelled[node]]
                for role in ("exposure", "outcome", "adjusted")
            }
            latent = [u for u in graph.latent if u not in groups]
            state = {"nodes": columns, "edges": pairs(graph.edges) + within, "bidirected": pairs(graph.bidirected)}
            graph = CausalGraph.from_dict({**state, **roles, "latent": latent})
        return graph

    def _fit_columns(
        self, frame: pd.DataFrame, schema: TableSchema, values: Array, weight: Array, seed: int
    ) -> dict[str, Any]:
        rest = [name for name in frame.columns if name not in schema.names]
        if self.columns is not None:
            for name in self.columns:
                if name not in rest:
                    why = "is a node of the graph" if name in schema.names else "is no column of the table"
                    raise ValueError(f"columns names {name!r}, which {why}.")
            rest = list(self.columns)
        kept = {*schema.names, *rest}
        fitted: dict[str, Any] = {"layout_": None, "names_": [name for name in frame.columns if name in kept]}
        self._partial = False
        if not rest:
            return fitted
        self._partial = True
        layout = TableSchema.learn(frame, rest)
        if not layout.n_encoded:
            raise ValueError(
                f"The columns beyond the graph ({', '.join(map(repr, rest))}) are constant: nothing of them hangs on "
                "the nodes. Leave them out with columns=[]."
            )
        raw = layout.values(frame)
        gaps = int(np.isnan(raw).any(axis=1).sum())
        if gaps:
            warnings.warn(
                f"{gaps} of {len(raw)} rows miss a value among the columns beyond the graph; while fitting, numbers "
                "stand at their mean there, and levels nowhere. Sampled and counterfactual rows are complete.",
                UserWarning,
                stacklevel=4,
            )
        x, z = torch.from_numpy(layout.encode(raw)), torch.from_numpy(schema.encode(values))
        seen = torch.from_numpy(self._spread(schema, ~np.isnan(values)))
        w = torch.from_numpy(weight.astype(np.float32))
        found = self._fit_rest(x, z, seen, w, layout, schema, seed)
        drawn, trust = found.pop("drawn_", (None, 0.0))
        if drawn is not None and trust > 0:
            # rows without any label teach the mechanisms too, as far as what was drawn for them is to be trusted
            empty = np.asarray(np.isnan(values).all(axis=1))
            completed = np.where(empty[:, None], schema.decode(drawn.numpy()), values)
            found["rows_"] = completed, np.where(empty, trust * weight, weight)
        return fitted | found | {"layout_": layout}

    @staticmethod
    def _spread(schema: TableSchema, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of columns, for their encoded columns."""
        wide = np.zeros((len(known), schema.n_encoded), dtype=bool)
        for j, name in enumerate(schema.names):
            wide[:, schema.slices[name]] = known[:, [j]]
        return wide

    # ------------------------------------------------------------------ questions

    def encode(self, table: pd.DataFrame) -> pd.DataFrame:
        """The causal factors of rows, inferred from the columns beyond the graph alone.

        Parameters
        ----------
        table : DataFrame
            Labels are not looked at, and may be absent.

        Returns
        -------
        DataFrame of shape (n_samples, n_labels)
            The mean of numbers, the probability of events, the most probable level of categories.

        Raises
        ------
        ValueError
            If the model has no columns beyond the graph.
        """
        self._check_fitted()
        if self.layout_ is None:
            raise ValueError("every column of the fit is a node of the graph: there is nothing to infer factors from.")
        frame = as_table(table)
        with one_thread():
            found = self._infer(torch.from_numpy(self.layout_.encode(self.layout_.values(frame))), None).numpy()
        out: dict[str, Any] = {}
        for j, column in enumerate(self.schema_.columns):
            own = found[:, self.schema_.slices[column.name]]
            if column.kind == "event":
                out[column.name] = own[:, 0]
            else:
                levels = self.schema_.decode(found)[:, [j]]
                out[column.name] = self.schema_.take([column.name]).frame(levels)[column.name].to_numpy()
        return pd.DataFrame(out, index=frame.index)

    def _by_column(self, named: Mapping[str, Any], what: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        groups = self._groups()
        for name, wanted in named.items():
            own = groups.get(name, [name])
            if len(own) == 1:
                found[own[0]] = wanted
                continue
            if not isinstance(wanted, Mapping) or {*wanted} != {*own}:
                raise ValueError(
                    f"{what}[{name!r}] is a factor of several columns: give all of them, such as "
                    f"{{{name!r}: {{{', '.join(f'{c!r}: ...' for c in own)}}}}}."
                )
            found |= dict(wanted)
        if self.layout_ is not None:
            for name in found:
                if name in self.layout_.names:
                    raise ValueError(
                        f"{what} names {name!r}, which hangs on the graph's nodes but is none: add it to the graph."
                    )
        return super()._by_column(found, what)

    def _is_open(self, frame: pd.DataFrame, values: Array, actions: Mapping[int, Action]) -> bool:
        if super()._is_open(frame, values, actions):
            return True
        if self.layout_ is None:
            return False
        levels = any(column.kind in ("event", "category") for column in self.layout_.columns)
        return levels or bool(np.isnan(self.layout_.values(frame)).any())

    def _completed(self, frame: pd.DataFrame, values: Array, draws: int, rng: np.random.Generator) -> tuple[Array, Any]:
        """Missing labels from the encoder, missing values of the rest from the decoder."""
        if self.layout_ is None:
            return super()._completed(frame, values, draws, rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        rows = np.tile(values, (draws, 1))
        raw = np.tile(self.layout_.values(frame), (draws, 1))
        x = torch.from_numpy(self.layout_.encode(raw))
        open_rows = np.asarray(np.isnan(rows).any(axis=1))
        if open_rows.any():
            inferred = self.schema_.decode(self._infer(x[torch.from_numpy(open_rows)], generator).numpy())
            rows[open_rows] = np.where(np.isnan(rows[open_rows]), inferred, rows[open_rows])
        gaps = np.isnan(raw)
        if gaps.any():
            z = torch.from_numpy(self.schema_.encode(rows))
            raw = np.where(gaps, self.layout_.decode(self._decode(z, generator).numpy()), raw)
            x = torch.from_numpy(self.layout_.encode(raw))
        return rows, (raw, x)

    def _carried(self, rows: Array, full: Array, rest: Any, strength: float, rng: np.random.Generator) -> Array:
        """The rest at factors `strength` of the way from the factual to the counterfactual ones."""
        if self.layout_ is None:
            return super()._carried(rows, full, rest, strength, rng)
        raw, x = rest
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        z, z_full = (torch.from_numpy(self.schema_.encode(v)) for v in (rows, full))
        moved = (z != z_full).any(dim=1).numpy() & (strength > 0)
        out = raw.copy()
        if moved.any():
            z_new = z[moved] + strength * (z_full[moved] - z[moved])
            out[moved] = self.layout_.decode(self._transport(x[moved], z[moved], z_new, generator).numpy())
        return out

    # ------------------------------------------------------------------ shared

    def _emit(self, values: Array, rng: np.random.Generator) -> pd.DataFrame:
        if self.layout_ is None:
            return super()._emit(values, rng)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        x = self._decode(torch.from_numpy(self.schema_.encode(values)), generator)
        joined = np.concatenate([values, self.layout_.decode(x.numpy())], axis=1)
        return self._ordered(self._all_columns().frame(joined, rounded=True))

    def _all_columns(self) -> TableSchema:
        if self.layout_ is None:
            return self.schema_
        return TableSchema((*self.schema_.columns, *self.layout_.columns))

    def _ordered(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[self.names_]

    def log_prob(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """Log density of the labels of rows, (n,); with columns beyond the graph there is none that is exact.

        Raises
        ------
        ValueError
            If there are columns beyond the graph, or a value is missing.
        """
        self._check_fitted()
        if self.layout_ is not None:
            raise ValueError(
                f"{type(self).__name__} has no exact density of the columns beyond the graph: fit a StructuralModel on "
                "the nodes' columns for theirs."
            )
        return super().log_prob(table)

    # ------------------------------------------------------------------ save / load

    def _columns_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if self.layout_ is None:
            return {}, {"layout": None, "names": self.names_}
        tensors, state = self._rest_state()
        return tensors, {"layout": self.layout_.to_dict(), "names": self.names_, "own": state}

    def _set_columns_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> dict[str, Any]:
        fitted = {"layout_": None, "names_": [str(name) for name in state["names"]]}
        if state["layout"] is None:
            return fitted
        layout = TableSchema.from_dict(state["layout"])
        return fitted | {"layout_": layout} | self._set_rest_state(tensors, state["own"], layout, self.schema_)
