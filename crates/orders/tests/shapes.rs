//! What is sent has the shape that this version of orders has.
//!
//! `orders.json` is written anew with `STRONGROOM_BLESS=1`: look at what changed, and at the head of the
//! crate whether that raises `ORDERS_VERSION`.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails says so by panicking")]

use std::{collections::BTreeMap, fmt::Debug, fs};

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use strongroom_api::{
    BlobAccess, BlobPlace, BootOutcome, BootStep, BootWanted, ConsistencyProved, ConsistencyWanted,
    DiskSelection, DrillWanted, ErrorBody, ItemUsage, KeyReference, PointBoot, PointDisk, Report,
    Restore, RestoreDecision, RestoreDisks, Source, TaskName, TaskState,
};
use strongroom_base::{JobId, Jump, JumpKind, LastBefore, PointId, Suspicion, VaultId, codes};
use strongroom_orders::{
    Absence, AbsentPoint, BackupDone, BackupOrder, BootDone, BootEvidence, BootOrder, CheckOrder,
    DrillDone, DrillOrder, FinishDone, FinishOrder, HeldPoint, HostFacts, IncrementalDone,
    IncrementalOrder, ORDERS_VERSION, OrderId, PointFacts, ReclaimDone, ReclaimOrder, RestoreDone,
    RestoreOrder, RotateOrder, SavedObject, TaskEvent, Tier, TransferOrder, UsageFacts,
    ValidateOrder, VaultAccess, VaultFacts, VaultMake, VerifyDepth, VerifyFacts, VerifyOrder,
};

