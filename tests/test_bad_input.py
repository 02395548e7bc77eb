"""Bad calls, one a line: each must fail, and its message must name the column, the value and the cure.

What a table may hold is `test_schema`'s; here are the calls as a user makes them, through a whole estimator.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import small
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.exceptions import NotFittedError

import effects
from effects import DiffPO, Nuisance

N = 60
QUICK = Nuisance(DummyRegressor(), DummyClassifier(strategy="prior"), n_folds=2)


def data(**changes: Any) -> SimpleNamespace:
    """A sound table, with `changes` made to its columns or its roles (y, treatment, weight)."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "age": rng.normal(60, 10, N).round(1),
            "sex": rng.choice(["f", "m"], N),
            "smoker": rng.random(N) < 0.3,
            "visit": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, N), unit="D"),
        }
    )
    t = pd.Series(rng.permutation(np.arange(N) % 2), name="drug").map({0: "placebo", 1: "drug"})
    y = pd.Series(X["age"] / 10 + (t == "drug") + rng.standard_normal(N), name="bp")
    table = SimpleNamespace(X=X, y=y, treatment=t)
    for name, value in changes.items():
        if name in X.columns:
            table.X = X.assign(**{name: value(X[name].copy()) if callable(value) else value})
        else:
            setattr(table, name, value(getattr(table, name).copy()) if callable(value) else value)
    return table


def put(value: Any, row: int = 7) -> Callable[[pd.Series], pd.Series]:
    """The column with one other value."""

    def change(column: pd.Series) -> pd.Series:
        column = column.astype(object)
        column.iloc[row] = value
        return column.infer_objects()

    return change


def score(est: DiffPO, sample_weight: Any = None, **changes: Any) -> float:
    table = data(**changes)
    return est.score(table.X, table.y, treatment=table.treatment, sample_weight=sample_weight)


def fit(est: DiffPO | None = None, sample_weight: Any = None, propensity: Any = None, **changes: Any) -> DiffPO:
    table = data(**changes)
    est = est or small(nuisance=QUICK)
    known = {"sample_weight": sample_weight, "propensity": propensity}
    return est.fit(table.X, table.y, treatment=table.treatment, **known)


@dataclass(frozen=True)
class Bad:
    """A call that must fail with `error` and a message that `message` finds; `call` gets a fitted estimator."""

    name: str
    call: Callable[[Any], Any]
    message: str
    error: type[Exception] = ValueError

    def __str__(self) -> str:
        return self.name


