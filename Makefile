# `make help` lists what there is.

VENV ?= .venv
RUN = . $(VENV)/bin/activate &&

.PHONY: help setup check test bench

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: ## make the environment with all extras
	sh launch/setup.sh test,check

check: ## format, lint, types, layers, spelling, shell scripts
	sh launch/setup.sh check
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) lint-imports --config setup.cfg
	$(RUN) codespell
	$(RUN) shellcheck launch/*.sh .ci/run

test: ## every test, cheapest first
	sh launch/test.sh

bench: ## block floats, then the default run at 32 ranks
	sh launch/setup.sh test
	$(RUN) python benchmarks/block_float.py
	$(RUN) python benchmarks/default_run.py
