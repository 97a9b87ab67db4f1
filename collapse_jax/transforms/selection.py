"""Selection of samples: by nearness to real data, by a probe's confidence, by how far apart they are."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax import store as storage
from collapse_jax._citation import citing
from collapse_jax.metrics import arrays
from collapse_jax.refused import Refused
from collapse_jax.tasks.parts import check_integer, check_positive, known
from collapse_jax.transforms import classifiers
from collapse_jax.transforms.parts import in_rows, kth_smallest, require_plain, resample, with_masks
from collapse_jax.types import MetricInfo, TaskSetting

__all__ = ["farthest", "farthest_point", "num_candidates", "probe_filter", "select_nearest", "threshold_filter"]


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
  covariance_trace_ratio squared_error_of_mean covariance_log_det_ratio marginal_mean marginal_log_variance standard_mean
  standard_log_variance nearest_distance kept_radius
  """
  check_integer("num_neighbors", num_neighbors, 1)
  features = functools.partial(_features, embed)

  def distance_of(rows, context):
    real = features(jax.tree.map(lambda x: x[0], context.real.rows))
    if num_neighbors > len(real):
      raise Refused.must_be("num_neighbors", f"at most the {len(real)} real rows", num_neighbors)
    in_use = None if context.real.row_weight is None else context.real.row_weight[0] > 0
    return arrays.nearest_distance(features(rows), real, num_neighbors, in_use)

  def look(distance, kept):
    return {
      "nearest_distance": jnp.mean(distance, where=kept),
      "kept_radius": jnp.max(distance, where=kept, initial=0.0),
    }

  info = {
    "nearest_distance": MetricInfo("mean distance of kept samples to the nearest real row", "units of the embedding"),
    "kept_radius": MetricInfo("largest distance that was kept", "units of the embedding"),
  }
  return _lowest(task, keep_fraction, distance_of, look, info, "select_nearest", oversample)


@citing("2511.12742")
def probe_filter(
  task: TaskSetting, keep_fraction: float, label: Callable, num_labels: int, embed: Callable | None = None
) -> TaskSetting:
  """The share of samples whose label a probe is surest of is kept; the probe is trained on real rows (Cai et al. 2511.12742).

  The probe is a logistic regression a label, on the features, their products and random waves, anew from the run's real batch.

  Args:
    task: any task that draws rows.
    keep_fraction: in (0, 1]; num / keep_fraction samples are drawn.
    label: (rows with leaves [n, ...]) -> [n] int, from 0.
    num_labels: how many there are.
    embed: (rows with leaves [n, ...]) -> [n, features] float; default the rows themselves, an array [n, ...].
  Returns:
    the task, with the metric `kept_confidence`: the mean probability of their own label, of what is kept.
  Raises:
    Refused: an argument out of range, or a task without rows.

  >>> import collapse_jax as cj
  >>> task = cj.transforms.probe_filter(cj.tasks.gaussian(dim=2, num_samples=10), 0.5, lambda rows: rows[:, 0] > 0, 2)
  >>> "kept_confidence" in task.metrics
  True
  """
  check_integer("num_labels", num_labels, 2)

  def doubt_of(rows, context):
    real = jax.tree.map(lambda x: x[0], context.real.rows)
    known_rows = _features(embed, real)
    scale = classifiers.scaling(known_rows)
    told, weight = classifiers.features(known_rows, scale), context.real.row_weight
    weight = jnp.ones(len(told)) if weight is None else weight[0]
    of_label = jax.nn.one_hot(jnp.asarray(label(real), jnp.int32), num_labels).T
    fitted = jax.vmap(lambda one: classifiers.fit_classifier(told, one, weight))(of_label)
    asked = classifiers.features(_features(embed, rows), scale)
    chance = jax.vmap(lambda one: classifiers.predict(one, asked))(fitted)
    own = jnp.take_along_axis(chance, jnp.asarray(label(rows), jnp.int32)[None], axis=0)[0]
    return 1 - own / jnp.sum(chance, axis=0)

  info = {"kept_confidence": MetricInfo("probability of its label that a probe gives a kept sample, mean")}
  look = lambda doubt, kept: {"kept_confidence": 1 - jnp.mean(doubt, where=kept)}
  return _lowest(task, keep_fraction, doubt_of, look, info, "probe_filter")


