"""Each of examples/, in small: it ends, says verdicts, and writes a report."""

import importlib.util
from pathlib import Path

import pytest
from helpers import needed

import collapse_jax as cj

EXAMPLES = Path(__file__).parent.parent / "examples"
# name -> flags that make it small, and modules beyond those of the extra `test`.
SMALL = {
  "wine_mixture": (["--num_generations=3", "--num_seeds=2"], []),
  "shell_awk": (["--num_generations=3", "--num_seeds=2"], []),
  "ctgan_health": (
    ["--num_generations=2", "--num_seeds=1", "--epochs=1", "--num_samples=200"],
    ["ctgan", "statsmodels"],
  ),
  "text_server": (
    ["--num_generations=2", "--num_samples=16", "--num_steps=5"],
    ["torch", "fastapi", "uvicorn", "openai"],
  ),
}


def test_every_example_is_run():
  assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SMALL)


@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=[pytest.mark.slow] if more else []) for name, (_, more) in SMALL.items()]
)
def test_an_example(name, tmp_path, capfd):
  flags, modules = SMALL[name]
  for module in modules:
    needed(module)
  spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  module.main([f"--output_dir={tmp_path}", *flags])
  results = cj.load(tmp_path)
  assert (results.cell_status == "ok").all()
  said = capfd.readouterr().out.splitlines()
  verdicts = cj.diagnostics.verdicts(results)
  assert verdicts and len(verdicts) == sum(" is " in line and line.split(": ")[0] in results.workflow for line in said)
  assert said[-1] == str(tmp_path / "report.html") and "</html>" in (tmp_path / "report.html").read_text()
