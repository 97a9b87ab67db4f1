"""Transforms: functions from task-setting to task-setting. They wrap init, fit, sample or evaluate, and chain.

`resample` is the door for what changes the rows that models emit, `observe` for what looks at them.
"""

from collapse_jax.transforms import rewards as rewards
from collapse_jax.transforms import verifiers as verifiers
from collapse_jax.transforms.curation import class_shares as class_shares
from collapse_jax.transforms.curation import curate as curate
from collapse_jax.transforms.editing import edit_labels as edit_labels
from collapse_jax.transforms.editing import edit_tokens as edit_tokens
from collapse_jax.transforms.ensembles import ensemble as ensemble
from collapse_jax.transforms.ensembles import train_on_synthetic as train_on_synthetic
from collapse_jax.transforms.parts import in_rows as in_rows
from collapse_jax.transforms.parts import observe as observe
from collapse_jax.transforms.parts import resample as resample
from collapse_jax.transforms.reweighting import reweight as reweight
from collapse_jax.transforms.selection import select_nearest as select_nearest
from collapse_jax.transforms.verification import verify as verify

__all__ = [
  "class_shares",
  "curate",
  "edit_labels",
  "edit_tokens",
  "ensemble",
  "in_rows",
  "observe",
  "resample",
  "rewards",
  "reweight",
  "select_nearest",
  "train_on_synthetic",
  "verifiers",
  "verify",
]


def __dir__() -> list[str]:
  return __all__
