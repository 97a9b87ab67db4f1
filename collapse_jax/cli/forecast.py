"""Say how a metric will go on, with an interval, from the generations that there are.

  collapse forecast runs/mine --horizon=20
  collapse forecast results/gaussian --metric=covariance_trace_ratio --horizon=200
  collapse forecast measured.csv --metric=loss --horizon=10

Takes the --output_dir of an experiment or of `collapse loop`, or a CSV file with the columns workflow, seed, generation, metric,
value that somebody else measured.
"""

import numpy as np
from absl import flags

from collapse_jax.cli import reading
from collapse_jax.cli.parts import compare, flag_values

__all__ = ["define", "main", "table"]

_SHOWN = 5  # generations


def define() -> None:
  """Flags of this command."""
  flags.DEFINE_string("metric", None, "Which metric; default: the first one of the results.")
  flags.DEFINE_string("horizon", "20", "The last generation that is foretold, beyond those that there are.")


def main(arguments: list[str]) -> None:
  """Prints a table."""
  horizon = flag_values.integer("horizon")
  found = reading.measured(reading.only(arguments, "one directory with results, or a CSV file"))
  from collapse_jax import decisions

  name = reading.metric(found)
  forecast = decisions.forecast(found, horizon=horizon, metric=name)
  print(
    f"{name}, mean over runs, {forecast.attrs['level']:.0%} interval, from generations 1 to {found.generation.values[-1]}"
  )
  print(table(forecast))


def table(forecast) -> str:
  """A row for some generations of each cell, the last one among them.

  Args:
    forecast: as of `decisions.forecast`.
  """
  grid = list(forecast.family.dims)
  shown = [dim for dim in grid if dim == "workflow" or forecast.sizes[dim] > 1]
  at = np.unique(np.linspace(0, forecast.sizes["generation"] - 1, _SHOWN).round().astype(int))
  rows = [(*shown, "generation", "mean", "low", "high", "family", "rival", "status")]
  for index in np.ndindex(*(forecast.sizes[dim] for dim in grid)):
    cell = dict(zip(grid, index))
    one = forecast.isel(cell)
    names = [str(forecast[dim].values[cell[dim]]) for dim in shown]
    told = [i for i in at if np.isfinite(one["mean"].values[i])] or at[-1:]
    for i in told:
      numbers = [one[name].values[i] for name in ("mean", "low", "high")]
      texts = [str(one[name].values) or "-" for name in ("family", "rival", "status")]
      rows.append(
        (*names, str(forecast.generation.values[i]), *(f"{x:.4g}" if np.isfinite(x) else "-" for x in numbers), *texts)
      )
  return compare.aligned(rows)
