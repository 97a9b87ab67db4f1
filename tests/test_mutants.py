"""The faults of tests/mutants are where they say they are; what `make mutants` makes of them is told apart."""

from pathlib import Path

import pytest

from tests.mutants import runner
from tests.mutants.faults import FAULTS, Fault


def test_every_fault_has_its_place():
  """Its text occurs once, also after the code has changed: else write the same fault anew."""
  lost = {}
  for fault in FAULTS:
    try:
      runner.place_of(fault, runner.ROOT)
    except LookupError as error:
      lost[fault.name] = str(error)
  assert not lost
  assert len({fault.name for fault in FAULTS}) == len(FAULTS) > 50
  assert all(fault.right != fault.wrong for fault in FAULTS)
  assert all((runner.ROOT / fault.tests.split()[0]).is_file() for fault in FAULTS)


def test_a_text_that_is_gone_or_occurs_twice(tmp_path):
  (tmp_path / "collapse_jax").mkdir()
  (tmp_path / "collapse_jax" / "a.py").write_text("x = 1\ny = 2\ny = 2\n")
  (tmp_path / "collapse_jax" / "b.j2").write_text("z")
  place = lambda text: runner.place_of(Fault("a fault", text, "", ""), tmp_path)
  assert place("x = 1") == tmp_path / "collapse_jax" / "a.py" and place("z").name == "b.j2"
  for text, said in (("w = 1", "nowhere"), ("y = 2", r"a\.py \(2\)")):
    with pytest.raises(LookupError, match=said):
      place(text)


@pytest.mark.parametrize(
  ("exit_status", "fault", "verdict"),
  [
    (1, Fault("f", "x = 1", "x = 2", "tests"), "killed"),
    (0, Fault("f", "x = 1", "x = 2", "tests"), "SURVIVED"),
    (2, Fault("f", "x = 1", "x =", "tests"), "status 2"),
    (0, Fault("f", "x = 1", "x = +1", "tests", equivalent="it is one"), "equivalent"),
    (1, Fault("f", "x = 1", "x = 2", "tests", equivalent="it is one"), "NOT EQUIVALENT"),
    (1, Fault("f", "x = 3", "x = 2", "tests"), "no such text"),
  ],
)
def test_verdicts(monkeypatch, tmp_path, exit_status, fault, verdict):
  """Tests see the fault, and the copy is whole again after them."""
  tree = tmp_path / "tree"
  (tree / "collapse_jax").mkdir(parents=True)
  (tree / "collapse_jax" / "a.py").write_text("x = 1\n")
  monkeypatch.setattr(runner, "ROOT", tree)
  seen = []

  def run(self, tests, copy: Path):
    seen.append((copy / "collapse_jax" / "a.py").read_text())
    return exit_status, "FAILED one"

  monkeypatch.setattr(runner.Runner, "_run", run)
  made = runner.Runner(str(tmp_path), jobs=1, seconds=1, trusted=True)
  assert made.judge(fault)[0] == verdict
  assert seen == ([] if verdict == "no such text" else [fault.wrong + "\n"])
  assert (tmp_path / "copy_0" / "collapse_jax" / "a.py").read_text() == "x = 1\n"
  distrusting = runner.Runner(str(tmp_path / "second"), jobs=1, seconds=1, trusted=False)
  if exit_status and verdict != "no such text":  # red without the fault too
    assert distrusting.judge(fault)[0] == "not tried"
