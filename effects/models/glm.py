"""G-computation by a generalised linear model of statsmodels: the family is the law, coefficients are the members."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from effects.effect import Estimate
from effects.estimator import EffectEstimator
from effects.models.residuals import ResidualDistribution, whole_draws
from effects.models.treatment_effect import METHODS, treatment_effect
from effects.nn.scale import normal_nodes
from effects.nuisance import Nuisance
from effects.parallel import side_by_side
from effects.persistence import named, part
from effects.rows import TrainingData
from effects.schema import Schema
from effects.schema.checks import check_sizes

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
FAMILIES = {
    "gaussian": "continuous",
    "gamma": "continuous",
    "binomial": "binary",
    "poisson": "count",
    "negative_binomial": "count",
}
ERRORS = ("sandwich", "bootstrap")
DISTRIBUTIONS = ("family", "residual")
_SAME = 1e-6  # of a column's norm: what is left of it beside earlier columns, if it is their linear combination
_SEPARATED = 18.0  # linear predictors beyond it mean fitted probabilities of 0 or 1 (rates of 0)
_MOST = 10_000.0  # means of counts above it have normal quantiles: the table of exact ones grows with them


class GComputation(EffectEstimator):
    r"""G-computation: a generalised linear model of the outcome, averaged under every arm (Robins 1986; Snowden 2011).

    .. math:: g\big(E[Y \mid x, a]\big) = \beta_0 + x^\top\beta + \sum_{k \ge 1} 1[a = k]\,(\gamma_k + x^\top\delta_k),

    fitted by ``statsmodels.GLM``; :math:`\hat\tau_a(x) = g^{-1}(\eta(x, a)) - g^{-1}(\eta(x, 0))`. Members are
    coefficient vectors: draws from the asymptotic normal law with the sandwich covariance, or Bayesian-bootstrap fits.
    The law of an outcome is the family's, so it has an exact density.

    Parameters
    ----------
    outcome : {"auto", "continuous", "binary", "count"}
    control : label, optional
    family : {"auto", "gaussian", "gamma", "binomial", "poisson", "negative_binomial"}
        ``"auto"``: gaussian (identity link) for a continuous outcome, binomial (logit) for a binary one, Poisson (log)
        for a count, or negative binomial (log) where the regression test of Cameron & Trivedi (1990) finds
        overdispersion at the 5% level; its dispersion comes from that regression. ``"gamma"`` (log) is for positive,
        skewed outcomes such as costs.
    interactions : bool
        Whether every covariate has a slope of its own in every arm (:math:`\delta_k`). Without them a gaussian model
        has the same effect for everyone.
    errors : {"sandwich", "bootstrap"}
        Where the members come from. The sandwich (HC1: n / (n - p) times White's) stands on large samples.
    distribution : {"family", "residual"}
        ``"residual"``, for continuous outcomes: a law learned from the residuals, each divided by one minus its
        leverage (for gaussian models the left-out residual, exactly), whose spread may vary with x
        (`effects.models.residuals.ResidualDistribution`). It has no `log_prob`.
    nuisance : Nuisance, optional
        Your own cross-fitting set-up; used by average effects, not by this model.
    n_members, n_draws : int
        One member is the point estimate.
    random_state : int, RandomState or None
        Of the members. With ``errors="sandwich"`` draws come in pairs around the estimate, so that for an identity
        link the CATE does not depend on it.
    verbose : int
        1 says on standard error what is fitted.

    Attributes
    ----------
    family_ : str
    column_names_, dropped_ : list of str
        Columns of the design, and those left out because they are linear combinations of columns before them (as one
        of a category's indicators is).
    params_ : ndarray of shape (n_columns,)
        Coefficients, per standard deviation of a covariate, and at the covariates' means.
    covariance_ : ndarray of shape (n_columns, n_columns)
        Their sandwich covariance (of the bootstrap fits, with ``errors="bootstrap"``).
    members_ : ndarray of shape (n_members, n_columns)
    dispersion_ : float
        The gaussian variance, the gamma's squared coefficient of variation, the negative binomial's alpha
        (:math:`Var = \mu + \alpha\mu^2`), else 1.
    prior_rows_ : float
        Worth of the prior that separation made necessary, in rows; 0 without.
    schema_, arms_, nuisance_, history_, n_features_in_, feature_names_in_
        As in `EffectEstimator`.

    Warns
    -----
    UserWarning
        Where some coefficients would run to infinity, because covariates and arms separate the outcomes: a prior worth
        as many rows as there are coefficients, at the overall mean, is added (Clogg et al. 1991), and said. Where an
        arm has too few rows for slopes of its own.

    Notes
    -----
    Sampling weights enter as ``var_weights``; the sandwich is right for them. With a log link, means are held below
    100 times the largest outcome seen, beyond which a line on the logarithm says nothing.

    References
    ----------
    Robins (1986), A new approach to causal inference in mortality studies, Mathematical Modelling 7. Snowden, Rose &
    Mortimer (2011), American Journal of Epidemiology 173. White (1980), Econometrica 48, eq. 3. Clogg, Rubin, Schenker,
    Schultz & Weidman (1991), JASA 86, section 2. Cameron & Trivedi (1990), Journal of Econometrics 46, eq. 3.5.

    Examples
    --------
    >>> from effects import GComputation
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> est = GComputation(random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> est.family_, est.predict(data.X).shape
    ('gaussian', (200,))
    >>> est.estimate_ate(data.X, data.y, treatment=data.treatment, method="ra").method
    'statsmodels TreatmentEffect.ra'
    """

    _paper: ClassVar[str] = "Robins, Mathematical Modelling 1986"
    _exact_density: ClassVar[bool] = True

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        family: str = "auto",
        interactions: bool = True,
        errors: str = "sandwich",
        distribution: str = "family",
        nuisance: Nuisance | None = None,
        n_members: int = 32,
        n_draws: int = 33,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.family = family
        self.interactions = interactions
        self.errors = errors
        self.distribution = distribution
        self.nuisance = nuisance
        self.n_members = n_members
        self.n_draws = n_draws
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------ fit

    def _check_params(self) -> None:
        super()._check_params()
        choices = {"family": ("auto", *FAMILIES), "errors": ERRORS, "distribution": DISTRIBUTIONS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}.")
        if not isinstance(self.interactions, bool | np.bool_):
            raise ValueError(f"interactions must be True or False, got {self.interactions!r}.")
        check_sizes(self, ("n_members", "n_draws"))

    def _check_possible(self, schema: Schema) -> None:
        super()._check_possible(schema)
        kind = schema.outcome.kind
        if self.family != "auto" and FAMILIES[self.family] != kind:
            fit = [name for name, takes in FAMILIES.items() if takes == kind]
            raise ValueError(f"family={self.family!r} is for {FAMILIES[self.family]} outcomes, y is {kind}: use {fit}.")
        if self.distribution == "residual" and kind != "continuous":
            raise ValueError(f"distribution='residual' is for continuous outcomes, y is {kind}: use 'family'.")

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        E = data.E.astype(np.float64)
        center = np.average(E, axis=0, weights=data.weight)
        spread = np.sqrt(np.average((E - center) ** 2, axis=0, weights=data.weight))
        spread = np.where(spread > _SAME * (1 + np.abs(center)), spread, 1.0)
        Z = (E - center) / spread
        full = _design(Z, data.a, data.schema.n_arms, self.interactions)
        kept = _independent(full)
        names = _names(data.schema, self.interactions)
        self._warn_of_tiny_arms(names, kept, data)
        D = full[:, kept]
        if D.shape[1] >= len(D):
            raise ValueError(
                f"GComputation has {D.shape[1]} coefficients for {len(D)} rows: use interactions=False, fewer columns, "
                "or an estimator that regularises, such as DiffPO."
            )
        family, dispersion = self._family(data, D)
        y, weight, prior = _estimable(family, dispersion, D, data.y, data.weight)
        if self.verbose:
            _say(f"GComputation: {family} model, {D.shape[1]} columns, {self.errors}")
        result = _fit_glm(family, dispersion, D, y, weight)
        params = np.asarray(result.params)
        covariance = np.asarray(result.cov_params()) * len(D) / (len(D) - D.shape[1])
        if family in ("gaussian", "gamma"):
            dispersion = float(result.scale)
        rng = np.random.default_rng(data.seed)
        if self.errors == "sandwich" or self.n_members == 1:
            members = _normal_draws(params, covariance, self.n_members, rng)
        else:
            noises = ((rng.standard_exponential(len(D)),) for _ in range(self.n_members))
            rows = (family, dispersion, D, y, weight, params)
            members = np.array(list(side_by_side(_bootstrapped, noises, shared=rows)))
            covariance = np.cov(members.T).reshape(len(params), len(params))
        fitted: dict[str, Any] = {"family_": family, "params_": params, "covariance_": covariance, "members_": members}
        fitted |= {"column_names_": [n for n, k in zip(names, kept, strict=True) if k]}
        fitted |= {"dropped_": [n for n, k in zip(names, kept, strict=True) if not k]}
        fitted |= {"kept_": kept, "center_": center, "spread_": spread, "dispersion_": dispersion}
        fitted |= {"prior_rows_": prior, "ceiling_": _ceiling(family, data.y), "residuals_": None}
        if self.distribution == "residual":
            mean = np.asarray(result.fittedvalues)
            root = np.linalg.qr(D * np.sqrt(weight)[:, None])[0]  # the gamma's weights are those of the rows, too
            leverage = np.minimum(np.sum(root**2, axis=1), 0.99)
            fitted["residuals_"] = ResidualDistribution.learn(
                (data.y - mean) / (1 - leverage),
                data.E,
                data.a,
                data.weight,
                data.schema.n_arms,
                y=data.y,
                member_variance=_mean_variance(members, D, family),
                seed=data.seed,
            )
        entry = {"family": family, "columns": D.shape[1], "dropped": len(full[0]) - D.shape[1]}
        loss = float(np.average((data.y - np.asarray(result.fittedvalues)) ** 2, weights=data.weight))
        return fitted | {"history_": [entry | {"squared_error": loss}]}

    def _warn_of_tiny_arms(self, names: list[str], kept: NDArray[np.bool_], data: TrainingData) -> None:
        """Slopes that only an arm's lack of rows takes away, not the covariates' own redundancy."""
        gone = {name for name, k in zip(names, kept, strict=True) if not k}
        lost = [name for name in gone if ":" in name and name.split(":", 1)[1] not in gone]
        if not lost:
            return
        counts = np.bincount(data.a, minlength=data.schema.n_arms).tolist()
        warnings.warn(
            f"the arms {data.schema.arms} have {counts} rows, too few or too alike for {len(lost)} of their slopes, "
            "such as " + repr(sorted(lost)[0]) + ": these are those of the control arm. Use interactions=False.",
            UserWarning,
            stacklevel=2,
        )

    def _family(self, data: TrainingData, D: Array) -> tuple[str, float]:
        """The family's name, and its dispersion where that must be known to fit it."""
        kind = data.schema.outcome.kind
        if kind == "continuous":
            if self.family == "gamma" and not data.y.min() > 0:
                raise ValueError(f"family='gamma' needs positive outcomes, the smallest is {data.y.min():g}.")
            return ("gaussian" if self.family == "auto" or np.ptp(data.y) == 0 else self.family), 1.0
        if kind == "binary" or self.family == "poisson" or np.ptp(data.y) == 0:
            return FAMILY_OF[kind], 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # separation is looked for, and told, later
            mu = np.maximum(np.asarray(_fit_glm("poisson", 1.0, D, data.y, data.weight).fittedvalues), 1e-10)
        z = ((data.y - mu) ** 2 - data.y) / mu
        root = np.sqrt(data.weight)
        alpha = float((data.weight * z * mu).sum() / (data.weight * mu**2).sum())
        error = np.sqrt(np.sum((root**2 * mu * (z - alpha * mu)) ** 2)) / (data.weight * mu**2).sum()
        if self.family == "auto" and not (alpha > 0 and alpha > stats.norm.ppf(0.95) * error):
            return "poisson", 1.0
        return "negative_binomial", max(alpha, 1e-4)

    # ------------------------------------------------------------------ predict

    def _means(self, inputs: NDArray[np.float32]) -> Array:
        means = self._member_means(self.members_, inputs)
        return means if self.residuals_ is None else self.residuals_.means(means)

    def _member_means(self, members: Array, inputs: NDArray[np.float32]) -> Array:
        """(n_members, n, n_arms) in the outcome's unit."""
        Z, n_arms = (inputs.astype(np.float64) - self.center_) / self.spread_, self.schema_.n_arms
        arms = []
        for k in range(n_arms):
            D = _design(Z, np.full(len(Z), k), n_arms, self.interactions)[:, self.kept_]
            arms.append(_inverse_link(self.family_, members @ D.T, self.ceiling_))
        return np.stack(arms, axis=-1)

    def _sample(
        self, inputs: NDArray[np.float32], n_draws: int | None, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], Array | None]:
        means, n = self._means(inputs), n_draws or self.n_draws
        if self.family_ == "binomial":
            return means[:, None].astype(np.float32), means
        if self.residuals_ is not None:
            return self.residuals_.draws(means, inputs, n), means
        if self.family_ == "gaussian":
            nodes = np.sqrt(self.dispersion_) * normal_nodes(n)
            return (means[:, None] + nodes[:, None, None]).astype(np.float32), means
        u = (np.arange(n) + 0.5) / n
        if self.family_ == "gamma":
            nodes = special.gammaincinv(1 / max(self.dispersion_, 1e-12), u)
            return (means[:, None] * (nodes / nodes.mean())[:, None, None]).astype(np.float32), means
        alpha = self.dispersion_ if self.family_ == "negative_binomial" else 0.0
        return whole_draws(_count_quantiles(means, u, alpha), means), means

    def _log_prob(self, inputs: NDArray[np.float32], y: Array, a: NDArray[np.int64]) -> Array:
        if self.residuals_ is not None:
            raise ValueError("log_prob is the family's: fit with distribution='family'.")
        mu = self._means(inputs)[:, np.arange(len(y)), a]
        if self.family_ == "gaussian":
            members = stats.norm.logpdf(y, mu, np.sqrt(self.dispersion_))
        elif self.family_ == "gamma":
            shape = 1 / self.dispersion_
            members = stats.gamma.logpdf(y, shape, scale=mu / shape)
        elif self.family_ == "binomial":
            members = special.xlogy(y, mu) + special.xlog1py(1 - y, -mu)
        elif self.family_ == "poisson":
            members = stats.poisson.logpmf(y, mu)
        else:
            r = 1 / self.dispersion_
            members = stats.nbinom.logpmf(y, r, r / (r + mu))
        return special.logsumexp(members, axis=0) - np.log(len(members))

    def estimate_ate(
        self,
        X: ArrayLike | pd.DataFrame,
        y: ArrayLike,
        *,
        treatment: ArrayLike,
        method: str = "aipw",
        level: float = 0.95,
    ) -> Estimate:
        """Average effect of the treated arm by ``statsmodels.treatment.treatment_effects.TreatmentEffect``.

        Parametric nuisances, each fitted on all rows: ordinary least squares of the outcome per arm, a logit for the
        propensity, both on the encoded covariates. Standard errors are of the joint GMM. For cross-fitted nuisances
        and more arms there is `effects.estimate_ate`.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        treatment : array-like of shape (n_samples,)
        method : {"aipw", "ipw", "ra", "aipw_wls", "ipw_ra"}
            Augmented inverse-propensity weighting, weighting alone, regression adjustment, and the two mixed forms.
        level : float

        Returns
        -------
        Estimate
            In the outcome's unit (a risk difference for a binary outcome).

        Raises
        ------
        ValueError
            For more than two arms, an unknown method, or covariates that separate the arms.
        """
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}.")
        self._check_fitted()
        if len(self.arms_) != 2:
            raise ValueError(
                f"statsmodels compares two arms, treatment has {len(self.arms_)} ({self.arms_}): use "
                "effects.estimate_ate."
            )
        E, a, Y = self._observed(X, y, treatment)
        Z = np.column_stack([np.ones(len(E)), (E.astype(np.float64) - self.center_) / self.spread_])
        value, se = treatment_effect(Z[:, _independent(Z)], Y, a, method)
        name = f"statsmodels TreatmentEffect.{method}"
        return Estimate(value, se, name, len(Y), "ATE", self.arms_[1], self.arms_[0], level=level)

    # ------------------------------------------------------------------ save / load

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        names = ("params", "covariance", "members", "center", "spread")
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, f"{name}_") for name in names}
        arrays["kept"] = self.kept_.astype(np.uint8)
        arrays["constants"] = np.array([self.dispersion_, self.prior_rows_, self.ceiling_])
        state: dict[str, Any] = {"family": self.family_, "columns": self.column_names_, "dropped": self.dropped_}
        if self.residuals_ is not None:
            more, state["residuals"] = self.residuals_.to_arrays()
            arrays |= named("residuals", more)
        return arrays, state

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        names = ("params", "covariance", "members", "center", "spread")
        fitted: dict[str, Any] = {f"{name}_": arrays[name] for name in names}
        kept = arrays["kept"].astype(bool)
        if len(kept) != len(_names(schema, self.interactions)) or arrays["members"].shape[1] != kept.sum():
            raise ValueError("the coefficients do not fit the columns.")
        if state["family"] not in FAMILIES:
            raise ValueError(f"no such family: {state['family']!r}.")
        dispersion, prior, ceiling = (float(value) for value in arrays["constants"])
        fitted |= {"kept_": kept, "family_": str(state["family"]), "dispersion_": dispersion, "prior_rows_": prior}
        fitted |= {"ceiling_": ceiling, "column_names_": state["columns"], "dropped_": state["dropped"]}
        fitted["residuals_"] = None
        if "residuals" in state:
            fitted["residuals_"] = ResidualDistribution.from_arrays(part(arrays, "residuals"), state["residuals"])
        return fitted