FIT = [
    # roles
    Bad(
        "no treatment", lambda est: clone(est).fit(data().X, data().y), r"required keyword-only.*'treatment'", TypeError
    ),
    Bad(
        "treatment by position",
        lambda est: clone(est).fit(data().X, data().y, data().treatment),
        "positional",
        TypeError,
    ),
    Bad("no outcome", lambda _: fit(y=None), "requires y to be passed"),
    Bad(
        "the name of a column",
        lambda _: fit(treatment="drug"),
        r"treatment must hold one value per row.*data\['drug'\]",
        TypeError,
    ),
    Bad("lengths", lambda _: fit(y=np.zeros(N - 1)), f"X has {N}, y has {N - 1}, treatment has {N} rows"),
    Bad("one arm", lambda _: fit(treatment=["drug"] * N), "one arm only, 'drug'"),
    Bad(
        "a lone row",
        lambda _: fit(treatment=put("other")),
        "Arm 'other' of treatment has 1 row, two are the least.*remove it or join",
    ),
    Bad(
        "a missing arm",
        lambda _: fit(treatment=put(None)),
        "treatment contains NaN: 1 missing value, the first in row 7.*name a lack",
    ),
    Bad(
        "a dose",
        lambda _: fit(treatment=np.linspace(0, 1, N)),
        r"treatment looks continuous.*pd.cut.*0.0169\d* in row 1",
    ),
    Bad("an arm per row", lambda _: fit(treatment=[f"p{k}" for k in range(N)]), f"has {N} distinct values, at most 20"),
    Bad(
        "a missing outcome", lambda _: fit(y=put(np.nan)), "y contains NaN: 1 missing value, the first in row 7.*Remove"
    ),
    Bad("an infinite outcome", lambda _: fit(y=put(np.inf)), "y contains infinity: inf in row 7, 1 in all"),
    Bad("outcome as text", lambda _: fit(y=data().y.astype(str)), f"y has {N} distinct values.*pd.to_numeric"),
    Bad(
        "outcome of two columns",
        lambda _: fit(y=np.zeros((N, 2))),
        rf"y should be a 1d array, got an array of shape \({N}, 2\)",
    ),
    Bad("a date as outcome", lambda _: fit(y=data().X["visit"]), r"y holds dates.*\(y - start\).dt.days", TypeError),
    # columns
    Bad("a vector", lambda _: fit(X=data().X["age"]), r"Expected 2D array, got 1D.*reshape"),
    Bad("no column", lambda _: fit(X=data().X[[]]), r"0 feature\(s\)"),
    Bad(
        "infinite value",
        lambda _: fit(age=put(-np.inf)),
        "Column 'age' of X holds an infinite value: -inf in row 7.*NaN for missing",
    ),
    Bad("empty column", lambda _: fit(age=np.nan), "without any value: 'age'. Drop"),
    Bad(
        "mixed types",
        lambda _: fit(age=put("old")),
        r"column 'age' mixes types \(float .*, str 'old'\).*astype\(str\)",
        TypeError,
    ),
    Bad("lists", lambda _: fit(age=[[1]] * N), "column 'age' holds a list in row 0", TypeError),
    Bad(
        "durations",
        lambda _: fit(age=pd.to_timedelta(np.arange(N), unit="h")),
        "column 'age' has dtype timedelta.*total_seconds",
        TypeError,
    ),
    Bad("nothing varies", lambda _: fit(X=pd.DataFrame({"site": ["Bern"] * N})), "all are constant: pass at least one"),
    Bad(
        "twice the same name",
        lambda _: fit(X=pd.concat([data().X, data().X[["age"]]], axis=1)),
        "duplicated column names: 'age'",
    ),
    # options
    Bad("unknown control", lambda _: fit(small(control="sugar")), "control='sugar' is not an arm.*'placebo'|'drug'"),
    Bad(
        "unknown outcome kind", lambda _: fit(small(outcome="ordinal")), r"outcome must be 'auto' or one of .*'ordinal'"
    ),
    Bad("half a visit", lambda _: fit(small(outcome="count")), r"y is a count.*but holds [\d.]+ in row 0"),
    Bad(
        "more than two events",
        lambda _: fit(small(outcome="binary")),
        f"y has {N} distinct values.*A binary outcome needs two",
    ),
    Bad(
        "unknown loss",
        lambda _: fit(small(loss="dr", nuisance=QUICK)),
        r"loss must be one of \('plugin', .*\), got 'dr'",
    ),
    Bad(
        "unknown sampler",
        lambda _: fit(small(sampler="ddim", nuisance=QUICK)),
        r"sampler must be one of .*, got 'ddim'",
    ),
    Bad(
        "half a network",
        lambda _: fit(small(n_networks=2.5, nuisance=QUICK)),
        "n_networks must be a positive whole number.*2.5",
    ),
    Bad("no draws", lambda _: fit(small(n_draws=0, nuisance=QUICK)), "n_draws must be a positive whole number.*0"),
    Bad("no epochs", lambda _: fit(small(epochs=0, nuisance=QUICK)), "epochs must be a positive whole number.*0"),
    Bad("no overlap at all", lambda _: fit(small(min_propensity=0.6, nuisance=QUICK)), "min_propensity must lie.*0.6"),
    # weights and propensities
    Bad("weights short", lambda _: fit(sample_weight=np.ones(5)), f"X has {N}, .*sample_weight has 5 rows"),
    Bad(
        "negative weight",
        lambda _: fit(sample_weight=-np.ones(N)),
        "sample_weight must be finite and not negative, got -1.0 in row 0",
    ),
    Bad("missing weight", lambda _: fit(sample_weight=[np.nan] * N), "sample_weight .* got nan in row 0"),
    Bad("no weight", lambda _: fit(sample_weight=np.zeros(N)), "sample_weight is zero in every row"),
    Bad("words as weights", lambda _: fit(sample_weight=["1"] * N), "sample_weight must hold numbers", TypeError),
    Bad(
        "an arm without weight",
        lambda _: fit(sample_weight=data().treatment == "drug"),
        "Arm 'placebo' of treatment has 0 rows of positive weight",
    ),
    Bad(
        "one propensity",
        lambda _: fit(propensity=0.5),
        rf"propensity has shape \(\), expected \({N}, 2\).*\('placebo', 'drug'\)",
    ),
    Bad("propensities short", lambda _: fit(propensity=np.full(9, 0.5)), r"propensity has shape \(9,\), expected"),
    Bad(
        "certain treatment",
        lambda _: fit(propensity=np.r_[[0.5] * 8, 1.0, [0.5] * (N - 9)]),
        "strictly between 0 and 1.* in row 8",
    ),
    Bad("missing propensity", lambda _: fit(propensity=np.r_[np.nan, [0.5] * (N - 1)]), "propensity .*nan.* in row 0"),
    Bad(
        "too much propensity",
        lambda _: fit(propensity=np.full((N, 2), 0.6)),
        "must sum to 1 over the arms, but sums to 1.2 in row 0",
    ),
    Bad("words as propensities", lambda _: fit(propensity=["half"] * N), "propensity must hold numbers", TypeError),
    Bad("a seed by name", lambda _: fit(small(random_state="lucky", nuisance=QUICK)), "'lucky' cannot be used to seed"),
]

