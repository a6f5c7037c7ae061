//! Commands and replies of the store of accounts, as the types of the API: so that the service and the commands of this
//! machine say the same.

use strongroom_api as api;
use strongroom_storage::{
    FailoverProgress, FailoverShown, FailoverStep, PairState,
    admin::{
        AccountKind, AccountShown, AccountWithKeys, Command, CopyShown, CopyStateShown, KeyShown,
        Redundancy, Reply, Role, StatusShown, WhichKey,
    },
};

/// Creates an account as the API asks for it.
pub(super) fn create(new: &api::StorageAccountCreate, endpoint: String) -> Command {
    use api::StorageAccountKind as Kind;
    Command::Create {
        name: new.name.clone(),
        kind: match new.kind.unwrap_or(Kind::Standard) {
            Kind::Premium => AccountKind::Premium,
            Kind::Standard => AccountKind::Standard,
        },
        redundancy: new.redundancy.map(of_redundancy),
        rules: new.rules.unwrap_or(true),
        endpoint,
    }
}

const fn of_redundancy(redundancy: api::StorageAccountRedundancy) -> Redundancy {
    match redundancy {
        api::StorageAccountRedundancy::Lrs => Redundancy::Lrs,
        api::StorageAccountRedundancy::Grs => Redundancy::Grs,
        api::StorageAccountRedundancy::RaGrs => Redundancy::RaGrs,
    }
}

/// Changes the redundancy of an account as the API asks for it.
pub(super) fn set_redundancy(name: &str, redundancy: api::StorageAccountRedundancy) -> Command {
    Command::SetRedundancy { name: name.to_owned(), redundancy: of_redundancy(redundancy) }
}

/// How both servers stand; none if the reply is another one.
pub(super) fn replication(reply: Reply) -> Option<api::StorageReplication> {
    use api::{StoragePairState as State, StorageRole as Part};
    let Reply::Replication(shown) = reply else { return None };
    Some(api::StorageReplication {
        role: match shown.role {
            Role::Alone => Part::Alone,
            Role::Primary => Part::Primary,
            Role::Waiting => Part::Waiting,
            Role::Secondary => Part::Secondary,
            Role::Fenced => Part::Fenced,
        },
        state: match shown.state {
            PairState::Unpaired => State::Unpaired,
            PairState::Live => State::Live,
            PairState::Bootstrap => State::Bootstrap,
            PairState::CatchingUp => State::CatchingUp,
            PairState::Unavailable => State::Unavailable,
            PairState::Fenced => State::Fenced,
            PairState::Waiting => State::Waiting,
            PairState::Ahead => State::Ahead,
            PairState::Removed => State::Removed,
        },
        epoch: shown.epoch,
        peer_url: shown.peer_url,
        last_sync_time: shown.last_sync_time,
        lag_records: shown.lag_records,
        lag_bytes: shown.lag_bytes,
        lag_seconds: shown.lag_seconds,
        peer_seen: shown.peer_seen,
        failover: shown.failover.map(failover_progress),
        reason: shown.reason,
    })
}

/// A failover; none if the reply is another one.
pub(super) fn failed_over(reply: &Reply) -> Option<api::StorageFailedOver> {
    let &Reply::FailedOver(FailoverShown {
        epoch,
        planned,
        last_sync_time,
        lost_records,
        old_primary_fenced,
    }) = reply
    else {
        return None;
    };
    Some(api::StorageFailedOver {
        epoch,
        planned,
        last_sync_time,
        lost_records,
        old_primary_fenced,
    })
}

fn failover_progress(progress: FailoverProgress) -> api::StorageFailoverProgress {
    use api::StorageFailoverStep as Step;
    let step = |step: FailoverStep| match step {
        FailoverStep::OldPrimaryFenced => Step::OldPrimaryFenced,
        FailoverStep::ChangesFetched => Step::ChangesFetched,
        FailoverStep::Promoted => Step::Promoted,
    };
    let steps = |steps: Vec<FailoverStep>| steps.into_iter().map(step).collect();
    let FailoverProgress { epoch, done, left, command } = progress;
    api::StorageFailoverProgress { epoch, done: steps(done), left: steps(left), command }
}

