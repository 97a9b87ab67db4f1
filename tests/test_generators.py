"""Gaussian mixtures, labelled generators, and classifiers trained on what they emit, against scikit-learn and exact laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score
from scipy import stats
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture

import collapse_jax as cj
from collapse_jax import generation, store, tasks, theory, transforms, workflows
from collapse_jax.metrics.arrays import nearest_distance
from collapse_jax.systems import temperature
from collapse_jax.tasks._gaussian_mixture import Mixture, fit_mixture, log_density
from collapse_jax.transforms import classifiers, rewards, verifiers
from collapse_jax.transforms.ensembles import bootstrap_counts
from collapse_jax.types import Context, MetricInfo


@pytest.fixture(scope="module")
def rows():
  rng = np.random.default_rng(0)
  return (rng.normal(size=(300, 2)) + 5 * rng.integers(0, 2, (300, 1))).astype(np.float32)


def test_mixture_is_a_maximum(rows):
  """Its score is that of scikit-learn, from which a step of expectation maximisation does not move."""
  fit = jax.jit(fit_mixture, static_argnums=(3, 4))
  ours = fit(jax.random.key(0), jnp.asarray(rows), jnp.ones(300), 2, 100, None)
  theirs = GaussianMixture(2, tol=1e-9, max_iter=500, n_init=3, reg_covar=1e-9, random_state=0).fit(rows)
  assert float(log_density(ours, jnp.asarray(rows)).mean()) == pytest.approx(theirs.score(rows), abs=1e-3)
  order = np.argsort(np.asarray(ours.mean)[:, 0])
  np.testing.assert_allclose(np.sort(theirs.means_[:, 0]), np.asarray(ours.mean)[order, 0], atol=0.02)
  few = fit(jax.random.key(0), jnp.asarray(rows), jnp.ones(300), 2, 2, None)
  assert log_density(few, jnp.asarray(rows)).mean() <= log_density(ours, jnp.asarray(rows)).mean() + 1e-5


def test_one_component_is_the_gaussian_of_the_data(rows):
  ours = fit_mixture(jax.random.key(0), jnp.asarray(rows), jnp.ones(300), 1, 3, None)
  np.testing.assert_allclose(ours.mean[0], rows.mean(axis=0), rtol=1e-4)
  np.testing.assert_allclose(ours.factor[0] @ ours.factor[0].T, np.cov(rows.T, bias=True), rtol=1e-3, atol=1e-3)


def test_weight_counts_as_repetition(rows):
  count = np.random.default_rng(1).integers(0, 3, 300)
  fit = lambda x, w: fit_mixture(jax.random.key(0), jnp.asarray(x), jnp.asarray(w, float), 1, 3, None)
  one, other = fit(rows, count), fit(np.repeat(rows, count, axis=0), np.ones(count.sum()))
  np.testing.assert_allclose(one.mean, other.mean, rtol=1e-4)
  np.testing.assert_allclose(
    one.factor @ jnp.swapaxes(one.factor, 1, 2), other.factor @ jnp.swapaxes(other.factor, 1, 2), rtol=1e-3, atol=1e-3
  )
  two = fit_mixture(jax.random.key(0), jnp.zeros((20, 2)), jnp.ones(20), 3, 5, None)  # all rows are one point
  assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(two))


def test_scores_are_those_of_scikit_learn():
  rng = np.random.default_rng(0)
  label = rng.integers(0, 2, 200).astype(np.float32)
  p = np.clip(np.round(0.3 * label + 0.7 * rng.uniform(size=200), 2), 0.01, 0.99).astype(np.float32)  # with ties
  assert float(classifiers.auc(p, label)) == pytest.approx(reference.roc_auc_score(label, p), abs=1e-5)
  assert float(classifiers.nll(p, label)) == pytest.approx(reference.log_loss(label, p), abs=1e-5)
  assert float(classifiers.brier(p, label)) == pytest.approx(reference.brier_score_loss(label, p), abs=1e-5)
  share, mean = calibration_curve(label, p, n_bins=10)
  count, _ = np.histogram(p, np.linspace(0, 1 + 1e-8, 11))
  expected = np.sum(count[count > 0] * np.abs(share - mean)) / 200
  assert float(classifiers.calibration_error(p, label)) == pytest.approx(expected, abs=1e-5)


def test_classifier_is_that_of_scikit_learn(rows):
  label = (rows[:, 0] + np.random.default_rng(0).normal(size=300) > 2.5).astype(np.float32)
  x = np.asarray(classifiers.features(jnp.asarray(rows), classifiers.scaling(jnp.asarray(rows))), np.float64)
  ours = classifiers.fit_classifier(jnp.asarray(x, float), jnp.asarray(label), jnp.ones(300))
  theirs = LogisticRegression(C=1 / (classifiers._RIDGE * 300), fit_intercept=False, tol=1e-8, max_iter=5000).fit(
    x, label
  )
  np.testing.assert_allclose(classifiers.predict(ours, jnp.asarray(x, float)), theirs.predict_proba(x)[:, 1], atol=2e-3)


def test_bootstrap_counts():
  """Multinomial over the rows in use: they sum to n, with variance 1 - 1/n and covariance -1/n."""
  data = store.batch(jnp.arange(20.0), (jnp.arange(20) < 15).astype(float))
  counts = np.asarray(jax.vmap(lambda key: bootstrap_counts(key, data))(jax.random.split(jax.random.key(0), 4000)))[
    :, 0
  ]
  assert (counts[:, 15:] == 0).all() and (counts.sum(axis=1) == 15).all()
  assert np.abs(z_score(counts[:, :15], 1.0)).max() < 4.5
  assert np.abs(z_score((counts[:, :15] - 1) ** 2, 14 / 15)).max() < 4.5


@pytest.mark.parametrize("k", [2, 5, 40])
def test_neighbours_by_sorting(k):
  near, real = (jax.random.normal(jax.random.key(i), (n, 3)) for i, n in ((0, 30), (1, 40)))
  real = real.at[3].set(real[5])  # a tie
  distance = np.linalg.norm(np.asarray(near)[:, None] - np.asarray(real)[None], axis=2)
  np.testing.assert_allclose(nearest_distance(near, real, k), np.sort(distance, axis=1)[:, k - 1], rtol=1e-5)
  used = jnp.arange(40) < 20
  if k <= 20:
    np.testing.assert_allclose(
      nearest_distance(near, real, k, used), np.sort(distance[:, :20], axis=1)[:, k - 1], rtol=1e-5
    )


def run_many(task, workflow, T, num=50):
  return jax.tree.map(
    np.asarray,
    jax.jit(jax.vmap(lambda key: generation.run(key, task, workflow, T)))(jax.random.split(jax.random.key(0), num)),
  )


def test_total_variation_of_gaussians():
  """Within the error that is reported beside it, of the exact distance."""
  out = run_many(tasks.gaussian(1, 10, distances=True), workflows.replace(), 4)
  mean, std = out["marginal_mean"].astype(float), np.exp(0.5 * out["marginal_log_variance"].astype(float))
  exact = np.vectorize(theory.total_variation_gaussian)(mean, std)
  assert (np.abs(out["total_variation"] - exact) <= out["total_variation_error"] + 1e-5).all()
  assert out["total_variation_error"].max() < 0.01
  kl = 0.5 * (std**2 + mean**2 - 1) - np.log(std)  # KL(model || truth)
  np.testing.assert_allclose(out["kl_from_truth"], kl, rtol=1e-3, atol=1e-5)


def test_total_variation_of_kernels():
  """An estimate on test rows: its z, by the error beside it, against a grid."""
  task = tasks.kde("normal", 20, 0.5, num_test=2000, distances=True)
  workflow = workflows.replace()
  x = np.linspace(-6, 6, 241)
  truth, z = np.outer(stats.norm.pdf(x), stats.norm.pdf(x)), []
  for seed in range(5):
    run = generation.start(jax.random.key(seed), task, workflow, 1)
    _, metrics = generation.advance(task, workflow, run, [1], num_generations=1)
    kernels = [stats.norm.pdf(x[:, None], c[None], 0.5) for c in np.asarray(run.real.rows[0]).T]
    density = kernels[0] @ kernels[1].T / 20
    exact = 0.5 * np.abs(density - truth).sum() * (x[1] - x[0]) ** 2
    z.append((float(metrics["total_variation"][0]) - exact) / float(metrics["total_variation_error"][0]))
  assert np.abs(z).max() < 4 and 0.1 < exact < 0.6


def test_curation_factor():
  """Its mean over the model is 1; it rewards what the reward does; the gain has the bound of the paper below it."""
  probability, reward = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0])
  for K in (2, 4, 16):
    factor = theory.curation_factor(reward, probability, K)
    assert factor @ probability == pytest.approx(1, abs=1e-6) and (np.diff(factor) > 0).all()
    gain = (factor * probability) @ np.exp(reward) - probability @ np.exp(reward)
    assert gain >= theory.curation_gain_bound(reward, probability, K) > 0
  many = theory.curation_factor(reward, probability, 4000)  # K -> infinity: exp(reward) over its mean
  np.testing.assert_allclose(many, np.exp(reward) / (probability @ np.exp(reward)), rtol=2e-3)
  two = theory.curation_factor(reward, probability, 2)
  plain = [sum(2 * q * np.exp(r) / (np.exp(r) + np.exp(s)) for q, s in zip(probability, reward)) for r in reward]
  np.testing.assert_allclose(two, plain, rtol=1e-5)


def test_curated_beside_real_data_stays_near():
  """sup p_t / p_data and KL(p_t || p_data) stay below the bounds of the paper while 1 - (K - 1) lambda > 0."""
  rng = np.random.default_rng(0)
  cases = [(rng.dirichlet(np.ones(6)), 4 * rng.normal(size=6)) for _ in range(10)]
  rare = np.array([0.999, 0.001]), np.array([0.0, 8.0])  # for which the bound is nearly reached
  for K, ratio in ((4, 0.3), (2, 0.8), (3, 0.4)):
    for data, reward in (*cases, rare):
      p, bound = data, 1 / (1 - (K - 1) * ratio)
      for _ in range(25):
        p = (data + ratio * p * theory.curation_factor(reward, p, K)) / (1 + ratio)
        np.testing.assert_allclose(p.sum(), 1, rtol=1e-4)
        assert (p / data).max() <= bound * 1.0001
        divergence = p @ np.log(p / data)
        assert divergence <= theory.curation_divergence_bound(K, ratio) + 1e-6
      if K == 2:  # and the reward gains at least this over the data, once models have been curated
        assert p @ np.exp(reward) >= data @ np.exp(reward) + theory.curation_gain_bound(reward, data, K, ratio)
    assert (p / data).max() > 0.75 * bound


def test_many_candidates():
  """K -> infinity multiplies the density by exp(reward), which other K approach."""
  mean, variance = theory.curation_gaussian(2, 2, np.inf, 8)
  np.testing.assert_allclose(variance[[0, 1, 3, 7]], [0.8, 2 / 3, 0.5, 1 / 3])
  np.testing.assert_allclose(mean[[0, 1, 3, 7]], [0.4, 2 / 3, 1, 4 / 3])
  off = [np.abs(np.subtract(theory.curation_gaussian(2, 2, K, 8), (mean, variance))).max() for K in (16, 256, 4096)]
  assert off[0] > 4 * off[1] > 16 * off[2] and off[2] < 1e-3


def test_law_of_the_urn():
  """Polya's urn is beta-binomial; a binomial of the same mean is not it."""
  T, num = 60, 4000
  drawn = np.round(temperature.urn(T, num) * (T + 9) - 8).astype(
    int
  )  # balls of the first colour beyond the first eight
  counts = np.bincount(drawn, minlength=T)
  for law, holds in (
    (stats.betabinom(T - 1, 8, 2), True),
    (stats.binom(T - 1, 0.8), False),
    (stats.betabinom(T - 1, 4, 1), False),
  ):
    share = law.pmf(np.arange(T))
    some = share * num > 5
    observed, expected = (np.append(x[some], x[~some].sum() + 1e-9) for x in (counts, share * num))
    p = stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue
    assert (p > 1e-3) if holds else (p < 1e-9)


