"""The individual effect: closed forms under each coupling, and bounds that hold for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from effects.effect import Effect
from effects.individual import IndividualEffect, Law

LEVELS = (np.arange(400) + 0.5) / 400
T, C = stats.norm(1.0, 2.0), stats.norm(0.0, 1.0)


def normal(coupling: str) -> IndividualEffect:
    return IndividualEffect(Law(T.ppf(LEVELS)[:, None]), Law(C.ppf(LEVELS)[:, None]), coupling)  # type: ignore[arg-type]


def test_independent_normals_differ_by_a_normal() -> None:
    difference = stats.norm(1.0, np.sqrt(5.0))
    effect = normal("independent")
    for threshold in (-2.0, 0.0, 1.0, 3.0):
        assert effect.prob_above(threshold)[0] == pytest.approx(difference.sf(threshold), abs=0.003)
    np.testing.assert_allclose(effect.quantile([0.05, 0.5, 0.95])[:, 0], difference.ppf([0.05, 0.5, 0.95]), atol=0.06)


def test_comonotone_normals_keep_their_rank() -> None:
    effect = normal("comonotone")  # D = 1 + z with the same z in both arms
    assert effect.prob_above(0.0)[0] == pytest.approx(stats.norm(1.0, 1.0).sf(0.0), abs=0.003)
    assert effect.quantile(0.9)[0] == pytest.approx(stats.norm(1.0, 1.0).ppf(0.9), abs=0.02)
    lower, upper = effect.interval(0.8)
    assert (lower[0], upper[0]) == pytest.approx(stats.norm(1.0, 1.0).interval(0.8), abs=0.02)


def test_quantile_bounds_invert_those_of_the_probabilities() -> None:
    effect = normal("bounds")
    for q in (0.1, 0.35, 0.5, 0.8):
        lower, upper = (bound[0] for bound in effect.quantile(q))
        # the lower bound of the quantile is where the upper bound of the distribution function reaches q
        below = [
            1 - np.array(effect.prob_above(at))[:, 0] for at in (lower - 1e-9, lower + 1e-9, upper - 1e-9, upper + 1e-9)
        ]
        assert below[0][0] <= q + 0.005 and below[1][0] >= q - 0.005
        assert below[2][1] <= q + 0.005 and below[3][1] >= q - 0.005


def test_every_coupling_lies_within_the_bounds() -> None:
    rng = np.random.default_rng(0)
    laws = [Law(np.sort(rng.gamma(2, 1 + k, size=(60, 5)), axis=0)) for k in range(2)]
    lower, upper = IndividualEffect(laws[0], laws[1]).quantile([0.1, 0.5, 0.9])
    for _ in range(30):
        shuffled = rng.permuted(laws[1].values, axis=0)
        found = np.quantile(laws[0].values - shuffled, [0.1, 0.5, 0.9], axis=0, method="inverted_cdf")
        assert (lower <= found + 1e-9).all()
        found = np.quantile(laws[0].values - shuffled, [0.1, 0.5, 0.9], axis=0, method="higher")
        assert (found <= upper + 1e-9).all()
    for coupling in ("independent", "comonotone"):
        effect = IndividualEffect(laws[0], laws[1], coupling)
        for threshold in (-2.0, 0.0, 1.0):
            least, most = IndividualEffect(laws[0], laws[1]).prob_above(threshold)
            assert (least <= effect.prob_above(threshold) + 1e-9).all()
            assert (effect.prob_above(threshold) <= most + 1e-9).all()


def test_binary_outcomes_have_four_kinds_of_patients() -> None:
    """Of a 0.7 and a 0.4 risk: independence gives 0.42 who are harmed, equal ranks 0.3, no assumption 0.3 to 0.6."""
    treated, control = Law.bernoulli(np.array([0.7])), Law.bernoulli(np.array([0.4]))
    harmed = {c: IndividualEffect(treated, control, c).prob_above(0.0) for c in ("independent", "comonotone", "bounds")}
    assert harmed["independent"][0] == pytest.approx(0.42) and harmed["comonotone"][0] == pytest.approx(0.3)
    assert [bound[0] for bound in harmed["bounds"]] == pytest.approx([0.3, 0.6])


def test_laws_of_different_length_are_brought_together() -> None:
    long, short = Law(T.ppf(LEVELS)[:, None]), Law(C.ppf((np.arange(50) + 0.5) / 50)[:, None])
    effect = IndividualEffect(long, short, "comonotone")
    assert effect.quantile(0.5)[0] == pytest.approx(1.0, abs=0.05)


def test_an_effect_hands_its_laws_on() -> None:
    laws = Law(T.ppf(LEVELS)[:, None]), Law(C.ppf(LEVELS)[:, None])
    effect = Effect(np.array([[1.0], [1.1]]), laws=lambda: laws)
    assert effect.individual("comonotone").quantile(0.5)[0] == normal("comonotone").quantile(0.5)[0]
    assert effect.prob_benefit(0.5) == normal("bounds").prob_above(0.5)
    with pytest.raises(ValueError, match="needs the outcomes' laws"):
        Effect(np.ones((2, 1))).individual()
    with pytest.raises(ValueError, match="coupling must be one of"):
        effect.individual("rank")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        effect.individual().quantile(1.0)
    with pytest.raises(ValueError, match="of 1 and 2 units"):
        IndividualEffect(laws[0], Law(np.zeros((3, 2))))


def test_intervals_under_bounds_hold_whatever_the_coupling() -> None:
    lower, upper = normal("bounds").interval(0.8)
    for rho in (-1.0, -0.5, 0.0, 0.5, 1.0):
        difference = stats.norm(1.0, np.sqrt(5.0 - 4.0 * rho))
        assert difference.cdf(upper[0]) - difference.cdf(lower[0]) >= 0.8


def test_what_both_outcomes_share_cancels_from_their_difference() -> None:
    """Laws of variance s + m with the error m in common: the difference varies by 2 s, not by 2 (s + m)."""
    T, C = stats.norm(1.0, np.sqrt(3.0)), stats.norm(0.0, np.sqrt(3.0))
    levels = (np.arange(4000) + 0.5) / 4000
    laws = Law(T.ppf(levels)[:, None]), Law(C.ppf(levels)[:, None])
    share = IndividualEffect(*laws, "independent", np.array([1 / 3]))
    exact = stats.norm(1.0, np.sqrt(2.0))
    assert share.interval(0.9)[1][0] == pytest.approx(exact.ppf(0.95), abs=0.03)
    assert share.prob_above(0.0)[0] == pytest.approx(exact.sf(0.0), abs=0.003)
    for coupling in ("comonotone", "bounds"):  # these take the laws as they are
        with_share, without = (IndividualEffect(*laws, coupling, s) for s in (np.array([1 / 3]), None))
        assert with_share.interval(0.9)[0][0] == without.interval(0.9)[0][0]
    effect = Effect(np.array([[1.0], [1.0]]), laws=lambda: laws, fresh=1 / 3)  # a CATE that is known
    assert effect.individual("independent").interval(0.9)[1][0] == pytest.approx(exact.ppf(0.95), abs=0.03)
    unsure = Effect(np.array([[0.0], [2.0]]), laws=lambda: laws, fresh=1 / 3)  # sd 1: adds to the difference
    assert unsure.individual("independent").interval(0.9)[1][0] == pytest.approx(
        stats.norm(1.0, np.sqrt(3.0)).ppf(0.95), abs=0.03
    )
