//! The guest's disks: ext4 with a database, logs and compressed files, the same bytes for each run.

use std::{fs, path::Path, process::Command};

use strongroom_bench::{
    Failure, Outcome,
    place::{remove, tell},
};

use crate::{guest::Guest, host::run};

/// How much there is of what. Pages are of 8 KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) name: &'static str,
    /// GiB of vda and vdb.
    gib: [u64; 2],
    /// Pages of the databases on vda and vdb.
    pages: [u64; 2],
    log_bytes: u64,
    /// Compressed files of 2 MB.
    media: u64,
}

/// What a guest of everyday measurements has.
pub(crate) const SMALL: Size =
    Size { name: "small", gib: [2, 1], pages: [16_384, 24_576], log_bytes: 90_000_000, media: 45 };

/// What a guest of the published figures has.
pub(crate) const FULL: Size = Size {
    name: "full",
    gib: [8, 2],
    pages: [98_304, 163_840],
    log_bytes: 540_000_000,
    media: 270,
};

const PAGE: u64 = 8192;
const MEDIUM: u64 = 2_000_000;

/// The file that fio writes to.
pub(crate) const LOAD: &str = "/data/a/load";
const LOAD_BYTES: u64 = 32 << 20;

impl Size {
    /// Bytes of files on both disks.
    pub(crate) fn data(self) -> u64 {
        let pages: u64 = self.pages.iter().sum();
        pages * PAGE + self.log_bytes + self.media * MEDIUM + LOAD_BYTES
    }

    /// In words, for those who read the figures.
    pub(crate) fn describe(self) -> String {
        let [a, b] = self.gib;
        format!("disks of {a} and {b} GiB with {} MB of files", self.data() / 1_000_000)
    }

    /// Makes `vda.qcow2` and `vdb.qcow2` in a folder, unless they are there.
    pub(crate) fn make(self, folder: &Path, bench: &Path) -> Outcome<()> {
        let stamp = folder.join("made-of");
        let made_of = format!("{self:?}\n");
        if fs::read_to_string(&stamp).is_ok_and(|text| text == made_of) {
            return Ok(());
        }
        tell(&format!("making the disks of the {} guest", self.name));
        remove(folder)?;
        let content = folder.join("content");
        let file = |disk: &str, name: &str| content.join(disk).join(name);
        for folder in ["vda/srv/media", "vda/log", "vda/db", "vdb/db"] {
            fs::create_dir_all(content.join(folder))?;
        }
        let generate = |what: &str, file: &Path, count: u64, seed: u64| {
            let (count, seed) = (count.to_string(), seed.to_string());
            run(Command::new(bench).args(["generate", what]).arg(file).args([&count, &seed]))
                .map(drop)
        };
        let [a, b] = self.pages;
        generate("heap", &file("vda", "db/table"), a, 41)?;
        generate("heap", &file("vdb", "db/table"), b, 42)?;
        for number in 0..3 {
            let log = file("vda", &format!("log/syslog.{number}"));
            generate("log", &log, self.log_bytes / 3, number)?;
        }
        for number in 0..self.media {
            let medium = file("vda", &format!("srv/media/{number}.jpg"));
            generate("noise", &medium, MEDIUM, 100 + number)?;
        }
        generate("noise", &file("vda", "load"), LOAD_BYTES, 99)?;
        for (name, gib) in ["vda", "vdb"].into_iter().zip(self.gib) {
            let raw = folder.join(format!("{name}.raw"));
            fs::File::create(&raw)?.set_len(gib << 30)?;
            let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
            let mut mkfs = Command::new("/usr/sbin/mkfs.ext4");
            run(mkfs.args(options).arg("-d").arg(content.join(name)).arg(&raw))?;
            let mut convert = Command::new("qemu-img");
            convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
            run(convert.arg(&raw).arg(folder.join(format!("{name}.qcow2"))))?;
            remove(&raw)?;
        }
        remove(&content)?;
        Ok(fs::write(&stamp, made_of)?)
    }

    /// A day in the guest: 1 % of the data is written, three quarters of it as updated pages of the
    /// databases, the rest as log lines and a compressed file. Gives the seconds it took.
    pub(crate) fn churn(self, guest: &Guest<'_>, day: u64) -> Outcome<()> {
        let all: u64 = self.pages.iter().sum();
        let pages = self.data() / 100 * 3 / 4 / PAGE;
        let [a, b] = self.pages.map(|here| pages * here / all.max(1));
        let part = self.data() / 100 / 8;
        let (seed, last) = (1000 + day * 10, 1000 + day * 10 + 1);
        let said = guest.sh(&format!(
            "set -e
             bench generate churn /data/a/db/table {a} {seed}
             bench generate churn /data/b/db/table {b} {last}
             bench generate log /data/a/log/syslog {part} {seed}
             bench generate noise /data/a/srv/media/day{day}.jpg {part} {seed}
             sync"
        ))?;
        if said.is_empty() { Ok(()) } else { Err(Failure::new(said)) }
    }
}
