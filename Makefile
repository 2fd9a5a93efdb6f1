# Every target makes what it needs: a virtual environment in .venv with the pinned versions of
# constraints.txt. Stamp files in .venv say what is installed; pip runs again only after
# constraints.txt or pyproject.toml changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Python compiles what is imported, at its first import; pip would compile all, for two minutes.
INSTALL := $(PIP) install --no-compile
UV ?= uv
# Processes of the tests, each of one thread.
WORKERS ?= 2

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help venv demo picture test lint types docs format hooks constraints clean distclean

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

venv: $(VENV)/.dev ## the environment for development

demo: $(VENV)/.runtime ## a healthy run and three that collapse, side by side
	$(BIN)/sigma-monitor demo $(DEMO_ARGS)

picture: $(VENV)/.runtime ## draw the picture of the README again
	$(BIN)/sigma-monitor demo --picture docs/collapse.svg

test: lint types ## everything that CI runs: lint, types and the tests
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.dev ## style, imports, docstrings and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev ## strict type check of the package
	$(BIN)/mypy

docs: $(VENV)/.dev ## the documentation as a site, in site/
	$(BIN)/mkdocs build --strict

format: $(VENV)/.dev ## rewrite the code in the project's format
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

hooks: $(VENV)/.dev ## check the format and types at every git commit
	$(BIN)/pre-commit install

constraints: ## pin again what the development install pulls in (needs uv)
	cp constraints.txt constraints.tmp
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.10 --quiet \
	  --no-annotate --no-header --output-file constraints.tmp $(UV_FLAGS)
	{ grep '^#' constraints.txt; grep -v -E '^(nvidia-|cuda-|triton=)' constraints.tmp; } > constraints.new
	rm constraints.tmp
	mv constraints.new constraints.txt

clean: ## remove caches and build results
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV)

# The stamps, each made by the install that it stands for.

define too_old
$(PYTHON) is missing or older than Python 3.10, which sigma_monitor needs.
Name a newer one, for instance: make PYTHON=python3.11 $(MAKECMDGOALS)
endef
export too_old

# torch comes first: its exact version picks the build that a local index or a find-links folder offers.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$$too_old" >&2; exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	$(INSTALL) 'pip>=22.3'
	$(INSTALL) -c constraints.txt torch
	@touch $@

$(VENV)/.runtime: $(VENV)/.torch pyproject.toml constraints.txt
	$(INSTALL) -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(INSTALL) -c constraints.txt -e ".[dev]"
	@touch $(VENV)/.runtime $@
