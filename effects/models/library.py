"""Cheap regressions per arm, cross-fitted, that lend their means to a stack."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LassoCV, LogisticRegressionCV, PoissonRegressor
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.utils import check_random_state
from threadpoolctl import threadpool_limits

Array = NDArray[np.float64]
Index = NDArray[np.int64]
_FOLDS = 5
_FEWEST = 10  # rows of an arm, below which its mean is all that is learned
_KNOTS = 6
_PAIRED = 24  # main terms that may enter products
_ROWS_PER_SCREENED = 250  # an arm of so many rows affords one product of columns without main terms of their own
_LINKS = {"continuous": "identity", "binary": "logit", "count": "log"}


class Regression(Protocol):
    """What the stack asks of a member of its library."""

    @classmethod
    def fit(
        cls, E: NDArray[np.float32], a: Index, y: Array, weight: Array, n_arms: int, kind: str, seed: int
    ) -> tuple[Self, Array]:
        """Models of every fold's complement, and each row's means (n, n_arms) from models that had not seen it."""

    def predict(self, E: NDArray[Any]) -> Array:
        """Means (n_folds, n, n_arms)."""

    def to_arrays(self) -> dict[str, NDArray[Any]]: ...

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], kind: str) -> Self: ...


@dataclass(frozen=True, eq=False)
class SparseLinear:
    r"""A penalised generalised linear model per arm and fold.

    Lasso for a continuous outcome (Tibshirani 1996), logistic regression with a ridge penalty for a binary one,
    Poisson regression with a ridge penalty for a count; the penalty by cross-validation within the rows of the fit.

    Attributes
    ----------
    coef : ndarray of shape (n_folds, n_arms, n_columns + 1)
        The intercept last.
    link : {"identity", "logit", "log"}
    """

    coef: Array
    link: str

    @classmethod
    def fit(
        cls, E: NDArray[np.float32], a: Index, y: Array, weight: Array, n_arms: int, kind: str, seed: int
    ) -> tuple[Self, Array]:
        X, link = E.astype(np.float64), _LINKS[kind]
        folds = _folds(a, n_arms, seed)
        coef = np.zeros((len(folds), n_arms, X.shape[1] + 1))
        out_of_fold = np.empty((len(y), n_arms))
        with threadpool_limits(1):
            for k, (train, test) in enumerate(folds):
                for arm in range(n_arms):
                    own = train[a[train] == arm]
                    coef[k, arm] = _fit_linear(X[own], y[own], weight[own], link, seed + k)
                out_of_fold[test] = cls(coef[[k]], link).predict(X[test])[0]
        return cls(coef, link), out_of_fold

    def predict(self, E: NDArray[Any]) -> Array:
        eta = np.einsum("nj,kaj->kna", E.astype(np.float64), self.coef[:, :, :-1]) + self.coef[:, None, :, -1]
        return _inverse(eta, self.link)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {"coef": self.coef}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], kind: str) -> Self:
        return cls(arrays["coef"], _LINKS[kind])


@dataclass(frozen=True, eq=False)
class SparseAdditive:
    r"""A sparse additive model with pairwise products, per arm and fold.

    Every column that is not 0/1 is held within its observed range and expanded into itself, its square, hinges
    :math:`(x - k)_+` and steps :math:`1[x > k]` at six quantiles; a lasso selects main terms. The strongest are
    multiplied in pairs, those products of two columns join them that go with what the main terms leave over (sure
    screening, Fan & Lv 2008), and a second lasso selects among main terms and products. In the spirit of multivariate
    adaptive regression splines (Friedman 1991), selected as in Tibshirani (1996). For a binary outcome or a count the
    selected terms enter the penalised model of `SparseLinear`.

    `JointSparseAdditive` fits all arms at once, with every term twice: shared, and as a contrast between the arms, so
    that effects are sparse where the arms are alike (Imai & Ratkovic 2013).

    Attributes
    ----------
    column, form : ndarray of int, shape (n_terms,)
        The column of a main term, and 0 (itself), 1 (square), 2 (hinge) or 3 (step).
    knot, center, scale : ndarray of shape (n_terms,)
        Terms are standardised.
    low, high : ndarray of shape (n_columns,)
    coef : ndarray of shape (n_folds, n_arms, n_terms + 1)
        Of the main terms, the intercept last.
    pairs : ndarray of int, shape (n_pairs, 4)
        Fold, arm and the two terms of every product.
    pair_coef : ndarray of shape (n_pairs,)
    link : {"identity", "logit", "log"}
    """

    column: Index
    form: Index
    knot: Array
    center: Array
    scale: Array
    low: Array
    high: Array
    coef: Array
    pairs: Index
    pair_coef: Array
    link: str

    @classmethod
    def fit(
        cls, E: NDArray[np.float32], a: Index, y: Array, weight: Array, n_arms: int, kind: str, seed: int
    ) -> tuple[Self, Array]:
        X, link = E.astype(np.float64), _LINKS[kind]
        basis = _learn_basis(X)
        Z = _expand(X, basis)
        folds = _folds(a, n_arms, seed)
        coef = np.zeros((len(folds), n_arms, Z.shape[1] + 1))
        out_of_fold = np.empty((len(y), n_arms))
        pairs: list[Index] = []
        pair_coef: list[Array] = []
        with threadpool_limits(1):
            for k, (train, test) in enumerate(folds):
                rows = (Z[train], a[train], y[train], weight[train])
                fitted = cls._fit_arms(*rows, n_arms, link, seed + k, np.flatnonzero(basis[1] == 0))
                for arm, (own, found, values) in enumerate(fitted):
                    coef[k, arm] = own
                    pairs.append(np.column_stack([np.full(len(found), k), np.full(len(found), arm), found]))
                    pair_coef.append(values)
                    eta = Z[test] @ own[:-1] + own[-1] + (Z[test][:, found[:, 0]] * Z[test][:, found[:, 1]]) @ values
                    out_of_fold[test, arm] = _inverse(eta, link)
        model = cls(*basis, coef, np.concatenate(pairs).astype(np.int64), np.concatenate(pair_coef), link)
        return model, out_of_fold

    @classmethod
    def _fit_arms(
        cls, Z: Array, a: Index, y: Array, weight: Array, n_arms: int, link: str, seed: int, lines: Index
    ) -> list[tuple[Array, Index, Array]]:
        """Per arm: coefficients of the main terms with the intercept, the products (n_pairs, 2), their coefficients."""
        own = [a == arm for arm in range(n_arms)]
        return [_fit_additive(Z[rows], y[rows], weight[rows], link, seed, lines) for rows in own]

    def predict(self, E: NDArray[Any]) -> Array:
        basis = (self.column, self.form, self.knot, self.center, self.scale, self.low, self.high)
        Z = _expand(E.astype(np.float64), basis)
        eta = np.einsum("nj,kaj->kna", Z, self.coef[:, :, :-1]) + self.coef[:, None, :, -1]
        for (k, arm, i, j), value in zip(self.pairs, self.pair_coef, strict=True):
            eta[k, :, arm] += value * Z[:, i] * Z[:, j]
        return _inverse(eta, self.link)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "link"}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]], kind: str) -> Self:
        return cls(**arrays, link=_LINKS[kind])


class JointSparseAdditive(SparseAdditive):
    """`SparseAdditive` of all arms at once: shared terms, and their contrasts between the arms."""

    @classmethod
    def _fit_arms(
        cls, Z: Array, a: Index, y: Array, weight: Array, n_arms: int, link: str, seed: int, lines: Index
    ) -> list[tuple[Array, Index, Array]]:
        codes = n_arms * np.eye(n_arms)[:, 1:] - 1.0  # of the arms; two arms have -1 and 1
        coef, pairs, values = _fit_additive(Z, y, weight, link, seed, lines, codes[a])
        arms = np.column_stack([np.ones(n_arms), codes])  # (n_arms, n_codes + 1): an arm's share in every contrast
        return [(share @ coef, pairs, share @ values) for share in arms]


LIBRARY: dict[str, type[SparseLinear] | type[SparseAdditive]] = {
    "penalised linear model": SparseLinear,
    "sparse additive model": SparseAdditive,
    "sparse additive model of all arms": JointSparseAdditive,
}

_Basis = tuple[Index, Index, Array, Array, Array, Array, Array]


def _learn_basis(X: Array) -> _Basis:
    """Column, form, knot, center and scale of every main term; the columns' ranges."""
    low, high = X.min(axis=0), X.max(axis=0)
    terms: list[tuple[int, int, float]] = []
    for j in range(X.shape[1]):
        terms.append((j, 0, 0.0))
        if len(np.unique(X[:, j])) > 2:
            knots = np.unique(np.quantile(X[:, j], np.linspace(0.1, 0.9, _KNOTS)))
            terms.append((j, 1, 0.0))
            terms += [(j, form, float(knot)) for form in (2, 3) for knot in knots]
    column, form = (np.array([term[i] for term in terms], dtype=np.int64) for i in (0, 1))
    knot = np.array([term[2] for term in terms])
    plain = (column, form, knot, np.zeros(len(terms)), np.ones(len(terms)), low, high)
    Z = _expand(X, plain)
    center, scale = Z.mean(axis=0), Z.std(axis=0)
    keep = scale > 1e-6
    return column[keep], form[keep], knot[keep], center[keep], scale[keep], low, high


