//! Which server a command speaks to, and the client for it.
//!
//! A server comes from --context, else from STRONGROOM_SERVER, else from STRONGROOM_CONTEXT, else it
//! is that of the context in use.
//!
//! A command that works both on a vault directly and through a server takes what the command line
//! names, else what the environment names, else the server of the context in use, else the vault of
//! the configuration file. So does a command on storage accounts, with their folder instead of a
//! vault. Whenever such a command has asked a server, its failure says which.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use strongroom_api::{Job, JobBegun, JobState, TaskName, TaskState};
use strongroom_base::{Message, Stage, SystemEntropy, message};
use strongroom_client::{Client, ClientError, Options, Trust};

use crate::{
    args::OpenArgs,
    context::{Asked, Context, variable},
    contexts::{Contexts, ServerContext},
    error::{FaceError, Failure},
    hosts, human,
    out::Show,
};

/// The variable that names the folder of the storage accounts of this machine.
const STORAGE_DIR: &str = "STRONGROOM_STORAGE_DIR";

/// A client of a server.
pub(crate) fn client_of(
    server: String,
    token: Option<String>,
    trust: Trust,
    hurry: Option<Duration>,
) -> Result<Client, Failure> {
    let entropy = Arc::new(SystemEntropy);
    Ok(Client::new(Options { server, token, trust, entropy, hurry })?)
}

/// The server that the environment names.
fn of_environment() -> Option<ServerContext> {
    Some(ServerContext {
        server: variable("STRONGROOM_SERVER")?,
        user: None,
        token: variable("STRONGROOM_TOKEN").unwrap_or_default(),
        expires: None,
        ca_file: variable("STRONGROOM_CA_FILE").map(PathBuf::from),
        fingerprint: variable("STRONGROOM_FINGERPRINT"),
    })
}

/// The variable that names a vault or its key, if one does.
fn vault_variable() -> Option<&'static str> {
    ["STRONGROOM_VAULT", "STRONGROOM_KEY_FILE", "STRONGROOM_PASSPHRASE_FILE", "STRONGROOM_PKCS11"]
        .into_iter()
        .find(|name| variable(name).is_some())
}

/// The server that is named, and the name of its context if it has one.
pub(crate) fn chosen(
    given: Option<&str>,
) -> Result<Option<(Option<String>, ServerContext)>, Failure> {
    if given.is_none()
        && let Some(server) = of_environment()
    {
        return Ok(Some((None, server)));
    }
    let contexts = Contexts::load()?;
    let named = given.map(str::to_owned).or_else(|| variable("STRONGROOM_CONTEXT"));
    match named.or_else(|| contexts.current.clone()) {
        Some(name) => {
            let found = contexts.get(&name)?.clone();
            Ok(Some((Some(name), found)))
        }
        None => Ok(None),
    }
}

/// The client of the server that is named, in a hurry if so.
pub(crate) fn client(given: Option<&str>, hurry: Option<Duration>) -> Result<Client, Failure> {
    let (_, server) = chosen(given)?.ok_or(FaceError::NoServer)?;
    let trust = server.trust()?;
    let token = Some(server.token).filter(|token| !token.is_empty());
    client_of(server.server, token, trust, hurry)
}

