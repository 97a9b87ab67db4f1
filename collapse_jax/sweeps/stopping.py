"""Runs that end when drift ends: chained blocks of generations, between which absorbed runs leave the batch."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from collapse_jax.generation import prepared, recorded, scan_generations, start
from collapse_jax.random import fold_in, new_key
from collapse_jax.sweeps import devices
from collapse_jax.types import Array, Metrics, PyTree, Run, TaskSetting, Workflow

__all__ = ["Stopping"]

NUM_BLOCKS = 24
NARROWING = 4  # a narrower batch costs a compilation: made when this many times fewer runs are left


class Stopping:
  """A program that runs seeds until they are absorbed, as a plain one would run them to the end.

  After absorption nothing changes, so metrics of the last generation that was run fill the rest.

  Args:
    bind: (traced values) -> task and workflow; the task has `absorbed`, the workflow is `absorbing`.
    num_generations, seed, record_every, mesh: as for `sweep`.
  """

  def __init__(
    self,
    bind: Callable[[Any], tuple[TaskSetting, Workflow]],
    num_generations: int,
    seed: int,
    record_every: int,
    mesh: Mesh | None = None,
  ):
    self._mesh = mesh
    self._bind, self._num_generations, self._record_every, self._seed = bind, num_generations, record_every, seed
    self._size = -(-num_generations // (NUM_BLOCKS * record_every)) * record_every
    inside = [i for i in range(self._size) if (i + 1) % record_every == 0]
    self._kept = np.asarray(inside if record_every == 1 else [0, *inside])
    self._first: dict[int, Any] = {}
    self._programs: dict[int, Any] = {}
    self._lock = threading.Lock()
    self._leaps = False
    self._options: dict[str, Any] | None = None

  def compile(self, width: int, traced: PyTree, options: dict[str, Any] | None = None) -> float:
    """For `width` seeds, so that the time of the first call is the run's own; the bytes that it uses on a device.

    Args:
      width: of seeds.
      traced: values.
      options: of XLA, also for what is compiled later for runs of these that are left.
    """
    index = jax.ShapeDtypeStruct((width,), np.int32)
    self._leaps, self._options = prepared(*self._bind(traced)).leap is not None, options
    jitted = devices.over_runs(self._start, self._mesh, True, False, options=options)
    self._first[width] = jitted.lower(index, traced).compile()
    return devices.bytes_used(self._block(jax.eval_shape(self._start, index, traced), traced))

  def __call__(self, index: Array | np.ndarray, traced: PyTree) -> Metrics:
    """Metrics [seeds, recorded] of the seeds `index`."""
    runs = self._first[len(index)](index, traced)
    lanes, width = np.arange(len(index)), len(index)
    generations = recorded(range(1, self._num_generations + 1), self._record_every)
    place = {t: i for i, t in enumerate(generations)}
    metrics: dict[str, np.ndarray] = {}
    last = np.zeros(width, int)
    for begin in range(1, self._num_generations + 1, self._size):
      runs, block = self._block(runs, traced)(runs, jnp.int32(begin), traced)
      gone = np.asarray(runs.absorbed_at)[: len(lanes)] > 0
      inside = [(i, place[begin + k]) for i, k in enumerate(self._kept) if begin + k in place]
      if inside:
        here, there = (list(x) for x in zip(*inside))
        for name, value in block.items():
          value = np.asarray(value)
          every = metrics.setdefault(name, np.zeros((width, len(generations), *value.shape[2:]), value.dtype))
          every[lanes[:, None], there] = value[: len(lanes), here]
        last[lanes] = there[-1]
      if gone.all():
        break
      if self._leaps:  # as long as the longest run, however many there are
        continue
      left = np.flatnonzero(~gone)
      together = devices.size(self._mesh)
      narrow = -(-len(runs.absorbed_at) // (NARROWING * together)) * together
      if len(left) <= narrow < len(runs.absorbed_at):
        runs = devices.place(_take(runs, jnp.asarray(np.resize(left, narrow))), self._mesh)
        lanes = lanes[left]
    for lane, end in enumerate(last):
      for value in metrics.values():
        value[lane, end + 1 :] = value[lane, end]
    return metrics

  def _start(self, index: Array, traced: PyTree) -> Run:
    task, workflow = self._bind(traced)
    one = lambda i: start(fold_in(new_key(self._seed), i), task, workflow, self._num_generations)
    return jax.vmap(one)(index)

  def _block(self, runs: Run, traced: PyTree) -> Any:
    """The program of one block for as many runs as these."""
    width = len(runs.absorbed_at)
    with self._lock:
      if width not in self._programs:
        jitted = devices.over_runs(self._advance, self._mesh, True, False, False, options=self._options)
        self._programs[width] = jitted.lower(runs, jax.ShapeDtypeStruct((), jnp.int32), traced).compile()
      return self._programs[width]

  def _advance(self, runs: Run, begin: Array, traced: PyTree) -> tuple[Run, Metrics]:
    task, workflow = self._bind(traced)

    def one(run: Run) -> tuple[Run, Metrics]:
      run, metrics = scan_generations(
        task,
        workflow,
        run,
        begin + jnp.arange(self._size),
        self._kept,
        record_every=self._record_every,
        num_generations=self._num_generations,
      )
      return run, metrics.metrics()

    return jax.vmap(one)(runs)


@jax.jit
def _take(runs: Run, index: Array) -> Run:
  taken: Run = jax.tree.map(lambda x: x[index], runs)
  return taken
