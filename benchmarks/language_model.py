"""SmolLM2 here and in transformers on PyTorch: same weights, same batch, one run, medians of paired ratios.

  [taskset -c 0] python -m benchmarks.language_model --model=SmolLM2-135M-Instruct.Q4_1.gguf [--parts=training]

Needs the extra parity. Checks first that both give the same loss, before and after training. Prints the rows of the table
"Language models" in docs/benchmarks.md. `--model=random` is of the same shape, with random weights and random text. Bound to one
core, both are timed in seconds of it, which other work on the machine lengthens less than those of the clock. About five minutes
on 2 CPU cores; of accelerators see `benchmarks.accelerator`.
"""

import argparse
import os
import time

import numpy as np

BATCH, LENGTH, STEPS = 8, 128, 3
SEQUENCES, NEW_TOKENS = 32, 64


def timed(function, clock=time.perf_counter):
  """Seconds of a call; of the cores with `time.process_time`."""
  begun = clock()
  function()
  return clock() - begun


def clock():
  """Of the core, where there is one only."""
  return time.process_time if len(os.sched_getaffinity(0)) == 1 else time.perf_counter


def timed_here(function, *arguments):
  """Seconds of a call, by the clock of the process that makes it."""
  return timed(lambda: function(*arguments), clock())


def paired(label, ours, theirs, pairs):
  """A row: seconds of both, which these functions return, median and range of the ratio; the first call is not counted."""
  ours(), theirs()
  times = np.array([(ours(), theirs()) for _ in range(pairs)])
  ratio = times[:, 1] / times[:, 0]
  mine, other = np.median(times, axis=0)
  return f"| {label} | {mine:.1f} s | {other:.1f} s | {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f}) |"


def fitting(model, recipe, tokens, dtype=None):
  """() -> fitted weights, after compiling; one program of `collapse_jax.lm.training.fit`."""
  import jax
  import jax.numpy as jnp

  from collapse_jax.lm import training

  rows = jnp.asarray(tokens), jnp.full(len(tokens), tokens.shape[1]), jnp.ones(len(tokens))
  run = jax.jit(
    lambda params: training.fit(
      jax.random.key(0),
      model.apply,
      recipe,
      params,
      *rows,
      lambda weights: jnp.zeros(()),
      curve_points=1,
      dtype=dtype or jnp.float32,
    )
  )
  return lambda: jax.block_until_ready(run(model.params))


def on_cpu(path, pairs, parts):
  import concurrent.futures
  import multiprocessing
  import tempfile

  import jax
  import jax.numpy as jnp

  from benchmarks import torch_reference as reference
  from collapse_jax import lm
  from collapse_jax.lm import checkpoint, sampling, text, training

  if path == "random":
    from benchmarks.accelerator import configuration

    config = configuration("135M", small=False)
    model, begin = lm.random(config, jax.random.key(0)), config.bos_token_id
    tokens = np.random.default_rng(0).integers(3, config.vocab_size, (BATCH, LENGTH)).astype(np.int32)
  else:
    model = lm.load(path)
    begin, _ = text.special_ids(model.tokenizer)
    ids = model.tokenizer("\n".join(one.text for one in text.load("pydocs", "train")[:200])).input_ids
    tokens = np.asarray(ids[: BATCH * LENGTH], np.int32).reshape(BATCH, LENGTH)
  recipe = training.Recipe(learning_rate=1e-4, budget="steps", amount=STEPS, batch_size=BATCH, warmup_share=0.0)
  fit = fitting(model, recipe, tokens)
  full = jnp.full(BATCH, LENGTH)
  loss = jax.jit(lambda params: training.mean_loss(model.apply, params, tokens, full, BATCH))
  functions = checkpoint.functions_of(model.config, model.params)
  never = -1  # no sequence ends early, on either side
  generate = jax.jit(lambda params, keys: sampling.generate(keys, functions, params, NEW_TOKENS + 1, begin, never))
  sample = lambda: jax.block_until_ready(generate(model.params, jax.random.split(jax.random.key(0), SEQUENCES)))
  context = multiprocessing.get_context("spawn")
  with (
    tempfile.TemporaryDirectory() as directory,
    concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool,
  ):
    lm.save(model, directory)
    theirs = lambda function, *arguments: pool.submit(function, *arguments).result()
    theirs(reference.open_model, directory, recipe.learning_rate)
    before = float(loss(model.params)), theirs(reference.loss, tokens)
    theirs(reference.train, tokens, STEPS)
    after = float(loss(fit().weights)), theirs(reference.loss, tokens)
    print(f"loss before {before[0]:.5f} and {before[1]:.5f}, after {STEPS} steps {after[0]:.5f} and {after[1]:.5f}")
    if abs(before[0] - before[1]) > 1e-3 or abs(after[0] - after[1]) > 0.02 * (before[0] - after[0]):
      raise SystemExit("the two do not compute the same; nothing is timed")
    rows = {
      "training": (f"{STEPS} training steps, {BATCH} x {LENGTH} tokens", fit, (reference.train, tokens, STEPS)),
      "sampling": (
        f"sampling {SEQUENCES} x {NEW_TOKENS} tokens",
        sample,
        (reference.sample, begin, SEQUENCES, NEW_TOKENS),
      ),
    }
    for part in parts:
      label, ours, other = rows[part]
      theirs(reference.restart)
      print(paired(label, lambda: timed_here(ours), lambda: theirs(timed_here, *other), pairs), flush=True)  # noqa: B023


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument(
    "--model", required=True, help="SmolLM2-135M-Instruct: a .gguf file or a directory; random: of its shape"
  )
  parser.add_argument("--parts", default="training,sampling")
  parser.add_argument("--pairs", type=int, default=5)
  arguments = parser.parse_args()
  on_cpu(arguments.model, arguments.pairs, arguments.parts.split(","))


if __name__ == "__main__":
  main()
