"""Forecasts, required shares and learned schedules held against what is known: writes docs/decisions.md and its figure.

  python -m benchmarks.backtest

Simulations that are in results/backtest already are not run again.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from scipy import optimize, stats

import collapse_jax as cj
from collapse_jax import decisions, diagnostics, plotting, theory
from collapse_jax.decisions import _forecast, _share
from collapse_jax.random import new_key

FOLDER, PAGE, FIGURE = Path("results/backtest"), Path("docs/decisions.md"), Path("docs/figures/learned_schedule.png")
SEEDS, TIMES = 20, (2, 3, 10)  # runs of a repetition; how many times the fitted generations are foretold
RARELY = 0.2  # share of the repetitions: of lines in which less is told, what is told is a choice of unusual runs
WORKFLOWS = ("replace", "accumulate", "accumulate_subsample", "mix(0.2)", "grown_replace")
FEW = WORKFLOWS[:4]  # the last has ten times as many rows in the end
RELABELLED = (
  *WORKFLOWS[:3],
  "mix(0.5)",
)  # of tasks whose models label the rows that there are: no other number of them


class Simulated(NamedTuple):
  """What is simulated: a task of as many rows, under which workflows, for how long, and how often."""

  factory: Callable[..., cj.TaskSetting]
  num_samples: int
  workflows: Sequence[str] = WORKFLOWS
  fitted: int = 10
  repeats: int = 200


def family(name, num_samples, **options):
  return Simulated(lambda num_samples: cj.tasks.exponential_family(name, num_samples), num_samples, **options)


def labelled_rows(num=400):
  """Covariates [num, 2] and labels [num] of a logistic model."""
  random = np.random.default_rng(0)
  x = random.normal(size=(num, 2))
  return x, (random.uniform(size=num) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)


TASKS = {
  "Gaussian, d = 2": Simulated(lambda num_samples: cj.tasks.gaussian(2, num_samples), 100),
  "mean of a Gaussian": family("gaussian", 100),
  "exponential": family("exponential", 100),
  "linear regression, d = 5": Simulated(lambda num_samples: cj.tasks.linear_regression(5, num_samples), 50, RELABELLED),
  "discrete, 10 outcomes": Simulated(lambda num_samples: cj.tasks.discrete(10, num_samples), 100, FEW),
  "sample median": Simulated(lambda num_samples: cj.tasks.sample_median(num_samples), 51, FEW, repeats=100),
  "KDE, blobs": Simulated(
    lambda num_samples: cj.tasks.kde("blobs", num_samples, 0.5, num_test=50), 50, FEW, repeats=100
  ),
  "Gaussian mixture, ring": Simulated(
    lambda num_samples: cj.tasks.gaussian_mixture("ring", num_samples, 3, num_steps=5, num_test=50),
    30,
    FEW,
    fitted=6,
    repeats=100,
  ),
  "logistic regression, d = 2": Simulated(
    lambda num_samples: cj.tasks.logistic_regression(labelled_rows(), num_samples, num_features=None),
    100,
    RELABELLED,
    fitted=6,
    repeats=100,
  ),
}

# Published means, core models only: generation -> value.
PUBLISHED = {
  "Gemma-2 2B, SFT": {
    "replace": {1: 1.064, 2: 1.472, 3: 1.926, 5: 2.240, 10: 2.552, 15: 2.516, 20: 2.604},
    "accumulate_subsample": {1: 1.064, 2: 1.115, 3: 1.142, 5: 1.166, 10: 1.199, 15: 1.210, 20: 1.219},
    "accumulate": {1: 1.064, 2: 1.089, 3: 1.090, 5: 1.095, 10: 1.099, 15: 1.101, 20: 1.102},
  },
  "GPT-2, pretraining": {
    "replace": {1: 1.82, 5: 2.40, 10: 2.79, 20: 3.60, 50: 6.05},
    "accumulate_subsample": {1: 1.82, 5: 2.02, 10: 2.10, 20: 2.17, 45: 2.25},
  },
  "Llama-2 126M, pretraining": {
    "replace": {1: 1.71, 5: 2.22, 10: 2.45, 20: 2.76, 43: 3.22},
    "accumulate_subsample": {1: 1.71, 5: 1.88, 10: 1.95, 20: 2.01, 34: 2.05},
  },
}
FIRST = {"Gemma-2 2B, SFT": 4, "GPT-2, pretraining": 4, "Llama-2 126M, pretraining": 4}  # points that are fitted


def kept(name, run):
  """Results by their name in the folder, run where they are not there."""
  path = FOLDER / f"{''.join(c if c.isalnum() else '_' for c in name)}.nc"
  if not path.exists():
    FOLDER.mkdir(parents=True, exist_ok=True)
    run().to_netcdf(path, engine="h5netcdf")
  return diagnostics.complete(xarray.load_dataset(path, engine="h5netcdf"))


def simulated(name, workflow, one):
  """Results of all runs of a task under a workflow."""
  size = {"num_generations": one.fitted * TIMES[-1], "num_seeds": SEEDS * one.repeats}
  return kept(
    f"{name} {workflow}",
    lambda: cj.sweep(one.factory, [workflow], {"num_samples": [one.num_samples]}, **size),
  )


class Line(NamedTuple):
  """How often forecasts of a metric are told, and hold: counts [H] of repetitions."""

  task: str
  metric: str
  workflow: str
  told: np.ndarray
  hit: np.ndarray
  repeats: int


def covered(results, metric, cell, values, fitted, num_runs=SEEDS):
  """(told [H], hit [H]) counts over groups of runs; the truth is the exact law, or the mean over all runs."""
  at = fitted * np.array(TIMES)
  law = diagnostics.predicted(results, cell, metric)
  truth = values[:, at - 1].mean(axis=0)
  if law is not None and np.isfinite(law.mean[at - 1]).all() and law.up_to >= at[-1]:
    truth = law.mean[at - 1]
  shrinks, lawful = _forecast.kind(results[metric].attrs)
  known = _forecast.laws(results, cell, int(at[-1]), shrinks)
  told, hit = np.zeros(len(at), int), np.zeros(len(at), int)
  for runs in np.split(values, len(values) // num_runs):
    found = _forecast.forecast_curve(runs[:, :fitted], np.arange(1, fitted + 1), at, known, lawful=lawful)
    told += np.isfinite(found.mean)
    hit += (found.low <= truth) & (truth <= found.high)
  return told, hit


def forecasts(tasks=TASKS):
  """A `Line` for each task, metric and workflow."""
  lines = []
  for name, one in tasks.items():
    for workflow in one.workflows:
      results = simulated(name, workflow, one)
      for metric in diagnostics.metrics(results):
        for cell, values in diagnostics.cells(results, metric):
          if np.isfinite(values).all() and _vary(values[:, : one.fitted], one.repeats):
            told, hit = covered(results, metric, cell, values.astype(float), one.fitted)
            lines.append(Line(name, metric, workflow, told, hit, one.repeats))
  return lines


def _vary(values, repeats):
  """Whether the runs of every repetition differ: there is nothing to forecast of what is the same number in all of them."""
  return bool((np.array(np.split(values, repeats)).std(axis=1) > 1e-6).any(axis=1).all())


def rows_of(lines):
  """Rows of the table of coverage, with all of them at its end."""
  rows = [[one.task, f"`{one.metric}`", f"`{one.workflow}`", *_shares(one)] for one in lines]
  total = Line("**all**", "", "", *(sum(column) for column in zip(*(one[3:] for one in lines))))
  return [*rows, [total.task, "", "", *_shares(total)]]


def _shares(one):
  """Share of what is told that holds, and share of the repetitions in which it is told."""
  percent = lambda a, b: f"{a / b:.0%}" if b else "-"
  return [f"{percent(hit, told)} of {percent(told, one.repeats)}" for hit, told in zip(one.hit, one.told)]


def outside(lines):
  """(cells that are judged, those of 85 to 95%, those that differ from it by chance, rows of the others)."""
  judged = inside = chance = 0
  rest = []
  for one in lines:
    for times, told, hit in zip(TIMES, one.told, one.hit):
      if told < RARELY * one.repeats:
        continue
      judged += 1
      share = hit / told
      if 0.85 <= share <= 0.95:
        inside += 1
      elif min(stats.binom.sf(hit - 1, told, 0.95), stats.binom.cdf(hit, told, 0.85)) > 0.025:
        chance += 1
      else:
        rest.append([one.task, f"`{one.metric}`", f"`{one.workflow}`", f"{times} x", f"{share:.0%}"])
  return judged, inside, chance, rest


def by_number_of_runs(numbers=(10, 20, 50, 100)):
  """Rows: runs, coverage at each time, where a few of the runs carry the mean."""
  name, workflow = "exponential", "replace"
  results = simulated(name, workflow, TASKS[name])
  metric = "squared_error_of_mean"
  [(cell, values)] = diagnostics.cells(results, metric)
  rows = []
  for num in numbers:
    told, hit = covered(results, metric, cell, values.astype(float), TASKS[name].fitted, num)
    rows.append([str(num), *_shares(Line(name, metric, workflow, told, hit, len(values) // num))])
  return rows


def published():
  """Rows: curve, workflow, generation, forecast, true, what is said."""
  rows = []
  for name, curves in PUBLISHED.items():
    for workflow, curve in curves.items():
      t, value = np.array(list(curve)), np.array(list(curve.values()))
      first = FIRST[name]
      one = xarray.Dataset(
        {"loss": (("workflow", "seed", "generation"), value[None, None, :first])},
        {"workflow": [workflow], "seed": [0], "generation": t[:first]},
      )
      found = decisions.forecast(one, int(t[-1]), "loss")
      for at, true in zip(t[first:], value[first:]):
        mean = float(found["mean"].sel(generation=at).item())
        said = found.family.item() or "-"
        status = found.status.item()
        rows.append(
          [
            name,
            f"`{workflow}`",
            f"{t[first - 1]}",
            f"{at}",
            "-" if np.isnan(mean) else f"{mean:.3f}",
            f"{true:.3f}",
            said,
            status,
          ]
        )
  return rows


SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHARE_TASKS = {  # name -> (factory, num_samples, metric, curvature of the family; None: of the Gaussian)
  "Gaussian, d = 3": (lambda: cj.tasks.gaussian(3, 200, draws="law"), 200, "squared_error_of_mean", -1.0),
  "mean of a Gaussian": (
    lambda: cj.tasks.exponential_family("gaussian", 200, draws="law"),
    200,
    "squared_error_of_mean",
    0.0,
  ),
  "exponential": (
    lambda: cj.tasks.exponential_family("exponential", 200, draws="law"),
    200,
    "squared_error_of_mean",
    1.0,
  ),
}


def shares(num_generations=10, num_seeds=50, repeats=200):
  """Rows: task, tolerance, exact share, coverage of the 90% intervals, median estimate."""
  rows = []
  for name, (factory, num, metric, curvature) in SHARE_TASKS.items():
    size = {"num_generations": num_generations, "num_seeds": num_seeds * repeats}
    axes = {"real_fraction": list(SHARES)}
    results = kept(f"share {name}", functools.partial(cj.sweep, factory(), {"mix": cj.workflows.mix}, axes, **size))
    values = results[metric].isel(workflow=0).transpose("real_fraction", "seed", "generation").values.astype(float)
    for tolerance in (0.15, 0.25):
      exact = functools.partial(_excess, num, curvature, num_generations, tolerance)
      truth = optimize.brentq(exact, 0.2, 0.95, xtol=1e-4)
      found = [
        _share._found(np.array(SHARES), values[:, i : i + num_seeds], "higher", tolerance, 0.9, i)
        for i in range(0, num_seeds * repeats, num_seeds)
      ]
      low, high = (np.array([getattr(one, end) for one in found]) for end in ("low", "high"))
      hit = np.mean((np.nan_to_num(low, nan=0.0) <= truth) & (truth <= np.nan_to_num(high, nan=1.0)))
      middle = np.nanmedian([one.share for one in found])
      rows.append([name, f"{tolerance:g}", f"{truth:.3f}", f"{middle:.3f}", f"{hit:.0%}"])
  return rows


def _excess(num, curvature, num_generations, tolerance, share):
  """The exact error of the last generation under mix(share), relative to the first, less what is allowed."""
  sizes = np.append(num, np.full(num_generations - 1, num * (1 - share) / share))
  schedule = theory.Schedule(sizes, np.append(0, np.ones(num_generations - 1, int)))
  error = theory.schedule_family(schedule, curvature)
  return error[-1] / error[0] - 1 - tolerance


# -------------------------------------------------------------------------------------------------- schedules
NUM_GENERATIONS, ROWS = 8, 15


class Moments(NamedTuple):
  """Of weighted rows: sums of x x^T [d, d] and x y [d]."""

  square: Any
  label: Any


def ridge(num_samples=ROWS, dim=5, penalty=1.0):
  """Ridge regression y = x w + noise whose covariates are drawn anew by each model: no formula is known for tables of shares."""

  def draw(key, w, num):
    x_key, noise_key = jax.random.split(key)
    x = jax.random.normal(x_key, (num, dim))
    return cj.store.batch({"x": x, "y": x @ w + jax.random.normal(noise_key, (num,))})

  def init(key):
    truth_key, key = jax.random.split(key)
    truth = jax.random.normal(truth_key, (dim,))
    return truth, draw(key, truth, num_samples)

  def of(truth, rows, row_weight):
    x = rows["x"] if row_weight is None else rows["x"] * row_weight[:, None]
    return Moments(x.T @ rows["x"], x.T @ rows["y"])

  def add(truth, a, weight_a, b, weight_b):
    return jax.tree.map(lambda x, y: weight_a * x + weight_b * y, a, b)

  def fit(key, truth, context):
    total = context.data.summary
    return jnp.linalg.solve(total.square + penalty * jnp.eye(dim), total.label)

  return cj.TaskSetting(
    init,
    fit,
    lambda key, truth, w, context: (draw(key, w, context.num), {}),
    lambda key, truth, w: {"squared_error": jnp.sum((w - truth) ** 2)},
    num_samples,
    metrics={"squared_error": cj.MetricInfo("squared error of the coefficients", worse="higher")},
    summary=cj.Summary(of, add),
    fresh=lambda key, truth: draw(key, truth, num_samples),
  )


def tables(budget, num_generations=NUM_GENERATIONS):
  """Name -> table, of those that spend the same number of real rows as they count."""
  T = num_generations
  share = (budget / ROWS - 1) / (T - 1)
  accumulate = np.tri(T) / np.arange(1, T + 1)[:, None]
  mix, pool = np.eye(T), np.eye(T)
  for t in range(1, T):
    mix[t] = 0
    mix[t, 0], mix[t, t] = share, 1 - share
    pool[t] = 0
    pool[t, 0], pool[t, 1 : t + 1] = share, (1 - share) / t
  return {"accumulate": accumulate, f"mix, share {share:.2f}": mix, f"constant share {share:.2f}, all models": pool}


def error_of(workflow, num_generations=NUM_GENERATIONS):
  """Errors [runs, T] of the ridge regression."""
  run = lambda key: cj.run(key, ridge(), workflow, num_generations)["squared_error"]
  return np.asarray(jax.jit(jax.vmap(run))(_keys()), float)


def error_under(table):
  """`error_of` a table of shares, by one program for all of one size."""
  return np.asarray(_under(_keys(), jnp.asarray(table, float)), float)


def _keys(num_runs=4000, seed=1):
  return jax.random.split(new_key(seed), num_runs)


@jax.jit
def _under(keys, table):
  run = lambda key: cj.run(key, ridge(), cj.workflows.weights(table), len(table))["squared_error"]
  return jax.vmap(run)(keys)


def schedules():
  """Name -> errors [runs, T], the learned table, and its budget."""
  budget = ROWS * float(np.sum(1 / np.arange(1, NUM_GENERATIONS + 1)))
  learned = decisions.learn_schedule(ridge(), NUM_GENERATIONS, budget, num_runs=256, num_steps=300)
  errors = {name: error_under(table) for name, table in tables(budget).items()}
  share = (budget / ROWS - 1) / (NUM_GENERATIONS - 1)
  errors[f"mix({share:.2f}), more synthetic rows"] = error_of(cj.workflows.mix(round(share, 2)))
  errors["learned"] = error_under(learned.table)
  return errors, learned, budget


# -------------------------------------------------------------------------------------------------------- page
TEXT = """# Decisions: how they were tested

