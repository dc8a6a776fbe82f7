# make demo | test | test-all | test-latest | lint | docs | docs-full | bench | costs. Each sets up what it needs; .venv is made once.
PYTHON ?= python3
BIN := .venv/bin
TWO := -n 2 --dist loadfile --no-loadscope-reorder  # files side by side, in the order of tests/conftest.py

.PHONY: demo test test-all test-latest lint docs docs-full bench costs
demo: .venv/installed
	$(BIN)/gaze-train experiment=demo

test: .venv/installed-dev
	-@bash scripts/install_vulkan.sh
	-@bash scripts/install_browser.sh
	$(BIN)/python -m pytest $(TWO)

# And those that repeat what others cover in the main: before a release.
test-all: .venv/installed-dev
	-@bash scripts/install_vulkan.sh
	-@bash scripts/install_browser.sh
	$(BIN)/python -m pytest $(TWO) -m "thorough or not thorough"

# The newest versions that pyproject.toml admits, in an environment of their own: what will break next.
test-latest: .venv-latest/installed-dev
	-@bash scripts/install_vulkan.sh
	-@bash scripts/install_browser.sh
	.venv-latest/bin/python -m pytest $(TWO)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in docs/_build/html; with the tutorials' pictures, which takes ten minutes more: make docs-full.
docs: .venv/installed-dev
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

docs-full: .venv/installed-dev
	EXECUTE=1 $(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

# The smallest benchmark; docs/benchmark.md names the others.
bench: .venv/installed
	$(BIN)/gaze-bench run demo
	$(BIN)/gaze-bench report demo

costs: .venv/installed-dev
	-@bash scripts/install_vulkan.sh
	$(BIN)/python benchmarks/gaze_cost.py
	$(BIN)/python benchmarks/mining_cost.py
	$(BIN)/python benchmarks/clutter_fps.py
	$(BIN)/python benchmarks/maniskill_fps.py

# torch first, at one version: where pip finds a CPU build of it, anything looser would still pull gigabytes of CUDA.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv-latest/installed-dev: pyproject.toml
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/pip install --quiet --upgrade --editable ".[dev]"
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
