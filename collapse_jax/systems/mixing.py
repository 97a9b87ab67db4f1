"""Mixtures: rise and fall and total variation (2402.11778), best weights (2502.18049), fresh data (2310.00429)."""

import jax.numpy as jnp
import numpy as np

from collapse_jax import tasks, theory, workflows
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, pair


def pairs(seed: int = 0) -> list[Pair]:
  return [*_rise_and_fall(seed), *_total_variation(seed), *_weights(seed), *_fresh(seed)]


def _rise_and_fall(seed):
  """n * error of the mean at t = 10 against synthetic items per real item: it peaks at 4.6."""
  rows, n, T, num_runs = [], 1000, 10, 20_000
  ratios = 1.0, theory.mix_first_order_peak(T), 50.0
  workflow = lambda i: workflows.mix(jnp.asarray([1 / (1 + ratio) for ratio in ratios])[i // num_runs])
  out = simulate(tasks.gaussian(1, n), workflow, len(ratios) * num_runs, T, seed)
  errors = out["squared_error_of_mean"][:, -1].reshape(len(ratios), num_runs)
  for ratio, values in zip(ratios, errors):
    law, twin = (theory.gaussian_mix(n, 1 / (1 + ratio), T, fresh=fresh).mean_error[-1] * n for fresh in (False, True))
    rows.append(
      pair(
        "mixture with real data",
        "2402.11778",
        f"n * error of the mean, t = 10, {ratio:.3g} synthetic per real item",
        n * values,
        law,
        twin,
        float(theory.mix_first_order(T, ratio)),
      )
    )
  return rows


def _total_variation(seed):
  n = 10_000
  out = simulate(tasks.gaussian(1, n, distances=True), workflows.replace(), 4000, 1, seed)
  law, twin = (
    theory.mean_total_variation_of_fit(n),
    1 / (np.pi * np.sqrt(n)),
  )  # the twin knows the error of the mean only
  rows = [
    pair("total variation", "2402.11778", f"of a Gaussian fitted to {n} rows", out["total_variation"][:, 0], law, twin)
  ]
  out = simulate(tasks.discrete(2, 400), workflows.replace(), 20_000, 1, seed)
  law, twin = (theory.total_variation_of_coin(num, 0.5) for num in (400, 440))
  return [
    *rows,
    pair(
      "total variation", "2402.11778", "of a coin estimated from 400 throws", out["total_variation"][:, 0], law, twin
    ),
  ]


def _weights(seed):
  rows, n, num_runs = [], 20, 20_000
  cases = [
    (ratio, name, weight, value)
    for ratio, best, pooled in ((1.0, 0.618, 0.667), (0.25, 0.390, None))  # real per synthetic
    for name, weight, value in (
      ("best weight", float(theory.golden_weight(ratio)), best),
      ("pooled", ratio / (1 + ratio), pooled),
    )
  ]
  table = np.array([(ratio / (1 + ratio), weight) for ratio, _, weight, _ in cases], np.float32)

  def workflow(i):
    share, weight = jnp.asarray(table)[i // num_runs]
    return workflows.mix(share, fresh=True, real_weight=weight)

  out = simulate(tasks.exponential_family("gaussian", n), workflow, len(cases) * num_runs, 40, seed)
  for (ratio, name, weight, value), errors in zip(
    cases, out["squared_error_of_mean"][:, -1].reshape(len(cases), num_runs)
  ):
    law, twin = (float(theory.weighted_mixing_error(weight, by * ratio)) for by in (1, 1.3))
    rows.append(
      pair(
        "weighted mixing",
        "2502.18049",
        f"n * error of the mean, {ratio:g} real per synthetic item, {name}",
        n * errors,
        law,
        twin,
        value,
      )
    )
  return rows


def _fresh(seed):
  n, rows = 100, []
  for fresh in (False, True):
    out = simulate(tasks.gaussian(1, n), workflows.mix(0.25, fresh=fresh), 20_000, 40, seed)
    law = theory.gaussian_mix(n, 0.25, 40, fresh=fresh).mean_error[-1] * n
    rows.append(
      pair(
        "fresh data" if fresh else "iterative retraining",
        "2310.00429",
        "n * error of the mean, 3 synthetic per real item, t = 40",
        n * out["squared_error_of_mean"][:, -1],
        law,
        theory.gaussian_mix(n, 0.25, 40, fresh=not fresh).mean_error[-1] * n,
        np.round((4 if fresh else 10) / 7, 3),
      )
    )
  return rows
