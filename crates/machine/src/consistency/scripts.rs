//! Pre and post scripts in the guest.
//!
//! The configuration file and its fields are those of Azure Backup's Linux extension
//! (`VMSnapshotScriptPluginConfig.json`), so that a guest prepared for it works here. Differences,
//! each on purpose: a timed-out script is killed with all its children; retries really run it
//! again; the script's first line (`#!`) is honoured.

use std::time::Duration;

use serde::Deserialize;
use strongroom_hypervisor::{
    HypervisorError,
    agent::{self, Agent, QUICK},
};

/// Where the configuration is looked for, in this order.
const PLACES: [&str; 2] = [
    "/etc/strongroom/VMSnapshotScriptPluginConfig.json",
    "/etc/azure/VMSnapshotScriptPluginConfig.json",
];

/// The longest that a script may be allowed, as at Azure.
const MAX_TIMEOUT: u64 = 1800;

/// The most of a script's words that are kept as evidence.
const MAX_WORDS: usize = 200;

/// One script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    /// `pre` or `post`.
    pub(crate) kind: &'static str,
    /// Its path in the guest.
    pub(crate) path: String,
    /// Its parameters.
    pub(crate) parameters: Vec<String>,
    /// How often it is tried again.
    pub(crate) retries: u32,
    /// How long one try may take.
    pub(crate) timeout: Duration,
}

/// What a guest's configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scripts {
    /// Before the freeze.
    pub(crate) pre: Script,
    /// After the thaw.
    pub(crate) post: Script,
    /// Whether the backup continues when a script fails.
    pub(crate) continue_on_failure: bool,
    /// Whether file systems are frozen between the scripts.
    pub(crate) freeze: bool,
    /// The file that said so.
    pub(crate) config: &'static str,
}

/// Why scripts cannot be used, or why one failed: the name that Azure gives it, and the details.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {detail}")]
pub(crate) struct ScriptFailure {
    pub(crate) name: &'static str,
    pub(crate) detail: String,
    /// Whether the agent did not do what it was asked, so that nobody knows what the script did.
    pub(crate) is_agents: bool,
}

impl ScriptFailure {
    /// The agent cannot be asked.
    pub(crate) fn of_agent(error: &HypervisorError) -> Self {
        Self { is_agents: true, ..failure("Post-ScriptExecutionFailed", error.to_string()) }
    }
}

fn failure(name: &'static str, detail: impl Into<String>) -> ScriptFailure {
    ScriptFailure { name, detail: detail.into(), is_agents: false }
}

/// The file, with Azure's names and defaults.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    pre_script_location: String,
    #[serde(default)]
    post_script_location: String,
    #[serde(default)]
    pre_script_params: Vec<String>,
    #[serde(default)]
    post_script_params: Vec<String>,
    #[serde(default)]
    pre_script_no_of_retries: u32,
    #[serde(default)]
    post_script_no_of_retries: u32,
    #[serde(default = "default_timeout")]
    timeout_in_seconds: u64,
    #[serde(default = "yes")]
    continue_backup_on_failure: bool,
    #[serde(default = "yes")]
    fs_freeze_enabled: bool,
}

const fn default_timeout() -> u64 {
    10
}

const fn yes() -> bool {
    true
}

/// Reads the configuration; none if the guest has none.
pub(crate) fn load(guest: &dyn Agent) -> Result<Option<Scripts>, ScriptFailure> {
    for place in PLACES {
        let content = agent::read_file(guest, place)
            .map_err(|error| failure("IncorrectJSONConfigFile", error.to_string()))?;
        if let Some(content) = content {
            check_owner(guest, place, 0o600, "InsufficientPermissionforConfig")?;
            let scripts = parse(&content, place)?;
            for script in [&scripts.pre, &scripts.post] {
                let name = match script.kind {
                    "pre" => "InsufficientPermissionforPre-Script",
                    _ => "InsufficientPermissionforPost-Script",
                };
                check_owner(guest, &script.path, 0o700, name)?;
            }
            return Ok(Some(scripts));
        }
    }
    Ok(None)
}

