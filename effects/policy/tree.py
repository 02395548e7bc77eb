"""A policy by a few rules: EconML's policy tree, grown on one half of the rows and valued on the other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from effects.heterogeneity.tree import Halves, Node, Tree, check_halves, check_size, columns_of_tree, split_in_halves
from effects.individual import check_level
from effects.inference.sample import CrossFitting
from effects.policy.rules import Policy, competitors, decoded, read_costs
from effects.policy.values import PolicyValue, valued
from effects.schema import Schema


@dataclass(frozen=True, eq=False)
class PolicyTree:
    """A policy that can be told in a few rules.

    Attributes
    ----------
    tree : Tree
        In the words of the user's columns.
    codes : dict of int to int
        The arm of each leaf, by its place among the tree's nodes.
    value : PolicyValue
        Of the policy in the half that had no part in the tree; its ``policy`` is for all rows.
    table : DataFrame
        One row a leaf, by its rule: ``arm, n`` and ``share`` (of the half that values).
    schema : Schema
        How `apply` reads a table.
    min_leaf, n_grown, n_valued : int
    source : str
        Whose scores the tree was grown on.
    """

    tree: Tree = field(repr=False)
    codes: dict[int, int] = field(repr=False)
    value: PolicyValue
    table: pd.DataFrame = field(repr=False)
    schema: Schema = field(repr=False)
    min_leaf: int
    n_grown: int
    n_valued: int
    source: str

    @property
    def policy(self) -> Policy:
        """The policy for all rows, those that it was grown on included."""
        return self.value.policy

    def apply(self, X: Any) -> NDArray[Any]:
        """The arm of each row of a table, (n_samples,)."""
        at = self.tree.apply(self.schema.encode(X))
        return decoded(self.schema.arms, np.array([self.codes[k] for k in at], dtype=np.int64))

    def to_frame(self) -> pd.DataFrame:
        """One row a leaf."""
        return self.table.copy()

    def export_text(self) -> str:
        """The tree as indented lines, in the user's columns and units."""
        lines: list[str] = []

        def walk(k: int, depth: int) -> None:
            node = self.tree.nodes[k]
            if node.leaf:
                lines.append(f"{'    ' * depth}give {self.schema.arms[self.codes[k]]}")
                return
            for side, below in enumerate((node.left, node.right)):
                lines.append(f"{'    ' * depth}if {node.words[side]}:")
                walk(below, depth + 1)

        walk(0, 0)
        return "\n".join(lines)

    @property
    def text(self) -> str:
        """The tree, how it was made, and what it is worth."""
        made = (
            f"Grown on {self.n_grown} rows (scores by {self.source}; at least {self.min_leaf} rows a leaf), valued on "
            f"the {self.n_valued} others."
        )
        return "\n".join([self.export_text(), made, self.value.text])

    def __str__(self) -> str:
        return self.text


