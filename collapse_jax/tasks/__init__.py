"""Task-settings: one factory a file."""

from collapse_jax.tasks.classification import classification as classification
from collapse_jax.tasks.discrete import discrete as discrete
from collapse_jax.tasks.exponential_family import exponential_family as exponential_family
from collapse_jax.tasks.gaussian import gaussian as gaussian
from collapse_jax.tasks.gaussian_mixture import gaussian_mixture as gaussian_mixture
from collapse_jax.tasks.kde import kde as kde
from collapse_jax.tasks.labelled import labelled as labelled
from collapse_jax.tasks.linear_regression import linear_regression as linear_regression
from collapse_jax.tasks.logistic_regression import logistic_regression as logistic_regression
from collapse_jax.tasks.ngram import ngram as ngram
from collapse_jax.tasks.sample_median import sample_median as sample_median
from collapse_jax.tasks.unrealistic import unrealistic as unrealistic


def __getattr__(name: str):  # Flax, optax and transformers take seconds to import, which no other task needs
  if name in ("language_model", "Adapters"):
    from collapse_jax.tasks import language_models

    return getattr(language_models, name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
