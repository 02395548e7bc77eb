"""TARNet, CFRNet and DragonNet against closed forms, simulated propensities, and one another."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment
from scipy.special import expit
from sklearn.dummy import DummyClassifier, DummyRegressor
from torch import Tensor

import effects
from effects import CFRNet, DragonNet, EffectEstimator, Nuisance, TARNet
from effects.metrics import pehe
from effects.models.representation import DISTANCES, imbalance
from effects.nn.losses import cross_entropy, gaussian_nll, mmd, sinkhorn, targeted_error
from effects.nn.means import Batch
from effects.nn.networks import ArmNetwork
from effects.nn.training import Objective, Settings, train

FAST = Nuisance(DummyRegressor(), DummyClassifier(strategy="prior"), n_folds=2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def ones(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:-1], dtype=x.dtype)


def confounded(n: int = 400, n_arms: int = 2, seed: int = 0) -> dict[str, Any]:
    """Two covariates decide arm and outcome, three do nothing; the effect of arm a is a (1 + x1 / 2)."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    logits = np.outer(X[:, 0] + 0.5 * X[:, 1], np.arange(n_arms))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    a = (p.cumsum(1) < rng.random((n, 1))).sum(1)
    y = X[:, 0] + X[:, 1] + a * (1 + 0.5 * X[:, 1]) + 0.5 * rng.normal(size=n)
    return {"X": X, "y": y, "treatment": a, "propensity": p, "cate": 1 + 0.5 * X[:, 1]}


def represent(est: Any, X: Any) -> Tensor:
    """What the networks make of covariates, (n_networks, n, hidden)."""
    with torch.no_grad():
        return est.means_.network.represent(torch.from_numpy(est._inputs(est.schema_.encode(X))))


def fit(est: EffectEstimator, data: dict[str, Any], **options: Any) -> EffectEstimator:
    return est.fit(data["X"], data["y"], treatment=data["treatment"], **options)


# ================================================================================================= distances of samples


def test_mmd_of_equal_samples_is_zero_and_of_two_points_known() -> None:
    x = cloud(3, 20, 4)
    assert_allclose(mmd(x, x, ones(x), ones(x), unbiased=False), 0.0, atol=1e-12)
    assert_allclose(mmd(x, x.flip(-2), ones(x), ones(x), "linear", unbiased=False), 0.0, atol=1e-12)
    one, other = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert_allclose(mmd(one, other, ones(one), ones(other), unbiased=False), 2 - 2 * np.exp(-12.5))
    assert_allclose(mmd(one, other, ones(one), ones(other), "linear", unbiased=False), 25.0)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_unbiased_mmd_estimates_that_of_the_laws(shift: float) -> None:
    # X - X' and X - Y are normal with variance 2, and E exp(-D^2 / 2) = exp(-mean^2 / 6) / sqrt(3)
    x, y = cloud(4000, 6, 1), cloud(4000, 5, 1, seed=1) + shift
    p = torch.ones(4000, 1, dtype=torch.float64)
    values = mmd(x, y, p, p)
    expected = 2 / np.sqrt(3) * (1 - np.exp(-(shift**2) / 6))
    assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(4000)
    assert mmd(x, y, p, p, unbiased=False).mean() > expected + 0.1
    linear = mmd(x, y, p, p, "linear")
    assert abs(linear.mean() - shift**2) < 4 * linear.std() / np.sqrt(4000)


def test_wasserstein_between_shifted_clouds_is_the_shift() -> None:
    x = cloud(3, 30, 1).clamp(-2, 2)
    shift = torch.tensor([5.0, 10.0, 1000.0], dtype=torch.float64)[:, None, None]
    assert_allclose(sinkhorn(x, x + shift, ones(x), ones(x)), shift.flatten(), rtol=1e-6)
    # in the plane, a translation is optimal: smoothing lets go of little
    x = cloud(40, 2)
    moved = x + torch.tensor([6.0, 8.0])
    assert_allclose(sinkhorn(x, moved, ones(x), ones(x), smoothing=0.002, n_steps=1000), 10.0, rtol=2e-3)


