PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint docs bench proto clean

# The main job on synthetic writers: train a global expert, personalise, compare, report.
demo: .venv/demo
	$(BIN)/fedhw train-expert --epochs 12 --out out/demo-release
	$(BIN)/fedhw simulate --release out/demo-release --writers 30 --out out/demo
	@echo "To write with your own hand:"
	@echo "  $(BIN)/pip install --constraint constraints.txt --editable '.[client]'"
	@echo "  $(BIN)/fedhw client --release out/demo-release --pad"

# Three files at a time, the doctests last: much of a test is waiting for what is real.
test: .venv/test
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint

# The site, out/site/index.html; a broken link fails.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What tests/v1 proves to be current.
proto: .venv/test
	$(BIN)/python -m grpc_tools.protoc --proto_path=protos \
		--python_out=. --pyi_out=. --grpc_python_out=. protos/fedhw/v1/*.proto

# Every figure of docs/results.md, in under an hour on two idle cores.
bench: .venv/test
	$(BIN)/python benchmarks/results.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/test: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[client,server,dev,edge,simulation]'
	touch $@ .venv/demo

.venv/docs: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv out
