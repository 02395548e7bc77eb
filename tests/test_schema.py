"""Tests of effects.schema: what a user may bring, what is refused and with which words, and the encoding itself."""

from __future__ import annotations

import json
import math
import tracemalloc
import warnings
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

from effects.schema import MAX_LEVELS, ColumnSpec, OutcomeSpec, Schema, check_sample_weight

N = 200


def table(n: int = N, seed: int = 0) -> pd.DataFrame:
    """One column of each kind, with missing values in most."""
    rng = np.random.default_rng(seed)
    hole = rng.random((n, 6)) < 0.2
    number = rng.normal(50, 10, n)
    X = pd.DataFrame({"whole": rng.integers(0, 100, n), "number": np.where(hole[:, 0], np.nan, number)})
    X["nullable"] = pd.array(rng.integers(0, 9, n), dtype="Int64")
    X.loc[hole[:, 1], "nullable"] = pd.NA
    X["float"] = pd.array(rng.normal(size=n), dtype="Float64")
    X["flag"] = rng.random(n) < 0.3
    X["maybe"] = pd.array(rng.random(n) < 0.3, dtype="boolean")
    X.loc[hole[:, 2], "maybe"] = pd.NA
    X["city"] = rng.choice(np.array(["Bern", "Basel", "Chur"], dtype=object), n)
    X.loc[hole[:, 3], "city"] = None
    X["text"] = pd.array(rng.choice(["a", "b"], n), dtype="string")
    X["stage"] = pd.Categorical(rng.choice(["III", "I", "II"], n), categories=["I", "II", "III", "IV"], ordered=True)
    X["grade"] = pd.Categorical(rng.choice([3, 1, 2], n))
    X["day"] = pd.Timestamp("2020-02-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D")
    X.loc[hole[:, 4], "day"] = pd.NaT
    X["zoned"] = X["day"].dt.tz_localize("Europe/Zurich")
    return X


def arms(n: int = N) -> np.ndarray:
    return np.arange(n) % 2


def outcome(n: int = N) -> np.ndarray:
    return np.random.default_rng(1).normal(10, 3, n)


def learn(X: Any = None, y: Any = None, treatment: Any = None, **options: Any) -> Schema:
    X = table() if X is None else X
    n = len(X)
    return Schema.learn(X, outcome(n) if y is None else y, arms(n) if treatment is None else treatment, **options)


def with_column(values: Any) -> pd.DataFrame:
    """A table of N rows with one good column and the column "bad"."""
    return pd.DataFrame({"good": np.linspace(0, 1, N), "bad": values})


def put(values: Any, row: int, value: Any) -> Any:
    values = list(values)
    values[row] = value
    return values


# ---- encoding --------------------------------------------------------------------------------------------------------


def test_encoding_of_the_learning_table_is_standardised_complete_and_named() -> None:
    X = table()
    schema = learn(X)
    E = schema.encode(X)
    assert E.dtype == np.float32 and E.shape == (N, len(schema.feature_names)) and np.isfinite(E).all()
    for k, name in enumerate(schema.feature_names):
        if name in ("whole", "number", "nullable", "float", "day", "zoned"):
            assert abs(E[:, k].mean()) < 1e-6 and abs(E[:, k].std() - 1) < 1e-6, name
        else:
            assert set(np.unique(E[:, k])) == {0.0, 1.0}, name
    encoded = dict(zip(schema.feature_names, E.T, strict=True))
    for name in ("number", "nullable", "maybe", "city", "day"):
        np.testing.assert_array_equal(encoded[f"{name}=<missing>"], X[name].isna())
    np.testing.assert_array_equal(encoded["flag"], X["flag"])
    np.testing.assert_array_equal(encoded["stage=II"], X["stage"] == "II")
    np.testing.assert_array_equal(encoded["grade=3"], X["grade"] == 3)
    assert [name for name in schema.feature_names if name.startswith("stage")] == ["stage=I", "stage=II", "stage=III"]


def test_number_is_filled_with_the_median_and_scaled_by_its_own_constants() -> None:
    X = pd.DataFrame({"x": [1.0, 2.0, np.nan, 4.0, 9.0]})
    filled = np.array([1.0, 2.0, 3.0, 4.0, 9.0])  # the median of 1, 2, 4, 9 is 3
    schema = learn(X)
    expected = np.column_stack([(filled - filled.mean()) / filled.std(), [0, 0, 1, 0, 0]])
    np.testing.assert_allclose(schema.encode(X), expected, rtol=1e-6)
    spec = schema.columns[0]
    assert (spec.fill, spec.mean, spec.missing) == (3.0, 3.8, 0.2) and math.isclose(spec.sd or 0, filled.std())


def test_missing_bools_take_the_commoner_value() -> None:
    X = pd.DataFrame({"x": pd.array([True, True, False, None], dtype="boolean")})
    assert learn(X).encode(X).tolist() == [[1, 0], [1, 0], [0, 0], [1, 1]]
    assert learn(~X).encode(~X).tolist() == [[0, 0], [0, 0], [1, 0], [0, 1]]


def test_far_dates_are_within_reach() -> None:
    X = pd.DataFrame({"day": np.array(["0001-01-01", "9999-12-31"] * 4, dtype="datetime64[s]")})
    assert np.abs(learn(X).encode(X)).round(6).tolist() == [[1.0]] * 8


