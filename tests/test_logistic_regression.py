"""Logistic fits against scikit-learn, and the first-order law of relabelling; the sample median against its exact law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score
from scipy import integrate, special, stats
from sklearn.linear_model import LogisticRegression

import collapse_jax as cj
from collapse_jax import tasks, theory, workflows
from collapse_jax.data import real_data
from collapse_jax.tasks._logistic_regression import bernoulli_divergence, separates, weighted_logistic_fit
from collapse_jax.tasks._sample_median import weighted_median
from collapse_jax.tasks.parts import LabelStats

T = 10


def sklearn_fit(design, label_sum, times):
  rows = np.concatenate([design, design])
  labels, weight = np.repeat([1.0, 0.0], len(design)), np.concatenate([label_sum, times - label_sum])
  model = LogisticRegression(C=np.inf, solver="newton-cholesky", fit_intercept=False, tol=1e-12, max_iter=500)
  return model.fit(rows, labels, sample_weight=weight).coef_[0]


def test_weighted_fit_is_scikit_learns():
  """Labels once, several times, and rows that do not occur."""
  rng = np.random.default_rng(0)
  design = np.column_stack([np.ones(200), rng.standard_normal((200, 3))])
  times = rng.integers(0, 4, (5, 200)).astype(float)
  label_sum = rng.binomial(times.astype(int), special.expit(design @ [0.5, 1.0, -2.0, 0.0])).astype(float)
  found = jax.jit(jax.vmap(weighted_logistic_fit, (None, 0, 0)))(
    *(jnp.asarray(x, jnp.float32) for x in (design, label_sum, times))
  )
  for i in range(5):
    np.testing.assert_allclose(found[i], sklearn_fit(design, label_sum[i], times[i]), atol=2e-4)


def test_separable_labels_freeze():
  """Margins so wide that the same labels come again; noticed, also where a label differs."""
  rng = np.random.default_rng(1)
  design = jnp.asarray(np.column_stack([np.ones(50), rng.standard_normal(50)]), jnp.float32)
  label = (design[:, 1] > 0.1).astype(float)
  ones = jnp.ones(50)
  w = weighted_logistic_fit(design, label, ones)
  assert np.isfinite(w).all() and float(separates(design, LabelStats(ones, label), w)) == 1
  assert float(jnp.min(jnp.abs(design @ w))) > 3
  assert float(jnp.mean(jax.nn.softplus(-(2 * label - 1) * (design @ w)))) < 1e-7
  mixed = label.at[0].set(1 - label[0])
  assert float(separates(design, LabelStats(ones, mixed), weighted_logistic_fit(design, mixed, ones))) == 0
  assert float(separates(design, LabelStats(2 * ones, label + mixed), w)) == 0


@pytest.mark.parametrize(
  ("name", "redrawn"), [("replace", False), ("accumulate", False), ("accumulate_subsample", True)]
)
def test_excess_risk_follows_the_first_order_law(name, redrawn):
  """1500 rows, 3 coefficients of moderate size: within 12% of linear_noise, and far from the other workflows'."""
  rng = np.random.default_rng(2)
  covariates = rng.standard_normal((2000, 2))
  task = tasks.logistic_regression(
    (covariates, rng.integers(0, 2, 2000)), 1500, num_features=None, coefficients=[0.3, 0.8, -0.8]
  )
  workflow = workflows.parse(name)()
  one = lambda i: cj.run(jax.random.fold_in(jax.random.key(0), i), task, workflow, T)["excess_risk"]
  risk = np.asarray(jax.jit(jax.vmap(one))(jnp.arange(300)), np.float64)
  assert abs(z_score(risk, 3 / 2 / 1500)[0]) < 5  # d / (2 n) at t = 1
  ratio = risk.mean(axis=0) / (3 / 2 / 1500)
  law = theory.linear_noise(workflow.weights(T), redrawn)
  error = risk.std(axis=0, ddof=1) / np.sqrt(300) / (3 / 2 / 1500)
  assert np.abs((ratio - law) / (error + 0.02 * law)).max() < 5
  others = [
    theory.linear_noise(workflows.parse(other)().weights(T), again)
    for other, again in (("replace", False), ("accumulate", False), ("accumulate", True))
    if (other, again) != ("accumulate" if redrawn else name, redrawn)
  ]
  for other in others:
    assert np.abs((ratio - other) / (error + 0.02 * other)).max() > 5


