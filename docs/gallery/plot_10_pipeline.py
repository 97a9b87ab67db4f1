"""
A generator of tables through `cj.loop`
=======================================

Any object with `fit` and `sample` over a table is a pipeline. Everything that it does is kept on disk, with the
lineage of every row.
"""

import tempfile

import numpy as np
import pandas as pd

import collapse_jax as cj


class Bootstrap:
  """Rows of the last generation, drawn again with a little noise."""

  def fit(self, data, *, seed, workdir, previous=None):
    return data

  def sample(self, model, num, *, seed, workdir):
    rng = np.random.default_rng(seed)
    rows = model.iloc[rng.integers(len(model), size=num)].reset_index(drop=True)
    return rows + rng.normal(scale=0.1, size=rows.shape)


rng = np.random.default_rng(0)
table = pd.DataFrame({"income": rng.lognormal(0, 0.5, 600), "age": rng.normal(0, 1, 600)})
folder = tempfile.mkdtemp()
results = cj.loop(
  Bootstrap(),
  table[:400],
  table[400:],
  ["replace", "mix(0.5)"],
  num_generations=6,
  num_seeds=3,
  num_samples=200,
  directory=folder,
)
metrics = ["marginal_wasserstein", "marginal_wasserstein_null", "classifier_auc", "classifier_auc_null"]
results[metrics].mean("seed").isel(generation=[0, -1]).to_dataframe().round(3)

# %%
# Which models and samples descend from real row 17, which somebody may ask to be deleted?

pd.DataFrame(cj.pipelines.lineage(folder, 17).generations)[["run", "generation"]]
