# mailrelay. `make help` lists what there is; `make demo` and `make test` are the two commands of the README.
#
# Everything a target needs it installs itself (Debian packages, Go modules, crates) or names in one line.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CARGO ?= cargo
# The binary of the image is static, so that the image needs no distribution below it. With an explicit target the flag
# does not reach build scripts and procedural macros, which must stay dynamic.
STATIC_TARGET := $(shell uname -m)-unknown-linux-gnu
STATIC_FLAGS := -C target-feature=+crt-static
CACHE := $(or $(MAILRELAY_CACHE),$(HOME)/.cache/mailrelay)
DENY_VERSION := 0.20.2
DENY := $(CACHE)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny
STATIC_DIR := target/$(STATIC_TARGET)/release
TEST_PACKAGES := redis-server postfix sasl2-bin libsasl2-modules gcc libc6-dev
LINT_PACKAGES := shellcheck
# The cluster goes down however its user ends, Ctrl-C included, unless KEEP is set.
LOWER_AT_EXIT := [ -n "$${KEEP:-}" ] || trap '$(MAKE) cluster-down' EXIT

include hack/cluster/cluster.mk

##@ General

.PHONY: help
help: ## show this list
	@awk 'BEGIN {FS = ":.*##"; print "make TARGET"} \
	  /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-zA-Z0-9_-]+:.*##/ {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install the Debian packages that tests and lint need
	@hack/debian.sh $(TEST_PACKAGES) $(LINT_PACKAGES)

.PHONY: clean
clean: ## remove what was built (not the cluster's cached tools)
	$(CARGO) clean

##@ Use

.PHONY: dev
dev: ## mailrelay without Kubernetes beside a Redis and a mail server, to try out (FILES=a.yaml, WORKERS=2, LIMIT=16)
	@hack/debian.sh redis-server
	$(CARGO) build --locked -p mailrelay -p mailsink --bins
	@hack/dev target/debug/mailrelay target/debug/mailsink $(or $(FILES),examples/corporate.yaml)

.PHONY: demo
demo: release cluster-up image ## the main job on a real cluster, told step by step (KEEP=1 keeps it running)
	@hack/debian.sh redis-server
	@$(LOWER_AT_EXIT); \
	  $(IN_CLUSTER) $(CURDIR)/$(STATIC_DIR)/demo

.PHONY: release
release: ## build the static release binaries
	@echo "building the release binaries (the first time takes some minutes)"
	RUSTFLAGS="$(STATIC_FLAGS)" $(CARGO) build --locked --release --target $(STATIC_TARGET) -p mailrelay -p e2e --bins

.PHONY: image
image: release ## build the container image and load it into the local cluster
	@hack/image/build $(STATIC_DIR)/mailrelay >/dev/null

.PHONY: clock-image
clock-image: cluster-up ## build and load the image of the product whose wall clock tests can move
	$(CARGO) build --locked -p mailrelay
	@hack/image/build-clock target/debug/mailrelay

##@ Check

# The proofs need the processor for minutes, and the rest mostly waits: they run beside each other. What is built is built
# before, since cargo locks its folder.
.PHONY: test
test: setup lint verify test-unit ## everything: lint, drift, unit, conformance, SMTP, model, simulation, end to end, chaos
	$(CARGO) test --locked --workspace --no-run
	@hack/beside target/proofs.log '$(MAKE) test-proofs' '$(MAKE) test-components test-cluster'

.PHONY: lint
lint: fmt clippy shell doc ## format, clippy, shell scripts, rustdoc

.PHONY: fmt clippy shell doc
fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# Scripts by their name or by their first line; those that are only sourced have no first line of that kind.
shell:
	@hack/debian.sh shellcheck
	{ git ls-files -z '*.sh'; git grep -lzE '^#!.*[/ ](ba|da)?sh( |$$)' || true; } | sort -zu | xargs -0r shellcheck -x

doc:
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --locked --workspace --no-deps --document-private-items

.PHONY: verify
verify: crd-check chart-check ## everything generated is fresh, the chart and the examples are sound

.PHONY: crd-check
crd-check:
	$(CARGO) test --locked -q --test api

