PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint bench proto clean

# The main job on synthetic writers: train a global expert, personalise, compare, report.
demo: .venv/demo
	$(BIN)/fedhw simulate --out out/demo --writers 30

# Two files at a time: much of a test is waiting for what is real.
test: .venv/test
	$(BIN)/pytest --numprocesses 2 --dist loadfile

lint: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint

# What tests/v1 proves to be current.
proto: .venv/test
	$(BIN)/python -m grpc_tools.protoc --proto_path=protos \
		--python_out=. --pyi_out=. --grpc_python_out=. protos/fedhw/v1/*.proto

bench: .venv/test
	$(BIN)/python benchmarks/personalize.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/test: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[client,server,dev,simulation]'
	touch $@ .venv/demo

clean:
	rm -rf .venv out
