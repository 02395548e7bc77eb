"""The law of what a regression leaves over: it turns any model of the mean into a distribution of the outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from effects.nn.scale import OutcomeScale, ResidualLaw, may_be_log, normal_nodes, prefers_log
from effects.nuisance import _NODE_FIELDS, BoostedTrees, _checked, _node_dtype, _with_arm

Array = NDArray[np.float64]
_FEWEST = 100  # rows, below which the spread is not asked to vary with x
_FOLDS = 5
_BORROWED = 2.0  # rows' worth of the pooled spread in every arm's own: an arm of two rows has none to speak of


@dataclass(frozen=True, eq=False)
class ResidualDistribution:
    r"""A location-scale law around given means, learned from out-of-fold residuals.

    .. math:: Y(a) = m_a(x) + s_a(x)\, R_a \quad\text{or}\quad
              Y(a) + c = (m_a(x) + c)\, \frac{e^{s_a(x) R_a}}{E\, e^{s_a(x) R_a}} ,

    the second for counts, and for non-negative, skewed outcomes whose errors are closer to normal on the logarithm
    (Box & Cox 1964). :math:`R_a` has mean zero, so the law's mean is :math:`m_a(x)`, to the last digit for continuous
    outcomes. :math:`s_a(x)` is a boosted regression of the absolute residual (quasi-Poisson, logarithmic link) on x,
    the arm and the mean, kept where it wins in out-of-fold log score, else a constant per arm. :math:`R_a` is the
    pooled, smoothed law of the standardised out-of-fold residuals of an arm (`effects.nn.scale.ResidualLaw`). As they
    are out of fold, the spread holds the regression's own error too, as in split conformal prediction
    (Lei et al. 2018, section 5.2, "locally weighted").

    An outcome with a point mass at its smallest value (no costs) keeps it: draws below a threshold become that value,
    and the others are rescaled so that the mean stays. Counts are spread over [y, y + 1) before, rounded down after,
    and so rounded that the draws' mean is the mean given, up to ``0.5 / n_draws``.

    Attributes
    ----------
    law : ResidualLaw
        Of :math:`R_a`.
    spread : ndarray of shape (n_arms,)
        Scale per arm: in the outcome's unit, or of its logarithm.
    trees : list of BoostedTrees
        Relative scale :math:`s_a(x)` / ``spread``, one a fold (their geometric mean is used); empty where constant.
    scale : OutcomeScale
        `log`, `offset`, `lowest`, `gap` and `whole` say which form is used; center and spread are not.
    floor : float
        Means below it are raised to it, where the form needs it (-inf otherwise): the smallest outcome seen.
    n_features : int

    References
    ----------
    Lei, G'Sell, Rinaldo, Tibshirani & Wasserman (2018), Distribution-free predictive inference for regression, JASA.

    Examples
    --------
    >>> import numpy as np
    >>> from effects.models.residuals import ResidualDistribution
    >>> rng = np.random.default_rng(0)
    >>> E, a = rng.normal(size=(400, 1)).astype("float32"), rng.integers(2, size=400)
    >>> residual = rng.normal(size=400)
    >>> law = ResidualDistribution.learn(residual, E, a, np.ones(400), 2)
    >>> draws = law.draws(np.zeros((1, 3, 2)), E[:3], n_draws=64)
    >>> draws.shape
    (1, 64, 3, 2)
    >>> bool(abs(draws.std(axis=1) - 1).max() < 0.2)
    True
    """

    law: ResidualLaw
    spread: Array
    trees: list[BoostedTrees]
    scale: OutcomeScale
    floor: float
    n_features: int

    @classmethod
    def learn(
        cls,
        residual: Array,
        E: NDArray[np.float32],
        a: NDArray[np.int64],
        weight: Array,
        n_arms: int,
        *,
        y: Array | None = None,
        kind: str = "continuous",
        member_variance: Array | None = None,
        seed: int = 0,
    ) -> ResidualDistribution:
        """Learn from residuals of rows that the regression had not seen.

        Parameters
        ----------
        residual : ndarray of shape (n,)
            Outcome minus out-of-fold mean under the arm received, in the outcome's unit.
        E : ndarray of shape (n, n_features)
            What the spread may depend on.
        a : ndarray of int, shape (n,)
        weight : ndarray of shape (n,)
        n_arms : int
            Every arm needs a row of positive weight.
        y : ndarray of shape (n,), optional
            The outcomes. Without them the additive form is used; counts need them.
        kind : {"continuous", "count"}
        member_variance : ndarray of shape (n,), optional
            Variance over members of the mean under the arm received. Out-of-fold residuals hold it, and members will
            add it again to the predictive law: its share is taken out of the residuals' law.
        seed : int
            Of the folds and of the counts' jitter.

        Returns
        -------
        ResidualDistribution
        """
        if kind == "count" and y is None:
            raise ValueError("a count's residuals need the counts themselves: pass y.")
        rng = np.random.default_rng(seed)
        scale, floor = _form(residual, a, weight, n_arms, y, kind)
        mean = np.zeros(len(residual)) if y is None else np.maximum(y - residual, floor)
        gain = mean + 0.5 * scale.whole + scale.offset if scale.log else np.ones(len(mean))
        if scale.log:
            assert y is not None
            residual = np.log((y + rng.random(len(y)) * scale.whole + scale.offset) / gain)
        residual = residual - _per_arm_mean(residual, a, weight, n_arms)[a]
        spread = _arm_spread(residual, a, weight, n_arms)
        unit = np.where(spread > 0, spread, 1.0)
        standard = residual / unit[a]
        trees, relative = _fit_relative(standard, _columns(E, mean, a, n_arms), a, weight, seed)
        standard = standard / relative
        law = ResidualLaw.learn(standard, a, weight, n_arms)
        if member_variance is not None:
            carried = member_variance / (gain * unit[a] * relative) ** 2
            law = replace(law, values=law.values * _own_share(standard, carried, a, weight, n_arms)[:, None])
        self = cls(law, spread, trees, scale, floor, E.shape[1])
        if scale.lowest is None or y is None:
            return self
        means = np.repeat(mean[:, None], n_arms, axis=1)
        plain = replace(self, scale=replace(scale, lowest=None)).draws(means[None], E, 33)[0]
        share = np.average(y == scale.lowest, weights=weight)
        own = plain[:, np.arange(len(y)), a]
        gap = max(float(np.quantile(own, share)) - scale.lowest, scale.gap)
        return replace(self, scale=replace(scale, gap=gap))

    def means(self, mean: Array) -> Array:
        """The means that the law has where a regression says `mean`: the same, but none below the law's range."""
        return np.maximum(mean, self.floor)

    def draws(self, mean: Array, E: NDArray[np.float32], n_draws: int) -> NDArray[np.float32]:
        """Equally likely outcomes (mid-quantiles) around every member's means.

        Parameters
        ----------
        mean : ndarray of shape (n_members, n, n_arms)
            In the outcome's unit.
        E : ndarray of shape (n, n_features)
        n_draws : int

        Returns
        -------
        ndarray of float32, shape (n_members, n_draws, n, n_arms)
            The same residuals for all members, and the same quantile levels under all arms.
        """
        mean = self.means(np.asarray(mean, dtype=np.float64))
        n_arms = len(self.spread)
        nodes = normal_nodes(n_draws)
        quantiles = self.law.residual(np.repeat(nodes[:, None], n_arms, axis=1))
        quantiles -= quantiles.mean(axis=0)
        residual = quantiles[:, None] * self.spreads(mean.mean(axis=0), E)  # n_draws, n, n_arms
        if self.scale.log:
            factor = np.exp(np.clip(residual, -80.0, 80.0))
            factor /= factor.mean(axis=0)
            base = mean + 0.5 * self.scale.whole + self.scale.offset
            y = base[:, None].astype(np.float32) * factor.astype(np.float32)
            y -= np.float32(self.scale.offset)
        else:
            y = mean[:, None].astype(np.float32) + residual.astype(np.float32)
        if self.scale.whole:
            return whole_draws(y, mean)
        return y if self.scale.lowest is None else self._with_atom(y, mean)

    def spreads(self, mean: Array, E: NDArray[np.float32]) -> Array:
        """s_a(x), (n, n_arms), for means of that shape."""
        n_arms = len(self.spread)
        if not self.trees:
            return np.broadcast_to(self.spread, (len(E), n_arms))
        out = np.empty((len(E), n_arms))
        for k in range(n_arms):
            columns = _columns(E, mean[:, k], np.full(len(E), k), n_arms)
            out[:, k] = self.spread[k] * _relative(self.trees, columns)
        return out

    def _with_atom(self, y: NDArray[np.float32], mean: Array) -> NDArray[np.float32]:
        """Draws near the smallest value become it; the others are scaled so that the mean stays."""
        assert self.scale.lowest is not None
        lowest = np.float32(self.scale.lowest)
        above = np.where(y < lowest + np.float32(self.scale.gap), np.float32(0), y - lowest)
        wanted, total = mean - self.scale.lowest, above.mean(axis=1, dtype=np.float64)
        # no draw above the atom, but a mean above it: the largest draw carries it
        above[:, -1] = np.where((total == 0) & (wanted > 0), wanted * y.shape[1], above[:, -1])
        factor = np.where(total > 0, wanted / np.where(total > 0, total, 1.0), 1.0)
        return lowest + above * factor[:, None].astype(np.float32)

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON values that `from_arrays` takes back."""
        arrays, meta = pack_trees(self.trees)
        arrays |= {"scores": self.law.scores, "values": self.law.values, "spread": self.spread}
        arrays["floor"] = np.array([self.floor])
        return arrays, meta | {"scale": asdict(self.scale), "n_features": self.n_features}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> ResidualDistribution:
        """Rebuild what `to_arrays` took apart; the file may be a stranger's."""
        law, spread = ResidualLaw(arrays["scores"], arrays["values"]), arrays["spread"]
        if law.values.shape != (len(spread), len(law.scores)):
            raise ValueError("the residual law's arrays do not fit together.")
        n_features = int(meta["n_features"])
        trees = unpack_trees(arrays, meta, [n_features + len(spread)] * len(meta["models"]))
        return cls(law, spread, trees, OutcomeScale(**meta["scale"]), float(arrays["floor"][0]), n_features)


