use super::*;

fn machine(text: &str) -> Machine {
    Machine::parse(text).expect("a machine")
}

const DEBIAN: &str = include_str!("../../tests/xml/debian-uefi-tpm.xml");
const MANY: &str = include_str!("../../tests/xml/many-sources.xml");
const TINY: &str = include_str!("../../tests/xml/direct-kernel.xml");

fn image() -> ImageInfo {
    ImageInfo {
        filename: "/a.qcow2".to_owned(),
        format: "qcow2".to_owned(),
        virtual_size: 10 << 30,
        qcow2_version: Some(3),
        ..ImageInfo::default()
    }
}

fn vda() -> BTreeSet<String> {
    BTreeSet::from(["vda".to_owned()])
}

/// As good as it can be.
fn good() -> Facts {
    let commands = FREEZE.map(str::to_owned).to_vec();
    Facts {
        state: State::Running,
        is_persistent: true,
        agent: AgentState::Connected { version: "7.2.0".to_owned(), commands },
        libvirt: 9_000_000,
        qemu: 7_002_022,
        disks: BTreeMap::from([("vda".to_owned(), DiskFacts { chain: vec![image()] })]),
        left_out: BTreeSet::new(),
        scratch_free: Some(100 << 30),
        checkpoints: vec![Checkpoint { name: "strongroom-1".to_owned(), is_ours: true }],
        snapshots: Vec::new(),
        block_jobs: BTreeSet::new(),
        job: JobKind::None,
        may_be_managed: false,
    }
}

fn ids(facts: &Facts, text: &str) -> Vec<(Level, &'static str)> {
    facts.check(&machine(text)).iter().map(|found| (found.level, found.id)).collect()
}

/// What is found of a machine with nothing but a disk, after one change.
fn changed(change: impl FnOnce(&mut Facts)) -> Vec<(Level, &'static str)> {
    let text = DEBIAN.replace("<tpm ", "<x ").replace("</tpm>", "</x>");
    let mut facts = good();
    change(&mut facts);
    ids(&facts, &text)
}

fn with_image(change: impl FnOnce(&mut ImageInfo)) -> Vec<(Level, &'static str)> {
    changed(|facts| change(&mut facts.disks.get_mut("vda").expect("vda").chain[0]))
}

#[test]
fn nothing_is_found_where_all_is_well() {
    assert_eq!(changed(|_| ()), []);
    assert_eq!(Finding::worst(&[]), None);
    assert_eq!(ids(&good(), DEBIAN), [(Info, "machine.tpm")]);
}

#[test]
fn each_fact_gives_its_finding() {
    let agent = |agent| changed(|facts| facts.agent = agent);
    assert_eq!(agent(AgentState::NoChannel), [(Amber, "agent.no_channel")]);
    assert_eq!(agent(AgentState::NotAnswering), [(Amber, "agent.silent")]);
    assert_eq!(agent(AgentState::Off), []);
    let (version, commands) = ("1".to_owned(), vec!["guest-ping".to_owned()]);
    assert_eq!(agent(AgentState::Connected { version, commands }), [(Amber, "agent.blocked")]);
    assert_eq!(changed(|facts| facts.is_persistent = false), [(Amber, "machine.transient")]);
    assert_eq!(changed(|facts| facts.state = State::Paused), [(Amber, "machine.paused")]);
    for job in [JobKind::Backup, JobKind::Migration, JobKind::Other] {
        assert_eq!(changed(|facts| facts.job = job), [(Red, "machine.busy")]);
    }
    let job = changed(|facts| facts.block_jobs = vda());
    assert_eq!(job, [(Red, "disk.block_job")]);
    let out = changed(|facts| facts.left_out = vda());
    assert_eq!(out, [(Red, "disk.none")]);
    let foreign = Checkpoint { name: "virtnbdbackup.0".to_owned(), is_ours: false };
    assert_eq!(changed(|facts| facts.checkpoints.push(foreign)), [(Amber, "checkpoints.foreign")]);
    for is_internal in [true, false] {
        let snapshot = Snapshot { name: "before".to_owned(), is_internal };
        assert_eq!(changed(|facts| facts.snapshots.push(snapshot)), [(Amber, "snapshots")]);
    }
}

