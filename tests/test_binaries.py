"""What surrounds a binary: streams that close, signals, flags and flag files, machines without a home or a device, matplotlibrc."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray
from absl import flags
from helpers import finish, go

from collapse_jax import plotting, vocabulary
from collapse_jax.plotting import panels
from experiments import common, flag_values, output, watching

ROOT = Path(__file__).parent.parent
TINY = (
  "-m",
  "experiments.gaussian",
  "--dims=1",
  "--num_samples=10",
  "--workflows=replace",
  "--num_generations=2",
  "--num_seeds=2",
)


def start(arguments, redirect="", **environment):
  """Through a shell, for what it does to streams; output and errors are merged only where asked."""
  quoted = " ".join("'" + str(one).replace("'", "'\\''") + "'" for one in (sys.executable, *arguments))
  environment = {
    key: value for key, value in (os.environ | {"PYTHONPATH": str(ROOT)} | environment).items() if value is not None
  }
  return subprocess.run(
    ["bash", "-c", f"set -o pipefail; {quoted} {redirect}"],
    capture_output=True,
    text=True,
    timeout=120,
    env=environment,
    check=False,
  )


BINARY = """
import sys, time
from experiments import common, flag_values, output
def run():
  {body}
sys.argv = ["gaussian"]
common.main(flag_values.define_shared, run)
"""
TALK = BINARY.format(
  body="""from tqdm import tqdm
  for i in range(20000):
    print("line \\u00fc", i)
  for i in tqdm(range(3)):
    time.sleep(0.1)
  with open({!r}, "w") as file:
    file.write("numbers")
  print("the end", flush=True)
  print("warning: said", file=sys.stderr)"""
)


@pytest.mark.parametrize(
  "redirect", ["| head -1", ">&-", "2>&-", ">&- 2>&- <&-", "> /dev/full", "2> /dev/full", "2>&1 | head -1"]
)
def test_streams_that_close(tmp_path, redirect):
  """Nobody reads any more: the work is done all the same, and nothing that was meant for a stream is in a file."""
  file = tmp_path / "results"
  done = start(["-c", TALK.format(str(file))], redirect)
  assert done.returncode == 0 and file.read_text() == "numbers"
  assert "Traceback" not in done.stderr and "Error" not in done.stderr and "Exception" not in done.stderr
  assert (
    redirect in ("2>&-", "2> /dev/full")
    or redirect.startswith(("2>&1", ">&- 2>&-"))
    or done.stderr.endswith("warning: said\n")
  )


def test_streams_of_another_encoding(tmp_path):
  done = start(["-c", TALK.format(str(tmp_path / "x"))], PYTHONIOENCODING="ascii")
  assert done.returncode == 0 and r"line \xfc 0" in done.stdout and done.stdout.endswith("the end\n")


@pytest.mark.parametrize(
  ("number", "status", "said"),
  [(signal.SIGINT, 130, "error: interrupted."), (signal.SIGTERM, 143, "error: terminated.")],
)
def test_signals_are_not_swallowed(number, status, said):
  """As in JAX's callbacks, which print what is raised inside them, and go on."""
  body = """print("ready", flush=True)
  for i in range(600):
    try:
      time.sleep(0.1)
    except BaseException:
      pass"""
  heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # also where tests run in the background
  with subprocess.Popen(
    [sys.executable, "-c", heard + BINARY.format(body=body)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  ) as process:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.wait(20) == status and process.stderr.read() == f"{said}\n"


def test_an_ignored_interrupt_stays_ignored():
  """nohup, and jobs in the background of a script."""
  body = "import os, signal; os.kill(os.getpid(), signal.SIGINT); time.sleep(0.3); print('done')"
  done = start(["-c", f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{BINARY.format(body=body)}"])
  assert done.stdout == "done\n" and done.returncode == 0


# ----------------------------------------------------------------------------------------------------------- flags
@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ('"a,b.csv",moons', ["a,b.csv", "moons"]),
    ("'x, y' , moons", ["x, y", "moons"]),
    ('moons,"a b"', ["moons", "a b"]),
    ("don't.csv,it's.csv", ["don't.csv", "it's.csv"]),
    ("mix(0.2, fresh=True),replace", ["mix(0.2, fresh=True)", "replace"]),
    ("weights(((1, 0), (0.5, 0.5))),replace", ["weights(((1, 0), (0.5, 0.5)))", "replace"]),
    ("weights([[1]])", ["weights([[1]])"]),
    ("a(1.csv,b.csv", ["a(1.csv", "b.csv"]),
    ('a"b,c"d', ['a"b', 'c"d']),
    (" moons ,  wine", ["moons", "wine"]),
    ("'~/x.csv'", ["~/x.csv"]),
  ],
)
def test_comma_lists(text, expected):
  assert flag_values._split(text) == expected


@pytest.mark.parametrize("text", ["", ",", "a,", ",a", "a,,b", '""', 'a,""', " "])
def test_empty_items(text):
  assert not all(flag_values._split(text))


def test_home_in_every_path(begin, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "a,b.csv").write_text("a,b\n" + "".join(f"{i},{i * i % 7}\n" for i in range(30)))
  (tmp_path / "c.csv").write_text("a,b\n" + "".join(f"{i},{i * i % 5}\n" for i in range(30)))
  flags.DEFINE_string("datasets", f'~/c.csv,"{tmp_path}/a,b.csv"', "")
  begin("--output_dir=~/out", "--log_dir=~/logs")
  assert (flag_values.FLAGS.output_dir, flag_values.FLAGS.log_dir) == (f"{tmp_path}/out", f"{tmp_path}/logs")
  assert output.output_dir("x") == tmp_path / "out"
  assert flag_values.datasets() == [f"{tmp_path}/c.csv", f"{tmp_path}/a,b.csv"]


def refused(begin, capsys, *flags):
  with pytest.raises(SystemExit) as end:
    begin(*flags)
  said = capsys.readouterr().err
  assert end.value.code == 2 and len(said.splitlines()) == 1
  return said


def test_flag_files(begin, capsys, tmp_path):
  """Within one another; what never ends, or is no file, is one line."""
  for i in range(1500):
    (tmp_path / f"{i}.flags").write_text(f"--flagfile={tmp_path / f'{i + 1}.flags'}\n")
  (tmp_path / "1499.flags").write_text("# text\n\n// text\n--seed=7\n")
  begin(f"--flagfile={tmp_path / '1450.flags'}", "--num_seeds=3") if "num_seeds" in flag_values.FLAGS else begin(
    f"--flagfile={tmp_path / '1450.flags'}"
  )
  assert flag_values.FLAGS.seed == "7"
  begin("--flagfile", tmp_path / "1499.flags", "--seed=8")
  assert flag_values.FLAGS.seed == "8"
  (tmp_path / "self.flags").write_text(f"--seed=1\n--flagfile={tmp_path / 'self.flags'}\n")
  (tmp_path / "latin.flags").write_bytes(b"--seed=\xff")
  os.mkfifo(tmp_path / "fifo")
  for name in ("0.flags", "self.flags"):
    assert "one within another" in refused(begin, capsys, f"--flagfile={tmp_path / name}")
  for name in ("/dev/zero", tmp_path / "fifo", tmp_path / "none", tmp_path, tmp_path / "latin.flags", ""):
    assert "--flagfile cannot be read" in refused(begin, capsys, f"--flagfile={name}")


@pytest.mark.parametrize("flag", ["--output_dir=x\udcff", "--datasets=\udcff.csv", "\udcff"])
def test_paths_that_are_not_utf8(begin, capsys, flag):
  assert "UTF-8" in refused(begin, capsys, flag)


def test_lists_and_lines_of_any_text():
  """Without end, or with what a terminal would obey."""
  assert len(flag_values._split("(" * 100_000)) == 1 and len(flag_values._split("(," * 50_000)) == 50_001
  assert output._line("a\n b\x1b[31m\x9b") == r"a b\x1b[31m\x9b"


# --------------------------------------------------------------------------------------------------------- machines
@pytest.mark.parametrize(
  ("coordinator", "bound"),
  [
    ("127.0.0.1:5", "127.0.0.1:5"),
    ("localhost:5", "localhost:5"),
    ("[::1]:5", "[::1]:5"),
    ("10.1.2.3:80", "10.1.2.3:80"),
    ("node7:5", None),
  ],
)
def test_bind_address(begin, capsys, coordinator, bound):
  begin("--distributed", f"--coordinator={coordinator}", "--num_processes=1", "--process_id=0")
  common.check_machine()
  assert common.bind_address(coordinator) == bound
  assert ("all interfaces" in capsys.readouterr().err) == (bound is None)


def test_the_coordinator_listens_where_it_was_told():
  """Not on every interface: whoever reaches the port takes part."""
  script = """
import socket, sys
from experiments import common, flag_values, output
with socket.socket() as one:
  one.bind(("127.0.0.1", 0))
  port = one.getsockname()[1]
flag_values.define_shared()
common.parse(["x", "--distributed", f"--coordinator=127.0.0.1:{port}", "--num_processes=1", "--process_id=0"])
common.prepare_jax()
rows = [line.split()[1] for name in ("tcp", "tcp6") for line in open(f"/proc/self/net/{name}").readlines()[1:] if line.split()[3] == "0A"]
print({row.split(":")[0][-8:] for row in rows if int(row.split(":")[1], 16) == port})
"""
  done = start(["-c", script])
  assert done.stdout.strip() == "{'0100007F'}", done.stderr  # also as an IPv6 address; everywhere is 00000000


@pytest.mark.parametrize("platform", ["cuda", "foo"])
def test_no_such_device(tmp_path, platform):
  done = start([*TINY, f"--output_dir={tmp_path / 'out'}"], JAX_PLATFORMS=platform)
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and platform in done.stderr, done.stderr
  assert not (tmp_path / "out").exists()


def test_no_home(tmp_path):
  """No HOME, and no entry in the list of users: a private temporary directory is the cache."""
  script = f"""
import os, pathlib, runpy, sys
def home(*_):
  raise RuntimeError("Could not determine home directory.")
pathlib.Path.home = classmethod(home)
sys.argv = ["discrete", "--num_outcomes=3", *{TINY[3:]!r}, "--output_dir={tmp_path / "out"}"]
runpy.run_module("experiments.discrete", run_name="__main__", alter_sys=True)
"""
  (tmp_path / "temporary").mkdir()
  done = start(
    ["-c", script],
    HOME=None,
    XDG_CACHE_HOME=None,
    JAX_COMPILATION_CACHE_DIR=None,
    TMPDIR=str(tmp_path / "temporary"),
    JAX_DISABLE_MOST_OPTIMIZATIONS="1",
  )
  assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
  assert (tmp_path / "out" / "report.html").exists() and any((tmp_path / "temporary").glob("collapse_jax-*/*"))


def test_a_profile_or_events_that_cannot_be_written(begin, tmp_path, monkeypatch, capsys):
  """Warnings: no number depends on them."""
  import jax
  from tensorboardX import record_writer

  def full(*arguments):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(jax.profiler, "start_trace", lambda path: None)
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: (_ for _ in ()).throw(RuntimeError("No space left\nmore")))
  monkeypatch.setattr(common, "prepare_jax", lambda: None)
  monkeypatch.setattr(record_writer.RecordWriter, "flush", full)
  begin(f"--output_dir={tmp_path / 'out'}", "--profile", f"--log_dir={tmp_path / 'logs'}")
  curves = watching.Curves(str(tmp_path / "logs"))
  for t in (1, 2):
    curves.add({"workflow": "replace"}, [t], {"loss": np.ones((2, 1))})
  go(finish, tmp_path / "out")
  said = capsys.readouterr().err
  assert said.count("--profile failed: RuntimeError: No space left") == 1 and said.count("--log_dir") == 1


