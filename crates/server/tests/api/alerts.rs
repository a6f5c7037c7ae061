//! Alerts on their way: to a real mail server, with and without encryption and a user, and to a real
//! HTTP server; what is down, what refuses, what is wrong.

use std::{fs, path::Path, process::Command};

use axum::http::Method;
use serde_json::{Value, json};
use strongroom_server::{MailConfig, MailTls, ServerConfig, WebhookConfig};
use strongroom_testing::{eventually, free_port};
use tokio::runtime::Runtime;

use crate::{
    bed::Bed,
    sinks::{Certificate, HookSink, MailSink},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn mail(server: &str, tls: MailTls) -> MailConfig {
    MailConfig {
        name: "ops".to_owned(),
        server: server.to_owned(),
        tls,
        from: "Strongroom <strongroom@example.net>".to_owned(),
        to: vec!["ann@example.net".to_owned(), "Bob <bob@example.net>".to_owned()],
        ..MailConfig::default()
    }
}

fn hook(folder: &Path, url: String) -> WebhookConfig {
    let secret = folder.join("secret");
    fs::write(&secret, format!("{SECRET}\n")).expect("writes");
    WebhookConfig {
        name: "hook".to_owned(),
        url,
        secret_file: Some(secret),
        ..WebhookConfig::default()
    }
}

fn at_once(config: &mut ServerConfig) {
    config.alert_bundle_seconds = 0;
}

/// Weakens a vault: an alert that nobody misses.
fn weaken(bed: &Bed, vault: &str) {
    bed.post("/vaults", &json!({ "name": vault })).good(201);
    let weak = json!({ "soft_delete": { "state": "disabled", "retention_days": 14 } });
    let path = format!("/vaults/{vault}");
    bed.send(bed.request(&bed.token, Method::PATCH, &path, &[], Some(&weak))).good(200);
}

fn tried(bed: &Bed) -> Value {
    bed.post("/alerts/test", &json!({})).good(200)["items"].clone()
}

#[test]
fn an_alert_is_mailed_once_and_again_when_it_is_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let sink = MailSink::start(folder.path(), &[]);
    let bed = Bed::with(|config| {
        at_once(config);
        config.mail = vec![mail(&format!("127.0.0.1:{}", sink.port), MailTls::None)];
    });
    weaken(&bed, "main");
    let mails = sink.wait(1);
    assert_eq!(mails[0]["to"], json!(["ann@example.net", "bob@example.net"]));
    assert_eq!(mails[0]["from"], "strongroom@example.net");
    let subject = mails[0]["headers"]["subject"].as_str().expect("a subject");
    assert_eq!(subject, "[Strongroom here] critical: the protection of vault main was weakened");
    assert_eq!(mails[0]["headers"]["auto-submitted"], "auto-generated");
    let alert = bed.get("/alerts").good(200)["items"][0]["id"].as_str().expect("an id").to_owned();
    assert!(mails[0]["text"].as_str().expect("text").contains(&alert), "{mails:?}");
    bed.by(&bed.token, Method::POST, &format!("/alerts/{alert}/resolve")).good(200);
    let mails = sink.wait(2);
    let subject = mails[1]["headers"]["subject"].as_str().expect("a subject");
    assert_eq!(subject, "[Strongroom here] resolved: the protection of vault main was weakened");
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(sink.mails().len(), 2, "once each");
}

