"""Pictures of effect modification: forest plots, importance, partial dependence, trees of subgroups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from effects.effect import Estimate, Estimates
from effects.heterogeneity import Importance, PartialDependence, Subgroups, SubgroupTree
from effects.heterogeneity.modifiers import value_name
from effects.heterogeneity.tree import Tree
from effects.plots.style import (
    COLOURS,
    DASHED,
    DOTTED,
    FAINT,
    INK,
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
from effects.policy import PolicyTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SMALL = 7.5  # points: what a row of a forest plot is written in
MOST_BARS = 15


# ---------------------------------------------------------------------------------------------------------- forest plot


@dataclass(frozen=True)
class _Row:
    """A line of a forest plot: words on the left, an estimate or none, words on the right."""

    label: str
    counts: tuple[str, ...] = ()
    estimate: Estimate | None = None
    n: int = 0
    p: str = ""
    head: bool = False
    last: bool = False


def plot_forest(found: Subgroups | Estimates, *, outcome_name: str = "outcome", ax: Axes | None = None) -> Axes:
    """Draw subgroup effects as journals do: a row a level with its numbers, a square and its interval.

    The area of a square is as the number of rows; a dashed line stands at no effect, a dotted one at the overall
    effect, whose interval is the diamond. An arrow says that an interval goes on. p-values are those of
    the interaction.

    Parameters
    ----------
    found : Subgroups, or Estimates
        Of `subgroup_effects`, or of `estimate_gate` and other groups of estimates.
    outcome_name : str
        Name of the outcome on the axis.
    ax : matplotlib Axes, optional
        Where to draw and what is returned; a new figure's, as high as its rows need, if None.

    Raises
    ------
    ValueError
        If the estimates are numbers needed to treat, whose intervals may run through infinity.

    Examples
    --------
    >>> plot_forest(subgroup_effects(est, X, y, treatment=arm, by=["sex", "age"]))  # doctest: +SKIP
    """
    rows, heads = _subgroup_rows(found) if isinstance(found, Subgroups) else _estimate_rows(found)
    known = [row.estimate for row in rows if row.estimate is not None]
    if known[0].link == "reciprocal":
        raise ValueError("numbers needed to treat have no common axis: ask for scale='difference' and plot that.")
    if ax is None:
        from matplotlib import pyplot

        height = 1.35 + 0.185 * len(rows)
        ax = pyplot.subplots(figsize=(5.6, height), layout="constrained")[1]
    left = 0.4 if len(heads) > 1 else 0.32
    has_p = any(row.p for row in rows)
    right = 0.675 if has_p else 0.745
    place = _Columns(0.0, left, right, len(heads))
    ratio = known[0].link == "log"
    overall = next((row.estimate for row in rows if row.last), None)
    limits = _limits(ax, known, overall, ratio, place)
    _write_rows(ax, rows, heads, place, has_p)
    _draw_rows(ax, rows, limits)
    null = 1.0 if ratio else 0.0
    bottom = len(rows) - 0.4
    for value, line in [(null, DASHED)] + ([] if overall is None else [(overall.value, DOTTED)]):
        if limits[0] <= value <= limits[1]:
            ax.vlines(value, -0.5, bottom, color=INK if line is DASHED else FAINT, linewidth=0.9, linestyle=line)
    ax.set_ylim(len(rows) - 0.2, -1.7)
    _axis_names(ax, known[0], limits, place, outcome_name)
    set_title(ax, _forest_title(found))
    return ax


@dataclass(frozen=True)
class _Columns:
    """Where the columns of a forest plot stand, as fractions of the axes."""

    label: float
    plot: float
    text: float
    n_counts: int

    def count(self, k: int) -> float:
        """Right edge of the k-th column of counts."""
        return self.plot - 0.025 - 0.115 * (self.n_counts - 1 - k)


def _subgroup_rows(found: Subgroups) -> tuple[list[_Row], list[str]]:
    table = found.to_frame()
    e = found.overall
    pair = [one for one in (e.treated, e.control) if f"events [{one}]" in table]
    heads = [f"{short(one, 11)}\nevents/n" for one in pair] or ["n"]
    estimates: dict[tuple[str, str], Estimate] = {}
    for name, each in found.factors.items():
        estimates |= {(name, str(label)): one for label, one in zip(each.labels, each, strict=True)}
    rows: list[_Row] = []
    for factor, own in table.groupby("subgroup", sort=False):
        name = str(factor)
        alone = len(own) == 1 and own["level"].iloc[0] == ""
        if not alone:
            p = found.tests["p"].get(name, np.nan)
            rows.append(_Row(name, p=_p(p), head=True))
        for record in own.to_dict("records"):
            counts = tuple(f"{record[f'events [{one}]']:,}/{record[f'n [{one}]']:,}" for one in pair)
            one = e if alone else estimates.get((name, str(record["level"])))
            label = name if alone else str(record["level"])
            rows.append(_Row(label, counts or (f"{record['n']:,}",), one, int(record["n"]), last=alone))
    return rows, heads


def _estimate_rows(found: Estimates) -> tuple[list[_Row], list[str]]:
    rows = [_Row(str(found.by), head=True)]
    for label, one in zip(found.labels, found, strict=True):
        rows.append(_Row(str(label), (f"{one.n:,}",), one, one.n))
    return rows, ["n"]


def _p(p: float) -> str:
    return "" if not np.isfinite(p) else "<0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _limits(
    ax: Axes, known: list[Estimate], overall: Estimate | None, ratio: bool, place: _Columns
) -> tuple[float, float]:
    """Range of the drawn axis; sets the axes' limits so that it fills the middle of them."""
    to, back = (np.log, np.exp) if ratio else (np.asarray, np.asarray)
    points = to(np.array([e.value for e in known] + [1.0 if ratio else 0.0]))
    ends = to(np.array([e.interval() for e in known]))
    half = float(np.median(ends[:, 1] - ends[:, 0])) / 2 or float(np.ptp(points)) or 1.0
    low = max(float(min(ends[:, 0].min(), points.min())), float(points.min()) - 3 * half)
    high = min(float(max(ends[:, 1].max(), points.max())), float(points.max()) + 3 * half)
    margin = 0.04 * (high - low)
    low, high = low - margin, high + margin
    width = (high - low) / (place.text - place.plot - 0.02)
    if ratio:
        ax.set_xscale("log")
    ax.set_xlim(float(back(low - place.plot * width)), float(back(low + (1 - place.plot) * width)))
    return float(back(low)), float(back(high))


