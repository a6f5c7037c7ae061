//! The agent of this host does with real machines what orders promise.

use std::{fs, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use strongroom_agent::{LocalAgent, LocalHost, LocalKeeper, Vaults};
use strongroom_api::Source;
use strongroom_base::{Clock as _, SystemClock};
use strongroom_hypervisor::Settings;
use strongroom_machine::{Places, guard::GuardCommand};
use strongroom_orders::{
    Agent, Keeper,
    conformance::{self, World},
};

use crate::{
    guest::{Disk, Guest},
    harness::{Host, Lab},
};

struct Local<'a> {
    lab: &'a Lab,
    keeper: LocalKeeper,
    agent: LocalAgent,
    machine: Source,
}

impl<'a> Local<'a> {
    fn new(host: &'a Host, guest: &Guest<'_>) -> Self {
        let lab = &host.lab;
        let uri = format!("qemu+unix:///session?socket={}", host.socket().display());
        let vaults = Arc::new(Vaults::new(Some(lab.path("cache"))));
        let here = LocalHost {
            name: "here".to_owned(),
            connect: Some(uri.parse().expect("a URI")),
            settings: Settings::new(Arc::new(SystemClock)),
            places: Places::of_session(&lab.path("r"), &lab.path("c")),
            guard: GuardCommand {
                program: PathBuf::from(env!("CARGO_BIN_EXE_strongroom")),
                arguments: vec!["vm-guard".to_owned()],
            },
            notes: lab.path("notes"),
            disks: None,
            targets: None,
            allow_backing: Vec::new(),
            boots: lab.path(""),
            file_reader: None,
            threads: 2,
        };
        Self {
            lab,
            keeper: LocalKeeper::new(Arc::clone(&vaults), "here", 2),
            agent: LocalAgent::new(here, vaults),
            machine: Source::Machine {
                uuid: guest.virsh("domuuid", &[]).trim().to_owned(),
                name: "web".to_owned(),
            },
        }
    }

    fn text(&self, name: &str) -> String {
        self.lab.path(name).display().to_string()
    }
}

impl World for Local<'_> {
    fn agent(&self) -> &dyn Agent {
        &self.agent
    }

    fn keeper(&self) -> &dyn Keeper {
        &self.keeper
    }

    fn place(&self, name: &str) -> String {
        self.text(&format!("vault-{name}"))
    }

    fn key(&self, name: &str) -> String {
        self.text(&format!("key-{name}"))
    }

    fn disk(&self, name: &str, _: u8) -> String {
        self.text(&format!("{name}.img"))
    }

    fn missing_disk(&self) -> String {
        self.text("no-such-disk")
    }

    fn target(&self, name: &str) -> String {
        // A machine's disks go to folders that are there.
        let folder = self.lab.path(&format!("restored-{name}"));
        fs::create_dir_all(&folder).expect("a folder");
        folder.display().to_string()
    }

    fn machine(&self) -> Option<Source> {
        Some(self.machine.clone())
    }

    fn now(&self) -> Timestamp {
        SystemClock.now()
    }
}

#[test]
fn orders_about_machines_are_carried_out_as_promised() {
    let host = Host::new();
    let guest = Guest::web(&host, [Disk::qcow2(64), Disk::raw(48)]).up(3);
    let local = Local::new(&host, &guest);
    conformance::check_machine(&local).unwrap_or_else(|failure| panic!("{failure}"));
    // The machine runs on, and the copy is one of its own, which nobody has started.
    assert_eq!(guest.state(), "running");
    assert_eq!(guest.freeze_status(), "thawed");
    guest.wait_records(2);
    let copy = host.virsh(&["domstate", "conformance-copy"]);
    assert_eq!(copy.trim(), "shut off");
}
