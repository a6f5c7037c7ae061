//! Machines that run at once, while their disks are restored: nothing that the guest has written is lost, whatever
//! dies meanwhile.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::{
    after::failed,
    check::{Taken, check},
    documented::assert_documented,
    guest::{Disk, Guest},
    harness::{Host, Run, tool, within},
    restore::{files, folder, words},
    store::Store,
};

/// Bytes a second, so that the guest is up long before its disks are complete.
const SLOW: &str = "300K";

/// A machine `web` with some records is backed up, and off. Its restore as `copy` writes to the folder.
fn backed_up(host: &Host) -> String {
    let guest = Guest::web(host, [Disk::qcow2(64), Disk::raw(48)]).up(5);
    host.json(&["backup", "--vm", "web"]);
    guest.destroy();
    folder(host, "copies")
}

/// The restore of `copy`, in a process group of its own.
struct Restore(Child);

impl Restore {
    fn start(host: &Host, to: &str, rate: &str) -> Self {
        let more = ["--instant", "--name", "copy", "--storage-dir", to, "--limit-rate", rate];
        let words = [&words(&more)[..], &["--output", "json"]].concat();
        let mut command = host.command(&words);
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().expect("it starts"))
    }

    fn signal(&self, name: &str) {
        tool("kill", &[&format!("-{name}"), "--", &format!("-{}", self.0.id())]);
    }

    fn end(self) -> Run {
        Run::of(&self.0.wait_with_output().expect("it ends"))
    }

    fn report(self) -> Value {
        let run = self.end();
        assert_eq!(run.code, 0, "{run:?}");
        serde_json::from_str(&run.stdout).expect("JSON")
    }
}

fn disks(to: &str) -> [PathBuf; 2] {
    ["copy-vda.qcow2", "copy-vdb.raw"].map(|name| Path::new(to).join(name))
}

fn known<'h>(host: &'h Host, to: &str) -> Guest<'h> {
    let [a, b] = disks(to);
    Guest::known(host, "copy", &[&a, &b])
}

/// Waits until the recovery point is served.
fn wait_served(host: &Host) {
    let served = || {
        let folders = fs::read_dir(host.lab.path("r/strongroom")).into_iter().flatten().flatten();
        folders.into_iter().any(|folder| UnixStream::connect(folder.path().join("nbd")).is_ok())
    };
    assert!(within(30, served), "nothing is served");
}

/// Whether the guest has read its whole disk, which it writes on its console.
fn read_all(host: &Host) -> bool {
    let console = fs::read(host.lab.path("web.console.copy")).unwrap_or_default();
    String::from_utf8_lossy(&console).contains("all was read")
}

/// Waits until the machine runs and its guest answers.
fn wait_up(host: &Host, guest: &Guest<'_>) {
    let runs = || host.try_virsh(&["domstate", "copy"]).stdout.trim() == "running";
    assert!(within(30, runs), "it never runs");
    guest.wait_agent();
}

/// Waits until the machine runs and is not stopped again by what it reads.
fn wait_steady(guest: &Guest<'_>) {
    let mut looks = 0;
    let steady = || {
        looks = if guest.state() == "running" { looks + 1 } else { 0 };
        looks > 20
    };
    assert!(within(60, steady), "{}", guest.state());
    guest.wait_agent();
}

/// The disks are complete and nothing else is left; the machine uses them as it would after any restore.
fn assert_ended(host: &Host, to: &str) {
    assert_eq!(files(to), ["copy-vda.qcow2", "copy-vdb.raw"]);
    for form in [&["dumpxml", "copy"][..], &["dumpxml", "copy", "--inactive"]] {
        let xml = host.virsh(form);
        for disk in disks(to) {
            assert!(xml.contains(&format!("file='{}'", disk.display())), "{xml}");
        }
        assert!(!xml.contains("nbd") && !xml.contains("overlay"), "{xml}");
    }
    let xml = host.virsh(&["dumpxml", "copy", "--inactive"]);
    assert!(!xml.contains("error_policy") && xml.contains("discard='unmap'"), "{xml}");
    let left = fs::read_dir(host.lab.path("r/strongroom")).into_iter().flatten().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("instant")), "{left:?}");
}

/// Shuts the guest down: its disks are clean, with at least so many records on each.
fn assert_kept(guest: &Guest<'_>, to: &str, records: u64) {
    guest.shutdown();
    let [a, b] = disks(to);
    let cut = check(&[&a, &b], Taken::Frozen).unwrap();
    assert!(cut.records.0 >= records && cut.records.1 >= records, "{cut:?}, not {records}");
}

