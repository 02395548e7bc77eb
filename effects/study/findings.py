"""Everything a study finds, computed step by step, each kept on disk as soon as it is done."""

from __future__ import annotations

import hashlib
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from effects import __version__
from effects.effect import Estimate, Estimates
from effects.heterogeneity.subgroups import Remembered
from effects.inference import (
    estimate_atc,
    estimate_ate,
    estimate_ato,
    estimate_att,
    estimate_qte,
    outcome_means,
)
from effects.nuisance import CrossFitted
from effects.study import store
from effects.study.plan import Plan, near
from effects.study.suspects import suspects
from effects.study.table import Rows, match_label

if TYPE_CHECKING:
    from effects.diagnostics import Check, Trimming
    from effects.estimator import EffectEstimator
    from effects.heterogeneity import Importance, Subgroups, SubgroupTree
    from effects.policy import DecisionCurve, PolicyValue
    from effects.schema import Schema
    from effects.sensitivity import EValue, MarginalSensitivity, OmittedVariableBias

#: ``progress(step, position, n_steps)``, before each.
Progress = Callable[[str, int, int], None]

_ASK: Final[dict[str, Callable[..., Estimate]]] = {
    "ATE": estimate_ate, "ATT": estimate_att, "ATC": estimate_atc, "ATO": estimate_ato,
}  # fmt: skip
_SCALES: Final = {
    "binary": ("difference", "ratio", "odds ratio", "nnt"),
    "count": ("difference", "ratio"),
    "continuous": ("difference",),
}
N_STEPS: Final = 16
_LIBRARIES: Final = ("numpy", "scipy", "pandas", "scikit-learn", "torch", "statsmodels", "econml")


@dataclass(frozen=True, eq=False)
class Findings:
    """What a study found; `effects.Report.from_study` tells it.

    Attributes
    ----------
    plan : Plan
    source : mapping
        file, sha256, rows, columns of the table.
    flow : tuple of (text, int)
        From the table to the rows analysed; rows left out are negative.
    columns : DataFrame
        The covariates as used: kind, missing, levels.
    X, y, treatment : DataFrame, Series, Series
        The rows analysed.
    est : fitted EffectEstimator
    estimator : str
        Its name.
    naive : mapping of arm to Estimate
        Unadjusted difference against control.
    means : mapping of arm to Estimate
        Adjusted means of the outcome.
    averages : tuple of Estimate
        The study's own estimand first.
    quantiles : Estimates or None
    baseline, baseline_weighted : DataFrame
        Characteristics by arm, as they are and weighted to the population.
    checks : tuple of Check
    trimming : Trimming or None
    subgroups, tree, importance, projection
        How the effect varies.
    policy, curve
        What it would be worth to treat by it.
    evalue, omitted, marginal
        How strong hidden confounding must be to change the answer.
    cautions : tuple of str
        What was warned of, each once.
    skipped : mapping of step to reason
    seconds : mapping of step to time
    versions : mapping of library to version
    command : str
    """

    plan: Plan
    source: Mapping[str, Any]
    flow: tuple[tuple[str, int], ...]
    columns: pd.DataFrame = field(repr=False)
    X: pd.DataFrame = field(repr=False)
    y: pd.Series = field(repr=False)
    treatment: pd.Series = field(repr=False)
    est: Any = field(repr=False)
    estimator: str
    naive: Mapping[Hashable, Estimate] = field(repr=False)
    means: Mapping[Hashable, Estimate] = field(repr=False)
    averages: tuple[Estimate, ...]
    quantiles: Estimates | None = field(default=None, repr=False)
    baseline: pd.DataFrame | None = field(default=None, repr=False)
    baseline_weighted: pd.DataFrame | None = field(default=None, repr=False)
    checks: tuple[Check, ...] = field(default=(), repr=False)
    trimming: Trimming | None = field(default=None, repr=False)
    subgroups: Subgroups | None = field(default=None, repr=False)
    tree: SubgroupTree | None = field(default=None, repr=False)
    importance: Importance | None = field(default=None, repr=False)
    projection: Estimates | None = field(default=None, repr=False)
    policy: PolicyValue | None = field(default=None, repr=False)
    curve: DecisionCurve | None = field(default=None, repr=False)
    evalue: EValue | None = field(default=None, repr=False)
    omitted: OmittedVariableBias | None = field(default=None, repr=False)
    marginal: MarginalSensitivity | None = field(default=None, repr=False)
    cautions: tuple[str, ...] = field(default=(), repr=False)
    skipped: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict, repr=False)
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)
    command: str = ""


