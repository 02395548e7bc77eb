"""Average effects by statsmodels' TreatmentEffect: parametric nuisances, one joint system of estimating equations."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
METHODS = ("aipw", "ipw", "ra", "aipw_wls", "ipw_ra")
_LEAST = 1e-8  # a propensity below it is none: a column gives the arm away


def treatment_effect(D: Array, y: Array, a: NDArray[np.int64], method: str) -> tuple[float, float]:
    r"""Average effect of arm 1 and its standard error.

    The estimate is always that of ``statsmodels.treatment.treatment_effects.TreatmentEffect``, with ordinary least
    squares of the outcome per arm and a logit for the propensity. So is the standard error of ``"aipw"``, ``"ipw"`` and
    ``"ra"``. For ``"aipw_wls"`` and ``"ipw_ra"`` statsmodels 0.14 and 0.15 take the last six parameters for the
    propensity's, whatever their number, so their errors are computed here, from the same estimating equations:
    :math:`A^{-1} B A^{-\top} / n` with A the Jacobian of the mean moments and B their second moment.

    Parameters
    ----------
    D : ndarray of shape (n, n_columns)
        Constant and covariates, no column a combination of others.
    y : ndarray of shape (n,)
    a : ndarray of int, shape (n,)
        0 or 1.
    method : str
        One of `METHODS`.

    Returns
    -------
    value, se : float

    Raises
    ------
    ValueError
        If the covariates separate the arms.
    """
    import statsmodels.api as sm
    from statsmodels.treatment.treatment_effects import TreatmentEffect

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ranks = [np.linalg.matrix_rank(D[a == arm]) for arm in (0, 1)]
        select = sm.Logit(a, D).fit(disp=0, maxiter=100) if min(ranks) == D.shape[1] else None
        e = np.full(len(y), np.nan) if select is None else np.asarray(select.predict())
        if select is None or not select.mle_retvals["converged"] or e.min() < _LEAST or e.max() > 1 - _LEAST:
            raise ValueError(
                "the covariates separate the arms, or some vary in one arm alone: the logit of the propensity has no "
                "estimate, and some rows could get one arm only. Leave out the columns that give the arm away."
            )
        model = TreatmentEffect(sm.OLS(y, D), a, results_select=select)
        if method in ("aipw", "ipw", "ra"):
            result = getattr(model, method)()
            return float(result.effect[0]), float(result.sd[0])
        value = float(getattr(model, method)(return_results=False)[0])
    return value, _weighted_error(D, y, a, e, np.asarray(select.params), method)


def _weighted_error(D: Array, y: Array, a: NDArray[np.int64], e: Array, propensity_params: Array, method: str) -> float:
    """Standard error of the methods whose outcome regressions are weighted, by M-estimation (Stefanski & Boos 2002)."""
    from statsmodels.tools.numdiff import approx_fprime

    k = D.shape[1]

    def row_weight(e: Array) -> Array:
        inverse = np.where(a == 1, 1 / e, 1 / (1 - e))
        return inverse * (inverse - 1) if method == "aipw_wls" else inverse

    outcome = []
    for arm in (0, 1):
        own, w = a == arm, row_weight(e)[a == arm]
        outcome.append(np.linalg.solve((D[own] * w[:, None]).T @ D[own], D[own].T @ (w * y[own])))

    def moments(params: Array) -> Array:
        """(n, 1 + 3 k): of the effect, the two outcome regressions, the propensity."""
        e = special.expit(D @ params[-k:])
        fitted = np.stack([D @ params[1 : 1 + k], D @ params[1 + k : 1 + 2 * k]])
        own = y - fitted[a, np.arange(len(y))]
        effect = fitted[1] - fitted[0]
        if method == "aipw_wls":
            effect = effect + np.where(a == 1, own / e, -own / (1 - e))
        score = (row_weight(e) * own)[:, None] * D
        equations = [score * (a == 0)[:, None], score * (a == 1)[:, None], (a - e)[:, None] * D]
        return np.column_stack([effect - params[0], *equations])

    params = np.concatenate([[0.0], *outcome, propensity_params])
    params[0] = moments(params)[:, 0].mean()
    jacobian = approx_fprime(params, lambda p: moments(p).mean(axis=0), centered=True)
    m = moments(params)
    bread = np.linalg.inv(jacobian)
    return float(np.sqrt((bread @ (m.T @ m / len(m)) @ bread.T)[0, 0] / len(m)))
