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
from collapse_jax.transforms.extrapolation import correct as correct
from collapse_jax.transforms.extrapolation import extrapolate as extrapolate
from collapse_jax.transforms.extrapolation import negative_guidance as negative_guidance
from collapse_jax.transforms.parts import in_rows as in_rows
from collapse_jax.transforms.parts import observe as observe
from collapse_jax.transforms.parts import resample as resample
from collapse_jax.transforms.reweighting import reweight as reweight
from collapse_jax.transforms.selection import farthest_point as farthest_point
from collapse_jax.transforms.selection import probe_filter as probe_filter
from collapse_jax.transforms.selection import select_nearest as select_nearest
from collapse_jax.transforms.selection import threshold_filter as threshold_filter
from collapse_jax.transforms.verification import verify as verify

__all__ = [
  "class_shares",
  "correct",
  "curate",
  "edit_labels",
  "edit_tokens",
  "ensemble",
  "extrapolate",
  "farthest_point",
  "in_rows",
  "negative_guidance",
  "observe",
  "probe_filter",
  "resample",
  "rewards",
  "reweight",
  "select_nearest",
  "threshold_filter",
  "train_on_synthetic",
  "verifiers",
  "verify",
]


def __dir__() -> list[str]:
  return __all__
