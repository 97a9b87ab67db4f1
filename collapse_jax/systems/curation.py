"""Curated self-consumption (Ferbach et al. 2407.09499)."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np

from collapse_jax import tasks, theory, transforms, workflows
from collapse_jax.plotting.panels import finish, panels, text_of, viridis, wrapped
from collapse_jax.systems.drawing import THEORY, curves, name_axes, sliced
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, System, pair

__all__ = ["SYSTEM", "figures", "pairs", "two_types"]

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
  """Type 1 with probability `share`, reward 1; type 0, reward 0.

  Args:
    num_samples: rows per batch.
    share: p of type 1 in the truth.
    options: of `transforms.curate`, num_candidates among them.
  """
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


def figures(results):
  """Reward and its variance over generations, a column a share of real data; shares of classes below one another."""
  metrics = ["candidate_reward", "variance_of_exp_reward"]
  metrics += ["marginal_mean", "covariance_trace_ratio"] if results.attrs["setting"] == "gaussian" else []
  metrics += [name for name in ("test_nll", "kl_from_truth") if name in results]

  def draw(part):
    figure, axes = panels(len(metrics), part.sizes["real_fraction"], share_y="row")
    left_out, known, bounded, t = 0, False, False, part.generation.values
    cells = list(itertools.product(part.num_candidates.values, part.flip_share.values))
    for (metric, row), (j, fraction) in itertools.product(zip(metrics, axes), enumerate(part.real_fraction.values)):
      row[j].set_title(f"real share {text_of(fraction)}", fontsize=9)
      per_real = (1 - fraction) / fraction if fraction else np.inf
      for (num, flip), shade in zip(cells, viridis(len(cells))):
        label = f"K = {num}" + (f", {100 * flip:.0f} % flipped" if len(part.flip_share) > 1 else "")
        cell = {"real_fraction": fraction, "num_candidates": num, "flip_share": flip}
        left_out += curves(row[j], part, metric, cell, shade, label)
        law = _curation_law(part.attrs, metric, int(num), float(flip), per_real, int(t[-1]))
        if law is not None:
          known = True
          row[j].plot(t, law[t - 1], **THEORY)
        bound = theory.curation_divergence_bound(int(num), per_real)
        if metric == "kl_from_truth" and flip == 0 and np.isfinite(bound):
          bounded = True
          row[j].axhline(bound, color=shade, linestyle=":", linewidth=1.2)
      if metric == "test_nll":
        row[j].set_yscale("symlog", linthresh=10)
    name_axes(axes, part, metrics)
    finish(figure, axes, "", part, left_out, 0, known, "dotted: bound on the divergence" if bounded else "")
    return figure

  figures = sliced("curation", results, ("real_fraction", "num_candidates", "flip_share"), draw)
  for metric in ("component_share", "class_share"):
    if metric in results:
      figures |= sliced(metric, results, ("real_fraction", "num_candidates"), functools.partial(_shares, metric))
  return figures


def _curation_law(about, metric, num_candidates, flip_share, synthetic_per_real, T):
  """The law [T] of a metric for many rows, where there is one."""
  if T < 2:
    return None
  if about["setting"] == "two_types":
    share, gap = float(about["share"]), float(about["gap"])
    p = np.array(
      [
        share,
        *theory.curation_two_types(
          share, gap, num_candidates, T - 1, flip_share=flip_share, synthetic_per_real=synthetic_per_real
        ),
      ]
    )
    divergence = p * np.log(p / share) + (1 - p) * np.log(np.maximum(1 - p, 1e-300) / (1 - share))
    return {
      "candidate_reward": gap * p,
      "variance_of_exp_reward": p * (1 - p) * np.expm1(gap) ** 2,
      "kl_from_truth": divergence,
    }.get(metric)
  if about["setting"] == "gaussian" and flip_share == 0 and np.isinf(synthetic_per_real):
    means, variances = theory.curation_gaussian(float(about["centre"]), float(about["width"]), num_candidates, T - 1)
    mean, variance = np.array([0, *means]), np.array([1, *variances])
    return {
      "marginal_mean": mean,
      "covariance_trace_ratio": variance,
      "kl_from_truth": 0.5 * (variance + mean**2 - 1 - np.log(variance)),
    }.get(metric)
  return None


def _shares(metric, part):
  """Stacked shares over generations: a row a number of candidates, a column a share of real data."""
  from matplotlib import colormaps

  figure, axes = panels(part.sizes["num_candidates"], part.sizes["real_fraction"], share_y=True)
  dim = next(dim for dim in part[metric].dims if dim in ("component", "class_label"))
  shades = colormaps["tab10"](np.arange(part.sizes[dim]) % 10)
  for (i, num), (j, fraction) in itertools.product(
    enumerate(part.num_candidates.values), enumerate(part.real_fraction.values)
  ):
    shares = (
      part[metric].sel(num_candidates=num, real_fraction=fraction).mean("seed").transpose(dim, "generation").values
    )
    names = [f"{'mode' if metric == 'component_share' else 'class'} {k}" for k in range(len(shares))]
    axes[i][j].stackplot(part.generation.values, shares, colors=shades, labels=names)
    axes[i][j].set_title(f"K = {num}, real share {text_of(fraction)}", fontsize=9)
    axes[i][j].set_ylim(0, 1)
  for axis in axes[-1]:
    axis.set_xlabel("generation t")
  axes[0][0].set_ylabel(wrapped(part[metric].attrs))
  finish(figure, axes, "", part, 0, 0, False, "means over seeds")
  return figure


TEXT = """## Curation

Ferbach et al., [2407.09499](https://arxiv.org/abs/2407.09499): of K samples one is kept, by softmax of its reward.

```python
task = transforms.curate(tasks.gaussian_mixture("ring", 100, 8, num_steps=5), 4, rewards.near([8.0, 0.0]))
workflow = workflows.mix(0.5)
```

`python -m experiments.curation --setting=ring` (or `digits`, `gaussian`, `two_types`).
Without real data one mode is left; with them shares level off, and the divergence from the truth stays bounded.
The published limit of many candidates is held against K = 256.

![Curated mixture on a ring](figures/curation_ring.png)
![Shares of its modes](figures/curation_shares.png)

## Adversarial curation

Wei and Zhang, [2505.09768](https://arxiv.org/abs/2505.09768): a share of the choices follows the opposite reward.

```python
task = transforms.curate(tasks.gaussian(1, 50), 2, rewards.quadratic(2.0, 2.0), flip_share=0.3)
workflow = workflows.replace()
```

`python -m experiments.curation --setting=two_types --num_samples=1000 --num_seeds=40 --num_candidates=2
--flip_shares=0,0.3,0.7 --real_fractions=0,0.5,0.8`.

![Flipped choices](figures/curation_flipped.png)
"""

SYSTEM = System(TEXT, pairs, figures)
