//! Pages of the documentation: their tables are made from the program, and their examples are run.
//!
//! `STRONGROOM_BLESS=1 cargo nextest run -p strongroom-server pages` writes the tables anew.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use strongroom_api::Role;
use strongroom_control::rights::Operation;
use strongroom_server::ServerConfig;

use crate::accounts::with_accounts;

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

/// Compares what is between the marks of a page with what it should be.
#[track_caller]
fn assert_made(name: &str, made: &str) {
    let page = fs::read_to_string(docs(name)).expect(name);
    let (before, rest) = page.split_once("<!-- made: begin").expect("a beginning");
    let (head, rest) = rest.split_once("-->\n").expect("a beginning");
    let (found, after) = rest.split_once("<!-- made: end -->").expect("an end");
    if std::env::var_os("STRONGROOM_BLESS").is_some() {
        let page = format!("{before}<!-- made: begin{head}-->\n{made}<!-- made: end -->{after}");
        fs::write(docs(name), page).expect("writes");
        return;
    }
    assert!(found == made, "docs/{name} is stale: STRONGROOM_BLESS=1 writes it\n{made}");
}

#[test]
fn access() {
    let mut made = String::from("\n| operation | what |");
    for role in Role::ALL {
        write!(made, " `{role}` |").expect("writes");
    }
    made += " where |\n|---|---|---|---|---|---|---|\n";
    for operation in Operation::ALL {
        write!(made, "| `{}` | {} |", operation.name(), operation.words()).expect("writes");
        for role in Role::ALL {
            made += if *role >= operation.role() { " yes |" } else { " |" };
        }
        writeln!(made, " {} |", operation.reach().name()).expect("writes");
    }
    assert_made("operate/access.md", &(made + "\n"));
}

#[test]
fn server() {
    let mut made = String::from("\n| key | if not given | meaning |\n|---|---|---|\n");
    for key in ServerConfig::KEYS {
        let shown = key.default.parse::<toml::Value>().is_ok() || key.default == "[]";
        let default = if shown { format!("`{}`", key.default) } else { key.default.to_owned() };
        writeln!(made, "| `{}` | {default} | {} |", key.name, key.words).expect("writes");
    }
    assert_made("operate/server.md", &(made + "\n"));
    let page = fs::read_to_string(docs("operate/server.md")).expect("the page");
    for variable in page.split("STRONGROOM_SERVER_").skip(1) {
        let name: String =
            variable.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
        let known = |key: &&strongroom_server::ConfigKey| key.name == name.to_lowercase();
        assert!(name.is_empty() || ServerConfig::KEYS.iter().any(|key| known(&key)), "{name}");
    }
}

/// What pages show of the file of settings is what the program reads.
#[test]
fn the_settings_on_pages_are_taken() {
    for (name, least) in [("operate/server.md", 3), ("operate/monitoring.md", 4)] {
        let page = fs::read_to_string(docs(name)).expect("the page");
        let blocks: Vec<&str> = page.split("```toml\n").skip(1).collect();
        assert!(blocks.len() >= least, "{name}");
        for block in blocks {
            let text = block.split("```").next().expect("an end");
            let config: ServerConfig =
                toml::from_str(text).unwrap_or_else(|error| panic!("{name}: {text}{error}"));
            config.catalog_url().ok();
        }
    }
}

#[test]
fn every_path_that_a_page_names_is_one_of_the_api() {
    let document = strongroom_server::openapi();
    let known: Vec<&String> = document["paths"].as_object().expect("paths").keys().collect();
    let fits = |known: &str, named: &str| {
        let (known, named): (Vec<_>, Vec<_>) =
            (known.split('/').collect(), named.split('/').collect());
        let same = |(one, other): (&&str, &&str)| one == other || one.starts_with('{');
        known.len() == named.len() && known.iter().zip(&named).all(same)
    };
    let mut count = 0;
    for name in ["use/api.md", "operate/access.md", "operate/server.md", "use/service.md"] {
        let page = fs::read_to_string(docs(name)).expect(name);
        for rest in page.split("/v1/").skip(1) {
            let end = |c: char| !(c.is_ascii_alphanumeric() || "/{}-._".contains(c));
            let path = rest.split(end).next().unwrap_or_default().trim_end_matches('.');
            let path = format!("/v1/{path}");
            // Of a collector of traces, not of ours.
            if path == "/v1/traces" {
                continue;
            }
            assert!(known.iter().any(|known| fits(known, &path)), "docs/{name}: {path}");
            count += 1;
        }
    }
    assert!(count >= 10, "{count}");
}

/// The examples of docs/use/api.md, in order, in one shell. An example that ends with an error of the
/// API's is one that shows such an error.
#[test]
fn the_examples_of_the_api_run() {
    let bed = with_accounts();
    let page = fs::read_to_string(docs("use/api.md")).expect("the page");
    let blocks =
        page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().expect("an end"));
    let script = blocks.map(str::to_owned).collect::<Vec<_>>();
    assert!(script.len() >= 10);
    let folder = bed.path("shell");
    fs::create_dir(&folder).expect("a folder");
    let into = |name: &str| Path::new(&folder).join(name);
    fs::copy(bed.path("data/tls/certificate.pem"), into("certificate.pem")).expect("copied");
    fs::write(into("token.txt"), &bed.token).expect("written");
    // No `pipefail`: curl fails where an example shows an error, and `jq` fails if there is none.
    let marked = script.join("\necho '--'\n");
    let output = Command::new("bash")
        .args(["-euc", &marked])
        .current_dir(&folder)
        .env("SERVER", format!("https://{}", bed.address))
        .env("DISK", bed.disk("a.raw", 300))
        .env("FOLDER", bed.path("restored/data"))
        .output()
        .expect("bash starts");
    let (out, told) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{told}");
    let shown: Vec<&str> = out.split("--\n").map(str::trim).collect();
    let after = |text: &str| {
        let index = script.iter().position(|block| block.contains(text)).expect(text);
        shown[index]
    };
    assert_eq!(after("api /me"), "\"admin\"");
    assert_eq!(after("api /items --data"), "completed");
    assert_eq!(after("/events\" --no-buffer"), "completed\n\"restorable\"");
    assert!(after("If-Match").ends_with("request.changed"), "{out}");
    assert_eq!(after("page_token"), "\"completed\"\n0\n\"data\"\n0");
    let accounts = after("api /storage-accounts");
    assert_eq!(accounts, "key1\nhttps://storage.example.org;Ac\n2\ndisks");
    let error: BTreeMap<String, Value> = serde_json::from_str(after("nowhere")).expect("JSON");
    assert_eq!(error["code"], "vault.unknown");
    assert!(error.values().all(|value| !value.is_null()), "{error:?}");
}
