//! Image files through QEMU: honest ones are read, hostile ones are refused.
#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{assert_same, data_len, folder, noise, open, raw_disk, read_all, run, text};
use strongroom_base::{ByteRange, Clock as _, Environment, SystemClock};
use strongroom_disk::{
    DiskError, DiskSource, DiskSpec, DiskTarget, Existing, ImageFormat, Layer, Layout, OpenOptions,
    TargetOptions, Under, inspect_source, open_source, open_target,
};

const MIB: usize = 1 << 20;

fn qemu_img(arguments: &[&str]) {
    run("qemu-utils", "qemu-img", arguments);
}

fn open_in(spec: &str, allowed: &Path) -> Result<Box<dyn DiskSource>, DiskError> {
    let allow_backing = vec![allowed.to_owned()];
    open_source(&spec.parse()?, &OpenOptions { allow_backing, ..OpenOptions::default() })
}

#[test]
fn every_format_reads_as_the_disk_it_was_made_from() {
    let folder = folder();
    let raw = folder.path().join("disk.raw");
    let bytes =
        raw_disk(&raw, 24 * MIB, &[(0, 70_000), (5 * MIB + 4096, 3 * MIB), (24 * MIB - 512, 512)]);
    for (format, qemu, options) in [
        ("qcow2", "qcow2", "compat=0.10"),
        ("qcow2", "qcow2", "compat=1.1,cluster_size=4k"),
        ("qcow2", "qcow2", "extended_l2=on,cluster_size=128k"),
        ("vhd", "vpc", "subformat=dynamic,force_size=on"),
        ("vhd", "vpc", "subformat=fixed,force_size=on"),
        ("vhd", "vpc", "subformat=dynamic"),
        ("vhdx", "vhdx", "subformat=dynamic"),
        ("vhdx", "vhdx", "subformat=fixed"),
        ("vmdk", "vmdk", "subformat=monolithicSparse"),
        ("vmdk", "vmdk", "subformat=streamOptimized"),
    ] {
        let image = folder.path().join(format!("disk.{format}"));
        qemu_img(&["convert", "-O", qemu, "-o", options, text(&raw), text(&image)]);
        let source = open(text(&image)).unwrap_or_else(|error| panic!("{options}: {error}"));
        assert_eq!(source.format(), format);
        let mut expected = bytes.clone();
        // Some disks are made a little larger by QEMU.
        expected.resize(usize::try_from(source.size()).expect("small"), 0);
        assert!(expected.len() - bytes.len() < MIB);
        assert_same(&read_all(source.as_ref()), &expected);
        // QEMU does not tell the holes of a VHDX, and a fixed VHD has none.
        if format != "vhdx" && options != "subformat=fixed,force_size=on" {
            assert!(data_len(source.as_ref()) < 12 << 20, "{options}: holes are not seen");
        }
    }
}

#[test]
fn a_chain_is_read_if_it_is_allowed() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let mut bytes = raw_disk(&at("base.raw"), 8 * MIB, &[(0, 8 * MIB)]);
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.raw",
        "-F",
        "raw",
        text(&at("mid.qcow2")),
    ]);
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "mid.qcow2",
        "-F",
        "qcow2",
        text(&at("top.qcow2")),
    ]);
    for (name, at_mib, value) in [("mid.qcow2", 1, 1), ("top.qcow2", 2, 2)] {
        let write = format!("write -P {value} {at_mib}M 1M");
        run("qemu-utils", "qemu-io", &["-c", &write, text(&at(name))]);
        bytes[at_mib * MIB..(at_mib + 1) * MIB].fill(value);
    }
    let top = at("top.qcow2");
    let refused = open(text(&top)).err().expect("refused");
    assert!(
        matches!(&refused, DiskError::Unsafe { reference, .. } if reference == "mid.qcow2"),
        "{refused}"
    );
    let source = open_in(text(&top), folder.path()).expect("opens");
    assert_same(&read_all(source.as_ref()), &bytes);
    drop(source);

    // Allowed, but its format is not said.
    qemu_img(&["rebase", "-u", "-b", "", text(&top)]);
    let mut image = fs::read(&top).expect("reads");
    let name = b"base.raw";
    image[8..16].copy_from_slice(&1024_u64.to_be_bytes());
    image[16..20].copy_from_slice(&8_u32.to_be_bytes());
    image[1024..1032].copy_from_slice(name);
    fs::write(&top, &image).expect("writes");
    let refused = open_in(text(&top), folder.path()).err().expect("refused");
    assert!(matches!(refused, DiskError::Format { .. }), "{refused}");
}

