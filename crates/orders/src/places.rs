//! Places on a host that others may name.

use strongroom_api::KeyReference;
use strongroom_base::{Message, message};

/// What the operator lets others name: places of vaults, keys and disks.
///
/// A caller of the service names paths and URLs, and they are opened with rights of its own. So they are
/// looked at where they will be opened: only there it is known where a link leads.
pub trait AllowedPlaces: Send + Sync {
    /// Refuses the place of a vault.
    fn check_vault(&self, url: &str) -> Result<(), NotAllowed>;

    /// Refuses the folder of a copy of a vault.
    fn check_vault_folder(&self, url: &str) -> Result<(), NotAllowed>;

    /// Refuses what would open a vault.
    fn check_key(&self, key: &KeyReference) -> Result<(), NotAllowed>;

    /// Refuses a disk that is to be backed up by path.
    fn check_disk(&self, path: &str) -> Result<(), NotAllowed>;

    /// Refuses a page blob, `ACCOUNT/CONTAINER/BLOB`, of an account that the host serves.
    fn check_blob(&self, blob: &str) -> Result<(), NotAllowed>;

    /// Refuses a page blob of an account that the host serves, as one that backups are written to.
    fn check_blob_target(&self, blob: &str) -> Result<(), NotAllowed>;

    /// Refuses what is to be restored to.
    fn check_target(&self, path: &str) -> Result<(), NotAllowed>;
}

/// Something that was named is not on the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAllowed {
    /// What was named.
    pub named: String,
    /// The key of the configuration that would have to say it.
    pub setting: &'static str,
    /// What it says.
    pub allowed: Vec<String>,
}

impl NotAllowed {
    /// For somebody who may not know the configuration.
    pub fn message(&self) -> Message {
        let Self { named, setting, .. } = self;
        message!(
            PLACE_NOT_ALLOWED,
            "{named} is not allowed by `{setting}` of the server's configuration",
            named,
            setting
        )
    }

    /// For somebody who may.
    pub fn whole_message(&self) -> Message {
        let Self { named, setting, allowed } = self;
        let none = ["none".to_owned()];
        let allowed = if allowed.is_empty() { &none[..] } else { allowed };
        let what = match *setting {
            "vault_urls" => "its URL",
            "pkcs11_modules" => "the module",
            "blob_accounts" | "blob_target_accounts" => "the account",
            _ => "the folder",
        };
        message!(
            PLACE_NOT_ALLOWED,
            "{named}: add {what} to `{setting}` in server.toml and restart; allowed are: {allowed}",
            named,
            what,
            setting,
            allowed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_to_do() {
        let no = NotAllowed { named: "/x".to_owned(), setting: "disk_dirs", allowed: Vec::new() };
        assert_eq!(
            no.whole_message().text,
            "/x: add the folder to `disk_dirs` in server.toml and restart; allowed are: none"
        );
        assert!(!no.message().text.contains("none"));
    }
}
