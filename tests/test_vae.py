"""CEVAE and VCI: the textbook's likelihoods, an objective term by term, counterfactuals whose truth is known."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import quick
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.exceptions import NotFittedError

import effects
from effects import CEVAE, VCI
from effects.datasets import (
    make_binary,
    make_heteroscedastic,
    make_skewed,
    make_three_arms,
    make_zero_inflated,
)
from effects.models.vae import _calibrated, _scores_in
from effects.models.vci import AbductionNetwork, Weights, _noise
from effects.nn.latent import ColumnLaws, LatentNetwork, normal_kl
from effects.nn.networks import ArmNetwork
from effects.nn.scale import ResidualLaw, normal_nodes
from effects.schema import Schema

HALF_LOG_TWO_PI = 0.5 * np.log(2 * np.pi)


def mixed_table() -> tuple[pd.DataFrame, Schema, np.ndarray]:
    """Two numbers (one with gaps), a number of two values, a bool and a category with gaps; 60 rows."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"age": rng.normal(50, 9, 60), "bmi": rng.normal(27, 4, 60), "dose": rng.choice([5.0, 20.0], 60)})
    X["smoker"], X["city"] = rng.random(60) < 0.4, rng.choice(["Bern", "Chur", "Genf"], 60)
    X.loc[:9, "bmi"], X.loc[5:11, "city"] = np.nan, None
    schema = Schema.learn(X, rng.normal(size=60), np.arange(60) % 2)
    return X, schema, schema.encode(X)


# ---- the likelihood of mixed columns ---------------------------------------------------------------------------------


def test_every_column_gets_its_own_likelihood() -> None:
    """Against scipy's densities and masses, column by column; only the normal's constant is left out."""
    X, schema, E = mixed_table()
    laws, names = ColumnLaws.learn(schema, E), list(schema.feature_names)
    rng, rows = np.random.default_rng(1), torch.arange(8, 30)
    location, log_sd = rng.normal(size=(2, 22, len(names))), rng.normal(size=(2, 1, len(names))).clip(-1, 1)
    got = laws.nll(torch.from_numpy(location).float(), torch.from_numpy(log_sd).float(), rows).numpy()
    expected, some = np.zeros((2, 22)), slice(8, 30)
    for name, seen in (("age", np.ones(22)), ("bmi", X["bmi"].notna().to_numpy()[some])):
        j = names.index(name)
        density = stats.norm.logpdf(E[some, j], location[..., j], np.exp(log_sd[..., j]))
        expected -= seen * (density + HALF_LOG_TWO_PI)
    events = {"bmi=<missing>": X["bmi"].isna(), "dose": X["dose"] == 20.0, "smoker": X["smoker"]}
    for name, event in events.items():
        p = 1 / (1 + np.exp(-location[..., names.index(name)]))
        expected -= stats.bernoulli.logpmf(event.to_numpy()[some], p)
    city = [j for j, name in enumerate(names) if name.startswith("city=")]
    assert len(city) == 4  # with the level <missing>
    p = np.exp(location[..., city]) / np.exp(location[..., city]).sum(-1, keepdims=True)
    expected -= np.log((p * E[some, city[0] : city[-1] + 1]).sum(-1))
    assert_allclose(got, expected, rtol=2e-5)


def test_a_missing_number_has_no_likelihood() -> None:
    """Whatever was filled in: only the indicator is judged."""
    X, schema, E = mixed_table()
    other = E.copy()
    other[:10, list(schema.feature_names).index("bmi")] += 3.0
    location, log_sd = torch.randn(1, 60, E.shape[1], generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 9)
    one, two = (
        ColumnLaws.learn(schema, e).nll(location, log_sd[..., : E.shape[1]], torch.arange(60)) for e in (E, other)
    )
    assert torch.equal(one, two)
    shown = np.where(X["bmi"].isna(), E[:, 1], E[:, 1] + 3.0)
    other[:, 1] = shown
    assert not torch.equal(one, ColumnLaws.learn(schema, other).nll(location, log_sd, torch.arange(60)))


