"""The host loop gives what the vectorised sweep gives, and goes on where it was killed."""

import jax
import numpy as np
import pytest
import xarray

from collapse_jax import host, sweep, tasks
from collapse_jax.types import Metrics

WORKFLOWS = ["replace", "accumulate", "accumulate_subsample", "mix(0.5)", "grown_replace"]


def task(num_samples, shared=1.0):
  return tasks.sample_median(num_samples, noise_var=shared)


def test_as_the_vectorised_sweep():
  options = {"num_generations": 4, "num_seeds": 3, "seed": 1}
  expected = sweep(lambda num_samples: task(num_samples, 2.0), WORKFLOWS, {"num_samples": [5, 8]}, **options)
  found = host.sweep(task, WORKFLOWS, {"num_samples": [5, 8]}, shared=2.0, **options)
  assert set(found.data_vars) == set(expected.data_vars) and found.sizes == expected.sizes
  for name in expected.data_vars:
    if expected[name].dtype.kind == "f":
      np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=1e-6, err_msg=name)
    else:
      np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
  assert found.num_compilations < 5 * 2 * 5  # fit and emission are shared among workflows


def test_chunks_change_nothing():
  options = {"num_generations": 3, "num_seeds": 5}
  whole = host.sweep(task, ["accumulate"], {"num_samples": [6]}, **options)
  parts = host.sweep(task, ["accumulate"], {"num_samples": [6]}, chunk_size=2, **options)
  np.testing.assert_allclose(parts.fitted_mean, whole.fitted_mean, rtol=1e-6)


@pytest.mark.parametrize("warm_start", [False, True])
def test_killed_and_resumed(tmp_path, warm_start):
  options = {"num_generations": 4, "num_seeds": 2, "warm_start": warm_start}
  expected = host.sweep(task, WORKFLOWS[:3], {"num_samples": [5]}, **options)
  calls = []

  def kill(cell, t, seeds, metrics: Metrics):
    calls.append(1)
    if len(calls) == 7:
      raise KeyboardInterrupt
  with pytest.raises(KeyboardInterrupt):
    host.sweep(task, WORKFLOWS[:3], {"num_samples": [5]}, directory=tmp_path, on_metrics=kill, **options)
  batches = []
  found = host.sweep(task, WORKFLOWS[:3], {"num_samples": [5]}, directory=tmp_path, resume=True,
                     on_batch=lambda cell, t, seeds, batch: batches.append((cell["workflow"], t)), **options)
  assert batches == [("accumulate", 4), *(("accumulate_subsample", t) for t in (1, 2, 3, 4))]
  xarray.testing.assert_identical(found.drop_attrs(), expected.drop_attrs())
  with pytest.raises(ValueError, match="with shapes="):
    host.sweep(lambda num_samples: task(num_samples + 1), WORKFLOWS[:3], {"num_samples": [5]}, directory=tmp_path, resume=True,
               **options)


def test_stopped():
  def stop(cell, t, seeds, metrics):
    if len(stopping) == 1:
      raise host.Stop("no more")
    stopping.append(1)
  stopping: list[int] = []
  found = host.sweep(task, ["replace"], {"num_samples": [5]}, num_generations=4, num_seeds=2, on_metrics=stop)
  assert found.stopped == "workflow replace, num_samples 5: no more"
  np.testing.assert_array_equal(np.isfinite(found.fitted_mean).all(["workflow", "num_samples", "seed"]), [True, True, False, False])
  np.testing.assert_array_equal(found.finite.all(["workflow", "num_samples", "seed"]), [True, True, False, False])


def test_refusals():
  with pytest.raises(ValueError, match="num_samples"):
    host.sweep(task, ["replace"], {"num_samples": [1]}, num_generations=2, num_seeds=1)
  found = host.sweep(task, ["replace"], {"num_samples": [1, 5]}, num_generations=2, num_seeds=1)
  assert "num_samples" in str(found.cell_status.values[0, 0]) and str(found.cell_status.values[0, 1]) == "ok"
  assert jax.numpy.isnan(found.fitted_mean.values[0, 0]).all()
