"""Is the fit to be believed: checks of predicted distributions and effects on rows that the models had not seen.

`check_calibration`, `coverage_by` and `crps_decomposition` ask about the distributions of the outcome,
`benefit_calibration`, `c_for_benefit` and `rate` about the effects. Each takes ``(est, X, y, *, treatment, ...)`` and
gives a `Check`. On rows of the fit they use what was held out there, on other rows the estimator's predictions.

`check_overlap`, `check_balance`, `check_missingness` and `check_outcome_model` ask whether the study can bear an
estimate (`trim` and `baseline_table` say who is in it), and `placebo_treatment`, `placebo_outcome`,
`random_common_cause` and `subset_stability` do analyses whose answer is known. `run_checks` does all that apply.
"""

from __future__ import annotations

from effects.diagnostics.balance import baseline_table, check_balance, check_missingness
from effects.diagnostics.benefit import benefit_calibration, c_for_benefit
from effects.diagnostics.evidence import Check
from effects.diagnostics.laws import check_calibration, coverage_by, crps_decomposition, pit_values
from effects.diagnostics.means import check_outcome_model
from effects.diagnostics.overlap import Trimming, check_overlap, trim
from effects.diagnostics.ranking import rate
from effects.diagnostics.refutation import placebo_outcome, placebo_treatment, random_common_cause, subset_stability
from effects.diagnostics.suite import Checks, run_checks

__all__ = [
    "Check",
    "Checks",
    "Trimming",
    "baseline_table",
    "benefit_calibration",
    "c_for_benefit",
    "check_balance",
    "check_calibration",
    "check_missingness",
    "check_outcome_model",
    "check_overlap",
    "coverage_by",
    "crps_decomposition",
    "pit_values",
    "placebo_outcome",
    "placebo_treatment",
    "random_common_cause",
    "rate",
    "run_checks",
    "subset_stability",
    "trim",
]
