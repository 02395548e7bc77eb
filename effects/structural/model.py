"""StructuralModel: a generative model on a known causal graph, for do() and counterfactual questions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from torch import Tensor

from effects.effect import Effect
from effects.nn.training import one_thread, resolve_device
from effects.outcomes import PotentialOutcomes
from effects.schema import check_sample_weight
from effects.schema.checks import check_rates, check_sizes, check_whole
from effects.schema.table import TableColumn, TableSchema
from effects.structural.ensemble import budget
from effects.structural.graph import CausalGraph
from effects.structural.mechanisms import Mechanism, fit_mechanism
from effects.structural.questions import actions_on, as_table, conditions, levels_of, pair, point
from effects.structural.regression import Plan
from effects.structural.scm import SCM, Action, learn_logs, wiring
from effects.structural.stored import Stored

Array = NDArray[np.float64]
_STEPS = 1200
_MEMBERS = 32
_BLOCK = 200_000  # rows times draws (times members) worked on at once


class StructuralModel(Stored):
    r"""A structural causal model of a table's columns, given their causal graph.

    Every node is a function of its parents and a noise of its own,

    .. math:: X_j = F_j^{-1}\big(\Phi(W_j) \mid pa_j\big), \qquad W_j \sim N(0, 1) \text{ independent},

    with :math:`F_j(\cdot \mid pa_j)` learned: for numbers :math:`X_j = g_j^{-1}(m_j(pa_j) + s_j(pa_j)\, Q_j(W_j))`, a
    location-scale noise model; for levels and events probabilities given the parents. So the same fit answers

    - :math:`P(X \mid do(x_i))`: `sample` with ``do=``, and `effect`;
    - :math:`P(X \mid x_i)`, which differs where there is confounding: `sample` with ``given=``;
    - what this row would have been, had :math:`x_i` been other (abduction, action, prediction): `counterfactual`.

    Parameters
    ----------
    graph : CausalGraph, networkx.DiGraph, list of edges, DOT or dagitty text, or a file of these
        The nodes are columns of the table; see `effects.structural.CausalGraph.parse`.
    n_networks : int, optional
        Networks of the ensemble of each node, by default 8.
    hidden : int
        Width of their hidden layers.
    n_draws : int
        Noise draws of each row, where the row does not determine its noise (levels, counts, missing values).
    epochs : int, optional
        At most so many passes in each training; by default a budget of 1,200 steps.
    lr, weight_decay : float
        AdamW, for the ensembles.
    device : str
        ``"auto"`` trains on a GPU where there is one. Sampling is on the CPU.
    random_state : int, RandomState or None
    verbose : int
        1 shows progress bars on standard error.

    Attributes
    ----------
    graph_ : CausalGraph
    schema_ : TableSchema
        Of the nodes' columns.
    scm_ : SCM
        The mechanisms. ``scm_.mechanisms[i].regression.linear`` tells whether a straight line sufficed.
    history_ : list of dict

    Notes
    -----
    A node's mean is a linear (or logistic) regression on its encoded parents, mixed, in the share that held-out rows
    speak for, with the Bayesian last layer of a batched ensemble of networks (`effects.nn.means`): where a line
    suffices, it stays a line. Rows in which a node or one of its parents is missing take no part in that node's
    mechanism (a warning counts them); this is right where missingness depends on the parents alone.

    **What is assumed.** The graph, and that all common causes are in it. Counterfactuals (not interventions) need more:
    that the noise enters monotonically, and with location and scale for numbers (Nasr-Esfahany, Alizadeh & Shah 2023,
    arXiv 2306.09308, theorem 5: monotone mechanisms without hidden confounding are counterfactually identified); for
    levels without order the Gumbel-max coupling (Oberst & Sontag 2019), which is a choice, not a finding.
    The posterior of `effect` is the networks'; for a population average with a frequentist guarantee give
    ``graph_.adjustment_set(...)`` to an estimator and use `effects.estimate_ate`.

    References
    ----------
    Pearl (2009), Causality, chapter 7. Immer et al. (2023), location-scale noise models, arXiv 2210.09054.
    Chao et al. (2023), arXiv 2302.00860 (a generative model per node of the graph).

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from effects import StructuralModel
    >>> rng = np.random.default_rng(0)
    >>> age = rng.normal(60, 10, 300)
    >>> dose = 0.1 * age + rng.normal(size=300)
    >>> pressure = 120 + 0.5 * age - 4 * dose + rng.normal(size=300)
    >>> table = pd.DataFrame({"age": age, "dose": dose, "pressure": pressure})
    >>> model = StructuralModel("dag { age -> dose -> pressure  age -> pressure }", epochs=5, random_state=0).fit(table)
    >>> model.sample(1000, do={"dose": 8.0}, random_state=0)["pressure"].mean().round()
    np.float64(118.0)
    >>> model.counterfactual(table.head(2), do={"dose": 8.0}).shape
    (2, 3)
    >>> round(float(model.effect("dose", "pressure", treated=8, control=7).mean.mean()))
    -4
    """

    _paper: ClassVar[str] = "Pearl 2009; Immer et al. 2023"
    _partial: bool = False  # whether missing values of nodes are expected, for other columns tell of them

    def __init__(
        self,
        graph: Any,
        *,
        n_networks: int | None = None,
        hidden: int = 64,
        n_draws: int = 100,
        epochs: int | None = None,
        lr: float = 3e-3,
        weight_decay: float = 0.1,
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.graph = graph
        self.n_networks = n_networks
        self.hidden = hidden
        self.n_draws = n_draws
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------------------ fit

    def fit(self, table: pd.DataFrame, *, sample_weight: ArrayLike | None = None) -> Self:
        """Learn every node's mechanism from a table.

        Parameters
        ----------
        table : DataFrame
            A column for each node of the graph: numbers, bools, categories, dates. Missing values are allowed.
        sample_weight : array-like of shape (n_samples,), optional

        Raises
        ------
        ValueError
            If the graph has a cycle, a node is no column (or latent with two or more children), a parameter makes no
            sense, or a column cannot be a node.
        TypeError
            If the table is no DataFrame.

        Warns
        -----
        UserWarning
            If rows take no part in a mechanism because of missing values.
        """
        self._check_params()
        frame = as_table(table)
        graph = self._graph(frame)
        nodes = {*graph.nodes} - graph.latent
        schema = TableSchema.learn(frame, [name for name in frame.columns if name in nodes])
        values = schema.values(frame)
        weight = np.ones(len(frame)) if sample_weight is None else check_sample_weight(sample_weight)
        if len(weight) != len(frame):
            raise ValueError(f"sample_weight has {len(weight)} rows, the table {len(frame)}: they must agree.")
        weight = weight / weight.mean()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        plan = self._plan(len(frame), seed)
        with one_thread():
            fitted = self._fit_columns(frame, schema, values, weight, seed)
            rows: tuple[Array, Array] = fitted.pop("rows_", (values, weight))
            scm, history = self._fit_nodes(graph, schema, *rows, plan)
        history = [*fitted.pop("history_", []), *history]
        for name, value in fitted.items():
            setattr(self, name, value)
        self.graph_, self.seed_, self.history_, self.values_ = graph, seed, history, values
        self.n_members_ = plan.n_members
        self.schema_ = schema
        self.scm_ = scm
        return self

    def _column_graph(self) -> CausalGraph:
        """The graph over columns; a subclass knows groups of them."""
        return CausalGraph.parse(self.graph)

    def _graph(self, frame: pd.DataFrame) -> CausalGraph:
        """The graph over columns, if every node is one, or latent and a common cause of nothing."""
        graph = self._column_graph()
        hidden = [u for u in sorted(graph.latent) if len(graph.children(u)) > 1 or graph.parents(u)]
        if hidden or graph.bidirected:
            what = f"latent nodes ({', '.join(map(repr, hidden))})" if hidden else "bidirected edges"
            raise ValueError(
                f"The graph has {what}, and a generative model of the table needs every common cause as a column. "
                "Ask CausalGraph.identify(treatment, outcome) what can still be learnt, and give its adjustment set to "
                "an estimator such as DiffPO; or leave them out, if you take it that they confound nothing."
            )
        graph.check_columns(list(frame.columns))
        return graph

    def _fit_columns(
        self, frame: pd.DataFrame, schema: TableSchema, values: Array, weight: Array, seed: int
    ) -> dict[str, Any]:
        """What a subclass learns of columns that hang on the nodes: fitted attributes, with ``history_``; and, as
        ``rows_``, values and weights for the mechanisms, if it knows more of the nodes than the table says."""
        return {}

    def _fit_nodes(
        self, graph: CausalGraph, schema: TableSchema, values: Array, weight: Array, plan: Plan
    ) -> tuple[SCM, list[dict[str, Any]]]:
        order, parents = wiring(graph, schema.names)
        logs = learn_logs(schema, values)
        draft = SCM(schema, order, parents, (), logs)
        mechanisms: list[Mechanism] = []
        history: list[dict[str, Any]] = []
        few: list[str] = []
        for j, column in enumerate(schema.columns):
            known = ~np.isnan(values[:, [j, *parents[j]]]).any(axis=1)
            used = known & (weight > 0)
            if used.sum() < 2:
                raise ValueError(
                    f"Node {column.name!r} and its parents are known together in {int(used.sum())} rows: its mechanism "
                    "cannot be learnt. Fill in missing values, or leave the column out of the graph."
                )
            if not self._partial and not known.all():
                few.append(f"{column.name!r} ({int((~known).sum())})")
            rows = draft.encode_parents(j, values[used])
            mechanism, more = self._mechanism(column, values[used, j], rows, weight[used], plan)
            mechanisms.append(mechanism)
            history += [{"stage": f"node {column.name}", **entry} for entry in more]
        if few:
            warnings.warn(
                f"Rows in which the node or a parent is missing take no part in its mechanism: {', '.join(few)} of "
                f"{len(values)} rows. That is right where missingness depends on the parents alone.",
                UserWarning,
                stacklevel=4,
            )
        return SCM(schema, order, parents, tuple(mechanisms), logs), history

    def _mechanism(
        self, column: TableColumn, x: Array, parents: Tensor, weight: Array, plan: Plan
    ) -> tuple[Mechanism, list[dict[str, float]]]:
        """The mechanism of a node from rows in which all is known; a subclass may have its own."""
        return fit_mechanism(column, x, parents, weight, plan)

    def _plan(self, n: int, seed: int) -> Plan:
        own: dict[str, Any] = {"seed": seed, "epochs": self.epochs, "device": self.device, "verbose": self.verbose}
        settings = budget(n, "node", steps=_STEPS, **own)
        networks = self.n_networks or 8
        members = 2 * networks * max(1, -(-_MEMBERS // (2 * networks)))
        return Plan(networks, self.hidden, members, self.lr, self.weight_decay, settings)

    def _check_params(self) -> None:
        check_sizes(self, ("n_networks", "hidden", "n_draws", "epochs"), optional=("n_networks", "epochs"))
        check_rates(self, ("lr", "weight_decay"))
        resolve_device(self.device)

    # ------------------------------------------------------------------ questions

    def sample(
        self,
        n: int,
        do: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        random_state: Any = None,
    ) -> pd.DataFrame:
        """Draw rows from the observational, the interventional or a conditional law.

        Parameters
        ----------
        n : int
        do : mapping, optional
            ``{column: value}`` sets a node whatever its causes say. A value may be an array of length n, or a function
            of the node's natural values (numbers, or codes of levels), such as ``lambda dose: dose + 1``.
        given : mapping, optional
            ``{column: value}`` keeps rows in which a node has the value: a level or number, a list of levels, or a
            pair ``(low, high)`` of numbers, of which either may be None. With `do`, the condition is on the world
            after the intervention.
        random_state : int, RandomState or None

        Returns
        -------
        DataFrame with n rows
            Columns as in `fit`, and of its types. The draws are stratified (a Latin hypercube), so that averages over
            them are closer to the model's than those of independent draws.

        Raises
        ------
        ValueError
            If a column or a value is unknown, or the model gives the condition no probability.

        Warns
        -----
        UserWarning
            If a condition is so rare that few different rows stand behind the n that are returned.
        """
        self._check_fitted()
        check_whole("n", n)
        rng = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
        actions, wanted = self._actions(do, n), conditions(self.schema_, self._by_column(given or {}, "given"))
        if both := sorted({*actions} & {*wanted}):
            raise ValueError(
                f"column {self.schema_.names[both[0]]!r} is in do and in given: it can only be set or seen."
            )
        with one_thread():
            if wanted:
                values, effective = self.scm_.conditional(n, actions, wanted, rng)
                if effective < min(n, 1000) / 2:
                    warnings.warn(
                        f"What was given is rare: about {effective:.0f} different rows stand behind the {n} returned. "
                        "Ask for a wider range of values.",
                        UserWarning,
                        stacklevel=2,
                    )
            else:
                values, _ = self.scm_.simulate(n, actions, {}, rng)
            return self._emit(values, rng)

    def counterfactual(
        self,
        table: pd.DataFrame,
        do: Mapping[str, Any],
        strength: float = 1.0,
        n_draws: int | None = None,
        random_state: Any = None,
    ) -> pd.DataFrame:
        """What the rows would have been under `do`: their noise abducted, the action taken, the rest predicted.

        Parameters
        ----------
        table : DataFrame
            Observed rows with all columns of the fit. Missing values are completed by the model, draw by draw.
        do : mapping
            ``{column: value}``, an array with one value a row, or a function of the factual values.
        strength : float
            From 0, the factual row, to 1, the full counterfactual: how far numbers move along the straight line
            between the two; a level changes in the share `strength` of the draws. What lies between is a path from one
            to the other, not a row that any patient could have.
        n_draws : int, optional
            By default one row for each row of the table: the mean of numbers, and the most probable level. Otherwise
            so many draws, with ``draw`` before the rows' labels in the index: their spread is what the row itself
            leaves open (the noise behind a level or a count, missing values), not the model's own error.
        random_state : int, RandomState or None

        Returns
        -------
        DataFrame
            Nodes that `do` does not reach keep their values.

        Raises
        ------
        ValueError
            If a column or value is unknown, or `strength` is outside [0, 1].
        """
        self._check_fitted()
        frame = as_table(table)
        if not isinstance(strength, int | float) or not 0 <= strength <= 1:
            raise ValueError(
                f"strength must lie between 0 (the factual row) and 1 (the full effect), got {strength!r}."
            )
        if not do:
            raise ValueError("do is empty: name a column and the value to set, such as do={'dose': 1.0}.")
        values = self.schema_.values(frame)
        actions = self._actions(do, len(frame))
        rng = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
        draws = n_draws or (self.n_draws if self._is_open(frame, values, actions) else 1)
        size = max(1, _BLOCK // draws)
        parts = []
        with one_thread():
            for start in range(0, len(frame), size):
                rows = slice(start, start + size)
                own = {j: a if callable(a) else np.broadcast_to(a, len(frame))[rows] for j, a in actions.items()}
                parts.append(self._replay(frame.iloc[rows], values[rows], own, float(strength), draws, rng))
        drawn = np.concatenate(parts, axis=1)
        schema = self._all_columns()
        if n_draws is not None:
            index = pd.MultiIndex.from_product([range(draws), frame.index], names=["draw", *frame.index.names])
            return self._ordered(schema.frame(drawn.reshape(-1, drawn.shape[2]), index, rounded=True))
        return self._ordered(schema.frame(point(drawn, schema), frame.index))

    def _is_open(self, frame: pd.DataFrame, values: Array, actions: Mapping[int, Action]) -> bool:
        """Whether rows leave some noise open, so that one draw would not do."""
        changed = [*actions, *self.scm_.descendants(list(actions))]
        levels = any(self.schema_.columns[j].kind != "number" or self.schema_.columns[j].whole for j in changed)
        return levels or bool(np.isnan(values).any())

    def _replay(
        self,
        frame: pd.DataFrame,
        values: Array,
        actions: dict[int, Action],
        strength: float,
        draws: int,
        rng: np.random.Generator,
    ) -> Array:
        """Counterfactual values (draws, n, n_columns) of some rows."""
        n = len(values)
        repeated = {j: a if callable(a) else np.tile(a, draws) for j, a in actions.items()}
        rows, rest = self._completed(frame, values, draws, rng)
        full = self.scm_.counterfactual(rows, repeated, rng)
        if strength < 1.0:
            level = rng.permuted(np.broadcast_to((np.arange(draws)[:, None] + 0.5) / draws, (draws, n)), axis=0)
            numbers = np.array([column.kind == "number" for column in self.schema_.columns])
            late = level.reshape(-1, 1) >= strength
            new = np.where(numbers, rows + strength * (full - rows), np.where(late, rows, full))
        else:
            new = full
        carried = self._carried(rows, full, rest, strength, rng)
        return np.concatenate([new, carried], axis=1).reshape(draws, n, -1)

    def _completed(self, frame: pd.DataFrame, values: Array, draws: int, rng: np.random.Generator) -> tuple[Array, Any]:
        """Rows repeated ``draws`` times without missing values, and what a subclass keeps of the other columns."""
        return self.scm_.complete(np.tile(values, (draws, 1)), rng), None

    def _carried(self, rows: Array, full: Array, rest: Any, strength: float, rng: np.random.Generator) -> Array:
        """Counterfactual values (draws * n, n_columns) of columns beyond the graph: here there are none."""
        return np.zeros((len(rows), 0))

    def outcomes(
        self,
        treatment: str,
        outcome: str,
        arms: Sequence[Any] | None = None,
        table: pd.DataFrame | None = None,
        n_draws: int = 32,
    ) -> PotentialOutcomes:
        """The law of an outcome under each value of a treatment, for every row.

        Given all columns of the row that the treatment does not touch; what lies between treatment and outcome is
        drawn anew, in each posterior member and with the same noise in all arms.

        Parameters
        ----------
        treatment, outcome : str
        arms : sequence, optional
            Values to compare, control first; by default the levels of a treatment that has levels.
        table : DataFrame, optional
            By default the rows of the fit. Treatment, outcome and what descends from the treatment are not looked at,
            and may be absent.
        n_draws : int

        Returns
        -------
        PotentialOutcomes

        Raises
        ------
        ValueError
            If a column is unknown, both are the same, the outcome has three or more levels, or `arms` are needed.
        """
        t, y, values, labels, frame = self._question(treatment, outcome, arms, table)
        kind = "binary" if self.schema_.columns[y].kind == "event" else "continuous"
        coded = np.array([self.schema_.value(treatment, arm) for arm in labels])
        size = max(1, _BLOCK * 2 // (self.n_members_ * n_draws))
        draws, means = [], []
        with one_thread():
            for start in range(0, len(values), size):
                rows = values[start : start + size]
                seed = self.seed_ + start
                one, two = self.scm_.responses(rows, t, coded, y, self.n_members_, n_draws, seed)
                draws.append(two[:, None] if kind == "binary" else one)
                means.append(two)
        joined = np.concatenate(draws, axis=2).astype(np.float32)
        average = None if kind == "binary" else np.concatenate(means, axis=1)
        index = None if frame is None else frame.index
        return PotentialOutcomes(joined, tuple(labels), kind, average, index=index)

    def effect(
        self,
        treatment: str,
        outcome: str,
        treated: Any = None,
        control: Any = None,
        table: pd.DataFrame | None = None,
        n_draws: int = 16,
    ) -> Effect:
        """The effect on the outcome's mean of setting the treatment, for every row: ``outcomes(...).effect()``.

        Parameters
        ----------
        treatment, outcome : str
        treated, control : value
            May be left out where the treatment has two levels.
        table, n_draws
            As in `outcomes`.

        Returns
        -------
        Effect
            ``effect.mean.mean()`` is the average over the rows; ``effect.by(groups)`` gives averages with intervals.
        """
        arms = None
        if treated is not None or control is not None:
            self._check_fitted()
            self._by_column({treatment: None}, "treatment")
            arms = pair(self.schema_, treatment, treated, control)
        return self.outcomes(treatment, outcome, arms, table, n_draws).effect(*(() if arms is None else arms[::-1]))

    def log_prob(self, table: pd.DataFrame) -> NDArray[np.float64]:
        r"""Log density of rows, :math:`\sum_j \log p(x_j \mid pa_j)`, (n,): of numbers in their unit, of levels and
        counts their probability.

        Raises
        ------
        ValueError
            If a value is missing (its integral has no closed form).
        """
        self._check_fitted()
        frame = as_table(table)
        values = self.schema_.values(frame)
        if np.isnan(values).any():
            row, j = np.argwhere(np.isnan(values))[0]
            raise ValueError(
                f"Column {self.schema_.names[j]!r} is missing in row {frame.index[row]!r}: the density of an "
                "incomplete row is not exact. Drop such rows, or complete them."
            )
        with one_thread():
            return self.scm_.log_prob(values)

    def check_graph(self, table: pd.DataFrame, level: float = 0.05, random_state: Any = None) -> Any:
        """Test what the graph implies against a table; see `effects.structural.CausalGraph.check`."""
        return self._column_graph().check(table, level=level, random_state=random_state)

    # ------------------------------------------------------------------ what a user names

    def _actions(self, do: Mapping[str, Any] | None, n: int) -> dict[int, Action]:
        return actions_on(self.schema_, self._by_column(do or {}, "do"), n)

    def _by_column(self, named: Mapping[str, Any], what: str) -> dict[str, Any]:
        """What was named, checked to be nodes; a subclass knows groups of columns."""
        for name in named:
            if name not in self.schema_.names:
                raise ValueError(
                    f"{what} names {name!r}, which is no node of the graph; nodes are {', '.join(self.schema_.names)}."
                )
        return dict(named)

    def _question(
        self, treatment: str, outcome: str, arms: Sequence[Any] | None, table: pd.DataFrame | None
    ) -> tuple[int, int, Array, list[Any], pd.DataFrame | None]:
        """Treatment, outcome, complete rows, and the arms' labels."""
        self._check_fitted()
        self._by_column({treatment: None}, "treatment")
        self._by_column({outcome: None}, "outcome")
        t, y = self.schema_.index(treatment), self.schema_.index(outcome)
        if t == y:
            raise ValueError(f"treatment and outcome are both {treatment!r}: name two columns.")
        if self.schema_.columns[y].kind == "category":
            raise ValueError(
                f"outcome {outcome!r} has levels {self.schema_.columns[y].levels}, which have no mean: make one of "
                "them an event of its own, or ask counterfactual and sample for their probabilities."
            )
        labels = list(arms if arms is not None else levels_of(self.schema_, treatment))
        if len(labels) < 2 or len(set(map(str, labels))) < len(labels):
            raise ValueError(f"arms must name two or more different values of {treatment!r}, control first: {labels}.")
        free = [t, y, *self.scm_.descendants([t])]
        if table is None:
            if not hasattr(self, "values_"):
                raise ValueError("a model read from a file holds no rows: pass table=.")
            values = self.values_.copy()
        else:
            frame = as_table(table)
            absent = [name for name in (self.schema_.names[j] for j in free) if name not in frame.columns]
            values = self.schema_.values(frame.assign(**dict.fromkeys(absent, np.nan)))
        values[:, free] = np.nan
        values = self.scm_.complete(values, np.random.default_rng(self.seed_))
        return t, y, values, labels, None if table is None else table

    # ------------------------------------------------------------------ shared

    def _emit(self, values: Array, rng: np.random.Generator) -> pd.DataFrame:
        """Sampled values as a table."""
        return self.schema_.frame(values, rounded=True)

    def _all_columns(self) -> TableSchema:
        return self.schema_

    def _ordered(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame

    def _check_fitted(self) -> None:
        if not hasattr(self, "scm_"):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet: call fit(table) first.")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "scm_")