/// All that is sent, by name.
#[derive(Default)]
struct Shapes(BTreeMap<&'static str, Value>);

impl Shapes {
    /// Adds one, which must be what it was when it is read again.
    fn add<T>(&mut self, name: &'static str, sent: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + Debug,
    {
        let value = serde_json::to_value(sent).expect("JSON");
        let read: T = serde_json::from_value(value.clone()).expect(name);
        assert_eq!(&read, sent, "{name}");
        self.0.insert(name, value);
    }
}

fn job() -> JobId {
    JobId::from_bytes([1; 16])
}

fn point() -> PointId {
    PointId::from_bytes([2; 16])
}

fn time() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn vault() -> VaultAccess {
    VaultAccess { url: "/vault".to_owned(), key: KeyReference::File("/key".to_owned()) }
}

fn facts() -> PointFacts {
    PointFacts {
        id: point(),
        item: "web".to_owned(),
        time: time(),
        completed: time(),
        consistency: ConsistencyProved::FileSystem,
        disks: vec![PointDisk {
            name: "vda".to_owned(),
            size_bytes: 3,
            changed_bytes: 2,
            new_bytes: Some(2),
            incompressible_bytes: Some(1),
        }],
        stored_bytes: 1,
        notes: vec!["a note".to_owned()],
        tags: [("job".to_owned(), job().to_string())].into(),
        locked_until: Some(time()),
        suspicion: Some(Suspicion {
            jumps: vec![Jump {
                disk: "vda".to_owned(),
                kind: JumpKind::Incompressible,
                bytes: 3,
                usual_bytes: 1,
                most_bytes: 2,
                points: 7,
            }],
            last_before: LastBefore { id: point(), time: time() },
        }),
    }
}

fn id(step: &str) -> OrderId {
    OrderId::of_job(job(), step)
}

fn of_boots(shapes: &mut Shapes) {
    let order = BootOrder {
        job: job(),
        vault: vault(),
        item: "web".to_owned(),
        point: point(),
        wanted: BootWanted {
            expect: Some(BootStep::Agent),
            services: vec!["postgresql".to_owned()],
            ports: vec![5432],
            script: Some("/check".to_owned()),
            network: Some("closed".to_owned()),
            memory_bytes: Some(1 << 30),
            processors: Some(1),
            timeout_seconds: Some(600),
            idle_seconds: Some(60),
            writes_max_bytes: Some(1 << 32),
            read_all: true,
        },
    };
    assert_eq!(order.id(), id("boot"));
    shapes.add("boot", &order);
    let boot = PointBoot {
        outcome: BootOutcome::Failed,
        begun: time(),
        expected: BootStep::Agent,
        reached: Some(BootStep::Kernel),
        reached_ms: Some(6500),
        reason: Some("agent: it never answered".to_owned()),
        job: Some(job()),
    };
    let warnings = vec![ErrorBody::new(&codes::STORE_DEGRADED, "a copy is away")];
    let drill = DrillOrder {
        job: job(),
        vault: vault(),
        points: vec![("web".to_owned(), point())],
        wanted: DrillWanted {
            items: vec!["web".to_owned()],
            host: Some("kvm1".to_owned()),
            before: Some(time()),
            in_order: true,
            within_seconds: Some(900),
            network: Some("none".to_owned()),
            memory_bytes: Some(1 << 30),
            processors: Some(1),
            timeout_seconds: Some(600),
        },
    };
    assert_eq!(drill.id(), id("drill"));
    shapes.add("drill", &drill);
    let drilled = DrillDone {
        boots: vec![(point(), boot.clone())],
        failed: vec!["web".to_owned()],
        warnings: warnings.clone(),
        report: Report::default(),
    };
    shapes.add("drill_done", &drilled);
    let evidence = BootEvidence {
        report: Report::default(),
        screenshot: Some(("image/png".to_owned(), vec![1, 2])),
        console: vec![3],
    };
    shapes.add("boot_evidence", &evidence);
    shapes.add(
        "boot_done",
        &BootDone {
            boot,
            damage: Some(ErrorBody::new(&codes::STORE_CORRUPT, "a block is damaged")),
            warnings,
            report: Report::default(),
        },
    );
}

fn of_hosts(shapes: &mut Shapes) {
    let machine = Source::Machine { uuid: "u".to_owned(), name: "web".to_owned() };
    let disks = Source::Disks { disks: [("a".to_owned(), "/disks/a".to_owned())].into() };
    let warning = ErrorBody::new(&codes::STORE_DEGRADED, "a copy is away");
    shapes.add("check", &CheckOrder { order: id("check/web"), source: disks.clone() });
    let backup = BackupOrder {
        job: job(),
        vault: vault(),
        tier: Tier::Snapshot,
        item: "web".to_owned(),
        source: machine.clone(),
        disks: DiskSelection::Include { disks: vec!["vda".to_owned()] },
        consistency: ConsistencyWanted::Application,
        consistency_required: true,
        full_compare_every: 30,
        scratch_dir: Some("/scratch".into()),
        limit_rate: Some(4),
        tags: [("item".to_owned(), "x".to_owned())].into(),
        locked_until: Some(time()),
    };
    assert_eq!(backup.id(), id("backup"));
    shapes.add("backup", &backup);
    let access = BlobAccess { connection_string_file: "/keys/a".to_owned(), ca_file: None };
    let blobs = [("a".to_owned(), "disks/vms/a".to_owned())].into();
    let source = Source::Blobs { disks: blobs, access: Some(access) };
    shapes.add("check_blobs", &CheckOrder { order: id("check/web"), source });
    let place = |blob: &str| BlobPlace { blob: blob.to_owned(), access: None };
    let copy = IncrementalOrder {
        order: id("copy"),
        from: place("disks/vms/a"),
        to: place("backups/vms/a"),
        keep: 30,
        limit_rate: Some(1 << 20),
    };
    let source =
        Source::IncrementalBackup { from: copy.from.clone(), to: copy.to.clone(), keep: 30 };
    shapes.add("check_incremental", &CheckOrder { order: id("check/web"), source });
    shapes.add("incremental_backup", &copy);
    let done = IncrementalDone {
        time: time(),
        written_bytes: 4,
        warnings: vec![warning.clone()],
        report: Report::default(),
    };
    shapes.add("incremental_done", &done);
    let transfer = TransferOrder {
        order: id("transfer"),
        from: vault(),
        from_item: "x".to_owned(),
        point: point(),
        to: vault(),
        to_item: "web".to_owned(),
        locked_until: None,
        limit_rate: None,
    };
    shapes.add("transfer", &transfer);
    let warnings = vec![warning.clone()];
    shapes.add("backup_done", &BackupDone { point: facts(), warnings, report: Report::default() });
    let restore = RestoreOrder {
        job: job(),
        vault: vault(),
        item: "web".to_owned(),
        point: point(),
        source: machine,
        restore: Restore::Disks(RestoreDisks {
            folder: Some("/restored".to_owned()),
            ..RestoreDisks::default()
        }),
        limit_rate: None,
    };
    assert_eq!(restore.id(), id("restore"));
    shapes.add("restore", &restore);
    let safety_point = Some(facts());
    let done = RestoreDone { warnings: vec![warning], safety_point, report: Report::default() };
    shapes.add("restore_done", &done);
    let decision = RestoreDecision::Undo;
    let finish = FinishOrder { order: id("finish"), machine: "web".to_owned(), decision };
    shapes.add("finish", &finish);
    shapes.add("finish_done", &FinishDone::Finished(Report::default()));
    shapes.add("finish_done_before", &FinishDone::DecidedBefore);
    let hello = HostFacts {
        host: "kvm1".to_owned(),
        version: "1.0.0".to_owned(),
        orders: ORDERS_VERSION,
        libvirt: Some("9.0.0".to_owned()),
        qemu: None,
    };
    shapes.add("host", &hello);
    let detail = Some("1 GiB".to_owned());
    let event = TaskEvent { task: TaskName::Snapshot, state: TaskState::Completed, detail };
    shapes.add("event", &event);
}

fn of_vaults(shapes: &mut Shapes) {
    let key = KeyReference::Passphrase("/phrase".to_owned());
    let make = VaultMake {
        url: "/vault".to_owned(),
        mirrors: vec!["/copy".to_owned()],
        key: key.clone(),
        make_key: true,
        single_writer: true,
    };
    shapes.add("make", &make);
    let facts = VaultFacts {
        id: VaultId::from_bytes([3; 16]),
        mirrors: vec!["/copy".to_owned()],
        existed: true,
        key_changed: time(),
        free_bytes: Some(7),
        warnings: vec!["a copy is away".to_owned()],
    };
    shapes.add("vault", &facts);
    let item = "web".to_owned();
    let validate = ValidateOrder { order: id("validate"), vault: vault(), item, point: point() };
    shapes.add("validate", &validate);
    let given_up = vec![("web".to_owned(), point())];
    let reclaim = ReclaimOrder {
        order: id("reclaim"),
        vault: vault(),
        given_up,
        now: time(),
        recompress: true,
    };
    shapes.add("reclaim", &reclaim);
    let held = vec![HeldPoint { item: Some("web".to_owned()), point: point(), locked: true }];
    shapes.add("reclaim_done", &ReclaimDone { complete: true, held, report: Report::default() });
    let absent = |how| AbsentPoint { item: "web".to_owned(), point: point(), how };
    shapes.add("absent", &[absent(Absence::Missing), absent(Absence::Hidden)]);
    for (name, depth) in [
        ("verify_structure", VerifyDepth::Structure),
        ("verify_part", VerifyDepth::Part { of: 4 }),
        ("verify_all", VerifyDepth::All),
    ] {
        shapes.add(name, &VerifyOrder { order: id("verify"), vault: vault(), depth });
    }
    let verified = VerifyFacts {
        is_whole: true,
        damaged_objects: 1,
        damaged_points: 2,
        verified_packs: 3,
        packs: 4,
        read_bytes: 5,
        damaged: vec!["a pack".to_owned()],
        report: Report::default(),
    };
    shapes.add("verified", &verified);
    let rotate = RotateOrder { order: id("rotate"), vault: vault(), new: Some(key) };
    shapes.add("rotate", &rotate);
    let usage = UsageFacts {
        recovery_points: 1,
        protected_bytes: 2,
        stored_bytes: 3,
        reclaimable_bytes: 4,
        items: vec![ItemUsage {
            item: None,
            name: "web".to_owned(),
            recovery_points: 1,
            protected_bytes: 2,
            instance_bytes: 3,
            instance_units: 0,
            unique_bytes: 4,
            shared_bytes: 5,
        }],
    };
    shapes.add("usage", &usage);
    shapes.add("saved", &SavedObject { name: "catalog".to_owned(), size_bytes: 1 });
}

#[test]
fn what_is_sent_has_the_shape_of_this_version() {
    let mut shapes = Shapes::default();
    of_boots(&mut shapes);
    of_hosts(&mut shapes);
    of_vaults(&mut shapes);
    let now = json!({ "version": ORDERS_VERSION, "shapes": shapes.0 });
    let now = format!("{}\n", serde_json::to_string_pretty(&now).expect("JSON"));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/orders.json");
    if std::env::var_os("STRONGROOM_BLESS").is_some() {
        fs::write(path, &now).expect("written");
    }
    assert_eq!(fs::read_to_string(path).expect("the shapes"), now);
}

/// What was added since the first version may be missing.
#[test]
fn what_an_earlier_writer_leaves_out_is_understood() {
    let host: HostFacts =
        serde_json::from_value(json!({ "host": "kvm1", "version": "1", "orders": 1 })).expect("it");
    assert_eq!((host.libvirt, host.qemu), (None, None));
    let tier: BackupOrder = {
        let mut shapes = Shapes::default();
        of_hosts(&mut shapes);
        let mut order = shapes.0.remove("backup").expect("it");
        let fields = order.as_object_mut().expect("an object");
        fields.remove("tier");
        fields.remove("locked_until");
        fields.insert("later".to_owned(), json!(1));
        serde_json::from_value(order).expect("it")
    };
    assert_eq!((tier.tier, tier.locked_until), (Tier::Vault, None));
}
