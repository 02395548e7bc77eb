"""Losses: pure, and one value per sample. `nn.training` reduces them, so weights stay possible everywhere.

Tensors broadcast over leading member axes; nothing here sums, averages or knows about optimisers.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOSSES = ("plugin", "ipw", "ra", "gdr")


def gaussian_nll(mean: Tensor, log_sd: Tensor, y: Tensor) -> Tensor:
    r"""Negative log density of a normal without its constant: :math:`(y - \mu)^2 / 2\sigma^2 + \log\sigma`.

    `log_sd` is held within [-5, 3] (the outcome is standardised): outside, a single fitted point could drive the
    density to infinity.
    """
    log_sd = log_sd.clamp(-5.0, 3.0)
    return 0.5 * ((y - mean) * torch.exp(-log_sd)) ** 2 + log_sd


def bernoulli_nll(logit: Tensor, y: Tensor) -> Tensor:
    """Negative log probability of a 0/1 outcome."""
    return torch.nn.functional.softplus(logit) - logit * y


def denoising_error(velocity: Tensor, y: Tensor, noise: Tensor, angle: Tensor) -> Tensor:
    r"""Squared error of the denoiser, :math:`(F - (\sin\theta\, y - \cos\theta\, \varepsilon))^2`.

    The preconditioned denoising loss of Karras et al. 2022 (eq. 8) at :math:`\sigma_{data} = 1` with
    :math:`\sigma = \tan\theta`: the network's target is :math:`(y - c_{skip} x) / c_{out}`, which in these
    coordinates is the expression above.
    """
    return (velocity - (torch.sin(angle) * y - torch.cos(angle) * noise)) ** 2


def orthogonal_weights(loss: str, arm: Tensor, propensity: Tensor) -> tuple[Tensor, Tensor]:
    r"""Weights of the observed outcome's loss and of a generated outcome's loss, per sample and arm.

    For each arm `a` the risk of a generator of Y(a) is estimated by

    .. math:: \frac1n\sum_i w_{ia}\, \ell_a(Y_i \mid x_i) + v_{ia}\, \ell_a(\tilde y_{ia} \mid x_i),
              \qquad \tilde y_{ia} \sim \hat\xi_a(x_i),

    with, writing :math:`d_{ia} = 1[A_i = a]`,

    - ``"plugin"``: :math:`w = d,\; v = 0` (observed outcomes only),
    - ``"ipw"``: :math:`w = d / \hat\pi_a,\; v = 0` (DiffPO's orthogonal diffusion loss, Ma et al. 2024),
    - ``"ra"``: :math:`w = d,\; v = 1 - d` (regression adjustment),
    - ``"gdr"``: :math:`w = d / \hat\pi_a,\; v = 1 - d / \hat\pi_a` (doubly robust; arXiv 2509.22953).

    Parameters
    ----------
    arm : Tensor of int64, shape (n,)
        The observed arm.
    propensity : Tensor of shape (n, n_arms)

    Returns
    -------
    observed, generated : Tensor of shape (n, n_arms)
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}.")
    own = torch.nn.functional.one_hot(arm, propensity.shape[1]).to(propensity.dtype)
    inverse = own / propensity
    return {
        "plugin": (own, torch.zeros_like(own)),
        "ipw": (inverse, torch.zeros_like(own)),
        "ra": (own, 1.0 - own),
        "gdr": (inverse, 1.0 - inverse),
    }[loss]


def cross_entropy(logits: Tensor, arm: Tensor) -> Tensor:
    """Negative log probability (..., n) of arms (n,) under logits (..., n, n_arms)."""
    log_p = torch.log_softmax(logits, dim=-1)
    return -log_p.gather(-1, arm.expand(log_p.shape[:-1])[..., None]).squeeze(-1)


def targeted_error(mean: Tensor, y: Tensor, epsilon: Tensor, propensity: Tensor, binary: bool = False) -> Tensor:
    r"""Targeted regularisation (Shi, Blei & Veitch 2019, eq. 3.3), for any number of arms.

    .. math:: \big(y - \tilde Q\big)^2, \qquad \tilde Q(a, x) = Q(a, x) + \epsilon_a / g_a(x)

    Where its derivative by every :math:`\epsilon_a` is zero, :math:`\sum_i 1[a_i = a] (y_i - \tilde Q_i) / g_a(x_i) =
    0`: the efficient score of the mean outcome under every arm is solved. The paper has two arms and one number for
    their contrast, :math:`\epsilon_1 = -\epsilon_0`. For a binary outcome, Q is a log odds and the loss the negative
    log probability: its derivative is the same score.

    Parameters
    ----------
    mean, epsilon, propensity : Tensor, broadcastable to (..., n)
        Of each row's own arm.
    """
    moved = mean + epsilon / propensity
    return bernoulli_nll(moved, y) if binary else (y - moved) ** 2


