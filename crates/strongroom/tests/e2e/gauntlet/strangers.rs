//! Callers without a token: whatever they send to a real server, they are told nothing and change nothing.

use std::process::Command;

use serde_json::Value;

use super::{Chance, figures, many};
use crate::{harness::need, server::Service};

/// What anybody may ask for.
const PUBLIC: [&str; 6] = [
    "/v1/access-table",
    "/v1/errors",
    "/v1/health",
    "/v1/openapi.json",
    "/v1/ready",
    "/v1/sign-in",
];

/// A path of the API's description with its parameters filled in, and bent in some way.
fn path(paths: &[String], chance: &mut Chance) -> String {
    let path = chance.one_of(paths).clone();
    let filled: Vec<_> = path
        .split('/')
        .map(|part| if part.starts_with('{') { "main".to_owned() } else { part.to_owned() })
        .collect();
    let path = filled.join("/");
    match chance.below(8) {
        0 => path.to_uppercase(),
        1 => format!("{path}/"),
        2 => format!("/{path}"),
        3 => format!("{path}/../../v1/users"),
        4 => path.replace("/v1/", "/v1/%2e%2e/v1/"),
        5 => format!("{path}?token=srt_{:032x}&limit=1", chance.next()),
        6 => path.replacen("/v1", "/V1", 1),
        _ => path,
    }
}

/// Something that is sent along, as if it gave a right.
fn pretence(chance: &mut Chance) -> String {
    let number = chance.next();
    match chance.below(8) {
        0 => format!("Authorization: Bearer srt_{number:032x}"),
        1 => "Authorization: Basic YWRtaW46YWRtaW4=".to_owned(),
        2 => "Authorization: bearer".to_owned(),
        3 => "X-Forwarded-User: admin".to_owned(),
        4 => "X-Forwarded-For: 127.0.0.1".to_owned(),
        5 => format!("Cookie: token=srt_{number:032x}"),
        6 => {
            format!("Authorization: {}", "A".repeat(usize::try_from(number % 8000).expect("fits")))
        }
        _ => format!("X-Original-URL: /v1/users?{number}"),
    }
}

#[test]
fn callers_without_a_token_get_nothing() {
    need("curl", "curl");
    let mut chance = Chance::new(8);
    let service = Service::start();
    service.lab.ok("vault create main");
    let get = |lab: &crate::harness::Lab, words: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--insecure", "--path-as-is", "--globoff", "--max-time", "20"]);
        let output = command.args(words).current_dir(lab.path("")).output();
        String::from_utf8_lossy(&output.expect("curl runs").stdout).into_owned()
    };
    let document = get(&service.lab, &[&format!("{}/v1/openapi.json", service.url)]);
    let document: Value = serde_json::from_str(&document).expect("the API's description");
    let paths = document["paths"].as_object().expect("paths").keys();
    let paths: Vec<String> =
        paths.filter(|path| !PUBLIC.contains(&path.as_str())).cloned().collect();
    assert!(paths.len() > 40, "{paths:?}");
    let before = service.lab.ok("audit list --output json").stdout;

    let mut asked = 0;
    for _ in 0..many(60, 1500) {
        let path = path(&paths, &mut chance);
        let method = *chance.one_of(&["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]);
        let url = format!("{}{path}", service.url);
        let header = pretence(&mut chance);
        let body = r#"{"name":"stranger","role":"vault_admin"}"#;
        let mut words = vec!["--write-out", "\n%{http_code}", "--header", &header, &url];
        if method == "HEAD" {
            words.push("--head");
        } else {
            words.extend(["--request", method, "--header", "Content-Type: application/json"]);
            words.extend(["--data", body]);
        }
        let answer = get(&service.lab, &words);
        let code = answer.rsplit('\n').next().expect("a line").to_owned();
        let refused = code.starts_with('4');
        assert!(refused, "{method} {path} with {header:?}: {answer}");
        asked += 1;
    }

    // The server is as it was, for those who have a token.
    let after = service.lab.ok("audit list --output json").stdout;
    let allowed = |text: &str| {
        let list: Value = serde_json::from_str(text).expect("JSON");
        let entries = list["entries"].as_array().cloned().expect("entries");
        entries.iter().filter(|entry| entry["outcome"] == "allowed").count()
    };
    assert!(allowed(&before) > 0, "{before}");
    assert_eq!(allowed(&before), allowed(&after), "{after}");
    service.lab.ok("status");
    figures(&format!("callers without a token: {asked} requests, all refused"));
}
