//! Answers are written as Azure writes them, and read back.

use proptest::prelude::*;
use strongroom_base::ByteRange;

use super::*;
use crate::{
    AccessTier, BlobHeaders, BlobType, BlockId, BlockListType, Checksum, Code, Headers, Include,
    LeaseDuration, LeaseState, Metadata, Overrides, PublicAccess, Version,
};

fn moment() -> Timestamp {
    "2026-11-28T16:17:00Z".parse().expect("is a moment")
}

fn stamp() -> Stamp {
    Stamp { etag: ETag::from_number(0x8DEE), last_modified: moment() }
}

fn repeated() -> Repeated {
    Repeated { version: Version::OURS, client_request_id: Some("c1".to_owned()), is_head: false }
}

fn snapshot(ticks: u64) -> SnapshotId {
    SnapshotId::from_ticks(ticks).expect("fits")
}

fn properties() -> BlobProperties {
    BlobProperties {
        stamp: stamp(),
        created: moment(),
        kind: BlobType::Page,
        length: 1024,
        headers: BlobHeaders {
            content_type: Some("a/b".to_owned()),
            content_md5: Some([1; 16]),
            ..BlobHeaders::default()
        },
        metadata: Metadata::of([("name", "value")]).expect("is fine"),
        lease: Some(LeaseState::Leased(LeaseDuration::Infinite)),
        sequence_number: Some(7),
        block_count: None,
        tier: Some((AccessTier::Premium(10), true)),
        copy: Some(CopyState {
            id: "copy".to_owned(),
            status: CopyStatus::Success,
            source: "http://h/acct/con/b".to_owned(),
            done_bytes: 1024,
            total_bytes: 1024,
            completed: Some(moment()),
            description: None,
            destination_snapshot: Some(snapshot(1)),
        }),
        is_incremental_copy: true,
    }
}

fn headers(answer: &Answer) -> Headers {
    let fields = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Headers::of(fields).expect("headers")
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).expect("is text")
}

#[test]
fn a_refusal_is_a_code_with_a_message() {
    let refusal = Refusal::header("x-ms-range", "<bytes>");
    let answer = Answer::refused(&refusal, &repeated(), "id-1", moment());
    assert_eq!(answer.status, 400);
    assert_eq!(answer.header("x-ms-error-code"), Some("InvalidHeaderValue"));
    assert_eq!(answer.header("x-ms-version"), Some("2026-10-06"));
    assert_eq!(answer.header("x-ms-request-id"), Some("id-1"));
    assert_eq!(answer.header("x-ms-client-request-id"), Some("c1"));
    assert_eq!(answer.header("date"), Some("Sat, 28 Nov 2026 16:17:00 GMT"));
    assert_eq!(
        text(&answer),
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>InvalidHeaderValue</Code>\
         <Message>The value for one of the HTTP headers is not in the correct format.\nRequestId:id-1\n\
         Time:2026-11-28T16:17:00Z</Message><HeaderName>x-ms-range</HeaderName>\
         <HeaderValue>&lt;bytes&gt;</HeaderValue></Error>"
    );
    let failure = Failure::parse(answer.status, &headers(&answer), &answer.body);
    assert_eq!(failure.code, Some(Code::InvalidHeaderValue));
    assert!(failure.message.expect("is there").starts_with("The value for one"));

    let head = Repeated { is_head: true, ..repeated() };
    let answer = Answer::refused(&Code::BlobNotFound.into(), &head, "id", moment());
    assert!(answer.body.is_empty());
    assert_eq!(Failure::parse(404, &headers(&answer), b"").code, Some(Code::BlobNotFound));
    let unchanged = Answer::refused(&Code::NotModified.into(), &repeated(), "id", moment());
    assert_eq!((unchanged.status, unchanged.body.is_empty()), (304, true));
    let anonymous =
        Answer::refused(&Code::NoAuthenticationInformation.into(), &repeated(), "id", moment());
    assert!(anonymous.header("www-authenticate").is_some());
}

#[test]
fn a_code_has_the_name_that_the_request_knows() {
    let refusal = Code::IncrementalCopyOfEarlierSnapshotNotAllowed.into();
    let old = Repeated { version: Version::new(2024, 5, 4), ..repeated() };
    let answer = Answer::refused(&refusal, &old, "id", moment());
    assert_eq!(
        answer.header("x-ms-error-code"),
        Some("IncrementalCopyOfEarlierVersionSnapshotNotAllowed")
    );
    let failure = Failure::parse(409, &headers(&answer), &answer.body);
    assert_eq!(failure.code, Some(Code::IncrementalCopyOfEarlierSnapshotNotAllowed));
}

