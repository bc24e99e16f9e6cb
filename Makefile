# scope-registry. `make` alone prints the targets.
#
# Variables: GO (the go command), TESTFLAGS (more flags for `go test`, e.g.
# TESTFLAGS=-race), SEEDS (of the simulation), KILLS, ROUNDS, SEED (of kills and stale), FUZZTIME (per fuzz target), BENCHTIME (per run of a Go benchmark),
# CERTS (directory of the certificates of make up; certs), PART, ETCD, DOC, BENCHFLAGS (see tools/bench.sh), BASE, PKG, BENCH (see tools/bench-compare.sh), COMPOSE (docker compose or docker-compose), CHAOSFLAGS (see docs/chaos.md).

GO        ?= go
TESTFLAGS ?=
SEEDS     ?= 20000
KILLS     ?= 1000
ROUNDS    ?= 300
SEED      ?= 0
FUZZTIME  ?= 10s
BENCHTIME ?= 300ms
PART      ?=
ETCD      ?=
DOC       ?= docs/performance.md
BASE      ?= HEAD
PKG       ?=
BENCH     ?= .
BENCHFLAGS ?=
CHAOSFLAGS ?=

# A checkout without commits, or a source archive, has no description.
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo devel)

TOOL   := $(GO) tool -modfile=tools/go.mod
BINARY := bin/scope-registry
IMAGE  := scope-registry:dev

# Compose v2 if docker has it, else docker-compose.
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

# Published ports of the containers.
HTTP_1 := $(or $(SCOPE_REGISTRY_HTTP_1),7481)
HTTP_2 := $(or $(SCOPE_REGISTRY_HTTP_2),7491)
HTTP_3 := $(or $(SCOPE_REGISTRY_HTTP_3),7501)
RESP_1 := $(or $(SCOPE_REGISTRY_RESP_1),7480)

.DEFAULT_GOAL := help
.PHONY: help build test test-race test-peers sim sim-bugs crash gate-crash gate-differ kills stale demo demo-redis demo-redis-containers flood image image-store image-redis certs up up-redis down down-redis logs chaos chaos-local chaos-bugs lint fmt generate check-generated fuzz bench bench-compare clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-21s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Phony, since go build knows better than make what has changed. The version
# comes from git describe above; go's own stamping would fail the build where
# git refuses a checkout that belongs to another user.
build: ## build bin/scope-registry, static and reproducible
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.stamped=$(VERSION)' -o $(BINARY) ./cmd/scope-registry

test: ## run all tests that need only Go (TESTFLAGS=… for more flags)
	$(GO) test -timeout 10m $(TESTFLAGS) ./...
	$(GO) test -C internal/bench -timeout 10m $(TESTFLAGS) ./...

test-race: ## run the same tests under the race detector (needs a C compiler)
	$(MAKE) test TESTFLAGS='-race $(TESTFLAGS)'

test-peers: ## run the tests that need other programs (promtool, openssl, …)
	$(GO) test -timeout 10m -tags peers -count=1 -run Peer $(TESTFLAGS) ./internal/crash/... ./internal/certs ./internal/gate/... ./cmd/scope-registry

sim: ## simulate the protocol over SEEDS seeds: faults, invariants, counts of what happened
	$(GO) run ./internal/sim/run -seeds $(SEEDS)

sim-bugs: ## plant one bug after the other and see that the simulation finds each within 1,000 seeds
	$(GO) run ./internal/sim/planted

crash: ## kill source, target, leader and command line at every step of a move, and stop a writer (about 6 minutes)
	$(GO) run ./internal/crash/matrix $(CRASHFLAGS)

gate-crash: build ## kill either gate, either Redis and the leader at every step of a move, under load (about a minute; needs redis-server; GATEFLAGS=-runs N)
	$(GO) run ./internal/crash/gates/matrix -bin $(BINARY) $(GATEFLAGS)

kills: ## kill servers KILLS times, also in starts and snapshots, under load (KILLSFLAGS=-broken plants bugs); a kill takes half a second
	$(GO) run ./internal/crash/kills -kills $(KILLS) -seed $(SEED) $(KILLSFLAGS)

stale: ## stop the leader ROUNDS times and read from it when it goes on (STALEFLAGS=-broken plants bugs); a round takes two seconds
	$(GO) run ./internal/crash/stale -rounds $(ROUNDS) -seed $(SEED) $(STALEFLAGS)

gate-differ: ## play a million random commands directly and through a gate, and compare all replies (about 4 minutes; needs redis-server; DIFFERFLAGS=-commands N, -store valkey-server, …)
	$(GO) run ./internal/gate/differ $(DIFFERFLAGS)

demo: build ## three servers: declare, move, kill the leader, lose nothing
	$(GO) run ./internal/demo -bin $(BINARY)

