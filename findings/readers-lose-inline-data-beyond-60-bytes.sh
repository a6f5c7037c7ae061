#!/usr/bin/env bash
# Three readers of ext4 know inline_data, and get every small file of more than 60 bytes wrong, each in its own way.
#
# Seen with: dissect.extfs 3.15 (dissect.util 3.24, dissect.cstruct 4.7), ext4 1.4.1 and libfsext-python 20260821 (PyPI) on
# a file system of e2fsprogs 1.47.0-2+b2 (Debian 12), 2026-11-29.
#
# With inline_data a file that fits lies in its inode: 60 bytes in place of the block map, the rest in the attribute
# system.data. All three take the first 60 bytes and none the rest: dissect returns a file that is too short, the
# other two return the right length with wrong bytes, and nobody raises an error. A file of 60 bytes is right, so a test with
# "hello" passes. The same holds for links to 61 characters or more.
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

python3 -m venv python
python/bin/pip install -q dissect.extfs==3.15 dissect.util==3.24 dissect.cstruct==4.7 ext4==1.4.1 libfsext-python==20260821

mkdir tree
printf '%060d' 0 | tr 0 a >tree/sixty
printf '%0100d' 0 | tr 0 b >tree/hundred
truncate -s 32M disk.img
mke2fs -q -F -t ext4 -O inline_data -d tree disk.img
e2fsck -fn disk.img >/dev/null 2>&1 || fail 'e2fsck finds something'
[ "$(debugfs -R 'cat hundred' disk.img 2>/dev/null)" = "$(cat tree/hundred)" ] || fail 'debugfs reads otherwise'
echo 'debugfs cat: 100 bytes, right'

python/bin/python - <<'PYTHON'
import sys
import ext4, pyfsext
from dissect.extfs import ExtFS


def by_dissect(name):
    with open("disk.img", "rb") as image:
        return ExtFS(image).get(name).open().read()


def by_ext4(name):
    with open("disk.img", "rb") as image:
        return ext4.Volume(image).inode_at("/" + name).open().read()


def by_libfsext(name):
    volume = pyfsext.volume()
    volume.open("disk.img")
    entry = volume.get_file_entry_by_path("/" + name)
    return entry.read_buffer(entry.get_size())


changed = False
for reader, length in ((by_dissect, 60), (by_ext4, 100), (by_libfsext, 100)):
    sixty, hundred = reader("sixty"), reader("hundred")
    right = sum(byte == ord("b") for byte in hundred)
    print(f"{reader.__name__}: sixty {sixty == b'a' * 60}, hundred: {len(hundred)} bytes, {right} of them right")
    changed |= sixty != b"a" * 60 or len(hundred) != length or right != 60
sys.exit("CHANGED" if changed else 0)
PYTHON
