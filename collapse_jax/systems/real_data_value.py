"""What real rows are worth beside synthetic ones: their number against their share (Kazdan et al. 2410.16713, section 4)."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from collapse_jax import vocabulary
from collapse_jax.diagnostics import findings
from collapse_jax.lm.checkpoint import num_params
from collapse_jax.random import new_key
from collapse_jax.refused import Refused
from collapse_jax.sweeps import devices, fingerprint
from collapse_jax.sweeps.chunks import Chunks
from collapse_jax.sweeps.cost import Clock
from collapse_jax.systems.language_setting import Setting as Setting
from collapse_jax.types import Context, Data

__all__ = ["Setting", "plan", "simulate"]

_METRICS = {
  "test_loss": ("cross entropy of held-out real text", "nats per token"),
  "num_steps": ("optimiser steps", "steps"),
  "num_tokens": ("tokens trained on", "tokens"),
}


def simulate(
  setting: Setting,
  num_real: Sequence[int],
  num_synthetic: Sequence[int],
  num_generator: int = 0,
  *,
  num_seeds: int = 3,
  seed: int = 0,
  chunk_size: int = 0,
  directory: Any = None,
  resume: bool = False,
  progress: bool = False,
) -> xarray.Dataset:
  """One fit for each cell and seed: the base, fitted to so many real rows and so many that a generator wrote.

  Args:
    setting: which model is trained how, on which text.
    num_real, num_synthetic: rows of either kind.
    num_generator: real rows that the generator is fitted to; 0: the largest of num_real.
    num_seeds: runs.
    seed: of all keys.
    chunk_size: seeds in one program; 0: all of a small model or of adapters, else 1.
    directory: for the metrics of finished cells; None: they are not written.
    resume: go on from what is there.
    progress: print a line for each fit.
  Returns:
    a Dataset with dims num_real, num_synthetic and seed.
  Raises:
    Refused: more real rows than there are, a generator that does not produce the format, chunks of another experiment.
  """
  begun, generator = time.perf_counter(), num_generator or max(num_real)
  _check_rows(setting, num_real, generator)
  begin, cell = (jax.jit(jax.vmap(*one)) for one in _programs(setting, num_real, num_synthetic, generator))
  cells = {(i, j): (r, f) for i, r in enumerate(num_real) for j, f in enumerate(num_synthetic)}
  chunk, params = setting.at_once(num_seeds, chunk_size), setting.model.params
  starts = range(0, num_seeds, chunk)
  keys_of = jax.vmap(lambda i: jax.random.fold_in(new_key(seed), i))
  about = setting.about()
  version = _version()
  saved, grid, program = None, {}, ""
  if directory is not None:
    what = {
      "num_real": num_real,
      "num_synthetic": num_synthetic,
      "num_generator": generator,
      "num_seeds": num_seeds,
      "seed": seed,
      "chunk_size": chunk,
      "recipe": setting.recipe,
      "mode": setting.mode,
      "lora_rank": setting.adapters.rank if setting.adapters else 0,
      "lora_targets": setting.adapters.targets if setting.adapters else (),
      "dtype": setting.dtype,
      "jax": jax.__version__,
      "collapse_jax": version,
    }
    keys = keys_of(jnp.arange(chunk))
    traces = [begin.trace(params, keys)]
    problem, real, synthetic, _, loss = traces[0].out_info
    traces.append(cell.trace(params, keys, problem, real, synthetic, 0, 0))
    program = fingerprint.of(*(one.jaxpr for one in traces))
    kinds = {name: value.dtype for name, value in (traces[1].out_info | {"generator_test_loss": loss}).items()}

    def expected(index, first, num):
      ours = index in cells and first in starts and num == min(chunk, num_seeds - first)
      return (program, {name: ((num,), dtype) for name, dtype in kinds.items()}) if ours else None

    saved = Chunks(directory, what | about | fingerprint.settings(), resume)
    grid = {(one.cell, one.first): one.metrics for one in saved.saved(expected)}
  clock = Clock(sum((index, start) not in grid for index in cells for start in starts))
  for start in starts:
    seeds = jnp.arange(start, min(start + chunk, num_seeds))
    left = [index for index in cells if (index, start) not in grid]
    if not left:
      continue
    keys = keys_of(seeds)
    clock.start()
    problem, real, synthetic, missing, loss = clock.call(begin, params, keys)
    if max(num_synthetic) and int(missing.max()):
      wanted = "text that ends" if setting.texts.plain else "the format"
      raise Refused(f"the generator does not produce {wanted}: {int(missing.max())} synthetic rows are missing.")
    for index in left:
      r, f = cells[index]
      metrics = clock.call(cell, params, keys, problem, real, synthetic, r, f) | {"generator_test_loss": loss}
      metrics = grid[index, start] = jax.tree.map(np.asarray, metrics)
      if saved is not None:
        saved.save(index, start, metrics, program)
      said = f"{r} real, {f} synthetic, seeds {start} to {start + len(seeds) - 1}: test loss {metrics['test_loss'].mean():.4f}"
      step = clock.step()
      if progress:
        print(f"  {said}, {step}", flush=True)
      clock.start()
  if saved is not None:
    saved.close()
  joined = lambda name: np.stack(
    [np.concatenate([grid[index, start][name] for start in starts]) for index in cells]
  ).reshape(len(num_real), len(num_synthetic), num_seeds)
  variables = {
    name: (("num_real", "num_synthetic", "seed"), joined(name), {"long_name": long_name, "units": units})
    for name, (long_name, units) in _METRICS.items()
  }
  results = xarray.Dataset(
    variables, {"num_real": list(num_real), "num_synthetic": list(num_synthetic), "seed": np.arange(num_seeds)}
  )
  results.attrs = (
    about
    | {
      "package_version": version,
      "jax_version": jax.__version__,
      "device": devices.name(),
      "seed": seed,
      "task": "real_data_value",
      "mode": setting.mode,
      "budget": f"{setting.recipe.amount:g} {setting.recipe.budget}",
      "num_generator": generator,
      "generator_test_loss": float(joined("generator_test_loss").mean()),
      "num_runs": len(cells) * num_seeds,
      "num_compilations": clock.num_compilations,
      "wall_seconds": time.perf_counter() - begun,
    }
    | fingerprint.settings()
  )
  results.attrs["finding"] = findings.of_data_value(results)
  return results


def plan(
  setting: Setting, num_real: Sequence[int], num_synthetic: Sequence[int], num_generator: int = 0, *, num_seeds: int = 3
) -> str:
  """What `simulate` would do, in lines.

  Args:
    setting: as of `simulate`; of the base, shapes suffice (`presets.build(..., abstract=True)`).
    num_real, num_synthetic, num_generator, num_seeds: as of `simulate`.
  """
  _check_rows(setting, num_real, num_generator or max(num_real))
  num_cells, about = len(num_real) * len(num_synthetic), setting.texts.about
  return (
    f"cells: {num_cells}\nfits: {(num_cells + 1) * num_seeds}\n"
    f"model: {num_params(setting.model.params):,} parameters, {setting.dtype}\n"
    f"rows: {about['num_train_rows']} for training, {about['num_test_rows']} for test"
  )


def _version() -> str:
  import collapse_jax

  return collapse_jax.__version__


def _check_rows(setting: Setting, num_real: Sequence[int], generator: int) -> None:
  vocabulary.check_num_generator(generator)
  there = len(setting.texts.train.length)
  for name, value in (("num_real", max(num_real)), ("num_generator", generator)):
    if value > there:
      raise Refused(f"{name}={value} asks for more real rows than there are: {there}.", argument=name, value=value)


def _programs(setting: Setting, num_real: Sequence[int], num_synthetic: Sequence[int], generator: int):
  """(begin, cell), each with the axes over which it is mapped: what the cells of a run share, and the fit of one."""
  rows, made = max(num_real), max(num_synthetic)

  def begin(params, key):
    """Real rows, synthetic rows and how many of these could not be had."""
    real_key, fit_key, sample_key, evaluate_key = jax.random.split(key, 4)
    num = max(generator, rows, 2)
    first = setting.task(params, num, measure="few")
    problem, real = first.init(real_key)
    weight = (jnp.arange(num) < generator).astype(jnp.float32)[None]
    context = Context(1, max(made, 1), real._replace(row_weight=weight), real)
    fitted = first.fit(fit_key, problem, context)
    synthetic, metrics = first.sample(sample_key, problem, fitted, context)
    loss = first.evaluate(evaluate_key, problem, fitted)["test_loss"]
    return problem, real, synthetic, metrics["num_missing"], loss

  def cell(params, key, problem, real, synthetic, num_real, num_synthetic):
    def join(a, b):
      return jnp.concatenate([a, b], axis=1)

    size = real.row_weight.shape[1]
    weight = join(
      (jnp.arange(size) < num_real).astype(jnp.float32)[None],
      synthetic.row_weight * (jnp.arange(synthetic.row_weight.shape[1]) < num_synthetic)[None],
    )
    data = Data(
      jax.tree.map(join, real.rows, synthetic.rows),
      weight,
      jnp.sum(weight, axis=1),
      jnp.ones(1),
      jnp.zeros(1, jnp.int32),
    )
    one = setting.task(params, 2, measure="few")
    fitted = one.fit(key, problem, Context(1, 2, data, real))
    metrics = one.evaluate(jax.random.fold_in(key, 2), problem, fitted)
    return {name: metrics[name] for name in _METRICS}

  return (begin, (None, 0)), (cell, (None, 0, 0, 0, 0, None, None))
