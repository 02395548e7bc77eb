"""The 21 items of the TARGET statement: which of them a table answers, and which its authors must.

The items are told here in our own words, by the numbers of the published checklist; whoever submits a paper fills in
that checklist itself:

Cashin AG, Hansford HJ, Hernán MA, et al. Transparent Reporting of Observational Studies Emulating a Target Trial: the
TARGET statement. JAMA 2025, doi:10.1001/jama.2025.13350; BMJ 2025, doi:10.1136/bmj-2025-087179.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from effects.report.blocks import Facts, Prose, Table, field_of

CITATION: Final = (
    "Cashin AG, Hansford HJ, Hernán MA, et al. Transparent reporting of observational studies emulating a target "
    "trial: the TARGET statement. JAMA 2025, doi:10.1001/jama.2025.13350; BMJ 2025, doi:10.1136/bmj-2025-087179."
)

#: Every key of [words] in STUDY.toml, and what to write there; `effects study --init` writes them as comments.
KEYS: Final[dict[str, str]] = {
    "background": "what is known of the treatment and the outcome, and which gap this study fills",
    "rationale": "why a target trial is emulated instead of run, and which trials its protocol is modelled on",
    "data_source": "where the data come from: what for, where and when they were collected, how tables were linked",
    "eligibility": "target trial: who would have been eligible, and when",
    "emulated_eligibility": "emulation: how eligibility was read from the data",
    "strategies": "target trial: the treatment strategies that would have been compared, in full",
    "emulated_strategies": "emulation: how it was read from the data who followed which strategy",
    "assignment": "target trial: how patients would have been assigned, and whether blinded (trial: how they were)",
    "emulated_assignment": "emulation: how assignment was read from the data, and why these covariates suffice for it",
    "follow_up": "target trial: when follow-up would have started (time zero) and ended",
    "emulated_follow_up": "emulation: how time zero and the end of follow-up were set in the data",
    "outcomes": "target trial: the outcome, how and when it would have been measured",
    "emulated_outcomes": "emulation: how the outcome was measured in the data, and how well",
    "contrasts": "target trial: intention-to-treat or per-protocol effect, and on which scale",
    "assumptions": "target trial: what would have had to hold, such as no differential loss to follow-up",
    "emulated_assumptions": "emulation: why the assumptions of this page are plausible here, if possible with a graph",
    "analysis": "target trial: how it would have been analysed",
    "emulated_analysis": "emulation: what was planned beforehand, what was changed afterwards and why",
    "selection": "how many were assessed, how many were eligible, and why the others were not, before this table",
    "follow_up_length": "how long units were followed, and how many were lost, stopped or switched, by arm",
    "missing_data": "why values are missing, and whether what is known explains it",
    "interpretation": "what the findings mean, with other evidence, and for whom",
    "limitations": "where emulation and target trial differ, what may bias the findings, in which direction",
    "ethics": "approval by an ethics committee, or why none was needed; consent",
    "registration": "where and when the study and its protocol were registered; departures from it",
    "data_sharing": "whether and how data, code and materials can be had",
    "funding": "who paid, and what part they had in the study",
    "interests": "conflicts of interest of the authors",
}


@dataclass(frozen=True)
class Item:
    """One item of the checklist: its number, its section, what to report, where the page does so, by which keys.

    `places` names sections of the page whose numbers answer it; `keys` what its authors have to say. `trial` says
    whether the item is asked of a randomised trial too.
    """

    number: str
    group: str
    text: str
    places: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    trial: bool = True


ITEMS: Final[tuple[Item, ...]] = (
    Item("1a", "Abstract", "Say that an observational study emulates a target trial", ("top",), (), False),
    Item("1b", "Abstract", "Name the source of the data", ("data",), ("data_source",)),
    Item("1c", "Abstract", "Sum up assumptions, methods, findings and conclusion", ("top",), ("interpretation",)),
    Item("2", "Introduction", "Background: what is known and what is not", (), ("background",)),
    Item("3", "Introduction", "The causal question", ("question",)),
    Item("4", "Introduction", "Why emulate a target trial; which trials guided it", (), ("rationale",), False),
    Item("5", "Methods", "Sources of the data: purpose, kind, place, period, linkage", ("data",), ("data_source",)),
    Item("6a", "Methods", "Target trial: eligibility", (), ("eligibility",)),
    Item("6b", "Methods", "Target trial: treatment strategies", (), ("strategies",)),
    Item("6c", "Methods", "Target trial: assignment", (), ("assignment",)),
    Item("6d", "Methods", "Target trial: start and end of follow-up", (), ("follow_up",)),
    Item("6e", "Methods", "Target trial: outcomes", (), ("outcomes",)),
    Item("6f", "Methods", "Target trial: causal contrasts and measures of effect", ("protocol",), ("contrasts",)),
    Item("6g", "Methods", "Target trial: identifying assumptions", (), ("assumptions",)),
    Item("6h", "Methods", "Target trial: plan of analysis", (), ("analysis",)),
    Item("7a", "Methods", "Emulation: eligibility", (), ("emulated_eligibility",), False),
    Item("7b", "Methods", "Emulation: treatment strategies", ("protocol",), ("emulated_strategies",), False),
    Item("7c", "Methods", "Emulation: assignment", ("protocol",), ("emulated_assignment",), False),
    Item("7d", "Methods", "Emulation: follow-up", (), ("emulated_follow_up",), False),
    Item("7e", "Methods", "Emulation: outcomes", ("protocol",), ("emulated_outcomes",), False),
    Item("7f", "Methods", "Emulation: causal contrasts", ("question", "protocol"), (), False),
    Item(
        "7g", "Methods", "Emulation: identifying assumptions", ("assumptions",), ("emulated_assumptions",),
        False,
    ),
    Item(
        "7h", "Methods", "Emulation: analysis, as done", ("protocol", "computation"), ("emulated_analysis",), False,
    ),
    Item("8", "Results", "Selection of participants, with a flow diagram", ("flow",), ("selection",)),
    Item("9", "Results", "Baseline characteristics by arm", ("baseline", "balance")),
    Item("10", "Results", "Length of follow-up and why it ended, by arm", (), ("follow_up_length",)),
    Item("11", "Results", "Missing data, by variable and arm", ("data", "checks"), ("missing_data",)),
    Item("12", "Results", "The outcome by arm", ("estimates",)),
    Item("13", "Results", "Effects with their precision, absolute and relative", ("estimates",)),
    Item(
        "14", "Results", "Further analyses: subgroups, checks, sensitivity",
        ("overlap", "heterogeneity", "checks", "sensitivity"),
    ),
    Item("15", "Discussion", "Interpretation", (), ("interpretation",)),
    Item("16", "Discussion", "Limitations", ("limitations",), ("limitations",)),
    Item("17", "Other information", "Ethics", (), ("ethics",)),
    Item("18", "Other information", "Registration and protocol", (), ("registration",)),
    Item("19", "Other information", "Sharing of data and code", ("computation",), ("data_sharing",)),
    Item("20", "Other information", "Funding", (), ("funding",)),
    Item("21", "Other information", "Conflicts of interest", (), ("interests",)),
)  # fmt: skip

#: The section of the page where each key's text is printed.
PRINTED: Final[dict[str, str]] = {
    **dict.fromkeys(("background", "rationale"), "question"),
    **dict.fromkeys(("data_source", "missing_data"), "data"),
    **dict.fromkeys(("selection", "follow_up_length"), "flow"),
    **dict.fromkeys(("interpretation", "limitations"), "limitations"),
    **dict.fromkeys(("ethics", "registration", "data_sharing", "funding", "interests"), "other"),
}


def said(words: Mapping[str, str], key: str) -> str:
    """What the authors say under a key, or the field that waits for it."""
    return " ".join(words.get(key, "").split()) or field_of(key)


def said_beside(words: Mapping[str, str], key: str, known: str) -> str:
    """What the table tells, followed by what the authors say under a key."""
    text = " ".join(words.get(key, "").split())
    return f"{known} {text}" if text else f"{known} ({field_of(key)})"


def facts(words: Mapping[str, str], *pairs: tuple[str, str]) -> Facts:
    """Terms with the authors' words, or open fields: pairs of term and key."""
    return Facts(tuple((term, said(words, key)) for term, key in pairs))


