"""Token editing of bigram text (Zhu et al. 2412.14689): tokens that the model finds likely are drawn anew, nothing is generated.

  python -m experiments.token_editing

Under a minute on 2 cores. Expected: where everything is generated ("none") `replace` raises the test loss generation after
generation while the model's entropy falls. Editing takes mass from tokens above the threshold until none is left: a chain comes
to rest after two rounds, with a little more loss and entropy; the real text edited anew each generation ("anchor") alternates
between much and little editing under `replace`. Both stay bounded.
"""

import os

from absl import flags

from collapse_jax.refused import Refused
from collapse_jax.vocabulary import EDIT_BASES, EDIT_MASKS

from . import common, flag_values

BASES = ("none", *EDIT_BASES)


def define():
  """Flags of this binary."""
  flag_values.define_common(
    num_samples="200", num_generations=12, num_seeds=20, workflows="replace,accumulate", temperatures=False
  )
  flag_values.define_compare()
  flags.DEFINE_string("bases", "none,anchor,chain", f"Comma list among {', '.join(BASES)}: what is edited.")
  flags.DEFINE_string("thresholds", "0.5,0.9", "Comma list: least probability of a token that is edited.")
  flags.DEFINE_string("mask", "fresh", f"One of {', '.join(EDIT_MASKS)}.")
  flags.DEFINE_string("top_k", "8", "Tokens that are drawn from.")
  flags.DEFINE_string("beta", "1", "Divides their log probabilities.")
  flags.DEFINE_string("vocab_size", "30", "Tokens of the generated truth.")
  flags.DEFINE_string("text", None, "A file whose characters the truth is fitted to.")


def simulate(
  workflows,
  bases,
  thresholds,
  num_samples,
  mask="fresh",
  top_k=8,
  beta=1.0,
  vocab_size=30,
  text=None,
  compare=True,
  **options,
):
  """The sweep behind this binary; None after a dry run."""
  table = None
  if text is not None:
    from collapse_jax.lm.text import read_text
    from collapse_jax.tasks._ngram import conditional_frequencies

    with flag_values.given_as("text", text):
      table = conditional_frequencies(read_text(os.path.expanduser(text)).replace("\r\n", "\n").replace("\r", "\n"))
    top_k = min(top_k, len(table))

  def task(base, threshold, num_samples):
    from collapse_jax import tasks, transforms

    one = tasks.ngram(num_samples, vocab_size, truth=table, length=32)
    return one if base == "none" else transforms.edit_tokens(one, threshold, top_k, beta, base=base, mask=mask)

  axes = {"base": list(bases), "threshold": list(thresholds), "num_samples": list(num_samples)}
  results = common.simulate(task, workflows, axes, primary_metric="test_nll", **options)
  return common.related(results, "token_editing", compare)


def read():
  """Options of `simulate`, from validated flags."""
  options = {
    "bases": flag_values.choices("bases", BASES),
    "thresholds": flag_values.shares("thresholds"),
    "num_samples": flag_values.integers("num_samples", 2),
    "mask": flag_values.choice("mask", EDIT_MASKS),
    "top_k": flag_values.integer("top_k"),
    "beta": flag_values.positive("beta"),
    "vocab_size": flag_values.integer("vocab_size", 2),
    "text": flag_values.FLAGS.text,
  }
  if options["text"] is None and options["top_k"] > options["vocab_size"]:
    raise Refused(f"--top_k must be at most --vocab_size={options['vocab_size']}, got {options['top_k']}.")
  return options | flag_values.related_options() | {"workflows": flag_values.check_workflows(law=False)}


def main():
  common.simulate_and_write("results/token_editing", simulate, read())


if __name__ == "__main__":
  common.main(define, main)