def _expand(X: Array, basis: _Basis) -> Array:
    """Standardised main terms (n, n_terms)."""
    column, form, knot, center, scale, low, high = basis
    x = np.clip(X, low, high)[:, column]
    Z = np.where(form == 0, x, np.where(form == 1, x**2, np.where(form == 2, np.maximum(x - knot, 0.0), x > knot)))
    return (Z - center) / scale


def _fit_additive(
    Z: Array, y: Array, weight: Array, link: str, seed: int, lines: Index, codes: Array | None = None
) -> tuple[Array, Index, Array]:
    """Coefficients of the main terms with the intercept, the products (n_pairs, 2), and their coefficients.

    `lines` are the terms that are columns themselves. With `codes` (n, n_codes) of the rows' arms, coefficients have
    a leading axis: shared, then one per code.
    """
    n_terms, n_codes = Z.shape[1], 0 if codes is None else codes.shape[1]
    none = np.zeros((0, 2), dtype=np.int64)
    if len(y) < 4 * _FEWEST or np.ptp(y) == 0:
        coef = np.zeros((n_codes + 1, n_terms + 1))
        coef[0] = _fit_linear(Z[:, :0], y, weight, link, seed, n_terms)
        return (coef[0], none, np.zeros(0)) if codes is None else (coef, none, np.zeros((n_codes + 1, 0)))
    design = _with_codes(Z, codes)
    fitted = _lasso(design, y, weight, seed)
    main, _ = _split_codes(fitted, n_terms, n_codes)
    strength = np.abs(main).sum(axis=0)
    strongest = np.argsort(-strength, kind="stable")[:_PAIRED]
    strongest = np.sort(strongest[strength[strongest] > 0])
    i, j = np.triu_indices(len(strongest), 1)
    left = weight * (y - design @ fitted[:-1] - fitted[-1])
    pairs = np.concatenate([np.column_stack([strongest[i], strongest[j]]), _screened(Z[:, lines], left, codes, lines)])
    pairs = np.unique(pairs.astype(np.int64), axis=0)
    products = Z[:, pairs[:, 0]] * Z[:, pairs[:, 1]]
    center, scale = products.mean(axis=0), products.std(axis=0)
    keep = scale > 1e-6
    pairs, center, scale = pairs[keep], center[keep], scale[keep]
    design = _with_codes(np.column_stack([Z, (products[:, keep] - center) / scale]), codes)
    found = _lasso(design, y, weight, seed)
    if link != "identity":
        chosen = np.flatnonzero(found[:-1])
        fitted = _fit_linear(design[:, chosen], y, weight, link, seed)
        found = np.zeros(design.shape[1] + 1)
        found[chosen], found[-1] = fitted[:-1], fitted[-1]
    terms, intercepts = _split_codes(found, n_terms + len(pairs), n_codes)
    values = terms[:, n_terms:] / scale
    coef = np.column_stack([terms[:, :n_terms], intercepts - values @ center])
    used = values.any(axis=0)
    if codes is None:
        return coef[0], pairs[used], values[0, used]
    return coef, pairs[used], values[:, used]


