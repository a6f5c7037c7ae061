//! Storage accounts over the API: a server without them, and keys that are answered once.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Mutex, MutexGuard},
};

use axum::http::Method;
use serde_json::{Value, json};
use strongroom_api::{
    BlobSnapshots, BlobToSnapshot, ErrorBody, StorageAccount, StorageAccountCreate,
    StorageAccountKeys, StorageAccountKind, StorageAccountRedundancy, StorageFailedOver,
    StorageKey, StorageKeyName, StoragePairState, StorageReplication, StorageRole, StorageStatus,
};
use strongroom_base::{Clock as _, SystemClock, codes};
use strongroom_orders::{Result, StorageAccounts};

use crate::bed::{Answer, Bed};

/// Accounts in memory. Their keys are words.
#[derive(Default)]
pub(crate) struct Stored(Mutex<BTreeMap<String, StorageAccountKeys>>);

/// A key, which stands nowhere else.
const KEY: &str = "SECRET-KEY-OF-AN-ACCOUNT";

impl Stored {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, StorageAccountKeys>> {
        self.0.lock().expect("locks")
    }

    fn of(&self, name: &str, endpoint: Option<&str>) -> Result<StorageAccountKeys> {
        let none = || Box::new(ErrorBody::new(&codes::ACCOUNT_NOT_FOUND, "there is none"));
        let mut found = self.all().get(name).cloned().ok_or_else(none)?;
        if let Some(endpoint) = endpoint {
            found.connection_string = format!("{endpoint};{}", found.connection_string);
        }
        Ok(found)
    }
}

impl StorageAccounts for Stored {
    fn list(&self) -> Result<Vec<StorageAccount>> {
        Ok(self.all().values().map(StorageAccountKeys::account).collect())
    }

    fn show(&self, name: &str) -> Result<StorageAccount> {
        Ok(self.of(name, None)?.account())
    }

    fn create(&self, new: &StorageAccountCreate) -> Result<StorageAccountKeys> {
        let key = |name: &StorageKeyName| StorageKey {
            name: *name,
            value: format!("{KEY}-{name}"),
            connection_string: format!("AccountKey={KEY}-{name}"),
        };
        let made = StorageAccountKeys {
            name: new.name.clone(),
            kind: new.kind.unwrap_or(StorageAccountKind::Standard),
            redundancy: StorageAccountRedundancy::Lrs,
            rules: true,
            created: SystemClock.now(),
            keys: StorageKeyName::ALL.iter().map(key).collect(),
            connection_string: format!("AccountKey={KEY}-key1"),
        };
        self.all().insert(new.name.clone(), made);
        self.of(&new.name, new.endpoint.as_deref())
    }

    fn keys(&self, name: &str, endpoint: Option<&str>) -> Result<StorageAccountKeys> {
        self.of(name, endpoint)
    }

    fn regenerate_key(
        &self,
        name: &str,
        _: StorageKeyName,
        endpoint: Option<&str>,
    ) -> Result<StorageAccountKeys> {
        self.of(name, endpoint)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.all().remove(name).expect("it is there");
        Ok(())
    }

    fn snapshot(&self, _: &[BlobToSnapshot]) -> Result<BlobSnapshots> {
        Ok(BlobSnapshots { snapshot: "2026-11-30T01:00:00.0000000Z".to_owned() })
    }

    fn set_redundancy(&self, name: &str, redundancy: StorageAccountRedundancy) -> Result<()> {
        self.all().get_mut(name).expect("it is there").redundancy = redundancy;
        Ok(())
    }

    fn replication(&self) -> Result<StorageReplication> {
        Ok(StorageReplication {
            role: StorageRole::Primary,
            state: StoragePairState::CatchingUp,
            epoch: 3,
            peer_url: None,
            last_sync_time: Some(SystemClock.now()),
            lag_records: Some(4),
            lag_bytes: Some(5),
            lag_seconds: Some(6),
            peer_seen: Some(SystemClock.now()),
            failover: None,
            reason: None,
        })
    }

    fn fail_over(&self, _: bool) -> Result<StorageFailedOver> {
        Ok(StorageFailedOver {
            epoch: 2,
            planned: true,
            last_sync_time: None,
            lost_records: 0,
            old_primary_fenced: true,
        })
    }

