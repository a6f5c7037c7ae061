//! Every code of the catalog of errors is used by the program, and made to happen by some test.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use strongroom_base::CATALOG;

use crate::{
    harness::{Lab, Run, need},
    params,
    server::Service,
};

/// Codes whose test looks at the variant of the error and not at its code: what the variant is called
/// in tests. Where a variant gets its code is one `match`, without a rest.
const BY_VARIANT: [(&str, &str); 5] = [
    ("disk.busy", "DiskError::Busy"),
    ("disk.bitmap", "DiskError::Bitmap"),
    ("vm.script", "Pre-ScriptExecutionFailed"),
    ("reclaim.concurrent", "VaultError::ConcurrentReclaim"),
    ("catalog.not_empty", "Error::NotEmpty"),
];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// What all crates say outside of tests, and in them; without the catalog itself and this list.
pub(crate) fn program_and_tests() -> (String, String) {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    sources(&crates, &mut files);
    let (mut program, mut tests) = (String::new(), String::new());
    for file in files {
        let name = file.strip_prefix(&crates).expect("below").to_string_lossy().into_owned();
        if [
            "base/src/code.rs",
            "base/src/code_params.rs",
            "base/src/message.rs",
            "base/src/azure.rs",
        ]
        .contains(&name.as_str())
        {
            continue;
        }
        let mut text = fs::read_to_string(&file).expect("readable");
        if name.ends_with("e2e/codes.rs") {
            let (lists, own) = text.split_once("fn sources").expect("the lists come first");
            assert!(lists.contains("BY_VARIANT"));
            text = own.to_owned();
        }
        let in_tests = name.contains("/tests/") || name.ends_with("tests.rs");
        let (own, tested) = match text.find("#[cfg(test)]\nmod") {
            _ if in_tests => ("", text.as_str()),
            Some(at) => text.split_at(at),
            None => (text.as_str(), ""),
        };
        program += own;
        tests += tested;
    }
    (program, tests)
}

fn has_word(text: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        let after = text[at + word.len()..].chars().next();
        !part(text[..at].chars().next_back()) && !part(after)
    })
}

#[test]
fn every_code_is_used_and_made_to_happen() {
    let (mut program, tests) = program_and_tests();
    // Where only the values of errors are named, no error is made.
    while let Some(body) = params::bodies(&program).first().cloned() {
        program.replace_range(body, "");
    }
    let mut wrong = Vec::new();
    for code in CATALOG {
        let name = code.name;
        let konst = name.to_uppercase().replace('.', "_");
        if !has_word(&program, &konst) {
            wrong.push(format!("{name} is used by nothing"));
        }
        let by_variant = BY_VARIANT.iter().any(|(of, text)| *of == name && tests.contains(text));
        let made = has_word(&tests, &konst) || tests.contains(&format!("\"{name}\"")) || by_variant;
        if !made {
            wrong.push(format!("{name} is made to happen by no test"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let known = |name: &str| CATALOG.iter().any(|code| code.name == name);
    assert!(BY_VARIANT.iter().all(|(name, _)| known(name)));
}

/// Amounts are in words: `2 items`, `1.5 GiB`, `2 h 05 min`, and jobs are cancelled by one word.
#[test]
fn texts_name_amounts_as_people_do() {
    let (program, _) = program_and_tests();
    for odd in [
        "item(s)",
        "point(s)",
        "machine(s)",
        "snapshot(s)",
        "time(s)",
        "(es)",
        "} bytes were",
        "{freed} bytes",
        "job stop",
        "OVER\"",
    ] {
        assert!(!program.contains(odd), "{odd:?} is said somewhere");
    }
}

#[test]
fn what_is_not_given_or_cannot_be_read_is_said() {
    need("qemu-img", "qemu-utils");
    let mut lab = Lab::new();
    lab.disk("d.img", 1, 1, 1);
    lab.ok("backup --item web --disk root=d.img");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "d.img", "over.qcow2"])
        .current_dir(lab.path(""))
        .status();
    assert!(made.expect("qemu-img starts").success());
    let backup = "backup --item web --disk root=qcow2:over.qcow2";
    lab.fails(backup, 2, "disk.unsafe");
    let plain = Command::new("qemu-img")
        .args(["create", "-q", "-f", "vhdx", "plain.vhdx", "1M"])
        .current_dir(lab.path(""))
        .status();
    assert!(plain.expect("qemu-img starts").success());
    let mut without_tools =
        lab.command("backup --item web --disk root=vhdx:plain.vhdx --output json");
    let run = Run::of(&without_tools.env("PATH", "/nowhere").output().expect("it starts"));
    assert!(run.code == 5 && run.stderr.contains("disk.tool"), "{run:?}");
    lab.set("STRONGROOM_KEY_FILE", "");
    lab.fails("vault verify --pkcs11 nonsense", 2, "key.uri");
    lab.fails("vault verify", 8, "key.missing");
    lab.set("STRONGROOM_KEY_FILE", "key");
    lab.set("STRONGROOM_VAULT", "");
    lab.fails("vault verify", 2, "vault.not_given");
}

/// The program as somebody who must keep to permissions: root without the right to pass over them.
fn without_privilege(lab: &Lab, words: &str) -> Run {
    let plain = lab.command(&format!("{words} --output json"));
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-dac_override,-dac_read_search", "--"]);
    command.arg(plain.get_program()).args(plain.get_args()).current_dir(lab.path("")).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if rustix::process::geteuid().is_root() {
        need("setpriv", "util-linux");
        Run::of(&command.output().expect("setpriv starts"))
    } else {
        lab.run(&format!("{words} --output json"))
    }
}

#[test]
fn what_may_not_be_touched_is_told_as_such() {
    let lab = Lab::new();
    let closed = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).expect("closed");
    };
    closed(&lab.disk("d.img", 1, 1, 1));
    let run = without_privilege(&lab, "backup --item web --disk root=d.img");
    assert!(run.code == 8 && run.stderr.contains("disk.denied"), "{run:?}");
    let socket = lab.path("libvirt.sock");
    let _listener = UnixListener::bind(&socket).expect("bound");
    closed(&socket);
    let list = format!("vm list --connect qemu+unix:///system?socket={}", socket.display());
    let run = without_privilege(&lab, &list);
    assert!(run.code == 8 && run.stderr.contains("host.denied"), "{run:?}");
}

