//! Details of the wire: bodies that are late, short or long, heads, and answers to what is not valid.

use std::time::Duration;

use strongroom_azure::{Decoder, Encoder, STRUCTURED, crc64, encode_crc64};
use strongroom_base::{Clock as _, SystemClock};

use crate::server::Server;

fn with_blob() -> Server {
    let server = Server::start();
    server.container("con");
    server.page_blob("/con/a", 1 << 20);
    server
}

#[test]
fn every_answer_repeats_what_clients_look_for() {
    let server = with_blob();
    let id = [("x-ms-client-request-id", "mine-1"), ("x-ms-version", "2099-01-01")];
    for (method, path) in [("GET", "/con/a"), ("HEAD", "/con/a"), ("GET", "/con/missing")] {
        let answer = server.ask(method, path, &id, b"");
        assert_eq!(answer.header("x-ms-client-request-id"), "mine-1");
        assert_eq!(answer.header("x-ms-version"), "2099-01-01");
        assert_eq!(answer.header("x-ms-request-id").len(), 36);
        assert!(answer.header("server").starts_with("Strongroom-Blob/"));
        assert!(answer.header("date").ends_with("GMT"));
    }
    let missing = server.ask("GET", "/con/missing", &[], b"");
    assert_eq!(missing.code(), (404, "BlobNotFound"));
    assert!(missing.text().contains("<Code>BlobNotFound</Code>"), "{}", missing.text());
}

#[test]
fn a_head_has_the_length_and_no_body() {
    let server = with_blob();
    let head = server.ask("HEAD", "/con/a", &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, "1048576"));
    let missing = server.ask("HEAD", "/con/missing", &[], b"");
    assert_eq!(missing.code(), (404, "BlobNotFound"));
    // The connection continues after both.
    let host = server.address.to_string();
    let request = server.signed("acct", "HEAD", "/acct/con/a", &[("host", &host)], 0);
    let mut connection = server.connect();
    for _ in 0..3 {
        connection.send(&request);
        assert_eq!(connection.answer(true).expect("an answer").status, 200);
    }
}

#[test]
fn ranges_are_answered_in_part_and_whole_blobs_are_not() {
    let server = with_blob();
    let data: Vec<u8> = (0..2048_u32).map(|n| u8::try_from(n % 251).expect("is small")).collect();
    assert_eq!(server.put_page("/con/a", 512, &data).status, 201);
    let read = |range: &str| server.ask("GET", "/con/a", &[("x-ms-range", range)], b"");
    let part = read("bytes=600-2999");
    assert_eq!((part.status, part.header("content-range")), (206, "bytes 600-2999/1048576"));
    assert_eq!(part.body[..1960], data[88..]);
    assert!(part.body[1960..].iter().all(|byte| *byte == 0));
    assert_eq!(read("bytes=1048000-9999999").body.len(), 576);
    assert_eq!(read("bytes=1048576-").code(), (416, "InvalidRange"));
    let whole = server.ask("GET", "/con/a", &[], b"");
    assert_eq!((whole.status, whole.body.len()), (200, 1 << 20));
    let md5 = [("x-ms-range", "bytes=512-2559"), ("x-ms-range-get-content-md5", "true")];
    let checked = server.ask("GET", "/con/a", &md5, b"");
    assert_eq!(checked.header("content-md5").len(), 24);
}

#[test]
fn a_body_is_asked_for_when_the_client_waits() {
    let server = with_blob();
    let host = server.address.to_string();
    let headers = [
        ("host", &*host),
        ("x-ms-page-write", "update"),
        ("x-ms-range", "bytes=0-511"),
        ("expect", "100-continue"),
    ];
    let head = server.signed("acct", "PUT", "/acct/con/a?comp=page", &headers, 512);
    let mut connection = server.connect();
    connection.send(&head);
    assert_eq!(connection.line().as_deref(), Some("HTTP/1.1 100 Continue"));
    assert_eq!(connection.line().as_deref(), Some(""));
    connection.send(&[7; 512]);
    assert_eq!(connection.answer(false).expect("an answer").status, 201);
    // What is refused is refused before the body.
    let head = String::from_utf8(head).expect("text").replace("bytes=0-511", "bytes=0-510");
    let mut connection = server.connect();
    connection.send(head.as_bytes());
    assert_eq!(connection.answer(false).expect("an answer").status, 416);
}

