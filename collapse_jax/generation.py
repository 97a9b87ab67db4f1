"""One generation of the loop, and `lax.scan` over it."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import store as storage
from collapse_jax.random import checked_key, fold_in, split
from collapse_jax.refused import Refused
from collapse_jax.types import (
  Array,
  Context,
  Data,
  Metrics,
  Number,
  OnHost,
  Params,
  Problem,
  PyTree,
  Run,
  TaskSetting,
  Workflow,
  alone,
)
from collapse_jax.vocabulary import is_null

__all__ = [
  "Packed",
  "advance",
  "advance_packed",
  "assess",
  "context_of",
  "emission",
  "emit",
  "fit",
  "generation",
  "in_program",
  "latest",
  "leaps",
  "prepared",
  "provenance",
  "recorded",
  "role_keys",
  "run",
  "scan_generations",
  "settled",
  "start",
  "with_health",
  "written",
]

# A role added later must change no earlier draw: append, never reorder.
ROLES = {"select": 0, "fit": 1, "sample": 2, "update": 3, "evaluate": 4}


@jax.jit
def role_keys(key: Array, t: Number) -> dict[str, Array]:
  """The key of each role in generation t: independent of horizon, driver and workflow.

  Args:
    key: of the run.
    t: generation, a traced or Python int.
  Returns:
    name of a role, as in `ROLES` -> key.
  """
  keys = fold_in(fold_in(key, t), jnp.arange(len(ROLES)))
  return {role: keys[i] for role, i in ROLES.items()}


def prepared(task: TaskSetting, workflow: Workflow) -> TaskSetting:
  """The task in the form that the workflow needs: with rows where a subset of them is redrawn, or batches do not add up.

  Args:
    task, workflow: as a user made them.
  Raises:
    Refused: there is no such form.
  """
  apart = task.summary is not None and task.summary.add is alone and not workflow.absorbing
  return task.rows() if (workflow.redrawn or apart) and task.rows is not None else task


def start(key: Array, task: TaskSetting, workflow: Workflow, num_generations: int) -> Run:
  """A run before generation 1.

  Args:
    key: a threefry key; the whole run is a function of it. A ValueError for keys of another kind.
    num_generations: the horizon T, which fixes the capacity of the store.
  """
  init_key, run_key = split(checked_key(key))
  task = prepared(task, workflow)
  problem, real = task.init(init_key)
  absorbed_at = None if task.absorbed is None else jnp.zeros((), jnp.int32)
  return Run(run_key, problem, real, workflow.init(task, problem, real, num_generations), None, absorbed_at)


def generation(
  task: TaskSetting,
  workflow: Workflow,
  run: Run,
  t: Number,
  *,
  num_generations: int,
  warm_start: bool = False,
  evaluate: bool = True,
) -> tuple[Run, Metrics]:
  """Select, fit, evaluate, sample, update: the body of the scan.

  Args:
    run: the run after generation t - 1.
    t: generation, 1..num_generations, a traced or Python int.
    num_generations: the horizon that `start` was given.
    warm_start: hand params of model t - 1 to `fit` as `context.previous`.
    evaluate: False: no metrics.
  Returns:
    the run after generation t, and the metrics of model t.
  """
  task = prepared(task, workflow)
  keys = role_keys(run.key, t)
  context = context_of(task, workflow, run, t, num_generations=num_generations)
  params = fit(task, keys["fit"], run.problem, context)
  batch, sampling = emit(task, workflow, run, params, context, num_generations=num_generations)
  metrics: Metrics = {}
  absorbed_at = _absorbed_at(task, run, params, t)
  if evaluate:
    metrics = _looked_at(task, keys["evaluate"], run.problem, params, sampling, context, absorbed_at)
  store = workflow.update(task, run.problem, keys["update"], run.store, batch, t)
  return run._replace(store=store, params=params if warm_start else None, absorbed_at=absorbed_at), metrics


def _absorbed_at(task: TaskSetting, run: Run, params: Params, t: Number) -> Array | None:
  """The first generation that was absorbed, up to model t, 0 is none; None where the task knows of no such."""
  absorbed_at: Array | None = run.absorbed_at
  if task.absorbed is not None:
    absorbed_at = jnp.where((run.absorbed_at == 0) & task.absorbed(run.problem, params), t, run.absorbed_at)
  return absorbed_at


def _looked_at(
  task: TaskSetting,
  key: Array,
  problem: Problem,
  params: Params,
  sampling: Metrics,
  context: Context,
  absorbed_at: Array | None,
) -> Metrics:
  """All metrics that are recorded of a generation."""
  metrics = in_program(assess(task, key, problem, params, sampling, context))
  metrics = with_health(metrics | provenance(context.data))
  return metrics if absorbed_at is None else metrics | {"collapse_generation": absorbed_at}


def context_of(task: TaskSetting, workflow: Workflow, run: Run, t: Number, *, num_generations: int) -> Context:
  """What `fit` and `sample` of generation t look at: the workflow's choice of training data, and how much to emit.

  Args:
    task, workflow: as `prepared`.
    run: after generation t - 1.
    t: generation, 1..num_generations, a traced or Python int.
    num_generations: the horizon that `start` was given.
  """
  data = workflow.select(task, run.problem, role_keys(run.key, t)["select"], run.store, t)
  num = emission(task, workflow, num_generations).num(t)
  return Context(t, num, data, run.real, run.params, latest(workflow, run.store, data))


def latest(workflow: Workflow, store: PyTree, data: Data) -> Data:
  """The youngest batch, whole where single rows of several are handed over: of the same shape under all workflows.

  Args:
    workflow: a workflow.
    store: its own, before this generation.
    data: what it hands over of it.
  """
  youngest: Data = storage.latest(data if workflow.batches is None else workflow.batches(store))
  return youngest


def emission(task: TaskSetting, workflow: Workflow, num_generations: int) -> storage.Emission:
  """How many rows each model emits, see `store.emission`.

  Args:
    task, workflow: as `prepared`.
    num_generations: the horizon that `start` was given.
  """
  return storage.emission(task, workflow.emit, num_generations)


def fit(task: TaskSetting, key: Array, problem: Problem, context: Context) -> Params:
  """The model of the training data. Where these have no mass (a verifier rejected every row) there is none: all NaN.

  Args:
    task: a task.
    key: of the role "fit".
    problem: the run's.
    context: of this generation.
  """
  return _where_data(context, task.fit(key, problem, context), jnp.nan)


def assess(
  task: TaskSetting, key: Array, problem: Problem, params: Params, sampling: Metrics, context: Context
) -> Metrics:
  """Metrics of a model and of its sampling; NaN where there is no model.

  Args:
    task: a task.
    key: of the role "evaluate".
    problem: the run's.
    params: of the model.
    sampling: metrics that its `sample` returned; {} for none.
    context: of this generation.
  Raises:
    Refused: a metric has a name that every run takes.
  """
  metrics = task.evaluate(key, problem, params) | sampling
  taken = ("finite", "train_size", "real_share", "collapse_generation")
  for name in taken:
    if name in metrics:
      raise Refused(
        f"metrics must not be called {name}: runs have {', '.join(taken)} of their own.", argument="metrics", value=name
      )
  judged: Metrics = _where_data(context, metrics, jnp.nan)
  return judged


def _where_data(context: Context, tree: PyTree, other: float) -> PyTree:
  """The tree where the training data have mass, else `other` in all its floats."""
  return _floats_where(jnp.sum(storage.mass(context.data)) > 0, tree, other)


@functools.partial(jax.jit, static_argnames="other")
def _floats_where(there: Array, tree: PyTree, other: float) -> PyTree:
  is_float = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating)
  return jax.tree.map(lambda x: jnp.where(there, x, other) if is_float(x) else x, tree)


def emit(
  task: TaskSetting, workflow: Workflow, run: Run, params: Params, context: Context, *, num_generations: int
) -> tuple[Data, Metrics]:
  """The batch that a fitted model writes, as many rows as the workflow has it emit, and metrics of the sampling.

  Args:
    task, workflow: as `prepared`.
    run: after generation t - 1; its key and problem are read.
    params: of model t.
    context: of generation t.
    num_generations: the horizon that `start` was given.
  Returns:
    one slot, rows [1, num, ...], of origin t; metrics of the sampling.
  """
  t, table = context.t, emission(task, workflow, num_generations)
  context = context._replace(num=table.num(t), used=None if table.used is None else table.used(t))
  return written(task, role_keys(run.key, t)["sample"], run.problem, params, context)


def written(task: TaskSetting, key: Array, problem: Problem, params: Params, context: Context) -> tuple[Data, Metrics]:
  """The batch of `context.num` rows that a fitted model writes. What there is no model of writes no row.

  Args:
    task: a task.
    key: of the role "sample".
    problem: the run's.
    params: of the model.
    context: of this generation; `num` and `used` say how many rows.
  Returns:
    one slot, rows [1, num, ...], of origin t; metrics of the sampling.
  Raises:
    Refused: the sampler returned something else.
  """
  batch, sampling = _sampled(task.sample(key, problem, params, context), context.num)
  if context.used is not None:
    batch = storage.weighed(batch, storage.in_use(context))
  batch = _where_data(context, batch, 0)  # as empty slots of a store are
  return batch._replace(origin=jnp.full_like(batch.origin, context.t)), sampling


def _sampled(found: Any, num: Number) -> tuple[Data, Metrics]:
  """What a sampler returns, refused where it is not a batch of as many rows as it was asked for."""
  if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Data)):
    what = "must return a batch and its metrics, such as (store.batch(rows), {})"
    raise Refused(f"sample {what}, got {type(found).__name__}.", argument="sample", value=type(found), allowed=what)
  shapes = {x.shape[:2] for x in jax.tree.leaves(found[0].rows)}
  if isinstance(num, int) and shapes and shapes != {(1, num)}:
    got = ", ".join(" x ".join(map(str, shape)) for shape in sorted(shapes))
    raise Refused(
      f"sample must return one batch of context.num = {num} rows, got leaves of {got} rows.",
      argument="sample",
      value=got,
      allowed=f"leaves [1, {num}, ...]",
    )
  return found


def in_program(metrics: Metrics) -> Metrics:
  """Metrics of a run with what the program finds by calling the host in the place of each `OnHost`.

  Args:
    metrics: by name; those that an `OnHost` finds have names of their own.
  """
  return _settled(metrics, OnHost.in_program)


def settled(metrics: Metrics) -> Metrics:
  """The same of several runs outside a program: metrics [runs, ...] as NumPy arrays.

  Args:
    metrics: by name, with a leading axis of runs.
  """
  return {name: np.asarray(value) for name, value in _settled(metrics, OnHost.found).items()}


def _settled(metrics: Metrics, find: Callable[[OnHost], Metrics]) -> Metrics:
  found: Metrics = {}
  for name, value in metrics.items():
    found |= find(value) if isinstance(value, OnHost) else {name: value}
  return found


def with_health(metrics: Metrics, leading: int = 0) -> Metrics:
  """Adds `finite`: whether all metrics are; a null may not be known.

  Args:
    metrics: arrays of any shapes, of one run.
    leading: axes that all of them have first, and `finite` too.
  """
  told = {name: value for name, value in metrics.items() if not is_null(name, metrics)}
  healthy = [jnp.all(jnp.isfinite(x), axis=tuple(range(leading, jnp.ndim(x)))) for x in jax.tree.leaves(told)]
  return metrics | {"finite": functools.reduce(jnp.logical_and, healthy)}


@functools.partial(jax.tree_util.register_dataclass, data_fields=["numbers", "others"], meta_fields=["names"])
@dataclasses.dataclass(frozen=True)
class Packed:
  """Metrics as a scan stacks them: those that are numbers side by side, one array for each dtype.

  To write an array of its own for each metric takes four kernels, of which each costs as much to compile as one that computes.

  Attributes:
    numbers: dtype -> [..., k].
    others: name -> array, of metrics that are no numbers.
    names: those of the numbers, and their dtypes, in order.
  """

  numbers: dict[str, Any]
  others: Metrics
  names: tuple[tuple[str, str], ...]

  @classmethod
  def of(cls, metrics: Metrics) -> "Packed":
    """Those of one run and generation, without `finite`, which is told by the others."""
    metrics = {name: jnp.asarray(value) for name, value in metrics.items() if name != "finite"}
    names = tuple((name, str(value.dtype)) for name, value in sorted(metrics.items()) if not value.ndim)
    numbers = {
      dtype: jnp.stack([metrics[name] for name, its in names if its == dtype])
      for dtype in sorted({dtype for _, dtype in names})
    }
    return cls(numbers, {name: value for name, value in metrics.items() if value.ndim}, names)

  def metrics(self) -> Metrics:
    """name -> array; NumPy's where this holds NumPy's."""
    found: Metrics = dict(self.others)
    for dtype, array in self.numbers.items():
      found |= {name: array[..., i] for i, name in enumerate(name for name, its in self.names if its == dtype)}
    return found


def advance(
  task: TaskSetting,
  workflow: Workflow,
  run: Run,
  generations: Sequence[int],
  *,
  num_generations: int,
  warm_start: bool = False,
  record_every: int = 1,
) -> tuple[Run, Metrics]:
  """Takes a run through the given generations; calls chain.

  Args:
    run: from `start` or `advance`.
    generations: consecutive Python ints, beginning with the first that has not been done.
    num_generations: the horizon that `start` was given.
    warm_start: see `generation`.
    record_every: evaluate only generation 1 and multiples of this, and return only those.
  Returns:
    the run, and metrics with a leading axis over `recorded(generations, record_every)`.
  """
  run, outputs = advance_packed(
    task,
    workflow,
    run,
    generations,
    num_generations=num_generations,
    warm_start=warm_start,
    record_every=record_every,
  )
  return run, outputs.metrics()


def advance_packed(
  task: TaskSetting,
  workflow: Workflow,
  run: Run,
  generations: Sequence[int],
  *,
  num_generations: int,
  warm_start: bool = False,
  record_every: int = 1,
) -> tuple[Run, Packed]:
  """`advance` with metrics as they were stacked, for programs: to take them apart is left to the host.

  Args:
    task, workflow, run, generations, num_generations, warm_start, record_every: as of `advance`.
  """
  if not len(generations):
    raise Refused("generations is empty.")
  generations = range(int(generations[0]), int(generations[-1]) + 1)
  if not 1 <= generations[0] <= generations[-1] <= num_generations:
    raise Refused(f"generations must lie in 1..{num_generations}, got {generations[0]}..{generations[-1]}.")
  kept = np.asarray(recorded(generations, record_every), int) - generations[0]
  step = functools.partial(generation, task, workflow, num_generations=num_generations, warm_start=warm_start)
  first: list[Packed] = []
  if warm_start and run.params is None:  # the first model has no previous one: another structure, so not in the scan
    run, metrics = step(run, generations[0])
    alone = Packed.of(metrics)
    first, generations = [_healthy(jax.tree.map(lambda x: x[None], alone))], generations[1:]

  outputs = first[0] if first else None
  if generations:
    steps = jnp.asarray(np.arange(generations.start, generations.stop, dtype=np.int32))
    run, outputs = scan_generations(
      task,
      workflow,
      run,
      steps,
      None if first or len(kept) == len(generations) else kept,
      num_generations=num_generations,
      warm_start=warm_start,
      record_every=record_every,
    )
    if first:
      outputs = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first[0], outputs)
  if first and len(kept) < len(generations) + 1:
    outputs = jax.tree.map(lambda x: x[kept], outputs)
  assert outputs is not None
  return run, outputs


def scan_generations(
  task: TaskSetting,
  workflow: Workflow,
  run: Run,
  generations: Array,
  kept: np.ndarray | None = None,
  *,
  num_generations: int,
  warm_start: bool = False,
  record_every: int = 1,
) -> tuple[Run, Packed]:
  """`lax.scan` over traced generations [k] int32: the run, and metrics [k].

  Metrics are zero where they are not `recorded`, unless the task leaps from one that is kept to the next.

  Args:
    task, workflow: a task and a workflow.
    run: after the generation before the first of these; with params if warm_start.
    generations: [k] int32, consecutive.
    kept: positions of those of which metrics are returned, ascending, all that are recorded among them; None: all.
    num_generations: the horizon that `start` was given.
    warm_start: see `generation`.
    record_every: evaluate only generation 1 and multiples of this.
  """
  task = prepared(task, workflow)
  if kept is not None and leaps(task, workflow, warm_start):
    return _leap_generations(task, workflow, run, generations, kept, num_generations)
  step = functools.partial(generation, task, workflow, num_generations=num_generations, warm_start=warm_start)

  def body(carry: PyTree, t: Array) -> tuple[PyTree, Packed]:
    store, params, absorbed_at = carry
    done, metrics = step(run._replace(store=store, params=params, absorbed_at=absorbed_at), t)
    return (done.store, done.params, done.absorbed_at), Packed.of(metrics)

  def unseen(carry: PyTree, t: Array) -> PyTree:
    store, params, absorbed_at = carry
    done = step(run._replace(store=store, params=params, absorbed_at=absorbed_at), t, evaluate=False)[0]
    return done.store, done.params, done.absorbed_at

  def sparse_body(carry: PyTree, t: Array) -> Any:
    # t is the same for all runs, so this stays a branch under vmap: unrecorded metrics cost nothing.
    shape = jax.eval_shape(body, carry, t)[1]
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
    return jax.lax.cond((t == 1) | (t % record_every == 0), lambda: body(carry, t), lambda: (unseen(carry, t), empty))

  carry = run.store, run.params, run.absorbed_at
  carry, outputs = jax.lax.scan(body if record_every == 1 else sparse_body, carry, generations)
  outputs = outputs if kept is None else jax.tree.map(lambda x: x[kept], outputs)
  return run._replace(store=carry[0], params=carry[1], absorbed_at=carry[2]), _healthy(outputs)


def _healthy(outputs: Packed) -> Packed:
  """With `finite`, which is cheaper to tell of all generations at once."""
  finite = with_health(outputs.metrics(), leading=1)["finite"]
  return dataclasses.replace(outputs, others=outputs.others | {"finite": finite})


def leaps(task: TaskSetting, workflow: Workflow, warm_start: bool = False) -> bool:
  """Whether generations that are not recorded are gone through by `TaskSetting.leap`.

  Args:
    task, workflow: a task, as `prepared`, and a workflow.
    warm_start: see `generation`.
  """
  return task.leap is not None and workflow.absorbing and not warm_start


def _leap_generations(
  task: TaskSetting, workflow: Workflow, run: Run, generations: Array, kept: np.ndarray, num_generations: int
) -> tuple[Run, Packed]:
  """`scan_generations` by `TaskSetting.leap`: nothing of a generation that is not kept is computed but its batch."""
  assert task.leap is not None
  through = task.leap.through

  def leap(run: Run, t: Array, stop: Array) -> Run:
    data = workflow.select(task, run.problem, role_keys(run.key, t)["select"], run.store, t)
    batch, absorbed_at = through(run.key, ROLES["sample"], run.problem, data, run.absorbed_at, t, stop)
    batch = batch._replace(origin=jnp.full_like(batch.origin, stop - 1))
    update_key = role_keys(run.key, stop - 1)["update"]
    store = workflow.update(task, run.problem, update_key, run.store, batch, stop - 1)
    return run._replace(store=store, absorbed_at=absorbed_at)

  def body(carry: PyTree, stop: Array) -> tuple[PyTree, Packed]:
    store, absorbed_at, t = carry
    here = leap(run._replace(store=store, absorbed_at=absorbed_at), t, stop)
    keys = role_keys(run.key, stop)
    context = context_of(task, workflow, here, stop, num_generations=num_generations)
    params = fit(task, keys["fit"], run.problem, context)
    absorbed_at = _absorbed_at(task, here, params, stop)
    metrics = _looked_at(task, keys["evaluate"], run.problem, params, {}, context, absorbed_at)
    return (here.store, here.absorbed_at, stop), Packed.of(metrics)

  # The last leap is to the end, where metrics are taken for nothing: the program of a leap is large.
  stops = jnp.concatenate([generations[kept], generations[-1:] + 1])
  (store, absorbed_at, _), outputs = jax.lax.scan(body, (run.store, run.absorbed_at, generations[0]), stops)
  run = run._replace(store=store, params=None, absorbed_at=absorbed_at)
  return run, _healthy(jax.tree.map(lambda x: x[:-1], outputs))


def recorded(generations: range, record_every: int = 1) -> list[int]:
  """The generations of which `advance` returns metrics: 1 and the multiples of `record_every`.

  Args:
    generations: consecutive.
    record_every: from 1.
  """
  first = -(-generations.start // record_every) * record_every
  return [1] * (1 in generations and first != 1) + list(range(first, generations.stop, record_every))


def run(key: Array, task: TaskSetting, workflow: Workflow, num_generations: int, **options: Any) -> Metrics:
  """A whole run: `start`, then `advance` through generations 1..num_generations; metrics with leading axis [T].

  Args:
    key: a threefry key; the whole run is a function of it.
    task, workflow: a task and a workflow.
    num_generations: the horizon T, a Python int of at least 1.
    options: of `advance`: warm_start, record_every.
  Raises:
    ValueError: num_generations below 1, or a task and a workflow that do not go together.
  """
  if num_generations < 1:
    raise Refused(f"num_generations must be at least 1, got {num_generations}.")
  begun = start(key, task, workflow, num_generations)
  return advance(task, workflow, begun, range(1, num_generations + 1), num_generations=num_generations, **options)[1]


def provenance(data: Data) -> Metrics:
  """Size and real share of a generation's training data; no share of nothing.

  Args:
    data: what a model is fitted to, `slots` batches.
  Returns:
    `train_size` [] in weighted rows, and `real_share` [], NaN of no rows.
  """
  mass = storage.mass(data)
  size = storage.size(data)
  return {"train_size": size, "real_share": jnp.sum(mass * (data.origin == 0)) / size}
