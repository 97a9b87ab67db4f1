"""What speaks as servers of language models do, and how such may go wrong. Standard library only: programs of tests import it."""

import collections
import contextlib
import hashlib
import http.server
import json
import os
import random
import sys
import threading
import time


class Engine:
  """What a server of a language model answers, and how it may go wrong.

  Attributes:
    weights: path of a file, as the text of which a "model" is taken; loaded when `model` is asked for first, or each time.
    stale: goes on with what it loaded first.
    logprobs: tells them.
    noise: of log-probabilities, nats.
    seeds: looks at them.
    busy: requests that get 429 before one is answered.
  """

  def __init__(self, stale=False, logprobs=True, noise=0.0, seeds=True, busy=0, status=429):
    self.stale, self.logprobs, self.noise, self.seeds, self.busy, self.status = (
      stale,
      logprobs,
      noise,
      seeds,
      busy,
      status,
    )
    self.loaded, self.seen, self.at_once, self.most = None, [], 0, 0
    self.lock, self.rng, self.tries = threading.Lock(), random.Random(0), collections.Counter()

  def answer(self, url, body):
    if not (self.stale and self.loaded):
      path = body["model"]
      self.loaded = path
      if os.path.isfile(path):
        with open(path) as file:
          self.loaded = file.read()
    self.seen.append((url, body))
    chat = url.endswith("/chat/completions")
    prompts = [body["messages"]] if chat else body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    choices = []
    for i, prompt in enumerate(prompts):
      drawn = body["seed"] if self.seeds and body.get("temperature", 1) else 0
      text, number = (
        hashlib.sha256(f"{self.loaded} {part} {prompt} {drawn}".encode()).hexdigest() for part in range(2)
      )
      text = text[: 4 * body.get("max_tokens", 4)]
      logprobs = None
      if self.logprobs and body.get("logprobs"):
        value = -1 - int(number[:4], 16) / 65536 + self.noise * self.rng.random()
        logprobs = {"top_logprobs": [{"a": value}], "tokens": ["a"]}
        if chat:
          logprobs = {"content": [{"token": "a", "top_logprobs": [{"token": "a", "logprob": value}]}]}
      said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
      choices.append({"index": i, "logprobs": logprobs, "finish_reason": "length", **said})
    return {"choices": choices[::-1]}  # in any order, which their numbers tell


@contextlib.contextmanager
def serving(engine):
  """The address of an engine."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      content = self.rfile.read(int(self.headers["Content-Length"]))
      with engine.lock:
        engine.at_once += 1
        engine.most = max(engine.most, engine.at_once)
        engine.tries[content] += 1
        busy = engine.tries[content] <= engine.busy
      time.sleep(0.002)
      with engine.lock:
        status = engine.status if busy else 200
        answer = {"error": "slow down"} if busy else engine.answer(self.path, json.loads(content))
        engine.at_once -= 1
      sent = json.dumps(answer).encode()
      self.send_response(status)
      self.send_header("Content-Length", str(len(sent)))
      if busy:
        self.send_header("Retry-After", "0")
      self.end_headers()
      self.wfile.write(sent)

    def log_message(self, *arguments):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
      yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
      server.shutdown()
      thread.join()


def run_batch(arguments, kept="", failing=""):
  """`vllm run-batch`.

  Args:
    arguments: of the command line.
    kept: a file with the path of the model that was loaded first, which all later ones go on with; "": none do.
    failing: number of a request that fails.
  """
  assert arguments[0] == "run-batch" and "--dtype" in arguments
  option = dict(zip(arguments[1::2], arguments[2::2]))
  if kept and not os.path.exists(kept):
    with open(kept, "w") as file:
      file.write(option["--model"])
  if kept:
    with open(kept) as file:
      option["--model"] = file.read()
  engine = Engine()
  with open(option["-i"]) as file:
    lines = file.readlines()
  with open(option["-o"], "w") as out:
    for line in reversed(lines):
      asked = json.loads(line)
      body = engine.answer(asked["url"], {**asked["body"], "model": option["--model"]})
      failed = asked["custom_id"] == failing
      response = {"status_code": 400 if failed else 200, "body": {"message": "too long"} if failed else body}
      print(json.dumps({"id": "v", "custom_id": asked["custom_id"], "response": response, "error": None}), file=out)


if __name__ == "__main__":
  run_batch(sys.argv[1:])
