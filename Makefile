# The two commands of the README are `make features` and `make test`; both make .venv when it is missing. The first
# installs the core alone, which takes seconds; the others install the extras and the tools for developers into it.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CORE   := $(VENV)/.core
READY  := $(VENV)/.ready
# Python compiles the few modules that a run imports, when it imports them.
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
# Where Python may not keep what it compiles, each of the many processes of the tests would compile the libraries again.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n auto --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help features test soak long check docs site format bench clean

help:  ## Show what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | awk -F'|' '{printf "%-16s %s\n", $$1, $$2}'

$(CORE): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

$(READY): $(CORE)
	$(PIP) --editable '.[dev]'
	@touch $@

features: $(CORE)  ## Run the main job on sample_data and show a few rows of build/features.parquet
	@mkdir -p build
	$(BIN)/extembed run sample_data/spec.toml -o build/features.parquet
	@$(BIN)/python scripts/show.py build/features.parquet

test: $(READY)  ## Run the tests
	$(PYTEST)

soak: $(READY)  ## Run all tests, the long ones too
	$(PYTEST) --soak

long: $(READY)  ## Run the long tests that `make test` leaves out
	$(PYTEST) --soak -m soak

check: $(READY)  ## Lint, types, layers, and generated docs in step with the code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/docs.py --check

docs: $(READY)  ## Write the generated parts of docs/
	$(BIN)/python scripts/docs.py

site: $(READY)  ## Build the pages of docs/ into build/site
	$(BIN)/mkdocs build --strict --quiet

format: $(READY)  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)  ## Time both techniques on made data, the second against its peer
	$(BIN)/python benchmarks/aggregate.py
	$(BIN)/python benchmarks/dual.py

clean:  ## Remove what was built
	rm -rf build $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
