"""n-grams against counting, and token editing on them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import z_score

from collapse_jax import generation, store, tasks, theory, transforms, workflows
from collapse_jax.tasks._ngram import conditional_frequencies
from collapse_jax.types import Context
from collapse_jax.vocabulary import EDIT_BASES, EDIT_MASKS

V = 5


def context_of(real, data=None):
  data = real if data is None else data
  return Context(1, real.rows["tokens"].shape[1], data, real, None, store.latest(data))


def counted(tokens, order):
  """[V^(order-1), V] by a plain loop."""
  counts = np.zeros((V ** (order - 1), V))
  for row in tokens:
    for i in range(order - 1, len(row)):
      counts[sum(row[i - j - 1] * V**j for j in range(order - 1)), row[i]] += 1
  return counts


@pytest.mark.parametrize("order", [1, 2, 3])
def test_fit_counts(order):
  task = tasks.ngram(40, V, order=order, length=12, concentration=1.0, smoothing=0.5)
  problem, real = task.init(jax.random.key(order))
  context = context_of(real, task_data(task, problem, real))
  params = task.fit(jax.random.key(1), problem, context)
  tokens = np.asarray(real.rows["tokens"][0])
  expected = counted(tokens, order) + 0.5
  np.testing.assert_allclose(params.next, expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)
  # Each position's law given what precedes it.
  law = np.asarray(jax.nn.softmax(task.next_token(problem, params, jnp.asarray(tokens)), axis=-1))
  for i in range(order - 1, 12):
    before = sum(tokens[:, i - j - 1] * V**j for j in range(order - 1)) if order > 1 else np.zeros(40, int)
    np.testing.assert_allclose(law[:, i], np.asarray(params.next)[before], rtol=1e-4)


def task_data(task, problem, real):
  """The real batch with its statistics, as workflows hand it over."""
  return workflows.replace().select(
    task, problem, jax.random.key(0), workflows.replace().init(task, problem, real, 2), 1
  )


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_table(temperature):
  task = tasks.ngram(20_000, V, length=4, concentration=1.0, temperature=temperature)
  problem, real = task.init(jax.random.key(0))
  rows = task.sample(jax.random.key(1), problem, problem, context_of(real))[0].rows["tokens"][0]
  law = np.asarray(problem.next, np.float64) ** (1 / temperature)
  law /= law.sum(axis=1, keepdims=True)
  z = []
  for a in range(V):
    after = np.asarray(rows[:, 2])[np.asarray(rows[:, 1]) == a]
    for b in range(V):
      z.append((np.sum(after == b) - len(after) * law[a, b]) / np.sqrt(len(after) * law[a, b] * (1 - law[a, b])))
  assert np.abs(z).max() < 4.5


@pytest.mark.parametrize("temperature", [1e-6, 0.02, 1.0, 1e6])
def test_impossible_tokens_at_any_temperature(temperature):
  """A truth with zeros: no such token is ever emitted, and metrics of the truth are finite; nothing kept is no model."""
  truth = np.full((V, V), 1 / (V - 1)) * (1 - np.eye(V))
  task = tasks.ngram(500, length=8, truth=truth, temperature=temperature)
  problem, real = task.init(jax.random.key(0))
  emitted = task.sample(jax.random.key(1), problem, problem, context_of(real))[0]
  for data in (real, emitted):
    tokens = np.asarray(data.rows["tokens"][0])
    assert (tokens[:, 1:] != tokens[:, :-1]).all() and len(np.unique(tokens)) == V
  np.testing.assert_allclose(task.evaluate(None, problem, problem)["entropy"], np.log(V - 1), rtol=1e-5)
  nothing = real._replace(summary=task.summary.of(problem, {"tokens": real.rows["tokens"][0]}, jnp.zeros(500)))
  assert np.isnan(task.evaluate(None, problem, task.fit(None, problem, context_of(real, nothing)))["test_nll"])


def test_truth_of_a_text():
  table = conditional_frequencies("abab" * 50 + "aa")
  assert table.shape == (2, 2) and table[1, 0] > 0.95 and table[0, 1] > 0.95
  with pytest.raises(ValueError):
    conditional_frequencies("a")


def test_entropy_of_the_truth():
  task = tasks.ngram(10, V, concentration=1.0)
  problem, _ = task.init(jax.random.key(0))
  found = task.evaluate(None, problem, problem)
  expected = -(problem.first[:, None] * problem.next * jnp.log(problem.next)).sum()
  np.testing.assert_allclose(found["test_nll"], expected, rtol=1e-4)
  np.testing.assert_allclose(found["total_variation"], 0, atol=1e-6)


def edited(threshold=0.3, seed=0, **options):
  """Real tokens, the model's probability of each, and the tokens after one edit by the true model."""
  task = transforms.edit_tokens(tasks.ngram(200, V, length=10, concentration=0.3), threshold, 3, **options)
  problem, real = task.init(jax.random.key(seed))
  data, metrics = task.sample(jax.random.key(7), problem, problem, context_of(real))
  before, after = np.asarray(real.rows["tokens"][0]), np.asarray(data.rows["tokens"][0])
  chance = np.zeros(before.shape)
  chance[:, 1:] = np.asarray(problem.next)[before[:, :-1], before[:, 1:]]
  return before, chance, after, metrics, np.asarray(problem.next)