demo-redis: build ## two Redis servers with gates: write, move, kill gates, Redis and the leader, lose nothing (needs redis-server)
	$(GO) run ./internal/demo/redis -bin $(BINARY)

demo-redis-containers: image ## the same with containers, a project of their own that is removed at the end (REDIS_IMAGE=…; else Valkey's; DEMOFLAGS='-project NAME')
	$(GO) run ./internal/demo/redis -containers $(DEMOFLAGS)

flood: build ## moves and renewals, quiet and under 10,000 idle connections and garbage (about a minute; FLOODFLAGS=-conns N)
	$(GO) run ./internal/flood -bin $(BINARY) $(FLOODFLAGS)

# The context holds nothing but what goes into the image.
image: build ## build the container image scope-registry:dev from the static binary
	rm -rf bin/image && mkdir -p bin/image/data
	cp $(BINARY) bin/image/
	docker build --quiet --tag $(IMAGE) --file Dockerfile bin/image

# Where the certificates of the containers are made and kept, and with them an admin's.
CERTS ?= certs
ADMIN = --cacert $(CERTS)/ca.pem --cert $(CERTS)/admin.pem --key $(CERTS)/admin.key

# Makes what is missing, and renews what is due.
certs: build ## make or renew, in the directory certs, the certificates of the servers in containers and of an admin
	@if [ -e $(CERTS)/ca.pem ]; then $(BINARY) certs renew --dir $(CERTS); else $(BINARY) certs init --dir $(CERTS) \
		--servers s1=registry-1/registry-1.peers,s2=registry-2/registry-2.peers,s3=registry-3/registry-3.peers; fi

# A container gets its certificate before it starts, as files of its own user; one that runs reads them anew.
up: image certs ## start three servers in containers, under TLS, and wait until they are ready
	$(COMPOSE) up --no-start --remove-orphans
	@for n in 1 2 3; do \
		tar --create --owner=65532 --group=65532 --numeric-owner --directory $(CERTS) ca.pem server-s$$n.pem server-s$$n.key | \
			docker cp - "$$($(COMPOSE) ps --all --quiet registry-$$n):/tls" || exit 1; \
	done
	$(COMPOSE) up --detach
	@for port in $(HTTP_1) $(HTTP_2) $(HTTP_3); do \
		tries=0; \
		until $(BINARY) health --quiet --timeout 2s $(ADMIN) --endpoints https://127.0.0.1:$$port >/dev/null 2>&1; do \
			tries=$$((tries + 1)); \
			if [ $$tries -ge 60 ]; then echo "the server on port $$port is not ready; see make logs" >&2; exit 1; fi; \
			sleep 1; \
		done; \
		echo "ready: https://127.0.0.1:$$port"; \
	done
	@echo; echo "Ask them, as the admin whose certificate is in $(CERTS):"
	@echo "  $(BINARY) --endpoints https://127.0.0.1:$(HTTP_1) $(ADMIN) cluster status"
	@echo "  curl $(ADMIN) https://127.0.0.1:$(HTTP_1)/v1/cluster"
	@echo "  redis-cli --tls $(ADMIN) -p $(RESP_1) SCOPE LIST"

down: ## stop the containers and delete their data; the directory certs stays
	$(COMPOSE) down --volumes --remove-orphans

logs: ## show the containers' logs, and follow them (Ctrl-C ends)
	$(COMPOSE) logs --follow --tail 100

image-store: ## build the container image scope-registry-store:dev of the example store
	rm -rf bin/image-store && mkdir -p bin/image-store/data
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w' -o bin/image-store/store ./examples/store
	docker build --quiet --tag scope-registry-store:dev --file examples/store/Dockerfile bin/image-store

# The program and every library that ldd names, at the paths where the loader looks for them.
image-redis: ## build the container image scope-registry-redis:dev of this machine's redis-server or valkey-server, for where none can be pulled
	@command -v redis-server >/dev/null || command -v valkey-server >/dev/null || { echo "neither redis-server nor valkey-server is installed; on Debian: apt-get install redis-server" >&2; exit 1; }
	rm -rf bin/image-redis && mkdir -p bin/image-redis/data bin/image-redis/root
	cp "$$(readlink -f "$$(command -v redis-server || command -v valkey-server)")" bin/image-redis/root/redis-server
	for lib in $$(ldd bin/image-redis/root/redis-server | grep -o '/[^ ]*'); do \
		mkdir -p "bin/image-redis/root$$(dirname $$lib)" && cp -L "$$lib" "bin/image-redis/root$$lib" || exit 1; \
	done
	docker build --quiet --tag scope-registry-redis:dev --file tools/redis-image/Dockerfile bin/image-redis

# Servers, stores and gates together.
COMPOSE_REDIS = $(COMPOSE) -f docker-compose.yml -f docker-compose.redis.yml
GATE_1 := $(or $(SCOPE_REGISTRY_GATE_1),6004)
GATE_2 := $(or $(SCOPE_REGISTRY_GATE_2),6014)

