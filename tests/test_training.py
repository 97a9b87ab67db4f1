"""The trainer against exact oracles: least squares, whose minibatch descent is full-batch descent in the mean, and Gaussian flows."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import collapse_jax as cj
from collapse_jax import store, training

NUM, DIM = 12, 2


@pytest.fixture(scope="module")
def data():
  """Rows with weights over two orders of magnitude; a third weighs nothing."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(NUM, DIM)).astype(np.float32)
  y = (x @ [1.0, -2.0] + rng.normal(size=NUM)).astype(np.float32)
  weight = np.where(np.arange(NUM) % 3 == 1, 0.0, np.exp(rng.uniform(-2, 2, NUM))).astype(np.float32)
  return {"x": jnp.asarray(x), "y": jnp.asarray(y)}, jnp.asarray(weight)


def loss(w, key, rows):
  return 0.5 * (rows["x"] @ w - rows["y"]) ** 2


def noisy_loss(w, key, rows):
  return loss(w + 0.1 * jax.random.normal(key, w.shape), key, rows)


def fit(data, num_steps, batch_size, key=0, optimiser=None, of=loss, state=None, **options):
  optimiser = optax.sgd(0.1) if optimiser is None else optimiser
  state = training.start(optimiser, jnp.zeros(DIM)) if state is None else state
  return training.fit(jax.random.key(key), of, state, *data, optimiser, num_steps, batch_size, **options)


def path(*args, **options):
  """Parameters after each step, [num_steps, DIM]."""
  return fit(*args, held_out=lambda w: w, curve_points=args[1], **options)


def normal_equations(data, weight):
  x, y, p = (np.asarray(a, np.float64) for a in (data[0]["x"], data[0]["y"], weight))
  p = p / p.sum()
  return np.einsum("i,ij,ik", p, x, x), np.einsum("i,ij,i", p, x, y)


def test_full_batches_reach_the_weighted_optimum(data):
  matrix, vector = normal_equations(data, data[1])
  found = fit(data, 1000, NUM)
  np.testing.assert_allclose(found.params, np.linalg.solve(matrix, vector), atol=1e-4)
  unweighted = np.linalg.solve(*normal_equations(data, np.ones(NUM)))
  assert np.abs(found.params - unweighted).max() > 0.05
  assert int(found.num_items) == 1000 * 8


def test_each_step_is_that_of_gradient_descent(data):
  """Losses of each part are those at the parameters that it began with, and the curve is taken after it."""
  matrix, vector = normal_equations(data, data[1])
  found = path(data, 5, NUM)
  w, p = np.zeros(DIM), np.asarray(data[1], np.float64) / float(data[1].sum())
  for i in range(5):
    residual = np.asarray(data[0]["x"], np.float64) @ w - np.asarray(data[0]["y"])
    np.testing.assert_allclose(found.train_losses[i], 0.5 * p @ residual**2, rtol=1e-5)
    w = w - 0.1 * (matrix @ w - vector)
    np.testing.assert_allclose(found.learning_curve[i], w, atol=1e-6)
  np.testing.assert_array_equal(found.params, found.learning_curve[-1])


def test_rows_drawn_by_weight_descend_in_the_mean(data):
  """A step is affine in the parameters and its rows independent of them: the mean over keys is full-batch descent, exactly."""
  steps, num_runs = 20, 2000
  run = jax.jit(
    jax.vmap(
      lambda key: (
        training.fit(
          key, loss, training.start(optax.sgd(0.1), jnp.zeros(DIM)), *data, optax.sgd(0.1), steps, 3, order="weight"
        ).params
      )
    )
  )
  found = np.asarray(run(jax.random.split(jax.random.key(1), num_runs)), np.float64)

  def z(weight):
    matrix, vector = normal_equations(data, weight)
    w = np.zeros(DIM)
    for _ in range(steps):
      w = w - 0.1 * (matrix @ w - vector)
    return np.abs(found.mean(axis=0) - w).max() / (found.std(axis=0, ddof=1).max() / np.sqrt(num_runs))

  assert z(data[1]) < 5
  assert z(data[1] > 0) > 5 and z(np.ones(NUM)) > 5  # weights forgotten; all rows drawn alike