def test_wasserstein_is_that_of_the_best_assignment() -> None:
    x, y = cloud(25, 3), cloud(25, 3, seed=1) * 2 + 0.5
    cost = torch.cdist(x, y).numpy()
    best = cost[linear_sum_assignment(cost)].mean()
    assert_allclose(sinkhorn(x, y, ones(x), ones(y), smoothing=0.01, n_steps=2000), best, rtol=0.01)
    # ten steps at the default smoothing: above the minimum, below the cost of the independent plan
    assert best < sinkhorn(x, y, ones(x), ones(y)) < cost.mean()


def test_wasserstein_takes_the_steps_of_the_logarithmic_algorithm() -> None:
    x, y = cloud(12, 2).float(), cloud(7, 2, seed=1).float() * 30  # far apart: plain exponentials would vanish
    cost = torch.cdist(x, y).double()
    smoothing = 0.002 * cost.mean()
    f, g = torch.zeros(12, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    for _ in range(500):
        f = -smoothing * (torch.logsumexp((g - cost) / smoothing, 1) - np.log(1 / 12))
        g = -smoothing * (torch.logsumexp((f[:, None] - cost) / smoothing, 0) - np.log(1 / 7))
    expected = (torch.exp((f[:, None] + g - cost) / smoothing) * cost).sum()
    assert torch.exp(-cost / smoothing).float().sum(1).min() == 0
    assert_allclose(sinkhorn(x, y, ones(x), ones(y), 0.002, 500), expected, rtol=1e-3)


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_know_weights_and_no_order(name: str) -> None:
    distance = DISTANCES[name]
    x, y = cloud(2, 9, 3), cloud(2, 6, 3, seed=1) + 1
    value = distance(x, y, ones(x), ones(y))
    assert value.shape == (2,) and (value > 0).all() and value[0] != value[1]
    torch.testing.assert_close(distance(x.flip(1), y.roll(2, 1), ones(x), ones(y)), value)
    torch.testing.assert_close(distance(x, y, 5 * ones(x), ones(y) / 3), value)  # ratios alone matter
    p = ones(x)
    p[:, 4:] = 0.0
    torch.testing.assert_close(distance(x, y, p, ones(y)), distance(x[:, :4], y, ones(x[:, :4]), ones(y)))
    torch.testing.assert_close(distance(y, x, ones(y), p), distance(y, x[:, :4], ones(y), ones(x[:, :4])))
    # members may weigh differently: each gets what it would get alone
    p[1] = 1.0 + torch.arange(9)
    torch.testing.assert_close(distance(x, y, p, ones(y))[1], distance(x[1], y[1], p[1], ones(y[1])))
    if name == "wasserstein":
        twice = sinkhorn(torch.cat([x, x[:, :1]], 1), y, ones(cloud(2, 10, 1)), ones(y), n_steps=300)
        p = ones(x)
        p[:, 0] = 2.0
        torch.testing.assert_close(twice, sinkhorn(x, y, p, ones(y), n_steps=300))


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_missing_sample_contributes_nothing(name: str, n: int) -> None:
    x, y = cloud(2, n, 3).requires_grad_(), cloud(2, 5, 3, seed=1).requires_grad_()
    q = ones(y)
    q[0] = 0.0  # missing for the first member only
    value = DISTANCES[name](x, y, ones(x), q)
    (value.sum() + 0.0 * (x.sum() + y.sum())).backward()
    assert value[0] == 0 and torch.isfinite(value).all()
    assert bool(value[1] != 0) == (n > (name == "mmd"))  # a single row has no pair
    assert y.grad is not None and x.grad is not None
    assert torch.isfinite(y.grad).all() and torch.isfinite(x.grad).all() and (y.grad[0] == 0).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_following_the_gradient_brings_samples_together(name: str) -> None:
    x, y = cloud(1, 20, 2), (cloud(1, 12, 2, seed=1) + 1.5).requires_grad_()
    before = float(DISTANCES[name](x, y, ones(x), ones(y)).detach())
    for _ in range(100):
        value = DISTANCES[name](x, y, ones(x), ones(y)).sum()
        (slope,) = torch.autograd.grad(value, y)
        y = (y - 0.5 * slope).detach().requires_grad_()
    assert float(value.detach()) < 0.5 * before
    assert torch.isfinite(y).all()


def test_imbalance_has_no_unit_and_no_special_arm() -> None:
    shared, arm = cloud(2, 60, 4), torch.arange(60) % 3
    shared[:, arm == 1] += 1.0
    weight = 0.5 + torch.rand(2, 60, generator=seeded(3), dtype=torch.float64)
    weight[0, :7] = 0.0
    for name, distance in DISTANCES.items():
        # ten steps of Sinkhorn's algorithm end nearer to one marginal than to the other
        close: Any = {"rtol": 1e-7, "atol": 1e-9} if name == "mmd" else {"rtol": 1e-3, "atol": 0.0}
        value = imbalance(shared, arm, weight, 3, distance)
        assert value.shape == (2,) and (value > 0).all()
        torch.testing.assert_close(imbalance(7 * shared - 3, arm, weight, 3, distance), value)
        torch.testing.assert_close(imbalance(shared, (arm + 1) % 3, weight, 3, distance), value, **close)
        torch.testing.assert_close(
            imbalance(shared.flip(1), arm.flip(0), weight.flip(1), 3, distance), value, rtol=1e-6, atol=1e-9
        )
        # what a member holds out it does not see
        held = shared.clone()
        held[0, :7] = 100.0
        torch.testing.assert_close(imbalance(held, arm, weight, 3, distance), value)
    # few rows cannot stretch the unit
    far = shared.clone()
    far[:, 50:53] += 1e4
    assert (imbalance(far, arm, ones(far), 3, mmd) > 0.3 * imbalance(shared, arm, ones(far), 3, mmd)).all()
    # in its unit, by hand
    unit = shared.clone()
    for k in range(2):
        used = shared[k, 7 * (k == 0) :]
        unit[k] /= (used[1:] - used[:-1]).norm(dim=1).median()
    pairs = [
        mmd(unit[:, arm == a], unit[:, arm == b], weight[:, arm == a], weight[:, arm == b])
        for a, b in combinations(range(3), 2)
    ]
    torch.testing.assert_close(imbalance(shared, arm, weight, 3, mmd), torch.stack(pairs).mean(0))


# ================================================================================================= DragonNet's losses


def test_cross_entropy_is_the_log_probability_of_the_arm() -> None:
    logits, arm = cloud(3, 8, 4), torch.arange(8) % 4
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), arm.repeat(3), reduction="none").view(3, 8)
    torch.testing.assert_close(cross_entropy(logits, arm), expected)


