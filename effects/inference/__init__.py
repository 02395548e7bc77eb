"""Population averages with honest standard errors, from held-out means and propensities.

The error of an average effect comes from the influence function of its estimator, never from outcome draws: draws
describe single patients, and their spread says nothing about how well a mean is known.

One file a word::

    checks       arrays, weights, clusters: checked, or an error that names them
    sample       the rows of an average, with what held-out models say of them
    scores       AIPW and TMLE scores for every population; the sandwich covariance
    averages     estimate_ate(), estimate_att(), estimate_atc(), estimate_ato(), outcome_means() -> Estimate
    subgroups    estimate_gate() -> Estimates
    quantiles    estimate_qte() -> Estimates
"""

from effects.inference.averages import estimate_atc, estimate_ate, estimate_ato, estimate_att, outcome_means
from effects.inference.checks import check_array, check_codes, check_probabilities, check_weights
from effects.inference.quantiles import estimate_qte
from effects.inference.scores import aipw_scores, mean_and_se
from effects.inference.subgroups import estimate_gate

__all__ = [
    "aipw_scores",
    "check_array",
    "check_codes",
    "check_probabilities",
    "check_weights",
    "estimate_atc",
    "estimate_ate",
    "estimate_ato",
    "estimate_att",
    "estimate_gate",
    "estimate_qte",
    "mean_and_se",
    "outcome_means",
]