def paragraphs(words: Mapping[str, str], key: str) -> tuple[Prose, ...]:
    """The authors' text under a key, paragraph by paragraph; one open field where there is none."""
    parts = [" ".join(part.split()) for part in words.get(key, "").strip().split("\n\n")]
    return tuple(Prose(part) for part in parts if part) or (Prose(field_of(key)),)


def protocol(words: Mapping[str, str], known: Mapping[str, str]) -> Table:
    """The target trial beside its emulation, component by component; `known` says what the table itself tells."""
    parts = (
        ("Eligibility", "eligibility"),
        ("Treatment strategies", "strategies"),
        ("Assignment", "assignment"),
        ("Follow-up", "follow_up"),
        ("Outcome", "outcomes"),
        ("Causal contrast", "contrasts"),
        ("Assumptions", "assumptions"),
        ("Analysis", "analysis"),
    )
    rows = []
    for name, key in parts:
        emulated = f"emulated_{key}"
        told = known.get(emulated, "")
        if key == "contrasts":
            rows.append((name, said(words, key), told))
        else:
            rows.append((name, said(words, key), said_beside(words, emulated, told) if told else said(words, emulated)))
    frame = pd.DataFrame(rows, columns=["component", "target trial", "emulation with these data"])
    return Table("protocol", "The target trial, and how it was emulated", frame)


