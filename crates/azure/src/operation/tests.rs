//! Requests as clients send them, and what is made of them.

use proptest::prelude::*;
use strongroom_base::ByteRange;

use super::*;
use crate::{
    AccessTier, BlobName, Checksum, ChecksumKind, Conditions, LeaseAction, LeaseDuration,
    PublicAccess, Request, SequenceConditions, Suffixes, Tags,
};

type Fields<'a> = &'a [(&'a str, &'a str)];

fn request(method: &str, target: &str, headers: Fields<'_>) -> Result<Request, Refusal> {
    let mut all = vec![("x-ms-version", "2026-10-06")];
    all.extend_from_slice(headers);
    Request::parse(method, target, Headers::of(all)?, &Suffixes::default())
}

fn code(method: &str, target: &str, headers: Fields<'_>) -> Code {
    request(method, target, headers).expect_err(target).code()
}

fn blob(method: &str, query: &str, headers: Fields<'_>) -> BlobOperation {
    let target = format!("/acct/con/disk.vhd{query}");
    match request(method, &target, headers).expect(&target).operation {
        Operation::Blob(path, operation) => {
            assert_eq!(path.name, BlobName::new("disk.vhd").expect("is a name"));
            operation
        }
        other => panic!("{other:?}"),
    }
}

fn blob_code(method: &str, query: &str, headers: Fields<'_>) -> Code {
    code(method, &format!("/acct/con/disk.vhd{query}"), headers)
}

