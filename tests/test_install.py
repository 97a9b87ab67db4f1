"""What is installed: one top-level package, with the experiments and their flag files in it, beside anybody's own."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """A folder with the unpacked wheel, made from a copy of the sources, without a network."""
  base = tmp_path_factory.mktemp("wheel")
  source = base / "source"
  for name in ("collapse_jax", "experiments"):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "MANIFEST.in"):
    shutil.copy(ROOT / name, source)
  script = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
  subprocess.run([sys.executable, "-c", script, base], cwd=source, check=True, capture_output=True, timeout=120)
  (file,) = base.glob("*.whl")
  with zipfile.ZipFile(file) as archive:
    archive.extractall(base / "unpacked")
  return base / "unpacked"


def test_contents(wheel):
  tops = {one.name for one in wheel.iterdir()}
  assert len(tops) == 2 and "collapse_jax" in tops and any(one.endswith(".dist-info") for one in tops)
  files = {str(file.relative_to(wheel)) for file in wheel.rglob("*") if file.is_file()}
  for suffix in ("*.bib", "*.py", "*.csv", "*.j2", "*.flags", "py.typed"):
    assert {str(file.relative_to(ROOT)) for file in (ROOT / "collapse_jax").rglob(suffix)} <= files
    assert {f"collapse_jax/{file.relative_to(ROOT)}" for file in (ROOT / "experiments").rglob(suffix)} <= files
  entry = next(wheel.glob("*.dist-info/entry_points.txt")).read_text()
  assert "collapse = collapse_jax.cli:main" in entry


def test_sources(tmp_path):
  """The sdist has what its tests and experiments need."""
  for name in ("collapse_jax", "experiments", "tests"):
    shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "MANIFEST.in"):
    shutil.copy(ROOT / name, tmp_path)
  script = "from setuptools import build_meta; build_meta.build_sdist('dist')"
  subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, timeout=120)
  with tarfile.open(next((tmp_path / "dist").glob("*.tar.gz"))) as archive:
    names = {name.split("/", 1)[-1] for name in archive.getnames()}
  assert {
    "tests/conftest.py",
    "tests/killed.py",
    "experiments/common.py",
    "experiments/flags/gemma2_2b_helpsteer2.flags",
  } <= names


def test_beside_experiments_of_somebody_else(wheel, tmp_path):
  """Both run, whether or not theirs is a package; a flag file is found by its name."""
  (tmp_path / "experiments").mkdir()
  (tmp_path / "experiments" / "train.py").write_text("print('mine')")
  (tmp_path / "experiments" / "__init__.py").write_text("")
  environment = os.environ | {"PYTHONPATH": str(wheel), "HF_HUB_OFFLINE": "1"}

  def call(*arguments):
    return subprocess.run(
      [sys.executable, "-m", *arguments],
      cwd=tmp_path,
      env=environment,
      capture_output=True,
      text=True,
      timeout=120,
      check=False,
    )

  assert call("experiments.train").stdout == "mine\n"
  done = call(
    "collapse_jax",
    "run",
    "gaussian",
    "--dims=1",
    "--num_samples=10",
    "--workflows=replace",
    "--num_generations=2",
    "--num_seeds=2",
    "--output_dir=out",
  )
  assert done.returncode == 0 and done.stdout == "out/report.html\n", done.stderr
  assert "collapse run gaussian --dims=1" in (tmp_path / "out" / "config.json").read_text()
  done = call("collapse_jax", "run", "language_model", "--flagfile=gemma2_2b_helpsteer2.flags", "--num_seeds=0")
  assert (done.returncode, done.stderr) == (2, "error: --num_seeds must be an integer of at least 1, got '0'.\n")
  assert {file.name for file in tmp_path.iterdir()} == {"experiments", "out"}


@pytest.mark.slow
def test_an_own_generator(wheel, tmp_path):
  """From the wheel alone, in a folder with a CSV file and two programs of a line; what is wrong with either is one line."""
  (tmp_path / "real.csv").write_text("x\n" + "".join(f"{i}.5\n" for i in range(20)))
  fit = """awk 'NR > 1 {n++; s += $1; q += $1 * $1} END {m = s / n; print m, sqrt(q / n - m * m)}' {data} > {model}"""
  sample = """awk -v n={num} -v seed={seed} '{
    srand(seed)
    print "x"
    for (i = 0; i < n; i++) print $1 + $2 * sqrt(-2 * log(1 - rand())) * cos(6.283185307 * rand())
  }' {model} > {out}"""
  judge = """awk '{printf "{\\"spread\\": %.9g}", $2}' {model} > {out}"""

  def call(*arguments):
    return subprocess.run(
      [sys.executable, "-m", "collapse_jax", *arguments],
      cwd=tmp_path,
      env=os.environ | {"PYTHONPATH": str(wheel)},
      capture_output=True,
      text=True,
      timeout=300,
      check=False,
    )

  flags = ["--fit", fit, "--sample", sample, "--evaluate", judge, "--measures", "spread=variance", "--data", "real.csv"]
  flags += ["--test", "real.csv", "--num_generations", "4", "--num_seeds", "2", "--output_dir", "out"]
  done = call("loop", *flags, "--workflows", "replace")
  assert (done.returncode, done.stdout) == (0, "out/report.html\n"), done.stderr
  assert "replace" in (tmp_path / "out" / "report.html").read_text()
  assert {file.name for file in (tmp_path / "out").iterdir()} >= {"results.nc", "config.json", "figures", "loop"}
  assert call("check", "out", "--tolerance=99%").returncode == 0
  for wrong, said in ((["loop", *flags], "already holds results"), (["loop", "--fit", fit], "--sample is missing")):
    done = call(*wrong)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1) and said in done.stderr


def test_lower_bounds():
  """Of what is known not to work below; .ci/run installs all of the lowest."""
  bounds = dict(
    one.split(">=")[:2] for one in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
  )
  for name, least in (("filelock", (3, 14)), ("flax", (0, 12, 1)), ("gguf", (0, 17, 1))):
    assert tuple(map(int, bounds[name].split("."))) >= least
