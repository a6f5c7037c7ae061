//! A connection to libvirt, and the calls on hosts and machines.
//!
//! Calls on running backups are in [`crate::backup`], those on secrets and storage in
//! [`crate::storage`], those to the guest's agent in [`crate::agent`].

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use strongroom_base::{Clock, lock};

use crate::{
    HypervisorError,
    error::{Result, number},
    rpc::{
        CallError, Client, Decoder, Encoder, Malformed, Procedure, Transport, find_program, xdr,
    },
    uri::{ConnectUri, Route, Scope},
};

/// libvirt gives up after 30 s when another operation holds a machine; we wait a little longer, so
/// that it is libvirt who says so.
const PATIENCE: Duration = Duration::from_secs(45);

/// What a connection needs to know of our surroundings.
#[derive(Clone)]
pub struct Settings {
    /// Time: when a daemon is silent for too long.
    pub clock: Arc<dyn Clock>,
    /// `XDG_RUNTIME_DIR`, where a user's own daemon has its socket.
    pub runtime_dir: Option<PathBuf>,
    /// `XDG_CACHE_HOME` or `~/.cache`: where it has it without one.
    pub cache_dir: Option<PathBuf>,
    /// Whether we are root.
    pub is_root: bool,
    /// Whether a daemon on this host must be root's or our own user's: what another user's says of
    /// machines and their files would be carried out with our rights.
    pub trusted_daemons_only: bool,
}

impl Settings {
    /// Nothing is known but the time.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            runtime_dir: None,
            cache_dir: None,
            is_root: false,
            trusted_daemons_only: false,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("runtime_dir", &self.runtime_dir)
            .field("cache_dir", &self.cache_dir)
            .field("is_root", &self.is_root)
            .field("trusted_daemons_only", &self.trusted_daemons_only)
            .finish_non_exhaustive()
    }
}

/// A machine's identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Uuid {
    type Err = NotAUuid;

    fn from_str(text: &str) -> std::result::Result<Self, NotAUuid> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
        let mut bytes = [0; 16];
        let pairs = digits.chunks_exact(2);
        if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(NotAUuid);
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let pair = std::str::from_utf8(pair).map_err(|_| NotAUuid)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotAUuid)?;
        }
        Ok(Self(bytes))
    }
}

/// A text that is no UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a UUID")]
pub struct NotAUuid;

/// A machine that libvirt knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// The number of its present run; none if it is not running. Another number is another run.
    pub run: Option<i32>,
}

/// What a machine is doing (`virDomainState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Running, or blocked on input and output.
    Running,
    /// Its processors stand still.
    Paused,
    /// On its way down.
    ShuttingDown,
    /// Off.
    Off,
    /// Dead, with its memory kept.
    Crashed,
    /// Asleep: its guest suspended it.
    Suspended,
    /// Something newer than this program.
    Unknown,
}

impl State {
    const fn from_number(number: i32) -> Self {
        match number {
            1 | 2 => Self::Running,
            3 => Self::Paused,
            4 => Self::ShuttingDown,
            5 => Self::Off,
            6 => Self::Crashed,
            7 => Self::Suspended,
            _ => Self::Unknown,
        }
    }

    /// Its name for people and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::ShuttingDown => "shutting_down",
            Self::Off => "off",
            Self::Crashed => "crashed",
            Self::Suspended => "suspended",
            Self::Unknown => "unknown",
        }
    }

    /// Whether QEMU runs, so that backups are libvirt's to make.
    pub const fn is_active(self) -> bool {
        !matches!(self, Self::Off)
    }
}

/// Which description of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it runs now (as it would start, if it is off).
    Present,
    /// As it will be after its next start.
    Inactive,
}

/// A connection to one libvirt daemon. Calls are made one after the other; a caller that must not wait
/// for another's call opens a connection of their own.
///
/// A daemon may be restarted at any time, and machines run on without it. So a connection that is
/// found to have ended before a call is opened again for it; one that ends during a call fails it,
/// since nobody knows whether it was carried out.
#[derive(Debug)]
pub struct Connection {
    uri: ConnectUri,
    settings: Settings,
    client: Mutex<Client>,
}

impl Connection {
    /// Connects. A user's own daemon is started if it does not run, as libvirt's tools do.
    pub fn open(uri: &ConnectUri, settings: &Settings) -> Result<Self> {
        let client = Mutex::new(open(uri, settings)?);
        Ok(Self { uri: uri.clone(), settings: settings.clone(), client })
    }

