"""Text in and out: formats, splits, tokenizers, and what is refused."""

import itertools
import json
import os
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from helpers import needed
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GPT2Config, PreTrainedTokenizerFast

from collapse_jax.lm import checkpoint, decoding, sampling, text, training
from collapse_jax.tasks import _language_model


@pytest.fixture(scope="module")
def documents():
  return {split: text.load("pydocs", split) for split in text.SPLITS}


@pytest.fixture(scope="module")
def tokenizer(documents):
  return text.train_tokenizer([document.text for document in documents["base"]], 600)


def test_pydocs_splits_share_no_module(documents):
  modules = [{document.group for document in part} for part in documents.values()]
  assert all(len(part) > 500 for part in documents.values())
  assert not (modules[0] & modules[1] or modules[0] & modules[2] or modules[1] & modules[2])
  assert sum(map(len, documents.values())) == len(text.pydocs())
  assert all(text.is_formatted(document.text) for part in documents.values() for document in part)
  assert text.fingerprint(documents["test"]) == text.fingerprint(text.load("pydocs", "test"))
  assert text.fingerprint(documents["test"]) != text.fingerprint(documents["test"][:-1])


def test_docstrings_are_those_of_the_interpreter(documents):
  found = {document.text for part in documents.values() for document in part}
  import inspect
  import textwrap

  assert text.formatted("textwrap.dedent", inspect.getdoc(textwrap.dedent)) in found


@pytest.mark.parametrize(
  "one, good",
  [
    ("user: a\nassistant: b", True),
    ("user: a\nassistant: b\nassistant: c", False),
    ("user: a", False),
    ("a\nassistant: b", False),
    ("user: \nassistant: b", False),
    ("user: a\nassistant: ", False),
    ("", False),
    ("user: summarize\nassistant: s", True),
  ],
)
def test_format(one, good):
  assert text.is_formatted(one) == good


def test_rows(tokenizer, documents):
  rows = text.to_rows(tokenizer, documents["test"], 64, 600)
  begin, end = text.special_ids(tokenizer)
  fits = [document.text for document in documents["test"] if len(tokenizer(document.text).input_ids) + 2 <= 64]
  assert len(rows.length) == len(fits) and rows.num_dropped == len(documents["test"]) - len(fits)
  assert text.to_texts(tokenizer, rows.tokens, rows.length) == fits
  assert (rows.tokens[:, 0] == begin).all()
  assert (rows.tokens[np.arange(len(fits)), rows.length - 1] == end).all()
  for marker in (text.USER, text.ASSISTANT):
    assert len(tokenizer(marker).input_ids) == 1


def test_form_by_tokens_is_form_by_text(tokenizer):
  """The two judges of samples agree on random sequences of markers and words."""
  user, assistant = (tokenizer(marker).input_ids[0] for marker in (text.USER, text.ASSISTANT))
  begin, end = text.special_ids(tokenizer)
  word = tokenizer("a").input_ids[0]
  rng = np.random.default_rng(0)
  tokens = rng.choice([user, assistant, word, word, end], (3000, 7))
  tokens[:, 0] = begin
  tokens[:1500, 1] = user
  ends = tokens[:, 1:] == end
  length = np.where(ends.any(axis=1), ends.argmax(axis=1) + 2, 7)
  by_tokens = sampling.formatted_by_tokens(user, assistant, end)(tokens, length)
  by_text = sampling.formatted_by_text(tokenizer)(tokens, length)
  np.testing.assert_array_equal(by_tokens, by_text)
  assert 20 < int(np.sum(by_tokens)) < 2900


def write(path, lines):
  path.write_text("\n".join(lines) + "\n")
  return str(path)


def test_files(tmp_path):
  rows = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(200)]
  source = write(tmp_path / "a.jsonl", map(json.dumps, rows))
  train, test = text.load(source, "train"), text.load(source, "test")
  assert len(train) + len(test) == 200 and 5 < len(test) < 40
  assert not {document.text for document in train} & {document.text for document in test}
  pandas, _ = needed("pandas"), needed("pyarrow")
  pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
  assert text.load(str(tmp_path / "a.parquet"), "train") == train
  plain = write(tmp_path / "b.jsonl", [json.dumps({"text": f"Once {i}."}) for i in range(50)])
  assert text.load(plain, "train")[0].text.startswith("Once ")


