//! A busy server: lists of jobs, items and points at a fixed rate, from a catalog that has years in it.
//!
//! ```text
//! load [--sqlite N] [--postgres N] [--rate R] [--seconds S] [--program PATH] [--scratch DIR]
//! ```
//!
//! Fills a catalog with N jobs and N recovery points (100,000 on SQLite, 1,000,000 on a PostgreSQL that
//! it starts for itself; 0 leaves one out), starts the real server on it (`strongroom` beside this
//! program, or `--program`), and asks R times a second over TLS, on connections that stay open, whatever
//! the answers take: a late answer counts from the moment when it should have been asked for. Prints
//! one JSON object; times in milliseconds.

#![allow(clippy::disallowed_methods, reason = "real time and real threads are tried here")]

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _, stdout},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use strongroom_base::{HostId, ItemId, JobId, PointId, SystemClock, VaultId};
use strongroom_bench::{Failure, Outcome, failure::finish, rng::Rng};
use strongroom_catalog::{
    Catalog, CatalogUrl, Document,
    testing::{Postgres, Settings},
};
use strongroom_control::model::{ItemDoc, JobDoc, PointDoc, SCHEMA};

/// Items, each with its share of the jobs and points.
const ITEMS: u64 = 2000;

/// Clients that ask at once.
const CLIENTS: usize = 64;

struct Plan {
    sqlite: u64,
    postgres: u64,
    rate: u64,
    seconds: u64,
    program: PathBuf,
    scratch: PathBuf,
}

fn main() -> ExitCode {
    finish("load", work(env::args().skip(1)))
}