PREDICT = [
    Bad(
        "before fit",
        lambda _: small().predict(data().X),
        "DiffPO instance is not fitted yet. Call 'fit'",
        NotFittedError,
    ),
    Bad("a column gone", lambda est: est.predict(data().X.drop(columns="sex")), "yet now missing:\n- sex$"),
    Bad(
        "a column renamed",
        lambda est: est.predict(data().X.rename(columns={"age": "Age"})),
        r"missing:\n- age \(did you mean 'Age'\?\)",
    ),
    Bad(
        "an array too narrow", lambda est: est.predict(np.zeros((3, 2))), "X has 2 features, but DiffPO is expecting 4"
    ),
    Bad("no rows", lambda est: est.predict(data().X[:0]), r"0 sample\(s\)"),
    Bad("a vector to predict", lambda est: est.predict(data().X["age"]), "Expected 2D array, got 1D"),
    Bad("nothing", lambda est: est.predict(None), "Expected 2D array, got scalar"),
    Bad(
        "number became text",
        lambda est: est.predict(data(age="old").X),
        r"Column 'age' of X holds text.*\('old'\), but held numbers.*pd.to_numeric",
        TypeError,
    ),
    Bad(
        "text became number",
        lambda est: est.predict(data(sex=1.5).X),
        r"Column 'sex' of X holds numbers \(1.5\), but held text",
        TypeError,
    ),
    Bad(
        "bool became number",
        lambda est: est.predict(data(smoker=2).X),
        "Column 'smoker' of X held bools in fit, but holds 2 in row 0",
    ),
    Bad(
        "date became number",
        lambda est: est.predict(data(visit=20240101).X),
        "Column 'visit' of X holds numbers.*pd.to_datetime",
        TypeError,
    ),
    Bad(
        "infinite",
        lambda est: est.predict(data(age=np.inf).X),
        f"Column 'age' of X holds an infinite value: inf in row 0, {N} in all",
    ),
    Bad(
        "another zone",
        lambda est: est.predict(data(visit=lambda v: v.dt.tz_localize("UTC")).X),
        "Column 'visit' of X has time zone UTC.*tz_localize",
        TypeError,
    ),
    Bad("no draw", lambda est: est.predict_outcomes(data().X, n_draws=0), "n_draws must be a positive int, got 0"),
    Bad(
        "a draw and a half",
        lambda est: est.predict_outcomes(data().X, n_draws=1.5),
        "n_draws must be a positive int, got 1.5",
    ),
    Bad(
        "draws in words",
        lambda est: est.predict_outcomes(data().X, n_draws="many"),
        "n_draws must be a positive int, got 'many'",
    ),
    Bad(
        "seed in words",
        lambda est: est.predict_outcomes(data().X, random_state="lucky"),
        "'lucky' cannot be used to seed",
    ),
    Bad("unknown arm", lambda est: est.predict_effect(data().X, treated="sugar"), "'sugar'.*'placebo', 'drug'"),
    Bad("unknown control arm", lambda est: est.predict_effect(data().X, control="sugar"), "'sugar'.*'placebo', 'drug'"),
    Bad(
        "an arm with itself",
        lambda est: est.predict_effect(data().X, treated="drug", control="drug"),
        "both 'drug': name two different arms",
    ),
    Bad("a level of 90", lambda est: est.predict_effect(data().X).interval(90), "strictly between 0 and 1.*got 90"),
    Bad(
        "quantile of 50",
        lambda est: est.predict_outcomes(data().X).quantile(50),
        "probabilities between 0 and 1, got 50",
    ),
]

