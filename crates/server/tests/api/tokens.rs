//! Tokens: every operation of the description, asked with every kind of token of every role.

use std::collections::BTreeSet;

use axum::http::Method;
use serde_json::{Value, json};
use strongroom_api::Role;

use crate::{
    bed::Bed,
    rights::{Endpoint, World, endpoints},
};

/// Where an operation's right must hold, in this world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Everywhere.
    Server,
    /// In the vault `main`.
    Main,
    /// On the item `web`, which is in it.
    Web,
    /// In the vault `weak`.
    Weak,
    /// On the host `here`.
    Here,
    /// In the vault `main`, and on the host `here`.
    MainAndHere,
}

/// What an operation takes.
#[derive(Clone, Copy, Debug)]
enum Takes {
    /// Nothing at all.
    Nothing,
    /// Any token.
    AnyToken,
    /// The token that is revoked is the administrator's: who manages access.
    OthersToken,
    /// A role, somewhere.
    Right(Role, At),
}

use self::{At as A, Takes as T};
use strongroom_api::Role::{Contributor, Operator, Reader, VaultAdmin};

/// By the name of the operation. Whoever adds an operation says here what it takes.
const TABLE: &[(&str, Takes)] = &[
    ("accept_restore", T::Right(Operator, A::Web)),
    ("access_table", T::Nothing),
    ("acknowledge_alert", T::Right(Operator, A::Weak)),
    ("archive_files", T::Right(Operator, A::Web)),
    ("backup_now", T::Right(Operator, A::Web)),
    ("cancel_job", T::Right(Operator, A::Web)),
    ("check_item", T::Right(Reader, A::Web)),
    ("check_protectable_item", T::Right(Reader, A::Here)),
    ("confirm_clock", T::Right(VaultAdmin, A::Server)),
    ("create_assignment", T::Right(VaultAdmin, A::Server)),
    ("create_host", T::Right(Contributor, A::Server)),
    ("create_policy", T::Right(Contributor, A::Main)),
    ("create_storage_account", T::Right(VaultAdmin, A::Server)),
    ("create_token", T::AnyToken),
    ("create_user", T::Right(VaultAdmin, A::Server)),
    ("create_vault", T::Right(Contributor, A::Server)),
    ("delete_assignment", T::Right(VaultAdmin, A::Server)),
    ("delete_host", T::Right(Contributor, A::Server)),
    ("delete_policy", T::Right(Contributor, A::Main)),
    ("delete_recovery_point", T::Right(VaultAdmin, A::Web)),
    ("delete_storage_account", T::Right(VaultAdmin, A::Server)),
    ("delete_token", T::OthersToken),
    ("delete_user", T::Right(VaultAdmin, A::Server)),
    ("delete_vault", T::Right(VaultAdmin, A::Main)),
    ("discover_host", T::Right(Operator, A::Here)),
    ("errors", T::Nothing),
    ("export_audit", T::Right(VaultAdmin, A::Server)),
    ("fail_storage_over", T::Right(VaultAdmin, A::Server)),
    ("follow_job", T::Right(Reader, A::Web)),
    ("follow_jobs", T::AnyToken),
    ("drill_vault", T::Right(Operator, A::Main)),
    ("get_boot", T::Right(Reader, A::Web)),
    ("get_boot_console", T::Right(Operator, A::Web)),
    ("get_boot_screenshot", T::Right(Operator, A::Web)),
    ("get_file_report", T::AnyToken),
    ("get_host", T::Right(Reader, A::Here)),
    ("get_item", T::Right(Reader, A::Web)),
    ("get_job", T::Right(Reader, A::Web)),
    ("get_policy", T::Right(Reader, A::Main)),
    ("get_recovery_point", T::Right(Reader, A::Web)),
    ("get_storage", T::Right(Reader, A::Server)),
    ("get_storage_account", T::Right(Reader, A::Server)),
    ("get_storage_replication", T::Right(Reader, A::Server)),
    ("get_usage", T::Right(Reader, A::Main)),
    ("get_vault", T::Right(Reader, A::Main)),
    ("health", T::Nothing),
    ("list_alerts", T::AnyToken),
    ("list_assignments", T::Right(VaultAdmin, A::Server)),
    ("list_audit", T::Right(VaultAdmin, A::Server)),
    ("list_file_tree", T::Right(Operator, A::Web)),
    ("list_files", T::Right(Operator, A::Web)),
    ("list_hosts", T::AnyToken),
    ("list_items", T::AnyToken),
    ("list_jobs", T::AnyToken),
    ("list_point_volumes", T::Right(Operator, A::Web)),
    ("list_policies", T::Right(Reader, A::Main)),
    ("list_protectable_items", T::Right(Reader, A::Here)),
    ("list_recovery_points", T::Right(Reader, A::Web)),
    ("list_storage_accounts", T::Right(Reader, A::Server)),
    ("list_tokens", T::AnyToken),
    ("list_users", T::Right(VaultAdmin, A::Server)),
    ("list_vaults", T::AnyToken),
    ("me", T::AnyToken),
    ("measure_vault", T::Right(Operator, A::Main)),
    ("openapi", T::Nothing),
    ("preview_policy", T::Right(Reader, A::Main)),
    ("protect", T::Right(Operator, A::MainAndHere)),
    ("read_file", T::Right(Operator, A::Web)),
    ("read_storage_keys", T::Right(VaultAdmin, A::Server)),
    ("ready", T::Nothing),
    ("reclaim_vault", T::Right(Contributor, A::Main)),
    ("regenerate_storage_key", T::Right(VaultAdmin, A::Server)),
    ("resolve_alert", T::Right(Operator, A::Weak)),
    ("restore", T::Right(Operator, A::Web)),
    ("resume_protection", T::Right(Operator, A::Web)),
    ("rotate_key", T::Right(VaultAdmin, A::Main)),
    ("save_catalog", T::Right(VaultAdmin, A::Main)),
    ("set_storage_redundancy", T::Right(VaultAdmin, A::Server)),
    ("sign_in", T::Nothing),
    ("snapshot_blobs", T::Right(Operator, A::Server)),
    ("status", T::AnyToken),
    ("stop_protection", T::Right(Contributor, A::Web)),
    ("test_alerts", T::Right(VaultAdmin, A::Server)),
    ("undelete_item", T::Right(Contributor, A::Web)),
    ("undelete_vault", T::Right(VaultAdmin, A::Main)),
    ("undo_restore", T::Right(Operator, A::Web)),
    ("update_host", T::Right(Contributor, A::Server)),
    ("update_item", T::Right(Operator, A::Web)),
    ("update_policy", T::Right(Contributor, A::Main)),
    ("update_recovery_point", T::Right(Contributor, A::Web)),
    ("update_user", T::Right(VaultAdmin, A::Server)),
    ("update_vault", T::Right(Contributor, A::Main)),
    ("verify_audit", T::Right(VaultAdmin, A::Server)),
    ("verify_boot", T::Right(Operator, A::Web)),
    ("verify_vault", T::Right(Operator, A::Main)),
];

