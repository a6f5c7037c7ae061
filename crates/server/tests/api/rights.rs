//! Rights: every operation of the description, asked by every role, and by nobody.

use axum::http::Method;
use bytes::Bytes;
use serde_json::{Value, json};
use strongroom_api::Role;
use strongroom_control::rights::Operation;

use crate::{
    accounts::with_accounts,
    bed::{Answer, Bed},
};

/// An operation of the description.
pub(crate) struct Endpoint {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) name: String,
    operation: Option<Operation>,
    open: bool,
}

pub(crate) fn endpoints() -> Vec<Endpoint> {
    let document = strongroom_server::openapi();
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, it) in methods.as_object().expect("methods") {
            let operation = it["x-operation"].as_str().map(|name| {
                let known = Operation::ALL.iter().find(|known| known.name() == name);
                *known.unwrap_or_else(|| panic!("{path}: there is no operation {name}"))
            });
            found.push(Endpoint {
                method: method.to_uppercase().parse().expect("a method"),
                path: path.trim_start_matches("/v1").to_owned(),
                name: it["operationId"].as_str().expect("a name").to_owned(),
                operation,
                open: it["security"].as_array().is_some_and(Vec::is_empty),
            });
        }
    }
    // What destroys comes last, so that there is something to be refused.
    found
        .sort_by_key(|it| (it.method == Method::DELETE || it.name.contains("stop"), it.path.len()));
    found
}

/// A good body of each operation that has one.
fn body_of(name: &str, bed: &Bed, tag: &str) -> Option<Value> {
    let rules = || bed.get("/vaults/main/policies/default").good(200)["rules"].clone();
    Some(match name {
        "create_user" => json!({ "name": format!("new-{tag}"), "password": "0123456789ab" }),
        "update_user" => json!({ "disabled": false }),
        "create_assignment" => {
            json!({ "user": "ann", "role": "reader", "scope": { "kind": "server" } })
        }
        "create_token" => json!({ "name": "token" }),
        "create_storage_account" => json!({ "name": format!("new{}", tag.replace('-', "")) }),
        "regenerate_storage_key" => json!({ "key": "key1" }),
        "set_storage_redundancy" => json!({ "redundancy": "ra_grs" }),
        "snapshot_blobs" => {
            json!({ "blobs": [{ "account": "disks", "container": "vms", "blob": "a" }] })
        }
        "create_vault" => json!({ "name": format!("vault-{tag}") }),
        "update_vault" => json!({ "tags": {} }),
        "rotate_key" | "backup_now" | "resume_protection" | "test_alerts" => json!({}),
        "create_policy" => json!({ "name": format!("policy-{tag}"), "rules": rules() }),
        "update_policy" => json!({ "consistency_required": false }),
        "preview_policy" => json!({ "rules": rules() }),
        "create_host" => json!({ "name": format!("host-{tag}") }),
        "update_host" => json!({ "max_jobs": 3 }),
        "protect" => json!({ "vault": "main", "host": "here", "sources": [
            { "name": format!("item-{tag}"), "paths": { "a": bed.path("disks/web") } } ] }),
        "update_item" => json!({ "disks": { "choose": "all" } }),
        "stop_protection" => json!({ "mode": "retain_forever" }),
        "update_recovery_point" => json!({ "retain_until": "2100-01-01T00:00:00Z" }),
        "drill_vault" => json!({ "in_order": true }),
        "verify_boot" => json!({ "expect": "kernel" }),
        "restore" => json!({ "mode": "disks", "folder": bed.path(&format!("restored/{tag}")) }),
        _ => return None,
    })
}

