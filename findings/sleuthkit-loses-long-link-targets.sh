#!/usr/bin/env bash
# The Sleuth Kit knows no target of a symbolic link of 60 characters or more on ext4.
#
# Seen with: pytsk3 20260715 on file systems of e2fsprogs 1.47.0-2+b2 (Debian 12), 2026-11-29.
#
# A target of up to 59 characters lies in the inode, a longer one in a block. On ext4 that block is found by an extent, on
# ext2 and ext3 by a block map. The Sleuth Kit reads files through both, but the target of a link only through the
# block map: with extents, today's default, it reports a one-character target and no error, so a restore through it makes
# links that lead nowhere (`0`).
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
python/bin/pip install -q pytsk3==20260715

mkdir tree
ln -s "$(printf '%059d' 0 | tr 0 a)" tree/short
ln -s "$(printf '%060d' 0 | tr 0 b)" tree/long
for kind in ext3 ext4; do
  truncate -s 32M $kind.img
  mke2fs -q -F -t $kind -d tree $kind.img
  e2fsck -fn $kind.img >/dev/null 2>&1 || fail "e2fsck finds something in $kind"
done

python/bin/python - <<'PYTHON'
import sys
import pytsk3


def target(image, name):
    found = pytsk3.FS_Info(pytsk3.Img_Info(image)).open("/" + name)
    return found.info.meta.link and found.info.meta.link.decode()


changed = False
for kind, long in (("ext3", "b" * 60), ("ext4", None)):
    found = [target(kind + ".img", name) for name in ("short", "long")]
    print(f"{kind}: {found}")
    changed |= found != ["a" * 59, long]
sys.exit("CHANGED" if changed else 0)
PYTHON
