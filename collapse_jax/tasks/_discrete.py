"""A discrete distribution, estimated by the frequencies of a sample (Kazdan et al. 2410.16713; Seddik et al. 2404.05090).

Under `replace` this is the Wright-Fisher model of genetic drift. An outcome that the real batch lacks never comes back, so
where there are more outcomes than rows only those of the real batch are kept, renumbered: a generation costs O(num_samples).
Where a model is fitted to the last batch alone, batches are drawn as counts of the outcomes that survive, about
2 num_samples / t of them in generation t: a run until one is left costs O(num_samples log num_samples).
"""

import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from collapse_jax import store as storage
from collapse_jax import theory
from collapse_jax._citation import citing
from collapse_jax.random import choose, exact_table, index, table
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks import _surviving
from collapse_jax.tasks.parts import check_draws, check_integer, check_positive, known, rows_unless_refused
from collapse_jax.types import Array, Context, Data, Expected, Leap, MetricInfo, Summary, TaskSetting

METRICS = {
  "entropy_ratio": MetricInfo(
    "entropy of the model / entropy of the truth", worse="lower", log_scale=True, measures="variance"
  ),
  "entropy": MetricInfo("entropy of the model", "nats"),
  "support_ratio": MetricInfo("outcomes that the model knows / outcomes of the truth", worse="lower", measures="tail"),
  "heterozygosity": MetricInfo(
    "chance that two draws of the model differ", worse="lower", log_scale=True, measures="variance"
  ),
  "total_variation": MetricInfo("total variation distance to the truth"),
  "kl_from_truth": MetricInfo("divergence of the model from the truth, KL(model || truth)", "nats"),
}


MOST_BY_LAW = 2**24 - 1  # counts are drawn in float32


class DiscreteProblem(NamedTuple):
  """The truth: its table [num_outcomes] to draw from (None: uniform), its entropy in nats, its number of outcomes, and the
  probabilities [num_known] of outcomes as the model numbers them."""

  table: Any
  entropy: Any
  support: Any
  known: Any


