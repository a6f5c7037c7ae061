//! Copies that take long: aborted, failed, and continued after a restart.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use strongroom_azure::{AccountKey, AccountName, AccountSas, Resource, Sas, SasKind};
use strongroom_base::{Clock as _, SystemClock, start_thread};

use crate::{client::Client, server::Server};

const SIZE: u64 = 4 << 20;

/// Another server, which has one blob of 4 MiB and gives its pages only while it is open.
struct Far {
    address: SocketAddr,
    open: Arc<AtomicBool>,
}

impl Far {
    fn start(open: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let address = listener.local_addr().expect("has an address");
        let open = Arc::new(AtomicBool::new(open));
        let gate = Arc::clone(&open);
        start_thread("far", move || {
            for stream in listener.incoming().flatten() {
                let gate = Arc::clone(&gate);
                start_thread("far", move || one(stream, &gate));
            }
        });
        Self { address, open }
    }

    fn url(&self, blob: &str) -> String {
        format!("http://{}/far/con/{blob}?sv=2020-12-06&sig=secret", self.address)
    }
}

fn byte_at(offset: u64) -> u8 {
    u8::try_from(offset / 512 % 251).expect("is small")
}

fn one(stream: TcpStream, gate: &AtomicBool) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut range) = (String::new(), None);
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok().filter(|length| *length > 0)?;
            let Some((name, value)) = header.trim().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("x-ms-range") {
                let (start, last) = value.strip_prefix("bytes=")?.split_once('-')?;
                range = Some((start.parse::<u64>().ok()?, last.parse::<u64>().ok()?));
            }
        }
        let props = format!(
            "etag: \"0x1\"\r\nlast-modified: Sat, 28 Nov 2026 16:17:00 GMT\r\nx-ms-blob-type: {}\r\n",
            if line.contains("block") { "BlockBlob" } else { "PageBlob" }
        );
        if line.contains("/gone") && !line.starts_with("HEAD") {
            let gone = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
            reader.get_mut().write_all(gone).ok()?;
            continue;
        }
        let mut body = Vec::new();
        let mut length = SIZE;
        if line.contains("comp=pagelist") {
            body = format!(
                "<PageList><PageRange><Start>0</Start><End>{}</End></PageRange></PageList>",
                SIZE - 1
            )
            .into_bytes();
            length = u64::try_from(body.len()).ok()?;
        } else if let Some((start, last)) = range.filter(|_| line.starts_with("GET")) {
            // The first mebibyte comes at once, the rest when the gate opens.
            while start >= SIZE / 4 && !gate.load(Ordering::SeqCst) {
                SystemClock.sleep(Duration::from_millis(20));
            }
            body = (start..=last).map(byte_at).collect();
            length = last - start + 1;
        }
        let head = format!("HTTP/1.1 200 OK\r\n{props}content-length: {length}\r\n\r\n");
        reader.get_mut().write_all(head.as_bytes()).ok()?;
        reader.get_mut().write_all(&body).ok()?;
    }
}

fn begin(client: &Client, target: &str, url: &str) -> (u16, String, String) {
    let answer = client.ask("PUT", target, &[("x-ms-copy-source", url)], b"");
    let status = answer.header("x-ms-copy-status").to_owned();
    assert_eq!(answer.status, 202, "{}", answer.text());
    (answer.status, status, answer.header("x-ms-copy-id").to_owned())
}

/// Waits until the blob's copy has this status.
pub(crate) fn wait_for(
    client: &Client,
    target: &str,
    status: &str,
) -> std::collections::BTreeMap<String, String> {
    for _ in 0..600 {
        let head = client.ask("HEAD", target, &[], b"");
        if head.header("x-ms-copy-status") == status {
            return head.headers;
        }
        SystemClock.sleep(Duration::from_millis(50));
    }
    panic!("the copy of {target} does not become {status}")
}

#[test]
fn a_copy_from_another_server_is_aborted() {
    let server = Server::start();
    server.container("con");
    let far = Far::start(false);
    let (_, status, id) = begin(&server, "/con/a", &far.url("a"));
    assert_eq!(status, "pending");
    let again = server.ask("PUT", "/con/a", &[("x-ms-copy-source", &far.url("a"))], b"");
    assert_eq!(again.code(), (409, "PendingCopyOperation"));
    assert_eq!(server.put_page("/con/a", 0, &[1; 512]).code(), (409, "PendingCopyOperation"));
    let wrong = "/con/a?comp=copy&copyid=5f5f3a2e-1d0c-4b8a-9c7d-0a1b2c3d4e5f";
    let headers = [("x-ms-copy-action", "abort")];
    assert_eq!(server.ask("PUT", wrong, &headers, b"").code(), (409, "CopyIdMismatch"));
    let own = format!("/con/a?comp=copy&copyid={id}");
    assert_eq!(server.ask("PUT", &own, &headers, b"").status, 204);
    let found = wait_for(&server, "/con/a", "aborted");
    assert_eq!(found["content-length"], "0");
    assert!(!format!("{found:?}").contains("secret"), "{found:?}");
    assert_eq!(server.ask("PUT", &own, &headers, b"").code(), (409, "NoPendingCopyOperation"));
    // Its note goes after the answer.
    let notes = || std::fs::read_dir(server.data().join("copies")).expect("reads").count();
    for _ in 0..100 {
        if notes() == 0 {
            return;
        }
        SystemClock.sleep(Duration::from_millis(50));
    }
    panic!("the note of a copy that was aborted stays");
}

