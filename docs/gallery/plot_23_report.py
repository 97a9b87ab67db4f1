"""
A report of anybody's numbers
=============================

Results that somebody else measured, in a file of five columns, are read as if they came from a sweep: verdicts,
figures, forecasts and the report work on them.
"""

import csv
import tempfile
from pathlib import Path

import numpy as np

import collapse_jax as cj

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
with open(folder / "mine.csv", "w", newline="") as file:
  writer = csv.writer(file)
  writer.writerow(["workflow", "seed", "generation", "metric", "value"])
  for seed in range(8):
    for t in range(1, 13):
      writer.writerow(["only synthetic", seed, t, "loss", 2 + 0.1 * t + 0.05 * rng.normal()])
      writer.writerow(["real kept", seed, t, "loss", 2.3 - 0.2 / t + 0.05 * rng.normal()])

results = cj.decisions.read(folder / "mine.csv")
results.loss.attrs |= {"worse": "higher", "measures": "risk", "units": "nats"}
cj.report.summary(results)

# %%
# The whole page is one file without references to anything outside:

cj.report.write_report(results, folder / "report.html")
print(f"{(folder / 'report.html').stat().st_size / 1e6:.1f} MB")
