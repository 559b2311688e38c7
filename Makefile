# What a person types, and what .ci/run types. Everything else is plain `go`.

GO       ?= go
SOAK     ?= 30m
FUZZTIME ?= 10s
BIN      ?= bin/kicker

# Where Debian keeps haproxy, and where a user's PATH does not look.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin

# Empty without git, or in a checkout that git does not trust, where Go would refuse to build with -buildvcs=auto.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)

.PHONY: build test check setup fuzz soak bench notice clean

build: ## bin/kicker, or BIN, static
	CGO_ENABLED=0 $(GO) build -buildvcs=$(if $(VERSION),auto,false) -trimpath -ldflags '-s -w $(if $(VERSION),-X main.version=$(VERSION))' -o $(BIN) ./cmd/kicker

# Everything with the race detector, which makes virtual time five times as dear, and so what takes much of it in full without. The limit is
# for what hangs, however slow the machine. Most tests that run beside each other only wait. In CI no result is taken from a cache.
test: setup check ## everything that must hold
	$(GO) test -race -skip '^Test(Invariant[0-9]|Number)' -parallel 4 -timeout 30m $(if $(CI),-count=1) ./...
	$(GO) test -run '^Test(Invariant|Number)' -timeout 30m $(if $(CI),-count=1) ./cmd/kicker/internal/daemon

check: ## what can be said without running it
	@unformatted=$$(gofmt -l .) && \
	test -z "$$unformatted" || { echo "gofmt these: $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	GOOS=darwin $(GO) build -o /dev/null ./cmd/kicker

setup: ## haproxy and a C compiler, if they are missing
	@.ci/setup.sh

fuzz: ## every fuzz target for FUZZTIME
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' . | sort | while read -r file; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			echo "$$(dirname "$$file") $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; \
		done; \
	done

soak: ## random schedules of faults for SOAK; SEED=n plays one of them again
	cd cmd/kicker/internal/daemon && $(GO) test $(if $(RACE),-race) -timeout 0 -run '^TestInvariants$$' -args $(if $(SEED),-seed $(SEED),-soak $(SOAK))

# Of what happens to whole clusters so many times are enough; see docs/explanation/performance.md.
bench: ## what that page has numbers of; takes eight minutes, on a machine that does nothing else
	$(GO) test -run '^$$' -bench . -benchtime 5s ./inventory ./controller
	$(GO) test -run '^$$' -bench NodeStartsAndLeaves -benchtime 20x ./cmd/kicker/internal/daemon
	$(GO) test -run '^$$' -bench NodeDies -benchtime 5x ./cmd/kicker/internal/daemon
	$(GO) test -run '^$$' -bench 'IdleAgent|Controller' -benchtime 1x ./cmd/kicker/internal/daemon

notice: ## NOTICE anew, from the licences of the modules in the binary
	$(GO) run ./.ci/notice.go > NOTICE.new && mv NOTICE.new NOTICE

clean:
	rm -rf bin
