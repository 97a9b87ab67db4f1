"""transformers on PyTorch, in a process of its own: one model, trained and sampled from on request."""

import os
from typing import Any

import numpy as np

MODEL: dict[str, Any] = {}


def open_model(directory: str, learning_rate: float) -> None:
  """Loads what `collapse_jax.lm.save` wrote."""
  import torch
  import transformers

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  transformers.logging.set_verbosity_error()
  model = transformers.AutoModelForCausalLM.from_pretrained(directory)
  MODEL.update(
    model=model, start={name: value.clone() for name, value in model.state_dict().items()}, rate=learning_rate
  )
  restart()
  torch.manual_seed(0)


def restart() -> None:
  import torch

  MODEL["model"].load_state_dict(MODEL["start"])
  MODEL["optimiser"] = torch.optim.AdamW(MODEL["model"].parameters(), lr=MODEL["rate"], weight_decay=0.0)


def loss(tokens: np.ndarray) -> float:
  import torch

  batch = torch.tensor(tokens.astype(np.int64))
  with torch.no_grad():
    return MODEL["model"](batch, labels=batch).loss.item()


def train(tokens: np.ndarray, steps: int) -> None:
  """Steps of AdamW with the gradient clipped to norm 1."""
  import torch

  batch, model = torch.tensor(tokens.astype(np.int64)), MODEL["model"].train()
  for _ in range(steps):
    MODEL["optimiser"].zero_grad()
    model(batch, labels=batch, use_cache=False).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    MODEL["optimiser"].step()


def sample(begin: int, sequences: int, new_tokens: int) -> tuple[int, int]:
  """Shape of sequences drawn at temperature 1 without an early end."""
  import torch

  with torch.no_grad():
    out = (
      MODEL["model"]
      .eval()
      .generate(
        torch.full((sequences, 1), begin),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        pad_token_id=begin,
      )
    )
  return tuple(out.shape)