#[test]
fn data_files_and_extents_are_read_if_they_are_allowed() {
    let folder = folder();
    let raw = folder.path().join("disk");
    let bytes = raw_disk(&raw, 8 * MIB, &[(MIB, 2 * MIB)]);
    let image = folder.path().join("a.qcow2");
    let data = folder.path().join("a.data");
    let options = format!("data_file={},data_file_raw=on", text(&data));
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "-o", &options, text(&raw), text(&image)]);
    let flat = folder.path().join("b.vmdk");
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=monolithicFlat",
        text(&raw),
        text(&flat),
    ]);
    let split = folder.path().join("c.vmdk");
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=twoGbMaxExtentSparse",
        text(&raw),
        text(&split),
    ]);
    for image in [image, flat, split] {
        let refused = open(text(&image)).err().expect("refused");
        assert!(matches!(refused, DiskError::Unsafe { .. }), "{refused}");
        let source = open_in(text(&image), folder.path()).expect("opens");
        assert_same(&read_all(source.as_ref()), &bytes);
    }
}

/// Writes a header over the first bytes of an image.
fn patch(image: &Path, changes: &[(usize, &[u8])]) {
    let mut bytes = fs::read(image).expect("reads");
    for (at, value) in changes {
        bytes[*at..at + value.len()].copy_from_slice(value);
    }
    fs::write(image, bytes).expect("writes");
}

#[test]
fn hostile_images_reach_nothing() {
    let folder = folder();
    let secret = folder.path().join("secret");
    fs::write(&secret, vec![b'S'; MIB]).expect("writes");
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).expect("a folder");
    std::os::unix::fs::symlink(&secret, inside.join("link")).expect("links");
    let image = inside.join("evil.qcow2");
    let make = || qemu_img(&["create", "-q", "-f", "qcow2", text(&image), "1M"]);
    let secret_name = text(&secret);
    let json = format!("json:{{\"driver\":\"file\",\"filename\":\"{secret_name}\"}}");
    for name in [
        "/etc/passwd",
        "../secret",
        "link",
        &json,
        "nbd://127.0.0.1:1/",
        "file:/etc/passwd",
        "missing",
    ] {
        make();
        let len = u32::try_from(name.len()).expect("fits").to_be_bytes();
        patch(
            &image,
            &[
                (8, &2048_u64.to_be_bytes()),
                (16, &len),
                (2048, name.as_bytes()),
                // It even says the format.
                (112, &[0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3, b'r', b'a', b'w', 0, 0, 0, 0, 0]),
            ],
        );
        let refused =
            open_in(text(&image), &inside).err().unwrap_or_else(|| panic!("{name} was opened"));
        match (&refused, name) {
            (DiskError::NeedsQemu { reason, .. }, name) => {
                assert!(name.starts_with("json:") || name.starts_with("nbd:"), "{refused}");
                assert!(reason.contains(name), "{refused}");
            }
            (DiskError::NotFound { disk }, "missing") => assert!(disk.contains("evil"), "{disk}"),
            (DiskError::Unsafe { reference, .. }, name) => assert_eq!(reference, name),
            _ => panic!("{refused}"),
        }
    }
    // Elsewhere it is not told whether a file exists.
    make();
    qemu_img(&["rebase", "-u", "-f", "qcow2", "-b", "/no/such", "-F", "raw", text(&image)]);
    let refused = open_in(text(&image), &inside).err().expect("refused");
    assert!(matches!(refused, DiskError::Unsafe { .. }), "{refused}");
    // A data file.
    make();
    let data = [b"DATA".as_slice(), &[0, 0, 0, 11], b"/etc/passwd", &[0; 5]].concat();
    patch(&image, &[(79, &[4]), (112, &data)]);
    let refused = open_in(text(&image), &inside).err().expect("refused");
    assert!(
        matches!(&refused, DiskError::Unsafe { reference, .. } if reference == "/etc/passwd"),
        "{refused}"
    );
    // VMDK descriptors.
    let vmdk = inside.join("evil.vmdk");
    for extent in ["/etc/passwd", "../secret", "link"] {
        fs::write(&vmdk, format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 2 FLAT \"{extent}\" 0\n")).expect("writes");
        let refused = open_in(text(&vmdk), &inside).err().expect("refused");
        assert!(matches!(refused, DiskError::Unsafe { .. }), "{refused}");
    }
}

