"""Selection of samples by nearness to real data (an analogue of Alrashedy et al. 2311.00931), and its price.

  python -m experiments.selection --setting=gaussian
  python -m experiments.selection --setting=unrealistic

Half a minute on 2 cores. Expected: gaussian: the variance falls generation after generation as theory has it, faster the
less is kept. unrealistic (70 % of samples lie far off and have other labels): accuracy has its maximum where only the nearest
tenth is kept, and is no better than chance where all are.
"""

from absl import flags

from experiments import common

SETTINGS = ("gaussian", "unrealistic")
UNREALISTIC_SHARE, DISTANCE = 0.7, 3.0


def define():
  """Flags of this binary."""
  common.define_common(num_samples="300", num_generations=8, num_seeds=40, workflows="replace", temperatures=False)
  common.define_compare()
  flags.DEFINE_string("setting", "gaussian", f"One of {', '.join(SETTINGS)}.")
  flags.DEFINE_string("keep_fractions", "0.1,0.2,0.3,0.5,0.75,0.9,1", "Comma list: share of samples that is kept.")
  flags.DEFINE_string("num_neighbors", "1", "A sample's distance is that to so many nearest real rows.")


def simulate(workflows, setting, keep_fractions, num_samples, num_neighbors=1, compare=True, **options):
  """The sweep behind this binary; None after a dry run."""
  def task(keep_fraction, num_samples):
    from collapse_jax import tasks, transforms
    if setting == "gaussian":
      return transforms.select_nearest(tasks.gaussian(1, num_samples), keep_fraction, num_neighbors=num_neighbors)
    from collapse_jax.pairs.selection import unrealistic
    return transforms.select_nearest(unrealistic(num_samples, UNREALISTIC_SHARE, DISTANCE), keep_fraction, lambda rows: rows["x"],
                                     num_neighbors=num_neighbors)
  axes = {"keep_fraction": list(keep_fractions), "num_samples": list(num_samples)}
  metric = "covariance_trace_ratio" if setting == "gaussian" else "accuracy"
  results = common.simulate(task, workflows, axes, static_axes=("keep_fraction",), primary_metric=metric, **options)
  return common.related(results, "selection", "selection", compare, setting=setting, num_neighbors=num_neighbors)


def read():
  """Options of `simulate`, from validated flags."""
  num_samples, num_neighbors = common.integers("num_samples", 2), common.integer("num_neighbors")
  if num_neighbors > min(num_samples):
    raise common.UsageError(f"--num_neighbors must be at most --num_samples, got {num_neighbors}.")
  options = {"setting": common.choice("setting", SETTINGS), "keep_fractions": common.shares("keep_fractions", zero=False),
             "num_samples": num_samples, "num_neighbors": num_neighbors}
  return options | common.related_options() | {"workflows": common.check_workflows(law=False)}


def main():
  common.simulate_and_write("results/selection", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
