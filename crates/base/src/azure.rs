//! Azure Backup's names for the same errors, for people and scripts that know them.
//!
//! Only names with the same cause and remedy are listed. Names without a counterpart (agents'
//! installers, subscriptions, marketplaces) are left out.

/// Codes of the catalog, and what Azure Backup calls them.
pub(crate) const ALIASES: &[(&str, &[&str])] = &[
    ("vm.not_found", &["BCMV2VMNotFound"]),
    (
        "vm.state",
        &[
            "UserErrorVmNotInDesirableState",
            "VmNotInDesirableState",
            "UserErrorVmProvisioningStateFailed",
        ],
    ),
    ("vm.busy", &["ExtensionOperationFailedForManagedDisks"]),
    ("vm.operation", &["UserErrorCrpReportedUserError"]),
    ("vm.unsupported", &["UserErrorUnsupportedDiskSize"]),
    (
        "vm.agent",
        &[
            "UserErrorGuestAgentStatusUnavailable",
            "GuestAgentSnapshotTaskStatusError",
            "ExtensionFailedTimeoutVMNetworkUnresponsive",
        ],
    ),
    (
        "vm.consistency",
        &[
            "UserErrorFsFreezeFailed",
            "FsFreezeTimeout",
            "UserErrorUnableToOpenMount",
            "AzureVmOffline",
            "ExtensionFailedVssWriterInBadState",
            "ExtensionFailedVssServiceInBadState",
            "ExtensionSnapshotBitlockerError",
        ],
    ),
    (
        "vm.script",
        &[
            "Pre-ScriptExecutionFailed",
            "Post-ScriptExecutionFailed",
            "Pre-ScriptNotFound",
            "Post-ScriptNotFound",
            "Pre-ScriptTimeout",
            "Post-ScriptTimeout",
            "InsufficientPermissionforPre-Script",
            "InsufficientPermissionforPost-Script",
            "IncorrectJSONConfigFile",
        ],
    ),
    ("vm.scratch", &["UserErrorBCMPremiumStorageQuotaError"]),
    ("host.denied", &["UserErrorRequestDisallowedByPolicy"]),
    ("host.lacks", &["UserErrorSkuNotAvailable"]),
    ("host.unknown", &["UserErrorCrossSubscriptionRestoreInvalidTargetSubscription"]),
    ("restore.differs", &["UserErrorMigrationFromTrustedLaunchVMToNonTrustedVMNotAllowed"]),
    ("key.unreadable", &["UserErrorKeyvaultPermissionsNotConfigured"]),
    ("store.unavailable", &["ExtensionSnapshotFailedNoNetwork"]),
    ("item.unknown", &["UserErrorBcmDatasourceNotPresent"]),
    ("item.busy", &["UserErrorBackupOperationInProgress"]),
    ("source.missing", &["UserErrorVmNotFoundV2", "ResourceNotFound"]),
    ("point.not_found", &["UserErrorInstantRpNotFound"]),
    ("bug", &["BackUpOperationFailed", "BackUpOperationFailedV2"]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::CATALOG;

    #[test]
    fn every_alias_is_of_one_code_that_is_there() {
        let mut seen = BTreeSet::new();
        for (name, aliases) in ALIASES {
            let code = CATALOG.iter().find(|code| code.name == *name).expect(name);
            assert_eq!(code.azure(), *aliases);
            assert!(aliases.iter().all(|alias| seen.insert(*alias)), "{aliases:?} is there twice");
        }
    }
}
