"""What an accelerator gives, in one command: its limits, cells of the paper, large sweeps, language models.

  python -m benchmarks.accelerator --output_dir=DIR [--minutes=9] [--only=limits,cell] [--small]

Each part is a process of its own and leaves DIR/PART.json; a part that is there is not run again, so that a run that was cut
off, or had no time left, goes on where it stopped. Parts run in order of what they tell; those of cells run on the CPU of the same
machine too, last. Prints what it has as tables for docs/benchmarks.md; --minutes=0 prints only. --small is for trying it out.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

PART_SECONDS = 150  # longest part: compiling and running


def best(call: Callable[[], Any], times: int = 3) -> float:
  """Seconds of the fastest call, after one that compiles."""
  import jax

  from benchmarks.language_model import timed

  finished = lambda: jax.block_until_ready(call())
  finished()
  return min(timed(finished) for _ in range(times))


def device() -> str:
  import jax

  return jax.devices()[0].device_kind


# ------------------------------------------------------------------------------------------------------------ limits
def limits(small: bool) -> dict[str, Any]:
  """Bytes, exponentials, normal draws and matrix products a second that plain kernels reach."""
  import jax
  import jax.numpy as jnp

  size = 1 << 20 if small else 1 << 28
  x = jnp.ones(size, jnp.float32)
  add = jax.jit(lambda x: x + 1)
  chain = jax.jit(lambda x: jax.lax.fori_loop(0, 100, lambda _, y: jnp.exp(-y), x))
  part = x[: size // 64]
  normal = jax.jit(lambda key: jax.random.normal(key, (size // 4,)))
  found = {
    "bytes": 2 * x.nbytes / best(lambda: add(x)),
    "exp": 100 * part.size / best(lambda: chain(part)),
    "normal": size // 4 / best(lambda: normal(jax.random.key(0))),
  }
  return found | {f"flop_{dtype}": products(dtype, small) for dtype in ("bfloat16", "float32")}


def products(dtype: str, small: bool) -> float:
  """Flop a second of products of square matrices, the peak that training steps are held against."""
  import jax

  side, repeats = (256, 2) if small else (8192, 20)
  square = jax.random.normal(jax.random.key(0), (side, side), dtype)
  product = jax.jit(lambda x: jax.lax.fori_loop(0, repeats, lambda _, y: (y @ x) * (side**-0.5), x))
  return 2 * side**3 * repeats / best(lambda: product(square))


# ------------------------------------------------------------------------------------------------------------- cells
class Cell(NamedTuple):
  """A cell of the paper: what is swept, and the least work of one generation of one run, of the kinds of `limits`."""

  task: Callable[..., Any]
  workflow: str
  values: dict[str, Any]
  num_generations: int
  num_seeds: int  # on an accelerator; a CPU gets num_seeds // 16
  work: dict[str, float]


def cells() -> dict[str, Cell]:
  from collapse_jax import tasks

  rows = functools.partial(tasks.gaussian, draws="rows")
  return {
    "gaussian_law": Cell(
      tasks.gaussian, "replace", {"dim": 100, "num_samples": 1000}, 100, 4096, {"normal": 100 * 101 / 2}
    ),
    "gaussian_rows": Cell(
      rows,
      "accumulate_subsample",
      {"dim": 100, "num_samples": 1000},
      100,
      512,
      {"normal": 1e5, "flop_float32": 2 * 2 * 1e7, "bytes": 8e5},
    ),
    "kde_replace": Cell(
      tasks.kde, "replace", {"dataset": "moons", "num_samples": 1000, "bandwidth": 0.5}, 100, 1024, {"exp": 5e5}
    ),
    "kde_long": Cell(
      tasks.kde, "accumulate", {"dataset": "moons", "num_samples": 1000, "bandwidth": 0.5}, 1000, 256, {"exp": 5e5}
    ),
    "regression": Cell(
      tasks.linear_regression,
      "accumulate",
      {"dim": 100, "num_samples": 1000},
      100,
      4096,
      {"normal": 1000, "flop_float32": 2e5},
    ),
    "discrete": Cell(
      tasks.discrete, "replace", {"num_outcomes": 1000, "num_samples": 1000}, 1000, 4096, {"bytes": 8e3}
    ),
    "gaussian_million_runs": Cell(
      tasks.gaussian, "accumulate", {"dim": 3, "num_samples": 100}, 100, 1 << 20, {"normal": 9}
    ),
    "gaussian_billion_rows": Cell(
      tasks.gaussian, "accumulate", {"dim": 10, "num_samples": 1_000_000_000}, 1000, 1 << 14, {"normal": 65}
    ),
  }


def cell(name: str, small: bool) -> dict[str, Any]:
  """Generations a second of all runs together, through `cj.sweep`, compilation apart."""
  import jax

  from benchmarks.sweeps import sweep

  one = cells()[name]
  on_cpu = jax.devices()[0].platform == "cpu"
  num_seeds = 4 if small else max(1, one.num_seeds // 16) if on_cpu else one.num_seeds
  num_generations = 3 if small else one.num_generations
  results, seconds = sweep((one.task, one.workflow, one.values, num_generations, num_seeds))
  status = results.cell_status.values.item()
  if status != "ok":
    raise SystemExit(f"{name}: {status}")
  return {
    "runs": num_seeds,
    "generations": num_generations,
    "seconds": seconds,
    "compile_seconds": float(results.compile_seconds),
    "finite": float(results.finite.mean()),
    "rate": num_seeds * num_generations / seconds,
  }


# --------------------------------------------------------------------------------------------------- language models
def configuration(name: str, small: bool):
  """Of SmolLM2-135M, or of Llama 3.2 1B."""
  import transformers

  if small:
    wide, between, layers, heads, shared, words = 64, 96, 2, 4, 2, 256
  elif name == "135M":
    wide, between, layers, heads, shared, words = 576, 1536, 30, 9, 3, 49152
  else:
    wide, between, layers, heads, shared, words = 2048, 8192, 16, 32, 8, 128256
  return transformers.LlamaConfig(
    hidden_size=wide,
    intermediate_size=between,
    num_hidden_layers=layers,
    num_attention_heads=heads,
    num_key_value_heads=shared,
    vocab_size=words,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
  )


def training_step(name: str, small: bool) -> dict[str, Any]:
  """Full fine-tuning in bfloat16, against the peak of matrix products measured in the same process."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from benchmarks.language_model import fitting
  from collapse_jax import lm
  from collapse_jax.lm import checkpoint, training

  config = configuration(name, small)
  rows, length = (2, 16) if small else (64, 512) if name == "135M" else (16, 512)
  model = lm.random(config, jax.random.key(0), jnp.bfloat16)
  tokens = np.random.default_rng(0).integers(0, config.vocab_size, (rows, length)).astype(np.int32)
  recipes = (training.Recipe(learning_rate=1e-5, budget="steps", amount=steps, batch_size=rows) for steps in (3, 13))
  few, many = (best(fitting(model, recipe, tokens, jnp.bfloat16)) for recipe in recipes)
  seconds = (many - few) / 10
  attention = 6 * config.num_hidden_layers * config.hidden_size * length  # forward and backward, half of it masked
  work = rows * length * (6 * checkpoint.num_params(model.params) + attention)
  peak = products("bfloat16", small)
  stats = jax.devices()[0].memory_stats() or {}
  return {
    "rows": rows,
    "length": length,
    "seconds": seconds,
    "flop": work / seconds,
    "peak": peak,
    "share": work / seconds / peak,
    "peak_bytes": stats.get("peak_bytes_in_use"),
  }


