use super::*;

/// A description as libvirt gives it.
macro_rules! xml {
    ($name:literal) => {
        include_str!(concat!("../../tests/xml/", $name, ".xml"))
    };
}

fn machine(text: &str) -> Machine {
    Machine::parse(text).expect("a machine")
}

#[test]
fn an_uefi_machine_with_a_tpm() {
    let machine = machine(xml!("debian-uefi-tpm"));
    assert_eq!(machine.name, "debian12");
    assert_eq!(machine.uuid.to_string(), "5a1b8b0c-6b4f-4f8e-9e0f-2b1c7d3e4f50");
    assert_eq!(machine.title.as_deref(), Some("Web & mail"));
    assert_eq!((machine.kind.as_str(), machine.arch.as_str()), ("kvm", "x86_64"));
    assert_eq!(machine.machine_type.as_deref(), Some("pc-q35-7.2"));
    assert_eq!((machine.memory_kib, machine.vcpus), (2_097_152, 2));
    assert!(machine.has_generation_id && !machine.has_raw_qemu_options);
    assert!(machine.cpu.expect("a cpu").text.starts_with("<cpu mode='host-passthrough'"));
    let firmware = machine.firmware;
    assert!(firmware.is_uefi && firmware.secure_boot && !firmware.is_chosen_by_libvirt);
    let nvram = firmware.nvram.expect("variables");
    assert_eq!(nvram.path.as_deref(), Some("/var/lib/libvirt/qemu/nvram/debian12_VARS.fd"));
    assert_eq!(nvram.template.as_deref(), Some("/usr/share/OVMF/OVMF_VARS_4M.ms.fd"));
    let tpm = machine.tpm.expect("a TPM");
    assert_eq!(tpm.model.as_deref(), Some("tpm-crb"));
    let version = Some("2.0".to_owned());
    let (secret, state) = (None, None);
    let backend = TpmBackend::Emulator { version, secret, persistent_state: false, state };
    assert_eq!(tpm.backend, backend);
    assert_eq!(machine.agent, Some(AgentChannel { connected: None, socket: None }));
    assert_eq!((machine.guest, machine.manager), (GuestFamily::Linux, None));
    assert_eq!(machine.os.as_deref(), Some("http://debian.org/debian/12"));
}

#[test]
fn windows_with_what_it_was_given() {
    let machine = machine(xml!("windows11"));
    assert_eq!((machine.guest, machine.manager), (GuestFamily::Windows, None));
    assert!(machine.firmware.is_chosen_by_libvirt && machine.firmware.secure_boot);
    let os = machine.os_disk().map(|disk| disk.target.as_str());
    assert_eq!(os, Some("sdb"), "the CD drive is first, but no disk");
    let secret = "6dd3e4a5-1d76-44ce-961f-f119f5aad935".parse().expect("a UUID");
    let tpm = machine.tpm.as_ref().map(|tpm| &tpm.backend);
    assert!(matches!(tpm, Some(TpmBackend::Emulator { secret: Some(SecretRef::Uuid(found)),
        persistent_state: true, .. }) if *found == secret));
    let devices: Vec<String> = machine.host_devices.iter().map(ToString::to_string).collect();
    assert_eq!(devices, ["PCI device 0000:65:00.1", "USB device 0x1234:0xbeef"]);
    let nets: Vec<_> = machine.interfaces.iter().map(|one| (&one.kind, &one.source)).collect();
    let (br0, lab) = (Some("br0".to_owned()), Some("lab".to_owned()));
    assert_eq!(nets, [(&InterfaceKind::Bridge, &br0), (&InterfaceKind::Network, &lab)]);
    let cpu = machine.cpu.as_ref().and_then(|cpu| cpu.model.as_deref());
    assert_eq!(cpu, Some("Skylake-Client-IBRS"));
    assert_eq!(machine.find_disk("WIN11-DATA").map(|disk| disk.target.as_str()), Some("sdc"));
    let by_path = machine.find_disk("/var/lib/libvirt/images/win11.qcow2");
    assert_eq!(by_path.map(|disk| disk.target.as_str()), Some("sdb"));
}

#[test]
fn a_kernel_that_is_in_no_disk() {
    let machine = machine(xml!("direct-kernel"));
    let boot = machine.direct_boot.as_ref().expect("a kernel");
    let paths: Vec<&str> = boot.paths().collect();
    assert_eq!(paths, ["/srv/lab/vmlinux", "/srv/lab/initrd.cpio"]);
    assert_eq!(
        machine.filesystems.first().and_then(|one| one.source.as_deref()),
        Some("/srv/share")
    );
    assert!(!machine.firmware.is_uefi && machine.guest == GuestFamily::Unknown);
    assert_eq!(machine.os_disk().map(|disk| disk.target.as_str()), Some("vda"));
}

