r"""DEAR's prior, nodes linear in each other's scores: :math:`f^{-1}(z) = A^\top f^{-1}(z) + h(\varepsilon)`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effects.nn.scale import OutcomeScale, ResidualLaw
from effects.schema.table import TableColumn
from effects.structural.mechanisms import (
    Category,
    Continuous,
    Levels,
    Mechanism,
    fit_levels,
    fit_mechanism,
    has_levels,
    is_count,
    jittered,
    mechanism_from_state,
    mechanism_state,
)
from effects.structural.regression import Plan, fit_line

Array = NDArray[np.float64]
_KNOTS = 65


@dataclass(frozen=True)
class ScoreScale(OutcomeScale):
    r"""A node's scores :math:`f^{-1}(x)`: the increasing map that makes its own law standard normal.

    Attributes
    ----------
    map : ResidualLaw
        f, from scores to values.
    """

    map: ResidualLaw = field(default_factory=lambda: ResidualLaw(np.array([0.0, 1.0]), np.array([[0.0, 1.0]])))

    @classmethod
    def fit(cls, x: Array, weight: Array, whole: bool) -> ScoreScale:
        """The map of a column's values; counts from zero are spread over [x, x + 1) before, and rounded down after."""
        plain = OutcomeScale.learn(x, "continuous", log=False)
        lowest, gap = (0.0, 0.0) if whole else (plain.lowest, plain.gap)
        # `log` says that the scale is no straight line, so that means are integrals over the noise
        return cls(log=True, lowest=lowest, gap=gap, whole=whole, map=_score_map(x + 0.5 * whole, weight))

    def encode(self, y: Array) -> Array:
        """Scores of values."""
        return self.map.score(y, np.zeros(len(y), dtype=np.int64))

    def decode(self, z: NDArray[Any]) -> NDArray[Any]:
        """Values of scores."""
        y = self.map.residual(z[..., None])[..., 0]
        if self.whole:
            return np.floor(np.maximum(y, 0.0))
        return y if self.lowest is None else np.where(y < self.lowest + self.gap, self.lowest, y)

    def log_slope(self, y: Array) -> Array:
        """Logarithm of the derivative of `encode`."""
        return -np.log(self.map.slope(self.encode(y)))


@dataclass(frozen=True)
class ParentScores:
    """Maps of encoded parents to their scores; None for a 0/1 column, which stays what it is."""

    maps: tuple[ResidualLaw | None, ...] = ()

    @classmethod
    def fit(cls, parents: Tensor, weight: Array) -> ParentScores:
        """Of encoded parents (n, d)."""
        columns = parents.double().numpy().T
        return cls(tuple(None if len(np.unique(v)) <= 2 else _score_map(v, weight) for v in columns))

    def __call__(self, parents: Tensor) -> Tensor:
        """Parents (..., d), the numbers as scores."""
        out = parents.clone()
        for j, one in enumerate(self.maps):
            if one is not None:
                own = parents[..., j].double().numpy()
                score = one.score(own.ravel(), np.zeros(own.size, dtype=np.int64)).reshape(own.shape)
                out[..., j] = torch.from_numpy(score).to(out.dtype)
        return out


@dataclass(frozen=True)
class LinearContinuous(Continuous):
    r"""A number whose score is linear in the parents' scores: :math:`f^{-1}(X) = a^\top s(pa) + h(W)`."""

    parents: ParentScores = ParentScores()

    def _location(self, parents: Tensor) -> tuple[Any, Any]:
        return super()._location(self.parents(parents))


@dataclass(frozen=True)
class LinearLevels(Levels):
    """Ordered levels by logistic regressions, linear in the parents' scores."""

    parents: ParentScores = ParentScores()

    def probabilities(self, parents: Tensor) -> Array:
        return super().probabilities(self.parents(parents))


@dataclass(frozen=True)
class LinearCategory(Category):
    """Levels without order by logistic regressions, linear in the parents' scores."""

    parents: ParentScores = ParentScores()

    def probabilities(self, parents: Tensor) -> Array:
        return super().probabilities(self.parents(parents))