/// Replaces a key as the API asks for it.
pub(super) fn regenerate_key(name: &str, key: api::StorageKeyName, endpoint: String) -> Command {
    let key = match key {
        api::StorageKeyName::Key1 => WhichKey::Key1,
        api::StorageKeyName::Key2 => WhichKey::Key2,
    };
    Command::RegenerateKey { name: name.to_owned(), key, endpoint }
}

/// Takes snapshots as the API asks for them.
pub(super) fn snapshot(blobs: &[api::BlobToSnapshot]) -> Command {
    let named = |it: &api::BlobToSnapshot| {
        (format!("{}/{}/{}", it.account, it.container, it.blob), it.metadata.clone())
    };
    Command::Snapshot { blobs: blobs.iter().map(named).collect() }
}

/// The accounts of a list; none if the reply is another one.
pub(super) fn accounts(reply: Reply) -> Option<Vec<api::StorageAccount>> {
    match reply {
        Reply::Accounts { accounts } => Some(accounts.into_iter().map(of_account).collect()),
        _ => None,
    }
}

/// An account; none if the reply is another one.
pub(super) fn account(reply: Reply) -> Option<api::StorageAccount> {
    match reply {
        Reply::Account(account) => Some(of_account(account)),
        _ => None,
    }
}

/// An account with its keys; none if the reply is another one.
pub(super) fn keys(reply: Reply) -> Option<api::StorageAccountKeys> {
    let Reply::Keys(AccountWithKeys { account, keys, connection_string }) = reply else {
        return None;
    };
    let account = of_account(account);
    let of_key = |key: KeyShown| api::StorageKey {
        name: match key.name {
            WhichKey::Key1 => api::StorageKeyName::Key1,
            WhichKey::Key2 => api::StorageKeyName::Key2,
        },
        value: key.value,
        connection_string: key.connection_string,
    };
    Some(api::StorageAccountKeys {
        name: account.name,
        kind: account.kind,
        redundancy: account.redundancy,
        rules: account.rules,
        created: account.created,
        keys: keys.into_iter().map(of_key).collect(),
        connection_string,
    })
}

/// The snapshots; none if the reply is another one.
pub(super) fn snapshots(reply: Reply) -> Option<api::BlobSnapshots> {
    match reply {
        Reply::Snapshot { snapshot } => Some(api::BlobSnapshots { snapshot }),
        _ => None,
    }
}

/// How the store stands; none if the reply is another one.
pub(super) fn status(reply: Reply) -> Option<api::StorageStatus> {
    let Reply::Status(status) = reply else { return None };
    let status = *status;
    let StatusShown { accounts, records, checkpoints, journal_bytes, failure, .. } = status;
    Some(api::StorageStatus {
        accounts,
        containers: status.containers,
        blobs: status.blobs,
        used_bytes: status.used_bytes,
        free_bytes: status.free_bytes,
        records,
        checkpoints,
        journal_bytes,
        failure,
        copies: status.copies.into_iter().map(of_copy).collect(),
        repaired: status.repaired,
        damaged: status.damaged,
    })
}

/// The copies of the store; none if the reply is another one.
pub(super) fn copies(reply: Reply) -> Option<Vec<api::StorageCopy>> {
    match reply {
        Reply::Copies { copies } => Some(copies.into_iter().map(of_copy).collect()),
        _ => None,
    }
}

/// Whether the reply is that an account was deleted.
pub(super) fn is_deleted(reply: &Reply) -> Option<()> {
    matches!(reply, Reply::Deleted).then_some(())
}

fn of_account(account: AccountShown) -> api::StorageAccount {
    let AccountShown { name, kind, redundancy, rules, created } = account;
    api::StorageAccount {
        name,
        kind: match kind {
            AccountKind::Premium => api::StorageAccountKind::Premium,
            AccountKind::Standard => api::StorageAccountKind::Standard,
        },
        redundancy: match redundancy {
            Redundancy::Lrs => api::StorageAccountRedundancy::Lrs,
            Redundancy::Grs => api::StorageAccountRedundancy::Grs,
            Redundancy::RaGrs => api::StorageAccountRedundancy::RaGrs,
        },
        rules,
        created,
    }
}

