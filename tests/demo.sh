#!/bin/bash
# demo.sh: builds cfs-dag, makes some images, and shows what it does with them. Leaves nothing behind but the build
# folder, with two pages in it; works as any user, and mounts an image when it may.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
root=$PWD
case $target in /*) root=;; esac

echo "building cfs-dag (minutes, the first time)"
cargo build --release --quiet
echo "making images out of Debian packages (a minute, the first time)"
tests/make-images.sh "$target/images" base python web

PATH=$(cd "$target/release" && pwd):$PATH
images=$(cd "$target/images" && pwd)/oci
work=$(mktemp -d)
clean_up() {
  [ -z "${registry:-}" ] || kill "$registry" 2>/dev/null || true
  ! mountpoint -q "$work/mnt" || umount "$work/mnt"
  rm -rf "$work"
}
trap clean_up EXIT
cd "$work"
ln -s "$images" images
mkdir mnt

# show WORDS...: prints a command as one would type it, and runs it
show() { printf '\n\e[1m$ %s\e[0m\n' "$*"; "$@"; }
say() { printf '\n\e[36m# %s\e[0m\n' "$*"; }

say "Two images that share their lowest layer are one graph. The plan, before anything is read:"
show cfs-dag pull --dry-run --insecure --repo repo oci:images:python oci:images:web

say "The same plan as a page, for a browser:"
pages=$root/$target/demo
mkdir -p "$pages"
cfs-dag pull --dry-run=html --insecure --repo repo oci:images:python oci:images:web >"$pages/plan.html"
echo "$pages/plan.html"

say "The pull itself: the shared layer is read, split and stored once."
show cfs-dag pull --insecure --repo repo oci:images:python oci:images:web

say "Where the time went, and the same as a page:"
show cfs-dag log --repo repo --critical-path
show cfs-dag log --repo repo --timings="$pages/timings.html"

say "Why python's first layer was read, and web's was not:"
show cfs-dag log --repo repo --why oci:images:web:1

say "Again: nothing is left to do."
show cfs-dag pull --repo repo oci:images:python oci:images:web

say "From a registry on loopback: other names, the same layers, so nothing is fetched but the manifest and the config."
port=$((20000 + RANDOM % 20000))
printf 'version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:%s"}\n' \
  "$work/registry" "$port" >registry.yml
docker-registry serve registry.yml >registry.log 2>&1 & registry=$!
for _ in $(seq 100); do (: <>/dev/tcp/127.0.0.1/"$port") 2>/dev/null && break; sleep 0.1; done
skopeo copy --insecure-policy -q --preserve-digests --dest-tls-verify=false oci:images:web "docker://127.0.0.1:$port/web:latest"
show cfs-dag pull --repo repo --tls-verify=false "docker://127.0.0.1:$port/web:latest"

say "A list, mirrored: tags by version, what they stand for now, and what the list has lost."
for tag in 1.0 1.1 2.0; do
  skopeo copy --insecure-policy -q --preserve-digests --dest-tls-verify=false oci:images:base "docker://127.0.0.1:$port/base:$tag"
done
printf '127.0.0.1:%s:\n  tls-verify: false\n  images: {web: [latest]}\n  images-by-semver: {base: {semver: ">= 1", newest: 2}}\n' \
  "$port" >list.yaml
show cat list.yaml
show cfs-dag mirror list.yaml --repo mirror --insecure --dry-run
show cfs-dag mirror list.yaml --repo mirror --insecure --lock list.lock
sed -i '/images:/d' list.yaml
show cfs-dag mirror list.yaml --repo mirror --prune
show cat list.lock

say "What the repository holds, and whether it is sound:"
show cfs-dag images --repo repo
show cfs-dag fsck --repo repo

if [ "$(id -u)" = 0 ]; then
  say "An image, mounted by the kernel (EROFS and overlayfs):"
  show cfs-dag mount --repo repo oci:images:web mnt
  show ls mnt mnt/etc/nginx
else
  say "Mounting needs root: left out."
fi