def test_names_of_curves(tmp_path):
  """A table of weights is a long name: each has a folder of its own."""
  with watching.curves(str(tmp_path)) as curves:
    for i in range(2):
      curves.add({"workflow": f"weights({[[0.1] * 40, [i]]})", "dataset": "/a/b.csv"}, [1], {"loss": np.ones((2, 1))})
  folders = [file.parent.name for file in tmp_path.rglob("*tfevents*")]
  assert len(folders) == 2 and all(len(one) <= 100 for one in folders)


# ----------------------------------------------------------------------------------------------------------- figures
def kde_results(datasets, num_samples=(10,)):
  grid = ("workflow", "dataset", "bandwidth", "kernel", "num_samples", "temperature")
  shape = (1, len(datasets), 1, 1, len(num_samples), 1, 2, 3)
  about = {"long_name": "test NLL of $x^$", "units": "nats", "worse": "higher", "log_scale": 0, "measures": ""}
  nll = np.arange(np.prod(shape), dtype=float).reshape(shape)
  return xarray.Dataset(
    {
      "test_nll": ((*grid, "seed", "generation"), nll, about),
      "finite": ((*grid, "seed", "generation"), np.ones(shape, bool)),
      "cell_status": (grid, np.full(shape[:-2], "ok")),
    },
    {
      "workflow": ["replace"],
      "dataset": list(datasets),
      "bandwidth": ["0.5"],
      "kernel": ["gaussian"],
      "num_samples": list(num_samples),
      "temperature": [1.0],
      "seed": [0, 1],
      "generation": [1, 2, 3],
      "bandwidth_value": ("bandwidth", [0.5]),
      "dataset_note": ("dataset", ["", "cut at $_$"][: len(datasets)]),
    },
    {"task": "kde", "primary_metric": "test_nll"},
  )


