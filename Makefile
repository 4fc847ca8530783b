# make run, make test: all they need is Python 3.11 or later, with venv.

.DEFAULT_GOAL := help
.PHONY: help run smoke test faults soak clients test-clients test-real bench lint docs clean

CONFIG ?= etc/demo.ini
TESTS ?=
BENCH ?=
WORKERS ?= 3
FAST_PATH ?= $(or $(COMFYGATE_TEST_FAST_PATH),on)
MINUTES ?= 30
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && { echo $$p; break; }; done)

BIN := .venv/bin
# Most tests wait for processes: one at a time leaves the machine idle.
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
DECLARED := setup.cfg pyproject.toml

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: .venv/installed-run ## four simulated GPUs and the hub in the foreground; Ctrl-C ends all (CONFIG=file: another configuration)
	@exec $(BIN)/twistd -n --pidfile= comfygate --config '$(CONFIG)'

smoke: .venv/installed-run ## ask every port of a running ComfyGate for everything once
	@$(BIN)/comfygate-smoke

test: lint ## the whole suite (TESTS=tests/unit: a part of it; WORKERS=0: one by one; FAST_PATH=off: without gate/fast_path)
	COMFYGATE_TEST_FAST_PATH='$(FAST_PATH)' $(PYTEST) $(TESTS)

faults: .venv/installed-test ## only what kills, stops, fills and damages things; part of the whole suite
	$(PYTEST) --durations=10 tests/faults

clients: ## other people's ComfyUI clients, into build/clients: the tests try those that could be had
	@echo "Installing the clients that are tried into build/clients …"
	@'$(PYTHON)' tests/clients/install.py build/clients

test-clients: .venv/installed-test clients ## published clients, unmodified, on a GPU's port and on the hub; part of the whole suite
	$(PYTEST) --dist load tests/clients

soak: .venv/installed-test ## half an hour of steady traffic: nothing may be lost, nothing may grow (MINUTES=5: shorter)
	$(BIN)/python -m benchmarks.soak --minutes '$(MINUTES)'

bench: .venv/installed-test ## ComfyGate beside nginx and HAProxy, in turns (BENCH='--only GET --pairs 5': a part; --save: keep it)
	@$(BIN)/python -m benchmarks.proxy $(BENCH)

test-real: .venv/installed-test ## the contract suite against the real ComfyUI in $COMFYUI_HOME (run by $COMFYUI_PYTHON)
	@test -f "$${COMFYUI_HOME:?is not set: name the folder of a ComfyUI that runs on this machine}/main.py" || \
		{ echo "There is no main.py in $$COMFYUI_HOME: set COMFYUI_HOME to ComfyUI's folder."; exit 1; }
	$(BIN)/python -m pytest tests/contract tests/process/test_companion.py tests/process/test_names.py \
		tests/process/test_uploads.py tests/process/test_user_folder.py tests/browser/test_stock_page.py

lint: .venv/installed-test ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy comfygate

docs: .venv/installed-test ## write again what is made from the code: etc/gpus.ini, tables in docs/
	$(BIN)/python -m comfygate.config.reference etc/gpus.ini docs/configuration.md

clean: ## remove what make and the tools made
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache twisted/plugins/dropin.cache
	find comfygate twisted tests -name __pycache__ -prune -exec rm -rf {} +

.venv/installed-run: .venv/made $(DECLARED)
	@echo "Installing what ComfyGate needs into .venv …"
	@$(PIP) --editable '.[simulator]'
	@touch $@

.venv/installed-test: .venv/made $(DECLARED)
	@echo "Installing what the tests need into .venv …"
	@$(PIP) --editable '.[test]'
	@touch $@ .venv/installed-run

.venv/made:
	@test -n '$(PYTHON)' || { echo "ComfyGate needs Python 3.11 or later, and no python3 here is:" \
		"install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@'$(PYTHON)' -c '$(NEW_ENOUGH)' || { echo "ComfyGate needs Python 3.11 or later, and $(PYTHON) is not:" \
		"name another: make PYTHON=/path/to/python3"; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments:" \
		"install its venv module (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@'$(PYTHON)' -m venv --clear .venv
	@touch $@
