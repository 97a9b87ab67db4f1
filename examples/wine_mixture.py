"""A Gaussian mixture of scikit-learn, fitted to wines, then to what it drew itself, ten times.

  python examples/wine_mixture.py --output_dir=results/wine

Under `replace` each mixture is fitted to the last one's rows only, under `accumulate` to all rows so far, under `mix(0.5)` to the
real wines and as many synthetic ones. The page report.html shows how the likelihood of wines that no model has seen goes on.
"""

import argparse
from pathlib import Path

from sklearn.datasets import load_wine
from sklearn.mixture import GaussianMixture

import collapse_jax as cj

COLUMNS = ["alcohol", "flavanoids", "color_intensity", "hue"]


def main(arguments=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output_dir", type=Path, default=Path("results/wine"))
  parser.add_argument("--num_generations", type=int, default=10)
  parser.add_argument("--num_seeds", type=int, default=10)
  options = parser.parse_args(arguments)

  wines = load_wine(as_frame=True).data[COLUMNS].sample(frac=1, random_state=0, ignore_index=True)
  results = cj.loop(
    cj.pipelines.sklearn(GaussianMixture(3, reg_covar=1e-3)),
    real=wines[:138],
    test=wines[138:],
    workflows=["replace", "accumulate", "mix(0.5)"],
    num_generations=options.num_generations,
    num_seeds=options.num_seeds,
    num_samples=100,
    directory=options.output_dir,
    resume=True,
    measures={"test_nll": "risk", "variance_ratio": "variance"},
  )
  for row in cj.diagnostics.verdicts(results):
    print(f"{row['workflow']}: {row['metric']} is {row['verdict'].label}")
  cj.report.write_report(results, options.output_dir / "report.html")
  print(options.output_dir / "report.html")


if __name__ == "__main__":
  main()
