# A static binary runs on any distribution, with no loader and no libraries to map. The target is named even though
# it is the host's own: only then are build scripts and procedural macros left out of the static linking.
TARGET  := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
RELEASE := target/$(TARGET)/release
PREFIX  ?= /usr/local
CARGO   ?= cargo
# What the tests under real managers note as passed; the README's table is made from it.
RESULTS := $(CURDIR)/target/results

.DEFAULT_GOAL := help
.PHONY: help build run install test test-vm tools bench

## For users

build: ## Build the release binaries, statically linked
	@command -v $(CARGO) >/dev/null || { echo "no cargo: install Rust 1.88 or newer"; exit 1; }
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked --target $(TARGET)
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
	COTTER_TEST_RUNTIMES=newest $(CARGO) test --locked --test faults --test runtime --test task --test terminal
	@tests/setup/table $(RESULTS)

bench: tools ## Compare with the Go shims and the Rust one, side by side (needs root, 20 minutes)
	@[ "$$(id -u)" = 0 ] || { echo "the comparison starts containers: run it as root"; exit 1; }
	@bench/peer
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) bench --locked --target $(TARGET) --bench shims -- $(BENCH)

test-vm: tools ## Run the tests of cgroup v2, systemd and CRIU in a virtual machine (needs root)
	@tests/vm/run
	@tests/setup/vm-kernel
	@COTTER_VM_KERNEL=$${COTTER_TOOLS:-target/tools}/vm-kernel/kernel tests/vm/run resources pids::

## Other

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
	    /^## / { printf "\n%s\n", substr($$0, 4) } \
	    /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
