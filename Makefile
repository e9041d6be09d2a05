# `make` lists the targets. ARGS= is handed on: make test ARGS="-k demo"

# The first that runs and is new enough; a name on the PATH may be a shim of nothing.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	echo $$python; break; fi; done)
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install memcached prometheus demo test test-aiobotocore test-aws test-published forks soak outage check wrk bench bench-docs pictures clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
	printf 'make %-14s %s\n' "$$name" "$$text"; done

install: $(STAMP) ## make .venv with everything that development needs

$(STAMP): pyproject.toml
	@python="$(PYTHON)"; if [ -z "$$python" ]; then \
	echo 'Python 3.11 or later is needed and was not found; if it has another name: make PYTHON=/path/to/python' >&2; \
	exit 1; fi; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	rm -rf $(VENV); "$$python" -m venv $(VENV) >/dev/null 2>&1; } || { \
	rm -rf $(VENV); \
	echo "$$python cannot make a virtual environment: it has no venv or no ensurepip module." >&2; \
	echo 'On Debian and Ubuntu: apt-get install python3-venv' >&2; \
	exit 1; }
	@echo 'Installing into $(VENV) ...'
	@$(BIN)/python -m pip install -qq --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install -qq --editable '.[demo]' --group dev
	@touch $@

# Of the shell, for one recipe line: fetch the package $(1), as root or with a sudo that asks for nothing, and say
# nothing. dnf and apk are tried for memcached alone, which the demo wants as well.
define fetch
if [ "$$(id -u)" = 0 ]; then may=env; \
elif sudo -n true >/dev/null 2>&1; then may='sudo -n env'; \
else may=; fi; \
if command -v brew >/dev/null; then brew install --quiet $(1); \
elif [ -z "$$may" ]; then :; \
elif command -v apt-get >/dev/null; then $$may apt-get -qq update; \
$$may DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $(1); \
elif [ $(1) != memcached ]; then :; \
elif command -v dnf >/dev/null; then $$may dnf -q -y install $(1); \
elif command -v apk >/dev/null; then $$may apk add -q $(1); \
fi >/dev/null 2>&1 </dev/null
endef

memcached: ## fetch memcached with the system's package manager, if it is absent
	@if command -v memcached >/dev/null; then exit 0; fi; \
	$(call fetch,memcached); \
	command -v memcached >/dev/null || \
	echo 'memcached is absent and could not be installed: the demo runs without it, its tests cannot. Install it by hand.' >&2

prometheus: ## fetch Prometheus with the system's package manager, if it is absent
	@if command -v prometheus >/dev/null && command -v promtool >/dev/null; then exit 0; fi; \
	$(call fetch,prometheus) || true

demo: install memcached ## measure a gallery before and after on a real S3 server, then serve it
	@$(BIN)/python -m presign_middleware demo $(ARGS)

test: install memcached prometheus ## run the tests, on several processors
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-aiobotocore: install memcached ## run its tests in an environment of its own: it asks for an older boto3
	@$(BIN)/python -m venv $(VENV)/aiobotocore
	@$(VENV)/aiobotocore/bin/python -m pip install -qq --upgrade 'pip>=25.1'
	@$(VENV)/aiobotocore/bin/python -m pip install -qq --editable '.[aiobotocore,testing]' --group test
	@$(VENV)/aiobotocore/bin/python -m pytest tests/test_aiobotocore.py tests/test_botocore.py $(ARGS)

test-aws: install ## ask a bucket on AWS the same: BUCKET=name [REGION=] [ROLE=arn:...] [ENDPOINT=]
	@$(BIN)/python -m tests.aws --bucket "$(BUCKET)" --region "$(REGION)" --role "$(ROLE)" \
	--endpoint "$(ENDPOINT)" $(ARGS)

test-published: install ## run the published suites of requests, httpx and urllib3 with hooks and without
	@$(BIN)/python -m tests.published $(ARGS)

forks: install memcached ## have forked children read a million entries, none of which may be another's
	@FORKED_READS=1000000 $(BIN)/python -m pytest tests/test_forks.py $(ARGS)

soak: install memcached ## run a fleet with sessions of seconds for some minutes: ARGS="--seconds 60"
	@$(BIN)/python -m tests.soak $(ARGS)

outage: install memcached ## have memcacheds fail in every way under the traffic of eight processes: ARGS="--seconds 3"
	@PYTHONPATH=tests $(BIN)/python -m outage $(ARGS)

check: install ## lint, formatting, types and layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

wrk: ## fetch the load generator of the benchmarks with the system's package manager, if it is absent
	@if command -v wrk >/dev/null; then exit 0; fi; \
	$(call fetch,wrk) || true

bench: install memcached wrk ## measure it beside its peers, in 10 minutes: ARGS="--quick", "--only load --json PATH"
	@$(BIN)/python -m pip install -qq --group bench
	@test -x $(VENV)/aiobotocore/bin/python || { \
	$(BIN)/python -m venv $(VENV)/aiobotocore && $(VENV)/aiobotocore/bin/python -m pip install -qq aiobotocore; }
	@$(BIN)/python -m tests.benchmarks $(ARGS)

bench-docs: install ## write the page "Performance" and the README's table from a run: JSON=path
	@$(BIN)/python -m pip install -qq --group bench
	@$(BIN)/python -m tests.benchmarks.document "$(JSON)"

pictures: install ## draw the pictures of the docs anew
	@$(BIN)/python docs/pictures/url_life.py
	@$(BIN)/python docs/pictures/dashboard.py

clean: ## remove .venv, builds and caches
	@rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
