# Two commands on a machine with Python 3.11+ and pip:
#   make demo    install, then adapt the shipped model to an invented domain, on a CPU
#   make test    install, then lint, type-check and test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STORE ?= .mixcpt

# Stages run in worker processes. Without byte code, each of them would compile the libraries again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test lint test-long bad-inputs families bench bench-gpu up clean

help:            ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

install: $(READY)  ## create .venv with the exact versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("mixcpt needs Python 3.11 or newer, found " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)   ## adapt the shipped model to an invented domain, with the traditional chain and with Mix-CPT
	@$(BIN)/mixcpt demo --store $(STORE)

lint: $(READY)   ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint       ## lint and all tests that CI runs; a quarter of an hour on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not long and not gpu' --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-long: $(READY)  ## complete trainings, comparison, rounds, browser, two pools, PostgreSQL and S3; about an hour
	$(BIN)/pytest -m long

bad-inputs: $(READY)  ## 5,000 damaged inputs: none may crash, hang or lose a record silently; ten minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.bad_inputs --write docs/bad-inputs.md

families: $(READY)  ## train tiny models of all families, and compare every loss with a plain loop; minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.families --write docs/families.md

bench: $(READY)   ## measure speed and memory against peers on this CPU; half an hour
	for script in loss_head packing disc_forwards pretrain_throughput; do $(BIN)/python benchmarks/$$script.py || exit 1; done

bench-gpu: $(READY)  ## run the GPU tests, and the benchmarks on the GPU, also with an 8B-shaped model
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,gpu]'
	$(BIN)/pytest -m gpu
	$(BIN)/python benchmarks/loss_head.py --gpu
	for options in "--shape 39m" "--shape 8b"; do $(BIN)/python benchmarks/pretrain_throughput.py $$options || exit 1; done
	$(BIN)/python benchmarks/disc_forwards.py

up: $(READY)     ## start a Prefect server, an MLflow server and workers on this machine
	@$(BIN)/mixcpt up --store $(STORE)

clean:           ## remove the environment and all caches; the store is kept
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
