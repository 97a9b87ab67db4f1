"""Training against a plain optax loop; its bookkeeping by exact counts. The model is a table of bigram logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from collapse_jax.lm import training
from collapse_jax.lm.training import Recipe

VOCAB, LENGTH = 11, 6


def logits(table, tokens):
  return table[tokens]


def rows(num, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(0, VOCAB, (num, LENGTH)), jnp.int32), jnp.asarray(
    rng.integers(2, LENGTH + 1, num), jnp.int32
  )


def table(seed=0):
  return jax.random.normal(jax.random.key(seed), (VOCAB, VOCAB))


def fitted(recipe, num=10, weight=None, seed=0, points=1, start=None):
  tokens, length = rows(num)
  weight = jnp.ones(num) if weight is None else weight
  nothing = lambda weights: jnp.zeros(())
  return training.fit(
    jax.random.key(seed), logits, recipe, table() if start is None else start, tokens, length, weight, nothing, points
  )


def test_loss_by_hand():
  tokens, length = rows(4)
  loss, counts = training.token_losses(logits, table(), tokens, length)
  probability = np.asarray(jax.nn.softmax(table(), axis=-1), np.float64)
  total = num = 0
  for row, size in zip(np.asarray(tokens), np.asarray(length)):
    for i in range(1, size):
      total -= np.log(probability[row[i - 1], row[i]])
      num += 1
  assert int(counts.sum()) == num
  np.testing.assert_allclose(jnp.sum(jnp.where(counts, loss, 0)), total, rtol=1e-5)
  for size in (1, 3, 4, 9):  # padding of the last batch counts nothing
    np.testing.assert_allclose(training.mean_loss(logits, table(), tokens, length, size), total / num, rtol=1e-5)


SPLIT = training.Scores(
  lambda params, tokens: params["embedding"][tokens], lambda params: params["out"], lambda out, hidden: hidden @ out
)


def split_params(seed=0):
  draw = lambda i, *shape: jax.random.normal(jax.random.key(10 * seed + i), shape)
  return {"embedding": draw(1, VOCAB, 3), "out": draw(2, 3, VOCAB)}


@pytest.mark.parametrize("most, calls", [(10**6, 1), (VOCAB * 4 * 4, 2), (1, LENGTH)])
def test_losses_in_parts(monkeypatch, most, calls):
  """Values and gradients are those of all logits at once, for parts that do and do not divide the length."""
  tokens, length = rows(4)
  params = split_params()
  value_and_grad = lambda logits: jax.value_and_grad(
    lambda params: training.mean_loss(logits, params, tokens, length, 4)
  )
  expected = value_and_grad(lambda *given: SPLIT(*given))(params)
  monkeypatch.setattr(training, "MOST", most)
  sizes = []
  head = lambda out, hidden: sizes.append(hidden.shape) or SPLIT.head(out, hidden)
  found = value_and_grad(dataclasses.replace(SPLIT, head=head))(params)
  assert min(shape[1] for shape in sizes) == -(-LENGTH // calls)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, atol=1e-6)
  assert float(jnp.abs(expected[1]["out"]).max()) > 0.01


def test_parts_below_adapters(monkeypatch):
  """Runs side by side over an output layer that is not trained: it has no gradient, for one of each run would take its memory."""
  monkeypatch.setattr(training, "MOST", 1)
  tokens, length = rows(4)
  embeddings = jnp.stack([split_params(seed)["embedding"] for seed in (0, 1)])
  out = split_params()["out"]

  def gradients(logits):
    loss = lambda embedding: training.mean_loss(logits, {"embedding": embedding, "out": out}, tokens, length, 4)
    return jax.vmap(jax.grad(loss))

  np.testing.assert_allclose(
    gradients(SPLIT)(embeddings), gradients(lambda *given: SPLIT(*given))(embeddings), atol=1e-6
  )
  slopes = jax.make_jaxpr(gradients(SPLIT))(embeddings)
  assert f"f32[2,3,{VOCAB}]" not in str(slopes) and f"f32[3,{VOCAB}]" in str(slopes)


def test_memory_of_a_large_vocabulary():
  """As compiled, training needs less than a third of what all logits of a batch take."""
  vocab, size = 256_000, 256
  shape = jax.ShapeDtypeStruct
  params = {"embedding": shape((vocab, 4), jnp.float32), "out": shape((4, vocab), jnp.float32)}
  rows = shape((8, size), jnp.int32), shape((8,), jnp.int32), shape((8,), jnp.float32)

  def memory(logits):
    run = lambda params, *rows: training.fit(
      jax.random.key(0),
      logits,
      Recipe(budget="steps", amount=2, batch_size=8),
      params,
      *rows,
      lambda w: jnp.zeros(()),
      1,
    )
    return jax.jit(run).lower(params, *rows).compile().memory_analysis().temp_size_in_bytes

  found = memory(SPLIT), memory(lambda *given: SPLIT(*given))
  assert found[0] < found[1] / 3 and found[1] > 8 * size * vocab * 4, found


@pytest.mark.parametrize("micro", [None, 3])
def test_as_a_plain_loop(micro):
  """AdamW, clipping, warm-up and the mean over tokens, with all rows in each step."""
  num, steps = 12, 7
  recipe = Recipe(0.3, "steps", steps, 12, micro, warmup_share=0.5, clip_norm=0.2, weight_decay=0.1)
  found = jax.jit(lambda: fitted(recipe, num))()
  tokens, length = rows(num)
  schedule = lambda i: 0.3 * jnp.minimum((i + 1) / 3.5, 1.0)
  optimiser = optax.chain(optax.clip_by_global_norm(0.2), optax.adamw(schedule, weight_decay=0.1))
  weights, state = table(), optimiser.init(table())
  for _ in range(steps):
    gradient = jax.grad(lambda w: training.mean_loss(logits, w, tokens, length, num))(weights)
    updates, state = optimiser.update(gradient, state, weights)
    weights = optax.apply_updates(weights, updates)
  np.testing.assert_allclose(found.weights, weights, atol=2e-5)
  assert int(found.num_steps) == steps and int(found.num_tokens) == steps * int(jnp.sum(length - 1))


@pytest.mark.parametrize(
  "budget, amount, steps, epoch",
  [("epochs", 1.0, 3, 3), ("epochs", 2.5, 8, 3), ("epochs", 0.1, 1, 3), ("steps", 5, 5, 3), ("tokens", 1e4, None, 3)],
)
def test_budget(budget, amount, steps, epoch):
  _, length = rows(10)
  found = training.num_steps(Recipe(budget=budget, amount=amount, batch_size=4), jnp.ones(10, bool), length)
  expected = np.ceil(amount * epoch / int(jnp.sum(length - 1))) if steps is None else steps
  assert int(found) == expected


def test_an_epoch_sees_every_row_once():
  """Row i holds token i only, so that its own row of the table moves when, and only when, it is trained on."""
  num = 10
  tokens = jnp.broadcast_to(jnp.arange(num)[:, None], (num, LENGTH))
  flat = jnp.zeros((VOCAB, VOCAB))
  run = lambda recipe, key: training.fit(
    jax.random.key(key),
    logits,
    recipe,
    flat,
    tokens,
    jnp.full(num, LENGTH),
    (jnp.arange(num) < 9).astype(float),
    lambda w: jnp.zeros(()),
    1,
  )
  moved = lambda fit: np.flatnonzero(np.abs(np.asarray(fit.weights)).sum(axis=1))
  whole = run(Recipe(0.1, "epochs", 1.0, 2), 0)
  np.testing.assert_array_equal(moved(whole), np.arange(9))  # the row of weight 0 is not used
  assert int(whole.num_tokens) == 9 * (LENGTH - 1) and int(whole.num_steps) == 5
  parts = [tuple(moved(run(Recipe(0.1, "steps", 2, 2), key))) for key in range(8)]
  assert all(len(part) == 4 for part in parts) and len(set(parts)) > 1


def test_weight_counts_like_repetition():
  """A row of weight 2 weighs what two rows do, up to the divisor, to which AdamW without clipping is blind."""
  tokens, length = rows(4)
  recipe = Recipe(0.1, "steps", 3, 8, clip_norm=1e9)
  nothing = lambda weights: jnp.zeros(())
  twice = jnp.asarray([2.0, 1.0, 1.0, 1.0])
  found = training.fit(jax.random.key(0), logits, recipe, table(), tokens, length, twice, nothing, 1)
  again = jnp.asarray([0, 0, 1, 2, 3])
  expected = training.fit(
    jax.random.key(0), logits, recipe, table(), tokens[again], length[again], jnp.ones(5), nothing, 1
  )
  np.testing.assert_allclose(found.weights, expected.weights, atol=1e-5)


def test_a_weight_of_all_rows_changes_nothing():
  """The loss is a mean: weights of a half leave it, its gradient and what clipping means as they are. Twin: a sum over tokens."""
  recipe = Recipe(0.1, "steps", 3, 8, clip_norm=0.05)
  whole = fitted(recipe)
  tokens, length = rows(10)
  for weight in (0.5, 0.1, 3.0):
    found = fitted(recipe, weight=jnp.full(10, weight))
    np.testing.assert_allclose(found.weights, whole.weights, atol=1e-6)
    np.testing.assert_allclose(found.train_loss, whole.train_loss, rtol=1e-6)
    assert int(found.num_tokens) == int(whole.num_tokens)
  still = fitted(Recipe(1e-9, "steps", 1, 10, micro_batch_size=5), weight=0.1 * jnp.arange(1.0, 11.0), points=4)
  loss, counts = training.token_losses(logits, table(), tokens, length)
  mass = np.arange(1.0, 11.0)[:, None] * np.asarray(counts)
  np.testing.assert_allclose(still.train_loss, np.sum(mass * loss) / np.sum(mass), rtol=1e-5)


def test_norms_and_biases_do_not_decay():
  """A loss without a gradient: what shrinks is what decays. A layer's parameters are stacked."""
  ones = {
    "layers": {"norm": {"scale": jnp.ones((3, 5))}, "out": {"kernel": jnp.ones((3, 5, 5)), "bias": jnp.ones((3, 5))}},
    "embedding": jnp.ones((VOCAB, 5)),
    "final_norm": {"scale": jnp.ones(5)},
  }
  tokens, length = rows(4)
  flat = lambda weights, tokens: jnp.zeros((*tokens.shape, VOCAB)) + 0 * sum(map(jnp.sum, jax.tree.leaves(weights)))
  found = training.fit(
    jax.random.key(0),
    flat,
    Recipe(0.5, "steps", 1, 4, warmup_share=0.0, weight_decay=0.1),
    ones,
    tokens,
    length,
    jnp.ones(4),
    lambda weights: jnp.zeros(()),
    1,
  ).weights
  np.testing.assert_allclose(found["embedding"], 0.95, rtol=1e-6)
  np.testing.assert_allclose(found["layers"]["out"]["kernel"], 0.95, rtol=1e-6)
  for kept in (found["layers"]["norm"]["scale"], found["layers"]["out"]["bias"], found["final_norm"]["scale"]):
    np.testing.assert_array_equal(kept, 1.0)


