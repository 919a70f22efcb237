# `make demo` and `make test` each set everything up and then do their work; both are safe to repeat.
#
#   make demo     the whole line on scikit-learn's digits: a teacher, a student, a verdict (runs/demo/)
#   make test     ruff, ruff format, mypy --strict, pytest
#   make lint     the first three of these
#   make bench    how fast EdgeKD itself is (pytest-benchmark)
#   make fuzz     every door that outside bytes come through, 10,000 executions each (docs/hostile.md)
#   make gate-power  how often the latency gate is wrong here, in five minutes (runs/gate-power/)
#   make cifar    the CIFAR-10 example in full (runs/cifar10/; needs EDGEKD_DATA, hours on two cores)
#   make gpu      the GPU suite, where there is an NVIDIA GPU (docs/results/<gpu>.md)
#   make litert   the packages that write .tflite files, in a folder of their own in the cache
#   make browser  Debian's chromium, chromium-driver, git-lfs and openssh-server, which some tests want (as root)
#   make wheel    dist/edgekd-*.whl
#   make clean    removes the environment, built wheels and caches; never a run
#
# Python 3.11 or 3.12: the first of python3, python3.11, python3.12 that is one; PYTHON=python3.12 make demo chooses.
#
# torch: on Linux the package index's default build is the CUDA build (several GB). The CPU build serves here:
#   PIP_EXTRA_INDEX_URL=<the CPU index that pytorch.org's install page gives> make demo
# constraints.txt pins the version, not the build, so either satisfies it. To change the build: make clean, then make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?=
VENV := .venv
STAMP := $(VENV)/edgekd-installed
RUN := $(VENV)/bin/python -m

.PHONY: demo test lint format bench fuzz gate-power cifar gpu litert browser wheel clean setup

demo: setup
	@$(VENV)/bin/edgekd demo

test: lint
	@$(RUN) pytest

lint: setup
	@$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: setup
	@$(RUN) ruff check --fix .
	$(RUN) ruff format .

bench: setup
	@$(RUN) pytest bench --benchmark-only

fuzz: setup
	@$(VENV)/bin/python tests/fuzz/fuzz_all.py

# A folder for each run: trials of other code are never mixed with these.
gate-power: setup
	@out=runs/gate-power/$$(date +%Y%m%d-%H%M%S)
	$(VENV)/bin/python bench/gate_power run --mode short --out "$$out"
	$(VENV)/bin/python bench/gate_power report "$$out" --out "$$out"

cifar: setup
	@$(VENV)/bin/edgekd run examples/cifar10/recipe.yaml --out runs/cifar10

gpu: setup
	@$(VENV)/bin/python bench/gpu/run.py --out docs/results

litert: setup
	@$(RUN) edgekd_litert.environment

browser:
	@missing=
	for program in chromedriver chromium git-lfs /usr/sbin/sshd; do command -v "$$program" >/dev/null || missing=1; done
	if [ -n "$$missing" ]; then
	    apt-get update -qq
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	        chromium chromium-driver git-lfs openssh-server
	fi

wheel: setup
	@$(RUN) build --wheel --no-isolation --outdir dist

clean:
	@rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

# What the environment is made from, as two digests: which Python in which folder (an editable install names it), and
# what is installed. Contents, not dates: a branch switched back and forth installs nothing.
define WANTED
import hashlib, json, os, sys, tomllib
with open("pyproject.toml", "rb") as f:
    project = tomllib.load(f)
with open("constraints.txt") as f:
    constraints = f.read()
place = [sys.version, os.getcwd()]
content = [project["build-system"], project["project"], project["tool"]["hatch"], constraints]
print(*(hashlib.sha256(json.dumps(x).encode()).hexdigest() for x in (place, content)))
endef
export WANTED

# The stamp goes first and is written last: a set-up that was killed starts over, from pip's cache.
setup:
	@python=
	for candidate in $(if $(PYTHON),"$(PYTHON)",$(VENV)/bin/python python3 python3.11 python3.12); do
	    if "$$candidate" -I -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
	        python=$$("$$candidate" -I -c 'import os, sys; print(os.path.realpath(sys.executable))')
	        break
	    fi
	done
	if [ -z "$$python" ]; then
	    echo "edgekd: $(or $(PYTHON),python3) is not Python 3.11 or 3.12: name one, e.g. PYTHON=python3.12 make $(MAKECMDGOALS)" >&2
	    exit 1
	fi
	wanted=$$("$$python" -I -c "$$WANTED")
	read_stamp() { [ -x $(VENV)/bin/python ] && cat $(STAMP) 2>/dev/null || true; }
	if [ "$$(read_stamp)" = "$$wanted" ]; then exit 0; fi
	# One set-up at a time: another terminal's, or one that outlived its make, may be at work.
	if command -v flock >/dev/null; then
	    exec 9<Makefile
	    flock -n 9 || { echo "edgekd: another set-up is running; waiting for it" >&2; flock 9; }
	fi
	have=$$(read_stamp)
	if [ "$$have" = "$$wanted" ]; then exit 0; fi
	if ! "$$python" -I -c 'import ensurepip, venv' 2>/dev/null; then
	    version=$$("$$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	    echo "edgekd: $$python cannot make virtual environments: on Debian and Ubuntu, apt install python$$version-venv" >&2
	    exit 1
	fi
	rm -f $(STAMP)
	if [ "$${have% *}" != "$${wanted% *}" ]; then
	    echo "edgekd: setting up $(VENV) with $$("$$python" --version) (once; minutes)" >&2
	    rm -rf $(VENV)
	    "$$python" -m venv $(VENV)
	else
	    echo "edgekd: bringing $(VENV) up to date" >&2
	fi
	export PIP_DISABLE_PIP_VERSION_CHECK=1
	$(RUN) pip install -c constraints.txt hatchling editables
	$(RUN) pip install -c constraints.txt --no-build-isolation -e ".[dev]"
	echo "$$wanted" >$(STAMP)
