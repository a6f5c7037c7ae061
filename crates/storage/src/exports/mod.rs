//! Blobs as disks for NBD clients: one blob or snapshot on a socket of its own, until the command that asked ends.
//!
//! ```text
//!  admin: ExportRequest ─▶ Export::start ─▶ disk::BlobDisk ◀── nbd::server::listen ◀── QEMU, libnbd
//!                                             cache: writes, until a flush ─▶ blobs::Store
//! ```
//!
//! It does not know the dialect of Azure beyond names and snapshots.

mod cache;
mod disk;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use disk::{BITMAP, BlobDisk, Wanted};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use strongroom_azure as azure;
use strongroom_blobs as blobs;
use strongroom_http::{CertificateFiles, Shown, encryption_for_known};
use strongroom_nbd::server::{
    Exported, Exports, SocketFile,
    listen::{Listener, Server},
};

use crate::{
    Storage,
    admin::{RefusedKind, Reply, blob_name},
    map,
};

/// What is exported, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRequest {
    /// The blob: `ACCOUNT/CONTAINER/BLOB`.
    pub blob: String,
    /// One of its snapshots, by the time that names it; it is only read.
    pub snapshot: Option<String>,
    /// An earlier snapshot: the changes since then are shown as the dirty bitmap `since`.
    pub since: Option<String>,
    /// Whether the blob is only read. A blob that is written is leased.
    pub read_only: bool,
    /// The id of a lease that the caller has on the blob.
    pub lease: Option<String>,
    /// Where clients connect.
    pub at: ExportAt,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportAt {
    /// A socket file, which must not exist. Only the owner of the process that serves may connect.
    Socket(PathBuf),
    /// An address with TLS. Clients need a certificate of one of the authorities in the file.
    Tls {
        /// The address; port 0 takes a free one.
        address: SocketAddr,
        /// A file of PEM.
        authorities: PathBuf,
    },
    /// A loopback address without encryption: every user of the machine may connect.
    Clear(SocketAddr),
}

/// An export, as it is announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportShown {
    /// Where clients connect, as an NBD URL.
    pub url: String,
    /// The blob: `ACCOUNT/CONTAINER/BLOB`.
    pub blob: String,
    /// The snapshot.
    pub snapshot: Option<String>,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether it is only read.
    pub read_only: bool,
    /// The context of the changes since another snapshot.
    pub dirty_bitmap: Option<String>,
}

/// An export that is served.
pub(crate) struct Export {
    server: Server,
    disk: Arc<BlobDisk>,
    socket: Option<SocketFile>,
    pub(crate) shown: ExportShown,
}

impl Export {
    /// Opens a blob and listens for clients. It blocks while the store is asked.
    pub(crate) fn start(storage: &Storage, request: &ExportRequest) -> Result<Self, Reply> {
        let wanted = wanted(request)?;
        let role = storage.replication.role();
        if !role.decides() && !wanted.read_only && wanted.snapshot.is_none() {
            return Err(blobs::Refusal::NotPrimary { role }.into());
        }
        let store = Arc::clone(&storage.store);
        let disk = BlobDisk::open(store, Arc::clone(&storage.clock), wanted)?;
        let disk = Arc::new(disk);
        match Self::listen(storage, request, &disk) {
            Ok(export) => Ok(export),
            Err(refused) => {
                // Nothing was written: there is only the lease to give back.
                disk.close().ok();
                Err(refused)
            }
        }
    }