fn container(method: &str, query: &str, headers: Fields<'_>) -> ContainerOperation {
    let target = format!("/acct/con?restype=container{query}");
    match request(method, &target, headers).expect(&target).operation {
        Operation::Container(_, operation) => operation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_page_is_written_where_its_range_says() {
    let headers = [
        ("x-ms-page-write", "update"),
        ("x-ms-range", "bytes=512-1535"),
        ("range", "bytes=0-511"),
        ("content-length", "1024"),
        ("x-ms-if-sequence-number-lt", "9"),
        ("if-match", "\"0x8D\""),
        ("x-ms-meta-ignored", "here"),
    ];
    let BlobOperation::PutPage(put) = blob("PUT", "?comp=page", &headers) else {
        panic!("is Put Page")
    };
    assert_eq!(put.range, ByteRange::between(512, 1536));
    assert_eq!(put.body.length, 1024);
    assert_eq!(
        put.sequence,
        SequenceConditions { less_than: Some(9), ..SequenceConditions::default() }
    );
    assert!(matches!(put.write.conditions.if_match, Some(Tags::One(_))));
}

#[test]
fn a_page_that_breaks_a_rule_has_its_code() {
    let update = |range: &str, length: &str| {
        let headers =
            [("x-ms-page-write", "update"), ("x-ms-range", range), ("content-length", length)];
        request("PUT", "/acct/con/b?comp=page", &headers)
            .map(|_| ())
            .map_err(|refusal| refusal.code())
    };
    assert_eq!(update("bytes=0-4194303", "4194304"), Ok(()));
    assert_eq!(update("bytes=0-4194815", "4194816"), Err(Code::RequestBodyTooLarge));
    assert_eq!(update("bytes=0-510", "511"), Err(Code::InvalidPageRange));
    assert_eq!(update("bytes=1-512", "512"), Err(Code::InvalidPageRange));
    assert_eq!(update("bytes=0-", "512"), Err(Code::InvalidPageRange));
    assert_eq!(update("bytes=0-511", "1024"), Err(Code::InvalidHeaderValue));
    let page = "?comp=page";
    assert_eq!(
        blob_code("PUT", page, &[("x-ms-page-write", "update")]),
        Code::MissingContentLengthHeader
    );
    assert_eq!(blob_code("PUT", page, &[]), Code::MissingRequiredHeader);
    assert_eq!(blob_code("PUT", page, &[("x-ms-page-write", "zero")]), Code::InvalidHeaderValue);
    let clear =
        [("x-ms-page-write", "clear"), ("x-ms-range", "bytes=0-8388607"), ("content-length", "0")];
    let BlobOperation::ClearPages(clear) = blob("PUT", page, &clear) else { panic!("is a clear") };
    assert_eq!(clear.range.len(), 8 << 20);
    let body =
        [("x-ms-page-write", "clear"), ("x-ms-range", "bytes=0-511"), ("content-length", "512")];
    assert_eq!(blob_code("PUT", page, &body), Code::InvalidHeaderValue);
    let on_snapshot = "?comp=page&snapshot=2026-11-28T16%3A17%3A00.0000000Z";
    assert_eq!(blob_code("PUT", on_snapshot, &body), Code::InvalidOperation);
}

#[test]
fn pages_come_from_a_url() {
    let headers = [
        ("x-ms-page-write", "update"),
        ("x-ms-range", "bytes=0-511"),
        (
            "x-ms-copy-source",
            "http://h:1/acct/con/a b?snapshot=2026-11-28T16:17:00.0000000Z&sig=secret",
        ),
        ("x-ms-source-range", "bytes=100-611"),
        ("content-length", "0"),
    ];
    let BlobOperation::PutPageFromUrl(put) = blob("PUT", "?comp=page", &headers) else {
        panic!("is from a URL")
    };
    assert_eq!(put.source_range, ByteRange::between(100, 612));
    let url = &put.source.url;
    assert_eq!(url.shown(), "http://h:1/acct/con/a%20b?snapshot=2026-11-28T16:17:00.0000000Z");
    assert!(!format!("{put:?}").contains("secret"));
    let address = url.address(&Suffixes::default()).expect("is a blob");
    assert_eq!((address.account.as_str(), url.authority().as_str()), ("acct", "h:1"));
    let mut longer = headers;
    longer[3].1 = "bytes=0-1023";
    assert_eq!(blob_code("PUT", "?comp=page", &longer), Code::InvalidHeaderValue);
    assert_eq!(blob_code("PUT", "?comp=page", &headers[..3]), Code::MissingRequiredHeader);
}

#[test]
fn blobs_are_created_by_their_type() {
    let page = [
        ("x-ms-blob-type", "PageBlob"),
        ("x-ms-blob-content-length", "1024"),
        ("if-none-match", "*"),
    ];
    let BlobOperation::PutPageBlob(put) = blob("PUT", "", &page) else { panic!("is a page blob") };
    assert_eq!((put.length, put.sequence_number), (1024, 0));
    assert_eq!(put.write.conditions.if_none_match, Some(Tags::Any));
    for (length, code) in
        [("513", Code::InvalidHeaderValue), ("9895604649984", Code::InvalidHeaderValue)]
    {
        let headers = [("x-ms-blob-type", "PageBlob"), ("x-ms-blob-content-length", length)];
        assert_eq!(blob_code("PUT", "", &headers), code, "{length}");
    }
    assert_eq!(
        blob_code("PUT", "", &[("x-ms-blob-type", "PageBlob")]),
        Code::MissingRequiredHeader
    );
    let block = [
        ("x-ms-blob-type", "BlockBlob"),
        ("content-length", "5"),
        ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
    ];
    let BlobOperation::PutBlockBlob(put) = blob("PUT", "", &block) else {
        panic!("is a block blob")
    };
    assert!(matches!(put.body.checksum, Some(Checksum::Md5(_))) && put.body.keeps_md5);
    let append = [("x-ms-blob-type", "AppendBlob"), ("content-length", "0")];
    assert!(matches!(blob("PUT", "", &append), BlobOperation::PutAppendBlob(_)));
    assert_eq!(blob_code("PUT", "", &[]), Code::MissingRequiredHeader);
    assert_eq!(blob_code("PUT", "", &[("x-ms-blob-type", "Disk")]), Code::InvalidHeaderValue);
}

#[test]
fn ranges_and_differences_are_asked_for() {
    let BlobOperation::GetPageRanges(ranges) = blob("GET", "?comp=pagelist", &[]) else {
        panic!("is a list")
    };
    assert_eq!(ranges.within(1024), Ok(ByteRange::between(0, 1024)));
    assert_eq!(ranges.previous, None);
    let open = [("x-ms-range", "bytes=0-")];
    let query = "?maxresults=20000&comp=pagelist&marker=m";
    let BlobOperation::GetPageRanges(ranges) = blob("GET", query, &open) else {
        panic!("is a list")
    };
    assert_eq!((ranges.max_results, ranges.marker.as_deref()), (Some(10_000), Some("m")));
    assert_eq!(ranges.within(0), Ok(ByteRange::between(0, 0)));

    let query = "?comp=pagelist&prevsnapshot=2026-11-28T16%3A17%3A00.0000000Z";
    let BlobOperation::GetPageRanges(diff) = blob("GET", query, &[]) else { panic!("is a list") };
    let id = "2026-11-28T16:17:00.0000000Z".parse().expect("is an id");
    assert_eq!(diff.previous, Some(PreviousSnapshot::Id(id)));
    let url = [(
        "x-ms-previous-snapshot-url",
        "https://h/acct/con/disk.vhd?snapshot=2026-11-28T16:17:00.0000000Z",
    )];
    let BlobOperation::GetPageRanges(diff) = blob("GET", "?comp=pagelist", &url) else {
        panic!("is a list")
    };
    assert_eq!(diff.previous.expect("is there").id(), id);
    assert_eq!(blob_code("GET", query, &url), Code::UnsupportedHeader);
    let without = [("x-ms-previous-snapshot-url", "https://h/acct/con/disk.vhd")];
    assert_eq!(blob_code("GET", "?comp=pagelist", &without), Code::InvalidHeaderValue);

    let newer = format!("{query}&snapshot=2026-11-28T16%3A16%3A00.0000000Z");
    assert_eq!(blob_code("GET", &newer, &[]), Code::PreviousSnapshotCannotBeNewer);
    assert_eq!(
        blob_code("GET", "?comp=pagelist&prevsnapshot=yesterday", &[]),
        Code::InvalidQueryParameterValue
    );
    for number in ["0", "-1"] {
        let query = format!("?comp=pagelist&maxresults={number}");
        assert_eq!(blob_code("GET", &query, &[]), Code::OutOfRangeQueryParameterValue);
    }
    assert_eq!(
        blob_code("GET", "?comp=pagelist&maxresults=x", &[]),
        Code::InvalidQueryParameterValue
    );
}

#[test]
fn a_read_has_a_range_and_perhaps_its_checksum() {
    let BlobOperation::Get(get) = blob("GET", "", &[]) else { panic!("is a read") };
    assert_eq!(get.within(10), Ok((ByteRange::between(0, 10), false)));
    let checked = [("x-ms-range", "bytes=1-4194304"), ("x-ms-range-get-content-md5", "true")];
    let BlobOperation::Get(get) = blob("GET", "", &checked) else { panic!("is a read") };
    assert_eq!(get.checksum, Some(ChecksumKind::Md5));
    assert_eq!(get.within(1 << 30), Ok((ByteRange::between(1, 4_194_305), true)));
    let wider = [("x-ms-range", "bytes=0-4194304"), ("x-ms-range-get-content-crc64", "true")];
    let BlobOperation::Get(get) = blob("GET", "", &wider) else { panic!("is a read") };
    assert!(get.within(1 << 30).is_err() && get.within(1000).is_ok());
    assert_eq!(
        blob_code("GET", "", &[("x-ms-range-get-content-md5", "true")]),
        Code::MissingRequiredHeader
    );
    let both = [
        ("range", "bytes=0-1"),
        ("x-ms-range-get-content-md5", "true"),
        ("x-ms-range-get-content-crc64", "true"),
    ];
    assert_eq!(blob_code("GET", "", &both), Code::BothCrc64AndMd5RangeHeaderPresent);
    let framed = [("x-ms-structured-body", "XSM/1.0; properties=crc64")];
    assert!(matches!(
        blob("GET", "", &framed),
        BlobOperation::Get(GetBlob { is_structured: true, .. })
    ));
    assert_eq!(
        blob_code("GET", "", &[("x-ms-structured-body", "XSM/2.0")]),
        Code::InvalidHeaderValue
    );
    assert!(matches!(blob("HEAD", "", &[]), BlobOperation::GetProperties(_)));
    assert!(matches!(blob("GET", "?comp=metadata", &[]), BlobOperation::GetMetadata(_)));
}

#[test]
fn copies_name_their_source() {
    let source =
        ("x-ms-copy-source", "https://h/acct/con/disk.vhd?snapshot=2026-11-28T16:17:00.0000000Z");
    let headers = [source, ("x-ms-source-if-match", "a"), ("x-ms-requires-sync", "true")];
    let BlobOperation::Copy(copy) = blob("PUT", "", &headers) else { panic!("is a copy") };
    assert!(copy.is_synchronous && copy.source.conditions.if_match.is_some());
    let BlobOperation::IncrementalCopy(copy) = blob("PUT", "?comp=incrementalcopy", &[source])
    else {
        panic!("is incremental")
    };
    assert!(copy.snapshot().is_ok());
    let base = [("x-ms-copy-source", "https://h/acct/con/disk.vhd")];
    let BlobOperation::IncrementalCopy(copy) = blob("PUT", "?comp=incrementalcopy", &base) else {
        panic!("is incremental")
    };
    assert_eq!(copy.snapshot(), Err(Code::IncrementalCopySourceMustBeSnapshot.into()));
    let from_url = [("x-ms-blob-type", "BlockBlob"), base[0], ("content-length", "0")];
    assert!(matches!(blob("PUT", "", &from_url), BlobOperation::PutBlobFromUrl(_)));
    let abort = [("x-ms-copy-action", "abort")];
    let BlobOperation::AbortCopy(abort) = blob("PUT", "?comp=copy&copyid=c1", &abort) else {
        panic!("aborts")
    };
    assert_eq!(abort.copy_id, "c1");
    for bad in ["/acct/con/b", "ftp://h/b", "https://h/\u{7f}"] {
        assert!(request("PUT", "/acct/con/b", &[("x-ms-copy-source", bad)]).is_err(), "{bad}");
    }
    let long = format!("https://h/{}", "x".repeat(2048));
    assert_eq!(blob_code("PUT", "", &[("x-ms-copy-source", &long)]), Code::InvalidHeaderValue);
}

#[test]
fn properties_change_alone_or_together() {
    let properties = |headers: Fields<'_>| match blob("PUT", "?comp=properties", headers) {
        BlobOperation::SetProperties(set) => set,
        other => panic!("{other:?}"),
    };
    let resize = properties(&[("x-ms-blob-content-length", "1024")]);
    assert_eq!((resize.length, resize.headers), (Some(1024), None));
    let sequence =
        properties(&[("x-ms-sequence-number-action", "max"), ("x-ms-blob-sequence-number", "5")]);
    assert_eq!(sequence.sequence, Some(SequenceAction::Max(5)));
    assert_eq!(
        properties(&[("x-ms-blob-content-type", "a/b")])
            .headers
            .and_then(|h| h.content_type)
            .as_deref(),
        Some("a/b")
    );
    assert!(
        properties(&[]).headers.is_some_and(|headers| headers.is_empty()),
        "all headers are removed"
    );
    let query = "?comp=properties";
    let number = ("x-ms-blob-sequence-number", "5");
    assert_eq!(
        blob_code("PUT", query, &[("x-ms-sequence-number-action", "increment"), number]),
        Code::InvalidHeaderValue
    );
    assert_eq!(
        blob_code("PUT", query, &[("x-ms-sequence-number-action", "update")]),
        Code::MissingRequiredHeader
    );
    assert_eq!(blob_code("PUT", query, &[number]), Code::MissingRequiredHeader);
    assert_eq!(SequenceAction::Increment.apply(4), Ok(5));
    let full = i64::MAX.cast_unsigned();
    assert_eq!(
        SequenceAction::Increment.apply(full),
        Err(Code::SequenceNumberIncrementTooLarge.into())
    );
    assert_eq!(SequenceAction::Max(3).apply(4), Ok(4));
    let beyond = (full + 1).to_string();
    let headers =
        [("x-ms-sequence-number-action", "update"), ("x-ms-blob-sequence-number", beyond.as_str())];
    assert_eq!(blob_code("PUT", query, &headers), Code::InvalidHeaderValue);
}

#[test]
fn a_deletion_says_what_becomes_of_snapshots() {
    let delete = |headers: Fields<'_>| match blob("DELETE", "", headers) {
        BlobOperation::Delete(delete) => delete.snapshots,
        other => panic!("{other:?}"),
    };
    assert_eq!(delete(&[]), None);
    assert_eq!(delete(&[("x-ms-delete-snapshots", "include")]), Some(DeleteSnapshots::Include));
    assert_eq!(delete(&[("x-ms-delete-snapshots", "only")]), Some(DeleteSnapshots::Only));
    let snapshot = "?snapshot=2026-11-28T16%3A17%3A00.0000000Z";
    assert!(matches!(
        blob("DELETE", snapshot, &[]),
        BlobOperation::Delete(DeleteBlob { snapshot: Some(_), .. })
    ));
    let both = [("x-ms-delete-snapshots", "only")];
    assert_eq!(blob_code("DELETE", snapshot, &both), Code::InvalidQueryParameterValue);
}

