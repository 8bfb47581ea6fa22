# Everything sets itself up: a fresh machine needs Python 3.11 (with venv) and make, nothing else.
PYTHON ?= python3
PYTHON2 ?= python2.7
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
KEYSTONE := .venv-keystone/.ready
ZONES  ?= 3
ENGINE ?= embedded

.PHONY: demo test lint types unit system sim bench bench-registry gen clean sim-gossip bench-gossip fuzz
.PHONY: bench-glance bench-outage interop-pike interop-glance screenshots lock
.DEFAULT_GOAL := help

help:            ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# What exactly is installed, by the hash of each file, where those are known; elsewhere by the pins they were made of.
LOCKED := $(shell $(PYTHON) -c 'import platform as p, sys; print("deploy/hashes.txt" if (sys.version_info[:2], p.system(), p.machine(), p.libc_ver()[0]) == ((3, 11), "Linux", "x86_64", "glibc") else "constraints.txt")')

# Two steps, so that next month's installation is this month's.
$(READY): pyproject.toml constraints.txt deploy/hashes.txt
	@$(PYTHON) -c 'import sys; sys.exit("make: Python 3.11 or newer is needed, %s is %d.%d: set PYTHON=" % (sys.executable, *sys.version_info[:2]) if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCKED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# A real Keystone for the tests, in an environment of its own: its requirements do not go together with ours.
$(KEYSTONE): tests/clients/keystone.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

demo: $(READY)   ## three zones on this machine: discover, register, lose the registry, go on, heal; ENGINE=postgresql
	$(BIN)/zoned demo --zones $(ZONES) --engine $(ENGINE)

test: lint types unit system  ## everything CI runs

lint: $(READY)   ## style and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

unit: $(READY)   ## tests without daemon processes
	$(BIN)/pytest -q -m "not system"

system: $(READY) $(KEYSTONE) ## tests with real daemon processes on loopback
	$(BIN)/pytest -q -m system --durations=12

sim: $(READY)    ## long seeded simulation of the registry
	$(BIN)/python -m tests.sim --seeds 2000 --jobs 2
	$(BIN)/python -m tests.sim --profile pilot --seeds 200 --jobs 2
	$(BIN)/python -m tests.sim --seeds 500 --writes
	$(BIN)/python -m tests.sim --seeds 200 --outage

sim-gossip: $(READY) ## tables of the gossip simulation, half an hour
	$(BIN)/python -m tests.gossip.tables --full --write bench/results/gossip-simulation.md

bench-gossip: $(READY) ## zoned beside serf on this machine, about a quarter of an hour
	$(BIN)/python -m bench.gossip --write bench/results/gossip.md

bench: $(READY)  ## lookups and writes beside nginx and etcd (a quarter of an hour): bench/results/speed.md
	$(BIN)/python -m bench.speed

bench-registry: $(READY) ## figures of the registry (half an hour): bench/results/registry.md
	$(BIN)/python -m bench.registry

bench-glance: $(READY) ## zoned beside a real Glance on PostgreSQL, a quarter of an hour: bench/results/glance.md
	$(BIN)/python -m bench.glance

interop-pike: $(READY) ## a real Glance 15 (needs Python 2.7, PYTHON2=) with zoned as its registry
	$(BIN)/python -m tests.clients.pike --python $(PYTHON2)

interop-glance: $(READY) ## move out of a real Glance 33: import, integers, shadow, streams; two minutes
	$(BIN)/python -m tests.clients.glance33

fuzz: $(READY)   ## a million datagrams and much else against every reader of outside bytes, about ten minutes
	$(BIN)/python -m tests.fuzz --count 200000 --datagrams 1000000

bench-outage: $(READY) ## figures of an outage, some minutes: bench/results/outage.md
	$(BIN)/python -m bench.outage

screenshots: $(READY)  ## pictures of the status page for the README (as root on Debian: installs chromium): docs/images
	$(BIN)/python -m tests.browser.screenshots

gen: $(READY)    ## write the generated documents anew
	$(BIN)/python -m conf.reference

lock: $(READY)   ## hashes and licences anew, after constraints.txt was changed (needs the network)
	$(BIN)/python deploy/lock.py

clean:           ## remove the virtual environment and caches
	rm -rf $(VENV) $(dir $(KEYSTONE)) .mypy_cache .ruff_cache .pytest_cache .hypothesis
