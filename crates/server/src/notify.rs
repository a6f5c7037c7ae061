//! Tells the system's manager how far the server is: `sd_notify`, in a few bytes.

use std::{
    ffi::OsStr,
    io,
    os::{linux::net::SocketAddrExt as _, unix::ffi::OsStrExt as _, unix::net},
};

/// Sends words to the socket that the manager has named; an address that begins with `@` has no
/// file.
pub(crate) fn send_state(socket: Option<&OsStr>, words: &str) {
    let Some(socket) = socket else { return };
    if let Err(error) = send(socket, words) {
        tracing::warn!(%error, "the system's service manager cannot be notified");
    }
}

fn send(socket: &OsStr, words: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => net::SocketAddr::from_abstract_name(name)?,
        None => net::SocketAddr::from_pathname(socket)?,
    };
    net::UnixDatagram::unbound()?.send_to_addr(words.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = net::UnixDatagram::bind(&path).expect("binds");
        send_state(Some(path.as_os_str()), "READY=1\n");
        let mut bytes = [0; 20];
        let count = socket.recv(&mut bytes).expect("receives");
        assert_eq!(&bytes[..count], b"READY=1\n");
    }
}
