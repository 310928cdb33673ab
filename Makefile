# The entry points of the checkout. Each installs what is missing, so that they work on a bare machine with rustup and a C
# compiler (and, for `make test`, python3 and a C++ compiler).

CARGO ?= cargo
DEMO_ARGS ?=
BENCH_ARGS ?=

SEED ?=
ROUNDS ?=
ROW ?=
MINUTES ?=
FAULTS_ARGS ?=

SECONDS ?= 60
TARGET ?=

SCHEDULES ?= 1000
SIM_ARGS ?=

.PHONY: up test demo bench faults fuzz sim check clean

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

# Breaks a cluster of real nodes in every way: make faults [SEED=n] [ROUNDS=n] [ROW=name[,name]];
# an hour of mixed faults: make faults ROW=SOAK [MINUTES=60]. As root each node has a
# network of its own; without, rows that cut networks are skipped.
faults:
	$(CARGO) build --release --locked -p iris-appliance -p iris-tests --bins
	@./target/release/faults $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ROW),--row $(ROW)) $(if $(MINUTES),--minutes $(MINUTES)) $(FAULTS_ARGS)

# Looks for inputs that break a decoder's promises, longer than `make test` does: make fuzz [TARGET=session] [SECONDS=600].
fuzz:
	@SECONDS_EACH=$(SECONDS) ./scripts/fuzz $(TARGET)

# A whole cluster in one thread and virtual time, under seeded schedules of faults: make sim [SEED=7] [SCHEDULES=1000]
# [SIM_ARGS=--week]. It stops at the first broken promise and prints the command that replays it.
sim:
	$(CARGO) build --release --locked -p iris-tests --features simulation --bin sim
	@./target/release/sim --seed $(or $(SEED),1) --schedules $(SCHEDULES) $(SIM_ARGS)

# What a developer runs between edits.
check:
	$(CARGO) clippy --workspace --all-targets --all-features --locked -- -D warnings

clean:
	$(CARGO) clean