def test_level_set_is_the_limit_of_many_neighbours():
  level = theory.level_set_variance(1.0, 0.5)
  assert level == pytest.approx(0.143, abs=1e-3)
  off = [theory.nearest_variance(1.0, 0.5, k) - level for k in (10, 100, 1000)]
  assert off[0] > 2 * off[1] > 4 * off[2] > 0 and off[2] < 0.02


def test_bound_on_mixtures():
  """Solved forms of its recursion: a fixed real share, and accumulation at a constant error; measured distances stay below."""
  T, share, error = 12, 0.3, 0.1
  t = np.arange(1, T + 1)
  np.testing.assert_allclose(
    theory.mixture_bound(np.full(T, error), workflows.mix(share).weights(T)), error * (1 - (1 - share) ** t) / share
  )
  np.testing.assert_allclose(
    theory.mixture_bound(np.full(T, error), workflows.accumulate().weights(T)), error * np.cumsum(1 / t)
  )
  n, workflow = 400, workflows.mix(0.25)
  first = np.array([theory.mean_total_variation_of_fit(num) for num in [n] + [4 * n] * 7])
  bound = theory.mixture_bound(first, workflow.weights(8))
  measured = run_many(tasks.gaussian(1, n, distances=True), workflow, 8, 400)["total_variation"].mean(axis=0)
  assert measured[0] == pytest.approx(bound[0], rel=0.1) and (measured[1:] < bound[1:]).all()


