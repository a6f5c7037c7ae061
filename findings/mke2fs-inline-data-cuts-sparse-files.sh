#!/usr/bin/env bash
# `mke2fs -d` with inline_data cuts off the hole at the end of a file.
#
# Seen with: e2fsprogs 1.47.0-2+b2 (Debian 12), 2026-11-29.
#
# `mke2fs -d FOLDER` fills a new ext4 from a folder: the way in which images of guests and of tests are made without a
# mount. With the feature inline_data on, a file that ends in a hole (a preallocated database, a virtual disk) gets the
# size of its last data: 5 of 9 MiB here. `e2fsck` finds nothing wrong. A file that is one hole keeps its size, and
# without inline_data all sizes are right, so it shows in neither of the two tests that one would write first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# Debian's e2fsprogs and the libraries it needs, unpacked beside the system.
version='1.47.0-2+b2'
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
unpack e2fsprogs
export LD_LIBRARY_PATH=$work/root/lib/x86_64-linux-gnu:$work/root/usr/lib/x86_64-linux-gnu
export PATH=$work/root/sbin:$PATH
mke2fs -V 2>&1 | head -1

fail() { echo "CHANGED: $*" >&2; exit 1; }

mkdir tree
truncate -s 9M tree/ends-in-hole tree/all-hole
printf 'data' | dd of=tree/ends-in-hole bs=1M seek=5 conv=notrunc status=none

size() { debugfs -R "stat $2" "$1" 2>/dev/null | sed -n 's/.*Size: \([0-9]*\).*/\1/p' | head -1; }

for features in '^inline_data' inline_data; do
  truncate -s 32M "$features.img"
  mke2fs -q -F -t ext4 -O "$features" -d tree "$features.img" 2>/dev/null
  e2fsck -fn "$features.img" >/dev/null 2>&1 || fail "e2fsck finds something in $features"
  echo "$features: ends-in-hole $(size "$features.img" ends-in-hole), all-hole $(size "$features.img" all-hole)"
done
[ "$(size ^inline_data.img ends-in-hole)" = 9437184 ] || fail 'the size is wrong without inline_data'
[ "$(size inline_data.img all-hole)" = 9437184 ] || fail 'the size of the file that is one hole is wrong'
[ "$(size inline_data.img ends-in-hole)" = 5243904 ] || fail 'the file is not cut to its last block of data'
