"""Draws for the inner loop: exact or as good as those of jax.random, cheaper to run and much cheaper to compile.

Shapes are flat while drawing: XLA unrolls a hash over a short last dimension, and then compiles for seconds. What takes long to
trace is jitted, and so traced once for each shape, however many programs need it.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32, Num, UInt32

from collapse_jax.refused import Refused
from collapse_jax.types import Array, Number

__all__ = [
  "PRNG",
  "PoissonTable",
  "Table",
  "binomial",
  "binomial_split",
  "bits",
  "checked_key",
  "chi_square",
  "chi_squares",
  "choose",
  "choose_all",
  "cornish_fisher",
  "exact_table",
  "fold_in",
  "hashed",
  "high_product",
  "index",
  "new_key",
  "normal",
  "poisson",
  "poisson_counts",
  "poisson_rows",
  "poisson_table",
  "seed_of",
  "split",
  "table",
  "uniform",
]

PRNG = "threefry2x32"  # of every key, whatever jax_default_prng_impl says: draws of other kinds change under vmap
_ABOVE_MINUS_ONE = np.nextafter(np.float32(-1), np.float32(0))


def new_key(seed) -> Array:
  """A key of this package's kind, of an integer."""
  return jax.random.key(seed, impl=PRNG)


def checked_key(key: Array) -> Array:
  """A key that is handed in, as a typed one; old ones (uint32 [2]) do. A ValueError for one of another kind, and for several."""
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    kind = str(jax.random.key_impl(key))
    if key.shape:
      raise Refused(f"key must be a single one (jax.vmap is for several), got {list(key.shape)} of them.")
    if kind == PRNG:
      return key
  elif key.dtype == np.uint32 and key.shape == (2,):
    return jax.random.wrap_key_data(key, impl=PRNG)
  else:
    kind = f"{key.dtype}{list(key.shape)}"
  raise Refused(
    f"key must be a threefry key, for draws of others change under vmap: jax.random.key(seed, impl={PRNG!r}); "
    f"got {kind}."
  )


def seed_of(key: Array) -> int:
  """A seed for generators other than JAX's, from 0 to 2^31 - 1: a function of the key alone. Not inside jit.

  Args:
    key: as `fit`, `sample`, `init` and `evaluate` are handed it, each of them another one in every generation of every run.
  """
  return int(np.asarray(jax.random.bits(key))) >> 1


