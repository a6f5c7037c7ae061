//! The server is killed with SIGKILL, again and again, while it works: whatever it was doing, every job
//! comes to a true end, no recovery point is lost or half, nothing stays locked, and a request that is
//! sent again with its key is not carried out twice.
#![allow(clippy::disallowed_methods, reason = "it waits for the moment to kill a real server")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    harness::{Run, need},
    server::Service,
};

/// Items with their hosts, of which one has a vault near its disks, and their sizes in MiB.
const ITEMS: [(&str, &str, u64); 2] = [("web", "fast", 8), ("db", "files", 4)];

/// When the server of a round is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So many milliseconds after requests began to be sent.
    After(u64),
    /// As soon as a job is seen to be at this part.
    At(&'static str),
    /// So many milliseconds after all requests were answered, and once more while it starts.
    Twice(u64),
}

impl Moment {
    fn of(round: u64) -> Self {
        let spread = (round * 173) % 600;
        match round % 5 {
            0 => Self::At("transfer"),
            1 => Self::After(spread),
            2 => Self::At("validate"),
            3 => Self::Twice(spread),
            _ => Self::At("restore"),
        }
    }
}

/// A server, and what must be true of it.
struct Bench {
    service: Service,
    /// The image of each recovery point that must be there, by item and point.
    points: BTreeMap<(String, String), String>,
    /// Jobs by the keys with which they were asked for.
    jobs: BTreeMap<String, String>,
}

impl Bench {
    fn new() -> Self {
        need("curl", "curl");
        let mut service = Service::start();
        // So slow that there is a moment in which to kill it.
        service.stay("limit_rate = \"24M\"\n");
        service.kill();
        service.start_again();
        service.wait_for_greeting();
        let lab = &service.lab;
        lab.ok("vault create main --soft-delete disabled");
        lab.ok("vault create near --soft-delete disabled");
        lab.ok("host create files");
        lab.ok("host create fast --snapshot-vault near");
        for (name, host, mib) in ITEMS {
            let disk = lab.disk(&format!("{name}.img"), mib, mib / 2, mib);
            lab.ok(&format!(
                "protection enable-for-disks --item {name} --host {host} --vault-name main \
                 --disk root={} --wait",
                disk.display()
            ));
        }
        Self { service, points: BTreeMap::new(), jobs: BTreeMap::new() }
    }

    /// A request with a key, sent by a process of its own.
    fn send(&self, key: &str, path: &str, body: &Value) -> Child {
        let lab = &self.service.lab;
        let token = fs::read_to_string(lab.path("token")).expect("a token");
        Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"])
            .arg("--cacert")
            .arg(lab.path("data/tls/certificate.pem"))
            .args(["-H", &format!("Authorization: Bearer {}", token.trim())])
            .args([
                "-H",
                &format!("Idempotency-Key: {key}"),
                "-H",
                "Content-Type: application/json",
            ])
            .args(["--data", &body.to_string(), &format!("{}/v1{path}", self.service.url)])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("curl starts")
    }

    /// The requests of a round: their keys, paths and bodies.
    fn requests(&self, round: u64) -> Vec<(String, String, Value)> {
        let mut requests: Vec<_> = ITEMS
            .iter()
            .map(|(item, ..)| {
                (format!("backup-{item}-{round}"), format!("/items/{item}/backup"), json!({}))
            })
            .collect();
        // An item has one job at a time: every fifth round one of them is restored from instead.
        if round % 5 == 4 {
            let folder = self.service.lab.path(&format!("out-{round}"));
            let restore = json!({ "mode": "disks", "folder": folder });
            let path = "/items/web/recovery-points/latest/restore".to_owned();
            requests[0] = (format!("restore-web-{round}"), path, restore);
        }
        if round % 3 == 2 {
            let path = "/vaults/main/reclaim".to_owned();
            requests.push((format!("reclaim-{round}"), path, Value::Null));
        }
        requests
    }