#[test]
fn blocks_and_lists_of_blocks_are_read() {
    let BlobOperation::PutBlock(put) =
        blob("PUT", "?comp=block&blockid=MDAx", &[("content-length", "5")])
    else {
        panic!("is a block")
    };
    assert_eq!(put.id.as_bytes(), b"001");
    let length = [("content-length", "5")];
    assert_eq!(blob_code("PUT", "?comp=block&blockid=%21", &length), Code::InvalidBlockId);
    assert_eq!(blob_code("PUT", "?comp=block", &length), Code::MissingRequiredQueryParameter);
    assert_eq!(
        blob_code("PUT", "?comp=block&blockid=MDAx", &[("content-length", "0")]),
        Code::InvalidHeaderValue
    );
    let old = [("x-ms-version", "2015-02-21"), ("content-length", "4194305")];
    let headers = Headers::of(old).expect("headers");
    let refusal =
        Request::parse("PUT", "/acct/con/b?comp=block&blockid=MDAx", headers, &Suffixes::default());
    assert_eq!(refusal.expect_err("is too long").code(), Code::RequestBodyTooLarge);
    assert!(matches!(blob("PUT", "?comp=blocklist", &length), BlobOperation::PutBlockList(_)));
    let BlobOperation::GetBlockList(get) = blob("GET", "?comp=blocklist&blocklisttype=all", &[])
    else {
        panic!("is a list")
    };
    assert_eq!(get.kind, BlockListType::All);
    let append = [("content-length", "5"), ("x-ms-blob-condition-appendpos", "7")];
    let BlobOperation::AppendBlock(append) = blob("PUT", "?comp=appendblock", &append) else {
        panic!("appends")
    };
    assert_eq!(append.append.position, Some(7));
}