    fn listen(
        storage: &Storage,
        request: &ExportRequest,
        disk: &Arc<BlobDisk>,
    ) -> Result<Self, Reply> {
        let name = match &request.snapshot {
            Some(snapshot) => format!("{}@{snapshot}", request.blob),
            None => request.blob.clone(),
        };
        let (listener, socket) = listener(storage, &request.at)?;
        let one = One { name: name.clone(), disk: Arc::clone(disk) };
        let clock = Arc::clone(&storage.clock);
        let server = Server::start(listener, Arc::new(one), clock);
        let path = utf8_percent_encode(&name, PATH);
        let url = match (&request.at, server.address()) {
            (ExportAt::Tls { .. }, Some(address)) => format!("nbds://{address}/{path}"),
            (ExportAt::Clear(_), Some(address)) => format!("nbd://{address}/{path}"),
            (ExportAt::Socket(socket), _) => {
                let socket = socket.to_string_lossy();
                let socket = utf8_percent_encode(&socket, PATH);
                format!("nbd+unix:///{path}?socket={socket}")
            }
            (_, None) => return Err(failed("the socket has no address")),
        };
        let shown = ExportShown {
            url,
            blob: request.blob.clone(),
            snapshot: request.snapshot.clone(),
            size_bytes: disk.size(),
            read_only: disk.is_read_only(),
            dirty_bitmap: request
                .since
                .as_ref()
                .map(|_| format!("{}{BITMAP}", strongroom_nbd::proto::DIRTY_BITMAP)),
        };
        Ok(Self { server, disk: Arc::clone(disk), socket, shown })
    }

    /// Ends all connections and stores what clients have written. It blocks until that is durable.
    pub(crate) fn end(mut self) -> Result<(), Reply> {
        self.server.stop();
        drop(self.socket.take());
        self.disk.close().map_err(|error| Reply::refused(RefusedKind::Lost, error.to_string()))
    }
}

/// The characters of a path of a URL that are escaped.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn failed(message: impl Into<String>) -> Reply {
    Reply::refused(RefusedKind::Failed, message)
}

fn invalid(message: impl Into<String>) -> Reply {
    Reply::refused(RefusedKind::InvalidExport, message)
}

fn wanted(request: &ExportRequest) -> Result<Wanted, Reply> {
    let snapshot = |text: &Option<String>| {
        let id = text.as_ref().map(|text| text.parse::<azure::SnapshotId>());
        let id = id.transpose().map_err(|error| invalid(error.to_string()))?;
        Ok::<_, Reply>(id.map(map::snapshot_id))
    };
    Ok(Wanted {
        blob: blob_name(&request.blob)
            .map_err(|_| invalid("a blob is named by ACCOUNT/CONTAINER/BLOB"))?,
        snapshot: snapshot(&request.snapshot)?,
        since: snapshot(&request.since)?,
        read_only: request.read_only,
        lease: request.lease.clone().map(blobs::LeaseId),
    })
}

fn listener(storage: &Storage, at: &ExportAt) -> Result<(Listener, Option<SocketFile>), Reply> {
    let tcp = |address: &SocketAddr| {
        TcpListener::bind(address).map_err(|error| invalid(format!("{address}: {error}")))
    };
    match at {
        ExportAt::Socket(path) => {
            let bad = |error: io::Error| invalid(format!("{}: {error}", path.display()));
            let listen = SocketFile::listen(path, None, &*storage.entropy);
            let (listener, file) = listen.map_err(bad)?;
            Ok((Listener::Unix(listener), Some(file)))
        }
        ExportAt::Clear(address) if !address.ip().is_loopback() => {
            Err(invalid("without TLS an export is offered on a loopback address only"))
        }
        ExportAt::Clear(address) => Ok((Listener::Tcp(tcp(address)?, None), None)),
        ExportAt::Tls { address, authorities } => {
            let files = CertificateFiles::own(storage.folder());
            let shown = Shown::new(files).map_err(|error| {
                invalid(format!("{error}: `storage serve` makes one, if it serves with TLS"))
            })?;
            let config = encryption_for_known(shown, authorities);
            let config = config.map_err(|error| invalid(error.to_string()))?;
            Ok((Listener::Tcp(tcp(address)?, Some(config)), None))
        }
    }
}

/// The exports of a server that has one, which is its default as well.
struct One {
    name: String,
    disk: Arc<BlobDisk>,
}

impl Exports for One {
    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Exported>, String> {
        if name.is_empty() || name == self.name {
            Ok(Arc::<BlobDisk>::clone(&self.disk))
        } else {
            Err(format!("there is no export {name:?}"))
        }
    }
}
