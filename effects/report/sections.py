"""The numbers of a report, each computed once, and the sections they are told in."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from effects import __version__, plots
from effects.effect import Effect, Estimate
from effects.heterogeneity.subgroups import Remembered
from effects.individual import check_level
from effects.inference import estimate_ate, outcome_means
from effects.inference.checks import effective_size
from effects.outcomes import PotentialOutcomes
from effects.plots import number
from effects.report.blocks import Block, Facts, Picture, Prose, Section, Table, percent, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from effects.nuisance import CrossFitted
    from effects.support import Support

FloatArray = NDArray[np.float64]

CALIBRATION_ROWS: Final = 4000  # predicting every draw of more rows costs memory and shows nothing new
SURE: Final = 0.95
WEAK_PROPENSITY: Final = 0.05
WEAK_SUPPORT: Final = 0.05  # share of flagged units from which the page warns
QUANTILES: Final = {"lowest": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "highest": 1.0}
HIGHER: Final = {"P(higher)": ("at least", "at most")}


@dataclass(frozen=True, eq=False)
class Study:
    """Everything the sections are written from; `a` and `y` are encoded, `checked_rows` are positions in the table.

    `seen` says what the model knew of the rows its calibration is checked on: see `CrossFitted.source`.
    """

    est: Any
    y: FloatArray
    a: NDArray[np.int64]
    level: float
    outcome: str
    treatment: str
    unit: str
    nuisance: CrossFitted
    seen: str
    averages: list[Estimate]
    means: dict[Hashable, Estimate]
    cautions: list[str]
    effects: list[Effect]
    shown: PotentialOutcomes
    roles: dict[int, str]
    checked: PotentialOutcomes
    checked_rows: NDArray[np.int64]
    support: Support

    @classmethod
    def of(
        cls,
        est: Any,
        X: Any,
        y: Any,
        treatment: Any,
        level: float,
        units: Sequence[int] | None,
        names: tuple[str | None, str | None, str],
    ) -> Study:
        check_level(level)
        if not hasattr(est, "schema_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(f"This {type(est).__name__} is not fitted yet: call fit(X, y, treatment=...) first.")
        unit = names[2]
        arms, a, numbers = tuple(est.arms_), est.schema_.encode_treatment(treatment), est.schema_.encode_outcome(y)
        if not len(X) == len(numbers) == len(a):
            raise ValueError(f"X, y and treatment have {len(X)}, {len(numbers)} and {len(a)} rows: they must agree.")
        chosen = None if units is None else _positions(units, len(X))
        nuisance = est.cross_fitted(X, y, treatment=treatment)
        fixed = Remembered(est.schema_, arms, nuisance)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            means = outcome_means(fixed, X, y, treatment=treatment, level=level)
        cautions = list(dict.fromkeys(str(warning.message) for warning in caught))
        for caution in cautions:
            warnings.warn(caution, UserWarning, stacklevel=3)
        with warnings.catch_warnings():  # the contrasts would say the same again
            warnings.simplefilter("ignore", UserWarning)
            averages = [estimate_ate(fixed, X, y, treatment=treatment, treated=t, level=level) for t in arms[1:]]
        effects = [replace(est.predict_effect(X, treated=t), laws=None, unit=unit) for t in arms[1:]]
        roles = _extremes(effects[0].mean) if chosen is None else dict.fromkeys(chosen.tolist(), "chosen")
        rows = np.array(list(roles))
        labels = X.index if isinstance(X, pd.DataFrame) else pd.RangeIndex(len(X))
        shown = replace(est.predict_outcomes(_take(X, rows)), unit=unit, index=labels[rows])
        sample = np.sort(np.random.default_rng(0).permutation(len(X))[:CALIBRATION_ROWS])
        seen = nuisance.source
        kept = nuisance.outcomes if seen == "held_out" else None
        checked = est.predict_outcomes(_take(X, sample)) if kept is None else kept.take(sample)
        return cls(
            est=est, y=numbers, a=a, level=level, outcome=names[0] or est.schema_.outcome.name or "the outcome",
            treatment=names[1] or "the treatment", unit=unit, nuisance=nuisance, seen=seen,
            averages=averages, means=means, cautions=cautions, effects=effects, shown=shown, roles=roles,
            checked=checked, checked_rows=sample, support=est.support(X),
        )  # fmt: skip

    n = property(lambda self: len(self.y), doc="Units.")
    arms = property(lambda self: tuple(self.est.arms_), doc="Labels, control first.")
    kind = property(lambda self: str(self.est.schema_.outcome.kind), doc="Of the outcome.")
    at = property(lambda self: f"{100 * self.level:.10g}%", doc="The level, in words.")
    in_unit = property(lambda self: f" ({self.unit})" if self.unit else "", doc="The unit, for captions.")

    pairs = property(lambda self: {f"{self.at} interval": ("lower", "upper")}, doc="Columns printed as a range.")
    hidden = property(lambda self: ("contrast",) if len(self.arms) == 2 else (), doc="Columns that would be all alike.")

    @property
    def whose(self) -> str:
        """The only contrast, if there is but one, and the unit, for captions."""
        only = f": {self.arms[1]} − {self.arms[0]}" if len(self.arms) == 2 else ""
        return f"{only}{self.in_unit}"

    @property
    def event(self) -> str:
        """The outcome as the subject of a mean or a probability: ``test score``, ``died = yes``."""
        levels = self.est.schema_.outcome.levels
        return self.outcome if levels is None or levels[1] in (1, True) else f"{self.outcome} = {levels[1]}"

    @property
    def subject(self) -> str:
        """What an effect is a difference in."""
        return f"the probability of {self.event}" if self.kind == "binary" else f"mean {self.outcome}"

    def arm(self, label: Hashable) -> str:
        """An arm as words can hold it: a bare number or bool gets the treatment's name."""
        return str(label) if isinstance(label, str) else f"{self.treatment} = {label}"


