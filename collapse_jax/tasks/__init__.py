"""Task-settings: one factory a file."""

from collapse_jax.tasks._classification import classification as classification
from collapse_jax.tasks._discrete import discrete as discrete
from collapse_jax.tasks._exponential_family import exponential_family as exponential_family
from collapse_jax.tasks._gaussian import gaussian as gaussian
from collapse_jax.tasks._gaussian_mixture import gaussian_mixture as gaussian_mixture
from collapse_jax.tasks._kde import kde as kde
from collapse_jax.tasks._labelled import labelled as labelled
from collapse_jax.tasks._linear_regression import linear_regression as linear_regression
from collapse_jax.tasks._logistic_regression import logistic_regression as logistic_regression
from collapse_jax.tasks._ngram import ngram as ngram
from collapse_jax.tasks._sample_median import sample_median as sample_median
from collapse_jax.tasks._unrealistic import unrealistic as unrealistic


def __getattr__(name: str):  # Flax, optax and transformers take seconds to import, which no other task needs
  if name in ("language_model", "Adapters"):
    from collapse_jax.tasks import _language_model

    return getattr(_language_model, name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
