"""A shallow tree of subgroups: grown on one half of the rows, estimated on the other, told in the user's words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from effects.effect import Estimate, Estimates, contrast
from effects.heterogeneity.subgroups import Remembered, short_between
from effects.inference import aipw_scores, estimate_ate, estimate_gate
from effects.inference.sample import CrossFitting, Sample
from effects.nuisance import Nuisance
from effects.rows import row_keys
from effects.schema import ColumnSpec, Schema

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
EVERYONE = "everyone"
GROWN_BY = ("nuisance", "estimator")


# ----------------------------------------------------------------------------------------------------------- two halves


@dataclass(frozen=True, eq=False)
class Halves:
    """Rows to grow a tree on, with what models of these rows alone say of them, and rows to estimate on.

    Attributes
    ----------
    known : Remembered
        Held-out predictions of all rows.
    sample : Sample
        All rows.
    E : ndarray of shape (n_samples, n_encoded)
    grow, value : ndarray of bool, shape (n_samples,)
        The halves, of the rows that count.
    mu, propensity : ndarray of shape (n_grow, n_arms)
        Of the rows of `grow`, by models that know nothing of the outcomes of the others.
    source : str
        Whose word these are.
    """

    known: Remembered
    sample: Sample
    E: NDArray[np.float32]
    grow: NDArray[np.bool_]
    value: NDArray[np.bool_]
    mu: FloatArray
    propensity: FloatArray
    source: str

    def scores(self) -> FloatArray:
        """AIPW scores of the rows of `grow`, (n_grow, n_arms), from these rows alone."""
        rows = self.grow
        return aipw_scores(self.sample.y[rows], self.sample.arm[rows], self.mu, self.propensity)


def split_in_halves(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    grow_by: str = "nuisance",
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    random_state: int = 0,
) -> Halves:
    """Halve the rows by arm (whole clusters where there are any), whatever their order, and predict the first half.

    The estimator's held-out predictions of a row come from models that saw all *other* rows: a tree on those of the
    first half would follow the noise in the outcomes of the second, and estimates there would repeat it. So the first
    half gets predictions of its own, unless the estimator was fitted on other rows altogether.

    Parameters
    ----------
    est, X, y, treatment, sample_weight, groups, propensity
        As in `effects.inference.estimate_ate`.
    grow_by, random_state
        As in `subgroup_tree`.

    Returns
    -------
    Halves

    Raises
    ------
    ValueError
        As `estimate_ate`; if a half holds fewer than 4 rows of an arm.

    Examples
    --------
    >>> halves = split_in_halves(est, X, y, treatment=arm)  # doctest: +SKIP
    >>> subgroup_tree(est, X, y, treatment=arm, halves=halves)  # doctest: +SKIP
    """
    if grow_by not in GROWN_BY:
        raise ValueError(f"grow_by must be one of {', '.join(map(repr, GROWN_BY))}, got {grow_by!r}.")
    weight = sample_weight
    known = Remembered.ask(est, X, y, treatment, weight, propensity)
    sample = Sample.read(known, X, y, treatment=treatment, sample_weight=weight, groups=groups, propensity=propensity)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same rows were encoded, and warned of, when they were predicted
        E = known.schema_.encode(X)
    first = _first_half(E, sample, random_state)
    grow, value = first & sample.used, ~first & sample.used
    for half in (grow, value):
        for k, arm in enumerate(sample.arms):
            if np.count_nonzero(half & (sample.arm == k)) < 4:
                raise ValueError(
                    f"half of the rows hold fewer than 4 of arm {arm!r}: too few to grow a tree on one half and "
                    "estimate its effects on the other."
                )
    parts: dict[str, Any] = {"known": known, "sample": sample, "E": E, "grow": grow, "value": value}
    if getattr(known.values, "source", "") == "other":
        mu, e, source = sample.mu[grow], sample.propensity[grow], "the estimator, which was fitted on other rows"
        return Halves(**parts, mu=mu, propensity=e, source=source)
    given = sample.propensity[grow] if propensity is not None else None
    if grow_by == "estimator":
        return Halves(**parts, **_refitted(est, X, y, treatment, sample, grow, given))
    values = _nuisance(est, random_state).fit(
        E[grow],
        sample.y[grow],
        sample.arm[grow],
        n_arms=len(sample.arms),
        kind=sample.kind,
        sample_weight=None if weight is None else sample.weight[grow] / sample.weight[grow].mean(),
        propensity=_trial(est, given, int(grow.sum())),
    )
    out = values.out_of_fold_
    source = "nuisances cross-fitted on these rows alone"
    return Halves(**parts, mu=out.mu, propensity=out.propensity, source=source)


def _first_half(E: NDArray[np.float32], sample: Sample, random_state: int) -> NDArray[np.bool_]:
    """Half of each arm's rows, or of the clusters, by their covariates and the seed, not by their order."""
    rng = np.random.default_rng(random_state)
    keys = row_keys(E, sample.arm, np.zeros(len(E)))
    if sample.cluster is None:
        first = np.zeros(len(keys), dtype=bool)
        for k in range(len(sample.arms)):
            rows = np.flatnonzero((sample.arm == k) & sample.used)
            by_content = rows[np.lexsort((sample.y[rows], keys[rows]))]  # the outcome tells equal rows apart
            first[by_content[rng.permutation(len(rows))[: (len(rows) + 1) // 2]]] = True
        return first
    smallest = pd.Series(keys).groupby(sample.cluster).min().sort_values()
    clusters = smallest.index.to_numpy()
    return np.isin(sample.cluster, clusters[rng.permutation(len(clusters))[: (len(clusters) + 1) // 2]])


def _nuisance(est: Any, random_state: int) -> Nuisance:
    from sklearn.base import clone

    own = getattr(est, "nuisance_", None) or getattr(est, "nuisance", None) or Nuisance()
    fresh: Nuisance = clone(own)
    fresh.set_params(n_folds=min(fresh.n_folds, 3))  # a tree needs no more, and its half is soon fitted
    return fresh if fresh.random_state is not None else fresh.set_params(random_state=random_state)


def _trial(est: Any, given: FloatArray | None, n: int) -> FloatArray | None:
    """Known propensities: those of the call, or of the fit where they were a trial's."""
    trial = getattr(getattr(est, "nuisance_", None), "trial_propensity", None)
    return np.broadcast_to(trial, (n, len(trial))) if given is None and trial is not None else given


def _refitted(
    est: Any, X: Any, y: Any, treatment: Any, sample: Sample, grow: NDArray[np.bool_], given: FloatArray | None
) -> dict[str, Any]:
    """The whole estimator, fitted anew on the half."""
    from sklearn.base import clone

    rows = np.flatnonzero(grow)
    part = X.iloc[rows] if isinstance(X, pd.DataFrame) else np.asarray(X)[rows]
    own: dict[str, Any] = {"treatment": pd.Series(treatment).to_numpy()[rows], "sample_weight": sample.weight[rows]}
    own["propensity"] = _trial(est, given, len(rows))
    outcome = pd.Series(y).to_numpy()[rows]
    held = clone(est).fit(part, outcome, **own).cross_fitted(part, outcome, **own)
    return {"mu": held.mu, "propensity": held.propensity, "source": f"a {type(est).__name__} fitted on these rows"}


# ---------------------------------------------------------------------------------------------------- trees and words


@dataclass(frozen=True)
class Node:
    """A node of a tree: a split of an encoded column, with its two sides in words, or a leaf (`feature` is -1)."""

    feature: int = -1
    threshold: float = 0.0
    left: int = -1
    right: int = -1
    words: tuple[str, str] = ("", "")
    column: str = ""

    @property
    def leaf(self) -> bool:
        return self.feature < 0


@dataclass(frozen=True, eq=False)
class Tree:
    """Splits of encoded columns, told in the user's columns.

    Attributes
    ----------
    nodes : tuple of Node
        The root first.
    """

    nodes: tuple[Node, ...]

    @classmethod
    def read(cls, fitted: Any, features: IntArray, schema: Schema, E: NDArray[Any]) -> Tree:
        """From the arrays of a scikit-learn or EconML tree that was grown on some encoded columns."""
        tree = fitted.tree_
        owner = [spec for spec in schema.columns for _ in spec.feature_names]
        nodes = []
        for left, right, column, threshold in zip(
            tree.children_left, tree.children_right, tree.feature, tree.threshold, strict=True
        ):
            if left < 0:
                nodes.append(Node())
                continue
            j = int(features[column])
            words = _words(owner[j], schema.feature_names[j], E[:, j], float(threshold))
            nodes.append(Node(j, float(threshold), int(left), int(right), words, owner[j].name))
        return cls(tuple(nodes))

    def apply(self, E: ArrayLike) -> IntArray:
        """The leaf of each row, as its position among `nodes`."""
        values = np.asarray(E)
        at = np.zeros(len(values), dtype=np.int64)
        for k, node in enumerate(self.nodes):  # children stand behind their parents
            if not node.leaf:
                here = at == k
                left = values[:, node.feature].astype(np.float64) <= node.threshold
                at[here] = np.where(left[here], node.left, node.right)
        return at

    def leaves(self, k: int = 0) -> list[int]:
        """Leaves below a node, from left to right."""
        node = self.nodes[k]
        return [k] if node.leaf else [*self.leaves(node.left), *self.leaves(node.right)]

    def rules(self) -> dict[int, str]:
        """Each leaf's rule, such as "age ≤ 60.5 and sex is f"."""
        found: dict[int, str] = {}

        def walk(k: int, path: tuple[tuple[str, str], ...]) -> None:
            node = self.nodes[k]
            if node.leaf:
                found[k] = " and ".join(_joined(path)) or EVERYONE
                return
            for side, below in enumerate((node.left, node.right)):
                walk(below, (*path, (node.column, node.words[side])))

        walk(0, ())
        return found

    def pruned(self, keep: Callable[[Tree, Node], bool]) -> Tree:
        """Without the splits, and all below them, that ``keep(tree, node)`` does not want; lowest first."""
        tree = self
        for k in reversed(range(len(self.nodes))):  # children stand behind their parents
            if not tree.nodes[k].leaf and not keep(tree, tree.nodes[k]):
                tree = replace(tree, nodes=(*tree.nodes[:k], Node(), *tree.nodes[k + 1 :]))
        return tree


def _joined(path: Sequence[tuple[str, str]]) -> list[str]:
    """Conditions on the way to a leaf, those on one number made one.

    >>> _joined([("age", "age > 40"), ("sex", "sex is f"), ("age", "age ≤ 60.5"), ("age", "age ≤ 50")])
    ['40 < age ≤ 50', 'sex is f']
    """
    joined: dict[str, str] = {}
    for column in dict.fromkeys(column for column, _ in path):
        own = [words for one, words in path if one == column]
        numbers = [words for words in own if words.startswith((f"{column} ≤ ", f"{column} > "))]
        other = [words for words in own if words not in numbers]
        if not numbers:
            joined[column] = " and ".join(other)
            continue
        missing = " (or missing)" if all(words.endswith(" (or missing)") for words in numbers) else ""
        plain = [words.removesuffix(" (or missing)") for words in numbers]
        # deeper splits of the same side are tighter
        ends = {words[len(column) + 1]: words[len(column) + 3 :] for words in plain}
        low = f"{ends['>']} < " if ">" in ends and "≤" in ends else ""
        high = f" ≤ {ends['≤']}" if "≤" in ends else f" > {ends['>']}"
        joined[column] = " and ".join([f"{low}{column}{high}{missing}", *other])
    return list(joined.values())


def _words(spec: ColumnSpec, feature: str, values: NDArray[Any], threshold: float) -> tuple[str, str]:
    """The two sides of a split of an encoded column: at most the threshold, and above."""
    name, values = spec.name, values.astype(np.float64)  # or the threshold would be rounded to compare
    if feature == f"{name}=<missing>":
        return f"{name} is known", f"{name} is missing"
    if spec.kind == "category":
        level = feature.removeprefix(f"{name}=")
        level = "a rare level" if level == "<other>" else level
        if len(spec.feature_names) == 2 and not spec.missing:  # of two levels each is the other's absence
            other = next(one for one in spec.feature_names if one != feature).removeprefix(f"{name}=")
            return f"{name} is {'a rare level' if other == '<other>' else other}", f"{name} is {level}"
        return f"{name} is not {level}", f"{name} is {level}"
    fill = (float(spec.fill or 0) - (float(spec.mean or 0) if spec.kind != "bool" else 0)) / (
        (spec.sd or 1.0) if spec.kind != "bool" else 1.0
    )
    sides = [" (or missing)" if spec.missing and (fill <= threshold) == low else "" for low in (True, False)]
    if spec.kind == "bool":
        return f"{name} is False{sides[0]}", f"{name} is True{sides[1]}"
    below, above = values[values <= threshold].max(), values[values > threshold].min()
    unit = [float(spec.sd or 1) * v + float(spec.mean or 0) for v in (float(below), float(above))]
    cut = short_between(*unit) if spec.kind == "number" else _day_between(*unit)
    return f"{name} ≤ {cut}{sides[0]}", f"{name} > {cut}{sides[1]}"


def _day_between(low: float, high: float) -> str:
    return f"{pd.Timestamp('1970-01-01') + pd.Timedelta(days=float(np.floor((low + high) / 2 + 1e-4))):%Y-%m-%d}"


def columns_of_tree(schema: Schema, columns: Sequence[Hashable] | None) -> IntArray:
    """Encoded columns that a tree may split."""
    owner = [spec.name for spec in schema.columns for _ in spec.feature_names]
    if columns is None:
        return np.arange(len(owner))
    alone = isinstance(columns, str | int | np.integer)
    wanted = [str(one) if schema.named else f"x{one}" for one in ([columns] if alone else columns)]
    unknown = [one for one in wanted if one not in owner]
    if unknown or not wanted:
        known = ", ".join(repr(spec.name) for spec in schema.columns if spec.feature_names)
        raise ValueError(
            f"{unknown[0] if unknown else columns!r} is no column that the fit used: name some of {known}."
        )
    return np.flatnonzero(np.isin(owner, wanted))


def check_halves(halves: Halves, X: Any) -> None:
    if len(halves.E) != len(X):
        raise ValueError(f"halves are of {len(halves.E)} rows and X has {len(X)}: make them from the same rows.")


def check_size(max_depth: int, min_leaf: int | None, n_grow: int) -> int:
    """The least number of rows of a leaf: by default a twentieth of the half, but 20."""
    if isinstance(max_depth, bool) or not isinstance(max_depth, int | np.integer) or not 1 <= max_depth <= 6:
        raise ValueError(f"max_depth must be an int from 1 to 6, got {max_depth!r}: deeper trees tell nobody anything.")
    if min_leaf is None:
        return max(20, int(np.ceil(n_grow / 20)))
    if isinstance(min_leaf, bool) or not isinstance(min_leaf, int | np.integer) or min_leaf < 2:
        raise ValueError(f"min_leaf must be an int of 2 or more, got {min_leaf!r}.")
    return int(min_leaf)


# ----------------------------------------------------------------------------------------------------------- subgroups


@dataclass(frozen=True, eq=False)
class SubgroupTree:
    """Subgroups that a tree found on one half of the rows, with estimates from the other half.

    Attributes
    ----------
    tree : Tree
        In the words of the user's columns.
    estimates : Estimates
        One a leaf, from left to right, with their joint covariance; the labels are the rules.
    overall : Estimate
        In the half that estimates.
    schema : Schema
        How `apply` reads a table.
    min_leaf, n_grown, n_valued : int
        The least rows of a leaf where the tree was grown, and the rows of either half.
    source : str
        Whose effects the tree was grown on.
    """

    tree: Tree = field(repr=False)
    estimates: Estimates
    overall: Estimate
    schema: Schema = field(repr=False)
    min_leaf: int
    n_grown: int
    n_valued: int
    source: str

    def to_frame(self) -> pd.DataFrame:
        """One row a leaf, by its rule, and one for everyone: ``n, coef, std err, lower, upper``."""
        each = [*self.estimates, self.overall]
        rows = [(e.n, e.value, e.se, *e.interval()) for e in each]
        index = pd.Index([*map(str, self.estimates.labels), EVERYONE], name="subgroup")
        if len(self.estimates) == 1:
            rows, index = rows[1:], index[1:]
        table = pd.DataFrame(rows, columns=["n", "coef", "std err", "lower", "upper"], index=index)
        return table.astype({"n": int})

    def apply(self, X: Any) -> NDArray[Any]:
        """The rule that holds for each row of a table, (n_samples,)."""
        rules = self.tree.rules()
        return np.array([rules[k] for k in self.tree.apply(self.schema.encode(X))], dtype=object)

    @property
    def text(self) -> str:
        """The tree, its estimates and how both were made, line by line."""
        lines = [
            f"Grown on {self.n_grown} rows (effects by {self.source}; at least {self.min_leaf} rows a leaf), "
            f"estimated on the {self.n_valued} others ({self.overall.method})."
        ]
        if len(self.estimates) == 1:
            return "\n".join([*lines, f"No split was found. {self.overall}"])
        for rule, e in zip(self.estimates.labels, self.estimates, strict=True):
            lower, upper = e.interval()
            lines.append(f"- {rule}: {e.value:.4g} ({e.level:.0%} interval {lower:.4g} to {upper:.4g}; n = {e.n})")
        lower, upper = self.overall.interval()
        lines.append(f"- {EVERYONE}: {self.overall.value:.4g} ({lower:.4g} to {upper:.4g}; n = {self.overall.n})")
        try:
            lines.append(str(self.estimates.heterogeneity()))
        except ValueError as error:
            lines.append(f"No test of equal effects: {error}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text


def subgroup_tree(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    max_depth: int = 2,
    min_leaf: int | None = None,
    columns: Sequence[Hashable] | None = None,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    scale: str = "difference",
    grow_by: str = "nuisance",
    halves: Halves | None = None,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
    random_state: int = 0,
) -> SubgroupTree:
    r"""Search for subgroups on one half of the rows, and estimate their effects honestly on the other.

    On the first half a regression tree of :math:`\hat\tau(x)` finds where effects differ most; on the second every leaf
    gets the average of its AIPW scores, as a pre-specified subgroup would. Nothing of the second half's outcomes has
    part in the tree, so that its intervals hold what they say (Athey & Imbens 2016).

    Parameters
    ----------
    est, X, y, treatment, treated, control, scale, sample_weight, groups, propensity, level
        As in `effects.inference.estimate_ate`. Whole clusters go to one half.
    max_depth : int, default 2
        Two splits in a row give at most four subgroups.
    min_leaf : int, optional
        The least rows of a leaf in the first half; by default a twentieth of it, but at least 20. A split is taken
        back, with those below it, if a leaf of it holds fewer than 5 rows of one of the two arms in the second half.
    columns : sequence of columns, optional
        Which the tree may use; by default all.
    grow_by : {"nuisance", "estimator"}
        Whose :math:`\hat\tau` the tree is grown on: nuisances like the estimator's own, cross-fitted on the first half
        alone (seconds), or the whole estimator fitted anew on it. An estimator that was fitted on other rows altogether
        is asked as it is.
    halves : Halves, optional
        Of `split_in_halves` with the same rows, weights, clusters and propensities, so that several trees cost one fit.
    random_state : int, default 0
        Of the halves, which do not depend on the order of the rows.

    Returns
    -------
    SubgroupTree

    Raises
    ------
    ValueError
        As `estimate_ate`; if a half holds fewer than 4 rows of an arm, or a column is unknown.

    Notes
    -----
    The tree is scikit-learn's; without weights it is the one of EconML's ``SingleTreeCateInterpreter``, which takes
    none. Categories are split one level against all others. Missing numbers stand where their median stands, and the
    rule says so; where values are missing can be a split of its own. Another seed may give another tree: a subgroup
    that was found needs a new study to be confirmed.

    References
    ----------
    Athey & Imbens (2016), Recursive partitioning for heterogeneous causal effects, PNAS 113. Chernozhukov, Demirer,
    Duflo & Fernandez-Val (2018), NBER working paper 24678.

    Examples
    --------
    >>> print(subgroup_tree(est, X, y, treatment=arm).text)  # doctest: +SKIP
    """
    from sklearn.tree import DecisionTreeRegressor

    rows = {"sample_weight": sample_weight, "groups": groups, "propensity": propensity}
    if halves is None:
        halves = split_in_halves(est, X, y, treatment=treatment, grow_by=grow_by, random_state=random_state, **rows)
    check_halves(halves, X)
    sample, schema = halves.sample, halves.known.schema_
    t, c = contrast(sample.arms, treated, control)
    smallest = check_size(max_depth, min_leaf, int(halves.grow.sum()))
    features = columns_of_tree(schema, columns)
    cate = halves.mu[:, t] - halves.mu[:, c]
    if np.ptp(cate) <= 1e-5 * float(np.abs(halves.mu).max()):
        cate = np.full(len(cate), cate.mean())  # predictions of single precision: rounding is no subgroup
    grown = DecisionTreeRegressor(max_depth=max_depth, min_samples_leaf=smallest, random_state=random_state)
    grown.fit(halves.E[halves.grow][:, features], cate, sample_weight=sample.weight[halves.grow])
    tree = Tree.read(grown, features, schema, halves.E)

    def enough(tree: Tree, node: Node) -> bool:
        at = tree.apply(halves.E)
        sides = [side for side in (node.left, node.right) if tree.nodes[side].leaf]
        return all(
            np.count_nonzero(halves.value & (at == side) & (sample.arm == k)) >= 5 for side in sides for k in (t, c)
        )

    tree = tree.pruned(enough)
    at, rules = tree.apply(halves.E), tree.rules()
    order = [rules[k] for k in tree.leaves()]
    labels = pd.Series(pd.Categorical([rules[k] for k in at], categories=order, ordered=True), name="subgroup")
    ask: dict[str, Any] = {"treatment": treatment, "treated": sample.arms[t], "control": sample.arms[c], "level": level}
    ask |= {"scale": scale, "groups": groups, "propensity": propensity}
    weight = np.where(halves.value, sample.weight, 0.0)
    overall = estimate_ate(halves.known, X, y, sample_weight=weight, **ask)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Weak overlap")  # said once, of everyone
        each = estimate_gate(halves.known, X, y, by=labels, sample_weight=weight, **ask)
    sizes = int(halves.grow.sum()), int(halves.value.sum())
    return SubgroupTree(tree, each, overall, schema, smallest, *sizes, halves.source)