SCORE = [
    Bad("score without treatment", lambda est: est.score(data().X, data().y), "keyword-only.*'treatment'", TypeError),
    Bad(
        "an arm never seen", lambda est: score(est, treatment=["sugar"] * N), "'sugar', not seen in fit; known are 'pl"
    ),
    Bad("score lengths", lambda est: score(est, y=np.zeros(9)), f"{N}, 9 and {N} rows"),
    Bad("score a missing outcome", lambda est: score(est, y=put(np.nan)), "y contains NaN.*first in row 7"),
    Bad("score weights short", lambda est: score(est, [1, 2]), f"sample_weight has 2 rows, X has {N}"),
    Bad("score negative weight", lambda est: score(est, np.full(N, -2.0)), "not negative, got -2.0 in row 0"),
    Bad("score without weight", lambda est: score(est, np.zeros(N)), "zero in every row"),
]


@pytest.fixture(scope="module")
def est() -> DiffPO:
    return fit(small())


@pytest.mark.parametrize("bad", FIT + PREDICT + SCORE, ids=str)
@pytest.mark.filterwarnings("ignore:Columns of X")
def test_bad_call(bad: Bad, est: DiffPO) -> None:
    with pytest.raises(bad.error) as caught:
        bad.call(est)
    assert re.search(bad.message, str(caught.value), re.DOTALL), str(caught.value)


def test_the_table_of_bad_calls_is_whole() -> None:
    names = [bad.name for bad in FIT + PREDICT + SCORE]
    assert len(names) >= 30 and len(set(names)) == len(names)
    assert data().X.equals(data(age=lambda age: age).X)  # the table without a change is sound: `est` is fitted on it


# ---- what is a warning, not an error ---------------------------------------------------------------------------------


def test_an_unseen_category_is_missing_and_said(est: DiffPO) -> None:
    with pytest.warns(UserWarning, match=r"never seen in fit are treated as missing: column 'sex': 'x'"):
        unseen = est.predict(data(sex="x").X)
    with pytest.warns(UserWarning, match=r"Missing values in columns that had none in fit: 'sex' \(60 rows\)"):
        missing = est.predict(data(sex=np.nan).X)
    assert_array_equal(unseen, missing)


def test_columns_in_another_order_are_found_by_name(est: DiffPO) -> None:
    X = data().X
    assert_array_equal(est.predict(X[["visit", "smoker", "sex", "age"]]), est.predict(X))
    assert_array_equal(est.predict(X.assign(diary="unread")), est.predict(X))


