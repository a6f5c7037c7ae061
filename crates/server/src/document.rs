//! The description of the API: what the handlers say, and what holds for all of them.
//!
//! Handlers name what is their own: path, parameters, body, the answer if all is well, and the
//! operation of the table of rights. What follows from that is added here by rule: the statuses of
//! errors, the token, headers. So a handler cannot forget to say it.

use std::collections::HashMap;

use axum::http::Method;
use serde_json::{Map, Value, json};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, OpenApiVersion};

/// Names in paths, and what they are.
const NAMES: &[(&str, &str, bool)] = &[
    ("user", "A user: its name or id.", false),
    ("assignment", "A role assignment: its id.", true),
    ("token", "A token: its id.", true),
    ("vault", "A vault: its name or id.", false),
    ("policy", "A policy: its name or id.", false),
    ("host", "A host: its name or id.", false),
    ("machine", "A machine: its name or UUID.", false),
    ("item", "An item: its id, or its name if only one vault has it.", false),
    ("point", "A recovery point: its id, or `latest`.", false),
    ("job", "A job: its id.", false),
    ("alert", "An alert: its id.", true),
    ("account", "A storage account: its name.", false),
    ("request", "A request: its id, which is in the `X-Request-Id` of its answer.", true),
];

const TAGS: &[(&str, &str)] = &[
    ("server", "The server itself."),
    ("access", "Users, rights, tokens."),
    ("vaults", "Where recovery points are kept."),
    ("policies", "When items are backed up, and how long recovery points are kept."),
    ("hosts", "Where machines run."),
    ("items", "Protected items."),
    ("recovery points", "Recovery points."),
    ("files", "Files of recovery points."),
    ("jobs", "Durable units of work."),
    ("alerts", "Alerts for operators."),
    ("storage accounts", "Accounts of blobs in Azure's dialect, their keys, and their store."),
    ("audit", "Who did what."),
];

/// Paths that need no token.
const PUBLIC: [&str; 6] = [
    "/v1/health",
    "/v1/ready",
    "/v1/openapi.json",
    "/v1/errors",
    "/v1/access-table",
    "/v1/sign-in",
];

/// The head of the description; handlers are added to it.
pub(crate) fn head() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Strongroom")
        .version("1")
        .description(Some(
            "The API of the Strongroom service. Fields, paths and values are only ever added.",
        ))
        .build();
    OpenApiBuilder::new().info(info).build()
}

/// The whole description, of what the handlers say.
pub(crate) fn complete(mut found: OpenApi) -> Value {
    found.openapi = OpenApiVersion::Version31;
    let mut document = serde_json::to_value(found).unwrap_or_default();
    let tags = TAGS.iter().map(|(name, words)| json!({ "name": name, "description": words }));
    set(&mut document, "tags", tags.collect());
    if let Some(components) = object(&mut document, "components") {
        let bearer = json!({
            "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "The secret of a token: of `/v1/sign-in`, or one that was made with `/v1/tokens`.",
            },
        });
        components.insert("securitySchemes".to_owned(), bearer);
        join_choices(components);
    }
    let Some(paths) = object(&mut document, "paths") else { return document };
    for (path, methods) in paths {
        let Some(methods) = methods.as_object_mut() else { continue };
        for (method, operation) in methods {
            if let Some(operation) = operation.as_object_mut() {
                describe(path, method, operation);
            }
        }
    }
    document
}

/// Writes choices between objects, of which each is named by a field, as objects that have this field.
///
/// They are derived as all of a schema that allows no other fields, and of one that has this field:
/// nothing could be both.
fn join_choices(components: &mut Map<String, Value>) {
    let Some(schemas) = components.get_mut("schemas").and_then(Value::as_object_mut) else {
        return;
    };
    let known = schemas.clone();
    for schema in schemas.values_mut() {
        let choices = schema.get_mut("oneOf").and_then(Value::as_array_mut);
        for choice in choices.into_iter().flatten() {
            if let Some(joined) = join(choice, &known) {
                *choice = joined;
            }
            close(choice);
        }
    }
}

/// Says of a choice that is one field with the name of what was chosen that it has no others.
fn close(choice: &mut Value) {
    let Some(properties) = choice.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    let mut found = properties.values_mut();
    // A field that can only be one word is not the choice but its name.
    let (Some(chosen), None) = (found.next(), found.next()) else { return };
    if chosen.get("enum").is_some() {
        return;
    }
    if chosen.get("properties").is_some() {
        set(chosen, "additionalProperties", json!(false));
    }
    set(choice, "additionalProperties", json!(false));
}

fn join(choice: &Value, known: &Map<String, Value>) -> Option<Value> {
    let [named, tag] = choice.get("allOf")?.as_array()?.as_slice() else { return None };
    let name = named.get("$ref")?.as_str()?.rsplit('/').next()?;
    let mut joined = known.get(name)?.clone();
    let tags = tag.get("properties")?.as_object()?.clone();
    object(&mut joined, "properties")?.extend(tags);
    let needed = joined.as_object_mut()?.entry("required").or_insert_with(|| json!([]));
    needed.as_array_mut()?.extend(tag.get("required")?.as_array()?.iter().cloned());
    Some(joined)
}

fn set(value: &mut Value, key: &str, to: Value) {
    if let Some(map) = value.as_object_mut() {
        map.insert(key.to_owned(), to);
    }
}

fn object<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    let entry = value.as_object_mut()?.entry(key.to_owned()).or_insert_with(|| json!({}));
    entry.as_object_mut()
}

fn parameter(name: &str, place: &str, words: &str, schema: &Value) -> Value {
    json!({
        "name": name,
        "in": place,
        "required": place == "path",
        "description": words,
        "schema": schema,
    })
}

