//! Ranges of bytes, as headers name them: of a read, of pages, of a source.

use strongroom_base::ByteRange;

use crate::{Code, Headers, Refusal, headers::parse_number};

/// Bytes of a page, the unit of page blobs.
pub const PAGE: u64 = 512;
/// The most bytes of one Put Page.
pub const MAX_PUT_PAGE: u64 = 4 << 20;
/// The longest range of which a read answers a checksum.
pub const MAX_CHECKED_READ: u64 = 4 << 20;
/// The largest page blob: 8 TiB.
pub const MAX_PAGE_BLOB: u64 = 8 << 40;

/// A range as a header has it: `bytes=START-` or `bytes=START-END`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeHeader {
    /// The first byte.
    pub start: u64,
    /// The last byte, if it is named; not before `start`.
    pub last: Option<u64>,
}

impl RangeHeader {
    /// Reads the range of a request: `x-ms-range`, or else `Range`.
    pub fn of(headers: &Headers) -> Result<Option<Self>, Refusal> {
        let name = if headers.get("x-ms-range").is_some() { "x-ms-range" } else { "range" };
        Self::named(headers, name)
    }

    /// Reads the range in this header.
    pub(crate) fn named(headers: &Headers, name: &str) -> Result<Option<Self>, Refusal> {
        let Some(range) = headers.parsed(name, Self::parse)? else { return Ok(None) };
        if range.last.is_some_and(|last| last < range.start) {
            return Err(Code::InvalidRange.into());
        }
        Ok(Some(range))
    }

    /// The last bytes of a blob (`bytes=-5`) and several ranges cannot be asked for.
    fn parse(text: &str) -> Option<Self> {
        let (unit, range) = text.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (start, last) = range.trim().split_once('-')?;
        if start.is_empty() {
            return None;
        }
        let last = if last.is_empty() { None } else { Some(parse_number(last)?) };
        Some(Self { start: parse_number(start)?, last })
    }

    /// The bytes of it in something of this length: cut at its end. Refused if it begins there or behind.
    pub fn within(self, length: u64) -> Result<ByteRange, Refusal> {
        if self.start >= length {
            return Err(Code::InvalidRange.into());
        }
        let end = self.last.map_or(length, |last| last.saturating_add(1).min(length));
        Ok(ByteRange::between(self.start, end))
    }

    /// How many bytes are asked for, if an end is named.
    pub fn length(self) -> Option<u64> {
        Some(self.last?.saturating_sub(self.start).saturating_add(1))
    }

    /// The range as pages: both ends named and on pages.
    pub fn pages(self) -> Result<ByteRange, Refusal> {
        let refused = || Refusal::new(Code::InvalidPageRange);
        let end = self.last.and_then(|last| last.checked_add(1)).ok_or_else(refused)?;
        if !self.start.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) || end > MAX_PAGE_BLOB {
            return Err(refused());
        }
        Ok(ByteRange::between(self.start, end))
    }
}

/// The pages that a write names. Without a range, Azure misses a header.
pub(crate) fn pages(headers: &Headers) -> Result<ByteRange, Refusal> {
    let range = RangeHeader::of(headers).map_err(|refusal| match refusal.code() {
        Code::InvalidRange => Code::InvalidPageRange.into(),
        _ => refusal,
    })?;
    range.ok_or_else(|| Refusal::missing("x-ms-range"))?.pages()
}

/// A range as a request's header has it; the opposite of [`RangeHeader::of`]. None for an empty range.
pub fn range_header(range: ByteRange) -> Option<String> {
    (!range.is_empty()).then(|| format!("bytes={}-{}", range.offset(), range.end() - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(headers: &[(&str, &str)]) -> Result<Option<RangeHeader>, Code> {
        let headers = Headers::of(headers.iter().copied()).expect("headers");
        RangeHeader::of(&headers).map_err(|refusal| refusal.code())
    }

    #[test]
    fn x_ms_range_wins() {
        let both = of(&[("Range", "bytes=0-1"), ("x-ms-range", "bytes=512-1023")]);
        assert_eq!(both, Ok(Some(RangeHeader { start: 512, last: Some(1023) })));
        assert_eq!(of(&[("range", "bytes=5-")]), Ok(Some(RangeHeader { start: 5, last: None })));
        assert_eq!(of(&[]), Ok(None));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in
            ["bytes", "bytes=", "bytes=-5", "bytes=a-b", "bytes=0-1,3-4", "pages=0-1", "bytes=+1-2"]
        {
            assert_eq!(of(&[("x-ms-range", bad)]), Err(Code::InvalidHeaderValue), "{bad}");
        }
        assert_eq!(of(&[("x-ms-range", "bytes=5-4")]), Err(Code::InvalidRange));
        assert_eq!(
            of(&[("x-ms-range", "bytes=99999999999999999999-")]),
            Err(Code::InvalidHeaderValue)
        );
    }

    #[test]
    fn a_read_is_cut_at_the_end_and_refused_behind_it() {
        let range = |start, last| RangeHeader { start, last }.within(100);
        assert_eq!(range(10, None), Ok(ByteRange::between(10, 100)));
        assert_eq!(range(10, Some(1000)), Ok(ByteRange::between(10, 100)));
        assert_eq!(range(99, Some(99)), Ok(ByteRange::between(99, 100)));
        assert_eq!(range(100, None), Err(Code::InvalidRange.into()));
        assert_eq!(RangeHeader { start: 0, last: None }.within(0), Err(Code::InvalidRange.into()));
        assert_eq!(range(0, Some(u64::MAX)), Ok(ByteRange::between(0, 100)));
    }

    #[test]
    fn pages_are_aligned_at_both_ends() {
        let pages = |text: &str| {
            let headers = Headers::of([("x-ms-range", text)]).expect("headers");
            pages(&headers).map_err(|refusal| refusal.code())
        };
        assert_eq!(pages("bytes=512-1535"), Ok(ByteRange::between(512, 1536)));
        for bad in ["bytes=0-", "bytes=1-512", "bytes=0-510", "bytes=0-512", "bytes=1024-511"] {
            assert_eq!(pages(bad), Err(Code::InvalidPageRange), "{bad}");
        }
        assert_eq!(pages("bytes=0-18446744073709551615"), Err(Code::InvalidPageRange));
    }

    proptest! {
        #[test]
        fn a_written_range_is_read_back(start in 0_u64..1 << 40, length in 1_u64..1 << 30) {
            let range = ByteRange::between(start, start + length);
            let text = range_header(range).expect("is not empty");
            let parsed = RangeHeader::parse(&text).expect("is a range");
            prop_assert_eq!(parsed.within(u64::MAX), Ok(range));
            prop_assert_eq!(parsed.length(), Some(length));
        }

        #[test]
        fn no_range_makes_the_parser_panic(text in "(bytes=)?.{0,40}") {
            if let Some(range) = RangeHeader::parse(&text) {
                range.within(1000).ok();
                range.pages().ok();
                range.length();
            }
        }
    }
}