def fit_linear_mechanism(
    column: TableColumn, x: Array, parents: Tensor, weight: Array, plan: Plan
) -> tuple[Mechanism, list[dict[str, float]]]:
    r"""A node of DEAR's generalised linear prior (Shen et al. 2022, eq. 4), for `StructuralModel._mechanism`.

    .. math:: z = f\big((I - A^\top)^{-1} h(\varepsilon)\big)
              \quad\Leftrightarrow\quad f_j^{-1}(z_j) = \sum_{i \in pa_j} A_{ij} f_i^{-1}(z_i) + h_j(\varepsilon_j)

    with increasing :math:`f_j`. The paper learns f by gradient together with A; here :math:`f_j^{-1}` gives the column
    its normal scores, A is a Bayesian linear regression among the scores, and h the pooled law of its residuals.
    Events and levels have logistic regressions on the parents' scores, which the paper has not.

    Parameters
    ----------
    column : TableColumn
    x : ndarray of shape (n,)
        Values or codes, none missing.
    parents : Tensor of shape (n, d)
        Encoded.
    weight : ndarray of shape (n,)
    plan : Plan

    Returns
    -------
    mechanism : Mechanism
    history : list of dict
        Empty: there is nothing to train.
    """
    if column.kind == "constant" or parents.shape[1] == 0:
        return fit_mechanism(column, x, parents, weight, plan)
    scores = ParentScores.fit(parents, weight)
    inputs = scores(parents)
    if has_levels(column, x, weight):
        plain, _ = fit_levels(column, x, inputs, weight, lambda P, event, w: fit_line(P, event, w, True, plan))
        return _linear_levels(plain, scores), []
    whole = is_count(column, x, weight)
    scale = ScoreScale.fit(x, weight, whole)
    regression, _ = fit_line(inputs, scale.encode(x + 0.5 * whole), weight, False, plan)
    held = regression.held_out
    assert held is not None
    residual = scale.encode(jittered(scale, x, plan.settings.seed)) - held.mean
    law = ResidualLaw.learn(residual, np.zeros(len(x), dtype=np.int64), weight, 1)
    return LinearContinuous(scale, regression, law, parents=scores), []


def _linear_levels(plain: Levels, parents: ParentScores) -> LinearLevels | LinearCategory:
    """The levels, their parents taken as scores."""
    cls = LinearCategory if isinstance(plain, Category) else LinearLevels
    return cls(plain.levels, plain.steps, parents)


def _score_map(x: Array, weight: Array) -> ResidualLaw:
    """The increasing map from normal scores to values of a sample."""
    return ResidualLaw.learn(x, np.zeros(len(x), dtype=np.int64), weight, 1, _KNOTS)


# ---- as arrays -------------------------------------------------------------------------------------------------------


def linear_mechanism_state(mechanism: Mechanism) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As `mechanism_state`, for what `fit_linear_mechanism` gives."""
    if not isinstance(mechanism, LinearContinuous | LinearLevels | LinearCategory):
        return mechanism_state(mechanism)
    more: dict[str, Tensor] = {}
    known = [j for j, one in enumerate(mechanism.parents.maps) if one is not None]
    for j in known:
        more |= _map_state(f"parent{j}", mechanism.parents.maps[j])
    described: dict[str, Any] = {"parents": [j in known for j in range(len(mechanism.parents.maps))]}
    plain: Mechanism = mechanism
    if isinstance(mechanism, LinearContinuous):
        scale = mechanism.scale
        assert isinstance(scale, ScoreScale)
        described["scale"] = {"lowest": scale.lowest, "gap": scale.gap, "whole": scale.whole}
        more |= _map_state("scale", scale.map)
        plain = replace(mechanism, scale=OutcomeScale())
    elif isinstance(mechanism, LinearCategory):
        plain = Category(mechanism.levels, mechanism.steps)
    tensors, meta = mechanism_state(plain)
    return tensors | more, meta | {"linear": described}


def linear_mechanism_from_state(tensors: dict[str, Tensor], meta: dict[str, Any]) -> Mechanism:
    """The inverse of `linear_mechanism_state`."""
    meta = dict(meta)
    described = meta.pop("linear", None)
    plain = mechanism_from_state(tensors, meta)
    if described is None:
        return plain
    flags = described["parents"]
    parents = ParentScores(tuple(_map(tensors, f"parent{j}") if flag else None for j, flag in enumerate(flags)))
    if isinstance(plain, Continuous):
        scale = ScoreScale(log=True, **described["scale"], map=_map(tensors, "scale"))
        return LinearContinuous(scale, plain.regression, plain.law, parents=parents)
    assert isinstance(plain, Levels)
    return _linear_levels(plain, parents)


def _map_state(name: str, law: ResidualLaw | None) -> dict[str, Tensor]:
    assert law is not None
    return {f"{name}.scores": torch.from_numpy(law.scores), f"{name}.values": torch.from_numpy(law.values)}


def _map(tensors: dict[str, Tensor], name: str) -> ResidualLaw:
    return ResidualLaw(tensors[f"{name}.scores"].numpy(), tensors[f"{name}.values"].numpy())