def sampling(small: bool) -> dict[str, Any]:
  """Tokens a second of SmolLM2's shape in bfloat16, beside transformers on the same device."""
  import tempfile

  import jax
  import jax.numpy as jnp

  from collapse_jax import lm
  from collapse_jax.lm import checkpoint
  from collapse_jax.lm.sampling import generate

  config = configuration("135M", small)
  model = lm.random(config, jax.random.key(0), jnp.bfloat16)
  sequences, new = (4, 8) if small else (256, 256)
  functions = checkpoint.functions_of(config, model.params)
  keys = jax.random.split(jax.random.key(0), sequences)
  run = jax.jit(lambda params, keys: generate(keys, functions, params, new + 1, 1, -1))
  ours = sequences * new / best(lambda: run(model.params, keys))
  found = {"sequences": sequences, "new_tokens": new, "tokens_per_second": ours}
  with tempfile.TemporaryDirectory() as directory:
    lm.save(model, directory)
    command = [sys.executable, "-m", "benchmarks.accelerator", "--theirs", directory, str(sequences), str(new)]
    try:
      theirs = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:  # nothing is left running, and what is ours is kept
      return found | {"theirs": None, "why": "not finished in 60 s"}
  if theirs.returncode:
    return found | {"theirs": None, "why": theirs.stderr.strip().splitlines()[-1:]}
  return found | {"theirs": float(theirs.stdout.split()[-1])}


