"""GANITE: one adversarial net completes the outcomes that nobody saw, another learns every arm's outcome from x."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from effects.models.location_scale import LocationScaleEstimator
from effects.nn.completion import Discriminator, Rows, completions, fit_counterfactuals, straight_through
from effects.nn.losses import bernoulli_nll
from effects.nn.means import ConditionalMeans, MeansConfig, OutOfSample, _last_layer, _seen
from effects.nn.networks import ArmNetwork, BatchedLinear
from effects.nn.scale import OutcomeScale, normal_nodes
from effects.nn.training import Objective, Settings, held_out, train
from effects.nuisance import Nuisance
from effects.outcomes import PotentialOutcomes
from effects.persistence import part
from effects.rows import TrainingData
from effects.schema import Schema

Array = NDArray[np.float64]
OBJECTIVES = ("energy", "adversarial")
_STEPS = (300, 800)  # of 128 rows, in block 1 and at most in block 2
_CORE = 16  # width of the noise network, run for every draw
_DRAWS = 3  # of the energy score in training
_FOLDS = 7  # a seventh of the rows is held out for each network's early stopping
_GAIN = 4.0  # of the noise network's last map: its gradients are weak beside those of the means
_FACTORS = np.geomspace(0.2, 2.5, 41)


class GANITE(LocationScaleEstimator):
    r"""Generative adversarial nets for individualised treatment effects (Yoon, Jordon & van der Schaar, ICLR 2018).

    **Block 1** completes the training rows. A generator gives the outcomes of all arms to a row with its observed one,

    .. math:: G_a(x, t, y, z) = b_a(x) + s_a \big(f_a(x, t, r, z) + 1[a \ne t]\, z_1\big), \qquad
              r = (y - b_t(x)) / s_t,

    the observed outcome takes its place, :math:`\bar y_t = y`, and a discriminator :math:`D(x, \bar y)` guesses which
    arm that was. Two steps of D follow each step of G, whose loss is

    .. math:: L_G = \big((G_t - y) / s_t\big)^2 - \alpha\, CE\big(t, D(x, \bar y)\big).

    Given x, completed rows of all arms then have one law: that of the observed outcomes, if nothing unmeasured
    confounds them. **Block 2** is the generator of outcomes that predicts,

    .. math:: I_a(x, z) = m_a(x) + \sigma_a(x)\, \eta_a(x, z), \qquad z \sim N(0, 1),

    trained on completed rows, observed outcomes with weight 1 and generated ones with `generated_weight`. Its loss is

    - ``objective="energy"``: the energy score :math:`E|\bar y_a - I_a| - \frac12 E|I_a - I'_a|` of every arm, which is
      the CRPS (engression, Shen & Meinshausen); it is least at the true law, and nothing competes with anything;
    - ``objective="adversarial"``, as in the paper: :math:`-\log D_I(x, I(x, z))` for a second discriminator that
      tells completed from generated outcomes, plus `beta` times the supervised term
      :math:`(\bar y_a - I_a(x, z)) (\bar y_a - I_a(x, z'))`.

    Then the means :math:`m_a(x)` are replaced by the posterior of a Bayesian last layer on the features that I has
    learned (`effects.nn.last_layer`), and the spread of :math:`\sigma_a \eta_a` is multiplied by one number per arm
    that minimises the CRPS of outcomes that the networks had held out. Members of the returned outcomes are
    draws from that posterior, each with the noise of its network; draws share z between arms.

    Parameters
    ----------
    outcome : {"auto", "continuous", "binary", "count"}
        Kind of outcome. Continuous outcomes are generated as they are, or as their logarithm where they are
        non-negative, skewed, and the errors are then closer to normal; counts as logarithms that are rounded down. A
        binary outcome has one number per unit and arm, P(Y(a) = 1 | x): generators give log odds, block 1 passes 0/1
        draws to the discriminator (gradients straight through), the energy score is the Brier score, and the last
        layer is logistic.
    control : label, optional
        The control arm; by default one with a name like "control", "placebo" or 0, else the first in order.
    objective : {"energy", "adversarial"}
        Loss of block 2.
    alpha : float
        Weight of the discriminator in block 1. 0 leaves the completions at random draws around the regressions.
    beta : float
        With ``objective="adversarial"``: weight of the supervised term.
    generated_weight : float
        Weight of a generated outcome beside an observed one, in block 2. With 0 and ``"energy"``, block 1 is skipped.
    n_noise : int, optional
        Numbers in z, in block 2. By default 1 for ``"energy"``: then draws are equally likely quantiles, without
        sampling error. By default 4 for ``"adversarial"``, whose discriminator sees the arms jointly.
    nuisance : Nuisance, optional
        Your own cross-fitting set-up.
    n_networks : int, optional
        Generators I of the ensemble, two or more; by default 16 below 4,000 rows, else 8.
    hidden : int
        Width of the hidden layers.
    n_draws : int
        Outcome draws per member.
    epochs : int, optional
        At most so many passes in either block; by default a budget of 300 and 800 steps of 128 rows. In block 2
        early stopping on held-out observed outcomes usually ends sooner.
    lr, weight_decay : float
        AdamW, for block 2.
    device : str
        ``"auto"`` trains on a GPU where there is one. Prediction is on the CPU.
    random_state : int, RandomState or None
    verbose : int
        1 shows progress bars on standard error.

    Attributes
    ----------
    schema_, arms_, nuisance_, history_, n_features_in_, feature_names_in_
        As in `EffectEstimator`.
    held_out_ : PotentialOutcomes or None
        The training rows' outcomes from networks that had held them out, for checks of calibration; None in a loaded
        model.

    Notes
    -----
    ``"energy"`` is the default because it won: mean CRPS of both outcomes and sqrt PEHE of the CATE on unseen rows
    against ``"adversarial"`` were 0.599 and 0.51 against 0.612 and 0.56 on IHDP NPCI 1, 2, 3 and 9; on one simulated
    study of 2,000 rows each the CRPS was 3.28 against 3.52 (`make_bimodal`), 1692 against 1696 (`make_skewed`) and
    4.84 against 4.86 (`make_heteroscedastic`), and the Wasserstein-1 distance to the true laws 1.17, 390 and 1.48
    against 2.44, 588 and 1.80 (of an ensemble of normal laws 2.30, 1346 and 1.10). The adversary's CATE was the better
    one on two of the three simulators (sqrt PEHE 1.07, 867, 1.63 against 1.19, 806, 1.97).

    Deviations from the paper. Outcomes keep their own unit, through a fitted scale; the public code squashes them into
    [0, 1]. Both generators keep the noise that the public code leaves out. G works in residuals around cross-fitted
    regressions, which are inputs too: D alone cannot teach the effect from some hundred rows. The supervised term is
    the product of the errors of two draws, whose expectation is the squared error of the mean; the paper's squared
    error of one draw is least for a generator without noise. Early stopping watches the held-out CRPS in either
    objective, because an adversary's loss cannot be compared between epochs. The means are those of the Bayesian last
    layer, so that their intervals are a posterior's, and the spread is calibrated.

    A row never gets more spread than nearly all training rows have. Draws share z between arms, which makes the CATE
    free of sampling error; it is no claim on the joint law of the outcomes, which block 1 completes with a coupling
    that no data can check. Nothing here removes confounding by what was not measured.

    References
    ----------
    Yoon, Jordon & van der Schaar (2018), GANITE, ICLR, section 4. Shen & Meinshausen (2023), Engression, arXiv
    2307.00835, section 2. Gneiting & Raftery (2007), Strictly proper scoring rules, eq. 21. MacKay (1992), Bayesian
    interpolation.

    Examples
    --------
    >>> from effects import GANITE
    >>> from effects.datasets import make_bimodal
    >>> data = make_bimodal(n_samples=200, random_state=0)
    >>> est = GANITE(epochs=5, n_networks=4, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> est.predict(data.X).shape
    (200,)
    >>> est.predict_outcomes(data.X.head(3)).quantile([0.1, 0.5, 0.9]).shape
    (3, 3, 2)
    """

    _paper = "Yoon et al., ICLR 2018"

    def __init__(
        self,
        *,
        outcome: str = "auto",
        control: Hashable = None,
        objective: str = "energy",
        alpha: float = 1.0,
        beta: float = 1.0,
        generated_weight: float = 0.2,
        n_noise: int | None = None,
        nuisance: Nuisance | None = None,
        n_networks: int | None = None,
        hidden: int = 64,
        n_draws: int = 64,
        epochs: int | None = None,
        lr: float = 8e-3,
        weight_decay: float = 0.1,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.outcome = outcome
        self.control = control
        self.objective = objective
        self.alpha = alpha
        self.beta = beta
        self.generated_weight = generated_weight
        self.n_noise = n_noise
        self.nuisance = nuisance
        self.n_networks = n_networks
        self.hidden = hidden
        self.n_draws = n_draws
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self) -> None:
        super()._check_params()
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {OBJECTIVES}, got {self.objective!r}.")
        for name in ("alpha", "beta", "generated_weight"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < np.inf:
                raise ValueError(f"{name} must be zero or a positive number, got {value!r}.")
        n = self.n_noise
        if n is not None and (not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1):
            raise ValueError(f"n_noise must be a positive whole number or None, got {n!r}.")
        if self.n_networks == 1:
            raise ValueError("n_networks must be at least 2: each network holds out rows for the others' sake.")

    # ------------------------------------------------------------------ fit

    def _fit(self, data: TrainingData) -> dict[str, Any]:
        return {"noise_": None} | super()._fit(data)  # a binary outcome has no noise but its own

    def _fit_ensemble(
        self, data: TrainingData, inputs: Tensor, extra: Tensor, z: Tensor, weight: Tensor, settings: Settings
    ) -> tuple[ConditionalMeans, list[dict[str, Any]]]:
        """Both blocks, and the Bayesian last layer on the features of the second."""
        binary = data.schema.outcome.kind == "binary"
        n, n_arms, arm = len(z), data.schema.n_arms, torch.from_numpy(data.a)
        base = (extra[:, :n_arms] + extra[:, n_arms : 2 * n_arms]) / 2  # the two regressions of every arm
        rows = Rows.make(inputs, base, arm, z, weight, binary).to(settings.device)
        generator = torch.Generator().manual_seed(data.seed)
        completed: Tensor | None = None
        history: list[dict[str, float]] = []
        if self.generated_weight > 0 or self.objective == "adversarial":
            block1 = self._of_block(1, settings, n)
            completer, _, history = fit_counterfactuals(rows, weight, float(self.alpha), generator, block1)
            completed = completions(completer, rows, settings.seed)
        n_networks = self._n_networks(n)
        seen = _seen(MeansConfig(n_networks), inputs.shape[1], extra.shape[1])
        outcomes = OutcomeGenerator(
            n_networks, inputs.shape[1], n_arms, self.hidden, 0 if binary else self._noise_size(), generator, seen
        ).to(settings.device)
        validation = held_out(n_networks, arm, min(_FOLDS, n_networks), generator)
        objectives = self._objectives(outcomes, rows, completed, generator)
        more = train(objectives, weight.expand(n_networks, -1), validation, self._of_block(2, settings, n))
        outcomes = outcomes.to("cpu").requires_grad_(False)
        means = _last_layer(outcomes.network, inputs, extra, arm, z, weight, validation, binary, generator)
        if outcomes.noise is not None:
            assert means.out_of_sample is not None
            held = {field.name: getattr(means.out_of_sample, field.name) for field in fields(OutOfSample)}
            nodes = noise_nodes(self.n_draws, self._noise_size(), data.seed)
            _set_limit(outcomes.network, outcomes.noise, inputs, nodes)
            draws = _held_out_noise(outcomes.network, outcomes.noise, inputs, validation, nodes)
            means = replace(means, out_of_sample=HeldOut(**held, noise=outcomes.noise, draws=draws))
        labelled = [{"block": block, **entry} for block, part in ((1, history), (2, more)) for entry in part]
        return means, labelled

    def _objectives(
        self, outcomes: OutcomeGenerator, rows: Rows, completed: Tensor | None, generator: torch.Generator
    ) -> list[Objective]:
        """Block 2: the generator of outcomes and, if it has one, its adversary; both are judged by held-out CRPS."""
        factual = torch.nn.functional.one_hot(rows.arm, rows.base.shape[1]).to(rows.y.dtype)
        share = factual + self.generated_weight * (1 - factual)

        def score(batch: Tensor, rng: torch.Generator) -> Tensor:
            return (outcomes.energy(rows.inputs[batch], rows.y[batch, None], rng) * factual[batch]).sum(-1)

        if completed is None:
            return [Objective(outcomes, score, self.lr, self.weight_decay)]

        def target(batch: Tensor, rng: torch.Generator) -> Tensor:
            pick = torch.randint(completed.shape[1], (len(batch),), generator=rng, device=batch.device)
            found = completed[:, pick, batch]  # one completion of each row by every generator of block 1
            return found[torch.arange(outcomes.network.n_members, device=batch.device) % len(found)]

        def energy(batch: Tensor, rng: torch.Generator) -> Tensor:
            return (outcomes.energy(rows.inputs[batch], target(batch, rng), rng) * share[batch]).sum(-1)

        if self.objective == "energy":
            return [Objective(outcomes, energy, self.lr, self.weight_decay, score=score)]
        sizes = [rows.inputs.shape[1] + rows.base.shape[1], self.hidden // 2 + 1, self.hidden // 2 + 1, 1]
        adversary = Discriminator(outcomes.network.n_members, sizes, generator).to(rows.y.device)

        def fool(batch: Tensor, rng: torch.Generator) -> Tensor:
            ybar = target(batch, rng)
            supervised, drawn = outcomes.supervised(rows.inputs[batch], ybar, rng)
            belief = adversary(rows.inputs[batch], rows.standardised(drawn, batch)).squeeze(-1)
            return bernoulli_nll(belief, torch.ones_like(belief)) + self.beta * (supervised * share[batch]).sum(-1)

        def tell(batch: Tensor, rng: torch.Generator) -> Tensor:
            with torch.no_grad():
                ybar = target(batch, rng)
                drawn = outcomes.supervised(rows.inputs[batch], ybar, rng)[1]
            real = adversary(rows.inputs[batch], rows.standardised(ybar, batch)).squeeze(-1)
            fake = adversary(rows.inputs[batch], rows.standardised(drawn, batch)).squeeze(-1)
            return bernoulli_nll(real, torch.ones_like(real)) + bernoulli_nll(fake, torch.zeros_like(fake))

        return [
            Objective(outcomes, fool, self.lr, self.weight_decay, score=score),
            Objective(adversary, tell, self.lr, self.weight_decay, n_steps=2),
        ]

    def _fit_residuals(
        self, data: TrainingData, scale: OutcomeScale, z: Array, held: OutOfSample, variance: Array, context: Tensor
    ) -> dict[str, Any]:
        """Calibrate the noise on the rows that its networks had held out."""
        assert isinstance(held, HeldOut)
        rows, mean = np.arange(len(z)), held.mean.numpy()
        own = held.draws.numpy()[:, rows, data.a]
        shrink = _spread_factors(
            z - mean[rows, data.a], own, np.sqrt(variance[rows, data.a]), data, np.random.default_rng(data.seed)
        )
        honest = mean + shrink * held.draws.double().numpy()
        if scale.lowest is not None:
            scale = scale.with_atom(honest[:, rows, data.a], np.average(data.y == scale.lowest, weights=data.weight))
        result = PotentialOutcomes(
            scale.decode(honest)[None].astype(np.float32), data.schema.arms, data.schema.outcome.kind
        )
        return {"noise_": held.noise, "shrink_": shrink, "scale_": scale, "held_out_": result, "history_": []}

    def _of_block(self, block: int, settings: Settings, n: int) -> Settings:
        """A budget of gradient steps, whatever the number of rows; the user's `epochs` bound the first block too."""
        epochs = max(1, round(_STEPS[block - 1] * settings.batch_size / n))
        if self.epochs is not None:
            epochs = min(epochs, self.epochs) if block == 1 else self.epochs
        epochs = min(epochs, 300)
        return replace(settings, epochs=epochs, patience=max(3, epochs // 6), label=f"GANITE block {block}")

    def _noise_size(self) -> int:
        return int(self.n_noise or (1 if self.objective == "energy" else 4))

    # ------------------------------------------------------------------ predict

    def _sample(
        self, inputs: NDArray[np.float32], n_draws: int | None, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], Array | None]:
        if self.noise_ is None:
            return super()._sample(inputs, n_draws, rng)
        tensor, extra = self._tensors(inputs)
        location = self.means_.members(tensor, extra)[0].numpy()
        n_noise = self.noise_.enter.weight.shape[1]  # parameters may have changed since
        nodes = noise_nodes(n_draws or self.n_draws, n_noise, int(rng.integers(2**31 - 1)))
        noise = _noise(self.means_.network, self.noise_, tensor, nodes).numpy()
        noise *= self.shrink_.astype(np.float32)
        # the members of a network follow each other
        each = len(location) // len(noise)
        z = (location[:, None] + noise.repeat(each, axis=0)).astype(np.float32)
        draws = self.scale_.decode(z).astype(np.float32)
        return draws, (location * self.scale_.spread + self.scale_.center) if self._exact_means() else None

    # ------------------------------------------------------------------ save / load

    def _get_state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays, state = super()._get_state()
        if self.noise_ is not None:
            arrays |= {f"noise.{name}": value.numpy() for name, value in self.noise_.state_dict().items()}
            state["n_noise"] = self.noise_.enter.weight.shape[1]
        return arrays, state

    def _set_state(self, arrays: dict[str, NDArray[Any]], state: dict[str, Any], schema: Schema) -> dict[str, Any]:
        fitted = super()._set_state(arrays, state, schema) | {"noise_": None}
        if "n_noise" in state:
            shape = (int(state["n_networks"]), int(state["hidden"]), schema.n_arms, int(state["n_noise"]))
            noise = NoiseNetwork(*shape, torch.Generator())
            noise.load_state_dict({name: torch.from_numpy(value) for name, value in part(arrays, "noise").items()})
            fitted["noise_"] = noise.requires_grad_(False)
        return fitted


# ---------------------------------------------------------------------- losses


def energy_score(draws: Tensor, y: Tensor) -> Tensor:
    r"""Unbiased estimate of the CRPS of a generator from a few of its draws (Gneiting & Raftery 2007, eq. 21).

    .. math:: \frac1m \sum_j |y - g_j| - \frac{1}{2 m (m - 1)} \sum_{j, k} |g_j - g_k|

    Parameters
    ----------
    draws : Tensor of shape (..., m)
        Two or more independent draws.
    y : Tensor of shape (...)
    """
    m = draws.shape[-1]
    apart = (draws[..., :, None] - draws[..., None, :]).abs().sum((-1, -2))
    return (draws - y[..., None]).abs().mean(-1) - apart / (2 * m * (m - 1))


# ---------------------------------------------------------------------- block 2


class NoiseNetwork(nn.Module):
    r"""The noise :math:`\eta_a(x, z)` of every arm, for all members: a small network on the arms' features and z.

    Untrained it is the first number of z: the outcome is then normal around its mean.
    """

    def __init__(self, n_members: int, hidden: int, n_arms: int, n_noise: int, generator: torch.Generator) -> None:
        super().__init__()
        self.context = nn.ModuleList(BatchedLinear(n_members, hidden, _CORE, generator) for _ in range(n_arms))
        self.enter = BatchedLinear(n_members, n_noise, _CORE, generator)
        self.hidden = BatchedLinear(n_members, _CORE, _CORE, generator)
        self.out = BatchedLinear(n_members, _CORE, 1, generator, zero=True)
        self.limit: Tensor
        self.register_buffer("limit", torch.full((n_members, 1, n_arms), torch.inf))

    def forward(self, features: list[Tensor], z: Tensor) -> Tensor:
        """Noise (n_members, n, n_arms, n_draws) from `z` of shape (n, n_draws, n_noise), or (1, ...) for all rows."""
        context = torch.stack([layer(h) for layer, h in zip(self.context, features, strict=True)], 2)
        n_members, n, n_arms, core = context.shape
        entered = self.enter(z.reshape(1, -1, z.shape[2]).expand(n_members, -1, -1))
        entered = entered.view(n_members, len(z), 1, z.shape[1], core)
        h = nn.functional.silu(context[:, :, :, None] + entered).view(n_members, -1, core)
        h = _GAIN * self.out(nn.functional.silu(self.hidden(h)))
        return z[..., 0].view(1, len(z), 1, -1) + h.view(n_members, n, n_arms, -1)


class OutcomeGenerator(nn.Module):
    r"""I(x, z) of block 2: every arm's outcome, :math:`m_a(x) + \sigma_a(x) \eta_a(x, z)`, for all members.

    Without noise (``n_noise=0``) :math:`m_a` are log odds of a binary outcome.
    """

    def __init__(
        self,
        n_members: int,
        n_inputs: int,
        n_arms: int,
        hidden: int,
        n_noise: int,
        generator: torch.Generator,
        seen: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = ArmNetwork(n_members, n_inputs, n_arms, 2, hidden, generator, seen)
        self.noise = NoiseNetwork(n_members, hidden, n_arms, n_noise, generator) if n_noise else None

    def draw(self, x: Tensor, n_draws: int, rng: torch.Generator) -> Tensor:
        """Outcomes (n_members, n, n_arms, n_draws); arms share z. 0/1 draws, straight through, if there is no noise."""
        features = self.network.features(x)
        heads = [head(h) for head, h in zip(self.network.heads, features, strict=True)]
        location, log_sd = torch.stack(heads, 2)[..., None].unbind(-2)
        if self.noise is None:
            shape = (1, len(x), 1, n_draws)
            return straight_through(location, torch.rand(shape, generator=rng, device=x.device))
        size = (len(x), n_draws, self.noise.enter.weight.shape[1])
        z = torch.randn(size, generator=rng, device=x.device)
        return location + log_sd.clamp(-5.0, 3.0).exp() * self.noise(features, z)

    def energy(self, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """Energy score (n_members, n, n_arms) of outcomes `y`, broadcastable to that shape; exact without noise."""
        if self.noise is None:  # |y - p| - p (1 - p) = (y - p)^2 for y in {0, 1}
            return (torch.sigmoid(self.network(x)[..., 0]) - y) ** 2
        draws = self.draw(x, _DRAWS, rng)
        return energy_score(draws, y.expand(draws.shape[:-1]))

    def supervised(self, x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Product of the errors of two draws, (n_members, n, n_arms), and the first draw.

        Its expectation over z is the squared error of the mean alone. The paper's squared error of one draw is least
        where nothing is random, and works against the adversary.
        """
        one, other = self.draw(x, 2, rng).unbind(-1)
        return (y - one) * (y - other), one


@dataclass(frozen=True)
class HeldOut(OutOfSample):
    """Predictions of training rows by the networks that held them out, with their noise.

    Attributes
    ----------
    noise : NoiseNetwork
    draws : Tensor of shape (n_pooled, n, n_arms)
        Centred noise from networks that had held the row out.
    """

    noise: NoiseNetwork
    draws: Tensor


def noise_nodes(n_draws: int, n_noise: int, seed: int) -> Tensor:
    """Equally likely noise (n_draws, n_noise): quantiles in one dimension, else a scrambled Sobol sequence."""
    if n_noise == 1:
        return torch.from_numpy(normal_nodes(n_draws).astype(np.float32))[:, None]
    uniform = torch.quasirandom.SobolEngine(n_noise, scramble=True, seed=seed).draw(n_draws)
    return torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6))


@torch.no_grad()
def _noise(network: ArmNetwork, noise: NoiseNetwork, inputs: Tensor, nodes: Tensor) -> Tensor:
    """Noise (n_members, n_draws, n, n_arms) at `nodes` (n_draws, n_noise), centred: the mean is the last layer's."""
    parts = []
    for rows in inputs.split(512):
        features = network.features(rows)
        heads = [head(h)[..., 1] for head, h in zip(network.heads, features, strict=True)]
        drawn = torch.stack(heads, 2).clamp(-5.0, 3.0).exp()[..., None] * noise(features, nodes[None])
        drawn = drawn - drawn.mean(-1, keepdim=True)
        drawn = drawn * (noise.limit / drawn.std(-1, unbiased=False).clamp_min(1e-12)).clamp_max(1.0)[..., None]
        parts.append(drawn.permute(0, 3, 1, 2))
    return torch.cat(parts, 2)


def _set_limit(network: ArmNetwork, noise: NoiseNetwork, inputs: Tensor, nodes: Tensor) -> None:
    """No row gets more spread than nearly all training rows have: a network's sd, far out, is a guess in an exponent.

    On a logarithmic scale one such row's mean would be astronomic.
    """
    some = inputs[:: max(1, len(inputs) // 5000)]
    sd = _noise(network, noise, some, nodes).std(1, unbiased=False)
    noise.limit.copy_(torch.quantile(sd, 0.99, dim=1, keepdim=True))


def _held_out_noise(
    network: ArmNetwork, noise: NoiseNetwork, inputs: Tensor, validation: Tensor, nodes: Tensor
) -> Tensor:
    """Noise of every row from (at most two of) the networks that held it out, (n_pooled, n, n_arms)."""
    parts = []
    n_pooled = min(2, int(validation.sum(0).min()))
    # the networks that held a row out come first
    chosen = torch.argsort(~validation, dim=0, stable=True)[:n_pooled]
    for rows in torch.arange(len(inputs)).split(2048):
        drawn = _noise(network, noise, inputs[rows], nodes)
        picked = drawn[chosen[:, rows], :, torch.arange(len(rows))]  # n_pooled, rows, n_draws, n_arms
        parts.append(picked.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts, 1)


def _spread_factors(
    residual: Array, noise: NDArray[np.float32], sd: Array, data: TrainingData, rng: np.random.Generator
) -> Array:
    """Per arm the factor of the noise with the least CRPS of held-out outcomes, (n_arms,).

    `sd` is the posterior's own standard deviation of the mean, which members will add to the noise: normal draws of
    it are added here too.
    """
    n_pooled = len(noise)
    error = stats.norm.ppf((rng.permutation(n_pooled) + 0.5) / n_pooled)[:, None] * sd
    ranks = (2 * np.arange(n_pooled) + 1 - n_pooled)[:, None] / n_pooled**2
    factors = np.ones(data.schema.n_arms)
    for k in range(len(factors)):
        own = np.flatnonzero(data.a == k)
        if len(own) < 10:  # too few to say
            continue
        own = rng.permutation(own)[:2000]
        losses = []
        for factor in _FACTORS:
            draws = np.sort(factor * noise[:, own] + error[:, own], axis=0)
            crps = np.abs(draws - residual[own]).mean(axis=0) - (ranks * draws).sum(axis=0)
            losses.append(np.average(crps, weights=data.weight[own]))
        factors[k] = _FACTORS[int(np.argmin(losses))]
    return factors
