use super::*;
use crate::Level;

const CAPABILITIES: &str = include_str!("../../tests/xml/capabilities.xml");
const DOMAIN: &str = include_str!("../../tests/xml/domain-capabilities.xml");

fn machine(name: &str) -> Machine {
    let path = format!("{}/tests/xml/{name}.xml", env!("CARGO_MANIFEST_DIR"));
    Machine::parse(&std::fs::read_to_string(path).expect(name)).expect(name)
}

/// What is found of a machine on the host that the two descriptions are of, where paths with one
/// of `missing` in them do not exist.
fn found(machine: &Machine, missing: &[&str]) -> Vec<(Level, &'static str)> {
    check(machine, missing).iter().map(|found| (found.level, found.id)).collect()
}

fn check(machine: &Machine, missing: &[&str]) -> Vec<Finding> {
    let capabilities = Capabilities::parse(CAPABILITIES).expect("capabilities");
    let domain = DomainCapabilities::parse(DOMAIN).expect("capabilities");
    let host = Host {
        capabilities: &capabilities,
        domain: Some(&domain),
        cpu: None,
        networks: &["default".to_owned(), "lab".to_owned()],
        pools: &["default".to_owned()],
        exists: &|path| !missing.iter().any(|part| path.contains(part)),
        has_secret: &|_| !missing.contains(&"secret"),
    };
    host.check(machine)
}

#[test]
fn what_the_host_tells() {
    let capabilities = Capabilities::parse(CAPABILITIES).expect("capabilities");
    let guest = capabilities.arch("x86_64").expect("x86_64");
    assert_eq!(guest.emulator.as_deref(), Some("/usr/bin/qemu-system-x86_64"));
    assert_eq!(guest.kinds, ["qemu"]);
    assert!(guest.has_machine("q35") && guest.has_machine("pc-q35-7.2"));
    assert!(!guest.has_machine("pc-q35-9.9"));
    let domain = DomainCapabilities::parse(DOMAIN).expect("capabilities");
    assert_eq!((domain.max_vcpus, domain.secure_boot), (Some(288), true));
    assert_eq!(domain.firmware, ["efi"]);
    assert_eq!(domain.loaders.len(), 3);
    assert_eq!(domain.cpu_modes, ["maximum", "host-model", "custom"]);
    assert!(domain.cpu_models.contains(&("qemu64".to_owned(), true)));
    assert_eq!(domain.tpm_backends, ["passthrough", "emulator", "external"]);
    assert!(domain.launch_security.is_empty());
    assert!(Capabilities::parse(DOMAIN).is_err() && DomainCapabilities::parse("").is_err());
}

#[test]
fn a_machine_that_suits() {
    assert_eq!(found(&machine("direct-kernel"), &[]), []);
}

#[test]
fn each_lack_is_found() {
    let tiny = || machine("direct-kernel");
    let red = |id| [(Red, id)];
    for (missing, id) in [
        ("qemu-system-x86_64", "host.emulator"),
        ("initrd.cpio", "host.kernel"),
        ("/srv/share", "host.filesystem"),
    ] {
        assert_eq!(found(&tiny(), &[missing]), red(id), "{missing}");
    }
    let changed = |change: &dyn Fn(&mut Machine)| {
        let mut machine = tiny();
        change(&mut machine);
        found(&machine, &[])
    };
    assert_eq!(changed(&|it| it.arch = "s390x".to_owned()), red("host.arch"));
    assert_eq!(changed(&|it| it.kind = "kvm".to_owned()), red("host.kind"));
    assert_eq!(changed(&|it| it.vcpus = 1000), red("host.vcpus"));
    assert_eq!(
        changed(&|it| it.launch_security = Some("sev".to_owned())),
        red("host.launch_security")
    );
    let wanted = changed(&|it| it.machine_type = Some("pc-q35-9.1".to_owned()));
    assert_eq!(wanted, red("host.machine_type"));
    let cpu = |mode: &str, model: Option<&str>, check: Option<&str>| {
        changed(&|it| {
            let cpu = it.cpu.as_mut().expect("a cpu");
            (cpu.mode, cpu.check) = (Some(mode.to_owned()), check.map(str::to_owned));
            cpu.model = model.map(str::to_owned);
        })
    };
    assert_eq!(cpu("host-passthrough", None, None), red("host.cpu_mode"));
    assert_eq!(cpu("host-model", None, None), []);
    assert_eq!(cpu("custom", Some("Cray-1"), Some("none")), red("host.cpu_model"));
    assert_eq!(cpu("custom", Some("phenom"), None), red("host.cpu_model"));
    assert_eq!(cpu("custom", Some("phenom"), Some("none")), [(Amber, "host.cpu_model")]);
}

#[test]
fn the_nearest_mainboard_is_named() {
    let mut machine = machine("direct-kernel");
    machine.machine_type = Some("pc-q35-9.1".to_owned());
    let found = check(&machine, &[]);
    assert!(found[0].what_to_do.contains("pc-q35-7.2"), "{found:?}");
}

#[test]
fn firmware_networks_devices_and_secrets() {
    let debian = machine("debian-uefi-tpm");
    let missing = ["OVMF_CODE", "OVMF_VARS"];
    let all = found(&debian, &missing);
    for finding in [
        (Red, "host.kind"),
        (Red, "host.cpu_mode"),
        (Red, "host.firmware"),
        (Info, "host.nvram_template"),
    ] {
        assert!(all.contains(&finding), "{finding:?}");
    }
    assert!(!all.contains(&(Red, "host.tpm")));
    let windows = found(&machine("windows11"), &["secret", "br0", "0000:65:00.1"]);
    let count = |id| windows.iter().filter(|(_, other)| *other == id).count();
    assert_eq!((count("host.network"), count("host.secret"), count("host.device")), (1, 1, 2));
    let many = found(&machine("many-sources"), &["secret", "seed.img", "eth1"]);
    let count = |id| many.iter().filter(|(_, other)| *other == id).count();
    assert_eq!((count("host.network"), count("host.secret"), count("host.disk")), (1, 2, 1));
}
