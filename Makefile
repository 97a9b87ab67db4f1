PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Anything that takes pip's arguments.
INSTALL ?= $(BIN)/python -m pip install
SCALE ?= laptop

# Tests that touch most of what others have written, in a minute or two.
BOUNDS := tests/test_survival_directory.py tests/test_binaries.py tests/test_lm_checkpoint.py tests/test_lm_text.py \
  tests/test_diagnostics.py
NEWEST := $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python) $(shell command -v python3.13) \
  $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python) $(shell command -v python3.12) $(PYTHON))

# Side by side; tests of one group share a process.
PYTEST := -m pytest -q -n auto --maxprocesses=4 --dist=loadgroup
# A test that hangs fails, once it has said where, and the others go on.
ALL := $(PYTEST) --durations=10 -o faulthandler_exit_on_timeout=true
# Percent of lines and branches that the fast tests run, rounded down: raised when more is measured, never lowered.
FLOOR := 91

.PHONY: install run test slow fast bounds lint mutants docs benchmark clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed; run: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --quiet --upgrade pip
	$(INSTALL) --quiet --editable '.[test,lint]'
	touch $@

# Ends with the path of the report.
run: install
	$(BIN)/python -m experiments.reproduce --scale=$(SCALE) --output_dir=results/reproduce --overwrite

# All tests, each once: long ones alone, for coverage takes its time and is that of the others.
test: slow fast

slow: install
	$(BIN)/python $(ALL) -m slow

fast: install
	$(BIN)/python $(ALL) -m 'not slow' --cov --cov-fail-under=$(FLOOR)

# One line wrong at a time; MUTANTS picks by a part of a name, or sets options.
mutants: install
	$(BIN)/python -m tests.mutants --jobs=2 $(MUTANTS)

# With the lowest versions that pyproject.toml allows, and with the newest, on the newest Python that is found.
bounds: install
	$(INSTALL) --quiet uv
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest --resolution lowest-direct -r pyproject.toml --extra test
	PYTHONPATH=$(CURDIR) $(VENV)-lowest/bin/python $(PYTEST) -m 'not slow' $(BOUNDS)
	$(BIN)/uv venv --quiet --clear --python $(NEWEST) $(VENV)-newest
	$(BIN)/uv pip install --quiet --python $(VENV)-newest -r pyproject.toml --extra test
	PYTHONPATH=$(CURDIR) $(VENV)-newest/bin/python $(PYTEST) -m 'not slow' $(BOUNDS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy collapse_jax experiments

# The page of systems, then the site, into build/site: a warning is an error.
docs: install
	$(INSTALL) --quiet --editable '.[docs]'
	$(BIN)/python -m collapse_jax.systems.page > docs/systems.md
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site

benchmark: install
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest results .cache build docs/auto_gallery
