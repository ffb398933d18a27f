# Two commands do everything on a machine with Python 3.11+ and pip:
#   make demo    install, then adapt the shipped model to an invented domain, on a CPU
#   make test    install, then lint, type-check and test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STORE ?= .mixcpt

# Every stage is a process of its own: without byte code each would compile the libraries anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test lint test-long bench bench-gpu up clean

help:            ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

install: $(READY)  ## create .venv with the exact versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("mixcpt needs Python 3.11 or newer, found " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)   ## the main job on the embedded default: base, traditional chain and Mix-CPT side by side
	@$(BIN)/mixcpt demo --store $(STORE)

lint: $(READY)   ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint       ## everything that CI checks, in a quarter of an hour on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not long and not gpu' --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-long: $(READY)  ## whole trials: demo, base rebuilt, comparison, rounds, browser, two pools, PostgreSQL and S3; about an hour
	$(BIN)/pytest -m long

bench: $(READY)   ## our claims of speed and memory, each beside its peer, on this CPU; half an hour
	for script in loss_head packing disc_forwards pretrain_throughput; do $(BIN)/python benchmarks/$$script.py || exit 1; done

bench-gpu: $(READY)  ## the tests that need a GPU, then the same on it, and an 8B-shaped model; results in benchmarks/results
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,gpu]'
	$(BIN)/pytest -m gpu
	$(BIN)/python benchmarks/loss_head.py --gpu
	for options in "--shape 39m" "--shape 8b"; do $(BIN)/python benchmarks/pretrain_throughput.py $$options || exit 1; done
	$(BIN)/python benchmarks/disc_forwards.py

up: $(READY)     ## Prefect server, MLflow server and a worker on this machine
	@$(BIN)/mixcpt up --store $(STORE)

clean:           ## remove the environment and every cache; the store stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