#[test]
fn a_machine_runs_at_once_and_gets_its_disks() {
    let host = Host::new();
    let to = backed_up(&host);
    let restore = Restore::start(&host, &to, SLOW);
    let guest = known(&host, &to);
    wait_up(&host, &guest);
    guest.wait_records(5);
    let (before, _) = guest.last_records();
    assert!(before >= 10, "{before}");
    let now = files(&to).join(" ");
    assert!(
        now.contains("copy-vda.qcow2.overlay") && now.contains("copy-vdb.raw.partial"),
        "{now}"
    );
    // Neither a second one, nor one of the other kind.
    let again = ["--name", "copy", "--storage-dir", &to];
    failed(&host.strongroom(&[&words(&again)[..], &["--output", "json"]].concat()), "vm.busy");
    let undo = ["restore", "undo", "--vm", "copy", "--yes", "--output", "json"];
    failed(&host.strongroom(&undo), "vm.busy");

    let run = restore.end();
    assert_eq!(run.code, 0, "{run:?}");
    let report: Value = serde_json::from_str(&run.stdout).expect("JSON");
    println!("{report:#}");
    assert_documented("restore vm --instant", &report);
    let instant = &report["instant"];
    let phases = instant["phases"].as_array().expect("a list");
    let names: Vec<&str> = phases.iter().map(|it| it["phase"].as_str().expect("text")).collect();
    assert_eq!(names, ["connect", "define", "start", "fill", "pivot", "finish"]);
    let sum: f64 = phases.iter().map(|it| it["seconds"].as_f64().expect("a number")).sum();
    assert!((sum - report["seconds"].as_f64().unwrap()).abs() < 1.0, "{report:#}");
    for name in names {
        assert!(run.stderr.contains(&format!("{name}: ")), "{}", run.stderr);
    }
    assert!(instant["started_seconds"].as_f64().unwrap() < 10.0, "{report:#}");
    let paused = instant["paused_seconds"].as_f64().unwrap();
    assert!(paused > 0.0 && paused < 3.0, "{report:#}");
    assert_eq!((guest.state().as_str(), &report["state"]), ("running", &"running".into()));
    assert_ended(&host, &to);
    guest.wait_records(3);
    let (last, _) = guest.last_records();
    assert!(last > before, "{last}");
    assert_kept(&guest, &to, last);
    // It starts from its disks alone.
    fs::rename(host.lab.path("vault"), host.lab.path("gone")).unwrap();
    guest.boot();
    guest.wait_records(2);
}

#[test]
fn whoever_dies_meanwhile_nothing_is_lost() {
    let host = Host::new();
    let to = backed_up(&host);
    let guest = known(&host, &to);
    // The command is killed: the guest stands still at its next read at the latest, and continues.
    let restore = Restore::start(&host, &to, "50K");
    wait_up(&host, &guest);
    guest.wait_records(3);
    let (first, _) = guest.last_records();
    restore.signal("KILL");
    restore.end();
    let other = ["--name", "copy", "--storage-dir", &to];
    let run = host.strongroom(&[&words(&other)[..], &["--output", "json"]].concat());
    assert!(failed(&run, "restore.unfinished").contains("with --instant"), "{run:?}");
    let restore = Restore::start(&host, &to, "50K");
    wait_served(&host);
    wait_steady(&guest);
    guest.wait_records(2);
    // QEMU is killed with it, as when the host dies.
    let (second, _) = guest.last_records();
    assert!(second > first, "{first} {second}");
    restore.signal("KILL");
    restore.end();
    guest.kill_qemu();
    // Somebody removes the machine from libvirt, and gives it back: its overlays are not made again.
    let xml = host.lab.path("copy.xml");
    fs::write(&xml, host.virsh(&["dumpxml", "copy", "--inactive", "--security-info"])).unwrap();
    guest.virsh("undefine", &[]);
    let same = words(&["--instant", "--name", "copy", "--storage-dir", &to, "--output", "json"]);
    let said = failed(&host.strongroom(&same), "restore.unfinished");
    assert!(said.contains("define it again"), "{said}");
    host.virsh(&["define", xml.to_str().unwrap()]);
    let restore = Restore::start(&host, &to, "50K");
    wait_up(&host, &guest);
    assert!(guest.last_records().0 >= second, "{:?}, not {second}", guest.last_records());
    guest.wait_records(2);
    let (third, _) = guest.last_records();
    // It is stopped on request: the machine is paused, and runs again with the same command.
    restore.signal("INT");
    let run = restore.end();
    assert_eq!(run.code, 130, "{run:?}");
    failed(&run, "restore.paused");
    assert_eq!(guest.state(), "paused");
    let restore = Restore::start(&host, &to, SLOW);
    assert!(within(20, || guest.state() == "running"), "{}", guest.state());
    // QEMU alone is killed: its disks become complete without it.
    guest.kill_qemu();
    let report = restore.report();
    assert_eq!((guest.state().as_str(), &report["state"]), ("shut off", &"off".into()));
    assert_eq!(report["instant"]["paused_seconds"], 0.0, "{report:#}");
    assert_ended(&host, &to);
    guest.boot();
    assert!(guest.last_records().0 >= third, "{:?}, not {third}", guest.last_records());
    guest.wait_records(2);
    let (last, _) = guest.last_records();
    assert_kept(&guest, &to, last);
}

