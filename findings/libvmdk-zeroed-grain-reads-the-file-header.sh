#!/usr/bin/env bash
# libvmdk reads a zeroed grain of a VMDK as the file's own descriptor.
#
# Seen with: libvmdk-python 20260714 on an image of qemu-utils 1:7.2+dfsg-7+deb12u18+b3 (QEMU 7.2.22, Debian 12),
# 2026-11-29.
#
# A grain table has two special values: 0, the grain is not there, and 1, the grain is all zeros (header flag 4, version
# 2; `qemu-img -o zeroed_grain=on`). libvmdk takes 1 for what any other value is, the sector at which the grain's data
# lies. Sector 1 is where QEMU puts the text that describes the disk, so the guest's zeros come out as `# Disk
# DescriptorFile`, with no error. QEMU and 7-Zip read zeros.
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
python/bin/pip install -q libvmdk-python==20260714

qemu-img create -q -f vmdk -o zeroed_grain=on disk.vmdk 4M
qemu-io -f vmdk -c 'write -q -P 1 0 1M' -c 'write -q -z 512k 64k' disk.vmdk
qemu-io -r -f vmdk -c 'read -q -P 0 512k 64k' disk.vmdk | grep -q failed && fail 'QEMU reads no zeros'
echo 'QEMU: zeros at 512 KiB'

python/bin/python - <<'PYTHON'
import sys
import pyvmdk

handle = pyvmdk.handle()
handle.open("disk.vmdk")
handle.open_extent_data_files()
handle.seek_offset(512 << 10, 0)
read = handle.read_buffer(65536)
print("libvmdk:", read[:21])
if read[:21] != b"# Disk DescriptorFile":
    sys.exit("CHANGED")
PYTHON
