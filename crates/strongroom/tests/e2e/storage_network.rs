//! Storage accounts at two servers with a bad network between them: cut, slow, silent, coming and going.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;
use strongroom_azure as azure;
use strongroom_base::{Clock as _, SystemClock, start_thread};
use strongroom_storage_client::{Client, Trust, place};
use strongroom_testing::{free_port, wait_until};

use crate::{
    harness::{Lab, need},
    storage::Served,
    storage_pair::{Writers, assert_there, assert_writes, client, client_trusting, download},
};

const FOLDERS: [&str; 2] = ["a", "b"];
const OPEN: u8 = 0;
/// Connections stay, and nothing passes.
const SILENT: u8 = 1;
/// Connections end, and new ones are refused.
const CUT: u8 = 2;

/// A network between two servers on this machine, whose every byte comes late.
struct Network {
    port: u16,
    state: Arc<AtomicU8>,
}

impl Network {
    fn to(port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let own = listener.local_addr().expect("an address").port();
        let state = Arc::new(AtomicU8::new(OPEN));
        let seen = Arc::clone(&state);
        start_thread("network", move || {
            for client in listener.incoming() {
                let client = client.expect("a connection");
                if seen.load(Ordering::Relaxed) == CUT {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) =
                        (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                    carry(from, to, delay, Arc::clone(&seen));
                }
            }
        });
        Self { port: own, state }
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
    }
}

/// Carries bytes from one socket to another, each a while later.
fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration, state: Arc<AtomicU8>) {
    let (sender, late): (_, Receiver<(Duration, Vec<u8>)>) = channel();
    let of = Arc::clone(&state);
    from.set_read_timeout(Some(Duration::from_millis(50))).expect("is set");
    start_thread("carry in", move || {
        let mut buffer = vec![0; 64 << 10];
        while of.load(Ordering::Relaxed) != CUT {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let due = SystemClock.monotonic() + delay;
                    if sender.send((due, buffer[..length].to_vec())).is_err() {
                        break;
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => break,
            }
        }
        from.shutdown(Shutdown::Both).ok();
    });
    start_thread("carry out", move || {
        while let Ok((due, bytes)) = late.recv() {
            while state.load(Ordering::Relaxed) == SILENT {
                SystemClock.sleep(Duration::from_millis(20));
            }
            SystemClock.sleep(due.saturating_sub(SystemClock.monotonic()));
            if state.load(Ordering::Relaxed) == CUT || to.write_all(&bytes).is_err() {
                break;
            }
        }
        to.shutdown(Shutdown::Both).ok();
    });
}

fn show(lab: &Lab, folder: &str) -> Value {
    lab.json(&format!("storage replication show --data-dir {folder}"))
}

fn wait_in_step(lab: &Lab) {
    wait_until("the secondary is in step", || {
        let (there, here) = (show(lab, "a"), show(lab, "b"));
        here["state"] == "live" && here["records"] == there["records"]
    });
}

/// The Last Sync Time at the secondary.
fn synced(lab: &Lab) -> Option<Timestamp> {
    show(lab, "b")["last_sync_time"].as_str().map(|text| text.parse().expect("a time"))
}

/// Checks that everything that was answered before the Last Sync Time can be read at the secondary.
fn assert_synced(lab: &Lab, far: &Client, writers: &Writers) -> Option<Timestamp> {
    let until = synced(lab)?;
    let answered = writers.answered();
    assert_there(&download(far, "vms/numbers"), &answered, Some(until));
    Some(until)
}

