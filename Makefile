# The two commands to begin with: `make run` and `make test`. `make help` lists the others.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# Debian keeps pgbouncer where only root looks.
export PATH := $(PATH):/usr/sbin

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
TOOLS := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/pganalytics/tools
CARGO_DENY_VERSION := 0.20.2
CARGO_FUZZ_VERSION := 0.13.2
GENERATED := deploy/config/pganalytics-api.toml docs/configuration.md docs/openapi.json

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.PHONY: run
run: packages-run ## Build, then run server, collector and a private PostgreSQL until Ctrl-C
	$(CARGO) build --bin pganalytics-api --bin pganalytics-collector
	$(TARGET)/debug/pganalytics-api dev $(ARGS)

.PHONY: test
test: packages-test ## Run every test, with real services
	$(CARGO) build -p pganalytics-testkit --bin testkit-run
	$(TARGET)/debug/testkit-run -- $(CARGO) test --workspace --all-features

POSTGRES_MAJORS ?= 13 14 16 17

.PHONY: test-long
test-long: packages-test ## Run a million vectors, a longer outage, and what uses PostgreSQL with other versions of it: POSTGRES_MAJORS="13 17"
	$(CARGO) test --workspace --all-features --test suite_vectors -- --ignored
	$(CARGO) test --workspace --all-features --test faults -- --ignored
	$(CARGO) build -p pganalytics-testkit --bin testkit-run
	for major in $(POSTGRES_MAJORS); do \
	    programs=$$(deploy/scripts/fetch-postgres.sh $$major) || exit 1; \
	    echo "=== PostgreSQL $$major"; \
	    PGA_TEST_POSTGRES_BIN=$$programs $(TARGET)/debug/testkit-run -- \
	        $(CARGO) test --workspace --all-features --test postgres --test postgres_adapters --test collector || exit 1; \
	done

.PHONY: smoke
smoke: packages-run ## From an empty data folder to metrics read back, then stop; prints the time it took
	$(CARGO) build --bin pganalytics-api --bin pganalytics-collector
	deploy/scripts/smoke.sh $(TARGET)/debug

.PHONY: check
check: format-check lint docs structure generated-check deny ## Everything that CI checks besides the tests

.PHONY: format-check
format-check: ## Check the formatting
	$(CARGO) fmt --all -- --check

.PHONY: lint
lint: ## Lint, warnings being errors
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings

.PHONY: docs
docs: ## Build the API documentation, broken links being errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --all-features

.PHONY: structure
structure: ## Check the dependencies between the crates, and that each feature compiles alone
	deploy/scripts/check-structure.sh

.PHONY: generated
generated: ## Write the generated files again: sample configuration, configuration reference, OpenAPI document
	deploy/scripts/generate.sh

.PHONY: generated-check
generated-check: generated ## Check that the generated files are up to date
	@[ -z "$$(git status --porcelain -- $(GENERATED))" ] || { git diff -- $(GENERATED); echo "commit what \`make generated\` changed: $(GENERATED)"; exit 1; }

.PHONY: deny
deny: tools ## Check licences, sources and banned crates
	$(TOOLS)/bin/cargo-deny --all-features check bans licenses sources

.PHONY: bench
bench: packages-test ## Run the benchmarks beside their peers; writes target/bench/summary.json
	$(CARGO) build --release -p pganalytics-testkit -p pganalytics-server -p benches
	$(TARGET)/release/benches $(ARGS)

FUZZ_TARGETS ?= $(wildcard pganalytics-*/fuzz/fuzz_targets/*.rs)
FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: fuzz-needs $(TOOLS)/bin/cargo-fuzz ## Feed the parsers hostile bytes, each for FUZZ_SECONDS=60; needs nightly Rust and g++
	for target in $(FUZZ_TARGETS); do \
	    PATH="$(TOOLS)/bin:$$PATH" $(CARGO) +nightly fuzz run --fuzz-dir $${target%/fuzz_targets/*} \
	        --target-dir $(abspath $(TARGET))/fuzz $$(basename $$target .rs) -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

.PHONY: fuzz-needs
fuzz-needs:
	@command -v c++ >/dev/null || { echo 'fuzzing needs a C++ compiler: apt-get install g++'; exit 1; }
	@rustup run nightly rustc --version || \
	    { echo 'fuzzing needs a nightly compiler: rustup toolchain install nightly --profile minimal'; exit 1; }

.PHONY: tools
tools: $(TOOLS)/bin/cargo-deny ## Build the tools that `check` needs, into a cache outside of the tree

$(TOOLS)/bin/cargo-deny:
	CARGO_TARGET_DIR=$(TOOLS)/build $(CARGO) install --locked --root $(TOOLS) cargo-deny@$(CARGO_DENY_VERSION)
	rm -rf $(TOOLS)/build

$(TOOLS)/bin/cargo-fuzz:
	CARGO_TARGET_DIR=$(TOOLS)/build $(CARGO) install --locked --root $(TOOLS) cargo-fuzz@$(CARGO_FUZZ_VERSION)
	rm -rf $(TOOLS)/build

.PHONY: packages-run packages-test
packages-run:
	@deploy/scripts/install-packages.sh run
packages-test:
	@deploy/scripts/install-packages.sh test
