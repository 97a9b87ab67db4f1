"""Rules by which logits become the next token, and beam search, as transformers defines them."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from collapse_jax.lm.decoder import Functions
from collapse_jax.refused import Refused
from collapse_jax.types import Array

__all__ = ["NUMBERS", "PLAIN", "Rules", "beam_search", "check", "is_default", "penalised", "warped"]

NEVER = -1.0e9


class Rules(NamedTuple):
  """How the next token is chosen; what is at its default is not computed. Numbers may be traced where nothing else is said.

  Attributes:
    temperature: divides logits; 0: the likeliest token (greedy).
    top_k: tokens that are drawn from, the likeliest; 0: all.
    top_p: least mass of those that are drawn from, the likeliest (nucleus sampling, Holtzman et al. 1904.09751).
    min_p: least probability of a token, as a share of the likeliest one's (Nguyen et al. 2407.01082).
    repetition_penalty: divides positive logits of tokens that are in the text already, and multiplies negative ones (Keskar
      et al. 1909.05858).
    no_repeat_ngram: size of n-grams that may come only once; 0: none. Static.
  """

  temperature: Any = 1.0
  top_k: Any = 0
  top_p: Any = 1.0
  min_p: Any = 0.0
  repetition_penalty: Any = 1.0
  no_repeat_ngram: int = 0


PLAIN = Rules()
NUMBERS = ("top_k", "top_p", "min_p", "repetition_penalty")  # that may be traced, beside the temperature


def is_default(rules: Rules, name: str) -> bool:
  """Whether a rule is known not to be in force."""
  value = getattr(rules, name)
  return isinstance(value, int | float) and value == getattr(PLAIN, name)


def check(rules: Rules) -> None:
  """Raises ValueError where a rule is out of range; those that are traced are not looked at."""
  for name, least, most, open_end in (
    ("temperature", 0, math.inf, False),
    ("top_k", 0, math.inf, False),
    ("top_p", 0, 1, True),
    ("min_p", 0, 1, False),
    ("repetition_penalty", 0, math.inf, True),
    ("no_repeat_ngram", 0, math.inf, False),
  ):
    value = getattr(rules, name)
    if isinstance(value, jax.core.Tracer):
      continue
    if not least <= value <= most or (open_end and value == least) or value == math.inf:
      bounds = f"{'above' if open_end else 'at least'} {least}" + (f" and at most {most}" if most == 1 else "")
      raise Refused.must_be(name, bounds, value)


def penalised(rules: Rules, logits: Array, tokens: Array, used: Array) -> Array:
  """Logits [B, V] after what depends on the text so far.

  Args:
    rules: repetition_penalty and no_repeat_ngram are read.
    logits: [B, V] float32.
    tokens: [B, L] int32, the text.
    used: [B] or [] int32, how many of them there are.
  """
  (batch, vocab), length = logits.shape, tokens.shape[1]
  row = jnp.arange(batch)[:, None]
  used = jnp.broadcast_to(used, (batch,))[:, None]
  marked = lambda tokens, valid: (
    jnp.zeros((batch, vocab), bool).at[row, jnp.where(valid, tokens, vocab)].set(True, mode="drop")
  )
  if not is_default(rules, "repetition_penalty"):
    seen = marked(tokens, jnp.arange(length)[None] < used)
    factor = jnp.where(logits < 0, rules.repetition_penalty, 1 / jnp.asarray(rules.repetition_penalty, jnp.float32))
    logits = jnp.where(seen, logits * factor, logits)
  size = rules.no_repeat_ngram
  if size and length >= size:
    num = length - size + 1  # n-grams, by where they begin
    last = jnp.take_along_axis(tokens, jnp.maximum(used - size + 1, 0) + jnp.arange(size - 1)[None], axis=1)
    again = jnp.arange(num)[None] + size <= used
    for i in range(size - 1):
      again &= tokens[:, i : i + num] == last[:, i : i + 1]
    logits = jnp.where(marked(tokens[:, size - 1 :], again), -jnp.inf, logits)
  return logits


def warped(rules: Rules, logits: Array) -> Array:
  """Logits [B, V] at a temperature, -inf for tokens that are not drawn from. Ties at a bound are all kept.

  Args:
    rules: temperature, top_k, top_p and min_p are read; a temperature of 0 counts as a very small one.
    logits: [B, V] float32.
  """
  logits = logits - jnp.max(logits, axis=-1, keepdims=True)
  logits = logits * (1 / jnp.maximum(jnp.asarray(rules.temperature, jnp.float32), 1e-6))
  if not is_default(rules, "top_k"):
    k = jnp.where(jnp.asarray(rules.top_k) > 0, rules.top_k, logits.shape[-1])
    order = _ordered(logits)
    least = _least(lambda bound: jnp.sum(order > bound, axis=-1, keepdims=True) < k, logits.shape[:-1])
    logits = jnp.where(order >= least, logits, -jnp.inf)
  if not is_default(rules, "top_p"):
    order, share = _ordered(logits), jax.nn.softmax(logits, axis=-1)
    rest = 1 - jnp.asarray(rules.top_p, jnp.float32)
    below = lambda bound: jnp.sum(jnp.where(order <= bound, share, 0), axis=-1, keepdims=True)
    least = jnp.minimum(
      _least(lambda bound: below(bound) > rest, logits.shape[:-1]), jnp.max(order, axis=-1, keepdims=True)
    )
    logits = jnp.where(order >= least, logits, -jnp.inf)
  if not is_default(rules, "min_p"):
    logits = jnp.where(jnp.exp(logits) < rules.min_p, -jnp.inf, logits)
  return logits


def _ordered(x: Array) -> Array:
  """uint32 in the order of float32."""
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  return jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))


def _least(holds, shape) -> Array:
  """[*shape, 1] uint32, the least for which a monotone condition holds: passes over a vocabulary, where sorting takes longer."""

  def halved(_, ends):
    low, high = ends
    middle = low + (high - low) // 2
    yes = holds(middle)
    return jnp.where(yes, low, middle + 1), jnp.where(yes, middle, high)

  ends = jnp.zeros((*shape, 1), jnp.uint32), jnp.full((*shape, 1), 0xFFFFFFFF, jnp.uint32)
  return jax.lax.fori_loop(0, 32, halved, ends)[1]


class _Beams(NamedTuple):
  """State of a search: beams that go on, and the best that have ended."""

  used: Array
  cache: Any
  running: Array
  running_score: Array
  ended: Array
  score: Array
  is_ended: Array
  improvable: Array
  going: Array


def beam_search(
  functions: Functions,
  params,
  prompts: Array,
  max_length: int,
  end: int,
  num_beams: int,
  length_penalty: float = 1.0,
  early_stopping: bool | str = False,
  rules: Rules = PLAIN,
) -> tuple[Array, Array, Array]:
  """The likeliest continuation that a search with `num_beams` beams finds, token for token as in transformers.

  Args:
    functions: of the decoder.
    params: its parameters.
    prompts: [B, P] int32, whole rows, P < max_length.
    max_length: tokens of a sequence at most, prompt and end included.
    end: id of the end token.
    num_beams: static.
    length_penalty: scores are divided by the number of new tokens to this power.
    early_stopping: True: as soon as num_beams have ended; False: when none that goes on can become better, by its present
      length; "never": by any length.
    rules: its penalties are applied to log probabilities.
  Returns:
    tokens [B, max_length] int32, padded with `end`; length [B] int32; score [B], log probability over length.
  """
  (batch, prompt), width = prompts.shape, num_beams
  fill = jnp.full((batch, width, max_length), end, jnp.int32)
  running = fill.at[:, :, :prompt].set(prompts[:, None])
  decode = functions.decoder(params)
  cache = functions.cache(batch, max_length)
  if prompt > 1:
    cache = decode(prompts[:, :-1], cache)[1]
  # Of the batch: [layers,] batch, heads, and two more axes.
  layers = jax.tree.map(lambda x: jnp.repeat(x, width, axis=x.ndim - 4), cache.layers)
  chosen = lambda x, index: jnp.take_along_axis(x, index.reshape(index.shape + (1,) * (x.ndim - 2)), axis=1)
  first = jnp.where(jnp.arange(width)[None] == 0, jnp.zeros((batch, 1)), NEVER)

  def step(state: _Beams):
    used = state.used
    flat = state.running.reshape(batch * width, max_length)
    logits, cache = decode(jax.lax.dynamic_slice_in_dim(flat, used - 1, 1, axis=1), state.cache)
    log_probability = penalised(rules, jax.nn.log_softmax(logits[:, 0]), flat, used)
    total = log_probability.reshape(batch, width, -1) + state.running_score[:, :, None]
    vocab = total.shape[-1]
    # Enough to go on, if half of them end.
    score, index = functions.agreed(jax.lax.top_k(total.reshape(batch, -1), 2 * width))
    beam, token = index // vocab, (index % vocab).astype(jnp.int32)
    rows = jax.lax.dynamic_update_slice_in_dim(chosen(state.running, beam), token[:, :, None], used, axis=2)
    stops = (token == end) | (used + 1 >= max_length)

    next_score, index = jax.lax.top_k(score + jnp.where(stops, NEVER, 0), width)
    source = (chosen(beam, index) + width * jnp.arange(batch)[:, None]).reshape(-1)
    cache = cache._replace(layers=jax.tree.map(lambda x: jnp.take(x, source, axis=x.ndim - 4), cache.layers))

    new = (used + 1 - prompt).astype(jnp.float32)
    open_for = state.improvable[:, None]
    if early_stopping is True:
      open_for &= ~jnp.all(state.is_ended, axis=1, keepdims=True)
    just = stops & (jnp.arange(2 * width)[None] < width)
    final = score / new**length_penalty + jnp.where(open_for, 0, NEVER) + jnp.where(just, 0, NEVER)
    best, which = jax.lax.top_k(jnp.concatenate([state.score, final], axis=1), width)
    ended = chosen(jnp.concatenate([state.ended, rows], axis=1), which)
    is_ended = chosen(jnp.concatenate([state.is_ended, just], axis=1), which)

    horizon: Any = max_length - prompt if early_stopping == "never" and length_penalty > 0 else new
    worst = jnp.where(is_ended, jnp.min(best, axis=1, keepdims=True), NEVER)
    improvable = state.improvable & jnp.any(next_score[:, :1] / horizon**length_penalty > worst, axis=1)
    going = jnp.any(improvable) & ~jnp.all(stops)
    if early_stopping is True:
      going &= ~jnp.all(is_ended)
    return _Beams(used + 1, cache, chosen(rows, index), next_score, ended, best, is_ended, improvable, going)

  start = _Beams(
    jnp.asarray(prompt, jnp.int32),
    cache._replace(layers=layers),
    running,
    first,
    running,
    jnp.full((batch, width), NEVER),
    jnp.zeros((batch, width), bool),
    jnp.ones(batch, bool),
    jnp.ones((), bool),
  )
  found = jax.lax.while_loop(lambda state: state.going, step, start)
  tokens = found.ended[:, 0]
  stop = (tokens == end) & (jnp.arange(max_length)[None] >= prompt)
  length = jnp.where(jnp.any(stop, axis=1), jnp.argmax(stop, axis=1) + 1, max_length)
  return tokens, length.astype(jnp.int32), found.score[:, 0]
