"""For whom does it work: effects in subgroups, what modifies them, and subgroups that a tree finds.

`subgroup_effects` answers for subgroups that were named beforehand, `subgroup_tree` looks for some on one half of the
rows and answers on the other, `best_linear_projection` asks how the effect goes along with covariates: all three rest
on doubly robust scores. `modifier_importance` and `partial_dependence` describe the effects that the model predicts.
"""

from __future__ import annotations

from effects.heterogeneity.modifiers import (
    Importance,
    PartialDependence,
    best_linear_projection,
    modifier_importance,
    partial_dependence,
)
from effects.heterogeneity.subgroups import Subgroups, subgroup_effects
from effects.heterogeneity.tree import Halves, SubgroupTree, split_in_halves, subgroup_tree

__all__ = [
    "Halves",
    "Importance",
    "PartialDependence",
    "SubgroupTree",
    "Subgroups",
    "best_linear_projection",
    "modifier_importance",
    "partial_dependence",
    "split_in_halves",
    "subgroup_effects",
    "subgroup_tree",
]