#[test]
fn a_slow_a_silent_and_a_cut_network_lose_nothing() {
    let lab = Lab::empty();
    let ports = [free_port(), free_port()];
    let networks = ports.map(|port| Network::to(port, Duration::from_millis(40)));
    let serve = |server: usize| {
        let (folder, port) = (FOLDERS[server], ports[server]);
        let words =
            format!("storage serve --data-dir {folder} --listen 127.0.0.1:{port} --tls off");
        Served::start(&lab, &words)
    };
    lab.ok("storage account create disks --data-dir a");
    let _first = serve(0);
    lab.ok("container create vms --account disks --data-dir a");
    let url = |server: usize| format!("http://127.0.0.1:{}", networks[server].port);
    lab.ok(&format!("storage replication invite --data-dir a --url {} --file invitation", url(0)));
    lab.ok(&format!(
        "storage replication join --data-dir b --url {} --invitation-file invitation",
        url(1)
    ));
    let _second = serve(1);
    lab.ok("storage account update disks --redundancy ra-grs --data-dir a");
    let near = || client(&lab, &format!("http://127.0.0.1:{}", ports[0]), false);
    let far = client(&lab, &format!("http://127.0.0.1:{}", ports[1]), true);
    let writers = Writers::start(near, "vms/numbers", 3, Duration::from_millis(2));

    // 80 ms there and back: the secondary keeps up, a little behind.
    wait_until("much is written", || writers.count() > 1000);
    wait_in_step_while_written(&lab);
    assert_synced(&lab, &far, &writers).expect("it is in step");

    // Nothing passes any more, and no connection says so.
    networks[0].set(SILENT);
    wait_until("the silence is noticed", || show(&lab, "b")["state"] == "unavailable");
    let before = assert_synced(&lab, &far, &writers).expect("it was in step");
    let written = writers.count();
    wait_until("the primary is written all the same", || writers.count() > written + 100);
    assert_eq!(synced(&lab), Some(before), "nothing is claimed that is not there");
    networks[0].set(OPEN);
    wait_until("the time moves", || synced(&lab) > Some(before));

    // Connections end again and again.
    for _ in 0..5 {
        networks[0].set(CUT);
        SystemClock.sleep(Duration::from_millis(150));
        networks[0].set(OPEN);
        SystemClock.sleep(Duration::from_millis(400));
        assert_synced(&lab, &far, &writers);
    }
    // The failover itself goes over the same network.
    let failed_over = lab.json("storage account failover --yes --data-dir b");
    assert_eq!((&failed_over["planned"], &failed_over["lost_records"]), (&true.into(), &0.into()));
    let answered = writers.end();
    let there = client(&lab, &format!("http://127.0.0.1:{}", ports[1]), false);
    assert_writes(&download(&there, "vms/numbers"), &answered, None);
}

/// Waits until the secondary is live while the primary is written.
fn wait_in_step_while_written(lab: &Lab) {
    wait_until("the secondary keeps up", || {
        let shown = show(lab, "b");
        shown["state"] == "live" && shown["lag_seconds"].as_u64().is_some_and(|seconds| seconds < 5)
    });
}

/// Two network namespaces with a link between them, and one from each to this one. They are gone with it.
struct Namespaces {
    id: u32,
}

impl Namespaces {
    /// None where namespaces cannot be made.
    #[expect(clippy::print_stdout, reason = "a test that is not tried says so")]
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("network namespaces need root: not tried");
            return None;
        }
        need("ip", "iproute2");
        let it = Self { id: std::process::id() % 50_000 };
        let id = it.id;
        if !ip(&format!("netns add sr{id}a")) {
            println!("network namespaces cannot be made here: not tried");
            return None;
        }
        let mut all = vec![format!("netns add sr{id}b")];
        all.push(format!("link add l{id}a netns sr{id}a type veth peer name l{id}b netns sr{id}b"));
        let net = it.net();
        for (number, side) in [(1, "a"), (2, "b")] {
            let (name, own) = (format!("sr{id}{side}"), format!("h{id}{side}"));
            all.push(format!("link add {own} type veth peer name near netns {name}"));
            all.push(format!("addr add {net}.{number}.1/24 dev {own}"));
            all.push(format!("link set {own} up"));
            all.push(format!("-n {name} addr add {net}.{number}.2/24 dev near"));
            all.push(format!("-n {name} addr add {net}.9.{number}/24 dev l{id}{side}"));
            for device in ["lo".to_owned(), "near".to_owned(), format!("l{id}{side}")] {
                all.push(format!("-n {name} link set {device} up"));
            }
            // By its way to others a server finds the address that its certificate is for.
            all.push(format!("-n {name} route add default via {net}.{number}.1"));
        }
        for words in all {
            assert!(ip(&words), "ip {words}");
        }
        Some(it)
    }

    /// What the addresses begin with: a test that was killed leaves its namespaces behind.
    fn net(&self) -> String {
        format!("10.{}", 64 + self.id % 128)
    }

    /// The link between the servers.
    fn link(&self, is_up: bool) {
        let id = self.id;
        assert!(ip(&format!("-n sr{id}a link set l{id}a {}", if is_up { "up" } else { "down" })));
    }

    fn serve(&self, lab: &Lab, side: &str) -> Served {
        let inner = lab.command(&format!("storage serve --data-dir {side} --listen 0.0.0.0:10000"));
        Served::start_by(self.inside(&inner, side))
    }

    /// A command, in the namespace of a server.
    fn inside(&self, inner: &Command, side: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("sr{}{side}", self.id)]);
        command.arg(inner.get_program()).args(inner.get_args());
        command.env_clear();
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(inner.get_current_dir().expect("a folder"));
        command
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for side in FOLDERS {
            ip(&format!("link del h{}{side}", self.id));
            ip(&format!("netns del sr{}{side}", self.id));
        }
    }
}

