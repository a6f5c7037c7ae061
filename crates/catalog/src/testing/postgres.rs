//! A private PostgreSQL server.
//!
//! It listens on nothing but a socket in a folder of its own. A shell watches over it that is in
//! another process group and reads from this process: when this one ends, in whatever way, the
//! server is stopped and its folder removed. It never runs as root, which it refuses: root's
//! runs as the user `postgres`.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use strongroom_base::{Clock as _, SystemClock};

use crate::{CatalogUrl, sql::Pools};

/// How a server runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Whether what was committed survives a crash of the machine, as in earnest.
    pub durable: bool,
}

/// A server that runs. It ends with the process, or when it is dropped.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    databases: AtomicU32,
    /// The guard ends the server when this closes.
    _guard: ChildStdin,
}

/// Starts the server `$@`, and stops it when the input ends.
const GUARD: &str = r#"
folder=$1; shift
trap '' INT TERM HUP
"$@" >"$folder/log" 2>&1 </dev/null &
cat >/dev/null
kill -INT $!
wait $!
rm -rf "$folder"
"#;

impl Postgres {
    /// The server of this process, which is started when it is first asked for.
    pub fn shared() -> io::Result<&'static Self> {
        static SHARED: OnceLock<io::Result<Postgres>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::start(Settings::default()));
        shared.as_ref().map_err(|error| io::Error::other(error.to_string()))
    }

    /// Starts a server.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let programs = programs()?;
        let template = template(&programs)?;
        let folder = tempfile::Builder::new().prefix("strongroom-pg-").tempdir()?.keep();
        run(Command::new("cp").arg("-a").arg(&template).arg(folder.join("data")))?;
        if is_root() {
            run(Command::new("chown").args(["-R", "postgres:"]).arg(&folder))?;
        }
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "guard"]).arg(&folder);
        guard.args(as_user()).arg(programs.join("postgres"));
        guard.arg("-D").arg(folder.join("data")).arg("-k").arg(&folder);
        let mut set = |setting: &str| {
            guard.arg("-c").arg(setting);
        };
        set("listen_addresses=");
        set("max_connections=100");
        set("timezone=UTC");
        if settings.durable {
            set("shared_buffers=512MB");
            set("max_wal_size=4GB");
        } else {
            set("fsync=off");
            set("full_page_writes=off");
            set("shared_buffers=32MB");
        }
        let mut guard = guard
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What ends the test must not end this.
            .process_group(0)
            .spawn()?;
        let pipe = guard.stdin.take().ok_or_else(|| io::Error::other("no pipe"))?;
        let server = Self { folder, databases: AtomicU32::new(0), _guard: pipe };
        server.wait_until_ready(&programs)?;
        Ok(server)
    }

    fn wait_until_ready(&self, programs: &Path) -> io::Result<()> {
        for _ in 0..600 {
            let mut ready = Command::new(programs.join("pg_isready"));
            ready.args(["-q", "-U", "postgres", "-h"]).arg(&self.folder);
            if ready.status()?.success() {
                return Ok(());
            }
            SystemClock.sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        Err(io::Error::other(format!("PostgreSQL does not start: {log}")))
    }

    /// Makes a database that is empty.
    pub async fn database(&self) -> io::Result<CatalogUrl> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let done = async {
            let pools = Pools::open(&self.url("postgres")?).await?;
            let made = pools.alone(&format!("CREATE DATABASE {name} TEMPLATE template0")).await;
            pools.close().await;
            made?;
            self.url(&name)
        };
        done.await.map_err(io::Error::other)
    }

    /// The URL of a database.
    fn url(&self, database: &str) -> crate::Result<CatalogUrl> {
        format!("postgres:///{database}?host={}&user=postgres", self.folder.display()).parse()
    }
}

/// Where PostgreSQL's programs are: the latest of those that Debian installs, or in the path.
fn programs() -> io::Result<PathBuf> {
    let mut found = Vec::new();
    for version in fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let folder = version.path().join("bin");
        let number = version.file_name().to_string_lossy().parse::<u32>();
        if let (Ok(number), true) = (number, folder.join("initdb").exists()) {
            found.push((number, folder));
        }
    }
    if let Some((_, folder)) = found.into_iter().max() {
        return Ok(folder);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find(|folder| folder.join("initdb").exists() && folder.join("postgres").exists())
        .ok_or_else(|| {
            io::Error::other(
                "PostgreSQL is missing: scripts/install-tools, or apt install postgresql",
            )
        })
}

/// The files of a server that was never started, which take a second to make: made once for all
/// tests, beside their programs.
fn template(programs: &Path) -> io::Result<PathBuf> {
    let beside = std::env::current_exe()?;
    let beside = beside.parent().ok_or_else(|| io::Error::other("no folder"))?;
    let version = Command::new(programs.join("postgres")).arg("--version").output()?.stdout;
    let version = blake3::hash(&version).to_hex();
    let name = format!("postgres-{}", version.get(..16).unwrap_or_default());
    let template = beside.join(&name);
    let lock = File::create(beside.join(format!("{name}.lock")))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if template.exists() {
        return Ok(template);
    }
    // The user who makes it may not come near the tests' folder.
    let folder = tempfile::tempdir()?;
    let made = folder.path().join("data");
    if is_root() {
        run(Command::new("chown").arg("postgres:").arg(folder.path()))?;
    }
    let words = as_user();
    let mut words = words.into_iter().chain([programs.join("initdb").into_os_string()]);
    let first = words.next().unwrap_or_default();
    // Its language sorts otherwise than by bytes, as many in earnest do.
    let options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8"];
    let language = ["--locale-provider=icu", "--icu-locale=en-US"];
    let mut initdb = Command::new(first);
    initdb.args(words).args(options).args(language).arg("-D").arg(&made).current_dir("/");
    run(&mut initdb)?;
    let partial = beside.join(format!("{name}.partial"));
    drop(fs::remove_dir_all(&partial));
    run(Command::new("cp").arg("-a").arg(&made).arg(&partial))?;
    fs::rename(partial, &template)?;
    Ok(template)
}

/// What makes root's commands another user's.
fn as_user() -> Vec<OsString> {
    let words = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
    if is_root() { words.map(OsString::from).to_vec() } else { Vec::new() }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a command to its end.
fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{} failed: {said}", command.get_program().display())))
}

impl Pools {
    /// Runs a statement outside any transaction.
    async fn alone(&self, sql: &str) -> crate::Result<()> {
        let Self::Postgres(pool) = self else { return Ok(()) };
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(pool).await;
        done.map(drop).map_err(|source| crate::Error::database("making a database", source))
    }
}
