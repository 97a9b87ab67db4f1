"""What several tasks share: checks of arguments, pooled means, and matrix products and triangles in full precision."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.data.generators import Dataset
from collapse_jax.random import chi_square, normal, split
from collapse_jax.refused import Refused
from collapse_jax.store import batch
from collapse_jax.types import Array, Fresh, Init, TaskSetting
from collapse_jax.vocabulary import DRAWS, LARGEST

__all__ = [
  "LabelStats",
  "MeanStats",
  "Moments",
  "add_labels",
  "add_means",
  "add_moments",
  "bartlett",
  "check_draws",
  "check_integer",
  "check_positive",
  "known",
  "label_stats",
  "matmul",
  "moments",
  "real_rows",
  "rows_unless_refused",
  "side_by_side",
  "triangular",
]


class MeanStats(NamedTuple):
  """Weighted count [] and mean (arrays) of rows, or of estimates that pool like rows."""

  count: Any
  mean: Any


def add_means(problem, a: MeanStats, weight_a, b: MeanStats, weight_b) -> MeanStats:
  """`Summary.add` of means.

  Args:
    problem: not looked at.
    a, b: means and counts.
    weight_a, weight_b: factors of the counts, [].
  """
  count_a, count_b = weight_a * a.count, weight_b * b.count
  share = count_b / jnp.maximum(count_a + count_b, 1e-30)
  return MeanStats(count_a + count_b, jax.tree.map(lambda x, y: x + share * (y - x), a.mean, b.mean))


class Moments(NamedTuple):
  """Weighted count [], mean [dim] and biased covariance [dim, dim] of rows."""

  count: Any
  mean: Any
  covariance: Any


def moments(rows: Array, weight: Array | None = None) -> Moments:
  """Of rows [n, dim] with weights [n], or None where every row counts once."""
  weight = jnp.ones(len(rows)) if weight is None else weight
  count = jnp.sum(weight)
  share = weight / jnp.maximum(count, 1e-30)
  mean = matmul(share, rows)
  centered = rows - mean[None]
  return Moments(count, mean, matmul((share[:, None] * centered).T, centered))


def add_moments(problem, a: Moments, weight_a, b: Moments, weight_b) -> Moments:
  """`Summary.add` of moments.

  Args:
    problem: not looked at.
    a, b: moments.
    weight_a, weight_b: factors of the counts, [].
  """
  count_a, count_b = weight_a * a.count, weight_b * b.count
  share = count_b / jnp.maximum(count_a + count_b, 1e-30)
  apart = b.mean - a.mean
  covariance = a.covariance + share * (b.covariance - a.covariance)
  return Moments(
    count_a + count_b,
    a.mean + share * apart,
    covariance + share * (1 - share) * apart[:, None] * apart[None],
  )


class LabelStats(NamedTuple):
  """Rows of one design: how often each occurs and the sum of its labels, both [num_samples]."""

  times: Any
  label_sum: Any


def label_stats(problem, rows, row_weight) -> LabelStats:
  """`Summary.of` of rows {"index": [n], "label": [n]}, which name rows of `problem.design` [num_samples, dim].

  Args:
    problem: has `design` [num_samples, dim].
    rows: {"index": [n] int32, "label": [n]}.
    row_weight: [n], or None where every row counts once.
  """
  weight = jnp.ones(rows["label"].shape) if row_weight is None else row_weight
  none = jnp.zeros(problem.design.shape[0])
  return LabelStats(none.at[rows["index"]].add(weight), none.at[rows["index"]].add(weight * rows["label"]))


def add_labels(problem, a: LabelStats, weight_a, b: LabelStats, weight_b) -> LabelStats:
  """`Summary.add` of label sums.

  Args:
    problem: not looked at.
    a, b: label sums [num_samples].
    weight_a, weight_b: their factors, [].
  """
  return LabelStats(weight_a * a.times + weight_b * b.times, weight_a * a.label_sum + weight_b * b.label_sum)


def real_rows(source: Dataset, num_samples: int, num_test: int, problem_of: Callable) -> tuple[Init, Fresh | None]:
  """`init` and `fresh` of a task whose real rows are of a data set.

  Args:
    source: from `data.generators.get`.
    num_samples: rows of a batch.
    num_test: rows that are held out.
    problem_of: (truth, test rows [num_test, dim], centers [k, dim] or None) -> problem, which has the attribute `truth`.
  """

  def init(key):
    truth_key, split_key = split(key)
    truth = source.init(truth_key)
    train, test = source.split(split_key, truth, num_samples, num_test)
    centers = None if source.centers is None else source.centers(truth)
    return problem_of(truth, test, centers), batch(train)

  draw = source.draw
  return init, None if draw is None else lambda key, problem: batch(draw(key, problem.truth, num_samples))


def matmul(a: Array, b: Array) -> Array:
  """a @ b in full float32."""
  return jnp.matmul(a, b, precision="highest")


def triangular(rows: Array) -> Array:
  """Upper triangular R [dim, dim] with R^T R = rows^T rows, of rows [n, dim]; the signs of its rows are free."""
  n, dim = rows.shape
  if n < dim:
    rows = jnp.concatenate([rows, jnp.zeros((dim - n, dim), rows.dtype)])
  return jnp.linalg.qr(rows, mode="r")


def bartlett(key: Array, dim: int, num) -> Array:
  """Upper triangular R [dim, dim]: R^T R has the law of rows^T rows, of `num` >= dim rows of N(0, I) (Bartlett 1933).

  Args:
    key: used once.
    dim: a Python int.
    num: a Python or traced number.
  """
  chi_key, normal_key = split(key)
  axis = jnp.arange(dim)
  above = jnp.where(axis[:, None] < axis[None], normal(normal_key, (dim, dim)), 0.0)
  return above + jnp.diag(jnp.sqrt(chi_square(chi_key, num - jnp.arange(dim, dtype=float))))


def known(x) -> bool:
  """Whether a value can be checked now; a traced one cannot."""
  return not isinstance(x, jax.core.Tracer)


def check_integer(name: str, value, least: int, most: int = LARGEST) -> None:
  """Raises Refused where a value is no Python integer between bounds.

  Args:
    name: of the argument.
    value: what was given.
    least, most: of what is allowed.
  """
  if not isinstance(value, int | np.integer) or not least <= value <= most:
    bound = f"of at least {least}" if value <= most else f"of at most {most}"
    raise Refused.must_be(name, f"an integer {bound}", value)


def check_positive(name: str, value) -> None:
  """Raises Refused where a value that is known is not above 0 and finite."""
  if known(value) and not (np.isfinite(value) and value > 0):
    raise Refused.must_be(name, "above 0 and finite", value)


def rows_unless_refused(draws: str, make: Callable[[], TaskSetting]) -> Callable[[], TaskSetting] | None:
  """`TaskSetting.rows` of a task whose argument draws is "rows", "law" or "auto", where `make` makes it with draws="rows"."""

  def refuse():
    raise Refused(
      "draws='law' keeps statistics, and this workflow or transform needs rows: use draws='rows' or 'auto'.",
      argument="draws",
      value=draws,
      allowed="rows or auto",
    )

  return {"rows": None, "auto": make, "law": refuse}[draws]


def check_draws(draws: str, num_samples=None, max_samples=None) -> None:
  """The kind of draws, and num_samples where an exact law lets it be any number, or rows have room for `max_samples`.

  Args:
    draws, num_samples, max_samples: as a task is given them; None: not to be checked.
  """
  if draws not in DRAWS:
    raise Refused.must_be("draws", "'auto', 'law' or 'rows'", draws)
  if num_samples is None:
    return
  if known(num_samples) and not num_samples >= 2:
    raise Refused.must_be("num_samples", "at least 2", num_samples)
  if max_samples is not None:
    check_integer("max_samples", max_samples, 2)
    if known(num_samples) and num_samples > max_samples:
      raise Refused.must_be("num_samples", f"at most max_samples, {max_samples}", num_samples)
  elif draws == "rows" and not isinstance(num_samples, int | np.integer):
    raise Refused("num_samples must be a Python int under draws='rows'.", argument="num_samples")


def side_by_side(function: Any) -> Any:
  """A function of arrays with a leading axis of runs: under vmap these are more runs of one call, and share its loops and branches.

  Args:
    function: no run's result may depend on the others.
  """
  together = jax.custom_batching.custom_vmap(function)

  @together.def_vmap
  def batched(axis_size: int, is_batched: Any, *arguments: Any) -> Any:
    spread = lambda x, known: x if known else jnp.broadcast_to(x[None], (axis_size, *x.shape))
    arguments = jax.tree.map(spread, arguments, tuple(is_batched))
    found = together(*jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), arguments))
    return jax.tree.map(lambda x: x.reshape(axis_size, -1, *x.shape[1:]), found), jax.tree.map(lambda _: True, found)

  return jax.jit(together)
