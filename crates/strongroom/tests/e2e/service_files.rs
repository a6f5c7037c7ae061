//! Files of recovery points through a server: the same as from the vault, by those who may, recorded, and by a process
//! that ends with its request.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use strongroom_base::{Clock as _, SystemClock};

use crate::{
    documented::assert_documented,
    files::{NOTE, disk, image, tool, tool_path},
    harness::{Lab, need},
    server::Service,
};

const POINT: &str = "--item web --recovery-point latest";

/// A server with the item `web`, whose disk is that of the tests without a server, and one point of it.
fn served() -> Service {
    let service = Service::start();
    let lab = &service.lab;
    disk(lab);
    lab.ok("vault key generate main.key");
    let [vault, key, at] = ["vault", "main.key", "disk.img"].map(|name| tool_path(&lab.path(name)));
    lab.ok(&format!("vault create main --vault {vault} --key-file {key}"));
    lab.ok("host create files");
    lab.ok(&format!(
        "protection enable-for-disks --item web --host files --vault-name main --disk system={at} --wait"
    ));
    lab.ok("protection backup-now --item web --wait");
    service
}

#[test]
fn attributes_with_lines_come_through_a_server() {
    let service = served();
    let lab = &service.lab;
    let copied = lab.json(&format!("restore files cp {POINT} --partition 2 --path /etc --to out"));
    assert_eq!(copied["problem_count"], 0, "{copied}");
    let mut value = vec![0; 100];
    let data = lab.path("out/etc/deep/er/data");
    let len = rustix::fs::getxattr(&data, "user.note", &mut value).expect("an attribute");
    assert_eq!(&value[..len], NOTE);
    // Signs of ransomware are looked for as on the vault.
    let diff = format!("restore files diff {POINT} --partition 2 --from latest --suspicious");
    assert_eq!(lab.json(&diff), lab.json(&format!("{diff} {DIRECT}")));
}

/// The same command on the vault itself.
const DIRECT: &str = "--vault vault --key-file main.key";

/// A request to the API: the status, the head and the bytes of the answer.
struct Answer {
    status: u16,
    head: String,
    bytes: Vec<u8>,
    whole: bool,
}

fn curl(service: &Service, path: &str, more: &[&str]) -> Command {
    need("curl", "curl");
    let token = fs::read_to_string(service.lab.path("token")).expect("a token");
    let mut command = Command::new("curl");
    command
        .args(["-sk", "--http1.1", "-H", &format!("Authorization: Bearer {}", token.trim())])
        .args(more)
        .arg(format!("{}/v1{path}", service.url))
        .stdin(Stdio::null());
    command
}

fn get(service: &Service, path: &str, more: &[&str]) -> Answer {
    let head = service.lab.path("head");
    let mut command = curl(service, path, more);
    let output = command.args(["-D", &tool_path(&head)]).output().expect("curl runs");
    let head = fs::read_to_string(&head).expect("a head").to_lowercase();
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    Answer {
        status: status.expect("a status"),
        head,
        bytes: output.stdout,
        whole: output.status.success(),
    }
}

const OF_POINT: &str = "/items/web/recovery-points/latest/files";

/// Processes that read files for the server.
fn readers(service: &Service) -> Vec<u32> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").expect("processes").flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let read = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
        let is_reader = read("cmdline").ends_with(b"\0file-reader\0");
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        if is_reader && status.contains(&format!("PPid:\t{}\n", service.pid())) {
            found.push(id);
        }
    }
    found
}

/// Waits until something is so.
fn until(what: &str, is: impl Fn() -> bool) {
    for _ in 0..600 {
        if is() {
            return;
        }
        SystemClock.sleep(Duration::from_millis(50));
    }
    panic!("{what}");
}

/// What the audit log says of files, in order: outcome and detail.
fn recorded(service: &Service) -> Vec<(String, Value)> {
    let lines = service.lab.ok("audit export").stdout;
    let entries = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let of_files = entries.filter(|entry| entry["action"] == "item.read_files");
    of_files
        .map(|it| (it["outcome"].as_str().expect("a word").to_owned(), it["detail"].clone()))
        .collect()
}