def bits(key: Array, num: int) -> UInt32[Array, "{num}"]:
  """[num] uint32, all 64 bits of every hash used; `jax.random.bits` uses 32 of them so that it can be sharded.

  Words 2i and 2i + 1 are the hash of i, so that fewer numbers are the first of more.
  """
  words = jax.random.key_data(key)
  if words.shape != (2,):  # not threefry
    return jax.random.bits(key, (num,), np.uint32)
  count = jax.lax.iota(np.uint32, (num + 1) // 2)
  both = hashed((words[0], words[1]), (count, count | np.uint32(1 << 31)))
  return jnp.stack(both, axis=1).reshape(-1)[:num]


def fold_in(key: Array, number: Number | Num[Array, "..."]) -> Array:
  """The keys of `jax.random.fold_in` with each number of an array, by `hashed`.

  Args:
    key: a single threefry key.
    number: any shape, whole, from 0 to 2^32 - 1.
  """
  return _fold_in(key, np.uint32(number) if isinstance(number, int) else number)


@jax.jit
def _fold_in(key, number):
  words = jax.random.key_data(checked_key(key))
  count = jnp.asarray(number).astype(np.uint32)
  found = hashed((words[0], words[1]), (jnp.zeros_like(count), count))
  return jax.random.wrap_key_data(jnp.stack(found, axis=-1), impl=PRNG)


@functools.partial(jax.jit, static_argnames="num")
def split(key: Array, num: int = 2) -> Array:
  """[num] keys, those of `jax.random.split`, by `hashed`.

  Args:
    key: a single threefry key.
    num: a Python int.
  """
  return fold_in(key, jnp.arange(num))


@jax.jit
def hashed(words: tuple[Array, Array], count: tuple[Array, Array]) -> tuple[Array, Array]:
  """Two uint32 words for each key and count: a block of Threefry-2x32 (Salmon et al. 2011).

  That of (0, i) is `jax.random.fold_in` with i. JAX's own is a loop on CPU, of a dozen kernels: slower to compile than these 110
  operations, which are one with what uses them, and slower to run.

  Args:
    words: data of keys, two arrays of uint32.
    count: two arrays of uint32.
  """
  first, second = words
  keys = first, second, first ^ second ^ np.uint32(0x1BD11BDA)
  x, y = count[0] + first, count[1] + second
  for i in range(5):
    for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
      x = x + y
      y = ((y << turn) | (y >> (32 - turn))) ^ x
    x, y = x + keys[(i + 1) % 3], y + keys[(i + 2) % 3] + np.uint32(i + 1)
  return x, y


def normal(key: Array, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
  """Standard normal variates by inversion."""
  num = math.prod(shape)
  if jnp.result_type(float) != np.float32:
    return jax.random.normal(key, (num,)).reshape(shape)
  return _normal(key, num).reshape(shape)


@functools.partial(jax.jit, static_argnums=1)
def _normal(key, num):
  return _normal_quantile(_symmetric(bits(key, num)))


def _symmetric(words):
  """uint32 to float32, uniform in (-1, 1)."""
  one_to_two = jax.lax.bitcast_convert_type((words >> 9) | np.uint32(0x3F800000), np.float32)
  return jnp.maximum(2 * one_to_two - 3, _ABOVE_MINUS_ONE)


_CENTRE = (
  2.81022636e-08,
  3.43273939e-07,
  -3.5233877e-06,
  -4.39150654e-06,
  0.00021858087,
  -0.00125372503,
  -0.00417768164,
  0.246640727,
  1.50140941,
)
_TAIL = (
  -0.000200214257,
  0.000100950558,
  0.00134934322,
  -0.00367342844,
  0.00573950773,
  -0.0076224613,
  0.00943887047,
  1.00167406,
  2.83297682,
)


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


@functools.partial(jax.jit, static_argnames="num")
def index(key: Array, num: int, size: Number) -> Int32[Array, "{num}"]:
  """[num] int32, uniform over 0..size - 1, size at most 2^31: the high half of bits * size.

  (Lemire 2019, without its rejection: no index is likelier than another by more than a factor 1 + size / 2^32.)
  `jax.random.randint` takes two draws, two remainders and a split for the same.

  Args:
    key: used once.
    num: a Python int.
    size: a Python or traced number, whole, in 1..2^31.
  """
  return high_product(bits(key, num), jnp.asarray(size).astype(np.uint32)).astype(np.int32)


def high_product(a: Array, b: Array) -> Array:
  """High word of the product of two uint32.

  Args:
    a, b: uint32.
  """
  a_high, a_low, b_high, b_low = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
  cross, other = a_high * b_low, a_low * b_high
  carry = ((cross & 0xFFFF) + (other & 0xFFFF) + (a_low * b_low >> 16)) >> 16
  return a_high * b_high + (cross >> 16) + (other >> 16) + carry


def uniform(key: Array, num: int) -> Float[Array, "{num}"]:
  """[num] in (0, 1), of 64 bits: the relative resolution of small numbers is that of float32 down to 2^-40.

  Those of `jax.random.uniform` are multiples of 2^-23, so that events of probability 1e-8 never happen.
  """
  words = bits(key, 2 * num)
  value = words[::2].astype(float) * 2.0**-32 + (words[1::2].astype(float) + 0.5) * 2.0**-64
  return jnp.minimum(value, 1 - jnp.finfo(value.dtype).epsneg)


# ----------------------------------------------------------------------------------------- outcomes of given weights
class Table(NamedTuple):
  """Cumulative weights [..., k] as integers of 64 bits, in two words each."""

  high: Any
  low: Any


_WHOLE = 2.0**32 - 2.0**20  # sum of the high words: less than 2^32 also where rounding adds to it


def table(weight: Num[Array, "*rows k"]) -> Table:
  """Of weights [..., k] of at least 0 and any scale; those below 2^-62 of their sum count as 0."""
  total = jnp.sum(weight, axis=-1, keepdims=True)
  share = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1.0), 0.0) * _WHOLE
  whole = jnp.floor(share)
  each = ((share - whole) * 2.0**32).astype(np.uint32)
  low = jnp.cumsum(each, axis=-1, dtype=np.uint32)
  carry = (low < each).astype(np.uint32)  # a sum that went round is below what was added last
  return Table(jnp.cumsum(whole.astype(np.uint32) + carry, axis=-1, dtype=np.uint32), low)