#[test]
fn loops_and_towers_end() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let (first, second) = (at("a.qcow2"), at("b.qcow2"));
    for (image, backing) in [(&first, "b.qcow2"), (&second, "a.qcow2")] {
        qemu_img(&[
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-b",
            backing,
            "-F",
            "qcow2",
            text(image),
            "1M",
        ]);
    }
    for image in [&first, &second] {
        let refused = open_in(text(image), folder.path()).err().expect("refused");
        assert!(matches!(refused, DiskError::Format { .. }), "{refused}");
    }
    let own = at("own.qcow2");
    qemu_img(&[
        "create",
        "-q",
        "-u",
        "-f",
        "qcow2",
        "-b",
        "own.qcow2",
        "-F",
        "qcow2",
        text(&own),
        "1M",
    ]);
    assert!(matches!(open_in(text(&own), folder.path()), Err(DiskError::Format { .. })));
    let own = at("own.vmdk");
    fs::write(&own, "# Disk DescriptorFile\nRW 2 FLAT \"own.vmdk\" 0\n").expect("writes");
    assert!(matches!(open_in(text(&own), folder.path()), Err(DiskError::Format { .. })));

    for level in 0..80 {
        let backing = format!("{}.qcow2", level - 1);
        let image = at(&format!("{level}.qcow2"));
        let mut arguments = vec!["create", "-q", "-u", "-f", "qcow2"];
        if level > 0 {
            arguments.extend(["-b", &backing, "-F", "qcow2"]);
        }
        arguments.extend([text(&image), "1M"]);
        qemu_img(&arguments);
    }
    assert!(open_in(text(&at("30.qcow2")), folder.path()).is_ok());
    assert!(matches!(open_in(text(&at("79.qcow2")), folder.path()), Err(DiskError::Format { .. })));
}

#[test]
fn damaged_images_are_errors() {
    let folder = folder();
    let raw = folder.path().join("disk.raw");
    raw_disk(&raw, 4 * MIB, &[(0, 4 * MIB)]);
    for (format, qemu) in [("qcow2", "qcow2"), ("vhd", "vpc"), ("vhdx", "vhdx"), ("vmdk", "vmdk")] {
        let image = folder.path().join(format!("disk.{format}"));
        let convert = || qemu_img(&["convert", "-f", "raw", "-O", qemu, text(&raw), text(&image)]);
        convert();
        let whole = fs::read(&image).expect("reads");
        for len in [0, 3, 100, 1000, 70_000, 150_000] {
            fs::write(&image, &whole[..len]).expect("writes");
            // What is cut off may be data that nobody has asked for yet.
            if let Ok(source) = open(text(&image)) {
                let mut buf = vec![0; MIB];
                let read = (0..4).map(|i| source.read_at(i << 20, &mut buf));
                assert!(
                    read.into_iter().any(|read| read.is_err()) || format == "vmdk",
                    "{format} {len}"
                );
            }
        }
        // Tables of noise.
        for from in [512, 4096, 65_536, 131_072, 196_608] {
            let mut bytes = whole.clone();
            let noise = noise(u64::try_from(from).expect("fits"), 65_536);
            bytes[from..from + 65_536].copy_from_slice(&noise);
            fs::write(&image, &bytes).expect("writes");
            if let Ok(source) = open(text(&image)) {
                let mut buf = vec![0; 4 * MIB];
                // Whatever it says, it says it without a panic and without a hang.
                source.read_at(0, &mut buf).ok();
            }
        }
    }
    let empty = folder.path().join("empty.qcow2");
    fs::write(&empty, b"").expect("writes");
    assert!(matches!(open(text(&empty)), Err(DiskError::Format { .. })));
    let missing = folder.path().join("missing.qcow2");
    assert!(matches!(open(text(&missing)), Err(DiskError::NotFound { .. })));
    // A raw disk that is called qcow2 is not one.
    let misnamed = folder.path().join("raw.qcow2");
    fs::copy(&raw, &misnamed).expect("copies");
    assert!(matches!(open(text(&misnamed)), Err(DiskError::Format { .. })));
}