/// A kind of token: what it is limited to.
struct Kind {
    name: &'static str,
    role: Role,
    /// Where it holds, for the test and for the API.
    places: &'static [At],
    scope: Value,
}

fn kinds(bed: &Bed) -> Vec<Kind> {
    let id = |path: &str| bed.get(path).good(200)["id"].clone();
    let kind = |name, role, places, scope| Kind { name, role, places, scope };
    let vault = |name: &str| json!({ "kind": "vault", "id": id(&format!("/vaults/{name}")) });
    let everywhere: &[At] = &[A::Server, A::Main, A::Web, A::Weak, A::Here, A::MainAndHere];
    let host = json!({ "kind": "host", "id": id("/hosts/here") });
    let item = json!({ "kind": "item", "id": id("/items/web") });
    vec![
        kind("full", VaultAdmin, everywhere, json!({ "kind": "server" })),
        kind("reader", Reader, everywhere, json!({ "kind": "server" })),
        kind("main", VaultAdmin, &[A::Main, A::Web], vault("main")),
        kind("web", VaultAdmin, &[A::Web], item),
        kind("weak", VaultAdmin, &[A::Weak], vault("weak")),
        kind("here", VaultAdmin, &[A::Here], host),
    ]
}

fn takes(endpoint: &Endpoint) -> Takes {
    let row = TABLE.iter().find(|(name, _)| *name == endpoint.name);
    row.unwrap_or_else(|| panic!("{} has no row in the table", endpoint.name)).1
}

/// The status of what a token may not do; none of what it may.
fn refused(takes: Takes, role: Role, kind: &Kind) -> Option<u16> {
    match takes {
        T::Nothing | T::AnyToken => None,
        T::OthersToken => (role != VaultAdmin || kind.name != "full").then_some(404),
        T::Right(least, at) => {
            // Of a vault and a host, the vault is asked about first.
            let at = match at {
                A::MainAndHere if kind.places.contains(&A::Main) && role.min(kind.role) < least => {
                    A::Main
                }
                at => at,
            };
            let here = kind.places.contains(&at);
            if role.min(kind.role) >= least && here {
                return None;
            }
            // What cannot be seen is not there.
            Some(if here || at == A::Server { 403 } else { 404 })
        }
    }
}

/// A token of each kind of each role.
fn tokens<'a>(world: &World, kinds: &'a [Kind]) -> Vec<(Role, &'a Kind, String)> {
    let mut tokens = Vec::new();
    for role in Role::ALL {
        let session = world.user(Some(*role));
        for kind in kinds {
            let body = json!({ "name": kind.name, "role": kind.role, "scope": kind.scope });
            let make = world.bed.request(&session, Method::POST, "/tokens", &[], Some(&body));
            let issued = world.bed.send(make).good(201);
            let effective = (*role).min(kind.role).name();
            assert_eq!(issued["token"]["effective_role"], effective, "{issued}");
            tokens.push((*role, kind, issued["secret"].as_str().expect("a secret").to_owned()));
        }
    }
    tokens
}

