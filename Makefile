# The commands of the house. CI runs the same ones: see .ci/run.

BIN := $(abspath $(or $(CARGO_TARGET_DIR),target))/debug

.DEFAULT_GOAL := help
.PHONY: help demo test chaos lint bench

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a controller and 8 agents on this machine, and real commands on them
	cargo build --workspace --bins
	PATH="$(BIN):$$PATH" muster dev --agents 8 -- sh deploy/demo.sh

test: ## all tests, with real processes
	cargo build --workspace --bins
	@if cargo nextest --version >/dev/null 2>&1; \
	then set -x; cargo nextest run --workspace --no-fail-fast; \
	else set -x; cargo test --workspace; fi

chaos: ## the long fault tests: kills, cut links, full disks, power cuts (MUSTER_SEED=N repeats the choices of a run)
	cargo build --workspace --bins
	MUSTER_CHAOS=long cargo test -p muster-tests --test it -- --nocapture --test-threads=1 chaos:: cuts:: disk::

lint: ## formatting, clippy and dependency bans; a warning is an error
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; \
	then set -x; cargo deny --log-level error check bans licenses sources; \
	else echo "lint: cargo-deny is not installed, licences and sources were not checked (.ci/run installs it)" >&2; fi

bench: ## the figures that we hold ourselves to, in a release build
	tests/bench.sh
