"""The driver of everything that JAX traces: a program for each group of cells, chunks of seeds side by side in a few threads."""

import concurrent.futures
import contextlib
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import scipy.linalg  # noqa: F401  JAX's LAPACK: a limit of threads reaches only what is loaded
from threadpoolctl import threadpool_limits

from collapse_jax import interrupts
from collapse_jax.refused import Refused
from collapse_jax.sweeps import devices, fingerprint, programs
from collapse_jax.sweeps.chunks import Chunks
from collapse_jax.sweeps.dataset import progress_bar, too_large
from collapse_jax.sweeps.grid import noted
from collapse_jax.sweeps.job import Job
from collapse_jax.sweeps.programs import Binding, Bound, Program, Traced
from collapse_jax.types import Metrics

__all__ = ["run"]

_Found = list[tuple[int, Metrics]]


def run(job: Job, static_axes: Sequence[str], traced: Mapping[tuple[int, ...], Traced]) -> dict[str, Any]:
  """Computes all cells; attributes of the results.

  Args:
    job: the sweep.
    static_axes: axes whose numbers must not be traced.
    traced: programs that were traced before, by `place` of the first cell of a group.
  """
  return _Scan(job, static_axes, traced).run()


class _Scan:
  def __init__(self, job: Job, static_axes: Sequence[str], traced: Mapping[tuple[int, ...], Traced]):
    self._job, self._programs, self._before = job, list[Program](), dict(traced)
    self._groups = programs.groups(job.grid, job.numbers, static_axes, self._before, job.machine.memory)
    self._firsts = {group[0].cell.index: group[0] for group in self._groups}
    self._traced = functools.cache(self._trace)
    self._named = functools.cache(lambda index: self._traced(index).name)
    self._saved: Chunks | None = None

  def run(self) -> dict[str, Any]:
    job = self._job
    num_runs = sum(map(len, self._groups)) * job.numbers.num_seeds
    self._saved = None if job.saving.directory is None else devices.unanimously(self._open)
    pool = concurrent.futures.ThreadPoolExecutor(job.machine.workers)
    done = int(job.results.done.sum())
    # LAPACK's own threads would only get in the way of these.
    with threadpool_limits(1, "blas"), progress_bar(num_runs, done, job.watch.progress) as bar:
      try:
        self._work(pool, bar)
      finally:  # without waiting for chunks that run: an interrupted sweep abandons them, and they commit nothing
        pool.shutdown(wait=False, cancel_futures=True)
        if self._saved is not None:
          self._saved.close()
    sizes = sorted({program.size for program in self._programs})
    return {
      "num_devices": devices.size(job.machine.mesh),
      "chunk_size": sizes[0] if len(sizes) == 1 else ",".join(map(str, sizes)),
      "compile_seconds": float(sum(program.compile_seconds for program in self._programs)),
      "num_compilations": len(self._programs),
    }

  def _work(self, pool: concurrent.futures.ThreadPoolExecutor, bar: Any) -> None:
    """Compiles and runs what is left."""
    pending: set[concurrent.futures.Future[Any]] = set()
    compiling: dict[concurrent.futures.Future[Any], list[Bound]] = {}
    to_compile = iter(self._groups)

    def compile_next() -> None:  # one at a time per worker, behind the chunks that are ready to run
      group = next(to_compile, None)
      if group is not None:
        future = pool.submit(self._compile, group)
        compiling[future] = group
        pending.add(future)

    for _ in range(self._job.machine.workers):
      compile_next()
    while pending:
      done, pending = concurrent.futures.wait(pending, 1.0, concurrent.futures.FIRST_COMPLETED)
      interrupts.check()
      for future in done:
        if future in compiling:
          group = compiling.pop(future)
          try:
            program = future.result()
          except Refused as error:  # task and workflow do not go together: a fact about the cells, not a crash
            for one in group:
              self._job.grid.refuse(one.cell, error)
            bar.update(len(group) * self._job.numbers.num_seeds)
            group = []
          for one in group:
            parts = [] if program is None else list(self._left(one, program.width))
            pending |= {pool.submit(self._run, program, one, first, num) for first, num in parts}
            if not parts:
              self._job.finished(one.cell)
          compile_next()
        else:
          one, found = future.result()
          bar.update(sum(self._job.results.write(one.cell.index, first, metrics) for first, metrics in found))
          self._job.finished(one.cell)

  def _compile(self, group: list[Bound]) -> Program | None:
    """The program of a group of cells; None where nothing of them is left to do."""
    first, numbers, machine = group[0], self._job.numbers, self._job.machine
    if all(self._job.results.done[one.cell.index].all() for one in group):
      return None
    bind, begun = self._binding(first), time.perf_counter()
    with noted(first.cell):
      traced = self._traced(first.cell.index)
      if traced.bytes_per_run > machine.memory:
        raise too_large("one run", traced.bytes_per_run, machine.memory)
      stops = not numbers.warm_start and programs.can_stop(bind, first.traced)
      name = "" if self._saved is None else self._named(first.cell.index)
      program = Program(bind, numbers, machine.mesh, traced, stops, name, time.perf_counter() - begun)
      share = machine.memory / machine.workers
      runs = machine.workers * devices.size(machine.mesh) * jax.process_count()
      if machine.chunk_size:
        program.compile(min(machine.chunk_size, numbers.num_seeds), first.traced)
      else:
        fits = max(1, min(math.ceil(numbers.num_seeds / runs), int(share / traced.bytes_per_run)))
        program.choose(fits, share, numbers.num_seeds, first.traced)
    self._programs.append(program)
    return program

  def _run(self, program: Program, one: Bound, first: int, num: int) -> tuple[Bound, _Found]:
    found = []
    for at, metrics in program.run(first, num, one.arguments):
      if self._saved is not None:
        self._saved.save(one.cell.index, at, metrics, program.name)
      found.append((at, metrics))
    return one, found

  def _left(self, one: Bound, width: int) -> Iterator[tuple[int, int]]:
    """(first seed, number) of what this process has to do: chunks are dealt in turn, without runs that are committed."""
    results, num_seeds = self._job.results, self._job.numbers.num_seeds
    for first in range(0, num_seeds, width):
      turn = first // width + int(np.ravel_multi_index(one.cell.index, self._job.grid.shape))
      if turn % jax.process_count() == jax.process_index():
        seeds = first + np.flatnonzero(~results.done[one.cell.index][first : first + width])
        parts = np.split(seeds, np.flatnonzero(np.diff(seeds) > 1) + 1)
        yield from ((int(part[0]), len(part)) for part in parts if part.size)

  def _binding(self, one: Bound) -> Binding:
    return Binding(self._job.grid, one.cell.workflow, one.static)

  def _trace(self, index: tuple[int, ...]) -> Traced:
    """Of the program of the group whose first cell this is."""
    first = self._firsts[index]
    if first.place in self._before:
      return self._before.pop(first.place)
    return programs.traced(self._binding(first), first.arguments, self._job.numbers)

  def _open(self) -> Chunks:
    """The folder of finished chunks, of which those that are there go into the results."""
    grid, numbers, saving = self._job.grid, self._job.numbers, self._job.saving
    assert saving.directory is not None
    about = {
      **saving.about,
      "workflows": list(grid.makers),
      "axes": grid.axes,
      **numbers._asdict(),
      **fingerprint.made_with(),
    }
    saved = Chunks(saving.directory, about, saving.resume, jax.process_index(), jax.process_count())
    try:
      for one in saved.saved(self._expected):
        self._job.results.write(one.cell, one.first, one.metrics)
    except BaseException:
      saved.close()
      raise
    return saved

  @functools.cached_property
  def _first_of(self) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Cell -> the first of its group."""
    return {one.cell.index: group[0].cell.index for group in self._groups for one in group}

  def _expected(self, index: tuple[int, ...], first: int, num: int) -> tuple[str | None, dict[str, Any]] | None:
    """What a chunk must be; see `Chunks.saved`."""
    shape = self._job.results.shape
    if len(index) != len(shape) - 2 or any(i >= n for i, n in zip(index, shape)) or first + num > shape[-2]:
      return None
    with contextlib.suppress(Refused):  # what cannot be traced did not compute this
      if index in self._first_of:
        group = self._first_of[index]
        metrics = self._traced(group).metrics
        kinds = {name: ((num, shape[-1], *one.shape[1:]), one.dtype) for name, one in metrics.items()}
        return self._named(group) or None, kinds
    return None, {}
