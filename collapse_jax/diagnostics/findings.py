"""What the results of an experiment say, in a sentence for each workflow or cell."""

import numpy as np

from collapse_jax.diagnostics import reading

__all__ = ["of_data_value", "of_excess_risk", "of_test_loss"]


def of_excess_risk(results) -> list[str]:
  """A sentence per workflow: excess risk against the first generation's, and whether the labels became separable."""
  lines = []
  for workflow in results.workflow.values:
    cell = results.sel(workflow=workflow).isel(num_samples=0, temperature=0, dataset=0)
    if str(cell.cell_status.values) != "ok":
      continue
    risk = cell.excess_risk.transpose("seed", "generation").values.astype(np.float64)
    risk = np.where(np.isfinite(risk), risk, np.nan)  # separable labels have no finite fit
    begun, last = (one[np.isfinite(one)] for one in (risk[:, 0], risk[:, -1]))
    first = begun.mean() if begun.size else np.nan
    error = last.std(ddof=1) / np.sqrt(last.size) / first if last.size > 1 else np.nan
    separated = cell.separated.transpose("seed", "generation").values
    t = results.generation.values
    num = int((separated.max(axis=0) == 0).sum())
    ratio = last.mean() / first if last.size else np.inf
    line = (
      f"{workflow}: at t = {t[-1]} the excess risk is {ratio:.3g} +- {error:.2g} times the first generation's "
      f"(pi^2/6 = {np.pi**2 / 6:.3f})"
    )
    if separated[:, -1].any():
      slope = np.polyfit(t[:num], risk[:, :num].mean(axis=0) / first, 1)[0] if num > 1 else np.nan
      line += (
        f"; it grows by {slope:.2g} a generation until, from t = {t[num]} on, labels become separable and the risk "
        f"infinite: at the end in {separated[:, -1].mean():.0%} of runs, which are not in this mean"
      )
    lines.append(line)
  return lines


def of_test_loss(results) -> list[str]:
  """A sentence per cell: test loss at the end against the first generation's."""
  lines = [results.attrs["stopped"]] if results.attrs.get("stopped") else []
  for cell, loss in reading.cells(results, "test_loss"):
    if not np.isfinite(loss).all():
      continue
    others = [f"{dim} {value}" for dim, value in cell.items() if dim != "workflow" and results.sizes[dim] > 1]
    name = ", ".join([str(cell["workflow"]), *others])
    spread = f" +- {1.96 * loss[:, -1].std(ddof=1) / np.sqrt(len(loss)):.2g}" if len(loss) > 1 else ""
    seeds = f"95% interval, {len(loss)} seeds" if spread else "1 seed"
    lines.append(
      f"{name}: test loss {loss[:, 0].mean():.3f} nats per token in generation 1, {loss[:, -1].mean():.3f}"
      f"{spread} in generation {loss.shape[1]} ({seeds})"
    )
  return lines


def of_data_value(results) -> str:
  """What synthetic rows do at the fewest and at the most real rows."""
  loss = results.test_loss.mean("seed")
  sentences = []
  for r in (results.num_real.values[0], results.num_real.values[-1]):
    row = loss.sel(num_real=r)
    best = int(row.num_synthetic.values[np.argmin(row.values)])
    sentences.append(
      f"with {r} real rows, test loss is {float(row[0]):.3f} nats per token with "
      f"{int(row.num_synthetic[0])} synthetic rows and {float(row[-1]):.3f} with "
      f"{int(row.num_synthetic[-1])} (lowest with {best})"
    )
  return "; ".join(sentences)
