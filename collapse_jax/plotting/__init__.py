"""Figures of results: read Datasets, never run anything."""

from collapse_jax.plotting.figures import collapse_times as collapse_times
from collapse_jax.plotting.figures import figures_for as figures_for
from collapse_jax.plotting.figures import fitted_densities as fitted_densities
from collapse_jax.plotting.figures import learning_curves as learning_curves
from collapse_jax.plotting.figures import loss_histograms as loss_histograms
from collapse_jax.plotting.figures import metric_against_real_share as metric_against_real_share
from collapse_jax.plotting.figures import phase_diagram as phase_diagram
from collapse_jax.plotting.figures import render as render
from collapse_jax.plotting.figures import side_by_side as side_by_side
from collapse_jax.plotting.figures import trajectories as trajectories
from collapse_jax.plotting.figures import value_curves as value_curves
from collapse_jax.plotting.figures import value_map as value_map
from collapse_jax.plotting.panels import png as png
from collapse_jax.plotting.panels import text_of as text_of
from collapse_jax.plotting.schedules import learned_schedule as learned_schedule

__all__ = [
  "collapse_times",
  "figures_for",
  "fitted_densities",
  "learned_schedule",
  "learning_curves",
  "loss_histograms",
  "metric_against_real_share",
  "phase_diagram",
  "png",
  "render",
  "side_by_side",
  "text_of",
  "trajectories",
  "value_curves",
  "value_map",
]


def __dir__() -> list[str]:
  return __all__
