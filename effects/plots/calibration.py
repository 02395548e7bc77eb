"""Pictures of what an estimate rests on: predicted against observed outcomes, and overlap."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from effects.diagnostics import pit_values
from effects.diagnostics.laws import arm_codes, misfit
from effects.individual import check_level
from effects.outcomes import PotentialOutcomes
from effects.plots.style import (
    COLOURS,
    DASHED,
    DOTTED,
    FAINT,
    INK,
    FloatArray,
    IntArray,
    add_note,
    arm_style,
    axes_or_new,
    finish,
    number,
    percent,
    set_title,
    share_of,
    short,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
            ax = axes_or_new(ax)
            _reliability(ax, outcomes, np.asarray(y, dtype=np.float64), code, level, n_bins)
            ax.set_xlabel(f"Predicted probability of {outcome_name}", color=INK)
            return finish(ax)
    else:
        pit = np.asarray(outcomes, dtype=np.float64)
        if pit.ndim != 1 or not np.all((pit >= 0) & (pit <= 1)):
            raise ValueError("PIT values must form one column between 0 and 1: use pit_values(outcomes, y, treatment).")
        labels = np.full(pit.size, "all units") if treatment is None else np.asarray(treatment)
        arms = tuple(np.unique(labels)) if arms is None or treatment is None else tuple(arms)
        code = arm_codes(labels, arms)
    ax = axes_or_new(ax)
    _pit_histogram(ax, [pit[code == arm] for arm in range(len(arms))], arms, level, n_bins)
    return finish(ax)


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
        colour, _, _, hatch = arm_style(arm)
        low, high = pit_band(group.size, n_bins, level, n_arms)
        counts, _ = np.histogram(group, bins=edges)
        if np.any((counts < low) | (counts > high)):
            outside.append(f"{short(name)}: outcomes {misfit(group)}")
        even = group.size / n_bins
        left = edges[:-1] + 0.07 / n_bins + arm * width
        ax.bar(left, (high - low) / even, width, low / even, align="edge", color="#dcdcdc", zorder=1)
        label = f"{short(name)} (n = {group.size:,})"
        face: dict[str, Any] = {"facecolor": tint(colour), "edgecolor": colour, "hatch": hatch}
        ax.bar(left, counts / even, 0.94 * width, align="edge", zorder=2, label=label, **face)
        limits = np.repeat([low / even, high / even], n_bins)
        ax.hlines(limits, np.tile(left, 2), np.tile(left + 0.94 * width, 2), color="#505050", linewidth=1.3, zorder=3)
        top = max(top, float((counts / even).max()), high / even)
    ax.axhline(1, color=INK, linewidth=1, linestyle=DASHED, zorder=4)
    ax.set(xlim=(0, 1), ylim=(0, 1.22 * top))
    ax.set_xlabel("Predicted probability of an outcome as low as observed (PIT)", color=INK)
    ax.set_ylabel("Frequency relative to even", color=INK)
    ax.legend(frameon=False, fontsize="small", loc="upper left", ncols=n_arms, borderaxespad=0.2)
    add_note(ax, f"grey: {percent(level)} band, all bars together")
    set_title(ax, "; ".join(outside) or "Calibrated: no bar leaves the band")


def pit_band(n: int, n_bins: int, level: float, n_groups: int = 1) -> tuple[int, int]:
    """Counts between which all bars of `n` uniform values stay, and those of `n_groups` - 1 more like it."""
    tail = (1 - level) / (2 * n_bins * n_groups)
    return int(binom.ppf(tail, n, 1 / n_bins)), int(binom.isf(tail, n, 1 / n_bins))


def _reliability(ax: Axes, outcomes: PotentialOutcomes, y: FloatArray, code: IntArray, level: float, n: int) -> None:
    """Observed frequency against predicted probability, in up to `n` equally large groups of each arm."""
    from statsmodels.stats.proportion import proportion_confint

    mean, says, top = outcomes.mean(), [], 0.0
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=DASHED)
    for arm, name in enumerate(outcomes.arms):
        rows = np.flatnonzero(code == arm)
        if not rows.size:
            continue
        colour, line, marker, _ = arm_style(arm)
        by_risk = rows[np.argsort(mean[rows, arm], kind="stable")]
        groups = np.array_split(by_risk, int(np.clip(rows.size // 10, 1, n)))
        predicted = np.array([mean[group, arm].mean() for group in groups])
        events, size = (np.array([f(y[group]) for group in groups]) for f in (np.sum, np.size))
        lower, upper = proportion_confint(events, size, alpha=1 - level, method="wilson")
        ax.vlines(predicted, lower, upper, color=colour, linewidth=1.1, alpha=0.8)
        label = f"{short(name)} (n = {rows.size:,})"
        ax.plot(predicted, events / size, color=colour, marker=marker, ms=5, linestyle=line, linewidth=1, label=label)
        top = max(top, float(upper.max()), float(predicted.max()))
        says.append(f"{percent(mean[rows, arm].mean(), 1)} and {percent(y[rows].mean(), 1)} under {short(name)}")
    limits = -0.02 * min(1.0, top), 1.02 * min(1.0, top)
    ax.set(xlim=limits, ylim=limits)
    ax.set_ylabel("Observed frequency", color=INK)
    ax.legend(frameon=False, fontsize="small", loc="upper left", borderaxespad=0.2)
    add_note(ax, f"bars: {percent(level)} intervals")
    set_title(ax, f"Predicted and observed: {'; '.join(says)}")


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
    ax = axes_or_new(ax)
    two = len(names) == 2
    ticks: list[tuple[float, str]] = []
    rows = [1] if two else list(range(len(names)))
    for row, arm in enumerate(rows):
        ticks += _mirror(ax, e[:, arm], code == arm, arm, (names[arm], names[0] if two else "others"), -2.3 * row)
    ax.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
    for limit in (threshold, 1 - threshold) if two else (threshold,):
        ax.axvline(limit, color=FAINT, linewidth=0.9, linestyle=DOTTED)
    ax.set(xlim=(0, 1), ylim=(-2.3 * (len(rows) - 1) - 1.12, 1.12))
    event = short(names[1]) if two else "the arm"
    ax.set_xlabel(f"Propensity: probability of {event} given the covariates", color=INK)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    add_note(ax, f"height: share of the group; dotted: {threshold:g}")
    n_low = share_of(int(np.sum(e.min(axis=1) < threshold)), len(e))
    set_title(ax, f"Lowest propensity {number(e.min(), digits=2)}; {n_low} below {threshold:g}")
    return finish(ax)


def _mirror(
    ax: Axes, e: FloatArray, got: NDArray[np.bool_], arm: int, names: tuple[Hashable, Hashable], base: float
) -> list[tuple[float, str]]:
    """One mirrored histogram about ``base``, the higher half scaled to 1; returns places and names for the y axis."""
    edges = np.linspace(0, 1, 41)
    colour, _, _, hatch = arm_style(arm)
    other = FAINT if names[1] == "others" else COLOURS[0]
    up, down = (np.histogram(e[rows], bins=edges)[0] / max(1, int(rows.sum())) for rows in (got, ~got))
    scale = max(float(up.max()), float(down.max()))
    for height, shade, pattern, name in ((up, colour, hatch, names[0]), (-down, other, "", names[1])):
        face: dict[str, Any] = {"facecolor": tint(shade), "edgecolor": shade, "hatch": pattern, "label": str(name)}
        ax.stairs(base + height / scale, edges, baseline=base, fill=True, linewidth=1, **face)
    ax.axhline(base, color=FAINT, linewidth=0.8)
    counts = (int(got.sum()), int((~got).sum()))
    return [(base + s, f"{short(n)}\n(n = {k:,})") for s, n, k in zip((0.5, -0.5), names, counts, strict=True)]