@pytest.mark.parametrize("binary", [False, True])
def test_targeted_regularisation_solves_the_score(binary: bool) -> None:
    rng = np.random.default_rng(0)
    n, arm = 600, torch.arange(600) % 3
    mean, g = torch.from_numpy(rng.normal(size=n)), torch.from_numpy(rng.uniform(0.1, 0.9, n))
    y = torch.from_numpy((rng.random(n) < 0.6).astype(float) if binary else 1 + rng.normal(size=n))
    epsilon = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def score() -> Tensor:
        moved = mean + epsilon.detach()[arm] / g
        residual = (y - (torch.sigmoid(moved) if binary else moved)) / g
        return torch.stack([residual[arm == a].sum() / n for a in range(3)])

    def loss() -> Tensor:
        return targeted_error(mean, y, epsilon[arm], g, binary).mean()

    # its derivative is the score itself
    (slope,) = torch.autograd.grad(loss(), epsilon)
    torch.testing.assert_close(slope, -(1.0 if binary else 2.0) * score())
    assert (score().abs() > 0.05).all()
    optimiser = torch.optim.LBFGS([epsilon], max_iter=100, tolerance_grad=1e-10)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)
    assert_allclose(score(), 0.0, atol=1e-4)


def test_targeted_regularisation_of_two_arms_is_the_papers() -> None:
    rng = np.random.default_rng(1)
    q, y, g, t = rng.normal(size=50), rng.normal(size=50), rng.uniform(0.1, 0.9, 50), rng.integers(2, size=50)
    e = 0.3
    paper = (y - (q + e * (t / g - (1 - t) / (1 - g)))) ** 2
    epsilon, own = np.array([-e, e])[t], np.where(t == 1, g, 1 - g)
    q_, y_, epsilon_, own_ = (torch.from_numpy(v) for v in (q, y, epsilon, own))
    torch.testing.assert_close(targeted_error(q_, y_, epsilon_, own_), torch.from_numpy(paper))


