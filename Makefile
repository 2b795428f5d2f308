# `make` lists what there is.
SHELL := /bin/bash
CARGO ?= cargo
FUZZ_SECONDS ?= 30

.PHONY: help run test test-packages build lint unit e2e browser fuzz doc man clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## build, start the daemon with the mock backend and a front, stream a first answer
	@scripts/run

test: ## everything that CI runs (installs the packages it needs where it may)
	@scripts/test

test-packages: ## install what the tests need, or say what is missing
	@scripts/test-packages

build: ## all binaries, for development
	$(CARGO) build --locked --workspace --bins

lint: ## formatting, clippy, dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	scripts/tidy

unit: ## tests of each crate by itself
	$(CARGO) test --locked --workspace --exclude handoff-e2e

e2e: build ## the real binaries, real sockets
	$(CARGO) test --locked -p handoff-e2e

browser: build ## the page in a real, headless Chromium
	$(CARGO) test --locked -p handoff-e2e --test browser

fuzz: ## fuzz targets, FUZZ_SECONDS each (needs a nightly toolchain and cargo-fuzz)
	@scripts/fuzz $(FUZZ_SECONDS)

man: build ## man pages and completions into target/man
	target/debug/handoffctl man target/man

clean: ## remove what was built
	$(CARGO) clean
