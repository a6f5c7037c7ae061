//! Images of restored disks: created like the backed up ones, and opened for writing.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use strongroom_base::{Clock, Environment};
use strongroom_disk::{
    DiskError, DiskSpec, DiskTarget, Existing, ImageFormat, TargetOptions, open_target, pinned,
};

use super::place::local;
use crate::{MachineError, error::Result};

/// The program that makes images.
const QEMU_IMG: &str = "qemu-img";

/// How long it is waited for an image that another has open.
const PATIENCE: Duration = Duration::from_secs(10);

/// Options of a qcow2 image that are worth keeping, from what `qemu-img info` said of the old one.
pub(super) fn options_of(info: Option<&Value>) -> Vec<String> {
    let Some(info) = info else { return Vec::new() };
    let mut options = Vec::new();
    let cluster = info.get("cluster-size").and_then(Value::as_u64);
    if let Some(bytes) =
        cluster.filter(|bytes| bytes.is_power_of_two() && (512..=2 << 20).contains(bytes))
    {
        options.push(format!("cluster_size={bytes}"));
    }
    let data = info.get("format-specific").and_then(|specific| specific.get("data"));
    let flag = |name: &str| data.and_then(|data| data.get(name)).and_then(Value::as_bool);
    if flag("lazy-refcounts") == Some(true) {
        options.push("lazy_refcounts=on".to_owned());
    }
    if flag("extended-l2") == Some(true) {
        options.push("extended_l2=on".to_owned());
    }
    let bits = data.and_then(|data| data.get("refcount-bits")).and_then(Value::as_u64);
    if let Some(bits) = bits.filter(|bits| bits.is_power_of_two() && *bits <= 64 && *bits != 16) {
        options.push(format!("refcount_bits={bits}"));
    }
    options
}

/// Makes an empty qcow2 image in a file that does not exist yet.
pub(crate) fn create(
    path: &Path,
    size: u64,
    options: &[String],
    backing: Option<(&Path, &str)>,
) -> Result<()> {
    // For its owner alone from the beginning.
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = made.map_err(|source| local("make", path, source))?;
    let mut words = vec!["create".to_owned(), "-q".into(), "-f".into(), "qcow2".into()];
    for option in options {
        words.extend(["-o".to_owned(), option.clone()]);
    }
    if let Some((backing, format)) = backing {
        words.extend(["-F".to_owned(), format.to_owned()]);
        words.extend(["-b".to_owned(), backing.display().to_string()]);
    }
    // This very file, whatever gets its name meanwhile.
    words.extend([pinned(&file).display().to_string(), size.to_string()]);
    let result = qemu_img(path, &words);
    if result.is_err() {
        fs::remove_file(path).ok();
    }
    result
}

/// Runs qemu-img, which must succeed.
pub(super) fn qemu_img(disk: &Path, words: &[String]) -> Result<()> {
    let tool = |reason: String| DiskError::Tool {
        tool: QEMU_IMG,
        disk: disk.display().to_string(),
        reason,
    };
    let output = Command::new(QEMU_IMG)
        .env_clear()
        .envs(Environment::given().path())
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => tool("it is not installed".to_owned()),
            _ => tool(error.to_string()),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().filter(|c| !c.is_control()).take(500).collect();
    Err(tool(said).into())
}

/// Opens an image to restore into, whatever of it an earlier attempt has written.
pub(super) fn open(
    path: &Path,
    format: ImageFormat,
    size: u64,
    options: &[String],
    allow_backing: &[PathBuf],
    existing: Existing,
    clock: &dyn Clock,
) -> Result<Box<dyn DiskTarget>> {
    if path.symlink_metadata().is_ok_and(|file| file.is_file() && file.len() == 0) {
        // An earlier attempt ended before it had a header.
        fs::remove_file(path).map_err(|source| local("remove", path, source))?;
    }
    let is_new = !path.try_exists().map_err(|source| local("find", path, source))?;
    if is_new && format == ImageFormat::Qcow2 && !options.is_empty() {
        create(path, size, options, None)?;
    }
    let spec = DiskSpec::File { path: path.to_owned(), format: Some(format) };
    let mut target = TargetOptions { existing, ..TargetOptions::default() };
    target.open.allow_backing = allow_backing.to_vec();
    patiently(clock, || Ok(open_target(&spec, size, &target)?))
}

/// Tries until an image is free: the child that served it to an attempt that was killed takes a moment
/// to end.
pub(super) fn patiently<T>(clock: &dyn Clock, mut open: impl FnMut() -> Result<T>) -> Result<T> {
    let start = clock.monotonic();
    loop {
        let result = open();
        let is_busy = match &result {
            Err(MachineError::Disk(DiskError::Busy { .. })) => true,
            Err(MachineError::Disk(DiskError::Tool { reason, .. })) => reason.contains("\" lock"),
            _ => false,
        };
        if !is_busy || clock.monotonic().saturating_sub(start) > PATIENCE {
            return result;
        }
        clock.sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn attributes_that_are_kept() {
        assert_eq!(options_of(None), Vec::<String>::new());
        let info = json!({
            "cluster-size": 4096,
            "format-specific": {"type": "qcow2", "data": {"lazy-refcounts": true, "refcount-bits": 16}},
        });
        assert_eq!(options_of(Some(&info)), ["cluster_size=4096", "lazy_refcounts=on"]);
        assert_eq!(options_of(Some(&json!({"cluster-size": 3}))), Vec::<String>::new());
    }
}
