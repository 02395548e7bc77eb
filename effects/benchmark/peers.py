"""Other libraries behind the benchmark's interface, as their own documentation would have them used.

===================  ==============================================================================  =================
name                 what it is                                                                      pip install
===================  ==============================================================================  =================
econml_t, econml_x   T- and X-learner on scikit-learn's gradient boosting                            econml
econml_dr            DR-learner with EconML's defaults (linear final model, its intervals)           econml
econml_dr_boosting   DR-learner on boosting, propensities bounded by 0.05                            econml
econml_forest        CausalForestDML with EconML's defaults                                          econml
stochtree_bart       BART, one model an arm: 10 grow-from-root, 1,000 MCMC iterations                stochtree
stochtree_bcf        BCF, as many iterations, propensity estimated by stochtree                      stochtree
catenets_tarnet      CATENets' TARNet in torch with batch_norm=False                                 catenets
catenets_dragonnet   its DragonNet, likewise                                                         catenets
pyro_cevae           Pyro's CEVAE on the standardised outcome                                        pyro-ppl
ngboost_per_arm      NGBoost's normal laws, one model an arm                                         ngboost
gaussian_ensemble    deep ensemble of normal laws (Lakshminarayanan et al. 2017) on our networks     (nothing)
tabpfn               TabPFN, one model an arm; its weights in the folder EFFECTS_WEIGHTS             tabpfn
causalpfn            CausalPFN; its weights in the folder EFFECTS_WEIGHTS                            causalpfn
===================  ==============================================================================  =================

Two departures from a library's defaults, both in its favour: CATENets' batch normalisation (BN), on by default, makes
its error many times larger on IHDP (8.1 against 0.6, five replications), and Pyro's CEVAE does not scale outcomes,
which costs it much where their unit is not of the order of 1. All see the table as `effects.Schema` encodes it.

GANITE is not among them: the authors' code is written for TensorFlow 1, and no maintained package has it.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import ndtr

from effects.benchmark.methods import Array, Average, Method, Prediction, chosen_params
from effects.datasets import CausalDataset
from effects.nn.scale import normal_nodes
from effects.outcomes import PotentialOutcomes
from effects.schema import Schema

_NODES = 20  # normal quantiles a posterior draw's law is carried by
_MEMBERS = 100  # posterior draws that carry the laws; effects use all of them


class Peer(Method):
    """A method of another library, on the table as our schema encodes it.

    A subclass says which package it needs, its settings, and writes `_fit` and `_predict` on arrays. Anything but a
    continuous outcome in two arms is only given to those that say so.
    """

    package: ClassVar[str] = ""
    pip: ClassVar[str] = ""
    label: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]] = ("continuous", "binary")
    max_arms: ClassVar[int | None] = 2
    modules: ClassVar[tuple[str, ...]] = ()
    weights: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, params: Mapping[str, Any], seed: int) -> None:
        self.params = chosen_params(self.defaults, params, type(self).__name__)
        self.seed = seed

    @classmethod
    def missing(cls) -> str:
        """What is not at hand, and the cure; "" if everything is."""
        if cls.package and find_spec(cls.package) is None:
            return f'{cls.label} needs {cls.package}: pip install "{cls.pip}"'
        absent = [pattern.replace("|", " or ") for pattern in cls.weights if weights_file(pattern) is None]
        if absent:
            folder = os.environ.get("EFFECTS_WEIGHTS")
            where = f"the folder EFFECTS_WEIGHTS={folder} has no such file" if folder else "EFFECTS_WEIGHTS is not set"
            return (
                f"{cls.label} needs its weights on this disk, {' and '.join(absent)} ({where}): download them from "
                "their publisher, and set the variable EFFECTS_WEIGHTS to their folder"
            )
        return ""

    def load(self) -> None:
        for module in self.modules or (self.package,):
            if module:
                import_module(module)

    def fit(self, data: CausalDataset) -> Peer:
        self.kind, self.arms = data.kind, data.arms
        self.schema = Schema.learn(data.X, data.y, data.treatment, outcome=data.kind, control=data.arms[0])
        arm, y = self.schema.encode_treatment(data.treatment), self.schema.encode_outcome(data.y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries that we do not maintain
            self._fit(self.schema.encode(data.X).astype(np.float64), arm, np.asarray(y, dtype=np.float64))
        return self

    def predict(self, X: pd.DataFrame, level: float) -> Prediction:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._predict(self.schema.encode(X).astype(np.float64), level)

    @abstractmethod
    def _fit(self, E: Array, a: Array, y: Array) -> None: ...

    @abstractmethod
    def _predict(self, E: Array, level: float) -> Prediction: ...

    def _laws(self, draws: Array, means: Array) -> PotentialOutcomes:
        return PotentialOutcomes(draws, arms=self.arms, kind=self.kind, means=means)

    def _risks(self, risk: Array) -> PotentialOutcomes:
        """Laws of a binary outcome from probabilities (n_members, n, n_arms)."""
        risk = np.clip(risk, 0.0, 1.0)  # by rounding, or by a regression that knows of no bounds
        return self._laws(risk[:, None], risk)

    def _normal(self, mean: Array, sd: Array) -> PotentialOutcomes:
        """Normal laws from their means and standard deviations (n_members, n, n_arms)."""
        nodes = normal_nodes(_NODES if len(mean) > 1 else 10 * _NODES)[:, None, None]
        return self._laws(mean[:, None] + sd[:, None] * nodes, mean)


def weights_file(patterns: str) -> Path | None:
    """The newest version's file in the folder that the variable EFFECTS_WEIGHTS names, its default one if it says so.

    Parameters
    ----------
    patterns : str
        Of file names, the first that any file has, as in ``"model*regressor*|model*.safetensors"``.
    """
    folder = os.environ.get("EFFECTS_WEIGHTS")

    def rank(path: Path) -> tuple[list[int], bool, str]:
        version = re.search(r"v(\d+(?:\.\d+)*)", path.name)
        return [int(n) for n in version[1].split(".")] if version else [], "default" in path.name, path.name

    for pattern in patterns.split("|") if folder else ():
        if found := list(Path(str(folder)).expanduser().glob(pattern)):
            return max(found, key=rank)
    return None


# ----------------------------------------------------------------------------------------------------------- EconML


class _EconML(Peer):
    package, pip = "econml", "econml"
    modules = ("econml.metalearners", "econml.dr", "econml.dml")
    inference: ClassVar[str | None] = "auto"

    @abstractmethod
    def _make(self, binary: bool) -> Any: ...

    def _fit(self, E: Array, a: Array, y: Array) -> None:
        self.model = self._make(self.kind == "binary")
        self.model.fit(y, a, X=E, inference=self.inference)

    def _predict(self, E: Array, level: float) -> Prediction:
        cate = np.ravel(self.model.effect(E, T0=0, T1=1))
        if self.inference is None:
            return Prediction(cate)
        lower, upper = (np.ravel(one) for one in self.model.effect_interval(E, T0=0, T1=1, alpha=1 - level))
        return Prediction(cate, (lower, upper))


class EconMLT(_EconML):
    label = "T-learner (EconML)"
    defaults: ClassVar[Mapping[str, Any]] = {"n_estimators": 100}
    inference = None  # it has only the bootstrap, a hundred fits
    learner: ClassVar[str] = "TLearner"

    def _make(self, binary: bool) -> Any:
        from econml import metalearners
        from sklearn.ensemble import GradientBoostingRegressor

        model = GradientBoostingRegressor(random_state=self.seed, **self.params)
        return getattr(metalearners, self.learner)(models=model)


class EconMLX(EconMLT):
    label = "X-learner (EconML)"
    learner = "XLearner"


class EconMLDR(_EconML):
    label = "DR-learner (EconML)"

    def _make(self, binary: bool) -> Any:
        from econml.dr import DRLearner

        return DRLearner(discrete_outcome=binary, random_state=self.seed)


class EconMLDRBoosting(_EconML):
    label = "DR-learner, boosting (EconML)"
    inference = None  # a boosted final model has none, and EconML says so when it is asked
    defaults: ClassVar[Mapping[str, Any]] = {"min_propensity": 0.05}

    def _make(self, binary: bool) -> Any:
        from econml.dr import DRLearner
        from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

        seed = {"random_state": self.seed}
        outcome = GradientBoostingClassifier if binary else GradientBoostingRegressor
        return DRLearner(
            model_propensity=GradientBoostingClassifier(**seed),
            model_regression=outcome(**seed),
            model_final=GradientBoostingRegressor(**seed),
            discrete_outcome=binary,
            **self.params,
            **seed,
        )


class EconMLForest(_EconML):
    label = "CausalForestDML (EconML)"
    defaults: ClassVar[Mapping[str, Any]] = {"n_estimators": 100}

    def _make(self, binary: bool) -> Any:
        from econml.dml import CausalForestDML

        return CausalForestDML(
            discrete_treatment=True, discrete_outcome=binary, n_jobs=1, random_state=self.seed, **self.params
        )

    def averages(self, data: CausalDataset, level: float) -> dict[str, Average]:
        """Its doubly robust averages over the rows that it was fitted on."""
        z, found = float(stats.norm.ppf(0.5 + level / 2)), {}
        pairs = {
            "ate": (self.model.ate_, self.model.ate_stderr_),
            "att": (self.model.att_(T=1), self.model.att_stderr_(T=1)),
        }
        for name, (value, error) in pairs.items():
            mean, se = float(np.ravel(value)[0]), float(np.ravel(error)[0])
            found[name] = (mean, se, mean - z * se, mean + z * se)
        return found


# --------------------------------------------------------------------------------------------------------- stochtree


class _Trees(Peer):
    """What BART and BCF share: draws of both arms' regressions, (n, n_draws, 2), and of the noise's sd."""

    package, pip = "stochtree", "stochtree"
    defaults: ClassVar[Mapping[str, Any]] = {"num_gfr": 10, "num_mcmc": 1000}

    @abstractmethod
    def _regressions(self, E: Array) -> tuple[Array, Array]:
        """(n, n_draws, 2) on the linear scale, and (n_draws, 2)."""

    def _settings(self) -> dict[str, Any]:
        from stochtree import OutcomeModel

        general: dict[str, Any] = {"random_seed": self.seed}
        if self.kind == "binary":
            general |= {"outcome_model": OutcomeModel(outcome="binary", link="probit"), "sample_sigma2_global": False}
        return {**self.params, "num_burnin": 0, "general_params": general}

    def _noise(self, model: Any, n_draws: int) -> Array:
        return np.ones(n_draws) if self.kind == "binary" else np.sqrt(np.asarray(model.global_var_samples))

    def _predict(self, E: Array, level: float) -> Prediction:
        regression, noise = self._regressions(E)
        if self.kind == "binary":
            regression = ndtr(regression)
        cate = regression[..., 1] - regression[..., 0]
        tail = (1 - level) / 2
        lower, upper = np.quantile(cate, [tail, 1 - tail], axis=1)
        kept = np.linspace(0, cate.shape[1] - 1, min(_MEMBERS, cate.shape[1])).round().astype(int)
        members = regression[:, kept].transpose(1, 0, 2)
        laws = self._risks(members) if self.kind == "binary" else self._normal(members, noise[kept, None])
        return Prediction(cate.mean(axis=1), (lower, upper), laws)

    def averages(self, data: CausalDataset, level: float) -> dict[str, Average]:
        """The posterior of the sample's average effect."""
        regression, _ = self._regressions(self.schema.encode(data.X).astype(np.float64))
        if self.kind == "binary":
            regression = ndtr(regression)
        draws, tail = (regression[..., 1] - regression[..., 0]).mean(axis=0), (1 - level) / 2
        lower, upper = np.quantile(draws, [tail, 1 - tail])
        return {"ate": (float(draws.mean()), float(draws.std()), float(lower), float(upper))}


