//! Accounts are administered before the server runs and while it runs, by the same call.

use std::{os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use strongroom_base::{Clock, Entropy, SystemClock, SystemEntropy};
use strongroom_blobs::{AccountKind, Redundancy};
use strongroom_storage::{
    CopyFolders, Options, Storage, StorageError,
    admin::{Command, CopyStateShown, RefusedKind, Reply, WhichKey, run},
};

use crate::server::Server;

fn ask(folder: &Path, command: &Command) -> Result<Reply, StorageError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    run(folder, command, &clock, &entropy)
}

fn create(name: &str, endpoint: &str) -> Command {
    Command::Create {
        name: name.to_owned(),
        kind: AccountKind::Standard,
        redundancy: None,
        rules: true,
        endpoint: endpoint.to_owned(),
    }
}

fn kind(result: Result<Reply, StorageError>) -> RefusedKind {
    match result {
        Err(StorageError::Refused { kind, .. }) => kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn accounts_live_without_a_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    assert!(matches!(ask(&data, &Command::List), Err(StorageError::NoStore { .. })));
    let endpoint = "https://{account}.blob.backup.example";
    let Ok(Reply::Keys(made)) = ask(&data, &create("first", endpoint)) else { panic!("is made") };
    let string = &made.connection_string;
    assert!(string.contains("BlobEndpoint=https://first.blob.backup.example"), "{string}");
    assert!(!string.contains("secondary"), "{string}");
    assert_eq!(made.account.redundancy, Redundancy::Lrs);
    let far = |redundancy| Command::Create {
        name: "far".to_owned(),
        kind: AccountKind::Standard,
        redundancy: Some(redundancy),
        rules: true,
        endpoint: endpoint.to_owned(),
    };
    for redundancy in [Redundancy::Grs, Redundancy::RaGrs] {
        assert_eq!(kind(ask(&data, &far(redundancy))), RefusedKind::InvalidReplication);
        let name = "first".to_owned();
        let update = Command::SetRedundancy { name, redundancy };
        assert_eq!(kind(ask(&data, &update)), RefusedKind::InvalidReplication);
    }
    let update = Command::SetRedundancy { name: "first".to_owned(), redundancy: Redundancy::Lrs };
    assert!(matches!(ask(&data, &update), Ok(Reply::Account(_))));
    let update = Command::SetRedundancy { name: "none".to_owned(), redundancy: Redundancy::Lrs };
    assert_eq!(kind(ask(&data, &update)), RefusedKind::NotFound);
    assert!(string.contains(&made.keys[0].value), "{string}");
    assert_eq!(kind(ask(&data, &create("first", endpoint))), RefusedKind::Exists);
    assert_eq!(kind(ask(&data, &create("Upper", endpoint))), RefusedKind::Invalid);
    assert_eq!(kind(ask(&data, &create("other", "no url"))), RefusedKind::Invalid);
    let key = WhichKey::Key1;
    let again = Command::RegenerateKey { name: "first".to_owned(), key, endpoint: endpoint.into() };
    let Ok(Reply::Keys(renewed)) = ask(&data, &again) else { panic!("is renewed") };
    assert_ne!(renewed.keys[0].value, made.keys[0].value);
    assert_eq!(renewed.keys[1].value, made.keys[1].value);
    let listed = ask(&data, &Command::List).expect("lists");
    let text = format!("{listed:?}{}", serde_json::to_string(&listed).expect("is JSON"));
    assert!(text.contains("first") && !text.contains(&made.keys[1].value), "{text}");
    // Replies can be logged: no key is shown.
    assert!(!format!("{renewed:?}").contains(&made.keys[1].value));
    ask(&data, &Command::Delete { name: "first".to_owned() }).expect("is deleted");
    let gone = Command::Show { name: "first".to_owned() };
    assert_eq!(kind(ask(&data, &gone)), RefusedKind::NotFound);
}

#[test]
fn a_server_carries_commands_out_while_it_runs() {
    let server = Server::start();
    let data = server.data();
    let endpoint = format!("http://{}", server.address);
    let Ok(Reply::Keys(made)) = ask(data, &create("later", &endpoint)) else { panic!("is made") };
    let mode = std::fs::metadata(data.join("admin.sock")).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut keys = server.keys.clone();
    keys.insert("later".to_owned(), made.keys[1].value.clone());
    let mut client = crate::client::Client { address: server.address, keys };
    let list = |client: &crate::client::Client| {
        client.ask_as("later", "GET", "/later/?comp=list", &[], b"").status
    };
    assert_eq!(list(&client), 200);
    let key = WhichKey::Key2;
    let again = Command::RegenerateKey { name: "later".to_owned(), key, endpoint };
    let Ok(Reply::Keys(renewed)) = ask(data, &again) else { panic!("is renewed") };
    // The old key is of no use at once.
    assert_eq!(list(&client), 403);
    client.keys.insert("later".to_owned(), renewed.keys[1].value.clone());
    assert_eq!(list(&client), 200);
    let Ok(Reply::Status(status)) = ask(data, &Command::Status) else { panic!("answers") };
    assert_eq!((status.accounts, status.failure), (4, None));
    ask(data, &Command::Delete { name: "later".to_owned() }).expect("is deleted");
    assert_eq!(list(&client), 404);
}

fn states(reply: Result<Reply, StorageError>) -> Vec<CopyStateShown> {
    match reply {
        Ok(Reply::Copies { copies }) => copies.into_iter().map(|copy| copy.state).collect(),
        Ok(Reply::Status(status)) => status.copies.into_iter().map(|copy| copy.state).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn copies_are_added_listed_and_removed_without_a_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    ask(&data, &create("first", "http://127.0.0.1:10000")).expect("is made");
    assert_eq!(states(ask(&data, &Command::CopyList)), [CopyStateShown::Leading]);
    let add = Command::CopyAdd { path: copy.clone() };
    let both = [CopyStateShown::Leading, CopyStateShown::Healthy];
    assert_eq!(states(ask(&data, &add)), both);
    // The store remembers it.
    assert_eq!(states(ask(&data, &Command::Status)), both);
    assert_eq!(kind(ask(&data, &add)), RefusedKind::InvalidCopy);
    let relative = Command::CopyAdd { path: "copy".into() };
    assert_eq!(kind(ask(&data, &relative)), RefusedKind::InvalidCopy);
    let text = serde_json::to_string(&ask(&data, &Command::CopyList).expect("lists"));
    let text = text.expect("is JSON");
    assert!(text.contains(r#""state":"leading"},{"path":"#), "{text}");
    std::fs::rename(&copy, folder.path().join("away")).expect("moves");
    let missing = ask(&data, &Command::List).expect_err("is refused");
    assert_eq!(strongroom_base::Coded::code(&missing).name, "storage.copy_missing");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let options = Options {
        folders: CopyFolders { without: vec![copy.clone()], ..CopyFolders::default() },
        ..Options::new(clock, Arc::new(SystemEntropy))
    };
    drop(Storage::open(&data, options).expect("opens without it"));
    let known = states(ask(&data, &Command::CopyList));
    assert!(matches!(known[..], [CopyStateShown::Leading, CopyStateShown::Missing { .. }]));
    let remove = Command::CopyRemove { path: copy };
    assert_eq!(states(ask(&data, &remove)), [CopyStateShown::Leading]);
    assert_eq!(kind(ask(&data, &remove)), RefusedKind::InvalidCopy);
    let last = Command::CopyRemove { path: data.join("blobs") };
    assert_eq!(kind(ask(&data, &last)), RefusedKind::InvalidCopy);
}

#[test]
fn a_copy_is_made_while_the_accounts_are_served() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let add = Command::CopyAdd { path: folder.path().join("copy") };
    assert_eq!(states(ask(server.data(), &add)).len(), 2);
    for _ in 0..600 {
        if states(ask(server.data(), &Command::CopyList))[1] == CopyStateShown::Healthy {
            return;
        }
        SystemClock.sleep(std::time::Duration::from_millis(100));
    }
    panic!("{:?}", ask(server.data(), &Command::CopyList));
}
