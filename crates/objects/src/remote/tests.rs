//! What the client does with a server that misbehaves, against a server that does so exactly.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use strongroom_base::{Clock as _, Coded, SystemClock, codes};

use super::*;

/// What the server does with the next request.
#[derive(Clone)]
enum Act {
    /// Answers with a status and a body.
    Say(u16, &'static str),
    /// Does the put, and closes the connection instead of answering.
    DoAndHangUp,
    /// Never answers.
    Hang,
    /// Promises more bytes than it sends.
    Truncate,
    /// Behaves.
    Work,
}

/// A server of one bucket that follows a script, and then behaves.
struct Server {
    url: String,
    requests: Arc<AtomicUsize>,
    stored: Arc<Mutex<Option<Vec<u8>>>>,
}

impl Server {
    fn start(script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(AtomicUsize::new(0));
        let stored = Arc::new(Mutex::new(None));
        let server = Self {
            url: format!("s3://bucket/p?endpoint=http://{address}"),
            requests: Arc::clone(&requests),
            stored: Arc::clone(&stored),
        };
        strongroom_base::start_thread("serves", move || {
            let mut script = script.into_iter();
            let mut hanging = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let Some((head, body)) = request(&mut stream) else { continue };
                requests.fetch_add(1, Ordering::Relaxed);
                let mut stored = stored.lock().expect("a lock");
                match script.next().unwrap_or(Act::Work) {
                    Act::Say(status, body) => answer(&mut stream, status, body.as_bytes(), 0),
                    Act::Hang => hanging.push(stream),
                    Act::Truncate => answer(&mut stream, 200, b"short", 100),
                    Act::DoAndHangUp => *stored = Some(body),
                    Act::Work => work(&mut stream, &head, body, &mut stored),
                }
            }
        });
        server
    }

    fn open(&self) -> Remote {
        Self::open_at(&self.url)
    }

    fn open_at(url: &str) -> Remote {
        let options = Options {
            attempts: 4,
            request_timeout: Duration::from_millis(300),
            environment: vec![
                ("AWS_ACCESS_KEY_ID".to_owned(), "id".to_owned()),
                ("AWS_SECRET_ACCESS_KEY".to_owned(), "SECRET".to_owned()),
            ],
            ..Options::default()
        };
        Remote::open(url, &options).expect("a URL")
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    fn store(&self, body: &[u8]) {
        *self.stored.lock().expect("a lock") = Some(body.to_vec());
    }
}

/// Reads one request: its head in lower case, and its body.
fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
    stream.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn answer(stream: &mut TcpStream, status: u16, body: &[u8], more: usize) {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\netag: \"1\"\r\nlast-modified: Sun, 22 Nov 2026 00:00:00 GMT\r\nconnection: close\r\n\r\n",
        body.len() + more
    );
    stream.write_all(head.as_bytes()).ok();
    stream.write_all(body).ok();
}

fn work(stream: &mut TcpStream, head: &str, body: Vec<u8>, stored: &mut Option<Vec<u8>>) {
    match (head.split_whitespace().next(), stored.as_ref()) {
        (Some("put"), Some(_)) => answer(stream, 412, b"", 0),
        (Some("put"), None) => {
            *stored = Some(body);
            answer(stream, 200, b"", 0);
        }
        (Some("head"), Some(have)) => answer(stream, 200, b"", have.len()),
        (Some("get"), Some(have)) => answer(stream, 200, &have.clone(), 0),
        (Some("delete"), _) => {
            *stored = None;
            answer(stream, 204, b"", 0);
        }
        _ => answer(stream, 404, b"", 0),
    }
}

fn key() -> Key {
    Key::new("a").expect("a key")
}

#[test]
fn passing_faults_are_tried_again() {
    for act in [Act::Say(503, "SlowDown"), Act::Say(429, ""), Act::Say(500, ""), Act::Hang] {
        let server = Server::start(vec![act.clone()]);
        assert_eq!(server.open().put_new(&key(), b"body").expect("a put"), Put::Created);
        assert_eq!(server.requests(), 2);
        let server = Server::start(vec![act]);
        server.store(b"body");
        assert_eq!(server.open().get(&key(), 4).expect("a get"), b"body");
    }
    let server = Server::start(vec![Act::Truncate]);
    server.store(b"body");
    assert_eq!(server.open().get(&key(), 1000).expect("a get"), b"body");
}

#[test]
fn a_put_whose_answer_was_lost_was_created() {
    let server = Server::start(vec![Act::DoAndHangUp]);
    assert_eq!(server.open().put_new(&key(), b"body").expect("a put"), Put::Created);
}

