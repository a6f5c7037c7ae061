//! Entry points for fuzzing: each takes outside bytes and must return, whatever they are.

use std::collections::BTreeMap;

use strongroom_base::Entropy;

use crate::{Capabilities, Changes, DiskChange, DomainCapabilities, ImageInfo, MacChange, Machine};

/// Always the same, so that a crash can be repeated.
struct Constant;

impl Entropy for Constant {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0x5a);
    }
}

/// A machine's description: read, and if it is one, changed in every way.
pub fn fuzz_domain_xml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(machine) = Machine::parse(text) else { return };
    let rewrite = |changes: &Changes| Machine::rewrite(text, changes, &Constant);
    let same = rewrite(&Changes::default()).ok();
    assert!(same.as_deref() == Some(text), "no change leaves every byte");
    let word = || Some("a<b>'c'".to_owned());
    let file = |path: &str| DiskChange::File {
        path: path.to_owned(),
        format: "qcow2".to_owned(),
        encrypted: false,
    };
    let change = |(at, disk): (usize, &crate::Disk)| {
        let overlay = || DiskChange::Overlay {
            path: "/a&b".to_owned(),
            socket: "/c<d".to_owned(),
            export: "e'f".to_owned(),
        };
        (disk.target.clone(), if at % 2 == 0 { file("/a&b") } else { overlay() })
    };
    let disks: BTreeMap<String, DiskChange> =
        machine.disks.iter().enumerate().map(change).collect();
    let changes = Changes {
        name: word(),
        title: word(),
        uuid: Some(crate::Uuid([7; 16])),
        new_generation: true,
        macs: MacChange::All,
        links_down: true,
        disks,
        drivers_of: Some(text.to_owned()),
        nvram: word(),
        loader: word(),
        emulator: word(),
        machine_type: word(),
        kind: word(),
        forget_run: true,
        networks: Vec::new(),
        cpu: None,
        own_terminals: Some("copy".to_owned()),
    };
    // A description may be so odd that its changes contradict each other, but then it is said.
    if let Ok(changed) = rewrite(&changes) {
        let changed = Machine::parse(&changed).ok();
        let changed = changed.filter(|changed| Some(&changed.name) == changes.name.as_ref());
        assert!(changed.is_some_and(|changed| changed.disks.len() == machine.disks.len()));
    }
}

/// What a host says that it can run.
pub fn fuzz_capabilities(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(Capabilities::parse(text));
        drop(DomainCapabilities::parse(text));
    }
}

/// What `qemu-img` says of an image.
pub fn fuzz_image_info(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(ImageInfo::parse_chain(text));
    }
}

/// A message of libvirt's daemon, and its results read as the longest ones that we ask for.
pub fn fuzz_message(bytes: &[u8]) {
    crate::rpc::fuzz(bytes);
    drop(crate::backup::read_job(bytes));
    drop(crate::connection::read_domains(bytes));
}
