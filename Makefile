# make help lists the targets. Everything here also runs by hand; CI runs .ci/run.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Where the release binary lands: the end-to-end tests run the very binary that people run.
TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
# How long `make fuzz` goes on.
FUZZ_SECONDS ?= 600
# Asked when it is used: the setup just before may have put it there.
DENY = $$([ -x tests/.cache/cargo-deny/bin/cargo-deny ] && echo tests/.cache/cargo-deny/bin/cargo-deny || echo cargo deny)

.PHONY: help run setup build test test-rust test-routing test-browser faults fuzz web web-check bench bench-cluster lint fmt deny clean-cache

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## start a node (release build)
	$(CARGO) run --release

setup: ## fetch what the tests need: real MCP servers, model, Chromium
	tests/setup

build: ## the release binary
	$(CARGO) build --release

test: setup build test-rust test-browser ## everything: unit, end-to-end with real servers, browser

test-rust: ## unit and end-to-end tests; needs setup and build once
	TROUPE_BIN="$(abspath $(TARGET_DIR))/release/troupe" $(CARGO) test --workspace --no-fail-fast
	@$(MAKE) --no-print-directory test-routing

test-routing: ## how well tools are found with the real model; needs setup once
	@models="$(CURDIR)/tests/.cache/models"; data="$${TROUPE_SHARED_DATA:-$(CURDIR)/../shared/data}"; \
	if [ ! -d "$$models" ]; then \
	    echo "routing with the model: SKIPPED: $$models is absent (make setup)"; test -z "$${CI:-}"; exit; \
	fi; \
	tests="the_real_model_knows the_kept_examples_are_answered_with_the_model"; \
	if [ -d "$$data/routing-tuning" ]; then tests="$$tests the_tuning_queries_find"; \
	else echo "tuning queries: SKIPPED: $$data/routing-tuning is absent (TROUPE_SHARED_DATA names the folder)"; fi; \
	TROUPE_MODELS="$$models" TROUPE_SHARED_DATA="$$data" $(CARGO) test -p troupe-actors --lib -- --ignored $$tests

test-browser: ## browser tests in real Chromium; needs setup and build once
	TROUPE_BIN="$(abspath $(TARGET_DIR))/release/troupe" tests/browser/run

faults: ## the long fault tests: 50 kills, pauses, partitions, disks slow and full; needs setup and build once
	TROUPE_BIN="$(abspath $(TARGET_DIR))/release/troupe" $(CARGO) test -p troupe-tests --no-fail-fast \
	    --test cluster_kills --test cluster_faults --test cluster_machines -- --ignored --test-threads=1

fuzz: ## ten minutes of words that no client or server has thought of, for the parsers of JSON-RPC and of headers
	tests/setup fuzz
	cd tests/fuzz && export PATH="$(CURDIR)/tests/.cache/cargo-fuzz/bin:$$PATH" && \
	    cargo +nightly fuzz build --fuzz-dir . && \
	    mkdir -p ../.cache/fuzz/{jsonrpc,edit,headers} && \
	    printf '%s\n' jsonrpc edit headers | xargs -P 3 -I TARGET cargo +nightly fuzz run --fuzz-dir . TARGET \
	        ../.cache/fuzz/TARGET corpus/TARGET -- -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -print_final_stats=1

web: ## build the UI into web/dist (committed, embedded in the binary)
	cd web && npm ci --no-progress --loglevel=error && npm run build

web-check: ## type-check and unit-test the UI
	cd web && npm ci --no-progress --loglevel=error && npm run check && npm test

bench: ## what a proxied call costs beside nginx, memory, start, restarts; three minutes on a quiet machine
	$(CARGO) run --release -- bench gateway

bench-cluster: ## what a cluster costs and how fast it recovers: ten minutes on a quiet machine
	$(CARGO) run --release -- bench cluster

lint: ## formatting, clippy, licences and advisories
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(MAKE) --no-print-directory deny

deny: ## licences, advisories, sources of every dependency
	INSTALL_DENY=1 tests/setup deny
	$(DENY) --all-features check bans licenses sources --hide-inclusion-graph --allow duplicate
	@if $(DENY) fetch db 2>/dev/null; then \
	    $(DENY) --all-features check advisories --disable-fetch --hide-inclusion-graph; \
	else \
	    echo "advisories: NOT CHECKED: their database could not be fetched from this network"; \
	fi

fmt: ## format the Rust code
	$(CARGO) fmt --all

clean-cache: ## forget what setup fetched
	rm -rf tests/.cache tests/browser/node_modules
