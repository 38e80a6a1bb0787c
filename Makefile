# `make demo` and `make test` are the two commands; each makes the environment when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# onnxruntime and onnxruntime-gpu overwrite each other: exactly one of the two is installed.
RUNTIME := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)

.PHONY: setup demo test lowest toolchains hosts wheel lint fuzz fuzz-constants fuzz-models proven large support growth docs peers clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(RUNTIME),train,dev]'
	@touch $@

demo: setup
	$(BIN)/onnx-expand demo --out demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n 2

# The oldest versions that pyproject.toml allows, in an environment of their own. That they use
# what is deprecated by now is no fault.
LOWEST := .venv-lowest

$(LOWEST)/.installed: pyproject.toml constraints.txt tests/support/lowest.py
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m tests.support.lowest > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet -c constraints.txt -c $(LOWEST)/lowest.txt \
		-e '.[cpu,train,yaml,tensorboard]' pytest hypothesis
	@touch $@

lowest: $(LOWEST)/.installed
	FUZZ_EXAMPLES=50 $(LOWEST)/bin/python -m pytest -W ignore::DeprecationWarning tests

# The wheel in an environment of its own: every block of the README, in an empty folder.
WHEEL := .venv-wheel

wheel: pyproject.toml constraints.txt
	rm -rf dist $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet build
	$(WHEEL)/bin/python -m build --wheel --outdir dist .
	$(WHEEL)/bin/python -m pip install --quiet -c constraints.txt "$$(ls dist/*.whl)[cpu,train]"
	cd $(WHEEL) && bin/python $(CURDIR)/tests/support/readme.py $(CURDIR)/README.md

# The tools that onnx-expand runs inside, in an environment of their own.
TOOLCHAINS := .venv-toolchains

$(TOOLCHAINS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TOOLCHAINS)
	$(TOOLCHAINS)/bin/python -m pip install --quiet -c constraints.txt \
		-e '.[cpu,train,toolchains]' pytest hypothesis
	@touch $@

toolchains: $(TOOLCHAINS)/.installed
	$(TOOLCHAINS)/bin/python -m pytest -W ignore -rs tests/integrations tests/experiment/test_examples.py

# The table of what came out of each tool.
hosts: $(TOOLCHAINS)/.installed
	$(TOOLCHAINS)/bin/python -W ignore -m tests.support.hosts docs/integrations.md

# A long run of random graphs and whole models: folding changes no number and breaks none.
fuzz: setup
	HYPOTHESIS_PROFILE=explore FUZZ_EXAMPLES=20000 $(BIN)/pytest -n 2 tests/test_random_graphs.py
	HYPOTHESIS_PROFILE=explore FUZZ_EXAMPLES=500 $(BIN)/pytest -n 2
	$(BIN)/python -W ignore -m tests.support.fuzz --count 5000 --processes 2

# Constants that fold writes down, over ops, operator sets, attributes and types.
fuzz-constants: setup
	$(BIN)/python -W ignore -m tests.support.constant_sweep --count 20000

# Where ONNX's reference implementation may stand in for onnxruntime, made by comparing them.
proven: setup
	$(BIN)/python -W ignore -m tests.support.constant_sweep --table onnx_expand/graph/proven.txt

# Fold 50,000 broken models: no traceback, no hang, bounded memory. The tests run some hundred.
fuzz-models: setup
	nice $(BIN)/python -W ignore -m tests.support.hostile --count 50000

# Models of more than 2 GiB; takes 5 GiB of disk.
large: setup
	LARGE=1 $(BIN)/pytest tests/model/test_door_files.py -k large

# The table of what folds, made by folding.
support: setup
	$(BIN)/python -m tests.support.table docs/support.md

# How the time of fold grows with the graph; ten minutes.
growth: setup
	$(BIN)/python -m benchmarks.growth

# The site: every block of the guides runs, and a warning is an error. It goes to site/.
DOCS := .venv-docs

$(DOCS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet -c constraints.txt -e '.[cpu,train,docs]' onnxscript
	@touch $@

docs: $(DOCS)/.installed
	$(DOCS)/bin/python -W ignore -m tests.support.guides docs/index.md docs/guide/*.md
	$(DOCS)/bin/mkdocs build --strict

# Fold and other tools side by side, in an environment of their own; an hour on a quiet machine.
# OPTIONS=--large adds 100,000 nodes and 3 GiB of weights. Writes the tables of docs/benchmarks.md.
PEERS := .venv-peers

$(PEERS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet -c constraints.txt -e '.[cpu,train,peers]'
	@touch $@

peers: $(PEERS)/.installed
	$(PEERS)/bin/python -W ignore -m benchmarks.peers --page docs/benchmarks.md $(OPTIONS)

clean:
	rm -rf $(VENV) $(LOWEST) $(TOOLCHAINS) $(WHEEL) $(PEERS) $(DOCS) peers demo dist site
