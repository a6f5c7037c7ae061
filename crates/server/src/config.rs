//! What the operator has set: one TOML file, every key optional, unknown keys refused.
//!
//! A variable `STRONGROOM_SERVER_` with a key's name in capitals counts before the file. What both
//! may say is one list, from which the documentation is made too.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use strongroom_agent::{Allowed, covers};
use strongroom_base::words;
use strongroom_catalog::CatalogUrl;
use strongroom_control::{Settings, jobs::Limits};
use strongroom_http::CertificateFiles;
use toml::{Table, Value};

use crate::{
    error::ServerError,
    watch::{MailConfig, WebhookConfig, check_channels, traces},
};

/// What variables begin with.
pub const VARIABLES: &str = "STRONGROOM_SERVER_";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A key of the configuration, for the documentation.
#[derive(Clone, Copy, Debug)]
pub struct ConfigKey {
    /// Its name.
    pub name: &'static str,
    /// What it is if nothing is said.
    pub default: &'static str,
    /// What it means.
    pub words: &'static str,
}

macro_rules! keys {
    ($(#[$doc:meta])* $config:ident {
        $($name:ident: $type:ty = $value:expr, $default:literal, $words:literal;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $config {
            $(#[doc = $words] pub $name: $type,)*
        }

        impl $config {
            /// Every key, in the order of the documentation.
            pub const KEYS: &[$crate::ConfigKey] = &[
                $($crate::ConfigKey { name: stringify!($name), default: $default, words: $words },)*
            ];
        }

        impl Default for $config {
            fn default() -> Self {
                Self { $($name: $value,)* }
            }
        }
    };
}

pub(crate) use keys;

keys! {
    /// What the operator has set.
    ServerConfig {
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8443)), "\"127.0.0.1:8443\"", "Address and port to listen on; port 0: any that is free.";
        data_dir: PathBuf = PathBuf::new(), "\"/var/lib/strongroom\" for root, else \"~/.local/share/strongroom\"", "Folder for the server's own files: catalog, keys, certificate, cache, and vaults without a URL. Only the server's user may read it.";
        catalog: Option<String> = None, "a SQLite file in `data_dir`", "Where the catalog is: `sqlite:PATH`, or `postgres://USER@HOST/DATABASE`.";
        catalog_password_file: Option<PathBuf> = None, "none", "File with PostgreSQL's password.";
        tls: bool = true, "true", "Whether the server speaks HTTPS. `false` only with `listen` on a loopback address, behind a proxy of the same machine.";
        tls_certificate: Option<PathBuf> = None, "made by the server", "PEM file with the certificate and its chain. The server reads it again when it changes.";
        tls_key: Option<PathBuf> = None, "made by the server", "PEM file with the certificate's key.";
        tls_names: Vec<String> = Vec::new(), "[]", "More names and addresses for the certificate that the server generates.";
        trusted_proxies: Vec<IpAddr> = Vec::new(), "[]", "Addresses of reverse proxies before the server, such as `127.0.0.1`. The server takes the caller's address from the last entry of their `X-Forwarded-For`, and ignores other headers and other senders.";
        connections: u32 = 1024, "1024", "Maximum number of connections. Callers without a token may use three quarters of them; when these are used up, the oldest makes room for the next. The server raises its limit of open files to 65,536, or as far as the hard limit allows, and never has more connections than three quarters of that limit.";
        vault_dirs: Option<Vec<PathBuf>> = None, "`vaults` in `data_dir`", "Folders below which users who may create vaults can create or take over vaults and their copies.";
        vault_urls: Vec<String> = Vec::new(), "[]", "URLs in object stores at or below which users can create or take over vaults, such as `s3://backup/vaults?endpoint=https://s3.example.net`; none: no vault in an object store. The endpoint must be the same.";
        key_dirs: Option<Vec<PathBuf>> = None, "`keys` in `data_dir`", "Folders below which requests may name files of keys, passphrases and PINs.";
        pkcs11_modules: BTreeMap<String, PathBuf> = BTreeMap::new(), "{}", "Modules of hardware tokens that requests may name, such as `{ softhsm = \"/usr/lib/softhsm/libsofthsm2.so\" }`: a key names it as `module-name=softhsm`, never by its path.";
        disk_dirs: Vec<PathBuf> = Vec::new(), "[]", "Folders and devices that items may protect by path.";
        blob_accounts: Vec<String> = Vec::new(), "[]", "Storage accounts of this server (`storage_listen`) whose page blobs items may protect, such as `[\"disks\"]`.";
        blob_target_accounts: Vec<String> = Vec::new(), "[]", "Storage accounts of this server to whose page blobs items may be backed up.";
        restore_dirs: Vec<PathBuf> = Vec::new(), "[]", "Folders below which restores may write disks, and devices that they may overwrite.";
        boot_dir: PathBuf = PathBuf::from("/var/tmp"), "\"/var/tmp\"", "Folder for what machines write that are booted to verify a recovery point: it is thrown away with the machine. The users of QEMU must reach it.";
        libvirt_sockets: Vec<PathBuf> = Vec::new(), "[]", "Sockets of libvirt that hosts may name, besides those of `qemu:///system` and of `qemu:///session` of the server's user. Their daemons must run as root or as that user.";
        jobs: u32 = 8, "8", "Maximum number of jobs at the same time.";
        restores: u32 = 2, "2", "Additional jobs at the same time, only for restores.";
        jobs_per_host: u32 = 2, "2", "Maximum number of jobs at the same time on a host without a setting of its own.";
        jobs_per_vault: u32 = 8, "8", "Maximum number of jobs at the same time in a vault.";
        jobs_per_store: u32 = 8, "8", "Maximum number of jobs at the same time in a store.";
        file_readers: u32 = 4, "4", "Maximum number of processes that read files of recovery points for requests at the same time. Each takes up to 1 GiB of memory; requests that find none free for 10 seconds are refused with `files.busy`.";
        threads: u32 = 0, "0", "Threads of a job for hashing and compressing; 0: one for each processor, 4 at most.";
        limit_rate: Option<String> = None, "none", "Maximum number of bytes a second that a job reads or writes: a number, with K, M or G for KiB, MiB or GiB.";
        job_history_days: u32 = 400, "400", "Days for which ended jobs are kept.";
        full_compare_every: u32 = 30, "30", "Number of backups of a disk of which at least one reads and compares everything; 0: only where needed.";
        reclaim_every_hours: u32 = 24, "24", "Hours between two reclaims of a vault; 0: only on demand.";
        measure_every_hours: u32 = 24, "24", "Hours between two measurements of a vault, the first after at most one hour; 0: only on demand.";
        verify_every_hours: u32 = 24, "24", "Hours between two checks of a vault's structure: the check opens everything except packs, and follows every recovery point down to its blocks. 0: only on demand.";
        verify_all_days: u32 = 30, "30", "Days within which all packs of a vault are read, some in each check; 0: only on demand.";
        save_every_minutes: u32 = 60, "60", "Maximum number of minutes between two copies of the catalog in each vault; a copy is also written some seconds after items or policies have changed. 0: none.";
        log_format: LogFormat = LogFormat::Text, "\"text\"", "Format of the log lines on standard error: `text` or `json`.";
        log_level: String = "info".to_owned(), "\"info\"", "Level of the log: `error`, `warn`, `info`, `debug`, or a filter such as `info,strongroom_control=debug`.";
        mail: Vec<MailConfig> = Vec::new(), "[]", "Tables `[[mail]]`: mailboxes that get alerts.";
        webhook: Vec<WebhookConfig> = Vec::new(), "[]", "Tables `[[webhook]]`: URLs that get alerts.";
        alert_bundle_seconds: u32 = 30, "30", "Seconds that alerts wait for others, to be sent together; ten times as many after a message was sent.";
        metrics_listen: Option<SocketAddr> = None, "none", "Address and port of `/metrics`, for Prometheus, without TLS and sign-in; none: no metrics page.";
        storage_listen: Option<SocketAddr> = None, "none", "Address and port of storage accounts, which the server then serves in Azure's dialect as `strongroom storage serve` does; none: no storage accounts. They are encrypted if `tls` is true, with a certificate of their own.";
        storage_dir: Option<PathBuf> = None, "`storage` in `data_dir`", "Folder of the storage accounts.";
        storage_copies: Vec<PathBuf> = Vec::new(), "[]", "Folders on other disks, each with a copy of the storage accounts.";
        storage_replica_journal: String = "4G".to_owned(), "\"4G\"", "How much of their journal the storage accounts keep for a second server that is behind, `256M` to `16T`; one that is farther behind is resynchronized.";
        storage_rebuild_rate: String = "128M".to_owned(), "\"128M\"", "Maximum number of bytes a second at which a copy of the storage accounts is made again, `1M` to `1T`: clients keep the rest of the disks' speed.";
        storage_suffixes: Vec<String> = vec!["localhost".to_owned()], "[\"localhost\"]", "Domains: `ACCOUNT.blob.DOMAIN` is a storage account.";
        storage_lag_seconds: u32 = 300, "300", "Seconds that the second server of the storage accounts may be behind, or out of contact, before that is an alert.";
        traces_url: Option<String> = None, "none", "URL for spans, as OTLP over HTTP, such as `http://localhost:4318/v1/traces`; none: no spans.";
        traces_percent: u32 = 100, "100", "Percentage of requests and jobs that are traced, unless the request decides it.";
    }
}

/// Sizes of the storage accounts, where they are given, in bytes and in bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageSizes {
    /// How much of the journal is kept for the secondary.
    pub replica_journal: Option<u64>,
    /// How fast a copy is made again.
    pub rebuild_rate: Option<u64>,
}

