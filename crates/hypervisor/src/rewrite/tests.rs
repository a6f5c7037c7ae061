use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    Device, Driver,
    InterfaceKind::{Bridge, Network},
    Layer, Source,
};

macro_rules! xml {
    ($($name:literal),* $(,)?) => {
        [$(include_str!(concat!("../../tests/xml/", $name, ".xml"))),*]
    };
}

const MACHINES: [&str; 8] = xml![
    "debian-uefi-tpm",
    "windows11",
    "direct-kernel",
    "openstack",
    "ovirt",
    "many-sources",
    "running",
    "data-store",
];

/// Always the same.
struct Constant(u8);

impl Entropy for Constant {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(self.0);
    }
}

fn rewrite(text: &str, changes: &Changes) -> String {
    Machine::rewrite(text, changes, &Constant(0xab)).expect("rewritten")
}

fn file(path: &str, format: &str, encrypted: bool) -> DiskChange {
    DiskChange::File { path: path.to_owned(), format: format.to_owned(), encrypted }
}

/// The same description as others would write it.
fn spellings(text: &str) -> [String; 4] {
    let comments = text.replace("<target ", "<!-- <target dev='x'/> --><target ");
    let one_line = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    [text.replace('\n', "\r\n"), text.replace('\'', "\""), comments, one_line]
}

/// What a machine is after changes, by another way than editing text.
fn expected(mut machine: Machine, changes: &Changes) -> Machine {
    machine.name = changes.name.clone().unwrap_or(machine.name);
    machine.title = changes.title.clone().or(machine.title);
    machine.uuid = changes.uuid.unwrap_or(machine.uuid);
    machine.emulator = changes.emulator.clone().or(machine.emulator);
    machine.machine_type = changes.machine_type.clone().or(machine.machine_type);
    machine.kind = changes.kind.clone().unwrap_or(machine.kind);
    if let Some(path) = &changes.nvram {
        machine.firmware.nvram.get_or_insert_default().path = Some(path.clone());
    }
    if let (Some(path), Some(loader)) = (&changes.loader, &mut machine.firmware.loader) {
        loader.path = Some(path.clone());
    }
    for interface in &mut machine.interfaces {
        let target = interface.target.take();
        interface.target = target.filter(|name| !changes.forget_run || !name.starts_with("vnet"));
    }
    if let (Some(agent), true) = (&mut machine.agent, changes.forget_run) {
        agent.socket = None;
    }
    for disk in &mut machine.disks {
        if changes.forget_run {
            (disk.index, disk.mirror) = (None, None);
            disk.chain.iter_mut().for_each(|layer| layer.index = None);
        }
        let source = match changes.disks.get(&disk.target) {
            Some(DiskChange::File { path, .. } | DiskChange::Overlay { path, .. }) => {
                Source::File { path: path.clone() }
            }
            Some(DiskChange::Block { path }) => Source::Block { path: path.clone() },
            Some(DiskChange::Eject) => Source::None,
            _ => continue,
        };
        disk.source = source;
        (disk.index, disk.mirror, disk.data_file) = (None, None, None);
        disk.slice = None;
        disk.chain.clear();
        disk.chain_ends = false;
        let format = match changes.disks.get(&disk.target) {
            Some(DiskChange::File { format, encrypted: true, .. }) => format.clone(),
            Some(DiskChange::File { format, .. }) => {
                disk.encryption = None;
                format.clone()
            }
            Some(DiskChange::Block { .. }) => {
                disk.encryption = None;
                "raw".to_owned()
            }
            Some(DiskChange::Overlay { socket, export, .. }) => {
                disk.encryption = None;
                disk.driver.discard = Some("ignore".to_owned());
                disk.driver.cache = disk.driver.cache.take().filter(|mode| mode != "unsafe");
                disk.chain = vec![under(socket, export)];
                disk.chain_ends = true;
                "qcow2".to_owned()
            }
            _ => {
                disk.encryption = None;
                continue;
            }
        };
        disk.shareable &= format == "raw";
        disk.driver = Driver { format: Some(format), ..disk.driver.clone() };
        if disk.device == Device::Lun {
            disk.device = Device::Disk;
        }
    }
    let removed = |target: &str| changes.disks.get(target) == Some(&DiskChange::Remove);
    machine.disks.retain(|disk| !removed(&disk.target));
    machine
}

