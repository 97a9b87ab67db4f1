"""Causal language models: a decoder in Flax NNX behind pure functions, checkpoints, text, training and sampling."""

import os
from typing import TYPE_CHECKING

from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax.lm import presets as presets
  from collapse_jax.lm import sampling as sampling
  from collapse_jax.lm import text as text
  from collapse_jax.lm import tiny as tiny
  from collapse_jax.lm import training as training
  from collapse_jax.lm.checkpoint import LanguageModel as LanguageModel
  from collapse_jax.lm.checkpoint import load as load
  from collapse_jax.lm.checkpoint import random as random
  from collapse_jax.lm.checkpoint import save as save
  from collapse_jax.lm.peft import Adapters as Adapters
  from collapse_jax.lm.peft import load_adapters as load_adapters
  from collapse_jax.lm.peft import save_adapters as save_adapters
  from collapse_jax.lm.quantisation import quantise as quantise

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch is not there

_HOME = {
  **dict.fromkeys(["LanguageModel", "load", "random", "save"], "checkpoint"),
  **dict.fromkeys(["Adapters", "load_adapters", "save_adapters"], "peft"),
  "quantise": "quantisation",
  **dict.fromkeys(["presets", "sampling", "text", "tiny", "training"], ""),
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
