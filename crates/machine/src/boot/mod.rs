//! A machine that is started from a recovery point only to see whether it boots.
//!
//! ```text
//!  recovery point ─▶ export (NBD) ◀─ overlays, which are thrown away ◀─ the machine: no network, no devices of the host
//!                       │ which blocks are read                            │ console, agent, screen
//!                       └───────────────▶ ladder: how far did it come? ◀───┘
//! ```
//!
//! The machine is transient and belongs to our connection: libvirt switches it off and forgets it when we end, however that
//! happens. What it writes goes to overlays of limited size, which go with it. It is never known by the name or the identity of
//! the original.
//!
//! Owns what is started, how it is watched, and when the watching ends. What is concluded from what is seen is
//! [`ladder`]'s. Must not know where results are kept, or what follows from them.

mod console;
mod damage;
mod ladder;
mod look;
mod picture;
mod place;
mod questions;
mod together;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use strongroom_base::{BLOCK_SIZE_U64, Cancel, Consistency, JobId, PointId, Stage, words};
use strongroom_engine::Progress;
use strongroom_export::{
    BlockCache, DEFAULT_CACHE, Export, PointDisk, Shown, Trace, TraceRecorder,
};
use strongroom_files::ReaderCommand;
use strongroom_format::Manifest;
use strongroom_hypervisor::{
    Changes, Connection, Device, DiskChange, Domain, Isolation, Machine, Screenshot, State,
    TpmBackend, Uuid,
    agent::{self, GuestAgent},
};
use strongroom_reports::{BootDamage, BootReport, BootSummary, BootVerdict, ExpectedBy, Rung};
use strongroom_vault::Vault;

pub use self::together::Together;
use self::{
    console::Console,
    damage::Damages,
    ladder::{Ladder, Seen},
    place::Place,
    together::OnItsWay,
};
use crate::{
    Boot, Configuration, MachineError, Places,
    error::Result,
    restore::{
        Watch, check_host, check_local, configuration, create_image, open_to_swtpm, unchosen,
        write_tpm,
    },
    served::Served,
};

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);
/// How long reads are recorded.
const TRACE: Duration = Duration::from_mins(10);
/// How long an agent may take to say that it is there.
const PING: Duration = Duration::from_secs(2);
/// How long a machine that is stuck may still write why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long before its end, in seconds, a verification gives up on services, so that it can say which are missing.
const LAST_ANSWER: f64 = 2.0;
/// The least room that overlays need.
const FREE: u64 = 8 << 20;
/// How many earlier verifications count.
const HISTORY: usize = 10;

/// A boot verification.
#[derive(Clone, Debug)]
pub struct BootRequest {
    /// How far the machine has to come; if not given, as far as its history says.
    pub expect: Option<Rung>,
    /// How long it is watched at most.
    pub timeout: Duration,
    /// How long nothing may happen: no block read, none written, nothing on the console.
    pub idle: Duration,
    /// Another amount of memory, bytes.
    pub memory: Option<u64>,
    /// Another number of processors.
    pub processors: Option<u32>,
    /// A closed network of libvirt that its interfaces are on; none if not given.
    pub network: Option<String>,
    /// Services that have to run.
    pub services: Vec<String>,
    /// TCP ports at which somebody has to listen.
    pub ports: Vec<u16>,
    /// A program in the guest that has to end with success.
    pub script: Option<String>,
    /// Read every block first.
    pub read_all: bool,
    /// Where what the machine writes goes.
    pub folder: PathBuf,
    /// The most bytes of that.
    pub writes_max: u64,
    /// How the process that reads file systems is started; they are not looked at if not given.
    pub reader: Option<ReaderCommand>,
    /// The group of machines that it stays with.
    pub together: Option<Together>,
    /// The job of the service that asks for it.
    pub job: Option<JobId>,
    /// Where things are.
    pub places: Places,
}

impl BootRequest {
    /// How far the machine has to come for what is asked of it.
    fn asked(&self) -> Option<Rung> {
        let highest = if self.script.is_some() {
            Some(Rung::Script)
        } else if !self.services.is_empty() || !self.ports.is_empty() {
            Some(Rung::Services)
        } else {
            None
        };
        self.expect.max(highest)
    }
}

