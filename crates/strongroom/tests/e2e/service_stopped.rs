//! The server is stopped with SIGTERM while it works, as an upgrade does, and started again: no job fails,
//! none is lost, and nobody is alarmed.
#![allow(clippy::disallowed_methods, reason = "it waits for the moment to stop a real server")]

use std::{thread, time::Duration};

use serde_json::{Value, json};

use crate::server::Service;

fn jobs(service: &Service) -> Vec<Value> {
    let jobs = service.lab.json("job list --kind backup --limit 1000");
    jobs["jobs"].as_array().expect("a list").clone()
}

#[test]
fn a_server_that_is_stopped_under_load_fails_no_job() {
    const ITEMS: u64 = 4;
    let mut service = Service::start();
    // So slow that every backup is at work when it is stopped.
    service.stay("limit_rate = \"8M\"\njobs_per_host = 8\n");
    service.stop();
    service.start_again();
    service.wait_for_greeting();
    let lab = &service.lab;
    lab.ok("vault create main");
    lab.ok("host create files --max-jobs 8");
    for n in 0..ITEMS {
        let disk = lab.disk(&format!("d{n}.img"), 16, 12, n);
        lab.ok(&format!(
            "protection enable-for-disks --item i{n} --host files --vault-name main \
             --disk root={} --wait",
            disk.display()
        ));
        lab.ok(&format!("protection backup-now --item i{n}"));
    }
    // One of the attempts is begun by a kill, as well.
    for round in 0..4 {
        thread::sleep(Duration::from_millis(300));
        let at_work = jobs(&service).iter().filter(|job| job["state"] == "in_progress").count();
        assert!(at_work > 0, "round {round}: {:#?}", jobs(&service));
        if round == 1 {
            service.kill();
        } else {
            service.stop();
        }
        service.start_again();
        service.wait_for_greeting();
    }
    for job in jobs(&service) {
        service.lab.ok(&format!("job wait {}", job["id"].as_str().expect("an id")));
    }
    let jobs = jobs(&service);
    assert_eq!(jobs.len(), usize::try_from(ITEMS).expect("few"));
    for job in &jobs {
        assert_eq!((&job["state"], &job["error"]), (&json!("completed"), &Value::Null), "{job:#}");
    }
    assert_eq!(service.lab.json("alert list")["alerts"], json!([]));
    for n in 0..ITEMS {
        let points = service.lab.json(&format!("recoverypoint list --item i{n}"));
        assert_eq!(points["recovery_points"].as_array().map(Vec::len), Some(1), "{points:#}");
    }
}
