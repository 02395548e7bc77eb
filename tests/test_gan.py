"""GANITE against what is known: closed-form scores, discriminators that can and cannot tell, simulated laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.dummy import DummyClassifier, DummyRegressor
from torch import Tensor, nn

import effects
from effects import GANITE, Nuisance
from effects.datasets import make_binary
from effects.metrics import wasserstein
from effects.models import gan
from effects.models.gan import NoiseNetwork, OutcomeGenerator
from effects.nn import completion
from effects.nn.completion import CounterfactualGenerator, Discriminator, Rows
from effects.nn.training import Objective, Settings, train

PLAIN = Nuisance(DummyRegressor(), DummyClassifier(strategy="prior"), n_folds=2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(**options: Any) -> GANITE:
    est = quick("GANITE", **options)
    assert isinstance(est, GANITE)
    return est


# ---- losses, against closed forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [2, 3, 5])
def test_the_energy_score_is_the_crps_whatever_the_number_of_draws(m: int) -> None:
    """CRPS of N(0, 1) at y: y (2 F(y) - 1) + 2 f(y) - 1 / sqrt(pi) (Gneiting & Raftery 2007, section 4.2)."""
    y = torch.tensor([-2.0, 0.0, 0.7])
    draws = torch.randn((60_000, 3, m), generator=seeded(), dtype=torch.float64)
    law = stats.norm()
    exact = y.numpy() * (2 * law.cdf(y) - 1) + 2 * law.pdf(y) - np.pi**-0.5
    assert_allclose(gan.energy_score(draws, y.double().expand(60_000, 3)).mean(0), exact, atol=0.02)


def test_the_energy_score_is_least_at_the_true_law() -> None:
    generator = seeded()
    y = torch.randn(100_000, generator=generator)
    z = torch.randn((100_000, 2), generator=generator)
    scores = {(m, s): float(gan.energy_score(m + s * z, y).mean()) for m in (-0.3, 0.0, 0.3) for s in (0.5, 1.0, 1.5)}
    assert min(scores, key=lambda key: scores[key]) == (0.0, 1.0)


def test_draws_of_events_have_the_gradient_of_their_probability() -> None:
    logit = torch.tensor([-1.0, 0.3, 2.0], requires_grad=True)
    drawn = completion.straight_through(logit, torch.tensor([0.9, 0.1, 0.5]))
    assert_allclose(drawn.detach(), [0.0, 1.0, 1.0], atol=1e-7)
    drawn.sum().backward()
    p = torch.sigmoid(logit.detach())
    assert logit.grad is not None
    assert_allclose(logit.grad, p * (1 - p), rtol=1e-6)


def outcome_generator(n_noise: int, n_arms: int = 2, seed: int = 0) -> OutcomeGenerator:
    """One that is far from its start: random output weights."""
    found = OutcomeGenerator(3, 4, n_arms, 8, n_noise, seeded(seed))
    if found.noise is not None:
        for value in found.noise.out.parameters():
            value.data = 0.5 * torch.randn(value.shape, generator=seeded(seed + 1))
    return found.requires_grad_(False)


def test_the_energy_of_an_event_is_its_brier_score() -> None:
    generator, x = outcome_generator(0), torch.randn((50, 4), generator=seeded(5))
    y = (torch.rand((50, 1), generator=seeded(6)) < 0.5).float()
    p = torch.sigmoid(generator.network(x)[..., 0])
    drawn = generator.draw(x, 4000, seeded(7))
    assert np.isin(drawn, (0.0, 1.0)).all()
    assert_allclose(drawn.mean(-1), p, atol=0.05)
    assert_allclose(generator.energy(x, y, seeded()), (y - p) ** 2, atol=1e-6)
    of_draws = (drawn - y[..., None]).abs().mean(-1) - p * (1 - p)
    assert_allclose(generator.energy(x, y, seeded()), of_draws, atol=0.05)


def test_the_supervised_term_is_the_error_of_the_mean_alone() -> None:
    """Noise costs nothing on average: E (y - I(z)) (y - I(z')) = (y - E I)^2."""
    generator, x, y = outcome_generator(2), torch.randn((4, 4), generator=seeded(5)), torch.tensor([[1.5]])
    copies = x.repeat(20_000, 1)
    product, first = generator.supervised(copies, y, seeded())
    mean = first.view(3, 20_000, 4, 2).mean(1)
    assert first.view(3, 20_000, 4, 2).std(1).min() > 0.1
    assert_allclose(product.view(3, 20_000, 4, 2).mean(1), (y - mean) ** 2, atol=0.05, rtol=0.03)


# ---- block 1 ---------------------------------------------------------------------------------------------------------


def table(n: int = 320, n_arms: int = 2, step: float = 2.0, binary: bool = False, seed: int = 0) -> Rows:
    """A randomised trial: y = x + step * arm + noise. The regressions know x but nothing of the arms."""
    rng = np.random.default_rng(seed)
    x, a = rng.standard_normal((n, 2)), rng.permutation(np.arange(n) % n_arms)
    mean = x[:, 0] + step * a
    y = (rng.random(n) < 1 / (1 + np.exp(-mean))) if binary else mean + 0.5 * rng.standard_normal(n)
    columns = [torch.from_numpy(np.asarray(v, dtype=np.float32)) for v in (x, np.tile(x[:, :1], n_arms), y)]
    inputs, base, outcome = columns
    return Rows.make(inputs, base, torch.from_numpy(a), outcome, torch.ones(n), binary)


def fit_block1(rows: Rows, alpha: float, epochs: int = 70) -> tuple[CounterfactualGenerator, Discriminator, Any]:
    settings = Settings(epochs=epochs, batch_size=64)
    return completion.fit_counterfactuals(rows, torch.ones(len(rows.y)), alpha, seeded(), settings)


def everyone(rows: Rows) -> Tensor:
    return torch.arange(len(rows.y))


def surprise(discriminator: Discriminator, completer: CounterfactualGenerator, rows: Rows) -> float:
    """Cross-entropy of the arms under D, on completed rows."""
    ybar = completer.complete(rows, everyone(rows), seeded(9))[1]
    logits = discriminator(rows.inputs, rows.standardised(ybar, everyone(rows)))
    log_p = torch.log_softmax(logits, -1)
    return -float(log_p[:, everyone(rows), rows.arm].mean())


@pytest.fixture(scope="module")
def trial() -> Rows:
    return table()


@pytest.fixture(scope="module")
def fooling(trial: Rows) -> Any:
    return fit_block1(trial, alpha=1.0)


@pytest.fixture(scope="module")
def indifferent(trial: Rows) -> Any:
    return fit_block1(trial, alpha=0.0)


def test_untrained_completions_are_normal_around_the_regressions() -> None:
    rows = table(n=4000)
    completer = CounterfactualGenerator(2, 2, 2, seeded())
    found = completer(rows, everyone(rows), seeded()).detach()
    own = rows.is_own(everyone(rows)).bool()
    error = (found - rows.base) / rows.sd
    assert_allclose(error[:, own], 0, atol=1e-6)
    assert stats.kstest(error[:, ~own].flatten(), "norm").pvalue > 1e-3


def test_the_factual_loss_reproduces_what_was_observed(trial: Rows, fooling: Any) -> None:
    """Before training the error is that of the regressions, 1 residual sd; afterwards next to nothing."""
    untrained = CounterfactualGenerator(4, 2, 2, seeded())
    errors = []
    for completer in (untrained, fooling[0]):
        found = completer(trial, everyone(trial), seeded()).detach()
        own = found.gather(2, trial.arm.view(1, -1, 1).expand(4, -1, 1)).squeeze(2)
        errors.append(float((((own - trial.y) / trial.sd[trial.arm]) ** 2).mean().sqrt()))
    assert errors[0] > 0.8 and errors[1] < 0.4


def test_completed_rows_hold_what_was_observed(trial: Rows, fooling: Any) -> None:
    filled = completion.completions(fooling[0], trial, seed=3)
    assert filled.shape == (4, 8, len(trial.y), 2)
    own = trial.arm.view(1, 1, -1, 1).expand(4, 8, -1, 1)
    assert_array_equal(filled.gather(3, own).squeeze(3), trial.y.expand(4, 8, -1))
    other = filled.gather(3, 1 - own)
    assert other.std(1).median() > 0.1 * trial.sd.min()  # z matters


def test_the_adversary_teaches_the_effect(trial: Rows, fooling: Any, indifferent: Any) -> None:
    """The regressions do not know that arm 1 adds 2: only D can tell G. Without it (alpha = 0) nothing does."""
    errors = []
    for completer, _, _ in (fooling, indifferent):
        filled = completion.completions(completer, trial, seed=3).mean((0, 1))
        errors.append(abs(float((filled[:, 1] - filled[:, 0]).mean()) - 2.0))
    assert errors[0] < 0.5 < 0.8 < errors[1]


def test_the_discriminator_is_near_chance_in_a_trial(trial: Rows, fooling: Any, indifferent: Any) -> None:
    """Cross-entropy log 2 is chance. Completions that miss the effect give the arm away."""
    fooled, told = (surprise(d, g, trial) for g, d, _ in (fooling, indifferent))
    assert fooled > 0.8 * np.log(2) and told < 0.6 * np.log(2)


@pytest.mark.slow
def test_three_arms_are_guessed_among_three() -> None:
    rows = table(n_arms=3, step=1.0)
    completer, discriminator, history = fit_block1(rows, alpha=1.0)
    assert discriminator(rows.inputs, completer.complete(rows, everyone(rows), seeded())[1]).shape == (4, 320, 3)
    assert 0.65 * np.log(3) < surprise(discriminator, completer, rows) < 1.15 * np.log(3)
    assert len(history) == 70


def test_events_are_completed_by_events() -> None:
    rows = table(binary=True)
    completer, _, _ = fit_block1(rows, alpha=1.0, epochs=40)
    filled = completion.completions(completer, rows, seed=0)
    assert np.isin(filled, (0.0, 1.0)).all() and 0 < filled.mean() < 1
    logits = completer(rows, everyone(rows), seeded())
    own = logits.gather(2, rows.arm.view(1, -1, 1).expand(4, -1, 1)).squeeze(2)
    assert (((own > 0) == (rows.y > 0.5)).float().mean()) > 0.95


def test_an_arm_of_two_rows_borrows_the_others_spread() -> None:
    arm = torch.tensor([0] * 50 + [1] * 2)
    y = torch.cat([torch.randn(50, generator=seeded()), torch.zeros(2)])
    rows = Rows.make(torch.zeros(52, 1), torch.zeros(52, 2), arm, y, torch.ones(52))
    assert 0.5 < rows.sd[1] < 1.2
    heavy = Rows.make(torch.zeros(52, 1), torch.zeros(52, 2), arm, y, torch.where(y.abs() > 1, 5.0, 1.0))
    assert heavy.sd[0] > 1.2 * rows.sd[0]


# ---- block 2 ---------------------------------------------------------------------------------------------------------


def test_untrained_noise_is_the_first_number_of_z_in_every_arm() -> None:
    noise, features = NoiseNetwork(2, 8, 3, 2, seeded()), [torch.randn((2, 5, 8), generator=seeded())] * 3
    z = torch.randn((5, 7, 2), generator=seeded(1))
    assert_allclose(noise(features, z).detach(), z[:, :, 0].view(1, 5, 1, 7).expand(2, 5, 3, 7))


def test_noise_follows_z_and_the_row() -> None:
    generator, x = outcome_generator(1), torch.randn((6, 4), generator=seeded(3))
    assert generator.noise is not None
    features, nodes = generator.network.features(x), torch.linspace(-2, 2, 9)[None, :, None]
    shared = generator.noise(features, nodes)
    each = generator.noise(features, nodes.expand(6, -1, -1))
    assert_allclose(shared, each, atol=1e-5)
    assert shared.std(-1).min() > 0.1 and shared.std(1).min() > 1e-4  # of z, and of x
    centred = gan._noise(generator.network, generator.noise, x, nodes[0])
    assert centred.shape == (3, 9, 6, 2)
    assert_allclose(centred.mean(1), 0, atol=1e-5)


def test_held_out_noise_is_that_of_the_networks_that_held_the_row_out() -> None:
    generator, x = outcome_generator(1), torch.randn((6, 4), generator=seeded(3))
    assert generator.noise is not None
    nodes, held = torch.linspace(-2, 2, 5)[:, None], torch.arange(6)[None, :] % 3 == torch.arange(3)[:, None]
    found = gan._held_out_noise(generator.network, generator.noise, x, held, nodes)
    everything = gan._noise(generator.network, generator.noise, x, nodes)
    for row in range(6):
        assert_allclose(found[:, row], everything[row % 3, :, row], atol=1e-6)


@pytest.mark.parametrize("truth", [0.5, 1.6])
def test_the_spread_is_calibrated_on_held_out_residuals(truth: float) -> None:
    rng = np.random.default_rng(0)
    n, nodes = 1500, stats.norm.ppf((np.arange(40) + 0.5) / 40)
    noise = np.repeat(nodes[:, None], n, axis=1).astype(np.float32)
    data: Any = type("Data", (), {"a": np.arange(n) % 2, "weight": np.ones(n)})()
    data.schema = type("Schema", (), {"n_arms": 2})()
    residual = truth * rng.standard_normal(n)
    assert_allclose(gan._spread_factors(residual, noise, np.zeros(n), data, rng), truth, rtol=0.1)
    # what the members' own disagreement explains is not counted twice
    carried = gan._spread_factors(residual, noise, np.full(n, 0.6 * truth), data, rng)
    assert_allclose(carried, 0.8 * truth, rtol=0.12)
    # rows count by their weight
    residual[::3] *= 2
    data.weight = np.where(np.arange(n) % 3 == 0, 1e-6, 1.0)
    assert_allclose(gan._spread_factors(residual, noise, np.zeros(n), data, rng), truth, rtol=0.1)


def test_noise_nodes_are_equally_likely_and_seeded() -> None:
    assert_allclose(stats.norm.cdf(gan.noise_nodes(50, 1, 0)[:, 0]), (np.arange(50) + 0.5) / 50, atol=1e-6)
    nodes = gan.noise_nodes(64, 4, 7)
    assert nodes.shape == (64, 4) and gan.noise_nodes(5, 4, 7).shape == (5, 4)
    assert_array_equal(nodes, gan.noise_nodes(64, 4, 7))
    assert not np.array_equal(nodes, gan.noise_nodes(64, 4, 8))
    assert_allclose(nodes.mean(0), 0, atol=0.1)
    assert_allclose(nodes.std(0), 1, atol=0.15)


# ---- what training validates -----------------------------------------------------------------------------------------


class Level(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(2, 1))


@pytest.mark.parametrize("scored", [False, True])
def test_the_score_decides_which_state_is_kept(scored: bool) -> None:
    """The loss rises without end; the score is best near 0.3: the loop passes through it, and keeps it."""
    level = Level()

    def loss(rows: Tensor, _: torch.Generator) -> Tensor:
        return -level.at.expand(-1, len(rows))

    def score(rows: Tensor, _: torch.Generator) -> Tensor:
        return (level.at.expand(-1, len(rows)) - 0.3) ** 2

    held = torch.zeros(2, 20, dtype=torch.bool)
    held[:, ::4] = True
    objective = Objective(level, loss, lr=0.05, weight_decay=0.0, score=score if scored else None)
    train([objective], torch.ones(2, 20), held, Settings(epochs=40, batch_size=20, patience=40))
    if scored:
        assert_allclose(level.at.detach(), 0.3, atol=0.05)
    else:
        assert (level.at > 0.8).all()


# ---- a fitted model against the truth --------------------------------------------------------------------------------


def toy(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two peaks, at x - 2 and x + 2, one higher in the second arm."""
    rng = np.random.default_rng(seed)
    x, a = rng.uniform(-1, 1, n), np.arange(n) % 2
    return x[:, None], x + np.where(rng.random(n) < 0.5, 2.0, -2.0) + a + 0.4 * rng.standard_normal(n), a


@pytest.fixture(scope="module")
def two_peaks() -> tuple[GANITE, np.ndarray]:
    X, y, a = toy()
    return small(lr=0.01, epochs=240, generated_weight=0.0, nuisance=PLAIN).fit(X, y, treatment=a), X[:60]


def test_two_peaks_come_out(two_peaks: tuple[GANITE, np.ndarray]) -> None:
    """Closer to the truth than the normal law with the true mean and spread, whose W1 distance is known."""
    est, X = two_peaks
    levels = (np.arange(200) + 0.5) / 200
    found = est.predict_outcomes(X).quantile(levels)
    rng = np.random.default_rng(1)
    peaks = np.quantile(rng.choice([-2.0, 2.0], 100_000) + 0.4 * rng.standard_normal(100_000), levels)
    normal = stats.norm.ppf(levels) * np.sqrt(4 + 0.4**2)
    for arm in (0, 1):
        distance = np.abs(found[:, :, arm] - (peaks[:, None] + X[:, 0] + arm)).mean()
        assert distance < 0.6 * np.abs(normal - peaks).mean()
        assert wasserstein(found[:, 0, arm], peaks + X[0, 0] + arm) < np.abs(normal - peaks).mean()


def test_draws_vary_and_arms_share_their_noise(two_peaks: tuple[GANITE, np.ndarray]) -> None:
    est, X = two_peaks
    draws = est.predict_outcomes(X).draws
    assert draws.std(axis=1).min() > 0.5
    member = draws[0, :, 0]
    assert stats.spearmanr(member[:, 0], member[:, 1]).statistic > 0.95
    assert_allclose(est.predict(X).mean(), 1.0, atol=0.5)


def test_held_out_outcomes_are_covered(two_peaks: tuple[GANITE, np.ndarray]) -> None:
    est, _ = two_peaks
    _, y, a = toy()
    lower, upper = est.held_out_.interval(0.9)
    rows = np.arange(len(y))
    assert 0.84 < np.mean((lower[rows, a] <= y) & (y <= upper[rows, a])) < 0.97


def test_new_outcomes_are_covered(two_peaks: tuple[GANITE, np.ndarray]) -> None:
    est, _ = two_peaks
    X, y, a = toy(seed=1)
    lower, upper = est.predict_outcomes(X).interval(0.9)
    rows = np.arange(len(y))
    assert 0.84 < np.mean((lower[rows, a] <= y) & (y <= upper[rows, a])) < 0.98


def test_the_unit_of_the_outcome_does_not_matter() -> None:
    X, y, a = toy(150)
    one = small(nuisance=PLAIN).fit(X, y, treatment=a)
    other = small(nuisance=PLAIN).fit(X, 100 * y + 1000, treatment=a)
    assert_allclose(other.predict(X), 100 * one.predict(X), atol=0.02 * 100 * y.std())
    draws, moved = one.predict_outcomes(X).draws, other.predict_outcomes(X).draws
    assert np.abs(moved - (100 * draws + 1000)).mean() < 0.02 * 100 * y.std()


@pytest.mark.slow
def test_the_adversary_keeps_the_spread() -> None:
    """A squared error of single draws would shrink the noise to nothing; the calibrated factor would then be large."""
    rng = np.random.default_rng(0)
    X, a = rng.standard_normal((240, 1)), np.arange(240) % 2
    y = X[:, 0] + a + rng.standard_normal(240)
    est = small(objective="adversarial", epochs=40, nuisance=PLAIN).fit(X, y, treatment=a)
    assert (est.shrink_ > 0.4).all() and (est.shrink_ < 2.2).all()
    assert_allclose(est.predict_outcomes(X).draws.std(axis=(0, 1)).mean(), 1.0, atol=0.25)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "adversarial"},
        {"objective": "adversarial", "beta": 5.0},
        {"alpha": 0.0},
        {"generated_weight": 0.0},
        {"generated_weight": 1.0},
        {"n_noise": 3},
    ],
)
def test_every_option_makes_another_model(options: dict[str, Any]) -> None:
    X, y, a = toy(80)
    base = {"objective": "adversarial"} if "beta" in options else {}
    one, other = (small(nuisance=PLAIN, epochs=12, **o).fit(X, y, treatment=a) for o in (base, options))
    assert np.abs(one.predict_outcomes(X).draws - other.predict_outcomes(X).draws).mean() > 1e-4
    assert (options.get("generated_weight") == 0.0) == (not any(h["block"] == 1 for h in other.history_))


@pytest.mark.parametrize("objective", gan.OBJECTIVES)
def test_probabilities_of_events_follow_the_truth(objective: str) -> None:
    data = make_binary(400, random_state=0)
    est = small(objective=objective, epochs=20).fit(data.X, data.y, treatment=data.treatment)
    assert est.noise_ is None
    assert data.truth is not None
    truth = data.truth.mean()
    found = est.predict_outcomes(data.X).mean()
    assert np.abs(found - truth).mean() < 0.7 * np.abs(truth - data.y.mean()).mean()


@pytest.mark.parametrize("kind", ["continuous", "count", "binary"])
def test_an_adversarial_model_is_saved_and_read_back(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, a = rng.standard_normal((90, 2)), np.arange(90) % 3
    y = {"continuous": X[:, 0] + a, "count": rng.poisson(2.0 + a), "binary": rng.random(90) < 0.3 + 0.1 * a}[kind]
    est = small(objective="adversarial", epochs=3, nuisance=PLAIN, outcome=kind)
    est.set_params(nuisance=Nuisance(n_folds=2)).fit(X, y, treatment=a)
    loaded = effects.load(est.save(tmp_path / "model"))
    assert_allclose(loaded.predict_outcomes(X).draws, est.predict_outcomes(X).draws, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_weights_steer_the_whole_law() -> None:
    """Weight on the upper peak moves the draws there, not the mean alone."""
    X, y, a = toy()
    upper = y - X[:, 0] - a > 0
    est = small(lr=0.02, epochs=80, generated_weight=0.0, nuisance=PLAIN)
    est.fit(X, y, treatment=a, sample_weight=np.where(upper, 9.0, 1.0))
    draws = est.predict_outcomes(X[:40]).draws - X[:40]
    share = (draws[..., 0] > 0).mean()
    assert 0.75 < share < 0.98


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "wgan"}, "objective must be one of"),
        ({"alpha": -1.0}, "alpha must be zero or a positive number"),
        ({"beta": np.inf}, "beta must be"),
        ({"generated_weight": "1"}, "generated_weight must be"),
        ({"n_noise": 0}, "n_noise must be a positive whole number"),
        ({"n_networks": 1}, "n_networks must be at least 2"),
    ],
)
def test_nonsense_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    X, y, a = toy(60)
    with pytest.raises(ValueError, match=message):
        small(**options).fit(X, y, treatment=a)
