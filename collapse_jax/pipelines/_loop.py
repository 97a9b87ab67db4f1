"""`loop`: a generator of the user's own under every workflow, as a sweep of a task whose rows are numbers of rows on disk."""

import contextlib
import functools
import inspect
import io
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import interrupts
from collapse_jax import store as storage
from collapse_jax.metrics import meaning
from collapse_jax.pipelines import _identity, _lineage, _protocol, _steps, kinds
from collapse_jax.pipelines._perform import Call, Failure, Performer, Piece, Segment, Setting
from collapse_jax.pipelines._workers import Workers
from collapse_jax.refused import Refused
from collapse_jax.sweeps import chunks
from collapse_jax.sweeps.dataset import version
from collapse_jax.sweeps.job import Failed
from collapse_jax.sweeps.scheduler import sweep
from collapse_jax.types import Array, Context, Data, MetricInfo, Metrics, TaskSetting
from collapse_jax.vocabulary import LARGEST, is_null

if TYPE_CHECKING:
  import xarray

__all__ = ["loop", "on_data"]

RUNS, ROLES = _lineage.RUNS, _lineage.ROLES
# Which way is worse, of what the definitions of collapse take a metric for.
_WORSE = {"risk": "higher", "variance": "lower", "modes": "lower", "tail": "lower", "hallucination": "higher"}
_here = threading.local()  # the run that this thread is at