# What Helm says, without a cluster: with the defaults, and with everything on. The schemas of Kubernetes can't be had
# without one, so what is rendered, and the examples, are held to them by the API server in `make test-e2e`.
CHART_ON := --set networkPolicy.enabled=true,serviceAccount.name=other,priorityClassName=high
.PHONY: chart-check
chart-check:
	@helm=$$(hack/cluster/tools/build)/helm; \
	  $$helm lint --strict --quiet charts/mailrelay; \
	  $$helm lint --strict --quiet charts/mailrelay $(CHART_ON); \
	  $$helm template mailrelay charts/mailrelay $(CHART_ON) >/dev/null

.PHONY: deny
deny: $(DENY) ## licences, sources and bans of the dependencies (not part of test)
	$(DENY) check bans licenses sources
	@echo "advisories were not checked: their database is a Git repository; with a network: $(DENY) check advisories"

$(DENY):
	@echo "building cargo-deny $(DENY_VERSION) into $(CACHE), once (some minutes)"
	nice -n 10 $(CARGO) install --locked --debug --root $(CACHE)/cargo-deny-$(DENY_VERSION) cargo-deny@$(DENY_VERSION)

.PHONY: bench
bench: ## how fast the parts are, each beside a reference measured in the same run
	@hack/debian.sh redis-server
	$(CARGO) bench --locked -p mailrelay --bench figures

# A real API server, but no node: it needs no root, and no cluster that is up.
.PHONY: bench-scale
bench-scale: ## what thousands of pods cost Redis, the controller and the API server (RELAYS=1,10,100 sizes, of PODS=10 each)
	@hack/debian.sh redis-server
	@tools=$$(hack/cluster/tools/build); \
	  CLUSTER_TOOLS=$$tools RELAYS=$(RELAYS) PODS=$(PODS) WINDOW=$(WINDOW) \
	  $(CARGO) bench --locked -p mailrelay --bench scale

.PHONY: test-unit
test-unit: ## unit and property tests
	$(CARGO) test --locked --workspace --lib --bins

# What cargo takes for tests of the package mailrelay, but for the proofs.
TESTS := $(filter-out model simulation,$(notdir $(basename $(wildcard tests/*.rs)) $(patsubst %/main.rs,%,$(wildcard tests/*/main.rs))))