def policy_tree(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    max_depth: int = 2,
    min_leaf: int | None = None,
    columns: Sequence[Hashable] | None = None,
    cost: float | Mapping[Hashable, float] = 0.0,
    higher_is_better: bool = True,
    treated: Hashable | None = None,
    control: Hashable | None = None,
    grow_by: str = "nuisance",
    halves: Halves | None = None,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    level: float = 0.95,
    random_state: int = 0,
) -> PolicyTree:
    r"""The shallow tree of rules that gains most, learnt on one half of the rows and valued on the other.

    EconML's ``PolicyTree`` looks for splits that maximise
    :math:`\sum_i s\, \phi_{\pi(x_i)}(i) - \text{cost}_{\pi(x_i)}` over AIPW scores of the first half (Athey & Wager
    2021), from nuisances of that half alone; greedily, one split at a time. The value comes from the second half, so
    that it is not the best of many looks at the same rows.

    Parameters
    ----------
    est, X, y, treatment, sample_weight, groups, propensity, level
        As in `effects.inference.estimate_ate`. Whole clusters go to one half.
    max_depth, min_leaf, columns, grow_by, halves, random_state
        As in `effects.heterogeneity.subgroup_tree`.
    cost : float, or mapping of arm to float
        Of every arm but the control, or of each, in the outcome's unit.
    higher_is_better : bool, default True
    treated, control : arm labels, optional
        With `treated`, this arm or the control; without, all arms compete.

    Returns
    -------
    PolicyTree

    Raises
    ------
    ValueError
        As `subgroup_tree`.

    Notes
    -----
    EconML's own honest splitting is off: the second half is all that values the tree. Leaves side by side that give the
    same arm are joined.

    References
    ----------
    Athey & Wager (2021), Policy learning with observational data, Econometrica 89. Zhou, Athey & Wager (2023), Offline
    multi-action policy learning, Operations Research 71.

    Examples
    --------
    >>> print(policy_tree(est, X, y, treatment=arm, columns=["age", "sex"]).export_text())  # doctest: +SKIP
    """
    from econml.policy import PolicyTree as Grown

    check_level(level)
    rows = {"sample_weight": sample_weight, "groups": groups, "propensity": propensity}
    if halves is None:
        halves = split_in_halves(est, X, y, treatment=treatment, grow_by=grow_by, random_state=random_state, **rows)
    check_halves(halves, X)
    sample, schema = halves.sample, halves.known.schema_
    among = competitors(sample.arms, treated, control)
    costs = read_costs(cost, sample.arms, among[0])
    smallest = check_size(max_depth, min_leaf, int(halves.grow.sum()))
    features = columns_of_tree(schema, columns)
    reward = ((1.0 if higher_is_better else -1.0) * halves.scores() - costs)[:, among]
    settings: dict[str, Any] = {"max_depth": max_depth, "min_samples_leaf": smallest, "random_state": random_state}
    grown = Grown(honest=False, min_samples_split=2 * smallest, min_balancedness_tol=0.5, **settings)
    # scores against the control: the arms' common part moves no decision, and a large one would cost precision
    weight = sample.weight[halves.grow]
    inside = halves.E[halves.grow][:, features].astype(np.float64)
    grown.fit(inside, reward - reward[:, :1], sample_weight=weight)
    tree = Tree.read(grown, features, schema, halves.E)
    codes = _best(tree, halves.E[halves.grow], reward, weight, among)

    def tells(tree: Tree, node: Node) -> bool:
        leaves = tree.nodes[node.left].leaf and tree.nodes[node.right].leaf
        return not leaves or codes[node.left] != codes[node.right]

    tree = tree.pruned(tells)
    codes = _best(tree, halves.E[halves.grow], reward, weight, among)
    at = tree.apply(halves.E)
    chosen = np.array([codes[k] for k in at], dtype=np.int64)
    index = X.index if isinstance(X, pd.DataFrame) else None
    n_rules = len(tree.leaves())
    sentence = f"a tree of {n_rules} rule{'s' if n_rules > 1 else ''}"
    policy = Policy(chosen, sample.arms, sentence, False, costs, higher_is_better, index=index)
    value = valued(sample, policy, halves.value, level)
    sizes = int(halves.grow.sum()), int(halves.value.sum())
    table = _table(tree, codes, at[halves.value], sample.arms)
    return PolicyTree(tree, codes, value, table, schema, smallest, *sizes, halves.source)


def _best(
    tree: Tree, E: NDArray[Any], reward: NDArray[np.float64], weight: NDArray[np.float64], among: list[int]
) -> dict[int, int]:
    """The arm with the largest reward below every node; the control where nothing is better."""
    leaf = tree.apply(E)
    codes = {}
    for k in range(len(tree.nodes)):
        here = np.isin(leaf, tree.leaves(k))
        codes[k] = among[int(np.argmax(weight[here] @ reward[here]))] if here.any() else among[0]
    return codes


def _table(tree: Tree, codes: dict[int, int], at: NDArray[np.int64], arms: tuple[Hashable, ...]) -> pd.DataFrame:
    rules, leaves = tree.rules(), tree.leaves()
    n = [int(np.count_nonzero(at == k)) for k in leaves]
    columns = {"arm": [arms[codes[k]] for k in leaves], "n": n, "share": np.array(n) / len(at)}
    return pd.DataFrame(columns, index=pd.Index([rules[k] for k in leaves], name="rule"))
