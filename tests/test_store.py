"""Storage: masks, padding, totals, and draws by weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from scipy import special, stats

import collapse_jax as cj
from collapse_jax import random, store, tasks, workflows
from collapse_jax.types import Data, Summary, TaskSetting

COUNT = TaskSetting(
  None,
  None,
  None,
  None,
  3,
  Summary(
    lambda problem, rows, weight: jnp.sum(rows if weight is None else weight * rows),
    lambda problem, a, weight_a, b, weight_b: weight_a * a + weight_b * b,
  ),
)


def three_slots(row_weight=None, weight=None):
  rows = jnp.arange(12.0).reshape(3, 4)
  count = jnp.full(3, 4.0) if row_weight is None else jnp.sum(row_weight, axis=1)
  return Data(rows, row_weight, count, weight, jnp.arange(3), None)


@pytest.mark.parametrize(
  ("row_weight", "weight"),
  [
    (None, None),
    (None, [1.0, 0.0, 3.0]),
    ([[1, 0, 1, 1], [0, 0, 0, 2], [1, 1, 1, 0]], None),
    ([[1, 0, 1, 1], [0, 0, 0, 2], [1, 1, 1, 0]], [2.0, 1.0, 0.5]),
  ],
)
def test_rows_are_drawn_by_weight(row_weight, weight):
  """Each row in proportion to slot weight times row weight: chi-squared with a known number of categories."""
  row_weight = None if row_weight is None else jnp.asarray(row_weight, float)
  if row_weight is not None and weight is None:
    weight = [1.0, 1.0, 1.0]  # batches of unequal size are drawn by mass only where they have weights
  data = three_slots(row_weight, None if weight is None else jnp.asarray(weight))
  num = 200_000
  drawn = np.asarray(store.draw_rows(jax.random.key(3), data, num)).astype(int)
  share = np.outer([1, 1, 1] if weight is None else weight, np.ones(4)) * (1 if row_weight is None else row_weight)
  share = (share / share.sum()).ravel()
  seen = np.bincount(drawn, minlength=12)
  assert not seen[share == 0].any()
  z = (seen - num * share)[share > 0] / np.sqrt(num * share * (1 - share))[share > 0]
  assert np.abs(z).max() < 5
  flat = np.full(12, num / 12)
  if weight is not None:  # ignoring the weights is caught
    assert np.abs(seen - flat).max() / np.sqrt(flat[0]) > 5


def test_rows_without_weights_are_counted_again():
  """Once each, in slots that are in use; the count of the weights that were is the wrong twin."""
  mask = jnp.asarray([[1.0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]])
  data = three_slots()._replace(row_weight=mask, origin=jnp.asarray([0, -1, -1]), summary=None)
  again = data._replace(row_weight=None)
  np.testing.assert_array_equal(data.count, [3, 0, 3])
  np.testing.assert_array_equal(again.count, [4, 0, 4])  # an empty slot, and one into which batches were poured
  assert again.row_weight is None and data._replace(row_weight=None, rows=None).count is data.count
  np.testing.assert_array_equal(data._replace(row_weight=None, rows=data.rows[:, :2]).count, [2, 0, 2])
  np.testing.assert_array_equal(data._replace(row_weight=None, count=jnp.ones(3)).count, 1)


def test_padding_has_no_weight_and_masks_must_match():
  short = store.batch(jnp.ones(3))
  padded = store.pad(short, 5)
  np.testing.assert_array_equal(padded.row_weight, [[1, 1, 1, 0, 0]])
  np.testing.assert_array_equal(padded.count, [3])
  assert store.pad(short, 3) is short
  held = store.allocate(short, 4, 5)
  np.testing.assert_array_equal(held.origin, [0, -1, -1, -1])
  held = store.put(held, store.batch(2 * jnp.ones(4), origin=7), 2)
  np.testing.assert_array_equal(held.row_weight[2], [1, 1, 1, 1, 0])
  np.testing.assert_array_equal(held.origin, [0, -1, 7, -1])
  rows, weight = store.flat(held._replace(weight=jnp.asarray([1.0, 0.0, 0.5, 0.0])))
  assert float(jnp.sum(rows * weight)) == 3 + 4
  np.testing.assert_array_equal(np.isnan(held.rows[0]), [False] * 3 + [True] * 2)  # unused, and seen where it is read
  assert np.isnan(held.rows[1]).all() and not np.isnan(rows).any()
  assert (store.allocate(store.batch(jnp.ones(3, int)), 2, 4).rows[1] == 0).all()
  unmasked = store.allocate(short, 2, 3)
  assert unmasked.row_weight is None
  with pytest.raises(ValueError, match="masks rows"):
    store.put(unmasked, store.batch(jnp.ones(3), jnp.asarray([1.0, 0, 1])), 1)


def test_runs_side_by_side_write_without_a_scatter():
  held = store.allocate(store.batch(jnp.ones(3)), 4, 3)
  runs = jax.tree.map(lambda x: jnp.stack([x, x + 10]), held)
  new = jax.tree.map(lambda x: jnp.stack([x, 2 * x, 3 * x]), store.batch(2 * jnp.ones(3), origin=7))
  write = lambda slot: jax.vmap(lambda one: jax.vmap(lambda it: store.put(it, one, slot))(runs))(new)
  assert "scatter" not in str(jax.make_jaxpr(write)(1))
  written = write(1)
  at = lambda tree, *index: jax.tree.map(lambda x: x[index], tree)
  for i, j in np.ndindex(3, 2):
    alone = store.put(at(runs, j), at(new, i), 1)
    jax.tree.map(np.testing.assert_array_equal, at(written, i, j), alone)
  apart = jax.vmap(lambda slot: store.put(held, store.batch(2 * jnp.ones(3), origin=7), slot))(jnp.asarray([1, 3]))
  np.testing.assert_array_equal(apart.origin, [[0, 7, -1, -1], [0, -1, -1, 7]])
  assert float(apart.rows[1, 3, 0]) == 2 and float(apart.rows[0, 0, 0]) == 1

  def total(rows, first):  # learned schedules are differentiated through what is stored
    put = lambda it, its_rows: store.put(it._replace(rows=its_rows), store.batch(first), 1).rows
    return jnp.sum(jnp.arange(4.0)[None, :, None] * jax.vmap(put)(runs, rows))

  of_rows, of_first = jax.jit(jax.grad(total, (0, 1)))(jnp.ones_like(runs.rows), jnp.ones(3))
  np.testing.assert_array_equal(of_rows[0, :, 0], [0, 0, 2, 3])
  np.testing.assert_array_equal(of_first, [2, 2, 2])


def test_batches_with_other_rows():
  """What was derived from rows, and from their weights, goes with them; what is chosen takes along what is known of it."""
  drawn = store.batch(
    jnp.arange(4.0), jnp.asarray([1.0, 0, 1, 1]), jnp.ones(()), draw=jnp.ones(()), latent=-jnp.arange(4.0)
  )
  derived = lambda data: (data.summary is not None, data.draw is not None, data.latent is not None)
  assert derived(drawn) == derived(drawn._replace(origin=jnp.ones(1, int))) == (True, True, True)
  assert derived(store.same(drawn, rows=drawn.rows)) == (True, True, True)
  for rows in (jnp.ones(4), jnp.ones((1, 4))):
    other = store.with_rows(drawn, rows)
    assert derived(other) == derived(drawn._replace(rows=other.rows)) == (False, False, False)
    assert other.rows.shape == (1, 4) and other.count == 3
    np.testing.assert_array_equal(other.row_weight, drawn.row_weight)
  fewer = store.with_rows(drawn, jnp.ones(2), jnp.asarray([0.5, 1.0]))
  assert fewer.count == 1.5 and fewer.row_weight.shape == (1, 2)
  with pytest.raises(ValueError, match="row_weight must be given for 2 rows"):
    store.with_rows(drawn, jnp.ones(2))
  chosen = store.take(drawn, jnp.asarray([3, 1]))
  assert derived(chosen) == (False, True, True) and chosen.count == 1
  np.testing.assert_array_equal(chosen.latent, [[-3, -1]])
  less = store.weighed(drawn, jnp.asarray([0.5, 1.0, 1.0, 0.0]))
  assert derived(less) == (False, True, True) and less.count == 1.5
  assert store.flat(drawn._replace(rows=jnp.asarray([[1.0, np.nan, 1, 1]])))[0].sum() == 3


def test_totals_fold_weights_and_masks():
  data = three_slots(jnp.asarray([[1.0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 1, 1]]), jnp.asarray([1.0, 2.0, 0.5]))
  total = store.total(COUNT, None, store.summarise(COUNT, None, data))
  assert float(total.summary) == 6 + 2 * 4 + 0.5 * 21
  sealed = store.seal(COUNT, None, store.batch(jnp.ones(4)))
  assert sealed.rows is None and float(sealed.summary[0]) == 4


def test_random_numbers():
  """Indices are the exact high product; normals have the right moments, also in the tails and across an odd length."""
  key = jax.random.key(5)
  words = np.asarray(random.bits(key, 100_001)).astype(np.uint64)
  for size in (3, 1000, 70_000, 123_456_789, 2**31 - 1):
    np.testing.assert_array_equal(random.index(key, 100_001, size), (words * np.uint64(size)) >> np.uint64(32))
  x = np.concatenate(
    [np.linspace(-1, 1, 100_003)[1:-1], 1 - 2.0 ** -np.arange(2, 24), 2.0 ** -np.arange(1, 60)]
  ).astype(np.float32)
  quantile = np.sqrt(2) * special.erfinv(x.astype(np.float64))
  np.testing.assert_allclose(random._normal_quantile(jnp.asarray(x)), quantile, rtol=2e-6, atol=1e-30)
  draws = np.asarray(jax.jit(lambda k: random.normal(k, (2001, 1999)))(key), np.float64).ravel()
  for power, moment, fourth in ((1, 0, 1), (2, 1, 3), (4, 3, 105)):
    z = ((draws**power).mean() - moment) / np.sqrt((fourth - moment**2) / draws.size)
    assert abs(z) < 5, power
  beyond = 2 * 0.5 * 6.334e-5  # P(|x| > 4)
  assert abs((np.abs(draws) > 4).sum() - draws.size * beyond) < 5 * np.sqrt(draws.size * beyond)
  assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / np.sqrt(draws.size)
  half = draws.size // 2 + 1  # both words of a hash are used: they must not be related
  assert abs(np.corrcoef(draws[: half - 1], draws[half : 2 * half - 1])[0, 1]) < 5 / np.sqrt(half)


def test_keys_and_words_are_those_of_jax():
  """Of one number or many; and half of `bits` is the other half of JAX's hashes."""
  key, data = cj.random.new_key(7), jax.random.key_data
  np.testing.assert_array_equal(data(cj.random.split(key, 5)), data(jax.random.split(key, 5)))
  np.testing.assert_array_equal(data(cj.random.fold_in(key, 123)), data(jax.random.fold_in(key, 123)))
  np.testing.assert_array_equal(data(cj.random.fold_in(key, 1 << 31)), data(jax.random.fold_in(key, 1 << 31)))
  each = [[data(jax.random.fold_in(key, i)) for i in row] for row in ((0, 1), (2, 1 << 31))]
  np.testing.assert_array_equal(
    data(cj.random.fold_in(key, np.array([[0, 1], [2, 1 << 31]], np.uint32))), np.array(each)
  )
  count = np.arange(7, dtype=np.uint32)
  both = threefry_2x32(data(key), np.concatenate([count, count | np.uint32(1 << 31)]))
  np.testing.assert_array_equal(cj.random.bits(key, 13), np.stack([both[:7], both[7:]], 1).reshape(-1)[:13])


