//! Storage accounts: who may see them and their keys, and what the audit log has of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use jiff::Timestamp;
use strongroom_api::{
    AlertState, AuditEntry, BlobSnapshots, BlobSnapshotsCreate, BlobToSnapshot, ErrorBody, Role,
    Scope, StorageAccount, StorageAccountCreate, StorageAccountKeys, StorageAccountKind,
    StorageAccountRedundancy, StorageCopy, StorageCopyState, StorageFailOver, StorageFailedOver,
    StorageKey, StorageKeyName, StorageKeyRegenerate, StorageKeysRead, StoragePairState,
    StorageRedundancySet, StorageReplication, StorageRole, StorageStatus,
};
use strongroom_base::codes;
use strongroom_catalog::testing::{Bed, on_both_databases};
use strongroom_control::{
    PageRequest,
    rights::{Caller, Grant},
};
use strongroom_orders::{Result, StorageAccounts};

use crate::world::{World, refusal};

on_both_databases! {
    each_role_may_do_with_accounts_what_the_table_says,
    accounts_are_listed_by_pages,
    what_cannot_be_an_account_is_refused_and_not_recorded,
    keys_are_recorded_before_they_are_given_and_never_with_their_value,
    alerts_say_how_the_accounts_stand_and_end_with_it,
}

/// Accounts in memory.
#[derive(Default)]
pub(crate) struct Stored(Mutex<State>);

#[derive(Default)]
struct State {
    accounts: BTreeMap<String, (StorageAccount, [u32; 2])>,
    made: u32,
    /// The disk fails at changes.
    fails: bool,
    asked_for_keys: u32,
    /// How the second server stands, if there is one.
    pair: Option<StorageReplication>,
    copies: Vec<StorageCopy>,
    failure: Option<String>,
    damaged: u64,
}

fn pair(role: StorageRole, state: StoragePairState) -> StorageReplication {
    StorageReplication {
        role,
        state,
        epoch: 1,
        peer_url: None,
        last_sync_time: None,
        lag_records: None,
        lag_bytes: None,
        lag_seconds: None,
        peer_seen: None,
        failover: None,
        reason: None,
    }
}

/// The value of a key, which nobody else may know.
fn value(number: u32) -> String {
    format!("SECRET{number:04}")
}

impl Stored {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("locks")
    }
}

impl State {
    fn of(&self, name: &str) -> Result<StorageAccountKeys> {
        let Some((account, keys)) = self.accounts.get(name) else {
            return Err(Box::new(ErrorBody::new(&codes::ACCOUNT_NOT_FOUND, "there is none")));
        };
        let key = |(name, number): (&StorageKeyName, &u32)| StorageKey {
            name: *name,
            value: value(*number),
            connection_string: format!("AccountKey={}", value(*number)),
        };
        Ok(StorageAccountKeys {
            name: account.name.clone(),
            kind: account.kind,
            redundancy: account.redundancy,
            rules: account.rules,
            created: account.created,
            keys: StorageKeyName::ALL.iter().zip(keys).map(key).collect(),
            connection_string: format!("AccountKey={}", value(keys[0])),
        })
    }

    fn new_key(&mut self) -> u32 {
        self.made += 1;
        self.made
    }

    fn check(&self) -> Result<()> {
        if self.fails {
            return Err(Box::new(ErrorBody::new(&codes::STORAGE_STOPPED, "the disk fails")));
        }
        Ok(())
    }
}

impl StorageAccounts for Stored {
    fn list(&self) -> Result<Vec<StorageAccount>> {
        Ok(self.state().accounts.values().map(|(account, _)| account.clone()).collect())
    }

    fn show(&self, name: &str) -> Result<StorageAccount> {
        Ok(self.state().of(name)?.account())
    }

    fn create(&self, new: &StorageAccountCreate) -> Result<StorageAccountKeys> {
        let mut state = self.state();
        state.check()?;
        let keys = [state.new_key(), state.new_key()];
        let account = StorageAccount {
            name: new.name.clone(),
            kind: new.kind.unwrap_or(StorageAccountKind::Standard),
            redundancy: StorageAccountRedundancy::Lrs,
            rules: new.rules.unwrap_or(true),
            created: Timestamp::UNIX_EPOCH,
        };
        state.accounts.insert(new.name.clone(), (account, keys));
        state.of(&new.name)
    }

