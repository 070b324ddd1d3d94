# Thin: each target is one to three commands. PYTHON chooses the interpreter of the environment, WORKERS how many
# processes run the tests.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(sort $(wildcard plugins/*/pyproject.toml))
# A module's tests stay in one process, for they share what is costly to make; processes of one thread each.
SHARED := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Bytecode is kept, asserts rewritten by pytest included: compiling anew is a third of what the quick tests take.
TESTS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 FERCORE_REQUIRE_EXT=1 $(BIN)/python -m pytest $(SHARED)
READY := $(VENV)/.ready

.PHONY: venv demo test test-fast soak lint docs links bench wheel sanitize clean

venv: $(READY)

$(READY): pyproject.toml constraints.txt setup.py $(PLUGINS) $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt setuptools wheel ninja pybind11 torch
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[test,lint,docs]' $(patsubst %/pyproject.toml,-e %,$(PLUGINS))
	touch $(READY)

demo: venv
	$(BIN)/fercore compare source_only la_cmfer --seeds 0,1,2 --jobs 2

test: venv
	$(TESTS) --cov --cov-report=term --durations=10

test-fast: venv
	$(TESTS) -q -m "not slow"

soak: venv
	FERCORE_REQUIRE_EXT=1 $(BIN)/python -m pytest -m soak --timeout=7200

lint: venv
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: venv
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build
	@echo docs/_build/index.html

links: venv
	$(BIN)/python -m sphinx -b linkcheck -q docs docs/_build/links

# The kernels go into fercore's wheel; FERCORE_BUILD_CUDA=1 adds those of CUDA where nvcc is.
wheel: venv
	FERCORE_REQUIRE_EXT=1 $(BIN)/python -m build --no-isolation --outdir dist .
	for plugin in $(patsubst %/pyproject.toml,%,$(PLUGINS)); do $(BIN)/python -m build --no-isolation --wheel --outdir dist $$plugin || exit 1; done
	ls -l dist

bench: venv
	$(BIN)/python -m pytest bench --benchmark-only
	$(BIN)/python -m bench.ops.ratios
	$(BIN)/python -m bench.input.speed
	$(BIN)/python -m bench.whole_step
	$(BIN)/python -m bench.start
	$(BIN)/python -m bench.retrieval.ratios

sanitize: venv
	csrc/sanitize $(BIN)/python

clean:
	rm -rf $(VENV) build dist *.egg-info plugins/*/*.egg-info docs/_build docs/generated docs/reference/generated