NAMES = ["cost_$_vs_revenue_$.csv", "W/a_$x^$.csv"]


def test_dollar_signs_are_text():
  """Formulas, of which neither can be parsed; numbers on log axes stay formulas."""
  from matplotlib.text import Text

  results = kde_results(NAMES)
  (figure,) = plotting.figures_for(results).values()
  assert len(plotting.png(figure)) > 5000
  texts = {text.get_text(): text.get_parse_math() for text in figure.findobj(Text)}
  said = [text for text in texts if "$" in text and "mathdefault" not in text]
  assert len(said) >= 3 and not any(texts[text] for text in said)
  assert all(any(name in text for text in said) for name in NAMES)
  figure.axes[0].set_yscale("log")
  plotting.png(figure)
  ticks = [text for text in figure.axes[0].get_yticklabels() if "mathdefault" in text.get_text()]
  assert ticks and all(text.get_parse_math() for text in ticks)


def test_figures_do_not_depend_on_matplotlibrc():
  """As a matplotlibrc in the working directory sets them; they are as the user wants them afterwards."""
  results = kde_results(NAMES)
  plain = plotting.render(results)
  theirs = {
    "text.usetex": True,
    "font.family": "no such font",
    "font.size": 30,
    "savefig.dpi": 7,
    "figure.dpi": 5,
    "savefig.bbox": "tight",
    "axes.formatter.use_mathtext": True,
    "figure.facecolor": "red",
    "savefig.format": "svg",
    "pdf.fonttype": 42,
  }
  with matplotlib.rc_context(theirs):
    assert {name: png for name, (png, _) in plotting.render(results).items()} == {
      name: png for name, (png, _) in plain.items()
    }
    assert {name: matplotlib.rcParams[name] for name in ("text.usetex", "font.size")} == {
      "text.usetex": True,
      "font.size": 30,
    }


