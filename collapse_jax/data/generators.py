"""Data sets of the density tasks: generators written in JAX, so that every seed has its own draw under vmap, and real rows.

The generators are equal in law to scikit-learn's; with noise 0, `moons` and `circles` equal them point for point, since
both lie on fixed grids of angles.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.data import images, real_data
from collapse_jax.random import choose, exact_table, normal
from collapse_jax.refused import Refused
from collapse_jax.types import Array

__all__ = [
  "Dataset",
  "blob_centers",
  "blobs",
  "check_size",
  "circles",
  "get",
  "moons",
  "of_images",
  "swiss_roll",
  "without_truth",
]


class Dataset(NamedTuple):
  """A source of training and test rows of one truth.

  Attributes:
    name: for messages and plots.
    dim: columns.
    init: (key) -> truth, drawn once per run.
    split: (key, truth, num_train, num_test) -> train [num_train, dim], test [num_test, dim].
    draw: (key, truth, num) -> more real rows [num, dim]; None where the rows are finite.
    max_samples: the most training rows there are; None: no limit.
    note: what a plot of it must say; empty for most.
    num_test: how many test rows finite data have; None: as many as `split` is asked for.
    centers: (truth) -> [k, dim] modes of the truth, of standard deviation 1 each; None where they are not known.
    log_density: (truth, points [m, dim]) -> [m] nats; None where it is not known.
    variance: (num) -> expected variance, per coordinate and over truths, of that many training rows about their own mean; None
      where it is not known.
  """

  name: str
  dim: int
  init: Callable[[Array], Any]
  split: Callable[[Array, Any, int, int], tuple[Array, Array]]
  draw: Callable[[Array, Any, int], Array] | None = None
  max_samples: int | None = None
  note: str = ""
  num_test: int | None = None
  centers: Callable[[Any], Array] | None = None
  log_density: Callable[[Any, Array], Array] | None = None
  variance: Callable[[int], float] | None = None


def moons(key: Array, num: int, noise=0.05) -> Array:
  """Two interleaving half circles [num, 2] (scikit-learn's make_moons).

  Args:
    key: used once.
    num: rows, a Python int.
    noise: standard deviation of the normal noise that is added.
  """
  return _noisy(key, _moons_grid(num), noise)


def _moons_grid(num: int) -> np.ndarray:
  outer = num // 2
  angle, inner_angle = np.linspace(0, np.pi, outer), np.linspace(0, np.pi, num - outer)
  return np.stack(
    [np.append(np.cos(angle), 1 - np.cos(inner_angle)), np.append(np.sin(angle), 0.5 - np.sin(inner_angle))], axis=1
  )


def circles(key: Array, num: int, noise=0.05, factor: float = 0.8) -> Array:
  """Two concentric circles [num, 2] of radius 1 and `factor` (scikit-learn's make_circles).

  Args:
    key: used once.
    num: rows, a Python int.
    noise: standard deviation of the normal noise that is added.
    factor: radius of the inner circle.
  """
  return _noisy(key, _circles_grid(num, factor), noise)


def _circles_grid(num: int, factor: float = 0.8) -> np.ndarray:
  outer = num // 2
  angle = np.linspace(0, 2 * np.pi, outer, endpoint=False)
  inner_angle = np.linspace(0, 2 * np.pi, num - outer, endpoint=False)
  return np.stack(
    [np.append(np.cos(angle), factor * np.cos(inner_angle)), np.append(np.sin(angle), factor * np.sin(inner_angle))],
    axis=1,
  )


def swiss_roll(key: Array, num: int, noise=0.05) -> Array:
  """A rolled-up sheet [num, 3] (scikit-learn's make_swiss_roll).

  Args:
    key: used once.
    num: rows, a Python int.
    noise: standard deviation of the normal noise that is added.
  """
  sheet_key, noise_key = jax.random.split(key)
  along, across = jax.random.uniform(sheet_key, (2, num))
  angle = 1.5 * jnp.pi * (1 + 2 * along)
  rows = jnp.stack([angle * jnp.cos(angle), 21 * across, angle * jnp.sin(angle)], axis=1)
  return rows + noise * normal(noise_key, rows.shape)


def blob_centers(key: Array, num_centers: int = 3, dim: int = 2) -> Array:
  """Centres [num_centers, dim], uniform in [-10, 10] (scikit-learn's make_blobs).

  Args:
    key: used once.
    num_centers: how many, a Python int.
    dim: of the rows.
  """
  return jax.random.uniform(key, (num_centers, dim), minval=-10.0, maxval=10.0)


def blobs(key: Array, num: int, centers: Array, cluster_std=1.0) -> Array:
  """Gaussian blobs [num, dim] of equal counts, the first centres one more (scikit-learn's make_blobs).

  Args:
    key: used once.
    num: rows, a Python int.
    centers: [num_centers, dim].
    cluster_std: standard deviation of a row about its centre.
  """
  return centers[np.arange(num) % centers.shape[0]] + cluster_std * normal(key, (num, centers.shape[1]))


def get(dataset, num_test: int = 500) -> Dataset:
  """The data set that a name, a CSV path, an array, a pair (train, test) of arrays or a Dataset stands for.

  "blobs_mismatched" reproduces a defect of the published experiment: its training and test blobs come from two calls
  of make_blobs, each with its own random centres, so that the likelihood measures their mismatch.

  Raises:
    ValueError: unknown name, or rows that cannot be used.
  """
  if isinstance(dataset, Dataset):
    return dataset
  if isinstance(dataset, str | os.PathLike):
    dataset = os.fspath(dataset)
    if dataset in _SYNTHETIC:
      return _SYNTHETIC[dataset]
    return _real(real_data.load(dataset, num_test))
  if isinstance(dataset, tuple):
    if len(dataset) != 2:
      raise Refused(f"a tuple of arrays must be a pair (train, test), got {len(dataset)}.")
    train, test = (real_data.numbers(*part) for part in zip(("train", "test"), dataset))
    if train.shape[1] != test.shape[1] or min(len(train), len(test)) < 1:
      raise Refused(f"train and test must be [rows, dim] with equal dim, got {train.shape} and {test.shape}.")
    names = [f"column {i + 1}" for i in range(train.shape[1])]
    return _real(real_data.standardise("array", train, test, names))
  rows = real_data.numbers("array", dataset)
  columns = [f"column {i + 1}" for i in range(rows.shape[1])]
  return _real(real_data.split("array", rows, columns, num_test))


def of_images(source: images.Images, num_test: int) -> Dataset:
  """Images, pixels as they are: drawn with their shares, or where these are all there are, dealt to training and test rows.

  Args:
    source: what `data.images.get` returns.
    num_test: rows that are held out of finite ones.
  Raises:
    ValueError: there are no more rows than that.
  """
  rows, weight = np.asarray(source.rows, np.float32), source.weight
  if weight is not None:
    draw = lambda key, num: jnp.asarray(rows)[choose(key, exact_table(weight), num)]
    return without_truth(source.name, rows.shape[1], draw)

  def split(key, truth, num_train, num_test):
    train_key, _ = jax.random.split(key)
    order = jax.random.permutation(train_key, len(rows))
    return jnp.asarray(rows)[order[:num_train]], jnp.asarray(rows)[order[num_train : num_train + num_test]]

  most = len(rows) - num_test
  if most < 1:
    raise Refused.must_be("num_test", f"below {len(rows)}, as many images as {source.name} has", num_test)
  return Dataset(source.name, rows.shape[1], lambda key: None, split, max_samples=most, num_test=num_test)


def check_size(dataset: Dataset, num_samples: int) -> None:
  """Raises ValueError if there are fewer training rows than num_samples."""
  most, held_out = dataset.max_samples, dataset.num_test or 0
  if most is not None and num_samples > most:
    rows = f"{most + held_out} rows, {held_out} held out for testing"
    raise Refused.must_be("num_samples", f"at most {most} for {dataset.name} ({rows})", num_samples)


def _log_density_on_curves(curves: np.ndarray, noise: float) -> Callable[[Any, Array], Array]:
  """Of points on curves [k, 2], uniform over them, plus normal noise: a sum over the curves' points, which must be denser
  than the noise."""

  def log_density(truth, points):
    squared = jnp.sum((points[:, None] - jnp.asarray(curves, float)[None]) ** 2, axis=-1)
    return jax.nn.logsumexp(-0.5 * squared / noise**2, axis=1) - np.log(len(curves) * 2 * np.pi * noise**2)

  return log_density


def _normal() -> Dataset:
  """Rows of N(0, I) in two dimensions."""
  draw = lambda key, num: normal(key, (num, 2))
  log_density = lambda truth, points: -0.5 * jnp.sum(points**2, axis=1) - np.log(2 * np.pi)
  return without_truth("normal", 2, draw, log_density, _about_grid(lambda num: np.zeros((num, 2)), 1.0))


def _ring() -> Dataset:
  """Eight Gaussians of standard deviation 1 on a circle of radius 8, of equal counts."""
  angle = np.arange(8) * np.pi / 4
  centers = 8 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
  source = without_truth(
    "ring",
    2,
    lambda key, num: blobs(key, num, jnp.asarray(centers, float)),
    lambda truth, points: _log_density_of_blobs({"train": jnp.asarray(centers, float)}, points),
    _about_grid(lambda num: centers[np.arange(num) % 8], 1.0),
  )
  return source._replace(centers=lambda truth: jnp.asarray(centers, float))


def _noisy(key, grid, noise):
  return jnp.asarray(grid, float) + noise * normal(key, grid.shape)


def _about_grid(grid: Callable[[int], np.ndarray], noise: float) -> Callable[[int], float]:
  """`Dataset.variance` of rows that are a grid [num, dim] plus normal noise of that standard deviation."""
  return lambda num: float(np.mean(np.var(grid(num), axis=0)) + (1 - 1 / num) * noise**2)


def without_truth(name, dim, draw, log_density=None, variance=None) -> Dataset:
  """A generator whose law has no random part.

  Args:
    name: for messages and plots.
    dim: columns.
    draw: (key, num) -> rows [num, dim].
    log_density, variance: as of `Dataset`.
  """

  def split(key, truth, num_train, num_test):
    train_key, test_key = jax.random.split(key)
    return draw(train_key, num_train), draw(test_key, num_test)

  return Dataset(
    name,
    dim,
    lambda key: None,
    split,
    lambda key, truth, num: draw(key, num),
    log_density=log_density,
    variance=variance,
  )


def _blobs(mismatched: bool) -> Dataset:
  def init(key):
    train_key, test_key = jax.random.split(key)
    centers = blob_centers(train_key)
    return {"train": centers, "test": blob_centers(test_key) if mismatched else centers}

  def split(key, truth, num_train, num_test):
    train_key, test_key = jax.random.split(key)
    return blobs(train_key, num_train, truth["train"]), blobs(test_key, num_test, truth["test"])

  return Dataset(
    "blobs_mismatched" if mismatched else "blobs",
    2,
    init,
    split,
    lambda key, truth, num: blobs(key, num, truth["train"]),
    note="training and test blobs have different centres, as published" if mismatched else "",
    centers=None if mismatched else lambda truth: truth["train"],
    log_density=None if mismatched else _log_density_of_blobs,
    variance=_variance_of_blobs,
  )


def _variance_of_blobs(num: int) -> float:
  """Of rows about three centres, each coordinate of which is uniform in [-10, 10]."""
  shares = np.bincount(np.arange(num) % 3, minlength=3) / num
  return float(20**2 / 12 * (1 - np.sum(shares**2)) + 1 - 1 / num)


def _log_density_of_blobs(truth, points):
  squared = jnp.sum((points[:, None] - truth["train"][None]) ** 2, axis=-1)
  return jax.nn.logsumexp(-0.5 * squared, axis=1) - np.log(len(truth["train"]) * 2 * np.pi)


def _real(data: real_data.RealData) -> Dataset:
  def split(key, truth, num_train, num_test):
    check_size(source, num_train)
    chosen = jax.random.permutation(key, len(data.train))[:num_train]
    return jnp.asarray(data.train, float)[chosen], jnp.asarray(data.test, float)

  dropped = f"constant columns dropped: {', '.join(data.dropped)}" if data.dropped else ""
  note = "; ".join(filter(None, (data.layout, dropped)))
  num_rows, spread = len(data.train), float(np.mean(np.var(np.asarray(data.train, np.float64), axis=0)))
  source = Dataset(
    data.name,
    data.train.shape[1],
    lambda key: None,
    split,
    None,
    num_rows,
    note,
    len(data.test),
    variance=lambda num: spread * num_rows / max(num_rows - 1, 1) * (1 - 1 / num),  # drawn without replacement
  )
  return source


_ANGLES = np.linspace(0, np.pi, 257)
_MOONS = np.stack(
  [np.append(np.cos(_ANGLES), 1 - np.cos(_ANGLES)), np.append(np.sin(_ANGLES), 0.5 - np.sin(_ANGLES))], axis=1
)
_CIRCLE = np.stack([np.cos(2 * _ANGLES[1:]), np.sin(2 * _ANGLES[1:])], axis=1)

_ALONG = 1.5 * np.pi * (1 + 2 * (np.arange(10_000) + 0.5) / 10_000)
_SHEET = [np.var(_ALONG * np.cos(_ALONG)), 21**2 / 12, np.var(_ALONG * np.sin(_ALONG))]
_SWISS_ROLL = float(np.mean(np.array(_SHEET, float))) + 0.05**2

_SYNTHETIC = {
  "blobs": _blobs(mismatched=False),
  "blobs_mismatched": _blobs(mismatched=True),
  "circles": without_truth(
    "circles",
    2,
    circles,
    _log_density_on_curves(np.concatenate([_CIRCLE, 0.8 * _CIRCLE]), 0.05),
    _about_grid(_circles_grid, 0.05),
  ),
  "moons": without_truth("moons", 2, moons, _log_density_on_curves(_MOONS, 0.05), _about_grid(_moons_grid, 0.05)),
  "normal": _normal(),
  "ring": _ring(),
  "swiss_roll": without_truth("swiss_roll", 3, swiss_roll, variance=lambda num: (1 - 1 / num) * _SWISS_ROLL),
}
