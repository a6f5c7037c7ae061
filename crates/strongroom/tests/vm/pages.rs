//! The page about machines, as its reader follows it.

use crate::{
    guest::{Disk, Guest},
    harness::{Host, Lab, Run},
    restore::folder,
    server::Service,
    session::{Page, Session, part, read},
};

#[test]
fn the_page_about_machines_works() {
    let host = Host::new();
    let guest = Guest::named("web01").disk(Disk::qcow2(48)).create(&host);
    let (copies, fast, to) =
        (folder(&host, "copies"), folder(&host, "fast"), folder(&host, "restore"));
    host.virsh(&["pool-define-as", "fast", "dir", "--target", &fast]);
    host.virsh(&["pool-start", "fast"]);
    let vault = host.lab.path("vault").display().to_string();
    let key = host.lab.path("key").display().to_string();
    let mut environment = host.env();
    environment.extend([("STRONGROOM_VAULT", vault), ("STRONGROOM_KEY_FILE", key)]);
    let page = Page::new("docs/use/machines.md", "the_page_about_machines_works");
    let session = Session {
        lab: &host.lab,
        page: &page,
        environment,
        replaced: vec![
            ("--name web01-copy", format!("--name web01-copy --storage-dir {copies}")),
            ("--to /restore", format!("--to {to}")),
            // What a person answers.
            ("--delete", "--delete --yes".to_owned()),
            ("--replace", "--replace --yes".to_owned()),
        ],
    };
    let text = read("docs/use/machines.md");
    let (first, rest) = text.split_once("```json").expect("the settings of scripts");
    session.run(first);
    // After the settings of scripts comes what stays in the machine's images.
    let rest = rest.split_once("```").expect("an end").1;
    guest.boot();
    session.run("```\nstrongroom backup --vm web01\n```");
    let checkpoints = part(rest, "```\nstrongroom vm checkpoints", "```");
    session.run(&format!("```\nstrongroom vm checkpoints{checkpoints}```"));
    assert_eq!(guest.virsh("checkpoint-list", &["--name"]), "");

    let restores = part(rest, "```\nstrongroom restore vm", "```");
    let restores = format!("strongroom restore vm{restores}");
    let lines: Vec<&str> = restores.lines().collect();
    let [plan, copy, itself, replace, disks] = lines.as_slice() else { panic!("{restores}") };
    let run = |lines: &[&str]| session.run_parts(lines);
    run(&[plan, copy]);
    assert_eq!(host.virsh(&["domstate", "web01-copy"]), "running");
    host.virsh(&["destroy", "web01-copy"]);
    host.virsh(&["undefine", "web01-copy"]);
    for file in std::fs::read_dir(&copies).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let instant = rest.lines().find(|line| line.ends_with("--name web01-copy --instant")).unwrap();
    run(&[instant]);
    assert_eq!(host.virsh(&["domstate", "web01-copy"]), "running");
    host.virsh(&["destroy", "web01-copy"]);
    // Its own name and addresses are free once the machine is gone.
    guest.destroy();
    guest.virsh("undefine", &["--checkpoints-metadata"]);
    run(&[itself]);
    let back = Guest::known(&host, "web01", &[std::path::Path::new(&fast)]);
    back.wait_agent();
    run(&[replace]);
    back.wait_agent();
    run(&[disks]);
    assert!(std::fs::read_dir(&to).unwrap().count() >= 2, "the disk and the description");
    page.assert_all_run();
}

