//! Azure's own clients for Python and JavaScript drive every operation on every kind of blob.
//!
//! `scripts/lab/install` installs them. What they do is in the scripts beside this file.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::server::Server;

/// A path below the folder in which programs for tests are installed.
pub(crate) fn lab(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let lab = std::env::var_os("STRONGROOM_LAB");
    let path = lab.map_or_else(|| root.join("target/lab"), PathBuf::from).join(path);
    assert!(path.exists(), "{} is missing: run scripts/lab/install", path.display());
    path
}

/// Runs a script beside this file, of which at least `least` parts must be done.
fn run(command: &mut Command, least: usize) {
    let output = command.output().expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{failed}");
    let done = said.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(done >= least, "only {done} were run:\n{said}");
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/storage").join(name)
}

fn python(name: &str, least: usize) {
    let server = Server::start();
    let mut command = Command::new(lab("python/bin/python"));
    command.arg(script(name)).arg(server.address.port().to_string());
    command.args(["acct", "prem", "geo"].map(|name| format!("{name}={}", server.keys[name])));
    run(&mut command, least);
}

fn javascript(name: &str, least: usize) {
    let server = Server::start();
    let modules = lab("node/node_modules/@azure/storage-blob").join("../../..");
    let mut command = Command::new("node");
    command.arg(script(name)).arg(modules);
    command.arg(server.address.to_string()).arg(&server.keys["acct"]);
    run(&mut command, least);
}

#[test]
fn the_client_for_python_works_unchanged() {
    python("page_blobs.py", 29);
}

#[test]
fn the_client_for_python_uploads_blocks_and_appends() {
    python("block_blobs.py", 20);
}

#[test]
fn the_client_for_javascript_works_unchanged() {
    javascript("page_blobs.mjs", 13);
}

#[test]
fn the_client_for_javascript_uploads_blocks_and_appends() {
    javascript("block_blobs.mjs", 9);
}
