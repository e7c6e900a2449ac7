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
STATIC_DIR := target/$(STATIC_TARGET)/release
TEST_PACKAGES := redis-server postfix sasl2-bin libsasl2-modules
LINT_PACKAGES := shellcheck

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

.PHONY: demo
demo: release cluster-up image ## the main job on a real cluster, told step by step (KEEP=1 keeps it running)
	@hack/debian.sh redis-server
	@hack/cluster/run env MAILRELAY_BIN=$(CURDIR)/$(STATIC_DIR)/mailrelay $(CURDIR)/$(STATIC_DIR)/demo; status=$$?; \
	  if [ -z "$${KEEP:-}" ]; then $(MAKE) cluster-down; fi; exit $$status

.PHONY: release
release: ## build the static release binaries
	@echo "building the release binaries (the first time takes some minutes)"
	RUSTFLAGS="$(STATIC_FLAGS)" $(CARGO) build --locked --release --target $(STATIC_TARGET) -p mailrelay -p e2e --bins

.PHONY: image
image: release ## build the container image and load it into the local cluster
	@hack/image/build $(STATIC_DIR)/mailrelay >/dev/null

##@ Check

.PHONY: test
test: setup lint verify test-unit test-components test-e2e ## everything: lint, drift, unit, property, conformance, SMTP, end to end

.PHONY: lint
lint: ## format, clippy, shell scripts
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	git ls-files -z | xargs -0 grep -lzE '^#!(/usr/bin/env bash|/bin/(ba)?sh)' | xargs -0 shellcheck -x

.PHONY: verify
verify: crd-check chart-check ## everything generated is fresh

.PHONY: test-unit
test-unit: ## unit and property tests
	$(CARGO) test --locked --workspace --lib --bins

.PHONY: test-components
test-components: setup ## conformance and contract tests against real Redis, the sink and Postfix
	$(CARGO) test --locked -p mailrelay -p mailsink -p testkit --tests

.PHONY: test-e2e
test-e2e: cluster-up image ## end-to-end tests on the local cluster (ONLY=name runs one)
	@hack/debian.sh redis-server
	$(CARGO) test --locked -p e2e --no-run
	@hack/cluster/run $(CARGO) test --locked --offline -p e2e -- $(ONLY)

##@ Generate

.PHONY: crd
crd: ## write crds/mailrelays.yaml from the types
	$(CARGO) run --locked -q -- crd > crds/mailrelays.yaml

.PHONY: crd-check
crd-check:
	@$(CARGO) run --locked -q -- crd | diff -u crds/mailrelays.yaml - || { echo "crds/ is stale: run make crd"; exit 1; }
