"""Trainers of transformers and TRL, and whatever else saves a checkpoint as they do."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collapse_jax.pipelines import kinds
from collapse_jax.pipelines.adapters import _parts
from collapse_jax.pipelines.adapters import _prompts as asking
from collapse_jax.refused import Refused

__all__ = ["huggingface"]


class Checkpoint(NamedTuple):
  """A folder that `from_pretrained` reads, what is written to, and no rows, of the kind that it is fitted to."""

  path: Path
  prompts: list[Any]
  like: kinds.Rows


def huggingface(
  trainer: Callable[..., Any],
  prompts: asking.Prompts,
  *,
  keep_prompt: bool = False,
  column: str = "text",
  batch_size: int = 32,
  device: str = "cpu",
  **settings: Any,
) -> _parts.Adapter:
  """A pipeline of a causal language model that a `transformers.Trainer` trains, or one of TRL, and that writes in this process.

  `evaluate` tells "test_nll", nats a token of the test rows' texts. To have rows written by a server instead, hand this to `openai`
  or `vllm_batch` as `fit`. Extra: huggingface.

  Args:
    trainer: (dataset, *, seed, output_dir, previous) -> a trainer that has not trained yet, with its tokenizer as
      `processing_class`. `dataset` is a `datasets.Dataset` of the training rows, `previous` the folder of the model before where
      runs are warm-started, else None. Weights that it makes at random are drawn by the seed.
    prompts: as in `openai`.
    keep_prompt, column: as in `openai`.
    batch_size: prompts that are written to side by side.
    device: of PyTorch, for sampling and evaluation.
    settings: of `generate`, such as max_new_tokens=64, top_p=0.9; do_sample is True unless given.
  Raises:
    Refused: PyTorch or datasets is not installed.
  """
  for module in ("torch", "datasets"):
    _parts.need(module, "huggingface")
  style = asking.Style("", prompts, None, keep_prompt, column, settings, True)

  def fit(data, *, seed, workdir, previous=None):
    workdir = Path(workdir).absolute()
    before = None if previous is None else str(previous.path)
    with _parts.seeded(seed):
      made = trainer(_dataset(data), seed=seed, output_dir=str(workdir / "trainer"), previous=before)
      made.train()
    path = workdir / "weights"
    made.save_model(str(path))
    if not any(path.glob("tokenizer*")):
      raise Refused("trainer must make a trainer with its tokenizer as processing_class: it saved none.")
    shutil.rmtree(workdir / "trainer", ignore_errors=True)  # checkpoints on the way
    found = prompts(data, seed=seed) if callable(prompts) else prompts
    return Checkpoint(path, list(found), kinds.take(data, np.arange(0)))

  def sample(model, num, *, seed, workdir):
    network, tokenizer = _load(model.path, device)
    chat = asking.chat_of(style, model.prompts)
    asked = [model.prompts[i % len(model.prompts)] for i in range(num)]
    texts: list[str] = []
    with _parts.seeded(seed):
      for i in range(0, num, batch_size):
        texts += _write(network, tokenizer, asked[i : i + batch_size], chat, {"do_sample": True} | settings)
    rows = [asking.row(prompt, text, chat, style) for prompt, text in zip(asked, texts)]
    return asking.of_kind(rows, model.like)

  def evaluate(model, sample, real_test, *, seed):
    network, tokenizer = _load(model.path, device)
    total, num = 0.0, 0
    for row in _dataset(real_test):
      nats, tokens = _nll(network, _tokens(tokenizer, row[column]))
      total, num = total + nats, num + tokens
    if not num:
      raise ValueError("test rows have no two tokens")
    return {"test_nll": total / num}

  return _parts.Adapter(fit, sample, lambda role: ("huggingface", trainer, style), "huggingface", evaluate)


def _dataset(data: kinds.Rows) -> Any:
  import datasets

  kind = kinds.kind_of(data)
  if kind == "dataset":
    return data
  return (
    datasets.Dataset.from_list(data)
    if kind == "text"
    else datasets.Dataset.from_pandas(_parts.as_table(data, "huggingface"))
  )


def _load(path: Path, device: str) -> tuple[Any, Any]:
  import transformers

  network: Any = transformers.AutoModelForCausalLM.from_pretrained(str(path))
  network = network.to(device).eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), padding_side="left")
  if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token
  return network, tokenizer


def _tokens(tokenizer: Any, value: Any, **options: Any) -> list[int]:
  """Of a text, or of messages."""
  if isinstance(value, str):
    return tokenizer(value)["input_ids"]
  return tokenizer.apply_chat_template(value, return_dict=True, **options)["input_ids"]


def _write(network: Any, tokenizer: Any, prompts: list[Any], chat: bool, settings: dict[str, Any]) -> list[str]:
  """What a model writes to some prompts."""
  import torch

  ids = [_tokens(tokenizer, one, **({"add_generation_prompt": True} if chat else {})) for one in prompts]
  padded = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(network.device)
  with torch.no_grad():
    found = network.generate(**padded, pad_token_id=tokenizer.pad_token_id, **settings)
  return tokenizer.batch_decode(found[:, padded["input_ids"].shape[1] :], skip_special_tokens=True)


def _nll(network: Any, tokens: list[int]) -> tuple[float, int]:
  """Sum over the tokens of a text but the first, in pieces as long as the model reads, and their number."""
  import torch

  longest = getattr(network.config, "max_position_embeddings", None) or len(tokens)
  total, num = 0.0, 0
  for i in range(0, len(tokens) - 1, longest - 1):
    piece = torch.tensor([tokens[i : i + longest]], device=network.device)
    with torch.no_grad():
      logits = network(input_ids=piece).logits[0, :-1].float()
    total += float(torch.nn.functional.cross_entropy(logits, piece[0, 1:], reduction="sum"))
    num += piece.shape[1] - 1
  return total, num
