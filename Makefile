# Two commands do all set-up: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# onnxruntime and onnxruntime-gpu overwrite each other: take the one that fits the machine.
RUNTIME := $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,server)
GPU_RUNTIME := 1.31.1
PIP := $(BIN)/python -m pip --disable-pip-version-check
CHECKED := streamer model train proto benchmarks tests docs

.PHONY: help demo test check train-setup wheel lock clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: .venv/serve.stamp ## set up, start the server, stream a call, show running predictions
	$(BIN)/python -m streamer.demo

test: .venv/train.stamp check ## set up, run everything CI runs
	$(BIN)/python -m pytest --numprocesses 2

check: .venv/train.stamp ## style, types, architecture, documentation
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy --strict --explicit-package-bases benchmarks
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

train-setup: .venv/train.stamp ## what training, tests and benchmarks need (torch: 5 GB)

wheel: .venv/bin/python ## build dist/voicecohort-*.whl: server, client, protocol files
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .

lock: .venv/train.stamp ## write the versions installed now into constraints.txt
	$(PIP) freeze --exclude-editable | grep -v '^-e' > constraints.txt
	echo 'onnxruntime-gpu==$(GPU_RUNTIME)' >> constraints.txt

clean: ## remove the environment and caches
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv .venv

.venv/serve.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[$(RUNTIME)]'
	touch $@

# pip, not uv: torch and torchaudio are known to install together this way.
.venv/train.stamp: .venv/serve.stamp pyproject.toml constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable '.[$(RUNTIME),tracing,train,bench,dev]'
	# model and train are in no package: a checkout's environment finds them from any folder.
	$(BIN)/python -c 'import site; open(site.getsitepackages()[0] + "/checkout.pth", "w").write("$(CURDIR)\n")'
	touch $@