/// An export under an overlay, as a description has it.
fn under(socket: &str, export: &str) -> Layer {
    let xml = format!(
        "<domain type='qemu'><name>x</name><uuid>8d6fbe7b-7a4e-4bd0-8d6c-53a9b06a5a01</uuid>\
         <memory>1</memory><os><type arch='x86_64'>hvm</type></os><devices>\
         <disk type='network' device='disk'><driver type='raw'/><source protocol='nbd' name='{}'>\
         <host transport='unix' socket='{}'/></source><target dev='vda'/></disk></devices></domain>",
        xml::escape(export).expect("written"),
        xml::escape(socket).expect("written"),
    );
    let disk = Machine::parse(&xml).expect("a machine").disks.remove(0);
    let format = disk.driver.format;
    Layer { format, source: disk.source, index: None, data_file: None, slice: None }
}

fn any_path() -> impl Strategy<Value = String> {
    "/[a-z '\"&<>\u{e4}\u{1f600}=-]{1,12}[a-z]"
}

fn any_disk_change() -> impl Strategy<Value = DiskChange> {
    prop_oneof![
        (any_path(), any::<bool>(), any::<bool>()).prop_map(|(path, raw, encrypted)| {
            file(&path, if raw { "raw" } else { "qcow2" }, encrypted)
        }),
        any_path().prop_map(|path| DiskChange::Block { path }),
        [any_path(), any_path(), any_path()]
            .prop_map(|[path, socket, export]| DiskChange::Overlay { path, socket, export }),
        Just(DiskChange::Remove),
        Just(DiskChange::Eject),
    ]
}

prop_compose! {
    fn any_changes(targets: Vec<String>)(
        [name, title, nvram, loader, emulator, machine_type] in
            prop::array::uniform6(prop::option::of(any_path())),
        uuid in prop::option::of(any::<[u8; 16]>().prop_map(Uuid)),
        [new_generation, forget_run, links_down, tcg] in any::<[bool; 4]>(),
        all_macs in any::<bool>(),
        disks in prop::collection::btree_map(prop::sample::select(targets), any_disk_change(), 0..4),
    ) -> Changes {
        Changes {
            name, title, uuid, new_generation, links_down, disks, nvram, loader, emulator,
            machine_type, forget_run,
            macs: if all_macs { MacChange::All } else { MacChange::Keep },
            networks: Vec::new(),
            kind: tcg.then(|| "qemu".to_owned()),
            cpu: None,
            drivers_of: None,
            own_terminals: None,
        }
    }
}

fn any_case() -> impl Strategy<Value = (String, Changes)> {
    (prop::sample::select(&MACHINES[..]), 0_usize..4).prop_flat_map(|(text, spelling)| {
        let text = spellings(text)[spelling].clone();
        let machine = Machine::parse(&text).expect("a machine");
        let targets = machine.disks.into_iter().map(|disk| disk.target).collect();
        (Just(text), any_changes(targets))
    })
}

proptest! {
    #[test]
    fn exactly_what_is_wanted_differs((text, changes) in any_case()) {
        let result = rewrite(&text, &changes);
        let mut machine = Machine::parse(&result).expect("a machine");
        let mut wanted = expected(Machine::parse(&text).expect("a machine"), &changes);
        if changes.macs == MacChange::All {
            let macs: BTreeSet<_> = machine.interfaces.iter().map(|one| one.mac.clone()).collect();
            prop_assert_eq!(macs.len(), machine.interfaces.len());
            for interface in machine.interfaces.iter_mut().chain(&mut wanted.interfaces) {
                let mac = interface.mac.take().expect("an address");
                prop_assert!(mac.len() == 17);
            }
        }
        // Where a description is not touched it may not even be spelt differently.
        if let (Some(now), Some(was)) = (&machine.cpu, &wanted.cpu) {
            prop_assert_eq!(&now.text, &was.text);
        }
        prop_assert_eq!(machine, wanted);
    }

    #[test]
    fn damaged_descriptions_never_panic(
        (text, changes) in any_case(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..30, "[<>/'\"&;a-z =]{0,4}"), 1..4),
    ) {
        let mut characters: Vec<char> = text.chars().collect();
        for (at, length, new) in cuts {
            let at = at.index(characters.len());
            let end = characters.len().min(at + length);
            characters.splice(at..end, new.chars());
        }
        let text: String = characters.into_iter().collect();
        drop(Machine::rewrite(&text, &changes, &Constant(1)));
    }
}

#[test]
fn nothing_changes_nothing() {
    for text in MACHINES.into_iter().flat_map(spellings) {
        assert_eq!(rewrite(&text, &Changes::default()), text);
    }
}

