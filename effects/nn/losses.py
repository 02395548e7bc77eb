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
