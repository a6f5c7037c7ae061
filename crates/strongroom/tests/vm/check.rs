//! Whether images that were restored are what the guest had at one instant.

use std::path::Path;

use crate::harness::{tool, try_tool};

/// How the images came to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// With file systems frozen, or the machine shut down: nothing to be repaired.
    Frozen,
    /// At any instant, as after a power cut: the journal is replayed before anything else.
    Running,
}

/// What is on a set of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The last records on disks A and B; 0 is none.
    pub(crate) records: (u64, u64),
    /// The application's balances, equal where its state fits.
    pub(crate) balances: Option<(u64, u64)>,
}

/// Checks images of disks A and B, or of A alone, with ext4, raw or qcow2: file systems are clean, files
/// that never changed are the same, records are complete, and both disks are of the same instant. The
/// error tells what is wrong.
pub(crate) fn check(images: &[&Path], taken: Taken) -> Result<Cut, String> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut raws = Vec::new();
    for (image, letter) in images.iter().zip('a'..) {
        let raw = dir.path().join(format!("{letter}.raw"));
        to_raw(image, &raw);
        check_file_system(&raw, taken).map_err(|error| format!("disk {letter}: {error}"))?;
        check_payload(&raw).map_err(|error| format!("disk {letter}: {error}"))?;
        raws.push(raw);
    }
    let last = |index: usize| raws.get(index).map_or(Ok(0), |raw| check_records(raw));
    let records = (last(0)?, last(1)?);
    let ahead = records.0.checked_sub(records.1);
    if raws.len() > 1 && ahead.is_none_or(|ahead| ahead > 1) {
        return Err(format!("disks of different instants: records {records:?}"));
    }
    let balance = |name: &str| read(&raws[0], name).and_then(|text| text.trim().parse().ok());
    let balances = balance("app/balance1").zip(balance("app/balance2"));
    Ok(Cut { records, balances })
}

/// Asserts that two images, raw or qcow2, have the same content; the guest may be paused, not running.
pub(crate) fn assert_same_disk(one: &Path, other: &Path) {
    let (one, other) = (one.to_str().expect("text"), other.to_str().expect("text"));
    let words = ["compare", "-U", "-f", format(one), "-F", format(other), one, other];
    let run = try_tool("qemu-img", &words);
    assert_eq!(run.code, 0, "{one} and {other}: {}{}", run.stdout, run.stderr);
}

/// Copies an image, whatever it is, to a raw one. Its machine may be paused.
pub(crate) fn to_raw(image: &Path, raw: &Path) {
    let (image, raw) = (image.to_str().expect("text"), raw.to_str().expect("text"));
    tool("qemu-img", &["convert", "-U", "-f", format(image), "-O", "raw", image, raw]);
}

fn format(image: &str) -> &'static str {
    use std::io::Read as _;
    let mut magic = [0; 4];
    let file = std::fs::File::open(image).and_then(|mut file| file.read_exact(&mut magic));
    file.unwrap_or_else(|error| panic!("{image}: {error}"));
    if &magic == b"QFI\xfb" { "qcow2" } else { "raw" }
}

fn check_file_system(raw: &Path, taken: Taken) -> Result<(), String> {
    let raw = raw.to_str().expect("text");
    if taken == Taken::Running {
        // Repairs what a power cut may leave, and nothing else.
        let run = try_tool("e2fsck", &["-f", "-p", raw]);
        if !matches!(run.code, 0 | 1) {
            return Err(format!("e2fsck -p: {}{}", run.stdout, run.stderr));
        }
    }
    let run = try_tool("e2fsck", &["-f", "-n", raw]);
    if run.code == 0 { Ok(()) } else { Err(format!("e2fsck -n: {}{}", run.stdout, run.stderr)) }
}

fn check_payload(raw: &Path) -> Result<(), String> {
    let Some(sum) = read(raw, "payload.sha256") else { return Ok(()) };
    let copy = raw.with_extension("payload");
    let dump = format!("dump payload {}", copy.display());
    tool("debugfs", &["-R", &dump, raw.to_str().expect("text")]);
    let found = tool("sha256sum", &[copy.to_str().expect("text")]);
    if found.starts_with(&sum) { Ok(()) } else { Err("the payload is not what it was".to_owned()) }
}

/// Every record must be there, from 1 to the last, which is returned.
fn check_records(raw: &Path) -> Result<u64, String> {
    let Some(text) = read(raw, "records") else { return Ok(0) };
    let mut last = 0;
    for line in text.split_inclusive('\n') {
        last += 1;
        if line != record(last) {
            return Err(format!("{}: record {last} is {line:?}", raw.display()));
        }
    }
    Ok(last)
}

/// A file of a raw image with ext4.
fn read(raw: &Path, name: &str) -> Option<String> {
    let cat = format!("cat {name}");
    let run = try_tool("debugfs", &["-R", &cat, raw.to_str().expect("text")]);
    (!run.stderr.contains("File not found")).then_some(run.stdout)
}

/// A record as `scripts/lab/workload.rs` writes it.
fn record(number: u64) -> String {
    let mut line = format!("{number:010} ");
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for _ in 0..43 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let [_, _, _, byte, ..] = state.to_be_bytes();
        line.push(char::from(b'a' + byte % 26));
    }
    let crc = !line.bytes().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    });
    format!("{line} {crc:08x}\n")
}
