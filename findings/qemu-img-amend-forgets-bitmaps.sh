#!/usr/bin/env bash
# `qemu-img amend -o compat=0.10` succeeds on an image with dirty bitmaps, and ends them.
#
# Seen with: qemu-utils 1:7.2+dfsg-7+deb12u18+b3 (QEMU 7.2.22, Debian 12), 2026-11-29.
#
# Version 2 of qcow2 has no autoclear flags, so it cannot have bitmaps that are to be trusted. `amend` refuses a step
# down that would lose other things of version 3 (an external data file, other widths of reference counts where the
# program cannot change them), but not this one: it ends with 0 and prints nothing. Only the next program that opens the image
# warns, the bitmaps are no longer listed, and the way back up to `compat=1.1` does not bring them back. The next
# incremental backup finds no bitmap.
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
qemu-img bitmap --add disk.qcow2 daily
qemu-img info disk.qcow2 | grep -q 'name: daily' || fail 'the bitmap is not listed at first'

qemu-img amend -f qcow2 -o compat=0.10 disk.qcow2 >said 2>&1 || fail "amend refuses: $(cat said)"
[ ! -s said ] || fail "amend says something: $(cat said)"
echo 'amend to compat=0.10: exit code 0, no word'

qemu-img info disk.qcow2 >info 2>&1
grep -q 'all be considered inconsistent' info || fail 'the next program does not warn'
! grep -q 'name: daily' info || fail 'the bitmap is still listed'
grep 'warning' info

qemu-img amend -f qcow2 -o compat=1.1 disk.qcow2 2>/dev/null
! qemu-img info disk.qcow2 2>/dev/null | grep -q 'name: daily' || fail 'the bitmap comes back'
echo 'back at compat=1.1: no bitmap'
