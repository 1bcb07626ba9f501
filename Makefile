# drpilot: every task of a developer, one line each. `make` alone prints them.
#
# Only Python 3.11+, make and a package index are needed: each target makes the virtual environment .venv by itself,
# once, and again when pyproject.toml or constraints.txt change.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
SEEDS ?= 100
FROM ?= 0
PIP_VERSION := 26.3

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

COVERED := domain engine runbook

.PHONY: help
help: ## what you are reading
	@printf 'drpilot: make TARGET   (PYTHON=%s, WORKERS=%s, ARGS= more arguments for the command)\n\n' '$(PYTHON)' '$(WORKERS)'
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf '  %-12s %s\n' "$$name" "$$text"; done

# ------------------------------------------------------------------------------------------------- environment
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: there is no $(PYTHON) here; drpilot needs Python 3.11 or newer (make PYTHON=/path/to/python3.12)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1); drpilot needs Python 3.11 or newer (make PYTHON=python3.12)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $(PYTHON) can't make virtual environments; install its venv package (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "set-up (once): $(VENV) with the pinned packages of constraints.txt"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	{ $(PIP) install --quiet 'pip==$(PIP_VERSION)' && $(PIP) install --quiet -c constraints.txt -e . --group dev; } >"$$log" 2>&1 \
	  || { cat "$$log" >&2; echo "make: the set-up failed (see above); it needs a package index that pip can reach" >&2; exit 1; }
	@touch $@

.PHONY: setup
setup: $(STAMP) ## make or refresh .venv

# ---------------------------------------------------------------------------------------------------- the job
.PHONY: demo
demo: $(STAMP) ## the whole story on two simulated clouds: protect, drill, fail over, fail back
	@$(BIN)/drpilot demo $(ARGS)

# -------------------------------------------------------------------------------------------------- the tests
# Coverage of $(COVERED) is measured in the same run, in every process, so that nothing runs twice.
.PHONY: test
test: $(STAMP) ## all tests but the slow ones
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest -n $(WORKERS) --dist worksteal -m 'not slow and not bench' $(ARGS)

.PHONY: coverage
coverage: $(STAMP) ## what the last `make test` covered: domain, engine and runbook need 95 % each
	@if compgen -G '.coverage.*' >/dev/null; then $(BIN)/python -m coverage combine --quiet; fi
	@test -e .coverage || { echo 'make: nothing was measured yet; run: make test' >&2; exit 1; }
	@for room in $(COVERED); do echo "drpilot/$$room"; $(BIN)/python -m coverage report --include="drpilot/$$room/*" --fail-under=95; done

.PHONY: crash
crash: $(STAMP) ## the crash suites alone, slow ones included: kills at every commit, lost replies at every call
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'crash or slow' --timeout 1800 $(ARGS)

.PHONY: torture
torture: $(STAMP) ## long runs whose processes are killed and stopped at random, and the ledger of their effects
	@$(BIN)/python -m pytest tests/crash/test_torture.py -p no:randomly -m 'not bench' --timeout 1800 $(ARGS)

.PHONY: simulate
simulate: $(STAMP) ## the whole of drpilot in virtual time under faults drawn from seeds: SEEDS=500 FROM=0
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --from $(FROM) --workers $(WORKERS) $(ARGS)

.PHONY: bench
bench: $(STAMP) ## every measurement there is (tests/bench)
	@$(PIP) install --quiet -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m pytest tests/bench -m bench -s -p no:randomly --timeout 1800 $(ARGS)

.PHONY: rows
rows: $(STAMP) ## which test proves which row of docs/matrix.csv, and the rows still open
	@$(BIN)/python tools/rows.py $(ARGS)

# ------------------------------------------------------------------------------------------------- the checks
.PHONY: lint
lint: $(STAMP) ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: $(STAMP) ## mypy --strict
	@$(BIN)/mypy

.PHONY: layers
layers: $(STAMP) ## the floors of ARCHITECTURE.md, by import-linter
	@$(BIN)/lint-imports --no-logo

.PHONY: docs-check
docs-check: $(STAMP) ## do the generated pages agree with the code?
	@$(BIN)/python tools/gen_docs.py --check

.PHONY: static
static: lint types layers docs-check ## all that needs no test run

.PHONY: check
check: static test coverage ## everything a change must pass

# ------------------------------------------------------------------------------------------------- the upkeep
.PHONY: docs
docs: $(STAMP) ## write the generated pages of docs/ again
	@$(BIN)/python tools/gen_docs.py

.PHONY: format
format: $(STAMP) ## ruff: mend and format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: wheel
wheel: $(STAMP) ## build the wheel into dist/ (runbooks and migrations inside)
	@$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	@ls dist

.PHONY: constraints
constraints: $(STAMP) ## write constraints.txt again from what is installed
	@{ sed -n '/^#/p' constraints.txt; $(PIP) freeze --exclude-editable --exclude drpilot | LC_ALL=C sort -f; } > constraints.new
	@mv constraints.new constraints.txt

.PHONY: clean
clean: ## remove what was built or cached, .venv included
	@rm -rf $(VENV) dist build .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .demo