@pytest.mark.parametrize("order", training.ORDERS)
def test_rows_of_weight_zero_may_hold_anything(data, order):
  poisoned = jax.tree.map(lambda x: jnp.where((data[1] > 0).reshape(-1, *[1] * (x.ndim - 1)), x, jnp.nan), data[0])
  found = fit((poisoned, data[1]), 10, 3, order=order)
  np.testing.assert_array_equal(found.params, fit(data, 10, 3, order=order).params)
  assert np.isfinite(found.params).all()


def test_an_epoch_sees_each_row_once(data):
  """Batches of 3 out of 8 rows in use: 3 + 3 + 2, in another order each epoch, and nothing of weight 0."""
  seen = []
  look = lambda w, key, rows: jax.debug.callback(lambda i: seen.append(np.array(i)), rows, ordered=True) or w * rows
  training.fit(
    jax.random.key(0),
    look,
    training.start(optax.sgd(0.0), jnp.zeros(())),
    jnp.arange(NUM, dtype=float),
    data[1],
    optax.sgd(0.0),
    6,
    3,
  )
  jax.effects_barrier()
  epochs = np.stack(seen).reshape(2, 9)[:, :8]  # what pads the last batch has weight 0 in it
  in_use = np.flatnonzero(data[1])
  assert (np.sort(epochs, axis=1) == in_use).all()
  assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize(
  "budget, amount, size, steps",
  [
    ("epochs", 2.0, None, 6),
    ("epochs", 0.5, None, 2),
    ("steps", 7, None, 7),
    ("rows", 16, None, 6),
    ("rows", 80, 10, 3),
  ],
)
def test_budgets(data, budget, amount, size, steps):
  size = None if size is None else jnp.full(NUM, size)
  found, epoch = training.num_steps(budget, amount, data[1] > 0, 3, size)
  assert (int(found), int(epoch)) == (steps, 3)
  if budget == "rows" and size is None:
    assert int(fit(data, found, 3).num_items) == amount


@pytest.mark.parametrize("amount", [10_000_000, 1e7])
def test_a_budget_of_many_rows(amount):
  """Whole numbers as floats, where what they are multiplied with is no int32 any more."""
  steps, epoch = training.num_steps("rows", amount, jnp.ones(4000, bool), 8, jnp.full(4000, 500))
  assert (int(steps), int(epoch)) == (2500, 500)


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_add_up(data, micro):
  """Also where the last batch of an epoch is not full and gradients are clipped, which is done once a step."""
  optimiser = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.1))
  whole = fit(data, 7, 6, optimiser=optimiser, ema=0.5)
  parts = fit(data, 7, 6, optimiser=optimiser, ema=0.5, micro_batch_size=micro)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts)):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert np.abs(fit(data, 7, micro, optimiser=optimiser, ema=0.5).params - whole.params).max() > 1e-3


def test_clip(data):
  """Where every gradient is long, each step is as long as the clip."""
  far = training.start(optax.sgd(1.0), jnp.full(DIM, 100.0))
  clipped = lambda norm: optax.chain(optax.clip_by_global_norm(norm), optax.sgd(1.0))
  start = far._replace(moments=clipped(0.25).init(far.params))
  found = path(data, 4, 3, optimiser=clipped(0.25), state=start).learning_curve
  lengths = np.linalg.norm(np.diff(np.concatenate([far.params[None], found]), axis=0), axis=1)
  np.testing.assert_allclose(lengths, 0.25, rtol=1e-3)


