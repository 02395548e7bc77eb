"""Networks, losses, the loop and the last layer against dense linear algebra, torch.distributions and closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from effects.nn import last_layer
from effects.nn import means as means_module
from effects.nn.last_layer import ArmPosterior, arm_coding, fit_linear, fit_logistic
from effects.nn.losses import LOSSES, bernoulli_nll, denoising_error, gaussian_nll, orthogonal_weights
from effects.nn.means import ConditionalMeans, MeansConfig, fit_means, means_from_state, means_state
from effects.nn.networks import ArmNetwork, BatchedLinear, Denoiser, batched_mlp
from effects.nn.scale import OutcomeScale, ResidualLaw, may_be_log, prefers_log
from effects.nn.training import Objective, Settings, held_out, one_thread, resolve_device, train

Array = NDArray[np.float64]


@pytest.fixture(autouse=True, scope="module")
def one_core() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ============================================================================================== Bayesian last layer

GROUPS = torch.tensor([1, 1, 2, 0])  # two features, a nuisance, the constant


class Regression:
    """A small problem with its own dense algebra: design rows are ``kron(coding[arm], basis)``."""

    def __init__(self, rng: np.random.Generator, n: int = 60, n_arms: int = 2, networks: int = 2) -> None:
        basis = rng.normal(size=(networks, n, 4))
        basis[:, :, 3] = 1.0
        self.arm = rng.permutation(np.arange(n) % n_arms)
        truth = rng.normal(size=(4,)) + 0.5 * rng.normal(size=(n_arms, 4))
        mean = np.einsum("np,np->n", basis[0], truth[self.arm])
        self.y = mean + (0.5 + 0.5 * self.arm) * rng.normal(size=n)
        self.basis, self.n_arms, self.event = basis, n_arms, (rng.random(n) < 1 / (1 + np.exp(-mean))).astype(float)

    def fit(self, method: Callable[..., ArmPosterior] = fit_linear, **keywords: object) -> ArmPosterior:
        y = self.y if method is fit_linear else self.event
        return method(*map(torch.from_numpy, (self.basis, y, self.arm)), GROUPS, self.n_arms, **keywords)

    @property
    def coding(self) -> Array:
        return np.asarray(arm_coding(self.n_arms), dtype=np.float64)

    @property
    def to_arms(self) -> Array:
        """From the coded weights to the arms' own."""
        return np.asarray(np.kron(self.coding, np.eye(4)))

    def design(self, network: int) -> Array:
        return np.stack([np.kron(self.coding[a], b) for a, b in zip(self.arm, self.basis[network], strict=True)])

    def prior(self, alpha: Array) -> Array:
        """Prior precision of every coded weight, from one network's precisions by group."""
        shared, n_groups = GROUPS.numpy(), int(GROUPS.max())
        contrast = np.where(shared == 0, 0, shared + n_groups)
        return np.asarray(alpha[np.concatenate([shared] + [contrast] * (self.n_arms - 1))])

    def log_evidence(self, network: int, log_alpha: Array, log_beta: Array, weight: Array) -> float:
        """Of the outcome, weights counting as repeated rows (MacKay 1992, eq. 4.7), up to a constant."""
        X, prior, beta = self.design(network), self.prior(np.exp(log_alpha)), np.exp(log_beta)[self.arm] * weight
        precision = X.T @ (beta[:, None] * X) + np.diag(prior)
        mean = np.linalg.solve(precision, X.T @ (beta * self.y))
        energy = (beta * (self.y - X @ mean) ** 2).sum() + (prior * mean**2).sum()
        return float(
            0.5 * (weight * log_beta[self.arm]).sum()
            + 0.5 * np.log(prior).sum()
            - 0.5 * energy
            - 0.5 * np.linalg.slogdet(precision)[1]
        )


def covariance_of(posterior: ArmPosterior, network: int) -> Array:
    """Of one network's weights of all arms, (n_arms * n_basis, n_arms * n_basis)."""
    factor = posterior.factor[network].flatten(0, 1)
    return (factor @ factor.T).numpy()


@pytest.mark.parametrize("n_arms", [2, 3, 5])
def test_the_arm_coding_is_orthogonal_and_treats_all_arms_alike(n_arms: int) -> None:
    coding = arm_coding(n_arms).numpy()
    product = coding.T @ coding
    np.testing.assert_allclose(product, np.diag(np.diag(product)), atol=1e-12)
    np.testing.assert_array_equal(coding[:, 0], 1.0)
    np.testing.assert_allclose(coding[:, 1:].sum(axis=0), 0.0, atol=1e-12)
    distance = np.linalg.norm(coding[:, None] - coding[None, :], axis=2)
    np.testing.assert_allclose(distance, 1.0 - np.eye(n_arms), atol=1e-12)
    np.testing.assert_allclose(arm_coding(2).numpy(), [[1, -0.5], [1, 0.5]])


