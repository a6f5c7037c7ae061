//! `context`: the servers that the user knows.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use strongroom_api::{SignIn, WhoAmI};

use crate::{
    columns::{Columns, row},
    complete,
    context::Context,
    contexts::{Contexts, ServerContext, trust},
    error::{FaceError, Failure},
    human,
    out::Show,
    session::{chosen, client_of, secret, secret_file},
    values,
};

use super::common::{Gone, Listed};

/// `context ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    Add(AddArgs),
    List(ListArgs),
    Use(UseArgs),
    Show(ShowArgs),
    Remove(RemoveArgs),
}

impl ContextCommand {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Add(args) => args.run(context),
            Self::List(args) => args.run(context),
            Self::Use(args) => args.run(context),
            Self::Show(args) => args.run(context),
            Self::Remove(args) => args.run(context),
        }
    }
}

/// A context without its token.
#[derive(Debug, Serialize)]
struct ContextView {
    name: String,
    current: bool,
    server: String,
    user: Option<String>,
    expires: Option<Timestamp>,
    ca_file: Option<PathBuf>,
    fingerprint: Option<String>,
}

impl ContextView {
    fn new(name: &str, context: &ServerContext, current: Option<&str>) -> Self {
        let ServerContext { server, user, expires, ca_file, fingerprint, token: _ } =
            context.clone();
        let current = current == Some(name);
        Self { name: name.to_owned(), current, server, user, expires, ca_file, fingerprint }
    }
}

impl Show for ContextView {
    fn show(&self) -> String {
        let mut facts = vec![
            ("Context", self.name.clone()),
            ("Server", self.server.clone()),
            ("In use", if self.current { "yes" } else { "no" }.to_owned()),
        ];
        facts.extend(self.user.clone().map(|user| ("User", user)));
        facts.extend(self.expires.map(|moment| ("Token ends", human::time(moment))));
        let file = self.ca_file.as_ref().map(|file| file.display().to_string());
        facts.extend(file.map(|file| ("Authorities", file)));
        facts.extend(self.fingerprint.clone().map(|print| ("Fingerprint", print)));
        human::facts(&facts)
    }
}

/// Save the connection to a server, and sign in
///
/// --fingerprint trusts the server's self-signed certificate: `strongroom serve` prints the
/// fingerprint. --ca-file trusts your own authority. The token comes from a file (the first
/// `strongroom serve` names the file of the first token), or from signing in: the command then asks
/// for the password, or reads it from a file. A token from signing in expires after 12 hours; sign
/// in again with the context's name and --sign-in. The first context is in use at once; use another
/// one by its name (--context), or after `strongroom context use`.
///
/// Contexts are stored in ~/.config/strongroom/contexts.toml, which only you can read. Without a
/// context, commands use STRONGROOM_SERVER, STRONGROOM_TOKEN, and STRONGROOM_FINGERPRINT or
/// STRONGROOM_CA_FILE.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom context add home --server https://backup.example.net:8443 \\
      --fingerprint 5f0c6c1e7a2b94d3f0a1b2c3d4e5f60718293a4b5c6d7e8f9012a3b4c5d6e7f8 \\
      --token-file first-token
  strongroom context add home --server https://backup.example.net:8443 --ca-file ca.pem \\
      --sign-in ann
  strongroom context add home --sign-in ann --password-file /run/secrets/ann")]
pub(crate) struct AddArgs {
    /// Its name
    #[arg(value_name = "NAME", value_parser = values::name)]
    name: String,

    /// The server: https://HOST:PORT [default: the server of the existing context]
    #[arg(long, value_name = "URL")]
    server: Option<String>,

    /// Send the token in this file; `-` reads it from standard input
    #[arg(long, value_name = "FILE", conflicts_with = "sign_in")]
    token_file: Option<PathBuf>,

    /// Sign in as this user
    #[arg(long, value_name = "USER")]
    sign_in: Option<String>,

    /// Take the password from this file; `-` reads it from standard input [default: ask]
    #[arg(long, value_name = "FILE", requires = "sign_in")]
    password_file: Option<PathBuf>,

    /// Trust only the authorities in this file (PEM)
    #[arg(long, value_name = "FILE", conflicts_with = "fingerprint")]
    ca_file: Option<PathBuf>,

    /// Trust only the certificate with this fingerprint
    #[arg(long, value_name = "SHA256")]
    fingerprint: Option<String>,

    /// Use this context from now on, like `strongroom context use`; the first context is always
    /// used
    #[arg(long = "use")]
    then_use: bool,
}