#[test]
fn what_is_no_libvirt_is_told_as_such() {
    let lab = Lab::empty();
    let socket = lab.path("libvirt.sock");
    let listener = UnixListener::bind(&socket).expect("bound");
    // No real libvirt breaks its own protocol.
    let speaker = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody calls");
        stream.write_all(b"220 mail.example.org ESMTP, and what can I do for you?").ok();
        std::io::copy(&mut stream, &mut std::io::sink()).ok();
    });
    let list = format!("vm list --connect qemu+unix:///system?socket={}", socket.display());
    lab.fails(&list, 5, "host.protocol");
    speaker.join().expect("ended");
}

#[test]
fn a_server_that_cannot_be_started_says_why() {
    let lab = Lab::empty();
    let serve = "serve --listen 127.0.0.1:0 --data-dir data";
    let mut first = lab.command(serve).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let mut lines = BufReader::new(first.stderr.take().expect("piped"));
    lines.read_line(&mut line).expect("it greets");
    lab.fails(serve, 4, "server.running");
    first.kill().expect("killed");
    first.wait().expect("it is gone");
    let write = |text: &str| fs::write(lab.path("server.toml"), text).expect("written");
    write("catalog = \"mysql://host/database\"\n");
    lab.fails(&format!("{serve} --config server.toml"), 2, "catalog.url");
    write("tls_certificate = \"/nowhere/c.pem\"\ntls_key = \"/nowhere/k.pem\"\n");
    let doctor = "doctor --data-dir data --config server.toml";
    let run = lab.run(&format!("{doctor} --output json"));
    assert!(run.code == 5 && run.stderr.contains("server.not_ready"), "{run:?}");
    let found: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    let bad = |it: &serde_json::Value| it["check"] == "tls" && it["level"] == "fail";
    let found = found["findings"].as_array().expect("a list");
    assert!(found.iter().any(|it| bad(it) && it["what_to_do"].is_string()), "{found:#?}");
}

#[test]
fn what_the_service_refuses_has_a_code() {
    let mut service = Service::with_item(8);
    service.stay("limit_rate = \"1M\"\n");
    service.kill();
    service.start_again();
    service.wait_for_greeting();
    let lab = &service.lab;
    fs::write(lab.path("password"), "correct horse battery\n").expect("written");
    fs::write(lab.path("short"), "short\n").expect("written");
    lab.ok("access user create ann --password-file password");
    let id = "01JD3W6E0ZGQ6Q0PZ2R3V9M5TB";
    for (words, exit, code) in [
        ("access user create ann --password-file password", 4, "user.exists"),
        ("access user create bob --password-file short", 2, "user.password"),
        (&format!("access token revoke {id}"), 3, "token.not_found"),
        (&format!("access assignment delete {id}"), 3, "assignment.not_found"),
        ("host delete files --yes", 4, "host.in_use"),
        ("protection undelete --item data", 4, "item.not_deleted"),
    ] {
        lab.fails(words, exit, code);
    }
    let begun = lab.json("protection backup-now --item data");
    let job = begun["job"].as_str().expect("an id");
    lab.ok(&format!("job cancel {job}"));
    lab.fails(&format!("job wait {job}"), 130, "job.cancelled");
    assert_eq!(lab.json(&format!("job show {job}"))["state"], "cancelled");
}

#[test]
fn what_is_no_disk_or_may_change_is_asked_about() {
    let lab = Lab::new();
    fs::write(lab.path("notes"), "no disk\n".repeat(64)).expect("written");
    lab.fails("backup --item web --disk root=notes", 2, "disk.doubtful");
    lab.ok("backup --item web --disk root=raw:notes");
    let disk = lab.disk("d.img", 1, 1, 1);
    let writer = fs::File::options().write(true).open(disk).expect("opened");
    lab.fails("backup --item web --disk root=d.img", 4, "disk.busy");
    lab.ok("backup --item web --disk root=d.img --allow-busy");
    drop(writer);
    let show = "recoverypoint show --item web --recovery-point latest";
    let shown = lab.json(show);
    let shown = &shown["recovery_point"];
    assert_eq!(shown["consistency"], "unknown", "{shown:#}");
    assert!(shown["evidence"].to_string().contains("may write to it"), "{shown:#}");
    lab.ok("backup --item web --disk root=d.img");
    assert_eq!(lab.json(show)["recovery_point"]["consistency"], "crash");
}
