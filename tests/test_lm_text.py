"""Text in and out: formats, splits, tokenizers, and what is refused."""

import json

import numpy as np
import pytest

from collapse_jax.lm import sampling, text


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


@pytest.mark.parametrize("one, good", [
    ("user: a\nassistant: b", True), ("user: a\nassistant: b\nassistant: c", False), ("user: a", False),
    ("a\nassistant: b", False), ("user: \nassistant: b", False), ("user: a\nassistant: ", False), ("", False),
    ("user: summarize\nassistant: s", True)])
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
  pandas = pytest.importorskip("pandas")
  pytest.importorskip("pyarrow")
  pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
  assert text.load(str(tmp_path / "a.parquet"), "train") == train
  plain = write(tmp_path / "b.jsonl", [json.dumps({"text": f"Once {i}."}) for i in range(50)])
  assert text.load(plain, "train")[0].text.startswith("Once ")


def test_hub_data_set(tmp_path):
  """A data set with its own test split, as the hub gives it (here from a folder)."""
  pytest.importorskip("datasets")
  for split, num in (("train", 30), ("validation", 7)):
    write(tmp_path / f"{split}.jsonl", [json.dumps({"prompt": f"{split} {i}", "response": "r"}) for i in range(num)])
  assert len(text.load(str(tmp_path), "train")) == 30 and len(text.load(str(tmp_path), "test")) == 7
  (tmp_path / "validation.jsonl").unlink()
  train, test = text.load(str(tmp_path), "train"), text.load(str(tmp_path), "test")
  assert len(train) + len(test) == 30 and test


@pytest.mark.parametrize("lines, match", [
    (['{"prompt": "a", "response": "b"}', ""], "line 2: is empty"), (["{"], "line 1: is no JSON"),
    (['{"prompt": "a"}'], "line 1: needs texts under prompt and response"), (['["a"]'], "line 1: needs"),
    (['{"prompt": "a", "response": 3}'], "line 1: needs")])
def test_bad_lines_are_named(tmp_path, lines, match):
  with pytest.raises(ValueError, match=match):
    text.load(write(tmp_path / "a.jsonl", lines), "train")


def test_refused(tmp_path, tokenizer, documents):
  (tmp_path / "a.txt").write_text("x")
  with pytest.raises(ValueError, match="neither"):
    text.load(str(tmp_path / "a.txt"), "train")
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
