//! A real object store on loopback, for a test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use strongroom_base::{Clock as _, SystemClock};
use tempfile::TempDir;

use crate::harness::Lab;

/// A store that runs for one test.
pub(crate) struct Store(TempDir);

impl Store {
    /// Starts it, and makes the lab's program use it: its address and its credentials stand in the
    /// environment, as a user would have them.
    pub(crate) fn start(name: &str, lab: &mut Lab) -> Self {
        let store = Self(tempfile::tempdir().expect("a temporary folder"));
        let started = Command::new(script()).args(["start", name]).arg(store.0.path()).output();
        let started = started.expect("bash");
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        for line in String::from_utf8(started.stdout).expect("text").lines() {
            match line.split_once('=').expect("NAME=VALUE") {
                ("url", url) => {
                    lab.set("STRONGROOM_VAULT", &url.replacen("//lab", "//lab/some/vault", 1));
                }
                (name, value) => lab.set(name, value),
            }
        }
        store
    }

    /// Whether an object has such a part in its name within so many seconds, in a store that keeps
    /// its objects as files.
    pub(crate) fn has_within(&self, part: &str, seconds: u64) -> bool {
        fn any(folder: &Path, part: &str) -> bool {
            fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
                let path = entry.path();
                if path.is_dir() { any(&path, part) } else { path.to_string_lossy().contains(part) }
            })
        }
        (0..seconds * 20).any(|_| {
            SystemClock.sleep(Duration::from_millis(50));
            any(self.0.path(), part)
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let stopped = Command::new(script()).arg("stop").arg(self.0.path()).status();
        assert!(stopped.expect("bash").success());
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/lab/stores")
}
