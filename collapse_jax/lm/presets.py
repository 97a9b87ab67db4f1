"""Configurations without weights, for pretraining from scratch: the sizes of Kazdan et al. 2410.16713 on TinyStories.

The shape of `gpt2_9m` follows from its published 8,890,880 parameters; those of the Llamas are chosen to have the published
numbers of millions. Imports no JAX until one is built.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from collapse_jax.lm import text

if TYPE_CHECKING:
  from collapse_jax.lm.checkpoint import LanguageModel

VOCAB_SIZE = 8000
GPT2: dict[str, dict[str, Any]] = {"gpt2_9m": {"n_embd": 256, "n_layer": 8, "n_head": 8, "n_positions": 2048}}
LLAMA: dict[str, dict[str, Any]] = {
    "llama2_12m": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 10, "num_attention_heads": 6},
    "llama2_42m": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 12, "num_attention_heads": 8},
    "llama2_126m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 17, "num_attention_heads": 12},
}
NAMES = (*GPT2, *LLAMA)


def build(name: str, documents: Sequence[text.Document], dtype="float32") -> "LanguageModel":
  """A model with random weights and a tokenizer of 8,000 byte pairs made from the documents."""
  import jax
  from transformers import GPT2Config, LlamaConfig

  from collapse_jax.lm import checkpoint
  tokenizer = text.train_tokenizer((document.text for document in documents), VOCAB_SIZE)
  ids: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
                         "pad_token_id": tokenizer.pad_token_id, "vocab_size": VOCAB_SIZE}
  if name in GPT2:
    config: Any = GPT2Config(**GPT2[name], **ids)
  else:
    config = LlamaConfig(**LLAMA[name], max_position_embeddings=2048, tie_word_embeddings=True, **ids)
  return checkpoint.random(config, jax.random.key(0), dtype, tokenizer)
