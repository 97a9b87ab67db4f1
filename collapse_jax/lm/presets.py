"""Configurations without weights, for pretraining from scratch: the sizes of Kazdan et al. 2410.16713 on TinyStories, and
Gemma 2 (2408.00118), for plans of memory as well.

The shape of `gpt2_9m` follows from its published 8,890,880 parameters; those of the Llamas are chosen to have the published
numbers of millions. Imports no JAX until one is built.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from collapse_jax.lm import text

if TYPE_CHECKING:
  from collapse_jax.lm.checkpoint import LanguageModel

__all__ = ["NAMES", "build"]

VOCAB_SIZE = 8000
GPT2: dict[str, dict[str, Any]] = {"gpt2_9m": {"n_embd": 256, "n_layer": 8, "n_head": 8, "n_positions": 2048}}
LLAMA: dict[str, dict[str, Any]] = {
  "llama2_12m": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 10, "num_attention_heads": 6},
  "llama2_42m": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 12, "num_attention_heads": 8},
  "llama2_126m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 17, "num_attention_heads": 12},
}
GEMMA2: dict[str, dict[str, Any]] = {
  "gemma2_2b": {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
  },
  "gemma2_9b": {
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_hidden_layers": 42,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
  },
  "gemma2_27b": {
    "hidden_size": 4608,
    "intermediate_size": 36864,
    "num_hidden_layers": 46,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "head_dim": 128,
    "query_pre_attn_scalar": 144,
  },
}
NAMES = (*GPT2, *LLAMA, *GEMMA2)


def build(name: str, documents: Sequence[text.Document], dtype="float32", abstract: bool = False) -> "LanguageModel":
  """A model with random weights and a tokenizer of 8,000 byte pairs made from the documents.

  Args:
    abstract: give shapes and dtypes in place of weights.
  """
  import jax
  from transformers import Gemma2Config, GPT2Config, LlamaConfig

  from collapse_jax.lm import checkpoint, decoder, families
  from collapse_jax.random import new_key

  tokenizer = text.train_tokenizer((document.text for document in documents), VOCAB_SIZE)
  ids: dict[str, Any] = {
    "bos_token_id": tokenizer.bos_token_id,
    "eos_token_id": tokenizer.eos_token_id,
    "pad_token_id": tokenizer.pad_token_id,
    "vocab_size": VOCAB_SIZE,
  }
  if name in GPT2:
    config: Any = GPT2Config(**GPT2[name], **ids)
  elif name in LLAMA:
    config = LlamaConfig(**LLAMA[name], max_position_embeddings=2048, tie_word_embeddings=True, **ids)
  else:
    config = Gemma2Config(**GEMMA2[name], **ids | {"vocab_size": 256_000})
  if abstract:
    params = decoder.abstract_params(families.architecture(config), jax.numpy.dtype(dtype))
    return checkpoint.made(config, params, tokenizer)
  return checkpoint.random(config, new_key(0), dtype, tokenizer)
