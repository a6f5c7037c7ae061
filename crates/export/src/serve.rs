//! Serving disks over NBD until somebody says stop.
//!
//! ```text
//!  Vec<Export> ─▶ serve_disks ─▶ Serving: NBD clients read and write ─▶ stop: connections end, writes are flushed
//! ```

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use rustls::ServerConfig;
use strongroom_base::{Clock, Entropy};
use strongroom_nbd::{
    NbdServer, NbdTls, NbdUrl,
    server::{
        Exported, Exports, Owner, SocketFile,
        listen::{Listener, Server},
    },
};

/// A disk with the name that clients ask for.
#[derive(Clone)]
pub struct Export {
    /// The name of the export.
    pub name: String,
    /// The disk: [`Shown`](crate::Shown), or an overlay over one.
    pub disk: Arc<dyn Exported>,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Where clients connect.
#[derive(Clone)]
pub enum Endpoint {
    /// A socket file, which is made. Only its owner may connect: this process's user, or the named one.
    Socket {
        /// Its path. A socket of a process that was killed is replaced, one in use is not.
        path: PathBuf,
        /// Another owner, such as the user of QEMU.
        owner: Option<Owner>,
    },
    /// An address with TLS; the configuration says whose certificates clients must show.
    Tls(SocketAddr, Arc<ServerConfig>),
    /// A loopback address without encryption: every user of the machine may connect.
    Loopback(SocketAddr),
}

/// Exports that are served. Dropping it ends all connections and removes the socket file.
#[derive(Debug)]
pub struct Serving {
    server: Server,
    exports: Vec<Export>,
    socket: Option<SocketFile>,
    /// The address, and whether connections are encrypted.
    address: Option<(SocketAddr, bool)>,
}

/// Serves disks at an endpoint until what is returned is stopped or dropped. If there is one disk, it is the
/// default export as well.
///
/// # Errors
///
/// If the endpoint cannot be listened at: [`io::ErrorKind::AlreadyExists`] if the socket is in use, or a file.
pub fn serve_disks(
    exports: Vec<Export>,
    at: Endpoint,
    clock: Arc<dyn Clock>,
    entropy: &dyn Entropy,
) -> io::Result<Serving> {
    let encrypted = matches!(at, Endpoint::Tls(..));
    let (listener, socket) = match at {
        Endpoint::Socket { path, owner } => {
            let (listener, file) = SocketFile::listen(&path, owner, entropy)?;
            (Listener::Unix(listener), Some(file))
        }
        Endpoint::Tls(address, config) => {
            (Listener::Tcp(TcpListener::bind(address)?, Some(config)), None)
        }
        Endpoint::Loopback(address) if !address.ip().is_loopback() => {
            let reason = "without TLS only a loopback address is served";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Endpoint::Loopback(address) => (Listener::Tcp(TcpListener::bind(address)?, None), None),
    };
    let server = Server::start(listener, Arc::new(Named(exports.clone())), clock);
    let address = server.address().map(|address| (address, encrypted));
    Ok(Serving { server, exports, socket, address })
}

impl Serving {
    /// The exports with their NBD URLs.
    pub fn urls(&self) -> Vec<(String, NbdUrl)> {
        let url = |export: &Export| (export.name.clone(), self.url(&export.name));
        self.exports.iter().map(url).collect()
    }

    fn url(&self, name: &str) -> NbdUrl {
        let server = match (&self.socket, self.address) {
            (Some(socket), _) => return NbdUrl::unix(socket.path(), name),
            (None, Some((address, _))) => {
                NbdServer::Tcp { host: address.ip().to_string(), port: address.port() }
            }
            // A server without a socket file has an address.
            (None, None) => NbdServer::Tcp { host: String::new(), port: 0 },
        };
        let encrypted = self.address.is_some_and(|(_, encrypted)| encrypted);
        let tls = match &server {
            NbdServer::Tcp { host, .. } if encrypted => {
                Some(NbdTls { certificates: None, hostname: host.clone() })
            }
            _ => None,
        };
        NbdUrl { server, export: name.to_owned(), dirty_bitmap: None, tls }
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Ends all connections, removes the socket file, and has what clients wrote flushed.
    ///
    /// # Errors
    ///
    /// If what was written since the last flush cannot be made durable.
    pub fn stop(mut self) -> io::Result<()> {
        self.server.stop();
        drop(self.socket.take());
        let writable = self.exports.iter().filter(|export| !export.disk.is_read_only());
        // Each is flushed, whatever becomes of the others.
        writable.map(|export| export.disk.flush()).fold(Ok(()), Result::and)
    }
}

struct Named(Vec<Export>);

impl Exports for Named {
    fn names(&self) -> Vec<String> {
        self.0.iter().map(|export| export.name.clone()).collect()
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Exported>, String> {
        let found = match self.0.as_slice() {
            [one] if name.is_empty() => Some(one),
            all => all.iter().find(|export| export.name == name),
        };
        found
            .map(|export| Arc::clone(&export.disk))
            .ok_or_else(|| format!("there is no export {name:?}"))
    }
}