def trial_protocol(words: Mapping[str, str], known: Mapping[str, str]) -> Facts:
    """The same of a trial that was run."""
    pairs = (
        ("Eligibility", said(words, "eligibility")),
        ("Interventions", said_beside(words, "strategies", known["emulated_strategies"])),
        ("Randomisation", said(words, "assignment")),
        ("Follow-up", said(words, "follow_up")),
        ("Outcome", said_beside(words, "outcomes", known["emulated_outcomes"])),
        ("Causal contrast", said_beside(words, "contrasts", known["emulated_contrasts"])),
        ("Assumptions", said(words, "assumptions")),
        ("Analysis", said_beside(words, "analysis", known["emulated_analysis"])),
    )
    return Facts(pairs)


def checklist(
    words: Mapping[str, str], titles: Mapping[str, str], closed: Sequence[str] = (), trial: bool = False
) -> Table:
    """Item, what to report, and where the page does: sections as links, or the keys that wait for the authors' words.

    Parameters
    ----------
    words : mapping
        [words] of the plan.
    titles : mapping
        Name of each section of the page to its title.
    closed : sequence of str
        Names of sections that could compute nothing: they are not offered as an answer.
    trial : bool
        A randomised trial: items that only an emulation has are left out, and so are the numbers.
    """
    rows, links = [], []
    for item in ITEMS:
        if trial and not item.trial:
            continue
        missing = [key for key in item.keys if not words.get(key, "").strip()]
        told = [PRINTED.get(key, "protocol") for key in item.keys if key not in missing]
        names = list(dict.fromkeys(name for name in (*item.places, *told) if name in titles and name not in closed))
        where = [titles[name] for name in names] + [f"open: words.{key}" for key in missing]
        text = item.text.removeprefix("Target trial: ").capitalize() if trial else item.text
        rows.append((item.number, item.group, text, "; ".join(where)))
        links.append(tuple((name, titles[name]) for name in names))
    frame = pd.DataFrame(rows, columns=["item", "section", "what to report", "where"])
    caption = "What there is to report of a study like this" if trial else "The items of the TARGET statement"
    return Table("checklist", caption, frame, hidden=("item",) if trial else ("section",), links=tuple(links))