def _write_rows(ax: Axes, rows: list[_Row], heads: list[str], place: _Columns, has_p: bool) -> None:
    to = ax.get_yaxis_transform()
    style: dict[str, Any] = {"transform": to, "fontsize": _SMALL, "color": INK, "va": "center"}
    level = next(row.estimate.level for row in rows if row.estimate is not None)
    bold = {**style, "fontweight": "bold", "va": "bottom"}
    ax.text(place.label, -0.75, "Subgroup", **bold)
    for k, head in enumerate(heads):
        ax.text(place.count(k), -0.75, head, ha="right", **bold)
    ax.text(place.text, -0.75, f"Effect ({percent(level)} interval)", **bold)
    if has_p:
        ax.text(1.0, -0.75, "p, inter-\naction", ha="right", **bold)
    errors = [row.estimate.se for row in rows if row.estimate is not None and row.estimate.se > 0]
    scale = 2 * float(np.median(errors)) if errors else None  # half an interval, to two digits
    for at, row in enumerate(rows):
        weight = "bold" if row.head or row.last else "normal"
        indent = 0.0 if row.head or row.last else 0.02
        ax.text(place.label + indent, at, short(row.label, 30), fontweight=weight, **style)
        for k, count in enumerate(row.counts):
            ax.text(place.count(k), at, count, ha="right", **style)
        if row.estimate is not None:
            ax.text(place.text, at, _interval_text(row.estimate, scale), **style)
        elif row.counts:
            ax.text(place.text, at, "too few rows", **{**style, "color": FAINT})
        if row.p:
            ax.text(1.0, at, row.p, ha="right", **style)


