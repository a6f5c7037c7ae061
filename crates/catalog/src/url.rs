//! Where a catalog is.
//!
//! A PostgreSQL URL may have a password: it is kept out of every message and of `Debug`.

use std::{fmt, path::PathBuf, str::FromStr};

use sqlx::{
    ConnectOptions as _,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::{Error, Result};

/// Where a catalog is: a SQLite file, or a database in PostgreSQL.
///
/// - `sqlite:PATH`, or a path: a SQLite file, made if it is missing.
/// - `postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?PARAMETERS]`, with the parameters `host`
///   (also the folder of a socket), `port`, `user`, `password`, `dbname`, `sslmode`,
///   `sslrootcert`, `sslcert`, `sslkey`. A password can also come from `~/.pgpass`.
///
/// A server on another machine must prove who it is by TLS (`sslmode=verify-full`), unless the
/// URL says otherwise.
#[derive(Clone)]
pub struct CatalogUrl(pub(crate) Place);

#[derive(Clone)]
pub(crate) enum Place {
    Sqlite(PathBuf),
    Postgres(Box<PgConnectOptions>),
}

/// What a PostgreSQL URL may say after the question mark.
const PARAMETERS: [&str; 9] =
    ["host", "port", "user", "password", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey"];

impl CatalogUrl {
    /// A SQLite file.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(Place::Sqlite(path.into()))
    }

    /// The same, with a password that is not in the URL; SQLite has none.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        match self.0 {
            Place::Postgres(options) => Self(Place::Postgres(Box::new(options.password(password)))),
            sqlite @ Place::Sqlite(_) => Self(sqlite),
        }
    }

    /// Whether several servers can use it at once.
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Place::Postgres(_))
    }
}

impl FromStr for CatalogUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fault = |reason| Err(Error::Url { reason });
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return postgres(text);
        }
        let path = text.strip_prefix("sqlite:").unwrap_or(text);
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            return fault("it names no file");
        }
        if path.contains("://") {
            return fault("it is neither a path nor of sqlite: or postgres:");
        }
        Ok(Self::sqlite(path))
    }
}

/// Reads a PostgreSQL URL.
fn postgres(text: &str) -> Result<CatalogUrl> {
    // What the driver does not know it writes into the log, with its value.
    let parameters = text.split_once('?').map_or("", |(_, parameters)| parameters);
    let keys = parameters.split('&').filter(|pair| !pair.is_empty());
    let keys: Vec<_> = keys.map(|pair| pair.split('=').next().unwrap_or(pair)).collect();
    if keys.iter().any(|key| !PARAMETERS.contains(key)) {
        return Err(Error::Url {
            reason: "a parameter is unknown; there are host, port, user, password, dbname, \
                     sslmode, sslrootcert, sslcert and sslkey",
        });
    }
    // The source is left out: it may quote a part of the URL.
    let options: PgConnectOptions =
        text.parse().map_err(|_| Error::Url { reason: "it is no PostgreSQL URL" })?;
    if options.get_database().is_none() {
        return Err(Error::Url { reason: "it names no database" });
    }
    let here = ["localhost", "127.0.0.1", "::1", "[::1]"].contains(&options.get_host());
    let options = if keys.contains(&"sslmode") || options.get_socket().is_some() || here {
        options
    } else {
        options.ssl_mode(PgSslMode::VerifyFull)
    };
    Ok(CatalogUrl(Place::Postgres(Box::new(options.disable_statement_logging()))))
}

/// Without a password.
impl fmt::Display for CatalogUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Place::Postgres(options) => {
                let database = options.get_database().unwrap_or_default();
                let user = options.get_username();
                if let Some(socket) = options.get_socket() {
                    write!(f, "postgres:///{database}?host={}&user={user}", socket.display())
                } else {
                    let (host, port) = (options.get_host(), options.get_port());
                    write!(f, "postgres://{user}@{host}:{port}/{database}")
                }
            }
        }
    }
}

/// Without a password.
impl fmt::Debug for CatalogUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_without_passwords() {
        for (text, shown) in [
            ("/var/lib/x.db", "sqlite:/var/lib/x.db"),
            ("sqlite:x.db", "sqlite:x.db"),
            ("sqlite:///x.db", "sqlite:/x.db"),
            ("postgres://me:secret@db:99/cat", "postgres://me@db:99/cat"),
            (
                "postgresql:///cat?user=me&host=/run/pg&password=secret",
                "postgres:///cat?host=/run/pg&user=me",
            ),
        ] {
            let url: CatalogUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), shown);
            let url = url.with_password("secret");
            assert_eq!(format!("{url:?}"), shown);
        }
    }

    #[test]
    fn other_texts_are_refused_without_repeating_them() {
        for text in [
            "",
            "sqlite:",
            "mysql://secret@host/x",
            "postgres://me:secret@host/x?secret=1",
            "postgres://me:secret@host:secret/x",
            "postgres://me:secret@host/x?sslmode=secret",
        ] {
            let error = text.parse::<CatalogUrl>().expect_err(text);
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn servers_elsewhere_must_prove_who_they_are() {
        for (text, mode) in [
            ("postgres://me@db.example/x", "VerifyFull"),
            ("postgres://me@db.example/x?sslmode=require", "Require"),
            ("postgres://me@localhost/x", "Prefer"),
        ] {
            let CatalogUrl(Place::Postgres(options)) = text.parse().expect("a URL") else {
                panic!("{text}")
            };
            assert_eq!(format!("{:?}", options.get_ssl_mode()), mode);
        }
    }
}
