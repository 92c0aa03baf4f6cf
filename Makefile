# make demo    builds cfs-dag and shows it: plan, pull, pull again, registry, fsck, mount (about 5 minutes the first time)
# make test    runs all tests, with a real registry, real images and, as root, real mounts
# make test-vm runs those alone that boot a small machine: a kernel with fs-verity, power cuts (.ci/vm-tools fetches it)
# make fuzz    runs each fuzz target for a minute (ARGS="600 split" for longer, or for some)
# make bench   measures it beside upstream's pull of the same images (ARGS=--quick for a first look, --scaling for curves)
#
# Each installs with apt-get what is missing of the tools in .ci/install-tools, and says so. Rust must be there.

.PHONY: demo test test-vm fuzz bench

demo:
	@.ci/install-tools
	@tests/demo.sh

test:
	@.ci/install-tools
	cargo test

test-vm:
	@.ci/install-tools
	cargo test --test vm

fuzz:
	@.ci/fuzz $(ARGS)

bench:
	@.ci/install-tools python3
	@benches/run.py $(ARGS)
