# Two commands are enough on a fresh machine: `make up` and `make test`. Each installs what is missing.

.DEFAULT_GOAL := help
.PHONY: help setup build up test nightly mutants

ARGS ?=
ENTREPOT := $(or $(CARGO_TARGET_DIR),target)/release/entrepot

help:
	@echo 'make up [ARGS="…"]   installs what is missing, builds, starts three regions on this machine'
	@echo 'make test            installs what is missing, runs every test'
	@echo 'make nightly         simulates worlds that nobody has seen yet, for an hour or so'
	@echo 'make mutants         makes deliberate faults and shows what noticed each'
	@echo 'make build           what `make up` does before it starts anything'

setup:
	@scripts/setup.sh

build: setup
	cargo build --release --locked

up: build
	@$(ENTREPOT) up $(ARGS)

test:
	@scripts/setup.sh --test
	@scripts/test.sh

nightly: build
	@$(ENTREPOT) sim soak --seeds $(or $(SEEDS),100000) --failures target

mutants:
	@scripts/setup.sh --test
	@scripts/mutants.sh $(ARGS)