def test_moving_average(data):
  plain, averaged = path(data, 5, 3), path(data, 5, 3, ema=0.7)
  average = np.zeros(DIM)
  for i in range(5):
    average = 0.7 * average + 0.3 * np.asarray(plain.learning_curve[i], np.float64)
    np.testing.assert_allclose(averaged.learning_curve[i], average, atol=1e-6)
  np.testing.assert_array_equal(averaged.state.params, plain.params)
  np.testing.assert_array_equal(averaged.params, averaged.learning_curve[-1])


@pytest.mark.parametrize("order", training.ORDERS)
def test_resumed_is_uninterrupted(data, order):
  """With optimiser state, average and place in the order; each of these alone left out is another training."""
  run = jax.jit(
    functools.partial(fit, data, batch_size=3, optimiser=optax.adam(0.05), of=noisy_loss, order=order, ema=0.8)
  )
  whole, first = run(num_steps=9), run(num_steps=4)
  resumed = run(num_steps=5, state=first.state, done=4)
  for a, b in zip(jax.tree.leaves((whole.params, whole.state)), jax.tree.leaves((resumed.params, resumed.state))):
    np.testing.assert_array_equal(a, b)
  assert int(whole.num_items) == int(first.num_items) + int(resumed.num_items)
  cold = training.start(optax.adam(0.05), first.state.params)
  for state, done in ((cold, 4), (first.state, 0), (first.state._replace(average=None), 4)):
    assert np.abs(run(num_steps=5, state=state, done=done).params - whole.params).max() > 1e-4


def test_runs_of_different_length_side_by_side_in_one_trace(data):
  """Each as if alone, though rows, epochs and steps differ."""
  one = chex.assert_max_traces(
    lambda weight, num_steps: fit((data[0], weight), num_steps, 3, of=noisy_loss, ema=0.9, curve_points=2), n=1
  )
  run = jax.jit(one)
  weight = jnp.stack([data[1], data[1].at[:7].set(0.0), jnp.ones(NUM)])
  steps = jnp.asarray([3, 11, 6])
  alone = [run(weight[i], steps[i]) for i in range(3)]
  chex.clear_trace_counter()
  both = jax.jit(jax.vmap(one))(weight, steps)
  for i in range(3):
    for a, b in zip(jax.tree.leaves(alone[i]), jax.tree.leaves(jax.tree.map(lambda x: x[i], both))):  # noqa: B023
      np.testing.assert_allclose(a, b, atol=1e-6)
  assert np.abs(run(weight[0], steps[1]).params - alone[0].params).max() > 1e-3  # who waits must not move


@pytest.mark.parametrize(
  "wrong, argument",
  [
    (lambda data: training.num_steps("days", 1.0, data[1] > 0, 3), "budget"),
    (lambda data: fit(data, 1, 8, micro_batch_size=3), "micro_batch_size"),
    (lambda data: fit(data, 1, 8, order="sorted"), "order"),
  ],
)
def test_refused(data, wrong, argument):
  with pytest.raises(ValueError) as refused:
    wrong(data)
  assert refused.value.argument == argument and refused.value.allowed


# --------------------------------------------------------------------------------------------- flow matching on the trainer
MEAN, STD = np.array([0.5, -1.0]), np.array([0.6, 1.5])
POWERS = 8


def velocity(params, x, t):
  """A field that is linear in x and a polynomial in t, [n, 2]."""
  powers = t[:, None] ** jnp.arange(POWERS)[None]
  return powers @ params["shift"] + (powers @ params["slope"]) * x


def flow_loss(params, key, rows):
  """Conditional flow matching along straight lines from N(0, I) (Lipman et al. 2210.02747)."""
  t_key, noise_key = jax.random.split(key)
  t = jax.random.uniform(t_key, rows.shape[:1])
  noise = jax.random.normal(noise_key, rows.shape)
  x = (1 - t)[:, None] * noise + t[:, None] * rows
  return jnp.sum((velocity(params, x, t) - (rows - noise)) ** 2, axis=1)


