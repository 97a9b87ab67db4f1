"""Draws that jax.random lacks or makes too slowly for the inner loop. Threefry keys only."""

import jax
import jax.numpy as jnp

from collapse_jax.types import Array


def chi_square(key: Array, freedom: Array) -> Array:
  """Chi-squared variates, exact, for freedom 1 or from 2 to 1e10 (Marsaglia and Tsang 2000).

  All lanes propose together until the last accepts, which compiles and runs several times faster on CPU than
  `jax.random.gamma`; the acceptance test is written with log1p, since 1 - v + log(v) loses every digit in float32
  beyond about 1e6 degrees of freedom. A lane's value depends on its own key only.

  Args:
    key: a key.
    freedom: [k] degrees of freedom: 1, or any number of at least 2.
  Returns:
    [k], as freedom.
  """
  d = jnp.maximum(freedom, 2.0) / 2 - 1 / 3
  c = 1 / jnp.sqrt(9 * d)

  def propose(state):
    i, value, accepted = state
    normal_key, uniform_key = jax.random.split(jax.random.fold_in(key, i))
    x = jax.random.normal(normal_key, freedom.shape)
    y = jnp.maximum(c * x, -1 + 1e-7)
    excess = 3 * (jnp.log1p(y) - y) - 3 * y ** 2 - y ** 3  # 1 - v + log(v) with v = (1 + y)^3
    accept = (c * x > -1) & (jnp.log(jax.random.uniform(uniform_key, freedom.shape)) < 0.5 * x ** 2 + d * excess)
    single = freedom < 2  # one degree of freedom: the square itself
    proposal = jnp.where(single, x ** 2, 2 * d * (1 + y) ** 3)
    accept = accept | single
    return i + 1, jnp.where(accept & ~accepted, proposal, value), accepted | accept

  start = (0, jnp.ones_like(freedom), jnp.zeros(freedom.shape, bool))
  return jax.lax.while_loop(lambda state: ~jnp.all(state[2]), propose, start)[1]
