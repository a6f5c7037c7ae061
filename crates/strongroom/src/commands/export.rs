//! `export`: disks of a recovery point over NBD, as long as the command runs.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{ArgGroup, Args, ValueEnum};
use serde::Serialize;
use strongroom_base::{Clock as _, PointId, start_thread};
use strongroom_disk::DiskSource;
use strongroom_engine::EngineError;
use strongroom_export::{
    BlockCache, Endpoint, Export, Overlay, OverlayOf, PointDisk, Serving, Shown, Trace,
    TraceRecorder, serve_disks,
};
use strongroom_format::{DiskRecord, Manifest};
use strongroom_http::{
    CertificateFiles, Shown as Certificate, encryption_for_known, ensure_with_authority, names,
};
use strongroom_nbd::server::Exported;
use strongroom_vault::Vault;

use super::{recoverypoint::PointArgs, service::common::Thing};
use crate::{
    args::OpenArgs,
    context::{self, Context},
    error::{FaceError, Failure},
    human,
    open::open_vault,
    values,
};

/// How often it is looked whether the command is to end.
const LOOK: Duration = Duration::from_millis(50);
/// The most bytes of a file with a trace.
const TRACE_MAX: u64 = 8 << 20;

/// Whether connections to an address are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tls {
    /// Encrypted.
    On,
    /// Not encrypted; only on a loopback address.
    Off,
}

/// Which disks are read, and how.
#[derive(Debug, Args)]
pub(super) struct ReadArgs {
    /// A disk of the point, by its name; may be repeated [default: all]
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    disk: Vec<String>,

    /// Memory for blocks that were read or read ahead, of all disks together
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = values::size)]
    cache_size: u64,

    /// Read the blocks of this trace into memory at once
    #[arg(long, value_name = "FILE")]
    read_first: Option<PathBuf>,

    /// Write which blocks are read, and in which order, to this file: a later export or mount reads them first
    #[arg(long, value_name = "FILE")]
    record_trace: Option<PathBuf>,

    /// How long reads are recorded
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = values::duration,
        requires = "record_trace")]
    trace_time: Duration,
}

/// Disks that are ready to be read.
pub(super) struct Disks {
    pub(super) list: Vec<(DiskRecord, Arc<dyn DiskSource>)>,
    recorder: Option<(Arc<TraceRecorder>, PathBuf)>,
}

impl ReadArgs {
    /// Opens the disks of a point. Reading ahead begins at once.
    pub(super) fn open(
        &self,
        context: &Context,
        vault: &Arc<Vault>,
        point: &Manifest,
    ) -> Result<Disks, Failure> {
        let clock = Arc::new(context.clock);
        let recorder = self.record_trace.clone();
        let recorder = recorder.map(|path| (TraceRecorder::new(clock, self.trace_time), path));
        let trace = self.read_first.as_deref().map(read_trace).transpose()?;
        let cache = BlockCache::new(self.cache_size);
        let mut list = Vec::new();
        let mut points = Vec::new();
        for record in self.records(point)? {
            let size = |source| EngineError::Size { name: record.name.clone(), source };
            let disk = Arc::new(PointDisk::cached(vault, record, &cache).map_err(size)?);
            points.push(Arc::clone(&disk));
            let disk: Arc<dyn DiskSource> = match &recorder {
                Some((recorder, _)) => recorder.watch(&record.name, disk),
                None => disk,
            };
            list.push((record.clone(), disk));
        }
        if let Some(trace) = trace {
            let cancel = context.cancel.clone();
            start_thread("read-first", move || trace.read_first(&points, &cache, &cancel));
        }
        Ok(Disks { list, recorder })
    }

    fn records<'a>(&self, point: &'a Manifest) -> Result<Vec<&'a DiskRecord>, Failure> {
        if self.disk.is_empty() {
            return Ok(point.disks.iter().collect());
        }
        let find = |name: &String| {
            let found = point.disks.iter().find(|record| record.name == *name);
            let missing = || EngineError::NoSuchDisk { point: point.id, name: name.clone() };
            found.ok_or_else(missing).map_err(Failure::from)
        };
        self.disk.iter().map(find).collect()
    }
}

impl Disks {
    /// Writes the trace of what was read, if one is recorded.
    pub(super) fn end(&self) -> Result<(), Failure> {
        let Some((recorder, path)) = &self.recorder else { return Ok(()) };
        let bytes = recorder.trace().encode()?;
        let write = |source| FaceError::Local { path: path.clone(), action: "write", source };
        let unfinished = path.with_added_extension("new");
        let written = std::fs::write(&unfinished, bytes);
        written.and_then(|()| std::fs::rename(&unfinished, path)).map_err(write)?;
        Ok(())
    }
}

