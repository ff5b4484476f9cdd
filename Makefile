# Each target sets up .venv by itself; nothing else is needed than make and Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: quickstart test lint bench install clean
.DEFAULT_GOAL := help

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(READY) ## .venv with bnsweep and everything it needs, pinned by constraints.txt

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray,cluster,s3,gcs,azure,service,dev]'
	@touch $(READY)

quickstart: $(READY) ## train and perturb small networks on real digits; about a minute
	$(BIN)/bnsweep run quickstart --store stores/quickstart
	$(BIN)/bnsweep report --store stores/quickstart --sweep quickstart --out out/quickstart.html

# In the order of the files: sorted by the number of their tests, those with a few long ones come last, on one core.
test: $(READY) ## all tests, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## one table of speeds, each beside its baseline
	$(BIN)/python -m tests.bench

clean: ## remove the virtual environment and caches
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
