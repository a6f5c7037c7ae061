//! `serve`: the service, until it is stopped; `doctor`: whether it could work.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, mpsc::channel},
    thread::JoinHandle,
};

use clap::Args;
use serde::Serialize;
use strongroom_agent::{ServedAccounts, ThisHost};
use strongroom_base::start_thread;
use strongroom_hypervisor::Scope;
use strongroom_orders::StorageAccounts;
use strongroom_server::{ConfigSource, Finding, Level, Serve, ServerConfig, VARIABLES};
use strongroom_storage::{CopyFolders, Run, StorageError, Tuning};

use super::{served::ServedBlobs, storage::Served};
use crate::{
    context::Context,
    error::{FaceError, Failure},
    hosts, human,
    out::{self, Show},
};

/// The default configuration file.
const USUAL_FILE: &str = "/etc/strongroom/server.toml";

/// Run the server: schedules, jobs, retention and rights for many vaults and machines
///
/// The server runs until it is stopped (Ctrl-C, SIGTERM): it then finishes its requests; running
/// jobs stop, and resume at the next start. The first start names a file with an administrator
/// token. Here --config names the server's own file, by default /etc/strongroom/server.toml.
/// docs/operate/server.md describes all keys; every key is also a variable STRONGROOM_SERVER_KEY.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom serve
  strongroom serve --config /etc/strongroom/server.toml
  strongroom serve --data-dir ~/strongroom --listen 127.0.0.1:8443")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// The server of this machine.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerArgs {
    /// The value of `--config`: for these commands it is the server's file.
    #[arg(skip)]
    pub(crate) file: Option<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Folder for the server's own files [default: /var/lib/strongroom for root, else
    /// ~/.local/share/strongroom]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

/// The server's variables in the environment.
fn variables() -> Vec<(String, String)> {
    let ours = |(name, value): (OsString, OsString)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(VARIABLES))?;
        Some((name, value.to_string_lossy().into_owned()))
    };
    env::vars_os().filter_map(ours).collect()
}

impl ServerArgs {
    /// What the operator has set.
    pub(crate) fn load(&self) -> Result<ServerConfig, Failure> {
        let mut options = Vec::new();
        if let Some(listen) = self.listen {
            options.push(("listen", listen.to_string()));
        }
        if let Some(folder) = &self.data_dir {
            let folder = std::path::absolute(folder).map_err(|source| FaceError::Local {
                path: folder.clone(),
                action: "find",
                source,
            })?;
            options.push(("data_dir", folder.to_string_lossy().into_owned()));
        }
        let source = ConfigSource {
            file: self.file.clone(),
            usual_file: Some(USUAL_FILE.into()),
            variables: variables(),
            options,
            data_dir: hosts::data_dir(),
        };
        Ok(ServerConfig::load(&source)?)
    }

    /// The shell command that starts a server with the same settings, in any folder.
    pub(crate) fn command(&self, config: &ServerConfig) -> Result<String, Failure> {
        let set = variables().into_iter();
        let mut words: Vec<String> =
            set.map(|(name, value)| format!("{name}={}", human::shell_word(&value))).collect();
        words.sort();
        words.push("strongroom serve".to_owned());
        if let Some(file) = &self.file {
            let find = |source| FaceError::Local { path: file.clone(), action: "find", source };
            let file = std::path::absolute(file).map_err(find)?;
            words.push(format!("--config {}", human::shell_word(&file.to_string_lossy())));
        }
        // A file may say another folder than the usual one; without a file nothing else does.
        if self.data_dir.is_some() || self.file.is_none() {
            let folder = config.data_dir.to_string_lossy();
            words.push(format!("--data-dir {}", human::shell_word(&folder)));
        }
        if let Some(listen) = self.listen {
            words.push(format!("--listen {listen}"));
        }
        Ok(words.join(" "))
    }
}

impl ServeArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let config = self.server.load()?;
        let _logging = strongroom_server::log(&config, console::colors_enabled_stderr())?;
        let accounts = Accounts::start(context, &config)?;
        let (accounts, served) =
            accounts.map_or((None, None), |(all, served)| (Some(all), Some(served)));
        let blobs = || -> Arc<dyn ServedAccounts> {
            Arc::new(ServedBlobs::of(context, storage_dir(&config)))
        };
        let here = ThisHost { accounts: accounts.is_some().then(blobs), ..this_host()? };
        let serve = Serve {
            here,
            config,
            accounts: served.map(|served| -> Arc<dyn StorageAccounts> { Arc::new(served) }),
            notify: env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()),
            stop: context.cancel.clone(),
            announce: Box::new(out::tell),
        };
        let served = strongroom_server::serve(serve);
        // The accounts end with the server, whatever ended it.
        context.cancel.cancel();
        let ended = accounts.map_or(Ok(()), Accounts::end);
        served?;
        ended
    }
}

