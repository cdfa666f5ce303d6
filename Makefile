# Two commands on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
# Each sets up all it needs in .venv; a second run finds it there and starts at once.

VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 3
COVERAGE_FLOOR ?= 85
export PYTHON
# The tests start amaru hundreds of times: each start would compile its source anew.
unexport PYTHONDONTWRITEBYTECODE

# Stamps stand in .venv, so that removing it is enough to start afresh.
RUNTIME := $(VENV)/.stamp-runtime
DEV := $(VENV)/.stamp-dev

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test quick tree lint types imports tests docs docs-serve package bench lock clean

# $(call step,name,command): one heading, and the name of the step where it fails.
step = @printf '\n== %s\n' '$(1)'; { $(2); } || { printf '\n== FAILED: %s\n' '$(1)' >&2; exit 1; }

help: ## Show this list
	@echo 'amaru: one endpoint in front of every AI provider.'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUNTIME) ## Two minutes of traffic over seven simulated providers that break on the way
	@$(BIN)/amaru demo

test: $(DEV) tree lint types imports tests docs package ## Every check, as CI runs it
	@printf '\nAll checks passed. To look at: htmlcov/index.html (coverage), site/index.html (docs), dist/ (the wheel).\n'

quick: $(DEV) ## The tests that take no time, in parallel, without coverage
	@$(BIN)/pytest -q -n auto --dist loadfile -m 'not slow'

tree: $(DEV) ## Check what is committed: no machine paths, no registry hosts, no file past its door
	$(call step,tree,$(BIN)/python scripts/check_tree.py)

lint: $(DEV) ## Check style and format with ruff
	$(call step,lint,$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .)

types: $(DEV) ## Check types with mypy, strictly
	$(call step,types,$(BIN)/mypy --no-error-summary)

imports: $(DEV) ## Check the import contract: a room imports only rooms below it
	$(call step,imports,$(BIN)/lint-imports --no-logo)

tests: $(DEV) ## Run all tests with coverage
	$(call step,tests,$(BIN)/pytest -q -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder \
	  --cov --cov-report=term --cov-report=html --cov-fail-under=$(COVERAGE_FLOOR))

docs: $(DEV) ## Build the docs into site/
	$(call step,docs,NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict)

docs-serve: $(DEV) ## Serve the docs on http://127.0.0.1:8001 and rebuild them on every change
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8001

package: $(DEV) ## Build the wheel, install it in a clean environment, start it
	$(call step,package,$(BIN)/python scripts/check_package.py)

bench: $(DEV) ## Measure amaru beside its peers (see benchmarks/README.md for what that needs)
	@$(BIN)/python benchmarks/serving.py

lock: $(DEV) ## Resolve the lock files anew from pyproject.toml
	@scripts/lock.sh

clean: ## Remove everything that was built, .venv too
	rm -rf $(VENV) site dist build htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache \
	  .import_linter_cache .hypothesis

$(RUNTIME): requirements/runtime.txt requirements/build.txt pyproject.toml scripts/setup.sh
	@scripts/setup.sh runtime
	@touch $@

$(DEV): requirements/dev.txt pyproject.toml scripts/setup.sh
	@scripts/setup.sh dev
	@touch $(RUNTIME) $@
