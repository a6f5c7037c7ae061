//! A real server for a test.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use strongroom_base::{Clock as _, SystemClock};

use crate::harness::Lab;

/// A server, and a folder in which it is known as the context `test`.
pub(crate) struct Service {
    pub(crate) lab: Lab,
    server: Child,
    pub(crate) url: String,
    pub(crate) fingerprint: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Service {
    /// A server on a free port, with nothing in it.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// One with further lines of configuration.
    pub(crate) fn start_with(more: &str) -> Self {
        Self::start_in(Lab::empty(), more)
    }

    /// One in a folder that is there, with what its environment says.
    pub(crate) fn start_in(mut lab: Lab, more: &str) -> Self {
        lab.set("STRONGROOM_VAULT", "");
        lab.set("STRONGROOM_KEY_FILE", "");
        configure(&lab, "127.0.0.1:0", more);
        let server = spawn(&lab);
        let mut service = Self { lab, server, url: String::new(), fingerprint: String::new() };
        service.keep_first_token();
        service.add_context("test");
        service
    }

    /// Has the server listen where it does now, and be set so, when it is started again.
    pub(crate) fn stay(&self, settings: &str) {
        let address = self.url.trim_start_matches("https://");
        configure(&self.lab, address, settings);
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.server.kill().expect("killed");
        self.server.wait().expect("it is gone");
    }

    /// Starts the server again, and does not wait for it.
    pub(crate) fn start_again(&mut self) {
        self.server = spawn(&self.lab);
    }

    /// Waits until the server that was started again listens.
    pub(crate) fn wait_for_greeting(&mut self) {
        self.greeting_until("fingerprint: ");
    }

    /// Starts a server in an emptied folder, as which it is known from then on.
    pub(crate) fn start_anew(&mut self) {
        self.start_again();
        self.keep_first_token();
        self.add_context("anew");
    }

    /// Waits until the server has kept its catalog in the vault `main` as it is now.
    pub(crate) fn wait_for_catalog(&self) {
        let now = SystemClock.now();
        self.lab.ok("vault update main --tag kept=yes");
        for _ in 0..900 {
            let jobs = self.lab.json("job list --kind save_catalog --state completed");
            let jobs = jobs["jobs"].as_array().cloned().unwrap_or_default();
            let later = |job: &serde_json::Value| {
                let created = job["created"].as_str().and_then(|time| time.parse().ok());
                job["subject"] == "main" && created > Some(now)
            };
            if jobs.iter().any(later) {
                return;
            }
            SystemClock.sleep(Duration::from_millis(100));
        }
        panic!("the catalog is not kept: {}", self.log());
    }

    /// Kills it without a word, and starts it again.
    pub(crate) fn kill_and_start(&mut self) {
        self.kill();
        self.start_again();
        self.wait_for_greeting();
        self.add_context("again");
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.server.id()
    }

    /// What it has logged since it said its address, over all its lives.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.lab.path("server.log")).unwrap_or_default()
    }

    /// Reads what a server says at its start, and returns the token's file if it is the first.
    fn greeting_until(&mut self, mark: &str) -> String {
        let mut lines = BufReader::new(self.server.stderr.take().expect("piped"));
        let (mut token, mut told) = (String::new(), String::new());
        while !told.contains(mark) {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).expect("readable") > 0, "no greeting: {told}");
            if let Some(url) = line.trim().strip_prefix("Strongroom listens on ") {
                url.clone_into(&mut self.url);
            } else if let Some((_, print)) = line.split_once("fingerprint: ") {
                print.trim().clone_into(&mut self.fingerprint);
            } else if line.starts_with("  ") && !line.contains("strongroom ") {
                line.trim().clone_into(&mut token);
            }
            told += &line;
        }
        // What it says later must go somewhere.
        let log = fs::File::options().create(true).append(true).open(self.lab.path("server.log"));
        let mut log = log.expect("a log");
        thread::spawn(move || std::io::copy(&mut lines, &mut log));
        token
    }

    /// Copies the first token: its file is removed once a user is made.
    fn keep_first_token(&mut self) {
        let file = self.greeting_until("/first-token");
        fs::copy(file, self.lab.path("token")).expect("copied");
    }

    pub(crate) fn add_context(&self, name: &str) {
        let (url, print) = (&self.url, &self.fingerprint);
        let add = format!(
            "context add {name} --server {url} --fingerprint {print} --token-file token --use"
        );
        self.lab.ok(&add);
    }

    pub(crate) fn stop(&mut self) {
        let pid = Pid::from_child(&self.server);
        kill_process(pid, Signal::TERM).ok();
        self.server.wait().ok();
    }

    /// A vault `main`, and the disk `d.img` of so many MiB as item `data`, with no point yet.
    pub(crate) fn with_item(mib: u64) -> Self {
        Self::with_item_and(mib, "")
    }

    /// The same with further lines of configuration.
    pub(crate) fn with_item_and(mib: u64, more: &str) -> Self {
        let service = Self::start_with(more);
        let lab = &service.lab;
        lab.ok("vault create main");
        lab.ok("host create files");
        lab.disk("d.img", mib, mib / 2, 1);
        let path = lab.path("d.img");
        lab.ok(&format!(
            "protection enable-for-disks --item data --host files --vault-name main \
             --disk root={} --wait",
            path.display()
        ));
        service
    }
}

fn configure(lab: &Lab, listen: &str, settings: &str) {
    let config = format!(
        "listen = \"{listen}\"\ndisk_dirs = [\"{0}\"]\nrestore_dirs = [\"{0}\"]\n\
         vault_dirs = [\"{0}\"]\nkey_dirs = [\"{0}\"]\n\
         reclaim_every_hours = 0\nmeasure_every_hours = 0\n{settings}",
        lab.path("").display()
    );
    let keeps = config.contains("save_every_minutes");
    let config = if keeps { config } else { format!("save_every_minutes = 0\n{config}") };
    fs::write(lab.path("server.toml"), config).expect("written");
}

fn spawn(lab: &Lab) -> Child {
    let mut command = lab.command("serve --config server.toml --data-dir data");
    command.stderr(Stdio::piped()).spawn().expect("the server starts")
}
