//! The way in while nobody can sign in: the first start's token, in a file, and a token for the user who
//! owns the server's folder.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use strongroom_agent::ThisHost;
use strongroom_base::SystemClock;
use strongroom_catalog::Catalog;
use strongroom_control::{Control, model::SCHEMA};

use crate::{config::ServerConfig, copies::check_owner, error::ServerError, serve::control};

/// How often it is looked whether nobody needs the first token any more.
const LOOK: Duration = Duration::from_secs(5);

/// The file with the first token.
#[derive(Clone, Debug)]
pub(crate) struct FirstToken(PathBuf);

/// How people come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WayIn {
    /// With the token in this file.
    Token(PathBuf),
    /// Not at all, until the owner of the folder makes a token.
    None,
    /// By signing in.
    Users,
}

impl FirstToken {
    /// That of a server's folder.
    pub(crate) fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("first-token"))
    }

    /// Makes the first user and a token, if there are no users yet, and says how people come in.
    pub(crate) async fn way_in(&self, control: &Control) -> Result<WayIn, ServerError> {
        if let Some(secret) = control.first_token().await? {
            self.write(&secret)?;
            return Ok(WayIn::Token(self.0.clone()));
        }
        let users = control.has_passwords().await?;
        match fs::read_to_string(&self.0) {
            Ok(secret) if !users && control.caller(secret.trim()).await.is_ok() => {
                return Ok(WayIn::Token(self.0.clone()));
            }
            Ok(_) => self.remove()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ServerError::local("read", &self.0)(error)),
        }
        Ok(if users { WayIn::Users } else { WayIn::None })
    }

    fn write(&self, secret: &str) -> Result<(), ServerError> {
        // What an earlier catalog of this folder has left is of no use, and may be anybody's.
        self.remove()?;
        let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&self.0);
        let mut file = file.map_err(ServerError::local("make", &self.0))?;
        let written = writeln!(file, "{secret}").and_then(|()| file.sync_all());
        written.map_err(ServerError::local("write", &self.0))?;
        let folder = self.0.parent().unwrap_or(&self.0);
        let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(ServerError::local("sync", folder))
    }

    fn remove(&self) -> Result<(), ServerError> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ServerError::local("remove", &self.0)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes the file as soon as somebody has a password.
    pub(crate) async fn remove_in_time(self, control: Arc<Control>) {
        while self.0.exists() {
            match control.has_passwords().await {
                Ok(true) => match self.remove() {
                    Ok(()) => return,
                    Err(error) => tracing::error!(%error, "the first token is left"),
                },
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "it is unknown whether anybody can sign in"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A token that the owner of the server's folder may make.
pub struct NewToken {
    /// What the operator has set.
    pub config: ServerConfig,
    /// The machine that the server runs on.
    pub here: ThisHost,
    /// For this user, a vault admin of the server; for `admin` if not given.
    pub user: Option<String>,
    /// How many hours it lasts.
    pub hours: u32,
    /// Who asks, for the audit log.
    pub by: String,
}

/// A token that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerToken {
    /// The user's name.
    pub user: String,
    /// What to send.
    pub secret: String,
    /// When it ends.
    pub expires: Timestamp,
}

/// Makes a token for a vault admin of the server, whether it runs or not.
pub fn new_token(order: &NewToken) -> Result<OwnerToken, ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ServerError::Bug(format!("no threads: {error}")))?;
    runtime.block_on(Box::pin(run(order)))
}

async fn run(order: &NewToken) -> Result<OwnerToken, ServerError> {
    let NewToken { config, here, user, hours, by } = order;
    check_owner(&config.data_dir)?;
    let catalog = Catalog::beside(&config.catalog_url()?, &SCHEMA, Arc::new(SystemClock)).await?;
    let control = control(config, here.clone(), catalog.clone(), None)?;
    let lasts = SignedDuration::from_hours(i64::from(*hours));
    let made = control.owner_token(user.as_deref(), lasts, by).await;
    catalog.close().await;
    let (user, issued) = made?;
    Ok(OwnerToken { user: user.name, secret: issued.secret, expires: issued.token.expires })
}
