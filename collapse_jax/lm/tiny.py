"""`tiny`: a Llama of 0.26 million parameters, pretrained within seconds on documentation that ships with Python.

It stands in for a pretrained base where nothing can be downloaded. Pretraining text shares no module with the real data that
generations are fitted to, nor with test text.
"""

import contextlib
import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from collapse_jax import caches
from collapse_jax.lm import checkpoint, text, training
from collapse_jax.lm.checkpoint import LanguageModel
from collapse_jax.random import new_key

__all__ = ["RECIPE", "VOCAB_SIZE", "load", "pretrain", "untrained", "weights_hash"]

_log = logging.getLogger(__name__)
VOCAB_SIZE, MAX_SEQ_LEN = 1024, 64
SHAPE: dict[str, Any] = {
  "hidden_size": 96,
  "intermediate_size": 192,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 256,
  "tie_word_embeddings": True,
}
# Half an epoch: it must write the format, and yet have much to learn from more data.
RECIPE = training.Recipe(learning_rate=1e-3, amount=0.5, batch_size=16)
FORMAT = 2  # raise when anything else about the base changes
_SUMS = "sha256.json"  # of the other files of a kept base


def load(dtype=jnp.float32, cache_dir=None) -> LanguageModel:
  """The base, from `cache_dir` or made anew (in about fifteen seconds, the same on the same machine).

  What is kept has checksums, and is made again where they are wrong; where it cannot be kept, a warning says so.

  Args:
    cache_dir: default `caches.directory()`: $XDG_CACHE_HOME/collapse_jax or ~/.cache/collapse_jax.
  """
  import filelock

  cache = Path(cache_dir) if cache_dir else caches.directory()
  documents = text.load("pydocs", "base")
  about = [text.fingerprint(documents), VOCAB_SIZE, MAX_SEQ_LEN, SHAPE, RECIPE, FORMAT, jax.__version__]
  directory = cache / f"tiny-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}"
  if not _is_whole(directory):
    cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(cache / "tiny.lock"):  # others wait for what one of them makes
      if not _is_whole(directory):
        if directory.exists():
          _log.warning("%s is damaged and is made again", directory)
        model = pretrain(documents)
        try:
          _keep(model, directory)
        except Exception as error:  # that of a full disk is another one in each library
          _log.warning("%s cannot be kept (%s): it will be made again each time", directory, str(error).splitlines()[0])
          return checkpoint.made(model.config, jax.tree.map(lambda x: x.astype(dtype), model.params), model.tokenizer)
  return checkpoint.load(directory, dtype)


def _keep(model: LanguageModel, directory: Path) -> None:
  """Saves a model whole or not at all; what an earlier process left when it was killed goes."""
  part = directory.with_name(f"{directory.name}.part")
  shutil.rmtree(part, ignore_errors=True)
  try:
    checkpoint.save(model, part)
    (part / _SUMS).write_text(json.dumps(_sums(part)))
    if directory.exists():
      shutil.rmtree(directory)
    part.rename(directory)
  except BaseException:
    shutil.rmtree(part, ignore_errors=True)
    raise


def _is_whole(directory: Path) -> bool:
  with contextlib.suppress(OSError, ValueError, RecursionError):
    return json.loads((directory / _SUMS).read_bytes()) == _sums(directory)
  return False


def _sums(directory: Path) -> dict[str, str]:
  return {
    file.name: hashlib.sha256(file.read_bytes()).hexdigest()
    for file in sorted(directory.iterdir())
    if file.name != _SUMS
  }


def untrained(documents) -> LanguageModel:
  """Random weights, and a tokenizer made from the documents."""
  from transformers import LlamaConfig

  tokenizer = text.train_tokenizer([document.text for document in documents], VOCAB_SIZE)
  config = LlamaConfig(
    vocab_size=VOCAB_SIZE,
    bos_token_id=tokenizer.bos_token_id,
    eos_token_id=tokenizer.eos_token_id,
    pad_token_id=tokenizer.pad_token_id,
    **SHAPE,
  )
  return checkpoint.random(config, new_key(0), tokenizer=tokenizer)


def pretrain(documents) -> LanguageModel:
  """`untrained`, fitted to those documents that have at most MAX_SEQ_LEN tokens."""
  model = untrained(documents)
  rows = text.to_rows(model.tokenizer, documents, MAX_SEQ_LEN, VOCAB_SIZE)

  @jax.jit
  def fit(params, tokens, length):
    nothing = lambda weights: jnp.zeros(())
    return training.fit(
      new_key(1), model.apply, RECIPE, params, tokens, length, jnp.ones(tokens.shape[0]), nothing, curve_points=1
    )

  return model._replace(params=fit(model.params, jnp.asarray(rows.tokens), jnp.asarray(rows.length)).weights)


def weights_hash(model: LanguageModel) -> str:
  """SHA-256 of all parameters, hexadecimal: which base a result came from."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(model.params):
    digest.update(jax.device_get(leaf).tobytes())
  return digest.hexdigest()
