//! The service's agent on a real host: its orders, in this process and in one that is killed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use strongroom_agent::{LocalAgent, LocalHost, LocalKeeper, Vaults};
use strongroom_api::{
    ConsistencyProved, ConsistencyWanted, DiskSelection, KeyReference, PowerAfter, Report, Restore,
    RestoreDisks, RestoreMachine, RestoreReplace, Source, StopFirst, TaskName,
};
use strongroom_base::{Cancel, Clock as _, JobId, SystemClock, SystemEntropy};
use strongroom_hypervisor::Settings;
use strongroom_machine::{Places, guard::GuardCommand};
use strongroom_orders::{
    Agent as _, BackupDone, BackupOrder, CheckOrder, Keeper as _, OrderId, RestoreDone,
    RestoreOrder, TaskEvent, Tier, TransferOrder, ValidateOrder, VaultAccess, VaultMake, Watch,
};

use crate::{
    after::{assert_clean, assert_clean_within},
    check::{Taken, assert_same_disk, check},
    guest::{Disk, Guest},
    harness::{Host, within},
    restore::folder,
};

/// Slow enough to be killed while it reads.
const SLOW: Option<u64> = Some(1 << 20);

/// The agent and the keeper of a test's host, which are all in its folder.
struct Workers {
    lab: PathBuf,
    agent: LocalAgent,
    keeper: LocalKeeper,
}

impl Workers {
    fn new(lab: &Path) -> Self {
        let (runtime, config) = (lab.join("r"), lab.join("c"));
        let socket = runtime.join("libvirt/libvirt-sock");
        let uri = format!("qemu+unix:///session?socket={}", socket.display());
        let host = LocalHost {
            name: "here".to_owned(),
            connect: Some(uri.parse().expect("an address")),
            settings: Settings {
                runtime_dir: Some(runtime.clone()),
                ..Settings::new(Arc::new(SystemClock))
            },
            places: Places::of_session(&runtime, &config),
            guard: GuardCommand {
                program: PathBuf::from(env!("CARGO_BIN_EXE_strongroom")),
                arguments: vec!["vm-guard".to_owned()],
            },
            notes: lab.join("notes"),
            disks: None,
            targets: None,
            allow_backing: Vec::new(),
            boots: lab.to_owned(),
            file_reader: None,
            threads: 2,
        };
        let vaults = Arc::new(Vaults::new(Some(lab.join("index"))));
        let keeper = LocalKeeper::new(Arc::clone(&vaults), "here", 2);
        Self { lab: lab.to_owned(), agent: LocalAgent::new(host, vaults), keeper }
    }

    fn of(host: &Host) -> Self {
        Self::new(&host.lab.path("").canonicalize().expect("a folder"))
    }

    fn vault(&self) -> VaultAccess {
        let path = |name| self.lab.join(name).display().to_string();
        VaultAccess { url: path("vault"), key: KeyReference::File(path("key")) }
    }

    /// Backs up the machine `web`, and asks for frozen file systems.
    fn order(&self, guest: &Guest<'_>) -> BackupOrder {
        let name = guest.name.clone();
        BackupOrder {
            job: job(),
            vault: self.vault(),
            tier: Tier::Vault,
            item: "web".to_owned(),
            source: Source::Machine { uuid: guest.virsh("domuuid", &[]), name },
            disks: DiskSelection::All,
            consistency: ConsistencyWanted::FileSystem,
            consistency_required: false,
            full_compare_every: 30,
            scratch_dir: None,
            limit_rate: None,
            tags: [].into(),
            locked_until: None,
        }
    }

    fn restore(&self, order: &BackupOrder, done: &BackupDone, restore: Restore) -> RestoreOrder {
        RestoreOrder {
            job: job(),
            vault: self.vault(),
            item: "web".to_owned(),
            point: done.point.id,
            source: order.source.clone(),
            restore,
            limit_rate: None,
        }
    }

    fn backup(&self, order: &BackupOrder) -> BackupDone {
        let done = self.agent.backup(order, &Watch::silent());
        done.unwrap_or_else(|error| panic!("{error:#?}"))
    }

    fn bring_back(&self, order: &RestoreOrder) -> RestoreDone {
        let done = self.agent.restore(order, &Watch::silent());
        done.unwrap_or_else(|error| panic!("{error:#?}"))
    }

