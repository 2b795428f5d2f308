# `make` lists what there is.
SHELL := /bin/bash
CARGO ?= cargo
FUZZ_SECONDS ?= 30
CHAOS_SECONDS ?= 60

# For install and deb. PROFILE: which binaries (release or debug). DESTDIR: a directory that stands for /.
PROFILE ?= release
PREFIX ?= /usr/local
DESTDIR ?=
# Whom the handoff socket admits: Apache's group.
APACHE_GROUP ?= www-data

.PHONY: help run demo test test-packages build release module lint unit e2e browser systemd chaos bench soak vm fuzz doc man install install-apache uninstall uninstall-apache deb counts bench-pure clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## build, start the daemon with a front, stream a first answer (from the mock backend, or HANDOFFD_CONFIG's)
	@scripts/run

demo: ## a whole site: Apache, PHP, handoffd and a chat page (HANDOFFD_DEMO=127.0.0.1:8090; OPENAI_API_KEY for real answers)
	@scripts/demo

test: ## everything that CI runs (installs the packages it needs where it may)
	@scripts/test

test-packages: ## install what the tests need, or say what is missing
	@scripts/test-packages

build: ## all binaries, for development
	$(CARGO) build --locked --workspace --bins

release: ## what is installed as a service: handoffd, its worker, handoffctl
	$(CARGO) build --locked --release -p handoff-supervisor -p handoff-worker -p handoff-ctl

module: ## Apache's module, into target/module
	$(CARGO) build --locked --profile module -p mod_socket_handoff

lint: ## formatting, clippy, dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	scripts/tidy

unit: ## tests of each crate by itself
	$(CARGO) test --locked --workspace --exclude handoff-e2e

e2e: build module ## the real binaries, real sockets, a real Apache
	$(CARGO) test --locked -p handoff-e2e

browser: build module ## what people see, in a real, headless Chromium; pictures in target/screenshots
	$(CARGO) test --locked -p handoff-e2e --test browser

systemd: build module ## the units and the Debian package on a real systemd (needs root)
	$(CARGO) test --locked -p handoff-e2e --test systemd --test install

chaos: ## workers killed and stopped every 20 ms under load, for CHAOS_SECONDS; HANDOFF_SEED=… has the same again
	$(CARGO) build --locked --release --workspace --bins
	CHAOS_SECONDS=$(CHAOS_SECONDS) target/release/chaos

bench: ## what it costs, against its targets and a bare loop: writes docs/PERFORMANCE.md's tables (BENCH_ONLY=churn,held)
	@scripts/bench

soak: ## a steady load for SOAK_MINUTES (10): fails when memory or open files of any process grow
	@scripts/soak

vm: ## what only a virtual machine shows: an older kernel, memory that runs out, a clock that is set (needs root, qemu)
	@scripts/vm

counts: ## record what the pure parts cost, in instructions, where a change is meant (needs valgrind)
	$(CARGO) build --locked --profile counts -p handoff-counts --bin counts
	target/counts/counts record
	git --no-pager diff --stat -- bench/counts/instructions.toml

bench-pure: ## how long the pure parts take, by Criterion (one of them: make bench-pure ONLY=codec)
	$(CARGO) bench --locked -p handoff-counts --bench pure -- $(ONLY)

fuzz: ## fuzz targets, FUZZ_SECONDS each (needs a nightly toolchain and cargo-fuzz)
	@scripts/fuzz $(FUZZ_SECONDS)

man: build ## man pages and completions into target/man
	target/debug/handoffctl man target/man

install: ## binaries, units, PHP's class, man pages, completions, sample configuration (DESTDIR, PREFIX, APACHE_GROUP, PROFILE)
	@scripts/install '$(DESTDIR)' '$(PREFIX)' '$(PROFILE)' '$(APACHE_GROUP)'

install-apache: ## Apache's module and its commented configuration (DESTDIR, APACHE_MODULES, APACHE_CONFIG)
	@scripts/install-apache '$(DESTDIR)'

uninstall: ## remove what install has installed, but not /etc/handoffd
	@scripts/uninstall '$(DESTDIR)' '$(PREFIX)'

uninstall-apache: ## switch the module off and remove it, but not its configuration where it was changed (DESTDIR, …)
	@scripts/install-apache '$(DESTDIR)' --remove

deb: $(if $(filter release,$(PROFILE)),release) module ## Debian packages of handoffd and of Apache's module, into target/debian (PROFILE)
	@scripts/deb '$(PROFILE)'

clean: ## remove what was built
	$(CARGO) clean
