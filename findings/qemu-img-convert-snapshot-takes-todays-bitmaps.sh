#!/usr/bin/env bash
# `qemu-img convert -l SNAPSHOT --bitmaps` gives an old state the bitmaps of today.
#
# Seen with: qemu-utils 1:7.2+dfsg-7+deb12u18+b3 (QEMU 7.2.22, Debian 12), 2026-11-29.
#
# A qcow2 has one set of bitmaps, that of its present; an internal snapshot has none. `convert -l` reads the blocks of
# the snapshot, `--bitmaps` copies the bitmaps of the present, and the two options together are neither refused nor
# warned of. The copy then says that blocks changed which are holes in it, and an incremental backup that goes by that
# bitmap is one of another disk.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# Debian's QEMU and the libraries it needs, unpacked beside the system.
version='1:7.2+dfsg-7+deb12u18+b3'
unpack() {
  mkdir debs root
  local needed
  needed=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances "$1" | grep '^[a-z]' | sort -u |
    grep -Ev "^(libc6|$1|libgcc-s1|gcc-.*-base|debconf.*|perl.*|cdebconf.*|dpkg|tar)(:|\$)")
  # shellcheck disable=SC2086
  (cd debs && apt-get -o APT::Sandbox::User=root download -qq "$1=$version" $needed)
  for package in debs/*.deb; do dpkg -x "$package" root; done
}
unpack qemu-utils
export LD_LIBRARY_PATH=$work/root/usr/lib/x86_64-linux-gnu:$work/root/lib/x86_64-linux-gnu
export PATH=$work/root/usr/bin:$PATH
qemu-img --version | head -1

fail() { echo "CHANGED: $*" >&2; exit 1; }

qemu-img create -q -f qcow2 disk.qcow2 4M
qemu-io -c 'write -q -P 1 0 64k' disk.qcow2
qemu-img snapshot -c monday disk.qcow2
# The bitmap is younger than the snapshot.
qemu-img bitmap --add disk.qcow2 daily
qemu-io -c 'write -q -P 2 1M 64k' disk.qcow2

qemu-img convert -l monday --bitmaps -O qcow2 disk.qcow2 monday.qcow2 >said 2>&1 || fail "it refuses: $(cat said)"
[ ! -s said ] || fail "it says something: $(cat said)"
qemu-img info monday.qcow2 | grep -q 'name: daily' || fail 'the copy has no bitmap'
qemu-io -r -c 'read -q -P 0 1M 64k' monday.qcow2 | grep -q 'failed' && fail 'the copy has the block of today'
echo 'the copy has the blocks of monday (nothing at 1 MiB)'

qemu-nbd -r -f qcow2 -B daily -t -k "$work/socket" monday.qcow2 &
server=$!
trap 'kill $server; wait; rm -rf "$work"' EXIT
for _ in $(seq 100); do [ -S socket ] && break; sleep 0.1; done
qemu-img map --output=json --image-opts \
  driver=nbd,server.type=unix,server.path="$work/socket",x-dirty-bitmap=qemu:dirty-bitmap:daily >map
cat map
grep -q '"start": 1048576, "length": 65536.*"data": false' map || fail 'the bitmap does not have the change of today'
echo 'and the bitmap of today (64 KiB at 1 MiB changed)'
