//! Azure's own client for Python drives every operation on page blobs.
//!
//! `scripts/lab/install` installs it. What it does is in `page_blobs.py`, beside this file.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::server::Server;

/// A path of the project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn python() -> PathBuf {
    let lab = std::env::var_os("STRONGROOM_LAB");
    let python = lab.map_or_else(|| project("target/lab"), PathBuf::from).join("python/bin/python");
    assert!(python.exists(), "{} is missing: run scripts/lab/install", python.display());
    python
}

#[test]
fn the_client_for_python_works_unchanged() {
    let server = Server::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/storage/page_blobs.py");
    let output = Command::new(python())
        .arg(script)
        .arg(server.address.port().to_string())
        .args(["acct", "prem", "geo"].map(|name| format!("{name}={}", server.keys[name])))
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{failed}");
    let done = said.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(done >= 30, "only {done} were run:\n{said}");
}
