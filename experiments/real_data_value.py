"""What real rows are worth beside synthetic ones: their number against their share (Kazdan et al. 2410.16713, section 4).

  python -m experiments.real_data_value --num_real=0,64,256 --num_synthetic=0,64,256

A generator is fitted to real rows and writes synthetic ones; the base is then fitted to num_real rows of the first kind and
num_synthetic of the second, once for each cell. Results have the dims num_real, num_synthetic and seed. About 100 seconds on
2 cores. Expected: test loss falls with num_real in every column, and synthetic rows of `tiny` do not make up for real ones.
"""

from absl import flags

from collapse_jax import vocabulary
from collapse_jax.refused import Refused

from . import common, flag_values, language_flags


def define():
  """Flags of this binary."""
  language_flags.define(num_samples=False)
  flags.DEFINE_string("num_real", "0,32,128,512", "Comma list: real rows.")
  flags.DEFINE_string("num_synthetic", "0,32,128,512", "Comma list: synthetic rows.")
  flags.DEFINE_string("num_generator", "auto", "Real rows that the generator is fitted to; auto: the largest num_real.")
  flags.DEFINE_string("num_seeds", "3", "Runs.")
  flag_values.define_shared()


def simulate(num_real, num_synthetic, num_generator=0, *, num_seeds=3, seed=0, chunk_size=0, directory=None, **model):
  """One fit for each cell and seed; a Dataset, or None after a dry run.

  Args:
    directory: for the metrics of finished cells; None: they are not written.
    model: which, and how it is trained on what: see `language_flags.setting`.
  """
  setting = language_flags.setting(**model)
  from collapse_jax.systems import real_data_value as value

  if flag_values.dry_run():
    print(value.plan(setting, num_real, num_synthetic, num_generator, num_seeds=num_seeds))
    return None
  results = value.simulate(
    setting,
    num_real,
    num_synthetic,
    num_generator,
    num_seeds=num_seeds,
    seed=seed,
    chunk_size=chunk_size,
    directory=directory,
    resume=flag_values.flag("resume", False),
    progress=True,
  )
  print(results.attrs["finding"])
  return results


def read():
  """Options of `simulate`, from validated flags."""
  flag = flag_values.FLAGS
  options = language_flags.read()
  for name in options.pop("axes"):
    raise Refused(f"--{name} takes a single value here, got {getattr(flag, name)!r}.")
  options |= {
    "num_real": flag_values.integers("num_real", 0),
    "num_synthetic": flag_values.integers("num_synthetic", 0),
    "num_generator": 0 if flag.num_generator == "auto" else flag_values.integer("num_generator", 2),
    "num_seeds": flag_values.integer("num_seeds"),
    "seed": flag_values.integer("seed", 0),
    "chunk_size": flag_values.integer("chunk_size", 0),
  }
  for name in ("num_real", "num_synthetic"):
    if len(set(options[name])) < len(options[name]):
      raise Refused(f"--{name} names a value twice: {getattr(flag, name)}.")
  vocabulary.check_num_generator(options["num_generator"] or max(options["num_real"]))
  if flag.distributed or flag.devices not in ("auto", "1"):
    raise Refused("--devices and --distributed are not for this experiment: its runs share one device.")
  language_flags.check_dataset(flag.dataset, options["max_documents"])
  return options


def main():
  common.simulate_and_write("results/real_data_value", simulate, read(), compared=["chunk_size"])


if __name__ == "__main__":
  common.main(define, main)