def test_only_likely_tokens_are_edited():
  before, chance, after, metrics, table = edited()
  changed = before != after
  assert changed.any() and not changed[:, 0].any() and not changed[chance < 0.3].any()
  np.testing.assert_allclose(metrics["eligible_share"], np.mean(chance[:, 1:] >= 0.3), rtol=1e-5)
  np.testing.assert_allclose(metrics["changed_share"], changed[:, 1:].mean(), rtol=1e-5)
  # What is drawn is among the three likeliest there, in proportion to their probabilities.
  top = np.sort(table, axis=1)[:, -3]
  assert (table[before[:, :-1], after[:, 1:]] >= np.where(changed[:, 1:], top[before[:, :-1]], 0)).all()
  likely = chance[:, 1:] >= 0.3
  kept_mass = np.where(table >= top[:, None], table, 0)
  stay = chance[:, 1:] / kept_mass.sum(axis=1)[before[:, :-1]]
  stayed = ~changed[:, 1:][likely]
  assert abs((stayed.sum() - stay[likely].sum()) / np.sqrt((stay * (1 - stay))[likely].sum())) < 4


def test_fixed_tokens_and_blocks():
  before, _, after, _, _ = edited(fixed_tokens=(0, 3))
  assert (before == after)[np.isin(before, (0, 3))].all() and (before != after).any()
  for size in (1, 7, 200):
    np.testing.assert_array_equal(edited(block_rows=size)[2], edited()[2])


@pytest.mark.parametrize("mask", ["fixed", "disjoint"])
def test_masks_over_generations(mask):
  task = transforms.edit_tokens(tasks.ngram(50, V, length=10, concentration=0.3), 0.3, V, 3.0, base="chain", mask=mask)
  workflow = workflows.replace()
  run = generation.start(jax.random.key(0), task, workflow, 4)
  seen = [jax.tree.map(lambda x: np.asarray(x[0]), run.real.rows)]
  for t in range(1, 5):
    run, _ = generation.advance(run=run, task=task, workflow=workflow, generations=[t], num_generations=4)
    rows = workflow.select(task, run.problem, jax.random.key(0), run.store, t + 1).rows
    seen.append(jax.tree.map(lambda x: np.asarray(x[0]), rows))
  changed = [a["tokens"] != b["tokens"] for a, b in itertools.pairwise(seen)]
  assert changed[0].any() and sum(c.sum() for c in changed[1:]) > 0
  if mask == "fixed":
    for later, rows in zip(changed, seen[1:]):
      np.testing.assert_array_equal(rows["edited"], seen[1]["edited"])
      assert not later[~seen[1]["edited"]].any()
  else:
    assert (np.sum(changed, axis=0) <= 1).all()
    for earlier, later in zip(seen[1:], changed[1:]):
      assert not later[earlier["edited"]].any()


def test_label_masks_have_their_share():
  """A disjoint mask takes a tenth a generation, until all labels are taken; a fresh one is binomial."""

  def simulate(mask):
    task = transforms.edit_labels(tasks.linear_regression(2, 100, draws="rows"), 0.25, base="chain", mask=mask)
    run = jax.jit(jax.vmap(lambda key: generation.run(key, task, workflows.replace(), 6)))
    return np.asarray(run(jax.random.split(jax.random.key(0), 200))["edited_share"])

  shares = {mask: simulate(mask) for mask in ("fresh", "disjoint")}
  np.testing.assert_allclose(shares["disjoint"], np.tile([0.25] * 4 + [0] * 2, (200, 1)), atol=1e-6)
  assert np.abs(z_score(shares["fresh"], 0.25, 0.25 * 0.75 / 100)).max() < 4.5


@pytest.mark.parametrize("noise", ["additive", "regenerated"])
def test_laws_of_edited_labels(noise):
  """Every base and mask against a plain loop whose model is the mean of the labels; no law is that of another."""
  m, T, n, num_runs = 0.25, 6, 100, 12_000
  rng = np.random.default_rng(0)
  real, fixed = rng.standard_normal((num_runs, n)), rng.random((num_runs, n)) < m
  laws, found = {}, {}
  for base, mask in itertools.product(EDIT_BASES, EDIT_MASKS):
    labels, errors = real, []
    for t in range(T):
      mean = labels.mean(axis=1, keepdims=True)
      errors.append(n * mean[:, 0] ** 2)
      chosen = {
        "fresh": rng.random((num_runs, n)) < m,
        "fixed": fixed,
        "disjoint": np.arange(n)[None] // (n // 4) == t,
      }[mask]
      old = real if base == "anchor" else labels
      labels = np.where(chosen, (old if noise == "additive" else mean) + rng.standard_normal((num_runs, n)), old)
    laws[base, mask] = theory.edited_regression(m, T, base=base, mask=mask, noise=noise)
    found[base, mask] = np.transpose(errors)
  for case, errors in found.items():
    assert np.abs(z_score(errors, laws[case])).max() < 4.5, case
    for other, law in laws.items():
      if np.abs(law / laws[case] - 1).max() > 0.15:
        assert np.abs(z_score(errors, law)).max() > 5, (case, other)


def test_whole_batches_are_edited():
  """Of a chain the last one, also where single rows of all are fitted to."""
  task = transforms.edit_tokens(tasks.ngram(20, V, length=6), 0.0, 2, beta=50.0, base="chain")
  found = generation.run(jax.random.key(0), task, workflows.accumulate_subsample(), 3)
  assert found["finite"].all() and (found["changed_share"] > 0).all()
  with pytest.raises(ValueError, match="editing emits as many rows"):
    generation.run(jax.random.key(0), task, workflows.replace(num_emitted=10), 3)
