SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# torch first, pinned: with the pin in place no later step can pull another build of it.
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export HF_HUB_DISABLE_TELEMETRY := 1
# Threads that wait for one another must not spin: on a busy machine that costs many times the work.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help

help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "st-plugins needs Python 3.11 or newer, this is %s. Try: make PYTHON=python3.12 setup" % sys.version.split()[0])'
	@echo "setting up $(VENV) (once, a few minutes) ..."
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(PIP) torch
	@$(PIP) --editable '.[all]' --group dev
	@touch $@

setup: $(VENV)/ready  ## create .venv with everything pinned (the other verbs do this themselves)

demo: setup  ## the main job on a real model and real text (under 6 minutes)
	$(PY) examples/demo

check: setup  ## format, lint, types, import directions
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	PYTHONPATH=.:export:langchain_integration $(VENV)/bin/lint-imports

fix: setup  ## apply every automatic fix
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Two processes, each on one core: a test must not wait for the threads of another.
PARALLEL := --numprocesses 2 --dist worksteal
TEST := OMP_NUM_THREADS=1 $(PY) -m pytest $(PARALLEL)

test: setup  ## the fast tests
	$(TEST)

test-consumers: setup .venv-compat/ready  ## real servers and libraries open an export (installs them, below .consumers)
	$(PY) -m pytest -m slow tests/export/consumers

test-all: setup test-compat test-langchain test-stores test-bulk  ## fast and slow tests, both sentence-transformers lines
	$(TEST) -m '(slow or not slow) and not install' --ignore=tests/langchain_integration/stores

test-bulk: setup  ## bulk jobs on Ray, Daft and Spark, with workers and machines killed (installs those)
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[ray]' daft pyspark
	$(PY) -m pytest -m 'slow or not slow' tests/st_plugins/bulk tests/examples/test_engines.py

.venv-compat/ready: pyproject.toml
	@test -x .venv-compat/bin/python || $(PYTHON) -m venv .venv-compat
	@.venv-compat/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@.venv-compat/bin/python -m pip install --quiet torch==2.13.0
	@.venv-compat/bin/python -m pip install --quiet --editable '.[optimum,langchain,hnsw,train,plot,onnx,lora,bulk,faiss]' --group dev
	@touch $@

test-compat: .venv-compat/ready  ## the fast tests on sentence-transformers 5.7 with optimum
	OMP_NUM_THREADS=1 .venv-compat/bin/python -m pytest $(PARALLEL)

# The oldest langchain-core that is supported, and the newest that can be installed; no torch beside it, and no network.
CORES := langchain-core==1.4.4 langchain-core
test-langchain:  ## the tests of langchain_st_plugins on the oldest and newest langchain-core
	@for core in $(CORES); do \
	  $(PYTHON) -m venv --clear .venv-langchain && \
	  .venv-langchain/bin/python -m pip install --quiet --disable-pip-version-check "$$core" langchain-tests==1.1.9 'pytest>=9' usearch==2.26.6 && \
	  .venv-langchain/bin/python -m pip list 2>/dev/null | grep langchain-core && \
	  PYTHONPATH=.:export:langchain_integration .venv-langchain/bin/python -m pytest --quiet tests/langchain_integration \
	    --disable-socket --allow-unix-socket --confcutdir=tests/langchain_integration --ignore=tests/langchain_integration/test_real_models.py || exit 1; \
	done

STORES := tests/langchain_integration/stores
.venv-stores/ready: $(STORES)/requirements.txt
	@$(PYTHON) -m venv --clear .venv-stores
	@.venv-stores/bin/python -m pip install --quiet --disable-pip-version-check --requirement $(STORES)/requirements.txt langchain-tests==1.1.9 'pytest>=9'
	@touch $@

test-stores: .venv-stores/ready  ## ElasticRetriever over Chroma and Qdrant (installs them, below .venv-stores)
	PYTHONPATH=.:export:langchain_integration .venv-stores/bin/python -m pytest --quiet -m slow $(STORES) \
	  --disable-socket --allow-unix-socket --confcutdir=tests/langchain_integration

test-install: setup  ## the wheel in empty environments: every extra, newest and oldest stack (half an hour)
	$(PY) -m pytest -m install tests/test_installation.py

test-types: setup  ## mypy and pyright on what a user writes (installs pyright from npm)
	cd tests/typing_cases && $(CURDIR)/$(VENV)/bin/mypy --config-file= --strict user_file.py  # not with our settings
	npx --yes pyright@1.1.407 --pythonpath $(PY) tests/typing_cases/user_file.py

bench: setup  ## the benchmarks of minutes, bench_*.py (the others: benchmarks/README.md)
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(PY) $$script || exit 1; done

clean:  ## remove what the verbs made
	rm -rf $(VENV) .venv-compat .venv-langchain .venv-stores .consumers .installed demo_output

.PHONY: help setup demo check fix test test-all test-compat test-langchain test-stores test-consumers test-bulk test-types test-install bench clean
