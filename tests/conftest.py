"""What every test shares: no windows, one thread a worker, and one small estimator."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores already; set before numpy and torch are loaded
    os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})

if TYPE_CHECKING:
    from effects import DiffPO


def small(**options: Any) -> DiffPO:
    """A DiffPO that trains in a fraction of a second: every part is there, none is good."""
    import torch

    from effects import DiffPO, Nuisance

    torch.set_num_threads(1)  # for tensors this small, threads only wait for each other
    settings: dict[str, Any] = {"n_networks": 4, "hidden": 16, "n_denoisers": 2, "epochs": 15, "random_state": 0}
    settings["nuisance"] = Nuisance(n_folds=2)
    return DiffPO(**{**settings, **options})