def _screened(X: Array, left: Array, codes: Array | None, lines: Index) -> Index:
    """Pairs of terms (n_pairs, 2) whose products of columns X go most with the residual, or with a code times it."""
    i, j = np.triu_indices(X.shape[1], 1)
    size = np.sqrt((X**2).T @ X**2)[i, j] + 1e-12
    targets = [left] if codes is None else [left, *(left * code for code in codes.T)]
    score = np.max([np.abs((X * target[:, None]).T @ X)[i, j] / size for target in targets], axis=0)
    best = np.argsort(-score, kind="stable")[: len(X) // _ROWS_PER_SCREENED]
    return np.column_stack([lines[i[best]], lines[j[best]]])


def _with_codes(Z: Array, codes: Array | None) -> Array:
    """Z, its product with every code, and the codes themselves."""
    if codes is None:
        return Z
    return np.column_stack([Z, *(Z * code[:, None] for code in codes.T), codes])


def _split_codes(found: Array, n_terms: int, n_codes: int) -> tuple[Array, Array]:
    """Coefficients (n_codes + 1, n_terms) and intercepts (n_codes + 1,) from those of `_with_codes`, intercept last."""
    terms = found[: n_terms * (n_codes + 1)].reshape(n_codes + 1, n_terms)
    return terms, np.append(found[-1], found[n_terms * (n_codes + 1) : -1])


def _lasso(X: Array, y: Array, weight: Array, seed: int) -> Array:
    """Lasso with a cross-validated penalty: coefficients, the intercept last."""
    mean = float(np.average(y, weights=weight))
    spread = float(np.sqrt(np.average((y - mean) ** 2, weights=weight)))
    target = (y - mean) / spread
    centered = X - np.average(X, axis=0, weights=weight)
    largest = float(np.abs(centered.T @ (weight * target)).max(initial=0.0)) / float(weight.sum())
    if largest < 1e-12:
        return np.append(np.zeros(X.shape[1]), mean)
    penalties = np.geomspace(largest, 3e-3 * largest, 25)
    model = LassoCV(alphas=penalties, cv=min(5, len(y) // 2), max_iter=500, tol=3e-3, random_state=seed)
    with warnings.catch_warnings():
        # the smallest penalties of the path may stop short of full precision: those that win do not
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, target, sample_weight=weight)
    return np.append(model.coef_ * spread, model.intercept_ * spread + mean)


def _fit_linear(X: Array, y: Array, weight: Array, link: str, seed: int, n_columns: int | None = None) -> Array:
    """Coefficients of one arm's penalised model, the intercept last; `n_columns` where X itself is left out."""
    n_columns = X.shape[1] if n_columns is None else n_columns
    mean = float(np.average(y, weights=weight))
    constant = np.ptp(y) == 0 or len(y) < _FEWEST or X.shape[1] == 0
    rarest = int(min((y == 0).sum(), (y != 0).sum()))
    if link == "logit" and (constant or rarest < 3):
        share = (mean * len(y) + 0.5) / (len(y) + 1)  # Jeffreys' prior: no events are not no risk
        return np.append(np.zeros(n_columns), np.log(share / (1 - share)))
    if constant:
        return np.append(np.zeros(n_columns), mean if link == "identity" else np.log(max(mean, 1e-12)))
    if link == "identity":
        return _lasso(X, y, weight, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)  # of parameters left at their defaults
        if link == "logit":
            model = LogisticRegressionCV(
                Cs=np.logspace(-3, 1, 7), cv=min(5, rarest), scoring="neg_log_loss", max_iter=500
            )
            model.fit(X, y, sample_weight=weight)
            return np.append(model.coef_[0], model.intercept_[0])
        grid = {"alpha": np.logspace(-3, 2, 6)}
        search = GridSearchCV(PoissonRegressor(max_iter=300), grid, cv=min(5, len(y) // 2))
        best = search.fit(X, y, sample_weight=weight).best_estimator_
    return np.append(best.coef_, best.intercept_)


def _inverse(eta: Array, link: str) -> Array:
    """The mean of a linear predictor."""
    if link == "identity":
        return eta
    # beyond these bounds a probability is 0 or 1, and a rate no number, in double precision
    return 1.0 / (1.0 + np.exp(-np.clip(eta, -700, 700))) if link == "logit" else np.exp(np.minimum(eta, 50.0))


def _folds(a: Index, n_arms: int, seed: int) -> list[tuple[Index, Index]]:
    n_folds = min(_FOLDS, int(np.bincount(a, minlength=n_arms).min()))
    rng = check_random_state(seed)
    return list(StratifiedKFold(n_folds, shuffle=True, random_state=rng.randint(2**31 - 1)).split(a, a))