PAIRS = [{"prompt": f"describe item {i}", "response": f"river {i} stone"} for i in range(40)]
ARRAY = json.dumps(PAIRS)


@pytest.mark.parametrize(
  "content",
  [
    "\ufeff" + "\n".join(map(json.dumps, PAIRS)),
    "\r\n".join(map(json.dumps, PAIRS)) + "\r\n",
    "\n".join(map(json.dumps, PAIRS)) + "\n\n  \r\n",
    ARRAY,
    json.dumps(PAIRS, indent=1),
    "\n " + json.dumps(PAIRS, indent=2).replace("\n", "\r\n") + "\n\n",
  ],
  ids=["mark", "crlf", "empty last lines", "array", "array in lines", "array with crlf"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".JSONL", ".ndjson"])
def test_files_as_other_programs_write_them(tmp_path, content, encoding, suffix):
  file = tmp_path / f"a{suffix}"
  file.write_bytes(content.encode(encoding) if encoding == "utf-8" else content.removeprefix("\ufeff").encode(encoding))
  found = text.splits(str(file))
  assert {document.text for document in found.train + found.test} == {text.formatted(**row) for row in PAIRS}
  assert len(found.train + found.test) == len(PAIRS) and found.split_by == "prompt"


def test_lines_end_at_newlines_only(tmp_path):
  """Other characters that end a line for Python are text, and do not count as lines."""
  inside = "\u2028 \u2029 \x85 \x1c \x1d \x1e \x0b \x0c"
  rows = [{"prompt": f"p{i}", "response": f"left{inside}right"} for i in range(30)]
  dump = lambda row: json.dumps(row, ensure_ascii=False)
  found = text.splits(write(tmp_path / "a.jsonl", map(dump, rows)))
  assert sorted(document.text for document in found.train + found.test) == sorted(text.formatted(**row) for row in rows)
  with pytest.raises(ValueError, match=r"a\.jsonl, line 31: is no JSON"):
    text.splits(write(tmp_path / "a.jsonl", [*map(dump, rows), "{"]))


@pytest.mark.parametrize(
  "lines, match",
  [
    (['{"prompt": "a", "response": "b"}', "", '{"prompt": "a", "response": "b"}'], "line 2: is empty"),
    (["{"], "line 1: is no JSON"),
    (['{"prompt": "a"}'], "line 1: needs texts under prompt and response"),
    (['["a"]'], "line 1: needs"),
    (['{"prompt": "a", "response": 3}'], "line 1: needs"),
    (['{"text": "a"}', '{"text": null}'], "line 2: needs"),
    (['{"text": "a"}', '{"text": "nice \\ud83d picture"}'], r"line 2: holds '\\ud83d', half of a surrogate pair"),
    (['{"text": "a"}', '{"prompt": "\\udc00", "response": "b"}'], r"line 2: holds '\\udc00'"),
    (['{"text": "a"}', '{"text": ' + "[" * 100_000], "line 2: is no JSON"),
    (['{"text": "a"}', "9" * 5000], "line 2: is no JSON"),
    (["[", '{"text": "a"},', '{"text": 1}]'], "item 2, line 3: needs"),
    (["[", '{"text": "a"},', "]"], "line 3: is no JSON"),
    (["[", '{"text": "a"}'], "line 3: is no JSON"),
    (["[]", "1"], "line 1: is no JSON"),
    (['[{"text": "a"} {"text": "b"}]'], "line 1: is no JSON"),
    (["[]"], "holds no rows"),
    ([" "], "holds no rows"),
    (['{"prompt": {"0": "a"}, "response": {"0": "b"}}'], "line 1: needs"),
  ],
)
def test_bad_lines_are_named(tmp_path, lines, match):
  with pytest.raises(ValueError, match=match) as caught:
    text.splits(write(tmp_path / "a.jsonl", lines))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "content, match",
  [
    (b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: is not UTF-8 text"),
    ('{"text": "é"}'.encode("latin-1"), "line 1: is not UTF-8"),
    ('{"text": "a"}\n{"text": "b"}\n'.encode("utf-16")[:-1], "line 2: is not UTF-16-LE text"),
    ('{"text": "a"}'.encode("utf-16-le"), "line 1: is no JSON"),
  ],
)
def test_encodings_that_fail_are_named(tmp_path, content, match):
  (tmp_path / "a.jsonl").write_bytes(content)
  with pytest.raises(ValueError, match=match):
    text.splits(str(tmp_path / "a.jsonl"))


