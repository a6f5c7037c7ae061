//! What an agent promises of disks by path, on real disks and a vault in a folder.

use std::{fs, path::Path, process::Command};

use strongroom_api::{
    ConsistencyProved, DiskFormat, DiskSelection, Restore, RestoreDisks, RestoreMachine,
    RestoreReplace, Source, Verdict,
};
use strongroom_base::{JobId, SystemClock, SystemEntropy};
use strongroom_orders::{
    Agent as _, BackupDone, BackupOrder, CheckOrder, Keeper as _, RestoreOrder, Tier,
    TransferOrder, VaultAccess, VaultMake, Watch,
};

use crate::common::{Heard, Lab, files, json, once};

fn restore_order(lab: &Lab, done: &BackupDone, restore: Restore) -> RestoreOrder {
    RestoreOrder {
        job: JobId::generate(&SystemClock, &SystemEntropy),
        vault: lab.access(),
        item: done.point.item.clone(),
        point: done.point.id,
        source: Source::Disks { disks: [].into() },
        restore,
        limit_rate: None,
    }
}

fn to_folder(lab: &Lab, folder: &str, format: DiskFormat) -> Restore {
    Restore::Disks(RestoreDisks {
        host: None,
        folder: Some(lab.text(folder)),
        disks: Vec::new(),
        format: Some(format),
        ..RestoreDisks::default()
    })
}

fn same(one: &Path, other: &Path) {
    assert!(fs::read(one).expect("read") == fs::read(other).expect("read"), "{}", one.display());
}

#[test]
fn a_host_without_libvirt() {
    let lab = Lab::new();
    let hello = lab.agent.hello().expect("hello");
    assert_eq!((hello.host.as_str(), hello.libvirt, hello.qemu), ("here", None, None));
    assert!(lab.agent.discover(&Watch::silent()).expect("none").is_empty());
    let machine = Source::Machine { uuid: "x".to_owned(), name: "web".to_owned() };
    let check = CheckOrder { order: once(), source: machine.clone() };
    assert_eq!(lab.agent.check(&check).expect_err("no libvirt").code.as_str(), "host.lacks");
    lab.vault();
    let mut order = lab.order(&[]);
    order.source = machine;
    assert_eq!(
        lab.agent.backup(&order, &Watch::silent()).expect_err("none").code.as_str(),
        "host.lacks"
    );
}

#[test]
fn backed_up_again_and_again_and_restored() {
    let lab = Lab::new();
    lab.vault();
    let (a, b) = (lab.disk("a.img", 20, 1), lab.disk("b.img", 5, 2));
    let heard = Heard::default();
    let mut order = lab.order(&[("a", &a), ("b", &b)]);
    let done = lab.agent.backup(&order, &heard.watch()).expect("a point");
    let events = [
        "snapshot in_progress",
        "snapshot completed",
        "transfer in_progress",
        "transfer completed",
    ];
    assert_eq!(heard.take(), events);
    assert!(done.warnings.is_empty(), "{:?}", done.warnings);
    let point = &done.point;
    assert_eq!((point.item.as_str(), point.consistency), ("web", ConsistencyProved::Crash));
    assert_eq!(point.tags["job"], order.job.to_string());
    assert_eq!(point.tags["policy"], "daily");
    assert_eq!((point.disks.len(), point.disks[0].size_bytes), (2, 20 * 65536));
    assert!(
        point.stored_bytes > 25 * 60000 && json(&done.report)["stored_bytes"].as_u64() > Some(0)
    );

    // The same order again: the point is there.
    let again = lab.agent.backup(&order, &heard.watch()).expect("the same");
    assert_eq!(heard.take().len(), 3);
    assert_eq!(again.point, done.point);
    assert_eq!(json(&again.report)["made_before"], true);
    assert_eq!(json(&again.report)["disks"].as_array().map(Vec::len), Some(2));
    assert_eq!(lab.keeper.points(&lab.access(), None).expect("listed").0.len(), 1);

    // Another job: only what differs is added.
    lab.disk("a.img", 21, 1);
    order.job = JobId::generate(&SystemClock, &SystemEntropy);
    let second = lab.agent.backup(&order, &heard.watch()).expect("a point");
    let added = second.point.stored_bytes;
    assert!(added < 2 * 65536 + 5000, "{added}");
    assert!(heard.details().iter().any(|detail| detail.contains("2 disks as they are")));

    for (format, folder) in [(DiskFormat::Raw, "raw"), (DiskFormat::Qcow2, "qcow2")] {
        let order = restore_order(&lab, &second, to_folder(&lab, folder, format));
        let restored = lab.agent.restore(&order, &heard.watch()).expect("restored");
        assert_eq!(
            heard.take(),
            [
                "prepare in_progress",
                "prepare completed",
                "restore in_progress",
                "restore completed"
            ]
        );
        assert_eq!(json(&restored.report)["disks"].as_array().map(Vec::len), Some(2));
        // Given again: nothing is left to do.
        let again = lab.agent.restore(&order, &heard.watch()).expect("is done");
        assert_eq!(
            json(&again.report)["disks"][0]["written_bytes"],
            0,
            "{:#}",
            json(&again.report)
        );
        heard.take();
        assert_eq!(files(&lab.path(folder)).len(), 2);
    }
    same(&lab.path("raw/a.raw"), &a);
    same(&lab.path("raw/b.raw"), &b);
    let raw = lab.path("converted");
    let converted = Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .args([&lab.path("qcow2/a.qcow2"), &raw])
        .status();
    assert!(converted.expect("qemu-img").success());
    same(&raw, &a);
}

