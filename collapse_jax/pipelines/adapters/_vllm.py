"""vLLM as a program of its own, told what to do by a file as of OpenAI's batches."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collapse_jax.pipelines.adapters import _parts, _processes
from collapse_jax.pipelines.adapters import _prompts as asking

__all__ = ["vllm_batch"]


def vllm_batch(
  executable: str,
  prompts: asking.Prompts,
  *,
  fit: Any,
  arguments: Sequence[str] = (),
  chat: bool | None = None,
  keep_prompt: bool = False,
  column: str = "text",
  timeout: float | None = None,
  fresh: bool = True,
  **settings: Any,
) -> _parts.Adapter:
  """A pipeline whose rows are written by `vllm run-batch`, in a process that is started anew each generation.

  It is never imported here: vLLM has an environment of its own. That it has the weights of this generation is seen as in `openai`.

  Args:
    executable: such as "/opt/vllm/bin/vllm".
    prompts: as in `openai`.
    fit: as in `openai`.
    arguments: more of them, such as ["--dtype", "bfloat16"].
    chat, keep_prompt, column, fresh: as in `openai`.
    timeout: seconds for a run; None: as long as it takes.
    settings: of all requests, such as max_tokens=64, temperature=1.0, top_p=0.9.

  >>> import collapse_jax as cj
  >>> pipeline = cj.pipelines.vllm_batch("vllm", ["Once upon a time"], fit=lambda data, **options: "weights", max_tokens=64)
  """
  style = asking.Style("{model}", prompts, chat, keep_prompt, column, settings, fresh)

  def ask(served, groups, seed, workdir):
    url = "/v1/chat/completions" if asking.chat_of(style, served.prompts) else "/v1/completions"
    requests, answers = workdir / "requests.jsonl", workdir / "answers.jsonl"
    bodies = [body for group in groups for body in group]
    with requests.open("w", encoding="utf-8") as file:
      for i, body in enumerate(bodies):
        file.write(json.dumps({"custom_id": str(i), "method": "POST", "url": url, "body": body}) + "\n")
    words = [executable, "run-batch", "-i", str(requests), "-o", str(answers), "--model", str(served.path), *arguments]
    _processes.run(shlex.join(words), timeout)
    found = _read(answers, len(bodies))
    return found[: len(groups[0])], found[len(groups[0]) :]

  return asking.adapter(style, fit, ask, lambda role: ("vllm_batch", tuple(arguments)), executable)


def _read(path: Path, num: int) -> list[dict[str, Any]]:
  """Bodies of the responses, in the order of the requests.

  Raises:
    RuntimeError: one failed, or is not there.
  """
  found: dict[str, dict[str, Any]] = {}
  for line in path.read_text(encoding="utf-8").splitlines():
    one = json.loads(line)
    response = one.get("response") or {}
    if one.get("error") or response.get("status_code", 200) != 200:
      raise RuntimeError(
        f"request {one.get('custom_id')} failed: {str(one.get('error') or response.get('body'))[:300]}"
      )
    found[one["custom_id"]] = response["body"]
  if missing := num - len(found.keys() & set(map(str, range(num)))):
    raise RuntimeError(f"{missing} of {num} requests were not answered")
  return [found[str(i)] for i in range(num)]