/// A page of a listing.
fn page(names: &[&str], more: bool) -> Act {
    let objects = names.iter().map(|name| {
        format!(
            "<Contents><Key>p/{name}</Key><LastModified>2026-11-22T00:00:00.000Z</LastModified>\
             <ETag>1</ETag><Size>1</Size></Contents>"
        )
    });
    let objects = objects.collect::<String>();
    let token = if more { "<NextContinuationToken>t</NextContinuationToken>" } else { "" };
    let text = format!(
        "<ListBucketResult><IsTruncated>{more}</IsTruncated>{token}{objects}</ListBucketResult>"
    );
    Act::Say(200, text.leak())
}

fn listed(server: &Server) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    let mut visit = |entry: Entry| {
        names.push(entry.key.to_string());
        ControlFlow::Continue(())
    };
    server.open().list("", &mut visit).map(|()| names)
}

#[test]
fn a_listing_goes_on_after_a_fault_and_shows_each_object_once() {
    let fault = || Act::Say(503, "SlowDown");
    for second in [
        vec![page(&["c", "d"], false)],
        // A store that ignores from where it shall go on.
        vec![page(&["a", "b"], true), page(&["c", "d"], false)],
        vec![page(&["a", "b", "c"], true), fault(), page(&["a", "b", "c", "d"], false)],
    ] {
        let script = [vec![page(&["a", "b"], true), fault()], second].concat();
        let server = Server::start(script);
        assert_eq!(listed(&server).expect("a list"), ["a", "b", "c", "d"]);
    }
    // One that does not list by name begins again: behind the last name some would be missing.
    let again = page(&["c", "a", "d", "b"], false);
    let server = Server::start(vec![page(&["c", "a"], true), fault(), again]);
    assert_eq!(listed(&server).expect("a list"), ["c", "a", "d", "b"]);
}

#[test]
fn a_listing_that_does_not_get_on_ends() {
    let script = [page(&["a", "b"], true), Act::Say(503, "SlowDown")];
    let server = Server::start(script.iter().cycle().take(100).cloned().collect());
    let error = listed(&server).expect_err("it never gets on");
    assert_eq!(error.code(), &codes::STORE_UNAVAILABLE, "{error:?}");
    assert!(server.requests() <= 2 * 4, "{}", server.requests());
}

#[test]
fn a_part_of_a_listing_ends_where_it_shall_unless_the_store_does_not_list_by_name() {
    let part = |script: Vec<Act>, bucket: &str| {
        let server = Server::start(script);
        let mut url = server.url.clone();
        url = url.replacen("//bucket", &format!("//{bucket}"), 1);
        let store = Server::open_at(&url);
        let mut names = Vec::new();
        let mut visit = |entry: Entry| {
            names.push(entry.key.to_string());
            ControlFlow::Continue(())
        };
        let bound = |name: &str| Some(Key::new(name).expect("a key"));
        let (after, until) = (bound("a"), bound("c"));
        store.list_between("", after.as_ref(), until.as_ref(), &mut visit).expect("a list");
        (names, server.requests())
    };
    // The second page is not asked for.
    let pages = || vec![page(&["b", "c", "d"], true), page(&["e"], false)];
    assert_eq!(part(pages(), "bucket"), (vec!["b".to_owned(), "c".to_owned()], 1));
    // One without an order is gone through, whether it says so by its name or by what it shows.
    let pages = || vec![page(&["d", "b"], true), page(&["a", "c"], false)];
    let both = vec!["b".to_owned(), "c".to_owned()];
    assert_eq!(part(pages(), "zone--x-s3"), (both, 2));
    let pages = || vec![page(&["c", "b", "d"], true), page(&["bb"], false)];
    let (mut names, requests) = part(pages(), "bucket");
    names.sort_unstable();
    assert_eq!((names.join(" ").as_str(), requests), ("b bb c", 2));
}

