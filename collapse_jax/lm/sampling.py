"""Sampling sequences: a decode loop with a cache, rejection of malformed ones, and what the samples look like."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import random
from collapse_jax.lm import text
from collapse_jax.lm.decoder import Cache, Functions
from collapse_jax.lm.decoding import PLAIN, Rules, penalised, warped
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
  "written",
]


class Samples(NamedTuple):
  """Sampled rows and what became of the candidates.

  Attributes:
    tokens: [num, L] int32: begin token, text, end token, then end tokens as padding.
    length: [num] int32, begin and end included.
    filled: [num] bool, False where the bound on candidates was met first.
    rejection_rate: malformed share of the candidates up to the last one that was needed.
    more: leaves [num, ...] of what else was drawn with each.
  """

  tokens: Array
  length: Array
  filled: Array
  rejection_rate: Array
  more: tuple[Array, ...] = ()


class _Writing(NamedTuple):
  """State of `generate`; a slot writes sequence `which`, whose last token is at position `at`."""

  steps: Array
  following: Array
  which: Array
  at: Array
  rows: Array
  length: Array
  loss: Any
  layers: Any  # of a cache


def generate(
  keys: Array,
  functions: Functions,
  params,
  max_length: int,
  begin: int,
  end: int,
  rules: Rules = PLAIN,
  prompts: Array | None = None,
  prompt_length: Array | None = None,
  slots: int | None = None,
  wanted: Array | None = None,
  scored: bool = False,
) -> tuple[Array, ...]:
  """Sequences from the begin token, or from prompts, which are read in one pass.

  Args:
    keys: [B], one a sequence: what it becomes depends on its own key only.
    max_length: tokens of a sequence at most, begin and end included.
    end: id of the token that ends a sequence; -1: none does.
    rules: how tokens are chosen.
    prompts: [B, P] int32 with the begin token first, P < max_length.
    prompt_length: [B] int32, at least 1.
    slots: sequences that are written at once; where one ends, the next takes its place. None: all. With prompts, what all of
      these leave in a cache is kept.
    wanted: [] int32, how many of the sequences are written, the first ones; None: all. The others have length 0.
    scored: also return the cross entropy, under the model itself and so before any rule, of the tokens that were drawn.
  Returns:
    tokens [B, max_length] int32, padded with `end`; length [B] int32, the first end token after the prompt included; and where they
    are scored [B] float32, nats, a sum.
  """
  num = keys.shape[0]
  size = min(slots or num, num)
  known = lambda which: jnp.where(which < (num if wanted is None else wanted), which, num)  # num: none
  rows = jnp.full((num, max_length), end, jnp.int32).at[:, 0].set(begin)
  given = jnp.ones(num, jnp.int32)
  decode = functions.decoder(params)
  read: Any = ()
  if prompts is not None:
    prompt = prompts.shape[1]
    given = given * prompt if prompt_length is None else prompt_length
    rows = rows.at[:, :prompt].set(jnp.where(jnp.arange(prompt)[None] < given[:, None], prompts, end))
    if prompt > 1:  # the last token is read where the first is drawn
      read = decode(rows[:, : prompt - 1], functions.cache(num, prompt - 1))[1].layers
  in_step = size == num and prompts is None  # all at one position: a cache is written to faster than at several

  def begun(layers, which, new):
    """Caches that hold the prompts of those sequences that are new to their slots."""

    def one(slot, prompt):
      mine = jnp.take(prompt, which, axis=-4, mode="clip")
      # [layers,] batch, heads, and two more axes, of which one is positions.
      fresh = new.reshape((1,) * (slot.ndim - 4) + (size, 1, 1, 1))
      first = tuple(slice(length) for length in prompt.shape[-2:])
      return slot.at[..., *first].set(jnp.where(fresh, mine, slot[..., *first]))

    return jax.tree.map(one, layers, read) if read else layers

  def more(state: _Writing):
    return largest(jnp.any(state.which < num).astype(jnp.int32)) > 0

  def step(state: _Writing):
    which, at = state.which, state.at
    mine = jnp.minimum(which, num - 1)
    logits, cache = decode(state.rows[mine, at][:, None], Cache(state.layers, state.steps if in_step else at))
    plain = logits[:, 0]
    logits = penalised(rules, plain, state.rows[mine], at + 1)
    words = jax.vmap(lambda key, at: random.bits(jax.random.fold_in(key, at), 4))(keys[mine], at)
    drawn = categorical(words, warped(rules, logits))
    drawn = jnp.where(jnp.asarray(rules.temperature) > 0, drawn, jnp.argmax(logits, axis=-1)).astype(jnp.int32)
    drawn = functions.agreed(drawn)  # all else in this loop, its end among it, is a function of these integers
    rows = state.rows.at[which, at + 1].set(drawn, mode="drop")
    done = (which < num) & ((drawn == end) | (at + 2 >= max_length))
    length = state.length.at[jnp.where(done, which, num)].set(at + 2, mode="drop")
    which = jnp.where(done, known(state.following + jnp.cumsum(done) - 1), which)
    mine = jnp.minimum(which, num - 1)
    at = jnp.where(done, given[mine] - 1, at + 1)
    loss = state.loss
    if scored:
      each = jax.nn.logsumexp(plain, axis=-1) - jnp.take_along_axis(plain, drawn[:, None], axis=1)[:, 0]
      loss = loss.at[state.which].add(each, mode="drop")
    layers = cache.layers
    if read and size < num:
      layers = jax.lax.cond(jnp.any(done), begun, lambda layers, which, new: layers, layers, which, done)
    return _Writing(state.steps + 1, state.following + jnp.sum(done), which, at, rows, length, loss, layers)

  first = known(jnp.arange(size))
  layers = begun(functions.cache(size, max_length).layers, first, jnp.ones(size, bool))
  zero = jnp.zeros((), jnp.int32)
  start = _Writing(zero, zero + size, first, given[:size] - 1, rows, jnp.zeros(num, jnp.int32), jnp.zeros(num), layers)
  found = jax.lax.while_loop(more, step, start)
  return (found.rows, found.length, found.loss) if scored else (found.rows, found.length)


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
  draw: Callable[[Array, Array, Array], tuple[Array, ...]],
  wellformed: Callable[[Array, Array], Array],
  num: int,
  max_length: int,
  batch_size: int,
  max_attempts: float,
  least: int = 1,
) -> Samples:
  """`num` well-formed sequences: candidates in order of their number, until there are enough.

  Args:
    draw: (keys [B], candidate numbers [B], how many of them are wanted) -> tokens [B, L], length [B], and perhaps more arrays
      [B, ...].
    wellformed: (tokens [B, L], length [B]) -> [B] bool.
    batch_size: candidates in a round at most. Results do not depend on it.
    max_attempts: candidates at most, as a multiple of num.
    least: candidates in a round at least.
  """
  most = max(1, int(np.ceil(max_attempts * num)))

  def more(state):
    begun, count = state[:2]
    return largest(((begun < most) & (count < num)).astype(jnp.int32)) > 0

  def one_round(state):
    begun, count, tried, *tables = state
    # As many as would do if good ones go on to come as often as so far.
    hoped = jnp.ceil((num - count) * (jnp.maximum(begun, 1) / jnp.maximum(count, 1))).astype(jnp.int32)
    wanted = jnp.where(count < num, jnp.minimum(jnp.clip(hoped, least, batch_size), most - begun), 0)
    number = begun + jnp.arange(batch_size)
    tokens, length, *others = draw(jax.vmap(jax.random.fold_in, (None, 0))(key, number), number, wanted)
    good = wellformed(tokens, length) & (jnp.arange(batch_size) < wanted)
    place = jnp.where(good, count + jnp.cumsum(good) - 1, num)  # out of range, so dropped, once there are enough
    needed = ((count + jnp.cumsum(good) - good) < num) & (jnp.arange(batch_size) < wanted)
    return (
      begun + wanted,
      jnp.minimum(count + jnp.sum(good), num),
      tried + jnp.sum(needed),
      *(table.at[place].set(x, mode="drop") for table, x in zip(tables, (tokens, length, *others))),
    )

  zero, some = jnp.zeros((), jnp.int32), jnp.arange(batch_size)
  others = jax.eval_shape(draw, jax.vmap(jax.random.fold_in, (None, 0))(key, some), some, zero)[2:]
  beside = [jnp.zeros((num, *x.shape[1:]), x.dtype) for x in others]
  state = zero, zero, zero, jnp.zeros((num, max_length), jnp.int32), jnp.ones(num, jnp.int32), *beside
  _, count, tried, rows, lengths, *beside = jax.lax.while_loop(more, one_round, state)
  return Samples(rows, lengths, jnp.arange(num) < count, 1 - count / jnp.maximum(tried, 1), tuple(beside))


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


def written(tokens: Array, length: Array, given: Array) -> tuple[Array, Array]:
  """What was written of samples that continue something, as rows whose first token is the last one that was given.

  Args:
    tokens: [n, L] int32.
    length: [n] int32, tokens in use of each row.
    given: [n] int32, how many of these were given, from 1.
  Returns:
    tokens [n, L] int32, and their number [n].
  """
  place = jnp.arange(tokens.shape[1])[None] + given[:, None] - 1
  return jnp.take_along_axis(tokens, place, axis=1, mode="clip"), length - given + 1


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