#[test]
fn a_copy_continues_when_the_server_starts_again() {
    let server = Server::start();
    server.container("con");
    let far = Far::start(false);
    begin(&server, "/con/a", &far.url("a"));
    for _ in 0..200 {
        let progress =
            server.ask("HEAD", "/con/a", &[], b"").header("x-ms-copy-progress").to_owned();
        if progress == format!("{}/{SIZE}", SIZE / 4) {
            break;
        }
        SystemClock.sleep(Duration::from_millis(50));
    }
    let server = server.restart();
    let head = server.ask("HEAD", "/con/a", &[], b"");
    assert_eq!(head.header("x-ms-copy-status"), "pending");
    assert_eq!(head.header("x-ms-copy-progress"), format!("{}/{SIZE}", SIZE / 4));
    far.open.store(true, Ordering::SeqCst);
    wait_for(&server, "/con/a", "success");
    let content = server.ask("GET", "/con/a", &[], b"").body;
    assert!(content.iter().zip(0..).all(|(byte, offset)| *byte == byte_at(offset)));
    assert_eq!(std::fs::read_dir(server.data().join("copies")).expect("reads").count(), 0);
}

#[test]
fn what_cannot_be_copied_is_refused_before_it_begins() {
    let server = Server::start();
    server.container("con");
    let far = Far::start(true);
    let copy = |url: &str| {
        let answer = server.ask("PUT", "/con/x", &[("x-ms-copy-source", url)], b"");
        (answer.status, answer.header("x-ms-error-code").to_owned())
    };
    let expected = |status, code: &str| (status, code.to_owned());
    assert_eq!(copy("http://127.0.0.1:1/far/con/a"), expected(404, "CannotVerifyCopySource"));
    assert_eq!(copy("ftp://127.0.0.1/far/con/a"), expected(400, "InvalidHeaderValue"));
    assert_eq!(server.ask("HEAD", "/con/x", &[], b"").status, 404);
    begin(&server, "/con/x", &far.url("a"));
    wait_for(&server, "/con/x", "success");
}

#[test]
fn pages_come_from_another_server() {
    let server = Server::start();
    server.container("con");
    server.page_blob("/con/a", 1 << 20);
    let far = Far::start(true);
    let put = |range: &str, source: &str| {
        let url = far.url("a");
        let headers = [
            ("x-ms-page-write", "update"),
            ("x-ms-range", range),
            ("x-ms-source-range", source),
            ("x-ms-copy-source", &*url),
        ];
        let answer = server.ask("PUT", "/con/a?comp=page", &headers, b"");
        (answer.status, answer.header("x-ms-error-code").to_owned())
    };
    assert_eq!(put("bytes=0-1023", "bytes=512-1535"), (201, String::new()));
    let read = server.ask("GET", "/con/a", &[("x-ms-range", "bytes=0-1023")], b"");
    assert_eq!((read.status, read.body[0], read.body[512]), (206, 1, 2));
    assert_eq!(put("bytes=0-1023", "bytes=512-1023").0, 400);
}

/// The URL of a blob of `acct`, with a signature that lets others read it.
pub(crate) fn shared(server: &Server, path: &str) -> String {
    let account = AccountName::new("acct").expect("a name");
    let key = AccountKey::parse(&server.keys["acct"]).expect("a key");
    let kind = SasKind::Account(AccountSas { services: "b".into(), resource_types: "o".into() });
    let sas = Sas::new(kind, "r", SystemClock.now() + Duration::from_hours(1));
    let query = sas.sign(&account, &key, &Resource::Account, None).expect("signs");
    let joint = if path.contains('?') { '&' } else { '?' };
    format!("http://{}/acct{path}{joint}{query}", server.address)
}

fn ranges(server: &Server, path: &str) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    let list = server.ask("GET", &format!("{path}{joint}comp=pagelist"), &[], b"");
    assert_eq!(list.status, 200, "{}", list.text());
    let text = list.text();
    text.split_once("<PageList>").map_or(String::new(), |(_, rest)| rest.to_owned())
}