def test_the_divergence_of_two_normals() -> None:
    torch.manual_seed(0)
    mean, log_sd, other, other_log_sd = (torch.randn(3, 5, 4) for _ in range(4))
    one, two = torch.distributions.Normal(mean, log_sd.exp()), torch.distributions.Normal(other, other_log_sd.exp())
    expected = torch.distributions.kl_divergence(one, two).sum(-1)
    assert_allclose(normal_kl(mean, log_sd, other, other_log_sd), expected, rtol=1e-4)


# ---- CEVAE's networks ------------------------------------------------------------------------------------------------


def small_network(conditioned: bool = True, binary: bool = False, n_arms: int = 3) -> LatentNetwork:
    generator = torch.Generator().manual_seed(0)
    seen = torch.ones(2, 6)
    seen[1, 4:] = 0.0
    return LatentNetwork(2, 6, 5, n_arms, 8, 4, conditioned, binary, generator, seen).requires_grad_(False)


def arm_heads(network: ArmNetwork, inputs: torch.Tensor, arm: torch.Tensor) -> torch.Tensor:
    """Heads of each row's own arm, by the plain forward pass."""
    return torch.stack([network(inputs)[:, i, int(t)] for i, t in enumerate(arm)], 1)


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_the_objective_is_the_papers_term_by_term(conditioned: bool, binary: bool) -> None:
    """Eqs. 8 and 9 from plain forward passes on concatenated inputs and torch's distributions."""
    network, generator = small_network(conditioned, binary), torch.Generator().manual_seed(1)
    inputs, arm = torch.randn(12, 6, generator=generator), torch.arange(12) % 3
    y = (torch.rand(12, generator=generator) < 0.5).float() if binary else torch.randn(12, generator=generator)
    laws = ColumnLaws(torch.arange(5), torch.arange(0), (), inputs[:, :5], torch.ones(12, 5))
    got = network.loss(inputs, y, arm, laws, torch.arange(12), 0.7, torch.Generator().manual_seed(2))

    def outcome(heads: torch.Tensor) -> torch.Tensor:
        if binary:
            return torch.distributions.Bernoulli(logits=heads[..., 0]).log_prob(y)
        return torch.distributions.Normal(heads[..., 0], heads[..., 1].exp()).log_prob(y) + HALF_LOG_TWO_PI

    both = torch.cat([inputs, y[:, None]], 1).expand(2, -1, -1)
    mean, log_sd = arm_heads(network.encoder, both, arm).chunk(2, -1)
    q = torch.distributions.Normal(mean, log_sd.clamp(-5, 2).exp())
    z = mean + q.stddev * torch.randn(mean.shape, generator=torch.Generator().manual_seed(2))
    prior = torch.distributions.Normal(torch.zeros_like(z), torch.ones_like(z))
    decoded = arm_heads(network.decoder, torch.cat([inputs.expand(2, -1, -1), z], -1) if conditioned else z, arm)
    x = torch.distributions.Normal(network.columns(z), 1.0).log_prob(inputs[:, :5]) + HALF_LOG_TWO_PI
    elbo = 0.7 * x.sum(-1) + torch.distributions.Categorical(logits=network.arm(z)).log_prob(arm) + outcome(decoded)
    elbo = elbo - torch.distributions.kl_divergence(q, prior).sum(-1)
    guess = network.guess.represent(inputs)
    auxiliary = torch.distributions.Categorical(logits=network.guess_arm(guess)).log_prob(arm)
    auxiliary = auxiliary + outcome(arm_heads(network.guess, inputs, arm))
    assert_allclose(got, -(elbo + auxiliary), rtol=2e-4, atol=2e-4)


def test_the_mean_is_linear_in_the_averaged_features() -> None:
    """So the Bayesian last layer on the averages is one of E[Y(a) | x]: same mean as averaging the decoder over z."""
    network, inputs = small_network(), torch.randn(300, 6, generator=torch.Generator().manual_seed(3))
    _, mean, log_sd = network.generate(inputs, network.draw_latents(inputs))
    variance = mean.var(2, unbiased=False) + log_sd.exp().square().mean(2)
    for k, feature in enumerate(network.features(inputs)):
        assert_allclose(network.decoder.heads[k](feature[..., :-1])[..., 0], mean.mean(2)[..., k], atol=1e-5)
        assert_allclose(feature[..., -1], 0.5 * variance[..., k].log(), atol=1e-5)


