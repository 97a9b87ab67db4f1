"""Edited labels of a linear regression: the analysis behind token editing (Zhu et al. 2412.14689), and where its bound ends.

  python -m experiments.label_editing

A minute on 2 cores. Expected: with additive noise and masks that never overlap the error stays below twice the first one, the
paper's bound. With fresh masks it grows without end, by the share m a generation, and by m (2 - m) where the model makes labels
anew; on the real labels ("anchor") it comes to rest at 1 + m (2 - m) / (1 - m^2), with one fixed mask at (1 + 2 m) / (1 - m^2).
"""

from absl import flags

from collapse_jax.refused import Refused
from collapse_jax.vocabulary import EDIT_BASES, EDIT_MASKS, EDIT_NOISES

from . import common, flag_values


def define():
  """Flags of this binary."""
  flag_values.define_common(
    num_samples="1000", num_generations=12, num_seeds=400, workflows="replace", temperatures=False
  )
  flag_values.define_compare()
  flags.DEFINE_string("bases", "anchor,chain", f"Comma list among {', '.join(EDIT_BASES)}: which labels are edited.")
  flags.DEFINE_string("masks", "fresh,fixed,disjoint", f"Comma list among {', '.join(EDIT_MASKS)}.")
  flags.DEFINE_string("noises", "regenerated,additive", f"Comma list among {', '.join(EDIT_NOISES)}.")
  flags.DEFINE_string("shares", "0.1,0.25", "Comma list: share of the labels that is edited in a generation.")
  flags.DEFINE_string("dims", "2", "Comma list: dimensions, far below num_samples where theory is to hold.")


def simulate(workflows, bases, masks, noises, shares, dims, num_samples, compare=True, **options):
  """The sweep behind this binary; None after a dry run."""

  def task(base, mask, noise, share, dim, num_samples):
    from collapse_jax import tasks, transforms

    one = tasks.linear_regression(dim, num_samples, draws="rows")
    return transforms.edit_labels(one, share, base=base, mask=mask, noise=noise)

  axes = {
    "noise": list(noises),
    "base": list(bases),
    "mask": list(masks),
    "share": list(shares),
    "dim": list(dims),
    "num_samples": list(num_samples),
  }
  results = common.simulate(task, workflows, axes, primary_metric="test_mse", **options)
  return common.related(results, "label_editing", compare)


def read():
  """Options of `simulate`, from validated flags."""
  dims, num_samples = flag_values.integers("dims"), flag_values.integers("num_samples", 2)
  if max(dims) >= min(num_samples):
    raise Refused(f"--dims must be below --num_samples, got {max(dims)}.")
  options = {
    "bases": flag_values.choices("bases", EDIT_BASES),
    "masks": flag_values.choices("masks", EDIT_MASKS),
    "noises": flag_values.choices("noises", EDIT_NOISES),
    "shares": flag_values.shares("shares", zero=False),
    "dims": dims,
    "num_samples": num_samples,
  }
  return options | flag_values.related_options() | {"workflows": flag_values.check_workflows(law=False)}


def main():
  common.simulate_and_write("results/label_editing", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