    fn validate(&self, done: &BackupDone) -> ValidateOrder {
        ValidateOrder {
            order: once(),
            vault: self.vault(),
            item: "web".to_owned(),
            point: done.point.id,
        }
    }

    fn points(&self) -> usize {
        self.keeper.points(&self.vault(), None).expect("listed").0.len()
    }

    /// The disks of a point, as raw images.
    fn disks(&self, order: &BackupOrder, done: &BackupDone) -> Vec<PathBuf> {
        let folder = self.lab.join(format!("restored-{}", done.point.id));
        let restore = RestoreDisks {
            host: None,
            folder: Some(folder.display().to_string()),
            disks: Vec::new(),
            format: None,
            ..Default::default()
        };
        let restored = self.bring_back(&self.restore(order, done, Restore::Disks(restore)));
        let report = json(&restored.report);
        let template = report["template"].as_str().expect("a description");
        assert!(Path::new(template).exists(), "{report:#}");
        done.point.disks.iter().map(|disk| folder.join(format!("{}.raw", disk.name))).collect()
    }
}

/// A report as it is read outside.
fn json(report: &Report) -> serde_json::Value {
    report.to_json().expect("JSON")
}

fn once() -> OrderId {
    OrderId::once(&SystemClock, &SystemEntropy)
}

fn job() -> JobId {
    JobId::generate(&SystemClock, &SystemEntropy)
}

/// A watch, and what it hears: parts, states and details.
fn listener() -> (Watch, Arc<Mutex<Vec<TaskEvent>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let events = Arc::clone(&heard);
    let watch =
        Watch::new(Cancel::new(), move |event| events.lock().expect("unlocked").push(event));
    (watch, heard)
}

fn checked(images: &[PathBuf], taken: Taken) {
    let images: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
    check(&images, taken).unwrap_or_else(|error| panic!("{error}"));
}

/// An order that another process carries out: this test's program, with one test that is not one.
struct Elsewhere(Child);

impl Elsewhere {
    fn start(host: &Host, kind: &str, order: &impl Serialize) -> Self {
        let lab = host.lab.path("").canonicalize().expect("a folder");
        fs::write(lab.join("order.json"), serde_json::to_vec(order).expect("JSON"))
            .expect("written");
        let mut command = Command::new(std::env::current_exe().expect("the test"));
        command
            .args(["--exact", "--ignored", "--nocapture", "agent::carries_out_an_order"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(host.env())
            .env("STRONGROOM_TEST_ORDER", kind)
            .env("STRONGROOM_TEST_LAB", &lab)
            .current_dir(&lab)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Self(command.spawn().expect("it starts"))
    }

    fn kill(mut self) {
        assert!(self.0.try_wait().expect("asked").is_none(), "it has ended already");
        self.0.kill().expect("killed");
        self.0.wait().expect("ended");
    }
}

#[test]
#[ignore = "carries out what another test wants to kill"]
fn carries_out_an_order() {
    fn read<T: DeserializeOwned>(lab: &Path) -> T {
        let order = fs::read(lab.join("order.json")).expect("read");
        serde_json::from_slice(&order).expect("an order")
    }
    let Some(lab) = std::env::var_os("STRONGROOM_TEST_LAB").map(PathBuf::from) else { return };
    let workers = Workers::new(&lab);
    match std::env::var("STRONGROOM_TEST_ORDER").expect("a kind").as_str() {
        "backup" => drop(workers.backup(&read(&lab))),
        _ => drop(workers.bring_back(&read(&lab))),
    }
}

#[test]
fn seen_checked_backed_up_and_missed() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(64)).disk(Disk::qcow2(48));
    let guest = guest.cmdline("lab.noapp").create(&host);
    let workers = Workers::of(&host);
    let agent = &workers.agent;
    let hello = agent.hello().expect("hello");
    assert_eq!(hello.host, "here");
    assert!(hello.libvirt.is_some_and(|version| version.split('.').count() == 3));
    let found = agent.discover(&Watch::silent()).expect("found");
    assert_eq!((found.len(), found[0].name.as_str(), found[0].state.as_str()), (1, "web", "off"));
    guest.boot();
    guest.wait_records(3);
    let found = agent.discover(&Watch::silent()).expect("found").remove(0);
    assert_eq!((found.agent.as_str(), found.disks.len()), ("connected", 2), "{found:?}");
    assert!(found.disks[0].os_disk && found.disks[0].tracks_changes);
    let mut order = workers.order(&guest);
    let check = |order: &BackupOrder| {
        agent.check(&CheckOrder { order: once(), source: order.source.clone() })
    };
    let checked_now = check(&order).expect("checked");
    assert_eq!(checked_now.name, "web");