def test_temperature_one_is_the_plain_loop():
  for fraction, law in ((0.0, theory.gaussian_replace(20, 8)), (0.3, theory.gaussian_mix(20, 0.3, 8, fresh=True))):
    np.testing.assert_allclose(theory.gaussian_temperature(20, 1.0, 8, real_fraction=fraction), law)


def test_fewer_rows_are_trained_on():
  """Without oversampling what is not near has weight 0: the nearest of as many rows as the workflow asks for."""
  task = transforms.select_nearest(tasks.unrealistic(100, 0.7, 6.0), 0.2, lambda rows: rows["x"], oversample=False)
  out = run_many(task, workflows.accumulate_subsample(), 3, 8)
  assert out["finite"].all() and (out["train_size"][:, 1] < 100).all()
  out = run_many(task, workflows.replace(), 2, 40)
  np.testing.assert_array_equal(out["train_size"][:, 1], 20)
  assert (
    out["purity"][:, 1].mean()
    > 0.95
    > 0.3
    == pytest.approx(
      run_many(tasks.unrealistic(100, 0.7, 6.0), workflows.replace(), 2, 400)["purity"][:, 1].mean(), abs=0.015
    )
  )


def test_as_many_are_kept_as_were_asked_for_where_distances_tie():
  """Outcomes are the same numbers again and again: half of 20 are 10, not all 20."""
  embed = lambda rows: rows[:, None].astype(float)
  task = transforms.select_nearest(tasks.discrete(2, 20), 0.5, embed, oversample=False)
  out = run_many(task, workflows.replace(), 3, 20)
  np.testing.assert_array_equal(out["train_size"][:, 1:], 10)
  out = run_many(
    transforms.select_nearest(tasks.discrete(2, 20), 0.01, embed, oversample=False), workflows.replace(), 2, 4
  )
  np.testing.assert_array_equal(out["train_size"][:, 1], 1)


