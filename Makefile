# make demo    age the sample photo with the shipped model in an environment of its own
# make test    linters, types and the whole suite in a development environment
# make demo-page   what the browser page (edgeage demo) and its tests need from npm
# make conformance    golden vectors through every engine: this machine, C, arm64 under qemu, other Pythons, browser
# make bench   the shipped networks through every tool that is installed, as ratios with intervals
# make clean   remove the environments and what they made
# PYTHON=python3.12 make ...  uses another interpreter

PYTHON ?= python3
DEMO := .venv-demo
DEV := .venv
TFLITE := .venv-tflite-runtime
PIP := -m pip install --quiet --disable-pip-version-check
CONSTRAINTS := constraints.txt
# What conformance fetches and builds, and a command that takes the golden vectors through a browser
CONFORMANCE := $(or $(EDGEAGE_CONFORMANCE),$(HOME)/.cache/edgeage/conformance)
BROWSER ?= $(if $(shell command -v chromium),$(DEV)/bin/python -m edgeage.demo.headless)
NODE := .demo-node
SETUP := setup.cfg pyproject.toml $(CONSTRAINTS)
FOLDERS := core runtime demo calibration train export
FILES := $(sort $(shell find $(FOLDERS) -type f -not -path '*/__pycache__/*' -not -name '*.pyc'))

.PHONY: demo demo-page test check lint types suite tflite-runtime conformance bench dev clean FORCE

demo: $(DEMO)/.ready
	$(DEMO)/bin/edgeage age docs/samples/astronaut.jpg \
		--from 30-39 --bundle models/edge64.agebundle --out demo-output --force

# A plain installation, as a user has it; made again when a file of the package changes. setuptools
# would take files that are gone from build/lib; what else is in build/ belongs to the other environment.
$(DEMO)/.ready: $(SETUP) $(FILES)
	$(PYTHON) -m venv $(DEMO)
	rm -rf build/lib build/bdist.*
	$(DEMO)/bin/python $(PIP) ".[litert]" --constraint $(CONSTRAINTS)
	rm -rf build/lib build/bdist.*
	touch $@

# LiteRT.js into the user's cache folder, and axe-core for the tests. Without npm the tests of the page are
# skipped, and say so.
demo-page: $(DEV)/.ready
	@if command -v npm > /dev/null; then \
		$(DEV)/bin/edgeage demo --fetch && $(MAKE) --no-print-directory $(NODE)/.ready; \
	else echo 'demo-page: NOT RUN, there is no npm'; fi

$(NODE)/.ready: demo/package.json demo/package-lock.json
	mkdir -p $(NODE)
	cp demo/package.json demo/package-lock.json $(NODE)/
	cd $(NODE) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

test: check suite tflite-runtime

check: lint types

lint: $(DEV)/.ready
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .

types: $(DEV)/.ready
	$(DEV)/bin/mypy -p edgeage

suite: $(DEV)/.ready demo-page
	$(DEV)/bin/python -m pytest --numprocesses 2 --dist loadgroup

# The shipped engines in tflite-runtime 2.14, whose last wheel wants NumPy 1 and Python 3.11 at most.
tflite-runtime:
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
		$(MAKE) --no-print-directory $(TFLITE)/.ready && \
		$(TFLITE)/bin/python -m pytest tests/shipped; \
	else echo 'tflite-runtime: NOT RUN, it has no wheel for this Python (3.11 is the last)'; fi

$(TFLITE)/.ready: $(SETUP) constraints-tflite-runtime.txt $(FILES)
	$(PYTHON) -m venv $(TFLITE)
	rm -rf build/lib build/bdist.*
	$(TFLITE)/bin/python $(PIP) ".[tflite-runtime]" pytest \
		--constraint constraints-tflite-runtime.txt
	rm -rf build/lib build/bdist.*
	touch $@

conformance: $(DEV)/.ready demo-page
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
		$(MAKE) --no-print-directory $(TFLITE)/.ready; fi
	$(DEV)/bin/python tests/conformance/set_up.py '$(CONFORMANCE)' --browser '$(BROWSER)' \
		--tflite-runtime '$(CURDIR)/$(TFLITE)/bin/python'
	$(DEV)/bin/edgeage conformance models/edge64.agebundle --photo docs/samples/astronaut.jpg \
		--places '$(CONFORMANCE)/places.json' --out '$(CONFORMANCE)/conformance.json' --force

bench: $(DEV)/.ready
	$(DEV)/bin/python benchmarks/peer_latency.py

dev: $(DEV)/.ready

# An editable installation in setuptools' strict mode: changed files count at once, and a new or a
# removed file changes .files, which installs again.
$(DEV)/.ready: $(SETUP) $(DEV)/.files
	$(DEV)/bin/python $(PIP) --editable ".[all,dev]" --config-settings editable_mode=strict \
		--constraint $(CONSTRAINTS)
	touch $@

$(DEV)/.files: $(DEV)/bin/python FORCE
	@echo '$(FILES)' | cmp -s - $@ || echo '$(FILES)' > $@

$(DEV)/bin/python:
	$(PYTHON) -m venv $(DEV)

clean:
	rm -rf $(DEMO) $(DEV) $(TFLITE) $(NODE) demo-output build dist edgeage.egg-info