up-redis: image certs ## start three servers and two Redis with a gate each in containers (REDIS_IMAGE=…; else Valkey's)
	@for n in 1 2; do \
		[ -e $(CERTS)/node-n$$n.pem ] || $(BINARY) certs issue node n$$n --host gate-$$n --dir $(CERTS) --quiet >/dev/null || exit 1; \
	done
	$(COMPOSE_REDIS) up --no-start --remove-orphans
	@give() { tar --create --owner=65532 --group=65532 --numeric-owner --directory $(CERTS) ca.pem "$$2.pem" "$$2.key" | \
			docker cp - "$$($(COMPOSE_REDIS) ps --all --quiet $$1):/tls"; }; \
	for n in 1 2 3; do give registry-$$n server-s$$n || exit 1; done; \
	for n in 1 2; do give gate-$$n node-n$$n || exit 1; done
	$(COMPOSE_REDIS) up --detach
	@for n in 1 2; do \
		tries=0; \
		until $(BINARY) node get n$$n --timeout 2s $(ADMIN) --endpoints https://127.0.0.1:$(HTTP_1) 2>/dev/null | grep -q live; do \
			tries=$$((tries + 1)); \
			if [ $$tries -ge 60 ]; then echo "the gate of n$$n has no session; see $(COMPOSE_REDIS) logs gate-$$n" >&2; exit 1; fi; \
			sleep 1; \
		done; \
	done
	@echo "ready: redis-cli -p $(GATE_1) is n1, redis-cli -p $(GATE_2) is n2. Give n1 a scope, write, move it:"
	@echo "  $(BINARY) --endpoints https://127.0.0.1:$(HTTP_1) $(ADMIN) scope declare shop: --writer n1"
	@echo "  redis-cli -p $(GATE_1) SET shop:1 first"
	@echo "  $(BINARY) --endpoints https://127.0.0.1:$(HTTP_1) $(ADMIN) move start shop: --from n1 --to n2 --precopy --wait"
	@echo "  redis-cli -p $(GATE_2) GET shop:1"

down-redis: ## stop these containers and delete their data; the directory certs stays
	$(COMPOSE_REDIS) down --volumes --remove-orphans

# What a chaos run takes of the three that are asked for most.
CHAOS = $(GO) run ./internal/chaos $(if $(SCENARIO),-scenario $(SCENARIO)) $(if $(SEED),-seed $(SEED)) $(if $(DURATION),-duration $(DURATION)) $(CHAOSFLAGS)

chaos: image image-store ## do faults to containers under load, and check what was answered (SCENARIO=every|servers|mix|… SEED=… DURATION=…)
	$(CHAOS)

chaos-local: ## the same against processes on this machine, and faults of single links and disks (SCENARIO=… SEED=… DURATION=…)
	$(CHAOS) -local

chaos-bugs: ## plant one bug after the other into servers and stores, and see that a chaos run finds each
	$(GO) run ./internal/chaos -broken $(CHAOSFLAGS)

lint: ## lint the Go code and the protobuf schema
	$(TOOL) golangci-lint run --allow-parallel-runners ./...
	cd internal/bench && $(GO) tool -modfile=../../tools/go.mod golangci-lint run --allow-parallel-runners ./...
	$(TOOL) buf lint
	$(TOOL) buf format --diff --exit-code

fmt: ## format the Go code and the protobuf schema
	$(TOOL) golangci-lint fmt ./...
	$(TOOL) buf format --write

generate: ## regenerate internal/pb from its schema, docs/openapi.json from the handlers, and the gate's table of commands
	GO='$(GO)' tools/generated.sh write

check-generated: ## fail, with what differs, if one of them is not current
	GO='$(GO)' tools/generated.sh check

fuzz: ## run each fuzz target for FUZZTIME
	GO='$(GO)' tools/fuzz.sh $(FUZZTIME)

# The server under test is the one that is released.
bench: build ## measure, and put the tables into docs/performance.md (PART=micro or one that bin/bench/bench -list names; ETCD=programs, DOC=, BENCHTIME, BENCHFLAGS)
	GO='$(GO)' ETCD='$(ETCD)' DOC='$(DOC)' BENCHFLAGS='$(BENCHFLAGS)' tools/bench.sh $(BENCHTIME) $(PART)

bench-compare: ## tell what is slower or faster than at BASE, a revision or a file (PKG=packages, BENCH=regexp, BENCHTIME)
	GO='$(GO)' BASE='$(BASE)' PKG='$(PKG)' BENCH='$(BENCH)' tools/bench-compare.sh $(BENCHTIME)

clean: ## remove what the targets above built
	rm -rf bin coverage.* *.test
