"""Network traffic row by row, as STAN models it (Xu et al. 2009.12740), fed on what it wrote.

  python -m experiments.traffic
  python -m experiments.traffic --setting=memory
  python -m experiments.traffic --flows=march.csv --internal=42.219. --num_samples=50

A few minutes on 2 cores. Expected: under `replace` the cross entropy grows and fewer rows keep the rules, under `accumulate` both
hold. Sizes that lose their fractions make atoms at a single packet. Memory: least squares, coefficients on the dashed lines, 2 / L
a generation under `replace`.
"""

from typing import Any

from absl import flags

from collapse_jax.refused import Refused

from . import common, flag_values

SETTINGS = ("flows", "memory")
ENDS = ("known", "redraw", "clip")
NUM_TEST = 16  # series held out
ROUNDINGS = ("none", "truncate", "nearest", "random")


def define():
  """Flags of this binary."""
  flag_values.define_common(
    num_samples="20", num_generations=6, num_seeds=4, workflows="replace,accumulate", temperatures=False
  )
  flag_values.define_compare()
  flags.DEFINE_string("setting", "flows", "flows: mixtures and softmax by gradient; memory: least squares of an AR(1).")
  flags.DEFINE_string("flows", None, "CSV file of flows as UGR'16 has them; default flows of a known law.")
  flags.DEFINE_string("internal", None, "With --flows: what addresses of internal hosts begin with.")
  flags.DEFINE_string("length", "100", "Rows of a series.")
  flags.DEFINE_string("ends", "known,redraw", f"Comma list among {', '.join(ENDS)}: values outside their range.")
  flags.DEFINE_string("roundings", "none,truncate", f"Comma list among {', '.join(ROUNDINGS)}: sizes that are written.")
  flags.DEFINE_string("window", "3", "Rows that a head sees.")
  flags.DEFINE_string("hidden", "32", "Units of a column.")
  flags.DEFINE_string("num_components", "4", "Of a mixture.")
  flags.DEFINE_string("epochs", "20", "Of training, each generation.")
  flags.DEFINE_string("coefficients", "0.5,0.9", "Comma list, memory: of the row before.")


def simulate(
  workflows,
  num_samples,
  setting="flows",
  series=None,
  length=100,
  ends=("known",),
  roundings=("none",),
  window=3,
  hidden=32,
  num_components=4,
  epochs=20.0,
  coefficients=(0.5,),
  compare=True,
  **options,
):
  """The sweep behind this binary; None after a dry run."""

  def of_flows(ends, rounding, num_samples):
    from collapse_jax import tasks
    from collapse_jax.data import traffic

    source = traffic.flows(length) if series is None else series
    return tasks.ar_window(
      source,
      num_samples,
      window=window,
      hidden=hidden,
      num_components=num_components,
      amount=epochs,
      learning_rate=3e-3,
      batch_size=256,
      ends=ends,
      rounding=None if rounding == "none" else rounding,
      num_test=NUM_TEST,
    )

  def of_memory(coefficient, num_samples):
    from collapse_jax import tasks
    from collapse_jax.data import traffic

    source = traffic.autoregression(length, [coefficient], 1.0)
    return tasks.ar_window(source, num_samples, window=1, head="linear", intercept=False)

  make: Any
  if setting == "memory":
    axes = {"coefficient": list(coefficients), "num_samples": list(num_samples)}
    make, metric = of_memory, "lag1_coefficient"
  else:
    axes = {"ends": list(ends), "rounding": list(roundings), "num_samples": list(num_samples)}
    make, metric = of_flows, "test_nll"
  results = common.simulate(
    make, workflows, axes, primary_metric=metric, static_axes=("coefficient",) * (setting == "memory"), **options
  )
  return common.related(results, "traffic", compare, setting=setting)


def read():
  """Options of `simulate`, from validated flags."""
  given = flag_values.FLAGS
  setting = flag_values.choice("setting", SETTINGS)
  if (given.flows is None) != (given.internal is None):
    raise Refused("--flows and --internal go together: a file, and what addresses of internal hosts begin with.")
  if given.flows is not None and setting == "memory":
    raise Refused("--flows goes with --setting=flows.")
  length, num_samples = flag_values.integer("length", 6), flag_values.integers("num_samples")
  coefficients = flag_values.shares("coefficients")
  if max(coefficients) == 1:
    raise Refused(f"--coefficients must be below 1, got {given.coefficients}.")
  options = {
    "setting": setting,
    "length": length,
    "ends": flag_values.choices("ends", ENDS),
    "roundings": flag_values.choices("roundings", ROUNDINGS),
    "window": flag_values.integer("window", 0),
    "hidden": flag_values.integer("hidden"),
    "num_components": flag_values.integer("num_components"),
    "epochs": flag_values.positive("epochs"),
    "coefficients": coefficients,
    "num_samples": num_samples,
  }
  options |= flag_values.related_options() | {"workflows": flag_values.check_workflows(law=False)}
  if given.flows is not None:  # a file may be large: last
    from collapse_jax.data import traffic

    with flag_values.given_as("flows", given.flows):
      flows = traffic.read_flows(given.flows, length, internal=given.internal)
    most = (flows.max_series or 0) - NUM_TEST  # a file has a number of series
    if max(num_samples) > most:
      raise Refused(
        f"--num_samples must be at most {most}: {flows.max_series} series of {length} flows, {NUM_TEST} of them held out."
      )
    options["series"] = flows
  return options


def main():
  common.simulate_and_write("results/traffic", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