@pytest.mark.parametrize("n_arms", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_posterior_is_the_conjugate_one(n_arms: int, weighted: bool, rng: np.random.Generator) -> None:
    problem = Regression(rng, n_arms=n_arms)
    weight = rng.exponential(size=60) if weighted else np.ones(60)
    posterior = problem.fit(weight=torch.from_numpy(7.0 * weight))  # only the ratios count
    for k in range(2):
        X, prior = problem.design(k), problem.prior(posterior.alpha[k].numpy())
        beta = weight / weight.mean() / posterior.noise_sd[k].numpy()[problem.arm] ** 2
        covariance = np.linalg.inv(X.T @ (beta[:, None] * X) + np.diag(prior))
        mean = covariance @ X.T @ (beta * problem.y)
        np.testing.assert_allclose(posterior.mean[k].numpy().ravel(), problem.to_arms @ mean, rtol=1e-7, atol=1e-9)
        expected = problem.to_arms @ covariance @ problem.to_arms.T
        np.testing.assert_allclose(covariance_of(posterior, k), expected, rtol=1e-6, atol=1e-8)


def test_the_evidence_is_the_marginal_likelihood(rng: np.random.Generator) -> None:
    problem = Regression(rng, n=25)

    def both(log_alpha: Array, log_beta: Array) -> tuple[float, float]:
        X = problem.design(0)
        spread = X @ np.diag(1 / problem.prior(np.exp(log_alpha))) @ X.T + np.diag(np.exp(-log_beta)[problem.arm])
        density = stats.multivariate_normal(np.zeros(25), spread).logpdf(problem.y)
        return problem.log_evidence(0, log_alpha, log_beta, np.ones(25)), density

    one, other = both(np.zeros(5), np.zeros(2)), both(rng.normal(size=5), rng.normal(size=2))
    assert one[0] - other[0] == pytest.approx(one[1] - other[1])


@pytest.mark.parametrize("weighted", [False, True])
def test_precisions_maximise_the_evidence(weighted: bool, rng: np.random.Generator) -> None:
    problem = Regression(rng, n_arms=2)
    weight = rng.exponential(size=60) if weighted else np.ones(60)
    weight /= weight.mean()
    posterior = problem.fit(weight=torch.from_numpy(weight), max_iter=200)
    for k in range(2):
        log_alpha, log_beta = posterior.alpha[k].log().numpy(), -2 * posterior.noise_sd[k].log().numpy()
        best = problem.log_evidence(k, log_alpha, log_beta, weight)
        falls = []
        for parameters in (log_alpha[1:], log_beta):  # views; the intercept's precision is fixed
            for i in range(len(parameters)):
                kept = parameters[i]
                for move in (-1.5, -0.2, 0.2, 1.5):
                    parameters[i] = kept + move
                    falls.append(best - problem.log_evidence(k, log_alpha, log_beta, weight))
                parameters[i] = kept
        assert min(falls) > -5e-3
        assert max(falls[-8:]) > 5  # the noise is well determined: this test can tell a maximum from a plain


def test_an_effect_that_is_not_there_is_shrunk_by_its_own_evidence(rng: np.random.Generator) -> None:
    problem = Regression(rng, n=400, networks=1)
    problem.y = problem.basis[0] @ [1.0, -1.0, 1.0, 0.0] + rng.normal(size=400)
    posterior = problem.fit()
    alpha = posterior.alpha[0].numpy()
    assert (alpha[3:] > 10 * alpha[1:3]).all()  # contrasts against what the arms share
    least = [np.linalg.lstsq(problem.basis[0][problem.arm == a], problem.y[problem.arm == a])[0] for a in (0, 1)]
    effect, ols = (posterior.mean[0, 1] - posterior.mean[0, 0]).numpy(), least[1] - least[0]
    assert np.linalg.norm(effect[:3]) < 0.5 * np.linalg.norm(ols[:3])


def test_credible_intervals_of_the_effect_cover_at_their_level(rng: np.random.Generator) -> None:
    covered = []
    for _ in range(40):
        problem = Regression(rng, n=50, networks=1)
        shared, contrast = rng.normal(size=4), 0.7 * rng.normal(size=4)
        weights = shared + np.array([[-0.5], [0.5]]) * contrast
        problem.y = np.einsum("np,np->n", problem.basis[0], weights[problem.arm]) + rng.normal(size=50)
        posterior = problem.fit()
        difference = posterior.factor[0, 1] - posterior.factor[0, 0]
        points = torch.from_numpy(rng.normal(size=(8, 4)))
        mean, std = points @ (posterior.mean[0, 1] - posterior.mean[0, 0]), (points @ difference).norm(dim=1)
        covered.append((np.abs(mean.numpy() - points.numpy() @ contrast) < 1.645 * std.numpy()).mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=4 * np.std(covered) / np.sqrt(40))
    assert np.std(covered) > 0


def test_predictions_and_deviations_are_linear_in_the_basis(rng: np.random.Generator) -> None:
    problem = Regression(rng, n_arms=3)
    posterior = problem.fit()
    basis = torch.from_numpy(rng.normal(size=(2, 7, 4)))
    np.testing.assert_allclose(posterior.predict(basis), torch.einsum("knp,kap->kna", basis, posterior.mean))
    size = posterior.factor.shape[-1]
    functions, covariance = posterior.deviations(basis, torch.eye(size, dtype=torch.float64).expand(2, -1, -1))
    assert functions.shape == (2, size, 7, 3) and covariance.shape == (7, 3, 3)
    exact = np.zeros((7, 3, 3))
    for k in range(2):
        full = covariance_of(posterior, k).reshape(3, 4, 3, 4)
        exact += np.einsum("np,apbq,nq->nab", basis[k], full, basis[k]) / 2
    np.testing.assert_allclose(covariance, exact, rtol=1e-8)
    # the unit vectors are draws whose second moments add up to the identity
    np.testing.assert_allclose(torch.einsum("kqna,kqnb->nab", functions, functions) / 2, exact, rtol=1e-8)


@pytest.mark.parametrize("method", [fit_linear, fit_logistic])
def test_a_weight_of_zero_leaves_the_row_out(method: Callable[..., ArmPosterior], rng: np.random.Generator) -> None:
    problem, weight = Regression(rng), rng.exponential(size=60)
    weight[rng.choice(60, 20, replace=False)] = 0.0
    full = problem.fit(method, weight=torch.from_numpy(weight))
    rows = weight > 0
    problem.basis, problem.y, problem.event = problem.basis[:, rows], problem.y[rows], problem.event[rows]
    problem.arm = problem.arm[rows]
    part = problem.fit(method, weight=torch.from_numpy(weight[rows]))
    for name in ("mean", "factor", "noise_sd", "alpha"):
        np.testing.assert_allclose(getattr(full, name), getattr(part, name), rtol=1e-7, atol=1e-10)


def test_integer_weights_are_repeated_rows(rng: np.random.Generator) -> None:
    problem, weight = Regression(rng), rng.integers(1, 4, size=60)
    weighted = problem.fit(weight=torch.from_numpy(weight))
    rows = np.repeat(np.arange(60), weight)
    problem.basis, problem.y, problem.arm = problem.basis[:, rows], problem.y[rows], problem.arm[rows]
    # weights keep the information at one row a row: the same data repeated need a noise as much larger
    start = replace(weighted, noise_sd=weighted.noise_sd * np.sqrt(len(rows) / 60))
    repeated = problem.fit(start=start)
    np.testing.assert_allclose(repeated.mean, weighted.mean, rtol=1e-8)
    np.testing.assert_allclose(covariance_of(repeated, 1), covariance_of(weighted, 1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", [fit_linear, fit_logistic])
def test_weights_may_differ_between_networks(method: Callable[..., ArmPosterior], rng: np.random.Generator) -> None:
    problem, weight = Regression(rng), torch.from_numpy(rng.exponential(size=(2, 60)))
    start = problem.fit(method)
    both = problem.fit(method, weight=weight, start=start)
    for k in range(2):
        one = problem.fit(method, weight=weight[k], start=start)
        np.testing.assert_allclose(both.mean[k], one.mean[k], atol=1e-3 if method is fit_logistic else 1e-9)


@pytest.mark.parametrize("method", [fit_linear, fit_logistic])
def test_a_start_keeps_its_precisions(method: Callable[..., ArmPosterior], rng: np.random.Generator) -> None:
    problem = Regression(rng)
    start = problem.fit(method)
    again = problem.fit(method, start=start)
    np.testing.assert_array_equal(again.alpha, start.alpha)
    np.testing.assert_allclose(again.noise_sd, start.noise_sd, rtol=1e-12)
    np.testing.assert_allclose(again.mean, start.mean, atol=1e-9 if method is fit_linear else 2e-2)
    less = problem.fit(method, start=start, weight=(torch.arange(60) >= 20).double())
    np.testing.assert_array_equal(less.alpha, start.alpha)
    assert float((less.mean - start.mean).abs().max()) > 1e-3


@pytest.mark.parametrize("method", [fit_linear, fit_logistic])
def test_the_arms_names_do_not_matter(method: Callable[..., ArmPosterior], rng: np.random.Generator) -> None:
    problem, permutation = Regression(rng, n_arms=3), np.array([2, 0, 1])
    one = problem.fit(method)
    problem.arm = permutation[problem.arm]
    other = problem.fit(method)
    np.testing.assert_allclose(other.mean[:, permutation], one.mean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(other.noise_sd[:, permutation], one.noise_sd, rtol=1e-6)
    np.testing.assert_allclose(
        (other.factor @ other.factor.mT)[:, permutation], one.factor @ one.factor.mT, rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("n_arms", [2, 3])
def test_the_logistic_posterior_is_laplaces(n_arms: int, rng: np.random.Generator) -> None:
    problem, weight = Regression(rng, n=90, n_arms=n_arms), rng.exponential(size=90)
    weight /= weight.mean()
    start = problem.fit(fit_logistic, weight=torch.from_numpy(weight))
    posterior = problem.fit(fit_logistic, weight=torch.from_numpy(weight), start=start)
    for k in range(2):
        X, prior = problem.design(k), problem.prior(posterior.alpha[k].numpy())
        mode = np.linalg.solve(problem.to_arms, posterior.mean[k].numpy().ravel())
        probability = 1 / (1 + np.exp(-X @ mode))
        gradient = X.T @ (weight * (problem.event - probability)) - prior * mode
        hessian = X.T @ ((weight * probability * (1 - probability))[:, None] * X) + np.diag(prior)
        covariance = np.linalg.inv(hessian)
        # how far the mode is away, in posterior standard deviations
        assert np.abs(covariance @ gradient / np.sqrt(np.diag(covariance))).max() < 1e-2
        expected = problem.to_arms @ covariance @ problem.to_arms.T
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert np.abs((covariance_of(posterior, k) - expected) / scale).max() < 1e-2
    np.testing.assert_array_equal(posterior.noise_sd, 1.0)


def test_logistic_precisions_satisfy_mackays_equation(rng: np.random.Generator) -> None:
    problem = Regression(rng, n=300, networks=1)
    posterior = problem.fit(fit_logistic)
    inverse = np.linalg.inv(problem.to_arms)
    mode = inverse @ posterior.mean[0].numpy().ravel()
    variance = np.diag(inverse @ covariance_of(posterior, 0) @ inverse.T)
    group = problem.prior(np.arange(5.0)).astype(int)
    for g in (1, 2):  # the shared groups, which the data determine
        alpha, own = float(posterior.alpha[0, g]), group == g
        effective = own.sum() - alpha * variance[own].sum()
        assert alpha * (mode[own] ** 2).sum() == pytest.approx(effective, rel=0.05)


def test_separable_events_keep_finite_odds(rng: np.random.Generator) -> None:
    problem = Regression(rng, n=40)
    problem.event = (problem.basis[0, :, 0] > 0).astype(float)
    posterior = problem.fit(fit_logistic)
    assert torch.isfinite(posterior.mean).all() and torch.isfinite(posterior.factor).all()
    odds = posterior.predict(torch.from_numpy(problem.basis))[0].numpy()
    assert ((odds[np.arange(40), problem.arm] > 0) == (problem.event == 1)).mean() > 0.9


# ============================================================================================================ losses


def test_the_gaussian_loss_is_the_log_density_without_its_constant() -> None:
    mean, log_sd, y = torch.randn(3, 4, 5, generator=seeded(), dtype=torch.float64)
    density = torch.distributions.Normal(mean, log_sd.exp()).log_prob(y)
    torch.testing.assert_close(gaussian_nll(mean, log_sd, y), -density - 0.5 * np.log(2 * np.pi))
    assert gaussian_nll(mean, log_sd, y).shape == (4, 5)


@pytest.mark.parametrize("which", ["gaussian", "bernoulli", "denoising"])
def test_gradients_agree_with_finite_differences(which: str) -> None:
    a, b, c, d = torch.randn(4, 6, generator=seeded(1), dtype=torch.float64)
    cases: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
        "gaussian": (gaussian_nll, (a, b, c)),
        "bernoulli": (bernoulli_nll, (a, (b > 0).double())),
        "denoising": (denoising_error, (a, b, c, d)),
    }
    loss, arguments = cases[which]
    first, rest = arguments[0].clone().requires_grad_(), arguments[1:]
    loss(first, *rest).sum().backward()
    step = 1e-6
    numeric = (loss(arguments[0] + step, *rest) - loss(arguments[0] - step, *rest)) / (2 * step)
    torch.testing.assert_close(first.grad, numeric, rtol=1e-6, atol=1e-8)
    if which == "gaussian":
        log_sd = b.clone().requires_grad_()
        gaussian_nll(a, log_sd, c).sum().backward()
        torch.testing.assert_close(log_sd.grad, 1 - ((c - a) / b.exp()) ** 2)


def test_no_single_point_drives_the_density_to_infinity() -> None:
    y = torch.tensor([0.0, 0.0])
    assert gaussian_nll(y, torch.tensor([-50.0, -5.0]), y).tolist() == [-5.0, -5.0]
    assert torch.isfinite(gaussian_nll(y + 1e3, torch.tensor([-50.0, 50.0]), y)).all()


def test_the_bernoulli_loss_is_the_log_probability() -> None:
    logit = torch.linspace(-30, 30, 61, dtype=torch.float64)
    for y in (torch.zeros(61).double(), torch.ones(61).double()):
        expected = -torch.distributions.Bernoulli(logits=logit).log_prob(y)
        torch.testing.assert_close(bernoulli_nll(logit, y), expected)
    assert torch.isfinite(bernoulli_nll(torch.tensor([1e4, -1e4]), torch.tensor([0.0, 1.0]))).all()


@pytest.mark.parametrize("angle", [0.05, 0.6, 1.2, 1.5])
@pytest.mark.parametrize(("m", "s"), [(0.0, 1.0), (0.7, 0.4)])
def test_the_best_denoiser_is_the_conditional_expectation(angle: float, m: float, s: float) -> None:
    # products of Gauss-Hermite nodes integrate the expected loss of a linear denoiser exactly
    nodes, masses = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(8))
    y, noise = (m + s * nodes)[:, None].expand(8, 8), nodes[None, :].expand(8, 8)
    mass, theta = masses[:, None] * masses[None, :] / masses.sum() ** 2, torch.tensor(angle, dtype=torch.float64)
    noised = torch.cos(theta) * y + torch.sin(theta) * noise
    sine, cosine = np.sin(angle), np.cos(angle)
    total = cosine**2 * s**2 + sine**2
    slope, level = sine * cosine * (s**2 - 1) / total, sine * m
    parameters = torch.tensor([level - slope * cosine * m, slope], dtype=torch.float64, requires_grad=True)
    velocity = parameters[0] + parameters[1] * noised
    (mass * denoising_error(velocity, y, noise, theta)).sum().backward()
    torch.testing.assert_close(parameters.grad, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    # and its estimate of the outcome, cos w + sin F, is the normal law's posterior mean
    estimate = cosine * noised + sine * velocity.detach()
    torch.testing.assert_close(estimate, m + s**2 * cosine / total * (noised - cosine * m))


def test_orthogonal_weights_by_hand() -> None:
    arm, propensity = torch.tensor([0, 1, 1]), torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.75, 0.25]])
    own, none = [[1, 0], [0, 1], [0, 1]], [[0, 0], [0, 0], [0, 0]]
    inverse = [[2, 0], [0, 1.25], [0, 4]]
    expected = {
        "plugin": (own, none),
        "ipw": (inverse, none),
        "ra": (own, [[0, 1], [1, 0], [1, 0]]),
        "gdr": (inverse, [[-1, 1], [1, -0.25], [1, -3]]),
    }
    assert set(expected) == set(LOSSES)
    for loss, hands in expected.items():
        for ours, by_hand in zip(orthogonal_weights(loss, arm, propensity), hands, strict=True):
            torch.testing.assert_close(ours, torch.tensor(by_hand, dtype=torch.float32))
    with pytest.raises(ValueError, match=r"one of .*'gdr'.*, got 'dr'"):
        orthogonal_weights("dr", arm, propensity)


def risk_errors(loss: str, wrong: str, rng: np.random.Generator) -> Array:
    """Errors of the estimated risks of ``(y - 1)^2`` per arm in 20 000 confounded rows, in standard errors."""
    n = 20_000
    x = rng.integers(2, size=n)
    treated = np.where(x == 1, 0.8, 0.25)
    propensity = np.stack([1 - treated, treated], axis=1)
    arm = (rng.random(n) < propensity[:, 1]).astype(int)
    mean = np.stack([1.0 * x, 2.0 - 3.0 * x], axis=1)
    y = mean[np.arange(n), arm] + rng.normal(size=n)
    generated = (mean if wrong != "generator" else mean + 2.0) + rng.normal(size=(n, 2))
    given = np.full((n, 2), 0.5) if wrong == "propensity" else propensity
    observed, made = (w.numpy() for w in orthogonal_weights(loss, torch.from_numpy(arm), torch.from_numpy(given)))
    terms = observed * (y[:, None] - 1) ** 2 + made * (generated - 1) ** 2
    truth = ((np.array([[0.0, 2.0], [1.0, -1.0]]) - 1) ** 2).mean(axis=0) + 1
    return np.asarray((terms.mean(axis=0) - truth) / (terms.std(axis=0) / np.sqrt(n)))


@pytest.mark.parametrize(
    ("loss", "wrong", "unbiased"),
    [
        ("plugin", "", False),  # it estimates the risk among the arm's own rows
        ("ipw", "", True),
        ("ipw", "propensity", False),
        ("ra", "", True),
        ("ra", "generator", False),
        ("gdr", "", True),
        ("gdr", "generator", True),
        ("gdr", "propensity", True),
    ],
)
def test_which_nuisance_each_loss_depends_on(loss: str, wrong: str, unbiased: bool, rng: np.random.Generator) -> None:
    z = risk_errors(loss, wrong, rng)
    assert (np.abs(z) < 4).all() if unbiased else (np.abs(z) > 6).any()


# ========================================================================================================== networks


def test_a_batched_layer_is_as_many_linear_layers() -> None:
    layer, x = BatchedLinear(3, 4, 2, seeded()), torch.randn(3, 5, 4, generator=seeded(1))
    for k in range(3):
        single = nn.Linear(4, 2)
        single.load_state_dict({"weight": layer.weight[k].detach().T, "bias": layer.bias[k, 0].detach()})
        torch.testing.assert_close(layer(x)[k], single(x[k]))
    assert float(layer.weight.detach().abs().max()) <= 0.5  # uniform within 1 / sqrt(4)
    assert float(layer.weight.detach().abs().max()) > 0.3
    torch.testing.assert_close(BatchedLinear(3, 4, 2, seeded()).weight, layer.weight)


def denoise(network: Denoiser, x: Tensor) -> Tensor:
    w = torch.linspace(-1, 1, len(x)).expand(network.n_members, -1)
    return network(w, w.abs(), network.context(x)[:, :, 1])


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor]]] = {
    "mlp": (lambda: batched_mlp(3, [4, 6, 2], seeded()), lambda net, x: net(x.expand(3, -1, -1))),
    "arms": (lambda: ArmNetwork(3, 4, 2, 2, 5, seeded()), lambda net, x: net(x)),
    "denoiser": (lambda: Denoiser(3, 4, 2, 5, 6, seeded()), denoise),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_members_do_not_see_each_other(name: str) -> None:
    make, run = NETWORKS[name]
    network, x = make(), torch.randn(7, 4, generator=seeded(2))
    for parameter in network.parameters():
        assert parameter.shape[0] == 3  # the loop keeps a member's best state by this axis
        nn.init.normal_(parameter, generator=seeded(3))
    run(network, x)[1].square().sum().backward()
    seen = 0.0
    for parameter in network.parameters():
        if parameter.grad is not None:
            assert parameter.grad[[0, 2]].abs().max() == 0.0
            seen += float(parameter.grad[1].abs().sum())
    assert seen > 0
    before = run(network, x).detach()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[1] += 1.0
    torch.testing.assert_close(run(network, x)[[0, 2]], before[[0, 2]], rtol=0, atol=0)
    assert not torch.allclose(run(network, x)[1], before[1])


def test_an_arm_network_is_a_trunk_with_one_head_per_arm() -> None:
    network, x = ArmNetwork(2, 3, 4, 2, 5, seeded()), torch.randn(6, 3, generator=seeded(1))
    features = network.features(x)
    assert len(features) == 4 and features[0].shape == (2, 6, 5) and network(x).shape == (2, 6, 4, 2)
    for k in range(4):
        torch.testing.assert_close(network(x)[:, :, k], network.heads[k](features[k]))
    before = network(x).detach()
    with torch.no_grad():
        next(network.hidden[2].parameters()).add_(1.0)
    changed = (network(x) - before).abs().amax((0, 1, 3))
    assert changed[2] > 0 and changed[[0, 1, 3]].max() == 0  # other arms do not share the layer


def test_an_untrained_denoiser_is_zero_and_learns_from_there() -> None:
    network, x = Denoiser(2, 3, 2, 8, 6, seeded()), torch.randn(5, 3, generator=seeded(1))
    context = network.context(x)
    assert context.shape == (2, 5, 2, 6)
    w = torch.randn(2, 5, generator=seeded(2))
    velocity = network(w, torch.full_like(w, 0.7), context[:, :, 0])
    assert velocity.shape == (2, 5) and (velocity == 0).all()
    (velocity - 1).square().sum().backward()
    assert network.out.weight.grad is not None and network.out.weight.grad.abs().sum() > 0


# ========================================================================================================== training


class Level(nn.Module):
    """One number per member, fitted to the rows' targets by squared error."""

    def __init__(self, n_members: int, start: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((n_members, 1), start))

    def loss_to(self, y: Tensor) -> Callable[[Tensor, torch.Generator], Tensor]:
        return lambda rows, _: (self.value - y[rows]) ** 2


def plain(epochs: int = 50, **keywords: object) -> Settings:
    return Settings(**{"epochs": epochs, "batch_size": 1000, "patience": epochs, **keywords})  # type: ignore[arg-type]


NOTHING_HELD_OUT = torch.zeros(1, 4, dtype=torch.bool)


def test_every_member_keeps_its_own_best_state() -> None:
    # all walk from 0 towards 10; the rows held out by each say that 2, 5 and 100 would be best
    y = torch.tensor([10.0] * 5 + [2.0, 5.0, 100.0])
    validation = torch.zeros(3, 8, dtype=torch.bool)
    validation[torch.arange(3), torch.arange(5, 8)] = True
    weight = torch.ones(3, 8) * (validation | (torch.arange(8) < 5))
    module = Level(3)
    history = train([Objective(module, module.loss_to(y), 0.2, 0.0)], weight, validation, plain(200))
    first, second, third = module.value.detach().flatten().tolist()
    assert first == pytest.approx(2.0, abs=0.2) and second == pytest.approx(5.0, abs=0.2) and third > 9
    assert len(history) == 200  # the third never ceases to improve, so nobody stops the loop


def test_training_ends_when_patience_does() -> None:
    module = Level(1, start=1.0)
    objective = Objective(module, lambda rows, _: 0 * module.value + torch.ones(len(rows)), 0.1, 0.0)
    validation = torch.tensor([[True, False, False, False]])
    history = train([objective], torch.ones(1, 4), validation, plain(100, patience=7))
    assert len(history) == 1 + 7 + 1  # the first is an improvement on nothing
    assert [entry["epoch"] for entry in history] == list(range(9))
    assert {entry["train_loss"] for entry in history} == {entry["validation_loss"] for entry in history} == {1.0}


def test_without_held_out_rows_the_last_state_is_kept() -> None:
    module = Level(1)
    objective = Objective(module, module.loss_to(torch.full((4,), 3.0)), 0.2, 0.0)
    train([objective], torch.ones(1, 4), NOTHING_HELD_OUT, plain(150))
    assert module.value.item() == pytest.approx(3.0, abs=0.02)


def test_held_out_rows_never_train() -> None:
    y, validation = torch.tensor([1.0, 1.0, 1.0, -50.0]), torch.tensor([[False, False, False, True]])
    seen = []
    module = Level(1)

    def loss(rows: Tensor, _: torch.Generator) -> Tensor:
        if torch.is_grad_enabled():
            seen.append(module.value.item())
        return (module.value - y[rows]) ** 2

    train([Objective(module, loss, 0.1, 0.0)], torch.ones(1, 4), validation, plain(60))
    assert min(seen) >= 0 and max(seen) > 0.9  # walked towards 1, never towards -50
    assert module.value.item() <= 0.1 + 1e-6  # and kept the state that the held-out row liked best


def test_the_moving_average_is_what_is_validated_and_kept() -> None:
    module, y = Level(1), torch.full((4,), 5.0)
    stepped: list[float] = []
    validated: list[float] = []

    def loss(rows: Tensor, _: torch.Generator) -> Tensor:
        (stepped if torch.is_grad_enabled() else validated).append(module.value.item())
        return (module.value - y[rows]) ** 2

    validation = torch.tensor([[False, False, False, True]])
    train([Objective(module, loss, 0.3, 0.0)], torch.ones(1, 4), validation, plain(30, ema=0.8))
    average, expected = stepped[0], []
    for value in stepped[1:]:  # what a step sees is what the step before left
        average = 0.8 * average + 0.2 * value
        expected.append(average)
    np.testing.assert_allclose(validated[:-1], expected, rtol=1e-5)
    best = np.argmin((np.array(validated) - 5) ** 2)
    assert module.value.item() == pytest.approx(validated[best], rel=1e-6)


@pytest.mark.parametrize("batch_size", [4, 1000])
def test_rows_of_weight_zero_have_no_influence(batch_size: int) -> None:
    weight = torch.ones(2, 12)
    weight[:, ::3] = 0.0
    validation = torch.zeros(2, 12, dtype=torch.bool)
    validation[0, :4], validation[1, 4:8] = True, True
    found, losses = [], []
    for other in (0.0, 1e4):
        y = torch.arange(12.0)
        y[::3] = other
        module = Level(2)
        history = train(
            [Objective(module, module.loss_to(y), 0.1)], weight, validation, plain(20, batch_size=batch_size)
        )
        found.append(module.value.detach().clone())
        losses.append([entry["validation_loss"] for entry in history])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert losses[0] == losses[1]


def test_integer_weights_repeat_rows_in_training() -> None:
    weight, y = torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0.0, 4.0, -1.0])
    values = []
    for w, target in ((weight, y), (torch.ones(6), y.repeat_interleave(weight.long()))):
        module = Level(1)
        nobody = torch.zeros(1, len(w), dtype=torch.bool)
        train([Objective(module, module.loss_to(target), 0.05)], w[None], nobody, plain(40))
        values.append(module.value.item())
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_training_repeats_with_its_seed() -> None:
    def run(seed: int) -> Tensor:
        module, y = Level(2), torch.arange(10.0)

        def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
            return (module.value - y[rows] - torch.randn(2, len(rows), generator=generator)) ** 2

        settings = plain(5, batch_size=3, seed=seed)
        train([Objective(module, loss, 0.1)], torch.ones(2, 10), torch.zeros(2, 10, dtype=torch.bool), settings)
        return module.value.detach()

    global_state = torch.random.get_rng_state()
    torch.testing.assert_close(run(1), run(1), rtol=0, atol=0)
    assert not torch.equal(run(1), run(2))
    assert torch.equal(torch.random.get_rng_state(), global_state)  # the user's own random numbers are left alone


