//! Names for the shell to complete: from the server, the vault, libvirt and the contexts.
//!
//! A shell that completes wants an answer at once or none: everything here is asked for in a hurry,
//! and whatever goes wrong is no answer.

use std::{sync::mpsc::channel, time::Duration};

use clap_complete::{ArgValueCandidates, CompletionCandidate};
use strongroom_api::RecoveryPoint;
use strongroom_base::{Cancel, start_thread};
use strongroom_client::{Client, ItemQuery, JobQuery};
use strongroom_vault::Vault;

use crate::{
    args::{GlobalArgs, KeyArgs, OpenArgs, VaultArgs},
    context::Context,
    contexts::Contexts,
    hosts::ConnectArgs,
    human,
    open::open_vault,
    session,
};

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
    ArgValueCandidates::new(of_server(items_of_server))
}

fn items_of_server(client: &Client) -> Vec<CompletionCandidate> {
    let which = ItemQuery { vault: given("--vault-name"), ..ItemQuery::default() };
    named(client.items(which), |item| item.name)
}

/// Names that something other than a server knows, if it tells them in time.
fn in_time(
    ask: fn() -> Option<Vec<CompletionCandidate>>,
) -> impl Fn() -> Vec<CompletionCandidate> + Send + Sync {
    move || {
        let (send, receive) = channel();
        // The program ends when it has answered, and this thread with it.
        start_thread("completes", move || send.send(ask().unwrap_or_default()));
        receive.recv_timeout(HURRY).unwrap_or_default()
    }
}

/// What the line says of the vault that it means.
fn open_args() -> OpenArgs {
    let path = |option| given(option).map(Into::into);
    OpenArgs {
        vault: VaultArgs { vault: given("--vault") },
        key: KeyArgs {
            key_file: path("--key-file"),
            passphrase_file: path("--passphrase-file"),
            pkcs11: given("--pkcs11"),
        },
        cache_dir: path("--cache-dir"),
    }
}

/// The context of the line. It says nothing.
fn context() -> Option<Context> {
    let global = GlobalArgs {
        output: None,
        config: given("--config").map(Into::into),
        context: given("--context"),
        quiet: true,
        verbose: 0,
    };
    Context::new(&global, Cancel::new()).ok()
}

/// Asks the vault or the server: whichever the line, the environment and the contexts mean.
fn of_vault_or_server(
    vault: fn(&Vault) -> Option<Vec<CompletionCandidate>>,
    server: fn(&Client) -> Vec<CompletionCandidate>,
) -> Option<Vec<CompletionCandidate>> {
    let (context, open) = (context()?, open_args());
    if context.is_direct(&open).ok()? {
        return vault(&*open_vault(&context, &open, None).ok()?);
    }
    Some(server(&session::client(given("--context").as_deref(), Some(HURRY)).ok()?))
}

fn items_of_vault(vault: &Vault) -> Option<Vec<CompletionCandidate>> {
    let points = vault.list_points(None).ok()?.points;
    let mut names: Vec<String> = points.into_iter().map(|point| point.item).collect();
    names.sort();
    names.dedup();
    Some(names.into_iter().take(MANY).map(CompletionCandidate::new).collect())
}

/// Items of a command that works on a vault directly or through a server.
pub(crate) fn items_of_any() -> ArgValueCandidates {
    ArgValueCandidates::new(in_time(|| of_vault_or_server(items_of_vault, items_of_server)))
}

/// Items of a command that works on a vault directly only.
pub(crate) fn items_of_vaults() -> ArgValueCandidates {
    ArgValueCandidates::new(in_time(|| {
        let (context, open) = (context()?, open_args());
        items_of_vault(&*open_vault(&context, &open, None).ok()?)
    }))
}

fn point(id: &str, words: String) -> CompletionCandidate {
    CompletionCandidate::new(id).help(Some(words.into()))
}

fn points_of_vault(vault: &Vault) -> Option<Vec<CompletionCandidate>> {
    let points = vault.list_points(Some(&given("--item")?)).ok()?.points;
    let newest_first = points.into_iter().rev().take(MANY);
    let points = newest_first.map(|one| point(&one.id.to_string(), human::minute(one.time)));
    Some(std::iter::once(CompletionCandidate::new("latest")).chain(points).collect())
}

fn points_of_server(client: &Client) -> Vec<CompletionCandidate> {
    let Some(item) = given("--item") else { return Vec::new() };
    let points = client.points(&item, None).take(MANY).map_while(Result::ok);
    let points =
        points.map(|one: RecoveryPoint| point(&one.id.to_string(), human::minute(one.time)));
    std::iter::once(CompletionCandidate::new("latest")).chain(points).collect()
}

/// Recovery points of the item that the line names.
pub(crate) fn points() -> ArgValueCandidates {
    ArgValueCandidates::new(in_time(|| of_vault_or_server(points_of_vault, points_of_server)))
}

/// Machines of libvirt.
pub(crate) fn machines() -> ArgValueCandidates {
    ArgValueCandidates::new(in_time(|| {
        let connect = given("--connect").map(|uri| uri.parse()).transpose().ok()?;
        let domains = ConnectArgs { connect }.open().ok()?.domains().ok()?;
        Some(domains.into_iter().map(|domain| CompletionCandidate::new(domain.name)).collect())
    }))
}

/// Machines of the service's host that the line names.
pub(crate) fn machines_of_host() -> ArgValueCandidates {
    ArgValueCandidates::new(of_server(|client| match given("--host") {
        Some(host) => named(client.protectable_items(&host), |item| item.name),
        None => Vec::new(),
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
