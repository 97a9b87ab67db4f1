"""Token editing and its linear-regression analysis (Zhu et al. 2412.14689)."""

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import tasks, theory, transforms, workflows
from collapse_jax.random import new_key
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, pair

SOURCE = "2412.14689"
DIM, NUM_SAMPLES, NUM_RUNS = 2, 500, 1600


def pairs(seed: int = 0) -> list[Pair]:
  return [*_labels(seed), *_tokens(seed)]


# mask, base, noise, share, generation, value in the notes, and what the paper's theorem or another mask would give.
CASES = (
  ("fresh", "chain", "additive", 0.27, 11, None, 2.0),
  ("disjoint", "chain", "additive", 0.1, 12, 2.00, 2.1),
  ("fixed", "chain", "regenerated", 0.27, 12, 1.66, 2.0),
  ("fixed", "chain", "regenerated", 0.6, 16, 3.44, 2.0),
  ("fresh", "chain", "regenerated", 0.27, 11, None, 2.0),
  ("fresh", "anchor", "regenerated", 0.27, 8, 1.504, 2.0),
  ("disjoint", "chain", "regenerated", 0.1, 12, 3.92, 2.0),
)


def _labels(seed):
  """Squared errors over that of the first fit, n / d = 250."""
  rows = []
  first = DIM / (NUM_SAMPLES - DIM - 1)
  for mask, base, noise, share, t, value, twin in CASES:
    task = tasks.linear_regression(DIM, NUM_SAMPLES, draws="rows")
    task = transforms.edit_labels(task, share, base=base, mask=mask, noise=noise)
    out = simulate(task, workflows.replace(), NUM_RUNS, t, seed)
    law = theory.edited_regression(share, t, base=base, mask=mask, noise=noise)
    error = out["test_mse"] / first
    what = f"{noise}, {mask} masks, {base}, m = {share:g}"
    if mask == "fresh" and base == "chain":
      predicted = share if noise == "additive" else share * (2 - share)
      rows.append(
        pair(
          "edited labels",
          SOURCE,
          f"growth per generation, {what}",
          (error[:, -1] - error[:, 0]) / (t - 1),
          predicted,
          0.0,
          0.270 if noise == "additive" else 0.467,
        )
      )
    else:
      rows.append(
        pair(
          "edited labels",
          SOURCE,
          f"error of model {t}, {what}",
          error[:, -1],
          law[-1],
          twin if mask != "disjoint" or noise != "additive" else 1.5,
          value,
        )
      )
  return rows


def _tokens(seed):
  """Shares that are eligible and changed at the paper's threshold, by the true model, so that both are sums over its table."""
  vocabulary, threshold = 50, 0.99
  table = np.asarray(
    jax.nn.softmax(jax.random.loggamma(new_key(5), jnp.full((vocabulary, vocabulary), 0.02)), axis=1), np.float64
  )
  task = tasks.ngram(100, truth=table, length=64)
  law = np.asarray(task.init(new_key(0))[0].first, np.float64)
  true = task._replace(fit=lambda key, problem, context: problem)
  rows = []
  for beta in (1.0, 1.5):
    out = simulate(transforms.edit_tokens(true, threshold, 8, beta), workflows.replace(), 100, 1, seed)
    if beta == 1:
      rows.append(
        pair(
          "token editing",
          SOURCE,
          "eligible share, bigram",
          out["eligible_share"][:, 0],
          theory.eligible_share(table, law, table, threshold),
          theory.eligible_share(table, law, table, 0.9),
        )
      )
    rows.append(
      pair(
        "token editing",
        SOURCE,
        f"changed share, bigram, beta = {beta:g}",
        out["changed_share"][:, 0],
        theory.changed_share(table, law, table, threshold, 8, beta),
        theory.changed_share(table, law, table, threshold, 8, beta + 0.3),
      )
    )
  return rows
