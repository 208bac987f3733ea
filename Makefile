PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint format find-lr compare clean

help: ## list what can be done
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv and install everything but the TPU set

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[dev,launchers,loggers]'
	touch $(STAMP)

demo: $(STAMP) ## draw synthetic photographs, train 5 folds, compare (about 5 minutes)
	$(RUN) -m dr.train
	$(RUN) -m dr.compare
	@echo "Pictures: curves.png in each folder under outputs/; the synthetic photographs lie in outputs/.cache/synthetic-*/train"

test: $(STAMP) ## run the test suite
	$(RUN) -m pytest

test-slow: $(STAMP) ## run the tests that take long
	$(RUN) -m pytest -m slow

lint: $(STAMP) ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(STAMP) ## mend what ruff can mend
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

find-lr: $(STAMP) ## try learning rates on the demo, draw find_lr.png
	$(RUN) -m dr.find_lr

compare: $(STAMP) ## compare the runs under outputs/
	$(RUN) -m dr.compare

clean: ## remove .venv and caches; outputs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
