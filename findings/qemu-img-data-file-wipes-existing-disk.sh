#!/usr/bin/env bash
# Giving an existing raw disk to a new qcow2 as its external data file wipes the disk.
#
# Seen with: qemu-utils 1:7.2+dfsg-7+deb12u18+b3 (QEMU 7.2.22, Debian 12), 2026-11-29.
#
# A raw image cannot hold a dirty bitmap. QEMU's answer is a small qcow2 that holds the bitmaps and has the raw
# image as its "data file", byte for byte (`data_file_raw=on`). The command that looks as if it put such a qcow2
# before a disk that is there, `qemu-img create -o data_file=DISK,data_file_raw=on`, opens no existing file: it
# makes DISK anew, all zeros, without a question, a warning or an exit code. The file is named by an option, as a
# backing file is, and a backing file is left alone.
#
# What works: let `create` make a data file of its own, and name the disk afterwards with
# `qemu-img amend -o data_file=DISK`. Both sizes must be equal.
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

yes 'a company' | head -c 4194304 >disk.raw || true
cp disk.raw copy.raw

qemu-img create -q -f qcow2 -o backing_file=disk.raw,backing_fmt=raw overlay.qcow2
cmp -s disk.raw copy.raw || fail 'the backing file was written to'
echo 'named as backing file: untouched'

qemu-img create -q -f qcow2 -o data_file=other.raw,data_file_raw=on bitmaps.qcow2 4M
qemu-img amend -f qcow2 -o data_file=disk.raw bitmaps.qcow2
cmp -s disk.raw copy.raw || fail 'amend wrote to the disk'
qemu-img compare -q -f qcow2 -F raw bitmaps.qcow2 copy.raw || fail 'amend does not lead to the disk'
echo 'named as data file by amend: untouched, and read'

qemu-img create -q -f qcow2 -o data_file=disk.raw,data_file_raw=on new.qcow2 4M 2>said || fail "it refuses: $(cat said)"
[ ! -s said ] || fail "it says something: $(cat said)"
cmp -s <(head -c 4194304 /dev/zero) disk.raw || fail 'the disk is not all zeros'
echo 'named as data file by create: all zeros, exit code 0, no word'
