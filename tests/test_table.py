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


def simulated(task, workflow, num_generations, num_seeds):
  workflow = cj.workflows.parse(workflow)() if isinstance(workflow, str) else workflow
  run = jax.jit(jax.vmap(lambda key: cj.run(key, task, workflow, num_generations)))
  return jax.device_get(run(jax.random.split(jax.random.key(0), num_seeds)))


@pytest.mark.parametrize("workflow", ["replace", "accumulate"])
def test_frequencies_drift(workflow):
  """Diversity of categories in a copula is that of drift without selection; with other columns, and under any schedule."""
  num = 40
  task = cj.tasks.table("mixed", num, label="label", num_test=50)
  found = simulated(task, workflow, 5, 1500)["category_diversity"]
  right, wrong = (
    task.predict(cj.workflows.parse(workflow)().schedule(n, 5))["category_diversity"].mean for n in (num, num - 8)
  )
  assert np.abs(z_score(found, right)).max() < 5
  assert np.abs(z_score(found, wrong)).max() > 5


def test_copula():
  """Numbers keep their law and their dependence on categories; what died out does not come back; weights count as copies do."""
  source = tables.get("mixed")
  rows = jnp.asarray(source.rows)
  layout = source.layout
  fitted = _table._fit_copula(layout, rows, jnp.ones(len(rows)))
  drawn = np.asarray(_table._draw_copula(jax.random.key(0), layout, fitted, 20_000))
  np.testing.assert_allclose(np.sort(drawn[:, 0])[::500], np.sort(source.rows[:, 0])[::500], atol=0.12)
  shares = source.rows[:, layout.num_continuous :].mean(axis=0)
  z = (drawn[:, layout.num_continuous :].mean(axis=0) - shares) / np.sqrt(shares * (1 - shares) / 20_000)
  assert np.abs(z).max() < 5
  kind = layout.slices[layout.blocks.index("kind")]
  means = [rows_[rows_[:, kind.start] == 1, 0].mean() for rows_ in (source.rows, drawn)]
  assert means[0] < -0.3 and abs(means[1] - means[0]) < 0.15  # twin: 0, of columns that do not depend on each other
  rare = np.asarray(rows)[:, kind.stop - 1]
  without = _table._fit_copula(layout, rows, jnp.asarray(1.0 - rare))
  assert not np.asarray(_table._draw_copula(jax.random.key(1), layout, without, 20_000))[:, kind.stop - 1].any()
  few, weight = rows[:6], jnp.array([2.0, 1, 0, 1, 1, 1])
  copies = few[jnp.array([0, 0, 1, 3, 4, 5])]
  weighed, copied = _table._fit_copula(layout, few, weight), _table._fit_copula(layout, copies, jnp.ones(6))
  np.testing.assert_allclose(weighed.shares, copied.shares, atol=1e-6)


def test_encoding():
  """What networks see of rows leads back to them."""
  source = tables.get("mixed")
  rows = jnp.asarray(source.rows[:300])
  modes = _table._fit_modes(jax.random.key(0), source.layout, rows, jnp.ones(300))
  encoded = _table._encode(source.layout, modes, rows)
  numbers = source.layout.num_continuous
  again = _table._decode(source.layout, modes, encoded[:, :numbers], encoded[:, numbers:], None)
  np.testing.assert_allclose(again, rows, atol=1e-4)


@pytest.mark.parametrize("model", ["tvae", "diffusion"])
def test_networks(model):
  """Trained ones are near the truth, by every metric nearer than after one step."""
  task = lambda amount: cj.tasks.table(
    "mixed", 1000, model, amount=amount, hidden=(64,), latent_dim=4, num_test=1000, learning_rate=3e-3
  )
  one = lambda key, amount: cj.run(key, task(amount), cj.workflows.replace(), 1)
  found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4), jnp.array([600.0, 600.0, 1.0, 1.0]))
  for name, most in (("category_distance", 0.1), ("number_distance", 0.25), ("correlation_error", 0.1)):
    trained, fresh = np.asarray(found[name])[:2].max(), np.asarray(found[name])[2:].min()
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
    (lambda: cj.tasks.table("mixed", 20_000), "num_samples must be an integer of at most"),
  ):
    with pytest.raises(Refused, match=message) as caught:
      make()
    assert "\n" not in str(caught.value)
