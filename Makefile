# make demo | test | lint | docs | bench. Each sets up what it needs; .venv is made once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs bench
demo: .venv/installed
	$(BIN)/gaze-train experiment=demo

test: .venv/installed-dev
	-@bash scripts/install_vulkan.sh
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-dev
	$(BIN)/python -m pytest --doctest-modules gaze_torchrl tests/test_docs.py

bench: .venv/installed-dev
	-@bash scripts/install_vulkan.sh
	$(BIN)/python benchmarks/gaze_cost.py
	$(BIN)/python benchmarks/mining_cost.py
	$(BIN)/python benchmarks/clutter_fps.py
	$(BIN)/python benchmarks/maniskill_fps.py

# torch first: its CPU build comes with the pinned version, anything looser would pull gigabytes of CUDA.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