#[test]
fn a_server_shows_what_the_vault_has() {
    let service = served();
    let lab = &service.lab;
    for ls in ["", "--partition 2 --path /etc --xattrs", "--partition 2 --path /etc/link/data"] {
        let ls = format!("restore files ls {POINT} {ls}");
        let through = lab.json(&ls);
        assert_eq!(through, lab.json(&format!("{ls} {DIRECT}")), "{ls}");
        let words = lab.ok(&ls).stdout;
        assert_eq!(words, lab.ok(&format!("{ls} {DIRECT}")).stdout, "{ls}");
    }
    assert_documented("restore files ls", &lab.json(&format!("restore files ls {POINT}")));
    let etc = format!("{POINT} --partition 2 --path /etc");
    let listing = lab.json(&format!("restore files ls {etc} --xattrs"));
    assert_documented("restore files ls --path", &listing);
    for (wrong, exit, code) in [
        ("ls --path /etc", 3, "files.volume"),
        ("ls --partition 3 --path /", 2, "files.unsupported"),
        ("ls --partition 2 --path /none", 3, "files.not_found"),
        ("tar --partition 2 --path /none --to none.tar", 3, "files.not_found"),
        ("cp --partition 2 --path /none --to none", 3, "files.not_found"),
        ("find --partition 9", 3, "files.volume"),
    ] {
        lab.fails(&format!("restore files {wrong} {POINT}"), exit, code);
    }
    assert!(!lab.path("none.tar").exists() && !lab.path("none.tar.partial").exists());

    let same = |one: &str, other: &str| {
        let read = |name: &str| fs::read(lab.path(name)).expect(name);
        assert!(read(one) == read(other), "{one} and {other} differ");
    };
    for format in ["tar", "zip"] {
        let (one, other) = (format!("served.{format}"), format!("direct.{format}"));
        let pack = format!("restore files {format} {etc} --to");
        // Zip has no links: one is missing.
        let exit = if format == "zip" { 7 } else { 0 };
        let through = lab.run(&format!("{pack} {one} --output json"));
        let directly = lab.run(&format!("{pack} {other} {DIRECT} --output json"));
        assert_eq!((through.code, directly.code), (exit, exit), "{}", through.stderr);
        let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        let (mut through, directly) = (json(&through.stdout), json(&directly.stdout));
        through["to"] = directly["to"].clone();
        assert_eq!(through, directly);
        assert_documented("restore files cp", &through);
        same(&one, &other);
    }
    zip_is_right(&service);

    let copied = lab.json(&format!("restore files cp {etc} --to through"));
    assert_documented("restore files cp", &copied);
    let mut directly = lab.json(&format!("restore files cp {etc} --to direct {DIRECT}"));
    directly["to"] = copied["to"].clone();
    assert_eq!(copied, directly);
    let [through, direct] = ["through", "direct"].map(|name| tool_path(&lab.path(name)));
    tool("diff", &["-r", "--no-dereference", &through, &direct]);
    let facts = |name: &str| {
        let format = "%P %y %m %s %U %G %T@ %n %l\n";
        let mut find = Command::new("find");
        find.args([&tool_path(&lab.path(name)), "-printf", format]).stdin(Stdio::null());
        let output = find.output().expect("find runs");
        let mut lines: Vec<String> =
            String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(facts("through/etc"), facts("direct/etc"));
    lab.fails(&format!("restore files cp {etc} --to through"), 7, "files.incomplete");
}

/// What Python's own reader says of a zip archive.
fn zip_is_right(service: &Service) {
    need("python3", "python3");
    let lab = &service.lab;
    let script = "import sys, zipfile\n\
        with zipfile.ZipFile(sys.argv[1]) as archive:\n\
        \x20   assert archive.testzip() is None\n\
        \x20   archive.extractall(sys.argv[2])\n\
        \x20   for info in archive.infolist(): print(info.filename, info.file_size, info.date_time)\n";
    let output = Command::new("python3")
        .args([
            "-c",
            script,
            &tool_path(&lab.path("served.zip")),
            &tool_path(&lab.path("unzipped")),
        ])
        .stdin(Stdio::null())
        .output()
        .expect("python runs");
    assert!(output.status.success(), "{output:?}");
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(list.contains("etc/hostname 6 (2020, 2, 3, 4, 5, 6)"), "{list}");
    for name in ["etc/hostname", "etc/same", "etc/deep/er/data", "etc/sparse"] {
        let read = |folder: &str| fs::read(lab.path(folder).join(name)).expect(name);
        assert!(read("unzipped") == read("source"), "{name}");
    }
    let missing = fs::read_to_string(lab.path("unzipped/NOT IN THIS ARCHIVE.txt")).expect("a list");
    assert!(missing.contains("/etc/link: "), "{missing}");
}

#[test]
fn versions_are_found_and_compared_by_a_server() {
    let service = served();
    let lab = &service.lab;
    fs::write(lab.path("source/etc/hostname"), "web001\n").expect("a file");
    fs::remove_file(lab.path("source/etc/sparse")).expect("removed");
    image(lab);
    lab.ok("protection backup-now --item web --wait");
    let first = lab.points("web")[0].clone();
    let at = "--partition 2 --path /etc";
    for command in [
        format!("find {POINT} {at} --all-points --name host*"),
        format!("find {POINT} {at} --larger 2M"),
        format!("diff {POINT} {at} --from {first}"),
    ] {
        let command = format!("restore files {command}");
        let through = lab.json(&command);
        assert_eq!(through, lab.json(&format!("{command} {DIRECT}")), "{command}");
        let rows = through.get("found").or(through.get("changes")).expect("rows");
        assert!(!rows.as_array().expect("rows").is_empty(), "{command}");
    }
    let content = format!("restore files diff {POINT} {at} --from {first} --content");
    lab.fails(&content, 2, "usage.invalid");
}

/// Ranges of a file are those of RFC 9110.
fn assert_ranges(service: &Service, data: &str, whole: &[u8]) {
    for (ask, is, says) in [
        ("100-299", 100..300, "bytes 100-299/3000000"),
        ("-500", 2_999_500..3_000_000, "bytes 2999500-2999999/3000000"),
        ("2999000-", 2_999_000..3_000_000, "bytes 2999000-2999999/3000000"),
        ("2999990-4000000", 2_999_990..3_000_000, "bytes 2999990-2999999/3000000"),
        ("0-", 0..3_000_000, "bytes 0-2999999/3000000"),
        ("-4000000", 0..3_000_000, "bytes 0-2999999/3000000"),
    ] {
        let part = get(service, data, &["-r", ask]);
        assert_eq!(part.status, 206, "{ask}");
        assert!(part.bytes == whole[is], "{ask}");
        assert!(part.head.contains(&format!("content-range: {says}")), "{ask}: {}", part.head);
    }
    for beyond in ["3000000-", "3000000-3000001", "-0"] {
        let answer = get(service, data, &["-r", beyond]);
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(
            (answer.status, text.contains("request.range")),
            (416, true),
            "{beyond}: {text}"
        );
        assert!(answer.head.contains("content-range: bytes */3000000"), "{}", answer.head);
    }
    for other in ["bytes=0-1,5-6", "bytes=9-1", "bytes=x-", "lines=0-1"] {
        let header = format!("Range: {other}");
        let answer = get(service, data, &["-H", &header]);
        assert_eq!((answer.status, answer.bytes.len()), (200, 3_000_000), "{other}");
    }
}

/// The table and the entries of the audit log say which files of which point were read.
fn assert_audited(lab: &Lab) {
    let point = lab.points("web")[0].clone();
    let log = lab.ok("audit list --limit 200 --output tsv").stdout;
    let of = format!("item.read_files\tweb/{point}\tcompleted\ttar of partition 2: /etc/hostname");
    assert!(log.contains(&of), "{log}");
    assert!(log.contains("file of partition 2: /etc/link/data"), "{log}");
    let entries = lab.json("audit list --limit 200");
    let entries = entries["entries"].as_array().expect("entries");
    let has_files = |entry: &&Value| entry["detail"]["path"] == "/etc/hostname";
    let detail = &entries.iter().find(has_files).expect("recorded")["detail"];
    let (item, recorded_point) = (&detail["item"], &detail["recovery_point"]);
    assert_eq!((item, recorded_point), (&"web".into(), &Value::from(point)));
}

#[test]
fn files_are_sent_to_those_who_may_and_recorded() {
    let service = served();
    let lab = &service.lab;
    fs::write(lab.path("password"), "correct horse battery\n").expect("written");
    for (user, role) in [("ann", "reader"), ("bob", "operator")] {
        lab.ok(&format!("access user create {user} --password-file password"));
        lab.ok(&format!("access assignment create --user {user} --role {role} --vault-name main"));
        let (url, print) = (&service.url, &service.fingerprint);
        let add = format!("context add {user} --server {url} --fingerprint {print}");
        lab.ok(&format!("{add} --sign-in {user} --password-file password"));
    }
    let of = format!("{POINT} --partition 2 --path /etc/hostname");
    for command in ["ls", "cp --to out", "tar --to out.tar", "zip --to out.zip"] {
        lab.fails(&format!("restore files {command} {of} --context ann"), 8, "auth.forbidden");
    }
    lab.fails(&format!("restore files ls {POINT} --context ann"), 8, "auth.forbidden");
    let before = recorded(&service);
    assert_eq!(before.len(), 5);
    assert!(before.iter().all(|(outcome, _)| outcome == "denied"), "{before:?}");
    lab.ok(&format!("restore files cp {of} --to out --context bob"));
    assert_eq!(fs::read_to_string(lab.path("out/hostname")).expect("a file"), "web01\n");

    let file = format!("{OF_POINT}/content?partition=2&path=");
    let whole = get(&service, &format!("{file}/etc/link/data"), &[]);
    assert!(whole.bytes == fs::read(lab.path("source/etc/deep/er/data")).expect("a file"));
    assert_eq!(whole.status, 200);
    for header in [
        "content-length: 3000000",
        "content-type: application/octet-stream",
        "accept-ranges: bytes",
        "content-disposition: attachment; filename=\"data\"; filename*=utf-8''data",
        "x-content-type-options: nosniff",
    ] {
        assert!(whole.head.contains(header), "{header}: {}", whole.head);
    }
    assert_ranges(&service, &format!("{file}/etc/link/data"), &whole.bytes);
    // A link to a file is followed; a folder is none.
    assert_eq!(get(&service, &format!("{file}/etc/link"), &[]).status, 404);
    for path in ["/../../etc/passwd", "/etc/../../../etc/passwd", "/etc/%2e%2e/%2e%2e/etc/shadow"] {
        let answer = get(&service, &format!("{file}{path}"), &[]);
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!((answer.status, text.contains("files.not_found")), (404, true), "{text}");
    }
    for wrong in [
        "content?path=/&path_hex=2f",
        "content?path=",
        "content?path_hex=2",
        "content?partition=1&volume=a/b&path=/x",
        "archive?path=/&format=rar",
        "content?path=/%00",
        "tree?depth=1",
    ] {
        assert_eq!(get(&service, &format!("{OF_POINT}/{wrong}"), &[]).status, 400, "{wrong}");
    }
    let hex = get(
        &service,
        &format!("{OF_POINT}/content?partition=2&path_hex=2f6574632f686f73746e616d65"),
        &[],
    );
    assert_eq!(hex.bytes, b"web01\n");
    // In pages.
    let page = format!("{OF_POINT}?partition=2&path=/etc&limit=2");
    let json = |answer: &Answer| serde_json::from_slice::<Value>(&answer.bytes).expect("JSON");
    let first = json(&get(&service, &page, &[]));
    let token = first["next_page_token"].as_str().expect("more");
    let next = json(&get(&service, &format!("{page}&page_token={token}"), &[]));
    assert_eq!(
        (&first["entries"][1]["name"], &next["entries"][0]["name"]),
        (&"hostname".into(), &"link".into())
    );

    assert_audited(lab);
    let recorded = recorded(&service);
    let rows: Vec<_> = recorded.iter().skip(5).collect();
    let bob = &rows[..2];
    assert_eq!((bob[0].0.as_str(), bob[1].0.as_str()), ("allowed", "completed"));
    assert_eq!((&bob[0].1["what"], &bob[0].1["path"]), (&"tar".into(), &"/etc/hostname".into()));
    assert!(bob[1].1["sent_bytes"].as_u64() > Some(1000), "{bob:?}");
    let of_part = rows.iter().find(|(_, detail)| detail["from_byte"] == 100).expect("recorded");
    assert_eq!(
        (of_part.1["what"].as_str(), of_part.1["path"].as_str()),
        (Some("file"), Some("/etc/link/data"))
    );
    let failed = rows.iter().filter(|(outcome, _)| outcome == "failed").count();
    assert_eq!(failed, 4, "{rows:?}");
    // Both pages are one look.
    assert_eq!(rows.iter().filter(|(_, detail)| detail["what"] == "folder").count(), 1);
    assert!(readers(&service).is_empty());
}

#[test]
fn a_reader_ends_with_its_client_and_a_torn_archive_does_not_look_whole() {
    let service = served();
    // Larger than what waits on the way.
    let archive = format!("{OF_POINT}/archive?partition=2&path=/etc");
    let slow = || {
        let mut command = curl(&service, &archive, &["--limit-rate", "2M"]);
        command.args(["-D", &tool_path(&service.lab.path("slow")), "-o", "/dev/null"]);
        let child = command.spawn().expect("curl runs");
        until("no reader is at work", || readers(&service).len() == 1);
        // Until it is at the large file.
        until("nothing is sent", || service.lab.path("slow").exists());
        SystemClock.sleep(Duration::from_millis(500));
        child
    };
    let mut client = slow();
    client.kill().expect("killed");
    client.wait().expect("it is gone");
    until("the reader did not end with its client", || readers(&service).is_empty());
    until("no record", || recorded(&service).last().is_some_and(|row| row.0 == "abandoned"));

    fs::remove_file(service.lab.path("slow")).expect("removed");
    let mut client = slow();
    let reader = readers(&service)[0];
    tool("kill", &["-9", &reader.to_string()]);
    let status = client.wait().expect("curl ends");
    // Transfer closed before its end.
    assert_eq!(status.code(), Some(18));
    let head = fs::read_to_string(service.lab.path("slow")).expect("a head").to_lowercase();
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let id = head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id");
    let report = get(&service, &format!("/file-reports/{}", id.trim().to_uppercase()), &[]);
    let report: Value = serde_json::from_slice(&report.bytes).expect("JSON");
    assert_eq!(
        (&report["complete"], &report["error"]["code"]),
        (&false.into(), &"files.reader".into())
    );
    let (outcome, detail) = recorded(&service).pop().expect("a record");
    assert_eq!((outcome.as_str(), &detail["code"]), ("failed", &"files.reader".into()));
    // The server has noticed nothing else.
    assert_eq!(get(&service, &format!("{OF_POINT}?partition=2"), &[]).status, 200);
}

#[test]
fn a_damaged_file_system_is_an_answer() {
    let service = Service::start();
    let lab = &service.lab;
    disk(lab);
    // The file system lies in its partition; a folder's inode is cleared.
    let (part, at) = (tool_path(&lab.path("part")), tool_path(&lab.path("disk.img")));
    tool("debugfs", &["-w", "-R", "clri /etc/deep", &part]);
    tool(
        "dd",
        &[
            &format!("if={part}"),
            &format!("of={at}"),
            "bs=1M",
            "seek=9",
            "conv=notrunc",
            "status=none",
        ],
    );
    lab.ok("vault create main");
    lab.ok("host create files");
    lab.ok(&format!(
        "protection enable-for-disks --item web --host files --vault-name main --disk system={at} --wait"
    ));
    lab.ok("protection backup-now --item web --wait");
    let etc = format!("{POINT} --partition 2 --path /etc");
    let listing = lab.json(&format!("restore files ls {etc}"));
    assert!(listing["entries"][0]["problem"].is_string(), "{listing}");
    lab.fails(&format!("restore files ls {etc}/deep/er"), 6, "files.damaged");
    lab.fails(&format!("restore files cp {etc} --to out"), 7, "files.incomplete");
    assert_eq!(fs::read_to_string(lab.path("out/etc/hostname")).expect("a file"), "web01\n");
    let tar = lab.run(&format!("restore files tar {etc} --to etc.tar --output json"));
    assert_eq!(tar.code, 7);
    let tar: Value = serde_json::from_str(&tar.stdout).expect("JSON");
    assert_eq!(
        (&tar["problem_count"], &tar["problems"][0]["path"]),
        (&1.into(), &"/etc/deep".into())
    );
    let whole = get(&service, &format!("{OF_POINT}/archive?partition=2&path=/etc&format=zip"), &[]);
    assert!(whole.whole && whole.status == 200);
}