    // The first, and what is heard of it.
    let (watch, heard) = listener();
    let first = agent.backup(&order, &watch).expect("a point");
    let events = std::mem::take(&mut *heard.lock().expect("unlocked"));
    let states: Vec<_> =
        events.iter().map(|event| (event.task.as_str(), event.state.name())).collect();
    let expected = [
        ("snapshot", "in_progress"),
        ("snapshot", "completed"),
        ("transfer", "in_progress"),
        ("transfer", "completed"),
    ];
    assert_eq!(states, expected);
    let detail = events[1].detail.as_deref().unwrap_or_default();
    assert!(detail.starts_with("file system consistent, frozen for "), "{detail}");
    assert!(first.warnings.is_empty(), "{:?}", first.warnings);
    assert_eq!(first.point.consistency, ConsistencyProved::FileSystem);
    assert_eq!(first.point.tags["job"], order.job.to_string());
    assert_clean(&host, &guest, json(&first.report)["checkpoint"].as_str());
    // Once more the same order.
    let again = workers.backup(&order);
    assert_eq!((again.point, workers.points()), (first.point.clone(), 1));

    // Another order: QEMU tells what has changed. More is wanted than a guest without scripts can be.
    guest.wait_records(3);
    order.job = job();
    order.consistency = ConsistencyWanted::Application;
    let second = workers.backup(&order);
    assert_eq!(
        json(&second.report)["disks"][0]["changes_from"],
        "bitmap",
        "{:#}",
        json(&second.report)
    );
    assert_eq!(second.point.consistency, ConsistencyProved::FileSystem);
    assert!(second.warnings.is_empty(), "{:?}", second.warnings);
    for done in [&first, &second] {
        let words = workers.keeper.validate(&workers.validate(done), &Watch::silent());
        println!("{words:?}");
        assert!(words.is_ok(), "{words:?}");
        checked(&workers.disks(&order, done), Taken::Frozen);
    }
    order.job = job();
    order.consistency_required = true;
    let refused = agent.backup(&order, &Watch::silent()).expect_err("less is no good");
    assert_eq!(refused.code.as_str(), "vm.consistency");
    order.consistency_required = false;

    // A disk that is gone, a libvirt that does not answer, a machine that is gone.
    guest.shutdown();
    let disk = guest.disk_path("vdb").to_owned();
    let aside = disk.with_extension("aside");
    fs::rename(&disk, &aside).expect("moved");
    let missing = agent.backup(&order, &Watch::silent()).expect_err("no disk");
    assert_eq!(missing.code.as_str(), "source.missing", "{missing:?}");
    fs::rename(&aside, &disk).expect("moved");
    host.kill_libvirtd();
    let silent = agent.backup(&order, &Watch::silent()).expect_err("no libvirt");
    assert_eq!((silent.code.as_str(), silent.retryable), ("host.unavailable", true));
    assert_eq!(agent.hello().expect_err("no libvirt").code.as_str(), "host.unavailable");
    host.start_libvirtd();
    guest.virsh("undefine", &["--checkpoints-metadata"]);
    let missing = agent.backup(&order, &Watch::silent()).expect_err("no machine");
    assert_eq!(missing.code.as_str(), "source.missing", "{missing:?}");
    assert!(missing.causes[0].contains("no machine"), "{missing:?}");
    assert_eq!(check(&order).expect_err("no machine").code.as_str(), "source.missing");
    assert_eq!(workers.points(), 2);
}