#[test]
fn two_servers_copy_whole_blobs_and_what_differs() {
    let (from, to) = (Server::start(), Server::start());
    from.container("con");
    to.container("con");
    from.page_blob("/con/disk", 64 << 20);
    // More ranges than one part of a list has, and a large one.
    for block in 0..1100 {
        assert_eq!(from.put_page("/con/disk", block * 4096, &[7; 512]).status, 201);
    }
    assert_eq!(from.put_page("/con/disk", 32 << 20, &vec![8; 4 << 20]).status, 201);
    let snapshot = || {
        let taken = from.ask("PUT", "/con/disk?comp=snapshot", &[], b"");
        format!("/con/disk?snapshot={}", taken.header("x-ms-snapshot").replace(':', "%3A"))
    };
    let first = snapshot();
    begin(&to, "/con/whole", &shared(&from, &first));
    wait_for(&to, "/con/whole", "success");
    assert_eq!(ranges(&to, "/con/whole"), ranges(&from, &first));
    let content = |server: &Server, path: &str| server.ask("GET", path, &[], b"").body;
    assert!(content(&to, "/con/whole") == content(&from, &first));

    let increment = |source: &str| {
        let url = shared(&from, source);
        let path = "/con/backup?comp=incrementalcopy";
        let begun = to.ask("PUT", path, &[("x-ms-copy-source", &url)], b"");
        assert_eq!(begun.status, 202, "{}", begun.text());
        let done = wait_for(&to, "/con/backup", "success");
        assert_eq!(done["x-ms-incremental-copy"], "true");
        format!(
            "/con/backup?snapshot={}",
            done["x-ms-copy-destination-snapshot"].replace(':', "%3A")
        )
    };
    let one = increment(&first);
    let clear = [("x-ms-page-write", "clear"), ("x-ms-range", "bytes=0-4095")];
    assert_eq!(from.ask("PUT", "/con/disk?comp=page", &clear, b"").status, 201);
    assert_eq!(from.put_page("/con/disk", 48 << 20, &[9; 512]).status, 201);
    let second = snapshot();
    let two = increment(&second);
    assert!(content(&to, &one) == content(&from, &first));
    assert!(content(&to, &two) == content(&from, &second));
    let previous = one.replace("/con/backup?snapshot=", "&prevsnapshot=");
    let previous_source = first.replace("/con/disk?snapshot=", "&prevsnapshot=");
    assert_eq!(
        ranges(&to, &format!("{two}{previous}")),
        ranges(&from, &format!("{second}{previous_source}"))
    );
    // The snapshot that was copied last is gone: the next difference cannot be listed.
    let third = snapshot();
    assert_eq!(from.ask("DELETE", &second, &[], b"").status, 202);
    let url = shared(&from, &third);
    let path = "/con/backup?comp=incrementalcopy";
    let refused = to.ask("PUT", path, &[("x-ms-copy-source", &url)], b"");
    assert_eq!(refused.code(), (409, "IncrementalCopyBlobPreviousSnapshotDoesNotExist"));
}

#[test]
fn a_copy_whose_source_is_gone_fails_and_says_why() {
    let server = Server::start();
    server.container("con");
    let far = Far::start(true);
    begin(&server, "/con/a", &far.url("gone"));
    let found = wait_for(&server, "/con/a", "failed");
    let description = &found["x-ms-copy-status-description"];
    assert!(description.starts_with("404 CannotVerifyCopySource"), "{description}");
    assert!(!format!("{found:?}").contains("secret"), "{found:?}");
    // The blob can be used again.
    server.page_blob("/con/a", 512);
}

#[test]
fn a_blob_is_not_copied_over_itself() {
    let server = Server::start();
    server.container("con");
    server.page_blob("/con/disk", 4096);
    assert_eq!(server.put_page("/con/disk", 0, &[3; 512]).status, 201);
    let url = shared(&server, "/con/disk");
    // By its own name, and by another one of this server.
    for source in [url.clone(), url.replace("127.0.0.1", "localhost")] {
        let copied = server.ask("PUT", "/con/disk", &[("x-ms-copy-source", &source)], b"");
        assert_eq!(copied.code(), (400, "InvalidHeaderValue"), "{}", copied.text());
    }
    assert_eq!(server.ask("GET", "/con/disk", &[], b"").body[..512], [3; 512]);
}

#[test]
fn a_source_without_a_right_is_refused() {
    let (from, to) = (Server::start(), Server::start());
    from.container("con");
    to.container("con");
    from.page_blob("/con/disk", 512);
    let url = shared(&from, "/con/disk");
    let copy = |url: &str| {
        let answer = to.ask("PUT", "/con/x", &[("x-ms-copy-source", url)], b"");
        (answer.status, answer.header("x-ms-error-code").to_owned())
    };
    let refused = (403, "CannotVerifyCopySource".to_owned());
    assert_eq!(copy(&url.replace("sig=", "sig=AA")), refused);
    assert_eq!(copy(url.split_once('?').expect("a query").0), refused);
    let missing = (404, "CannotVerifyCopySource".to_owned());
    assert_eq!(copy(&shared(&from, "/con/missing")), missing);
    begin(&to, "/con/x", &url);
    wait_for(&to, "/con/x", "success");
}
