# SPDX-License-Identifier: Apache-2.0
# Two commands on a fresh machine: `make test-vm` runs the main job, `make test` the tests.
# Both do all the set-up themselves; `make setup` does only that.
#
#   IMAGES=bookworm,...   guest images to run on (default: the default image)
#   ARGS="..."            passed on to pytest (test-vm, test) or to the benchmark

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_VENV := .venv-docs
IMAGES ?=
ARGS ?=
image_options = $(if $(IMAGES),--image $(IMAGES))

.PHONY: help setup venv test-vm test test-quick test-installed test-faults test-kernels test-red test-qemus test-qemu-faults test-kvm detection test-hostile test-audit fuzz soak load clocks docs lint lint-ci bench clean system

setup: $(INSTALLED)  ## install what is missing, and build the guest image
	$(BIN)/fpr-harness image build $(image_options)

help:  ## list the targets
	@echo "make TARGET [IMAGES=NAME,...] [ARGS='...']"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: $(INSTALLED)  ## the virtual environment alone

# Says what is missing, and installs it only as root or through sudo.
system:
	@PYTHON=$(PYTHON) sh .ci/system-packages

$(INSTALLED): requirements.lock pyproject.toml | system
	@echo "setup: making $(VENV) from requirements.lock"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# make itself exits with 2 whatever a recipe's status was, so the status is said.
test-vm: $(INSTALLED)  ## the main job: run the default scenarios
	@$(BIN)/pytest scenarios -m default $(image_options) $(ARGS) || { status=$$?; \
	echo "make $@: pytest exited with $$status (1 a FAIL, 2 bad usage, 69 an ERROR or a MISS, 77 all skipped); make exits with 2" >&2; \
	exit $$status; }

# Guests first, and three at a time: they mostly wait for reporting passes, and the tests that need
# none fill the gaps.
TESTS := tests/faults tests/vm tests/unit tests/fuzz tests/kernels/test_kernels_catalogue.py
test: $(INSTALLED)  ## test the harness itself, with guests
	$(BIN)/pytest $(TESTS) -m "not more_faults" -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

# What needs no guest and starts no second process of ours: at most two minutes.
test-quick: $(INSTALLED)  ## the tests that need no guest: two minutes
	$(BIN)/pytest tests/unit -m "not whole_command" -n 4 --dist worksteal $(ARGS)

# A wheel, installed into an environment of its own and run outside the checkout, with a guest.
test-installed: $(INSTALLED)  ## use a wheel outside the checkout, with a guest
	.ci/installed $(ARGS)

# Every fault of the catalogue, also those that `make test` leaves out for the time they take; goes
# on where an interrupted run stopped, and writes docs/detection.md.
test-faults: $(INSTALLED)  ## break reclaim in every known way; each must be found
	FPR_FAULTS_RESUME=1 $(BIN)/pytest tests/faults -n 2 $(ARGS); status=$$?; \
	PYTHONPATH=tests/support $(BIN)/python tests/faults/detection.py && exit $$status

# Guest kernels broken on purpose, built from Debian's source with objects kept in the cache, and the
# clean one; goes on where an interrupted run stopped, and writes its part of docs/detection.md.
test-kernels: $(INSTALLED)  ## build guest kernels with defects; each must be found
	$(BIN)/python tests/kernels/kernel_tree.py
	$(BIN)/pytest tests/kernels -n 2 $(ARGS); status=$$?; \
	PYTHONPATH=tests/support $(BIN)/python tests/kernels/kernel_detection.py && exit $$status

# Real guests that mean harm: endless answers, false claims, a flooded console.
test-hostile: $(INSTALLED)  ## boot guests that mean harm
	$(BIN)/pytest tests/hostile -n 2 -rA $(ARGS)

# `fpr-harness audit` of VMs started by hand: each state brought about, each advice followed.
test-audit: $(INSTALLED)  ## audit VMs started by hand
	$(BIN)/pytest tests/audit -n 2 --dist loadfile -rA $(ARGS)