#[test]
fn a_refused_body_is_read_so_that_the_answer_is_seen() {
    let server = with_blob();
    let data = vec![1; 9 << 20];
    let answer = server.put_page("/con/a", 0, &data);
    assert_eq!(answer.code(), (413, "RequestBodyTooLarge"));
    let answer = server.put_page("/con/missing", 0, &data[..1 << 20]);
    assert_eq!(answer.code(), (404, "BlobNotFound"));
}

#[test]
fn a_short_body_changes_nothing_and_a_slow_one_is_waited_for() {
    let server = with_blob();
    let host = server.address.to_string();
    let headers = [("host", &*host), ("x-ms-page-write", "update"), ("x-ms-range", "bytes=0-1023")];
    let head = server.signed("acct", "PUT", "/acct/con/a?comp=page", &headers, 1024);
    let mut short = server.connect();
    short.send(&head);
    short.send(&[1; 1000]);
    drop(short);
    let mut slow = server.connect();
    slow.send(&head);
    for _ in 0..4 {
        SystemClock.sleep(Duration::from_millis(100));
        slow.send(&[2; 256]);
    }
    assert_eq!(slow.answer(false).expect("an answer").status, 201);
    let read = server.ask("GET", "/con/a", &[("x-ms-range", "bytes=0-1023")], b"");
    assert_eq!(read.body, [2; 1024]);
}

#[test]
fn bytes_behind_a_body_are_the_next_request() {
    let server = with_blob();
    let host = server.address.to_string();
    let headers = [("host", &*host), ("x-ms-page-write", "update"), ("x-ms-range", "bytes=0-511")];
    let head = server.signed("acct", "PUT", "/acct/con/a?comp=page", &headers, 512);
    let mut connection = server.connect();
    connection.send(&head);
    connection.send(&[3; 512]);
    connection.send(&head);
    connection.send(&[4; 512]);
    connection.send(b"nonsense\r\n\r\n");
    assert_eq!(connection.answer(false).expect("an answer").status, 201);
    assert_eq!(connection.answer(false).expect("an answer").status, 201);
    assert_eq!(connection.answer(false).map(|answer| answer.status), Some(400));
    let read = server.ask("GET", "/con/a", &[("x-ms-range", "bytes=0-511")], b"");
    assert_eq!(read.body, [4; 512]);
}

#[test]
fn a_write_without_length_and_wrong_methods_are_refused() {
    let server = with_blob();
    let host = server.address.to_string();
    let headers = [("host", &*host), ("x-ms-page-write", "update"), ("x-ms-range", "bytes=0-511")];
    let head = server.signed("acct", "PUT", "/acct/con/a?comp=page", &headers, 512);
    let chunked = String::from_utf8(head).expect("text");
    let chunked = chunked.replace("content-length: 512", "transfer-encoding: chunked");
    let mut connection = server.connect();
    connection.send(chunked.as_bytes());
    connection.send(b"3\r\nabc\r\n0\r\n\r\n");
    let answer = connection.answer(false).expect("an answer");
    assert_eq!(answer.code(), (411, "MissingContentLengthHeader"));
    let post = server.ask("POST", "/con/a", &[], b"");
    assert_eq!(post.status, 405, "{}", post.text());
    let unknown = server.ask("PUT", "/con/a?comp=legalhold", &[("x-ms-legal-hold", "false")], b"");
    assert_eq!(unknown.code(), (400, "InvalidQueryParameterValue"));
    let account = server.ask_as("acct", "GET", "/nobody/?comp=list", &[], b"");
    assert_eq!(account.code(), (404, "AccountNotFound"));
}

