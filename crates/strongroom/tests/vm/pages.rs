//! The page about machines, as its reader follows it.

use crate::{
    guest::{Disk, Guest},
    harness::Host,
    restore::folder,
    session::{Session, part, read},
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
    let session = Session {
        lab: &host.lab,
        environment,
        replaced: vec![
            ("--name web01-copy", format!("--name web01-copy --storage-dir {copies}")),
            ("--to /restore", format!("--to {to}")),
            // What a person answers.
            ("--delete", "--delete --yes".to_owned()),
            ("--replace", "--replace --yes".to_owned()),
        ],
        left_out: &[],
    };
    let page = read("docs/use/machines.md");
    let (first, rest) = page.split_once("```json").expect("the settings of scripts");
    assert_eq!(session.run(first), (3, 0));
    // After the settings of scripts comes what stays in the machine's images.
    let rest = rest.split_once("```").expect("an end").1;
    guest.boot();
    assert_eq!(session.run("```\nstrongroom backup --vm web01\n```"), (1, 0));
    let checkpoints = part(rest, "```\nstrongroom vm checkpoints", "```");
    assert_eq!(session.run(&format!("```\nstrongroom vm checkpoints{checkpoints}```")), (2, 0));
    assert_eq!(guest.virsh("checkpoint-list", &["--name"]), "");

    let restores = part(rest, "```\nstrongroom restore vm", "```");
    let restores = format!("strongroom restore vm{restores}");
    let lines: Vec<&str> = restores.lines().collect();
    let [plan, copy, itself, replace, disks] = lines.as_slice() else { panic!("{restores}") };
    let run = |lines: &[&str]| session.run(&format!("```\n{}\n```", lines.join("\n")));
    run(&[plan, copy]);
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
}
