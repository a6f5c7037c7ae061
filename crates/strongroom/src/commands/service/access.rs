//! `access`: users, roles, tokens.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;
use strongroom_api::{
    AssignmentCreate, Role, Scope, Token, TokenCreate, TokenIssued, User, UserCreate, UserUpdate,
};
use strongroom_base::{AssignmentId, TokenId, message, words::count_of};
use strongroom_client::Client;

use crate::{
    columns::{Cell, Columns, row},
    complete,
    confirm::{ConfirmArgs, Plan},
    context::Context,
    error::Failure,
    human,
    session::{secret, secret_file},
    values,
};

use super::common::{Gone, Listed, Names, Thing, find_id, find_item, one_of, refused, words};

/// `access ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum AccessCommand {
    /// List, create, change and delete users
    #[command(subcommand)]
    User(UserCommand),
    /// List, assign and remove roles
    #[command(subcommand)]
    Assignment(AssignmentCommand),
    /// List, create and revoke tokens
    #[command(subcommand)]
    Token(TokenCommand),
    Table(TableArgs),
}

impl AccessCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::User(UserCommand::List(args)) => args.run(context),
            Self::User(UserCommand::Create(args)) => args.run(context),
            Self::User(UserCommand::Update(args)) => args.run(context),
            Self::User(UserCommand::Delete(args)) => args.run(context),
            Self::Assignment(AssignmentCommand::List(args)) => args.run(context),
            Self::Assignment(AssignmentCommand::Create(args)) => args.run(context),
            Self::Assignment(AssignmentCommand::Delete(args)) => args.run(context),
            Self::Token(TokenCommand::List(args)) => args.run(context),
            Self::Token(TokenCommand::Create(args)) => args.run(context),
            Self::Token(TokenCommand::Revoke(args)) => args.run(context),
            Self::Table(args) => args.run(context),
        }
    }
}

/// `access user ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    List(UserListArgs),
    Create(UserCreateArgs),
    Update(UserUpdateArgs),
    Delete(UserDeleteArgs),
}

/// `access assignment ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum AssignmentCommand {
    List(AssignmentListArgs),
    Create(AssignmentCreateArgs),
    Delete(AssignmentDeleteArgs),
}

/// `access token ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    List(TokenListArgs),
    Create(TokenCreateArgs),
    Revoke(TokenRevokeArgs),
}

/// A password, from a file or the terminal.
fn password(file: Option<&PathBuf>, user: &str) -> Result<String, Failure> {
    if let Some(file) = file {
        return secret_file(file);
    }
    let first = secret(&format!("New password of {user}"))?;
    if secret("The same again")? == first {
        Ok(first)
    } else {
        Err(Failure::usage("the passwords are not the same"))
    }
}

/// The present password, if the request needs it.
fn present_password(ask: bool, file: Option<&PathBuf>) -> Result<Option<String>, Failure> {
    match file {
        Some(file) => secret_file(file).map(Some),
        None if ask => secret("Your password").map(Some),
        None => Ok(None),
    }
}

fn user_text(user: &User) -> String {
    let mut facts = vec![
        ("User", user.name.clone()),
        ("Id", user.id.to_string()),
        ("Disabled", if user.disabled { "yes" } else { "no" }.to_owned()),
        ("Created", human::time(user.created)),
    ];
    facts.extend(user.last_sign_in.map(|moment| ("Signed in last", human::time(moment))));
    human::facts(&facts)
}

/// List the users
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom access user list")]
pub(crate) struct UserListArgs {}

impl UserListArgs {
    #[allow(clippy::unused_self, reason = "as all commands")]
    fn run(self, context: &Context) -> Result<(), Failure> {
        let users = context.client()?.users().all()?;
        let rows = users.iter().map(|user| {
            let disabled = if user.disabled { "yes" } else { "no" };
            row![&user.name, Cell::id(user.id), disabled, user.created, user.last_sign_in]
        });
        let head = ["USER", "ID", "DISABLED", "CREATED", "SIGNED IN LAST"];
        let columns = Columns::new(head, rows);
        context.out.result(&Listed::new("users", users, columns))
    }
}

/// Create a user, who has no rights yet
///
/// `strongroom access assignment create` gives rights to the user.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom access user create ann
  strongroom access user create ann --password-file /run/secrets/ann")]