# Those of the fixtures. They are built together with the others: alone, what they depend on would have other features, and
# be built once more.
TOOL_TESTS := $(sort $(notdir $(basename $(wildcard hack/sink/tests/*.rs tests/simredis/tests/*.rs tests/support/tests/*.rs))))

.PHONY: test-components
test-components: setup ## conformance and contract tests against real Redis, the simulated one, the sink and Postfix
	$(CARGO) test --locked -p mailrelay -p mailsink -p simredis -p testkit $(TESTS:%=--test %) $(TOOL_TESTS:%=--test %)

.PHONY: test-proofs
test-proofs: ## the model of the lease protocol, and the simulation with SEEDS=1500
	$(CARGO) test --locked -p mailrelay --test model -- --show-output
	@$(MAKE) simulation SEEDS=$(or $(SEEDS),1500)

# A profile and a flag of its own, so a folder of its own: debug builds are not made anew by it. The flag lets tokio's choice
# among branches be seeded.
.PHONY: simulation
simulation: ## the simulation of workers and controllers: SEEDS=5000 worlds of random faults (SEED=n tells one of them)
	@SEEDS=$(or $(SEEDS),5000) SEED=$(SEED) FIRST=$(FIRST) RUST_BACKTRACE=0 RUSTFLAGS="--cfg tokio_unstable" \
	  CARGO_TARGET_DIR=target/simulation $(CARGO) test --locked --profile simulation -p mailrelay --test simulation -- \
	  --nocapture --test-threads 1 $(if $(SEED),no_seed_breaks_a_promise)

.PHONY: deaths
deaths: setup ## workers killed at each point of a transaction, KILLS=20 times each, Redis REDIS_KILLS=50 times, with figures
	KILLS=$(or $(KILLS),20) REDIS_KILLS=$(or $(REDIS_KILLS),50) $(CARGO) test --locked -p mailrelay --test deaths -- --nocapture --test-threads 1

.PHONY: storm
storm: setup ## everything at once under load: STORM=103 times 10 workers killed, Redis 5 times, 50 answers lost or late, and more
	STORM=$(or $(STORM),103) $(CARGO) test --locked -p mailrelay --test deaths -- --nocapture everything_at_once

.PHONY: test-long
test-long: setup ## tests that take minutes, or need root: a control group, a slow link, 1,000,000 dead letters, 30 mails a minute
	MAILS=5000 $(CARGO) test --locked -p mailrelay --test setups -- --nocapture --test-threads 2
	$(CARGO) test --locked -p mailrelay --test worker_limits --test rate --test many_letters -- --ignored --nocapture --test-threads 1

# The last commit of what was released before, or BEFORE=commit.
LAST_RELEASE := 235addc
.PHONY: mixed
mixed: setup ## this version beside the one before (BEFORE=commit): workers of either under the controller of the other
	rm -rf target/before && git worktree prune && git worktree add --detach target/before $(or $(BEFORE),$(LAST_RELEASE))
	cd target/before && CARGO_TARGET_DIR=$(CURDIR)/target/before-build $(CARGO) build --locked -p mailrelay
	MAILRELAY_BEFORE=$(CURDIR)/target/before-build/debug/mailrelay \
	  $(CARGO) test --locked -p mailrelay --test dev -- --ignored --nocapture --test-threads 1 mixed; \
	  status=$$?; git worktree remove --force target/before; exit $$status

.PHONY: model
model: ## the model of the lease protocol with the scenarios that take minutes too
	$(CARGO) test --locked -p mailrelay --test model -- --include-ignored --show-output

# Runs what follows in the network of the cluster, as its user.
IN_CLUSTER := hack/cluster/run env MAILRELAY_BIN=$(CURDIR)/$(STATIC_DIR)/mailrelay
# Postfix is installed as it is; Exim, which conflicts with it, is unpacked by hack/exim, and these are its libraries.
EXIM_PACKAGES := libdb5.3 libgnutls-dane0 libgnutls30 libidn12 libidn2-0 libnsl2 libpcre2-8-0
CHAOS_PACKAGES := redis-server iptables gcc libc6-dev postfix util-linux $(EXIM_PACKAGES)

.PHONY: test-cluster
test-cluster: cluster-up image ## test-e2e and the slice of chaos, on one cluster
	@hack/debian.sh $(CHAOS_PACKAGES)
	@hack/exim >/dev/null
	$(CARGO) test --locked -p e2e --no-run
	@$(LOWER_AT_EXIT); \
	  $(IN_CLUSTER) $(CARGO) test --locked --offline -p e2e --test e2e; \
	  SLICE=1 $(IN_CLUSTER) $(CURDIR)/$(STATIC_DIR)/chaos

.PHONY: test-e2e
test-e2e: cluster-up image ## end-to-end tests on the local cluster (ONLY=name runs one, KEEP=1 keeps the cluster)
	@hack/debian.sh redis-server
	$(CARGO) test --locked -p e2e --no-run
	@$(LOWER_AT_EXIT); \
	  $(IN_CLUSTER) $(CARGO) test --locked --offline -p e2e --test e2e -- $(ONLY)

# Make hands ONLY, SEED, RUNS, SLICE and JOBS on in the environment.
.PHONY: chaos
ifdef LIST
chaos:
	@$(CARGO) run --locked --quiet -p e2e --bin chaos -- --list
else
chaos: cluster-up image clock-image ## break it in every way (LIST=1, ONLY=a,b, SEED=n, RUNS=n, SLICE=1: 4 minutes; KEEP=1 keeps the cluster)
	@hack/debian.sh $(CHAOS_PACKAGES)
	@hack/exim >/dev/null
	@$(LOWER_AT_EXIT); \
	  $(IN_CLUSTER) $(CURDIR)/$(STATIC_DIR)/chaos
endif

# Rounds of everything with other seeds each time; target/chaos/report.json is written after each round.
.PHONY: soak
soak: $(if $(ONLY),,storm) cluster-up image clock-image ## make storm, then the whole matrix of chaos again and again, for HOURS=2 (ONLY, SEED, JOBS as for chaos)
	@hack/debian.sh $(CHAOS_PACKAGES)
	@hack/exim >/dev/null
	@$(LOWER_AT_EXIT); \
	  HOURS=$(or $(HOURS),2) $(IN_CLUSTER) $(CURDIR)/$(STATIC_DIR)/chaos

##@ Generate

.PHONY: crd
crd: ## write crds/*.yaml and their copies in the chart from the types
	UPDATE=1 $(CARGO) test --locked -q --test api definition