#[test]
fn an_interrupted_restore_goes_on() {
    let lab = Lab::new();
    lab.vault();
    let a = lab.disk("a.img", 40, 1);
    let done = lab.agent.backup(&lab.order(&[("a", &a)]), &Watch::silent()).expect("a point");
    let order = restore_order(&lab, &done, to_folder(&lab, "to", DiskFormat::Raw));
    // What a killed one has left.
    fs::create_dir(lab.path("to")).expect("a folder");
    let mut half = fs::read(&a).expect("read");
    half[20 * 65536..].fill(0);
    half[5] ^= 1;
    fs::write(lab.path("to/a.raw.partial"), half).expect("written");
    let restored = lab.agent.restore(&order, &Watch::silent()).expect("restored");
    assert_eq!(
        json(&restored.report)["disks"][0]["written_blocks"],
        21,
        "{:#}",
        json(&restored.report)
    );
    same(&lab.path("to/a.raw"), &a);
    // What is there and is something else is not touched.
    fs::write(lab.path("to/a.raw"), vec![7; 40 * 65536]).expect("written");
    let refused = lab.agent.restore(&order, &Watch::silent()).expect_err("it is another");
    assert_eq!(refused.code.as_str(), "disk.not_empty");
    let watch = Watch::silent();
    watch.cancel.cancel();
    let order = restore_order(&lab, &done, to_folder(&lab, "other", DiskFormat::Raw));
    assert_eq!(
        lab.agent.restore(&order, &watch).expect_err("stopped").code.as_str(),
        "interrupted"
    );
}

#[test]
fn a_disk_is_made_again_what_it_was_where_it_is() {
    let lab = Lab::new();
    lab.vault();
    let a = lab.disk("a.img", 40, 1);
    let done = lab.agent.backup(&lab.order(&[("a", &a)]), &Watch::silent()).expect("a point");
    let before = fs::read(&a).expect("read");
    let mut changed = before.clone();
    changed[7 * 65536] ^= 1;
    fs::write(&a, &changed).expect("written");
    let restore = |in_place| {
        let restore = RestoreDisks {
            targets: [("a".to_owned(), a.display().to_string())].into(),
            in_place,
            ..RestoreDisks::default()
        };
        let order = restore_order(&lab, &done, Restore::Disks(restore));
        lab.agent.restore(&order, &Watch::silent())
    };
    assert_eq!(restore(false).expect_err("something is there").code.as_str(), "disk.not_empty");
    assert!(fs::read(&a).expect("read") == changed);
    let restored = restore(true).expect("restored");
    assert_eq!(
        json(&restored.report)["disks"][0]["written_blocks"],
        1,
        "{:#}",
        json(&restored.report)
    );
    assert!(json(&restored.report)["template"].is_null(), "{:#}", json(&restored.report));
    assert!(fs::read(&a).expect("read") == before);
}

