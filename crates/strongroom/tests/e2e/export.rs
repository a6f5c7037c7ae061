//! Recovery points as disks: exported over NBD, written through an overlay, mounted as files.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use strongroom_testing::{eventually, run, wait_until};

use crate::{
    blocks::Page,
    documented::assert_documented,
    harness::{Lab, need},
};

/// A command that runs until it is stopped, and what it said.
struct Running {
    command: Child,
    shown: Value,
}

impl Running {
    fn start(lab: &Lab, words: &str) -> Self {
        Self::start_by(lab.command(&format!("{words} --output json")))
    }

    fn start_by(mut command: Command) -> Self {
        let mut command = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let said = BufReader::new(command.stdout.take().expect("piped"));
        let shown = serde_json::Deserializer::from_reader(said).into_iter().next();
        Self { command, shown: shown.expect("a document").expect("JSON") }
    }

    fn export(lab: &Lab, words: &str) -> Self {
        let run = Self::start(lab, &format!("export --item web01 --recovery-point {words}"));
        assert_documented("export", &run.shown);
        run
    }

    fn mount(lab: &Lab, words: &str) -> Self {
        let run = Self::start(lab, &format!("mount disks --item web01 --recovery-point {words}"));
        assert_documented("mount disks", &run.shown);
        run
    }

    /// The URL of an export, by its place.
    fn url(&self, place: usize) -> String {
        self.shown["exports"][place]["url"].as_str().expect("a URL").to_owned()
    }

    fn stop(mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.command), signal).expect("a signal");
        let status = self.command.wait().expect("ends");
        assert!(status.success(), "{status}");
    }

    fn end(mut self) -> std::process::ExitStatus {
        self.command.wait().expect("ends")
    }

    fn kill(mut self) {
        self.command.kill().expect("is running");
        self.command.wait().expect("ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that was stopped is gone.
        self.command.kill().ok();
        self.command.wait().ok();
    }
}

/// A vault with a point of two disks, and the id of the point.
fn lab() -> (Lab, String) {
    let lab = Lab::new();
    lab.disk("vda.raw", 24, 6, 1);
    lab.disk("vdb.raw", 8, 2, 2);
    let report = lab.json("backup --item web01 --disk vda=vda.raw --disk vdb=vdb.raw");
    let point = report["recovery_point"].as_str().expect("an id").to_owned();
    (lab, point)
}

