"""Pictures of one unit's outcomes and of all units' effects."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from effects.effect import Effect
from effects.individual import check_level
from effects.outcomes import PotentialOutcomes
from effects.plots.style import (
    COLOURS,
    DASHED,
    DOTTED,
    FAINT,
    INK,
    MAX_UNITS_DRAWN,
    FloatArray,
    add_note,
    arm_style,
    axes_or_new,
    finish,
    name_rows,
    number,
    percent,
    set_title,
    share_of,
    short,
    tick,
    tint,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_outcomes(
    outcomes: PotentialOutcomes,
    unit: int = 0,
    *,
    level: float = 0.9,
    outcome_name: str = "outcome",
    ax: Axes | None = None,
) -> Axes:
    """Draw one unit's distribution of the outcome under every arm.

    Continuous outcomes: the density of the pooled draws, and below it `outcomes.interval(level)` with the mean
    marked. Counts: the probability of each value as sticks (of ranges of values, if they are many), with the same
    interval. Binary outcomes: the probability of the event as a bar, with the central interval of the members'
    probabilities, which is uncertainty about the probability and not about the event.

    Parameters
    ----------
    outcomes : PotentialOutcomes
        Draws of shape (n_members, n_draws, n_samples, n_arms), in the outcome's own unit.
    unit : int, default 0
        Position of the unit among the n_samples rows; negative values count from the end.
    level : float, default 0.9
        Probability of the intervals.
    outcome_name : str
        Name of the outcome on the axis; its unit is ``outcomes.unit``.
    ax : matplotlib Axes, optional
        Where to draw and what is returned; a new figure's if None.

    Raises
    ------
    IndexError, ValueError
        If there is no such unit, or ``level`` lies outside (0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from effects.outcomes import PotentialOutcomes
    >>> draws = np.random.default_rng(0).normal([0.0, 2.0], 1.0, size=(4, 200, 3, 2))
    >>> ax = plot_outcomes(PotentialOutcomes(draws, arms=("control", "drug"), unit="mmHg"), unit=1)
    >>> ax.get_xlabel()
    'outcome (mmHg)'
    """
    check_level(level)
    if not -outcomes.n_samples <= unit < outcomes.n_samples:
        raise IndexError(f"unit={unit} is out of range: the outcomes hold {outcomes.n_samples} units, counted from 0.")
    position = unit % outcomes.n_samples
    one = outcomes.take([position])
    ax = axes_or_new(ax)
    name = f"Unit {position if outcomes.index is None else short(outcomes.index[position])}"
    if one.kind == "binary":
        _probability_bars(ax, one, level, outcome_name)
        says = [f"{percent(p, 1)} under {short(arm)}" for p, arm in zip(one.mean()[0], one.arms, strict=True)]
        set_title(ax, f"{name}: {', '.join(says)}")
        return finish(ax)
    values = [one.draws[:, :, 0, arm].astype(np.float64).ravel() for arm in range(one.n_arms)]
    means = one.mean()[0]
    if one.kind == "count":
        peak, height_label = _sticks(ax, values)
    else:  # members may share their noise or their quantile nodes: then the pooled draws are not all independent
        n = max(one.n_draws, math.sqrt(one.n_draws * one.n_members))
        peak, height_label = _density_lines(ax, values, means, n, one.unit)
    _interval_lanes(ax, one, level, peak)
    ax.set_ylabel(height_label, color=FAINT)
    ax.set_xlabel(with_unit(outcome_name, one.unit), color=INK)
    spread = max(float(np.ptp(means)), 0.1 * float(one.std().max()))
    says = [f"{number(m, spread)} under {short(arm)}" for m, arm in zip(means, one.arms, strict=True)]
    set_title(ax, f"{name}: mean {', '.join(says)}")
    return finish(ax)


def _density_lines(ax: Axes, values: list[FloatArray], means: FloatArray, n: float, unit: str) -> tuple[float, str]:
    """Draw one density per arm; return the highest point and what the height is."""
    peak = 0.0
    for arm, v in enumerate(values):
        colour, line, marker, _ = arm_style(arm)
        grid, height = density(v, n)
        ax.fill_between(grid, height, color=colour, alpha=0.12, linewidth=0)
        ax.plot(grid, height, color=colour, linestyle=line, linewidth=1.8, label=f"density {arm}")
        ax.plot(means[arm], np.interp(means[arm], grid, height), color=colour, marker=marker, ms=5)
        peak = max(peak, float(height.max()))
    low, high = min(np.quantile(v, 0.003) for v in values), max(np.quantile(v, 0.99) for v in values)
    margin = 0.05 * (high - low) or 1.0
    ax.set_xlim(low - margin, high + margin)
    ax.locator_params(axis="x", nbins=6)
    ax.xaxis.set_major_formatter(lambda x, _: tick(x))
    return peak, f"Density (1/{unit})" if unit else "Density"


def density(values: FloatArray, n: float, n_grid: int = 512) -> tuple[FloatArray, FloatArray]:
    """Gaussian kernel density of some draws: a grid of at least `n_grid` points and heights that integrate to one.

    The bandwidth is 0.75 of Silverman's rule (1986, eq. 3.31), 0.9 min(sd, IQR / 1.34) n^(-1/5), so that two humps stay
    two, for `n` independent draws.
    """
    sd, size = float(values.std()), abs(float(values.mean()))
    low, high = (float(q) for q in np.quantile(values, [0.25, 0.75]))
    spread = min(sd, (high - low) / 1.34) or sd
    if spread <= 1e-7 * max(1.0, size):  # one value only: a spike
        spread = 1e-2 * max(1e-3, size)
    bandwidth = 0.675 * spread * n**-0.2
    ends = values.min() - 4 * bandwidth, values.max() + 4 * bandwidth
    # four points a bandwidth, or far outliers would leave the body unresolved
    n_points = int(np.clip(4 * (ends[1] - ends[0]) / bandwidth, n_grid, 2**16))
    grid, step = np.linspace(*ends, n_points, retstep=True)
    counts, _ = np.histogram(values, bins=np.append(grid - step / 2, grid[-1] + step / 2))
    reach = math.ceil(4 * bandwidth / step)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / bandwidth) ** 2)
    height = np.convolve(counts, kernel)[reach : reach + grid.size]
    return grid, height / (height.sum() * step)


def _sticks(ax: Axes, values: list[FloatArray]) -> tuple[float, str]:
    """Draw the share of each count (or range of counts) per arm; return the highest and what the height is."""
    low = round(min(v.min() for v in values))
    high = round(max(np.quantile(v, 0.998) for v in values))
    width = 1 if high - low < 30 else math.ceil((high - low + 1) / 25)
    edges = np.arange(low, high + width + 1, width) - 0.5
    peak, n_arms = 0.0, len(values)
    for arm, v in enumerate(values):
        colour, line, marker, _ = arm_style(arm)
        share = np.histogram(v, bins=edges)[0] / v.size
        peak = max(peak, float(share.max()))
        if width == 1:
            at = edges[:-1] + 0.5 + (arm - (n_arms - 1) / 2) * min(0.26, 0.7 / n_arms)
            ax.vlines(at, 0, share, color=colour, linewidth=min(2.5, 60 / share.size / n_arms + 0.8))
            ax.plot(at, share, linestyle="none", marker=marker, ms=3.5, color=colour, label=f"share {arm}")
        else:
            ax.stairs(share, edges, fill=True, color=colour, alpha=0.12)
            ax.stairs(share, edges, color=colour, linestyle=line, linewidth=1.6, label=f"share {arm}")
    ax.locator_params(axis="x", integer=True, nbins=8)
    ax.set_xlim(edges[0] - 0.3, edges[-1] + 0.3)
    return peak, "Probability" if width == 1 else f"Probability (ranges of {width})"


def _interval_lanes(ax: Axes, one: PotentialOutcomes, level: float, peak: float) -> None:
    """Draw, below the zero line, one lane per arm with its interval and mean; the y axis names the arms."""
    lower, upper = one.interval(level)
    lane = 0.11 * peak
    at = -lane * (np.arange(one.n_arms) + 0.9)
    for arm, mean in enumerate(one.mean()[0]):
        colour, _, marker, _ = arm_style(arm)
        ends, y = [lower[0, arm], upper[0, arm]], at[arm]
        ax.plot(ends, [y, y], color=colour, linewidth=3, solid_capstyle="butt", label=f"interval {arm}")
        ax.plot([mean], [y], marker=marker, ms=6.5, color=colour, mec="white", label=f"mean {arm}")
    ax.axhline(0, color=FAINT, linewidth=0.8)
    ax.set_ylim(at[-1] - lane, 1.06 * peak)
    name_rows(ax, at, [short(arm) for arm in one.arms])
    ax.spines["left"].set_visible(False)
    add_note(ax, f"bars: {percent(level)} of outcomes; marks: means")


def _probability_bars(ax: Axes, one: PotentialOutcomes, level: float, outcome_name: str) -> None:
    value, tail = one.mean()[0], (1 - level) / 2
    lower, upper = np.quantile(one.member_means()[:, 0], [tail, 1 - tail], axis=0)
    places = np.arange(one.n_arms)[::-1].astype(np.float64)  # control on top: it is read first
    for arm, y in enumerate(places):
        colour, _, _, hatch = arm_style(arm)
        ax.barh(y, value[arm], height=0.56, facecolor=tint(colour), edgecolor=colour, hatch=hatch, linewidth=1.2)
        ax.plot([lower[arm], upper[arm]], [y, y], color=INK, linewidth=1.6, marker="|", ms=9, label=f"interval {arm}")
    ax.set(xlim=(0, min(1.0, 1.35 * float(upper.max()))), ylim=(-0.6, one.n_arms - 0.4))
    name_rows(ax, places, [f"{short(arm)}\n{percent(p, 1)}" for arm, p in zip(one.arms, value, strict=True)])
    ax.set_xlabel(f"Probability of {outcome_name}", color=INK)
    add_note(ax, f"whiskers: {percent(level)} interval of the probability")


def plot_effect(effect: Effect, *, level: float = 0.9, outcome_name: str = "outcome", ax: Axes | None = None) -> Axes:
    """Draw the units' effects in rising order, each with its interval, the line of no effect and the average.

    Above 400 units, 400 evenly spaced ranks are drawn (and the axis says so); the title counts all of them.

    Parameters
    ----------
    effect : Effect
        CATE of n_samples units with its uncertainty.
    level, outcome_name, ax
        As in `plot_outcomes`.

    Examples
    --------
    >>> import numpy as np
    >>> from effects.effect import Effect
    >>> members = np.random.default_rng(0).normal(np.linspace(-1, 2, 50), 0.2, size=(40, 50))
    >>> plot_effect(Effect(members, treated="drug", control="placebo", unit="mmHg")).get_ylabel()
    'Effect on outcome (mmHg)'
    """
    lower, upper = effect.interval(level)
    mean, n_samples = effect.mean, len(effect)
    ranks = np.unique(np.linspace(0, n_samples - 1, min(n_samples, MAX_UNITS_DRAWN)).round().astype(np.int64))
    rows = np.argsort(mean, kind="stable")[ranks]
    at = 100 * (ranks + 0.5) / n_samples
    ax = axes_or_new(ax)
    width = float(np.clip(260 / ranks.size, 0.6, 4))
    ax.vlines(at, lower[rows], upper[rows], color=COLOURS[5], linewidth=width, alpha=0.75, label="interval")
    ax.plot(at, mean[rows], "o" if ranks.size <= 60 else "-", color=COLOURS[0], ms=3.5, linewidth=2, label="effect")
    ax.axhline(0, color=INK, linewidth=1, linestyle=DASHED, label="no effect")
    average = float(mean.mean())
    ax.axhline(average, color=FAINT, linewidth=1, linestyle=DOTTED, label="average")
    add_note(ax, f"average {number(average)}", (0.01, average), ("axes fraction", "data"), "left")
    ax.set_xlim(0, 100)
    drawn = f", {ranks.size} of {n_samples:,} drawn" if ranks.size < n_samples else ""
    ax.set_xlabel(f"Units in order of their effect (%{drawn})", color=INK)
    ax.set_ylabel(with_unit(f"Effect on {outcome_name}", effect.unit), color=INK)
    ax.yaxis.set_major_formatter(lambda y, _: tick(y))
    add_note(ax, f"line: CATE; bars: {percent(level)} intervals")
    above, below = int(np.sum(lower > 0)), int(np.sum(upper < 0))
    counts = f"interval above zero in {share_of(above, n_samples)}, below zero in {share_of(below, n_samples)}"
    set_title(ax, f"{short(effect.treated)} against {short(effect.control)}: {counts}")
    return finish(ax)
