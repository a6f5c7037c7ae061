//! Who may do what: one table, and how it is asked.
//!
//! A user has roles in scopes: the server, a vault, an item. A token narrows its user's rights and
//! never widens them. What somebody may not see does not exist for them.

pub(crate) mod known;
mod operation;
pub(crate) mod people;

use strongroom_api::{Role, Scope};
use strongroom_base::{ItemId, UserId, VaultId};

pub use self::operation::{Operation, Reach};

/// What an operation works on, for the question whether it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The server itself: users, hosts, the list of vaults.
    Server,
    /// A vault, or something that is only in it.
    Vault(VaultId),
    /// An item of a vault.
    Item(VaultId, ItemId),
}

impl Target {
    /// Whether a right in `scope` holds for this.
    pub fn is_in(self, scope: Scope) -> bool {
        match (scope, self) {
            (Scope::Server, _) => true,
            (Scope::Vault(vault), Self::Vault(here) | Self::Item(here, _)) => vault == here,
            (Scope::Item(item), Self::Item(_, here)) => item == here,
            (Scope::Vault(_) | Scope::Item(_), _) => false,
        }
    }
}

/// A role in a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// Where it holds.
    pub scope: Scope,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user; none if it is the service itself.
    pub user: Option<UserId>,
    /// Its name, for jobs and the audit log.
    pub name: String,
    /// Its rights.
    pub grants: Vec<Grant>,
    /// What the token narrows them to.
    pub limit: Grant,
}

/// What a caller can see in lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Everything.
    All,
    /// These vaults with all that is in them, and these items.
    Some {
        /// Vaults.
        vaults: Vec<VaultId>,
        /// Items.
        items: Vec<ItemId>,
    },
}

impl Sight {
    /// Whether an item, or something of it, is seen.
    pub fn has(&self, vault: Option<VaultId>, item: Option<ItemId>) -> bool {
        match self {
            Self::All => true,
            Self::Some { vaults, items } => {
                vault.is_some_and(|vault| vaults.contains(&vault))
                    || item.is_some_and(|item| items.contains(&item))
            }
        }
    }
}

impl Caller {
    /// The service itself, which may do anything.
    pub fn system() -> Self {
        let all = Grant { role: Role::VaultAdmin, scope: Scope::Server };
        Self { user: None, name: "system".to_owned(), grants: vec![all], limit: all }
    }

    /// Whether it is the service itself, or the operator on its command line.
    pub fn is_system(&self) -> bool {
        *self == Self::system()
    }

    /// Somebody without any right.
    pub(crate) fn nobody() -> Self {
        let none = Grant { role: Role::Reader, scope: Scope::Server };
        Self { user: None, name: String::new(), grants: Vec::new(), limit: none }
    }

    /// Whether it may do this here.
    pub fn may(&self, operation: Operation, target: Target) -> bool {
        let role = operation.role();
        let enough = |grant: &Grant| grant.role >= role && target.is_in(grant.scope);
        enough(&self.limit) && self.grants.iter().any(enough)
    }

    /// Whether it may do this anywhere.
    pub fn may_somewhere(&self, operation: Operation) -> bool {
        let role = operation.role();
        self.limit.role >= role && self.grants.iter().any(|grant| grant.role >= role)
    }

