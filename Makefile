# `make help` lists the targets. Recipes build what they need: .venv (PyTorch projects), .venv-keras (lung).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.SECONDARY:

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.10 python3; do \
	$$python -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)

snet     := snet_neck_ln
lung     := lung_nodule_nasnet
retroln  := retroln_nnunet
focusnet := focusnet_v2
sepnet   := sepnet
PROJECTS := snet lung retroln focusnet sepnet

# What makes the raw cohort ready for train.py, in order (modules of the project).
prepare_snet := process_data.data_process_lymph_node process_data.data_parser
prepare_sepnet := preprocess
prepare_focusnet := data_preprocess.data_preprocess data_preprocess.crop_data
prepare_retroln := crop
prepare_lung := preprocess table slice_idx

venv = $(if $(filter lung,$(1)),.venv-keras,.venv)
python = $(call venv,$(1))/bin/python

# What each step is given: the raw cohort and PREPARE_ARGS are the first one's, ARGS are train.py's.
prepared = $(if $(PREPARED),--prepared-dir "$(PREPARED)")
args_crop_data = $(CROP_ARGS)
args_slice_idx = $(SPLIT_ARGS)
first = $(filter $(firstword $(prepare_$(1))),$(2))
prepare_args = $(prepared) $(if $(first),$(if $(DATA),--data-dir "$(DATA)") $(PREPARE_ARGS),$(args_$(2:data_preprocess.%=%)))
ifneq ($(and $(ARGS),$(filter prepare-%,$(MAKECMDGOALS))),)
$(error $(MAKECMDGOALS) takes PREPARE_ARGS=..., not ARGS=...)
endif
ifneq ($(and $(filter train-% crossval-%,$(MAKECMDGOALS)),$(PREPARE_ARGS)$(CROP_ARGS)$(SPLIT_ARGS)),)
ifeq ($(DATA),)
$(error PREPARE_ARGS, CROP_ARGS and SPLIT_ARGS are for preparing: give DATA=folder, too)
endif
endif

.PHONY: help demo demo-all test-all test-faults bench compare clean \
	$(foreach verb,prepare train crossval score predict test faults demo installed,$(PROJECTS:%=$(verb)-%))

help:
	@echo "make demo              phantom cohort -> prepare -> train -> test -> predict for snet, under 5 minutes"
	@echo "make demo-<project>    the same for one of: $(PROJECTS); demo-all: for each"
	@echo "make test-all          every test, and lint"
	@echo "make lint              rules and types of the code (ruff, mypy), a minute at most"
	@echo "make prepare-<project> DATA=folder [PREPARE_ARGS=...] raw cohort to training cases"
	@echo "make train-<project> [DATA=folder] [PREPARE_ARGS=...] [GPUS=n] [ARGS=...]  prepare DATA if given, then train"
	@echo "   PREPARED=folder is for both; CROP_ARGS (focusnet), SPLIT_ARGS (lung) are for crop_data.py, slice_idx.py"
	@echo "make crossval-<project> [DATA=folder] [FOLDS='1 2'] [ARGS=...]  the same for every fold; one table of all patients"
	@echo "make score-<project> [ARGS=...]                       score held-out cases: CSV, pictures, report.html"
	@echo "make predict-<project> ARGS='--input CT --output MASK --checkpoint ...'    (or two folders)"
	@echo "make test-<project>    its tests"
	@echo "make test-faults       bad files, full disks, kills while preparing, training, scoring, predicting: counts"
	@echo "make bench             benchmarks, as ratios"
	@echo "make compare DATA=open-kbp [ARGS='--minutes 90']  networks for organs on real patients at equal cost: hours"
	@echo "make clean             remove the environments"
	@echo "ARGS=--help shows the options of a script"

demo: demo-snet
demo-all: $(PROJECTS:%=demo-%)

$(PROJECTS:%=installed-%): installed-%:
	@$(MAKE) -s $(call venv,$*)/.installed-$($*)

# Exit code 1 of a step: some cases were skipped and named; the others are ready.
$(PROJECTS:%=prepare-%): prepare-%: installed-%
	@$(foreach step,$(prepare_$*),$(call python,$*) -m $($*).$(step) $(call prepare_args,$*,$(step)) \
		|| [ $$? = 1 ] || exit 2;)

$(PROJECTS:%=train-%): train-%: installed-% $(if $(DATA),prepare-%)
	@$(call python,$*) -m $($*).train $(prepared) $(ARGS) $(if $(GPUS),--devices $(GPUS))