impl AddArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let mut contexts = Contexts::load()?;
        let before = contexts.contexts.get(&self.name).cloned();
        let anew = self.ca_file.is_some() || self.fingerprint.is_some() || self.server.is_some();
        let mut new = match before {
            Some(before) if !anew => before,
            before => ServerContext {
                server: self
                    .server
                    .or_else(|| before.map(|before| before.server))
                    .ok_or_else(|| Failure::usage("--server says where the server is"))?,
                user: None,
                token: String::new(),
                expires: None,
                ca_file: self.ca_file.map(std::path::absolute).transpose().map_err(|source| {
                    FaceError::Local { path: ".".into(), action: "find", source }
                })?,
                fingerprint: self.fingerprint,
            },
        };
        let trust = || trust(new.fingerprint.as_deref(), new.ca_file.clone());
        if let Some(name) = self.sign_in {
            // Whether the server is the right one is found out before a password is asked for.
            let client = client_of(new.server.clone(), None, trust()?, None)?;
            let password = match &self.password_file {
                Some(file) => secret_file(file)?,
                None => secret(&format!("Password of {name}"))?,
            };
            let issued = client.sign_in(&SignIn { name: name.clone(), password })?;
            new.token = issued.secret;
            new.expires = Some(issued.token.expires);
            new.user = Some(name);
        } else {
            new.token = match &self.token_file {
                Some(file) => secret_file(file)?,
                None => secret("Token")?,
            };
            let client = client_of(new.server.clone(), Some(new.token.clone()), trust()?, None)?;
            let WhoAmI { user, token, .. } = client.who_am_i()?;
            new.expires = Some(token.expires);
            new.user = Some(user.name);
        }
        if self.then_use || contexts.current.is_none() {
            contexts.current = Some(self.name.clone());
        }
        if let Some(used) = contexts.current.as_ref().filter(|used| **used != self.name) {
            context.out.say(&format!(
                "The context in use stays {used}: `strongroom context use {}` changes that.",
                self.name
            ));
        }
        let view = ContextView::new(&self.name, &new, contexts.current.as_deref());
        contexts.contexts.insert(self.name, new);
        contexts.save()?;
        context.out.result(&view)
    }
}

/// List the contexts
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom context list")]
pub(crate) struct ListArgs {}

impl ListArgs {
    #[allow(clippy::unused_self, reason = "as all commands")]
    fn run(self, context: &Context) -> Result<(), Failure> {
        let contexts = Contexts::load()?;
        let current = contexts.current.as_deref();
        let view = |(name, context): (&String, _)| ContextView::new(name, context, current);
        let views: Vec<ContextView> = contexts.contexts.iter().map(view).collect();
        let columns = Columns::new(
            ["CONTEXT", "IN USE", "SERVER", "USER", "TOKEN ENDS"],
            views.iter().map(|view| {
                let used = if view.current { "yes" } else { "" };
                row![&view.name, used, &view.server, view.user.clone(), view.expires]
            }),
        );
        context.out.result(&Listed::new("contexts", views, columns))
    }
}

/// Use a context from now on
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom context use home")]
pub(crate) struct UseArgs {
    /// Its name
    #[arg(value_name = "NAME", add = complete::contexts())]
    name: String,
}

impl UseArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let mut contexts = Contexts::load()?;
        let view = ContextView::new(&self.name, contexts.get(&self.name)?, Some(&self.name));
        contexts.current = Some(self.name);
        contexts.save()?;
        context.out.result(&view)
    }
}

/// Show the context in use, or another one
///
/// The output includes settings from the environment: it shows the server that commands use.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom context show
  strongroom context show home --output json")]
pub(crate) struct ShowArgs {
    /// The context [default: the one that commands use]
    #[arg(value_name = "NAME", add = complete::contexts())]
    name: Option<String>,
}

impl ShowArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let given = self.name.or_else(|| context.of_server.clone());
        let (name, shown) = chosen(given.as_deref())?.ok_or(FaceError::NoServer)?;
        let name = name.unwrap_or_else(|| "STRONGROOM_SERVER".to_owned());
        let current = Contexts::load()?.current;
        context.out.result(&ContextView::new(&name, &shown, current.as_deref()))
    }
}

/// Forget a context and its token
///
/// The token stays valid until it expires: `strongroom access token revoke` revokes it at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  strongroom context remove home")]
pub(crate) struct RemoveArgs {
    /// Its name
    #[arg(value_name = "NAME", add = complete::contexts())]
    name: String,
}

impl RemoveArgs {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let mut contexts = Contexts::load()?;
        contexts.get(&self.name)?;
        contexts.contexts.remove(&self.name);
        if contexts.current.as_ref() == Some(&self.name) {
            contexts.current = None;
        }
        contexts.save()?;
        context.out.result(&Gone { what: "context", deleted: self.name })
    }
}