def test_laws_are_sorted_centred_and_of_the_right_width() -> None:
    network, inputs = small_network(), torch.randn(300, 6, generator=torch.Generator().manual_seed(3))
    law, features = network.laws(inputs), network.features(inputs)
    assert (law.diff(dim=1) >= 0).all()
    assert_allclose(law.mean(1), 0.0, atol=1e-5)
    total = torch.stack([f[..., -1] for f in features], -1).exp()
    assert_allclose(law.std(1), total, rtol=0.35)
    assert_allclose((law.std(1) / total).mean(), 1.0, atol=0.05)
    member = torch.arange(300) % 2
    picked = network.laws(inputs, member)
    assert torch.equal(picked[:, 1::2], law[1, :, 1::2]) and torch.equal(picked[:, ::2], law[0, :, ::2])


def test_latents_come_from_the_arms_as_often_as_the_model_says() -> None:
    """With an encoder that ignores all but the arm, the latents count the arms."""
    network, inputs = small_network(), torch.randn(40, 6, generator=torch.Generator().manual_seed(4))
    for k, head in enumerate(network.encoder.heads):
        head.weight.zero_()  # type: ignore[operator]
        head.bias.copy_(torch.tensor([float(k)] * 4 + [-9.0] * 4))  # type: ignore[operator]
    z = network.draw_latents(inputs)[..., 0].round()
    share = network.guess_arm(network.guess.represent(inputs)).softmax(-1)
    for k in range(3):
        assert_allclose((z == k).float().mean(2), share[..., k], atol=1 / 32 + 1e-6)


# ---- CEVAE's law around the mean -------------------------------------------------------------------------------------


def test_scores_and_quantiles_of_a_law_are_inverse() -> None:
    """Of a normal law, the score is the standardised value, beyond the draws too; a wider law gives wider draws."""
    value = np.array([-9.0, -2.1, 0.0, 0.3, 1.9, 4.0])
    sd = np.array([1.0, 2.0, 0.5, 1.0, 1.0, 3.0])
    law = normal_nodes(32)[:, None] * sd
    assert_allclose(_scores_in(law, value), value / sd, atol=1e-9)
    knots = np.linspace(-2.6, 2.6, 49)
    for factor in (1.0, 1.5):
        residuals = ResidualLaw(knots, np.stack([knots, factor * knots]))
        draws = _calibrated(np.stack([law, law], -1)[None], residuals, 200)
        assert_allclose(draws[0, :, 1, 0], 2.0 * normal_nodes(200), atol=1e-9)
        assert_allclose(draws[0, :, 1, 1], factor * 2.0 * normal_nodes(200), atol=1e-9)
    # beyond the draws, the average slope of the outer five: one draw far out does not set the tail
    nodes, cubic = normal_nodes(32), normal_nodes(32) ** 3
    slope = (cubic[-1] - cubic[-5]) / (nodes[-1] - nodes[-5])
    top = np.array([cubic[-1] + 2.0 * slope, -cubic[-1] - 2.0 * slope])
    assert_allclose(_scores_in(np.stack([cubic, cubic], 1), top), [nodes[-1] + 2.0, -nodes[-1] - 2.0])
    twice = _calibrated(cubic[None, :, None, None], ResidualLaw(knots, 2 * knots[None]), 64)[0, :, 0, 0]
    assert_allclose(
        twice[[0, -1]], np.array([-1.0, 1.0]) * (cubic[-1] + slope * (2 * normal_nodes(64)[-1] - nodes[-1]))
    )
    shifted = ResidualLaw(knots, knots[None] + 0.4)
    assert_allclose(_calibrated(law[None, :, :, None], shifted, 50).mean(1), 0.0, atol=1e-12)


# ---- CEVAE -----------------------------------------------------------------------------------------------------------


