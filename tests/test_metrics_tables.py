"""Metrics of tables: their nulls, planted damage, and columns that have nothing in them."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from collapse_jax import metrics
from collapse_jax.metrics import tables
from collapse_jax.refused import Refused


def table(num, seed, missing=0.1):
  random = np.random.default_rng(seed)
  a = random.normal(size=num)
  return pd.DataFrame(
    {
      "a": a,
      "b": a + random.normal(size=num),
      "kind": random.choice(list("xyz"), num, p=[0.7, 0.28, 0.02]),
      "size": np.where(random.random(num) < missing, np.nan, random.exponential(size=num)),
      "when": pd.Timestamp("2026-01-01") + pd.to_timedelta(random.integers(0, 400, num), "D"),
      "label": a + random.normal(size=num) > 0,
    }
  )


@pytest.fixture
def no_trees(monkeypatch):
  """Of tests that are not about classifiers."""
  monkeypatch.setattr(tables, "_classifier_auc", lambda *_: 0.5)
  monkeypatch.setattr(tables, "_trained_on_synthetic", lambda *_: {})


@pytest.mark.usefixtures("no_trees")
def test_nulls():
  """Means over pairs of tables of one law; a sample of another law is far from them."""
  names = [
    "marginal_total_variation",
    "marginal_wasserstein",
    "correlation_error",
    "association_error",
    "nearest_distance",
  ]
  names += ["category_support", "invented_categories"]
  found = [tables.compare(table(150, 2 * i), table(100, 2 * i + 1), seed=i) for i in range(40)]
  for name in names:
    value, null = np.array([one[name] for one in found]).T
    # a resampled table has no less noise than a fresh one, whose null is of the first order: within a tenth, and 4 errors
    assert abs(np.mean(value - null)) < 0.1 * np.mean(null) + 4 * np.std(value - null) / np.sqrt(40), name
  damaged = table(100, 1)
  damaged["b"] = np.random.default_rng(0).permutation(damaged["b"])
  damaged["kind"] = "x"
  damaged["size"] = damaged["size"].fillna(0.0) * 0.3
  told = tables.compare(table(150, 0), damaged)
  for name in names[:-2]:
    if name != "nearest_distance":
      assert told[name][0] > 1.5 * told[name][1], name
  assert told["category_support"][0] < told["category_support"][1] - 0.2


@pytest.mark.usefixtures("no_trees")
def test_twins():
  """Numbers that can be told by hand."""
  real = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "c": list("aabb")})
  sample = pd.DataFrame(
    {"c": list("aaac"), "x": [0.5, 1.5, 2.5, np.nan]}
  )  # the median, 1.5, stands for what is missing
  found = tables.compare(real, sample)
  spread = np.std(real["x"])
  assert found["marginal_wasserstein"][0] == pytest.approx(0.5 / spread)
  assert found["marginal_total_variation"][0] == pytest.approx((0.25 + 0.5) / 2)  # two bins, of which one loses a row
  assert found["category_support"] == (0.5, pytest.approx(1 - 0.5**4))
  assert found["invented_categories"] == (0.25, 0.0)
  away = np.sqrt([(0.5 / spread) ** 2, (0.5 / spread) ** 2, (0.5 / spread) ** 2 + 1, (0.5 / spread) ** 2 + 2])
  assert found["nearest_distance"][0] == pytest.approx(away.mean())
  assert found["duplicate_share"] == (0.0, 0.0)
  same = tables.compare(real, pd.concat([real.iloc[:3], sample.iloc[:1]]), train=real.iloc[:4])
  assert same["duplicate_share"] == (0.75, 1.0)
  strength = (
    tables._cramers_v(np.array([0, 0, 1, 1]), np.array([5, 5, 7, 7])),
    tables._cramers_v(*np.array([[0, 0, 1, 1], [0, 1, 0, 1]])),
  )
  assert strength == (pytest.approx(1), pytest.approx(0))


def test_trees():
  """They tell a shifted table, do not tell one of the same law, and are worth as much on real rows where the sample is good."""
  real, train = table(600, 0), table(600, 1)
  fair, bad = metrics.score(real, table(600, 2), train=train), table(600, 3)
  bad["b"] += 2
  bad["label"] = np.random.default_rng(0).permutation(bad["label"])
  bad = metrics.score(real, bad, train=train)
  spread = np.sqrt((300 + 300 + 1) / (12 * 300 * 300))
  assert abs(fair["classifier_auc"].value - 0.5) < 5 * spread < bad["classifier_auc"].value - 0.5
  assert abs(fair["synthetic_accuracy"].value - fair["synthetic_accuracy"].null) < 0.08
  assert bad["synthetic_accuracy"].value < bad["synthetic_accuracy"].null - 0.1
  numbers = metrics.score(real, table(600, 2), target="b")
  assert 0.1 < numbers["synthetic_r2"].value < 0.9 and "synthetic_accuracy" not in numbers


def test_columns_with_nothing_in_them():
  """Constant, missing, of one category, of a kind that the sample has not: defined values, or one line."""
  real = pd.DataFrame({"x": [1.0] * 6, "none": [np.nan] * 6, "c": ["a"] * 6, "k": pd.Categorical(list("uvuvuv"))})
  for sample in (real, real.assign(x=np.nan), real.assign(none=1.0, c=None), real.assign(x=list("abcdef"))):
    for target in real.columns:
      found = metrics.score(real, sample, target=target)
      assert all(np.isfinite(one).all() for one in found.values()), (target, found)
  assert set(metrics.score(real[["c"]], real[["c"]])) >= {"marginal_total_variation", "category_support"}
  for wrong, message in (
    (real.drop(columns="x"), "sample must have the columns x, none, c, k, got none, c, k"),
    (real[:3], "sample must have at least 4 rows, got 3"),
    (real.assign(x=np.inf), "column 'x' has numbers that are infinite"),
    (real[:0], "sample has no rows"),
  ):
    with pytest.raises(Refused, match=message):
      metrics.score(real, wrong)
  with pytest.raises(Refused, match="target must be one of x, none, c, k, got 'y'"):
    metrics.score(real, real, target="y")


def test_tables_and_text_import_no_jax():
  script = """
import sys, numpy as np, pandas as pd
from collapse_jax import metrics
metrics.score(pd.DataFrame({"a": range(8)}), pd.DataFrame({"a": range(8)}))
metrics.score(["a b"], ["a b"])
print("jax" in sys.modules)
metrics.score(np.arange(8.0), np.arange(8.0))
print("jax" in sys.modules)
"""
  ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
  assert ran.stdout.split() == ["False", "True"], ran.stderr