    /// Changes the disks, asks for work, kills the server in the middle of it, and sees it through.
    fn round(&mut self, round: u64) {
        let lab = &self.service.lab;
        for (item, _, mib) in ITEMS {
            let image = format!("{item}.img");
            lab.change(&image, (round * 700_001) % (mib << 19), 300_000, round * 7 + mib);
            lab.copy(&image, &format!("{item}.{round}"));
        }
        if round % 4 == 3 {
            self.delete_oldest("web");
        }
        let newest = self.newest("web");
        let moment = Moment::of(round);
        let requests = self.requests(round);
        let start = Instant::now();
        let sent: Vec<Child> =
            requests.iter().map(|(key, path, body)| self.send(key, path, body)).collect();
        match moment {
            Moment::After(millis) => {
                thread::sleep(Duration::from_millis(millis).saturating_sub(start.elapsed()));
            }
            Moment::At(task) => self.wait_for_task(task),
            Moment::Twice(millis) => {
                self.wait_for_task("transfer");
                thread::sleep(Duration::from_millis(millis));
                self.service.kill();
                self.service.start_again();
                thread::sleep(Duration::from_millis(millis / 2));
            }
        }
        self.service.kill();
        for child in sent {
            child.wait_with_output().expect("curl ends");
        }
        self.service.start_again();
        self.service.wait_for_greeting();
        // Whether it was answered or not, it can be sent again, and is answered.
        for (key, path, body) in &requests {
            let answer = self.send(key, path, body).wait_with_output().expect("curl ends");
            let answer = Run::of(&answer);
            let (body, status) = answer.stdout.rsplit_once('\n').expect("a status");
            assert_eq!(status, "202", "round {round} {moment:?} {key}: {body}");
            let begun: Value = serde_json::from_str(body).expect("JSON");
            self.jobs.insert(key.clone(), begun["job"].as_str().expect("an id").to_owned());
        }
        for (key, ..) in &requests {
            self.see_through(round, key, newest.as_deref());
        }
    }

    fn newest(&self, item: &str) -> Option<String> {
        let of_item = self.points.iter().rfind(|((of, _), _)| of == item);
        of_item.map(|(_, image)| image.clone())
    }

    /// Deletes an item's oldest recovery point, for ever: the vault keeps nothing of what is deleted.
    fn delete_oldest(&mut self, item: &str) {
        let mut of_item = self.points.keys().filter(|(of, _)| of == item);
        let (Some(oldest), Some(_)) = (of_item.next().cloned(), of_item.next()) else { return };
        let point = &oldest.1;
        self.service
            .lab
            .ok(&format!("recoverypoint delete --item {item} --recovery-point {point} --yes"));
        let image = self.points.remove(&oldest).expect("it is there");
        fs::remove_file(self.service.lab.path(&image)).expect("removed");
    }

