//! The agent inside a guest, reached without libvirt: over the socket that QEMU has for it.
//!
//! QEMU talks to one client at a time, and libvirt is that client for as long as it lives. Others are
//! let in when its daemon is dead, and must not stay: a daemon that comes back waits for them. Until
//! then they wait in line; what they have sent meanwhile arrives later, when they are gone. So
//! nothing is sent but a request to synchronize, which does no harm at any time, until that is
//! answered.
//!
//! Source: QEMU's guest agent protocol, `guest-sync-delimited`.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{Value, json};
use strongroom_base::{Clock, lock};

use crate::{
    HypervisorError,
    agent::{Agent, request, returned},
    error::Result,
};

/// The most bytes of a line that the agent says: answers to the commands that are sent here have some
/// hundreds.
const MAX_LINE: usize = 1 << 20;

/// What tells the agent that what came before is no command, and us that its answer begins.
const DELIMITER: u8 = 0xff;

/// The agent of one machine, that answers us and nobody else until this is dropped.
pub struct AgentSocket {
    line: Mutex<Line>,
    clock: Arc<dyn Clock>,
}

struct Line {
    stream: UnixStream,
    clock: Arc<dyn Clock>,
    /// What was read and not yet used.
    rest: Vec<u8>,
}

impl AgentSocket {
    /// Talks to the agent whose channel QEMU has at `path`, if it answers within `timeout`.
    pub fn open(path: &Path, timeout: Duration, clock: Arc<dyn Clock>) -> Result<Self> {
        let deadline = clock.monotonic().saturating_add(timeout);
        let stream = connect(path).map_err(|error| failed("guest-sync-delimited", &error))?;
        let mut line = Line { stream, clock: Arc::clone(&clock), rest: Vec::new() };
        line.synchronize(deadline).map_err(|error| failed("guest-sync-delimited", &error))?;
        Ok(Self { line: Mutex::new(line), clock })
    }
}

impl Agent for AgentSocket {
    fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    fn command(&self, name: &str, given: Value, timeout: Duration) -> Result<Value> {
        let deadline = self.clock.monotonic().saturating_add(timeout);
        let mut line = lock(&self.line);
        let command = format!("{}\n", request(name, given));
        let answer = line.say(command.as_bytes(), deadline).and_then(|()| line.hear(deadline));
        returned(name, &answer.map_err(|error| failed(name, &error))?)
    }
}

/// Connects without waiting: where others wait in line already, that would have no end.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn failed(command: &str, error: &io::Error) -> HypervisorError {
    let reason = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            "no answer in time over the channel's own socket".to_owned()
        }
        _ => format!("over the channel's own socket: {error}"),
    };
    HypervisorError::Agent { command: command.to_owned(), reason }
}

impl Line {
    /// Finds the place in the stream from which on answers are to our commands.
    fn synchronize(&mut self, deadline: Duration) -> io::Result<()> {
        // Another number each time: an answer to somebody who was here before is not to us.
        let number = self.clock.monotonic().as_nanos() & 0x7fff_ffff;
        let number = u64::try_from(number).unwrap_or(1) ^ (u64::from(std::process::id()) << 20);
        let ask = request("guest-sync-delimited", json!({ "id": number }));
        let mut bytes = vec![DELIMITER];
        bytes.extend_from_slice(format!("{ask}\n").as_bytes());
        self.say(&bytes, deadline)?;
        loop {
            let answer = self.hear(deadline)?;
            // What is before the delimiter was said to somebody else.
            let answer = answer.rsplit(|byte| *byte == DELIMITER).next().unwrap_or_default();
            let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
            if answer.get("return").and_then(Value::as_u64) == Some(number) {
                return Ok(());
            }
        }
    }

    fn say(&mut self, bytes: &[u8], deadline: Duration) -> io::Result<()> {
        self.stream.set_write_timeout(Some(self.left(deadline)?))?;
        self.stream.write_all(bytes)
    }