def run(
    plan: Plan,
    *,
    table: pd.DataFrame | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Findings:
    """Do a study from its plan.

    The model is fitted once; every number rests on its held-out predictions. A step that fails, or does not apply, is
    left out with its reason in ``Findings.skipped``; the study goes on.

    Parameters
    ----------
    plan : Plan
    table : DataFrame, optional
        In place of the plan's file.
    folder : path, optional
        Where the model and each step's result are kept as soon as they are there: after an interruption the same call
        goes on where it stopped. What the plan or the table no longer asks for is computed anew.
    progress : callable, optional
        ``progress(step, position, n_steps)`` is called before each step.

    Returns
    -------
    Findings

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the key of the plan, the column and the cure; before any model is fitted.

    Examples
    --------
    >>> findings = run(Plan.read("STUDY.toml"), folder="STUDY_files")  # doctest: +SKIP
    >>> print(findings.averages[0])  # doctest: +SKIP
    """
    study = _Run(plan, Rows.of(plan, table), None if folder is None else Path(folder), progress)
    return study.findings()


class _Run:
    """The steps of one study, and what they share."""

    def __init__(self, plan: Plan, rows: Rows, folder: Path | None, progress: Progress | None) -> None:
        self.plan, self.rows, self.progress = plan, rows, progress
        self.make = estimator_of(plan)
        _check_skip(plan)
        self.skipped: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.cautions: dict[str, None] = dict.fromkeys(rows.notes)
        self.done = 0
        facts = f"{rows.source['sha256']}{__version__}"
        self.fit_key = _digest(facts + plan.key(fit_only=True))
        self.folder = None if folder is None else _kept(folder, self.fit_key, _digest(facts + plan.key()))
        others = [arm for arm in rows.arms[1:]]
        label = pd.Series(others, dtype=object, name=plan.treatment)
        self.treated = others[0] if plan.treated is None else match_label(plan.treated, label, "[question] treated")

    # ------------------------------------------------------------------ the frame around every step

    def step(self, name: str, compute: Callable[[], Any]) -> Any:
        """A step's result: read, or computed and kept; None, with the reason in `skipped`, if it fails."""
        if self.progress is not None:
            self.progress(name, self.done, N_STEPS)
        self.done += 1
        path = None if self.folder is None else self.folder / f"{name.replace(' ', '_')}.json"
        if path is not None and path.is_file():
            kept = _read(path)
            if kept is not None:
                value, cautions, self.seconds[name] = kept
                self.cautions |= dict.fromkeys(cautions)
                return value
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                value = compute()
            except _NotAsked as reason:
                self.skipped[name] = str(reason)
                return None
            except Exception as error:  # the study goes on, and says so
                self.skipped[name] = f"it failed: {' '.join(str(error).split()) or type(error).__name__}"
                return None
        said = tuple(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))
        self.cautions |= dict.fromkeys(said)
        self.seconds[name] = time.perf_counter() - start
        if path is not None:
            store.write(path, (value, said, self.seconds[name]))
        return value

    def ask(self, function: Callable[..., Any], *, arms: bool = True, **options: Any) -> Any:
        """A function of the fitted estimator and the rows, with all that the plan says of them."""
        rows = self.rows
        if arms:
            options = {"treated": self.treated, "control": rows.arms[0], **options}
        if rows.weight is not None:
            options["sample_weight"] = rows.weight
        return function(self.est, rows.X, rows.y, treatment=rows.treatment, **options)

    @property
    def clusters(self) -> dict[str, Any]:
        return {} if self.rows.groups is None else {"groups": self.rows.groups}

    # ------------------------------------------------------------------ the steps

    def findings(self) -> Findings:
        plan = self.plan
        self.est = self.fitted()
        all_rows = self.rows
        baseline = self.step("baseline", lambda: self.baseline(False))
        trimming = self.step("trimming", self.trimming)
        if trimming is None and plan.trim != "none":  # another population than the one that was asked for
            raise ValueError(f'[checks] trim = "{plan.trim}": {self.skipped["trimming"].removeprefix("it failed: ")}')
        if trimming is not None:
            self.rows = all_rows.take(np.asarray(trimming.keep), f"left out: no overlap ({plan.trim})")
        averages = self.step("averages", self.averages)
        if averages is None:
            raise ValueError(f"the average effect could not be estimated: {self.skipped['averages']}")
        naive, means, each, refused = averages
        self.skipped |= refused
        if plan.outcome_unit and self.est.schema_.outcome.kind == "continuous":
            each = tuple(replace(one, unit=plan.outcome_unit) if one.link == "identity" else one for one in each)
        weighted = self.step("weighted baseline", lambda: self.baseline(True))
        quantiles = self.step("quantiles", self.quantiles)
        checks = self.step("checks", self.checks) or ()
        found = {
            name: self.step(name, compute)
            for name, compute in {
                "subgroups": self.subgroups, "tree": self.tree, "importance": self.importance,
                "projection": self.projection, "policy": self.policy, "curve": self.curve,
                "evalue": lambda: self.evalue(each[0]), "omitted": self.omitted, "marginal": self.marginal,
            }.items()
        }  # fmt: skip
        schema: Schema = self.est.schema_
        return Findings(
            plan, self.rows.source, self.rows.flow, _columns(schema, all_rows.X), self.rows.X, self.rows.y,
            self.rows.treatment, self.est, type(self.est).__name__, naive, means, each, quantiles, baseline, weighted,
            (self.suspected(all_rows), *checks), trimming, **found, cautions=_each_once(self.cautions),
            skipped=self.skipped, seconds=self.seconds, versions=_versions(), command=plan.command,
        )  # fmt: skip

    def fitted(self) -> EffectEstimator:
        """The estimator, fitted or read."""
        from effects import load

        if self.progress is not None:
            self.progress("fit", self.done, N_STEPS)
        self.done += 1
        path = None if self.folder is None else self.folder.parent / f"fit-{self.fit_key}.effects"
        if path is not None and path.is_file():
            try:
                est: EffectEstimator = load(path)
            except ValueError:  # of another version, or damaged
                path.unlink()
            else:
                kept = _read(said) if (said := path.with_suffix(".json")).is_file() else None
                if kept is not None:
                    _, cautions, self.seconds["fit"] = kept
                    self.cautions |= dict.fromkeys(cautions)
                return est
        rows, start = self.rows, time.perf_counter()
        options = {} if rows.propensity is None else {"propensity": rows.propensity}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            est = self.make(rows.arms[0]).fit(
                rows.X, rows.y, treatment=rows.treatment, sample_weight=rows.weight, **options
            )
        heard = tuple(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))
        self.cautions |= dict.fromkeys(heard)
        self.seconds["fit"] = time.perf_counter() - start
        if path is not None:
            store.write(path.with_suffix(".json"), (None, heard, self.seconds["fit"]))
            with suppress(TypeError):  # holds another library's objects: it is fitted again next time
                est.save(path, held_out=True)
        return est

    def baseline(self, weighted: bool) -> pd.DataFrame:
        from effects.diagnostics import baseline_table

        if not weighted:
            return self.ask(baseline_table, arms=False)
        name = self.plan.estimands[0]
        one = name in ("ATT", "ATC")  # whose population is that of one pair of arms
        return self.ask(baseline_table, arms=one, weighted=True, estimand=name)

    def trimming(self) -> Trimming:
        from effects.diagnostics import trim

        if self.plan.trim == "none":
            raise _NotAsked('no rule was asked for ([checks] trim = "none")')
        return self.ask(trim, rule=self.plan.trim)

    def averages(
        self,
    ) -> tuple[dict[Hashable, Estimate], dict[Hashable, Estimate], tuple[Estimate, ...], dict[str, str]]:
        """Unadjusted differences, adjusted means, every estimand on every scale (the study's own first), and which
        scales there are no estimates on, with the reason."""
        rows, plan, level = self.rows, self.plan, self.plan.level
        kind = self.est.schema_.outcome.kind
        naive = {arm: self.unadjusted(arm) for arm in rows.arms[1:]}
        means = self.ask(outcome_means, arms=False, level=level, **self.clusters)
        found: list[Estimate] = []
        refused: dict[str, str] = {}
        # the difference first, whatever else is asked for: the page, subgroups and sensitivity are about it
        scales = dict.fromkeys(("difference", *(plan.scales or _SCALES[kind])))
        arms = [self.treated, *(arm for arm in rows.arms[1:] if arm != self.treated)]
        for k, name in enumerate(plan.estimands):
            for arm in arms:
                for scale in scales if k == 0 else ("difference",):
                    try:
                        found.append(self.average(name, arm, scale=scale))
                    except ValueError as error:
                        if scale == "difference":
                            raise
                        refused[f"{name}, {scale}"] = str(error)
                if k == 0:
                    found.append(self.average(name, arm, method="tmle"))
        return naive, means, tuple(found), refused

    def average(self, name: str, arm: Hashable, **options: Any) -> Estimate:
        estimate: Estimate = self.ask(_ASK[name], treated=arm, level=self.plan.level, **self.clusters, **options)
        return estimate

    def unadjusted(self, arm: Hashable) -> Estimate:
        """Difference of the arms as they came, by the same formula with nothing known of x: Welch's."""
        rows, schema = self.rows, self.est.schema_
        a, y = schema.encode_treatment(rows.treatment), schema.encode_outcome(rows.y)
        weight = np.ones(len(y)) if rows.weight is None else rows.weight
        n_arms = len(rows.arms)
        share = np.bincount(a, weight, minlength=n_arms) / weight.sum()
        mean = np.bincount(a, weight * y, minlength=n_arms) / np.bincount(a, weight, minlength=n_arms)
        blind = CrossFitted(np.tile(mean, (len(y), 1)), np.tile(share, (len(y), 1)))
        plain = Remembered(schema, rows.arms, blind)
        found = estimate_ate(
            plain, rows.X, rows.y, treatment=rows.treatment, treated=arm, sample_weight=rows.weight,
            level=self.plan.level, **self.clusters,
        )  # fmt: skip
        return replace(found, estimand="naive difference", method="difference of means, unadjusted")

    def quantiles(self) -> Estimates:
        kind = self.est.schema_.outcome.kind
        if kind != "continuous":
            raise _NotAsked(f"a {kind} outcome has no quantiles worth a table")
        return self.ask(estimate_qte, q=(0.1, 0.25, 0.5, 0.75, 0.9), level=self.plan.level, **self.clusters)

    def checks(self) -> tuple[Check, ...]:
        from effects.diagnostics import run_checks

        plan, rows = self.plan, self.rows
        controls = None if rows.controls.shape[1] == 0 else rows.controls
        options: dict[str, Any] = {"estimand": plan.estimands[0], "skip": plan.skip, "random_state": plan.random_state}
        if self.progress is not None:
            done, progress = self.done - 1, self.progress
            options["progress"] = lambda name: progress(f"checks: {name}", done, N_STEPS)
        found = self.ask(run_checks, negative_controls=controls, baseline_outcome=rows.baseline, **options)
        return tuple(found)

    def suspected(self, rows: Rows) -> Check:
        """Whether covariates look as if they came after the treatment."""
        from effects.diagnostics import Check

        table = suspects(rows.X, rows.y, rows.treatment)
        if table.empty:
            text = "No covariate foretells the outcome or the treatment almost alone, or is named as if it came later."
        else:
            text = (
                f"{', '.join(table.index[:6])}{' and others' if len(table) > 6 else ''}: look whether "
                f"{'this was' if len(table) == 1 else 'these were'} known before the treatment, and exclude what was "
                "not ([covariates] exclude)."
            )
        return Check("covariates from before the treatment", True if table.empty else None, len(table), 0, table, text)

    def subgroups(self) -> Subgroups:
        from effects.heterogeneity import subgroup_effects

        if not self.plan.subgroups:
            raise _NotAsked("no subgroups were named before the analysis ([subgroups] by)")
        return self.ask(subgroup_effects, by=list(self.plan.subgroups), level=self.plan.level, **self.clusters)

    def tree(self) -> SubgroupTree:
        from effects.heterogeneity import subgroup_tree

        return self.ask(
            subgroup_tree, level=self.plan.level, random_state=self.plan.random_state, **self.clusters
        )  # fmt: skip

    def importance(self) -> Importance:
        from effects.heterogeneity import modifier_importance

        return modifier_importance(
            self.est, self.rows.X, treated=self.treated, level=self.plan.level, random_state=self.plan.random_state
        )

    def projection(self) -> Estimates:
        from effects.heterogeneity import best_linear_projection

        on = list(self.plan.subgroups)
        if not on:
            raise _NotAsked("no modifiers were named before the analysis ([subgroups] by)")
        fit = self.ask(best_linear_projection, on=on, **self.clusters)
        n, names = int(fit.nobs), tuple(fit.model.exog_names)
        common: dict[str, Any] = {"method": "least squares of AIPW scores, HC3", "n": n}
        common |= {"estimand": "change of the effect", "level": self.plan.level, "df": float(fit.df_resid)}
        each = [Estimate(float(value), float(se), **common) for value, se in zip(fit.params, fit.bse, strict=True)]
        return Estimates(each, np.asarray(fit.cov_params()), names, by="covariate", n=n)

    def policy(self) -> PolicyValue:
        from effects.policy import policy_value

        better = self.better()
        return self.ask(
            policy_value, arms=False, policy=None, higher_is_better=better, level=self.plan.level, **self.clusters
        )

    def curve(self) -> DecisionCurve:
        from effects.policy import decision_curve

        return self.ask(decision_curve, higher_is_better=self.better(), level=self.plan.level, **self.clusters)

    def better(self) -> bool:
        if self.plan.higher_is_better is None:
            raise _NotAsked("the plan does not say whether more of the outcome is better ([question] higher_is_better)")
        return self.plan.higher_is_better

    def evalue(self, estimate: Estimate) -> EValue:
        from effects.sensitivity import e_value

        if self.plan.design == "trial":
            raise _NotAsked("arms were randomised: a hidden common cause is excluded by design")
        kind = self.est.schema_.outcome.kind
        if kind != "continuous":
            estimate = self.average(self.plan.estimands[0], self.treated, scale="ratio")
            return e_value(estimate)
        y = self.est.schema_.encode_outcome(self.rows.y)
        return e_value(estimate, sd=float(np.std(y, ddof=1)))

    def omitted(self) -> OmittedVariableBias:
        from effects.sensitivity import omitted_variable_bias

        if self.plan.design == "trial":
            raise _NotAsked("arms were randomised: a hidden common cause is excluded by design")
        return self.ask(omitted_variable_bias, estimand=self.hidden(), level=self.plan.level, **self.clusters)

    def marginal(self) -> MarginalSensitivity:
        from effects.sensitivity import marginal_sensitivity

        if self.plan.design == "trial":
            raise _NotAsked("arms were randomised: a hidden common cause is excluded by design")
        return self.ask(marginal_sensitivity, estimand=self.hidden(), level=self.plan.level, **self.clusters)

    def hidden(self) -> str:
        """The estimand whose sensitivity to hidden causes is asked: the study's own, where it has formulas for it."""
        return self.plan.estimands[0] if self.plan.estimands[0] in ("ATE", "ATT") else "ATE"


