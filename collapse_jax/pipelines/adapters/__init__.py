"""Pipelines of what others have written: libraries, programs of any language, servers. Packages are imported on first use."""

from typing import TYPE_CHECKING

from collapse_jax import lazy

if TYPE_CHECKING:
  from collapse_jax.pipelines.adapters._command import command as command
  from collapse_jax.pipelines.adapters._huggingface import huggingface as huggingface
  from collapse_jax.pipelines.adapters._openai import openai as openai
  from collapse_jax.pipelines.adapters._sklearn import sklearn as sklearn
  from collapse_jax.pipelines.adapters._tables import ctgan as ctgan
  from collapse_jax.pipelines.adapters._tables import sdgym as sdgym
  from collapse_jax.pipelines.adapters._tables import sdv as sdv
  from collapse_jax.pipelines.adapters._tables import synthcity as synthcity
  from collapse_jax.pipelines.adapters._vllm import vllm_batch as vllm_batch

_HOME = {
  **{name: f"_{name}" for name in ("command", "huggingface", "openai", "sklearn")},
  **dict.fromkeys(["ctgan", "sdgym", "sdv", "synthcity"], "_tables"),
  "vllm_batch": "_vllm",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy.attach(__name__, _HOME)