def test_a_mixture_is_judged_by_draws_of_its_own():
  """One fixed set of points for all models has an error that does not show in their spread: with a key each, the error of the mean
  over models of a known divergence is what the spread says."""
  task = tasks.gaussian_mixture("normal", 50, 1, num_test=5)
  model = Mixture(jnp.zeros(1), jnp.asarray([[0.3, 0.0]]), jnp.eye(2)[None])

  def one(key):
    return task.evaluate(key, task.init(jax.random.key(1))[0], model)["kl_from_truth"]

  found = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(0), 400)), np.float64)
  assert abs(z_score(found, 0.3**2 / 2)) < 5
  assert abs(found.std() / (0.3 / np.sqrt(1000)) - 1) < 0.2  # the log ratio has the deviation 0.3


def test_classifier_of_two_classes(rows):
  """scikit-learn keeps one set of coefficients for two classes."""
  label = (rows[:, 0] > 2.5).astype(int)
  log_probability = rewards.classifier(rows, label)(jnp.asarray(rows))
  assert log_probability.shape == (300, 2)
  np.testing.assert_allclose(jnp.exp(log_probability).sum(axis=1), 1, rtol=1e-5)
  assert (np.argmax(np.asarray(log_probability), axis=1) == label).mean() > 0.97


def test_large_rewards_stay_finite():
  """The variance of exp(reward) saturates, and the reward still counts."""
  task = transforms.curate(tasks.gaussian(1, 200), 2, lambda rows: 100 * rows[:, 0])
  out = run_many(task, workflows.replace(), 2, 4)
  assert out["finite"].all() and (out["mean_reward"] > out["candidate_reward"]).all()
  task = transforms.curate(tasks.classification(2, 1000), 2, lambda rows: 40 + jnp.log(2) * rows["truth"])
  found = run_many(task, workflows.replace(), 1, 20)["variance_of_exp_reward"]  # half are exp(40) / 2, half 2 exp(40)
  np.testing.assert_allclose(found / np.float32(np.exp(80)), 0.5625, rtol=0.01)


