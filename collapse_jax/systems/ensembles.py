"""Ensembles of generators (van Breugel et al. 2305.09235)."""

import itertools

import jax.numpy as jnp
import numpy as np

from collapse_jax import tasks, theory, transforms, workflows
from collapse_jax.plotting.panels import finish, panels, wrapped
from collapse_jax.systems.drawing import GREY, points, sliced
from collapse_jax.systems.runs import simulate
from collapse_jax.systems.types import Pair, System, pair

__all__ = ["SYSTEM", "figures", "member_means", "pairs"]

SOURCE = "2305.09235"
NUM_REAL, NUM_RUNS = 100, 10_000
# Of each generator: its first generation, and its last.
DARK_AND_LIGHT = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#8FD6BF", "#7B3F8C", "#CC79A7")


def pairs(seed: int = 0) -> list[Pair]:
  """Predictions beside simulations."""
  return [*_naive(seed), *_pooled(seed), *_members(seed)]


def _naive(seed):
  """The second model's mean, whose m rows are taken for real."""
  rows = []
  for ratio, value in ((1, 0.834), (5, 0.576), (20, 0.331)):
    task = tasks.exponential_family("gaussian", NUM_REAL)
    out = simulate(task, workflows.replace(num_emitted=ratio * NUM_REAL), NUM_RUNS, 2, seed)
    covered = np.abs(out["fitted_mean"][:, 1]) < 1.96 / np.sqrt(ratio * NUM_REAL)
    rows.append(
      pair(
        "one generator",
        SOURCE,
        f"coverage of a naive 95 % interval, m/n = {ratio}",
        covered,
        theory.naive_coverage(ratio),
        theory.naive_coverage(1.5 * ratio),
        value,
      )
    )
  return rows


def _pooled(seed):
  """The wrong theory takes samples for real rows, or members for ones that each had real rows of their own."""
  rows = []
  for members, value in ((1, 2.00), (5, 1.20), (10, 1.10), (20, 1.05)):
    task, n = tasks.exponential_family("gaussian", 20), 20
    if members > 1:
      task = transforms.ensemble(task, members)
    out = simulate(task, workflows.replace(num_emitted=members * n), 60_000 if members == 1 else 16_000, 2, seed)
    rows.append(
      pair(
        "ensemble",
        SOURCE,
        f"n * error of the pooled mean, K = {members}",
        n * out["squared_error_of_mean"][:, 1],
        theory.pooled_error(members),
        2 / members if members > 1 else 1.0,
        value,
      )
    )
  return rows


def member_means(task, num_members: int):
  """The task, with the mean of each member's rows as a metric."""

  def means(problem, context, data):
    return {"member_means": jnp.mean(data.rows[0].reshape(num_members, -1), axis=1)}

  return transforms.observe(task, means)


def _members(seed):
  rows, members, n = [], 20, 40
  for resample, values in (("none", (0.925, 0.599, 0.334)), ("bootstrap", (0.983, 0.949, 0.931))):
    for ratio, value in zip((1, 5, 20), values):
      task = transforms.ensemble(tasks.exponential_family("gaussian", n), members, resample)
      num_runs = {1: 1500, 5: 800, 20: 300}[ratio]
      out = simulate(
        member_means(task, members), workflows.replace(num_emitted=members * ratio * n), num_runs, 1, seed, at_once=100
      )
      means = out["member_means"][:, 0]
      covered = np.abs(means.mean(axis=1)) < 1.96 * means.std(axis=1, ddof=1)
      other = "none" if resample == "bootstrap" else "bootstrap"
      rows.append(
        pair(
          "ensemble",
          SOURCE,
          f"coverage of 1.96 deviations of 20 members, {resample}, m/n = {ratio}",
          covered,
          theory.member_coverage(ratio, members, resample),
          theory.member_coverage(ratio, members, other),
          value,
        )
      )
  return rows


