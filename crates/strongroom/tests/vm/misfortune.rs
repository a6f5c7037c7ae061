//! What goes wrong on a host in ways that only machines know: each has its code, says where things
//! stand, and leaves what can be gone on with.

use std::fs;

use serde_json::{Value, json};

use crate::{
    after::{self, assert_clean, assert_clean_within, failed},
    check::Taken,
    guest::{Disk, Guest},
    harness::{Host, within},
    restore::{files, folder, image, words},
    under_way::{Running, web},
};

/// Restores; it must fail with this code. Gives its words.
fn fails(host: &Host, more: &[&str], code: &str) -> String {
    failed(&host.strongroom(&[&words(more)[..], &["--output", "json"]].concat()), code)
}

fn assert_no_point(host: &Host) {
    let words = ["recoverypoint", "list", "--item", "web", "--output", "json"];
    failed(&host.strongroom(&words), "item.not_found");
}

#[test]
fn disks_alone_are_no_machine() {
    let host = Host::new();
    host.lab.disk("d.img", 1, 1, 1);
    host.lab.ok("backup --item web --disk root=d.img");
    let to = folder(&host, "copies");
    let words = fails(&host, &["--storage-dir", &to], "point.no_machine");
    assert!(words.contains("restore disks"), "{words}");
    assert!(files(&to).is_empty());
}

#[test]
fn libvirt_does_not_take_the_description() {
    let host = Host::new();
    Guest::web(&host, [Disk::qcow2(32)]);
    host.json(&["backup", "--vm", "web"]);
    let to = folder(&host, "copies");
    // Where libvirt would keep it there is something else.
    let other = host.lab.path("c/libvirt/qemu/copy.xml");
    fs::create_dir_all(other.join("x")).unwrap();
    let more = ["--name", "copy", "--storage-dir", &to];
    let said = fails(&host, &more, "restore.not_defined");
    assert!(said.contains("copy.xml"), "{said}");
    // Nothing that was restored is lost, and the same command goes on.
    assert!(files(&to).iter().any(|name| name == "copy-vda.qcow2"), "{:?}", files(&to));
    fs::remove_dir_all(&other).unwrap();
    let restored = host.json(&words(&more));
    // The description stays, as it may have been changed by hand.
    assert_eq!(files(&to), ["copy-vda.qcow2", "copy.xml"]);
    Guest::known(&host, "copy", &[&image(&restored, 0)]).boot();
}

#[test]
fn qemu_does_not_start_what_was_restored() {
    let host = Host::new();
    // It wants to call somebody, who is not there.
    let line = "<serial type='tcp'><source mode='connect' host='127.0.0.1' service='1'/></serial>";
    Guest::named("web").disk(Disk::qcow2(32)).xml(line).create(&host);
    host.json(&["backup", "--vm", "web"]);
    let to = folder(&host, "copies");
    let words = ["restore", "vm", "--item", "web", "--recovery-point", "latest", "--name", "copy"];
    let more = ["--storage-dir", &to, "--start", "--output", "json"];
    let run = host.strongroom(&[&words[..], &more].concat());
    failed(&run, "restore.not_started");
    // What there is now is said all the same.
    let report: Value = serde_json::from_str(&run.stdout).expect("a report");
    assert_eq!((&report["machine"], &report["state"]), (&"copy".into(), &"off".into()));
    assert!(image(&report, 0).ends_with("copy-vda.qcow2"), "{report:#}");
    // It is restored all the same.
    assert!(host.virsh(&["list", "--all", "--name"]).contains("copy"));
    assert_eq!(files(&to), ["copy-vda.qcow2"]);
}

#[test]
fn qemu_fails_at_something_of_its_own() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(32)]).up(1);
    // Somebody exports disks of the machine behind libvirt's back.
    let socket = host.lab.path("others.sock");
    let start = json!({
        "execute": "nbd-server-start",
        "arguments": { "addr": { "type": "unix", "data": { "path": socket } } },
    });
    guest.virsh("qemu-monitor-command", &[&start.to_string()]);
    let words = after::fails(&host, &[], "vm.operation");
    assert!(words.contains("NBD server"), "{words}");
    assert_no_point(&host);
    assert_clean(&host, &guest, None);
    guest.virsh("qemu-monitor-command", &[r#"{"execute": "nbd-server-stop"}"#]);
    after::restored(&host, &after::backup(&host, &[]), Taken::Frozen);
}

#[test]
fn a_machine_vanishes_while_it_is_backed_up() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::raw(48)]);
    let run = Running::start(&host, &["--limit-rate", "1M"]);
    assert!(within(30, || run.reads(guest.disk_path("vda"))), "it begins to read");
    guest.virsh("undefine", &[]);
    let words = failed(&run.end(), "vm.changed");
    assert!(words.contains("it is gone from this host"), "{words}");
    assert_no_point(&host);
}

#[test]
fn a_guest_that_cannot_be_thawed_is_told_and_thawed_later() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let agent = guest.sh("cat /run/ga/pid");
    // As soon as it has frozen it hangs, for longer than a backup waits.
    let hook = "#!/bin/sh\n[ $1 = freeze ] && [ ! -e /run/once ] || exit 0\ntouch /run/once\n\
                setsid sh /run/hang </dev/null >/dev/null 2>&1 &\n";
    let hang = format!(
        "#!/bin/sh\nwhile [ ! -e /run/ga/qga.state.isfrozen ]; do sleep 0.01; done\n\
         kill -STOP {agent}\nsleep 100\nkill -CONT {agent}\n"
    );
    guest.put("/etc/fsfreeze-hook.d/hang", "755", hook);
    guest.put("/run/hang", "755", &hang);
    let run = Running::start(&host, &[]).end();
    let words = failed(&run, "vm.not_thawed");
    assert!(words.contains("web"), "{words}");
    assert_no_point(&host);
    // Its guard goes on until it has thawed it.
    assert_clean_within(150, &host, &guest, None);
    guest.wait_records(2);
}
