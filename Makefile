# `make` or `make help` lists the commands. Everything is installed into virtual environments inside this folder.
#
# PYTHON=python3.12 make test     uses another interpreter (3.11 or newer; `make clean-all` first if one was installed)

PYTHON ?= python3
VENV ?= .venv
DEV_VENV ?= .venv-dev
REPORT ?= report
JOBS ?= 2
ARGUMENTS ?=

PIP_OPTIONS := --disable-pip-version-check --constraint constraints.txt
SOURCES := $(shell find src -name '*.py' -o -name '*.html' -o -name '*.j2' -o -name '*.css' -o -name '*.js')

# A venv of an old Python would only fail later, in the middle of an installation.
define check_python
command -v $(PYTHON) >/dev/null || { \
  echo "No '$(PYTHON)' found. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.12 …" >&2; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "rankfall needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
  echo "Name a newer one: make PYTHON=python3.12 …" >&2; exit 1; }
endef

.PHONY: help reproduce reproduce-all docs notebooks dist test lint types benchmark benchmark-quick clean clean-all
.DEFAULT_GOAL := help

help:
	@echo "make reproduce         install rankfall into $(VENV) and write the report (figure, data, verdicts) to $(REPORT)/"
	@echo "make reproduce-all     every result: one folder each and an index, in $(REPORT)-all/ (ARGUMENTS=--quick: minutes)"
	@echo "make test              lint, types, tests and doctests in $(DEV_VENV)"
	@echo "make docs              the documentation as a site in docs/_build/html; a warning is an error"
	@echo "make notebooks         the tutorials as Jupyter notebooks, without outputs, in docs/_build/notebooks"
	@echo "make benchmark         measure against the other libraries, write benchmarks/results and docs/benchmarks.md"
	@echo "make benchmark-quick   the same with small sizes, into benchmarks/results/quick (minutes; the docs stay)"
	@echo "make dist              wheel and source archive in dist/, the same bytes for the same commit, and checked"
	@echo "make clean             remove caches and build output; clean-all: the environments too"
	@echo
	@echo "Variables: PYTHON ($(PYTHON)), REPORT ($(REPORT)), ARGUMENTS (passed to 'rankfall reproduce' or the benchmarks)."

# The user's environment holds a plain installation and is renewed when the sources change.
reproduce: $(VENV)/installed
	$(VENV)/bin/rankfall reproduce --out "$(REPORT)" $(ARGUMENTS)
	@echo
	@echo "Report: $(REPORT)/index.html (opens in any browser, no network needed)."

reproduce-all: $(VENV)/installed-all
	$(VENV)/bin/rankfall reproduce --all --out "$(REPORT)-all" $(ARGUMENTS)

$(VENV)/installed: pyproject.toml constraints.txt README.md LICENSE $(SOURCES)
	@$(check_python)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet $(PIP_OPTIONS) .
	@touch $@

$(VENV)/installed-all: $(VENV)/installed
	$(VENV)/bin/pip install --quiet $(PIP_OPTIONS) '.[data,torch]'
	@touch $@

# The developer's environment sees the tree itself (editable), so only changed dependencies renew it.
test: lint types
	$(DEV_VENV)/bin/python -m pytest -n $(JOBS) $(ARGUMENTS)

lint: $(DEV_VENV)/installed-test
	$(DEV_VENV)/bin/ruff check .
	$(DEV_VENV)/bin/ruff format --check .

types: $(DEV_VENV)/installed-test
	$(DEV_VENV)/bin/mypy

docs: $(DEV_VENV)/installed-docs
	$(DEV_VENV)/bin/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "Documentation: docs/_build/html/index.html"

notebooks: $(DEV_VENV)/installed-docs
	$(DEV_VENV)/bin/python docs/notebooks.py docs/_build/notebooks

benchmark: $(DEV_VENV)/installed-benchmark
	$(DEV_VENV)/bin/python -m benchmarks $(ARGUMENTS)

benchmark-quick: $(DEV_VENV)/installed-benchmark
	$(DEV_VENV)/bin/python -m benchmarks --quick $(ARGUMENTS)

$(DEV_VENV)/installed-%: pyproject.toml constraints.txt
	@$(check_python)
	test -x $(DEV_VENV)/bin/python || $(PYTHON) -m venv $(DEV_VENV)
	$(DEV_VENV)/bin/pip install --quiet $(PIP_OPTIONS) --editable '.[$*]'
	@touch $@

# Archives carry the time of the commit instead of the time of the build.
dist: $(DEV_VENV)/installed-dist
	rm -rf dist
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(DEV_VENV)/bin/python -m build --outdir dist .
	$(DEV_VENV)/bin/twine check --strict dist/*
	cd dist && sha256sum *

clean:
	rm -rf build dist docs/_build docs/jupyter_execute .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

clean-all: clean
	rm -rf $(VENV) $(DEV_VENV)
