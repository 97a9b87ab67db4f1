"""The published systems, a line each. A result says in `attrs["system"]` which one it is of."""

from collapse_jax.systems import (
  curation,
  detector_resampling,
  ensembles,
  flow,
  label_editing,
  mixed_tables,
  mixtures,
  molecules,
  selection,
  temperature,
  token_editing,
  traffic,
  vae,
  verification,
)
from collapse_jax.systems.types import System

__all__ = ["SYSTEMS"]

SYSTEMS: dict[str, System] = {
  "token_editing": token_editing.SYSTEM,
  "label_editing": label_editing.SYSTEM,
  "curation": curation.SYSTEM,
  "verification": verification.SYSTEM,
  "temperature": temperature.SYSTEM,
  "mixtures": mixtures.SYSTEM,
  "selection": selection.SYSTEM,
  "ensembles": ensembles.SYSTEM,
  "flow": flow.SYSTEM,
  "detector_resampling": detector_resampling.SYSTEM,
  "traffic": traffic.SYSTEM,
  "molecules": molecules.SYSTEM,
  "vae": vae.SYSTEM,
  "table": mixed_tables.SYSTEM,
}