def exact_table(weight: Num[np.ndarray, " k"]) -> Table:
  """Of known weights [k], float64, on the host; every positive one counts."""
  share = np.asarray(weight, np.float64) / np.sum(weight, dtype=np.float64)
  each = np.maximum((share * _WHOLE * 2.0**32).astype(np.uint64), share > 0)
  below = np.cumsum(each, dtype=np.uint64)
  return Table((below >> np.uint64(32)).astype(np.uint32), (below & np.uint64(0xFFFFFFFF)).astype(np.uint32))


def choose(
  key: Array, weights: Table, num: int, which: Num[Array, "{num}"] | None = None, fine: bool = True
) -> Int32[Array, "{num}"]:
  """[num] int32 outcomes, each with its weight, and never one of weight 0.

  Positions have 64 bits, of which the last 32 are drawn where the first leave more than one outcome: hardly ever.

  Args:
    weights: [k], or [m, k] where `which` [num] says from which row each outcome comes.
    fine: weights count to 2^-62 of their sum, also those of the rarest; else, faster, as `index`: to 2^-32, where what one
      outcome lacks its neighbours have.
  """
  size = weights.high.shape[-1]
  start = 0 if which is None else which * size
  high, low = (jnp.asarray(x).reshape(-1) for x in weights)
  total = high[start + size - 1], low[start + size - 1]
  first = bits(key, num)
  least = high_product(first, total[0])  # the high word of the position is this, or up to 2 more

  def search(above):
    """A step towards the first outcome in [begin, end) whose cumulative weight is above a position; else it is `end`."""

    def halve(bounds):
      begin, end = bounds
      middle = (begin + end) // 2
      found = above(start + jnp.minimum(middle, size - 1))
      return jnp.where(found, begin, jnp.minimum(middle + 1, end)), jnp.where(found, middle, end)

    return halve

  none = jnp.zeros(num, np.int32)
  rough = search((lambda at: high[at] >= least) if fine else (lambda at: high[at] > least))
  begin = jax.lax.fori_loop(0, size.bit_length(), lambda _, bounds: rough(bounds), (none, none + size))[0]
  if not fine:
    return jnp.minimum(begin, size - 1)
  settled = high[start + jnp.minimum(begin, size - 1)] > least + 2

  def finer(bounds):
    position = _below((first, bits(fold_in(key, 1), num)), *total)
    return search(lambda at: (high[at] > position[0]) | ((high[at] == position[0]) & (low[at] > position[1])))(bounds)

  unsettled = begin, jnp.where(settled, begin, size)
  return jnp.minimum(jax.lax.while_loop(lambda bounds: jnp.any(bounds[0] < bounds[1]), finer, unsettled)[0], size - 1)


def choose_all(words: UInt32[Array, "m 2"], weights: Table) -> Int32[Array, " m"]:
  """[m] int32, one outcome of each row of weights [m, k], as `choose` does, by random words [m, 2]."""
  high, low = _below((words[:, 0], words[:, 1]), weights.high[:, -1], weights.low[:, -1])
  passed = (weights.high < high[:, None]) | ((weights.high == high[:, None]) & (weights.low <= low[:, None]))
  return jnp.minimum(jnp.sum(passed, axis=1, dtype=np.int32), weights.high.shape[1] - 1)


def _below(words, high, low):
  """Integers of 64 bits, uniform below (high, low), from words of 32 bits: the high half of their product."""
  first, second = words
  product = first * high
  one = product + high_product(first, low)
  two = one + high_product(second, high)
  return high_product(first, high) + (one < product).astype(np.uint32) + (two < one).astype(np.uint32), two


# --------------------------------------------------------------------------------------------------- laws of totals
_SPREAD = 100.0  # variance from which a total is drawn by its expansion, and below which by its probabilities
_SPREAD_OF_MANY = 25.0  # the same where many are drawn at once, by one more order: right to 7e-7
_AT_ONCE = 64  # of those that are few
_WIDTH = 160  # of these as many as lie within 8 standard deviations


