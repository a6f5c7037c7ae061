//! Users, tokens, roles.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{AssignmentId, HostId, ItemId, TokenId, UserId, VaultId};
use utoipa::ToSchema;

use crate::words;

words! {
    /// The permissions of a user; each role includes all permissions of the roles before it.
    Role {
        /// Read.
        Reader = "reader",
        /// Also protect, back up on demand and restore.
        Operator = "operator",
        /// Also create vaults and policies, and stop protection.
        Contributor = "contributor",
        /// Also delete data and vaults, weaken their protection, and give rights.
        VaultAdmin = "vault_admin",
    }
}

/// The scope of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Scope {
    /// Everywhere.
    Server,
    /// In a vault, with everything in it.
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
    /// Whether the user is disabled and cannot sign in.
    pub disabled: bool,
    /// When it was created.
    pub created: Timestamp,
    /// When the user last signed in.
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

/// Changes of a user. Omitted fields stay as they are.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserUpdate {
    /// The new password; it revokes all other tokens of the user.
    #[serde(default)]
    #[schema(min_length = 12, max_length = 1024, format = Password)]
    pub password: Option<String>,
    /// The present password: needed unless the caller may manage access.
    #[serde(default)]
    #[schema(format = Password)]
    pub current_password: Option<String>,
    /// Whether the user is disabled and cannot sign in.
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

/// A role of a user in a scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assignment {
    /// Its id.
    pub id: AssignmentId,
    /// The user.
    pub user: UserId,
    /// Which role.
    pub role: Role,
    /// Where.
    pub scope: Scope,
    /// When it was assigned.
    pub created: Timestamp,
}

/// Assigns a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssignmentCreate {
    /// The user: their name or id.
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
    /// Its name, such as its purpose.
    pub name: String,
    /// Its user.
    pub user: UserId,
    /// Its role: the limit of its rights, whatever its user's roles are.
    pub role: Role,
    /// Its present rights: the lower of `role` and the highest of its user's roles in its scope.
    /// None if it has no rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_role: Option<Role>,
    /// Where it holds.
    pub scope: Scope,
    /// When it was created.
    pub created: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
    /// The token that created it, and with which it is revoked. None if it was created with a
    /// password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<TokenId>,
    /// When it was last used. The server records this at most once an hour, so after a crash it may
    /// be up to an hour too old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

/// A new token for the caller.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// Its name, such as its purpose.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// Its role: at most the role of the caller's token, which is the default.
    #[serde(default)]
    pub role: Option<Role>,
    /// Its scope: within the scope of the caller's token, which is the default.
    #[serde(default)]
    pub scope: Option<Scope>,
    /// Days until it expires: 1 to 366. The default is 90, or the expiry of the caller's token if
    /// that is sooner.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 366)]
    pub days: Option<u16>,
    /// The user's password. With it the new token may outlast the caller's token, and is not
    /// revoked with it.
    #[serde(default)]
    #[schema(format = Password)]
    pub password: Option<String>,
}

/// A new token, with its secret, which is never shown again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenIssued {
    /// The token.
    pub token: Token,
    /// The secret to send as `Authorization: Bearer`.
    pub secret: String,
}

/// The caller and their rights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// The user.
    pub user: User,
    /// The user's rights.
    pub assignments: Vec<Assignment>,
    /// The token that was sent.
    pub token: Token,
}
