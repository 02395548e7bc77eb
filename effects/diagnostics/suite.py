"""All checks that apply to a study, in one call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, overload

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from effects.datasets import CausalDataset
from effects.diagnostics.balance import check_balance, check_missingness
from effects.diagnostics.benefit import benefit_calibration, c_for_benefit
from effects.diagnostics.evidence import Check
from effects.diagnostics.laws import check_calibration, coverage_by
from effects.diagnostics.means import check_outcome_model
from effects.diagnostics.overlap import check_overlap
from effects.diagnostics.ranking import rate
from effects.diagnostics.refutation import placebo_outcome, placebo_treatment, random_common_cause, subset_stability
from effects.individual import check_level
from effects.inference.sample import CrossFitting, fitted_arms

NOT_DONE = "Not done: "

#: What `run_checks` runs, in order, under the names that `Check.name` has; placebo outcomes follow.
CHECKS = (
    "missingness",
    "overlap",
    "balance",
    "outcome model",
    "calibration",
    "coverage by group",
    "benefit calibration",
    "C-for-benefit",
    "targeting",
    "placebo treatment",
    "random common cause",
    "subset stability",
)
PLACEBO = "placebo outcome"
BASELINE = "outcome before treatment"


@dataclass(frozen=True, eq=False)
class Checks(Sequence[Check]):
    """Checks of one study, in the order in which they were run.

    Attributes
    ----------
    checks : tuple of Check

    Examples
    --------
    >>> import pandas as pd
    >>> checks = Checks((Check("overlap", True, 0.8, 0.25, pd.DataFrame(), "Enough."),))
    >>> checks["overlap"].value, list(checks.to_frame()["verdict"])
    (0.8, ['passed'])
    """

    checks: tuple[Check, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "checks", tuple(self.checks))

    def __len__(self) -> int:
        return len(self.checks)

    @overload
    def __getitem__(self, position: int | str) -> Check: ...

    @overload
    def __getitem__(self, position: slice) -> Checks: ...

    def __getitem__(self, position: int | str | slice) -> Check | Checks:
        """A check by its place or its name; several for a slice."""
        if isinstance(position, slice):
            return Checks(self.checks[position])
        if isinstance(position, str):
            for check in self.checks:
                if check.name == position:
                    return check
            raise KeyError(f"no check {position!r} was run: there are {', '.join(one.name for one in self.checks)}.")
        return self.checks[position]

    def to_frame(self) -> pd.DataFrame:
        """One row a check: ``name, verdict, value, threshold, finding``.

        Verdicts are passed, failed, undecided (the data do not say), and not done (the finding has the reason).
        """
        columns = {
            "name": [check.name for check in self],
            "verdict": [_verdict(check) for check in self],
            "value": [check.value for check in self],
            "threshold": pd.Series([check.threshold for check in self], dtype="float64"),
            "finding": [check.text for check in self],
        }
        return pd.DataFrame(columns)

    @property
    def text(self) -> str:
        """One line a check."""
        return "\n".join(map(str, self))

    def __str__(self) -> str:
        return self.text


def _verdict(check: Check) -> str:
    if check.passed is not None:
        return "passed" if check.passed else "failed"
    return "not done" if check.text.startswith(NOT_DONE) else "undecided"


def run_checks(
    est: CrossFitting,
    X: Any,
    y: Any = None,
    *,
    treatment: Any = None,
    treated: Hashable = None,
    control: Hashable = None,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    estimand: str = "ATE",
    negative_controls: Mapping[str, Any] | pd.DataFrame | Sequence[str] | None = None,
    baseline_outcome: Any = None,
    skip: Iterable[str] = (),
    level: float = 0.95,
    random_state: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Checks:
    """Run every check that the data allow, and tell of those that they do not.

    In order: missingness, overlap, balance, outcome model, calibration, coverage by group (not of a binary outcome),
    benefit calibration, C-for-benefit (pairs matched by covariates, in a trial by predicted benefit), targeting,
    placebo treatment, random common cause, subset stability, then a placebo outcome for each negative control, and for
    the outcome before treatment. Held-out predictions are computed once. A check that cannot
    be done (an error, such as a treated arm that is not named, or no held-out laws) has ``passed=None`` and its reason
    as text; the others go on. Nothing is adjusted for the number of checks: at a level of 0.95, one test in twenty
    fails by chance.

    Parameters
    ----------
    est : fitted estimator
    X : DataFrame, ndarray or CausalDataset
        Of a CausalDataset its covariates, outcome and treatment; its propensities and truths are not looked at.
    y, treatment, sample_weight, propensity
        As in `estimate_ate`; y and treatment only where X is a table.
    treated, control : arm labels, optional
        The comparison; needed with more than two arms.
    estimand : {"ATE", "ATT", "ATC", "ATO"}
        Of overlap, balance and the refutations.
    negative_controls : mapping, DataFrame or list of names, optional
        Outcomes that the treatment cannot affect: arrays by name, or columns of X (see `placebo_outcome`).
    baseline_outcome : array_like or name of a column of X, optional
        The outcome as it was before treatment.
    skip : names of checks to leave out, optional
        As in `Checks.to_frame`; underscores will do for spaces.
    level : float, default 0.95
        Probability with which each test passes if all is well.
    random_state : int, default 0
    progress : callable, optional
        Called with the name of each check before it is run.

    Returns
    -------
    Checks

    Raises
    ------
    ValueError
        If a name to skip is unknown, or a data set comes with a second outcome or treatment.

    Examples
    --------
    >>> checks = run_checks(est, data)  # doctest: +SKIP
    >>> checks.to_frame()  # doctest: +SKIP
    """
    check_level(level)
    if isinstance(X, CausalDataset):
        if y is not None or treatment is not None:
            raise ValueError("X is a data set with its own outcome and treatment: leave y and treatment out.")
        X, y, treatment = X.X, X.y, X.treatment
    fitted_arms(est)
    once = type(type(est).__name__, (_Once,), {})(est)  # errors tell a user of their own estimator
    rows: dict[str, Any] = {"treatment": treatment, "sample_weight": sample_weight}
    known: dict[str, Any] = rows | {"propensity": propensity}
    pair: dict[str, Any] = {"treated": treated, "control": control}
    tilt: dict[str, Any] = pair | {"estimand": estimand}
    again: dict[str, Any] = tilt | {"random_state": random_state}
    jobs: dict[str, Callable[[], Check]] = {
        "missingness": partial(check_missingness, once, X, y, **rows, level=level),
        "overlap": partial(check_overlap, once, X, y, **known, **tilt),
        "balance": partial(check_balance, once, X, y, **known, **tilt),
        "outcome model": partial(check_outcome_model, once, X, y, **known, level=level),
        "calibration": partial(check_calibration, once, X, y, **known, level=level),
        "coverage by group": partial(coverage_by, once, X, y, **known, **pair, level=level),
        "benefit calibration": partial(benefit_calibration, once, X, y, **known, **pair, level=level),
        "C-for-benefit": partial(_concordance, once, X, y, **known, **pair, level=level),
        "targeting": partial(rate, once, X, y, **known, **pair, level=level, random_state=random_state),
        "placebo treatment": partial(placebo_treatment, once, X, y, **known, **again, level=level),
        "random common cause": partial(random_common_cause, once, X, y, **known, **again),
        "subset stability": partial(subset_stability, once, X, y, **known, **again, level=level),
    }
    for name, outcome in _placebos(negative_controls, baseline_outcome):
        jobs[f"{PLACEBO}: {name}"] = partial(_placebo, once, X, y, outcome, **known, **again, level=level, name=name)
    apart = left_out(skip, list(jobs))
    if est.schema_.outcome.kind == "binary":  # its risks are judged by their calibration
        apart.add("coverage by group")
    found = []
    for name, job in jobs.items():
        if name not in apart:
            if progress is not None:
                progress(name)
            found.append(_done(name, job))
    return Checks(tuple(found))


def _concordance(once: _Once, X: Any, y: Any, **options: Any) -> Check:
    """C-for-benefit, like with like: pairs by predicted benefit in a trial, by covariates where arms may differ."""
    rows = {name: options[name] for name in ("treatment", "sample_weight", "propensity")}
    e = np.asarray(once.cross_fitted(X, y, **rows).propensity)
    trial = bool(np.ptp(e, axis=0).max() <= 1e-9)
    return c_for_benefit(once, X, y, **options, match="benefit" if trial else "covariates")


def _placebo(once: _Once, X: Any, y: Any, outcome: Any, *, propensity: Any, **options: Any) -> Check:
    """A placebo outcome with the propensities of the study."""
    rows = {"treatment": options["treatment"], "sample_weight": options["sample_weight"], "propensity": propensity}
    return placebo_outcome(once, X, outcome, propensity=once.cross_fitted(X, y, **rows).propensity, **options)


def _done(name: str, job: Callable[[], Check]) -> Check:
    """The check, under the name it was announced by; an error becomes a check that says why it was not done."""
    try:
        check = job()
    except Exception as error:  # whatever a check stumbles over: the others, which may matter more, go on
        reason = str(error) or type(error).__name__
        return Check(name, None, float("nan"), None, pd.DataFrame(), f"{NOT_DONE}{reason}")
    return check if check.name == name else replace(check, name=name)


def _placebos(negative_controls: Any, baseline_outcome: Any) -> list[tuple[str, Any]]:
    """Names and values (or columns) of all outcomes that the treatment cannot affect."""
    found: list[tuple[str, Any]] = []
    if isinstance(negative_controls, str):
        found = [(negative_controls, negative_controls)]
    elif isinstance(negative_controls, Mapping | pd.DataFrame):
        found = [(str(name), values) for name, values in negative_controls.items()]
    elif negative_controls is not None:
        found = [(str(name), name) for name in negative_controls]
    return found if baseline_outcome is None else [*found, (BASELINE, baseline_outcome)]


def left_out(skip: Iterable[str], names: Iterable[str]) -> set[str]:
    """Which of the checks of these names to leave out; ``"placebo outcome"`` stands for all of them.

    Raises
    ------
    ValueError
        If a name to skip is unknown.
    """
    names = list(names)
    asked = [skip] if isinstance(skip, str) else list(skip)
    found: set[str] = set()
    for one in asked:
        wanted = one.replace("_", " ").lower()
        same = {name for name in names if wanted in (name.lower(), name.partition(":")[0].lower())}
        if not same and wanted not in (PLACEBO, *(name.lower() for name in CHECKS)):
            raise ValueError(f"there is no check {one!r} to skip: name some of {', '.join(map(repr, names))}.")
        found |= same
    return found


class _Once:
    """A fitted estimator that is asked for its held-out predictions once: all checks are about the same rows."""

    def __init__(self, est: CrossFitting) -> None:
        self._est = est
        self._values: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._est, name)

    def cross_fitted(self, X: Any, y: Any, **rows: Any) -> Any:
        if self._values is None:
            given = {name: values for name, values in rows.items() if name != "propensity" or values is not None}
            self._values = self._est.cross_fitted(X, y, **given)
        return self._values
