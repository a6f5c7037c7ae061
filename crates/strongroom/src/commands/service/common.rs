//! What commands of the service share: options, lists, names of what has an id.

use std::collections::BTreeMap;

use clap::Args;
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use strongroom_api::{Item, Restore, SoftDeleteState, Vault};
use strongroom_base::Message;
use strongroom_client::{Client, ClientError, ItemQuery};

use crate::{columns::Columns, complete, context::Context, error::Failure, out::Show, values};

/// A parser of a value of an enumeration of the API.
macro_rules! one_of {
    ($words:ty) => {
        clap::builder::TypedValueParser::try_map(
            clap::builder::PossibleValuesParser::new(<$words>::ALL.iter().map(|word| word.name())),
            |word| word.parse::<$words>(),
        )
    };
}
pub(crate) use one_of;

/// Whether to wait.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait for the job and take its exit code; by default the command returns when the job has
    /// begun
    #[arg(long)]
    pub(crate) wait: bool,
}

/// An item of the service.
#[derive(Debug, Args)]
pub(crate) struct ItemArgs {
    /// The item: its name or id
    #[arg(long, value_name = "NAME", add = complete::items())]
    pub(crate) item: String,

    /// The item's vault, if several vaults have an item of this name
    #[arg(long, value_name = "NAME", add = complete::vaults())]
    pub(crate) vault_name: Option<String>,
}

impl ItemArgs {
    /// Its name in the API.
    pub(crate) fn find(&self, client: &Client) -> Result<String, Failure> {
        find_item(client, &self.item, self.vault_name.as_deref())
    }
}

/// The name of an item of a vault in the API: its name if that is unique, otherwise its id.
pub(crate) fn find_item(
    client: &Client,
    item: &str,
    vault: Option<&str>,
) -> Result<String, Failure> {
    let Some(vault) = vault else { return Ok(item.to_owned()) };
    let which = ItemQuery {
        vault: Some(vault.to_owned()),
        name: Some(item.to_owned()),
        ..ItemQuery::default()
    };
    for found in client.items(which) {
        let found: Item = found?;
        if found.name == item {
            return Ok(found.id.to_string());
        }
    }
    Ok(item.to_owned())
}

/// The whole id of the one object whose id has this beginning. The server refuses a text that
/// cannot be the beginning of an id.
pub(crate) fn find_id<T>(
    what: &str,
    given: &str,
    all: impl Iterator<Item = Result<T, ClientError>>,
    id: impl Fn(&T) -> String,
) -> Result<String, Failure> {
    let given = given.to_ascii_uppercase();
    let is_part = given.chars().all(|c| c.is_ascii_alphanumeric());
    if !is_part || !(values::ID_PREFIX..26).contains(&given.len()) {
        return Ok(given);
    }
    let mut found: Vec<String> = Vec::new();
    for one in all {
        let id = id(&one?);
        if id.starts_with(&given) {
            found.push(id);
        }
    }
    match found.as_slice() {
        [] => Ok(given),
        [id] => Ok(id.clone()),
        several => Err(Failure::usage(format!(
            "the ids of several {what} begin with {given}: {}",
            several.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// The server's error, where the answer is known without a request.
pub(crate) fn refused(message: Message) -> Failure {
    ClientError::Answer(Box::new(message.into())).into()
}

/// At most `limit` entries of a list, 0 for all; reports if the list has more.
pub(crate) fn cut<T>(
    context: &Context,
    limit: usize,
    what: &str,
    list: impl FnOnce(Option<usize>) -> Result<Vec<T>, Failure>,
) -> Result<Vec<T>, Failure> {
    if limit == 0 {
        return list(None);
    }
    let mut found = list(Some(limit.saturating_add(1)))?;
    if found.len() > limit {
        found.truncate(limit);
        context.out.say(&format!("There are more {what} than these {limit}: --limit 0 shows all."));
    }
    Ok(found)
}

/// A policy of the service.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    /// The policy: its name or id
    #[arg(value_name = "NAME", add = complete::policies())]
    pub(crate) name: String,

    /// The policy's vault
    #[arg(long, value_name = "NAME", add = complete::vaults())]
    pub(crate) vault_name: String,
}

/// A list: in JSON an object with one field, for people a table.
pub(crate) struct Listed<T> {
    name: &'static str,
    entries: Vec<T>,
    columns: Columns,
}

impl<T> Listed<T> {
    /// A list of this name.
    pub(crate) fn new(name: &'static str, entries: Vec<T>, columns: Columns) -> Self {
        Self { name, entries, columns }
    }
}

impl<T: Serialize> Serialize for Listed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.name, &self.entries)?;
        map.end()
    }
}

impl<T> Show for Listed<T> {
    fn show(&self) -> String {
        if self.entries.is_empty() {
            return format!("There are no {}.\n", self.name.replace('_', " "));
        }
        self.columns.to_text()
    }

    fn columns(&self) -> Option<Columns> {
        Some(self.columns.clone())
    }
}

/// One object of the API: in JSON as the API has it, for people as a text.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Thing<T> {
    value: T,
    #[serde(skip)]
    text: String,
}

