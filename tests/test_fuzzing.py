"""Random command lines and damaged files: every binary either takes them or says in one line what is wrong."""

import contextlib
import hashlib
import importlib
import io
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import limited, needed, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collapse_jax.sweeps import chunks
from experiments import flag_values

BINARIES = (
  "gaussian",
  "kde",
  "discrete",
  "linear_regression",
  "exponential_family",
  "logistic_regression",
  "real_share",
  "language_model",
  "real_data_value",
  "reproduce",
  "compare",
  "token_editing",
  "curation",
  "verification",
  "temperature",
  "label_editing",
  "mixtures",
  "selection",
  "ensembles",
  "flow",
)
NUMBERS = (
  "1",
  "2",
  "0",
  "-1",
  "3,4",
  "0.5",
  "1e9",
  "1e400",
  "nan",
  "-inf",
  "2147483647",
  "2147483648",
  "10" * 40,
  "1" * 5000,
  "1,1",
  ",",
  "",
  " ",
  "0x10",
  "1_000",
  "١",
  "1e-320",
  "True",
  "None",
)
CALLS = (
  "replace",
  "accumulate",
  "accumulate_subsample",
  "mix(0.2)",
  "mix(0)",
  "mix(",
  "mix(nan)",
  "mix(1e400)",
  "mix(0.5,fresh=1)",
  "sliding_window(3)",
  "sliding_window(-3)",
  "sliding_window(10**3)",
  "weights([[1]])",
  "weights([[]])",
  "weights('a')",
  "replace(1)",
  "replace,replace",
  "__import__('os').system('x')",
  "(" * 300,
  "mix(*[1])",
  "a.b()",
  "mix(real_fraction=[])",
)
NAMES = (
  "moons",
  "blobs",
  "wine",
  "mars",
  "breast_cancer",
  "gaussian",
  "tophat",
  "scott",
  "silverman",
  "law",
  "rows",
  "tiny",
  "gpt2_9m",
  "none.jsonl",
  "none.gguf",
  "/",
  "..",
  "/dev/null",
  "pydocs",
  "laptop",
  "smoke",
  "true",
  "*",
  "[",
  "\udcff",
  "ü",
  "~",
  "~/x",
  '"a,b"',
  "'",
  "cost_$_vs_$.csv",
  "\x1b[31m",
)
COMMON = settings(
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
  """Where a command line may point to, and a finished experiment that none of them may change."""
  root = tmp_path_factory.mktemp("fuzz")
  held = root / "held"
  held.mkdir()
  (held / "results.nc").write_bytes(b"numbers")
  (held / "report.html").write_text("report")
  (held / "config.json").write_text(json.dumps({"command": "", "flags": {"num_seeds": "3"}}))
  unfinished = root / "unfinished" / "chunks" / "process_0"
  unfinished.mkdir(parents=True)
  (unfinished / "cell_0-0,seeds_0-1.chunk").write_bytes(b"numbers")
  (root / "unfinished" / "unfinished.json").write_text(json.dumps({"command": "", "flags": {"num_seeds": "3"}}))
  (root / "a_file").write_text("text")
  (root / "table.csv").write_text("a,b\n" + "".join(f"{i},{i * i % 7}\n" for i in range(30)))
  return root


def digest(folder: Path) -> str:
  files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
  return hashlib.sha256(b"".join(str(file).encode() + file.read_bytes() for file in files)).hexdigest()


def flags_of(name: str) -> list[str]:
  before = set(flag_values.FLAGS)
  importlib.import_module(f"experiments.{name}").define()
  found = sorted(set(flag_values.FLAGS) - before)
  for flag in found:
    delattr(flag_values.FLAGS, flag)
  return found


def values(places: Path) -> list[str]:
  paths = [str(places / one) for one in ("held", "unfinished", "a_file", "new", "a_file/below", "table.csv", "x" * 300)]
  return [*NUMBERS, *CALLS, *NAMES, *paths]


@pytest.mark.parametrize("name", BINARIES)
def test_command_lines(name, places):
  """60 for each binary."""
  known = flags_of(name)
  assert "output_dir" in known or name == "compare"
  value = st.one_of(st.sampled_from(values(places)), st.text(max_size=20))
  flag = st.tuples(st.sampled_from(known), value).map(lambda pair: f"--{pair[0]}={pair[1]}")
  argument = st.one_of(
    flag,
    flag,
    st.sampled_from([f"--{one}" for one in known]),
    st.text(max_size=20),
    st.sampled_from(["--flagfile", f"--flagfile={places}/a_file", "--undefok", "--", "-", "--=", "--no"]),
  )
  seen = []

  @settings(COMMON, max_examples=60)
  @given(st.lists(argument, min_size=1, max_size=5))
  def check(arguments):
    said = outcome(name, arguments)
    assert "\n" not in said.strip(), said
    seen.append(bool(said))

  check()
  assert len(seen) >= 60 and any(seen)
  assert outcome(name, []) == "" or name == "compare"  # the next command line is not harmed by the last


def damaged(valid: bytes):
  """A strategy: a file cut, changed or replaced."""
  at = st.integers(0, len(valid))
  return st.one_of(
    at.map(lambda k: valid[:k]),
    st.tuples(at, st.binary(min_size=1, max_size=9)).map(lambda x: valid[: x[0]] + x[1] + valid[x[0] :]),
    st.tuples(at, st.integers(1, 255)).map(
      lambda x: valid[: x[0]] + bytes(b ^ x[1] for b in valid[x[0] : x[0] + 1]) + valid[x[0] + 1 :]
    ),
    st.binary(max_size=60),
    st.sampled_from([b"", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"null", b"[]", b"{}", b"\0" * 99]),
  )


def parquet() -> bytes:
  pyarrow, file = needed("pyarrow"), io.BytesIO()
  rows = {"prompt": [f"p{i}" for i in range(40)], "response": [f"r\u00e4 {i}" for i in range(40)]}
  importlib.import_module("pyarrow.parquet").write_table(pyarrow.table(rows), file)
  return file.getvalue()


FILES = {
  "t.csv": ("kde", lambda: b"a,b\n" + b"".join(b"%d,%d\n" % (i, i * i % 7) for i in range(30)), "--datasets={}", ()),
  "labelled.csv": (
    "logistic_regression",
    lambda: b"a,b\n" + b"".join(b"%d,%d\n" % (i * i % 7, i % 2) for i in range(30)),
    "--dataset={}",
    (),
  ),
  "t.jsonl": (
    "language_model",
    lambda: b"".join(b'{"prompt": "p%d", "response": "r\\u00e4 %d"}\n' % (i, i) for i in range(40)),
    "--dataset={}",
    (),
  ),
  "t.parquet": ("language_model", parquet, "--dataset={}", ()),
  "t.flags": ("gaussian", lambda: b"--dims=1,2\n# text\n--workflows=replace\n--num_seeds=3\n", "--flagfile={}", ()),
  "unfinished.json": (
    "discrete",
    lambda: b'{"command": "x", "flags": {"num_seeds": "100", "seed": "0"}}',
    "",
    ("--resume",),
  ),
  "config.json": ("reproduce", lambda: b'{"command": "x", "flags": {"seed": "0"}}', "", ("--resume",)),
}


@pytest.mark.parametrize("file", FILES)
def test_files(file, tmp_path):
  """Data, flag files, and what a resumed sweep finds: 40 of each."""
  name, make, flag, more = FILES[file]
  valid, number = make(), itertools.count()

  @settings(COMMON, max_examples=40)
  @given(damaged(valid))
  def check(content):
    path = tmp_path / (
      f"{next(number)}_{file}" if flag else file
    )  # a new name each time: what was read may be in a cache
    path.write_bytes(content)
    to = tmp_path / "new" if flag else tmp_path
    arguments = [f"--output_dir={to}", *more, *([flag.format(path)] if flag else [])]
    assert "\n" not in outcome(name, arguments).strip()
    assert path.read_bytes() == content

  check()
  (tmp_path / file).write_bytes(valid)
  assert flag == "" or outcome(name, [flag.format(tmp_path / file)]) == ""


def test_chunks(tmp_path):
  """A damaged chunk is computed again, never read; what a damaged manifest does not say, chunks do, and another one is refused."""
  metrics = {"loss": np.arange(6.0).reshape(2, 3), "finite": np.ones((2, 3), bool)}
  about = {"seed": 0}
  saved = chunks.Chunks(tmp_path, about, resume=False)
  saved.save((0, 1), 4, metrics)
  saved.close()
  file, named = next(tmp_path.glob("process_0/*.chunk")), tmp_path / "process_0" / "sweep.json"
  valid, manifest = file.read_bytes(), named.read_bytes()

  def read():
    with limited(), contextlib.closing(chunks.Chunks(tmp_path, about, resume=True)) as saved:
      return list(saved.saved())

  @settings(COMMON, max_examples=60)
  @given(damaged(valid), damaged(manifest))
  def check(content, text):
    file.write_bytes(content)
    found = read()
    assert len(found) == (content == valid) == file.exists()
    file.write_bytes(valid)
    named.write_bytes(text)
    try:
      [one] = read()
      assert one[:3] == ((0, 1), 4, 2) and json.loads(named.read_bytes()) == json.loads(manifest)
      np.testing.assert_array_equal(one.metrics["loss"], metrics["loss"])
    except ValueError as error:
      assert "resume" in str(error)
    named.write_bytes(manifest)
    file.write_bytes(valid)

  check()


def test_results(tmp_path):
  """What `compare` and `load` read."""
  import xarray

  import collapse_jax as cj
  from collapse_jax.diagnostics import published

  about = {"task": "gaussian", "primary_metric": "trace_ratio"}
  data = xarray.Dataset(
    {"trace_ratio": (("workflow", "dim", "seed", "generation"), np.ones((1, 1, 2, 2)))},
    {"workflow": ["replace"], "dim": [1], "seed": [0, 1], "generation": [1, 2]},
    about,
  )
  data.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
  valid = (tmp_path / "results.nc").read_bytes()

  @settings(COMMON, max_examples=40)
  @given(damaged(valid))
  def check(content):
    (tmp_path / "results.nc").write_bytes(content)
    assert "\n" not in outcome("compare", [str(tmp_path)]).strip()
    with limited(), contextlib.suppress(ValueError, OSError, KeyError):
      published.compare({"x": cj.load(tmp_path)})

  check()


@pytest.mark.slow
def test_weights(tmp_path):
  """A directory with a model, and a .gguf file."""
  import jax
  from transformers import LlamaConfig

  from collapse_jax import lm
  from collapse_jax.lm import checkpoint, text

  tokenizer = text.train_tokenizer([one.text for one in text.load("pydocs", "test")], 300)
  config = LlamaConfig(
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    vocab_size=300,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
  )
  checkpoint.save(checkpoint.random(config, jax.random.key(0), "float32", tokenizer), tmp_path / "model")
  lm.load(tmp_path / "model")
  for name in ("config.json", "model.safetensors", "tokenizer.json"):
    valid = (tmp_path / "model" / name).read_bytes()

    @settings(COMMON, max_examples=15)
    @given(damaged(valid))
    def check(content):
      (tmp_path / "model" / name).write_bytes(content)  # noqa: B023
      with limited(), contextlib.suppress(ValueError):
        lm.load(tmp_path / "model")

    check()
    (tmp_path / "model" / name).write_bytes(valid)

  @settings(COMMON, max_examples=15)
  @given(st.binary(max_size=99).map(lambda x: b"GGUF\x03\0\0\0" + x))
  def check_gguf(content):
    (tmp_path / "m.gguf").write_bytes(content)
    with limited(), pytest.raises(ValueError):
      lm.load(tmp_path / "m.gguf")

  check_gguf()


VALID = {
  "seed": "5",
  "num_seeds": "2",
  "chunk_size": "4",
  "num_generations": "7",
  "enable_x64": "true",
  "max_seq_len": "32",
}
REFUSALS = (  # of what `places` holds
  ("held", (), "already holds results; give --overwrite"),
  ("held", ("--resume",), "--resume: "),
  ("unfinished", (), "already holds an unfinished sweep"),
  ("unfinished", ("--resume",), "--resume: "),
  ("held", ("--overwrite", "--seed=-1"), "--seed"),
  ("unfinished", ("--overwrite", "--seed=x"), "--seed"),
)


def real_commands(places):
  """Each binary against what another has written, with the part of a line that it must say; then some that may run."""
  generator = random.Random(0)
  for i, name in enumerate(BINARIES):
    if name == "compare":
      yield name, ["--nostrict", str(places / "held")], "cannot be read as results"
      continue
    where, flags, said = REFUSALS[i % len(REFUSALS)]
    some = generator.sample([flag for flag in flags_of(name) if flag in VALID], k=2)
    yield name, [*(f"--{flag}={VALID[flag]}" for flag in some), f"--output_dir={places / where}", *flags], said
  yield "discrete", ["--dry_run", "--num_seeds=2", "--overwrite", f"--output_dir={places / 'held'}"], ""
  printable = [one for one in values(places) if "\udcff" not in one]
  for name in ("gaussian", "kde", "mixtures"):
    some = generator.sample([flag for flag in flags_of(name) if flag not in ("output_dir", "profile", "log_dir")], k=3)
    yield name, ["--dry_run", *(f"--{flag}={generator.choice(printable)}" for flag in some)], None


def test_real_commands(places, tmp_path):
  """22 of them, every binary: status 0 or 2, no more than one line of error, and nothing harmed."""
  before = digest(places)
  environment = os.environ | {
    "PYTHONPATH": str(Path(__file__).parent.parent),
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
  }
  environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # JAX sets it, in this process, to a level that talks more
  count = 0
  for name, arguments, said in real_commands(places):
    done = subprocess.run(
      [sys.executable, "-m", f"experiments.{name}", *arguments],
      capture_output=True,
      text=True,
      cwd=tmp_path,
      timeout=120,
      env=environment,
      check=False,
    )
    assert done.returncode in ((0, 2) if said is None else (2 if said else 0,)), (name, arguments, done.stderr)
    assert done.returncode == 0 or done.stderr.startswith("error: "), (name, arguments, done.stderr)
    assert len(done.stderr.strip().splitlines()) <= 1 and (said or "") in done.stderr, (name, arguments, done.stderr)
    count += 1
  assert count >= 20
  assert digest(places) == before and not list(tmp_path.iterdir())


def test_input_is_checked_without_jax():
  script = """
import importlib, sys
from experiments import common, flag_values
for name in sys.argv[1:]:
  module = importlib.import_module(f"experiments.{name}")
  before = set(flag_values.FLAGS)
  module.define()
  common.parse(["x"])
  if name != "compare":
    module.read()
    common.check_machine()
  assert "jax" not in sys.modules, name
  for flag in set(flag_values.FLAGS) - before:
    delattr(flag_values.FLAGS, flag)
"""
  done = subprocess.run(
    [sys.executable, "-c", script, *BINARIES],
    capture_output=True,
    text=True,
    check=False,
    cwd=Path(__file__).parent.parent,
  )
  assert done.returncode == 0, done.stderr
