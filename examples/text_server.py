"""A small language model, trained on sentences and served by a server that speaks OpenAI's interface, then trained on what it said.

  pip install 'collapse-jax[huggingface]' 'transformers[serving]'
  python examples/text_server.py --output_dir=results/text

`huggingface` trains a model of random weights each generation with a transformers Trainer, `openai` asks `transformers serve` on
this machine for as many sentences, a request each. Another server that loads what it is asked for takes its place by `--base_url`.
That it has the weights of this generation, and not of the last one, is seen from its answers to eight fixed prompts.
"""

import argparse
import functools
import random
import socket
import subprocess
import sys
from pathlib import Path

import tokenizers
import transformers

import collapse_jax as cj

WORDS = {
  "who": ["cat", "dog", "child", "farmer", "crow", "fox"],
  "how": ["old", "small", "grey", "quick"],
  "does": ["sees", "follows", "hears", "likes"],
}
PROMPTS = ["the "]


def sentence(rng):
  """One of 2,304, of which some are likelier: "the old cat sees the small dog"."""
  pick = lambda kind: rng.choices(WORDS[kind], weights=range(len(WORDS[kind]), 0, -1))[0]
  return f"the {pick('how')} {pick('who')} {pick('does')} the {pick('how')} {pick('who')}"


def tokenizer():
  """A word a token."""
  names = ["<s>", "</s>", "<unk>", "<pad>", "the", *(word for words in WORDS.values() for word in words)]
  made = tokenizers.Tokenizer(tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
  made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
  )


def trainer(dataset, *, seed, output_dir, previous, num_steps):
  """Of a Llama with two layers, from random weights."""
  words = tokenizer()
  network = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      vocab_size=len(words), hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
      max_position_embeddings=32, bos_token_id=0, eos_token_id=1, pad_token_id=3,
    )
  )  # fmt: skip
  network.generation_config.do_sample = True
  rows = [{"input_ids": [*words(text)["input_ids"], words.eos_token_id]} for text in dataset["text"]]
  settings = transformers.TrainingArguments(
    output_dir, seed=seed, max_steps=num_steps, per_device_train_batch_size=32, learning_rate=1e-2, use_cpu=True,
    save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
  )  # fmt: skip
  collator = transformers.DataCollatorForLanguageModeling(words, mlm=False)
  return transformers.Trainer(network, settings, collator, rows, processing_class=words)


def main(arguments=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--output_dir", type=Path, default=Path("results/text"))
  parser.add_argument("--num_samples", type=int, default=300)
  parser.add_argument("--num_steps", type=int, default=100)
  parser.add_argument("--num_generations", type=int, default=5)
  parser.add_argument("--num_seeds", type=int, default=1)
  parser.add_argument(
    "--base_url", help="of a server that loads the path that it is asked for; default: one is started"
  )
  options = parser.parse_args(arguments)

  rng = random.Random(0)
  real, test = ([{"text": sentence(rng)} for _ in range(options.num_samples)] for _ in range(2))
  base_url, server = options.base_url, None
  if base_url is None:
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      port = free.getsockname()[1]
    base_url = f"http://127.0.0.1:{port}/v1"
    serve = "transformers.cli.transformers serve --host 127.0.0.1 --device cpu --port"
    server = subprocess.Popen([sys.executable, "-m", *serve.split(), str(port)])
  try:
    fit = cj.pipelines.huggingface(functools.partial(trainer, num_steps=options.num_steps), prompts=PROMPTS)
    results = cj.loop(
      # This server has one state of random numbers for all requests: one at a time, so that each keeps to its seed.
      cj.pipelines.openai(
        base_url,
        "{model}",
        ["the"],
        fit=fit,
        keep_prompt=True,
        concurrency=1,
        retries=10,
        max_tokens=12,
        temperature=1.0,
      ),
      real=real,
      test=test,
      workflows=["replace", "accumulate"],
      num_generations=options.num_generations,
      num_seeds=options.num_seeds,
      directory=options.output_dir,
      resume=True,
      measures={"test_nll": "risk"},
    )
  finally:
    if server is not None:
      server.terminate()
      server.wait()
  for row in cj.diagnostics.verdicts(results):
    print(f"{row['workflow']}: {row['metric']} is {row['verdict'].label}")
  cj.report.write_report(results, options.output_dir / "report.html")
  print(options.output_dir / "report.html")


if __name__ == "__main__":
  main()
