//! What is not as it should be on the machine of a server, and what to do about it.
//!
//! Looks and changes nothing, but that a catalog of an earlier version is brought up to date when it
//! is opened. What a running server holds is left alone: it tells of itself by `/v1/status`.

use std::{
    fs, io,
    net::{TcpListener, TcpStream},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use strongroom_agent::{LocalKeeper, ThisHost};
use strongroom_api::{ErrorBody, KeyReference, VaultState};
use strongroom_base::{Clock as _, SystemClock};
use strongroom_catalog::{Catalog, Query};
use strongroom_control::{
    clock::{Reading, TRUSTED, TrustedTime},
    clock_is_ahead,
    model::{SCHEMA, SettingDoc, VaultDoc},
};
use strongroom_orders::{Agent as _, Keeper as _};

use crate::{config::ServerConfig, error::ServerError};

/// Less than this does not last for long.
const SPACE_WARN: u64 = 2 << 30;

/// Less than this is not enough to work.
const SPACE_FAIL: u64 = 200 << 20;

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as well as it should, or not for long.
    Warn,
    /// It does not work.
    Fail,
}

impl Level {
    /// The word in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `data_dir`, `libvirt`, `vault`, ...
    pub check: &'static str,
    /// How good it is.
    pub level: Level,
    /// What is the case.
    pub what: String,
    /// What to do about it, unless it is as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what_to_do: Option<String>,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, what: impl Into<String>) {
        self.0.push(Finding { check, level: Level::Ok, what: what.into(), what_to_do: None });
    }

    fn bad(
        &mut self,
        check: &'static str,
        level: Level,
        what: impl Into<String>,
        what_to_do: impl Into<String>,
    ) {
        let what_to_do = Some(what_to_do.into());
        self.0.push(Finding { check, level, what: what.into(), what_to_do });
    }

    fn error(&mut self, check: &'static str, about: &str, error: &ErrorBody) {
        let mut what = format!("{about}: {}", error.message);
        for cause in &error.causes {
            what = format!("{what}: {cause}");
        }
        self.bad(check, Level::Fail, what, error.hint.clone());
    }
}

/// Looks at everything that a server with this configuration needs.
pub fn examine(config: &ServerConfig, here: &ThisHost) -> Result<Vec<Finding>, ServerError> {
    let mut found = Findings::default();
    found.ok("configuration", "it can be read");
    let running = data_dir(&mut found, &config.data_dir);
    port(&mut found, config, running);
    certificate(&mut found, config);
    keys(&mut found, &config.data_dir.join("keys"));
    libvirt(&mut found, here);
    scratch(&mut found, config);
    time(&mut found);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ServerError::Bug(format!("no threads: {error}")))?;
    runtime.block_on(catalog(&mut found, config, here, running));
    Ok(found.0)
}

/// Whether its folder is as it must be, and whether a server uses it.
fn data_dir(found: &mut Findings, path: &Path) -> bool {
    const CHECK: &str = "data_dir";
    let shown = path.display();
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            found.ok(CHECK, format!("{shown} does not exist yet; the first start creates it"));
            return false;
        }
        Err(error) => {
            let hint = "Run this as the user that runs the server.";
            found.bad(CHECK, Level::Fail, format!("{shown}: {error}"), hint);
            return false;
        }
    };
    let user = rustix::process::geteuid().as_raw();
    if meta.uid() != user {
        let what = format!("{shown} is of user {}, and this is user {user}", meta.uid());
        let hint = if user == 0 {
            format!(
                "Run this as the user that runs the server: sudo -u '#{}' strongroom doctor.",
                meta.uid()
            )
        } else {
            "Run this as the user that runs the server, or give it the folder: chown.".to_owned()
        };
        found.bad(CHECK, Level::Fail, what, hint);
    } else if meta.mode() & 0o077 != 0 {
        let what = format!("{shown} can be read by others (mode {:o})", meta.mode() & 0o7777);
        let hint = format!("chmod 700 {shown}; the server does so when it starts.");
        found.bad(CHECK, Level::Warn, what, hint);
    } else {
        found.ok(CHECK, format!("{shown} is only its user's"));
    }
    space(found, CHECK, path);
    is_locked(path)
}

/// Whether a server uses a folder.
fn is_locked(data_dir: &Path) -> bool {
    let Ok(lock) = fs::File::open(data_dir.join("lock")) else { return false };
    let taken = flock(&lock, FlockOperation::NonBlockingLockShared);
    taken == Err(rustix::io::Errno::WOULDBLOCK)
}

