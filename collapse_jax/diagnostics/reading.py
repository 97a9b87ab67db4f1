"""Result Datasets as all readers take them: every coordinate a dim, and which cells ran. Imports no JAX."""

import numpy as np

from collapse_jax.refused import Refused
from collapse_jax.vocabulary import BESIDE, NULL, is_null

__all__ = ["at_cell", "cells", "complete", "finite_runs", "metrics", "null_of", "num_beside", "scalars"]


def complete(results):
  """The Dataset with every coordinate as a dim and with `cell_status`, also after `isel`, `sel` or a user's own making; the same
  object where it has them.

  Args:
    results: a Dataset of `sweep`, or of the same dims.
  Raises:
    ValueError: no variable has the dims workflow, seed and generation.
  """
  import xarray

  lost = [name for name, value in results.coords.items() if value.ndim == 0 and name != "batch"]
  if lost:
    theory = [name for name in results.data_vars if _is_beside(results, str(name))]
    kept = results[theory].drop_vars("shares", errors="ignore")
    runs = results.drop_vars([*theory, "cell_status"], errors="ignore").expand_dims(lost)
    status = results.get("cell_status")
    results = runs.assign(kept.expand_dims([name for name in lost if name != "seed"]).data_vars)
    results = results if status is None else results.assign(cell_status=status.drop_vars(lost, errors="ignore"))
  wanted = {"workflow", "seed", "generation"}
  tables = [set(value.dims) for value in results.data_vars.values() if wanted <= set(value.dims)]
  if not tables:
    raise Refused("results must hold a variable with dims workflow, seed and generation.")
  grid = [dim for dim in results.sizes if dim in set.intersection(*tables) - {"seed", "generation"}]
  status = results.get("cell_status", xarray.DataArray("ok"))
  if "cell_status" in results and set(status.dims) == set(grid):
    return results
  for dim in grid:
    if dim not in status.dims:
      status = status.drop_vars(dim, errors="ignore").expand_dims({dim: results[dim].values})
  return results.assign(cell_status=status.transpose(*grid))


def _is_beside(results, name: str) -> bool:
  return name == "shares" or any(
    name.endswith(f"_{ending}") and name.removesuffix(f"_{ending}") in results for ending in BESIDE
  )


def cells(results, name: str):
  """Yields (coordinates of the cell, values [seeds, T]) of a scalar metric, cells that cannot run left out.

  Args:
    results: a Dataset of `sweep`.
    name: of a metric.
  """
  grid, status = results.cell_status.dims, results.cell_status.values
  coordinates = [results[dim].values for dim in grid]
  values = results[name].transpose(*grid, "seed", "generation").values
  for at in np.ndindex(*status.shape):
    if status[at] == "ok":
      yield {dim: of[i] for dim, of, i in zip(grid, coordinates, at)}, values[at]


def num_beside(results, dim: str) -> int:
  """How many cells that could run differ in one coordinate alone, at the most; 0 where there is no such coordinate.

  Args:
    results: a Dataset of `sweep`, complete.
    dim: the coordinate.
  """
  return int((results.cell_status == "ok").sum(dim).max()) if dim in results.cell_status.dims else 0


def metrics(results) -> list[str]:
  """Scalar metrics with a worse direction, the primary one first.

  Args:
    results: a Dataset of `sweep`.
  """
  base = {*results.cell_status.dims, "seed", "generation"}
  names = [n for n, v in results.data_vars.items() if set(v.dims) == base and v.attrs.get("worse")]
  return sorted(names, key=lambda n: n != results.attrs.get("primary_metric"))


def scalars(results) -> list[str]:
  """All scalar metrics but nulls, a number a run and generation: the primary one first, then those with a worse direction.

  Args:
    results: a Dataset of `sweep`.
  """
  base, primary = {*results.cell_status.dims, "seed", "generation"}, results.attrs.get("primary_metric")
  names = [str(n) for n, v in results.data_vars.items() if set(v.dims) == base and v.dtype.kind in "fiu"]
  names = [name for name in names if not is_null(name, names)]
  return sorted(names, key=lambda n: (n != primary, not results[n].attrs.get("worse")))


def null_of(results, cell, name: str) -> np.ndarray | None:
  """[T] mean over runs of what a metric would be of a sample of the real law (`METRIC_null`); None where that is not known.

  Args:
    results: a Dataset of `loop`, complete.
    cell: coordinate -> value.
    name: of the metric.
  """
  values = at_cell(results, f"{name}_{NULL}", cell, ("seed", "generation"))
  if values is None or not (known := np.isfinite(values)).any():
    return None
  num = known.sum(axis=0)
  return np.divide(np.where(known, values, 0).sum(axis=0), num, out=np.full(len(num), np.nan), where=num > 0)


def finite_runs(values) -> np.ndarray:
  """The runs [kept, T] of values [seeds, T] that stayed finite; where none did, all of them as far as all are finite."""
  values = np.asarray(values, np.float64)
  finite = np.isfinite(values)
  if finite.all(axis=1).any():
    return values[finite.all(axis=1)]
  return values[:, : int(np.argmin(finite.all(axis=0)))]


def at_cell(results, name: str, cell, dims=()) -> np.ndarray | None:
  """Values [dims] of a variable in a cell, float64; None where there is no such variable.

  Args:
    results: a Dataset of `sweep`.
    name: of a variable.
    cell: coordinate -> value; of dims that are neither in it nor in `dims` the first is taken.
    dims: names of the axes that stay, in this order.
  """
  if name not in results:
    return None
  one = results[name]
  one = one.sel({dim: value for dim, value in cell.items() if dim in one.dims})
  one = one.isel({dim: 0 for dim in one.dims if dim not in dims})
  return one.transpose(*(dim for dim in dims if dim in one.dims)).values.astype(np.float64)