fn compare(lab: &Lab, image: &str, url: &str) {
    let image = lab.path(image).display().to_string();
    run("qemu-utils", "qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, url]);
}

/// What qemu-io says of commands on a disk.
fn qemu_io(url: &str, commands: &[&str]) -> String {
    let mut arguments = vec!["-f", "raw", "-t", "writeback", "-d", "unmap"];
    if commands.iter().all(|command| command.starts_with("read")) {
        arguments.push("-r");
    }
    arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
    arguments.push(url);
    run("qemu-utils", "qemu-io", &arguments)
}

#[test]
fn clients_of_all_kinds_read_a_point() {
    let (lab, _) = lab();
    let export = Running::export(&lab, "latest --socket a.sock");
    compare(&lab, "vda.raw", &export.url(0));
    compare(&lab, "vdb.raw", &export.url(1));
    let list = run("libnbd-bin", "nbdinfo", &["--list", &export.url(0)]);
    assert!(list.contains("export=\"vda\"") && list.contains("export=\"vdb\""), "{list}");
    assert!(list.contains("is_read_only: true"), "{list}");
    let map = run("libnbd-bin", "nbdinfo", &["--map", &export.url(0)]);
    assert!(map.contains("hole,zero"), "{map}");
    let copy = lab.path("copy.raw").display().to_string();
    run("libnbd-bin", "nbdcopy", &["--connections=4", &export.url(0), &copy]);
    lab.assert_same("copy.raw", "vda.raw");
    need("fio", "fio");
    let uri = format!("--uri={}", export.url(0));
    let read = ["--name=r", "--ioengine=nbd", "--rw=randread", "--bs=4k", "--size=24m", &uri];
    run("fio", "fio", &read);
    let write = ["--connections=1", &copy, &export.url(0)];
    let output = Command::new("nbdcopy").args(write).output().expect("nbdcopy, of libnbd-bin");
    assert!(!output.status.success(), "a point is not written");
    export.stop(Signal::TERM);
    assert!(!lab.path("a.sock").exists());
}

#[test]
fn a_socket_in_use_is_not_taken_and_that_of_the_dead_is() {
    let (lab, _) = lab();
    let words = "latest --disk vdb --socket a.sock";
    let export = Running::export(&lab, words);
    let again = format!("export --item web01 --recovery-point {words}");
    lab.fails(&again, 4, "export.endpoint");
    compare(&lab, "vdb.raw", &export.url(0));
    export.kill();
    assert!(lab.path("a.sock").exists());
    let export = Running::export(&lab, words);
    // One disk is the default export as well.
    let url = format!("nbd+unix:///?socket={}", lab.path("a.sock").display());
    compare(&lab, "vdb.raw", &url);
    export.stop(Signal::INT);
    assert!(!lab.path("a.sock").exists());
    lab.fails(&again.replace("vdb", "vdz"), 3, "point.disk_not_found");
    lab.fails(
        "export --item web01 --recovery-point latest --listen 0.0.0.0:0 --tls off",
        2,
        "usage.invalid",
    );
}

#[test]
fn over_tls_a_client_needs_a_certificate() {
    let (lab, _) = lab();
    let script = "set -e
        mkdir pki
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
            -subj /CN=authority -keyout authority-key.pem -out authority.pem
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
            -subj /CN=client -addext basicConstraints=critical,CA:FALSE \
            -CA authority.pem -CAkey authority-key.pem \
            -keyout pki/client-key.pem -out pki/client-cert.pem";
    let made = lab.shell(script).output().expect("bash starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let words = "latest --disk vda --listen 127.0.0.1:0 --client-ca authority.pem";
    let export = Running::export(&lab, words);
    let certificate = export.shown["certificate"].as_str().expect("a path");
    fs::copy(certificate, lab.path("pki/ca-cert.pem")).expect("is copied");
    let url = export.url(0);
    let base = url.split('?').next().expect("a URL");
    let with = format!("{base}?tls-certificates={}", lab.path("pki").display());
    let info = run("libnbd-bin", "nbdinfo", &[&with]);
    assert!(info.contains("with TLS") && info.contains("export-size: 25165824"), "{info}");
    // QEMU trusts authorities only, and wants that of its own certificate in the same file.
    let both = ["authority.pem", "pki/ca-cert.pem"];
    let both = both.map(|name| fs::read_to_string(lab.path(name)).expect("is read")).concat();
    fs::write(lab.path("pki/ca-cert.pem"), both).expect("is written");
    let credentials =
        format!("tls-creds-x509,id=t,endpoint=client,dir={}", lab.path("pki").display());
    let port = base.trim_start_matches("nbds://127.0.0.1:").split('/').next().expect("a port");
    let image = format!("driver=nbd,host=127.0.0.1,port={port},export=vda,tls-creds=t");
    let words = ["info", "--object", &credentials, "--image-opts", &image];
    let info = run("qemu-utils", "qemu-img", &words);
    assert!(info.contains("virtual size: 24 MiB"), "{info}");
    for stranger in [base.replace("nbds:", "nbd:"), base.to_owned()] {
        let output = Command::new("nbdinfo").arg(&stranger).output().expect("nbdinfo");
        assert!(!output.status.success(), "{stranger}");
    }
    export.stop(Signal::TERM);
}

#[test]
fn a_socket_that_nobody_could_connect_to_is_refused() {
    let (lab, _) = lab();
    let path = "s".repeat(150);
    let words = format!("export --item web01 --recovery-point latest --socket {path}");
    lab.fails(&words, 4, "export.endpoint");
}

#[test]
fn what_was_flushed_into_an_overlay_outlives_a_kill() {
    let (lab, first) = lab();
    let words = format!("{first} --disk vda --socket a.sock --writable --overlay over");
    let export = Running::export(&lab, &words);
    let url = export.url(0);
    let commands = ["write -P 7 1M 100k", "write -P 9 513 700", "discard 2M 128k", "flush"];
    qemu_io(&url, &commands);
    qemu_io(&url, &["read -P 7 1M 100k", "read -P 9 513 700", "read -P 0 2M 128k"]);
    let map = run("libnbd-bin", "nbdinfo", &["--map", &url]);
    assert!(map.contains("hole,zero"), "{map}");
    export.kill();
    // It is of its point, and of no other.
    lab.change("vda.raw", 0, 4096, 99);
    lab.ok("backup --item web01 --disk vda=vda.raw --disk vdb=vdb.raw");
    let other = words.replace(&first, "latest");
    lab.fails(&format!("export --item web01 --recovery-point {other}"), 4, "export.overlay_other");
    let export = Running::export(&lab, &words);
    qemu_io(&url, &["read -P 7 1M 100k", "read -P 9 513 700", "read -P 0 2M 128k"]);
    let in_use = words.replace("a.sock", "b.sock");
    lab.fails(
        &format!("export --item web01 --recovery-point {in_use}"),
        4,
        "export.overlay_in_use",
    );
    export.stop(Signal::TERM);
    // What was written and the rest of the point are one disk.
    lab.ok(&format!(
        "restore disks --item web01 --recovery-point {first} --disks vda --to vda=expected.raw"
    ));
    let expected = lab.path("expected.raw").display().to_string();
    qemu_io(&expected, &commands);
    let export = Running::export(&lab, &words);
    compare(&lab, "expected.raw", &url);
    export.stop(Signal::TERM);
    // A map that is damaged before its end is not believed.
    let map = lab.path("over/vda.map");
    let mut bytes = fs::read(&map).expect("a map");
    bytes[20] ^= 1;
    fs::write(&map, bytes).expect("written");
    lab.fails(
        &format!("export --item web01 --recovery-point {words}"),
        6,
        "export.overlay_damaged",
    );
}

#[test]
fn a_damaged_pack_costs_its_own_blocks() {
    let (lab, _) = lab();
    let packs = lab.path("vault/packs/data");
    let mut files = Vec::new();
    files_below(&packs, &mut files);
    let pack = files.into_iter().max_by_key(|path| fs::metadata(path).expect("a pack").len());
    let pack = pack.expect("a pack");
    let mut bytes = fs::read(&pack).expect("a pack");
    // In a record of noise, which is stored as it is.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).expect("written");
    let export = Running::export(&lab, "latest --socket a.sock");
    let mut bad = 0;
    // The blocks that have data.
    for (place, blocks) in [(0, 96), (1, 32)] {
        let url = export.url(place);
        for block in 0..blocks {
            let read = format!("read {} 64k", block * 65536);
            let arguments = ["-r", "-f", "raw", "-c", &read, &url];
            let output = Command::new("qemu-io").args(arguments).output();
            let output = output.expect("qemu-io, of qemu-utils");
            bad += u32::from(!output.status.success());
        }
    }
    assert_eq!(bad, 1, "one block is damaged");
    export.stop(Signal::TERM);
}

fn files_below(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
}

#[test]
fn a_point_is_mounted_as_files() {
    let (lab, _) = lab();
    fs::create_dir(lab.path("mnt")).expect("a folder");
    let mount = Running::mount(&lab, "latest mnt");
    lab.assert_same("mnt/vda.raw", "vda.raw");
    lab.assert_same("mnt/vdb.raw", "vdb.raw");
    assert!(fs::write(lab.path("mnt/vda.raw"), b"no").is_err());
    assert!(fs::write(lab.path("mnt/new"), b"no").is_err());
    // Holes are holes to those who copy.
    let copied = lab.shell("cp --sparse=auto mnt/vda.raw copy.raw && du -k copy.raw").output();
    let copied = String::from_utf8(copied.expect("bash starts").stdout).expect("text");
    let kib: u64 = copied.split('\t').next().and_then(|kib| kib.parse().ok()).expect("a number");
    assert!(kib < 7 * 1024, "{copied}");
    lab.assert_same("copy.raw", "vda.raw");
    // What is in use is served until it is not.
    let used = fs::File::open(lab.path("mnt/vdb.raw")).expect("opens");
    let pid = Pid::from_child(&mount.command);
    kill_process(pid, Signal::TERM).expect("a signal");
    std::thread::sleep(std::time::Duration::from_secs(2));
    let (mut first, mut last) = ([0; 4096], [0; 4096]);
    used.read_exact_at(&mut first, 0).expect("is served");
    used.read_exact_at(&mut last, 6 << 20).expect("is served");
    drop(used);
    assert!(mount.end().success());
    assert_eq!(fs::read_dir(lab.path("mnt")).expect("a folder").count(), 0);
    fs::write(lab.path("mnt/own"), b"a file").expect("a file");
    lab.fails("mount disks --item web01 --recovery-point latest mnt", 2, "mount.folder");
}

#[test]
fn a_second_signal_takes_the_mount_from_its_users() {
    let (lab, _) = lab();
    fs::create_dir(lab.path("mnt")).expect("a folder");
    let mount = Running::mount(&lab, "latest mnt");
    let used = fs::File::open(lab.path("mnt/vdb.raw")).expect("opens");
    let pid = Pid::from_child(&mount.command);
    kill_process(pid, Signal::TERM).expect("a signal");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(lab.path("mnt/vda.raw").exists(), "it waits for its users");
    kill_process(pid, Signal::TERM).expect("a signal");
    assert!(mount.end().success());
    assert_eq!(fs::read_dir(lab.path("mnt")).expect("no dead mount").count(), 0);
    // Their next read fails, and is never zeros.
    assert!(used.read_exact_at(&mut [0; 4096], 6 << 20).is_err());
    Running::mount(&lab, "latest mnt").stop(Signal::INT);
}

#[test]
fn a_terminal_that_closes_ends_what_it_started() {
    let (lab, _) = lab();
    fs::create_dir(lab.path("mnt")).expect("a folder");
    Running::mount(&lab, "latest mnt").stop(Signal::HUP);
    assert_eq!(fs::read_dir(lab.path("mnt")).expect("no dead mount").count(), 0);
    Running::export(&lab, "latest --socket a.sock").stop(Signal::HUP);
    assert!(!lab.path("a.sock").exists());
    // Unless it is to outlive it.
    let program = env!("CARGO_BIN_EXE_strongroom");
    let export = Running::start_by(lab.shell(&format!(
        "trap '' HUP; STRONGROOM_VAULT=vault STRONGROOM_KEY_FILE=key exec {program} export \
         --item web01 --recovery-point latest --socket a.sock --output json"
    )));
    kill_process(Pid::from_child(&export.command), Signal::HUP).expect("a signal");
    std::thread::sleep(std::time::Duration::from_secs(1));
    compare(&lab, "vdb.raw", &export.url(1));
    export.stop(Signal::TERM);
    assert!(!lab.path("a.sock").exists());
}

#[test]
fn a_mount_ends_with_its_parent_and_a_stale_one_is_named() {
    let (lab, _) = lab();
    fs::create_dir(lab.path("mnt")).expect("a folder");
    let mount = Running::mount(&lab, "latest mnt");
    mount.kill();
    lab.fails("mount disks --item web01 --recovery-point latest mnt", 4, "mount.stale");
    run("mount", "umount", &[&lab.path("mnt").display().to_string()]);
    let program = env!("CARGO_BIN_EXE_strongroom");
    // A shell that starts the mount and is then killed.
    let mut shell = lab.shell(&format!(
        "STRONGROOM_VAULT=vault STRONGROOM_KEY_FILE=key {program} mount disks --item web01 \
         --recovery-point latest mnt & wait"
    ));
    let mut shell = shell.stdout(Stdio::piped()).spawn().expect("bash starts");
    let mut line = String::new();
    BufReader::new(shell.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert!(lab.path("mnt/vda.raw").exists(), "{line}");
    shell.kill().expect("is running");
    shell.wait().expect("ends");
    wait_until("the mount is gone", || {
        fs::read_dir(lab.path("mnt")).is_ok_and(|entries| entries.count() == 0)
    });
}

/// A process that has the rights of no user of this host.
#[test]
fn without_rights_the_mount_is_refused() {
    let (lab, _) = lab();
    fs::create_dir(lab.path("mnt")).expect("a folder");
    let program = env!("CARGO_BIN_EXE_strongroom");
    let words = "mount disks --item web01 --recovery-point latest mnt --output json";
    let mut run = lab.shell(&format!(
        "STRONGROOM_VAULT=vault STRONGROOM_KEY_FILE=key PATH=/usr/bin unshare --user {program} {words}"
    ));
    let output = run.output().expect("bash starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = "mount.refused";
    assert!(!output.status.success() && said.contains(code), "{said}");
}

#[test]
fn the_page_about_exports_works() {
    let (lab, _) = lab();
    fs::create_dir(lab.path("mnt")).expect("a folder");
    let page = Page::new("docs/use/export.md", "the_page_about_exports_works");
    let mut count = 0;
    for part in page.parts() {
        let words = part.split_whitespace().collect::<Vec<_>>().join(" ").replace(" \\ ", " ");
        let words =
            words.replace("/run/", "").replace("/srv/scratch/", "").replace("/mnt/web01", "mnt");
        count += 1;
        if let Some(words) = words.strip_prefix("strongroom export --item web01 --recovery-point ")
        {
            let export = Running::export(&lab, words);
            compare(&lab, "vda.raw", &export.url(0));
            export.stop(Signal::TERM);
        } else if let Some(words) =
            words.strip_prefix("strongroom mount disks --item web01 --recovery-point ")
        {
            let mount = Running::mount(&lab, words);
            lab.assert_same("mnt/vda.raw", "vda.raw");
            mount.stop(Signal::TERM);
        } else {
            panic!("nobody runs {part}");
        }
    }
    assert_eq!(count, 3);
}

#[test]
fn a_trace_is_recorded_and_read_first() {
    let (lab, _) = lab();
    let export = Running::export(&lab, "latest --disk vda --socket a.sock --record-trace trace");
    qemu_io(&export.url(0), &["read 1M 64k", "read 0 4k"]);
    export.stop(Signal::TERM);
    let trace: Value =
        eventually("a trace", || serde_json::from_slice(&fs::read(lab.path("trace")).ok()?).ok());
    assert_eq!(trace["disks"], serde_json::json!(["vda"]));
    let reads = trace["reads"].as_array().expect("a list");
    assert!(reads.contains(&serde_json::json!([0, 16, 1])), "{trace}");
    let export = Running::export(&lab, "latest --socket a.sock --read-first trace");
    compare(&lab, "vda.raw", &export.url(0));
    export.stop(Signal::TERM);
    let words = "export --item web01 --recovery-point latest --socket a.sock --read-first vda.raw";
    fs::write(lab.path("bad"), b"{}").expect("written");
    lab.fails(&words.replace("vda.raw", "bad"), 2, "export.trace");
}
