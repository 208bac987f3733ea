PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TPU_VENV := .venv-tpu
TPU_STAMP := $(TPU_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-browser test-tpu lint format find-lr compare clean

help: ## list what can be done
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## make .venv and install everything but the TPU set

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[dev,launchers,loggers,search]'
	touch $(STAMP)

demo: $(STAMP) ## draw synthetic photographs, train 5 folds, compare (about 5 minutes)
	$(RUN) -m dr.train
	$(RUN) -m dr.compare
	@echo "Pictures: curves.png in each folder under outputs/; the synthetic photographs lie in outputs/.cache/synthetic-*/train"

test: $(STAMP) ## run the test suite
	$(RUN) -m pytest

test-slow: $(STAMP) ## run the tests that take long
	$(RUN) -m pytest -m slow

test-browser: $(STAMP) ## run the tests of the HTML report, in Chromium (CHROMIUM=path of it)
	CHROMIUM="$(CHROMIUM)" $(RUN) -m pytest -m browser tests/browser

test-tpu: $(TPU_STAMP) ## run the tests of accel=tpu without one, in .venv-tpu
	PJRT_DEVICE=CPU CPU_NUM_DEVICES=1 $(TPU_VENV)/bin/python -m pytest tests/tpu
	PJRT_DEVICE=CPU CPU_NUM_DEVICES=4 $(TPU_VENV)/bin/python -m pytest tests/tpu

$(TPU_STAMP): pyproject.toml constraints-tpu.txt
	$(PYTHON) -m venv $(TPU_VENV)
	$(TPU_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(TPU_VENV)/bin/python -m pip install --quiet -c constraints-tpu.txt -e '.[tpu]' \
		pytest pytest-timeout hypothesis
	touch $(TPU_STAMP)

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

clean: ## remove .venv, .venv-tpu and caches; outputs/ stays
	rm -rf $(VENV) $(TPU_VENV) .pytest_cache .mypy_cache .ruff_cache build dist
