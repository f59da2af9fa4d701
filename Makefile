# Commands for using, checking and measuring sign_ext. `make help` lists them.
# All but gpu-check use .venv/, which is created by the first command that needs it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The interpreter that creates .venv (for gpu-check: the one that has torch).
PYTHON ?= python3
# Extra arguments for pip, the demo, pytest and gpu-check: make test PYTEST_ARGS="-k sign_update -x"
PIP_FLAGS ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=
GPU_CHECK_ARGS ?=
# Options of bench-networks, bench-calls, families and parity-attacks: make families BENCH_ARGS="--only vit swin"
BENCH_ARGS ?=
# Options of kernels (--update), wheels (--kinds cpu) and test-wheels (--pythons 3.12 3.13).
KERNELS_ARGS ?=
WHEELS_ARGS ?=
TEST_WHEELS_ARGS ?=
# Options of slices: --data-root is needed.
SLICES_ARGS ?=
# The folder for the JSON of the benchmarks and of gpu-check.
OUT ?= benchmarks/results
export OUT PYTHON PIP_FLAGS

VENV := .venv/bin
CPP_SOURCES = $(shell find csrc -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu')

.PHONY: help venv demo test test-all test-oldest lint format bench bench-networks bench-calls families \
	parity-attacks bench-attacks simulate-verdict slices gpu-check docs kernels wheels test-wheels constraints clean

help:  ## List these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

venv:  ## Create or repair .venv: pinned torch, the package (editable, native), test and lint tools
	@tools/venv.sh

demo: venv  ## Train, transform, retrain and evaluate on generated drawings; writes an HTML page (under 2 minutes)
	@OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-passive} $(VENV)/sign-ext demo $(DEMO_ARGS)

test: venv  ## Quick tests of every module: C++ under sanitizers (ctest), then Python (pytest)
	@tools/test.sh quick $(PYTEST_ARGS)

test-all: venv  ## All tests that can run on this machine, as in CI
	@tools/test.sh all $(PYTEST_ARGS)

test-oldest:  ## The core's tests with the oldest supported torch, in a separate environment
	@tools/test_oldest.sh $(PYTEST_ARGS)

lint: venv  ## Check with ruff (lint and format), import-linter, mypy and clang-format; changes nothing
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/lint-imports --no-cache --no-logo
	$(VENV)/mypy
	$(VENV)/mypy tools
	@echo "clang-format: $(words $(CPP_SOURCES)) files"
	@$(VENV)/clang-format --dry-run -Werror $(CPP_SOURCES)

format: venv  ## Format the sources with ruff and clang-format
	$(VENV)/ruff check --fix .
	$(VENV)/ruff format .
	$(VENV)/clang-format -i $(CPP_SOURCES)

bench: venv  ## Benchmark our backends against peers; prints ratios, writes $OUT/bench.json
	@mkdir -p build
	@$(VENV)/python -m pip install $(PIP_FLAGS) -q -c constraints.txt $$($(VENV)/python tools/requirements.py bench)
	$(VENV)/python -m pytest benchmarks --benchmark-json=build/bench-raw.json \
		--benchmark-columns=median,rounds $(PYTEST_ARGS)
	@$(VENV)/python tools/bench_table.py build/bench-raw.json --out "$$OUT/bench.json"

# They write a line after each network, and go on there when called again.
bench-networks: venv  ## Race ours against peers on twenty common networks; resumes (BENCH_ARGS="--only resnet50")
	$(VENV)/python benchmarks/network_sweep.py --out "$$OUT/networks.jsonl" $(BENCH_ARGS)

bench-calls: venv  ## What a call costs beside its steps, and what compiling takes; resumes
	$(VENV)/python benchmarks/call_cost.py --out "$$OUT/calls.jsonl" $(BENCH_ARGS)

families: venv  ## Which of fifty timm families compile, have islands or are refused, and parity; resumes
	$(VENV)/python benchmarks/family_sweep.py --out "$$OUT/families.jsonl" $(BENCH_ARGS)

parity-attacks: venv  ## Adversarial images and attributions against torchattacks and captum, in an environment of their own
	@tools/attack_peers.sh benchmarks/attack_parity.py --out "$$OUT/attack_parity.json" $(BENCH_ARGS)

bench-attacks: venv  ## Race PGD and integrated gradients against torchattacks and captum; prints ratios
	@mkdir -p build
	@tools/attack_peers.sh -m pytest benchmarks/test_attacks.py --benchmark-json=build/bench-attacks-raw.json \
		--benchmark-columns=median,rounds $(PYTEST_ARGS)
	@$(VENV)/python tools/bench_table.py build/bench-attacks-raw.json --out "$$OUT/attacks_cpu.json" \
		--command "make bench-attacks"

simulate-verdict: venv  ## Error and power of the rule that judges methods; writes docs/verdict_rule.md (10 minutes)
	$(VENV)/python tools/simulate_verdict.py --out docs/verdict_rule.md

slices: venv  ## Run the missing slices of docs/results/medium, an hour or more each; resumes (SLICES_ARGS="--data-root DIR --slices a:4-6")
	$(VENV)/python tools/run_slices.py $(SLICES_ARGS)

gpu-check:  ## On a machine with an NVIDIA GPU and torch: build, test, sanitize, measure (30 minutes; GPU_CHECK_ARGS="--part first" first)
	@$(PYTHON) tools/gpu_check.py --out "$$OUT" $(GPU_CHECK_ARGS)

docs: venv  ## Build the documentation as HTML in docs/_build/html: runs the tutorials, checks the links
	@$(VENV)/python -m pip install $(PIP_FLAGS) -q -c constraints.txt $$($(VENV)/python tools/requirements.py docs)
	$(VENV)/python -m sphinx -W --keep-going -b html -d docs/_build/doctrees docs docs/_build/html
	@$(VENV)/python tools/check_site.py docs/_build/html
	@echo "docs: open docs/_build/html/index.html"

kernels: venv  ## Compile every CUDA kernel and hold what it costs to build_tools/kernel_budget.csv; needs nvcc, no GPU
	$(VENV)/python -m build_tools.check_spills $(KERNELS_ARGS)

wheels: venv  ## Wheels for every Python and torch, CPU and (with nvcc) CUDA, and the sdist, in dist/; says their sizes
	@$(VENV)/python -m pip install $(PIP_FLAGS) -q -c constraints.txt $$($(VENV)/python tools/requirements.py wheels)
	$(VENV)/python tools/wheels.py --out dist $(WHEELS_ARGS)

test-wheels:  ## Try the wheels in dist/ in fresh environments: Pythons, torch versions, parity (TEST_WHEELS_ARGS="--pythons 3.12")
	@$(PYTHON) tools/try_wheels.py --dist dist $(TEST_WHEELS_ARGS)

constraints:  ## Refresh constraints.txt with the newest versions that pyproject.toml allows
	@$(PYTHON) tools/refresh_constraints.py

clean:  ## Remove build products, but keep .venv (the next command rebuilds the extension)
	rm -rf build dist docs/_build docs/learn ./*.egg-info sign_ext/*.so sign_ext/_build_info.json \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .venv/.sign-ext-installed
	find sign_ext python_tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +
