//! The table of rights: every operation, the role that it takes, and where that role must hold.

use strongroom_api::Role;

/// Where a role must hold for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everywhere.
    Server,
    /// In the vault, or everywhere.
    Vault,
    /// On the item, in its vault, or everywhere.
    Item,
    /// On the host, or everywhere.
    Host,
}

impl Reach {
    /// The word in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Vault => "vault",
            Self::Item => "item",
            Self::Host => "host",
        }
    }
}

macro_rules! operations {
    ($($variant:ident = $name:literal, $role:ident, $reach:ident, $words:literal;)*) => {
        /// Something that can be done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation {
            $(#[doc = $words] $variant,)*
        }

        impl Operation {
            /// All of them, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in the audit log and in the table.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The least role that may do it.
            pub const fn role(self) -> Role {
                match self { $(Self::$variant => Role::$role,)* }
            }

            /// Where that role must hold.
            pub const fn reach(self) -> Reach {
                match self { $(Self::$variant => Reach::$reach,)* }
            }

            /// What it is, in one line.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)* }
            }
        }
    };
}

operations! {
    ViewServer = "server.view", Reader, Server, "See the server's status and all hosts.";
    ViewHost = "host.view", Reader, Host, "See a host and what can be protected on it.";
    ViewVault = "vault.view", Reader, Vault, "See a vault, its policies, jobs, alerts and usage.";
    ViewItem = "item.view", Reader, Item, "See an item, its recovery points, jobs and alerts.";
    ViewStorageAccount = "storage_account.view", Reader, Server, "See storage accounts without their keys, and how their store stands.";
    CheckItem = "item.check", Reader, Item, "Check an item for obstacles to a backup.";

    DiscoverHost = "host.discover", Operator, Host, "Update the list of a host's machines, and check them.";
    Protect = "item.protect", Operator, Vault, "Protect machines and disks, together with `machine.protect`.";
    ProtectMachine = "machine.protect", Operator, Host, "Protect machines and disks of a host, which reads them.";
    UpdateItem = "item.update", Operator, Item, "Change which disks of an item are backed up.";
    BackupNow = "item.backup", Operator, Item, "Back up an item on demand.";
    Restore = "item.restore", Operator, Item, "Restore from an item's recovery points.";
    ReadFiles = "item.read_files", Operator, Item, "List and download files of an item's recovery points.";
    VerifyBoot = "item.verify_boot", Operator, Item, "Boot an item's machine from a recovery point in isolation, and see its screen and console.";
    FinishRestore = "restore.finish", Operator, Item, "Accept or undo a restore that has replaced a machine's disks.";
    ReplaceMachine = "machine.replace", Operator, Host, "Replace the disks of a machine that is not the item's own.";
    Resume = "item.resume", Operator, Item, "Resume an item's protection.";
    CancelJob = "job.cancel", Operator, Item, "Cancel a job.";
    AcknowledgeAlert = "alert.acknowledge", Operator, Item, "Acknowledge and resolve alerts.";
    MeasureUsage = "vault.measure", Operator, Vault, "Measure what a vault holds.";
    VerifyVault = "vault.verify", Operator, Vault, "Verify what a vault holds.";
    Drill = "vault.drill", Operator, Vault, "Boot machines of a vault together from their recovery points in isolation.";
    SnapshotBlobs = "storage_account.snapshot", Operator, Server, "Take snapshots of blobs of storage accounts.";

    CreateVault = "vault.create", Contributor, Server, "Create a vault, or take one over.";
    UpdateVault = "vault.update", Contributor, Vault, "Change a vault's name and tags, and strengthen its protection.";
    Reclaim = "vault.reclaim", Contributor, Vault, "Free the space that no recovery point of a vault needs.";
    CreatePolicy = "policy.create", Contributor, Vault, "Create a policy.";
    UpdatePolicy = "policy.update", Contributor, Vault, "Change a policy.";
    DeletePolicy = "policy.delete", Contributor, Vault, "Delete a policy.";
    SetPolicy = "item.set_policy", Contributor, Item, "Give an item another policy.";
    StopProtection = "item.stop", Contributor, Item, "Stop an item's protection and keep its recovery points.";
    DeleteData = "item.delete_data", Contributor, Item, "Delete an item's recovery points.";
    Undelete = "item.undelete", Contributor, Item, "Restore a deleted item.";
    UpdatePoint = "point.update", Contributor, Item, "Change the expiry of a recovery point.";
    RestoreSecrets = "secrets.restore", Contributor, Host, "Give the secrets of a machine to the host on which it is restored.";
    CreateHost = "host.create", Contributor, Server, "Add a host.";
    UpdateHost = "host.update", Contributor, Server, "Change a host.";
    DeleteHost = "host.delete", Contributor, Server, "Remove a host.";

    DeletePoint = "point.delete", VaultAdmin, Item, "Delete a single recovery point.";
    WeakenVault = "vault.weaken", VaultAdmin, Vault, "Turn off soft delete or immutability, or shorten soft delete.";
    LockVault = "vault.lock", VaultAdmin, Vault, "Make soft delete or immutability irreversible.";
    ReplaceUnsaved = "machine.replace_unsaved", VaultAdmin, Host, "Replace the disks of a machine that is not the item's own without a recovery point of them.";
    SaveCatalog = "vault.save_catalog", VaultAdmin, Vault, "Save the catalog in a vault.";
    RotateKey = "vault.rotate_key", VaultAdmin, Vault, "Change a vault's key.";
    DeleteVault = "vault.delete", VaultAdmin, Vault, "Delete a vault.";
    UndeleteVault = "vault.undelete", VaultAdmin, Vault, "Restore a deleted vault.";
    CreateStorageAccount = "storage_account.create", VaultAdmin, Server, "Create a storage account, which shows its keys.";
    ReadStorageKeys = "storage_account.read_keys", VaultAdmin, Server, "Read the keys of a storage account.";
    RegenerateStorageKey = "storage_account.regenerate_key", VaultAdmin, Server, "Replace a key of a storage account, which shows its keys.";
    SetStorageRedundancy = "storage_account.set_redundancy", VaultAdmin, Server, "Change whether a storage account can be read at the second server.";
    FailOverStorage = "storage_account.fail_over", VaultAdmin, Server, "Make this server the primary of the storage accounts.";
    DeleteStorageAccount = "storage_account.delete", VaultAdmin, Server, "Delete a storage account with everything in it.";
    ManageAccess = "access.manage", VaultAdmin, Server, "Create users, give and take rights, revoke tokens.";
    ViewAudit = "audit.view", VaultAdmin, Server, "Read, export and verify the audit log.";
    TestAlerts = "alert.test", VaultAdmin, Server, "Test whether alerts arrive by mail and webhook.";
    ManageServer = "server.manage", VaultAdmin, Server, "Confirm the server's clock.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Operation::ALL.len());
    }

    #[test]
    fn looking_takes_the_least_role_and_destroying_the_most() {
        for operation in Operation::ALL {
            let verb = operation.name().split_once('.').map(|(_, verb)| verb);
            let looks = verb == Some("view") && *operation != Operation::ViewAudit;
            assert_eq!(
                looks || *operation == Operation::CheckItem,
                operation.role() == Role::Reader
            );
        }
        assert_eq!(Operation::DeleteVault.role(), Role::VaultAdmin);
    }
}