def test_breast_cancer():
  """The data, labelled once; training and test rows are apart; its own labels give the fit of scikit-learn."""
  data = real_data.load_labelled("breast_cancer", 2)
  assert data.covariates.shape == (569, 3) and data.labels.sum() == 357
  np.testing.assert_allclose(data.covariates[:, 1:].std(axis=0), 1)
  task = tasks.logistic_regression("breast_cancer", 398, num_features=2, labels="data")
  problem, real = task.init(jax.random.key(0))
  assert problem.test.shape == (171, 3) and task.fresh is None
  out = cj.run(jax.random.key(0), task, workflows.accumulate(), 3)
  key = jax.random.split(jax.random.key(0))[0]
  problem, real = task.init(key)
  w = sklearn_fit(np.asarray(problem.design, np.float64), np.asarray(real.rows["label"][0]), np.ones(398))
  odds = np.asarray(problem.test) @ w
  loss = np.mean(np.logaddexp(0, odds) - np.asarray(problem.test_label) * odds)
  np.testing.assert_allclose(out["test_loss"][0], loss, rtol=1e-3)
  together = np.concatenate([problem.design, problem.test])
  np.testing.assert_allclose(np.sort(together[:, 1]), np.sort(data.covariates[:, 1]), atol=1e-5)


def test_labelled_files(tmp_path):
  good = tmp_path / "two.csv"
  rows = np.random.default_rng(0).standard_normal((40, 2))
  label = (rows[:, 0] + np.random.default_rng(1).standard_normal(40) > 0).astype(int) + 1
  np.savetxt(good, np.column_stack([rows, label]), delimiter=",", header="a,b,label", comments="")
  task = tasks.logistic_regression(str(good), num_features=None)
  assert task.num_samples == 28
  three = tmp_path / "three.csv"
  np.savetxt(three, np.column_stack([rows, np.arange(40) % 3]), delimiter=",")
  one = tmp_path / "one.csv"
  np.savetxt(one, rows[:, :1], delimiter=",")
  arrays = (rows, (rows[:, 0] > 0).astype(int))
  for bad, options, part in (
    (str(three), {}, "two values"),
    (str(one), {}, "column of labels"),
    ("iris", {}, "unknown data set"),
    (str(tmp_path / "none.csv"), {}, "no such file"),
    (arrays, {}, "separate the labels"),
    ((rows,), {}, "pair"),
    ((rows, label[:5]), {}, "one for each row"),
    (str(good), {"num_features": 3}, "from 1 to 2"),
    (str(good), {"num_samples": 40}, "at most 39"),
    (str(good), {"labels": "x"}, "labels must be"),
    (str(good), {"coefficients": [1.0]}, "finite numbers"),
    (str(good), {"temperature": 0.0}, "temperature"),
  ):
    with pytest.raises(ValueError, match=part):
      tasks.logistic_regression(bad, **{"num_features": None} | options)


@pytest.mark.parametrize("n", [9, 20])
def test_the_median_follows_its_law(n):
  """Under `replace` its errors add up: t times the exact variance of a normal sample's median; 1.57 / n only roughly."""
  task = tasks.sample_median(n, 2.0)
  one = lambda i: cj.run(jax.random.fold_in(jax.random.key(3), i), task, workflows.replace(), 4)["fitted_mean"]
  median = np.asarray(jax.jit(jax.vmap(one))(jnp.arange(60_000)), np.float64)
  variance = 2 * median_variance(n) * np.arange(1, 5)
  z = (median.var(axis=0) / variance - 1) / np.sqrt(2 / 60_000)
  assert np.abs(z).max() < 5
  late = 2 * median_variance(n) * np.arange(2, 6)
  assert np.abs((median.var(axis=0) / late - 1) / np.sqrt(2 / 60_000)).max() > 5
  assert np.abs((median.var(axis=0) / (2 * np.pi / 2 / n * np.arange(1, 5)) - 1) / np.sqrt(2 / 60_000)).max() > 5


