"""Benchmarks run, in small: what they time is what the plain loops compute."""

import importlib
import json
import pkgutil

import numpy as np
import pytest
from helpers import needed

import benchmarks
from benchmarks import accelerator, kde_sums, peers, run, sweeps, verdicts
from collapse_jax import tasks, workflows

T = 4


def test_all_can_be_imported():
  names = [one.name for one in pkgutil.iter_modules(benchmarks.__path__)]
  assert len(names) >= 9
  for name in names:
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("name", [case.name for case in run.cases()])
def test_product_and_plain_loop_agree(name):
  (case,) = (case for case in run.cases() if case.name == name)
  first, num = case.small
  ours, compiling, memory = run.product(case.task(first, num), workflows.replace(), T, num_seeds=60)
  assert compiling > 0 and memory > 0
  loops = lambda num: [case.loop("replace", first, num, T, seed) for seed in range(60)]
  theirs = [{key: np.stack([one[key] for one in loop]) for key in loop[0]} for loop in (loops(num), loops(num // 5))]
  assert run.check_agreement(ours(), theirs[0]) < 5
  with pytest.raises(SystemExit, match="disagree"):
    run.check_agreement(ours(), theirs[1])


def test_sweep_is_timed():
  results, seconds = sweeps.sweep((tasks.sample_median, "replace", {"num_samples": 5}, T, 6))
  assert results.sizes["seed"] == 6 and 0 < seconds < results.wall_seconds


def test_sums_of_kernels_agree(monkeypatch):
  assert len(kde_sums.compare("moons", 20, 0.3, 3, 2, 1)) == 2
  plain = kde_sums.two_passes
  monkeypatch.setattr(kde_sums, "two_passes", lambda points, rows, *others, **named: plain(points, rows[1:], *others))
  with pytest.raises(AssertionError):
    kde_sums.compare("moons", 20, 0.3, 3, 2, 1)


def test_rates_of_verdicts():
  found = verdicts.rates("t", 30, 20, 0.02, "white", repeats=3)
  assert found == {"diverging": 1.0}


def test_what_an_accelerator_gives(tmp_path, capfd):
  """In small, on the CPU; what is there is not measured again, what failed is said, and the table divides by the limit."""
  part = lambda name: json.loads((tmp_path / f"{name}.json").read_text())
  accelerator.run_parts(tmp_path, 5, ["limits", "cell_gaussian_law"], True)
  begun = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
  assert set(begun) == {"limits.json", "cell_gaussian_law.json"}
  accelerator.run_parts(tmp_path, 5, ["limits", "cell_gaussian_law"], True)
  assert begun == {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
  assert min(value for value in part("limits").values() if isinstance(value, float)) > 1e6
  share = part("cell_gaussian_law")["rate"] * 5050 / part("limits")["normal"]
  assert f"| {share:.0%} of normal |" in accelerator.tables(tmp_path)
  accelerator.run_parts(tmp_path, 0, ["seeds"], True)
  assert not (tmp_path / "seeds.json").exists() and "no time left" in capfd.readouterr().out


@pytest.mark.parametrize("cell", peers.CELLS, ids=str)
@pytest.mark.parametrize("arrays", [peers.with_numpy, peers.with_torch])
def test_peers_compute_what_plain_loops_do(cell, arrays):
  """NumPy and PyTorch, batched over seeds, beside loops that share nothing with them."""
  if arrays is peers.with_torch:
    needed("torch")
  (case,) = (case for case in run.cases() if case.name == cell.task)
  first, num = case.small
  small = cell._replace(first=first, num_samples=num)
  loops = [case.loop(cell.workflow, first, num, T, seed) for seed in range(60)]
  theirs = {key: np.stack([one[key] for one in loops]) for key in loops[0]}
  assert run.check_agreement(peers.batched(arrays(0), small, T, 60), theirs) < 5
  wrong = peers.batched(arrays(0), small._replace(num_samples=num // 5), T, 60)
  with pytest.raises(SystemExit, match="disagree"):
    run.check_agreement(wrong, theirs)


def test_the_obvious_code_in_jax_computes_the_same():
  small = peers.Cell("linear_regression", "accumulate", 3, 50)
  found = peers.vmapped(small, T, 60)(0)
  assert run.check_agreement(found, peers.batched(peers.with_numpy(1), small, T, 60)) < 5


def test_numba_computes_the_same():
  needed("numba")
  small = peers.Cell("discrete", "replace", 12, 50)
  found = peers.with_numba(small, T, 60)(0)
  assert run.check_agreement(found, peers.batched(peers.with_numpy(1), small, T, 60)) < 5