# What no honest guest, host or file says, for every reader: SECONDS each. With atheris installed in
# the virtual environment, the mutations are guided by coverage.
SECONDS ?= 20
fuzz: $(INSTALLED)  ## feed malformed input to every reader, SECONDS= each
	$(BIN)/python tests/fuzz/fuzz.py --seconds $(SECONDS) $(ARGS)

# Every scenario with the fields that its file says it must not pass with.
test-red: $(INSTALLED)  ## run every scenario's negative control
	$(BIN)/pytest tests/red -n 2 -rA $(ARGS)

# The default scenarios on QEMUs of several Debian suites, fetched into the cache.
QEMUS ?= bookworm,trixie,sid
test-qemus: $(INSTALLED)  ## run the default scenarios on QEMUS=
	$(BIN)/pytest scenarios -m default --qemu $(QEMUS) $(image_options) $(ARGS)
	$(BIN)/pytest tests/vm/test_vm_recording.py

# Every kind of broken discard on QEMUs of other suites, an older one and the newest.
FAULT_QEMUS ?= bullseye sid
test-qemu-faults: $(INSTALLED)  ## break reclaim on FAULT_QEMUS=
	status=0; for qemu in $(FAULT_QEMUS); do \
		FPR_FAULTS_QEMU=$$qemu FPR_FAULTS_RESUME=1 $(BIN)/pytest tests/faults -m elsewhere -n 2 $(ARGS) \
		|| status=$$?; done; exit $$status

# The default scenarios, injected faults and endings under KVM, in a host that QEMU emulates;
# ARGS="-k auto" is the part of it that CI runs.
test-kvm: $(INSTALLED)  ## KVM in a host that QEMU emulates
	$(BIN)/pytest tests/kvm -rA $(ARGS)

# docs/detection.md again, from what test-faults, test-qemu-faults and test-kvm have seen of faults.
detection: $(INSTALLED)  ## write docs/detection.md from what was seen of faults
	PYTHONPATH=tests/support $(BIN)/python tests/faults/detection.py

$(DOCS_VENV)/.installed: requirements-docs.lock
	@echo "making $(DOCS_VENV) from $<"
	$(PYTHON) -m venv --clear $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# The generated documents, with what RESULTS="results/... ..." say of each scenario on each image,
# the JSON Schemas, the man page and the shell completions; then the site, in which every link and
# anchor must lead somewhere.
docs: $(INSTALLED) $(DOCS_VENV)/.installed  ## write what is generated, and the site in build/site
	$(BIN)/python -m harness.cli.make_docs docs $(RESULTS)
	$(BIN)/python -m harness.cli.make_schemas schemas
	$(BIN)/python -m harness.cli.make_manual share
	$(DOCS_VENV)/bin/sphinx-build -q -W --keep-going -n -b html -d build/doctrees docs build/site
	@echo "docs: build/site/index.html"

# What runners are told, without their network.
lint-ci: $(DOCS_VENV)/.installed  ## look for mistakes and holes in the workflows
	$(DOCS_VENV)/bin/zizmor --offline --quiet .github/workflows

# N clean runs on a busy host: what FAILs there is a false alarm.
N ?= 100
soak: $(INSTALLED)  ## look for false alarms in N= clean runs
	$(BIN)/python tests/soak/soak.py -n $(N) $(image_options) \
		--results results/soak-$$(date -u +%Y-%m-%dT%H-%M-%SZ) $(ARGS)

# Three invocations at once, with as many guests as the machine admits.
load: N = 200
load: $(INSTALLED)  ## run three invocations at once on a full machine
	$(BIN)/python tests/soak/load.py -n $(N) $(image_options) \
		--results results/load-$$(date -u +%Y-%m-%dT%H-%M-%SZ) $(ARGS)

# What the virtual clock says, beside the real one; ARGS="--seconds 420" for a part of it.
clocks: $(INSTALLED)  ## compare scenarios under both clocks; writes docs/clocks.md
	$(BIN)/python tests/clocks/clocks.py $(image_options) $(ARGS)

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)  ## measure how fast it is
	$(BIN)/python tests/bench/bench.py $(ARGS)

clean:  ## remove what make and the tests have made here
	rm -rf $(VENV) $(DOCS_VENV) build results *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