fn work(mut arguments: impl Iterator<Item = String>) -> Outcome<()> {
    let mut plan = Plan {
        sqlite: 100_000,
        postgres: 1_000_000,
        rate: 1000,
        seconds: 20,
        program: env::current_exe()?.with_file_name("strongroom"),
        scratch: env::temp_dir(),
    };
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| Failure::new(format!("{argument} needs a value")));
        match argument.as_str() {
            "--sqlite" => plan.sqlite = value()?.parse()?,
            "--postgres" => plan.postgres = value()?.parse()?,
            "--rate" => plan.rate = value()?.parse()?,
            "--seconds" => plan.seconds = value()?.parse()?,
            "--program" => plan.program = value()?.into(),
            "--scratch" => plan.scratch = value()?.into(),
            _ => return Err(Failure::new(format!("unknown argument {argument}"))),
        }
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let mut report = Map::new();
    if plan.sqlite > 0 {
        report.insert("sqlite".to_owned(), runtime.block_on(measure(&plan, None, plan.sqlite))?);
    }
    if plan.postgres > 0 {
        let server = Postgres::start(Settings { durable: true })?;
        let url = runtime.block_on(server.database())?;
        let figures = runtime.block_on(measure(&plan, Some(url), plan.postgres))?;
        report.insert("postgres".to_owned(), figures);
    }
    writeln!(stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

async fn measure(plan: &Plan, url: Option<CatalogUrl>, count: u64) -> Outcome<Value> {
    let dir = plan.scratch.join(format!("strongroom-load-{}", std::process::id()));
    let done = measured(plan, url, count, &dir).await;
    fs::remove_dir_all(&dir).ok();
    done
}

async fn measured(plan: &Plan, url: Option<CatalogUrl>, count: u64, dir: &Path) -> Outcome<Value> {
    fs::create_dir_all(dir)?;
    let mut config = "listen = \"127.0.0.1:0\"\nreclaim_every_hours = 0\nmeasure_every_hours = 0\n\
                      save_every_minutes = 0\nlog_level = \"warn\"\njob_history_days = 40000\n"
        .to_owned();
    if let Some(url) = &url {
        config = format!("{config}catalog = \"{url}\"\n");
    }
    fs::write(dir.join("server.toml"), config)?;
    let first = Server::start(plan, dir)?;
    let token = first.token.clone().ok_or_else(|| Failure::new("the server told no token"))?;
    drop(first);
    let place = url.unwrap_or_else(|| CatalogUrl::sqlite(dir.join("data/catalog.sqlite")));
    let catalog = Catalog::open(&place, &SCHEMA, Arc::new(SystemClock)).await?;
    fill(&catalog, count).await?;
    catalog.close().await;
    let server = Server::start(plan, dir)?;
    let times = ask(plan, &server.url, &token).await?;
    Ok(figures(plan, count, &times, server.processor()))
}

/// The real server, until it is dropped.
struct Server {
    child: Child,
    url: String,
    token: Option<String>,
}

impl Server {
    fn start(plan: &Plan, dir: &Path) -> Outcome<Self> {
        let mut command = Command::new(&plan.program);
        command.args(["serve", "--config"]).arg(dir.join("server.toml"));
        command.arg("--data-dir").arg(dir.join("data")).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(Failure::at(&plan.program))?;
        let pipe = child.stderr.take().ok_or_else(|| Failure::new("no pipe"))?;
        let mut lines = BufReader::new(pipe).lines();
        let (mut url, mut token) = (None, None);
        for line in lines.by_ref() {
            let line = line?;
            if let Some(found) = line.strip_prefix("Strongroom listens on ") {
                url = Some(found.trim().to_owned());
            }
            let word = line.trim();
            if word.ends_with("/first-token") {
                token = Some(fs::read_to_string(word)?.trim().to_owned());
            }
            if token.is_some() || (url.is_some() && line.contains("fingerprint")) {
                // Of the first start, the token comes after it.
                if token.is_some() || dir.join("filled").exists() {
                    break;
                }
            }
        }
        fs::write(dir.join("filled"), "")?;
        std::thread::spawn(move || lines.for_each(drop));
        let url = url.ok_or_else(|| Failure::new("the server does not start"))?;
        Ok(Self { child, url, token })
    }

    /// Seconds of processor time.
    fn processor(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u32 =
            fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
        f64::from(ticks) / 100.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        self.child.wait().ok();
    }
}

fn bytes(kind: u8, number: u64) -> [u8; 16] {
    let millis = 1_700_000_000_000 + number * 60_000;
    let random = u128::from(number) | (u128::from(kind) << 72);
    ((u128::from(millis) << 80) | random).to_be_bytes()
}

async fn fill(catalog: &Catalog, count: u64) -> Outcome<()> {
    let mut rng = Rng::new(7);
    let items = 0..ITEMS;
    insert(catalog, items.map(|number| item(&mut rng, number))).await?;
    insert(catalog, (0..count).map(|number| job(&mut rng, number))).await?;
    insert(catalog, (0..count).map(point)).await
}

async fn insert<D: Document>(
    catalog: &Catalog,
    docs: impl Iterator<Item = Outcome<D>>,
) -> Outcome<()> {
    let mut docs = docs.peekable();
    while docs.peek().is_some() {
        let mut tx = catalog.write().await?;
        for doc in docs.by_ref().take(1000) {
            tx.insert(&doc?).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

fn time(number: u64) -> String {
    let seconds = 1_700_000_000 + i64::try_from(number).unwrap_or(0) * 60;
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |time| time.to_string())
}

fn item(rng: &mut Rng, number: u64) -> Outcome<ItemDoc> {
    let states = ["protected", "protected", "protected", "protection_error", "protection_stopped"];
    Ok(serde_json::from_value(json!({
        "item": {
            "id": ItemId::from_bytes(bytes(1, number)),
            "name": format!("machine-{number:05}"),
            "vault": VaultId::from_bytes(bytes(2, number % 10)),
            "host": HostId::from_bytes(bytes(3, number % 100)),
            "source": { "kind": "machine", "uuid": format!("uuid-{number}"), "name": format!("machine-{number:05}") },
            "state": rng.pick(&states),
            "last_backup": time(number),
            "created": time(0),
        },
        "handled_until": time(0),
    }))?)
}

fn job(rng: &mut Rng, number: u64) -> Outcome<JobDoc> {
    let state = match rng.below(100) {
        0..5 => "failed",
        5..8 => "completed_with_warnings",
        _ => "completed",
    };
    let item = number % ITEMS;
    let task = |name: &str| {
        json!({ "name": name, "state": "completed", "started": time(number), "ended": time(number),
                "detail": "what was found in this part of it, in some words" })
    };
    Ok(serde_json::from_value(json!({
        "job": {
            "id": JobId::from_bytes(bytes(4, number)),
            "kind": "backup", "state": state, "trigger": "scheduled", "requested_by": "system",
            "subject": format!("machine-{item:05}"),
            "vault": VaultId::from_bytes(bytes(2, item % 10)),
            "item": ItemId::from_bytes(bytes(1, item)),
            "host": HostId::from_bytes(bytes(3, item % 100)),
            "tasks": [task("snapshot"), task("transfer"), task("validate")],
            "warnings": [], "attempt": 1,
            "created": time(number), "started": time(number), "ended": time(number + 1),
            "report": { "stored_bytes": number * 4096, "disks": [{ "name": "vda", "changed_bytes": number }] },
        },
        "spec": { "do": "record" },
    }))?)
}

fn point(number: u64) -> Outcome<PointDoc> {
    let item = number % ITEMS;
    Ok(serde_json::from_value(json!({
        "point": {
            "id": PointId::from_bytes(bytes(5, number)),
            "item": ItemId::from_bytes(bytes(1, item)),
            "vault": VaultId::from_bytes(bytes(2, item % 10)),
            "time": time(number), "completed": time(number),
            "type": "vault", "state": "restorable", "consistency": "file_system", "trigger": "scheduled",
            "disks": [{ "name": "vda", "size_bytes": 1_u64 << 35, "changed_bytes": number }],
            "stored_bytes": number, "kept_by": ["daily"],
        },
    }))?)
}

/// What was asked, and how long it took.
struct Times {
    all: Vec<Duration>,
    wrong: u64,
    took: Duration,
}

async fn ask(plan: &Plan, url: &str, token: &str) -> Outcome<Times> {
    let client = reqwest::Client::builder()
        .danger_accept_invalid_certs(true)
        .pool_max_idle_per_host(CLIENTS)
        .build()
        .map_err(|error| Failure::new(error.to_string()))?;
    let count = plan.rate * plan.seconds;
    let next = Arc::new(std::sync::atomic::AtomicU64::new(0));
    // The first requests open the connections, and are not counted.
    let begin = Instant::now() + Duration::from_secs(2);
    let clients = (0..CLIENTS).map(|number| {
        let (client, url, token) = (client.clone(), url.to_owned(), token.to_owned());
        let (next, rate) = (Arc::clone(&next), plan.rate);
        tokio::spawn(async move {
            let mut rng = Rng::new(u64::try_from(number).unwrap_or(0));
            let (mut times, mut wrong) = (Vec::new(), 0_u64);
            get(&client, &url, &token, &mut rng).await;
            loop {
                let turn = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if turn >= count {
                    return (times, wrong);
                }
                let at = begin + Duration::from_micros(turn * 1_000_000 / rate.max(1));
                tokio::time::sleep_until(at.into()).await;
                wrong += u64::from(!get(&client, &url, &token, &mut rng).await);
                times.push(at.elapsed());
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut found = Times { all: Vec::new(), wrong: 0, took: Duration::ZERO };
    for client in clients {
        let (times, wrong) = client.await.map_err(|error| Failure::new(error.to_string()))?;
        found.all.extend(times);
        found.wrong += wrong;
    }
    found.took = begin.elapsed();
    found.all.sort_unstable();
    Ok(found)
}

/// Asks for a page of something; whether the answer is one that has something in it.
async fn get(client: &reqwest::Client, url: &str, token: &str, rng: &mut Rng) -> bool {
    let item = format!("machine-{:05}", rng.below(ITEMS));
    let path = match rng.below(10) {
        0..4 => "jobs?limit=50".to_owned(),
        4..6 => "jobs?limit=50&state=failed".to_owned(),
        6..8 => "items?limit=50".to_owned(),
        8 => format!("jobs?limit=50&item={item}"),
        _ => format!("items/{item}/recovery-points?limit=50"),
    };
    let asked = client.get(format!("{url}/v1/{path}")).bearer_auth(token).send().await;
    let Ok(answer) = asked else { return false };
    let good = answer.status().is_success();
    let Ok(body) = answer.bytes().await else { return false };
    good && serde_json::from_slice::<Entries>(&body).is_ok_and(|page| !page.items.is_empty())
}

/// A page whose entries are well-formed, whatever they are.
#[derive(serde::Deserialize)]
struct Entries {
    items: Vec<serde::de::IgnoredAny>,
}

fn figures(plan: &Plan, count: u64, times: &Times, processor: f64) -> Value {
    let millis = |part: usize| {
        let place = times.all.len().saturating_sub(1) * part / 1000;
        times.all.get(place).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    json!({
        "jobs": count, "recovery_points": count, "items": ITEMS,
        "asked_per_second": plan.rate,
        "requests": times.all.len(),
        "not_answered_well": times.wrong,
        "seconds": times.took.as_secs_f64(),
        "ms": { "p50": millis(500), "p99": millis(990), "p999": millis(999), "most": millis(1000) },
        "processor_seconds_of_the_server": processor,
    })
}