pub(crate) struct UserCreateArgs {
    /// The name to sign in with
    #[arg(value_name = "NAME", value_parser = values::name)]
    name: String,

    /// Take the password from this file; `-` reads it from standard input [default: ask]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl UserCreateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let password = password(self.password_file.as_ref(), &self.name)?;
        let user = client.create_user(&UserCreate { name: self.name, password })?;
        context.out.result(&Thing::new(user, user_text))
    }
}

/// Change a user's password, or disable or enable the user
///
/// A new password, and --disable, revoke the user's other tokens. To change your own password, give
/// the present one, unless you manage access. --disable asks first, or takes --yes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom access user update ann --password --current-password
  strongroom access user update ann --disable --yes")]
#[group(id = "change", required = true, multiple = true,
    args = ["password", "password_file", "disable", "enable"])]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(crate) struct UserUpdateArgs {
    /// The user: its name or id
    #[arg(value_name = "NAME")]
    name: String,

    /// Ask for a new password
    #[arg(long, conflicts_with = "password_file")]
    password: bool,

    /// Take the new password from this file; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// Ask for the present password, too
    #[arg(long, conflicts_with = "current_password_file")]
    current_password: bool,

    /// Take the present password from this file
    #[arg(long, value_name = "FILE")]
    current_password_file: Option<PathBuf>,

    /// The user can no longer sign in
    #[arg(long, conflicts_with = "enable")]
    disable: bool,

    /// The user can sign in again
    #[arg(long)]
    enable: bool,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl UserUpdateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        if self.confirm.wants_plan() {
            let plan = if self.disable {
                Plan::new(format!("Disable the user {}", self.name)).with(
                    "the user's tokens are revoked at once, and --enable does not restore them",
                )
            } else {
                Plan::new(format!("Change the user {}", self.name)).without_question()
            };
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        let file = self.current_password_file.as_ref();
        let current_password = present_password(self.current_password, file)?;
        let wanted = self.password || self.password_file.is_some();
        let other = wanted.then(|| password(self.password_file.as_ref(), &self.name));
        let change = UserUpdate {
            password: other.transpose()?,
            current_password,
            disabled: (self.disable || self.enable).then_some(self.disable),
        };
        let user = client.update_user(&self.name, &change)?;
        context.out.result(&Thing::new(user, user_text))
    }
}

/// Delete a user, with their rights and tokens
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom access user delete ann
  strongroom access user delete ann --yes")]
pub(crate) struct UserDeleteArgs {
    /// The user: its name or id
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl UserDeleteArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        if self.confirm.wants_plan() {
            let plan = Plan::new(format!("Delete the user {}", self.name))
                .with("the user's roles and tokens are removed at once; this cannot be undone");
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        client.delete_user(&self.name)?;
        context.out.result(&Gone { what: "user", deleted: self.name })
    }
}

/// The scope of a role.
#[derive(Debug, Args)]
struct ScopeArgs {
    /// In this vault [default: everywhere]
    #[arg(long, value_name = "NAME", add = complete::vaults())]
    vault_name: Option<String>,

    /// On this item only
    #[arg(long, value_name = "NAME", add = complete::items())]
    item: Option<String>,

    /// On this host, with its machines and disks
    #[arg(long, value_name = "NAME", add = complete::hosts(), conflicts_with_all = ["vault_name", "item"])]
    host: Option<String>,
}

impl ScopeArgs {
    fn find(&self, client: &Client) -> Result<Option<Scope>, Failure> {
        if let Some(host) = &self.host {
            return Ok(Some(Scope::Host(client.host(host)?.id)));
        }
        let vault = self.vault_name.as_deref();
        Ok(match (&self.item, vault) {
            (Some(item), vault) => {
                Some(Scope::Item(client.item(&find_item(client, item, vault)?)?.id))
            }
            (None, Some(vault)) => Some(Scope::Vault(client.vault(vault)?.id)),
            (None, None) => None,
        })
    }
}

fn place(scope: &Scope, names: &Names) -> String {
    match scope {
        Scope::Server => "everywhere".to_owned(),
        Scope::Vault(id) => format!("vault {}", names.of(id)),
        Scope::Item(id) => format!("item {}", names.of(id)),
        Scope::Host(id) => format!("host {}", names.of(id)),
    }
}

