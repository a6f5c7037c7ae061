//! Recovery points that are booted to see whether they do: what boots and what does not is known apart, and nothing is
//! left.

use std::{fs, os::unix::process::CommandExt as _, path::Path, process::Stdio};

use serde_json::Value;

use crate::{
    after::failed,
    documented::assert_documented,
    guest::{Disk, Guest},
    harness::{Host, Mounted, Run, tool, within},
    restore::folder,
};

const LATEST: [&str; 6] = ["verify", "boot", "--item", "web", "--recovery-point", "latest"];

fn words<'a>(scratch: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&LATEST[..], &["--storage-dir", scratch], more].concat()
}

/// A verification that has to fail: its report.
fn fails(host: &Host, scratch: &str, more: &[&str]) -> Value {
    let run = host.strongroom(&[&words(scratch, more)[..], &["--output", "json"]].concat());
    assert_eq!(run.code, 7, "{run:?}");
    let error: Value = serde_json::from_str(&failed(&run, "boot.failed")).expect("JSON");
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert!(report["reason"].is_string(), "{report:#}");
    assert_eq!(error["params"]["reason"], report["reason"]);
    assert_eq!(report["verdict"], "failed");
    report
}

fn outcome<'r>(report: &'r Value, rung: &str) -> (&'r str, &'r str) {
    let rungs = report["rungs"].as_array().expect("rungs");
    let one = rungs.iter().find(|one| one["rung"] == rung).expect("every rung");
    (one["outcome"].as_str().expect("text"), one["reason"].as_str().expect("text"))
}

/// Neither a machine, nor a file, nor a process of a verification.
fn assert_nothing_left(host: &Host, scratch: &str) {
    let known = host.virsh(&["list", "--all", "--name"]);
    assert!(!known.contains("strongroom-boot"), "{known}");
    assert_eq!(fs::read_dir(scratch).expect("a folder").count(), 0);
    let run = fs::read_dir(host.lab.path("r/strongroom")).into_iter().flatten().flatten();
    let run: Vec<_> = run.map(|entry| entry.file_name()).collect();
    assert!(run.iter().all(|name| !name.to_string_lossy().starts_with("boot-")), "{run:?}");
}

#[test]
fn a_point_that_boots_is_known_to() {
    let host = Host::new();
    let scratch = folder(&host, "scratch");
    let nic = "<interface type='user'><mac address='52:54:00:11:22:33'/></interface>";
    let web = Guest::named("web").disk(Disk::qcow2(64)).disk(Disk::raw(48)).vga().xml(nic);
    let guest = web.cmdline("lab.login lab.listen=8080").create(&host).up(5);
    host.json(&["backup", "--vm", "web"]);
    guest.wait_records(1);
    let records = guest.last_records().0;

    // Beside its original, which runs.
    let report = host.json(&words(&scratch, &[]));
    println!("{report:#}");
    assert_documented("verify boot", &report);
    assert_eq!((&report["verdict"], &report["expected"]), (&"passed".into(), &"agent".into()));
    assert_eq!((&report["expected_by"], &report["reached"]), (&"agent".into(), &"agent".into()));
    for rung in ["file_systems", "power_on", "firmware", "kernel", "login", "agent"] {
        assert_eq!(outcome(&report, rung).0, "reached", "{report:#}");
    }
    for rung in ["digests", "services", "script"] {
        assert_eq!(outcome(&report, rung).0, "not_tried", "{report:#}");
    }
    assert!(outcome(&report, "file_systems").1.starts_with("2 opened (disk vda, disk vdb)"));
    assert_nothing_left(&host, &scratch);
    // The original has noticed nothing.
    assert_eq!(guest.state(), "running");
    guest.wait_records(1);
    assert!(guest.last_records().0 > records);

    // What shows it is kept.
    let (picture, console) = (host.lab.path("screen"), host.lab.path("console"));
    let (picture, console) = (picture.to_str().unwrap(), console.to_str().unwrap());
    let point = report["recovery_point"].as_str().unwrap();
    let show = ["verify", "show", "--item", "web", "--recovery-point", point];
    let kept = host.json(&[&show[..], &["--screenshot", picture, "--console", console]].concat());
    assert_eq!(kept, report);
    let picture = fs::read(picture).expect("a picture");
    assert!(picture.starts_with(b"\x89PNG") || picture.starts_with(b"P6"), "{:?}", &picture[..8]);
    let console = fs::read_to_string(console).expect("text");
    assert!(console.contains("web login: ") && console.contains("agent started"), "{console}");
    let list = host.json(&["verify", "list", "--item", "web"]);
    assert_documented("verify list", &list);
    assert_eq!(list["boots"][0]["recovery_point"], report["recovery_point"]);
    assert_eq!(list["boots"][0]["verdict"], "passed");

    let booted = ["recoverypoint", "show", "--item", "web", "--recovery-point", "booted"];
    let shown = host.json(&booted);
    assert_eq!(shown["recovery_point"]["boot"], list["boots"][0]);

    // What the guest is asked.
    let asked = ["--port", "8080", "--script", "/bin/true", "--read-all", "--no-record"];
    let report = host.json(&words(&scratch, &asked));
    for rung in ["digests", "services", "script"] {
        assert_eq!(outcome(&report, rung).0, "reached", "{report:#}");
    }
    let report = fails(&host, &scratch, &["--script", "/bin/false", "--no-record"]);
    assert_eq!(report["reached"], "agent");
    assert!(outcome(&report, "script").1.contains("/bin/false ended with 1"), "{report:#}");
    let asked = ["--port", "8081", "--timeout", "20s", "--no-record"];
    let report = fails(&host, &scratch, &asked);
    assert!(outcome(&report, "services").1.contains("nothing listens at port 8081"), "{report:#}");
    let list = host.json(&["verify", "list", "--item", "web"]);
    assert_eq!(list["boots"].as_array().map(Vec::len), Some(1));
    assert_nothing_left(&host, &scratch);
    // Its screen is that of the next point.
    assert!(kept["picture"]["compared_with"].is_null(), "{kept:#}");
    assert_eq!(list["boots"][0]["picture_hash"], kept["picture"]["hash"]);
    host.json(&["backup", "--vm", "web"]);
    let next = host.json(&words(&scratch, &[]));
    assert_eq!(next["picture"]["compared_with"], point, "{next:#}");
    assert_eq!(next["picture"]["is_alike"], true, "{next:#}");
    let run = host.strongroom(&["verify", "show", "--item", "web", "--recovery-point", "latest"]);
    assert!(run.stdout.contains(&format!("Picture: like that of {point} ")), "{run:?}");
    // The next restore that runs at once reads first what the boot has read: it is there.
    let to = folder(&host, "copies");
    let copy = ["restore", "vm", "--item", "web", "--recovery-point", "latest", "--instant"];
    host.json(&[&copy[..], &["--name", "copy", "--storage-dir", &to]].concat());
}

