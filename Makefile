# Set-up and the everyday commands. `make search` and `make test` do all set-up themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_TORCH_INDEX = $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL),)

.DEFAULT_GOAL := help
.PHONY: help check-machine install search notebooks test test-compose chaos secrets lint format bench bench-cuda bench-queue bench-search clean

help: check-machine
	@echo 'make install   set up .venv with everything, pinned'
	@echo 'make search    search the best LARNN on human activities, with a private MongoDB'
	@echo 'make notebooks which settings win, in JupyterLab'
	@echo 'make test      all tests'
	@echo 'make secrets   passwords for docker compose up, made once'
	@echo 'make test-compose  build the image and try docker-compose.yml'
	@echo 'make lint      ruff, mypy, import-linter'
	@echo 'make bench     speed against torch.nn.LSTM'
	@echo 'make bench-cuda  the same on a GPU, against cuDNN'
	@echo 'make bench-queue  speed of the queue'
	@echo 'make bench-search  is the search any good: against Hyperopt, Optuna, random search'
	@echo 'make chaos     break everything for ten minutes: nothing may be lost'

# What pip cannot bring: Python with venv, and the two system libraries of the bundled mongod.
check-machine:
	@missing=; \
	command -v $(PYTHON) >/dev/null || missing="$$missing python3"; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ "$$(uname -s)" = Linux ] && [ -z "$$LARNN_MONGO_URI$$LARNN_MONGOD" ] && ! command -v mongod >/dev/null; then \
	  libraries=$$(PATH="$$PATH:/sbin:/usr/sbin" ldconfig -p); \
	  case "$$libraries" in *libcurl.so.4*) ;; *) missing="$$missing libcurl4" ;; esac; \
	  case "$$libraries" in *libssl.so.3*) ;; *) missing="$$missing libssl3" ;; esac; \
	fi; \
	if [ -n "$$missing" ]; then \
	  echo "This machine lacks:$$missing" >&2; \
	  echo "On Debian or Ubuntu: apt-get install$$missing" >&2; exit 1; \
	fi; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "larnn-search needs Python 3.11 or newer, found $$($(PYTHON) -V): set PYTHON=python3.11" >&2; exit 1; }

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory check-machine
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX_URL),$(BIN)/pip install -q --no-deps -c constraints.txt $(PIP_TORCH_INDEX) torch)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

install: $(STAMP)

search: $(STAMP)
	$(BIN)/larnn-search run --preset quick --study quick

notebooks: $(STAMP)
	$(BIN)/pip install -q -c constraints.txt -e '.[notebook]'
	$(BIN)/jupyter lab notebooks

# Two processes, a file of tests at a time: half of the time goes into starting and waiting.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

test-compose: $(STAMP)
	$(BIN)/pytest -m compose tests/compose

# The folder keeps other users of this machine out; within, MongoDB's own user must be able to read.
SECRETS_DIR ?= secrets
secrets:
	@mkdir -p $(SECRETS_DIR) && chmod 700 $(SECRETS_DIR)
	@for name in mongo_root_password worker_password reader_password notebook_token; do \
	  file=$(SECRETS_DIR)/$$name; [ -s $$file ] && continue; \
	  od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > $$file && chmod 444 $$file || exit 1; \
	done
	@echo "passwords and the notebook's token are in $(SECRETS_DIR)/"

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

bench-cuda: $(STAMP)
	$(BIN)/python -m benchmarks.cuda

bench-queue: $(STAMP)
	$(BIN)/python -m benchmarks.queue

bench-search: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.search.compare

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
