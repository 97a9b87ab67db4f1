"""Task-settings: one factory a file.

Imports on first use: Flax, optax and transformers take seconds to import, which only language models need.
"""

from typing import TYPE_CHECKING

from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax.tasks._ar_window import ar_window as ar_window
  from collapse_jax.tasks._classification import classification as classification
  from collapse_jax.tasks._discrete import discrete as discrete
  from collapse_jax.tasks._exponential_family import exponential_family as exponential_family
  from collapse_jax.tasks._flow import flow as flow
  from collapse_jax.tasks._gaussian import gaussian as gaussian
  from collapse_jax.tasks._gaussian_mixture import gaussian_mixture as gaussian_mixture
  from collapse_jax.tasks._kde import kde as kde
  from collapse_jax.tasks._labelled import labelled as labelled
  from collapse_jax.tasks._language_model import Adapters as Adapters
  from collapse_jax.tasks._language_model import language_model as language_model
  from collapse_jax.tasks._linear_regression import linear_regression as linear_regression
  from collapse_jax.tasks._logistic_regression import logistic_regression as logistic_regression
  from collapse_jax.tasks._molecules import molecules as molecules
  from collapse_jax.tasks._ngram import ngram as ngram
  from collapse_jax.tasks._normalizing_flow import normalizing_flow as normalizing_flow
  from collapse_jax.tasks._ppca import ppca as ppca
  from collapse_jax.tasks._sample_median import sample_median as sample_median
  from collapse_jax.tasks._table import table as table
  from collapse_jax.tasks._unrealistic import unrealistic as unrealistic
  from collapse_jax.tasks._vae import vae as vae

_NAMES = (
  "ar_window",
  "classification",
  "discrete",
  "exponential_family",
  "flow",
  "gaussian",
  "gaussian_mixture",
  "kde",
  "labelled",
  "linear_regression",
  "logistic_regression",
  "molecules",
  "ngram",
  "normalizing_flow",
  "ppca",
  "sample_median",
  "table",
  "unrealistic",
  "vae",
)
_HOME = {name: f"_{name}" for name in _NAMES} | dict.fromkeys(["Adapters", "language_model"], "_language_model")

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