#[test]
fn no_token_reaches_past_the_configuration_or_a_lock() {
    let world = World::new();
    let bed = &world.bed;
    let lock = json!({ "immutability": "locked" });
    bed.send(bed.request(&bed.token, Method::PATCH, "/vaults/main", &[], Some(&lock))).good(200);
    let begun = bed.post("/items/web/backup", &json!({})).good(202);
    assert_eq!(bed.ended(&begun)["state"], "completed");
    let points = || bed.get("/items/web/recovery-points").good(200)["items"].clone();
    let before = points();
    let is_locked = |point: &Value| point["locked_until"].is_string();
    assert!(before.as_array().expect("a list").iter().any(is_locked), "{before:#}");
    let elsewhere = "/elsewhere/x";
    let (own, endpoints) = (bed.path(""), endpoints());
    let kinds = kinds(bed);
    let tokens = tokens(&world, &kinds);
    let mut allowed = 0;
    for (name, body, takes, code) in [
        (
            "create_vault",
            json!({ "name": "x", "url": elsewhere }),
            T::Right(Contributor, A::Server),
            "place.not_allowed",
        ),
        (
            "create_vault",
            json!({ "name": "x", "mirrors": [elsewhere] }),
            T::Right(Contributor, A::Server),
            "place.not_allowed",
        ),
        (
            "create_vault",
            json!({ "name": "x", "key": { "file": elsewhere } }),
            T::Right(Contributor, A::Server),
            "place.not_allowed",
        ),
        (
            "rotate_key",
            json!({ "key": { "passphrase": elsewhere } }),
            T::Right(VaultAdmin, A::Main),
            "place.not_allowed",
        ),
        (
            "restore",
            json!({ "mode": "disks", "folder": elsewhere }),
            T::Right(Operator, A::Web),
            "place.not_allowed",
        ),
        ("delete_recovery_point", Value::Null, T::Right(VaultAdmin, A::Web), "vault.immutable"),
        (
            "stop_protection",
            json!({ "mode": "delete_data" }),
            T::Right(VaultAdmin, A::Web),
            "vault.immutable",
        ),
        (
            "update_vault",
            json!({ "immutability": "disabled" }),
            T::Right(VaultAdmin, A::Main),
            "vault.irreversible",
        ),
    ] {
        let endpoint = endpoints.iter().find(|it| it.name == name).expect("an operation");
        for (role, kind, token) in &tokens {
            let answer = world.ask_for(endpoint, token, Some(&body).filter(|it| !it.is_null()));
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let what = format!("{name} {body} by the token {} of {role}: {text}", kind.name);
            if let Some(status) = refused(takes, *role, kind) {
                assert_eq!(answer.status, status, "{what}");
            } else {
                allowed += 1;
                assert_eq!(answer.code(), code, "{what}");
            }
            // What may be named is for those who see the server.
            let sees = kind.places.contains(&A::Server);
            assert!(sees || !text.contains(&own), "{what}");
        }
    }
    assert!(allowed >= 20, "{allowed}");
    assert_eq!(points(), before);
    assert!(!std::path::Path::new(elsewhere).exists());
}

#[test]
fn no_token_is_wider_than_it_says() {
    let world = World::new();
    let endpoints = endpoints();
    let named: BTreeSet<&str> = endpoints.iter().map(|it| it.name.as_str()).collect();
    let rows: BTreeSet<&str> = TABLE.iter().map(|(name, _)| *name).collect();
    assert_eq!(named, rows, "the table has a row for each operation, and no other");
    let kinds = kinds(&world.bed);
    let tokens = tokens(&world, &kinds);
    // First all that is refused, so that all is there still.
    let (mut tried, mut wrong) = (0, Vec::new());
    for endpoint in &endpoints {
        for (role, kind, token) in &tokens {
            let Some(status) = refused(takes(endpoint), *role, kind) else { continue };
            let answer = world.ask(endpoint, token, "refused");
            tried += 1;
            if answer.status != status {
                let what = format!("{} by the token {} of {role}", endpoint.name, kind.name);
                wrong.push(format!("{what}: {} and not {status}", answer.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 700, "{tried}");
    // All that the limited tokens of an administrator may, they can.
    for endpoint in &endpoints {
        for (role, kind, token) in &tokens {
            let limited = *role == VaultAdmin && kind.name != "full";
            if !limited || refused(takes(endpoint), *role, kind).is_some() {
                continue;
            }
            let answer = world.ask(endpoint, token, &format!("by-{}", kind.name));
            let status = answer.status.as_u16();
            let what = format!("{} by the token {}: {answer:?}", endpoint.name, kind.name);
            assert!(![401, 403, 500].contains(&status), "{what}");
        }
    }
}
