# make demo: set everything up, then train on the embedded digits.  make test: set everything up, then run all tests.
PYTHON ?= python3
BIN := .venv/bin
# With no NVIDIA driver, PyTorch's own CPU builds; pip goes on with its usual sources where that index is out of reach.
CPU_INDEX := --timeout 10 --extra-index-url https://download.pytorch.org/whl/cpu
TORCH_INDEX ?= $(if $(wildcard /proc/driver/nvidia)$(shell command -v nvidia-smi),,$(CPU_INDEX))
PIP_INSTALL := $(BIN)/python -m pip install -c constraints.txt
CXX_FILES := $(shell find cpp $(wildcard cuda) -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')
BUILD_FILES := pyproject.toml $(wildcard CMakeLists.txt cmake/* cpp/CMakeLists.txt cpp/bindings/* cuda/CMakeLists.txt cuda/src/*) $(filter-out cpp/tests/% cuda/tests/%,$(CXX_FILES))
CMAKE := $(BIN)/cmake -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja

.PHONY: demo test lint sanitize
demo: .venv/unitrans
	$(BIN)/unitrans train --domain vision --objective mim

test: .venv/unitrans
	build=$$(ls -td build/cp3*/ | head -n 1) && $(BIN)/cmake --build $$build && \
		$(BIN)/ctest --test-dir $$build --output-on-failure --no-tests=error
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

lint: .venv/unitrans
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

sanitize: .venv/unitrans
	$(CMAKE) -B build/sanitize -DUNITRANS_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize
	$(BIN)/ctest --test-dir build/sanitize --output-on-failure --no-tests=error

.venv/torch: constraints.txt
	@tools/preflight $(PYTHON)
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --no-deps --retries 0 -c constraints.txt $(TORCH_INDEX) torch && touch $@

.venv/unitrans: .venv/torch $(BUILD_FILES) $(shell find unitrans -type d -not -name __pycache__)
	$(PIP_INSTALL) scikit-build-core pybind11 cmake ninja
	$(PIP_INSTALL) --no-build-isolation -e '.[dev]' && touch $@
