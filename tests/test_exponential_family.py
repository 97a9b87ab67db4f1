"""Exact means and errors of one-parameter families under several schedules, by law and by rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score

import collapse_jax as cj
from collapse_jax import tasks, theory, workflows
from collapse_jax.tasks._exponential_family import FAMILIES, Mean
from collapse_jax.types import Context, Data

T, N = 6, 20
MEANS = {"bernoulli": 0.3, "poisson": 2.5, "exponential": 1.5, "gaussian": -1.0}


def fitted_means(family, workflow, draws, num_seeds=60_000, **options):
  task = tasks.exponential_family(family, N, MEANS[family], draws=draws, **options)
  one = lambda i: cj.run(jax.random.fold_in(jax.random.key(1), i), task, workflow, T)["fitted_mean"]
  return np.asarray(jax.jit(jax.vmap(one))(jnp.arange(num_seeds)), np.float64)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_and_law_agree(family):
  workflow = workflows.accumulate()
  means = fitted_means(family, workflow, "rows", 5000)
  one = FAMILIES[family]
  variance = float(one.variance(jnp.float32(MEANS[family])))
  expected = variance * theory.quadratic_family(workflow.weights(T), N, one.curvature)
  assert np.abs(z_score((means - MEANS[family]) ** 2, expected)).max() < 5


def test_a_billion_rows():
  """The first generation's error has variance 1/n whatever n is."""
  for n in (1e2, 1e6, 1e9):
    task = tasks.exponential_family("exponential", n, 1.0, draws="law")
    one = lambda i, task=task: cj.run(jax.random.fold_in(jax.random.key(1), i), task, workflows.replace(), 1)[
      "fitted_mean"
    ][0]
    means = np.asarray(jax.jit(jax.vmap(one))(jnp.arange(4000)), np.float64)
    spread = (means - 1).var() * n
    assert abs(spread - 1) < 5 * np.sqrt(2 / 4000) + (1e-7 * np.sqrt(n)) ** 2, n


def test_absorption_and_temperature():
  """A Bernoulli mean of 0 or 1 stays; a sharper model gets there sooner, an exponential one shrinks by its temperature."""
  long = lambda temperature: cj.sweep(
    lambda num_samples, temperature: tasks.exponential_family("bernoulli", num_samples, 0.5, temperature=temperature),
    ["replace"],
    {"num_samples": [5], "temperature": [temperature]},
    num_generations=40,
    num_seeds=200,
  ).fitted_mean.values[0, 0, 0]
  plain, sharp = long(1.0), long(0.5)
  for means in (plain, sharp):
    gone = (means == 0) | (means == 1)
    assert (np.diff(gone.astype(int), axis=1) >= 0).all()
  assert ((sharp[:, 9] % 1) == 0).mean() > ((plain[:, 9] % 1) == 0).mean() + 0.1
  shrunk = fitted_means("exponential", workflows.replace(), "law", temperature=0.5)
  assert np.abs(z_score(shrunk, 1.5 * 0.5 ** np.arange(T))).max() < 5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_metric_tells_of_collapse(family):
  """Where the variance vanishes the error of the mean comes to rest, where it is known the variance does: neither tells both."""
  results = cj.sweep(
    lambda num_samples: tasks.exponential_family(family, num_samples, draws="law"),
    ["replace", "accumulate"],
    {"num_samples": [10]},
    num_generations=60,
    num_seeds=100,
  )
  found = lambda name: [row["verdict"].label for row in cj.diagnostics.verdicts(results, [name])]
  last = lambda name: np.median(results[name].values[:, 0, :, -1], axis=1)
  assert found(results.primary_metric)[0] != "bounded" and found(results.primary_metric)[1] == "bounded"
  assert last("variance_share")[0] < 0.5 < 0.8 < last("variance_share")[1]
  if family == "gaussian":
    assert (last("variance_ratio") == 1).all()
  if family == "bernoulli":
    assert last("variance_ratio")[0] == 0 and last("squared_error_of_mean")[0] == 0.25  # models of one outcome, at rest


@pytest.mark.parametrize("family", FAMILIES)
def test_any_number_of_rows(family):
  """To 1e12 rows the error has its law, and neither it nor the variance of the model drifts."""
  last, nums, one = 20, np.array([1e6, 1e9, 1e12]), FAMILIES[family]
  truth = 1000.0 if family == "gaussian" else MEANS[family]  # far above what there is to resolve

  def run(num, i):
    task = tasks.exponential_family(family, num, truth, draws="law")
    found = cj.run(jax.random.fold_in(jax.random.key(4), i), task, workflows.accumulate(), last)
    return found["squared_error_of_mean"], found["variance_ratio"] - 1

  errors, change = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(jnp.asarray(nums), jnp.arange(600))
  variance = float(one.variance(jnp.float32(truth)))
  for i, num in enumerate(nums):
    expected = variance * theory.quadratic_family(workflows.accumulate().weights(last), num, one.curvature)
    assert np.abs(z_score(np.asarray(errors[i]) / expected[None], 1.0, 2.0)).max() < 5, num  # a squared normal variate
    if (
      family != "gaussian"
    ):  # E[V(mean)] / V(truth) - 1 = curvature E[deviation^2] / V(truth), below what a float resolves
      drift = one.curvature * expected / variance
      spread = np.asarray(change[i]).std(axis=0) / np.sqrt(600)
      assert np.abs((np.asarray(change[i], np.float64).mean(axis=0) - drift) / (spread + 1e-9)).max() < 5, num


@pytest.mark.parametrize("family", FAMILIES)
def test_real_rows_are_those_of_the_law(family):
  """Arms that draw rows and arms that draw sums start from the same real batch."""
  means = []
  for workflow in (workflows.replace(), workflows.accumulate_subsample()):
    task = tasks.exponential_family(family, N, MEANS[family])
    one = lambda i, task=task, workflow=workflow: cj.run(jax.random.fold_in(jax.random.key(1), i), task, workflow, 1)[
      "fitted_mean"
    ]
    means.append(np.asarray(jax.jit(jax.vmap(one))(jnp.arange(300))))
  np.testing.assert_allclose(means[0], means[1], rtol=1e-5, atol=1e-6)
  assert means[0].std() > 0.05


@pytest.mark.parametrize(
  ("family", "mean", "variance"),
  [
    ("bernoulli", 0.25, 0.1875),
    ("poisson", 2.5, 2.5 * 7 / 8),
    ("poisson", 700.0, 700 * 7 / 8),
    ("exponential", 3.0, 9 * 7 / 9),
    ("gaussian", -1.0, 7 / 8),
  ],
)
def test_rows_given_their_mean(family, mean, variance):
  """Multinomial, a permutation, Dirichlet, centred: every row has the mean and variance of its conditional law."""
  draw = jax.vmap(lambda key: FAMILIES[family].given(key, jnp.float32(mean), 8))
  rows = np.asarray(jax.jit(draw)(jax.random.split(jax.random.key(2), 8000)), np.float64)
  np.testing.assert_allclose(rows.mean(axis=1), mean, rtol=1e-5)
  assert np.abs(z_score(rows, mean)).max() < 5
  assert np.abs(z_score((rows - mean) ** 2, variance)).max() < 5
  if family in ("poisson", "exponential", "gaussian"):
    assert np.abs(z_score((rows - mean) ** 2, float(FAMILIES[family].variance(jnp.float32(mean))))).max() > 5
  if family == "bernoulli":
    assert set(np.unique(rows)) == {0, 1}


def test_tempered_bernoulli():
  """At any temperature, near the truth and at the ends, against float64; a temperature of 1 changes nothing at all."""
  tempered = FAMILIES["bernoulli"].tempered
  truth = float(np.float32(0.3))
  deviation = np.array([-0.29, -1e-3, 1e-7, 0, 1e-6, 0.1, 0.4, 0.69])
  mean = truth + deviation
  at = Mean(*(jnp.asarray(x, jnp.float32) for x in (mean, 1 - mean, deviation)))
  for temperature in (1e-6, 0.02, 0.07, 0.1, 1, 10, 1e6):
    odds = (np.log(mean) - np.log1p(-mean)) / float(np.float32(temperature))
    found = tempered(at, jnp.float32(truth), jnp.float32(temperature))
    np.testing.assert_allclose(
      found.mean, 1 / (1 + np.exp(np.clip(-odds, -700, 700))), rtol=2e-5 / min(temperature, 1), atol=1e-38
    )
    np.testing.assert_allclose(found.deviation, np.asarray(found.mean, np.float64) - truth, rtol=1e-5, atol=1e-7)
    ends = tempered(
      Mean(jnp.asarray([0.0, 1]), jnp.asarray([1.0, 0]), jnp.asarray([-truth, 1 - truth])), truth, temperature
    )
    np.testing.assert_array_equal(ends.mean, [0, 1])
    np.testing.assert_array_equal(ends.rest, [1, 0])
    assert np.isfinite(ends.deviation).all()
  np.testing.assert_array_equal(tempered(at, jnp.float32(truth), jnp.float32(1)).deviation, at.deviation)


def test_no_rows_no_model():
  for family in FAMILIES:
    task = tasks.exponential_family(family, N, MEANS[family], draws="rows")
    nothing = task.summary.of(jnp.float32(MEANS[family]), jnp.ones(N), jnp.zeros(N))
    fitted = task.fit(None, None, Context(1, N, Data(summary=nothing), None))
    assert np.isnan(task.evaluate(None, jnp.float32(MEANS[family]), fitted)["fitted_mean"])


def test_bad_arguments():
  for bad, part in (
    (("cauchy", 5), "family"),
    (("bernoulli", 5, 1.0), "between 0 and 1"),
    (("poisson", 1), "num_samples"),
    (("poisson", 10**13), "at most 1e\\+12"),
    (("poisson", 5, -1.0), "between"),
  ):
    with pytest.raises(ValueError, match=part):
      tasks.exponential_family(*bad)
  with pytest.raises(ValueError, match="temperature must be 1"):
    tasks.exponential_family("poisson", 5, temperature=2.0)
