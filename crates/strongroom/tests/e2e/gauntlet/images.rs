//! Images whose headers want more than a disk may: other files, other hosts, absurd sizes. Each is refused with
//! a code before anything of it is read.

use std::{fs, os::unix::fs::FileExt as _, path::Path, process::Command};

use super::{Chance, figures, many};
use crate::harness::{Lab, need};

/// What is wrong with an image.
type Wrong = (&'static str, fn(&Path, &mut Chance));

/// Writes a big-endian number into the header of a qcow2 image.
fn patch(image: &Path, offset: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(image).expect("an image");
    file.write_all_at(bytes, offset).expect("written");
}

/// Has a qcow2 image name a backing file, as its header's fields at 8 and 16 say.
fn backing(image: &Path, name: &str) {
    patch(image, 512, name.as_bytes());
    patch(image, 8, &512_u64.to_be_bytes());
    patch(image, 16, &u32::try_from(name.len()).expect("fits").to_be_bytes());
}

const WRONG: [Wrong; 9] = [
    ("a backing file elsewhere", |image, _| backing(image, "/etc/hostname")),
    ("a backing file on a server", |image, _| backing(image, "nbd://127.0.0.1:1/secret")),
    ("a backing file in JSON", |image, _| {
        backing(
            image,
            r#"json:{"driver":"raw","file":{"driver":"file","filename":"/etc/hostname"}}"#,
        );
    }),
    ("clusters of impossible size", |image, chance| {
        let bits = 22 + u32::try_from(chance.below(40)).expect("fits");
        patch(image, 20, &bits.to_be_bytes());
    }),
    ("more than any disk can hold", |image, chance| {
        patch(image, 24, &((1_u64 << 62) + chance.below(1 << 40) * 512).to_be_bytes());
    }),
    ("a table of absurd length", |image, chance| {
        let entries = (1_u32 << 30) + u32::try_from(chance.below(1 << 20)).expect("fits");
        patch(image, 36, &entries.to_be_bytes());
    }),
    ("too many snapshots", |image, _| patch(image, 60, &u32::MAX.to_be_bytes())),
    ("features of tomorrow", |image, chance| {
        patch(image, 72, &(1_u64 << (8 + chance.below(50))).to_be_bytes());
    }),
    ("a version of tomorrow", |image, chance| {
        let version = 4 + u32::try_from(chance.below(1000)).expect("fits");
        patch(image, 4, &version.to_be_bytes());
    }),
];

#[test]
fn hostile_images_are_refused_with_a_code() {
    need("qemu-img", "qemu-utils");
    let mut chance = Chance::new(7);
    let lab = Lab::new();
    let mut refused = 0;
    for _ in 0..many(1, 20) {
        for (what, wrong) in WRONG {
            let image = lab.path("image.qcow2");
            let status = Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2"])
                .arg(&image)
                .arg("16M")
                .status();
            assert!(status.expect("qemu-img runs").success());
            wrong(&image, &mut chance);
            let run = lab.run("backup --item hostile --disk root=image.qcow2");
            assert!([2, 3, 4, 8].contains(&run.code), "{what}: {} {}", run.code, run.stderr);
            assert!(run.stderr.contains("Code: disk."), "{what}: {}", run.stderr);
            refused += 1;
        }
    }
    lab.fails("recoverypoint list --item hostile", 3, "item.not_found");
    figures(&format!("hostile images: {refused} refused, 0 read"));
}