Made by `python -m benchmarks.backtest`.

## Forecasts

`cj.decisions.forecast` is fitted to the first generations ({fitted}) of {seeds} runs and held against the exact law, or the mean
over all runs where there is none, at twice, three times and ten times as many generations; {repeats} repetitions a line. The
interval is one of the mean over all runs that there could be. A cell says in how many of the repetitions that were told the nominal
90% interval covers the truth, and in how many something was told at all: in the others the status is "cannot tell", since what
theory has for the workflow was rejected, or since another family goes elsewhere (another of theory's, where the metric is a squared
error or a variance; any, where it is not). Metrics that are the same in all runs, or
not finite in one of them, are left out.

{forecasts}

{judged} of these cells are told in at least {rarely:.0%} of the repetitions. {inside} of them cover 85 to 95%, {chance} more are
outside by no more than chance has it (5%, by the number that was told), and {num_rest} are not as they should be:

{rest}

Why:{why}

The mean of a product of random factors is carried by a few runs, and whoever has not seen one of these knows too little. Intervals
are those of resampled runs (bootstrap-t), which know of the skew. With many runs they become shorter than what families that are
passed over may be apart (half an interval): the line misses 5% of the true (1 + 1/n)^t - 1 at twice the generations. The squared
error of the exponential family under `replace`, by the number of runs:

{by_runs}

Published curves (2410.16713, read off its figures), each a single curve, so that there is no interval: what the first points say of
the later ones.

{published}

## Required shares

Of runs under `mix` at real shares {grid}, {share_seeds} runs each,
10 generations: how often the 90% interval of `cj.decisions.required_share` covers the share that the closed form has
(200 repetitions).

{shares}
"""
WHY = """

- Below: what is told in a part of the repetitions only is told where families agree, and under `replace` they agree at ten times
  the generations where the runs at hand happen to have lost less than others.
- Above: the same from the other side; a metric that is seldom told may be told mostly where its interval happens to be wide.

A KDE and a mixture of three parts on a ring of eight follow none of the families that theory has for a workflow: under `replace`
the mixture's likelihood falls by a factor a generation in the end, when its variances vanish, and a KDE's falls faster than t
until its modes are lost. Likelihoods, tails and modes are told only where all families that are left agree, which is seldom, and
where the last third rejects all that theory has for a workflow, nothing takes its place. If theory's families were taken for the
only ones of every metric, the mixture's likelihood under `replace` would be told in 95% of repetitions at twice the generations,
and 26% of these intervals would cover it."""
SCHEDULES = """
## Learned schedules

`cj.decisions.learn_schedule` on a ridge regression with five dimensions and {rows} rows whose covariates are drawn anew in each
generation, for which no formula is known, over {generations} generations. All spend the same number of real rows as they count,
{budget:.1f} ({rows} times the sum of the first column of the table of shares), which is what `accumulate` spends. Errors are means
over generations 2 to {generations} and over 4000 runs that nothing was learned from.