/// Starts a machine from a recovery point and sees how far it comes. What its earlier points reached is in `history`.
pub fn verify(
    vault: &Arc<Vault>,
    connection: &Connection,
    point: &Manifest,
    history: &[BootSummary],
    request: &BootRequest,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Boot> {
    let on_its_way = request.together.as_ref().map(Together::on_its_way);
    check_local(connection)?;
    let clock = connection.clock();
    let (began, begun) = (clock.monotonic(), clock.now());
    progress.set_stage(Stage::Preparing);
    let configuration = configuration(vault, point)?;
    let old = Machine::parse(&configuration.inactive)?;
    let (expected, expected_by) =
        expectation(point.id, point.consistency, history, request.asked());
    place::clean(connection, &request.folder, &request.places)?;
    check_free(&old.name, &request.folder)?;
    let (mut ladder, damages) = (Ladder::default(), Damages::new());
    look_first(vault, point, request, &mut ladder, &damages, progress, cancel)?;
    progress.set_stage(Stage::Starting);
    damages.at(Rung::PowerOn);
    let (configuration, old) = (&configuration, &old);
    let set = Set { vault, connection, point, configuration, old, request, damages: &damages };
    let started = set.start()?;
    let start_seconds = clock.monotonic().saturating_sub(began).as_secs_f64();
    let until = match expected_by {
        ExpectedBy::Default => set.further(expected),
        _ => expected,
    };
    let goal = Goal { expected, until };
    let watched = started.watch(&mut ladder, goal, on_its_way, progress, cancel)?;
    let damage = damages.first();
    let reason = match &damage {
        // Whatever it has reached without that.
        Some(BootDamage { step, disk, reason, .. }) => {
            let reason = format!("disk {disk} of the recovery point is damaged: {reason}");
            ladder.miss(*step, reason.clone());
            Some(format!("{step}: {reason}"))
        }
        None => watched.verdict(&ladder, expected),
    };
    let report = BootReport {
        recovery_point: point.id,
        item: point.item.clone(),
        machine: old.name.clone(),
        host: connection.hostname()?,
        job: request.job,
        begun,
        verdict: if reason.is_none() { BootVerdict::Passed } else { BootVerdict::Failed },
        expected,
        expected_by,
        reached: ladder.highest(),
        start_seconds,
        rungs: ladder.report(expected, &watched.ended),
        reason,
        damage,
        picture: watched
            .screenshot
            .as_ref()
            .and_then(|picture| picture::compare(picture, point.id, history)),
        screenshot: watched.screenshot.as_ref().map(|picture| picture.kind.clone()),
        console_bytes: watched.console_bytes,
        read_bytes: watched.trace.blocks().saturating_mul(BLOCK_SIZE_U64),
        written_bytes: watched.written,
        notes: watched.notes,
        seconds: clock.monotonic().saturating_sub(began).as_secs_f64(),
    };
    let Watched { screenshot, console, trace, .. } = watched;
    let trace = (trace.blocks() > 0).then_some(trace);
    Ok(Boot { report, screenshot, console, trace })
}

/// An overlay that cannot grow stops the machine, which says nothing of its recovery point.
fn check_free(machine: &str, folder: &Path) -> Result<()> {
    let file_system = rustix::fs::statvfs(folder).map_err(|error| MachineError::Local {
        action: "look at",
        path: folder.display().to_string(),
        source: error.into(),
    })?;
    let free = file_system.f_bavail.saturating_mul(file_system.f_frsize);
    if free >= FREE {
        return Ok(());
    }
    let (machine, folder) = (machine.to_owned(), folder.display().to_string());
    Err(MachineError::NoRoom { machine, folder, needed: FREE, free })
}

/// How far the machine has to come, and why.
fn expectation(
    point: PointId,
    consistency: Consistency,
    history: &[BootSummary],
    asked: Option<Rung>,
) -> (Rung, ExpectedBy) {
    if let Some(rung) = asked {
        return (rung, ExpectedBy::Request);
    }
    let passed = history.iter().filter(|boot| boot.verdict == BootVerdict::Passed).rev();
    let of_others = passed.filter(|boot| boot.recovery_point != point).take(HISTORY);
    // What only a request brings about is no habit.
    let habits = of_others.filter_map(|boot| boot.reached).map(|rung| rung.min(Rung::Agent));
    let least = match consistency {
        // Its agent froze it.
        Consistency::Application | Consistency::FileSystem => (Rung::Agent, ExpectedBy::Agent),
        Consistency::Crash | Consistency::Unknown => (Rung::Kernel, ExpectedBy::Default),
    };
    // A verification of which little was asked makes nobody content with little.
    match habits.max() {
        Some(rung) if rung >= least.0 => (rung, ExpectedBy::History),
        _ => least,
    }
}

fn look_first(
    vault: &Arc<Vault>,
    point: &Manifest,
    request: &BootRequest,
    ladder: &mut Ladder,
    damages: &Damages,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<()> {
    if request.read_all {
        look::digests(vault, point, ladder, damages, progress, cancel)?;
    } else {
        let reason = "not asked for; what the machine reads is checked";
        ladder.skip(Rung::Digests, reason);
    }
    progress.set_stage(Stage::Checking);
    damages.at(Rung::FileSystems);
    match &request.reader {
        Some(reader) => look::file_systems(vault, point, reader, ladder, damages),
        None => ladder.skip(Rung::FileSystems, "not asked for"),
    }
    Ok(())
}

/// What a machine is started from.
struct Set<'a> {
    vault: &'a Arc<Vault>,
    connection: &'a Connection,
    point: &'a Manifest,
    configuration: &'a Configuration,
    old: &'a Machine,
    request: &'a BootRequest,
    damages: &'a Arc<Damages>,
}

/// A machine that runs, and all that goes with it.
struct Started<'a> {
    set: &'a Set<'a>,
    /// The machine belongs to it.
    own: Connection,
    domain: Domain,
    served: Served,
    place: Place,
    recorder: Arc<TraceRecorder>,
    disks: Vec<String>,
    console: Option<Console>,
    /// Bytes of its overlays before it has written anything.
    empty: u64,
    has_kernel_of_host: bool,
    notes: Vec<String>,
}