def _interval_text(e: Estimate, scale: float | None) -> str:
    lower, upper = e.interval()
    if e.link == "log":
        return f"{number(e.value)} ({number(lower)} to {number(upper)})"
    said = [number(v, scale, 2) for v in (e.value, lower, upper)]
    return f"{said[0]} ({said[1]} to {said[2]})"


def _draw_rows(ax: Axes, rows: list[_Row], limits: tuple[float, float]) -> None:
    largest = max((row.n for row in rows if not row.last and row.estimate is not None), default=1)
    for at, row in enumerate(rows):
        if row.estimate is None:
            continue
        value = row.estimate.value
        lower, upper = row.estimate.interval()
        if row.last:
            ax.fill([lower, value, upper, value], [at, at - 0.3, at, at + 0.3], color=INK, zorder=3)
            continue
        ax.hlines(at, max(lower, limits[0]), min(upper, limits[1]), color=COLOURS[0], linewidth=1.2, zorder=2)
        for end, beyond, marker in ((limits[0], lower < limits[0], "<"), (limits[1], upper > limits[1], ">")):
            if beyond:
                ax.plot(end, at, marker, color=COLOURS[0], ms=4, zorder=2)
        if limits[0] <= value <= limits[1]:
            ax.plot(value, at, "s", color=COLOURS[0], ms=2.5 + 4.5 * np.sqrt(row.n / max(largest, 1)), zorder=3)


def _axis_names(ax: Axes, e: Estimate, limits: tuple[float, float], place: _Columns, outcome_name: str) -> None:
    from matplotlib import ticker

    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(FAINT)
    ax.spines["bottom"].set_bounds(*limits)
    ax.set_yticks([])
    locator = ticker.LogLocator(base=10, subs=(1, 2, 5)) if e.link == "log" else ticker.MaxNLocator(4)
    ticks = [value for value in locator.tick_values(*limits) if limits[0] <= value <= limits[1]]
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.set_xticks(ticks, [f"{value:g}".replace("-", "−") for value in ticks], fontsize=_SMALL)
    name = e.unit if e.unit else f"Effect on {outcome_name}"
    name = name[:1].upper() + name[1:]
    middle = (place.plot + place.text - 0.02) / 2
    ax.set_xlabel(
        f"{name}: {short(e.treated, 16)} vs {short(e.control, 16)}", color=INK, fontsize=_SMALL + 0.5, x=middle
    )


def _forest_title(found: Subgroups | Estimates) -> str:
    if isinstance(found, Estimates):
        if len(found) < 2:
            return f"{found[0]}"
        try:
            return f"Test of equal effects by {found.by}: {_p_text(found.heterogeneity().p_value)}"
        except ValueError:
            return f"Effects by {found.by}"
    p = found.tests["p_holm"].dropna()
    clear = [str(name) for name in p.index[p < 1 - found.overall.level]]
    if not len(p):
        return "Effects in pre-specified subgroups"
    if not clear:
        return f"No clear difference between subgroups (smallest interaction {_p_text(float(p.min()))}, Holm-corrected)"
    listed = " and ".join([", ".join(clear[:-1]), clear[-1]] if len(clear) > 1 else clear)
    return f"The effect differs by {listed} (interaction tests, Holm-corrected)"


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


# ------------------------------------------------------------------------------------------------------------ modifiers


