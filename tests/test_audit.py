"""The audit of all tasks under all workflows, in small; `python -m benchmarks.audit` is the whole."""

import numpy as np
import pytest

from benchmarks import audit

CELLS = [
  ("gaussian", "sliding_window(2)", (3, 100)),
  ("gaussian", "mix(0.3, fresh=True, real_weight=0.6)", (2,)),
  ("bernoulli", "replace(5)", (3, 100)),
  ("poisson", "mix(0.56)", (100,)),
  ("discrete, unequal", "mix(0.2)", (3,)),
  ("discrete, renumbered", "accumulate", (3,)),
  ("kde", "accumulate_subsample", (30,)),
  ("linear regression", "sliding_window(2)", (3, 40)),
  ("sample median", "grown_replace", (3,)),
  ("classification", "accumulate(5)", (30,)),
]


def largest(rows) -> float:
  assert rows and all(np.isfinite(row["z"]) for row in rows), rows
  return max(abs(row["z"]) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "workflow", "sizes"), CELLS)
def test_cells(task, workflow, sizes):
  assert largest(audit.audit(task, workflow, 150, sizes=sizes)) < 5


@pytest.mark.slow
def test_moments_and_a_wrong_reference(monkeypatch):
  """Batches of a million and a billion rows; a reference that keeps one batch more is another law, at any size."""
  rows = audit.audit("bernoulli", "sliding_window(2)", 300)
  assert {row["n"] for row in rows} >= {10**6, 10**9} and largest(rows) < 5
  monkeypatch.setitem(audit.FLOWS, "sliding_window(2)", audit.FLOWS["sliding_window(3)"])
  wrong = audit.audit("bernoulli", "sliding_window(2)", 300)
  assert all(largest([row for row in wrong if row["n"] == n]) > 5 for n in (100, 10**6, 10**9))