def median_variance(n):
  """Of n standard normals, by integration; for even n the mean of the two middle values."""
  k = n // 2
  if n % 2:
    density = lambda x: x * x * np.exp(stats.norm.logpdf(x) + k * (stats.norm.logcdf(x) + stats.norm.logsf(x)))
    return integrate.quad(density, -12, 12)[0] * np.exp(special.gammaln(n + 1) - 2 * special.gammaln(k + 1))
  joint = lambda y, x: (
    ((x + y) / 2) ** 2
    * np.exp(stats.norm.logpdf(x) + stats.norm.logpdf(y) + (k - 1) * (stats.norm.logcdf(x) + stats.norm.logsf(y)))
  )
  scale = np.exp(special.gammaln(n + 1) - 2 * special.gammaln(k))
  return integrate.dblquad(joint, -6, 6, lambda x: x, lambda x: 6, epsabs=1e-10)[0] * scale


def test_weighted_median_is_numpys():
  rng = np.random.default_rng(0)
  for n in (1, 2, 5, 8):
    values, weight = rng.standard_normal(n), rng.integers(0, 3, n).astype(float)
    weight[0] = 1
    expected = np.median(np.repeat(values, weight.astype(int)))
    np.testing.assert_allclose(weighted_median(jnp.asarray(values), jnp.asarray(weight)), expected, atol=1e-6)


def test_divergence_of_coins_does_not_cancel():
  """Against float64, from shifts of 1e-6 to 100 and odds of either sign."""
  shift = np.concatenate([-np.geomspace(1e-6, 100, 60), np.geomspace(1e-6, 100, 60)]).astype(np.float32)
  for odds in np.float32([-30.0, -5.0, -0.3, 0.0, 1.0, 8.0]):
    found = bernoulli_divergence(jnp.full(shift.shape, odds), jnp.asarray(shift))
    p, d = special.expit(np.longdouble(odds)), np.longdouble(shift)
    right = np.where(
      np.abs(d) < 1e-3,
      p * (1 - p) * (d**2 / 2 + (1 - 2 * p) * d**3 / 6 + (1 - 6 * p * (1 - p)) * d**4 / 24),
      np.logaddexp(0, np.longdouble(odds) + d) - np.logaddexp(0, np.longdouble(odds)) - p * d,
    )
    np.testing.assert_allclose(found, right.astype(float), rtol=2e-5)
  naive = jax.nn.softplus(1.0 + 1e-4) - jax.nn.softplus(1.0) - jax.nn.sigmoid(1.0) * 1e-4  # the twin
  assert abs(naive / (special.expit(1) * special.expit(-1) * 0.5e-8) - 1) > 0.01


def test_separable_labels_have_no_finite_fit():
  """The likelihood has no maximum: risk and coefficients are infinite, and no number of Newton's last step is averaged in."""
  task = tasks.logistic_regression("breast_cancer", 40)
  out = jax.jit(jax.vmap(lambda key: cj.run(key, task, workflows.replace(), 12)))(
    jax.random.split(jax.random.key(0), 20)
  )
  apart = np.asarray(out["separated"]) > 0
  assert 0.1 < apart.mean() < 0.9 and (np.diff(apart.astype(int), axis=1) >= 0).all()  # then the labels stay
  for metric in ("excess_risk", "test_loss", "squared_error_of_coefficients"):
    np.testing.assert_array_equal(np.isposinf(out[metric]), apart)
  np.testing.assert_array_equal(out["finite"], ~apart)


@pytest.mark.slow  # as programs are compiled for users
def test_fits_do_not_depend_on_the_chunk():
  task = lambda num_samples: tasks.logistic_regression("breast_cancer", num_samples)
  one, many = (
    cj.sweep(task, ["replace", "accumulate"], {"num_samples": [60]}, num_generations=12, num_seeds=24, chunk_size=size)
    for size in (1, 24)
  )
  np.testing.assert_array_equal(one.finite, many.finite)
  for metric in ("excess_risk", "test_loss"):
    np.testing.assert_allclose(one[metric], many[metric], rtol=1e-5)
