"""How much the training data say about a new unit: is it like the rows of each arm, and could it have got each arm."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from effects.inference.checks import effective_size

Array = NDArray[np.float64]

_CHUNK_ROWS = 8192
_MAX_ROWS = 20_000  # rows of an arm that are summarised and calibrated on: more would not move a centre
_MAX_CENTRES = 48
_ROWS_PER_CENTRE = 10  # a centre is an average of at least about so many rows, never one row
_FULL_COVARIANCE = 256  # columns up to which correlations are kept
_N_FOLDS = 10
_TABLE = 192  # points of a calibration table
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Support:
    """What the training data say about some units, arm by arm.

    Attributes
    ----------
    propensity : ndarray of shape (n_samples, n_arms)
        P(A = a | x).
    distance : ndarray of shape (n_samples, n_arms)
        Distance to the nearest centre of the arm's rows, in units of that of a typical (median) held-out row.
    p_value : ndarray of shape (n_samples, n_arms)
        Conformal p-value of "this unit comes from the law of the arm's rows": small where the unit lies farther out
        than almost all of them.
    level_flag : float
        Share of such rows that are flagged by mistake, at most.
    limit : ndarray of shape (n_arms,)
        Propensities below these count as too rare (0 where the Crump rule is used).
    rare : ndarray of bool, shape (n_samples, n_arms)
        Arms that units like this one hardly ever get.
    arms : tuple of labels
    index : pandas.Index, optional

    Examples
    --------
    >>> import numpy as np
    >>> from effects.support import SupportModel
    >>> rng = np.random.default_rng(0)
    >>> E, a = rng.normal(size=(400, 3)).astype("float32"), np.arange(400) % 2
    >>> half = np.full((400, 2), 0.5)
    >>> model = SupportModel.fit(E, a, np.ones(400), half, 2, seed=0)
    >>> new = np.array([[0, 0, 0], [9, 9, 9]], dtype="float32")
    >>> model.score(new, half[:2]).supported
    array([ True, False])
    """

    propensity: Array
    distance: Array
    p_value: Array
    rare: NDArray[np.bool_]
    level_flag: float
    limit: Array
    arms: tuple[Hashable, ...]
    index: pd.Index | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.propensity)

    @property
    def unlike(self) -> NDArray[np.bool_]:
        """(n_samples, n_arms): the unit is unlike the rows that got this arm.

        The level is divided by the arms, so that of units from the population of a trial, whose arms are alike, at
        most the share `level_flag` is flagged for any arm.
        """
        return np.asarray(self.p_value <= self.level_flag / len(self.arms))

    @property
    def supported(self) -> NDArray[np.bool_]:
        """(n_samples,): the unit is like rows of every arm, and no arm is too rare for such units."""
        return np.asarray(~(self.unlike | self.rare).any(axis=1))

    @property
    def reason(self) -> NDArray[np.object_]:
        """(n_samples,) of str: ``""`` where supported, else such as ``"unlike:drug; rare:drug"``.

        ``unlike:<arm>`` is a distance no row of that arm, or almost none, has; ``rare:<arm>`` a propensity at which the
        fit saw too few rows of that arm.
        """
        words = np.full(len(self), "", dtype=object)
        for word, flag in (("unlike", self.unlike), ("rare", self.rare)):
            for k, arm in enumerate(self.arms):
                rows = flag[:, k]
                words[rows] = [f"{old}; {word}:{arm}" if old else f"{word}:{arm}" for old in words[rows]]
        return words

    def to_frame(self) -> pd.DataFrame:
        """One row a unit: ``supported, reason`` and per arm ``propensity_, distance_, p_value_<arm>``."""
        columns: dict[str, Any] = {"supported": self.supported, "reason": self.reason}
        for k, arm in enumerate(self.arms):
            columns[f"propensity_{arm}"] = self.propensity[:, k]
            columns[f"distance_{arm}"] = self.distance[:, k]
            columns[f"p_value_{arm}"] = self.p_value[:, k]
        return pd.DataFrame(columns, index=self.index)


@dataclass(frozen=True, eq=False)
class SupportModel:
    r"""Summary of the training rows from which `Support` is told. It holds averages of rows, no row.

    **Distance.** Columns are scaled to unit variance (two-valued columns by half their range at least, so that a rare
    category counts as a difference and not as twenty); each arm's rows are summarised by k-means centres, and the
    spread around the centres of all arms by one Ledoit-Wolf covariance whose eigenvalues are held above a tenth of
    their mean (above 256 columns: by its diagonal). A unit's score for arm a is the Mahalanobis distance to that arm's
    nearest centre. It becomes a p-value by comparing it with the scores :math:`d_i` of the arm's rows, each computed by
    a summary of the other folds (weights :math:`w_i`, mean one):

    .. math:: p_a(x) = \frac{1 + \sum_i w_i 1\{d_i \ge d(x)\}}{1 + \sum_i w_i}

    (Bates et al. 2023, eq. 3, cross-fitted instead of split as in Vovk 2015; weighted rows as in Tibshirani et al.
    2019). Beyond the farthest row the p-value falls on as a power of the distance, which the farthest tenth of the rows
    gives (Hill 1975, Annals of Statistics 3), so that small arms can flag too.

    **Overlap.** By the rule ``"rows"`` arm a is too rare for a unit if its propensity lies below both of

    - ``min_rows / n^(4/5)``: around a propensity, a one-dimensional balancing score, :math:`n^{4/5}` rows are near in
      the sense of local regression (its optimal neighbourhood), of which fewer than `min_rows` then got the arm; and
    - the propensity at or below which `min_rows` rows (by Kish's effective number) did get the arm. Where a trial gives
      an arm to one in a hundred by design, this keeps all its units supported.

    The rule ``"crump"`` flags units with :math:`\sum_a 1/e_a(x) > \lambda`, where lambda minimises the variance of an
    average effect (Crump et al. 2009, corollary 1; for several arms Yang et al. 2016). It serves averages, and flags
    many more units.

    Attributes
    ----------
    shift, scale : ndarray of shape (n_encoded,)
    whiten : ndarray of shape (n_encoded, n_encoded) or (n_encoded,)
    centres : ndarray of shape (n_centres, n_encoded)
        Whitened.
    arm_of : ndarray of int, shape (n_centres,)
    table_distance, table_share : ndarray of shape (n_arms, n_points)
        Calibration: the share of rows at least so far out.
    tail : ndarray of shape (n_arms,)
        Hill's index: how slowly the share falls beyond the farthest row.
    limit : ndarray of shape (n_arms,)
        Propensity limits of the rule "rows"; zeros under "crump".
    crump : float
        Limit of the sum of inverse propensities; infinite under "rows".

    References
    ----------
    Bates, Candes, Lei, Romano & Sesia (2023), Testing for outliers with conformal p-values, Annals of Statistics 51.
    Vovk (2015), Cross-conformal predictors, Annals of Mathematics and AI 74. Crump, Hotz, Imbens & Mitnik (2009),
    Dealing with limited overlap in estimation of average treatment effects, Biometrika 96. Yang, Imbens, Cui, Faries &
    Kadziola (2016), Propensity score matching and subclassification with multi-level treatments, Biometrics 72.
    """

    shift: NDArray[np.float32]
    scale: NDArray[np.float32]
    whiten: NDArray[np.float32]
    centres: NDArray[np.float32]
    arm_of: NDArray[np.int64]
    table_distance: Array
    table_share: Array
    tail: Array
    limit: Array
    crump: float

    @classmethod
    def fit(
        cls,
        E: NDArray[np.float32],
        a: NDArray[np.int64],
        weight: Array,
        propensity: Array,
        n_arms: int,
        seed: int,
        *,
        overlap: str = "rows",
        min_rows: float = 5.0,
    ) -> SupportModel:
        """Summarise checked training rows.

        Parameters
        ----------
        E : ndarray of float32, shape (n_samples, n_encoded)
            Encoded covariates.
        a : ndarray of int, shape (n_samples,)
        weight : ndarray of shape (n_samples,)
            Rows of weight 0 are left out.
        propensity : ndarray of shape (n_samples, n_arms)
            Out-of-fold, or known.
        n_arms : int
        seed : int
        overlap : {"rows", "crump"}
            Rule by which an arm counts as too rare.
        min_rows : float
            Effective rows of an arm that the rule "rows" asks for.

        Raises
        ------
        ValueError
            If `overlap` is no such rule, or an arm has fewer than two rows.
        """
        if overlap not in ("rows", "crump"):
            raise ValueError(f"overlap must be 'rows' or 'crump', got {overlap!r}.")
        counts = np.bincount(a[weight > 0], minlength=n_arms)
        if counts.min() < 2:
            raise ValueError(
                f"arm {int(counts.argmin())} has {counts.min()} row(s) with a positive weight: a summary that is no "
                "row's own takes at least two."
            )
        rng = np.random.default_rng(seed)
        E = np.asarray(E, dtype=np.float32)
        rows = _canonical(E, a, weight, n_arms, rng)
        X, arm, w = E[rows], a[rows], weight[rows] / weight[rows].mean()
        shift, scale = _scaling(X, w)
        Z = (X - shift) / scale
        with threadpool_limits(1):  # on tables of this size threads only wait for each other
            held_out = _held_out(Z, arm, w, n_arms, rng)
            centres, arm_of, whiten = _summary(Z, arm, w, n_arms, rng)
        tables = [_table(held_out[arm == k], w[arm == k]) for k in range(n_arms)]
        table_distance, table_share, tail = (np.array(part) for part in zip(*tables, strict=True))
        used = weight > 0
        limit, crump = np.zeros(n_arms), np.inf
        if overlap == "crump":
            crump = crump_limit(propensity[used], weight[used])
        else:
            limit = _limits(propensity[used], a[used], weight[used], min_rows)
        return cls(shift, scale, whiten, centres, arm_of, table_distance, table_share, tail, limit, crump)

    @property
    def n_arms(self) -> int:
        """Number of arms."""
        return len(self.limit)

    def score(
        self,
        E: NDArray[np.float32],
        propensity: Array,
        *,
        level_flag: float = 0.01,
        arms: Sequence[Hashable] | None = None,
        index: pd.Index | None = None,
    ) -> Support:
        """What the training data say about encoded units.

        Training rows lie closer to centres that they helped to place: they are flagged a little less often.

        Parameters
        ----------
        E : ndarray of float32, shape (n_samples, n_encoded)
        propensity : ndarray of shape (n_samples, n_arms)
        level_flag : float
            Share of units of the population that may be flagged by mistake for their distance.
        arms : sequence of labels, optional
            For the reasons; by default 0 to n_arms - 1.
        index : pandas.Index, optional

        Raises
        ------
        ValueError
            If shapes do not fit the model, or `level_flag` is no probability.
        """
        if not 0 < level_flag < 1:
            raise ValueError(f"level_flag must lie strictly between 0 and 1, got {level_flag!r}.")
        e = np.asarray(propensity, dtype=np.float64)
        if E.ndim != 2 or E.shape[1] != len(self.shift) or e.shape != (len(E), self.n_arms):
            raise ValueError(
                f"E and propensity have shapes {E.shape} and {e.shape}, expected (n, {len(self.shift)}) and "
                f"(n, {self.n_arms})."
            )
        distance = np.empty((len(E), self.n_arms))
        for start in range(0, len(E), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            Z = _transform((np.asarray(E[rows], dtype=np.float32) - self.shift) / self.scale, self.whiten)
            distance[rows] = _nearest(Z, self.centres, self.arm_of, self.n_arms)
        p_value = np.column_stack([self._p_value(distance[:, k], k) for k in range(self.n_arms)])
        typical = np.array([np.interp(-0.5, -s, d) for s, d in zip(self.table_share, self.table_distance, strict=True)])
        labels = tuple(range(self.n_arms)) if arms is None else tuple(arms)
        return Support(
            e, distance / np.maximum(typical, _TINY), p_value, self._rare(e), level_flag, self.limit, labels, index
        )

    def _p_value(self, distance: Array, arm: int) -> Array:
        table, share = self.table_distance[arm], self.table_share[arm]
        farthest = max(float(table[-1]), _TINY)
        return np.interp(distance, table, share) * np.maximum(distance / farthest, 1.0) ** -(1.0 / self.tail[arm])

    def _rare(self, e: Array) -> NDArray[np.bool_]:
        # a hair's breadth: known propensities that are equal on paper may differ by rounding
        rare = e < self.limit * (1 - 1e-6)
        with np.errstate(divide="ignore"):
            beyond = (1.0 / e).sum(axis=1) > self.crump * (1 + 1e-6)
        rare[beyond, e[beyond].argmin(axis=1)] = True
        return rare

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Tensors and JSON metadata that `from_arrays` takes back."""
        names = [name for name in self.__dataclass_fields__ if name != "crump"]
        crump = None if np.isinf(self.crump) else float(self.crump)
        return {name: np.asarray(getattr(self, name)) for name in names}, {"crump": crump}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> SupportModel:
        """Rebuild what `to_arrays` took apart.

        Raises
        ------
        ValueError
            If arrays do not fit together, as in a damaged file.
        """
        names = [name for name in cls.__dataclass_fields__ if name != "crump"]
        given = {name: np.asarray(arrays[name]) for name in names}
        d, n_arms, arm_of = len(given["shift"]), len(given["limit"]), given["arm_of"]
        fits = (
            given["scale"].shape == (d,)
            and given["whiten"].shape in ((d,), (d, d))
            and given["centres"].shape == (len(arm_of), d)
            and given["table_distance"].shape == given["table_share"].shape == (n_arms, _TABLE)
            and given["tail"].shape == (n_arms,)
            and set(arm_of.tolist()) == set(range(n_arms))
            and all(np.isfinite(value).all() for value in given.values())
            and bool((given["scale"] > 0).all() and (given["tail"] > 0).all())
            and bool((np.diff(given["table_distance"]) >= 0).all())
        )
        if not fits:
            raise ValueError("the model file is damaged: the summary of its training rows does not fit together.")
        crump = meta["crump"]
        return cls(**given, crump=np.inf if crump is None else float(crump))


def crump_limit(propensity: Array, weight: Array | None = None) -> float:
    r"""The largest sum of inverse propensities of a unit that an average effect should rest on.

    With :math:`g(x) = \sum_a 1 / e_a(x)`: infinite if :math:`\max g \le 2 E[g]`, else the smallest lambda with
    :math:`\lambda \ge 2 E[g \mid g \le \lambda]` at which the inequality still holds for all larger cuts (Crump et al.
    2009, corollary 1: for two arms g is 1 / (e (1 - e)); Yang et al. 2016 for several).

    Examples
    --------
    >>> import numpy as np
    >>> crump_limit(np.full((10, 2), 0.5))
    inf
    """
    with np.errstate(divide="ignore"):
        g = (1.0 / propensity).sum(axis=1)
    order = np.argsort(g)
    g = g[order]
    w = np.ones(len(g)) if weight is None else weight[order]
    finite = np.isfinite(g)
    mean = np.cumsum(np.where(finite, g, 0.0) * w) / np.maximum(np.cumsum(w), np.finfo(float).tiny)
    mean[~finite] = np.inf
    inside = g <= 2 * mean
    if inside[-1] and finite[-1]:
        return float("inf")
    # the largest set {g <= lambda} whose members all satisfy g <= 2 E[g | set]
    last = int(np.flatnonzero(inside & finite)[-1])
    return float(2 * mean[last])


def _limits(propensity: Array, a: NDArray[np.int64], weight: Array, min_rows: float) -> Array:
    """Propensities of every arm below which it is too rare, by the rule "rows"."""
    n = effective_size(weight)
    limit = np.full(propensity.shape[1], min_rows / n**0.8)
    for k in range(len(limit)):
        own = a == k
        order = np.argsort(propensity[own, k])
        w = weight[own][order]
        effective = np.cumsum(w) ** 2 / np.cumsum(w**2)
        enough = np.flatnonzero(effective >= min_rows)
        if enough.size:
            limit[k] = min(limit[k], float(propensity[own, k][order][enough[0]]))
    return limit


def _canonical(
    E: NDArray[np.float32], a: NDArray[np.int64], weight: Array, n_arms: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows with weight in an order of their own content, so that shuffling a table changes nothing; at most 20,000
    of each arm."""
    key = (E.astype(np.float64) * rng.normal(size=E.shape[1])).sum(axis=1)
    order = np.lexsort((weight, a, key))
    order = order[weight[order] > 0]
    parts = []
    for k in range(n_arms):
        own = order[a[order] == k]
        parts.append(own if len(own) <= _MAX_ROWS else rng.choice(own, _MAX_ROWS, replace=False))
    return np.concatenate(parts)


def _folds(arm: NDArray[np.int64], n_arms: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A fold for each row, every arm spread evenly: an arm with two rows or more is never missing from training."""
    fold = np.empty(len(arm), dtype=np.int64)
    for k in range(n_arms):
        own = arm == k
        fold[own] = rng.permutation(int(own.sum())) % _N_FOLDS
    return fold


def _scaling(X: NDArray[np.float32], w: Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and unit of every column."""
    mean = np.average(X, axis=0, weights=w).astype(np.float32)
    scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=w)).astype(np.float32)
    low, high = X.min(axis=0), X.max(axis=0)
    two_valued = (np.equal(X, low) | np.equal(X, high)).all(axis=0)
    half = np.where(high > low, (high - low) / 2, 0.5).astype(np.float32)
    return mean, np.where(two_valued, np.maximum(scale, half), scale)


def _held_out(Z: NDArray[np.float32], arm: NDArray[np.int64], w: Array, n_arms: int, rng: np.random.Generator) -> Array:
    """Every row's distance to its own arm, as the other folds summarise it."""
    fold, distance = _folds(arm, n_arms, rng), np.empty(len(Z))
    for j in range(_N_FOLDS):
        test, train = np.flatnonzero(fold == j), np.flatnonzero(fold != j)
        if len(test):
            centres, arm_of, whiten = _summary(Z[train], arm[train], w[train], n_arms, rng)
            near = _nearest(_transform(Z[test], whiten), centres, arm_of, n_arms)
            distance[test] = near[np.arange(len(test)), arm[test]]
    return distance


def _summary(
    Z: NDArray[np.float32], arm: NDArray[np.int64], w: Array, n_arms: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Whitened centres of every arm, their arms, and the whitening of the spread around them."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    centres, arm_of, around = [], [], []
    for k in range(n_arms):
        own = np.flatnonzero(arm == k)
        seed = int(rng.integers(2**31 - 1))
        n_centres = int(np.clip(np.sqrt(len(own)) / 2, 1, min(_MAX_CENTRES, max(1, len(own) // _ROWS_PER_CENTRE))))
        if n_centres == 1:
            found = np.average(Z[own], axis=0, weights=w[own])[None].astype(np.float32)
            label = np.zeros(len(own), dtype=np.int64)
        else:
            model = KMeans(n_centres, n_init=1, max_iter=10, init="random", random_state=seed)
            with warnings.catch_warnings():  # of tables with fewer different rows than centres: those stay empty
                warnings.simplefilter("ignore", ConvergenceWarning)
                label = model.fit_predict(Z[own], sample_weight=w[own]).astype(np.int64)
            found = model.cluster_centers_.astype(np.float32)
        around.append((Z[own] - found[label]) * np.sqrt(w[own])[:, None].astype(np.float32))
        size = np.bincount(label, minlength=len(found))
        kept = size >= min(_ROWS_PER_CENTRE // 2, size.max())  # a centre of a row or two would be those rows
        centres.append(found[kept])
        arm_of.append(np.full(int(kept.sum()), k))
    whiten = _whitening(np.concatenate(around))
    return _transform(np.concatenate(centres), whiten), np.concatenate(arm_of), whiten


def _whitening(residual: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse root of the (shrunk, floored) covariance; of its diagonal for many columns."""
    from sklearn.covariance import ledoit_wolf

    if residual.shape[1] > _FULL_COVARIANCE or residual.shape[1] == 1:
        variance = np.mean(residual.astype(np.float64) ** 2, axis=0)
        floor = max(0.1 * float(variance.mean()), 1e-6)
        return (1.0 / np.sqrt(np.maximum(variance, floor))).astype(np.float32)
    covariance, _ = ledoit_wolf(residual, assume_centered=True)
    value, vector = np.linalg.eigh(covariance.astype(np.float64))
    floor = max(0.1 * float(value.mean()), 1e-6)
    return (vector / np.sqrt(np.maximum(value, floor))).astype(np.float32)


def _transform(Z: NDArray[np.float32], whiten: NDArray[np.float32]) -> NDArray[np.float32]:
    return Z * whiten if whiten.ndim == 1 else Z @ whiten


def _nearest(Z: NDArray[np.float32], centres: NDArray[np.float32], arm_of: NDArray[np.int64], n_arms: int) -> Array:
    """Distance of whitened rows to the nearest centre of each arm, (n, n_arms)."""
    square = (Z.astype(np.float64) ** 2).sum(axis=1)[:, None] + (centres.astype(np.float64) ** 2).sum(axis=1)
    square -= 2.0 * (Z @ centres.T)
    distance = np.sqrt(np.maximum(square, 0.0))
    return np.column_stack([distance[:, arm_of == k].min(axis=1) for k in range(n_arms)])


def _table(distance: Array, w: Array) -> tuple[Array, Array, float]:
    """Rising distances with their p-values, at most `_TABLE` of them, and Hill's tail index of the farthest tenth.

    The p-value at a row's own distance counts the row; between two kept distances it is interpolated.
    """
    order = np.argsort(-distance)
    d, mass = distance[order], np.cumsum(w[order] / w.mean())
    p = (1.0 + mass) / (1.0 + mass[-1])
    # ranks from the farthest row on, dense where p-values are small
    ranks = np.unique(np.round(np.geomspace(1, len(d), _TABLE)).astype(np.int64)) - 1
    table, share = np.full(_TABLE, d[-1]), np.ones(_TABLE)
    table[-len(ranks) :], share[-len(ranks) :] = d[ranks][::-1], p[ranks][::-1]
    cut = max(float(np.quantile(d, 0.9)), _TINY)
    return table, share, max(float(np.mean(np.log(np.maximum(d[d >= cut] / cut, 1.0)))) if d[0] >= cut else 0.0, 0.01)
