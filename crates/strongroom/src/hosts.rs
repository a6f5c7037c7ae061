//! Which libvirt, and where its and our files are on this host.

use std::{env, path::PathBuf, sync::Arc};

use clap::Args;
use strongroom_base::SystemClock;
use strongroom_hypervisor::{ConnectUri, Connection, Scope, Settings};
use strongroom_keys::ModuleCommand;
use strongroom_machine::{Places, guard::GuardCommand};

use crate::error::{FaceError, Failure};

/// Which libvirt.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct ConnectArgs {
    /// libvirt that has the machine: qemu:///system, qemu:///session,
    /// qemu+unix:///system?socket=PATH, qemu+ssh://USER@HOST/system [env: STRONGROOM_CONNECT,
    /// LIBVIRT_DEFAULT_URI] [default: qemu:///system for root and members of the group libvirt,
    /// else qemu:///session]
    #[arg(long, visible_alias = "host", value_name = "URI")]
    pub(crate) connect: Option<ConnectUri>,
}

impl ConnectArgs {
    /// Connects.
    pub(crate) fn open(&self) -> Result<Connection, Failure> {
        Ok(Connection::open(&self.uri()?, &settings())?)
    }

    fn uri(&self) -> Result<ConnectUri, Failure> {
        if let Some(uri) = &self.connect {
            return Ok(uri.clone());
        }
        let variables = ["STRONGROOM_CONNECT", "LIBVIRT_DEFAULT_URI"];
        let given = variables.iter().find_map(|name| env::var(name).ok().filter(|v| !v.is_empty()));
        if let Some(uri) = given {
            return Ok(uri.parse()?);
        }
        let system = is_root() || Connection::system_is_reachable();
        let scope = if system { Scope::System } else { Scope::Session };
        Ok(ConnectUri { scope, ..ConnectUri::SYSTEM })
    }
}

/// Whose machines are meant, if nothing is said.
pub(crate) fn usual_scope() -> Scope {
    ConnectArgs { connect: None }.uri().map_or(Scope::System, |uri| uri.scope)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn home(below: &str) -> Option<PathBuf> {
    folder("HOME").map(|home| home.join(below))
}

/// What a connection needs to know of our surroundings.
pub(crate) fn settings() -> Settings {
    Settings {
        clock: Arc::new(SystemClock),
        runtime_dir: folder("XDG_RUNTIME_DIR"),
        cache_dir: folder("XDG_CACHE_HOME").or_else(|| home(".cache")),
        is_root: is_root(),
        trusted_daemons_only: false,
    }
}

/// Where things are on this host, for machines of `scope`.
pub(crate) fn places(scope: Scope) -> Places {
    let config = folder("XDG_CONFIG_HOME").or_else(|| home(".config")).unwrap_or_default();
    match scope {
        Scope::System => Places::of_system(),
        Scope::Session => {
            let runtime = folder("XDG_RUNTIME_DIR").unwrap_or_else(env::temp_dir);
            Places::of_session(&runtime, &config)
        }
    }
}

/// The libvirt of this machine that lets us talk to it, if one does.
pub(crate) fn reachable() -> Option<String> {
    if Connection::system_is_reachable() {
        return Some("qemu:///system".to_owned());
    }
    let session = ConnectUri { scope: Scope::Session, ..ConnectUri::SYSTEM };
    let socket = folder("XDG_RUNTIME_DIR")?.join("libvirt");
    // Nothing is started for it.
    let there = ["virtqemud-sock", "libvirt-sock"].iter().any(|name| socket.join(name).exists());
    (there && Connection::open(&session, &settings()).is_ok()).then(|| "qemu:///session".to_owned())
}

/// This host's libvirt, if there is one that lets us talk to it: the one that is named, or the usual one.
/// Nothing is started for it.
pub(crate) fn present() -> Option<Connection> {
    let is_named = ["STRONGROOM_CONNECT", "LIBVIRT_DEFAULT_URI"]
        .iter()
        .any(|name| env::var(name).is_ok_and(|value| !value.is_empty()));
    if !is_named {
        reachable()?;
    }
    ConnectArgs { connect: None }.open().ok().filter(|connection| connection.uri().is_local())
}

/// The folder for what a server makes, if nobody names one.
pub(crate) fn data_dir() -> PathBuf {
    if is_root() {
        return PathBuf::from("/var/lib/strongroom");
    }
    folder("XDG_DATA_HOME")
        .or_else(|| home(".local/share"))
        .map_or_else(|| PathBuf::from("/var/lib/strongroom"), |folder| folder.join("strongroom"))
}

/// How the process of a token's module is started: by our own program.
pub(crate) fn module() -> ModuleCommand {
    ModuleCommand::this_program("pkcs11-module")
}

/// How a guard is started: by our own program.
pub(crate) fn guard() -> Result<GuardCommand, Failure> {
    let program = env::current_exe().map_err(|source| FaceError::Local {
        path: "/proc/self/exe".into(),
        action: "find",
        source,
    })?;
    Ok(GuardCommand { program, arguments: vec!["vm-guard".to_owned()] })
}
