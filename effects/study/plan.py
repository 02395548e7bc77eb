"""What is asked, as written in a STUDY.toml before anything is computed: table, roles, estimand, estimator, checks."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

ESTIMANDS: Final = ("ATE", "ATT", "ATC", "ATO")
SCALES: Final = ("difference", "ratio", "odds ratio", "nnt")
DESIGNS: Final = ("observational", "trial")
KINDS: Final = ("auto", "continuous", "binary", "count")
TRIMS: Final = ("none", "crump", "fixed", "percentile", "common_range")
FORMATS: Final = ("html", "md", "tex", "txt")

#: Where each field of `Plan` stands in the file: section and key.
_PLACES: Final[dict[str, dict[str, str]]] = {
    "": {"title": "title"},
    "table": {"file": "table", "id": "id", "weights": "weights", "clusters": "clusters"},
    "question": {
        "text": "question", "design": "design", "treatment": "treatment", "control": "control", "treated": "treated",
        "probabilities": "probabilities", "outcome": "outcome", "outcome_kind": "outcome_kind",
        "outcome_unit": "outcome_unit", "higher_is_better": "higher_is_better", "estimands": "estimands",
        "scales": "scales", "drop_missing": "drop_missing",
    },
    "covariates": {"use": "covariates", "exclude": "excluded"},
    "estimator": {"name": "estimator", "settings": "settings", "random_state": "random_state"},
    "subgroups": {"by": "subgroups"},
    "checks": {
        "trim": "trim", "negative_controls": "negative_controls", "baseline_outcome": "baseline_outcome",
        "skip": "skip",
    },
    "report": {"level": "level", "formats": "formats"},
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A study as it was asked for.

    Attributes
    ----------
    table : str
        The file, relative to the plan's own folder.
    treatment, outcome : str
        Columns.
    control, treated : label, optional
        The arm to compare with, and of more than one other the arm that subgroups, decisions and sensitivity are about.
    probabilities : mapping of arm to probability
        Of a trial: the chance of each arm, the same for every unit. Empty: the arms' shares of the units.
    estimands : tuple of {"ATE", "ATT", "ATC", "ATO"}
        The first is the study's own.
    scales : tuple of {"difference", "ratio", "odds ratio", "nnt"}
        Besides the difference; empty: all that the outcome allows.
    covariates : tuple of str
        Empty: every column without another role.
    excluded : mapping of column to reason
    subgroups : tuple of str
        Named before the data are seen.
    trim : str
        Rule of `effects.diagnostics.trim`, or "none".
    words : mapping of str to str
        What no table can tell: the authors' answers to the items of the TARGET statement.
    path : str
        The file as it was named; "" for a plan made in Python.

    The others are as `effects.EffectEstimator` and `effects.estimate_ate` take them.

    Examples
    --------
    >>> plan = Plan(table="trial.csv", treatment="arm", outcome="bp", subgroups=("sex",))
    >>> plan.estimands, plan.command
    (('ATE', 'ATT'), '')
    """

    table: str
    treatment: str
    outcome: str
    title: str = ""
    question: str = ""
    design: str = "observational"
    control: Any = None
    treated: Any = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    outcome_kind: str = "auto"
    outcome_unit: str = ""
    higher_is_better: bool | None = None
    estimands: tuple[str, ...] = ("ATE", "ATT")
    scales: tuple[str, ...] = ()
    drop_missing: bool = True
    id: str | None = None
    weights: str | None = None
    clusters: str | None = None
    covariates: tuple[str, ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)
    estimator: str = "auto"
    settings: Mapping[str, Any] = field(default_factory=dict)
    random_state: int = 0
    subgroups: tuple[str, ...] = ()
    trim: str = "none"
    negative_controls: tuple[str, ...] = ()
    baseline_outcome: str | None = None
    skip: tuple[str, ...] = ()
    level: float = 0.95
    formats: tuple[str, ...] = ("html", "md", "tex")
    words: Mapping[str, str] = field(default_factory=dict)
    path: str = ""

    def __post_init__(self) -> None:
        for name in ("table", "treatment", "outcome"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{_said(name)} is empty: it must be named.")
        for name, known in (("design", DESIGNS), ("outcome_kind", KINDS), ("trim", TRIMS)):
            _one_of(name, getattr(self, name), known)
        for name, known in (("estimands", ESTIMANDS), ("scales", SCALES), ("formats", FORMATS)):
            for value in getattr(self, name):
                _one_of(name, value, known)
        if not self.estimands:
            raise ValueError(f"{_said('estimands')} is empty: name at least one of {', '.join(ESTIMANDS)}.")
        if not self.formats:
            raise ValueError(f"{_said('formats')} is empty: name at least one of {', '.join(FORMATS)}.")
        if not (isinstance(self.level, float) and 0 < self.level < 1):
            raise ValueError(f"{_said('level')} must lie between 0 and 1 (0.95 means 95%), got {self.level!r}.")
        total = sum(self.probabilities.values())
        if self.probabilities and abs(total - 1) > 1e-6:
            raise ValueError(f"{_said('probabilities')} add up to {total:g}: give those of all arms, they sum to 1.")
        if self.probabilities and self.design != "trial":
            raise ValueError(
                f'{_said("probabilities")} are those of a trial\'s design: set design = "trial" or drop them.'
            )

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """A plan from a file; `effects study --init TABLE` writes one to fill in.

        Raises
        ------
        FileNotFoundError
        ValueError
            Naming the section, the key, the value and the cure.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no plan {str(path)!r}: effects study --init TABLE writes one.")
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name} is not TOML: {error}.") from None
        return cls(**_fields(found), path=str(path))

    @property
    def folder(self) -> Path:
        """Where the plan stands, and its table is looked for."""
        return Path(self.path).parent if self.path else Path()

    @property
    def command(self) -> str:
        """What to type to get the study again."""
        import shlex

        return shlex.join(["effects", "study", self.path]) if self.path else ""

    def key(self, *, fit_only: bool = False) -> str:
        """Everything that results depend on, as text; with `fit_only` what the fitted model depends on."""
        free = {"title", "question", "words", "path", "formats", "outcome_unit"}  # enter no number
        if fit_only:
            free |= {"estimands", "scales", "subgroups", "trim", "skip", "level", "treated", "higher_is_better",
                     "clusters", "negative_controls", "baseline_outcome"}  # fmt: skip
        known = {name: value for name, value in asdict(self).items() if name not in free}
        if fit_only:  # these columns are no covariates, whatever the checks do with them
            known["apart"] = sorted({*self.negative_controls, self.baseline_outcome or "", self.clusters or ""})
        return json.dumps(known, sort_keys=True, default=str)


def _fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Plan` from what stands in the file, every key and type checked."""
    given: dict[str, Any] = {}
    types = {one.name: str(one.type) for one in fields(Plan)}
    for section, content in found.items():
        if section == "words":
            given["words"] = _mapping("words", content, str)
            continue
        if not isinstance(content, Mapping):
            if section not in _PLACES[""]:
                raise ValueError(f"{section!r} is no key of a plan{near(section, [*_PLACES[''], *_PLACES, 'words'])}")
            given[_PLACES[""][section]] = _typed(section, content, "str")
            continue
        if section not in _PLACES or not section:
            raise ValueError(f"[{section}] is no section of a plan{near(section, [*filter(None, _PLACES), 'words'])}")
        for key, value in content.items():
            if key not in _PLACES[section]:
                raise ValueError(f"[{section}] has no key {key!r}{near(key, _PLACES[section])}")
            name = _PLACES[section][key]
            given[name] = _typed(f"[{section}] {key}", value, types[name])
    for section, key in (("table", "file"), ("question", "treatment"), ("question", "outcome")):
        if not found.get(section, {}).get(key):
            raise ValueError(f"[{section}] {key} is missing: name it in the plan.")
    return given


def _typed(place: str, value: Any, kind: str) -> Any:
    """The value as the field holds it; "" stands for none."""
    if kind.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError(f'{place} must be a list of texts, such as ["a", "b"], got {value!r}.')
        return tuple(value)
    if kind.startswith("Mapping"):
        return _mapping(place, value, float if "float" in kind else str if "str, str" in kind else object)
    if kind == "Any" or kind.endswith("None"):
        if value == "":
            return None
        if kind.startswith("bool") and not isinstance(value, bool):
            raise ValueError(f'{place} must be true or false (or "" for unknown), got {value!r}.')
        if kind.startswith("str") and not isinstance(value, str):
            raise ValueError(f"{place} must be a text in quotes, got {value!r}.")
        return value
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    wanted: dict[str, type] = {"str": str, "bool": bool, "int": int}
    if kind not in wanted or not isinstance(value, wanted[kind]) or (kind == "int" and isinstance(value, bool)):
        words = {"str": "a text in quotes", "bool": "true or false", "int": "a whole number", "float": "a number"}
        raise ValueError(f"{place} must be {words[kind]}, got {value!r}.")
    return value


def _mapping(place: str, value: Any, kind: type) -> dict[str, Any]:
    number = kind is float
    good = isinstance(value, Mapping) and all(
        isinstance(one, (int, float) if number else kind) for one in value.values()
    )
    if not good:
        example = "arm = 0.5" if number else 'name = "text"'
        raise ValueError(f"{place} must hold lines such as {example}, got {value!r}.")
    return {str(key): float(one) if number else one for key, one in value.items()}


def _said(name: str) -> str:
    """A field by its place in the file."""
    for section, keys in _PLACES.items():
        for key, field_name in keys.items():
            if field_name == name:
                return f"[{section}] {key}" if section else key
    return name


def _one_of(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"{_said(name)}: {value!r} is not known{near(value, known)}")


def near(name: str, known: Iterable[object]) -> str:
    """The end of a message: the name that was probably meant, or the names there are."""
    names = [str(one) for one in known]
    folded = {one.casefold(): one for one in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    if close:
        return f"; did you mean {folded[close[0]]!r}?"
    return f"; there are: {', '.join(names[:12])}{' ...' if len(names) > 12 else ''}." if names else "."
