"""CausalVAE: noise that columns share has its own law back, counterfactuals replay it, labels come from two sides."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from pandas.testing import assert_frame_equal
from scipy import stats
from torch import Tensor

from effects.nn.networks import BatchedLinear
from effects.nn.scale import ResidualLaw
from effects.nn.training import Settings, one_thread, resolve_device
from effects.schema.table import TableSchema
from effects.structural.dear import fit_linear_mechanism, linear_mechanism_from_state, linear_mechanism_state
from effects.structural.encoder import LabelEncoder
from effects.structural.ensemble import ColumnEnsemble, EncodedColumns, budget
from effects.structural.graph import CausalGraph
from effects.structural.mechanisms import Continuous
from effects.structural.noise import (
    ColumnScores,
    Factors,
    RestLaw,
    SharedNoise,
    _gumbel_given,
    fit_shared_noise,
)
from effects.structural.posterior import LabelPosterior
from effects.structural.regression import Plan
from effects.structural.vae import CausalVAE

W = torch.tensor([[0.8, 0.7, -0.6, 0.5, 0.0, 0.0], [0.0, 0.3, 0.4, -0.6, 0.7, 0.6]], dtype=torch.float64).mT


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    with one_thread():
        yield


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixed(numbers: int, events: int, levels: int) -> EncodedColumns:
    """Numbers, then events, then one category."""
    groups = (torch.arange(numbers + events, numbers + events + levels),) if levels else ()
    at = torch.arange(numbers + events)
    return EncodedColumns(at[:numbers], at[numbers:], groups, numbers + events + levels)


def factor_scores(n: int, seed: int = 0) -> Tensor:
    """Scores of variance one with the loadings W."""
    rng = generator(seed)
    u, e = (torch.randn((n, k), generator=rng, dtype=torch.float64) for k in (2, 6))
    return (u @ W.mT + (1 - (W**2).sum(1)).sqrt() * e).float()


def identity_law(n: int) -> ResidualLaw:
    """Residuals that are their own scores."""
    knots = np.linspace(-3, 3, 7)
    return ResidualLaw(knots, np.tile(knots, (n, 1)))


# ---- the linear start ------------------------------------------------------------------------------------------------


def test_the_start_is_the_factor_model_of_the_data() -> None:
    scores = factor_scores(20_000)
    start = Factors.learn(scores, torch.ones(20_000), mixed(6, 0, 0), 4)
    found = start.loadings.mT @ start.loadings
    assert_allclose(found, W @ W.mT, atol=0.04)
    assert len(start.loadings) == 3 and bool((start.loadings[2] == 0).all())  # two factors and a spare latent
    assert_allclose((2 * start.log_sd).exp(), 1 - (W**2).sum(1), atol=0.04)
    # its posterior is the closed form
    w, noise = start.loadings[:2].double(), (2 * start.log_sd).exp().double()
    precision = torch.eye(2).double() + (w / noise) @ w.mT
    assert_allclose(precision - torch.diag(torch.diagonal(precision)), 0, atol=0.02)
    assert_allclose(start.encoder[:, :2], (torch.linalg.inv(precision) @ (w / noise)).mT, atol=0.02)
    assert_allclose(start.posterior_log_sd[:2], -0.5 * torch.diagonal(precision).log(), atol=0.01)


def test_independent_columns_start_without_factors() -> None:
    scores = torch.randn((500, 12), generator=generator())
    start = Factors.learn(scores, torch.ones(500), mixed(12, 0, 0), 4)
    assert start.loadings.shape == (1, 12) and float(start.loadings.abs().max()) == 0


def test_the_bound_is_the_likelihood_where_the_posterior_is_exact() -> None:
    """Of the linear start, whose posterior is normal: the mean loss over draws of u is -log N(t; 0, WW' + Psi)."""
    scores = factor_scores(20_000)
    start = Factors.learn(scores, torch.ones(20_000), mixed(6, 0, 0), 2)
    network = SharedNoise(1, 1, 8, mixed(6, 0, 0), start, generator())
    rows = ColumnScores(mixed(6, 0, 0), identity_law(6)).surroundings(
        scores[:50], torch.zeros(50, 6), torch.zeros(50, 6)
    )
    with torch.no_grad():
        rng, z = generator(1), torch.zeros(50, 1)
        loss = torch.stack([network.loss(rows, z, rng)[0] for _ in range(1500)]).mean(0)
    covariance = (start.loadings.mT @ start.loadings + torch.diag((2 * start.log_sd).exp())).numpy()
    exact = -stats.multivariate_normal(np.zeros(6), covariance).logpdf(scores[:50].numpy()) - 3 * np.log(2 * np.pi)
    assert_allclose(loss, exact, atol=0.15)
    assert abs(float(loss.mean()) - exact.mean()) < 0.03


def test_an_event_keeps_its_probability_and_hangs_together_with_the_numbers() -> None:
    """Scores of five numbers and the sixth's sign: the polychoric start finds W, and draws have its law."""
    n, columns = 20_000, mixed(5, 1, 0)
    t = factor_scores(n)
    location = torch.zeros(n, 6)
    location[:, 5] = -1.0
    threshold = float(torch.special.ndtri(torch.sigmoid(torch.tensor(-1.0))))
    x = t.clone()
    x[:, 5] = (t[:, 5] > -threshold).float()
    scores = ColumnScores(columns, identity_law(5))
    rows = scores.surroundings(x, location, torch.zeros(n, 6))
    assert abs(float(rows.scores[:, 5].mean())) < 0.02
    start = Factors.learn(rows.scores, torch.ones(n), columns, 3)
    assert_allclose(start.loadings.mT @ start.loadings, W @ W.mT, atol=0.06)
    network = SharedNoise(2, 1, 8, columns, start, generator())
    drawn = RestLaw(scores, network).draw(location, torch.zeros(n, 6), torch.zeros(n, 1), generator(1))
    assert abs(float(drawn[:, 5].mean()) - 1 / (1 + np.exp(1))) < 0.015
    assert_allclose(np.corrcoef(drawn.T), np.corrcoef(x.T), atol=0.04)


# ---- counterfactuals -------------------------------------------------------------------------------------------------


def test_gumbel_noises_give_the_level_seen_and_have_their_law() -> None:
    n, p = 20_000, torch.tensor([0.6, 0.3, 0.1])
    logits = p.log().expand(n, 3)
    x = torch.nn.functional.one_hot(torch.multinomial(p, n, replacement=True, generator=generator()), 3).float()
    noise = _gumbel_given(logits, x, generator(1))
    assert torch.equal((logits + noise).argmax(1), x.argmax(1))
    for k in range(3):
        assert stats.kstest(noise[:, k], "gumbel_r").pvalue > 1e-3
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.03


def bent(columns: EncodedColumns, start: Factors) -> SharedNoise:
    """A network that has left its start: what columns share depends on z."""
    network = SharedNoise(2, 1, 8, columns, start, generator(3))
    with torch.no_grad():
        for layer in (network.decoder[-1], network.inference[-1]):
            assert isinstance(layer, BatchedLinear)
            layer.weight.copy_(0.3 * torch.randn(layer.weight.shape, generator=generator(4)))
    return network


def test_nothing_changes_where_nothing_changes() -> None:
    """Exactly, in every kind of column, whatever the network; and a missing category stays missing."""
    n, columns, rng = 500, mixed(3, 2, 3), generator()
    x = torch.randn((n, 8), generator=rng)
    x[:, 3:5] = (x[:, 3:5] > 0).float()
    x[:, 5:] = torch.nn.functional.one_hot(x[:, 5:].argmax(1), 3).float()
    x[:20, 5:] = 0.0
    z, location = torch.randn((n, 1), generator=rng), torch.randn((n, 8), generator=rng)
    scores = ColumnScores(columns, identity_law(3))
    rows = scores.surroundings(x, location, 0.1 * location)
    law = RestLaw(scores, bent(columns, Factors.zero(8, 2)))
    same = law.transport(rows, z, location, 0.1 * location, z, rng)
    assert torch.equal(same, x)
    moved = law.transport(rows, z, location + 1, 0.1 * location, z + 1, rng)
    assert float((moved[:, :3] - x[:, :3]).abs().min()) > 0
    assert 0.05 < float((moved[:, 3:5] != x[:, 3:5]).float().mean()) < 0.8
    assert float(moved[:20, 5:].abs().max()) == 0
    assert bool((moved[20:, 5:].sum(1) == 1).all())


def test_replayed_rows_have_the_law_of_the_new_nodes() -> None:
    """Abduction at z and prediction at z': over all rows that is the law of x at z'."""
    n, columns = 20_000, mixed(3, 2, 3)
    scores = ColumnScores(columns, identity_law(3))
    loadings = torch.zeros(2, 8)
    loadings[0, :5] = 0.7
    own = torch.ones(8)
    own[:5] = 1 - 0.49
    precision = 1 + float((loadings[0, :5] ** 2 / own[:5]).sum())
    start = Factors(loadings, 0.5 * own.log(), torch.zeros(8, 2), torch.zeros(2))
    network = SharedNoise(1, 1, 8, columns, start, generator())
    before = torch.tensor([0.0, 0, 0, 0.5, -0.5, 0.5, 0.0, -1.0]).expand(n, 8)
    after = torch.tensor([1.0, 0, -1, -1.0, 0.5, -1.0, 0.5, 0.0]).expand(n, 8)
    zero, z = torch.zeros(n, 8), torch.zeros(n, 1)
    law = RestLaw(scores, network)
    x, fresh = law.draw(before, zero, z, generator(1)), law.draw(after, zero, z, generator(2))
    # the numbers alone tell of u here: their posterior is the closed form
    precision = 1 + float((loadings[0, :3] ** 2 / own[:3]).sum())
    network.start_encoder[0, :3, 0] = loadings[0, :3] / own[:3] / precision
    network.start_posterior_log_sd[0, 0, 0] = -0.5 * np.log(precision)
    moved = law.transport(scores.surroundings(x, before, zero), z, after, zero, z, generator(3))
    assert_allclose(moved[:, :3], x[:, :3] + (after - before)[:, :3], atol=1e-5)
    assert_allclose(moved.mean(0), fresh.mean(0), atol=0.03)
    # events: only downwards where the probability falls, only upwards where it rises
    assert bool((moved[:, 3] <= x[:, 3]).all()) and bool((moved[:, 4] >= x[:, 4]).all())


def simulated(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A node, and scores that are correlated only where it is positive; the truth is no factor model."""
    rng = np.random.default_rng(seed)
    z, u = rng.normal(size=(n, 1)), rng.normal(size=(n, 1))
    share = 0.85 * (z > 0)
    t = np.sqrt(share) * u + np.sqrt(1 - share) * rng.normal(size=(n, 8))
    return torch.from_numpy(z).float(), torch.from_numpy(t).float()


def test_shared_noise_that_depends_on_the_nodes_is_learnt() -> None:
    z, t = simulated(1500, 0)
    columns, zero = mixed(8, 0, 0), torch.zeros(1500, 8)
    scores = ColumnScores.learn(columns, t, zero, zero, torch.ones(1500))
    rows = scores.surroundings(t, zero, zero)
    settings = budget(1500, "noise", device="cpu", epochs=60)
    network, history = fit_shared_noise(rows, z, torch.ones(1500), columns, settings, n_networks=2, hidden=32)
    assert min(h["validation_loss"] for h in history) < history[0]["validation_loss"] - 0.1
    off = ~np.eye(8, dtype=bool)
    for at, truth in ((1.0, 0.85), (-1.0, 0.0)):
        nodes = torch.full((4000, 1), at)
        drawn = RestLaw(scores, network).draw(torch.zeros(4000, 8), torch.zeros(4000, 8), nodes, generator())
        # a single factor model would have 0.42 in both places
        assert abs(np.corrcoef(drawn.T)[off].mean() - truth) < 0.2
        assert_allclose(drawn.std(0), 1, atol=0.2)


def test_weights_of_zero_leave_rows_out() -> None:
    _, t = simulated(400, 1)
    columns, weight = mixed(8, 0, 0), torch.ones(400)
    weight[:100] = 0
    wild = t.clone()
    wild[:100] *= 50
    for start in (
        Factors.learn(wild, weight, columns, 3),
        Factors.learn(torch.cat([wild[100:], wild[:100]]), weight.flip(0), columns, 3),
    ):
        plain = Factors.learn(t[100:], torch.ones(300), columns, 3)
        assert_allclose(start.loadings.mT @ start.loadings, plain.loadings.mT @ plain.loadings, atol=1e-4)


# ---- DEAR's prior ----------------------------------------------------------------------------------------------------


def plan() -> Plan:
    settings = Settings(epochs=5, batch_size=128, patience=2, device=resolve_device("cpu"))
    return Plan(2, 8, 8, 3e-3, 0.1, settings)


def test_linear_among_scores_is_the_truth_of_a_lognormal_cause_and_effect() -> None:
    """log X2 = 1 + 0.8 log X1 + 0.6 e: counterfactuals are X2 times (x1' / x1)^0.8."""
    rng = np.random.default_rng(0)
    s = rng.normal(size=3000)
    x1, x2 = np.exp(s), np.exp(1 + 0.8 * s + 0.6 * rng.normal(size=3000))
    frame = pd.DataFrame({"x1": x1, "x2": x2})
    schema = TableSchema.learn(frame)
    cause = torch.from_numpy(schema.encode(schema.values(frame))[:, :1])
    mechanism, history = fit_linear_mechanism(schema.columns[1], x2, cause, np.ones(3000), plan())
    assert isinstance(mechanism, Continuous) and mechanism.regression is not None and mechanism.regression.linear
    assert history == []
    inner = np.abs(s) < 1.3
    new = torch.from_numpy(schema.encode(np.stack([x1 * 1.5, x2], 1))[:, :1])
    noise = mechanism.abduct(x2, cause, rng)
    assert_allclose(mechanism.respond(noise, cause), x2, rtol=1e-6)
    moved = mechanism.respond(noise, new)
    assert np.median(np.abs(np.log(moved / x2) - 0.8 * np.log(1.5))[inner]) < 0.05
    at_median = torch.from_numpy(schema.encode(np.array([[1.0, 0.0]]))[:, :1])
    assert_allclose(mechanism.mean(at_median), np.exp(1 + 0.18), rtol=0.06)
    grid = np.exp(np.linspace(-3, 5, 4000))
    density = np.exp(mechanism.log_prob(grid, at_median.expand(4000, 1)))
    assert_allclose(np.trapezoid(density, grid), 1, atol=0.03)


@pytest.mark.parametrize("kind", ["number", "count", "event", "category"])
def test_linear_mechanisms_come_back_from_their_state(kind: str) -> None:
    rng = np.random.default_rng(1)
    parent = rng.normal(size=300)
    column: Any = {
        "number": np.exp(parent + rng.normal(size=300)),
        "count": rng.poisson(np.exp(0.7 * parent + 1.5)),
        "event": rng.random(300) < 1 / (1 + np.exp(-2 * parent)),
        "category": np.array(["a", "b", "c"])[np.digitize(parent + rng.normal(size=300), [-0.5, 0.5])],
    }[kind]
    frame = pd.DataFrame({"p": parent, "y": column})
    schema = TableSchema.learn(frame)
    values = schema.values(frame)
    inputs = torch.from_numpy(schema.encode(values)[:, :1])
    mechanism, _ = fit_linear_mechanism(schema.columns[1], values[:, 1], inputs, np.ones(300), plan())
    again = linear_mechanism_from_state(*linear_mechanism_state(mechanism))
    score = rng.normal(size=300)
    assert_allclose(again.value(score, inputs), mechanism.value(score, inputs))
    assert_allclose(again.log_prob(values[:, 1], inputs), mechanism.log_prob(values[:, 1], inputs))
    assert_allclose(mechanism.respond(mechanism.abduct(values[:, 1], inputs, rng), inputs), values[:, 1], rtol=1e-6)
    high, low = (mechanism.mean(torch.full((1, 1), edge))[0] for edge in (1.5, -1.5))
    assert high > low  # every column rises with the parent (codes of the category too)


# ---- labels from two sides -------------------------------------------------------------------------------------------


@cache
def posterior() -> tuple[LabelPosterior, Tensor, Tensor]:
    """60 of 600 rows labelled; z2 is an event caused by z1, x is linear in both."""
    rng = np.random.default_rng(0)
    z1 = rng.normal(size=600)
    z2 = rng.random(600) < 1 / (1 + np.exp(-3 * z1))
    x = z1[:, None] * rng.normal(size=12) + z2[:, None] * rng.normal(size=12) + rng.normal(size=(600, 12))
    frame = pd.DataFrame({"z1": z1, "z2": z2})
    labels, layout = TableSchema.learn(frame), TableSchema.learn(pd.DataFrame(x, columns=[f"x{j}" for j in range(12)]))
    z = torch.from_numpy(labels.encode(labels.values(frame)))
    E = torch.from_numpy(layout.encode(x))
    seen = torch.zeros(600, 2, dtype=torch.bool)
    seen[:60] = True
    weight, settings = torch.ones(600), budget(600, "x", epochs=15, device="cpu")
    encoder = LabelEncoder.fit(E, z, seen, weight, labels, settings, n_networks=4, hidden=16)
    nodes = torch.stack([encoder.complete(E, z, seen, generator(k)) for k in range(4)])
    columns, every = EncodedColumns.of(layout), torch.ones_like(E).bool()
    decoder = ColumnEnsemble.fit(nodes, E, every, weight, columns, settings, n_networks=4, hidden=16)
    hidden = torch.where(seen, z, torch.nan)  # what is not seen must not be looked at
    found = LabelPosterior.learn(encoder, decoder, E, hidden, seen, weight, labels, [[], [0]], plan())
    return found, E, z


def test_the_decoder_and_the_graph_make_labels_better() -> None:
    found, x, z = posterior()
    plain, both = found.encoder.mean(x[60:]), found.mean(x[60:])
    truth = z[60:]
    assert float((both - truth)[:, 0].square().mean()) < 0.97 * float((plain - truth)[:, 0].square().mean())
    assert float((both - truth)[:, 1].square().mean()) < 1.03 * float((plain - truth)[:, 1].square().mean())
    assert bool((both[:, 1] >= 0).all()) and bool((both[:, 1] <= 1).all())


def test_a_row_is_inferred_for_itself_and_draws_spread_around_the_mean() -> None:
    found, x, z = posterior()
    assert_allclose(found.mean(x[200:230])[:4], found.mean(x[200:204]), atol=1e-5)
    rng = generator()
    drawn = torch.stack([found.draw(x[200:230], rng) for _ in range(200)])
    assert set(drawn[..., 1].unique().tolist()) <= {0.0, 1.0}
    assert_allclose(drawn.mean(0), found.mean(x[200:230]), atol=0.2)
    seen = torch.zeros(30, 2, dtype=torch.bool)
    seen[:, 1] = True
    filled = found.complete(x[200:230], z[200:230], seen, rng)
    assert torch.equal(filled[:, 1], z[200:230, 1]) and bool((filled[:, 0] != z[200:230, 0]).all())


# ---- the estimator ---------------------------------------------------------------------------------------------------


def patients(n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """age -> severity (a group of two columns) -> therapy; seven columns hang on them with a noise they share."""
    rng = np.random.default_rng(seed)
    age = rng.normal(60, 10, n)
    apache = 0.1 * age + rng.normal(size=n)
    sofa = 0.5 * apache + rng.normal(size=n)
    therapy = rng.random(n) < 1 / (1 + np.exp(-(sofa - 3)))
    shared, own = rng.normal(size=n), rng.normal(size=(n, 5))
    slope = np.array([1.0, -1.0, 0.5, 0.0, 2.0])
    labs = np.outer(apache, slope) + 2.0 * therapy[:, None] + 1.5 * shared[:, None] + own
    frame = pd.DataFrame({"age": age, "apache": apache, "sofa": sofa, "therapy": np.where(therapy, "yes", "no")})
    frame[[f"lab{j}" for j in range(5)]] = labs
    frame["fever"] = shared + apache - 6 + rng.logistic(size=n) > 0
    frame["ward"] = np.array(["a", "b", "c"])[np.digitize(apache + rng.normal(size=n), [5.5, 6.5])]
    return frame, labs, slope


GRAPH = [("age", "severity"), ("severity", "therapy")]
GROUPS = {"severity": ["apache", "sofa"]}
QUICK: dict[str, Any] = {"epochs": 15, "n_networks": 4, "hidden": 16, "n_draws": 16, "random_state": 0}


@cache
def fitted(prior: str = "nonlinear") -> CausalVAE:
    frame, _, _ = patients(600, 0)
    frame.loc[400:, ["apache", "sofa"]] = np.nan  # labels are known of two rows in three
    return CausalVAE(GRAPH, factors=GROUPS, prior=prior, **QUICK).fit(frame)


def test_counterfactual_columns_move_by_what_the_nodes_change() -> None:
    """A therapy that was not given would have added two to every lab, and left the shared noise alone."""
    model = fitted()
    frame, labs, _ = patients(200, 1)
    untreated = frame["therapy"] == "no"
    changed = model.counterfactual(frame, do={"therapy": "yes"}, random_state=0)
    assert list(changed.columns) == list(frame.columns)
    assert_frame_equal(changed[["age", "apache", "sofa"]], frame[["age", "apache", "sofa"]])
    error = changed.filter(like="lab").to_numpy() - labs - 2.0 * untreated.to_numpy()[:, None]
    assert np.sqrt((error[untreated] ** 2).mean()) < 0.8  # noise of sd 1.8 was abducted
    assert_frame_equal(changed[~untreated], frame[~untreated])


def test_the_factual_world_comes_back() -> None:
    frame, _, _ = patients(100, 2)
    same = fitted().counterfactual(frame, do={"therapy": frame["therapy"]}, random_state=0)
    assert_frame_equal(same, frame)


def test_samples_have_the_correlations_that_the_nodes_do_not_explain() -> None:
    model = fitted()
    frame, labs, _ = patients(3000, 3)
    drawn = model.sample(3000, random_state=0)
    truth = np.corrcoef(labs.T)
    found = np.corrcoef(drawn.filter(like="lab").to_numpy().T)
    assert np.abs(found - truth).mean() < 0.08
    assert abs(drawn["fever"].mean() - frame["fever"].mean()) < 0.08
    for name in ("fever",):  # an event shares the noise too
        one, two = (np.corrcoef(t[name], t["lab3"])[0, 1] for t in (drawn, frame))
        assert abs(one - two) < 0.15
    shares = [t["ward"].value_counts(normalize=True).sort_index().to_numpy() for t in (drawn, frame)]
    assert_allclose(shares[0], shares[1], atol=0.08)


def test_labels_not_seen_are_inferred() -> None:
    frame, _, _ = patients(300, 4)
    codes = fitted().encode(frame.drop(columns=["age", "apache", "sofa", "therapy"]))
    assert np.corrcoef(codes["apache"], frame["apache"])[0, 1] > 0.85
    gone = frame.head(5).assign(apache=np.nan)
    changed = fitted().counterfactual(gone, do={"therapy": "no"}, random_state=0)
    assert changed["apache"].notna().all()


@pytest.mark.parametrize("prior", ["nonlinear", "dear"])
def test_a_saved_model_gives_the_same(tmp_path: Path, prior: str) -> None:
    model = fitted(prior)
    again = CausalVAE.load(model.save(tmp_path / "model.effects"))
    frame, _, _ = patients(20, 5)
    do = {"age": 70.0}
    for one, two in (
        (model.counterfactual(frame, do, random_state=0), again.counterfactual(frame, do, random_state=0)),
        (model.sample(50, do=do, random_state=0), again.sample(50, do=do, random_state=0)),
        (model.encode(frame), again.encode(frame)),
    ):
        assert_frame_equal(one, two)


def test_dear_is_linear_in_scores() -> None:
    model = fitted("dear")
    j = model.schema_.index("apache")
    mechanism = model.scm_.mechanisms[j]
    assert isinstance(mechanism, Continuous) and mechanism.regression is not None and mechanism.regression.linear
    older = model.sample(2000, do={"age": 75.0}, random_state=0)["apache"].mean()
    younger = model.sample(2000, do={"age": 55.0}, random_state=0)["apache"].mean()
    assert 1.5 < older - younger < 2.5


@pytest.mark.parametrize(
    ("options", "match"),
    [({"prior": "gauss"}, "prior must be one of"), ({"latent_dim": 0}, "latent_dim must be a positive whole number")],
)
def test_parameters_are_checked(options: dict[str, Any], match: str) -> None:
    frame, _, _ = patients(30, 0)
    with pytest.raises(ValueError, match=match):
        CausalVAE(GRAPH, factors=GROUPS, **options).fit(frame)


def test_the_graph_is_checked_with_its_groups_spelled_out() -> None:
    frame, _, _ = patients(600, 4)
    spelled = [("age", "apache"), ("age", "sofa"), ("apache", "sofa"), ("apache", "therapy"), ("sofa", "therapy")]
    check = CausalVAE(GRAPH, factors=GROUPS).check_graph(frame, random_state=0)
    assert check.passed  # age acts on therapy through severity alone
    assert_frame_equal(check.table, CausalGraph.parse(spelled).check(frame, random_state=0).table)
    assert [*zip(check.edges["parent"], check.edges["child"], strict=True)] == spelled
    broken = frame.assign(therapy=np.where(frame["age"] > frame["age"].median(), "yes", "no"))
    assert CausalVAE(GRAPH, factors=GROUPS).check_graph(broken, random_state=0).disputed == (("age", "therapy"),)


def test_a_groups_marks_are_those_of_its_columns() -> None:
    marked = "dag { age -> severity -> therapy; severity <-> therapy; severity [exposure]; therapy [outcome] }"
    graph = CausalVAE(marked, factors=GROUPS)._column_graph()
    assert graph.exposure == {"apache", "sofa"} and graph.outcome == {"therapy"}
    assert graph.bidirected == {("apache", "therapy"), ("sofa", "therapy")}


def test_columns_that_are_all_constant_are_refused_with_the_cure() -> None:
    frame = patients(60, 0)[0][["age", "apache"]].assign(site="north", unit=3.0)
    with pytest.raises(ValueError, match=r"\('site', 'unit'\) are constant.*columns=\[\]"):
        CausalVAE([("age", "apache")], **QUICK).fit(frame)
    model = CausalVAE([("age", "apache")], columns=[], **QUICK).fit(frame)
    assert list(model.counterfactual(frame, do={"age": 60.0}).columns) == ["age", "apache"]


def test_rows_without_labels_teach_the_mechanisms() -> None:
    """30 labels tell little of a slope; 370 more rows show the labels almost as they are."""
    rng = np.random.default_rng(7)
    cause = rng.normal(size=400)
    effect = 0.8 * cause + rng.normal(size=400)
    x = np.stack([cause + effect, cause - effect, effect, cause], 1) + 0.05 * rng.normal(size=(400, 4))
    frame = pd.DataFrame(np.column_stack([cause, effect, x]), columns=["cause", "effect", "a", "b", "c", "d"])
    slope = np.polyfit(cause, effect, 1)[0]
    frame.loc[30:, ["cause", "effect"]] = np.nan
    few = np.polyfit(cause[:30], effect[:30], 1)[0]
    model = CausalVAE([("cause", "effect")], **QUICK).fit(frame)
    high, low = (model.sample(2000, do={"cause": at}, random_state=0)["effect"].mean() for at in (1.0, -1.0))
    assert abs((high - low) / 2 - slope) < 0.5 * abs(few - slope)
    assert not hasattr(model, "rows_") and not hasattr(model, "drawn_")
