//! Volumes that cryptsetup and QEMU encrypted.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says so by panicking"
)]

use std::{fs, process::Command};

use strongroom_base::SplitMix64;

use super::*;
use crate::{
    secret::{Place, Secret, Unlocked},
    survey::{survey, survey_with},
};

const SECRET: &[u8] = b"a passphrase";
/// Bytes that are compared.
const LEN: usize = 3 << 20;

fn run(program: &str, arguments: &[&str]) {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// A folder with a file of noise, of this length, and one with the secret.
fn folder(len: usize) -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut numbers = SplitMix64::new(5);
    let byte = |_| u8::try_from(numbers.below(256)).expect("a byte");
    let mut plain: Vec<u8> = (0..LEN).map(byte).collect();
    fs::write(folder.path().join("secret"), SECRET).expect("written");
    plain.resize(len, 0);
    fs::write(folder.path().join("plain"), &plain).expect("written");
    plain.truncate(LEN);
    (folder, plain)
}

fn at(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).to_str().expect("utf-8").to_owned()
}

/// Encrypts what is in the file `plain`, which ends up to 32 MiB after it.
fn cryptsetup(options: &[&str]) -> (tempfile::TempDir, Vec<u8>) {
    let (folder, plain) = folder(36 << 20);
    let (image, secret) = (at(&folder, "plain"), at(&folder, "secret"));
    let fixed = [
        &["reencrypt", "-q", "--encrypt", "--type", "luks2", "--reduce-device-size", "32M"][..],
        &["--key-file", &secret],
        options,
        &[image.as_str()],
    ];
    run("cryptsetup", &fixed.concat());
    (folder, plain)
}

/// A volume of LUKS1 that cryptsetup made and QEMU filled.
fn qemu(options: &[&str]) -> (tempfile::TempDir, Vec<u8>) {
    let (folder, plain) = folder(LEN);
    let (from, to, secret) = (at(&folder, "plain"), at(&folder, "luks"), at(&folder, "secret"));
    fs::write(&to, vec![0; 8 << 20]).expect("written");
    let fixed = ["luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000"];
    let key = ["--key-file", &secret];
    run("cryptsetup", &[&fixed[..], &key, options, &[to.as_str()]].concat());
    let object = format!("secret,id=s,file={secret}");
    let target = format!("driver=luks,key-secret=s,file.filename={to}");
    let fixed = ["convert", "-n", "-f", "raw", "--object", &object, "--target-image-opts"];
    run("qemu-img", &[&fixed[..], &[&from, &target]].concat());
    fs::rename(to, from).expect("renamed");
    (folder, plain)
}

fn bytes(folder: &tempfile::TempDir) -> Vec<u8> {
    fs::read(folder.path().join("plain")).expect("an image")
}

/// The volume opens by the right secret alone, and has what was put into it, read in pieces that begin anywhere.
fn check(folder: &tempfile::TempDir, plain: &[u8]) {
    let image = bytes(folder);
    assert!(unlock(&image, b"another").expect("readable").is_none());
    let key = unlock(&image, SECRET).expect("readable").expect("the right secret");
    let disk = decrypted(Arc::new(image), &key).expect("opens");
    for (start, len) in [(0, LEN), (1, 5), (511, 2), (4095, 4098), (1_000_001, 1_500_000)] {
        let mut found = vec![0; len];
        disk.read_at(u64::try_from(start).expect("small"), &mut found).expect("reads");
        assert!(found == plain[start..start + len], "{start}");
    }
    assert!(disk.read_at(disk.size() - 1, &mut [0; 2]).is_err());
}

#[test]
fn second_version() {
    let argon = &["--pbkdf-memory", "1024", "--pbkdf-force-iterations", "4"][..];
    let pbkdf2 = &["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"][..];
    for options in [
        [argon, &["--sector-size", "512"]].concat(),
        [argon, &["--sector-size", "4096", "--pbkdf", "argon2i"]].concat(),
        [pbkdf2, &["--sector-size", "4096", "-s", "256", "--hash", "sha512"]].concat(),
        [pbkdf2, &["--sector-size", "512", "-c", "aes-cbc-plain64", "-s", "128"]].concat(),
        [pbkdf2, &["--sector-size", "512", "-c", "aes-cbc-essiv:sha256", "-s", "256"]].concat(),
    ] {
        let (folder, plain) = cryptsetup(&options);
        check(&folder, &plain);
    }
}

#[test]
fn first_version() {
    for options in [
        &["-c", "aes-xts-plain64", "-s", "512", "--hash", "sha256"][..],
        &["-c", "aes-xts-plain", "-s", "256", "--hash", "sha1"],
        &["-c", "aes-cbc-essiv:sha256", "-s", "256", "--hash", "sha512"],
        &["-c", "aes-cbc-plain", "-s", "128", "--hash", "sha1"],
    ] {
        let (folder, plain) = qemu(options);
        check(&folder, &plain);
    }
}

