# make demo    age the sample photo with the shipped model in an environment of its own
# make test    linters, types and the whole suite in a development environment
# make clean   remove both environments and what they made
# PYTHON=python3.12 make ...  uses another interpreter

PYTHON ?= python3
DEMO := .venv-demo
DEV := .venv
PIP := -m pip install --quiet --disable-pip-version-check
CONSTRAINTS := constraints.txt
SETUP := setup.cfg pyproject.toml $(CONSTRAINTS)
FOLDERS := core runtime calibration train export
FILES := $(sort $(shell find $(FOLDERS) -type f -not -path '*/__pycache__/*' -not -name '*.pyc'))

.PHONY: demo test check lint types suite dev clean FORCE

demo: $(DEMO)/.ready
	$(DEMO)/bin/edgeage age docs/samples/astronaut.jpg \
		--bundle models/edge64.agebundle --out demo-output --force

# A plain installation, as a user has it; made again when a file of the package changes. setuptools
# would take files that are gone from build/lib; what else is in build/ belongs to the other environment.
$(DEMO)/.ready: $(SETUP) $(FILES)
	$(PYTHON) -m venv $(DEMO)
	rm -rf build/lib build/bdist.*
	$(DEMO)/bin/python $(PIP) ".[litert]" --constraint $(CONSTRAINTS)
	rm -rf build/lib build/bdist.*
	touch $@

test: check suite

check: lint types

lint: $(DEV)/.ready
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .

types: $(DEV)/.ready
	$(DEV)/bin/mypy -p edgeage

suite: $(DEV)/.ready
	$(DEV)/bin/python -m pytest

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
	rm -rf $(DEMO) $(DEV) demo-output build dist edgeage.egg-info