#[test]
fn managers() {
    let openstack = machine(xml!("openstack"));
    assert_eq!(openstack.manager, Some(Manager::OpenStack));
    assert_eq!(machine(xml!("ovirt")).manager, Some(Manager::Ovirt));
    let named = |name: &str| xml!("direct-kernel").replace("tiny", name);
    assert_eq!(machine(&named("i-2-10-VM")).manager, Some(Manager::CloudStack));
    assert_eq!(machine(&named("i-am-a-VM")).manager, None);
    let noted = |note: &str| {
        named("x").replace("<memory ", &format!("<metadata>{note}</metadata><memory "))
    };
    for (note, manager) in [
        ("<k:x xmlns:k='http://kubevirt.io'/>", Some(Manager::KubeVirt)),
        (
            "<one:vm xmlns:one='http://opennebula.org/xmlns/libvirt/1.0'/>",
            Some(Manager::OpenNebula),
        ),
        ("<c:x xmlns:c='https://github.com/cockpit-project/cockpit-machines'/>", None),
        ("<b:gnome-boxes xmlns:b='https://wiki.gnome.org/Apps/Boxes'/>", None),
    ] {
        assert_eq!(machine(&noted(note)).manager, manager, "{note}");
    }
    let Some(Source::Network(rbd)) = openstack.disk("vda").map(|disk| disk.source.clone()) else {
        panic!("a network disk");
    };
    assert_eq!((rbd.protocol.as_str(), rbd.hosts.len()), ("rbd", 2));
    assert!(matches!(rbd.auth, Some(SecretRef::Uuid(_))));
}

#[test]
fn disks_of_every_kind() {
    let machine = machine(xml!("many-sources"));
    let kinds: Vec<_> =
        machine.disks.iter().map(|one| (one.source.to_string(), one.backup_kind())).collect();
    let protect = BackupKind::Protect;
    let expected = [
        ("/dev/vg0/many-root", protect),
        ("iscsi:iqn.2013-07.com.example:iscsi-nopool/2", protect),
        ("default/many.qcow2", protect),
        ("/srv/luks.qcow2", protect),
        ("/srv/layer2.qcow2", protect),
        ("NVMe 0000:01:00.0/1", protect),
        ("vhost-user /tmp/vhost-blk.sock", BackupKind::Skip(SkipReason::Vhost)),
        ("/srv/seed.img", BackupKind::Skip(SkipReason::ReadOnly)),
        ("/srv/slice.raw", protect),
        ("nothing", BackupKind::Skip(SkipReason::Floppy)),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
    assert!(machine.has_raw_qemu_options);
    let disk = |target: &str| machine.disk(target).expect(target);
    assert_eq!(disk("vda").notes(), [DiskNote::NoBitmaps]);
    assert_eq!(disk("vdd").notes(), [DiskNote::Encrypted]);
    assert_eq!(disk("vde").notes(), [DiskNote::Chain]);
    let chain: Vec<_> = disk("vde").chain.iter().map(|layer| layer.source.to_string()).collect();
    assert_eq!(chain, ["/srv/layer1.qcow2", "/srv/base.raw"]);
    assert!(disk("vdi").slice.is_some());
    let usage = SecretRef::Usage { kind: "iscsi".to_owned(), name: "libvirtiscsi".to_owned() };
    let iscsi = &disk("vdb").source;
    assert!(matches!(iscsi, Source::Network(one) if one.auth == Some(usage)));
    let ovirt = self::machine(xml!("ovirt"));
    let lun = ovirt.disk("sdb").map(Disk::backup_kind);
    assert_eq!(lun, Some(BackupKind::Skip(SkipReason::Passthrough)));
    let store = self::machine(xml!("data-store"));
    let file = store.disk("vda").and_then(|disk| disk.data_file.as_ref());
    assert_eq!(file, Some(&Source::Block { path: "/dev/vg0/storage".to_owned() }));
}

#[test]
fn a_running_machine() {
    let machine = machine(xml!("running"));
    let socket = "/var/lib/libvirt/qemu/channel/target/domain-1-live/org.qemu.guest_agent.0";
    let socket = Some(socket.to_owned());
    assert_eq!(machine.agent, Some(AgentChannel { connected: Some(true), socket }));
    let vda = machine.disk("vda").expect("vda");
    assert_eq!((vda.index, vda.chain.first().and_then(|layer| layer.index)), (Some(2), Some(3)));
    let vdb = machine.disk("vdb").expect("vdb");
    let path = Some("/mnt/new/b.raw".to_owned());
    assert_eq!(vdb.mirror, Some(Mirror { job: Some("copy".to_owned()), ready: true, path }));
    assert!(vdb.notes().contains(&DiskNote::BlockJob) && vdb.chain.is_empty());
}

#[test]
fn passwords_stay_behind() {
    for text in [xml!("debian-uefi-tpm"), xml!("running")] {
        assert!(text.contains("hunter2"));
        assert!(!format!("{:?}", machine(text)).contains("hunter2"));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let good = xml!("direct-kernel");
    for (from, to) in [
        ("<name>tiny</name>", ""),
        ("<uuid>11111111", "<uuid>x"),
        ("</domain>", ""),
        ("unit='KiB'", "unit='parsec'"),
        (" dev='vdb'", ""),
        (" dev='vdb'", " dev='vda'"),
        ("98304", "-1"),
    ] {
        let text = good.replace(from, to);
        assert_ne!(text, good);
        assert!(Machine::parse(&text).is_err(), "{from}");
    }
    assert!(Machine::parse("<network/>").is_err());
}

#[test]
fn units_of_memory() {
    for (text, kib) in [
        ("<memory>5</memory>", Some(5)),
        ("<memory unit='b'>1025</memory>", Some(2)),
        ("<memory unit='GiB'>2</memory>", Some(2 << 20)),
        ("<memory unit='TiB'>18446744073709551615</memory>", None),
    ] {
        let text = format!("<domain>{text}</domain>");
        let document = xml::parse(&text, "domain", "x").expect("good");
        assert_eq!(memory(document.root_element()), kib, "{text}");
    }
}