@interrupts.kept()
def loop(
  pipeline: Any,
  real: kinds.Rows,
  test: kinds.Rows,
  workflows: Sequence[str] | Mapping[str, Any],
  *,
  num_generations: int,
  num_seeds: int,
  num_samples: int | None = None,
  directory: Any,
  resume: bool = False,
  jobs: int = 1,
  measures: Mapping[str, str | MetricInfo] | None = None,
  seed: int = 0,
  timeout: float | None = None,
  axes: Mapping[str, Sequence[Any]] | None = None,
  transform: Callable[[TaskSetting], TaskSetting] | None = None,
  warm_start: bool = False,
  keep_data: bool = True,
  progress: bool = False,
) -> "xarray.Dataset":
  """Runs a generator of the user's own for many generations, under every workflow, for several seeds.

  What is finished is kept in `directory`, step by step (a fit, a sample, an evaluation), under a digest of all that it depends on:
  the code or command, the rows, the seed. With `resume` a step that is there is not done again, whatever call it is of, and one
  of other code, rows or seed is no such step. The first generation, which sees real rows only, is fitted once for all workflows.

  A step that fails (it raises, returns other rows than it should, takes too long, its process dies, the disk is full) ends its run:
  `cell_status` says why, what was measured before stays, all other runs go on, and with `resume` it is tried again.

  With jobs=1 and no timeout the pipeline is called in this process, else in processes of its own.

  Args:
    pipeline: a `pipelines.Pipeline`, or a factory of one that takes some of the axes by name.
    real: rows that the loop begins with: a DataFrame, {name: array [n, ...]}, a list of dicts or a `datasets.Dataset`.
    test: real rows that no model is fitted to, of the same kind and columns.
    workflows: as for `sweep`: names such as "replace", "accumulate", "mix(0.2)", or name -> Workflow or its factory.
    num_generations: T.
    num_seeds: runs per cell; run i of every cell has the same real rows and seeds.
    num_samples: rows that the first model is fitted to and that each model writes, at most those of `real`; default as many. Of
      more real rows each seed gets its own, and `mix(f, fresh=True)` others in each generation.
    directory: where steps, runs and `results.nc` go; one loop at a time may write there.
    resume: go on from the steps that are there; else they are deleted, which is logged.
    jobs: steps of different runs that are done at the same time.
    measures: name of a metric -> what the definitions of collapse take it for ("risk", "variance", "modes", "tail",
      "hallucination"), or a `MetricInfo`. The first of them is the primary metric; default the first that is evaluated.
    seed: of all seeds; those that steps are given are 31 bits of (seed, run, generation, role).
    timeout: seconds that a step may take, which is killed then with all that it has started.
    axes: name -> values; each becomes a dimension, for workflows ("mix" takes real_fraction), the factory, or num_samples.
    transform: TaskSetting -> TaskSetting, such as a verifier; rows are numbers there, see `on_data`.
    warm_start: hand each fit the model before.
    keep_data: write the training rows of each fit: under workflows that accumulate these files grow like the square of the
      generations. Without them rows are known all the same, as those of samples.
    progress: show a progress bar on standard error.
  Returns:
    a Dataset as of `sweep`, which is also in `directory`/results.nc.
  Raises:
    Refused: an argument that cannot be used, or no cell can run.
    OSError: `directory` cannot be written.
  """
  directory = Path(directory)
  schema, test_schema = kinds.schema_of(real), kinds.schema_of(test)
  if (schema.kind, schema.columns) != (test_schema.kind, test_schema.columns):
    raise Refused(
      f"test must have the kind and columns of real, {schema.kind} of {', '.join(schema.columns)}, got "
      f"{test_schema.kind} of {', '.join(test_schema.columns)}.",
      argument="test",
    )
  given, num_real = dict(axes or {}), kinds.num_rows(real)
  if "num_samples" not in given:
    num_samples = num_real if num_samples is None else num_samples
  if not isinstance(jobs, int) or jobs < 1:
    raise Refused.must_be("jobs", "an integer from 1 on", jobs)
  if timeout is not None and not 0 < timeout < math.inf:
    raise Refused.must_be("timeout", "seconds above 0", timeout)
  known = {name: _info(name, what) for name, what in (measures or {}).items()}
  if not _is_factory(pipeline):
    _protocol.check(pipeline)
  with _steps.written_by_one(directory) as lock:
    shared = _Shared(
      directory, resume, schema, test_schema, known, Workers(timeout, lock), jobs > 1 or timeout is not None, keep_data
    )
    shared.begin(real, test)
    try:
      results = sweep(
        _factory(shared, pipeline, transform, None if "num_samples" in given else num_samples),
        workflows,
        given,
        num_generations=num_generations,
        num_seeds=num_seeds,
        seed=seed,
        driver="host",
        num_workers=jobs,
        warm_start=warm_start,
        primary_metric=next(iter(known), ""),
        on_metrics=shared.noted,
        progress=progress,
      )
    finally:
      shared.workers.close()
    if not results.attrs["primary_metric"]:
      results.attrs["primary_metric"] = next(iter(shared.names), "")
    names = list(map(str, results.data_vars))
    results = results.drop_vars([name for name in names if is_null(name, names) and results[name].isnull().all()])
    results.attrs |= {"pipeline": _protocol.name_of(pipeline), "num_real": num_real}
    results.attrs |= {} if "num_samples" in given else {"num_samples": int(num_samples or 0)}
    numbers = [name for name, value in results.data_vars.items() if value.dtype.kind in "bfi"]
    buffer = io.BytesIO()  # the library crashes where the disk is full
    results.to_netcdf(buffer, engine="h5netcdf", encoding={name: {"zlib": True, "complevel": 1} for name in numbers})
    chunks.write(directory / _steps.RESULTS, buffer.getvalue())
  return results


def on_data(function: Callable[..., Any]) -> Callable[..., Any]:
  """A function of data as one of row numbers, as transforms call it under `loop`.

  Its last argument is rows: `transform=lambda task: cj.transforms.verify(task, on_data(lambda key, problem, rows: rows["x"] > 0))`.

  Args:
    function: (..., data of the kind of the real rows) -> [n].
  """

  @functools.wraps(function)
  def of_numbers(*arguments: Any) -> Any:
    return function(*arguments[:-1], _here.run.rows(np.asarray(arguments[-1])))

  return of_numbers


def _info(name: str, what: str | MetricInfo) -> MetricInfo:
  if isinstance(what, MetricInfo):
    return what
  if what not in _WORSE:
    raise Refused(
      f"measures must be among {', '.join(_WORSE)}, got {what!r} for {name}.",
      argument="measures",
      value=what,
      allowed=", ".join(_WORSE),
    )
  return MetricInfo(name.replace("_", " "), worse=_WORSE[what], measures=what)


