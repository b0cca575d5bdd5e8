# make train   set up, then train on the simulated clips (a minute after set-up)
# make test    set up, then run every notebook and every fast test, in two processes; the last table says what could not be run here
# make lab     set up, then open the notebooks in JupyterLab
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
DATA ?= synthetic
PRESET ?= dmsil_kappa
OUT ?= runs/$(DATA)-$(PRESET)-$(shell date +%Y%m%d-%H%M%S)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: train test test-slow lab real bench gpu docs browser soak fuzz notebooks pages clean
.DEFAULT_GOAL := train

# The environment is made once for each change of what it is made from.
.venv/.user: settings.ini setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[text]'
	touch $@

.venv/.dev: .venv/.user
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[text,dev]'
	touch $@

train: .venv/.user
	$(BIN)/dmsil train --data $(DATA) --preset $(PRESET) --out $(OUT)

# One thread a process: two processes with two threads each wait for one another. WORKERS=0 runs all in one, OPTIONS goes to pytest.
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(OPTIONS)
test test-slow fuzz: export OMP_NUM_THREADS = 1
test: .venv/.dev
	$(PYTEST) -m "not slow"

# Every notebook in a browser, and experiments that need minutes.
test-slow: .venv/.dev
	$(PYTEST) -m slow

lab: .venv/.dev
	$(BIN)/jupyter lab --notebook-dir . index.ipynb

# Three presets, simple baselines and posterior labels on real clips, into results/real.json; goes on where it stopped.
real: .venv/.dev
	$(BIN)/python tools/real.py

# Speed and memory beside MMSA, which gets an environment of its own (.venv-mmsa), into results/benchmark.json; half an hour.
bench: .venv/.user
	$(BIN)/python tools/benchmark.py --threads 1

# What a GPU has to show (the pages' GPU cells, agreement with the CPU, waiting, speed, memory), into results/gpu.json; eight minutes.
gpu: .venv/.user
	$(BIN)/python tools/gpu.py

.venv/.docs: .venv/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[text,dev,docs,browser]'
	touch $@

# The notebooks as a site, in _docs/html, made without a network.
docs: .venv/.docs
	$(BIN)/python tools/docs.py

# Every notebook in JupyterLab and every page of the site, in Chromium (Debian's package chromium).
browser: docs
	$(BIN)/python tools/browser.py

# Kills, full disks and folders without write permission, into results/faults.json.
soak: export OMP_NUM_THREADS = 1
soak: .venv/.dev
	$(BIN)/python tools/soak.py

# The property tests on cases that are drawn anew, where `make test` always has the same; SEED=… repeats a run. Then damaged, lying
# and hostile files, into results/faults.json.
fuzz: SEED := $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))
fuzz: .venv/.dev
	@echo "seed $(SEED): make fuzz SEED=$(SEED) repeats this run"
	$(PYTEST) -m hypothesis --hypothesis-profile random --hypothesis-seed $(SEED) || { echo "repeat with: make fuzz SEED=$(SEED)"; exit 1; }
	$(BIN)/python tools/fuzz.py

# Everything that is made from the notebooks: modules, stored outputs, README.md.
notebooks: .venv/.dev
	nbdev_export
	$(BIN)/python tools/execute.py
	$(MAKE) pages

pages: .venv/.dev
	$(BIN)/python tools/claims.py
	nbdev_export
	nbdev_clean
	$(BIN)/python tools/readme.py

clean:
	rm -rf .venv .venv-mmsa build dist *.egg-info
