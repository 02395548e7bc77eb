"""Distribution-free intervals around any estimator: for every Y(a) | x, and for the individual effect.

=================  ==================================================================================================
file               holds
=================  ==================================================================================================
``quantiles``      weighted conformal quantiles with the new row's mass at infinity, split and CV+
``laws``           predictive laws on nodes, conformity scores, the recalibration of quantile levels
``intervals``      intervals from calibration rows: of an outcome, of the individual effect
``outcomes``       `ConformalOutcomes`, the meta-estimator
=================  ==================================================================================================
"""

from __future__ import annotations

from effects.conformal.outcomes import ConformalOutcomes
from effects.conformal.quantiles import conformal_bounds, conformal_quantile, effective_sample_size

__all__ = ["ConformalOutcomes", "conformal_bounds", "conformal_quantile", "effective_sample_size"]
