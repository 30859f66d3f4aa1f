# Needs only make and Python >= 3.11. Each target first installs what it lacks.
PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
# The newest JAX needs a newer Python; where pyenv has one that is not active, it is that.
NEWEST_PYTHON ?= $(shell python3.13 -c 'print("python3.13")' 2>/dev/null || \
	ls -d $$HOME/.pyenv/versions/3.13.*/bin/python3.13 2>/dev/null | tail -1)
DATA ?=

BIN := .venv/bin
OLDEST_BIN := .venv-oldest/bin
NEWEST_BIN := .venv-newest/bin
# On their own: pydoclint and tyro need two packages that are both named docstring_parser.
LINT_BIN := .venv-lint/bin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo docs test test-slow test-oldest test-newest mutants lint format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv/demo.stamp ## Run the demo (DATA=path: on your own data)
	$(BIN)/python -m benchmarks.demo $(if $(DATA),--data "$(DATA)")

docs: .venv/docs.stamp ## Build the documentation site, strictly, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

test: .venv/tests.stamp ## Run tests, doctests, coverage: newest JAX for Python 3.11
	$(BIN)/python -m pytest --cov --cov-report=term

test-slow: .venv/tests.stamp ## Run the tests that take half a minute or more each
	$(BIN)/python -m pytest -m slow

test-oldest: .venv-oldest/tests.stamp ## Run tests and doctests with the oldest JAX
	$(OLDEST_BIN)/python -m pytest

test-newest: ## Run tests and doctests with the newest JAX, on Python 3.13 if there
ifeq ($(NEWEST_PYTHON),)
	@echo "test-newest needs Python 3.13, which is not here: not run"
else
	@$(MAKE) --no-print-directory PYTHON=$(NEWEST_PYTHON) .venv-newest/tests.stamp
	$(NEWEST_BIN)/python -m pytest
endif

mutants: .venv/tests.stamp ## Would a test notice? A sample of mutants (SAMPLE=0: all)
	$(BIN)/python -m tools.mutants --sample $(or $(SAMPLE),120)

lint: .venv/tests.stamp .venv-lint/lint.stamp ## Check format, style, types and docstrings
	$(LINT_BIN)/ruff format --check
	$(LINT_BIN)/ruff check
	$(LINT_BIN)/pyrefly check --python-interpreter-path $(BIN)/python
	$(LINT_BIN)/pydoclint --quiet optax_lena

format: .venv-lint/lint.stamp ## Rewrite the code in the house format
	$(LINT_BIN)/ruff check --fix
	$(LINT_BIN)/ruff format

clean: ## Remove the environments and every cache
	rm -rf .venv .venv-lint .venv-oldest .venv-newest build .coverage .coverage.* htmlcov dist
	rm -rf .hypothesis .pytest_cache .ruff_cache .cache
	find optax_lena tests benchmarks examples tools -name __pycache__ -prune -exec rm -rf {} +

# One stamp for each set of requirements: pip runs again only when a pin changes.
.venv/demo.stamp: REQUIREMENTS = '.[bench]'
.venv/tests.stamp .venv-oldest/tests.stamp .venv-newest/tests.stamp: REQUIREMENTS = '.[bench,pod]' --group tests
.venv/docs.stamp: REQUIREMENTS = '.[bench]' --group docs

.venv/%.stamp .venv-lint/%.stamp: CONSTRAINTS = constraints.txt
.venv-oldest/%.stamp: CONSTRAINTS = constraints-oldest.txt
.venv-newest/%.stamp: CONSTRAINTS = constraints-newest.txt

.venv/demo.stamp .venv/docs.stamp .venv/tests.stamp: .venv/pip.stamp
.venv-lint/lint.stamp: .venv-lint/pip.stamp
.venv-oldest/tests.stamp: .venv-oldest/pip.stamp
.venv-newest/tests.stamp: .venv-newest/pip.stamp

.venv/pip.stamp .venv-lint/pip.stamp: constraints.txt pyproject.toml
.venv-oldest/pip.stamp: constraints-oldest.txt pyproject.toml
.venv-newest/pip.stamp: constraints-newest.txt pyproject.toml

%/pip.stamp:
	@echo "Creating $* with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed")'
	@$(PYTHON) -m venv $*
	@$*/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) pip
	@touch $@

.venv-lint/lint.stamp: # tools alone, which look into the other environment
	@echo "Installing the tools of lint into $(@D)"
	@$(@D)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) --group lint
	@touch $@

%.stamp:
	@echo "Installing $(REQUIREMENTS) into $(@D), a few minutes the first time"
	@$(@D)/bin/python -m pip install --quiet --constraint $(CONSTRAINTS) \
		--build-constraint $(CONSTRAINTS) --editable $(REQUIREMENTS)
	@touch $@
