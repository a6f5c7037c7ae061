//! Entry points for fuzzing: each takes outside bytes and must return, whatever they are.

use jiff::Timestamp;

use crate::{
    AccountKey, Answer, Batch, BlobList, BlobListHead, BlockLookup, Caller, ConnectionString,
    ContainerList, Decoder, Failure, Headers, Include, ListedBlock, PageList, Repeated, Request,
    ServiceProperties, ServiceStats, SnapshotId, StoredPolicy, Suffixes, Version,
};

/// A request as HTTP has it: a line with method and target, headers, an empty line, the body.
pub fn fuzz_request(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut text = || lines.next().map(|line| String::from_utf8_lossy(line).trim_end().to_owned());
    let first = text().unwrap_or_default();
    let (method, target) = first.split_once(' ').unwrap_or((&first, ""));
    let mut fields = Vec::new();
    while let Some(line) = text().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        fields.push((name.trim().to_owned(), value.to_owned()));
    }
    let body = lines.collect::<Vec<_>>().join(&b'\n');
    let named = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let Ok(headers) = Headers::new(named) else { return };
    let mut repeated = Repeated::of(method, &headers);
    let caller = Caller { moment: Timestamp::UNIX_EPOCH, address: None, is_https: false };
    let outcome = Request::parse(method, target, headers, &Suffixes::new(["localhost"])).and_then(
        |request| {
            repeated = Repeated::from(&request);
            request.operation.needs();
            if let Some(declared) = request.body() {
                let mut reader = declared.reader()?;
                let mut length = 0_u64;
                reader.take(&body, |content| {
                    length += u64::try_from(content.len()).unwrap_or(u64::MAX);
                })?;
                reader.finish()?;
                Batch::parse(&request, &body, &Suffixes::default()).ok();
                assert_eq!(length, declared.length, "the content has its declared length");
            }
            request.authorize(&[AccountKey::from_bytes(&[1; 64])], None, &caller)
        },
    );
    if let Err(refusal) = outcome {
        let answer = Answer::refused(&refusal, &repeated, "id", Timestamp::UNIX_EPOCH);
        assert!((400..500).contains(&answer.status), "a refusal is the client's fault: {refusal}");
        if !answer.body.is_empty() {
            let failure = Failure::parse(answer.status, &Headers::default(), &answer.body);
            assert_eq!(failure.name.as_deref(), Some(refusal.code().name_at(repeated.version)));
        }
    }
}

/// Every XML body, of requests and of answers. What is read is written and read again.
pub fn fuzz_xml(bytes: &[u8]) {
    if let Ok(policies) = StoredPolicy::parse_list(bytes) {
        assert!(StoredPolicy::parse_list(&StoredPolicy::list_to_xml(&policies)).is_ok());
    }
    if let Ok(blocks) = BlockLookup::parse_list(bytes) {
        assert_eq!(BlockLookup::parse_list(&BlockLookup::list_to_xml(&blocks)), Ok(blocks));
    }
    if let Ok(properties) = ServiceProperties::parse(bytes) {
        properties.refuse_switched_on().ok();
        assert!(ServiceProperties::parse(&properties.to_xml()).is_ok());
    }
    if let Ok(list) = BlobList::parse(bytes) {
        let include = Include { snapshots: true, metadata: true, uncommitted: true, copy: true };
        assert!(BlobList::parse(&list.answer(&BlobListHead::default(), include).body).is_ok());
    }
    ContainerList::parse(bytes).ok();
    PageList::parse(bytes).ok();
    ListedBlock::parse_lists(bytes).ok();
    ServiceStats::parse(bytes).ok();
    Failure::parse(400, &Headers::default(), bytes);
}

/// A structured body: the length of its content, then the body.
pub fn fuzz_structured(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_first_chunk::<2>() else { return };
    let content = u64::from(u16::from_le_bytes(*head));
    let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let Ok(mut decoder) = Decoder::new(length, content) else { return };
    let mut found = 0_u64;
    let decoded = body.chunks(7).try_for_each(|part| {
        decoder.decode(part, |bytes| found += u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    });
    assert!(found <= content, "no more content than was promised");
    if decoded.is_ok() && decoder.finish().is_ok() {
        assert_eq!(found, content);
    }
}

/// Small texts: ids of snapshots, versions, connection strings.
pub fn fuzz_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(id) = text.parse::<SnapshotId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(version) = text.parse::<Version>() {
        assert_eq!(version.to_string(), text);
    }
    if let Ok(connection) = ConnectionString::parse(text) {
        let again = ConnectionString::parse(&connection.to_text());
        assert!(again.is_ok_and(|again| *again.to_text() == *connection.to_text()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_with_bodies_go_through() {
        for request in [
            "PUT /acct/con/b?comp=page\nx-ms-page-write: update\nx-ms-range: bytes=0-511\nContent-Length: 512\n\n",
            "PUT /acct/con/b?comp=block&blockid=MDAx\nContent-Length: 3\n\nabc",
            "GET /acct/con/b?sig=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA%3D&sr=b&se=1970-01-02&sp=r\n\n",
            "HEAD http://acct.blob.localhost/con/b\nAuthorization: SharedKey acct:x\n\n",
        ] {
            fuzz_request(request.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn every_entry_returns(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzz_request(&bytes);
            fuzz_xml(&bytes);
            fuzz_structured(&bytes);
            fuzz_text(&bytes);
        }
    }
}
