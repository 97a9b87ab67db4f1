"""Lines of awk as a generator: the normal distribution of a measurement, fitted and drawn by programs that read and write CSV.

  python examples/shell_awk.py --output_dir=results/awk

Anything that a shell can start takes the place of awk, in any language: training scripts, R, a container. Each fit and each sample
is a step with a folder of its own in steps/, with a log; the same call goes on where it was interrupted, and does what is new only.
"""

import argparse
from pathlib import Path

from sklearn.datasets import load_diabetes

import collapse_jax as cj

# Rows of {data} and {out} are CSV with the header "bmi". The model is a file with a mean and a standard deviation.
FIT = """awk 'NR > 1 {n++; s += $1; q += $1 * $1} END {m = s / n; print m, sqrt(q / n - m * m)}' {data} > {model}"""
SAMPLE = """awk -v n={num} -v seed={seed} '{
  srand(seed)
  print "bmi"
  for (i = 0; i < n; i++) print $1 + $2 * sqrt(-2 * log(1 - rand())) * cos(6.283185307 * rand())
}' {model} > {out}"""
EVALUATE = """awk 'NR == FNR {m = $1; s = $2; next} FNR > 1 {n++; t += log(s) + ((($1 - m) / s) ^ 2 + log(6.283185307)) / 2}
END {printf "{\\"test_nll\\": %.9g, \\"std\\": %.9g}\\n", t / n, s}' {model} {test} > {out}"""


def main(arguments=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output_dir", type=Path, default=Path("results/awk"))
  parser.add_argument("--num_generations", type=int, default=10)
  parser.add_argument("--num_seeds", type=int, default=10)
  options = parser.parse_args(arguments)

  patients = load_diabetes(as_frame=True, scaled=False).data[["bmi"]].sample(frac=1, random_state=0, ignore_index=True)
  results = cj.loop(
    cj.pipelines.command(fit=FIT, sample=SAMPLE, evaluate=EVALUATE, timeout=60),
    real=patients[:342],
    test=patients[342:],
    workflows=["replace", "accumulate"],
    num_generations=options.num_generations,
    num_seeds=options.num_seeds,
    num_samples=30,
    directory=options.output_dir,
    resume=True,
    jobs=2,
    measures={"test_nll": "risk", "std": "variance"},
  )
  for row in cj.diagnostics.verdicts(results):
    print(f"{row['workflow']}: {row['metric']} is {row['verdict'].label}")
  cj.report.write_report(results, options.output_dir / "report.html")
  print(options.output_dir / "report.html")


if __name__ == "__main__":
  main()