/// Reads a number of bytes with K, M, G or T within bounds.
fn bytes(
    key: &str,
    text: Option<&str>,
    bounds: RangeInclusive<u64>,
) -> Result<Option<u64>, String> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || format!("{key}: {text:?} is not a number with K, M, G or T");
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (text.get(..at), 1_u64 << 10),
        Some((at, 'M' | 'm')) => (text.get(..at), 1 << 20),
        Some((at, 'G' | 'g')) => (text.get(..at), 1 << 30),
        Some((at, 'T' | 't')) => (text.get(..at), 1 << 40),
        _ => (Some(text), 1),
    };
    let number = digits.and_then(|digits| digits.parse::<u64>().ok()).ok_or_else(wrong)?;
    let number = number.checked_mul(unit).ok_or_else(wrong)?;
    if bounds.contains(&number) {
        return Ok(Some(number));
    }
    if number == 0 {
        return Err(wrong());
    }
    let (least, most) = (words::bytes(*bounds.start()), words::bytes(*bounds.end()));
    Err(format!("{key}: {text:?} is not {least} to {most}"))
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct ConfigSource {
    /// A file that must be there.
    pub file: Option<PathBuf>,
    /// The file that is read if none is named; it may be missing.
    pub usual_file: Option<PathBuf>,
    /// The environment.
    pub variables: Vec<(String, String)>,
    /// What the command line says: it counts most.
    pub options: Vec<(&'static str, String)>,
    /// The folder if nobody names one.
    pub data_dir: PathBuf,
}

fn wrong(place: impl Into<String>, reason: impl Into<String>) -> ServerError {
    ServerError::Config { place: place.into(), reason: reason.into() }
}

impl ServerConfig {
    /// Reads the configuration.
    pub fn load(source: &ConfigSource) -> Result<Self, ServerError> {
        let mut config = match (&source.file, &source.usual_file) {
            (Some(file), _) => {
                let table = read(file)?.ok_or_else(|| wrong(show(file), "it does not exist"))?;
                (show(file), table)
            }
            (None, Some(file)) => (show(file), read(file)?.unwrap_or_default()),
            (None, None) => (String::new(), Table::new()),
        };
        // On its own first, so that a mistake is said to be where it is.
        parse(&config.0, &config.1)?;
        for (name, value) in &source.variables {
            let Some(key) = name.strip_prefix(VARIABLES) else { continue };
            add(&mut config.1, name, &key.to_ascii_lowercase(), value)?;
        }
        for (key, value) in &source.options {
            add(&mut config.1, &format!("--{}", key.replace('_', "-")), key, value)?;
        }
        let mut found = parse(&config.0, &config.1)?;
        if found.data_dir.as_os_str().is_empty() {
            found.data_dir.clone_from(&source.data_dir);
        }
        found.check(&config.0)?;
        Ok(found)
    }

    fn check(&self, file: &str) -> Result<(), ServerError> {
        let place = if file.is_empty() { "the configuration" } else { file };
        let fail = |reason: &str| Err(wrong(place, reason));
        let optional = [&self.catalog_password_file, &self.tls_certificate, &self.tls_key];
        let paths = self.restore_dirs.iter().chain(&self.disk_dirs).chain([&self.data_dir]);
        let places = self.vault_dirs.iter().chain(&self.key_dirs).flatten();
        let paths = paths.chain(places).chain(self.pkcs11_modules.values());
        let paths = paths.chain(&self.libvirt_sockets).chain(&self.storage_copies);
        let paths = paths.chain(&self.storage_dir);
        for path in paths.chain(optional.into_iter().flatten()) {
            if !path.is_absolute() {
                return fail(&format!("{} must start with /", path.display()));
            }
        }
        for url in &self.vault_urls {
            covers(url, url).map_err(|error| wrong(place, format!("vault_urls: {error}")))?;
        }
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return fail("tls_certificate and tls_key belong together");
        }
        if !self.tls && self.tls_certificate.is_some() {
            return fail("tls = false, but there is a tls_certificate");
        }
        if !self.tls && !self.listen.ip().is_loopback() {
            return fail(&format!(
                "tls = false, but {} is no loopback address: tokens would be sent in the clear",
                self.listen
            ));
        }
        if let Some(listen) = self.storage_listen
            && !self.tls
            && !listen.ip().is_loopback()
        {
            return fail(&format!(
                "tls = false, but {listen} of storage_listen is no loopback address: data would be sent in the clear"
            ));
        }
        for (name, value) in [
            ("jobs", self.jobs),
            ("jobs_per_host", self.jobs_per_host),
            ("jobs_per_vault", self.jobs_per_vault),
            ("jobs_per_store", self.jobs_per_store),
            ("connections", self.connections),
            ("job_history_days", self.job_history_days),
        ] {
            if value == 0 {
                return fail(&format!("{name} is 0"));
            }
        }
        self.rate().map_err(|reason| wrong(place, reason))?;
        self.storage_sizes().map_err(|reason| wrong(place, reason))?;
        let here = |reason: String| wrong(place, reason);
        check_channels(&self.mail, &self.webhook).map_err(here)?;
        traces::check(self.traces_url.as_deref(), self.traces_percent).map_err(here)?;
        if self.metrics_listen.is_some_and(|it| it == self.listen && it.port() != 0) {
            return fail("metrics_listen is the same as listen");
        }
        let url = self.catalog.as_deref().unwrap_or_default();
        if url.starts_with("postgres") && url.split('@').next().is_some_and(has_password) {
            return fail(
                "catalog has a password: put it into a file, and name that as catalog_password_file",
            );
        }
        Ok(())
    }

    fn rate(&self) -> Result<Option<u64>, String> {
        bytes("limit_rate", self.limit_rate.as_deref(), 1..=u64::MAX)
    }

    /// Sizes of the storage accounts, where they are given.
    pub fn storage_sizes(&self) -> Result<StorageSizes, String> {
        let (journal, rate) = (&self.storage_replica_journal, &self.storage_rebuild_rate);
        Ok(StorageSizes {
            replica_journal: bytes("storage_replica_journal", Some(journal), 256 << 20..=16 << 40)?,
            rebuild_rate: bytes("storage_rebuild_rate", Some(rate), 1 << 20..=1 << 40)?,
        })
    }

    /// Places of vaults and keys that may be named.
    pub(crate) fn allowed(&self) -> Allowed {
        let or_own = |dirs: &Option<Vec<PathBuf>>, own: &str| {
            dirs.clone().unwrap_or_else(|| vec![self.data_dir.join(own)])
        };
        Allowed {
            vault_dirs: or_own(&self.vault_dirs, "vaults"),
            vault_urls: self.vault_urls.clone(),
            key_dirs: or_own(&self.key_dirs, "keys"),
            pkcs11_modules: self.pkcs11_modules.clone(),
            disk_dirs: self.disk_dirs.clone(),
            blob_accounts: self.blob_accounts.clone(),
            blob_target_accounts: self.blob_target_accounts.clone(),
            restore_dirs: self.restore_dirs.clone(),
        }
    }

    /// As the service takes it.
    pub fn settings(&self) -> Settings {
        Settings {
            limits: Limits {
                total: self.jobs,
                restores: self.restores,
                host: self.jobs_per_host,
                vault: self.jobs_per_vault,
                store: self.jobs_per_store,
                ..Limits::default()
            },
            data_dir: self.data_dir.clone(),
            job_history_days: self.job_history_days,
            full_compare_every: self.full_compare_every,
            limit_rate: self.rate().unwrap_or_default(),
            reclaim_every_hours: self.reclaim_every_hours,
            measure_every_hours: self.measure_every_hours,
            verify_every_hours: self.verify_every_hours,
            verify_all_days: self.verify_all_days,
            save_every_minutes: self.save_every_minutes,
            alert_bundle_seconds: self.alert_bundle_seconds,
            storage_lag_seconds: self.storage_lag_seconds,
            file_readers: self.file_readers,
        }
    }

    /// The files of the certificate: those that are named, or the server's own.
    pub fn certificate(&self) -> CertificateFiles {
        match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                CertificateFiles { certificate: certificate.clone(), key: key.clone(), own: false }
            }
            _ => CertificateFiles::own(&self.data_dir.join("tls")),
        }
    }

    /// Names and addresses that the server's own certificate is for.
    pub(crate) fn names(&self, host: &str) -> Vec<String> {
        strongroom_http::names(host, self.listen.ip(), &self.tls_names)
    }

    /// Where the catalog is, with its password.
    pub fn catalog_url(&self) -> Result<CatalogUrl, ServerError> {
        let Some(text) = &self.catalog else {
            return Ok(CatalogUrl::sqlite(self.data_dir.join("catalog.sqlite")));
        };
        let url: CatalogUrl = text.parse()?;
        let Some(file) = &self.catalog_password_file else { return Ok(url) };
        let password = fs::read_to_string(file).map_err(ServerError::local("read", file))?;
        Ok(url.with_password(password.trim_end_matches(['\r', '\n'])))
    }
}

