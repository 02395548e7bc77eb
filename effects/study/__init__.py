"""A whole study from one declarative file: `Plan.read` what is asked, `run` it; `effects.Report.from_study` tells it.

One file a word::

    plan        what is asked: STUDY.toml -> Plan
    draft       a commented plan to fill in, from a table
    table       the rows, with the roles of the plan -> Rows
    suspects    columns that may have come after the treatment
    findings    everything found, step by step -> Findings
    store       results as files, so that an interrupted study goes on
"""

from effects.study.draft import draft
from effects.study.findings import Findings, run
from effects.study.plan import Plan
from effects.study.suspects import suspects

__all__ = ["Findings", "Plan", "draft", "run", "suspects"]
