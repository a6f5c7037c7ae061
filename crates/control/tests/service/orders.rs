//! What there is outside the service in these tests does what orders promise.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use strongroom_api::{BlobPlace, Source, Verdict};
use strongroom_base::Clock as _;
use strongroom_orders::{
    Agent, Keeper,
    conformance::{self, World},
};

use crate::{
    outside::{Host, Machine, Shared, Vaults},
    world::Hand,
};

const GONE: &str = "/disks/gone";

struct InMemory {
    shared: Arc<Shared>,
    host: Host,
    vaults: Vaults,
}

impl InMemory {
    fn new() -> Self {
        let clock = Arc::new(Hand::at("2026-03-01T12:00:00Z"));
        let shared = Arc::new(Shared {
            outside: Mutex::default(),
            accounts: Arc::default(),
            clock,
            channels: Vec::new(),
        });
        {
            let mut outside = shared.outside();
            outside.missing_disks.insert(GONE.to_owned());
            let machine = Machine { name: "web".to_owned(), verdict: Verdict::Green };
            outside.machines.insert("uuid-of-web".to_owned(), machine);
        }
        let (host, vaults) = (Host(Arc::clone(&shared)), Vaults(Arc::clone(&shared)));
        Self { shared, host, vaults }
    }
}

impl World for InMemory {
    fn agent(&self) -> &dyn Agent {
        &self.host
    }

    fn keeper(&self) -> &dyn Keeper {
        &self.vaults
    }

    fn place(&self, name: &str) -> String {
        format!("/vaults/{name}")
    }

    fn key(&self, name: &str) -> String {
        format!("/keys/{name}")
    }

    fn disk(&self, name: &str, _: u8) -> String {
        format!("/disks/{name}")
    }

    fn missing_disk(&self) -> String {
        GONE.to_owned()
    }

    fn blobs(&self, _: u8) -> Option<Source> {
        let disks = [("a".to_owned(), "disks/vms/a".to_owned())].into();
        Some(Source::Blobs { disks, access: None })
    }

    fn incremental_backup(&self) -> Option<[BlobPlace; 2]> {
        let place = |blob: &str| BlobPlace { blob: blob.to_owned(), access: None };
        Some([place("disks/vms/a"), place("backups/vms/a")])
    }

    fn missing_blob(&self) -> String {
        GONE.to_owned()
    }

    fn target(&self, name: &str) -> String {
        format!("/restore/{name}")
    }

    fn machine(&self) -> Option<Source> {
        Some(Source::Machine { uuid: "uuid-of-web".to_owned(), name: "web".to_owned() })
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }
}

#[test]
fn the_world_of_these_tests_does_what_orders_promise() {
    conformance::check(&InMemory::new()).unwrap_or_else(|failure| panic!("{failure}"));
    conformance::check_machine(&InMemory::new()).unwrap_or_else(|failure| panic!("{failure}"));
}
