# `make` prints this help. Nothing here needs more than Go, make and git;
# `make test` installs what else it uses where it may (see scripts/setup-tests).
SHELL     := /bin/bash
.DEFAULT_GOAL := help

VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   := -s -w -X dstack/internal/version.Version=$(VERSION)
GOFLAGS_  := -trimpath -ldflags '$(LDFLAGS)'
AGENT_DIR := internal/agentbin/bin
ARCHES    := amd64 arm64
AGENT_SRC := $(shell find cmd/dstack-agent internal/agent internal/agentapi internal/version -name '*.go' -not -name '*_test.go') go.mod go.sum

export CGO_ENABLED = 0

.PHONY: help build agents demo test test-short e2e bench bench-scale lint generate catalog simulate fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: agents ## bin/dstack and bin/dstack-agent
	go build $(GOFLAGS_) -o bin/dstack ./cmd/dstack
	@gzip -dc $(AGENT_DIR)/dstack-agent-linux-$(shell go env GOARCH).gz > bin/dstack-agent && chmod 0755 bin/dstack-agent

agents: $(ARCHES:%=$(AGENT_DIR)/dstack-agent-linux-%.gz) ## the host agents that bin/dstack embeds

$(AGENT_DIR)/dstack-agent-linux-%.gz: $(AGENT_SRC)
	@mkdir -p $(AGENT_DIR) bin
	GOOS=linux GOARCH=$* go build $(GOFLAGS_) -o bin/agent-$* ./cmd/dstack-agent
	gzip -9 -n -c bin/agent-$* > $(@D)/.$(@F).part && mv $(@D)/.$(@F).part $@ && rm bin/agent-$*

demo: build ## one job from YAML to logs on this machine, leaving nothing behind
	scripts/demo

test: build ## every suite; installs what it needs where it can
	scripts/test

test-short: agents ## the packages' tests alone: no Docker, PostgreSQL or hosts
	go test ./...

e2e: build ## the end-to-end suite alone
	scripts/test e2e

bench: build ## speed and memory, beside the published original where it can be started
	scripts/bench

bench-scale: build ## the server with 10,000 simulated hosts over SSH; SCALE="-scale-hosts 1000" for less
	scripts/bench-scale $(SCALE)

lint: ## gofmt, go vet, staticcheck, govulncheck, tidy
	scripts/lint

simulate: ## SEEDS (2000) worlds in virtual time, from seed FROM (1)
	go test ./internal/sim -run '^TestSeeds$$' -v -count 1 -timeout 0 -seeds $(or $(SEEDS),2000) -from $(or $(FROM),1)

catalog: ## the embedded list prices, from the facts in internal/catalog/facts/data
	cd internal/catalog/facts && go generate .

generate: ## the files that are made from the code (schemas, reference pages)
	go generate ./...

fuzz: ## every fuzz target for FUZZTIME (10s) each
	scripts/fuzz

clean: ## remove what was built
	rm -rf bin $(AGENT_DIR)/*.gz
