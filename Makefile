PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Anything that takes pip's arguments.
INSTALL ?= $(BIN)/python -m pip install
SCALE ?= laptop

# Tests that touch most of what others have written, in a minute or two.
BOUNDS := tests/test_survival_directory.py tests/test_binaries.py tests/test_lm_checkpoint.py tests/test_lm_text.py \
  tests/test_diagnostics.py
# Where pyenv has a version of Python, or what uv looks for; the newest of those that are there.
python = $(firstword $(wildcard $(HOME)/.pyenv/versions/$(1)*/bin/python) $(shell command -v python$(1)))
NEWEST := $(firstword $(call python,3.13) $(call python,3.12) $(PYTHON))
# What `make matrix` goes through.
PYTHONS ?= 3.11 3.12 3.13
SETS ?= lowest-direct highest

# Side by side; tests of one group share a process.
PYTEST := -m pytest -q -n auto --maxprocesses=4 --dist=loadgroup
# A test that hangs fails, once it has said where, and the others go on.
ALL := $(PYTEST) --durations=10 -o faulthandler_exit_on_timeout=true
# Percent of lines and branches that the fast tests run, rounded down: raised when more is measured, never lowered.
FLOOR := 91

.PHONY: install run test slow fast bounds matrix uv lint mutants docs benchmark clean

install: $(VENV)/installed

# setuptools warns of every editable installation but those of a `src` folder.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed; run: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --quiet --upgrade pip
	PYTHONWARNINGS='ignore:Editable installation' $(INSTALL) --quiet --editable '.[test,lint]'
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

# Tests with the versions that uv resolves to: name of the environment, Python, --resolution, extras, tests, variables.
define with_versions
	$(BIN)/uv venv --quiet --clear --python $(2) $(VENV)-$(1)
	$(BIN)/uv pip install --quiet --python $(VENV)-$(1) --resolution $(3) -r pyproject.toml $(4)
	PYTHONPATH=$(CURDIR) $(6) $(VENV)-$(1)/bin/python $(5)
endef

# With the lowest versions that pyproject.toml allows, and with the newest, on the newest Python that is found.
bounds: uv
	$(call with_versions,lowest,$(PYTHON),lowest-direct,--extra test,$(PYTEST) -m 'not slow' $(BOUNDS))
	$(call with_versions,newest,$(NEWEST),highest,--extra test,$(PYTEST) -m 'not slow' $(BOUNDS))

# The whole suite, references included, on every Python with both sets: hours, for one of them `make matrix/3.12/highest`.
matrix: $(foreach python,$(PYTHONS),$(SETS:%=matrix/$(python)/%))

matrix/%: uv
	$(call with_versions,$(*D)-$(*F),$(or $(call python,$(*D)),$(*D)),$(*F),--extra test --extra parity,$(ALL),CI=1)

uv: install
	$(INSTALL) --quiet uv

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy collapse_jax experiments

# The pages of systems and of laws, then the site, into build/site: a warning is an error.
docs: install
	$(INSTALL) --quiet --editable '.[docs]'
	$(BIN)/python -m collapse_jax.systems.page > docs/systems.md
	$(BIN)/python -m collapse_jax.theory.page > docs/laws.md
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site

benchmark: install
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) $(VENV)-* results .cache build docs/auto_gallery