/// An empty volume.
fn formatted(options: &[&str]) -> Vec<u8> {
    let (folder, _) = folder(20 << 20);
    let (image, secret) = (at(&folder, "plain"), at(&folder, "secret"));
    let fixed = ["luksFormat", "-q", "--type", "luks2", "--key-file", &secret];
    run("cryptsetup", &[&fixed[..], options, &[image.as_str()]].concat());
    bytes(&folder)
}

#[test]
fn what_is_not_read_is_named() {
    let mut image = bytes(&qemu(&["-c", "aes-xts-plain64"]).0);
    image[8..11].copy_from_slice(b"foo");
    let reason = unlock(&image, SECRET).expect_err("refused").reason;
    assert_eq!(reason, "its cipher foo-xts-plain64 is not read");
    // The same header with more memory than a secret may take, summed again.
    let mut image = formatted(&["--pbkdf-memory", "1024", "--pbkdf-force-iterations", "4"]);
    {
        let header = &mut image[..16_384];
        let old = b"\"memory\":1024";
        let place = (0..header.len()).find(|at| header[*at..].starts_with(old)).expect("memory");
        header.copy_within(place + 13..16_380, place + 16);
        header[place + 9..place + 16].copy_from_slice(b"9999999");
        header[448..512].fill(0);
        let sum = digest::digest(&digest::SHA256, header);
        header[448..480].copy_from_slice(sum.as_ref());
    }
    let reason = unlock(&image, SECRET).expect_err("refused").reason;
    assert!(reason.starts_with("a secret of it takes 9999999 KiB of memory"), "{reason}");
}

#[test]
fn a_damaged_header_has_a_copy() {
    let options = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let (folder, plain) = cryptsetup(&[&options[..], &["--sector-size", "512"]].concat());
    let mut image = bytes(&folder);
    image[5000] ^= 1;
    fs::write(folder.path().join("plain"), image).expect("written");
    check(&folder, &plain);
}

#[test]
fn damaged_headers_end() {
    let (folder, _) = qemu(&["-c", "aes-xts-plain64"]);
    let image = bytes(&folder);
    let is_count =
        |at: usize| (164..168).contains(&at) || (at >= 208 && (4..8).contains(&((at - 208) % 48)));
    for round in 0..200 {
        let mut numbers = SplitMix64::new(round);
        let mut copy = image.clone();
        for _ in 0..3 {
            let at = usize::try_from(numbers.below(592)).expect("small");
            // More rounds would only take longer.
            if !is_count(at) {
                copy[at] = u8::try_from(numbers.below(256)).expect("a byte");
            }
        }
        if let Ok(Some(key)) = unlock(&copy, SECRET)
            && let Ok(disk) = decrypted(Arc::new(copy), &key)
        {
            disk.read_at(0, &mut vec![0; 100.min(usize::try_from(disk.size()).expect("small"))])
                .ok();
        }
    }
}

/// An encrypted partition with a file system, and an encrypted disk with LVM, are read as if they were not.
#[test]
fn a_survey_opens_them_in_their_place() {
    let options = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", "512"];
    let (folder, _) = folder(48 << 20);
    let (image, secret) = (at(&folder, "plain"), at(&folder, "secret"));
    run("mkfs.ext4", &["-q", "-F", "-L", "inner", &image, "12M"]);
    let fixed = ["reencrypt", "-q", "--encrypt", "--type", "luks2", "--reduce-device-size", "32M"];
    let secret = ["--key-file", &secret];
    run("cryptsetup", &[&fixed[..], &secret, &options, &[image.as_str()]].concat());
    let disks: Vec<Arc<dyn ReadAt>> = vec![Arc::new(bytes(&folder))];
    let closed = survey(&disks);
    let [one] = closed.as_slice() else { panic!("{}", closed.len()) };
    assert_eq!(one.volume.file_system.as_deref(), Some(KIND));
    let refusal = one.volume.refusal.as_ref().expect("refused");
    assert!(refusal.reason.contains("passphrase or key file"), "{refusal}");
    let place = Place::of(&one.volume);
    let key = unlock(&*one.bytes, SECRET).map(|key| key.map(Secret::new));
    let open = survey_with(&disks, &[Unlocked { place: place.clone(), key }]);
    assert_eq!(open[0].volume.file_system.as_deref(), Some("ext4"));
    assert_eq!(open[0].volume.label.as_deref(), Some("inner"));
    assert_eq!(open[0].volume.refusal, None);
    assert_eq!(open[0].volume.notes, ["it is encrypted (LUKS)"]);
    assert!(crate::survey::open(Arc::clone(&open[0].bytes)).is_ok());
    let without = survey_with(&disks, &[Unlocked { place, key: Ok(None) }]);
    let refusal = without[0].volume.refusal.as_ref().expect("refused");
    assert!(refusal.reason.contains("no secret that was given"), "{refusal}");
}

