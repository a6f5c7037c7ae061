//! The agent inside a guest: freezing file systems, running commands.
//!
//! Source: QEMU's guest agent protocol (`qga/qapi-schema.json`). Commands go through libvirt, which
//! holds the agent's channel, each with a deadline of its own: an agent that hangs must not hold
//! anybody up.
//!
//! While its file systems are frozen an agent refuses everything but status and thaw.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};
use strongroom_base::Clock;

use crate::{
    Connection, Domain, HypervisorError,
    connection::arguments,
    error::{Result, number},
    rpc::{Procedure, xdr},
};

/// How long an agent may take for what should take no time.
pub const QUICK: Duration = Duration::from_secs(5);

/// The most bytes of a guest's file that are read.
const MAX_FILE: usize = 1 << 20;

/// Whether a guest's file systems are frozen, as its agent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FreezeStatus {
    /// Writable.
    Thawed,
    /// Frozen.
    Frozen,
}

/// What an agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentInfo {
    /// Its version.
    pub version: String,
    /// The commands that it obeys.
    pub commands: Vec<String>,
}

/// How a command in the guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i64>,
    /// The signal that ended it.
    pub signal: Option<i64>,
    /// Its standard output, as far as the agent kept it.
    pub stdout: Vec<u8>,
    /// Its standard error, likewise.
    pub stderr: Vec<u8>,
}

/// The agent of one machine. What it can do, fakes in tests can do as well.
pub trait Agent: Send + Sync {
    /// Sends a command with arguments and gives what it returns.
    fn command(&self, name: &str, arguments: Value, timeout: Duration) -> Result<Value>;

    /// By which its answers are waited for.
    fn clock(&self) -> &dyn Clock;
}

/// The agent of a machine, reached through libvirt.
#[derive(Clone, Copy, Debug)]
pub struct GuestAgent<'a> {
    connection: &'a Connection,
    domain: &'a Domain,
}

impl<'a> GuestAgent<'a> {
    /// The agent of `domain`. Nothing is sent yet.
    pub const fn new(connection: &'a Connection, domain: &'a Domain) -> Self {
        Self { connection, domain }
    }
}

impl Agent for GuestAgent<'_> {
    fn clock(&self) -> &dyn Clock {
        self.connection.clock()
    }

    fn command(&self, name: &str, given: Value, timeout: Duration) -> Result<Value> {
        let seconds = timeout.as_secs().max(1);
        let arguments = arguments(self.domain)
            .string(&request(name, given).to_string())
            .i32(i32::try_from(seconds).unwrap_or(i32::MAX))
            .u32(0);
        // libvirt ends the wait itself; we wait for its word.
        let wait = Duration::from_secs(seconds.saturating_add(15));
        let answer = self.connection.call_within(
            wait,
            "talking to the guest agent",
            Procedure::QemuDomainAgentCommand,
            arguments,
            xdr::optional_text,
        )?;
        returned(name, answer.as_deref().unwrap_or("{}").as_bytes())
    }
}

/// A command as the agent reads it.
pub(crate) fn request(name: &str, arguments: Value) -> Value {
    let mut command = json!({ "execute": name });
    if let (Some(object), false) = (command.as_object_mut(), arguments.is_null()) {
        object.insert("arguments".to_owned(), arguments);
    }
    command
}

/// What a command returned, from the agent's answer.
pub(crate) fn returned(name: &str, answer: &[u8]) -> Result<Value> {
    let unclear = |reason: &str| HypervisorError::Agent {
        command: name.to_owned(),
        reason: reason.to_owned(),
    };
    let answer: Value =
        serde_json::from_slice(answer).map_err(|_| unclear("its answer is no JSON"))?;
    if let Some(error) = answer.get("error") {
        let reason = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
        return Err(unclear(reason));
    }
    Ok(answer.get("return").cloned().unwrap_or(Value::Null))
}

/// Reads what a command returned.
fn read<T: serde::de::DeserializeOwned>(command: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| HypervisorError::Agent {
        command: command.to_owned(),
        reason: format!("its answer is not valid: {error}"),
    })
}

/// Whether the agent answers within `timeout`.
pub fn ping(agent: &dyn Agent, timeout: Duration) -> Result<()> {
    agent.command("guest-ping", Value::Null, timeout).map(drop)
}

/// What the agent is.
pub fn info(agent: &dyn Agent) -> Result<AgentInfo> {
    #[derive(Deserialize)]
    struct Info {
        version: String,
        supported_commands: Vec<Supported>,
    }
    #[derive(Deserialize)]
    struct Supported {
        name: String,
        enabled: bool,
    }
    let info: Info = read("guest-info", agent.command("guest-info", Value::Null, QUICK)?)?;
    let commands = info.supported_commands.into_iter();
    let commands = commands.filter(|command| command.enabled).map(|command| command.name);
    Ok(AgentInfo { version: info.version, commands: commands.collect() })
}

