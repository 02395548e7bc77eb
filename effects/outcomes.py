"""The distribution of each potential outcome Y(a) given x, as a frozen value."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from effects.effect import Effect, contrast
from effects.individual import Law, check_level
from effects.inference import check_array, check_codes
from effects.metrics import crps

KINDS = ("continuous", "binary", "count")
_CHUNK_VALUES = 8_000_000  # values sorted at once: bounds the working memory of the reductions to ~64 MB
_LAW_POINTS = 400


@dataclass(frozen=True, eq=False)
class PotentialOutcomes:
    r"""The law of every potential outcome, :math:`Y(a) \mid x`, unit by unit and arm by arm.

    Members are epistemic (draws from the posterior over models), draws are aleatoric (the outcome's own
    spread under that model). The predictive law is the equal mixture over both. The joint law of the
    outcomes under two arms is not identified by any data; nothing here pretends to know it.

    Parameters
    ----------
    draws : ndarray of shape (n_members, n_draws, n_samples, n_arms)
        Equally likely outcomes, in the outcome's unit. For a binary outcome: the probability of the event,
        ``n_draws == 1``.
    arms : tuple of labels
        Control first.
    kind : {"continuous", "binary", "count"}
    means : ndarray of shape (n_members, n_samples, n_arms), optional
        Each member's conditional mean where it is known without sampling error; the mean of the draws otherwise.
    unit : str
        The outcome's unit.
    index : pandas.Index, optional
        Row labels of the units.
    effects : ndarray of shape (n_members, n_samples, n_arms - 1), optional
        Posterior draws of the effects against the first arm, where their spread was calibrated on held-out rows; by
        default the differences of the members' means.
    df : float, optional
        Of the effects: see `Effect`.
    fresh : tuple of float, optional
        Share of fresh noise in the laws, for each arm but the first beside that one: see `Effect`.

    Raises
    ------
    ValueError
        If shapes or lengths disagree, values are not finite, or probabilities leave [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from effects.outcomes import PotentialOutcomes
    >>> draws = np.arange(12.0).reshape(1, 3, 2, 2)
    >>> outcomes = PotentialOutcomes(draws, arms=("control", "drug"))
    >>> outcomes.mean()
    array([[4., 5.],
           [6., 7.]])
    >>> outcomes.effect().mean
    array([1., 1.])
    """

    draws: NDArray[Any]  # any numbers on the way in, float32 from then on
    arms: tuple[Hashable, ...] = (0, 1)
    kind: str = "continuous"
    means: NDArray[np.float64] | None = field(default=None, repr=False)
    unit: str = ""
    index: pd.Index | None = field(default=None, repr=False)
    effects: NDArray[Any] | None = field(default=None, repr=False)
    df: float | None = None
    fresh: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        draws = np.asarray(self.draws, dtype=np.float32)
        if draws.ndim != 4 or not draws.size:
            raise ValueError(f"draws must have shape (n_members, n_draws, n_samples, n_arms), got {draws.shape}.")
        if len(self.arms) != draws.shape[3]:
            raise ValueError(f"{len(self.arms)} arm labels were given for {draws.shape[3]} arms of draws.")
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {self.kind!r}.")
        if not np.isfinite(draws).all():
            raise ValueError("draws hold NaN or infinite values.")
        if self.kind == "binary" and (draws.shape[1] != 1 or draws.min() < 0 or draws.max() > 1):
            raise ValueError("a binary outcome carries one probability in [0, 1] per member, unit and arm.")
        object.__setattr__(self, "draws", draws)
        object.__setattr__(self, "arms", tuple(self.arms))
        if self.means is not None:
            means = np.asarray(self.means, dtype=np.float64)
            if means.shape != (draws.shape[0], *draws.shape[2:]):
                raise ValueError(f"means must have shape (n_members, n_samples, n_arms), got {means.shape}.")
            if not np.isfinite(means).all():
                raise ValueError("means hold NaN or infinite values.")
            object.__setattr__(self, "means", means)
        if self.effects is not None:
            effects = np.asarray(self.effects)
            if effects.ndim != 3 or effects.shape[1:] != (draws.shape[2], draws.shape[3] - 1):
                raise ValueError(f"effects must have shape (n_members, n_samples, n_arms - 1), got {effects.shape}.")
            if not np.isfinite(effects).all():
                raise ValueError("effects hold NaN or infinite values.")
        if self.index is not None and len(self.index) != draws.shape[2]:
            raise ValueError(f"index has {len(self.index)} labels for {draws.shape[2]} units.")

    def __repr__(self) -> str:
        return (
            f"PotentialOutcomes({self.kind}, arms={self.arms}, n_samples={self.n_samples}, "
            f"n_members={self.n_members}, n_draws={self.n_draws})"
        )

    def __len__(self) -> int:
        return self.n_samples

    n_members = property(lambda self: int(self.draws.shape[0]), doc="Posterior draws of the model.")
    n_draws = property(lambda self: int(self.draws.shape[1]), doc="Outcome draws of each member.")
    n_samples = property(lambda self: int(self.draws.shape[2]), doc="Units.")
    n_arms = property(lambda self: int(self.draws.shape[3]), doc="Arms.")

    def member_means(self) -> NDArray[np.float64]:
        """Every member's conditional means, shape (n_members, n_samples, n_arms)."""
        return self.means if self.means is not None else self.draws.mean(axis=1, dtype=np.float64)

    def mean(self) -> NDArray[np.float64]:
        """E[Y(a) | x], shape (n_samples, n_arms); for a binary outcome the probability of the event."""
        return self.member_means().mean(axis=0)

    def std(self) -> NDArray[np.float64]:
        """Standard deviation of the predictive law (outcome spread and model uncertainty), (n_samples, n_arms)."""
        if self.kind == "binary":
            probability = self.mean()
            return np.sqrt(probability * (1 - probability))
        return self.draws.std(axis=(0, 1), dtype=np.float64)

    def cdf(self, y: float | ArrayLike) -> NDArray[np.float64]:
        """P(Y(a) <= y | x), shape (n_samples, n_arms); `y` is a scalar or broadcasts to that shape."""
        try:
            y = np.broadcast_to(np.asarray(y, dtype=np.float64), (self.n_samples, self.n_arms))
        except ValueError:
            wanted = (self.n_samples, self.n_arms)
            raise ValueError(f"y must be a number or broadcast to {wanted}, got shape {np.shape(y)}.") from None
        if np.isnan(y).any():
            raise ValueError("y holds NaN: a distribution function has no value there.")
        if self.kind == "binary":
            return np.where(y < 0, 0.0, np.where(y < 1, 1.0 - self.mean(), 1.0))
        # compared in the draws' own precision, or an atom would miss itself by rounding
        with np.errstate(over="ignore"):
            bound = y.astype(np.float32)
        return (self.draws <= bound).mean(axis=(0, 1), dtype=np.float64)

    def quantile(self, q: float | ArrayLike) -> NDArray[np.float64]:
        """Quantiles of the predictive law.

        Parameters
        ----------
        q : float or array-like of shape (n_quantiles,)
            Probabilities in [0, 1].

        Returns
        -------
        ndarray of shape (n_samples, n_arms), with a leading axis ``n_quantiles`` for a list.
            Integers for counts, 0 or 1 for a binary outcome.
        """
        levels = np.atleast_1d(np.asarray(q, dtype=np.float64))
        if levels.ndim != 1 or not ((levels >= 0) & (levels <= 1)).all():
            raise ValueError(f"q must hold probabilities between 0 and 1, got {q!r}.")
        if self.kind == "binary":
            found = (levels[:, None, None] > 1.0 - self.mean()).astype(np.float64)
        else:
            # k-th of n draws stands at (k - 1/2) / n, so mid-quantile nodes give back their own law (33 nodes: a 90%
            # interval that holds 0.90, not the 0.88 of numpy's default)
            method: Literal["inverted_cdf", "hazen"] = "inverted_cdf" if self.kind == "count" else "hazen"
            parts = [np.quantile(pool, levels, axis=0, method=method) for pool in self._pools()]
            found = np.concatenate(parts, axis=1).astype(np.float64)
        return found[0] if np.ndim(q) == 0 else found

    def interval(self, level: float = 0.9) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Central prediction interval of Y(a): ``(lower, upper)``, each of shape (n_samples, n_arms)."""
        tail = (1 - check_level(level)) / 2
        lower, upper = self.quantile([tail, 1 - tail])
        return lower, upper

    def sample(self, n: int, random_state: int | np.random.Generator | None = None) -> NDArray[np.float64]:
        """Draw `n` outcomes per unit and arm from the predictive law, shape (n, n_samples, n_arms).

        Draws of different arms are independent of each other: that is a convention, not a finding.
        """
        rng = np.random.default_rng(random_state)
        shape = (n, self.n_samples, self.n_arms)
        if self.kind == "binary":
            return (rng.random(shape) < self.mean()).astype(np.float64)
        member, draw = rng.integers(self.n_members, size=shape), rng.integers(self.n_draws, size=shape)
        unit, arm = np.arange(self.n_samples)[None, :, None], np.arange(self.n_arms)[None, None, :]
        return self.draws[member, draw, unit, arm].astype(np.float64)

    def crps(self, y: ArrayLike, arm: ArrayLike) -> NDArray[np.float64]:
        """Continuous ranked probability score of each unit's observed outcome under its own arm.

        Parameters
        ----------
        y : array-like of shape (n_samples,)
            Observed outcomes (0 and 1 for a binary outcome, whose CRPS is the Brier score).
        arm : array-like of int, shape (n_samples,)
            Position of each unit's arm in `arms`.

        Returns
        -------
        ndarray of shape (n_samples,)
            Smaller is better, in the outcome's unit.

        Raises
        ------
        ValueError
            If shapes differ, `y` holds NaN (or anything but 0 and 1 for a binary outcome) or `arm` is no position.
        """
        y = check_array("y", y, shape=(self.n_samples,))
        code = check_codes("arm", arm, self.n_samples, self.n_arms)
        rows = np.arange(self.n_samples)
        if self.kind == "binary":
            if not np.isin(y, (0.0, 1.0)).all():
                raise ValueError("y of a binary outcome must be 0 or 1: encode it as the model's schema does.")
            return (self.mean()[rows, code] - y) ** 2
        factual = self.draws[:, :, rows, code].reshape(-1, self.n_samples)
        return crps(factual, y)

    def effect(self, treated: Hashable = None, control: Hashable = None) -> Effect:
        """The CATE of `treated` against `control`, member by member.

        Parameters
        ----------
        treated : label, optional
            May be left out where there are two arms.
        control : label, optional
            By default the first arm.

        Raises
        ------
        ValueError
            If an arm is unknown, both are the same, or `treated` is needed and missing.
        """
        t, c = contrast(self.arms, treated, control)
        if self.effects is None:
            means = self.member_means()
            members = means[:, :, t] - means[:, :, c]
        else:
            members = between(self.effects, t, c)
        laws = partial(self.laws, t, c)
        fresh = shared_noise(self.fresh, t, c)
        return Effect(members, self.arms[t], self.arms[c], laws, self.unit, self.index, self.df, fresh=fresh)

    def laws(self, treated: int, control: int) -> tuple[Law, Law]:
        """The predictive laws under two arms (positions), as equally likely sorted values."""
        return self._law(treated), self._law(control)

    def take(self, rows: ArrayLike) -> PotentialOutcomes:
        """The outcomes of some units only (positions or a mask)."""
        rows = np.asarray(rows)
        means = None if self.means is None else self.means[:, rows]
        index = None if self.index is None else self.index[rows]
        effects = None if self.effects is None else self.effects[:, rows]
        return replace(self, draws=self.draws[:, :, rows], means=means, index=index, effects=effects)

    def to_frame(self, level: float = 0.9) -> pd.DataFrame:
        """One row a unit; per arm ``mean_<arm>, std_<arm>, lower_<arm>, upper_<arm>``.

        For a binary outcome the interval is of the probability of the event (the members' spread),
        because the interval of a 0/1 outcome says nothing.
        """
        mean, std = self.mean(), self.std()
        if self.kind == "binary":
            tail = (1 - check_level(level)) / 2
            lower, upper = np.quantile(self.draws[:, 0], [tail, 1 - tail], axis=0)
        else:
            lower, upper = self.interval(level)
        columns = {}
        for k, arm in enumerate(self.arms):
            columns[f"mean_{arm}"] = mean[:, k]
            columns[f"std_{arm}"] = std[:, k]
            columns[f"lower_{arm}"] = lower[:, k]
            columns[f"upper_{arm}"] = upper[:, k]
        return pd.DataFrame(columns, index=self.index)

    def _law(self, arm: int) -> Law:
        if self.kind == "binary":
            return Law.bernoulli(self.mean()[:, arm])
        levels = (np.arange(_LAW_POINTS) + 0.5) / _LAW_POINTS
        one = replace(self, draws=self.draws[..., [arm]], means=None, effects=None, arms=(self.arms[arm],))
        pools = one._pools()
        values = [np.quantile(pool[:, :, 0], levels, axis=0, method="inverted_cdf") for pool in pools]
        return Law(np.concatenate(values, axis=1).astype(np.float64))

    def _pools(self) -> Iterator[NDArray[np.float32]]:
        """The pooled draws, (n_members * n_draws, rows, n_arms), a chunk of rows at a time."""
        size = self.n_members * self.n_draws
        rows = max(1, _CHUNK_VALUES // (size * self.n_arms))
        for start in range(0, self.n_samples, rows):
            chunk = self.draws[:, :, start : start + rows]
            yield chunk.reshape(size, chunk.shape[2], self.n_arms)


def merged(held: PotentialOutcomes, new: PotentialOutcomes, seen: NDArray[np.bool_]) -> PotentialOutcomes:
    """Laws of rows of the fit (where `seen`) and of other rows, as one value with the draws of the former."""
    n = held.n_draws
    draws = np.empty((1, n, len(seen), held.n_arms), dtype=np.float32)
    levels = (np.arange(n) + 0.5) / n
    for part, rows in ((held, seen), (new, ~seen)):
        draws[0][:, rows] = part.mean()[None] if held.kind == "binary" else part.quantile(levels)
    return PotentialOutcomes(draws, held.arms, held.kind)


def shared_noise(fresh: tuple[float, ...] | None, treated: int, control: int) -> float | None:
    """Share of fresh noise in the laws of two arms (positions), from those of each arm beside the first."""
    if fresh is None:
        return None
    return sum(fresh[k - 1] for k in (treated, control) if k) / sum(1 for k in (treated, control) if k)


def between(effects: NDArray[Any], treated: int, control: int) -> NDArray[Any]:
    """Effects (n_members, n_samples) of one arm (a position) against another, from those against the first arm."""
    against = effects[:, :, treated - 1] if treated else -effects[:, :, control - 1]
    return against - effects[:, :, control - 1] if treated and control else against