#[test]
fn what_the_point_lacks_is_left_behind_and_said() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(32), Disk::qcow2(16)]);
    let workers = Workers::of(&host);
    let mut order = workers.order(&guest);
    order.disks = DiskSelection::Exclude { disks: vec!["vdb".to_owned()] };
    let done = workers.backup(&order);
    assert_eq!(done.point.disks.len(), 1);
    let restore = RestoreMachine {
        name: Some("copy".to_owned()),
        storage_dirs: [("*".to_owned(), folder(&host, "copies"))].into(),
        ..RestoreMachine::default()
    };
    let order = workers.restore(&order, &done, Restore::Machine(restore));
    let warnings = workers.bring_back(&order).warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].code.as_str(), "restore.differs");
    assert!(warnings[0].message.starts_with("vdb: "), "{warnings:?}");
    let xml = host.virsh(&["dumpxml", "copy"]);
    assert!(xml.contains("copy-vda.qcow2") && !xml.contains("vdb"), "{xml}");
}

#[test]
fn by_way_of_a_vault_near_the_machine() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(64)).disk(Disk::qcow2(48));
    let guest = guest.cmdline("lab.noapp").create(&host);
    guest.boot();
    guest.wait_records(3);
    let workers = Workers::of(&host);
    let path = |name: &str| workers.lab.join(name).display().to_string();
    let near = VaultAccess { url: path("near"), key: KeyReference::File(path("near.key")) };
    let make = VaultMake {
        url: near.url.clone(),
        mirrors: Vec::new(),
        key: near.key.clone(),
        make_key: true,
        single_writer: false,
    };
    workers.keeper.make(&make).expect("a vault");
    let snapshot = || BackupOrder {
        vault: near.clone(),
        tier: Tier::Snapshot,
        item: "item".to_owned(),
        ..workers.order(&guest)
    };
    let transfer = |done: &BackupDone| {
        let order = TransferOrder {
            order: once(),
            from: near.clone(),
            from_item: "item".to_owned(),
            point: done.point.id,
            to: workers.vault(),
            to_item: "web".to_owned(),
            locked_until: None,
            limit_rate: None,
        };
        let sent = workers.agent.transfer(&order, &Watch::silent());
        sent.unwrap_or_else(|error| panic!("{error:#?}"))
    };
    let mut sent = Vec::new();
    for round in 0..3 {
        let done = workers.backup(&snapshot());
        let from = if round == 0 { "all" } else { "bitmap" };
        assert_eq!(
            json(&done.report)["disks"][0]["changes_from"],
            from,
            "{:#}",
            json(&done.report)
        );
        assert_clean(&host, &guest, json(&done.report)["checkpoint"].as_str());
        sent.push(transfer(&done));
        guest.wait_records(3);
    }
    assert_eq!(
        json(&sent[2].report)["disks"][0]["changes_from"],
        "ranges",
        "{:#}",
        json(&sent[2].report)
    );
    assert_eq!(sent[2].point.consistency, ConsistencyProved::FileSystem);
    // The host's vault near the disks is given up: what is in the other one goes on from there.
    let order = workers.order(&guest);
    let straight = workers.backup(&order);
    assert_eq!(
        json(&straight.report)["disks"][0]["changes_from"],
        "bitmap",
        "{:#}",
        json(&straight.report)
    );
    for done in sent.iter().chain([&straight]) {
        checked(&workers.disks(&order, done), Taken::Frozen);
    }
    // And back: the machine still has the bitmap of the last point there.
    guest.wait_records(3);
    let again = workers.backup(&snapshot());
    assert_eq!(
        json(&again.report)["disks"][0]["changes_from"],
        "bitmap",
        "{:#}",
        json(&again.report)
    );
    let last = transfer(&again);
    checked(&workers.disks(&order, &last), Taken::Frozen);
}

#[test]
fn killed_cancelled_and_given_again() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(64)).disk(Disk::qcow2(48));
    let guest = guest.cmdline("lab.noapp").create(&host);
    guest.boot();
    guest.wait_records(3);
    let workers = Workers::of(&host);
    let mut order = workers.order(&guest);
    order.limit_rate = SLOW;
    let running = Elsewhere::start(&host, "backup", &order);
    let job_runs = || host.try_virsh(&["backup-dumpxml", "web"]).code == 0;
    assert!(within(60, job_runs), "no job begins");
    SystemClock.sleep(Duration::from_millis(500));
    running.kill();
    assert_clean_within(20, &host, &guest, None);
    assert_eq!(workers.points(), 0);

    // Cancelled while it reads.
    let (watch, heard) = listener();
    let cancel = watch.cancel.clone();
    let stopped = std::thread::scope(|scope| {
        let work = scope.spawn(|| workers.agent.backup(&order, &watch));
        let reads =
            || heard.lock().expect("unlocked").iter().any(|event| event.task == TaskName::Transfer);
        assert!(within(60, reads), "it does not read");
        cancel.cancel();
        work.join().expect("ends")
    });
    assert_eq!(stopped.expect_err("stopped").code.as_str(), "interrupted");
    assert_clean(&host, &guest, None);

    order.limit_rate = None;
    let done = workers.backup(&order);
    assert_eq!(done.point.tags["job"], order.job.to_string());
    assert_eq!(workers.points(), 1);
    checked(&workers.disks(&order, &done), Taken::Frozen);
    assert_clean(&host, &guest, json(&done.report)["checkpoint"].as_str());
}

