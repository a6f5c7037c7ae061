//! Files of Windows' file systems and of encrypted volumes, by the locked-in process.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
};

use strongroom_testing::noise;

use crate::{documented::assert_documented, harness::Lab};

fn tool(program: &str, arguments: &[&str]) {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let output = Command::new(program).args(arguments).env("PATH", path).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

fn text(path: &Path) -> String {
    path.to_str().expect("utf-8").to_owned()
}

const POINT: &str = "--item web --recovery-point latest";

/// A disk with ext4 in LUKS2, and NTFS.
fn backed_up() -> Lab {
    let lab = Lab::new();
    let source = lab.path("source");
    fs::create_dir_all(source.join("etc")).expect("folders");
    fs::write(source.join("etc/hostname"), "web01\n").expect("a file");
    fs::write(source.join("data"), noise(1, 2_000_000)).expect("a file");
    fs::write(lab.path("right"), "a passphrase\n").expect("a file");
    fs::write(lab.path("luks.key"), "a passphrase").expect("a file");
    fs::write(lab.path("wrong"), "another\n").expect("a file");
    fs::write(lab.path("empty"), "").expect("a file");

    let image = lab.path("disk.img");
    File::create(&image).expect("an image").set_len(80 << 20).expect("a size");
    tool("sgdisk", &["-n", "1:2048:+48M", "-n", "2:0:+16M", &text(&image)]);
    let part = lab.path("part");
    let put = |offset: u64| {
        let disk = File::options().write(true).open(&image).expect("open");
        disk.write_all_at(&fs::read(&part).expect("a part"), offset).expect("written");
    };
    let make = |size: u64| File::create(&part).expect("a part").set_len(size).expect("a size");
    make(48 << 20);
    let fixed = ["-q", "-F", "-t", "ext4", "-L", "inner"];
    tool("mke2fs", &[&fixed[..], &["-d", &text(&source), &text(&part), "14M"]].concat());
    let key = text(&lab.path("luks.key"));
    let fixed = ["reencrypt", "-q", "--encrypt", "--type", "luks2", "--reduce-device-size", "32M"];
    let cost = ["--pbkdf-memory", "1024", "--pbkdf-force-iterations", "4", "--key-file", &key];
    tool("cryptsetup", &[&fixed[..], &cost, &["--sector-size", "512", &text(&part)]].concat());
    put(1 << 20);
    make(16 << 20);
    tool("mkfs.ntfs", &["-F", "-Q", "-q", "-L", "Windows", &text(&part)]);
    for (name, to) in [("data", "DataFile.bin"), ("etc/hostname", "hostname")] {
        tool("ntfscp", &["-f", &text(&part), &text(&source.join(name)), to]);
    }
    put(49 << 20);
    lab.ok("backup --item web --disk system=disk.img");
    lab
}

#[test]
fn windows_and_encrypted_volumes() {
    let lab = backed_up();
    let volumes = lab.json(&format!("restore files ls {POINT}"));
    assert_documented("restore files ls", &volumes);
    let kinds = |volumes: &serde_json::Value| {
        let all = volumes["volumes"].as_array().expect("volumes").clone();
        all.into_iter()
            .map(|it| format!("{} {} {}", it["file_system"], it["label"], it["readable"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(&volumes), [r#""crypto_LUKS" null false"#, r#""ntfs" "Windows" true"#]);

    // The name is found in any case, and is what it is on the disk.
    let cp = format!("restore files cp {POINT} --partition 2 --to out");
    let copied = lab.json(&format!("{cp} --path /DATAFILE.BIN"));
    assert_eq!(copied["files"], 1, "{copied}");
    let same = |name: &str, source: &str| {
        fs::read(lab.path("out").join(name)).expect(name)
            == fs::read(lab.path("source").join(source)).expect(source)
    };
    assert!(same("DataFile.bin", "data"));

    let ls = format!("restore files ls {POINT} --partition 1 --path /etc");
    let error = lab.fails(&ls, 2, "files.unsupported");
    let message = error["message"].as_str().expect("words");
    assert!(message.contains("--luks-key-file"), "{message}");
    let error = lab.fails(&format!("{ls} --luks-key-file wrong"), 8, "files.secret");
    let message = error["message"].as_str().expect("words");
    assert!(message.starts_with("disk system, partition 1"), "{message}");
    lab.fails(&format!("{ls} --luks-key-file nowhere"), 5, "local.io");
    lab.fails(&format!("{ls} --luks-key-file empty"), 2, "usage.invalid");
    for keys in ["--luks-key-file right", "--luks-key-file wrong --luks-key-file luks.key"] {
        let found = lab.json(&format!("{ls} {keys}"));
        assert_eq!(found["entries"][0]["name"], "hostname", "{found}");
    }
    let volumes = lab.json(&format!("restore files ls {POINT} --luks-key-file right"));
    assert_eq!(kinds(&volumes)[0], r#""ext4" "inner" true"#);
    assert_eq!(volumes["volumes"][0]["notes"][0], "it is encrypted (LUKS)", "{volumes}");
    let cp = format!("restore files cp {POINT} --partition 1 --to out --luks-key-file right");
    lab.json(&format!("{cp} --path /data"));
    assert!(same("data", "data"));
}
