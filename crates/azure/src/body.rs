//! The body of a request: how long it is, how it is checked, and reading it in parts.

use crate::{
    Checksum, ChecksumKind, Checksums, Code, Headers, Refusal, Version,
    checksum::{parse_crc64, parse_md5},
    structured::{Decoder, is_structured},
};

/// The body that an operation needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Bytes of content.
    pub length: u64,
    /// Bytes that come over the wire: more than `length` in a structured body.
    pub wire_length: u64,
    /// The checksum that the request gives, and that [`BodyReader`] checks.
    pub checksum: Option<Checksum>,
    /// Whether it is a structured body, and the answer says so.
    pub is_structured: bool,
    /// The kind of checksum that the answer gives.
    pub answered: ChecksumKind,
    /// Whether the MD5 of the content is wanted in any case, because it becomes a property of the blob.
    pub keeps_md5: bool,
}

impl Body {
    /// Reads the headers of a body of at most `limit` bytes of content.
    pub(crate) fn parse(headers: &Headers, version: Version, limit: u64) -> Result<Self, Refusal> {
        let wire_length =
            headers.number("content-length")?.ok_or(Code::MissingContentLengthHeader)?;
        let checksum = Checksum::of_body(headers)?;
        let form = headers.get("x-ms-structured-body");
        if let Some(form) = form.filter(|form| !is_structured(form)) {
            return Err(Refusal::header("x-ms-structured-body", form));
        }
        let length = if form.is_some() {
            if checksum.is_some() {
                return Err(Refusal::unsupported("x-ms-structured-body")
                    .with("Reason", "A structured body has its own checksums."));
            }
            let name = "x-ms-structured-content-length";
            headers.number(name)?.ok_or_else(|| Refusal::missing(name))?
        } else {
            wire_length
        };
        if length > limit {
            return Err(Refusal::new(Code::RequestBodyTooLarge).with("MaxLimit", limit.to_string()));
        }
        if form.is_some() {
            Decoder::new(wire_length, length)?;
        }
        Ok(Self {
            length,
            wire_length,
            checksum,
            is_structured: form.is_some(),
            answered: Checksum::answered(checksum, version),
            keeps_md5: false,
        })
    }

    /// Like [`Body::parse`], for a whole blob: its MD5 is kept, and `x-ms-blob-content-md5` is checked, too.
    pub(crate) fn parse_blob(
        headers: &Headers,
        version: Version,
        limit: u64,
    ) -> Result<Self, Refusal> {
        let name = "x-ms-blob-content-md5";
        let md5 = parse_md5(headers, name)?;
        if md5.is_some() && parse_crc64(headers, "x-ms-content-crc64")?.is_some() {
            return Err(Code::BothCrc64AndMsMd5HeaderPresent.into());
        }
        let mut body = Self::parse(headers, version, limit)?;
        body.keeps_md5 = true;
        if let (None, Some(md5)) = (body.checksum, md5) {
            body.checksum = Some(Checksum::Md5(md5));
        }
        Ok(body)
    }

    /// Reads the body in parts.
    pub fn reader(&self) -> Result<BodyReader, Refusal> {
        let mut kinds = vec![];
        if self.keeps_md5
            || self.answered == ChecksumKind::Md5
            || matches!(self.checksum, Some(Checksum::Md5(_)))
        {
            kinds.push(ChecksumKind::Md5);
        }
        // The decoder of a structured body computes the CRC-64 itself.
        if !self.is_structured
            && (self.answered == ChecksumKind::Crc64
                || matches!(self.checksum, Some(Checksum::Crc64(_))))
        {
            kinds.push(ChecksumKind::Crc64);
        }
        let decoder = if self.is_structured {
            Some(Decoder::new(self.wire_length, self.length)?)
        } else {
            None
        };
        Ok(BodyReader {
            body: self.clone(),
            decoder,
            checksums: Checksums::new(kinds),
            received: 0,
        })
    }
}

/// Takes the bytes of a body as they come, gives out its content, and checks it at its end. Content is proved only
/// when [`BodyReader::finish`] succeeds.
#[derive(Clone, Debug)]
pub struct BodyReader {
    body: Body,
    decoder: Option<Decoder>,
    checksums: Checksums,
    received: u64,
}

/// What is known of a body that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The checksum for the answer.
    pub checksum: Option<Checksum>,
    /// The MD5 of the content, if the body keeps it.
    pub md5: Option<[u8; 16]>,
    /// Whether the answer must say that the body was structured.
    pub is_structured: bool,
}

