"""The table of closed forms against simulation: every |z| below 5, and every wrong twin above."""

import numpy as np
import pytest

from collapse_jax import validation

CELLS = validation.cells()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.setting}, {cell.workflow[:20]}".replace(" ", "_"))
def test_simulation_follows_theory(cell):
  for row in validation.check(cell):
    assert abs(row["z"]) < validation.MAX_Z, row
    assert all(z > validation.MAX_Z for z in row["twins"].values()), row


def test_the_table_is_long_enough():
  """At least 60 pairs of form and workflow and setting; only martingales, sums and what does not change have no twin."""
  laws = [(cell.setting, cell.workflow, law.form) for cell in CELLS for law in cell.laws]
  assert len(set(laws)) == len(laws) >= 60
  assert np.mean([bool(law.twins) for cell in CELLS for law in cell.laws]) > 0.7