def test_keys_of_several():
  """Each of them has keys of its own under vmap, those of JAX; together they are no key."""
  keys, data = cj.random.split(cj.random.new_key(7), 3), jax.random.key_data
  np.testing.assert_array_equal(
    data(jax.vmap(cj.random.fold_in)(keys, np.arange(3))), data(jax.vmap(jax.random.fold_in)(keys, np.arange(3)))
  )
  for derive in (cj.random.split, lambda keys: cj.random.fold_in(keys, 1)):
    with pytest.raises(ValueError, match=r"single one .* got \[3\]"):
      derive(keys)


def test_outcomes_are_found_by_64_bits():
  """`choose` against whole numbers of any size: also in a long tail that the first 32 bits do not tell apart."""
  key, num = jax.random.key(1), 20_000
  tail = np.full(3000, 2.0**-33)
  weight = np.concatenate([[0, 0.3], tail, [0, 0.7, 0.0], 7 * tail, [0.0]]).astype(np.float32).astype(float)
  words = [np.asarray(random.bits(k, num)).astype(object) for k in (key, jax.random.fold_in(key, 1))]
  for weights in (
    random.table(jnp.asarray(weight)),
    random.exact_table(weight),
    random.table(1e-20 * jnp.asarray(weight)),
  ):
    below = np.asarray(weights.high).astype(object) * 2**32 + np.asarray(weights.low).astype(object)
    np.testing.assert_allclose(
      np.diff(below, prepend=0).astype(float) / float(below[-1]), weight / weight.sum(), rtol=1e-6
    )
    position = (words[0] * 2**32 + words[1]) * below[-1] // 2**64
    expected = np.array([np.searchsorted(below, x, side="right") for x in position])
    drawn = np.asarray(random.choose(key, weights, num))
    # The lowest product of words is left out of a position: one in 2^62.
    assert (drawn == expected).mean() > 0.9999 and (weight[drawn] > 0).all()
    assert ((drawn > 1) & (drawn < 3002)).sum() == 0  # 3.5e-7 of all
  rows = random.table(jnp.asarray([[0.0, 1, 0, 1e-9], [3, 0, 1, 0]]))
  which = jnp.arange(num) % 2
  drawn = np.asarray(random.choose(key, rows, num, which))
  assert (drawn[::2] == 1).all() and set(drawn[1::2]) == {0, 2}
  assert abs((drawn[1::2] == 2).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / (num / 2))
  only_tail = jnp.asarray(np.where(weight < 0.1, weight, 0))
  drawn = np.asarray(random.choose(key, random.table(only_tail), num))
  share = (drawn > 3003).mean()
  assert abs(share - 7 / 8) < 5 * np.sqrt(7 / 64 / num)


