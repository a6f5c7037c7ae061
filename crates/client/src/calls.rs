//! One method for each route of the API.
//!
//! Names may be ids wherever a thing has both.

use strongroom_api::{
    Alert, AlertState, AlertTest, Assignment, AssignmentCreate, AuditEntry, AuditVerified,
    BackupNow, BlobSnapshots, BlobSnapshotsCreate, BootWanted, ChannelTried, Check, DrillWanted,
    Host, HostCreate, HostUpdate, Item, ItemUpdate, Job, JobBegun, JobKind, JobState, KeyRotate,
    Page, PointState, PointUpdate, Policy, PolicyCreate, PolicyPreview, PolicyUpdate, Protect,
    ProtectableItem, ProtectionState, RecoveryPoint, Restore, RestoreDecision, ResumeProtection,
    Severity, SignIn, Status, StopProtection, StorageAccount, StorageAccountCreate,
    StorageAccountKeys, StorageFailOver, StorageFailedOver, StorageKeyRegenerate, StorageKeysRead,
    StorageRedundancySet, StorageReplication, StorageStatus, Token, TokenCreate, TokenIssued, User,
    UserCreate, UserUpdate, Vault, VaultCreate, VaultUpdate, VaultUsage, WhoAmI,
};
use strongroom_base::AssignmentId;
use strongroom_policy::PolicyRules;
use strongroom_reports::BootReport;

use crate::{Client, ClientError, Pages, http::Sent};

type Result<T> = std::result::Result<T, ClientError>;

/// A piece of housekeeping in a vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfVault {
    /// Measure what it holds.
    Measure,
    /// Free what no recovery point needs.
    Reclaim,
    /// Verify all of it.
    Verify,
    /// Write what the service knows into it.
    SaveCatalog,
}

/// Which items a list has.
#[derive(Clone, Debug, Default)]
pub struct ItemQuery {
    /// Only those of this vault.
    pub vault: Option<String>,
    /// Only those in this state.
    pub state: Option<ProtectionState>,
    /// Only those with this policy: its id.
    pub policy: Option<String>,
    /// Only those whose names contain this text.
    pub name: Option<String>,
}

/// Which jobs a list has.
#[derive(Clone, Debug, Default)]
pub struct JobQuery {
    /// Only those in this state.
    pub state: Option<JobState>,
    /// That do this.
    pub kind: Option<JobKind>,
    /// Only those of this vault.
    pub vault: Option<String>,
    /// Only those of this item.
    pub item: Option<String>,
    /// That were begun at this moment or later.
    pub since: Option<String>,
    /// That were begun before this moment.
    pub until: Option<String>,
}

/// Which alerts a list has.
#[derive(Clone, Debug, Default)]
pub struct AlertQuery {
    /// Only those in this state.
    pub state: Option<AlertState>,
    /// Only those of this severity.
    pub severity: Option<Severity>,
    /// Only those of this kind.
    pub rule: Option<String>,
    /// Only those about this vault or something in it.
    pub vault: Option<String>,
    /// Only those about this item.
    pub item: Option<String>,
}