def test_members_start_warm():
  """Each member of an ensemble goes on from its own previous model."""

  def fit(key, problem, context):  # a number of its own, and how many fits it has gone through
    first = jnp.stack([jax.random.uniform(key), 1.0])
    return first if context.previous is None else context.previous + jnp.array([0.0, 1.0])

  plain = tasks.exponential_family("gaussian", 8)
  evaluate = lambda key, problem, params: {"own": params[0], "fits": params[1]}
  counting = plain.rows()._replace(
    fit=fit,
    evaluate=evaluate,
    metrics={"own": MetricInfo("own")},
    summary=None,
    sample=lambda key, problem, params, context: (store.batch(jnp.zeros(context.num)), {}),
  )
  for resample in ("none", "bootstrap"):
    task = transforms.ensemble(counting, 2, resample)
    out = generation.run(jax.random.key(0), task, workflows.replace(), 4, warm_start=True)
    np.testing.assert_array_equal(out["fits"], [1, 2, 3, 4])
    assert (out["member_spread"] > 0.01).all() and len(set(out["member_spread"].tolist())) == 1


def test_members_differ_by_their_spread():
  """Of two members that are standard normal the squared spread has mean 1: the deviation over few divides by one fewer."""
  task = cj.TaskSetting(
    init=lambda key: (None, store.batch(jnp.zeros(4))),
    fit=lambda key, problem, context: jax.random.normal(key),
    sample=lambda key, problem, params, context: (store.batch(jnp.zeros(context.num)), {}),
    evaluate=lambda key, problem, own: {"own": own},
    num_samples=4,
  )
  spread = run_many(transforms.ensemble(task, 2), workflows.replace(), 1, 4000)["member_spread"][:, 0]
  assert abs(z_score(spread**2, 1.0, 2.0)) < 5  # chi-square of one degree
  assert abs(z_score(spread**2, 0.5, 2.0)) > 5


@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_ridge_classifier_is_that_of_scikit_learn(ridge):
  """The penalty is relative to the number of rows."""
  task = tasks.classification(3, 40, classifier="ridge", ridge=ridge, separation=0.5, label_error=0.2)
  problem, real = task.init(jax.random.key(0))
  rows = jax.tree.map(lambda x: np.asarray(x[0], np.float64), real.rows)
  ours = task.fit(jax.random.key(1), problem, Context(1, 40, real, real))
  theirs = Ridge(alpha=40 * ridge, fit_intercept=False).fit(rows["x"], rows["label"]).coef_
  np.testing.assert_allclose(ours, theirs, rtol=2e-5)


def test_within():
  rows = jnp.asarray([[0.0, 0.0], [1.0, 1.0], [3.0, 0.0]])
  np.testing.assert_array_equal(verifiers.within(0.0, 1.5)(None, None, rows), [True, True, False])
  np.testing.assert_array_equal(verifiers.within([3.0, 0.0], 1.5)(None, None, rows), [False, False, True])
  np.testing.assert_array_equal(verifiers.within(1.0, 1.5)(None, None, rows[:, 0]), [True, True, False])


def test_contraction_of_a_verifier():
  assert theory.truncation_rate(1.0) == pytest.approx(0.291, abs=5e-4)
  near = theory.truncation_loop(0.31, 0.3, 1.0, 3) - 0.3
  np.testing.assert_allclose(near[1:] / near[:-1], theory.truncation_rate(1.0), rtol=1e-2)


def test_digits_by_class():
  """The reward of a classifier draws samples to its class, whose share is one of ten that sum to 1."""
  from collapse_jax.data import real_data

  x, label = real_data.digits(8)
  log_probability = rewards.classifier(x, label)
  assert np.mean(np.argmax(np.asarray(log_probability(jnp.asarray(x))), axis=1) == label) > 0.75
  task = tasks.gaussian_mixture((x[::2], x[1::2]), 200, 10, num_steps=10)
  task = transforms.class_shares(
    transforms.curate(task, 4, lambda rows: log_probability(rows)[:, 3]), log_probability, 10
  )
  out = run_many(task, workflows.replace(), 4, 4)
  np.testing.assert_allclose(out["class_share"].sum(axis=-1), 1, rtol=1e-5)
  assert out["class_share"][:, -1, 3].min() > 0.8
