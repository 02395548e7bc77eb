r"""Bayesian last layer: one joint linear (or logistic) regression of all arms on a network's learned features.

After training, the output weights of each member are thrown away and replaced by the posterior of

.. math:: y_i \mid x_i, a_i \sim N\Big(\sum_j G_{a_i j}\, w_j^\top b(x_i),\; \beta_{a_i}^{-1} / v_i\Big), \qquad
          w_{jl} \sim N(0, \alpha_{g(j, l)}^{-1}),

where :math:`b(x)` is the basis (features, nuisances, a constant), :math:`v_i` are sample weights (scaled to average
one, then counted as repeated rows), and the coding
:math:`G` has a first column of ones and orthogonal contrasts of the arms: what the arms share and how they differ
have separate prior precisions, so the *effect* is shrunk by its own evidence. Prior and noise precisions maximise
the evidence (MacKay 1992, Neural Computation 4(3), eqs. 4.8-4.9; Bishop 2006, section 3.5): nothing is
cross-validated and nothing is left to the user. Members (networks) are the leading axis throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_LIMITS = (1e-6, 1e6)
_FIXED_PRECISION = 1e-4  # of intercepts: flat on the standardised outcome
_TOLERANCE = 2e-2
_ROWS = 8192  # at a time in double precision: of a million rows the basis itself is gigabytes


def arm_coding(n_arms: int) -> Tensor:
    """Ones and orthogonal contrasts, (n_arms, n_arms); with two arms the contrast is -1/2, +1/2.

    Every pair of arms differs by vectors of the same length, so the prior treats all contrasts alike.
    """
    helmert = torch.ones(n_arms, n_arms, dtype=torch.float64)
    for j in range(1, n_arms):
        column = torch.zeros(n_arms, dtype=torch.float64)
        column[:j], column[j] = -1.0, float(j)
        helmert[:, j] = column / column.norm() * 0.5**0.5
    return helmert


@dataclass(frozen=True)
class ArmPosterior:
    """Gaussian posterior of every network's output weights, for all arms together.

    Attributes
    ----------
    mean : Tensor of shape (n_networks, n_arms, n_basis)
        Of the arms' own weights.
    factor : Tensor of shape (n_networks, n_arms, n_basis, n_arms * n_basis)
        ``factor[k, a] @ factor[k, b].T`` is the covariance of the weights of arms a and b.
    noise_sd : Tensor of shape (n_networks, n_arms)
        Standard deviation of the outcome around the linear predictor (one in the logistic model).
    alpha : Tensor of shape (n_networks, n_groups)
    """

    mean: Tensor
    factor: Tensor
    noise_sd: Tensor
    alpha: Tensor

    def predict(self, basis: Tensor) -> Tensor:
        """Posterior mean of the linear predictors, (n_networks, n, n_arms), at `basis` (n_networks, n, n_basis)."""
        return torch.cat([part.to(self.mean.dtype) @ self.mean.mT for part in basis.split(_ROWS, dim=1)], dim=1)

    def deviations(self, basis: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Weight draws minus their mean, as functions of x, and the exact covariance of the arms at each x.

        Parameters
        ----------
        normals : Tensor of shape (n_networks, n_arms * n_basis, n_draws)

        Returns
        -------
        functions : Tensor of shape (n_networks, n_draws, n, n_arms)
            One draw is one function, coherent over rows and arms.
        covariance : Tensor of shape (n, n_arms, n_arms)
            Of the linear predictors given the network, averaged over networks.
        """
        basis = basis.to(self.mean.dtype)
        loads = torch.stack([basis @ self.factor[:, a] for a in range(self.mean.shape[1])], dim=2)
        functions = torch.einsum("knaq,kqd->kdna", loads, normals)
        covariance = torch.einsum("knaq,knbq->nab", loads, loads) / len(basis)
        return functions, covariance


