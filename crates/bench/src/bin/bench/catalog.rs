//! How fast the catalog lists, reads, writes and counts, on both databases.
//!
//! ```text
//! bench catalog [--sqlite N] [--postgres N] [--rounds N] [--scratch DIR]      prints one JSON object
//! ```
//!
//! Fills a catalog with N documents of 1 KB (100,000 on SQLite, 1,000,000 on a PostgreSQL server
//! that it starts for itself; 0 leaves one out), then measures. Times are in microseconds; `cpu`
//! is that of this process alone, which has SQLite's in it and not PostgreSQL's.

use std::{
    env,
    io::{Write as _, stdout},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use strongroom_base::SystemClock;
use strongroom_bench::{Failure, Outcome, figures::number, rng::Rng};
use strongroom_catalog::{
    AuditRecord, Catalog, CatalogUrl, Column, Document, Filter, Kind, Migration, Page, Query,
    Schema, Stored, Value,
    testing::{Postgres, Settings},
};

/// What a service has most of.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    id: String,
    state: String,
    host: String,
    started: i64,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Step {
    name: String,
    began: i64,
    ended: Option<i64>,
    bytes: u64,
    message: String,
}

static JOBS: Kind = Kind {
    table: "jobs",
    columns: &[Column::text("state"), Column::text("host"), Column::integer("started")],
    unique: &[],
    indexes: &[&["state", "started"], &["host", "started"], &["started"]],
};

impl Document for Job {
    const KIND: &'static Kind = &JOBS;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn columns(&self) -> Vec<Value> {
        vec![(&self.state).into(), (&self.host).into(), self.started.into()]
    }
}

static SCHEMA: Schema = Schema {
    kinds: &[&JOBS],
    migrations: &[Migration {
        version: 1,
        name: "jobs",
        sqlite: "
            CREATE TABLE jobs (id TEXT NOT NULL PRIMARY KEY, version BIGINT NOT NULL,
                state TEXT NOT NULL, host TEXT NOT NULL, started BIGINT NOT NULL, body TEXT NOT NULL);
            CREATE INDEX jobs__state__started ON jobs (state, started, id);
            CREATE INDEX jobs__host__started ON jobs (host, started, id);
            CREATE INDEX jobs__started ON jobs (started, id);",
        postgres: r#"
            CREATE TABLE jobs (id TEXT COLLATE "C" NOT NULL PRIMARY KEY, version BIGINT NOT NULL,
                state TEXT COLLATE "C" NOT NULL, host TEXT COLLATE "C" NOT NULL,
                started BIGINT NOT NULL, body TEXT NOT NULL);
            CREATE INDEX jobs__state__started ON jobs (state, started, id);
            CREATE INDEX jobs__host__started ON jobs (host, started, id);
            CREATE INDEX jobs__started ON jobs (started, id);"#,
        rewrite: None,
    }],
};

/// What it was asked for.
struct Plan {
    sqlite: u64,
    postgres: u64,
    rounds: usize,
    scratch: PathBuf,
}

