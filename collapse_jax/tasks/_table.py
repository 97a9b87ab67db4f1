"""Tables of mixed columns: numbers and categories, with missing cells (Xu et al. 1907.00503).

Rows are {"x": [n, width]}: standardised numbers and blocks of indicators, see `data.tables.Layout`; with a label, which is a block
too, {"x": without it, "label": [n]}, as transforms that train classifiers take them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from collapse_jax import store as storage
from collapse_jax import theory
from collapse_jax._citation import citing
from collapse_jax.data import tables
from collapse_jax.random import normal, uniform
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.tasks import _networks as networks
from collapse_jax.tasks import _table_networks as kinds
from collapse_jax.tasks.parts import check_integer, matmul
from collapse_jax.types import Array, Context, Expected, MetricInfo, TaskSetting
from collapse_jax.vocabulary import TABLE_MODELS

NUM_QUANTILES = 129  # of a continuous column's marginal, the extremes among them
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)

METRICS = {
  "category_diversity": MetricInfo(
    "chance that two rows differ in a categorical column, mean over these", worse="lower", measures="variance"
  ),
  "minority_share": MetricInfo("share of the rarest category", worse="lower", measures="tail"),
  "category_support": MetricInfo("share of the real categories that are emitted", worse="lower"),
  "category_distance": MetricInfo("total variation of categories, mean over columns", worse="higher", measures="risk"),
  "correlation_error": MetricInfo("error of correlations of columns, mean over pairs", worse="higher"),
  "category_shares": MetricInfo("share of each category", dims=("category",)),
}
OF_NUMBERS = {
  "number_distance": MetricInfo(
    "Wasserstein distance of numbers, mean over columns", "standard deviations", worse="higher"
  ),
  "number_quantiles": MetricInfo(
    f"quantiles of numbers, at {', '.join(map(str, LEVELS))}", "standard deviations", dims=("number", "level")
  ),
}
OF_MISSING = {"missing_share": MetricInfo("share of missing cells, mean over columns that have some")}


class TableProblem(NamedTuple):
  """test: rows that no model is fitted to."""

  test: Any


@citing("1907.00503")
def table(
  data,
  num_samples: int,
  model: str = "copula",
  *,
  label: str | None = None,
  emit: str = "noise",
  latent_dim: int | None = None,
  hidden: Sequence[int] | None = None,
  pac: int = 10,
  budget: str = "steps",
  amount=1000,
  batch_size: int = 200,
  learning_rate=None,
  start: str = "weights",
  num_test: int = 1000,
) -> TaskSetting:
  """Rows of a table, whose columns are numbers and categories.

  Of "copula", shares of categories follow drift without selection under any schedule, whatever the other columns are.

  Args:
    data: what `data.tables.get` takes: "breast_cancer", "moons", "circles", "mixed", a .csv or .parquet file, a DataFrame.
    num_samples: rows per batch, at least 2, drawn without replacement.
    model: "copula": normal scores with their correlation, categories by their frequencies, numbers by their quantiles; "tvae": an
      autoencoder of columns with mode-specific normalisation; "ctgan": a conditional generator against a critic of the same
      columns; "diffusion" of the same columns, categories as indicators.
    label: name of a column of two values that becomes the rows' label.
    emit: of "tvae": "noise", or "mean": the likeliest categories and the means of numbers.
    latent_dim: normal coordinates; None: 16 of "tvae", 128 of "ctgan".
    hidden: sizes of dense layers; None: (256, 256) of "ctgan", else (128, 128).
    pac: of "ctgan": rows that the critic sees at once, a divisor of batch_size.
    budget, amount, batch_size, start: of training, as of `tasks.vae`.
    learning_rate: of Adam, at first; it falls to 0, but of "ctgan". None: 2e-4 of "ctgan", else 1e-3.
    num_test: most test rows, which are also emitted to be looked at.
  Raises:
    Refused: an argument out of range, or data that cannot be used.

  >>> import collapse_jax as cj
  >>> task = cj.tasks.table("mixed", num_samples=200)
  >>> print(*task.metrics)
  category_diversity minority_share category_support category_distance correlation_error category_shares number_distance
  number_quantiles missing_share
  """
  source = tables.get(data, label)
  layout, numbers = source.layout, source.layout.num_continuous
  if model not in TABLE_MODELS:
    raise Refused.must_be("model", f"one of {', '.join(TABLE_MODELS)}", model)
  if emit not in ("noise", "mean"):
    raise Refused.must_be("emit", "'noise' or 'mean'", emit)
  if not layout.sizes:
    raise Refused(
      f"{source.name} has no categorical column: tasks.kde or tasks.flow model numbers (collapse run kde).",
      argument="data",
    )
  check_integer("num_samples", num_samples, 2, len(source.rows) - 2)
  check_integer("num_test", num_test, 2)
  adversary = model == "ctgan"
  latent_dim = (128 if adversary else 16) if latent_dim is None else latent_dim
  check_integer("latent_dim", latent_dim, 1)
  hidden = ((256, 256) if adversary else (128, 128)) if hidden is None else tuple(hidden)
  for size in hidden:
    check_integer("hidden", size, 1)
  check_integer("pac", pac, 1)
  if adversary and batch_size % pac:
    raise Refused.must_be("pac", f"a divisor of batch_size {batch_size}", pac)
  learning_rate = (2e-4 if adversary else 1e-3) if learning_rate is None else learning_rate
  recipe = networks.Recipe(budget, amount, batch_size, learning_rate, start).check()
  if adversary:
    recipe = recipe._replace(beta1=0.5, beta2=0.9, decay="constant")
  fit_rows, draw_rows = {
    "copula": lambda: _copula(layout),
    "tvae": lambda: kinds.tvae(layout, latent_dim, hidden, recipe, emit),
    "ctgan": lambda: kinds.ctgan(layout, latent_dim, hidden, recipe, pac),
    "diffusion": lambda: kinds.diffusion(layout, hidden, recipe),
  }[model]()
  shares = source.rows[:, numbers:].mean(axis=0, dtype=np.float64)
  rarest = int(np.argmin(shares))
  marks = np.array(list(layout.marks.values()), int) - numbers  # where shares of missing cells are

  def split(rows):
    if not source.labelled:
      return {"x": rows}
    return {"x": rows[:, :-2], "label": rows[:, -1]}

  def joined(rows):
    if not source.labelled:
      return rows["x"]
    return jnp.concatenate([rows["x"], 1 - rows["label"][:, None], rows["label"][:, None]], axis=1)

  def init(key):
    num = min(num_samples + num_test, len(source.rows))
    chosen = jax.lax.top_k(-uniform(key, len(source.rows)), num)[1]  # cheaper than a permutation
    rows = jnp.asarray(source.rows)[chosen]
    return TableProblem(split(rows[num_samples:])), batch(split(rows[:num_samples]))

  def fit(key, problem, context: Context):
    rows, weight = storage.flat(context.data)
    return fit_rows(key, joined(rows), weight, context.previous)

  def sample(key, problem, params, context: Context):
    return batch(split(draw_rows(key, params, context.num))), {}

  def evaluate(key, problem, params):
    test = joined(problem.test)
    rows = draw_rows(key, params, len(test))
    here, real = (jnp.mean(one[:, numbers:], axis=0) for one in (rows, test))
    if model == "copula":
      here = params.shares
    metrics = {
      "category_diversity": (len(layout.sizes) - jnp.sum(here**2)) / len(layout.sizes),
      "minority_share": here[rarest],
      "category_support": jnp.mean((here > 0).astype(float)),
      "category_distance": 0.5 * jnp.sum(jnp.abs(here - real)) / len(layout.sizes),
      "correlation_error": jnp.mean(jnp.abs(_correlation(rows) - _correlation(test))),
      "category_shares": here,
    }
    if numbers:
      levels = (jnp.arange(len(test)) + 0.5) / len(test)
      apart = _quantiles(layout, rows, levels) - _quantiles(layout, test, levels)
      metrics["number_distance"] = jnp.mean(jnp.abs(apart))
      metrics["number_quantiles"] = _quantiles(layout, rows, jnp.array(LEVELS))
    if len(marks):
      metrics["missing_share"] = jnp.mean(here[marks])
    return metrics

  def predict(schedule: theory.Schedule) -> dict[str, Expected]:
    """Of shares: drift without selection, whatever the other columns are. Real rows are drawn without replacement."""
    light = theory.light_until(schedule, 1.0)
    left = len(source.rows) / (len(source.rows) - 1) * theory.schedule_moments(schedule).trace_ratio
    diversity = float(len(layout.sizes) - np.sum(shares**2)) / len(layout.sizes)
    constant = lambda share: Expected(np.full(len(left), share), share * (1 - share) * (1 - left), light)
    found = {"category_diversity": Expected(diversity * left, None, light), "minority_share": constant(shares[rarest])}
    if len(marks) == 1:
      found["missing_share"] = constant(shares[marks[0]])
    elif len(marks):  # columns depend on each other
      found["missing_share"] = Expected(np.full(len(left), shares[marks].mean()), None, light)
    return found

  metrics = METRICS | (OF_NUMBERS if numbers else {}) | (OF_MISSING if len(marks) else {})
  law = predict if model == "copula" else None
  return TaskSetting(init, fit, sample, evaluate, num_samples, metrics=metrics, predict=law)


def _quantiles(layout: tables.Layout, rows: Array, levels: Array) -> Array:
  """[continuous, levels] of the numbers that are there; 0, the mean, of a column without any."""
  there = kinds.present(layout, rows)
  order = jnp.sort(jnp.where(there > 0, rows[:, : layout.num_continuous], jnp.inf), axis=0)
  count = jnp.sum(there, axis=0)
  at = jnp.clip(jnp.floor(levels[:, None] * count[None]), 0, jnp.maximum(count - 1, 0)[None]).astype(int)
  return jnp.where(count[None] > 0, jnp.take_along_axis(order, at, axis=0), 0.0).T


def _correlation(rows: Array) -> Array:
  """[width, width]; 0 where a column is constant."""
  about = rows - jnp.mean(rows, axis=0, keepdims=True)
  scale = jnp.sqrt(jnp.mean(about**2, axis=0))
  unit = jnp.where(scale[None] > 1e-6, about / jnp.maximum(scale, 1e-6)[None], 0.0)
  return matmul(unit.T, unit) / len(rows)


# ------------------------------------------------------------------------------------------------------------- copula
class Copula(NamedTuple):
  """A fitted copula.

  Attributes:
    quantiles: [continuous, NUM_QUANTILES] of the numbers that are there, at equal steps of probability.
    shares: [sum of sizes] frequencies of categories.
    root: [columns, columns] of the scores' correlation.
  """

  quantiles: Any
  shares: Any
  root: Any


def _copula(layout: tables.Layout) -> tuple[kinds.Fit, kinds.Draw]:
  """Normal scores of all columns and their correlation; a missing number has the score of the middle."""
  numbers = layout.num_continuous
  grid = np.linspace(0.0, 1.0, NUM_QUANTILES)

  def of_numbers(x, weight):
    """Quantiles of a column and its normal scores; rows that do not count come last, and have no width."""
    share = weight / jnp.maximum(jnp.sum(weight), 1e-30)
    order = jnp.argsort(jnp.where(share > 0, x, jnp.inf))
    largest = jnp.max(jnp.where(share > 0, x, -jnp.inf))
    values = jnp.where(share[order] > 0, x[order], jnp.where(jnp.sum(weight) > 0, largest, 0.0))
    upto = jnp.concatenate([jnp.zeros(1), jnp.cumsum(share[order])])
    below, until = (upto[jnp.searchsorted(values, values, side=side)] for side in ("left", "right"))
    middle = 0.5 * (below + until)  # one place for equal values: a row is no other than two of half its weight
    scores = jnp.where(share[order] > 0, ndtri(jnp.clip(middle, 1e-6, 1 - 1e-6)), 0.0)
    return jnp.interp(jnp.asarray(grid, float), middle, values), jnp.zeros_like(x).at[order].set(scores)

  def fit(key, rows, weight, previous) -> Copula:
    share = weight / jnp.sum(weight)
    there = share[:, None] * kinds.present(layout, rows)
    quantiles, scores = jnp.zeros((0, NUM_QUANTILES)), jnp.zeros((0, len(rows)))
    if numbers:
      quantiles, scores = jax.vmap(of_numbers, in_axes=1)(rows[:, :numbers], there)
    shares, columns = [], [scores]
    for block in layout.slices:
      frequency = matmul(share, rows[:, block])
      middle = jnp.clip(jnp.cumsum(frequency) - 0.5 * frequency, 1e-6, 1 - 1e-6)
      shares.append(frequency)
      columns.append(matmul(rows[:, block], ndtri(middle))[None])
    score = jnp.concatenate(columns)
    about = (score - matmul(score, share)[:, None]) * jnp.sqrt(share)[None]
    scale = jnp.sqrt(jnp.sum(about**2, axis=1))
    unit = jnp.where(scale[:, None] > 1e-6, about / jnp.maximum(scale, 1e-6)[:, None], 0.0)
    root = jnp.linalg.cholesky(0.999 * matmul(unit, unit.T) + 0.001 * jnp.eye(len(unit)))
    return Copula(quantiles, jnp.concatenate(shares), root / jnp.linalg.norm(root, axis=1, keepdims=True))

  def draw(key, params: Copula, num: int) -> Array:
    place = ndtr(matmul(normal(key, (num, len(params.root))), params.root.T))
    found = [jnp.interp(place[:, j], jnp.asarray(grid, float), params.quantiles[j])[:, None] for j in range(numbers)]
    for j, block in enumerate(layout.slices):
      below = jnp.cumsum(params.shares[block.start - numbers : block.stop - numbers])[:-1]
      at = place[:, numbers + j] * (1 - 1e-6)  # never beyond what sums up to 1 but for rounding
      found.append(jax.nn.one_hot(jnp.sum(at[:, None] >= below[None], axis=1), layout.sizes[j]))
    rows = jnp.concatenate(found, axis=1)
    return rows.at[:, :numbers].multiply(kinds.present(layout, rows))

  return fit, draw
