#!/usr/bin/env bash
# dissect.hypervisor gives a qcow2 that is longer than its backing file too short, its blocks at wrong places.
#
# Seen with: dissect.hypervisor 3.21 (dissect.util 3.24, dissect.cstruct 4.7) on images of qemu-utils
# 1:7.2+dfsg-7+deb12u18+b3 (QEMU 7.2.22, Debian 12), 2026-11-29.
#
# A disk that was enlarged after its snapshot is an overlay longer than its backing file; what lies behind the end of the
# backing file reads as zeros. `QCow2Stream` joins what the backing file returns for such a cluster, which is fewer bytes
# or none. `size` says 24 MiB, a read of the whole ends after 12 MiB and 64 KiB, raises nothing, and the overlay's own
# block at 20 MiB stands at 12 MiB. A seek to 20 MiB finds it rightly, so spot checks pass. `qemu-img convert` and QEMU
# read the disk as it is.
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

python3 -m venv python
python/bin/pip install -q dissect.hypervisor==3.21 dissect.util==3.24 dissect.cstruct==4.7

qemu-img create -q -f qcow2 base.qcow2 12M
qemu-io -c 'write -q -P 1 0 12M' base.qcow2
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 disk.qcow2 24M
qemu-io -c 'write -q -P 9 20M 64k' disk.qcow2
qemu-io -r -c 'read -q -P 9 20M 64k' -c 'read -q -P 0 12M 8M' disk.qcow2 | grep -q failed && fail 'QEMU reads otherwise'
echo 'QEMU: 24 MiB, the block is at 20 MiB'

python/bin/python - <<'PYTHON'
import sys
from pathlib import Path
from dissect.hypervisor.disk.qcow2 import QCow2

disk = QCow2(Path("disk.qcow2"))
stream = disk.open()
stream.seek(20 << 20)
if stream.read(4096) != bytes([9]) * 4096:
    sys.exit("CHANGED: a seek to 20 MiB does not find the block")
stream.seek(0)
whole = stream.read()
print(f"dissect: size says {disk.size}, a whole read gives {len(whole)}, the block is at {whole.find(bytes([9]))}")
if disk.size != 24 << 20 or len(whole) != (12 << 20) + 65536 or whole.find(bytes([9])) != 12 << 20:
    sys.exit("CHANGED")
PYTHON
