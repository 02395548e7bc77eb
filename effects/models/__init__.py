"""The estimators: one file a family, listed by `all_estimators`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from effects.estimator import EffectEstimator

#: Where each estimator lives, in the order in which they are shown.
_ESTIMATORS = {
    "CausalStack": "effects.models.stack",
    "DiffPO": "effects.models.diffusion",
    "TARNet": "effects.models.representation",
    "CFRNet": "effects.models.representation",
    "DragonNet": "effects.models.representation",
    "GANITE": "effects.models.gan",
    "CEVAE": "effects.models.vae",
    "VCI": "effects.models.vci",
    "NOFLITE": "effects.models.flow",
    "INF": "effects.models.interventional",
    "BART": "effects.models.bart",
    "BCF": "effects.models.bart",
    "EconML": "effects.models.econml",
    "SLearner": "effects.models.regression",
    "TLearner": "effects.models.regression",
    "XLearner": "effects.models.two_stage",
    "DRLearner": "effects.models.two_stage",
    "ProbabilisticLearner": "effects.models.probabilistic",
    "GComputation": "effects.models.glm",
}
#: Estimators by their name in a shell or a plan.
SHORT_NAMES = {"auto": "CausalStack", **{name.lower(): name for name in _ESTIMATORS}}


def all_estimators() -> pd.DataFrame:
    """Every estimator of the package: what it is, and what it can do.

    Returns
    -------
    DataFrame, indexed by name
        ``class`` (the estimator's class), ``paper``, ``outcomes`` (tuple of the kinds it takes), ``arms`` ("2" or
        "2 or more") and ``exact_density`` (whether `log_prob` is exact).

    Examples
    --------
    >>> import effects
    >>> known = effects.all_estimators()
    >>> known.loc["DiffPO", "arms"]
    '2 or more'
    """
    import pandas as pd

    classes: dict[str, type[EffectEstimator]] = {
        name: getattr(import_module(home), name) for name, home in _ESTIMATORS.items()
    }
    rows = {
        name: {
            "class": cls,
            "paper": cls._paper,
            "outcomes": cls._kinds,
            "arms": "2 or more" if cls._max_arms is None else str(cls._max_arms),
            "exact_density": cls._exact_density,
        }
        for name, cls in classes.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")