    /// Waits until a job is at a part, or nothing is at work.
    fn wait_for_task(&self, task: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            let jobs = self.service.lab.json("job list --limit 5");
            let jobs = jobs["jobs"].as_array().expect("a list");
            let busy = |it: &Value| it["name"] == task && it["state"] == "in_progress";
            let parts = |job: &Value| job["tasks"].as_array().expect("parts").clone();
            if jobs.iter().any(|job| parts(job).iter().any(busy)) {
                return;
            }
            let open = |job: &&Value| job["ended"].is_null();
            if jobs.iter().filter(open).count() == 0 {
                return;
            }
        }
    }

    /// Waits for the end of a job, and looks whether what it says is true.
    fn see_through(&mut self, round: u64, key: &str, newest: Option<&str>) {
        let lab = &self.service.lab;
        let id = &self.jobs[key];
        lab.run(&format!("job wait {id}"));
        let job = lab.json(&format!("job show {id}"));
        let state = job["state"].as_str().expect("a state");
        if state == "failed" {
            // It says so, and why.
            let code = job["error"]["code"].as_str().expect("a code");
            assert_eq!(code, "job.interrupted", "{key}: {job:#}");
            return;
        }
        assert!(state.starts_with("completed"), "{key}: {job:#}");
        assert!(job["ended"].is_string(), "{job:#}");
        match job["kind"].as_str().expect("a kind") {
            "backup" => {
                let item = job["subject"].as_str().expect("a name").to_owned();
                let point = job["recovery_point"].as_str().expect("a point").to_owned();
                let image = format!("{item}.{round}");
                let before = self.points.insert((item, point), image);
                assert_eq!(before, None, "{key} made a point of another job");
            }
            "restore" => {
                let image = newest.expect("a point");
                lab.assert_same(image, &format!("out-{round}/root.raw"));
            }
            _ => {}
        }
    }

    fn met(&self) -> usize {
        let jobs = self.service.lab.json("job list --limit 1000");
        met(jobs["jobs"].as_array().expect("a list"))
    }

    /// What must be true after everything.
    fn check(mut self) -> usize {
        let lab = &self.service.lab;
        let jobs = lab.json("job list --limit 1000");
        let jobs = jobs["jobs"].as_array().expect("a list");
        for job in jobs {
            let (kind, by) = (&job["kind"], &job["requested_by"]);
            let open = job["ended"].is_null() && by != "system";
            assert!(!open, "{job:#}");
            let known = self.jobs.values().any(|id| job["id"] == id.as_str());
            let asked = kind == "backup" || kind == "restore" || kind == "reclaim";
            assert!(known || !asked || by == "system", "nobody asked for {job:#}");
        }
        // The test itself: kills have met jobs at work.
        assert!(met(jobs) >= 3, "{jobs:#?}");
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        for (item, ..) in ITEMS {
            let shown = lab.json(&format!("item show {item}"));
            assert_eq!((&shown["state"], &shown["job"]), (&json!("protected"), &Value::Null));
            let list = lab.json(&format!("recoverypoint list --item {item}"));
            let list = list["recovery_points"].as_array().expect("a list");
            let gone = |point: &&Value| point["state"] != "soft_deleted";
            let found: BTreeSet<String> = list
                .iter()
                .filter(gone)
                .map(|point| {
                    assert_eq!(point["state"], "restorable", "{point:#}");
                    assert_ne!(point["type"], "snapshot", "it was not transferred: {point:#}");
                    point["id"].as_str().expect("an id").to_owned()
                })
                .collect();
            let of_item = self.points.keys().filter(|(of, _)| of == item);
            let expected: BTreeSet<String> = of_item.map(|(_, point)| point.clone()).collect();
            assert_eq!(found, expected, "the points of {item}");
            wanted.extend(expected);
        }
        assert_eq!(lab.json("audit verify")["intact"], true);
        for (item, ..) in ITEMS {
            lab.ok(&format!("protection backup-now --item {item} --wait"));
        }
        lab.ok("vault reclaim main --wait");
        self.check_vault(&wanted);
        self.jobs.len()
    }

    /// The vault without its server: all that must be there is there, whole, and restores.
    fn check_vault(&mut self, wanted: &BTreeSet<String>) {
        let vault = self.service.lab.json("vault show main");
        self.service.stop();
        let lab = &self.service.lab;
        let url = vault["url"].as_str().expect("a place");
        let key = vault["encryption"]["key"].as_str().expect("a key's file");
        let direct = format!("--vault {url} --key-file {key}");
        lab.ok(&format!("vault verify {direct}"));
        let list = lab.json(&format!("recoverypoint list {direct}"));
        let list = list["recovery_points"].as_array().expect("a list");
        let found: BTreeSet<&str> = list.iter().filter_map(|point| point["id"].as_str()).collect();
        let lost: Vec<_> = wanted.iter().filter(|id| !found.contains(id.as_str())).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        for ((_, point), image) in &self.points {
            let item = list.iter().find(|it| it["id"] == point.as_str()).expect("found");
            let item = item["item"].as_str().expect("a name");
            fs::remove_dir_all(lab.path("again")).ok();
            lab.ok(&format!(
                "restore disks --item {item} --recovery-point {point} --to again {direct}"
            ));
            lab.assert_same(image, "again/root.raw");
        }
    }
}

/// How many jobs were at work when the server was killed.
fn met(jobs: &[Value]) -> usize {
    jobs.iter().filter(|job| job["attempt"].as_u64() > Some(1)).count()
}

#[test]
fn a_server_that_is_killed_at_any_moment_loses_nothing_and_does_nothing_twice() {
    let least = if std::env::var_os("STRONGROOM_LONG").is_some() { 150 } else { 8 };
    let mut bench = Bench::new();
    let mut rounds = 0;
    // Whether a kill meets a job depends on how busy the machine is: until some have.
    while rounds < least || bench.met() < 3 && rounds < 5 * least {
        bench.round(rounds);
        rounds += 1;
    }
    let jobs = bench.check();
    assert!(jobs >= 2 * usize::try_from(rounds).expect("few"), "{jobs}");
}
