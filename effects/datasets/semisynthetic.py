"""Real covariates with simulated outcomes or assignment, so that the truth is known.

Every data set here has the arms 0 (control) and 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from effects.datasets.simulators import Normal
from effects.datasets.tables import Array, CausalDataset, arrays, chosen, double, fetch, packaged, registry


def simulated(
    name: str,
    X: pd.DataFrame,
    t: Array,
    yf: Array,
    ycf: Array | None = None,
    mu: tuple[Array, Array] | None = None,
    *,
    label: str = "",
    **more: Any,
) -> CausalDataset:
    """A data set of arms 0 and 1 from factual and counterfactual outcomes."""
    entry = registry()[name]
    t = t.astype(np.int64)
    integer = entry["kind"] != "continuous"
    if ycf is not None:
        more |= {"y0": double(np.where(t == 1, ycf, yf)), "y1": double(np.where(t == 1, yf, ycf))}
    return CausalDataset(
        X=X,
        y=pd.Series(yf.astype(np.int64 if integer else np.float64), name=entry["outcome"]),
        treatment=pd.Series(t, name=entry["treatment"]),
        name=name + label,
        kind=entry["kind"],
        arms=(0, 1),
        mu=None if mu is None else np.stack([double(mu[0]), double(mu[1])], axis=1),
        unit=entry["unit"],
        source=entry["source"],
        **more,
    )


_IHDP_SITES = {f"site{k}": site for k, site in enumerate(("ark", "ein", "har", "mia", "pen", "tex", "was"), start=1)}
_IHDP = ["bw", "b.head", "preterm", "birth.o", "nnhealth", "momage", "sex", "twin", "b.marr", "mom.lths", "mom.hs",
         "mom.scoll", "cig", "first", "booze", "drugs", "work.dur", "prenatal", *_IHDP_SITES.values()]  # fmt: skip


def load_ihdp(surface: str = "B", replication: int = 1) -> CausalDataset:
    r"""Infant Health and Development Program: real children, simulated outcomes, truth known; works offline.

    985 premature children of a randomised trial of home visits and child care; the treated children of non-white
    mothers are taken out, so that 747 remain and the assignment (139 treated) is no longer random. The outcomes are
    drawn from Hill's response surfaces, with Z the standardised covariates after a constant:

    - A: :math:`Y(0) \sim N(Z\beta, 1)`, :math:`Y(1) \sim N(Z\beta + 4, 1)`; each coefficient is 0, 1, 2, 3 or 4 with
      probability 0.5, 0.2, 0.15, 0.1, 0.05;
    - B: :math:`Y(0) \sim N(\exp((Z + W)\beta), 1)`, :math:`Y(1) \sim N(Z\beta - \omega, 1)`; each coefficient is 0
      with probability 0.6, else 0.1, 0.2, 0.3 or 0.4; W is 1/2 for each covariate and 0 for the constant;
      :math:`\omega` makes the average effect on the treated 4.

    Parameters
    ----------
    surface : {"B", "A"}
    replication : int, default 1
        1, 2, ...: seeds coefficients and noise. Not the replications of `load_ihdp_npci`: the same law, other draws.

    Returns
    -------
    CausalDataset
        X in raw units (bw in grams, momage in years); `mu`, `y0`, `y1` and `truth` (Gaussian with sd 1) are known.

    References
    ----------
    Hill (2011), Bayesian nonparametric modeling for causal inference, J. Comput. Graph. Stat. 20(1), section 4.
    The covariates are those that EconML ships.

    Examples
    --------
    >>> data = load_ihdp(replication=1)
    >>> data.X.shape, int(data.treatment.sum()), round(float(data.cate[data.treatment == 1].mean()), 6)
    ((747, 25), 139, 4.0)
    """
    surface = chosen("surface", surface, ("A", "B"))
    if isinstance(replication, bool) or not isinstance(replication, int | np.integer) or replication < 1:
        raise ValueError(f"replication must be 1, 2, 3, ...; got {replication!r}.")
    frame = packaged("econml", "data/ihdp/sim.csv").rename(columns=_IHDP_SITES)
    frame = frame[(frame["treat"] == 0) | (frame["momwhite"] == 1)].reset_index(drop=True)
    X, t = frame[_IHDP].copy(), frame["treat"].to_numpy()
    X["first"] += 1  # coded 1/2 in the published simulation
    Z = X.to_numpy(dtype=float)
    Z[:, :6] = (Z[:, :6] - Z[:, :6].mean(axis=0)) / Z[:, :6].std(axis=0, ddof=1)
    Z = np.column_stack([np.ones(len(Z)), Z])

    rng = np.random.default_rng([2011, "AB".index(surface), int(replication)])
    if surface == "A":
        beta = rng.choice([0.0, 1.0, 2.0, 3.0, 4.0], size=Z.shape[1], p=[0.5, 0.2, 0.15, 0.1, 0.05])
        mu0 = Z @ beta
        mu1 = mu0 + 4
    else:
        beta = rng.choice([0.0, 0.1, 0.2, 0.3, 0.4], size=Z.shape[1], p=[0.6, 0.1, 0.1, 0.1, 0.1])
        mu0 = np.exp(Z @ beta + 0.5 * beta[1:].sum())
        omega = np.mean((Z @ beta - mu0)[t == 1]) - 4
        mu1 = Z @ beta - omega
    mu = np.column_stack([mu0, mu1])
    y = mu + rng.standard_normal(mu.shape)
    return simulated(
        "ihdp", X, t, y[np.arange(len(t)), t], y[np.arange(len(t)), 1 - t], (mu0, mu1),
        label=f" {surface}, replication {replication}", truth=Normal(mu, np.ones_like(mu)),
    )  # fmt: skip


def load_ihdp_npci(replication: int = 1) -> CausalDataset:
    """IHDP as the field's benchmark has it (NPCI package, setting A), with the published test split as `test_mask`.

    Parameters
    ----------
    replication : int
        1 to 50, or 101 to 300. The split of the latter is not the published one (see `notes`).

    Returns
    -------
    CausalDataset
        747 x 25, covariates standardised as published; `mu`, `y0`, `y1` known, noise sd 1.

    References
    ----------
    Hill (2011), JCGS 20(1), response surface B; Shalit, Johansson & Sontag (2017), ICML.

    Examples
    --------
    >>> data = load_ihdp_npci(replication=3)  # doctest: +SKIP
    """
    numbers = [*range(1, 51), *range(101, 301)]
    if replication not in numbers:
        raise ValueError(f"replication must be 1 to 50 or 101 to 300; got {replication!r}.")
    published = replication <= 50
    z = arrays(fetch("ihdp_npci" if published else "ihdp_npci_101_300"))
    r = int(np.flatnonzero(z["rep_ids"] == replication)[0])
    split = "published test split" if published else "own test split (75 units drawn by the replication's number)"
    return simulated(
        "ihdp_npci", pd.DataFrame(z["X"], columns=z["x_names"].tolist()), z["t"], z["yf"][:, r], z["ycf"][:, r],
        (z["mu0"][:, r], z["mu1"][:, r]), label=f" {replication}", test_mask=z["test_mask"][:, r], notes=(split,),
    )  # fmt: skip


def _acic_covariates(z: Mapping[str, Array]) -> pd.DataFrame:
    """The 58 columns, categories decoded: level codes are in alphabetical order; a binary one has the levels 0, 1."""
    X = pd.DataFrame(double(z["X"]), columns=z["x_names"].tolist())
    for column in X.columns[z["x_categorical"]]:
        codes = X[column].astype(int).to_numpy()
        levels = ["0", "1"] if codes.max() == 1 else [chr(ord("A") + k) for k in range(codes.max() + 1)]
        X[column] = pd.Categorical.from_codes(codes, pd.Index(levels))
    return X


def load_acic2016(instance: int | None = None, *, setting: int | None = None, replication: int = 1) -> CausalDataset:
    """ACIC 2016 challenge: 4,802 pregnancies, 58 covariates (three categorical), simulated treatment and outcome.

    Parameters
    ----------
    instance : int, optional
        1 to 10: the ten that causallib ships and recent papers use (the default, 1). These can be downloaded.
    setting : int, optional
        Instead: an odd setting of the challenge's generator, 1 to 77, here with known propensities.
    replication : {1, 2}
        Of the setting.

    Returns
    -------
    CausalDataset
        `mu`, `y0`, `y1` known, with `setting` also `propensity`. Benchmarks split by ``data.split(instance + 1)``.

    References
    ----------
    Dorie, Hill, Shalit, Scott & Cervone (2019), Automated versus do-it-yourself methods, Statistical Science 34(1).

    Examples
    --------
    >>> data = load_acic2016(instance=4)  # doctest: +SKIP
    """
    if setting is not None:
        if instance is not None:
            raise ValueError("give instance= (causallib's ten) or setting= (the challenge's generator), not both.")
        setting = chosen("setting", setting, range(1, 78, 2))
        replication = chosen("replication", replication, (1, 2))
        z = arrays(fetch("acic2016_settings"))
        r = int(np.flatnonzero((z["setting"] == setting) & (z["rep_ids"] == replication))[0])
        p = double(z["propensity"][:, r])
        note = f"treatment model|root|overlap|response model|alignment|heterogeneity: {z['setting_params'][r]}"
        more: dict[str, Any] = {"propensity": np.stack([1 - p, p], axis=1), "notes": (note,)}
        name, label = "acic2016_settings", f" {setting}, replication {replication}"
    else:
        instance = chosen("instance", 1 if instance is None else instance, range(1, 11))
        name, label, more, r = "acic2016", f" {instance}", {}, instance - 1
        path = fetch("acic2016", part=f"zymu_{instance}.csv")
        if path.suffix == ".csv":
            return _acic2016_public(path, fetch("acic2016", part="x.csv"), label)
        z = arrays(path)
    t, yf, ycf, mu0, mu1 = (z[key][:, r] for key in ("t", "yf", "ycf", "mu0", "mu1"))
    return simulated(name, _acic_covariates(z), t, yf, ycf, (mu0, mu1), label=label, **more)


def _acic2016_public(outcomes: Path, covariates: Path, label: str) -> CausalDataset:
    """The same from the two public csv files."""
    z, X = pd.read_csv(outcomes), pd.read_csv(covariates)
    for column in X.columns:
        numeric = pd.api.types.is_numeric_dtype(X[column])
        X[column] = X[column].astype("float64" if numeric else "category")
    t, y0, y1 = (z[key].to_numpy() for key in ("z", "y0", "y1"))
    factual, other = np.where(t == 1, y1, y0), np.where(t == 1, y0, y1)
    return simulated("acic2016", X, t, factual, other, (z["mu0"].to_numpy(), z["mu1"].to_numpy()), label=label)


def load_acic2017(setting: int = 1, replication: int = 1) -> CausalDataset:
    """ACIC 2017 challenge: 4,302 pregnancies, strong confounding, small effects, errors of four kinds.

    Parameters
    ----------
    setting : int
        1, 4, 6, 7, 10, 11, 13, 16, 17, 20, 22, 23, 26, 27, 29 or 32: a balanced half of the 32.
    replication : int
        1 to 5.

    Returns
    -------
    CausalDataset
        The generator gives the conditional effect only: `cate` is known, `mu` is not. The challenge asked for the
        average effect on the treated.

    References
    ----------
    Hahn, Dorie & Murray (2018), Atlantic Causal Inference Conference data analysis challenge 2017.

    Examples
    --------
    >>> data = load_acic2017(setting=4, replication=2)  # doctest: +SKIP
    """
    setting = chosen("setting", setting, (1, 4, 6, 7, 10, 11, 13, 16, 17, 20, 22, 23, 26, 27, 29, 32))
    replication = chosen("replication", replication, range(1, 6))
    z = arrays(fetch("acic2017"))
    r = int(np.flatnonzero((z["setting"] == setting) & (z["rep_ids"] == replication))[0])
    return simulated(
        "acic2017", _acic_covariates(z), z["t"][:, r], z["yf"][:, r], tau=double(z["tau"][:, r]),
        label=f" {setting}, replication {replication}",
        notes=(f"errors|magnitude|noise|confounding: {z['setting_params'][r]}",),
    )  # fmt: skip


def load_realcause(sample: int = 0) -> CausalDataset:
    """RealCause LaLonde-PSID: 2,675 real covariates, outcomes from a generative model fitted to the real ones.

    Parameters
    ----------
    sample : int
        0 to 49.

    Returns
    -------
    CausalDataset
        `y0`, `y1` are this sample's draws. No noiseless surface is published: `mu` is the mean of y0, y1 over the 50
        samples, itself noisy (see `notes`).

    References
    ----------
    Neal, Huang & Raghupathi (2020), RealCause: realistic causal inference benchmarking, arXiv 2011.15007.

    Examples
    --------
    >>> data = load_realcause(sample=7)  # doctest: +SKIP
    """
    sample = chosen("sample", sample, range(50))
    z = arrays(fetch("realcause"))
    t, yf, ycf = (z[key][:, sample] for key in ("t", "yf", "ycf"))
    X = pd.DataFrame(double(z["X"]), columns=z["x_names"].tolist())
    note = "mu is a Monte Carlo mean over 50 samples, not a noiseless surface"
    return simulated("realcause", X, t, yf, ycf, (z["mu0_mc"], z["mu1_mc"]), label=f" {sample}", notes=(note,))


def load_twins(version: str = "shalit", random_state: int = 0) -> CausalDataset:
    r"""Twins under 2 kg: death within a year of the lighter (arm 0) and the heavier (arm 1), both observed.

    Which twin is "the patient" is simulated, so that there is confounding to correct and a truth to compare with.

    Parameters
    ----------
    version : {"shalit", "ganite"}
        "shalit": 11,984 pairs, 75 covariates, assignment, its propensity and the split as published.
        "ganite": 11,400 pairs, 30 covariates, no assignment in the file. It is drawn here as in the paper's code:
        :math:`e(x) = \sigma(x'c) / (2 \bar\sigma)`, at most 1, c uniform on (-0.01, 0.01); without the small noise
        that the code adds to x'c, so that `propensity` is exact.
    random_state : int
        Seeds the assignment of "ganite".

    Returns
    -------
    CausalDataset
        Binary outcome; `y0`, `y1` and `propensity` known, no noiseless means.

    References
    ----------
    Almond, Chay & Lee (2005), QJE 120(3); Louizos et al. (2017), NeurIPS; Yoon, Jordon & van der Schaar (2018), ICLR.

    Examples
    --------
    >>> data = load_twins(version="ganite")  # doctest: +SKIP
    """
    if chosen("version", version, ("shalit", "ganite")) == "shalit":
        z = arrays(fetch("twins_shalit"))
        p = double(z["propensity"])
        X = pd.DataFrame(double(z["X"]), columns=z["x_names"].tolist())
        roles = (z["t"], z["yf"], z["ycf"])
        return simulated("twins_shalit", X, *roles, propensity=np.stack([1 - p, p], axis=1), test_mask=z["test_mask"])
    frame = pd.read_csv(fetch("twins_ganite"))
    days = frame[["outcome(t=0)", "outcome(t=1)"]].to_numpy()
    X = frame.drop(columns=["outcome(t=0)", "outcome(t=1)"])
    rng = np.random.default_rng(random_state)
    e = 1 / (1 + np.exp(-X.to_numpy(dtype=float) @ rng.uniform(-0.01, 0.01, X.shape[1])))
    e = np.minimum(e / (2 * e.mean()), 1.0)
    t = (rng.random(len(X)) < e).astype(int)
    died = (days < 9999).astype(int)  # 9999 days: alive after a year
    rows = np.arange(len(X))
    return simulated(
        "twins_ganite", X, t, died[rows, t], died[rows, 1 - t], propensity=np.stack([1 - e, e], axis=1),
        notes=(f"assignment simulated, random_state={random_state}",),
    )  # fmt: skip