class StochtreeBART(_Trees):
    label = "BART per arm (stochtree)"

    def _fit(self, E: Array, a: Array, y: Array) -> None:
        import stochtree

        self.models = [stochtree.BARTModel() for _ in range(2)]
        for k, model in enumerate(self.models):
            model.sample(X_train=E[a == k], y_train=y[a == k], **self._settings())

    def _regressions(self, E: Array) -> tuple[Array, Array]:
        draws = np.stack([model.predict(E, terms="y_hat") for model in self.models], axis=2)
        return draws, np.stack([self._noise(model, draws.shape[1]) for model in self.models], axis=1)


class StochtreeBCF(_Trees):
    label = "BCF (stochtree)"

    def _fit(self, E: Array, a: Array, y: Array) -> None:
        import stochtree

        self.model = stochtree.BCFModel()
        self.model.sample(X_train=E, Z_train=a.astype(np.float64), y_train=y, **self._settings())

    def _regressions(self, E: Array) -> tuple[Array, Array]:
        arms = [self.model.predict(E, np.full(len(E), float(k)), terms="y_hat") for k in (0, 1)]
        draws = np.stack(arms, axis=2)
        return draws, np.repeat(self._noise(self.model, draws.shape[1])[:, None], 2, axis=1)


# ----------------------------------------------------------------------------------------------------------- networks