fn space(found: &mut Findings, check: &'static str, path: &Path) {
    let Ok(stat) = rustix::fs::statvfs(path) else { return };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let what = format!("{} MiB are free in {}", free >> 20, path.display());
    let hint = "Make room there.";
    if free < SPACE_FAIL {
        found.bad(check, Level::Fail, what, hint);
    } else if free < SPACE_WARN {
        found.bad(check, Level::Warn, what, hint);
    } else {
        found.ok(check, what);
    }
}

fn port(found: &mut Findings, config: &ServerConfig, running: bool) {
    const CHECK: &str = "listen";
    let address = config.listen;
    match TcpListener::bind(address) {
        Ok(_) if running && address.port() != 0 => {
            let what =
                format!("a server uses {}, but {address} is free", config.data_dir.display());
            let hint = "It listens elsewhere: restart it, that it reads its configuration.";
            found.bad(CHECK, Level::Warn, what, hint);
        }
        Ok(_) => found.ok(CHECK, format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && running => {
            match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
                Ok(_) => found.ok(CHECK, format!("the server answers on {address}")),
                Err(error) => {
                    let what = format!("the server does not answer on {address}: {error}");
                    found.bad(CHECK, Level::Fail, what, "See its log, and restart it.");
                }
            }
        }
        Err(error) => {
            let what = format!("nobody can listen on {address}: {error}");
            let hint = "Stop the program that listens there (`ss -ltnp`), or set another `listen`.";
            found.bad(CHECK, Level::Fail, what, hint);
        }
    }
}

fn certificate(found: &mut Findings, config: &ServerConfig) {
    const CHECK: &str = "tls";
    if !config.tls {
        found.ok(CHECK, "it is off, and only this machine is listened to");
        return;
    }
    let files = config.certificate();
    if files.own && !files.certificate.exists() {
        found.ok(CHECK, "the first start makes a certificate");
        return;
    }
    match files.facts() {
        Ok(facts) => {
            let left = facts.ends.duration_since(SystemClock.now()).as_hours() / 24;
            let what = format!("the certificate {} ends in {left} days", facts.fingerprint);
            let hint = "Put a new one into its place; the server reads it by itself.";
            match left {
                ..=0 => found.bad(CHECK, Level::Fail, what, hint),
                1..=14 if !files.own => found.bad(CHECK, Level::Warn, what, hint),
                _ => found.ok(CHECK, what),
            }
        }
        Err(error) => {
            let hint = "Correct the file, or remove it if the server has generated it.";
            found.bad(CHECK, Level::Fail, error.to_string(), hint);
        }
    }
    secret(found, CHECK, &files.key);
}

/// A file that only its user may read.
fn secret(found: &mut Findings, check: &'static str, path: &Path) {
    let shown = path.display();
    let opened = fs::File::open(path).and_then(|file| file.metadata());
    match opened {
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            let what = format!("{shown} can be read by others (mode {:o})", meta.mode() & 0o7777);
            found.bad(check, Level::Fail, what, format!("chmod 600 {shown}"));
        }
        Ok(_) => found.ok(check, format!("{shown} can be read, and only by its user")),
        Err(error) => {
            let hint = "Restore it from your copy, and check who may read it.";
            found.bad(check, Level::Fail, format!("{shown} cannot be read: {error}"), hint);
        }
    }
}

fn keys(found: &mut Findings, folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        secret(found, "keys", &path);
    }
}

fn libvirt(found: &mut Findings, here: &ThisHost) {
    const CHECK: &str = "libvirt";
    let Some(connect) = &here.connect else {
        let what = "no libvirt lets us talk to it: only disks by path can be protected";
        let hint = "Install libvirt, or make the server's user a member of the group libvirt.";
        found.bad(CHECK, Level::Warn, what, hint);
        return;
    };
    match here.agent().hello() {
        Ok(facts) => {
            let version = |found: Option<String>| found.unwrap_or_else(|| "?".to_owned());
            let (libvirt, qemu) = (version(facts.libvirt), version(facts.qemu));
            found.ok(CHECK, format!("{connect}: libvirt {libvirt}, QEMU {qemu}"));
        }
        Err(error) => found.error(CHECK, connect, &error),
    }
}

/// Backups of running machines keep what the guest overwrites beside its disks.
fn scratch(found: &mut Findings, config: &ServerConfig) {
    let images = PathBuf::from("/var/lib/libvirt/images");
    let folders = config.disk_dirs.iter().chain(&config.restore_dirs);
    for folder in folders.chain([&config.boot_dir, &images]) {
        if folder.is_dir() {
            space(found, "scratch", folder);
        } else if *folder != images && !folder.exists() {
            let what = format!("{} is not there", folder.display());
            let hint = "Create it, or name another one in disk_dirs, restore_dirs or boot_dir.";
            found.bad("scratch", Level::Warn, what, hint);
        }
    }
}

