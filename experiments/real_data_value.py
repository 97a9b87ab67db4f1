"""What real rows are worth beside synthetic ones: their number against their share (Kazdan et al. 2410.16713, section 4).

  python -m experiments.real_data_value --num_real=0,64,256 --num_synthetic=0,64,256

A generator is fitted to real rows and writes synthetic ones; the base is then fitted to num_real rows of the first kind and
num_synthetic of the second, once for each cell. Results have the dims num_real, num_synthetic and seed. About 100 seconds on
2 cores. Expected: test loss falls with num_real in every column, and synthetic rows of `tiny` do not make up for real ones.
"""

import time

from absl import flags

from collapse_jax.refused import Refused

from . import common, flag_values, language_model


def define():
  """Flags of this binary."""
  language_model.define_model(num_samples=False)
  flags.DEFINE_string("num_real", "0,32,128,512", "Comma list: real rows.")
  flags.DEFINE_string("num_synthetic", "0,32,128,512", "Comma list: synthetic rows.")
  flags.DEFINE_string("num_generator", "auto", "Real rows that the generator is fitted to; auto: the largest num_real.")
  flags.DEFINE_string("num_seeds", "3", "Runs.")
  flag_values.define_shared()


def simulate(
  num_real,
  num_synthetic,
  num_generator=0,
  *,
  num_seeds=3,
  seed=0,
  model="tiny",
  dataset="pydocs",
  mode="finetune",
  max_seq_len=64,
  recipe=None,
  lora_rank=0,
  lora_targets=(),
  dtype="float32",
  remat=False,
  sample_batch_size=0,
  max_test_rows=256,
  chunk_size=0,
  directory=None,
):
  """One fit for each cell and seed; a Dataset, or None after a dry run.

  Args:
    directory: for the metrics of finished cells; None: they are not written.
  """
  begun = time.perf_counter()
  rows, made = max(num_real), max(num_synthetic)
  generator = num_generator or rows
  if generator < 2:
    raise Refused("--num_generator must be at least 2: synthetic rows come from a model of that many real ones.")
  base = language_model.load_model(model, dtype, dataset, abstract=flag_values.dry_run())
  import jax
  import jax.numpy as jnp
  import numpy as np
  import xarray

  import collapse_jax
  from collapse_jax import tasks
  from collapse_jax.diagnostics import findings
  from collapse_jax.lm import training
  from collapse_jax.lm.checkpoint import num_params
  from collapse_jax.random import new_key
  from collapse_jax.sweeps import devices, fingerprint
  from collapse_jax.sweeps.chunks import Chunks
  from collapse_jax.sweeps.cost import Clock
  from collapse_jax.types import Context, Data

  recipe = training.Recipe(**(recipe or {name: language_model.TINY[name] for name in ("learning_rate", "batch_size")}))
  train, test, about = language_model.load_rows(base, dataset, max_seq_len, max_test_rows, mode != "pretrain", model)
  plain = about["format"] == language_model.PLAIN
  for name, value in (("num_real", rows), ("num_generator", generator)):
    if value > len(train.length):
      raise Refused(f"--{name}={value} asks for more real rows than there are: {len(train.length)}.")
  num_cells = len(num_real) * len(num_synthetic)
  if flag_values.dry_run():
    print(
      f"cells: {num_cells}\nfits: {(num_cells + 1) * num_seeds}\nmodel: {num_params(base.params):,} parameters, {dtype}"
      f"\nrows: {len(train.length)} for training, {len(test.length)} for test"
    )
    return None
  adapters = tasks.Adapters(lora_rank, 2.0 * lora_rank, tuple(lora_targets)) if lora_rank else None

  def task(params, num):
    return tasks.language_model(
      base._replace(params=params),
      train,
      test,
      num,
      recipe=recipe,
      adapters=adapters,
      remat=remat,
      pretrain=mode == "pretrain",
      plain_text=plain,
      sample_batch_size=sample_batch_size or None,
    )

  def begin(params, key):
    """Real rows, synthetic rows and how many of these could not be had."""
    real_key, fit_key, sample_key, evaluate_key = jax.random.split(key, 4)
    first = task(params, max(generator, rows, 2))
    problem, real = first.init(real_key)
    weight = (jnp.arange(real.row_weight.shape[1]) < generator).astype(jnp.float32)[None]
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
    one = task(params, 2)
    fitted = one.fit(key, problem, Context(1, 2, data, real))
    metrics = one.evaluate(jax.random.fold_in(key, 2), problem, fitted)
    return {name: metrics[name] for name in ("test_loss", "num_steps", "num_tokens")}

  cells = {(i, j): (r, f) for i, r in enumerate(num_real) for j, f in enumerate(num_synthetic)}
  begin = jax.jit(jax.vmap(begin, (None, 0)))
  cell = jax.jit(jax.vmap(cell, (None, 0, 0, 0, 0, None, None)))
  small = num_params(base.params) < 5_000_000 or lora_rank
  chunk = min(chunk_size or (num_seeds if small else 1), num_seeds)
  starts = range(0, num_seeds, chunk)
  keys_of = jax.vmap(lambda i: jax.random.fold_in(new_key(seed), i))
  saved, grid, program = None, {}, ""
  if directory is not None:
    what = {
      "num_real": num_real,
      "num_synthetic": num_synthetic,
      "num_generator": generator,
      "num_seeds": num_seeds,
      "seed": seed,
      "chunk_size": chunk,
      "recipe": recipe,
      "mode": mode,
      "lora_rank": lora_rank,
      "lora_targets": lora_targets,
      "dtype": dtype,
      "jax": jax.__version__,
      "collapse_jax": collapse_jax.__version__,
    }
    keys = keys_of(jnp.arange(chunk))
    traces = [begin.trace(base.params, keys)]
    problem, real, synthetic, _, loss = traces[0].out_info
    traces.append(cell.trace(base.params, keys, problem, real, synthetic, 0, 0))
    program = fingerprint.of(*(one.jaxpr for one in traces))
    kinds = {name: value.dtype for name, value in (traces[1].out_info | {"generator_test_loss": loss}).items()}

    def expected(index, first, num):
      ours = index in cells and first in starts and num == min(chunk, num_seeds - first)
      return (program, {name: ((num,), dtype) for name, dtype in kinds.items()}) if ours else None

    saved = Chunks(directory, what | about | fingerprint.settings(), flag_values.flag("resume", False))
    grid = {(one.cell, one.first): one.metrics for one in saved.saved(expected)}
  clock = Clock(sum((index, start) not in grid for index in cells for start in starts))
  for start in starts:
    seeds = jnp.arange(start, min(start + chunk, num_seeds))
    left = [index for index in cells if (index, start) not in grid]
    if not left:
      continue
    keys = keys_of(seeds)
    clock.start()
    problem, real, synthetic, missing, loss = clock.call(begin, base.params, keys)
    if made and int(missing.max()):
      wanted = "text that ends" if plain else "the format"
      raise Refused(f"the generator does not produce {wanted}: {int(missing.max())} synthetic rows are missing.")
    for index in left:
      r, f = cells[index]
      metrics = clock.call(cell, base.params, keys, problem, real, synthetic, r, f) | {"generator_test_loss": loss}
      metrics = grid[index, start] = jax.tree.map(np.asarray, metrics)
      if saved is not None:
        saved.save(index, start, metrics, program)
      print(
        f"  {r} real, {f} synthetic, seeds {start} to {start + len(seeds) - 1}: test loss "
        f"{metrics['test_loss'].mean():.4f}, {clock.step()}",
        flush=True,
      )
      clock.start()
  if saved is not None:
    saved.close()
  units = {
    "test_loss": ("cross entropy of held-out real text", "nats per token"),
    "num_steps": ("optimiser steps", "steps"),
    "num_tokens": ("tokens trained on", "tokens"),
  }
  joined = lambda name: np.stack(
    [np.concatenate([grid[index, start][name] for start in starts]) for index in cells]
  ).reshape(len(num_real), len(num_synthetic), num_seeds)
  variables = {
    name: (("num_real", "num_synthetic", "seed"), joined(name), {"long_name": one[0], "units": one[1]})
    for name, one in units.items()
  }
  results = xarray.Dataset(
    variables, {"num_real": list(num_real), "num_synthetic": list(num_synthetic), "seed": np.arange(num_seeds)}
  )
  results.attrs = (
    about
    | {
      "package_version": collapse_jax.__version__,
      "jax_version": jax.__version__,
      "device": devices.name(),
      "seed": seed,
      "task": "real_data_value",
      "mode": mode,
      "budget": f"{recipe.amount:g} {recipe.budget}",
      "num_generator": generator,
      "generator_test_loss": float(joined("generator_test_loss").mean()),
      "num_runs": num_cells * num_seeds,
      "num_compilations": clock.num_compilations,
      "wall_seconds": time.perf_counter() - begun,
    }
    | fingerprint.settings()
  )
  results.attrs["finding"] = findings.of_data_value(results)
  print(results.attrs["finding"])
  return results


def read():
  """Options of `simulate`, from validated flags."""
  flag = flag_values.FLAGS
  recipe, options = language_model.recipe_of_flags()
  options |= {
    "num_real": flag_values.integers("num_real", 0),
    "num_synthetic": flag_values.integers("num_synthetic", 0),
    "num_generator": 0 if flag.num_generator == "auto" else flag_values.integer("num_generator", 2),
    "num_seeds": flag_values.integer("num_seeds"),
    "seed": flag_values.integer("seed", 0),
    "chunk_size": flag_values.integer("chunk_size", 0),
  }
  for name in ("num_real", "num_synthetic"):
    if len(set(options[name])) < len(options[name]):
      raise Refused(f"--{name} names a value twice: {getattr(flag, name)}.")
  if flag.distributed or flag.devices not in ("auto", "1"):
    raise Refused("--devices and --distributed are not for this experiment: its runs share one device.")
  language_model.check_dataset(flag.dataset)
  return options | {"recipe": recipe}


def main():
  common.simulate_and_write("results/real_data_value", simulate, read(), compared=["chunk_size"])


if __name__ == "__main__":
  common.main(define, main)
