#!/bin/bash
# make-images.sh DIR [IMAGE...]: real OCI images out of Debian packages, in the layout DIR/oci.
#
#   base     bash, coreutils, libc and friends: the layer that the next three share
#   python   base + the standard library (zstd) + an application: capabilities, a whiteout, an opaque directory
#   web      base + nginx's files, some of base deleted
#   rebuilt  python with every time changed: new layers, the same files
#   small    twenty thousand small files
# and for benches/ only, because they are large:
#   large    base + three layers of compilers and libraries, 400 MB in few files
#   zstd     the same as zstd
#   fat      the same files in one layer
#   many     a hundred thousand small files
#   rebuilt-small, rebuilt-large: small and large with every time changed
#
# Without names: the first five, about 150 MB unpacked. Each layer is made once: run it again after any failure.
# Packages come from this machine's own apt sources; nothing is installed.
set -euo pipefail
export LC_ALL=C
dir=$(mkdir -p "$1" && cd "$1" && pwd); shift
want=("$@"); [ $# -gt 0 ] || want=(base python web rebuilt small)
work=$dir/work; blobs=$dir/oci/blobs/sha256; mkdir -p "$work/deb" "$blobs"
for tool in apt-get dpkg-deb tar gzip zstd jq flock sha256sum awk; do
  command -v "$tool" >/dev/null || { echo "make-images.sh: $tool is missing" >&2; exit 1; }
done
exec 9>"$dir/lock"; flock 9 # several tests may ask at once
arch=$(dpkg --print-architecture)
echo '{"imageLayoutVersion":"1.0.0"}' >"$dir/oci/oci-layout"

fetch() { (cd "$work/get" && apt-get download -qq -o APT::Sandbox::User=root "$1"); }

# unpack PACKAGE... : their files below the current directory
unpack() {
  local package deb
  for package; do
    deb=$work/deb/$package.deb
    if [ ! -e "$deb" ]; then
      rm -rf "$work/get"; mkdir "$work/get"
      fetch "$package" 2>/dev/null || { apt-get update -qq; fetch "$package"; } # the lists may be missing or old
      mv "$work/get"/*.deb "$deb"
    fi
    dpkg-deb -x "$deb" .
  done
}

# small_files COUNT: as many files of 0 to 6 kB below usr/share/small, a hundred a directory
small_files() {
  mkdir -p usr/share/small; seq -f 'usr/share/small/%04.0f' 0 $((($1 - 1) / 100)) | xargs mkdir
  awk -v count="$1" 'BEGIN { srand(1); for (i = 0; i < count; i++) {
    name = sprintf("usr/share/small/%04d/%06d.js", i / 100, i); lines = int(rand() * rand() * 120); printf "" > name
    for (j = 0; j < lines; j++) printf "export const value_%d_%d = %d; // %d\n", i, j, rand() * 1e9, rand() * 1e6 > name
    close(name) } }'
}

# What each layer holds, made in the current directory.
python_version() { apt-cache depends python3-minimal | sed -n 's/.*Depends: \(python3\.[0-9]*\)-minimal$/\1/p' | head -1; }
files_of() {
  case $1 in
    base) unpack base-files libc6 libc-bin bash coreutils dash sed grep perl-base tzdata mawk
          ln -f usr/share/zoneinfo/Etc/UTC usr/share/zoneinfo/Etc/linked; mkfifo -m 600 run/initctl;;
    py)   [ -n "$(python_version)" ] || apt-get update -qq
          unpack "$(python_version)-minimal" "lib$(python_version)-minimal" "lib$(python_version)-stdlib";;
    app)  mkdir -p srv/app usr/share/doc usr/bin etc; small=; for n in $(seq 300); do echo "print($n)" >"srv/app/m$n.py"; done
          head -c 100000 /dev/zero | tr '\0' x >usr/bin/app; chmod 4755 usr/bin/app
          [ "$(id -u)" != 0 ] || setcap cap_net_raw+ep usr/bin/app
          touch usr/share/doc/.wh..wh..opq usr/share/.wh.zoneinfo; echo new >usr/share/doc/README;;
    web)  unpack nginx-common; mkdir -p usr/share/doc bin; touch usr/share/doc/.wh.bash bin/.wh.mktemp;;
    small) small_files 20000;;
    many) small_files 100000;;
    gcc)  unpack gcc-12 g++-12 cpp-12;;
    llvm) unpack libllvm14 libclang-cpp14;;
    node) unpack libnode108 libicu72 libperl5.36;;
    fat)  for part in base gcc llvm node; do files_of $part; done;;
  esac
}

# layer NAME FILES gzip|zstd [TAR-OPTION...]: packs the files once, and leaves NAME.json, its descriptor and diff_id
layer() {
  local name=$1 files=$work/files-$2 packer=$3 digest; shift 3
  [ ! -e "$work/$name.json" ] || return 0
  if [ ! -e "$files.ok" ]; then
    rm -rf "$files"; mkdir "$files"; (cd "$files" && files_of "${files##*/files-}"); touch "$files.ok"
  fi
  [ $# -gt 0 ] || set -- --clamp-mtime --mtime=@1767225600
  tar -C "$files" --sort=name --numeric-owner --format=posix --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
    --xattrs --xattrs-include='*' "$@" -cf "$work/tar" .
  case $packer in gzip) gzip -nc6 "$work/tar" >"$work/blob";; zstd) zstd -qc3 "$work/tar" >"$work/blob";; esac
  digest=$(sha256sum <"$work/blob"); digest=${digest%% *}
  jq -n --arg digest "sha256:$digest" --arg diff_id "sha256:$(sha256sum <"$work/tar" | cut -d' ' -f1)" \
    --argjson size "$(stat -c %s "$work/blob")" --arg type "application/vnd.oci.image.layer.v1.tar+$packer" \
    '{descriptor: {mediaType: $type, $digest, $size}, $diff_id}' >"$work/json"
  mv "$work/blob" "$blobs/$digest"; rm "$work/tar"; mv "$work/json" "$work/$name.json"
}