# ================================================================================================= the estimators


@pytest.mark.parametrize(
    "without", [CFRNet(alpha=0), CFRNet(penalty="mmd", alpha=0.0), DragonNet(alpha=0, beta=0)], ids=repr
)
def test_without_their_penalties_they_are_tarnet(without: EffectEstimator) -> None:
    options: Any = {"n_networks": 3, "hidden": 8, "epochs": 5, "random_state": 4, "nuisance": FAST}
    data = confounded(150)
    plain = fit(TARNet(**options), data)
    found = fit(without.set_params(**options), data)
    assert_array_equal(found.predict(data["X"]), plain.predict(data["X"]))
    penalised = {"beta": 1.0} if isinstance(without, DragonNet) else {"alpha": 1.0}
    other = fit(without.set_params(**penalised), data)
    assert np.abs(other.predict(data["X"]) - plain.predict(data["X"])).max() > 1e-3


@pytest.mark.parametrize(("penalty", "n_arms"), [("mmd", 2), ("wasserstein", 2), ("mmd", 3)])
def test_the_penalty_brings_the_arms_together(penalty: str, n_arms: int) -> None:
    data, found = confounded(300, n_arms), []
    arm = torch.from_numpy(data["treatment"])
    for alpha in (0.0, 0.1, 3.0):
        options: Any = {"n_networks": 3, "hidden": 8, "epochs": 25, "random_state": 0, "nuisance": FAST}
        est = fit(CFRNet(penalty=penalty, alpha=alpha, nuisance_inputs=False, **options), data)
        shared = represent(est, data["X"])
        found.append(float(imbalance(shared, arm, torch.ones(3, 300), n_arms, mmd).mean()))
    none, some, much = found
    assert some < none and much < 0.3 * none  # near zero, an unbiased estimate is a little above or below


def test_the_propensity_heads_are_calibrated() -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(1000, 4))
    e = expit(X[:, 0] - 0.5 * X[:, 1] - 0.5)
    a = (rng.random(1000) < e).astype(int)
    y = X[:, 0] + a + rng.normal(size=1000)
    est = DragonNet(n_networks=4, hidden=16, epochs=40, random_state=0, nuisance=FAST, nuisance_inputs=False)
    est.fit(X, y, treatment=np.where(a == 1, "drug", "placebo"))
    new = rng.normal(size=(2000, 4))
    truth, found = expit(new[:, 0] - 0.5 * new[:, 1] - 0.5), est.propensity(new)
    assert est.arms_ == ("placebo", "drug") and found.shape == (2000, 2)
    assert_allclose(found.sum(1), 1.0)
    assert np.sqrt(np.mean((found[:, 1] - truth) ** 2)) < 0.06  # the truth's own spread is 0.21
    for part in np.array_split(np.argsort(found[:, 1]), 5):
        assert abs(found[part, 1].mean() - truth[part].mean()) < 0.06


