//! Single files of a recovery point: what the disks have, folders, copies, and the process that reads.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    process::Command,
};

use strongroom_testing::{eventually, noise};

use crate::{documented::assert_documented, harness::Lab};

/// Runs a program of the system that must succeed.
fn tool(program: &str, arguments: &[&str]) {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let output = Command::new(program).args(arguments).env("PATH", path).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// A disk with a GPT: FAT, ext4 with the files of a folder, and a partition with nothing on it.
fn disk(lab: &Lab) {
    let source = lab.path("source");
    fs::create_dir_all(source.join("etc/deep/er")).expect("folders");
    fs::write(source.join("etc/hostname"), "web01\n").expect("a file");
    fs::write(source.join("etc/deep/er/data"), noise(1, 3_000_000)).expect("a file");
    let sparse = File::create(source.join("etc/sparse")).expect("a file");
    sparse.set_len(50 << 20).expect("a size");
    sparse.write_all_at(b"in it", 20 << 20).expect("written");
    std::os::unix::fs::symlink("deep/er", source.join("etc/link")).expect("a link");
    fs::hard_link(source.join("etc/hostname"), source.join("etc/same")).expect("a link");
    let file = source.join("etc/hostname");
    tool("touch", &["-d", "2020-02-03T04:05:06Z", &tool_path(&file)]);

    image(lab);
}

fn tool_path(path: &Path) -> String {
    path.to_str().expect("utf-8").to_owned()
}

fn image(lab: &Lab) {
    let source = lab.path("source");
    let image = lab.path("disk.img");
    File::create(&image).expect("an image").set_len(96 << 20).expect("a size");
    let at = tool_path(&image);
    tool("sgdisk", &["-n", "1:2048:+8M", "-n", "2:0:+64M", "-n", "3:0:+4M", &at]);
    let part = lab.path("part");
    let put = |offset: u64| {
        let disk = File::options().write(true).open(&image).expect("open");
        disk.write_all_at(&fs::read(&part).expect("a part"), offset).expect("written");
    };
    let make = |size: u64| File::create(&part).expect("a part").set_len(size).expect("a size");
    make(8 << 20);
    tool("mkfs.fat", &["-n", "EFI", &tool_path(&part)]);
    put(1 << 20);
    make(64 << 20);
    let folder = tool_path(&source);
    tool("mke2fs", &["-q", "-t", "ext4", "-L", "root", "-d", &folder, &tool_path(&part)]);
    put(9 << 20);
}

const POINT: &str = "--item web --recovery-point latest";

fn backed_up() -> Lab {
    let lab = Lab::new();
    disk(&lab);
    lab.ok("backup --item web --disk system=disk.img");
    lab
}

#[test]
fn listed_and_copied() {
    let lab = backed_up();
    let volumes = lab.json(&format!("restore files ls {POINT}"));
    let all = volumes["volumes"].as_array().expect("volumes");
    assert_eq!(all.len(), 3);
    assert_documented("restore files ls", &volumes);
    assert_eq!((&all[0]["file_system"], &all[0]["label"]), (&"vfat".into(), &"EFI".into()));
    assert_eq!((&all[1]["file_system"], &all[1]["label"]), (&"ext4".into(), &"root".into()));
    assert_eq!((&all[1]["readable"], &all[2]["readable"]), (&true.into(), &false.into()));

    // Two can be read: one must be named.
    let ls = format!("restore files ls {POINT} --path /etc");
    let error = lab.fails(&ls, 3, "files.volume");
    assert!(error["message"].as_str().expect("words").contains("partition 2"), "{error}");
    lab.fails(&format!("{ls} --partition 9"), 3, "files.volume");
    lab.fails(&format!("{ls} --disk other"), 3, "files.volume");
    lab.fails(&format!("{ls} --partition 3"), 2, "files.unsupported");

    let listing = lab.json(&format!("{ls} --partition 2 --xattrs"));
    assert_documented("restore files ls --path", &listing);
    let names: Vec<_> = listing["entries"]
        .as_array()
        .expect("entries")
        .iter()
        .map(|entry| entry["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, ["deep", "hostname", "link", "same", "sparse"]);
    let hostname = &listing["entries"][1];
    assert_eq!((&hostname["size"], &hostname["links"]), (&6.into(), &2.into()));
    assert_eq!(hostname["modified"], "2020-02-03T04:05:06Z");
    assert_eq!(listing["entries"][2]["target"], "deep/er");
    // Through the link, and a single file.
    let one = format!("restore files ls {POINT} --partition 2 --path /etc/link/data");
    assert_eq!(lab.json(&one)["path"], "/etc/deep/er/data");
    lab.fails(&format!("{one}/x"), 3, "files.not_found");

    let cp = format!("restore files cp {POINT} --partition 2 --path /etc --to out");
    let copied = lab.json(&cp);
    assert_documented("restore files cp", &copied);
    assert_eq!(
        (&copied["files"], &copied["folders"], &copied["links"]),
        (&4.into(), &3.into(), &1.into())
    );
    let (out, source) = (lab.path("out/etc"), lab.path("source/etc"));
    for name in ["hostname", "deep/er/data", "sparse", "same"] {
        let same =
            fs::read(out.join(name)).expect(name) == fs::read(source.join(name)).expect(name);
        assert!(same, "{name}");
    }
    let meta = |name: &str| fs::metadata(out.join(name)).expect(name);
    assert_eq!(meta("hostname").ino(), meta("same").ino());
    assert_eq!(meta("hostname").mtime(), 1_580_702_706);
    assert!(meta("sparse").blocks() < 1000, "{}", meta("sparse").blocks());
    assert_eq!(fs::read_link(out.join("link")).expect("a link"), Path::new("deep/er"));
    // Nothing that exists is overwritten.
    let again = lab.run(&cp);
    assert_eq!(again.code, 7, "{}{}", again.stdout, again.stderr);
    assert!(again.stdout.contains("Not delivered: /etc"), "{}", again.stdout);
}

#[test]
fn packed_found_and_compared() {
    let lab = backed_up();
    let etc = "--partition 2 --path /etc";
    lab.json(&format!("restore files tar {POINT} {etc} --to etc.tar"));
    lab.fails(&format!("restore files tar {POINT} {etc} --to etc.tar"), 5, "local.io");
    let to_stdout =
        lab.command(&format!("restore files tar {POINT} {etc}")).output().expect("runs");
    assert!(to_stdout.status.success());
    assert_eq!(to_stdout.stdout, fs::read(lab.path("etc.tar")).expect("an archive"));
    fs::create_dir(lab.path("unpacked")).expect("a folder");
    let path = |name: &str| lab.path(name).to_str().expect("utf-8").to_owned();
    tool("tar", &["-C", &path("unpacked"), "--xattrs", "-xpf", &path("etc.tar")]);
    tool("diff", &["-r", "--no-dereference", &path("source/etc"), &path("unpacked/etc")]);
    let meta = |name: &str| fs::metadata(lab.path(name)).expect(name);
    assert_eq!(meta("unpacked/etc/hostname").ino(), meta("unpacked/etc/same").ino());
    assert_eq!(meta("unpacked/etc/hostname").mtime(), 1_580_702_706);

    // A second point with another file.
    fs::write(lab.path("source/etc/hostname"), "web001\n").expect("a file");
    fs::write(lab.path("source/etc/new"), "new").expect("a file");
    fs::remove_file(lab.path("source/etc/sparse")).expect("removed");
    image(&lab);
    lab.ok("backup --item web --disk system=disk.img");
    let first = &lab.points("web")[0];
    let diff = format!("restore files diff {POINT} --from {first} {etc}");
    let changes = lab.json(&diff);
    assert_documented("restore files diff", &changes);
    let changes: Vec<_> = changes["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .map(|it| (it["path"].as_str().expect("a path"), it["change"].as_str().expect("a word")))
        .collect();
    let hostname = [("/etc/hostname", "changed"), ("/etc/new", "added"), ("/etc/same", "changed")];
    assert!(hostname.iter().all(|wanted| changes.contains(wanted)), "{changes:?}");
    assert!(changes.contains(&("/etc/sparse", "removed")), "{changes:?}");
    let same = format!("restore files diff {POINT} --from latest {etc} --content");
    assert_eq!(lab.json(&same)["changes"].as_array().expect("changes").len(), 0);

    let find = format!("restore files find {POINT} --partition 2 --all-points --name host*");
    let found = lab.json(&find);
    assert_documented("restore files find", &found);
    let versions = found["found"].as_array().expect("found");
    assert_eq!(versions.len(), 2, "{found}");
    let larger = lab.json(&format!("restore files find {POINT} --partition 2 --larger 2M"));
    assert_eq!(larger["found"].as_array().expect("found").len(), 1, "{larger}");
    assert_eq!(larger["found"][0]["path"], "/etc/deep/er/data");
}

/// The process that reads can open nothing and reach nobody, and its end is an error of the path.
#[test]
fn the_process_that_reads_is_locked_in() {
    let lab = backed_up();
    // A disk that is never read to its end: the process waits at its first request.
    let mut command =
        lab.command(&format!("restore files cp {POINT} --partition 2 --path / --to big"));
    command.env("STRONGROOM_LOG", "off");
    let child = command.spawn().expect("starts");
    let parent = child.id();
    let reader = eventually("a process that reads", || {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        let id: u32 = children.split_whitespace().next()?.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        status.contains("Seccomp:\t2").then_some((id, status))
    });
    let (id, status) = reader;
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
    assert!(environment.is_empty());
    drop(child.wait_with_output().expect("ends"));
}