def excess(params):
  """Of the loss over the least that any field has, relative to it; exact for rows from N(MEAN, STD^2)."""
  t = (jnp.arange(1000)[:, None] + 0.5) / 1000
  powers = t ** jnp.arange(POWERS)[None]
  mean, std = jnp.asarray(MEAN)[None], jnp.asarray(STD)[None]
  variance = (t * std) ** 2 + (1 - t) ** 2
  best = (t * std**2 - (1 - t)) / variance
  slope = powers @ params["slope"] - best
  shift = powers @ params["shift"] - (1 - best * t) * mean + slope * t * mean
  return jnp.sum(slope**2 * variance + shift**2) / jnp.sum(std**2 / variance)


def flow(num_samples):
  optimiser = optax.adam(0.03)
  steps, batch_size = 600, 256

  def fit(key, problem, context):
    rows, row_weight = store.flat(context.data)
    zero = {"shift": jnp.zeros((POWERS, 2)), "slope": jnp.zeros((POWERS, 2))}
    begun = training.start(optimiser, zero) if context.previous is None else context.previous.state
    return training.fit(key, flow_loss, begun, rows, row_weight, optimiser, steps, batch_size, order="weight", ema=0.99)

  def sample(key, problem, fitted, context):
    x = jax.random.normal(key, (context.num, 2))
    step = lambda i, x: x + velocity(fitted.params, x, jnp.full(context.num, (i + 0.5) / 50)) / 50
    return store.batch(jax.lax.fori_loop(0, 50, step, x)), {}

  def init(key):
    return None, store.batch(
      jnp.asarray(MEAN)[None] + jnp.asarray(STD)[None] * jax.random.normal(key, (num_samples, 2))
    )

  evaluate = lambda key, problem, fitted: {"excess": excess(fitted.params)}
  return cj.TaskSetting(init, fit, sample, evaluate, num_samples)


def test_flow_matching_by_importance_weights():
  """Rows from a wider law, weighted as the truth has them: the flow is that of the truth. Twin: weights forgotten."""
  num = 20_000
  z = 2 * np.random.default_rng(0).normal(size=(num, 2))
  weight = np.exp(-0.5 * (z**2).sum(axis=1) * (1 - 1 / 4))
  rows = jnp.asarray(MEAN + STD * z, jnp.float32)
  task = flow(num)
  data = lambda weight: store.batch(rows, weight)
  fit = jax.jit(lambda weight: task.fit(jax.random.key(0), None, cj.types.Context(1, num, data(weight), None)).params)
  assert excess(fit(jnp.asarray(weight, jnp.float32))) < 0.02
  assert excess(fit(jnp.ones(num))) > 0.2


def test_flow_matching_in_the_loop():
  """A generation later the flow is that of what the first one wrote, trained on from its weights and optimiser state."""
  found = cj.run(jax.random.key(0), flow(5000), cj.workflows.replace(), 2, warm_start=True)
  first, second = found["excess"].tolist()
  assert first < 0.02 and second < 0.7 * first


def test_turns(data):
  """Each part lowers its own loss with what the others are by then: with full steps, Gauss and Seidel's iteration."""
  losses = {
    "second": lambda p, key, rows: 0.5 * (p["second"] - p["first"]) ** 2 + 0.0 * rows["y"],
    "first": lambda p, key, rows: 0.5 * (p["first"] - 1.0 - 0.5 * p["second"]) ** 2 + 0.0 * rows["y"],
  }
  optimiser = optax.sgd(1.0)
  state = training.start(optimiser, {"first": jnp.zeros(()), "second": jnp.zeros(())}, turns=True)
  found = fit(data, 3, NUM, optimiser=optimiser, of=losses, state=state)
  assert float(found.params["first"]) == pytest.approx(1.75)  # at once it would be 1.5
  assert float(found.params["second"]) == pytest.approx(1.5)
  assert float(found.train_losses[0]) == pytest.approx(np.mean([0.5, 0.125, 0.03125]), rel=1e-5)  # of the last in turn
