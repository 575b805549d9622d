# `make app` starts the page, `make test` runs every check, `make quick` those that take less than a
# minute together. All make the environment in .venv first, and only again when a requirements file
# changes.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: app test types tests quick clean

app: .venv/requirements.done
	$(BIN)/python app.py

test: .venv/requirements-dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	@$(MAKE) --no-print-directory -j 2 types tests

# mypy uses one core and the tests wait now and then, so they run beside each other.
types: .venv/requirements-dev.done
	$(BIN)/mypy

tests: .venv/requirements-dev.done
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal --cov=cft --cov=train \
		--cov-report=term:skip-covered --cov-fail-under=95

quick: .venv/requirements-dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -m "not slow"

# A stamp is written only after pip succeeded, so an interrupted installation is taken up again.
.venv/%.done: %.txt requirements.txt requirements-train.txt requirements-convert.txt requirements-score.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

clean:
	rm -rf .venv
