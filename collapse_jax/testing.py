"""Checks of a task, a workflow or a transform of your own: what `check_estimator` is to scikit-learn.

Every check is of something that would otherwise go wrong in silence: numbers that depend on the driver or on what lies in unused
storage, keys used twice, statistics that no longer belong to their rows. They need no pytest, take seconds on small settings,
and raise one error that lists all findings, each with what to do about it.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from collapse_jax import generation, key_use
from collapse_jax import store as storage
from collapse_jax import workflows as workflow_library
from collapse_jax.random import new_key
from collapse_jax.refused import Refused
from collapse_jax.sweeps import fingerprint, grid, sweep
from collapse_jax.types import Array, Context, Data, Summary, TaskSetting, Workflow

__all__ = ["WORKFLOWS", "Failed", "Finding", "check_task", "check_transform", "check_workflow"]

WORKFLOWS = (
  "replace",
  "accumulate",
  "accumulate(2)",
  "accumulate_subsample",
  "mix(0.4)",
  "mix(0.5, fresh=True)",
  "grown_replace",
  "sliding_window(2)",
  "weights([[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]])",
)
_LONG = 64  # generations in which runs of a small task are absorbed, if ever
_CLOSE = {"rtol": 2e-4, "atol": 2e-5}  # what is computed by two programs
_SAME = {"rtol": 1e-5, "atol": 1e-6}  # what is computed by one
_STATISTICS = {"rtol": 2e-3, "atol": 1e-4}  # added up in two ways
_PLAIN, _NAN, _ABSURD = range(3)


class Finding(NamedTuple):
  """What a check has found.

  Attributes:
    check: its name, which `skip` takes.
    where: the function or field, and under which workflow.
    text: what is wrong, and what to do about it.
  """

  check: str
  where: str
  text: str

  def __str__(self):
    return f"[{self.check}] {self.where}: {self.text}"


class Failed(AssertionError):
  """What `check_task`, `check_workflow` and `check_transform` raise; `findings` has all that was found."""

  def __init__(self, findings: Sequence[Finding]):
    super().__init__("\n".join([f"{len(findings)} found:", *(f"  {one}" for one in findings)]))
    self.findings = tuple(findings)


class _Report:
  """Findings and notes of one call, without what is skipped and without repetitions."""

  def __init__(self, skip: Sequence[str]):
    self.findings: list[Finding] = []
    self.notes: list[str] = []
    self._skip = frozenset(skip)
    self._known: set[tuple[str, str]] = set()

  def find(self, check: str, where: str, text: str) -> None:
    if check not in self._skip and (check, text) not in self._known:
      self._known.add((check, text))
      self.findings.append(Finding(check, where, text))

  def note(self, text: str) -> None:
    if text not in self.notes:
      self.notes.append(text)

  def end(self) -> tuple[str, ...]:
    if self.findings:
      raise Failed(self.findings)
    return tuple(self.notes)


def check_task(
  task: TaskSetting | Callable[[], TaskSetting],
  *,
  workflows: Sequence[str] = WORKFLOWS,
  drivers: Sequence[str] | None = None,
  num_seeds: int = 2,
  skip: Sequence[str] = (),
) -> tuple[str, ...]:
  """Runs a task through every workflow for three generations and holds it to its contract.

  Checks, by the names that `skip` takes:
    shapes: what each function returns, and how many rows.
    names: of metrics: none that results have of their own, all declared or none, with dims.
    mutation: arguments are as they were.
    state: two traces give one program.
    keys: each is used once, and comes from the run's.
    finite, same: all metrics are finite, and one key gives one result.
    unused: NaN and absurd numbers in empty slots and in rows of weight 0 change nothing.
    paired: model 1 is the same under all workflows.
    weights: rows and batches count with their weights, wherever they are stored.
    statistics: those that `sample` returns, and their sums, are those of the rows.
    horizon: where batches grow, nothing depends on the largest.
    absorbed: nothing changes after it.
    drivers: `cj.run`, and scan and steps of `cj.sweep`, give the same numbers.
    predict: has the form of the metrics.

  Args:
    task: with few rows and few steps of fitting, since all is compiled several times; or a factory without arguments.
    workflows: as `workflows.parse` takes them; three generations at least.
    drivers: the workflows under which `cj.sweep` is compared with `cj.run`; default all.
    num_seeds: runs of each.
    skip: names of checks to leave out, such as "keys" where a fixed key is meant.
  Returns:
    notes: workflows that the task refuses and why, and checks that say nothing of this task.
  Raises:
    Failed: with all findings. Errors of the task's own code come as they are.
  """
  report = _Report(skip)
  task = task if isinstance(task, TaskSetting) else task()
  _check_task(task, functools.partial(_watched, task, report), workflows, drivers, num_seeds, report)
  return report.end()


def check_workflow(
  workflow: Workflow | str, *, num_seeds: int = 2, drivers: bool = True, skip: Sequence[str] = ()
) -> tuple[str, ...]:
  """Runs small tasks of every kind through a workflow for three generations: rows, statistics, both with masks, exact law.

  Checks, beside "keys", "same", "unused", "state" and "drivers" as in `check_task`:
    shapes: of the store, and how many rows are asked for.
    shares: what `fit` is handed is of the batches, and in the shares, that `weights` and `schedule` declare; origins are true.
    statistics: those that are handed over are of the rows that would be.
    absorbing: only where data come from the last model alone, and are always as many.

  Args:
    workflow: of your own, or as `workflows.parse` takes it; one that runs for three generations.
    num_seeds: runs of each.
    drivers: False leaves out the comparison with `cj.sweep`.
    skip: names of checks to leave out.
  Returns:
    notes: kinds of tasks that it refuses, and why.
  Raises:
    Failed: with all findings. Errors of the workflow's own code come as they are.
  """
  report = _Report(skip)
  workflow = workflow_library.parse(workflow)() if isinstance(workflow, str) else workflow
  for t in range(1, 4):
    num = workflow.emit(6, t)
    if not isinstance(num, int) or num < 0:
      report.find(
        "shapes", "emit", f"must give a Python int of at least 0 for a Python int, got {num!r} for 6 rows at t = {t}."
      )
  if report.findings:
    report.end()
  found: dict[str, _Ran] = {}
  for name, task in _kinds().items():
    try:
      found |= _run_all(functools.partial(_watched, task, report), task, {name: workflow}, num_seeds, report)
    except TypeError as error:
      if "carry" not in str(error):
        raise
      report.find(
        "shapes", f"update, for {name}", f"must give a store of the form that init does: {str(error).splitlines()[0]}"
      )
  _check_shares(workflow, found, report)
  if drivers and "rows" in found:
    rows = _kinds()["rows"]
    kept = lambda metrics: {
      name: value for name, value in metrics.items() if name != "by_origin"
    }  # "steps" has one slot
    pooled = rows._replace(evaluate=lambda *arguments: kept(rows.evaluate(*arguments)))
    _check_drivers(pooled, {"rows": found["rows"]}, num_seeds, report)
  return report.end()


def check_transform(
  transform: Callable[[TaskSetting], TaskSetting],
  *,
  tasks: Mapping[str, TaskSetting] | None = None,
  workflows: Sequence[str] = WORKFLOWS,
  drivers: Sequence[str] | None = None,
  num_seeds: int = 2,
  skip: Sequence[str] = (),
) -> tuple[str, ...]:
  """Holds what a transform makes of small tasks to `check_task`, and looks for what it leaves that is no longer true.

  Checks, beside those of `check_task`: "unused" also fills what the task's sampler emits and will not count, before the transform
  sees it; "mutation" also of the task that is handed in; "predict" (not kept where what is trained on has changed).

  Args:
    transform: task -> task.
    tasks: name -> task; default three that have rows, statistics, and a fixed point. Give your own where it needs other rows.
    workflows, drivers, num_seeds, skip: as in `check_task`.
  Returns:
    notes, among them the tasks that it refuses, and why.
  Raises:
    Failed: with all findings, or if it refuses all tasks.
  """
  report = _Report(skip)
  accepted = 0
  for name, base in (_bases() if tasks is None else tasks).items():
    known, about = report.findings, dict(base.metrics)
    report.findings = []
    try:
      made = transform(base)
    except Refused as error:
      report.note(f"refuses {name}: {error}")
      report.findings = known
      continue
    accepted += 1
    if dict(base.metrics) != about:
      report.find(
        "mutation", "metrics", "changes those of the task that it is given: make new ones, {**task.metrics, **yours}."
      )
    make = lambda fill, base=base: _watched(transform(_watched(base, report, fill)), report, fill)
    ran = _check_task(made, make, workflows, drivers, num_seeds, report)
    _check_law_kept(base, made, ran, num_seeds, report)
    report.findings = known + [one._replace(where=f"{one.where}, of {name}") for one in report.findings]
  if not accepted:
    report.find("shapes", "transform", f"refuses every task: {'; '.join(report.notes)}. Give tasks that it takes.")
  return report.end()


def _check_task(task, make, workflows, drivers, num_seeds, report) -> dict[str, "_Ran"]:
  """`make`: (fill) -> the task, watched."""
  before = len(report.findings)
  _look_at(task, report)
  if report.findings[before:]:  # nothing else would be about the task as it is meant
    return {}
  ran = _run_all(make, task, {text: workflow_library.parse(text)() for text in workflows}, num_seeds, report)
  _check_model_1(task, ran, report)
  _check_parts(task, report)
  _check_absorbed(task, ran, report)
  chosen = ran if drivers is None else {text: one for text, one in ran.items() if text in drivers}
  _check_drivers(task, chosen, num_seeds, report)
  _check_predict(task, ran, report)
  return ran


# --------------------------------------------------------------------------------------------- shapes and names
def _look_at(task: TaskSetting, report: _Report) -> None:
  """What each function returns, from shapes alone; and names of metrics."""
  shape = functools.partial(_shape_of, report)
  key = new_key(0)
  init = shape("init", task.init, key)
  if init is None:
    return
  if not (isinstance(init, tuple) and len(init) == 2 and isinstance(init[1], Data)):
    return report.find(
      "shapes", "init", f"must return (problem, Data), got {_kind(init)}: make the Data by store.batch(rows)."
    )
  problem, real = init
  if not _is_batch(report, "init", task, real, task.num_samples, None):
    return
  if task.fresh is not None:
    fresh = shape("fresh", task.fresh, key, problem)
    if fresh is not None and not _is_batch(report, "fresh", task, fresh, task.num_samples, real):
      return
  context = _context(task, problem, real)
  params = shape("fit", task.fit, key, problem, context)
  metrics = shape("evaluate", task.evaluate, key, problem, params)
  sampled = shape("sample", task.sample, key, problem, params, context)
  if not _are_metrics(report, "evaluate", metrics):
    return
  if not (isinstance(sampled, tuple) and len(sampled) == 2 and isinstance(sampled[0], Data)):
    return report.find(
      "shapes", "sample", f"must return (Data, metrics), got {_kind(sampled)}: return store.batch(rows), {{}}."
    )
  batch, sampling = sampled
  if not _are_metrics(report, "sample", sampling) or not _is_batch(report, "sample", task, batch, context.num, real):
    return
  _check_names(task, metrics, sampling, report)
  again = shape("fit", task.fit, key, problem, context._replace(previous=params))
  if again is not None and _form(again) != _form(params):
    report.find(
      "shapes",
      "fit",
      f"with context.previous (a warm start) params are {_form(again)}, without {_form(params)}: return the same structure, "
      "shapes and dtypes.",
    )
  if task.absorbed is not None:
    found = shape("absorbed", task.absorbed, problem, params)
    if found is not None and (found.shape, found.dtype) != ((), np.dtype(bool)):
      report.find("shapes", "absorbed", f"must return one bool, [], got {_form(found)}.")
  if task.next_token is not None and isinstance(real.rows, dict) and "tokens" in real.rows:
    tokens = jax.ShapeDtypeStruct(real.rows["tokens"].shape[1:], real.rows["tokens"].dtype)
    logits = shape("next_token", task.next_token, problem, params, tokens)
    if logits is not None and (len(logits.shape) != 3 or logits.shape[:2] != tokens.shape):
      report.find(
        "shapes", "next_token", f"must return logits [n, L, V] for tokens {tokens.shape}, got {logits.shape}."
      )
  if task.summary is not None and real.rows is not None:
    _check_summary_shapes(task, problem, real, shape, report)


def _check_summary_shapes(task, problem, real, shape, report):
  rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), real.rows)
  num = jax.tree.leaves(rows)[0].shape[0]
  of = shape("summary.of", task.summary.of, problem, rows, None)
  weighted = shape("summary.of", task.summary.of, problem, rows, jax.ShapeDtypeStruct((num,), float))
  if of is None or weighted is None:
    return
  added = shape("summary.add", task.summary.add, problem, of, jnp.ones(()), weighted, jnp.ones(()))
  for what, one in (("summary.of with row_weight", weighted), ("summary.add", added)):
    if one is not None and _form(one) != _form(of):
      report.find("shapes", what, f"gives {_form(one)} where summary.of gives {_form(of)}: they must have one form.")


def _shape_of(report, name, function, *arguments):
  """Shapes of what a function returns; its arguments must be as they were."""
  static = [isinstance(one, Context) and isinstance(one.num, int) and one.num for one in arguments]

  def call(*arguments):
    whole = [one._replace(num=num) if num is not False else one for one, num in zip(arguments, static)]
    return _intact(report, name, function)(*whole)

  given = [one._replace(num=None) if num is not False else one for one, num in zip(arguments, static)]
  try:
    return jax.eval_shape(call, *given)
  except TypeError as error:
    if "is not a valid JAX type" not in str(error):
      raise
    report.find("shapes", name, f"must return arrays: {str(error).splitlines()[0]}")
    return None


def _intact(report, name, function):
  """The function, with a look at whether it leaves its arguments as they were."""

  def called(*arguments):
    leaves, structure = jax.tree.flatten(arguments)
    found = function(*arguments)
    after, structure_after = jax.tree.flatten(arguments)
    if str(structure) != str(structure_after) or any(a is not b for a, b in zip(leaves, after)):
      report.find(
        "mutation",
        name,
        "changes its arguments: make new values (dict(old, name=new), old | {...}), for others read them too.",
      )
    return found

  return called


def _is_batch(report, name, task, data, num, like) -> bool:
  """Whether shapes of a one-slot batch are right: as many rows as asked for, of the form of the real ones."""
  before = len(report.findings)
  if not isinstance(data, Data):
    report.find("shapes", name, f"must return a Data, got {_kind(data)}: make it by store.batch(rows).")
    return False
  if data.rows is None and task.rows is None:
    report.find(
      "shapes",
      name,
      "gives no rows, and task.rows is None: a task that draws statistics says by `rows` how it draws rows.",
    )
  if data.rows is None and data.summary is None:
    report.find("shapes", name, "gives neither rows nor a summary.")
  for leaf in jax.tree.leaves(data.rows):
    if leaf.shape[:1] != (1,) or len(leaf.shape) < 2:
      report.find(
        "shapes", name, f"rows must be [1, n, ...], one slot, got {leaf.shape}: make the Data by store.batch(rows)."
      )
    elif leaf.shape[1] != num:
      report.find("shapes", name, f"emits {leaf.shape[1]} rows where {num} are asked for: emit context.num rows.")
  if like is not None and not report.findings[before:] and data.rows is not None and like.rows is not None:
    mine, real = _form(data.rows, 2), _form(like.rows, 2)
    if mine != real:
      report.find("shapes", name, f"rows are {mine} (after slot and number) where those of init are {real}: cast them.")
  if data.row_weight is not None:
    if data.row_weight.shape != (1, num):
      report.find("shapes", name, f"row_weight must be [1, {num}], got {data.row_weight.shape}.")
    if like is not None and like.row_weight is None:
      report.find("shapes", name, "gives row weights, and init gives none: give the real batch a row_weight of ones.")
  for field in ("count", "weight", "origin"):
    value = getattr(data, field)
    if value is None or value.shape != (1,):
      report.find("shapes", name, f"{field} must be [1], got {_form(value)}: make the Data by store.batch(rows).")
  return len(report.findings) == before


def _are_metrics(report, name, metrics) -> bool:
  before = len(report.findings)
  if not isinstance(metrics, dict) or not all(isinstance(key, str) for key in metrics):
    report.find("shapes", name, f"must return metrics as a dict by name, got {_kind(metrics)}.")
    return False
  for key, value in metrics.items():
    if not hasattr(value, "dtype") or not (
      jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer) or value.dtype == bool
    ):
      report.find("shapes", name, f"metric {key!r} must be real numbers, got {_form(value)}.")
  return len(report.findings) == before


def _check_names(task, metrics, sampling, report) -> None:
  both = metrics | sampling
  for name in sorted(grid.of_results(both)):
    report.find(
      "names", f"metric {name!r}", "is a name of the results' own, and one would overwrite the other: take another one."
    )
  for name in sorted(metrics.keys() & sampling.keys()):
    report.find("names", f"metric {name!r}", "comes from evaluate and from sample: one of them is lost, so rename one.")
  for name, value in both.items():
    dims = task.metrics[name].dims if name in task.metrics else ()
    if task.metrics and name not in task.metrics:
      near = f"; declared and not returned: {', '.join(sorted(task.metrics.keys() - both.keys()))}"
      report.find(
        "names",
        f"metric {name!r}",
        "is not declared in task.metrics, where others are: results, figures and verdicts would not know its units"
        + near,
      )
    elif len(dims) != len(value.shape):
      report.find(
        "names", f"metric {name!r}", f"has shape {value.shape} and dims {dims}: name each axis in MetricInfo(dims=...)."
      )
  first = next(iter(task.metrics), None)
  if first is not None and first not in both:
    report.find("names", f"metric {first!r}", "is declared first, so that reports lead with it, and is not returned.")


# ------------------------------------------------------------------------------------------------ all workflows
class _Ran(NamedTuple):
  """What a task gave under a workflow: metrics [seeds, T, ...], as they are."""

  workflow: Workflow
  num_generations: int
  metrics: dict[str, np.ndarray]


def _run_all(make, task, flows: Mapping[str, Workflow], num_seeds, report) -> dict[str, _Ran]:
  """Each workflow: keys from the traced program, then one compiled program for all that is compared."""
  found: dict[str, _Ran] = {}
  for text, workflow in flows.items():
    absorbing = task.absorbed is not None and workflow.absorbing
    num_generations = _LONG if absorbing else 3
    try:
      trace = functools.partial(_traced, make, workflow, num_generations)
      program, structure = trace()
    except Refused as error:
      report.note(f"refuses {text}: {error}")
      continue
    if not found and fingerprint.of(program) != fingerprint.of(trace()[0]):
      report.find(
        "state",
        f"task under {text}",
        "two traces give two programs: something outside the arguments (a counter, a list, a generator of numbers) is read, "
        "and would be frozen in some drivers and not in others. Keep state in params or problem.",
      )
    for misuse in key_use.misuses(program):
      report.find("keys", f"under {text}", _misused(misuse))
    many = 16 if absorbing else num_seeds
    index = np.arange(many)
    fill = np.full(many, _PLAIN)
    if _has_rows(task, workflow):
      index = np.concatenate([index, np.arange(num_seeds), np.arange(num_seeds)])
      fill = np.concatenate([fill, np.full(num_seeds, _NAN), np.full(num_seeds, _ABSURD)])
    compiled = jax.jit(jax.vmap(jaxpr_as_fun(program)))
    once, twice = (_numbers(structure, compiled(_run_keys(index), jnp.asarray(fill))) for _ in range(2))
    plain = {name: value[:many] for name, value in once.items()}
    _compare_repeated(once, twice, text, report)
    _compare_unused(once, many, num_seeds, text, report)
    wrong = ~plain["finite"].astype(bool)
    if wrong.any():
      names = [name for name, value in plain.items() if not np.isfinite(value).all()]
      report.find(
        "finite",
        f"under {text}",
        f"{', '.join(names)}: not finite from generation {int(np.argwhere(wrong)[:, 1].min()) + 1} on, so that checks of it say "
        "nothing: guard logarithms and divisions, or check the task at another size.",
      )
    found[text] = _Ran(workflow, num_generations, plain)
  return found


def _traced(make, workflow, num_generations):
  """The program of a run, from its key and what to fill unused storage with; and the structure of its metrics."""

  def one(key, fill):
    return generation.run(key, make(fill), workflow, num_generations)

  program, shapes = jax.make_jaxpr(one, return_shape=True)(new_key(0), jnp.int32(0))
  return program, jax.tree.structure(shapes)


def _run_keys(index) -> Array:
  """As `cj.sweep` with seed 0 has them."""
  return jax.vmap(lambda i: jax.random.fold_in(new_key(0), i))(jnp.asarray(index, jnp.int32))


def _numbers(structure, flat) -> dict[str, np.ndarray]:
  return {name: np.asarray(value) for name, value in jax.tree.unflatten(structure, flat).items()}


def _watched(task: TaskSetting, report: _Report, fill) -> TaskSetting:
  """The task, handed and giving batches in which all that does not count is filled; see `_filled`."""

  def handed(context: Context) -> Context:
    filled = {
      name: _filled(getattr(context, name), fill)
      for name in ("data", "real", "latest")
      if getattr(context, name) is not None
    }
    return context._replace(**filled)

  def init(key):
    problem, real = _intact(report, "init", task.init)(key)
    return problem, _filled(real, fill)

  def fit(key, problem, context):
    return _intact(report, "fit", task.fit)(key, problem, handed(context))

  def sample(key, problem, params, context):
    batch, metrics = _intact(report, "sample", task.sample)(key, problem, params, handed(context))
    return _filled(batch, fill, context.used), metrics

  fresh, rows = task.fresh, task.rows
  watched = {
    "init": init,
    "fit": fit,
    "sample": sample,
    "evaluate": _intact(report, "evaluate", task.evaluate),
    "fresh": None if fresh is None else lambda key, problem: _filled(fresh(key, problem), fill),
    "rows": None if rows is None else lambda: _watched(rows(), report, fill),
  }
  return TaskSetting(**task._asdict() | watched)  # _replace would drop what is known of the task


def _filled(data: Data, fill, used=None) -> Data:
  """A batch, or many, with NaN or absurd numbers in empty slots and in rows of weight 0, as `fill` says."""
  if data.rows is None:
    return data
  slots, num = jax.tree.leaves(data.rows)[0].shape[:2]
  unused = jnp.zeros((slots, num), bool)
  if data.row_weight is not None:
    unused |= data.row_weight == 0
  if data.weight is not None:
    unused |= (data.weight == 0)[:, None]
  if data.origin is not None:
    unused |= (data.origin < 0)[:, None]
  if used is not None:
    unused |= (jnp.arange(num) >= used)[None]

  def filled(x):
    if jnp.issubdtype(x.dtype, jnp.floating):
      low, high = jnp.nan, 12345.0
    elif jnp.issubdtype(x.dtype, jnp.integer):
      low, high = jnp.iinfo(x.dtype).min, jnp.iinfo(x.dtype).max
    elif x.dtype == bool:
      low, high = False, True
    else:
      return x
    other = jnp.where(fill == _NAN, jnp.asarray(low, x.dtype), jnp.asarray(high, x.dtype))
    here = unused.reshape(slots, num, *[1] * (x.ndim - 2)) & (fill != _PLAIN)
    return jnp.where(here, other.reshape([1] * x.ndim), x)

  return storage.same(data, rows=jax.tree.map(filled, data.rows))


def _has_rows(task, workflow) -> bool:
  return generation.prepared(task, workflow).rows is None


def _misused(misuse: key_use.Misuse) -> str:
  places = " and ".join(misuse.places) or "the program"
  if misuse.kind == "fixed":
    return (
      f"{places} draws with a key that does not come from the run's: all runs and generations share these draws, whose error no "
      "number of seeds averages out. Use the key that the function is given."
    )
  if len(misuse.places) > 1:
    return f"one key is used twice, at {places}: draws are not independent. Split it, and use each part once."
  return (
    f"{places} uses one key more than once (in a loop, or in every generation, that the key does not change with): draws are not "
    "independent. Split it, or fold in what changes, such as context.t."
  )


def _compare_repeated(once, twice, text, report) -> None:
  for name, value in once.items():
    if not np.array_equal(value, twice[name], equal_nan=value.dtype.kind == "f"):
      report.find(
        "same",
        f"{name} under {text}",
        "differs between two calls with one key: draw from the key, not from a generator outside.",
      )


def _compare_unused(metrics, many, num_seeds, text, report) -> None:
  """The runs in which unused storage was filled, beside those in which it was left."""
  if len(metrics["finite"]) == many:
    return
  for name, value in metrics.items():
    part = {fill: value[many + i * num_seeds :][:num_seeds] for i, fill in enumerate((_NAN, _ABSURD))}
    if not _close(value[:num_seeds], part[_ABSURD], **_SAME):
      report.find(
        "unused",
        f"{name} under {text}",
        "depends on what lies in empty slots or in rows of weight 0: use rows and weights of store.flat(context.data), weigh "
        "every sum by them, and look only at store.in_use(context) in metrics of the sampling.",
      )
    elif not _close(value[:num_seeds], part[_NAN], **_SAME):
      report.find(
        "unused",
        f"{name} under {text}",
        "NaN in rows of weight 0 spreads, since 0 * NaN is NaN: take rows from store.flat(context.data), which blanks them, "
        "or choose by jnp.where.",
      )


def _close(a, b, rtol, atol) -> bool:
  if np.issubdtype(a.dtype, np.bool_):
    return np.array_equal(a, b)
  return np.allclose(np.asarray(a, float), np.asarray(b, float), rtol, atol, equal_nan=True)


# ------------------------------------------------------------------------------------------- parts of the contract
def _context(task: TaskSetting, problem, data: Data, real: Data | None = None, t=1) -> Context:
  """Of generation t, with data as a workflow hands it over; shapes will do for problem and data."""

  def ready(problem, data):
    data = storage.summarise(task, problem, data)
    return storage.total(task, problem, data), None if data.rows is None else storage.latest(data)

  concrete = not any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(data))
  handed, latest = ready(problem, data) if concrete else jax.eval_shape(ready, problem, data)
  return Context(jnp.int32(t), task.num_samples, handed, data if real is None else real, None, latest)


def _uses_key(task: TaskSetting) -> bool:
  """Whether the model depends on the key that `fit` is given."""

  def fit(key, other):
    problem, real = task.init(other)
    return task.fit(key, problem, _context(task, problem, real))

  program = jax.make_jaxpr(fit)(new_key(0), new_key(1)).jaxpr
  return any(variable is program.invars[0] for equation in program.eqns for variable in equation.invars)


def _check_model_1(task, ran: Mapping[str, _Ran], report) -> None:
  """Model 1 sees the real batch, whatever the workflow."""
  if len(ran) < 2 or _uses_key(task):
    return
  names = [name for name in _evaluated(task) if name in next(iter(ran.values())).metrics]
  first, *others = ran.items()
  for text, one in others:
    for name in names:
      a, b = (found.metrics[name][:2, 0] for found in (first[1], one))
      if not _close(a, b, **_STATISTICS):
        report.find(
          "paired",
          f"{name} of model 1",
          f"differs between {first[0]} and {text}, though both see the real batch alone: fit must not depend on how many slots "
          "there are, and a task that draws statistics must draw rows that have them.",
        )


def _evaluated(task) -> list[str]:
  """Names of metrics of the model, apart from those of its samples."""

  def evaluate(key):
    problem, real = task.init(key)
    return task.evaluate(key, problem, task.fit(key, problem, _context(task, problem, real)))

  return list(jax.eval_shape(evaluate, new_key(0)))


def _check_parts(task: TaskSetting, report) -> None:
  """The functions of a task beside each other, in one program: weights, statistics, and batches of which a part counts."""
  num, keyed = task.num_samples, _uses_key(task)
  some = (np.arange(num) < num // 2).astype(float) if task.rows is None else None
  forms = {} if some is None or keyed else _forms(some)
  if some is not None and keyed:
    report.note("weights: fit draws, so that it is checked by what is unused only")

  def measured(key):
    init_key, fit_key, sample_key = jax.random.split(key, 3)
    problem, real = task.init(init_key)
    model = lambda context: task.fit(fit_key, problem, context)
    context = _context(task, problem, real)
    params = model(context)
    models: list[tuple[tuple[str, ...], Any]] = [(("alone",), jax.tree.map(lambda x: x[None], params))]

    def stored(row_weight, weight):
      masked = row_weight * (1.0 if real.row_weight is None else real.row_weight)
      rows = jax.tree.map(lambda x: jnp.tile(x, (3, *[1] * (x.ndim - 1))), real.rows)
      origin = jnp.where(weight > 0, jnp.arange(3), -1).astype(jnp.int32)
      data = _filled(Data(rows, masked, jnp.sum(masked, axis=1), weight, origin), _ABSURD)
      return model(_context(task, problem, data, real))

    if forms:
      row_weights, weights = (jnp.asarray(np.stack(parts), float) for parts in zip(*forms.values()))
      models.append((tuple(forms), jax.vmap(stored)(row_weights, weights)))
    batch, sampling = task.sample(sample_key, problem, params, context)
    if task.summary is not None:
      pools = _pools(task, problem, context.data.summary, batch)
      summaries, counts = (jax.tree.map(lambda *x: jnp.stack(x), *parts) for parts in zip(*pools.values()))
      one = lambda summary, count: model(context._replace(data=batch._replace(summary=summary, count=count[None])))
      models.append((tuple(pools), jax.vmap(one)(summaries, counts)))
    found = _evaluated_together(lambda params: task.evaluate(fit_key, problem, params), models)
    if some is not None:
      try:
        wide = context._replace(num=3 * num, used=jnp.int32(num))
        largest, sampling_of_part = task.sample(sample_key, problem, params, wide)
      except Refused:
        return found
      first = lambda data: {f"rows{path}": x[0, :num] for path, x in _leaves((data.rows, data.row_weight))}
      found |= {"emitted": sampling | first(batch), "part": sampling_of_part | first(largest)}
    return found

  found = jax.tree.map(np.asarray, jax.jit(jax.vmap(measured))(jax.random.split(new_key(1), 3)))
  weighed = (
    "by the same rows, stored {0}, it is {2}, and stored {1} it is {3}: a fit by rows weighs them by store.flat(context.data), and "
    "summary.of and summary.add by the weights that they are given."
  )
  told = (
    "by {0} it is {2}, and by {1} {3}: what changes rows makes the batch anew (store.with_rows, transforms.resample), so that "
    "summary, draw and latent go."
  )
  added = "by a pool {0} it is {2}, and {1} {3}: summary.extend must give what summary.add does."
  part = (
    "differs where more are drawn than count ({3}, else {2}): fewer draws must be the first of more (collapse_jax.random), and "
    "metrics of the sampling look at store.in_use(context) only."
  )
  pairs = [("weights", "alone", form, weighed) for form in forms if form not in (_BY_BATCH, _BY_ROW)]
  pairs += [
    ("weights", _BY_BATCH, _BY_ROW, weighed),
    ("statistics", "the statistics that sample returns", "its rows", told),
    ("statistics", "extended by a batch", "added to it", added),
    ("horizon", "emitted", "part", part),
  ]
  for check, one, other, text in pairs:
    if one in found and other in found:
      for name, value in found[one].items():
        if not _close(value, found[other][name], **(_CLOSE if check == "horizon" else _STATISTICS)):
          report.find(check, name, text.format(one, other, value, found[other][name]))


_BY_BATCH, _BY_ROW = "with some counted more by their batch", "with some counted more by row weights"


def _forms(some) -> dict[str, tuple]:
  """Row weights [3, num] and batch weights [3] of three slots that hold the same rows: ways to store all of them once."""
  whole, none = np.ones_like(some), np.zeros_like(some)
  return {
    "with a mask": ((whole, none, none), (1, 0, 0)),
    "in the last slot": ((none, none, whole), (0, 0, 1)),
    "twice with half the weight": ((whole, whole, none), (0.5, 0.5, 0)),
    "in two slots": ((some, 1 - some, none), (1, 1, 0)),
    _BY_BATCH: ((whole, some, none), (1, 0.5, 0)),
    _BY_ROW: ((whole + 0.5 * some, none, none), (1, 0, 0)),
  }


def _pools(task: TaskSetting, problem, pool, batch: Data) -> dict[str, tuple]:
  """Statistics and numbers of rows that should agree in pairs: of a batch, and of it with the pool that it was drawn from."""
  one = lambda data: jax.tree.map(lambda x: x[0], data.summary)
  told, count = storage.summarise(task, problem, batch), batch.count[0]
  pools = {"the statistics that sample returns": (one(told), count)}
  if batch.rows is not None:
    anew = batch._replace(summary=None, draw=None, latent=None)
    pools["its rows"] = one(storage.summarise(task, problem, anew)), count
  if task.summary is not None and task.summary.extend is not None and batch.draw is not None:
    pools["extended by a batch"] = task.summary.extend(problem, pool, told), 2 * count
    pools["added to it"] = task.summary.add(problem, pool, 1.0, one(told), 1.0), 2 * count
  return pools


def _evaluated_together(evaluate, models) -> dict[str, Any]:
  """Metrics by name of (names, stacked models); those of one form in one call, which compiles once."""
  found: dict[str, Any] = {}
  for form in dict.fromkeys(_form(stacked, 1) for _, stacked in models):
    some = [one for one in models if _form(one[1], 1) == form]
    together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *(stacked for _, stacked in some))
    metrics = jax.vmap(evaluate)(together)
    for i, name in enumerate(name for names, _ in some for name in names):
      found[name] = jax.tree.map(lambda x: x[i], metrics)  # noqa: B023
  return found


def _leaves(tree):
  return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def _check_absorbed(task, ran, report) -> None:
  for text, one in ran.items():
    if one.num_generations != _LONG:
      continue
    at = one.metrics["collapse_generation"][:, -1].astype(int)
    if not at.any():
      report.note(f"absorbed: no run was, in {_LONG} generations under {text}; with fewer rows some might")
    for name, value in one.metrics.items():
      for run, t in zip(value, at):
        if t and not _close(run[t - 1 :], np.broadcast_to(run[t - 1], run[t - 1 :].shape), **_SAME):
          report.find(
            "absorbed",
            f"{name} under {text}",
            f"changes after the run was absorbed (at generation {t}), and a sweep would have stopped it there: set "
            "absorbed=None where something new can still come in (transforms.resample does).",
          )
          break


def _reads_rows(task: TaskSetting) -> bool:
  """Whether `sample` draws from stored rows: other ones where batches are poured into one, as the driver "steps" does."""

  def draw(rows, problem, params, context):
    return task.sample(new_key(0), problem, params, context._replace(num=num, data=context.data._replace(**rows)))

  def begin(key):
    problem, real = task.init(key)
    context = _context(task, problem, real)
    return problem, task.fit(key, problem, context), context._replace(num=None)

  num = task.num_samples
  if task.rows is not None:
    return False
  problem, params, context = jax.eval_shape(begin, new_key(0))
  rows = {"rows": context.data.rows, "summary": context.data.summary}
  program = jax.make_jaxpr(draw)(rows, problem, params, context).jaxpr
  given = program.invars[: len(jax.tree.leaves(context.data.rows))]
  return any(variable is one for equation in program.eqns for variable in equation.invars for one in given)


def _check_drivers(task, ran: Mapping[str, _Ran], num_seeds, report) -> None:
  """The drivers of a sweep, beside runs on their own."""
  drawn = _reads_rows(task)
  for driver, num_generations, metrics in _swept(task, ran, num_seeds):
    for text, found in metrics.items():
      if drawn and driver == "steps" and not _alone(ran[text], task):
        report.note("drivers: sample draws from stored rows, of which the driver 'steps' draws others by the same law")
        continue
      own = ran[text].metrics
      for name in own.keys() & found.keys():
        value, mine = found[name], own[name][:num_seeds, :num_generations]
        if name == "collapse_generation":  # of a sweep, one number a run, and the last generation where there was none
          mine = np.where(mine[:, -1] == 0, num_generations, mine[:, -1])
        if not _close(mine.astype(float), value.astype(float), **_CLOSE):  # counts have NaN where a run is not finite
          report.find(
            "drivers",
            f"{name} under {text}",
            f"is {mine[0]} by cj.run and {value[0]} by driver {driver!r}: fit and sample must not depend on how batches "
            "are laid out in slots, nor on anything but their arguments.",
          )


def _alone(one: _Ran, task: TaskSetting) -> bool:
  """Whether the workflow is known to hand over one batch alone."""
  return one.workflow.schedule is not None and one.workflow.schedule(task.num_samples, one.num_generations).alone


def _swept(task, ran, num_seeds) -> Iterator[tuple[str, int, dict[str, dict[str, np.ndarray]]]]:
  """(driver, generations, workflow -> metrics) of each driver."""
  for driver in ("scan", "steps"):
    for num_generations in sorted({one.num_generations for one in ran.values()}):
      flows = {text: one.workflow for text, one in ran.items() if one.num_generations == num_generations}
      results = sweep(task, flows, {}, num_generations=num_generations, num_seeds=num_seeds, driver=driver)
      each = {}
      for text in flows:
        cell = results.sel(workflow=text)
        if str(cell.cell_status.values) != "ok":
          raise Failed(
            [Finding("drivers", text, f"driver {driver!r} refuses what cj.run does: {cell.cell_status.values}")]
          )
        each[text] = {str(name): np.asarray(cell[name].values) for name in cell.data_vars if "seed" in cell[name].dims}
      yield driver, num_generations, each


def _check_predict(task, ran: Mapping[str, _Ran], report) -> None:
  """What `predict` says has the form of the metrics that it is about."""
  if task.predict is None:
    return
  for text, one in ran.items():
    schedule = None if one.workflow.schedule is None else one.workflow.schedule(task.num_samples, one.num_generations)
    if schedule is None:
      continue
    for name, expected in task.predict(schedule).items():
      where = f"predict of {name!r} under {text}"
      if name not in one.metrics:
        report.find("predict", where, f"there is no such metric; there are {', '.join(sorted(one.metrics))}.")
        continue
      of_run = name == "collapse_generation"  # of which results have one number a run
      want = () if of_run else (one.num_generations,)
      for field in ("mean", "variance", "least_variance"):
        value = getattr(expected, field)
        if value is not None and np.shape(value) != want:
          each = "one number a run" if of_run else "one number a generation"
          report.find("predict", where, f"{field} must have shape {want}, {each}, got {np.shape(value)}.")
      if expected.up_to is not None and not 0 <= expected.up_to <= one.num_generations:
        report.find(
          "predict", where, f"up_to must be a generation from 0 to {one.num_generations}, got {expected.up_to}."
        )


def _check_law_kept(base, made, ran: Mapping[str, _Ran], num_seeds, report) -> None:
  """A law that a transform keeps must still be that of what it trains on."""
  if base.predict is None or made.predict is not base.predict or not ran:
    return
  one = next(iter(ran.values()))
  task = base.rows() if base.rows is not None and made.rows is None else base
  run = lambda key: generation.run(key, task, one.workflow, one.num_generations)
  before = jax.jit(jax.vmap(run))(_run_keys(range(num_seeds)))
  for name, value in before.items():
    if name in one.metrics and not _close(np.asarray(value), one.metrics[name][:num_seeds], **_CLOSE):
      report.find(
        "predict",
        name,
        "changes with the transform, and task.predict is kept: set it to None (transforms.resample does).",
      )


# ------------------------------------------------------------------------------------------------- small settings
_NUM = 6


def _kinds() -> dict[str, TaskSetting]:
  """Tasks whose rows know which model made them, in every form in which a task can keep its data."""
  from collapse_jax.tasks import gaussian

  made_by = lambda t, num: jnp.full(num, t, jnp.int32)
  slots = jnp.arange(3)

  def shares(made, weight):
    return jnp.sum(weight[None] * (made[None] == slots[:, None]), axis=1)

  def of(problem, rows, row_weight):
    weight = jnp.ones(rows["made"].shape) if row_weight is None else row_weight
    return {"shares": shares(rows["made"], weight), "sum": jnp.sum(weight * rows["value"])}

  def add(problem, a, weight_a, b, weight_b):
    return jax.tree.map(lambda x, y: weight_a * x + weight_b * y, a, b)

  def model(pool, data):
    size = jnp.sum(pool["shares"])
    by_origin = shares(data.origin, storage.mass(data))
    mean = pool["sum"] / size
    return {"share": pool["shares"] / size, "by_origin": by_origin / jnp.sum(by_origin), "size": size, "mean": mean}

  def draw(key, mean, t, num):
    return {"value": mean + jax.random.normal(key, (num,)), "made": made_by(t, num)}

  def fresh(key, problem):
    return storage.batch(draw(key, 0.0, 0, _NUM))

  rows = TaskSetting(
    init=lambda key: (None, fresh(key, None)),
    fit=lambda key, problem, context: model(of(None, *storage.flat(context.data)), context.data),
    sample=lambda key, problem, params, context: (storage.batch(draw(key, params["mean"], context.t, context.num)), {}),
    evaluate=lambda key, problem, params: params,
    num_samples=_NUM,
    fresh=fresh,
  )
  statistics = rows._replace(
    fit=lambda key, problem, context: model(context.data.summary, context.data), summary=Summary(of, add)
  )

  def mask(key, num):  # one row at least counts
    return (jax.random.uniform(key, (num,)) < 0.7).at[0].set(True).astype(float)

  def resampled(key, problem, params, context):
    row_key, mask_key = jax.random.split(key)
    value = storage.draw_rows(row_key, context.data, context.num)["value"]
    return storage.batch({"value": value, "made": made_by(context.t, context.num)}, mask(mask_key, context.num)), {}

  def masked_fresh(key, problem):
    row_key, mask_key = jax.random.split(key)
    return storage.batch(draw(row_key, 0.0, 0, _NUM), mask(mask_key, _NUM))

  masked = statistics._replace(
    init=lambda key: (None, masked_fresh(key, None)),
    sample=resampled,
    summary=Summary(of, add, keep_rows=True),
    fresh=masked_fresh,
  )
  return {"rows": rows, "statistics": statistics, "masked rows": masked, "exact law": gaussian(1, _NUM)}


def _bases() -> dict[str, TaskSetting]:
  """What a transform is tried on by default."""
  from collapse_jax import tasks

  return {
    "rows": tasks.sample_median(_NUM),
    "statistics": tasks.gaussian(1, _NUM),
    "fixed point": tasks.discrete(3, _NUM),
  }


def _check_shares(workflow: Workflow, ran: Mapping[str, _Ran], report) -> None:
  """What was handed to `fit`, by the rows themselves, beside what the workflow and its batches say of it."""
  schedule = None if workflow.schedule is None else workflow.schedule(_NUM, 3)
  declared = {
    "weights": None if workflow.weights is None else np.asarray(workflow.weights(3)),
    "schedule": None if schedule is None else np.asarray(schedule.weights),
  }
  for kind in ("rows", "statistics", "masked rows"):
    if kind not in ran:
      continue
    metrics = ran[kind].metrics
    share = metrics["share"]  # [seeds, T, batches]
    if not _close(share, metrics["by_origin"], **_STATISTICS):
      report.find(
        "shares",
        f"select, for {kind}",
        f"hands over rows of the batches {_table(share[0])} and says {_table(metrics['by_origin'][0])} by origin, weight and "
        "count: what is moved keeps its origin and count.",
      )
    for what, table in declared.items():
      if table is None or kind == "masked rows":
        continue
      if table.shape != (3, 3) or not np.allclose(table.sum(axis=1), 1):
        report.find("shares", what, f"must be shares [T, T] whose rows sum to 1, got {table.tolist()}.")
        continue
      where = table == 0 if workflow.redrawn else np.ones_like(table, bool)  # a subset has a table on the average
      if not _close(share[:, where], np.broadcast_to(table, share.shape)[:, where], **_STATISTICS):
        report.find(
          "shares",
          what,
          f"declares {_table(table)}, and `fit` is handed {_table(share[0])} (generation by batch, 0 = real).",
        )
    for name, value in (("train_size", metrics["size"]), ("real_share", share[:, :, 0])):
      if not _close(metrics[name], value, **_STATISTICS):
        report.find(
          "shares",
          f"{name}, for {kind}",
          f"is {_table(metrics[name][0])} by the count and weight of batches, and {_table(value[0])} by their rows: what is moved "
          "or weighed keeps its count.",
        )
  if {"rows", "statistics"} <= ran.keys():
    for name, value in ran["rows"].metrics.items():
      if not _close(value, ran["statistics"].metrics[name], **_STATISTICS):
        report.find(
          "statistics",
          name,
          "differs between a task that keeps rows and the same by its statistics: statistics are weighed and added as rows are "
          "(store.seal, store.total).",
        )
  if workflow.absorbing and "rows" in ran:
    metrics = ran["rows"].metrics
    alone = _close(metrics["share"], np.broadcast_to(np.eye(3), metrics["share"].shape), **_STATISTICS)
    if not alone or np.ptp(metrics["train_size"]) > 0:
      report.find(
        "absorbing",
        "absorbing",
        "is True, and data are not of the last model alone, or not always as many: set it to False.",
      )


def _table(shares) -> str:
  return str(np.round(np.asarray(shares, float), 3).tolist())


# ------------------------------------------------------------------------------------------------------- words
def _kind(value) -> str:
  if isinstance(value, tuple):
    return f"({', '.join(map(_kind, value))})"
  return f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__


def _form(tree, from_axis: int = 0) -> str:
  """Structure, shapes and dtypes as text."""
  leaves, structure = jax.tree.flatten(tree)
  texts = [
    f"{np.dtype(x.dtype) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended) else x.dtype}{list(x.shape[from_axis:])}"
    if hasattr(x, "dtype")
    else repr(x)
    for x in leaves
  ]
  if jax.tree_util.treedef_is_leaf(structure):
    return texts[0]
  return str(jax.tree.unflatten(structure, texts)) if texts else str(structure)