impl<T> Thing<T> {
    /// An object and its text.
    pub(crate) fn new(value: T, text: impl FnOnce(&T) -> String) -> Self {
        let text = text(&value);
        Self { value, text }
    }
}

impl<T> Show for Thing<T> {
    fn show(&self) -> String {
        self.text.clone()
    }
}

/// A finished change that leaves no object to show.
#[derive(Debug, Serialize)]
pub(crate) struct Gone {
    /// The kind of the object.
    #[serde(skip)]
    pub(crate) what: &'static str,
    /// Its name or id.
    pub(crate) deleted: String,
}

impl Show for Gone {
    fn show(&self) -> String {
        format!("Deleted the {} {}\n", self.what, self.deleted)
    }
}

/// Names by id, for people. Objects that the user may not see keep their ids.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<String, String>);

impl Names {
    /// Those of the vaults and hosts.
    pub(crate) fn load(client: &Client, wanted: bool) -> Self {
        let mut names = Self::default();
        if wanted {
            let vaults = client.vaults().filter_map(Result::ok);
            names.0.extend(vaults.map(|vault| (vault.id.to_string(), vault.name)));
            let hosts = client.hosts().filter_map(Result::ok);
            names.0.extend(hosts.map(|host| (host.id.to_string(), host.name)));
        }
        names
    }

    /// Also those of a vault's policies.
    pub(crate) fn with_policies(mut self, client: &Client, vaults: &[String]) -> Self {
        let mut vaults: Vec<&String> = vaults.iter().collect();
        vaults.sort();
        vaults.dedup();
        for vault in vaults {
            let policies = client.policies(vault).filter_map(Result::ok);
            self.0.extend(policies.map(|policy| (policy.id.to_string(), policy.name)));
        }
        self
    }

    /// Also those of users.
    pub(crate) fn with_users(mut self, client: &Client) -> Self {
        let users = client.users().filter_map(Result::ok);
        self.0.extend(users.map(|user| (user.id.to_string(), user.name)));
        self
    }

    /// The name, or the id if there is none.
    #[allow(clippy::needless_pass_by_value, reason = "ids are small")]
    pub(crate) fn of(&self, id: impl ToString) -> String {
        let id = id.to_string();
        self.0.get(&id).cloned().unwrap_or(id)
    }
}

/// Whether a deletion in a vault can be undone, and by which command.
pub(crate) fn way_back(vault: &Vault, command: &str) -> String {
    match vault.soft_delete.state {
        SoftDeleteState::Disabled => {
            format!("there is no way back: the vault {} has no soft delete", vault.name)
        }
        _ => format!(
            "for {} days `strongroom {command}` brings it back",
            vault.soft_delete.retention_days
        ),
    }
}

/// Enumeration values of the API, for people.
#[allow(clippy::needless_pass_by_value, reason = "words are small")]
pub(crate) fn words(word: impl ToString) -> String {
    word.to_string().replace('_', " ")
}

/// `NAME=VALUE` pairs as a map; each name once.
pub(crate) fn map(pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Failure> {
    let mut map = BTreeMap::new();
    for (name, value) in pairs {
        if map.contains_key(&name) {
            return Err(Failure::usage(format!("{name} is given twice")));
        }
        map.insert(name, value);
    }
    Ok(map)
}

/// The name of a restore while it begins.
pub(crate) fn restore_words(restore: &Restore) -> &'static str {
    match restore {
        Restore::Machine(_) => "a machine",
        Restore::Disks(_) => "disks",
        Restore::Replace(_) => "the disks of a machine that is there",
    }
}
