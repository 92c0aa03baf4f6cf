# make            builds cfs-dag
# make install    installs the program, its manual, completions and systemd units below PREFIX (/usr/local), in DESTDIR
# make deb        makes a Debian package in target/debian
# make demo       builds cfs-dag and shows it: plan, pull, pull again, registry, fsck, mount
# make test       runs all tests, with a real registry, real images and, as root, real mounts
# make test-vm    runs those tests alone that boot a small machine: a kernel with fs-verity, power cuts
# make test-install  installs in a clean Debian root, as `make install` and as a package
# make fuzz       runs each fuzz target for a minute (ARGS="600 split" for longer, or for some)
# make bench      measures it beside upstream's pull of the same images (ARGS=--quick for a first look, --scaling for curves)
#
# What a target needs beside Rust it installs with apt-get, and says so before: .ci/install-tools has the list.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO_TARGET_DIR ?= target
program = $(CARGO_TARGET_DIR)/release/cfs-dag
root = $(DESTDIR)$(PREFIX)
stage = $(CARGO_TARGET_DIR)/stage

.PHONY: build install deb demo test test-vm test-install fuzz bench

build:
	@.ci/install-tools build
	cargo build --release --locked

# Builds only what is not there, so that `make && sudo make install` compiles nothing as root.
$(program):
	cargo build --release --locked

install: $(program)
	install -D -s -m 755 $(program) $(root)/bin/cfs-dag
	install -d $(root)/share/man/man1 $(root)/share/zsh/site-functions $(root)/lib/systemd/system
	$(program) man --out $(root)/share/man/man1
	install -d $(root)/share/bash-completion/completions $(root)/share/fish/vendor_completions.d
	$(program) completions bash >$(root)/share/bash-completion/completions/cfs-dag
	$(program) completions zsh >$(root)/share/zsh/site-functions/_cfs-dag
	$(program) completions fish >$(root)/share/fish/vendor_completions.d/cfs-dag.fish
	for unit in contrib/systemd/*; do \
	  sed 's|^ExecStart=cfs-dag|ExecStart=$(PREFIX)/bin/cfs-dag|' $$unit >$(root)/lib/systemd/system/$${unit##*/}; \
	done

deb: build
	@command -v cargo-deb >/dev/null || { echo "installing with cargo: cargo-deb"; cargo install --locked cargo-deb; }
	rm -rf $(stage)
	$(MAKE) --no-print-directory install PREFIX=/usr DESTDIR=$(stage)
	cargo deb --no-build --no-strip

demo:
	@.ci/install-tools build demo
	@tests/demo.sh

test:
	@.ci/install-tools build demo test
	cargo test

test-vm:
	@.ci/install-tools build demo test
	cargo test --test vm

test-install: deb
	@.ci/install-tools build demo install
	@tests/install.sh

fuzz:
	@.ci/fuzz $(ARGS)

bench:
	@.ci/install-tools build demo
	@benches/run.py $(ARGS)