/// Freezes all file systems and returns their number. If this fails, they may still be frozen, or
/// freeze later: the caller must make sure that they are thawed.
pub fn freeze(agent: &dyn Agent, timeout: Duration) -> Result<u64> {
    let command = "guest-fsfreeze-freeze";
    read(command, agent.command(command, Value::Null, timeout)?)
}

/// Thaws all file systems and says how many were frozen. On Windows, 0 after a freeze says that VSS
/// had given up on its own.
pub fn thaw(agent: &dyn Agent, timeout: Duration) -> Result<u64> {
    let command = "guest-fsfreeze-thaw";
    read(command, agent.command(command, Value::Null, timeout)?)
}

/// Whether file systems are frozen.
pub fn freeze_status(agent: &dyn Agent) -> Result<FreezeStatus> {
    let command = "guest-fsfreeze-status";
    read(command, agent.command(command, Value::Null, QUICK)?)
}

/// The name of the guest's system: `debian`, `mswindows`, ...
pub fn os_id(agent: &dyn Agent) -> Result<String> {
    let info = agent.command("guest-get-osinfo", Value::Null, QUICK)?;
    Ok(info.get("id").and_then(Value::as_str).unwrap_or("unknown").to_owned())
}

/// Runs a program in the guest and waits for its end; none if it is not done in time, and then it
/// continues.
pub fn run(
    agent: &dyn Agent,
    path: &str,
    arguments: &[&str],
    timeout: Duration,
) -> Result<Option<Exit>> {
    wait(agent, spawn(agent, path, arguments)?, timeout)
}

/// Starts a program in the guest and gives its process id.
pub fn spawn(agent: &dyn Agent, path: &str, arguments: &[&str]) -> Result<u64> {
    #[derive(Deserialize)]
    struct Started {
        pid: u64,
    }
    let arguments = json!({ "path": path, "arg": arguments, "capture-output": true });
    let started: Started = read("guest-exec", agent.command("guest-exec", arguments, QUICK)?)?;
    Ok(started.pid)
}

/// Waits for the end of a program that the agent has started; none if it has not ended in time.
pub fn wait(agent: &dyn Agent, pid: u64, timeout: Duration) -> Result<Option<Exit>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Status {
        exited: bool,
        #[serde(rename = "exitcode")]
        code: Option<i64>,
        signal: Option<i64>,
        out_data: Option<String>,
        err_data: Option<String>,
    }
    let clock = agent.clock();
    let deadline = clock.monotonic().saturating_add(timeout);
    let mut pause = Duration::from_millis(5);
    loop {
        let command = "guest-exec-status";
        let status: Status = read(command, agent.command(command, json!({ "pid": pid }), QUICK)?)?;
        if status.exited {
            let text = |data: Option<String>| {
                STANDARD.decode(data.unwrap_or_default()).unwrap_or_default()
            };
            return Ok(Some(Exit {
                code: status.code,
                signal: status.signal,
                stdout: text(status.out_data),
                stderr: text(status.err_data),
            }));
        }
        if clock.monotonic() >= deadline {
            return Ok(None);
        }
        clock.sleep(pause);
        pause = pause.saturating_mul(2).min(Duration::from_millis(200));
    }
}

/// Reads a file of the guest; none if there is none or it cannot be opened.
pub fn read_file(agent: &dyn Agent, path: &str) -> Result<Option<Vec<u8>>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Part {
        count: usize,
        buf_b64: String,
        eof: bool,
    }
    let open = agent.command("guest-file-open", json!({ "path": path, "mode": "r" }), QUICK);
    let handle = match open {
        Ok(handle) => handle,
        Err(error) if refused(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    let result = loop {
        let arguments = json!({ "handle": handle, "count": 48 * 1024 });
        let part = agent.command("guest-file-read", arguments, QUICK);
        let part: Part = match part.and_then(|part| read("guest-file-read", part)) {
            Ok(part) => part,
            Err(error) => break Err(error),
        };
        content.extend(STANDARD.decode(part.buf_b64).unwrap_or_default());
        if part.eof || part.count == 0 {
            break Ok(Some(content));
        }
        if content.len() > MAX_FILE {
            break Err(HypervisorError::Agent {
                command: "guest-file-read".to_owned(),
                reason: format!("{path} is longer than {MAX_FILE} bytes"),
            });
        }
    };
    agent.command("guest-file-close", json!({ "handle": handle }), QUICK)?;
    result
}

/// Whether the agent answered, but said no.
fn refused(error: &HypervisorError) -> bool {
    matches!(error, HypervisorError::Agent { .. })
        || error.number() == Some(number::AGENT_COMMAND_FAILED)
        // libvirt 9 has no number of its own for it.
        || matches!(error, HypervisorError::Libvirt { message, .. }
            if message.contains("unable to execute QEMU agent command"))
}

impl fmt::Display for FreezeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Thawed => "thawed",
            Self::Frozen => "frozen",
        })
    }
}