fn filters<const N: usize>(
    filters: [(&'static str, Option<String>); N],
) -> Vec<(&'static str, String)> {
    filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Who may, and how things are.
impl Client {
    /// Signs in.
    pub fn sign_in(&self, request: &SignIn) -> Result<TokenIssued> {
        self.post(&["sign-in"], request)
    }

    /// Who asks.
    pub fn who_am_i(&self) -> Result<WhoAmI> {
        self.get(&["me"], &[])
    }

    /// Which role may do what.
    pub fn access_table(&self) -> Result<Vec<serde_json::Value>> {
        let page: Page<serde_json::Value> = self.get(&["access-table"], &[])?;
        Ok(page.items)
    }

    /// How things are.
    pub fn status(&self) -> Result<Status> {
        self.get(&["status"], &[])
    }

    /// Confirms that the server's clock is right.
    pub fn confirm_clock(&self) -> Result<()> {
        self.post_empty(&["server", "confirm-clock"])
    }

    /// The users.
    pub fn users(&self) -> Pages<'_, User> {
        self.pages(&["users"], Vec::new())
    }

    /// Makes a user.
    pub fn create_user(&self, request: &UserCreate) -> Result<User> {
        self.post(&["users"], request)
    }

    /// Changes a user.
    pub fn update_user(&self, user: &str, request: &UserUpdate) -> Result<User> {
        self.patch(&["users", user], request)
    }

    /// Deletes a user.
    pub fn delete_user(&self, user: &str) -> Result<()> {
        self.delete(&["users", user])
    }

    /// The rights that were given.
    pub fn assignments(&self) -> Pages<'_, Assignment> {
        self.pages(&["assignments"], Vec::new())
    }

    /// Gives a right.
    pub fn assign(&self, request: &AssignmentCreate) -> Result<Assignment> {
        self.post(&["assignments"], request)
    }

    /// Takes a right away.
    pub fn unassign(&self, id: AssignmentId) -> Result<()> {
        self.delete(&["assignments", &id.to_string()])
    }

    /// Tokens: all, for those who may see them, else one's own.
    pub fn tokens(&self) -> Pages<'_, Token> {
        self.pages(&["tokens"], Vec::new())
    }

    /// Makes a token.
    pub fn create_token(&self, request: &TokenCreate) -> Result<TokenIssued> {
        self.post(&["tokens"], request)
    }

    /// Revokes a token.
    pub fn revoke_token(&self, id: &str) -> Result<()> {
        self.delete(&["tokens", id])
    }
}

/// Vaults and policies.
impl Client {
    /// The vaults.
    pub fn vaults(&self) -> Pages<'_, Vault> {
        self.pages(&["vaults"], Vec::new())
    }

    /// A vault.
    pub fn vault(&self, name: &str) -> Result<Vault> {
        self.get(&["vaults", name], &[])
    }

    /// Makes a vault, or takes one over.
    pub fn create_vault(&self, request: &VaultCreate) -> Result<Vault> {
        self.post(&["vaults"], request)
    }

    /// Changes a vault.
    pub fn update_vault(&self, name: &str, request: &VaultUpdate) -> Result<Vault> {
        self.patch(&["vaults", name], request)
    }

    /// Deletes a vault. If the answer has it, the vault can be undeleted for some time.
    pub fn delete_vault(&self, name: &str) -> Result<Option<Vault>> {
        self.delete(&["vaults", name])
    }

    /// Brings a deleted vault back.
    pub fn undelete_vault(&self, name: &str) -> Result<Vault> {
        self.post_empty(&["vaults", name, "undelete"])
    }

    /// What a vault held when it was measured last.
    pub fn usage(&self, vault: &str) -> Result<VaultUsage> {
        self.get(&["vaults", vault, "usage"], &[])
    }

    /// Begins a piece of housekeeping.
    pub fn begin(&self, vault: &str, what: OfVault) -> Result<JobBegun> {
        let verb = match what {
            OfVault::Measure => "measure",
            OfVault::Reclaim => "reclaim",
            OfVault::Verify => "verify",
            OfVault::SaveCatalog => "save-catalog",
        };
        self.post_empty(&["vaults", vault, verb])
    }

    /// Begins to change a vault's key.
    pub fn rotate_key(&self, vault: &str, request: &KeyRotate) -> Result<JobBegun> {
        self.post(&["vaults", vault, "rotate-key"], request)
    }

    /// The policies of a vault.
    pub fn policies(&self, vault: &str) -> Pages<'_, Policy> {
        self.pages(&["vaults", vault, "policies"], Vec::new())
    }

    /// A policy.
    pub fn policy(&self, vault: &str, name: &str) -> Result<Policy> {
        self.get(&["vaults", vault, "policies", name], &[])
    }

    /// Makes a policy.
    pub fn create_policy(&self, vault: &str, request: &PolicyCreate) -> Result<Policy> {
        self.post(&["vaults", vault, "policies"], request)
    }

    /// Changes a policy.
    pub fn update_policy(&self, vault: &str, name: &str, request: &PolicyUpdate) -> Result<Policy> {
        self.patch(&["vaults", vault, "policies", name], request)
    }

    /// Deletes a policy.
    pub fn delete_policy(&self, vault: &str, name: &str) -> Result<()> {
        self.delete(&["vaults", vault, "policies", name])
    }

    /// What other rules would do.
    pub fn preview_policy(
        &self,
        vault: &str,
        name: &str,
        rules: &PolicyRules,
    ) -> Result<PolicyPreview> {
        let body = serde_json::json!({ "rules": rules });
        self.post(&["vaults", vault, "policies", name, "preview"], &body)
    }
}

