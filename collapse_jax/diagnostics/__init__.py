"""What results say: verdicts on curves, published definitions of collapse, simulation beside theory. Reads Datasets only."""

from collapse_jax.diagnostics.beside_theory import Law as Law
from collapse_jax.diagnostics.beside_theory import compare_with_theory as compare_with_theory
from collapse_jax.diagnostics.beside_theory import normal_deviate as normal_deviate
from collapse_jax.diagnostics.beside_theory import predicted as predicted
from collapse_jax.diagnostics.beside_theory import predicted_limit as predicted_limit
from collapse_jax.diagnostics.curves import Verdict as Verdict
from collapse_jax.diagnostics.curves import verdict as verdict
from collapse_jax.diagnostics.definitions import diagnose as diagnose
from collapse_jax.diagnostics.judgement import resolution as resolution
from collapse_jax.diagnostics.judgement import verdict_of as verdict_of
from collapse_jax.diagnostics.judgement import verdicts as verdicts
from collapse_jax.diagnostics.long_form import long_form as long_form
from collapse_jax.diagnostics.reading import cells as cells
from collapse_jax.diagnostics.reading import complete as complete
from collapse_jax.diagnostics.reading import metrics as metrics
from collapse_jax.diagnostics.reading import null_of as null_of

__all__ = [
  "Law",
  "Verdict",
  "cells",
  "compare_with_theory",
  "complete",
  "diagnose",
  "long_form",
  "metrics",
  "normal_deviate",
  "null_of",
  "predicted",
  "predicted_limit",
  "resolution",
  "verdict",
  "verdict_of",
  "verdicts",
]


def __dir__() -> list[str]:
  return __all__
