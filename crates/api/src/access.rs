//! Users, tokens, roles.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{AssignmentId, HostId, ItemId, TokenId, UserId, VaultId};
use utoipa::ToSchema;

use crate::words;

words! {
    /// What somebody may do; each may do what those before it may.
    Role {
        /// Look.
        Reader = "reader",
        /// Also protect, back up on demand and restore.
        Operator = "operator",
        /// Also make vaults and policies and stop protection.
        Contributor = "contributor",
        /// Also delete data and vaults, weaken their protection, and give rights.
        VaultAdmin = "vault_admin",
    }
}

/// Where a role holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Scope {
    /// Everywhere.
    Server,
    /// In a vault, with all that is in it.
    Vault(VaultId),
    /// On an item.
    Item(ItemId),
    /// On a host, with its machines and disks.
    Host(HostId),
}

/// A user of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// The name to sign in with.
    pub name: String,
    /// Whether it cannot sign in.
    pub disabled: bool,
    /// When it was made.
    pub created: Timestamp,
    /// When it signed in last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sign_in: Option<Timestamp>,
}

/// A new user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserCreate {
    /// The name to sign in with.
    #[schema(min_length = 1, max_length = 200, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    pub name: String,
    /// At least 12 characters.
    #[schema(min_length = 12, max_length = 1024, format = Password)]
    pub password: String,
}

/// Changes of a user. What is not given stays as it is.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserUpdate {
    /// Another password; all other tokens of the user end.
    #[serde(default)]
    #[schema(min_length = 12, max_length = 1024, format = Password)]
    pub password: Option<String>,
    /// The present password: whoever may not manage access gives it with the new one.
    #[serde(default)]
    #[schema(format = Password)]
    pub current_password: Option<String>,
    /// Whether it cannot sign in.
    #[serde(default)]
    pub disabled: Option<bool>,
}

/// Signs in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The user's name.
    pub name: String,
    /// The password.
    #[schema(format = Password)]
    pub password: String,
}

/// A right that is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    /// Its id.
    pub id: AssignmentId,
    /// Who has it.
    pub user: UserId,
    /// Which role.
    pub role: Role,
    /// Where.
    pub scope: Scope,
    /// Since when.
    pub created: Timestamp,
}

/// Gives a right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssignmentCreate {
    /// Who gets it: a user's name or id.
    pub user: String,
    /// Which role.
    pub role: Role,
    /// Where.
    pub scope: Scope,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// What it is for.
    pub name: String,
    /// Whose it is.
    pub user: UserId,
    /// The most that it may do, whatever its user may.
    pub role: Role,
    /// The most that it may do at present: the lower of `role` and the best of its user's roles where it
    /// holds. None if that is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_role: Option<Role>,
    /// Where it holds.
    pub scope: Scope,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// The token that it was made with, and with which it ends. None if a password was given for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TokenId>,
    /// When it was used last. It is written down for each token once an hour at most, so after a crash of
    /// the server it may be so much older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

/// A new token of one's own.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// What it is for.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// The most that it may do: at most the role of the token that is sent, which is taken if not given.
    #[serde(default)]
    pub role: Option<Role>,
    /// Where it holds: within the scope of the token that is sent, which is taken if not given.
    #[serde(default)]
    pub scope: Option<Scope>,
    /// For how many days: 1 to 366. If not given 90, or as long as the token that is sent if that ends
    /// sooner.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 366)]
    pub days: Option<u16>,
    /// The user's password. With it the new token may last longer than the one that is sent, and does
    /// not end with it.
    #[serde(default)]
    #[schema(format = Password)]
    pub password: Option<String>,
}

/// A new token, with its secret, which is never shown again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenIssued {
    /// The token.
    pub token: Token,
    /// What to send as `Authorization: Bearer`.
    pub secret: String,
}

/// Who asks, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// The user.
    pub user: User,
    /// Its rights.
    pub assignments: Vec<Assignment>,
    /// The token that was sent.
    pub token: Token,
}