#[test]
fn what_goes_wrong_has_its_code() {
    let lab = Lab::new();
    lab.vault();
    let a = lab.disk("a.img", 4, 1);
    let gone = lab.path("gone.img");
    let mut order = lab.order(&[("a", &a), ("b", &gone)]);
    let missing = lab.agent.backup(&order, &Watch::silent()).expect_err("b is gone");
    assert_eq!(missing.code.as_str(), "source.missing");
    assert!(missing.causes[0].contains("gone.img"), "{missing:?}");
    // But not if b is not wanted.
    order.disks = DiskSelection::Exclude { disks: vec!["b".to_owned()] };
    let done = lab.agent.backup(&order, &Watch::silent()).expect("a point");
    assert_eq!(done.point.notes, ["disk b is left out: not chosen"]);
    order.job = JobId::generate(&SystemClock, &SystemEntropy);
    order.disks = DiskSelection::Include { disks: vec!["c".to_owned()] };
    let code = |order: &BackupOrder| {
        lab.agent.backup(order, &Watch::silent()).expect_err("refused").code.as_str().to_owned()
    };
    assert_eq!(code(&order), "vm.disk_not_found");
    order.disks = DiskSelection::Include { disks: vec!["a".to_owned()] };
    order.consistency_required = true;
    assert_eq!(code(&order), "vm.consistency");
    order.consistency_required = false;
    order.vault.url = lab.text("no-vault");
    assert_eq!(code(&order), "vault.not_found");
    // A server that does not answer is not a disk that is gone.
    let server = "nbd://127.0.0.1:1/x";
    order.vault = lab.access();
    order.source = Source::Disks { disks: [("a".to_owned(), server.to_owned())].into() };
    order.disks = DiskSelection::All;
    assert_eq!(code(&order), "disk.nbd");
    // Cancelled.
    let watch = Watch::silent();
    watch.cancel.cancel();
    let stopped = lab.agent.backup(&lab.order(&[("a", &a)]), &watch).expect_err("stopped");
    assert_eq!(stopped.code.as_str(), "interrupted");
    assert_eq!(lab.keeper.points(&lab.access(), None).expect("listed").0.len(), 1);

    let disks = [("a".to_owned(), a.display().to_string()), ("b".to_owned(), lab.text("gone.img"))];
    let source = Source::Disks { disks: disks.into() };
    let check = lab.agent.check(&CheckOrder { order: once(), source }).expect("checked");
    assert_eq!(check.verdict, Verdict::Red);
    assert_eq!((check.findings[0].level.name(), check.findings.len()), ("red", 2));

    // Restores that make no sense.
    let machine = Restore::Machine(RestoreMachine::default());
    let order = restore_order(&lab, &done, machine);
    assert_eq!(
        lab.agent.restore(&order, &Watch::silent()).expect_err("no libvirt").code.as_str(),
        "host.lacks"
    );
    let order = restore_order(&lab, &done, Restore::Replace(RestoreReplace::default()));
    assert_eq!(
        lab.agent.restore(&order, &Watch::silent()).expect_err("no libvirt").code.as_str(),
        "host.lacks"
    );
    let mut order = restore_order(&lab, &done, to_folder(&lab, "to", DiskFormat::Raw));
    if let Restore::Disks(disks) = &mut order.restore {
        disks.disks = vec!["z".to_owned()];
    }
    let code =
        lab.agent.restore(&order, &Watch::silent()).expect_err("no z").code.as_str().to_owned();
    assert_eq!(code, "point.disk_not_found");
}

#[test]
fn a_point_near_its_source_is_transferred_once() {
    let lab = Lab::new();
    lab.vault();
    let near = VaultAccess { url: lab.text("near"), key: lab.key("near.key") };
    let make = VaultMake { url: near.url.clone(), key: near.key.clone(), ..lab.make(&[]) };
    lab.keeper.make(&make).expect("a vault near the source");
    let a = lab.disk("a.img", 20, 1);
    let heard = Heard::default();
    let snapshot = |order: BackupOrder| BackupOrder {
        vault: near.clone(),
        tier: Tier::Snapshot,
        item: "01ITEM".to_owned(),
        ..order
    };
    let order = snapshot(lab.order(&[("a", &a)]));
    let first = lab.agent.backup(&order, &heard.watch()).expect("a point");
    assert_eq!(
        heard.take(),
        ["snapshot in_progress", "snapshot in_progress", "snapshot completed"]
    );
    assert_eq!(lab.agent.backup(&order, &heard.watch()).expect("the same").point, first.point);
    assert_eq!(heard.take(), ["snapshot in_progress", "snapshot completed"]);

    let transfer = |done: &BackupDone| TransferOrder {
        order: once(),
        from: near.clone(),
        from_item: "01ITEM".to_owned(),
        point: done.point.id,
        to: lab.access(),
        to_item: "web".to_owned(),
        locked_until: None,
        limit_rate: None,
    };
    let sent = lab.agent.transfer(&transfer(&first), &heard.watch()).expect("transferred");
    assert_eq!(heard.take(), ["transfer in_progress", "transfer completed"]);
    assert_eq!((sent.point.item.as_str(), sent.point.time), ("web", first.point.time));
    assert_eq!(sent.point.tags["copy_of"], first.point.id.to_string());
    let again = lab.agent.transfer(&transfer(&first), &heard.watch()).expect("is there");
    assert_eq!(again.point, sent.point);
    assert_eq!(lab.keeper.points(&lab.access(), None).expect("listed").0.len(), 1);

    // What changed is all that is read and added.
    lab.disk("a.img", 21, 1);
    let second = snapshot(lab.order(&[("a", &a)]));
    let second = lab.agent.backup(&second, &heard.watch()).expect("a point");
    let sent = lab.agent.transfer(&transfer(&second), &heard.watch()).expect("transferred");
    assert_eq!(json(&sent.report)["disks"][0]["read_bytes"], 65536, "{:#}", json(&sent.report));
    assert!(sent.point.stored_bytes < 2 * 65536, "{}", sent.point.stored_bytes);
    let order = restore_order(&lab, &sent, to_folder(&lab, "back", DiskFormat::Raw));
    lab.agent.restore(&order, &Watch::silent()).expect("restored");
    same(&lab.path("back/a.raw"), &a);

    let missing = TransferOrder { point: sent.point.id, ..transfer(&second) };
    let error = lab.agent.transfer(&missing, &Watch::silent()).expect_err("not there");
    assert_eq!(error.code.as_str(), "point.not_found");
    let away = TransferOrder {
        from: VaultAccess { url: lab.text("nowhere"), ..near.clone() },
        ..transfer(&first)
    };
    // It was transferred before: the source is not asked.
    lab.agent.transfer(&away, &Watch::silent()).expect("is there");
}