@citing("2509.16499")
def farthest_point(task: TaskSetting, oversample: float = 2.0, embed: Callable | None = None) -> TaskSetting:
  """Of more samples those are kept that are far from each other, greedily (Shi et al. 2509.16499).

  The first sample is kept, and then, as often as it takes, the one that is farthest from all that are.

  Args:
    task: any task that draws rows.
    oversample: samples that are drawn for one that is kept, at least 1.
    embed: (rows with leaves [n, ...]) -> [n, features] float; default the rows themselves, an array [n, ...].
  Returns:
    the task, with the metric `closest_pair`: the smallest distance of two samples that are kept.
  Raises:
    Refused: an argument out of range, or a task without rows.

  >>> import collapse_jax as cj
  >>> task = cj.transforms.farthest_point(cj.tasks.gaussian(dim=2, num_samples=10))
  >>> "closest_pair" in task.metrics
  True
  """
  return _apart(task, oversample, embed, None, 1.0, "farthest_point")


@citing("2509.16499")
def threshold_filter(
  task: TaskSetting, threshold, decay=0.95, oversample: float = 2.0, embed: Callable | None = None
) -> TaskSetting:
  """Of more samples those are kept that are no nearer than a threshold to one that is kept already (Shi et al. 2509.16499).

  Samples are looked at in the order of their drawing; where that leaves too few the threshold is multiplied by `decay`, and they
  are looked at again.

  Args:
    task: any task that draws rows.
    threshold: first of all, above 0, in units of the embedding; may be traced.
    decay: in (0, 1); may be traced.
    oversample: samples that are drawn for one that is kept, at least 1.
    embed: (rows with leaves [n, ...]) -> [n, features] float; default the rows themselves, an array [n, ...].
  Returns:
    the task, with the metric `closest_pair`: the smallest distance of two samples that are kept.
  Raises:
    Refused: an argument out of range, or a task without rows.

  >>> import collapse_jax as cj
  >>> task = cj.transforms.threshold_filter(cj.tasks.gaussian(dim=2, num_samples=10), threshold=0.5)
  """
  check_positive("threshold", threshold)
  if known(decay) and not 0 < decay < 1:
    raise Refused.must_be("decay", "between 0 and 1", decay)
  return _apart(task, oversample, embed, threshold, decay, "threshold_filter")


def _lowest(task, keep_fraction, value_of, look, info, what, oversample=True) -> TaskSetting:
  """The task whose samples of the lowest `value_of` (rows, context) are kept; `look` (values, kept) are metrics."""
  if (oversample or known(keep_fraction)) and not (
    isinstance(keep_fraction, int | float | np.number) and 0 < keep_fraction <= 1
  ):
    raise Refused.must_be("keep_fraction", "a number above 0 and at most 1", keep_fraction)
  task = in_rows(task)
  task = task if oversample else with_masks(task)

  def sample(key, problem, params, context):
    wide = _wider(context, 1 / keep_fraction) if oversample else context
    data, metrics = task.sample(key, problem, params, wide)
    require_plain(data, what)
    value = value_of(jax.tree.map(lambda x: x[0], data.rows), context)
    there = storage.in_use(wide) > 0
    value = jnp.where(there, value, jnp.inf)
    if oversample:
      negative, index = jax.lax.top_k(-value, context.num)
      value, kept = -negative, storage.in_use(context) > 0
      data = storage.take(data, index)
    else:
      wanted = jnp.maximum(jnp.round(keep_fraction * jnp.sum(there)), 1)
      radius = kth_smallest(value, wanted)
      nearer, tied = value < radius, value == radius  # of those that tie at the edge, the first are kept
      kept = nearer | (tied & (jnp.cumsum(tied) <= wanted - jnp.sum(nearer)))
      data = storage.weighed(data, kept.astype(float))
    return data, metrics | look(value, kept)

  return resample(task, sample, info)