def _usual() -> dict[str, MetricInfo]:
  """Of the metrics of pipelines that have none of their own."""
  return {
    name: MetricInfo(name.replace("_", " "), worse=worse, measures=measure)
    for name, (worse, measure) in meaning.MEANING.items()
  }


def _is_factory(pipeline: Any) -> bool:
  return isinstance(pipeline, type) or (callable(pipeline) and not hasattr(pipeline, "fit"))


def _factory(
  shared: "_Shared", pipeline: Any, transform: Callable[[TaskSetting], TaskSetting] | None, num_samples: int | None
) -> Callable[..., TaskSetting]:
  """(values of axes) -> the task, which takes the axes that the pipeline takes, and num_samples unless it is given here."""
  is_factory = _is_factory(pipeline)
  made = inspect.signature(pipeline) if is_factory else inspect.Signature()
  given = (
    None if is_factory else shared.of(pipeline, {})
  )  # what it is before any step: its attributes may change in these
  names = [name for name in made.parameters if name != "num_samples"]

  def task(**values: Any) -> TaskSetting:
    num = values.get("num_samples", num_samples)
    taken = {name: value for name, value in values.items() if name in made.parameters}
    one = shared.of(pipeline(**taken), taken) if given is None else given
    found = _task(shared, one, shared.checked_num(num))
    return found if transform is None else transform(found)

  keyword = inspect.Parameter.KEYWORD_ONLY
  parameters = [made.parameters[name].replace(kind=keyword) for name in names]
  if num_samples is None:
    parameters.append(inspect.Parameter("num_samples", keyword))
  task.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # axes are held against it
  return task


def _task(shared: "_Shared", one: "_Pipeline", num_samples: int) -> TaskSetting:
  """A task whose rows are numbers [n] int32 of rows on disk; `problem` is the run."""

  def init(key: Array) -> tuple["_Run", Data]:
    run = _here.run = _Run(shared, one, num_samples, key)
    return run, run.real_batch(0)

  def fit(key: Array, run: "_Run", context: Context) -> "_Model":
    return run.fit(_seed_of(key), context)

  def sample(key: Array, run: "_Run", model: "_Model", context: Context) -> tuple[Data, Metrics]:
    return run.sample(_seed_of(key), model, int(context.num)), {}

  def evaluate(key: Array, run: "_Run", model: "_Model") -> Metrics:
    return run.evaluate(_seed_of(key), model)

  def fresh(key: Array, run: "_Run") -> Data:
    return run.fresh()

  own = callable(getattr(one.setting.pipeline, "evaluate", None))
  return TaskSetting(
    init, fit, sample, evaluate, num_samples, fresh=fresh, metrics=shared.known if own else {**_usual(), **shared.known}
  )


def _seed_of(key: Array) -> int:
  """31 bits of a key."""
  return int(np.asarray(jax.random.key_data(key)).ravel()[-1]) >> 1


class _Pipeline(NamedTuple):
  """A pipeline, and what tells it from others in each role."""

  setting: Setting
  codes: dict[str, str]
  takes_weight: bool


class _Model:
  """What stands for a model in the loop: the step that fits it.

  Attributes:
    name: of that step.
    generation: 1..T.
    call: what fits it.
    previous: the model that it starts from, or None.
    sampled: the rows that were last drawn from it.
  """

  def __init__(self, name: str, call: Call, previous: "_Model | None"):
    self.name, self.call, self.previous, self.generation = name, call, previous, call.generation
    self.sampled: Segment | None = None
    self.evaluation = ""