/// Storage accounts.
impl Client {
    /// The accounts.
    pub fn storage_accounts(&self) -> Pages<'_, StorageAccount> {
        self.pages(&["storage-accounts"], Vec::new())
    }

    /// An account.
    pub fn storage_account(&self, name: &str) -> Result<StorageAccount> {
        self.get(&["storage-accounts", name], &[])
    }

    /// Makes an account.
    pub fn create_storage_account(
        &self,
        request: &StorageAccountCreate,
    ) -> Result<StorageAccountKeys> {
        self.post(&["storage-accounts"], request)
    }

    /// Deletes an account with everything in it.
    pub fn delete_storage_account(&self, name: &str) -> Result<()> {
        self.delete(&["storage-accounts", name])
    }

    /// An account with its keys.
    pub fn storage_keys(
        &self,
        name: &str,
        request: &StorageKeysRead,
    ) -> Result<StorageAccountKeys> {
        self.post(&["storage-accounts", name, "keys"], request)
    }

    /// Replaces a key of an account.
    pub fn regenerate_storage_key(
        &self,
        name: &str,
        request: &StorageKeyRegenerate,
    ) -> Result<StorageAccountKeys> {
        self.post(&["storage-accounts", name, "regenerate-key"], request)
    }

    /// Changes where the data of an account is kept.
    pub fn set_storage_redundancy(
        &self,
        name: &str,
        request: &StorageRedundancySet,
    ) -> Result<StorageAccount> {
        self.post(&["storage-accounts", name, "set-redundancy"], request)
    }

    /// How the accounts are kept at a second server.
    pub fn storage_replication(&self) -> Result<StorageReplication> {
        self.get(&["storage", "replication"], &[])
    }

    /// Makes the server the primary of all its accounts.
    pub fn fail_storage_over(&self, request: &StorageFailOver) -> Result<StorageFailedOver> {
        self.post(&["storage", "failover"], request)
    }

    /// How the store of the accounts stands.
    pub fn storage_status(&self) -> Result<StorageStatus> {
        self.get(&["storage"], &[])
    }

    /// Takes snapshots of several blobs at the same moment.
    pub fn snapshot_blobs(&self, request: &BlobSnapshotsCreate) -> Result<BlobSnapshots> {
        self.post(&["storage", "snapshots"], request)
    }
}