def pack_trees(models: Sequence[BoostedTrees]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Boosted trees as plain arrays and JSON values, for `unpack_trees`."""
    nodes = [tree for model in models for tree in model.trees]
    stacked = np.concatenate(nodes) if nodes else np.zeros(0, dtype=_node_dtype())
    arrays = {f"nodes.{name}": np.ascontiguousarray(stacked[name]) for name in _NODE_FIELDS}
    arrays["baseline"] = np.concatenate([model.baseline for model in models] or [np.zeros(0)])
    described = [
        {"link": model.link, "n_nodes": [len(tree) for tree in model.trees], "n_outputs": len(model.baseline)}
        for model in models
    ]
    return arrays, {"models": described}


def unpack_trees(arrays: dict[str, NDArray[Any]], meta: dict[str, Any], n_columns: Sequence[int]) -> list[BoostedTrees]:
    """Inverse of `pack_trees`. Every node is checked, `n_columns` being the width of what each model is asked about.

    Raises
    ------
    ValueError
        If the nodes form no trees, or ask for columns that are not there.
    """
    fields = {name: arrays[f"nodes.{name}"] for name in _NODE_FIELDS}
    stacked = np.zeros(len(fields["value"]), dtype=_node_dtype())
    for name, values in fields.items():
        stacked[name] = values
    models, node, base = [], 0, 0
    for entry, width in zip(meta["models"], n_columns, strict=True):
        trees = []
        for size in entry["n_nodes"]:
            trees.append(_checked(stacked[node : node + size], width))
            node += size
        baseline = arrays["baseline"][base : base + int(entry["n_outputs"])]
        base += len(baseline)
        models.append(BoostedTrees(trees, baseline, str(entry["link"])))
    return models


def _form(
    residual: Array, a: NDArray[np.int64], weight: Array, n_arms: int, y: Array | None, kind: str
) -> tuple[OutcomeScale, float]:
    """Additive or multiplicative, atom or none; and the smallest mean that the form allows."""
    if y is None:
        return OutcomeScale(), -np.inf
    if kind == "count":
        return OutcomeScale.learn(y, kind, log=True), 0.0
    plain, lowest = OutcomeScale.learn(y, kind, log=False), float(y.min())
    floor = lowest if plain.lowest is not None else -np.inf
    if not may_be_log(y, kind):
        return plain, floor
    logged = OutcomeScale.learn(y, kind, log=True)
    error = np.log(y + logged.offset) - np.log(np.maximum(y - residual, lowest) + logged.offset)
    error -= _per_arm_mean(error, a, weight, n_arms)[a]
    return (logged, lowest) if prefers_log(y, residual, logged.offset, error) else (plain, floor)


def _per_arm_mean(values: Array, a: NDArray[np.int64], weight: Array, n_arms: int) -> Array:
    total = np.bincount(a, weights=weight, minlength=n_arms)
    return np.bincount(a, weights=weight * values, minlength=n_arms) / np.maximum(total, 1e-300)


def _arm_spread(residual: Array, a: NDArray[np.int64], weight: Array, n_arms: int) -> Array:
    """Root mean square per arm, with a little of the pooled one: a tiny arm's own says nothing."""
    square = _per_arm_mean(residual**2, a, weight, n_arms)
    n = np.bincount(a, weights=weight, minlength=n_arms)
    return np.sqrt((n * square + _BORROWED * np.average(residual**2, weights=weight)) / (n + _BORROWED))


def _own_share(standard: Array, carried: Array, a: NDArray[np.int64], weight: Array, n_arms: int) -> Array:
    """What is left of the residuals' spread, per arm, without the share that the members carry."""
    total = _per_arm_mean(standard**2, a, weight, n_arms)
    share = _per_arm_mean(carried, a, weight, n_arms) / np.maximum(total, 1e-12)
    return np.sqrt(np.maximum(1.0 - share, 0.25))


def _columns(E: NDArray[np.float32], mean: Array, a: NDArray[np.int64], n_arms: int) -> Array:
    """What the relative scale is regressed on: x, the mean, the arm."""
    return _with_arm(np.column_stack([E.astype(np.float64), mean]), a, n_arms)


def _relative(trees: Sequence[BoostedTrees], columns: Array) -> Array:
    """Geometric mean of the folds' relative scales, (n,)."""
    return np.exp(np.mean([np.log(model(columns)[:, 0]) for model in trees], axis=0))


def _fit_relative(
    standard: Array, columns: Array, a: NDArray[np.int64], weight: Array, seed: int
) -> tuple[list[BoostedTrees], Array]:
    """Boosted scales of residuals that have scale one per arm, and their out-of-fold values (n,).

    The mean absolute residual is regressed, not the log or the square: nearly as efficient as maximum likelihood for
    normal errors, and neither a residual near zero nor an outlier rules it.
    """
    n, size = len(standard), np.abs(standard)
    if n < _FEWEST or np.bincount(a).min() < _FOLDS or np.ptp(size) == 0:
        return [], np.ones(n)
    leaf = int(np.clip(n // 50, 20, 60))
    settings = {"max_iter": 60, "learning_rate": 0.06, "max_leaf_nodes": 4, "min_samples_leaf": leaf}
    found, trees = np.ones(n), []
    for train, test in StratifiedKFold(_FOLDS, shuffle=True, random_state=seed % 2**32).split(columns, a):
        level = np.average(size[train], weights=weight[train])
        if level == 0:
            return [], np.ones(n)
        model = BoostedTrees.fit(columns[train], size[train] / level, weight[train], "count", seed, settings)
        found[test] = model(columns[test])[:, 0]
        trees.append(model)
    # each law is given its best constant per arm, so that only the variation of the scale is scored
    n_arms = int(a.max()) + 1
    flat = np.sqrt(_per_arm_mean(standard**2, a, weight, n_arms))[a]
    varied = found * np.sqrt(_per_arm_mean((standard / found) ** 2, a, weight, n_arms))[a]
    gain = np.log(flat / varied) + 0.5 * (standard / flat) ** 2 - 0.5 * (standard / varied) ** 2
    mean = np.average(gain, weights=weight)
    error = np.sqrt(np.sum((weight * (gain - mean)) ** 2)) / weight.sum()
    if not mean > error:
        return [], np.ones(n)
    return trees, found


def whole_draws(y: NDArray[Any], mean: Array) -> NDArray[np.float32]:
    """Non-negative whole numbers with the mean of every member, row and arm kept as far as they allow.

    Rounded down, then as many draws as the mean asks for are raised by one (largest remainders first) or lowered.
    """
    n_draws = y.shape[1]
    low = np.floor(np.maximum(y * np.float32(1 + 1e-6), 0.0)).astype(np.float32)

    def missing() -> Array:
        return np.rint(mean * n_draws - low.sum(axis=1, dtype=np.float64))[:, None]

    def rank(rest: Array) -> NDArray[np.int64]:
        return np.argsort(np.argsort(rest, axis=1, kind="stable"), axis=1, kind="stable")

    low = np.maximum(low + np.fix(missing() / n_draws).astype(np.float32), 0.0)
    low += rank(y - low) >= n_draws - missing()
    while (missing() < 0).any():  # a draw of zero cannot be lowered: then others are, more than once if need be
        low -= (rank(np.where(low > 0, y - low, np.inf)) < -missing()) & (low > 0)
    return low.astype(np.float32)