#[test]
fn an_image_in_use_is_busy() {
    let folder = folder();
    let image = folder.path().join("disk.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&image), "4M"]);
    let socket = common::socket(&folder);
    let arguments = ["-t", "-f", "qcow2", "-k", text(&socket), text(&image)];
    let server = common::Server::start("qemu-utils", "qemu-nbd", &arguments);
    // First the server has the image, then we try: the other way round it would be refused.
    let served = format!("nbd+unix:///?socket={}", text(&socket));
    common::wait_until("it serves", || open(&served).is_ok());
    assert!(matches!(open(text(&image)), Err(DiskError::Busy { .. })));
    let options = OpenOptions { even_if_in_use: true, ..OpenOptions::default() };
    let spec = text(&image).parse().expect("parses");
    assert_eq!(open_source(&spec, &options).expect("opens").size(), 4 << 20);
    let options = TargetOptions { existing: Existing::Keep, ..TargetOptions::default() };
    assert!(matches!(open_target(&spec, 4 << 20, &options), Err(DiskError::Busy { .. })));
    // Who ends soon is waited for.
    let ends = std::thread::spawn(move || {
        SystemClock.sleep(std::time::Duration::from_millis(700));
        drop(server);
    });
    open(text(&image)).expect("opens");
    ends.join().expect("ended");
}

/// The processes of qemu-nbd that have the file at `path` open; they are told a descriptor and not its path.
fn children(path: &Path) -> Vec<String> {
    let output = Command::new("pgrep").args(["-x", "qemu-nbd"]).output();
    let output = output.expect("install the package procps");
    let all = String::from_utf8_lossy(&output.stdout).into_owned();
    let has_it_open = |pid: &&str| {
        let open = fs::read_dir(Path::new("/proc").join(pid).join("fd")).into_iter().flatten();
        open.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == path))
    };
    all.lines().filter(has_it_open).map(str::to_owned).collect()
}

#[test]
fn the_child_is_limited_and_ends() {
    let folder = folder();
    let image = folder.path().join("disk.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&image), "4M"]);
    let source = open(text(&image)).expect("opens");
    let running = children(&image);
    assert_eq!(running.len(), 1);
    let proc = Path::new("/proc").join(&running[0]);
    let limits = fs::read_to_string(proc.join("limits")).expect("reads");
    let limit =
        limits.lines().find(|line| line.starts_with("Max address space")).expect("is there");
    assert!(limit.contains("2147483648"), "{limit}");
    let environment = fs::read(proc.join("environ")).expect("reads");
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(environment.split('\0').all(|entry| entry.is_empty() || entry.starts_with("PATH=")));
    drop(source);
    assert!(children(&image).is_empty());

    // A child that is killed is an error, soon.
    let source = open(text(&image)).expect("opens");
    run("procps", "kill", &["-9", &children(&image)[0]]);
    let start = SystemClock.monotonic();
    assert!(matches!(source.read_at(0, &mut [0; 512]), Err(DiskError::Nbd { .. })));
    assert!(SystemClock.monotonic().saturating_sub(start).as_secs() < 5);
}

/// Names the image to the process that shall be killed.
const VICTIM: &str = "STRONGROOM_TEST_VICTIM";

/// Opens an image and keeps it open until it is killed. On its own this does nothing.
#[test]
fn victim() {
    let Some(image) = std::env::var_os(VICTIM) else { return };
    let path = std::env::var_os("PATH").expect("given");
    Environment::new([("PATH".into(), path)]).give();
    let open = open(text(&PathBuf::from(image)));
    SystemClock.sleep(std::time::Duration::from_mins(2));
    drop(open);
}

/// Starts [`victim`], which finds programs in this folder first.
fn start_victim(image: &Path, programs: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().expect("the test"))
        .args(["--exact", "victim"])
        .env(VICTIM, image)
        .env("PATH", format!("{}:/usr/bin:/bin", text(programs)))
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("it starts")
}

