//! Empty scratch files, made before the guest is frozen: libvirt and QEMU would take a good part of
//! the frozen time for making them.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
};

/// Bytes of a cluster.
const CLUSTER: u64 = 1 << 16;

/// Bytes of content that one entry of the first table stands for: a cluster of entries of 8 bytes.
const PER_ENTRY: u64 = CLUSTER * (CLUSTER / 8);

/// Makes an empty qcow2 image (version 3, clusters of 64 KiB) of a disk of so many bytes.
///
/// Source: QEMU's `docs/interop/qcow2.txt`. The clusters are: header, table of reference counts,
/// reference counts, first table of the mapping.
pub(crate) fn create(path: &Path, size: u64) -> io::Result<()> {
    let entries = size.div_ceil(PER_ENTRY);
    let table = (entries * 8).div_ceil(CLUSTER).max(1);
    let used = 3 + table;
    // One cluster of counts, of two bytes each, is for disks of up to 4 PiB.
    let most = CLUSTER / 2;
    let entries = u32::try_from(entries).ok().filter(|_| used <= most);
    let entries = entries.ok_or_else(|| io::Error::other("the disk is too large"))?;
    let mut header = Vec::new();
    header.extend(b"QFI\xfb");
    header.extend(3_u32.to_be_bytes());
    // No backing file.
    header.extend([0; 12]);
    header.extend(CLUSTER.trailing_zeros().to_be_bytes());
    header.extend(size.to_be_bytes());
    // No encryption.
    header.extend(0_u32.to_be_bytes());
    header.extend(entries.to_be_bytes());
    header.extend((3 * CLUSTER).to_be_bytes());
    header.extend(CLUSTER.to_be_bytes());
    header.extend(1_u32.to_be_bytes());
    // No snapshots, no features.
    header.extend([0; 36]);
    // Counts of 2^4 bits; the header's length; no extensions.
    header.extend(4_u32.to_be_bytes());
    header.extend(104_u32.to_be_bytes());
    header.extend([0; 8]);
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(&header)?;
    let at = |offset, bytes: &[u8]| {
        use std::os::unix::fs::FileExt as _;
        file.write_all_at(bytes, offset)
    };
    at(CLUSTER, &(2 * CLUSTER).to_be_bytes())?;
    let used_bytes = usize::try_from(used).map_err(io::Error::other)?;
    at(2 * CLUSTER, &[0, 1].repeat(used_bytes))?;
    file.set_len(used * CLUSTER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn qemu_finds_nothing_wrong() {
        let dir = tempfile::tempdir().expect("a folder");
        for size in [512, 1 << 20, (1 << 30) + 512, 9 << 40, 1 << 50] {
            let path = dir.path().join(size.to_string());
            create(&path, size).expect("made");
            let mut check = Command::new("qemu-img");
            check.args(["check", "-q", "-f", "qcow2"]).arg(&path);
            let Ok(output) = check.output() else { return };
            assert!(output.status.success(), "{size}: {output:?}");
            let info = Command::new("qemu-img").args(["info", "--output=json"]).arg(&path).output();
            let info: serde_json::Value =
                serde_json::from_slice(&info.expect("it runs").stdout).expect("JSON");
            assert_eq!(info["virtual-size"], size);
            assert_eq!(info["format"], "qcow2");
        }
        assert!(create(&dir.path().join("large"), 1 << 60).is_err());
    }
}