def lattice_error(law, num, mean, cumulants):
  """Greatest error of the distribution function of totals drawn at 2^20 points, in float32."""
  z = special.ndtri((np.arange(2**20) + 0.5) / 2**20)
  part = random._product(jnp.float32(num), jnp.float32(mean))[1]
  above = np.asarray(
    random._rounded(jnp.asarray(z, jnp.float32), part, *(jnp.float32(x) for x in cumulants)), np.float64
  )
  number, count = np.unique(np.round(above + float(num) * float(mean)), return_counts=True)
  return np.abs(np.cumsum(count) / len(z) - law.cdf(number)).max()


def test_laws_of_totals():
  """Against SciPy's distribution functions, with no random number; a normal law is not enough."""
  worst, normal = [], []
  for num, p in ((400, 0.5), (1112, 0.1), (10_000, 0.3), (10**8, 0.3), (10**9, 1e-4)):
    p = float(np.float32(p))
    variance, both = num * p * (1 - p), p * (1 - p)
    cumulants = variance, variance * (1 - 2 * p), variance * (1 - 6 * both), variance * (1 - 2 * p) * (1 - 12 * both)
    worst.append(lattice_error(stats.binom(num, p), num, p, cumulants))
    normal.append(lattice_error(stats.binom(num, p), num, p, (variance, 0.0, 0.0, 0.0)))
  for num in (40, 400, 4e4, 4e6):
    worst.append(lattice_error(stats.poisson(2.5 * num), num, 2.5, 4 * [2.5 * num]))
  assert max(worst) < 5e-7 + 2.0**-21 and normal[1] > 1e-3
  for mean in (0, 1e-3, 1, 10, 79, 81, 99.9):
    mean = float(np.float32(mean))
    least, weight = random._weights(jnp.floor(jnp.float32(mean)), lambda k, mean=mean: jnp.float32(mean))
    number, weight = float(least) + np.arange(160), np.asarray(weight, np.float64)
    assert np.abs(np.cumsum(weight / weight.sum()) - stats.poisson(mean).cdf(number)).max() < 5e-7
  for num, p in ((2, 0.5), (20, 0.3), (399, 0.5), (1e6, 5e-5), (1e9, 9e-8), (1e12, 1e-12), (1e12, 0)):
    p = np.float32(p)
    least, weight = random._weights(jnp.floor(jnp.float32(num) * p), lambda k, num=num, p=p: (num - k) * (p / (1 - p)))
    number, weight = float(least) + np.arange(160), np.asarray(weight, np.float64)
    assert np.abs(np.cumsum(weight / weight.sum()) - stats.binom(num, float(p)).cdf(number)).max() < 5e-7


