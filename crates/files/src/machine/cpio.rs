//! An archive in the format that Linux unpacks as its first file system: cpio, "newc".
//!
//! The format is that of `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux: heads of ASCII
//! digits, names and bytes that begin at multiples of four.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTERS: u32 = 0o020_600;

/// An archive that is being written.
pub(super) struct Archive<W: Write> {
    to: W,
    next: u32,
    /// Paths that it has.
    known: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, next: 1, known: BTreeSet::new() }
    }

    /// A folder and all above it, unless they are there.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_matches('/');
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let part = path.get(..end).unwrap_or_default();
            if !part.is_empty() && self.known.insert(part.to_owned()) {
                self.entry(part, FOLDER, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    /// A file that may be run, with the folders above it. Of two with the same path the first stays.
    pub(super) fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.put(path, PROGRAM, (0, 0), bytes)
    }

    /// A character device.
    pub(super) fn device(&mut self, path: &str, number: (u32, u32)) -> io::Result<()> {
        self.put(path, CHARACTERS, number, &[])
    }

    fn put(&mut self, path: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        let path = path.trim_matches('/');
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder)?;
        }
        if self.known.insert(path.to_owned()) {
            self.entry(path, mode, device, bytes)?;
        }
        Ok(())
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.next = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        let count = |len: usize| u32::try_from(len).map_err(io::Error::other);
        let (size, name_size) = (count(data.len())?, count(name.len().saturating_add(1))?);
        let (inode, links) = (self.next, 1);
        self.next = self.next.saturating_add(1);
        // Inode, mode, user, group, links, time, size, the device that it is on, that it is, name, check sum.
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let mut head = "070701".to_owned();
        head.extend(fields.map(|field| format!("{field:08x}")));
        head.push_str(name);
        head.push('\0');
        self.padded(head.as_bytes())?;
        self.padded(data)
    }

    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        let over = bytes.len() % 4;
        if over != 0 {
            self.to.write_all([0; 3].get(..4_usize.saturating_sub(over)).unwrap_or_default())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn archive() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.file("/init", b"12345").expect("written");
        archive.file("/usr/lib/a/one.so", &[7; 4096]).expect("written");
        archive.file("/usr/lib/a/one.so", b"again").expect("kept");
        archive.file("usr/lib/two.so", b"").expect("written");
        archive.device("/dev/console", (5, 1)).expect("written");
        archive.folder("/proc").expect("written");
        archive.finish().expect("ended")
    }

    #[test]
    fn each_part_begins_at_a_multiple_of_four() {
        let bytes = archive();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"07070100000001000081ed"));
        // A folder is written once, and before what is in it.
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("usr/lib\0").count(), 1);
        let at = |name: &str| text.find(name).expect(name);
        assert!(at("usr\0") < at("usr/lib\0") && at("usr/lib\0") < at("usr/lib/a\0"));
        assert_eq!(text.matches("one.so").count(), 1);
    }

    #[test]
    fn cpio_lists_what_was_written() {
        let mut listing = Command::new("cpio");
        listing.args(["-t", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Not every machine has the program.
        let Ok(mut child) = listing.spawn() else { return };
        child.stdin.take().expect("piped").write_all(&archive()).expect("taken");
        let output = child.wait_with_output().expect("ended");
        assert!(output.status.success(), "{output:?}");
        let listed = String::from_utf8(output.stdout).expect("text");
        let names: Vec<&str> = listed.lines().collect();
        let all = [
            "init",
            "usr",
            "usr/lib",
            "usr/lib/a",
            "usr/lib/a/one.so",
            "usr/lib/two.so",
            "dev",
            "dev/console",
            "proc",
        ];
        assert_eq!(names, all);
    }
}