def test_a_figure_for_each_value():
  """Values that differ in the seventh digit, and paths that differ in what a file's name cannot hold."""
  assert panels.labels([1_000_000, 1_000_001]) == ["1000000", "1000001"] and panels.labels([0.1, 1.0]) == ["0.1", "1"]
  results = xarray.Dataset(
    {"x": (("dim", "dataset"), np.ones((2, 2)))}, {"dim": [1_000_000, 1_000_001], "dataset": ["a/b", "a_b"]}
  )
  found = list(panels.slices(results, ("dim", "dataset")))
  assert (
    len({vocabulary.file_name(suffix) for suffix, _ in found}) == len({part.attrs["slice"] for _, part in found}) == 4
  )
  long = [kde_results([f"/{'very/long/' * 40}{name}.csv" for name in "ab"], (10, 20, 30, 40)).isel(bandwidth=[0] * 4)]
  long = [
    one.assign_coords(bandwidth=["1", "2", "3", "4"]) for one in long
  ]  # many bandwidths: a figure for each data set
  found = plotting.figures_for(long[0])
  assert len(found) == 2 and all(len(name) <= 100 for name in found)


def test_drawing_reads_what_was_written(begin, tmp_path, monkeypatch):
  """From results.nc alone, for several experiments: figures, and a report that has all of them."""
  monkeypatch.undo()
  begin(f"--output_dir={tmp_path / 'out'}")
  go(
    lambda directory: {"kde/a": kde_results(NAMES), "kde/b": kde_results(NAMES[:1])},
    tmp_path / "out",
    folders=("kde/a", "kde/b"),
  )
  page = (tmp_path / "out" / "report.html").read_text()
  assert (
    page.count("data:image/png")
    == len(list((tmp_path / "out").rglob("*.png")))
    == len(list((tmp_path / "out").rglob("*.pdf")))
    == 2
  )
  made = json.loads((tmp_path / "out" / "config.json").read_text())["made"]
  assert {name for name, size in made.items()} == {
    str(file.relative_to(tmp_path / "out"))
    for file in (tmp_path / "out").rglob("*")
    if file.is_file() and file.name not in (".lock", "config.json")
  }
