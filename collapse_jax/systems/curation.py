"""Curated self-consumption (Ferbach et al. 2407.09499)."""

import jax.numpy as jnp
import numpy as np

from collapse_jax import tasks, theory, transforms, workflows
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, pair

SOURCE = "2407.09499"
NUM_SAMPLES, NUM_RUNS = 20_000, 48


def pairs(seed: int = 0) -> list[Pair]:
  """Two types with and without real data and adversaries; a Gaussian whose reward is quadratic."""
  return [
    *_two_types(2, 12, (1, 4, 8, 12), (0.142, 0.362, 0.794, 0.975), seed),
    *_two_types(4, 8, (1, 4, 8), (0.177, 0.643, 0.978), seed),
    *_with_real_data(seed),
    *_flipped(seed),
    *_gaussian(seed),
  ]


def two_types(num_samples: int, share: float = 0.1, **options):
  """Type 1 with probability `share`, reward 1; type 0, reward 0."""
  task = tasks.discrete(2, num_samples, [1 - share, share])
  task = task._replace(evaluate=lambda key, problem, p: {"share": p[1]}, metrics={})
  return transforms.curate(task, reward=lambda rows: rows.astype(float), **options)


def _two_types(num_candidates, T, generations, reference, seed):
  out = simulate(two_types(NUM_SAMPLES, num_candidates=num_candidates), workflows.replace(), NUM_RUNS, T + 1, seed)
  law, twin = (theory.curation_two_types(0.1, 1.0, K, T) for K in (num_candidates, num_candidates + 1))
  return [
    pair(
      "curation, two types",
      SOURCE,
      f"share of the preferred type, K = {num_candidates}, t = {t}",
      out["share"][:, t],
      law[t - 1],
      twin[t - 1],
      value,
    )
    for t, value in zip(generations, reference)
  ]


def _with_real_data(seed):
  rows, T = [], 40
  for ratio, value in ((0.5, 0.1253), (1, 0.1631), (4, 0.5563)):
    task = two_types(5000, num_candidates=2)
    out = simulate(task, workflows.mix(1 / (1 + ratio)), NUM_RUNS, T, seed)
    # The real batch is one draw: its share enters the limit, and varies from run to run.
    law, wrong = (theory.curation_two_types_limit(0.1, 1.0, by) for by in (ratio, 1.2 * ratio))
    slope = (theory.curation_two_types_limit(0.1001, 1.0, ratio) - law) / 0.0001
    values = out["share"][:, -1] - slope * (out["share"][:, 0] - 0.1)
    rows.append(
      pair(
        "curation with real data",
        SOURCE,
        f"limit share, K = 2, {ratio:g} curated per real item",
        values,
        law,
        wrong,
        value,
      )
    )
  return rows


def _flipped(seed):
  out = simulate(two_types(NUM_SAMPLES, num_candidates=2, flip_share=0.3), workflows.replace(), NUM_RUNS, 9, seed)
  law = theory.curation_two_types(0.1, 1.0, 2, 8, flip_share=0.3)
  twin = theory.curation_two_types(0.1, 1.0, 2, 8)
  return [
    pair(
      "adversarial curation",
      "2505.09768",
      f"share of the preferred type, 30 % flipped, t = {t}",
      out["share"][:, t],
      law[t - 1],
      twin[t - 1],
    )
    for t in (1, 8)
  ]


def _gaussian(seed):
  reward = lambda rows: -((rows[:, 0] - 2) ** 2) / 8
  rows = []
  for K, generations, means, variances in (
    (256, (1, 2, 4, 8), (0.41, 0.68, 1.01, 1.36), (0.792, 0.683, 0.510, 0.338)),
    (4, (1, 2, 4, 8), (None,) * 4, (0.826, 0.708, 0.548, 0.377)),
  ):
    num = 2_000 if K == 256 else 20_000
    task = transforms.curate(tasks.gaussian(1, num, mean=jnp.zeros(1)), K, reward)
    out = simulate(task, workflows.replace(), 24 if K == 256 else NUM_RUNS, 9, seed)
    law, twin = theory.curation_gaussian(2, 2, K, 8), theory.curation_gaussian(2, 2, 2, 8)
    shrink = (1 - 1 / num) ** np.arange(1, 10)  # fits divide by n
    for t, mean, variance in zip(generations, means, variances):
      rows.append(
        pair(
          "curation, Gaussian",
          SOURCE,
          f"mean, K = {K}, t = {t}",
          out["marginal_mean"][:, t],
          law[0][t - 1],
          twin[0][t - 1],
          mean,
        )
      )
      rows.append(
        pair(
          "curation, Gaussian",
          SOURCE,
          f"variance, K = {K}, t = {t}",
          out["covariance_trace_ratio"][:, t] / shrink[t],
          law[1][t - 1],
          twin[1][t - 1],
          variance,
        )
      )
  return rows