@cache
def proxies(n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A hidden confounder with six noisy proxies; the effect is 1 for everybody."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    X = z[:, None] + 0.7 * rng.normal(size=(n, 6))
    a = (rng.random(n) < 1 / (1 + np.exp(-2 * z))).astype(int)
    return X, a, 2 * z + a + 0.5 * rng.normal(size=n)


@cache
def paper_model() -> Any:
    X, a, y = proxies()
    model: Any = quick("CEVAE", condition_on_covariates=False, covariate_weight=1.0, n_networks=2, epochs=50, lr=1e-2)
    return model.fit(X, y, treatment=a)


def test_confounding_with_proxies_is_adjusted_for() -> None:
    X, a, y = proxies()
    naive = y[a == 1].mean() - y[a == 0].mean()
    assert naive > 3
    assert abs(paper_model().predict(X).mean() - 1.0) < (naive - 1) / 3


def test_the_check_sees_latents_that_are_used() -> None:
    """In the paper's model all that y has of x goes through z."""
    X, a, y = proxies()
    check = paper_model().latent_check(X, y, treatment=a)
    assert check.used and check.gain > 10 * check.gain_se and check.n_active >= 0.5
    assert (check.table["kl"].diff().dropna() <= 0).all() and check.table.index.name == "latent"
    assert str(check).startswith("The latents are used")


@pytest.mark.parametrize("make", [make_heteroscedastic, make_binary, make_three_arms])
def test_the_check_sees_latents_that_are_not(make: Any) -> None:
    """A decoder cut off from z: neither likelihood nor effect can depend on it."""
    data = make(80, random_state=0)
    est: Any = quick("CEVAE", epochs=2).fit(data.X, data.y, treatment=data.treatment)
    with torch.no_grad():
        est._network.decoder.trunk[0].weight[:, -4:] = 0.0
    check = est.latent_check(data.X, data.y, treatment=data.treatment)
    assert not check.used and "are not used" in str(check)
    assert_allclose([check.gain, check.effect_shift], 0.0, atol=1e-6)


def test_a_collapsed_latent_is_not_active() -> None:
    X, a, y = proxies()
    est: Any = quick("CEVAE", epochs=2).fit(X, y, treatment=a)
    with torch.no_grad():
        for head in est._network.encoder.heads:
            head.weight.zero_()
            head.bias.zero_()
    check = est.latent_check(X, y, treatment=a)
    assert check.n_active == 0
    assert_allclose(check.table.to_numpy(), 0.0, atol=1e-9)


def test_the_unit_of_the_outcome_does_not_matter() -> None:
    data = make_heteroscedastic(90, random_state=1)
    one = quick("CEVAE").fit(data.X, data.y, treatment=data.treatment)
    other = quick("CEVAE").fit(data.X, 100 * data.y + 1000, treatment=data.treatment)
    scale = 100 * data.y.std()
    assert_allclose(other.predict(data.X), 100 * one.predict(data.X), atol=0.02 * scale)


@pytest.mark.parametrize("name", ["CEVAE", "VCI"])
def test_the_name_of_an_arm_does_not_matter(name: str) -> None:
    data = make_heteroscedastic(90, random_state=1)
    one = quick(name).fit(data.X, data.y, treatment=data.codes)
    other = quick(name, control="z").fit(data.X, data.y, treatment=np.where(data.codes == 1, "a", "z"))
    assert other.arms_ == ("z", "a")
    assert_array_equal(one.predict(data.X), other.predict(data.X))


def test_cevae_refuses_what_makes_no_sense() -> None:
    data = make_heteroscedastic(60, random_state=0)
    for options, text in (
        ({"n_networks": 1}, "n_networks must be at least 2"),
        ({"condition_on_covariates": "yes"}, "condition_on_covariates must be True or False"),
        ({"covariate_weight": -1.0}, "covariate_weight"),
        ({"latent_dim": 0}, "latent_dim"),
    ):
        with pytest.raises(ValueError, match=text):
            quick("CEVAE", **options).fit(data.X, data.y, treatment=data.treatment)
    with pytest.raises(NotFittedError):
        CEVAE().latent_check(data.X, data.y, treatment=data.treatment)
    est: Any = quick("CEVAE", epochs=1).fit(data.X, data.y, treatment=data.treatment)
    with pytest.raises(ValueError, match="60, 59 and 60 rows"):
        est.latent_check(data.X, data.y[:59], treatment=data.treatment)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CEVAE", "VCI"])
def test_intervals_of_outcomes_hold_what_they_promise(name: str) -> None:
    data = make_heteroscedastic(1500, random_state=0)
    train, test = data.take(np.arange(800)), data.take(np.arange(800, 1500))
    est = getattr(effects, name)(random_state=0).fit(train.X, train.y, treatment=train.treatment)
    assert test.truth is not None
    lower, upper = est.predict_outcomes(test.X).interval(0.9)
    held = test.truth.cdf(upper) - test.truth.cdf(lower)
    assert_allclose(held.mean(axis=0), 0.9, atol=0.03)
    assert metrics_of(est, test) < 0.35


def metrics_of(est: Any, data: Any) -> float:
    """Root mean square error of the CATE in standard deviations of the outcome."""
    return float(np.sqrt(np.mean((est.predict(data.X) - data.cate) ** 2)) / np.std(data.y))


# ---- VCI's networks --------------------------------------------------------------------------------------------------


def abduction(n_arms: int = 2) -> AbductionNetwork:
    return AbductionNetwork(2, 3, n_arms, 8, 4, torch.Generator().manual_seed(0)).requires_grad_(False)


def test_it_starts_at_the_identity() -> None:
    """Untrained, a unit's score is the same in every arm, up to the spread of the latents and of p(y | z, t)."""
    network, score = abduction(3), torch.linspace(-2, 2, 10)[None, :, None].expand(2, -1, 7)
    context, arm = torch.randn(10, 3, generator=torch.Generator().manual_seed(1)), torch.arange(10) % 3
    still = network.transport(score, context, arm, torch.zeros(2, 7, 5), 0.3)
    assert_allclose(still, score[..., None].expand(-1, -1, -1, 3), atol=1e-6)
    noise = _noise(network, 7)
    moved = network.transport(score, context, arm, noise, 0.3)
    expected = np.exp(-2.3) * noise[..., 0] + 0.3 * noise[..., -1]
    assert_allclose(moved[..., 0] - score, expected[:, None].expand(-1, 10, -1), atol=1e-5)


def test_the_loss_is_the_papers_and_the_jacobian() -> None:
    """Term by term for decoders that only shift: slope one, so the density's term is that of a shifted normal."""
    network, weights = abduction(), Weights(density=0.7, consistency=1.3, noise=0.2)
    network.decoder[-1].bias.fill_(0.5)  # type: ignore[operator]
    score, arm = torch.linspace(-1, 1, 6), torch.arange(6) % 2
    got = network.loss(score, torch.zeros(6, 3), arm, weights, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    torch.randint(1, 2, (6,), generator=generator)
    z = score + np.exp(-2.3) * torch.randn(2, 6, 4, generator=generator)[..., 0]
    drawn = z + 0.5 + 0.2 * torch.randn(2, 6, generator=generator)
    sd = torch.tensor(np.exp(-2.3))
    divergence = torch.distributions.kl_divergence
    kl = divergence(torch.distributions.Normal(score, sd), torch.distributions.Normal(drawn, sd))
    expected = 0.5 * ((score - z - 0.5) / 0.2) ** 2 + 0.7 * 0.5 * drawn**2 + 1.3 * kl
    assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_the_density_term_is_least_where_the_spread_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the Jacobian, the least is at no spread at all (the mode); and turning back is as bad as no spread."""
    network, weights = abduction(), Weights(density=1.0, consistency=0.0, noise=1e-3)
    score = torch.from_numpy(normal_nodes(400)).float()

    def density(slope: float) -> float:
        arm = torch.zeros(400, dtype=torch.int64)

        def decode(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.where(t == 0, z[..., 0], slope * z[..., 0])

        monkeypatch.setattr(network, "decode", decode)
        factual = Weights(density=0.0, consistency=0.0, noise=1e-3)
        both = [
            network.loss(score, torch.zeros(400, 3), arm, w, torch.Generator().manual_seed(0))
            for w in (weights, factual)
        ]
        return float((both[0] - both[1]).double().mean())

    values = {slope: density(slope) for slope in (0.05, 0.7, 1.0, 1.4)}
    assert min(values, key=lambda slope: values[slope]) == 1.0
    assert values[0.05] > values[0.7] + 1


# ---- VCI: counterfactuals of observed units --------------------------------------------------------------------------


@cache
def structural(n: int = 400) -> tuple[Any, ...]:
    """A known structural model, y = f(x) + a g(x) + h(x) u, with the same u in both arms."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3))
    u, e = rng.normal(size=n), 1 / (1 + np.exp(-X[:, 0]))
    a = (rng.random(n) < e).astype(int)
    both = (X[:, 0] + np.outer([0.0, 1.0], 1 + X[:, 1]) + np.exp(0.5 * X[:, 2]) * u).T
    est: Any = quick("VCI", epochs=40, hidden=32).fit(X, both[np.arange(n), a], treatment=a)
    return est, X, a, both


def test_counterfactuals_know_more_than_the_conditional_mean() -> None:
    """Of the part of a counterfactual that the covariates do not tell, most is told by the observed outcome."""
    est, X, a, both = structural()
    rows = np.arange(len(a))
    seen, other = both[rows, a], both[rows, 1 - a]
    replayed = est.counterfactual(X, seen, treatment=a).mean()[rows, 1 - a]
    guess = est.predict_outcomes(X).mean()[rows, 1 - a]
    assert np.corrcoef(replayed - guess, other - guess)[0, 1] > 0.9
    assert np.mean((replayed - other) ** 2) < 0.25 * np.mean((guess - other) ** 2)
    assert np.corrcoef(replayed, other)[0, 1] > np.corrcoef(guess, other)[0, 1] + 0.1


def test_a_better_outcome_has_a_better_counterfactual() -> None:
    est, X, _, _ = structural()
    y = np.linspace(-3, 5, 25)
    replayed = est.counterfactual(np.repeat(X[:1], 25, axis=0), y, treatment=np.zeros(25, dtype=int), arm=1).mean()
    assert (np.diff(replayed[:, 0]) > 0).all()


def test_counterfactuals_of_all_units_are_the_outcomes_of_all_units() -> None:
    """Outcomes of arm 0 from their law, replayed under arm 1, have the law of arm 1."""
    est, X, _, _ = structural()
    X = X[:40]
    outcomes = est.predict_outcomes(X)
    levels = (np.arange(39) + 0.5) / 39
    y = outcomes.quantile(levels)[..., 0]
    rows = np.tile(np.arange(40), 39)
    moved = est.counterfactual(X[rows], y.ravel(), treatment=np.zeros(len(rows), dtype=int), arm=1)
    pooled = moved.draws[..., 0].reshape(-1, 39, 40).transpose(1, 0, 2).reshape(-1, 40)
    target, sd = outcomes.quantile([0.1, 0.5, 0.9])[..., 1], outcomes.std()[:, 1]
    found = np.quantile(pooled, [0.1, 0.5, 0.9], axis=0)
    assert_allclose(((found - target) / sd).mean(axis=1), 0.0, atol=0.1)


def counts() -> Any:
    rng = np.random.default_rng(0)
    X, a = pd.DataFrame(rng.normal(size=(90, 2)), index=np.arange(90) + 7), rng.integers(2, size=90)
    return X, rng.poisson(np.exp(1 + 0.5 * X[0] + 0.4 * a)), a


TABLES: dict[str, Any] = {
    "continuous": make_heteroscedastic,
    "log": make_skewed,
    "atom": make_zero_inflated,
    "binary": make_binary,
    "three_arms": make_three_arms,
}


@cache
def observed(kind: str) -> tuple[Any, Any, Any, Any]:
    if kind == "count":
        X, y, a = counts()
    else:
        data = TABLES[kind](90, random_state=0)
        X, y, a = data.X, data.y, data.treatment
    outcome = "count" if kind == "count" else "auto"
    return quick("VCI", epochs=5, outcome=outcome).fit(X, y, treatment=a), X, y, a


@pytest.mark.parametrize("kind", [*TABLES, "count"])
def test_the_counterfactual_under_the_observed_arm_is_what_was_observed(kind: str) -> None:
    est, X, y, a = observed(kind)
    found = est.counterfactual(X, y, treatment=a)
    own, rows = est.schema_.encode_treatment(a), np.arange(len(X))
    outcome = est.schema_.encode_outcome(y)
    assert found.arms == est.arms_ and found.index.equals(X.index)
    assert_allclose(found.mean()[rows, own], outcome, rtol=1e-12)
    assert_array_equal(found.draws[:, :, rows, own], np.broadcast_to(outcome.astype(np.float32), found.draws.shape[:3]))
    assert np.ptp(found.draws[:, :, rows, 1 - np.minimum(own, 1)]) > 0
    for k, arm in enumerate(est.arms_):
        alone = est.counterfactual(X, y, treatment=a, arm=arm)
        assert alone.arms == (arm,)
        assert_array_equal(alone.draws[..., 0], found.draws[..., k])
    if kind == "count":
        assert_array_equal(found.draws, np.round(found.draws))
        assert found.draws.min() >= 0


def test_a_units_own_effect_is_its_counterfactual_minus_its_outcome() -> None:
    est, X, y, a = observed("continuous")
    own = est.schema_.encode_treatment(a)
    found = est.counterfactual(X, y, treatment=a)
    expected = np.where(own == 1, np.asarray(y) - found.mean()[:, 0], found.mean()[:, 1] - np.asarray(y))
    assert_allclose(found.effect().mean, expected, rtol=1e-9)


def test_binary_counterfactuals_add_up_to_the_model() -> None:
    """P(Y(b) = 1) is the mean of what follows from Y(a) = 1 and from Y(a) = 0; and as many as can are unaffected."""
    est, X, _, _ = observed("binary")
    levels = est.schema_.outcome.levels
    outcomes = est.predict_outcomes(X)
    for k, arm in enumerate(est.arms_):
        p, own = outcomes.draws[:, 0], outcomes.draws[:, 0, :, k]
        after = [est.counterfactual(X, [label] * len(X), treatment=[arm] * len(X)).draws[:, 0] for label in levels]
        total = own[..., None] * after[1] + (1 - own[..., None]) * after[0]
        assert_allclose(total, p, atol=1e-5)
        unaffected = own * after[1][..., 1 - k] + (1 - own) * (1 - after[0][..., 1 - k])
        assert_allclose(unaffected, 1 - np.abs(own - p[..., 1 - k]), atol=1e-5)


def test_rows_are_replayed_alone_and_after_saving(tmp_path: Path) -> None:
    for kind in ("continuous", "atom", "count"):
        est, X, y, a = observed(kind)
        found = est.counterfactual(X, y, treatment=a, n_draws=5)
        assert found.n_draws == 5
        loaded: Any = effects.load(est.save(tmp_path / kind))
        assert_allclose(loaded.counterfactual(X, y, treatment=a, n_draws=5).draws, found.draws, rtol=1e-3, atol=1e-3)
        some = est.counterfactual(X.iloc[3:5], y[3:5], treatment=a[3:5], n_draws=5)
        assert_allclose(some.mean(), found.mean()[3:5], rtol=1e-3, atol=1e-3)


def test_vci_refuses_what_makes_no_sense() -> None:
    est, X, y, a = observed("continuous")
    with pytest.raises(ValueError, match=r"arm='neither' is no arm of this estimator: name one of"):
        est.counterfactual(X, y, treatment=a, arm="neither")
    with pytest.raises(ValueError, match="rows: they must agree"):
        est.counterfactual(X, y[:5], treatment=a)
    with pytest.raises(ValueError, match="n_draws must be a positive int"):
        est.counterfactual(X, y, treatment=a, n_draws=0)
    with pytest.raises(NotFittedError):
        VCI().counterfactual(X, y, treatment=a)
    with pytest.raises(ValueError, match="noise must be positive"):
        quick("VCI", noise=0).fit(X, y, treatment=a)