#[test]
fn mail_is_encrypted_and_signed_in_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = Certificate::new(folder.path());
    let other = tempfile::tempdir().expect("a folder");
    let stranger = Certificate::new(other.path());
    let password = folder.path().join("password");
    fs::write(&password, "not the secret\n").expect("writes");
    let (certificate, key) =
        (made.certificate.display().to_string(), made.key.display().to_string());
    let user = ["--user", "strongroom", "--password", "very secret"];
    let of =
        |tls| [&["--tls", tls, "--certificate", &certificate, "--key", &key], &user[..]].concat();
    let starttls = MailSink::start(folder.path(), &of("starttls"));
    let wrapped = MailSink::start(
        folder.path(),
        &["--tls", "tls", "--certificate", &certificate, "--key", &key],
    );
    let config = |name: &str, port: u16, tls, ca: &Path| MailConfig {
        name: name.to_owned(),
        ca_file: Some(ca.to_owned()),
        ..mail(&format!("localhost:{port}"), tls)
    };
    let bed = Bed::with(|it| {
        at_once(it);
        let signed_in = |config| MailConfig {
            user: Some("strongroom".to_owned()),
            password_file: Some(password.clone()),
            ..config
        };
        it.mail = vec![
            signed_in(config("starttls", starttls.port, MailTls::Starttls, &made.certificate)),
            config("tls", wrapped.port, MailTls::Tls, &made.certificate),
            config("stranger", wrapped.port, MailTls::Tls, &stranger.certificate),
        ];
    });
    let found = tried(&bed);
    let why = found[0]["error"]["message"].as_str().expect("the password is wrong");
    assert!(why.contains("535") && !why.contains("secret"), "{why}");
    assert_eq!(found[1]["error"], Value::Null, "{found}");
    let why = found[2]["error"]["message"].as_str().expect("nobody knows this certificate");
    assert!(why.to_lowercase().contains("certificate"), "{why}");
    // The file is read each time.
    fs::write(&password, "very secret\n").expect("writes");
    let found = tried(&bed);
    assert_eq!(found[0]["error"], Value::Null, "{found}");
    let mails = starttls.mails();
    let by_user: Vec<_> = mails.iter().filter(|mail| mail["user"] == "strongroom").collect();
    assert_eq!(by_user.len(), 1, "{mails:?}");
    assert!(mails.iter().all(|mail| mail["tls"] == true), "{mails:?}");
    assert!(mails[0]["text"].as_str().expect("text").starts_with("This is a test."), "{mails:?}");
}

#[test]
fn what_was_down_is_told_later() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let bed = Bed::with(|config| {
        at_once(config);
        config.mail = vec![mail(&format!("127.0.0.1:{port}"), MailTls::None)];
    });
    for vault in ["a", "b", "c"] {
        weaken(&bed, vault);
    }
    // The first try fails; the next is ten seconds later.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let sink = MailSink::start(folder.path(), &["--port", &port.to_string()]);
    let texts = eventually("all three", || {
        let mails = sink.mails();
        let texts = mails.iter().map(|mail| mail["text"].as_str().expect("text").to_owned());
        let texts: Vec<String> = texts.collect();
        (texts.concat().matches("was weakened").count() == 3).then_some(texts)
    });
    for vault in ["a", "b", "c"] {
        let of = format!("the protection of vault {vault} was weakened");
        assert_eq!(texts.concat().matches(&of).count(), 1, "{texts:?}");
    }
    assert!(texts.len() <= 2, "what comes while it is down comes together: {texts:?}");
}

#[test]
fn what_is_refused_for_good_is_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = Runtime::new().expect("a runtime");
    let sink = MailSink::start(folder.path(), &["--refuse", "550 no such mailbox"]);
    let hooked = HookSink::start(&runtime, &[]);
    let url = format!("http://{}/hook", hooked.address);
    let bed = Bed::with(|config| {
        at_once(config);
        config.mail = vec![mail(&format!("127.0.0.1:{}", sink.port), MailTls::None)];
        config.webhook = vec![hook(folder.path(), url.clone())];
    });
    weaken(&bed, "main");
    // The other channel tells of it.
    let told = eventually("word of it", || {
        let all: Vec<Value> = hooked.got().iter().map(|it| it.json()["alerts"].clone()).collect();
        let all: Vec<Value> =
            all.iter().flat_map(|it| it.as_array().expect("a list").clone()).collect();
        all.into_iter().find(|alert| alert["rule"] == "alert_undelivered")
    });
    assert_eq!(told["subject"], "ops");
    assert!(told["error"]["message"].as_str().expect("why").contains("550"), "{told}");
    let server = bed.get("/status").good(200)["server"].clone();
    assert!(server[0]["message"].as_str().expect("words").contains("1 given up"), "{server}");
}