/// A child that never had a connection waits for one. Whoever needs the image is the first and the last.
#[test]
fn a_child_whose_parent_was_killed_before_it_served_is_ended_by_the_next() {
    let folder = folder();
    let image = folder.path().join("disk.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&image), "4M"]);
    // Stops who starts it before that can connect, and is the real one from then on.
    let programs = folder.path().join("bin");
    fs::create_dir(&programs).expect("made");
    let first = "#!/bin/sh\nkill -STOP $PPID\nexec /usr/bin/qemu-nbd \"$@\"\n";
    fs::write(programs.join("qemu-nbd"), first).expect("written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(programs.join("qemu-nbd"), executable).expect("may be run");

    let mut victim = start_victim(&image, &programs);
    common::wait_until("the child has the image", || children(&image).len() == 1);
    victim.kill().expect("killed");
    victim.wait().expect("ended");
    assert_eq!(children(&image).len(), 1, "it waits for a connection");
    drop(target(&image, 4 << 20, Existing::Keep).expect("is free"));
    common::wait_until("it has ended", || children(&image).is_empty());
}

/// A child that had a connection ends with it, some moments after its parent: it is waited for.
#[test]
fn a_child_whose_parent_was_killed_while_it_served_is_waited_for() {
    let folder = folder();
    let image = folder.path().join("disk.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&image), "4M"]);
    let mut victim = start_victim(&image, folder.path());
    common::wait_until("it is served", || is_connected(&image));
    let child = children(&image).remove(0);
    // It cannot see that its parent is gone.
    run("procps", "kill", &["-STOP", &child]);
    victim.kill().expect("killed");
    victim.wait().expect("ended");
    assert_eq!(children(&image), std::slice::from_ref(&child));
    let (image, other) = (&image, &child);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            SystemClock.sleep(std::time::Duration::from_millis(700));
            run("procps", "kill", &["-CONT", other]);
        });
        let started = SystemClock.monotonic();
        drop(target(image, 4 << 20, Existing::Keep).expect("is free"));
        assert!(SystemClock.monotonic().saturating_sub(started).as_millis() >= 500);
    });
    common::wait_until("it has ended", || children(image).is_empty());
}

