//! Tables of partitions, as sgdisk and sfdisk write them.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use strongroom_files::{FaultKind, ReadAt, Surveyed, Table, survey, table};

use crate::truth::{Image, run};

fn disk(folder: &Path) -> PathBuf {
    let image = folder.join("disk");
    File::create(&image).expect("an image").set_len(64 << 20).expect("a size");
    image
}

fn read(image: &Path) -> Table {
    table(&Image(File::open(image).expect("open"))).expect("a table")
}

fn places(table: &Table) -> Vec<(u32, u64, u64)> {
    table.partitions.iter().map(|it| (it.number, it.offset, it.size)).collect()
}

#[test]
fn gpt_and_its_backup() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = disk(folder.path());
    let at = image.to_str().expect("utf-8");
    run("sgdisk", &["-n", "1:2048:4095", "-c", "1:起動", "-n", "3:8192:+8M", at]);
    let whole = read(&image);
    assert_eq!(places(&whole), [(1, 1 << 20, 1 << 20), (3, 4 << 20, 8 << 20)]);
    assert_eq!((whole.scheme, whole.partitions[0].name.as_deref()), ("gpt", Some("起動")));
    assert!(whole.notes.is_empty());
    // A byte of the header, then one of the entries.
    for broken in [512 + 60, 1024 + 4] {
        let bytes = fs::read(&image).expect("an image");
        let file = File::options().write(true).open(&image).expect("open");
        file.write_all_at(&[bytes[broken] ^ 1], u64::try_from(broken).expect("small"))
            .expect("written");
        let backup = read(&image);
        assert_eq!(places(&backup), places(&whole));
        assert_eq!(backup.notes.len(), 1);
        // A disk that has grown since: the backup is no more at its end.
        if broken > 1024 {
            file.set_len(80 << 20).expect("a size");
            assert_eq!(places(&read(&image)), places(&whole));
        }
        fs::write(&image, bytes).expect("written");
    }
}

fn sfdisk(image: &Path, script: &str, options: &[&str]) {
    let mut child = Command::new("/usr/sbin/sfdisk")
        .args(options)
        .arg("-q")
        .arg(image)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("sfdisk");
    child.stdin.take().expect("piped").write_all(script.as_bytes()).expect("written");
    assert!(child.wait().expect("ends").success());
}

#[test]
fn mbr_with_logical_partitions() {
    for kind in ["5", "f"] {
        let folder = tempfile::tempdir().expect("a folder");
        let image = disk(folder.path());
        let script = format!(
            "label: dos\nstart=2048,size=2048,type=83,bootable\nstart=8192,size=65536,type={kind}\n\
             start=80000,size=8000,type=83\n\nstart=10240,size=2048,type=83\nstart=20480,size=4096,type=82\n"
        );
        // The empty line ends the primary ones.
        sfdisk(&image, &script.replace("\n\n", "\n"), &[]);
        let found = read(&image);
        assert_eq!(found.scheme, "mbr");
        let sectors = [(1, 2048, 2048), (3, 80_000, 8000), (5, 10_240, 2048), (6, 20_480, 4096)];
        let expected: Vec<_> =
            sectors.iter().map(|(n, at, len)| (*n, at * 512, len * 512)).collect();
        assert_eq!(places(&found), expected);
    }
}

#[test]
fn volumes_of_a_disk_with_partitions() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = disk(folder.path());
    let at = image.to_str().expect("utf-8");
    run("sgdisk", &["-n", "1:2048:+8M", "-n", "2:0:+30M", "-n", "3:0:+4M", at]);
    let part = folder.path().join("part");
    for (options, number) in [(&["-t", "ext4", "-L", "root"][..], 2), (&["-t", "ext2"], 1)] {
        let size = if number == 2 { 30 << 20 } else { 8 << 20 };
        let file = File::create(&part).expect("a file");
        file.set_len(size).expect("a size");
        let mut arguments = options.to_vec();
        arguments.extend(["-q", "-F", part.to_str().expect("utf-8")]);
        run("mke2fs", &arguments);
        let offset = places(&read(&image))[number - 1].1;
        let disk = File::options().write(true).open(&image).expect("open");
        disk.write_all_at(&fs::read(&part).expect("a file"), offset).expect("written");
    }
    let disk: Arc<dyn ReadAt> = Arc::new(Image(File::open(&image).expect("open")));
    let found = survey(&[disk]);
    let kinds: Vec<_> = found
        .iter()
        .map(|it| &it.volume)
        .map(|volume| (volume.partition, volume.file_system.as_deref(), volume.refusal.is_none()))
        .collect();
    assert_eq!(
        kinds,
        [(Some(1), Some("ext2"), true), (Some(2), Some("ext4"), true), (Some(3), None, false)]
    );
    assert_eq!(found[1].volume.label.as_deref(), Some("root"));
}

/// A disk of which some bytes cannot be read.
struct Hurt {
    bytes: Vec<u8>,
    lost: Range<u64>,
}

impl ReadAt for Hurt {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        if end > self.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if offset < self.lost.end && self.lost.start < end {
            return Err(io::Error::other("lost"));
        }
        let start = usize::try_from(offset).expect("small");
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
    }
}

/// Where a disk cannot be read, nothing is known: it is not shown as one that has nothing.
#[test]
fn what_cannot_be_read_is_not_empty() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    let place = image.to_str().expect("utf-8");
    File::create(&image).expect("an image").set_len(32 << 20).expect("a size");
    run("sgdisk", &["-n", "1:2048:+8M", "-n", "2:0:+8M", place]);
    let bytes = fs::read(&image).expect("an image");
    let kinds = |lost: Range<u64>| {
        let disk: Arc<dyn ReadAt> = Arc::new(Hurt { bytes: bytes.clone(), lost });
        let found = survey(&[disk]);
        let kind = |it: &Surveyed| {
            (it.volume.partition, it.volume.refusal.as_ref().map(|fault| fault.kind))
        };
        found.iter().map(kind).collect::<Vec<_>>()
    };
    let (unsupported, disk) = (Some(FaultKind::Unsupported), Some(FaultKind::Disk));
    assert_eq!(kinds(0..0), [(Some(1), unsupported), (Some(2), unsupported)]);
    // The second partition; the beginning, of which the backup is at the end; both tables; all of it.
    assert_eq!(kinds(9 << 20..10 << 20), [(Some(1), unsupported), (Some(2), disk)]);
    assert_eq!(kinds(0..4096), [(Some(1), unsupported), (Some(2), unsupported)]);
    assert_eq!(kinds(512..33 << 20), [(None, disk)]);
    assert_eq!(kinds(0..33 << 20), [(None, disk)]);
}