def test_damaged_files_end_in_one_line(tmp_path):
  """Bytes changed, cut or repeated: what is read are rows, or the error is one line."""
  pandas, _ = needed("pandas"), needed("pyarrow")
  pandas.DataFrame(PAIRS).to_parquet(tmp_path / "whole.parquet")
  whole = {
    ".parquet": (tmp_path / "whole.parquet").read_bytes(),
    ".jsonl": "\n".join(map(json.dumps, PAIRS)).encode(),
    ".json": json.dumps(PAIRS, indent=1).encode("utf-16"),
  }
  rng, read = np.random.default_rng(0), 0
  for i, (suffix, content) in itertools.product(range(60), whole.items()):
    damaged = bytearray(content)
    for at in rng.integers(len(damaged), size=1 + i % 4):
      damaged[at] = rng.integers(256)
    if i % 3 == 0:
      damaged = damaged[: rng.integers(len(damaged))] + damaged[rng.integers(len(damaged)) :]
    (tmp_path / f"a{suffix}").write_bytes(damaged)
    try:
      read += len(text.splits(str(tmp_path / f"a{suffix}")).train) > 0
    except ValueError as error:
      assert f"a{suffix}" in str(error) and "\n" not in str(error)
  assert 10 < read < 170


def test_surrogate_pairs_are_characters(tmp_path):
  found = text.splits(write(tmp_path / "a.jsonl", [f'{{"text": "\\ud83d\\ude00 {i}"}}' for i in range(30)]))
  assert all(document.text.startswith("\U0001f600 ") for document in found.train)


def test_rows_of_one_prompt_are_split_by_row(tmp_path):
  rows = [{"prompt": "Write a short story.", "response": f"Story {i % 50}."} for i in range(120)]
  found = text.splits(write(tmp_path / "a.jsonl", map(json.dumps, rows)))
  assert (
    found.split_by == "row"
    and len(found.train) + len(found.test) == 120
    and len({document.text for document in found.test}) == 5
  )
  assert not {document.text for document in found.train} & {document.text for document in found.test}
  same = text.splits(write(tmp_path / "b.jsonl", [json.dumps(rows[0])] * 9))
  assert len(same.train) == 9 and not same.test
  for num in range(2, 12):  # by chance, few prompts leave none for test
    few = text.splits(
      write(tmp_path / "c.jsonl", [json.dumps({"prompt": f"p{i}", "response": "r"}) for i in range(num)])
    )
    assert few.train and few.test


def test_a_home_and_pipes_are_read(tmp_path, monkeypatch):
  write(tmp_path / "a.jsonl", map(json.dumps, PAIRS))
  monkeypatch.setenv("HOME", str(tmp_path))
  assert len(text.load("~/a.jsonl", "train")) + len(text.load("~/a.jsonl", "test")) == len(PAIRS)
  out, into = os.pipe()
  with os.fdopen(into, "wb") as pipe:
    pipe.write((tmp_path / "a.jsonl").read_bytes())
  found = text.splits(f"/dev/fd/{out}")  # as of <(command)
  os.close(out)
  assert len(found.train) + len(found.test) == len(PAIRS)


def test_folder_that_comes_split(tmp_path):
  for split, num in (("train", 30), ("validation", 7)):
    write(tmp_path / f"{split}.jsonl", [json.dumps({"prompt": f"{split} {i}", "response": "r"}) for i in range(num)])
  assert len(text.load(str(tmp_path), "train")) == 30 and len(text.load(str(tmp_path), "test")) == 7
  assert text.splits(str(tmp_path)).split_by == "source"
  (tmp_path / "validation.jsonl").unlink()
  train, test = text.load(str(tmp_path), "train"), text.load(str(tmp_path), "test")
  assert len(train) + len(test) == 30 and test
  (tmp_path / "train.json").write_text("[]")
  with pytest.raises(ValueError, match=r"has both train.jsonl and train.json"):
    text.splits(str(tmp_path))


class FakeHub(types.ModuleType):
  """`datasets`, which only notes how it is called."""

  def __init__(self, old: bool, splits):
    super().__init__("datasets")
    self.calls, self.splits = [], splits

    def load_dataset_3(path, name=None, trust_remote_code=None, **config):
      return self.note(path, trust_remote_code=trust_remote_code, **config)

    def load_dataset_5(path, name=None, **config):
      return self.note(path, **config)

    self.load_dataset = load_dataset_3 if old else load_dataset_5

  def note(self, path, **options):
    self.calls.append((path, options))
    return {
      split: [{"prompt": f"{split} {i}", "response": "r"} for i in range(num)] for split, num in self.splits.items()
    }


