"""scikit-learn's density models in `loop` against this package's own tasks: one law, whatever the workflow."""

import numpy as np
import pytest
import scipy.stats
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import collapse_jax as cj

NUM_SEEDS, NUM_GENERATIONS, AT = 12, 10, [1, 3, 10]
WORKFLOWS = ["replace", "accumulate", "accumulate_subsample", "mix(0.2, real_weight=0.9)"]
RNG = np.random.default_rng(0)


def two_modes(num):
  return RNG.normal(size=(num, 2)) + np.where(RNG.random((num, 1)) < 0.4, -4.0, 4.0)


TRAIN, TEST = two_modes(400), two_modes(100)
# In the units that our tasks put tables into.
TRAIN, TEST = ((one - TRAIN.mean(axis=0)) / TRAIN.std(axis=0) for one in (TRAIN, TEST))
# Rows, pipeline, task, workflows, runs of the task.
MODELS = {
  "kde": (
    8,
    lambda: cj.pipelines.sklearn(KernelDensity(bandwidth=0.3)),
    lambda: cj.tasks.kde((TRAIN, TEST), 8, 0.3, num_test=100),
    WORKFLOWS,
    300,
  ),
  # Their fits take no weights; both come to the one optimum that there is.
  "gaussian_mixture": (
    30,
    lambda: cj.pipelines.sklearn(GaussianMixture(2, init_params="k-means++", tol=1e-6, max_iter=200)),
    lambda: cj.tasks.gaussian_mixture((TRAIN, TEST), 30, 2, num_steps=60, num_test=100),
    [*WORKFLOWS[:3], "mix(0.5)"],
    1000,
  ),
}


def looped(pipeline, num, workflows, directory):
  """[workflow, seed, t] of the negative log-likelihood of the test rows."""
  found = cj.loop(
    pipeline,
    {"x": TRAIN},
    {"x": TEST},
    workflows,
    num_generations=NUM_GENERATIONS,
    num_seeds=NUM_SEEDS,
    num_samples=num,
    directory=directory,
    measures={"test_nll": "risk"},
    keep_data=False,
  )
  assert (found.cell_status == "ok").all() and found.finite.all()
  return found.test_nll.sel(generation=AT).transpose("workflow", "seed", "generation").values


def of_ranks(one, other):
  """z [t] of the hypothesis that both have one law, by ranks (Mann and Whitney), which heavy tails do not trouble."""
  n, m = len(one), len(other)
  both = np.concatenate([one, other])
  ranks = scipy.stats.rankdata(np.where(np.isnan(both), np.inf, both), axis=0)  # a run that has ended is the worst
  return (ranks[:n].sum(axis=0) - n * (n + m + 1) / 2) / np.sqrt(n * m * (n + m + 1) / 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_scikit_learn_in_the_loop_has_the_law_of_our_own_tasks(name, tmp_path):
  num, pipeline, task, workflows, num_own = MODELS[name]
  own = cj.sweep(task, workflows, {}, num_generations=NUM_GENERATIONS, num_seeds=num_own)
  own = own.test_nll.sel(generation=AT).transpose("workflow", "seed", "generation").values
  found = looped(pipeline(), num, workflows, tmp_path / "loop")
  z = np.stack([of_ranks(one, other) for one, other in zip(found, own)])
  assert np.all(np.abs(z) < 5), z
  # One generation off, which has to show where generations differ.
  late = of_ranks(found[0][:, [2]], own[0][:, [0]])
  assert abs(late[0]) > 5
  if name == "kde":  # a pipeline that forgets weights
    careless = pipeline()
    fit = careless.fit
    careless = careless._replace(
      fit=lambda data, *, weight=None, **options: fit(data, **options), identity=lambda role: "careless"
    )
    wrong = of_ranks(looped(careless, num, workflows[3:], tmp_path / "careless")[0], own[3])
    assert wrong[0] == pytest.approx(z[3, 0]) and abs(wrong[2]) > 5
