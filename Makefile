# Two commands do all the set-up: `make quickstart` and `make test`. Each makes its environment from pinned versions.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: quickstart test lint clean

$(VENV)/.installed: setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[test,analysis]"
	touch $@

quickstart: $(VENV)/.installed  ## Train six small models on generated stories, evaluate them, and write the page that compares them.
	env -u OMP_NUM_THREADS $(BIN)/hf-tti sweep recipes/quickstart
	env -u OMP_NUM_THREADS $(BIN)/hf-tti evaluate runs/quickstart/*-seed42 --reference runs/quickstart/baseline-seed42
	$(BIN)/hf-tti report runs/quickstart --out reports/quickstart

test: $(VENV)/.installed  ## Run the tests on two cores.
	$(BIN)/python -m pytest -n 2 $(TESTS)

lint: $(VENV)/.installed  ## Style, without changing a file.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build *.egg-info
