"""Every task, workflow and transform of the library goes through `cj.testing`, on small settings."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax import store, tasks, testing, transforms

N = 6
PAGE = (Path(__file__).parent.parent / "docs" / "your_own.md").read_text(encoding="utf-8")


def test_the_page_on_writing_ones_own_runs():
  found: dict = {}
  for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
    exec(block, found)


SOME = ("accumulate", "grown_replace")  # empty slots, and rows of weight 0
OVERLAPPING = (
  np.linspace(-2, 2, 60)[:, None],
  np.arange(60) % 2,
)  # no labels of these are separable but by a rare chance
TASKS = {
  "gaussian": (lambda: tasks.gaussian(2, N), testing.WORKFLOWS),
  "gaussian_rows": (lambda: tasks.gaussian(1, N, draws="rows"), SOME),
  "gaussian_distances": (lambda: tasks.gaussian(2, N, distances=True, wasserstein2=True), ("replace",)),
  "kde": (lambda: tasks.kde("moons", N, 0.5, num_test=20), ("accumulate_subsample", *SOME)),
  "kde_scott": (lambda: tasks.kde("blobs", N, "scott", num_test=20), SOME),
  "kde_tophat": (lambda: tasks.kde("normal", N, 6.0, "tophat", num_test=20), ("grown_replace",)),
  "discrete": (lambda: tasks.discrete(3, N), ("replace", *SOME)),
  "discrete_warm": (lambda: tasks.discrete(50, N, temperature=1.5), SOME),
  "linear_regression": (lambda: tasks.linear_regression(2, N), ("accumulate", "accumulate_subsample", "mix(0.5)")),
  "linear_regression_fresh": (lambda: tasks.linear_regression(2, N, covariates="fresh"), SOME),
  "bernoulli": (lambda: tasks.exponential_family("bernoulli", N), SOME),
  "poisson": (lambda: tasks.exponential_family("poisson", N, draws="rows"), SOME),
  "logistic_regression": (
    lambda: tasks.logistic_regression(OVERLAPPING, 40, coefficients=[0.2, 0.5]),
    ("accumulate", "sliding_window(2)"),
  ),
  "sample_median": (lambda: tasks.sample_median(N), SOME),
  "ngram": (lambda: tasks.ngram(N, 4, length=6), SOME),
  "gaussian_mixture": (lambda: tasks.gaussian_mixture("ring", N, 2, num_steps=2, num_test=20), ("grown_replace",)),
  "classification": (lambda: tasks.classification(2, N), SOME),
  "labelled": (lambda: tasks.labelled("moons", N, "kde", num_test=20), SOME),
  "unrealistic": (lambda: tasks.unrealistic(N, 0.3, 2.0, 2), SOME),
}
DRIVEN = {
  "gaussian",
  "kde_scott",
  "discrete",
  "linear_regression",
}  # the host driver pools rows, which few tasks could tell


@pytest.mark.parametrize("name", TASKS)
def test_tasks(name):
  task, names = TASKS[name]
  testing.check_task(task, workflows=names, drivers=("accumulate",) if name in DRIVEN else ())


@pytest.mark.parametrize("text", testing.WORKFLOWS)
def test_workflows(text):
  testing.check_workflow(text, drivers=text in ("accumulate_subsample", "mix(0.4)", "mix(0.5, fresh=True)"))


def _unsure(key, problem, rows):
  return jax.random.uniform(key, (store.num_rows(rows),)) < 0.7


def _positive(rows):
  return jnp.exp(-jnp.abs(rows.reshape(len(rows), -1)[:, 0]))


TRANSFORMS = {
  "curate": (lambda task: transforms.curate(task, 2, lambda rows: -jnp.abs(rows.reshape(len(rows), -1)[:, 0])), None),
  "reweight": (lambda task: transforms.reweight(task, _positive), None),
  "select_nearest": (lambda task: transforms.select_nearest(task, 0.7), None),
  "select_nearest_of_few": (
    lambda task: transforms.select_nearest(task, 0.7, oversample=False),
    lambda: {"kde": tasks.kde("normal", N, 0.3, num_test=20)},
  ),
  "verify": (
    lambda task: transforms.verify(task, _unsure),
    lambda: {"classes": tasks.classification(2, 20), "gaussian": tasks.gaussian(1, 20)},
  ),
  "class_shares": (
    lambda task: transforms.class_shares(task, lambda rows: jnp.stack([rows, -rows], axis=1).reshape(len(rows), 2), 2),
    lambda: {"median": tasks.sample_median(N)},
  ),
  "edit_tokens": (lambda task: transforms.edit_tokens(task, 0.2, 3), lambda: {"ngram": tasks.ngram(N, 4, length=6)}),
  "edit_labels": (
    lambda task: transforms.edit_labels(task, 0.5),
    lambda: {"regression": tasks.linear_regression(2, N)},
  ),
  "ensemble": (lambda task: transforms.ensemble(task, 2), lambda: {"median": tasks.sample_median(N)}),
  "train_on_synthetic": (
    lambda task: transforms.train_on_synthetic(task),
    lambda: {"moons": tasks.labelled("moons", N, "kde", num_test=20)},
  ),
  "verify_curated": (
    lambda task: transforms.verify(transforms.curate(task, 2, lambda rows: rows), _unsure),
    lambda: {"median": tasks.sample_median(20)},
  ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name):
  transform, made = TRANSFORMS[name]
  names = ("grown_replace",) if made is None else ("accumulate", "grown_replace")
  drivers = ("accumulate",) if name.startswith("edit") else ()
  skip = ("keys",) if name == "train_on_synthetic" else ()  # its classifiers share one map of features, on purpose
  testing.check_transform(transform, tasks=made and made(), workflows=names, drivers=drivers, skip=skip)
