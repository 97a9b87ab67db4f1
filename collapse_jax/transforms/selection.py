"""Selection of samples by nearness to real data: an analogue of Alrashedy et al. 2311.00931."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import store as storage
from collapse_jax._citation import citing
from collapse_jax.refused import Refused
from collapse_jax.tasks.parts import check_integer, known
from collapse_jax.transforms.parts import in_rows, kth_smallest, require_plain, resample, with_masks
from collapse_jax.types import MetricInfo, TaskSetting

__all__ = ["neighbor_distance", "num_candidates", "select_nearest"]

_BLOCK = 256  # candidates compared with all real rows at once


@citing("2311.00931")
def select_nearest(
  task: TaskSetting,
  keep_fraction: float,
  embed: Callable | None = None,
  *,
  num_neighbors: int = 1,
  oversample: bool = True,
) -> TaskSetting:
  """The share of samples that is nearest to real rows is kept (an analogue of Alrashedy et al. 2311.00931).

  The paper keeps artificial programs that lie near real ones in the embedding of a language model; here any rows and any
  embedding will do. The anchor is the run's real batch, in every generation.

  Args:
    task: any task that draws rows.
    keep_fraction: in (0, 1]; fixes the number of samples, hence static, or may be traced without oversampling.
    embed: (rows with leaves [n, ...]) -> [n, features] float; default the rows themselves, an array [n, ...].
    num_neighbors: a sample's distance is that to the num_neighbors-th nearest real row.
    oversample: True: num / keep_fraction samples are drawn, so that num are kept; False: num are drawn, and what is not kept
      has weight 0, so that the less is kept, the fewer rows are trained on (as in the paper). Of samples that are equally
      near, the first drawn are kept, so that the number kept is the one that was asked for.
  Returns:
    the task, with metrics `nearest_distance` (mean over what is kept) and `kept_radius` (the largest kept).
  Raises:
    ValueError: an argument out of range, a task without rows, or an embedding of the wrong shape (while tracing).

  >>> import collapse_jax as cj
  >>> task = cj.transforms.select_nearest(cj.tasks.gaussian(dim=2, num_samples=10), 0.5)
  >>> print(*task.metrics)
  squared_error_of_mean covariance_trace_ratio covariance_log_det_ratio marginal_mean marginal_log_variance standard_mean
  standard_log_variance nearest_distance kept_radius
  """
  if (oversample or known(keep_fraction)) and not (
    isinstance(keep_fraction, int | float | np.number) and 0 < keep_fraction <= 1
  ):
    raise Refused.must_be("keep_fraction", "a number above 0 and at most 1", keep_fraction)
  check_integer("num_neighbors", num_neighbors, 1)
  task = in_rows(task)
  task = task if oversample else with_masks(task)

  def features(rows):
    if embed is None and len(jax.tree.leaves(rows)) != 1:
      raise Refused("embed must be given for rows of several parts.", argument="embed")
    num = storage.num_rows(rows)
    found = jax.tree.leaves(rows)[0].reshape(num, -1) if embed is None else jnp.asarray(embed(rows))
    if found.ndim != 2 or found.shape[0] != num:
      raise Refused(
        f"embed must return features of every row, shape ({num}, features), got {found.shape}.",
        argument="embed",
        value=found.shape,
      )
    return found.astype(float)

  def sample(key, problem, params, context):
    num, used = context.num, context.used
    if oversample:
      num = num_candidates(context.num, keep_fraction)
      used = None if used is None else jnp.minimum(jnp.ceil(used / keep_fraction * (1 - 1e-6)), num)
    wide = context._replace(num=num, used=used)
    data, metrics = task.sample(key, problem, params, wide)
    require_plain(data, "select_nearest")
    rows = jax.tree.map(lambda x: x[0], data.rows)
    real = features(jax.tree.map(lambda x: x[0], context.real.rows))
    in_use = None if context.real.row_weight is None else context.real.row_weight[0] > 0
    distance = neighbor_distance(features(rows), real, num_neighbors, in_use)
    there = storage.in_use(wide) > 0
    distance = jnp.where(there, distance, jnp.inf)
    if oversample:
      negative, index = jax.lax.top_k(-distance, context.num)
      distance, kept = -negative, storage.in_use(context) > 0
      data = storage.take(data, index)
    else:
      wanted = jnp.maximum(jnp.round(keep_fraction * jnp.sum(there)), 1)
      radius = kth_smallest(distance, wanted)
      nearer, tied = distance < radius, distance == radius  # of those that tie at the edge, the first are kept
      kept = nearer | (tied & (jnp.cumsum(tied) <= wanted - jnp.sum(nearer)))
      data = storage.weighed(data, kept.astype(float))
    found = {
      "nearest_distance": jnp.mean(distance, where=kept),
      "kept_radius": jnp.max(distance, where=kept, initial=0.0),
    }
    return data, metrics | found

  info = {
    "nearest_distance": MetricInfo("mean distance of kept samples to the nearest real row", "units of the embedding"),
    "kept_radius": MetricInfo("largest distance that was kept", "units of the embedding"),
  }
  return resample(task, sample, info)


def num_candidates(num: int, keep_fraction: float) -> int:
  """Samples of which `num` are that fraction.

  Raises:
    ValueError: there would be more than can be counted.
  """
  candidates = math.ceil(round(num / keep_fraction, 6))  # 21 / 0.7 is a little more than 30
  check_integer("num_samples / keep_fraction", candidates, 1)
  return candidates


def neighbor_distance(rows, real, num_neighbors: int = 1, in_use=None):
  """Distance [n] of each of `rows` [n, d] to its num_neighbors-th nearest of `real` [m, d], those of `in_use` [m] only.

  Args:
    rows: [n, d].
    real: [m, d], in the same units.
    num_neighbors: k, from 1.
    in_use: [m] bool; None: all.
  Raises:
    ValueError: fewer real rows than num_neighbors (while tracing).
  """
  if num_neighbors > len(real):
    raise Refused.must_be("num_neighbors", f"at most the {len(real)} real rows", num_neighbors)

  def one(row):
    squared = jnp.sum((real - row[None]) ** 2, axis=1)
    if in_use is not None:
      squared = jnp.where(in_use, squared, jnp.inf)
    return jnp.min(squared) if num_neighbors == 1 else kth_smallest(squared, num_neighbors)

  return jnp.sqrt(jax.lax.map(one, rows, batch_size=_BLOCK))
