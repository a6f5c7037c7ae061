//! Whoever is killed, and whenever: the guest goes on unharmed, nothing is left behind, and the next
//! backup is right.

use std::fs;

use serde_json::Value;
use strongroom_base::{Clock as _, SystemClock};

use crate::{
    after::{
        answers, assert_clean, assert_clean_within, backup, failed, fails, guards, images, later,
        long, points, restored, says,
    },
    check::{Taken, assert_same_disk},
    guest::Guest,
    harness::{Host, Mounted, tool, try_tool, within},
    under_way::{Running, SLOW, kill_guards, slow_freeze, wait_frozen, wait_reading, web},
};

/// The next backup, of which both the label and the data are right.
pub(crate) fn next(host: &Host, guest: &Guest<'_>, from: &str) -> Value {
    guest.wait_records(2);
    let report = backup(host, &[]);
    assert_eq!(report["consistency"], "file_system", "{report:#}");
    for disk in report["disks"].as_array().unwrap() {
        assert_eq!(disk["changes_from"], from, "{report:#}");
        assert_eq!(disk["unexpected_blocks"], 0, "{report:#}");
    }
    restored(host, &report, Taken::Frozen);
    assert_clean(host, guest, report["checkpoint"].as_str());
    report
}

fn verify(host: &Host) {
    let run = host.strongroom(&["vault", "verify"]);
    assert_eq!(run.code, 0, "{run:?}");
}

#[test]
fn killed_while_it_reads() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let first = backup(&host, &[]);
    for with_guard in [false, true] {
        guest.wait_records(2);
        let before = points(&host);
        let run = Running::start(&host, &["--limit-rate", SLOW, "--full-compare-every", "1"]);
        wait_reading(&host);
        if with_guard {
            kill_guards(&host);
        }
        run.signal("KILL");
        run.end();
        if !with_guard {
            assert_clean_within(10, &host, &guest, first["checkpoint"].as_str());
        }
        assert_eq!(points(&host), before);
        if with_guard {
            break;
        }
    }
    let report = next(&host, &guest, "bitmap");
    assert!(says(&report["notes"], "what they left was cleaned up"), "{report:#}");
    verify(&host);
}

#[test]
fn killed_while_frozen() {
    let host = Host::new();
    let guest = web(&host, "");
    let first = backup(&host, &[]);
    for script in ["pre", "post"] {
        let text = format!("#!/bin/sh\necho {script} >>/run/log\nexec /usr/lib/lab/app-{script}\n");
        guest.put(&format!("/etc/azure/{script}.sh"), "700", &text);
    }
    let config =
        r#"{"preScriptLocation": "/etc/azure/pre.sh", "postScriptLocation": "/etc/azure/post.sh"}"#;
    guest.put("/etc/azure/VMSnapshotScriptPluginConfig.json", "600", config);
    // The freeze comes when the backup is dead: its guard, which saw it die, still thaws.
    slow_freeze(&guest, 3);
    let log = || guest.sh("cat /run/log; rm -f /run/log /run/hook.log; test ! -e /run/app.pause");
    for kill_guard in [false, true] {
        let run = Running::start(&host, &[]);
        within(2, || false);
        if kill_guard {
            kill_guards(&host);
        }
        run.signal_all("KILL");
        run.end();
        if kill_guard {
            wait_frozen(&guest);
            break;
        }
        assert_clean_within(20, &host, &guest, first["checkpoint"].as_str());
        assert_eq!(log(), "pre\npost");
        guest.wait_records(2);
    }
    let report = backup(&host, &["--require"]);
    assert_eq!(report["consistency"], "application", "{report:#}");
    assert!(says(&report["notes"], "what they left was cleaned up"), "{report:#}");
    assert_eq!(report["disks"][0]["changes_from"], "bitmap", "{report:#}");
    assert_eq!(log(), "pre\npost\npre\npost");
    let (one, other) = restored(&host, &report, Taken::Frozen).balances.unwrap();
    assert_eq!(one, other);
    assert_clean(&host, &guest, report["checkpoint"].as_str());
}