impl Context {
    /// The client of the server that was named.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        client(self.of_server.as_deref(), None)
    }

    /// Whether a command that can do both works on a vault directly: because a vault or key was
    /// named on the command line or in the environment, or because there is no server.
    pub(crate) fn is_direct(&self, open: &OpenArgs) -> Result<bool, Failure> {
        let named = open.is_given();
        if named && self.of_server.is_some() {
            return Err(Failure::usage(
                "--context names a server, and --vault or a key a vault without one: give one of them",
            ));
        }
        if named {
            return Ok(true);
        }
        if self.of_server.is_none()
            && let Some(vault) = vault_variable()
        {
            let server = ["STRONGROOM_SERVER", "STRONGROOM_CONTEXT"];
            if let Some(server) = server.into_iter().find(|name| variable(name).is_some()) {
                return Err(Failure::usage(format!(
                    "{vault} names a vault without a server, and {server} a server: give --vault \
                     or --context, or unset one of them"
                )));
            }
            return Ok(true);
        }
        let Some((name, server)) = chosen(self.of_server.as_deref())? else { return Ok(true) };
        let name = name.map(|name| format!(" (context {name})")).unwrap_or_default();
        let instead = "For a vault without a server, give --vault.";
        self.asked.set(Asked { server: format!("{}{name}", server.server), instead }).ok();
        if let (Some(Asked { server, .. }), Some(vault)) =
            (self.asked.get(), self.configured_vault())
        {
            self.out.say(&format!(
                "Asking the server {server}, not the vault {vault} of the configuration file; for \
                 that give --vault."
            ));
        }
        Ok(false)
    }

    /// Whether a command that can do both works on the storage accounts of this machine: because their folder was
    /// named on the command line or in the environment, or because there is no server.
    pub(crate) fn has_accounts_here(&self, folder: Option<&Path>) -> Result<bool, Failure> {
        let by_variable = variable(STORAGE_DIR).map(PathBuf::from).as_deref() == folder;
        match (folder, &self.of_server) {
            (Some(_), Some(_)) if !by_variable => {
                return Err(Failure::usage(
                    "--context names a server, and --data-dir a folder of this machine: give one of them",
                ));
            }
            (Some(_), None) => {
                let server = ["STRONGROOM_SERVER", "STRONGROOM_CONTEXT"];
                if let Some(server) = server.into_iter().find(|name| variable(name).is_some())
                    && by_variable
                {
                    return Err(Failure::usage(format!(
                        "{STORAGE_DIR} names a folder of this machine, and {server} a server: give --data-dir or \
                         --context, or unset one of them"
                    )));
                }
                return Ok(true);
            }
            _ => {}
        }
        let Some((name, server)) = chosen(self.of_server.as_deref())? else { return Ok(true) };
        let name = name.map(|name| format!(" (context {name})")).unwrap_or_default();
        let server = format!("{}{name}", server.server);
        let instead = "For the storage accounts of this machine, give --data-dir.";
        let own = hosts::data_dir().join("storage");
        if self.of_server.is_none() && own.exists() {
            let own = own.display();
            self.out.say(&format!("Asking the server {server}, not the folder {own}. {instead}"));
        }
        self.asked.set(Asked { server, instead }).ok();
        Ok(false)
    }

    /// What a command does that has begun a job: it says which, and waits for it if it should.
    pub(crate) fn begun(
        &self,
        client: &Client,
        begun: &JobBegun,
        wait: bool,
    ) -> Result<(), Failure> {
        if wait {
            return self.wait_for(client, &begun.job.to_string());
        }
        self.out.say(&format!(
            "The job runs in the background. Follow it with `strongroom job wait {}`.",
            begun.job
        ));
        self.out.result(&Begun(begun))
    }

    /// Waits for a job, shows how far it is, prints it, and fails if it failed.
    pub(crate) fn wait_for(&self, client: &Client, id: &str) -> Result<(), Failure> {
        let job = self.watched(|progress| {
            let mut before = strongroom_api::Progress::default();
            let mut announced = None;
            client.wait(id, &self.cancel, &mut |job: &Job| {
                if announced != job.not_before
                    && let Some(words) = tried(job)
                {
                    announced = job.not_before;
                    self.out.say(&words);
                }
                progress.set_stage(stage(job));
                let now = job.progress.unwrap_or(before);
                progress.advance(now.done_bytes.saturating_sub(before.done_bytes));
                progress.add_total(now.total_bytes.saturating_sub(before.total_bytes));
                progress.add_stored(now.stored_bytes.saturating_sub(before.stored_bytes));
                before = now;
            })
        });
        let job = match job {
            Err(ClientError::Interrupted) => {
                return Err(Failure::from(ClientError::Interrupted).with_hint(format!(
                    "The job continues: `strongroom job wait {id}` waits for it again, `strongroom job cancel {id}` cancels it."
                )));
            }
            other => other?,
        };
        self.out.result(&job)?;
        outcome(job)
    }
}

/// A job that was begun.
#[derive(Serialize)]
#[serde(transparent)]
struct Begun<'a>(&'a JobBegun);

impl Show for Begun<'_> {
    fn show(&self) -> String {
        format!("{}\n", self.0.job)
    }
}

/// Why a job waits that was tried, and how long.
fn tried(job: &Job) -> Option<String> {
    let (error, next) = (job.error.as_ref()?, job.not_before?);
    if job.state != JobState::Queued {
        return None;
    }
    let why = human::printable(&error.message);
    let (now, most, next) = (job.current_try(), job.max_tries, human::time(next));
    Some(match now {
        0 => format!("{why} It resumes by itself."),
        _ => format!("Try {now} of {most} failed: {why}. The next try is at {next}."),
    })
}

/// The name of a job's work while it runs.
fn stage(job: &Job) -> Stage {
    let at_work = job.tasks.iter().find(|task| task.state == TaskState::InProgress);
    match (job.state, at_work.map(|task| &task.name)) {
        (JobState::Queued, _) => Stage::Waiting,
        (JobState::Cancelling, _) => Stage::Cancelling,
        (_, Some(TaskName::Snapshot)) => Stage::Snapshot,
        (_, Some(TaskName::Transfer)) => Stage::Transfer,
        (_, Some(TaskName::Validate)) => Stage::Validating,
        (_, Some(TaskName::Restore)) => Stage::Restoring,
        _ => Stage::Working,
    }
}

