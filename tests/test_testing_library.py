"""Every task, workflow and transform of the library goes through `cj.testing`, on small settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from collapse_jax import store, tasks, testing, transforms
from collapse_jax.data import molecules, traffic

N = 6

# Replaced; empty slots; rows as slots of their own; a weighted real batch. What else a task's code could tell apart is in its parts.
FLOWS = ("replace", "accumulate", "accumulate_subsample", "mix(0.4)")
GROWN = ("grown_replace",)  # rows that do not count
OVERLAPPING = (
  np.linspace(-2, 2, 60)[:, None],
  np.arange(60) % 2,
)  # no labels of these are separable but by a rare chance


def language_model():
  from collapse_jax.lm import text, tiny, training

  documents = text.load("pydocs", "base")[:50]
  model = tiny.untrained(documents)
  rows = text.to_rows(model.tokenizer, documents, 24, tiny.VOCAB_SIZE)
  rows = rows._replace(tokens=rows.tokens[:8], length=rows.length[:8])
  recipe = training.Recipe(batch_size=2)
  return tasks.language_model(model, rows, rows, 2, recipe=recipe, on_malformed="keep", curve_rows=2, curve_points=1)


def ar_window():
  source = traffic.autoregression(5, [0.5], coupling=0.9)
  options = {"budget": "steps", "amount": 2, "batch_size": 8, "hidden": 2, "num_components": 2}
  return tasks.ar_window(source, N, window=1, num_test=2, num_lags=1, num_bins=4, **options)


TASKS = {
  "gaussian": (lambda: tasks.gaussian(1, N), FLOWS),
  "kde": (lambda: tasks.kde("moons", N, 0.5, num_test=20), FLOWS),
  "linear_regression": (lambda: tasks.linear_regression(2, N), FLOWS),
  "discrete": (lambda: tasks.discrete(3, N), FLOWS),
  "exponential_family": (lambda: tasks.exponential_family("bernoulli", N), FLOWS),
  "logistic_regression": (lambda: tasks.logistic_regression(OVERLAPPING, 40, coefficients=[0.2, 0.5]), FLOWS),
  "sample_median": (lambda: tasks.sample_median(N), FLOWS),
  "ngram": (lambda: tasks.ngram(N, 4, length=6), FLOWS),
  "flow": (lambda: tasks.flow([1.0, 0.5], N, num_steps=3), FLOWS),
  "ppca": (lambda: tasks.ppca([2.0, 1.0, 1.0], N, 1), FLOWS),
  "table": (lambda: tasks.table("mixed", N, num_test=20), ("mix(0.4)",)),
  "vae": (lambda: tasks.vae([2.0, 1.0, 1.0], N, 1, amount=3), ("accumulate",)),
  "ar_window": (ar_window, GROWN),
  "molecules": (lambda: tasks.molecules(molecules.alkane(4, 20), N, num_components=2, num_em_steps=2), GROWN),
  "gaussian_mixture": (lambda: tasks.gaussian_mixture("ring", N, 2, num_steps=2, num_test=20), FLOWS),
  "classification": (lambda: tasks.classification(2, N), FLOWS),
  "labelled": (lambda: tasks.labelled("moons", N, "kde", num_test=20), FLOWS),
  "unrealistic": (lambda: tasks.unrealistic(N, 0.3, 2.0, 2), FLOWS),
  "language_model": (language_model, ("accumulate",)),
}
VARIANTS = {
  "gaussian_rows": (lambda: tasks.gaussian(1, N, draws="rows"), GROWN),
  "gaussian_distances": (lambda: tasks.gaussian(2, N, distances=True, wasserstein2=True), ("replace",)),
  "kde_scott": (lambda: tasks.kde("blobs", N, "scott", num_test=20), GROWN),
  "kde_tophat": (lambda: tasks.kde("normal", N, 6.0, "tophat", num_test=20), GROWN),
  "discrete_renumbered": (lambda: tasks.discrete(50, N, temperature=1.5), GROWN),
  "linear_regression_fresh": (lambda: tasks.linear_regression(2, N, covariates="fresh"), GROWN),
  "vae_patches": (lambda: tasks.vae("glyphs", N, 2, network="patches", hidden=(8,), amount=2, num_test=20), GROWN),
  "poisson": (lambda: tasks.exponential_family("poisson", N, draws="rows"), GROWN),
}


@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "language_model")) for name in TASKS]
)
def test_tasks(name):
  make, names = TASKS[name]
  testing.check_task(make, workflows=names, drivers=("replace",))


@pytest.mark.parametrize("name", VARIANTS)
def test_other_forms_of_tasks(name):
  make, names = VARIANTS[name]
  testing.check_task(make, workflows=names, drivers=())


@pytest.mark.parametrize("text", testing.WORKFLOWS)
def test_workflows(text):
  testing.check_workflow(text, drivers=text in ("accumulate_subsample", "mix(0.4)", "mix(0.5, fresh=True)"))


def _unsure(key, problem, rows):
  return jax.random.uniform(key, (store.num_rows(rows),)) < 0.7


def _median():
  return {"median": tasks.sample_median(N)}


TRANSFORMS = {  # transform, tasks (None: the default ones), workflow
  "curate": (
    lambda task: transforms.curate(task, 2, lambda rows: -jnp.abs(rows.reshape(len(rows), -1)[:, 0])),
    None,
    "grown_replace",
  ),
  "select_nearest": (lambda task: transforms.select_nearest(task, 0.7), _median, "grown_replace"),
  "select_nearest_of_few": (
    lambda task: transforms.select_nearest(task, 0.7, oversample=False),
    lambda: {"kde": tasks.kde("normal", N, 0.3, num_test=20)},
    "grown_replace",
  ),
  "verify": (
    lambda task: transforms.verify(task, _unsure),
    lambda: {"classes": tasks.classification(2, 20)},
    "grown_replace",
  ),
  "verify_statistics": (
    lambda task: transforms.verify(task, _unsure),
    lambda: {"discrete": tasks.discrete(3, 20)},
    "accumulate",
  ),
  "class_shares": (
    lambda task: transforms.class_shares(task, lambda rows: jnp.stack([rows, -rows], axis=1).reshape(len(rows), 2), 2),
    _median,
    "grown_replace",
  ),
  "edit_tokens": (
    lambda task: transforms.edit_tokens(task, 0.2, 3),
    lambda: {"ngram": tasks.ngram(N, 4, length=6)},
    "accumulate",
  ),
  "edit_labels": (
    lambda task: transforms.edit_labels(task, 0.5),
    lambda: {"regression": tasks.linear_regression(2, N)},
    "accumulate",
  ),
  "ensemble": (lambda task: transforms.ensemble(task, 2), _median, "accumulate"),
  "train_on_synthetic": (
    transforms.train_on_synthetic,
    lambda: {"moons": tasks.labelled("moons", N, "kde", num_test=20)},
    "grown_replace",
  ),
  "reweight": (
    lambda task: transforms.reweight(task, lambda rows: 1.0 + rows),
    lambda: {"discrete": tasks.discrete(3, N)},
    "grown_replace",
  ),
  "verify_curated": (
    lambda task: transforms.verify(transforms.curate(task, 2, lambda rows: rows), _unsure),
    lambda: {"median": tasks.sample_median(20)},
    "grown_replace",
  ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name):
  transform, made, workflow = TRANSFORMS[name]
  drivers = (workflow,) if name.startswith("edit") else ()
  skip = ("keys",) if name == "train_on_synthetic" else ()  # its classifiers share one map of features, on purpose
  testing.check_transform(transform, tasks=made and made(), workflows=(workflow,), drivers=drivers, skip=skip)