def test_epochs_are_compared_on_the_same_random_numbers() -> None:
    module, drawn = Level(1), []

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.rand(len(rows), generator=generator)
        if not torch.is_grad_enabled():
            drawn.append(noise)
        return (module.value - noise) ** 2

    train([Objective(module, loss)], torch.ones(1, 4), torch.tensor([[True, True, False, False]]), plain(6))
    assert len(drawn) == 6 and all(torch.equal(noise, drawn[0]) for noise in drawn)


def test_an_interruption_keeps_the_best_state_and_says_so() -> None:
    module, y, calls = Level(1), torch.full((4,), 10.0), []

    def loss(rows: Tensor, _: torch.Generator) -> Tensor:
        if torch.is_grad_enabled():
            calls.append(module.value.item())
            if len(calls) == 8:
                raise KeyboardInterrupt
        return (module.value - y[rows]) ** 2

    validation = torch.tensor([[True, False, False, False]])
    with pytest.warns(UserWarning, match=r"means was interrupted in epoch 7; the best state so far is kept"):
        history = train([Objective(module, loss, 0.1, 0.0)], torch.ones(1, 4), validation, plain(50, label="means"))
    assert len(history) == 7 and module.value.item() == calls[-1] > 0.5


def test_a_loss_that_is_no_number_stops_with_advice() -> None:
    module = Level(1)
    objective = Objective(module, lambda rows, _: module.value * torch.full((len(rows),), torch.nan))
    with pytest.raises(FloatingPointError, match="nan in epoch 0: lower"):
        train([objective], torch.ones(1, 4), NOTHING_HELD_OUT, plain())