def test_moments_of_totals():
  """Of 50,000 totals of up to 1e12 rows; JAX's own sampler of them is off at 1e8."""
  keys = jax.random.split(jax.random.key(0), 50_000)
  nums = jnp.asarray([7, 1e6, 1e8, 1e9, 1e12])
  each = lambda draw: np.asarray(
    jax.jit(jax.vmap(lambda num: jax.vmap(lambda key: draw(key, num)[1])(keys)))(nums), np.float64
  )
  found = {
    0.21: each(lambda key, num: random.binomial(key, num, jnp.float32(0.3), jnp.float32(0.7))),
    2.5: each(lambda key, num: random.poisson(key, num, jnp.float32(2.5))),
  }
  scores = []
  for variance, above in found.items():
    z = above / np.sqrt(np.asarray(nums, np.float64)[:, None] * variance)
    scores += [
      z.mean(axis=1) * np.sqrt(5e4),
      (z.var(axis=1) - 1) * np.sqrt(2.5e4) / 1.1,
      ((z**4).mean(axis=1) - 3)[1:] * np.sqrt(5e4 / 96),
    ]
  assert np.abs(np.concatenate(scores)).max() < 5
  other = np.asarray(jax.random.poisson(jax.random.key(0), 1e8, (50_000,)), np.float64)
  assert (((other - 1e8) / 1e4).var() - 1) * np.sqrt(2.5e4) > 5


