"""Real studies and trials: no truth for a single unit, but known designs and published estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from effects.datasets.tables import CausalDataset, arrays, chosen, fetch, packaged, registry


def _from_table(
    name: str,
    frame: pd.DataFrame,
    arms: Mapping[Any, Any],
    *,
    covariates: Sequence[str] | None = None,
    outcome: str | None = None,
    kind: str | None = None,
    unit: str | None = None,
    groups: str | None = None,
    shares: Sequence[float] | None = None,
    keep_missing: bool = False,
    notes: Sequence[str] = (),
) -> CausalDataset:
    """A data set from a table; `arms` gives each value of the treatment column its label, the control first.

    Whatever is None comes from the registry; `shares` are the known probabilities of the arms.
    """
    entry = registry()[name]
    treatment, outcome, kind = entry["treatment"], outcome or entry["outcome"], kind or entry["kind"]
    notes = list(notes)
    assigned = frame[treatment].notna()
    if not assigned.all():
        notes.append(f"{int((~assigned).sum())} of {len(frame)} rows have no {treatment!r} and are left out")
    frame = frame[assigned & frame[treatment].isin(list(arms))]
    lost = frame[outcome].isna()
    if lost.any():
        notes.append(f"{int(lost.sum())} of {len(frame)} rows have no {outcome!r} and are "
                     + ("kept, with NaN" if keep_missing else "left out (keep_missing=True keeps them)"))  # fmt: skip
    frame = frame[~lost | keep_missing].reset_index(drop=True)
    X = frame[list(covariates or entry["covariates"])].copy()
    for column in X.columns:
        if pd.api.types.is_object_dtype(X[column]) or pd.api.types.is_string_dtype(X[column]):
            X[column] = X[column].astype("category")
    labels, y = frame[treatment].map(arms), frame[outcome]
    if all(isinstance(label, str) for label in arms.values()):
        labels = labels.astype(pd.CategoricalDtype(list(arms.values())))
    return CausalDataset(
        X=X,
        y=y.astype(np.float64 if kind == "continuous" or y.isna().any() else np.int64),
        treatment=labels,
        name=name,
        kind=kind,
        arms=tuple(arms.values()),
        propensity=None if shares is None else np.tile(np.asarray(shares, dtype=float), (len(X), 1)),
        groups=None if groups is None else frame[groups].to_numpy(),
        unit=entry["unit"] if unit is None else unit,
        source=entry["source"],
        notes=tuple(notes),
    )


def load_rand_hie() -> CausalDataset:
    """RAND Health Insurance Experiment: families randomised to insurance plans, doctor visits a year; works offline.

    20,190 person-years. The arm is derived from the coinsurance ``c = exp(lncoins) - 1`` and ``idp``:

    =======================  =========================================  ===============================================
    arm                      rule                                       plan
    =======================  =========================================  ===============================================
    free                     c = 0, idp = 0                             no payments
    25%, 50%                 c = 25, c = 50                             that share, up to a yearly limit of the family
    95%                      c = 95, or c = 100                         the same; it was 100 in the first site, Dayton
    individual deductible    c = 0, idp = 1                             95% (Dayton: all) of outpatient care up to 150 $
                                                                        a person, hospital care free
    =======================  =========================================  ===============================================

    The file marks the 100% plans as idp too; their limit is one of the family, and so they stand with the 95%.
    ``lpi`` (participation payment) and ``fmde`` (limit) are parts of the plan and no covariates.

    Returns
    -------
    CausalDataset
        Count outcome mdvis; covariates physlm, disea, health. Persons come back each year without an identifier in
        this file, so standard errors that take rows for independent are too small.

    References
    ----------
    Manning et al. (1987), Health insurance and the demand for medical care, American Economic Review 77(3);
    Cameron & Trivedi (2005), Microeconometrics, section 20.3. The file is the one that statsmodels ships.

    Examples
    --------
    >>> load_rand_hie()
    CausalDataset(rand_hie: 20190 x 3, arms free 6822, 25% 4065, 50% 1401, 95% 3727, individual deductible 4175; ...)
    """
    frame = packaged("statsmodels", "datasets/randhie/randhie.csv")
    coinsurance = np.expm1(frame["lncoins"]).round().astype(int)
    names = {0: "free", 25: "25%", 50: "50%", 95: "95%", 100: "95%"}
    frame["plan"] = coinsurance.map(names).mask((coinsurance == 0) & (frame["idp"] == 1), "individual deductible")
    rating = frame[["hlthg", "hlthf", "hlthp"]].to_numpy() @ [1, 2, 3]
    frame["health"] = pd.Categorical.from_codes(rating, pd.Index(["excellent", "good", "fair", "poor"]), ordered=True)
    plans = ("free", "25%", "50%", "95%", "individual deductible")
    notes = ("rows are person-years, without an identifier of the person",)
    return _from_table("rand_hie", frame, {plan: plan for plan in plans}, notes=notes)


def load_jobs(split: int | str = 0) -> CausalDataset:
    """Jobs: LaLonde's training programme and PSID controls, employment as outcome, a randomised part inside.

    Parameters
    ----------
    split : int or "single"
        0 to 9: one of the ten published splits (2,570 / 642) as `test_mask`; "single": that of 2,891 / 321.

    Returns
    -------
    CausalDataset
        3,212 x 17; ``groups`` is "randomised" for the 722 of the trial, "observational" for the others. The truth is
        the trial's difference in means (the effect on the treated), and the policy risk among the randomised.

    References
    ----------
    LaLonde (1986), AER 76(4); Shalit, Johansson & Sontag (2017), ICML, section 5.2.

    Examples
    --------
    >>> data = load_jobs(split=2)  # doctest: +SKIP
    """
    split = chosen("split", split, [*range(10), "single"])
    z = arrays(fetch("jobs"))
    frame = pd.DataFrame(z["X"], columns=registry()["jobs"]["covariates"])
    frame["training"], frame["employed"] = z["t"], z["yf"]
    frame["part"] = np.where(z["e"] == 1, "randomised", "observational")
    note = "covariates are standardised and unnamed in the source; truth: difference in means of the randomised"
    data = _from_table("jobs", frame, {0: 0, 1: 1}, groups="part", notes=(note,))
    mask = z["test_mask_single"] if isinstance(split, str) else z["test_mask"][:, split]
    return replace(data, test_mask=mask, name=f"jobs {split}")


def load_lalonde(sample: str = "nsw_dw", controls: str = "experimental") -> CausalDataset:
    """LaLonde: a job training trial (NSW), its controls, or survey controls in their place; earnings in 1978.

    Parameters
    ----------
    sample : {"nsw_dw", "nsw"}
        Dehejia and Wahba's men with earnings of 1974 (445), or LaLonde's (722, without re74).
    controls : {"experimental", "psid", "psid2", "psid3", "cps", "cps2", "cps3"}
        The trial's own controls, or a comparison group of the surveys.

    Returns
    -------
    CausalDataset
        ``groups`` tells each unit's file. With survey controls the trial's difference is the benchmark to reach.

    References
    ----------
    LaLonde (1986), AER 76(4); Dehejia & Wahba (1999), JASA 94.

    Examples
    --------
    >>> data = load_lalonde(controls="cps")  # doctest: +SKIP
    """
    sample = chosen("sample", sample, ("nsw_dw", "nsw"))
    surveys = {f"{survey}{k}": f"{survey}_controls{k}" for survey in ("psid", "cps") for k in ("", 2, 3)}
    controls = chosen("controls", controls, ("experimental", *surveys))
    frame = pd.read_csv(fetch("lalonde"))
    trial = frame["sample"] == sample
    if controls != "experimental":
        trial = (trial & (frame["treat"] == 1)) | (frame["sample"] == surveys[controls])
    covariates = [name for name in registry()["lalonde"]["covariates"] if sample == "nsw_dw" or name != "re74"]
    arms = {0: "control", 1: "training"}
    return _from_table("lalonde", frame[trial], arms, covariates=covariates, groups="sample")


def load_nhefs(keep_missing: bool = False) -> CausalDataset:
    """NHEFS: does quitting smoking raise weight? The textbook example of Hernan and Robins; can be downloaded.

    Parameters
    ----------
    keep_missing : bool, default False
        Keep the 63 of 1,629 persons whose weight in 1982 is unknown, with NaN as outcome.

    Returns
    -------
    CausalDataset
        The textbook's nine covariates, categories decoded; weight change from 1971 to 1982 in kg.

    References
    ----------
    Hernan & Robins (2020), Causal Inference: What If, chapters 12 to 15 (published effect about 3.4 to 3.5 kg).

    Examples
    --------
    >>> data = load_nhefs()  # doctest: +SKIP
    """
    frame = pd.read_csv(fetch("nhefs"))
    codes = {
        "sex": ("male", "female"),
        "race": ("white", "black or other"),
        "exercise": ("much", "moderate", "little or none"),
        "active": ("very active", "moderately active", "inactive"),
        "education": ("", "8th grade or less", "high school dropout", "high school", "college dropout", "college"),
    }
    for column, levels in codes.items():
        frame[column] = pd.Categorical(frame[column].map(dict(enumerate(levels))), [k for k in levels if k])
    return _from_table("nhefs", frame, {0: "kept smoking", 1: "quit"}, keep_missing=keep_missing)


def load_gusto() -> CausalDataset:
    """GUSTO-I: 40,830 heart attacks, three thrombolytic treatments, death within 30 days.

    Not among the covariates: ``ttr`` (relief of pain comes after the treatment, and differs between the arms);
    ``hig``, ``hyp``, ``hrt``, ``ant`` (functions of miloc and pmi, sysbp, pulse). ``groups`` is the region.

    Returns
    -------
    CausalDataset

    References
    ----------
    The GUSTO Investigators (1993), NEJM 329; Steyerberg (2019), Clinical Prediction Models, chapter 22.

    Examples
    --------
    >>> data = load_gusto()  # doctest: +SKIP
    """
    arms = {"SK": "SK", "SK+tPA": "SK+tPA", "tPA": "tPA"}
    return _from_table("gusto", pd.read_csv(fetch("gusto")), arms, groups="regl")


def load_actg175(outcome: str = "cd420", keep_missing: bool = False) -> CausalDataset:
    """ACTG 175: 2,139 patients with HIV, four regimens in equal shares, CD4 cells after 20 or 96 weeks.

    Parameters
    ----------
    outcome : {"cd420", "cd496"}
        After 20 weeks (complete) or 96 weeks (797 missing).
    keep_missing : bool, default False
        Keep patients without the outcome, with NaN.

    Returns
    -------
    CausalDataset

    References
    ----------
    Hammer et al. (1996), NEJM 335.

    Examples
    --------
    >>> data = load_actg175(outcome="cd496")  # doctest: +SKIP
    """
    outcome = chosen("outcome", outcome, ("cd420", "cd496"))
    z = "zidovudine"
    arms = {0: z, 1: f"{z} + didanosine", 2: f"{z} + zalcitabine", 3: "didanosine"}
    frame = pd.read_csv(fetch("actg175"))
    return _from_table("actg175", frame, arms, outcome=outcome, shares=[0.25] * 4, keep_missing=keep_missing)


def load_star(grade: str = "k", outcome: str = "read", keep_missing: bool = False) -> CausalDataset:
    """Project STAR: pupils and teachers randomised within schools to small or regular classes; test scores.

    Parameters
    ----------
    grade : {"k", "1", "2", "3"}
        Only in kindergarten is the class as randomised; later some pupils changed, and some came new.
    outcome : {"read", "math"}
    keep_missing : bool, default False
        Keep pupils without a score, with NaN.

    Returns
    -------
    CausalDataset
        Names without the grade's letter; ``groups`` is the school, ``birth`` the first day of the quarter.

    References
    ----------
    Krueger (1999), QJE 114(2); Stock & Watson, Introduction to Econometrics, chapter 13.

    Examples
    --------
    >>> data = load_star(grade="k", outcome="math")  # doctest: +SKIP
    """
    grade = chosen("grade", grade, ("k", "1", "2", "3"))
    outcome = chosen("outcome", outcome, ("read", "math"))
    frame = pd.read_csv(fetch("star"), low_memory=False)
    quarters = frame["birth"].dropna().str.replace(" ", "")
    frame["birth"] = pd.Series(pd.PeriodIndex(quarters, freq="Q").to_timestamp(), index=quarters.index)
    renamed = ("read", "math", "lunch", "school", "degree", "ladder", "experience", "tethnicity", "schoolid")
    frame = frame.rename(columns={f"star{grade}": "class"} | {f"{name}{grade}": name for name in renamed})
    arms = {arm: arm for arm in ("regular", "small", "regular+aide")}
    return _from_table("star", frame, arms, outcome=outcome, groups="schoolid", keep_missing=keep_missing)


def load_hillstrom(outcome: str = "visit") -> CausalDataset:
    """Hillstrom: 64,000 customers, two e-mail campaigns or none (a third each), what they did in two weeks.

    Parameters
    ----------
    outcome : {"visit", "conversion", "spend"}
        Visited the site, bought (both 0/1), or spent (US$, zero for 99%).

    Returns
    -------
    CausalDataset

    References
    ----------
    Hillstrom (2008), MineThatData e-mail analytics and data mining challenge.

    Examples
    --------
    >>> data = load_hillstrom(outcome="spend")  # doctest: +SKIP
    """
    outcome = chosen("outcome", outcome, ("visit", "conversion", "spend"))
    kind, unit = ("continuous", "US$") if outcome == "spend" else ("binary", "")
    frame = pd.read_csv(fetch("hillstrom"))
    frame["history_segment"] = pd.Categorical(frame["history_segment"], ordered=True)  # "1) $0 - $100" sorts first
    arms = {arm: arm for arm in ("No E-Mail", "Mens E-Mail", "Womens E-Mail")}
    return _from_table("hillstrom", frame, arms, outcome=outcome, kind=kind, unit=unit, shares=[1 / 3] * 3)


def load_401k() -> CausalDataset:
    """401(k): does an employer's pension plan raise net financial assets? 9,915 households, SIPP 1991.

    Eligibility (``e401``) is the treatment; participation (``p401``) follows it and is no covariate.

    Returns
    -------
    CausalDataset

    References
    ----------
    Chernozhukov & Hansen (2004), REStat 86(3); Chernozhukov et al. (2018), Econometrics Journal 21(1), section 6.2
    (effects of about 7,000 to 9,000 US$).

    Examples
    --------
    >>> data = load_401k()  # doctest: +SKIP
    """
    return _from_table("401k", pd.read_csv(fetch("401k")), {0: "not eligible", 1: "eligible"})


def load_penn_bonus(arms: Sequence[int] | None = None) -> CausalDataset:
    """Pennsylvania bonus experiment: 13,913 unemployed, offers of a bonus for a quick new job; weeks without work.

    Parameters
    ----------
    arms : sequence of int, optional
        Codes to keep, 0 (control) to 6; None for all. Chernozhukov et al. (2018) compare ``arms=(0, 4)``. The offers
        1 to 6 differ in amount and in the time allowed; Bilias (2000) defines them.

    Returns
    -------
    CausalDataset

    References
    ----------
    Bilias (2000), Sequential testing of duration data, J. Applied Econometrics 15(6).

    Examples
    --------
    >>> data = load_penn_bonus(arms=(0, 4))  # doctest: +SKIP
    """
    kept = range(7) if arms is None else sorted({chosen("arms", arm, range(7)) for arm in arms})
    if 0 not in kept or len(kept) < 2:
        raise ValueError(f"arms must hold 0, the control, and another of 1 to 6; got {arms!r}.")
    labels = {arm: f"bonus {arm}" if arm else "control" for arm in kept}
    return _from_table("penn_bonus", pd.read_csv(fetch("penn_bonus")), labels)


def load_thornton(keep_missing: bool = False) -> CausalDataset:
    """Thornton: cash for fetching one's HIV test result, randomised in 120 villages of Malawi; who fetched it.

    ``groups`` is the village; ``hiv2004`` (negative, positive, or the source's -1) was unknown to the
    participants when they decided.

    Parameters
    ----------
    keep_missing : bool, default False
        Keep persons with a known incentive and an unknown outcome, with NaN.

    Returns
    -------
    CausalDataset

    References
    ----------
    Thornton (2008), The demand for, and impact of, learning HIV status, AER 98(5).

    Examples
    --------
    >>> data = load_thornton()  # doctest: +SKIP
    """
    frame = pd.read_csv(fetch("thornton"))
    frame["hiv2004"] = frame["hiv2004"].map({-1: "-1", 0: "negative", 1: "positive"})
    arms = {0: "no incentive", 1: "incentive"}
    return _from_table("thornton", frame, arms, groups="villnum", keep_missing=keep_missing)


def load_indo_rct() -> CausalDataset:
    """Indomethacin against pancreatitis after ERCP: 602 patients of four hospitals, randomised after the procedure.

    What was done in the procedure comes before the randomisation, and is a covariate; ``bleed`` comes after. The
    source's codes ("1_yes") are decoded, its "NA_NA" is missing.

    Returns
    -------
    CausalDataset

    References
    ----------
    Elmunzer et al. (2012), NEJM 366.

    Examples
    --------
    >>> data = load_indo_rct()  # doctest: +SKIP
    """
    frame = pd.read_csv(fetch("indo_rct"))
    for column in frame.columns[~frame.dtypes.map(pd.api.types.is_numeric_dtype)]:
        frame[column] = frame[column].mask(frame[column] == "NA_NA").str.replace(r"^\d_", "", regex=True)
    frame["outcome"] = (frame["outcome"] == "yes").astype(int)
    return _from_table("indo_rct", frame, {"placebo": "placebo", "indomethacin": "indomethacin"}, shares=[0.5, 0.5])
