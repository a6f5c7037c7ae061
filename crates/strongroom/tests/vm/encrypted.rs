//! Disks that QEMU encrypts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    after::{failed, says},
    check::{Taken, check},
    guest::{Disk, Guest},
    harness::{Host, tool, try_tool},
    restore::{files, folder, image},
};

const SECRET: &str = "6c1b2a90-0000-4000-8000-0000000000aa";

/// The passphrase of all encrypted disks here, in a file.
fn phrase(host: &Host) -> PathBuf {
    let file = host.lab.path("passphrase");
    fs::write(&file, "open sesame").unwrap();
    file
}

/// The words that have QEMU's tools know the passphrase as `key`.
fn object(host: &Host) -> String {
    format!("secret,id=key,file={}", phrase(host).display())
}

/// Gives libvirt the secret.
fn define_secret(host: &Host) {
    let xml = format!(
        "<secret ephemeral='no' private='no'><uuid>{SECRET}</uuid>\
         <usage type='volume'><volume>data</volume></usage></secret>"
    );
    let file = host.lab.path("secret.xml");
    fs::write(&file, xml).unwrap();
    host.virsh(&["secret-define", file.to_str().unwrap()]);
    let phrase = phrase(host);
    host.virsh(&["secret-set-value", SECRET, "--file", phrase.to_str().unwrap(), "--plain"]);
}

/// A disk with this encrypted image.
fn encrypted(path: &Path, format: &'static str) -> Disk {
    let xml = format!(
        "<encryption format='luks'><secret type='passphrase' uuid='{SECRET}'/></encryption>"
    );
    Disk::image(path, format).xml(&xml)
}

/// Makes an image. Where processor time is counted in long steps, QEMU cannot measure its key
/// derivation, and has to be asked again.
fn qemu_img(words: &[&str]) {
    let made = (0..20).any(|_| try_tool("qemu-img", words).code == 0);
    assert!(made, "{words:?}");
}

/// A machine with a plain disk, an encrypted qcow2 and an encrypted raw one, of 16 MiB each. It runs,
/// and has written to them.
fn web(host: &Host) -> Guest<'_> {
    define_secret(host);
    let object = object(host);
    let (qcow2, luks) = (host.lab.path("data.qcow2"), host.lab.path("data.luks"));
    let create = ["create", "-q", "--object", &object, "-f"];
    let one = ["qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"];
    let other = ["luks", "-o", "key-secret=key,iter-time=10"];
    for (options, path) in [(one, &qcow2), (other, &luks)] {
        qemu_img(&[&create[..], &options, &[path.to_str().unwrap(), "16M"]].concat());
    }
    let guest =
        Guest::web(host, [Disk::qcow2(48), encrypted(&qcow2, "qcow2"), encrypted(&luks, "raw")])
            .up(0);
    write(&guest, 3);
    guest
}

/// Writes to both encrypted disks, so many blocks from their beginning.
fn write(guest: &Guest<'_>, at: u32) {
    for disk in ["vdb", "vdc"] {
        guest.sh(&format!("dd if=/dev/urandom of=/dev/{disk} bs=64k count=16 seek={at}; sync"));
    }
}

/// What the guest sees of both encrypted disks.
fn sums(guest: &Guest<'_>) -> String {
    guest.sh("sha256sum /dev/vdb /dev/vdc")
}

/// Both are the same file, byte by byte.
fn assert_same_file(one: &Path, other: &Path) {
    let names = [one.to_str().unwrap(), other.to_str().unwrap()];
    let run = try_tool("cmp", &names);
    assert_eq!(run.code, 0, "{run:?}");
}

const LATEST: [&str; 4] = ["--item", "web", "--recovery-point", "latest"];

