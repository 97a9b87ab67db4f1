"""SmolLM2 here and in transformers on PyTorch: same weights, same batch, one run, medians of paired ratios.

  python -m benchmarks.language_model --model=SmolLM2-135M-Instruct.Q4_1.gguf

Needs the extra parity. Checks first that both give the same loss, before and after training. Prints the rows of the table
"Language models" in docs/benchmarks.md. Where JAX finds an accelerator it adds what share of the measured matmul peak full
fine-tuning in bfloat16 reaches, and what eight seeds of `tiny` cost beside one. About five minutes on 2 CPU cores.
"""

import argparse
import time

import numpy as np

BATCH, LENGTH, STEPS = 8, 128, 3
SEQUENCES, NEW_TOKENS = 32, 64


def timed(function):
  begun = time.perf_counter()
  function()
  return time.perf_counter() - begun


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


def on_accelerator(path):
  """Full fine-tuning in bfloat16 against the matmul peak; eight seeds of `tiny` against one."""
  import functools

  import jax
  import jax.numpy as jnp

  from collapse_jax import lm
  from collapse_jax.lm import checkpoint, families, tiny, training

  device = jax.devices()[0].device_kind
  side, repeats = 8192, 20
  square = jnp.ones((side, side), jnp.bfloat16)
  chain = jax.jit(lambda x: jax.lax.fori_loop(0, repeats, lambda _, y: (y @ x) * (1 / side), x))
  call = lambda: jax.block_until_ready(chain(square))
  call()
  peak = 2 * side**3 * repeats / min(timed(call) for _ in range(5))
  model = lm.load(path, jnp.bfloat16)
  arch = families.architecture(model.config)
  for rows, length in ((64, 512), (32, 1024)):
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (rows, length)).astype(np.int32)
    few, many = (
      fitting(
        model, training.Recipe(learning_rate=1e-5, budget="steps", amount=steps, batch_size=rows), tokens, jnp.bfloat16
      )
      for steps in (5, 25)
    )
    few(), many()
    seconds = (min(timed(many) for _ in range(3)) - min(timed(few) for _ in range(3))) / 20
    weights = checkpoint.num_params(model.params)
    work = rows * length * (6 * weights + 12 * arch.num_layers * arch.num_heads * arch.head_dim * length / 2)
    print(
      f"| {device}: full fine-tuning, bfloat16, {rows} x {length} | {seconds * 1e3:.0f} ms a step | "
      f"{work / seconds / 1e12:.0f} of {peak / 1e12:.0f} Tflop/s, {work / seconds / peak:.0%} |",
      flush=True,
    )
  small = tiny.load()
  tokens = jnp.asarray(np.random.default_rng(0).integers(0, 1024, (256, 64)), jnp.int32)

  def fit(seeds, params):
    return jax.vmap(
      lambda key: (
        training.fit(
          key,
          small.apply,
          tiny.RECIPE._replace(amount=4.0),
          params,
          tokens,
          jnp.full(256, 64),
          jnp.ones(256),
          lambda weights: jnp.zeros(()),
          curve_points=1,
        ).weights
      )
    )(jax.random.split(jax.random.key(0), seeds))

  times = {}
  for seeds in (1, 8):
    run = jax.jit(functools.partial(fit, seeds))
    call = lambda run=run: jax.block_until_ready(run(small.params))
    call()
    times[seeds] = min(timed(call) for _ in range(5))
  print(f"| {device}: tiny, eight seeds beside one | {times[8]:.2f} s | {times[1]:.2f} s | {times[8] / times[1]:.2f} |")


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--model", required=True, help="SmolLM2-135M-Instruct: a .gguf file or a directory")
  parser.add_argument("--pairs", type=int, default=5)
  arguments = parser.parse_args()
  import jax

  if jax.devices()[0].platform != "cpu":
    on_accelerator(arguments.model)
    return
  on_cpu(arguments.model, arguments.pairs)


if __name__ == "__main__":
  main()