class _Shared:
  """What all runs of a loop share.

  Attributes:
    names: of the metrics, as they were first evaluated.
  """

  def __init__(
    self,
    directory: Path,
    resume: bool,
    schema: kinds.Schema,
    test_schema: kinds.Schema,
    known: dict[str, MetricInfo],
    workers: Workers,
    apart: bool,
    keep_data: bool,
  ):
    self.directory, self.steps = directory, _steps.Steps(directory, resume)
    self.known, self.workers, self.names = known, workers, dict[str, None]()
    self._schema, self._test_schema, self._apart, self._keep_data = schema, test_schema, apart, keep_data
    self._performers: dict[str, Performer] = {}
    self._guard = threading.Lock()
    ending = kinds.suffix(schema.kind)
    self._real, self._test = directory / f"real{ending}", directory / f"test{ending}"

  def reader(self) -> Performer:
    """What reads rows, of one thread."""
    return Performer(Setting("", None, self._schema, self._test_schema, self._test))

  def begin(self, real: kinds.Rows, test: kinds.Rows) -> None:
    """Writes what the loop is given, and removes what tells of earlier runs."""
    self.test_digest = kinds.digest(test)
    name = f"real-{_steps.digest_of(kinds.digest(real))}"
    self.real = Segment(name, self._real, kinds.num_rows(real))
    self.withdrawn = _lineage.withdrawn(self.directory, name)
    about = {"real": name, "num_real": self.real.num, "test": self.test_digest}
    noted, manifest = {}, self.directory / "loop.json"
    with contextlib.suppress(OSError, ValueError):
      noted = chunks.read_object(manifest)
    if {key: noted.get(key) for key in about} != about or not (self._real.exists() and self._test.exists()):
      manifest.unlink(missing_ok=True)
      beside = dict(zip(kinds.PROVENANCE, (np.arange(self.real.num, dtype=np.int32), 0, "", 0, 1.0)))
      kinds.write(real, self._real, beside)
      kinds.write(test, self._test)
      chunks.write(manifest, (json.dumps({**about, "package_version": version()}, indent=2) + "\n").encode())
    if (self.directory / RUNS).exists():
      chunks.remove(self.directory / RUNS)

  def checked_num(self, num: Any) -> int:
    """Rows of a batch."""
    if not isinstance(num, int | np.integer) or not 1 <= num <= self.real.num:
      raise Refused.must_be("num_samples", f"an integer from 1 to {self.real.num}, the number of real rows", num)
    return int(num)

  def of(self, pipeline: Any, values: Mapping[str, Any]) -> _Pipeline:
    """A pipeline, and the values of axes that a factory made it from."""
    _protocol.check(pipeline)
    roles = [role for role in ROLES if callable(getattr(pipeline, role, None))]
    codes = {role: _identity.of_role(pipeline, role) for role in roles}
    codes.setdefault("evaluate", f"metrics.score, train {version()}")
    name = _steps.digest_of(*codes.values(), _identity.of(dict(values)))
    setting = Setting(name, pipeline, self._schema, self._test_schema, self._test, self._keep_data)
    return _Pipeline(setting, codes, "weight" in _protocol.options(pipeline.fit, weight=None))

  def perform(self, one: _Pipeline, call: Call) -> dict[str, Any]:
    """Has a step done, here or in another process."""
    return self.workers.perform(one.setting, call) if self._apart else self._performer(one).perform(call)

  def has_model(self, one: _Pipeline, folder: Path) -> bool:
    """Whether whoever does the steps of this thread has a model in memory."""
    return (self.workers if self._apart else self._performer(one)).has_model(folder)

  def _performer(self, one: _Pipeline) -> Performer:
    return self._performers.setdefault(one.setting.name, Performer(one.setting))

  def check_names(self, found: Mapping[str, float]) -> None:
    """Metrics have the same names in all steps, and those that `measures` names.

    Raises:
      Failure: other ones than before.
      Refused: one of `measures` is missing.
    """
    if lacking := [name for name in self.known if name not in found]:
      raise Refused(
        f"measures names {lacking[0]}, and evaluate returned {', '.join(found)}.",
        argument="measures",
        value=lacking[0],
        allowed=", ".join(found),
      )
    with self._guard:
      self.names = self.names or dict.fromkeys(found)
    if self.names.keys() != found.keys():
      raise Failure(f"evaluate returned {', '.join(found)}, and before {', '.join(self.names)}.")

  def noted(self, cell: Mapping[str, Any], t: int, seeds: range, metrics: Metrics) -> None:
    """Makes the folder of a generation of a run: links to what its steps hold, and what it descends from."""
    run: _Run = _here.run
    _lineage.write_generation(self.directory, cell, seeds.start, run.models[-1], self.steps, self._schema)


