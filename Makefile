# Every target makes its own .venv; nothing else has to be installed but Python >= 3.11.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: compare docs test test-jax test-slow test-processes test-error-rates test-live test-browser wheel lint types clean

compare: $(VENV)/package
	$(BIN)/gelu-jax compare compare_activations

docs: $(VENV)/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: $(VENV)/dev
	$(BIN)/pytest -n 2 --dist loadfile

# What depends on jax most, for an interpreter that has another version of it
test-jax: $(VENV)/dev
	$(BIN)/pytest -n 2 --dist worksteal tests/activations tests/nn tests/elsewhere tests/test_linen.py \
		tests/training/test_trainer.py tests/training/test_mesh.py tests/training/test_optimizer.py

test-slow: $(VENV)/dev
	$(BIN)/pytest -n 2 --dist loadfile -m slow

# The slow ones of several devices, processes, workers and killed runs
test-processes: $(VENV)/dev
	$(BIN)/pytest -n 3 --dist worksteal -m slow \
		tests/training/test_mesh.py tests/training/test_memory_plan.py \
		tests/training/test_distributed.py tests/training/test_tokens.py tests/runs/test_faults.py \
		tests/runs/test_signals.py --deselect tests/runs/test_signals.py::test_interrupted_at_a_hundred_moments

# What verdicts and ladders promise, simulated: thousands of comparisons of known truth
test-error-rates: $(VENV)/dev
	$(BIN)/pytest -n 2 --dist worksteal -m slow tests/compare/test_error_rates.py tests/compare/test_scaling.py

test-browser: $(VENV)/dev
	$(BIN)/pytest -m browser

test-live: $(VENV)/dev
	$(BIN)/pip install --quiet --editable ".[peers]"
	$(BIN)/pytest -m live

# The wheel as a newcomer installs it, in an environment of its own
wheel: $(VENV)/dev
	tests/wheel.sh $(BIN)/python

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev
	$(BIN)/pyright

clean:
	rm -rf $(VENV)

$(VENV)/package: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[lab]"
	touch $@

$(VENV)/dev: $(VENV)/package
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@
