//! A token's module in a process of its own.
//!
//! A module is a foreign library: it can crash, hang, or hold all that the process has in its memory. So
//! the program starts itself again, as a process that loads the module and answers questions over a
//! socket, one line of JSON each:
//!
//! ```text
//!  vault ── open: URI, PIN; kek: challenge ──▶ process ──▶ module ──▶ token
//!        ◀── opened: names; kek: key; failed: why ──
//! ```
//!
//! The process ends with its socket. One that does not answer in time is killed.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Mutex,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use strongroom_base::{Clock as _, SystemClock, lock};
use strongroom_format::secret::SecretKey;
use zeroize::Zeroizing;

use super::{KeyError, Pkcs11Uri, pkcs11::Token};

/// The longest question or answer.
const LONGEST: u64 = 256 * 1024;

/// How long a process may take to end after its socket.
const END: Duration = Duration::from_secs(2);

/// How often it is looked at.
const STEP: Duration = Duration::from_millis(2);

/// How the process of a module is started: our own program with words that make it one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How long it may take to answer: tokens behind a network are slow.
    pub patience: Duration,
}

impl ModuleCommand {
    /// This program again, even if its file was replaced meanwhile.
    pub fn this_program(word: &str) -> Self {
        Self {
            program: "/proc/self/exe".into(),
            arguments: vec![word.to_owned()],
            patience: Duration::from_mins(1),
        }
    }
}

/// What the process is asked.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    /// Load the module, and find token and key. Always the first.
    Open { uri: Box<Pkcs11Uri>, pin: Option<String> },
    /// The key-encryption key for a challenge.
    Kek { challenge: String },
}

/// What it answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Opened { token: String, object: String },
    Kek { key: String },
    Failed { what: String },
}

/// A token that another process holds.
pub(super) struct Process {
    names: (String, String),
    line: Mutex<Line>,
}

/// The way to it.
struct Line {
    child: Child,
    socket: BufReader<UnixStream>,
    patience: Duration,
}

fn hsm(what: impl Into<String>) -> KeyError {
    KeyError::Hsm { what: what.into(), source: None }
}

impl Process {
    /// Starts a process, which loads the module, logs in with the PIN and finds the key.
    pub(super) fn open(
        command: &ModuleCommand,
        uri: &Pkcs11Uri,
        pin: Option<&str>,
    ) -> Result<Self, KeyError> {
        let failed = |error: io::Error| hsm(format!("no process for the module: {error}"));
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_read_timeout(Some(command.patience)).map_err(failed)?;
        ours.set_write_timeout(Some(command.patience)).map_err(failed)?;
        let child = Command::new(&command.program)
            .args(&command.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let mut line = Line { child, socket: BufReader::new(ours), patience: command.patience };
        let pin = pin.map(str::to_owned);
        match line.ask(&Question::Open { uri: Box::new(uri.clone()), pin })? {
            Answer::Opened { token, object } => {
                Ok(Self { names: (token, object), line: Mutex::new(line) })
            }
            Answer::Failed { what } => Err(hsm(what)),
            Answer::Kek { .. } => Err(hsm("the module's process answers another question")),
        }
    }

    pub(super) fn names(&self) -> (String, String) {
        self.names.clone()
    }

    pub(super) fn kek(&self, challenge: &[u8; 64]) -> Result<SecretKey, KeyError> {
        let question = Question::Kek { challenge: STANDARD.encode(challenge) };
        let mut line = lock(&self.line);
        match line.ask(&question)? {
            Answer::Kek { key } => {
                let key = Zeroizing::new(key);
                let bytes = Zeroizing::new(STANDARD.decode(&*key).unwrap_or_default());
                let bytes: Zeroizing<[u8; 32]> = match bytes.as_slice().try_into() {
                    Ok(bytes) => Zeroizing::new(bytes),
                    Err(_) => return Err(hsm("the module's process answers no key")),
                };
                Ok(SecretKey::new(*bytes))
            }
            Answer::Failed { what } => Err(hsm(what)),
            Answer::Opened { .. } => Err(hsm("the module's process answers another question")),
        }
    }
}

impl Line {
    fn ask(&mut self, question: &Question) -> Result<Answer, KeyError> {
        match self.exchange(question) {
            Ok(answer) => Ok(answer),
            Err(error) if is_late(&error) => {
                let seconds = self.patience.as_secs_f32();
                Err(hsm(format!("the module does not answer within {seconds} seconds")))
            }
            Err(error) => Err(hsm(match self.ended() {
                Some(status) => format!("the module has ended its process ({status})"),
                None => format!("the module's process: {error}"),
            })),
        }
    }

    fn exchange(&mut self, question: &Question) -> io::Result<Answer> {
        let mut line = Zeroizing::new(serde_json::to_vec(question)?);
        line.push(b'\n');
        self.socket.get_mut().write_all(&line)?;
        let line = read_line(&mut self.socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(serde_json::from_slice(&line)?)
    }

    /// How it has ended, if it does so soon.
    fn ended(&mut self) -> Option<ExitStatus> {
        let begun = SystemClock.monotonic();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if SystemClock.monotonic().saturating_sub(begun) < END => {
                    SystemClock.sleep(STEP);
                }
                _ => return None,
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // It ends its session with the token when it reads the end. One that is stuck does not.
        self.socket.get_mut().shutdown(std::net::Shutdown::Both).ok();
        if self.ended().is_none() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A line of bounded length; none at the end.
fn read_line(socket: &mut BufReader<UnixStream>) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut line = Zeroizing::new(Vec::new());
    socket.take(LONGEST).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end")),
    }
}

/// Is the process of a module, until the socket ends.
pub fn serve_module(socket: UnixStream) -> io::Result<()> {
    let mut socket = BufReader::new(socket);
    let mut token = None;
    while let Some(line) = read_line(&mut socket)? {
        let answer = answer(serde_json::from_slice(&line)?, &mut token);
        let mut line = Zeroizing::new(serde_json::to_vec(&answer)?);
        line.push(b'\n');
        socket.get_mut().write_all(&line)?;
    }
    Ok(())
}

fn answer(question: Question, token: &mut Option<Token>) -> Answer {
    let done = match (question, token.as_ref()) {
        (Question::Open { uri, pin }, _) => {
            let pin = pin.map(Zeroizing::new);
            Token::open(&uri, pin.as_ref().map(|pin| pin.as_str())).map(|opened| {
                let (label, object) = opened.names();
                *token = Some(opened);
                Answer::Opened { token: label, object }
            })
        }
        (Question::Kek { .. }, None) => Err(hsm("no token is open")),
        (Question::Kek { challenge }, Some(token)) => {
            let challenge = STANDARD.decode(challenge).unwrap_or_default();
            match challenge.as_slice().try_into() {
                Ok(challenge) => token
                    .kek(challenge)
                    .map(|key| Answer::Kek { key: STANDARD.encode(key.as_bytes()) }),
                Err(_) => Err(hsm("a challenge has 64 bytes")),
            }
        }
    };
    done.unwrap_or_else(|error| {
        let what = match &error {
            KeyError::Hsm { what, source: Some(source) } => format!("{what}: {source}"),
            KeyError::Hsm { what, source: None } => what.clone(),
            error => error.to_string(),
        };
        Answer::Failed { what }
    })
}
