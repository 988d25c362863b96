# Everything a fresh machine needs: Python 3.11+ with venv and pip, git and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The compilers for a GPU and a TPU that are not there; see benchmarks/ahead_of_time.py.
AOT := build/aot
OUT ?= runs
WORKERS ?= 2

export JAX_PLATFORMS ?= cpu
export STABJAX_AOT := $(abspath $(AOT))

.PHONY: demo test test-slow doctest lint check aot bench clean

demo: $(VENV)/.demo ## train every arm of the ctm comparison and write its page
	$(BIN)/stabjax compare ctm --out $(OUT)

test: $(VENV)/.dev ## the default test suite
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/.dev aot ## the tests marked slow
	STABJAX_TEST_HASTE=0 $(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile

doctest: $(VENV)/.dev ## the examples in the README and in public docstrings
	$(BIN)/python -m pytest --doctest-modules stabjax --doctest-glob=README.md README.md

lint: $(VENV)/.dev ## style, types, and the floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

check: test lint doctest test-slow ## all of it

aot: $(AOT)/.installed ## compilers for programs that are only compiled, not run

bench: $(VENV)/.dev ## times, as interleaved ratios
	$(BIN)/python benchmarks/step_time.py

clean:
	rm -rf $(VENV) build dist

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[arc]'
	touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.demo

# Beside the environment, not in it: JAX looks for plugins in what it can import.
$(AOT)/.installed: $(VENV)/.dev
	version=$$($(BIN)/python -c 'import jax; print(jax.__version__)') && \
	$(BIN)/python -m pip install --quiet --no-deps --target $(AOT) --upgrade \
	  "jax-cuda12-plugin==$$version" "jax-cuda12-pjrt==$$version" libtpu
	touch $@