#[test]
fn versions_and_space() {
    for (libvirt, found) in [
        (5_010_000, &[(Red, "host.version")][..]),
        (7_000_000, &[(Amber, "host.version")]),
        (7_005_000, &[(Amber, "host.version")]),
        (7_006_000, &[]),
    ] {
        assert_eq!(changed(|facts| facts.libvirt = libvirt), found, "{libvirt}");
    }
    assert_eq!(changed(|facts| facts.qemu = 6_000_000), [(Amber, "host.version")]);
    let off = changed(|facts| (facts.qemu, facts.state) = (2_000_000, State::Off));
    assert_eq!(off, [(Amber, "host.version")], "what is off is read without QEMU's help");
    let free = |bytes| changed(|facts| facts.scratch_free = Some(bytes));
    assert_eq!(free(0), [(Red, "scratch.full")]);
    assert_eq!(free(512 << 20), [(Amber, "scratch.small")]);
    assert_eq!(free(1 << 30), []);
    assert_eq!(words(9_000_000), "9.0.0");
}

#[test]
fn images() {
    let old = with_image(|image| image.qcow2_version = Some(2));
    assert_eq!(old, [(Amber, "disk.qcow2_v2")]);
    assert_eq!(with_image(|image| image.format = "raw".to_owned()), [(Amber, "disk.no_bitmaps")]);
    assert_eq!(with_image(|image| image.is_corrupt = true), [(Red, "disk.corrupt")]);
    assert_eq!(with_image(|image| image.is_dirty = true), [], "so is each that is in use");
    let snapshots = with_image(|image| image.snapshots.push("s".to_owned()));
    assert_eq!(snapshots, [(Info, "disk.snapshots")]);
    let bitmap =
        crate::Bitmap { name: "b".to_owned(), granularity: 65_536, in_use: true, auto: true };
    let (running, off) = (bitmap.clone(), bitmap);
    assert_eq!(with_image(|image| image.bitmaps.push(running)), [], "so is each that is in use");
    let off = changed(|facts| {
        facts.state = State::Off;
        let image = &mut facts.disks.get_mut("vda").expect("vda").chain[0];
        image.bitmaps.push(off);
        image.is_dirty = true;
    });
    assert_eq!(off, [(Amber, "disk.bitmap_inconsistent"), (Amber, "disk.dirty")]);
}

#[test]
fn managers_may_be_allowed() {
    let openstack = include_str!("../../tests/xml/openstack.xml");
    let mut facts = good();
    assert_eq!(ids(&facts, openstack).first(), Some(&(Red, "machine.managed")));
    facts.may_be_managed = true;
    let found = ids(&facts, openstack);
    assert!(found.contains(&(Amber, "machine.managed")) && found.contains(&(Amber, "disk.shared")));
}

#[test]
fn what_is_in_no_disk() {
    let tiny = ids(&good(), TINY);
    assert_eq!(
        tiny,
        [(Amber, "disk.no_bitmaps"), (Amber, "machine.kernel"), (Amber, "machine.shared")]
    );
    let windows = ids(&good(), include_str!("../../tests/xml/windows11.xml"));
    assert!(windows.contains(&(Amber, "machine.host_devices")));
    let many = good().check(&machine(MANY));
    let skipped = many.iter().filter(|found| found.id == "disk.skipped");
    let skipped: Vec<_> = skipped.map(|found| (found.level, found.what.as_str())).collect();
    assert_eq!(
        skipped,
        [
            (
                Amber,
                "disk vdg (vhost-user /tmp/vhost-blk.sock) is not in the backup: it is served by \
            another process or device, past QEMU"
            ),
            (Info, "disk vdh (/srv/seed.img) is not in the backup: it is read-only"),
        ]
    );
    // An empty drive is no news; what lies in one is not in the backup.
    let drive = "<target dev='fda' bus='fdc'/>";
    let full = format!("<source file='/srv/boot.img'/>{drive}");
    assert!(MANY.contains(drive));
    let full = good().check(&machine(&MANY.replace(drive, &full)));
    let of = |found: &&Finding| found.what.starts_with("disk fda ");
    let floppy: Vec<_> = full.iter().filter(of).map(|it| (it.level, it.what.as_str())).collect();
    let what = "disk fda (/srv/boot.img) is not in the backup: it is a floppy drive";
    assert_eq!(floppy, [(Info, what)]);
    let running = ids(&good(), include_str!("../../tests/xml/running.xml"));
    assert!(running.contains(&(Red, "disk.block_job")), "of a mirror in its description");
}

#[test]
fn words_can_be_given_to_a_shell() {
    let found = good().check(&machine(&TINY.replace("b.raw", "it&apos;s b.raw")));
    let raw = found.iter().find(|found| found.id == "disk.no_bitmaps").expect("raw");
    assert!(raw.what_to_do.contains(r"'/srv/lab/it'\''s b.raw'"), "{}", raw.what_to_do);
}
