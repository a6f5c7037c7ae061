//! The drivers of the machine: modules that are loaded when they are needed, and what each file system is
//! mounted with.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
};

use super::super::{MODULES_FOLDER, MODULES_LIST};

/// How Linux reads a kind of file system.
pub(super) struct Driver {
    /// Its name in `/proc/filesystems`.
    pub(super) name: &'static str,
    /// Modules that it asks for while it mounts, which nothing answers here.
    modules: &'static [&'static str],
    /// What it is mounted with.
    pub(super) options: &'static str,
    /// Whether the file system has owners and modes. Else the driver makes some up.
    pub(super) has_owners: bool,
}

const SUMS: [&str; 5] =
    ["crc32c_generic", "crc32c_cryptoapi", "xxhash_generic", "blake2b_generic", "sha256_generic"];

/// The driver for what `blkid` calls so.
pub(super) fn driver(kind: &str) -> Option<Driver> {
    let (name, modules, options, has_owners): (_, &'static [&'static str], _, _) = match kind {
        "ext2" | "ext3" | "ext4" => ("ext4", &["crc32c_generic"], "", true),
        // It may be the copy of another one.
        "xfs" => ("xfs", &["crc32c_generic"], "nouuid", true),
        // All subvolumes, whichever is the default one.
        "btrfs" => ("btrfs", &SUMS, "subvolid=5", true),
        "f2fs" => ("f2fs", &["crc32_generic"], "", true),
        "squashfs" => ("squashfs", &[], "", true),
        "erofs" => ("erofs", &[], "", true),
        "iso9660" => ("isofs", &["nls_utf8"], "iocharset=utf8", true),
        "udf" => ("udf", &["nls_utf8"], "iocharset=utf8", true),
        "jfs" => ("jfs", &[], "", true),
        "reiserfs" => ("reiserfs", &[], "", true),
        "nilfs2" => ("nilfs2", &[], "", true),
        "hfsplus" => ("hfsplus", &["nls_utf8"], "nls=utf8", true),
        "ntfs" => ("ntfs3", &["nls_utf8"], "iocharset=utf8", false),
        "exfat" => ("exfat", &["nls_utf8"], "iocharset=utf8", false),
        "vfat" => (
            "vfat",
            &["nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"],
            "utf8=1,tz=UTC",
            false,
        ),
        _ => return None,
    };
    Some(Driver { name, modules, options, has_owners })
}

impl Driver {
    /// Its name for mounting: a module may be called otherwise.
    pub(super) const fn file_system(&self) -> &'static str {
        match self.name.as_bytes() {
            b"isofs" => "iso9660",
            _ => self.name,
        }
    }
}

/// The modules of the machine.
pub(super) struct Drivers {
    /// Files that a module needs, in order.
    order: BTreeMap<String, Vec<String>>,
    kernel: Option<File>,
}

impl Drivers {
    pub(super) fn read() -> io::Result<Self> {
        let text = fs::read_to_string(MODULES_LIST)?;
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let files = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let order = lines.map(|(name, rest)| (name.to_owned(), files(rest))).collect();
        let kernel =
            File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok();
        Ok(Self { order, kernel })
    }

    /// Loads a module and what it needs. One that is none is a part of the kernel, or missing.
    pub(super) fn load(&mut self, name: &str) {
        let Some(files) = self.order.remove(name) else { return };
        for file in files {
            // Files that are compressed are the kernel's to unpack.
            let flags = if file.strip_suffix(".ko").is_some() { 0 } else { 4 };
            let loaded = File::open(format!("{MODULES_FOLDER}/{file}"))
                .and_then(|module| Ok(rustix::system::finit_module(module, c"", flags)?));
            if let Err(error) = loaded
                && error.kind() != io::ErrorKind::AlreadyExists
            {
                super::say(&format!("strongroom: {file}: {error}"));
            }
        }
    }

    /// Whether the kernel has a driver, which is loaded.
    pub(super) fn has(&mut self, driver: &Driver) -> bool {
        driver.modules.iter().for_each(|module| self.load(module));
        self.load(driver.name);
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        known.lines().any(|line| line.split('\t').nth(1) == Some(driver.file_system()))
    }

    /// What the kernel has said since it was asked last: the last lines.
    pub(super) fn said(&mut self) -> String {
        let mut lines = Vec::new();
        let mut buf = vec![0; 8192];
        while let Some(len) = self.kernel.as_mut().and_then(|log| log.read(&mut buf).ok()) {
            let record = String::from_utf8_lossy(buf.get(..len).unwrap_or_default()).into_owned();
            if let Some((_, text)) = record.split_once(';') {
                lines.push(text.lines().next().unwrap_or_default().to_owned());
            }
        }
        let from = lines.len().saturating_sub(2);
        lines.split_off(from).join("; ")
    }
}
