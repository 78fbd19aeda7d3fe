# Everything sets itself up: a fresh machine needs Python 3.11 or newer, git, make and the package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PRETEND = $(if $(OPENAI_API_KEY)$(TOLLHOUSE_UPSTREAM)$(TOLLHOUSE_POLICY),,--pretend)

.PHONY: run test check real bench bench-quick schema clean

# A Debian without python3-venv gets it when we are root, and is told when we are not.
$(VENV)/ready: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11" >&2; exit 1; }
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { [ "$$(id -u)" = 0 ] && apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); } \
		|| { echo "python3 -m venv failed: on Debian, apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

run: $(VENV)/ready
	@$(BIN)/tollhouse serve --log-format console $(PRETEND)

test: $(VENV)/ready
	$(BIN)/python -m pytest -n auto

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

schema: $(VENV)/ready
	$(BIN)/tollhouse schema > policies/schema.json
	$(BIN)/tollhouse schema --readme README.md

real: $(VENV)/ready
	$(BIN)/python tests/real/run.py

bench: $(VENV)/ready
	$(BIN)/python bench/run.py

bench-quick: $(VENV)/ready
	$(BIN)/python bench/run.py --quick

clean:
	rm -rf $(VENV) .real .tools .state