#[test]
fn the_page_about_booting_works() {
    let host = Host::new();
    let (guest, environment) = with_machine(&host);
    guest.boot();
    host.lab.ok("backup --vm web01");
    guest.destroy();
    let page = Page::new("docs/use/verify.md", "the_page_about_booting_works");
    let scratch = folder(&host, "scratch");
    let replaced = vec![
        ("verify boot", format!("verify boot --storage-dir {scratch}")),
        // The machine of the test has no screen, its host no network, and its vault no item `db`.
        ("--screenshot web01.png ", String::new()),
        ("drill --item db ", format!("drill --network none --storage-dir {scratch} ")),
        ("/srv/audit", folder(&host, "audit")),
    ];
    let session = Session { lab: &host.lab, page: &page, environment, replaced };
    session.run_parts(&page.parts().iter().map(String::as_str).collect::<Vec<_>>());
    page.assert_all_run();
}

/// A machine `web01` that is off, and the variables for the host's vault.
fn with_machine(host: &Host) -> (Guest<'_>, Vec<(&'static str, String)>) {
    let guest = Guest::named("web01").disk(Disk::qcow2(48)).create(host);
    let path = |name: &str| host.lab.path(name).display().to_string();
    let mut environment = host.env();
    environment.extend([("STRONGROOM_VAULT", path("vault")), ("STRONGROOM_KEY_FILE", path("key"))]);
    (guest, environment)
}

#[test]
fn the_machine_of_the_readme_is_backed_up_and_restored() {
    let host = Host::new();
    let (_guest, environment) = with_machine(&host);
    let copies = folder(&host, "copies");
    let page = Page::new("README.md", "the_machine_of_the_readme_is_backed_up_and_restored");
    let copy = format!("--name web01-copy --storage-dir {copies}");
    let replaced = vec![("--name web01-copy", copy)];
    let session = Session { lab: &host.lab, page: &page, environment, replaced };
    session.run(&read("README.md"));
    page.assert_all_run();
    assert_eq!(host.virsh(&["domstate", "web01-copy"]), "running");
    host.virsh(&["destroy", "web01-copy"]);
}

/// The page for 3 a.m.: the host is new, and the machine is only in the vault.
#[test]
fn machines_are_restored_on_the_worst_day() {
    let host = Host::new();
    let (guest, environment) = with_machine(&host);
    host.lab.ok("backup --vm web01");
    guest.virsh("undefine", &["--checkpoints-metadata"]);
    let page = Page::new("docs/use/recovery.md", "machines_are_restored_on_the_worst_day");
    let replaced = vec![("/var/lib/libvirt/images", folder(&host, "images"))];
    let session = Session { lab: &host.lab, page: &page, environment, replaced };
    session.run(&read("docs/use/recovery.md"));
    page.assert_all_run();
    assert_eq!(host.virsh(&["domstate", "web01"]), "running");
    host.virsh(&["destroy", "web01"]);
}

/// What cron or systemd runs, of the lines of a file of theirs.
fn scheduled(file: &str) -> Vec<String> {
    let line = |line: &str| {
        if line.starts_with(['#', '[']) || line.starts_with("Type=") {
            return None;
        }
        let variables = line.strip_prefix("Environment=");
        let is_variable = |line: &&str| line.starts_with("STRONGROOM_");
        if let Some(variables) = variables.or_else(|| Some(line).filter(is_variable)) {
            return Some(format!("export {variables}"));
        }
        if let Some(command) = line.strip_prefix("ExecStart=") {
            return Some(command.to_owned());
        }
        // Five fields of time, and the user.
        let fields: Vec<&str> = line.splitn(7, ' ').collect();
        assert_eq!(fields.get(5), Some(&"root"), "{line}");
        fields.get(6).map(|&command| command.to_owned())
    };
    file.lines().filter_map(line).collect()
}