/// Adds to an operation what follows from what it is.
fn describe(path: &str, method: &str, operation: &mut Map<String, Value>) {
    let public = PUBLIC.contains(&path);
    let changes = method != "get";
    let succeeds = |operation: &Map<String, Value>, status: &str| {
        operation.get("responses").is_some_and(|responses| responses.get(status).is_some())
    };
    let tagged = succeeds(operation, "200") && is_versioned(path, method);
    let conditional = is_versioned(path, method) && matches!(method, "patch" | "delete");
    let keyed = method == "post" && !public;
    let has_body = operation.contains_key("requestBody");
    let mut parameters = names_of(path);
    if let Some(own) = operation.get("parameters").and_then(Value::as_array) {
        parameters.extend(own.iter().cloned());
    }
    if conditional {
        let words =
            "The ETag of the object: the change is refused if the object has changed since.";
        let schema = json!({ "type": "string", "pattern": "^(\\*|\"[0-9]{1,19}\")$" });
        parameters.push(parameter("If-Match", "header", words, &schema));
    }
    if keyed {
        let words = "A name of your choice for this request. If you send the request again with the same name, it is not carried out again and gets the same answer.";
        let schema = json!({ "type": "string", "pattern": "^[!-~]{1,200}$" });
        parameters.push(parameter("Idempotency-Key", "header", words, &schema));
    }
    if !parameters.is_empty() {
        operation.insert("parameters".to_owned(), Value::Array(parameters));
    }
    let security = if public { json!([]) } else { json!([{ "token": [] }]) };
    operation.insert("security".to_owned(), security);
    // Every path may be asked wrongly: with parameters that it does not know.
    let mut statuses = vec!["400", "500", "503"];
    if !public || path == "/v1/sign-in" {
        statuses.push("401");
    }
    if operation.contains_key("x-operation") || (changes && !public) {
        statuses.push("403");
    }
    // They take a password.
    if matches!(
        (path, method),
        ("/v1/sign-in" | "/v1/tokens", "post") | ("/v1/users/{user}", "patch")
    ) {
        statuses.push("429");
    }
    // A server may have no storage accounts at all.
    let optional = path.starts_with("/v1/storage");
    if path.contains('{') || has_body || operation.contains_key("parameters") || optional {
        statuses.push("404");
    }
    if changes && !public {
        statuses.push("409");
        statuses.push("413");
    }
    // A recovery point may be one that cannot be read.
    if path.contains("/recovery-points/{point}/") {
        statuses.push("409");
    }
    if conditional {
        statuses.push("412");
    }
    if has_body {
        statuses.extend(["413", "415"]);
    }
    if let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) {
        if let Some(ok) = responses.get_mut("200").filter(|_| tagged) {
            header(ok, "ETag", "The version, for If-Match.");
        }
        if let Some(made) = responses.get_mut("201") {
            header(made, "Location", "Where it is.");
        }
        if let Some(begun) = responses.get_mut("202") {
            header(begun, "Location", "Where to ask how far the job is.");
        }
        for status in statuses {
            responses.entry(status.to_owned()).or_insert_with(|| error(status));
        }
        for answer in responses.values_mut() {
            header(answer, "X-Request-Id", "The request's id, also in the server's log.");
        }
    }
}

/// Whether what is at a path has a version.
fn is_versioned(path: &str, method: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    match last {
        "{vault}" | "{policy}" | "{host}" | "{item}" | "{point}" => true,
        "undelete" | "stop" | "resume" => method == "post",
        _ => false,
    }
}

fn names_of(path: &str) -> Vec<Value> {
    let mut found = Vec::new();
    for part in path.split('/') {
        let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
            continue;
        };
        let known = NAMES.iter().find(|(known, ..)| *known == name);
        let (words, id) = known.map_or(("", false), |(_, words, id)| (*words, *id));
        let schema = if id {
            json!({ "type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$" })
        } else {
            json!({ "type": "string", "minLength": 1 })
        };
        found.push(parameter(name, "path", words, &schema));
    }
    found
}

fn header(answer: &mut Value, name: &str, words: &str) {
    if let Some(headers) = object(answer, "headers") {
        let header = json!({ "description": words, "schema": { "type": "string" } });
        headers.insert(name.to_owned(), header);
    }
}

fn error(status: &str) -> Value {
    let words = match status {
        "400" => "The request is wrong: see the message.",
        "401" => "The token is missing or not valid.",
        "403" => "The caller's roles do not allow this.",
        "404" => "The named object does not exist, or the caller may not see it.",
        "409" => "The present state does not allow it.",
        "412" => "The object has changed since.",
        "413" => "The body is larger than 1 MiB.",
        "415" => "The body is not JSON.",
        "429" => "Signing in failed too often.",
        "500" => "Stored data is damaged, or the server has a defect.",
        _ => "A host, a store or the server itself does not answer; try again.",
    };
    let mut answer = json!({
        "description": words,
        "content": {
            "application/json": { "schema": { "$ref": "#/components/schemas/ErrorAnswer" } },
        },
    });
    if status == "429" {
        header(&mut answer, "Retry-After", "Seconds to wait.");
    }
    answer
}

/// The operation of the table of rights that each method at each path takes, by axum's spelling of
/// the path.
pub(crate) fn operations(document: &Value) -> HashMap<(Method, String), String> {
    let mut found = HashMap::new();
    let paths = document.get("paths").and_then(Value::as_object);
    for (path, methods) in paths.into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let name = operation.get("x-operation").and_then(Value::as_str);
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes());
            if let (Some(name), Ok(method)) = (name, method) {
                found.insert((method, path.clone()), name.to_owned());
            }
        }
    }
    found
}