    fn status(&self) -> Result<StorageStatus> {
        Ok(StorageStatus {
            accounts: 0,
            containers: 0,
            blobs: 0,
            used_bytes: 0,
            free_bytes: 0,
            records: 0,
            checkpoints: 0,
            journal_bytes: 0,
            failure: None,
            copies: Vec::new(),
            repaired: 0,
            damaged: 0,
        })
    }
}

/// A server beside storage accounts.
pub(crate) fn with_accounts() -> Bed {
    Bed::with(|config| config.storage_listen = Some("127.0.0.1:0".parse().expect("an address")))
}

#[test]
fn a_server_without_accounts_says_how_to_get_them() {
    let bed = Bed::new();
    for (method, path, body) in [
        (Method::GET, "/storage", None),
        (Method::GET, "/storage/replication", None),
        (Method::POST, "/storage/failover", None),
        (Method::GET, "/storage-accounts", None),
        (Method::GET, "/storage-accounts/disks", None),
        (Method::DELETE, "/storage-accounts/disks", None),
        (Method::POST, "/storage-accounts", Some(json!({ "name": "disks" }))),
        (Method::POST, "/storage-accounts/disks/keys", None),
        (Method::POST, "/storage-accounts/disks/regenerate-key", Some(json!({ "key": "key1" }))),
    ] {
        let request = bed.request(&bed.token, method.clone(), path, &[], body.as_ref());
        let answer = bed.send(request);
        assert_eq!(answer.status, 404, "{method} {path}");
        assert_eq!(answer.code(), "storage.not_configured", "{method} {path}");
        let hint = answer.json()["error"]["hint"].as_str().expect("a hint").to_owned();
        assert!(hint.contains("`storage_listen`"), "{hint}");
    }
}

#[test]
fn keys_are_answered_once_and_kept_nowhere() {
    let bed = with_accounts();
    let post = |path: &str, body: &Value| -> Answer {
        let key = [("idempotency-key", path)];
        bed.send(bed.request(&bed.token, Method::POST, path, &key, Some(body)))
    };
    let with_keys = [
        ("/storage-accounts", json!({ "name": "disks" }), 201),
        ("/storage-accounts/disks/keys", json!({ "endpoint": "https://x" }), 200),
        ("/storage-accounts/disks/regenerate-key", json!({ "key": "key2" }), 200),
    ];
    for (path, body, status) in &with_keys {
        let answer = post(path, body);
        if *status == 201 {
            assert_eq!(answer.header("location"), "/v1/storage-accounts/disks");
        }
        assert_eq!(answer.header("cache-control"), "no-store");
        let shown = answer.good(*status);
        assert!(shown["connection_string"].as_str().expect("text").contains(KEY), "{shown}");
        assert_eq!(post(path, body).code(), "request.answered", "{path}");
    }
    for path in ["/storage-accounts", "/storage-accounts/disks", "/storage", "/audit?limit=1000"] {
        let shown = bed.get(path).good(200).to_string();
        assert!(!shown.contains(KEY), "{path}: {shown}");
    }
    for entry in fs::read_dir(bed.path("data")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            let content = fs::read(&path).expect("readable");
            let has = |text: &str| content.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(!has(KEY), "{}", path.display());
            if path.extension().is_some_and(|it| it == "sqlite-wal") {
                assert!(has("storage_account.read_keys"), "the search finds nothing at all");
            }
        }
    }
    bed.by(&bed.token, Method::DELETE, "/storage-accounts/disks").good(204);
    let gone = bed.by(&bed.token, Method::POST, "/storage-accounts/disks/keys");
    assert_eq!((gone.status.as_u16(), gone.code().as_str()), (404, "account.not_found"));
    let twice = json!({ "name": "disks" });
    bed.post("/storage-accounts", &twice).good(201);
    let again = bed.post("/storage-accounts", &twice);
    assert_eq!((again.status.as_u16(), again.code().as_str()), (409, "account.exists"));
    let unknown = bed.post("/storage-accounts", &json!({ "name": "more", "key": "mine" }));
    assert_eq!(unknown.code(), "request.invalid");
}
