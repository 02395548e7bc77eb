"""DiffPO against what is known: the exact velocity of a normal, laws that were simulated, and the paper's pitfalls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import ndtr, ndtri
from sklearn.dummy import DummyClassifier, DummyRegressor

import effects.models.diffusion as diffusion
import effects.models.location_scale as location_scale
from effects import DiffPO, Nuisance
from effects.datasets import make_bimodal, make_skewed, make_zero_inflated
from effects.metrics import wasserstein
from effects.nn.losses import LOSSES, denoising_error, orthogonal_weights
from effects.nn.networks import Denoiser
from effects.nn.scale import normal_nodes
from effects.nn.training import train

QUICK = Nuisance(DummyRegressor(), DummyClassifier(strategy="prior"), n_folds=2)
NODES = normal_nodes(33)
DEFAULT_STEPS = DiffPO().n_steps


def pushed(
    denoiser: Any, nodes: Any = NODES, n_steps: int = DEFAULT_STEPS, n: int = 1, n_inputs: int = 1
) -> np.ndarray:
    """Quantile nodes after the probability-flow sampler, (n_members, n_nodes, n, n_arms)."""
    return diffusion._quantile_nodes(denoiser, torch.zeros(n, n_inputs), np.asarray(nodes), n_steps)


class Exact:
    """The exact velocity F = E[sin(t) y - cos(t) e | w] for y ~ sum_j p_j N(m_j, s_j^2), w = cos(t) y + sin(t) e.

    One component: y and w are jointly normal with var(w) = c^2 s^2 + d^2 (c = cos t, d = sin t) and
    cov(d y - c e, w) = c d (s^2 - 1), so F = d m + c d (s^2 - 1) (w - c m) / var(w). Several: the components' F,
    weighted by the posterior probability of the component given w.
    """

    def __init__(self, mean: Any, sd: Any, share: Any = 1.0) -> None:
        self.mean, self.sd, self.share = (
            torch.as_tensor(v, dtype=torch.float64).reshape(-1) for v in (mean, sd, share)
        )

    def context(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, len(x), 2, 1)

    def __call__(self, w: torch.Tensor, angle: torch.Tensor, _: Any) -> torch.Tensor:
        w64, angle = w.double()[..., None], angle.double()[..., None]
        c, d = angle.cos(), angle.sin()
        variance = c**2 * self.sd**2 + d**2
        density = self.share * torch.exp(-((w64 - c * self.mean) ** 2) / (2 * variance)) / variance.sqrt()
        velocity = d * self.mean + c * d * (self.sd**2 - 1) * (w64 - c * self.mean) / variance
        return ((density * velocity).sum(-1) / density.sum(-1)).to(w.dtype)

    def offset(self, angle: float, _: Any) -> float:
        return angle

    def velocity(self, w: torch.Tensor, offset: float) -> torch.Tensor:
        return self(w, torch.full_like(w, offset), None)

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """Quantiles of y by bisection."""
        p, m, s = self.share.numpy(), self.mean.numpy(), self.sd.numpy()
        low, high = np.full(len(u), -20.0), np.full(len(u), 20.0)
        for _ in range(80):
            middle = (low + high) / 2
            below = (p * ndtr((middle[:, None] - m) / s)).sum(1) < u
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return low


def denoiser_of(seed: int, zero: bool) -> Denoiser:
    """A denoiser as it is before training, or with random output weights."""
    generator = torch.Generator().manual_seed(seed)
    denoiser = Denoiser(2, 3, 2, 16, 32, generator)
    if not zero:
        for value in denoiser.out.parameters():
            value.data = 0.5 * torch.randn(value.shape, generator=generator)
    return denoiser.requires_grad_(False)


# ---- the samplers, against closed forms ------------------------------------------------------------------------------


def test_nodes_are_equally_likely_normal_points() -> None:
    assert_allclose(ndtr(normal_nodes(50)), (np.arange(50) + 0.5) / 50)


def test_an_untrained_denoiser_leaves_the_standard_normal_as_it_is() -> None:
    found = pushed(denoiser_of(0, zero=True), n=3, n_inputs=3)
    assert found.shape == (2, 33, 3, 2)
    assert_array_equal(found, np.broadcast_to(NODES.astype(np.float32)[None, :, None, None], found.shape))
    draws = diffusion._ancestral(denoiser_of(0, zero=True), torch.zeros(2, 3), 500, 50, seed=1)
    assert draws.shape == (2, 500, 2, 2)
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 1.0), (0.4, 0.7), (-0.8, 1.3), (0.0, 0.5), (1.5, 1.0)])
def test_the_exact_velocity_of_a_normal_returns_its_quantiles(mean: float, sd: float) -> None:
    """dw/dt = -F from w(pi/2) = z has the solution w(t) = cos(t) m + sqrt(cos(t)^2 s^2 + sin(t)^2) z."""
    error = np.abs(pushed(Exact(mean, sd))[0, :, 0, 0] - (mean + sd * NODES))
    assert error.mean() < 1e-2 and error.max() < 0.03  # by default: few steps, largest in the tails
    assert_allclose(pushed(Exact(mean, sd), n_steps=24)[0, :, 0, 0], mean + sd * NODES, atol=2e-3)


def test_the_samplers_steps_are_of_third_order() -> None:
    exact = Exact(0.6, 0.4)
    error = [np.abs(pushed(exact, n_steps=n)[0, :, 0, 0] - (0.6 + 0.4 * NODES)).max() for n in (4, 8, 16)]
    assert 6 < error[0] / error[1] < 12 and 6 < error[1] / error[2] < 12


def test_two_peaks_come_out_of_one_normal() -> None:
    """Each quantile goes to the same quantile, also across the gap between the modes."""
    exact = Exact([-1.0, 1.0], [0.25, 0.25], [0.3, 0.7])
    found = pushed(exact, n_steps=60)[0, :, 0, 0]
    assert_allclose(found, exact.quantile(ndtr(NODES)), atol=0.03)
    coarse = pushed(exact)[0, :, 0, 0]
    assert np.abs(coarse - found).mean() < 0.05


@pytest.mark.parametrize("sd", [0.3, 0.5])
@pytest.mark.parametrize("n", [64, 500])
def test_many_quantiles_are_as_true_as_if_each_were_pushed(n: int, sd: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are pushed, the others lie on a curve through them: in order, and hardly farther from the truth.

    On average over where the jump between two modes falls.
    """
    nodes, pushed_at_once = normal_nodes(n), []

    class Counted(Exact):
        def velocity(self, w: torch.Tensor, offset: float) -> torch.Tensor:
            pushed_at_once.append(w.shape[-1])
            return super().velocity(w, offset)

    errors: list[list[float]] = [[], []]
    for share in np.arange(0.2, 0.81, 0.05):
        exact = Counted([-1.0, 1.0], [sd, sd], [share, 1 - share])
        truth = exact.quantile(ndtr(nodes))
        for kind, spacing in enumerate((diffusion._SPACING, 1e-6)):
            with monkeypatch.context() as patch:
                patch.setattr(diffusion, "_SPACING", spacing)
                found = pushed(exact, nodes)[0, :, 0, 0]
            assert (np.diff(found) >= -1e-6).all()
            errors[kind].append(float(np.abs(found - truth).mean()))
    assert min(pushed_at_once) < 0.6 * n and max(pushed_at_once) == n
    assert np.mean(errors[0]) < 1.2 * np.mean(errors[1])