#[test]
fn many_objects_are_deleted_with_one_request_or_else_each_with_its_own() {
    let keys: Vec<Key> = (0..3).map(|n| Key::new(format!("k{n}")).expect("a key")).collect();
    for (answer, requests) in [
        (
            Act::Say(
                200,
                "<DeleteResult><Deleted><Key>p/k0</Key></Deleted><Deleted><Key>p/k1</Key></Deleted>\
                 <Deleted><Key>p/k2</Key></Deleted></DeleteResult>",
            ),
            1,
        ),
        (Act::Say(501, "<Code>NotImplemented</Code>"), 4),
        (Act::Say(400, "<Code>MissingContentMD5</Code>"), 4),
        (
            Act::Say(
                200,
                "<DeleteResult><Error><Key>p/k1</Key><Code>InternalError</Code><Message>no</Message>\
                 </Error></DeleteResult>",
            ),
            4,
        ),
    ] {
        let server = Server::start(vec![answer]);
        let store = server.open();
        store.delete_all(&keys).expect("deletes");
        assert_eq!(server.requests(), requests);
    }
    // What cannot be deleted is told.
    let script = vec![Act::Say(501, "no"), Act::Say(403, "<Code>AccessDenied</Code>")];
    let server = Server::start([script, vec![Act::Say(403, "no"); 9]].concat());
    let error = server.open().delete_all(&keys).expect_err("denied");
    assert_eq!(error.code(), &codes::STORE_DENIED, "{error:?}");
}

#[test]
fn others_bytes_are_not_taken_for_ones_own() {
    // Without a lost answer even the same bytes are another's.
    let server = Server::start(vec![]);
    server.store(b"body");
    assert_eq!(server.open().put_new(&key(), b"body").expect("a put"), Put::Exists);
    // After a fault, other bytes are another's.
    let server = Server::start(vec![Act::Say(503, "")]);
    server.store(b"else");
    assert_eq!(server.open().put_new(&key(), b"body").expect("a put"), Put::Exists);
}

#[test]
fn two_puts_that_disturbed_one_another_are_tried_again() {
    let server = Server::start(vec![Act::Say(409, "ConditionalRequestConflict")]);
    assert_eq!(server.open().put_new(&key(), b"body").expect("a put"), Put::Created);
}

#[test]
fn a_store_that_keeps_failing_is_unavailable_in_bounded_time() {
    let started = SystemClock.monotonic();
    for act in [Act::Say(503, "down for ever"), Act::Hang, Act::Truncate] {
        let server = Server::start(vec![act; 20]);
        server.store(b"body");
        let error = server.open().get(&key(), 1000).expect_err("a fault");
        assert_eq!(error.code(), &codes::STORE_UNAVAILABLE, "{error:?}");
        assert!(server.requests() <= 4);
    }
    let took = SystemClock.monotonic().saturating_sub(started);
    assert!(took < Duration::from_secs(20), "{took:?}");
}

/// The status of an answer is only known from the library's message.
#[test]
fn each_status_means_what_it_should() {
    for (status, body, code, requests) in [
        (400, "no", &codes::STORE_UNAVAILABLE, 1),
        (401, "no", &codes::STORE_DENIED, 1),
        (403, "<Code>AccessDenied</Code>", &codes::STORE_DENIED, 1),
        (403, "<Code>QuotaExceeded</Code>", &codes::STORE_FULL, 1),
        (404, "<Code>NoSuchBucket</Code>", &codes::URL_INVALID, 1),
        (501, "no conditional puts", &codes::STORE_PROTOCOL, 1),
        (502, "no", &codes::STORE_UNAVAILABLE, 4),
        (507, "no", &codes::STORE_FULL, 1),
    ] {
        let server = Server::start(vec![Act::Say(status, body); 20]);
        let error = server.open().put_new(&key(), b"body").expect_err("a refusal");
        assert_eq!(error.code(), code, "{status}: {error:?}");
        assert_eq!(server.requests(), requests, "{status}");
        let shown = format!("{error:?} {:?}", server.open());
        assert!(!shown.contains("SECRET"), "{shown}");
        assert!(!body.contains(' ') || !shown.contains(body), "{shown}");
    }
    let server = Server::start(vec![]);
    let error = server.open().get(&key(), 9).expect_err("nothing there");
    assert!(matches!(error, StoreError::Missing { .. }), "{error:?}");
}

#[test]
fn no_server_is_unavailable_and_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let url = format!("s3://bucket?endpoint=http://{address}&anonymous=true");
    let store = Remote::open(&url, &Options { attempts: 1, ..Options::default() }).expect("a URL");
    let error = store.get(&key(), 1).expect_err("no server");
    assert!(format!("{error:?}").contains("refused"), "{error:?}");
}

#[test]
fn http_has_to_be_asked_for() {
    let environment = vec![("AWS_ENDPOINT".to_owned(), "http://127.0.0.1:1".to_owned())];
    let options = Options { attempts: 1, environment, ..Options::default() };
    let store = Remote::open("s3://bucket?anonymous=true", &options).expect("a URL");
    let error = store.get(&key(), 1).expect_err("no plain HTTP");
    assert!(format!("{error:?}").contains("not allowed"), "{error:?}");
}