def test_two_objectives_take_turns_and_move_only_their_own_module() -> None:
    generator, critic, calls = Level(1), Level(1), []

    def of_generator(rows: Tensor, _: torch.Generator) -> Tensor:
        calls.append("G" if torch.is_grad_enabled() else "validation")
        return 0 * generator.value + torch.full((len(rows),), 3.0)

    def of_critic(rows: Tensor, _: torch.Generator) -> Tensor:
        calls.append("C")
        return (critic.value - 1) ** 2 + 100 * generator.value + torch.zeros(len(rows))

    objectives = [Objective(generator, of_generator, 0.1, 0.0, n_steps=2), Objective(critic, of_critic, 0.1, 0.0)]
    history = train(objectives, torch.ones(1, 4), torch.tensor([[True, False, False, False]]), plain(2, batch_size=2))
    assert calls == ["G", "G", "C", "G", "G", "C", "validation"] * 2
    assert generator.value.item() == 0.0 and critic.value.item() > 0.1
    assert [entry["train_loss"] for entry in history] == pytest.approx([3.0, 3.0])  # a mean, whatever the steps


@pytest.mark.parametrize("verbose", [False, True])
def test_progress_is_shown_on_standard_error_only(
    verbose: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, as far as the bar can tell
    module = Level(1)
    settings = plain(3, verbose=verbose, label="diffusion")
    train([Objective(module, module.loss_to(torch.ones(4)))], torch.ones(1, 4), NOTHING_HELD_OUT, settings)
    out, err = capfd.readouterr()
    assert out == "" and ("diffusion" in err) == verbose and (err != "") == verbose


@pytest.mark.parametrize(("n_members", "n_folds"), [(8, 4), (5, 5), (3, 8)])
def test_held_out_folds_are_balanced_over_arms(n_members: int, n_folds: int) -> None:
    arm = torch.tensor([0] * 37 + [1] * 18 + [2] * 9)
    mask = held_out(n_members, arm, n_folds, seeded())
    assert mask.shape == (n_members, 64) and mask.dtype == torch.bool
    times = mask[:n_folds].sum(0)
    assert (times == 1).all() if n_members >= n_folds else (times <= 1).all()
    for k in range(n_members):
        assert torch.equal(mask[k], mask[k % n_folds])
        for a in range(3):
            rows = arm == a
            assert abs(int(mask[k, rows].sum()) - int(rows.sum()) / n_folds) <= 1
    assert torch.equal(mask, held_out(n_members, arm, n_folds, seeded()))
    assert not torch.equal(mask, held_out(n_members, arm, n_folds, seeded(1)))


def test_one_thread_gives_the_others_back_even_after_an_error() -> None:
    torch.set_num_threads(3)
    try:
        with pytest.raises(RuntimeError, match="stop"), one_thread():
            assert torch.get_num_threads() == 1
            raise RuntimeError("stop")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)


