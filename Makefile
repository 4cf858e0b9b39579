# `make demo` and `make test` start from nothing: a Python of 3.11 or newer is all they ask for.
PYTHON ?= python3
# Another Python has an environment of its own beside this one: make test PYTHON=python3.13 VENV=.venv-3.13
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_TO_BENCH := $(VENV)/.ready-to-bench
# One more than the cores of CI, for tests wait often. A module's stay together: they share what they have started.
TEST_PROCESSES ?= 3
SIDE_BY_SIDE := --numprocesses $(TEST_PROCESSES) --dist loadscope
# Servers of tests keep their data in memory where there is room for it: a test's own database is made in a fifth of the
# time. What pytest itself keeps stays on the disk.
ROOMY := [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $$4 }')" -gt 4000000 ] 2>/dev/null
IN_MEMORY := $(shell $(ROOMY) && echo TMPDIR=/dev/shm PYTEST_DEBUG_TEMPROOT="$${TMPDIR:-/tmp}")

.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest check format bench revision snapshots lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "graphjobs needs Python 3.11 or newer: say which with 'make PYTHON=/path/to/python3.11 ...'"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY) ## set up, and run the main job: real SBOMs through build and overlay jobs
	$(BIN)/graphjobs demo

test: $(READY) ## set up, and run all tests on a real database
	$(IN_MEMORY) $(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-oldest: $(READY) ## tests of all that meets the server on PostgreSQL 15, and behind pgbouncer; both must be installed
	$(IN_MEMORY) $(BIN)/python -m tests.run_oldest_supported $(SIDE_BY_SIDE)

check: $(READY) ## format, lint, import contracts, types, spelling, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m pytest --quiet tests/docs/test_docs.py

format: $(READY) ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY_TO_BENCH): $(READY) requirements-bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $(READY_TO_BENCH)

bench: $(READY_TO_BENCH) ## speed, side by side with the bare driver, an ORM session and the queues next door
	$(BIN)/python -m benchmarks

revision: $(READY) ## a new Alembic revision: make revision name="018_something"
	@test -n "$(name)" || { echo 'name the revision: make revision name="018_something"'; exit 2; }
	$(BIN)/alembic revision --rev-id "$(name)" --message "$(name)"

snapshots: $(READY) ## write anew the committed texts that tests compare: SQL, OpenAPI, public names, keys of JSON output
	$(BIN)/python -m tests.snapshots
	GRAPHJOBS_WRITE_SNAPSHOTS=1 $(BIN)/python -m pytest --quiet tests/snapshots/test_cli_json_keys.py

lock: $(READY) ## pin the development dependencies anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra embedded --extra mongo --extra web --group dev --no-header --no-annotate \
		--upgrade pyproject.toml --output-file requirements-dev.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group bench --no-header --no-annotate \
		--upgrade --constraint requirements-dev.txt pyproject.toml --output-file requirements-bench.txt

clean: ## remove what make made
	rm -rf .venv .venv-* dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
