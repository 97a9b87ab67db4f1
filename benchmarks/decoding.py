"""Sampling with slots that are refilled, and prompts read in one pass, beside lock step, token by token, and transformers.

  python -m benchmarks.decoding [--num=256] [--slots=32]

A Llama of 6 layers and random weights writes sequences whose lengths are uniform from 20 to 256: the probability of the end
token is set to what makes them so. The same model writes in transformers to the longest of each batch, as `generate` does.
"""

import argparse
import os

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import best
from benchmarks.language_model import timed
from collapse_jax import lm
from collapse_jax.lm import checkpoint, sampling

BEGIN, END, SHORTEST, LONGEST = 1, 2, 20, 256
SHAPE = {
  "vocab_size": 8000,
  "hidden_size": 256,
  "intermediate_size": 768,
  "num_hidden_layers": 6,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
  "max_position_embeddings": 512,
}


def ending(functions):
  """The decoder, whose sequences have lengths that are uniform from SHORTEST to LONGEST."""

  def decoder(params):
    decode = functions.decoder(params)

    def step(tokens, cache):
      logits, after = decode(tokens, cache)
      size = jnp.broadcast_to(after.used, tokens.shape[:1]) + 1  # if the end comes now
      rate = jnp.where(size < SHORTEST, 0.0, 1 / jnp.maximum(LONGEST + 1 - size, 1))[:, None]
      logits = jax.nn.log_softmax(logits[:, -1].at[:, END].set(-jnp.inf)) + jnp.log1p(-rate)
      return logits.at[:, END].set(jnp.log(rate[:, 0]))[:, None], after

    return step

  return functions._replace(decoder=decoder)


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--num", type=int, default=256, help="Sequences.")
  parser.add_argument("--slots", type=int, default=32, help="Sequences at once.")
  options = parser.parse_args()
  from transformers import LlamaConfig

  model = lm.random(LlamaConfig(**SHAPE, bos_token_id=BEGIN, eos_token_id=END), jax.random.key(0))
  functions = checkpoint.functions_of(model.config, model.params)
  write = jax.jit(
    lambda params, keys, slots: sampling.generate(keys, ending(functions), params, LONGEST, BEGIN, END, slots=slots),
    static_argnums=2,
  )
  keys = jax.random.split(jax.random.key(1), options.num)
  parts = [keys[first : first + options.slots] for first in range(0, options.num, options.slots)]
  length = np.asarray(write(model.params, keys, options.slots)[1])
  print(f"{options.num} sequences of {length.min()} to {length.max()} tokens, {options.slots} at once")
  step = best(lambda: [write(model.params, part, None) for part in parts])
  refill = best(lambda: write(model.params, keys, options.slots))
  total = length.sum() - len(length)
  print(
    f"lock step {total / step:,.0f} tokens a second, slots refilled {total / refill:,.0f}: {step / refill:.2f} times"
  )

  for rows in (1, 8):
    prefill(functions, model.params, rows)
  theirs = transformers_seconds(model, options)
  print(f"transformers {total / theirs:,.0f} tokens a second; slots refilled {theirs / refill:.2f} times as many")


def prefill(functions, params, rows) -> None:
  """Prints the time of reading prompts token by token and in one pass."""
  prompts = jnp.asarray(np.random.default_rng(0).integers(3, SHAPE["vocab_size"], (rows, LONGEST)), jnp.int32)
  once = jax.jit(lambda params: functions.decoder(params)(prompts, functions.cache(rows, LONGEST))[1].layers)

  @jax.jit
  def one_by_one(params):
    """As the loop goes that draws: with logits, of which what is given takes the place."""
    decode = functions.decoder(params)

    def one(i, state):
      cache, best = state
      logits, cache = decode(jax.lax.dynamic_slice_in_dim(prompts, i, 1, axis=1), cache)
      return cache, jnp.maximum(best, jnp.max(logits))

    cache, best = jax.lax.fori_loop(0, LONGEST, one, (functions.cache(rows, LONGEST), jnp.zeros(())))
    return cache.layers, best

  for a, b in zip(jax.tree.leaves(once(params)), jax.tree.leaves(one_by_one(params)[0])):
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=0)
  slow, fast = best(lambda: one_by_one(params)), best(lambda: once(params))
  print(
    f"{rows} prompts of {LONGEST} tokens: one by one {slow:.3f} s, in one pass {fast:.3f} s: {slow / fast:.1f} times"
  )


def transformers_seconds(model, options) -> float:
  """Time of `generate` for as many sequences, a batch of as many as there are slots to the longest of it."""
  import tempfile

  import torch
  import transformers

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  with tempfile.TemporaryDirectory() as directory:
    lm.save(model, directory)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
  given = torch.full((options.slots, 1), BEGIN)
  longest = LONGEST - (LONGEST - SHORTEST) // (options.slots + 1)  # of a batch, on average

  def call():
    with torch.no_grad():
      theirs.generate(
        given,
        attention_mask=torch.ones_like(given),
        do_sample=True,
        top_k=0,
        max_length=longest,
        min_length=longest,
        eos_token_id=END,
        pad_token_id=END,
      )

  call()
  return timed(call) * -(-options.num // options.slots)


if __name__ == "__main__":
  main()
