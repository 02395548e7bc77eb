"""How strong must hidden confounding be to change a conclusion: no data rule it out, but its strength can be named.

One file a word::

    evalue       e_value() -> EValue: in risk ratios, from a published number alone
    regression   robustness_value() of a linear regression: in partial R^2
    omitted      omitted_variable_bias() of AIPW: in shares of variance, beside observed covariates
    marginal     marginal_sensitivity(), cate_bounds(): in odds of treatment (Tan's marginal sensitivity model)
"""

from __future__ import annotations

from effects.sensitivity.evalue import EValue, e_value
from effects.sensitivity.marginal import MarginalSensitivity, cate_bounds, marginal_sensitivity
from effects.sensitivity.omitted import OmittedVariableBias, omitted_variable_bias
from effects.sensitivity.regression import RobustnessValue, robustness_value

__all__ = [
    "EValue",
    "MarginalSensitivity",
    "OmittedVariableBias",
    "RobustnessValue",
    "cate_bounds",
    "e_value",
    "marginal_sensitivity",
    "omitted_variable_bias",
    "robustness_value",
]