{errors}

![The learned table of shares, and the error of each schedule](figures/learned_schedule.png)
"""


def markdown(head, rows):
  line = lambda cells: "| " + " | ".join(cells) + " |"
  return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def page(errors, learned, budget):
  """The text of docs/decisions.md."""
  head = ["task", "metric", "workflow", *(f"{times} x" for times in TIMES)]
  lines = forecasts()
  judged, inside, chance, rest = outside(lines)
  text = TEXT.format(
    fitted=" or ".join(map(str, sorted({one.fitted for one in TASKS.values()}))),
    seeds=SEEDS,
    repeats=" or ".join(map(str, sorted({one.repeats for one in TASKS.values()}))),
    forecasts=markdown(head, rows_of(lines)),
    judged=judged,
    rarely=RARELY,
    inside=inside,
    chance=chance,
    num_rest=len(rest),
    rest=markdown(["task", "metric", "workflow", "at", "covered"], rest),
    why=WHY,
    by_runs=markdown(["runs", *head[3:]], by_number_of_runs()),
    published=markdown(["curve", "workflow", "fitted until", "t", "forecast", "true", "family", "status"], published()),
    grid=", ".join(map(str, SHARES)),
    share_seeds=50,
    shares=markdown(["task", "tolerance", "exact share", "median of the estimates", "coverage"], shares()),
  )
  rows = [
    [name, f"{value[:, 1:].mean():.4f} +- {value[:, 1:].mean(axis=1).std() / np.sqrt(len(value)):.4f}"]
    for name, value in errors.items()
  ]
  return text + SCHEDULES.format(
    rows=ROWS, generations=NUM_GENERATIONS, budget=budget, errors=markdown(["schedule", "mean error"], rows)
  )


def main():
  errors, learned, budget = schedules()
  PAGE.write_text(page(errors, learned, budget))
  FIGURE.write_bytes(
    plotting.png(plotting.learned_schedule(learned.table, errors, "squared error of the coefficients"))
  )


if __name__ == "__main__":
  main()
