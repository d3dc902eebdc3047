# Set-up, demo and tests, each from a fresh clone: `make help` lists the targets.
#
# Everything is installed into .venv. A step is done when its stamp exists; a stamp's name holds the
# hash of the files that the step reads, so a changed requirement is installed by the next command.
# PYTHON=python3.11 chooses the Python of a new .venv; a sourced ROS 2 (ROS_DISTRO) is used instead
# of the ROS 2 wheels.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-evaluation setup-engines setup-training setup-test oracle demo check test-fast test lint lock clean

VENV := .venv
BIN := $(VENV)/bin
ROS := $(or $(ROS_DISTRO),wheels)
R := requirements
# An apt ROS 2 needs numpy 1.x, which the lock file does not hold.
CONSTRAINTS := $(R)/$(if $(ROS_DISTRO),ros-apt,constraints).txt

# A call from within a Python that runs on the ROS 2 wheels: ours may be another one.
ifdef _ROS_WHEELS_BOOTSTRAP_COMPLETE
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

JOBS ?= auto
DURATIONS := --durations 15 --durations-min 1
# Where PYTEST_ARGS chooses tests of one of the two parts, the other finds none (pytest's code 5).
SOME = $(if $(PYTEST_ARGS),|| test $$? = 5)

stamp = $(VENV)/.setup/$(1)-$(ROS)-$(shell cat $(2) | sha256sum | cut -c1-12)
VENV_STAMP := $(VENV)/.setup/venv-$(ROS)
RUNTIME_FILES := $(CONSTRAINTS) $(addprefix $(R)/,tools.txt runtime.txt ros.txt) setup.py setup.cfg package.xml
INTERFACE_FILES := $(R)/constraints.txt $(R)/ros-build.txt $(wildcard $(R)/ros/*.* mtl_perception/interfaces/*/msg/*)
RUNTIME := $(call stamp,runtime,$(RUNTIME_FILES))
INTERFACES := $(call stamp,interfaces,$(INTERFACE_FILES))
EVALUATION := $(call stamp,evaluation,$(CONSTRAINTS) $(R)/evaluation.txt)
TRAINING := $(call stamp,training,$(CONSTRAINTS) $(R)/training.txt)
LINT := $(call stamp,lint,$(CONSTRAINTS) $(R)/lint.txt)
TEST := $(call stamp,test,$(CONSTRAINTS) $(R)/test.txt)
ORACLE := .cache/oracle
ORACLE_STAMP := $(ORACLE)/.$(shell sha256sum < $(R)/oracle.txt | cut -c1-12)
ORACLE_LEFT_OUT := certifi charset-normalizer gmplot idna imageio networkx opencv-python plyfile requests tifffile

# Installs with one line a download.
pip = $(BIN)/python -m pip install --progress-bar off -c $(CONSTRAINTS) $(1) 2>&1 | sed -uE \
	'/^ *(Requirement|Collecting|Looking|Preparing|Successfully)|\.metadata|is ignored/d; s/^(Installing collected packages).*/\1 .../'
done = mkdir -p $(@D) && rm -f $(VENV)/.setup/$(firstword $(subst -, ,$(@F)))-* && touch $@

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(RUNTIME) $(INTERFACES) ## what the vehicle needs (no torch)
ifdef PYTHON
	@grep -q "version = $$($(PYTHON) -c 'import platform as p; print(p.python_version())')" $(VENV)/pyvenv.cfg \
	    || { echo "set-up: $(VENV) has another Python than $(PYTHON); run 'make clean' first" >&2; exit 1; }
endif

setup-evaluation: setup $(EVALUATION) ## and what replay, reports and the demo need

setup-engines: setup ## and what int8 engines are built with (nncf, 0.25 GB)
	@$(call pip,-r $(R)/engines.txt)

setup-training: setup-evaluation $(TRAINING) ## and what training/ needs (torch, 6 GB)

setup-test: setup-training $(LINT) $(TEST) oracle ## and what the tests need

oracle: $(ORACLE_STAMP) ## the official BDD100K toolkit and TrackEval, in an environment of their own

demo: setup-evaluation ## drive a bag through the live node; BAG=, VIDEO= or IMAGES= for your own
	@$(BIN)/mtl-perception demo $(if $(BAG),--bag '$(BAG)') $(if $(VIDEO),--video '$(VIDEO)') \
	    $(if $(IMAGES),--images '$(IMAGES)') $(DEMO_ARGS)

check: setup-evaluation $(LINT) ## style, types and prose; needs no torch
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/python test/support/prose.py

lint: check

test-fast: setup-evaluation $(TEST) ## the tests that need neither torch nor a live ROS and take no long
	@$(BIN)/python -m pytest -m 'not slow and not ros and not gpu' --ignore test/training $(DURATIONS) $(PYTEST_ARGS)

# What talks through a live ROS is timed by its own clocks: it runs alone, after the rest.
test: check setup-test ## style, types and all tests; PYTEST_ARGS='-k letterbox' for some
	@$(BIN)/python -m pytest -m 'not ros' -n $(JOBS) --dist loadfile $(DURATIONS) $(PYTEST_ARGS) $(SOME)
	@$(BIN)/python -m pytest -m ros $(DURATIONS) $(PYTEST_ARGS) $(SOME)

lock: $(VENV_STAMP) ## complete the locks in requirements/ after a change; LOCK_ARGS=--upgrade for new versions
	@$(BIN)/python -m venv .cache/lock && .cache/lock/bin/pip install --quiet 'uv>=0.5,<1'
	@.cache/lock/bin/uv pip compile --quiet --universal --python-version 3.10 --no-annotate \
	    --custom-compile-command 'make lock' $(LOCK_ARGS) --output-file $(R)/constraints.txt \
	    $(addprefix $(R)/,tools.txt runtime.txt evaluation.txt engines.txt ros.txt ros-build.txt training.txt lint.txt test.txt)
	@.cache/lock/bin/uv pip compile --quiet --universal --python-version 3.10 --no-annotate \
	    --custom-compile-command 'make lock' $(LOCK_ARGS) --output-file $(R)/oracle.txt \
	    $(addprefix --no-emit-package ,$(ORACLE_LEFT_OUT)) --override $(R)/oracle-override.txt $(R)/oracle.in
	@git --no-pager diff --stat -- $(R)/constraints.txt $(R)/oracle.txt

clean: ## remove .venv, build folders and caches (not runs/ and demo/)
	rm -rf $(VENV) .cache build install log dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV_STAMP):
	@$(R)/bootstrap.sh $(VENV) $(ROS) $(PYTHON)
	@$(call pip,-r $(R)/tools.txt)
	@$(done)