    /// What it sees.
    pub fn sight(&self) -> Sight {
        let limit = self.limit.scope;
        if limit == Scope::Server && self.grants.iter().any(|grant| grant.scope == Scope::Server) {
            return Sight::All;
        }
        let (mut vaults, mut items) = (Vec::new(), Vec::new());
        for grant in &self.grants {
            match (limit, grant.scope) {
                // Either holds everywhere: what the other says.
                (Scope::Server, scope) | (scope, Scope::Server) => match scope {
                    Scope::Server => {}
                    Scope::Vault(vault) => vaults.push(vault),
                    Scope::Item(item) => items.push(item),
                },
                (limit, scope) if limit == scope => match scope {
                    Scope::Server => {}
                    Scope::Vault(vault) => vaults.push(vault),
                    Scope::Item(item) => items.push(item),
                },
                // Whether an item is in a vault is not known here: a list shows less, never more.
                _ => {}
            }
        }
        vaults.dedup();
        items.dedup();
        Sight::Some { vaults, items }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(n: u8) -> VaultId {
        VaultId::from_bytes([n; 16])
    }

    fn item(n: u8) -> ItemId {
        ItemId::from_bytes([n; 16])
    }

    fn caller(grants: &[(Role, Scope)], limit: (Role, Scope)) -> Caller {
        let grant = |(role, scope)| Grant { role, scope };
        Caller {
            user: None,
            name: "x".to_owned(),
            grants: grants.iter().copied().map(grant).collect(),
            limit: grant(limit),
        }
    }

    #[test]
    fn roles_hold_in_their_scope_and_below() {
        let all = (Role::VaultAdmin, Scope::Server);
        let someone = caller(&[(Role::Contributor, Scope::Vault(vault(1)))], all);
        assert!(someone.may(Operation::StopProtection, Target::Item(vault(1), item(1))));
        assert!(!someone.may(Operation::StopProtection, Target::Item(vault(2), item(1))));
        assert!(!someone.may(Operation::DeleteVault, Target::Vault(vault(1))));
        assert!(!someone.may(Operation::ViewVault, Target::Server));
        let someone = caller(&[(Role::Operator, Scope::Item(item(1)))], all);
        assert!(someone.may(Operation::Restore, Target::Item(vault(9), item(1))));
        assert!(!someone.may(Operation::Restore, Target::Item(vault(9), item(2))));
        assert!(!someone.may(Operation::ViewVault, Target::Vault(vault(9))));
    }

    #[test]
    fn a_token_narrows_and_never_widens() {
        let limit = (Role::Operator, Scope::Vault(vault(1)));
        let admin = caller(&[(Role::VaultAdmin, Scope::Server)], limit);
        assert!(admin.may(Operation::BackupNow, Target::Item(vault(1), item(1))));
        assert!(!admin.may(Operation::BackupNow, Target::Item(vault(2), item(1))));
        assert!(!admin.may(Operation::StopProtection, Target::Item(vault(1), item(1))));
        let reader = caller(&[(Role::Reader, Scope::Server)], (Role::VaultAdmin, Scope::Server));
        assert!(!reader.may(Operation::BackupNow, Target::Item(vault(1), item(1))));
    }

    #[test]
    fn lists_show_what_may_be_seen() {
        let all = (Role::VaultAdmin, Scope::Server);
        assert_eq!(caller(&[all], all).sight(), Sight::All);
        let in_vault = (Role::Reader, Scope::Vault(vault(1)));
        let some = Sight::Some { vaults: vec![vault(1)], items: vec![] };
        assert_eq!(caller(&[in_vault], all).sight(), some);
        assert_eq!(caller(&[all], in_vault).sight(), some);
        assert_eq!(caller(&[in_vault], in_vault).sight(), some);
        let elsewhere = (Role::Reader, Scope::Vault(vault(2)));
        let none = Sight::Some { vaults: vec![], items: vec![] };
        assert_eq!(caller(&[in_vault], elsewhere).sight(), none);
        assert!(none.has(None, None) || !none.has(Some(vault(1)), Some(item(1))));
    }

    proptest::proptest! {
        /// What is listed may be viewed, for any rights and any token.
        #[test]
        fn sight_is_never_more_than_rights(
            grants in proptest::collection::vec((0_usize..4, 0_u8..5), 0..4),
            limit in (0_usize..4, 0_u8..5),
            at in (0_u8..3, 0_u8..3),
        ) {
            let scope = |n: u8| match n {
                0 => Scope::Server,
                1 | 2 => Scope::Vault(vault(n)),
                _ => Scope::Item(item(n - 2)),
            };
            let pair = |(role, n): (usize, u8)| (Role::ALL[role], scope(n));
            let grants: Vec<_> = grants.into_iter().map(pair).collect();
            let caller = caller(&grants, pair(limit));
            let (vault, item) = (vault(at.0), item(at.1));
            if caller.sight().has(Some(vault), Some(item)) {
                proptest::prop_assert!(caller.may(Operation::ViewItem, Target::Item(vault, item)));
            }
        }
    }
}