def test_weak_overlap_is_counted_when_weights_need_it() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(N)
    share = np.clip(1 / (1 + np.exp(-8 * x)), 1e-4, 1 - 1e-4)
    t = (rng.random(N) < share).astype(int)
    n_low = int((np.minimum(share, 1 - share) < 0.01).sum())
    assert n_low
    with pytest.warns(UserWarning, match=rf"{n_low} of {N} rows have an arm with .*propensity below 0.01"):
        small(loss="ipw", nuisance=QUICK).fit(x[:, None], x + t, treatment=t, propensity=share)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_save_where_there_is_no_folder(est: DiffPO, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere.* for 'model.effects' does not exist: create it"):
        est.save(tmp_path / "nowhere" / "model.effects")
    assert not list(tmp_path.iterdir())


def test_save_over_a_folder(est: DiffPO, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(OSError, match="model"):
        est.save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nuisance": QUICK}, "nuisance model of your own choice cannot be saved without pickle: .*default nuisances"),
        ({"random_state": np.random.RandomState(0)}, "a RandomState cannot be saved without pickle: use plain values"),
        ({"nuisance": Nuisance(n_folds=2, random_state=np.random.RandomState(0))}, "a RandomState cannot be saved"),
    ],
)
def test_what_only_pickle_could_write_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    fitted = fit(small(**options))
    with pytest.raises(TypeError, match=message):
        fitted.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def strange(kind: str) -> bytes:
    from safetensors.numpy import save

    arrays = {"a": np.zeros(3)}
    return {
        "empty": b"",
        "text": b"age,sex\n3,f\n",
        "pickle": b"\x80\x04cbuiltins\nprint\n(S'run'\ntR.",
        "zip": b"PK\x03\x04" + bytes(100),
        "tensors of others": save(arrays),
        "metadata of others": save(arrays, {"format": "pt"}),
        "a future format": save(arrays, {"effects-model-99": "{}"}),
        "an empty header": save(arrays, {"effects-model-1": "{}"}),
        "a broken header": save(arrays, {"effects-model-1": "{"}),
        "a list for a header": save(arrays, {"effects-model-1": "[1]"}),
        "a class of another kind": save(arrays, {"effects-model-1": '{"class": "Nuisance"}'}),
        "a module for a class": save(arrays, {"effects-model-1": '{"class": "os.system"}'}),
        "the base class": save(arrays, {"effects-model-1": '{"class": "EffectEstimator"}'}),
        "a name and no more": save(arrays, {"effects-model-1": '{"class": "DiffPO"}'}),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "is not a model file"),
        ("text", "is not a model file"),
        ("pickle", "is not a model file"),
        ("zip", "is not a model file"),
        ("tensors of others", "not a model that this version of effects can read"),
        ("metadata of others", "not a model that this version of effects can read"),
        ("a future format", "not a model that this version of effects can read"),
        ("an empty header", "is damaged"),
        ("a broken header", "is damaged"),
        ("a list for a header", "is damaged"),
        ("a class of another kind", "holds a Nuisance, which is not an estimator"),
        ("a module for a class", "holds a os.system, which is not an estimator"),
        ("the base class", "is damaged"),
        ("a name and no more", "is damaged"),
    ],
)
def test_files_of_strangers(kind: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model"
    path.write_bytes(strange(kind))
    loaders = [effects.load] if "class" in kind else [effects.load, DiffPO.load]
    for load in loaders:
        with pytest.raises(ValueError, match=message) as caught:
            load(path)
        assert "model'" in str(caught.value)  # which file it was
    assert capsys.readouterr().out == ""


def test_half_a_file_is_no_model(est: DiffPO, tmp_path: Path) -> None:
    path = est.save(tmp_path / "model")
    whole = path.read_bytes()
    for size in (4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is not a model file"):
            effects.load(path)


def test_no_file_at_all(tmp_path: Path) -> None:
    for path in (tmp_path / "model", tmp_path, str(tmp_path / "model")):
        for load in (effects.load, DiffPO.load):
            with pytest.raises(FileNotFoundError, match="no model file at"):
                load(path)
