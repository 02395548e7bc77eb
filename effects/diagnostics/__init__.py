"""Is the fit to be believed: checks of predicted distributions and effects on rows that the models had not seen.

`check_calibration`, `coverage_by` and `crps_decomposition` ask about the distributions of the outcome,
`benefit_calibration`, `c_for_benefit` and `rate` about the effects. Each takes ``(est, X, y, *, treatment, ...)`` and
gives a `Check`. On rows of the fit they use what was held out there, on other rows the estimator's predictions.
"""

from __future__ import annotations

from effects.diagnostics.benefit import benefit_calibration, c_for_benefit
from effects.diagnostics.evidence import Check
from effects.diagnostics.laws import check_calibration, coverage_by, crps_decomposition, pit_values
from effects.diagnostics.ranking import rate

__all__ = [
    "Check",
    "benefit_calibration",
    "c_for_benefit",
    "check_calibration",
    "coverage_by",
    "crps_decomposition",
    "pit_values",
    "rate",
]