    /// The time until `deadline`, or that it has passed.
    fn left(&self, deadline: Duration) -> io::Result<Duration> {
        let left = deadline.saturating_sub(self.clock.monotonic());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    /// The next line.
    fn hear(&mut self, deadline: Duration) -> io::Result<Vec<u8>> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let after = self.rest.split_off(end.saturating_add(1));
                return Ok(std::mem::replace(&mut self.rest, after));
            }
            if self.rest.len() > MAX_LINE {
                return Err(io::Error::other(format!("a line of more than {MAX_LINE} bytes")));
            }
            self.stream.set_read_timeout(Some(self.left(deadline)?))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.rest.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead as _, os::unix::net::UnixListener, path::PathBuf};

    use strongroom_base::SystemClock;

    use super::*;
    use crate::agent::{self, FreezeStatus};

    const SHORT: Duration = Duration::from_millis(200);

    fn open(path: &Path, timeout: Duration) -> Result<AgentSocket> {
        AgentSocket::open(path, timeout, Arc::new(SystemClock))
    }

    fn why_not(path: &Path, timeout: Duration) -> String {
        open(path, timeout).map(drop).expect_err("nobody").to_string()
    }

    /// A socket at which `serve` has the first client.
    fn server(
        name: &str,
        serve: impl FnOnce(UnixStream) + Send + 'static,
    ) -> (PathBuf, std::thread::JoinHandle<()>) {
        let path = std::env::temp_dir().join(format!("agent-{}-{name}", std::process::id()));
        std::fs::remove_file(&path).ok();
        let listener = UnixListener::bind(&path).expect("a socket");
        let thread = strongroom_base::start_thread("serves", move || {
            serve(listener.accept().expect("a client").0);
        });
        (path, thread)
    }

    /// What the agent is asked, without the delimiter.
    fn asked(stream: &UnixStream) -> Value {
        let mut line = Vec::new();
        io::BufReader::new(stream).read_until(b'\n', &mut line).expect("a line");
        let line = line.strip_prefix(&[DELIMITER]).unwrap_or(&line);
        serde_json::from_slice(line).expect("JSON")
    }

    #[test]
    fn answers_to_others_are_passed_over() {
        let (path, thread) = server("sync", |mut stream| {
            let number = asked(&stream)["arguments"]["id"].clone();
            // The end of somebody's answer, another's, one of a frozen agent that was asked before.
            let text = b"urn\": {}}\n{\"return\": 7}\n\xff{\"return\": 8}\n{\"return\": 3}\n";
            stream.write_all(text).expect("said");
            stream.write_all(b"{\"half\xff").expect("said");
            stream.write_all(format!("{{\"return\": {number}}}\n").as_bytes()).expect("said");
            assert_eq!(asked(&stream)["execute"], "guest-fsfreeze-status");
            stream.write_all(b"{\"return\": \"frozen\"}\n").expect("said");
            assert_eq!(asked(&stream)["execute"], "guest-fsfreeze-thaw");
            let error = b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n";
            stream.write_all(error).expect("said");
        });
        let agent = open(&path, Duration::from_secs(5)).expect("it answers");
        assert_eq!(agent::freeze_status(&agent).expect("a status"), FreezeStatus::Frozen);
        let error = agent::thaw(&agent, Duration::from_secs(5)).expect_err("refused");
        assert!(error.to_string().contains("no"), "{error}");
        thread.join().expect("all as expected");
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn silence_noise_and_an_end_are_errors() {
        let failed = |path: &Path| why_not(path, SHORT);
        let (path, thread) = server("silence", |stream| {
            assert_eq!(asked(&stream)["execute"], "guest-sync-delimited");
            SystemClock.sleep(SHORT * 2);
        });
        assert!(failed(&path).contains("no answer in time"));
        thread.join().expect("as expected");
        assert!(failed(&path).contains("refused"));
        std::fs::remove_file(&path).expect("removed");
        assert!(failed(&path).contains("No such file"));
        let (path, thread) =
            server("noise", |mut stream| while stream.write_all(&[b'x'; 4096]).is_ok() {});
        let error = why_not(&path, Duration::from_secs(20));
        assert!(error.contains("a line of more than"), "{error}");
        thread.join().expect("as expected");
        let (path, thread) = server("end", drop);
        assert!(!failed(&path).is_empty());
        thread.join().expect("as expected");
        std::fs::remove_file(path).expect("removed");
    }

    /// Where libvirt is connected and another waits, nobody waits for ever.
    #[test]
    fn a_full_line_is_no_place_to_wait() {
        let path = std::env::temp_dir().join(format!("agent-{}-full", std::process::id()));
        std::fs::remove_file(&path).ok();
        let socket =
            rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
        let address = SocketAddrUnix::new(&path).expect("an address");
        rustix::net::bind(&socket, &address).expect("bound");
        rustix::net::listen(&socket, 0).expect("listening");
        let _first = UnixStream::connect(&path).expect("in line");
        let error = why_not(&path, SHORT);
        assert!(error.contains("no answer in time"), "{error}");
        std::fs::remove_file(path).expect("removed");
    }
}