/// Names of users, vaults and hosts, for output to people.
fn names(context: &Context, client: &Client) -> Names {
    if context.out.shows_names() {
        Names::load(client, true).with_users(client)
    } else {
        Names::default()
    }
}

/// List role assignments: user, role and scope
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom access assignment list")]
pub(crate) struct AssignmentListArgs {}

impl AssignmentListArgs {
    #[allow(clippy::unused_self, reason = "as all commands")]
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let assignments = client.assignments().all()?;
        let names = names(context, &client);
        let rows = assignments.iter().map(|one| {
            let (id, user) = (Cell::id(one.id), names.of(one.user));
            row![id, user, words(one.role), place(&one.scope, &names), one.created]
        });
        let head = ["ASSIGNMENT", "USER", "ROLE", "WHERE", "SINCE"];
        let columns = Columns::new(head, rows);
        context.out.result(&Listed::new("assignments", assignments, columns))
    }
}

/// Give a user a role: everywhere, in a vault, on an item, or on a host
///
/// `strongroom access table` shows the permissions of each role.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom access assignment create --user ann --role operator --vault-name main
  strongroom access assignment create --user ann --role operator --host kvm1
  strongroom access assignment create --user bob --role vault_admin")]
pub(crate) struct AssignmentCreateArgs {
    /// The user: its name or id
    #[arg(long, value_name = "NAME")]
    user: String,

    /// The role
    #[arg(long, value_name = "ROLE", value_parser = one_of!(Role))]
    role: Role,

    #[command(flatten)]
    scope: ScopeArgs,
}

impl AssignmentCreateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let scope = self.scope.find(&client)?.unwrap_or(Scope::Server);
        let (user, role) = (self.user, self.role);
        let one = client.assign(&AssignmentCreate { user, role, scope })?;
        let names = names(context, &client);
        context.out.result(&Thing::new(one, |one| {
            let (user, role) = (names.of(one.user), words(one.role));
            format!("{user} is {role} {} ({})\n", place(&one.scope, &names), one.id)
        }))
    }
}

/// Remove a role from a user
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom access assignment delete 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB --dry-run
  strongroom access assignment delete 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB --yes")]
pub(crate) struct AssignmentDeleteArgs {
    /// The assignment's id, or a unique beginning of it
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

impl AssignmentDeleteArgs {
    #[allow(clippy::needless_pass_by_value, reason = "as all commands")]
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let all = client.assignments();
        let id = find_id("assignments", &self.id, all, |one| one.id.to_string())?;
        if self.confirm.wants_plan() {
            let all = client.assignments().all()?;
            let found = all.iter().find(|one| one.id.to_string() == id).ok_or_else(|| {
                refused(message!(
                    ASSIGNMENT_NOT_FOUND,
                    "there is no assignment {assignment:?}",
                    assignment = id
                ))
            })?;
            let names = Names::load(&client, true).with_users(&client);
            let (user, role) = (names.of(found.user), words(found.role));
            let at = place(&found.scope, &names);
            let plan = Plan::new(format!("Take the role {role} ({at}) away from {user}"))
                .with("the role is removed at once; `strongroom access assignment create` assigns it again");
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        let id: AssignmentId = id.parse().map_err(|_| {
            Failure::usage(format!("{id:?} is not the id of an assignment"))
                .with_hint("`strongroom access assignment list` shows them.")
        })?;
        client.unassign(id)?;
        context.out.result(&Gone { what: "assignment", deleted: id.to_string() })
    }
}

/// List tokens: your own, or all if you manage access
///
/// The role column shows the present rights of a token: the lower of its own role and its user's.
/// With a limited token the command lists only this token and the tokens created with it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom access token list")]
pub(crate) struct TokenListArgs {}

impl TokenListArgs {
    #[allow(clippy::unused_self, reason = "as all commands")]
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let tokens = client.tokens().all()?;
        let names = names(context, &client);
        let rows = tokens.iter().map(|token| {
            row![
                Cell::id(token.id),
                &token.name,
                names.of(token.user),
                token.effective_role.map_or_else(|| "none".to_owned(), words),
                place(&token.scope, &names),
                Cell::Day(token.expires),
                token.last_used,
            ]
        });
        let head = ["TOKEN", "NAME", "USER", "ROLE", "WHERE", "ENDS", "USED LAST"];
        let columns = Columns::new(head, rows);
        context.out.result(&Listed::new("tokens", tokens, columns))
    }
}

