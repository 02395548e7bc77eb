"""What the pictures show is what the values are."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from effects import plots
from effects.diagnostics import Check
from effects.effect import Effect, Estimate
from effects.outcomes import PotentialOutcomes
from effects.plots import plot_calibration, plot_effect, plot_outcomes, plot_overlap
from effects.support import Support

ARMS = ("placebo", "drug")


def axes() -> Axes:
    return Figure(figsize=(5, 3)).subplots()


def line(ax: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    (found,) = [one for one in ax.get_lines() if one.get_label() == label]
    return np.asarray(found.get_xdata(), dtype=float), np.asarray(found.get_ydata(), dtype=float)


def bars(ax: Axes, label: str) -> list[Rectangle]:
    (found,) = [one for one in ax.containers if one.get_label() == label]
    return list(found)


def segments(ax: Axes, label: str) -> np.ndarray:
    (found,) = [c for c in ax.collections if isinstance(c, LineCollection) and c.get_label() == label]
    return np.array([s[:, 1] for s in found.get_segments()])


def normal_outcomes(n: int = 3, shift: float = 2.0, unit: str = "mmHg", seed: int = 0) -> PotentialOutcomes:
    draws = np.random.default_rng(seed).normal([0.0, shift], [1.0, 0.5], size=(5, 200, n, 2))
    return PotentialOutcomes(draws.astype(np.float32), arms=ARMS, unit=unit)


# ---- outcomes


@pytest.mark.parametrize("shape", ["normal", "lognormal", "outlier", "constant"])
def test_density_integrates_to_one(shape: str) -> None:
    rng = np.random.default_rng(1)
    draws = {
        "normal": rng.normal(5, 2, size=(4, 100, 1, 2)),
        "lognormal": rng.lognormal(3, 1.2, size=(4, 100, 1, 2)),
        "outlier": np.where(rng.random((4, 100, 1, 2)) < 0.01, 500.0, rng.normal(size=(4, 100, 1, 2))),
        "constant": np.full((4, 100, 1, 2), 7.0),
    }[shape]
    ax = plot_outcomes(PotentialOutcomes(draws.astype(np.float32)), ax=axes())
    for arm in (0, 1):
        x, y = line(ax, f"density {arm}")
        assert np.trapezoid(y, x) == pytest.approx(1, abs=2e-3)
        assert y.min() >= 0


def test_density_is_that_of_the_law() -> None:
    draws = np.random.default_rng(2).normal(3, 2, size=(20, 500, 1, 2))
    x, y = line(plot_outcomes(PotentialOutcomes(draws.astype(np.float32)), ax=axes()), "density 0")
    truth = np.exp(-0.5 * ((x - 3) / 2) ** 2) / (2 * np.sqrt(2 * np.pi))
    assert np.abs(y - truth).max() < 0.1 * truth.max()


def test_two_humps_stay_two() -> None:
    rng = np.random.default_rng(3)
    draws = rng.normal(size=(16, 33, 1, 2)) + 6 * (rng.random((16, 33, 1, 2)) < 0.5)
    x, y = line(plot_outcomes(PotentialOutcomes(draws.astype(np.float32)), ax=axes()), "density 1")
    valley = y[np.argmin(np.abs(x - 3))]
    assert valley < 0.3 * min(y[np.abs(x) < 1].max(), y[np.abs(x - 6) < 1].max())


def test_a_comb_of_shared_quantile_nodes_is_one_hump() -> None:
    from scipy.stats import norm

    nodes = norm.ppf((np.arange(33) + 0.5) / 33)
    draws = np.broadcast_to(nodes[None, :, None, None], (16, 33, 1, 2))  # every member the same
    _, y = line(plot_outcomes(PotentialOutcomes(draws.astype(np.float32)), ax=axes()), "density 0")
    rises = np.diff(np.sign(np.diff(y[y > 1e-3 * y.max()])))
    assert np.sum(rises < 0) == 1


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_interval_bars_and_marks_are_the_values(level: float) -> None:
    outcomes = normal_outcomes()
    means = outcomes.draws.mean(axis=1) + 0.25  # analytic means: the mark shows these, not those of the draws
    outcomes = PotentialOutcomes(outcomes.draws, ARMS, means=means, unit="mmHg")
    ax = plot_outcomes(outcomes, unit=2, level=level, ax=axes())
    lower, upper = outcomes.interval(level)
    for arm in (0, 1):
        x, y = line(ax, f"interval {arm}")
        assert x == pytest.approx([lower[2, arm], upper[2, arm]])
        assert y[0] == y[1] < 0  # below the density
        assert line(ax, f"mean {arm}")[0] == pytest.approx([outcomes.mean()[2, arm]])
    assert [t.get_text() for t in ax.get_yticklabels()] == list(ARMS)


def test_axes_carry_name_and_unit() -> None:
    ax = plot_outcomes(normal_outcomes(), outcome_name="blood pressure", ax=axes())
    assert ax.get_xlabel() == "blood pressure (mmHg)"
    assert "1/mmHg" in ax.get_ylabel()
    assert plot_outcomes(normal_outcomes(unit=""), outcome_name="score", ax=axes()).get_xlabel() == "score"
    effect = normal_outcomes().effect()
    assert plot_effect(effect, outcome_name="pressure", ax=axes()).get_ylabel() == "Effect on pressure (mmHg)"


def test_title_says_the_means_and_the_row_label() -> None:
    outcomes = PotentialOutcomes(normal_outcomes().draws, ARMS, index=pd.Index(["ann", "bob", "eve"]))
    title = plot_outcomes(outcomes, unit=-2, ax=axes()).get_title(loc="left")
    mean = outcomes.mean()[1]
    assert title.replace("\n", " ").startswith("Unit bob: mean")
    assert f"{mean[1]:.2f} under drug" in title.replace("\n", " ")


def test_count_sticks_are_shares() -> None:
    draws = np.random.default_rng(4).poisson([1.0, 3.0], size=(4, 500, 2, 2)).astype(np.float32)
    ax = plot_outcomes(PotentialOutcomes(draws, ARMS, kind="count", unit="visits"), unit=1, ax=axes())
    for arm in (0, 1):
        x, share = line(ax, f"share {arm}")
        value = np.rint(x - (0.13 if arm else -0.13)).astype(int)
        assert share == pytest.approx([(draws[:, :, 1, arm] == k).mean() for k in value])
        assert share.sum() > 0.99


def test_many_counts_are_grouped() -> None:
    draws = np.random.default_rng(5).poisson([80.0, 130.0], size=(4, 500, 1, 2)).astype(np.float32)
    ax = plot_outcomes(PotentialOutcomes(draws, kind="count"), ax=axes())
    steps = [p for p in ax.patches if isinstance(p, StepPatch) and str(p.get_label()).startswith("share")]
    for patch in steps:
        values, edges, _ = patch.get_data()
        assert len(values) <= 26 and np.all(np.diff(edges) == np.diff(edges)[0])
        assert values.sum() == pytest.approx(1, abs=0.005)
    assert "ranges of" in ax.get_ylabel()


def test_probability_bars() -> None:
    p = np.random.default_rng(6).beta(2, [8, 3], size=(50, 1, 2, 2)).astype(np.float32)
    outcomes = PotentialOutcomes(p, ARMS, kind="binary")
    ax = plot_outcomes(outcomes, unit=1, level=0.8, outcome_name="death", ax=axes())
    widths = [bar.get_width() for container in ax.containers for bar in container]
    assert widths == pytest.approx(outcomes.mean()[1])
    for arm in (0, 1):
        assert line(ax, f"interval {arm}")[0] == pytest.approx(np.quantile(p[:, 0, 1, arm], [0.1, 0.9]))
    assert ax.get_xlabel() == "Probability of death"


def test_rare_events_are_not_squeezed() -> None:
    p = np.full((3, 1, 1, 2), 0.01, dtype=np.float32)
    low, high = plot_outcomes(PotentialOutcomes(p, kind="binary"), ax=axes()).get_xlim()
    assert low == 0 and high < 0.05


# ---- effect


def test_effects_are_sorted_with_their_intervals() -> None:
    members = np.random.default_rng(7).normal(np.random.default_rng(8).normal(size=100), 0.3, size=(30, 100))
    effect = Effect(members, treated="drug", control="placebo")
    ax = plot_effect(effect, level=0.8, ax=axes())
    x, y = line(ax, "effect")
    order = np.argsort(effect.mean)
    assert y == pytest.approx(effect.mean[order])
    assert np.all(np.diff(x) > 0) and 0 < x[0] < x[-1] < 100
    lower, upper = effect.interval(0.8)
    assert segments(ax, "interval") == pytest.approx(np.column_stack([lower, upper])[order])
    assert line(ax, "no effect")[1] == pytest.approx([0, 0])
    assert line(ax, "average")[1] == pytest.approx([effect.mean.mean()] * 2)
    title = ax.get_title(loc="left").replace("\n", " ")
    assert f"above zero in {np.sum(lower > 0)} of 100" in title and f"below zero in {np.sum(upper < 0)} of 100" in title


def test_many_effects_are_thinned_but_all_counted() -> None:
    members = np.random.default_rng(9).normal(np.linspace(-3, 9, 20_000), 0.1, size=(10, 20_000))
    effect = Effect(members)
    ax = plot_effect(effect, ax=axes())
    _, y = line(ax, "effect")
    assert len(y) == plots.MAX_UNITS_DRAWN
    assert (y[0], y[-1]) == pytest.approx((effect.mean.min(), effect.mean.max()))
    assert f"{int(np.sum(effect.interval()[0] > 0)):,} of 20,000" in ax.get_title(loc="left").replace("\n", " ")
    assert "400 of 20,000" in ax.get_xlabel()


# ---- calibration


def test_pit_is_the_cdf_at_the_outcome() -> None:
    outcomes = PotentialOutcomes(
        np.tile(np.arange(100.0), (1, 1)).reshape(1, 100, 1, 1).repeat(4, 2).repeat(2, 3), ARMS
    )
    pit = plots.pit_values(outcomes, [-1.0, 24.5, 49.5, 200.0], ["drug", "placebo", "drug", "drug"])
    assert pit == pytest.approx([0, 0.25, 0.5, 1], abs=0.011)


def test_pit_uses_the_arm_that_was_received() -> None:
    outcomes = normal_outcomes(n=2, shift=50)
    low, high = plots.pit_values(outcomes, [25, 25], ["drug", "placebo"])
    assert low < 0.01 and high > 0.99


@pytest.mark.parametrize("kind", ["continuous", "count", "binary"])
def test_pit_of_calibrated_outcomes_is_uniform(kind: str) -> None:
    rng, n = np.random.default_rng(10), 4000
    arm = rng.integers(2, size=n)
    if kind == "binary":
        p = rng.beta(2, 2, size=(1, 1, n, 2))
        draws, y = p, (rng.random(n) < p[0, 0, np.arange(n), arm]).astype(float)
    else:
        rate = rng.gamma(2, 1, size=(n, 2))
        draw = rng.poisson if kind == "count" else rng.normal
        draws = np.asarray(draw(rate, size=(4, 50, n, 2)), dtype=float)
        y = np.asarray(draw(rate), dtype=float)[np.arange(n), arm]
    outcomes = PotentialOutcomes(draws.astype(np.float32), ARMS, kind=kind)
    pit = plots.pit_values(outcomes, y.astype(np.float32), np.array(ARMS)[arm])
    counts, _ = np.histogram(pit, bins=10, range=(0, 1))
    low, high = plots.pit_band(n, 10, 0.99)
    assert ((counts >= low) & (counts <= high)).all()


def test_band_holds_all_bars_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    counts = rng.multinomial(150, np.full(10, 0.1), size=(2000, 2))
    low, high = plots.pit_band(150, 10, 0.9, n_groups=2)
    inside = ((counts >= low) & (counts <= high)).all(axis=(1, 2)).mean()
    assert 0.9 - 0.02 < inside < 0.99


def pit_case(change: str) -> tuple[PotentialOutcomes, np.ndarray, np.ndarray]:
    rng, n = np.random.default_rng(12), 600
    draws = rng.normal(size=(4, 100, n, 2))
    treatment = np.array(ARMS)[rng.integers(2, size=n)]
    y = rng.normal(size=n)
    drug = treatment == "drug"
    y = {"none": y, "up": y + drug, "down": y - drug, "spread": y * (1 + drug), "narrow": y * (1 - 0.5 * drug)}[change]
    return PotentialOutcomes(draws.astype(np.float32), ARMS), y, treatment


@pytest.mark.parametrize(
    ("change", "says"),
    [("up", "too low"), ("down", "too high"), ("spread", "too narrow"), ("narrow", "too wide")],
)
def test_calibration_names_the_arm_that_is_off_and_how(change: str, says: str) -> None:
    title = plot_calibration(*pit_case(change), ax=axes()).get_title(loc="left").replace("\n", " ")
    assert title == f"drug: outcomes predicted {says}"


def test_calibrated_bars_lie_inside_the_band() -> None:
    outcomes, y, treatment = pit_case("none")
    ax = plot_calibration(outcomes, y, treatment, ax=axes())
    assert ax.get_title(loc="left").startswith("Calibrated")
    pit = plots.pit_values(outcomes, y, treatment)
    for arm in ARMS:
        n = int(np.sum(treatment == arm))
        heights = [bar.get_height() for bar in bars(ax, f"{arm} (n = {n})")]
        counts, _ = np.histogram(pit[treatment == arm], bins=10, range=(0, 1))
        assert heights == pytest.approx(counts / (n / 10))
        low, high = plots.pit_band(n, 10, 0.9, n_groups=2)
        assert min(heights) >= low / (n / 10) and max(heights) <= high / (n / 10)


def test_calibration_from_pit_values() -> None:
    outcomes, y, treatment = pit_case("none")
    pit = plots.pit_values(outcomes, y, treatment)
    whole, given = plot_calibration(outcomes, y, treatment, ax=axes()), axes()
    plot_calibration(pit, treatment=treatment, arms=ARMS, ax=given)
    both = [[bar.get_height() for c in ax.containers for bar in c] for ax in (whole, given)]
    assert both[0] == both[1]
    assert "all units (n = 600)" in {c.get_label() for c in plot_calibration(pit, ax=axes()).containers}


def test_reliability_points_are_group_means() -> None:
    rng, n = np.random.default_rng(13), 400
    p = rng.beta(2, 2, size=(6, 1, n, 2)).astype(np.float32)
    outcomes, code = PotentialOutcomes(p, ARMS, kind="binary"), rng.integers(2, size=n)
    y = (rng.random(n) < outcomes.mean()[np.arange(n), code]).astype(float)
    ax = plot_calibration(outcomes, y, np.array(ARMS)[code], n_bins=5, outcome_name="death", ax=axes())
    for k, arm in enumerate(ARMS):
        rows = np.flatnonzero(code == k)
        x, seen = line(ax, f"{arm} (n = {rows.size})")
        groups = np.array_split(rows[np.argsort(outcomes.mean()[rows, k])], 5)
        assert x == pytest.approx([outcomes.mean()[g, k].mean() for g in groups])
        assert seen == pytest.approx([y[g].mean() for g in groups])
    assert ax.get_xlabel() == "Predicted probability of death"


# ---- overlap


def test_overlap_is_mirrored_shares() -> None:
    rng = np.random.default_rng(14)
    e = rng.beta(2, 3, size=500)
    treatment = np.where(rng.random(500) < e, "drug", "placebo")
    ax = plot_overlap(e, treatment, ARMS, ax=axes())
    halves = {p.get_label(): p.get_data()[0] for p in ax.patches if isinstance(p, StepPatch)}
    up, down = (np.histogram(e[treatment == arm], bins=40, range=(0, 1))[0] / np.sum(treatment == arm) for arm in
                ("drug", "placebo"))  # fmt: skip
    scale = max(up.max(), down.max())
    assert halves["drug"] == pytest.approx(up / scale)
    assert halves["placebo"] == pytest.approx(-down / scale)
    low = int(np.sum(np.minimum(e, 1 - e) < 0.05))
    assert f"{low} of 500" in ax.get_title(loc="left")


def test_overlap_of_three_arms_has_a_row_each() -> None:
    rng = np.random.default_rng(15)
    e = rng.dirichlet([2, 2, 2], size=300)
    arms = ("a", "b", "c")
    ax = plot_overlap(e, np.array(arms)[rng.integers(3, size=300)], arms, ax=axes())
    assert [t.get_text().split("\n")[0] for t in ax.get_yticklabels()] == ["a", "others", "b", "others", "c", "others"]


# ---- manners


def every_picture(ax: Axes, which: int) -> Axes:
    outcomes, y, treatment = pit_case("none")
    calls = [
        lambda: plot_outcomes(outcomes, ax=ax),
        lambda: plot_effect(outcomes.effect(), ax=ax),
        lambda: plot_calibration(outcomes, y, treatment, ax=ax),
        lambda: plot_overlap(np.full(600, 0.4), treatment, ARMS, ax=ax),
    ]
    return calls[which]()


@pytest.mark.parametrize("which", range(4))
def test_a_given_axes_is_used_and_pyplot_left_alone(which: int) -> None:
    pyplot.close("all")
    before = dict(matplotlib.rcParams)
    ax = axes()
    assert every_picture(ax, which) is ax
    assert pyplot.get_fignums() == [] and dict(matplotlib.rcParams) == before
    assert ax.get_title(loc="left") and ax.get_xlabel()


def test_without_axes_a_figure_is_made() -> None:
    pyplot.close("all")
    ax = plot_outcomes(normal_outcomes())
    assert pyplot.get_fignums() == [1] and pyplot.gca() is ax
    pyplot.close("all")


def test_names_are_not_read_as_mathematics() -> None:
    outcomes = PotentialOutcomes(normal_outcomes().draws, ("$5 {x", "$10 \\frac"), unit="$")
    ax = plot_outcomes(outcomes, outcome_name="cost_$", ax=axes())
    ax.get_figure(root=True).savefig(BytesIO(), format="svg")  # type: ignore[union-attr]


def test_arms_differ_in_grey_print() -> None:
    styles = [plots.style.arm_style(arm) for arm in range(5)]
    for part in (1, 2, 3):  # line, marker, hatch
        assert len({str(style[part]) for style in styles}) == 5


def test_matplotlib_waits_until_something_is_drawn() -> None:
    code = "import sys, effects.plots; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda o: plot_outcomes(o, unit=3), IndexError, "unit=3 is out of range: the outcomes hold 3 units"),
        (lambda o: plot_outcomes(o, level=90), ValueError, "level must lie strictly between 0 and 1"),
        (lambda o: plot_effect(o.effect(), level=0), ValueError, "level must lie strictly between 0 and 1"),
        (lambda o: plot_calibration(o), ValueError, "needs the observed y and treatment"),
        (lambda o: plot_calibration(o, [1.0], ["drug"]), ValueError, "one value for each of the 3 units"),
        (lambda o: plot_calibration(o, [1.0] * 3, ["pill"] * 3), ValueError, "'pill'.* is not one of the arms"),
        (lambda o: plot_calibration(np.array([0.5, 1.5])), ValueError, "between 0 and 1"),
        (lambda o: plot_overlap([0.5, 0.5], ["drug"] * 3, ARMS), ValueError, r"shape \(2, 2\), but 3 units"),
        (lambda o: plot_overlap([0.5, 1.5], ["drug"] * 2, ARMS), ValueError, "probabilities lie in"),
    ],
)
def test_bad_calls_say_what_is_wrong(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call(normal_outcomes())


@pytest.mark.parametrize(
    ("value", "scale", "digits", "text"),
    [
        (-3.14159, None, 3, "−3.14"),
        (12345.6, None, 3, "12,346"),
        (0.00012345, None, 3, "0.000123"),
        (1.23456, 0.02, 2, "1.235"),
        (-0.0001, 1.0, 2, "0.0"),
        (0.0, None, 3, "0"),
        (float("nan"), None, 3, "n/a"),
        (float("-inf"), None, 3, "−∞"),
    ],
)
def test_number(value: float, scale: float | None, digits: int, text: str) -> None:
    assert plots.number(value, scale, digits) == text


# ---- checks and support


def check_of(name: str) -> Check:
    """A check with numbers that a test knows."""
    bins = pd.DataFrame({"low": [0.0, 0.5], "high": [0.5, 1.0], "frequency": [1.2, 0.8]})
    bins["lower"], bins["upper"] = 0.7, 1.25
    groups = pd.DataFrame({"n": [50, 50], "predicted": [-1.0, 2.0], "effect": [-0.5, 1.5], "se": 0.2})
    groups["lower"], groups["upper"] = groups["effect"] - 0.4, groups["effect"] + 0.4
    arms = pd.DataFrame({"n": [100, 80], "n_effective": [90.0, 40.0]}, index=pd.Index(ARMS, name="arm"))
    arms["p_value"], arms["finding"] = [0.5, 0.01], ["unevenly predicted", "predicted too low"]
    risk = pd.DataFrame({"predicted": [0.1, 0.3], "observed": [0.2, 0.4], "lower": [0.1, 0.3], "upper": [0.3, 0.5]})
    covered = {"group": [1, 2, 1, 2], "coverage": [0.9, 0.8, 0.85, 0.95], "lower": 0.7, "upper": 0.97}
    details = {
        "calibration": pd.concat([bins.assign(arm=arm) for arm in ARMS]),
        "risk": pd.concat([risk.assign(arm=arm) for arm in ARMS]),
    }
    table = {
        "benefit calibration": groups,
        "risk": arms.assign(slope=[0.6, 1.2]),
        "coverage by group": pd.DataFrame({"by": ["cate"] * 2 + ["propensity"] * 2, "arm": "both"} | covered),
        "targeting": pd.DataFrame(
            {"toc": [2.0, 0.0], "se": 0.5, "lower": [1.0, -0.1], "upper": [3.0, 0.1]},
            index=pd.Index([0.5, 1.0], name="fraction"),
        ),
    }
    estimates = [Estimate(v, 0.1, method="", n=100, unit="mmHg") for v in (0.25, 0.6)]
    right = "calibration" if name == "risk" else name
    value, threshold = (0.02, 0.05) if right == "calibration" else (0.5, 0.9)
    return Check(
        right, False, value, threshold, table.get(name, arms), "It is so.", tuple(estimates), details.get(name)
    )


def test_weighted_pit_bars_are_the_frequencies_with_their_band() -> None:
    ax = plots.plot_pit(check_of("calibration"), ax=axes())
    assert [bar.get_height() for bar in bars(ax, "placebo (n = 100)")] == pytest.approx([1.2, 0.8])
    grey = [bar for c in ax.containers for bar in c if bar.get_facecolor()[:3] == pytest.approx((0xDC / 255,) * 3)]
    assert {round(bar.get_y(), 6) for bar in grey} == {0.7}
    assert {round(bar.get_y() + bar.get_height(), 6) for bar in grey} == {1.25}
    assert ax.get_title(loc="left").replace("\n", " ") == "drug: outcomes predicted too low (adjusted p = 0.02)"


def test_weighted_risks_are_points_with_intervals() -> None:
    ax = plots.plot_pit(check_of("risk"), ax=axes())
    x, y = line(ax, "drug (n = 80)")
    assert x == pytest.approx([0.1, 0.3]) and y == pytest.approx([0.2, 0.4])
    title = ax.get_title(loc="left").replace("\n", " ")
    assert title == "Not calibrated (adjusted p = 0.02): slope 0.60 under placebo, slope 1.20 under drug"


def test_coverage_points_are_the_table() -> None:
    ax = plots.plot_coverage_by(check_of("coverage by group"), ax=axes())
    assert line(ax, "by predicted effect")[1] == pytest.approx([0.9, 0.8])
    assert line(ax, "by propensity")[1] == pytest.approx([0.85, 0.95])
    assert any(np.allclose(one.get_ydata(), 0.9) for one in ax.get_lines() if len(np.asarray(one.get_ydata())) == 2)
    assert max(ax.get_yticks()) <= 1


def test_benefit_points_and_line_are_the_check() -> None:
    ax = plots.plot_benefit_calibration(check_of("benefit calibration"), outcome_name="pressure", ax=axes())
    assert line(ax, "groups")[1] == pytest.approx([-0.5, 1.5])
    x, y = line(ax, "slope 0.60")
    assert y == pytest.approx(0.25 + 0.6 * x)
    assert line(ax, "as predicted")[0] == pytest.approx(line(ax, "as predicted")[1])
    assert ax.get_xlabel() == "Predicted effect on pressure (mmHg)"


def test_targeting_curve_is_the_table() -> None:
    ax = plots.plot_toc(check_of("targeting"), outcome_name="pressure", ax=axes())
    x, y = line(ax, "gain")
    assert x == pytest.approx([50, 100]) and y == pytest.approx([2, 0])
    assert ax.get_ylabel() == "Gain in effect on pressure (mmHg)"


def test_support_points_are_the_units_and_all_are_counted() -> None:
    n = 4000
    rng = np.random.default_rng(20)
    distance, low = rng.uniform(0.5, 3, size=(n, 2)), rng.uniform(0.1, 0.5, size=n)
    p, rare = np.full((n, 2), 0.5), np.zeros((n, 2), dtype=bool)
    p[:40, 0], rare[20:50, 1] = 1e-4, True  # 20 unlike, 20 both, 10 rare
    support = Support(np.column_stack([low, 1 - low]), distance, p, rare, 0.01, np.array([0.03, 0.03]), ARMS)
    ax = plots.plot_support(support, ax=axes())
    assert ax.get_title(loc="left").replace("\n", " ") == "Not enough support for 50 of 4,000 (1%) units"
    assert line(ax, "unlike an arm's rows: 20")[0] == pytest.approx(distance[:20].max(axis=1))
    assert line(ax, "both: 20")[1] == pytest.approx(low[20:40])
    assert line(ax, "an arm too rare: 10")[0].size == 10
    assert plots.checks.MAX_POINTS - 60 < line(ax, "supported: 3,950")[0].size <= plots.checks.MAX_POINTS


@pytest.mark.parametrize("name", ["plot_pit", "plot_coverage_by", "plot_benefit_calibration", "plot_toc"])
def test_a_picture_of_another_check_is_refused(name: str) -> None:
    draw = getattr(plots, name)
    right = {"plot_pit": "calibration", "plot_coverage_by": "coverage by group", "plot_toc": "targeting"}
    pyplot.close("all")
    given = axes()
    assert draw(check_of(right.get(name, "benefit calibration")), ax=given) is given and not pyplot.get_fignums()
    with pytest.raises(ValueError, match="the check given is 'C-for-benefit'"):
        draw(check_of("C-for-benefit"), ax=axes())
