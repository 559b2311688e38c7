# What a person types, and .ci/run. Everything else is plain `go`.

GO       ?= go
SOAK     ?= 30m
FUZZTIME ?= 10s
BIN      ?= bin/kicker

# Debian has haproxy there, where a user's PATH does not look.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin

# Empty without git, or in a checkout that git does not trust. Go does not build that with -buildvcs=auto.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)

.PHONY: build test check setup fuzz soak bench notice clean

build: ## bin/kicker, or BIN, static
	CGO_ENABLED=0 $(GO) build -buildvcs=$(if $(VERSION),auto,false) -trimpath -ldflags '-s -w $(if $(VERSION),-X main.version=$(VERSION))' -o $(BIN) ./cmd/kicker

# Everything runs with the race detector. It makes virtual time five times slower, so tests that take much of it run
# without it. The timeout is for tests that hang, even on a slow machine. Most parallel tests only wait. In CI no result
# comes from a cache.
test: setup check ## all tests and checks
	$(GO) test -race -skip '^Test(Invariant[0-9]|Number)' -parallel 4 -timeout 30m $(if $(CI),-count=1) ./...
	$(GO) test -run '^Test(Invariant|Number)' -timeout 30m $(if $(CI),-count=1) ./cmd/kicker/internal/daemon

check: ## static checks, and a build for another system
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

soak: ## random schedules of faults for SOAK; SEED=n repeats one, RACE=1 adds the race detector
	cd cmd/kicker/internal/daemon && $(GO) test $(if $(RACE),-race) -timeout 0 -run '^TestInvariants$$' -args $(if $(SEED),-seed $(SEED),-soak $(SOAK))

# For whole clusters so few repetitions are enough, see docs/explanation/performance.md.
bench: ## the numbers of that page; takes eight minutes, on an idle machine
	$(GO) test -run '^$$' -bench . -benchtime 5s ./inventory ./controller
	$(GO) test -run '^$$' -bench NodeStartsAndLeaves -benchtime 20x ./cmd/kicker/internal/daemon
	$(GO) test -run '^$$' -bench NodeDies -benchtime 5x ./cmd/kicker/internal/daemon
	$(GO) test -run '^$$' -bench 'IdleAgent|Controller' -benchtime 1x ./cmd/kicker/internal/daemon

notice: ## write NOTICE anew, from the licences of the modules in the binary
	$(GO) run ./.ci/notice.go > NOTICE.new && mv NOTICE.new NOTICE

clean:
	rm -rf bin
