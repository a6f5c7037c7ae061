//! Facts about an image from `qemu-img`.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use strongroom_hypervisor::{Disk, ImageInfo, Source};

/// The most bytes of its answer.
const MAX_ANSWER: usize = 8 << 20;

/// `qemu-img` at work on a question, while we do other things.
pub(crate) struct Asked {
    path: PathBuf,
    process: Child,
}

impl Asked {
    /// Asks for information on an image that may be in use.
    pub(crate) fn info(path: &Path, format: &str) -> Option<Self> {
        let process = question(path, format, &[])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .inspect_err(|error| tracing::debug!(%error, "qemu-img cannot be run"))
            .ok()?;
        Some(Self { path: path.to_owned(), process })
    }

    /// The answer; none if it cannot be had.
    pub(crate) fn answer(mut self) -> Option<Value> {
        let limit = u64::try_from(MAX_ANSWER).unwrap_or(u64::MAX);
        let mut said = Vec::new();
        let output = self.process.stdout.take()?;
        output.take(limit).read_to_end(&mut said).ok()?;
        let status = self.process.wait().ok()?;
        if !status.success() {
            tracing::debug!(path = %self.path.display(), %status, "qemu-img info");
            return None;
        }
        serde_json::from_slice(&said).ok()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Both do nothing if it has ended.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
/// Why some images have no bitmaps.
pub(crate) const OLD: &str = "version 2 of qcow2 holds no bitmap of changes (with the machine off, \
    `qemu-img amend -o compat=1.1 IMAGE` makes it version 3)";

/// Information on an image that may be in use; none if it cannot be had.
pub(crate) fn info(path: &Path, format: &str) -> Option<Value> {
    Asked::info(path, format)?.answer()
}

/// Makes empty qcow2 images, all at once. False if one of them cannot be made.
pub(crate) fn create(images: &[(PathBuf, u64)]) -> bool {
    let start = |(path, size): &(PathBuf, u64)| {
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "--"])
            .arg(path)
            .arg(size.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    };
    let started: Vec<_> = images.iter().map(start).collect();
    let ended = started.into_iter().map(|process| process.and_then(|mut process| process.wait()));
    // Every one is waited for.
    ended.filter(|status| !status.as_ref().is_ok_and(std::process::ExitStatus::success)).count()
        == 0
}

/// What an image and those under it are; nothing if that cannot be had.
pub(crate) fn chain(path: &Path, format: &str) -> Vec<ImageInfo> {
    images(path, format, &["--backing-chain"]).unwrap_or_default()
}

/// What a disk's image and those under it are, as far as they are files here: those that the machine's
/// definition names, and under them what their headers name. Nothing if the image itself cannot be
/// looked at.
pub(crate) fn chain_of(disk: &Disk) -> Vec<ImageInfo> {
    let top = (&disk.source, disk.driver.format.as_deref(), disk.slice);
    let layers = disk.chain.iter();
    let layers = layers.map(|layer| (&layer.source, layer.format.as_deref(), layer.slice));
    let mut found = Vec::new();
    for (number, place) in std::iter::once(top).chain(layers).enumerate() {
        // Only under the last one do headers say more.
        let is_last = number == disk.chain.len();
        let options: &[&str] = if is_last && !disk.chain_ends { &["--backing-chain"] } else { &[] };
        let (source, format, slice) = place;
        match source.path().filter(|_| slice.is_none()) {
            Some(path) => match images(Path::new(path), format.unwrap_or("raw"), options) {
                Some(images) => found.extend(images),
                None if number == 0 => return Vec::new(),
                None => found.push(named(source, format)),
            },
            None => found.push(named(source, format)),
        }
    }
    found
}

/// An image of which is known only where it is.
fn named(source: &Source, format: Option<&str>) -> ImageInfo {
    ImageInfo {
        filename: source.to_string(),
        format: format.unwrap_or("raw").to_owned(),
        ..ImageInfo::default()
    }
}

fn images(path: &Path, format: &str, options: &[&str]) -> Option<Vec<ImageInfo>> {
    let answer = ask(path, format, options)?;
    ImageInfo::parse_chain(&String::from_utf8_lossy(&answer)).ok()
}

fn question(path: &Path, format: &str, options: &[&str]) -> Command {
    let mut command = Command::new("qemu-img");
    command
        .args(["info", "--force-share", "--output=json", "-f", format])
        .args(options)
        .arg("--")
        .arg(path);
    command
}

fn ask(path: &Path, format: &str, options: &[&str]) -> Option<Vec<u8>> {
    let output = match question(path, format, options).output() {
        Ok(output) if output.status.success() && output.stdout.len() <= MAX_ANSWER => output,
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            tracing::debug!(path = %path.display(), words, "qemu-img info");
            return None;
        }
        Err(error) => {
            tracing::debug!(%error, "qemu-img cannot be run");
            return None;
        }
    };
    Some(output.stdout)
}

/// Whether an image's bitmap of this name is whole and records what is written. If it is not, says
/// what is wrong.
pub(crate) fn check_bitmap(info: &ImageInfo, name: &str) -> Result<(), String> {
    let Some(bitmap) = info.bitmaps.iter().find(|bitmap| bitmap.name == name) else {
        return Err(format!("its image has no bitmap {name}"));
    };
    if bitmap.in_use {
        let words = "was left inconsistent, as by a crash of QEMU or of the host";
        return Err(format!("bitmap {name} {words}"));
    }
    if !bitmap.auto {
        let words = "was followed by another backup's, which records since then";
        return Err(format!("bitmap {name} {words}"));
    }
    Ok(())
}

/// What of the information tells how to make such an image again.
pub(crate) fn recipe(info: &Value) -> Value {
    let mut recipe = info.clone();
    if let Some(object) = recipe.as_object_mut() {
        // What changes all the time would make every configuration another.
        for key in ["actual-size", "children", "dirty-flag", "filename"] {
            object.remove(key);
        }
    }
    if let Some(data) = recipe.pointer_mut("/format-specific/data").and_then(Value::as_object_mut) {
        data.remove("bitmaps");
    }
    recipe
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bitmaps_that_can_be_trusted() {
        let info = json!({"filename": "x", "format": "qcow2", "virtual-size": 1024,
            "format-specific": {"type": "qcow2", "data": {"compat": "1.1", "bitmaps": [
            {"name": "a", "flags": ["auto"], "granularity": 65536},
            {"name": "b", "flags": ["in-use", "auto"], "granularity": 65536},
            {"name": "c", "flags": [], "granularity": 65536},
        ]}}, "actual-size": 3, "cluster-size": 65536});
        let chain = ImageInfo::parse_chain(&info.to_string()).expect("parses");
        let check = |name| check_bitmap(&chain[0], name);
        assert_eq!(check("a"), Ok(()));
        assert!(check("b").expect_err("in use").contains("inconsistent"));
        assert!(check("c").expect_err("not recording").contains("another"));
        assert!(check("d").expect_err("missing").contains("no bitmap"));
        assert_eq!(recipe(&info).pointer("/format-specific/data/bitmaps"), None);
        assert_eq!(recipe(&info).get("actual-size"), None);
        assert_eq!(recipe(&info).get("cluster-size"), Some(&json!(65536)));
    }
}
