# A static binary runs on any distribution, with no loader and no libraries to map. The target is named even though
# it is the host's own: only then are build scripts and procedural macros left out of the static linking.
# Who installs may have no rustc (sudo has another PATH): then it is what was built.
TARGET  := $(or $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p'),$(notdir \
               $(patsubst %/release/cotter,%,$(firstword $(wildcard target/*/release/cotter)))))
RELEASE := target/$(TARGET)/release
PREFIX  ?= /usr/local
CARGO   ?= cargo
# What the tests under real managers note as passed; the README's table is made from it.
RESULTS := $(CURDIR)/target/results

.DEFAULT_GOAL := help
.PHONY: help build run install test deny test-vm test-vm-newer test-suites tools bench chaos fuzz

## For users

# Each package by itself: built together, a library that both use would have what either asks of it.
build: ## Build the release binaries, statically linked
	@command -v $(CARGO) >/dev/null || { echo "no cargo: install Rust 1.88 or newer"; exit 1; }
	for package in cotter cotter-tool; do RUSTFLAGS="-C target-feature=+crt-static" \
	    $(CARGO) build --release --locked --target $(TARGET) --package $$package || exit 1; done
	@ls -l $(RELEASE)/cotter $(RELEASE)/containerd-shim-cotter-v2

run: ## Run a container through the shim and show its output and events (needs root)
	@tests/setup/tools host
	@$(MAKE) --no-print-directory build
	@[ "$$(id -u)" = 0 ] || { echo "containers need root: run  sudo $(RELEASE)/cotter run --events -- uname -a"; exit 1; }
	$(RELEASE)/cotter run --events -- sh -c 'echo "hello from $$(hostname), pid $$$$"; exec ls /'

install: ## Install both binaries under $(DESTDIR)$(PREFIX)/bin (build first)
	install -D -m 0755 $(RELEASE)/cotter $(DESTDIR)$(PREFIX)/bin/cotter
	install -D -m 0755 $(RELEASE)/containerd-shim-cotter-v2 $(DESTDIR)$(PREFIX)/bin/containerd-shim-cotter-v2

## For developers

tools: ## Fetch what the tests need: runtimes, three containerds, a root file system
	@tests/setup/tools

test: tools ## Check formatting, lints and docs, then run every test (needs root)
	@[ "$$(id -u)" = 0 ] || { echo "the tests start containers: run them as root"; exit 1; }
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked --no-deps --document-private-items
	@rm -f $(RESULTS)
	COTTER_RESULTS=$(RESULTS) $(CARGO) test --locked
	COTTER_TEST_RUNTIMES=newest COTTER_EXEC_BY=direct $(CARGO) test --locked --test faults --test runtime --test task --test terminal
	@tests/setup/table $(RESULTS)

deny: ## Check licences, duplicates and sources of all that is built in
	@tests/setup/deny

bench: tools ## Compare with the Go shims and the Rust one, side by side (needs root, 20 minutes)
	@[ "$$(id -u)" = 0 ] || { echo "the comparison starts containers: run it as root"; exit 1; }
	@bench/peer
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) bench --locked --target $(TARGET) --bench shims -- $(BENCH)

chaos: tools ## Break everything around the shims and count what is lost (needs root; CHAOS=--ours for some 10 minutes, "--short --ours" for 4)
	@[ "$$(id -u)" = 0 ] || { echo "the faults need containers: run it as root"; exit 1; }
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) bench --locked --target $(TARGET) --bench chaos -- $(CHAOS)

# What is found is kept below target/fuzz/found; a copy of it in fuzz/corpus makes it a test for good. No sanitizer:
# the parsers are safe Rust, and the compiler that everybody has needs no nightly flags then.
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
fuzz: ## Look for inputs that break a parser, FUZZ_SECONDS on each of FUZZ_TARGETS
	@command -v cargo-fuzz >/dev/null || [ -x target/fuzz/bin/cargo-fuzz ] || \
	    $(CARGO) install cargo-fuzz --locked --root target/fuzz
	@for target in $(FUZZ_TARGETS); do \
	    mkdir -p target/fuzz/found/$$target target/fuzz/grown/$$target; \
	    PATH="$(CURDIR)/target/fuzz/bin:$$PATH" $(CARGO) fuzz run -s none \
	        --target-dir target/fuzz $$target target/fuzz/grown/$$target fuzz/corpus/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=10 -rss_limit_mb=1024 \
	        -artifact_prefix=target/fuzz/found/$$target/ -print_final_stats=1 || exit 1; \
	done

test-suites: tools ## Run containerd's and Docker's own suites, with the Go shim and with ours (needs root)
	@[ "$$(id -u)" = 0 ] || { echo "the suites start containers: run them as root"; exit 1; }
	$(CARGO) build --locked
	@tests/suites/run

test-vm: tools ## Run the tests of cgroup v2, systemd and CRIU in a virtual machine (needs root)
	@tests/vm/run
	@COTTER_VM_CGROUPS=mixed tests/vm/run resources mixed::pids_on_v2 --ignored

test-vm-newer: tools ## Run the tests of process limits under a newer kernel, which counts them otherwise (needs root)
	@tests/setup/vm-kernel
	@COTTER_VM_KERNEL=$${COTTER_TOOLS:-target/tools}/vm-kernel/kernel tests/vm/run resources pids::

## Other

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
	    /^## / { printf "\n%s\n", substr($$0, 4) } \
	    /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
