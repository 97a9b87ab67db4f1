"""
What is in `results.nc`
=======================

Every command, `cj.loop`, and `results.to_netcdf(...)` of a sweep, leave a netCDF-4 file (an HDF5 file), which
xarray, netCDF4, h5py, Julia, R and MATLAB read. The tables of this page are made from such a Dataset when the site
is built.
"""

import pandas as pd

import collapse_jax as cj

results = cj.sweep(
  cj.tasks.gaussian,
  ["replace", "accumulate"],
  {"dim": [1], "num_samples": [100]},
  num_generations=20,
  num_seeds=100,
)

# %%
# **Coordinates.** `workflow`, then the axes of the grid, then `seed` (run i of every cell has the same key) and
# `generation`, from 1. An axis of texts with numbers among them has these in NAME_value as well.

pd.DataFrame(
  [(name, one.dtype.name, one.size, str(one.values[0])) for name, one in results.coords.items()],
  columns=["coordinate", "type", "length", "first value"],
).set_index("coordinate")

# %%
# **Variables.** Metrics are [workflow, axes..., seed, generation], vectors of them have more dims. Beside a metric
# may stand METRIC_expected, METRIC_expected_variance, METRIC_limit (theory, no seeds) and METRIC_null (what real
# rows would score). `cell_status` is "ok", or says why a cell could not run; `finite` is false from the generation
# on in which a run was lost; `train_size` and `real_share` are of the rows that a generation was fitted to.

pd.DataFrame(
  [
    (name, ", ".join(one.dims), one.attrs.get("long_name", ""), one.attrs.get("units", ""))
    for name, one in results.items()
  ],
  columns=["variable", "dims", "what it is", "units"],
).set_index("variable")

# %%
# **Attributes of a metric** say what readers need: which way is worse ("" where there is none), whether it is
# judged by its log, and which definition of collapse reads it.

pd.Series(results.covariance_trace_ratio.attrs, dtype=str).to_frame("of covariance_trace_ratio")

# %%
# **Attributes of the file** say what made it: versions, seed, what was compiled and how long it took. `stopped`,
# `system`, `comparisons` and `finding` are there where there is something to say.

pd.Series(results.attrs, dtype=str).to_frame("value")

# %%
# **As a table.** `collapse export DIRECTORY` writes a line a number, as CSV (or `--format=parquet`); in Python:

cj.diagnostics.long_form(results).head()