@pytest.mark.parametrize("old", [True, False])
def test_hub_data_sets_bring_no_code(monkeypatch, tmp_path, old):
  """Only names that the hub alone knows reach `datasets`; builders, folders and scripts, whose code it would run, do not."""
  hub = FakeHub(old, {"train": 30, "validation": 7, "test": 5})
  monkeypatch.setitem(sys.modules, "datasets", hub)
  monkeypatch.chdir(tmp_path)
  for folder in ("mydata", "owner/name"):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / f"{folder.split('/')[-1]}.py").write_text("raise SystemExit")
  (tmp_path / "train.pkl").write_bytes(b"")
  (tmp_path / "script.py").write_text("raise SystemExit")
  for name in (
    "pandas",
    "csv",
    "json",
    "text",
    "parquet",
    "arrow",
    "imagefolder",
    "webdataset",
    "generator",
    "sql",
    "xml",
    "./mydata",
    "mydata",
    "mydata/",
    "owner/name",
    "../..",
    "..",
    ".",
    "/",
    "~",
    "script.py",
    "script",
    "./script.py",
    "mydata/mydata.py",
    "a/b/c",
    "-a/b",
    "hf://datasets/a/b",
    "https://host/a",
    "s3://a/b",
    "a/..",
    "a/b@main",
    "a/b\n",
    "",
    " ",
    "a/b.jsonl",
    "x" * 5000,
    "a\0b",
  ):
    with pytest.raises(ValueError) as caught:
      text.splits(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
  assert not hub.calls
  found = text.splits("somebody/some-data_1.0")
  assert (len(found.train), len(found.test), found.split_by) == (30, 7, "source")
  assert hub.calls == [("somebody/some-data_1.0", {"trust_remote_code": False} if old else {})]
  hub.splits = {"all": 30}
  found = text.splits("somebody/other")
  assert len(found.train) + len(found.test) == 30 and found.test


def test_no_allowed_version_of_datasets_unpickles():
  """5.2 is the first whose builder `pandas` refuses; before, any folder with a train.pkl was enough."""
  import tomllib
  from pathlib import Path

  project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
  (bound,) = [one for one in project["optional-dependencies"]["hub"] if one.startswith("datasets")]
  assert tuple(map(int, bound.removeprefix("datasets>=").split("."))) >= (5, 2)


# ------------------------------------------------------------------------------------------------------- tokenizers
SPACE = "\u2581"
TEXTS = [
  text.formatted(prompt, response)
  for prompt, response in itertools.product(
    ["repeat river and stone", "say 42", "emoji \U0001f600 and \u00e9", "a  b", "two\nlines"],
    [
      "river stone river",
      "42 is it",
      "\U0001f600!",
      "(maybe) so",
      '"quoted"',
      "\u65e5\u672c",
      "a  b\n\n c",
      "- list",
      "7",
    ],
  )
]
LLAMA3 = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def trained(model, pre=None, decoder=None, normalizer=None, unigram=False, bytes_too=False, alphabet=(), size=340):
  """A tokenizer of transformers with an end token, fitted to TEXTS."""
  one = tokenizers.Tokenizer(model)
  if pre is not None:
    one.pre_tokenizer = pre
  if normalizer is not None:
    one.normalizer = normalizer
  one.decoder = decoder
  whole_words = pre is None  # in training only, as SentencePiece
  if whole_words:
    one.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
  special = ["<unk>", "</s>", *([f"<0x{i:02X}>" for i in range(256)] if bytes_too else [])]
  kind = trainers.UnigramTrainer if unigram else trainers.BpeTrainer
  more = {"unk_token": "<unk>"} if unigram else {}
  one.train_from_iterator(
    TEXTS * 3,
    kind(vocab_size=size, special_tokens=special, initial_alphabet=list(alphabet), show_progress=False, **more),
  )
  if whole_words:
    one.pre_tokenizer = None
  return PreTrainedTokenizerFast(tokenizer_object=one, eos_token="</s>", clean_up_tokenization_spaces=False)


def byte_level(pre, **options):
  return trained(models.BPE(), pre, decoders.ByteLevel(), alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)


def llama2():
  """As converted from SentencePiece: no words, spaces are letters, one is put in front, bytes where a letter is unknown."""
  return trained(
    models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True),
    None,
    decoders.Sequence(
      [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]),
    bytes_too=True,
    size=500,
  )


