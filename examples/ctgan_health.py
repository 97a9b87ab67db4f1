"""TVAE, or CTGAN, on the RAND health insurance experiment: a table of numbers and of categories, trained on its own rows again.

  pip install 'collapse-jax[ctgan]' statsmodels
  python examples/ctgan_health.py --output_dir=results/health

The rows are visits to a doctor in a year beside health and insurance (Deb and Trivedi 2002), as statsmodels has them. Metrics are
those of tables: how far each column and their correlations are from the real ones, which categories are left, what a classifier
learns from synthetic rows. A run of this size takes some minutes on a laptop.
"""

import argparse
from pathlib import Path

import numpy as np
from statsmodels.datasets import randhie

import collapse_jax as cj

CATEGORIES = ["physlm", "hlthg", "hlthf", "hlthp"]  # a physical limitation; good, fair or poor health


def main(arguments=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output_dir", type=Path, default=Path("results/health"))
  parser.add_argument("--model", default="tvae", choices=["tvae", "ctgan"])
  parser.add_argument("--epochs", type=int, default=50)
  parser.add_argument("--num_samples", type=int, default=2000)
  parser.add_argument("--num_generations", type=int, default=5)
  parser.add_argument("--num_seeds", type=int, default=3)
  options = parser.parse_args(arguments)

  table = randhie.load_pandas().data[["mdvis", "disea", "lncoins", *CATEGORIES]]
  table = table.sample(frac=1, random_state=0, ignore_index=True)
  for name in CATEGORIES:
    table[name] = np.where(table[name] > 0, "yes", "no")
  half = len(table) // 2
  results = cj.loop(
    cj.pipelines.ctgan(options.model, epochs=options.epochs, batch_size=100),
    real=table[:half],
    test=table[half:].head(options.num_samples),
    workflows=["replace", "mix(0.5)"],
    num_generations=options.num_generations,
    num_seeds=options.num_seeds,
    num_samples=options.num_samples,
    directory=options.output_dir,
    resume=True,
  )
  for row in cj.diagnostics.verdicts(results):
    print(f"{row['workflow']}: {row['metric']} is {row['verdict'].label}")
  cj.report.write_report(results, options.output_dir / "report.html")
  print(options.output_dir / "report.html")


if __name__ == "__main__":
  main()