class _Run:
  """A run: which rows there are in it, by numbers, and the steps that it takes.

  Rows 0, 1, ... are the real ones; those of each sample follow in the order in which they are drawn.
  """

  def __init__(self, shared: _Shared, one: _Pipeline, num_samples: int, key: Array):
    self._shared, self._one, self._num = shared, one, num_samples
    num_real = shared.real.num
    shuffled = num_samples < num_real
    self._order = np.asarray(jax.random.permutation(key, num_real) if shuffled else jnp.arange(num_real), np.int32)
    self._segments, self._starts = [shared.real], [0]
    self._fresh, self._reader = 0, shared.reader()
    self.models: list[_Model] = []

  def real(self, k: int) -> np.ndarray:
    """Numbers of the k-th batch of real rows, which has no row of the others."""
    first, last = k * self._num, (k + 1) * self._num
    if last > len(self._order):
      raise Refused(
        f"fresh real rows have run out: of {len(self._order)} each generation takes num_samples, {self._num}.",
        argument="fresh",
        value=True,
        allowed=f"num_samples up to {len(self._order)} / num_generations",
      )
    return np.sort(self._order[first:last])

  def real_batch(self, k: int) -> Data:
    """The k-th batch of real rows, of which withdrawn ones count nothing."""
    numbers, out = self.real(k), self._shared.withdrawn
    weight = ~np.isin(numbers, out.get(self._shared.real.name, ()))
    # Batches of a run all have weights or none: what will be drawn may have some.
    alike = weight.all() and not out.keys() - {self._shared.real.name}
    return storage.batch(jnp.asarray(numbers), None if alike else jnp.asarray(weight, jnp.float32))

  def fresh(self) -> Data:
    """Another real batch each time; at first the first one, for that is what a workflow begins with."""
    self._fresh += 1
    return self.real_batch(self._fresh - 1)

  def rows(self, numbers: np.ndarray) -> kinds.Rows:
    """Data of rows of these numbers, in this order."""
    order, pieces = self._pieces(numbers)
    data = self._reader.rows(pieces)
    return data if (np.diff(order) == 1).all() else kinds.take(data, np.argsort(order))

  def _pieces(self, numbers: np.ndarray) -> tuple[np.ndarray, tuple[Piece, ...]]:
    """The order in which rows lie in segments, and the pieces of these."""
    place = np.searchsorted(self._starts, numbers, side="right") - 1
    order = np.argsort(place, kind="stable")
    numbers, place = numbers[order], place[order]
    pieces = []
    for i in np.unique(place):
      segment, index = self._segments[i], (numbers[place == i] - self._starts[i]).astype(np.int32)
      whole = len(index) == segment.num and np.array_equal(index, np.arange(segment.num))
      pieces.append(Piece(segment, None if whole else index))
    return order, tuple(pieces)

  def fit(self, seed: int, context: Context) -> _Model:
    """The model of the training data."""
    order, pieces = self._pieces(np.asarray(context.data.rows)[0])
    counted = np.asarray(context.data.row_weight, np.float32)[0][order]
    weight = None if np.ptp(counted) == 0 else counted
    if weight is not None and not self._one.takes_weight:
      raise Refused(
        "rows do not count alike here, and fit of this pipeline has no keyword weight: give it one, or take "
        "pipelines.resampled(pipeline).",
        argument="pipeline",
        value=self._one.setting.pipeline,
        allowed="fit(data, *, seed, workdir, previous=None, weight=None)",
      )
    t, previous = int(context.t), context.previous
    told = [part for piece in pieces for part in (piece.segment.name, _bytes(piece.rows))]
    before = "" if previous is None else previous.name
    name = f"fit-{_steps.digest_of('fit', self._one.codes['fit'], seed, before, _bytes(weight), *told)}"
    folder = self._shared.steps.place(name)
    call = Call("fit", folder, seed, t, pieces, weight, None if previous is None else previous.call.folder)
    model = _Model(name, call, previous)
    with _told(t):
      self._do_fit(model)
    self.models.append(model)
    return model

  def _do_fit(self, model: _Model) -> None:
    call, before = model.call, ""
    if model.previous is not None:
      before = model.previous.name
      if self._shared.steps.done(model.name) is None:
        self._have(model.previous)

    def work(folder: Path) -> Mapping[str, Any]:
      some: dict[str, Any] = {piece.segment.name: piece.rows for piece in call.pieces if piece.rows is not None}
      if some:
        np.savez(folder / _lineage.ROWS, **some)
      return self._shared.perform(self._one, call)

    inputs = [{"rows": piece.segment.name, "num": piece.num, "whole": piece.rows is None} for piece in call.pieces]
    about = {"role": "fit", "generation": call.generation, "seed": call.seed, "previous": before, "inputs": inputs}
    self._shared.steps.run(model.name, about, work)

  def _have(self, model: _Model) -> None:
    """Fits a model again that could not be saved, where it is needed and not in memory."""
    noted = self._shared.steps.done(model.name)
    if noted is not None and not noted["saved"] and not self._shared.has_model(self._one, model.call.folder):
      self._shared.steps.forget(model.name)
      self._do_fit(model)

  def sample(self, seed: int, model: _Model, num: int) -> Data:
    """Rows that a model writes, by their numbers."""
    steps, t = self._shared.steps, model.generation
    name = f"sample-{_steps.digest_of('sample', self._one.codes['sample'], model.name, num, seed)}"
    call = Call("sample", steps.place(name), seed, t, model=model.call.folder, num=num, name=model.name)
    about = {"role": "sample", "generation": t, "seed": seed, "model": model.name}
    with _told(t):
      if steps.done(name) is None:
        self._have(model)
      noted = steps.run(name, about, lambda folder: self._shared.perform(self._one, call))
    model.sampled = Segment(name, steps.place(name) / noted["file"], num, t, model.name, seed)
    start = self._starts[-1] + self._segments[-1].num
    if start + num > LARGEST:
      raise Refused(f"a run may have {LARGEST} rows, and has more at generation {t}: lower num_samples.")
    self._segments.append(model.sampled)
    self._starts.append(start)
    numbers, out = jnp.arange(start, start + num, dtype=jnp.int32), self._shared.withdrawn.get(name)
    return storage.batch(numbers, None if out is None else jnp.ones(num).at[out].set(0.0))

  def evaluate(self, seed: int, model: _Model) -> Metrics:
    """Metrics of a model, and of what was last drawn from it."""
    assert model.sampled is not None
    steps, t, sampled = self._shared.steps, model.generation, model.sampled
    parts = self._one.codes["evaluate"], model.name, sampled.name, self._shared.test_digest, seed
    name = f"evaluate-{_steps.digest_of('evaluate', *parts)}"
    call = Call(
      "evaluate", steps.place(name), seed, t, (Piece(sampled, None),), model=model.call.folder, train=model.call.pieces
    )
    about = {"role": "evaluate", "generation": t, "seed": seed, "model": model.name, "sample": sampled.name}
    with _told(t):
      if steps.done(name) is None:
        self._have(model)
      noted = steps.run(name, about, lambda folder: self._shared.perform(self._one, call))
      found = {metric: np.float64(value) for metric, value in noted["metrics"].items()}
      self._shared.check_names(found)
    model.evaluation = name
    return found


@contextlib.contextmanager
def _told(t: int) -> Iterator[None]:
  """A step that fails ends its run."""
  try:
    yield
  except Failure as error:
    raise Failed(f"generation {t}: {error}") from None


def _bytes(array: np.ndarray | None) -> bytes:
  return b"all" if array is None else array.tobytes()
