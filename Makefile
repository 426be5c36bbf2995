# Exactly two commands do everything: `make demo` and `make test`. Both install what is missing first (scripts/setup
# says what and why).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
TOOLS := $(CURDIR)/target/tools/bin
export PATH := $(TOOLS):$(PATH)

.PHONY: help setup tools build demo test up down lint deny fuzz-short soak soak-fleet

help: ## This list.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: ## Install missing system packages (asks for root where it must).
	@scripts/setup

tools: setup
	@scripts/tools

build: setup ## Build domicile, domicile-router and domicile-chaos into target/release.
	cargo build --release --locked --bins

demo: build ## The whole story on this machine: switchover, failover, outage. Two to three minutes after the build.
	target/release/domicile-chaos demo

up: build ## Start the fleet and leave it running; target/fleet/fleet.json says where everything is.
	target/release/domicile-chaos up

down: ## Stop the fleet.
	target/release/domicile-chaos down

lint: tools
	cargo fmt --all --check
	rustfmt --edition 2024 --check fuzz/fuzz_targets/*.rs
	scripts/check-lines
	cargo clippy --workspace --all-targets --locked -- -D warnings

deny: tools
	@scripts/deny

fuzz-short: tools ## Each fuzz target for five seconds, the same each time (longer: scripts/fuzz SECONDS TARGET).
	@scripts/fuzz

test: lint deny ## Everything that must hold: format, lints, bans, all tests against real servers, documentation tests, a short run of the fuzz targets.
	cargo build --workspace --bins --locked
	cargo nextest run --workspace --locked
	cargo test --workspace --doc --locked --quiet
	@scripts/fuzz

soak: build ## A hundred switchovers, thirty forced moves after random faults, every fault at every step of a forced move.
	target/release/domicile-chaos soak
	cargo build --workspace --bins --locked
	cargo nextest run --workspace --locked --run-ignored only -E 'test(of_a_forced_move_ends)'

soak-fleet: build ## Every whole-fleet test five times over.
	cargo build --workspace --bins --locked
	cargo nextest run -p domicile-chaos --locked -E 'binary(fleet)' --stress-count 5