def cornish_fisher(z: Array, variance, third, fourth, fifth, sixth=None) -> Array:
  """What has the given cumulants and mean 0, where z is standard normal (Cornish and Fisher 1938, to third order; with the
  sixth cumulant to fourth, by Abramowitz and Stegun 26.2.49).

  Args:
    z: standard normal, any shape.
    variance: [], above 0; in units squared.
    third, fourth, fifth, sixth: [], cumulants, in units to that power.
  """
  std = jnp.sqrt(variance)
  sixth = None if sixth is None else sixth / variance**3
  return std * (z + _expansion(z, third / std**3, fourth / variance**2, fifth / std**5, sixth))


def _expansion(z, skewness, kurtosis, fifth, sixth):
  """What is added to z, of cumulants of a law of variance 1."""
  square = z**2
  change = (
    skewness * (square - 1) / 6
    + kurtosis * z * (square - 3) / 24
    - skewness**2 * z * (2 * square - 5) / 36
    + fifth * ((square - 6) * square + 3) / 120
    - skewness * kurtosis * ((square - 5) * square + 2) / 24
    + skewness**3 * ((12 * square - 53) * square + 17) / 324
  )
  if sixth is not None:
    change = change + z * (
      sixth * ((square - 10) * square + 15) / 720
      - kurtosis**2 * ((3 * square - 24) * square + 29) / 384
      - skewness * fifth * ((2 * square - 17) * square + 21) / 180
      + skewness**2 * kurtosis * ((14 * square - 103) * square + 107) / 288
      - skewness**4 * ((252 * square - 1688) * square + 1511) / 7776
    )
  return change


def binomial(key: Array, num: Array, chance: Array, other: Array) -> tuple[Array, Array]:
  """Successes among `num` trials, of any number up to 1e12 and more.

  Below a variance of 100 from their probabilities, from there on by the expansion of the law of a lattice. In float32 the
  distribution function is right to 5e-7 everywhere; without rounding it would be to 2e-7 at a variance of 100, 2e-11 at 1e4.

  Args:
    key: a key.
    num: [] float, whole.
    chance: [] of success, at most 1/2.
    other: [] 1 - chance.
  Returns:
    the number, exact where the variance is below 100; and its deviation from num * chance, with all digits of a float.
  """
  third, fourth, fifth, _ = _cumulants_of_binomial(chance, other)
  return _lattice(
    key, num, chance, num * (chance * other), lambda k: (num - k) * (chance / other), third, fourth, fifth
  )


@jax.jit
def binomial_split(word: Array, num: Array, a: Array, b: Array, fresh: Array) -> Array:
  """`num` items over two places of weights a and b: how many come to the first, many binomials of few trials at once.

  From a variance of 25 on as `binomial`, to one more order; below, by adding up probabilities from the mode on both ways, until
  they exceed a uniform number: for `_AT_ONCE` of these at a time, as many times as it takes.

  Args:
    word: [*shape] uint32.
    num: [*shape] int32, below 2^24.
    a, b: [*shape] int32, at least 0, of sums below 2^24.
    fresh: where not, a is returned.
  Returns:
    [*shape] int32; no item comes to a place of weight 0. Where both are 0 there must be no item.
  """
  chance, other = _chances(a, b)
  n = num.astype(float)
  whole, part = _product(n, chance)
  spread = jnp.maximum(n * (chance * other), _SPREAD_OF_MANY)
  z = _normal_quantile(_symmetric(word)).astype(n.dtype)
  above = _rounded_of_many(z, part, spread, *_cumulants_of_binomial(chance, other))
  left = jnp.where(fresh, _of_less(a <= b, num, whole + jnp.round(above + part)), a).reshape(-1)
  # Without a division, which would be done twice or hold apart what is one kernel.
  first, second = a.astype(float), b.astype(float)
  small = (fresh & (n * first * second < _SPREAD_OF_MANY * jnp.maximum(first + second, 1.0) ** 2)).reshape(-1)
  size = small.shape[0]
  flat = word.reshape(-1), num.reshape(-1), a.reshape(-1), b.reshape(-1)

  def few(word: Array, num: Array, a: Array, b: Array) -> Array:
    chance, other = _chances(a, b)
    return _of_less(a <= b, num, _few_successes(word, num.astype(float), chance, other))

  def some(left: Array) -> Array:
    place = jnp.cumsum(small, dtype=np.int32)
    there = jnp.full(size + _AT_ONCE, size, np.int32)
    there = there.at[jnp.where(small, place - 1, size + _AT_ONCE)].set(jax.lax.iota(np.int32, size), mode="drop")

    def search(state: Any) -> Any:
      i, left = state
      at = jax.lax.dynamic_slice_in_dim(there, i, _AT_ONCE)
      found = few(*(x.at[at].get(mode="fill", fill_value=0) for x in flat))
      return i + _AT_ONCE, left.at[at].set(found, mode="drop")

    return jax.lax.while_loop(lambda state: state[0] < place[-1], search, (jnp.zeros((), np.int32), left))[1]

  def every(left: Array) -> Array:  # of nothing where it is not asked for, which is found at once
    return jnp.where(small, few(flat[0], jnp.where(small, flat[1], 0), *flat[2:]), left)

  searched = every if size <= 4 * _AT_ONCE else some
  return jax.lax.cond(jnp.any(small), searched, lambda left: left, left).reshape(num.shape)


