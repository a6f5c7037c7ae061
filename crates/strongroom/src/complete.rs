//! Names for the shell to complete, from the server and the contexts.
//!
//! A shell that completes wants an answer at once or none: everything here is asked for in a hurry,
//! and whatever goes wrong is no answer.

use std::time::Duration;

use clap_complete::{ArgValueCandidates, CompletionCandidate};
use strongroom_client::{Client, ItemQuery, JobQuery};

use crate::{contexts::Contexts, session};

/// How long a shell is kept waiting for each answer.
const HURRY: Duration = Duration::from_millis(1500);
/// No list that is longer helps anybody.
const MANY: usize = 200;

/// The value of an option in the line that is being completed.
fn given(option: &str) -> Option<String> {
    let words: Vec<String> = std::env::args().collect();
    let at_once = format!("{option}=");
    words.iter().enumerate().find_map(|(index, word)| match word.strip_prefix(&at_once) {
        Some(value) => Some(value.to_owned()),
        None if word == option => words.get(index.saturating_add(1)).cloned(),
        None => None,
    })
}

/// Candidates that a server knows.
fn of_server(
    ask: fn(&Client) -> Vec<CompletionCandidate>,
) -> impl Fn() -> Vec<CompletionCandidate> + Send + Sync {
    move || match session::client(given("--context").as_deref(), Some(HURRY)) {
        Ok(client) => ask(&client),
        Err(_) => Vec::new(),
    }
}

fn named<T, E>(
    things: impl Iterator<Item = Result<T, E>>,
    name: impl Fn(T) -> String,
) -> Vec<CompletionCandidate> {
    things.take(MANY).map_while(Result::ok).map(|one| CompletionCandidate::new(name(one))).collect()
}

/// Vaults.
pub(crate) fn vaults() -> ArgValueCandidates {
    ArgValueCandidates::new(of_server(|client| named(client.vaults(), |vault| vault.name)))
}

/// Hosts.
pub(crate) fn hosts() -> ArgValueCandidates {
    ArgValueCandidates::new(of_server(|client| named(client.hosts(), |host| host.name)))
}

/// Items, of the vault that the line names if it does.
pub(crate) fn items() -> ArgValueCandidates {
    ArgValueCandidates::new(of_server(|client| {
        let which = ItemQuery { vault: given("--vault-name"), ..ItemQuery::default() };
        named(client.items(which), |item| item.name)
    }))
}

/// Policies: of the vault that the line names, or of all.
pub(crate) fn policies() -> ArgValueCandidates {
    ArgValueCandidates::new(of_server(|client| {
        let vaults = match given("--vault-name") {
            Some(vault) => vec![vault],
            None => client.vaults().take(10).map_while(Result::ok).map(|one| one.name).collect(),
        };
        let of = |vault: &String| named(client.policies(vault), |policy| policy.name);
        vaults.iter().flat_map(of).collect()
    }))
}

/// Jobs, the newest first, with what they do.
pub(crate) fn jobs() -> ArgValueCandidates {
    ArgValueCandidates::new(of_server(|client| {
        let jobs = client.jobs(JobQuery::default()).take(50).map_while(Result::ok);
        jobs.map(|job| {
            let words = format!("{} {} {}", job.kind, job.subject, job.state).replace('_', " ");
            CompletionCandidate::new(job.id.to_string()).help(Some(words.into()))
        })
        .collect()
    }))
}

/// Contexts.
pub(crate) fn contexts() -> ArgValueCandidates {
    ArgValueCandidates::new(|| match Contexts::load() {
        Ok(contexts) => contexts.contexts.into_keys().map(CompletionCandidate::new).collect(),
        Err(_) => Vec::new(),
    })
}