FAMILY_OF = {"binary": "binomial", "count": "poisson"}


def _design(Z: Array, a: NDArray[np.int64], n_arms: int, interactions: bool) -> Array:
    """[1, x, arms, arms times x], (n, n_columns)."""
    arms = [(a == k).astype(np.float64)[:, None] for k in range(1, n_arms)]
    products = [arm * Z for arm in arms] if interactions else []
    return np.concatenate([np.ones((len(Z), 1)), Z, *arms, *products], axis=1)


def _names(schema: Schema, interactions: bool) -> list[str]:
    features, arms = list(schema.feature_names), [f"arm={arm}" for arm in schema.arms[1:]]
    return ["1", *features, *arms] + ([f"{arm}:{name}" for arm in arms for name in features] if interactions else [])


def _independent(D: Array) -> NDArray[np.bool_]:
    """Columns that are no linear combination of those before them (Gram-Schmidt, twice over)."""
    kept, basis = np.zeros(D.shape[1], dtype=bool), np.empty((len(D), min(D.shape)))
    for j in range(D.shape[1]):
        norm = np.linalg.norm(D[:, j])
        rank = int(kept.sum())
        if norm == 0 or rank == len(D):
            continue
        rest, Q = D[:, j] / norm, basis[:, :rank]
        for _ in range(2):
            rest = rest - Q @ (Q.T @ rest)
        left = np.linalg.norm(rest)
        if left > _SAME:
            basis[:, rank], kept[j] = rest / left, True
    return kept


