"""Predictions of the related systems beside simulations: each holds, and a theory that is wrong on purpose does not."""

import pytest

from collapse_jax.systems.table import SYSTEMS

# No prediction gets lost.
AT_LEAST = {
  "curation": 26,
  "temperature": 19,
  "mixtures": 11,
  "selection": 13,
  "verification": 22,
  "token_editing": 3,
  "label_editing": 7,
  "ensembles": 13,
  "flow": 65,
  "traffic": 15,
  "molecules": 2,
  "vae": 6,
  "table": 6,
}
# References that are limits (of many generations, candidates or rows, or to first order), simulations, or of another truth.
LOOSE = {
  "K = 256": 0.03,
  "variance, K = 4": 0.01,
  "accuracy, phi": 0.03,
  "angle to the truth": 0.03,
  "50 neighbours": 0.05,
  "slope of log": 0.011,
  "8 in 10 balls": 0.03,
  "ten samplings": 0.012,
  "nearest fifth": 0.02,
  "coverage of 1.96": 0.012,
  "standard deviation of model": 5e-3,
}


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_predicted_is_simulated(system):
  rows = SYSTEMS[system].pairs()
  assert len(rows) >= AT_LEAST.get(system, 1)
  for row in rows:
    assert abs(row.z) < 5, row
    assert row.twin is None or abs(row.twin_z) > 5, row
    tolerance = next((value for text, value in LOOSE.items() if text in row.quantity), 6e-3)
    assert row.reference is None or row.predicted == pytest.approx(row.reference, rel=tolerance, abs=6e-4), row
  assert sum(row.twin is not None for row in rows) >= len(rows) - 2
