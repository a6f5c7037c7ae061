//! The kinds of alerts: one table, from which the documentation is made too.

use strongroom_api::Severity;

macro_rules! rules {
    ($($variant:ident = $name:literal, $severity:ident, $ends:literal, $words:literal;)*) => {
        /// A kind of alert.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $words] $variant,)*
        }

        impl Rule {
            /// All of them, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in the API.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// How bad it is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// When it ends.
            pub const fn ends(self) -> &'static str {
                match self { $(Self::$variant => $ends,)* }
            }

            /// What has happened, in one line.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)* }
            }
        }
    };
}

rules! {
    DeleteBackupData = "delete_backup_data", Critical, "somebody resolves it", "An item's data, or one of its recovery points, was deleted. If the vault has soft delete, it can still be restored.";
    PurgeSoon = "purge_soon", Critical, "the data is restored or purged", "Soft-deleted data will be deleted for good within two days.";
    Purged = "purged", Critical, "somebody resolves it", "Soft-deleted data was deleted for good.";
    VaultDeleted = "vault_deleted", Critical, "somebody resolves it", "A vault was deleted.";
    VaultWeakened = "vault_weakened", Critical, "somebody resolves it", "Soft delete or immutability of a vault was turned off, or soft delete was shortened.";
    VaultLocked = "vault_locked", Critical, "somebody resolves it", "Soft delete or immutability of a vault was made irreversible.";
    ShorterRetention = "shorter_retention", Critical, "somebody resolves it", "A policy, or an item's new policy, keeps recovery points for a shorter time.";
    PointsMissing = "points_missing", Critical, "the points are in the vault again, or are no longer expected", "Recovery points are missing from their vault, and the service has not deleted them: the vault was rolled back, or lost objects.";
    ForeignDeletion = "foreign_deletion", Critical, "only the service's own deletion notes are left", "Somebody else has deleted recovery points in a vault of the service. Its reclaim keeps them.";
    VaultDamaged = "vault_damaged", Critical, "a verification of all of the vault finds nothing, or somebody resolves it", "A vault has damage that no copy can repair.";
    PointSuspect = "point_suspect", Critical, "somebody resolves it", "A recovery point has far more new content that does not compress than the points before it: ransomware may have encrypted the item. The alert names the last point before.";
    BackupFailed = "backup_failed", Error, "a backup of the item succeeds, or its protection is stopped", "Backups of an item fail.";
    RpoMissed = "rpo_missed", Error, "a restorable recovery point is as new as promised, or protection is stopped", "The newest restorable recovery point of an item is older than its policy promises, whatever its jobs say.";
    BootFailed = "boot_failed", Error, "a newer recovery point of the item boots, the same one does when it is verified again, or protection is stopped", "The machine of an item did not come as far as it has to when it was booted from a recovery point.";
    DrillFailed = "drill_failed", Error, "a drill of the vault on that host passes, or somebody resolves it", "A machine did not work in a drill, or not in the time that is wanted.";
    RestoreFailed = "restore_failed", Error, "somebody resolves it", "A restore failed.";
    JobFailed = "job_failed", Error, "somebody resolves it", "A job of another kind failed.";
    ClockJumped = "clock_jumped", Error, "the clock runs right again, or is confirmed", "The server's clock has jumped, so nothing is deleted that may not have expired.";
    Undelivered = "alert_undelivered", Error, "the channel works again", "Alerts cannot be sent through one of the channels. The other channels report it.";
    StorageFenced = "storage_fenced", Error, "the server takes changes again, or follows the other one", "The server takes no changes of storage accounts: the other server was promoted, or has not said yet that it was not.";
    StorageStopped = "storage_stopped", Error, "the store takes changes again", "The store of the storage accounts takes no changes, because its disks fail, or the accounts are not served.";
    StorageDamaged = "storage_damaged", Error, "a comparison of all copies finds nothing", "Blocks of storage accounts are damaged in a copy, and no other copy can repair them.";
    StorageCopyLost = "storage_copy_lost", Error, "the copy has every change again, or is removed", "A copy of the storage accounts is missing, lacks changes, or is being made again.";
    StoragePeerLost = "storage_peer_lost", Error, "the servers are in contact again, or the pair is ended here too", "The other server of the storage accounts has ended the pair, or is not in contact for longer than `storage_lag_seconds`.";
    StorageBehind = "storage_behind", Error, "the secondary is in step", "The secondary of the storage accounts is behind by more than `storage_lag_seconds`, or has changes that the primary lacks.";
    RestoreOpen = "restore_open", Warning, "the restore is accepted or undone", "A restore replaced a machine's disks a day ago, and nobody has accepted or undone it.";
    VerifyLate = "verify_late", Warning, "the vault is verified", "The last verification of a vault is too old.";
    SourceMissing = "source_missing", Warning, "a backup of the item succeeds, or its protection is stopped", "The machine or disk that an item protects is missing.";
    NoSchedule = "no_schedule", Warning, "the item gets a policy, or its protection is stopped", "An item has no policy, so it has no scheduled backups.";
    Test = "test", Information, "it is not stored", "Somebody tests the channels.";
}

impl std::str::FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().find(|rule| rule.name() == text).copied().ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|rule| rule.name()).collect();
            let text: String = text.chars().take(80).collect();
            format!("{text:?} is not one of {}", names.join(", "))
        })
    }
}

impl Rule {
    /// What ends when an item's protection is stopped.
    pub(crate) const OF_BACKUPS: [Self; 5] = [
        Self::BackupFailed,
        Self::RpoMissed,
        Self::BootFailed,
        Self::SourceMissing,
        Self::NoSchedule,
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_the_worst_come_first() {
        let mut names: Vec<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Rule::ALL.len());
        assert!(Rule::ALL.is_sorted_by_key(|rule| rule.severity()));
    }
}