#[test]
fn encrypted_disks_are_backed_up_as_the_guest_sees_them() {
    let host = Host::new();
    let plain = Guest::named("plain").disk(Disk::qcow2(48)).create(&host);
    define_secret(&host);
    let locked = host.lab.path("encrypted.qcow2");
    let (from, to) = (plain.disk_path("vda").to_str().unwrap(), locked.to_str().unwrap());
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=300";
    qemu_img(&["convert", "-O", "qcow2", "--object", &object(&host), "-o", options, from, to]);
    let disk = encrypted(&locked, "qcow2");
    let guest = Guest::named("safe").disk(disk).disk(Disk::qcow2(48)).create(&host);
    guest.boot();
    guest.wait_records(3);
    host.json(&["backup", "--vm", "safe"]);
    guest.wait_records(3);
    let report = host.json(&["backup", "--vm", "safe"]);
    assert_eq!(report["disks"][0]["changes_from"], "bitmap", "{report:#}");
    assert!(says(&report["disks"][0]["notes"], "kept as the guest sees it"), "{report:#}");
    assert!(!says(&report["disks"][1]["notes"], "as the guest sees it"), "{report:#}");
    let images = crate::backup::restore(&host, "safe", crate::backup::point(&report));
    check(&crate::backup::paths(&images), Taken::Frozen).unwrap();

    // Off, only QEMU can read it.
    guest.wait_records(3);
    guest.shutdown();
    let refused = host.strongroom(&["backup", "--vm", "safe"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("vm.unsupported"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--start-paused"), "{}", refused.stderr);
    let report = host.json(&["backup", "--vm", "safe", "--start-paused"]);
    assert_eq!(report["consistency"], "crash", "{report:#}");
    assert_eq!(report["disks"][0]["changes_from"], "bitmap", "{report:#}");
    assert_eq!(guest.state(), "shut off");
    let images = crate::backup::restore(&host, "safe", crate::backup::point(&report));
    check(&crate::backup::paths(&images), Taken::Running).unwrap();

    // The archive has the secret; the report and the list of points do not show it.
    let show = ["recoverypoint", "show", "--item", "safe", "--recovery-point", "latest"];
    let shown = host.strongroom(&[&show[..], &["--output", "json"]].concat());
    assert!(!shown.stdout.contains("sesame"), "{}", shown.stdout);
}

/// A search path on which `qemu-img` cannot measure its key derivation: three times for each of two images.
fn a_coarse_qemu_img(host: &Host) -> String {
    let tools = host.lab.path("tools");
    fs::create_dir(&tools).unwrap();
    let (script, tries) = (tools.join("qemu-img"), tools.join("tries"));
    let path = std::env::var("PATH").unwrap();
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *key-secret*)\n  echo try >>'{tries}'\n  case $(wc -l <'{tries}') in \
         1|2|3|5|6|7) echo \"qemu-img: x: Unable to get accurate CPU usage\" >&2; exit 1;; esac;;\nesac\n\
         PATH='{path}' exec qemu-img \"$@\"\n",
        tries = tries.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    format!("{}:{path}", tools.display())
}

#[test]
fn encrypted_disks_come_back_encrypted() {
    let host = Host::new();
    let guest = web(&host);
    let before = sums(&guest);
    host.json(&["backup", "--vm", "web"]);
    guest.destroy();
    host.virsh(&["secret-undefine", SECRET]);
    let to = folder(&host, "copies");
    let base = [&["restore", "vm"], &LATEST[..], &["--name", "copy", "--storage-dir", &to]];
    // What the guest writes would not be encrypted in an overlay.
    let instant =
        [&base.concat()[..], &["--instant", "--with-secrets", "--output", "json"]].concat();
    let said = failed(&host.strongroom(&instant), "vm.unsupported");
    assert!(said.contains("without --instant"), "{said}");
    assert!(fs::read_dir(&to).unwrap().next().is_none(), "something was written");
    let base = base.concat();
    let run = host.strongroom(&base);
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    assert!(run.stderr.contains("--with-secrets"), "{}", run.stderr);
    assert!(files(&to).is_empty());
    assert_eq!(host.virsh(&["secret-list"]), "");
    // The first tries of each image fail as QEMU does now and then.
    let words = [&base[..], &["--with-secrets", "--output", "json"]].concat();
    let run = host.command(&words).env("PATH", a_coarse_qemu_img(&host)).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let restored: Value = serde_json::from_slice(&run.stdout).unwrap();
    // Four for each image, and more if QEMU failed by itself.
    let tries = fs::read_to_string(host.lab.path("tools/tries")).unwrap().lines().count();
    assert!(tries >= 8, "{tries}");
    assert_eq!(restored["secrets"][0], SECRET, "{restored:#}");
    assert_eq!(files(&to), ["copy-vda.qcow2", "copy-vdb.qcow2", "copy-vdc.raw"]);
    let info = tool("qemu-img", &["info", &format!("{to}/copy-vdb.qcow2")]);
    assert!(info.contains("encrypted: yes"), "{info}");
    assert!(fs::read(image(&restored, 2)).unwrap().starts_with(b"LUKS"));
    let copy = Guest::known(&host, "copy", &[]);
    copy.boot();
    assert_eq!(sums(&copy), before);
    for entry in fs::read_dir(host.lab.path("r/strongroom")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with("key-"), "{name} is left");
    }
}

