"""Storage: masks, padding, totals, and draws by weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import collapse_jax as cj
from collapse_jax import random, store, tasks, workflows
from collapse_jax.types import Data, Summary, TaskSetting

COUNT = TaskSetting(None, None, None, None, 3, Summary(
    lambda problem, rows, weight: jnp.sum(rows if weight is None else weight * rows),
    lambda problem, a, weight_a, b, weight_b: weight_a * a + weight_b * b))


def three_slots(row_weight=None, weight=None):
  rows = jnp.arange(12.0).reshape(3, 4)
  count = jnp.full(3, 4.0) if row_weight is None else jnp.sum(row_weight, axis=1)
  return Data(rows, row_weight, count, weight, jnp.arange(3), None)


@pytest.mark.parametrize(("row_weight", "weight"), [
    (None, None), (None, [1.0, 0.0, 3.0]), ([[1, 0, 1, 1], [0, 0, 0, 2], [1, 1, 1, 0]], None),
    ([[1, 0, 1, 1], [0, 0, 0, 2], [1, 1, 1, 0]], [2.0, 1.0, 0.5])])
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
  unmasked = store.allocate(short, 2, 3)
  assert unmasked.row_weight is None
  with pytest.raises(ValueError, match="masks rows"):
    store.put(unmasked, store.batch(jnp.ones(3), jnp.asarray([1.0, 0, 1])), 1)


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
  for size in (3, 1000, 70_000, 123_456_789, 2 ** 31 - 1):
    np.testing.assert_array_equal(random.index(key, 100_001, size), (words * np.uint64(size)) >> np.uint64(32))
  x = np.concatenate([np.linspace(-1, 1, 100_003)[1:-1], 1 - 2.0 ** -np.arange(2, 24), 2.0 ** -np.arange(1, 60)]).astype(np.float32)
  quantile = np.sqrt(2) * special.erfinv(x.astype(np.float64))
  np.testing.assert_allclose(random._normal_quantile(jnp.asarray(x)), quantile, rtol=2e-6, atol=1e-30)
  draws = np.asarray(jax.jit(lambda k: random.normal(k, (2001, 1999)))(key), np.float64).ravel()
  for power, moment, fourth in ((1, 0, 1), (2, 1, 3), (4, 3, 105)):
    z = ((draws ** power).mean() - moment) / np.sqrt((fourth - moment ** 2) / draws.size)
    assert abs(z) < 5, power
  beyond = 2 * 0.5 * 6.334e-5  # P(|x| > 4)
  assert abs((np.abs(draws) > 4).sum() - draws.size * beyond) < 5 * np.sqrt(draws.size * beyond)
  assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / np.sqrt(draws.size)
  half = draws.size // 2 + 1  # both words of a hash are used: they must not be related
  assert abs(np.corrcoef(draws[:half - 1], draws[half:2 * half - 1])[0, 1]) < 5 / np.sqrt(half)


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


@pytest.mark.filterwarnings("error")
def test_subsets_in_double_precision():
  """No index of 64 bits is written among those of 32, which JAX only warns of for now."""
  with jax.enable_x64(True):
    out = cj.run(jax.random.key(0), tasks.sample_median(6), workflows.accumulate_subsample(), 4)
    assert out["fitted_mean"].dtype == np.float64 and out["finite"].all()
