# Needs Python 3.11 or newer, git and make; everything else goes into .venv, on the first call.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup test docs reference report demo bench soak chaos examples gallery lint types format check clean

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

# The first of these that is new enough makes the environment; `make PYTHON=… setup` names another.
PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1: \2/p' Makefile

setup: $(VENV)/.dev ## make .venv with all that development needs

test: setup ## run all tests (those of the docs and of the tree too)
	$(PY) -m pytest -n logical --dist worksteal

docs: setup ## run the code blocks of README.md and docs/
	$(PY) -m pytest tests/test_docs.py

reference: setup ## write docs/reference.md anew from the docstrings
	PYTHONPATH=engine $(PY) docs/reference.py

report: setup ## write the report in docs/break-your-workflow.md anew
	PYTHONPATH=engine:sim:. $(PY) -m tests.sim.test_break_page

demo: $(VENV)/.cli ## kill a worker in the middle of a workflow and watch it go on
	$(PY) -m perdure demo

bench: setup ## measure throughput and latency on this machine
	$(PY) benchmarks/run.py

MINUTES ?= 1
JOBS ?= 2
soak: setup ## run the simulator's own scenarios under random faults: MINUTES=1 JOBS=2
	PYTHONPATH=engine:sim:. $(PY) -m perdure_sim soak tests/sim/scenes.py:SCENARIOS tests/sim/again.py:SCENARIOS \
	  --minutes $(MINUTES) --jobs $(JOBS) --keep-going --seed $(or $(SEED),$$(date +%s))

ROUNDS ?= 60
chaos: setup ## kill, stop and cut off workers, on SQLite and on PostgreSQL: ROUNDS=60
	$(PY) -m tests.chaos.kill --rounds $(ROUNDS) --workers 2 --seed $(or $(SEED),$$(date +%s))
	$(PY) -m tests.chaos.server --rounds $(ROUNDS) --seed $(or $(SEED),$$(date +%s))

examples: setup ## run each example (the gallery: make test), in a folder of its own
	@set -eu; root=$$PWD; count=0; \
	for file in $$(find examples -name '*.py' -not -path '*/gallery/*' | sort); do \
	  test=tests/examples/test_$$(basename "$$file"); \
	  if [ -f "$$test" ]; then run="-m pytest -qq -p no:cacheprovider"; else run=; test=$$file; fi; \
	  echo "== $$file"; folder=$$(mktemp -d); \
	  (cd "$$folder" && "$$root/$(PY)" -W error $$run "$$root/$$test" </dev/null); \
	  rm -rf "$$folder"; count=$$((count + 1)); \
	done; \
	[ $$count -gt 0 ] || { echo "examples/ holds no example" >&2; exit 1; }

EXAMPLES ?= 10000
gallery: setup ## run each test of examples/gallery with many more examples: EXAMPLES=10000
	$(PY) -m pytest examples/gallery --perdure-examples=$(EXAMPLES) --durations=0 --durations-min=0

lint: setup ## check style and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: setup ## check types
	$(PY) -m mypy

format: setup ## put the code into format and mend what can be mended
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

check: lint types test examples ## all of it, as the continuous integration does

clean: ## remove what make and the tools have made
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.git -prune -o -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.created:
	@found=; for python in $(PYTHONS); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	  then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "perdure needs Python 3.11 or newer, and none of these is: $(PYTHONS)." >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3 setup" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	  echo "$$found cannot make virtual environments: its modules venv and ensurepip are missing." >&2; \
	  echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv --clear $(VENV) && touch $@

# The demo needs five small packages, the tests some thirty: so each has its own stamp.
$(VENV)/.cli: pyproject.toml $(VENV)/.created
	$(PIP) --editable '.[cli]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.created
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/.cli $@
