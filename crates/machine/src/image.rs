//! What `qemu-img` says of an image.

use std::{path::Path, process::Command};

use serde_json::Value;
use strongroom_hypervisor::ImageInfo;

/// The most bytes of its answer.
const MAX_ANSWER: usize = 8 << 20;

/// Why some images have no bitmaps.
pub(crate) const OLD: &str = "version 2 of qcow2 holds no bitmap of changes (with the machine off, \
    `qemu-img amend -o compat=1.1 IMAGE` makes it version 3)";

/// Information on an image that may be in use; none if it cannot be had.
pub(crate) fn info(path: &Path, format: &str) -> Option<Value> {
    serde_json::from_slice(&ask(path, format, &[])?).ok()
}

/// What an image and those under it are; nothing if that cannot be had.
pub(crate) fn chain(path: &Path, format: &str) -> Vec<ImageInfo> {
    let answer = ask(path, format, &["--backing-chain"]).unwrap_or_default();
    let answer = String::from_utf8_lossy(&answer);
    ImageInfo::parse_chain(&answer).unwrap_or_default()
}

fn ask(path: &Path, format: &str, options: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new("qemu-img")
        .args(["info", "--force-share", "--output=json", "-f", format])
        .args(options)
        .arg("--")
        .arg(path)
        .output();
    let output = match output {
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
