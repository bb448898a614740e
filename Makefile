# Needs Python 3.11 or newer with pip, make and a package index; nothing else is assumed.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The first interpreter that is new enough; `make PYTHON=... demo` chooses another.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3 python; do \
	if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$name; break; fi; done)
# Further arguments of pytest: `make test ARGS="-k split"`.
ARGS ?=
# Below about 100 atoms one thread per process is fastest.
export OMP_NUM_THREADS := 1

# Packages to compare with; each has an environment of its own, because some cannot share one.
PEERS := nequip mace deepmd schnetpack pyg

.PHONY: help venv demo test test-slow test-gpu lint wheel readme peers peers-test peers-speed $(PEERS:%=peers-%) $(PEERS:%=peers-test-%)

help:
	@echo "make demo    the main job on the shipped models, and a page about it (.venv takes 8 GB)"
	@echo "make test    unit, physics and integration tests; make test-slow what takes minutes each, make test-gpu what needs CUDA"
	@echo "make lint    ruff and mypy"
	@echo "make wheel   dist/*.whl"
	@echo "make readme  write the measured tables of README.md and docs/ anew from benchmarks/results/"
	@echo "make peers   .peers/: other packages ($(PEERS)), 240 MB; make peers-test and peers-speed compare with them"

venv: $(VENV)/.installed-dev

demo: $(VENV)/.installed
	$(BIN)/openmm-mlbench demo -o demo
	@echo "The report lies at $(CURDIR)/demo/report.html"

# Two processes; a test file stays in one of them, so that what its tests share is made once.  In the order of
# collection, which has the long files of tests/integration first: xdist would begin with those of many tests.
test: venv
	$(BIN)/python -m pytest -m "not slow and not gpu and not peers" -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: venv
	$(BIN)/python -m pytest -m "slow and not gpu and not peers" -n 2 --dist loadfile $(ARGS)

# The index serves torch in its CUDA build; OpenMM's CUDA platform comes with the extra.
test-gpu: venv
	$(PIP) install -e '.[cuda12]'
	$(BIN)/python -m pytest -m gpu -ra $(ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A stale build/ would carry files into the wheel that have been removed since.
wheel: venv
	rm -rf build dist
	$(BIN)/python -m build --wheel

readme: $(VENV)/.installed
	$(BIN)/python benchmarks/render_readme.py
	$(BIN)/python benchmarks/findings.py

# What .venv lacks or has in another version, one folder per package, put before .venv on the path: torch,
# 7 GB, is there only once.
peers: $(PEERS:%=peers-%)

$(PEERS:%=peers-%): peers-%: .peers/%/.installed

.peers/%/.installed: tests/peers/%.txt | $(VENV)/.installed-dev
	rm -rf .peers/$*
	$(PIP) install --target .peers/$* --no-deps -r $<
	@touch $@

# Each writes what it measured into benchmarks/results/peers.json.
peers-test: $(PEERS:%=peers-test-%)

$(PEERS:%=peers-test-%): peers-test-%: .peers/%/.installed
	MLBENCH_PEER=$* PYTHONPATH=.peers/$* $(BIN)/python -m pytest -W ignore tests/peers $(ARGS)

# How fast their networks are beside ours; MACE has none of our seven.
SPEED_PEERS := nequip deepmd schnetpack pyg
peers-speed: $(SPEED_PEERS:%=peers-speed-%)

$(SPEED_PEERS:%=peers-speed-%): peers-speed-%: .peers/%/.installed
	MLBENCH_PEER=$* PYTHONPATH=.peers/$* $(BIN)/python benchmarks/peers_speed.py $*

# Some systems ship venv without its copy of pip: then the system's pip, which is assumed, fetches one.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer on the PATH; install one or give PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
		&& $(PYTHON) -m pip --python $(BIN)/python install pip; }

$(VENV)/.installed: pyproject.toml setup.py | $(BIN)/python
	$(PIP) install -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml setup.py | $(BIN)/python
	$(PIP) install -e '.[dev]'
	@touch $(VENV)/.installed $@
