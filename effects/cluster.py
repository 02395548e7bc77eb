"""Predictions over Dask DataFrames, and joblib's work on a Dask cluster (extra ``cluster``).

Two ways to a cluster. Tables that Dask holds are predicted where they lie, partition by partition, lazily::

    ddf = dask.dataframe.read_parquet("s3://.../patients")
    cluster.predict_effect_summary(est, ddf).to_parquet("s3://.../effects")

and all that this package gives to joblib (cross-fitting, bootstraps, refutations, benchmark runs, `effects predict`)
goes to the workers within ``with cluster.connect("tcp://scheduler:8786"):``. A worker that dies loses no more than the
time it spent: its calls are done again elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from effects.effect import contrast
from effects.estimator import EffectEstimator
from effects.individual import check_level
from effects.nn.training import one_thread
from effects.outcomes import PotentialOutcomes
from effects.stream import BATCH_ROWS, for_prediction

__all__ = ["connect", "predict_effect_summary", "predict_outcomes_summary"]

if TYPE_CHECKING:
    from dask.dataframe import DataFrame as DaskFrame
    from distributed import Client


def predict_outcomes_summary(est: EffectEstimator, ddf: DaskFrame, *, level: float = 0.9) -> DaskFrame:
    """Mean, standard deviation and interval of every potential outcome, for every row of a Dask DataFrame, lazily.

    Parameters
    ----------
    est : EffectEstimator
        Fitted. It is sent once to each worker, without what it keeps of the rows of its fit.
    ddf : dask.dataframe.DataFrame of shape (n_samples, n_features)
        Its columns are found by name; others may stand beside them.
    level : float

    Returns
    -------
    dask.dataframe.DataFrame
        With the index and the partitions of `ddf`; per arm ``mean_<arm>, std_<arm>, lower_<arm>, upper_<arm>``, as of
        `PotentialOutcomes.to_frame`.

    Raises
    ------
    NotFittedError, ValueError
        Now, not when it is computed: `est` is not fitted, or columns are missing.

    Examples
    --------
    >>> import dask.dataframe as dd
    >>> from effects import TLearner, cluster
    >>> from effects.datasets import make_heteroscedastic
    >>> data = make_heteroscedastic(n_samples=200, random_state=0)
    >>> est = TLearner(n_members=2, random_state=0).fit(data.X, data.y, treatment=data.treatment)
    >>> lazy = cluster.predict_outcomes_summary(est, dd.from_pandas(data.X, npartitions=2))
    >>> list(lazy.columns[:2])
    ['mean_usual care', 'std_usual care']
    >>> lazy.compute(scheduler="threads").shape
    (200, 8)
    """
    check_level(level)

    def empty(laws: PotentialOutcomes) -> pd.DataFrame:
        return laws.to_frame(level)

    return _mapped(est, ddf, _outcomes_of, {"level": level}, empty)


def predict_effect_summary(
    est: EffectEstimator,
    ddf: DaskFrame,
    *,
    treated: Hashable = None,
    control: Hashable = None,
    level: float = 0.9,
    unsupported: str = "keep",
) -> DaskFrame:
    """The CATE with its uncertainty, for every row of a Dask DataFrame, lazily.

    Parameters
    ----------
    est, ddf, level
        As in `predict_outcomes_summary`.
    treated, control, unsupported
        As in `EffectEstimator.predict_effect`.

    Returns
    -------
    dask.dataframe.DataFrame
        With the index and the partitions of `ddf`; ``cate, cate_std, cate_lower, cate_upper, prob_positive``, and
        ``supported`` unless `unsupported` is "keep", as of `Effect.to_frame`.

    Raises
    ------
    NotFittedError, ValueError
        As `predict_outcomes_summary`; also for unknown arms.

    Examples
    --------
    >>> effects = cluster.predict_effect_summary(est, ddf)  # doctest: +SKIP
    >>> effects.to_parquet("effects/")  # doctest: +SKIP
    """
    check_level(level)
    if unsupported not in ("keep", "flag", "nan"):
        raise ValueError(f"unsupported must be 'keep', 'flag' or 'nan', got {unsupported!r}.")
    est._check_fitted()
    contrast(est.arms_, treated, control)
    arms = {"treated": treated, "control": control}

    def empty(laws: PotentialOutcomes) -> pd.DataFrame:
        frame = laws.effect(**arms).to_frame(level)
        return frame if unsupported == "keep" else frame.assign(supported=True)

    return _mapped(est, ddf, _effect_of, {"level": level, "unsupported": unsupported, **arms}, empty)


@contextmanager
def connect(address: str | None = None) -> Iterator[Client | None]:
    """Send what joblib runs to a Dask cluster for as long as the block lasts.

    Within it `Nuisance` fits its folds, bootstraps their members, refutations their repeats and the benchmark its runs
    on the workers, and `effects.stream.predict_batches` its batches. The workers need this package, in the same
    versions. Warnings that are raised there appear in their logs.

    Parameters
    ----------
    address : str, optional
        Of the scheduler, such as ``"tcp://10.0.0.1:8786"``. None changes nothing, so that an option may be handed on.

    Yields
    ------
    distributed.Client or None

    Raises
    ------
    ImportError
        Where Dask is not installed.
    OSError
        If nobody answers at the address.

    Examples
    --------
    >>> from effects import DiffPO, cluster
    >>> with cluster.connect("tcp://10.0.0.1:8786"):  # doctest: +SKIP
    ...     est = DiffPO().fit(X, y, treatment=treatment)
    """
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError('a cluster needs Dask: pip install "potential-outcomes[cluster]"') from error
    from joblib import parallel_config

    try:
        _check_address(address)
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(f"no Dask scheduler answers at {address!r}: start one (`dask scheduler`). {error}") from error
    with client, parallel_config("dask", client=client):
        yield client


def _check_address(address: str) -> None:
    """Refuse an address without a port: a client made of it holds up the end of the process for a minute."""
    from distributed.comm.addressing import parse_address, parse_host_port

    scheme, place = parse_address(address)
    if scheme in ("tcp", "tls"):
        parse_host_port(place)


def _mapped(
    est: EffectEstimator,
    ddf: DaskFrame,
    function: Callable[..., pd.DataFrame],
    options: dict[str, Any],
    empty: Callable[[PotentialOutcomes], pd.DataFrame],
) -> DaskFrame:
    """`function` of every partition; `empty` gives the columns from laws of one unit, so that nothing is computed."""
    est._check_fitted()
    if not hasattr(ddf, "map_partitions"):
        raise TypeError(f"a Dask DataFrame is expected, got {type(ddf).__name__}: use est.predict_outcomes.")
    est.schema_._positions(pd.DataFrame(columns=[str(name) for name in ddf.columns]), named=True)
    from dask.delayed import delayed

    laws = PotentialOutcomes(np.full((2, 1, 1, len(est.arms_)), 0.5), est.arms_, est.schema_.outcome.kind)
    columns = empty(laws).iloc[:0]
    meta = columns.set_axis(ddf._meta.index[:0], axis="index")
    # a node of its own in the graph: sent to each worker once, not with each partition
    sent = delayed(for_prediction(est), traverse=False)
    return ddf.map_partitions(_in_parts, sent, function, options, columns, meta=meta, enforce_metadata=False)


def _in_parts(
    part: pd.DataFrame,
    est: EffectEstimator,
    function: Callable[..., pd.DataFrame],
    options: dict[str, Any],
    columns: pd.DataFrame,
) -> pd.DataFrame:
    if not len(part):
        return columns.set_axis(part.index, axis="index")
    with one_thread():
        rows = (part.iloc[start : start + BATCH_ROWS] for start in range(0, len(part), BATCH_ROWS))
        return pd.concat([function(est, some, **options) for some in rows])


def _outcomes_of(est: EffectEstimator, X: pd.DataFrame, level: float) -> pd.DataFrame:
    return est.predict_outcomes(X).to_frame(level)


def _effect_of(
    est: EffectEstimator,
    X: pd.DataFrame,
    level: float,
    unsupported: str,
    treated: Hashable,
    control: Hashable,
) -> pd.DataFrame:
    return est.predict_effect(X, treated=treated, control=control, unsupported=unsupported).to_frame(level)