def _seed_torch(seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed)  # CATENets shuffles with numpy's global generator


class _CATENets(Peer):
    package, pip = "catenets", "catenets"
    modules = ("catenets.models.torch",)
    defaults: ClassVar[Mapping[str, Any]] = {"batch_norm": False}
    network: ClassVar[str] = ""

    def _fit(self, E: Array, a: Array, y: Array) -> None:
        import torch
        from catenets.models import torch as networks

        _seed_torch(self.seed)
        binary = self.kind == "binary"
        make = getattr(networks, self.network)
        self.model = make(E.shape[1], binary_y=binary, seed=self.seed, n_iter_print=10**9, **self.params)
        self.model.fit(*(torch.from_numpy(one.astype(np.float32)) for one in (E, y, a)))

    def _predict(self, E: Array, level: float) -> Prediction:
        import torch

        with torch.no_grad():
            cate = self.model.predict(torch.from_numpy(E.astype(np.float32)))
        return Prediction(np.ravel(cate.cpu().numpy()).astype(np.float64))


class CATENetsTARNet(_CATENets):
    label, network = "TARNet (CATENets, no BN)", "TARNet"


class CATENetsDragonNet(_CATENets):
    label, network = "DragonNet (CATENets, no BN)", "DragonNet"


class PyroCEVAE(Peer):
    label, package, pip = "CEVAE (Pyro)", "pyro", "pyro-ppl"
    modules = ("pyro.contrib.cevae",)
    defaults: ClassVar[Mapping[str, Any]] = {"num_epochs": 100, "batch_size": 100}

    def _fit(self, E: Array, a: Array, y: Array) -> None:
        import pyro
        import torch
        from pyro.contrib.cevae import CEVAE

        binary = self.kind == "binary"
        self.scale = 1.0 if binary else float(y.std()) or 1.0
        z = y if binary else (y - y.mean()) / self.scale
        logging.getLogger("pyro.contrib.cevae").setLevel(logging.WARNING)
        pyro.clear_param_store()
        pyro.set_rng_seed(self.seed)
        self.model = CEVAE(feature_dim=E.shape[1], outcome_dist="bernoulli" if binary else "normal")
        x, t, outcome = (torch.from_numpy(one.astype(np.float32)) for one in (E, a, z))
        self.model.fit(x, t, outcome, log_every=0, **self.params)

    def _predict(self, E: Array, level: float) -> Prediction:
        import pyro
        import torch

        pyro.set_rng_seed(self.seed)
        with torch.no_grad():
            cate = self.model.ite(torch.from_numpy(E.astype(np.float32)), batch_size=500)
        return Prediction(self.scale * np.ravel(cate.numpy()).astype(np.float64))


