//! The whole service on real parts: libvirt and a running guest, a vault in S3 and one near the disks,
//! and another server when the first is lost.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::{
    check::{Taken, check},
    guest::{Disk, Guest},
    harness::{Host, Lab, within},
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

/// Asked for by a person, by a policy; and what people are shown of it.
#[test]
fn a_machine_is_booted_by_the_service() {
    let host = Host::new();
    let guest = Guest::named("web").disk(Disk::qcow2(64)).vga();
    let guest = guest.cmdline("lab.login lab.noapp").create(&host);
    guest.boot();
    guest.wait_records(2);
    let mut lab = Lab::empty();
    for (name, value) in host.env() {
        if name.starts_with("XDG_RUNTIME") || name.starts_with("XDG_CONFIG") {
            lab.set(name, &value);
        }
    }
    let (socket, boots) = (host.socket(), lab.path("boots"));
    fs::create_dir(&boots).expect("a folder");
    let settings = format!(
        "libvirt_sockets = [\"{}\"]\nboot_dir = \"{}\"\n",
        socket.display(),
        boots.display()
    );
    let service = Service::start_in(lab, &settings);
    let lab = &service.lab;
    lab.ok("vault create main");
    let uri = format!("qemu+unix:///session?socket={}", socket.display());
    lab.ok(&format!("host create vms --connect {uri}"));
    let protect = "protection enable-for-vm --vm web --host vms --vault-name main --policy default";
    lab.ok(&format!("{protect} --wait"));
    lab.ok("protection backup-now --item web --wait");
    lab.fails("verify show --item web --recovery-point latest", 3, "boot.not_found");
    lab.fails("recoverypoint show --item web --recovery-point booted", 3, "boot.not_found");

    let verify = "verify boot --item web --recovery-point latest --wait";
    let job = lab.json(verify);
    assert_eq!((&job["kind"], &job["state"]), (&"verify_boot".into(), &"completed".into()));
    assert_eq!(job["report"]["reached"], "agent", "{job:#}");
    assert_eq!(job["tasks"][0]["name"], "boot");
    let id = job["id"].as_str().expect("an id");
    let screen = lab.ok(&format!("job show {id}")).stdout;
    assert!(screen.contains("web boots from recovery point"), "{screen}");
    let files = ["screen", "console"].map(|name| lab.path(name).display().to_string());
    let show = "verify show --item web --recovery-point booted";
    let report = lab.json(&format!("{show} --screenshot {} --console {}", files[0], files[1]));
    assert_eq!(report, job["report"]);
    let picture = fs::read(&files[0]).expect("a picture");
    assert!(picture.starts_with(b"\x89PNG") || picture.starts_with(b"P6"));
    assert!(fs::read_to_string(&files[1]).expect("a text").contains("web login: "));
    let listed = lab.ok("verify list --item web").stdout;
    assert!(listed.contains("passed") && listed.contains("agent"), "{listed}");
    let points = lab.ok("recoverypoint list --item web").stdout;
    assert!(points.contains("BOOTS") && points.contains("agent"), "{points}");
    let audit = lab.ok("audit list").stdout;
    assert!(audit.contains("item.verify_boot"), "{audit}");

    // It does not come as far as somebody wants: the job has done its work, and says so.
    lab.fails(&format!("{verify} --port 4711 --timeout 60s"), 7, "job.warnings");
    let alerts = lab.json("alert list");
    let rules: Vec<_> = alerts["alerts"].as_array().expect("alerts").iter().collect();
    assert!(rules.iter().any(|alert| alert["rule"] == "boot_failed"), "{alerts:#}");
    let listed = lab.ok("verify list --item web").stdout;
    assert!(listed.contains("failed") && listed.contains("4711"), "{listed}");

    // A drill is a verification too: the newest point boots again, and that ends the alert.
    let job = lab.json("drill --item web --network none --within 10m --wait");
    assert_eq!((&job["kind"], &job["state"]), (&"drill".into(), &"completed".into()), "{job:#}");
    assert_eq!(job["report"]["machines"][0]["is_in_time"], true, "{job:#}");
    let id = job["id"].as_str().expect("an id");
    assert!(lab.ok(&format!("job show {id}")).stdout.contains("Drill of"));
    let alerts = lab.json("alert list --state firing");
    let left: Vec<_> = alerts["alerts"].as_array().expect("alerts").iter().collect();
    assert!(left.iter().all(|alert| alert["rule"] != "boot_failed"), "{left:?}");
    let run = lab.run("drill --item web --network none --within 1s");
    assert_eq!(run.code, 0, "{run:?}");

    // A policy does it by itself.
    let set = "policy set default --vault-name main --boot every_point --boot-expect kernel";
    let policy = lab.json(set);
    assert_eq!(policy["boot"]["when"], "every_point", "{policy:#}");
    lab.ok("protection backup-now --item web --wait");
    let booted = "job list --kind verify_boot --state completed";
    let mut ended = Value::Null;
    let is_booted = within(400, || {
        let jobs = lab.json(booted);
        let jobs = jobs["jobs"].as_array().expect("jobs").iter();
        let mut scheduled = jobs.filter(|job| job["trigger"] == "scheduled");
        ended = scheduled.next().cloned().unwrap_or_default();
        !ended.is_null()
    });
    assert!(is_booted, "the policy has booted nothing");
    assert_eq!(ended["report"]["expected"], "kernel", "{ended:#}");
    // The drill whose time was too short has ended before it, and is an alert.
    let alerts = lab.json("alert list --state firing");
    let late = alerts["alerts"].as_array().expect("alerts").iter();
    assert!(late.clone().any(|alert| alert["rule"] == "drill_failed"), "{alerts:#}");
    assert_eq!(fs::read_dir(&boots).expect("a folder").count(), 0);
    assert_eq!(guest.state(), "running");
}
