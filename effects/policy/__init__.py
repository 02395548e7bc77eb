"""Whom to treat, and what that is worth.

`treat_if` makes a `Policy` from predicted outcomes (by their mean, by the chance of a good one, or by how bad a bad one
is), `policy_tree` a simple one by rules; `policy_value` says what a policy is worth against treating all and treating
none, `decision_curve` at which cost of treatment the model is worth using. Values are doubly robust averages with
errors from influence functions; `effects.metrics.policy_value` is the same average for arrays.
"""

from __future__ import annotations

from effects.policy.rules import Policy, treat_if
from effects.policy.tree import PolicyTree, policy_tree
from effects.policy.values import DecisionCurve, PolicyValue, decision_curve, policy_value

__all__ = [
    "DecisionCurve",
    "Policy",
    "PolicyTree",
    "PolicyValue",
    "decision_curve",
    "policy_tree",
    "policy_value",
    "treat_if",
]
