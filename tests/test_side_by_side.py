"""Cells whose programs are the same run in one, side by side: none knows of the others, whatever becomes of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from helpers import by_steps

from collapse_jax import store, sweeps
from collapse_jax.sweeps import steps_driver
from collapse_jax.types import TaskSetting

NUM, SEEDS, T = 6, 2, 3
RATES = [0.5, 1.0, 1.5]


def scaled(rate):
  """Each model is `rate` times the mean of what the last one drew and some of that one, with a draw of its own added."""

  def fit(key, problem, context):
    rows, weight = store.flat(context.data)
    begin = 0.0 if context.previous is None else 0.1 * context.previous
    return begin + problem["rate"] * jnp.sum(weight * rows) / jnp.sum(weight) + 0.1 * jax.random.normal(key)

  return TaskSetting(
    lambda key: ({"rate": jnp.asarray(rate, jnp.float32)}, store.batch(jnp.linspace(0.0, 2.0, NUM))),
    fit,
    lambda key, problem, mean, context: (store.batch(mean + jax.random.normal(key, (NUM,))), {}),
    lambda key, problem, mean: {"mean": mean, "rate_read": problem["rate"]},
    NUM,
  )


def swept(rates=RATES, **options):
  given = {"num_generations": T, "num_seeds": SEEDS, "seed": 3, "init_axes": ["rate"], "warm_start": True}
  return by_steps(scaled, ["replace"], {"rate": rates}, **given | options)


@functools.cache  # no fixture of the module: that is compiled in another way than tests are
def whole():
  return swept()


def alone(results, rate):
  return results.sel(rate=rate).drop_attrs()


def assert_close(results, others):
  for name in ("mean", "rate_read", "train_size"):
    np.testing.assert_allclose(results[name], others[name], rtol=2e-6, atol=1e-7, err_msg=name)


@pytest.fixture
def sizes(monkeypatch):
  """How many runs each call of a program that fits has, but for those that others are held against."""
  whole()
  found = []
  made = steps_driver._costly_programs

  class Watched:
    def __init__(self, program):
      self.program = program

    def __call__(self, shared, keys, *rest):
      found.extend([] if isinstance(keys, jax.core.Tracer) else [len(keys)])
      return self.program(shared, keys, *rest)

    def __getattr__(self, name):
      return getattr(self.program, name)

  def watched(*given):
    fit, rest = made(*given)
    return Watched(fit), rest

  monkeypatch.setattr(steps_driver, "_costly_programs", watched)
  return found


def test_beside_others():
  """Bit for bit whatever the others are, alone up to rounding; of each kind there is one program, but for beginnings."""
  assert whole().num_compilations == len(RATES) + 4 + 2  # the first generation has no model before it
  np.testing.assert_array_equal(whole().rate_read.squeeze()[:, 0, 0], RATES)
  assert len(set(whole()["mean"].values.ravel().tolist())) == len(RATES) * SEEDS * T
  xarray.testing.assert_identical(alone(swept([-7.0, 1.0, 1e9]), 1.0), alone(whole(), 1.0))
  assert_close(swept([1.5]), whole().sel(rate=[1.5]))


@pytest.mark.parametrize("chunk_size, expected", [(1, [1] * 6), (2 * SEEDS + 1, [4] * 2)])
def test_runs_of_a_program(sizes, chunk_size, expected):
  """No more than chunk_size, and all of one shape, where the last has fewer cells too."""
  found = swept(chunk_size=chunk_size, num_generations=1)
  assert sizes == expected
  assert_close(found, whole().isel(generation=slice(1)))


def test_memory(sizes, monkeypatch):
  """Cells go side by side as long as their programs, as compiled, fit memory; one cell is not split."""
  asked = []
  needed = lambda programs, shared, num: (asked.append(num), {"fit": 10.0 + num, "sample": 1.0})[1]
  monkeypatch.setattr(steps_driver, "_bytes", needed)
  for memory, width in ((17.0, 3), (16.0, 3), (15.0, 2), (1.0, 1)):
    assert steps_driver._fitting(None, None, 3, SEEDS, memory) == width
  assert asked == [6, 6, 6, 4, 6] and steps_driver._fitting(None, None, 1, SEEDS, 0.0) == 1
  monkeypatch.setattr(steps_driver, "_fitting", lambda *given: 2)
  assert_close(swept(num_generations=1), whole().isel(generation=slice(1)))
  assert sizes == [4, 4]


def test_killed_between_the_files_of_two_cells(tmp_path):
  """The first cell's checkpoint is a generation ahead and goes back: side by side again, bit for bit the same."""
  written = []
  tell = lambda cell, t, seeds, batch: written.append((cell["rate"], t))

  def kill(cell, t, seeds, batch):
    if (cell["rate"], t) == (1.0, 2):
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    swept(directory=tmp_path, on_batch=kill)
  found = swept(directory=tmp_path, resume=True, on_batch=tell)
  assert written == [(rate, t) for t in (2, 3) for rate in RATES]
  xarray.testing.assert_identical(found.drop_attrs(), whole().drop_attrs())
  written.clear()
  more = swept([*RATES, 2.0], directory=tmp_path, resume=True, on_batch=tell)
  assert written == [(2.0, t) for t in (1, 2, 3)]  # what is finished stays, and a cell may be added
  for rate in RATES:
    xarray.testing.assert_identical(alone(more, rate), alone(whole(), rate))


def test_a_cell_that_stops(tmp_path):
  """Others go on as if nothing were, also after a kill; what it had is kept, and no more is told of it."""
  heard = []
  killing = [KeyboardInterrupt()]

  def stop(cell, t, seeds, metrics):
    heard.append((cell["rate"], t))
    if (cell["rate"], t) == (0.5, 1):
      raise sweeps.Stop("enough")
    if t == 2 and killing:
      raise killing.pop()

  with pytest.raises(KeyboardInterrupt):
    swept(directory=tmp_path, on_metrics=stop)
  heard.clear()
  found = swept(directory=tmp_path, on_metrics=stop, resume=True)
  assert sorted(heard) == [(0.5, 1), *((rate, t) for rate in (1.0, 1.5) for t in (1, 2, 3))]
  for rate in (1.0, 1.5):
    xarray.testing.assert_identical(alone(found, rate), alone(whole(), rate))
  kept = found["mean"].sel(rate=0.5)
  np.testing.assert_array_equal(kept[..., 0], whole()["mean"].sel(rate=0.5)[..., 0])
  assert np.isnan(kept[..., 1:]).all() and found.stopped == "workflow replace, rate 0.5: enough"