def test_propensity_heads_are_saved(tmp_path: Path) -> None:
    data = confounded(100, 3)
    est = fit(quick("DragonNet"), data)
    again = effects.load(est.save(tmp_path / "dragon"))
    assert isinstance(est, DragonNet) and isinstance(again, DragonNet)
    assert est.propensity(data["X"]).std(0).min() > 1e-4
    assert_array_equal(again.propensity(data["X"]), est.propensity(data["X"]))


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_training_with_targeted_regularisation_solves_the_score(beta: float) -> None:
    data = confounded(300, 3, seed=2)
    X, y = (torch.from_numpy(data[name].astype(np.float32)) for name in ("X", "y"))
    arm, weight = torch.from_numpy(data["treatment"]), torch.ones(2, 300)
    network = ArmNetwork(2, 5, 3, 2, 2, seeded(), propensity=True)  # too small to solve it by itself
    penalty = DragonNet(beta=beta)._penalty(3, False)
    assert penalty is not None

    def predict(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shared = network.represent(X[rows])
        own = arm[rows].view(1, -1, 1, 1).expand(2, -1, 1, 2)
        mean, log_sd = network.outcomes(shared).gather(2, own).squeeze(2).unbind(-1)
        return shared, mean, log_sd

    def loss(rows: Tensor, _: torch.Generator) -> Tensor:
        shared, mean, log_sd = predict(rows)
        batch = Batch(shared, mean, y[rows], arm[rows], weight[:, rows])
        return gaussian_nll(mean, log_sd, y[rows]) + penalty(network, batch)

    settings = Settings(epochs=600, batch_size=300, seed=0)
    train([Objective(network, loss, 1e-2, 0.0)], weight, torch.zeros(2, 300, dtype=torch.bool), settings)
    with torch.no_grad():
        shared, mean, _ = predict(torch.arange(300))
        own = (torch.exp(-cross_entropy(network.propensity(shared), arm)) + 0.01) / 1.03
        residual = (y - mean - network.epsilon[:, arm] / own) / own
        score = torch.stack([(residual * (arm == a)).mean(1) for a in range(3)])
    assert bool((network.epsilon != 0).all()) == (beta > 0)
    assert (float(score.abs().max()) < 0.03) == (beta > 0), score


@pytest.mark.parametrize("cls", [TARNet, CFRNet, DragonNet])
def test_covariates_alone_are_the_papers_inputs(cls: Any) -> None:
    data = confounded(150)
    options = {"n_networks": 3, "hidden": 8, "epochs": 5, "random_state": 4}
    medians = Nuisance(DummyRegressor(strategy="median"), DummyClassifier(strategy="prior"), n_folds=2)
    for nuisance_inputs in (False, True):
        one, other = (
            fit(cls(nuisance=nuisance, nuisance_inputs=nuisance_inputs, **options), data)
            for nuisance in (FAST, medians)
        )
        same = np.array_equal(one.predict(data["X"]), other.predict(data["X"]))
        assert same is not nuisance_inputs
        assert np.array_equal(one.held_out_.draws, other.held_out_.draws) is not nuisance_inputs


@pytest.mark.parametrize("cls", [CFRNet, DragonNet])
def test_an_arm_of_few_rows_is_missing_from_most_batches(cls: Any) -> None:
    rng = np.random.default_rng(0)
    X, a = rng.normal(size=(300, 3)), np.zeros(300, dtype=int)
    a[:3], a[3:90] = 2, 1
    est = cls(n_networks=3, hidden=8, epochs=5, random_state=0, nuisance=FAST)
    est.fit(X, X[:, 0] + a, treatment=a)
    assert np.isfinite(est.predict(X)).all()


@pytest.mark.parametrize(
    ("est", "message"),
    [
        (CFRNet(penalty="euclid"), "penalty must be one of .*'euclid'"),
        (CFRNet(alpha=-1), "alpha must be"),
        (DragonNet(beta=float("nan")), "beta must be"),
        (TARNet().set_params(nuisance_inputs="no"), "nuisance_inputs must be True or False, got 'no'"),
        (TARNet(hidden=0), "hidden must be"),
    ],
)
def test_nonsense_is_refused_by_name(est: EffectEstimator, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(est, confounded(60))


@pytest.mark.parametrize("name", ["TARNet", "CFRNet", "DragonNet"])
def test_they_find_a_confounded_effect(name: str) -> None:
    data, new = confounded(500), confounded(300, seed=1)
    est = fit(quick(name, hidden=32, epochs=30, nuisance=FAST), data)
    naive = data["y"][data["treatment"] == 1].mean() - data["y"][data["treatment"] == 0].mean()
    cate = est.predict(new["X"])
    assert abs(naive - new["cate"].mean()) > 0.2
    assert abs(cate.mean() - new["cate"].mean()) < 0.15
    assert pehe(new["cate"], cate) < 0.35


@pytest.mark.slow
@pytest.mark.parametrize("cls", [TARNet, CFRNet, DragonNet])
def test_ihdp_is_at_least_as_good_as_published(cls: Any) -> None:
    from effects.datasets import load_ihdp

    train, test = load_ihdp(replication=1).split(random_state=1)
    est = cls(random_state=0).fit(train.X, train.y, treatment=train.treatment)
    assert test.cate is not None
    assert pehe(test.cate, est.predict(test.X)) < 0.4