def plot_importance(found: Importance, *, n_columns: int = MOST_BARS, ax: Axes | None = None) -> Axes:
    """Draw a `modifier_importance`: the share of each column in the variance of the predicted effect.

    Parameters
    ----------
    found : Importance
    n_columns : int
        The most important ones that are drawn; a note counts the others.
    ax
        As in `plot_forest`.

    Examples
    --------
    >>> plot_importance(modifier_importance(est, X))  # doctest: +SKIP
    """
    table = found.table.head(n_columns)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=(5.6, 1.3 + 0.2 * len(table)), layout="constrained")[1]
    at = np.arange(len(table))
    ax.barh(at, table["importance"], height=0.62, color=tint(COLOURS[0]), edgecolor=COLOURS[0], zorder=2)
    ax.hlines(at, table["lower"], table["upper"], color=INK, linewidth=1.2, zorder=3)
    ax.set_yticks(at, [short(name, 30) for name in table["column"]], fontsize="small")
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set_xlim(0, max(1.02 * float(table["upper"].max()), 1e-3))
    ax.xaxis.set_major_formatter(lambda x, _: percent(round(x, 4)))
    ax.set_xlabel("Share in the variance of the predicted effect", color=INK)
    others = len(found.table) - len(table)
    more = f"; {others} more column{'s' * (others > 1)} below these" if others else ""
    add_note(ax, f"lines: {percent(found.level)} intervals of the sampling of {found.n} rows{more}")
    top = table.iloc[0]
    spread = f"sd {number(found.std, digits=2)}"
    says = f"The predicted effect varies ({spread}), most with {short(top['column'])}"
    set_title(ax, says if found.std > 0 else found.text)
    return finish(ax)


def plot_partial_dependence(
    found: PartialDependence, *, outcome_name: str = "outcome", unit: str = "", ax: Axes | None = None
) -> Axes:
    """Draw a `partial_dependence`: the average predicted effect along one column, with its posterior interval.

    Thin lines hold the middle 80% of single units; ticks on the axis are the deciles of the column.

    Parameters
    ----------
    found : PartialDependence
    outcome_name, unit : str
        Of the outcome, on the axis.
    ax
        As in `plot_forest`.

    Examples
    --------
    >>> plot_partial_dependence(partial_dependence(est, X, "age"))  # doctest: +SKIP
    """
    ax = axes_or_new(ax)
    table, colour = found.table, COLOURS[0]
    name = short(found.column, 40)
    if found.kind == "number":
        x = table["value"].to_numpy(dtype=np.float64)
        ax.fill_between(x, table["lower"], table["upper"], color=tint(colour), linewidth=0, zorder=1)
        ax.plot(x, table["mean"], color=colour, linewidth=1.9, zorder=3)
        for q in ("q10", "q90"):
            ax.plot(x, table[q], color=FAINT, linewidth=1, linestyle=DOTTED, zorder=2)
        inside = [v for v in np.asarray(found.observed, dtype=np.float64) if x.min() <= v <= x.max()]
        ax.plot(inside, np.zeros(len(inside)), "|", color=INK, ms=7, transform=ax.get_xaxis_transform(), clip_on=False)
        ax.set_xlabel(f"{name} (ticks: deciles)", color=INK)
    else:
        at = np.arange(len(table))
        ax.vlines(at, table["q10"], table["q90"], color=FAINT, linewidth=1, linestyle=DOTTED)
        ax.vlines(at, table["lower"], table["upper"], color=colour, linewidth=2.2)
        ax.plot(at, table["mean"], "s", color=colour, ms=5.5)
        labels = [value_name(v) for v in table["value"]]
        ax.set_xticks(at, [short(v, 14) for v in labels])
        ax.tick_params(axis="x", labelrotation=45 if len(labels) > 6 else 0)
        ax.set_xlim(-0.6, len(at) - 0.4)
        ax.set_xlabel(name, color=INK)
    ax.axhline(0, color=INK, linewidth=0.9, linestyle=DASHED, zorder=1)
    contrast = f"{short(found.treated, 12)} vs {short(found.control, 12)}"
    ax.set_ylabel(with_unit(f"Predicted effect on {outcome_name},\n{contrast}", unit), color=INK)
    mark = "band" if found.kind == "number" else "thick"
    add_note(ax, f"{mark}: {percent(found.level)} interval; dotted: the middle 80% of units")
    set_title(ax, f"Average predicted effect by {name}: {_range(found)}")
    return finish(ax)