def test_dates_count_days_and_zones_are_instants() -> None:
    X = pd.DataFrame({"day": pd.to_datetime(["1970-01-02", "1970-01-04", "1970-01-06", "1970-01-12"])})
    assert learn(X).columns[0].mean == 5.0
    at = pd.Series(pd.date_range("2024-01-01", periods=6, freq="7h", tz="Europe/Zurich"))
    schema = learn(at.to_frame("at"))
    np.testing.assert_array_equal(
        schema.encode(at.to_frame("at")), schema.encode(at.dt.tz_convert("Asia/Tokyo").to_frame("at"))
    )
    days = pd.Series([date(1970, 1, 2), None, None, date(1970, 1, 6)], dtype=object)
    assert learn(days.to_frame("d")).columns[0].fill == 3.0


@pytest.mark.parametrize(
    "values",
    [
        np.arange(N, dtype="int8"),
        np.linspace(0, 1, N).astype("float16"),
        pd.array(np.arange(N), dtype="UInt8"),
        pd.Series([Decimal(k) for k in range(N)], dtype=object),
        pd.Series([1, 2.5] * (N // 2), dtype=object),
        pd.Series([None, 2.5, 3] * 66 + [1, 2], dtype=object),
        pd.arrays.SparseArray(np.arange(N) % 3),
    ],
    ids=lambda v: str(v.dtype),
)
def test_numbers_of_every_storage_encode_as_float64_does(values: Any) -> None:
    plain = with_column(np.array([np.nan if v is None else float(v) for v in values]))
    np.testing.assert_allclose(learn(with_column(values)).encode(with_column(values)), learn(plain).encode(plain))


def test_array_and_frame_and_list_encode_alike() -> None:
    X = np.random.default_rng(0).normal(size=(N, 3))
    X[::7, 1] = np.nan
    schema = learn(X)
    assert [spec.name for spec in schema.columns] == ["x0", "x1", "x2"] and not schema.named
    E = schema.encode(X)
    np.testing.assert_array_equal(schema.encode(X.tolist()), E)
    np.testing.assert_array_equal(schema.encode(X.astype(object)), E)
    np.testing.assert_array_equal(schema.encode(pd.DataFrame(X, columns=["x0", "x1", "x2"])), E)
    with pytest.warns(UserWarning, match="X has feature names, but EffectEstimator was fitted without"):
        np.testing.assert_array_equal(schema.encode(pd.DataFrame(X, columns=["a", "b", "c"])), E)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        np.testing.assert_array_equal(learn(pd.DataFrame(X, columns=["a", "b", "c"])).encode(X), E)
    mixed = [[1.5, "u"], [2.5, "v"], [0.5, "u"], [3.0, "v"]]  # numpy alone would make text of all of it
    assert learn(mixed).feature_names == ("x0", "x1=u", "x1=v")


def test_columns_are_matched_by_name_and_others_ignored() -> None:
    X = table()
    schema = learn(X)
    other = X[sorted(X.columns, reverse=True)].assign(extra="ignored")
    np.testing.assert_array_equal(schema.encode(other), schema.encode(X))
    reordered = learn(X[sorted(X.columns)])
    assert {spec.name: spec for spec in reordered.columns} == {spec.name: spec for spec in schema.columns}


def test_rows_are_encoded_one_by_one_and_learning_ignores_their_order() -> None:
    X = table()
    schema = learn(X)
    order = np.random.default_rng(2).permutation(N)
    E = schema.encode(X)
    np.testing.assert_array_equal(schema.encode(X.iloc[order]), E[order])
    np.testing.assert_array_equal(np.vstack([schema.encode(X.iloc[[k]]) for k in range(20)]), E[:20])
    shuffled = learn(X.iloc[order])
    assert shuffled.feature_names == schema.feature_names
    np.testing.assert_allclose(shuffled.encode(X), E, atol=1e-5)


def test_learn_and_encode_leave_the_input_alone_and_accept_read_only_memory() -> None:
    X = table()
    X["object"] = pd.Series([None, 1, 2.5, 3] * (N // 4), dtype=object)
    before = X.copy()
    learn(X).encode(X)
    pd.testing.assert_frame_equal(X, before)
    assert X["object"].iloc[0] is None
    array = np.random.default_rng(0).normal(size=(N, 2))
    numbered = pd.DataFrame(array)
    assert learn(numbered).encode(numbered[[1, 0]]).shape == (N, 2) and numbered.columns.equals(pd.RangeIndex(2))
    array.flags.writeable = False
    learn(array).encode(array)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("object", lambda s: s.astype(object)),
        ("string", lambda s: s.astype("string")),
        ("category", lambda s: s.astype("category")),
        ("arrow", lambda s: s.astype("string[pyarrow]")),
    ],
)
def test_text_of_every_storage_encodes_alike(kind: str, change: Callable[[pd.Series], pd.Series]) -> None:
    X = table()[["city", "text"]]
    schema = learn(X)
    other = X.apply(change)
    assert learn(other) == schema
    np.testing.assert_array_equal(schema.encode(other), schema.encode(X))


# ---- levels, missing values, constants -------------------------------------------------------------------------------


def test_unseen_levels_are_missing_and_warned_of_once() -> None:
    X = table()
    schema = learn(X)
    new = X.copy()
    new["city"] = new["city"].astype(object)
    new["stage"] = new["stage"].astype(object)
    new.loc[:4, "city"] = "Genf"
    new.loc[2:3, "stage"] = "V"
    gone = new.copy()
    gone.loc[:4, "city"] = None
    gone.loc[2:3, "stage"] = None
    with pytest.warns(UserWarning) as caught:
        E = schema.encode(new)
    assert len(caught) == 1
    assert "'city': 'Genf'; column 'stage': 'V'" in str(caught[0].message)
    with pytest.warns(UserWarning, match=r"Missing values in columns that had none in fit: 'stage' \(2 rows\)"):
        np.testing.assert_array_equal(E, schema.encode(gone))


def test_missing_values_new_at_predict_take_the_median_and_warn() -> None:
    X = with_column(np.arange(N) % 7)
    schema = learn(X)
    new = with_column(put(np.arange(N) % 7, 3, np.nan))
    with pytest.warns(UserWarning, match=r"none in fit: 'bad' \(1 rows\)"):
        E = schema.encode(new)
    np.testing.assert_array_equal(E[3], schema.encode(X)[3])  # 3 is the median
    with pytest.warns(UserWarning, match=r"'bad' \(200 rows\)"):
        schema.encode(with_column([None] * N))
    X = table()
    with pytest.warns(UserWarning, match=r"'whole' \(200 rows\), 'float' \(200 rows\), 'flag'"):
        E = learn(X).encode(pd.DataFrame(index=X.index, columns=X.columns))  # object columns
        F = learn(X).encode(X.assign(**dict.fromkeys(X.columns, nan)))  # float columns
    assert np.isfinite(E).all()
    np.testing.assert_array_equal(E, F)


def test_rare_levels_are_pooled() -> None:
    n = 2000  # 0.5% are 10 rows
    values = np.array(["common"] * (n - 19) + ["ten"] * 10 + ["nine"] * 9)
    schema = learn(pd.DataFrame({"x": values}))
    assert schema.columns[0].levels == ("common", "ten") and schema.columns[0].pooled == ("nine",)
    assert schema.feature_names == ("x=common", "x=ten", "x=<other>")
    assert schema.encode(pd.DataFrame({"x": ["nine"]})).tolist() == [[0, 0, 1]]
    small = learn(pd.DataFrame({"x": ["a"] * 6 + ["b"] * 5 + ["c"]}))  # 5% of 12 rows: nothing is rare
    assert small.columns[0].pooled == ()


def test_at_most_fifty_levels_are_kept_the_most_frequent() -> None:
    values = np.repeat([f"level {k:03d}" for k in range(60)], np.r_[np.full(30, 20), np.full(30, 21)])
    spec = learn(pd.DataFrame({"x": values})).columns[0]
    assert len(spec.levels) == MAX_LEVELS and len(spec.pooled) == 10
    assert set(spec.levels) >= {f"level {k:03d}" for k in range(30, 60)}


def test_constant_columns_are_dropped_with_one_warning_that_names_them() -> None:
    X = with_column(3).assign(same="yes", rare=[f"v{k // 4}" for k in range(N)], day=pd.Timestamp("2020-01-01"))
    with pytest.warns(UserWarning, match="dropped") as caught:
        schema = learn(X)
    assert len(caught) == 1
    for part in ("'bad' (always 3", "'same' (always 'yes')", "'rare' (50 levels", "'day' (always 2020-01-01"):
        assert part in str(caught[0].message)
    assert schema.feature_names == ("good",) and schema.n_features == 5
    assert schema.encode(X[["good"]]).shape == (N, 1)  # a dropped column need not come back


def test_constant_with_missing_values_keeps_the_indicator_only() -> None:
    schema = learn(with_column([7.0, np.nan] * (N // 2)))
    assert schema.feature_names == ("good", "bad=<missing>")
    assert learn(with_column(["u", None] * (N // 2))).feature_names == ("good", "bad=u", "bad=<missing>")


def test_identifiers_are_warned_of() -> None:
    with pytest.warns(UserWarning) as caught:
        learn(with_column([f"patient {k}" for k in range(N)]))
    messages = [str(w.message) for w in caught]
    assert any("look like identifiers" in m and "'bad' (200 values in 200 rows" in m and "Drop" in m for m in messages)


def test_intervals_of_cut_are_levels() -> None:
    X = with_column(pd.cut(np.arange(N) % 10, [-1, 3, 6, 10]))
    schema = learn(X)
    assert schema.feature_names[1:] == ("bad=(-1, 3]", "bad=(3, 6]", "bad=(6, 10]")
    assert schema.encode(X)[:, 1:].sum() == N


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_weights_are_repetitions_and_zero_is_removal() -> None:
    rng = np.random.default_rng(3)
    X, y, a = table(60), outcome(60), arms(60)
    weights = np.r_[rng.integers(0, 4, 56), 2, 2, 2, 2]
    rows = np.repeat(np.arange(60), weights)
    weighted = learn(X, y, a, sample_weight=weights)
    repeated = Schema.learn(X.iloc[rows], y[rows], a[rows])
    for left, right in zip(weighted.columns, repeated.columns, strict=True):
        for key in ("fill", "mean", "sd"):
            assert getattr(left, key) == pytest.approx(getattr(right, key)), left.name
    assert (weighted.outcome.mean, weighted.outcome.sd) == pytest.approx((repeated.outcome.mean, repeated.outcome.sd))
    assert weighted.columns[1].mean != learn(X, y, a).columns[1].mean
    kept = weights > 0
    zero_one = learn(X, y, a, sample_weight=kept.astype(float))
    removed = Schema.learn(X[kept], y[kept], a[kept])
    assert [spec.levels for spec in zero_one.columns] == [spec.levels for spec in removed.columns]
    assert [spec.missing for spec in zero_one.columns] == [spec.missing for spec in removed.columns]


def test_check_sample_weight() -> None:
    assert check_sample_weight([1, 2], 2).dtype == np.float64
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        check_sample_weight([1, 2], 3)


# ---- arms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 0], (0, 1)),
        ([1, 2], (1, 2)),
        ([1, -1, 0], (0, -1, 1)),
        ([1.0, 0.0], (0.0, 1.0)),
        ([True, False], (False, True)),
        (["treated", "Control"], ("Control", "treated")),
        (["aspirin", "Placebo"], ("Placebo", "aspirin")),
        (["none", "Usual_care", "app"], ("none", "Usual_care", "app")),
        (["b", "a", "c"], ("a", "b", "c")),
        (["1", "0"], ("0", "1")),
        (pd.Categorical(["low", "high", "mid"], categories=["low", "mid", "high", "never"]), ("low", "mid", "high")),
        (pd.array([1, 0], dtype="Int64"), (0, 1)),
        (pd.array([True, False], dtype="boolean"), (False, True)),
        (pd.array(["x", "control"], dtype="string"), ("control", "x")),
        (pd.cut([1, 5], [0, 2, 6]), ("(0, 2]", "(2, 6]")),
    ],
)
def test_arms_of_any_label_round_trip(values: Any, expected: tuple[Any, ...]) -> None:
    treatment = pd.Series(values).repeat(10).reset_index(drop=True)
    schema = learn(pd.DataFrame({"x": np.arange(len(treatment))}), treatment=treatment)
    assert schema.arms == expected and [type(arm) for arm in schema.arms] == [type(arm) for arm in expected]
    codes = schema.encode_treatment(treatment)
    assert codes.dtype == np.int64 and schema.n_arms == len(expected)
    decoded = schema.decode_treatment(codes)
    assert decoded.tolist() == [str(v) if isinstance(v, pd.Interval) else v for v in treatment]
    assert type(decoded.tolist()[0]) is type(expected[0])
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict(), allow_nan=False)))
    assert again == schema and [type(arm) for arm in again.arms] == [type(arm) for arm in expected]


def test_control_is_chosen_by_label() -> None:
    treatment = np.array(["placebo", "low", "high"])[np.arange(N) % 3]
    assert learn(treatment=treatment, control="low").arms == ("low", "high", "placebo")
    assert learn(control=np.int64(1)).arms == (1, 0)


# ---- outcome ---------------------------------------------------------------------------------------------------------

POISSON = np.random.default_rng(4).poisson(2.0, N)
PRESSURE = np.random.default_rng(5).integers(90, 200, N)


@pytest.mark.parametrize(
    ("y", "option", "kind", "levels"),
    [
        (outcome(), "auto", "continuous", None),
        (arms(), "auto", "binary", (0, 1)),
        (arms().astype(float), "auto", "binary", (0.0, 1.0)),
        (arms() == 1, "auto", "binary", (False, True)),
        (pd.array(arms() == 1, dtype="boolean"), "auto", "binary", (False, True)),
        (arms() + 1, "auto", "continuous", None),
        (arms() + 1, "binary", "binary", (1, 2)),
        (np.zeros(N, dtype=int), "binary", "binary", (0, 1)),
        (np.where(arms() == 1, "yes", "no"), "auto", "binary", ("no", "yes")),
        (np.where(arms() == 1, "dead", "survived"), "auto", "binary", ("survived", "dead")),
        (np.where(arms() == 1, "m", "f"), "auto", "binary", ("f", "m")),
        (
            pd.Categorical(np.where(arms() == 1, "yes", "no"), ["yes", "no"], ordered=True),
            "auto",
            "binary",
            ("yes", "no"),
        ),
        (pd.Categorical(np.where(arms() == 1, "Yes", "No"), ["Yes", "No"]), "auto", "binary", ("No", "Yes")),
        (POISSON, "auto", "count", None),
        (POISSON.astype(float), "auto", "count", None),
        (pd.array(POISSON, dtype="Int64"), "auto", "count", None),
        (POISSON, "continuous", "continuous", None),
        (arms(), "continuous", "continuous", None),
        (arms(), "count", "count", None),
        (PRESSURE, "auto", "continuous", None),
        (PRESSURE, "count", "count", None),
        (POISSON - 1, "auto", "continuous", None),
        (POISSON + 1, "auto", "count", None),
        (POISSON + 2, "auto", "continuous", None),
        (arms() * 2, "auto", "continuous", None),
        (POISSON + 0.5, "auto", "continuous", None),
        (np.arange(N), "auto", "continuous", None),
        (np.full(N, 3.5), "auto", "continuous", None),
        (np.zeros(N), "auto", "continuous", None),
    ],
)
def test_outcome_kinds(y: Any, option: str, kind: str, levels: tuple[Any, Any] | None) -> None:
    schema = learn(y=y, outcome=option)
    assert schema.outcome.kind == kind and schema.outcome.levels == levels
    assert schema.outcome.sd > 0
    encoded = schema.encode_outcome(y)
    assert encoded.dtype == np.float64
    assert (schema.outcome.low, schema.outcome.high) == (encoded.min(), encoded.max())
    assert schema.outcome.mean == pytest.approx(encoded.mean())
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict(), allow_nan=False)))
    assert again == schema
    decoded = again.decode_outcome(encoded)
    assert decoded.tolist() == list(y)
    if levels is not None:
        assert [type(v) for v in again.outcome.levels or ()] == [type(v) for v in levels]
        assert type(decoded.tolist()[0]) is type(levels[0])