fn of_copy(copy: CopyShown) -> api::StorageCopy {
    use api::StorageCopyState as State;
    let mut shown = api::StorageCopy {
        path: copy.path.to_string_lossy().into_owned(),
        state: State::Healthy,
        done_bytes: None,
        total_bytes: None,
        since: None,
        reason: None,
    };
    match copy.state {
        CopyStateShown::Leading => shown.state = State::Leading,
        CopyStateShown::Healthy => {}
        CopyStateShown::Rebuilding { done_bytes, total_bytes } => {
            shown.state = State::Rebuilding;
            (shown.done_bytes, shown.total_bytes) = (Some(done_bytes), Some(total_bytes));
        }
        CopyStateShown::LeftOut { since, reason } => {
            shown.state = State::LeftOut;
            (shown.since, shown.reason) = (Some(since), Some(reason));
        }
        CopyStateShown::Missing { since, reason } => {
            shown.state = State::Missing;
            (shown.since, shown.reason) = (Some(since), Some(reason));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn assert_same(store: impl serde::Serialize, api: impl serde::Serialize) {
        let json = |value| serde_json::to_value(value).expect("JSON");
        let mut store = serde_json::to_value(store).expect("JSON");
        store.as_object_mut().expect("an object").remove("reply");
        assert_eq!(store, json(serde_json::to_value(api).expect("JSON")));
    }

    #[test]
    fn the_service_and_the_machine_say_the_same_of_an_account() {
        let account = AccountShown {
            name: "disks".to_owned(),
            kind: AccountKind::Premium,
            redundancy: Redundancy::RaGrs,
            rules: false,
            created: "2026-11-29T12:48:00.1234567Z".parse().expect("a time"),
        };
        let key = |name| KeyShown {
            name,
            value: "BASE64".to_owned(),
            connection_string: "AccountName=disks".to_owned(),
        };
        let keys = vec![key(WhichKey::Key1), key(WhichKey::Key2)];
        let with_keys = Reply::Keys(AccountWithKeys {
            account: account.clone(),
            keys,
            connection_string: "AccountName=disks".to_owned(),
        });
        let account = Reply::Account(account);
        assert_same(account.clone(), super::account(account).expect("an account"));
        assert_same(with_keys.clone(), super::keys(with_keys).expect("keys"));
    }

    #[test]
    fn the_service_and_the_machine_say_the_same_of_the_store() {
        let since = "2026-11-29T12:48:00Z".parse().expect("a time");
        let reason = || "the disk fails".to_owned();
        let states = [
            CopyStateShown::Leading,
            CopyStateShown::Healthy,
            CopyStateShown::Rebuilding { done_bytes: 1, total_bytes: 2 },
            CopyStateShown::LeftOut { since, reason: reason() },
            CopyStateShown::Missing { since, reason: reason() },
        ];
        let copies = states.map(|state| CopyShown { path: "/disk2/storage".into(), state });
        for failure in [None, Some(reason())] {
            let reply = Reply::Status(Box::new(StatusShown {
                accounts: 1,
                containers: 7,
                blobs: 8,
                used_bytes: 9,
                free_bytes: 10,
                records: 2,
                checkpoints: 3,
                journal_bytes: 4,
                failure,
                copies: copies.to_vec(),
                repaired: 5,
                damaged: 6,
            }));
            assert_same(reply.clone(), status(reply).expect("a status"));
        }
    }

    #[test]
    fn a_request_of_the_api_becomes_the_same_command() {
        let new = api::StorageAccountCreate {
            name: "disks".to_owned(),
            kind: None,
            redundancy: None,
            rules: None,
            endpoint: None,
        };
        let Command::Create { kind, redundancy, rules, endpoint, .. } =
            create(&new, "x".to_owned())
        else {
            panic!("another command")
        };
        assert_eq!((kind, redundancy), (AccountKind::Standard, None));
        assert_eq!((rules, endpoint.as_str()), (true, "x"));
        let blob = api::BlobToSnapshot {
            account: "disks".to_owned(),
            container: "vms".to_owned(),
            blob: "web/01.vhd".to_owned(),
            metadata: BTreeMap::new(),
        };
        let Command::Snapshot { blobs } = snapshot(&[blob]) else { panic!("another command") };
        assert_eq!(blobs, [("disks/vms/web/01.vhd".to_owned(), BTreeMap::new())]);
    }
}
