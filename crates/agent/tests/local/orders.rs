//! The agent of this host and the keeper of vaults in folders do what orders promise.

use std::{fs, sync::Arc};

use jiff::Timestamp;
use strongroom_api::{BlobPlace, Source};
use strongroom_base::{Clock as _, SystemClock};
use strongroom_orders::{
    Agent, Keeper,
    conformance::{self, World},
};

use crate::{accounts::Accounts, common::Lab};

struct Local(Lab, Arc<Accounts>);

impl World for Local {
    fn agent(&self) -> &dyn Agent {
        &self.0.agent
    }

    fn keeper(&self) -> &dyn Keeper {
        &self.0.keeper
    }

    fn place(&self, name: &str) -> String {
        self.0.text(&format!("vault-{name}"))
    }

    fn key(&self, name: &str) -> String {
        self.0.text(&format!("key-{name}"))
    }

    fn disk(&self, name: &str, generation: u8) -> String {
        let path = self.0.disk(&format!("{name}.img"), 4 + generation, generation);
        path.display().to_string()
    }

    fn missing_disk(&self) -> String {
        self.0.text("no-such-disk")
    }

    fn blobs(&self, generation: u8) -> Option<Source> {
        ["a", "b"].iter().for_each(|blob| self.1.write(blob, 0, generation));
        let disks = ["a", "b"].map(|blob| (blob.to_owned(), format!("disks/vms/{blob}"))).into();
        Some(Source::Blobs { disks, access: None })
    }

    fn incremental_backup(&self) -> Option<[BlobPlace; 2]> {
        let place = |blob: &str| BlobPlace { blob: blob.to_owned(), access: None };
        Some([place("disks/vms/a"), place("backups/vms/a")])
    }

    fn missing_blob(&self) -> String {
        "disks/vms/none".to_owned()
    }

    fn target(&self, name: &str) -> String {
        self.0.text(&format!("restored-{name}"))
    }

    fn machine(&self) -> Option<Source> {
        None
    }

    fn now(&self) -> Timestamp {
        SystemClock.now()
    }
}

#[test]
fn orders_are_carried_out_as_promised() {
    let accounts = Accounts::serve();
    let mut lab = Lab::new();
    lab.serve_accounts(accounts.clone());
    let local = Local(lab, accounts);
    conformance::check(&local).unwrap_or_else(|failure| panic!("{failure}"));
    // What was restored is what was there.
    let restored = fs::read(local.0.path("restored-restored/a.raw")).expect("restored");
    local.0.disk("a.img", 5, 1);
    assert!(restored == fs::read(local.0.path("a.img")).expect("the disk"));
}
