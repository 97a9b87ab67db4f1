"""The host loop gives what the vectorised sweep gives, and goes on where it was killed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from helpers import by_steps

from collapse_jax import sweep, sweeps, tasks
from collapse_jax.refused import Refused
from collapse_jax.sweeps import checkpoints, cost
from collapse_jax.types import Metrics, Run

WORKFLOWS = ["replace", "accumulate", "accumulate_subsample", "mix(0.5)", "grown_replace"]


def task(num_samples, shared=1.0):
  return tasks.sample_median(num_samples, noise_var=shared)


def test_as_the_vectorised_sweep():
  options = {"num_generations": 4, "num_seeds": 3, "seed": 1}
  expected = sweep(lambda num_samples: task(num_samples, 2.0), WORKFLOWS, {"num_samples": [5, 8]}, **options)
  found = by_steps(task, WORKFLOWS, {"num_samples": [5, 8]}, shared=2.0, **options)
  assert set(found.data_vars) == set(expected.data_vars) and found.sizes == expected.sizes
  for name in expected.data_vars:
    if expected[name].dtype.kind == "f":
      np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=1e-6, err_msg=name)
    else:
      np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
  assert found.num_compilations < 5 * 2 * 5  # fit and emission are shared among workflows


def test_chunks_change_nothing():
  options = {"num_generations": 3, "num_seeds": 5}
  whole = by_steps(task, ["accumulate"], {"num_samples": [6]}, **options)
  parts = by_steps(task, ["accumulate"], {"num_samples": [6]}, chunk_size=2, **options)
  np.testing.assert_allclose(parts.fitted_mean, whole.fitted_mean, rtol=1e-6)


def resumed(directory, **options):
  """Results, and (workflow, generation) of what is computed again."""
  batches = []
  found = by_steps(
    task,
    WORKFLOWS[:3],
    {"num_samples": [5]},
    directory=directory,
    resume=True,
    on_batch=lambda cell, t, seeds, batch: batches.append((cell["workflow"], t)),
    **options,
  )
  return found, batches


@pytest.mark.parametrize("warm_start", [False, True])
def test_killed_and_resumed(tmp_path, warm_start):
  options = {"num_generations": 4, "num_seeds": 2, "warm_start": warm_start}
  expected = by_steps(task, WORKFLOWS[:3], {"num_samples": [5]}, **options)
  calls = []

  def kill(cell, t, seeds, metrics: Metrics):
    calls.append(1)
    if len(calls) == 7:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    by_steps(task, WORKFLOWS[:3], {"num_samples": [5]}, directory=tmp_path, on_metrics=kill, **options)
  found, batches = resumed(tmp_path, **options)
  assert batches == [("accumulate", 4), *(("accumulate_subsample", t) for t in (1, 2, 3, 4))]
  xarray.testing.assert_identical(found.drop_attrs(), expected.drop_attrs())
  with pytest.raises(ValueError, match="with shapes="):
    by_steps(
      lambda num_samples: task(num_samples + 1),
      WORKFLOWS[:3],
      {"num_samples": [5]},
      directory=tmp_path,
      resume=True,
      **options,
    )


def test_damaged_checkpoints(tmp_path, caplog):
  """The newest generation that is whole counts; without one a cell begins anew. What a checkpoint is it says itself."""
  options = {"num_generations": 3, "num_seeds": 2}
  expected = by_steps(task, WORKFLOWS[:3], {"num_samples": [5]}, directory=tmp_path, keep_all=True, **options)
  truncated, lost, unnamed = (tmp_path / f"workflow={name},num_samples=5,seeds=0-1" for name in WORKFLOWS[:3])
  (truncated / "3.npz").write_bytes((truncated / "3.npz").read_bytes()[:-30])
  for t, content in ((1, b""), (2, b"x" * 5000), (3, (lost / "3.npz").read_bytes()[:200])):
    (lost / f"{t}.npz").write_bytes(content)
  (unnamed / "run.json").write_text("{")
  found, batches = resumed(tmp_path, **options)
  assert batches == [("replace", 3), *(("accumulate", t) for t in (1, 2, 3))]
  xarray.testing.assert_identical(found.drop_attrs(), expected.drop_attrs())
  assert caplog.text.count("is damaged") == 5
  with pytest.raises(ValueError, match="made with data=None, not other"):
    by_steps(
      task, WORKFLOWS[:3], {"num_samples": [5]}, directory=tmp_path, resume=True, about={"data": "other"}, **options
    )


def test_changed_bytes_are_found(tmp_path):
  """Wherever a byte of a checkpoint changes: what is read is what was written, or nothing."""
  run = Run(jax.random.split(jax.random.key(0), 2), {"mean": jnp.arange(40.0).reshape(2, 20)}, None, None, None)
  params = {"layer": {"kernel": jnp.arange(60, dtype=jnp.bfloat16).reshape(2, 30)}, "steps": jnp.asarray([3, 4])}
  metrics = {"loss": np.arange(4.0).reshape(2, 2), "finite": np.ones((2, 2), bool)}
  checkpoints.Checkpoints(tmp_path / "cell", False, False, {}).save(2, run, params, metrics)
  (file,) = tmp_path.glob("cell/*.npz")
  one = {name: value[:, 0] for name, value in metrics.items()}
  content = file.read_bytes()
  empty = jax.tree.map(jnp.zeros_like, (run._replace(key=jax.random.split(jax.random.key(1), 2)), params))
  none = 0
  for i in range(-1, len(content), 3):
    changed = bytearray(content)
    if i >= 0:
      changed[i] ^= 1 << i // 3 % 8
    file.write_bytes(changed)
    t, *found = checkpoints.Checkpoints(tmp_path / "cell", False, True, {}).restore(*empty, one)
    assert t or (i >= 0 and not file.exists())
    none += not t
    if t:
      assert t == 2 and jax.tree.structure(found[0]) == jax.tree.structure(run)
      chex.assert_trees_all_equal(checkpoints.plain(found[0]), checkpoints.plain(run), strict=True)
      chex.assert_trees_all_equal(found[1], jax.tree.map(np.asarray, params), strict=True)
      chex.assert_trees_all_equal(found[2], metrics, strict=True)
  assert none > len(content) / 3 / 2


def test_other_shapes_are_no_damage(tmp_path):
  """They are refused, and what is there stays."""
  run, metrics = Run(jax.random.split(jax.random.key(0), 2), None, None, None, None), {"loss": np.ones((2, 1))}
  checkpoints.Checkpoints(tmp_path / "cell", False, False, {}).save(1, run, {"mean": np.ones((2, 3))}, metrics)
  restore = lambda params: checkpoints.Checkpoints(tmp_path / "cell", False, True, {}).restore(
    run, params, {"loss": np.ones(2)}
  )
  assert restore({"mean": np.ones((2, 3))})[0] == 1
  with pytest.raises(Refused, match="params/mean is float64"):
    restore({"mean": np.ones((2, 4))})
  assert (tmp_path / "cell" / "1.npz").exists()


def test_clock(monkeypatch):
  """Time that is left: steps that are left at the mean pace, compiling apart."""
  now = [0.0]
  monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])

  class Program:
    calls = 0

    def _cache_size(self):
      return min(self.calls, 1)

    def __call__(self):
      self.calls += 1
      now[0] += 100.0 if self.calls == 1 else 0.0

  clock, program = cost.Clock(5), Program()
  for seconds, said in (
    (2.0, "102.0 s, about 8 s left"),
    (4.0, "4.0 s, about 9 s left"),
    (60.0, "60.0 s, about 44 s left"),
    (334.0, "334.0 s, about 2 min left"),
  ):
    clock.start()
    clock.call(program)
    now[0] += seconds
    assert clock.step() == said
  assert (clock.compiling, clock.num_compilations) == (100.0, 1)


def test_stopped():
  def stop(cell, t, seeds, metrics):
    if len(stopping) == 1:
      raise sweeps.Stop("no more")
    stopping.append(1)

  stopping: list[int] = []
  found = by_steps(task, ["replace"], {"num_samples": [5]}, num_generations=4, num_seeds=2, on_metrics=stop)
  assert found.stopped == "workflow replace, num_samples 5: no more"
  np.testing.assert_array_equal(
    np.isfinite(found.fitted_mean).all(["workflow", "num_samples", "seed"]), [True, True, False, False]
  )
  np.testing.assert_array_equal(found.finite.all(["workflow", "num_samples", "seed"]), [True, True, False, False])


def test_refusals():
  with pytest.raises(ValueError, match="num_samples"):
    by_steps(task, ["replace"], {"num_samples": [1]}, num_generations=2, num_seeds=1)
  found = by_steps(task, ["replace"], {"num_samples": [1, 5]}, num_generations=2, num_seeds=1)
  assert "num_samples" in str(found.cell_status.values[0, 0]) and str(found.cell_status.values[0, 1]) == "ok"
  assert jax.numpy.isnan(found.fitted_mean.values[0, 0]).all()