/// How far a machine has to come, and until when it is watched.
#[derive(Clone, Copy)]
struct Goal {
    expected: Rung,
    until: Rung,
}

/// What was seen of a machine.
struct Watched {
    /// Why nobody looks any longer.
    ended: String,
    /// Whether that is because it cannot come further.
    is_stuck: bool,
    screenshot: Option<Screenshot>,
    console: Vec<u8>,
    console_bytes: u64,
    trace: Trace,
    written: u64,
    notes: Vec<String>,
}

impl Watched {
    /// Why the verification failed, if it did.
    fn verdict(&self, ladder: &Ladder, expected: Rung) -> Option<String> {
        if let Some((rung, reason)) = ladder.first_missed(expected) {
            return Some(format!("{rung}: {reason}"));
        }
        if !ladder.has(expected) {
            let highest = ladder.highest().map_or("nothing", Rung::name);
            return Some(format!("it reached {highest}, not {expected}: {}", self.ended));
        }
        self.is_stuck.then(|| self.ended.clone())
    }
}

impl Set<'_> {
    fn unsupported(&self, reason: String) -> MachineError {
        MachineError::Unsupported { machine: self.old.name.clone(), reason }
    }

    /// What cannot be verified like this is said before anything is made.
    fn check(&self) -> Result<()> {
        for record in &self.point.disks {
            let is_ciphertext =
                self.configuration.disk(&record.name).is_some_and(|disk| disk.ciphertext.is_some());
            if is_ciphertext {
                return Err(self.unsupported(format!(
                    "the recovery point has disk {} as the encrypted image that it was, which cannot be started without \
                     a restore",
                    record.name
                )));
            }
        }
        let Some(network) = &self.request.network else { return Ok(()) };
        let reason = match self.connection.is_closed_network(network)? {
            Some(true) => return Ok(()),
            Some(false) => format!(
                "network {network} leads out of this host, and the machine would meet its original: give a network \
                 without <forward>"
            ),
            None => format!("there is no network {network}"),
        };
        Err(MachineError::HostLacks {
            host: self.connection.hostname().unwrap_or_else(|_| "the host".to_owned()),
            machine: self.old.name.clone(),
            reason,
        })
    }

    /// How far a machine is watched of which nothing is known: further than it must come.
    fn further(&self, expected: Rung) -> Rung {
        expected.max(if self.old.agent.is_some() { Rung::Agent } else { Rung::Login })
    }

    /// A host that runs out of memory ends the machines that people use.
    fn check_memory(&self, machine: &Machine) -> Result<()> {
        let needed = machine.memory_kib.saturating_mul(1024);
        match fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(available) {
            Some(free) if free < needed => Err(MachineError::HostLacks {
                host: self.connection.hostname().unwrap_or_else(|_| "the host".to_owned()),
                machine: self.old.name.clone(),
                reason: format!(
                    "it has {} of memory to spare, and the machine needs {}: give it less with --memory",
                    words::bytes(free),
                    words::bytes(needed)
                ),
            }),
            _ => Ok(()),
        }
    }

    fn start(&self) -> Result<Started<'_>> {
        self.check()?;
        let entropy = &**self.vault.entropy();
        let uuid = Uuid::random(entropy);
        let (connection, request) = (self.connection, self.request);
        let place = Place::make(connection, &request.folder, &request.places, uuid)?;
        let recorder = TraceRecorder::new(Arc::clone(&connection.settings().clock), TRACE);
        let cache = BlockCache::new(DEFAULT_CACHE);
        let (mut exports, mut disks) = (Vec::new(), Vec::new());
        for record in &self.point.disks {
            if self.old.disk(&record.name).is_none() {
                continue;
            }
            let disk = PointDisk::cached(self.vault, record, &cache).map_err(|error| {
                let point = self.point.id.to_string();
                MachineError::Configuration { point, reason: error.to_string() }
            })?;
            let disk = self.damages.watch(&record.name, Arc::new(disk));
            let disk = recorder.watch(&record.name, disk);
            exports.push(Export { name: record.name.clone(), disk: Arc::new(Shown::new(disk)) });
            disks.push(record.name.clone());
        }
        let served = Served::start(connection, place.run.clone(), exports, entropy)?;
        let mut notes = Vec::new();
        let xml = self.describe(uuid, &place, &served, &mut notes)?;
        let machine = Machine::parse(&xml)?;
        self.check_memory(&machine)?;
        notes.extend(check_host(connection, &machine, &[], &[])?);
        self.files(&place, &served)?;
        let empty = written(&place, &disks);
        let own = connection.again()?;
        let domain = own.start_transient(&xml)?;
        let console = Console::open(&place.console());
        if let Err(error) = &console {
            tracing::debug!(%error, "it has no console");
            notes
                .push("it has no serial console, so nothing is known of what it writes".to_owned());
        }
        Ok(Started {
            set: self,
            own,
            domain,
            served,
            place,
            recorder,
            disks,
            console: console.ok(),
            empty,
            has_kernel_of_host: machine.direct_boot.is_some(),
            notes,
        })
    }

    /// The machine as it is started: other names, disks that are overlays, and nothing of the host.
    fn describe(
        &self,
        uuid: Uuid,
        place: &Place,
        served: &Served,
        notes: &mut Vec<String>,
    ) -> Result<String> {
        let mut left_behind = Vec::new();
        let names: Vec<&str> = self.point.disks.iter().map(|disk| disk.name.as_str()).collect();
        let mut disks = unchosen(self.old, self.point, &names, &mut left_behind);
        notes.extend(left_behind.iter().map(|disk| format!("disk {}: {}", disk.name, disk.reason)));
        // Media of drives, and disks that are only read, are the host's.
        for disk in &self.old.disks {
            if !names.contains(&disk.target.as_str()) {
                let is_drive = matches!(disk.device, Device::Cdrom | Device::Floppy);
                let change = if is_drive { DiskChange::Eject } else { DiskChange::Remove };
                disks.entry(disk.target.clone()).or_insert(change);
            }
        }
        for name in names.iter().filter(|name| self.old.disk(name).is_some()) {
            let change = DiskChange::Overlay {
                path: place.overlay(name).display().to_string(),
                socket: served.socket().display().to_string(),
                export: (*name).to_owned(),
            };
            disks.insert((*name).to_owned(), change);
        }
        let has_nvram = self.old.firmware.nvram.is_some() || self.configuration.nvram.is_some();
        let changes = Changes {
            name: Some(format!("strongroom-boot-{uuid}")),
            title: Some(format!("Boot verification of {}", self.point.item)),
            uuid: Some(uuid),
            new_generation: true,
            disks,
            nvram: has_nvram.then(|| place.nvram().display().to_string()),
            forget_run: true,
            ..Changes::default()
        };
        let entropy = &**self.vault.entropy();
        let xml = Machine::rewrite(&self.configuration.inactive, &changes, entropy)?;
        let now = self.connection.clock().now();
        let isolation = Isolation {
            console: Some(place.console().display().to_string()),
            network: self.request.network.clone(),
            clock: Some(self.point.time.as_second().saturating_sub(now.as_second())),
            memory: self.request.memory,
            processors: self.request.processors,
        };
        Ok(Machine::isolate(&xml, &isolation)?)
    }

    /// Overlays, the firmware's variables and the state of the TPM.
    fn files(&self, place: &Place, served: &Served) -> Result<()> {
        for record in &self.point.disks {
            if self.old.disk(&record.name).is_some() {
                let url = served.url(&record.name);
                let options = ["cluster_size=65536".to_owned()];
                let under = Some((Path::new(&url), "raw"));
                create_image(&place.overlay(&record.name), record.size_bytes, &options, under)?;
            }
        }
        if let Some(content) = &self.configuration.nvram {
            let path = place.nvram();
            let written = fs::write(&path, content);
            written.map_err(|source| MachineError::Local {
                action: "write",
                path: path.display().to_string(),
                source,
            })?;
        }
        let is_emulated = self
            .old
            .tpm
            .as_ref()
            .is_some_and(|tpm| matches!(tpm.backend, TpmBackend::Emulator { state: None, .. }));
        if is_emulated && !self.configuration.tpm.is_empty() {
            write_tpm(&place.tpm, &self.configuration.tpm)?;
            open_to_swtpm(&place.tpm)?;
        }
        Ok(())
    }
}