class GaussianEnsemble(Peer):
    """Sixteen two-headed networks, trained as `DiffPO` trains its own but on the covariates alone; their mixture by
    its two moments."""

    label, kinds, max_arms = "Gaussian ensemble", ("continuous",), None
    defaults: ClassVar[Mapping[str, Any]] = {"n_networks": 16}

    def _fit(self, E: Array, a: Array, y: Array) -> None:
        import torch

        from effects.nn.means import MeansConfig, fit_means
        from effects.nn.training import Settings

        self.centre, self.spread = float(y.mean()), float(y.std())
        inputs = torch.from_numpy(E.astype(np.float32))
        target = torch.from_numpy(((y - self.centre) / self.spread).astype(np.float32))
        blank = torch.zeros(len(inputs), 1)  # in place of nuisances
        arm, weight, n_arms = torch.from_numpy(a), torch.ones(len(inputs)), self.schema.n_arms
        config, settings = MeansConfig(self.params["n_networks"]), Settings(80, 128, 13 + self.seed)
        self.means, _ = fit_means(
            torch.cat([inputs, blank], 1), blank, arm, target, weight, n_arms, False, config, settings
        )

    def _predict(self, E: Array, level: float) -> Prediction:
        import torch

        with torch.no_grad():
            new = torch.from_numpy(E.astype(np.float32))
            mean, log_sd = self.means.network(torch.cat([new, new[:, :1] * 0], 1)).double().unbind(-1)
        variance = log_sd.clamp(-5, 3).mul(2).exp().mean(0) + mean.var(0, unbiased=False)
        location = (self.centre + self.spread * mean.mean(0).numpy())[None]
        laws = self._normal(location, (self.spread * variance.sqrt().numpy())[None])
        cate = location[0, :, 1:] - location[0, :, :1]
        return Prediction(cate[:, 0] if cate.shape[1] == 1 else cate, None, laws)


# --------------------------------------------------------------------------------------------------- one model an arm