    /// Whether the host's own daemon listens and lets us talk to it. Nothing is started for it.
    pub fn system_is_reachable() -> bool {
        first(Path::new("/run/libvirt")).is_ok()
    }

    /// The clock that it was opened with.
    pub fn clock(&self) -> &dyn Clock {
        &*self.settings.clock
    }

    /// Another connection to the same daemon.
    pub fn again(&self) -> Result<Self> {
        Self::open(&self.uri, &self.settings)
    }

    /// Which libvirt it is.
    pub const fn uri(&self) -> &ConnectUri {
        &self.uri
    }

    /// What it was opened with.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether its daemon has died or was restarted since the last call, or that call has failed.
    pub fn has_ended(&self) -> bool {
        lock(&self.client).has_ended()
    }

    /// Waits until the daemon answers, for so long at most: it may be being restarted.
    pub fn wait_until_it_answers(&self, patience: Duration) -> Result<()> {
        let clock = self.clock();
        let deadline = clock.monotonic().saturating_add(patience);
        loop {
            match self.versions() {
                Err(error) if error.is_connection() && clock.monotonic() < deadline => {
                    clock.sleep(Duration::from_millis(200));
                }
                other => return other.map(drop),
            }
        }
    }

    /// Makes a call with the usual patience.
    pub(crate) fn call<T>(
        &self,
        action: &'static str,
        procedure: Procedure,
        arguments: Encoder,
        read: impl FnOnce(&mut Decoder<'_>) -> std::result::Result<T, Malformed>,
    ) -> Result<T> {
        self.call_within(PATIENCE, action, procedure, arguments, read)
    }

    /// Makes a call.
    pub(crate) fn call_within<T>(
        &self,
        timeout: Duration,
        action: &'static str,
        procedure: Procedure,
        arguments: Encoder,
        read: impl FnOnce(&mut Decoder<'_>) -> std::result::Result<T, Malformed>,
    ) -> Result<T> {
        let mut client = lock(&self.client);
        if client.has_ended() {
            *client = open(&self.uri, &self.settings)?;
        }
        call(&mut client, timeout, action, procedure, arguments, read)
    }

    /// Makes a call whose results are followed by a stream, of `most` bytes at most.
    pub(crate) fn call_with_stream<T>(
        &self,
        action: &'static str,
        procedure: Procedure,
        arguments: Encoder,
        most: usize,
        read: impl FnOnce(&mut Decoder<'_>) -> std::result::Result<T, Malformed>,
    ) -> Result<(T, Vec<u8>)> {
        let mut client = lock(&self.client);
        if client.has_ended() {
            *client = open(&self.uri, &self.settings)?;
        }
        let arguments = arguments.into_bytes();
        let called = client.call_with_stream(procedure, &arguments, PATIENCE, most, read);
        called.map_err(|error| failure(action, PATIENCE, error))
    }

    /// The host's name.
    pub fn hostname(&self) -> Result<String> {
        let read = xdr::text;
        self.call("asking the host's name", Procedure::ConnectGetHostname, Encoder::default(), read)
    }

    /// Versions of libvirt and of QEMU: major × 1,000,000 + minor × 1,000 + release.
    pub fn versions(&self) -> Result<(u64, u64)> {
        let ask =
            |procedure| self.call("asking versions", procedure, Encoder::default(), xdr::number64);
        Ok((ask(Procedure::ConnectGetLibVersion)?, ask(Procedure::ConnectGetVersion)?))
    }

    /// What the host can run, as libvirt's XML.
    pub fn capabilities_xml(&self) -> Result<String> {
        let procedure = Procedure::ConnectGetCapabilities;
        self.call("asking the host's capabilities", procedure, Encoder::default(), xdr::text)
    }

    /// What machines of a kind can have on this host, as libvirt's XML.
    pub fn domain_capabilities_xml(
        &self,
        emulator: Option<&str>,
        arch: Option<&str>,
        machine: Option<&str>,
        kind: Option<&str>,
    ) -> Result<String> {
        let arguments = Encoder::default()
            .optional_string(emulator)
            .optional_string(arch)
            .optional_string(machine)
            .optional_string(kind)
            .u32(0);
        let procedure = Procedure::ConnectGetDomainCapabilities;
        self.call("asking for the capabilities of machines", procedure, arguments, xdr::text)
    }

    /// How the host's processors compare with those that a `<cpu>` element asks for.
    pub fn compare_cpu(
        &self,
        emulator: Option<&str>,
        arch: Option<&str>,
        machine: Option<&str>,
        kind: Option<&str>,
        cpu_xml: &str,
    ) -> Result<CpuComparison> {
        let arguments = Encoder::default()
            .optional_string(emulator)
            .optional_string(arch)
            .optional_string(machine)
            .optional_string(kind)
            .string(cpu_xml)
            .u32(0);
        let procedure = Procedure::ConnectCompareHypervisorCpu;
        Ok(match self.call("comparing processors", procedure, arguments, xdr::number)? {
            0 => CpuComparison::Lacks,
            1 | 2 => CpuComparison::Suffices,
            _ => CpuComparison::Unknown,
        })
    }

    /// All machines, running or not, by name.
    pub fn domains(&self) -> Result<Vec<Domain>> {
        let arguments = Encoder::default().i32(1).u32(0);
        let read = |answer: &mut Decoder<'_>| answer.list(domain);
        let procedure = Procedure::ConnectListAllDomains;
        let mut domains = self.call("listing machines", procedure, arguments, read)?;
        domains.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(domains)
    }

    /// The machine of this name or UUID.
    pub fn domain(&self, name: &str) -> Result<Domain> {
        let procedure = Procedure::DomainLookupByName;
        let arguments = Encoder::default().string(name);
        match self.call("looking for the machine", procedure, arguments, domain) {
            Err(error) if error.number() == Some(number::NO_DOMAIN) => {}
            other => return other,
        }
        let missing =
            || HypervisorError::NoDomain { uri: self.uri.to_string(), name: name.to_owned() };
        self.domain_by_uuid(name.parse().map_err(|_| missing())?)?.ok_or_else(missing)
    }

    /// The machine of this UUID, if there is one.
    pub fn domain_by_uuid(&self, uuid: Uuid) -> Result<Option<Domain>> {
        let procedure = Procedure::DomainLookupByUuid;
        let arguments = Encoder::default().fixed(&uuid.0);
        match self.call("looking for the machine", procedure, arguments, domain) {
            Err(error) if error.number() == Some(number::NO_DOMAIN) => Ok(None),
            other => other.map(Some),
        }
    }

    /// What a machine is doing.
    pub fn state(&self, of: &Domain) -> Result<State> {
        let arguments = arguments(of).u32(0);
        let procedure = Procedure::DomainGetState;
        let number = self.call("asking the machine's state", procedure, arguments, xdr::number)?;
        Ok(State::from_number(number))
    }

    /// Whether a machine stands still because QEMU could not read or write, as when space has run out.
    pub fn is_halted_by_an_error(&self, of: &Domain) -> Result<bool> {
        const PAUSED: i32 = 3;
        const IO_ERROR: i32 = 5;
        let read = |answer: &mut Decoder<'_>| Ok((answer.i32()?, answer.i32()?));
        let procedure = Procedure::DomainGetState;
        let found =
            self.call("asking the machine's state", procedure, arguments(of).u32(0), read)?;
        Ok(found == (PAUSED, IO_ERROR))
    }

    /// A machine's description. It holds passwords: it must never be shown or logged.
    pub fn domain_xml(&self, of: &Domain, form: Form) -> Result<String> {
        const SECURE: u32 = 1;
        const INACTIVE: u32 = 2;
        let flags = match form {
            Form::Present => SECURE,
            Form::Inactive => SECURE | INACTIVE,
        };
        let arguments = arguments(of).u32(flags);
        let procedure = Procedure::DomainGetXmlDesc;
        self.call("reading the machine's description", procedure, arguments, xdr::text)
    }

    /// Whether the machine stays when it is shut down.
    pub fn is_persistent(&self, of: &Domain) -> Result<bool> {
        let procedure = Procedure::DomainIsPersistent;
        self.call("asking about the machine", procedure, arguments(of), flag)
    }

    /// Whether it starts with the host.
    pub fn autostart(&self, of: &Domain) -> Result<bool> {
        let procedure = Procedure::DomainGetAutostart;
        self.call("asking about the machine", procedure, arguments(of), flag)
    }

    /// Whether it starts with the host from now on.
    pub fn set_autostart(&self, of: &Domain, autostart: bool) -> Result<()> {
        let arguments = arguments(of).i32(i32::from(autostart));
        let procedure = Procedure::DomainSetAutostart;
        self.call("setting autostart", procedure, arguments, |_| Ok(()))
    }

    /// Whether libvirt has saved its memory to continue from.
    pub fn has_saved_memory(&self, of: &Domain) -> Result<bool> {
        let procedure = Procedure::DomainHasManagedSaveImage;
        self.call("asking about the machine", procedure, arguments(of).u32(0), flag)
    }

    /// Makes a machine known, or changes its description.
    pub fn define(&self, xml: &str) -> Result<Domain> {
        let arguments = Encoder::default().string(xml).u32(0);
        let procedure = Procedure::DomainDefineXmlFlags;
        self.call("defining the machine", procedure, arguments, domain)
    }

    /// Forgets a machine, with the variables of its firmware, the state of its TPM and what is known of its
    /// snapshots and checkpoints. It must be off. Its disks stay.
    pub fn undefine(&self, of: &Domain) -> Result<()> {
        const MANAGED_SAVE: u32 = 1;
        const SNAPSHOTS: u32 = 2;
        const NVRAM: u32 = 4;
        const CHECKPOINTS: u32 = 16;
        let arguments = arguments(of).u32(MANAGED_SAVE | SNAPSHOTS | NVRAM | CHECKPOINTS);
        let procedure = Procedure::DomainUndefineFlags;
        self.call("removing the machine", procedure, arguments, |_| Ok(()))
    }

    /// Starts a machine, with its processors standing still if asked.
    pub fn start(&self, of: &Domain, paused: bool) -> Result<Domain> {
        let arguments = arguments(of).u32(u32::from(paused));
        let procedure = Procedure::DomainCreateWithFlags;
        // Starting a large machine takes libvirt a while.
        let patience = Duration::from_mins(5);
        self.call_within(patience, "starting the machine", procedure, arguments, domain)
    }

    /// Asks the guest to shut down.
    pub fn shutdown(&self, of: &Domain) -> Result<()> {
        let procedure = Procedure::DomainShutdown;
        self.call("shutting the machine down", procedure, arguments(of), |_| Ok(()))
    }

    /// Switches a machine off, as by pulling its plug.
    pub fn power_off(&self, of: &Domain) -> Result<()> {
        let procedure = Procedure::DomainDestroyFlags;
        self.call("switching the machine off", procedure, arguments(of).u32(0), |_| Ok(()))
    }

    /// Resumes a paused machine.
    pub fn resume(&self, of: &Domain) -> Result<()> {
        let procedure = Procedure::DomainResume;
        self.call("resuming the machine", procedure, arguments(of), |_| Ok(()))
    }

    /// Holds a machine's processors.
    pub fn pause(&self, of: &Domain) -> Result<()> {
        let procedure = Procedure::DomainSuspend;
        self.call("pausing the machine", procedure, arguments(of), |_| Ok(()))
    }

    /// Names of the snapshots that libvirt knows of.
    pub fn snapshots(&self, of: &Domain) -> Result<Vec<String>> {
        let arguments = arguments(of).i32(1).u32(0);
        let read = |answer: &mut Decoder<'_>| {
            answer.list(|item| {
                let name = item.string()?;
                domain(item)?;
                Ok(name)
            })
        };
        self.call("listing snapshots", Procedure::DomainListAllSnapshots, arguments, read)
    }

    /// A snapshot's description.
    pub fn snapshot_xml(&self, of: &Domain, snapshot: &str) -> Result<String> {
        let arguments = named(snapshot, of).u32(0);
        let procedure = Procedure::DomainSnapshotGetXmlDesc;
        self.call("reading a snapshot's description", procedure, arguments, xdr::text)
    }
}

/// How a host's processors compare with what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuComparison {
    /// They lack something.
    Lacks,
    /// They have it all.
    Suffices,
    /// libvirt cannot tell.
    Unknown,
}

fn flag(answer: &mut Decoder<'_>) -> std::result::Result<bool, Malformed> {
    Ok(answer.i32()? != 0)
}

/// Reads a machine.
pub(crate) fn domain(answer: &mut Decoder<'_>) -> std::result::Result<Domain, Malformed> {
    let (name, uuid, run) = (answer.string()?, Uuid(answer.fixed()?), answer.i32()?);
    Ok(Domain { name, uuid, run: (run >= 0).then_some(run) })
}

/// Reads what a daemon says of its machines; for fuzzing.
pub(crate) fn read_domains(bytes: &[u8]) -> Option<Vec<Domain>> {
    Decoder::new(bytes).list(domain).ok()
}

/// The first argument of calls on a machine.
pub(crate) fn arguments(of: &Domain) -> Encoder {
    append(Encoder::default(), of)
}

/// A checkpoint's or snapshot's name and its machine.
pub(crate) fn named(name: &str, of: &Domain) -> Encoder {
    append(Encoder::default().string(name), of)
}

fn append(encoder: Encoder, of: &Domain) -> Encoder {
    encoder.string(&of.name).fixed(&of.uuid.0).i32(of.run.unwrap_or(-1))
}

/// Makes a call.
fn call<T>(
    client: &mut Client,
    timeout: Duration,
    action: &'static str,
    procedure: Procedure,
    arguments: Encoder,
    read: impl FnOnce(&mut Decoder<'_>) -> std::result::Result<T, Malformed>,
) -> Result<T> {
    let started = client.clock().monotonic();
    let result = client.call(procedure, &arguments.into_bytes(), timeout, read);
    let took = client.clock().monotonic().saturating_sub(started);
    tracing::debug!(?procedure, ?took, ok = result.is_ok(), "libvirt");
    result.map_err(|error| failure(action, timeout, error))
}

fn failure(action: &'static str, timeout: Duration, error: CallError) -> HypervisorError {
    match error {
        CallError::Remote(error) => {
            HypervisorError::Libvirt { action, number: error.number, message: error.message }
        }
        CallError::Timeout => HypervisorError::Timeout { action, seconds: timeout.as_secs() },
        CallError::Lost(source) => HypervisorError::Lost { action, source },
        CallError::Malformed => HypervisorError::Protocol {
            action,
            reason: "it is shorter than it should be".to_owned(),
        },
    }
}

/// Connects, and says who we are, where that needs no conversation.
fn open(uri: &ConnectUri, settings: &Settings) -> Result<Client> {
    const NONE: i32 = 0;
    const POLKIT: i32 = 2;
    let mut client = connect(uri, settings)?;
    let client_of = &mut client;
    let none = Encoder::default;
    let read = |answer: &mut Decoder<'_>| answer.list(xdr::number);
    let kinds = call(client_of, PATIENCE, "connecting", Procedure::AuthList, none(), read)?;
    if !kinds.is_empty() && !kinds.contains(&NONE) {
        if !kinds.contains(&POLKIT) {
            return Err(HypervisorError::Refused {
                uri: uri.to_string(),
                reason: "it wants SASL, which Strongroom does not speak".to_owned(),
            });
        }
        let polkit = Procedure::AuthPolkit;
        call(client_of, PATIENCE, "asking polkit", polkit, none(), |_| Ok(()))?;
    }
    let arguments = none().optional_string(Some(uri.driver())).u32(0);
    call(client_of, PATIENCE, "connecting", Procedure::ConnectOpen, arguments, |_| Ok(()))?;
    Ok(client)
}

fn connect(uri: &ConnectUri, settings: &Settings) -> Result<Client> {
    let failed = |source| HypervisorError::Connect { uri: uri.to_string(), source };
    let transport = match &uri.route {
        Route::Ssh { user, host, port, socket } => {
            let command = remote_command(uri, socket.as_deref());
            Transport::through("ssh", &ssh_arguments(user.as_deref(), host, *port, command))
        }
        Route::Local { socket: Some(socket) } => Transport::unix(socket),
        Route::Local { socket: None } => local(uri.scope, settings),
    };
    let transport = transport.map_err(failed)?;
    if settings.trusted_daemons_only && uri.is_local() {
        let user = transport.peer().map_err(failed)?;
        if user != 0 && user != rustix::process::geteuid().as_raw() {
            let reason = format!("its daemon is run by the user {user}, not by root or by us");
            return Err(HypervisorError::Refused { uri: uri.to_string(), reason });
        }
    }
    Ok(Client::new(transport, Arc::clone(&settings.clock)))
}

/// Connects to a daemon of this host: the one for everything, or QEMU's own, where each driver has
/// its daemon.
fn local(scope: Scope, settings: &Settings) -> io::Result<Transport> {
    let system = Path::new("/run/libvirt");
    let session = settings.runtime_dir.as_ref().or(settings.cache_dir.as_ref());
    let session = match (scope, session) {
        (Scope::System, _) => return first(system),
        (Scope::Session, Some(folder)) => folder.join("libvirt"),
        (Scope::Session, None) => return Err(io::Error::other("XDG_RUNTIME_DIR is not set")),
    };
    match first(&session) {
        // To root, libvirt starts no daemon but the host's.
        Err(error) if is_absent(&error) && settings.is_root => first(system),
        Err(error) if is_absent(&error) => {
            start_daemon();
            first(&session)
        }
        other => other,
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn first(folder: &Path) -> io::Result<Transport> {
    match Transport::unix(&folder.join("libvirt-sock")) {
        Err(error) if is_absent(&error) => {
            Transport::unix(&folder.join("virtqemud-sock")).map_err(|_| error)
        }
        other => other,
    }
}

/// Starts a user's own daemon; it ends by itself when nobody uses it.
fn start_daemon() {
    for name in ["libvirtd", "virtqemud"] {
        let status = Command::new(find_program(name))
            .args(["--timeout=120", "--daemon"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        // With --daemon it returns when it listens.
        if status.is_ok_and(|status| status.success()) {
            return;
        }
    }
}

/// What connects us to the daemon over there: libvirt's helper, or netcat on the socket, as
/// libvirt's own client does.
fn remote_command(uri: &ConnectUri, socket: Option<&str>) -> String {
    if let Some(socket) = socket {
        return format!("exec nc -U '{socket}'");
    }
    let driver = uri.driver();
    let socket = match uri.scope {
        Scope::System => "/run/libvirt/libvirt-sock",
        Scope::Session => "${XDG_RUNTIME_DIR:-$HOME/.cache}/libvirt/libvirt-sock",
    };
    format!(
        "if command -v virt-ssh-helper >/dev/null 2>&1; then exec virt-ssh-helper {driver}; \
         else exec nc -U \"{socket}\"; fi"
    )
}

fn ssh_arguments(
    user: Option<&str>,
    host: &str,
    port: Option<u16>,
    command: String,
) -> Vec<String> {
    let mut arguments = vec!["-T".to_owned(), "-e".to_owned(), "none".to_owned()];
    if let Some(port) = port {
        arguments.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(user) = user {
        arguments.extend(["-l".to_owned(), user.to_owned()]);
    }
    arguments.extend(["--".to_owned(), host.to_owned(), command]);
    arguments
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Read as _,
        os::unix::{fs::PermissionsExt as _, net::UnixListener, process::CommandExt as _},
    };

    use strongroom_base::SystemClock;

    use super::*;

    /// Where the test listens as another user, in a process of its own.
    const SOCKET: &str = "STRONGROOM_TEST_SOCKET";

    #[test]
    fn a_daemon_of_another_user_is_refused() {
        if let Some(path) = std::env::var_os(SOCKET) {
            let _listener = UnixListener::bind(path).expect("listens");
            io::stdin().read_to_end(&mut Vec::new()).expect("waits");
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (own, other) = (folder.path().join("own"), folder.path().join("other"));
        let open = |path: &Path, trusted_daemons_only| {
            let uri = format!("qemu+unix:///session?socket={}", path.display());
            let clock = Arc::new(SystemClock);
            let settings = Settings { trusted_daemons_only, ..Settings::new(clock) };
            connect(&uri.parse().expect("a URI"), &settings).map(drop)
        };
        let _listener = UnixListener::bind(&own).expect("listens");
        open(&own, true).expect("it is ours");
        // Only root can be somebody else.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("opens");
        let test = "connection::tests::a_daemon_of_another_user_is_refused";
        let mut daemon = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", test, "--nocapture"])
            .env(SOCKET, &other)
            .uid(65_534)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        for _ in 0..200 {
            if other.exists() {
                break;
            }
            SystemClock.sleep(Duration::from_millis(50));
        }
        let refused = open(&other, true).expect_err("it is refused");
        assert!(matches!(refused, HypervisorError::Refused { .. }), "{refused}");
        assert!(refused.to_string().contains("65534"), "{refused}");
        open(&other, false).expect("who says nothing of it trusts it");
        drop(daemon.stdin.take());
        assert!(daemon.wait().expect("ends").success());
    }

    #[test]
    fn uuids() {
        let text = "0a1b2c3d-0001-4fff-8000-00000000000f";
        let uuid: Uuid = text.parse().expect("a UUID");
        assert_eq!(uuid.to_string(), text);
        for bad in ["", "x", &text[1..], &text.replace('a', "g"), &format!("{text}0")] {
            assert_eq!(bad.parse::<Uuid>(), Err(NotAUuid), "{bad}");
        }
    }
}