/// Only the guard is killed, while the agent freezes: then the backup itself has to thaw.
#[test]
fn the_guard_is_killed() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    backup(&host, &[]);
    slow_freeze(&guest, 3);
    let run = Running::start(&host, &[]);
    within(2, || false);
    kill_guards(&host);
    let run = run.end();
    failed(&run, "local.io");
    assert_eq!(guest.freeze_status(), "thawed");
    assert_eq!(points(&host).len(), 1);
    guest.wait_records(2);
    // A slow freeze is only slow: the next backup is as it should be.
    let report = backup(&host, &[]);
    assert_eq!(report["consistency"], "file_system", "{report:#}");
    restored(&host, &report, Taken::Frozen);
    assert_clean(&host, &guest, report["checkpoint"].as_str());
}

#[test]
fn killed_in_its_pre_script() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    guest.put(
        "/etc/azure/pre.sh",
        "700",
        "#!/bin/sh\necho pre >>/run/log; sleep 6; touch /run/paused\n",
    );
    guest.put("/etc/azure/post.sh", "700", "#!/bin/sh\nrm -f /run/paused; echo post >>/run/log\n");
    let config =
        r#"{"preScriptLocation": "/etc/azure/pre.sh", "postScriptLocation": "/etc/azure/post.sh"}"#;
    guest.put("/etc/azure/VMSnapshotScriptPluginConfig.json", "600", config);
    let run = Running::start(&host, &[]);
    assert!(within(20, || guest.try_sh("cat /run/log").1 == "pre\n"));
    run.signal("KILL");
    run.end();
    // Nothing that the pre script still does comes after the post script.
    assert!(within(20, || guest.sh("cat /run/log") == "pre\npost"));
    assert_clean_within(10, &host, &guest, None);
    within(7, || false);
    guest.sh("test ! -e /run/paused");
}

#[test]
fn killed_at_any_time() {
    if !long() {
        return;
    }
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let mut checkpoint = backup(&host, &[])["checkpoint"].clone();
    let mut left = 0;
    for step in 0..12_u64 {
        guest.wait_records(2);
        let before = points(&host);
        let run = Running::start(&host, &[]);
        SystemClock.sleep(std::time::Duration::from_millis(60 + step * 60));
        run.signal("KILL");
        run.end();
        assert!(within(20, || guards(&host).is_empty()));
        let found = guest.virsh("checkpoint-list", &["--name"]);
        if points(&host) == before {
            // The last thing that the guard hears is that there may be a point: who is killed after
            // that and before there is one leaves it to the next backup to find out.
            left += found.lines().count() - 1;
            assert!(left <= 2, "that moment is short: {found}");
            assert!(found.lines().any(|name| Some(name) == checkpoint.as_str()), "{found}");
            assert_clean(&host, &guest, Some(&found));
        } else {
            // Its point was published; the guard may or may not know.
            assert!(found.lines().count() <= 1, "{found}");
            assert_clean(&host, &guest, Some(&found));
        }
        let report = backup(&host, &[]);
        restored(&host, &report, Taken::Frozen);
        assert_eq!(report["disks"][0]["unexpected_blocks"], 0, "{report:#}");
        checkpoint = report["checkpoint"].clone();
        assert_clean(&host, &guest, checkpoint.as_str());
    }
    verify(&host);
}

#[test]
fn stopped_on_request() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let first = backup(&host, &[]);
    for signal in ["INT", "TERM"] {
        let before = points(&host);
        let run = Running::start(&host, &["--limit-rate", SLOW, "--full-compare-every", "1"]);
        wait_reading(&host);
        // As Ctrl-C does.
        run.signal_all(signal);
        let run = run.end();
        assert_eq!(run.code, 130, "{run:?}");
        assert_clean(&host, &guest, first["checkpoint"].as_str());
        assert_eq!(points(&host), before);
        if !long() {
            break;
        }
    }
    next(&host, &guest, "bitmap");
}

