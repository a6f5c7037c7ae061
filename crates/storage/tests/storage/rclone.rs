//! rclone copies, synchronises and checks folders. `scripts/lab/install` installs it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use strongroom_base::SplitMix64;

use crate::{clients::lab, server::Server};

struct Rclone<'a> {
    server: &'a Server,
    program: PathBuf,
}

impl Rclone<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["--config", "/dev/null", "--retries", "1", "--low-level-retries", "1"])
            .args(arguments)
            .env("RCLONE_CONFIG_SR_TYPE", "azureblob")
            .env("RCLONE_CONFIG_SR_ACCOUNT", "acct")
            .env("RCLONE_CONFIG_SR_KEY", &self.server.keys["acct"])
            .env("RCLONE_CONFIG_SR_ENDPOINT", format!("http://{}/acct", self.server.address))
            .stdin(Stdio::null());
        command
    }

    /// Runs it; gives what it printed.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let failed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}:\n{said}\n{failed}");
        said
    }
}

fn noise(random: &mut SplitMix64, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..len.div_ceil(8)).flat_map(|_| random.bits().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("reads") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("is below").display().to_string();
                found.insert(name, fs::read(&path).expect("reads"));
            }
        }
    }
    found
}

#[test]
fn rclone_copies_synchronises_and_checks_a_folder() {
    let server = Server::start();
    let rclone = Rclone { server: &server, program: lab("python/bin/rclone") };
    let root = tempfile::tempdir().expect("a folder");
    let (from, back) = (root.path().join("from"), root.path().join("back"));
    let mut random = SplitMix64::new(7);
    for n in 0..300_usize {
        let folder = from.join(format!("folder {}/ü+%{}", n % 7, n % 3));
        fs::create_dir_all(&folder).expect("a folder");
        let len = [0, 1, 511, 4096, 100_000][n % 5];
        fs::write(folder.join(format!("{n}.txt")), noise(&mut random, len)).expect("writes");
    }
    fs::write(from.join("large"), noise(&mut random, 120 << 20)).expect("writes");
    let (source, target) = (from.to_str().expect("text"), back.to_str().expect("text"));
    rclone.run(&["mkdir", "sr:con"]);
    rclone.run(&["copy", source, "sr:con/here", "--azureblob-chunk-size", "5Mi"]);
    rclone.run(&["check", source, "sr:con/here"]);
    rclone.run(&["check", "--download", source, "sr:con/here"]);
    // Nothing is sent a second time.
    let again = rclone.command(&["copy", "-v", source, "sr:con/here"]).output().expect("runs");
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("There was nothing to transfer"), "{said}");
    let listed = rclone.run(&["lsf", "-R", "--files-only", "sr:con/here"]);
    assert_eq!(listed.lines().count(), 301);
    assert!(rclone.run(&["size", "--json", "sr:con"]).contains("\"count\":301"));
    // One changed, one new, one gone.
    fs::write(from.join("folder 1/ü+%1/1.txt"), b"changed").expect("writes");
    fs::write(from.join("new"), b"new").expect("writes");
    fs::remove_file(from.join("folder 2/ü+%2/2.txt")).expect("removes");
    rclone.run(&["sync", source, "sr:con/here"]);
    rclone.run(&["check", source, "sr:con/here"]);
    // A copy within the server, a move, and back.
    rclone.run(&["copy", "sr:con/here", "sr:con/there"]);
    rclone.run(&["moveto", "sr:con/there/new", "sr:con/there/moved"]);
    rclone.run(&["copy", "sr:con/there", target]);
    let mut wanted = files(&from);
    let moved = wanted.remove("new").expect("is there");
    wanted.insert("moved".to_owned(), moved);
    assert!(files(&back) == wanted, "what comes back is what went");
    // Tiers, and a stream of unknown length.
    // It ends well whatever the server says, so that the tier is looked at.
    rclone.run(&["settier", "Cool", "sr:con/there/large"]);
    let tiers = rclone.run(&["lsf", "--format", "pT", "sr:con/there", "--include", "/large"]);
    assert_eq!(tiers.trim(), "large;Cool");
    let mut stream = rclone.command(&["rcat", "sr:con/stream", "--azureblob-chunk-size", "5Mi"]);
    let large = fs::File::open(from.join("large")).expect("opens");
    assert!(stream.stdin(large).status().expect("runs").success());
    rclone.run(&["check", "--download", source, "sr:con/there", "--include", "/large"]);
    let sum = |path: &str| rclone.run(&["md5sum", "--download", path]);
    assert_eq!(sum("sr:con/stream")[..32], sum("sr:con/there/large")[..32]);
    rclone.run(&["purge", "sr:con"]);
    assert_eq!(rclone.run(&["lsf", "sr:"]), "");
}
