"""A discrete distribution, estimated by the frequencies of a sample (Kazdan et al. 2410.16713; Seddik et al. 2404.05090).

Under `replace` this is the Wright-Fisher model of genetic drift. An outcome that the real batch lacks never comes back, so
where there are more outcomes than rows only those of the real batch are kept, renumbered: a generation costs O(num_samples).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import store as storage
from collapse_jax.random import index
from collapse_jax.store import batch
from collapse_jax.tasks.parts import check_integer, check_positive, known
from collapse_jax.types import Context, MetricInfo, Summary, TaskSetting

METRICS = {
    "entropy_ratio": MetricInfo("entropy of the model / entropy of the truth", worse="lower", log_scale=True,
                                measures="variance"),
    "entropy": MetricInfo("entropy of the model", "nats"),
    "support_ratio": MetricInfo("outcomes that the model knows / outcomes of the truth", worse="lower", measures="tail"),
    "heterozygosity": MetricInfo("chance that two draws of the model differ", worse="lower", log_scale=True,
                                 measures="variance"),
    "total_variation": MetricInfo("total variation distance to the truth"),
    "kl_from_truth": MetricInfo("divergence of the model from the truth, KL(model || truth)", "nats"),
}


class DiscreteProblem(NamedTuple):
  """The truth: cumulative probabilities [num_outcomes] (None: uniform), its entropy in nats, its number of outcomes, and the
  probabilities [num_known] of outcomes as the model numbers them."""
  cumulative: Any
  entropy: Any
  support: Any
  known: Any


def discrete(num_outcomes: int, num_samples: int, probabilities=None, *, temperature=1.0) -> TaskSetting:
  """Frequencies of num_samples draws from num_outcomes outcomes.

  Args:
    num_outcomes: K, at least 2.
    num_samples: rows per batch, at least 2.
    probabilities: [num_outcomes] of the truth; default uniform.
    temperature: samples have probabilities in proportion to frequency^(1 / temperature); may be traced, but 1 as a Python
      number is faster: rows are then drawn from the training rows.
  Raises:
    ValueError: an argument out of range.
  """
  _check(num_outcomes, num_samples, probabilities, temperature)
  support, true_entropy = num_outcomes, math.log(num_outcomes)
  if probabilities is not None:
    share = np.asarray(probabilities, np.float64)
    share = share / share.sum()
    positive = share[share > 0]
    support, true_entropy = len(positive), float(-(positive * np.log(positive)).sum())
  renumbered = num_outcomes > 4 * num_samples
  num_known = num_samples if renumbered else num_outcomes
  resampled = known(temperature) and temperature == 1

  def real_rows(key, problem):
    if problem.cumulative is None:
      return index(key, num_samples, num_outcomes)
    u = jax.random.uniform(key, (num_samples,))
    rows = jnp.searchsorted(problem.cumulative, u, side="right").astype(jnp.int32)
    return jnp.minimum(rows, num_outcomes - 1)

  def init(key):
    cumulative = None if probabilities is None else jnp.asarray(np.cumsum(share), float)
    truth = jnp.full(num_known, 1 / num_outcomes) if probabilities is None or renumbered else jnp.asarray(share, float)
    problem = DiscreteProblem(cumulative, jnp.asarray(true_entropy, float), jnp.asarray(support, float), truth)
    rows = real_rows(key, problem)
    if renumbered:
      order = jnp.argsort(rows)
      new = jnp.concatenate([jnp.zeros(1, bool), jnp.diff(rows[order]) != 0])
      outcome, rows = rows, jnp.zeros_like(rows).at[order].set(jnp.cumsum(new, dtype=jnp.int32))
      each = 1 / num_outcomes if probabilities is None else jnp.asarray(share, float)[outcome]
      problem = problem._replace(known=jnp.zeros(num_known).at[rows].set(each))
    return problem, batch(rows)

  def of(problem, rows, row_weight):
    return jnp.zeros(num_known).at[rows].add(1.0 if row_weight is None else row_weight)

  def add(problem, a, weight_a, b, weight_b):
    return weight_a * a + weight_b * b

  def fit(key, problem, context: Context):
    return context.data.summary / jnp.sum(context.data.summary)

  def sample(key, problem, params, context: Context):
    if resampled:
      return batch(storage.draw_rows(key, context.data, context.num)), {}
    power = jnp.where(params > 0, jnp.exp(jnp.log(params) / temperature), 0.0)
    below = jnp.cumsum(power)
    u = below[-1] * jax.random.uniform(key, (context.num,))
    rows = jnp.minimum(jnp.searchsorted(below, u, side="right"), num_known - 1)
    return batch(rows.astype(jnp.int32)), {}

  def evaluate(problem, params):
    entropy = -jnp.sum(jnp.where(params > 0, params * jnp.log(params), 0.0))
    missing = 1 - jnp.sum(problem.known)
    cross = -jnp.sum(jnp.where(params > 0, params * jnp.log(jnp.maximum(problem.known, 1e-38)), 0.0))
    return {"entropy_ratio": entropy / problem.entropy, "entropy": entropy,
            "support_ratio": jnp.sum(params > 0) / problem.support, "heterozygosity": 1 - jnp.sum(params ** 2),
            "total_variation": 0.5 * (jnp.sum(jnp.abs(params - problem.known)) + missing), "kl_from_truth": cross - entropy}

  # Other real rows would have outcomes outside the renumbered ones.
  fresh = None if renumbered else lambda key, problem: batch(real_rows(key, problem))
  return TaskSetting(init, fit, sample, evaluate, num_samples, Summary(of, add, keep_rows=True), fresh, metrics=METRICS,
                     absorbed=lambda problem, params: jnp.max(params) >= 1)


def _check(num_outcomes, num_samples, probabilities, temperature):
  check_integer("num_outcomes", num_outcomes, 2)
  check_integer("num_samples", num_samples, 2)
  check_positive("temperature", temperature)
  if probabilities is not None:
    share = np.asarray(probabilities, np.float64)
    if share.shape != (num_outcomes,) or not (np.isfinite(share).all() and (share >= 0).all() and (share > 0).sum() > 1):
      raise ValueError(f"probabilities must be {num_outcomes} numbers of at least 0, two of them positive.")
