# Every target makes its own .venv; nothing else has to be installed but Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: compare test test-all test-live test-browser lint types clean

compare: .venv/package
	$(BIN)/gelu-jax compare configs/compare_activations.yaml

test: .venv/dev
	$(BIN)/pytest -n 2 --dist loadgroup

test-all: .venv/dev
	$(BIN)/pytest -n 2 --dist loadgroup -m "not browser and not live"

test-browser: .venv/dev
	$(BIN)/pytest -m browser

test-live: .venv/dev
	$(BIN)/pip install --quiet ".[peers]"
	$(BIN)/pytest -m live

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/dev
	$(BIN)/pyright

clean:
	rm -rf .venv

.venv/package: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/dev: .venv/package
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@