def figures(results):
  """Classifiers by their training rows: a row a score, a column a data set, real rows as a grey line."""

  def draw(part):
    metrics = ["minority_share"] * ("minority_share" in part)
    metrics += [
      f"downstream_{name}"
      for name in ("auc", "nll", "brier", "calibration_error", "coverage")
      if f"downstream_{name}" in part
    ]
    figure, axes = panels(len(metrics), part.sizes["dataset"])
    generations = part.generation.values[[0, -1]] if len(part.generation) > 1 else part.generation.values
    left_out = 0
    for (metric, row), (j, dataset) in itertools.product(zip(metrics, axes), enumerate(part.dataset.values)):
      row[j].set_title(str(dataset), fontsize=9)
      score = metric.removeprefix("downstream_")
      pooled, oracle = f"pooled_{score}", f"oracle_{score}"  # of what is no score of classifiers there is neither
      cells = itertools.product(part.generator.values, generations)
      for (generator, t), shade in zip(cells, itertools.cycle(DARK_AND_LIGHT)):
        members = np.sort(part.num_members.values)
        members = members[members > 1] if metric.endswith("coverage") else members
        if not len(members):
          continue
        values = part[metric].sel(dataset=dataset, generator=generator, generation=t, num_members=members)
        name = str(generator).replace("_", " ")
        left_out += points(
          row[j], members, values.transpose("seed", "num_members").values, shade, f"{name}, generation {t}"
        )
        if pooled in part and len(several := members[members > 1]):
          values = (
            part[pooled].sel(dataset=dataset, generator=generator, generation=t, num_members=several).mean("seed")
          )
          row[j].plot(several, values, "x:", color=shade, linewidth=1, markersize=5)
      if oracle in part:
        row[j].axhline(
          float(part[oracle].sel(dataset=dataset).isel(generation=0).mean()),
          color=GREY,
          linewidth=1.2,
          label="trained on real rows",
        )
      row[j].set_xticks(part.num_members.values)
    for row, metric in zip(axes, metrics):
      row[0].set_ylabel(wrapped(part[metric].attrs))
    for axis in axes[-1]:
      axis.set_xlabel("generators")
    axes[0][0].plot([], [], "x:", color="black", linewidth=1, markersize=5, label="one classifier for all rows")
    finish(figure, axes, "", part, left_out, 0, False)
    return figure

  return sliced("ensembles", results, ("dataset", "generator", "num_members"), draw)


TEXT = """## Ensembles of generators

van Breugel et al., [2305.09235](https://arxiv.org/abs/2305.09235): several generators of the same data, each with a classifier of its
own, tested on real rows. Members that differ by seed only cannot see the sampling error of their data; a bootstrap can. Members may
be deep: all of them are trained in one program.

```python
members = transforms.ensemble(tasks.labelled("moons", 50, "kde"), 4, resample_real="bootstrap")
task = transforms.train_on_synthetic(members, 4)
workflow = workflows.replace(num_emitted=4 * 50)
```

`python -m experiments.ensembles`; deep members, as in the paper, with `--generators=copula,tvae,ctgan`, also of a table of mixed
columns (`--datasets=mixed`): what is measured then includes the share of the rarest category.

![Scores of classifiers trained on synthetic rows](figures/ensembles.png)

`python -m experiments.ensembles --datasets=mixed --generators=tvae,ctgan --num_members=1,8,20 --steps=200 --num_generations=2
--num_seeds=3` trains 348 generators on 200 rows each. With 1, 8 and 20 members the cross entropy of the first generation's
classifiers is 0.69, 0.64 and 0.62 nats with TVAE, 0.81, 0.67 and 0.67 with CTGAN, and 0.57 of one that is trained on real rows; the
calibration error 0.14, 0.09, 0.09 and 0.19, 0.10, 0.09. Members bring calibration, but nothing that none of them has learned: the
area under the curve, 0.81 of real rows, is 0.72 with 20 TVAEs and 0.56 with as many CTGANs, which after so few steps hardly know
what the label depends on, and nearly none is left in the second generation (0.5). The rarest category, 3% of real rows, is 2% to
3% of those of TVAE, and 7%, then 9 to 13% of those of CTGAN.

![The same of deep generators, and the share of the rarest category](figures/ensembles_deep.png)
"""

SYSTEM = System(TEXT, pairs, figures)
