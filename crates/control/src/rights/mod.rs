//! Who may do what: callers, the table of operations, and how it is asked.
//!
//! A user has roles in scopes: the server, a vault, an item, a host. A token narrows its user's rights and
//! never widens them. Objects that a user may not see are reported as not found. Users and tokens themselves are
//! `access`; nothing here reads the catalog.

mod operation;

use jiff::Timestamp;
use strongroom_api::{Job, Role, Scope};
use strongroom_base::{HostId, ItemId, TokenId, UserId, VaultId, message};
use strongroom_orders::NotAllowed;

pub use self::operation::{Operation, Reach};
use crate::error::ControlError;

/// What an operation works on, for the question whether it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The server itself: users, the list of vaults.
    Server,
    /// A host, with its machines and disks.
    Host(HostId),
    /// A vault, or something that is only in it.
    Vault(VaultId),
    /// An item of a vault.
    Item(VaultId, ItemId),
}

impl Target {
    /// What a job is about.
    pub fn of(job: &Job) -> Self {
        match (job.vault, job.item, job.host) {
            (Some(vault), Some(item), _) => Self::Item(vault, item),
            (Some(vault), None, _) => Self::Vault(vault),
            (None, _, Some(host)) => Self::Host(host),
            (None, _, None) => Self::Server,
        }
    }

    /// Whether a right in `scope` holds for this.
    pub fn is_in(self, scope: Scope) -> bool {
        match (scope, self) {
            (Scope::Server, _) => true,
            (Scope::Vault(vault), Self::Vault(here) | Self::Item(here, _)) => vault == here,
            (Scope::Item(item), Self::Item(_, here)) => item == here,
            (Scope::Host(host), Self::Host(here)) => host == here,
            (Scope::Vault(_) | Scope::Item(_) | Scope::Host(_), _) => false,
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

/// The token that a caller has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its id.
    pub id: TokenId,
    /// When it ends.
    pub expires: Timestamp,
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
    /// The token; none if it is the service itself.
    pub token: Option<Held>,
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
        Self { user: None, name: "system".to_owned(), grants: vec![all], limit: all, token: None }
    }

    /// Whether it is the service itself, or the operator on its command line.
    pub fn is_system(&self) -> bool {
        *self == Self::system()
    }

    /// Somebody without any right.
    pub(crate) fn nobody() -> Self {
        let none = Grant { role: Role::Reader, scope: Scope::Server };
        Self { user: None, name: String::new(), grants: Vec::new(), limit: none, token: None }
    }

    /// Whether its token may all that its user may.
    pub fn is_full(&self) -> bool {
        self.limit == Grant { role: Role::VaultAdmin, scope: Scope::Server }
    }

    /// Whether it may do this here.
    pub fn may(&self, operation: Operation, target: Target) -> bool {
        let role = operation.role();
        let enough = |grant: &Grant| grant.role >= role && target.is_in(grant.scope);
        enough(&self.limit) && self.grants.iter().any(enough)
    }

    /// The hosts that it sees; none: all of them.
    pub fn hosts(&self) -> Option<Vec<HostId>> {
        if self.may(Operation::ViewServer, Target::Server) {
            return None;
        }
        let scopes = self.grants.iter().map(|grant| grant.scope).chain([self.limit.scope]);
        let mut hosts: Vec<HostId> = scopes
            .filter_map(|scope| match scope {
                Scope::Host(host) => Some(host),
                Scope::Server | Scope::Vault(_) | Scope::Item(_) => None,
            })
            .filter(|host| self.may(Operation::ViewHost, Target::Host(*host)))
            .collect();
        hosts.sort_unstable();
        hosts.dedup();
        Some(hosts)
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
                    Scope::Server | Scope::Host(_) => {}
                    Scope::Vault(vault) => vaults.push(vault),
                    Scope::Item(item) => items.push(item),
                },
                (limit, scope) if limit == scope => match scope {
                    Scope::Server | Scope::Host(_) => {}
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

/// The error of somebody who has named what the operator lets nobody name. What may be named is for those
/// who see the server.
pub(crate) fn not_allowed(caller: Option<&Caller>, no: &NotAllowed) -> ControlError {
    let sees = caller.is_none_or(|caller| caller.may(Operation::ViewServer, Target::Server));
    if sees { no.whole_message().into() } else { no.message().into() }
}

/// The error of somebody who lacks a right.
pub(crate) fn forbidden(caller: &Caller, operation: Operation) -> ControlError {
    let place = match operation.reach() {
        Reach::Server => "on the server",
        Reach::Vault => "in the vault",
        Reach::Item => "on the item",
        Reach::Host => "on the host",
    };
    let message = message!(
        AUTH_FORBIDDEN: role,
        "{user} may not do this ({operation}): it takes the role {role} {place}",
        user = caller.name,
        operation = operation.name(),
        role = operation.role(),
        place
    );
    ControlError::Forbidden { operation: operation.name(), message: Box::new(message) }
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
            token: None,
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
        assert!(!none.has(None, None) && !none.has(Some(vault(1)), Some(item(1))));
    }

    #[test]
    fn a_host_is_a_scope_of_its_own() {
        let host = |n: u8| HostId::from_bytes([n; 16]);
        let all = (Role::VaultAdmin, Scope::Server);
        let in_vault = (Role::Operator, Scope::Vault(vault(1)));
        let on_host = (Role::Operator, Scope::Host(host(1)));
        let someone = caller(&[in_vault], all);
        assert!(!someone.may(Operation::ProtectMachine, Target::Host(host(1))));
        assert_eq!(someone.hosts(), Some(vec![]));
        let someone = caller(&[in_vault, on_host], all);
        assert!(someone.may(Operation::ProtectMachine, Target::Host(host(1))));
        assert!(!someone.may(Operation::ProtectMachine, Target::Host(host(2))));
        assert!(!someone.may(Operation::RestoreSecrets, Target::Host(host(1))));
        assert_eq!(someone.hosts(), Some(vec![host(1)]));
        assert_eq!(caller(&[all], all).hosts(), None);
        let narrow = caller(&[all], on_host);
        assert_eq!(narrow.hosts(), Some(vec![host(1)]));
        assert!(!narrow.may(Operation::Protect, Target::Vault(vault(1))));
        // A host shows nothing of what is in vaults.
        assert_eq!(narrow.sight(), Sight::Some { vaults: vec![], items: vec![] });
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
