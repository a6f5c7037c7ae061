//! What `qemu-img` says of an image.

use std::{path::Path, process::Command};

use serde_json::Value;

/// The most bytes of its answer.
const MAX_ANSWER: usize = 8 << 20;

/// Information on an image that may be in use; none if it cannot be had.
pub(crate) fn info(path: &Path, format: &str) -> Option<Value> {
    let output = Command::new("qemu-img")
        .args(["info", "--force-share", "--output=json", "-f", format, "--"])
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
    serde_json::from_slice(&output.stdout).ok()
}

/// Whether an image's bitmap of this name is whole and records what is written. If it is not, says
/// what is wrong.
pub(crate) fn check_bitmap(info: &Value, name: &str) -> Result<(), String> {
    let bitmaps = info.pointer("/format-specific/data/bitmaps").and_then(Value::as_array);
    let named = |bitmap: &&Value| bitmap.get("name").and_then(Value::as_str) == Some(name);
    let Some(bitmap) = bitmaps.and_then(|bitmaps| bitmaps.iter().find(named)) else {
        return Err(format!("its image has no bitmap {name}"));
    };
    let flags = bitmap.get("flags").and_then(Value::as_array);
    let has = |flag: &str| flags.is_some_and(|flags| flags.iter().any(|other| other == flag));
    if has("in-use") {
        return Err(format!(
            "bitmap {name} was left inconsistent, as by a crash of QEMU or of the host"
        ));
    }
    if !has("auto") {
        return Err(format!(
            "bitmap {name} was followed by another backup's, which records since then"
        ));
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
        let info = json!({"format-specific": {"data": {"bitmaps": [
            {"name": "a", "flags": ["auto"], "granularity": 65536},
            {"name": "b", "flags": ["in-use", "auto"]},
            {"name": "c", "flags": []},
        ]}}, "actual-size": 3, "cluster-size": 65536});
        assert_eq!(check_bitmap(&info, "a"), Ok(()));
        assert!(check_bitmap(&info, "b").expect_err("in use").contains("inconsistent"));
        assert!(check_bitmap(&info, "c").expect_err("not recording").contains("another"));
        assert!(check_bitmap(&info, "d").expect_err("missing").contains("no bitmap"));
        assert!(check_bitmap(&json!([]), "a").is_err());
        assert_eq!(recipe(&info), json!({"format-specific": {"data": {}}, "cluster-size": 65536}));
    }
}