# rebuilt FILES gzip|zstd: the layer again with other times
rebuilt() { layer "new-$1" "$1" "$2" --mtime=@1750000000; }

# put TYPE: stores standard input as a blob and prints its descriptor
put() {
  local digest; cat >"$work/put"; digest=$(sha256sum <"$work/put"); digest=${digest%% *}
  jq -nc --arg type "$1" --arg digest "sha256:$digest" --argjson size "$(stat -c %s "$work/put")" '{mediaType: $type, $digest, $size}'
  mv "$work/put" "$blobs/$digest"
}

# image NAME LAYER...: config, manifest and tag
image() {
  local name=$1 config manifest; shift
  local layers=("${@/#/$work/}"); layers=("${layers[@]/%/.json}")
  config=$(jq -sc --arg arch "$arch" '{created: "2026-01-01T00:00:00Z", architecture: $arch, os: "linux", config: {Cmd: ["bash"]},
    rootfs: {type: "layers", diff_ids: map(.diff_id)}}' "${layers[@]}" | put application/vnd.oci.image.config.v1+json)
  manifest=$(jq -sc --argjson config "$config" '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", $config,
    layers: map(.descriptor)}' "${layers[@]}" | put application/vnd.oci.image.manifest.v1+json)
  [ -e "$dir/oci/index.json" ] || echo '{"schemaVersion":2,"manifests":[]}' >"$dir/oci/index.json"
  jq --arg name "$name" --arg arch "$arch" --argjson manifest "$manifest" '"org.opencontainers.image.ref.name" as $key
    | .manifests |= map(select(.annotations[$key] != $name))
      + [$manifest + {platform: {os: "linux", architecture: $arch}, annotations: {($key): $name}}]' "$dir/oci/index.json" >"$work/index"
  mv "$work/index" "$dir/oci/index.json"
}

for name in "${want[@]}"; do
  case $name in
    base) layer base base gzip; image base base;;
    python) layer base base gzip; layer py py zstd; layer app app gzip; image python base py app;;
    web) layer base base gzip; layer web web gzip; image web base web;;
    rebuilt) for part in base:gzip py:zstd app:gzip; do rebuilt "${part%:*}" "${part#*:}"; done; image rebuilt new-{base,py,app};;
    small) layer small small gzip; image small small;;
    many) layer many many gzip; image many many;;
    large) for part in base gcc llvm node; do layer $part $part gzip; done; image large base gcc llvm node;;
    zstd) for part in base gcc llvm node; do layer "zstd-$part" $part zstd; done; image zstd zstd-{base,gcc,llvm,node};;
    fat) layer fat fat gzip; image fat fat;;
    rebuilt-small) rebuilt small gzip; image rebuilt-small new-small;;
    rebuilt-large) for part in base gcc llvm node; do rebuilt $part gzip; done; image rebuilt-large new-{base,gcc,llvm,node};;
    *) echo "make-images.sh: no image is called $name" >&2; exit 2;;
  esac
done
