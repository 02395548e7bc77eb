"""CausalStack: several estimators, weighted by what held-out rows say of their means, effects and laws."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold

from effects.estimator import EffectEstimator
from effects.models import _ESTIMATORS
from effects.models.combination import (
    Draws,
    Logs,
    Weights,
    about,
    allocation,
    directions,
    law_weights,
    pool_nodes,
    stack_logs,
    stack_means,
    unmoved,
)
from effects.models.library import LIBRARY, Regression
from effects.nn.scale import OutcomeScale, may_be_log
from effects.nuisance import Nuisance, NuisanceValues
from effects.outcomes import PotentialOutcomes
from effects.persistence import part as under
from effects.rows import TrainingData
from effects.schema import Schema

Array = NDArray[np.float64]
_BOOSTED, _SINGLE = "boosting per arm", "boosting of all arms"
_ATOM = 0.05
_ROWS = 8192  # whose members are held at once


class CausalStack(EffectEstimator):
    r"""Convex combination of estimators, weighted on held-out rows: the accurate default that needs no choices.

    Every estimator is fitted once on all rows, with one set of cross-fitted nuisances for all; its predictions of
    rows that it had held out give the weights.

    **Continuous outcomes** that lie on their own scale are stacked in three steps.

    1. *Means.* For every arm, :math:`\mu_a(x) = \sum_k w_{ka} \mu_{ka}(x)` with weights that minimise the squared
       error of the arm's held-out outcomes (Wolpert 1992; Breiman 1996). Besides the estimators, the cross-fitted
       boosted regressions of the nuisances and two sparse regressions per arm (linear, and
       additive with pairwise products; `effects.models.library`) take part: they are cheap, and err differently.
    2. *Effects.* Against the stacked difference stand the X-learners of the nuisances,
       :math:`\tau_a(x) = \sum_c v_{ca} \tau_{ca}(x)`, with weights that minimise the R-loss

       .. math:: \sum_i \big(Y_i - m(x_i) - (A_i - e(x_i))\, \tau(x_i)\big)^2

       (Nie & Wager 2021, eq. 4), or the doubly robust loss of Kennedy (2023). The arms' means are moved so that
       their differences are :math:`\tau` while :math:`m(x) = \sum_a e_a(x) \mu_a(x)` stays.
    3. *Laws.* Around these means lie the residual laws of the estimators, mixed with the weights that minimise the
       CRPS of held-out outcomes (a quadratic form in the weights).

    **Skewed non-negative outcomes** without a point mass at zero are stacked alike, but by their mean logarithm and
    without the X-learners: draws are moved by a factor.

    **Binary outcomes, counts and what remains** cannot be moved: there the stack is the linear pool of the estimators
    (for a binary outcome also of the boosted and sparse regressions), weighted by the CRPS (Brier score) of held-out
    outcomes.

    Parameters
    ----------
    estimators : list of (name, EffectEstimator), optional
        By default what did best for the outcome's kind. Their own `nuisance`, `outcome` and `control` are not used:
        one table is read once. One without held-out predictions of its own is refitted on `n_folds` folds.
    outcome : {"auto", "continuous", "binary", "count"}
    control : label, optional
    nuisance : Nuisance, optional
    effect_loss : {"r", "dr"}
        What weights the effects: the R-loss or the doubly robust loss.
    n_folds : int
        Folds for estimators without held-out predictions.
    n_members : int
        Posterior members of the outcomes.
    n_draws : int
        Outcome draws per member.
    random_state : int, RandomState or None
    verbose : int
        1 shows a progress bar on standard error.

    Attributes
    ----------
    weights_ : DataFrame
        A row per component; per arm the weight of its mean and of its effect, and the weight of its law. NaN where a
        component takes no part.
    estimators_ : dict of name to fitted estimator
    held_out_ : PotentialOutcomes or None
        The training rows' outcomes from models that had held them out; None in a loaded model.
    schema_, arms_, nuisance_, history_, n_features_in_, feature_names_in_
        As in `EffectEstimator`.

    Notes
    -----
    Weights are shrunk toward equal ones as if ten more rows spoke for these (one row for effects). The members
    are the components' members, combined with the same weights, plus the components' disagreement around their
    combination (its variance over members is the mixture's); the spread of effects is then scaled by what held-out
    residuals say (`effects.calibration`). Losses with observed outcomes under arms that were not
    received do not exist, so neither weight uses one.

    References
    ----------
    Wolpert (1992), Stacked generalization. Breiman (1996), Stacked regressions. Nie & Wager (2021), Biometrika 108.
    Han & Wu (2022), Ensemble method for estimating individualized treatment effects, arXiv 2202.12445. Mahajan et
    al. (2023), arXiv 2211.01939. Gneiting & Raftery (2007), JASA 102, eq. 21.

    Examples
    --------
    >>> from effects import CausalStack, DiffPO
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> small = [("DiffPO", DiffPO(epochs=5, n_networks=4))]
    >>> est = CausalStack(estimators=small, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> est.predict(data.X).shape
    (200,)
    >>> float(est.weights_["law"].sum())
    1.0
    """

    _paper = "Wolpert 1992; Breiman 1996; Nie & Wager 2021"
    spread_parts_: tuple[Array, Array] | None

    def __init__(
        self,
        *,
        estimators: Sequence[tuple[str, EffectEstimator]] | None = None,
        outcome: str = "auto",
        control: Hashable = None,
        nuisance: Nuisance | None = None,
        effect_loss: str = "r",
        n_folds: int = 5,
        n_members: int = 32,
        n_draws: int = 64,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimators = estimators
        self.outcome = outcome
        self.control = control
        self.nuisance = nuisance
        self.effect_loss = effect_loss
        self.n_folds = n_folds
        self.n_members = n_members
        self.n_draws = n_draws
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------ fit

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        chosen = (
            self.estimators
            if self.estimators is not None
            else default_estimators(len(data.y), data.schema.outcome.kind)
        )
        estimators: dict[str, EffectEstimator] = {}
        held: dict[str, PotentialOutcomes] = {}
        history: list[dict[str, Any]] = []
        with _progress(len(chosen) + len(LIBRARY) + 1, bool(self.verbose)) as step:
            for name, template in chosen:
                step(name)
                est = clone(template)._fit_checked(data, inside=True)
                estimators[name] = est
                history += [{**entry, "stage": f"{name}, {entry.get('stage', 'training')}"} for entry in est.history_]
                found = getattr(est, "held_out_", None)
                held[name] = found if found is not None else self._cross_fit(template, data)
            kind = data.schema.outcome.kind
            logs = _logs(data)
            library, regressed = self._fit_library(data, logs, step)
            if logs is not None:
                means = {name: logs.mean(outcomes.draws) for name, outcomes in held.items()} | regressed
                weights, combined = stack_logs(data, means, logs)
                moved = {name: logs.shift(outcomes.draws, combined)[0] for name, outcomes in held.items()}
            else:
                values = data.nuisance.out_of_fold_
                means = {name: outcomes.mean() for name, outcomes in held.items()}
                means |= {_BOOSTED: values.per_arm, _SINGLE: values.single} | regressed
                if _moves(data):
                    weights, combined = stack_means(data, means, values, self.effect_loss)
                    moved = {name: about(outcomes, combined) for name, outcomes in held.items()}
                else:
                    weights = unmoved(tuple(means), data.schema.n_arms)
                    moved = {name: outcomes.draws[0] for name, outcomes in held.items()}
                    if kind == "binary":
                        moved |= {name: means[name][None].astype(np.float32) for name in means if name not in held}
            weights = replace(weights, law=law_weights(data, moved, tuple(means)))
            step("how sure of the effects")
            spread = None
            if logs is None and _moves(data):
                spread = self._disagreement(data, weights, np.stack(list(means.values())), estimators)
        fitted: dict[str, Any] = {"estimators_": estimators, "library_": library, "combination_": weights}
        fitted["spread_parts_"] = spread
        fitted["widths_"] = [est._inputs(data.E[:1]).shape[1] for est in estimators.values()]
        fitted |= {
            "moves_": logs is None and _moves(data),
            "logs_": logs,
            "history_": history,
            "weights_": weights.table(data.schema.arms),
        }
        if kind == "binary":
            parts = np.einsum("k,kna->na", weights.law, np.stack([means[name] for name in weights.names]))
            draws = parts[None, None]
        else:
            draws = pool_nodes([moved.get(name) for name in weights.names], weights.law, self.n_draws)[None]
        return fitted | {"held_out_": PotentialOutcomes(draws, data.schema.arms, kind)}

    def _disagreement(
        self, data: TrainingData, weights: Weights, means: Array, estimators: dict[str, EffectEstimator]
    ) -> tuple[Array, Array]:
        """Variance of the effects (n, n_arms - 1) and of the mean over arms (n,) that `_combine` would give held-out
        rows: the components' own, and their disagreement where they had held the rows out."""
        values, root = data.nuisance.out_of_fold_, np.sqrt(weights.mean)
        e = values.propensity
        _, effects, effect = weights.combine(means, values)
        apart = (means - np.einsum("kna,ka->na", means, weights.mean)) * root[:, None]
        of_effect = ((apart[:, :, 1:] - apart[:, :, :1]) ** 2).sum(axis=0)
        of_effect += np.einsum("cnb,cb->nb", (effects - effect) ** 2, weights.effect)
        of_mean = (np.einsum("kna,na->kn", apart, e) ** 2).sum(axis=0)
        for k, est in enumerate(estimators.values()):
            for start in range(0, len(e), _ROWS):
                rows = slice(start, start + _ROWS)
                some = np.arange(len(e))[rows]
                own = est._means(est._inputs_given(data.E[rows], values.take(some))) * root[k]
                of_effect[rows] += (own[:, :, 1:] - own[:, :, :1]).var(axis=0)
                of_mean[rows] += np.einsum("mna,na->mn", own, e[rows]).var(axis=0)
        return of_effect, of_mean

    def _held_out_spread(self, data: TrainingData, rows: NDArray[np.int64], mu: Array) -> tuple[Array, Array, Array]:
        parts, self.spread_parts_ = self.spread_parts_, None  # large, and of no use later
        if parts is None:
            return super()._held_out_spread(data, rows, mu)
        return parts[0][rows], parts[1][rows], np.zeros((0, mu.shape[1] - 1))

    def _fit_library(
        self, data: TrainingData, logs: Logs | None, step: Callable[[str], None]
    ) -> tuple[dict[str, Regression], dict[str, Array]]:
        """The cheap regressions and what they say of held-out rows, on the scale on which means are stacked."""
        kind = data.schema.outcome.kind
        if kind == "count" or (kind == "continuous" and logs is None and not _moves(data)):
            return {}, {}
        y = data.y if logs is None else np.log(data.y + logs.offset)
        rows = (data.E, data.a, y, data.weight)
        library: dict[str, Regression] = {}
        means = {}
        for name, regression in LIBRARY.items():
            step(name)
            library[name], means[name] = regression.fit(*rows, data.schema.n_arms, kind, data.seed)
        return library, means

    def _cross_fit(self, template: EffectEstimator, data: TrainingData) -> PotentialOutcomes:
        """Outcomes of every row from fits on the other folds, the members of each pooled to `n_draws` quantiles."""
        kind, n_arms = data.schema.outcome.kind, data.schema.n_arms
        n_folds = min(self.n_folds, int(np.bincount(data.a, minlength=n_arms).min()))
        n_draws = 1 if kind == "binary" else self.n_draws
        draws = np.empty((1, n_draws, len(data.y), n_arms), dtype=np.float32)
        for train, test in StratifiedKFold(n_folds, shuffle=True, random_state=data.seed).split(data.E, data.a):
            E, a, y, weight = (part[train] for part in (data.E, data.a, data.y, data.weight))
            known = data.nuisance.known_propensity_
            known = None if known is None else known[train]
            nuisance = clone(data.nuisance)
            nuisance.fit(E, y, a, n_arms=n_arms, kind=kind, sample_weight=weight, propensity=known)
            part = TrainingData(E, a, y, weight / weight.mean(), nuisance, data.schema, data.seed)
            outcomes = (
                clone(template)
                ._fit_checked(part, inside=True)
                ._outcomes(data.E[test], None, np.random.default_rng(data.seed), None)
            )
            if kind == "binary":
                draws[0, 0, test] = outcomes.mean()
            else:
                levels = (np.arange(n_draws) + 0.5) / n_draws
                draws[0][:, test] = outcomes.quantile(levels)
        return PotentialOutcomes(draws, data.schema.arms, kind)

    def _check_params(self) -> None:
        super()._check_params()
        if self.estimators is not None:
            names = [pair[0] for pair in self.estimators]
            if not names or len(set(names)) < len(names):
                raise ValueError(f"estimators must be a list of (name, estimator) with different names, got {names}.")
            for name, est in self.estimators:
                if not isinstance(est, EffectEstimator):
                    raise TypeError(f"estimators: {name!r} is no EffectEstimator, got {est!r}: see all_estimators().")
                est._check_params()
        if self.effect_loss not in ("r", "dr"):
            raise ValueError(f"effect_loss must be 'r' or 'dr', got {self.effect_loss!r}.")
        for name, least in (("n_folds", 2), ("n_members", 2), ("n_draws", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number from {least} on, got {value!r}.")

    def _check_possible(self, schema: Schema) -> None:
        super()._check_possible(schema)
        for _, est in self.estimators or ():
            est._check_possible(schema)

    # ------------------------------------------------------------------ predict

    def _inputs(self, E: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encoded columns, nuisances, and the inputs of every estimator, side by side."""
        return self._inputs_given(E, None)

    def _inputs_given(self, E: NDArray[np.float32], values: NuisanceValues | None) -> NDArray[np.float32]:
        values = self.nuisance_.predict(E) if values is None else values
        assert values.contrast is not None
        contrast = values.contrast.reshape(len(E), -1)
        parts: list[NDArray[Any]] = [E, values.per_arm, values.single, values.propensity, contrast]
        parts += [est._inputs_given(E, values) for est in self.estimators_.values()]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _split(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NuisanceValues, list[Any]]:
        """The parts that `_inputs` put side by side."""
        n_arms, n_encoded = len(self.arms_), len(self.schema_.feature_names)
        widths = [n_encoded, n_arms, n_arms, n_arms, 2 * (n_arms - 1)]
        rest = inputs[:, sum(widths) :]
        E, per_arm, single, propensity, contrast = np.split(inputs[:, : sum(widths)], np.cumsum(widths)[:-1], axis=1)
        effects = contrast.astype(np.float64).reshape(len(E), 2, n_arms - 1)
        wide = [part.astype(np.float64) for part in (per_arm, single, propensity)]
        values = NuisanceValues(wide[0], wide[1], wide[2], effects)
        own = []
        for width in self.widths_:
            own.append(np.ascontiguousarray(rest[:, :width]))
            rest = rest[:, width:]
        return np.ascontiguousarray(E), values, own

    def _means(self, inputs: NDArray[np.float32]) -> Array:
        if not self.moves_:
            return self._pool(inputs, self.n_draws, np.random.default_rng(self.seed_))[1]
        E, values, own = self._split(inputs)
        members = [est._means(part) for est, part in zip(self.estimators_.values(), own, strict=True)]
        return self._combine(E, values, members)

    def _combine(self, E: NDArray[np.float32], values: NuisanceValues, members: list[Array]) -> Array:
        """Members of the stacked means (n_members, n, n_arms)."""
        components = [*members, values.per_arm[None], values.single[None]]
        components += [regression.predict(E) for regression in self.library_.values()]
        centers = np.stack([part.mean(axis=0) for part in components])
        weights = self.combination_
        combined, effects, effect = weights.combine(centers, values)
        rng = np.random.default_rng(self.seed_)
        g, h = (directions(self.n_members, len(part), rng) for part in (centers, effects))
        # the components' own members, then their disagreement: variances add up to those of the mixture
        deviation = np.zeros((self.n_members, *combined.shape))
        start = np.einsum("kna,ka->na", centers, weights.mean)
        for k, part in enumerate(components):
            if weights.mean[k].any():
                which = np.floor((np.arange(self.n_members) + 0.5) * len(part) / self.n_members).astype(int)
                deviation += np.sqrt(weights.mean[k]) * (part[which] - centers[k])
        deviation += np.einsum("mk,kna,ka->mna", g, centers - start, np.sqrt(weights.mean))
        shift = np.einsum("mc,cnb,cb->mnb", h, effects - effect, np.sqrt(weights.effect))
        held = (values.propensity[:, 1:] * shift).sum(axis=2, keepdims=True)
        deviation += np.concatenate([-held, shift - held], axis=2)
        return combined + (deviation - deviation.mean(axis=0))

    def _sample(
        self, inputs: NDArray[np.float32], n_draws: int | None, rng: np.random.Generator
    ) -> tuple[Draws, Array | None]:
        n_draws = n_draws or self.n_draws
        if not self.moves_:
            return self._pool(inputs, n_draws, rng)
        E, values, own = self._split(inputs)
        law = self.combination_.law
        sampled: list[Draws | None] = []
        members: list[Array] = []
        for k, (est, part) in enumerate(zip(self.estimators_.values(), own, strict=True)):
            draws, means = est._sample(part, n_draws, rng)
            members.append(draws.mean(axis=1, dtype=np.float64) if means is None else means)
            sampled.append(draws - draws.mean(axis=1, keepdims=True) if law[k] > 0 else None)
        location = self._combine(E, values, members)
        out = np.empty((self.n_members, n_draws, len(E), len(self.arms_)), dtype=np.float32)
        for m, k in enumerate(allocation(law[: len(sampled)], self.n_members)):
            residual = sampled[k]
            assert residual is not None
            out[m] = location[m] + residual[m % len(residual)]
        return out, location

    def _pool(self, inputs: NDArray[np.float32], n_draws: int, rng: np.random.Generator) -> tuple[Draws, Array]:
        """The linear pool: every component lends as many members as its weight asks for."""
        E, values, own = self._split(inputs)
        binary = self.schema_.outcome.kind == "binary"
        weights = self.combination_
        parts: list[tuple[NDArray[Any], Array]] = []  # draws and means of every component that is asked
        for est, part in zip(self.estimators_.values(), own, strict=True):
            if binary:
                found = est._means(part)
                parts.append((found[:, None], found))
            else:
                drawn, exact = est._sample(part, n_draws, rng)
                parts.append((drawn, drawn.mean(axis=1, dtype=np.float64) if exact is None else exact))
        if self.logs_ is not None:
            centers = [self.logs_.mean(drawn) for drawn, _ in parts]
            centers += [regression.predict(E).mean(axis=0) for regression in self.library_.values()]
            combined = np.einsum("kna,ka->na", np.stack(centers), weights.mean)
            shifted = [self.logs_.shift(drawn, combined) for drawn, _ in parts]
            parts = [(drawn, drawn.mean(axis=1, dtype=np.float64)) for drawn in shifted]
        elif binary:
            points = [values.per_arm[None], values.single[None]]
            points += [regression.predict(E) for regression in self.library_.values()]
            # boosting's own probabilities, up to rounding
            parts += [(found[:, None], found) for found in (np.clip(point, 0.0, 1.0) for point in points)]
        draws, means = [], []
        lent = np.bincount(allocation(weights.law, self.n_members), minlength=len(parts))
        for (drawn, found), n_members in zip(parts, lent, strict=False):
            which = np.floor((np.arange(n_members) + 0.5) * len(found) / max(n_members, 1)).astype(int)
            draws.append(drawn[which])
            means.append(found[which])
        return np.concatenate(draws).astype(np.float32), np.concatenate(means)

    # ------------------------------------------------------------------ save / load

    def _params_state(self) -> dict[str, Any]:
        params = super()._params_state()
        if self.estimators is not None:
            params["estimators"] = [[name, type(est).__name__, est._params_state()] for name, est in self.estimators]
        return params

    @classmethod
    def _params_from(cls, state: dict[str, Any]) -> dict[str, Any]:
        params = super()._params_from(state)
        if state["estimators"] is not None:
            params["estimators"] = [
                (str(name), _named(kind)(**_named(kind)._params_from(own))) for name, kind, own in state["estimators"]
            ]
        return params

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        weights = self.combination_
        arrays: dict[str, NDArray[Any]] = {
            f"library.{name}.{key}": value
            for name, regression in self.library_.items()
            for key, value in regression.to_arrays().items()
        }
        arrays |= {"weights.mean": weights.mean, "weights.effect": weights.effect, "weights.law": weights.law}
        parts = []
        for k, (name, est) in enumerate(self.estimators_.items()):
            own, state = est._get_state()
            arrays |= {f"{k}.{key}": value for key, value in own.items()}
            parts.append(
                {
                    "name": name,
                    "class": type(est).__name__,
                    "params": est._params_state(),
                    "state": state,
                    "seed": est.seed_,
                }
            )
        return arrays, {
            "parts": parts,
            "moves": self.moves_,
            "logs": None if self.logs_ is None else asdict(self.logs_),
            "library": list(self.library_),
            "names": list(weights.names),
            "widths": self.widths_,
        }

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        estimators: dict[str, EffectEstimator] = {}
        for k, one in enumerate(state["parts"]):
            cls = _named(one["class"])
            est = cls(**cls._params_from(one["params"]))
            est.__dict__.update(est._set_state(under(arrays, str(k)), one["state"], schema))
            est.nuisance_, est.arms_, est.seed_ = self.nuisance_, schema.arms, int(one["seed"])
            est.history_, est.rows_, est.n_features_in_ = [], self.rows_, len(schema.columns)
            est.df_, est.effect_spread_, est.schema_ = self.df_, None, schema
            estimators[str(one["name"])] = est
        weights = Weights(
            tuple(state["names"]), arrays["weights.mean"], arrays["weights.effect"], arrays["weights.law"]
        )
        library: dict[str, Regression] = {}
        for name in state["library"]:
            regression = LIBRARY[name]
            library[name] = regression.from_arrays(under(arrays, f"library.{name}"), schema.outcome.kind)
        fitted: dict[str, Any] = {"estimators_": estimators, "combination_": weights, "library_": library}
        fitted["widths_"] = [int(width) for width in state["widths"]]
        fitted["logs_"] = None if state["logs"] is None else Logs(**state["logs"])
        fitted |= {"moves_": bool(state["moves"]), "weights_": weights.table(schema.arms), "held_out_": None}
        fitted["spread_parts_"] = None
        return fitted


def default_estimators(n_samples: int, kind: str) -> list[tuple[str, EffectEstimator]]:
    """What `CausalStack` fits where nothing else is asked for: a diffusion and a flow around the same means.

    With twice the networks of `DiffPO` alone every row is held out by some of them, not by one or two, so that
    held-out predictions are as good as those of an ensemble. A binary outcome has no law to learn beside its mean.
    """
    n_networks = 28 if n_samples < 4000 else 14
    diffusion = ("DiffPO", _named("DiffPO")(n_networks=n_networks))
    flow = ("NOFLITE", _named("NOFLITE")(n_networks=n_networks, balance=0.0))
    return [diffusion] if kind == "binary" else [diffusion, flow]


def _moves(data: TrainingData) -> bool:
    """Whether outcomes may be moved by a constant: continuous, not bounded by zero, without a point mass."""
    if data.schema.outcome.kind != "continuous" or may_be_log(data.y, "continuous"):
        return False
    return bool(np.mean(data.y == data.y.min()) < _ATOM)


def _logs(data: TrainingData) -> Logs | None:
    """Logarithms for non-negative outcomes with a long right tail and no point mass at their smallest value."""
    if not may_be_log(data.y, data.schema.outcome.kind):
        return None
    scale = OutcomeScale.learn(data.y, "continuous", log=True)
    return Logs(scale.offset) if scale.lowest is None else None


def _named(name: str) -> type[EffectEstimator]:
    """The package's estimator of that name."""
    if name not in _ESTIMATORS:
        raise ValueError(f"{name!r} is not one of the estimators: {', '.join(_ESTIMATORS)}.")
    return getattr(import_module(_ESTIMATORS[name]), name)


@contextmanager
def _progress(n_steps: int, verbose: bool) -> Iterator[Callable[[str], None]]:
    """A bar on standard error that names the step at work (lines where that is no terminal), or nothing."""
    if not verbose:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda name: console.print(f"stack: {name}")
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("stack", total=n_steps)
        begun = False

        def step(name: str) -> None:
            nonlocal begun
            bar.update(task, advance=int(begun), description=f"stack: {name}")
            begun = True

        yield step
