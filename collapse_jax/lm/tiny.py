"""`tiny`: a Llama of 0.26 million parameters, pretrained within seconds on documentation that ships with Python.

It stands in for a pretrained base where nothing can be downloaded. Pretraining text shares no module with the real data that
generations are fitted to, nor with test text.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from collapse_jax.lm import checkpoint, text, training
from collapse_jax.lm.checkpoint import LanguageModel
from collapse_jax.random import new_key

VOCAB_SIZE, MAX_SEQ_LEN = 1024, 64
SHAPE: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True}
# Half an epoch: it must write the format, and yet have much to learn from more data.
RECIPE = training.Recipe(learning_rate=1e-3, amount=0.5, batch_size=16)
FORMAT = 1  # raise when anything else about the base changes


def load(dtype=jnp.float32, cache_dir=None) -> LanguageModel:
  """The base, from `cache_dir` or made anew (in about fifteen seconds, the same on the same machine).

  Args:
    cache_dir: default $XDG_CACHE_HOME/collapse_jax or ~/.cache/collapse_jax.
  """
  base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
  cache = Path(cache_dir) if cache_dir else base / "collapse_jax"
  documents = text.load("pydocs", "base")
  about = [text.fingerprint(documents), VOCAB_SIZE, MAX_SEQ_LEN, SHAPE, RECIPE, FORMAT, jax.__version__]
  directory = cache / f"tiny-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}"
  if not directory.is_dir():
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as part:
      checkpoint.save(pretrain(documents), Path(part) / "tiny")
      if not directory.is_dir():
        shutil.move(Path(part) / "tiny", directory)
  return checkpoint.load(directory, dtype)


def untrained(documents) -> LanguageModel:
  """Random weights, and a tokenizer made from the documents."""
  from transformers import LlamaConfig
  tokenizer = text.train_tokenizer([document.text for document in documents], VOCAB_SIZE)
  config = LlamaConfig(vocab_size=VOCAB_SIZE, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                       pad_token_id=tokenizer.pad_token_id, **SHAPE)
  return checkpoint.random(config, new_key(0), tokenizer=tokenizer)


def pretrain(documents) -> LanguageModel:
  """`untrained`, fitted to those documents that have at most MAX_SEQ_LEN tokens."""
  model = untrained(documents)
  rows = text.to_rows(model.tokenizer, documents, MAX_SEQ_LEN, VOCAB_SIZE)

  @jax.jit
  def fit(params, tokens, length):
    nothing = lambda weights: jnp.zeros(())
    return training.fit(new_key(1), model.apply, RECIPE, params, tokens, length, jnp.ones(tokens.shape[0]), nothing,
                        curve_points=1)
  return model._replace(params=fit(model.params, jnp.asarray(rows.tokens), jnp.asarray(rows.length)).weights)


def weights_hash(model: LanguageModel) -> str:
  """SHA-256 of all parameters, hexadecimal: which base a result came from."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(model.params):
    digest.update(jax.device_get(leaf).tobytes())
  return digest.hexdigest()