/// Bytes that the overlays take.
fn written(place: &Place, disks: &[String]) -> u64 {
    let files = disks.iter().filter_map(|disk| fs::metadata(place.overlay(disk)).ok());
    files.map(|file| file.blocks().saturating_mul(512)).sum()
}

/// Bytes of memory that Linux can give to programs, from its `/proc/meminfo`.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

impl Started<'_> {
    /// Lets it run, and looks at it until it has come as far as it was expected to, or comes no further.
    fn watch(
        mut self,
        ladder: &mut Ladder,
        goal: Goal,
        on_its_way: Option<OnItsWay>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Watched> {
        let watch = Watch::start(&self.own, &self.domain)?;
        progress.set_stage(Stage::Booting);
        let resumed = self.own.resume(&self.domain).map_err(MachineError::from);
        let ended = resumed.and_then(|()| self.look_on(ladder, goal, cancel));
        let screenshot = self.screenshot();
        drop(on_its_way);
        let stayed = self.stay(ended.is_ok(), cancel);
        watch.stop();
        let written = written(&self.place, &self.disks).saturating_sub(self.empty);
        // It may be off already, or libvirt may be gone, which switches it off as well.
        if let Err(error) = self.own.power_off(&self.domain) {
            tracing::debug!(%error, "not switched off");
        }
        let Self { console, served, notes, recorder, .. } = self;
        served.stop();
        let console_bytes = console.as_ref().map_or(0, Console::total);
        let console = console.map_or_else(Vec::new, |console| console.bytes());
        let trace = recorder.trace();
        let (ended, is_stuck) = ended?;
        stayed?;
        Ok(Watched { ended, is_stuck, screenshot, console, console_bytes, trace, written, notes })
    }

    /// Why the looking ended, and whether that is because the machine comes no further.
    fn look_on(
        &self,
        ladder: &mut Ladder,
        Goal { expected, until }: Goal,
        cancel: &Cancel,
    ) -> Result<(String, bool)> {
        let request = self.set.request;
        let clock = self.own.clock();
        let began = clock.monotonic();
        let (mut last, mut moved) = (Seen::default(), began);
        loop {
            if cancel.is_cancelled() {
                return Err(MachineError::Interrupted);
            }
            let state = self.state()?;
            let seen = self.seen(state, last.agent);
            let now = clock.monotonic();
            let since = now.saturating_sub(began);
            ladder.look(&seen, since.as_secs_f64());
            self.set.damages.at(ladder.next());
            if ladder.has(Rung::Agent) && self.ask(ladder, began) {
                return Ok(("it came as far as was asked".to_owned(), false));
            }
            if ladder.has(until) {
                return Ok((format!("it reached {until}"), false));
            }
            let has_reached = ladder.has(expected);
            if let Some(why) = ladder::stuck(&seen.console).filter(|_| !ladder.has(Rung::Agent)) {
                clock.sleep(LAST_WORDS);
                return Ok((why, true));
            }
            if state == State::Paused && self.own.is_halted_by_an_error(&self.domain)? {
                check_free(&self.set.old.name, &request.folder)?;
            }
            let off = match state {
                State::Off => Some("it is off: its guest switched it off, or QEMU ended"),
                State::Crashed => Some("its guest crashed"),
                _ => None,
            };
            if let Some(why) = off {
                return Ok((why.to_owned(), true));
            }
            if seen.written > request.writes_max {
                let most = words::bytes(request.writes_max);
                return Ok((format!("it wrote more than {most}"), !has_reached));
            }
            if seen != last {
                (last, moved) = (seen, now);
            }
            if now.saturating_sub(moved) >= request.idle {
                let seconds = request.idle.as_secs();
                let why = format!("nothing happened for {seconds} s: {}", self.what_lacks(ladder));
                return Ok((why, false));
            }
            if since >= request.timeout {
                let seconds = request.timeout.as_secs();
                let why = format!("its {seconds} s were over: {}", self.what_lacks(ladder));
                return Ok((why, false));
            }
            clock.sleep(LOOK);
        }
    }

    /// What shows how far a machine is that does nothing.
    fn what_lacks(&self, ladder: &Ladder) -> &'static str {
        match ladder.highest() {
            None => "QEMU does not run it",
            Some(Rung::PowerOn) => "the firmware found nothing to start on its disks",
            Some(Rung::Firmware) => "neither its console nor its disks show a kernel",
            Some(Rung::Kernel | Rung::Login) if self.set.old.agent.is_none() => {
                "it has no channel for a guest agent"
            }
            Some(Rung::Kernel | Rung::Login) => "the guest agent did not answer",
            Some(_) => "what was asked for did not come",
        }
    }

    fn state(&self) -> Result<State> {
        match self.own.state(&self.domain) {
            // It is transient: when it is off, libvirt knows nothing of it.
            Err(error) if error.is_missing() => Ok(State::Off),
            other => Ok(other?),
        }
    }

    fn seen(&self, state: State, has_answered: bool) -> Seen {
        let console = self.console.as_ref().map(Console::bytes).unwrap_or_default();
        let agent = GuestAgent::new(&self.own, &self.domain);
        let asks = self.set.old.agent.is_some() && state == State::Running;
        Seen {
            ran: state == State::Running || state == State::Crashed,
            has_kernel_of_host: self.has_kernel_of_host,
            disks: u64::try_from(self.disks.len()).unwrap_or(u64::MAX),
            read_blocks: self.recorder.trace().blocks(),
            written: written(&self.place, &self.disks).saturating_sub(self.empty),
            console: ladder::plain(&console),
            agent: has_answered || asks && agent::ping(&agent, PING).is_ok(),
        }
    }

    /// Asks for services, ports and the script. Whether all has been answered; services are given time to start.
    fn ask(&self, ladder: &mut Ladder, began: Duration) -> bool {
        let request = self.set.request;
        let agent = GuestAgent::new(&self.own, &self.domain);
        let seconds = || self.own.clock().monotonic().saturating_sub(began).as_secs_f64();
        let has_services = !request.services.is_empty() || !request.ports.is_empty();
        if has_services && !ladder.has(Rung::Services) {
            let services = request.services.iter().map(|name| questions::service(&agent, name));
            let ports = request.ports.iter().map(|port| questions::port(&agent, *port));
            match services.chain(ports).collect::<std::result::Result<Vec<()>, String>>() {
                Ok(all) => {
                    let reason = format!("all {} that were asked for are there", all.len());
                    ladder.reach(Rung::Services, Some(seconds()), reason);
                }
                Err(reason) if seconds() < request.timeout.as_secs_f64() - LAST_ANSWER => {
                    tracing::debug!(reason, "not yet");
                    return false;
                }
                Err(reason) => {
                    ladder.miss(Rung::Services, reason);
                    return true;
                }
            }
        }
        if !has_services {
            ladder.skip(Rung::Services, "none was asked for");
        }
        let Some(script) = &request.script else { return has_services };
        match questions::script(&agent, script, request.timeout) {
            Ok(()) => {
                let reason = format!("{script} ended with 0");
                ladder.reach(Rung::Script, Some(seconds()), reason);
            }
            Err(reason) => ladder.miss(Rung::Script, reason),
        }
        true
    }

    /// Runs on until the others of its group need it no more.
    fn stay(&self, is_well: bool, cancel: &Cancel) -> Result<()> {
        let Some(group) = &self.set.request.together else { return Ok(()) };
        while is_well && !group.is_complete() {
            if cancel.is_cancelled() {
                return Err(MachineError::Interrupted);
            }
            self.own.clock().sleep(LOOK);
        }
        Ok(())
    }

    fn screenshot(&mut self) -> Option<Screenshot> {
        match self.own.screenshot(&self.domain) {
            Ok(picture) => Some(picture),
            Err(error) => {
                self.notes.push(format!("there is no picture of its screen: {error}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_follows_from_what_is_known() {
        let id = |last: char| format!("01M81RBWN54SXY808JR31NMSK{last}").parse().expect("an id");
        let boot = |point, verdict, reached| BootSummary {
            recovery_point: id(point),
            begun: jiff::Timestamp::UNIX_EPOCH,
            verdict,
            expected: Rung::Kernel,
            reached: Some(reached),
            reached_seconds: None,
            reason: None,
            picture_hash: None,
        };
        let (crash, frozen) = (Consistency::Crash, Consistency::FileSystem);
        let none = expectation(id('N'), crash, &[], None);
        assert_eq!(none, (Rung::Kernel, ExpectedBy::Default));
        assert_eq!(expectation(id('N'), frozen, &[], None), (Rung::Agent, ExpectedBy::Agent));
        let asked = expectation(id('N'), frozen, &[], Some(Rung::PowerOn));
        assert_eq!(asked, (Rung::PowerOn, ExpectedBy::Request));
        // The best of those that passed, without what only a request brings about, and without its own.
        let passed = |point, reached| boot(point, BootVerdict::Passed, reached);
        let failed = boot('C', BootVerdict::Failed, Rung::Agent);
        let history = [passed('A', Rung::Login), passed('B', Rung::Kernel), failed];
        let found = expectation(id('N'), crash, &history, None);
        assert_eq!(found, (Rung::Login, ExpectedBy::History));
        // Of one that passed less was asked.
        let little = [passed('A', Rung::Firmware)];
        let found = expectation(id('N'), frozen, &little, None);
        assert_eq!(found, (Rung::Agent, ExpectedBy::Agent));
        let found = expectation(id('N'), crash, &little, None);
        assert_eq!(found, (Rung::Kernel, ExpectedBy::Default));
        let history = [passed('A', Rung::Script), passed('N', Rung::Script)];
        let found = expectation(id('N'), crash, &history, None);
        assert_eq!(found, (Rung::Agent, ExpectedBy::History));
        assert_eq!(expectation(id('A'), crash, &history[..1], None).1, ExpectedBy::Default);
    }

    #[test]
    fn free_memory_is_read() {
        let text = "MemTotal:  8000000 kB\nMemFree: 100 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available(text), Some(2048 << 10));
        for bad in ["", "MemAvailable: x kB\n", "MemAvailable: 1 MB\n"] {
            assert_eq!(available(bad), None);
        }
    }
}