class _NotAsked(Exception):
    """A step that does not apply; its text says why."""


def estimator_of(plan: Plan) -> Callable[[Hashable], EffectEstimator]:
    """What makes the plan's estimator for a control arm.

    Raises
    ------
    ValueError
        If there is no estimator of that name, or it has no such setting.
    """
    from effects.models import _ESTIMATORS, SHORT_NAMES

    name = SHORT_NAMES.get(plan.estimator.lower())
    if name is None:
        raise ValueError(f"[estimator] name: {plan.estimator!r} is not known{near(plan.estimator, SHORT_NAMES)}")
    cls = getattr(import_module(_ESTIMATORS[name]), name)
    options = cls._get_param_names()
    for key in plan.settings:
        if key not in options or key in ("outcome", "control", "random_state"):
            raise ValueError(f"[estimator.settings] {key!r} is no setting of {name}{near(key, options)}")
    settings = {"outcome": plan.outcome_kind, "random_state": plan.random_state, **plan.settings}
    return lambda control: cls(control=control, **settings)


def _check_skip(plan: Plan) -> None:
    """The checks to skip are known: said before the fit, not after it."""
    from effects.diagnostics.suite import BASELINE, CHECKS, PLACEBO, left_out

    placebos = (f"{PLACEBO}: {name}" for name in (*plan.negative_controls, BASELINE))
    try:
        left_out(plan.skip, (*CHECKS, *placebos))
    except ValueError as error:
        raise ValueError(f"[checks] skip: {error}") from None


