//! Disks that QEMU encrypts.

use std::{fs, path::Path};

use crate::{
    check::{Taken, check},
    guest::{Disk, Guest},
    harness::{Host, tool},
};

const SECRET: &str = "6c1b2a90-0000-4000-8000-0000000000aa";

/// Makes an encrypted copy of an image, and gives libvirt its secret.
fn encrypt(host: &Host, image: &Path) -> std::path::PathBuf {
    let (key, encrypted) = (host.lab.path("passphrase"), host.lab.path("encrypted.qcow2"));
    fs::write(&key, "open sesame").unwrap();
    let object = format!("secret,id=s0,file={}", key.display());
    let (from, to) = (image.to_str().unwrap(), encrypted.to_str().unwrap());
    let options = "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=300";
    tool("qemu-img", &["convert", "-O", "qcow2", "--object", &object, "-o", options, from, to]);
    let xml = host.lab.path("secret.xml");
    let text = format!(
        "<secret ephemeral='no' private='no'><uuid>{SECRET}</uuid>
         <usage type='volume'><volume>{to}</volume></usage></secret>"
    );
    fs::write(&xml, text).unwrap();
    host.virsh(&["secret-define", xml.to_str().unwrap()]);
    host.virsh(&["secret-set-value", SECRET, "--file", key.to_str().unwrap(), "--plain"]);
    encrypted
}

#[test]
fn encrypted_disks_are_backed_up_as_the_guest_sees_them() {
    let host = Host::new();
    let plain = Guest::named("plain").disk(Disk::qcow2(48)).create(&host);
    let encrypted = encrypt(&host, plain.disk_path("vda"));
    let xml = format!(
        "<encryption format='luks'><secret type='passphrase' uuid='{SECRET}'/></encryption>"
    );
    let disk = Disk::image(&encrypted, "qcow2").xml(&xml);
    let guest = Guest::named("safe").disk(disk).disk(Disk::qcow2(48)).create(&host);
    guest.boot();
    guest.wait_records(3);
    host.json(&["backup", "--vm", "safe"]);
    guest.wait_records(3);
    let report = host.json(&["backup", "--vm", "safe"]);
    assert_eq!(report["disks"][0]["changes_from"], "bitmap", "{report:#}");
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
    let shown = host.strongroom(&[
        "recoverypoint",
        "show",
        "--item",
        "safe",
        "--recovery-point",
        "latest",
        "--output",
        "json",
    ]);
    assert!(!shown.stdout.contains("sesame"), "{}", shown.stdout);
}
