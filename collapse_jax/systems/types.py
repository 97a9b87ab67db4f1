"""A published system, and a predicted number beside a simulated one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Pair", "System", "pair"]


class Pair(NamedTuple):
  """One row of the table.

  Attributes:
    system: the loop, in a few words.
    source: arXiv number, or DOI.
    quantity: what is measured, and where (generation, parameters).
    predicted: by a function of `theory`.
    simulated: mean over runs.
    standard_error: of the simulated mean.
    twin: what a theory that is wrong on purpose predicts; None where none is near enough to be worth telling apart.
    reference: what others found for the same quantity, by a formula or by simulation; None: nothing is known.
  """

  system: str
  source: str
  quantity: str
  predicted: float
  simulated: float
  standard_error: float
  twin: float | None = None
  reference: float | None = None

  @property
  def z(self) -> float:
    return (self.simulated - self.predicted) / max(self.standard_error, 1e-30)

  @property
  def twin_z(self) -> float | None:
    return None if self.twin is None else (self.simulated - self.twin) / max(self.standard_error, 1e-30)


def pair(system: str, source: str, quantity: str, values, predicted, twin=None, reference=None) -> Pair:
  """A row from the values [runs] of a quantity; runs that are not finite make the mean so.

  Args:
    system: short name.
    source: equation and paper.
    quantity: what is predicted.
    values: [runs].
    predicted: their mean by theory.
    twin: a prediction that is wrong on purpose, or None.
    reference: a number that the paper reports, or None.
  """
  values = np.asarray(values, np.float64)
  error = values.std(ddof=1) / np.sqrt(len(values))
  twin, reference = (None if x is None else float(x) for x in (twin, reference))
  return Pair(system, source, quantity, float(predicted), float(values.mean()), float(error), twin, reference)


class System(NamedTuple):
  """A published system: what is said, predicted and drawn of it.

  Attributes:
    text: its sections of docs/systems.md. The first paragraph of each says what the system is, and stands in the report; an example
      in Python makes `task` and `workflow`.
    pairs: (seed) -> predictions beside simulations.
    figures: (complete Dataset of its binary's sweep) -> figures by file name.
  """

  text: str
  pairs: Callable[..., list[Pair]]
  figures: Callable[[Any], dict[str, Any]]