#[test]
fn properties_of_a_blob_survive_their_headers() {
    let answer = properties().answer(&Overrides::default());
    assert_eq!(answer.header("etag"), Some("\"0x8DEE\""));
    assert_eq!(answer.header("content-length"), Some("1024"));
    assert_eq!(answer.header("x-ms-blob-sequence-number"), Some("7"));
    assert_eq!(answer.header("x-ms-meta-name"), Some("value"));
    assert_eq!(BlobProperties::parse(&headers(&answer)), Ok(properties()));
    let overrides = Overrides { content_type: Some("c/d".to_owned()), ..Overrides::default() };
    assert_eq!(properties().answer(&overrides).header("content-type"), Some("c/d"));
}

#[test]
fn a_part_of_a_blob_is_206_with_its_range() {
    let properties = properties();
    let read = BlobRead {
        properties: &properties,
        range: ByteRange::between(512, 1024),
        is_partial: true,
        checksum: Some(Checksum::Md5([2; 16])),
        structured_length: None,
    };
    let answer = read.answer(&Overrides::default());
    assert_eq!((answer.status, answer.header("content-range")), (206, Some("bytes 512-1023/1024")));
    assert_eq!(answer.header("content-length"), Some("512"));
    assert_eq!(answer.header("content-md5"), Some("AgICAgICAgICAgICAgICAg=="));
    assert_eq!(answer.header("x-ms-blob-content-md5"), Some("AQEBAQEBAQEBAQEBAQEBAQ=="));
    let framed = BlobRead { checksum: None, structured_length: Some(551), ..read.clone() };
    let answer = framed.answer(&Overrides::default());
    assert_eq!(answer.header("content-length"), Some("551"));
    assert_eq!(answer.header("x-ms-structured-body"), Some("XSM/1.0; properties=crc64"));
    assert_eq!(answer.header("x-ms-structured-content-length"), Some("512"));
    let whole =
        BlobRead { range: ByteRange::between(0, 1024), is_partial: false, checksum: None, ..read };
    let answer = whole.answer(&Overrides::default());
    assert_eq!((answer.status, answer.header("content-range")), (200, None));
    assert_eq!(answer.header("content-md5"), Some("AQEBAQEBAQEBAQEBAQEBAQ=="));
}

