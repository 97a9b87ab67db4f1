"""Results as other tools read them: a line a number. Imports no JAX."""

from typing import Any

import numpy as np

from collapse_jax.diagnostics import reading

__all__ = ["long_form"]


def long_form(results: Any) -> Any:
  """A pandas DataFrame with the columns workflow, those axes that have several values, seed, generation, metric and value.

  Of one cell a workflow these are the columns that `decisions.read` takes. An entry k of a metric that is a vector is
  "METRIC[k]". Cells that could not run are left out; a run that ended early has NaN from there on.

  Args:
    results: a Dataset of `sweep` or `loop`.
  Returns:
    rows in the order of metrics, cells, seeds, generations; values are float64.
  Raises:
    ValueError: no variable has the dims workflow, seed and generation.
  """
  import pandas

  results = reading.complete(results)
  grid = list(results.cell_status.dims)
  base = [*grid, "seed", "generation"]
  shown = [dim for dim in base if dim in ("workflow", "seed", "generation") or results.sizes[dim] > 1]
  ran = np.argwhere(results.cell_status.values == "ok")
  keys = pandas.MultiIndex.from_product([results[dim].values for dim in ("seed", "generation")])
  tables = []
  for name, variable in results.data_vars.items():
    if not set(base) <= set(variable.dims) or variable.dtype.kind not in "fiub":
      continue
    values = variable.transpose(*base, ...).values.astype(np.float64)
    for entry in np.ndindex(*values.shape[len(base) :]):
      metric = f"{name}[{','.join(map(str, entry))}]" if entry else str(name)
      for at in ran:
        cell = {dim: results[dim].values[i] for dim, i in zip(grid, at)}
        columns = cell | {"seed": keys.get_level_values(0), "generation": keys.get_level_values(1)}
        value = values[(*at, slice(None), slice(None), *entry)].ravel()
        tables.append(
          pandas.DataFrame({dim: columns[dim] for dim in shown} | {"metric": metric, "value": value}, range(len(value)))
        )
  empty = pandas.DataFrame(columns=[*shown, "metric", "value"])
  return pandas.concat(tables, ignore_index=True) if tables else empty
