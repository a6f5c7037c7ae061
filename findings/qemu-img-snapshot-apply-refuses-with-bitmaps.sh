#!/usr/bin/env bash
# An internal snapshot can be taken beside a dirty bitmap, but not applied, not even when the bitmap is disabled.
#
# Seen with: qemu-utils 1:7.2+dfsg-7+deb12u18+b3 (QEMU 7.2.22, Debian 12), 2026-11-29.
#
# Whoever switches a machine to incremental backup (which leaves a persistent bitmap in each disk) takes internal
# snapshots as before. The way back is refused: `Device has active dirty bitmaps`; it is found on the day when it is
# needed. "Active" is no hint: a disabled bitmap, which records nothing, is refused as well. Only when every bitmap is
# removed is the snapshot applied, and with them goes the next incremental backup.
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
qemu-io -c 'write -q -P 2 0 64k' disk.qcow2
# A backup is taken now: from here on the bitmap lists changes.
qemu-img bitmap --add disk.qcow2 daily
qemu-img snapshot -c tuesday disk.qcow2
echo 'a snapshot beside an active bitmap: made'

if qemu-img snapshot -a monday disk.qcow2 2>said; then fail 'it is applied'; fi
grep -q 'active dirty bitmaps' said || fail "it says something else: $(cat said)"
cat said

qemu-img bitmap --disable disk.qcow2 daily
if qemu-img snapshot -a monday disk.qcow2 2>said; then fail 'it is applied beside a disabled bitmap'; fi
grep -q 'active dirty bitmaps' said || fail "it says something else: $(cat said)"
echo 'the same with the bitmap disabled'

qemu-img bitmap --remove disk.qcow2 daily
qemu-img snapshot -a monday disk.qcow2
qemu-io -r -c 'read -q -P 1 0 64k' disk.qcow2 | grep -q failed && fail 'the old block is not back'
echo 'applied when the bitmap is removed'
