"""Check of the outcome model: are the held-out means of every arm right for the whole population?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from effects.diagnostics.evidence import Check, FloatArray, p_text
from effects.diagnostics.laws import logistic_calibration
from effects.individual import check_level
from effects.inference.checks import effective_size
from effects.inference.sample import CrossFitting, Sample


def check_outcome_model(
    est: CrossFitting,
    X: Any,
    y: Any,
    *,
    treatment: Any,
    sample_weight: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    weighted: bool = True,
    level: float = 0.95,
) -> Check:
    r"""Are the outcomes of every arm as large as held-out models say, and do they vary as much?

    In each arm the outcomes are regressed on their held-out means,

    .. math:: y_i = \alpha_a + \beta_a \hat m_a(x_i) + \varepsilon_i , \qquad A_i = a ,

    with :math:`\alpha = 0, \beta = 1` if the means are right. :math:`\beta > 1`: they are shrunk towards each other,
    :math:`\beta < 1`: they are too far apart. Binary outcomes are regressed on the logit of their predicted risk by
    logistic regression, with the same ideal values (Cox 1958). `check_calibration` asks the same of whole laws; this
    needs means alone.

    **Rule.** The check passes if the joint Wald tests of all arms (Bonferroni) do not reject. With many rows they find
    misfits too small to matter: read intercept, slope and skill beside the p-value.

    Parameters
    ----------
    est, X, y, treatment, sample_weight, propensity
        As in `estimate_ate`.
    weighted : bool, default True
        Whether an arm's rows stand for the whole population, by weights 1 / e_a(x), since averages need the means of
        those who got another arm; or only for themselves.
    level : float, default 0.95
        The check passes with this probability if the means of all arms are right.

    Returns
    -------
    Check
        ``value``: the smallest p-value, times the number of arms; ``threshold``: 1 - level. ``table``: per arm ``n,
        n_effective, predicted, observed`` (weighted means), ``intercept, intercept_se, slope, slope_se, p_value``
        (standard errors robust to unequal variances, HC3 by statsmodels for numbers) and ``skill``, the share by which
        the squared error is smaller than that of the arm's mean. Where all predictions of an arm are equal there is no
        slope, and the difference alone is tested.

    Raises
    ------
    ValueError
        As in `estimate_ate`; if the level is no probability.

    Notes
    -----
    The level is that of large samples. In simulations with the true means, false alarms at level 0.95 were 9% (200
    rows) and 6% (1,000) for numbers, 8 to 10% for binary outcomes; 4 to 7% with ``weighted=False``.

    Propensities are taken as known. Predictions of different folds come from different models; they are treated as one
    rule.

    References
    ----------
    Cox (1958), Two further applications of a model for binary regression, Biometrika 45. Mincer & Zarnowitz (1969), The
    evaluation of economic forecasts, NBER. White (1980), Econometrica 48.

    Examples
    --------
    >>> check_outcome_model(est, X, y, treatment=arm).table  # doctest: +SKIP
    """
    size = 1 - check_level(level)
    sample = Sample.read(est, X, y, treatment=treatment, sample_weight=sample_weight, propensity=propensity)
    records = []
    for k, arm in enumerate(sample.arms):
        rows = np.flatnonzero(sample.used & (sample.arm == k))
        if len(rows) < 3:
            continue
        m, y_k, w = sample.mu[rows, k], sample.y[rows], sample.weight[rows]
        w = w / sample.propensity[rows, k] if weighted else w
        (intercept, slope), (intercept_se, slope_se), p = _line(m, y_k, w, sample.kind)
        predicted, observed = float(np.average(m, weights=w)), float(np.average(y_k, weights=w))
        worth = float(np.average((y_k - observed) ** 2, weights=w))
        record = {"arm": arm, "n": len(rows), "n_effective": effective_size(w)}
        record |= {"predicted": predicted, "observed": observed, "intercept": intercept, "intercept_se": intercept_se}
        skill = 1 - float(np.average((y_k - m) ** 2, weights=w)) / worth if worth > 0 else float("nan")
        records.append(record | {"slope": slope, "slope_se": slope_se, "p_value": p, "skill": skill})
    if not records:
        raise ValueError("no arm has three rows here: give more rows.")
    table = pd.DataFrame(records).set_index("arm")
    known = table["p_value"].dropna()
    value = float(min(1.0, len(table) * known.min())) if len(known) else float("nan")
    passed = None if not len(known) or (len(known) < len(table) and value >= size) else value >= size
    parts = [
        f"{arm}: mean {row['predicted']:.4g} predicted, {row['observed']:.4g} observed, slope {row['slope']:.2f}, "
        f"skill {row['skill']:.2f}"
        for arm, row in table.iterrows()
    ]
    who = "weighted to everyone" if weighted else "of the rows of each arm"
    return Check("outcome model", passed, value, size, table, f"{'; '.join(parts)} ({who}; adjusted {p_text(value)}).")


def _line(
    m: FloatArray, y: FloatArray, w: FloatArray, kind: str
) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Intercept and slope, their standard errors, and the p-value of (0, 1)."""
    if kind == "binary":
        beta, covariance = logistic_calibration(m, y, w)
        gap, known = beta - [0.0, 1.0], bool(np.isfinite(covariance).all())
        p = float(stats.chi2.sf(gap @ np.linalg.solve(covariance, gap), 2)) if known else float("nan")
        se = np.sqrt(np.diag(covariance))
        return (float(beta[0]), float(beta[1])), (float(se[0]), float(se[1])), p
    import statsmodels.api as sm

    if np.allclose(y, m, rtol=1e-9, atol=1e-9 * float(np.abs(y).max())):  # predicted without any error
        return (0.0, 1.0), (0.0, 0.0), 1.0
    flat = float(np.ptp(m)) <= 1e-9 * max(1.0, float(np.abs(m).max()))
    design = np.ones((len(m), 1)) if flat else np.column_stack([np.ones(len(m)), m])
    model = sm.WLS(y - m if flat else y, design, weights=w)
    leverage = (np.linalg.qr(model.wexog)[0] ** 2).sum(axis=1)
    # HC3: by HC1, heavy weights make false alarms twice as frequent as they should be; a row alone has no residual
    fit = model.fit(cov_type="HC3" if leverage.max() < 1 - 1e-8 else "HC1")
    if not (np.diag(fit.cov_params()) > 0).all():  # wrong in the same way in every row
        return (float(fit.params[0]), float("nan") if flat else float(fit.params[1])), (0.0, 0.0), 0.0
    ideal = np.array([0.0]) if flat else np.array([0.0, 1.0])
    test = fit.wald_test((np.eye(len(ideal)), ideal), use_f=False, scalar=True)
    slope = (float("nan"), float("nan")) if flat else (float(fit.params[1]), float(fit.bse[1]))
    return (float(fit.params[0]), slope[0]), (float(fit.bse[0]), slope[1]), float(test.pvalue)