fn ip(words: &str) -> bool {
    let ran = Command::new("ip").args(words.split(' ')).output().expect("ip runs");
    ran.status.success()
}

#[test]
fn a_link_that_goes_down_stops_nobody_and_loses_nothing() {
    let Some(spaces) = Namespaces::new() else { return };
    let lab = Lab::empty();
    lab.ok("storage account create disks --data-dir a");
    let _first = spaces.serve(&lab, "a");
    let trust = |side: &str| Trust::CaFile(lab.path(side).join("certificate.pem"));
    let net = spaces.net();
    let near = || client_trusting(&lab, &format!("https://{net}.1.2:10000"), false, trust("a"));
    let azure::Resource::Container(vms) = place("vms").expect("a place") else {
        panic!("no container")
    };
    near().create_container(&vms, &azure::Metadata::default()).expect("is made");
    lab.ok(&format!(
        "storage replication invite --data-dir a --url https://{net}.9.1:10000 --file invitation"
    ));
    let join = lab.command(&format!("storage replication join --data-dir b --url https://{net}.9.2:10000 --invitation-file invitation"));
    let joined = spaces.inside(&join, "b").output().expect("runs");
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let _second = spaces.serve(&lab, "b");
    lab.ok("storage account update disks --redundancy ra-grs --data-dir a");
    wait_in_step(&lab);
    let far = client_trusting(&lab, &format!("https://{net}.2.2:10000"), true, trust("b"));
    let writers = Writers::start(near, "vms/numbers", 2, Duration::from_millis(1));
    wait_until("much is written", || writers.count() > 500);
    wait_in_step_while_written(&lab);

    spaces.link(false);
    wait_until("the cut is noticed", || show(&lab, "b")["state"] == "unavailable");
    if std::env::var_os("STRONGROOM_LONG").is_some() {
        wait_until("the primary notices it", || show(&lab, "a")["state"] == "unavailable");
    }
    let before = assert_synced(&lab, &far, &writers).expect("it was in step");
    let written = writers.count();
    wait_until("the primary is written all the same", || writers.count() > written + 200);
    let refused =
        lab.fails("storage account failover --yes --data-dir b", 4, "storage.failover_loses");
    assert!(refused.to_string().contains("writes after"), "{refused}");
    spaces.link(true);
    wait_until("the time moves", || synced(&lab) > Some(before));

    let flaps = if std::env::var_os("STRONGROOM_LONG").is_some() { 60 } else { 6 };
    for flap in 0..flaps {
        spaces.link(false);
        SystemClock.sleep(Duration::from_millis(100 + 37 * (flap % 13)));
        spaces.link(true);
        SystemClock.sleep(Duration::from_millis(100 + 53 * (flap % 11)));
        assert_synced(&lab, &far, &writers);
    }
    wait_in_step_while_written(&lab);
    let answered = writers.end();
    wait_in_step(&lab);
    assert_writes(&download(&far, "vms/numbers"), &answered, None);
    assert!(download(&far, "vms/numbers") == download(&near(), "vms/numbers"));
}