$(RUNTIME): | $(VENV_STAMP)
	@echo '==> runtime requirements (about 0.5 GB)'
	@$(call pip,$(addprefix -r $(R)/,tools.txt runtime.txt) $(if $(ROS_DISTRO),,-r $(R)/ros.txt))
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(done)

$(INTERFACES): | $(RUNTIME)
	@echo '==> vision_msgs, foxglove_msgs and tf2_msgs'
	@$(if $(ROS_DISTRO),$(BIN)/python -c 'import vision_msgs.msg',$(BIN)/python $(R)/ros/build_interfaces.py)
	@$(done)

$(EVALUATION): | $(RUNTIME)
	@echo '==> evaluation requirements (about 0.1 GB)'
	@$(call pip,-r $(R)/evaluation.txt)
	@$(done)

$(TRAINING): | $(EVALUATION)
	@echo '==> training requirements (about 6 GB, several minutes)'
	@$(call pip,-r $(R)/training.txt)
	@$(done)

$(LINT): | $(RUNTIME)
	@$(call pip,-r $(R)/lint.txt)
	@$(done)

$(TEST): | $(RUNTIME)
	@echo '==> test requirements'
	@$(call pip,-r $(R)/test.txt)
	@$(done)

$(ORACLE_STAMP): | $(VENV_STAMP)
	@echo '==> the official BDD100K toolkit (about 0.4 GB)'
	@rm -rf $(ORACLE) && $(BIN)/python -m venv --without-pip $(ORACLE)
	@$(BIN)/python -m pip --python $(ORACLE)/bin/python install --quiet --no-deps -r $(R)/oracle.txt \
	    2>&1 | sed -u '/is ignored/d'
	@touch $@