/// Create a token for yourself, for a script
///
/// The command prints the secret once. The new token has at most the rights of the token in use,
/// and fewer if you limit it. It expires and is revoked together with the token in use, unless you
/// give your password.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom access token create nightly-report --role reader --days 30 --password
  strongroom access token create restore-test --role operator --vault-name main")]
pub(crate) struct TokenCreateArgs {
    /// Name of the token, such as its purpose
    #[arg(value_name = "NAME")]
    name: String,

    /// The highest role of the token [default: all your rights]
    #[arg(long, value_name = "ROLE", value_parser = one_of!(Role))]
    role: Option<Role>,

    /// Days until the token expires: 1 to 366
    ///
    /// To outlast the token in use, give your password. [default: 90, or until the token in use
    /// expires]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=366))]
    days: Option<u16>,

    /// Ask for your password: the new token may outlast the token in use, and is not revoked with
    /// it
    #[arg(long, conflicts_with = "password_file")]
    password: bool,

    /// Take your password from this file; `-` reads it from standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    #[command(flatten)]
    scope: ScopeArgs,
}

impl TokenCreateArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let scope = self.scope.find(&client)?;
        let password = present_password(self.password, self.password_file.as_ref())?;
        let (name, role, days) = (self.name, self.role, self.days);
        let issued = client.create_token(&TokenCreate { name, role, scope, days, password })?;
        context.out.say("Keep it: it is not shown again.");
        context.out.result(&Thing::new(issued, |TokenIssued { secret, .. }| secret.clone() + "\n"))
    }
}

/// Revoke a token at once, with all tokens created with it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom access token revoke 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB --dry-run
  strongroom access token revoke 01JD3W6E0ZGQ6Q0PZ2R3V9M5TB --yes")]
pub(crate) struct TokenRevokeArgs {
    /// The token's id, or a unique beginning of it
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    confirm: ConfirmArgs,
}

/// The number of tokens created with a token, directly or indirectly.
fn made_with(all: &[Token], token: TokenId) -> usize {
    let mut found = vec![token];
    // Tokens come after those that they were made with, but lists need not have that order.
    loop {
        let more = all.iter().filter(|one| {
            !found.contains(&one.id) && one.parent.is_some_and(|parent| found.contains(&parent))
        });
        let more: Vec<TokenId> = more.map(|one| one.id).collect();
        if more.is_empty() {
            return found.len().saturating_sub(1);
        }
        found.extend(more);
    }
}

impl TokenRevokeArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.client()?;
        let id = find_id("tokens", &self.id, client.tokens(), |token| token.id.to_string())?;
        if self.confirm.wants_plan() {
            let all = client.tokens().all()?;
            let found = all.iter().find(|one| one.id.to_string() == id).ok_or_else(|| {
                refused(message!(TOKEN_NOT_FOUND, "there is no token {token:?}", token = id))
            })?;
            let user = names(context, &client).of(found.user);
            let plan = Plan::new(format!("Revoke the token {:?} of {user}", found.name))
                .with("requests with it are refused from then on; this cannot be undone");
            let plan = match made_with(&all, found.id) {
                0 => plan,
                more => {
                    let more = count_of(more, "token");
                    plan.with(format!("so are the tokens created with it: {more}"))
                }
            };
            if !self.confirm.go(context, &plan)? {
                return Ok(());
            }
        }
        client.revoke_token(&id)?;
        context.out.result(&Gone { what: "token", deleted: id })
    }
}

/// Show the permissions of each role
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom access table")]
pub(crate) struct TableArgs {}

impl TableArgs {
    #[allow(clippy::unused_self, reason = "as all commands")]
    fn run(self, context: &Context) -> Result<(), Failure> {
        let table = context.client()?.access_table()?;
        let text = |line: &Value, field: &str| {
            line.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let rows = table.iter().map(|line| {
            let (role, reach) = (words(text(line, "role")), text(line, "reach"));
            row![text(line, "operation"), role, reach, text(line, "words")]
        });
        let columns = Columns::new(["OPERATION", "LEAST ROLE", "WHERE", "WHAT"], rows);
        context.out.result(&Listed::new("operations", table, columns))
    }
}