def _kept(folder: Path, fit_key: str, key: str) -> Path:
    """The folder of this very study's results; those of another plan or table are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.is_dir() and old.name.startswith("steps-") and old.name != f"steps-{key}":
            shutil.rmtree(old)
        elif old.name.startswith("fit-") and old.stem != f"fit-{fit_key}":
            old.unlink()
    steps = folder / f"steps-{key}"
    steps.mkdir(exist_ok=True)
    return steps


def _read(path: Path) -> tuple[Any, Sequence[str], float] | None:
    """A step's result; None where the file is damaged or of another version, and is computed again."""
    try:
        value, cautions, seconds = store.read(path)
    except (ImportError, ValueError):
        path.unlink()
        return None
    return value, cautions, seconds


def _each_once(cautions: Iterable[str]) -> tuple[str, ...]:
    """What was warned of; of weak overlap once, for every step says it again of some of the same rows."""
    found = list(cautions)
    weak = [one for one in found if one.startswith("Weak overlap:")]
    return tuple(one for one in found if one not in weak[1:])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _columns(schema: Schema, X: pd.DataFrame) -> pd.DataFrame:
    """The covariates as the models take them."""
    known = schema.describe()
    known["missing"] = [int(X[name].isna().sum()) for name in X.columns]
    return known


def _versions() -> dict[str, str]:
    found = {"effects": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # pragma: no cover - a library that was installed in its own way
            continue
    return found