/// Success or failure, as the job's own.
pub(crate) fn outcome(job: Job) -> Result<(), Failure> {
    let failed = |message: Message| Err(FaceError::Answered(Box::new(message.into())).into());
    match job.state {
        JobState::Failed => match job.error {
            Some(error) => Err(FaceError::Answered(Box::new(error)).into()),
            None => failed(message!(
                SERVER_PROTOCOL,
                "the job {job} failed and does not say why",
                job = job.id
            )),
        },
        JobState::Cancelled => {
            failed(message!(JOB_CANCELLED, "the job {job} was cancelled", job = job.id))
        }
        JobState::CompletedWithWarnings => {
            let words: Vec<String> =
                job.warnings.into_iter().map(|warning| warning.message).collect();
            let words =
                if words.is_empty() { "with warnings".to_owned() } else { words.join("; ") };
            Err(FaceError::JobWarnings(format!("the job is done, but: {words}")).into())
        }
        _ => Ok(()),
    }
}

/// What a user types that nobody should see; from the terminal.
pub(crate) fn secret(prompt: &str) -> Result<String, Failure> {
    let terminal = console::Term::stderr();
    let failed = |source| FaceError::Local { path: "/dev/tty".into(), action: "read", source };
    if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Err(Failure::usage(format!("{prompt} cannot be asked for: there is no terminal")));
    }
    terminal.write_str(&format!("{prompt}: ")).map_err(failed)?;
    Ok(terminal.read_secure_line().map_err(failed)?)
}

/// What a file holds that nobody should see; of standard input if it is `-`.
pub(crate) fn secret_file(file: &Path) -> Result<String, Failure> {
    let text = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let failed = |source| FaceError::Local { path: file.to_owned(), action: "read", source };
    let text = text.map_err(failed)?;
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() || line.contains(['\r', '\n']) {
        return Err(Failure::usage(format!("{} must hold exactly one line", file.display())));
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use strongroom_api::ErrorBody;
    use strongroom_base::codes;

    use super::*;

    /// A backup whose host does not answer, after its first try.
    fn waiting() -> Job {
        let hint = codes::HOST_UNAVAILABLE.hint;
        let mut error = ErrorBody::new(&codes::HOST_UNAVAILABLE, "libvirt on kvm1 does not answer");
        hint.clone_into(&mut error.hint);
        let job = serde_json::json!({
            "id": "01JD3W6E0ZGQ6Q0PZ2R3V9M5TB", "kind": "backup", "state": "queued",
            "trigger": "on_demand", "requested_by": "ann", "subject": "web01", "tasks": [],
            "error": error, "attempt": 1, "max_tries": 3, "created": "2026-11-28T16:00:00Z",
            "not_before": "2026-11-28T16:05:00Z",
        });
        serde_json::from_value(job).expect("a job")
    }

    #[test]
    fn a_host_that_is_away_is_told_with_the_try_and_the_next_one() {
        let job = waiting();
        let announced = tried(&job).expect("it is announced");
        let next = human::time(job.not_before.expect("a moment"));
        assert_eq!(
            announced,
            format!(
                "Try 1 of 3 failed: libvirt on kvm1 does not answer. The next try is at {next}."
            )
        );
        let shown = job.show();
        for words in [
            "State       queued",
            &format!("Next try    {next}"),
            "Try         1 of 3",
            "Error       libvirt on kvm1 does not answer",
            "What to do  ",
            "Code        host.unavailable",
        ] {
            assert!(shown.contains(words), "{words:?} is not in\n{shown}");
        }
        // A try that the server's end has cut short is none.
        let cut = tried(&Job { interruptions: 1, ..job.clone() }).expect("it is announced");
        assert!(cut.ends_with("It resumes by itself."), "{cut}");
        // While it is at work, nothing waits.
        assert_eq!(tried(&Job { state: JobState::InProgress, ..job }), None);
    }

    #[test]
    fn a_job_that_was_cancelled_is_called_so() {
        let of = |state| Job { state, ..waiting() };
        assert_eq!(stage(&of(JobState::Cancelling)), Stage::Cancelling);
        let failure = outcome(of(JobState::Cancelled)).expect_err("it was cancelled");
        assert_eq!(failure.code(), &codes::JOB_CANCELLED);
        assert!(failure.to_text().contains("was cancelled"), "{}", failure.to_text());
    }
}