def test_devices_are_torchs_own() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


# ============================================================================================================= scale


def test_the_identity_scale_standardises_and_comes_back(rng: np.random.Generator) -> None:
    y = rng.normal(40, 5, size=200)
    scale = OutcomeScale.learn(y, "continuous", log=False)
    z = scale.encode(y)
    assert z.mean() == pytest.approx(0, abs=1e-12) and z.std() == pytest.approx(1)
    np.testing.assert_allclose(scale.decode(z), y)
    assert scale.lowest is None and not scale.log
    assert OutcomeScale(**scale.to_dict()) == scale


def test_the_logarithmic_scale_comes_back(rng: np.random.Generator) -> None:
    y = rng.lognormal(2, 1, size=200)
    scale = OutcomeScale.learn(y, "continuous", log=True)
    np.testing.assert_allclose(scale.encode(y), stats.zscore(np.log(y)))
    np.testing.assert_allclose(scale.decode(scale.encode(y)), y)
    for dtype in (np.float64, np.float32):  # a wild draw stays a number
        assert np.isfinite(scale.decode(np.array([1e6], dtype=dtype))).all()


def test_beyond_the_largest_outcome_the_logarithm_goes_on_as_its_tangent(rng: np.random.Generator) -> None:
    y = rng.lognormal(2, 1, size=200)
    y[0] = 0.0
    scale = OutcomeScale.learn(y, "continuous", log=True)
    at = y.max() * np.array([0.5, 1 - 1e-9, 1 + 1e-9, 1.5, 40.0])
    z = scale.encode(at)
    np.testing.assert_allclose(scale.decode(z), at)
    step = 1e-6 * at
    slope = (scale.encode(at + step) - scale.encode(at - step)) / (2 * step)
    np.testing.assert_allclose(scale.log_slope(at), np.log(slope), atol=1e-6)
    assert z[2] - z[1] < 1e-8 and (np.diff(z) > 0).all()
    # ten standard deviations of the logarithm beyond the largest: a multiple of it, not a power
    far = scale.decode(scale.encode(y.max()[None]) + 10)
    assert far[0] < y.max() * (2 + 10 * scale.spread)


