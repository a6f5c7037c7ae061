//! The server, asked by other people's clients: libnbd's tools and QEMU's.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and a server has its threads"
)]

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::FileExt as _, net::UnixListener},
    path::PathBuf,
    sync::Arc,
    thread,
};

use strongroom_nbd::server::{Allocation, Encryption, Exported, Exports, Handshake, Heard};
use strongroom_testing::{noise, run};

const SIZE: u64 = 8 << 20;

/// A raw file.
struct RawFile {
    file: File,
    read_only: bool,
}

impl Exported for RawFile {
    fn size(&self) -> u64 {
        SIZE
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// Stretches of 64 KiB: one that reads as zeros is called a hole.
    fn allocation(&self, offset: u64, len: u64) -> io::Result<Vec<Allocation>> {
        let mut stretches = Vec::new();
        let mut at = offset;
        while at < offset + len {
            let end = (offset + len).min((at / 65536 + 1) * 65536);
            let mut bytes = vec![0; usize::try_from(end - at).expect("small")];
            self.file.read_exact_at(&mut bytes, at)?;
            let is_hole = bytes.iter().all(|byte| *byte == 0);
            stretches.push(Allocation { len: end - at, is_hole });
            at = end;
        }
        Ok(stretches)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn zero(&self, offset: u64, len: u64, _: bool) -> io::Result<()> {
        self.file.write_all_at(&vec![0; usize::try_from(len).expect("small")], offset)
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zero(offset, len, true)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

struct Files(Vec<(&'static str, Arc<RawFile>)>);

impl Exports for Files {
    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Exported>, String> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        let file = found.ok_or_else(|| format!("there is no export {name:?}"))?;
        Ok(Arc::<RawFile>::clone(&file.1))
    }
}

/// Serves a file for reading as `kept`, and another for writing as `scratch`, until the test ends.
fn serve(folder: &tempfile::TempDir) -> (String, PathBuf, PathBuf) {
    let [kept, scratch] = ["kept", "scratch"].map(|name| folder.path().join(name));
    let content = [noise(7, 3 << 20), vec![0; 2 << 20], noise(8, 3 << 20)].concat();
    fs::write(&kept, content).expect("a file");
    fs::write(&scratch, vec![0; 8 << 20]).expect("a file");
    let open = |path, read_only| {
        let file = File::options().read(true).write(true).open(path).expect("a file");
        Arc::new(RawFile { file, read_only })
    };
    let files =
        Arc::new(Files(vec![("kept", open(&kept, true)), ("scratch", open(&scratch, false))]));
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).expect("a socket");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let files = Arc::clone(&files);
            thread::spawn(move || -> io::Result<()> {
                if let Heard::Chosen(mut session) =
                    Handshake::start(stream?, Encryption::None)?.hear(&*files)?
                {
                    session.serve()?;
                }
                Ok(())
            });
        }
    });
    (format!("?socket={}", socket.display()), kept, scratch)
}

#[test]
fn libnbd_and_qemu_find_what_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, kept, scratch) = serve(&folder);
    let [kept_url, scratch_url] =
        ["kept", "scratch"].map(|name| format!("nbd+unix:///{name}{socket}"));
    let (kept, scratch) = (kept.display().to_string(), scratch.display().to_string());

    let list = run("libnbd-bin", "nbdinfo", &["--list", &format!("nbd+unix:///{socket}")]);
    for words in [
        "export=\"kept\"",
        "export=\"scratch\"",
        "export-size: 8388608 (8M)",
        "is_read_only: true",
        "can_multi_conn: true",
        "can_df: true",
        "base:allocation",
        "using structured packets",
    ] {
        assert!(list.contains(words), "{words}: {list}");
    }
    let map = run("libnbd-bin", "nbdinfo", &["--map", &kept_url]);
    let map: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    let rows: Vec<_> = map.iter().map(|row| (row[0], row[1], row[2])).collect();
    assert_eq!(
        rows,
        [("0", "3145728", "0"), ("3145728", "2097152", "3"), ("5242880", "3145728", "0")]
    );

    run("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", &kept, &kept_url]);
    // Written by libnbd over several connections, read back by QEMU.
    run("libnbd-bin", "nbdcopy", &[&kept_url, &scratch_url]);
    run("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", &kept, &scratch_url]);
    assert!(fs::read(&kept).expect("a file") == fs::read(&scratch).expect("a file"));

    let qemu_io = |commands: &[&str], url: &str| {
        let mut words = vec!["-f", "raw"];
        commands.iter().for_each(|command| words.extend(["-c", command]));
        words.push(url);
        run("qemu-utils", "qemu-io", &words)
    };
    let written = ["write -P 0xcd 1000 70000", "write -z 3k 5k", "discard 64k 128k", "flush"];
    qemu_io(&written, &scratch_url);
    let said =
        qemu_io(&["read -P 0xcd 1000 2072", "read -P 0 3k 5k", "read -P 0 64k 128k"], &scratch_url);
    assert!(!said.contains("failed"), "{said}");
    let file = fs::read(&scratch).expect("a file");
    assert!(file[1000..3072].iter().all(|byte| *byte == 0xcd));
    assert!(file[3072..8192].iter().all(|byte| *byte == 0));
    assert!(file[8192..65536].iter().all(|byte| *byte == 0xcd));
    assert!(file[65536..196_608].iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_only_read_is_not_written_by_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, kept, _) = serve(&folder);
    let before = fs::read(&kept).expect("a file");
    let url = format!("nbd+unix:///kept{socket}");
    let write = std::process::Command::new("qemu-io")
        .args(["-f", "raw", "-c", "write 0 512", &url])
        .output()
        .expect("qemu-io, of the package qemu-utils");
    // Refused because it is read-only, not because it cannot be reached.
    let said = String::from_utf8_lossy(&write.stderr);
    assert!(!write.status.success() && said.contains("Permission denied"), "{said}");
    run("qemu-utils", "qemu-io", &["-r", "-f", "raw", "-c", "read 0 512", &url]);
    let missing = std::process::Command::new("nbdinfo")
        .arg(format!("nbd+unix:///nowhere{socket}"))
        .output()
        .expect("nbdinfo, of the package libnbd-bin");
    let said = String::from_utf8_lossy(&missing.stderr);
    assert!(!missing.status.success() && said.contains("nowhere"), "{said}");
    assert!(fs::read(&kept).expect("a file") == before);
}
