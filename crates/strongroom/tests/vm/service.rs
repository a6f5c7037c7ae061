//! The whole service on real parts: libvirt and a running guest, a vault in S3 and one near the disks,
//! and another server when the first is lost.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::{
    check::{Taken, check},
    guest::{Disk, Guest},
    harness::{Host, Lab},
    server::Service,
    store::Store,
};

fn checked(service: &Service, folder: &str) {
    let path = |name: &str| service.lab.path(folder).join(format!("{name}.raw"));
    let images: [PathBuf; 2] = [path("vda"), path("vdb")];
    check(&[&images[0], &images[1]], Taken::Frozen).unwrap_or_else(|error| panic!("{error}"));
}

fn restored(service: &Service, point: &str, folder: &str) -> Value {
    fs::create_dir(service.lab.path(folder)).expect("a folder");
    let to = service.lab.path(folder).display().to_string();
    let job = format!("restore disks --item web --recovery-point {point} --wait --to {to}");
    let job = service.lab.json(&job);
    checked(service, folder);
    job
}

#[test]
fn a_running_machine_in_s3_by_way_of_a_vault_near_it() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(64)).disk(Disk::qcow2(48));
    let guest = guest.cmdline("lab.noapp").create(&host);
    guest.boot();
    guest.wait_records(3);
    let mut lab = Lab::empty();
    for (name, value) in host.env() {
        if name.starts_with("XDG_RUNTIME") || name.starts_with("XDG_CONFIG") {
            lab.set(name, &value);
        }
    }
    let _store = Store::start("moto", &mut lab);
    let url = lab.get("STRONGROOM_VAULT");
    lab.set("STRONGROOM_VAULT", "");
    lab.ok("vault key generate main.key");
    let socket = host.socket();
    let sockets =
        format!("libvirt_sockets = [\"{}\"]\nvault_urls = [\"{url}\"]\n", socket.display());
    let mut service = Service::start_in(lab, &format!("save_every_minutes = 60\n{sockets}"));
    let lab = &service.lab;
    let key = lab.path("main.key").display().to_string();
    lab.ok(&format!("vault create main --vault {url} --key-file {key}"));
    lab.ok("vault create near");
    let uri = format!("qemu+unix:///session?socket={}", socket.display());
    lab.ok(&format!("host create vms --connect {uri} --snapshot-vault near"));
    lab.ok("host discover vms --wait");
    let found = lab.json("protectable-item list --host vms");
    assert_eq!(found["protectable_items"][0]["name"], "web", "{found:#}");
    lab.ok("protectable-item check --host vms --vm web");
    let protect = "protection enable-for-vm --vm web --host vms --vault-name main --policy default";
    // What the check finds to be less than good is told, and no reason to end scripts.
    lab.ok(&format!("{protect} --wait"));
    lab.ok("protection backup-now --item web --wait");
    guest.wait_records(3);
    let job = lab.json("protection backup-now --item web --wait");
    assert_eq!(job["state"], "completed", "{job:#}");
    assert_eq!(job["report"]["disks"][0]["changes_from"], "bitmap", "{job:#}");
    let points = lab.json("recoverypoint list --item web");
    let points = points["recovery_points"].as_array().expect("points").clone();
    assert_eq!(points.len(), 2);
    for point in &points {
        assert_eq!(
            (&point["type"], &point["state"]),
            (&"snapshot_and_vault".into(), &"restorable".into())
        );
        assert_eq!(point["consistency"], "file_system");
    }
    let screen = lab.ok("status").stdout;
    assert!(screen.contains("main"), "{screen}");
    let last = points[1]["id"].as_str().expect("an id").to_owned();
    restored(&service, &last, "near-out");
    // Planned only, as a copy and in its place.
    let lab = &service.lab;
    let plan = format!("restore vm --item web --recovery-point {last} --dry-run --wait");
    for more in [
        format!("--name copy --storage-dir {}", lab.path("near-out").display()),
        "--replace --power-off --yes".to_owned(),
    ] {
        let job = lab.json(&format!("{plan} {more}"));
        assert_eq!(job["report"]["dry_run"], true, "{job:#}");
        assert_eq!(host.virsh(&["list", "--all", "--name"]), "web");
        assert_eq!(guest.state(), "running");
    }

    // The vault near the machine is lost: the other one serves, and that is said.
    let lab = &service.lab;
    let near = lab.path("data/vaults/near");
    fs::rename(&near, lab.path("aside")).expect("moved");
    fs::create_dir(service.lab.path("far-out")).expect("a folder");
    let to = lab.path("far-out").display().to_string();
    let words = format!("restore disks --item web --recovery-point {last} --wait --to {to}");
    lab.fails(&words, 7, "job.warnings");
    checked(&service, "far-out");
    let lab = &service.lab;
    fs::rename(lab.path("aside"), &near).expect("moved");

    // The server is lost. Another one is made from the vault in S3 and its key.
    service.wait_for_catalog();
    service.kill();
    fs::remove_dir_all(service.lab.path("data")).expect("removed");
    let recover =
        format!("recover --vault {url} --key-file {key} --config server.toml --data-dir data");
    let told = service.lab.json(&recover);
    assert_eq!(told["recovery_points"], 2, "{told:#}");
    service.start_anew();
    restored(&service, "latest", "anew-out");
    // Of the vault near its disks the new server knows nothing: straight into the other one.
    let lab = &service.lab;
    assert!(lab.json("host show vms").get("snapshot_vault").is_none());
    guest.wait_records(3);
    let job = lab.json("protection backup-now --item web --wait");
    assert_eq!(job["state"], "completed", "{job:#}");
    restored(&service, "latest", "last-out");
}
