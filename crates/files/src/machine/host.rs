//! What a machine is made of on this host: QEMU, a kernel with its modules, programs with their libraries.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use strongroom_base::Environment;

use super::{
    MODULES_FOLDER, MODULES_LIST,
    cpio::Archive,
    modules::{Modules, name_of},
};
use crate::{bytes::Le, error::FilesError};

/// Where programs are looked for that are not in the search path, as those of administrators.
const PROGRAMS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Programs that a machine has if this host has them.
const TOOLS: [&str; 2] = ["lvm", "thin_check"];
/// Most bytes of a kernel.
const KERNEL_MAX: u64 = 256 << 20;

/// Modules that a machine has, if the kernel has them as such.
const WANTED: [&str; 52] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "crc32c_generic",
    "crc32c_intel",
    "crc32_generic",
    "crc32c_cryptoapi",
    "xxhash_generic",
    "blake2b_generic",
    "sha256_generic",
    "ext4",
    "ext2",
    "xfs",
    "btrfs",
    "ntfs3",
    "vfat",
    "exfat",
    "f2fs",
    "squashfs",
    "isofs",
    "udf",
    "erofs",
    "hfsplus",
    "jfs",
    "reiserfs",
    "nilfs2",
    "nls_utf8",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "dm_mod",
    "dm_thin_pool",
    "dm_cache",
    "dm_cache_smq",
    "dm_raid",
    "dm_mirror",
    "dm_snapshot",
    "dm_writecache",
    "dm_integrity",
    "dm_vdo",
    "md_mod",
    "linear",
    "md_linear",
    "raid0",
    "raid1",
    "raid10",
    "raid456",
    "raid6_pq",
    "lz4_decompress",
    "zstd",
    "lzo",
    "zstd_compress",
];

/// A kernel, and the folder of its modules.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) bytes: Vec<u8>,
    modules: PathBuf,
}

fn machine(reason: impl Into<String>) -> FilesError {
    FilesError::Machine { reason: reason.into() }
}

/// QEMU, and its kind of machine, for the processor of this host.
pub(super) fn qemu() -> Result<(PathBuf, String), FilesError> {
    let (name, machine_type) = match std::env::consts::ARCH {
        "x86_64" => {
            ("qemu-system-x86_64", "q35,sata=off,smbus=off,usb=off,vmport=off,dump-guest-core=off")
        }
        "aarch64" => ("qemu-system-aarch64", "virt,gic-version=max,dump-guest-core=off"),
        other => return Err(machine(format!("there is none for processors of the kind {other}"))),
    };
    let none =
        || machine(format!("{name} is not installed (package qemu-system-x86 or qemu-system-arm)"));
    Ok((program(name).ok_or_else(none)?, machine_type.to_owned()))
}

/// Where a program is.
fn program(name: &str) -> Option<PathBuf> {
    let given = Environment::given().path().map(|(_, path)| std::env::split_paths(path));
    let given: Vec<PathBuf> = given.into_iter().flatten().filter(|it| it.is_absolute()).collect();
    let folders = given.into_iter().chain(PROGRAMS.map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

impl Kernel {
    /// The kernel in a file, or that of this host which runs, or else the newest one that has modules.
    pub(super) fn find(named: Option<&Path>) -> Result<Self, FilesError> {
        if let Some(path) = named {
            return Self::read(path);
        }
        let running = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut found: Vec<PathBuf> = fs::read_dir("/boot")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                release_in_name(path).is_some_and(|release| modules_of(&release).is_some())
            })
            .collect();
        found.sort_by_key(|path| {
            let release = release_in_name(path).unwrap_or_default();
            (release == running, numbers(&release))
        });
        let none = || {
            machine(
                "no kernel with modules is in /boot (vmlinuz-RELEASE, /lib/modules/RELEASE/modules.dep); \
                 name one with --machine-kernel",
            )
        };
        Self::read(&found.pop().ok_or_else(none)?)
    }

    fn read(path: &Path) -> Result<Self, FilesError> {
        let shown = path.display();
        let failed =
            |error: io::Error| machine(format!("the kernel {shown} cannot be read: {error}"));
        let meta = fs::metadata(path).map_err(failed)?;
        if !meta.is_file() || meta.len() > KERNEL_MAX {
            return Err(machine(format!("{shown} is no kernel")));
        }
        let bytes = fs::read(path).map_err(failed)?;
        let release = release_in(&bytes).or_else(|| release_in_name(path));
        let release = release.ok_or_else(|| {
            machine(format!("which kernel {shown} is, is not known: its name is vmlinuz-RELEASE"))
        })?;
        let modules = modules_of(&release).ok_or_else(|| {
            machine(format!("the kernel {release} has no /lib/modules/{release}/modules.dep"))
        })?;
        Ok(Self { bytes, modules })
    }
}