class NGBoostPerArm(Peer):
    label, package, pip, max_arms = "NGBoost per arm", "ngboost", "ngboost", None

    def _fit(self, E: Array, a: Array, y: Array) -> None:
        from ngboost import NGBClassifier, NGBRegressor

        binary = self.kind == "binary"
        make = NGBClassifier if binary else NGBRegressor
        np.random.seed(self.seed)  # its trees choose between equal splits by numpy's global generator
        self.models = []
        for k in range(self.schema.n_arms):
            target = y[a == k].astype(int) if binary else y[a == k]
            self.models.append(make(verbose=False, random_state=self.seed).fit(E[a == k], target))

    def _predict(self, E: Array, level: float) -> Prediction:
        if self.kind == "binary":
            risk = np.stack([model.predict_proba(E)[:, 1] for model in self.models], axis=1)
            return Prediction(_contrast(risk), None, self._risks(risk[None]))
        laws = [model.pred_dist(E).params for model in self.models]
        mean, sd = (np.stack([law[key] for law in laws], axis=1) for key in ("loc", "scale"))
        return Prediction(_contrast(mean), None, self._normal(mean[None], sd[None]))


class TabPFN(Peer):
    """One in-context model an arm. Its weights are under a licence of their own: a file a task, or one for both."""

    label, package, pip, max_arms = "TabPFN per arm", "tabpfn", "tabpfn", None
    weights = ("tabpfn*regressor*|tabpfn*.safetensors", "tabpfn*classifier*|tabpfn*.safetensors")
    defaults: ClassVar[Mapping[str, Any]] = {"n_estimators": 8}

    def _fit(self, E: Array, a: Array, y: Array) -> None:
        from tabpfn import TabPFNClassifier, TabPFNRegressor

        binary = self.kind == "binary"
        make, pattern = (TabPFNClassifier if binary else TabPFNRegressor), self.weights[int(binary)]
        settings = {"model_path": str(weights_file(pattern)), "device": "cpu", "random_state": self.seed}
        self.models = []
        for k in range(self.schema.n_arms):
            target = y[a == k].astype(int) if binary else y[a == k]
            model = make(ignore_pretraining_limits=True, **settings, **self.params)
            self.models.append(model.fit(E[a == k], target))

    def _predict(self, E: Array, level: float) -> Prediction:
        if self.kind == "binary":
            risk = np.stack([model.predict_proba(E)[:, 1] for model in self.models], axis=1)
            return Prediction(_contrast(risk), None, self._risks(risk[None]))
        levels = [float(q) for q in (np.arange(99) + 0.5) / 99]
        found = [model.predict(E, output_type="full", quantiles=levels) for model in self.models]
        mean = np.stack([np.asarray(one["mean"]) for one in found], axis=1)
        draws = np.stack([np.asarray(one["quantiles"]) for one in found], axis=2)
        return Prediction(_contrast(mean), None, self._laws(draws[None], mean[None]))


class CausalPFN(Peer):
    label, package, pip = "CausalPFN", "causalpfn", "causalpfn"
    weights = ("causalpfn*.pt",)

    def _fit(self, E: Array, a: Array, y: Array) -> None:
        from causalpfn import CATEEstimator

        _seed_torch(self.seed)
        self.model = CATEEstimator(device="cpu", model_path=str(weights_file(self.weights[0])), verbose=False)
        self.model.fit(E.astype(np.float32), a.astype(np.float32), y.astype(np.float32))

    def _predict(self, E: Array, level: float) -> Prediction:
        _seed_torch(self.seed)  # its intervals are drawn
        X = E.astype(np.float32)
        limits = self.model.estimate_cate_CI(X, alpha=1 - level)
        cate, lower, upper = (
            np.ravel(one).astype(np.float64)
            for one in (self.model.estimate_cate(X), limits["lower_bound"], limits["upper_bound"])
        )
        return Prediction(cate, (lower, upper))


def _contrast(mean: Array) -> Array:
    """Effects against the first arm: (n,) for two arms, else (n, n_arms - 1)."""
    effects = mean[:, 1:] - mean[:, :1]
    return effects[:, 0] if effects.shape[1] == 1 else effects


#: The peers by the name that a shell knows them by, in the order in which they are shown.
PEERS: dict[str, type[Peer]] = {
    "econml_t": EconMLT,
    "econml_x": EconMLX,
    "econml_dr": EconMLDR,
    "econml_dr_boosting": EconMLDRBoosting,
    "econml_forest": EconMLForest,
    "stochtree_bart": StochtreeBART,
    "stochtree_bcf": StochtreeBCF,
    "catenets_tarnet": CATENetsTARNet,
    "catenets_dragonnet": CATENetsDragonNet,
    "pyro_cevae": PyroCEVAE,
    "ngboost_per_arm": NGBoostPerArm,
    "gaussian_ensemble": GaussianEnsemble,
    "tabpfn": TabPFN,
    "causalpfn": CausalPFN,
}
