"""Sampling sequences: a decode loop with a cache, rejection of malformed ones, and what the samples look like."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import random
from collapse_jax.lm import text
from collapse_jax.lm.decoder import Functions
from collapse_jax.training import largest
from collapse_jax.types import Array

__all__ = [
  "Samples",
  "categorical",
  "distinct_ngrams",
  "duplicate_rate",
  "ended",
  "formatted_by_text",
  "formatted_by_tokens",
  "generate",
  "sample",
]


class Samples(NamedTuple):
  """Sampled rows and what became of the candidates.

  Attributes:
    tokens: [num, L] int32: begin token, text, end token, then end tokens as padding.
    length: [num] int32, begin and end included.
    filled: [num] bool, False where the bound on candidates was met first.
    rejection_rate: malformed share of the candidates up to the last one that was needed.
  """

  tokens: Array
  length: Array
  filled: Array
  rejection_rate: Array


def generate(
  keys: Array,
  functions: Functions,
  params,
  max_length: int,
  begin: int,
  end: int,
  temperature=1.0,
  prompts: Array | None = None,
  prompt_length: Array | None = None,
) -> tuple[Array, Array]:
  """Sequences from the begin token, or from prompts.

  Args:
    keys: [B], one a sequence: what it becomes depends on its own key only.
    max_length: tokens of a sequence at most, begin and end included.
    temperature: divides logits; 0 is greedy. May be traced.
    prompts: [B, P] int32 with the begin token first, P < max_length.
    prompt_length: [B] int32, at least 1.
  Returns:
    tokens [B, max_length] int32, padded with `end`; length [B] int32, the first end token after the prompt included.
  """
  batch = keys.shape[0]
  tokens = jnp.full((batch, max_length), end, jnp.int32).at[:, 0].set(begin)
  given = jnp.ones(batch, jnp.int32)
  if prompts is not None:
    tokens = tokens.at[:, : prompts.shape[1]].set(prompts)
    given = jnp.full(batch, prompts.shape[1]) if prompt_length is None else prompt_length
  scale = 1 / jnp.maximum(jnp.asarray(temperature, jnp.float32), 1e-6)
  decode = functions.decoder(params)

  def more(state):
    i, _, _, length = state
    return (i + 1 < max_length) & (largest(jnp.any(length == 0).astype(jnp.int32)) > 0)

  def step(state):
    i, tokens, cache, length = state
    now = jax.lax.dynamic_slice_in_dim(tokens, i, 1, axis=1)
    logits, cache = decode(now, cache)
    logits = logits[:, 0]
    words = jax.vmap(lambda key: random.bits(jax.random.fold_in(key, i), 4))(keys)
    drawn = categorical(words, (logits - jnp.max(logits, axis=-1, keepdims=True)) * scale)
    drawn = jnp.where(jnp.asarray(temperature) > 0, drawn, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
    old = jax.lax.dynamic_slice_in_dim(tokens, i + 1, 1, axis=1)[:, 0]
    following = jnp.where(i + 1 < given, old, jnp.where(length > 0, end, drawn))
    length = jnp.where((length == 0) & (i + 1 >= given) & (following == end), i + 2, length)
    return i + 1, jax.lax.dynamic_update_slice_in_dim(tokens, following[:, None], i + 1, axis=1), cache, length

  start = (jnp.zeros((), jnp.int32), tokens, functions.cache(batch, max_length), jnp.zeros(batch, jnp.int32))
  _, tokens, _, length = jax.lax.while_loop(more, step, start)
  return tokens, jnp.where(length == 0, max_length, length)


def categorical(words: Array, logits: Array) -> Array:
  """One outcome for each row of logits [B, V], by inversion in two steps: a block of outcomes, then one of the block.

  Each step has 64 bits, so that the rarest outcomes of a large vocabulary come as often as they should.
  `jax.random.categorical` draws V numbers a row instead of four, and takes longer than a small model's whole step.

  Args:
    words: [B, 4] uint32, random.
  Returns:
    [B] int32.
  """
  batch, vocab = logits.shape
  width = 1 << (max(vocab - 1, 1).bit_length() + 1) // 2
  blocks = -(-vocab // width)
  mass = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
  mass = jnp.pad(mass, ((0, 0), (0, blocks * width - vocab))).reshape(batch, blocks, width)
  block = random.choose_all(words[:, :2], random.table(jnp.sum(mass, axis=2)))
  within = random.choose_all(words[:, 2:], random.table(jnp.take_along_axis(mass, block[:, None, None], axis=1)[:, 0]))
  return block * width + within


def sample(
  key: Array,
  draw: Callable[[Array, Array], tuple[Array, Array]],
  wellformed: Callable[[Array, Array], Array],
  num: int,
  max_length: int,
  batch_size: int,
  max_attempts: float,
) -> Samples:
  """`num` well-formed sequences: candidates in order of their number, until there are enough.

  Args:
    draw: (keys [B], candidate numbers [B]) -> tokens [B, L], length [B].
    wellformed: (tokens [B, L], length [B]) -> [B] bool.
    batch_size: candidates drawn at once. Results do not depend on it.
    max_attempts: candidates at most, as a multiple of num.
  """
  rounds = max(1, int(np.ceil(max_attempts * num / batch_size)))

  def more(state):
    i, count = state[:2]
    return (i < rounds) & (largest((count < num).astype(jnp.int32)) > 0)

  def one_round(state):
    i, count, tried, rows, lengths = state
    number = i * batch_size + jnp.arange(batch_size)
    tokens, length = draw(jax.vmap(jax.random.fold_in, (None, 0))(key, number), number)
    good = wellformed(tokens, length)
    place = jnp.where(good, count + jnp.cumsum(good) - 1, num)  # out of range, so dropped, once there are enough
    needed = (count + jnp.cumsum(good) - good) < num
    rows = rows.at[place].set(tokens, mode="drop")
    return (
      i + 1,
      jnp.minimum(count + jnp.sum(good), num),
      tried + jnp.sum(needed),
      rows,
      lengths.at[place].set(length, mode="drop"),
    )

  zero = jnp.zeros((), jnp.int32)
  state = zero, zero, zero, jnp.zeros((num, max_length), jnp.int32), jnp.ones(num, jnp.int32)
  _, count, tried, rows, lengths = jax.lax.while_loop(more, one_round, state)
  return Samples(rows, lengths, jnp.arange(num) < count, 1 - count / jnp.maximum(tried, 1))


def formatted_by_tokens(user: int, assistant: int, end: int) -> Callable[[Array, Array], Array]:
  """Whether rows have the format of `text.formatted` and end, where role markers are single tokens.

  Args:
    user, assistant: ids of the role markers.
    end: id of the end token.
  Returns:
    (tokens [n, L] int32, length [n] int32) -> [n] bool.
  """

  def wellformed(tokens, length):
    place = jnp.arange(tokens.shape[1])[None]
    inside = place < length[:, None]
    ended = jnp.take_along_axis(tokens, length[:, None] - 1, axis=1)[:, 0] == end
    answers = (tokens == assistant) & inside
    at = jnp.argmax(answers, axis=1)
    return (tokens[:, 1] == user) & (jnp.sum(answers, axis=1) == 1) & (at > 2) & (at < length - 2) & ended

  return wellformed


def ended(end: int) -> Callable[[Array, Array], Array]:
  """Whether rows hold some text and end: all that is asked of plain documents."""
  return lambda tokens, length: (jnp.take_along_axis(tokens, length[:, None] - 1, axis=1)[:, 0] == end) & (length > 2)


def formatted_by_text(tokenizer) -> Callable[[Array, Array], Array]:
  """Whether rows decode to the format of `text.formatted` and end; a call back to the host."""
  _, end = text.special_ids(tokenizer)

  def judge(tokens, length):
    shape = length.shape
    tokens, length = np.asarray(tokens).reshape(-1, tokens.shape[-1]), np.asarray(length).reshape(-1)
    good = [
      row[num - 1] == end and text.is_formatted(one)
      for row, num, one in zip(tokens, length, text.to_texts(tokenizer, tokens, length))
    ]
    return np.asarray(good, bool).reshape(shape)

  return lambda tokens, length: jax.pure_callback(
    judge, jax.ShapeDtypeStruct(length.shape, bool), tokens, length, vmap_method="expand_dims"
  )


def duplicate_rate(tokens: Array, length: Array, filled: Array) -> Array:
  """Share of rows [n, L] that repeat an earlier one, by two independent 32-bit hashes.

  Args:
    tokens: [n, L] int32.
    length: [n] int32, tokens in use of each row.
    filled: [n] bool, rows that are looked at.
  Returns:
    [], of the filled rows.
  """
  inside = (jnp.arange(tokens.shape[1])[None] < length[:, None]) & filled[:, None]
  words = jnp.where(inside, tokens + 1, 0).astype(jnp.uint32)

  def hashed(multiplier):
    mix = lambda h, column: ((h ^ column) * multiplier ^ (h >> 15), None)
    return jax.lax.scan(mix, jnp.full(tokens.shape[0], 2166136261, jnp.uint32), words.T)[0]

  return _repeats((~filled).astype(jnp.uint32), hashed(jnp.uint32(16777619)), hashed(jnp.uint32(2654435761)))


def distinct_ngrams(tokens: Array, length: Array, filled: Array, order: int) -> Array:
  """Distinct n-grams as a share of all, over the texts of rows [n, L] (Li et al. 1510.03055).

  Args:
    tokens: [n, L] int32.
    length: [n] int32, tokens in use of each row.
    filled: [n] bool, rows that are looked at.
    order: n of the n-grams, a Python int.
  """
  size = tokens.shape[1]
  last = jnp.where(filled, length, 0)  # n-grams lie after the begin token and may end with the end token
  start = jnp.arange(1, size - order + 1)
  valid = (start[None] + order <= last[:, None]).reshape(-1)
  parts = [tokens[:, 1 + i : size - order + 1 + i].reshape(-1) for i in range(order)]
  return 1 - _repeats((~valid).astype(jnp.uint32), *parts)


def _repeats(invalid: Array, *columns: Array) -> Array:
  """Share of the valid rows that equal another one which comes before them."""
  ordered = jax.lax.sort((invalid, *columns), num_keys=1 + len(columns))
  same = functools.reduce(jnp.logical_and, [x[1:] == x[:-1] for x in ordered]) & (ordered[0][1:] == 0)
  return jnp.sum(same) / jnp.maximum(jnp.sum(invalid == 0), 1)