/// Hosts and items.
impl Client {
    /// The hosts.
    pub fn hosts(&self) -> Pages<'_, Host> {
        self.pages(&["hosts"], Vec::new())
    }

    /// A host.
    pub fn host(&self, name: &str) -> Result<Host> {
        self.get(&["hosts", name], &[])
    }

    /// Makes a host known.
    pub fn create_host(&self, request: &HostCreate) -> Result<Host> {
        self.post(&["hosts"], request)
    }

    /// Changes a host.
    pub fn update_host(&self, name: &str, request: &HostUpdate) -> Result<Host> {
        self.patch(&["hosts", name], request)
    }

    /// Forgets a host.
    pub fn delete_host(&self, name: &str) -> Result<()> {
        self.delete(&["hosts", name])
    }

    /// Starts a new discovery of a host's machines.
    pub fn discover(&self, host: &str) -> Result<JobBegun> {
        self.post_empty(&["hosts", host, "discover"])
    }

    /// What can be protected on a host.
    pub fn protectable_items(&self, host: &str) -> Pages<'_, ProtectableItem> {
        self.pages(&["hosts", host, "protectable-items"], Vec::new())
    }

    /// What stands in the way of a machine's backup.
    pub fn check_machine(&self, host: &str, machine: &str) -> Result<Check> {
        self.get(&["hosts", host, "protectable-items", machine, "check"], &[])
    }

    /// Items.
    pub fn items(&self, which: ItemQuery) -> Pages<'_, Item> {
        let query = filters([
            ("vault", which.vault),
            ("state", which.state.map(|state| state.to_string())),
            ("policy", which.policy),
            ("name", which.name),
        ]);
        self.pages(&["items"], query)
    }

    /// An item.
    pub fn item(&self, name: &str) -> Result<Item> {
        self.get(&["items", name], &[])
    }

    /// Protects machines or disks.
    pub fn protect(&self, request: &Protect) -> Result<JobBegun> {
        self.post(&["items"], request)
    }

    /// Changes an item.
    pub fn update_item(&self, name: &str, request: &ItemUpdate) -> Result<Item> {
        self.patch(&["items", name], request)
    }

    /// What stands in the way of an item's backup.
    pub fn check_item(&self, name: &str) -> Result<Check> {
        self.get(&["items", name, "check"], &[])
    }

    /// Begins a backup on demand.
    pub fn backup_now(&self, item: &str, request: &BackupNow) -> Result<JobBegun> {
        self.post(&["items", item, "backup"], request)
    }

    /// Stops an item's protection.
    pub fn stop_protection(&self, item: &str, request: &StopProtection) -> Result<Item> {
        self.post(&["items", item, "stop"], request)
    }

    /// Resumes an item's protection.
    pub fn resume_protection(&self, item: &str, request: &ResumeProtection) -> Result<Item> {
        self.post(&["items", item, "resume"], request)
    }

    /// Begins to accept or undo the restore that has replaced the disks of an item's machine.
    pub fn finish_restore(&self, item: &str, decision: RestoreDecision) -> Result<JobBegun> {
        self.post_empty(&["items", item, "restore", decision.name()])
    }

    /// Brings a deleted item back.
    pub fn undelete_item(&self, item: &str) -> Result<Item> {
        self.post_empty(&["items", item, "undelete"])
    }
}

