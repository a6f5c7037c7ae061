//! The description of the API: it is what the handlers say, complete, and only ever grows.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Map, Value};

const METHODS: [&str; 4] = ["get", "post", "patch", "delete"];

fn file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json")
}

fn text(document: &Value) -> String {
    serde_json::to_string_pretty(document).expect("JSON") + "\n"
}

/// The description in the repository is what the server answers, and what it was before can still
/// be relied on. `STRONGROOM_BLESS=1` writes it, but never a change that takes something away;
/// for that, until the first release, remove the file first.
#[test]
fn the_description_is_blessed_and_only_grows() {
    let now = strongroom_server::openapi();
    let blessed = fs::read_to_string(file()).ok();
    if let Some(blessed) = &blessed {
        let before: Value = serde_json::from_str(blessed).expect("JSON");
        let faults = faults(&before, &now);
        assert!(faults.is_empty(), "clients would break:\n{}", faults.join("\n"));
    }
    if std::env::var_os("STRONGROOM_BLESS").is_some() {
        fs::write(file(), text(&now)).expect("writes");
        return;
    }
    let same = blessed.is_some_and(|blessed| blessed == text(&now));
    assert!(same, "docs/openapi.json is stale: STRONGROOM_BLESS=1 cargo test -p strongroom-server");
}

#[test]
fn every_operation_says_what_can_happen() {
    let document = strongroom_server::openapi();
    assert_eq!(document["openapi"], "3.1.0");
    let mut names = BTreeSet::new();
    let mut count = 0;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let place = format!("{method} {path}");
            assert!(METHODS.contains(&method.as_str()), "{place}");
            assert!(operation["summary"].is_string(), "{place} has no words");
            let name = operation["operationId"].as_str().expect("a name");
            assert!(names.insert(name.to_owned()), "{place}: {name} is there twice");
            let responses = operation["responses"].as_object().expect("responses");
            assert!(responses.keys().any(|status| status.starts_with('2')), "{place}");
            for status in ["400", "500", "503"] {
                assert!(responses.contains_key(status), "{place} lacks {status}");
            }
            let security = operation["security"].as_array().expect("security");
            let open = security.is_empty();
            assert_eq!(open && name != "sign_in", !responses.contains_key("401"), "{place}");
            if !open && operation.get("x-operation").is_some() {
                assert!(responses.contains_key("403"), "{place}");
            }
            for part in path.split('/').filter(|part| part.starts_with('{')) {
                let named = |it: &Value| {
                    it["in"] == "path"
                        && format!("{{{}}}", it["name"].as_str().unwrap_or("")) == part
                };
                let parameters = operation["parameters"].as_array().expect("parameters");
                let found = parameters.iter().find(|it| named(it)).expect(&place);
                assert_ne!(found["description"], "", "{place} {part}");
            }
            count += 1;
        }
    }
    assert!(count > 60, "{count}");
    // Nothing is referred to that is not there.
    let all = document.to_string();
    for reference in all.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().expect("a name");
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}

/// Values are described as they are written, and choices as something that can be sent.
#[test]
fn words_and_choices_are_those_of_the_wire() {
    let schemas = &strongroom_server::openapi()["components"]["schemas"];
    let words = |name: &str| words(&schemas[name], "enum");
    let known = |all: &[strongroom_api::JobState]| all.iter().map(ToString::to_string).collect();
    assert_eq!(words("JobState"), known(strongroom_api::JobState::ALL));
    assert!(words("Role").contains("vault_admin") && words("Weekday").contains("monday"));
    let choices = schemas["Restore"]["oneOf"].as_array().expect("choices");
    for (choice, mode) in choices.iter().zip(["machine", "disks", "replace"]) {
        assert_eq!(choice["properties"]["mode"]["enum"][0], mode);
        assert_eq!(choice["additionalProperties"], false);
        assert!(choice["required"].as_array().expect("names").contains(&Value::from("mode")));
    }
    assert!(choices[1]["properties"]["folder"].is_object());
}

/// What somebody who relies on the earlier description would miss.
fn faults(before: &Value, now: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, methods) in object(&before["paths"]) {
        for (method, old) in object(methods) {
            let place = format!("{method} {path}");
            let new = &now["paths"][path][method];
            if new.is_null() {
                faults.push(format!("{place} is gone"));
                continue;
            }
            operation(&place, old, new, &mut faults);
        }
    }
    for (name, old) in object(&before["components"]["schemas"]) {
        let new = &now["components"]["schemas"][name];
        if new.is_null() {
            faults.push(format!("the schema {name} is gone"));
        } else {
            // What is sent may not need more; what is answered may not lack anything. A schema may
            // be both.
            schema(name, old, new, &mut faults);
        }
    }
    faults
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn operation(place: &str, old: &Value, new: &Value, faults: &mut Vec<String>) {
    if old["x-operation"] != new["x-operation"] {
        faults.push(format!("{place} takes another right"));
    }
    if old["requestBody"]["required"] != Value::Bool(true)
        && new["requestBody"]["required"] == Value::Bool(true)
    {
        faults.push(format!("{place} needs a body"));
    }
    let list = |value: &Value| value["parameters"].as_array().cloned().unwrap_or_default();
    let same = |a: &Value, b: &Value| a["name"] == b["name"] && a["in"] == b["in"];
    for old in list(old) {
        match list(new).iter().find(|new| same(&old, new)) {
            None => faults.push(format!("{place}: the parameter {} is gone", old["name"])),
            Some(found) => {
                let name = format!("{place}: {}", old["name"]);
                schema(&name, &old["schema"], &found["schema"], faults);
            }
        }
    }
    for new in list(new) {
        let known = list(old).iter().any(|old| same(old, &new));
        let needed = |it: &Value| it["required"] == Value::Bool(true);
        let before = list(old).into_iter().find(|old| same(old, &new));
        if needed(&new) && !before.as_ref().is_some_and(needed) {
            let how = if known { "is needed now" } else { "is new and needed" };
            faults.push(format!("{place}: the parameter {} {how}", new["name"]));
        }
    }
    for (status, old) in object(&old["responses"]) {
        let new = &new["responses"][status];
        if new.is_null() && status.starts_with('2') {
            faults.push(format!("{place} does not answer {status} any more"));
        }
        for (kind, old) in object(&old["content"]) {
            let new = &new["content"][kind];
            if new.is_null() {
                faults.push(format!("{place}: {status} is no {kind} any more"));
            } else {
                schema(&format!("{place} {status}"), &old["schema"], &new["schema"], faults);
            }
        }
    }
}