@pytest.mark.parametrize(
    ("n", "k", "kind"),
    [
        (60, 10, "count"),
        (60, 11, "continuous"),  # sqrt(60) < 10
        (900, 30, "count"),
        (900, 31, "continuous"),
        (20, 10, "count"),
        (18, 10, "continuous"),  # 10 > 18 / 2
    ],
)
def test_count_rule_at_its_borders(n: int, k: int, kind: str) -> None:
    assert learn(pd.DataFrame({"x": np.arange(n)}), y=np.arange(n) % k).outcome.kind == kind


def test_outcome_name_is_the_column_name() -> None:
    assert learn(y=pd.Series(outcome(), name="weight")).outcome.name == "weight"
    assert learn().outcome.name == "y"


def test_column_vector_y_is_used_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="A column-vector y was passed when a 1d array was expected"):
        schema = learn(y=outcome()[:, None])
    assert schema.outcome == learn().outcome


def test_rows_paired_against_their_labels_are_warned_of() -> None:
    X = table().set_axis([f"p{k}" for k in range(N)])
    with pytest.warns(UserWarning, match=r"index of y holds the labels of X in another order.*y\.loc\[X\.index\]"):
        learn(X, y=pd.Series(outcome(), index=X.index[::-1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn(X, y=pd.Series(outcome(), index=X.index), treatment=pd.Series(arms()))


# ---- bad input -------------------------------------------------------------------------------------------------------

nan, inf = float("nan"), float("inf")

BAD_TABLES: list[tuple[str, Any, Any, str]] = [
    ("dok", scipy.sparse.eye(5).todok(), TypeError, "Sparse data was passed for X"),
    ("dict", {"a": [1, 2], "b": [2, 3]}, TypeError, r"X is a dict with named columns: pass pd.DataFrame\(X\)"),
    ("structured", np.zeros(5, dtype=[("a", float), ("b", int)]), TypeError, r"named columns: pass pd.DataFrame\(X\)"),
    ("1d", np.arange(4.0), ValueError, r"Expected 2D array, got 1D array instead.*\n.*Reshape your data"),
    ("series", pd.Series([1.0, 2.0]), ValueError, "Expected 2D array, got 1D array"),
    ("path", "trial.csv", ValueError, "Expected 2D array, got scalar array"),
    ("3d", np.zeros((4, 2, 2)), ValueError, "Found array with dim 3"),
    ("no rows", np.empty((0, 3)), ValueError, r"Found array with 0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of"),
    (
        "no columns",
        np.empty((12, 0)),
        ValueError,
        r"0 feature\(s\) \(shape=\(12, 0\)\) while a minimum of 1 is required\.",
    ),
    ("one row", np.zeros((1, 3)), ValueError, r"Found array with 1 sample"),
    ("sparse", scipy.sparse.eye(5).tocsr(), TypeError, r"Sparse data was passed for X.*toarray"),
    ("sparse array", scipy.sparse.eye_array(5), TypeError, r"Sparse data was passed for X"),
    ("masked", np.ma.masked_less(np.eye(4), 0.5), TypeError, r"masked array.*filled\(np\.nan\)"),
    ("ragged", [[1, 2], [3]], ValueError, "rows of different lengths"),
    ("complex", np.ones((4, 2)) * 1j, ValueError, "Complex data not supported"),
    ("complex object", with_column(put([1] * N, 2, 1j)), (ValueError, TypeError), "omplex"),
    ("duplicated", pd.DataFrame(np.eye(4), columns=list("abca")), ValueError, "duplicated column names: 'a'"),
    ("same as text", pd.DataFrame(np.eye(4), columns=[1, 2, "1", 3]), ValueError, "duplicated column names: '1'"),
    ("multiindex", pd.DataFrame(np.eye(2), columns=[["a", "a"], ["b", "c"]]), ValueError, "MultiIndex"),
    ("all nan", with_column(nan), ValueError, "without any value: 'bad'"),
    ("all none", with_column([None] * N), ValueError, "without any value: 'bad'"),
    ("all NaT", with_column(pd.NaT), ValueError, "without any value: 'bad'"),
    ("empty category", with_column(pd.Categorical([None] * N, ["a"])), ValueError, "without any value: 'bad'"),
    ("infinite", with_column(put(range(N), 17, inf)), ValueError, "Column 'bad' .* infinite value: inf in row 17"),
    (
        "minus",
        with_column(put(range(N), 5, -inf)).set_index("good", drop=False),
        ValueError,
        r"-inf in row 5 \(index 0\.02",
    ),
    ("array inf", put([[0.0, 1.0]] * 5, 3, [1.0, inf]), ValueError, "Column 'x1' .* inf in row 3"),
    ("mixed", with_column(put(["a"] * N, 3, 1)), TypeError, "column 'bad' mixes types .*int 1, str 'a'"),
    ("bool and int", with_column(put([True] * N, 3, 7)), TypeError, "column 'bad' mixes types .*bool True, int 7"),
    (
        "mixed categories",
        with_column(pd.Categorical(put(["a"] * N, 3, 1))),
        TypeError,
        "mixes types among its categories",
    ),
    (
        "list",
        with_column(put(["a"] * N, 2, ["b"])),
        TypeError,
        "'bad' holds a list in row 2: every argument must be a string",
    ),
    (
        "dict",
        with_column(put([1.0] * N, 0, {"a": 1})),
        TypeError,
        "holds a dict in row 0.*argument must be .* string.* number",
    ),
    ("tuple", with_column([(1, 2)] * N), TypeError, "'bad' holds a tuple in row 0"),
    ("bytes", with_column([b"a"] * N), TypeError, "'bad' holds values that have no encoding .*bytes b'a'"),
    ("timedelta", with_column(pd.to_timedelta(range(N), unit="D")), TypeError, "dtype timedelta64.*total_seconds"),
    ("period", with_column(pd.period_range("2020", periods=N, freq="D")), TypeError, "dtype period.*to_timestamp"),
    (
        "zones",
        with_column(put([pd.Timestamp("2020", tz="UTC")] * N, 1, pd.Timestamp("2020"))),
        ValueError,
        "dates that pandas",
    ),
    ("all constant", np.ones((6, 2)), ValueError, "No column of X is left"),
    ("huge", with_column(put([1.7e308] * N, 1, -1.7e308)), ValueError, "'bad' of X spans .* rescale"),
]


@pytest.mark.filterwarnings("ignore:Columns of X dropped")
@pytest.mark.parametrize(("X", "error", "message"), [case[1:] for case in BAD_TABLES], ids=[c[0] for c in BAD_TABLES])
def test_bad_tables(X: Any, error: type[Exception], message: str) -> None:
    n = X.shape[0] if hasattr(X, "shape") else len(X)
    with pytest.raises(error, match=message):
        Schema.learn(X, np.arange(n) / 7, np.arange(n) % 2)


BAD_VECTORS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("y none", {"y": None}, ValueError, "requires y to be passed, but the target y is None"),
    (
        "y name",
        {"y": "bp"},
        TypeError,
        r"y must hold one value per row, got 'bp': pass the column itself, data\['bp'\]",
    ),
    (
        "y short",
        {"y": outcome(7)},
        ValueError,
        "inconsistent numbers of samples: X has 200, y has 7, treatment has 200",
    ),
    (
        "y nan",
        {"y": put(outcome(), 4, nan)},
        ValueError,
        "Input y contains NaN: 1 missing value, the first in row 4. Remove",
    ),
    ("y NA", {"y": pd.array([pd.NA, pd.NA, *range(198)])}, ValueError, "Input y contains NaN: 2 missing values"),
    ("y None", {"y": put(["a", "b"] * 100, 9, None)}, ValueError, "1 missing value, the first in row 9"),
    ("y inf", {"y": put(outcome(), 8, inf)}, ValueError, "Input y contains infinity: inf in row 8, 1 in all"),
    ("y text", {"y": ["a", "b", "c", "d"] * 50}, ValueError, "y has 4 distinct values .* two"),
    ("y one label", {"y": ["a"] * N}, ValueError, "y has 1 distinct value"),
    ("y 2d", {"y": np.ones((N, 2))}, ValueError, r"y should be a 1d array, got an array of shape \(200, 2\)"),
    ("y dates", {"y": pd.date_range("2020", periods=N)}, TypeError, "y holds dates"),
    ("y complex", {"y": outcome() + 1j}, ValueError, "Complex data not supported: y"),
    ("y lists", {"y": pd.Series([[1]] * N)}, TypeError, "y holds a list in row 0"),
    ("y sparse", {"y": scipy.sparse.eye(N).tocsr()}, TypeError, "Sparse data was passed for y"),
    ("y huge", {"y": put([1.7e308] * N, 1, -1.7e308)}, ValueError, "y spans .* rescale"),
    ("kind", {"outcome": "survival"}, ValueError, r"outcome must be 'auto' or one of .*got 'survival'"),
    ("not binary", {"outcome": "binary"}, ValueError, "y has 200 distinct values .* A binary outcome needs two"),
    ("which", {"y": [5] * N, "outcome": "binary"}, ValueError, "y is always 5"),
    (
        "text",
        {"y": ["1.5"] * N, "outcome": "continuous"},
        ValueError,
        r"y holds text or categories such as '1.5'.*to_numeric",
    ),
    ("negative", {"y": POISSON - 1, "outcome": "count"}, ValueError, "y is a count, .* -1 in row"),
    ("fraction", {"y": put(POISSON, 2, 0.5), "outcome": "count"}, ValueError, "y is a count, .* 0.5 in row 2"),
    ("t none", {"treatment": None}, TypeError, "treatment must hold one value per row, got None"),
    (
        "t name",
        {"treatment": "arm"},
        TypeError,
        r"treatment must hold .* got 'arm': pass the column itself, data\['arm'\]",
    ),
    ("t long", {"treatment": arms(300)}, ValueError, "treatment has 300"),
    ("t one", {"treatment": np.ones(N)}, ValueError, "treatment has one arm only, 1.0"),
    ("t row", {"treatment": put(np.zeros(N), 3, 1.0)}, ValueError, "Arm 1.0 of treatment has 1 row, two are the least"),
    ("t nan", {"treatment": put(arms(), 3, nan)}, ValueError, "Input treatment contains NaN: 1 missing value, .*row 3"),
    ("t None", {"treatment": put(["a", "b"] * 100, 0, None)}, ValueError, "Input treatment contains NaN"),
    ("t floats", {"treatment": put(arms(), 6, 0.5)}, ValueError, "treatment looks continuous.* 0.5 in row 6"),
    (
        "t many",
        {"treatment": np.arange(N) // 2},
        ValueError,
        "treatment looks continuous.*100 distinct values, at most 20",
    ),
    ("t dates", {"treatment": pd.date_range("2020", periods=N)}, TypeError, "treatment holds dates"),
    ("t mixed", {"treatment": ["a", 1] * 100}, TypeError, "treatment mixes types"),
    ("t 2d", {"treatment": np.eye(N)}, ValueError, "treatment should be a 1d array"),
    ("control", {"control": "placebo"}, ValueError, "control='placebo' is not an arm of treatment; the arms are 0, 1"),
    ("control text", {"control": "0"}, ValueError, "control='0' is not an arm"),
    ("w short", {"sample_weight": [1.0]}, ValueError, "inconsistent numbers of samples: .*sample_weight has 1"),
    ("w nan", {"sample_weight": put(np.ones(N), 5, nan)}, ValueError, "sample_weight must be finite .*nan in row 5"),
    ("w minus", {"sample_weight": put(np.ones(N), 5, -1)}, ValueError, "not negative, got -1.0 in row 5"),
    ("w zero", {"sample_weight": np.zeros(N)}, ValueError, "sample_weight is zero in every row"),
    ("w text", {"sample_weight": ["a"] * N}, TypeError, "sample_weight must hold numbers"),
    ("w arm", {"sample_weight": 1.0 - arms()}, ValueError, "Arm 1 of treatment has 0 rows of positive weight"),
]


@pytest.mark.parametrize(("options", "error", "message"), [c[1:] for c in BAD_VECTORS], ids=[c[0] for c in BAD_VECTORS])
def test_bad_vectors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    vectors = {"y": outcome(), "treatment": arms(), **options}
    with pytest.raises(error, match=message):
        Schema.learn(table(), **vectors)


BAD_AT_PREDICT: list[tuple[str, Callable[[pd.DataFrame], Any], type[Exception], str]] = [
    (
        "missing",
        lambda X: X.drop(columns="city"),
        ValueError,
        r"Feature names seen at fit time, yet now missing:\n- city",
    ),
    ("near", lambda X: X.rename(columns={"city": "City"}), ValueError, r"- city \(did you mean 'City'\?\)"),
    (
        "width",
        lambda X: np.zeros((4, 3)),
        ValueError,
        r"X has 3 features, but EffectEstimator is expecting 12 features as",
    ),
    ("1d", lambda X: np.zeros(12), ValueError, "Reshape your data"),
    ("no rows", lambda X: X.iloc[:0], ValueError, r"Found array with 0 sample\(s\)"),
    ("sparse", lambda X: scipy.sparse.eye(12).tocsr(), TypeError, "Sparse data"),
    (
        "numeric text",
        lambda X: X.assign(number="41.5"),
        TypeError,
        r"'number' .* text .*'41.5'.* numbers in fit: use pd.to_num",
    ),
    (
        "category",
        lambda X: X.assign(whole=pd.Categorical(X["whole"])),
        TypeError,
        "'whole' of X holds text or categories",
    ),
    ("date", lambda X: X.assign(number=X["day"]), TypeError, "'number' of X holds dates"),
    (
        "no date",
        lambda X: X.assign(day="2020-01-01"),
        TypeError,
        "'day' .*'2020-01-01'.* dates in fit: use pd.to_datetime",
    ),
    ("days", lambda X: X.assign(day=7.0), TypeError, "'day' of X holds numbers"),
    (
        "zone",
        lambda X: X.assign(day=X["zoned"]),
        TypeError,
        "'day' of X has time zone Europe/Zurich, but had None in fit",
    ),
    ("no zone", lambda X: X.assign(zoned=X["day"]), TypeError, "'zoned' of X has time zone None"),
    ("no bool", lambda X: X.assign(flag=2), ValueError, "'flag' of X held bools in fit, but holds 2 in row 0"),
    ("no text", lambda X: X.assign(city=3), TypeError, r"'city' of X holds numbers \(3\), but held text in fit"),
    ("no number", lambda X: X.assign(grade="3"), TypeError, r"'grade' of X holds text \('3'\), but held numbers"),
    (
        "infinite",
        lambda X: X.assign(whole=inf),
        ValueError,
        "'whole' of X holds an infinite value: inf in row 0, 200 in all",
    ),
    ("far", lambda X: X.assign(whole=1e300), ValueError, "'whole' of X holds 1e[+]300 in row 0, too far"),
    ("list", lambda X: X.assign(city=pd.Series([["Bern"]] * N)), TypeError, "'city' holds a list in row 0"),
    ("nested", lambda X: X.assign(number=pd.Series([{}] * N)), TypeError, "'number' holds a dict in row 0"),
    ("duplicated", lambda X: pd.concat([X, X[["city"]]], axis=1), ValueError, "duplicated column names: 'city'"),
]


@pytest.mark.parametrize(
    ("change", "error", "message"), [c[1:] for c in BAD_AT_PREDICT], ids=[c[0] for c in BAD_AT_PREDICT]
)
def test_bad_tables_at_predict(change: Callable[[pd.DataFrame], Any], error: type[Exception], message: str) -> None:
    X = table()
    with pytest.raises(error, match=message):
        learn(X).encode(change(X))


def test_bad_arms_and_outcomes_after_learning() -> None:
    schema = learn(y=np.where(arms() == 1, "yes", "no"))
    with pytest.raises(ValueError, match="treatment holds 2, not seen in fit; known are 0, 1"):
        schema.encode_treatment([0, 1, 2])
    with pytest.raises(ValueError, match="Input treatment contains NaN"):
        schema.encode_treatment([0, 1, nan])
    with pytest.raises(ValueError, match="y holds 'perhaps', not seen in fit; known are 'no', 'yes'"):
        schema.encode_outcome(["yes", "perhaps"])
    with pytest.raises(ValueError, match="arm codes must be whole numbers from 0 to 1"):
        schema.decode_treatment([0, 2])
    with pytest.raises(ValueError, match="outcome codes must be"):
        schema.decode_outcome([0.5])


# ---- the schema itself -----------------------------------------------------------------------------------------------


def test_json_round_trip_is_without_loss() -> None:
    X = table()
    X["when"] = pd.Categorical([pd.Timestamp("2020-01-01"), pd.Timestamp("2021-06-01 12:30")] * (N // 2))
    X["zwhen"] = X["when"].cat.rename_categories(lambda t: t.tz_localize("Asia/Tokyo"))
    X["ratio"] = pd.Categorical(np.where(arms() == 1, 0.1, 1 / 3))
    X["truth"] = pd.Categorical(arms() == 1)
    X["many"] = [f"n{k % 70 if k < 70 else 0}" for k in range(N)]
    schema = learn(X)
    text = json.dumps(schema.to_dict(), allow_nan=False)
    again = Schema.from_dict(json.loads(text))
    assert again == schema and again.feature_names == schema.feature_names
    for left, right in zip(again.columns, schema.columns, strict=True):
        assert [type(v) for v in left.levels] == [type(v) for v in right.levels]
    np.testing.assert_array_equal(again.encode(X), schema.encode(X))
    assert json.dumps(again.to_dict(), allow_nan=False) == text


def edit(path: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(d: dict[str, Any]) -> Any:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        item: Any = d
        for key in parents:
            item = item[key]
        if value is KeyError:
            del item[last]
        else:
            item[last] = value
        return d

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: [1], "an object is expected, got list"),
        (edit("format", "other/1"), "format must be 'effects.schema/1', got 'other/1'"),
        (edit("arms", KeyError), "schema: arms missing"),
        (edit("arms", [0]), "arms must be two or more different labels"),
        (edit("arms", [0, 0.0]), "arms must be two or more different labels"),
        (edit("arms", "ab"), "arms must be a list"),
        (edit("arms", [0, [1]]), "arms must be two or more"),
        (edit("arms", [0, {"date": "never"}]), "is no label"),
        (edit("more", 1), "unknown entry more"),
        (edit("named", 1), "named must be true or false"),
        (edit("columns", 3), "columns must be a list"),
        (edit("columns", []), "no column carries information"),
        (edit("columns.0", 3), r"columns\[0\]: an object is expected"),
        (edit("columns.0.sd", None), "column 'whole': sd must be a finite number"),
        (edit("columns.0.sd", -1.0), "column 'whole': sd must not be negative"),
        (edit("columns.0.mean", "1"), "column 'whole': mean must be a finite number"),
        (edit("columns.0.mean", inf), "column 'whole': mean must be a finite number"),
        (edit("columns.0.kind", "picture"), "column 'whole': kind must be one of"),
        (edit("columns.0.kind", ["number"]), "column 'whole': kind must be one of"),
        (edit("columns.0.missing", 2), "column 'whole': missing must be a share"),
        (edit("columns.0.name", "city"), "a column is given twice"),
        (edit("columns.0.name", 5), "name must be a string"),
        (edit("columns.0.zone", 5), "zone must be a string"),
        (edit("columns.6.levels", ["a", "a"]), "column 'city': a level is given twice"),
        (edit("columns.6.levels", []), "column 'city': a category needs levels"),
        (edit("columns.6.levels", None), "column 'city': levels must be a list"),
        (edit("columns.6.levels", [nan]), "column 'city': levels must be strings"),
        (edit("outcome.kind", "survival"), "outcome: kind must be one of"),
        (edit("outcome.sd", 0.0), "outcome: sd must be positive"),
        (edit("outcome.low", 1e9), "outcome: low must not exceed high"),
        (edit("outcome.levels", [0, 1]), "outcome: levels are for binary"),
        (edit("outcome.name", None), "outcome: name must be a string"),
        (edit("outcome.mean", KeyError), "outcome: mean missing"),
    ],
)
def test_from_dict_refuses_a_strangers_mistakes(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schema.from_dict(change(learn().to_dict()))


def test_binary_outcome_needs_two_labels() -> None:
    with pytest.raises(ValueError, match="two different labels"):
        OutcomeSpec("binary", "y", (1, 1), 0.5, 0.5, 0.0, 1.0)
    with pytest.raises(AttributeError):
        ColumnSpec("a", "constant").name = "b"  # type: ignore[misc]


def test_describe_is_a_table_for_reports() -> None:
    X = table()
    described = learn(X).describe().set_index("column")
    assert list(described.columns) == ["kind", "missing", "levels", "mean", "sd"]
    assert list(described.index) == list(X.columns)
    np.testing.assert_allclose(described["missing"], X.isna().mean())
    assert described.loc["stage", "levels"] == "I, II, III"
    assert described.loc["flag", "mean"] == pytest.approx(X["flag"].mean())
    assert described.loc["whole", "sd"] == pytest.approx(X["whole"].std(ddof=0))


def test_encode_takes_little_more_memory_than_its_output() -> None:
    n = 200_000
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n, 20))).rename(columns=str)
    X["0"] = rng.choice(np.array(["a", "b", "c"], dtype=object), n)
    schema = learn(X)
    tracemalloc.start()
    E = schema.encode(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < E.nbytes + 5 * 8 * n  # pandas 2 takes 37 bytes a row to factorise text


class LeastSquares(RegressorMixin, BaseEstimator):
    """The smallest estimator on a Schema: scikit-learn's checks then judge the schema's words and manners."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LeastSquares:
        n = X.shape[0] if hasattr(X, "shape") else len(np.asarray(X))
        schema = Schema.learn(X, y, np.arange(n) % 2, outcome="continuous", sample_weight=sample_weight)
        A, Y = np.column_stack([schema.encode(X), np.ones(n)]).astype(float), schema.encode_outcome(y)
        w = np.ones(n) if sample_weight is None else check_sample_weight(sample_weight, n)
        self.coef_ = np.linalg.solve(A.T @ (w[:, None] * A) + 1e-6 * np.eye(A.shape[1]), A.T @ (w * Y))
        self.n_features_in_, self.schema_ = schema.n_features, schema
        return self

    def predict(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        E = self.schema_.encode(X)
        return np.asarray(np.column_stack([E, np.ones(len(E))]) @ self.coef_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_finds_its_own_words_and_manners() -> None:
    check_estimator(LeastSquares())