#[test]
fn hosts_name_accounts_too() {
    let server = with_blob();
    for (host, target, status) in [
        ("acct.blob.localhost", "/con/a", 200),
        ("ACCT.blob.localhost:10000", "/con/a", 200),
        ("acct-secondary.blob.localhost", "/con/a", 403),
        ("elsewhere", "/acct/con/a", 200),
        ("elsewhere", "/acct-secondary/con/a", 403),
    ] {
        let answer = server.ask_as("acct", "GET", target, &[("host", host)], b"");
        assert_eq!(answer.status, status, "{host}{target}: {}", answer.text());
    }
    let geo = server.ask_as("geo", "GET", "/geo-secondary/?comp=list", &[], b"");
    assert_eq!(geo.status, 200, "{}", geo.text());
    let geo = server.ask_as("geo", "PUT", "/geo-secondary/con?restype=container", &[], b"");
    assert_eq!(geo.code(), (403, "InsufficientAccountPermissions"));
}

#[test]
fn a_list_of_ranges_is_whole_without_a_maximum() {
    let server = with_blob();
    server.page_blob("/con/sparse", 32 << 20);
    // Every second page: more ranges than the server reads at once, which is 10,000.
    let (count, writers) = (10_240, 16);
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let server = &server;
            scope.spawn(move || {
                for page in (writer..count).step_by(writers) {
                    assert_eq!(server.put_page("/con/sparse", page * 1024, &[1; 512]).status, 201);
                }
            });
        }
    });
    let all = server.ask("GET", "/con/sparse?comp=pagelist", &[], b"").text();
    assert!(all.ends_with("</PageList>") && !all.contains("NextMarker"));
    let starts: Vec<usize> = all
        .split("<Start>")
        .skip(1)
        .map(|range| range.split_once('<').expect("ends").0.parse().expect("a number"))
        .collect();
    assert!(starts.iter().copied().eq((0..count).map(|page| page * 1024)), "{}", starts.len());
    let mut marker = String::new();
    let mut found = 0;
    loop {
        let path = format!("/con/sparse?comp=pagelist&maxresults=2048{marker}");
        let part = server.ask("GET", &path, &[], b"").text();
        found += part.matches("<PageRange>").count();
        let Some((_, rest)) = part.split_once("<NextMarker>") else { break };
        marker = format!("&marker={}", rest.split_once('<').expect("ends").0);
    }
    assert_eq!(found, count);
}