#[test]
fn machines_come_back_however_often_it_is_asked() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(64)).disk(Disk::raw(48)).create(&host);
    guest.boot();
    guest.wait_records(3);
    guest.shutdown();
    let workers = Workers::of(&host);
    let order = workers.order(&guest);
    let done = workers.backup(&order);
    // It was off, which is less than frozen.
    assert_eq!(done.warnings[0].code.as_str(), "vm.consistency");
    let to = folder(&host, "copies");
    let mut restore = RestoreMachine {
        name: Some("copy".to_owned()),
        storage_dirs: [("*".to_owned(), to.clone())].into(),
        ..RestoreMachine::default()
    };
    // Planned only.
    let plan = Restore::Machine(RestoreMachine { dry_run: true, ..restore.clone() });
    let plan = json(&workers.bring_back(&workers.restore(&order, &done, plan)).report);
    assert_eq!((&plan["dry_run"], &plan["machine"]), (&true.into(), &"copy".into()), "{plan:#}");
    assert_eq!(fs::read_dir(&to).expect("a folder").count(), 0);
    let mut wanted = workers.restore(&order, &done, Restore::Machine(restore.clone()));
    wanted.limit_rate = SLOW;
    let running = Elsewhere::start(&host, "restore", &wanted);
    let writes = || Path::new(&to).join("copy-vda.qcow2.partial").exists();
    assert!(within(60, writes), "it does not write");
    SystemClock.sleep(Duration::from_millis(500));
    running.kill();
    assert_ne!(host.try_virsh(&["dominfo", "copy"]).code, 0);
    wanted.limit_rate = None;
    let (watch, heard) = listener();
    let restored = workers.agent.restore(&wanted, &watch).expect("goes on");
    let tasks: Vec<_> =
        heard.lock().expect("unlocked").iter().map(|event| event.task.clone()).collect();
    let expected = [TaskName::Prepare, TaskName::Prepare, TaskName::Restore, TaskName::Restore];
    assert_eq!(tasks, expected);
    assert_eq!(json(&restored.report)["machine"], "copy", "{:#}", json(&restored.report));
    assert!(restored.warnings.is_empty(), "{:?}", restored.warnings);
    let images = ["copy-vda.qcow2", "copy-vdb.raw"].map(|name| Path::new(&to).join(name));
    assert_same_disk(guest.disk_path("vda"), &images[0]);
    assert_same_disk(guest.disk_path("vdb"), &images[1]);
    let uuid = host.virsh(&["domuuid", "copy"]);

    // Nobody has heard that it was done: asked again, it is, and is started as was wanted.
    restore.power = Some(PowerAfter::Paused);
    wanted.restore = Restore::Machine(restore.clone());
    let again = workers.bring_back(&wanted);
    assert_eq!(json(&again.report)["done_before"], true, "{:#}", json(&again.report));
    assert_eq!(host.virsh(&["domuuid", "copy"]), uuid);
    assert_eq!(host.virsh(&["domstate", "copy"]), "paused");
    host.virsh(&["destroy", "copy"]);
    // To another order it is somebody's machine.
    let other = workers.restore(&order, &done, Restore::Machine(restore));
    let refused = workers.agent.restore(&other, &Watch::silent()).expect_err("it exists");
    assert_eq!(refused.code.as_str(), "vm.exists");

    // The disks of the machine that is there.
    let replace = RestoreReplace { stop: Some(StopFirst::PowerOff), ..RestoreReplace::default() };
    let mut wanted = workers.restore(&order, &done, Restore::Replace(replace.clone()));
    guest.boot();
    guest.wait_records(2);
    let refuse = RestoreReplace { stop: None, ..replace.clone() };
    wanted.restore = Restore::Replace(refuse);
    let refused = workers.agent.restore(&wanted, &Watch::silent()).expect_err("it runs");
    assert_eq!(refused.code.as_str(), "vm.state");
    let plan = RestoreReplace { dry_run: true, ..replace.clone() };
    wanted.restore = Restore::Replace(plan);
    let planned = workers.bring_back(&wanted);
    assert_eq!(
        (json(&planned.report)["dry_run"].clone(), planned.safety_point),
        (true.into(), None)
    );
    assert_eq!((guest.state().as_str(), workers.points()), ("running", 1));
    wanted.restore = Restore::Replace(replace.clone());
    let replaced = workers.bring_back(&wanted);
    let safety = replaced.safety_point.expect("a point of the state before");
    assert_eq!(safety.tags["reason"], "before-restore");
    assert_eq!(workers.points(), 2);
    assert_eq!(guest.state(), "shut off");
    wanted.restore =
        Restore::Replace(RestoreReplace { power: Some(PowerAfter::Start), ..replace.clone() });
    let again = workers.bring_back(&wanted);
    assert_eq!(json(&again.report)["done_before"], true, "{:#}", json(&again.report));
    assert_eq!(again.safety_point, Some(safety));
    assert_eq!((guest.state().as_str(), workers.points()), ("running", 2));
    // Another order has to wait until it is decided which disks stay.
    let other = workers.restore(&order, &done, Restore::Replace(replace.clone()));
    let refused = workers.agent.restore(&other, &Watch::silent()).expect_err("not decided");
    assert_eq!(refused.code.as_str(), "restore.unfinished");
    guest.destroy();
    host.json(&["restore", "undo", "--vm", "web", "--yes"]);

    // And of one that is not there any more.
    guest.virsh("undefine", &[]);
    let wanted = workers.restore(&order, &done, Restore::Replace(replace));
    let missing = workers.agent.restore(&wanted, &Watch::silent()).expect_err("gone");
    assert_eq!(missing.code.as_str(), "source.missing", "{missing:?}");
}

