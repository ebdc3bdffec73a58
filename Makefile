# Two commands: `make demo` and `make test`. Each makes .venv if it is missing, installs, and runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow style check docs clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo       train a tokenizer, a GPT, a BERT and a SimCLR encoder; writes demo/report.html (about 6 minutes)"
	@echo "make test       the tests (under 15 minutes on 2 cores)"
	@echo "make test-slow  the tests that take longer"
	@echo "make style      format and lint; make check only looks"
	@echo "make docs       the documentation, in out/docs/index.html"

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; run: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about 5.5 GB, a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: $(VENV)/installed
	@$(BIN)/hfssl demo

# One test file at a time on each core: their small tensors gain nothing from a second thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: $(VENV)/installed
	@$(PYTEST)

test-slow: $(VENV)/installed
	@$(PYTEST) -m slow

style: $(VENV)/installed
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

check: $(VENV)/installed
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

$(VENV)/docs-installed: $(VENV)/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	@touch $@

docs: $(VENV)/docs-installed
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "Wrote out/docs/index.html"

clean:
	rm -rf demo out .pytest_cache .ruff_cache
