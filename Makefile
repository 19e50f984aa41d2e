# `make` alone lists the targets. Everything runs in .venv; nothing outside this folder is touched.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
INSTALLED := .venv/.installed
# The first of these that runs and is new enough makes .venv; `make setup PYTHON=...` chooses another.
PYTHON ?= python3.11 python3

.PHONY: help setup demo test check slow format

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## create .venv with the pinned dependencies (once)

demo: setup  ## train a small network on real digits, optimize it, write report and bundle
	$(BIN)/burnish demo

test: setup check  ## make check, then every test but the slow ones
	$(BIN)/pytest

check: setup  ## ruff, mypy and the architecture test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_architecture.py tests/test_architecture_rules.py

slow: setup  ## the tests that take minutes
	$(BIN)/pytest -m slow

format: setup  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	@chosen=; \
	for python in $(PYTHON); do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then chosen=$$python; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "Burnish needs Python 3.11 or newer; tried: $(PYTHON). Try: make setup PYTHON=/path/to/python" >&2; \
	  exit 1; \
	fi; \
	echo "Setting up .venv with $$chosen ($$($$chosen --version))"; \
	$$chosen -m venv .venv
	@echo "Installing the pinned dependencies: about 2 GB on disk, one to five minutes"
	@$(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off \
	  --constraint constraints.txt --editable '.[dev,examples]' \
	  | awk '/^(  Downloading|  Using cached|Processing|Installing collected)/ {print "  " $$1, $$2, $$3, $$4; fflush()}'
	@touch $@
	@echo "Ready: $(BIN)/burnish --help"