#[test]
fn a_machine_runs_at_once_however_often_it_is_asked() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(64), Disk::raw(48)]).up(3);
    let workers = Workers::of(&host);
    let order = workers.order(&guest);
    let done = workers.backup(&order);
    guest.destroy();
    let to = folder(&host, "copies");
    let restore = RestoreMachine {
        name: Some("copy".to_owned()),
        storage_dirs: [("*".to_owned(), to.clone())].into(),
        instant: true,
        ..RestoreMachine::default()
    };
    let mut wanted = workers.restore(&order, &done, Restore::Machine(restore));
    wanted.limit_rate = Some(50 << 10);
    let running = Elsewhere::start(&host, "restore", &wanted);
    let images = ["copy-vda.qcow2", "copy-vdb.raw"].map(|name| Path::new(&to).join(name));
    let copy = Guest::known(&host, "copy", &[&images[0], &images[1]]);
    let runs = || host.try_virsh(&["domstate", "copy"]).stdout.trim() == "running";
    assert!(within(60, runs), "it does not run");
    copy.wait_agent();
    copy.wait_records(2);
    let (records, _) = copy.last_records();
    running.kill();
    // The job is cancelled.
    let watch = Watch::silent();
    let stopped = std::thread::scope(|scope| {
        let work = scope.spawn(|| workers.agent.restore(&wanted, &watch));
        assert!(!within(3, || work.is_finished()), "it has ended");
        watch.cancel.cancel();
        work.join().expect("ends")
    });
    assert_eq!(stopped.expect_err("stopped").code.as_str(), "restore.paused");
    assert_eq!(copy.state(), "paused");
    wanted.limit_rate = None;
    let restored = json(&workers.bring_back(&wanted).report);
    assert!(restored["instant"]["started_seconds"].is_null(), "{restored:#}");
    assert_eq!(copy.state(), "running");
    assert_eq!(fs::read_dir(&to).expect("a folder").count(), 2);
    assert!(copy.last_records().0 >= records);
    // Asked once more, it is done.
    assert_eq!(json(&workers.bring_back(&wanted).report)["done_before"], true);
    copy.shutdown();
    checked(&images, Taken::Frozen);
}