/// The folder of the storage accounts.
fn storage_dir(config: &ServerConfig) -> PathBuf {
    config.storage_dir.clone().unwrap_or_else(|| config.data_dir.join("storage"))
}

/// How the store of the storage accounts works. What is out of bounds was refused when the configuration was read.
fn tuning(config: &ServerConfig) -> Tuning {
    let sizes = config.storage_sizes().unwrap_or_default();
    Tuning { replica_journal: sizes.replica_journal, rebuild_rate: sizes.rebuild_rate }
}

/// Storage accounts that are served beside the server, on a thread of their own.
struct Accounts(JoinHandle<Result<(), StorageError>>);

impl Accounts {
    /// Serves accounts if they are configured; returns once they are, or cannot be.
    fn start(context: &Context, config: &ServerConfig) -> Result<Option<(Self, Served)>, Failure> {
        let Some(listen) = config.storage_listen else { return Ok(None) };
        let data_dir = storage_dir(config);
        let (listening, listens) = channel();
        let announce = super::storage::announce(context, &data_dir, config.tls);
        let (host, tls) = (crate::context::host(), config.tls);
        let run = Run {
            data_dir,
            tuning: tuning(config),
            folders: CopyFolders { copies: config.storage_copies.clone(), without: Vec::new() },
            listen,
            host: crate::context::host(),
            tls: config.tls,
            suffixes: config.storage_suffixes.clone(),
            clock: Arc::new(context.clock),
            entropy: Arc::new(context.entropy),
            stop: context.cancel.clone(),
            announce: Box::new(move |address, _, storage| {
                // The fingerprint that people look for here is the server's.
                announce(address, None);
                // Who waits for it is there until it comes.
                listening.send(Served::new(storage, address, &host, tls)).ok();
            }),
        };
        let thread = start_thread("storage-accounts", move || {
            strongroom_storage::run(run).inspect_err(|error| {
                tracing::error!(%error, "storage accounts are not served");
            })
        });
        let accounts = Self(thread);
        match listens.recv() {
            Ok(served) => Ok(Some((accounts, served))),
            // It has ended without listening.
            Err(_) => accounts.end().map(|()| None),
        }
    }

    fn end(self) -> Result<(), Failure> {
        match self.0.join() {
            Ok(ended) => Ok(ended?),
            Err(_) => {
                Err(FaceError::Bug("the thread of storage accounts panicked".to_owned()).into())
            }
        }
    }
}

/// Check whether this machine is ready for a server
///
/// The command checks the folder, the port, the certificate, keys, libvirt, the clock, the catalog
/// and the vaults of a server, with its configuration (--config, as for serve), and says how to fix
/// each problem. It does not disturb a running server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom doctor
  strongroom doctor --config /etc/strongroom/server.toml --output json")]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// The findings.
#[derive(Debug, Serialize)]
struct Findings {
    findings: Vec<Finding>,
}

impl Show for Findings {
    fn show(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let Finding { check, level, what, what_to_do } = finding;
            writeln!(text, "{:<4}  {check}: {what}", level.name()).ok();
            if let Some(hint) = what_to_do {
                writeln!(text, "      {hint}").ok();
            }
        }
        text
    }
}

impl DoctorArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let config = self.server.load()?;
        let findings = strongroom_server::examine(&config, &this_host()?)?;
        let failed = findings.iter().filter(|finding| finding.level == Level::Fail);
        let mut failed: Vec<&str> = failed.map(|finding| finding.check).collect();
        failed.dedup();
        let failed = failed.join(", ");
        context.out.result(&Findings { findings })?;
        if failed.is_empty() { Ok(()) } else { Err(FaceError::ServerNotReady(failed).into()) }
    }
}

/// Facts about the machine that the server runs on.
pub(crate) fn this_host() -> Result<ThisHost, Failure> {
    let name = crate::context::host();
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = name.chars().filter(|c| good(*c)).take(200).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    Ok(ThisHost {
        name: if name.is_empty() { "localhost".to_owned() } else { name.to_owned() },
        settings: hosts::settings(),
        system_places: hosts::places(Scope::System),
        session_places: hosts::places(Scope::Session),
        guard: hosts::guard()?,
        module: hosts::module(),
        file_reader: super::restore_files::reader()?,
        connect: hosts::reachable(),
        accounts: None,
    })
}
