"""Rows that occur more than once, or in another sample as well. Imports no JAX."""

import collections
from collections.abc import Sequence

import numpy as np

__all__ = ["keys_of_rows", "share_of_copies"]


def keys_of_rows(rows: np.ndarray) -> list[bytes]:
  """The bits of each row of numbers [n, dim] as float64, -0 as 0: equal for equal rows."""
  return [row.tobytes() for row in np.ascontiguousarray(rows + 0.0)]


def share_of_copies(keys: Sequence[bytes], known: Sequence[bytes] | None = None) -> float:
  """Share of keys that are among `known`; without it, of those of which there is another. 0 of no keys.

  Args:
    keys: one for each row, or document.
    known: those of other rows.
  """
  counts = collections.Counter(keys if known is None else known)
  least = 2 if known is None else 1
  return float(np.mean([counts[key] >= least for key in keys])) if keys else 0.0
