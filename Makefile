# Every target installs what it needs; `make` alone says what there is.

.DEFAULT_GOAL := help
.PHONY: help install lab demo down test check format lint types imports unit vcenter lock bench clean
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
# For the programs that a command looks for: what is locked comes before what the machine has.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTHON_TREES := bot cli flows forkyard guest lab tasks tests

help: ## Say what there is
	@echo "forkyard: scale an app in seconds by forking running VMs"
	@echo
	@awk -F ':[^#]*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Begin with: make demo"

install: ## Put the locked packages and the forkyard command into .venv (no root)
	@bin/bootstrap install

lab: ## Install what the lab needs and start it: Consul, Nginx, Prefect, a frozen parent (root)
	@bin/bootstrap lab
	@$(BIN)/forkyard lab up

demo: ## Start the lab, fork four servers from one warm VM, and show what happened (root)
	@bin/bootstrap lab
	@$(BIN)/forkyard demo

down: ## Stop the lab and everything in it; frozen parents stay on disk (root)
	@bin/bootstrap lab
	@$(BIN)/forkyard lab down

test: ## Lint and test everything with real parts, as CI does (root, up to 40 minutes)
	@bin/bootstrap test
	@$(MAKE) lint types imports vcenter
	@$(BIN)/pytest

check: ## Format, then lint, types, imports and unit tests, in seconds (root once, to install)
	@bin/bootstrap test
	@$(MAKE) format lint types imports unit

format:
	@$(BIN)/ruff format --quiet .

lint:
	@$(BIN)/ruff format --check --quiet . || { echo "Not formatted; make format mends it."; exit 1; }
	@$(BIN)/ruff check --quiet .

types:
	@$(BIN)/mypy --no-error-summary
	@said=$$($(BIN)/pyright) || { echo "$$said"; exit 1; }

imports:
	@said=$$($(BIN)/lint-imports --no-logo) || { echo "$$said"; exit 1; }

unit:
	@$(BIN)/pytest -q tests/unit

vcenter: ## Build the vCenter to test against, and govc, into the cache (root, minutes the first time)
	@bin/bootstrap lab
	@$(BIN)/python -c 'from forkyard.settings import load_settings as s; from lab.vsphere_build import *; c = s().cache_dir; build_vcenter(c); build_govc(c)'

lock: ## Lock the Python packages anew, without the name of any host
	@bin/bootstrap install
	@bin/lock

bench: ## Measure all that forkyard promises, as JSON (root, the lab must be up)
	@bin/bootstrap lab
	@$(BIN)/forkyard bench --all --json

clean: ## Remove what was built in this checkout; the lab and its parents stay
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find $(PYTHON_TREES) -name __pycache__ -type d -prune -exec rm -rf {} +