#[test]
fn a_new_identity() {
    let uuid: Uuid = "0a1b2c3d-0001-4fff-8000-00000000000f".parse().expect("a UUID");
    let changes = Changes {
        name: Some("win11-copy".to_owned()),
        uuid: Some(uuid),
        new_generation: true,
        macs: MacChange::These(vec!["52:54:00:11:22:34".to_owned()]),
        ..Changes::default()
    };
    let [_, windows, ..] = MACHINES;
    let result = rewrite(windows, &changes);
    assert_eq!(result.matches("0a1b2c3d-0001-4fff-8000-00000000000f").count(), 2, "SMBIOS too");
    assert!(!result.contains("c0ffee00") && !result.contains("0f0e0d0c"));
    assert!(result.contains("<genid>abababab-abab-4bab-abab-abababababab</genid>"));
    assert!(result.contains("52:54:00:11:22:33") && result.contains("52:54:00:ab:ab:ab"));
    let unknown = Changes {
        macs: MacChange::These(vec!["52:54:00:00:00:00".to_owned()]),
        ..Changes::default()
    };
    assert!(Machine::rewrite(windows, &unknown, &Constant(0)).is_err());
}

#[test]
fn networks_are_mapped_also_across_kinds() {
    let [_, windows, ..] = MACHINES;
    let map = |texts: &[&str]| {
        let networks = texts.iter().map(|text| text.parse().expect("a mapping")).collect();
        let result = rewrite(windows, &Changes { networks, ..Changes::default() });
        let interfaces = Machine::parse(&result).expect("a machine").interfaces;
        (
            interfaces
                .into_iter()
                .map(|one| (one.kind, one.source.unwrap_or_default()))
                .collect::<Vec<_>>(),
            result,
        )
    };
    let of = |kind, name: &str| (kind, name.to_owned());
    let (interfaces, result) = map(&["network=lab:test", "bridge=br1:br2"]);
    assert_eq!(interfaces, [of(Bridge, "br0"), of(Network, "test")]);
    assert!(result.contains("portgroup='vlan7'"));
    let (interfaces, _) = map(&["bridge=br0:network=a&b", "network=lab:bridge=br9"]);
    assert_eq!(interfaces, [of(Network, "a&b"), of(Bridge, "br9")]);
    for bad in
        ["", "network", "network=a", "network=:b", "network=a:", "vlan=a:b", "network=a:vlan=b"]
    {
        assert!(bad.parse::<NetworkMapping>().is_err(), "{bad}");
    }
}

#[test]
fn nothing_of_a_run_is_left() {
    let [.., running, _] = MACHINES;
    let result = rewrite(running, &Changes { forget_run: true, ..Changes::default() });
    for gone in [
        "type='qemu' id='1'",
        "qcow2' index='2'",
        "<mirror",
        "/dev/pts",
        "domain-1-live",
        "vnet7",
        "portid",
        "virbr0",
        "5900",
        "<label>",
        "<imagelabel>",
    ] {
        assert!(running.contains(gone) && !result.contains(gone), "{gone}");
    }
    for kept in
        ["index='0'", "port='-1' autoport='yes'", "<seclabel type='dynamic' model='dac'", "passwd="]
    {
        assert!(result.contains(kept), "{kept}");
    }
}

#[test]
fn a_restored_disk_has_no_past() {
    let [_, _, _, _, ovirt, many, ..] = MACHINES;
    let disk = |text: &str, target: &str, change| {
        let disks = BTreeMap::from([(target.to_owned(), change)]);
        let result = rewrite(text, &Changes { disks, ..Changes::default() });
        let document = roxmltree::Document::parse(&result).expect("good");
        let is_it = |node: &Node<'_, '_>| {
            xml::attribute_of(*node, "target", "dev").as_deref() == Some(target)
        };
        let node = document.descendants().find(is_it).expect("the disk");
        result[node.range()].to_owned()
    };
    let iscsi = disk(many, "vdb", file("/new/b", "qcow2", false));
    assert!(iscsi.contains("<source file='/new/b'/>") && !iscsi.contains("secret"), "{iscsi}");
    assert!(iscsi.starts_with("<disk type='file' device='disk'>"), "{iscsi}");
    let luks = disk(many, "vdd", file("/new/d", "qcow2", true));
    assert!(luks.contains("0a81f5b2-8403-7b23-c8d6-218f9cfd0e26"), "{luks}");
    let plain = disk(many, "vdd", file("/new/d", "qcow2", false));
    assert!(!plain.contains("encryption"), "{plain}");
    let chain = disk(many, "vde", DiskChange::Block { path: "/dev/x".to_owned() });
    assert!(!chain.contains("backingStore") && chain.contains("type='raw'"), "{chain}");
    let lun = disk(ovirt, "sdb", file("/new/s", "raw", false));
    assert!(lun.starts_with("<disk type='file' device='disk'>"), "{lun}");
    let unknown = Changes {
        disks: BTreeMap::from([("vdz".to_owned(), DiskChange::Remove)]),
        ..Changes::default()
    };
    assert!(Machine::rewrite(many, &unknown, &Constant(0)).is_err());
}