fn time(found: &mut Findings) {
    const CHECK: &str = "clock";
    let asked =
        Command::new("timedatectl").args(["show", "-p", "NTPSynchronized", "--value"]).output();
    let word = asked.ok().filter(|output| output.status.success());
    let word = word.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match word.as_deref() {
        Some("yes") => found.ok(CHECK, "synchronised by NTP"),
        Some("no") => {
            let hint = "Turn it on: timedatectl set-ntp true.";
            found.bad(CHECK, Level::Warn, "not synchronised by NTP", hint);
        }
        _ => {
            let hint = "See to it that chrony, ntpd or the hypervisor does so.";
            found.bad(CHECK, Level::Warn, "no NTP service found", hint);
        }
    }
}

async fn catalog(found: &mut Findings, config: &ServerConfig, here: &ThisHost, running: bool) {
    const CHECK: &str = "catalog";
    let url = match config.catalog_url() {
        Ok(url) => url,
        Err(error) => {
            found.bad(
                CHECK,
                Level::Fail,
                error.to_string(),
                "Correct `catalog` and its password file.",
            );
            return;
        }
    };
    if running && !url.is_shared() {
        found.ok(CHECK, "the running server has it; see `strongroom status` for it and its vaults");
        return;
    }
    let file = config.data_dir.join("catalog.sqlite");
    if config.catalog.is_none() && !file.exists() {
        found.ok(CHECK, "the first start makes it");
        return;
    }
    let opened = Catalog::open(&url, &SCHEMA, Arc::new(SystemClock)).await;
    let looked = async {
        let catalog = opened?;
        let health = catalog.check_deeply().await?;
        found.ok(CHECK, format!("{url} is sound ({})", health.database));
        trusted(found, &catalog).await?;
        vaults(found, config, here, &catalog).await?;
        catalog.close().await;
        Ok::<_, strongroom_catalog::Error>(())
    };
    if let Err(error) = Box::pin(looked).await {
        found.error(CHECK, &url.to_string(), &ErrorBody::of(&error));
    }
}

/// The time that may delete, beside the wall clock.
async fn trusted(found: &mut Findings, catalog: &Catalog) -> strongroom_catalog::Result<()> {
    let Some(stored) = catalog.get::<SettingDoc>(TRUSTED).await? else { return Ok(()) };
    let Ok(time) = serde_json::from_value::<TrustedTime>(stored.doc.value) else { return Ok(()) };
    match time.advance(Reading::of_system(&SystemClock)).behind() {
        Some(ahead) => {
            let what = clock_is_ahead(ahead).text;
            let hint = "Set it right; if it is right: strongroom server confirm-clock.";
            found.bad("clock", Level::Warn, what, hint);
        }
        None => found.ok("clock", "consistent with elapsed time"),
    }
    Ok(())
}

async fn vaults(
    found: &mut Findings,
    config: &ServerConfig,
    here: &ThisHost,
    catalog: &Catalog,
) -> strongroom_catalog::Result<()> {
    let query = Query::default().ascending("name").limit(1000);
    let list = catalog.list::<VaultDoc>(&query).await?.items;
    let opened = Arc::new(crate::serve::vaults(config, here));
    let keeper = Arc::new(LocalKeeper::new(opened, here.name.clone(), 1));
    for stored in list.into_iter().filter(|stored| stored.doc.vault.state == VaultState::Active) {
        let (doc, keeper) = (stored.doc, Arc::clone(&keeper));
        if let KeyReference::File(path) | KeyReference::Passphrase(path) = &doc.key
            && !path.starts_with(&*config.data_dir.to_string_lossy())
        {
            secret(found, "keys", Path::new(path));
        }
        let (name, access) = (doc.vault.name.clone(), doc.access());
        let facts = tokio::task::spawn_blocking(move || keeper.facts(&access)).await;
        match facts {
            Ok(Ok(facts)) => {
                found.ok("vault", format!("{name}: {} can be opened", doc.vault.url));
                for warning in facts.warnings {
                    let hint = "Bring the copy back, or see docs/use/stores.md.";
                    found.bad("vault", Level::Warn, format!("{name}: {warning}"), hint);
                }
                if facts.free_bytes.is_some() {
                    space(found, "vault", Path::new(&doc.vault.url));
                }
            }
            Ok(Err(error)) => found.error("vault", &name, &error),
            Err(error) => found.bad("vault", Level::Fail, error.to_string(), "Please report this."),
        }
    }
    Ok(())
}
