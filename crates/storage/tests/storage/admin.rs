//! Accounts are administered before the server runs and while it runs, by the same call.

use std::{os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use strongroom_base::{Clock, Entropy, SystemClock, SystemEntropy};
use strongroom_blobs::{AccountKind, Redundancy};
use strongroom_storage::{
    StorageError,
    admin::{Command, RefusedKind, Reply, WhichKey, run},
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
        redundancy: Redundancy::RaGrs,
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
    assert!(string.contains("https://first-secondary.blob.backup.example"), "{string}");
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