def _chances(a, b):
  """The lesser and the greater of two weights, over their sum."""
  less, more = jnp.minimum(a, b).astype(float), jnp.maximum(a, b).astype(float)
  each = 1 / jnp.maximum(less + more, 1.0)  # one division is one kernel
  return less * each, more * each


def _of_less(first, num, found):
  """int32 items of the first place, where so many were found for that of less weight."""
  return jnp.where(first, found.astype(np.int32), num - found.astype(np.int32))


def _few_successes(word, n, chance, other):
  """Whole floats [m], of binomial laws of small variance: by inversion, adding up probabilities from the mode on both ways."""
  whole, part = _product(n, chance)
  start = jnp.where(whole < 8, 0.0, whole)  # the mode, or none
  mass = jnp.where(whole < 8, jnp.exp(n * jnp.log1p(-chance)), _probability_near_mean(n, whole, part))
  odds = chance / jnp.maximum(other, 0.5)
  left_over = (word.astype(n.dtype) + 0.5) * 2.0**-32 - mass
  steps = jnp.arange(1.0, 5.0, dtype=n.dtype)[:, None]

  def add(state: Any) -> Any:
    i, found, left_over, up, down = state
    high, low = start[None] + (i + steps), start[None] - (i + steps)
    rise = jnp.maximum(n[None] - high + 1, 0.0) / high * odds[None]
    fall = jnp.where(low >= 0, (low + 1) / jnp.maximum((n[None] - low) * odds[None], 1e-30), 0.0)
    for step in range(4):
      up, down = up * rise[step], down * fall[step]
      for k, one in ((high[step], up), (low[step], down)):
        left_over = left_over - one
        found = jnp.where((found < 0) & (left_over < 0), k, found)
    return i + 4, jnp.where((found < 0) & (up + down < 1e-12), start, found), left_over, up, down

  found = jnp.where(left_over < 0, start, -1.0)
  state = jnp.zeros((), n.dtype), found, left_over, mass, jnp.where(whole < 8, 0.0, mass)
  return jax.lax.while_loop(lambda state: jnp.any(state[1] < 0), add, state)[1]


def _cumulants_of_binomial(chance, other):
  """The third to the sixth, relative to the variance."""
  both, skewed = chance * other, other - chance
  return skewed, 1 - 6 * both, skewed * (1 - 12 * both), 1 - 30 * both * (1 - 4 * both)


def _probability_near_mean(n, whole, part):
  """Of `whole` successes among n trials, where their mean is whole + part and at least 8 (Loader 2000)."""
  k = jnp.maximum(whole, 8.0)
  rest = jnp.maximum(n - k, 8.0)
  n = k + rest

  def stirling(x):  # log x! less Stirling's formula
    return (1 / 12 - (1 / 360 - 1 / (1260 * x**2)) / x**2) / x

  def deviance(change):  # (1 + x) log(1 + x) - x, over x^2, of a small x
    return 0.5 - change * (1 / 6 - change * (1 / 12 - change * (1 / 20 - change / 30)))

  less, more = k + part, rest - part  # the means of both numbers
  far = part**2 * (deviance(-part / less) / less + deviance(part / more) / more)
  return jnp.exp(stirling(n) - stirling(k) - stirling(rest) - far) * jnp.sqrt(n / (2 * np.pi * k * rest))


def poisson(key: Array, num: Array, mean: Array) -> tuple[Array, Array]:
  """The sum of `num` Poisson variates, and its deviation from num * mean; as `binomial`.

  Args:
    key: used once.
    num: [] float, whole.
    mean: [] float, of each.
  """
  return _lattice(key, num, mean, num * mean, lambda k: num * mean, 1.0, 1.0, 1.0)


