"""SmolLM2 here and in transformers on PyTorch: same weights, same batch, one run, medians of paired ratios.

  python -m benchmarks.language_model --model=SmolLM2-135M-Instruct.Q4_1.gguf

Needs the extra parity. Checks first that both give the same loss, before and after training. Prints the rows of the table
"Language models" in docs/benchmarks.md. About five minutes on 2 CPU cores; of accelerators see `benchmarks.accelerator`.
"""

import argparse
import time

import numpy as np

BATCH, LENGTH, STEPS = 8, 128, 3
SEQUENCES, NEW_TOKENS = 32, 64


def timed(function, clock=time.perf_counter):
  """Seconds of a call; of the cores with `time.process_time`."""
  begun = clock()
  function()
  return clock() - begun


def paired(label, ours, theirs, pairs):
  """A row: seconds of both, median and range of the ratio; the first call of each is not counted."""
  ours(), theirs()
  times = np.array([(timed(ours), timed(theirs)) for _ in range(pairs)])
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


def on_cpu(path, pairs):
  import concurrent.futures
  import multiprocessing
  import tempfile

  import jax
  import jax.numpy as jnp

  from benchmarks import torch_reference as reference
  from collapse_jax import lm
  from collapse_jax.lm import checkpoint, sampling, text, training

  model = lm.load(path)
  ids = model.tokenizer("\n".join(one.text for one in text.load("pydocs", "train")[:200])).input_ids
  tokens = np.asarray(ids[: BATCH * LENGTH], np.int32).reshape(BATCH, LENGTH)
  recipe = training.Recipe(learning_rate=1e-4, budget="steps", amount=STEPS, batch_size=BATCH, warmup_share=0.0)
  fit = fitting(model, recipe, tokens)
  full = jnp.full(BATCH, LENGTH)
  loss = jax.jit(lambda params: training.mean_loss(model.apply, params, tokens, full, BATCH))
  functions = checkpoint.functions_of(model.config, model.params)
  begin, _ = text.special_ids(model.tokenizer)
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
    theirs(reference.restart)
    print(
      paired(
        f"{STEPS} training steps, {BATCH} x {LENGTH} tokens", fit, lambda: theirs(reference.train, tokens, STEPS), pairs
      ),
      flush=True,
    )
    theirs(reference.restart)
    print(
      paired(
        f"sampling {SEQUENCES} x {NEW_TOKENS} tokens",
        sample,
        lambda: theirs(reference.sample, begin, SEQUENCES, NEW_TOKENS),
        pairs,
      ),
      flush=True,
    )


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--model", required=True, help="SmolLM2-135M-Instruct: a .gguf file or a directory")
  parser.add_argument("--pairs", type=int, default=5)
  arguments = parser.parse_args()
  on_cpu(arguments.model, arguments.pairs)


if __name__ == "__main__":
  main()
