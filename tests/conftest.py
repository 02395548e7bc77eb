"""What every test shares: no windows, one thread a worker, and one small estimator."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores already; set before numpy and torch are loaded
    os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})

if TYPE_CHECKING:
    from effects import DiffPO, EffectEstimator

#: Constructor options with which each estimator of `effects.all_estimators()` fits a small table in no time.
QUICK: dict[str, dict[str, Any]] = {
    "DiffPO": {"n_networks": 4, "hidden": 16, "n_denoisers": 2, "epochs": 15},
}


def quick(name: str, **options: Any) -> EffectEstimator:
    """An estimator that trains in a fraction of a second: every part is there, none is good."""
    import torch

    import effects
    from effects import Nuisance

    torch.set_num_threads(1)  # for tensors this small, threads only wait for each other
    settings: dict[str, Any] = {**QUICK[name], "random_state": 0, "nuisance": Nuisance(n_folds=2)}
    return getattr(effects, name)(**{**settings, **options})


def small(**options: Any) -> DiffPO:
    """The quick DiffPO."""
    from effects import DiffPO

    est = quick("DiffPO", **options)
    assert isinstance(est, DiffPO)
    return est