/// Backs up as ciphertext. It must be said so of both encrypted disks, and of no other.
fn keep_ciphertext(host: &Host) -> Value {
    let report = host.json(&["backup", "--vm", "web", "--encrypted-disks", "ciphertext"]);
    assert_eq!(report["state"], "off", "{report:#}");
    let disks = report["disks"].as_array().unwrap();
    let kept: Vec<_> = disks.iter().map(|d| says(&d["notes"], "kept as ciphertext")).collect();
    assert_eq!(kept, [false, true, true], "{report:#}");
    report
}

#[test]
fn encrypted_disks_are_kept_as_ciphertext() {
    let host = Host::new();
    let guest = web(&host);
    // While it runs there is no whole ciphertext.
    let wish = ["backup", "--vm", "web", "--encrypted-disks", "ciphertext", "--output", "json"];
    let words = failed(&host.strongroom(&wish), "vm.state");
    assert!(
        words.contains("vdb can be kept as ciphertext only while the machine is off"),
        "{words}"
    );
    host.json(&[&wish[..5], &["--exclude-disks", "vdb,vdc"]].concat());
    // Both ways can follow each other.
    host.json(&["backup", "--vm", "web"]);
    guest.shutdown();
    let first = keep_ciphertext(&host);
    assert_eq!(first["disks"][0]["changes_from"], "bitmap", "{first:#}");
    guest.boot();
    write(&guest, 40);
    let before = sums(&guest);
    guest.shutdown();
    let second = keep_ciphertext(&host);
    let stored = second["disks"][1]["stored_bytes"].as_u64().unwrap();
    assert!((1 << 20..2 << 20).contains(&stored), "{second:#}");
    let shown = host.json(&[&["recoverypoint", "show"], &LATEST[..]].concat());
    let formats =
        shown["recovery_point"]["disks"].as_array().unwrap().iter().map(|disk| &disk["format"]);
    assert_eq!(formats.collect::<Vec<_>>(), ["qcow2", "qcow2+luks", "luks"], "{shown:#}");

    // Another disk of it can be replaced; the point before that is kept in the same way.
    let replace =
        [&["restore", "vm"], &LATEST[..], &["--replace", "--yes", "--output", "json"]].concat();
    failed(&host.strongroom(&replace), "vm.unsupported");
    let replaced = host.json(&[&replace[..8], &["--disks", "vda"]].concat());
    assert!(replaced["safety_point"].is_string(), "{replaced:#}");
    host.json(&["restore", "undo", "--vm", "web", "--yes"]);
    let shown = host.json(&[&["recoverypoint", "show"], &LATEST[..]].concat());
    assert!(says(&shown, "qcow2+luks"), "{shown:#}");

    // As files: what was there, byte by byte, also if it is restored twice.
    let to = folder(&host, "disks");
    let disks = [&["restore", "disks"], &LATEST[..], &["--to", &to]].concat();
    for _ in 0..2 {
        host.json(&disks);
        for (disk, file) in [("vdb", "vdb.qcow2"), ("vdc", "vdc.raw")] {
            assert_same_file(guest.disk_path(disk), &Path::new(&to).join(file));
        }
    }
    let template = fs::read_to_string(Path::new(&to).join("web.xml")).unwrap();
    assert_eq!(template.matches("<encryption format='luks'").count(), 2, "{template}");
    let elsewhere = host.lab.path("as-i-say.qcow2");
    let named = format!("vdb={}", elsewhere.display());
    let one = ["restore", "disks"];
    host.json(&[&one[..], &LATEST, &["--to", &named, "--disks", "vdb"]].concat());
    assert_same_file(guest.disk_path("vdb"), &elsewhere);

    // As a machine on a host without the secret, which the point does not have either.
    host.virsh(&["secret-undefine", SECRET]);
    let to = folder(&host, "copies");
    let base = [&["restore", "vm"], &LATEST[..], &["--name", "copy", "--storage-dir", &to]];
    let base = [&base.concat()[..], &["--output", "json"]].concat();
    failed(&host.strongroom(&[&base[..], &["--format", "raw"]].concat()), "vm.unsupported");
    failed(&host.strongroom(&[&base[..], &["--start"]].concat()), "host.lacks");
    assert!(files(&to).is_empty());
    let restored = host.json(&[&base[..base.len() - 2], &["--with-secrets"]].concat());
    assert_eq!(restored["secrets"], Value::Array(Vec::new()), "{restored:#}");
    assert!(says(&restored["notes"], "its old passphrase opens it"), "{restored:#}");
    assert!(says(&restored["notes"], "whose value is not in the point"), "{restored:#}");
    assert_eq!(files(&to), ["copy-vda.qcow2", "copy-vdb.qcow2", "copy-vdc.raw"]);
    for (index, disk) in [(1, "vdb"), (2, "vdc")] {
        assert_same_file(guest.disk_path(disk), &image(&restored, index));
    }
    assert_eq!(host.virsh(&["secret-list"]), "");
    define_secret(&host);
    let copy = Guest::known(&host, "copy", &[]);
    copy.boot();
    assert_eq!(sums(&copy), before);
    copy.destroy();

    // The next one of what the guest sees compares all, and is right.
    guest.boot();
    assert_eq!(sums(&guest), before);
    let report = host.json(&["backup", "--vm", "web"]);
    assert_eq!(report["disks"][1]["changes_from"], "all", "{report:#}");
    let seen = crate::backup::restore(&host, "web", crate::backup::point(&report));
    for (index, line) in [1, 2].into_iter().zip(before.lines()) {
        let sum = tool("sha256sum", &[seen[index].to_str().unwrap()]);
        assert_eq!(sum[..64], line[..64]);
    }
}

#[test]
fn ciphertext_that_would_be_of_no_use_is_refused() {
    let host = Host::new();
    define_secret(&host);
    let object = object(&host);
    let (base, top) = (host.lab.path("base.qcow2"), host.lab.path("top.qcow2"));
    let (base, top) = (base.to_str().unwrap(), top.to_str().unwrap());
    tool("qemu-img", &["create", "-q", "-f", "qcow2", base, "16M"]);
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let create = ["create", "-q", "--object", &object, "-f", "qcow2", "-o", options];
    qemu_img(&[&create[..], &["-b", base, "-F", "qcow2", top]].concat());
    let disk = encrypted(Path::new(top), "qcow2");
    let _guest = Guest::named("web").disk(disk).create(&host);
    let wish = ["backup", "--vm", "web", "--encrypted-disks", "ciphertext", "--output", "json"];
    let words = failed(&host.strongroom(&wish), "vm.unsupported");
    assert!(words.contains("it has images under it"), "{words}");
}