def squeezing():
  return byte_level(
    pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer=normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
  )


TOKENIZERS = {
  "gpt2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
  "gpt2, space in front": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
  "llama3": lambda: byte_level(
    pre_tokenizers.Sequence(
      [
        pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
      ]
    )
  ),
  "llama2": llama2,
  "metaspace": lambda: trained(
    models.Unigram(), pre_tokenizers.Metaspace(SPACE, "never"), decoders.Metaspace(SPACE, "never"), unigram=True
  ),
  "metaspace, space in front": lambda: trained(
    models.Unigram(), pre_tokenizers.Metaspace(), decoders.Metaspace(), unigram=True
  ),
  "gemma": lambda: trained(
    models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True),
    None,
    decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]),
    normalizers.Replace(" ", SPACE),
    bytes_too=True,
    size=500,
  ),
  "tiny": lambda: text.train_tokenizer(TEXTS, 400),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_prompts_are_first_tokens_of_their_rows(name):
  """And all of the prompt but its last space; what follows them in training can follow them in sampling."""
  tokenizer = TOKENIZERS[name]()
  documents = [text.Document(one, one) for one in TEXTS]
  rows = text.to_rows(tokenizer, documents, 256, len(tokenizer))
  assert len(rows.length) == len(TEXTS) and rows.num_lost == 0
  assert text.to_texts(tokenizer, rows.tokens, rows.length) == TEXTS and rows.num_changed == 0
  given = text.prompts(tokenizer, rows)
  assert len(given.length) == len(TEXTS) and (given.length < rows.length - 1).all()
  _, end = text.special_ids(tokenizer)
  for one, row, prompt, num in zip(TEXTS, rows.tokens, given.tokens, given.length):
    np.testing.assert_array_equal(prompt[:num], row[:num])
    assert (prompt[num:] == end).all()
    (back,) = text.to_texts(tokenizer, prompt[None, :num], [num])
    assert back.rstrip() == one.split(text.ASSISTANT)[0] + text.ASSISTANT.rstrip() and one.startswith(back)
  by_prompt = {}
  for one, prompt, num in zip(TEXTS, given.tokens, given.length):
    by_prompt.setdefault(one.split(text.ASSISTANT)[0], set()).add(tuple(prompt[:num]))
  assert all(len(cuts) == 1 for cuts in by_prompt.values())  # whatever the response