fn modules_of(release: &str) -> Option<PathBuf> {
    let name = Path::new(release).file_name().filter(|name| *name == OsStr::new(release))?;
    let folder = Path::new("/lib/modules").join(name);
    folder.join("modules.dep").is_file().then_some(folder)
}

fn release_in_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let release = name.strip_prefix("vmlinuz-").or_else(|| name.strip_prefix("Image-"))?;
    (!release.is_empty()).then(|| release.to_owned())
}

/// The release of a kernel for x86, which its head names (`Documentation/arch/x86/boot.rst`).
fn release_in(bytes: &[u8]) -> Option<String> {
    let head = Le(bytes.get(..0x400)?);
    if !head.has(0x202, b"HdrS") {
        return None;
    }
    let at = usize::from(head.u16(0x20e)).checked_add(0x200)?;
    let text = bytes.get(at..)?.split(|byte| matches!(byte, b' ' | 0)).next()?;
    let release = std::str::from_utf8(text).ok()?;
    (!release.is_empty() && release.len() < 128).then(|| release.to_owned())
}

/// The numbers of a release, by which the newest is found.
fn numbers(release: &str) -> Vec<u64> {
    release
        .split(|it: char| !it.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// Writes the first file system of a machine: this program as `/init`, modules and tools. Which tools it has.
pub(super) fn first_files(
    kernel: &Kernel,
    program_of_ours: &Path,
    to: impl Write,
) -> Result<(), FilesError> {
    let failed =
        |error: io::Error| machine(format!("its first file system cannot be made: {error}"));
    let mut archive = Archive::new(to);
    archive.device("/dev/console", (5, 1)).map_err(failed)?;
    archive.device("/dev/null", (1, 3)).map_err(failed)?;
    for folder in ["proc", "sys", "run", "tmp", "mnt", "etc/lvm"] {
        archive.folder(folder).map_err(failed)?;
    }
    add_program(&mut archive, program_of_ours, "/init").map_err(failed)?;
    for tool in TOOLS {
        if let Some(path) = program(tool) {
            add_program(&mut archive, &path, &format!("/sbin/{tool}")).map_err(failed)?;
        }
    }
    let text = fs::read_to_string(kernel.modules.join("modules.dep")).map_err(failed)?;
    let modules = Modules::parse(&text);
    let mut list = String::new();
    for name in WANTED {
        let order = modules.order(name);
        let Some(last) = order.last() else { continue };
        let names = order.iter().map(|path| path.rsplit('/').next().unwrap_or(path));
        let files: Vec<&str> = names.collect();
        let name = name_of(last).unwrap_or_default();
        list.extend([name.as_str(), ": ", &files.join(" "), "\n"]);
        for (path, file) in order.iter().zip(files) {
            let bytes = fs::read(kernel.modules.join(path)).map_err(failed)?;
            archive.file(&format!("{MODULES_FOLDER}/{file}"), &bytes).map_err(failed)?;
        }
    }
    archive.file(MODULES_LIST, list.as_bytes()).map_err(failed)?;
    archive.finish().map_err(failed)?;
    Ok(())
}

/// A program under another path, and its libraries under their own.
fn add_program<W: Write>(archive: &mut Archive<W>, path: &Path, name: &str) -> io::Result<()> {
    archive.file(name, trimmed(&fs::read(path)?))?;
    for library in libraries(path)? {
        let Some(name) = library.to_str() else { continue };
        archive.file(name, trimmed(&fs::read(&library)?))?;
    }
    Ok(())
}

/// The libraries of a program of this host, as its loader finds them.
fn libraries(path: &Path) -> io::Result<Vec<PathBuf>> {
    let ldd = program("ldd").ok_or_else(|| io::Error::other("the program ldd is missing"))?;
    let output = Command::new(ldd)
        .arg(path)
        .env_clear()
        .env("PATH", PROGRAMS.join(":"))
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .output()?;
    // A program without any is a failure for it.
    Ok(paths_in(&output.stdout))
}

/// The paths in what `ldd` says: `libc.so.6 => /lib/libc.so.6 (0x...)`, or `/lib64/ld.so (0x...)`.
fn paths_in(output: &[u8]) -> Vec<PathBuf> {
    let lines = output.split(|byte| *byte == b'\n');
    let word = |line: &[u8]| {
        let words: Vec<&[u8]> =
            line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        let found = words.iter().find(|word| word.first() == Some(&b'/'));
        found.map(|word| PathBuf::from(OsStr::from_bytes(word)))
    };
    lines.filter_map(word).collect()
}

/// A program without what it does not load, such as what debuggers read: that lies behind the rest.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let le = Le(bytes);
    // 64 bits, little-endian.
    if bytes.get(..6) != Some(&[0x7f, b'E', b'L', b'F', 2, 1]) || bytes.len() < 64 {
        return bytes;
    }
    let number = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let (table, each, count) =
        (number(le.u64(32)), usize::from(le.u16(54)), usize::from(le.u16(56)));
    let mut end = table.saturating_add(each.saturating_mul(count));
    for index in 0..count {
        let at = table.saturating_add(each.saturating_mul(index));
        let Some(head) = at.checked_add(56).and_then(|end| bytes.get(at..end)) else {
            return bytes;
        };
        let head = Le(head);
        end = end.max(number(head.u64(8).saturating_add(head.u64(32))));
    }
    bytes.get(..end).unwrap_or(bytes)
}

/// A file in memory with these bytes, which others can open again.
pub(super) fn in_memory(
    name: &str,
    write: impl FnOnce(&mut File) -> Result<(), FilesError>,
) -> Result<File, FilesError> {
    let failed = |error: io::Error| machine(format!("memory for it cannot be had: {error}"));
    let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(file.map_err(|error| failed(error.into()))?);
    write(&mut file)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trimmed_program_runs() {
        let dir = tempfile::tempdir().expect("a folder");
        let own = fs::read("/proc/self/exe").expect("read");
        let short = trimmed(&own);
        assert!(short.len() < own.len(), "{} {}", short.len(), own.len());
        let path = dir.path().join("program");
        fs::write(&path, short).expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, mode).expect("set");
        let output = Command::new(&path).arg("--list").output().expect("run");
        assert!(output.status.success());
        // What is no program stays as it is.
        assert_eq!(trimmed(b"#!/bin/sh\n"), b"#!/bin/sh\n");
        assert_eq!(trimmed(&own[..100]), &own[..100]);
    }

    #[test]
    fn libraries_are_read_from_the_loader() {
        let text = b"\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x0)\n\t/lib64/ld.so (0x1)\n";
        assert_eq!(paths_in(text), [Path::new("/lib/x/libc.so.6"), Path::new("/lib64/ld.so")]);
        assert!(paths_in(b"\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn the_release_is_in_the_head_of_a_kernel() {
        let mut kernel = vec![0; 0x1000];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
        kernel[0x500..0x513].copy_from_slice(b"6.1.0-57-amd64 (x) ");
        assert_eq!(release_in(&kernel).as_deref(), Some("6.1.0-57-amd64"));
        assert_eq!(release_in(&[0; 0x1000]), None);
        assert_eq!(release_in(b"short"), None);
        let named = release_in_name(Path::new("/boot/vmlinuz-6.12.1"));
        assert_eq!(named.as_deref(), Some("6.12.1"));
        assert!(numbers("6.12.1-3-amd64") > numbers("6.1.0-57-amd64"));
        assert_eq!(modules_of("../../etc"), None);
    }

    #[test]
    fn a_kernel_that_is_missing_is_named() {
        let error = Kernel::find(Some(Path::new("/nonexistent/vmlinuz-1"))).expect_err("missing");
        assert!(error.to_string().contains("/nonexistent/vmlinuz-1"), "{error}");
        assert!(Kernel::find(Some(Path::new("/etc/hostname"))).is_err());
    }
}
