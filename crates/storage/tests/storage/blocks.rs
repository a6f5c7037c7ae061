//! Block blobs and append blobs on the wire: what real clients do not send, and what they hide.

use std::time::Duration;

use strongroom_azure::{Encoder, STRUCTURED, md5};
use strongroom_base::{Clock as _, SystemClock};

use crate::{client::Answer, server::Server};

const MIB: usize = 1 << 20;

fn with_container() -> Server {
    let server = Server::start();
    server.container("con");
    server
}

fn noise(len: usize) -> Vec<u8> {
    let word =
        |n: usize| (u64::try_from(n).expect("small") | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|n| word(n).to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

fn put(server: &Server, path: &str, kind: &str, data: &[u8]) -> Answer {
    server.ask("PUT", path, &[("x-ms-blob-type", kind)], data)
}

/// Base64 of ids of three letters.
fn block(server: &Server, path: &str, id: &str, data: &[u8]) -> Answer {
    server.ask("PUT", &format!("{path}?comp=block&blockid={id}"), &[], data)
}

fn commit(server: &Server, path: &str, list: &str, headers: &[(&str, &str)]) -> Answer {
    let body = format!("<?xml version=\"1.0\"?><BlockList>{list}</BlockList>");
    server.ask("PUT", &format!("{path}?comp=blocklist"), headers, body.as_bytes())
}

fn get(server: &Server, path: &str) -> Vec<u8> {
    let answer = server.ask("GET", path, &[], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.body
}

#[test]
fn answers_have_the_headers_that_their_operations_have() {
    let server = with_container();
    let whole = put(&server, "/con/a", "BlockBlob", b"hello");
    assert_eq!((whole.status, whole.header("x-ms-content-crc64").len()), (201, 12));
    assert!(whole.header("etag").starts_with("\"0x"));
    let staged = block(&server, "/con/a", "b25l", b"1");
    assert_eq!(
        (staged.status, staged.header("etag"), staged.header("last-modified")),
        (201, "", "")
    );
    let sum = [("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")];
    let checked = server.ask("PUT", "/con/a?comp=block&blockid=dHdv", &sum, b"hello");
    assert_eq!((checked.status, checked.header("content-md5")), (201, "XUFAKrxLKna5cZ2REBfFkg=="));
    let wrong = server.ask("PUT", "/con/a?comp=block&blockid=dHdv", &sum, b"other");
    assert_eq!(wrong.code(), (400, "Md5Mismatch"));
    let list = server.ask("GET", "/con/a?comp=blocklist&blocklisttype=all", &[], b"");
    assert_eq!(list.header("x-ms-blob-content-length"), "5");
    assert_eq!(list.header("etag"), whole.header("etag"));
    let text = list.text();
    assert!(text.contains("<Block><Name>b25l</Name><Size>1</Size></Block>"), "{text}");
    let head = server.ask("HEAD", "/con/a", &[], b"");
    assert_eq!(
        (head.header("x-ms-blob-type"), head.header("x-ms-access-tier")),
        ("BlockBlob", "Hot")
    );
    assert_eq!(head.header("x-ms-access-tier-inferred"), "true");
    assert_eq!(head.header("x-ms-blob-sequence-number"), "");
    put(&server, "/con/log", "AppendBlob", b"");
    let done = server.ask("PUT", "/con/log?comp=appendblock", &[], b"12345");
    assert_eq!((done.status, done.header("x-ms-blob-append-offset")), (201, "0"));
    assert_eq!(done.header("x-ms-blob-committed-block-count"), "1");
    let head = server.ask("HEAD", "/con/log", &[], b"");
    assert_eq!(head.header("x-ms-blob-committed-block-count"), "1");
    assert_eq!(
        (head.header("x-ms-blob-type"), head.header("x-ms-access-tier")),
        ("AppendBlob", "")
    );
}

#[test]
fn what_is_not_supported_is_refused_by_the_client_s_fault() {
    let server = with_container();
    put(&server, "/con/log", "AppendBlob", b"");
    let seal = server.ask("PUT", "/con/log?comp=seal", &[], b"");
    assert_eq!(seal.code(), (400, "InvalidQueryParameterValue"));
    let query = server.ask("POST", "/con/log?comp=query", &[], b"<QueryRequest/>");
    assert_eq!(query.code(), (400, "InvalidQueryParameterValue"));
    let tier = [("x-ms-access-tier", "Archive"), ("x-ms-blob-type", "BlockBlob")];
    let archive = server.ask("PUT", "/con/a", &tier, b"1");
    assert_eq!(archive.code(), (400, "BlobAccessTierNotSupportedForAccountType"));
    put(&server, "/con/a", "BlockBlob", b"1");
    let snapshot = server.ask("PUT", "/con/a?comp=snapshot", &[], b"");
    let id = snapshot.header("x-ms-snapshot").replace(':', "%3A");
    let target = format!("/con/a?comp=tier&snapshot={id}");
    let cool = server.ask("PUT", &target, &[("x-ms-access-tier", "Cool")], b"");
    assert_eq!(cool.code(), (400, "InvalidBlobTier"));
    let appended = server.ask("PUT", "/con/a?comp=appendblock", &[], b"1");
    assert_eq!(appended.code(), (409, "InvalidBlobType"));
}

#[test]
fn lists_say_where_each_block_is_in_any_order() {
    let server = with_container();
    block(&server, "/con/a", "b25l", b"old");
    assert_eq!(commit(&server, "/con/a", "<Latest>b25l</Latest>", &[]).status, 201);
    block(&server, "/con/a", "b25l", b"new");
    let mixed = "<Uncommitted>b25l</Uncommitted><Committed>b25l</Committed><Latest>b25l</Latest>";
    assert_eq!(commit(&server, "/con/a", mixed, &[]).status, 201);
    assert_eq!(get(&server, "/con/a"), b"newoldnew");
    let missing = commit(&server, "/con/a", "<Uncommitted>b25l</Uncommitted>", &[]);
    assert_eq!(missing.code(), (400, "InvalidBlockList"));
    assert_eq!(
        commit(&server, "/con/a", "<Latest>?</Latest>", &[]).code(),
        (400, "InvalidBlockId")
    );
    assert_eq!(commit(&server, "/con/a", "<Other>b25l</Other>", &[]).status, 400);
    assert_eq!(commit(&server, "/con/a", "<Latest>", &[]).code(), (400, "InvalidXmlDocument"));
    let long = "<Latest>b25l</Latest>".repeat(50_001);
    assert_eq!(commit(&server, "/con/a", &long, &[]).code(), (400, "BlockListTooLong"));
    assert_eq!(get(&server, "/con/a"), b"newoldnew");
    let many = "<Committed>b25l</Committed>".repeat(50_000);
    assert_eq!(commit(&server, "/con/a", &many, &[]).status, 201);
    assert_eq!(get(&server, "/con/a").len(), 150_000);
    let list = server.ask("GET", "/con/a?comp=blocklist", &[], b"");
    assert_eq!(list.text().matches("<Block>").count(), 50_000);
}

#[test]
fn limits_are_those_of_the_version() {
    let server = with_container();
    let old = [("x-ms-version", "2015-04-05")];
    let answer = server.ask("PUT", "/con/a?comp=block&blockid=b25l", &old, &noise(4 * MIB + 1));
    assert_eq!(answer.code(), (413, "RequestBodyTooLarge"));
    assert_eq!(block(&server, "/con/a", "b25l", &noise(4 * MIB + 1)).status, 201);
    put(&server, "/con/log", "AppendBlob", b"");
    let older = [("x-ms-version", "2022-10-01")];
    let append = server.ask("PUT", "/con/log?comp=appendblock", &older, &noise(4 * MIB + 1));
    assert_eq!(append.code(), (413, "RequestBodyTooLarge"));
    let append = server.ask("PUT", "/con/log?comp=appendblock", &[], &noise(4 * MIB + 1));
    assert_eq!(append.status, 201);
    assert_eq!(block(&server, "/con/a", "b25l", b"").code(), (400, "InvalidHeaderValue"));
    // 5,000 MiB may come, and one byte more may not: it is refused before it comes.
    let host = server.address.to_string();
    let headers = [("host", &*host), ("x-ms-blob-type", "BlockBlob"), ("expect", "100-continue")];
    for (length, wanted) in [(5000 * MIB, "HTTP/1.1 100 Continue"), (5000 * MIB + 1, "413")] {
        let head = server.signed("acct", "PUT", "/acct/con/huge", &headers, length);
        let mut connection = server.connect();
        connection.send(&head);
        let line = connection.line().unwrap_or_default();
        assert!(line.contains(wanted), "{line}");
    }
    assert_eq!(server.ask("HEAD", "/con/huge", &[], b"").status, 404);
}

/// What a client sends before it goes away is given back, and the blob stays as it was.
#[test]
fn a_body_that_breaks_off_leaves_nothing() {
    let server = with_container();
    put(&server, "/con/a", "BlockBlob", b"old");
    put(&server, "/con/log", "AppendBlob", b"");
    let used = || -> u64 {
        let files = std::fs::read_dir(server.data().join("blobs/data")).expect("reads");
        files
            .filter_map(|file| file.ok()?.metadata().ok())
            .map(|file| std::os::unix::fs::MetadataExt::blocks(&file) * 512)
            .sum()
    };
    let host = server.address.to_string();
    let data = noise(20 * MIB);
    for (target, headers) in [
        ("/acct/con/a", vec![("host", &*host), ("x-ms-blob-type", "BlockBlob")]),
        ("/acct/con/b?comp=block&blockid=b25l", vec![("host", &*host)]),
        ("/acct/con/log?comp=appendblock", vec![("host", &*host)]),
    ] {
        let head = server.signed("acct", "PUT", target, &headers, data.len());
        let mut connection = server.connect();
        connection.send(&head);
        connection.send(&data[..19 * MIB]);
        drop(connection);
    }
    // Their room is given back.
    for _ in 0..200 {
        SystemClock.sleep(Duration::from_millis(50));
        server.store().settle();
        if used() < 64 << 10 {
            break;
        }
    }
    assert!(used() < 64 << 10, "{} bytes", used());
    assert_eq!(get(&server, "/con/a"), b"old");
    assert_eq!(get(&server, "/con/log"), b"");
    assert_eq!(server.ask("GET", "/con/b?comp=blocklist", &[], b"").status, 404);
    let list =
        server.ask("GET", "/con?restype=container&comp=list&include=uncommittedblobs", &[], b"");
    assert_eq!(list.text().matches("<Blob>").count(), 2, "{}", list.text());
}

#[test]
fn a_wrong_checksum_of_a_long_body_leaves_the_old_blob() {
    let server = with_container();
    put(&server, "/con/a", "BlockBlob", b"old");
    let data = noise(9 * MIB);
    let sum = [("x-ms-blob-type", "BlockBlob"), ("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")];
    assert_eq!(server.ask("PUT", "/con/a", &sum, &data).code(), (400, "Md5Mismatch"));
    assert_eq!(get(&server, "/con/a"), b"old");
    assert_eq!(put(&server, "/con/a", "BlockBlob", &data).status, 201);
    let head = server.ask("HEAD", "/con/a", &[], b"");
    let wanted = strongroom_azure::Checksum::Md5(md5(&data)).to_header().1;
    assert_eq!(head.header("content-md5"), wanted);
}

#[test]
fn long_structured_bodies_are_decoded_and_checked() {
    let server = with_container();
    let data = noise(9 * MIB + 77);
    let mut body = Vec::new();
    let mut encoder = Encoder::new(u64::try_from(data.len()).expect("small"));
    encoder.encode(&data, &mut body);
    assert!(encoder.finish(&mut body));
    let length = data.len().to_string();
    let headers = [
        ("x-ms-blob-type", "BlockBlob"),
        ("x-ms-structured-body", STRUCTURED),
        ("x-ms-structured-content-length", &length),
    ];
    let answer = server.ask("PUT", "/con/a", &headers, &body);
    assert_eq!((answer.status, answer.header("x-ms-structured-body")), (201, STRUCTURED));
    assert!(get(&server, "/con/a") == data);
    body[6 * MIB] ^= 1;
    assert_eq!(server.ask("PUT", "/con/b", &headers, &body).status, 400);
    assert_eq!(server.ask("HEAD", "/con/b", &[], b"").status, 404);
}

#[test]
fn blobs_of_blocks_outlive_a_restart() {
    let server = with_container();
    let data = noise(7 * MIB);
    put(&server, "/con/a", "BlockBlob", &data);
    block(&server, "/con/b", "b25l", b"waits");
    put(&server, "/con/log", "AppendBlob", b"");
    server.ask("PUT", "/con/log?comp=appendblock", &[], b"one");
    let server = server.restart();
    server.ask("PUT", "/con/log?comp=appendblock", &[], b"two");
    assert!(get(&server, "/con/a") == data);
    assert_eq!(get(&server, "/con/log"), b"onetwo");
    assert_eq!(commit(&server, "/con/b", "<Latest>b25l</Latest>", &[]).status, 201);
    assert_eq!(get(&server, "/con/b"), b"waits");
}

#[test]
fn blocks_are_copied_between_servers() {
    let (from, to) = (with_container(), with_container());
    block(&from, "/con/a", "b25l", &noise(3 * MIB));
    block(&from, "/con/a", "dHdv", b"end");
    commit(&from, "/con/a", "<Latest>b25l</Latest><Latest>dHdv</Latest>", &[]);
    put(&from, "/con/log", "AppendBlob", b"");
    from.ask("PUT", "/con/log?comp=appendblock", &[], b"one");
    let content = [noise(3 * MIB), b"end".to_vec()].concat();
    for name in ["a", "log"] {
        let url = crate::copies::shared(&from, &format!("/con/{name}"));
        let path = format!("/con/{name}");
        let begun = to.ask("PUT", &path, &[("x-ms-copy-source", &url)], b"");
        assert_eq!(begun.status, 202, "{}", begun.text());
        crate::copies::wait_for(&to, &path, "success");
    }
    assert!(get(&to, "/con/a") == content);
    let list = to.ask("GET", "/con/a?comp=blocklist", &[], b"").text();
    let wanted = "<Block><Name>b25l</Name><Size>3145728</Size></Block><Block><Name>dHdv</Name><Size>3</Size></Block>";
    assert!(list.contains(wanted), "{list}");
    assert_eq!(get(&to, "/con/log"), b"one");
    assert_eq!(to.ask("HEAD", "/con/log", &[], b"").header("x-ms-blob-committed-block-count"), "1");
    // Into a new blob by one request, and into a block.
    let url = crate::copies::shared(&from, "/con/a");
    let headers = [("x-ms-blob-type", "BlockBlob"), ("x-ms-copy-source", &*url)];
    assert_eq!(to.ask("PUT", "/con/whole", &headers, b"").status, 201);
    assert!(get(&to, "/con/whole") == content);
    let range = [("x-ms-copy-source", &*url), ("x-ms-source-range", "bytes=3145728-3145730")];
    let staged = to.ask("PUT", "/con/part?comp=block&blockid=b25l", &range, b"");
    assert_eq!(staged.status, 201, "{}", staged.text());
    commit(&to, "/con/part", "<Latest>b25l</Latest>", &[]);
    assert_eq!(get(&to, "/con/part"), b"end");
    let gone = [("x-ms-blob-type", "BlockBlob"), ("x-ms-copy-source", "http://127.0.0.1:1/a/b/c")];
    assert_eq!(to.ask("PUT", "/con/none", &gone, b"").code(), (404, "CannotVerifyCopySource"));
}