#[test]
fn what_does_not_boot_is_told_apart() {
    let host = Host::new();
    let scratch = folder(&host, "scratch");
    // Nothing to start on its disk.
    let web = Guest::named("web").disk(Disk::raw(16).blank()).vga().bios();
    let guest = web.create(&host);
    host.json(&["backup", "--vm", "web"]);
    let report = fails(&host, &scratch, &["--idle", "4s"]);
    assert_eq!(
        (&report["expected"], &report["expected_by"]),
        (&"kernel".into(), &"default".into())
    );
    assert_eq!(report["reached"], "power_on", "{report:#}");
    assert!(outcome(&report, "firmware").1.contains("found nothing to start"), "{report:#}");
    assert_eq!(outcome(&report, "file_systems").0, "not_tried", "{report:#}");
    let first = report["recovery_point"].as_str().unwrap().to_owned();
    guest.virsh("undefine", &[]);

    // A kernel that panics: it has no root file system.
    let web = Guest::named("web").disk(Disk::image(guest.disk_path("vda"), "raw"));
    let guest = web.cmdline("rdinit=/none root=/dev/none").create(&host);
    let other = ["backup", "--vm", "web", "--item", "panic"];
    host.json(&other);
    let run = host.strongroom(&[
        "verify",
        "boot",
        "--item",
        "panic",
        "--recovery-point",
        "latest",
        "--storage-dir",
        &scratch,
        "--output",
        "json",
    ]);
    assert_eq!(run.code, 7, "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let reason = report["reason"].as_str().unwrap();
    assert!(reason.contains("kernel") && reason.contains("root"), "{report:#}");
    guest.virsh("undefine", &[]);

    // It is known of the point wherever it is seen.
    let list = host.json(&["verify", "list", "--item", "web"]);
    assert_eq!(list["boots"][0]["verdict"], "failed");
    let booted = ["restore", "vm", "--item", "web", "--recovery-point", "booted", "--dry-run"];
    let run = host.strongroom(&[&booted[..], &["--output", "json"]].concat());
    failed(&run, "boot.not_found");
    let run = host.strongroom(&["recoverypoint", "list", "--item", "web"]);
    assert!(run.stdout.contains("BOOTS") && run.stdout.contains("  no\n"), "{run:?}");
    let run =
        host.strongroom(&["recoverypoint", "show", "--item", "web", "--recovery-point", &first]);
    assert!(run.stdout.contains("does not boot"), "{run:?}");
    let restore = ["restore", "vm", "--item", "web", "--recovery-point", &first, "--dry-run"];
    let run = host.strongroom(&[&restore[..], &["--name", "copy"]].concat());
    assert!(run.stderr.contains("did not boot from this recovery point"), "{run:?}");
    assert_nothing_left(&host, &scratch);
}

#[test]
fn an_agent_that_never_answers_is_missed() {
    let host = Host::new();
    let scratch = folder(&host, "scratch");
    let web = Guest::named("web").disk(Disk::qcow2(64)).disk(Disk::raw(48)).cmdline("lab.noagent");
    let guest = web.create(&host);
    guest.start();
    assert!(within(60, || guest.console().contains("workload started")), "{}", guest.console());
    host.json(&["backup", "--vm", "web"]);
    guest.destroy();
    // The least is a kernel; and it is watched further.
    let report = host.json(&words(&scratch, &["--timeout", "15s"]));
    assert_eq!((&report["verdict"], &report["reached"]), (&"passed".into(), &"kernel".into()));
    let report = fails(&host, &scratch, &["--expect", "agent", "--timeout", "15s"]);
    assert_eq!(report["reached"], "kernel", "{report:#}");
    assert!(report["reason"].as_str().unwrap().contains("the guest agent did not answer"));
    assert_nothing_left(&host, &scratch);
}

#[test]
fn a_verification_that_is_killed_leaves_nothing() {
    let host = Host::new();
    let scratch = folder(&host, "scratch");
    let guest = Guest::web(&host, [Disk::qcow2(64), Disk::raw(48)]).up(3);
    host.json(&["backup", "--vm", "web"]);
    guest.destroy();
    // Networks that are not there.
    for network in ["office", "closed"] {
        let run = words(&scratch, &["--network", network, "--output", "json"]);
        failed(&host.strongroom(&run), "host.lacks");
    }
    let limits = ["--memory", "64G", "--output", "json"];
    let error = failed(&host.strongroom(&words(&scratch, &limits)), "host.lacks");
    assert!(error.contains("--memory"), "{error}");
    assert_nothing_left(&host, &scratch);

    let asked = words(&scratch, &["--script", "/bin/never"]);
    let start = |signal: &str| {
        let mut command = host.command(&asked);
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("it starts");
        let runs = || host.virsh(&["list", "--name"]).contains("strongroom-boot");
        assert!(within(60, runs), "it never runs");
        tool("kill", &[&format!("-{signal}"), "--", &format!("-{}", child.id())]);
        Run::of(&child.wait_with_output().expect("it ends"))
    };
    start("KILL");
    let runs = || host.virsh(&["list", "--all", "--name"]).contains("strongroom-boot");
    assert!(within(60, || !runs()), "the machine of a dead command runs");
    let left = fs::read_dir(&scratch).expect("a folder").count();
    assert_eq!(left, 1, "the killed one could not remove its files");
    // Who is asked to stop does it in order, and removes what the other left.
    let run = start("INT");
    assert_eq!(run.code, 130, "{run:?}");
    assert!(run.stderr.contains("it starts over"), "{run:?}");
    assert_nothing_left(&host, &scratch);
    // A terminal that closes.
    let run = start("HUP");
    assert_eq!(run.code, 130, "{run:?}");
    assert_nothing_left(&host, &scratch);
}

#[test]
fn damaged_data_is_named_by_its_own_code() {
    let host = Host::new();
    let scratch = folder(&host, "scratch");
    let guest = Guest::web(&host, [Disk::qcow2(64), Disk::raw(48)]).up(3);
    host.json(&["backup", "--vm", "web"]);
    guest.destroy();
    let files = host.lab.files("vault");
    let packs = files.iter().filter(|(path, _)| path.to_string_lossy().contains("packs/data"));
    let (pack, size) = packs.max_by_key(|(_, size)| *size).expect("a pack");
    let mut bytes = fs::read(pack).expect("reads");
    bytes[usize::try_from(*size).expect("small") / 2] ^= 1;
    tool("chmod", &["u+w", pack.to_str().expect("text")]);
    fs::write(pack, bytes).expect("written");

    let quick = ["--read-all", "--idle", "4s", "--output", "json"];
    let run = host.strongroom(&words(&scratch, &quick));
    let error = failed(&run, "store.corrupt");
    assert_eq!(run.code, 6, "{run:?}");
    assert!(error.contains("found at the step digests"), "{error}");
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let damage = &report["damage"];
    assert_eq!((&damage["step"], &damage["code"]), (&"digests".into(), &"store.corrupt".into()));
    assert_eq!((&report["verdict"], outcome(&report, "digests").0), (&"failed".into(), "missed"));
    assert!(report["reason"].as_str().unwrap().contains("is damaged"), "{report:#}");
    // As a restore of it says.
    let to = folder(&host, "copies");
    let restore = ["restore", "vm", "--item", "web", "--recovery-point", "latest"];
    let more = ["--name", "copy", "--storage-dir", &to, "--output", "json"];
    failed(&host.strongroom(&[&restore[..], &more].concat()), "store.corrupt");
    assert_nothing_left(&host, &scratch);
}

#[test]
fn a_machine_that_outlives_its_verification_is_switched_off_by_the_next() {
    let host = Host::new();
    let scratch = folder(&host, "scratch");
    let guest = Guest::web(&host, [Disk::qcow2(64), Disk::raw(48)]).up(3);
    host.json(&["backup", "--vm", "web"]);
    guest.destroy();
    let mut command = host.command(&words(&scratch, &["--script", "/bin/never"]));
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let runs = || {
        let list = host.virsh(&["list"]);
        list.lines().any(|line| line.contains("strongroom-boot") && line.contains("running"))
    };
    assert!(within(60, runs), "it never runs");
    std::thread::sleep(std::time::Duration::from_secs(1));
    // The daemon that would switch it off dies with the command, which notices nothing.
    let group = format!("-{}", child.id());
    tool("kill", &["-STOP", "--", &group]);
    host.kill_libvirtd();
    tool("kill", &["-KILL", "--", &group]);
    child.wait().expect("ends");
    host.start_libvirtd();
    let left = fs::read_dir(&scratch).expect("a folder").count();
    assert_eq!(left, 1, "its files are there");
    assert!(within(20, runs), "the machine is gone: {}", host.virsh(&["list", "--all"]));
    host.json(&words(&scratch, &["--no-record"]));
    assert_nothing_left(&host, &scratch);

    // A disk that is full says nothing of the recovery point.
    let small = folder(&host, "small");
    if let Some(_mounted) = Mounted::tmpfs(Path::new(&small), "4M") {
        let run = host.strongroom(&words(&small, &["--output", "json"]));
        failed(&run, "disk.full");
        assert_eq!(host.json(&["verify", "list", "--item", "web"])["boots"], serde_json::json!([]));
        assert_nothing_left(&host, &small);
    }
}

#[test]
fn a_drill_says_of_each_machine_when_it_works() {
    let host = Host::new();
    let scratch = folder(&host, "scratch");
    let db = Guest::named("db").disk(Disk::qcow2(48)).create(&host).up(1);
    host.json(&["backup", "--vm", "db"]);
    db.destroy();
    let web = Guest::named("web").disk(Disk::raw(16).blank()).bios().create(&host);
    host.json(&["backup", "--vm", "web"]);
    web.virsh("undefine", &[]);
    let evidence = folder(&host, "evidence");
    let drill = |more: &[&str]| {
        let words = ["drill", "--network", "none", "--storage-dir", &scratch, "--idle", "12s"];
        host.strongroom(&[&words[..], more, &["--output", "json"]].concat())
    };
    let run = drill(&["--item", "db", "--within", "5m", "--evidence", &evidence]);
    assert_eq!(run.code, 0, "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    println!("{report:#}");
    assert_documented("drill", &report);
    let machine = &report["machines"][0];
    assert_eq!((&machine["verdict"], &machine["is_in_time"]), (&"passed".into(), &true.into()));
    let (works, starts) = (&machine["recovery_seconds"], &machine["boot"]["start_seconds"]);
    assert!(works.as_f64().unwrap() > starts.as_f64().unwrap(), "{report:#}");
    let kept = fs::read(Path::new(&evidence).join("report.json")).expect("a report");
    assert_eq!(serde_json::from_slice::<Value>(&kept).expect("JSON"), report);
    assert!(Path::new(&evidence).join("db.console.log").exists());

    // Too late; and one that does not boot beside one that does.
    let run = drill(&["--item", "db", "--within", "1s", "--no-record"]);
    assert!(failed(&run, "drill.failed").contains("db"), "{run:?}");
    let run = drill(&["--all", "--in-order"]);
    assert!(failed(&run, "drill.failed").contains("web"), "{run:?}");
    assert_eq!(run.code, 7);
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let machines = &report["machines"];
    assert_eq!((&machines[0]["item"], &machines[0]["verdict"]), (&"db".into(), &"passed".into()));
    assert_eq!((&machines[1]["item"], &machines[1]["verdict"]), (&"web".into(), &"failed".into()));
    let first = machines[0]["recovery_seconds"].as_f64().unwrap();
    assert!(report["seconds"].as_f64().unwrap() > first);
    assert_nothing_left(&host, &scratch);
    let run = drill(&["--item", "nobody"]);
    failed(&run, "item.not_found");
}
