"""Conformers of small molecules, fed on what a model of their torsions wrote (after 2404.01413).

  python -m experiments.molecules
  python -m experiments.molecules --molecules=alkane --models=von_mises,diffusion

A few minutes on 2 cores. Names other than alkane, and SMILES, need rdkit (extra molecules). Expected: under `replace` the variance
of lengths and angles is on the dashed line, (1 - 1/n) a generation; with --models=diffusion strain and distances to real conformers
grow with each generation, and level off under `accumulate`.
"""

import importlib.util

from absl import flags

from collapse_jax.refused import Refused

from . import common, flag_values

MODELS = ("von_mises", "diffusion")
PUBLISHED = "butane,alanine_dipeptide,ibuprofen"


def define():
  """Flags of this binary."""
  flag_values.define_common(
    num_samples="100", num_generations=10, num_seeds=10, workflows="replace,accumulate", temperatures=False
  )
  flag_values.define_compare()
  flags.DEFINE_string("molecules", PUBLISHED, "Comma list: these, alkane (six carbons of a known law), or SMILES.")
  flags.DEFINE_string("models", "von_mises", f"Comma list among {', '.join(MODELS)}: of torsions.")
  flags.DEFINE_string("num_conformers", "500", "Of a molecule, from which real ones are taken.")
  flags.DEFINE_string("num_components", "8", "Of a mixture.")
  flags.DEFINE_string("threshold", "0.5", "Of coverage, angstrom.")


def simulate(
  workflows,
  molecules,
  models,
  num_samples,
  num_conformers=500,
  num_components=8,
  threshold=0.5,
  compare=True,
  **options,
):
  """The sweep behind this binary; None after a dry run."""

  def task(molecule, model, num_samples):
    from collapse_jax import tasks
    from collapse_jax.data import molecules as source

    found = source.alkane(6, num_conformers) if molecule == "alkane" else source.conformers(molecule, num_conformers)
    return tasks.molecules(found, num_samples, model, num_components=num_components, threshold=threshold)

  axes = {"molecule": list(molecules), "model": list(models), "num_samples": list(num_samples)}
  results = common.simulate(task, workflows, axes, primary_metric="torsion_divergence", **options)
  return common.related(results, "molecules", compare)


def available():
  """The molecules that can be had here."""
  return ["alkane", *(PUBLISHED.split(",") if importlib.util.find_spec("rdkit") else [])]


def read():
  """Options of `simulate`, from validated flags."""
  molecules = flag_values.items("molecules")
  if set(molecules) != {"alkane"} and importlib.util.find_spec("rdkit") is None:
    raise Refused(f"--molecules={','.join(molecules)} needs rdkit: pip install 'collapse-jax[molecules]'.")
  num_samples, num_conformers = flag_values.integers("num_samples", 2), flag_values.integer("num_conformers", 2)
  if max(num_samples) > num_conformers:
    raise Refused(f"--num_samples must be at most --num_conformers={num_conformers}, got {max(num_samples)}.")
  options = {
    "molecules": molecules,
    "models": flag_values.choices("models", MODELS),
    "num_conformers": num_conformers,
    "num_components": flag_values.integer("num_components"),
    "threshold": flag_values.positive("threshold"),
    "num_samples": num_samples,
  }
  options |= flag_values.related_options() | {"workflows": flag_values.check_workflows(law=False)}
  from collapse_jax.data import molecules as source  # which embeds for seconds: last

  for name in molecules:
    if name != "alkane":
      with flag_values.given_as("molecules", name):
        found = source.conformers(name, num_conformers)
      if max(num_samples) > len(found.rows):
        raise Refused(f"--num_samples must be at most {len(found.rows)}: no more conformers of {name} can be embedded.")
  return options


def main():
  common.simulate_and_write("results/molecules", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
