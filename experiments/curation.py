"""Curated self-consumption (Ferbach et al. 2407.09499): of every K samples one is kept, by softmax of its reward.

  python -m experiments.curation --setting=ring

Under a minute on 2 cores. Settings: ring (eight Gaussians, reward nearness to one), digits (a mixture fitted to scikit-learn's
digits, reward a quarter of the log probability of a nought by logistic regression), gaussian (reward quadratic), two_types.
Expected: mean reward rises and its variance falls until one mode is left; with real data both level off; adversaries
(--flip_shares) slow the drift, and turn it round above one half.
"""

from absl import flags

from . import common, flag_values

SETTINGS = ("ring", "digits", "gaussian", "two_types")
ABOUT = {
  "two_types": {"share": 0.1, "gap": 1.0},
  "gaussian": {"centre": 2.0, "width": 2.0},
}  # what theory needs to know


def define():
  """Flags of this binary."""
  flag_values.define_common(num_samples="400", num_generations=12, num_seeds=10, workflows=None, temperatures=False)
  flag_values.define_compare()
  flags.DEFINE_string("setting", "ring", f"One of {', '.join(SETTINGS)}.")
  flags.DEFINE_string("num_candidates", "2,8", "Comma list: K, at least 2.")
  flags.DEFINE_string("real_fractions", "0,0.5", "Comma list: share of real rows in training; 0: none.")
  flags.DEFINE_string("flip_shares", "0", "Comma list: share of choices by the opposite of the reward.")


def task_of(setting, num_candidates, num_samples, flip_share):
  from collapse_jax import tasks, transforms
  from collapse_jax.transforms import rewards

  if setting == "ring":
    task, reward = tasks.gaussian_mixture("ring", num_samples, 8), rewards.near([8.0, 0.0])
  elif setting == "gaussian":
    task, reward = tasks.gaussian(1, num_samples, distances=True), rewards.quadratic(**ABOUT[setting])
  elif setting == "two_types":
    share, gap = ABOUT[setting]["share"], ABOUT[setting]["gap"]
    task, reward = tasks.discrete(2, num_samples, [1 - share, share]), lambda rows: gap * rows.astype(float)
  else:
    from collapse_jax.data import real_data

    rows, labels = real_data.digits(8)
    log_probability = rewards.classifier(rows, labels)
    task = tasks.gaussian_mixture((rows[::2], rows[1::2]), num_samples, 10)
    task = transforms.curate(task, num_candidates, lambda rows: log_probability(rows)[:, 0] / 4, flip_share=flip_share)
    return transforms.class_shares(task, log_probability, 10)
  return transforms.curate(task, num_candidates, reward, flip_share=flip_share)


def simulate(setting, num_candidates, real_fractions, flip_shares, num_samples, compare=True, **options):
  """The sweep behind this binary; None after a dry run."""

  def task(num_candidates, num_samples, flip_share):
    return task_of(setting, num_candidates, num_samples, flip_share)

  axes = {
    "num_candidates": list(num_candidates),
    "flip_share": list(flip_shares),
    "num_samples": list(num_samples),
    "real_fraction": list(real_fractions),
  }
  results = common.simulate(
    task,
    ["mix"],
    axes,
    static_axes=("real_fraction",),
    primary_metric="candidate_reward",
    **options,
  )
  return common.related(results, "curation", compare, setting=setting, **ABOUT.get(setting, {}))


def read():
  """Options of `simulate`, from validated flags."""
  return {
    "setting": flag_values.choice("setting", SETTINGS),
    "num_candidates": flag_values.integers("num_candidates", 2),
    "real_fractions": flag_values.shares("real_fractions"),
    "flip_shares": flag_values.shares("flip_shares"),
    "num_samples": flag_values.integers("num_samples", 2),
  } | flag_values.related_options()


def main():
  common.simulate_and_write("results/curation", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
