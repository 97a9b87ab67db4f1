"""Draws for the inner loop: exact or as good as those of jax.random, cheaper to run and much cheaper to compile.

Shapes are flat while drawing: XLA unrolls a hash over a short last dimension, and then compiles for seconds.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

from collapse_jax.types import Array

_ABOVE_MINUS_ONE = np.nextafter(np.float32(-1), np.float32(0))


def bits(key: Array, num: int) -> Array:
  """[num] uint32, all 64 bits of every hash used; `jax.random.bits` uses 32 of them so that it can be sharded."""
  words = jax.random.key_data(key)
  if words.shape != (2,):  # not threefry
    return jax.random.bits(key, (num,), np.uint32)
  return threefry_2x32(words, jax.lax.iota(np.uint32, num + num % 2))[:num]


def normal(key: Array, shape: tuple[int, ...] = ()) -> Array:
  """Standard normal variates by inversion."""
  num = math.prod(shape)
  if jnp.result_type(float) != np.float32:
    return jax.random.normal(key, (num,)).reshape(shape)
  return _normal_quantile(_symmetric(bits(key, num))).reshape(shape)


def _symmetric(words):
  """uint32 to float32, uniform in (-1, 1)."""
  one_to_two = jax.lax.bitcast_convert_type((words >> 9) | np.uint32(0x3F800000), np.float32)
  return jnp.maximum(2 * one_to_two - 3, _ABOVE_MINUS_ONE)


_CENTRE = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
           0.246640727, 1.50140941)
_TAIL = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
         1.00167406, 2.83297682)


def _normal_quantile(x):
  """sqrt(2) erf^-1(x) in float32 by the polynomials of Giles (2010); XLA's, through log1p, is slower and less exact."""
  w = -jnp.log((1 - x) * (1 + x))
  root = jnp.where(w < 5, _polynomial(_CENTRE, w - 2.5), _polynomial(_TAIL, jnp.sqrt(w) - 3))
  return np.sqrt(2, dtype=np.float32) * x * root


def _polynomial(coefficients, w):
  value = jnp.full_like(w, coefficients[0])
  for coefficient in coefficients[1:]:
    value = value * w + np.float32(coefficient)
  return value


def index(key: Array, num: int, size) -> Array:
  """[num] int32, uniform over 0..size - 1, size at most 2^31: the high half of bits * size.

  (Lemire 2019, without its rejection: no index is likelier than another by more than a factor 1 + size / 2^32.)
  `jax.random.randint` takes two draws, two remainders and a split for the same.
  """
  words, size = bits(key, num), jnp.asarray(size).astype(np.uint32)
  high, low, size_high, size_low = words >> 16, words & 0xFFFF, size >> 16, size & 0xFFFF
  cross, other = high * size_low, low * size_high
  carry = ((cross & 0xFFFF) + (other & 0xFFFF) + (low * size_low >> 16)) >> 16
  return (high * size_high + (cross >> 16) + (other >> 16) + carry).astype(np.int32)


def chi_square(key: Array, freedom: Array) -> Array:
  """Chi-squared variates, exact, for freedom 1 or from 2 to 1e13; see `chi_squares`."""
  return chi_squares(key, freedom)[0]


def chi_square_excess(key: Array, freedom: Array) -> Array:
  """Chi-squared variates over their mean, minus one, without cancellation; see `chi_squares`."""
  return chi_squares(key, freedom)[1]


def chi_squares(key: Array, freedom: Array) -> tuple[Array, Array]:
  """Chi-squared variates, exact (Marsaglia and Tsang 2000): themselves, and relative to their mean.

  All lanes propose together until the last accepts, which compiles and runs several times faster on CPU than
  `jax.random.gamma`. That a lane has accepted is told by its value alone: a compiler may compute the test twice, and round it
  both ways where it is close. What large numbers would cancel is never formed: with y = x / sqrt(9 d) the test compares
  log u with d times 3 (log(1 + y) - y + y^2 / 2 - y^3 / 3), of order y^4. A lane's value depends on its own key only.

  Args:
    key: a key.
    freedom: [k] degrees of freedom: 1, or any number from 2 to 1e13.
  Returns:
    chi2 [k] and chi2 / freedom - 1 [k], each with the relative accuracy of a float: the second where freedom is large and
    chi2 lies near it, the first where chi2 is near 0.
  """
  num = freedom.shape[0]
  single = freedom < 2  # one degree of freedom: the square itself
  d = jnp.maximum(freedom, 2.0) / 2 - 1 / 3
  c = 1 / (3 * jnp.sqrt(d))

  def propose(state):
    i, accepted = state
    u = _symmetric(bits(jax.random.fold_in(key, i), 2 * num))
    x = _normal_quantile(u[:num]).astype(freedom.dtype)
    y = c * x
    accept = (y > -1) & (jnp.log(0.5 + 0.5 * u[num:]).astype(freedom.dtype) < d * _log_remainder(y))
    return i + 1, jnp.where(jnp.isnan(accepted) & (accept | single), x, accepted)

  x = jax.lax.while_loop(lambda state: jnp.any(jnp.isnan(state[1])), propose, (0, jnp.full_like(freedom, jnp.nan)))[1]
  y = jnp.maximum(c * x, -1 + 1e-7)
  cubed = (1 + y) ** 3
  return (jnp.where(single, x ** 2, 2 * d * cubed),
          jnp.where(single, (x - 1) * (x + 1), y * (3 + y * (3 + y)) - 2 / (3 * freedom) * cubed))


def _log_remainder(y):
  """3 (log(1 + y) - y + y^2 / 2 - y^3 / 3), by its series where that would cancel."""
  series = y ** 4 * _polynomial([3 * (-1) ** (k + 1) / k for k in range(13, 3, -1)], jnp.clip(y, -0.25, 0.25))
  return jnp.where(jnp.abs(y) < 0.25, series, 3 * (jnp.log1p(jnp.maximum(y, -1 + 1e-7)) - y + y ** 2 / 2 - y ** 3 / 3))