def test_zeros_survive_the_logarithm(rng: np.random.Generator) -> None:
    y = np.where(rng.random(300) < 0.3, 0.0, rng.lognormal(2, 1, size=300))
    scale = OutcomeScale.learn(y, "continuous", log=True)
    np.testing.assert_allclose(scale.decode(scale.encode(y)), y)
    # draws nearer to the atom than any outcome, and those below it, are the atom itself
    smallest = y[y > 0].min()
    z = scale.encode(np.array([0.0, 0.49 * smallest, 0.51 * smallest]))
    np.testing.assert_allclose(scale.decode(np.append(z, -50.0)), [0.0, 0.0, 0.51 * smallest, 0.0], atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_lowest_outcome_is_an_atom_only_where_it_is_common(share: float, rng: np.random.Generator) -> None:
    y = rng.gamma(3.0, size=400) - 2.0
    y[: int(400 * share)] = -5.0
    scale = OutcomeScale.learn(y, "continuous", log=False)
    below = scale.decode(scale.encode(np.array([-5.1, -40.0])))
    np.testing.assert_allclose(below, [-5.0, -5.0] if share else [-5.1, -40.0])
    np.testing.assert_allclose(scale.decode(scale.encode(y)), y)


def test_counts_come_back_from_anywhere_between_them_and_the_next(rng: np.random.Generator) -> None:
    y = np.concatenate([np.arange(500.0), [1e4, 123456.0]])
    scale = OutcomeScale.learn(y, "count", log=True)
    for u in (0.0, 1e-9, 0.5, 1 - 1e-6, rng.random(len(y))):
        np.testing.assert_array_equal(scale.decode(scale.encode(y + u)), y)
    decoded = scale.decode(rng.normal(scale=5, size=1000))
    assert (decoded >= 0).all() and (decoded == np.floor(decoded)).all()


def test_the_scale_of_a_binary_outcome_is_its_own() -> None:
    assert OutcomeScale.learn(np.array([0.0, 1.0, 1.0]), "binary", log=False) == OutcomeScale()


@pytest.mark.parametrize("log", [False, True])
def test_a_constant_outcome_has_a_scale(log: bool) -> None:
    y = np.full(7, 0.1)
    scale = OutcomeScale.learn(y, "continuous", log=log)
    np.testing.assert_allclose(scale.decode(scale.encode(y)), y)


def test_the_logarithm_is_considered_for_long_right_tails_only(rng: np.random.Generator) -> None:
    skewed = rng.lognormal(0, 1, size=500)
    assert may_be_log(skewed, "continuous") and may_be_log(np.append(skewed, 0.0), "continuous")
    assert not may_be_log(skewed, "count") and not may_be_log(rng.normal(50, 5, size=500), "continuous")
    assert not may_be_log(np.append(skewed, -0.1), "continuous")
    assert not may_be_log(np.zeros(5), "continuous") and not may_be_log(np.ones(5), "continuous")


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_logarithm_is_preferred_where_errors_are_normal_on_it(offset: float, rng: np.random.Generator) -> None:
    center, noise = 2 + 0.5 * rng.normal(size=2000), 0.5 * rng.normal(size=2000)
    log_normal = np.exp(center + noise) - offset
    error = log_normal - (np.exp(center + 0.125) - offset)
    assert prefers_log(log_normal, error, offset, noise)
    normal = 10 * center + 4 * noise  # on the logarithm these errors grow where the mean is small
    log_error = np.log(np.maximum(normal, 0.1) + offset) - np.log(np.maximum(10 * center, 0.1) + offset)
    assert not prefers_log(normal, 4 * noise, offset, log_error)


def test_preferring_the_logarithm_does_not_depend_on_the_unit(rng: np.random.Generator) -> None:
    y = np.exp(rng.normal(size=500))
    error, log_error = y - np.exp(0.5), np.log(y)
    assert {prefers_log(c * y, c * error, 0.0, log_error) for c in (1e-6, 1.0, 1e6)} == {True}


# ===================================================================================================== residual laws


def residuals(rng: np.random.Generator, n: int = 4000) -> tuple[Array, NDArray[np.int64]]:
    arm = rng.integers(2, size=n)
    return np.where(arm == 1, rng.exponential(size=n), rng.normal(size=n)), arm


def test_scores_and_residuals_are_inverse_and_increasing(rng: np.random.Generator) -> None:
    residual, arm = residuals(rng)
    law = ResidualLaw.learn(residual, arm, np.ones(len(arm)), 2)
    z = np.linspace(-6, 6, 301)
    back = law.residual(np.stack([z, z], axis=-1))
    assert back.shape == (301, 2) and (np.diff(back, axis=0) > 0).all()
    for k in range(2):
        np.testing.assert_allclose(law.score(back[:, k], np.full(301, k)), z, atol=1e-6)
    assert law.residual(rng.normal(size=(3, 4, 5, 2))).shape == (3, 4, 5, 2)


def test_normal_residuals_are_their_own_scores(rng: np.random.Generator) -> None:
    residual = 2.0 + 3.0 * rng.normal(size=8000)
    law = ResidualLaw.learn(residual, np.zeros(8000, dtype=np.int64), np.ones(8000), 1)
    z = np.linspace(-2.5, 2.5, 41)
    np.testing.assert_allclose(law.residual(z[:, None])[:, 0], 2 + 3 * z, atol=0.3)
    assert np.abs(law.residual(np.array([[3.5]])).item() - 12.5) < 1.5  # linear tails


def test_scores_of_any_law_are_standard_normal(rng: np.random.Generator) -> None:
    residual, arm = residuals(rng)
    law = ResidualLaw.learn(residual, arm, np.ones(len(arm)), 2)
    scores = law.score(residual, arm)
    for k in range(2):
        assert stats.kstest(scores[arm == k], "norm").statistic < 0.03
    drawn = law.residual(rng.normal(size=(20_000, 2)))
    np.testing.assert_allclose(np.quantile(drawn[:, 1], [0.1, 0.5, 0.9]), stats.expon.ppf([0.1, 0.5, 0.9]), atol=0.1)


def test_residual_laws_follow_the_weights(rng: np.random.Generator) -> None:
    residual, arm = rng.normal(size=8000), np.zeros(8000, dtype=np.int64)
    tilted = ResidualLaw.learn(residual, arm, np.exp(residual - 0.5), 1)  # turns N(0, 1) into N(1, 1)
    z = np.linspace(-1.5, 1.5, 7)
    np.testing.assert_allclose(tilted.residual(z[:, None])[:, 0], 1 + z, atol=0.25)
    weight = (np.arange(8000) % 2).astype(float)
    half = ResidualLaw.learn(residual, arm, weight, 1)
    alone = ResidualLaw.learn(residual[1::2], arm[1::2], np.full(4000, 9.0), 1)
    np.testing.assert_allclose(half.values, alone.values)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_a_handful_of_residuals_still_makes_an_increasing_law(n: int, rng: np.random.Generator) -> None:
    residual = rng.normal(size=n)
    law = ResidualLaw.learn(residual, np.zeros(n, dtype=np.int64), np.ones(n), 1)
    assert np.isfinite(law.values).all() and (np.diff(law.values) > 0).all()
    ties = ResidualLaw.learn(np.repeat(residual, 5), np.zeros(5 * n, dtype=np.int64), np.ones(5 * n), 1)
    assert (np.diff(ties.values) > 0).all()


# ================================================================================================= conditional means


@pytest.fixture(scope="module")
def study() -> dict[str, Tensor]:
    """A randomised study whose outcome is linear in x, with an effect of 1 + x0."""
    rng = np.random.default_rng(8)
    x, arm = rng.normal(size=(200, 3)), rng.integers(2, size=200)
    base, tau = x @ [1.0, -0.5, 0.0], 1 + x[:, 0]
    columns = np.stack([base, tau], axis=1)
    arrays = {"inputs": np.hstack([x, columns]), "extra": columns, "weight": np.ones(200), "tau": tau}
    arrays["y"] = base + (arm - 0.5) * tau + 0.5 * rng.normal(size=200)
    return {name: torch.from_numpy(v.astype(np.float32)) for name, v in arrays.items()} | {"arm": torch.from_numpy(arm)}


def fitted_means(study: dict[str, Tensor], binary: bool) -> ConditionalMeans:
    y = (study["y"] > 0).float() if binary else study["y"]
    settings, config = Settings(epochs=4, batch_size=100, seed=1), MeansConfig(n_networks=2, hidden=6)
    means, history = fit_means(
        study["inputs"], study["extra"], study["arm"], y, study["weight"], 2, binary, config, settings
    )
    assert len(history) == 4
    return means


@pytest.mark.parametrize("binary", [False, True])
def test_sums_over_blocks_of_rows_give_the_same_means(
    study: dict[str, Tensor], binary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of a million rows is never in double precision, or as features, all at once."""
    whole = fitted_means(study, binary)
    for module in (last_layer, means_module):
        monkeypatch.setattr(module, "_ROWS", 17)
    features = means_module._features
    sizes: list[int] = []

    def counted(network: ArmNetwork, inputs: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(inputs))
        return features(network, inputs)

    monkeypatch.setattr(means_module, "_features", counted)
    parts = fitted_means(study, binary)
    assert max(sizes) == 17
    at = (study["inputs"], study["extra"])
    np.testing.assert_allclose(parts.mean(*at), whole.mean(*at), atol=2e-4)
    np.testing.assert_allclose(parts.variance(*at), whole.variance(*at), rtol=2e-3)
    assert parts.out_of_sample is not None and whole.out_of_sample is not None
    np.testing.assert_allclose(parts.out_of_sample.mean, whole.out_of_sample.mean, atol=2e-4)
    np.testing.assert_allclose(parts.out_of_sample.log_sd, whole.out_of_sample.log_sd, atol=1e-5)


@pytest.mark.parametrize("binary", [False, True])
def test_conditional_means_know_the_effect_and_come_back_from_their_state(
    study: dict[str, Tensor], binary: bool
) -> None:
    means, at = fitted_means(study, binary), (study["inputs"], study["extra"])
    members, log_sd = means.members(*at)
    assert members.shape[1:] == means.mean(*at).shape == log_sd.shape == (200, 2)
    np.testing.assert_allclose(members.mean(0), means.mean(*at), atol=1e-3)
    cate, tau = (members[:, :, 1] - members[:, :, 0]).numpy(), study["tau"].numpy()
    if binary:
        assert np.corrcoef(cate.mean(0), tau)[0, 1] > 0.8
    else:
        error = cate.mean(0) - tau
        assert np.sqrt(np.mean(error**2)) < 0.3
        assert np.mean(error**2 / cate.var(0)) < 6  # the posterior knows about how wrong it is
    state = {name: value.clone() for name, value in means_state(means).items()}
    again = means_from_state(state, {"n_networks": 2, "n_inputs": 5, "n_arms": 2, "hidden": 6})
    for one, other in zip(means.members(*at), again.members(*at), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_conditional_means_repeat_with_their_seed(study: dict[str, Tensor]) -> None:
    one, other = (fitted_means(study, False).mean(study["inputs"], study["extra"]) for _ in range(2))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
