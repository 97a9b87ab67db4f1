"""The contract: batches of data, task-settings and training-workflows as NamedTuples of pure functions.

A task-setting says what is modelled and how it is fitted, sampled and evaluated; a training-workflow says which data
generation t is fitted to. Both are plain values made by factories; a user's own needs no registration.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int32

from collapse_jax.refused import Refused

__all__ = [
  "Absorbed",
  "Array",
  "Context",
  "Data",
  "Evaluate",
  "Expected",
  "Fit",
  "Fresh",
  "Init",
  "Leap",
  "MetricInfo",
  "Metrics",
  "NextToken",
  "Number",
  "OnHost",
  "Params",
  "Predict",
  "Problem",
  "PyTree",
  "Rows",
  "Run",
  "Sample",
  "Select",
  "StoreInit",
  "Summary",
  "SummaryAdd",
  "SummaryExtend",
  "SummaryMove",
  "SummaryOf",
  "SummaryOfDrawn",
  "TaskSetting",
  "Through",
  "Update",
  "Workflow",
  "alone",
]

Array = jax.Array
PyTree = Any
Params = PyTree
Problem = PyTree
Metrics = dict[str, Any]
Number = Any  # a Python number or a traced scalar


_GIVEN: Any = None  # what every batch has


class _DataFields(NamedTuple):
  rows: PyTree = None
  row_weight: Float[Array, "slots n"] | None = None
  count: Float[Array, " slots"] = _GIVEN  # type: ignore[assignment]  # tuples have a method of this name
  weight: Float[Array, " slots"] | None = None
  origin: Int32[Array, " slots"] = _GIVEN
  summary: PyTree = None
  draw: PyTree = None
  latent: PyTree = None


class Data(_DataFields):
  """`slots` batches of up to n rows. A batch is one slot; the training data of a generation are many.

  Weights have two levels, per batch and per row, so that a generation touches no number per stored row unless the
  task needs it. Fields that a form of storage does not need are None, which is a static fact.

  Under the driver "host" arrays are NumPy's, here and in what the functions of a task are given.

  What is not in use (empty slots, rows of weight 0) holds anything, NaN where rows are floats: `store.flat` blanks it.

  What was derived from rows goes with them: `_replace(rows=...)` also drops summary, draw and latent, and
  `_replace(row_weight=...)` the summary and the count, unless they are given (with None, of rows that are kept: each row of a slot
  in use counts once again). To say that other rows are the same data, build a Data of all fields.

  Attributes:
    rows: leaves [slots, n, ...]; None once summarised, or where batches come from their exact law.
    row_weight: [slots, n] float32 (masks, verification); None: every row counts once.
    count: [slots] float32, rows in use (the sum of row weights); may be 1e9 under exact-law draws.
    weight: [slots] float32, factor of the batch in this generation, 0 = not used; None: all 1, all rows in use.
    origin: [slots] int32, the generation that made the batch; 0 = real, -1 = empty, or of several batches: the drivers "steps" and
      "host" pour all rows that a model is fitted to into one slot, unless the task has a `summary`.
    summary: the task's statistics: [slots, ...] in a store, their weighted total when handed to `fit`.
    draw: where a sampler's batch comes from, read by `Summary.of_drawn` and `Summary.move`; never stored.
    latent: leaves [slots, n, ...], what a sampler knows of its rows beside their values; chosen and weighted as they are, and
      read by `Summary.of_drawn`; never stored.
  """

  __slots__ = ()

  def _replace(self, **new: Any) -> "Data":
    derived: dict[str, Any] = {}
    if new.get("row_weight") is not None:
      derived = {"summary": None, "count": jnp.sum(new["row_weight"], axis=1)}
    elif "row_weight" in new and self.row_weight is not None and new.get("rows", self.rows) is not None:
      num = jax.tree.leaves(new.get("rows", self.rows))[0].shape[1]
      derived = {"summary": None, "count": jnp.where((self.origin < 0) & (self.count == 0), 0.0, num)}
    if new.get("rows") is not None:
      derived |= {"summary": None, "draw": None, "latent": None}
    return super()._replace(**derived | new)

  __replace__ = _replace


@runtime_checkable
class SummaryOf(Protocol):
  def __call__(self, problem: Problem, rows: PyTree, row_weight: Float[Array, " n"] | None, /) -> PyTree:
    """Statistics of one batch.

    Args:
      problem: the run's.
      rows: leaves [n, ...]; what rows of weight 0 hold is 0.
      row_weight: [n] float32, or None: every row counts once.
    Returns:
      a pytree of arrays of fixed shapes, whatever n is.
    """


class SummaryAdd(Protocol):
  def __call__(self, problem: Problem, a: PyTree, weight_a: Number, b: PyTree, weight_b: Number, /) -> PyTree:
    """Statistics of two batches together.

    Args:
      problem: the run's.
      a, b: statistics, as `Summary.of` returns them.
      weight_a, weight_b: [] how often each counts; may be 0.
    Returns:
      statistics of both.
    """


class SummaryExtend(Protocol):
  def __call__(self, problem: Problem, total: PyTree, batch: Data, /) -> PyTree:
    """Statistics of a pool and a batch that was sampled from the model fitted to that very pool.

    Args:
      problem: the run's.
      total: statistics of the pool.
      batch: one slot with its `draw`; `rows` [1, n, ...] unless batches come from their exact law.
    Returns:
      statistics of both, as those of `Summary.add`.
    """


class SummaryOfDrawn(Protocol):
  def __call__(
    self, problem: Problem, draw: PyTree, latent: PyTree, row_weight: Float[Array, " n"] | None, /
  ) -> PyTree:
    """Statistics of one batch that a sampler drew.

    Args:
      problem: the run's.
      draw: `Data.draw` of the batch.
      latent: leaves [n, ...], `Data.latent` of its rows.
      row_weight: [n] float32, or None: every row counts once.
    Returns:
      as `Summary.of`.
    """


class SummaryMove(Protocol):
  def __call__(self, problem: Problem, stored: PyTree, draw: PyTree, /) -> PyTree:
    """Statistics of a stored batch, as they are to be told beside a new one.

    Args:
      problem: the run's.
      stored: statistics of one batch, without an axis of slots.
      draw: `Data.draw` of the new batch.
    Returns:
      statistics of the same batch, of the same shapes.
    """


def alone(problem: Problem, a: PyTree, weight_a: Number, b: PyTree, weight_b: Number) -> PyTree:
  """`Summary.add` where there is none: such batches are only ever fitted to one at a time.

  Args:
    problem, a, weight_a, b, weight_b: as of `SummaryAdd`.
  Raises:
    Refused: always.
  """
  raise Refused("statistics of this task's batches do not add up: use a form of it that draws rows.")


class Summary(NamedTuple):
  """How a task adds batches up; with it a growing pool costs no more than one batch.

  Attributes:
    of: statistics of one batch of rows.
    add: statistics of two batches together; `alone` where there are none, and a workflow that fits to more than the last batch is
      given the task that draws rows.
    keep_rows: True where rows are still sampled from (KDE); False where statistics replace them.
    extend: optional faster or better conditioned `add` for a batch drawn from the fit of the pool that it joins.
    of_drawn: optional `of` for rows that a sampler drew: more exact than their values are.
    move: optional, for statistics that are told relative to the latest model: called for what is stored in each generation.
  """

  of: SummaryOf
  add: SummaryAdd = alone
  keep_rows: bool = False
  extend: SummaryExtend | None = None
  of_drawn: SummaryOfDrawn | None = None
  move: SummaryMove | None = None


class Context(NamedTuple):
  """What `fit` and `sample` may look at besides the problem. New needs become fields.

  Attributes:
    t: generation, 1..T, traced int32.
    num: rows to emit: a Python int, or any traced number under exact-law draws.
    data: training data of this generation; under the drivers "steps" and "host" one slot of origin -1, into which all batches are
      poured, unless the task has a `summary`.
    real: the run's real batch.
    previous: params of model t-1 if the run is warm-started, else None.
    latest: the youngest batch, one slot, without its summary.
    used: how many of the rows to emit will count, traced; None: all. Where generations emit different numbers of rows the largest
      is drawn and the first of them are used: metrics of the sampling look at these only, see `store.in_use`.
  """

  t: Number
  num: Number
  data: Data
  real: Data
  previous: Params = None
  latest: Data | None = None
  used: Number = None


class MetricInfo(NamedTuple):
  """What result files, plots and diagnostics need to know about a metric.

  Attributes:
    long_name: for axis labels, without units.
    units: "1" for ratios, "nats", "data units squared", ...
    dims: names of the axes of a vector metric.
    worse: "higher" or "lower" where one direction is worse, else "".
    log_scale: True where the metric is a positive quantity that is judged and drawn on a log scale.
    measures: what the definitions of collapse take it for: "risk", "variance", "modes" (how far they are apart), "tail" (how
      much of it is covered) or "hallucination"; "" for none.
  """

  long_name: str
  units: str = "1"
  dims: tuple[str, ...] = ()
  worse: str = ""
  log_scale: bool = False
  measures: str = ""


class Init(Protocol):
  def __call__(self, key: Array, /) -> tuple[Problem, Data]:
    """The world that a run lives in.

    Args:
      key: of the run, used once.
    Returns:
      the problem: a pytree (truth, test data, traced hyperparameters); and the real batch, one slot of `num_samples` rows.
    """


class Fit(Protocol):
  def __call__(self, key: Array, problem: Problem, context: Context, /) -> Params:
    """A model of the training data.

    Args:
      key: of the role "fit" in this generation.
      problem: the run's.
      context: `context.data` is what is fitted to.
    Returns:
      a pytree of arrays, of one structure in all generations.
    """


@jax.tree_util.register_pytree_node_class
class OnHost:
  """Metrics of sampling that NumPy computes: among others, under a name that does not count, arrays that they are computed of.

  Where the loop is on the host (the driver "steps"), they are found once the program that has these arrays is done. A program that
  calls the host is compiled anew in every process, since JAX keeps none of them on disk.

  Args:
    function: (*arrays) -> name -> a number, of one run; where metrics are NaN for there is no model, so are floats in its arrays.
    names: of these metrics.
    arrays: of one run; of several, with a leading axis, where a program that is mapped over them returns this.
  """

  def __init__(self, function: Callable[..., Mapping[str, Any]], names: Iterable[str], arrays: Iterable[Any]):
    self.function, self.names, self.arrays = function, tuple(names), tuple(arrays)

  def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return self.arrays, (self.function, self.names)

  @classmethod
  def tree_unflatten(cls, known: tuple[Any, ...], arrays: Iterable[Any]) -> "OnHost":
    function, names = known
    return cls(function, names, arrays)

  def in_program(self) -> Metrics:
    """What is found of one run, in a program, by calling the host; {name: [] float32}."""
    shape = {name: jax.ShapeDtypeStruct((), np.float32) for name in self.names}
    found: Metrics = jax.pure_callback(
      lambda *arrays: self._numbers(arrays), shape, *self.arrays, vmap_method="sequential"
    )
    return found

  def found(self) -> Metrics:
    """What is found of several runs, outside a program; {name: [runs] float32}."""
    each = [self._numbers(arrays) for arrays in zip(*map(np.asarray, self.arrays))]
    return {name: np.stack([one[name] for one in each]) for name in self.names}

  def _numbers(self, arrays: Iterable[Any]) -> dict[str, np.float32]:
    told = self.function(*map(np.asarray, arrays))
    return {name: np.float32(told[name]) for name in self.names}


class Sample(Protocol):
  def __call__(self, key: Array, problem: Problem, params: Params, context: Context, /) -> tuple[Data, Metrics]:
    """A batch that a model writes.

    Args:
      key: of the role "sample" in this generation.
      problem: the run's.
      params: what `fit` returned, or an earlier model.
      context: of the generation; `context.num` says how many rows.
    Returns:
      one slot, rows [1, num, ...]; and metrics of the sampling (kept share, duplicates), {} for none. One of them may be
      an `OnHost`.
    """


class Evaluate(Protocol):
  def __call__(self, key: Array, problem: Problem, params: Params, /) -> Metrics:
    """Metrics of the model against the real distribution.

    The key is of the run and generation: what is taken by draws (of the model, or of points) has an error of its own in every
    run, which the mean over runs takes away.

    Args:
      key: of the role "evaluate" in this generation.
      problem: the run's.
      params: of the model.
    Returns:
      name -> [], or an array whose dims `metrics` names.
    """


class Absorbed(Protocol):
  def __call__(self, problem: Problem, params: Params, /) -> Bool[Array, ""]:
    """Whether the model can only make copies of one and the same row.

    Args:
      problem: the run's.
      params: of the model.
    Returns:
      [] bool.
    """


class NextToken(Protocol):
  def __call__(self, problem: Problem, params: Params, tokens: Int32[Array, "n L"], /) -> Float[Array, "n L V"]:
    """Logits of each token given those before it.

    Args:
      problem: the run's.
      params: of the model.
      tokens: [n, L] int32.
    Returns:
      [n, L, V] float; those of position 0 are not read.
    """


class Fresh(Protocol):
  def __call__(self, key: Array, problem: Problem, /) -> Data:
    """Another real batch of the same truth.

    Args:
      key: used once.
      problem: the run's.
    Returns:
      one slot, as `init` returns it.
    """


class Rows(Protocol):
  def __call__(self) -> "TaskSetting":
    """The same task, drawing rows.

    Returns:
      a task whose batches have rows.
    Raises:
      Refused: there is none.
    """


class Expected(NamedTuple):
  """What theory says of a metric, over all randomness of a run.

  Attributes:
    mean: [T] NumPy float64, its expectation in generations 1..T, NaN where it is not known; a number for a metric of the whole run.
    variance: [T] NumPy float64, its variance from run to run; None: not known, a sample's is used.
    up_to: the last generation in which means over runs are held against it; None: all; 0: it is only drawn, as what is true to
      first order, or has tails too heavy for a mean over runs.
    limit: of the mean as the generations go on under the same schedule, infinite where it has no bound; None or NaN: not known.
    least_variance: [T] where no more than a lower bound of the variance is known: a sample's is not taken for less.
  """

  mean: Any
  variance: Any = None
  up_to: int | None = None
  limit: Any = None
  least_variance: Any = None


class Predict(Protocol):
  def __call__(self, schedule: Any, /) -> Mapping[str, Expected]:
    """The law of metrics; called on the host, once a cell of a sweep.

    Args:
      schedule: a `theory.Schedule`: sizes and shares of the batches that models are fitted to.
    Returns:
      name of a metric -> what is expected of it, [T]; metrics of which nothing is known are left out.
    """


class Through(Protocol):
  def __call__(
    self, key: Array, role: int, problem: Problem, data: Data, absorbed_at: Array, first: Array, stop: Array, /
  ) -> tuple[Data, Array]:
    """Goes through generations of which nobody looks at the models.

    Args:
      key: of the run.
      role: generation t draws as `sample` does with the key fold_in(fold_in(key, t), role).
      problem: the run's.
      data: one slot, what model `first` is fitted to.
      absorbed_at: [] int32, the generation that was the first to be absorbed; 0: none yet.
      first, stop: [] int32, the same for all runs: generations first, ..., stop - 1.
    Returns:
      the batch that model stop - 1 writes, `data` where there is no generation; and absorbed_at.
    """


class Leap(NamedTuple):
  """A way from one generation that is recorded to the next.

  Attributes:
    through: the way.
    work: (num_generations) -> about how many nanoseconds of a core all ways of a run take together, which tracing cannot tell.
  """

  through: Through
  work: Callable[[int], float]


class _TaskFields(NamedTuple):
  init: Init
  fit: Fit
  sample: Sample
  evaluate: Evaluate
  num_samples: Number
  summary: Summary | None = None
  fresh: Fresh | None = None
  rows: Rows | None = None
  metrics: Mapping[str, MetricInfo] = {}
  absorbed: Absorbed | None = None
  next_token: NextToken | None = None
  predict: Predict | None = None
  cites: tuple[str, ...] = ()
  leap: Leap | None = None
  used: Number = None


class TaskSetting(_TaskFields):
  """What is modelled.

  What is known of a task goes with what it is known of: `_replace(sample=...)` also drops absorbed, next_token and predict, unless
  they are given, `_replace(fit=...)` absorbed and predict, and `_replace(evaluate=...)` predict; what is replaced in a task that
  draws from the exact law holds for its `rows` too, or is refused there. `transforms.resample` is the door for other samplers.

  Attributes:
    init: (key) -> problem, real Data.
    fit: (key, problem, context) -> params.
    sample: (key, problem, params, context) -> one-slot Data, Metrics.
    evaluate: (key, problem, params) -> Metrics.
    num_samples: rows per batch: a Python int, or any traced number under exact-law draws.
    summary: how batches add up; None: `fit` reads rows.
    fresh: (key, problem) -> another real batch; None: workflows that need one raise.
    rows: () -> the same task drawing rows, for workflows and transforms that need them. Set exactly where batches come from their
      exact law, without rows.
    metrics: name -> MetricInfo; metrics not named here get their own name as label.
    absorbed: (problem, params) -> whether drift has ended; gives the metric `collapse_generation`, and lets a sweep stop
      such runs under a workflow that is `absorbing`.
    next_token: (problem, params, tokens) -> logits, where rows are {"tokens": [n, L] int32, "length": [n] int32}; None: rows
      are no sequences of tokens.
    predict: (schedule) -> {metric: Expected}, the law of the metrics, of fits that do not look at the previous model; None: none is
      known.
    cites: where it comes from, for `citation`: numbers of arXiv, or whole BibTeX entries. A transform adds its own.
    leap: many generations at once between two that are recorded, of a task with `absorbed` whose sampling has no metrics, under a
      workflow that is `absorbing`; see `Leap`.
    used: how many of the `num_samples` rows of a batch count, the first ones, traced, so that one program serves batches of several
      sizes; None: all. `init` and `fresh` give the others weight 0.
  """

  __slots__ = ()

  def _replace(self, **new: Any) -> "TaskSetting":
    known = {name: None for name, of in _KNOWN_OF.items() if of & new.keys()} | new
    if self.rows is not None and "rows" not in new:
      known["rows"] = _refused_rows(new.keys() & _OF_STATISTICS) or (lambda rows=self.rows: rows()._replace(**new))
    return super()._replace(**known)

  __replace__ = _replace


_KNOWN_OF = {
  "absorbed": {"fit", "sample"},
  "leap": {"init", "fit", "sample", "num_samples", "summary", "absorbed"},
  "next_token": {"sample"},
  "used": {"num_samples"},
  "predict": {"init", "fit", "sample", "evaluate", "num_samples", "summary", "fresh"},
}
_OF_STATISTICS = {"init", "fit", "sample", "num_samples", "summary", "fresh"}  # other ones where there are rows


def _refused_rows(names: Iterable[str]) -> Rows | None:
  def refuse() -> "TaskSetting":
    raise Refused(
      f"a task that draws statistics was given another {' and '.join(sorted(names))}, and this workflow or transform needs rows: "
      "give it to transforms.in_rows(task)."
    )

  return refuse if names else None


class StoreInit(Protocol):
  def __call__(self, task: TaskSetting, problem: Problem, real: Data, num_generations: int, /) -> PyTree:
    """A store that holds the real batch.

    Args:
      task: in the form that the workflow needs.
      problem: the run's.
      real: one slot of n rows.
      num_generations: the horizon T, a Python int.
    Returns:
      a pytree of arrays whose shapes do not change later.
    """


class Select(Protocol):
  def __call__(self, task: TaskSetting, problem: Problem, key: Array, store: PyTree, t: Int32[Array, ""], /) -> Data:
    """The training data of a generation.

    Args:
      task: in the form that the workflow needs.
      problem: the run's.
      key: of the role "select" in this generation.
      store: after generation t - 1.
      t: generation, 1..T, [] int32.
    Returns:
      `slots` batches with their weights [slots], and summaries in total where the task has them.
    """


class Update(Protocol):
  def __call__(
    self, task: TaskSetting, problem: Problem, key: Array, store: PyTree, batch: Data, t: Int32[Array, ""], /
  ) -> PyTree:
    """The store after a model emitted a batch.

    Args:
      task: in the form that the workflow needs.
      problem: the run's.
      key: of the role "update" in this generation.
      store: after generation t - 1.
      batch: one slot, of origin t.
      t: generation, 1..T, [] int32.
    Returns:
      a store of the same shapes.
    """


class _WorkflowFields(NamedTuple):
  init: StoreInit
  select: Select
  update: Update
  emit: Callable[[Any, Any], Any] = lambda n, t: n
  weights: Callable[[int], Any] | None = None
  redrawn: bool = False
  absorbing: bool = False
  schedule: Callable[[Any, int], Any] | None = None
  cites: tuple[str, ...] = ()
  batches: Callable[[PyTree], Data] | None = None


class Workflow(_WorkflowFields):
  """Which data generation t is fitted to.

  What is known of a workflow goes with what it is known of: `_replace` of init, select, update or emit also drops weights,
  schedule, absorbing and batches, unless they are given.

  Attributes:
    init: (task, problem, real, num_generations) -> store.
    select: (task, problem, key, store, t) -> Data for `fit`.
    update: (task, problem, key, store, batch, t) -> store.
    emit: (n, t) -> rows that model t emits; called with Python ints, and with tracers under exact-law draws. Where it is the same
      in every generation a sweep decides it on the host, in float64, and hands it to the program as a number. 0 in every
      generation: n rows are drawn to be looked at, and `update` is to ignore them.
    weights: (num_generations) -> [T, T] expected share of batch j (0 = real) in generation t + 1; theory reads it where there is no
      `schedule`, and takes it that batches are kept whole and that real data are those of the first generation.
    redrawn: fitted to a fresh subset of rows each generation, so rows are needed.
    absorbing: training data come from the last model alone and are always as many: after an absorbed model nothing changes.
    schedule: (num_samples, num_generations) -> `theory.Schedule`, what its laws are functions of; None: as `weights` say.
    cites: where it comes from, as of a task.
    batches: (store) -> whole batches, of which the youngest is `Context.latest`; None: those that `select` hands over.
  """

  __slots__ = ()

  def _replace(self, **new: Any) -> "Workflow":
    known = {"weights": None, "schedule": None, "absorbing": False, "batches": None} if _STORAGE & new.keys() else {}
    return super()._replace(**known | new)

  __replace__ = _replace


_STORAGE = {"init", "select", "update", "emit"}  # what the law of a workflow is known of


class Run(NamedTuple):
  """All that is needed to go on: what a checkpoint holds.

  `absorbed_at` is the generation at which the run was absorbed, 0 before; None where the task cannot tell.
  """

  key: Array
  problem: Problem
  real: Data
  store: PyTree
  params: Params
  absorbed_at: Any = None
