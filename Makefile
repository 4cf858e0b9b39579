# `make demo` and `make test` need only Python 3.11 or newer.
PYTHON ?= python3
# Use another environment for another Python: make test PYTHON=python3.13 VENV=.venv-3.13
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The oldest supported SQLAlchemy has an environment of its own.
OLDEST := $(VENV)-oldest
OLDEST_READY := $(OLDEST)/.ready
READY_TO_BENCH := $(VENV)/.ready-to-bench
# One more than the cores of CI, since tests often wait. The tests of a module share fixtures and run in one process.
TEST_PROCESSES ?= 3
IN_PARALLEL := --numprocesses $(TEST_PROCESSES) --dist loadscope
# With 4 GB free in /dev/shm, test servers keep their data there: the database of a test is created in a fifth of the
# time. The files of pytest itself stay on disk.
HAS_SPACE := [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $$4 }')" -gt 4000000 ] 2>/dev/null
IN_MEMORY := $(shell $(HAS_SPACE) && echo TMPDIR=/dev/shm PYTEST_DEBUG_TEMPROOT="$${TMPDIR:-/tmp}")

.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest check format bench revision snapshots lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "graphjobs needs Python 3.11 or newer: run 'make PYTHON=/path/to/python3.11 ...'"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY) ## set up, and run the main job: real SBOMs through build and overlay jobs
	$(BIN)/graphjobs demo

test: $(READY) ## set up, and run all tests on a real database
	$(IN_MEMORY) $(BIN)/python -m pytest $(IN_PARALLEL)

$(OLDEST_READY): requirements-oldest.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(OLDEST_READY)

test-oldest: $(OLDEST_READY) ## tests with SQL on PostgreSQL 15, SQLAlchemy 2.0 and behind pgbouncer; servers must be installed
	$(IN_MEMORY) $(OLDEST)/bin/python -m tests.run_oldest_supported $(IN_PARALLEL)

check: $(READY) ## format, lint, import contracts, types, spelling, docs, vocabulary
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m pytest --quiet tests/docs/test_docs.py tests/docs/test_vocabulary.py

format: $(READY) ## format the code and apply the fixes of the linter
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(READY_TO_BENCH): $(READY) requirements-bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@touch $(READY_TO_BENCH)

bench: $(READY_TO_BENCH) ## benchmarks beside the bare driver, an ORM session and other queues
	$(BIN)/python -m benchmarks

revision: $(READY) ## a new Alembic revision: make revision name="018_something"
	@test -n "$(name)" || { echo 'name the revision: make revision name="018_something"'; exit 2; }
	$(BIN)/alembic revision --rev-id "$(name)" --message "$(name)"

snapshots: $(READY) ## regenerate the committed snapshots: SQL, OpenAPI, public names, keys of JSON output
	$(BIN)/python -m tests.snapshots
	GRAPHJOBS_WRITE_SNAPSHOTS=1 $(BIN)/python -m pytest --quiet tests/snapshots/test_cli_json_keys.py

lock: $(READY) ## update the pinned development dependencies
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra embedded --extra mongo --extra web --group dev --no-header --no-annotate \
		--upgrade pyproject.toml --output-file requirements-dev.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group bench --no-header --no-annotate \
		--upgrade --constraint requirements-dev.txt pyproject.toml --output-file requirements-bench.txt

clean: ## remove all generated files
	rm -rf .venv .venv-* dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