fn read_trace(path: &Path) -> Result<Trace, Failure> {
    let read = |source| FaceError::Local { path: path.to_owned(), action: "read", source };
    let len = std::fs::metadata(path).map_err(read)?.len();
    if len > TRACE_MAX {
        return Err(Failure::usage(format!("{} is too long for a trace", path.display())));
    }
    Ok(Trace::decode(&std::fs::read(path).map_err(read)?)?)
}

/// Waits until the command is to end, or `is_over` says so.
pub(super) fn wait(context: &Context, is_over: impl Fn() -> bool) {
    while !context.cancel.is_cancelled() && !is_over() {
        context.clock.sleep(LOOK);
    }
}

/// Export disks of a recovery point over NBD, straight from the vault
///
/// Machines and NBD tools use the disks until the command ends (Ctrl-C, SIGTERM, a terminal that closes). Each disk is an
/// export of its name; if there is one, it is the default export as well. Every block is checked against its digest before a client gets it; what
/// cannot be read is an I/O error, never zeros.
///
/// The disks are only read. With --writable, what clients write goes to files in the folder --overlay, and the point stays
/// as it is: a write lasts when the flush after it is answered, also through a loss of power. The same command continues
/// with the same overlay; another point is refused.
///
/// Works on a vault directly, without a server.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).args(["socket", "listen"]), after_help = "\
Examples:
  strongroom export --item web01 --recovery-point latest --socket /run/web01.sock
  strongroom export --item web01 --recovery-point yesterday --disk vda --socket /tmp/vda.sock \\
      --writable --overlay /srv/scratch/web01
  strongroom export --item web01 --recovery-point latest --listen 192.0.2.7:10809 \\
      --client-ca clients.pem

A machine uses it as:
  -drive file=nbd+unix:///vda?socket=/run/web01.sock,format=raw,readonly=on")]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    point: PointArgs,

    #[command(flatten)]
    read: ReadArgs,

    /// Listen on this socket file, which is made; only this user may connect
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Listen on this address and port, encrypted; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// File with the certificates (PEM) of those who vouch for clients; others cannot connect to --listen
    #[arg(long, value_name = "FILE", requires = "listen")]
    client_ca: Option<PathBuf>,

    /// Whether connections to --listen are encrypted; off only on a loopback address
    #[arg(long, value_enum, default_value = "on", requires = "listen")]
    tls: Tls,

    /// Certificate to show to clients [default: one that is made in the cache folder]
    #[arg(long, value_name = "FILE", requires_all = ["listen", "certificate_key"])]
    certificate: Option<PathBuf>,

    /// Key of the certificate
    #[arg(long, value_name = "FILE", requires = "certificate")]
    certificate_key: Option<PathBuf>,

    /// Let clients write, into an overlay
    #[arg(long, requires = "overlay")]
    writable: bool,

    /// Folder for what clients write: two files for each disk
    #[arg(long, value_name = "DIR", requires = "writable")]
    overlay: Option<PathBuf>,

    #[command(flatten)]
    open: OpenArgs,
}

/// What is exported.
#[derive(Debug, Serialize)]
struct Announced {
    item: String,
    recovery_point: PointId,
    /// The certificate that clients trust: that of an authority, if it was made here.
    certificate: Option<PathBuf>,
    exports: Vec<Exposed>,
}

#[derive(Debug, Serialize)]
struct Exposed {
    name: String,
    url: String,
    size_bytes: u64,
    read_only: bool,
}

