"""Draws for the inner loop: exact or as good as those of jax.random, cheaper to run and much cheaper to compile.

Shapes are flat while drawing: XLA unrolls a hash over a short last dimension, and then compiles for seconds.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

from collapse_jax.types import Array

PRNG = "threefry2x32"  # of every key, whatever jax_default_prng_impl says: draws of other kinds change under vmap
_ABOVE_MINUS_ONE = np.nextafter(np.float32(-1), np.float32(0))


def new_key(seed) -> Array:
  return jax.random.key(seed, impl=PRNG)


def checked_key(key: Array) -> Array:
  """A key that is handed in, as a typed one; old ones (uint32 [2]) do. A ValueError for one of another kind."""
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    kind = str(jax.random.key_impl(key))
    if kind == PRNG:
      return key
  elif key.dtype == np.uint32 and key.shape == (2,):
    return jax.random.wrap_key_data(key, impl=PRNG)
  else:
    kind = f"{key.dtype}{list(key.shape)}"
  raise ValueError(f"key must be a threefry key, for draws of others change under vmap: jax.random.key(seed, impl={PRNG!r}); "
                   f"got {kind}.")


def bits(key: Array, num: int) -> Array:
  """[num] uint32, all 64 bits of every hash used; `jax.random.bits` uses 32 of them so that it can be sharded.

  Words 2i and 2i + 1 are the hash of i, so that fewer numbers are the first of more.
  """
  words = jax.random.key_data(key)
  if words.shape != (2,):  # not threefry
    return jax.random.bits(key, (num,), np.uint32)
  half = (num + 1) // 2
  count = jax.lax.iota(np.uint32, half)
  both = threefry_2x32(words, jnp.concatenate([count, count | np.uint32(1 << 31)]))
  return jnp.stack([both[:half], both[half:]], axis=1).reshape(-1)[:num]


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
  """Chi-squared variates, exact, for freedom 1 or from 2 to 1e10 (Marsaglia and Tsang 2000).

  All lanes propose together until the last accepts, which compiles and runs several times faster on CPU than
  `jax.random.gamma`. That a lane has accepted is told by its value alone: a compiler may compute the test twice, and round it
  both ways where it is close. The acceptance test is written with log1p, since 1 - v + log(v) loses every digit in float32
  beyond about 1e6 degrees of freedom. A lane's value depends on its own key only.

  Args:
    key: a key.
    freedom: [k] degrees of freedom: 1, or any number of at least 2.
  Returns:
    [k], as freedom.
  """
  num = freedom.shape[0]
  d = jnp.maximum(freedom, 2.0) / 2 - 1 / 3
  c = 1 / jnp.sqrt(9 * d)

  def propose(state):
    i, value = state
    u = _symmetric(bits(jax.random.fold_in(key, i), 2 * num))
    x = _normal_quantile(u[:num]).astype(freedom.dtype)
    y = jnp.maximum(c * x, -1 + 1e-7)
    excess = 3 * (jnp.log1p(y) - y) - 3 * y ** 2 - y ** 3  # 1 - v + log(v) with v = (1 + y)^3
    accept = (c * x > -1) & (jnp.log(0.5 + 0.5 * u[num:]).astype(freedom.dtype) < 0.5 * x ** 2 + d * excess)
    single = freedom < 2  # one degree of freedom: the square itself
    proposal = jnp.where(single, x ** 2, 2 * d * (1 + y) ** 3)
    return i + 1, jnp.where((value < 0) & (accept | single), proposal, value)

  start = (0, jnp.full_like(freedom, -1.0))
  return jax.lax.while_loop(lambda state: jnp.any(state[1] < 0), propose, start)[1]
