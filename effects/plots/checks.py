"""Pictures of the checks in `effects.diagnostics`, and of the support of units."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from effects.diagnostics import Check
from effects.diagnostics.evidence import p_text
from effects.diagnostics.laws import BAND
from effects.plots.style import (
    COLOURS,
    DASHED,
    DOTTED,
    FAINT,
    INK,
    add_note,
    arm_style,
    axes_or_new,
    finish,
    number,
    percent,
    set_title,
    share_of,
    short,
    tick,
    tint,
    with_unit,
)
from effects.support import Support

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 1500  # points of units that are drawn; flagged ones first


def plot_pit(check: Check, *, ax: Axes | None = None) -> Axes:
    """Draw a `check_calibration`: how often outcomes fell where the predicted laws put them, weighted to everyone.

    Continuous and count outcomes: the weighted histogram of the probability integral transform by arm, flat where the
    laws are right, with the band that holds all bars of all arms at once with probability 0.9. Binary outcomes:
    observed frequency against predicted probability in groups of each arm, with 95% Wilson intervals.

    Parameters
    ----------
    check : Check
        Of `effects.diagnostics.check_calibration`.
    ax : matplotlib Axes, optional
        Where to draw and what is returned; a new figure's if None.

    Raises
    ------
    ValueError
        If the check is another one.

    Examples
    --------
    >>> plot_pit(check_calibration(est, X, y, treatment=arm))  # doctest: +SKIP
    """
    details = _of(check, "calibration", "check_calibration").details
    assert details is not None
    ax = axes_or_new(ax)
    arms = list(check.table.index)
    if "frequency" in details:
        _weighted_histogram(ax, check.table, details, arms)
    else:
        _reliability(ax, check.table, details, arms)
    ax.legend(frameon=False, fontsize="small", loc="upper left", borderaxespad=0.2, ncols=2)
    set_title(ax, _verdict(check))
    return finish(ax)


def _verdict(check: Check) -> str:
    """The finding, arm by arm where there is one."""
    table, p = check.table, f"adjusted {p_text(check.value)}"
    if "slope" in table:
        word = "Undecided" if check.passed is None else "Calibrated" if check.passed else "Not calibrated"
        slopes = (f"slope {number(row['slope'], 1.0)} under {short(arm)}" for arm, row in table.iterrows())
        return f"{word} ({p}): {', '.join(slopes)}"
    bad = table[table["p_value"] * len(table) < (check.threshold or 0.0)]
    found = "; ".join(f"{short(arm)}: outcomes {row['finding']}" for arm, row in bad.iterrows())
    return f"{found} ({p})" if found else f"Calibrated: no misfit found ({p})"


def _weighted_histogram(ax: Axes, table: pd.DataFrame, details: pd.DataFrame, arms: list[Hashable]) -> None:
    """Dodged bars of weighted relative frequency, each with its band about one."""
    n_bins = len(details) // len(arms)
    width, top = 0.86 / n_bins / len(arms), 1.0
    for k, arm in enumerate(arms):
        own = details[details["arm"] == arm]
        colour, _, _, hatch = arm_style(k)
        left = own["low"].to_numpy() + 0.07 / n_bins + k * width
        height, low, high = (own[name].to_numpy() for name in ("frequency", "lower", "upper"))
        ax.bar(left, high - low, width, low, align="edge", color="#dcdcdc", zorder=1)
        label = f"{short(arm)} (n = {table.loc[arm, 'n']:,})"  # type: ignore[index]
        face: dict[str, Any] = {"facecolor": tint(colour), "edgecolor": colour, "hatch": hatch}
        ax.bar(left, height, 0.94 * width, align="edge", zorder=2, label=label, **face)
        ends = np.concatenate([low, high])
        ax.hlines(ends, np.tile(left, 2), np.tile(left + 0.94 * width, 2), color="#505050", linewidth=1.3, zorder=3)
        top = max(top, float(height.max()), float(high.max()))
    ax.axhline(1, color=INK, linewidth=1, linestyle=DASHED, zorder=4)
    ax.set(xlim=(0, 1), ylim=(0, (1.24 + 0.11 * ((len(arms) - 1) // 2)) * top))
    ax.set_xlabel("Predicted probability of an outcome as low as observed (PIT)", color=INK)
    ax.set_ylabel("Weighted frequency, even = 1", color=INK)
    sizes = ", ".join(f"{size:,.0f}" for size in table["n_effective"])
    add_note(ax, f"effective n: {sizes}; grey: {percent(BAND)} band, all bars")


def _reliability(ax: Axes, table: pd.DataFrame, details: pd.DataFrame, arms: list[Hashable]) -> None:
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=DASHED)
    for k, arm in enumerate(arms):
        own = details[details["arm"] == arm]
        colour, line, marker, _ = arm_style(k)
        ax.vlines(own["predicted"], own["lower"], own["upper"], color=colour, linewidth=1.1, alpha=0.8)
        label = f"{short(arm)} (n = {table.loc[arm, 'n']:,})"  # type: ignore[index]
        x, y = own["predicted"], own["observed"]
        ax.plot(x, y, color=colour, marker=marker, ms=5, linestyle=line, linewidth=1, label=label)
    top = min(1.0, 1.05 * float(max(details["upper"].max(), details["predicted"].max())))
    ax.set(xlim=(-0.02 * top, top), ylim=(-0.02 * top, (1.15 + 0.1 * ((len(arms) - 1) // 2)) * top))
    ax.set_xlabel("Predicted probability", color=INK)
    ax.set_ylabel("Observed frequency, weighted", color=INK)
    add_note(ax, "bars: 95% intervals")


def plot_coverage_by(check: Check, *, ax: Axes | None = None) -> Axes:
    """Draw a `coverage_by`: coverage by group of the predicted effect and of the propensity, with Wilson intervals.

    Parameters
    ----------
    check : Check
        Of `effects.diagnostics.coverage_by`.
    ax
        As in `plot_pit`.

    Raises
    ------
    ValueError
        If the check is another one.

    Examples
    --------
    >>> plot_coverage_by(coverage_by(est, X, y, treatment=arm))  # doctest: +SKIP
    """
    table = _of(check, "coverage by group", "coverage_by").table
    ax = axes_or_new(ax)
    series = list(table.groupby(["by", "arm"], sort=False))
    words = {"cate": "by predicted effect", "propensity": "by propensity"}
    for k, ((by, arm), own) in enumerate(series):
        colour, line, marker, _ = arm_style(k)
        x = own["group"] + (k - (len(series) - 1) / 2) * 0.16
        ax.vlines(x, own["lower"], own["upper"], color=colour, linewidth=1.3)
        label = words[str(by)] if arm == "both" else f"{words[str(by)]}, {short(arm)}"
        ax.plot(x, own["coverage"], color=colour, marker=marker, ms=4.5, linestyle=line, linewidth=1, label=label)
    ax.axhline(check.threshold or 0.0, color=INK, linewidth=1, linestyle=DASHED)
    low, high = float(table["lower"].min()), float(table["upper"].max())
    ax.set_ylim(max(0.0, low - 0.05), high + (0.22 + 0.12 * ((len(series) - 1) // 2)) * (high - low + 0.05))
    ax.set_yticks([value for value in ax.get_yticks() if low - 0.05 <= value <= 1])
    ax.yaxis.set_major_formatter(lambda y, _: percent(round(y, 4)))
    ax.set_xticks(sorted(table["group"].unique()))
    ax.set_xlabel("Group, from the lowest to the highest", color=INK)
    ax.set_ylabel("Outcomes inside their interval", color=INK)
    ax.legend(frameon=False, fontsize="small", loc="upper left", ncols=2, borderaxespad=0.2)
    add_note(ax, f"dashed: {percent(check.threshold or 0.0)}; bars: Wilson intervals")
    set_title(ax, check.text.rstrip("."))
    return finish(ax)


def plot_benefit_calibration(check: Check, *, outcome_name: str = "outcome", ax: Axes | None = None) -> Axes:
    """Draw a `benefit_calibration`: the effect in groups of the predicted effect against its prediction.

    The dashed diagonal is perfect calibration, the line the regression of the units' scores on their predictions.

    Parameters
    ----------
    check : Check
        Of `effects.diagnostics.benefit_calibration`.
    outcome_name : str
        Name of the outcome on the axes.
    ax
        As in `plot_pit`.

    Raises
    ------
    ValueError
        If the check is another one.

    Examples
    --------
    >>> plot_benefit_calibration(benefit_calibration(est, X, y, treatment=arm))  # doctest: +SKIP
    """
    table = _of(check, "benefit calibration", "benefit_calibration").table
    ax = axes_or_new(ax)
    x = table["predicted"].to_numpy()
    margin = 0.12 * float(np.ptp(x)) or 0.5
    ends = np.array([x.min() - margin, x.max() + margin])
    ax.plot(ends, ends, color=INK, linewidth=1, linestyle=DASHED, label="as predicted")
    if len(check.estimates) == 2:
        intercept, slope = (estimate.value for estimate in check.estimates)
        ax.plot(ends, intercept + slope * ends, color=COLOURS[1], linewidth=1.8, label=f"slope {number(slope, 1.0)}")
    ax.axhline(0, color=FAINT, linewidth=0.8, linestyle=DOTTED)
    ax.vlines(x, table["lower"], table["upper"], color=COLOURS[0], linewidth=1.6)
    ax.plot(x, table["effect"], "o", color=COLOURS[0], ms=6, mec="white", label="groups")
    unit = check.estimates[0].unit
    ax.set_xlim(*ends)
    ax.set_xlabel(with_unit(f"Predicted effect on {outcome_name}", unit), color=INK)
    ax.set_ylabel(with_unit("Effect, doubly robust", unit), color=INK)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: tick(value))
    ax.legend(frameon=False, fontsize="small", loc="upper left", borderaxespad=0.2)
    add_note(ax, f"bars: {percent(check.estimates[0].level)} intervals")
    set_title(ax, check.text.rstrip("."))
    return finish(ax)


def plot_toc(check: Check, *, outcome_name: str = "outcome", ax: Axes | None = None) -> Axes:
    """Draw the targeting curve of a `rate`: what treating only the first by predicted effect gains over treating all.

    Parameters
    ----------
    check : Check
        Of `effects.diagnostics.rate`.
    outcome_name, ax
        As in `plot_benefit_calibration`.

    Raises
    ------
    ValueError
        If the check is another one.

    Examples
    --------
    >>> plot_toc(rate(est, X, y, treatment=arm))  # doctest: +SKIP
    """
    table = _of(check, "targeting", "rate").table
    ax = axes_or_new(ax)
    x = 100 * table.index.to_numpy(dtype=np.float64)
    ax.fill_between(x, table["lower"], table["upper"], color=COLOURS[5], alpha=0.35, linewidth=0, label="interval")
    for side in ("lower", "upper"):
        ax.plot(x, table[side], color=COLOURS[0], linewidth=0.8, linestyle=DOTTED)
    ax.plot(x, table["toc"], color=COLOURS[0], linewidth=2, marker="o" if len(x) <= 25 else "", ms=3.5, label="gain")
    ax.axhline(0, color=INK, linewidth=1, linestyle=DASHED, label="no gain")
    estimate = check.estimates[0]
    ax.set_xlim(0, 100)
    ax.set_xlabel("Units treated, those with the largest predicted effect first (%)", color=INK)
    ax.set_ylabel(with_unit(f"Gain in effect on {outcome_name}", estimate.unit), color=INK)
    ax.yaxis.set_major_formatter(lambda y, _: tick(y))
    add_note(ax, f"line: over the average effect; area: {percent(estimate.level)} intervals")
    set_title(ax, check.text.rstrip("."))
    return finish(ax)


def plot_support(support: Support, *, ax: Axes | None = None) -> Axes:
    """Draw every unit's lowest propensity against its largest distance to the rows of an arm; flagged ones are marked.

    Of more than 1,500 units, flagged ones are drawn first and others evenly; the title counts all.

    Parameters
    ----------
    support : Support
    ax
        As in `plot_pit`.

    Examples
    --------
    >>> plot_support(est.support(X))  # doctest: +SKIP
    """
    ax = axes_or_new(ax)
    far, low = support.distance.max(axis=1), support.propensity.min(axis=1)
    unlike, rare = support.unlike.any(axis=1), support.rare.any(axis=1)
    groups = (
        ("supported", support.supported, FAINT, ".", 0.45),
        ("unlike an arm's rows", unlike & ~rare, COLOURS[1], "s", 0.9),
        ("an arm too rare", rare & ~unlike, COLOURS[0], "^", 0.9),
        ("both", rare & unlike, INK, "X", 0.9),
    )
    left = MAX_POINTS
    for label, mask, colour, marker, alpha in reversed(groups):
        rows = np.flatnonzero(mask)
        drawn = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), max(left, 1))).astype(np.int64))]
        left -= len(drawn)
        if len(rows):
            size = 5.5 if label != "supported" else 4
            face: dict[str, Any] = {"mfc": tint(colour) if label != "supported" else colour, "mec": colour}
            ax.plot(
                far[drawn], low[drawn], marker, ms=size, alpha=alpha, linestyle="none",
                label=f"{label}: {len(rows):,}", **face,
            )  # fmt: skip
    limit = float(support.limit.max())
    if limit > 0:
        ax.axhline(limit, color=FAINT, linewidth=0.9, linestyle=DOTTED)
        add_note(ax, f"dotted: propensity {number(limit, digits=2)}")
    if far.max() > 8 * max(float(np.median(far)), 1e-9):
        ax.set_xscale("log")
    ax.set_ylim(min(0.0, -0.02 * low.max()), 1.3 * float(low.max()))
    ax.set_xlabel("Distance to the rows of the farther arm (1 = a typical row)", color=INK)
    ax.set_ylabel("Lowest propensity of an arm", color=INK)
    ax.legend(frameon=False, fontsize="small", loc="upper right", borderaxespad=0.2, ncols=2, reverse=True)
    set_title(ax, f"Not enough support for {share_of(int(np.sum(~support.supported)), len(support))} units")
    return finish(ax)


def _of(check: Check, name: str, function: str) -> Check:
    if check.name != name:
        raise ValueError(f"this picture is of a {function}(...), the check given is {check.name!r}.")
    return check
