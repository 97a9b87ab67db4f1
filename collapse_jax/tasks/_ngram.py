"""Sequences of tokens, modelled by counts of n-grams: the smallest language model, with a truth that is known."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy

from collapse_jax.random import choose, table
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks.parts import check_integer, check_positive
from collapse_jax.types import Context, MetricInfo, Summary, TaskSetting

MAX_TABLE = 10**7  # probabilities of a model
_STEPS = 200  # of the power iteration for a stationary law

METRICS = {
  "test_nll": MetricInfo(
    "cross entropy of the truth under the model", "nats per token", worse="higher", measures="risk"
  ),
  "entropy": MetricInfo("entropy of the model given its context", "nats per token", worse="lower", measures="variance"),
  "total_variation": MetricInfo("mean total variation of the next token, over contexts of the truth", worse="higher"),
}


class NgramModel(NamedTuple):
  """first [contexts]: law of the first order - 1 tokens; next [contexts, vocab_size]: of a token given those before it."""

  first: Any
  next: Any


def ngram(
  num_samples: int,
  vocab_size: int = 50,
  *,
  order: int = 2,
  length: int = 64,
  truth=None,
  concentration: float = 0.1,
  smoothing=0.01,
  temperature=1.0,
) -> TaskSetting:
  """Conditional frequencies of tokens; rows are {"tokens": [n, length] int32, "length": [n] int32}.

  Args:
    num_samples: sequences per batch.
    vocab_size: V; ignored where `truth` is given.
    order: 2 is a bigram, 1 independent tokens.
    length: tokens of a sequence, at least `order`.
    truth: [V^(order-1), V] conditional probabilities, a row a context of order - 1 tokens; None: each run draws its own, every row
      from a symmetric Dirichlet law.
    concentration: of that law: the smaller, the more predictable.
    smoothing: added to every count, above 0; may be traced.
    temperature: of the next token's law, p^(1 / temperature), normalised; may be traced. The first order - 1 tokens follow the
      model's own law.
  Raises:
    ValueError: an argument out of range, or a table that is no such probabilities or too large.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.ngram(num_samples=10, vocab_size=5)
  >>> print(*task.metrics)
  test_nll entropy total_variation
  """
  truth = None if truth is None else np.asarray(truth, np.float64)
  vocab_size = truth.shape[-1] if truth is not None and truth.ndim else vocab_size
  _check(num_samples, vocab_size, order, length, truth, concentration, smoothing, temperature)
  contexts = vocab_size ** (order - 1)

  def pushed(context, token):
    """The context after one more token."""
    return jnp.zeros_like(context) if order == 1 else (context % (contexts // vocab_size)) * vocab_size + token

  def stationary(conditional):
    def step(_, law):
      joint = law[:, None] * conditional
      law = joint.sum()[None] if order == 1 else joint.reshape(vocab_size, -1).sum(axis=0)
      return law / jnp.sum(law)

    return jax.lax.fori_loop(0, _STEPS, step, jnp.full(contexts, 1 / contexts))

  def draw(key, model, num):
    """`num` sequences: the first context, then a token at a time."""
    first_key, next_key = jax.random.split(key)
    context = choose(first_key, table(model.first), num)
    weights = table(model.next)

    def step(context, key):
      token = choose(key, weights, num, context)
      return pushed(context, token), token

    start = [(context // vocab_size ** (order - 2 - i)) % vocab_size for i in range(order - 1)]
    rest = jax.lax.scan(step, context, jax.random.split(next_key, length - order + 1))[1]
    tokens = jnp.concatenate([jnp.stack(start), rest]) if start else rest
    return batch({"tokens": tokens.T, "length": jnp.full(num, length, jnp.int32)})

  def fresh(key, problem):
    return draw(key, problem, num_samples)

  def init(key):
    truth_key, data_key = jax.random.split(key)
    if truth is None:
      law = jax.nn.softmax(jax.random.loggamma(truth_key, jnp.full((contexts, vocab_size), concentration)), axis=1)
    else:
      law = jnp.asarray(truth, float)
    problem = NgramModel(stationary(law), law)
    return problem, fresh(data_key, problem)

  def of(problem, rows, row_weight):
    tokens = rows["tokens"]
    num = len(tokens)
    weight = jnp.ones(num) if row_weight is None else row_weight
    context = jnp.zeros(num, jnp.int32)
    for i in range(order - 1):
      context = context * vocab_size + tokens[:, i]
    first = jnp.zeros(contexts).at[context].add(weight)

    def step(context, token):
      return pushed(context, token), context * vocab_size + token

    cell = jax.lax.scan(step, context, tokens[:, order - 1 :].T)[1]
    counts = jnp.zeros(contexts * vocab_size).at[cell].add(jnp.broadcast_to(weight[None], cell.shape))
    return NgramModel(first, counts.reshape(contexts, vocab_size))

  def add(problem, a, weight_a, b, weight_b):
    return jax.tree.map(lambda x, y: weight_a * x + weight_b * y, a, b)

  def fit(key, problem, context: Context) -> NgramModel:
    counts = context.data.summary
    some = jnp.where(jnp.sum(counts.first) > 0, smoothing, jnp.nan)  # no sequence, no model
    first, following = counts.first + some, counts.next + some
    return NgramModel(first / jnp.sum(first), following / jnp.sum(following, axis=1, keepdims=True))

  def sample(key, problem, params, context: Context):
    return draw(key, params._replace(next=jax.nn.softmax(jnp.log(params.next) / temperature, axis=1)), context.num), {}

  def evaluate(key, problem, params):
    nll = -jnp.sum(xlogy(problem.next, params.next), axis=1)
    own = stationary(params.next)
    return {
      "test_nll": jnp.sum(problem.first * nll),
      "entropy": -jnp.sum(own * jnp.sum(xlogy(params.next, params.next), axis=1)),
      "total_variation": 0.5 * jnp.sum(problem.first * jnp.sum(jnp.abs(params.next - problem.next), axis=1)),
    }

  def next_token(problem, params, tokens):
    context = jnp.zeros(len(tokens), jnp.int32)

    def step(context, token):
      return pushed(context, token), context

    before = jax.lax.scan(step, context, tokens.T)[1].T
    if order == 1:
      before = jnp.zeros_like(before)
    return jnp.log(params.next)[before]

  return TaskSetting(
    init, fit, sample, evaluate, num_samples, Summary(of, add), fresh, metrics=METRICS, next_token=next_token
  )


def conditional_frequencies(text: str, order: int = 2, smoothing: float = 0.01) -> np.ndarray:
  """Truth [V^(order-1), V] from the characters of a text, V different ones in order of code points.

  Raises:
    ValueError: fewer than two different characters, or a table that is too large.
  """
  alphabet = sorted(set(text))
  if len(alphabet) < 2 or len(text) < order:
    raise Refused(
      f"text must have two different characters and {order} in all, got {len(text)} of {len(alphabet)}.",
      argument="text",
    )
  _check_table_size(len(alphabet), order)
  place = {character: i for i, character in enumerate(alphabet)}
  codes = np.array([place[character] for character in text])
  context = sum(codes[i : len(codes) - order + 1 + i] * len(alphabet) ** (order - 2 - i) for i in range(order - 1))
  counts = np.full((len(alphabet) ** (order - 1), len(alphabet)), smoothing, np.float64)
  np.add.at(counts, (context if order > 1 else np.zeros(len(codes), int), codes[order - 1 :]), 1.0)
  return counts / counts.sum(axis=1, keepdims=True)


def _check_table_size(vocab_size, order):
  if order * math.log(vocab_size) > math.log(MAX_TABLE):
    raise Refused(
      f"order {order} of {vocab_size} tokens has more than {MAX_TABLE} probabilities: take fewer of either."
    )


def _check(num_samples, vocab_size, order, length, truth, concentration, smoothing, temperature):
  check_integer("num_samples", num_samples, 2)
  check_integer("vocab_size", vocab_size, 2)
  check_integer("order", order, 1)
  _check_table_size(vocab_size, order)
  check_integer("length", length, order)
  check_positive("concentration", concentration)
  check_positive("smoothing", smoothing)
  check_positive("temperature", temperature)
  if truth is not None and (
    truth.shape != (vocab_size ** (order - 1), vocab_size)
    or not (truth >= 0).all()
    or not np.allclose(truth.sum(axis=1), 1, atol=1e-5)
  ):
    raise Refused(
      f"truth must be [V^(order-1), V] probabilities whose rows sum to 1, got shape {truth.shape}.", argument="truth"
    )
