"""What every test shares: no windows, one thread a worker, and one small estimator."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores already; set before numpy and torch are loaded
    os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})

if TYPE_CHECKING:
    from effects import DiffPO, EffectEstimator

#: Constructor options with which each estimator of `effects.all_estimators()` fits a small table in no time.
QUICK: dict[str, dict[str, Any]] = {
    "CausalStack": {"n_members": 8, "n_draws": 16},
    "DiffPO": {"n_networks": 4, "hidden": 16, "n_denoisers": 2, "epochs": 15},
    "TARNet": {"n_networks": 4, "hidden": 16, "epochs": 12},
    "CFRNet": {"n_networks": 4, "hidden": 16, "epochs": 12},
    "DragonNet": {"n_networks": 4, "hidden": 16, "epochs": 12},
    "GANITE": {"n_networks": 4, "hidden": 16, "epochs": 8},
    "CEVAE": {"n_networks": 4, "hidden": 16, "latent_dim": 4, "epochs": 12},
    "VCI": {"n_networks": 4, "hidden": 16, "epochs": 12},
    "NOFLITE": {"n_networks": 4, "hidden": 16, "n_flows": 2, "epochs": 12},
    "INF": {"n_networks": 4, "hidden": 16, "n_flows": 2, "epochs": 12},
    "BART": {"n_trees": 20, "n_gfr": 5, "n_mcmc": 40, "n_members": 10, "n_draws": 16},
    "BCF": {"n_trees": 20, "n_effect_trees": 10, "n_gfr": 5, "n_mcmc": 40, "n_members": 10, "n_draws": 16},
    "EconML": {"n_trees": 40, "n_members": 8, "n_draws": 16},
    "SLearner": {"n_members": 5, "n_draws": 32},
    "TLearner": {"n_members": 3, "n_folds": 3, "n_draws": 32},
    "XLearner": {"n_members": 3, "n_folds": 3, "n_draws": 32},
    "DRLearner": {"n_members": 5, "n_draws": 32},
    "ProbabilisticLearner": {"n_members": 4, "n_draws": 32},
    "GComputation": {"errors": "bootstrap", "n_members": 8, "n_draws": 32},
}

if find_spec("stochtree") is None:  # the extra `bart`
    for extra in ("BART", "BCF"):
        del QUICK[extra]

#: Estimators that hold another library's objects: `save` refuses them, and says so.
UNSAVEABLE = {"EconML"}


def quick(name: str, **options: Any) -> EffectEstimator:
    """An estimator that trains in a fraction of a second: every part is there, none is good."""
    import torch

    import effects
    from effects import Nuisance

    torch.set_num_threads(1)  # for tensors this small, threads only wait for each other
    settings: dict[str, Any] = {**QUICK[name], "random_state": 0, "nuisance": Nuisance(n_folds=2)}
    if name == "CausalStack":
        settings["estimators"] = [(one, getattr(effects, one)(**QUICK[one])) for one in ("DiffPO", "TARNet")]
    return getattr(effects, name)(**{**settings, **options})


def small(**options: Any) -> DiffPO:
    """The quick DiffPO."""
    from effects import DiffPO

    est = quick("DiffPO", **options)
    assert isinstance(est, DiffPO)
    return est


def pytest_configure(config: pytest.Config) -> None:
    """xdist's own mark, for runs without it."""
    config.addinivalue_line("markers", "xdist_group(name): tests that share a worker")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``--dist loadgroup`` a file stays on one worker, so that its fixtures are fitted once; the contract's tests
    are shared out by estimator."""
    for item in items:
        name = item.path.name
        call = getattr(item, "callspec", None)
        if name == "test_contract.py" and call is not None:
            name = next((f"{name} {one}" for one in sorted(QUICK, key=len, reverse=True) if one in call.id), name)
        item.add_marker(pytest.mark.xdist_group(name))