#[test]
fn the_agent_dies_while_frozen() {
    if !long() {
        return;
    }
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let first = backup(&host, &[]);
    // It is killed soon after the freeze, and comes back.
    let hook = "#!/bin/sh\n[ $1 = freeze ] && [ ! -e /run/once ] || exit 0\ntouch /run/once\nsetsid sh /run/respawn </dev/null >/dev/null 2>&1 &\n";
    guest.put("/etc/fsfreeze-hook.d/kill", "755", hook);
    // libvirt 9 does not see an agent that comes back while a backup's job runs, so it comes back
    // until somebody has thawed.
    let respawn = "#!/bin/sh\nsleep 0.12\nwhile kill -KILL $(cat /run/ga/pid); do\nsleep 4\nrm -f /run/ga/pid\n\
                   qemu-ga -d -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run/ga \
                   -l /run/ga/log -f /run/ga/pid -F/etc/fsfreeze-hook\nsleep 40\n\
                   [ -e /run/ga/qga.state.isfrozen ] || exit\ndone\n";
    guest.put("/run/respawn", "755", respawn);
    let run = Running::start(&host, &[]).end();
    let thawed = || answers(&host) && guest.freeze_status() == "thawed";
    assert!(within(150, thawed), "{run:?}");
    guest.wait_records(2);
    // Whether there is a point depends on when it was killed; its label is true.
    if run.code == 0 {
        let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
        let frozen = report["consistency"] == "file_system";
        restored(&host, &report, if frozen { Taken::Frozen } else { Taken::Running });
        assert_clean_within(10, &host, &guest, report["checkpoint"].as_str());
    } else {
        assert_clean_within(10, &host, &guest, first["checkpoint"].as_str());
    }
    next(&host, &guest, "bitmap");
}

#[test]
fn qemu_is_killed() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let first = backup(&host, &[]);
    let old = first["checkpoint"].as_str().unwrap();

    // During a backup: it begins again with the machine off.
    guest.wait_records(2);
    let run = Running::start(&host, &["--limit-rate", SLOW, "--full-compare-every", "1"]);
    wait_reading(&host);
    guest.kill_qemu();
    let report = run.report();
    assert_eq!(report["state"], "off", "{report:#}");
    assert_eq!(report["consistency"], "crash", "{report:#}");
    assert!(says(&report["notes"], "begun again"), "{report:#}");
    for (image, target) in images(&host, &report).iter().zip(["vda", "vdb"]) {
        assert_same_disk(image, guest.disk_path(target));
    }
    assert_eq!(report["disks"][0]["changes_from"], "all", "{report:#}");
    assert!(says(&report["disks"][0]["notes"], "bitmap"), "{report:#}");

    // On again: its bitmaps cannot be trusted, and go.
    guest.boot();
    guest.wait_records(2);
    let report = backup(&host, &[]);
    assert_eq!(report["disks"][0]["changes_from"], "all", "{report:#}");
    restored(&host, &report, Taken::Frozen);
    let new = report["checkpoint"].as_str().unwrap().to_owned();
    assert_clean(&host, &guest, Some(&new));
    next(&host, &guest, "bitmap");

    // Between two backups.
    guest.kill_qemu();
    guest.boot();
    guest.wait_records(2);
    let report = backup(&host, &[]);
    assert_eq!(report["disks"][0]["changes_from"], "all", "{report:#}");
    assert!(says(&report["disks"][0]["notes"], "inconsistent"), "{report:#}");
    restored(&host, &report, Taken::Frozen);
    let report = next(&host, &guest, "bitmap");
    let last = report["checkpoint"].as_str().unwrap();
    guest.shutdown();
    for target in ["vda", "vdb"] {
        let info =
            tool("qemu-img", &["info", "--output=json", guest.disk_path(target).to_str().unwrap()]);
        let info: Value = serde_json::from_str(&info).unwrap();
        let bitmaps = info.pointer("/format-specific/data/bitmaps").unwrap().as_array().unwrap();
        let names: Vec<_> = bitmaps.iter().map(|bitmap| bitmap["name"].as_str().unwrap()).collect();
        assert_eq!(names, [last], "{old} {new}");
    }
}