#[test]
fn an_overlay_and_back() {
    for text in MACHINES {
        let machine = Machine::parse(text).expect("a machine");
        let disks = machine.disks.iter().filter(|disk| disk.device == Device::Disk);
        let targets: Vec<String> = disks.map(|disk| disk.target.clone()).collect();
        let to = |change: &dyn Fn(&str) -> DiskChange| {
            targets.iter().map(|target| (target.clone(), change(target))).collect()
        };
        let last = Changes {
            disks: to(&|name| file(&format!("/{name}"), "raw", false)),
            ..Changes::default()
        };
        let last = rewrite(text, &last);
        let overlay = |name: &str| DiskChange::Overlay {
            path: format!("/{name}.overlay"),
            socket: "/run/nbd".to_owned(),
            export: name.to_owned(),
        };
        let above = rewrite(&last, &Changes { disks: to(&overlay), ..Changes::default() });
        for disk in &Machine::parse(&above).expect("a machine").disks {
            if targets.contains(&disk.target) {
                assert_eq!(disk.chain, [under("/run/nbd", &disk.target)]);
                assert_eq!(disk.driver.discard.as_deref(), Some("ignore"));
                assert_ne!(disk.driver.cache.as_deref(), Some("unsafe"));
            }
        }
        assert_eq!(above.matches(" rerror_policy='stop'").count(), targets.len(), "{above}");
        // As the description would have been without the overlays.
        let back = Changes {
            disks: to(&|name| file(&format!("/{name}"), "raw", false)),
            drivers_of: Some(last.clone()),
            ..Changes::default()
        };
        let back = rewrite(&above, &back);
        let mut wanted = Machine::parse(&last).expect("read");
        // An overlay is not shared.
        wanted.disks.iter_mut().for_each(|disk| disk.shareable = false);
        assert_eq!(Machine::parse(&back).expect("read"), wanted);
        assert!(!back.contains("'stop'") || text.contains("'stop'"), "{back}");
    }
}

#[test]
fn another_processor() {
    let [debian, ..] = MACHINES;
    let cpu = |text: &str| Changes { cpu: Some(text.to_owned()), ..Changes::default() };
    let result = rewrite(debian, &cpu("<cpu mode='maximum'/>"));
    let machine = Machine::parse(&result).expect("a machine");
    assert_eq!(machine.cpu.and_then(|cpu| cpu.mode).as_deref(), Some("maximum"));
    assert!(Machine::rewrite(debian, &cpu("<cpu>"), &Constant(0)).is_err());
}

#[test]
fn control_characters_are_refused() {
    let [debian, ..] = MACHINES;
    let changes = Changes { name: Some("a\u{7}b".to_owned()), ..Changes::default() };
    assert!(Machine::rewrite(debian, &changes, &Constant(0)).is_err());
}

/// A copy beside its original writes to no file of it.
#[test]
fn terminals_get_files_of_their_own() {
    let text = "<domain type='kvm'><name>web</name><uuid>0a1b2c3d-0001-4fff-8000-00000000000f</uuid>\
        <memory>1024</memory><os><type>hvm</type></os><devices>\
        <serial type='file'><source path='/var/log/web.log'/><target port='0'/></serial>\
        <console type='file'><source path='/var/log/web.log'/><target type='serial'/></console>\
        <serial type='pty'><source path='/dev/pts/1'/><log file='/srv/log/boot' append='on'/></serial>\
        <channel type='unix'><source mode='bind' path='/run/web.sock'/><target type='virtio'/></channel>\
        <channel type='unix'><source mode='connect' path='/run/other'/><target type='virtio'/></channel>\
        <channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/target/web/x'/>\
        <target type='virtio'/></channel></devices></domain>";
    let machine = Machine::parse(text).expect("a machine");
    assert_eq!(machine.terminals, ["/var/log/web.log", "/srv/log/boot", "/run/web.sock"]);
    let changes = Changes { own_terminals: Some("copy".to_owned()), ..Changes::default() };
    let changed = rewrite(text, &changes);
    let copy = Machine::parse(&changed).expect("a machine");
    let own = ["/var/log/web.log.copy", "/srv/log/boot.copy", "/run/web.sock.copy"];
    assert_eq!(copy.terminals, own);
    assert_eq!(changed.matches("/var/log/web.log.copy").count(), 2);
    assert!(changed.contains("'/run/other'") && changed.contains("target/web/x'"), "{changed}");
}
