# Every target makes its own .venv; nothing else has to be installed but Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: compare test test-slow test-live test-browser lint types clean

compare: $(VENV)/package
	$(BIN)/gelu-jax compare configs/compare_activations.yaml

test: $(VENV)/dev
	$(BIN)/pytest -n 2 --dist loadfile

test-slow: $(VENV)/dev
	$(BIN)/pytest -n 2 --dist loadfile -m slow

test-browser: $(VENV)/dev
	$(BIN)/pytest -m browser

test-live: $(VENV)/dev
	$(BIN)/pip install --quiet ".[peers]"
	$(BIN)/pytest -m live

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev
	$(BIN)/pyright

clean:
	rm -rf $(VENV)

$(VENV)/package: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/dev: $(VENV)/package
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@