def _take(X: Any, rows: NDArray[np.int64]) -> Any:
    return X.iloc[rows] if hasattr(X, "iloc") else np.asarray(X)[rows]


def _positions(units: Sequence[int], n: int) -> NDArray[np.int64]:
    rows = np.asarray(units)
    if rows.dtype.kind not in "iu" or rows.ndim != 1 or not rows.size:
        raise ValueError(f"units must be positions of rows, such as [0, 5], got {units!r}.")
    wrong = rows[(rows < -n) | (rows >= n)]
    if wrong.size:
        raise ValueError(f"units: there is no row {wrong[0]}; X has {n} rows, counted from 0.")
    return rows.astype(np.int64) % n


def _extremes(cate: FloatArray) -> dict[int, str]:
    order = np.argsort(cate, kind="stable").tolist()
    found: dict[int, str] = {}
    for row, role in ((order[0], "lowest"), (order[len(order) // 2], "median"), (order[-1], "highest")):
        found.setdefault(row, f"{role} CATE")
    return found


# ---- the sections ----------------------------------------------------------------------------------------------------


def sections_of(s: Study, source: str | None, command: str | None) -> tuple[Section, ...]:
    """All sections of the report, in the order they are read in."""
    results = (_average(s), _spread(s), _units(s), _calibration(s), _overlap(s))
    return (_asked(s, source), *results, _data(s), _assumptions(s), _computation(s, command))


def lead(s: Study) -> Iterator[str]:
    """The findings, one sentence each."""
    for e in s.averages:
        value, lower, upper = (number(v, e.se, 2) for v in (e.value, *e.interval()))
        unit = f" {s.unit}" if s.unit else ""
        contrast = f"{s.arm(e.treated)} instead of {s.arm(e.control)} changes {s.subject} by {value}{unit}"
        yield f"On average, {contrast} ({s.at} interval {lower} to {upper})."
    for effect in s.effects:
        low, high = np.quantile(effect.mean, [0.05, 0.95])
        ends = " and ".join(number(end, high - low, 2) for end in (low, high))
        above, below = _directions(effect)
        whose = f" of {s.arm(effect.treated)}" if len(s.effects) > 1 else ""
        more, less = (f"{percent(above)} of units" if above else "no unit", percent(below) if below else "none")
        yield (
            f"For nine units in ten the predicted effect{whose} lies between {ends}; it is surely above zero for "
            f"{more} and surely below for {less}."
        )
    if s.cautions:
        yield "Overlap is weak: some units hardly ever had one of the arms, so the average leans on few rows."


def _directions(effect: Effect) -> tuple[float, float]:
    """Shares of units whose CATE is surely above and surely below zero."""
    sure = effect.prob_above()
    return float(np.mean(sure > SURE)), float(np.mean(sure < 1 - SURE))


def _asked(s: Study, source: str | None) -> Section:
    counts = np.bincount(s.a, minlength=len(s.arms))
    arms = [f"{s.arm(arm)} (n = {n:,})" for arm, n in zip(s.arms, counts, strict=True)]
    mean = number(s.y.mean(), s.y.std())
    binary = s.kind == "binary"
    observed = (
        f"observed in {percent(s.y.mean())} of units"
        if binary
        else f"mean {mean}, from {number(s.y.min())} to {number(s.y.max())}"
    )
    each = "each of the other arms" if len(s.arms) > 2 else s.arm(s.arms[1])
    risk = " (a risk difference)" if binary else ""
    pairs = (
        (
            "Average effect",
            f"difference in {s.subject} between all units having {each} and all having {s.arm(s.arms[0])}{risk}",
        ),
        ("Effect per unit", "the same difference among units with the same covariates (CATE)"),
        ("Arms", f"{arms[0]} as control; {', '.join(arms[1:])}"),
        ("Outcome", f"{s.event}{s.in_unit}, {s.kind}; {observed}"),
        ("Units", f"{s.n:,} rows with {len(s.est.schema_.columns)} covariates{f'; {source}' if source else ''}"),
        ("Intervals", f"{s.at} throughout"),
    )
    return Section("asked", "What was asked", (Facts(pairs),))


def _average(s: Study) -> Section:
    rows: list[tuple[Any, ...]] = []
    groups = {arm: s.y[s.a == k] for k, arm in enumerate(s.arms)}
    for e in s.averages:
        contrast = f"{e.treated} − {e.control}"
        rows.append((contrast, "adjusted (AIPW)", e.value, *e.interval(), e.se))
        t, c = groups[e.treated], groups[e.control]
        if min(t.size, c.size) > 1:
            se = math.sqrt(t.var(ddof=1) / t.size + c.var(ddof=1) / c.size)
            naive = replace(e, value=float(t.mean() - c.mean()), se=se)
            rows.append((contrast, "naive difference", naive.value, *naive.interval(), se))
    effects = pd.DataFrame(rows, columns=["contrast", "method", "estimate", "lower", "upper", "se"])
    arms = []
    for arm, e in s.means.items():
        observed = groups[arm].mean() if groups[arm].size else math.nan
        arms.append((str(arm), groups[arm].size, observed, e.value, *e.interval(), e.se))
    means = pd.DataFrame(arms, columns=["arm", "n", "observed", "if all had it", "lower", "upper", "se"])
    subject = f"{s.subject[0].upper()}{s.subject[1:]}"
    blocks = (
        Table("effects", f"Change in {s.subject}{s.whose}", effects, effects["se"], (), s.pairs, s.hidden),
        Prose(words("average")["naive"]),
        Table("means", f"{subject} by arm{s.in_unit}", means, means["se"], (), s.pairs),
    )
    return Section("average", "The average effect", blocks)


def _spread(s: Study) -> Section:
    rows: list[tuple[Any, ...]] = []
    shares, pictures = [], []
    for k, e in enumerate(s.effects, 1):
        above, below = _directions(e)
        contrast = f"{e.treated} − {e.control}"
        rows.append((contrast, *np.quantile(e.mean, list(QUANTILES.values())), e.mean.mean()))
        shares.append((contrast, above, 1 - above - below, below))
        alt = (
            f"CATE of {e.treated} against {e.control}, unit by unit in rising order from {number(e.mean.min())} to "
            f"{number(e.mean.max())}, with {s.at} intervals, the average and the line of no effect."
        )
        caption = f"{s.arm(e.treated)} against {s.arm(e.control)}: the units' CATEs in rising order."
        draw = partial(_draw_effect, e, s.level, f"P({s.event})" if s.kind == "binary" else s.event)
        pictures.append(Picture(f"effects-{k}", alt, caption, draw))
    spread = pd.DataFrame(rows, columns=["contrast", *QUANTILES, "mean"])
    direction = pd.DataFrame(shares, columns=["contrast", "above zero", "undecided", "below zero"])
    scale, shares_of = (spread["95%"] - spread["5%"]) / 5, tuple(direction.columns[1:])
    blocks: tuple[Block, ...] = (
        *pictures,
        Table("spread", f"Quantiles and mean of the units' CATE{s.whose}", spread, scale, hidden=s.hidden),
        Table(
            "direction", "Share of units by the direction of their CATE", direction, None, shares_of, hidden=s.hidden
        ),
        Prose(words("spread")["meaning"].format(sure=f"{SURE:g}")),
    )
    return Section("spread", "How the effect varies", blocks)


def _units(s: Study) -> Section:
    frame, limits = s.shown.to_frame(s.level), _shared_limits(s.shown)
    of = "probability" if s.kind == "binary" else "outcome"
    laws, effects, pictures = [], [], []
    if s.kind == "binary":  # the sd that belongs to the interval: of the probability, not of the event
        spread = s.shown.member_means().std(axis=0)
        frame = frame.assign(**{f"std_{arm}": spread[:, k] for k, arm in enumerate(s.arms)})
    contrasts = [(arm, s.shown.effect(arm)) for arm in s.arms[1:]]
    bounds = [effect.prob_benefit() for _, effect in contrasts]
    for k, (label, (place, role)) in enumerate(zip(frame.index.map(str), s.roles.items(), strict=True)):
        says = []
        for arm in s.arms:
            mean, sd, low, high = (float(frame[f"{word}_{arm}"].iloc[k]) for word in ("mean", "std", "lower", "upper"))
            laws.append((label, role, str(arm), mean, low, high, sd))
            says.append(f"under {arm} mean {number(mean, sd)}, {s.at} interval {number(low, sd)} to {number(high, sd)}")
        for (arm, effect), (least, most) in zip(contrasts, bounds, strict=True):
            lower, upper = effect.interval(s.level)
            row = (label, f"{arm} − {s.arms[0]}", effect.mean[k], lower[k], upper[k], effect.std[k])
            known = "yes" if s.support.supported[place] else "no"
            effects.append((*row, effect.prob_above()[k], least[k], most[k], known))
        height = 1.2 + 0.42 * len(s.arms) if s.kind == "binary" else 2.1 + 0.18 * len(s.arms)
        draw = partial(_draw_unit, s.shown, k, s.level, s.event, limits)
        alt = f"Predicted {of} of unit {label}: {'; '.join(says)}."
        pictures.append(Picture(f"unit-{k + 1}", alt, f"Unit {label}: {role}.", draw, (5.0, height)))
    predicted = pd.DataFrame(laws, columns=["unit", "shown as", "arm", f"mean {of}", "lower", "upper", "sd"])
    say, chances = words("units"), ("P(CATE > 0)", *HIGHER["P(higher)"])
    cates = pd.DataFrame(
        effects,
        columns=["unit", "contrast", "CATE", "lower", "upper", "sd", *chances, "supported"],
    )
    about = [say["joint"].format(treated="the treated arm", control=s.arm(s.arms[0]))]
    about += [say["extremes"]] if "chosen" not in s.roles.values() else []
    blocks: tuple[Block, ...] = (
        *pictures,
        Table("units", f"Predicted {of} of these units{s.in_unit}", predicted, predicted["sd"], (), s.pairs),
        Table("unit effects", f"CATE of these units{s.whose}", cates, cates["sd"], chances, s.pairs | HIGHER, s.hidden),
        *map(Prose, about),
    )
    return Section("units", "Some units, one by one", blocks)


def _calibration(s: Study) -> Section:
    y, a = s.y[s.checked_rows], s.a[s.checked_rows]
    rows: list[tuple[Any, ...]] = []
    for k, arm in enumerate(s.arms):
        own = a == k
        if not own.any():
            continue
        law, seen = s.checked.take(own), y[own]
        score = law.crps(seen, np.full(seen.size, k)).mean()
        if s.kind == "binary":
            rows.append((str(arm), seen.size, law.mean()[:, k].mean(), seen.mean(), score))
        else:
            lower, upper = (limit[:, k] for limit in law.interval(s.level))
            rows.append(
                (str(arm), seen.size, np.mean((lower <= seen) & (seen <= upper)), np.mean(upper - lower), score)
            )
    shares = ("predicted", "observed") if s.kind == "binary" else (f"{s.at} intervals cover",)
    columns = [*shares, "Brier score"] if s.kind == "binary" else [*shares, "mean width", "CRPS"]
    frame = pd.DataFrame(rows, columns=["arm", "n", *columns])
    labels = np.array([str(s.arms[k]) for k in a])
    names = tuple(map(str, s.arms))
    if s.kind == "binary":
        predicted = PotentialOutcomes(s.checked.mean()[None, None].astype(np.float32), arms=names, kind="binary")
        draw = partial(_draw_reliability, predicted, y, labels, s.level, s.event)
        alt = "Observed frequency against predicted probability by arm, with the diagonal of perfect calibration."
    else:
        pit = plots.pit_values(s.checked, y, np.array(s.arms, dtype=object)[a])
        draw = partial(_draw_pit, pit, labels, names, s.level)
        alt = "Histogram of the probability integral transform by arm, with the band in which chance alone leaves it."
    alt += f" {'; '.join(f'{r[0]}: {columns[0]} {percent(r[2])}' for r in rows)}."
    say = words("calibration")
    part = "" if len(y) == s.n else f"A random {len(y):,} of the {s.n:,} rows. "
    blocks = (
        Picture("calibration", alt, say["binary" if s.kind == "binary" else "reading"], draw),
        Table("calibration", "Predicted against observed outcomes, by arm", frame, percent=shares),
        Prose(part + say[s.seen]),
    )
    return Section("calibration", "Are the predicted distributions right?", blocks)


def _overlap(s: Study) -> Section:
    e = s.nuisance.propensity
    rows = []
    for k, arm in enumerate(s.arms):
        weight = 1 / e[s.a == k, k]
        effective = effective_size(weight)
        low = float(np.mean(e[:, k] < WEAK_PROPENSITY))
        rows.append((str(arm), weight.size, effective, float(e[:, k].min()), low))
    below = f"below {WEAK_PROPENSITY:g}"
    frame = pd.DataFrame(rows, columns=["arm", "n", "effective n", "lowest propensity", below])
    alt = "Propensities by arm, mirrored: those who had the arm above the line, the others below. " + "; ".join(
        f"{row[0]}: lowest {number(row[3], digits=2)}, effective sample size {row[2]:.0f} of {row[1]}" for row in rows
    )
    labels = np.array([str(s.arms[k]) for k in s.a])
    names = tuple(map(str, s.arms))
    size = (5.0, 3.1 if len(s.arms) == 2 else 1.6 + 1.1 * len(s.arms))
    draw = partial(_draw_overlap, e, labels, names)
    blocks: tuple[Block, ...] = (
        *(Prose(caution, warning=True) for caution in s.cautions),
        _supported(s),
        Picture(
            "overlap", f"{alt}.", "How probable each arm was for the units that had it and for the others.", draw, size
        ),
        Table("overlap", "Propensity and effective sample size by arm", frame, percent=(below,)),
        Prose(words("overlap")["reading"]),
    )
    return Section("overlap", "Were the arms comparable?", blocks)


def _supported(s: Study) -> Prose:
    """Of how many units the data say too little."""
    flagged, say = ~s.support.supported, words("support")
    if not flagged.any():
        return Prose(say["none"].format(n=f"{s.n:,}"))
    reasons = pd.Series(s.support.reason[flagged]).str.split("; ").explode().value_counts()
    named = []
    for reason, count in reasons.items():
        word, _, arm = str(reason).partition(":")
        named.append(f"{count:,} {say[word].format(arm=arm)}")
    share = percent(float(flagged.mean()))
    text = say["some"].format(count=f"{int(flagged.sum()):,}", n=f"{s.n:,}", share=share, reasons="; ".join(named))
    return Prose(text, warning=bool(flagged.mean() > WEAK_SUPPORT))


def _data(s: Study) -> Section:
    table = s.est.schema_.describe()
    holds = []
    for row in table.itertuples(index=False):
        mean, sd = number(row.mean, row.sd), number(row.sd)
        if row.kind == "date":
            holds.append(
                f"about {pd.Timestamp(0) + pd.Timedelta(days=round(row.mean)):%Y-%m-%d}, sd {row.sd:,.0f} days"
            )
        elif row.kind in ("number", "bool"):
            holds.append(f"{percent(row.mean)} true" if row.kind == "bool" else f"mean {mean}, sd {sd}")
        else:
            holds.append(row.levels or "left out: says nothing")
    frame = table[["column", "kind", "missing"]].assign(holds=holds)
    caption = f"The {len(frame)} covariates as the model reads them"
    return Section("data", "The data", (Table("data", caption, frame, percent=("missing",)),), brief=False)


def _assumptions(s: Study) -> Section:
    assumed, about = words("assumptions"), words("intervals")
    lowest = number(float(s.nuisance.propensity.min()), digits=2)
    known = getattr(s.est.nuisance_, "known_propensity_", None) is not None
    of_kind = "Outcome" if s.kind == "binary" else "Probability"
    values = {"n_covariates": len(s.est.schema_.columns), "lowest": lowest, "percent": s.at}
    values["z"] = number(Estimate(0, 1, "", 0).interval(s.level)[1])
    pairs = [(term, text) for term, text in assumed.items() if known or term != "Trial"]
    pairs += [(f"Interval: {term}", text) for term, text in about.items() if term != of_kind]
    facts = Facts(tuple((term, text.format(**values)) for term, text in pairs))
    return Section("assumptions", "What this rests on", (facts,), brief=False)


def _computation(s: Study, command: str | None) -> Section:
    params = s.est.get_params(deep=False)
    folds = getattr(s.est.nuisance_, "n_folds", None)
    crossed = f"cross-fitted in {folds} folds" if folds else "cross-fitted"
    pairs = [
        ("Estimator", f"{type(s.est).__name__}({', '.join(f'{k}={v!r}' for k, v in params.items())})"),
        ("Seed", str(params.get("random_state"))),
        ("Training", _training(getattr(s.est, "history_", ()))),
        ("Adjustment", f"outcome means and propensities {crossed}, combined by AIPW (doubly robust)"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in _versions())),
        ("Command", command or ""),
    ]
    facts = Facts(tuple((term, text) for term, text in pairs if text), code=("Estimator", "Command"))
    return Section("computation", "How it was computed", (facts, *_weights(s)), brief=False)


def _weights(s: Study) -> Iterator[Table]:
    """What each component of a stack has to say, in percent."""
    weights: pd.DataFrame | None = getattr(s.est, "weights_", None)
    if weights is not None:
        frame = weights.reset_index()
        caption = "Weights of the stack's components, found on held-out rows"
        yield Table("weights", caption, frame, None, tuple(map(str, weights.columns)))


def _training(history: Sequence[Mapping[str, Any]]) -> str:
    """What training did, stage by stage: epochs, and the numbers of the last one."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for entry in history or ():
        stages.setdefault(str(entry.get("stage", "training")), []).append(entry)
    says = []
    for stage, entries in stages.items():
        last = [
            (name.replace("_", " "), value) for name, value in entries[-1].items() if name not in ("stage", "epoch")
        ]
        numbers = [f"{name} {number(value)}" for name, value in last if isinstance(value, int | float)]
        says.append(f"{stage}: {', '.join([f'{len(entries)} epochs', *numbers])}")
    return "; ".join(says)


def _versions() -> Iterator[tuple[str, str]]:
    yield "effects", __version__
    yield "Python", ".".join(map(str, sys.version_info[:3]))
    for name in ("numpy", "torch", "scikit-learn"):
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


# ---- pictures --------------------------------------------------------------------------------------------------------


def _draw_effect(effect: Effect, level: float, name: str, ax: Axes) -> Axes:
    return plots.plot_effect(effect, level=level, outcome_name=name, ax=ax)


def _draw_unit(
    outcomes: PotentialOutcomes, unit: int, level: float, name: str, limits: tuple[float, float] | None, ax: Axes
) -> Axes:
    plots.plot_outcomes(outcomes, unit, level=level, outcome_name=name, ax=ax)
    if limits is not None:
        ax.set_xlim(limits)
    return ax


def _shared_limits(outcomes: PotentialOutcomes) -> tuple[float, float] | None:
    """One axis for all units, unless that would leave one of them less than a seventh of the width."""
    if outcomes.kind == "binary":
        return 0.0, min(1.0, 1.35 * float(outcomes.draws.max()))
    low, high = outcomes.quantile([0.003, 0.99])
    low, high = low.min(axis=1), high.max(axis=1)
    width = float(high.max() - low.min())
    if not (high - low).min() > width / 7:
        return None
    return float(low.min()) - 0.05 * width, float(high.max()) + 0.05 * width


def _draw_pit(pit: FloatArray, labels: NDArray[Any], names: Sequence[str], level: float, ax: Axes) -> Axes:
    return plots.plot_calibration(pit, treatment=labels, arms=names, level=level, ax=ax)


def _draw_reliability(
    outcomes: PotentialOutcomes, y: FloatArray, labels: NDArray[Any], level: float, name: str, ax: Axes
) -> Axes:
    return plots.plot_calibration(outcomes, y, labels, level=level, outcome_name=name, ax=ax)


def _draw_overlap(e: FloatArray, labels: NDArray[Any], names: Sequence[str], ax: Axes) -> Axes:
    return plots.plot_overlap(e, labels, names, ax=ax)