/// A way to a store, which can be cut.
struct Wire {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
}

impl Wire {
    fn to(store: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_cut = Arc::new(AtomicBool::new(false));
        let cut = Arc::clone(&is_cut);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A connection that is closed at once is what a dead server gives.
                let Ok(server) = TcpStream::connect(store) else { continue };
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let cut = Arc::clone(&cut);
                    thread::spawn(move || {
                        let mut buf = [0; 1 << 14];
                        while let Ok(1..) = from.peek(&mut buf) {
                            if cut.load(Ordering::SeqCst) {
                                break;
                            }
                            let Ok(len) = from.read(&mut buf) else { break };
                            if to.write_all(&buf[..len]).is_err() {
                                break;
                            }
                        }
                        to.shutdown(Shutdown::Both).ok();
                        from.shutdown(Shutdown::Both).ok();
                    });
                }
            }
        });
        Self { address, is_cut }
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }
}

#[test]
fn a_store_that_does_not_answer_stops_the_guest_for_a_while() {
    let mut host = Host::new();
    let _store = Store::start("moto", &mut host.lab);
    let url = host.lab.get("STRONGROOM_VAULT");
    let (_, store) = url.split_once("endpoint=http://").unwrap();
    let store = store.split_once('&').unwrap().0;
    let wire = Wire::to(store.parse().unwrap());
    host.lab.set("STRONGROOM_VAULT", &url.replace(store, &wire.address.to_string()));
    host.lab.ok("vault create");
    let to = backed_up(&host);
    let guest = known(&host, &to);
    let restore = Restore::start(&host, &to, "100K");
    wait_up(&host, &guest);
    guest.wait_records(2);
    let (before, _) = guest.last_records();
    wire.cut(true);
    // The whole of its disk is read.
    let read = "dd if=/dev/vda of=/dev/null bs=1M iflag=direct";
    let read = format!("{read}; echo $? >/run/read; echo all was read >/dev/console");
    let arguments = json!({"path": "/bin/sh", "arg": ["-c", read]});
    guest.agent("guest-exec", &arguments);
    // It stands still; at most it is resumed for moments.
    assert!(!within(15, || read_all(&host)), "it has read what it cannot have");
    wire.cut(false);
    assert!(within(90, || read_all(&host)), "it does not continue");
    wait_steady(&guest);
    assert_eq!(guest.sh("cat /run/read"), "0", "the guest saw an error");
    guest.wait_records(2);
    assert!(guest.last_records().0 > before);
    println!("{:#}", restore.report());
    assert_ended(&host, &to);
    let (last, _) = guest.last_records();
    assert_kept(&guest, &to, last);
}

#[test]
fn a_machine_that_is_not_wanted_any_more_leaves_nothing() {
    let host = Host::new();
    let to = backed_up(&host);
    let guest = known(&host, &to);
    let restore = Restore::start(&host, &to, "100K");
    wait_up(&host, &guest);
    restore.signal("INT");
    failed(&restore.end(), "restore.paused");
    let planned = host.strongroom(&["restore", "undo", "--vm", "copy", "--dry-run"]);
    assert!(planned.stdout.contains("Remove copy"), "{planned:?}");
    let accept = host.strongroom(&["restore", "accept", "--vm", "copy", "--yes"]);
    assert!(accept.code == 2 && accept.stderr.contains("--instant"), "{accept:?}");
    let report = host.json(&["restore", "undo", "--vm", "copy", "--yes"]);
    assert_documented("restore accept", &report);
    assert_eq!(report["decision"], "removed");
    assert!(files(&to).is_empty(), "{:?}", files(&to));
    assert!(!host.virsh(&["list", "--all", "--name"]).contains("copy"));
    // The point is as it was.
    host.json(&words(&["--name", "copy", "--storage-dir", &to]));
    let [a, b] = disks(&to);
    check(&[&a, &b], Taken::Frozen).unwrap();
}