impl ExportArgs {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        context.stopping.with_terminal();
        let (endpoint, certificate) = self.endpoint(context)?;
        let vault = open_vault(context, &self.open, None)?;
        let point = self.point.find_directly(&vault)?;
        let disks = self.read.open(context, &vault, &point)?;
        let mut exports = Vec::new();
        for (record, disk) in &disks.list {
            let disk = self.exported(context, &vault, &point, record, Arc::clone(disk))?;
            exports.push(Export { name: record.name.clone(), disk });
        }
        let at = self.place();
        let clock = Arc::new(context.clock);
        let serving = serve_disks(exports, endpoint, clock, &context.entropy);
        let serving = serving.map_err(|source| FaceError::Endpoint { at, source })?;
        let shown = self.shown(&point, &serving, certificate, &disks);
        context.out.result(&Thing::new(shown, show))?;
        wait(context, || false);
        let stopped = serving.stop().map_err(FaceError::ExportLost);
        disks.end()?;
        Ok(stopped?)
    }

    /// Where it listens, in words.
    fn place(&self) -> String {
        match (&self.socket, self.listen) {
            (Some(socket), _) => socket.display().to_string(),
            (None, Some(address)) => address.to_string(),
            (None, None) => String::new(),
        }
    }

    /// Where it listens, and the certificate that clients trust.
    fn endpoint(&self, context: &Context) -> Result<(Endpoint, Option<PathBuf>), Failure> {
        let absolute = |path: &PathBuf| {
            let find = |source| FaceError::Local { path: path.clone(), action: "find", source };
            std::path::absolute(path).map_err(find)
        };
        match (&self.socket, self.listen, &self.client_ca) {
            (Some(socket), _, _) => {
                Ok((Endpoint::Socket { path: absolute(socket)?, owner: None }, None))
            }
            (None, Some(address), None) if self.tls == Tls::Off => {
                if !address.ip().is_loopback() {
                    return Err(Failure::usage("--tls off is for a loopback address only"));
                }
                Ok((Endpoint::Loopback(address), None))
            }
            (None, Some(address), Some(authorities)) if self.tls == Tls::On => {
                let (files, path) = self.certificate(context, address)?;
                let shown = Certificate::new(files)?;
                let config = encryption_for_known(shown, authorities)?;
                Ok((Endpoint::Tls(address, config), Some(path)))
            }
            (None, Some(_), Some(_)) => {
                Err(Failure::usage("without TLS no client can show a certificate"))
            }
            (None, Some(_), None) => Err(Failure::usage(
                "anybody who can connect could read the disks: say with --client-ca whose clients may",
            )),
            // Prevented by the group of arguments.
            (None, None, _) => Err(Failure::usage("say where to listen: --socket or --listen")),
        }
    }

    /// The files of the certificate, and the one that clients trust.
    fn certificate(
        &self,
        context: &Context,
        address: SocketAddr,
    ) -> Result<(CertificateFiles, PathBuf), Failure> {
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.certificate_key) {
            let (certificate, key) = (certificate.clone(), key.clone());
            let files = CertificateFiles { certificate: certificate.clone(), key, own: false };
            return Ok((files, certificate));
        }
        let folder = context.cache_dir(self.open.cache_dir.as_ref()).join("export");
        let files = CertificateFiles::own(&folder);
        let names = names(&context::host(), address.ip(), &[]);
        let authority = ensure_with_authority(&files, &names, context.clock.now())?;
        Ok((files, authority))
    }

    /// A disk as clients get it.
    fn exported(
        &self,
        context: &Context,
        vault: &Vault,
        point: &Manifest,
        record: &DiskRecord,
        disk: Arc<dyn DiskSource>,
    ) -> Result<Arc<dyn Exported>, Failure> {
        let Some(folder) = &self.overlay else { return Ok(Arc::new(Shown::new(disk))) };
        let of = OverlayOf {
            vault: vault.config().vault_id,
            point: point.id,
            disk: record.name.clone(),
            root: record.root,
            size: record.size_bytes,
        };
        let overlay = Overlay::open(folder, &of, disk, &context.entropy)?;
        if overlay.dropped_bytes() > 0 {
            context.out.say(&format!(
                "Disk {}: a flush that was not answered was cut off; what was flushed before is there.",
                record.name
            ));
        }
        Ok(Arc::new(overlay))
    }

    fn shown(
        &self,
        point: &Manifest,
        serving: &Serving,
        certificate: Option<PathBuf>,
        disks: &Disks,
    ) -> Announced {
        let sizes = disks.list.iter().map(|(record, _)| record.size_bytes);
        let exports = serving.urls().into_iter().zip(sizes);
        let exports = exports.map(|((name, url), size_bytes)| Exposed {
            name,
            url: url.to_string(),
            size_bytes,
            read_only: !self.writable,
        });
        Announced {
            item: point.item.clone(),
            recovery_point: point.id,
            certificate,
            exports: exports.collect(),
        }
    }
}

fn show(shown: &Announced) -> String {
    let rows = shown.exports.iter().map(|export| {
        let access = if export.read_only { "read" } else { "read and write" };
        let size = human::bytes(export.size_bytes);
        [export.name.clone(), size, access.to_owned(), export.url.clone()]
    });
    let mut text = human::table(["DISK", "SIZE", "ACCESS", "NBD URL"], &[1], rows);
    if let Some(certificate) = &shown.certificate {
        text.push_str(&human::facts(&[("Certificate", certificate.display().to_string())]));
    }
    text
}