#[test]
fn libvirt_is_restarted() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let first = backup(&host, &[]);
    // While it reads: QEMU serves on, and nothing needs to be begun again.
    guest.wait_records(2);
    let run = Running::start(&host, &["--limit-rate", SLOW, "--full-compare-every", "1"]);
    wait_reading(&host);
    host.kill_libvirtd();
    within(1, || false);
    host.start_libvirtd();
    let report = run.report();
    assert_eq!(report["consistency"], "file_system", "{report:#}");
    assert_eq!(report["parent"], first["recovery_point"], "{report:#}");
    assert!(!says(&report["notes"], "begun again"), "{report:#}");
    restored(&host, &report, Taken::Frozen);
    assert_clean_within(10, &host, &guest, report["checkpoint"].as_str());

    // While it freezes: it is thawed, and the backup begins again.
    slow_freeze(&guest, 4);
    let run = Running::start(&host, &[]);
    within(2, || false);
    host.kill_libvirtd();
    within(4, || false);
    host.start_libvirtd();
    guest.wait_agent();
    let report = run.report();
    assert!(says(&report["notes"], "begun again"), "{report:#}");
    assert_eq!(report["consistency"], "file_system", "{report:#}");
    restored(&host, &report, Taken::Frozen);
    assert_clean_within(10, &host, &guest, report["checkpoint"].as_str());
    guest.sh("rm /etc/fsfreeze-hook.d/slow");
    next(&host, &guest, "bitmap");
}

#[test]
fn libvirt_is_gone() {
    if !long() {
        return;
    }
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let first = backup(&host, &[]);
    host.kill_libvirtd();
    fails(&host, &[], "host.unavailable");
    host.start_libvirtd();
    assert!(within(10, || guest.state() == "running"));
    // Backup and libvirt die together; the guard waits for libvirt.
    let run = Running::start(&host, &["--limit-rate", SLOW, "--full-compare-every", "1"]);
    wait_reading(&host);
    host.kill_libvirtd();
    run.signal("KILL");
    run.end();
    within(3, || false);
    host.start_libvirtd();
    assert_clean_within(20, &host, &guest, first["checkpoint"].as_str());
    next(&host, &guest, "bitmap");
}

#[test]
fn the_guest_restarts() {
    if !long() {
        return;
    }
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let slow = ["--limit-rate", SLOW, "--full-compare-every", "1"];
    backup(&host, &[]);

    // It restarts: the job goes on.
    let run = Running::start(&host, &slow);
    wait_reading(&host);
    let records = guest.last_records();
    host.try_virsh(&["reboot", "web", "--mode", "agent"]);
    let up = || guest.console().matches("workload started").count() == 2;
    assert!(within(60, up), "{}", guest.console());
    let report = run.report();
    let cut = restored(&host, &report, Taken::Frozen);
    assert!(cut.records.0 <= records.0, "{cut:?} {records:?}");
    // libvirt 9 does not see the agent come back while a backup runs.
    host.kill_libvirtd();
    host.start_libvirtd();
    guest.wait_agent();
    assert_clean_within(10, &host, &guest, report["checkpoint"].as_str());
}

#[test]
fn the_guest_stops_and_starts() {
    if !long() {
        return;
    }
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let slow = ["--limit-rate", SLOW, "--full-compare-every", "1"];
    backup(&host, &[]);

    // It is paused and goes on; nobody but its owner does that.
    guest.wait_records(2);
    let run = Running::start(&host, &slow);
    wait_reading(&host);
    guest.suspend();
    let report = run.report();
    assert_eq!(guest.state(), "paused");
    assert_eq!(report["consistency"], "file_system", "{report:#}");
    restored(&host, &report, Taken::Frozen);
    guest.resume();
    assert_clean(&host, &guest, report["checkpoint"].as_str());

    // It shuts down: the backup begins again.
    guest.wait_records(2);
    let run = Running::start(&host, &slow);
    wait_reading(&host);
    guest.shutdown();
    let report = run.report();
    assert_eq!(report["state"], "off", "{report:#}");
    assert!(says(&report["notes"], "begun again"), "{report:#}");
    for (image, target) in images(&host, &report).iter().zip(["vda", "vdb"]) {
        assert_same_disk(image, guest.disk_path(target));
    }

    // It is started while it is backed up off: it starts, and the backup begins again.
    let run = Running::start(&host, &slow);
    within(2, || false);
    guest.boot();
    let report = run.report();
    assert_eq!(report["state"], "running", "{report:#}");
    assert!(says(&report["notes"], "begun again"), "{report:#}");
    // Its agent was waited for.
    assert_eq!(report["consistency"], "file_system", "{report:#}");
    restored(&host, &report, Taken::Frozen);
    assert_clean(&host, &guest, report["checkpoint"].as_str());
    next(&host, &guest, "bitmap");
}