/// Whether the child that serves the image has a connection: the socket that it listens at, and another one.
fn is_connected(image: &Path) -> bool {
    let sockets = |pid: &String| {
        let open = fs::read_dir(Path::new("/proc").join(pid).join("fd")).into_iter().flatten();
        let open = open.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        open.filter(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:")).count()
    };
    children(image).iter().any(|pid| sockets(pid) > 1)
}

fn target(image: &Path, size: usize, existing: Existing) -> Result<Box<dyn DiskTarget>, DiskError> {
    let options = TargetOptions { existing, ..TargetOptions::default() };
    open_target(&text(image).parse().expect("parses"), u64::try_from(size).expect("fits"), &options)
}

#[test]
fn qcow2_targets() {
    let folder = folder();
    // A name that could be taken for a protocol.
    let image = folder.path().join("odd:name,x=y.qcow2");
    let size = 16 * MIB + 512;
    let mut bytes = vec![0; size];
    let disk = target(&image, size, Existing::Refuse).expect("opens");
    assert!(disk.is_blank());
    assert_eq!(disk.size(), u64::try_from(size).expect("fits"));
    let part = noise(4, 3 * MIB);
    for at in [0, 5 * MIB, size - part.len()] {
        disk.write_at(u64::try_from(at).expect("fits"), &part).expect("writes");
        bytes[at..at + part.len()].copy_from_slice(&part);
    }
    disk.write_zeroes(ByteRange::between(6 << 20, 7 << 20)).expect("writes");
    bytes[6 * MIB..7 * MIB].fill(0);
    disk.flush().expect("flushes");
    drop(disk);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(&image).expect("is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    qemu_img(&["check", "-q", text(&image)]);
    assert_same(&read_all(open(text(&image)).expect("opens").as_ref()), &bytes);

    assert!(matches!(target(&image, size, Existing::Refuse), Err(DiskError::NotEmpty { .. })));
    assert!(matches!(target(&image, 2 * size, Existing::Keep), Err(DiskError::TooSmall { .. })));
    let kept = target(&image, size, Existing::Keep).expect("opens");
    assert!(!kept.is_blank());
    kept.write_at(9 << 20, &part).expect("writes");
    bytes[9 * MIB..12 * MIB].copy_from_slice(&part);
    let mut back = vec![0; size];
    kept.read_at(0, &mut back).expect("reads");
    assert_same(&back, &bytes);
    kept.flush().expect("flushes");
    drop(kept);
    assert_same(&read_all(open(text(&image)).expect("opens").as_ref()), &bytes);

    let vhd = folder.path().join("x.vhd");
    assert!(matches!(target(&vhd, size, Existing::Refuse), Err(DiskError::Spec { .. })));
}

#[test]
fn a_bitmap_in_an_image_says_what_changed_while_no_machine_ran() {
    let folder = folder();
    let image = folder.path().join("disk.qcow2");
    let path = text(&image);
    let qemu_io = |commands: &[&str]| {
        let commands = commands.iter().flat_map(|command| ["-c", command]).collect::<Vec<_>>();
        run("qemu-utils", "qemu-io", &[commands.as_slice(), &[path]].concat());
    };
    let options =
        |name: &str| OpenOptions { bitmap: Some(name.to_owned()), ..OpenOptions::default() };
    let open_with = |name: &str| open_source(&path.parse().expect("parses"), &options(name));
    qemu_img(&["create", "-q", "-f", "qcow2", path, "64M"]);
    qemu_io(&["write -P 1 0 20M"]);
    qemu_img(&["bitmap", "--add", "-g", "64k", path, "b0"]);
    assert!(open_with("b0").expect("opens").changed().expect("a bitmap").is_empty());
    // Whoever writes through QEMU keeps the bitmap up to date: data, zeros and discards.
    qemu_io(&["write -P 2 5M 64k", "write -z 10M 128k", "discard 15M 1M", "write -P 3 63M 1M"]);
    let source = open_with("b0").expect("opens");
    let expected =
        [(5 << 20, 64 << 10), (10 << 20, 128 << 10), (15 << 20, 1 << 20), (63 << 20, 1 << 20)];
    let expected = expected.map(|(offset, len)| ByteRange::new(offset, len).expect("fits"));
    assert_eq!(source.changed().expect("a bitmap").iter().collect::<Vec<_>>(), expected);
    assert_eq!(source.format(), "qcow2");
    let mut bytes = vec![1; 64 * MIB];
    bytes[20 * MIB..].fill(0);
    bytes[5 * MIB..5 * MIB + (64 << 10)].fill(2);
    bytes[10 * MIB..10 * MIB + (128 << 10)].fill(0);
    bytes[15 * MIB..16 * MIB].fill(0);
    bytes[63 * MIB..].fill(3);
    assert_same(&read_all(source.as_ref()), &bytes);
    drop(source);
    assert!(open(path).expect("opens").changed().is_none());

    // One that is not there, or was not saved when its writer died, is named.
    let refused = |name: &str, reason: &str| {
        let error = open_with(name).err().expect("an error");
        assert!(
            matches!(&error, DiskError::Bitmap { bitmap, reason: said, .. }
                if bitmap == name && said.to_lowercase().contains(reason)),
            "{error}"
        );
    };
    refused("b1", "b1");
    let socket = common::socket(&folder);
    let arguments = ["-t", "-f", "qcow2", "-k", text(&socket), path];
    let mut server = common::Server::start("qemu-utils", "qemu-nbd", &arguments);
    let served = format!("nbd+unix:///?socket={}", text(&socket));
    common::wait_until("it serves", || open(&served).is_ok());
    server.kill();
    refused("b0", "inconsistent");
    let raw = folder.path().join("x.raw");
    raw_disk(&raw, MIB, &[]);
    let error = open_source(&text(&raw).parse().expect("parses"), &options("b0")).err();
    assert!(matches!(error, Some(DiskError::Bitmap { .. })));
}

/// What a machine's definition says decides, whatever headers name.
#[test]
fn definitions_decide() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    for (name, letter) in [("a.raw", b'A'), ("b.raw", b'B')] {
        fs::write(at(name), vec![letter; MIB]).expect("writes");
    }
    let top = at("top.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", text(&at("a.raw")), "-F", "raw", text(&top)]);
    let read = |path: &Path, format: ImageFormat, layout: Layout| {
        let options = OpenOptions {
            allow_backing: vec![folder.path().to_owned()],
            layout: Some(layout),
            ..OpenOptions::default()
        };
        let spec = DiskSpec::File { path: path.to_owned(), format: Some(format) };
        inspect_source(&spec, &options)?;
        open_source(&spec, &options).map(|source| read_all(source.as_ref()))
    };
    let first = |under: Under| {
        let layout = Layout { under, ..Layout::default() };
        read(&top, ImageFormat::Qcow2, layout).expect("opens")[0]
    };
    let half = Layout { slice: Some(ByteRange::between(0, 512 << 10)), ..Layout::default() };
    let base = |layout: Layout| {
        let layer = Layer { path: at("b.raw"), format: ImageFormat::Raw, layout };
        Under::Image(Box::new(layer))
    };
    assert_eq!(first(Under::Header), b'A');
    assert_eq!(first(Under::Nothing), 0);
    assert_eq!(first(base(Layout::default())), b'B');
    let short = Layout { under: base(half), ..Layout::default() };
    let short = read(&top, ImageFormat::Qcow2, short).expect("opens");
    assert_eq!((short[(512 << 10) - 1], short[512 << 10]), (b'B', 0));

    // Parts of files: raw, and an image.
    let bytes = noise(9, MIB);
    fs::write(at("whole.raw"), &bytes).expect("writes");
    let part = |start: u64, end: u64| Layout {
        slice: Some(ByteRange::between(start, end)),
        ..Layout::default()
    };
    let found = read(&at("whole.raw"), ImageFormat::Raw, part(4096, 4096 + 1000)).expect("opens");
    assert_eq!(found.len(), 1024);
    assert_same(&found[..1000], &bytes[4096..5096]);
    assert_eq!(found[1000..], [0; 24]);
    // QEMU takes parts of whole sectors only.
    let mut image = fs::read(&top).expect("reads");
    image.resize(image.len().next_multiple_of(512), 0);
    fs::write(at("inside"), [vec![7; 8192], image.clone()].concat()).expect("writes");
    let end = 8192 + u64::try_from(image.len()).expect("fits");
    let found = read(&at("inside"), ImageFormat::Qcow2, part(8192, end)).expect("opens");
    assert_eq!(found[0], b'A');
    for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let beyond = read(&at("inside"), format, part(8192, end + 1));
        assert!(matches!(beyond, Err(DiskError::Format { .. })), "{beyond:?}");
    }
}

#[test]
fn encrypted_images_say_what_to_do() {
    let folder = folder();
    let image = folder.path().join("secret.qcow2");
    let words = "create -q -f qcow2 --object secret,id=s,data=secret \
        -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let words: Vec<&str> = words.split_whitespace().chain([text(&image), "1M"]).collect();
    // QEMU refuses now and then where processor time is counted in long steps (docs/understand/surprises.md).
    let made = (0..20).any(|_| Command::new("qemu-img").args(&words).status().unwrap().success());
    assert!(made, "qemu-img {words:?}");
    let refused = open(text(&image)).err().expect("refused");
    assert!(matches!(refused, DiskError::NeedsQemu { .. }), "{refused}");
}
