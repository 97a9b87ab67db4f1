"""The pretrained base in its cache: whole, or made again."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from collapse_jax import caches
from collapse_jax.lm import checkpoint, text, tiny


@pytest.fixture
def made(monkeypatch):
  """How often the base was made; training is left out."""
  times = []
  few = text.load("pydocs", "base")[:200]
  monkeypatch.setattr(text, "load", lambda source, split: few)
  monkeypatch.setattr(tiny, "pretrain", lambda documents: times.append(1) or tiny.untrained(documents))
  return times


def same(one, two):
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
  texts = [text.formatted("json.dumps", "Serialize  it.\n\nAt once <|end|>")]
  assert text.encode(one.tokenizer, texts) == text.encode(two.tokenizer, texts)
  return one.config.to_diff_dict() | {"dtype": ""} == two.config.to_diff_dict() | {"dtype": ""}


def damage(folder, how):
  weights = folder / "model.safetensors"
  if how == "truncated":
    weights.write_bytes(weights.read_bytes()[:-1000])
  elif how == "one bit":
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
  elif how == "without tokenizer":
    (folder / "tokenizer.json").unlink()
  elif how == "empty":
    [file.unlink() for file in folder.iterdir()]
  elif how == "checksums gone":
    (folder / "sha256.json").unlink()
  else:
    (folder / "sha256.json").write_text("[" * 100_000)


def test_it_is_made_once(made, tmp_path):
  first = tiny.load(cache_dir=tmp_path)
  again = tiny.load(cache_dir=tmp_path)
  assert made == [1] and same(first, again)
  assert tiny.load(jnp.bfloat16, tmp_path).params["embedding"].dtype == jnp.bfloat16


def test_what_is_damaged_is_made_again(made, tmp_path, caplog):
  first = tiny.load(cache_dir=tmp_path)
  (folder,) = tmp_path.glob("tiny-*")
  for i, how in enumerate(("truncated", "one bit", "without tokenizer", "empty", "checksums gone", "checksums wrong")):
    damage(folder, how)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
      again = tiny.load(cache_dir=tmp_path)
    assert len(made) == i + 2 and same(first, again) and "is damaged and is made again" in caplog.text, how
  assert {file.name for file in tmp_path.iterdir()} == {folder.name, "tiny.lock"}


def test_nothing_is_left_of_a_process_that_was_killed(made, tmp_path, monkeypatch):
  save = checkpoint.save

  def interrupted(model, directory):
    save(model, directory)
    raise KeyboardInterrupt

  monkeypatch.setattr(checkpoint, "save", interrupted)
  with pytest.raises(KeyboardInterrupt):
    tiny.load(cache_dir=tmp_path)
  assert [file.name for file in tmp_path.iterdir()] == ["tiny.lock"]
  monkeypatch.setattr(checkpoint, "save", save)
  tiny.load(cache_dir=tmp_path)
  (folder,) = tmp_path.glob("tiny-*")
  folder.rename(folder.with_name(f"{folder.name}.part"))  # as SIGKILL leaves it while it is written
  (folder.with_name(f"{folder.name}.part") / "model.safetensors").write_bytes(b"half")
  tiny.load(cache_dir=tmp_path)
  assert {file.name for file in tmp_path.iterdir()} == {folder.name, "tiny.lock"}


@pytest.mark.parametrize(
  "error",
  [OSError(28, "No space left on device"), safetensors.SafetensorError("Error while serializing: No space left")],
)
def test_a_full_disk_is_said_and_does_without_a_cache(made, tmp_path, monkeypatch, caplog, error):
  whole = tiny.load(jnp.bfloat16, tmp_path / "whole")

  def full(model, directory):
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(b"half")
    raise error

  monkeypatch.setattr(checkpoint, "save", full)
  with caplog.at_level(logging.WARNING):
    model = tiny.load(jnp.bfloat16, tmp_path / "full")
  same(whole, model)
  assert [file.name for file in (tmp_path / "full").iterdir()] == ["tiny.lock"]
  assert len(caplog.messages) == 1 and "No space left" in caplog.text and "\n" not in caplog.messages[0]


def test_without_a_home_it_goes_to_a_temporary_directory(made, tmp_path, monkeypatch):
  (tmp_path / "home").write_text("")
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
  caches._temporary.cache_clear()
  tiny.load()
  tiny.load()
  assert made == [1] and len(list(tmp_path.glob("collapse_jax-*/tiny-*/sha256.json"))) == 1
  caches._temporary.cache_clear()
  assert json.loads(next(tmp_path.glob("collapse_jax-*/tiny-*/sha256.json")).read_text()).keys() >= {
    "model.safetensors",
    "config.json",
  }