def test_runs_of_different_length_side_by_side():
  """Under vmap all runs take as many steps as the longest; the others must not move any more."""
  recipe = Recipe(0.1, "epochs", 1.0, 2)
  weight = jnp.asarray([[1.0] * 10, [1.0] * 3 + [0.0] * 7])
  both = jax.jit(jax.vmap(lambda w: fitted(recipe, weight=w, points=2)))(weight)
  assert both.num_steps.tolist() == [5, 2]
  for i in range(2):
    alone = fitted(recipe, weight=weight[i], points=2)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(jax.tree.map(lambda x: x[i], both))):  # noqa: B023
      np.testing.assert_allclose(a, b, atol=1e-6)


def test_learning_curve():
  """The loss after each part of the budget is that of a fit which stops there."""
  tokens, length = rows(10, seed=1)
  held_out = lambda weights: training.mean_loss(logits, weights, tokens, length, 4)
  recipe = Recipe(0.1, "steps", 8, 2, warmup_share=0.0)
  data = (*rows(10), jnp.ones(10))
  whole = training.fit(jax.random.key(0), logits, recipe, table(), *data, held_out, 4)
  for i, steps in enumerate((2, 4, 6, 8)):
    part = training.fit(jax.random.key(0), logits, recipe._replace(amount=steps), table(), *data, held_out, 1)
    np.testing.assert_allclose(whole.learning_curve[i], part.learning_curve[0], rtol=1e-5)


def test_bfloat16_keeps_float32_weights_while_training():
  """Updates far below the resolution of bfloat16 still add up."""
  tokens, length = rows(10)
  start = jnp.full((VOCAB, VOCAB), 1.0)
  recipe = Recipe(1e-4, "steps", 200, 10)
  fit = training.fit(
    jax.random.key(0), logits, recipe, start, tokens, length, jnp.ones(10), lambda w: jnp.zeros(()), 1, jnp.bfloat16
  )
  assert fit.weights.dtype == jnp.bfloat16
  moved = np.abs(np.asarray(fit.weights, np.float32) - 1.0)
  assert moved.max() > 0.01


@pytest.mark.parametrize(
  "wrong, match",
  [({"budget": "days"}, "budget"), ({"amount": 0.0}, "amount"), ({"micro_batch_size": 3, "batch_size": 8}, "multiple")],
)
def test_refused(wrong, match):
  with pytest.raises(ValueError, match=match):
    training.check(Recipe(**wrong))