@citing("2410.16713", "2404.05090")
def discrete(
  num_outcomes: int, num_samples: int, probabilities=None, *, temperature=1.0, draws: str = "auto"
) -> TaskSetting:
  """Frequencies of num_samples draws from num_outcomes outcomes.

  Args:
    num_outcomes: K, at least 2.
    num_samples: rows per batch, at least 2.
    probabilities: [num_outcomes] of the truth; default uniform.
    temperature: samples have probabilities in proportion to frequency^(1 / temperature), down to 2^-62; may be traced, but 1
      as a Python number is faster: rows are then drawn from the training rows.
    draws: "rows"; "law" draws how often each outcome occurs, which does for fits to the last batch alone (`replace`) at temperature
      1; "auto" is "law" where that is possible.
  Raises:
    ValueError: an argument out of range.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.discrete(num_outcomes=5, num_samples=10)
  >>> print(*task.metrics)
  entropy_ratio entropy support_ratio heterozygosity total_variation kl_from_truth
  """
  _check(num_outcomes, num_samples, probabilities, temperature, draws)
  support, true_entropy, heterozygosity = num_outcomes, math.log(num_outcomes), 1 - 1 / num_outcomes
  if probabilities is not None:
    share = np.asarray(probabilities, np.float64)
    share = share / share.sum()
    share = np.where(
      share > 0, np.maximum(share, np.finfo(np.float32).tiny), 0
    )  # what can occur has no infinite divergence
    positive = share[share > 0]
    support, true_entropy = len(positive), float(-(positive * np.log(positive)).sum())
    heterozygosity = float((share * (1 - share)).sum())
  renumbered = num_outcomes > 4 * num_samples
  num_known = num_samples if renumbered else num_outcomes
  resampled = known(temperature) and temperature == 1
  law = resampled and draws != "rows" and num_samples <= MOST_BY_LAW
  capacity = max(_surviving.LEAST, 1 << (min(num_known, num_samples) - 1).bit_length())

  def real_rows(key, problem):
    return index(key, num_samples, num_outcomes) if problem.table is None else choose(key, problem.table, num_samples)

  def init(key):
    weights = None if probabilities is None else exact_table(share)
    truth = jnp.full(num_known, 1 / num_outcomes) if probabilities is None or renumbered else jnp.asarray(share, float)
    problem = DiscreteProblem(weights, jnp.asarray(true_entropy, float), jnp.asarray(support, float), truth)
    rows = real_rows(key, problem)
    if renumbered:
      order = jnp.argsort(rows)
      new = jnp.concatenate([jnp.zeros(1, bool), jnp.diff(rows[order]) != 0])
      outcome, rows = rows, jnp.zeros_like(rows).at[order].set(jnp.cumsum(new, dtype=jnp.int32))
      each = 1 / num_outcomes if probabilities is None else jnp.asarray(share, float)[outcome]
      problem = problem._replace(known=jnp.zeros(num_known).at[rows].set(each))
    return problem, real(problem, rows)

  def drawn(counts) -> Data:
    return batch(summary=counts, count=num_samples)

  def real(problem, rows) -> Data:
    return drawn(of(problem, rows, None)) if law else batch(rows)

  def of(problem, rows, row_weight):
    counts = jnp.zeros(num_known).at[rows].add(1.0 if row_weight is None else row_weight)
    return _surviving.surviving(counts.astype(np.int32), capacity, probabilities is not None) if law else counts

  def add(problem, a, weight_a, b, weight_b):
    return weight_a * a + weight_b * b

  def fit(key, problem, context: Context):
    return context.data.summary if law else context.data.summary / jnp.sum(context.data.summary)

  def sample(key, problem, params, context: Context):
    if law:
      return drawn(_surviving.drawn(key, params, context.t, num_samples)), {}
    if resampled:
      return batch(storage.draw_rows(key, context.data, context.num)), {}
    power = jnp.exp(jnp.log(params / jnp.max(params)) / temperature)  # the largest is 1 at any temperature
    return batch(choose(key, table(power), context.num)), {}

  def evaluate(key, problem, params):
    there = jnp.asarray(problem.known)
    unknown = jnp.maximum(1 - jnp.sum(there), 0.0) if renumbered else 0.0  # mass that no model ever had
    if law and params.outcome is None:

      def of(counts):
        alive = counts > 0
        return alive.astype(float), *_summands(counts / num_samples, jnp.where(alive, 1 / num_outcomes, 0.0))

      alive, *sums = _surviving.over_leaves(params, of)
      return found_of(problem, alive, 1 - alive / num_outcomes, *sums)
    if law:
      outcome, params = params.outcome, _surviving.leaves(params) / num_samples
      alive = params > 0
      unknown += jnp.sum(there.at[jnp.where(alive, outcome, num_known)].set(0.0, mode="drop"))
      there = jnp.where(alive, there[outcome], 0.0)
    return found_of(problem, jnp.sum(params > 0), unknown, *map(jnp.sum, _summands(params, there)))

  def found_of(problem, alive, unknown, entropy, heterozygosity, variation, divergence):
    return {
      "entropy_ratio": entropy / problem.entropy,
      "entropy": entropy,
      "support_ratio": alive / problem.support,
      "heterozygosity": heterozygosity,
      "total_variation": 0.5 * (variation + unknown),
      "kl_from_truth": divergence + unknown,
    }

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    if not resampled:
      return {}
    ratio, limit = (
      theory.schedule_moments(schedule).trace_ratio,
      theory.schedule_moments(schedule, limit=True).trace_ratio,
    )
    light = theory.light_until(schedule, 1.0)
    found = {"heterozygosity": Expected(heterozygosity * ratio, None, light, heterozygosity * limit)}
    if schedule.alone and (schedule.sizes == num_samples).all() and probabilities is None:  # laws of a diffusion
      found["collapse_generation"] = Expected(theory.drift_collapse_time(num_outcomes, num_samples), up_to=0)
      t = np.arange(1, len(schedule.sizes) + 1)
      known_at = (t > 20) & (5 * t < num_samples)
      if num_outcomes >= num_samples and known_at.any():
        found["entropy"] = Expected(np.where(known_at, theory.drift_entropy(t, num_samples), np.nan), up_to=0)
    return found

  def through(key, role, problem, data: Data, absorbed_at, first, stop) -> tuple[Data, Array]:
    counts, absorbed_at = _surviving.leapt(key, role, data.summary, absorbed_at, first, stop, num_samples)
    return drawn(counts), absorbed_at

  def absorbed(problem, params):
    return ~params.mixed if law else jnp.max(params) >= 1

  make = functools.partial(discrete, num_outcomes, num_samples, probabilities, temperature=temperature, draws="rows")
  # Other real rows would have outcomes outside the renumbered ones.
  fresh = None if renumbered else lambda key, problem: real(problem, real_rows(key, problem))
  return TaskSetting(
    init,
    fit,
    sample,
    evaluate,
    num_samples,
    Summary(of) if law else Summary(of, add, keep_rows=True),
    fresh,
    rows_unless_refused(draws, make) if law else None,
    metrics=METRICS,
    absorbed=absorbed,
    predict=predict,
    leap=Leap(through, lambda num_generations: _surviving.work(num_outcomes, num_samples, num_generations))
    if law
    else None,
  )


def _summands(p, q):
  """Of the entropy of p, its heterozygosity, twice its variation distance to q and its divergence from q."""
  entropy = -jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0)
  return entropy, p * (1 - p), jnp.abs(p - q), _divergence(p, q)


def _divergence(p, q):
  """p log(p / q) - p + q, at least 0, without the cancellation of the three."""
  there = q > 0
  excess = (p - q) / jnp.where(there, q, 1.0)  # (1 + x) log(1 + x) - x, by its series where it is near x^2 / 2
  x = jnp.clip(excess, -0.2, 0.2)
  series = x**2 * sum((-x) ** k / ((k + 1) * (k + 2)) for k in range(9))
  far = jnp.where(excess > -1, (1 + excess) * jnp.log(jnp.maximum(1 + excess, 1e-30)), 0.0) - excess
  return jnp.where(there, q * jnp.where(jnp.abs(excess) < 0.2, series, far), jnp.where(p > 0, jnp.inf, 0.0))


def _check(num_outcomes, num_samples, probabilities, temperature, draws):
  check_draws(draws, num_samples)
  if draws == "law" and not (known(temperature) and temperature == 1 and num_samples <= MOST_BY_LAW):
    raise Refused(
      f"draws='law' needs temperature 1 and num_samples of at most {MOST_BY_LAW}: use draws='auto' or 'rows'.",
      argument="draws",
      value=draws,
    )
  check_integer("num_outcomes", num_outcomes, 2)
  check_integer("num_samples", num_samples, 2)
  check_positive("temperature", temperature)
  if probabilities is not None:
    share = np.asarray(probabilities, np.float64)
    if share.shape != (num_outcomes,) or not (
      np.isfinite(share).all() and (share >= 0).all() and (share > 0).sum() > 1
    ):
      raise Refused(
        f"probabilities must be {num_outcomes} numbers of at least 0, two of them positive.", argument="probabilities"
      )
