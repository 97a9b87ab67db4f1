"""Selection of samples by nearness to real data (an analogue of Alrashedy et al. 2311.00931), and its price.

  python -m experiments.selection --setting=gaussian
  python -m experiments.selection --setting=unrealistic

Half a minute on 2 cores. Expected: gaussian: the variance falls generation after generation as theory has it, faster the
less is kept. unrealistic (70 % of samples lie far off and have other labels): accuracy is best where a fifth is kept:
below it rows are too few, above it too many are unrealistic; a random choice of as many rows does not help.
"""

from absl import flags

from collapse_jax.refused import Refused

from . import common, flag_values

SETTINGS, SELECTIONS = ("gaussian", "unrealistic"), ("nearest", "random")
UNREALISTIC_SHARE, DISTANCE = 0.7, 3.0


def define():
  """Flags of this binary."""
  flag_values.define_common(num_samples="300", num_generations=8, num_seeds=40, workflows="replace", temperatures=False)
  flag_values.define_compare()
  flags.DEFINE_string("setting", "gaussian", f"One of {', '.join(SETTINGS)}.")
  flags.DEFINE_string("keep_fractions", "0.1,0.2,0.3,0.5,0.75,0.9,1", "Comma list: share of samples that is kept.")
  flags.DEFINE_string(
    "selections", "auto", f"Comma list among {', '.join(SELECTIONS)}; auto: both in the setting unrealistic."
  )
  flags.DEFINE_string("num_neighbors", "1", "A sample's distance is that to so many nearest real rows.")


def simulate(
  workflows, setting, keep_fractions, num_samples, selections=("nearest",), num_neighbors=1, compare=True, **options
):
  """The sweep behind this binary; None after a dry run."""

  def task(keep_fraction, selection, num_samples):
    import jax

    from collapse_jax import tasks, transforms

    gaussian = setting == "gaussian"
    one = tasks.gaussian(1, num_samples) if gaussian else tasks.unrealistic(num_samples, UNREALISTIC_SHARE, DISTANCE)
    if selection == "nearest":
      return transforms.select_nearest(
        one,
        keep_fraction,
        None if gaussian else lambda rows: rows["x"],
        num_neighbors=num_neighbors,
        oversample=gaussian,
      )
    return transforms.verify(one, lambda key, problem, rows: jax.random.uniform(key, (num_samples,)) < keep_fraction)

  axes = {"selection": list(selections), "keep_fraction": list(keep_fractions), "num_samples": list(num_samples)}
  metric = "covariance_trace_ratio" if setting == "gaussian" else "accuracy"
  static = ("keep_fraction",) if setting == "gaussian" else ()  # there it fixes the number of samples
  results = common.simulate(task, workflows, axes, static_axes=static, primary_metric=metric, **options)
  return common.related(results, "selection", compare, setting=setting, num_neighbors=num_neighbors)


def read():
  """Options of `simulate`, from validated flags."""
  num_samples, num_neighbors = flag_values.integers("num_samples", 2), flag_values.integer("num_neighbors")
  if num_neighbors > min(num_samples):
    raise Refused(f"--num_neighbors must be at most --num_samples, got {num_neighbors}.")
  options = {
    "setting": flag_values.choice("setting", SETTINGS),
    "keep_fractions": flag_values.shares("keep_fractions", zero=False),
    "num_samples": num_samples,
    "num_neighbors": num_neighbors,
  }
  if flag_values.FLAGS.selections == "auto":
    options["selections"] = ["nearest"] if options["setting"] == "gaussian" else list(SELECTIONS)
  else:
    options["selections"] = flag_values.choices("selections", SELECTIONS)
  return options | flag_values.related_options() | {"workflows": flag_values.check_workflows(law=False)}


def main():
  common.simulate_and_write("results/selection", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
