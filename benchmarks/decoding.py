"""Sampling with slots that are refilled, and prompts read in one pass, beside lock step, token by token, and transformers.

  taskset -c 0 python -m benchmarks.decoding [--parts=slots,transformers,prefill] [--num=128] [--slots=16]

A Llama of 4 layers and random weights writes sequences whose lengths are uniform from 20 to 256: the probability of the end
token is set to what makes them so. The same model writes in transformers to the longest of each batch, as `generate` does. Each
line is printed as soon as it is measured. Seconds are of the core that the process is bound to, as other work on the machine
lengthens those of the clock; what is compared is called in turns, --times times, and the fastest calls are compared.
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.language_model import timed
from collapse_jax import lm
from collapse_jax.lm import checkpoint, sampling

BEGIN, END, SHORTEST, LONGEST = 1, 2, 20, 256
SHAPE = {
  "vocab_size": 4000,
  "hidden_size": 256,
  "intermediate_size": 768,
  "num_hidden_layers": 4,
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
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--parts", default=",".join(PARTS), help="Comma list, in this order.")
  parser.add_argument("--num", type=int, default=128, help="Sequences.")
  parser.add_argument("--slots", type=int, default=16, help="Sequences at once.")
  parser.add_argument("--times", type=int, default=2, help="Calls that are timed of each.")
  options = parser.parse_args()
  parts = options.parts.split(",")
  if unknown := sorted(set(parts) - set(PARTS)):
    parser.error(f"--parts: there is no {unknown[0]}, but {', '.join(PARTS)}.")
  from transformers import LlamaConfig

  model = lm.random(LlamaConfig(**SHAPE, bos_token_id=BEGIN, eos_token_id=END), jax.random.key(0))
  refilled = None
  for part in parts:
    refilled = PARTS[part](model, options, refilled)


def in_turns(times, *calls):
  """Seconds of a core of the fastest of each, after one that compiles."""
  finished = [lambda call=call: jax.block_until_ready(call()) for call in calls]
  for one in finished:
    one()
  return np.min([[timed(one, time.process_time) for one in finished] for _ in range(times)], axis=0)


def say(line: str) -> None:
  print(line, flush=True)


def written(model, options):
  """() -> sequences with slots that are refilled, (keys) -> the same in lock step; all keys, and the lengths of what they give."""
  functions = checkpoint.functions_of(model.config, model.params)
  write = jax.jit(
    lambda params, keys, slots: sampling.generate(keys, ending(functions), params, LONGEST, BEGIN, END, slots=slots),
    static_argnums=2,
  )
  keys = jax.random.split(jax.random.key(1), options.num)
  length = np.asarray(write(model.params, keys, options.slots)[1])
  say(f"{options.num} sequences of {length.min()} to {length.max()} tokens, {options.slots} at once")
  return lambda: write(model.params, keys, options.slots), lambda keys: write(model.params, keys, None), keys, length


def slots(model, options, _):
  """Prints times of both, and how many times as fast refilling were if a step took the same; seconds of it, and tokens."""
  refill, in_step, keys, length = written(model, options)
  starts = range(0, options.num, options.slots)
  fast, slow = in_turns(
    options.times, refill, lambda: [in_step(keys[first : first + options.slots]) for first in starts]
  )
  total, most = length.sum() - len(length), steps_of_slots(length, options.slots)
  ideal = sum(length[first : first + options.slots].max() - 1 for first in starts) / most
  say(f"slots refilled: {total / fast:,.0f} tokens a second, {1e3 * fast / most:.2f} ms a step")
  say(
    f"lock step: {total / slow:,.0f} tokens a second; slots refilled {slow / fast:.2f} times as many, {ideal:.2f} with equal steps"
  )
  return fast, total


def steps_of_slots(length, slots) -> int:
  """Steps until sequences of these lengths are written, each in the slot that is free first."""
  ends = np.zeros(min(slots, len(length)), int)
  for one in length - 1:
    ends[ends.argmin()] += one
  return int(ends.max())


def beside_transformers(model, options, refilled):
  if refilled is None:
    refill, _, _, length = written(model, options)
    refilled = *in_turns(options.times, refill), length.sum() - len(length)
    say(f"slots refilled: {refilled[1] / refilled[0]:,.0f} tokens a second")
  fast, total = refilled
  theirs = transformers_seconds(model, options)
  say(f"transformers: {total / theirs:,.0f} tokens a second; slots refilled {theirs / fast:.2f} times as many")
  return refilled


def prefills(model, options, refilled):
  functions = checkpoint.functions_of(model.config, model.params)
  for rows in (1, 8):
    prefill(functions, model.params, rows, options.times)
  return refilled


PARTS = {"slots": slots, "transformers": beside_transformers, "prefill": prefills}


def prefill(functions, params, rows, times) -> None:
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
  slow, fast = in_turns(times, lambda: one_by_one(params), lambda: once(params))
  say(f"{rows} prompts of {LONGEST} tokens: one by one {slow:.3f} s, in one pass {fast:.3f} s: {slow / fast:.1f} times")


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
  return timed(call, time.process_time) * -(-options.num // options.slots)


if __name__ == "__main__":
  main()