def theirs(directory: str, sequences: int, new: int) -> None:
  """Tokens a second of transformers on PyTorch, for `sampling`."""
  import torch
  import transformers

  from benchmarks.language_model import timed

  where = "cuda" if torch.cuda.is_available() else "cpu"
  model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).to(where).eval()
  begin = torch.ones((sequences, 1), dtype=torch.long, device=where)

  def run():
    with torch.no_grad():
      options = {"do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": 0}
      model.generate(begin, attention_mask=torch.ones_like(begin), max_new_tokens=new, min_new_tokens=new, **options)
    if where == "cuda":
      torch.cuda.synchronize()

  run()
  print(sequences * new / timed(run))


def seeds(small: bool) -> dict[str, Any]:
  """Fine-tuning `tiny`: eight seeds under vmap beside one."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  import transformers

  from collapse_jax import lm
  from collapse_jax.lm import tiny, training

  config = transformers.LlamaConfig(vocab_size=tiny.VOCAB_SIZE, bos_token_id=1, eos_token_id=2, **tiny.SHAPE)
  model = lm.random(config, jax.random.key(0))
  rows, length = (16, 16) if small else (256, 64)
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, tiny.VOCAB_SIZE, (rows, length)), jnp.int32)
  full, ones = jnp.full(rows, length), jnp.ones(rows)
  recipe = tiny.RECIPE._replace(amount=1.0 if small else 4.0)
  no_curve = lambda weights: jnp.zeros(())

  def weights(key):
    return training.fit(key, model.apply, recipe, model.params, tokens, full, ones, no_curve, curve_points=1).weights

  run = jax.jit(lambda keys: jax.vmap(weights)(keys))
  one, eight = (best(lambda n=n: run(jax.random.split(jax.random.key(0), n))) for n in (1, 8))
  return {"one": one, "eight": eight, "ratio": eight / one}


# ------------------------------------------------------------------------------------------------------------- parts
def parts() -> dict[str, tuple[Callable[[bool], dict[str, Any]], bool]]:
  """Name -> (what is measured, whether on the CPU), in order of what they tell."""
  of_cells = {f"cell_{name}": functools.partial(cell, name) for name in cells()}
  first = ("cell_gaussian_law", "cell_kde_replace")
  return {
    "limits": (limits, False),
    **{name: (of_cells[name], False) for name in first},
    "step_135M": (functools.partial(training_step, "135M"), False),
    "sampling": (sampling, False),
    "seeds": (seeds, False),
    "step_1B": (functools.partial(training_step, "1B"), False),
    **{name: (run, False) for name, run in of_cells.items() if name not in first},
    **{f"cpu_{name}": (run, True) for name, run in of_cells.items()},
  }


def run_parts(directory: Path, minutes: float, only: list[str], small: bool) -> None:
  """Runs what is missing while there is time; a part that fails leaves its last line in PART.failed."""
  begun = time.monotonic()
  for name, (_, on_cpu) in parts().items():
    left = 60 * minutes - (time.monotonic() - begun)
    file = directory / f"{name}.json"
    if file.exists() or (only and not any(name.startswith(one) for one in only)):
      continue
    if left < 20:
      print(f"{name}: no time left", flush=True)
      continue
    environment = os.environ | ({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""} if on_cpu else {})
    command = [sys.executable, "-m", "benchmarks.accelerator", f"--part={name}", *(["--small"] if small else [])]
    try:
      done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=min(left, PART_SECONDS))
      why = done.stderr if done.returncode else ""
    except subprocess.TimeoutExpired:
      why = f"not finished in {min(left, PART_SECONDS):.0f} s"
    if why:
      (directory / f"{name}.failed").write_text(why)
      print(f"{name}: {why.strip().splitlines()[-1]}", flush=True)
      continue
    part = file.with_suffix(".part")
    part.write_text(done.stdout.strip().splitlines()[-1] + "\n")
    part.rename(file)
    (directory / f"{name}.failed").unlink(missing_ok=True)
    print(f"{name}: {file.read_text().strip()}", flush=True)


# ------------------------------------------------------------------------------------------------------------ tables
def tables(directory: Path) -> str:
  """Markdown of all parts that are there."""
  found = {file.stem: json.loads(file.read_text()) for file in sorted(directory.glob("*.json"))}
  lines = [f"Measured on {', '.join(sorted({one['device'] for one in found.values()}))}.", ""]
  top = found.get("limits", {})
  if top:
    lines += ["| limit | reached a second |", "| --- | --- |"]
    lines += [f"| {name} | {top[name]:.3g} |" for name in top if isinstance(top[name], float)] + [""]
  names = [name for name in cells() if f"cell_{name}" in found]
  if names:
    lines += [
      "| cell | runs x generations | generations a second | on the CPU | ratio | share of the limit | compile |"
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
  for name in names:
    one, cpu = found[f"cell_{name}"], found.get(f"cpu_cell_{name}")
    shares = {kind: one["rate"] * work / top[kind] for kind, work in cells()[name].work.items() if kind in top}
    kind = max(shares, key=lambda kind: shares[kind], default="")
    lines.append(
      f"| {name} | {one['runs']} x {one['generations']} | {one['rate']:.3g} | {cpu['rate']:.3g} | {one['rate'] / cpu['rate']:.3g} "
      if cpu
      else f"| {name} | {one['runs']} x {one['generations']} | {one['rate']:.3g} | - | - "
    )
    lines[-1] += f"| {f'{shares[kind]:.0%} of {kind}' if kind else '-'} | {one['compile_seconds']:.1f} s |"
  for name in ("step_135M", "step_1B"):
    if name in found:
      one = found[name]
      lines += [
        "",
        f"A bfloat16 training step of {name[5:]}, {one['rows']} x {one['length']} tokens: {one['seconds'] * 1e3:.0f} ms, "
        f"{one['flop'] / 1e12:.3g} of {one['peak'] / 1e12:.3g} Tflop/s, {one['share']:.0%}.",
      ]
  if "sampling" in found:
    one = found["sampling"]
    other = "could not run" if one["theirs"] is None else f"{one['theirs']:.0f}"
    lines += [
      "",
      f"Sampling tokens a second: {one['tokens_per_second']:.0f}; transformers on the same device: {other}.",
    ]
  if "seeds" in found:
    one = found["seeds"]
    lines += ["", f"Eight seeds of `tiny` beside one: {one['eight']:.2f} s and {one['one']:.2f} s, {one['ratio']:.2f}."]
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--output_dir", type=Path)
  parser.add_argument("--minutes", type=float, default=9.0, help="in all; no part is begun with less than 20 s left")
  parser.add_argument("--only", default="", help="beginnings of names of parts")
  parser.add_argument("--small", action="store_true", help="sizes of a test")
  parser.add_argument("--part", help=argparse.SUPPRESS)
  parser.add_argument("--theirs", nargs=3, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.theirs:
    directory, sequences, new = arguments.theirs
    theirs(directory, int(sequences), int(new))
  elif arguments.part:
    found = parts()[arguments.part][0](arguments.small)
    print(json.dumps({**found, "device": device()}))
  elif arguments.output_dir:
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    run_parts(
      arguments.output_dir, arguments.minutes, [one for one in arguments.only.split(",") if one], arguments.small
    )
    print(tables(arguments.output_dir))
  else:
    parser.error("--output_dir is needed")


if __name__ == "__main__":
  main()
