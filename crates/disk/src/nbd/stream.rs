//! A connection's bytes: TCP or a socket file, in the clear or encrypted.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

use super::{NbdServer, NbdTls};

/// An open connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, Stream>>),
}

impl Stream {
    /// Connects; neither this nor a later read or write waits longer than `timeout`.
    pub(super) fn connect(server: &NbdServer, timeout: Duration) -> io::Result<Self> {
        match server {
            NbdServer::Tcp { host, port } => {
                let mut failed = io::Error::other("the name has no address");
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, timeout) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            stream.set_read_timeout(Some(timeout))?;
                            stream.set_write_timeout(Some(timeout))?;
                            return Ok(Self::Tcp(stream));
                        }
                        Err(error) => failed = error,
                    }
                }
                Err(failed)
            }
            NbdServer::Unix { path } => {
                let flags = SocketFlags::CLOEXEC;
                let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                // Set before connecting: a server that never accepts must not hold us.
                for direction in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
                    sockopt::set_socket_timeout(&socket, direction, Some(timeout))?;
                }
                connect(&socket, &SocketAddrUnix::new(path)?)?;
                Ok(Self::Unix(UnixStream::from(socket)))
            }
        }
    }

    /// Continues encrypted.
    pub(super) fn start_tls(self, tls: &NbdTls, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(tls.hostname.clone()).map_err(io::Error::other)?;
        let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, self);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self::Tls(Box::new(stream)))
    }
}

/// Reads the certificates that `tls` names.
pub(super) fn tls_config(tls: &NbdTls) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let mut client = None;
    if let Some(folder) = &tls.certificates {
        let path = folder.join("ca-cert.pem");
        for certificate in certificates(&path)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let (certificate, key) = (folder.join("client-cert.pem"), folder.join("client-key.pem"));
        if fs::exists(&certificate).unwrap_or(false) {
            let secret = PrivateKeyDer::from_pem_file(&key)
                .map_err(|error| format!("{}: {error}", key.display()))?;
            client = Some((certificates(&certificate)?, secret));
        }
    } else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let config = match client {
        Some((chain, key)) => {
            config.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
        }
        None => config.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| format!("{shown}: {error}"))?.collect();
    let found = found.map_err(|error| format!("{shown}: {error}"))?;
    if found.is_empty() { Err(format!("{shown} holds no certificate")) } else { Ok(found) }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buf),
            Self::Unix(stream) => stream.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buf),
            Self::Unix(stream) => stream.write(buf),
            Self::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Tcp",
            Self::Unix(_) => "Unix",
            Self::Tls(_) => "Tls",
        })
    }
}
