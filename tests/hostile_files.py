"""Several hundred files as an enemy, a full disk or a bad writer would leave them, each read in this process.

  python tests/hostile_files.py DIRECTORY

Prints a JSON object: how many there are of each kind, how many loaded, what misbehaved, seconds of a processor, and bytes of memory
beyond what libraries take. A file must load, or raise a ValueError of one line; within seconds, and within LIMIT bytes.
"""

import contextlib
import io
import itertools
import json
import os
import resource
import shutil
import signal
import struct
import sys
import time
from pathlib import Path

import numpy as np

LIMIT = 2 << 30
SECONDS, MOST_SECONDS = 60, 8  # on the clock, and of a processor
rng = np.random.default_rng(0)


class Slow(BaseException):
  """Not an Exception, which a loader might take for a damaged file."""


def flips(valid: bytes, num: int, start: int = 0) -> list[bytes]:
  """Copies with one byte changed."""
  places = rng.integers(start, len(valid), num)
  return [valid[:at] + bytes([valid[at] ^ int(rng.integers(1, 256))]) + valid[at + 1 :] for at in places]


def cuts(valid: bytes, num: int) -> list[bytes]:
  return [valid[:at] for at in np.unique(np.linspace(0, len(valid) - 1, num).astype(int))]


JUNK = [
  b"",
  b"\0",
  b"null",
  b"[]",
  b"{}",
  b"[" * 200_000,
  b'{"a":' * 100_000,
  b"\xff\xfe",
  b"\x80abc",
  b"1" * 5000,
  b'"text"',
  b"{",
  b"NaN",
  b'{"a": 1e999}',
]
VALUES = [None, "8", -1, 0, 1.5, 10**9, 10**30, [8], {"a": 1}, True, float("nan"), float("inf"), "x" * 1000]


