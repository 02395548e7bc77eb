"""Pictures of decisions: what a policy is worth, and at which cost of treatment the model pays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from effects.plots.style import (
    COLOURS,
    DASHED,
    FAINT,
    INK,
    LINES,
    add_note,
    axes_or_new,
    finish,
    number,
    percent,
    set_title,
    short,
    tint,
    with_unit,
)
from effects.policy import DecisionCurve, PolicyValue

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_decision_curve(
    curve: DecisionCurve, *, outcome_name: str = "outcome", unit: str = "", ax: Axes | None = None
) -> Axes:
    """Draw a `decision_curve`: net benefit of the model, of treating all and of treating none, by threshold.

    Parameters
    ----------
    curve : DecisionCurve
    outcome_name, unit : str
        Of the outcome, on the axes.
    ax : matplotlib Axes, optional
        Where to draw and what is returned; a new figure's if None.

    Examples
    --------
    >>> plot_decision_curve(decision_curve(est, X, y, treatment=arm))  # doctest: +SKIP
    """
    ax = axes_or_new(ax)
    table = curve.table
    x = table["threshold"]
    ax.fill_between(x, table["model_lower"], table["model_upper"], color=tint(COLOURS[0]), linewidth=0, zorder=1)
    ax.plot(x, table["model"], color=COLOURS[0], linewidth=2, zorder=4, label="by the model")
    label = f"{short(curve.treated, 14)} for all"
    ax.plot(x, table["treat_all"], color=COLOURS[1], linewidth=1.6, linestyle=LINES[1], zorder=3, label=label)
    for end in ("treat_all_lower", "treat_all_upper"):
        ax.plot(x, table[end], color=COLOURS[1], linewidth=0.7, linestyle=LINES[2], zorder=2)
    ax.axhline(0, color=INK, linewidth=1.1, linestyle=DASHED, zorder=3, label=f"{short(curve.control, 14)} for all")
    top = float(max(table["model_upper"].max(), table["treat_all_upper"].max(), 0.0))
    # treating all falls without end: the curves of interest are kept apart instead
    bottom = max(float(min(table["treat_all_lower"].min(), table["model_lower"].min())), -0.45 * top if top else -1.0)
    ax.set_ylim(bottom, 1.05 * top if top else 1.0)
    ax.set_xlim(float(x.min()), float(x.max()))
    side = "gain in" if curve.higher_is_better else "reduction of"
    ax.set_xlabel(with_unit(f"Threshold: {side} {outcome_name} that is worth a treatment", unit), color=INK)
    ax.set_ylabel("Net benefit a unit", color=INK)
    ax.legend(frameon=False, fontsize="small", loc="upper right", borderaxespad=0.2)
    add_note(ax, f"area and thin lines: {percent(curve.level)} intervals at each threshold")
    set_title(ax, _curve_title(curve))
    return finish(ax)


def _curve_title(curve: DecisionCurve) -> str:
    table = curve.table
    better = (table["gain_lower"] > 0).to_numpy()
    if not better.any():
        return "Nowhere is the model shown to be better than treating all or none"
    at = table["threshold"].to_numpy()
    runs = np.split(np.flatnonzero(better), np.flatnonzero(np.diff(np.flatnonzero(better)) > 1) + 1)
    longest = max(runs, key=len)
    low, high = number(float(at[longest[0]]), digits=2), number(float(at[longest[-1]]), digits=2)
    where = f"from {low} to {high}" if len(longest) > 1 else f"at {low}"
    return f"The model is better than treating all or none {where}"


def plot_policy_value(
    found: PolicyValue, *, outcome_name: str = "outcome", unit: str = "", ax: Axes | None = None
) -> Axes:
    """Draw a `policy_value`: mean outcome under the policy and under each arm for everyone, with intervals.

    The text beside each arm says what the policy gains over it, net of cost, with the interval of that difference: it
    is the one to read, as the intervals of the means do not tell.

    Parameters
    ----------
    found : PolicyValue
    outcome_name, unit, ax
        As in `plot_decision_curve`.

    Examples
    --------
    >>> plot_policy_value(policy_value(est, X, y, treatment=arm))  # doctest: +SKIP
    """
    labels = [str(label) for label in found.values.labels]
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=(5.6, 1.5 + 0.42 * len(labels)), layout="constrained")[1]
    lower, upper = found.values.interval()
    value, at = found.values.value, np.arange(len(labels))
    ax.hlines(at, lower, upper, color=[COLOURS[0], *[FAINT] * (len(at) - 1)], linewidth=2)
    ax.plot(value[0], 0, "D", color=COLOURS[0], ms=7)
    ax.plot(value[1:], at[1:], "s", color=FAINT, ms=6)
    scale = float(np.median(found.gains.se)) or None
    ends = found.gains.interval()
    for k, gain in enumerate(found.gains):
        low, high = (number(float(end[k]), scale, 2) for end in ends)
        said = f"policy gains {number(gain.value, scale, 2)} ({low} to {high})"
        # from one end of the bar inwards, so that no text leaves the axes
        right = value[k + 1] > (lower.min() + upper.max()) / 2
        at_end = (float(upper[k + 1] if right else lower[k + 1]), k + 1)
        style: dict[str, Any] = {"ha": "right" if right else "left", "fontsize": "small", "color": INK}
        ax.annotate(said, at_end, (0, 7), textcoords="offset points", **style)
    shares = [f"{short(arm, 18)} for all\n(policy: {percent(float(part), 0)})" for arm, part in found.share.items()]
    ax.set_yticks(at, ["policy", *shares], fontsize="small")
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(labels) - 0.5, -0.6)
    span = float(upper.max() - lower.min()) or 1.0
    ax.set_xlim(float(lower.min()) - 0.12 * span, float(upper.max()) + 0.12 * span)
    ax.locator_params(axis="x", nbins=6)
    ax.set_xlabel(with_unit(f"Mean {outcome_name}", unit), color=INK)
    better = "higher" if found.policy.higher_is_better else "lower"
    net = ", gains net of cost" if found.costs.any() else ""
    add_note(ax, f"bars: {percent(found.values[0].level)} intervals; {better} is better{net}")
    worst = min(range(len(found.gains)), key=lambda k: found.gains[k].value)
    rival = f"{short(found.policy.arms[worst])} for all"
    shown = ends[0][worst] > 0, ends[1][worst] < 0
    verdict = "gains over" if shown[0] else "loses against" if shown[1] else "is not shown to gain over"
    set_title(ax, f"The policy {verdict} the best single choice, {rival}")
    return finish(ax)
