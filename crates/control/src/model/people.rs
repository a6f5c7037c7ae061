//! Users, their tokens and their rights.

use serde::{Deserialize, Serialize};
use strongroom_api as api;
use strongroom_catalog::{Column, Document, Kind, Value};

/// A user, and how its password is checked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDoc {
    /// As the API shows it.
    pub user: api::User,
    /// argon2id, as a PHC string.
    pub password: String,
}

impl Document for UserDoc {
    const KIND: &'static Kind = &Kind {
        table: "users",
        columns: &[Column::text("name")],
        unique: &[&["name"]],
        indexes: &[&["name"]],
    };

    fn id(&self) -> String {
        self.user.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        vec![self.user.name.as_str().into()]
    }
}

/// A token, and how its secret is checked.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenDoc {
    /// As the API shows it.
    pub token: api::Token,
    /// BLAKE3 of the secret, hexadecimal: the secret is random, so nothing slower is needed.
    pub hash: String,
}

impl Document for TokenDoc {
    const KIND: &'static Kind = &Kind {
        table: "tokens",
        columns: &[Column::text("hash"), Column::text("owner"), Column::integer("expires")],
        unique: &[&["hash"]],
        indexes: &[&["hash"], &["owner", "expires"], &["expires"]],
    };

    fn id(&self) -> String {
        self.token.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        vec![
            self.hash.as_str().into(),
            self.token.user.to_string().into(),
            self.token.expires.into(),
        ]
    }
}

/// A right that somebody has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentDoc {
    /// As the API shows it.
    pub assignment: api::Assignment,
}

impl Document for AssignmentDoc {
    const KIND: &'static Kind = &Kind {
        table: "assignments",
        columns: &[Column::text("owner"), Column::text("role"), Column::text("scope")],
        unique: &[&["owner", "role", "scope"]],
        indexes: &[&["owner"]],
    };

    fn id(&self) -> String {
        self.assignment.id.to_string()
    }

    fn columns(&self) -> Vec<Value> {
        let scope = match self.assignment.scope {
            api::Scope::Server => "server".to_owned(),
            api::Scope::Vault(vault) => format!("vault/{vault}"),
            api::Scope::Item(item) => format!("item/{item}"),
            api::Scope::Host(host) => format!("host/{host}"),
        };
        vec![
            self.assignment.user.to_string().into(),
            self.assignment.role.name().into(),
            scope.into(),
        ]
    }
}
