//! The agent of this host and the keeper of vaults in folders do what orders promise.

use std::fs;

use jiff::Timestamp;
use strongroom_api::Source;
use strongroom_base::{Clock as _, SystemClock};
use strongroom_orders::{
    Agent, Keeper,
    conformance::{self, World},
};

use crate::common::Lab;

struct Local(Lab);

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
    let local = Local(Lab::new());
    conformance::check(&local).unwrap_or_else(|failure| panic!("{failure}"));
    // What was restored is what was there.
    let restored = fs::read(local.0.path("restored-restored/a.raw")).expect("restored");
    local.0.disk("a.img", 5, 1);
    assert!(restored == fs::read(local.0.path("a.img")).expect("the disk"));
}
