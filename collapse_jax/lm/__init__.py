"""Causal language models: a decoder in Flax NNX behind pure functions, checkpoints, text, training and sampling."""

from collapse_jax.lm.checkpoint import LanguageModel, load, random, save

__all__ = ["LanguageModel", "load", "random", "save"]
