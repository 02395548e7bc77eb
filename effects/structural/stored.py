"""Fitted structural models as files: tensors and JSON, from which nothing is run when they are read."""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor

from effects.nn.scale import OutcomeScale
from effects.persistence import named, part, read_as, write_model
from effects.schema.table import TableSchema
from effects.structural.graph import CausalGraph
from effects.structural.mechanisms import Mechanism, mechanism_from_state, mechanism_state
from effects.structural.scm import SCM, wiring


class Stored(BaseEstimator):
    """What a `StructuralModel` needs to be written to a file and read back."""

    graph: Any
    random_state: Any
    graph_: CausalGraph
    schema_: TableSchema
    scm_: SCM
    seed_: int
    n_members_: int
    history_: list[dict[str, Any]]

    @abstractmethod
    def _check_fitted(self) -> None: ...

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fitted model as safetensors with JSON metadata; the rows of the fit are not in it.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If a parameter cannot be written without pickle.
        """
        self._check_fitted()
        tensors: dict[str, Tensor] = {}
        nodes: list[dict[str, Any]] = []
        for name, mechanism in zip(self.schema_.names, self.scm_.mechanisms, strict=True):
            own, meta = self._mechanism_state(mechanism)
            tensors |= named(f"node{len(nodes)}", own)
            nodes.append({"name": name, **meta})
        more, rest = self._columns_state()
        tensors |= named("rest", more)
        params = {name: value for name, value in self.get_params(deep=False).items() if name != "graph"}
        params["random_state"] = self.seed_ if not isinstance(self.random_state, int) else self.random_state
        header = {
            "params": params,
            "graph": CausalGraph.parse(self.graph).to_dict(),
            "own_graph": self.graph_.to_dict(),
            "schema": self.schema_.to_dict(),
            "nodes": nodes,
            "logs": [None if scale is None else scale.to_dict() for scale in self.scm_.logs],
            "rest": rest,
            "seed": self.seed_,
            "n_members": self.n_members_,
            "history": self.history_,
        }
        return write_model(path, type(self).__name__, header, {name: v.numpy() for name, v in tensors.items()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; nothing of the file is run.

        Raises
        ------
        FileNotFoundError
        ValueError
            If the file is no model of this class, or is damaged.
        """
        return read_as(path, cls.__name__, cls._restore)

    @classmethod
    def _restore(cls, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
        graph, own = CausalGraph.from_dict(header["graph"]), CausalGraph.from_dict(header["own_graph"])
        self = cls(graph, **header["params"])
        schema = TableSchema.from_dict(header["schema"])
        names = list(schema.names)
        if [node["name"] for node in header["nodes"]] != names:
            raise ValueError("nodes and columns differ")
        order, parents = wiring(own, names)
        self.seed_, self.n_members_ = int(header["seed"]), int(header["n_members"])
        self.graph_, self.history_, self.schema_ = own, header["history"], schema
        mechanisms = [
            self._mechanism_from_state(part(tensors, f"node{j}"), meta) for j, meta in enumerate(header["nodes"])
        ]
        for name, value in self._set_columns_state(part(tensors, "rest"), header["rest"]).items():
            setattr(self, name, value)
        logs = tuple(None if scale is None else OutcomeScale(**scale) for scale in header["logs"])
        self.scm_ = SCM(schema, order, parents, tuple(mechanisms), logs)
        return self

    def _mechanism_state(self, mechanism: Mechanism) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values of a node; a subclass with generators adds its own."""
        return mechanism_state(mechanism)

    def _mechanism_from_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Mechanism:
        return mechanism_from_state(tensors, meta)

    def _columns_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {}

    def _set_columns_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> dict[str, Any]:
        return {}