#[test]
fn the_nightly_jobs_of_the_page_of_policies_work() {
    let host = Host::new();
    let (_guest, environment) = with_machine(&host);
    let page = Page::new("docs/use/policies.md", "the_nightly_jobs_of_the_page_of_policies_work");
    let path = |name: &str| host.lab.path(name).display().to_string();
    for file in page.parts() {
        assert!(page.take(&file));
        let script = format!(
            "set -eu\nstrongroom() {{ command \"$PROGRAM\" \"$@\"; }}\n{}\n",
            scheduled(&file).join("\n")
        );
        let script = script
            .replace("/backup/vault", &path("vault"))
            .replace("/root/strongroom.key", &path("key"));
        let mut command = host.lab.shell(&script);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let command = command.env("PROGRAM", env!("CARGO_BIN_EXE_strongroom"));
        let run = Run::of(&command.output().expect("bash"));
        assert_eq!(run.code, 0, "{script}\n{run:?}");
    }
    page.assert_all_run();
    assert_eq!(host.lab.points("web01").len(), 2);
}

/// The part of docs/use/verify.md that needs a server.
fn booted_as_the_page_says(lab: &Lab, environment: &[(&'static str, String)]) {
    lab.ok("policy create nightly --vault-name main --daily-at 02:00");
    let page = Page::new("docs/use/verify.md", "the_service_protects_and_restores_machines");
    // The machine of the test has no screen.
    let replaced = vec![(" --screenshot web01.png", String::new())];
    let session = Session { lab, page: &page, environment: environment.to_vec(), replaced };
    session.run_parts(&page.parts().iter().map(String::as_str).collect::<Vec<_>>());
    page.assert_all_run();
}

/// The machines of docs/use/service.md: discovered, protected, restored beside and in their place.
#[test]
fn the_service_protects_and_restores_machines() {
    let host = Host::new();
    let web01 = Guest::named("web01").disk(Disk::qcow2(48)).cmdline("lab.noapp").create(&host);
    web01.boot();
    web01.wait_records(3);
    let _web02 = Guest::named("web02").disk(Disk::qcow2(16)).create(&host);
    let mut lab = Lab::empty();
    for (name, value) in host.env() {
        if name.starts_with("XDG_RUNTIME") || name.starts_with("XDG_CONFIG") {
            lab.set(name, &value);
        }
    }
    let socket = host.socket().display().to_string();
    let boots = folder(&host, "boots");
    let settings = format!("libvirt_sockets = [\"{socket}\"]\nboot_dir = \"{boots}\"\n");
    let service = Service::start_in(lab, &settings);
    let lab = &service.lab;
    lab.ok("vault create main");
    lab.ok(&format!("host create vms --connect qemu+unix:///session?socket={socket}"));
    let copies = lab.path("copies").display().to_string();
    std::fs::create_dir(&copies).expect("a folder");
    let page = Page::new("docs/use/service.md", "the_service_protects_and_restores_machines");
    let session = Session {
        lab,
        page: &page,
        // The contexts of users are there, not where libvirt's settings are.
        environment: vec![("XDG_CONFIG_HOME", host.lab.path("c").display().to_string())],
        replaced: vec![
            ("HOST", "vms".to_owned()),
            ("\"2026-11-22 18:00\"", "latest".to_owned()),
            ("--name web01-copy", format!("--name web01-copy --storage-dir {copies}")),
            ("--replace --shut-down", "--replace --shut-down --yes".to_owned()),
            ("restore accept", "restore accept --yes".to_owned()),
        ],
    };
    let parts = page.parts();
    let (restores, before): (Vec<&str>, Vec<&str>) =
        parts.iter().map(String::as_str).partition(|part| part.contains("restore "));
    session.run_parts(&before);
    lab.ok("protection backup-now --item web01 --wait");
    booted_as_the_page_says(lab, &session.environment);
    for part in restores {
        // The copy is defined by an earlier line; its name and its files are free again for a plan.
        if part.contains("--dry-run") {
            host.virsh(&["undefine", "web01-copy", "--nvram"]);
            std::fs::remove_dir_all(&copies).expect("removed");
            std::fs::create_dir(&copies).expect("a folder");
        }
        // It has to be off for that.
        if part.contains("restore accept") {
            assert_eq!(web01.state(), "running");
            web01.destroy();
        }
        session.run_parts(&[part]);
    }
    page.assert_all_run();
}