impl BodyReader {
    /// Takes the next bytes and gives their content to `sink`. More bytes than were declared are refused.
    pub fn take(&mut self, bytes: &[u8], mut sink: impl FnMut(&[u8])) -> Result<(), Refusal> {
        self.received =
            self.received.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if self.received > self.body.wire_length {
            return Err(Code::RequestBodyTooLarge.into());
        }
        let checksums = &mut self.checksums;
        if let Some(decoder) = &mut self.decoder {
            return decoder.decode(bytes, |content| {
                checksums.update(content);
                sink(content);
            });
        }
        checksums.update(bytes);
        sink(bytes);
        Ok(())
    }

    /// Checks that the body is whole and has its checksum.
    pub fn finish(self) -> Result<Received, Refusal> {
        if self.received != self.body.wire_length {
            return Err(Refusal::new(Code::InvalidInput)
                .with("Reason", "The body is shorter than its Content-Length."));
        }
        if let Some(expected) = self.body.checksum {
            self.checksums.check(expected)?;
        }
        let crc64 = self.decoder.map(Decoder::finish).transpose()?.map(Checksum::Crc64);
        let checksum = match self.body.answered {
            ChecksumKind::Crc64 => crc64.or_else(|| self.checksums.get(ChecksumKind::Crc64)),
            ChecksumKind::Md5 => self.checksums.get(ChecksumKind::Md5),
        };
        let md5 = match self.checksums.get(ChecksumKind::Md5) {
            Some(Checksum::Md5(md5)) if self.body.keeps_md5 => Some(md5),
            _ => None,
        };
        Ok(Received { checksum, md5, is_structured: self.body.is_structured })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checksum::{crc64, encode_crc64, md5},
        structured::{Encoder, STRUCTURED},
    };

    fn read(headers: &[(&str, &str)], bytes: &[u8]) -> Result<(Vec<u8>, Received), Code> {
        let headers = Headers::of(headers.iter().copied()).expect("headers");
        let run = || {
            let mut reader = Body::parse(&headers, Version::OURS, 4096)?.reader()?;
            let mut content = Vec::new();
            for part in bytes.chunks(5) {
                reader.take(part, |bytes| content.extend_from_slice(bytes))?;
            }
            Ok((content, reader.finish()?))
        };
        run().map_err(|refusal: Refusal| refusal.code())
    }

    #[test]
    fn a_plain_body_is_answered_with_its_checksum() {
        let crc = Checksum::Crc64(crc64(b"hello"));
        let (content, received) = read(&[("content-length", "5")], b"hello").expect("is fine");
        assert_eq!((content.as_slice(), received.checksum), (&b"hello"[..], Some(crc)));
        let md5 = Checksum::Md5(md5(b"hello"));
        let (name, value) = md5.to_header();
        let (_, received) =
            read(&[("content-length", "5"), (name, &value)], b"hello").expect("is fine");
        assert_eq!(received.checksum, Some(md5));
        let wrong = encode_crc64(1);
        let refused = read(&[("content-length", "5"), ("x-ms-content-crc64", &wrong)], b"hello");
        assert_eq!(refused, Err(Code::Crc64Mismatch));
    }

    #[test]
    fn a_structured_body_is_decoded() {
        let mut body = Vec::new();
        let mut encoder = Encoder::new(5);
        encoder.encode(b"hello", &mut body);
        assert!(encoder.finish(&mut body));
        let length = body.len().to_string();
        let headers = [
            ("content-length", length.as_str()),
            ("x-ms-structured-body", STRUCTURED),
            ("x-ms-structured-content-length", "5"),
        ];
        let (content, received) = read(&headers, &body).expect("is fine");
        assert_eq!(content, b"hello");
        assert_eq!(received.checksum, Some(Checksum::Crc64(crc64(b"hello"))));
        assert!(received.is_structured);
        assert_eq!(read(&headers[..2], &body), Err(Code::MissingRequiredHeader));
        body[30] ^= 1;
        assert!(read(&headers, &body).is_err());
    }

    #[test]
    fn bodies_of_another_length_are_refused() {
        assert_eq!(read(&[("content-length", "5")], b"hell"), Err(Code::InvalidInput));
        assert_eq!(read(&[("content-length", "5")], b"hello!"), Err(Code::RequestBodyTooLarge));
        assert_eq!(read(&[("content-length", "4097")], b""), Err(Code::RequestBodyTooLarge));
        assert_eq!(read(&[], b""), Err(Code::MissingContentLengthHeader));
        assert_eq!(read(&[("content-length", "-1")], b""), Err(Code::InvalidHeaderValue));
    }
}
