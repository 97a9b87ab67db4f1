"""Whether what serves a model serves the one that was just fitted, told by its answers to eight fixed prompts.

Engines that reload weights have been seen to go on with the old ones (vllm issue 32718, trl issue 5312): a loop over such an engine
shows no collapse, or another one. Log-probabilities of what follows each prompt are compared with those of earlier models, beside a
digest of the weights; where a server tells none, texts that it draws with a fixed seed and greedily.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from collapse_jax.sweeps import chunks

__all__ = ["NUM_ASKED", "check", "digest", "questions"]

PROMPTS = ("The", "In 1984,", "1 + 1 =", "Once upon a time", "def f(x):", "She said", "Water is", "a b c d e f g")
RECORD = "probe.json"
_NUM_TOKENS = 16  # of a text
_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".npz", ".msgpack", ".h5", ".ckpt")
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state")


def digest(path: Path) -> str:
  """Of the weights in a folder, or of a file; of all files where none looks like weights."""
  files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file() and one.name != RECORD)
  weights = [one for one in files if one.suffix in _WEIGHTS and not one.name.startswith(_NO_WEIGHTS)]
  found = hashlib.sha256()
  for one in weights or files:
    found.update(one.name.encode())
    with one.open("rb") as file:
      found.update(hashlib.file_digest(file, "sha256").digest())
  return found.hexdigest()


def questions(chat: bool) -> list[dict[str, Any]]:
  """Requests without the model's name, each twice: what does not come back the same tells nothing."""
  found: list[dict[str, Any]] = []
  told = {"logprobs": True, "top_logprobs": 5} if chat else {"logprobs": 5}
  for i, prompt in enumerate(PROMPTS):
    asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    found.append({**asked, "max_tokens": 1, "temperature": 0.0, "seed": i, **told})
    found.append({**asked, "max_tokens": _NUM_TOKENS, "temperature": 0.0, "seed": i})
    found.append({**asked, "max_tokens": _NUM_TOKENS, "temperature": 1.0, "seed": i})
  return found * 2


NUM_ASKED = len(questions(True))


def check(folder: Path, server: str, weights: str, answers: Sequence[Mapping[str, Any]]) -> None:
  """Notes what a server answered for a model, and compares it with what is noted of others.

  Args:
    folder: of the fit; what is noted is `probe.json` in it, beside those of other fits, FOLDERS/*/NAME/ or FOLDERS/*/.
    server: which it is.
    weights: `digest` of the model.
    answers: bodies of the responses to `questions`.
  Raises:
    RuntimeError: the answers are those of other weights, or tell nothing.
  """
  half = len(answers) // 2
  pairs = list(zip(map(_told, answers[:half]), map(_told, answers[half:])))
  noise = max((_distance(a, b) for a, b in pairs if isinstance(a, dict) and isinstance(b, dict)), default=math.inf)
  values = [a if isinstance(a, dict) or a == b else None for a, b in pairs]
  if not math.isfinite(noise):  # no log-probabilities, or none that come again
    values = [None if isinstance(value, dict) else value for value in values]
  if not any(values):
    raise RuntimeError(
      "that the server has the new weights cannot be told: it gives no log-probabilities, and other texts when asked again"
    )
  record = {"server": server, "weights": weights, "noise": noise if math.isfinite(noise) else None, "values": values}
  for path in _records(folder):
    other = json.loads(path.read_bytes())
    if other["server"] == server and other["weights"] != weights and _same(record, other):
      raise RuntimeError(
        f"the server answers {len(PROMPTS)} fixed prompts as it did for the model in {path.parent}, whose weights are others: "
        f"it has stale weights"
      )
  chunks.write(folder / RECORD, json.dumps(record).encode())


def _records(folder: Path) -> Iterable[Path]:
  found = {*folder.parent.parent.glob(f"*/{folder.name}/{RECORD}"), *folder.parent.glob(f"*/{RECORD}")}
  return sorted(found - {folder / RECORD})


def _told(body: Mapping[str, Any]) -> dict[str, float] | str | None:
  """token -> log-probability where a response has any, else its text."""
  choice = body["choices"][0]
  logprobs = choice.get("logprobs") or {}
  if logprobs.get("content"):  # of chats
    return {one["token"]: one["logprob"] for one in logprobs["content"][0]["top_logprobs"]}
  if logprobs.get("top_logprobs"):
    return dict(logprobs["top_logprobs"][0])
  return choice["text"] if "text" in choice else choice["message"].get("content")


def _distance(a: Mapping[str, float], b: Mapping[str, float]) -> float:
  """Largest difference in nats, of tokens that both name; infinite where they name none."""
  return max((abs(a[token] - b[token]) for token in a.keys() & b.keys()), default=math.inf)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
  """Whether answers are those of the same weights: no further apart than the same server twice, or the same texts."""
  pairs = list(zip(one["values"], other["values"]))
  numbers = [(a, b) for a, b in pairs if isinstance(a, dict) and isinstance(b, dict)]
  if numbers:
    return max(_distance(a, b) for a, b in numbers) <= 4 * max(one["noise"], other["noise"])
  texts = [(a, b) for a, b in pairs if isinstance(a, str) and isinstance(b, str)]
  return bool(texts) and all(a == b for a, b in texts)