#[test]
fn changes_of_several_kinds_at_once_happen_all_or_not_at_all() {
    let server = with_blob();
    let set = |headers: &[(&str, &str)]| server.ask("PUT", "/con/a?comp=properties", headers, b"");
    let found = || {
        let head = server.ask("HEAD", "/con/a", &[], b"");
        let names = ["content-length", "x-ms-blob-sequence-number", "content-type"];
        names.map(|name| head.header(name).to_owned())
    };
    let (size, kind) = (("x-ms-blob-content-length", "512"), ("x-ms-blob-content-type", "x/disk"));
    let number = |text| ("x-ms-blob-sequence-number", text);
    let answer = set(&[size, kind, ("x-ms-sequence-number-action", "update"), number("9")]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(found(), ["512", "9", "x/disk"]);
    let most = number("9223372036854775807");
    assert_eq!(set(&[("x-ms-sequence-number-action", "max"), most]).status, 200);
    let larger = ("x-ms-blob-content-length", "1024");
    let answer = set(&[larger, ("x-ms-sequence-number-action", "increment")]);
    assert_eq!(answer.code(), (409, "SequenceNumberIncrementTooLarge"));
    assert_eq!(found(), ["512", most.1, "x/disk"]);
}

#[test]
fn slow_and_idle_clients_keep_nobody_out() {
    let server = with_blob();
    let host = server.address.to_string();
    let idle: Vec<_> = (0..300).map(|_| server.connect()).collect();
    // More large bodies than there is memory for, which do not come.
    let headers =
        [("host", &*host), ("x-ms-page-write", "update"), ("x-ms-range", "bytes=0-1048575")];
    let head = server.signed("acct", "PUT", "/acct/con/a?comp=page", &headers, 1 << 20);
    let slow: Vec<_> = (0..80)
        .map(|_| {
            let mut connection = server.connect();
            connection.send(&head);
            connection.send(&[1; 100]);
            connection
        })
        .collect();
    SystemClock.sleep(Duration::from_millis(200));
    let began = SystemClock.monotonic();
    assert_eq!(server.put_page("/con/a", 0, &[5; 4096]).status, 201);
    assert_eq!(server.ask("GET", "/con/a", &[], b"").body.len(), 1 << 20);
    let took = SystemClock.monotonic().saturating_sub(began);
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop((idle, slow));
    let read = server.ask("GET", "/con/a", &[("x-ms-range", "bytes=0-4095")], b"");
    assert_eq!(read.body, [5; 4096]);
}

#[test]
fn structured_bodies_are_checked_and_answered() {
    let server = with_blob();
    let content: Vec<u8> =
        (0..1_048_576_u32).map(|n| u8::try_from(n % 253).expect("is small")).collect();
    let mut body = Vec::new();
    let mut encoder = Encoder::new(1 << 20);
    encoder.encode(&content, &mut body);
    assert!(encoder.finish(&mut body));
    let form = ("x-ms-structured-body", STRUCTURED);
    let headers = [
        ("x-ms-page-write", "update"),
        ("x-ms-range", "bytes=0-1048575"),
        form,
        ("x-ms-structured-content-length", "1048576"),
    ];
    let put = |body: &[u8]| server.ask("PUT", "/con/a?comp=page", &headers, body);
    let mut damaged = body.clone();
    damaged[1000] ^= 1;
    assert_eq!(put(&damaged).code(), (400, "Crc64Mismatch"));
    let read = server.ask("GET", "/con/a", &[form], b"");
    assert_eq!(read.header("x-ms-structured-content-length"), "1048576");
    assert!(decoded(&read.body).iter().all(|byte| *byte == 0));
    let written = put(&body);
    assert_eq!((written.status, written.header("x-ms-structured-body")), (201, STRUCTURED));
    assert_eq!(written.header("x-ms-content-crc64"), encode_crc64(crc64(&content)));
    assert!(decoded(&server.ask("GET", "/con/a", &[form], b"").body) == content);
    let part = [form, ("x-ms-range", "bytes=512-700")];
    let part = server.ask("GET", "/con/a", &part, b"");
    assert_eq!((part.status, decoded(&part.body)), (206, content[512..701].to_vec()));
}

/// The content of a structured body.
fn decoded(body: &[u8]) -> Vec<u8> {
    // Of one segment: 13 + 10 bytes before the content, two checksums behind it.
    let length = u64::try_from(body.len() - 39).expect("fits");
    let mut decoder = Decoder::new(length + 39, length).expect("a body");
    let mut content = Vec::new();
    decoder.decode(body, |bytes| content.extend_from_slice(bytes)).expect("is whole");
    decoder.finish().expect("has its checksum");
    content
}

/// An answer over HTTPS, with a certificate that the server has made.
#[test]
fn connections_are_encrypted() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = strongroom_http::CertificateFiles::own(folder.path());
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    strongroom_http::ensure(&files, &names, SystemClock.now()).expect("is made");
    let certificate = strongroom_http::Shown::new(files).expect("is read");
    let server = Server::start_with(tempfile::tempdir().expect("a folder"), Some(certificate));
    let resource = strongroom_azure::Resource::Account;
    let account = strongroom_azure::AccountName::new("acct").expect("a name");
    let key = strongroom_azure::AccountKey::parse(&server.keys["acct"]).expect("a key");
    let sas = |protocol: &str| {
        let kind = strongroom_azure::SasKind::Account(strongroom_azure::AccountSas {
            services: "b".to_owned(),
            resource_types: "s".to_owned(),
        });
        let expiry = SystemClock.now() + Duration::from_hours(1);
        let mut sas = strongroom_azure::Sas::new(kind, "l", expiry);
        sas.protocol = Some(protocol.to_owned());
        sas.sign(&account, &key, &resource, None).expect("signs")
    };
    let client = reqwest::Client::builder()
        .danger_accept_invalid_certs(true)
        .no_proxy()
        .build()
        .expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runs");
    for protocol in ["https", "https,http"] {
        let url = format!("https://{}/acct/?comp=list&{}", server.address, sas(protocol));
        let answer = runtime.block_on(client.get(url).send()).expect("an answer");
        assert_eq!(answer.status().as_u16(), 200);
        let text = runtime.block_on(answer.text()).expect("text");
        assert!(text.contains(&format!("https://{}/acct/", server.address)), "{text}");
    }
}