def test_counts_beyond_what_float32_can_add():
  """Training data of 10,000 batches of 10,007 rows, which a running sum in float32 counts with an error of 1e-4."""
  num, each = 10_000, 10_007
  data = Data(count=jnp.full(num, float(each)), origin=jnp.arange(num))
  assert float(store.size(data)) == np.float32(num * each)
  running = np.cumsum(np.full(num, each, np.float32), dtype=np.float32)[-1]
  assert abs(running / (num * each) - 1) > 1e-5  # the twin
  billion = Data(count=jnp.full(1000, 1e9).at[900:].set(0.0), origin=jnp.arange(1000))
  assert float(store.size(billion)) == np.float32(9e11)
  uneven = Data(count=jnp.asarray([0.0, 3, 5]), weight=jnp.asarray([1.0, 2, 1]), origin=jnp.arange(3))
  assert float(store.size(uneven)) == 11


def test_rows_are_the_first_of_more():
  key = jax.random.key(3)
  words = random.bits(key, 101)
  for num in (1, 2, 3, 8, 100):
    np.testing.assert_array_equal(random.bits(key, num), words[:num])
  np.testing.assert_array_equal(random.normal(key, (7, 3)), random.normal(key, (40, 3))[:7])


def test_subsets_in_double_precision():
  """No index of 64 bits is written among those of 32, which JAX only warns of for now."""
  with jax.enable_x64(True):
    out = cj.run(jax.random.key(0), tasks.sample_median(6), workflows.accumulate_subsample(), 4)
    assert out["fitted_mean"].dtype == np.float64 and out["finite"].all()