def _range(found: PartialDependence) -> str:
    mean, value = found.table["mean"].to_numpy(), found.table["value"].to_list()
    low, high = int(mean.argmin()), int(mean.argmax())
    at = [value_name(value[k]) for k in (low, high)]
    return f"from {number(float(mean[low]))} at {at[0]} to {number(float(mean[high]))} at {at[1]}"


# ---------------------------------------------------------------------------------------------------------------- trees


def plot_subgroup_tree(found: SubgroupTree | PolicyTree, *, ax: Axes | None = None) -> Axes:
    """Draw a `subgroup_tree` (its estimates come from the half that did not grow it) or a `policy_tree`.

    Parameters
    ----------
    found : SubgroupTree or PolicyTree
    ax
        As in `plot_forest`.

    Examples
    --------
    >>> plot_subgroup_tree(subgroup_tree(est, X, y, treatment=arm))  # doctest: +SKIP
    """
    tree, leaves = found.tree, found.tree.leaves()
    depth = _depth(tree)
    if ax is None:
        from matplotlib import pyplot

        width = max(5.6, 1.45 * len(leaves))
        ax = pyplot.subplots(figsize=(width, 1.5 + 0.95 * depth), layout="constrained")[1]
    x = {k: float(position) for position, k in enumerate(leaves)}
    boxes = _leaf_texts(found)
    box: dict[str, Any] = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": FAINT}

    def place(k: int, level: int) -> float:
        node = tree.nodes[k]
        if node.leaf:
            ax.text(x[k], -depth, boxes[k], ha="center", va="top", fontsize=_SMALL + 0.5, color=INK, bbox=box)
            if level < depth:
                ax.plot([x[k], x[k]], [-level, -depth], color=FAINT, linewidth=1)
            return x[k]
        ends = [place(below, level + 1) for below in (node.left, node.right)]
        middle = sum(ends) / 2
        for end, words in zip(ends, node.words, strict=True):
            ax.plot([middle, end, end], [-level, -level, -level - 1], color=FAINT, linewidth=1, zorder=1)
            said = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            ax.text(
                end, -level - 0.42, _wrapped(words), ha="center", va="center", fontsize=_SMALL, color=INK, bbox=said
            )
        return middle

    place(0, 0)
    ax.set(xlim=(-0.55, len(leaves) - 0.45), ylim=(-depth - 0.55, 0.12))
    ax.set_axis_off()
    set_title(ax, _tree_title(found))
    return ax


def _wrapped(words: str, width: int = 22) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(words.replace("$", r"\$"), width))


def _depth(tree: Tree, k: int = 0) -> int:
    node = tree.nodes[k]
    return 0 if node.leaf else 1 + max(_depth(tree, node.left), _depth(tree, node.right))


def _leaf_texts(found: SubgroupTree | PolicyTree) -> dict[int, str]:
    leaves = found.tree.leaves()
    if isinstance(found, PolicyTree):
        rows = zip(leaves, found.table["arm"], found.table["n"], strict=True)
        return {k: f"give {short(arm, 16)}\nn = {n:,}" for k, arm, n in rows}
    texts = {}
    scale = min((e.se for e in found.estimates if e.se > 0), default=None)
    for k, e in zip(leaves, found.estimates, strict=True):
        lower, upper = (number(v, scale, 2) for v in e.interval())
        texts[k] = f"{number(e.value, scale, 2)}\n({lower} to {upper})\nn = {e.n:,}"
    return texts


def _tree_title(found: SubgroupTree | PolicyTree) -> str:
    if isinstance(found, PolicyTree):
        gains = (f"{number(g.value)} over {short(label)}" for label, g in
                 zip(found.value.gains.labels, found.value.gains, strict=True))  # fmt: skip
        return f"Whom to treat by rules: gains {'; '.join(gains)} (n = {found.n_valued:,} other rows)"
    e = found.overall
    what = f"Effect of {short(e.treated)} vs {short(e.control)} in subgroups found on other rows"
    if len(found.estimates) < 2:
        return "No subgroups were found"
    try:
        return f"{what}: test of equal effects {_p_text(found.estimates.heterogeneity().p_value)}"
    except ValueError:
        return what