def _apart(task, oversample, embed, threshold, decay, what) -> TaskSetting:
  """The task whose samples are chosen by `farthest`."""
  if not (isinstance(oversample, int | float | np.number) and np.isfinite(oversample) and oversample >= 1):
    raise Refused.must_be("oversample", "a number of at least 1", oversample)
  task = in_rows(task)

  def sample(key, problem, params, context):
    if context.num < 2:
      raise Refused(f"{what} needs models that emit 2 rows or more, got {context.num}.", argument="num_samples")
    wide = _wider(context, float(oversample))
    data, metrics = task.sample(key, problem, params, wide)
    require_plain(data, what)
    features = _features(embed, jax.tree.map(lambda x: x[0], data.rows))
    index = farthest(features, context.num, storage.in_use(wide) > 0, threshold, decay)
    kept, there = features[index], storage.in_use(context) > 0
    distance = arrays.nearest_distance(kept, kept, 2, there)  # the nearest is the row itself
    return storage.take(data, index), metrics | {"closest_pair": jnp.min(distance, where=there, initial=jnp.inf)}

  info = {"closest_pair": MetricInfo("smallest distance of two kept samples", "units of the embedding")}
  return resample(task, sample, info)


def farthest(rows, num: int, in_use=None, threshold=None, decay=1.0):
  """Index [num] of rows [n, d] that are far from each other, greedily: the first, then always the farthest from what is chosen.

  Args:
    rows: [n, d].
    num: at most n.
    in_use: [n] bool, rows that may be chosen, where so many are; None: all.
    threshold: instead of the farthest the first is chosen that is no nearer than this, which decays where none is.
    decay: factor of the threshold.
  """
  rows = jnp.asarray(rows)
  allowed = jnp.ones(len(rows), bool) if in_use is None else in_use
  level = None if threshold is None else jnp.asarray(threshold, float)

  def step(state, _):
    distance, level = state
    most = jnp.max(distance)
    if level is None:
      chosen = jnp.argmax(distance)
    else:
      decays = jnp.ceil(jnp.log(jnp.maximum(most, 1e-30) / level) / jnp.log(decay) - 1e-6)
      level = jnp.where(most >= level, level, jnp.minimum(level * decay**decays, most))
      level = jnp.maximum(level, 1e-30)
      chosen = jnp.argmax(distance >= jnp.minimum(level, most))
    squared = jnp.sum((rows - rows[chosen][None]) ** 2, axis=1)
    distance = jnp.minimum(distance, jnp.sqrt(squared)).at[chosen].set(-1.0)
    return (jnp.where(allowed, distance, -1.0), level), chosen

  start = jnp.where(allowed, jnp.inf, -1.0)
  return jax.lax.scan(step, (start, level), None, length=num)[1]


def _wider(context, factor: float):
  """The context of a sampler that draws `factor` times as many rows."""
  num = num_candidates(context.num, 1 / factor)
  used = None if context.used is None else jnp.minimum(jnp.ceil(context.used * factor * (1 - 1e-6)), num)
  return context._replace(num=num, used=used)


def _features(embed, rows):
  """Features [n, d] of rows, checked."""
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


def num_candidates(num: int, keep_fraction: float) -> int:
  """Samples of which `num` are that fraction.

  Raises:
    ValueError: there would be more than can be counted.
  """
  candidates = math.ceil(round(num / keep_fraction, 6))  # 21 / 0.7 is a little more than 30
  check_integer("num_samples / keep_fraction", candidates, 1)
  return candidates
