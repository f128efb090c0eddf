# Everything from a bare clone: a virtual environment, the installation, the run.
#   make demo     trains the character transformer of examples/char_gpt.dsl and lets it write
#   make test     installs the test extras, then lint, types and the whole test suite
# The first interpreter that starts and is new enough: a version manager's shim may exist and yet refuse to run.
NEW_ENOUGH = import sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
              $$each -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$each && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint quick bench clean

demo: $(VENV)/installed
	$(BIN)/dslc train examples/char_gpt.dsl --run runs/char_gpt
	$(BIN)/dslc generate runs/char_gpt --prompt "The " --length 600

test: $(VENV)/installed-test lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

quick: $(VENV)/installed-test
	$(BIN)/python -m pytest -q -x -m "not slow"

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed-test
	$(BIN)/python -m benchmarks cpu

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "dslc needs Python 3.11 or newer, with venv; set PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(PIP) -e '.[examples]'
	touch $@

$(VENV)/installed-test: $(VENV)/bin/python pyproject.toml
	$(PIP) -e '.[examples,test]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build dist *.egg-info runs