    fn keys(&self, name: &str, _: Option<&str>) -> Result<StorageAccountKeys> {
        let mut state = self.state();
        state.asked_for_keys += 1;
        state.of(name)
    }

    fn regenerate_key(
        &self,
        name: &str,
        key: StorageKeyName,
        _: Option<&str>,
    ) -> Result<StorageAccountKeys> {
        let mut state = self.state();
        state.check()?;
        let new = state.new_key();
        let place = usize::from(key == StorageKeyName::Key2);
        state.accounts.get_mut(name).expect("it is there").1[place] = new;
        state.of(name)
    }

    fn delete(&self, name: &str) -> Result<()> {
        let mut state = self.state();
        state.check()?;
        state.accounts.remove(name).expect("it is there");
        Ok(())
    }

    fn snapshot(&self, _: &[BlobToSnapshot]) -> Result<BlobSnapshots> {
        self.state().check()?;
        Ok(BlobSnapshots { snapshot: "2026-11-30T01:00:00.0000000Z".to_owned() })
    }

    fn set_redundancy(&self, name: &str, redundancy: StorageAccountRedundancy) -> Result<()> {
        let mut state = self.state();
        state.check()?;
        state.accounts.get_mut(name).expect("it is there").0.redundancy = redundancy;
        Ok(())
    }

    fn replication(&self) -> Result<StorageReplication> {
        Ok(self
            .state()
            .pair
            .clone()
            .unwrap_or(pair(StorageRole::Alone, StoragePairState::Unpaired)))
    }

    fn fail_over(&self, _: bool) -> Result<StorageFailedOver> {
        self.state().check()?;
        Ok(StorageFailedOver {
            epoch: 2,
            planned: true,
            last_sync_time: None,
            lost_records: 0,
            old_primary_fenced: true,
        })
    }

    fn status(&self) -> Result<StorageStatus> {
        let state = self.state();
        Ok(StorageStatus {
            accounts: state.accounts.len().try_into().expect("few"),
            containers: 0,
            blobs: 0,
            used_bytes: 0,
            free_bytes: 0,
            records: 0,
            checkpoints: 0,
            journal_bytes: 0,
            failure: state.failure.clone(),
            copies: state.copies.clone(),
            repaired: 0,
            damaged: state.damaged,
        })
    }
}

fn new(name: &str) -> StorageAccountCreate {
    StorageAccountCreate {
        name: name.to_owned(),
        kind: None,
        redundancy: None,
        rules: None,
        endpoint: None,
    }
}

fn elsewhere() -> StorageRedundancySet {
    StorageRedundancySet { redundancy: StorageAccountRedundancy::RaGrs }
}

fn snapshots() -> BlobSnapshotsCreate {
    let blob = |name: &str| BlobToSnapshot {
        account: "disks".to_owned(),
        container: "vms".to_owned(),
        blob: name.to_owned(),
        metadata: BTreeMap::new(),
    };
    BlobSnapshotsCreate { blobs: vec![blob("a"), blob("b")] }
}

fn with(role: Role, scope: Scope) -> Caller {
    let grant = Grant { role, scope };
    Caller { name: role.name().to_owned(), grants: vec![grant], ..Caller::system() }
}

async fn entries(world: &World) -> Vec<AuditEntry> {
    let all = world.control.audit_entries(&world.admin, None, 1000).await.expect("entries");
    all.into_iter().filter(|entry| entry.action.starts_with("storage_account.")).collect()
}

