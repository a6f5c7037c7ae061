//! Vaults on disks that become full or read-only: points that are there stay restorable, the error says which
//! it is, and with room all goes on.

use std::{fs, path::PathBuf, process::Command};

use super::{
    Chance, figures, many,
    world::{ITEMS, World},
};
use crate::harness::Lab;

/// A small file system in memory, unmounted in the end.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf, kib: u64) -> Self {
        fs::create_dir(&path).expect("made");
        let small = Self(path);
        small.call("mount", &["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]);
        small
    }

    fn remount(&self, options: &str) {
        self.call("mount", &["-o", &format!("remount,{options}")]);
    }

    fn call(&self, program: &str, words: &[&str]) {
        let status = Command::new(program).args(words).arg(&self.0).status();
        assert!(status.expect("it runs").success(), "{program} {words:?}: this test needs root");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // The test has failed already if this does.
        Command::new("umount").arg(&self.0).status().ok();
    }
}

#[derive(Default, Debug)]
struct Disks {
    full: u64,
    read_only: u64,
    restores: u64,
}

fn disk(chance: &mut Chance, disks: &mut Disks) {
    let mut lab = Lab::empty();
    lab.ok("vault key generate key");
    lab.set("STRONGROOM_VAULT", "small/vault");
    let small = Small::mount(lab.path("small"), 2800 + chance.below(2000));
    let mut world = World::around(lab, chance, false);
    world.lab.ok("vault create");
    for turn in 0_usize.. {
        assert!(turn < 200, "the disk is never full");
        let (item, _) = ITEMS[turn % ITEMS.len()];
        world.change(item, chance);
        let run = world.lab.run(&World::backup(item));
        assert_eq!(world.look(), usize::from(run.code == 0), "{}", run.stderr);
        if run.code != 0 {
            assert!(run.code == 5 && run.stderr.contains("Code: store.full"), "{}", run.stderr);
            break;
        }
    }
    disks.full += 1;

    small.remount("ro");
    let run = world.lab.run(&World::backup("web"));
    assert!(run.code == 5 && run.stderr.contains("Code: store.read_only"), "{}", run.stderr);
    for words in [
        "vault reclaim --wait 0s",
        "recoverypoint delete --item web --recovery-point latest --yes",
        "vault key rotate --master",
        "vault create --vault small/other",
    ] {
        let run = world.lab.run(words);
        let told = run.code == 5 && run.stderr.contains("Code: store.read_only");
        assert!(told, "{words}: {}", run.stderr);
    }
    world.lab.ok("vault verify");
    world.restore_all("");
    disks.read_only += 1;

    small.remount("rw,size=64m");
    world.lab.ok("vault reclaim --wait 0s");
    world.backed_up("web", chance);
    world.restore_all("");
    world.lab.ok("vault verify");
    disks.restores += world.restores;
}

#[test]
fn full_and_read_only_disks_cost_no_point() {
    let mut chance = Chance::new(6);
    let mut disks = Disks::default();
    for _ in 0..many(1, 55) {
        disk(&mut chance, &mut disks);
    }
    figures(&format!("full and read-only disks: {disks:?}; 0 lost, 0 restored wrong"));
}
