"""What results say: verdicts on curves, published definitions of collapse, simulation beside theory. Reads Datasets only."""

from collapse_jax.diagnostics.beside_theory import Expected as Expected
from collapse_jax.diagnostics.beside_theory import cells as cells
from collapse_jax.diagnostics.beside_theory import compare_with_theory as compare_with_theory
from collapse_jax.diagnostics.beside_theory import complete as complete
from collapse_jax.diagnostics.beside_theory import metrics as metrics
from collapse_jax.diagnostics.beside_theory import normal_deviate as normal_deviate
from collapse_jax.diagnostics.beside_theory import predicted as predicted
from collapse_jax.diagnostics.beside_theory import predicted_collapse_time as predicted_collapse_time
from collapse_jax.diagnostics.beside_theory import predicted_limit as predicted_limit
from collapse_jax.diagnostics.beside_theory import resolution as resolution
from collapse_jax.diagnostics.beside_theory import smallest_bounded_share as smallest_bounded_share
from collapse_jax.diagnostics.beside_theory import verdict_of as verdict_of
from collapse_jax.diagnostics.beside_theory import verdicts as verdicts
from collapse_jax.diagnostics.curves import Verdict as Verdict
from collapse_jax.diagnostics.curves import verdict as verdict
from collapse_jax.diagnostics.definitions import diagnose as diagnose