/// Runs it.
pub(crate) fn run_program(arguments: Vec<String>) -> Outcome<()> {
    let mut arguments = arguments.into_iter();
    let mut plan =
        Plan { sqlite: 100_000, postgres: 1_000_000, rounds: 1000, scratch: env::temp_dir() };
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| Failure::new(format!("{argument} needs a value")));
        match argument.as_str() {
            "--sqlite" => plan.sqlite = value()?.parse()?,
            "--postgres" => plan.postgres = value()?.parse()?,
            "--rounds" => plan.rounds = value()?.parse()?,
            "--scratch" => plan.scratch = value()?.into(),
            _ => return Err(Failure::new(format!("unknown argument {argument}"))),
        }
    }
    if [plan.sqlite, plan.postgres].iter().any(|count| (1..50_000).contains(count)) {
        return Err(Failure::new("with fewer than 50,000 documents there are no full pages"));
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let mut report = Map::new();
    if plan.sqlite > 0 {
        let path = plan.scratch.join(format!("strongroom-bench-{}.db", std::process::id()));
        let figures =
            runtime.block_on(measure(&CatalogUrl::sqlite(&path), plan.sqlite, plan.rounds));
        for end in ["", "-wal", "-shm", ".lock"] {
            let mut file = path.clone().into_os_string();
            file.push(end);
            drop(std::fs::remove_file(file));
        }
        report.insert("sqlite".to_owned(), figures?);
    }
    if plan.postgres > 0 {
        let server = Postgres::start(Settings { durable: true })?;
        let url = runtime.block_on(server.database())?;
        let figures = runtime.block_on(measure(&url, plan.postgres, plan.rounds))?;
        report.insert("postgres".to_owned(), figures);
    }
    writeln!(stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

async fn measure(url: &CatalogUrl, count: u64, rounds: usize) -> Outcome<serde_json::Value> {
    let catalog = Catalog::open(url, &SCHEMA, Arc::new(SystemClock)).await?;
    let mut rng = Rng::new(7);
    let started = Instant::now();
    let mut at = 0;
    while at < count {
        let mut tx = catalog.write().await?;
        for _ in 0..1000.min(count - at) {
            tx.insert(&job(&mut rng, at)).await?;
            at += 1;
        }
        tx.commit().await?;
    }
    let filled = started.elapsed().as_secs_f64();
    let body = serde_json::to_string(&job(&mut rng, 1))?.len();
    let mut figures = Map::new();
    figures.insert("database".to_owned(), catalog.check().await?.database.into());
    figures.insert("documents".to_owned(), count.into());
    figures.insert("bytes_of_a_document".to_owned(), body.into());
    figures.insert("filled_per_second".to_owned(), (number(count) / filled).round().into());
    lists(&catalog, rounds, &mut figures).await?;
    singles(&catalog, count, rounds, &mut figures).await?;
    catalog.close().await;
    Ok(figures.into())
}

/// Pages of 50.
async fn lists(
    catalog: &Catalog,
    rounds: usize,
    figures: &mut Map<String, serde_json::Value>,
) -> Outcome<()> {
    let done = Query::new(Filter::all().eq("state", "done")).descending("started").limit(50);
    let mut deep = done.clone();
    for _ in 0..100 {
        let page: Page<Stored<Job>> = catalog.list(&deep).await?;
        deep = deep.after(page.next);
    }
    let host = Filter::all().eq("host", "host-0123");
    for (name, query) in [
        ("state and order by start", done.clone()),
        ("the same, its 101st page", deep),
        ("host and order by start", Query::new(host).descending("started").limit(50)),
        ("by id", Query::default().limit(50)),
    ] {
        let mut clock = Stopwatch::new(rounds);
        for _ in 0..rounds {
            clock.next();
            let page: Page<Stored<Job>> = catalog.list(&query).await?;
            assert!(page.items.len() == 50, "there are enough");
        }
        figures.insert(format!("list of 50: {name}"), clock.figures());
    }
    let mut clock = Stopwatch::new(rounds);
    for _ in 0..rounds {
        clock.next();
        assert!(catalog.read().await?.list_raw::<Job>(&done).await?.items.len() == 50, "enough");
    }
    figures.insert("list of 50: state and order by start, as texts".to_owned(), clock.figures());
    let search =
        Query::new(Filter::all().contains("host", "st-012")).descending("started").limit(50);
    let nothing = Query::new(Filter::all().contains("host", "nowhere")).limit(50);
    for (name, query) in [("that finds much", search), ("that finds nothing", nothing)] {
        let rounds = rounds.min(20);
        let mut clock = Stopwatch::new(rounds);
        for _ in 0..rounds {
            clock.next();
            let _page: Page<Stored<Job>> = catalog.list(&query).await?;
        }
        figures.insert(format!("search without an index {name}"), clock.figures());
    }
    let rounds = rounds.min(20);
    let mut clock = Stopwatch::new(rounds);
    for _ in 0..rounds {
        clock.next();
        catalog.read().await?.count_by::<Job>("state", &Filter::all()).await?;
    }
    figures.insert("count of each state".to_owned(), clock.figures());
    Ok(())
}

/// One document at a time.
async fn singles(
    catalog: &Catalog,
    count: u64,
    rounds: usize,
    figures: &mut Map<String, serde_json::Value>,
) -> Outcome<()> {
    let mut rng = Rng::new(9);
    let mut clock = Stopwatch::new(rounds);
    for _ in 0..rounds {
        let id = format!("{:012}", rng.below(count));
        clock.next();
        let found: Option<Stored<Job>> = catalog.get(&id).await?;
        assert!(found.is_some(), "it is there");
    }
    figures.insert("get".to_owned(), clock.figures());
    let mut clock = Stopwatch::new(rounds);
    for at in (count..).take(rounds) {
        let job = job(&mut rng, at);
        clock.next();
        let mut tx = catalog.write().await?;
        tx.insert(&job).await?;
        tx.commit().await?;
    }
    figures.insert("insert and commit".to_owned(), clock.figures());
    let mut clock = Stopwatch::new(rounds);
    let detail = json!({"from": "running", "to": "done"});
    for _ in 0..rounds {
        let id = format!("{:012}", rng.below(count));
        clock.next();
        let mut tx = catalog.write().await?;
        let before = tx.get::<Job>(&id).await?.ok_or_else(|| Failure::new("it is gone"))?;
        tx.update(&before.doc, before.version).await?;
        let (actor, action, target, outcome) = ("bench", "job.end", id.as_str(), "ok");
        tx.audit(AuditRecord { actor, action, target, outcome, detail: &detail }).await?;
        tx.commit().await?;
    }
    figures.insert("get, update, audit and commit".to_owned(), clock.figures());
    let started = Instant::now();
    let report = catalog.verify_chain(&[]).await?;
    assert!(report.broken.is_none(), "the chain is whole");
    let rate = number(report.head.seq) / started.elapsed().as_secs_f64();
    figures.insert("audit records verified per second".to_owned(), rate.round().into());
    Ok(())
}

fn job(rng: &mut Rng, number: u64) -> Job {
    let state = match rng.below(1000) {
        0..5 => "running",
        5..30 => "failed",
        30..40 => "queued",
        _ => "done",
    };
    let began = 1_700_000_000_000_000 + i64::try_from(number).unwrap_or(0) * 1_000_000;
    let step = |name: &str| Step {
        name: name.to_owned(),
        began,
        ended: Some(began + 5_000_000),
        bytes: number * 4096,
        message: format!("what was done in this step, in some more words: {number:x}"),
    };
    Job {
        id: format!("{number:012}"),
        state: state.to_owned(),
        host: format!("host-{:04}", rng.below(500)),
        started: began,
        steps: ["check", "freeze", "read", "write", "publish"].map(step).to_vec(),
    }
}

/// Takes the time of each of some rounds.
struct Stopwatch {
    rounds: Vec<Duration>,
    began: Option<Instant>,
    cpu: Duration,
}

impl Stopwatch {
    fn new(rounds: usize) -> Self {
        Self { rounds: Vec::with_capacity(rounds), began: None, cpu: cpu() }
    }

    fn next(&mut self) {
        let now = Instant::now();
        self.rounds.extend(self.began.replace(now).map(|began| now - began));
    }

    fn figures(mut self) -> serde_json::Value {
        self.next();
        let count = u32::try_from(self.rounds.len()).unwrap_or(u32::MAX).max(1);
        let cpu = cpu().saturating_sub(self.cpu) / count;
        self.rounds.sort_unstable();
        let at = |hundredth: usize| {
            let place = self.rounds.len() * hundredth / 100;
            self.rounds.get(place).or(self.rounds.last()).copied().unwrap_or_default().as_micros()
        };
        json!({"p50": at(50), "p99": at(99), "cpu": cpu.as_micros()})
    }
}

/// The processor time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}
