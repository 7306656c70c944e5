# The front door. `make help` lists the targets; README.md says what comes out.
# Each target first sets up what it needs: Debian packages (tools/packages.sh), the virtual environment
# (tools/environment.sh) and the agent's binary. What is there already costs nothing.

ARCH ?= $(shell uname -m)
IMAGE_SIZE ?=
IMAGE_NAME ?= bouvet-devbox
# Recipes read the variables from the environment, so that no value is ever taken for shell code.
export ARCH IMAGE_SIZE IMAGE_NAME

# Tests build and boot images of both architectures.
OTHER_ARCH := $(if $(filter aarch64,$(shell uname -m)),x86_64,aarch64)

# What tests may not skip for want of: tools, root, kvm, or all (CONTRIBUTING.md).
BOUVET_REQUIRE ?= tools
PYTEST_ARGS ?=
# How long each of the agent's fuzz targets runs.
FUZZ_TIME ?= 3s

OUTPUT := images/output
ENVIRONMENT := .venv/.complete
BOUVET := .venv/bin/bouvet
# The compiler and the standard library are those of the environment: nothing is downloaded.
GO := GOTOOLCHAIN=local GOENV=off GOPROXY=off GOFLAGS=-buildvcs=false $(CURDIR)/.venv/bin/go
GOFMT := .venv/lib/python3*/site-packages/go/bin/gofmt
AGENT = src/bouvet/binaries/bouvet-agent-$(ARCH)
BOTH_AGENTS := $(addprefix src/bouvet/binaries/bouvet-agent-,x86_64 aarch64)
AGENT_SOURCES := $(wildcard agent/*.go) agent/go.mod hatch_build.py pyproject.toml
SCRIPTS := $(wildcard tools/*.sh)

MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.DEFAULT_GOAL := rootfs
.PHONY: rootfs agent docker-image rebuild clean help test test-aarch64 lint test-agent test-python bench format lock \
	variables build-packages test-packages

## rootfs        (default) build the devbox image: images/output/debian-devbox.ext4, bouvet-agent
rootfs: build-packages $(AGENT)
	@$(BOUVET) build devbox --arch "$$ARCH" --name "$$IMAGE_NAME" --output $(OUTPUT) \
		$${IMAGE_SIZE:+--size "$$IMAGE_SIZE"} $(BUILD_FLAGS)

## agent         compile the guest agent: images/output/bouvet-agent
agent: $(AGENT)
	@install -D -m 755 $(AGENT) $(OUTPUT)/bouvet-agent
	@echo "$(OUTPUT)/bouvet-agent"

## docker-image  build the devbox as an OCI archive for docker load, podman load and skopeo; no ext4
docker-image: build-packages $(AGENT)
	@$(BOUVET) oci devbox --arch "$$ARCH" --name "$$IMAGE_NAME" --output $(OUTPUT) $(BUILD_FLAGS)

## rebuild       clean, then build the devbox with the cache ignored
rebuild: build-packages
	@$(MAKE) --no-print-directory clean
	@$(MAKE) --no-print-directory rootfs BUILD_FLAGS=--refresh

## clean         remove images and what was compiled; the cache of layers and downloads stays
clean:
	rm -rf images build dist src/bouvet/binaries .mypy_cache .ruff_cache .pytest_cache

## test          lint and run every test, on real images and real machines
test: lint test-agent test-python

## test-aarch64  build the devbox for aarch64, and verify it by booting it; tells the times
test-aarch64: test-packages $(ENVIRONMENT)
	@$(MAKE) --no-print-directory ARCH=aarch64 build-packages $(BOTH_AGENTS)
	BOUVET_REQUIRE=$(BOUVET_REQUIRE) .venv/bin/python -m pytest --durations=3 tests/boot/aarch64_devbox.py

## lint          ruff, mypy, gofmt, go vet, shellcheck
lint: test-packages $(ENVIRONMENT)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	@unformatted=$$($(GOFMT) -l agent) && test -z "$$unformatted" || \
		{ echo "gofmt would change: $$unformatted" >&2; exit 1; }
	cd agent && $(GO) vet ./...
	shellcheck $(SCRIPTS) .ci/run

## format        let ruff and gofmt lay out the sources
format: $(ENVIRONMENT)
	.venv/bin/ruff format
	.venv/bin/ruff check --fix
	$(GOFMT) -w agent

## bench         measure against what bouvet is compared to: one table, images/output/bench.json
bench: test-packages $(ENVIRONMENT) $(AGENT)
	@for preset in base devbox; do $(BOUVET) build "$$preset" --quiet --output $(OUTPUT) >/dev/null || exit 1; done
	.venv/bin/python bench --json $(OUTPUT)/bench.json

## lock          pin what pyproject.toml asks for in requirements.lock
lock:
	@tools/lock.sh

## help          this list
help:
	@echo "make TARGET [ARCH=x86_64|aarch64] [IMAGE_SIZE=2500M] [IMAGE_NAME=bouvet-devbox]"
	@sed -n 's/^## /  /p' Makefile

test-agent: test-packages $(ENVIRONMENT)
	cd agent && CGO_ENABLED=1 $(GO) test -race ./...
	@cd agent && for target in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\)(.*/\1/p' *_test.go); do \
		echo "fuzzing: $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZ_TIME) . >fuzz.log || { cat fuzz.log; exit 1; }; \
	done; rm -f fuzz.log

# A file's tests stay together: they share machines and images. The machines come first, as they are slow.
test-python: test-packages $(ENVIRONMENT) $(BOTH_AGENTS)
	BOUVET_REQUIRE=$(BOUVET_REQUIRE) .venv/bin/python -m pytest \
		--numprocesses auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# A nonsensical value ends here, before anything is installed or built.
variables:
	@tools/variables.sh

build-packages: variables
	@tools/packages.sh python build
	@tools/emulation.sh "$$ARCH"

test-packages: variables
	@tools/packages.sh python build test
	@tools/emulation.sh $(OTHER_ARCH)

$(ENVIRONMENT): requirements.lock pyproject.toml | variables
	@tools/packages.sh python
	@tools/environment.sh

# A nonsensical ARCH has a rule too: `variables` tells what is wrong with it.
$(sort $(AGENT) $(BOTH_AGENTS)): $(AGENT_SOURCES) $(ENVIRONMENT) | variables
	@echo "compiling the agent for $(@:src/bouvet/binaries/bouvet-agent-%=%)"
	@.venv/bin/python hatch_build.py $(@:src/bouvet/binaries/bouvet-agent-%=%) >/dev/null
	@touch $@
