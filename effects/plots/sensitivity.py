"""Pictures of `effects.sensitivity`: what hidden confounding of any strength would leave of an effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from effects.plots.style import (
    COLOURS,
    DASHED,
    DOTTED,
    FAINT,
    INK,
    FloatArray,
    add_note,
    axes_or_new,
    finish,
    number,
    percent,
    set_title,
    short,
    tick,
    with_unit,
)
from effects.sensitivity import MarginalSensitivity, OmittedVariableBias, RobustnessValue

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GRID = 61
_LABELS = 5  # benchmarks that are named; all are drawn
_HALO = 2.5


def plot_sensitivity(found: OmittedVariableBias | RobustnessValue, *, ax: Axes | None = None) -> Axes:
    """Draw what confounders of any strength would leave of an estimate, with observed covariates for comparison.

    Each line joins strengths that leave the same effect at worst; beyond the thick one it may be none. On the dashed
    line the interval reaches it. Points are covariates that were left out: where a hidden confounder as strong would be
    (of a regression, as many times as strong as the label says).

    Parameters
    ----------
    found : OmittedVariableBias or RobustnessValue
    ax : matplotlib Axes, optional
        Where to draw and what is returned; a new figure's if None.

    Raises
    ------
    TypeError
        If something else is given.

    Examples
    --------
    >>> plot_sensitivity(omitted_variable_bias(est, X, y, treatment=arm))  # doctest: +SKIP
    """
    if isinstance(found, OmittedVariableBias):
        aipw = True
        names, x_name, y_name = [short(one, 18) for one in found.benchmarks.index], "cf_d", "cf_y"
        value, null = found.theta, found.null
    elif isinstance(found, RobustnessValue):
        aipw = False
        names, x_name, y_name = (
            [f"{times:g}× {short(one, 14)}" for one, times in found.benchmarks.index],
            "r2_d",
            "r2_y",
        )
        value, null = found.estimate, (1 - found.q) * found.estimate
    else:
        raise TypeError(
            f"this picture is of omitted_variable_bias(...) or robustness_value(...), got {type(found).__name__}."
        )
    ax = axes_or_new(ax)
    x, y = _reach(found.benchmarks, x_name, found.rv, 0.97), _reach(found.benchmarks, y_name, found.rv, 1.0)
    effect, limit = _surfaces(found, x, y)
    _contours(ax, x, y, effect, limit, value, null)
    if len(found.benchmarks):
        points = found.benchmarks[[x_name, y_name]].to_numpy(dtype=np.float64)
        _points(ax, points, names, (float(x[-1]), float(y[-1])))
    ax.plot(0, 0, "D", color=INK, ms=5, clip_on=False, zorder=6)  # the estimate: no confounding
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda share, _: percent(round(share, 4)))
    ax.set(xlim=(0, x[-1]), ylim=(0, y[-1]))
    what = "(cf_d)" if aipw else "(partial R²)"
    ax.set_xlabel(f"Treatment explained by hidden confounders {what}", color=INK)
    ax.set_ylabel(f"Outcome explained {'(cf_y)' if aipw else what}", color=INK)
    add_note(ax, f"thick: effect {tick(round(null, 6))}; dashed: the {percent(found.level)} interval reaches it")
    set_title(ax, _finding(found, value, null))
    return finish(ax)


def _finding(found: OmittedVariableBias | RobustnessValue, value: float, null: float) -> str:
    already = "" if found.rv_significant > 0 else "; its interval holds that already"
    share, goal = percent(found.rv, 1), f"to {number(null)}{already}"
    return f"Confounders that explain {share} of both could bring the estimate, {number(value)}, {goal}"


def _reach(benchmarks: pd.DataFrame, name: str, rv: float, end: float) -> FloatArray:
    """Strengths on an axis: as far as the covariates and the robustness value go, and a little farther."""
    most = 0.0
    if len(benchmarks):
        values = benchmarks[name].to_numpy(dtype=np.float64)
        most = float(values[np.isfinite(values)].max(initial=0.0))
    return np.linspace(0.0, min(max(1.25 * most, 1.6 * rv, 0.02), end), _GRID)


def _surfaces(found: OmittedVariableBias | RobustnessValue, x: FloatArray, y: FloatArray) -> tuple[Any, Any]:
    """The effect that is left at worst, and the limit of its interval, (len(y), len(x))."""
    effect, limit = np.empty((len(y), len(x))), np.empty((len(y), len(x)))
    for i, strong_y in enumerate(y.tolist()):
        for j, strong_d in enumerate(x.tolist()):
            if isinstance(found, OmittedVariableBias):
                low, high, ci_low, ci_high = found.bounds(strong_y, strong_d)
                down = found.theta > found.null
                effect[i, j], limit[i, j] = (low, ci_low) if down else (high, ci_high)
            else:
                effect[i, j], limit[i, j] = _left(found, strong_d, strong_y)
    return effect, limit


def _left(found: RobustnessValue, r2_d: float, r2_y: float) -> tuple[float, float]:
    left = found.adjusted(r2_d, r2_y)
    return float(left["estimate"]), float(left["lower"] if found.estimate > 0 else left["upper"])


def _contours(ax: Axes, x: FloatArray, y: FloatArray, effect: Any, limit: Any, value: float, null: float) -> None:
    from matplotlib.ticker import MaxNLocator

    ends = sorted((value, float(effect[-1, -1])))
    step = abs(value - null) or 1.0
    levels = [v for v in MaxNLocator(9).tick_values(*ends) if ends[0] < v < ends[1] and abs(v - null) > 0.02 * step]
    if levels:
        # all of one grey: their numbers tell them apart
        lines = ax.contour(x, y, effect, levels=levels, colors=FAINT, linewidths=0.9, linestyles="solid")
        ax.clabel(lines, fmt=lambda v: tick(v), fontsize="small", inline_spacing=4)
    if effect.min() < null < effect.max():
        ax.contour(x, y, effect, levels=[null], colors=COLOURS[1], linewidths=2.4, linestyles="solid")
    if limit.min() < null < limit.max():
        ax.contour(x, y, limit, levels=[null], colors=COLOURS[1], linewidths=1.4, linestyles=[DASHED])


def _points(ax: Axes, points: FloatArray, names: list[str], ends: tuple[float, float]) -> None:
    """All covariates within the axes; the first are named, where no other name stands already."""
    inside = np.flatnonzero((points <= ends).all(axis=1))
    points, names = points[inside], [names[k] for k in inside]
    ax.plot(points[:, 0], points[:, 1], "o", color=COLOURS[0], ms=5.5, mec="white", clip_on=False, zorder=5)
    placed: list[tuple[float, float, float]] = []  # left and right end, height
    for (x, y), name in list(zip(points.tolist(), names, strict=True))[:_LABELS]:
        at, height, width = x / ends[0], y / ends[1], 0.03 + 0.017 * len(name)
        left = at + width > 1
        start, stop = (at - width, at) if left else (at, at + width)
        near = any(abs(height - h) < 0.055 and start < b and a < stop for a, b, h in placed)
        if near:
            continue
        placed.append((start, stop, height))
        where: dict[str, Any] = {"xytext": (-7 if left else 7, 3), "textcoords": "offset points"}
        style: dict[str, Any] = {"ha": "right" if left else "left", "fontsize": "small", "color": COLOURS[0]}
        ax.annotate(name, (x, y), **where, **style, **_halo(), zorder=6)


def _halo() -> dict[str, Any]:
    """White around letters, so that lines behind do not cut them."""
    from matplotlib import patheffects

    return {"path_effects": [patheffects.withStroke(linewidth=_HALO, foreground="white")]}


def plot_tipping(found: MarginalSensitivity, *, outcome_name: str = "outcome", ax: Axes | None = None) -> Axes:
    """Draw the bounds of an effect and their interval against the factor on the odds of treatment.

    Parameters
    ----------
    found : MarginalSensitivity
    outcome_name : str
        Name of the outcome on the axis.
    ax
        As in `plot_sensitivity`.

    Raises
    ------
    TypeError
        If something else is given.

    Examples
    --------
    >>> plot_tipping(marginal_sensitivity(est, X, y, treatment=arm))  # doctest: +SKIP
    """
    if not isinstance(found, MarginalSensitivity):
        raise TypeError(f"this picture is of a marginal_sensitivity(...), got {type(found).__name__}.")
    ax = axes_or_new(ax)
    table, level = found.table, percent(found.level)
    x = table["gamma"].to_numpy()
    ax.fill_between(x, table["ci_lower"], table["ci_upper"], color=COLOURS[5], alpha=0.3, linewidth=0)
    ax.fill_between(x, table["lower"], table["upper"], color=COLOURS[0], alpha=0.35, linewidth=0, label="bounds")
    for side in ("lower", "upper"):
        ax.plot(x, table[f"ci_{side}"], color=COLOURS[0], linewidth=1, linestyle=DOTTED,
                label=f"{level} limits" if side == "lower" else None)  # fmt: skip
        ax.plot(x, table[side], color=COLOURS[0], linewidth=1.8)
    ax.axhline(found.null, color=INK, linewidth=1, linestyle=DASHED)
    ax.plot(1, found.estimate.value, "D", color=INK, ms=5, clip_on=False, zorder=5, label="estimate")
    ends = ax.get_ylim()
    for at, marker, word in ((found.tipping, "o", "interval"), (found.tipping_bounds, "s", "bounds")):
        if at is not None and at > 1:
            ax.vlines(at, *ends, color=COLOURS[1], linewidth=0.9, linestyle=DOTTED)
            label = f"{word} at {number(at, 1.0)}"
            ax.plot(at, found.null, marker, color=COLOURS[1], ms=7, mec="white", zorder=6, label=label)
    ax.margins(y=0.02)
    low, high = ax.get_ylim()
    ax.set(xlim=(1, x[-1] if len(x) > 1 else 1.1), ylim=(low, high + 0.26 * (high - low)))
    ax.set_xlabel("Factor by which hidden confounders change the odds of treatment (Λ)", color=INK)
    ax.set_ylabel(with_unit(f"{found.estimate.estimand} on {outcome_name}", found.estimate.unit), color=INK)
    ax.yaxis.set_major_formatter(lambda y, _: tick(y))
    ax.legend(frameon=False, fontsize="small", loc="upper left", borderaxespad=0.2, ncols=2)
    add_note(ax, f"dashed: {tick(found.null)}")
    set_title(ax, _tipping_title(found, float(x[-1])))
    return finish(ax)


def _tipping_title(found: MarginalSensitivity, top: float) -> str:
    null, level = tick(found.null), percent(found.level)
    if found.tipping == 1:
        return f"The {level} interval contains {null} without any hidden confounding"
    if found.tipping is None:
        return f"No factor up to {tick(top)} brings {null} into the {level} interval"
    factor = number(found.tipping, 1.0)
    return f"The {level} interval reaches {null} if hidden confounding changes the odds {factor}-fold"