fn parse(content: &[u8], place: &'static str) -> Result<Scripts, ScriptFailure> {
    let wrong = |detail: String| failure("IncorrectJSONConfigFile", format!("{place}: {detail}"));
    let config: Config =
        serde_json::from_slice(content).map_err(|error| wrong(error.to_string()))?;
    let timeout = Duration::from_secs(config.timeout_in_seconds.clamp(1, MAX_TIMEOUT));
    // The template's empty parameters are none.
    let filled = |parameters: Vec<String>| {
        let is_empty = parameters.iter().all(String::is_empty);
        if is_empty { Vec::new() } else { parameters }
    };
    let script = |kind, path: String, parameters, retries| {
        if !path.starts_with('/') {
            let name = if kind == "pre" { "Pre-ScriptNotFound" } else { "Post-ScriptNotFound" };
            return Err(failure(name, format!("{place} gives no absolute path for it")));
        }
        Ok(Script { kind, path, parameters: filled(parameters), retries, timeout })
    };
    Ok(Scripts {
        pre: script(
            "pre",
            config.pre_script_location,
            config.pre_script_params,
            config.pre_script_no_of_retries,
        )?,
        post: script(
            "post",
            config.post_script_location,
            config.post_script_params,
            config.post_script_no_of_retries,
        )?,
        continue_on_failure: config.continue_backup_on_failure,
        freeze: config.fs_freeze_enabled,
        config: place,
    })
}

/// A file that runs as root, or says what does, must be root's and nobody else's to write or read.
fn check_owner(
    guest: &dyn Agent,
    path: &str,
    most: u32,
    name: &'static str,
) -> Result<(), ScriptFailure> {
    let exit = agent::run(guest, "stat", &["-L", "-c", "%u %a", path], QUICK)
        .map_err(|error| failure(name, error.to_string()))?;
    let exit = exit.ok_or_else(|| failure(name, format!("stat {path} did not end")))?;
    let words = String::from_utf8_lossy(&exit.stdout).into_owned();
    let mut words = words.split_whitespace();
    let owner: Option<u32> = words.next().and_then(|word| word.parse().ok());
    let mode = words.next().and_then(|word| u32::from_str_radix(word, 8).ok());
    match (owner, mode) {
        (Some(0), Some(mode)) if mode & !most == 0 => Ok(()),
        (Some(owner), Some(mode)) => Err(failure(
            name,
            format!("{path} has owner {owner} and mode {mode:o}; it must be root's with {most:o}"),
        )),
        _ if name.ends_with("Pre-Script") => {
            Err(failure("Pre-ScriptNotFound", format!("{path} is not there")))
        }
        _ if name.ends_with("Post-Script") => {
            Err(failure("Post-ScriptNotFound", format!("{path} is not there")))
        }
        _ => Err(failure(name, format!("{path} cannot be looked at"))),
    }
}

/// Runs a script, again and again if it may, and says in how many tries it succeeded. Each process
/// is made known to `started`.
pub(crate) fn run(
    guest: &dyn Agent,
    script: &Script,
    started: &mut dyn FnMut(u64),
) -> Result<u32, ScriptFailure> {
    let mut tries = 0_u32;
    loop {
        tries = tries.saturating_add(1);
        match run_once(guest, script, started) {
            Ok(()) => return Ok(tries),
            Err(failed) if tries > script.retries => {
                let detail = format!("{} (in {tries} tries)", failed.detail);
                return Err(ScriptFailure { detail, ..failed });
            }
            Err(failed) => tracing::warn!(%failed, script = script.kind, "tried again"),
        }
    }
}

