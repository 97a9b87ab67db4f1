PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCALE ?= laptop

.PHONY: install run test lint benchmark clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed; run: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	touch $@

# Ends with the path of the report.
run: install
	$(BIN)/python -m experiments.reproduce --scale=$(SCALE) --output_dir=results/reproduce --overwrite

test: install
	$(BIN)/python -m pytest -q --durations=10 -n auto --maxprocesses=4 --dist=loadgroup

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy collapse_jax experiments

benchmark: install
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) results .cache build