/// Recovery points and jobs, alerts and the audit log.
impl Client {
    /// The recovery points of an item, the newest first.
    pub fn points(&self, item: &str, state: Option<PointState>) -> Pages<'_, RecoveryPoint> {
        let query = filters([("state", state.map(|state| state.to_string()))]);
        self.pages(&["items", item, "recovery-points"], query)
    }

    /// A recovery point: its id, or `latest`.
    pub fn point(&self, item: &str, point: &str) -> Result<RecoveryPoint> {
        self.get(&["items", item, "recovery-points", point], &[])
    }

    /// Changes until when a recovery point is kept.
    pub fn update_point(
        &self,
        item: &str,
        point: &str,
        request: &PointUpdate,
    ) -> Result<RecoveryPoint> {
        self.patch(&["items", item, "recovery-points", point], request)
    }

    /// Deletes a recovery point. If the answer has it, the point can be undeleted for some time.
    pub fn delete_point(&self, item: &str, point: &str) -> Result<Option<RecoveryPoint>> {
        self.delete(&["items", item, "recovery-points", point])
    }

    /// Begins a restore.
    pub fn restore(&self, item: &str, point: &str, request: &Restore) -> Result<JobBegun> {
        self.post(&["items", item, "recovery-points", point, "restore"], request)
    }

    /// Begins a drill of machines of a vault.
    pub fn drill(&self, vault: &str, request: &DrillWanted) -> Result<JobBegun> {
        self.post(&["vaults", vault, "drill"], request)
    }

    /// Begins a boot verification of a recovery point.
    pub fn verify_boot(&self, item: &str, point: &str, request: &BootWanted) -> Result<JobBegun> {
        self.post(&["items", item, "recovery-points", point, "boot"], request)
    }

    /// The report of the newest boot verification of a recovery point.
    pub fn boot_report(&self, item: &str, point: &str) -> Result<BootReport> {
        self.get(&["items", item, "recovery-points", point, "boot"], &[])
    }

    /// The picture of the screen at its end, as PNG or PPM.
    pub fn boot_screenshot(&self, item: &str, point: &str) -> Result<Vec<u8>> {
        let path = ["items", item, "recovery-points", point, "boot", "screenshot"];
        self.bytes(&Sent { method: reqwest::Method::GET, path: &path, query: &[], body: None })
    }

    /// The text of the console, as the machine has written it.
    pub fn boot_console(&self, item: &str, point: &str) -> Result<Vec<u8>> {
        let path = ["items", item, "recovery-points", point, "boot", "console"];
        self.bytes(&Sent { method: reqwest::Method::GET, path: &path, query: &[], body: None })
    }

    /// Jobs, the newest first.
    pub fn jobs(&self, which: JobQuery) -> Pages<'_, Job> {
        let query = filters([
            ("state", which.state.map(|state| state.to_string())),
            ("kind", which.kind.map(|kind| kind.to_string())),
            ("vault", which.vault),
            ("item", which.item),
            ("since", which.since),
            ("until", which.until),
        ]);
        self.pages(&["jobs"], query)
    }

    /// A job.
    pub fn job(&self, id: &str) -> Result<Job> {
        self.get(&["jobs", id], &[])
    }

    /// Tells a job to stop.
    pub fn cancel_job(&self, id: &str) -> Result<Job> {
        self.post_empty(&["jobs", id, "cancel"])
    }

    /// Alerts, the newest first.
    pub fn alerts(&self, which: AlertQuery) -> Pages<'_, Alert> {
        let query = filters([
            ("state", which.state.map(|state| state.to_string())),
            ("severity", which.severity.map(|severity| severity.to_string())),
            ("rule", which.rule),
            ("vault", which.vault),
            ("item", which.item),
        ]);
        self.pages(&["alerts"], query)
    }

    /// Says that somebody has seen an alert.
    pub fn acknowledge_alert(&self, id: &str) -> Result<Alert> {
        self.post_empty(&["alerts", id, "acknowledge"])
    }

    /// Says that an alert holds no more.
    pub fn resolve_alert(&self, id: &str) -> Result<Alert> {
        self.post_empty(&["alerts", id, "resolve"])
    }

    /// Tries whether alerts arrive, by one channel or by all: how each did.
    pub fn test_alerts(&self, channel: Option<String>) -> Result<Vec<ChannelTried>> {
        let page: Page<ChannelTried> = self.post(&["alerts", "test"], &AlertTest { channel })?;
        Ok(page.items)
    }

    /// Entries of the audit log before a number, the newest first.
    pub fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>> {
        let query = filters([
            ("before", before.map(|seq| seq.to_string())),
            ("limit", Some(limit.clamp(1, 1000).to_string())),
        ]);
        let page: Page<AuditEntry> = self.get(&["audit"], &query)?;
        Ok(page.items)
    }

    /// The audit log from an entry on, as lines of JSON, each as soon as it is there.
    pub fn export_audit<E: From<ClientError>>(
        &self,
        from: u64,
        mut write: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let query = [("from", from.to_string())];
        let (method, path) = (reqwest::Method::GET, ["audit", "export"]);
        let sent = Sent { method, path: &path, query: &query, body: None };
        self.runtime.block_on(async {
            let mut response = self.send(&sent).await?;
            loop {
                match response.chunk().await {
                    Ok(Some(chunk)) => write(&chunk)?,
                    Ok(None) => return Ok(()),
                    Err(error) => return Err(self.unreached(error).into()),
                }
            }
        })
    }

    /// Whether the audit log is whole; and whether it still has an entry that was seen earlier.
    pub fn verify_audit(&self, seen: Option<(u64, &str)>) -> Result<AuditVerified> {
        let query = filters([
            ("seq", seen.map(|(seq, _)| seq.to_string())),
            ("hash", seen.map(|(_, hash)| hash.to_owned())),
        ]);
        self.get(&["audit", "verify"], &query)
    }
}