@dataclass(frozen=True)
class _Problem:
    """Sufficient pieces of the joint regression: basis, arms, weights, prior groups."""

    basis: Tensor
    weight: Tensor
    arm: Tensor
    coding: Tensor
    member: Tensor
    fixed: Tensor

    def own_rows(self, arm: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of one arm and their basis in double precision, some thousands at a time."""
        for rows in (self.arm == arm).nonzero()[:, 0].split(_ROWS):
            yield rows, self.basis[:, rows].double()

    def gram(self, weight: Tensor, arm: int) -> Tensor:
        """X'WX of one arm's rows in the coded design, a Kronecker product."""
        n_networks, _, n_basis = self.basis.shape
        inner = torch.zeros(n_networks, n_basis, n_basis, dtype=torch.float64)
        for rows, basis in self.own_rows(arm):
            inner += (basis * weight[:, rows, None]).mT @ basis
        g = self.coding[arm]
        outer = g[:, None] * g[None, :]
        size = len(g) * n_basis
        return torch.einsum("ij,kpq->kipjq", outer, inner).reshape(n_networks, size, size)

    def moment(self, values: Tensor, arm: int) -> Tensor:
        """X'(values) of one arm's rows, (n_networks, n_arms * n_basis)."""
        inner = torch.zeros(len(self.basis), self.basis.shape[2], dtype=torch.float64)
        for rows, basis in self.own_rows(arm):
            inner += (basis.mT @ values[:, rows, None]).squeeze(-1)
        return (self.coding[arm][:, None] * inner[:, None, :]).flatten(1)

    def linear(self, mean: Tensor) -> Tensor:
        """Linear predictor of every row under its own arm, (n_networks, n)."""
        per_arm = torch.einsum("ai,kip->kap", self.coding, mean.unflatten(1, (len(self.coding), -1)))
        parts = zip(self.basis.split(_ROWS, dim=1), self.arm.split(_ROWS), strict=True)
        return torch.cat([torch.einsum("knp,knp->kn", b.double(), per_arm[:, a]) for b, a in parts], dim=1)


def fit_linear(
    basis: Tensor,
    y: Tensor,
    arm: Tensor,
    groups: Tensor,
    n_arms: int,
    weight: Tensor | None = None,
    start: ArmPosterior | None = None,
    max_iter: int = 40,
) -> ArmPosterior:
    """Bayesian linear regression with evidence maximisation, for every network at once.

    Parameters
    ----------
    basis : Tensor of shape (n_networks, n, n_basis)
    y : Tensor of shape (n,)
        Standardised outcome.
    arm : Tensor of int64, shape (n,)
    groups : Tensor of int64, shape (n_basis,)
        Columns of the same group share a prior precision, one for the shared part and one for the contrasts;
        group 0 is the intercept, whose precision is fixed.
    n_arms : int
    weight : Tensor of shape (n,) or (n_networks, n), optional
        Sample weights; only their ratios matter. A zero leaves the row out.
    start : ArmPosterior, optional
        Keep this fit's precisions instead of maximising the evidence again (to refit without some rows).
    """
    problem, n = _problem(basis, arm, groups, n_arms, weight)
    y = y.double().expand(basis.shape[:2])
    arms = range(n_arms)
    grams = [problem.gram(problem.weight, a) for a in arms]
    moments = [problem.moment(problem.weight * y, a) for a in arms]
    powers = torch.stack([(problem.weight * y * y)[:, arm == a].sum(1) for a in arms], 1)
    alpha = torch.ones(len(basis), problem.member.shape[1], dtype=torch.float64)
    alpha[:, problem.fixed] = _FIXED_PRECISION
    beta = torch.full((len(basis), n_arms), 4.0, dtype=torch.float64)
    if start is not None:
        alpha, beta, max_iter = start.alpha, start.noise_sd.double() ** -2, 0
    for step in range(max_iter + 1):
        gram = torch.stack([beta[:, a, None, None] * grams[a] for a in arms]).sum(0)
        moment = torch.stack([beta[:, a, None] * moments[a] for a in arms]).sum(0)
        mean, covariance = _solve(gram, moment, alpha @ problem.member.T)
        if step == max_iter:
            break
        new_alpha, change = _update_precision(alpha, mean, covariance, problem)
        new_beta = torch.empty_like(beta)
        for a in arms:
            fitted = 2 * (mean * moments[a]).sum(1) - (mean * (grams[a] @ mean[..., None]).squeeze(-1)).sum(1)
            used = beta[:, a] * (covariance * grams[a]).sum((1, 2))
            residual = (powers[:, a] - fitted).clamp_min(1e-6)
            new_beta[:, a] = ((n[:, a] - used).clamp_min(1.0) / residual).clamp(*_LIMITS)
        change = max(change, float((new_beta / beta).log().abs().max()))
        alpha, beta = new_alpha, new_beta
        if change < _TOLERANCE:
            max_iter = step + 1
    return _posterior(problem, mean, covariance, beta.rsqrt(), alpha)


def fit_logistic(
    basis: Tensor,
    y: Tensor,
    arm: Tensor,
    groups: Tensor,
    n_arms: int,
    weight: Tensor | None = None,
    start: ArmPosterior | None = None,
    max_iter: int = 60,
) -> ArmPosterior:
    """Bayesian logistic regression by Laplace's approximation, with the same evidence updates (Bishop 2006, 4.5).

    Parameters and result as `fit_linear`; `y` holds 0 and 1, and the linear predictor is the log odds.
    """
    problem, _ = _problem(basis, arm, groups, n_arms, weight)
    y = y.double().expand(basis.shape[:2])
    alpha = torch.ones(len(basis), problem.member.shape[1], dtype=torch.float64)
    alpha[:, problem.fixed] = _FIXED_PRECISION
    if start is not None:
        alpha = start.alpha
    mean = torch.zeros(len(basis), n_arms * basis.shape[2], dtype=torch.float64)
    for _ in range(max_iter):
        probability = torch.sigmoid(problem.linear(mean))
        curvature = problem.weight * (probability * (1 - probability)).clamp_min(1e-10)
        score = problem.weight * (y - probability)
        # iteratively reweighted least squares: Newton's step at the current precisions
        gram, moment = _zeros(mean), torch.zeros_like(mean)
        for a in range(n_arms):
            gram = gram + problem.gram(curvature, a)
            moment = moment + problem.moment(score, a)
        moment = moment + (gram @ mean[..., None]).squeeze(-1)
        step, covariance = _solve(gram, moment, alpha @ problem.member.T)
        # a full step can overshoot under near separation: bound what it does to the log odds
        move = (problem.linear(step - mean).abs() * (problem.weight > 0)).amax(1)
        mean = mean + (4.0 / move.clamp_min(1e-12)).clamp_max(1.0)[:, None] * (step - mean)
        change = 0.0
        if start is None:
            alpha, change = _update_precision(alpha, mean, covariance, problem)
        if max(change, float(move.max())) < _TOLERANCE:
            break
    return _posterior(problem, mean, covariance, torch.ones(len(basis), n_arms, dtype=torch.float64), alpha)


def _problem(basis: Tensor, arm: Tensor, groups: Tensor, n_arms: int, weight: Tensor | None) -> tuple[_Problem, Tensor]:
    """The problem with weights that average one, and each network's effective rows per arm."""
    if weight is None:
        weight = torch.ones(basis.shape[1], dtype=torch.float64)
    weight = weight.double().expand(basis.shape[:2])
    used = (weight > 0).sum(1, keepdim=True)
    weight = weight * used / weight.sum(1, keepdim=True).clamp_min(1e-12)
    n = torch.stack([weight[:, arm == a].sum(1) for a in range(n_arms)], 1)
    n_groups = int(groups.max())
    # the contrasts' columns get groups of their own; intercepts of all blocks stay in group 0
    blocks = [torch.where(groups == 0, 0, groups + n_groups * (j > 0)) for j in range(n_arms)]
    everything = torch.cat(blocks)
    member = torch.nn.functional.one_hot(everything, 2 * n_groups + 1).double()
    fixed = torch.zeros(member.shape[1], dtype=torch.bool)
    fixed[0] = True
    return _Problem(basis, weight, arm, arm_coding(n_arms), member, fixed), n


def _zeros(mean: Tensor) -> Tensor:
    return torch.zeros(*mean.shape, mean.shape[1], dtype=mean.dtype)


def _solve(gram: Tensor, moment: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and covariance for precision ``diag(prior) + gram``."""
    scale = prior.rsqrt()  # symmetric scaling keeps the factorisation stable when precisions differ by 1e12
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype)
    factor = torch.linalg.cholesky(scale[:, :, None] * gram * scale[:, None, :] + eye)
    covariance = scale[:, :, None] * torch.cholesky_inverse(factor) * scale[:, None, :]
    return (covariance @ moment[..., None]).squeeze(-1), covariance


def _update_precision(alpha: Tensor, mean: Tensor, covariance: Tensor, problem: _Problem) -> tuple[Tensor, float]:
    """MacKay's update of each group's prior precision (effective parameters over squared weights), and its change.

    The change is the largest move of a log precision, counted only as far as the group is in use: the precision of
    a group that the evidence has switched off drifts to infinity without touching any prediction.
    """
    used = problem.member.sum(0) - alpha * (torch.diagonal(covariance, dim1=-2, dim2=-1) @ problem.member)
    new = (used.clamp_min(1e-3) / (mean.square() @ problem.member).clamp_min(1e-9)).clamp(*_LIMITS)
    new = torch.where(problem.fixed, alpha, new)
    return new, float(((new / alpha).log().abs() * used.clamp(0.0, 1.0)).max())


def _posterior(problem: _Problem, mean: Tensor, covariance: Tensor, noise_sd: Tensor, alpha: Tensor) -> ArmPosterior:
    """From the coded weights to the arms' own."""
    n_arms = len(problem.coding)
    jitter = 1e-10 * torch.diagonal(covariance, dim1=-2, dim2=-1).mean(-1)
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    factor = torch.linalg.cholesky(covariance + jitter[:, None, None] * eye).unflatten(1, (n_arms, -1))
    arm_mean = torch.einsum("ai,kip->kap", problem.coding, mean.unflatten(1, (n_arms, -1)))
    arm_factor = torch.einsum("ai,kipq->kapq", problem.coding, factor)
    return ArmPosterior(arm_mean, arm_factor, noise_sd, alpha)
