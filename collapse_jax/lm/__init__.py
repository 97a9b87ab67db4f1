"""Causal language models: a decoder in Flax NNX behind pure functions, checkpoints, text, training and sampling."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from collapse_jax.lm.checkpoint import LanguageModel, load, random, save

__all__ = ["LanguageModel", "load", "random", "save"]


def __getattr__(name: str):  # so that text can be checked before JAX is imported
  if name in __all__:
    from collapse_jax.lm import checkpoint

    return getattr(checkpoint, name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