#[test]
fn one_at_a_time() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let run = Running::start(&host, &["--limit-rate", SLOW]);
    wait_reading(&host);
    fails(&host, &[], "vm.busy");
    let report = run.report();
    restored(&host, &report, Taken::Frozen);
    // Another program's job.
    guest.begin_pull(&["vda"]);
    fails(&host, &[], "vm.busy");
    assert_eq!(host.try_virsh(&["backup-dumpxml", "web"]).code, 0);
    guest.end_pull();
    next(&host, &guest, "bitmap");
}

#[test]
fn scratch_space_runs_out() {
    let host = Host::new();
    let guest = web(&host, "lab.noapp");
    let first = backup(&host, &[]);
    let before = points(&host);
    let overwrite = "for i in 1 2 3 4 5 6; do dd if=/dev/urandom of=/data/a/payload bs=64k count=32 conv=notrunc,fsync; done";
    guest.sh("cp /data/a/payload /run/payload");
    let run = Running::start(
        &host,
        &["--limit-rate", SLOW, "--full-compare-every", "1", "--scratch-limit", "1M"],
    );
    wait_reading(&host);
    later(&guest, overwrite);
    let words = failed(&run.end(), "vm.scratch");
    assert!(words.contains("are allowed"), "{words}");
    assert_eq!(guest.state(), "running");
    assert_clean(&host, &guest, first["checkpoint"].as_str());
    assert_eq!(points(&host), before);
    guest.sh("cp /run/payload /data/a/payload; sync");
    next(&host, &guest, "bitmap");
}

/// A file system of its own that is really full, which only root can mount.
#[test]
fn scratch_space_is_full() {
    if !long() {
        return;
    }
    let host = Host::new();
    let folder = host.lab.path("small");
    fs::create_dir(&folder).unwrap();
    let Some(_mounted) = Mounted::tmpfs(&folder, "4M") else { return };
    let folder = folder.to_str().unwrap();
    // Killed with it: QEMU stands still, and the guard has to see to it.
    let guest = web(&host, "lab.noapp");
    let first = backup(&host, &[]);
    guest.sh("cp /data/a/payload /run/payload");
    for kill in [false, true] {
        let run = Running::start(
            &host,
            &["--limit-rate", SLOW, "--full-compare-every", "1", "--scratch-dir", folder],
        );
        wait_reading(&host);
        later(
            &guest,
            "sleep 2; cp /run/payload /data/a/new; sync; cat /run/payload /run/payload >/data/a/payload; sync",
        );
        // All at once, so that it cannot be ended in time.
        if kill {
            run.signal("STOP");
        }
        try_tool("dd", &["if=/dev/zero", &format!("of={folder}/other"), "bs=64k"]);
        if kill {
            assert!(within(20, || guest.state() == "paused"));
            run.signal("KILL");
            run.end();
        } else {
            failed(&run.end(), "vm.scratch");
        }
        assert!(within(10, || guest.state() == "running"));
        fs::remove_file(format!("{folder}/other")).ok();
        assert_clean_within(10, &host, &guest, first["checkpoint"].as_str());
        guest.wait_records(2);
        guest.sh("cp /run/payload /data/a/payload; sync");
    }
    next(&host, &guest, "bitmap");
}
