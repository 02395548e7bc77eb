"""Pictures of outcomes, effects, calibration and overlap; nothing else in the package draws.

Every function is ``plot_*(obj, *, ax=None) -> Axes``. Given an ``ax`` it draws there and leaves pyplot alone;
without one it makes a figure. Titles say the finding, axes carry the unit. The colours are those
of Okabe and Ito, which colour-blind readers can tell apart; line styles, markers and hatches differ too, so that a grey
print can be read. matplotlib is imported when a picture is drawn, not before.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from effects.effect import Effect, check_level
from effects.outcomes import PotentialOutcomes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_calibration", "plot_effect", "plot_outcomes", "plot_overlap"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES: Final[tuple[Any, ...]] = ("solid", (0, (5, 1.6)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS: Final = ("o", "s", "^", "D", "v")
HATCHES: Final = ("", "////", "....", "xxxx", "\\\\\\\\")
INK: Final = "#222222"
FAINT: Final = "#636363"
DASHED: Final[Any] = (0, (4, 2))
DOTTED: Final[Any] = (0, (1, 1.5))
MAX_UNITS_DRAWN: Final = 400  # a sorted curve of more units looks the same and makes a picture of megabytes


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
    ax = _axes(ax)
    name = f"Unit {position if outcomes.index is None else _short(outcomes.index[position])}"
    if one.kind == "binary":
        _probability_bars(ax, one, level, outcome_name)
        says = [f"{_percent(p, 1)} under {_short(arm)}" for p, arm in zip(one.mean()[0], one.arms, strict=True)]
        _title(ax, f"{name}: {', '.join(says)}")
        return _finish(ax)
    values = [one.draws[:, :, 0, arm].astype(np.float64).ravel() for arm in range(one.n_arms)]
    means = one.mean()[0]
    if one.kind == "count":
        peak, height_label = _sticks(ax, values)
    else:  # members may share their noise or their quantile nodes: then the pooled draws are not all independent
        n = max(one.n_draws, math.sqrt(one.n_draws * one.n_members))
        peak, height_label = _density_lines(ax, values, means, n, one.unit)
    _interval_lanes(ax, one, level, peak)
    ax.set_ylabel(height_label, color=FAINT)
    ax.set_xlabel(_with_unit(outcome_name, one.unit), color=INK)
    spread = max(float(np.ptp(means)), 0.1 * float(one.std().max()))
    says = [f"{number(m, spread)} under {_short(arm)}" for m, arm in zip(means, one.arms, strict=True)]
    _title(ax, f"{name}: mean {', '.join(says)}")
    return _finish(ax)


def _density_lines(ax: Axes, values: list[FloatArray], means: FloatArray, n: float, unit: str) -> tuple[float, str]:
    """Draw one density per arm; return the highest point and what the height is."""
    peak = 0.0
    for arm, v in enumerate(values):
        colour, line, marker, _ = _style(arm)
        grid, height = density(v, n)
        ax.fill_between(grid, height, color=colour, alpha=0.12, linewidth=0)
        ax.plot(grid, height, color=colour, linestyle=line, linewidth=1.8, label=f"density {arm}")
        ax.plot(means[arm], np.interp(means[arm], grid, height), color=colour, marker=marker, ms=5)
        peak = max(peak, float(height.max()))
    low, high = min(np.quantile(v, 0.003) for v in values), max(np.quantile(v, 0.99) for v in values)
    margin = 0.05 * (high - low) or 1.0
    ax.set_xlim(low - margin, high + margin)
    ax.locator_params(axis="x", nbins=6)
    ax.xaxis.set_major_formatter(lambda x, _: _tick(x))
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
        colour, line, marker, _ = _style(arm)
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
        colour, _, marker, _ = _style(arm)
        ends, y = [lower[0, arm], upper[0, arm]], at[arm]
        ax.plot(ends, [y, y], color=colour, linewidth=3, solid_capstyle="butt", label=f"interval {arm}")
        ax.plot([mean], [y], marker=marker, ms=6.5, color=colour, mec="white", label=f"mean {arm}")
    ax.axhline(0, color=FAINT, linewidth=0.8)
    ax.set_ylim(at[-1] - lane, 1.06 * peak)
    _name_rows(ax, at, [_short(arm) for arm in one.arms])
    ax.spines["left"].set_visible(False)
    _note(ax, f"bars: {_percent(level)} of outcomes; marks: means")


def _probability_bars(ax: Axes, one: PotentialOutcomes, level: float, outcome_name: str) -> None:
    value, tail = one.mean()[0], (1 - level) / 2
    lower, upper = np.quantile(one.member_means()[:, 0], [tail, 1 - tail], axis=0)
    places = np.arange(one.n_arms)[::-1].astype(np.float64)  # control on top: it is read first
    for arm, y in enumerate(places):
        colour, _, _, hatch = _style(arm)
        ax.barh(y, value[arm], height=0.56, facecolor=_tint(colour), edgecolor=colour, hatch=hatch, linewidth=1.2)
        ax.plot([lower[arm], upper[arm]], [y, y], color=INK, linewidth=1.6, marker="|", ms=9, label=f"interval {arm}")
    ax.set(xlim=(0, min(1.0, 1.35 * float(upper.max()))), ylim=(-0.6, one.n_arms - 0.4))
    _name_rows(ax, places, [f"{_short(arm)}\n{_percent(p, 1)}" for arm, p in zip(one.arms, value, strict=True)])
    ax.set_xlabel(f"Probability of {outcome_name}", color=INK)
    _note(ax, f"whiskers: {_percent(level)} interval of the probability")


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
    ax = _axes(ax)
    width = float(np.clip(260 / ranks.size, 0.6, 4))
    ax.vlines(at, lower[rows], upper[rows], color=COLOURS[5], linewidth=width, alpha=0.75, label="interval")
    ax.plot(at, mean[rows], "o" if ranks.size <= 60 else "-", color=COLOURS[0], ms=3.5, linewidth=2, label="effect")
    ax.axhline(0, color=INK, linewidth=1, linestyle=DASHED, label="no effect")
    average = float(mean.mean())
    ax.axhline(average, color=FAINT, linewidth=1, linestyle=DOTTED, label="average")
    _note(ax, f"average {number(average)}", (0.01, average), ("axes fraction", "data"), "left")
    ax.set_xlim(0, 100)
    drawn = f", {ranks.size} of {n_samples:,} drawn" if ranks.size < n_samples else ""
    ax.set_xlabel(f"Units in order of their effect (%{drawn})", color=INK)
    ax.set_ylabel(_with_unit(f"Effect on {outcome_name}", effect.unit), color=INK)
    ax.yaxis.set_major_formatter(lambda y, _: _tick(y))
    _note(ax, f"line: CATE; bars: {_percent(level)} intervals")
    above, below = int(np.sum(lower > 0)), int(np.sum(upper < 0))
    counts = f"interval above zero in {_share(above, n_samples)}, below zero in {_share(below, n_samples)}"
    _title(ax, f"{_short(effect.treated)} against {_short(effect.control)}: {counts}")
    return _finish(ax)


def pit_values(outcomes: PotentialOutcomes, y: ArrayLike, treatment: ArrayLike, random_state: int = 0) -> FloatArray:
    """Probability integral transform of every unit's outcome under its own arm, (n_samples,): uniform if calibrated.

    u_i = F_i(y_i-) + V (F_i(y_i) - F_i(y_i-)), V uniform, F_i being the predicted law of Y(a_i) given x_i (the
    randomised form, for counts and binary outcomes too: Czado, Gneiting and Held 2009, Biometrics 65, section 2.1); y
    takes its rank among the draws. Raises ValueError if lengths differ or a treatment is not an arm.
    """
    observed, arm = np.asarray(y, dtype=np.float64), arm_codes(treatment, outcomes.arms)
    if not observed.shape == arm.shape == (outcomes.n_samples,):
        raise ValueError(f"y and treatment must have one value for each of the {outcomes.n_samples} units of outcomes.")
    share = np.random.default_rng(random_state).uniform(size=observed.size)
    step = 0.0 if outcomes.kind == "binary" else 1 / (outcomes.n_members * outcomes.n_draws)
    pit = np.empty(observed.size)
    for rows in np.array_split(np.arange(observed.size), 1 + observed.size // 10_000):  # cdf makes a copy of the draws
        block, at, own = outcomes.take(rows), observed[rows, None], (np.arange(rows.size), arm[rows])
        up_to = block.cdf(at)[own]
        below = block.cdf(np.nextafter(at.astype(np.float32), np.float32(-np.inf)))[own]
        pit[rows] = (below + share[rows] * (up_to - below + step)) / (1 + step)
    return pit


def plot_calibration(
    outcomes: PotentialOutcomes | FloatArray,
    y: ArrayLike | None = None,
    treatment: ArrayLike | None = None,
    *,
    arms: Sequence[Hashable] | None = None,
    level: float = 0.9,
    n_bins: int = 10,
    outcome_name: str = "outcome",
    ax: Axes | None = None,
) -> Axes:
    """Draw how well the predicted distributions agree with what was observed, by arm.

    Continuous and count outcomes: the histogram of the probability integral transform, which is flat where the model is
    calibrated, with the band that holds all bars of all arms at once with probability `level` (binomial quantiles,
    Bonferroni). A binary outcome: observed frequency against predicted probability, with Wilson intervals.

    Parameters
    ----------
    outcomes : PotentialOutcomes, or array of shape (n_samples,)
        Predictions, or PIT values in [0, 1] that are already computed (see `pit_values`).
    y : array of shape (n_samples,), optional
        Observed outcomes (0 and 1 for a binary outcome); needed with PotentialOutcomes.
    treatment : array of shape (n_samples,), optional
        Arm labels; needed with PotentialOutcomes. With PIT values and no treatment, all units form one group.
    arms : sequence, optional
        Order of the arms where PIT values are given; by default the sorted labels.
    level : float, default 0.9
        Probability of the band, all bars together; of each Wilson interval.
    n_bins : int, default 10
        Number of bars or groups; fewer (but 4 bars) where an arm has less than ten units for each.
    outcome_name, ax
        As in `plot_outcomes`.

    Raises
    ------
    ValueError
        If y or treatment is missing or too short, PIT values leave [0, 1], or ``level`` lies outside (0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> pit = np.random.default_rng(0).uniform(size=500)
    >>> ax = plot_calibration(pit, treatment=np.repeat(["placebo", "drug"], 250), arms=("placebo", "drug"))
    >>> ax.get_ylabel()
    'Frequency relative to even'
    """
    check_level(level)
    if isinstance(outcomes, PotentialOutcomes):
        if y is None or treatment is None:
            raise ValueError("plot_calibration(outcomes, y, treatment) needs the observed y and treatment too.")
        arms = outcomes.arms
        code = arm_codes(treatment, arms)
        pit = pit_values(outcomes, y, treatment)
        if outcomes.kind == "binary":
            ax = _axes(ax)
            _reliability(ax, outcomes, np.asarray(y, dtype=np.float64), code, level, n_bins)
            ax.set_xlabel(f"Predicted probability of {outcome_name}", color=INK)
            return _finish(ax)
    else:
        pit = np.asarray(outcomes, dtype=np.float64)
        if pit.ndim != 1 or not np.all((pit >= 0) & (pit <= 1)):
            raise ValueError("PIT values must form one column between 0 and 1: use pit_values(outcomes, y, treatment).")
        labels = np.full(pit.size, "all units") if treatment is None else np.asarray(treatment)
        arms = tuple(np.unique(labels)) if arms is None or treatment is None else tuple(arms)
        code = arm_codes(labels, arms)
    ax = _axes(ax)
    _pit_histogram(ax, [pit[code == arm] for arm in range(len(arms))], arms, level, n_bins)
    return _finish(ax)


def _pit_histogram(ax: Axes, groups: list[FloatArray], names: Sequence[Hashable], level: float, n_bins: int) -> None:
    """Draw dodged bars of relative frequency (1 = as often as predicted), each with its arm's band."""
    n_arms = len(groups)
    n_bins = int(np.clip(min(group.size for group in groups) // 10, 4, n_bins))
    edges = np.linspace(0, 1, n_bins + 1)
    width = 0.86 / n_bins / n_arms
    outside: list[str] = []
    top = 1.0
    for arm, (group, name) in enumerate(zip(groups, names, strict=True)):
        if not group.size:
            continue
        colour, _, _, hatch = _style(arm)
        low, high = pit_band(group.size, n_bins, level, n_arms)
        counts, _ = np.histogram(group, bins=edges)
        if np.any((counts < low) | (counts > high)):
            outside.append(f"{_short(name)}: outcomes {_misfit(group)}")
        even = group.size / n_bins
        left = edges[:-1] + 0.07 / n_bins + arm * width
        ax.bar(left, (high - low) / even, width, low / even, align="edge", color="#dcdcdc", zorder=1)
        label = f"{_short(name)} (n = {group.size:,})"
        face: dict[str, Any] = {"facecolor": _tint(colour), "edgecolor": colour, "hatch": hatch}
        ax.bar(left, counts / even, 0.94 * width, align="edge", zorder=2, label=label, **face)
        limits = np.repeat([low / even, high / even], n_bins)
        ax.hlines(limits, np.tile(left, 2), np.tile(left + 0.94 * width, 2), color="#505050", linewidth=1.3, zorder=3)
        top = max(top, float((counts / even).max()), high / even)
    ax.axhline(1, color=INK, linewidth=1, linestyle=DASHED, zorder=4)
    ax.set(xlim=(0, 1), ylim=(0, 1.22 * top))
    ax.set_xlabel("Predicted probability of an outcome as low as observed (PIT)", color=INK)
    ax.set_ylabel("Frequency relative to even", color=INK)
    ax.legend(frameon=False, fontsize="small", loc="upper left", ncols=n_arms, borderaxespad=0.2)
    _note(ax, f"grey: {_percent(level)} band, all bars together")
    _title(ax, "; ".join(outside) or "Calibrated: no bar leaves the band")


def pit_band(n: int, n_bins: int, level: float, n_groups: int = 1) -> tuple[int, int]:
    """Counts between which all bars of `n` uniform values stay, and those of `n_groups` - 1 more like it."""
    tail = (1 - level) / (2 * n_bins * n_groups)
    return int(binom.ppf(tail, n, 1 / n_bins)), int(binom.isf(tail, n, 1 / n_bins))


def _misfit(pit: FloatArray) -> str:
    """How PIT values leave uniformity, by the larger z of their mean (1/2) and of their mean square about it (1/12)."""
    shift = (pit.mean() - 0.5) * math.sqrt(12 * pit.size)
    spread = (np.mean((pit - 0.5) ** 2) - 1 / 12) * math.sqrt(180 * pit.size)
    if max(abs(shift), abs(spread)) < 2:
        return "unevenly predicted"
    if abs(shift) >= abs(spread):
        return "predicted too low" if shift > 0 else "predicted too high"
    return "predicted too narrow" if spread > 0 else "predicted too wide"


def _reliability(ax: Axes, outcomes: PotentialOutcomes, y: FloatArray, code: IntArray, level: float, n: int) -> None:
    """Observed frequency against predicted probability, in up to `n` equally large groups of each arm."""
    from statsmodels.stats.proportion import proportion_confint

    mean, says, top = outcomes.mean(), [], 0.0
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=DASHED)
    for arm, name in enumerate(outcomes.arms):
        rows = np.flatnonzero(code == arm)
        if not rows.size:
            continue
        colour, line, marker, _ = _style(arm)
        by_risk = rows[np.argsort(mean[rows, arm], kind="stable")]
        groups = np.array_split(by_risk, int(np.clip(rows.size // 10, 1, n)))
        predicted = np.array([mean[group, arm].mean() for group in groups])
        events, size = (np.array([f(y[group]) for group in groups]) for f in (np.sum, np.size))
        lower, upper = proportion_confint(events, size, alpha=1 - level, method="wilson")
        ax.vlines(predicted, lower, upper, color=colour, linewidth=1.1, alpha=0.8)
        label = f"{_short(name)} (n = {rows.size:,})"
        ax.plot(predicted, events / size, color=colour, marker=marker, ms=5, linestyle=line, linewidth=1, label=label)
        top = max(top, float(upper.max()), float(predicted.max()))
        says.append(f"{_percent(mean[rows, arm].mean(), 1)} and {_percent(y[rows].mean(), 1)} under {_short(name)}")
    limits = -0.02 * min(1.0, top), 1.02 * min(1.0, top)
    ax.set(xlim=limits, ylim=limits)
    ax.set_ylabel("Observed frequency", color=INK)
    ax.legend(frameon=False, fontsize="small", loc="upper left", borderaxespad=0.2)
    _note(ax, f"bars: {_percent(level)} intervals")
    _title(ax, f"Predicted and observed: {'; '.join(says)}")


def plot_overlap(
    propensity: ArrayLike,
    treatment: ArrayLike,
    arms: Sequence[Hashable] | None = None,
    *,
    threshold: float = 0.05,
    ax: Axes | None = None,
) -> Axes:
    """Draw the propensity of each arm among the units that got it (up) and those that did not (down).

    Where one half stands alone, the comparison rests on the model. Two arms need one row, more arms one row each.

    Parameters
    ----------
    propensity : array of shape (n_samples, n_arms), or (n_samples,) for two arms
        Probability of each arm given the covariates; a single column is that of the second arm.
    treatment : array of shape (n_samples,)
        Arm labels.
    arms : sequence of n_arms labels, optional
        Order of the columns, control first; by default the sorted labels.
    threshold : float, default 0.05
        Units with a propensity below this for any arm are counted in the title; a dotted line marks it.
    ax
        As in `plot_outcomes`.

    Raises
    ------
    ValueError
        If shapes disagree, a treatment is not an arm, or a propensity leaves [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> plot_overlap(np.linspace(0.1, 0.9, 200), np.arange(200) % 2, arms=(0, 1)).get_xlabel()
    'Propensity: probability of 1 given the covariates'
    """
    e = np.asarray(propensity, dtype=np.float64)
    e = np.column_stack([1 - e, e]) if e.ndim == 1 else e
    names = tuple(np.unique(np.asarray(treatment))) if arms is None else tuple(arms)
    code = arm_codes(treatment, names)
    if e.shape != (code.size, len(names)):
        raise ValueError(f"propensity has shape {e.shape}, but {code.size} units and {len(names)} arms were given.")
    if not np.all((e >= 0) & (e <= 1)):
        raise ValueError(f"propensity ranges from {e.min():g} to {e.max():g}: probabilities lie in [0, 1].")
    ax = _axes(ax)
    two = len(names) == 2
    ticks: list[tuple[float, str]] = []
    rows = [1] if two else list(range(len(names)))
    for row, arm in enumerate(rows):
        ticks += _mirror(ax, e[:, arm], code == arm, arm, (names[arm], names[0] if two else "others"), -2.3 * row)
    ax.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
    for limit in (threshold, 1 - threshold) if two else (threshold,):
        ax.axvline(limit, color=FAINT, linewidth=0.9, linestyle=DOTTED)
    ax.set(xlim=(0, 1), ylim=(-2.3 * (len(rows) - 1) - 1.12, 1.12))
    event = _short(names[1]) if two else "the arm"
    ax.set_xlabel(f"Propensity: probability of {event} given the covariates", color=INK)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    _note(ax, f"height: share of the group; dotted: {threshold:g}")
    n_low = _share(int(np.sum(e.min(axis=1) < threshold)), len(e))
    _title(ax, f"Lowest propensity {number(e.min(), digits=2)}; {n_low} below {threshold:g}")
    return _finish(ax)


def _mirror(
    ax: Axes, e: FloatArray, got: NDArray[np.bool_], arm: int, names: tuple[Hashable, Hashable], base: float
) -> list[tuple[float, str]]:
    """One mirrored histogram about ``base``, the higher half scaled to 1; returns places and names for the y axis."""
    edges = np.linspace(0, 1, 41)
    colour, _, _, hatch = _style(arm)
    other = FAINT if names[1] == "others" else COLOURS[0]
    up, down = (np.histogram(e[rows], bins=edges)[0] / max(1, int(rows.sum())) for rows in (got, ~got))
    scale = max(float(up.max()), float(down.max()))
    for height, shade, pattern, name in ((up, colour, hatch, names[0]), (-down, other, "", names[1])):
        face: dict[str, Any] = {"facecolor": _tint(shade), "edgecolor": shade, "hatch": pattern, "label": str(name)}
        ax.stairs(base + height / scale, edges, baseline=base, fill=True, linewidth=1, **face)
    ax.axhline(base, color=FAINT, linewidth=0.8)
    counts = (int(got.sum()), int((~got).sum()))
    return [(base + s, f"{_short(n)}\n(n = {k:,})") for s, n, k in zip((0.5, -0.5), names, counts, strict=True)]


def number(value: float, scale: float | None = None, digits: int = 3) -> str:
    """Write a number with the decimals that `digits` significant digits of `scale` (by default itself) need.

    >>> number(-3.14159), number(12345.6), number(0.012345), number(1.23456, scale=0.02, digits=2)
    ('−3.14', '12,346', '0.0123', '1.235')
    """
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else "−∞" if value < 0 else "∞"
    size = abs(scale if scale and math.isfinite(scale) else value)
    decimals = max(0, digits - 1 - math.floor(math.log10(size))) if size else 0
    text = f"{value:,.{decimals}f}" if decimals <= 8 else f"{value:.{digits - 1}e}"
    if not text.strip("-0.,"):  # no minus before a rounded zero
        text = text.lstrip("-")
    return text.replace("-", "−")


def _tick(value: float) -> str:
    return f"{round(value, 10):,.10g}".replace("-", "−")


def _percent(share: float, decimals: int | None = None) -> str:
    return f"{100 * share:.10g}%" if decimals is None else f"{100 * share:.{decimals}f}%"


def _share(count: int, n: int) -> str:
    return f"{count:,} of {n:,} ({_percent(count / n, 0)})" if count else f"none of {n:,}"


def _short(label: Any, length: int = 22) -> str:
    text = str(label).replace("$", r"\$")  # matplotlib would read mathematics between two dollars
    return text if len(text) <= length else text[: length - 1] + "…"


def _with_unit(name: str, unit: str) -> str:
    return (f"{name} ({unit})" if unit and unit != name else name).replace("$", r"\$")


def _tint(colour: str) -> tuple[float, float, float]:
    """The colour as a third of itself on white: opaque, so that what lies behind does not show."""
    red, green, blue = (1 - 0.36 * (1 - int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    return red, green, blue


def _style(arm: int) -> tuple[str, Any, str, str]:
    """Colour, line style, marker and hatch of an arm."""
    return COLOURS[arm % 7], LINES[arm % 5], MARKERS[arm % 5], HATCHES[arm % 5]


def arm_codes(treatment: ArrayLike, arms: Sequence[Hashable]) -> IntArray:
    """Position of each treatment in `arms`; an unknown label is an error that names it."""
    labels = np.asarray(treatment)
    code = np.full(labels.shape, -1, dtype=np.int64)
    for position, arm in enumerate(arms):
        code[labels == arm] = position
    if (code < 0).any():
        raise ValueError(f"treatment {labels[code < 0].flat[0]!r} is not one of the arms {list(arms)}.")
    return code


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(5.6, 3.5), layout="constrained")[1]


def _name_rows(ax: Axes, places: FloatArray, names: list[str]) -> None:
    ax.set_yticks(places, names)
    ax.tick_params(axis="y", length=0)
    for arm, label in enumerate(ax.get_yticklabels()):
        label.set(color=COLOURS[arm % 7], fontweight="bold")


def _title(ax: Axes, text: str) -> None:
    """Set a left-aligned title, broken to the axes' width and, should it still be too long, at the figure's edge."""
    ax.title.set_fontsize("medium")
    width = ax.bbox.width / ax.figure.dpi * 72
    letters = int(width / (0.56 * float(ax.title.get_fontsize())))  # a letter is a good half as wide as high
    lines = len(textwrap.wrap(text, max(24, letters)))
    if lines > 1:  # about equally long, so that no word stands alone on the last
        text = "\n".join(textwrap.wrap(text, max(24, min(letters, len(text) // lines + 10))))
    ax.set_title(text, loc="left", fontsize="medium", color=INK, pad=17, wrap=True)


def _note(ax: Axes, text: str, at: Any = (1, 1), system: Any = "axes fraction", ha: str = "right") -> None:
    """A small remark; by default a key in the upper right corner, where a legend would need a box."""
    style: dict[str, Any] = {"ha": ha, "va": "bottom", "fontsize": "small", "color": FAINT}
    ax.annotate(text, at, xycoords=system, xytext=(0, 3), textcoords="offset points", **style)


def _finish(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    return ax
