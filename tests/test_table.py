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


def test_copula():
  """Numbers keep their law and their dependence on categories; what died out does not come back; weights count as copies do."""
  source = tables.get("mixed")
  rows = jnp.asarray(source.rows)
  layout = source.layout
  fit, draw = _table._copula(layout)
  fitted = fit(None, rows, jnp.ones(len(rows)), None)
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
  without = fit(None, rows, jnp.asarray(1.0 - rare), None)
  assert not np.asarray(draw(jax.random.key(1), without, 20_000))[:, kind.stop - 1].any()
  few, weight = rows[:6], jnp.array([2.0, 1, 0, 1, 1, 1])
  copies = few[jnp.array([0, 0, 1, 3, 4, 5])]
  weighed, copied = fit(None, few, weight, None), fit(None, copies, jnp.ones(6), None)
  np.testing.assert_allclose(weighed.shares, copied.shares, atol=1e-6)


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_correlations_of_a_copula(rho):
  """Normal columns keep their correlation, and a category its with them: by that of a threshold (Pearson 1909)."""
  random = np.random.default_rng(0)
  x, y, w = random.multivariate_normal([0, 0, 0], [[1, rho, rho], [rho, 1, 0.3], [rho, 0.3, 1]], 10_000).T
  source = tables.get(pandas.DataFrame({"x": x, "y": y, "above": w > 0.5}))
  fit, draw = _table._copula(source.layout)
  fitted = fit(None, jnp.asarray(source.rows), jnp.ones(10_000), None)
  drawn = np.asarray(draw(jax.random.key(0), fitted, 40_000), np.float64)
  assert abs(np.arctanh(np.corrcoef(drawn[:, :2].T)[0, 1]) - np.arctanh(np.corrcoef(x, y)[0, 1])) < 5 / np.sqrt(40_000)
  real, found = (np.corrcoef(one[:, 0], one[:, 3])[0, 1] for one in (source.rows, drawn))
  # A score of two values is not normal: the dependence fades by the correlation of the two, and has its sign.
  assert abs(found) < 0.03 if rho == 0 else 0.5 * real < found < real + 0.03


def test_encoding():
  """What networks see of rows leads back to them; what is missing has no place."""
  source = tables.get("mixed")
  rows = jnp.asarray(source.rows[:300])
  modes = kinds._fit_modes(jax.random.key(0), source.layout, rows, jnp.ones(300))
  encoded = kinds.encode(source.layout, modes, rows)
  numbers = source.layout.num_continuous
  again = kinds.decode(source.layout, modes, encoded[:, :numbers], encoded[:, numbers:])
  np.testing.assert_allclose(again, rows, atol=1e-4)


@pytest.mark.parametrize("model", ["tvae", "ctgan", "diffusion"])
def test_networks(model):
  """Trained ones are near the truth, by every metric nearer than after one step."""
  rate = 2e-3 if model == "ctgan" else 3e-3
  task = lambda amount: cj.tasks.table(
    "mixed", 1000, model, amount=amount, hidden=(48,), latent_dim=4, num_test=1000, learning_rate=rate
  )
  one = lambda key, amount: cj.run(key, task(amount), cj.workflows.replace(), 1)
  found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0)), jnp.array([500.0, 1.0]))
  for name, most in (("category_distance", 0.15), ("number_distance", 0.25), ("correlation_error", 0.15)):
    trained, fresh = np.asarray(found[name])[:, 0]
    assert trained < most and trained < fresh, (name, trained, fresh)


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