@functools.partial(jax.jit, static_argnums=2)  # jitted, so that `cj.testing` sees one draw: one method of two is taken
def poisson_rows(key: Array, mean: Array, num: int) -> Array:
  """[num] Poisson variates of one mean, as whole floats; from a mean of 100 on by the expansion of `poisson`.

  Args:
    key: used once.
    mean: [] float, at least 0; NaN gives NaN.
    num: a Python int.
  """
  few = jax.random.poisson(key, jnp.minimum(mean, _SPREAD), (num,)).astype(float)
  spread, whole = jnp.maximum(mean, _SPREAD), jnp.floor(mean)
  part = mean - whole
  many = whole + jnp.round(_rounded(normal(key, (num,)), part, spread, spread, spread, spread) + part)
  return jnp.where(jnp.isnan(mean), jnp.nan, jnp.where(mean < _SPREAD, few, many))


class PoissonTable(NamedTuple):
  """Laws of Poisson numbers of mean factor * c: for c = 0, 1, ... below a mean of 25 a row each, to choose a number by two words.

  Attributes:
    factor: Python float, of float32.
    kept: [rows, 128] uint32, below which the second word leaves number i at i.
    other: [rows, 128] int32, what it becomes else.
  """

  factor: Any
  kept: Any
  other: Any


@functools.lru_cache(32)
def poisson_table(factor: float) -> PoissonTable:
  """By aliases (Walker 1977; Vose 1991), on the host: probabilities are right to 2^-39.

  Args:
    factor: a Python float, at least 1/2 and at most 1.
  """
  factor = float(np.float32(factor))
  rows = math.ceil(_SPREAD_OF_MANY / factor) + 1
  kept, other = np.ones((rows, 128)), np.tile(np.arange(128, dtype=np.int32), (rows, 1))
  log_factorial = np.array([math.lgamma(k + 1) for k in range(128)])
  for count in range(rows):
    if count == 0:
      share = np.where(np.arange(128) == 0, 128.0, 0.0)
    else:
      share = np.exp(np.arange(128) * math.log(factor * count) - factor * count - log_factorial)
      share *= 128 / share.sum()
    less, more = [k for k in range(128) if share[k] < 1], [k for k in range(128) if share[k] >= 1]
    while less and more:
      low, high = less.pop(), more[-1]
      kept[count, low], other[count, low] = share[low], high
      share[high] -= 1 - share[low]
      if share[high] < 1:
        less.append(more.pop())
  return PoissonTable(factor, np.minimum(kept * 2.0**32, 2.0**32 - 1).astype(np.uint32), other)


def poisson_counts(words: tuple[Array, Array], count: Array, table: PoissonTable) -> Array:
  """int32 Poisson numbers of mean factor * count; from a mean of 25 on by the expansion, right to 7e-7.

  Args:
    words: two arrays of uint32, [*shape].
    count: [*shape] int32, at least 0, below 2^24.
    table: of the factor.
  """
  most = table.kept.shape[0] - 1
  at = jnp.minimum(count, most) * 128 + (words[0] >> 25).astype(np.int32)
  kept, other = (jnp.asarray(x).reshape(-1)[at] for x in (table.kept, table.other))
  few = jnp.where(words[1] < kept, at & 127, other)
  whole, part = _product(count.astype(float), jnp.asarray(table.factor, float))
  spread = jnp.maximum(whole + part, _SPREAD_OF_MANY)
  z = _normal_quantile(_symmetric(words[1])).astype(spread.dtype)
  many = whole + jnp.round(_rounded_of_many(z, part, spread, 1.0, 1.0, 1.0, 1.0) + part)
  return jnp.where(count < most, few, many.astype(np.int32))


def _lattice(key, num, mean, variance, next_over, third, fourth, fifth):
  """A number 0, 1, ... of mean num * mean; its third to fifth cumulants come relative to its variance.

  next_over: (k) -> probability of k + 1 over that of k, times k + 1.
  """
  words = bits(key, 2)
  whole, part = _product(num, mean)
  least, weight = _weights(whole, next_over)
  below = jnp.cumsum(weight)
  few = least + jnp.sum(below < (words[0].astype(float) + 0.5) * 2.0**-32 * below[-1])
  z = _normal_quantile(_symmetric(words[1])) if jnp.result_type(float) == np.float32 else normal(key)
  spread = jnp.maximum(variance, _SPREAD)
  above = _rounded(z, part, spread, third * spread, fourth * spread, fifth * spread)
  small = variance < _SPREAD
  return jnp.where(small, few, whole + jnp.round(above + part)), jnp.where(small, (few - whole) - part, above)


