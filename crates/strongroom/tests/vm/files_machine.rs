//! Files by the micro-VM: arrays, thin volumes and file systems that no reader of ours reads, and what is left
//! of the machine.
//!
//! The disks are made by the real tools in another machine, as this host's kernel may have neither arrays nor
//! volumes.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Child, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use strongroom_testing::noise;

use crate::{
    documented::assert_documented,
    harness::{tool, within},
    lab::{Lab, need},
};

const POINT: &str = "--item web --recovery-point latest";

fn text(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// A machine that runs a script with the tools of this host, as root, with some disks.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t devtmpfs d /dev; mount -t proc p /proc; mount -t sysfs s /sys; mount -t tmpfs t /run
while read module; do insmod /modules/$module; done < /order
while ! [ -e /dev/LAST ]; do sleep 0.1; done
sh -e /script && echo THE-SCRIPT-IS-DONE
sync
reboot -f
";

/// Runs a script in a machine with these disks: `/dev/vda`, and so on.
fn make(lab: &Lab, disks: &[&str], script: &str) {
    for (program, package) in [("mdadm", "mdadm"), ("cpio", "cpio"), ("lvm", "lvm2")] {
        need(program, package);
    }
    let root = lab.path("maker");
    for folder in ["bin", "sbin", "dev", "proc", "sys", "run", "mnt", "modules", "etc", "tmp"] {
        fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    let run = |script: &str| {
        let output = lab.shell(script).output().expect("bash");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    run("set -e; cp $(command -v busybox) maker/bin/
for tool in mdadm lvm mke2fs setfattr debugfs; do
  path=$(command -v $tool); cp -L $path maker/sbin/$tool
  for lib in $(ldd $path | grep -o '/[^ ]*'); do mkdir -p maker/$(dirname $lib); cp -L $lib maker/$lib; done
done
kernel=$(ls /boot/vmlinuz-*-cloud-amd64 | sort -V | tail -1); cp $kernel maker.kernel; release=${kernel#/boot/vmlinuz-}
for module in virtio_pci virtio_blk dm_thin_pool dm_snapshot raid1; do
  modprobe -S $release --show-depends $module | while read -r word file rest; do
    [ $word = insmod ] || continue
    [ -e maker/modules/$(basename $file) ] || basename $file >> maker/order; cp $file maker/modules/
  done
done");
    fs::write(root.join("script"), script).expect("written");
    let letter = char::from(b'a' + u8::try_from(disks.len() - 1).expect("few"));
    let init = INIT.replace("LAST", &format!("vd{letter}"));
    fs::write(root.join("init"), init).expect("written");
    run(
        "chmod +x maker/init; (cd maker; find . | cpio -o -H newc --quiet) > maker.cpio; rm -r maker",
    );
    let drives: Vec<String> = disks
        .iter()
        .map(|disk| format!("-drive file={disk},format=raw,if=virtio,cache=unsafe"))
        .collect();
    let said = run(&format!(
        "timeout 150 qemu-system-x86_64 -M q35 -accel tcg -cpu max -m 512 -nodefaults -no-reboot -display none \
         -serial stdio -kernel maker.kernel -initrd maker.cpio \
         -append 'console=ttyS0 quiet panic=-1 mitigations=off' {} 2>&1",
        drives.join(" ")
    ));
    assert!(said.contains("THE-SCRIPT-IS-DONE"), "{said}");
}

/// What a script begins with that uses `lvm` without udev.
const VOLUMES: &str = r#"
C='devices { use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source="none" }
activation { udev_sync=0 udev_rules=0 monitoring=0 } backup { backup=0 archive=0 }
global { event_activation=0 use_lvmpolld=0 thin_check_executable="" }'
lvm_() { command=$1; shift; /sbin/lvm $command --config "$C" "$@"; }
"#;

/// What is in each of the made file systems, below `/mnt`.
const FILES: &str = r#"
fill() {
  mkdir -p /mnt/etc/deep; echo web01 > /mnt/etc/hostname; head -c 3000000 /source > /mnt/etc/deep/data
  ln -s deep/data /mnt/etc/link; ln /mnt/etc/hostname /mnt/etc/same
  /sbin/setfattr -n user.note -v "a note" /mnt/etc/hostname
  chown 1234:5678 /mnt/etc/hostname; chmod 4751 /mnt/etc/hostname
  mknod /mnt/etc/null c 1 3; mkfifo /mnt/etc/pipe
  truncate -s 40M /mnt/etc/sparse; echo end >> /mnt/etc/sparse
  touch -h -d @1580702706 /mnt/etc/link; touch -d @1580702706 /mnt/etc/hostname
}
"#;

/// Compares what is listed and copied with what [`FILES`] has made.
fn assert_filled(lab: &Lab, place: &str, source: &[u8]) {
    let listing = lab.json(&format!("restore files ls {POINT} {place} --path /etc --xattrs"));
    assert_documented("restore files ls --path", &listing);
    let note = listing["notes"][0].as_str().expect("a note");
    assert!(note.starts_with("read in a micro-VM by the driver ext4 of Linux "), "{note}");
    let entries = listing["entries"].as_array().expect("entries");
    let names: Vec<_> = entries.iter().map(|it| it["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["deep", "hostname", "link", "null", "pipe", "same", "sparse"]);
    let hostname = &entries[1];
    assert_eq!((&hostname["uid"], &hostname["gid"]), (&1234.into(), &5678.into()));
    assert_eq!((&hostname["mode"], &hostname["links"]), (&"4751".into(), &2.into()));
    assert_eq!(hostname["modified"], "2020-02-03T04:05:06Z");
    let note = &hostname["xattrs"][0];
    assert_eq!((&note["name"], &note["value_hex"]), (&"user.note".into(), &"61206e6f7465".into()));
    assert_eq!(
        (&entries[2]["target"], &entries[2]["modified"]),
        (&"deep/data".into(), &"2020-02-03T04:05:06Z".into())
    );
    assert_eq!(
        (&entries[3]["kind"], &entries[3]["device"]),
        (&"character_device".into(), &"1:3".into())
    );
    assert_eq!(entries[4]["kind"], "pipe");

    let to = format!("out{}", place.len());
    lab.json(&format!("restore files cp {POINT} {place} --path /etc --to {to} --trusted"));
    let out = lab.path(&to).join("etc");
    assert!(fs::read(out.join("deep/data")).expect("copied") == source[..3_000_000]);
    assert_eq!(fs::read_to_string(out.join("hostname")).expect("copied"), "web01\n");
    let meta = |name: &str| fs::metadata(out.join(name)).expect(name);
    assert_eq!(meta("hostname").ino(), meta("same").ino());
    assert_eq!(
        (meta("hostname").mode() & 0o7777, meta("hostname").mtime()),
        (0o4751, 1_580_702_706)
    );
    assert_eq!(meta("sparse").len(), (40 << 20) + 4);
    assert!(meta("sparse").blocks() < 100, "{}", meta("sparse").blocks());
    let sparse = fs::read(out.join("sparse")).expect("copied");
    assert!(sparse.ends_with(b"end\n") && sparse[..40 << 20].iter().all(|byte| *byte == 0));
    let found = lab.json(&format!("restore files find {POINT} {place} --name data"));
    assert_eq!(found["found"][0]["path"], "/etc/deep/data", "{found}");
}

fn blank(lab: &Lab, name: &str, mib: u64) {
    File::create(lab.path(name)).expect("a disk").set_len(mib << 20).expect("a size");
}

/// A mirrored array and a thin volume, which the process lists and refuses.
#[test]
fn arrays_and_thin_volumes_are_read() {
    let lab = Lab::new();
    for name in ["a.img", "b.img", "c.img"] {
        blank(&lab, name, 96);
    }
    let source = noise(5, 3_000_000);
    fs::create_dir_all(lab.path("maker")).expect("a folder");
    fs::write(lab.path("maker/source"), &source).expect("written");
    let script = format!(
        "{VOLUMES}{FILES}
mdadm --create /dev/md0 --run --metadata=1.2 --name=data --homehost=lab --level=1 --raid-devices=2 --assume-clean \
  /dev/vda /dev/vdb
/sbin/mke2fs -q -t ext4 -L mirrored /dev/md0; mount -t ext4 /dev/md0 /mnt; fill; umount /mnt; mdadm --stop /dev/md0
lvm_ pvcreate /dev/vdc; lvm_ vgcreate vg-a /dev/vdc
lvm_ lvcreate -y --type thin-pool -L 64M -n pool vg-a; lvm_ lvcreate -y --thin -V 300M -n root vg-a/pool
/sbin/mke2fs -q -t ext4 -L thin /dev/mapper/vg--a-root; mount -t ext4 /dev/mapper/vg--a-root /mnt; fill; umount /mnt
lvm_ lvcreate -y -s -n before vg-a/root
lvm_ vgchange -an vg-a
"
    );
    make(&lab, &["a.img", "b.img", "c.img"], &script);
    lab.ok("backup --item web --disk a=a.img --disk b=b.img --disk c=c.img");

    let volumes = lab.json(&format!("restore files ls {POINT} --reader machine"));
    assert_documented("restore files ls", &volumes);
    let all = volumes["volumes"].as_array().expect("volumes");
    let of = |name: &str| all.iter().find(|it| it["volume"] == name).expect(name);
    assert_eq!(
        (&of("md/data")["label"], &of("md/data")["readable"]),
        (&"mirrored".into(), &true.into())
    );
    assert_eq!(
        (&of("vg-a/root")["label"], &of("vg-a/root")["readable"]),
        (&"thin".into(), &true.into())
    );
    assert_eq!(of("vg-a/pool")["readable"], false);
    let members = all.iter().filter(|it| it["file_system"] == "linux_raid_member");
    for member in members {
        let reason = member["reason"].as_str().expect("a reason");
        assert!(reason.contains("volume md/data"), "{reason}");
    }

    // The process alone refuses; without a choice the machine is tried.
    let ls = format!("restore files ls {POINT} --volume vg-a/root --path /etc");
    let error = lab.fails(&format!("{ls} --reader process"), 2, "files.unsupported");
    assert!(error["message"].as_str().expect("words").contains("thin"), "{error}");
    assert_filled(&lab, "--volume vg-a/root", &source);
    assert_filled(&lab, "--volume md/data", &source);

    // One half of the mirror has all files.
    let half = lab.json(&format!("restore files ls {POINT} --disk b --volume md/data --path /etc"));
    assert_eq!(half["entries"].as_array().expect("entries").len(), 7);
}

/// What the process refuses: a journal with fast commits that has to be replayed, XFS of version 4, folders
/// without capitals in ext4, squashfs.
#[test]
fn file_systems_that_the_process_refuses_are_read() {
    need("mksquashfs", "squashfs-tools");
    let lab = Lab::new();
    blank(&lab, "dirty.img", 64);
    let source = noise(5, 3_000_000);
    fs::create_dir_all(lab.path("maker")).expect("a folder");
    fs::write(lab.path("maker/source"), &source).expect("written");
    // It is not unmounted.
    let script = format!(
        "{FILES}
/sbin/mke2fs -q -t ext4 -O fast_commit /dev/vda; mount -t ext4 /dev/vda /mnt; fill; sync"
    );
    make(&lab, &["dirty.img"], &script);

    let folder = lab.path("folder");
    fs::create_dir_all(folder.join("etc")).expect("a folder");
    fs::write(folder.join("etc/data"), &source).expect("written");
    std::os::unix::fs::symlink("data", folder.join("etc/link")).expect("a link");
    rustix::fs::setxattr(
        folder.join("etc/data"),
        "user.note",
        b"x",
        rustix::fs::XattrFlags::empty(),
    )
    .expect("set");
    let path = |name: &str| text(&lab.path(name)).to_owned();
    tool(
        "mksquashfs",
        &[&path("folder"), &path("squash.img"), "-quiet", "-no-progress", "-comp", "zstd"],
    );
    blank(&lab, "mixed.img", 64);
    tool("mkfs.btrfs", &["-q", "--mixed", "--rootdir", &path("folder"), &path("mixed.img")]);
    blank(&lab, "old.img", 320);
    let list = format!(
        "/\n0 0\nd--755 0 0\netc d--755 0 0\ndata ---644 7 8 {}\nlink l--777 0 0 data\n$\n$\n",
        path("folder/etc/data")
    );
    fs::write(lab.path("list"), list).expect("written");
    tool("mkfs.xfs", &["-q", "-m", "crc=0", "-p", &path("list"), &path("old.img")]);
    let disks = ["dirty", "squash", "mixed", "old"];
    let words = disks.map(|disk| format!("--disk {disk}={disk}.img"));
    lab.ok(&format!("backup --item web {}", words.join(" ")));

    for disk in disks {
        let ls = format!("restore files ls {POINT} --disk {disk} --path /etc --reader process");
        lab.fails(&ls, 2, "files.unsupported");
    }
    assert_filled(&lab, "--disk dirty", &source);
    for (disk, driver) in [("squash", "squashfs"), ("mixed", "btrfs"), ("old", "xfs")] {
        let place = format!("{POINT} --disk {disk} --path /etc");
        let listing = lab.json(&format!("restore files ls {place} --xattrs"));
        let note = listing["notes"][0].as_str().expect("a note");
        assert!(
            note.starts_with(&format!("read in a micro-VM by the driver {driver} of")),
            "{note}"
        );
        assert_eq!(listing["entries"][1]["target"], "data", "{listing}");
        let data = &listing["entries"][0];
        let owner = if disk == "old" { 7 } else { 0 };
        assert_eq!((&data["size"], &data["uid"]), (&3_000_000.into(), &owner.into()), "{disk}");
        if disk != "old" {
            assert_eq!(data["xattrs"][0]["name"], "user.note", "{disk}");
        }
        lab.json(&format!("restore files cp {place} --to {disk}"));
        assert!(fs::read(lab.path(disk).join("etc/data")).expect("copied") == source, "{disk}");
    }
    // What no driver reads either.
    let list = lab.json(&format!("restore files ls {POINT} --reader machine"));
    let all = list["volumes"].as_array().expect("volumes");
    assert!(all.len() == 4 && all.iter().all(|it| it["readable"] == true), "{list}");
}

/// A command that reads by a machine and cannot continue, as nobody takes what it writes.
fn stuck(lab: &Lab) -> (Child, u32) {
    let words = format!("restore files tar {POINT} --reader machine --path /");
    let mut child = lab.command(&words).stdout(Stdio::piped()).spawn().expect("started");
    let mut some = [0; 512];
    child.stdout.as_mut().expect("piped").read_exact(&mut some).expect("it has begun");
    let parent = format!("PPid:\t{}", child.id());
    let is_its = |pid: &u32| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        status.lines().any(|line| line == parent)
            && read("cmdline").starts_with(b"/usr/bin/qemu-system")
    };
    let all = fs::read_dir("/proc").expect("processes").flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    (child, pids.find(is_its).expect("a machine"))
}

/// What a process has open.
fn open_files(process: &str) -> Vec<String> {
    let all = fs::read_dir(format!("/proc/{process}/fd")).expect("files").flatten();
    let to = all.filter_map(|entry| fs::read_link(entry.path()).ok());
    to.map(|to| to.to_string_lossy().into_owned()).collect()
}

/// Nothing is left of a machine, whatever ends the command; and it has no rights while it is there.
#[test]
fn a_machine_ends_with_its_command_and_has_nothing() {
    let lab = Lab::new();
    let folder = lab.path("folder");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("data"), noise(5, 3_000_000)).expect("written");
    blank(&lab, "disk.img", 64);
    let words = ["-q", "-F", "-t", "ext4", "-d", text(&folder)];
    tool("mkfs.ext4", &[&words[..], &[text(&lab.path("disk.img"))]].concat());
    lab.ok("backup --item web --disk system=disk.img");
    fs::create_dir(lab.path("temporary")).expect("a folder");
    let mut lab = lab;
    let temporary = text(&lab.path("temporary")).to_owned();
    lab.set("TMPDIR", &temporary);

    for signal in [Signal::KILL, Signal::INT] {
        let (mut child, machine) = stuck(&lab);
        let read = |file: &str| fs::read_to_string(format!("/proc/{machine}/{file}")).expect(file);
        let status = read("status");
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "Uid:\t65534\t65534\t65534\t65534"] {
            assert!(status.contains(line), "{line}: {status}");
        }
        let limits = read("limits");
        let limit = limits.lines().find(|line| line.starts_with("Max address space")).expect("one");
        assert!(limit.contains(&(3_u64 << 30).to_string()), "{limit}");
        assert!(
            limits.lines().any(|it| it.starts_with("Max file size             0 ")),
            "{limits}"
        );
        assert_eq!(read("environ"), "");
        // What runs the tests may leave something open in everything that it starts.
        let inherited = open_files(&std::process::id().to_string());
        for to in open_files(&machine.to_string()) {
            let kinds = ["socket:", "anon_inode:", "/memfd:", "pipe:", "/dev/null"];
            let is_known = kinds.iter().any(|kind| to.starts_with(kind));
            assert!(is_known || inherited.contains(&to), "{to}");
        }
        // Nothing is in the folder, though the machine may write.
        assert_eq!(fs::read_dir(&temporary).expect("a folder").count(), 0);
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("small")).expect("not 0");
        kill_process(pid, signal).expect("sent");
        if signal == Signal::INT {
            // It stands in a write, which ends when nobody reads any more.
            drop(child.stdout.take());
        }
        let status = child.wait().expect("ended");
        assert!(!status.success(), "{status}");
        let is_gone = || !Path::new(&format!("/proc/{machine}")).exists();
        assert!(within(10, is_gone), "{machine} is still there");
        assert_eq!(fs::read_dir(&temporary).expect("a folder").count(), 0);
    }
}

/// What is missing on this host is said.
#[test]
fn a_machine_that_cannot_be_started_says_why() {
    let lab = Lab::new();
    blank(&lab, "disk.img", 64);
    tool("mkfs.ext4", &["-q", "-F", text(&lab.path("disk.img"))]);
    lab.ok("backup --item web --disk system=disk.img");
    let ls = format!("restore files ls {POINT} --reader machine --path /");
    let error = lab.fails(&format!("{ls} --machine-kernel nowhere"), 5, "files.machine");
    assert!(error["message"].as_str().expect("words").contains("nowhere"), "{error}");
    lab.fails(&format!("{ls} --machine-kernel disk.img"), 5, "files.machine");
    // Its kernel is none that runs, though its name is that of one with modules.
    let kernels = fs::read_dir("/boot").expect("kernels").flatten();
    let names = kernels.filter_map(|it| it.file_name().into_string().ok());
    let name = names.into_iter().find(|it| it.starts_with("vmlinuz-")).expect("a kernel");
    fs::write(lab.path(&name), noise(1, 100_000)).expect("written");
    let error = lab.fails(&format!("{ls} --machine-kernel {name}"), 5, "files.machine");
    assert!(error["message"].as_str().expect("words").contains("it ended"), "{error}");
    // A secret is none of its business.
    fs::write(lab.path("secret"), "x").expect("written");
    lab.fails(&format!("{ls} --luks-key-file secret"), 2, "usage.invalid");
    // By itself each of its processes ends.
    assert_eq!(lab.run("file-machine").code, 1);
    assert_eq!(lab.run("file-guest").code, 1);
}
