//! Single files of a recovery point: what the disks have, folders, copies, and the process that reads.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use strongroom_base::Coded as _;
use strongroom_files::{
    FileReader, Files, FilesError, Limits, NamedDisk, Options, ReadAt, ReaderCommand, deliver,
};
use strongroom_testing::noise;

use crate::{documented::assert_documented, harness::Lab};

/// Runs a program of the system that must succeed.
pub(crate) fn tool(program: &str, arguments: &[&str]) {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let output = Command::new(program).args(arguments).env("PATH", path).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// A disk with a GPT: FAT, ext4 with the files of a folder, and a partition with nothing on it.
pub(crate) fn disk(lab: &Lab) {
    let source = lab.path("source");
    fs::create_dir_all(source.join("etc/deep/er")).expect("folders");
    fs::write(source.join("etc/hostname"), "web01\n").expect("a file");
    fs::write(source.join("etc/deep/er/data"), noise(1, 3_000_000)).expect("a file");
    let sparse = File::create(source.join("etc/sparse")).expect("a file");
    sparse.set_len(50 << 20).expect("a size");
    sparse.write_all_at(b"in it", 20 << 20).expect("written");
    std::os::unix::fs::symlink("deep/er", source.join("etc/link")).expect("a link");
    let link = tool_path(&source.join("etc/link"));
    tool("touch", &["-h", "-d", "2020-02-03T04:05:06Z", &link]);
    fs::hard_link(source.join("etc/hostname"), source.join("etc/same")).expect("a link");
    let file = source.join("etc/hostname");
    tool("touch", &["-d", "2020-02-03T04:05:06Z", &tool_path(&file)]);

    let data = source.join("etc/deep/er/data");
    rustix::fs::setxattr(&data, "user.note", NOTE, rustix::fs::XattrFlags::empty()).expect("set");

    image(lab);
}

/// An attribute of `/etc/deep/er/data`.
pub(crate) const NOTE: &[u8] = b"two\nlines=\n";

pub(crate) fn tool_path(path: &Path) -> String {
    path.to_str().expect("utf-8").to_owned()
}

pub(crate) fn image(lab: &Lab) {
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
    // A name alone for programs, and with the target for people.
    let rows = lab.ok(&format!("{ls} --partition 2 --output tsv")).stdout;
    let link: Vec<&str> = rows.lines().nth(2).expect("a row").split('\t').collect();
    assert_eq!((link[0], &link[6..]), ("link", ["link", "deep/er", ""].as_slice()), "{rows}");
    let file: Vec<&str> = rows.lines().nth(1).expect("a row").split('\t').collect();
    assert_eq!(&file[6..], ["hostname", "", ""], "{rows}");
    assert!(lab.ok(&format!("{ls} --partition 2")).stdout.contains("link -> deep/er\n"));
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
    lab.fails(&cp, 7, "files.incomplete");
}

#[test]
fn packed_found_and_compared() {
    let lab = backed_up();
    let etc = "--partition 2 --path /etc";
    lab.json(&format!("restore files tar {POINT} {etc} --to etc.tar"));
    lab.fails(&format!("restore files tar {POINT} {etc} --to etc.tar"), 4, "disk.not_empty");
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
    // A link that is alike from outside.
    fs::remove_file(lab.path("source/etc/link")).expect("removed");
    std::os::unix::fs::symlink("deep/ex", lab.path("source/etc/link")).expect("a link");
    tool("touch", &["-h", "-d", "2020-02-03T04:05:06Z", &path("source/etc/link")]);
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
    assert!(!changes.iter().any(|(path, _)| *path == "/etc/link"), "{changes:?}");
    let changes = lab.json(&format!("{diff} --content"));
    let changes = changes["changes"].as_array().expect("changes");
    let link = changes.iter().find(|it| it["path"] == "/etc/link").expect("its target differs");
    assert_eq!(link["what"], serde_json::json!(["target"]));
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

/// A second search reads no file system again, and finds the same.
#[test]
fn lists_of_files_are_kept() {
    let lab = backed_up();
    let lists = || {
        let files = lab.files(".cache").into_iter().map(|(path, _)| path);
        files.filter(|path| path.to_string_lossy().contains("/beside/files-")).collect::<Vec<_>>()
    };
    let find = format!("restore files find {POINT} --partition 2 --all-points");
    let first = lab.json(&find);
    assert_eq!(lists().len(), 1);
    let versions = |found: &Value| found["found"].as_array().expect("found").clone();
    // Another partition changes: the file system is the same.
    let image_file = File::options().write(true).open(lab.path("disk.img")).expect("a disk");
    image_file.write_all_at(b"something else", 5 << 20).expect("written");
    drop(image_file);
    lab.ok("backup --item web --disk system=disk.img");
    let second = lab.json(&find);
    assert_eq!(lists().len(), 1);
    assert_eq!(versions(&second).len(), versions(&first).len());
    let points = |it: &Value| it["recovery_points"].as_array().expect("points").len();
    assert!(versions(&second).iter().all(|it| points(it) == 2), "{second}");
    assert_eq!(versions(&lab.json(&format!("{find} --changed"))).len(), 0);
    // Below a folder, and through a link, which a list does not follow.
    for (path, count) in [("/etc/deep", 3), ("/etc/link", 1), ("/etc/link/data", 1)] {
        let found = lab.json(&format!("{find} --path {path}"));
        assert_eq!(versions(&found).len(), count, "{path}: {found}");
    }
    lab.fails(&format!("{find} --path /etc/none"), 7, "files.incomplete");

    fs::write(lab.path("source/etc/new"), "new").expect("a file");
    image(&lab);
    lab.ok("backup --item web --disk system=disk.img");
    let third = lab.json(&find);
    assert_eq!(lists().len(), 2);
    let changed = versions(&lab.json(&format!("{find} --changed --name new*")));
    assert_eq!((changed.len(), &changed[0]["path"]), (1, &"/etc/new".into()));
    assert_eq!(
        lab.json(&format!("{find} --changed --name hostname"))["found"],
        serde_json::json!([])
    );
    for list in lists() {
        let bytes = fs::read(&list).expect("a list");
        assert!(!bytes.windows(8).any(|part| part == b"hostname"), "it is not sealed");
        // One that is damaged is none.
        fs::write(&list, [&bytes[..100], &vec![0; bytes.len() - 100]].concat()).expect("written");
    }
    assert_eq!(lab.json(&find), third);
    assert_eq!(lab.json(&find), third);
    lab.fails(
        "restore files find --item web --recovery-point latest --changed",
        2,
        "usage.invalid",
    );
}

/// Damage of stored data is no empty disk and no missing partition: its own error, with all causes.
#[test]
fn damaged_stored_data_is_named() {
    let lab = Lab::new();
    disk(&lab);
    // A disk without partitions too, in a point of its own, so that it lies in a pack of its own.
    lab.ok("backup --item web --disk system=disk.img");
    let before = lab.files("vault/packs/data");
    lab.disk("plain.img", 8, 8, 7);
    tool("mke2fs", &["-q", "-F", "-t", "ext4", &tool_path(&lab.path("plain.img"))]);
    lab.ok("backup --item web --disk system=disk.img --disk plain=plain.img");
    let point = lab.json(&format!("restore files ls {POINT}"));
    assert_eq!(point["volumes"][3]["readable"], true, "{point}");
    for (pack, size) in lab.files("vault/packs/data") {
        if before.iter().any(|(path, _)| *path == pack) {
            continue;
        }
        let mut bytes = fs::read(&pack).expect("a pack");
        let (first, last) = (size / 10, size * 9 / 10);
        for at in (first..last).step_by(100) {
            bytes[usize::try_from(at).expect("small")] ^= 1;
        }
        fs::remove_file(&pack).expect("removed");
        fs::write(&pack, bytes).expect("written");
    }
    let ls = lab.run(&format!("restore files ls {POINT} --output json"));
    assert_eq!(ls.code, 7, "{}{}", ls.stdout, ls.stderr);
    let volumes: Value = serde_json::from_str(&ls.stdout).expect("JSON");
    let volumes = volumes["volumes"].as_array().expect("volumes");
    assert_eq!(volumes.len(), 4);
    assert_eq!(volumes[3]["readable"], false);
    assert_eq!(volumes[3]["reason"], "could not be read: stored data is damaged");
    for command in ["cp --path / --to out", "tar --path / --to out.tar", "find --name a", "ls"] {
        lab.fails(&format!("restore files {command} {POINT} --disk plain"), 6, "store.corrupt");
    }
    assert!(!lab.path("out.tar").exists() && !lab.path("out.tar.partial").exists());
    // The other disk is whole.
    let ls = format!("restore files ls {POINT} --disk system --partition 2 --path");
    lab.json(&format!("{ls} /etc"));
    lab.fails(&format!("{ls}="), 2, "usage.invalid");
}

/// A file as a disk.
struct Image(File);

impl ReadAt for Image {
    fn size(&self) -> u64 {
        self.0.metadata().expect("a size").len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
}

fn reader(image: &Path, limits: Limits) -> Result<FileReader, FilesError> {
    let program = env!("CARGO_BIN_EXE_strongroom").into();
    let command = ReaderCommand { program, arguments: vec!["file-reader".to_owned()] };
    let bytes = Arc::new(Image(File::open(image).expect("an image")));
    FileReader::start(&command, vec![NamedDisk { name: "system".to_owned(), bytes }], limits)
}

/// The process that reads has a socket and nothing else, and its end is an error of the path.
#[test]
fn the_process_that_reads_is_locked_in() {
    let lab = Lab::empty();
    disk(&lab);
    let mut reader = reader(&lab.path("disk.img"), Limits::default()).expect("starts");
    let volumes = reader.survey().expect("reads");
    let (root, _) = reader.open(&volumes[1]).expect("opens");
    let id = reader.id().expect("a process");
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("a status");
    for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "Threads:\t1"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let open: Vec<_> = fs::read_dir(format!("/proc/{id}/fd"))
        .expect("a folder")
        .map(|entry| fs::read_link(entry.expect("an entry").path()).expect("a link"))
        .map(|to| to.to_str().expect("utf-8").split(':').next().expect("a kind").to_owned())
        .collect();
    // What runs the tests may leave a pipe open in everything that it starts.
    let ours = ["socket", "/dev/null", "pipe"];
    let kinds = open.iter().filter(|kind| !ours.contains(&kind.as_str()));
    assert_eq!(kinds.count(), 0, "{open:?}");
    assert!(fs::read(format!("/proc/{id}/environ")).expect("readable").is_empty());
    let limits = fs::read_to_string(format!("/proc/{id}/limits")).expect("limits");
    assert!(
        limits
            .lines()
            .any(|line| line.starts_with("Max address space") && line.contains("1073741824")),
        "{limits}"
    );

    let pid = Pid::from_raw(id.try_into().expect("small")).expect("an id");
    kill_process(pid, Signal::KILL).expect("killed");
    let error = reader.list(b"/etc", root).expect_err("gone");
    assert_eq!(error.code().name, "files.reader");
    assert!(error.to_string().starts_with("/etc: "), "{error}");
}

#[test]
fn limits_and_broken_disks_are_errors() {
    let lab = Lab::empty();
    disk(&lab);
    let image = lab.path("disk.img");
    let little = Limits { memory: 1 << 20, ..Limits::default() };
    let error = reader(&image, little).and_then(|mut it| it.survey()).expect_err("too little");
    assert_eq!(error.code().name, "files.reader");

    // The end is missing.
    let whole = reader(&image, Limits::default()).and_then(|mut it| it.survey()).expect("reads");
    let file = File::options().write(true).open(&image).expect("open");
    file.set_len(30 << 20).expect("a size");
    let mut reader = reader(&image, Limits::default()).expect("starts");
    let volumes = reader.survey().expect("reads");
    assert_eq!(volumes.len(), whole.len());
    let error = reader.open(&volumes[1]).expect_err("it is cut");
    assert_eq!(error.code().name, "files.damaged", "{error}");
    // The other one is whole.
    reader.open(&volumes[0]).expect("opens");
}

/// Damage anywhere is an error of what it hits, or of all, in bounded time, and never the end of the one that asks.
#[test]
fn damaged_file_systems_are_errors() {
    struct Bytes(Vec<u8>);
    impl ReadAt for Bytes {
        fn size(&self) -> u64 {
            self.0.len().try_into().expect("small")
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
            let start = usize::try_from(offset).expect("small");
            let there = self.0.get(start..).and_then(|rest| rest.get(..buf.len()));
            buf.copy_from_slice(there.ok_or(std::io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }
    let lab = Lab::empty();
    let source = lab.path("source");
    fs::create_dir_all(source.join("a/b/c")).expect("folders");
    for number in 0..40_usize {
        let folder = ["a", "a/b", "a/b/c"][number % 3];
        let path = source.join(folder).join(format!("file-{number}"));
        fs::write(path, noise(1, number * 3000)).expect("a file");
    }
    let image = lab.path("part");
    for (program, options) in [
        ("mke2fs", &["-q", "-F", "-t", "ext4", "-O", "^metadata_csum"][..]),
        ("mke2fs", &["-q", "-F", "-t", "ext2"]),
        ("mkfs.btrfs", &["-q", "-f"]),
    ] {
        File::create(&image).expect("an image").set_len(0).expect("a size");
        File::create(&image)
            .expect("an image")
            .set_len(if program == "mke2fs" { 8 << 20 } else { 128 << 20 })
            .expect("a size");
        let from = if program == "mke2fs" { "-d" } else { "--rootdir" };
        let (folder, place) = (tool_path(&source), tool_path(&image));
        let all = [options, &[from, &folder, &place]].concat();
        tool(program, &all);
        let whole = fs::read(&image).expect("an image");
        // Damage hits what is not empty.
        let used: Vec<usize> = (0..whole.len())
            .step_by(512)
            .filter(|at| whole[*at..*at + 512].iter().any(|byte| *byte != 0))
            .collect();
        let mut delivered = 0;
        for seed in 0..12 {
            let mut bytes = whole.clone();
            for pair in noise(seed, 600).chunks(6) {
                let number = |at: usize| usize::from(pair[at]) << 8 | usize::from(pair[at + 1]);
                let place = used[number(0) % used.len()] + number(2) % 512;
                bytes[place] ^= pair[4] | 1;
            }
            let program = env!("CARGO_BIN_EXE_strongroom").into();
            let command = ReaderCommand { program, arguments: vec!["file-reader".to_owned()] };
            let limits = Limits { patience: Duration::from_secs(20), ..Limits::default() };
            let disk = NamedDisk { name: "disk".to_owned(), bytes: Arc::new(Bytes(bytes)) };
            let mut reader = FileReader::start(&command, vec![disk], limits).expect("starts");
            let volumes = reader.survey().expect("looks");
            let to = lab.path(&format!("to-{seed}"));
            let cancel = strongroom_base::Cancel::new();
            let done = Files::open(&mut reader, &volumes[0]).and_then(|mut files| {
                let all = files.locate(b"/")?;
                deliver(&mut files, &all, &to, Options::default(), &cancel)
            });
            match done {
                Ok(done) => delivered += done.files,
                Err(error) => assert!(error.code().name.starts_with("files."), "{error}"),
            }
            fs::remove_dir_all(&to).ok();
        }
        // What btrfs has is summed, so that little may be left of it.
        assert!(delivered > 0 || program == "mkfs.btrfs", "nothing was delivered");
    }
}

/// Nobody else may start it by accident: without a socket it ends at once.
#[test]
fn without_a_socket_the_process_ends() {
    let lab = Lab::empty();
    assert_eq!(lab.run("file-reader").code, 1);
}

/// The exit code when a reader has ended.
const READER_ENDED: i32 = 5;

/// A command that mounts; it is ended with the test, however that ends.
struct Mounting(Child);

impl Mounting {
    /// Mounts the second partition in `mnt`, and what the command shows.
    fn start(lab: &Lab) -> (Self, Value) {
        fs::create_dir_all(lab.path("mnt")).expect("a folder");
        let words = format!("restore files mount {POINT} --partition 2 mnt --output json");
        let mut mount = lab.command(&words);
        let mount = mount.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut mount = Self(mount.expect("the program starts"));
        let said = mount.0.stdout.take().expect("piped");
        let shown = serde_json::Deserializer::from_reader(said).into_iter().next();
        (mount, shown.expect("a document").expect("JSON"))
    }

    /// The process that reads for it.
    fn reader(&self) -> Pid {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).expect("runs");
        let children = tasks.flatten().map(|task| fs::read_to_string(task.path().join("children")));
        let children = children.map(Result::unwrap_or_default).collect::<Vec<_>>().join(" ");
        let mut pids = children.split_whitespace().map(|pid| pid.parse().expect("a number"));
        let reader = pids.next().and_then(Pid::from_raw).expect("a reader");
        assert_eq!(pids.next(), None, "it has one");
        reader
    }

    /// Ends it in order.
    fn end(&mut self) -> std::process::ExitStatus {
        kill_process(Pid::from_child(&self.0), Signal::TERM).ok();
        self.0.wait().expect("ends")
    }
}

impl Drop for Mounting {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

#[test]
fn a_mount_whose_reader_is_killed_ends_with_an_error() {
    let lab = backed_up();
    let (mut mount, _) = Mounting::start(&lab);
    let file = File::open(lab.path("mnt/etc/hostname")).expect("a file");
    let reader = mount.reader();
    kill_process(reader, Signal::KILL).expect("killed");
    // The first who asks gets an error, whatever the kernel still knows.
    assert!(fs::read(lab.path("mnt/etc/deep/er/data")).is_err());
    let mut said = String::new();
    mount.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(mount.0.wait().expect("ends").code(), Some(READER_ENDED), "{said}");
    assert!(said.contains("files.reader"), "{said}");
    assert_eq!(fs::read_dir(lab.path("mnt")).expect("no dead mount").count(), 0);
    drop(file);
    let (mut mount, _) = Mounting::start(&lab);
    assert_eq!(fs::read(lab.path("mnt/etc/hostname")).expect("a file"), b"web01\n");
    assert!(mount.end().success());
}

#[test]
fn signals_end_a_mount_of_files() {
    let lab = backed_up();
    let (mut mount, _) = Mounting::start(&lab);
    let reader = mount.reader();
    let used = File::open(lab.path("mnt/etc/hostname")).expect("a file");
    let pid = Pid::from_child(&mount.0);
    kill_process(pid, Signal::TERM).expect("a signal");
    std::thread::sleep(Duration::from_secs(1));
    assert!(lab.path("mnt/etc/deep").exists(), "it waits for its users");
    kill_process(pid, Signal::TERM).expect("a signal");
    assert!(mount.0.wait().expect("ends").success());
    assert_eq!(fs::read_dir(lab.path("mnt")).expect("no dead mount").count(), 0);
    drop(used);
    strongroom_testing::wait_until("the reader is gone", || {
        rustix::process::test_kill_process(reader).is_err()
    });
    let (mut mount, _) = Mounting::start(&lab);
    kill_process(Pid::from_child(&mount.0), Signal::HUP).expect("a signal");
    assert!(mount.0.wait().expect("ends").success());
    assert_eq!(fs::read_dir(lab.path("mnt")).expect("no dead mount").count(), 0);
}

#[test]
fn files_are_mounted_and_are_those_of_the_source() {
    let lab = backed_up();
    let words = format!("restore files mount {POINT} --partition 2");
    lab.fails(&format!("{words} source"), 2, "mount.folder");
    let (mut mount, shown) = Mounting::start(&lab);
    assert_documented("restore files mount", &shown);

    // As the tools of this host see them.
    let (mounted, source) = (lab.path("mnt/etc"), lab.path("source/etc"));
    tool("diff", &["-r", "--no-dereference", &tool_path(&mounted), &tool_path(&source)]);
    let list = |folder: &Path| {
        let format = "%p %y %s %m %U %G %n %l %T@\n";
        let mut find = Command::new("find");
        let output = find.arg(".").args(["-printf", format]).current_dir(folder).output();
        let output = output.expect("find");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        // The size and the links of a folder are the file system's own affair.
        // mke2fs keeps whole seconds.
        let line = |line: &str| line.rsplit_once('.').map(|(start, _)| start.to_owned());
        let files = text.lines().filter(|it| !it.contains(" d "));
        let mut lines: Vec<String> = files.filter_map(line).collect();
        assert_eq!(lines.len(), 5);
        lines.sort();
        lines
    };
    assert_eq!(list(&mounted), list(&source));
    let meta = |name: &str| fs::metadata(mounted.join(name)).expect(name);
    assert_eq!(meta("hostname").ino(), meta("same").ino());
    for read_only in
        [fs::write(mounted.join("hostname"), "no"), fs::write(mounted.join("new"), "no")]
    {
        let error = read_only.expect_err("nothing is written");
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{error}");
    }
    assert_eq!(
        fs::read(mounted.join("nothing")).expect_err("there is none").kind(),
        std::io::ErrorKind::NotFound
    );
    assert!(mount.end().success());
    assert_eq!(fs::read_dir(lab.path("mnt")).expect("a folder").count(), 0);
}
