# `make demo`, `make test` and `make docs`: each sets up its own .venv from nothing, then runs.
PYTHON ?= python3
VENV ?= .venv
PYTEST_FLAGS ?=
# For the training side's tests. Pinned, because an open range may pull gigabytes of CUDA packages.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
# An editable install of a package whose data package lives elsewhere (engines/) warns about folder names.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test lint docs clean
.DELETE_ON_ERROR:

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "coop_edge needs Python 3.10 or newer, PYTHON=$(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/pip
	$(INSTALL) -e ".[cpu]"
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/pip
	$(INSTALL) "$(TORCH)"
	$(INSTALL) -e ".[cpu,onboard,export,docs,dev]"
	@touch $@ $(VENV)/.installed-demo

demo: $(VENV)/.installed-demo
	$(BIN)/coop-edge demo --device cpu --output demo.png

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_FLAGS)

docs: $(VENV)/.installed-test
	$(BIN)/python docs/make_options.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site

clean:
	rm -rf $(VENV) build dist site *.egg-info demo.png