$(PROJECTS:%=crossval-%): crossval-%: installed-% $(if $(DATA),prepare-%)
	@$(call python,$*) -m $($*).crossval $(prepared) $(ARGS) $(if $(FOLDS),--folds $(FOLDS)) \
		$(if $(PARALLEL),--parallel $(PARALLEL))

$(PROJECTS:%=score-%): score-%: installed-%
	@$(call python,$*) -m $($*).test $(ARGS)

$(PROJECTS:%=predict-%): predict-%: installed-%
	@$(call python,$*) -m $($*).predict $(ARGS)

$(PROJECTS:%=demo-%): demo-%: installed-%
	@$(call python,$*) -m $($*).demo $(ARGS)

$(PROJECTS:%=test-%): test-%: installed-%
	@$(MAKE) -s $(call venv,$*)/.installed-tests
	$(call python,$*) -m pytest tests/$($*) $(ARGS)

# Two at a time, in one thread each, the longest first; what they print comes when they end.
JOBS := 2
at_once = OMP_NUM_THREADS=1 $(MAKE) -k -j$(JOBS) --no-print-directory $(if $(filter output-sync,$(.FEATURES)),-Otarget)
test-all: $(PROJECTS:%=installed-%) .venv/.installed-tests .venv-keras/.installed-tests
	@$(at_once) test-sepnet test-focusnet test-snet test-lung test-retroln test-shared lint
	@$(at_once) $(patsubst %,faults-%,$(filter-out retroln,$(FAULTS))) ARGS=--quick

# Bad files and settings, full disks, kills for what prepares, trains, scores and predicts: counts, and what was not
# answered clearly. test-all leaves out retroln: each of its trainings starts nnU-Net, which takes minutes in all.
FAULTS := $(PROJECTS)
test-faults:
	@$(MAKE) -k --no-print-directory $(FAULTS:%=faults-%)

$(PROJECTS:%=faults-%): faults-%: installed-%
	@$(call python,$*) -m tests.faults.run $(ARGS) $*

.PHONY: test-shared
test-shared: installed-snet .venv/.installed-tests
	.venv/bin/python -m pytest tests/shared_data tests/shared_results tests/shared_torch tests/test_repository.py $(ARGS)

# What reads the code without running it: rules and types, in pyproject.toml. mypy knows the libraries of .venv; Keras and
# TensorFlow, which have next to no types, it takes as they are.
.PHONY: lint
lint: $(filter-out installed-lung,$(PROJECTS:%=installed-%)) .venv/.installed-tests
	@.venv/bin/ruff check .
	@.venv/bin/mypy

bench: $(PROJECTS:%=installed-%) .venv/.installed-tests
	@.venv/bin/python -m tests.bench.run $(ARGS)
	@.venv-keras/bin/python -m tests.bench.run $(ARGS)

compare: $(filter-out installed-lung,$(PROJECTS:%=installed-%)) .venv/.installed-tests
	@.venv/bin/python -m tests.bench.real_oar --data $(or $(DATA),$(error DATA=open-kbp: name a clone of OpenKBP)) \
		--runs-dir $(or $(RUNS),runs/compare) $(ARGS)

clean:
	rm -rf .venv .venv-keras

# Environments. A stamp file records what is installed; it is made again when a requirement changes.
.venv/.installed-tests .venv-keras/.installed-tests: %/.installed-tests: \
		tests/requirements.txt tests/requirements-torch.txt constraints.txt | %/.made
	@echo "installing what the tests need"
	cd tests && ../$*/bin/python -m pip install -q -r requirements$(if $(filter .venv,$*),-torch).txt
	@touch $@

.venv/.installed-%: %/requirements.txt constraints.txt pyproject.toml | .venv/.made
	@echo "installing what $* needs"
	cd $* && ../.venv/bin/python -m pip install -q -r requirements.txt
	@touch $@

.venv-keras/.installed-%: %/requirements.txt constraints.txt pyproject.toml | .venv-keras/.made
	@echo "installing what $* needs"
	cd $* && ../.venv-keras/bin/python -m pip install -q -r requirements.txt
	@touch $@

.venv/.made .venv-keras/.made:
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 with venv is needed: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@echo "building $(@D) with $(PYTHON) (a few minutes, once)"
	$(PYTHON) -m venv --clear $(@D)
	@touch $@