fn has_password(before_host: &str) -> bool {
    before_host.split_once("://").is_some_and(|(_, user)| user.contains(':'))
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn read(file: &Path) -> Result<Option<Table>, ServerError> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(show(file), error.to_string())),
    };
    // Read as what it is to be, so that a mistake is shown with its line.
    toml::from_str::<ServerConfig>(&text)
        .map_err(|error| wrong(show(file), error.to_string().trim_end()))?;
    text.parse().map(Some).map_err(|error: toml::de::Error| wrong(show(file), error.to_string()))
}

fn parse(place: &str, table: &Table) -> Result<ServerConfig, ServerError> {
    table
        .clone()
        .try_into()
        .map_err(|error: toml::de::Error| wrong(place, error.to_string().trim_end()))
}

/// Adds what a variable or an option says: a text as it is, all else as in the file.
fn add(table: &mut Table, place: &str, key: &str, text: &str) -> Result<(), ServerError> {
    if !ServerConfig::KEYS.iter().any(|known| known.name == key) {
        return Err(wrong(place, format!("there is no key {key:?}")));
    }
    let parsed = format!("{key} = {text}").parse::<Table>().ok();
    let parsed = parsed.and_then(|mut table| table.remove(key));
    let candidates = [Some(Value::String(text.to_owned())), parsed];
    let mut reason = String::new();
    for value in candidates.into_iter().flatten() {
        let one = Table::from_iter([(key.to_owned(), value.clone())]);
        match parse(place, &one) {
            Ok(_) => {
                table.insert(key.to_owned(), value);
                return Ok(());
            }
            Err(error) => reason = error.to_string(),
        }
    }
    Err(wrong(place, reason.trim_start_matches(place).trim_start_matches(": ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<ServerConfig, ServerError> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("server.toml");
        fs::write(&file, text).expect("writes");
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        ServerConfig::load(&ConfigSource {
            file: Some(file),
            variables: variables.iter().map(own).collect(),
            data_dir: "/data".into(),
            ..ConfigSource::default()
        })
    }

    #[test]
    fn every_configuration_in_the_docs_is_taken() {
        let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operate");
        let mut count = 0;
        for page in fs::read_dir(pages).expect("the pages") {
            let path = page.expect("a page").path();
            let page = fs::read_to_string(&path).expect("a text");
            for block in page.split("```toml\n").skip(1) {
                let text = block.split("```").next().unwrap_or_default();
                if let Err(error) = load(text, &[]) {
                    panic!("{}: {error}\n{text}", path.display());
                }
                count += 1;
            }
        }
        assert!(count >= 7, "{count} configurations");
    }

    #[test]
    fn defaults_are_those_that_are_documented() {
        let config = load("", &[]).expect("loads");
        assert_eq!(config.data_dir, PathBuf::from("/data"));
        for key in ServerConfig::KEYS {
            // What is documented as a value is the value.
            let text = format!("{} = {}", key.name, key.default);
            if let Ok(table) = text.parse::<Table>() {
                let said: ServerConfig = table.try_into().expect(key.name);
                assert_eq!(said, ServerConfig::default(), "{}", key.name);
            }
        }
    }

    #[test]
    fn variables_count_before_the_file() {
        let variables = [
            ("STRONGROOM_SERVER_LISTEN", "[::1]:1"),
            ("STRONGROOM_SERVER_JOBS", "3"),
            ("STRONGROOM_SERVER_RESTORE_DIRS", "[\"/a\", \"/b\"]"),
            ("STRONGROOM_SERVER_LIMIT_RATE", "10M"),
            ("STRONGROOM_SERVER_TLS", "false"),
            ("STRONGROOM_SERVER_METRICS_LISTEN", "127.0.0.1:9100"),
            (
                "STRONGROOM_SERVER_WEBHOOK",
                "[{ name = \"ops\", url = \"https://h/x\", secret_file = \"/s\" }]",
            ),
            ("UNRELATED", "x"),
        ];
        let config = load("listen = \"127.0.0.1:5\"\njobs = 9\n", &variables).expect("loads");
        assert_eq!(config.listen, SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 1)));
        assert_eq!((config.jobs, config.tls), (3, false));
        assert_eq!((config.webhook.len(), config.metrics_listen.is_some()), (1, true));
        assert_eq!(config.settings().limit_rate, Some(10 << 20));
        assert_eq!(config.restore_dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
    }

    #[test]
    fn mistakes_are_refused_and_named() {
        for (text, named) in [
            ("lisen = \"127.0.0.1:1\"\n", "lisen"),
            ("listen = \"here\"\n", "listen"),
            ("data_dir = \"here\"\n", "must start with /"),
            ("tls = false\nlisten = \"0.0.0.0:1\"\n", "in the clear"),
            ("tls_key = \"/k\"\n", "belong together"),
            ("limit_rate = \"fast\"\n", "not a number"),
            ("storage_replica_journal = \"1M\"\n", "256 MiB to 16 TiB"),
            ("storage_replica_journal = \"17T\"\n", "256 MiB to 16 TiB"),
            ("storage_rebuild_rate = \"1K\"\n", "1 MiB to 1 TiB"),
            ("jobs = 0\n", "jobs is 0"),
            ("log_format = \"xml\"\n", "xml"),
            ("catalog = \"postgres://u:secret@h/d\"\n", "catalog_password_file"),
            ("traces_url = \"ftp://h\"\n", "traces_url"),
            ("traces_percent = 101\n", "traces_percent"),
            ("metrics_listen = \"127.0.0.1:8443\"\n", "same as listen"),
            ("vault_dirs = [\"here\"]\n", "must start with /"),
            ("vault_urls = [\"ftp://h\"]\n", "vault_urls: "),
            ("pkcs11_modules = { a = \"b.so\" }\n", "must start with /"),
            ("[[mail]]\nname = \"a\"\n", "mail a: server"),
            ("[[mail]]\nnane = \"a\"\n", "nane"),
            ("[[webhook]]\nname = \"a\"\nurl = \"http://example.net/\"\n", "webhook a: url"),
            ("[[webhook]]\nname = \"a\"\nurl = \"https://u:secret@h/\"\n", "webhook a: url"),
        ] {
            let error = load(text, &[]).expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        for (variable, value) in [("STRONGROOM_SERVER_X", "1"), ("STRONGROOM_SERVER_JOBS", "many")]
        {
            let error = load("", &[(variable, value)]).expect_err(variable).to_string();
            assert!(error.contains(variable), "{error}");
        }
    }
}