#[test]
fn containers_have_their_operations() {
    let create = container("PUT", "", &[("x-ms-blob-public-access", "blob"), ("x-ms-meta-a", "1")]);
    let ContainerOperation::Create(create) = create else { panic!("creates") };
    assert_eq!(
        (create.public_access, create.metadata.get("a")),
        (Some(PublicAccess::Blob), Some("1"))
    );
    assert!(matches!(container("DELETE", "", &[]), ContainerOperation::Delete(_)));
    assert!(matches!(container("HEAD", "", &[]), ContainerOperation::GetProperties(None)));
    assert!(matches!(
        container("GET", "&comp=metadata", &[]),
        ContainerOperation::GetProperties(None)
    ));
    assert!(matches!(container("PUT", "&comp=metadata", &[]), ContainerOperation::SetMetadata(_)));
    assert!(matches!(container("GET", "&comp=acl", &[]), ContainerOperation::GetAcl(None)));
    let acl = container("PUT", "&comp=acl", &[("content-length", "0")]);
    assert!(matches!(acl, ContainerOperation::SetAcl(_)));
    let lease = [("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "15")];
    let ContainerOperation::Lease(lease) = container("PUT", "&comp=lease", &lease) else {
        panic!("leases")
    };
    assert_eq!(
        lease.action,
        LeaseAction::Acquire { duration: LeaseDuration::Seconds(15), proposed: None }
    );
    let target = "/acct/con?restype=container";
    assert_eq!(code("DELETE", target, &[("if-match", "a")]), Code::ConditionHeadersNotSupported);
    assert_eq!(
        code("PUT", "/acct/con?restype=container&comp=acl", &[("content-length", "99999")]),
        Code::RequestBodyTooLarge
    );
}

#[test]
fn blobs_are_listed_flat_or_by_folders() {
    let query =
        "&comp=list&prefix=a%2F&delimiter=%2F&marker=m&maxresults=6000&include=metadata,copy";
    let ContainerOperation::ListBlobs(list) = container("GET", query, &[]) else { panic!("lists") };
    assert_eq!((list.prefix.as_deref(), list.delimiter.as_deref()), (Some("a/"), Some("/")));
    assert_eq!((list.max_results, list.marker.as_deref()), (Some(5000), Some("m")));
    assert!(list.include.metadata && list.include.copy && !list.include.snapshots);
    let target = |query: &str| format!("/acct/con?restype=container&comp=list&{query}");
    let refused = code("GET", &target("delimiter=%2F&include=snapshots"), &[]);
    assert_eq!(refused, Code::InvalidQueryParameterValue);
    assert_eq!(code("GET", &target("include=everything"), &[]), Code::InvalidQueryParameterValue);
    assert!(request("GET", &target("include=deleted,versions,tags"), &[]).is_ok());
}

#[test]
fn accounts_have_their_operations() {
    let account =
        |method: &str, target: &str, headers: Fields<'_>| match request(method, target, headers)
            .expect(target)
            .operation
        {
            Operation::Account(operation) => operation,
            other => panic!("{other:?}"),
        };
    let list = account("GET", "/acct/?comp=list&include=metadata,system&prefix=x", &[]);
    let AccountOperation::ListContainers(list) = list else { panic!("lists") };
    assert!(list.include_metadata && list.include_system);
    let properties = "/acct?restype=service&comp=properties";
    assert_eq!(account("GET", properties, &[]), AccountOperation::GetProperties);
    assert!(matches!(
        account("PUT", properties, &[("content-length", "9")]),
        AccountOperation::SetProperties(_)
    ));
    let stats = "?restype=service&comp=stats";
    assert_eq!(account("GET", &format!("/acct-secondary{stats}"), &[]), AccountOperation::GetStats);
    assert_eq!(code("GET", &format!("/acct{stats}"), &[]), Code::InvalidQueryParameterValue);
    let information = "?restype=account&comp=properties";
    assert_eq!(
        account("HEAD", &format!("/acct/{information}"), &[]),
        AccountOperation::GetInformation
    );
    assert_eq!(container_information(information), ContainerOperation::GetAccountInformation);
    assert_eq!(blob("GET", information, &[]), BlobOperation::GetAccountInformation);
}

fn container_information(query: &str) -> ContainerOperation {
    match request("GET", &format!("/acct/con{query}"), &[]).expect("is a request").operation {
        Operation::Container(_, operation) => operation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_supported_is_refused_by_a_client_error() {
    for (method, target, wanted) in [
        ("PUT", "/acct/con/b?comp=undelete", Code::InvalidQueryParameterValue),
        ("GET", "/acct/con/b?comp=tags", Code::InvalidQueryParameterValue),
        ("POST", "/acct/?comp=batch", Code::MissingContentLengthHeader),
        ("POST", "/acct/con/b?comp=query", Code::InvalidQueryParameterValue),
        ("POST", "/acct/con/b", Code::UnsupportedHttpVerb),
        ("DELETE", "/acct/con/b?comp=page", Code::UnsupportedHttpVerb),
        ("PUT", "/acct/?comp=list", Code::UnsupportedHttpVerb),
        ("GET", "/acct/", Code::UnsupportedHttpVerb),
        ("PATCH", "/acct/con/b", Code::InvalidHttpVerb),
        ("OPTIONS", "/acct/con/b", Code::CorsPreflightFailure),
        ("GET", "/acct/con/b?versionid=2026", Code::InvalidQueryParameterValue),
        ("GET", "/acct/con/b?timeout=soon", Code::InvalidQueryParameterValue),
        ("GET", "/acct/con?restype=share", Code::InvalidQueryParameterValue),
    ] {
        assert_eq!(code(method, target, &[]), wanted, "{method} {target}");
    }
    for name in UNSUPPORTED {
        assert_eq!(blob_code("GET", "", &[(name, "x")]), Code::UnsupportedHeader, "{name}");
    }
    assert_eq!(
        blob_code("PUT", "?comp=snapshot", &[("x-ms-legal-hold", "true")]),
        Code::UnsupportedHeader
    );
    assert!(request("PUT", "/acct/con/b?comp=snapshot", &[("x-ms-legal-hold", "false")]).is_ok());
    assert_eq!(
        code("GET", "/acct/con/b", &[("x-ms-client-request-id", &"x".repeat(1025))]),
        Code::InvalidHeaderValue
    );
}

#[test]
fn tiers_snapshots_and_leases_are_read() {
    let BlobOperation::SetTier(set) = blob("PUT", "?comp=tier", &[("x-ms-access-tier", "P10")])
    else {
        panic!("is a tier")
    };
    assert_eq!(set.tier, AccessTier::Premium(10));
    assert_eq!(blob_code("PUT", "?comp=tier", &[]), Code::MissingRequiredHeader);
    let BlobOperation::Snapshot(taken) = blob("PUT", "?comp=snapshot", &[("x-ms-meta-a", "1")])
    else {
        panic!("is a snapshot")
    };
    assert_eq!(
        (taken.metadata.get("a"), taken.write.conditions),
        (Some("1"), Conditions::default())
    );
    let lease = [("x-ms-lease-action", "break")];
    assert!(matches!(blob("PUT", "?comp=lease", &lease), BlobOperation::Lease(_)));
}

#[test]
fn any_newer_version_is_accepted() {
    for (version, good) in
        [("2099-01-01", true), ("2027-03-07", true), ("soon", false), ("2008-01-01", false)]
    {
        let headers = Headers::of([("x-ms-version", version)]).expect("headers");
        let parsed = Request::parse("GET", "/acct/con/b", headers, &Suffixes::default());
        match parsed {
            Ok(request) => assert!(good && request.version.to_string() == version),
            Err(refusal) => assert!(!good && refusal.code() == Code::InvalidHeaderValue),
        }
    }
}

proptest! {
    /// Whatever a client sends, it is read or refused by a status of the client.
    #[test]
    fn no_request_makes_the_parser_panic(
        method in "(GET|PUT|HEAD|DELETE|POST|OPTIONS|[A-Z]{1,5})",
        path in "(/acct(-secondary)?(/con(/[a-z%0-9]{0,8})?)?)?",
        comp in "(page|pagelist|block|blocklist|lease|list|copy|properties|tier|acl|metadata|snapshot|.{0,5})",
        query in QUERIES,
        headers in prop::collection::vec(
            (prop::sample::select(HEADERS.to_vec()), "([a-z0-9=\\-]{0,20}|bytes=[0-9]{0,5}-[0-9]{0,5}|[0-9]{1,22})"),
            0..8,
        ),
    ) {
        let fields: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let Ok(headers) = Headers::of(fields) else { return Ok(()) };
        match Request::parse(&method, &format!("{path}?comp={comp}{query}"), headers, &Suffixes::default()) {
            Ok(request) => {
                request.operation.needs();
                if let Some(body) = request.body() {
                    prop_assert!(body.reader().is_ok());
                }
            }
            Err(refusal) => prop_assert!((400..500).contains(&refusal.code().status())),
        }
    }
}

const HEADERS: [&str; 22] = [
    "x-ms-version",
    "x-ms-range",
    "range",
    "content-length",
    "x-ms-page-write",
    "x-ms-blob-type",
    "x-ms-blob-content-length",
    "x-ms-copy-source",
    "x-ms-source-range",
    "x-ms-lease-action",
    "x-ms-lease-id",
    "x-ms-lease-duration",
    "x-ms-sequence-number-action",
    "x-ms-blob-sequence-number",
    "x-ms-structured-body",
    "x-ms-structured-content-length",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "content-md5",
    "x-ms-meta-a",
    "authorization",
];

const QUERIES: &str = "(&(restype|snapshot|prevsnapshot|include|maxresults\
                       |blockid|sig|sr|sv|se|ss|srt)=[a-z0-9%:.]{0,10}){0,4}";
