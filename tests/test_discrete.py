"""Frequencies under drift: exact heterozygosity, renumbering, collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import collapse_jax as cj
from collapse_jax import tasks, workflows

T = 8


def simulated(task, workflow, num_seeds=4000, num_generations=T):
  one = lambda i: cj.run(jax.random.fold_in(jax.random.key(2), i), task, workflow, num_generations)
  return {k: np.asarray(v, np.float64) for k, v in jax.jit(jax.vmap(one))(jnp.arange(num_seeds)).items()}


def test_metrics_are_numpys():
  """Of one real batch, given probabilities: entropy, support, heterozygosity."""
  share = np.array([0.5, 0.25, 0.25, 0.0])
  task = tasks.discrete(4, 50, share)
  problem, real = task.init(jax.random.key(0))
  rows = np.asarray(real.rows[0])
  p = np.bincount(rows, minlength=4) / 50
  model = task.summary.of(problem, real.rows[0], None) / 50
  out = task.evaluate(problem, model)
  entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
  expected = {"entropy": entropy, "entropy_ratio": entropy / (1.5 * np.log(2)), "support_ratio": (p > 0).sum() / 3,
              "heterozygosity": 1 - (p ** 2).sum()}
  for name, value in expected.items():
    np.testing.assert_allclose(out[name], value, rtol=1e-5)
  assert p[3] == 0


def test_renumbering_keeps_the_frequencies():
  task = tasks.discrete(10 ** 6, 12, np.r_[np.full(5, 0.2), np.zeros(10 ** 6 - 5)])
  problem, real = task.init(jax.random.key(0))
  counts = np.asarray(task.summary.of(problem, real.rows[0], None))
  assert counts.sum() == 12 and 1 < (counts > 0).sum() <= 5 and len(counts) == 12
  assert task.fresh is None


def test_collapse_time_of_two_outcomes():
  """Wright-Fisher absorption from the exact Markov chain, n = 6; a run that has not ended is censored."""
  from scipy import stats
  n, last = 6, 60
  states = np.arange(n + 1)
  chain = stats.binom.pmf(states[None], n, states[:, None] / n)
  law = stats.binom.pmf(states, n, 0.5)
  absorbed = []
  for _ in range(last):
    absorbed.append(law[0] + law[-1])
    law = law @ chain
  out = simulated(tasks.discrete(2, n), workflows.replace(), 5000, last)
  generation = out["collapse_generation"][:, -1]
  censored = generation == 0
  for t in (1, 5, 12, 40):
    share, p = ((generation <= t) & ~censored).mean(), absorbed[t - 1]
    assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / 5000), t
  assert abs(((generation <= 6) & ~censored).mean() - absorbed[4]) > 5 * np.sqrt(absorbed[4] * (1 - absorbed[4]) / 5000)


@pytest.mark.parametrize("record_every", [1, 4])
def test_stopping_absorbed_runs_changes_nothing(record_every):
  """A sweep that stops them equals the plain program, and the collapse generation is exact where it is not recorded."""
  task, T, seeds = (lambda num_samples: tasks.discrete(12, num_samples)), 101, 40
  sweep = cj.sweep(task, ["replace"], {"num_samples": [6]}, num_generations=T, num_seeds=seeds, record_every=record_every)
  one = lambda i: cj.run(jax.random.fold_in(jax.random.key(0), i), task(6), workflows.replace(), T)
  whole = jax.jit(jax.vmap(one))(jnp.arange(seeds))
  kept = sweep.generation.values - 1
  for name in ("entropy", "support_ratio", "heterozygosity", "train_size"):
    np.testing.assert_allclose(sweep[name].values[0, 0], whole[name][:, kept], rtol=1e-6, err_msg=name)
  first = np.argmax(np.asarray(whole["entropy"]) < 1e-8, axis=1) + 1
  assert not sweep.censored.values.any() and first.max() < T
  np.testing.assert_array_equal(sweep.collapse_generation.values[0, 0], first)
  short = cj.sweep(task, ["replace", "accumulate"], {"num_samples": [6]}, num_generations=5, num_seeds=seeds)
  np.testing.assert_array_equal(short.censored.values[0, 0], first > 5)
  assert short.censored.values[1].all() and (short.collapse_generation.values[1] == 5).all()


def test_temperature():
  """In one step of many rows frequencies go to p^(1/temperature); above 1 they even out."""
  share = np.array([0.6, 0.3, 0.1])
  for temperature in (0.5, 2.0):
    out = simulated(tasks.discrete(3, 4000, share, temperature=temperature), workflows.replace(), 20, 2)
    power = share ** (1 / temperature)
    power = power / power.sum()
    assert abs(out["heterozygosity"][:, 1].mean() - (1 - (power ** 2).sum())) < 0.01


def test_bad_arguments():
  for bad, part in ((((1, 5)), "num_outcomes"), ((5, 1), "num_samples"), ((2, 5, [1.0, 0.0]), "two of them"), ((2, 5, [1.0]), "2 numbers")):
    with pytest.raises(ValueError, match=part):
      tasks.discrete(*bad)
  with pytest.raises(ValueError, match="temperature"):
    tasks.discrete(2, 5, temperature=0.0)
