"""Densities in the plane that generative models are shown on: samplers in JAX, each with what of its law is known exactly.

shape = shapes.get("eight_gaussians")
rows = shape.draw(key, 1000)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.random import normal
from collapse_jax.refused import Refused
from collapse_jax.types import Array

__all__ = ["SHAPES", "Shape", "checkerboard", "eight_gaussians", "gaussian", "get", "moons", "pinwheel", "swiss_roll"]

_NODES = 128  # of the quadrature along an arc: exact in float32 where the noise is no less than 1/20 of its length


class Shape(NamedTuple):
  """A law of rows [num, 2].

  Attributes:
    name: for messages and plots.
    draw: (key, num) -> rows [num, 2], independent; num is a Python int.
    log_density: (rows [n, 2]) -> [n] nats; None: not known.
    num_modes: of equal shares; 1 where there are none to tell apart.
    mode: (rows [n, 2]) -> [n] int32, the mode that each is nearest to; None: there are none.
    centers: [num_modes, 2], where modes are normal with `std`; None: they are not.
    std: standard deviation of a mode in each coordinate.
  """

  name: str
  draw: Callable[[Array, int], Array]
  log_density: Callable[[Array], Array] | None = None
  num_modes: int = 1
  mode: Callable[[Array], Array] | None = None
  centers: np.ndarray | None = None
  std: float | None = None


def eight_gaussians(radius: float = 5.0, std: float = 0.1**0.25) -> Shape:
  """Eight normal modes on a circle.

  Args:
    radius: of the circle.
    std: of a mode; the default is what the toy of the package torchcfm draws: it takes its variance 0.1 for a squared one.
  """
  angle = np.arange(8) * np.pi / 4
  return _mixture("eight_gaussians", radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), std)


def gaussian(std: float = 1.0) -> Shape:
  """One normal mode about 0, whose scores are linear, so that `theory.variance_factor` is the law of every sampler.

  Args:
    std: in each coordinate.
  """
  return _mixture("gaussian", np.zeros((1, 2)), std)


def _mixture(name: str, centers: np.ndarray, std: float) -> Shape:
  where = jnp.asarray(centers, jnp.float32)
  squared = lambda rows: jnp.sum((rows[:, None] - where[None]) ** 2, axis=-1)

  def draw(key, num):
    mode_key, noise_key = jax.random.split(key)
    return where[jax.random.randint(mode_key, (num,), 0, len(where))] + std * normal(noise_key, (num, 2))

  def log_density(rows):
    each = -0.5 * squared(rows) / std**2 - np.log(2 * np.pi * std**2 * len(where))
    return jax.nn.logsumexp(each, axis=1)

  nearest = lambda rows: jnp.argmin(squared(rows), axis=1).astype(jnp.int32)
  return Shape(name, draw, log_density, len(where), nearest, np.asarray(centers), std)


def moons(noise: float = 0.2) -> Shape:
  """Two interleaving half circles, in three times their usual size less 1 (as torchcfm has them).

  Unlike `generators.moons` angles are drawn, so that rows are independent.

  Args:
    noise: standard deviation of the normal noise, before the size.
  """
  outer = lambda angle: np.stack([np.cos(angle), np.sin(angle)], axis=-1)
  inner = lambda angle: np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=-1)
  angles = np.pi * _uniform_nodes()[0]
  return _curves("moons", [3 * curve(angles) - 1 for curve in (outer, inner)], _moons_at, 3 * noise)


def _moons_at(key, num):
  which_key, angle_key = jax.random.split(key)
  second = jax.random.bernoulli(which_key, 0.5, (num,))
  angle = jnp.pi * jax.random.uniform(angle_key, (num,))
  sign = jnp.where(second, -1.0, 1.0)
  x = jnp.where(second, 1.0, 0.0) + sign * jnp.cos(angle)
  y = jnp.where(second, 0.5, 0.0) + sign * jnp.sin(angle)
  return 3 * jnp.stack([x, y], axis=1) - 1


def swiss_roll(noise: float = 0.1) -> Shape:
  """A spiral t (cos t, sin t) / 3, t uniform from 1.5 pi to 4.5 pi.

  Args:
    noise: standard deviation of the normal noise.
  """
  along = lambda share, of: of.stack([of.cos(share), of.sin(share)], axis=-1) * share[..., None] / 3
  angle = lambda share: 1.5 * np.pi * (1 + 2 * share)
  at = lambda key, num: along(angle(jax.random.uniform(key, (num,))), jnp)
  parts = [along(angle((part + _uniform_nodes()[0]) / 8), np) for part in range(8)]
  return _curves("swiss_roll", parts, at, noise)._replace(num_modes=1, mode=None)


def _curves(name: str, nodes: list[np.ndarray], at: Callable, noise: float) -> Shape:
  """Points of curves, with normal noise; `nodes` [len(quadrature), 2] of each of equally likely curves."""
  where = jnp.asarray(np.stack(nodes), jnp.float32)
  log_weight = jnp.asarray(np.log(_uniform_nodes()[1] / len(nodes)), jnp.float32)
  squared = lambda rows: jnp.sum((rows[:, None, None] - where[None]) ** 2, axis=-1)

  def draw(key, num):
    place_key, noise_key = jax.random.split(key)
    return at(place_key, num) + noise * normal(noise_key, (num, 2))

  def log_density(rows):
    each = -0.5 * squared(rows) / noise**2 - np.log(2 * np.pi * noise**2) + log_weight[None, None]
    return jax.nn.logsumexp(each, axis=(1, 2))

  nearest = lambda rows: jnp.argmin(jnp.min(squared(rows), axis=2), axis=1).astype(jnp.int32)
  return Shape(name, draw, log_density, len(nodes), nearest)


def _uniform_nodes() -> tuple[np.ndarray, np.ndarray]:
  """Nodes and weights of Gauss and Legendre for means over [0, 1]."""
  node, weight = np.polynomial.legendre.leggauss(_NODES)
  return (node + 1) / 2, weight / 2


def checkerboard() -> Shape:
  """Uniform on the eight black squares, of side 2, of a board from -4 to 4."""
  cell = np.array([(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0], float)
  centers = jnp.asarray(2 * cell - 3, jnp.float32)
  away = lambda rows: jnp.max(jnp.abs(rows[:, None] - centers[None]), axis=-1)

  def draw(key, num):
    cell_key, place_key = jax.random.split(key)
    place = jax.random.uniform(place_key, (num, 2), minval=-1.0, maxval=1.0)
    return centers[jax.random.randint(cell_key, (num,), 0, len(cell))] + place

  def log_density(rows):
    return jnp.where(jnp.min(away(rows), axis=1) <= 1, -np.log(32.0), -jnp.inf)

  nearest = lambda rows: jnp.argmin(away(rows), axis=1).astype(jnp.int32)
  return Shape("checkerboard", draw, log_density, len(cell), nearest)


def pinwheel(num_arms: int = 5, radial_std: float = 0.3, tangential_std: float = 0.1, rate: float = 0.25) -> Shape:
  """Normal arms that are bent around the origin (Johnson et al. 1603.06277).

  Args:
    num_arms: equally likely.
    radial_std, tangential_std: of an arm before it is bent, at distance 1.
    rate: of the bending: by rate * exp(distance) radians.
  """

  def draw(key, num):
    arm_key, place_key = jax.random.split(key)
    place = normal(place_key, (num, 2)) * jnp.array([radial_std, tangential_std])[None] + jnp.array([[1.0, 0.0]])
    arm = jax.random.randint(arm_key, (num,), 0, num_arms)
    angle = 2 * jnp.pi * arm / num_arms + rate * jnp.exp(place[:, 0])
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    x, y = place[:, 0], place[:, 1]
    return 2 * jnp.stack([x * cosine - y * sine, x * sine + y * cosine], axis=1)

  return Shape("pinwheel", draw)


SHAPES = {shape.__name__: shape for shape in (eight_gaussians, moons, pinwheel, checkerboard, swiss_roll, gaussian)}


def get(name: str) -> Shape:
  """The shape of that name, one of `SHAPES`.

  Raises:
    Refused: an unknown name.
  """
  if name not in SHAPES:
    raise Refused.must_be("name", f"one of {', '.join(SHAPES)}", name)
  return SHAPES[name]()