/// A block of docs/operate/monitoring.md.
fn block(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operate/monitoring.md");
    let page = fs::read_to_string(page).expect("the page");
    let block = page.split(&format!("```{language}\n")).nth(1).expect("a block");
    block.split("```").next().expect("an end").to_owned()
}

/// Whether the check that docs/operate/monitoring.md shows accepts a delivery, so many seconds later.
fn is_good(header: &str, body: &str, seconds_later: u64) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("body");
    fs::write(&file, body).expect("written");
    let script = format!(
        "{}\nimport sys\nnow = time.time\ntime.time = lambda: now() + int(sys.argv[4])\n\
         print(is_good(sys.argv[1].encode(), sys.argv[2], open(sys.argv[3], 'rb').read()))\n",
        block("python")
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script, SECRET, header]).arg(&file).arg(seconds_later.to_string());
    let output = command.output().expect("python3 starts");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    out.trim() == "True"
}

#[test]
fn the_check_of_signatures_on_the_page_is_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = Runtime::new().expect("a runtime");
    let sink = HookSink::start(&runtime, &[]);
    let url = format!("http://{}/hook", sink.address);
    let bed = Bed::with(|config| {
        at_once(config);
        config.webhook = vec![hook(folder.path(), url.clone())];
    });
    weaken(&bed, "main");
    let got = sink.wait(1);
    let (signature, body) = (got[0].header("strongroom-signature"), &got[0].body);
    assert!(is_good(signature, body, 0), "{signature}");
    assert!(!is_good(signature, &body.replace("main", "mian"), 0), "another body");
    assert!(!is_good(&signature.replace(",v1=", ",v1=0"), body, 0), "another signature");
    assert!(!is_good(signature, body, 1000), "recorded, and sent later");
    // The body that the page shows has fields that a body has.
    let shown: Value = serde_json::from_str(&block("json")).expect("JSON");
    let sent = got[0].json();
    for (shown, sent) in [(&shown, &sent), (&shown["alerts"][0], &sent["alerts"][0])] {
        for (field, value) in shown.as_object().expect("an object") {
            let is_same = std::mem::discriminant(value) == std::mem::discriminant(&sent[field]);
            assert!(is_same, "{field}: {sent:#}");
        }
    }
}

#[test]
fn a_webhook_is_signed_and_keeps_its_id() {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = Runtime::new().expect("a runtime");
    let sink = HookSink::start(&runtime, &[503]);
    let url = format!("http://{}/hook", sink.address);
    let bed = Bed::with(|config| {
        at_once(config);
        config.webhook = vec![hook(folder.path(), url.clone())];
    });
    weaken(&bed, "main");
    let got = sink.wait(2);
    let json = got[0].json();
    assert_eq!((&json["server"], &json["test"]), (&json!("here"), &json!(false)));
    assert_eq!(json["alerts"][0]["rule"], "vault_weakened");
    assert_eq!(json["id"].as_str(), Some(got[0].header("strongroom-delivery")));
    assert_eq!(got[0].body, got[1].body, "what is sent again is the same");
    for delivery in &got {
        assert!(is_good(delivery.header("strongroom-signature"), &delivery.body, 0));
    }
    // A redirect is not followed, and a URL is not repeated in words.
    let sink = HookSink::start(&runtime, &[307, 400]);
    let url = format!("http://{}/hook?token=hidden", sink.address);
    let bed = Bed::with(|config| config.webhook = vec![hook(folder.path(), url.clone())]);
    for state in ["307", "400"] {
        let found = tried(&bed);
        let why = found[0]["error"]["message"].as_str().expect("why");
        assert!(why.contains(state) && !why.contains("hidden"), "{why}");
    }
    let down = format!("http://127.0.0.1:{}/hook?token=hidden", free_port());
    let bed = Bed::with(|config| config.webhook = vec![hook(folder.path(), down.clone())]);
    let why = tried(&bed)[0]["error"]["message"].to_string();
    assert!(!why.contains("hidden"), "{why}");
    let none = bed.post("/alerts/test", &json!({ "channel": "pigeon" }));
    assert_eq!((none.status.as_u16(), none.code()), (404, "alert.no_channel".to_owned()));
}