#[test]
fn no_link_leads_an_order_out_of_its_folders() {
    use std::os::unix::fs::symlink;

    let mut lab = Lab::new();
    lab.vault();
    for folder in ["disks", "restored", "outside"] {
        fs::create_dir(lab.path(folder)).expect("a folder");
    }
    fs::write(lab.path("outside/victim.raw"), vec![7; 1 << 20]).expect("writes");
    fs::write(lab.path("disks/a.raw"), vec![1; 1 << 20]).expect("writes");
    symlink(lab.path("outside/victim.raw"), lab.path("disks/link.raw")).expect("a link");
    symlink(lab.path("outside"), lab.path("restored/out")).expect("a link");
    symlink(lab.path("outside/victim.raw"), lab.path("restored/web.raw")).expect("a link");
    lab.hold_within("disks", "restored");
    let watch = Watch::silent();
    let order = |lab: &Lab, file: &str| BackupOrder {
        source: Source::Disks { disks: [("web".to_owned(), lab.text(file))].into() },
        ..lab.order(&[])
    };
    let refused = lab.agent.backup(&order(&lab, "disks/link.raw"), &watch).expect_err("outside");
    assert_eq!(refused.code.as_str(), "place.not_allowed");
    let done = lab.agent.backup(&order(&lab, "disks/a.raw"), &watch).expect("a point");
    let refused = |restore: Restore| {
        let order = restore_order(&lab, &done, restore);
        lab.agent.restore(&order, &watch).expect_err("outside").code.as_str().to_owned()
    };
    let raw = DiskFormat::Raw;
    for folder in ["restored/out/sub", "restored/out", "outside"] {
        assert_eq!(refused(to_folder(&lab, folder, raw)), "place.not_allowed", "{folder}");
    }
    let in_place = |target: &str| {
        Restore::Disks(RestoreDisks {
            folder: Some(lab.text("restored")),
            targets: [("web".to_owned(), lab.text(target))].into(),
            in_place: true,
            ..RestoreDisks::default()
        })
    };
    for target in ["restored/web.raw", "restored/out/victim.raw", "outside/victim.raw"] {
        assert_eq!(refused(in_place(target)), "place.not_allowed", "{target}");
    }
    assert!(fs::read(lab.path("outside/victim.raw")).expect("reads").iter().all(|it| *it == 7));
    assert_eq!(fs::read_dir(lab.path("outside")).expect("a folder").count(), 1);
    // An unfinished file that somebody has put there.
    fs::create_dir(lab.path("restored/sub")).expect("a folder");
    symlink(lab.path("outside/victim.raw"), lab.path("restored/sub/web.raw.partial")).expect("it");
    assert_eq!(refused(to_folder(&lab, "restored/sub", raw)), "disk.unsafe");
    let order = restore_order(&lab, &done, to_folder(&lab, "restored/new/sub", raw));
    lab.agent.restore(&order, &watch).expect("restored");
    same(&lab.path("disks/a.raw"), &lab.path("restored/new/sub/web.raw"));
}