pub(crate) struct World {
    pub(crate) bed: Bed,
    job: String,
    alert: String,
    assignment: String,
    token: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let bed = with_accounts();
        bed.protected("web", 100);
        let begun = bed.post("/items/web/backup", &json!({})).good(202);
        assert_eq!(bed.ended(&begun)["state"], "completed");
        bed.post("/users", &json!({ "name": "ann", "password": "0123456789ab" })).good(201);
        bed.post("/storage-accounts", &json!({ "name": "disks" })).good(201);
        // A weakened protection raises an alert.
        bed.post("/vaults", &json!({ "name": "weak" })).good(201);
        let weak = json!({ "soft_delete": { "state": "disabled", "retention_days": 14 } });
        let patch = bed.request(&bed.token, Method::PATCH, "/vaults/weak", &[], Some(&weak));
        bed.send(patch).good(200);
        let alert = bed.get("/alerts").good(200)["items"][0]["id"].clone();
        let right = json!({ "user": "ann", "role": "reader", "scope": { "kind": "server" } });
        let assignment = bed.post("/assignments", &right).good(201)["id"].clone();
        let own = bed.post("/tokens", &json!({ "name": "own" })).good(201)["token"]["id"].clone();
        let text = |value: Value| value.as_str().expect("an id").to_owned();
        Self {
            job: text(begun["job"].clone()),
            alert: text(alert),
            assignment: text(assignment),
            token: text(own),
            bed,
        }
    }

    pub(crate) fn ask(&self, endpoint: &Endpoint, token: &str, tag: &str) -> Answer {
        self.ask_for(endpoint, token, body_of(&endpoint.name, &self.bed, tag).as_ref())
    }

    pub(crate) fn ask_for(&self, endpoint: &Endpoint, token: &str, body: Option<&Value>) -> Answer {
        let mut path = endpoint.path.clone();
        for (name, value) in [
            ("{user}", "ann"),
            ("{assignment}", &self.assignment),
            ("{token}", &self.token),
            ("{vault}", "main"),
            ("{policy}", "default"),
            ("{host}", "here"),
            ("{machine}", "none"),
            ("{item}", "web"),
            ("{point}", "latest"),
            ("{job}", &self.job),
            ("{alert}", &self.alert),
            ("{account}", "disks"),
            ("{request}", &self.job),
        ] {
            path = path.replace(name, value);
        }
        let method = endpoint.method.clone();
        let request = self.bed.request(token, method, &path, &[], body);
        if path == "/jobs/events" {
            // It has no end.
            let (parts, _) = self.bed.open(request).into_parts();
            return Answer { status: parts.status, headers: parts.headers, body: Bytes::default() };
        }
        self.bed.send(request)
    }

    /// The secret of a user with a role on the server; none: without any.
    pub(crate) fn user(&self, role: Option<Role>) -> String {
        let name = role.map_or("nobody", Role::name).replace('_', "-");
        let user = json!({ "name": name, "password": "0123456789ab" });
        self.bed.post("/users", &user).good(201);
        if let Some(role) = role {
            let right = json!({ "user": name, "role": role, "scope": { "kind": "server" } });
            self.bed.post("/assignments", &right).good(201);
        }
        let sign_in = self.bed.request("", Method::POST, "/sign-in", &[], Some(&user));
        self.bed.send(sign_in).good(200)["secret"].as_str().expect("a secret").to_owned()
    }
}

#[test]
fn every_endpoint_asks_for_what_the_table_says() {
    let world = World::new();
    let endpoints = endpoints();
    assert!(endpoints.iter().filter(|it| it.operation.is_some()).count() > 40);
    let unused = Operation::ALL
        .iter()
        .filter(|operation| !endpoints.iter().any(|it| it.operation == Some(**operation)));
    // These are asked for besides: by what a change of a vault or an item says.
    let besides: Vec<&str> = unused.map(|operation| operation.name()).collect();
    assert_eq!(
        besides,
        [
            "server.view",
            "machine.protect",
            "machine.replace",
            "item.set_policy",
            "item.delete_data",
            "secrets.restore",
            "vault.weaken",
            "vault.lock",
            "machine.replace_unsaved",
        ]
    );
    let secured = endpoints.iter().filter(|it| !it.open);
    for endpoint in secured.clone() {
        for token in ["", "srt_0000"] {
            let answer = world.ask(endpoint, token, "none");
            assert_eq!(answer.status, 401, "{} {}", endpoint.method, endpoint.path);
        }
    }
    let nobody = world.user(None);
    let users = Role::ALL.iter().map(|role| (Some(*role), world.user(Some(*role))));
    let users: Vec<_> = users.collect();
    // First all that is refused, so that all is there still.
    for endpoint in secured.clone() {
        let place = format!("{} {}", endpoint.method, endpoint.path);
        let Some(operation) = endpoint.operation else { continue };
        let answer = world.ask(endpoint, &nobody, "nobody");
        assert!([403, 404].contains(&answer.status.as_u16()), "{place}: {answer:?}");
        for (role, token) in users.iter().filter(|(role, _)| *role < Some(operation.role())) {
            let answer = world.ask(endpoint, token, "refused");
            let found = (answer.status.as_u16(), answer.code());
            assert_eq!(found, (403, "auth.forbidden".to_owned()), "{place} by {role:?}");
        }
    }
    let denied = world.bed.get("/audit?limit=1000").good(200);
    let denied = denied["items"].as_array().expect("a list").iter();
    let denied = denied.filter(|entry| entry["outcome"] == "denied").count();
    assert!(denied > 40, "{denied}");
    for endpoint in secured {
        let place = format!("{} {}", endpoint.method, endpoint.path);
        for (role, token) in &users {
            let role = role.expect("a role");
            if endpoint.operation.is_none_or(|operation| role >= operation.role()) {
                let answer = world.ask(endpoint, token, role.name().replace('_', "-").as_str());
                assert!(
                    ![401, 403].contains(&answer.status.as_u16()),
                    "{place} by {role}: {answer:?}"
                );
                let fault = answer.status.is_server_error() && answer.status != 503;
                assert!(!fault, "{place} by {role}: {answer:?}");
            }
        }
    }
}
