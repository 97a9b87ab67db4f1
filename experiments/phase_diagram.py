"""Where a language model collapses: real share x temperature (or nucleus mass) x adapter rank, and how much real data is enough.

  python -m experiments.phase_diagram
  python -m experiments.phase_diagram --temperatures=1 --top_p=0.8,0.9,1 --lora_rank=0,4

Of `tiny`; all seeds of a cell are one program. Each model is fitted to all num_samples real rows and to as many of the last model
as make the real share, in the same number of steps everywhere. Takes all flags of `language_model`. Expected, in about five
minutes of a core: test loss rises where the temperature is far from 1, and the more so the smaller the real share: without real
rows by 0.83, 0.50, 0.32 and 0.60 nats per token at temperatures 0.6, 0.8, 1 and 1.25, with a fifth by at most 0.18. The line
is the smallest share with which it stays within --tolerance of the first generation's: 0.35, 0.28, 0.15 and 0.27.
"""

from absl import flags

from . import common, flag_values, language_model, output

DEFAULTS = {
  "real_fractions": "0,0.2,0.5,1",
  "temperatures": "0.6,0.8,1,1.25",
  "budget": "steps",
  "budget_amount": "16",
  "num_samples": "64",
  "num_generations": "4",
  "on_malformed": "keep",
  "measure": "few",
}


def define():
  """Flags of this binary."""
  language_model.define()
  for name, value in DEFAULTS.items():
    flag_values.FLAGS.set_default(name, value)
  flags.DEFINE_string(
    "tolerance", "0.02", "Relative change of test loss that is allowed until the last generation, above 0."
  )


def simulate(tolerance, **options):
  """The sweep behind this binary; None after a dry run."""
  results = language_model.simulate(**options)
  if results is not None:
    results.attrs |= {"experiment": "phase_diagram", "tolerance": tolerance}
    if common.is_first_process():
      output.harmless("the smallest share that is enough", judge, results)
  return results


def judge(results):
  """Adds `required_real_fraction` for each cell of the rest of the grid; NaN where no share, or every one, is enough."""
  import numpy as np

  from collapse_jax import decisions

  dims = [dim for dim in results.cell_status.dims if dim not in ("workflow", "real_fraction")]
  shares, lines = np.full([results.sizes[dim] for dim in dims], np.nan), []
  for cell, found in decisions.required_shares(results, results.attrs["tolerance"], "test_loss"):
    place = tuple(list(results[dim].values).index(cell[dim]) for dim in dims)
    shares[place] = found.share
    named = ", ".join(f"{dim}={cell[dim]}" for dim in dims if results.sizes[dim] > 1)
    lines.append(f"{named}: {found}")
  about = {"long_name": "smallest real share that is enough", "units": "1", "tolerance": results.attrs["tolerance"]}
  results["required_real_fraction"] = (dims, shares, about)
  results.attrs["finding"] = "; ".join(lines)
  print("\n".join(lines))


def main():
  options = language_model.read() | {"tolerance": flag_values.positive("tolerance")}
  common.simulate_and_write("results/phase_diagram", simulate, options, compared=["chunk_size"])


if __name__ == "__main__":
  common.main(define, main)
