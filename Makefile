# Every target sets up .venv by itself; a second start is quick and needs no network. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo notebooks test test-bundle lint types replay crash cluster lock clean
ARGS ?=
N ?= 200
WORKERS ?= 2
CHANGES ?= ../shared/data/delta_docs/changes.jsonl.gz
PYTHON ?=
export PYTHON
UV = bin/in-venv uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate $(ARGS)

STORES = $(addprefix --extra ,pii chroma milvus faiss scann pgvector databricks object-storage langchain llamaindex)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## .venv with the locked packages, jars and models in the cache
	@bin/setup && bin/in-venv lakeloop setup

demo: ## the whole loop on three deliveries of a real documentation, in build/demo (ARGS="--help" for options)
	@bin/setup && bin/in-venv lakeloop demo $(ARGS)

notebooks: ## run the notebooks and write them with their plots to build/notebooks (LAKELOOP_WORKSPACE: a workspace of yours)
	@bin/setup --dev && bin/in-venv lakeloop setup && mkdir -p build/notebooks
	@bin/in-venv jupyter-execute notebooks/*.ipynb --output='../build/notebooks/{notebook_name}'

test: ## everything, in two processes (ARGS="-k chunks tests/unit" for a part, WORKERS=0 for this process alone)
	@bin/setup --dev && bin/in-venv lakeloop setup && bin/in-venv python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-bundle: ## Databricks' own CLI, built from its Go module (once, six minutes), deploys the bundle to its test server
	@bin/setup --dev && bin/in-venv lakeloop setup && bin/in-venv python -m tests.databricks_cli.build
	@bin/in-venv python -m pytest -m "" tests/databricks_cli $(ARGS)

lint: ## ruff: rules and formatting; and every test module can be imported
	@bin/setup --dev && bin/in-venv ruff check . && bin/in-venv ruff format --check .
	@out=$$(bin/in-venv python -m pytest --collect-only -q -m "" 2>&1) || { echo "$$out" | tail -30; exit 1; }

types: ## mypy, strict
	@bin/setup --dev && bin/in-venv mypy

replay: ## the test of a real edit history with all of its 86 deliveries instead of some eight
	@bin/setup --dev && bin/in-venv lakeloop setup && LAKELOOP_REPLAY=all bin/in-venv python -m pytest -k replay -m "" $(ARGS)

crash: ## N=200 kills at random moments of a real edit history (CHANGES=its changes.jsonl.gz), and a table
	@bin/setup --dev && bin/in-venv lakeloop setup && bin/in-venv python -m tests.crash --kills $(N) --changes $(CHANGES)

cluster: ## the loop by spark-submit on a master and two workers of this machine, one of them killed, and a table
	@bin/setup --dev && bin/in-venv lakeloop setup && bin/in-venv python -m tests.cluster $(ARGS)

lock: ## compile requirements/*.lock anew (ARGS="--upgrade" for newer versions; uv reads UV_INDEX_URL)
	@bin/setup --dev
	@$(UV) requirements/build.in -o requirements/build.lock
	@$(UV) requirements/java.in -o requirements/java.lock
	@$(UV) --extra local setup.py requirements/build.in -c requirements/build.lock -o requirements/local.lock
	@$(UV) --extra local $(STORES) setup.py requirements/build.in requirements/dev.in -c requirements/local.lock -o requirements/dev.lock
	@$(UV) requirements/annoy.in -o requirements/annoy.lock
	@$(UV) requirements/moto.in -o requirements/moto.lock

clean: ## remove what was built here: .venv, build and dist; the cache of jars and models stays
	@rm -rf .venv build dist lakeloop.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis spark-warehouse
