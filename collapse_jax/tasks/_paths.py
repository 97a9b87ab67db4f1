"""Paths from noise to data: what a score tells along them, how it is learned, and solvers that follow it.

A path is x = signal * row + noise_std * N(0, I), by a level: time t of flow matching, cumulative alpha A of DDPM and DDIM, sigma
of EDM. A field is what a score tells at a level, and what solvers need: E[row - noise | x] of flow matching, E[noise | x] of DDPM
and DDIM, E[row | x] of EDM.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from collapse_jax import theory
from collapse_jax.random import choose, exact_table, normal
from collapse_jax.types import Array

__all__ = ["Combined", "Path", "combined", "couple", "integrate", "path_of"]

Field = Callable[[Array, Array], Array]  # (x [n, dim], level [] or [n, 1]) -> [n, dim]


class Path(NamedTuple):
  """What a family of solvers shares.

  Attributes:
    std: root mean square of the coordinates that networks are made for.
    place: (level) -> signal, noise_std.
    levels: (key, num) -> [num], what a network is trained at.
    target: (row, noise, level) -> the field's value given both ends.
    weight: (level) -> that of the squared error.
    of_clean: (clean, x, level) -> the field, from E[row | x].
    linear: (mean, variance, x, level) -> the field of N(mean, diag(variance)).
    wrapped: (network, x, level) -> the field of a network (x, feature of the level) -> [n, dim].
  """

  std: float
  place: Callable
  levels: Callable
  target: Callable
  weight: Callable
  of_clean: Callable
  linear: Callable
  wrapped: Callable


def path_of(solver: str, num_steps: int) -> Path:
  """The path that a solver goes along.

  Args:
    solver: one of `theory.SAMPLERS`.
    num_steps: of it; DDPM is trained at the levels that it stops over, DDIM at those of 1000 steps.
  """
  family = solver.partition("_")[0]
  return {"flow": _flow, "edm": _edm}.get(family, _diffusion)(solver, num_steps)


def _flow(solver, num_steps) -> Path:
  def linear(mean, variance, x, t):
    return mean + (t * variance - (1 - t)) / ((1 - t) ** 2 + t**2 * variance) * (x - t * mean)

  return Path(
    std=1.0,
    place=lambda t: (t, 1 - t),
    levels=lambda key, num: jax.random.uniform(key, (num,)),
    target=lambda row, noise, t: row - noise,
    weight=lambda t: jnp.ones_like(t),
    of_clean=lambda clean, x, t: (clean - x) / jnp.maximum(1 - t, 1e-4),
    linear=linear,
    wrapped=lambda network, x, t: network(x, t),
  )


def _diffusion(solver, num_steps) -> Path:
  trained = theory.sampler_times(*(("ddim", 1000) if solver == "ddim" else (solver, num_steps)))[:-1]
  place = lambda a: (jnp.sqrt(a), jnp.sqrt(1 - a))

  def linear(mean, variance, x, a):
    signal, noise_std = place(a)
    return noise_std / (a * variance + 1 - a) * (x - signal * mean)

  def levels(key, num):
    return jnp.asarray(trained, float)[choose(key, exact_table(np.ones(len(trained))), num)]

  def of_clean(clean, x, a):
    signal, noise_std = place(a)
    return (x - signal * clean) / noise_std

  return Path(
    std=1.0,
    place=place,
    levels=levels,
    target=lambda row, noise, a: noise,
    weight=lambda a: jnp.ones_like(a),
    of_clean=of_clean,
    linear=linear,
    wrapped=lambda network, x, a: network(x, 0.125 * jnp.log((1 - a) / a)),
  )


def _edm(solver, num_steps) -> Path:
  std = 0.5

  def wrapped(network, x, sigma):  # Karras et al. 2206.00364, table 1
    total = sigma**2 + std**2
    inner = network(x / jnp.sqrt(total), 0.25 * jnp.log(jnp.maximum(sigma, 1e-6)))
    return std**2 / total * x + sigma * std / jnp.sqrt(total) * inner

  return Path(
    std=std,
    place=lambda sigma: (jnp.ones_like(sigma), sigma),
    levels=lambda key, num: jnp.exp(1.2 * normal(key, (num,)) - 1.2),
    target=lambda row, noise, sigma: row,
    weight=lambda sigma: (sigma**2 + std**2) / (sigma * std) ** 2,
    of_clean=lambda clean, x, sigma: clean,
    linear=lambda mean, variance, x, sigma: mean + variance / (variance + sigma**2) * (x - mean),
    wrapped=wrapped,
  )


class Combined(NamedTuple):
  """A model whose field is a weighted sum of the fields of others, as guidance makes it; metrics of parameters are of the first.

  Attributes:
    models: parameters of each, as the task's `fit` returns them.
    weights: [] of each; their sum is 1 where what all fields have in common is to stay.
  """

  models: tuple[Any, ...]
  weights: tuple[Any, ...]


def combined(params: Combined, field_of: Callable[[Any], Field]) -> Field:
  """The field of `params`, where `field_of` says that of one model."""
  fields = [field_of(model) for model in params.models]
  return lambda x, level: sum(weight * field(x, level) for weight, field in zip(params.weights, fields))


# ---------------------------------------------------------------------------------------------------- solvers
def integrate(key: Array, field: Field, num: int, dim: int, solver: str, num_steps: int, stop_noise=0.0) -> Array:
  """Rows [num, dim] that a solver makes of noise.

  Args:
    key: of the noise.
    field: of the solver's path; called with one level for all rows.
    num, dim: of the rows.
    solver: one of `theory.SAMPLERS`.
    num_steps: of it.
    stop_noise: h, where noise / signal falls to it integration ends, and rows are divided by the signal: the law of the data with
      N(0, h^2) added, where all else is exact; may be traced.
  """
  family, _, kind = solver.partition("_")
  start_key, noise_key = jax.random.split(key)
  x = normal(start_key, (num, dim))
  times, last_signal = _stopped(family, theory.sampler_times(solver, num_steps), stop_noise)
  now, later = times[:-1], times[1:]

  def flow_step(x, step):
    t, h = step[0], step[1] - step[0]
    slope = field(x, t)
    if kind == "midpoint":
      slope = field(x + h / 2 * slope, t + h / 2)
    elif kind == "heun":
      slope = (slope + field(x + h * slope, t + h)) / 2
    elif kind == "rk4":
      second = field(x + h / 2 * slope, t + h / 2)
      third = field(x + h / 2 * second, t + h / 2)
      slope = (slope + 2 * second + 2 * third + field(x + h * third, t + h)) / 6
    return x + h * slope, None

  def ddpm_step(x, step):
    a, b, spread, one = step
    alpha = a / b
    moved = (x - (1 - alpha) / jnp.sqrt(1 - a) * field(x, a)) / jnp.sqrt(alpha)
    return moved + spread * normal(one, x.shape), None

  def ddim_step(x, step):
    a, b = step
    noise = field(x, a)
    return jnp.sqrt(b / a) * (x - jnp.sqrt(1 - a) * noise) + jnp.sqrt(1 - b) * noise, None

  def edm_step(x, step):
    sigma, after = step
    slope_at = lambda x, sigma: (x - field(x, sigma)) / jnp.where(sigma > 0, sigma, 1.0)
    slope = slope_at(x, sigma)
    moved = x + (after - sigma) * slope
    if kind == "heun":
      corrected = x + (after - sigma) / 2 * (slope + slope_at(moved, after))
      moved = jnp.where(after > 0, corrected, moved)
    return moved, None

  if family == "ddpm":
    beta = 1 - now / later
    spread = beta * (1 - later) / (1 - now) if kind == "posterior" else beta * (later < 1)
    steps = (now, later, jnp.sqrt(spread), jax.random.split(noise_key, num_steps))
    return jax.lax.scan(ddpm_step, x, steps)[0] / last_signal
  step = {"flow": flow_step, "ddim": ddim_step, "edm": edm_step}[family]
  return jax.lax.scan(step, times[0] * x if family == "edm" else x, (now, later))[0] / last_signal


def _stopped(family, times, stop_noise):
  """Levels [num_steps + 1] that do not go beyond where noise / signal is stop_noise, and the signal at the last of them.

  Steps after it have no length.
  """
  times, h = jnp.asarray(times, float), jnp.asarray(stop_noise, float)
  if family == "edm":
    return jnp.maximum(times, h), 1.0
  last = 1 / (1 + h) if family == "flow" else 1 / (1 + h**2)
  return jnp.minimum(times, last), last if family == "flow" else jnp.sqrt(last)


# ---------------------------------------------------------------------------------------------------- couplings
_ROUNDS = 64


def couple(coupling: str, rows: Array, noise: Array) -> Array:
  """The noise of a batch in another order, nearer to its rows: optimal transport of minibatches (Tong et al. 2302.00482).

  "swaps": two pairs exchange their noise where that shortens the sum of squares. Each of 64 rounds pairs all rows anew, without a
  branch, so that it runs under vmap: in the plane 97% of what the best order of 256 gains, more than the best orders within blocks
  of 64. "exact": the best order, by the Hungarian algorithm, in O(B^3). The noise stays the same set under both.

  Args:
    coupling: one of `vocabulary.COUPLINGS`.
    rows, noise: [B, dim].
  """
  if coupling == "exact":
    row, column = optax.assignment.hungarian_algorithm(jnp.sum((rows[:, None] - noise[None]) ** 2, axis=-1))
    return noise[jnp.zeros(len(rows), jnp.int32).at[row].set(column)]
  return _swapped(rows, noise) if coupling == "swaps" else noise


def _swapped(rows, noise):
  num = len(rows)
  sums = np.random.default_rng(0).permutation(num)[:_ROUNDS]  # row i meets row (sum - i) mod num

  def partners(x, total):  # [dim, num]
    mirrored = x[:, ::-1]
    return jax.lax.dynamic_slice_in_dim(jnp.concatenate([mirrored, mirrored], axis=1), num - 1 - total, num, axis=1)

  def step(z, total):
    other = partners(z, total)
    crossed = jnp.sum((x - partners(x, total)) * (z - other), axis=0, keepdims=True) < 0
    return jnp.where(crossed, other, z), None

  x = rows.T
  return jax.lax.scan(step, noise.T, jnp.asarray(sums, jnp.int32))[0].T
