"""Work is counted as it is: by shapes, lengths of loops and formulas; estimates order sweeps as their times are ordered."""

import jax
import jax.numpy as jnp
import pytest

from collapse_jax import tasks
from collapse_jax.sweeps import cost
from collapse_jax.sweeps.scheduler import plan


def test_known_functions():
  square = jnp.ones((200, 200))
  product = cost.work_of(lambda a, b: a @ b, square, square)
  assert 0.9 < product / (cost._PER_FLOP * 2 * 200**3) < 1.1
  assert 7.9 < cost.work_of(lambda a, b: a @ b, jnp.ones((400, 400)), jnp.ones((400, 400))) / product < 8.1
  once = lambda x: jnp.exp(x) @ square
  loop = lambda x: jax.lax.scan(lambda x, _: (once(x), None), x, None, length=50)[0]
  assert 49 < cost.work_of(loop, square) / cost.work_of(once, square) < 51
  assert cost.work_of(jax.vmap(once), jnp.ones((7, 200, 200))) > 6.5 * cost.work_of(once, square)
  assert cost.work_of(jax.jit(once), square) == pytest.approx(cost.work_of(once, square), rel=0.01)
  assert cost.work_of(lambda x: x.reshape(-1), square) == 0


def test_rare_branches_and_fallbacks_do_not_count():
  def fallback(x):
    return jax.lax.while_loop(
      lambda state: state[0], lambda state: (False, jnp.linalg.qr(state[1])[0]), (x[0, 0] > 5, x)
    )[1]

  x = jnp.ones((100, 100))
  decomposition = cost.work_of(lambda x: jnp.linalg.qr(x)[0], x)
  assert cost.work_of(fallback, x) < 0.01 * decomposition
  assert cost.work_of(fallback, x, fallbacks=True) == pytest.approx(decomposition, rel=0.01)
  branch = lambda x: jax.lax.cond(x[0, 0] > 5, lambda x: x @ x, lambda x: x, x)
  assert cost.work_of(branch, x) < 0.01 * cost.work_of(lambda x: x @ x, x)


@pytest.fixture(autouse=True)
def one_speed(monkeypatch):
  """A machine whose measured speed does not vary between two estimates."""
  monkeypatch.setattr(cost, "slowness", lambda: 1.0)


def running(task, axes, T=100, workflow="accumulate", **options):
  return plan(task, [workflow], axes, num_generations=T, num_seeds=100, **options).run_seconds


def test_estimates_grow_as_times_do():
  """Measured ratios, of docs/benchmarks.md: product per run, T = 100."""
  moons = lambda num_samples: tasks.kde("moons", num_samples, 0.5)
  base = running(moons, {"num_samples": [316]})
  assert 1.8 < running(moons, {"num_samples": [316]}, T=200) / base < 2.2
  assert 2 < running(moons, {"num_samples": [1000]}) / base < 5
  gaussian = lambda dim, num_samples: tasks.gaussian(dim, num_samples)
  law, rows = (
    running(gaussian, {"dim": [100], "num_samples": [1000]}, workflow=name)
    for name in ("replace", "accumulate_subsample")
  )
  assert 15 < rows / law < 150  # measured: 50


def test_durations_as_people_say_them():
  assert [cost.text(x) for x in (5.2, 100, 3600, 7200, 86400 * 5)] == ["5 s", "2 min", "60 min", "2 h", "5 days"]