fn words(value: &Value, key: &str) -> BTreeSet<String> {
    let list = value[key].as_array().into_iter().flatten();
    list.map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned)).collect()
}

fn schema(place: &str, old: &Value, new: &Value, faults: &mut Vec<String>) {
    if old["$ref"] != new["$ref"] || old["type"] != new["type"] {
        faults.push(format!("{place} is something else: {old} was {new}"));
        return;
    }
    for word in words(old, "enum").difference(&words(new, "enum")) {
        faults.push(format!("{place}: the value {word} is gone"));
    }
    for (name, old) in object(&old["properties"]) {
        let place = format!("{place}.{name}");
        match &new["properties"][name] {
            Value::Null => faults.push(format!("{place} is gone")),
            new => schema(&place, old, new, faults),
        }
    }
    for name in words(new, "required").difference(&words(old, "required")) {
        // What is answered may promise more: but which of both it is, the name of the schema says.
        if is_sent(place) {
            faults.push(format!("{place}.{name} is needed now"));
        }
    }
    for name in words(old, "required").difference(&words(new, "required")) {
        if !is_sent(place) {
            faults.push(format!("{place}.{name} may be missing now"));
        }
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        let list = |value: &Value| value[key].as_array().cloned().unwrap_or_default();
        for old in list(old) {
            let same = |new: &&Value| {
                let mut found = Vec::new();
                schema(place, &old, new, &mut found);
                found.is_empty()
            };
            if list(new).iter().find(same).is_none() {
                faults.push(format!("{place}: a choice is gone: {old}"));
            }
        }
    }
    for key in ["items", "additionalProperties"] {
        if old[key].is_object() {
            schema(&format!("{place}.{key}"), &old[key], &new[key], faults);
        }
    }
}

/// Schemas of what is sent.
const SENT: [&str; 23] = [
    "SignIn",
    "UserCreate",
    "UserUpdate",
    "AssignmentCreate",
    "TokenCreate",
    "VaultCreate",
    "VaultUpdate",
    "KeyRotate",
    "PolicyCreate",
    "PolicyUpdate",
    "PolicyTry",
    "HostCreate",
    "HostUpdate",
    "Protect",
    "ProtectSource",
    "BackupNow",
    "StorageAccountCreate",
    "StorageKeysRead",
    "StorageKeyRegenerate",
    "StorageRedundancySet",
    "StorageFailOver",
    "BlobSnapshotsCreate",
    "BlobToSnapshot",
];

/// Whether a schema is of what is sent.
fn is_sent(place: &str) -> bool {
    let name = place.split('.').next().unwrap_or(place);
    SENT.contains(&name)
        || ["ItemUpdate", "StopProtection", "ResumeProtection", "PointUpdate"].contains(&name)
        || name.starts_with("Restore")
}

/// The test itself: it notices what it should.
#[test]
fn what_breaks_clients_is_noticed() {
    let before = strongroom_server::openapi();
    assert!(faults(&before, &before).is_empty());
    let check = |change: &dyn Fn(&mut Value), words: &str| {
        let mut now = before.clone();
        change(&mut now);
        let found = faults(&before, &now);
        assert!(found.iter().any(|fault| fault.contains(words)), "{words}: {found:?}");
    };
    let remove = |map: &mut Value, key: &str| {
        map.as_object_mut().expect("an object").remove(key).expect("is there");
    };
    check(&|it| remove(&mut it["paths"], "/v1/me"), "get /v1/me is gone");
    check(&|it| remove(&mut it["paths"]["/v1/vaults"], "post"), "post /v1/vaults is gone");
    let schema = |it: &mut Value, name: &str| -> Map<String, Value> {
        it["components"]["schemas"][name].as_object().expect("a schema").clone()
    };
    check(
        &|it| remove(&mut it["components"]["schemas"]["Vault"]["properties"], "url"),
        "Vault.url is gone",
    );
    check(
        &|it| {
            assert!(schema(it, "JobState").contains_key("enum"));
            it["components"]["schemas"]["JobState"]["enum"]
                .as_array_mut()
                .expect("words")
                .remove(0);
        },
        "the value queued is gone",
    );
    check(
        &|it| {
            let needed = &mut it["components"]["schemas"]["VaultCreate"]["required"];
            needed.as_array_mut().expect("names").push("url".into());
        },
        "VaultCreate.url is needed now",
    );
    check(
        &|it| it["components"]["schemas"]["Vault"]["properties"]["url"]["type"] = "integer".into(),
        "Vault.url is something else",
    );
}