fn run_once(
    guest: &dyn Agent,
    script: &Script,
    started: &mut dyn FnMut(u64),
) -> Result<(), ScriptFailure> {
    let (failed, late) = match script.kind {
        "pre" => ("Pre-ScriptExecutionFailed", "Pre-ScriptTimeout"),
        _ => ("Post-ScriptExecutionFailed", "Post-ScriptTimeout"),
    };
    let path = &script.path;
    // In a session of its own, so that it can be killed with all its children. The shell runs
    // what has no first line that says how.
    let start = "exec setsid sh -c 'exec \"$0\" \"$@\"' \"$0\" \"$@\"";
    let mut arguments = vec!["-c", start, path.as_str()];
    arguments.extend(script.parameters.iter().map(String::as_str));
    let agents = |error: HypervisorError| ScriptFailure {
        is_agents: true,
        ..failure(failed, error.to_string())
    };
    let pid = agent::spawn(guest, "/bin/sh", &arguments).map_err(agents)?;
    started(pid);
    let exit = agent::wait(guest, pid, script.timeout).map_err(agents)?;
    if exit.is_none() {
        kill(guest, pid).map_err(agents)?;
    }
    let Some(exit) = exit else {
        let seconds = script.timeout.as_secs();
        return Err(failure(late, format!("{path} ran longer than {seconds} s and was killed")));
    };
    if exit.code == Some(0) {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&exit.stderr);
    let words: String = words.trim().chars().take(MAX_WORDS).collect();
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    };
    Err(failure(failed, format!("{path} ended with {how}: {words}")))
}

/// Kills a script with all its children.
fn kill(guest: &dyn Agent, pid: u64) -> Result<(), HypervisorError> {
    let command = format!("kill -KILL -{pid} || kill -KILL {pid}");
    agent::run(guest, "/bin/sh", &["-c", &command], QUICK).map(drop)
}

/// Runs a post script whose backup has died; the script that the backup was running, if it still
/// runs, is killed before.
pub(crate) fn run_script(
    guest: &dyn Agent,
    path: &str,
    arguments: &[String],
    timeout: Duration,
    running: Option<u64>,
) -> Result<(), ScriptFailure> {
    if let Some(pid) = running {
        // The agent forgets a process once it has reported its end; then the number may be another's.
        if agent::wait(guest, pid, Duration::ZERO).is_ok_and(|exit| exit.is_none()) {
            kill(guest, pid).ok();
        }
    }
    let parameters = arguments.to_vec();
    let script = Script { kind: "post", path: path.to_owned(), parameters, retries: 0, timeout };
    run_once(guest, &script, &mut drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = PLACES[1];

    #[test]
    fn azures_template_with_two_scripts() {
        let text = r#"{"pluginName": "ScriptRunner", "preScriptLocation": "/etc/azure/pre.sh",
            "postScriptLocation": "/etc/azure/post.sh", "preScriptParams": ["", ""],
            "postScriptParams": ["a", ""], "preScriptNoOfRetries": 2, "postScriptNoOfRetries": 0,
            "timeoutInSeconds": 30, "continueBackupOnFailure": false, "fsFreezeEnabled": true}"#;
        let scripts = parse(text.as_bytes(), PLACE).expect("right");
        assert_eq!(scripts.pre.retries, 2);
        assert_eq!(scripts.pre.timeout, Duration::from_secs(30));
        assert!(scripts.pre.parameters.is_empty());
        assert_eq!(scripts.post.parameters, ["a", ""]);
        assert!(!scripts.continue_on_failure && scripts.freeze);
    }

    #[test]
    fn the_settings_of_scripts_on_the_page_are_taken() {
        let page = include_str!("../../../../docs/use/machines.md");
        let block = page.split("```json\n").nth(1).expect("the settings");
        let block = block.split("```").next().expect("an end");
        let scripts = parse(block.as_bytes(), PLACE).expect("right");
        assert_eq!(scripts.pre.path, "/etc/strongroom/pre.sh");
        assert_eq!(scripts.post.timeout, Duration::from_secs(30));
        assert!(scripts.continue_on_failure && scripts.freeze);
    }

    #[test]
    fn wrong_files() {
        let name = |text: &str| parse(text.as_bytes(), PLACE).expect_err(text).name;
        assert_eq!(name("{"), "IncorrectJSONConfigFile");
        assert_eq!(name(r#"{"timeoutInSeconds": "x"}"#), "IncorrectJSONConfigFile");
        assert_eq!(name("{}"), "Pre-ScriptNotFound");
        assert_eq!(name(r#"{"preScriptLocation": "/a"}"#), "Post-ScriptNotFound");
        let defaults = r#"{"preScriptLocation": "/a", "postScriptLocation": "/b"}"#;
        let scripts = parse(defaults.as_bytes(), PLACE).expect("right");
        assert_eq!(scripts.pre.timeout, Duration::from_secs(10));
        assert!(scripts.continue_on_failure && scripts.freeze);
    }
}
