# Everything runs in .venv, which is made on first use: a bare machine needs make and Python 3.10+.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup test test-slow test-kernels test-triton fuzz check demo clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready  ## install the package and its tools into .venv

.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

test: setup  ## run the tests, without those that take minutes
	$(BIN)/pytest

test-slow: setup  ## run the tests that take minutes
	$(BIN)/pytest -m slow

test-kernels: setup  ## run the compiled kernels' own tests under sanitizers
	for sanitizers in address,undefined thread; do \
		$(BIN)/cmake -S . -B build/sanitize-$${sanitizers%,*} -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DBRC_SANITIZE=$$sanitizers -DBRC_TESTS=ON && \
		$(BIN)/cmake --build build/sanitize-$${sanitizers%,*} --target brc_tests && \
		build/sanitize-$${sanitizers%,*}/brc_tests || exit 1; \
	done

# Triton reads the variable when it is imported: the interpreter needs a process of its own.
test-triton: setup  ## run the GPU kernels in Triton's interpreter, on the CPU
	TRITON_INTERPRET=1 $(BIN)/pytest tests/ops/test_cuda.py

CALLS ?= 100000
SEED ?= 0
fuzz: setup  ## make CALLS generated calls and write what became of them to fuzz.json
	$(BIN)/python -m tests.fuzz --calls $(CALLS) --seed $(SEED) --output fuzz.json

# Small enough for a few minutes on two cores: fewer units, samples and epochs than the published runs.
demo: setup  ## run both benchmarks, small, and draw their plots
	$(BIN)/brc copy-first-input --lengths 5,50 --hidden-size 50 --train-size 10000 \
		--test-size 1000 --epochs 6 --jobs 2 --output results/demo-copy-first-input
	$(BIN)/brc binary-addition --layers 1 --seeds 0,1,2 --hidden-size 50 --max-length 10 \
		--epochs-per-length 8 --train-size 5000 --validation-size 500 --test-size 500 \
		--max-test-length 30 --jobs 2 --output results/demo-binary-addition

check: setup  ## lint, formatting, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:  ## remove .venv and what the tools left
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
