# Set-up and the everyday commands. `make search` and `make test` do all set-up themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_TORCH_INDEX = $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL),)

.DEFAULT_GOAL := help
.PHONY: help check-machine install search test lint format bench clean

help: check-machine
	@echo 'make install   set up .venv with everything, pinned'
	@echo 'make search    search the best LARNN on human activities, with a private MongoDB'
	@echo 'make test      all tests'
	@echo 'make lint      ruff, mypy, import-linter'
	@echo 'make bench     speed against torch.nn.LSTM'

check-machine:
	@sh search/check_machine.sh $(PYTHON)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory check-machine
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX_URL),$(BIN)/pip install -q -c constraints.txt $(PIP_TORCH_INDEX) torch)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

install: $(STAMP)

search: $(STAMP)
	$(BIN)/larnn-search run --preset quick --study quick

test: $(STAMP)
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m benchmarks.layers

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
