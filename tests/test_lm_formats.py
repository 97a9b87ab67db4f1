"""Blocks of running text and conversations: rows of tokens, what samples continue, what counts in the loss, what is refused."""

import gzip
import json
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import LlamaConfig

from collapse_jax import tasks
from collapse_jax.generation import start
from collapse_jax.lm import checkpoint, decoding, formats, text, tiny, training
from collapse_jax.refused import Refused
from collapse_jax.systems import language_setting
from collapse_jax.types import Context
from collapse_jax.workflows import replace
from experiments import language_model

BLOCK, PREFIX = 12, 5
TEMPLATE = (
  "{% for one in messages %}<|im|>{{ one.role }}\n{{ one.content }}<|end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def model():
  tokenizer = text.train_tokenizer([one.text for one in text.load("pydocs", "base")[:300]], 500)
  tokenizer.add_special_tokens({"additional_special_tokens": ["<|im|>"]})
  tokenizer.chat_template = TEMPLATE
  shape = tiny.SHAPE | {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
  return checkpoint.random(LlamaConfig(vocab_size=len(tokenizer), **shape), jax.random.key(0), tokenizer=tokenizer)


def test_blocks_lose_and_add_nothing(model):
  documents = [text.Document(f"{one.text} <|end|>", "") for one in text.load("pydocs", "test")[:1500]]
  documents.insert(3, text.Document("", ""))
  rows = formats.blocks(model.tokenizer, documents, 64, len(model.tokenizer), 16, "answers")
  begin, end = text.special_ids(model.tokenizer)
  expected = [
    token for one in documents if one.text for token in [begin, *text.encode(model.tokenizer, [one.text])[0], end]
  ]
  assert [token for row, num in zip(rows.tokens.tolist(), rows.length) for token in row[:num]] == expected
  assert (rows.length[:-1] == 64).all() and rows.num_unsplittable == 1 and rows.num_dropped == 0
  assert rows.num_changed == 0 and expected.count(end) == len(documents) - 1  # what a text says of an end is text
  assert (rows.given == 16).all() and (rows.learned == (np.arange(64) >= 16)).all()
  assert formats.blocks(model.tokenizer, documents, 64, len(model.tokenizer)).given is None
  with pytest.raises(Refused, match="vocabulary mismatch"):
    formats.blocks(model.tokenizer, documents, 64, 300)


def test_one_token_begins_and_ends_where_a_tokenizer_has_no_other(model):
  tokenizer = text.train_tokenizer(["river stone"], 300)
  tokenizer.bos_token = None
  rows = formats.blocks(tokenizer, [text.Document("river", ""), text.Document("stone", "")], 1, 300)
  assert (rows.tokens == tokenizer.eos_token_id).sum() == 2 and rows.tokens[-1, 0] == tokenizer.eos_token_id


MESSAGES = (
  ("system", "be brief"),
  ("user", "one"),
  ("assistant", "two"),
  ("user", "three"),
  ("assistant", "four five"),
)


def test_conversations_are_told_by_the_template(model):
  tokenizer = model.tokenizer
  documents = [text.Document("", "", MESSAGES), text.Document(text.formatted("one", "two"), "")]
  documents += [
    text.Document("", "", one)
    for one in ((("user", "no answer"),), (("user", "a <|im|> b"), ("assistant", "c")), MESSAGES * 20)
  ]
  rows = formats.conversations(tokenizer, documents, 64, len(tokenizer), "answers")
  assert (len(rows.length), rows.num_dropped, rows.num_unsplittable) == (2, 1, 2)
  told = [
    [{"role": role, "content": content} for role, content in one]
    for one in (MESSAGES, (("user", "one"), ("assistant", "two")))
  ]
  for i, messages in enumerate(told):
    row, given = rows.tokens[i, : rows.length[i]].tolist(), rows.given[i]
    whole = tokenizer.apply_chat_template(messages, tokenize=False).rstrip()
    assert tokenizer.decode(row) == whole and row[-1] == tokenizer.eos_token_id
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(row[:given]) == prompt
    learned = [token for token, one in zip(row, rows.learned[i]) if one]
    answers = "".join(
      f"{one['content']}<|end|>" + "\n" * (one is not messages[-1]) for one in messages if one["role"] == "assistant"
    )
    assert tokenizer.decode(learned) == answers
  assert formats.conversations(tokenizer, documents, 64, len(tokenizer)).learned is None


def with_template(model, template):
  tokenizer = text.train_tokenizer(["river stone"], 300)
  tokenizer.chat_template = template
  return model._replace(tokenizer=tokenizer)


@pytest.mark.parametrize(
  "template, line",
  [
    (None, "no chat template"),
    ("{{ messages[9].content }}", "the chat template fails: list object has no element 9"),
    ("{% for", "the chat template fails"),
    ("{{ raise_exception('system\nrole') }}", "the chat template fails: system.$"),
    ("{{ messages | length }}", "the chat template fails: what it makes of some messages"),
  ],
)
def test_templates_that_fail_are_refused(model, template, line):
  with pytest.raises(Refused, match=line) as caught:
    formats.conversations(with_template(model, template).tokenizer, [text.Document("", "", MESSAGES)], 64, 300)
  assert "\n" not in str(caught.value) and caught.value.argument == "format"


# ---------------------------------------------------------------------------------------------------- in the loop
@pytest.fixture(scope="module")
def sides(model):
  documents = text.load("pydocs", "test")
  make = lambda side: formats.blocks(model.tokenizer, side, BLOCK, len(model.tokenizer), PREFIX, "answers")
  return make(documents[:40]), make(documents[40:60]).first(8)


def made(model, sides, num_samples=6, **options):
  recipe = training.Recipe(1e-3, batch_size=4)
  task = tasks.language_model(
    checkpoint.random(model.config, jax.random.key(3), tokenizer=model.tokenizer),
    *sides,
    num_samples,
    recipe=recipe,
    endless=True,
    curve_points=1,
    curve_rows=4,
    **options,
  )
  run = start(jax.random.key(0), task, replace(), 2)
  return task, run, Context(1, num_samples, run.store, run.real)


def sampled(model, sides, **options):
  task, run, context = made(model, sides, **options)
  weights = checkpoint.random(model.config, jax.random.key(4)).params
  fitted = training.Fitted(weights, jnp.zeros(1), 0.0, 1, 1)
  batch, metrics = jax.jit(lambda key: task.sample(key, run.problem, fitted, context))(jax.random.key(2))
  return jax.tree.map(lambda x: np.asarray(x[0]), (run.real.rows, batch.rows)), metrics, weights


def test_samples_continue_the_real_rows_of_their_run(model, sides):
  short = sides[0]._replace(
    length=np.where(np.arange(len(sides[0].length)) % 3, sides[0].length, PREFIX - 2).astype(np.int32)
  )
  (real, kept), metrics, _ = sampled(model, (short, sides[1]))
  long = real["tokens"][real["length"] >= PREFIX]
  assert 0 < len(long) < 6  # a row of fewer tokens than the prefix is continued by none
  np.testing.assert_array_equal(kept["tokens"][:, :PREFIX], long[np.arange(6) % len(long), :PREFIX])
  assert (kept["length"] == BLOCK).all() and (kept["given"] == PREFIX).all()
  np.testing.assert_array_equal(kept["learned"], np.broadcast_to(np.arange(BLOCK) >= PREFIX, (6, BLOCK)))
  assert float(metrics["mean_length"]) == BLOCK - PREFIX + 1 and int(metrics["num_missing"]) == 0
  (_, alone), _, _ = sampled(model, (short, sides[1]), keep_prefix=False)
  assert alone["tokens"].shape == (6, BLOCK) and (alone["length"] == BLOCK).all() and alone["learned"].all()
  np.testing.assert_array_equal(alone["tokens"][:, : BLOCK - PREFIX], kept["tokens"][:, PREFIX:])


def test_a_prefix_may_be_the_whole_row_where_it_goes(model, sides):
  whole = tuple(one._replace(given=np.full_like(one.length, BLOCK), learned=None) for one in sides)
  (real, rows), metrics, weights = sampled(model, whole, keep_prefix=False, num_beams=3, measure="all")
  functions = checkpoint.functions_of(model.config, weights)
  expected = decoding.beam_search(functions, weights, jnp.asarray(real["tokens"]), 2 * BLOCK, -1, 3)[0]
  np.testing.assert_array_equal(rows["tokens"], expected[:, BLOCK:])
  assert all(np.isfinite(value).all() for value in metrics.values())
  # What was written is looked at by itself, as real rows are.
  base = checkpoint.random(model.config, jax.random.key(3)).params
  loss = training.mean_loss(model.apply, base, jnp.asarray(rows["tokens"]), jnp.full(6, BLOCK), 6)
  np.testing.assert_allclose(metrics["sample_loss"], loss, rtol=1e-5)
  with pytest.raises(Refused, match=f"prefix_tokens must be below block_size {BLOCK}, got {BLOCK}"):
    made(model, whole)


def test_only_answers_count(model, sides):
  """In the fit and in the test loss: whatever the prefixes are, as long as nothing else is looked at."""
  task, run, context = made(model, sides)
  fitted = jax.jit(lambda key, problem: task.fit(key, problem, context))(jax.random.key(1), run.problem)
  found = task.evaluate(jax.random.key(5), run.problem, fitted)["test_loss"]
  logits = jax.nn.log_softmax(model.apply(fitted.weights, sides[1].tokens))
  told = [
    -logits[i, at - 1, row[at]]
    for i, (row, num) in enumerate(zip(sides[1].tokens, sides[1].length))
    for at in range(PREFIX, num)
  ]
  np.testing.assert_allclose(found, np.mean(told), rtol=1e-5)
  rows = run.real.rows
  total = lambda rows: jax.grad(
    lambda weights: training.mean_loss(
      model.apply, weights, rows["tokens"][0], rows["length"][0], 6, rows["learned"][0]
    )
  )(fitted.weights)["final_norm"]["scale"]
  other = rows | {"learned": rows["learned"] | True}
  assert np.abs(total(rows) - total(other)).max() > 1e-4
  assert float(fitted.num_tokens) == float(
    jnp.sum(rows["learned"] & (jnp.arange(BLOCK)[None, None] < rows["length"][..., None]))
  )


@pytest.mark.parametrize(
  "options, line",
  [
    ({"num_beams": 2, "given": None}, "needs prefix_tokens"),
    ({"given": None}, "loss=answers needs samples that are answers"),
    ({"keep_prefix": False, "positions": 16}, "block_size 12 with a prefix of 5 before it is beyond the 16 positions"),
    ({"positions": 8}, "block_size 12 is beyond the 8 positions"),
  ],
)
def test_refused_before_anything_is_compiled(model, sides, options, line):
  changes = {"max_position_embeddings": options.pop("positions")} if "positions" in options else {}
  model = model._replace(config=type(model.config)(**model.config.to_dict() | changes))
  if "given" in options:
    sides = tuple(one._replace(given=options["given"]) for one in sides)
    options.pop("given")
  if "num_beams" in options:
    sides = tuple(one._replace(learned=None) for one in sides)
  with pytest.raises(Refused, match=line):
    made(model, sides, **options)


# ---------------------------------------------------------------------------------------------------- sources
def test_files_of_plain_text(tmp_path):
  for i in range(30):
    (tmp_path / f"{i:02}.txt").write_text(f"Text {i}.\n\nOf two paragraphs.\n")
  (tmp_path / ".hidden.txt").write_text("no")
  (tmp_path / "more").mkdir()
  (tmp_path / "more" / "a.txt.gz").write_bytes(gzip.compress(b"Packed."))
  found = text.splits(str(tmp_path))
  assert found.running and found.split_by == "prompt" and len(found.train) + len(found.test) == 30 and found.test
  assert text.splits(f"{tmp_path}/*.txt") == found
  every = text.splits(f"{tmp_path}/**/*.txt*")
  assert {one.text for one in [*every.train, *every.test]} >= {"Packed.", "Text 3.\n\nOf two paragraphs."}
  rows = [json.dumps({"text": f"row {i}"}) for i in range(30)]
  (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode("utf-16")))
  assert len(text.splits(f"{tmp_path}/b.jsonl.gz").train) > 20 and not text.splits(str(tmp_path)).running
  (tmp_path / "long.txt").write_text("a b c d\n" * 100)
  alone = text.splits(str(tmp_path / "long.txt"))
  assert alone.split_by == "place" and f"{alone.train[0].text}\n{alone.test[0].text}\n" == "a b c d\n" * 100
  assert 0.08 < len(alone.test[0].text) / 800 < 0.12
  (tmp_path / "empty.txt").write_text(" \n")
  (tmp_path / "torn.txt.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
  for name, line in (
    ("empty.txt", "holds no text"),
    ("torn.txt.gz", "no readable gzip"),
    ("*.xyz", "pattern matches"),
    ("more/..", None),
  ):
    if line:
      with pytest.raises(Refused, match=line):
        text.splits(f"{tmp_path}/{name}")


def test_a_corpus_larger_than_memory(tmp_path):
  """A sample of the documents, whatever file they are in, and the same ones each time; others are not kept."""
  rows = [json.dumps({"text": f"row {i}"}) for i in range(2000)]
  (tmp_path / "all.jsonl").write_text("\n".join(rows))
  for i in range(4):
    (tmp_path / f"part{i}.jsonl.gz").write_bytes(gzip.compress("\n".join(rows[500 * i : 500 * i + 500]).encode()))
  found = text.splits(f"{tmp_path}/all.jsonl", 300)
  assert text.splits(f"{tmp_path}/part*.gz", 300) == found and text.splits(
    f"{tmp_path}/all.jsonl", 3000
  ) == text.splits(f"{tmp_path}/all.jsonl")
  numbers = [int(one.text[4:]) for one in found.train]
  assert len(found.train) + len(found.test) == 300 and numbers == sorted(numbers) and found.test
  assert abs(np.mean(numbers) - 999.5) < 5 * 2000 / np.sqrt(12 * len(numbers))
  alive, most = [], []

  class Counted(str):
    def __new__(cls, value):
      alive.append(1)
      most.append(len(alive))
      return super().__new__(cls, value)

    def __del__(self):
      alive.pop()

  kept = text._collected((text.Document(Counted(f"row {i}"), "") for i in range(2000)), "here", 50)
  assert len(kept) == 50 and max(most) < 55


def test_configurations_and_columns_of_the_hub(monkeypatch):
  calls = []

  def load_dataset(path, name=None):
    calls.append((path, name))
    return {"train": [{"content": f"text {i}", "text": "no"} for i in range(30)]}

  hub = types.ModuleType("datasets")
  hub.load_dataset = load_dataset
  monkeypatch.setitem(sys.modules, "datasets", hub)
  found = text.splits("owner/name:some-config_v1:content")
  assert found.train[0].text.startswith("text") and calls == [("owner/name", "some-config_v1")]
  assert text.splits("owner/name::content") == found and calls[1] == ("owner/name", None)
  with pytest.raises(Refused, match="needs a text under body"):
    text.splits("owner/name::body")


def test_what_rows_are(model, tmp_path):
  """The format follows from the documents, or from what is asked for; what does not go together is one line."""
  chats = [
    {
      "messages": [
        {"role": role, "content": f"{content} {'' if role == 'system' else i}"} for role, content in MESSAGES
      ]
    }
    for i in range(40)
  ]
  kinds = {
    "chats": chats,
    "pairs": [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(40)],
    "plain": [{"text": f"plain {i}"} for i in range(40)],
  }
  for name, rows in kinds.items():
    (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
  read = lambda name, **options: language_setting.read_texts(
    model, text.splits(f"{tmp_path}/{name}.jsonl"), 128, **options
  )
  assert text.splits(f"{tmp_path}/chats.jsonl").split_by == "prompt"
  for name, format, kind in (
    ("chats", "auto", "messages"),
    ("pairs", "auto", "prompt and response"),
    ("plain", "auto", "plain text"),
    ("pairs", "messages", "messages"),
    ("pairs", "text", "blocks of plain text"),
    ("chats", "text", "blocks of plain text"),
  ):
    found = read(name, format=format)
    assert found.about["format"] == kind and (found.train.given is not None) == (kind == "messages")
  found = read("plain", block_size=8, prefix_tokens=3)
  assert found.blocks and found.train.tokens.shape[1] == 8 and (found.train.given == 3).all()
  pairs = read("pairs", loss="answers")
  learned = [
    row[on].tolist()
    for row, on in zip(pairs.train.tokens, pairs.train.learned & (np.arange(128) < pairs.train.length[:, None]))
  ]
  assert all(model.tokenizer.decode(row).strip().startswith("r") for row in learned)
  for name, options, line in (
    ("plain", {"format": "messages"}, "no row has messages"),
    ("plain", {"format": "pairs"}, "no row has prompt and response"),
    ("pairs", {"format": "pairs", "prefix_tokens": 3}, "prefix_tokens are of blocks of text"),
    ("plain", {"loss": "answers"}, "loss=answers needs prompts, or prefix_tokens"),
  ):
    with pytest.raises(Refused, match=line):
      read(name, **options)


FLAG_FILES = """
import os, sys
from experiments import flag_values, language_model
language_model.define()
for name in sys.argv[1:]:
  if os.fork() == 0:
    flag_values.read(["language_model", f"--flagfile={name}"])
    one = language_model.read()
    said = one["num_beams"], *one["rules"].values(), *one["temperatures"], one["block_size"], one["prefix_tokens"], one["loss"]
    print(name, *said, "jax" in sys.modules, flush=True)
    os._exit(0)
  os.wait()
"""


def test_flag_files_of_published_protocols():
  """Beams, top_k, top_p, min_p, penalty, n-gram, temperature, block, prefix and loss of each; read without JAX."""
  folder = Path(language_model.__file__).parent / "flags"
  names = sorted(file.name for file in folder.glob("*.flags"))
  told = subprocess.run([sys.executable, "-c", FLAG_FILES, *names], capture_output=True, text=True, check=True).stdout
  found = {line.split()[0]: line.split()[1:] for line in told.splitlines()}
  assert sorted(found) == names and {one[-1] for one in found.values()} == {"False"}
  rest = ["512", "256", "answers", "False"]
  for name, said in (
    ("greedy", ["0", "1", "1.0", "0.0", "1.0", "0", "1.0"]),
    ("beams", ["5", "0", "1.0", "0.0", "1.0", "0", "1.0"]),
    ("sampling", ["0", "0", "1.0", "0.0", "1.0", "0", "1.0"]),
    ("temperature", ["0", "0", "1.0", "0.0", "1.0", "0", "0.9"]),
    ("top_k", ["0", "50", "1.0", "0.0", "1.0", "0", "1.0"]),
    ("nucleus", ["0", "0", "0.95", "0.0", "1.0", "0", "1.0"]),
  ):
    assert found[f"drayson_{name}.flags"] == said + rest
  shumailov = found["shumailov_opt125m_wikitext2.flags"]
  assert shumailov == ["5", "0", "1.0", "0.0", "1.0", "0", "1.0", "64", "64", "all", "False"]


@pytest.mark.parametrize(
  "given, line",
  [
    (["--prefix_tokens=64", "--block_size=64"], "--prefix_tokens must be below --block_size=64, got 64."),
    (
      ["--prefix_tokens=65", "--block_size=64", "--nokeep_prefix"],
      "--prefix_tokens must be below --block_size=64, got 65.",
    ),
    (["--format=prose"], "--format must be one of auto, text, pairs, messages, got 'prose'."),
    (["--loss=some"], "--loss must be one of all, answers, got 'some'."),
    (["--dataset={}", "--format=text"], "--dataset={}: {} holds no text."),
  ],
)
def test_bad_flags_are_one_line(tmp_path, given, line):
  (tmp_path / "a.txt").write_text("\n")
  told = [one.replace("{}", str(tmp_path)) for one in given]
  done = subprocess.run([sys.executable, "-m", "experiments.language_model", *told], capture_output=True, text=True)
  assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {line.replace('{}', str(tmp_path))}\n")
