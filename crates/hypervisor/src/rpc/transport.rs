//! The byte stream to a daemon: a unix socket here, or `ssh` to another host.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::net::RecvFlags;

/// A stream, and the process behind it if there is one.
#[derive(Debug)]
pub(crate) struct Transport {
    stream: UnixStream,
    helper: Option<Child>,
}

impl Transport {
    /// Connects to the daemon that listens at `socket`.
    pub(crate) fn unix(socket: &Path) -> io::Result<Self> {
        Ok(Self { stream: UnixStream::connect(socket)?, helper: None })
    }

    /// Runs `program`, which connects its standard input and output to a daemon.
    pub(crate) fn through(program: &str, arguments: &[String]) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let output: OwnedFd = theirs.try_clone()?.into();
        let helper = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(output))
            .stderr(Stdio::inherit())
            .spawn()?;
        Ok(Self { stream: ours, helper: Some(helper) })
    }

    /// The user whose process listens at the socket.
    pub(crate) fn peer(&self) -> io::Result<u32> {
        Ok(rustix::net::sockopt::socket_peercred(&self.stream)?.uid.as_raw())
    }

    pub(super) const fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Whether the other side has closed it.
    pub(super) fn is_closed(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(&self.stream, &mut [0_u8; 1][..], flags) {
            Ok((_, count)) => count == 0,
            Err(error) => error != rustix::io::Errno::WOULDBLOCK,
        }
    }

    /// How long a read or write may take.
    pub(super) fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        // Zero would mean for ever.
        let timeout = Some(timeout.max(Duration::from_millis(1)));
        self.stream.set_read_timeout(timeout)?;
        self.stream.set_write_timeout(timeout)
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        if let Some(helper) = &mut self.helper {
            // It may have ended already.
            helper.kill().ok();
            helper.wait().ok();
        }
    }
}

/// Where programs of the system lie that are not always on the search path.
pub(crate) fn find_program(name: &str) -> PathBuf {
    let places = ["/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/libexec"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| PathBuf::from(name))
}
