"""Generators of the user's own in the loop: any object with `fit` and `sample`, in whatever framework or language.

Imports on first use: what is asked for is checked, and steps run, before JAX is imported, or without it.
"""

from typing import TYPE_CHECKING

from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax.pipelines import kinds as kinds
  from collapse_jax.pipelines._lineage import Lineage as Lineage
  from collapse_jax.pipelines._lineage import lineage as lineage
  from collapse_jax.pipelines._lineage import withdraw as withdraw
  from collapse_jax.pipelines._loop import loop as loop
  from collapse_jax.pipelines._loop import on_data as on_data
  from collapse_jax.pipelines._protocol import Pipeline as Pipeline
  from collapse_jax.pipelines._protocol import resampled as resampled
  from collapse_jax.pipelines.adapters import command as command
  from collapse_jax.pipelines.adapters import ctgan as ctgan
  from collapse_jax.pipelines.adapters import huggingface as huggingface
  from collapse_jax.pipelines.adapters import openai as openai
  from collapse_jax.pipelines.adapters import sdgym as sdgym
  from collapse_jax.pipelines.adapters import sdv as sdv
  from collapse_jax.pipelines.adapters import sklearn as sklearn
  from collapse_jax.pipelines.adapters import synthcity as synthcity
  from collapse_jax.pipelines.adapters import vllm_batch as vllm_batch

_HOME = {
  **dict.fromkeys(["Lineage", "lineage", "withdraw"], "_lineage"),
  **dict.fromkeys(["loop", "on_data"], "_loop"),
  **dict.fromkeys(["Pipeline", "resampled"], "_protocol"),
  **dict.fromkeys(
    ["command", "ctgan", "huggingface", "openai", "sdgym", "sdv", "sklearn", "synthcity", "vllm_batch"], "adapters"
  ),
  "kinds": "",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