@pytest.mark.parametrize("exact", [Exact(0.5, 0.6), Exact([-1.0, 1.0], [0.3, 0.3], [0.4, 0.6])])
def test_the_ancestral_sampler_draws_from_the_same_law(exact: Exact) -> None:
    draws = diffusion._ancestral(exact, torch.zeros(1, 1), 1500, 100, seed=0).ravel()  # type: ignore[arg-type]
    grid = exact.quantile((np.arange(2000) + 0.5) / 2000)
    assert stats.ks_2samp(draws, grid).pvalue > 1e-3


def test_ancestral_steps_keep_the_mean_however_few() -> None:
    """With the exact estimate each step moves E[w] from cos(t) m to cos(t') m."""
    exact: Any = Exact(1.5, 0.6)
    for n_steps in (1, 3, 8):
        draws = diffusion._ancestral(exact, torch.zeros(1, 1), 4000, n_steps, seed=0)
        assert_allclose(draws.mean(), 1.5, atol=0.05)


def test_a_shared_angle_is_an_angle() -> None:
    """The sampler embeds the angle once for all values: the velocity is that of the network which was trained."""
    denoiser = denoiser_of(0, zero=False)
    context = denoiser.context(torch.randn(4, 3))
    n_members, n, n_arms, _ = context.shape
    context, w = context.flatten(1, 2), torch.randn(n_members, n * n_arms, 6)
    for angle in (0.0, 0.3, 1.5):
        value = denoiser(w, torch.full_like(w, angle), context[:, :, None])
        assert_allclose(denoiser.velocity(w, denoiser.offset(angle, context)), value, atol=1e-5)
        flat = denoiser(w.flatten(1), torch.full_like(w, angle).flatten(1), context.repeat_interleave(6, 1))
        assert_allclose(flat, value.flatten(1), atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_flow_rises_with_the_node(seed: int) -> None:
    """Whatever the network: in one dimension paths of an ODE cannot cross. Each node alone, so that none is sorted."""
    denoiser, nodes = denoiser_of(seed, zero=False), np.linspace(-3, 3, 25)
    alone = np.stack([pushed(denoiser, [z], n_steps=24, n_inputs=3)[:, 0] for z in nodes], axis=1)
    assert (np.diff(alone, axis=1) > 0).all()
    assert np.abs(alone[:, :, 0, 0] - nodes).max() > 0.1  # it moved
    assert_allclose(alone, pushed(denoiser, nodes, n_steps=24, n_inputs=3), atol=1e-5)


def test_the_exact_velocity_has_the_least_loss() -> None:
    """E[(F - target) h(w, t)] = 0 for every h: the loss that trains the network fits the ODE that samples from it."""
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    y = 0.5 + 0.6 * torch.randn((1, n), generator=generator)
    noise, angle = torch.randn((1, n), generator=generator), torch.rand((1, n), generator=generator) * np.pi / 2
    w = angle.cos() * y + angle.sin() * noise
    velocity = Exact(0.5, 0.6)(w, angle, None)
    least = denoising_error(velocity, y, noise, angle)
    assert least.shape == (1, n)
    for wrong in (0.1 * torch.ones_like(w), 0.1 * w, 0.1 * angle * w, 0.1 * torch.sin(3 * w)):
        assert denoising_error(velocity + wrong, y, noise, angle).mean() > least.mean() + 0.3 * (wrong**2).mean()
        assert denoising_error(velocity - wrong, y, noise, angle).mean() > least.mean() + 0.3 * (wrong**2).mean()


# ---- losses and weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_orthogonal_weights_average_to_each_arms_risk(loss: str) -> None:
    """Over the assignment A ~ propensity: ipw and gdr give every unit weight one in every arm's observed risk; ra and
    gdr count each unit once in all, observed or generated."""
    propensity = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
    each = [orthogonal_weights(loss, torch.full((2,), arm), propensity) for arm in range(3)]
    observed = sum(propensity[:, [arm]] * w for arm, (w, _) in enumerate(each))
    generated = sum(propensity[:, [arm]] * v for arm, (_, v) in enumerate(each))
    one = torch.ones_like(propensity)
    expected = {"plugin": (propensity, 0 * one), "ipw": (one, 0 * one), "ra": (propensity, 1 - propensity)}
    for found, wanted in zip((observed, generated), expected.get(loss, (one, 0 * one)), strict=True):
        assert_allclose(found, wanted, atol=1e-12)
    for arm, (w, _) in enumerate(each):
        assert w.shape == (2, 3)
        assert (torch.cat([w[:, :arm], w[:, arm + 1 :]], 1) == 0).all()  # nobody's unobserved outcome is "observed"


def toy(n: int = 128, seed: int = 0, lean: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two peaks at x - 2 and x + 2, one higher in the second arm; with `lean`, x shifts weight between them."""
    rng = np.random.default_rng(seed)
    x, a = rng.uniform(-1, 1, n), np.arange(n) % 2
    peak = np.where(rng.random(n) < 0.5 + lean * x, 2.0, -2.0)
    return x[:, None], x + peak + a + 0.4 * rng.standard_normal(n), a


def toy_quantiles(x: np.ndarray, arm: int, u: np.ndarray) -> np.ndarray:
    """True quantiles of the toy that does not lean, (len(u), n)."""
    return Exact([-2.0, 2.0], [0.4, 0.4], [0.5, 0.5]).quantile(u)[:, None] + x + arm


@pytest.fixture(scope="module")
def by_loss() -> dict[str, np.ndarray]:
    """Draws under every loss, with known propensities that vary."""
    X, y, a = toy(lean=0.4)
    share = 0.2 + 0.6 * np.random.default_rng(1).random(len(y))
    fits = {loss: small(loss=loss, epochs=60, nuisance=QUICK) for loss in LOSSES}
    return {k: est.fit(X, y, treatment=a, propensity=share).predict_outcomes(X[:40]).draws for k, est in fits.items()}


@pytest.mark.parametrize(("one", "other"), [(a, b) for a in LOSSES for b in LOSSES if a < b])
def test_the_four_losses_train_four_models(by_loss: dict[str, np.ndarray], one: str, other: str) -> None:
    assert np.isfinite(by_loss[one]).all()
    assert np.abs(by_loss[one] - by_loss[other]).mean() > 1e-6


Spied = list[tuple[int, torch.Tensor]]


def spy_on_losses(patch: pytest.MonkeyPatch) -> Spied:
    """Of each training, before its first step: the number of members, and the objective's loss of the first 50 rows."""
    spied: Spied = []

    def spy(original: Callable[..., Any]) -> Callable[..., Any]:
        def asked_first(objectives: Any, weight: torch.Tensor, *args: Any) -> Any:
            with torch.no_grad():
                for objective in objectives:
                    value = objective.loss(torch.arange(50), torch.Generator().manual_seed(0))
                    spied.append((len(weight), value.clone()))
            return original(objectives, weight, *args)

        return asked_first

    for module in ("effects.models.diffusion", "effects.nn.means"):
        patch.setattr(f"{module}.train", spy(train))
    return spied


@pytest.mark.parametrize("n_arms", [2, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_stay_one_value_per_member_and_row(loss: str, n_arms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is trained: the loop, not the loss, takes the mean. A (B, 1, 1) weight would show as (K, B, B)."""
    spied = spy_on_losses(monkeypatch)
    rng = np.random.default_rng(0)
    x, a = rng.standard_normal((60, 2)), np.arange(60) % n_arms
    small(loss=loss, epochs=1, n_networks=3, nuisance=QUICK).fit(x, x[:, 0] + a + rng.random(60), treatment=a)
    assert {members for members, _ in spied} == {2, 3}  # denoisers, networks
    assert all(value.shape == (members, 50) for members, value in spied)


@pytest.mark.parametrize("loss", ["plugin", "gdr"])
def test_a_rows_weight_multiplies_its_own_loss_and_nothing_else(loss: str) -> None:
    """Observed and generated outcomes' weights: the published code multiplies (B, 1, 1) weights with (B, 2) losses, and
    they cancel."""
    X, y, a = toy()
    factor = torch.where(torch.from_numpy(y) > 0, 8.0, 0.5)
    draws, losses = [], []
    for c in (torch.ones(len(y)), factor):

        def weighted(stage: str, arm: Any, propensity: Any, c: torch.Tensor = c) -> tuple[torch.Tensor, torch.Tensor]:
            weights = orthogonal_weights(stage, arm, propensity)
            if stage != loss:  # the generator of unobserved outcomes stays the same
                return weights
            return weights[0] * c[:, None].to(weights[0].dtype), weights[1] * c[:, None].to(weights[1].dtype)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("effects.models.diffusion.orthogonal_weights", weighted)
            spied = spy_on_losses(patch)
            est = small(loss=loss, epochs=60, nuisance=QUICK).fit(X, y, treatment=a)
        losses.append(spied[-1][1])
        draws.append(est.predict_outcomes(X[:40]).draws)
    assert_allclose(losses[1], losses[0] * factor[:50], rtol=1e-5)
    assert np.abs(draws[0] - draws[1]).mean() > 0.01


@pytest.mark.parametrize("loss", ["ipw", "gdr"])
def test_propensities_matter(loss: str) -> None:
    X, y, a = toy()
    fits = [small(loss=loss, epochs=60, nuisance=QUICK) for _ in range(2)]
    shares = np.random.default_rng(1).uniform(0.1, 0.9, (2, len(y)))
    draws = [
        e.fit(X, y, treatment=a, propensity=p).predict_outcomes(X[:40]).draws for e, p in zip(fits, shares, strict=True)
    ]
    assert np.abs(draws[0] - draws[1]).mean() > 0.01


def test_equal_known_propensities_make_ipw_the_plugin() -> None:
    X, y, a = toy()
    half = np.full(len(y), 0.5)
    both = [
        small(loss=loss, epochs=40, nuisance=QUICK).fit(X, y, treatment=a, propensity=half)
        for loss in ("plugin", "ipw")
    ]
    assert_allclose(both[0].predict(X), both[1].predict(X), atol=1e-6)
    # a constant factor in the loss: AdamW takes the same steps, up to its epsilon
    plugin, ipw = (est.predict_outcomes(X).draws for est in both)
    assert np.abs(plugin - ipw).mean() < 0.01 * y.std()


# ---- a fitted model against the truth --------------------------------------------------------------------------------


def decent(**options: Any) -> DiffPO:
    """Large enough to learn, small enough for a test."""
    return small(**{"n_networks": 8, "hidden": 32, "epochs": 100, **options})


@pytest.fixture(scope="module")
def bimodal() -> tuple[DiffPO, np.ndarray, np.ndarray]:
    X, y, a = toy(500)
    return decent().fit(X, y, treatment=a), X, y


def test_both_samplers_agree_on_a_fitted_model(
    bimodal: tuple[DiffPO, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ODE and the stochastic sampler have the same marginals, unit by unit (Song et al. 2021, section 4.3)."""
    est, X, _ = bimodal
    quantile_nodes, seen = diffusion._quantile_nodes, []

    def spy(denoiser: Any, context: Any, *args: Any) -> Any:
        seen.append((denoiser, context))
        return quantile_nodes(denoiser, context, *args)

    monkeypatch.setattr(diffusion, "_quantile_nodes", spy)
    est.predict_outcomes(X[:3])
    denoiser, context = seen[-1]
    smooth = quantile_nodes(denoiser, context, normal_nodes(400), 40)
    default = quantile_nodes(denoiser, context, normal_nodes(400), DEFAULT_STEPS)
    random = diffusion._ancestral(denoiser, context, 400, 100, seed=1)
    assert random.shape == smooth.shape
    assert np.abs(default - smooth).mean() < 0.03  # few steps are enough
    for member, row, arm in np.ndindex(2, 3, 2):
        law, drawn = smooth[member, :, row, arm], random[member, :, row, arm]
        assert stats.ks_2samp(law, drawn).pvalue > 1e-3, (member, row, arm)


def test_the_ancestral_sampler_is_random_and_seeded(bimodal: tuple[DiffPO, Any, Any]) -> None:
    est, X, y = bimodal
    quantiles = est.predict_outcomes(X[:3], n_draws=200)
    try:
        est.set_params(sampler="ancestral")
        one, again, other = (est.predict_outcomes(X[:3], n_draws=200, random_state=seed) for seed in (1, 1, 2))
    finally:
        est.set_params(sampler="quantile")
    assert_array_equal(one.draws, again.draws)
    assert np.abs(one.draws - other.draws).mean() > 0.1 * y.std()
    assert wasserstein(one, quantiles).max() < 0.15 * y.std()
    assert_allclose(one.mean(), quantiles.mean(), atol=1e-6)  # the means need no draws


def test_the_fitted_flow_rises_with_the_node(bimodal: tuple[DiffPO, Any, Any]) -> None:
    est, X, _ = bimodal
    draws = est.predict_outcomes(X[:20], n_draws=101).draws
    assert (np.diff(draws, axis=1) >= 0).all()


def test_two_peaks_are_learned(bimodal: tuple[DiffPO, Any, Any]) -> None:
    """The Wasserstein distance to the true law is far below that of the best normal, which is given the truth."""
    est, _, _ = bimodal
    x, u = np.linspace(-0.8, 0.8, 9), (np.arange(200) + 0.5) / 200
    outcomes = est.predict_outcomes(x[:, None])
    law = toy_quantiles(np.zeros(1), 0, u)[:, 0]
    best_normal = min(np.abs(scale * ndtri(u) - law).mean() for scale in np.linspace(0.5, 3, 51))
    for arm in (0, 1):
        ours = np.abs(outcomes.quantile(u)[:, :, arm] - toy_quantiles(x, arm, u)).mean()
        assert ours < 0.6 * best_normal
        # little between the peaks, where a normal of the same moments has 0.38; one half on either side
        low, high = (outcomes.cdf(np.stack([x + side, x + 1 + side], 1))[:, arm] for side in (-1.0, 1.0))
        assert (high - low).mean() < 0.15
        assert_allclose(low.mean(), 0.5, atol=0.12)


def test_laws_of_new_patients_are_nearer_than_a_normal_that_knows_mean_and_sd() -> None:
    """Depression scores with responders, whose share depends on x: learned from 500 patients, for 60 others."""
    train, test = (make_bimodal(n_samples=n, random_state=seed) for n, seed in ((500, 0), (60, 1)))
    assert test.truth is not None
    u = (np.arange(100) + 0.5) / 100
    truth = test.truth.quantile(u)
    normal = test.truth.mean() + test.truth.std() * ndtri(u)[:, None, None]
    est = decent().fit(train.X, train.y, treatment=train.treatment)
    ours = wasserstein(est.predict_outcomes(test.X).quantile(u), truth).mean()
    assert ours < 0.95 * wasserstein(normal, truth).mean()


@pytest.fixture(scope="module")
def linear() -> tuple[DiffPO, np.ndarray, np.ndarray, float]:
    """Y(a) = 1 + 2 x1 - x2 + a (1 + x1) + N(0, 0.8^2), treatment confounded with x1."""
    rng = np.random.default_rng(7)
    X = rng.standard_normal((900, 3))
    mu = 1 + 2 * X[:, 0] - X[:, 1] + np.stack([0 * X[:, 0], 1 + X[:, 0]])
    a = (rng.random(900) < 1 / (1 + np.exp(-X[:, 0]))).astype(int)
    y = mu[a, np.arange(900)] + 0.8 * rng.standard_normal(900)
    est = decent().fit(X[:500], y[:500], treatment=a[:500])
    return est, X[500:], mu[:, 500:].T, 0.8


def test_means_and_effects_are_near_the_truth(linear: tuple[DiffPO, Any, Any, float]) -> None:
    est, X, mu, sd = linear
    error = np.sqrt(((est.predict_outcomes(X).mean() - mu) ** 2).mean(0))
    assert (error < 0.5 * sd).all() and (error < 0.2 * mu.std(0)).all()
    cate = mu[:, 1] - mu[:, 0]
    assert np.sqrt(np.mean((est.predict(X) - cate) ** 2)) < 0.4 * cate.std()


def test_prediction_intervals_cover_as_they_say(linear: tuple[DiffPO, Any, Any, float]) -> None:
    """Fresh outcomes of both arms from the known law, so that confounding and luck of one draw play no part."""
    est, X, mu, sd = linear
    outcomes = est.predict_outcomes(X)
    for level, slack in ((0.5, 0.09), (0.9, 0.05)):
        lower, upper = outcomes.interval(level)
        covered = ndtr((upper - mu) / sd) - ndtr((lower - mu) / sd)
        assert_allclose(covered.mean(0), level, atol=slack)
    assert_allclose(outcomes.std().mean(0), sd, rtol=0.2)


def test_effect_intervals_are_wider_where_data_are_few(linear: tuple[DiffPO, Any, Any, float]) -> None:
    est, X, mu, _ = linear
    effect = est.predict_effect(X)
    lower, upper = effect.interval(0.9)
    cate = mu[:, 1] - mu[:, 0]
    assert ((lower <= cate) & (cate <= upper)).mean() > 0.6
    far = est.predict_effect(X * 3)
    assert far.std.mean() > 1.5 * effect.std.mean()


# ---- scales and kinds ------------------------------------------------------------------------------------------------


def test_skewed_outcomes_are_modelled_as_logarithms() -> None:
    data = make_skewed(n_samples=250, random_state=0)
    est = small(epochs=40).fit(data.X, data.y, treatment=data.treatment)
    assert est.scale_.log
    outcomes = est.predict_outcomes(data.X)
    assert outcomes.draws.min() > 0
    # the mean is above the median in every unit and arm, as for a log-normal
    assert (outcomes.mean() > outcomes.quantile(0.5)).mean() > 0.95


def test_symmetric_outcomes_are_modelled_as_they_are() -> None:
    rng = np.random.default_rng(0)
    x, a = rng.standard_normal((200, 2)), np.arange(200) % 2
    for shift in (0.0, 120.0):
        y = shift + 5 * x[:, 0] + a + 3 * rng.standard_normal(200)
        est = small(nuisance=QUICK).fit(x, y, treatment=a)
        assert not est.scale_.log
    assert (small(nuisance=QUICK).fit(x, y - 120, treatment=a).predict_outcomes(x).draws < 0).any()


def test_the_answer_does_not_depend_on_the_unit_of_the_outcome() -> None:
    """Pounds for kilograms, Fahrenheit for Celsius: predictions change with the unit, and by nothing else."""
    rng = np.random.default_rng(0)
    x, a = rng.standard_normal((120, 2)), np.arange(120) % 2
    y = x[:, 0] + a + rng.standard_normal(120)
    one = small(nuisance=QUICK).fit(x, y, treatment=a)
    other = small(nuisance=QUICK).fit(x, 32 + 1.8 * y, treatment=a)
    assert_allclose(other.predict(x), 1.8 * one.predict(x), atol=2e-3)
    expected = 32 + 1.8 * one.predict_outcomes(x).draws
    assert np.abs(other.predict_outcomes(x).draws - expected).mean() < 5e-3


def test_a_point_mass_is_drawn_exactly() -> None:
    data = make_zero_inflated(n_samples=300, random_state=0)
    est = small(epochs=40).fit(data.X, data.y, treatment=data.treatment)
    outcomes = est.predict_outcomes(data.X)
    assert outcomes.draws.min() == 0
    atom = (outcomes.draws == 0).mean(axis=(0, 1))
    assert_allclose(atom, outcomes.cdf(0.0), atol=1e-12)
    assert data.truth is not None
    truth = data.truth.cdf(0.0)
    assert_allclose(atom.mean(0), truth.mean(0), atol=0.15)
    assert np.corrcoef(atom[:, 0], truth[:, 0])[0, 1] > 0.3
    # nothing between no costs and the smallest stay
    assert not ((outcomes.draws > 0) & (outcomes.draws < 0.4 * data.y[data.y > 0].min())).any()


def test_held_out_laws_do_not_depend_on_the_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_zero_inflated(n_samples=200, random_state=0)
    whole = small(nuisance=QUICK).fit(data.X, data.y, treatment=data.treatment)
    monkeypatch.setattr(location_scale, "_ROWS", 13)
    parts = small(nuisance=QUICK).fit(data.X, data.y, treatment=data.treatment)
    assert (whole.held_out_.draws == 0).any()
    assert_allclose(parts.held_out_.draws, whole.held_out_.draws, rtol=1e-6)


def test_counts_are_counts() -> None:
    rng = np.random.default_rng(0)
    x, a = rng.standard_normal((250, 2)), np.arange(250) % 2
    rate = np.exp(0.5 + 0.4 * x[:, :1] + np.array([0.0, 0.4]))
    y = rng.poisson(rate[np.arange(250), a])
    est = small(epochs=40).fit(x, y, treatment=a)
    assert est.schema_.outcome.kind == "count"
    outcomes = est.predict_outcomes(x)
    assert_array_equal(outcomes.draws, np.floor(outcomes.draws))
    assert outcomes.draws.min() == 0
    assert_allclose(outcomes.mean().mean(0), rate.mean(0), rtol=0.15)
    predicted = np.array([outcomes.cdf(k).mean(0) for k in range(5)])
    assert_allclose(predicted, [stats.poisson.cdf(k, rate).mean(0) for k in range(5)], atol=0.07)


def test_events_have_probabilities_near_the_truth() -> None:
    rng = np.random.default_rng(0)
    x, a = rng.standard_normal((300, 2)), np.arange(300) % 2
    p = 1 / (1 + np.exp(-(1.5 * x[:, :1] + np.array([-0.5, 0.5]))))
    y = rng.random(300) < p[np.arange(300), a]
    est = small(epochs=40).fit(x, y, treatment=a)
    found = est.predict_outcomes(x).mean()
    marginal = np.abs(p - y.mean()).mean()
    assert np.abs(found - p).mean() < 0.5 * marginal
    assert_allclose(est.predict(x), found[:, 1] - found[:, 0], atol=1e-6)
