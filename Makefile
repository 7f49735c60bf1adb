# Everything runs in .venv, which is made on first use: a bare machine needs make and Python 3.10+.
PYTHON ?= python3
BIN := .venv/bin
RELEASE := build/release-env/bin

.DEFAULT_GOAL := help
.PHONY: help setup test test-slow test-lowest test-kernels test-triton fuzz check docs demo wheels release-check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready  ## install the package and its tools into .venv

.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; name another one: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

test: setup  ## run the tests, without those that take minutes
	$(BIN)/pytest

test-slow: setup  ## run the tests that take minutes
	$(BIN)/pytest -m slow

# The extras at the lower bounds of pyproject.toml lie before .venv's packages. torch stays what it is:
# its oldest supported build takes gigabytes, and `make release-check` tries it. Old packages warn of
# newer ones. Of each extra's tests some that use much of it.
LOWEST := tests/experiments/show/test_statistics.py tests/experiments/show/test_tables.py \
	tests/experiments/cli/test_cli.py::test_help_names_the_options \
	tests/experiments/cli/test_cli.py::test_binary_addition_then_plot_and_table \
	tests/experiments/train/test_locks.py tests/experiments/train/test_tensorboard.py \
	tests/interop/test_gymnasium.py tests/interop/test_torchrl.py \
	tests/interop/test_onnx.py::test_a_network_inside_a_model
build/lowest: pyproject.toml requirements.txt | setup
	rm -rf $@ && mkdir -p build && echo torch > build/without.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --target $@ --only-binary :all: \
		--resolution lowest-direct --excludes build/without.txt --extra test --requirements pyproject.toml
	@touch $@

test-lowest: build/lowest  ## run tests with the oldest versions of the extras that are supported
	PYTHONPATH=$(abspath build/lowest) $(BIN)/python -m pytest -W default $(LOWEST)

test-kernels: setup  ## run the compiled kernels' own tests under sanitizers
	for sanitizers in address,undefined thread; do \
		$(BIN)/cmake -S . -B build/sanitize-$${sanitizers%,*} -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DBRC_SANITIZE=$$sanitizers -DBRC_TESTS=ON && \
		$(BIN)/cmake --build build/sanitize-$${sanitizers%,*} && \
		$(BIN)/ctest --test-dir build/sanitize-$${sanitizers%,*} --output-on-failure || exit 1; \
	done

# Triton reads the variable when it is imported: the interpreter needs a process of its own.
test-triton: setup  ## run the GPU kernels in Triton's interpreter, on the CPU
	TRITON_INTERPRET=1 $(BIN)/pytest tests/ops/test_cuda.py tests/ops/test_cuda_torch.py

CALLS ?= 100000
SEED ?= 0
FIGURES ?= fuzz.json
fuzz: setup  ## make CALLS generated calls and write what became of them to FIGURES
	$(BIN)/python -m tests.fuzz --calls $(CALLS) --seed $(SEED) --output $(FIGURES)

# Small enough for a few minutes on two cores: fewer units, samples and epochs than the published runs.
demo: setup  ## run both benchmarks, small, and draw their plots
	$(BIN)/brc copy-first-input --lengths 5,50 --hidden-size 50 --train-size 10000 \
		--test-size 1000 --epochs 6 --jobs 2 --output results/demo-copy-first-input
	$(BIN)/brc binary-addition --layers 1 --seeds 0,1,2 --hidden-size 50 --max-length 10 \
		--epochs-per-length 8 --train-size 5000 --validation-size 500 --test-size 500 \
		--max-test-length 30 --jobs 2 --output results/demo-binary-addition
	@echo "These runs are small: half the units, fewer sequences and epochs, sequences of 50 steps at most."
	@echo "They show that all works, and a first difference between the cells; not the published numbers."

check: setup  ## lint, formatting, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: setup  ## build the documentation site into build/docs
	$(BIN)/sphinx-build --quiet --write-all --fail-on-warning --keep-going docs build/docs

build/release-env/.ready: release/requirements.txt
	$(PYTHON) -m venv build/release-env
	$(RELEASE)/pip install --quiet --disable-pip-version-check -r release/requirements.txt
	@touch $@

wheels: build/release-env/.ready  ## build the sdist and every platform's wheel into dist, and check them
	$(RELEASE)/python release/build_wheels.py
	$(RELEASE)/python release/check_wheels.py
	$(RELEASE)/twine check --strict dist/*

# The Pythons that the wheel is tried with: the first with the oldest torch, the last with the newest.
PYTHONS ?= python3.10 python3.13
release-check: check wheels  ## all that a release must pass but the tests: metadata, same bytes twice, wheels in use
	$(RELEASE)/cffconvert --validate
	PATH=$(abspath $(RELEASE)):$$PATH actionlint
	$(RELEASE)/python release/build_wheels.py --output build/again
	for file in dist/*; do cmp $$file build/again/$${file#dist/} || exit 1; done
	$(RELEASE)/python release/run_kernels.py
	$(RELEASE)/python release/try_install.py --lowest $(firstword $(PYTHONS))
	$(RELEASE)/python release/try_install.py $(lastword $(PYTHONS))

clean:  ## remove .venv and what the tools left
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