def test_prompts_are_answered_as_rows_are():
  """A model that knows its rows answers their prompts; tokenised alone, these end in a token that it has never seen there."""
  words = ["river", "stone", "lamp", "cloud", "engine", "paper", "garden", "signal"]
  documents = [
    text.Document(text.formatted(f"what follows {one}", f"{two} {one}"), one)
    for one, two in zip(words, words[1:] + words[:1])
  ]
  whole = tokenizers.Tokenizer(models.BPE())
  whole.pre_tokenizer, whole.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
  whole.train_from_iterator(
    [document.text for document in documents] * 9,
    trainers.BpeTrainer(
      vocab_size=330, special_tokens=["</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    ),
  )
  tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="</s>", clean_up_tokenization_spaces=False)
  rows = text.to_rows(tokenizer, documents, 20, len(tokenizer))
  config = GPT2Config(
    vocab_size=len(tokenizer), n_positions=20, n_embd=32, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=0
  )
  model = checkpoint.random(config, jax.random.key(0), tokenizer=tokenizer)
  tokens, length = jnp.asarray(rows.tokens), jnp.asarray(rows.length)
  recipe = training.Recipe(learning_rate=1e-2, batch_size=8, amount=120)
  fitted = jax.jit(
    lambda: training.fit(
      jax.random.key(1),
      model.apply,
      recipe,
      model.params,
      tokens,
      length,
      jnp.ones(8),
      lambda weights: jnp.zeros(()),
      1,
    )
  )()

  def share_right(given):
    out, ends = sampling.generate(
      jax.random.split(jax.random.key(0), 8),
      checkpoint.functions_of(config, model.params),
      fitted.weights,
      20,
      *text.special_ids(tokenizer),
      decoding.Rules(0.0),
      jnp.asarray(given.tokens),
      jnp.asarray(given.length),
    )
    return np.mean(
      [
        one == document.text
        for one, document in zip(text.to_texts(tokenizer, np.asarray(out), np.asarray(ends)), documents)
      ]
    )

  assert share_right(text.prompts(tokenizer, rows)) == 1
  alone = text.to_rows(
    tokenizer,
    [text.Document(one.text.split(text.ASSISTANT)[0] + text.ASSISTANT, "") for one in documents],
    20,
    len(tokenizer),
    pairs=False,
  )
  assert share_right(text.Rows(alone.tokens[:, :-1], alone.length - 1)) == 0


@pytest.mark.parametrize("name", TOKENIZERS)
def test_real_rows_are_well_formed_samples(name):
  """Whatever judges samples: a model that writes the real rows is not said to have lost their format."""
  tokenizer = TOKENIZERS[name]()
  rows = text.to_rows(tokenizer, [text.Document(one, one) for one in TEXTS], 128, len(tokenizer))
  judge = _language_model._wellformed(tokenizer, text.special_ids(tokenizer)[1], False, "reject", rows, None)
  assert np.asarray(judge(jnp.asarray(rows.tokens), jnp.asarray(rows.length))).all()
  cut = jnp.asarray(rows.length - 1)
  assert not np.asarray(judge(jnp.asarray(rows.tokens), cut)).any()


def test_prompts_need_pairs(tokenizer):
  rows = text.to_rows(tokenizer, [text.Document("plain", "")], 64, 600, pairs=False)
  with pytest.raises(ValueError, match="no row of prompt and response"):
    text.prompts(tokenizer, rows)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_in_text_are_text(name):
  tokenizer = TOKENIZERS[name]()
  _, end = text.special_ids(tokenizer)
  one = text.formatted("what ends a text", f"the token {tokenizer.eos_token} ends it, <unk> does not")
  rows = text.to_rows(tokenizer, [text.Document(one, "")], 256, len(tokenizer))
  if name.startswith("metaspace"):  # a unigram model knows the end token as a piece of text: said, and left out
    assert len(rows.length) == 0 and (rows.num_changed, rows.num_lost) == (1, 1) and rows.changed[0] == one
  else:
    assert int((rows.tokens[0, 1 : rows.length[0]] == end).sum()) == 1 and rows.num_changed == 0
    assert text.to_texts(tokenizer, rows.tokens, rows.length) == [one]


def test_rows_that_lose_the_format_are_counted():
  tokenizer = squeezing()
  documents = [text.Document(one, one) for one in TEXTS]
  rows = text.to_rows(tokenizer, documents, 256, len(tokenizer))
  assert len(rows.length) == 0 and rows.num_lost == rows.num_changed == len(TEXTS)
  assert rows.changed == (TEXTS[0], TEXTS[0].replace("\n", " "))
  kept = text.to_rows(tokenizer, documents, 256, len(tokenizer), lossy=True)
  assert len(kept.length) == len(TEXTS) and (kept.num_lost, kept.num_changed) == (0, len(TEXTS))
  plain = text.to_rows(
    tokenizer,
    [text.Document("a b", ""), text.Document("a  b", ""), text.Document("", "")],
    256,
    len(tokenizer),
    pairs=False,
  )
  assert (len(plain.length), plain.num_changed, plain.num_unsplittable, plain.changed) == (2, 1, 1, ("a  b", "a b"))


def test_refused(tmp_path, tokenizer, documents):
  (tmp_path / "a.csv").write_text("x")
  with pytest.raises(ValueError, match="neither"):
    text.load(str(tmp_path / "a.csv"), "train")
  (tmp_path / "a.jsonl").write_text("")
  with pytest.raises(ValueError, match="no rows"):
    text.load(str(tmp_path / "a.jsonl"), "train")
  (tmp_path / "a.parquet").write_text("x")
  with pytest.raises(ValueError, match="Parquet"):
    text.load(str(tmp_path / "a.parquet"), "train")
  with pytest.raises(ValueError, match="vocabulary mismatch"):
    text.to_rows(tokenizer, documents["test"], 64, 300)
  tokenizer = text.train_tokenizer(["abc"], 300)
  tokenizer.eos_token = None
  with pytest.raises(ValueError, match="no end-of-sequence token"):
    text.to_rows(tokenizer, documents["test"], 64, 600)