def model_cases(root):
  """Directories with one file replaced: (kind, files to write, whether the tokenizer is needed)."""
  import jax
  from transformers import LlamaConfig

  from collapse_jax.lm import checkpoint, text

  tokenizer = text.train_tokenizer([f"user: word {i}\nassistant: answer {i}" for i in range(50)], 280)
  config = LlamaConfig(
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    vocab_size=300,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
  )
  model = checkpoint.random(config, jax.random.key(0), "float32")
  checkpoint.save(model, root / "plain")
  checkpoint.save(model._replace(tokenizer=tokenizer), root / "whole")
  base = json.loads((root / "plain" / "config.json").read_text())
  yield "plain", {}
  yield "whole", {}
  change = lambda **new: {"config.json": json.dumps(base | new).encode()}
  for key in (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "rope_parameters",
    "rms_norm_eps",
    "tie_word_embeddings",
    "head_dim",
    "hidden_act",
  ):
    for value in VALUES:
      yield "plain", change(**{key: value})
  for new in (
    {"rope_parameters": {"rope_type": "linear"}},
    {"rope_parameters": {"rope_type": "llama3", "factor": 8}},
    {"rope_scaling": {"type": "yarn"}},
    {"rope_parameters": {"rope_type": ["linear"], "factor": "4"}},
    {"rope_parameters": {"rope_type": "linear", "factor": 0}},
    {"num_attention_heads": 3},
    {"head_dim": 3},
    {"num_labels": 10**9},
    {"id2label": {"x": 1}},
    {"auto_map": {"AutoConfig": "evil.Evil"}},
    {"quantization_config": {"quant_method": "awq"}},
    {"quantization_config": 3},
    {"dtype": "float3"},
    {"dtype": ["x"]},
    {"torch_dtype": 7},
    {"architectures": 3},
    {"layer_types": "full_attention"},
    {"eos_token_id": [2, "3"]},
    {"bos_token_id": {}},
    {"per_layer_config": [1]},
    {"model_type": "gemma2"},
    {"model_type": "gpt2"},
    {"model_type": "gemma2", "num_hidden_layers": 10**9, "head_dim": 4},
    {"model_type": "gpt2", "n_layer": 10**9},
    {"model_type": "gpt2", "n_head": 0},
    {"model_type": "\x1b[31mred"},
  ):
    yield "plain", change(**new)
  for junk in JUNK:
    yield "plain", {"config.json": junk}
    yield "plain", {"model.safetensors": junk}
    yield "whole", {"tokenizer.json": junk}
    yield "whole", {"tokenizer_config.json": junk}
    yield "plain", {"model.safetensors": None, "model.safetensors.index.json": junk}

  header = lambda table, body=b"", length=None: (
    struct.pack("<Q", len(table) if length is None else length) + table + body
  )
  one = lambda **about: json.dumps(
    {"model.norm.weight": {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]} | about}
  ).encode()
  names = {f"t{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(200_000)}
  for content in (
    header(one(), bytes(32)),
    header(one(), bytes(31)),
    header(one(), b"", 1 << 60),
    header(one(), b"", 1 << 62),
    header(b"", b"", 0),
    header(one(dtype="F3"), bytes(32)),
    header(one(dtype="F8_E4M3", shape=[32]), bytes(32)),
    header(one(shape=[1 << 60, 1 << 60]), bytes(32)),
    header(one(shape=[-8]), bytes(32)),
    header(one(shape="8"), bytes(32)),
    header(one(data_offsets=[32, 0]), bytes(32)),
    header(one(data_offsets=[0, 1 << 62], shape=[1 << 60])),
    header(one(shape=[1] * 1000), bytes(32)),
    header(json.dumps(names).encode(), bytes(800_000)),
    header(b"[]"),
    header(b"{" * 100_000),
    header(b'{"__metadata__": 3}'),
    header(b"\xff" * 8),
  ):
    yield "plain", {"model.safetensors": content}
  weights = (root / "plain" / "model.safetensors").read_bytes()
  for content in (*flips(weights[:600] + weights[600:], 20), *cuts(weights, 8)):
    yield "plain", {"model.safetensors": content}
  index = lambda table: {
    "model.safetensors": None,
    "model.safetensors.index.json": json.dumps({"weight_map": table}).encode(),
  }
  for table in (
    {},
    [],
    3,
    None,
    {"a": 3},
    {"a": None},
    {"a": "../plain/model.safetensors"},
    {"a": "/etc/passwd"},
    {"a": "x.safetensors"},
    {"a": "\0.safetensors"},
    {"a": "\x1b[2J.safetensors"},
    {"a": "x" * 5000 + ".safetensors"},
    {"a": ".."},
    {"a": "pytorch_model.bin"},
  ):
    yield "plain", index(table)

  words = json.loads((root / "whole" / "tokenizer.json").read_text())
  changed = lambda **new: {"tokenizer.json": json.dumps(words | new).encode()}
  for key in (
    "model",
    "pre_tokenizer",
    "decoder",
    "added_tokens",
    "normalizer",
    "post_processor",
    "truncation",
    "version",
  ):
    for value in ("x", 3, [1], {"type": "None"}, {"type": "BPE"}):
      yield "whole", changed(**{key: value})
  split = lambda regex: {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
  for regex in (
    "(" * 1000,
    "((a{1000}){1000}){1000}",
    "(a{1,9999}){1,9999}",
    "a" * 1_000_000,
    "[",
    "(?P<",
    "\\",
    "(?<=a{10000})",
    "a{99999999999}",
    "(a|b|" * 3000,
    "\\p{Nope}",
    "(?i:" * 500,
    "(a+)+$",
    "(.*)*$",
    "((((((((a{100}){100}){100}){100}){100}){100}){100}){100})",
  ):
    yield "whole", changed(pre_tokenizer=split(regex))
    yield "whole", changed(normalizer={"type": "Replace", "pattern": {"Regex": regex}, "content": "x"})
  bpe = words["model"]
  for new in (
    {"merges": ["a"]},
    {"merges": [["a", "b", "c"]]},
    {"merges": [["zz", "qq"]]},
    {"merges": "a b"},
    {"vocab": {}},
    {"vocab": {"a": -1}},
    {"vocab": {"a": 1 << 40}},
    {"vocab": {"a": "1"}},
    {"vocab": {f"t{i}": i for i in range(3000)}},
    {"vocab": []},
    {"unk_token": "nope"},
    {"dropout": 7},
    {"type": "Unigram"},
    {"type": "WordPiece"},
    {"byte_fallback": 3},
  ):
    yield "whole", changed(model=bpe | new)
  token = words["added_tokens"][0]
  for new in (
    {"id": -1},
    {"id": 1 << 31},
    {"id": 1 << 40},
    {"id": "0"},
    {"content": ""},
    {"content": 3},
    {"content": "x" * 1_000_000},
    {"special": "yes"},
  ):
    yield "whole", changed(added_tokens=[token | new])
  settings = json.loads((root / "whole" / "tokenizer_config.json").read_text())
  for new in (
    {"tokenizer_class": 3},
    {"tokenizer_class": "Evil"},
    {"tokenizer_class": "BertJapaneseTokenizer"},
    {"eos_token": 3},
    {"eos_token": {"a": 1}},
    {"model_max_length": "many"},
    {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}},
    {"added_tokens_decoder": 3},
    {"pad_token": None},
    {"added_tokens_decoder": {"x": {}}},
    {"extra_special_tokens": 7},
    {"chat_template": 3},
    {"tokenizer_class": "LlamaTokenizer"},
  ):
    yield "whole", {"tokenizer_config.json": json.dumps(settings | new).encode()}
  for content in (
    *flips((root / "whole" / "tokenizer.json").read_bytes(), 15),
    *cuts((root / "whole" / "tokenizer.json").read_bytes(), 5),
  ):
    yield "whole", {"tokenizer.json": content}


def gguf_cases(root):
  import gguf_models
  import jax
  from transformers import LlamaConfig

  from collapse_jax.lm import checkpoint

  tokens, about = gguf_models.sentencepiece(["a", "b", "ab", "\u2581a"])
  config = LlamaConfig(
    hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=len(tokens), head_dim=4
  )
  gguf_models.write(root / "m.gguf", checkpoint.random(config, jax.random.key(0), "float32"), about)
  valid = (root / "m.gguf").read_bytes()
  yield valid
  start = valid.index(b"output_norm.weight") + 200  # about where metadata ends
  yield from cuts(valid, 30)
  yield from flips(valid, 40, 0)
  yield from flips(valid[:600] + valid[600:], 20)
  for number in (1 << 20, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
    for at in (8, 16, 24):
      yield valid[:at] + struct.pack("<Q", number) + valid[at + 8 :]
    for key in (b"tokenizer.ggml.tokens", b"tokenizer.ggml.scores", b"tokenizer.ggml.token_type"):
      at = valid.index(key) + len(key) + 8
      yield valid[:at] + struct.pack("<Q", number) + valid[at + 8 :]
    at = valid.index(b"token_embd.weight") + len(b"token_embd.weight") + 4
    yield valid[:at] + struct.pack("<Q", number) + valid[at + 8 :]
  for key in (
    b"llama.context_length",
    b"llama.block_count",
    b"llama.attention.head_count",
    b"llama.embedding_length",
    b"general.architecture",
  ):
    at = valid.index(key) + len(key)
    for kind in (0, 6, 7, 8, 9, 10, 12, 13, 255, 1 << 31):
      yield valid[:at] + struct.pack("<I", kind) + valid[at + 4 :]
  for number in (0, 10**9, (1 << 32) - 1):
    for key in (
      b"llama.block_count",
      b"llama.attention.head_count",
      b"llama.embedding_length",
      b"llama.context_length",
    ):
      at = valid.index(key) + len(key) + 4
      yield valid[:at] + struct.pack("<I", number) + valid[at + 4 :]
  text = lambda word: struct.pack("<Q", len(word)) + word
  nested = b"".join(struct.pack("<IQ", 9, 1) for _ in range(100_000))
  for body in (
    text(b"k") + struct.pack("<IIQ", 9, 0, 1 << 40),
    text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 40),
    text(b"k") + struct.pack("<I", 9) + nested,
    struct.pack("<Q", 1 << 50),
    text(b"k") + struct.pack("<IQ", 8, 1 << 50),
    text(b"\xff\xfe") + struct.pack("<IB", 0, 1),
  ):
    yield b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + body
  yield from (b"GGUF" + junk for junk in JUNK)
  yield valid[:4] + struct.pack(">I", 3) + valid[8:]
  yield valid[:start]


CSV = [
  b"a,b\n" + b"1,2\n" * 3 + b"x" * 200_000 + b",1\n",
  b",".join([b"1"] * 300_000) + b"\n",
  b"a\n" + b"\n" * 100_000,
  b'"' + b"a" * 300_000,
  b'a,b\n"1,2\n3,4\n',
  b"a,b\r1,2\r3,4\r5,6\r7,9\r",
  b"\xef\xbb\xbf",
  b"\xff\xfea\0,\0b\0\n\0",
  b"\xff\xfe\0",
  b"sep=\n1,2\n",
  b"sep=;\n",
  b"sep=,\n\n\n",
  b"1_0,2\n3,4\n5,6\n7,8\n",
  b"a,b\n1,2\n3,4\n5,6\n7,1e999\n",
  b"0x10,1\n1,2\n3,4\n5,6\n",
  b"a;b\n1,5;2\n3.5;4\n5;6\n7;8\n",
  "a,b\n١,2\n3,4\n5,6\n7,8\n".encode(),
  b"a\x1b[31m,b\n1,x\n3,4\n5,6\n7,8\n",
  b"," * 100_000 + b"\n",
  b"\n".join([b"," * 9] * 99),
  b"a,b\n" + b"1,2,3\n" * 5,
  b"a,b,c\n" + b"1,2\n" * 5,
  b"\0" * 1000,
  b"nan,inf\n1,2\n3,4\n5,6\n",
  b"-,+\n1,2\n3,4\n5,6\n7,9",
  b"=cmd|' /C calc'!A0,1\n1,2\n3,4\n5,6\n",
  b"a\tb,c\n1\t2,3\n4\t5,6\n7\t8,9\n1\t1,2\n",
  b"a b\n1 2\n3 4\n5 7\n7 8\n",
  b"1" * 100_000 + b",2\n3,4\n5,6\n7,8\n",
  b"a,b\n" + b'"' * 99_999 + b"\n",
]
LINE = b'{"prompt": "p", "response": "r"}\n'
JSONL = [
  LINE * 40,
  LINE + b"\n" + LINE,
  LINE + b"[1]\n",
  LINE + b"3\n",
  b'{"prompt": 1, "response": 2}\n',
  b'{"text": null}\n',
  b'{"text": {"a": 1}}\n',
  b'{"prompt": "a"}\n',
  b'{"text": "\\ud83d"}\n' * 9,
  '{"text": "a\u2028b"}\n'.encode() * 9,
  '{"text": "a\u0085b"}\n'.encode() * 9,
  b'{"text": "a"' + b"\0" + b"}\n",
  b'{"text": 1e999}\n',
  b'{"text": ' + b"1" * 10_000 + b"}\n",
  b'{"text": "\x1b[31m"}\n',
  b'{"text": "a"} {"text": "b"}\n',
  b"\xef\xbb\xbf" + LINE * 9,
  LINE * 9 + b"\x1a",
  LINE.replace(b"\n", b"\r\n") * 9,
  LINE.replace(b"\n", b"\r") * 9,
  b'[{"text": "a"}]',
  b'{"text": "' + b"a" * 3_000_000 + b'"}\n',
  b'{"text": ""}\n' * 9,
  b'{"prompt": "", "response": ""}\n' * 9,
]


def bytes_of(write) -> bytes:
  file = io.BytesIO()
  write(file)
  return file.getvalue()


def stop(signal_number, frame):
  raise Slow


class Corpus:
  """Reads one file after the other, and keeps what misbehaved."""

  def __init__(self):
    self.count, self.loaded, self.wrong = {}, {}, []

  def read(self, kind, path, load, right=lambda found: True, about=""):
    self.count[kind] = self.count.get(kind, 0) + 1
    name, begin, said = f"{kind} {self.count[kind]} {about}", time.process_time(), None
    signal.alarm(SECONDS)
    try:
      found = load(path)
      self.loaded[kind] = self.loaded.get(kind, 0) + 1
      if not right(found):
        said = "loaded, and not right"
    except ValueError as error:
      lines = str(error).splitlines()
      if len(lines) != 1 or len(lines[0]) > 2000 or "\x1b" in lines[0]:
        said = f"a message of {len(lines)} lines, {len(str(error))} characters: {str(error)[:200]!r}"
    except BaseException as error:
      said = f"{type(error).__name__}: {str(error)[:300]}"
    finally:
      signal.alarm(0)
    seconds = time.process_time() - begin
    if said or seconds > MOST_SECONDS:
      self.wrong.append(f"{name}: {said or 'slow'} ({seconds:.1f} s)")


def peak() -> int:
  """The most memory so far, in bytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fifo(path: Path) -> Path:
  os.mkfifo(path)
  return path


def main(root: Path) -> Corpus:
  import jax
  import xarray

  import collapse_jax as cj
  from collapse_jax.data import files, real_data
  from collapse_jax.lm import checkpoint, text
  from collapse_jax.sweeps import chunks

  files.PIPE_SECONDS = 0.1
  corpus, number = Corpus(), itertools.count()

  def new(suffix, content):
    path = root / f"{next(number)}{suffix}"
    path.write_bytes(content)
    return path

  signal.signal(signal.SIGALRM, stop)
  finite = lambda model: all(np.asarray(x).dtype == np.float32 for x in jax.tree.leaves(model.params))
  for place, replaced in model_cases(root):
    if sum(corpus.count.values()) == 2:  # what JAX and transformers take is known now
      corpus.before = peak()
      used = next(
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")
      )
      resource.setrlimit(resource.RLIMIT_DATA, (int(used) * 1024 + LIMIT, resource.RLIM_INFINITY))
    directory = root / "case"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for file in (root / place).iterdir():
      if file.name not in replaced:
        os.link(file, directory / file.name)
    for name, content in replaced.items():
      if content is not None:
        (directory / name).write_bytes(content)
    about = ", ".join(f"{name}: {str(content)[:60]}" for name, content in replaced.items() if name != "config.json")
    corpus.read("checkpoint", directory, checkpoint.load, finite, about)
  for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
    for make in (fifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path.name)):
      directory = root / f"special_{next(number)}"
      shutil.copytree(root / "whole", directory)
      (directory / name).unlink()
      make(directory / name)
      corpus.read("checkpoint", directory, checkpoint.load, finite)
  for content in gguf_cases(root):
    corpus.read("gguf", new(".gguf", content), checkpoint.load, finite)
  valid = b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i % 7) for i in range(30))
  for content in (valid, *CSV, *JUNK, *flips(valid, 15), *cuts(valid, 8)):
    corpus.read(
      "csv", new(".csv", content), real_data.load, lambda data: np.isfinite(data.train).all() and len(data.train) >= 2
    )
  for content in (*JSONL, *JUNK, *flips(LINE * 20, 15), *cuts(LINE * 9, 8)):
    for suffix in (".jsonl", ".json"):
      corpus.read(
        "jsonl", new(suffix, content), lambda path: text.load(str(path), "train"), lambda found: isinstance(found, list)
      )
  with contextlib.suppress(ImportError):
    import pyarrow
    import pyarrow.parquet

    valid = bytes_of(
      lambda file: pyarrow.parquet.write_table(pyarrow.table({"prompt": ["p"] * 40, "response": ["r"] * 40}), file)
    )
    for content in (
      valid,
      *JUNK,
      *flips(valid, 25),
      *cuts(valid, 8),
      bytes_of(lambda file: pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), file)),
    ):
      corpus.read("parquet", new(".parquet", content), lambda path: text.load(str(path), "train"))
  for suffix, load in (
    (".csv", real_data.load),
    (".gguf", checkpoint.load),
    (".jsonl", lambda path: text.load(str(path), "train")),
    (".parquet", lambda path: text.load(str(path), "train")),
    (".nc", cj.load),
  ):
    for make in (fifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path.name)):
      path = root / f"special_{next(number)}{suffix}"
      make(path)
      if suffix == ".nc" and (path.is_dir() or not path.exists()):
        continue  # a FileNotFoundError, as documented
      if suffix in (".jsonl", ".parquet") and path.is_dir():
        continue  # names a data set of the hub
      corpus.read("special", path, load)

  about = {"task": "gaussian", "primary_metric": "trace_ratio"}
  data = xarray.Dataset(
    {"trace_ratio": (("workflow", "dim", "seed", "generation"), np.ones((1, 1, 2, 2)))},
    {"workflow": ["replace"], "dim": [1], "seed": [0, 1], "generation": [1, 2]},
    about,
  )
  data.to_netcdf(root / "valid.nc", engine="h5netcdf")
  valid = (root / "valid.nc").read_bytes()
  huge = bytes_of(lambda file: huge_netcdf(file))
  for content in (valid, huge, *JUNK, *flips(valid, 60), *cuts(valid, 10)):
    corpus.read("results", new(".nc", content), cj.load)

  metrics = {"loss": np.arange(6.0).reshape(2, 3), "finite": np.ones((2, 3), bool)}
  for folder in (root / "chunks", root / "again"):
    with contextlib.closing(chunks.Chunks(folder, {"seed": 0}, resume=False)) as saved:
      saved.save((0, 1), 4, metrics)
  file = next((root / "chunks").glob("process_0/*.chunk"))
  valid = file.read_bytes()

  def saved_in(folder):
    with contextlib.closing(chunks.Chunks(folder, {"seed": 0}, resume=True)) as saved:
      return list(saved.saved())

  same = lambda found: [np.array_equal(one["loss"], metrics["loss"]) for _, _, one in found]
  for content in (valid, *JUNK, *flips(valid, 20), *cuts(valid, 8)):
    file.write_bytes(content)
    corpus.read("chunk", root / "chunks", saved_in, lambda found, whole=content == valid: same(found) == [True] * whole)
  named = root / "again" / "process_0" / "sweep.json"
  manifest = named.read_bytes()
  for content in (manifest, *JUNK, *cuts(manifest, 4)):
    named.write_bytes(content)
    corpus.read("manifest", root / "again", saved_in, lambda found: all(same(found)))

  for make in checkpoint_files(root):
    corpus.read("npz", root / "npz", make, bool)
  return corpus


def huge_netcdf(file):
  """A small file whose array has 2^40 numbers, none of which is stored."""
  import h5py

  with h5py.File(file, "w") as table:
    table.create_dataset("loss", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))


def checkpoint_files(root):
  """Functions that restore from a damaged checkpoint of a generation: the generation that they find whole."""
  import jax
  import jax.numpy as jnp

  from collapse_jax.sweeps.checkpoints import Checkpoints
  from collapse_jax.types import Data, Run

  run = Run(
    key=jax.random.key(0, impl="threefry2x32"),
    problem=None,
    real=None,
    store=Data(rows=jnp.zeros((1, 2))),
    params={"a": jnp.zeros(3)},
  )
  about = {"seed": 0}

  def opened(resume):
    return Checkpoints(root / "npz", keep_all=False, resume=resume, about=about)

  like = {"loss": jax.ShapeDtypeStruct((1,), np.float32)}
  opened(False).save(1, run, {"a": jnp.zeros(3)}, {"loss": jnp.ones((1, 1))})
  file = root / "npz" / "1.npz"
  valid = file.read_bytes()
  for content in (valid, *JUNK, *flips(valid, 20), *cuts(valid, 8)):

    def restored(folder, content=content):
      file.write_bytes(content)
      t, _, params, metrics = opened(True).restore(run, {"a": jnp.zeros(3)}, like)
      return bool(np.all(metrics["loss"] == 1) and np.all(params["a"] == 0)) if t else content != valid

    yield restored


if __name__ == "__main__":
  sys.path.insert(0, str(Path(__file__).parent))
  begin = time.process_time()
  said = main(Path(sys.argv[1]))
  print(
    json.dumps(
      {
        "count": said.count,
        "loaded": said.loaded,
        "wrong": said.wrong,
        "seconds": time.process_time() - begin,
        "bytes": peak() - said.before,
      }
    )
  )