async fn each_role_may_do_with_accounts_what_the_table_says(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    control.create_storage_account(&world.admin, new("disks")).await.expect("an account");
    let read = StorageKeysRead::default;
    let regenerate = || StorageKeyRegenerate { key: StorageKeyName::Key1, endpoint: None };
    let at = PageRequest::default();
    let forbidden = "auth.forbidden".to_owned();
    for role in [Role::Reader, Role::Operator, Role::Contributor] {
        let caller = with(role, Scope::Server);
        control.storage_account(&caller, "disks").await.expect("sees it");
        assert_eq!(control.storage_accounts(&caller, &at).await.expect("a list").items.len(), 1);
        control.storage_status(&caller).await.expect("sees it");
        let keys = control.storage_account_keys(&caller, "disks", read()).await;
        assert_eq!(refusal(keys), forbidden, "{role}");
        let made = control.create_storage_account(&caller, new("more")).await;
        assert_eq!(refusal(made), forbidden, "{role}");
        let key = control.regenerate_storage_key(&caller, "disks", regenerate()).await;
        assert_eq!(refusal(key), forbidden, "{role}");
        let deleted = control.delete_storage_account(&caller, "disks").await;
        assert_eq!(refusal(deleted), forbidden, "{role}");
        let set = control.set_storage_redundancy(&caller, "disks", elsewhere()).await;
        assert_eq!(refusal(set), forbidden, "{role}");
        let failed_over = control.fail_storage_over(&caller, StorageFailOver::default()).await;
        assert_eq!(refusal(failed_over), forbidden, "{role}");
        control.storage_replication(&caller).await.expect("sees it");
        // Whether an account exists is no secret, and no reason for another refusal.
        assert_eq!(refusal(control.delete_storage_account(&caller, "none").await), forbidden);
        let taken = control.snapshot_blobs(&caller, snapshots()).await;
        match role {
            Role::Reader => assert_eq!(refusal(taken), forbidden),
            _ => assert!(taken.is_ok(), "{taken:?}"),
        }
    }
    assert_eq!(world.shared.accounts.state().asked_for_keys, 0);
    // Rights elsewhere are none here.
    let vault = control.vault(&world.admin, "main").await.expect("a vault").value.id;
    let caller = with(Role::VaultAdmin, Scope::Vault(vault));
    assert_eq!(refusal(control.storage_accounts(&caller, &at).await), forbidden);
    assert_eq!(refusal(control.storage_account(&caller, "disks").await), forbidden);
    assert_eq!(refusal(control.storage_status(&caller).await), forbidden);
    assert_eq!(refusal(control.storage_replication(&caller).await), forbidden);

    let admin = with(Role::VaultAdmin, Scope::Server);
    let keys = control.storage_account_keys(&admin, "disks", read()).await.expect("keys");
    let after = control.regenerate_storage_key(&admin, "disks", regenerate()).await.expect("keys");
    assert_ne!(after.keys[0], keys.keys[0]);
    assert_eq!(after.keys[1], keys.keys[1]);
    let set = control.set_storage_redundancy(&admin, "disks", elsewhere()).await.expect("is set");
    assert_eq!(set.redundancy, StorageAccountRedundancy::RaGrs);
    let lossy = StorageFailOver { accept_loss: Some(true) };
    let failed_over = control.fail_storage_over(&admin, lossy).await.expect("fails over");
    assert_eq!(failed_over.epoch, 2);
    let entries = entries(&world).await;
    let of = |action: &str| {
        let entry = entries.iter().find(|entry| entry.action == action).expect("an entry");
        (entry.target.clone(), entry.detail.to_string())
    };
    let entry = |target: &str, detail: &str| (target.to_owned(), detail.to_owned());
    let set = of("storage_account.set_redundancy");
    assert_eq!(set, entry("disks", r#"{"redundancy":"ra_grs"}"#));
    assert_eq!(of("storage_account.fail_over"), entry("storage", r#"{"accept_loss":true}"#));
    control.delete_storage_account(&admin, "disks").await.expect("deletes");
    let gone = control.storage_account(&admin, "disks").await;
    assert_eq!(refusal(gone), "account.not_found");
}

async fn accounts_are_listed_by_pages(bed: Bed) {
    let world = World::new(bed).await;
    let names = ["alpha", "beta2", "gamma"];
    for name in names {
        world.control.create_storage_account(&world.admin, new(name)).await.expect("an account");
    }
    let (mut found, mut token) = (Vec::new(), None);
    for last in [false, true] {
        let at = PageRequest { limit: Some(2), token };
        let page = world.control.storage_accounts(&world.admin, &at).await.expect("a page");
        found.extend(page.items.into_iter().map(|account| account.name));
        token = page.next_page_token;
        assert_eq!(token.is_none(), last);
    }
    assert_eq!(found, names);
    let all = PageRequest { limit: Some(3), token: None };
    let page = world.control.storage_accounts(&world.admin, &all).await.expect("a page");
    assert_eq!(page.next_page_token, None);
    let wrong = PageRequest { limit: None, token: Some("No!".to_owned()) };
    let refused = world.control.storage_accounts(&world.admin, &wrong).await;
    assert_eq!(refusal(refused), "request.page_token");
}

async fn what_cannot_be_an_account_is_refused_and_not_recorded(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    control.create_storage_account(&world.admin, new("disks")).await.expect("an account");
    let made = |new| control.create_storage_account(&world.admin, new);
    assert_eq!(refusal(made(new("disks")).await), "account.exists");
    for name in ["", "ab", "Disks", "a-b-c", "../up", "a".repeat(25).as_str()] {
        assert_eq!(refusal(made(new(name)).await), "account.invalid", "{name}");
    }
    let read = StorageKeysRead::default();
    let keys = control.storage_account_keys(&world.admin, "none", read).await;
    assert_eq!(refusal(keys), "account.not_found");
    let deleted = control.delete_storage_account(&world.admin, "none").await;
    assert_eq!(refusal(deleted), "account.not_found");
    for blobs in [Vec::new(), vec![snapshots().blobs.remove(0); 65]] {
        let taken = control.snapshot_blobs(&world.admin, BlobSnapshotsCreate { blobs }).await;
        assert_eq!(refusal(taken), "request.invalid");
    }
    assert_eq!(entries(&world).await.len(), 1);
}

async fn keys_are_recorded_before_they_are_given_and_never_with_their_value(bed: Bed) {
    let world = World::new(bed).await;
    let control = &world.control;
    control.create_storage_account(&world.admin, new("disks")).await.expect("an account");
    let read = StorageKeysRead::default();
    control.storage_account_keys(&world.admin, "disks", read).await.expect("keys");
    let second = || StorageKeyRegenerate { key: StorageKeyName::Key2, endpoint: None };
    control.regenerate_storage_key(&world.admin, "disks", second()).await.expect("a key");
    // A change that the store refuses is recorded as that.
    world.shared.accounts.state().fails = true;
    let failed = control.regenerate_storage_key(&world.admin, "disks", second()).await;
    assert_eq!(refusal(failed), "storage.stopped");
    world.shared.accounts.state().fails = false;
    control.snapshot_blobs(&world.admin, snapshots()).await.expect("snapshots");
    control.delete_storage_account(&world.admin, "disks").await.expect("deletes");
    let mut found = entries(&world).await;
    found.reverse();
    let found: Vec<_> = found
        .iter()
        .map(|it| (it.action.as_str(), it.outcome.as_str(), it.target.as_str(), &it.detail))
        .map(|(action, outcome, target, detail)| {
            assert_eq!(target, "disks");
            let action = action.trim_start_matches("storage_account.");
            format!("{action} {outcome} {detail}")
        })
        .collect();
    assert_eq!(
        found,
        [
            r#"create allowed {"kind":"standard","rules":true}"#,
            "read_keys allowed {}",
            r#"regenerate_key allowed {"key":"key2"}"#,
            r#"regenerate_key allowed {"key":"key2"}"#,
            r#"regenerate_key failed {"code":"storage.stopped"}"#,
            r#"snapshot allowed {"blobs":2}"#,
            "delete allowed {}",
        ]
    );
    let all = control.audit_entries(&world.admin, None, 1000).await.expect("entries");
    let all = serde_json::to_string(&all).expect("JSON");
    assert!(!all.contains("SECRET"), "{all}");

    // Without an entry nobody gets a key: the log cannot be written to.
    control.create_storage_account(&world.admin, new("other")).await.expect("an account");
    let asked = world.shared.accounts.state().asked_for_keys;
    control.catalog().clone().close().await;
    let read = StorageKeysRead::default();
    control.storage_account_keys(&world.admin, "other", read).await.expect_err("no key");
    assert_eq!(world.shared.accounts.state().asked_for_keys, asked);
}

async fn alerts_say_how_the_accounts_stand_and_end_with_it(bed: Bed) {
    let world = World::new(bed).await;
    let accounts = &world.shared.accounts;
    let firing = async || {
        world.control.keep_house().await.expect("keeps house");
        let alerts = world.alerts().await.into_iter();
        let alerts = alerts.filter(|it| it.rule.starts_with("storage_"));
        let firing = alerts.filter(|it| it.state == AlertState::Firing);
        let mut firing: Vec<_> = firing.map(|it| (it.rule, it.subject, it.title)).collect();
        firing.sort();
        firing
    };
    let rules = async || firing().await.into_iter().map(|it| it.0).collect::<Vec<_>>();
    assert_eq!(rules().await, [""; 0]);

    // A copy that is missing, one that is made again; each is an alert of its own.
    let copy = |path: &str, state, reason: Option<&str>| StorageCopy {
        path: path.to_owned(),
        state,
        done_bytes: None,
        total_bytes: None,
        since: None,
        reason: reason.map(str::to_owned),
    };
    accounts.state().copies = vec![
        copy("/a", StorageCopyState::Leading, None),
        copy("/b", StorageCopyState::Missing, Some("the disk fails")),
        copy("/c", StorageCopyState::Rebuilding, None),
        copy("/d", StorageCopyState::Healthy, None),
    ];
    let found = firing().await;
    let subjects: Vec<_> = found.iter().map(|it| (&*it.0, &*it.1)).collect();
    assert_eq!(subjects, [("storage_copy_lost", "/b"), ("storage_copy_lost", "/c")]);
    assert!(found[0].2.contains("is missing: the disk fails"), "{found:?}");
    accounts.state().copies = vec![copy("/a", StorageCopyState::Leading, None)];
    assert_eq!(rules().await, [""; 0]);

    // Damage, and a disk that fails.
    accounts.state().damaged = 3;
    assert_eq!(rules().await, ["storage_damaged"]);
    accounts.state().damaged = 0;
    accounts.state().failure = Some("input/output error".to_owned());
    assert_eq!(rules().await, ["storage_stopped"]);
    accounts.state().failure = None;

    // The secondary is behind by more than it may.
    let live = pair(StorageRole::Primary, StoragePairState::CatchingUp);
    let behind = |seconds, records| StorageReplication {
        lag_seconds: Some(seconds),
        lag_records: Some(records),
        ..live.clone()
    };
    for (seconds, records, wanted) in
        [(300, 7, None), (301, 7, Some("storage_behind")), (301, 0, None), (0, 0, None)]
    {
        accounts.state().pair = Some(behind(seconds, records));
        assert_eq!(rules().await, wanted.into_iter().collect::<Vec<_>>(), "{seconds} {records}");
    }

    // It is lost: at once if it says so itself, after a while if it says nothing.
    let now = world.control.now();
    let lost = pair(StorageRole::Primary, StoragePairState::Unavailable);
    accounts.state().pair = Some(StorageReplication { peer_seen: Some(now), ..lost.clone() });
    assert_eq!(rules().await, [""; 0]);
    world.pass(301);
    assert_eq!(rules().await, ["storage_peer_lost"]);
    accounts.state().pair = Some(pair(StorageRole::Primary, StoragePairState::Live));
    assert_eq!(rules().await, [""; 0]);
    accounts.state().pair = Some(pair(StorageRole::Primary, StoragePairState::Removed));
    assert_eq!(rules().await, ["storage_peer_lost"]);
    accounts.state().pair = Some(pair(StorageRole::Fenced, StoragePairState::Fenced));
    assert_eq!(rules().await, ["storage_fenced"]);
    accounts.state().pair = Some(pair(StorageRole::Secondary, StoragePairState::Live));
    assert_eq!(rules().await, [""; 0]);
}
