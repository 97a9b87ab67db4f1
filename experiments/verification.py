"""Verified synthetic labels (Feng et al. 2406.07515): accuracy over the generator's errors and what a verifier lets pass.

  python -m experiments.verification
  python -m experiments.verification --labels=model --errors=0.3 --num_generations=10 --verifiers=none,noisy,oracle

Half a minute on 2 cores. Expected: after one round accuracy jumps from near 1 to near 0 where the generator's error rate p
passes the breakdown point 1 / (1 + psi/phi). In the second form each model labels for the next: inputs in two clusters mend the
errors of the first labels by themselves, a verifier does so within one round.
"""

from absl import flags

from experiments import common

VERIFIERS = ("none", "noisy", "oracle")


def define():
  """Flags of this binary."""
  common.define_common(num_samples="4000", num_generations=2, num_seeds=20, workflows="replace", temperatures=False)
  common.define_compare()
  flags.DEFINE_string("errors", "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9", "Comma list: p, share of wrong labels.")
  flags.DEFINE_string("psis", "0,0.1,0.2,0.4,0.6,0.8,1", "Comma list: chance that a noisy verifier keeps a wrong label.")
  flags.DEFINE_string("phi", "1", "Chance that it keeps a right one.")
  flags.DEFINE_string("verifiers", "noisy", f"Comma list among {', '.join(VERIFIERS)}.")
  flags.DEFINE_string("labels", "noisy", "noisy: labels are wrong with probability p whatever the model; model: its own labels.")
  flags.DEFINE_string("dim", "100", "Dimensions of the inputs.")
  flags.DEFINE_string("separation", "1", "Distance of a class from 0, in standard deviations.")


def simulate(workflows, errors, psis, num_samples, phi=1.0, verifiers=("noisy",), labels="noisy", dim=100, separation=1.0,
             compare=True, **options):
  """The sweep behind this binary; None after a dry run."""
  def task(label_error, psi, verifier, num_samples):
    from collapse_jax import tasks, transforms
    from collapse_jax import verifiers as known
    one = tasks.classification(dim, num_samples, separation, label_error=label_error, labels=labels)
    keep = {"none": known.noisy(1.0, 1.0), "noisy": known.noisy(phi, psi), "oracle": known.oracle()}[verifier]
    return transforms.verify(one, keep)

  axes = {"label_error": list(errors), "psi": list(psis), "verifier": list(verifiers), "num_samples": list(num_samples)}
  results = common.simulate(task, workflows, axes, primary_metric="accuracy", **options)
  return common.related(results, "verification", "verification", compare, phi=phi, labels=labels, dim=dim, separation=separation)


def read():
  """Options of `simulate`, from validated flags."""
  options = {"errors": common.shares("errors"), "psis": common.shares("psis"), "phi": common.share("phi", zero=False),
             "verifiers": common.choices("verifiers", VERIFIERS), "labels": common.choice("labels", ("noisy", "model")),
             "num_samples": common.integers("num_samples", 2), "dim": common.integer("dim", 2),
             "separation": common.positive("separation")}
  return options | common.related_options() | {"workflows": common.check_workflows(law=False)}


def main():
  common.simulate_and_write("results/verification", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