/// A loop device, until it is dropped.
struct Loop(String);

impl Loop {
    fn new(image: &str) -> Self {
        let made = Command::new("/usr/sbin/losetup").args(["--show", "-f", image]).output();
        let made = made.expect("losetup");
        assert!(made.status.success(), "{made:?}");
        Self(String::from_utf8(made.stdout).expect("text").trim_end().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["-d", &self.0]);
    }
}

/// Makes a file a physical volume with a logical one, of this many MiB, which begins after one MiB.
fn lvm(folder: &tempfile::TempDir, image: &str, group: &str, size: u32) {
    let device = Loop::new(image);
    let plan = at(folder, "plan");
    let lvm = |arguments: &[&str]| {
        let all = [&["LVM_SUPPRESS_FD_WARNINGS=1"], arguments, &["--devices", &device.0]].concat();
        run("env", &all);
    };
    lvm(&["pvcreate", "-y", &device.0]);
    lvm(&["vgcreate", "-y", "-s", "1m", group, &device.0]);
    lvm(&["vgcfgbackup", "-f", &plan, group]);
    let text = fs::read_to_string(&plan).expect("a plan");
    let volume = format!(
        "logical_volumes {{ root {{ id = \"aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa\" \
         status = [\"READ\", \"WRITE\", \"VISIBLE\"] segment_count = 1 segment1 {{ start_extent = 0 \
         extent_count = {size} type = \"striped\" stripe_count = 1 stripes = [\"pv0\", 0] }} }} }}\n"
    );
    let end = text.rfind("\n}\n").expect("an end");
    let (before, after) = text.split_at(end + 1);
    fs::write(&plan, [before, &volume, after].concat()).expect("a plan");
    lvm(&["vgcfgrestore", "-f", &plan, group]);
}

/// As installers make it: a group in an encrypted partition. The other way round, too.
#[test]
fn logical_volumes_may_lie_in_them_and_they_in_logical_volumes() {
    if !rustix::process::geteuid().is_root() {
        println!("not tried, as there are no loop devices");
        return;
    }
    let options = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", "512"];
    let encrypt = |folder: &tempfile::TempDir, image: &str| {
        let fixed =
            ["reencrypt", "-q", "--encrypt", "--type", "luks2", "--reduce-device-size", "32M"];
        let secret = at(folder, "secret");
        run("cryptsetup", &[&fixed[..], &["--key-file", &secret], &options, &[image]].concat());
    };
    let group = format!("luks{}", std::process::id());
    let opened = |image: &str| {
        let disks: Vec<Arc<dyn ReadAt>> = vec![Arc::new(fs::read(image).expect("an image"))];
        let closed = survey(&disks);
        let closed: Vec<_> =
            closed.iter().filter(|it| it.volume.file_system.as_deref() == Some(KIND)).collect();
        let [one] = closed.as_slice() else { panic!("{} are encrypted", closed.len()) };
        let key = unlock(&*one.bytes, SECRET).map(|key| key.map(Secret::new));
        let unlocked = Unlocked { place: Place::of(&one.volume), key };
        let found = survey_with(&disks, &[unlocked]);
        let readable = found.iter().filter(|it| it.volume.refusal.is_none());
        let readable: Vec<_> = readable.map(|it| (&it.volume.logical, &it.volume.label)).collect();
        assert_eq!(readable, [(&Some(format!("{group}/root")), &Some("inner".to_owned()))]);
    };
    let (folder, _) = folder(48 << 20);
    let (inner, outer) = (at(&folder, "plain"), at(&folder, "outer"));
    // A file system in a volume in LUKS.
    fs::write(&outer, vec![0; 16 << 20]).expect("written");
    lvm(&folder, &outer, &group, 12);
    let mut bytes = fs::read(&outer).expect("an image");
    run("mkfs.ext4", &["-q", "-F", "-L", "inner", &inner, "12M"]);
    let file_system = fs::read(&inner).expect("an image");
    bytes[1 << 20..13 << 20].copy_from_slice(&file_system[..12 << 20]);
    bytes.resize(48 << 20, 0);
    fs::write(&outer, &bytes).expect("written");
    encrypt(&folder, &outer);
    opened(&outer);
    // A file system in LUKS in a volume.
    encrypt(&folder, &inner);
    fs::write(&outer, vec![0; 56 << 20]).expect("written");
    lvm(&folder, &outer, &group, 48);
    let mut bytes = fs::read(&outer).expect("an image");
    bytes[1 << 20..49 << 20].copy_from_slice(&fs::read(&inner).expect("an image"));
    fs::write(&outer, &bytes).expect("written");
    opened(&outer);
}
