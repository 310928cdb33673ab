# The entry points of the checkout. Each installs what is missing, so that they work on a bare machine with rustup and a C
# compiler (and, for `make test`, python3 and a C++ compiler).

CARGO ?= cargo
DEMO_ARGS ?=
BENCH_ARGS ?=

SEED ?=
ROUNDS ?=
ROW ?=
FAULTS_ARGS ?=

SECONDS ?= 60
TARGET ?=

.PHONY: up test demo bench faults fuzz check clean

# Builds Iris, starts one node with no config file and its data in a folder of its own. Ctrl-C stops it cleanly.
up:
	$(CARGO) build --release --locked -p iris-appliance
	@exec ./target/release/iris up

# Everything: formatting, lints, documentation, licences, then every test, those with real clusters included.
test:
	./scripts/test

# Three nodes, 5,574 real messages, two kill -9.
demo:
	$(CARGO) build --release --locked -p iris-appliance -p iris-tests --bins
	@./target/release/demo $(DEMO_ARGS)

# Figures of docs/performance.md, as ratios to floors measured in the same run.
bench:
	$(CARGO) build --release --locked -p iris-appliance -p iris-tests --bins
	@./target/release/bench $(BENCH_ARGS)

# Breaks a cluster of real nodes in every way: make faults [SEED=n] [ROUNDS=n] [ROW=name[,name]]. As root each node has a
# network of its own; without, rows that cut networks are skipped.
faults:
	$(CARGO) build --release --locked -p iris-appliance -p iris-tests --bins
	@./target/release/faults $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ROW),--row $(ROW)) $(FAULTS_ARGS)

# Looks for inputs that break a decoder's promises, longer than `make test` does: make fuzz [TARGET=session] [SECONDS=600].
fuzz:
	@SECONDS_EACH=$(SECONDS) ./scripts/fuzz $(TARGET)

# What a developer runs between edits.
check:
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings

clean:
	$(CARGO) clean
