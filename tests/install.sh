#!/bin/bash
# install.sh: installs cfs-dag in a clean Debian root, once by `make install` and once as a package, and uses it there. Needs
# root and the network of apt-get; leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "install.sh: needs root, for chroot" >&2; exit 1; }
# What is mounted here is seen by no other process.
[ -n "${OWN_MOUNTS:-}" ] || OWN_MOUNTS=1 exec unshare --mount -- tests/install.sh
target=${CARGO_TARGET_DIR:-target}
work=$(mktemp -d)
unmount() { ! mountpoint -q "$work/root/proc" || umount "$work/root/proc"; }
trap 'unmount; rm -rf "$work"' EXIT

read -r site suite < <(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' | head -1)
echo "making a clean root of $suite with debootstrap"
debootstrap --variant=minbase "$suite" "$work/clean" "$site" >"$work/log" || { tail "$work/log" >&2; exit 1; }
in_root() { chroot "$work/root" env PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin "$@"; }
fresh() {
  unmount
  rm -rf "$work/root"
  cp -a "$work/clean" "$work/root"
  rm -rf "$work/root/etc/apt"
  cp -a /etc/apt /etc/resolv.conf "$work/root/etc/"
  mount -t proc proc "$work/root/proc"
}

# An image without skopeo: one layer, from this machine's own tools.
tests/make-images.sh "$target/images" base

# use PREFIX: what a user would try first
use() {
  in_root cfs-dag --version
  cp -a "$target/images/oci" "$work/root/images"
  in_root cfs-dag pull --insecure --progress=none --repo /repo oci:/images:base
  in_root cfs-dag fsck --repo /repo
  for file in share/man/man1/cfs-dag.1 share/man/man1/cfs-dag-mirror.1 share/bash-completion/completions/cfs-dag \
    share/zsh/site-functions/_cfs-dag share/fish/vendor_completions.d/cfs-dag.fish; do
    [ -s "$work/root$1/$file" ] || [ -s "$work/root$1/$file.gz" ] || { echo "missing: $1/$file" >&2; exit 1; }
  done
  for unit in service timer; do
    grep -q cfs-dag "$work/root$1/lib/systemd/system/cfs-dag-mirror@.$unit"
  done
}

echo "make install"
fresh
make --no-print-directory install PREFIX=/usr/local DESTDIR="$work/root" >/dev/null
in_root apt-get update -qq
in_root apt-get install -y -qq --no-install-recommends libssl3 ca-certificates skopeo >/dev/null
use /usr/local
cp "$work/root/usr/local/lib/systemd/system/cfs-dag-mirror@."* "$work/"
# systemd looks for the program that a unit starts.
sed -i "s|^ExecStart=[^ ]*|ExecStart=/bin/true|" "$work/cfs-dag-mirror@.service"
systemd-analyze verify --man=no "$work/cfs-dag-mirror@.service" "$work/cfs-dag-mirror@.timer"

echo "the Debian package"
fresh
cp "$(ls -t "$target"/debian/cfs-dag_*.deb | head -1)" "$work/root/cfs-dag.deb"
in_root apt-get update -qq
in_root apt-get install -y -qq --no-install-recommends /cfs-dag.deb >/dev/null
in_root sh -c 'command -v skopeo >/dev/null' || { echo "the package does not bring skopeo" >&2; exit 1; }
use /usr
in_root dpkg --verify cfs-dag
in_root apt-get remove -y -qq cfs-dag >/dev/null
[ ! -e "$work/root/usr/bin/cfs-dag" ]
echo "installed, used and removed"