def _weights(whole, next_over):
  """The least number that matters, and probabilities of those from there on, up to a factor."""
  least = jnp.maximum(whole - _WIDTH // 2, 0.0)
  k = least + jnp.arange(_WIDTH - 1)
  ratio = jnp.maximum(next_over(k), 0.0) / (k + 1)
  start = jnp.exp(-jnp.minimum(whole, _WIDTH / 2))  # neither the largest nor those of a few leave the range of float32
  return least, jnp.cumprod(jnp.concatenate([start[None], ratio]))


def _rounded(z, part, variance, third, fourth, fifth, sixth=None):
  """Deviation of a whole number from a mean with the given fractional part.

  The continuous law of which it is the rounding has another variance and kurtosis than itself (Euler and Maclaurin).
  """
  sixth = None if sixth is None else sixth - 1 / 252
  return jnp.floor(cornish_fisher(z, variance - 1 / 12, third, fourth + 1 / 120, fifth, sixth) + (0.5 + part)) - part


def _rounded_of_many(z, part, variance, third, fourth, fifth, sixth):
  """`_rounded` of cumulants relative to the variance, with one root and no division: many at once are few kernels."""
  each = jax.lax.rsqrt(variance - 1 / 12)
  square = each * each
  std = (variance - 1 / 12) * each
  change = _expansion(
    z,
    (third * variance * square) * each,
    (fourth * variance + 1 / 120) * square**2,
    (fifth * variance * square) * (square * each),
    (sixth * variance - 1 / 252) * square**3,
  )
  return jnp.floor(std * (z + change) + (0.5 + part)) - part


def _product(a, b):
  """Whole and fractional part of a product, as if it had been taken in double precision."""
  high = a * b
  if high.dtype == np.float32:
    top = lambda x: jax.lax.bitcast_convert_type(
      jax.lax.bitcast_convert_type(x, np.uint32) & np.uint32(0xFFFFF000), np.float32
    )
    a_top, b_top = top(a), top(b)
    a_rest, b_rest = a - a_top, b - b_top
    low = ((a_top * b_top - high) + a_top * b_rest + a_rest * b_top) + a_rest * b_rest
  else:
    low = jnp.zeros_like(high)
  whole = jnp.floor(high)
  part = (high - whole) + low
  return whole + jnp.floor(part), part - jnp.floor(part)


def chi_square(key: Array, freedom: Num[Array, " k"]) -> Float[Array, " k"]:
  """Chi-squared variates, exact, for freedom 1 or from 2 to 1e13; see `chi_squares`."""
  return chi_squares(key, freedom)[0]


@jax.jit
def chi_squares(key: Array, freedom: Num[Array, " k"]) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
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
    u = _symmetric(bits(fold_in(key, i), 2 * num))
    x = _normal_quantile(u[:num]).astype(freedom.dtype)
    y = c * x
    accept = (y > -1) & (jnp.log(0.5 + 0.5 * u[num:]).astype(freedom.dtype) < d * _log_remainder(y))
    return i + 1, jnp.where(jnp.isnan(accepted) & (accept | single), x, accepted)

  x = jax.lax.while_loop(lambda state: jnp.any(jnp.isnan(state[1])), propose, (0, jnp.full_like(freedom, jnp.nan)))[1]
  y = jnp.maximum(c * x, -1 + 1e-7)
  cubed = (1 + y) ** 3
  return (
    jnp.where(single, x**2, 2 * d * cubed),
    jnp.where(single, (x - 1) * (x + 1), y * (3 + y * (3 + y)) - 2 / (3 * freedom) * cubed),
  )


def _log_remainder(y):
  """3 (log(1 + y) - y + y^2 / 2 - y^3 / 3), by its series where that would cancel."""
  series = y**4 * _polynomial([3 * (-1) ** (k + 1) / k for k in range(13, 3, -1)], jnp.clip(y, -0.25, 0.25))
  return jnp.where(jnp.abs(y) < 0.25, series, 3 * (jnp.log1p(jnp.maximum(y, -1 + 1e-7)) - y + y**2 / 2 - y**3 / 3))
