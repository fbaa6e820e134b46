# Two commands are the whole set-up: `make run` and `make test`. `make help` lists the rest.
SHELL := /bin/sh
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
export VENV PYTHON

.PHONY: help run worker test check fix test-clients bench assets messages screenshots migrations shell clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-14s %s\n", $$1, $$2 }'

run: ## install, fetch the default model, serve on http://127.0.0.1:8000 (PORT, DATA_DIR, DATABASE_URL, REDIS_URL, ENGINE)
	@.ci/install run
	@exec $(BIN)/python manage.py serve

worker: ## run long work outside the server, over Celery (REDIS_URL, DATABASE_URL, DATA_DIR as for the server)
	@.ci/install run
	@exec $(BIN)/celery -A console.celery worker --loglevel INFO

test: ## every test that needs no network but the package index
	@.ci/install dev
	@.ci/browser
	@.ci/services
	OMP_NUM_THREADS=1 $(BIN)/python -X dev -m pytest tests --ignore=tests/clients --ignore=tests/reliability -n logical --maxprocesses 4 --dist loadfile

check: ## format, lint, types, import contracts, migrations
	@.ci/install dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run

fix: ## format and repair what ruff can
	@.ci/install dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-clients: ## real client libraries, in environments of their own, against the real server
	@.ci/install dev
	$(BIN)/python -m pytest tests/clients

test-reliability: ## long runs: ten canaries under traffic, kill -9 in imports, attacks and floods (about 25 minutes; wants a machine of its own)
	@.ci/install dev
	@.ci/services
	$(BIN)/python -m pytest tests/reliability -s -p no:logging

bench: ## tokens/s served and offline, beside llama.cpp and transformers' own, in one run (about 40 minutes)
	@.ci/install dev
	$(BIN)/python -m inference.benchmark.peers.over_http
	$(BIN)/python -m inference.benchmark --shape smollm2-135m --peer transformers --json build/benchmark/offline.json

assets: ## build static/ from package.json, for developers of pages (needs node)
	npm install --no-save --ignore-scripts --no-audit --no-fund
	node static/build.mjs

messages: ## collect texts for translation into locale/, and compile them (needs GNU gettext)
	$(BIN)/python manage.py makemessages -l zh_Hans --no-location --no-obsolete --ignore .venv --ignore node_modules --ignore tests --ignore build
	$(BIN)/python manage.py compilemessages -l zh_Hans -v 0

screenshots: ## picture every room, light, dark, Chinese and on a phone, into docs/pictures (3 minutes)
	@.ci/install dev
	@.ci/browser
	$(BIN)/python -m tests.browser.screenshots

migrations: ## write migrations for changed models
	$(BIN)/python manage.py makemigrations

shell: ## Django's shell
	$(BIN)/python manage.py shell

clean: ## remove what was built; DATA_DIR stays
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
