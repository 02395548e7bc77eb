"""Does treating first whom the model would treat first pay: TOC curve, AUTOC and Qini coefficient."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from effects.diagnostics.evidence import Check, Fitted, FloatArray, gather
from effects.effect import Estimate, contrast
from effects.individual import check_level
from effects.inference import check_array

_BLOCK_VALUES = 4_000_000  # half samples held at once: bounds the working memory to a few dozen MB


def rate(
    est: Fitted,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    treated: Hashable = None,
    control: Hashable = None,
    priority: ArrayLike | None = None,
    higher_is_better: bool = True,
    level: float = 0.95,
    n_points: int = 20,
    n_bootstrap: int = 500,
    random_state: int = 0,
) -> Check:
    r"""Rank-weighted average treatment effects: does the predicted CATE find those who benefit more?

    With units ranked by a priority S (the predicted CATE, largest first) and doubly robust scores :math:`\Gamma_i`,

    .. math:: \mathrm{TOC}(q) = E[\Gamma \mid S \text{ among the top } q] - E[\Gamma], \quad
              \mathrm{AUTOC} = \int_0^1 \mathrm{TOC}(q) dq, \quad \mathrm{Qini} = \int_0^1 q\, \mathrm{TOC}(q) dq

    (Yadlowsky et al., eqs. 2.2-2.5). All are zero where S says nothing of the effect. AUTOC is sensitive to a few units
    with large effects at the top, Qini to effects that vary all over the population; twice Qini is the covariance of
    rank and effect that a C-for-benefit only hints at. If a larger outcome is worse, the effects that count are those
    downward: with ``higher_is_better=False`` predictions and scores change sign.

    Parameters
    ----------
    est, X, y, treatment, sample_weight, propensity, treated, control
        As in `benefit_calibration`.
    priority : array_like, shape (n_samples,), optional
        A ranking of your own, larger is treated first, such as a risk score; it must not rest on these outcomes.
    higher_is_better : bool, default True
        Whether a larger outcome is the better one.
    level : float, default 0.95
    n_points : int, default 20
        Points of the TOC curve.
    n_bootstrap : int, default 500
        Half samples from which the standard errors come.
    random_state : int, default 0

    Returns
    -------
    Check
        ``value``: AUTOC, ``threshold`` 0; passed if its interval lies above zero, failed if below, else undecided.
        ``table``: the curve, ``toc, se, lower, upper`` (pointwise) by the fraction treated. ``estimates``: "AUTOC" and
        "Qini", in the outcome's unit.

    Raises
    ------
    ValueError
        As in `benefit_calibration`; if `priority` has another length; if counts are not positive.

    Notes
    -----
    Own code, since EconML's `econml.validate` (0.17) takes no sample weights, stops at the top and bottom 5%, and draws
    from numpy's global generator; the tests compare both. The sums are integrated exactly between ranks; units of equal
    priority count as one group. Standard errors are those of the half-sample bootstrap (Yadlowsky et al., section 3),
    with the ranking and the nuisances fixed.

    References
    ----------
    Yadlowsky, Fleming, Shah, Brunskill & Wager (2025), Evaluating treatment prioritization rules via rank-weighted
    average treatment effects, JASA 120 (arXiv:2111.07966).

    Examples
    --------
    >>> rate(est, X, y, treatment=arm).estimates  # doctest: +SKIP
    """
    z = float(stats.norm.ppf(0.5 + check_level(level) / 2))
    if n_points < 1 or n_bootstrap < 2:
        raise ValueError(f"n_points must be positive and n_bootstrap 2 or more, got {n_points} and {n_bootstrap}.")
    seen = gather(est, X, y, treatment, sample_weight, propensity)
    t, c = contrast(seen.arms, treated, control)
    sign = 1.0 if higher_is_better else -1.0
    cate, score = sign * seen.cate(t, c), sign * seen.scores(t, c)
    if priority is not None:
        cate = check_array("priority", priority, shape=(len(X),))[seen.rows]
    curve = targeting_curve(cate, score, seen.weight, n_points, n_bootstrap, random_state)
    table = pd.DataFrame({"toc": curve.toc, "se": curve.toc_se}, index=pd.Index(curve.fraction, name="fraction"))
    table["lower"], table["upper"] = table["toc"] - z * table["se"], table["toc"] + z * table["se"]
    common: dict[str, Any] = {"n": len(cate), "treated": seen.arms[t], "control": seen.arms[c], "level": level}
    common |= {"method": "AIPW scores, half-sample bootstrap", "unit": seen.outcomes.unit}
    autoc = Estimate(*curve.autoc, estimand="AUTOC", **common)
    qini = Estimate(*curve.qini, estimand="Qini", **common)
    lower, upper = autoc.interval()
    passed = True if lower > 0 else False if upper < 0 else None
    text = (
        f"AUTOC {autoc.value:.3g} ({level:.0%} interval {lower:.3g} to {upper:.3g}), Qini {qini.value:.3g} "
        f"({qini.interval()[0]:.3g} to {qini.interval()[1]:.3g}).{seen.caution(t, c)}"
    )
    return Check("targeting", passed, autoc.value, 0.0, table, text, (autoc, qini))


@dataclass(frozen=True, eq=False)
class Curve:
    """A targeting operator characteristic and its areas, each as (value, standard error).

    Attributes
    ----------
    fraction, toc, toc_se : ndarray of shape (n_points,)
        Gain over the average effect among the first `fraction` of the population.
    autoc, qini : tuple of float
    """

    fraction: FloatArray
    toc: FloatArray
    toc_se: FloatArray
    autoc: tuple[float, float]
    qini: tuple[float, float]


def targeting_curve(
    priority: FloatArray,
    score: FloatArray,
    weight: FloatArray | None = None,
    n_points: int = 20,
    n_bootstrap: int = 500,
    random_state: int = 0,
) -> Curve:
    """TOC, AUTOC and Qini of a priority from doubly robust scores (see `rate`).

    Examples
    --------
    >>> import numpy as np
    >>> curve = targeting_curve(np.array([4.0, 3, 2, 1]), np.array([2.0, 2, 0, 0]), n_points=2)
    >>> curve.toc
    array([1., 0.])
    """
    w = np.ones(len(score)) if weight is None else weight
    # ties in an order of their own content, so that shuffled rows meet the same half samples
    order = np.lexsort((w, score, -priority))
    s, w, falling = score[order], w[order], priority[order]
    ends = np.append(np.flatnonzero(np.diff(falling)), len(s) - 1)
    fraction = (np.arange(n_points) + 1) / n_points
    value = _areas(s, w[None], ends, fraction)[0]
    rng, n = np.random.default_rng(random_state), len(s)
    parts = []
    size = max(1, _BLOCK_VALUES // n)
    for start in range(0, n_bootstrap, size):
        # the first half of a random order of the rows: without replacement
        rank = rng.random((min(size, n_bootstrap - start), n)).argsort(axis=1).argsort(axis=1)
        parts.append(_areas(s, w * (rank < max(1, n // 2)), ends, fraction))
    half = max(1, n // 2) / n
    # a half without replacement varies by (1 - half) / half of a whole: by as much, for an even number
    se = np.concatenate(parts).std(axis=0, ddof=1) * np.sqrt(half / (1 - half)) if n > 1 else np.zeros(len(value))
    pair = [(float(value[k]), float(se[k])) for k in (-2, -1)]
    return Curve(fraction, value[:-2], se[:-2], pair[0], pair[1])


def _areas(score: FloatArray, weight: FloatArray, ends: NDArray[np.int64], fraction: FloatArray) -> FloatArray:
    """TOC at the fractions, AUTOC and Qini, one row for each row of weights, (n_rows, n_points + 2).

    G(q), the effect collected among the first q, is linear between the groups' ends; so is each integral's piece.
    """
    mass = np.cumsum(weight, axis=1)[:, ends]
    total = np.where(mass[:, -1:] > 0, mass[:, -1:], 1.0)
    q = mass / total
    G = np.cumsum(weight * score, axis=1)[:, ends] / total
    before, G_before = np.pad(q, ((0, 0), (1, 0)))[:, :-1], np.pad(G, ((0, 0), (1, 0)))[:, :-1]
    length = q - before
    slope = np.divide(G - G_before, length, out=np.zeros_like(G), where=length > 0)
    # int G(q)/q dq over a piece; before the first row with weight there is nothing, and G starts there at zero
    inner = before > 0
    log = np.log(np.divide(q, before, out=np.ones_like(q), where=inner))
    autoc = ((G_before - slope * before) * log * inner + slope * length).sum(axis=1) - G[:, -1]
    qini = (length * (G_before + G) / 2).sum(axis=1) - G[:, -1] / 2
    toc = np.empty((len(weight), len(fraction)))
    for row in range(len(weight)):
        at = np.interp(fraction, np.append(0.0, q[row]), np.append(0.0, G[row]))
        toc[row] = at / fraction - G[row, -1]
    return np.column_stack([toc, autoc, qini])
