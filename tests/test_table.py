"""Tables in a loop: frequencies drift as they must, columns depend on each other as in the truth, ensembles, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from helpers import z_score

import collapse_jax as cj
from collapse_jax import transforms
from collapse_jax.data import tables
from collapse_jax.refused import Refused
from collapse_jax.tasks import _table
from collapse_jax.tasks import _table_networks as kinds
from collapse_jax.types import Context


def simulated(task, workflow, num_generations, num_seeds):
  workflow = cj.workflows.parse(workflow)() if isinstance(workflow, str) else workflow
  run = jax.jit(jax.vmap(lambda key: cj.run(key, task, workflow, num_generations)))
  return jax.device_get(run(jax.random.split(jax.random.key(0), num_seeds)))


@pytest.mark.parametrize("workflow", ["replace", "accumulate"])
def test_frequencies_drift(workflow):
  """Shares of categories in a copula drift without selection, with other columns and under any schedule; that of missing cells too."""
  num = 10
  task = cj.tasks.table("mixed", num, label="label", num_test=20)
  found = simulated(task, workflow, 5, 1500)
  right, wrong = (task.predict(cj.workflows.parse(workflow)().schedule(n, 5)) for n in (num, num - 3))
  assert set(right) == {"category_diversity", "minority_share", "missing_share"}
  for name, law in right.items():
    assert np.abs(z_score(found[name], law.mean)).max() < 5
  diversity = found["category_diversity"]
  assert np.abs(z_score(diversity, wrong["category_diversity"].mean)).max() > 5
  for name in ("minority_share", "missing_share"):
    squares = (found[name] - right[name].mean) ** 2
    assert np.abs(z_score(squares, right[name].variance)).max() < 5
    assert np.abs(z_score(squares, wrong[name].variance)).max() > 5
    assert np.abs(z_score(found[name], 1.5 * right[name].mean)).max() > 5


def compiled_copula(layout):
  """(rows, weight) -> fitted; (key, fitted, num) -> rows."""
  fit, draw = _table._copula(layout)
  return jax.jit(lambda rows, weight: fit(None, rows, weight, None)), jax.jit(draw, static_argnums=2)


def test_copula():
  """Numbers keep their law and their dependence on categories; what died out does not come back; weights count as copies do."""
  source = tables.get("mixed")
  rows = jnp.asarray(source.rows)
  layout = source.layout
  fit, draw = compiled_copula(layout)
  fitted = fit(rows, jnp.ones(len(rows)))
  drawn = np.asarray(draw(jax.random.key(0), fitted, 20_000))
  np.testing.assert_allclose(np.sort(drawn[:, 0])[::500], np.sort(source.rows[:, 0])[::500], atol=0.12)
  shares = source.rows[:, layout.num_continuous :].mean(axis=0)
  z = (drawn[:, layout.num_continuous :].mean(axis=0) - shares) / np.sqrt(shares * (1 - shares) / 20_000)
  assert np.abs(z).max() < 5
  kind = layout.slices[layout.blocks.index("kind")]
  means = [rows_[rows_[:, kind.start] == 1, 0].mean() for rows_ in (source.rows, drawn)]
  assert means[0] < -0.3 and abs(means[1] - means[0]) < 0.15  # twin: 0, of columns that do not depend on each other
  age, mark = layout.continuous.index("age"), layout.marks["age"]
  np.testing.assert_array_equal(drawn[:, age] == 0, drawn[:, mark] == 1)  # no atom at the mean, and no number in a hole
  spread = [one[one[:, mark] == 0, age].std() for one in (source.rows, drawn)]
  assert abs(spread[1] / spread[0] - 1) < 0.03 < abs(drawn[:, age].std() / spread[0] - 1)
  rare = np.asarray(rows)[:, kind.stop - 1]
  without = fit(rows, jnp.asarray(1.0 - rare))
  assert not np.asarray(draw(jax.random.key(1), without, 20_000))[:, kind.stop - 1].any()
  few, weight = rows[:6], jnp.array([2.0, 1, 0, 1, 1, 1])
  copies = few[jnp.array([0, 0, 1, 3, 4, 5])]
  weighed, copied = fit(few, weight), fit(copies, jnp.ones(6))
  np.testing.assert_allclose(weighed.shares, copied.shares, atol=1e-6)


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_correlations_of_a_copula(rho):
  """Normal columns keep their correlation, and a category its with them: by that of a threshold (Pearson 1909)."""
  random = np.random.default_rng(0)
  x, y, w = random.multivariate_normal([0, 0, 0], [[1, rho, rho], [rho, 1, 0.3], [rho, 0.3, 1]], 10_000).T
  source = tables.get(pandas.DataFrame({"x": x, "y": y, "above": w > 0.5}))
  fit, draw = compiled_copula(source.layout)
  fitted = fit(jnp.asarray(source.rows), jnp.ones(10_000))
  drawn = np.asarray(draw(jax.random.key(0), fitted, 40_000), np.float64)
  assert abs(np.arctanh(np.corrcoef(drawn[:, :2].T)[0, 1]) - np.arctanh(np.corrcoef(x, y)[0, 1])) < 5 / np.sqrt(40_000)
  real, found = (np.corrcoef(one[:, 0], one[:, 3])[0, 1] for one in (source.rows, drawn))
  # A score of two values is not normal: the dependence fades by the correlation of the two, and has its sign.
  assert abs(found) < 0.03 if rho == 0 else 0.5 * real < found < real + 0.03


def test_encoding():
  """What networks see of rows leads back to them; what is missing has no place."""
  source = tables.get("mixed")
  rows = jnp.asarray(source.rows[:300])
  numbers = source.layout.num_continuous

  @jax.jit
  def there_and_back(rows):
    modes = kinds._fit_modes(jax.random.key(0), source.layout, rows, jnp.ones(300))
    encoded = kinds.encode(source.layout, modes, rows)
    return kinds.decode(source.layout, modes, encoded[:, :numbers], encoded[:, numbers:])

  np.testing.assert_allclose(there_and_back(rows), rows, atol=1e-4)


@pytest.fixture(scope="module")
def mixed():
  """Real rows of "mixed" and their problem, which are the same whatever the model."""
  return jax.jit(cj.tasks.table("mixed", 1000, num_test=1000).init)(jax.random.key(0))


def fitted(model, mixed, rate, of):
  """(key, steps of training) -> (the task, its problem, a model of one real batch) -> what is looked at, compiled once."""
  problem, real = mixed

  @jax.jit
  def look(key, amount):
    task = cj.tasks.table(
      "mixed", 1000, model, amount=amount, hidden=(48,), latent_dim=4, num_test=1000, learning_rate=rate
    )
    return of(task, problem, task.fit(key, problem, Context(1, 1000, real, real)))

  return look


DISTANCES = ("category_distance", "number_distance", "correlation_error")


@pytest.mark.parametrize("model", ["tvae", "diffusion"])
def test_networks(model, mixed):
  """Trained ones are near the truth, by every metric nearer than after one step."""
  look = fitted(model, mixed, 3e-3, lambda task, problem, params: task.evaluate(jax.random.key(3), problem, params))
  found, untrained = (look(jax.random.key(2), amount) for amount in (500.0, 1.0))
  for name, most in zip(DISTANCES, (0.15, 0.25, 0.15)):
    assert found[name] < most and found[name] < untrained[name], (name, found[name], untrained[name])


def test_what_training_asks_for():
  """Columns alike, categories by the logarithm of how often they are there, rows of one category by their weights."""
  source = tables.get("mixed")
  layout, rows = source.layout, source.rows[:800]
  weight = np.random.default_rng(0).integers(0, 3, len(rows)).astype(np.float32)
  each = jax.jit(lambda *given: kinds.asking(layout, *given))(rows[:, layout.num_continuous :], weight)
  for block, asked in zip(layout.slices, np.asarray(each).T):
    there = rows[:, block]
    share, often = (count / count.sum() for count in (weight @ there, np.log1p(weight @ there)))
    np.testing.assert_allclose(asked @ there, often, atol=1e-5)
    assert np.abs(often - share).max() > 0.05  # twin: categories by how often they are there
    for one, total in zip(there.T, often):
      np.testing.assert_allclose(asked * one, total * one * weight / (one @ weight), atol=1e-7)


def test_an_adversary(mixed):
  """Over keys: what is asked for is there, and trained ones are nearer the truth than after one step, by far."""
  layout = tables.get("mixed").layout
  numbers, num_categories, real = layout.num_continuous, sum(layout.sizes), mixed[1]

  def seen(task, problem, params):
    """Metrics, shares by which rows are asked for, and [asked for, there] shares where all ask for one category."""

    def asked(one):
      only = params._replace(rest=params.rest._replace(shares=one))
      rows = task.sample(jax.random.key(3), problem, only, Context(1, 200, real, real))[0].rows
      is_one = jnp.mean(rows["label"])
      return jnp.concatenate([jnp.mean(rows["x"][0, :, numbers:], axis=0), jnp.stack([1 - is_one, is_one])])

    found = task.evaluate(jax.random.key(4), problem, params)
    first = params.network.params["critic"][0][0]  # entries of variance 1 / (3 from), as the authors'
    spread = jnp.sqrt(3 * len(first)) * jnp.std(first)
    return [found[name] for name in DISTANCES], params.rest.shares, jax.vmap(asked)(jnp.eye(num_categories)), spread

  look = jax.vmap(fitted("ctgan", mixed, 2e-3, seen), in_axes=(0, None))
  trained, fresh = (jax.device_get(look(jax.random.split(jax.random.key(2), 8), steps)) for steps in (500.0, 1.0))
  for name, far, near in zip(DISTANCES, fresh[0], trained[0]):
    assert z_score(far - near, 0.0) > 5, (name, far, near)
  written, before = (np.diagonal(one[2], axis1=1, axis2=2) for one in (trained, fresh))
  assert written.mean(axis=0).min() > 0.9 and before.mean(axis=0).min() < 0.5
  np.testing.assert_allclose(fresh[3], 1, atol=0.03)
  often = real.rows["x"][0, :, numbers:].mean(axis=0)  # of all but the label: not by the logarithm, as in training
  np.testing.assert_allclose(trained[1][:, :-2], np.tile(often, (8, 1)), atol=1e-6)


def test_ensemble():
  """Generators side by side, and classifiers that are trained on what they emit and tested on real rows."""
  members = transforms.ensemble(cj.tasks.table("moons", 200, label="label", num_test=300), 4)
  task = transforms.train_on_synthetic(members, 4)
  found = simulated(task, cj.workflows.replace(num_emitted=4 * 200), 2, 4)
  assert (found["oracle_auc"] > 0.95).all() and found["finite"].all()
  assert (found["downstream_auc"] < found["oracle_auc"]).all() and (found["downstream_auc"] > 0.7).all()


def test_files(tmp_path):
  """A CSV and a Parquet file of one table are one table: numbers standardised, categories and what is missing as blocks."""
  frame = pandas.DataFrame(
    {
      "size": np.linspace(0, 1, 30),
      "age": [np.nan if i % 3 == 0 else i + 0.5 for i in range(30)],
      "kind": [None if i == 0 else "ab"[i % 2] for i in range(30)],
      "floor": [i % 4 for i in range(30)],
      "sold": [i % 2 == 0 for i in range(30)],
    }
  )
  frame.to_csv(tmp_path / "a.csv", index=False)
  frame.to_parquet(tmp_path / "a.parquet")
  given, csv, parquet = (tables.get(one, "sold") for one in (frame, tmp_path / "a.csv", tmp_path / "a.parquet"))
  np.testing.assert_allclose(csv.rows, given.rows, atol=1e-6)
  np.testing.assert_array_equal(parquet.rows, given.rows)
  layout = given.layout
  assert layout.continuous == ("size", "age") and layout.blocks == ("age", "kind", "floor", "sold")
  assert layout.sizes == (2, 3, 4, 2) and given.labelled
  np.testing.assert_allclose(given.rows[:, 0].std(), 1, rtol=1e-5)
  assert given.rows[:, layout.slices[0].start + 1].sum() == 10 and (given.rows[::3, 1] == 0).all()
  np.testing.assert_array_equal(
    [given.rows[:, block].sum(axis=1).tolist() for block in layout.slices], np.ones((4, 30))
  )


@pytest.mark.parametrize(
  ("change", "label", "message"),
  [
    ({"b": 1.5}, None, "column 'b' is constant"),
    ({"b": None}, None, "all cells of column 'b' are missing"),
    ({"b": [f"n{i}" for i in range(300)]}, None, "300 different texts"),
    ({"b": [np.inf, *np.arange(299)]}, None, "column 'b' is not finite"),
    ({}, "c", "label must be a column of table"),
    ({"b": np.arange(300) % 3}, "b", "label must be a column of two values"),
  ],
)
def test_bad_tables(change, label, message):
  frame = pandas.DataFrame({"a": np.arange(300) / 7, "b": np.arange(300) % 2}).assign(**change)
  with pytest.raises(Refused, match=message) as caught:
    tables.get(frame, label)
  assert "\n" not in str(caught.value)


def test_bad_sources(tmp_path):
  (tmp_path / "torn.parquet").write_bytes(b"PAR1")
  (tmp_path / "empty.csv").write_text("")
  numbers = pandas.DataFrame({"a": np.arange(30) / 7})
  for make, message in (
    (lambda: tables.get("adult"), "unknown table 'adult'"),
    (lambda: tables.get(3), "data must be one of"),
    (lambda: tables.get(tmp_path / "a.xlsx"), "ends in .csv or .parquet"),
    (lambda: tables.get(tmp_path / "torn.parquet"), "torn.parquet cannot be read"),
    (lambda: tables.get(tmp_path / "empty.csv"), "empty.csv cannot be read"),
    (lambda: tables.get(numbers[:5]), "at least 10 rows"),
    (lambda: cj.tasks.table(numbers, 5), "no categorical column"),
    (lambda: cj.tasks.table("mixed", 5, "gan"), "model must be one of"),
    (lambda: cj.tasks.table("mixed", 5, "ctgan", batch_size=128), "pac must be a divisor of batch_size 128"),
    (lambda: cj.tasks.table("mixed", 20_000), "num_samples must be an integer of at most"),
  ):
    with pytest.raises(Refused, match=message) as caught:
      make()
    assert "\n" not in str(caught.value)