def _fit_glm(family: str, dispersion: float, D: Array, y: Array, weight: Array, start: Array | None = None) -> Any:
    """A statsmodels GLM with sampling weights and White's covariance."""
    import statsmodels.api as sm

    if family == "gaussian":  # the same fit, and one that a constant outcome does not break
        return sm.WLS(y, D, weights=weight).fit(cov_type="HC0")
    known = {
        "gamma": lambda: sm.families.Gamma(link=sm.families.links.Log()),
        "binomial": sm.families.Binomial,
        "poisson": sm.families.Poisson,
        "negative_binomial": lambda: sm.families.NegativeBinomial(alpha=dispersion),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on separation and iterations: found below from the fit itself
        model = sm.GLM(y, D, family=known[family](), var_weights=weight)
        return model.fit(start_params=start, maxiter=100, cov_type="HC0")


def _bootstrapped(
    family: str, dispersion: float, D: Array, y: Array, weight: Array, start: Array, noise: Array
) -> Array:
    """Coefficients of one fit with the Bayesian bootstrap's weights."""
    return np.asarray(_fit_glm(family, dispersion, D, y, weight * noise, start=start).params)


def _estimable(family: str, dispersion: float, D: Array, y: Array, weight: Array) -> tuple[Array, Array, float]:
    """Outcomes and weights for which a finite estimate exists, and the worth of the prior that this took, in rows."""
    if family in ("gaussian", "gamma"):
        return y, weight, 0.0
    if np.ptp(y) > 0:
        result = _fit_glm(family, dispersion, D, y, weight)
        eta = D @ np.asarray(result.params)
        reach = np.abs(eta) if family == "binomial" else -eta
        if result.converged and np.isfinite(eta).all() and reach.max() < _SEPARATED:
            return y, weight, 0.0
    warnings.warn(
        f"covariates and arms separate the outcomes: some of the {D.shape[1]} coefficients would run to infinity. A "
        f"prior worth {D.shape[1]} rows at the overall mean was added (Clogg et al. 1991). Fewer columns or "
        "interactions=False may do without.",
        UserWarning,
        stacklevel=2,
    )
    share = D.shape[1] / len(D)
    mean = float(np.average(y, weights=weight))
    if mean in (0.0, 1.0) and family == "binomial":
        mean = (mean * len(y) + 0.5) / (len(y) + 1)
    mean = max(mean, 0.5 / len(y))
    return (weight * y + share * mean) / (weight + share), weight + share, float(D.shape[1])


def _normal_draws(params: Array, covariance: Array, n: int, rng: np.random.Generator) -> Array:
    """Draws in pairs on either side of the estimate: their mean is the estimate. One draw is the estimate itself."""
    value, vector = np.linalg.eigh((covariance + covariance.T) / 2)
    root = vector * np.sqrt(np.maximum(value, 0.0))
    step = rng.standard_normal((n // 2, len(params))) @ root.T
    return params + np.concatenate([step, -step, np.zeros((n % 2, len(params)))])


def _mean_variance(members: Array, D: Array, family: str) -> Array:
    return np.var(_inverse_link(family, members @ D.T, np.inf), axis=0)


def _ceiling(family: str, y: Array) -> float:
    """The largest mean that a log link may extrapolate to."""
    return float(100 * max(y.max(), 1.0 if family != "gamma" else 0.0))


def _inverse_link(family: str, eta: Array, ceiling: float) -> Array:
    if family == "gaussian":
        return eta
    if family == "binomial":
        return special.expit(eta)
    return np.exp(np.minimum(eta, np.log(ceiling) if np.isfinite(ceiling) else 700.0))


def _count_quantiles(mu: Array, u: Array, alpha: float) -> NDArray[np.float32]:
    r"""Quantiles (n_members, n_draws, n, n_arms) of Poisson (``alpha=0``) or negative binomial counts.

    ``F(j; mu)`` falls with mu, so the quantile at level u is the number of j whose root ``F(j; mu_j) = u`` lies below
    mu: a search in a table of roots instead of a million inversions. The fractional part says how near the next is.
    """
    out = np.empty((mu.shape[0], len(u), *mu.shape[1:]), dtype=np.float32)
    most = min(float(mu.max()), _MOST)
    j = np.arange(int(most + 12 * np.sqrt(most + alpha * most**2) + 20)) + 1.0
    for k, level in enumerate(u):
        if alpha == 0:
            roots = special.gammainccinv(j, level)
        else:
            p = np.maximum(special.betaincinv(1 / alpha, j, level), 1e-300)
            roots = (1 - p) / (alpha * p)
        roots = roots[: int(np.searchsorted(roots, most)) + 1]
        edges = np.concatenate([[0.0], roots])
        found = np.minimum(np.searchsorted(roots, mu), len(roots) - 1)
        out[:, k] = found + np.clip((mu - edges[found]) / (edges[found + 1] - edges[found]), 0.0, 0.999)
        large = mu > _MOST
        if large.any():
            normal = mu + np.sqrt(mu + alpha * mu**2) * stats.norm.ppf(level)
            out[:, k] = np.where(large, np.maximum(normal, 0.0), out[:, k])
    return out


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(text)