def mmd(x: Tensor, y: Tensor, p: Tensor, q: Tensor, kernel: str = "rbf", unbiased: bool = True) -> Tensor:
    r"""Squared maximum mean discrepancy of two weighted samples (Gretton et al. 2012, JMLR 13, lemma 6).

    .. math:: E\,k(X, X') + E\,k(Y, Y') - 2 E\,k(X, Y)

    with :math:`k = \exp(-\|x - y\|^2 / 2)` (``"rbf"``), or :math:`x^\top y` (``"linear"``: the squared distance of the
    means).

    Parameters
    ----------
    x, y : Tensor of shape (..., n, d) and (..., m, d)
    p, q : Tensor, broadcastable to (..., n) and (..., m)
        Non-negative weights; only their ratios matter.
    unbiased : bool
        Leave out pairs of a row with itself: the expectation is then zero for samples of equal laws, and single
        values may be negative.

    Returns
    -------
    Tensor of shape (...)
        Zero where a sample has no row of positive weight (unbiased: fewer than two).
    """
    p, q = p.expand(x.shape[:-1]), q.expand(y.shape[:-1])
    possible = (p > 0).sum(-1).clamp_max((q > 0).sum(-1)) > int(unbiased)
    p, q = _normalised(p), _normalised(q)

    def gram(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-_squared_distances(a, b) / 2) if kernel == "rbf" else a @ b.mT

    def within(a: Tensor, v: Tensor) -> Tensor:
        k = gram(a, a)
        if not unbiased:
            return _between(k, v, v)
        k = k - torch.diag_embed(torch.diagonal(k, dim1=-2, dim2=-1))
        return _between(k, v, v) / (1 - (v * v).sum(-1)).clamp_min(1e-6)

    value = within(x, p) + within(y, q) - 2 * _between(gram(x, y), p, q)
    return torch.where(possible, value, torch.zeros_like(value))


def sinkhorn(x: Tensor, y: Tensor, p: Tensor, q: Tensor, smoothing: float = 0.1, n_steps: int = 10) -> Tensor:
    r"""Wasserstein-1 distance of two weighted samples, entropically smoothed (Cuturi 2013, algorithm 1).

    .. math:: \min_{\pi \in \Pi(p, q)} \sum_{ij} \pi_{ij} \|x_i - y_j\| + \lambda \sum_{ij} \pi_{ij} \log \pi_{ij}

    of which the first sum is returned, :math:`\lambda` being `smoothing` times the mean distance (Shalit et al. 2017
    take the same share). The plan gets no gradient, as at the optimum it needs none for small :math:`\lambda`. Costs
    enter the exponentials less their row and column minima, as in the logarithmic form of the algorithm: none of
    its sums can vanish, while a step costs two products of matrix and vector instead of exponentials.

    Parameters
    ----------
    x, y : Tensor of shape (..., n, d) and (..., m, d)
    p, q : Tensor, broadcastable to (..., n) and (..., m)
        Non-negative weights; only their ratios matter.

    Returns
    -------
    Tensor of shape (...)
        Zero where a sample has no row of positive weight. Smoothed, it is not zero for equal samples.
    """
    p, q = p.expand(x.shape[:-1]), q.expand(y.shape[:-1])
    possible = (p > 0).any(-1) & (q > 0).any(-1)
    if not possible.any():
        return torch.zeros_like(p.sum(-1))
    p, q = _normalised(p), _normalised(q)
    # at a distance of zero the root has no derivative: just above it the gradient is zero, as by symmetry it should be
    cost = _squared_distances(x, y).clamp_min(1e-12).sqrt()
    with torch.no_grad():
        scale = smoothing * _between(cost, p, q).clamp_min(1e-12)
        # minima are taken over rows that have weight
        far = cost.amax() + 1.0
        shifted = cost + far * (q == 0)[..., None, :]
        shifted = shifted - shifted.amin(-1, keepdim=True) + far * (p == 0)[..., None]
        gibbs = torch.exp((shifted.amin(-2, keepdim=True) - shifted) / scale[..., None, None])
        u, v = p[..., None], (q > 0).to(q.dtype)[..., None]
        for _ in range(n_steps):
            u = p[..., None] / (gibbs @ v).clamp_min(1e-30)
            v = q[..., None] / (gibbs.mT @ u).clamp_min(1e-30)
        plan = u * gibbs * v.mT
    value = (plan * cost).sum((-2, -1))
    return torch.where(possible, value, torch.zeros_like(value))


def _normalised(weight: Tensor) -> Tensor:
    return weight / weight.sum(-1, keepdim=True).clamp_min(1e-12)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    square = (x * x).sum(-1)[..., :, None] + (y * y).sum(-1)[..., None, :]
    return (square - 2 * x @ y.mT).clamp_min(0.0)


def _between(matrix: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """v' matrix w, (...)."""
    return (v * (matrix @ w[..., None]).squeeze(-1)).sum(-1)