#[test]
fn written_and_cleared_ranges_are_mixed_by_offset() {
    let range =
        |start, end, is_clear| ListedRange { range: ByteRange::between(start, end), is_clear };
    let list = PageList {
        ranges: vec![range(0, 512, false), range(512, 1024, true), range(2048, 4096, false)],
        next_marker: Some("m".to_owned()),
    };
    let answer = list.answer(&stamp(), 8192);
    assert_eq!(
        text(&answer),
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList><PageRange><Start>0</Start><End>511</End></PageRange>\
         <ClearRange><Start>512</Start><End>1023</End></ClearRange><PageRange><Start>2048</Start><End>4095</End>\
         </PageRange><NextMarker>m</NextMarker></PageList>"
    );
    assert_eq!(answer.header("x-ms-blob-content-length"), Some("8192"));
    assert_eq!(PageList::parse(&answer.body), Ok(list));
    for bad in ["<Page/>", "<PageList><PageRange><Start>0</Start></PageRange></PageList>"] {
        assert!(PageList::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let backwards = "<PageList><PageRange><Start>9</Start><End>8</End></PageRange></PageList>";
    assert!(PageList::parse(backwards.as_bytes()).is_err());
}

#[test]
fn a_list_of_blobs_has_snapshots_prefixes_and_odd_names() {
    let include = Include { snapshots: false, metadata: true, uncommitted: false, copy: true };
    let blob = |name: &str, snapshot| {
        BlobEntry::Blob(Box::new(ListedBlob {
            name: name.to_owned(),
            snapshot,
            properties: properties(),
        }))
    };
    let list = BlobList {
        entries: vec![
            blob("a", Some(snapshot(5))),
            blob("a", None),
            BlobEntry::Prefix("b&/".to_owned()),
            blob("c\u{1}/\u{fffe}%", None),
        ],
        next_marker: Some("next".to_owned()),
    };
    let head = BlobListHead {
        endpoint: "http://127.0.0.1/acct/".to_owned(),
        container: "con".to_owned(),
        prefix: Some("p<".to_owned()),
        max_results: Some(5),
        delimiter: Some("/".to_owned()),
        ..BlobListHead::default()
    };
    let answer = list.answer(&head, include);
    assert!(text(&answer).contains("<Name Encoded=\"true\">c%01/%EF%BF%BE%25</Name>"));
    assert!(
        text(&answer)
            .contains("<Prefix>p&lt;</Prefix><MaxResults>5</MaxResults><Delimiter>/</Delimiter>")
    );
    assert!(text(&answer).contains("<Etag>0x8DEE</Etag>"));
    assert!(text(&answer).contains("<Snapshot>1970-01-01T00:00:00.0000005Z</Snapshot>"));
    assert_eq!(BlobList::parse(&answer.body), Ok(list.clone()));
    let bare = BlobList::parse(&list.answer(&head, Include::default()).body).expect("is read");
    let BlobEntry::Blob(first) = &bare.entries[0] else { panic!("a blob is first") };
    assert!(first.properties.metadata.is_empty() && first.properties.copy.is_none());
    assert_eq!(
        BlobList::parse(&BlobList::default().answer(&head, include).body),
        Ok(BlobList::default())
    );
}

#[test]
fn a_list_of_containers_survives() {
    let properties = ContainerProperties {
        stamp: stamp(),
        metadata: Metadata::of([("a", "1 < 2")]).expect("is fine"),
        lease: LeaseState::Breaking,
        public_access: Some(PublicAccess::Blob),
    };
    assert_eq!(properties.answer().header("x-ms-lease-status"), Some("locked"));
    let entries = vec![ContainerEntry { name: "con".to_owned(), properties }];
    let list = ContainerList { entries, next_marker: None };
    let answer = list.answer(&ContainerListHead::default(), true);
    assert_eq!(ContainerList::parse(&answer.body), Ok(list));
    assert!(text(&answer).ends_with("</Containers><NextMarker /></EnumerationResults>"));
}

#[test]
fn properties_of_a_container_survive_their_headers() {
    let properties = ContainerProperties {
        stamp: stamp(),
        metadata: Metadata::of([("a", "b")]).expect("metadata"),
        lease: LeaseState::Leased(LeaseDuration::Infinite),
        public_access: Some(PublicAccess::Blob),
    };
    let answer = properties.answer();
    assert_eq!(ContainerProperties::parse(&headers(&answer)), Ok(properties));
    assert!(ContainerProperties::parse(&Headers::default()).is_err());
}

#[test]
fn lists_of_blocks_are_read_and_written() {
    let id = |text: &[u8]| BlockId::from_bytes(text).expect("is an id");
    let wanted = vec![
        BlockLookup { id: id(b"1"), place: BlockPlace::Latest },
        BlockLookup { id: id(b"2"), place: BlockPlace::Committed },
        BlockLookup { id: id(b"3"), place: BlockPlace::Uncommitted },
    ];
    assert_eq!(BlockLookup::parse_list(&BlockLookup::list_to_xml(&wanted)), Ok(wanted));
    let code =
        |body: &str| BlockLookup::parse_list(body.as_bytes()).map_err(|refusal| refusal.code());
    assert_eq!(code("<BlockList><Latest>!</Latest></BlockList>"), Err(Code::InvalidBlockId));
    assert_eq!(code("<BlockList><Other>MQ==</Other></BlockList>"), Err(Code::UnsupportedXmlNode));
    assert_eq!(code("<BlockList"), Err(Code::InvalidXmlDocument));
    assert_eq!(code("<BlockList/>"), Ok(Vec::new()));
    let long = format!("<BlockList>{}</BlockList>", "<Latest>MQ==</Latest>".repeat(50_001));
    assert_eq!(code(&long), Err(Code::BlockListTooLong));
    let full = format!("<BlockList>{}</BlockList>", "<Latest>MQ==</Latest>".repeat(50_000));
    assert_eq!(code(&full).map(|list| list.len()), Ok(50_000));

    let committed = [ListedBlock { id: id(b"1"), length: 10 }];
    let waiting = [ListedBlock { id: id(b"2"), length: 20 }];
    let stamp = stamp();
    let all = block_list(BlockListType::All, &committed, &waiting, Some((&stamp, 10)));
    assert_eq!(ListedBlock::parse_lists(&all.body), Ok((committed.to_vec(), waiting.to_vec())));
    assert_eq!(all.header("x-ms-blob-content-length"), Some("10"));
    let only = block_list(BlockListType::Uncommitted, &committed, &waiting, None);
    assert_eq!(ListedBlock::parse_lists(&only.body), Ok((Vec::new(), waiting.to_vec())));
}

#[test]
fn service_properties_change_in_parts() {
    let initial = ServiceProperties::initial();
    assert_eq!(ServiceProperties::parse(&initial.to_xml()), Ok(initial.clone()));
    assert_eq!(initial.refuse_switched_on(), Ok(()));
    let change = "<StorageServiceProperties><DefaultServiceVersion>2024-05-04</DefaultServiceVersion>\
                  <Cors><CorsRule><AllowedOrigins>*</AllowedOrigins><AllowedMethods>GET</AllowedMethods>\
                  <MaxAgeInSeconds>5</MaxAgeInSeconds></CorsRule></Cors></StorageServiceProperties>";
    let change = ServiceProperties::parse(change.as_bytes()).expect("is read");
    assert_eq!(change.refuse_switched_on().map_err(|r| r.code()), Err(Code::UnsupportedXmlNode));
    let changed = initial.changed_by(change);
    assert_eq!(changed.default_version, Some(Version::new(2024, 5, 4)));
    assert_eq!(changed.logging, Some(Logging::default()));
    assert_eq!(ServiceProperties::parse(&changed.to_xml()), Ok(changed));
    let code = |inner: &str| {
        let body = format!("<StorageServiceProperties>{inner}</StorageServiceProperties>");
        ServiceProperties::parse(body.as_bytes()).map_err(|refusal| refusal.code())
    };
    assert_eq!(code("<Other/>"), Err(Code::UnsupportedXmlNode));
    assert_eq!(code("<HourMetrics/>"), Err(Code::MissingRequiredXmlNode));
    assert_eq!(
        code("<HourMetrics><Enabled>maybe</Enabled></HourMetrics>"),
        Err(Code::InvalidXmlNodeValue)
    );
}

#[test]
fn stats_say_when_the_secondary_was_last_whole() {
    for last_sync in [Some(moment()), None] {
        let stats = ServiceStats { status: GeoStatus::Live, last_sync };
        assert_eq!(ServiceStats::parse(&stats.answer().body), Ok(stats));
    }
    let unknown = ServiceStats { status: GeoStatus::Bootstrap, last_sync: None }.answer();
    assert!(text(&unknown).contains("<Status>bootstrap</Status><LastSyncTime />"));
}

#[test]
fn writes_answer_what_was_written() {
    let written = Written {
        stamp: Some(stamp()),
        checksum: Some(Checksum::Crc64(1)),
        sequence_number: Some(3),
        appended: None,
        is_structured: true,
    };
    let answer = written.answer();
    assert_eq!((answer.status, answer.header("x-ms-content-crc64")), (201, Some("AQAAAAAAAAA=")));
    assert_eq!(answer.header("x-ms-blob-sequence-number"), Some("3"));
    assert_eq!(answer.header("x-ms-structured-body"), Some("XSM/1.0; properties=crc64"));
    let taken = Answer::snapshot_taken(snapshot(5), &stamp());
    assert_eq!(taken.header("x-ms-snapshot"), Some("1970-01-01T00:00:00.0000005Z"));
    assert_eq!(Answer::lease_broken(7, &stamp()).header("x-ms-lease-time"), Some("7"));
    let copy = Answer::copy_started("id", CopyStatus::Pending, &stamp());
    assert_eq!((copy.status, copy.header("x-ms-copy-status")), (202, Some("pending")));
}

proptest! {
    #[test]
    fn lists_of_pages_survive(gaps in prop::collection::vec((0_u64..5, 1_u64..5, any::<bool>()), 0..50)) {
        let mut ranges = Vec::new();
        let mut at = 0;
        for (gap, length, is_clear) in gaps {
            let start = at + gap * 512;
            at = start + length * 512;
            ranges.push(ListedRange { range: ByteRange::between(start, at), is_clear });
        }
        let list = PageList { ranges, next_marker: None };
        prop_assert_eq!(PageList::parse(&list.answer(&stamp(), at).body), Ok(list));
    }

    #[test]
    fn no_answer_makes_the_readers_panic(body in "(<[A-Za-z]{1,8}>)?.{0,80}") {
        let bytes = body.as_bytes();
        PageList::parse(bytes).ok();
        BlobList::parse(bytes).ok();
        ContainerList::parse(bytes).ok();
        ListedBlock::parse_lists(bytes).ok();
        ServiceStats::parse(bytes).ok();
        Failure::parse(500, &Headers::default(), bytes);
    }
}
